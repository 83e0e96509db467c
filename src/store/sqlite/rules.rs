//! Tables of senders, suppressed numbers and cases.

use rusqlite::{Connection, Row};

use super::{Reader, StoreError, fault};
use crate::domain::sender::{Sender, Standing};
use crate::domain::suppression::{Scope, Source, Subject, Suppression};
use crate::ids::{AccountId, Pos};
use crate::store::{Case, CaseState, OutboxRow, Record, RuleRow, RuleRows};

/// Senders, suppressed numbers (by keyed hash alone) and cases.
pub(super) const SCHEMA: &str = r"
CREATE TABLE sender(
  account TEXT NOT NULL, id TEXT NOT NULL COLLATE NOCASE, operator TEXT NOT NULL, class TEXT NOT NULL,
  standing INTEGER NOT NULL, at INTEGER NOT NULL, reference TEXT NOT NULL,
  PRIMARY KEY(account, id, operator)) WITHOUT ROWID;
CREATE TABLE suppression(
  subject BLOB NOT NULL, scope INTEGER NOT NULL, account INTEGER NOT NULL, sender TEXT NOT NULL, source INTEGER NOT NULL,
  transactional INTEGER NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL, until INTEGER NOT NULL,
  PRIMARY KEY(subject, scope, account, sender)) WITHOUT ROWID;
CREATE TABLE subject_key(one INTEGER PRIMARY KEY CHECK(one = 1), value BLOB NOT NULL);
CREATE TABLE abuse_case(
  id INTEGER PRIMARY KEY, account INTEGER NOT NULL, rule TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL,
  span INTEGER NOT NULL, at INTEGER NOT NULL, state INTEGER NOT NULL, closed INTEGER NOT NULL, note TEXT NOT NULL);
";

/// Writes what a commit changes.
pub(super) fn write(conn: &Connection, rows: &RuleRows) -> rusqlite::Result<()> {
    if rows.rows() == 0 {
        return Ok(());
    }
    for s in &rows.senders {
        conn.prepare_cached("INSERT OR REPLACE INTO sender VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((
                &s.account,
                &s.id,
                &s.operator,
                &s.class,
                s.standing as u8,
                s.at_ms as i64,
                &s.reference,
            ))?;
    }
    for (subject, scope) in &rows.unsuppressed {
        conn.prepare_cached(
            "DELETE FROM suppression WHERE subject = ?1 AND scope = ?2 AND account = ?3 AND sender = ?4",
        )?
        .execute((&subject[..], scope.code(), scope.account().0, scope.sender()))?;
    }
    for s in &rows.suppressed {
        conn.prepare_cached("INSERT OR REPLACE INTO suppression VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute((
                &s.subject[..],
                s.scope.code(),
                s.scope.account().0,
                s.scope.sender(),
                s.source as u8,
                s.transactional,
                &s.reason,
                s.at_ms as i64,
                s.until_ms as i64,
            ))?;
    }
    if let Some(check) = &rows.key_check {
        conn.prepare_cached("INSERT OR REPLACE INTO subject_key VALUES(1, ?1)")?
            .execute([&check[..]])?;
    }
    for c in &rows.cases {
        conn.prepare_cached(
            "INSERT OR REPLACE INTO abuse_case VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute((
            c.id as i64,
            c.account.0,
            &c.rule,
            &c.kind,
            c.count as i64,
            c.span_s,
            c.at_ms as i64,
            c.state as u8,
            c.closed_ms as i64,
            &c.note,
        ))?;
    }
    Ok(())
}

/// Reads everything back.
pub(super) fn recover(conn: &Connection, out: &mut dyn FnMut(Record<'_>)) -> rusqlite::Result<()> {
    let mut stmt = conn.prepare("SELECT value FROM subject_key")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Rule(RuleRow::KeyCheck(subject(r, 0)?)));
    }
    let mut stmt =
        conn.prepare("SELECT account, id, operator, class, standing, at, reference FROM sender")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Rule(RuleRow::Sender(Sender {
            account: r.get(0)?,
            id: r.get(1)?,
            operator: r.get(2)?,
            class: r.get(3)?,
            standing: Standing::from_code(r.get(4)?),
            reserved: false,
            at_ms: ms(r, 5)?,
            reference: r.get(6)?,
        })));
    }
    let mut stmt = conn.prepare("SELECT * FROM suppression")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        if let Some(s) = suppression(r)? {
            out(Record::Rule(RuleRow::Suppressed(s)));
        }
    }
    let mut stmt = conn.prepare("SELECT * FROM abuse_case ORDER BY id")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Rule(RuleRow::Case(case(r)?)));
    }
    let mut stmt = conn.prepare("SELECT pos FROM outbox WHERE account = 0 AND kind = 1 ORDER BY pos")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Rule(RuleRow::Unclaimed(Pos(ms(r, 0)?))));
    }
    Ok(())
}

