//! Proves a store whole, from the outside: with what is in the file alone, and not by the code that wrote it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::open::{self, OpenError};
use super::read::Reader;
use super::{backup, money, recover, schema};
use crate::domain::outcome::ChargeOn;
use crate::money::Money;
use crate::store::{Accepted, Finished, Record, Sent, StoreError};

/// What a store holds, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines that say what is wrong; empty: all is well. At most [`FAULTS_MAX`], the last of which says that there are more.
    pub faults: Vec<String>,
    /// Whether the file equals the checksum beside it; `None`: there is none, or it no longer counts.
    pub as_made: Option<bool>,
    /// Octets of the main file.
    pub bytes: u64,
    /// Customer accounts.
    pub accounts: u64,
    /// Messages on record or accounted for, open and over.
    pub messages: u64,
    /// Messages that are not over.
    pub open: u64,
    /// What open messages may still cost.
    pub held: Money,
    /// Ledger rows.
    pub entries: u64,
    /// Segments, of which the last is live.
    pub segments: u64,
    /// How often a daemon has taken the store over, and jumps of copies.
    pub epoch: u64,
}

/// See [`Report::faults`].
pub const FAULTS_MAX: usize = 1_000;

impl Report {
    fn fault(&mut self, text: String) {
        match self.faults.len() {
            n if n + 1 < FAULTS_MAX => self.faults.push(text),
            n if n + 1 == FAULTS_MAX => self.faults.push("and more".into()),
            _ => {}
        }
    }

    /// A part that could not be read to its end.
    fn unread(&mut self, what: &str, done: Result<(), StoreError>) {
        if let Err(error) = done {
            self.fault(format!("{what}: {error}"));
        }
    }
}

/// Whether a file is a store of this program, by its header.
pub(super) fn ours(path: &Path) -> Result<(), OpenError> {
    let there = std::fs::metadata(path).map_err(|e| OpenError::Io {
        path: path.into(),
        what: e.to_string(),
    })?;
    if there.len() == 0 || !there.is_file() {
        return Err(OpenError::NotSqlite(path.into()));
    }
    open::inspect(path)
}

/// Looks at every page and every row of the store at `path`, read-only: the structure, the ledger, the journal, and that the
/// three agree. Works beside a daemon, whose log it then keeps from being cut off while it reads.
///
/// What SQLite keeps no checksum of cannot be missed by it: a changed letter in a text is found only in a copy that has
/// its checksum beside it.
///
/// # Errors
/// [`OpenError`]: it is no store of ours, or cannot be opened. Damage is no error but in the report.
pub fn verify(path: &Path) -> Result<Report, OpenError> {
    ours(path)?;
    let reader = Reader::open(path).map_err(|e| OpenError::Io {
        path: path.into(),
        what: e.to_string(),
    })?;
    let mut report = Report {
        bytes: std::fs::metadata(path).map_or(0, |m| m.len()),
        ..Report::default()
    };
    match backup::as_made(path) {
        Ok(as_made) => report.as_made = as_made,
        Err(e) => report.fault(format!("the file cannot be read: {e}")),
    }
    if report.as_made == Some(false) {
        report.fault("the file is not what it was when the copy was made: its checksum differs".into());
    }
    let conn = &reader.conn;
    // In damaged files one part may be unreadable and the next not: all are looked at.
    let done = structure(conn, &mut report).map_err(super::fault);
    report.unread("structure", done);
    // The rest sees one moment.
    let begun = conn.execute_batch("BEGIN").map_err(super::fault);
    report.unread("structure", begun);
    let done = ledger(conn, &mut report).map_err(super::fault);
    report.unread("ledger", done);
    let done = journal(&reader, &mut report);
    report.unread("journal", done);
    let done = segments(conn, &mut report).map_err(super::fault);
    report.unread("segments", done);
    let done = keys(conn, &mut report).map_err(super::fault);
    report.unread("keys", done);
    // Read-only: there is nothing to lose.
    let _ended = conn.execute_batch("COMMIT");
    Ok(report)
}

fn one(conn: &Connection, sql: &str) -> rusqlite::Result<i64> {
    conn.query_row(sql, [], |r| r.get(0))
}

