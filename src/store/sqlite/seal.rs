//! Background work between commits: sealing full segments and dropping old ones, in slices of bounded size.
//!
//! Sealing a segment writes every message that ended in it as one row without its text (`closed_N`, in key order), carries
//! the open ones forward, and drops the segment's journal. Every slice is one transaction and can be repeated, so a crash
//! at any point only repeats work.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::{Fence, SqliteStore, StoreError, fault, recover, schema};
use crate::domain::tariff::tax_in;
use crate::ids::UpstreamId;
use crate::kill;
use crate::money::Money;
use crate::store::{Accepted, Progress};

/// Rows written in a slice: about 2 ms of work, so that sealing never costs a commit more than that.
const SLICE: usize = 500;
/// Rows read in a slice that writes nothing.
const READ: usize = 5_000;

/// A segment being sealed.
#[derive(Debug)]
pub(super) struct Sealing {
    number: i64,
    /// How the messages ended that ended here, by key once all are read.
    ends: Vec<End>,
    /// The SMSC's ids of `ends`, one behind the other.
    ids: Vec<u8>,
    /// Positions of the steps of messages that did not.
    open_sent: Vec<i64>,
    open_marks: Vec<i64>,
    /// Messages closed so far, what they cost, and how much of that was tax, by account.
    totals: HashMap<u32, (i64, i64, i64)>,
    /// Tax in hundredths of a percent by tariff version.
    tax: HashMap<u32, u32>,
    /// Messages closed so far that had been carried here from an earlier segment.
    were_carried: Vec<i64>,
    /// When the last of them ended.
    newest: i64,
    stage: Stage,
}

/// The end of a message, and who had taken it last. There are as many as messages in a segment: nothing of them is allocated by
/// itself.
#[derive(Debug)]
struct End {
    key: i64,
    at: i64,
    charged: i64,
    sent_at: i64,
    /// Where its id is in `ids`.
    id: u32,
    id_len: u8,
    state: u8,
    err: u16,
    upstream: UpstreamId,
}

/// Memory that sealing needs, kept from one segment for the next: given back and taken anew it would come back in pieces.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    ends: Vec<End>,
    ids: Vec<u8>,
}

/// Upstream, time, and the SMSC's id.
type SentInfo = (u16, i64, Box<[u8]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Reading how messages ended, behind this position.
    Ends(i64),
    /// Reading who took them, behind this position.
    Sents(i64),
    /// Reading the steps of those that are open, behind this position.
    Marks(i64),
    /// Closing or carrying the messages with a key above this one.
    Own(i64),
    /// Closing carried messages of earlier segments: `ends[n..]`.
    Carried(usize),
    /// Taking along the steps of those that stay open: `open_sent[n..]`, then `open_marks`.
    Steps(usize),
    /// The catalogue: from here on the segment is sealed and its journal is not looked at any more.
    Finishing,
}

/// A segment is closed after a day at the latest, so that retention and sealing follow time where traffic is low.
const DAY_MS: u64 = 86_400_000;

pub(super) fn maintain(store: &mut SqliteStore, _fence: Fence, now_ms: u64) -> Result<Progress, StoreError> {
    if store.live_rows > 0 && now_ms >= store.live_opened_ms + DAY_MS {
        store.try_rotate()?;
    }
    if store.sealing.is_none() {
        match store.waiting.first() {
            Some((number, _)) => {
                let scratch = std::mem::take(&mut store.scratch);
                store.sealing = Some(begin(&store.conn, *number, scratch).map_err(fault)?);
            }
            None => return idle(store, now_ms).map_err(|e| store.fault(e)),
        }
    }
    let Some(mut job) = store.sealing.take() else {
        return Ok(Progress::Idle);
    };
    let done = slice(&mut store.conn, &mut job);
    match done {
        Ok(true) => {
            store.leftovers = true;
            store.waiting.retain(|(n, _)| *n != job.number);
            job.ends.clear();
            job.ids.clear();
            store.scratch = Scratch {
                ends: job.ends,
                ids: job.ids,
            };
            Ok(Progress::More)
        }
        Ok(false) => {
            store.sealing = Some(job);
            Ok(Progress::More)
        }
        Err(e) => {
            if !store.conn.is_autocommit() {
                let _closed = store.conn.execute_batch("ROLLBACK");
            }
            // What it had gathered may be more than what was written: it begins anew, and writes what is there once more.
            job.ends.clear();
            job.ids.clear();
            store.scratch = Scratch {
                ends: job.ends,
                ids: job.ids,
            };
            match e {
                // No room to seal: the journal stays as it is, which is whole in itself.
                StoreError::Full(_) | StoreError::Retry(_) => Ok(Progress::Idle),
                other => Err(other),
            }
        }
    }
}

