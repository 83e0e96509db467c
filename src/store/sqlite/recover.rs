//! Reading back what is open.

use std::collections::HashSet;

use rusqlite::{Connection, Row, Rows};

use super::{StoreError, fault};
use crate::domain::account::{Account, AccountState, Alphabet, BindAllowed, DeliverAs, Receipts};
use crate::domain::message::{Message, Piece};
use crate::domain::outcome::{ChargeOn, Final, Wants};
use crate::domain::tariff::PriceRule;
use crate::ids::{AccountId, MessageKey, Pos, UpstreamId};
use crate::money::Money;
use crate::store::{
    Accepted, BillingLine, Finished, Mark, MarkKind, OutboxKind, OutboxRow, Parked, Record, Sent,
    TariffVersion,
};

type Out<'a> = &'a mut dyn FnMut(Record<'_>);

pub(super) fn recover(conn: &Connection, out: Out<'_>) -> Result<(), StoreError> {
    control(conn, out).map_err(fault)?;
    super::rules::recover(conn, out).map_err(fault)?;
    carried(conn, out)?;
    for segment in journals(conn).map_err(fault)? {
        journal(conn, segment, out)?;
    }
    waiting(conn, out).map_err(fault)
}

/// Segments that are not sealed yet, oldest first.
pub(super) fn journals(conn: &Connection) -> rusqlite::Result<Vec<i64>> {
    conn.prepare("SELECT number FROM segment WHERE state < 2 ORDER BY number")?
        .query_map([], |r| r.get(0))?
        .collect()
}

fn control(conn: &Connection, out: Out<'_>) -> rusqlite::Result<()> {
    let mut stmt = conn.prepare("SELECT * FROM account ORDER BY id")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Account(Box::new(account(r)?)));
    }
    let mut stmt = conn.prepare("SELECT id, name FROM upstream ORDER BY id")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Upstream(UpstreamId(r.get(0)?), r.get_ref(1)?.as_str()?));
    }
    money(conn, out)?;
    let mut stmt = conn.prepare("SELECT account, pos FROM watermark")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Watermark(AccountId(r.get(0)?), pos(r, 1)?));
    }
    Ok(())
}

fn money(conn: &Connection, out: Out<'_>) -> rusqlite::Result<()> {
    let mut stmt = conn.prepare(
        "SELECT account, prefix, operator, class, effective_from, price FROM price ORDER BY account",
    )?;
    let mut rows = stmt.query([])?;
    let mut prices: std::collections::BTreeMap<u32, Vec<PriceRule>> = std::collections::BTreeMap::new();
    while let Some(r) = rows.next()? {
        prices.entry(r.get(0)?).or_default().push(PriceRule {
            prefix: r.get(1)?,
            operator: r.get(2)?,
            class: r.get(3)?,
            from_ms: ms(r, 4)?,
            price: Money(r.get(5)?),
        });
    }
    prices
        .into_iter()
        .for_each(|(account, rules)| out(Record::Prices(AccountId(account), rules)));
    let mut stmt = conn.prepare("SELECT version, name, at, terms FROM tariff_version ORDER BY version")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        let terms = r.get_ref(3)?.as_str()?.parse().map_err(|e| {
            rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(e))
        })?;
        out(Record::Tariff(TariffVersion {
            version: r.get(0)?,
            name: r.get(1)?,
            at_ms: ms(r, 2)?,
            terms,
        }));
    }
    let mut stmt = conn.prepare("SELECT id, route, class FROM billing_line ORDER BY id")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        let line = BillingLine {
            route: r.get(1)?,
            class: r.get(2)?,
        };
        out(Record::Line(r.get(0)?, line));
    }
    let mut stmt = conn.prepare("SELECT account, balance, frozen FROM wallet")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Wallet(AccountId(r.get(0)?), Money(r.get(1)?), r.get(2)?));
    }
    // Of the running month and the one before: whoever counts knows which day it is.
    let mut stmt = conn
        .prepare("SELECT account, day, segments FROM usage WHERE day + 62 >= (SELECT MAX(day) FROM usage)")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Usage(AccountId(r.get(0)?), r.get(1)?, ms(r, 2)?));
    }
    Ok(())
}

fn pos(r: &Row<'_>, column: usize) -> rusqlite::Result<Pos> {
    Ok(Pos(r.get::<_, i64>(column)? as u64))
}

