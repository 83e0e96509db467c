//! Tables and their versions.

use rusqlite::Connection;

/// `PRAGMA application_id`: "SMSC". A file with another id is somebody else's and is left untouched.
pub const APPLICATION_ID: i32 = 0x534D_5343;

/// `node.running` of a store: 0 after an end in good order, 1 while a daemon has it and after a crash, this in a copy that no
/// daemon has been started on.
pub const COPY: i64 = 2;

/// Whether a daemon has worked on this file: it writes with a log, in which mode a file stays (SQLite file format §1.3.3). Copies
/// are made without.
pub fn is_wal(path: &std::path::Path) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut versions = [0u8; 2];
    std::fs::File::open(path)?.read_exact_at(&mut versions, 18)?;
    Ok(versions == [2, 2])
}

/// One step of the schema.
#[derive(Clone, Copy)]
pub enum Migration {
    /// Statements.
    Sql(&'static str),
    /// Statements, and then the same for every journal that is not sealed.
    Journals(&'static str, fn(i64) -> String),
    /// What statements alone cannot do.
    Code(fn(&Connection) -> rusqlite::Result<()>),
}

/// Schema changes in order; `PRAGMA user_version` counts those applied. Never edit one that has shipped: append.
pub const MIGRATIONS: &[Migration] = &[
    Migration::Sql(V1),
    Migration::Journals(V2, v2_journal),
    Migration::Journals(V3, v3_journal),
    Migration::Code(holds_into_ledger),
    Migration::Sql(super::rules::SCHEMA),
    Migration::Sql(ROUTING),
];

const V1: &str = r"
-- running: 0 after an end in good order; otherwise the store's number (1 in older releases)
CREATE TABLE node(
  shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, batch INTEGER NOT NULL, next_pos INTEGER NOT NULL,
  running INTEGER NOT NULL);
INSERT INTO node VALUES(0, 0, 0, 1, 0);
CREATE TABLE account(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, system_id TEXT NOT NULL UNIQUE, password_hash TEXT NOT NULL,
  tariff TEXT NOT NULL, tps INTEGER NOT NULL, window INTEGER NOT NULL, max_binds INTEGER NOT NULL,
  allow_ips TEXT NOT NULL, senders TEXT NOT NULL, bind INTEGER NOT NULL, state INTEGER NOT NULL,
  credit_limit INTEGER NOT NULL, created_at INTEGER NOT NULL);
CREATE TABLE upstream(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
-- balance = base + what the ledger rows after base_entry add up to; checked at every unclean start
CREATE TABLE wallet(
  account INTEGER PRIMARY KEY, balance INTEGER NOT NULL, base INTEGER NOT NULL, base_entry INTEGER NOT NULL);
CREATE TABLE ledger(
  entry INTEGER PRIMARY KEY, at INTEGER NOT NULL, account INTEGER NOT NULL, debit TEXT NOT NULL, credit TEXT NOT NULL,
  amount INTEGER NOT NULL CHECK(amount >= 0), count INTEGER NOT NULL, reason TEXT NOT NULL, reference TEXT NOT NULL);
CREATE TABLE topup(
  provider TEXT NOT NULL, receipt TEXT NOT NULL, entry INTEGER NOT NULL, account INTEGER NOT NULL,
  amount INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY(provider, receipt));
CREATE TABLE watermark(account INTEGER PRIMARY KEY, pos INTEGER NOT NULL);
CREATE TABLE parked(
  pos INTEGER PRIMARY KEY, upstream INTEGER NOT NULL, smsc_id BLOB NOT NULL, number BLOB NOT NULL,
  state INTEGER NOT NULL, err INTEGER NOT NULL, at INTEGER NOT NULL);
CREATE TABLE outbox(
  account INTEGER NOT NULL, pos INTEGER NOT NULL, kind INTEGER NOT NULL, key INTEGER NOT NULL, at INTEGER NOT NULL,
  parked INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY(account, pos)) WITHOUT ROWID;
-- state: 0 live, 1 full (waits to be sealed), 2 sealed
CREATE TABLE segment(
  number INTEGER PRIMARY KEY, state INTEGER NOT NULL, opened_at INTEGER NOT NULL, last_pos INTEGER NOT NULL,
  rows INTEGER NOT NULL, cursor INTEGER NOT NULL, newest INTEGER NOT NULL);
-- what each account's messages of a sealed segment cost: stays when retention drops the segment, so that the ledger still
-- reconciles with the messages
CREATE TABLE segment_total(
  segment INTEGER NOT NULL, account INTEGER NOT NULL, count INTEGER NOT NULL, charged INTEGER NOT NULL,
  PRIMARY KEY(segment, account)) WITHOUT ROWID;
-- open messages of sealed segments
CREATE TABLE carried(
  key INTEGER PRIMARY KEY, account INTEGER NOT NULL, at INTEGER NOT NULL, expires INTEGER NOT NULL,
  price INTEGER NOT NULL, tariff INTEGER NOT NULL, terms INTEGER NOT NULL, segments INTEGER NOT NULL,
  message BLOB NOT NULL,
  sent_pos INTEGER NOT NULL, sent_upstream INTEGER NOT NULL, sent_at INTEGER NOT NULL, smsc_id BLOB NOT NULL,
  mark_pos INTEGER NOT NULL, mark_kind INTEGER NOT NULL, mark_upstream INTEGER NOT NULL, mark_state INTEGER NOT NULL,
  mark_err INTEGER NOT NULL, mark_at INTEGER NOT NULL);
";

/// Steps of carried messages in tables of their own, since a message sent in parts has several; what accounts can choose;
/// balances that are integers whatever is added to them.
const V2: &str = r"
CREATE TABLE wallet_2(
  account INTEGER PRIMARY KEY, balance INTEGER NOT NULL CHECK(typeof(balance) = 'integer'), base INTEGER NOT NULL,
  base_entry INTEGER NOT NULL);
INSERT INTO wallet_2 SELECT account, balance, base, base_entry FROM wallet;
DROP TABLE wallet;
ALTER TABLE wallet_2 RENAME TO wallet;
ALTER TABLE segment DROP COLUMN opened_at;
ALTER TABLE account ADD COLUMN deliver_as INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN receipts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN alphabet INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN transliterate INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN outbind TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN outbind_password TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN certificates TEXT NOT NULL DEFAULT '';
CREATE TABLE carried_sent(
  pos INTEGER NOT NULL, key INTEGER NOT NULL, upstream INTEGER NOT NULL, at INTEGER NOT NULL, smsc_id BLOB NOT NULL,
  part INTEGER NOT NULL, PRIMARY KEY(key, pos)) WITHOUT ROWID;
CREATE TABLE carried_mark(
  pos INTEGER NOT NULL, key INTEGER NOT NULL, kind INTEGER NOT NULL, at INTEGER NOT NULL, upstream INTEGER NOT NULL,
  state INTEGER NOT NULL, err INTEGER NOT NULL, flags INTEGER NOT NULL, part INTEGER NOT NULL,
  PRIMARY KEY(key, pos)) WITHOUT ROWID;
INSERT INTO carried_sent SELECT sent_pos, key, sent_upstream, sent_at, smsc_id, 0 FROM carried WHERE sent_pos > 0;
INSERT INTO carried_mark SELECT mark_pos, key, mark_kind, mark_at, mark_upstream, mark_state, mark_err, 0, 0
  FROM carried WHERE mark_pos > 0;
CREATE TABLE carried_2(
  key INTEGER PRIMARY KEY, account INTEGER NOT NULL, at INTEGER NOT NULL, expires INTEGER NOT NULL,
  price INTEGER NOT NULL, tariff INTEGER NOT NULL, terms INTEGER NOT NULL, segments INTEGER NOT NULL,
  message BLOB NOT NULL);
INSERT INTO carried_2 SELECT key, account, at, expires, price, tariff, terms, segments, message FROM carried;
DROP TABLE carried;
ALTER TABLE carried_2 RENAME TO carried;
";

fn v2_journal(segment: i64) -> String {
    format!(
        "ALTER TABLE sent_{segment} ADD COLUMN part INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE mark_{segment} ADD COLUMN part INTEGER NOT NULL DEFAULT 0;"
    )
}

/// Money: payments with what became of them, payouts, prices of accounts, versions of tariffs, billing lines, quotas.
const V3: &str = r"
ALTER TABLE account ADD COLUMN currency TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN low_balance INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN quota_day INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN quota_month INTEGER NOT NULL DEFAULT 0;
ALTER TABLE wallet ADD COLUMN frozen INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ledger ADD COLUMN line INTEGER NOT NULL DEFAULT 0;
CREATE INDEX ledger_account ON ledger(account);
ALTER TABLE carried ADD COLUMN line INTEGER NOT NULL DEFAULT 0;
ALTER TABLE segment_total ADD COLUMN tax INTEGER NOT NULL DEFAULT 0;
CREATE TABLE payment(
  provider TEXT NOT NULL, receipt TEXT NOT NULL, entry INTEGER NOT NULL, account INTEGER NOT NULL,
  amount INTEGER NOT NULL, at INTEGER NOT NULL, paid_at INTEGER NOT NULL, payer_ref TEXT NOT NULL, note TEXT NOT NULL, assigned INTEGER NOT NULL,
  paid_out INTEGER NOT NULL, reversed INTEGER NOT NULL, PRIMARY KEY(provider, receipt));
INSERT INTO payment SELECT provider, receipt, entry, account, amount, at, 0, '', '', 0, 0, 0 FROM topup;
DROP TABLE topup;
CREATE TABLE payout(
  reference TEXT PRIMARY KEY, provider TEXT NOT NULL, receipt TEXT NOT NULL, account INTEGER NOT NULL,
  amount INTEGER NOT NULL, state INTEGER NOT NULL, at INTEGER NOT NULL, settled INTEGER NOT NULL);
CREATE TABLE price(
  account INTEGER NOT NULL, prefix TEXT NOT NULL, operator TEXT NOT NULL, class TEXT NOT NULL,
  effective_from INTEGER NOT NULL, price INTEGER NOT NULL,
  PRIMARY KEY(account, prefix, operator, class, effective_from)) WITHOUT ROWID;
CREATE TABLE tariff_version(
  version INTEGER PRIMARY KEY, name TEXT NOT NULL, at INTEGER NOT NULL, terms TEXT NOT NULL);
CREATE TABLE billing_line(id INTEGER PRIMARY KEY, route TEXT NOT NULL, class TEXT NOT NULL);
CREATE TABLE usage(
  account INTEGER NOT NULL, day INTEGER NOT NULL, segments INTEGER NOT NULL, PRIMARY KEY(account, day)) WITHOUT ROWID;
";

fn v3_journal(segment: i64) -> String {
    format!("ALTER TABLE accepted_{segment} ADD COLUMN line INTEGER NOT NULL DEFAULT 0;")
}

/// Which upstreams may carry an account's messages; numbers whose operator receipts have shown; what upstreams cost.
const ROUTING: &str = r"
ALTER TABLE account ADD COLUMN allow_upstreams TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN deny_upstreams TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN residency TEXT NOT NULL DEFAULT '';
";

/// Releases before kept holds out of the ledger: those of messages that are open now go in.
fn holds_into_ledger(conn: &Connection) -> rusqlite::Result<()> {
    for (account, amount, count) in super::money::open_holds(conn)? {
        if amount > 0 {
            conn.execute(
                "INSERT INTO ledger SELECT NULL, COALESCE(MAX(at), 0), ?1, 'wallet', 'held', ?2, ?3, 'hold', '', 0 FROM ledger",
                (account, amount, count),
            )?;
        }
    }
    Ok(())
}

/// The journal tables of one segment: append-only, no secondary index.
pub fn journal_tables(segment: i64) -> String {
    format!(
        "CREATE TABLE accepted_{segment}(
  key INTEGER PRIMARY KEY, account INTEGER NOT NULL, at INTEGER NOT NULL, expires INTEGER NOT NULL,
  price INTEGER NOT NULL, tariff INTEGER NOT NULL, terms INTEGER NOT NULL, segments INTEGER NOT NULL,
  message BLOB NOT NULL, line INTEGER NOT NULL DEFAULT 0);
CREATE TABLE sent_{segment}(
  pos INTEGER PRIMARY KEY, key INTEGER NOT NULL, upstream INTEGER NOT NULL, at INTEGER NOT NULL, smsc_id BLOB NOT NULL,
  part INTEGER NOT NULL);
CREATE TABLE mark_{segment}(
  pos INTEGER PRIMARY KEY, key INTEGER NOT NULL, kind INTEGER NOT NULL, at INTEGER NOT NULL, upstream INTEGER NOT NULL,
  state INTEGER NOT NULL, err INTEGER NOT NULL, flags INTEGER NOT NULL, part INTEGER NOT NULL);
CREATE TABLE final_{segment}(
  pos INTEGER PRIMARY KEY, key INTEGER NOT NULL, account INTEGER NOT NULL, state INTEGER NOT NULL, err INTEGER NOT NULL,
  at INTEGER NOT NULL, charged INTEGER NOT NULL, flags INTEGER NOT NULL);"
    )
}

/// What a sealed segment keeps: the messages that ended in it, without their text, and their order per account.
pub fn closed_tables(segment: i64) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS closed_{segment}(
  key INTEGER PRIMARY KEY, account INTEGER NOT NULL, at INTEGER NOT NULL, done INTEGER NOT NULL, segments INTEGER NOT NULL,
  price INTEGER NOT NULL, charged INTEGER NOT NULL, tariff INTEGER NOT NULL, terms INTEGER NOT NULL,
  state INTEGER NOT NULL, err INTEGER NOT NULL, upstream INTEGER NOT NULL, sent_at INTEGER NOT NULL,
  smsc_id BLOB NOT NULL, stub BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS closed_account_{segment}(
  account INTEGER NOT NULL, key INTEGER NOT NULL, PRIMARY KEY(account, key)) WITHOUT ROWID;"
    )
}

/// Opens a new live segment; its number is one above the highest so far.
pub fn open_segment(conn: &Connection) -> rusqlite::Result<i64> {
    let number: i64 = conn.query_row("SELECT COALESCE(MAX(number), 0) + 1 FROM segment", [], |r| {
        r.get(0)
    })?;
    conn.execute_batch(&journal_tables(number))?;
    conn.execute("INSERT INTO segment VALUES(?1, 0, 0, 0, 0, 0)", [number])?;
    Ok(number)
}

/// Applies what is missing, in one transaction. `user_version` above ours was written by a newer release.
///
/// # Errors
/// The SQL error, or `Ok(false)` for a newer version (nothing is changed).
pub fn migrate(conn: &mut Connection) -> rusqlite::Result<bool> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    let Some(missing) = usize::try_from(version).ok().and_then(|v| MIGRATIONS.get(v..)) else {
        return Ok(false);
    };
    if missing.is_empty() {
        return Ok(true);
    }
    let tx = conn.transaction()?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    for step in missing {
        match step {
            Migration::Sql(sql) => tx.execute_batch(sql)?,
            Migration::Code(run) => run(&tx)?,
            Migration::Journals(sql, journal) => {
                tx.execute_batch(sql)?;
                let open: Vec<i64> = tx
                    .prepare("SELECT number FROM segment WHERE state < 2")?
                    .query_map([], |r| r.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                for segment in open {
                    tx.execute_batch(&journal(segment))?;
                }
            }
        }
    }
    tx.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    tx.commit()?;
    Ok(true)
}
