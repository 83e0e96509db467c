//! The group commit.

use std::collections::HashMap;

use rusqlite::{CachedStatement, Connection};

use super::{Fence, Owned, Pos, SqliteStore, StoreError, recover, schema};
use crate::domain::account::Account;
use crate::store::{ADJUST, Accepted, Batch, Finished, Mark, Posting, Sent};

/// Rows per statement: one statement of 16 rows costs a fifth less than 16 of one (see `benches/README.md`).
const ROWS: usize = 16;

impl SqliteStore {
    pub(super) fn take_over(&mut self) -> Result<Owned, StoreError> {
        self.name_store()?;
        let begin = |store: &mut SqliteStore| -> rusqlite::Result<(u32, i64, i64)> {
            let tx = store.conn.transaction()?;
            let (epoch, pos, running): (u32, i64, i64) = tx.query_row(
                "SELECT epoch, next_pos, running FROM node WHERE shard = 0",
                [],
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
            )?;
            // Above every epoch ever taken here, so that no id is given out twice even from an older copy.
            let mut epoch = epoch.max(store.noted.epoch) + 1;
            if running == schema::COPY {
                // And of a copy nobody knows how often its original has been started since, or the same copy elsewhere.
                let jump = "SELECT 1000 + abs(random() % 4000)";
                epoch += tx.query_row(jump, [], |r| r.get::<_, u32>(0))?;
            }
            tx.execute(
                "UPDATE node SET epoch = ?1, batch = 0, running = ?2 WHERE shard = 0",
                (epoch, store.noted.store),
            )?;
            tx.commit()?;
            Ok((epoch, pos, running))
        };
        let (epoch, pos, running) = begin(self).map_err(|e| self.fault(e))?;
        self.note_epoch(epoch)?;
        self.live_pos = pos as u64;
        Ok(Owned {
            fence: Fence { shard: 0, epoch },
            next_pos: Pos(pos as u64),
            unclean: running != 0,
        })
    }

    /// Draws the store's number if it has none, and sees to it that it is noted before it is on record: the other way round,
    /// a crash in between would look like the log of another store.
    fn name_store(&mut self) -> Result<(), StoreError> {
        if self.noted.store == 0 {
            let draw = "SELECT (random() & 0x3FFFFFFFFFFFFFFF) | 2";
            let drawn = self.conn.query_row(draw, [], |r| r.get(0));
            self.noted.store = drawn.map_err(|e| self.fault(e))?;
        }
        let known = self.lock.read().map_err(|e| unnoted(&e))?.store;
        if known != self.noted.store {
            self.note_epoch(self.noted.epoch)?;
        }
        Ok(())
    }

    /// Before any id of the epoch is given out. The note is always synced, so the epoch must be as well, whatever the
    /// durability: a power cut would otherwise leave a store that is older than its note, and is refused.
    fn note_epoch(&mut self, epoch: u32) -> Result<(), StoreError> {
        if !self.options.full {
            self.move_log(false).map_err(|e| self.fault(e))?;
        }
        self.noted.epoch = epoch;
        self.lock.note(self.noted).map_err(|e| unnoted(&e))
    }

    pub(super) fn write(&mut self, fence: Fence, batch: &Batch) -> Result<(), StoreError> {
        let done = self.transaction(fence, batch);
        let failed = matches!(done, Err(StoreError::Fatal(_)));
        if done.is_err() && !failed && !self.conn.is_autocommit() {
            // A failed COMMIT may leave the transaction open; the next batch must not land in it.
            let _closed = self.conn.execute_batch("ROLLBACK");
        }
        if matches!(done, Ok(true)) {
            if let Some(epoch) = batch.next_epoch {
                self.note_epoch(epoch)?;
            }
            if let (0, Some(first)) = (self.live_opened_ms, batch.accepted.first()) {
                self.live_opened_ms = first.at_ms;
            }
            self.live_rows += batch.accepted.len() as u64;
            self.live_pos = self.live_pos.max(last_pos(batch) + 1);
            if self.live_rows >= self.options.segment_messages {
                self.try_rotate()?;
            }
        }
        done.map(|_| ())
    }