fn key(r: &Row<'_>, column: usize) -> rusqlite::Result<MessageKey> {
    Ok(MessageKey(r.get::<_, i64>(column)? as u64))
}

fn ms(r: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(r.get::<_, i64>(column)? as u64)
}

fn damaged(what: &str, key: MessageKey) -> StoreError {
    StoreError::Fatal(format!("the {what} row of message {key} cannot be read"))
}

/// A row of an `accepted_N` table (or the same columns of `carried`).
pub(super) fn accepted(r: &Row<'_>) -> Result<Accepted, StoreError> {
    let id = key(r, 0).map_err(fault)?;
    let record = r.get_ref(8).map_err(fault)?;
    let message = record.as_blob().ok().and_then(|b| Message::from_record(b).ok());
    let read = || -> rusqlite::Result<Accepted> {
        let terms: u8 = r.get(6)?;
        Ok(Accepted {
            key: id,
            account: AccountId(r.get(1)?),
            at_ms: ms(r, 2)?,
            expires_ms: ms(r, 3)?,
            price: Money(r.get(4)?),
            tariff: r.get(5)?,
            charge_on: ChargeOn::from_code(terms & 3),
            wants: Wants::from_bits(terms >> 2),
            segments: r.get(7)?,
            line: r.get(9)?,
            message: message
                .clone()
                .unwrap_or_else(|| Message::new(&crate::domain::message::Parts::default())),
        })
    };
    if message.is_none() {
        return Err(damaged("accepted", id));
    }
    read().map_err(fault)
}

/// What became of a carried message, in the order of its positions.
enum Step {
    Sent(Sent),
    Mark(Mark),
}

impl Step {
    fn pos(&self) -> Pos {
        match self {
            Step::Sent(e) => e.pos,
            Step::Mark(e) => e.pos,
        }
    }
}

/// Messages of sealed segments. There may be millions whose receipts are awaited: those are told one by one, each with the step
/// that left it so, and nothing is kept of them. The steps of the others come at the end, in the order of their positions.
fn carried(conn: &Connection, out: Out<'_>) -> Result<(), StoreError> {
    let (first, touched) = touched(conn).map_err(fault)?;
    let by_key = |table: &str, order: &str| conn.prepare(&format!("SELECT * FROM {table} ORDER BY {order}"));
    let mut stmt = by_key("carried", "key").map_err(fault)?;
    let mut sents = by_key("carried_sent", "key, pos").map_err(fault)?;
    let mut marks = by_key("carried_mark", "key, pos").map_err(fault)?;
    let mut rows = stmt.query([]).map_err(fault)?;
    let (mut sents, mut marks) = (sents.query([]).map_err(fault)?, marks.query([]).map_err(fault)?);
    let (mut sent, mut mark) = (next_sent(&mut sents)?, next_mark(&mut marks)?);
    let (mut steps, mut later) = (Vec::new(), Vec::new());
    while let Some(r) = rows.next().map_err(fault)? {
        let row = accepted(r)?;
        steps.clear();
        while let Some(e) = sent.take_if(|e| e.key <= row.key) {
            steps.extend((e.key == row.key).then_some(Step::Sent(e)));
            sent = next_sent(&mut sents)?;
        }
        while let Some(e) = mark.take_if(|e| e.key <= row.key) {
            steps.extend((e.key == row.key).then_some(Step::Mark(e)));
            mark = next_mark(&mut marks)?;
        }
        match awaits_receipt(&mut steps) {
            Some(sent) if row.key < first && !touched.contains(&row.key.0) => {
                out(Record::Awaiting(&row, sent))
            }
            _ => {
                out(Record::Accepted(&row));
                later.append(&mut steps);
            }
        }
    }
    later.sort_unstable_by_key(Step::pos);
    for step in &later {
        match step {
            Step::Sent(e) => out(Record::Sent(e)),
            Step::Mark(e) => out(Record::Mark(e)),
        }
    }
    Ok(())
}

