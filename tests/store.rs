//! The store: one suite of promises that every implementation keeps, and what SQLite adds (files, locks, segments).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use smsconnect::domain::account::{Account, AccountState, BindAllowed};
use smsconnect::domain::message::{Message, Parts, Piece};
use smsconnect::domain::outcome::{ChargeOn, Final, Wants};
use smsconnect::ids::{AccountId, BatchId, MessageKey, Pos, UpstreamId};
use smsconnect::money::Money;
use smsconnect::store::memory::MemoryStore;
use smsconnect::store::sqlite::{OpenError, Options, Reader, SqliteStore};
use smsconnect::store::{
    Accepted, Batch, Fence, Finished, Mark, MarkKind, OutboxKind, OutboxRow, Parked, Payment, Posting,
    Progress, Record, Sent, Store, StoreError, flags,
};

const ACME: AccountId = AccountId(1);
const UP: UpstreamId = UpstreamId(3);

fn options(dir: &Path) -> Options {
    Options {
        accept_older: false,
        path: dir.join("store.db"),
        full: true,
        segment_messages: 1_000_000,
        keep_days: 0,
    }
}

/// Runs a check against every implementation: `open` opens the store again, as after a restart.
fn each(check: impl Fn(&mut dyn FnMut() -> Box<dyn Store>)) {
    let memory = MemoryStore::default();
    check(&mut || Box::new(memory.reopen()));
    let dir = tempfile::tempdir().unwrap();
    check(&mut || Box::new(SqliteStore::open(options(dir.path())).unwrap()));
}

fn account(id: AccountId) -> Account {
    Account {
        id,
        name: format!("account{}", id.0),
        system_id: format!("sys{}", id.0),
        password_hash: "$argon2id$x".into(),
        tariff: "standard".into(),
        tps: 7,
        window: 8,
        max_binds: 9,
        allow_ips: vec!["10.0.0.0/8".into(), "192.0.2.1".into()],
        senders: vec!["ACME".into()],
        bind: BindAllowed::Receiver,
        state: AccountState::Suspended,
        credit_limit: Money(5),
        created_ms: 11,
        ..Account::default()
    }
}

fn message(text: &[u8]) -> Message {
    Message::new(&Parts {
        source: b"ACME",
        dest: b"254712345678",
        text,
        ..Parts::default()
    })
}

fn accepted(key: u64, text: &[u8]) -> Accepted {
    Accepted {
        key: MessageKey(key),
        account: ACME,
        at_ms: 1_000,
        expires_ms: 99_000,
        price: Money(800_000),
        tariff: 4,
        charge_on: ChargeOn::Submitted,
        wants: Wants::from_bits(1),
        segments: 2,
        line: 0,
        message: message(text),
    }
}

fn sent(pos: u64, key: u64) -> Sent {
    Sent {
        piece: Piece::WHOLE,
        pos: Pos(pos),
        key: MessageKey(key),
        upstream: UP,
        at_ms: 2_000,
        smsc_id: Box::from(&b"A1"[..]),
    }
}

fn finished(pos: u64, key: u64) -> Finished {
    Finished {
        pos: Pos(pos),
        key: MessageKey(key),
        account: ACME,
        state: Final::Delivered,
        err: 0,
        at_ms: 3_000,
        charged: Money(800_000),
        flags: flags::WANTED,
    }
}

fn topup(receipt: &str) -> Payment {
    Payment {
        entry: 0,
        account: ACME,
        amount: Money(10_000_000),
        provider: "mpesa".into(),
        receipt: receipt.into(),
        at_ms: 1,
        ..Payment::default()
    }
}