/// What is left to do when no segment waits.
fn idle(store: &mut SqliteStore, now_ms: u64) -> rusqlite::Result<Progress> {
    if store.leftovers {
        match leftover(&store.conn)? {
            Some(table) => {
                store.conn.execute_batch(&format!("DROP TABLE {table}"))?;
                return Ok(Progress::More);
            }
            None => store.leftovers = false,
        }
    }
    retention(store, now_ms)
}

fn begin(conn: &Connection, number: i64, scratch: Scratch) -> rusqlite::Result<Sealing> {
    conn.execute_batch(&schema::closed_tables(number))?;
    Ok(Sealing {
        number,
        ends: scratch.ends,
        ids: scratch.ids,
        open_sent: Vec::new(),
        open_marks: Vec::new(),
        totals: HashMap::new(),
        tax: super::money::tax_rates(conn)?,
        were_carried: Vec::new(),
        newest: 0,
        stage: Stage::Ends(0),
    })
}

/// One slice; `Ok(true)` when the segment is done.
fn slice(conn: &mut Connection, job: &mut Sealing) -> Result<bool, StoreError> {
    let tx = conn.transaction().map_err(fault)?;
    let next = match job.stage {
        Stage::Ends(after) => read_ends(&tx, job, after).map_err(fault)?,
        Stage::Sents(after) => read_sents(&tx, job, after).map_err(fault)?,
        Stage::Marks(after) => read_marks(&tx, job, after).map_err(fault)?,
        Stage::Own(after) => own(&tx, job, after)?,
        Stage::Carried(from) => carried(&tx, job, from)?,
        Stage::Steps(from) => steps(&tx, job, from).map_err(fault)?,
        Stage::Finishing => {
            finish(&tx, job).map_err(fault)?;
            kill::point("seal.slice");
            tx.commit().map_err(fault)?;
            return Ok(true);
        }
    };
    kill::point("seal.slice");
    tx.commit().map_err(fault)?;
    job.stage = next;
    Ok(false)
}