/// The step after which nothing but a receipt is awaited, if these end with it.
fn awaits_receipt(steps: &mut [Step]) -> Option<&Sent> {
    steps.sort_unstable_by_key(Step::pos);
    match steps.split_last()? {
        (Step::Sent(sent), before) if sent.piece == Piece::WHOLE => before
            .iter()
            .all(|s| matches!(s, Step::Mark(m) if matches!(m.kind, MarkKind::Sending | MarkKind::Requeued | MarkKind::Replaced | MarkKind::Waits) && m.piece == Piece::WHOLE))
            .then_some(sent),
        _ => None,
    }
}

/// The first message of the journals that are not sealed, which may be carried already, and the carried messages before it of which
/// these journals tell more.
fn touched(conn: &Connection) -> rusqlite::Result<(MessageKey, HashSet<u64>)> {
    let mut found = HashSet::new();
    let open = journals(conn)?;
    let mut first = i64::MAX;
    for n in &open {
        let key: Option<i64> =
            conn.query_row(&format!("SELECT MIN(key) FROM accepted_{n}"), [], |r| r.get(0))?;
        first = first.min(key.unwrap_or(i64::MAX));
    }
    for n in open {
        for table in ["sent", "mark", "final"] {
            let mut stmt = conn.prepare(&format!("SELECT key FROM {table}_{n} WHERE key < ?1"))?;
            let mut rows = stmt.query([first])?;
            while let Some(r) = rows.next()? {
                found.insert(r.get::<_, i64>(0)? as u64);
            }
        }
    }
    Ok((MessageKey(first as u64), found))
}

/// A row of a `sent_N` table or of `carried_sent`.
pub(super) fn sent(r: &Row<'_>) -> rusqlite::Result<Sent> {
    Ok(Sent {
        pos: pos(r, 0)?,
        key: key(r, 1)?,
        upstream: UpstreamId(r.get(2)?),
        at_ms: ms(r, 3)?,
        smsc_id: r.get_ref(4)?.as_blob()?.into(),
        piece: Piece::from_code(r.get(5)?),
    })
}

/// A row of a `mark_N` table or of `carried_mark`; `None` for a kind this release does not know.
fn mark(r: &Row<'_>) -> rusqlite::Result<Option<Mark>> {
    let Some(kind) = MarkKind::from_code(r.get(2)?) else {
        return Ok(None);
    };
    Ok(Some(Mark {
        pos: pos(r, 0)?,
        key: key(r, 1)?,
        kind,
        at_ms: ms(r, 3)?,
        upstream: UpstreamId(r.get(4)?),
        state: r.get(5)?,
        err: r.get(6)?,
        flags: r.get(7)?,
        piece: Piece::from_code(r.get(8)?),
    }))
}

/// The rows of two tables in the order in which they were written: what a mark means may depend on what was sent before it.
fn events(conn: &Connection, sents: &str, marks: &str, out: Out<'_>) -> Result<(), StoreError> {
    let by_pos = |table: &str| conn.prepare(&format!("SELECT * FROM {table} ORDER BY pos"));
    let (mut sents, mut marks) = (by_pos(sents).map_err(fault)?, by_pos(marks).map_err(fault)?);
    let mut sents = sents.query([]).map_err(fault)?;
    let mut marks = marks.query([]).map_err(fault)?;
    let (mut sent, mut mark) = (next_sent(&mut sents)?, next_mark(&mut marks)?);
    loop {
        match (&sent, &mark) {
            (Some(s), Some(m)) if m.pos < s.pos => {
                out(Record::Mark(m));
                mark = next_mark(&mut marks)?;
            }
            (Some(s), _) => {
                out(Record::Sent(s));
                sent = next_sent(&mut sents)?;
            }
            (None, Some(m)) => {
                out(Record::Mark(m));
                mark = next_mark(&mut marks)?;
            }
            (None, None) => return Ok(()),
        }
    }
}

fn next_sent(rows: &mut Rows<'_>) -> Result<Option<Sent>, StoreError> {
    let row = rows.next().map_err(fault)?;
    row.map(|r| sent(r).map_err(fault)).transpose()
}

fn next_mark(rows: &mut Rows<'_>) -> Result<Option<Mark>, StoreError> {
    let Some(r) = rows.next().map_err(fault)? else {
        return Ok(None);
    };
    let id = key(r, 1).map_err(fault)?;
    let row = mark(r).map_err(fault)?.ok_or_else(|| damaged("mark", id))?;
    Ok(Some(row))
}

