//! Background work between commits: sealing full segments and dropping old ones, in slices of bounded size.
//!
//! Sealing a segment writes every message that ended in it as one row without its text (`closed_N`, in key order), carries
//! the open ones forward, and drops the segment's journal. Every slice is one transaction and can be repeated, so a crash
//! at any point only repeats work.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::{Fence, Pos, SqliteStore, StoreError, fault, recover, schema};
use crate::domain::tariff::tax_in;
use crate::ids::MessageKey;
use crate::kill;
use crate::store::Progress;

/// Rows per slice: about 3 ms of work, so that sealing never costs a commit more than that.
const SLICE: usize = 500;

/// A segment being sealed.
#[derive(Debug)]
pub(super) struct Sealing {
    number: i64,
    /// (key, position of its final row), by key.
    finals: Vec<(MessageKey, Pos)>,
    /// Latest `sent` row of each message that ended here.
    sent: HashMap<u64, u64>,
    /// Steps of messages that did not.
    open_sent: Vec<u64>,
    open_marks: Vec<u64>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Closing `finals[n..]`.
    Closing(usize),
    /// Carrying open messages with a key above this one forward.
    Carrying(i64),
    /// Updating carried messages of earlier segments that were sent or marked here.
    Updating,
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
            Some((number, _)) => store.sealing = Some(begin(&store.conn, *number).map_err(fault)?),
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
            store.sealing = Some(job);
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

fn begin(conn: &Connection, number: i64) -> rusqlite::Result<Sealing> {
    conn.execute_batch(&schema::closed_tables(number))?;
    let pairs = |sql: String| -> rusqlite::Result<Vec<(u64, u64)>> {
        conn.prepare(&sql)?
            .query_map([], |r| {
                Ok((r.get::<_, i64>(0)? as u64, r.get::<_, i64>(1)? as u64))
            })?
            .collect()
    };
    let mut finals: Vec<(MessageKey, Pos)> = pairs(format!("SELECT key, pos FROM final_{number}"))?
        .into_iter()
        .map(|(k, p)| (MessageKey(k), Pos(p)))
        .collect();
    finals.sort_unstable();
    let ended = |key: u64| finals.binary_search_by_key(&key, |(k, _)| k.0).is_ok();
    let (mut sent, mut open_sent) = (HashMap::new(), Vec::new());
    for (key, pos) in pairs(format!("SELECT key, pos FROM sent_{number} ORDER BY pos"))? {
        if ended(key) {
            sent.insert(key, pos);
        } else {
            open_sent.push(pos);
        }
    }
    let open_marks = pairs(format!("SELECT key, pos FROM mark_{number}"))?
        .into_iter()
        .filter(|(key, _)| !ended(*key))
        .map(|(_, pos)| pos)
        .collect();
    Ok(Sealing {
        number,
        finals,
        sent,
        open_sent,
        open_marks,
        totals: HashMap::new(),
        tax: super::money::tax_rates(conn)?,
        were_carried: Vec::new(),
        newest: 0,
        stage: Stage::Closing(0),
    })
}

/// One slice; `Ok(true)` when the segment is done.
fn slice(conn: &mut Connection, job: &mut Sealing) -> Result<bool, StoreError> {
    let tx = conn.transaction().map_err(fault)?;
    let next = match job.stage {
        Stage::Closing(from) => close(&tx, job, from)?,
        Stage::Carrying(after) => carry(&tx, job, after)?,
        Stage::Updating => update(&tx, job).map_err(fault)?,
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

fn close(tx: &Transaction<'_>, job: &mut Sealing, from: usize) -> Result<Stage, StoreError> {
    let n = job.number;
    let slice: Vec<_> = job.finals.iter().skip(from).take(SLICE).copied().collect();
    for (key, pos) in &slice {
        let end = tx
            .prepare_cached(&format!("SELECT * FROM final_{n} WHERE pos = ?1"))
            .and_then(|mut s| s.query_row([pos.0 as i64], recover::finished).optional())
            .map_err(fault)?
            .flatten();
        let (Some(end), Some((begin, sent, carried))) = (end, origin(tx, job, *key)?) else {
            continue;
        };
        let total = job.totals.entry(begin.account.0).or_default();
        let tax = tax_in(end.charged, job.tax.get(&begin.tariff).copied().unwrap_or(0));
        *total = (total.0 + 1, total.1 + end.charged.0, total.2 + tax.0);
        job.newest = job.newest.max(end.at_ms as i64);
        if carried {
            job.were_carried.push(key.0 as i64);
        }
        // What is left of a message once it is over: its addresses, not its text.
        let stub = begin.message.stub().without_text();
        tx.prepare_cached(&format!(
            "INSERT OR REPLACE INTO closed_{n} VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)"
        ))
        .and_then(|mut s| {
            s.execute((
                key.0 as i64,
                begin.account.0,
                begin.at_ms as i64,
                end.at_ms as i64,
                begin.segments,
                begin.price.0,
                end.charged.0,
                begin.tariff,
                begin.charge_on as u8 | (begin.wants as u8) << 2,
                end.state.code(),
                end.err,
                sent.0,
                sent.1,
                &*sent.2,
                stub.record(),
            ))
        })
        .map_err(fault)?;
        tx.prepare_cached(&format!(
            "INSERT OR REPLACE INTO closed_account_{n} VALUES(?1, ?2)"
        ))
        .and_then(|mut s| s.execute((begin.account.0, key.0 as i64)))
        .map_err(fault)?;
    }
    let done = from + slice.len();
    Ok(if done >= job.finals.len() {
        Stage::Carrying(i64::MIN)
    } else {
        Stage::Closing(done)
    })
}

type SentInfo = (u16, i64, Box<[u8]>);

/// The accepted row of a message that ended in this segment, who took it, and whether it was carried here.
fn origin(
    tx: &Transaction<'_>,
    job: &Sealing,
    key: MessageKey,
) -> Result<Option<(crate::store::Accepted, SentInfo, bool)>, StoreError> {
    let n = job.number;
    let mut was_carried = false;
    let mut row = None;
    for (table, carried) in [(format!("accepted_{n}"), false), ("carried".to_string(), true)] {
        let mut stmt = tx
            .prepare_cached(&format!("SELECT * FROM {table} WHERE key = ?1"))
            .map_err(fault)?;
        let mut rows = stmt.query([key.0 as i64]).map_err(fault)?;
        if let Some(r) = rows.next().map_err(fault)? {
            row = Some(recover::accepted(r)?);
            was_carried = carried;
            break;
        }
    }
    let Some(row) = row else { return Ok(None) };
    let read = |r: &rusqlite::Row<'_>| -> rusqlite::Result<SentInfo> {
        Ok((r.get(0)?, r.get(1)?, r.get_ref(2)?.as_blob()?.into()))
    };
    let sent = match job.sent.get(&key.0) {
        Some(pos) => tx
            .prepare_cached(&format!(
                "SELECT upstream, at, smsc_id FROM sent_{n} WHERE pos = ?1"
            ))
            .and_then(|mut s| s.query_row([*pos as i64], read).optional())
            .map_err(fault)?,
        None if was_carried => tx
            .prepare_cached(
                "SELECT upstream, at, smsc_id FROM carried_sent WHERE key = ?1 ORDER BY pos DESC LIMIT 1",
            )
            .and_then(|mut s| s.query_row([key.0 as i64], read).optional())
            .map_err(fault)?,
        None => None,
    };
    Ok(Some((
        row,
        sent.unwrap_or((u16::MAX, 0, Box::default())),
        was_carried,
    )))
}

fn carry(tx: &Transaction<'_>, job: &Sealing, after: i64) -> Result<Stage, StoreError> {
    let n = job.number;
    let keys: Vec<i64> = tx
        .prepare_cached(&format!(
            "SELECT key FROM accepted_{n} WHERE key > ?1 ORDER BY key LIMIT ?2"
        ))
        .and_then(|mut s| s.query_map((after, SLICE as i64), |r| r.get(0))?.collect())
        .map_err(fault)?;
    let Some(&last) = keys.last() else {
        return Ok(Stage::Updating);
    };
    for key in keys {
        let id = MessageKey(key as u64);
        let at = job.finals.partition_point(|(k, _)| *k < id);
        if job.finals.get(at).is_some_and(|(k, _)| *k == id) {
            continue;
        }
        tx.prepare_cached(&format!(
            "INSERT OR IGNORE INTO carried SELECT * FROM accepted_{n} WHERE key = ?1"
        ))
        .and_then(|mut s| s.execute([key]))
        .map_err(fault)?;
    }
    Ok(Stage::Carrying(last))
}

/// Takes the steps of still open messages along. Open messages are few beside closed ones, so this is one slice.
fn update(tx: &Transaction<'_>, job: &Sealing) -> rusqlite::Result<Stage> {
    let n = job.number;
    for (table, positions) in [("sent", &job.open_sent), ("mark", &job.open_marks)] {
        for pos in positions {
            tx.prepare_cached(&format!(
                "INSERT OR IGNORE INTO carried_{table} SELECT * FROM {table}_{n} WHERE pos = ?1"
            ))?
            .execute([*pos as i64])?;
        }
    }
    Ok(Stage::Finishing)
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
