//! Rows of a store that no daemon has made: the store is opened as the library does.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use rusqlite::Connection;
use smsconnect::domain::message::{Message, Parts, Piece};
use smsconnect::domain::outcome::{ChargeOn, Final, Wants};
use smsconnect::ids::{AccountId, BatchId, MessageKey, Pos, UpstreamId};
use smsconnect::money::Money;
use smsconnect::store::sqlite::{OpenError, Options, SqliteStore};
use smsconnect::store::{Accepted, Batch, Fence, Finished, Payment, Posting, Progress, Sent, Store, flags};

use super::WAIT;

pub const ACME: AccountId = AccountId(1);
pub const UP: UpstreamId = UpstreamId(3);
pub const PRICE: Money = Money(800_000);
pub const DAY_MS: u64 = 86_400_000;

/// Opens `store.db` and takes it over.
pub fn open(dir: &Path, segment_messages: u64) -> (SqliteStore, Fence) {
    let mut store = opened(dir, segment_messages).unwrap();
    let fence = store.acquire().unwrap().fence;
    (store, fence)
}

/// Opens `store.db`.
pub fn opened(dir: &Path, segment_messages: u64) -> Result<SqliteStore, OpenError> {
    opened_with(Options {
        accept_older: false,
        path: dir.join("store.db"),
        full: false,
        segment_messages,
        keep_days: 0,
    })
}

/// Opens a store. A process that another test is just starting has every descriptor of this one until it becomes the program
/// it is to be, and so may keep a store locked for a moment that was closed already.
pub fn opened_with(options: Options) -> Result<SqliteStore, OpenError> {
    let start = Instant::now();
    loop {
        match SqliteStore::open(options.clone()) {
            Err(OpenError::InUse(_)) if start.elapsed() < WAIT => std::thread::yield_now(),
            other => return other,
        }
    }
}

pub fn accepted(key: u64, at_ms: u64, text: &[u8]) -> Accepted {
    Accepted {
        key: MessageKey(key),
        account: ACME,
        at_ms,
        expires_ms: at_ms + DAY_MS,
        price: PRICE,
        tariff: 4,
        charge_on: ChargeOn::Submitted,
        wants: Wants::from_bits(1),
        segments: 1,
        line: 0,
        message: Message::new(&Parts {
            source: b"ACME",
            dest: b"254712345678",
            text,
            ..Parts::default()
        }),
    }
}

pub fn sent(pos: u64, key: u64) -> Sent {
    Sent {
        piece: Piece::WHOLE,
        pos: Pos(pos),
        key: MessageKey(key),
        upstream: UP,
        at_ms: 2_000,
        smsc_id: Box::from(key.to_string().as_bytes()),
    }
}

pub fn finished(pos: u64, key: u64) -> Finished {
    Finished {
        pos: Pos(pos),
        key: MessageKey(key),
        account: ACME,
        state: Final::Delivered,
        err: 0,
        at_ms: 3_000,
        charged: PRICE,
        flags: flags::WANTED,
    }
}

/// Holds the price of what a batch accepts, and charges `count` messages.
pub fn charge(batch: &mut Batch, count: u32) {
    let amount = Money(PRICE.0 * i64::from(count));
    let accepted = batch.accepted.len() as u32;
    let held = Money(PRICE.0 * i64::from(accepted));
    for (debit, credit, amount, count, reason) in [
        ("wallet", "held", held, accepted, "hold"),
        ("held", "revenue", amount, count, "charge"),
    ] {
        batch.postings.push(Posting {
            at_ms: 1,
            account: ACME,
            debit: debit.into(),
            credit: credit.into(),
            amount,
            count,
            reason: reason.into(),
            reference: String::new(),
            line: 0,
        });
    }
    batch.balances.push((ACME, Money(-amount.0)));
}

/// A payment of 10.00, and the upstream's name.
pub fn paid() -> Batch {
    let amount = Money(10_000_000);
    Batch {
        balances: vec![(ACME, amount)],
        payments: vec![Payment {
            entry: 0,
            account: ACME,
            amount,
            provider: "bank".into(),
            receipt: "R0".into(),
            at_ms: 1,
            ..Payment::default()
        }],
        postings: vec![Posting {
            at_ms: 1,
            account: ACME,
            debit: "clearing:bank".into(),
            credit: "wallet".into(),
            amount,
            count: 1,
            reason: "topup".into(),
            reference: "R0".into(),
            line: 0,
        }],
        upstreams: vec![(UP, "sim".into())],
        ..Batch::default()
    }
}

pub fn commit(store: &mut SqliteStore, fence: Fence, number: u64, mut batch: Batch) {
    batch.id = BatchId {
        epoch: fence.epoch,
        number,
    };
    store.commit(fence, &batch).unwrap();
}

/// Runs background work to its end.
pub fn maintain(store: &mut SqliteStore, fence: Fence, now_ms: u64) {
    for _ in 0..10_000 {
        if store.maintain(fence, now_ms).unwrap() == Progress::Idle {
            return;
        }
    }
    panic!("never idle");
}

pub fn number(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |r| r.get(0)).unwrap()
}

/// Messages in all, and up to which every seventh ends in the segment after its own.
pub const MESSAGES: u64 = 1_300;
pub const LATE: u64 = 300;

pub fn stays_open(key: u64) -> bool {
    key.is_multiple_of(7) && key > LATE
}

/// Two full segments of 600 messages and 100 more, nothing sealed.
pub fn two_full_segments(dir: &Path) {
    let (mut store, fence) = open(dir, 600);
    commit(&mut store, fence, 1, paid());
    let mut pos = 0;
    let mut next = || {
        pos += 1;
        pos
    };
    for n in 0..MESSAGES / 100 {
        let mut batch = Batch::default();
        for key in n * 100 + 1..=n * 100 + 100 {
            batch
                .accepted
                .push(accepted(key, 1_000, format!("text {key}").as_bytes()));
            batch.sent.push(sent(next(), key));
            if !key.is_multiple_of(7) {
                batch.finished.push(finished(next(), key));
            }
        }
        if n == 8 {
            for key in (7..=LATE).step_by(7) {
                batch.finished.push(finished(next(), key));
            }
        }
        charge(&mut batch, 100);
        commit(&mut store, fence, n + 2, batch);
    }
    assert!(store.backlog() >= 2, "two segments wait");
}

/// Keys of all messages on record, one as often as it is. Over: in its sealed segment. Open: in a journal, or carried out of
/// one, which then may still be there.
pub fn on_record(conn: &Connection) -> rusqlite::Result<Vec<u64>> {
    let keys = |sql: &str| -> rusqlite::Result<Vec<u64>> {
        conn.prepare(sql)?
            .query_map([], |r| Ok(r.get::<_, i64>(0)? as u64))?
            .collect()
    };
    let mut found = Vec::new();
    for n in keys("SELECT number FROM segment WHERE state < 2")? {
        found.extend(keys(&format!("SELECT key FROM accepted_{n}"))?);
    }
    let journals: HashSet<u64> = found.iter().copied().collect();
    found.extend(
        keys("SELECT key FROM carried")?
            .iter()
            .filter(|k| !journals.contains(k)),
    );
    for n in keys("SELECT number FROM segment WHERE state = 2")? {
        found.extend(keys(&format!("SELECT key FROM closed_{n}"))?);
    }
    Ok(found)
}