/// A row of a `final_N` table; `None` for a state this release does not know.
pub(super) fn finished(r: &Row<'_>) -> rusqlite::Result<Option<Finished>> {
    let Some(state) = Final::from_code(r.get(3)?) else {
        return Ok(None);
    };
    Ok(Some(Finished {
        pos: pos(r, 0)?,
        key: key(r, 1)?,
        account: AccountId(r.get(2)?),
        state,
        err: r.get(4)?,
        at_ms: ms(r, 5)?,
        charged: Money(r.get(6)?),
        flags: r.get(7)?,
    }))
}

fn journal(conn: &Connection, n: i64, out: Out<'_>) -> Result<(), StoreError> {
    let mut stmt = conn
        .prepare(&format!("SELECT * FROM accepted_{n} ORDER BY key"))
        .map_err(fault)?;
    let mut rows = stmt.query([]).map_err(fault)?;
    while let Some(r) = rows.next().map_err(fault)? {
        out(Record::Accepted(&accepted(r)?));
    }
    events(conn, &format!("sent_{n}"), &format!("mark_{n}"), out)?;
    let mut stmt = conn
        .prepare(&format!("SELECT * FROM final_{n} ORDER BY pos"))
        .map_err(fault)?;
    let mut rows = stmt.query([]).map_err(fault)?;
    while let Some(r) = rows.next().map_err(fault)? {
        let id = key(r, 1).map_err(fault)?;
        let row = finished(r).map_err(fault)?.ok_or_else(|| damaged("final", id))?;
        out(Record::Finished(&row));
    }
    Ok(())
}

fn waiting(conn: &Connection, out: Out<'_>) -> rusqlite::Result<()> {
    let mut stmt =
        conn.prepare("SELECT pos, upstream, smsc_id, number, state, err, at FROM parked ORDER BY pos")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Parked(Parked {
            pos: pos(r, 0)?,
            upstream: UpstreamId(r.get(1)?),
            smsc_id: r.get_ref(2)?.as_blob()?.into(),
            number: r.get_ref(3)?.as_blob()?.into(),
            state: r.get(4)?,
            err: r.get(5)?,
            at_ms: ms(r, 6)?,
        }));
    }
    let mut stmt = conn.prepare("SELECT account, COUNT(*) FROM outbox WHERE parked = 0 GROUP BY account")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Outbox(AccountId(r.get(0)?), ms(r, 1)?));
    }
    let mut stmt = conn.prepare(
        "SELECT pos, kind, key, at, payload FROM outbox WHERE account = 0 AND kind = 2 ORDER BY pos",
    )?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        out(Record::Part(outbox_row(AccountId::NONE, r)?));
    }
    Ok(())
}