    /// `Ok(false)`: this batch was on record already.
    fn transaction(&mut self, fence: Fence, batch: &Batch) -> Result<bool, StoreError> {
        let conn = &self.conn;
        conn.prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut s| s.execute([]))
            .map_err(|e| self.fault(e))?;
        let next_pos = self.live_pos.max(last_pos(batch) + 1);
        let changed = conn
            .prepare_cached(
                "UPDATE node SET batch = ?3, next_pos = ?4 WHERE shard = ?1 AND epoch = ?2 AND batch < ?3",
            )
            .and_then(|mut s| {
                s.execute((
                    i64::from(fence.shard),
                    i64::from(fence.epoch),
                    batch.id.number as i64,
                    next_pos as i64,
                ))
            })
            .map_err(|e| self.fault(e))?;
        if changed == 0 {
            conn.execute_batch("ROLLBACK").map_err(|e| self.fault(e))?;
            let epoch: i64 = conn
                .query_row("SELECT epoch FROM node WHERE shard = 0", [], |r| r.get(0))
                .map_err(|e| self.fault(e))?;
            return if epoch == i64::from(fence.epoch) {
                Ok(false)
            } else {
                Err(StoreError::Fenced)
            };
        }
        rows(conn, self.live, batch).map_err(|e| self.fault(e))?;
        if let Some(next) = batch.next_epoch {
            conn.prepare_cached("UPDATE node SET epoch = ?2, batch = 0 WHERE shard = ?1")
                .and_then(|mut s| s.execute((i64::from(fence.shard), i64::from(next))))
                .map_err(|e| self.fault(e))?;
        }
        conn.prepare_cached("COMMIT")
            .and_then(|mut s| s.execute([]))
            .map_err(|e| self.fault(e))?;
        Ok(true)
    }

    /// Without room for a new segment the old one goes on growing, and it is tried again later.
    pub(super) fn try_rotate(&mut self) -> Result<(), StoreError> {
        match self.rotate().map_err(|e| self.fault(e)) {
            Err(StoreError::Full(_) | StoreError::Retry(_)) => Ok(()),
            other => other,
        }
    }

    /// Opens the next segment. Its own small transaction: a crash in between only leaves the old one a little longer.
    fn rotate(&mut self) -> rusqlite::Result<()> {
        let last = self.live_pos.saturating_sub(1);
        let tx = self.conn.transaction()?;
        tx.execute(
            "UPDATE segment SET state = 1, last_pos = ?2, rows = ?3 WHERE number = ?1",
            (self.live, last as i64, self.live_rows as i64),
        )?;
        let next = schema::open_segment(&tx)?;
        tx.commit()?;
        self.waiting.push((self.live, Pos(last)));
        self.live = next;
        self.live_rows = 0;
        self.live_opened_ms = 0;
        Ok(())
    }
}

fn unnoted(error: &std::io::Error) -> StoreError {
    match error.raw_os_error() {
        Some(n) if n == nix::errno::Errno::ENOSPC as i32 || n == nix::errno::Errno::EDQUOT as i32 => {
            StoreError::Full(error.to_string())
        }
        _ => StoreError::Fatal(format!("the .lock file cannot be written: {error}")),
    }
}

fn last_pos(batch: &Batch) -> u64 {
    let sent = batch.sent.last().map_or(0, |e| e.pos.0);
    let finished = batch.finished.last().map_or(0, |e| e.pos.0);
    let marks = batch.marks.last().map_or(0, |e| e.pos.0);
    let parked = batch.parked.last().map_or(0, |e| e.pos.0);
    let outbox = batch.outbox_put.iter().map(|e| e.pos.0).max().unwrap_or(0);
    sent.max(finished).max(marks).max(parked).max(outbox)
}