fn ms(r: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(r.get::<_, i64>(column)? as u64)
}

fn subject(r: &Row<'_>, column: usize) -> rusqlite::Result<Subject> {
    let blob = r.get_ref(column)?.as_blob()?;
    blob.try_into().map_err(|_| {
        rusqlite::Error::InvalidColumnType(column, "subject".into(), rusqlite::types::Type::Blob)
    })
}

/// `None`: of a scope that this release does not know.
fn suppression(r: &Row<'_>) -> rusqlite::Result<Option<Suppression>> {
    let sender: String = r.get(3)?;
    let Some(scope) = Scope::from_stored(r.get(1)?, AccountId(r.get(2)?), &sender) else {
        return Ok(None);
    };
    Ok(Some(Suppression {
        subject: subject(r, 0)?,
        scope,
        source: Source::from_code(r.get(4)?),
        transactional: r.get(5)?,
        reason: r.get(6)?,
        at_ms: ms(r, 7)?,
        until_ms: ms(r, 8)?,
    }))
}

fn case(r: &Row<'_>) -> rusqlite::Result<Case> {
    Ok(Case {
        id: ms(r, 0)?,
        account: AccountId(r.get(1)?),
        rule: r.get(2)?,
        kind: r.get(3)?,
        count: ms(r, 4)?,
        span_s: r.get(5)?,
        at_ms: ms(r, 6)?,
        state: if r.get::<_, u8>(7)? == CaseState::Closed as u8 {
            CaseState::Closed
        } else {
            CaseState::Open
        },
        closed_ms: ms(r, 8)?,
        note: r.get(9)?,
    })
}

impl Reader {
    /// Entries in the order of their hashes, after `after`; those of one account, or all.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn suppressions(
        &self,
        account: Option<AccountId>,
        after: &[u8],
        max: usize,
    ) -> Result<Vec<Suppression>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Suppression>> {
            let mut stmt = self.conn.prepare(
                "SELECT * FROM suppression WHERE subject > ?1 AND (?2 IS NULL OR account = ?2) ORDER BY subject LIMIT ?3",
            )?;
            let mut rows = stmt.query((after, account.map(|a| a.0), max as i64))?;
            let mut out = Vec::new();
            while let Some(r) = rows.next()? {
                out.extend(suppression(r)?);
            }
            Ok(out)
        };
        read().map_err(fault)
    }

    /// Every entry of one number.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn suppressed(&self, subject: &Subject) -> Result<Vec<Suppression>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Suppression>> {
            let mut stmt = self
                .conn
                .prepare("SELECT * FROM suppression WHERE subject = ?1")?;
            let mut rows = stmt.query([&subject[..]])?;
            let mut out = Vec::new();
            while let Some(r) = rows.next()? {
                out.extend(suppression(r)?);
            }
            Ok(out)
        };
        read().map_err(fault)
    }

    /// Cases, newest first, before `before`; open ones only, or all.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn cases(&self, all: bool, before: u64, max: usize) -> Result<Vec<Case>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Case>> {
            self.conn
                .prepare(
                    "SELECT * FROM abuse_case WHERE id < ?1 AND (?2 OR state = 0) ORDER BY id DESC LIMIT ?3",
                )?
                .query_map((before as i64, all, max as i64), case)?
                .collect()
        };
        read().map_err(fault)
    }

    /// Inbound messages that no rule claims, newest first, before `before`.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn unclaimed(&self, before: u64, max: usize) -> Result<Vec<OutboxRow>, StoreError> {
        let read = || -> rusqlite::Result<Vec<OutboxRow>> {
            self.conn
                .prepare(
                    "SELECT pos, at, payload FROM outbox WHERE account = 0 AND kind = 1 AND pos < ?1 ORDER BY pos DESC LIMIT ?2",
                )?
                .query_map((before as i64, max as i64), |r| {
                    Ok(OutboxRow {
                        account: AccountId::NONE,
                        pos: Pos(ms(r, 0)?),
                        kind: crate::store::OutboxKind::Inbound,
                        key: crate::ids::MessageKey(0),
                        at_ms: ms(r, 1)?,
                        parked: true,
                        payload: r.get_ref(2)?.as_blob()?.into(),
                    })
                })?
                .collect()
        };
        read().map_err(fault)
    }
}
