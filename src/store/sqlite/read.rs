//! Read-only access beside the writer: what the admin socket shows of closed messages and of the ledger.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{StoreError, fault, recover};
use crate::domain::message::Stub;
use crate::domain::outcome::Final;
use crate::ids::{AccountId, MessageKey, UpstreamId};
use crate::money::Money;
use crate::store::MarkKind;

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
    /// A provisional state and its `err`, while it is open.
    pub provisional: Option<(Final, u16)>,
    /// How it ended, `err`, and when.
    pub end: Option<(Final, u16, u64)>,
    /// Its addresses.
    pub stub: Stub,
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

    pub(super) fn conn(&self) -> &Connection {
        &self.conn
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
            provisional: None,
            end: None,
            stub: a.message.stub(),
        };
        if table == "carried" {
            found.sent = self.last_sent(key, "carried_sent").map_err(fault)?;
            found.provisional = self.provisional(key, "carried_mark").map_err(fault)?;
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
            if let Some(state) = self.provisional(key, &format!("mark_{n}"))? {
                found.provisional = Some(state);
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

    fn provisional(&self, key: MessageKey, table: &str) -> rusqlite::Result<Option<(Final, u16)>> {
        let row = self
            .conn
            .prepare(&format!(
                "SELECT state, err FROM {table} WHERE key = ?1 AND kind = ?2 ORDER BY pos DESC LIMIT 1"
            ))?
            .query_row((key.0 as i64, MarkKind::Provisional as u8), |r| {
                Ok(Final::from_code(r.get(0)?).zip(Some(r.get(1)?)))
            })
            .optional()?;
        Ok(row.flatten())
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
                    provisional: None,
                    end: state.map(|s| (s, err, done)),
                    stub: Stub::from_record(r.get_ref(11)?.as_blob()?).unwrap_or_default(),
                })
            })
            .optional()
    }
}

fn sent(row: &crate::store::Sent) -> (UpstreamId, u64, String) {
    (
        row.upstream,
        row.at_ms,
        String::from_utf8_lossy(&row.smsc_id).into_owned(),
    )
}