fn rows(conn: &Connection, live: i64, batch: &Batch) -> rusqlite::Result<()> {
    insert(
        conn,
        &format!("accepted_{live}"),
        10,
        &batch.accepted,
        bind_accepted,
    )?;
    insert(conn, &format!("sent_{live}"), 6, &batch.sent, bind_sent)?;
    insert(conn, &format!("mark_{live}"), 9, &batch.marks, bind_mark)?;
    insert(conn, &format!("final_{live}"), 8, &batch.finished, bind_finished)?;
    replace(conn, batch)?;
    postings(conn, batch)?;
    few(conn, batch)
}

/// The one update in place of a message: replace_sm, of which there are few. The row is in a journal that is not sealed, or
/// was carried forward.
fn replace(conn: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    if batch.replaced.is_empty() {
        return Ok(());
    }
    let mut tables: Vec<String> = recover::journals(conn)?
        .into_iter()
        .rev()
        .map(|n| format!("accepted_{n}"))
        .collect();
    tables.push("carried".into());
    for a in &batch.replaced {
        for table in &tables {
            let sql = format!(
                "UPDATE {table} SET expires = ?2, price = ?3, tariff = ?4, terms = ?5, segments = ?6, message = ?7 WHERE key = ?1"
            );
            conn.prepare_cached(&sql)?.execute((
                a.key.0 as i64,
                a.expires_ms as i64,
                a.price.0,
                a.tariff,
                terms(a),
                a.segments,
                a.message.record(),
            ))?;
        }
    }
    Ok(())
}