/// Holds the price of what a batch accepts, and charges `count` messages.
fn charge(batch: &mut Batch, count: u32) {
    let amount = Money(800_000 * i64::from(count));
    let accepted = batch.accepted.len() as u32;
    let held = Money(800_000 * i64::from(accepted));
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

fn topup_posting(receipt: &str) -> Posting {
    Posting {
        at_ms: 1,
        account: ACME,
        debit: "clearing:mpesa".into(),
        credit: "wallet".into(),
        amount: Money(10_000_000),
        count: 1,
        reason: "topup".into(),
        reference: receipt.into(),
        line: 0,
    }
}

fn accepted_words(a: &Accepted) -> String {
    format!(
        "accepted {} {} {} {} {} {} {:?} {:?} {}",
        a.key.0, a.account.0, a.at_ms, a.expires_ms, a.price, a.tariff, a.charge_on, a.wants, a.segments
    )
}

fn sent_words(e: &Sent) -> String {
    format!(
        "sent {} {} {} {:?} {}",
        e.pos.0, e.key.0, e.upstream.0, e.smsc_id, e.at_ms
    )
}

/// Everything recovery tells, in words that can be compared.
fn recovered(store: &mut dyn Store) -> Vec<String> {
    let mut out = Vec::new();
    store
        .recover(&mut |r| {
            out.push(match r {
                Record::Account(a) => format!(
                    "account {} {} {} {} {}/{}/{} {:?} {:?} {} {} {} {}",
                    a.id.0,
                    a.name,
                    a.system_id,
                    a.tariff,
                    a.tps,
                    a.window,
                    a.max_binds,
                    a.allow_ips,
                    a.senders,
                    a.bind as u8,
                    a.state.name(),
                    a.credit_limit,
                    a.created_ms
                ),
                Record::Upstream(id, name) => format!("upstream {} {name}", id.0),
                Record::Wallet(a, m, frozen) => format!("wallet {} {m} {frozen}", a.0),
                Record::Prices(a, rules) => format!("prices {} {rules:?}", a.0),
                Record::Tariff(t) => format!("tariff {} {} {} {}", t.version, t.name, t.at_ms, t.terms),
                Record::Line(n, line) => format!("line {n} {} {}", line.route, line.class),
                Record::Usage(a, day, n) => format!("usage {} {day} {n}", a.0),
                Record::Watermark(a, p) => format!("mark {} {}", a.0, p.0),
                Record::Accepted(a) => accepted_words(a),
                Record::Awaiting(a, e) => format!("{}\n{}", accepted_words(a), sent_words(e)),
                Record::Sent(e) => sent_words(e),
                Record::Mark(e) => format!(
                    "step {} {} {:?} {} {} {}",
                    e.pos.0, e.key.0, e.kind, e.upstream.0, e.state, e.err
                ),
                Record::Finished(e) => format!(
                    "finished {} {} {:?} {} {} {} {}",
                    e.pos.0, e.key.0, e.state, e.err, e.charged, e.flags, e.at_ms
                ),
                Record::Parked(p) => format!(
                    "parked {} {} {:?} {:?} {} {}",
                    p.pos.0, p.upstream.0, p.smsc_id, p.number, p.state, p.err
                ),
                Record::Part(row) => format!("part {:?} {}", row.kind, row.pos.0),
                Record::Outbox(a, n) => format!("outbox {} {n}", a.0),
                Record::Rule(row) => format!("rule {row:?}"),
            });
        })
        .unwrap();
    out
}

fn commit(store: &mut dyn Store, fence: Fence, number: u64, mut batch: Batch) -> Result<(), StoreError> {
    batch.id = BatchId {
        epoch: fence.epoch,
        number,
    };
    store.commit(fence, &batch)
}

fn with_account() -> Batch {
    Batch {
        accounts: vec![account(ACME)],
        balances: vec![(ACME, Money(10_000_000))],
        payments: vec![topup("R0")],
        postings: vec![topup_posting("R0")],
        upstreams: vec![(UP, "safaricom".into())],
        ..Batch::default()
    }
}

#[test]
fn what_is_committed_is_found_again_in_journal_order() {
    each(|open| {
        let mut store = open();
        let fence = store.acquire().unwrap().fence;
        commit(&mut *store, fence, 1, with_account()).unwrap();
        let batch = Batch {
            accepted: vec![accepted(1, b"one"), accepted(2, b"two"), accepted(3, b"three")],
            ..Batch::default()
        };
        commit(&mut *store, fence, 2, batch).unwrap();
        let batch = Batch {
            sent: vec![sent(1, 1), sent(2, 2)],
            marks: vec![Mark {
                piece: Piece::WHOLE,
                pos: Pos(3),
                key: MessageKey(3),
                kind: MarkKind::Held,
                at_ms: 5,
                upstream: UP,
                state: 0,
                err: 0,
                flags: 0,
            }],
            finished: vec![finished(4, 1)],
            parked: vec![Parked {
                pos: Pos(5),
                upstream: UP,
                smsc_id: Box::from(&b"zz"[..]),
                number: Box::from(&b"254700000000"[..]),
                state: 2,
                err: 9,
                at_ms: 6,
            }],
            watermarks: vec![(ACME, Pos(2))],
            ..Batch::default()
        };
        commit(&mut *store, fence, 3, batch).unwrap();
        drop(store);
        let mut store = open();
        let owned = store.acquire().unwrap();
        assert_eq!(owned.next_pos, Pos(6));
        let got = recovered(&mut *store);
        let find = |prefix: &str| {
            got.iter()
                .filter(|l| l.starts_with(prefix))
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            find("account"),
            [
                "account 1 account1 sys1 standard 7/8/9 [\"10.0.0.0/8\", \"192.0.2.1\"] [\"ACME\"] 2 suspended 0.000005 11"
            ]
        );
        assert_eq!(find("upstream"), ["upstream 3 safaricom"]);
        assert_eq!(find("wallet"), ["wallet 1 10.00 false"]);
        assert_eq!(find("mark"), ["mark 1 2"]);
        let wants = Wants::from_bits(1);
        let row = |key: u64| format!("accepted {key} 1 1000 99000 0.80 4 Submitted {wants:?} 2");
        assert_eq!(find("accepted"), [row(1), row(2), row(3)]);
        let events: Vec<_> = got
            .iter()
            .filter(|l| ["sent", "step", "finished"].iter().any(|p| l.starts_with(p)))
            .cloned()
            .collect();
        assert_eq!(
            events,
            [
                "sent 1 1 3 [65, 49] 2000",
                "sent 2 2 3 [65, 49] 2000",
                "step 3 3 Held 3 0 0",
                "finished 4 1 Delivered 0 0.80 1 3000",
            ]
        );
        assert_eq!(find("parked").len(), 1);
        let order = |prefix: &str| got.iter().position(|l| l.starts_with(prefix)).unwrap();
        assert!(order("account") < order("wallet") && order("wallet") < order("mark"));
        assert!(order("mark") < order("accepted") && order("finished") < order("parked"));
    });
}

#[test]
fn a_batch_counts_once_however_often_it_is_sent() {
    each(|open| {
        let mut store = open();
        let fence = store.acquire().unwrap().fence;
        commit(&mut *store, fence, 1, with_account()).unwrap();
        let id = BatchId {
            epoch: fence.epoch,
            number: 1,
        };
        assert!(store.committed(id).unwrap());
        commit(&mut *store, fence, 1, with_account()).unwrap();
        assert!(!store.committed(BatchId { number: 2, ..id }).unwrap());
        let wallets: Vec<_> = recovered(&mut *store)
            .into_iter()
            .filter(|l| l.starts_with("wallet"))
            .collect();
        assert_eq!(wallets, ["wallet 1 10.00 false"]);
    });
}

#[test]
fn an_older_owner_is_fenced_out() {
    each(|open| {
        let mut store = open();
        let old = store.acquire().unwrap().fence;
        store.release(old).unwrap();
        drop(store);
        let mut store = open();
        let new = store.acquire().unwrap().fence;
        assert!(new.epoch > old.epoch);
        assert_eq!(
            commit(&mut *store, old, 1, with_account()),
            Err(StoreError::Fenced)
        );
        commit(&mut *store, new, 1, with_account()).unwrap();
    });
}

#[test]
fn the_next_epoch_can_be_taken_in_a_commit() {
    each(|open| {
        let mut store = open();
        let old = store.acquire().unwrap().fence;
        let mut batch = with_account();
        batch.next_epoch = Some(old.epoch + 1);
        commit(&mut *store, old, 7, batch).unwrap();
        let id = BatchId {
            epoch: old.epoch,
            number: 7,
        };
        assert!(store.committed(id).unwrap());
        assert_eq!(
            commit(&mut *store, old, 8, with_account()),
            Err(StoreError::Fenced)
        );
        let new = Fence {
            epoch: old.epoch + 1,
            ..old
        };
        let one = Batch {
            accepted: vec![accepted(1, b"x")],
            ..Batch::default()
        };
        commit(&mut *store, new, 1, one).unwrap();
        drop(store);
        let mut store = open();
        assert_eq!(store.acquire().unwrap().fence.epoch, old.epoch + 2);
        let rows = recovered(&mut *store);
        assert!(
            rows.iter().any(|l| l == "wallet 1 10.00 false")
                && rows.iter().any(|l| l.starts_with("accepted 1 "))
        );
    });
}

#[test]
fn it_knows_whether_the_last_owner_said_goodbye() {
    each(|open| {
        let mut store = open();
        let owned = store.acquire().unwrap();
        assert!(!owned.unclean, "a new store");
        drop(store);
        let mut store = open();
        let owned = store.acquire().unwrap();
        assert!(owned.unclean, "dropped without a word");
        store.release(owned.fence).unwrap();
        drop(store);
        assert!(!open().acquire().unwrap().unclean);
    });
}

#[test]
fn messages_are_loaded_in_the_order_asked_and_missing_ones_left_out() {
    each(|open| {
        let mut store = open();
        let fence = store.acquire().unwrap().fence;
        let batch = Batch {
            accepted: vec![accepted(7, b"seven"), accepted(8, b"eight"), accepted(9, b"nine")],
            ..Batch::default()
        };
        commit(&mut *store, fence, 1, batch).unwrap();
        let mut got = Vec::new();
        store
            .load(&[MessageKey(9), MessageKey(100), MessageKey(7)], &mut |k, m| {
                got.push((k.0, m.parts().text.to_vec()))
            })
            .unwrap();
        assert_eq!(got, [(9, b"nine".to_vec()), (7, b"seven".to_vec())]);
    });
}

#[test]
fn payments_are_found_by_provider_and_receipt() {
    each(|open| {
        let mut store = open();
        let fence = store.acquire().unwrap().fence;
        commit(&mut *store, fence, 1, with_account()).unwrap();
        let found = store.find_payment("mpesa", "R0").unwrap().unwrap();
        assert_eq!((found.account, found.amount), (ACME, Money(10_000_000)));
        assert!(found.entry > 0, "its ledger entry is known");
        assert_eq!(store.find_payment("bank", "R0").unwrap(), None);
        assert_eq!(store.find_payment("mpesa", "R1").unwrap(), None);
    });
}

#[test]
fn stored_outboxes_keep_order_and_forget_what_is_deleted() {
    each(|open| {
        let row = |account: u32, pos: u64| OutboxRow {
            account: AccountId(account),
            pos: Pos(pos),
            kind: OutboxKind::Inbound,
            key: MessageKey(0),
            at_ms: pos,
            parked: false,
            payload: message(b"mo").record().into(),
        };
        let mut store = open();
        let fence = store.acquire().unwrap().fence;
        let batch = Batch {
            accounts: vec![account(ACME), account(AccountId(2))],
            outbox_put: (1..=6).map(|p| row(1, p)).chain([row(2, 7)]).collect(),
            ..Batch::default()
        };
        commit(&mut *store, fence, 1, batch).unwrap();
        let batch = Batch {
            outbox_del: vec![(ACME, Pos(1)), (ACME, Pos(4))],
            ..Batch::default()
        };
        commit(&mut *store, fence, 2, batch).unwrap();
        drop(store);
        let mut store = open();
        store.acquire().unwrap();
        let counts: Vec<_> = recovered(&mut *store)
            .into_iter()
            .filter(|l| l.starts_with("outbox"))
            .collect();
        assert_eq!(counts, ["outbox 1 4", "outbox 2 1"]);
        let positions = |rows: Vec<OutboxRow>| rows.iter().map(|r| r.pos.0).collect::<Vec<_>>();
        assert_eq!(positions(store.load_outbox(ACME, Pos(0), 3).unwrap()), [2, 3, 5]);
        assert_eq!(positions(store.load_outbox(ACME, Pos(5), 3).unwrap()), [6]);
    });
}

// ---- SQLite alone ----

fn sqlite(dir: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(options(dir))
}

fn untouched(content: &[u8], wanted: impl Fn(&OpenError) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    std::fs::write(&path, content).unwrap();
    let error = sqlite(dir.path()).unwrap_err();
    assert!(wanted(&error), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), content, "left as it was");
    assert!(!dir.path().join("store.db-wal").exists());
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    untouched(b"#!/bin/sh\necho precious\n", |e| {
        matches!(e, OpenError::NotSqlite(_))
    });
    untouched(&[0xFF; 5_000], |e| matches!(e, OpenError::NotSqlite(_)));
    // A database of somebody else.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE precious (x); INSERT INTO precious VALUES (1); PRAGMA user_version=1;")
        .unwrap();
    drop(conn);
    untouched(&std::fs::read(&path).unwrap(), |e| {
        matches!(e, OpenError::Foreign(_))
    });
}