fn account(r: &Row<'_>) -> rusqlite::Result<Account> {
    let list = |text: String| {
        text.split(',')
            .filter(|s| !s.is_empty())
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    Ok(Account {
        id: AccountId(r.get(0)?),
        name: r.get(1)?,
        system_id: r.get(2)?,
        password_hash: r.get(3)?,
        tariff: r.get(4)?,
        tps: r.get(5)?,
        window: r.get(6)?,
        max_binds: r.get(7)?,
        allow_ips: list(r.get(8)?),
        senders: list(r.get(9)?),
        bind: match r.get::<_, u8>(10)? {
            1 => BindAllowed::Transmitter,
            2 => BindAllowed::Receiver,
            3 => BindAllowed::Transceiver,
            _ => BindAllowed::All,
        },
        state: match r.get::<_, u8>(11)? {
            0 => AccountState::Active,
            1 => AccountState::Suspended,
            _ => AccountState::Closed,
        },
        credit_limit: Money(r.get(12)?),
        created_ms: ms(r, 13)?,
        deliver_as: DeliverAs::from_code(r.get(14)?),
        receipts: Receipts::from_code(r.get(15)?),
        alphabet: Alphabet::from_code(r.get(16)?),
        transliterate: r.get(17)?,
        outbind: r.get(18)?,
        outbind_password: r.get(19)?,
        certificates: list(r.get(20)?),
        currency: r.get(21)?,
        low_balance: Money(r.get(22)?),
        quota_day: ms(r, 23)?,
        quota_month: ms(r, 24)?,
        allow_upstreams: list(r.get("allow_upstreams")?),
        deny_upstreams: list(r.get("deny_upstreams")?),
        residency: r.get("residency")?,
    })
}

/// Reads rows of messages by key: from the journal whose keys begin next below, or from what was carried forward. Keys rise, so that
/// no two journals overlap.
pub(super) fn open_rows(
    conn: &Connection,
    keys: &[MessageKey],
    out: &mut dyn FnMut(Accepted),
) -> Result<(), StoreError> {
    let mut tables: Vec<(i64, String)> = Vec::new();
    for n in journals(conn).map_err(fault)? {
        let first: Option<i64> = conn
            .prepare_cached(&format!("SELECT MIN(key) FROM accepted_{n}"))
            .and_then(|mut s| s.query_row([], |r| r.get(0)))
            .map_err(fault)?;
        tables.extend(first.map(|first| (first, format!("SELECT * FROM accepted_{n} WHERE key = ?1"))));
    }
    tables.sort_unstable();
    let carried = "SELECT * FROM carried WHERE key = ?1";
    for id in keys {
        let at = tables.partition_point(|(first, _)| *first <= id.0 as i64);
        let journal = at.checked_sub(1).and_then(|at| tables.get(at));
        for table in journal.map(|(_, sql)| sql.as_str()).into_iter().chain([carried]) {
            let mut stmt = conn.prepare_cached(table).map_err(fault)?;
            let mut rows = stmt.query([id.0 as i64]).map_err(fault)?;
            if let Some(r) = rows.next().map_err(fault)? {
                out(accepted(r)?);
                break;
            }
        }
    }
    Ok(())
}

/// Columns: pos, kind, key, at, payload.
fn outbox_row(account: AccountId, r: &Row<'_>) -> rusqlite::Result<OutboxRow> {
    Ok(OutboxRow {
        account,
        pos: pos(r, 0)?,
        kind: OutboxKind::from_code(r.get(1)?),
        key: key(r, 2)?,
        at_ms: ms(r, 3)?,
        parked: false,
        payload: r.get_ref(4)?.as_blob()?.into(),
    })
}

pub(super) fn load_outbox(
    conn: &Connection,
    account: AccountId,
    after: Pos,
    max: usize,
) -> Result<Vec<OutboxRow>, StoreError> {
    let read = || -> rusqlite::Result<Vec<OutboxRow>> {
        conn.prepare_cached(
            "SELECT pos, kind, key, at, payload FROM outbox
             WHERE account = ?1 AND pos > ?2 AND parked = 0 ORDER BY pos LIMIT ?3",
        )?
        .query_map((account.0, after.0 as i64, max as i64), |r| {
            outbox_row(account, r)
        })?
        .collect()
    };
    read().map_err(fault)
}

/// Rows of stored outboxes looked at in one slice.
const EXPIRE_SLICE: usize = 2_000;

/// Account and position of a row of the stored outboxes.
type Cursor = (i64, i64);

/// Deletes old rows behind `cursor` (account, position); where to go on, and whose went (`true`: a parked one).
pub(super) fn expire_outbox(
    conn: &Connection,
    cursor: Cursor,
    before_ms: u64,
) -> rusqlite::Result<(Cursor, Vec<(AccountId, bool)>)> {
    let rows: Vec<(u32, i64, i64, bool)> = conn
        .prepare_cached(
            "SELECT account, pos, at, parked FROM outbox WHERE (account, pos) > (?1, ?2) ORDER BY account, pos LIMIT ?3",
        )?
        .query_map((cursor.0, cursor.1, EXPIRE_SLICE as i64), |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let old: Vec<_> = rows
        .iter()
        .filter(|(_, _, at, _)| (*at as u64) < before_ms)
        .collect();
    if !old.is_empty() {
        let tx = conn.unchecked_transaction()?;
        for (account, pos, ..) in &old {
            tx.prepare_cached("DELETE FROM outbox WHERE account = ?1 AND pos = ?2")?
                .execute((account, pos))?;
        }
        tx.commit()?;
    }
    let next = match rows.last() {
        Some((account, pos, ..)) if rows.len() == EXPIRE_SLICE => (i64::from(*account), *pos),
        _ => (-1, 0),
    };
    let gone = old
        .iter()
        .map(|(account, _, _, parked)| (AccountId(*account), *parked));
    Ok((next, gone.collect()))
}
