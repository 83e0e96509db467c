//! Read-only access beside the writer: what the admin socket shows of closed messages and of the ledger.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{StoreError, fault, recover};
use crate::domain::message::Stub;
use crate::domain::outcome::Final;
use crate::ids::{AccountId, MessageKey, UpstreamId};
use crate::money::Money;
use crate::store::Topup;

/// A read-only connection. Opening one per request costs a fraction of a millisecond and never stalls the writer.
#[derive(Debug)]
pub struct Reader {
    pub(super) conn: Connection,
}

/// A message as the store knows it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its key.
    pub key: MessageKey,
    /// Whose it is.
    pub account: AccountId,
    /// Accepted, ms since the epoch.
    pub at_ms: u64,
    /// Segments billed.
    pub segments: u8,
    /// Price of all segments.
    pub price: Money,
    /// What it cost in the end; `None` while it is open.
    pub charged: Option<Money>,
    /// Who took it and when, with the SMSC's id.
    pub sent: Option<(UpstreamId, u64, String)>,
    /// How it ended, `err`, and when.
    pub end: Option<(Final, u16, u64)>,
    /// Its addresses.
    pub stub: Stub,
}

/// Account → messages and what they have cost.
pub(super) type Cost = std::collections::BTreeMap<u32, (u64, i64)>;

/// Sums over the whole store, for `wallet.check`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Lines that say what is wrong; empty: all is well.
    pub faults: Vec<String>,
    /// Wallets looked at.
    pub wallets: u64,
    /// Messages counted in journals and sealed segments.
    pub messages: u64,
    /// Ledger rows.
    pub entries: u64,
}

/// One ledger row of an account.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its number.
    pub entry: u64,
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// What for.
    pub reason: String,
    /// Change of the balance.
    pub amount: Money,
    /// Messages it sums up.
    pub count: u32,
    /// Provider's receipt for a top-up.
    pub reference: String,
}