fn numbers(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<i64>> {
    conn.prepare(sql)?.query_map([], |r| r.get(0))?.collect()
}

fn structure(conn: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let version = one(conn, "PRAGMA user_version")?;
    let ours = schema::MIGRATIONS.len() as i64;
    if version != ours {
        report.fault(format!("its schema is {version}, this release reads {ours}"));
    }
    let page = one(conn, "PRAGMA page_size")?.unsigned_abs();
    if page == 0 || !report.bytes.is_multiple_of(page) {
        report.fault("structure: its last page is cut off".into());
    }
    let lines: Vec<String> = conn
        .prepare(&format!("PRAGMA integrity_check({FAULTS_MAX})"))?
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for line in lines.into_iter().filter(|l| l != "ok") {
        report.fault(format!("structure: {line}"));
    }
    Ok(())
}

/// Every posting moves an amount from one account of the ledger to another, so each balances by itself; whose it is and where
/// it stands must be true.
fn ledger(conn: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    report.entries = one(conn, "SELECT count(*) FROM ledger")?.unsigned_abs();
    report.accounts = one(conn, "SELECT count(*) FROM account")?.unsigned_abs();
    let bad = "SELECT entry FROM ledger WHERE typeof(amount) <> 'integer' OR amount < 0 OR count < 0
               OR debit = credit OR debit = '' OR credit = ''";
    for entry in numbers(conn, bad)? {
        report.fault(format!("ledger: entry {entry} is no posting"));
    }
    for (what, sql) in [
        (
            "has ledger rows and no wallet",
            "SELECT DISTINCT account FROM ledger WHERE account <> 0 AND account NOT IN (SELECT account FROM wallet)",
        ),
        (
            "has a wallet and is no account",
            "SELECT account FROM wallet WHERE account NOT IN (SELECT id FROM account)",
        ),
        (
            "has no wallet",
            "SELECT id FROM account WHERE id NOT IN (SELECT account FROM wallet)",
        ),
    ] {
        for account in numbers(conn, sql)? {
            report.fault(format!("ledger: account {account} {what}"));
        }
    }
    // One that was assigned from suspense names the entry under which it came.
    let payments = "SELECT p.entry FROM payment p LEFT JOIN ledger l ON l.entry = p.entry
                    WHERE l.entry IS NULL OR l.account <> CASE WHEN p.assigned > 0 THEN 0 ELSE p.account END";
    for entry in numbers(conn, payments)? {
        report.fault(format!(
            "ledger: a payment names entry {entry}, which is not its own"
        ));
    }
    let off = open::wallets_off(conn)?;
    if off > 0 {
        report.fault(format!(
            "ledger: {off} wallets do not equal their base and what came after it"
        ));
    }
    Ok(())
}

/// A message that is not over, and what it has cost so far.
struct Open {
    account: u32,
    price: i64,
    charge_on: ChargeOn,
    /// Of how many parts, and which were taken; none for a message that was taken whole.
    parts: (u8, HashSet<u8>),
    whole: bool,
}

impl Open {
    fn cost(&self) -> i64 {
        match self.charge_on {
            ChargeOn::Accepted => self.price,
            ChargeOn::Submitted if self.whole => self.price,
            ChargeOn::Submitted if self.parts.0 > 0 => self
                .price
                .saturating_mul(self.parts.1.len() as i64)
                .checked_div(i64::from(self.parts.0))
                .unwrap_or(0),
            _ => 0,
        }
    }
}

/// The journal applied in memory, by rules of its own.
#[derive(Default)]
struct Book {
    open: HashMap<u64, Open>,
    over: HashSet<u64>,
    /// Account → what its messages that are over have cost.
    cost: BTreeMap<u32, i64>,
    /// Events whose message is not in the journal.
    strangers: HashSet<u64>,
    faults: Vec<String>,
}

impl Book {
    fn apply(&mut self, record: Record<'_>) {
        match record {
            Record::Accepted(a) => self.accepted(a),
            Record::Awaiting(a, e) => {
                self.accepted(a);
                self.sent(e);
            }
            Record::Sent(e) => self.sent(e),
            Record::Mark(e) => self.known(e.key.0),
            Record::Finished(e) => self.finished(e),
            _ => {}
        }
    }

    fn accepted(&mut self, a: &Accepted) {
        if a.price < Money::ZERO {
            self.faults
                .push(format!("journal: message {} costs less than nothing", a.key));
        }
        // While a segment is being sealed its open messages stand in two tables.
        self.open.entry(a.key.0).or_insert(Open {
            account: a.account.0,
            price: a.price.0,
            charge_on: a.charge_on,
            parts: (0, HashSet::new()),
            whole: false,
        });
    }

    fn known(&mut self, key: u64) {
        if !self.open.contains_key(&key) && !self.over.contains(&key) {
            self.strangers.insert(key);
        }
    }

    fn sent(&mut self, e: &Sent) {
        match self.open.get_mut(&e.key.0) {
            Some(open) if e.piece.whole() => open.whole = true,
            Some(open) => {
                open.parts.0 = e.piece.of;
                open.parts.1.insert(e.piece.part);
            }
            None => self.known(e.key.0),
        }
    }

    fn finished(&mut self, e: &Finished) {
        match self.open.remove(&e.key.0) {
            Some(open) => {
                if open.account != e.account.0 {
                    self.faults
                        .push(format!("journal: message {} ended for another account", e.key));
                }
                if e.charged < Money::ZERO {
                    self.faults
                        .push(format!("journal: message {} has cost less than nothing", e.key));
                }
                self.over.insert(e.key.0);
                let sum = self.cost.entry(open.account).or_default();
                *sum = sum.saturating_add(e.charged.0);
            }
            None if self.over.contains(&e.key.0) => {
                self.faults
                    .push(format!("journal: message {} ended twice", e.key));
            }
            None => {
                self.strangers.insert(e.key.0);
            }
        }
    }
}

fn journal(reader: &Reader, report: &mut Report) -> Result<(), StoreError> {
    let conn = &reader.conn;
    match money::check(conn, 0).map_err(super::fault) {
        Ok(sums) => {
            report.messages = sums.messages;
            for fault in sums.faults {
                report.fault(fault);
            }
        }
        Err(error) => report.fault(format!("ledger: {error}")),
    }
    let mut book = Book::default();
    recover::recover(conn, &mut |record| book.apply(record))?;
    for fault in std::mem::take(&mut book.faults) {
        report.fault(fault);
    }
    report.open = book.open.len() as u64;
    for open in book.open.values() {
        let cost = open.cost();
        let sum = book.cost.entry(open.account).or_default();
        *sum = sum.saturating_add(cost);
        report.held.0 = report.held.0.saturating_add(open.price.saturating_sub(cost));
    }
    // What was charged is compared with what the messages cost when read one by one, too.
    let closed = money::closed_costs(conn).map_err(super::fault)?;
    let added = money::costs(conn).map_err(super::fault)?;
    for (account, cost) in added {
        let read = book.cost.get(&account).copied().unwrap_or(0);
        let read = read.saturating_add(closed.get(&account).map_or(0, |c| c.charged));
        if read != cost.charged {
            report.fault(format!(
                "journal: read back, the messages of account {account} cost {}, added up {}",
                Money(read),
                Money(cost.charged)
            ));
        }
    }
    strangers(conn, &book, report).map_err(super::fault)
}

/// Late events of messages that have been sealed are nothing strange.
fn strangers(conn: &Connection, book: &Book, report: &mut Report) -> rusqlite::Result<()> {
    let dropped = one(
        conn,
        "SELECT count(*) FROM segment_total WHERE segment NOT IN (SELECT number FROM segment)",
    )?;
    // Retention may have taken the message away.
    if dropped > 0 {
        return Ok(());
    }
    let sealed = numbers(conn, "SELECT number FROM segment WHERE state = 2")?;
    for key in &book.strangers {
        let mut known = false;
        for n in &sealed {
            let sql = format!("SELECT 1 FROM closed_{n} WHERE key = ?1");
            known = known || conn.prepare_cached(&sql)?.exists([*key as i64])?;
        }
        if !known {
            report.fault(format!(
                "journal: something happened to message {key}, which is not there"
            ));
        }
    }
    Ok(())
}

/// Every segment has its tables and nothing is missing in them.
fn segments(conn: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let rows: Vec<(i64, i64, i64)> = conn
        .prepare("SELECT number, state, rows FROM segment ORDER BY number")?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    report.segments = rows.len() as u64;
    let live = rows.iter().filter(|(_, state, _)| *state == 0).count();
    if live != 1 || rows.last().is_some_and(|(_, state, _)| *state != 0) {
        report.fault(format!("segments: {live} are live, the last one must be"));
    }
    for (n, state, messages) in rows {
        let tables: &[&str] = match state {
            0 | 1 => &["accepted", "sent", "mark", "final"],
            2 => &["closed", "closed_account"],
            _ => {
                report.fault(format!("segments: {n} has no state"));
                continue;
            }
        };
        let mut whole = true;
        for table in tables {
            let there = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
            let there = conn
                .query_row(there, [format!("{table}_{n}")], |_| Ok(()))
                .optional()?;
            if there.is_none() {
                report.fault(format!("segments: {n} has lost its table {table}_{n}"));
                whole = false;
            }
        }
        if whole && state == 1 {
            let count = one(conn, &format!("SELECT count(*) FROM accepted_{n}"))?;
            if count != messages {
                report.fault(format!(
                    "segments: {n} was closed with {messages} messages and has {count}"
                ));
            }
        }
        if whole && state == 2 {
            sealed(conn, n, report)?;
        }
    }
    let (epoch, next_pos): (i64, i64) =
        conn.query_row("SELECT epoch, next_pos FROM node WHERE shard = 0", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })?;
    report.epoch = epoch.unsigned_abs();
    for n in recover::journals(conn)? {
        let sql = format!(
            "SELECT max(COALESCE((SELECT max(pos) FROM sent_{n}), 0), COALESCE((SELECT max(pos) FROM final_{n}), 0),
                        COALESCE((SELECT max(pos) FROM mark_{n}), 0))"
        );
        if one(conn, &sql)? >= next_pos {
            report.fault(format!(
                "segments: {n} has positions that the store has not given out"
            ));
        }
        let sql = format!("SELECT COALESCE(max(key), 0) >> 32 FROM accepted_{n}");
        if one(conn, &sql)? & 0xF_FFFF > epoch {
            report.fault(format!("segments: {n} has messages of a start that never was"));
        }
    }
    Ok(())
}