/// Appends `items` to `table`, sixteen rows a statement while there are so many.
fn insert<T>(
    conn: &Connection,
    table: &str,
    columns: usize,
    items: &[T],
    bind: fn(&mut CachedStatement<'_>, usize, &T) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let one = format!("({})", vec!["?"; columns].join(","));
    let chunks = items.chunks_exact(ROWS);
    let rest = chunks.remainder();
    if items.len() >= ROWS {
        let mut stmt = conn.prepare_cached(&format!(
            "INSERT INTO {table} VALUES{}",
            vec![one.as_str(); ROWS].join(",")
        ))?;
        for chunk in chunks {
            for (row, item) in chunk.iter().enumerate() {
                bind(&mut stmt, row * columns, item)?;
            }
            stmt.raw_execute()?;
        }
    }
    if !rest.is_empty() {
        let mut stmt = conn.prepare_cached(&format!("INSERT INTO {table} VALUES{one}"))?;
        for item in rest {
            bind(&mut stmt, 0, item)?;
            stmt.raw_execute()?;
        }
    }
    Ok(())
}

fn bind_accepted(s: &mut CachedStatement<'_>, at: usize, a: &Accepted) -> rusqlite::Result<()> {
    s.raw_bind_parameter(at + 1, a.key.0 as i64)?;
    s.raw_bind_parameter(at + 2, a.account.0)?;
    s.raw_bind_parameter(at + 3, a.at_ms as i64)?;
    s.raw_bind_parameter(at + 4, a.expires_ms as i64)?;
    s.raw_bind_parameter(at + 5, a.price.0)?;
    s.raw_bind_parameter(at + 6, a.tariff)?;
    s.raw_bind_parameter(at + 7, terms(a))?;
    s.raw_bind_parameter(at + 8, a.segments)?;
    s.raw_bind_parameter(at + 9, a.message.record())?;
    s.raw_bind_parameter(at + 10, a.line)
}

/// charge_on in bits 0–1, wanted receipts in bits 2–3.
fn terms(a: &Accepted) -> u8 {
    a.charge_on as u8 | (a.wants as u8) << 2
}

fn bind_sent(s: &mut CachedStatement<'_>, at: usize, e: &Sent) -> rusqlite::Result<()> {
    s.raw_bind_parameter(at + 1, e.pos.0 as i64)?;
    s.raw_bind_parameter(at + 2, e.key.0 as i64)?;
    s.raw_bind_parameter(at + 3, e.upstream.0)?;
    s.raw_bind_parameter(at + 4, e.at_ms as i64)?;
    s.raw_bind_parameter(at + 5, &*e.smsc_id)?;
    s.raw_bind_parameter(at + 6, e.piece.code())
}

fn bind_mark(s: &mut CachedStatement<'_>, at: usize, e: &Mark) -> rusqlite::Result<()> {
    s.raw_bind_parameter(at + 1, e.pos.0 as i64)?;
    s.raw_bind_parameter(at + 2, e.key.0 as i64)?;
    s.raw_bind_parameter(at + 3, e.kind as u8)?;
    s.raw_bind_parameter(at + 4, e.at_ms as i64)?;
    s.raw_bind_parameter(at + 5, e.upstream.0)?;
    s.raw_bind_parameter(at + 6, e.state)?;
    s.raw_bind_parameter(at + 7, e.err)?;
    s.raw_bind_parameter(at + 8, e.flags)?;
    s.raw_bind_parameter(at + 9, e.piece.code())
}

fn bind_finished(s: &mut CachedStatement<'_>, at: usize, e: &Finished) -> rusqlite::Result<()> {
    s.raw_bind_parameter(at + 1, e.pos.0 as i64)?;
    s.raw_bind_parameter(at + 2, e.key.0 as i64)?;
    s.raw_bind_parameter(at + 3, e.account.0)?;
    s.raw_bind_parameter(at + 4, e.state.code())?;
    s.raw_bind_parameter(at + 5, e.err)?;
    s.raw_bind_parameter(at + 6, e.at_ms as i64)?;
    s.raw_bind_parameter(at + 7, e.charged.0)?;
    s.raw_bind_parameter(at + 8, e.flags)
}

fn posting(conn: &Connection, p: &Posting) -> rusqlite::Result<i64> {
    conn.prepare_cached("INSERT INTO ledger VALUES(NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
        .insert((
            p.at_ms as i64,
            p.account.0,
            &p.debit,
            &p.credit,
            p.amount.0,
            p.count,
            &*p.reason,
            &p.reference,
            p.line,
        ))
}

fn postings(conn: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let mut entries: HashMap<(&str, &str), i64> = HashMap::new();
    for p in &batch.postings {
        let entry = posting(conn, p)?;
        if !p.of_messages() {
            let provider = [&p.debit, &p.credit].into_iter().find_map(|a| {
                a.strip_prefix("clearing:")
                    .or_else(|| (*a == ADJUST).then_some(ADJUST))
            });
            entries
                .entry((provider.unwrap_or(""), &p.reference))
                .or_insert(entry);
        }
    }
    for p in &batch.payments {
        // The first entry under its (provider, receipt), which is unique for ever, is the one that is named.
        let entry = match p.entry {
            0 => entries
                .get(&(p.provider.as_str(), p.receipt.as_str()))
                .copied()
                .unwrap_or(0),
            known => known as i64,
        };
        conn.prepare_cached(
            "INSERT OR REPLACE INTO payment VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute((
            &p.provider,
            &p.receipt,
            entry,
            p.account.0,
            p.amount.0,
            p.at_ms as i64,
            p.paid_ms as i64,
            &p.payer_ref,
            &p.note,
            p.assigned_ms as i64,
            p.paid_out.0,
            p.reversed.0,
        ))?;
    }
    for p in &batch.payouts {
        conn.prepare_cached("INSERT OR REPLACE INTO payout VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute((
                &p.reference,
                &p.provider,
                &p.receipt,
                p.account.0,
                p.amount.0,
                p.state as u8,
                p.at_ms as i64,
                p.settled_ms as i64,
            ))?;
    }
    for (account, delta) in &batch.balances {
        conn.prepare_cached(
            "INSERT INTO wallet VALUES(?1, ?2, 0, 0, 0) ON CONFLICT(account) DO UPDATE SET balance = balance + ?2",
        )?
        .execute((account.0, delta.0))?;
    }
    for (account, frozen) in &batch.frozen {
        conn.prepare_cached("UPDATE wallet SET frozen = ?2 WHERE account = ?1")?
            .execute((account.0, frozen))?;
    }
    for (account, day, segments) in &batch.usage {
        conn.prepare_cached(
            "INSERT INTO usage VALUES(?1, ?2, ?3) ON CONFLICT(account, day) DO UPDATE SET segments = segments + ?3",
        )?
        .execute((account.0, day, *segments as i64))?;
    }
    terms_of_trade(conn, batch)
}