impl Reader {
    /// Opens `path` read-only.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn open(path: &Path) -> Result<Reader, StoreError> {
        let conn = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(fault)?;
        conn.busy_timeout(Duration::from_secs(5)).map_err(fault)?;
        conn.execute_batch("PRAGMA query_only=ON; PRAGMA mmap_size=268435456")
            .map_err(fault)?;
        Ok(Reader { conn })
    }

    /// Checks the whole file, a table at a time so that the write-ahead log can be moved in between; `Some` says what is
    /// damaged. Takes about a second a gigabyte.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn integrity(&self) -> Result<Option<String>, StoreError> {
        let tables: Vec<String> = self
            .conn
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
            .map_err(fault)?;
        for table in tables {
            let answer = self
                .conn
                .query_row(&format!("PRAGMA integrity_check('{table}')"), [], |r| {
                    r.get::<_, String>(0)
                })
                .map_err(fault);
            match answer {
                Ok(answer) if answer == "ok" => {}
                Ok(answer) => return Ok(Some(format!("{table}: {answer}"))),
                // Dropped meanwhile: a segment was sealed.
                Err(_) if !self.exists(&table)? => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn exists(&self, table: &str) -> Result<bool, StoreError> {
        self.conn
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = ?1",
                [table],
                |r| Ok(r.get::<_, i64>(0)? == 1),
            )
            .map_err(fault)
    }

    /// Looks a message up in the journals and then in the sealed segments, newest first.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn message(&self, key: MessageKey) -> Result<Option<Stored>, StoreError> {
        // One moment for all tables: sealing moves messages from one to another.
        self.conn.execute_batch("BEGIN").map_err(fault)?;
        let found = self.find(key);
        self.conn.execute_batch("COMMIT").map_err(fault)?;
        found
    }

    fn find(&self, key: MessageKey) -> Result<Option<Stored>, StoreError> {
        for n in recover::journals(&self.conn).map_err(fault)?.into_iter().rev() {
            if let Some(found) = self.in_journal(key, &format!("accepted_{n}"))? {
                return Ok(Some(found));
            }
        }
        let sealed: Vec<i64> = self
            .conn
            .prepare("SELECT number FROM segment WHERE state = 2 ORDER BY number DESC")
            .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
            .map_err(fault)?;
        for n in sealed {
            if let Some(found) = self.in_sealed(key, n).map_err(fault)? {
                return Ok(Some(found));
            }
        }
        self.in_journal(key, "carried")
    }

    fn in_journal(&self, key: MessageKey, table: &str) -> Result<Option<Stored>, StoreError> {
        let mut stmt = self
            .conn
            .prepare(&format!("SELECT * FROM {table} WHERE key = ?1"))
            .map_err(fault)?;
        let mut rows = stmt.query([key.0 as i64]).map_err(fault)?;
        let Some(r) = rows.next().map_err(fault)? else {
            return Ok(None);
        };
        let a = recover::accepted(r)?;
        let mut found = Stored {
            key,
            account: a.account,
            at_ms: a.at_ms,
            segments: a.segments,
            price: a.price,
            charged: None,
            sent: None,
            end: None,
            stub: a.message.stub(),
        };
        if table == "carried" {
            found.sent = self.last_sent(key, "carried_sent").map_err(fault)?;
        }
        self.events(key, &mut found).map_err(fault)?;
        Ok(Some(found))
    }

    /// The journals have no index by key: a bounded scan of the unsealed segments.
    fn events(&self, key: MessageKey, found: &mut Stored) -> rusqlite::Result<()> {
        for n in recover::journals(&self.conn)? {
            if let Some(row) = self.last_sent(key, &format!("sent_{n}"))? {
                found.sent = Some(row);
            }
            let row = self
                .conn
                .prepare(&format!(
                    "SELECT * FROM final_{n} WHERE key = ?1 ORDER BY pos DESC LIMIT 1"
                ))?
                .query_row([key.0 as i64], recover::finished)
                .optional()?
                .flatten();
            if let Some(row) = row {
                found.charged = Some(row.charged);
                found.end = Some((row.state, row.err, row.at_ms));
            }
        }
        Ok(())
    }

    fn last_sent(&self, key: MessageKey, table: &str) -> rusqlite::Result<Option<(UpstreamId, u64, String)>> {
        let row = self
            .conn
            .prepare(&format!(
                "SELECT * FROM {table} WHERE key = ?1 ORDER BY pos DESC LIMIT 1"
            ))?
            .query_row([key.0 as i64], recover::sent)
            .optional()?;
        Ok(row.as_ref().map(sent))
    }

    fn in_sealed(&self, key: MessageKey, n: i64) -> rusqlite::Result<Option<Stored>> {
        self.conn
            .prepare(&format!(
                "SELECT account, at, done, segments, price, charged, state, err, upstream, sent_at, smsc_id, stub
                 FROM closed_{n} WHERE key = ?1"
            ))?
            .query_row([key.0 as i64], |r| {
                let upstream = UpstreamId(r.get(8)?);
                let id = String::from_utf8_lossy(r.get_ref(10)?.as_blob()?).into_owned();
                let state = Final::from_code(r.get(6)?);
                let done = r.get::<_, i64>(2)? as u64;
                let err: u16 = r.get(7)?;
                Ok(Stored {
                    key,
                    account: AccountId(r.get(0)?),
                    at_ms: r.get::<_, i64>(1)? as u64,
                    segments: r.get(3)?,
                    price: Money(r.get(4)?),
                    charged: Some(Money(r.get(5)?)),
                    sent: (upstream != UpstreamId::NONE).then_some((
                        upstream,
                        r.get::<_, i64>(9)? as u64,
                        id,
                    )),
                    end: state.map(|s| (s, err, done)),
                    stub: Stub::from_record(r.get_ref(11)?.as_blob()?).unwrap_or_default(),
                })
            })
            .optional()
    }

    /// The newest ledger rows of an account.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn ledger(&self, account: AccountId, max: usize) -> Result<Vec<Line>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Line>> {
            self.conn
                .prepare(
                    "SELECT entry, at, reason, CASE WHEN credit = 'wallet' THEN amount ELSE -amount END, count, reference
                     FROM ledger WHERE account = ?1 ORDER BY entry DESC LIMIT ?2",
                )?
                .query_map((account.0, max as i64), |r| {
                    Ok(Line {
                        entry: r.get::<_, i64>(0)? as u64,
                        at_ms: r.get::<_, i64>(1)? as u64,
                        reason: r.get(2)?,
                        amount: Money(r.get(3)?),
                        count: r.get(4)?,
                        reference: r.get(5)?,
                    })
                })?
                .collect()
        };
        read().map_err(fault)
    }

    /// Adds everything up: every balance equals the fold of its ledger, and every account's charges equal what its
    /// messages cost. One read transaction, so it sees one moment; traffic goes on.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn check(&self) -> Result<Check, StoreError> {
        self.conn.execute_batch("BEGIN").map_err(fault)?;
        let result = self.sums().map_err(fault);
        self.conn.execute_batch("COMMIT").map_err(fault)?;
        result
    }

    /// See [`Reader::check`].
    pub(super) fn sums(&self) -> rusqlite::Result<Check> {
        let mut check = Check::default();
        let mut stmt = self.conn.prepare(
            "SELECT w.account, w.balance, COALESCE(SUM(CASE WHEN l.credit = 'wallet' THEN l.amount ELSE 0 END
                 - CASE WHEN l.debit = 'wallet' THEN l.amount ELSE 0 END), 0),
               COALESCE(SUM(CASE WHEN l.reason = 'charge' THEN l.amount WHEN l.reason = 'refund' THEN -l.amount ELSE 0 END), 0)
             FROM wallet w LEFT JOIN ledger l ON l.account = w.account GROUP BY w.account",
        )?;
        let mut rows = stmt.query([])?;
        let mut charges = std::collections::HashMap::new();
        while let Some(r) = rows.next()? {
            let (account, balance, fold, charged): (u32, i64, i64, i64) =
                (r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?);
            check.wallets += 1;
            charges.insert(account, charged);
            if balance != fold {
                check.faults.push(format!(
                    "account {account}: balance {} but its ledger adds up to {}",
                    Money(balance),
                    Money(fold)
                ));
            }
        }
        check.entries =
            self.conn
                .query_row("SELECT COUNT(*) FROM ledger", [], |r| r.get::<_, i64>(0))? as u64;
        for (account, (count, cost)) in self.messages_cost()? {
            check.messages += count;
            let charged = charges.remove(&account).unwrap_or(0);
            if cost != charged {
                check.faults.push(format!(
                    "account {account}: messages cost {} but {} was charged",
                    Money(cost),
                    Money(charged)
                ));
            }
        }
        for (account, charged) in charges.into_iter().filter(|(_, charged)| *charged != 0) {
            check.faults.push(format!(
                "account {account}: {} was charged and it has no messages",
                Money(charged)
            ));
        }
        Ok(check)
    }

    /// Per account: messages of sealed segments, those that are gone too, and what they have cost.
    pub(super) fn closed_cost(&self) -> rusqlite::Result<Cost> {
        let mut sums = Cost::new();
        let sealed: Vec<i64> = self
            .conn
            .prepare("SELECT number FROM segment WHERE state = 2")?
            .query_map([], |r| r.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for n in &sealed {
            self.add_cost(
                &mut sums,
                &format!("SELECT account, COUNT(*), SUM(charged) FROM closed_{n} GROUP BY account"),
            )?;
        }
        self.add_cost(
            &mut sums,
            "SELECT account, SUM(count), SUM(charged) FROM segment_total
             WHERE segment NOT IN (SELECT number FROM segment) GROUP BY account",
        )?;
        Ok(sums)
    }

    fn add_cost(&self, sums: &mut Cost, sql: &str) -> rusqlite::Result<()> {
        let mut stmt = self.conn.prepare(sql)?;
        let mut rows = stmt.query([])?;
        while let Some(r) = rows.next()? {
            let slot = sums.entry(r.get(0)?).or_default();
            slot.0 += r.get::<_, i64>(1)? as u64;
            slot.1 = slot.1.saturating_add(r.get::<_, i64>(2)?);
        }
        Ok(())
    }

    /// Per account: messages on record and what they have cost so far.
    pub(super) fn messages_cost(&self) -> rusqlite::Result<Cost> {
        let mut sums = self.closed_cost()?;
        let journals = recover::journals(&self.conn)?;
        let union = |table: &str, columns: &str| {
            journals
                .iter()
                .map(|n| format!("SELECT {columns} FROM {table}_{n}"))
                .collect::<Vec<_>>()
                .join(" UNION ALL ")
        };
        // Messages still in a journal or carried: what their events have charged. A message sent in parts is charged for each
        // part that was taken. A key may stand in both while a segment is being sealed, hence the UNION.
        let accepted = union("accepted", "key, account, price, terms");
        let finals = union("final", "key, charged");
        let sent = union("sent", "key, part");
        let journal = format!(
            "WITH a AS (SELECT key, account, price, terms FROM carried UNION {accepted}),
                  f AS (SELECT key, charged FROM ({finals}) GROUP BY key),
                  s AS (SELECT key, COUNT(DISTINCT part) AS parts, MIN(part) AS first, MAX(part) >> 8 AS total FROM
                          ({sent} UNION ALL SELECT key, part FROM carried_sent) GROUP BY key)
             SELECT a.account, COUNT(*), SUM(CASE
                 WHEN f.key IS NOT NULL THEN f.charged
                 WHEN a.terms & 3 = 0 THEN a.price
                 WHEN a.terms & 3 = 1 AND s.first = 0 THEN a.price
                 WHEN a.terms & 3 = 1 AND s.key IS NOT NULL THEN a.price * s.parts / s.total
                 ELSE 0 END)
             FROM a LEFT JOIN f ON f.key = a.key LEFT JOIN s ON s.key = a.key
             GROUP BY a.account"
        );
        self.add_cost(&mut sums, &journal)?;
        Ok(sums)
    }
}

fn sent(row: &crate::store::Sent) -> (UpstreamId, u64, String) {
    (
        row.upstream,
        row.at_ms,
        String::from_utf8_lossy(&row.smsc_id).into_owned(),
    )
}

pub(super) fn find_topup(
    conn: &Connection,
    provider: &str,
    receipt: &str,
) -> rusqlite::Result<Option<Topup>> {
    conn.prepare_cached("SELECT entry, account, amount, at FROM topup WHERE provider = ?1 AND receipt = ?2")?
        .query_row((provider, receipt), |r| {
            Ok(Topup {
                entry: r.get::<_, i64>(0)? as u64,
                account: AccountId(r.get(1)?),
                amount: Money(r.get(2)?),
                provider: provider.into(),
                receipt: receipt.into(),
                at_ms: r.get::<_, i64>(3)? as u64,
            })
        })
        .optional()
}