/// A sealed segment equals its totals, by account.
fn sealed(conn: &Connection, n: i64, report: &mut Report) -> rusqlite::Result<()> {
    let sums = |sql: String| -> rusqlite::Result<BTreeMap<i64, (i64, i64)>> {
        conn.prepare(&sql)?
            .query_map([], |r| Ok((r.get(0)?, (r.get(1)?, r.get(2)?))))?
            .collect()
    };
    let rows = sums(format!(
        "SELECT account, COUNT(*), SUM(charged) FROM closed_{n} GROUP BY account"
    ))?;
    let totals = sums(format!(
        "SELECT account, count, charged FROM segment_total WHERE segment = {n}"
    ))?;
    if rows != totals {
        report.fault(format!(
            "segments: the messages of {n} are not what it was sealed with"
        ));
    }
    let orphans = format!(
        "SELECT (SELECT count(*) FROM closed_{n}) - (SELECT count(*) FROM closed_account_{n} a
             JOIN closed_{n} c ON c.key = a.key AND c.account = a.account)"
    );
    if one(conn, &orphans)? != 0 {
        report.fault(format!(
            "segments: {n} does not list every message under its account"
        ));
    }
    Ok(())
}

/// No message stands in two places. Tables are in key order, and few of them overlap.
fn keys(conn: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut tables: Vec<(String, bool)> = vec![("carried".into(), false)];
    for n in numbers(conn, "SELECT number FROM segment WHERE state = 2")? {
        tables.push((format!("closed_{n}"), false));
    }
    for n in recover::journals(conn)? {
        // Carried forward while it is being sealed: in both until it is.
        let sealing = one(conn, &format!("SELECT state FROM segment WHERE number = {n}"))? == 1;
        tables.push((format!("accepted_{n}"), sealing));
    }
    let mut ranges = Vec::new();
    for (table, sealing) in tables {
        let range: (Option<i64>, Option<i64>) =
            conn.query_row(&format!("SELECT min(key), max(key) FROM {table}"), [], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })?;
        if let (Some(first), Some(last)) = range {
            ranges.push((table, sealing, first, last));
        }
    }
    for (i, (a, _, a_first, a_last)) in ranges.iter().enumerate() {
        for (b, sealing, b_first, b_last) in ranges.iter().skip(i + 1) {
            let (first, last) = (a_first.max(b_first), a_last.min(b_last));
            if first > last || (*sealing && a == "carried") {
                continue;
            }
            let sql = format!(
                "SELECT x.key FROM {a} x JOIN {b} y ON y.key = x.key WHERE x.key BETWEEN {first} AND {last} LIMIT 100"
            );
            for key in numbers(conn, &sql)? {
                report.fault(format!("keys: message {key} stands in {a} and in {b}"));
            }
        }
    }
    Ok(())
}