/// Prices, versions of tariffs, billing lines: rows that come with a change of the config or of an account.
fn terms_of_trade(conn: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    for (account, rules) in &batch.prices {
        conn.prepare_cached("DELETE FROM price WHERE account = ?1")?
            .execute([account.0])?;
        for r in rules {
            conn.prepare_cached("INSERT OR REPLACE INTO price VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute((
                    account.0,
                    &r.prefix,
                    &r.operator,
                    &r.class,
                    r.from_ms as i64,
                    r.price.0,
                ))?;
        }
    }
    for t in &batch.tariffs {
        conn.prepare_cached("INSERT OR IGNORE INTO tariff_version VALUES(?1, ?2, ?3, ?4)")?
            .execute((t.version, &t.name, t.at_ms as i64, t.terms.to_string()))?;
    }
    for (id, line) in &batch.lines {
        conn.prepare_cached("INSERT OR IGNORE INTO billing_line VALUES(?1, ?2, ?3)")?
            .execute((id, &line.route, &line.class))?;
    }
    Ok(())
}

/// The tables that grow with accounts or trouble, not with traffic.
fn few(conn: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    super::rules::write(conn, &batch.rules)?;
    for p in &batch.parked {
        conn.prepare_cached("INSERT INTO parked VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((
                p.pos.0 as i64,
                p.upstream.0,
                &*p.smsc_id,
                &*p.number,
                p.state,
                p.err,
                p.at_ms as i64,
            ))?;
    }
    for pos in &batch.unparked {
        conn.prepare_cached("DELETE FROM parked WHERE pos = ?1")?
            .execute([pos.0 as i64])?;
    }
    for o in &batch.outbox_put {
        conn.prepare_cached("INSERT OR REPLACE INTO outbox VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((
                o.account.0,
                o.pos.0 as i64,
                o.kind as u8,
                o.key.0 as i64,
                o.at_ms as i64,
                o.parked,
                &*o.payload,
            ))?;
    }
    for (account, pos) in &batch.outbox_del {
        conn.prepare_cached("DELETE FROM outbox WHERE account = ?1 AND pos = ?2")?
            .execute((account.0, pos.0 as i64))?;
    }
    for (account, pos) in &batch.watermarks {
        conn.prepare_cached(
            "INSERT INTO watermark VALUES(?1, ?2) ON CONFLICT(account) DO UPDATE SET pos = ?2",
        )?
        .execute((account.0, pos.0 as i64))?;
    }
    for account in &batch.accounts {
        put_account(conn, account)?;
    }
    for (id, name) in &batch.upstreams {
        conn.prepare_cached("INSERT OR IGNORE INTO upstream VALUES(?1, ?2)")?
            .execute((id.0, name))?;
    }
    Ok(())
}

fn put_account(conn: &Connection, a: &Account) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO account VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    )?
    .execute(rusqlite::params![
        a.id.0,
        &a.name,
        &a.system_id,
        &a.password_hash,
        &a.tariff,
        a.tps,
        a.window,
        a.max_binds,
        a.allow_ips.join(","),
        a.senders.join(","),
        a.bind as u8,
        a.state as u8,
        a.credit_limit.0,
        a.created_ms as i64,
        a.deliver_as as u8,
        a.receipts as u8,
        a.alphabet as u8,
        a.transliterate,
        &a.outbind,
        &a.outbind_password,
        a.certificates.join(","),
        &a.currency,
        a.low_balance.0,
        a.quota_day as i64,
        a.quota_month as i64,
        a.allow_upstreams.join(","),
        a.deny_upstreams.join(","),
        &a.residency,
    ])?;
    Ok(())
}