/// Rows of a journal table behind a position, at most [`READ`]: `on` is given each; the last position, if there were any.
fn behind(
    conn: &Connection,
    table: &str,
    columns: &str,
    after: i64,
    mut on: impl FnMut(i64, &rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<Option<i64>> {
    let mut stmt = conn.prepare_cached(&format!(
        "SELECT pos, key{columns} FROM {table} WHERE pos > ?1 ORDER BY pos LIMIT ?2"
    ))?;
    let mut rows = stmt.query((after, READ as i64))?;
    let mut last = None;
    while let Some(r) = rows.next()? {
        let pos = r.get(0)?;
        on(pos, r)?;
        last = Some(pos);
    }
    Ok(last)
}

fn read_ends(conn: &Connection, job: &mut Sealing, after: i64) -> rusqlite::Result<Stage> {
    let ends = &mut job.ends;
    let table = format!("final_{}", job.number);
    let last = behind(conn, &table, ", at, charged, state, err", after, |_, r| {
        ends.push(End {
            key: r.get(1)?,
            at: r.get(2)?,
            charged: r.get(3)?,
            state: r.get(4)?,
            err: r.get(5)?,
            upstream: UpstreamId::NONE,
            sent_at: 0,
            id: 0,
            id_len: 0,
        });
        Ok(())
    })?;
    Ok(match last {
        Some(pos) => Stage::Ends(pos),
        None => {
            job.ends.sort_unstable_by_key(|e| e.key);
            Stage::Sents(0)
        }
    })
}

fn read_sents(conn: &Connection, job: &mut Sealing, after: i64) -> rusqlite::Result<Stage> {
    let (ends, ids, open) = (&mut job.ends, &mut job.ids, &mut job.open_sent);
    let table = format!("sent_{}", job.number);
    let last = behind(conn, &table, ", upstream, at, smsc_id", after, |pos, r| {
        let key: i64 = r.get(1)?;
        match ends
            .binary_search_by_key(&key, |e| e.key)
            .ok()
            .and_then(|at| ends.get_mut(at))
        {
            // The latest counts.
            Some(end) => {
                let id = r.get_ref(4)?.as_blob()?;
                end.upstream = UpstreamId(r.get(2)?);
                end.sent_at = r.get(3)?;
                end.id = ids.len() as u32;
                end.id_len = id.len().min(255) as u8;
                ids.extend_from_slice(id.get(..usize::from(end.id_len)).unwrap_or(id));
            }
            None => open.push(pos),
        }
        Ok(())
    })?;
    Ok(last.map_or(Stage::Marks(0), Stage::Sents))
}

fn read_marks(conn: &Connection, job: &mut Sealing, after: i64) -> rusqlite::Result<Stage> {
    let (ends, open) = (&job.ends, &mut job.open_marks);
    let table = format!("mark_{}", job.number);
    let last = behind(conn, &table, "", after, |pos, r| {
        let key: i64 = r.get(1)?;
        if ends.binary_search_by_key(&key, |e| e.key).is_err() {
            open.push(pos);
        }
        Ok(())
    })?;
    Ok(last.map_or(Stage::Own(i64::MIN), Stage::Marks))
}

/// Messages accepted in this segment: those that ended here are closed, the others carried forward.
fn own(tx: &Transaction<'_>, job: &mut Sealing, after: i64) -> Result<Stage, StoreError> {
    let n = job.number;
    let mut stmt = tx
        .prepare_cached(&format!(
            "SELECT * FROM accepted_{n} WHERE key > ?1 ORDER BY key LIMIT ?2"
        ))
        .map_err(fault)?;
    let mut rows = stmt.query((after, SLICE as i64)).map_err(fault)?;
    let mut last = None;
    while let Some(r) = rows.next().map_err(fault)? {
        let begin = recover::accepted(r)?;
        let key = begin.key.0 as i64;
        last = Some(key);
        match job.ends.binary_search_by_key(&key, |e| e.key) {
            Ok(at) => close(tx, job, at, &begin, None).map_err(fault)?,
            Err(_) => {
                tx.prepare_cached(&format!(
                    "INSERT OR IGNORE INTO carried SELECT * FROM accepted_{n} WHERE key = ?1"
                ))
                .and_then(|mut s| s.execute([key]))
                .map_err(fault)?;
            }
        }
    }
    Ok(last.map_or(Stage::Carried(0), Stage::Own))
}

/// Messages that had been carried here and ended: their keys are below those of the segment's own.
fn carried(tx: &Transaction<'_>, job: &mut Sealing, from: usize) -> Result<Stage, StoreError> {
    let n = job.number;
    let first: i64 = tx
        .query_row(&format!("SELECT MIN(key) FROM accepted_{n}"), [], |r| r.get(0))
        .map(|key: Option<i64>| key.unwrap_or(i64::MAX))
        .map_err(fault)?;
    let upto = job.ends.partition_point(|e| e.key < first).min(from + SLICE);
    for at in from..upto {
        let Some(key) = job.ends.get(at).map(|e| e.key) else {
            break;
        };
        let mut stmt = tx
            .prepare_cached("SELECT * FROM carried WHERE key = ?1")
            .map_err(fault)?;
        let mut rows = stmt.query([key]).map_err(fault)?;
        let Some(r) = rows.next().map_err(fault)? else {
            continue;
        };
        let begin = recover::accepted(r)?;
        let sent = tx
            .prepare_cached(
                "SELECT upstream, at, smsc_id FROM carried_sent WHERE key = ?1 ORDER BY pos DESC LIMIT 1",
            )
            .and_then(|mut s| {
                s.query_row([key], |r| {
                    Ok((r.get(0)?, r.get(1)?, r.get_ref(2)?.as_blob()?.into()))
                })
                .optional()
            })
            .map_err(fault)?;
        close(tx, job, at, &begin, sent).map_err(fault)?;
        job.were_carried.push(key);
    }
    Ok(if upto < from + SLICE {
        Stage::Steps(0)
    } else {
        Stage::Carried(upto)
    })
}

/// Writes what is left of a message once it is over; `sent_before`: who had taken it in an earlier segment.
fn close(
    tx: &Transaction<'_>,
    job: &mut Sealing,
    at: usize,
    begin: &Accepted,
    sent_before: Option<SentInfo>,
) -> rusqlite::Result<()> {
    let n = job.number;
    let Some(end) = job.ends.get(at) else {
        return Ok(());
    };
    let total = job.totals.entry(begin.account.0).or_default();
    let tax = tax_in(
        Money(end.charged),
        job.tax.get(&begin.tariff).copied().unwrap_or(0),
    );
    *total = (total.0 + 1, total.1 + end.charged, total.2 + tax.0);
    job.newest = job.newest.max(end.at);
    let id = (end.id as usize)..(end.id as usize + usize::from(end.id_len));
    let here = (end.upstream.0, end.sent_at, job.ids.get(id).unwrap_or(&[]));
    let sent = match &sent_before {
        Some((upstream, at, id)) if end.upstream == UpstreamId::NONE => (*upstream, *at, &**id),
        _ => here,
    };
    // Its addresses, not its text.
    let stub = begin.message.stub().without_text();
    tx.prepare_cached(&format!(
        "INSERT OR REPLACE INTO closed_{n} VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)"
    ))?
    .execute((
        end.key,
        begin.account.0,
        begin.at_ms as i64,
        end.at,
        begin.segments,
        begin.price.0,
        end.charged,
        begin.tariff,
        begin.charge_on as u8 | (begin.wants as u8) << 2,
        end.state,
        end.err,
        sent.0,
        sent.1,
        sent.2,
        stub.record(),
    ))?;
    tx.prepare_cached(&format!(
        "INSERT OR REPLACE INTO closed_account_{n} VALUES(?1, ?2)"
    ))?
    .execute((begin.account.0, end.key))?;
    Ok(())
}

/// Takes the steps of messages along that stay open. There may be as many as messages: SMSCs whose receipts take hours.
fn steps(tx: &Transaction<'_>, job: &Sealing, from: usize) -> rusqlite::Result<Stage> {
    let n = job.number;
    let sents = job.open_sent.iter().map(|pos| ("sent", pos));
    let marks = job.open_marks.iter().map(|pos| ("mark", pos));
    let mut done = from;
    for (table, pos) in sents.chain(marks).skip(from).take(SLICE) {
        tx.prepare_cached(&format!(
            "INSERT OR IGNORE INTO carried_{table} SELECT * FROM {table}_{n} WHERE pos = ?1"
        ))?
        .execute([pos])?;
        done += 1;
    }
    Ok(if done < from + SLICE {
        Stage::Finishing
    } else {
        Stage::Steps(done)
    })
}

fn finish(tx: &Transaction<'_>, job: &Sealing) -> rusqlite::Result<()> {
    let n = job.number;
    for key in &job.were_carried {
        for table in ["carried", "carried_sent", "carried_mark"] {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE key = ?1"))?
                .execute([key])?;
        }
    }
    for (account, (count, charged, tax)) in &job.totals {
        tx.prepare_cached("INSERT OR REPLACE INTO segment_total VALUES(?1, ?2, ?3, ?4, ?5)")?
            .execute((n, account, count, charged, tax))?;
    }
    tx.execute(
        "UPDATE segment SET state = 2, newest = ?2 WHERE number = ?1",
        (n, job.newest),
    )?;
    // The ledger up to here is folded into each wallet's base, so that the check at start stays short.
    tx.execute_batch(
        "UPDATE wallet SET base = balance, base_entry = COALESCE((SELECT MAX(entry) FROM ledger), 0)",
    )
}

/// A journal table of a sealed segment, if one is left. They go one a slice: dropping a large one takes a while.
fn leftover(conn: &Connection) -> rusqlite::Result<Option<String>> {
    conn.query_row(
        "SELECT t.name FROM sqlite_schema t, segment s WHERE t.type = 'table' AND s.state = 2
           AND t.name IN ('accepted_' || s.number, 'sent_' || s.number, 'mark_' || s.number, 'final_' || s.number)
         LIMIT 1",
        [],
        |r| r.get(0),
    )
    .optional()
}

/// Drops sealed segments whose newest message is past `keep_days`.
fn retention(store: &mut SqliteStore, now_ms: u64) -> rusqlite::Result<Progress> {
    let days = u64::from(store.options.keep_days);
    if days == 0 {
        return Ok(Progress::Idle);
    }
    let before = now_ms.saturating_sub(days * 86_400_000) as i64;
    let old: Option<i64> = store
        .conn
        .query_row(
            "SELECT number FROM segment WHERE state = 2 AND newest < ?1 ORDER BY number LIMIT 1",
            [before],
            |r| r.get(0),
        )
        .optional()?;
    let Some(n) = old else {
        return Ok(Progress::Idle);
    };
    let tx = store.conn.transaction()?;
    tx.execute_batch(&format!(
        "DROP TABLE IF EXISTS closed_{n}; DROP TABLE IF EXISTS closed_account_{n}"
    ))?;
    tx.execute("DELETE FROM segment WHERE number = ?1", [n])?;
    kill::point("retention.drop");
    tx.commit()?;
    Ok(Progress::More)
}