#[test]
fn a_store_of_a_release_that_drew_no_number_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    sqlite(dir.path()).unwrap().acquire().unwrap();
    let running = || -> i64 {
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.query_row("SELECT running FROM node", [], |r| r.get(0))
            .unwrap()
    };
    let drawn = running();
    assert!(drawn > 1);
    // As such a release leaves it after a crash, and after an end in good order.
    for left in [1, 0] {
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute("UPDATE node SET running = ?1", [left]).unwrap();
        drop(conn);
        std::fs::write(dir.path().join("store.db.lock"), "epoch 1         \n").unwrap();
        let owned = sqlite(dir.path()).unwrap().acquire().unwrap();
        assert_eq!(owned.unclean, left == 1);
        let now = running();
        assert!(now > 1 && now != drawn, "a new one: {now}");
        // It keeps it from now on, and without its note too.
        sqlite(dir.path()).unwrap().acquire().unwrap();
        assert_eq!(running(), now);
        std::fs::remove_file(dir.path().join("store.db.lock")).unwrap();
        sqlite(dir.path()).unwrap().acquire().unwrap();
        assert_eq!(running(), now);
    }
}

/// What a power cut leaves of a first start: page 1 not written yet, and a journal that says the file was empty before.
#[test]
fn a_first_start_that_the_power_ended_is_begun_anew() {
    let mut journal = vec![0u8; 512];
    journal[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    journal[20..28].copy_from_slice(&[0, 0, 2, 0, 0, 0, 16, 0]);
    let mut content = vec![0u8; 3 * 4096];
    content[5000..6000].fill(b'x');
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let beside = dir.path().join("store.db-journal");
    std::fs::write(&path, &content).unwrap();
    // Without the journal, or with one of a database that was not empty, nobody knows what it is.
    for pages in [None, Some(2)] {
        if let Some(pages) = pages {
            journal[19] = pages;
            std::fs::write(&beside, &journal).unwrap();
        }
        assert!(matches!(sqlite(dir.path()).unwrap_err(), OpenError::NotSqlite(_)));
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    journal[19] = 0;
    std::fs::write(&beside, &journal).unwrap();
    let mut store = sqlite(dir.path()).unwrap();
    assert_eq!(store.acquire().unwrap().fence.epoch, 1);
    assert!(!beside.exists());
    // A file that says something is nobody's leftover.
    drop(store);
    std::fs::write(&path, b"my diary").unwrap();
    std::fs::write(&beside, &journal).unwrap();
    assert!(matches!(sqlite(dir.path()).unwrap_err(), OpenError::NotSqlite(_)));
    assert_eq!(std::fs::read(&path).unwrap(), b"my diary");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(sqlite(dir.path()).unwrap());
    let path = dir.path().join("store.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch(
        "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE; PRAGMA user_version=999;",
    )
    .unwrap();
    drop(conn);
    untouched(&std::fs::read(&path).unwrap(), |e| {
        matches!(e, OpenError::Newer(_, 999))
    });
}

#[test]
fn a_folder_that_is_missing_or_a_file_that_may_not_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = sqlite(&dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn a_second_daemon_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let first = sqlite(dir.path()).unwrap();
    assert!(matches!(sqlite(dir.path()), Err(OpenError::InUse(_))));
    drop(first);
    sqlite(dir.path()).unwrap();
}

#[test]
fn the_database_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mut store = sqlite(dir.path()).unwrap();
    let fence = store.acquire().unwrap().fence;
    commit(&mut store, fence, 1, with_account()).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn a_wallet_that_does_not_equal_its_ledger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = sqlite(dir.path()).unwrap();
    let fence = store.acquire().unwrap().fence;
    commit(&mut store, fence, 1, with_account()).unwrap();
    drop(store);
    let conn = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    conn.execute("UPDATE wallet SET balance = balance + 1", [])
        .unwrap();
    drop(conn);
    let error = sqlite(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_damaged_page_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut store = sqlite(dir.path()).unwrap();
    let fence = store.acquire().unwrap().fence;
    commit(&mut store, fence, 1, with_account()).unwrap();
    store.release(fence).unwrap();
    drop(store);
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
    drop(conn);
    let mut octets = std::fs::read(&path).unwrap();
    // Page 1 holds the schema; its header stays as it is.
    octets[200..4096].fill(0xA5);
    std::fs::write(&path, &octets).unwrap();
    let error = sqlite(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

/// Runs background work to its end.
fn maintain(store: &mut SqliteStore, fence: Fence, now_ms: u64) {
    for _ in 0..10_000 {
        if store.maintain(fence, now_ms).unwrap() == Progress::Idle {
            return;
        }
    }
    panic!("never idle");
}

#[test]
fn sealing_keeps_open_messages_open_and_closed_ones_readable() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options {
        segment_messages: 100,
        ..options(dir.path())
    };
    let mut store = SqliteStore::open(small.clone()).unwrap();
    let fence = store.acquire().unwrap().fence;
    commit(&mut store, fence, 1, with_account()).unwrap();
    let mut pos = 0;
    for n in 0..50u64 {
        let mut batch = Batch::default();
        for k in 0..10 {
            let key = n * 10 + k + 1;
            batch
                .accepted
                .push(accepted(key, format!("text {key}").as_bytes()));
            // Every seventh stays open.
            if key % 7 != 0 {
                pos += 2;
                batch.sent.push(sent(pos - 1, key));
                batch.finished.push(finished(pos, key));
            }
        }
        let ended = batch.finished.len() as u32;
        charge(&mut batch, ended);
        commit(&mut store, fence, n + 2, batch).unwrap();
        maintain(&mut store, fence, 5_000);
    }
    assert!(store.backlog() == 0, "everything full is sealed");
    drop(store);
    let mut store = SqliteStore::open(small).unwrap();
    let fence = store.acquire().unwrap().fence;
    let rows = recovered(&mut store);
    let mut open: Vec<u64> = rows
        .iter()
        .filter_map(|l| l.strip_prefix("accepted "))
        .map(|l| l.split(' ').next().unwrap().parse().unwrap())
        .collect();
    open.sort_unstable();
    let still: Vec<u64> = (1..=500).filter(|k| k % 7 == 0).collect();
    assert!(still.iter().all(|k| open.contains(k)), "no open message is lost");
    assert!(open.len() < 250, "sealed ones are not read again: {}", open.len());
    let mut loaded = 0;
    let keys: Vec<MessageKey> = still.iter().map(|k| MessageKey(*k)).collect();
    store
        .load(&keys, &mut |k, m| {
            assert_eq!(m.parts().text, format!("text {}", k.0).as_bytes());
            loaded += 1;
        })
        .unwrap();
    assert_eq!(loaded, still.len(), "their texts too");
    // A carried message ends, and only then is it closed.
    let mut batch = Batch {
        finished: vec![finished(pos + 1, 7)],
        ..Batch::default()
    };
    charge(&mut batch, 1);
    commit(&mut store, fence, 1, batch).unwrap();
    let reader = Reader::open(&dir.path().join("store.db")).unwrap();
    for key in [1u64, 7, 14, 250, 500] {
        let stored = reader.message(MessageKey(key)).unwrap().unwrap();
        assert_eq!(stored.end.is_some(), key % 7 != 0 || key == 7, "{key}");
    }
    assert!(reader.message(MessageKey(501)).unwrap().is_none());
    assert!(reader.check(0).unwrap().faults.is_empty());
}

#[test]
fn retention_removes_closed_messages_and_never_open_ones_or_money() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options {
        segment_messages: 50,
        keep_days: 1,
        ..options(dir.path())
    };
    let mut store = SqliteStore::open(small).unwrap();
    let fence = store.acquire().unwrap().fence;
    commit(&mut store, fence, 1, with_account()).unwrap();
    for n in 0..20u64 {
        let mut batch = Batch::default();
        for k in 0..10 {
            let key = n * 10 + k + 1;
            batch.accepted.push(accepted(key, b"x"));
            if key != 5 {
                batch.finished.push(finished(key, key));
            }
        }
        commit(&mut store, fence, n + 2, batch).unwrap();
    }
    let days = 86_400_000;
    maintain(&mut store, fence, 5_000);
    let reader = Reader::open(&dir.path().join("store.db")).unwrap();
    assert!(reader.message(MessageKey(1)).unwrap().is_some(), "not old enough");
    maintain(&mut store, fence, 3 * days);
    assert!(reader.message(MessageKey(1)).unwrap().is_none(), "removed");
    let open = reader.message(MessageKey(5)).unwrap().unwrap();
    assert!(open.end.is_none(), "an open message is never removed");
    let rows = recovered(&mut store);
    assert!(rows.iter().any(|l| l == "wallet 1 10.00 false"), "{rows:?}");
    assert!(rows.iter().any(|l| l.starts_with("accepted 5 ")));
}

#[test]
fn carried_messages_are_told_with_the_step_that_left_them_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options {
        segment_messages: 10,
        ..options(dir.path())
    };
    let mut store = SqliteStore::open(small).unwrap();
    let fence = store.acquire().unwrap().fence;
    commit(&mut store, fence, 1, with_account()).unwrap();
    // Of the first ten: 1 is not sent; 2 is; 3 was marked first; 4 has a provisional state; 5 is held.
    let mark = |pos, key, kind| Mark {
        pos: Pos(pos),
        key: MessageKey(key),
        kind,
        at_ms: 1_000,
        upstream: UpstreamId(0),
        state: 6,
        err: 0,
        flags: 0,
        piece: Piece::WHOLE,
    };
    let first = Batch {
        accepted: (1..=10).map(|k| accepted(k, b"x")).collect(),
        marks: vec![
            mark(1, 3, MarkKind::Sending),
            mark(5, 4, MarkKind::Provisional),
            mark(6, 5, MarkKind::Held),
        ],
        sent: vec![sent(2, 3), sent(3, 2), sent(4, 4)],
        ..Batch::default()
    };
    commit(&mut store, fence, 2, first).unwrap();
    let second = Batch {
        accepted: (11..=20).map(|k| accepted(k, b"x")).collect(),
        sent: vec![sent(7, 6), sent(8, 7)],
        ..Batch::default()
    };
    commit(&mut store, fence, 3, second).unwrap();
    maintain(&mut store, fence, 5_000);
    // In the journal that is live: 7 ends, and 2 gets a provisional state.
    let third = Batch {
        accepted: vec![accepted(21, b"x")],
        finished: vec![finished(9, 7)],
        marks: vec![mark(10, 2, MarkKind::Provisional)],
        ..Batch::default()
    };
    commit(&mut store, fence, 4, third).unwrap();
    let mut waiting = Vec::new();
    let mut others = Vec::new();
    store
        .recover(&mut |r| match r {
            Record::Awaiting(a, e) => {
                assert_eq!(a.key, e.key);
                waiting.push(a.key.0);
            }
            Record::Accepted(a) => others.push(("accepted", a.key.0)),
            Record::Sent(e) => others.push(("sent", e.key.0)),
            Record::Mark(e) => others.push(("mark", e.key.0)),
            Record::Finished(e) => others.push(("finished", e.key.0)),
            _ => {}
        })
        .unwrap();
    assert_eq!(waiting, [3, 6]);
    let at = |step| others.iter().position(|o| *o == step).unwrap();
    assert!(at(("accepted", 2)) < at(("sent", 2)) && at(("sent", 2)) < at(("mark", 2)));
    assert!(at(("sent", 4)) < at(("mark", 4)), "{others:?}");
    assert!(at(("sent", 7)) < at(("finished", 7)), "{others:?}");
    assert_eq!(others.iter().filter(|(what, _)| *what == "accepted").count(), 19);
    let mut rows = Vec::new();
    let keys = [MessageKey(3), MessageKey(21), MessageKey(99), MessageKey(20)];
    store.open_rows(&keys, &mut |row| rows.push(row.key.0)).unwrap();
    assert_eq!(rows, [3, 21, 20]);
}

#[test]
fn senders_suppressed_numbers_and_cases_are_found_as_they_were_left() {
    use smsconnect::domain::sender::{Sender, Standing};
    use smsconnect::domain::suppression::{Scope, Source, Suppression};
    use smsconnect::store::{Case, CaseState, RuleRow, RuleRows};
    let entry = |n: u8, scope: Scope, reason: &str| Suppression {
        subject: [n; 16],
        scope,
        source: Source::Inbound,
        transactional: n == 2,
        reason: reason.into(),
        at_ms: 5,
        until_ms: u64::from(n),
    };
    let sender = |standing| Sender {
        account: "acme".into(),
        id: "ACME".into(),
        operator: "safaricom".into(),
        class: "promotional".into(),
        standing,
        at_ms: 7,
        reference: "L-1".into(),
        ..Sender::default()
    };
    let case = |state| Case {
        id: 3,
        account: ACME,
        rule: "velocity".into(),
        kind: "velocity".into(),
        count: 9,
        span_s: 60,
        at_ms: 8,
        state,
        ..Case::default()
    };
    each(|open| {
        let mut store = open();
        let fence = store.acquire().unwrap().fence;
        let of = |rules| Batch {
            rules,
            ..with_account()
        };
        let first = of(RuleRows {
            senders: vec![sender(Standing::Pending)],
            suppressed: vec![
                entry(1, Scope::Platform, "one"),
                entry(2, Scope::Account(ACME), "two"),
                entry(2, Scope::Sender(ACME, "acme".into()), "three"),
            ],
            unsuppressed: Vec::new(),
            key_check: Some([9; 16]),
            cases: vec![case(CaseState::Open)],
        });
        commit(&mut *store, fence, 1, first).unwrap();
        let second = Batch {
            rules: RuleRows {
                senders: vec![sender(Standing::Active)],
                suppressed: vec![entry(1, Scope::Platform, "again")],
                unsuppressed: vec![([2; 16], Scope::Account(ACME))],
                key_check: None,
                cases: vec![case(CaseState::Closed)],
            },
            ..Batch::default()
        };
        commit(&mut *store, fence, 2, second).unwrap();
        drop(store);
        let mut wanted: Vec<String> = [
            RuleRow::KeyCheck([9; 16]),
            RuleRow::Sender(sender(Standing::Active)),
            RuleRow::Suppressed(entry(1, Scope::Platform, "again")),
            RuleRow::Suppressed(entry(2, Scope::Sender(ACME, "acme".into()), "three")),
            RuleRow::Case(case(CaseState::Closed)),
        ]
        .iter()
        .map(|row| format!("rule {row:?}"))
        .collect();
        let mut found = recovered(&mut *open());
        found.retain(|row| row.starts_with("rule"));
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted);
    });
}
