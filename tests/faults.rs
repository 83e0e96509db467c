//! What breaks around the gateway: a failing disk, a lost log, a reader that holds on, a crash while sealing; money out of range,
//! changes at once, a signal during the start.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use common::process::{Daemon, Fault, strace};
use common::rows::{
    DAY_MS, MESSAGES, PRICE, accepted, charge, commit, finished, maintain, number, open, paid, sent,
    stays_open, two_full_segments,
};
use common::{Peer, Script, World, eventually, message};
use rusqlite::Connection;
use serde_json::{Value, json};
use smsconnect::domain::outcome::Final;
use smsconnect::ids::MessageKey;
use smsconnect::smpp::{CommandId, CommandStatus};
use smsconnect::store::sqlite::{Reader, SqliteStore};
use smsconnect::store::{Batch, Progress, Record, Store};

const ROK: CommandStatus = CommandStatus::ESME_ROK;

// ---- The daemon as a process ----

/// The id under which a message was accepted.
fn accept(customer: &mut Peer) -> u64 {
    let got = customer.submit(&message(b"x"));
    assert_eq!(got.status, ROK);
    got.message_id().parse().unwrap()
}

/// Makes the next fsync of every thread of a process fail with EIO. Only the next: those after it say yes, as a kernel does
/// that has dropped the pages it could not write, so that whoever tries again or closes the store is found out.
const FAILING_FSYNC: [&str; 4] = [
    "-e",
    "trace=fsync,fdatasync",
    "-e",
    "inject=fsync,fdatasync:error=EIO:when=1",
];

#[test]
fn a_failed_fsync_acknowledges_nothing_and_ends_the_process_with_the_log_left_alone() {
    if !strace() {
        return;
    }
    let script = Script::new();
    let mut daemon = Daemon::new(script.addr());
    daemon.start(&[]);
    let mut smsc = script.bound();
    daemon.account();
    let mut customer = daemon.bound();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(accept(&mut customer));
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&submit, &format!("F{n}"));
    }
    eventually("all are sent and charged", || daemon.balance() == "996.00");
    let wal = daemon.path("gateway.db-wal");
    let before = std::fs::metadata(&wal).unwrap().len();
    let Some(fault) = Fault::into(daemon.pid(), &FAILING_FSYNC) else {
        return;
    };
    for _ in 0..20 {
        customer.send(&message(b"not on disk"));
        match customer.reply() {
            None => break,
            Some(got) => assert_ne!((got.id, got.status), (CommandId::SUBMIT_SM_RESP, ROK)),
        }
    }
    let (status, said) = daemon.end();
    drop(fault);
    assert!(!status.success(), "{said}");
    assert!(said.contains("the store has failed"), "{said}");
    // Closing the store would have moved the log into the main file and deleted it.
    let after = std::fs::metadata(&wal).map_or(0, |m| m.len());
    assert!(after >= before, "the log had {before} octets and has {after}");
    daemon.start(&[]);
    for id in &ids {
        let shown = daemon.admin("message.show", json!({"id": id.to_string()}));
        assert_eq!(shown["state"], "sent", "{shown}");
    }
    let messages = daemon.reconciles();
    assert!((5..=6).contains(&messages), "{messages}");
    assert_eq!(daemon.balance(), "996.00");
}

#[test]
fn a_lost_log_is_named_and_no_id_is_given_out_twice() {
    let script = Script::new();
    let mut daemon = Daemon::new(script.addr());
    daemon.start(&[]);
    daemon.account();
    let mut ids = vec![accept(&mut daemon.bound())];
    // An end in good order moves everything into the main file; what comes afterwards is in the log alone.
    daemon.signal("-TERM");
    let (status, said) = daemon.end();
    assert!(status.success(), "{said}");
    daemon.start(&[]);
    let mut customer = daemon.bound();
    for _ in 0..3 {
        ids.push(accept(&mut customer));
    }
    assert_eq!(daemon.pay("SECOND", "250")["balance"], "1250.00");
    daemon.kill();
    std::fs::remove_file(daemon.path("gateway.db-wal")).unwrap();
    daemon.spawn(&[]);
    let (status, said) = daemon.end();
    assert_eq!(status.code(), Some(1), "{said}");
    for word in ["gateway.db", "-wal", "--accept-older-store"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    daemon.start(&["--accept-older-store"]);
    assert_eq!(
        daemon.balance(),
        "1000.00",
        "the payment is lost, and it was said so"
    );
    assert_eq!(daemon.pay("SECOND", "250")["duplicate"], false);
    let again = accept(&mut daemon.bound());
    assert!(ids.iter().all(|id| *id < again), "{ids:?} and then {again}");
    daemon.reconciles();
    // From here on the store is the newest again.
    daemon.kill();
    daemon.start(&[]);
    assert_eq!(daemon.balance(), "1250.00");
}

#[test]
fn a_signal_during_the_start_ends_it_at_once() {
    let mut daemon = Daemon::new("127.0.0.1:9".parse().unwrap());
    // A start that takes for ever: opening a named pipe waits for somebody to write to it.
    let made = Command::new("mkfifo").arg(daemon.path("gateway.db")).status();
    assert!(made.unwrap().success());
    daemon.spawn(&[]);
    let lock = daemon.path("gateway.db.lock");
    eventually("the start is under way", || lock.exists());
    daemon.signal("-TERM");
    let (status, said) = daemon.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("stopped while starting"), "{said}");
}

// ---- Over the admin socket ----

#[test]
fn payments_that_a_balance_cannot_take_are_not_booked() {
    let mut world = World::new();
    world.account("acme", "0", json!({}));
    world.account("twin", "0", json!({}));
    let pay = |world: &World, receipt: &str, amount: &str| {
        let params = json!({"account": "acme", "amount": amount, "provider": "bank", "receipt": receipt});
        world.admin("wallet.topup", params)
    };
    let first = pay(&world, "A", "8000000000.00").unwrap();
    assert_eq!(first["balance"], "8000000000.00");
    assert_eq!(pay(&world, "B", "8000000000.00").unwrap_err(), "E_ARG");
    assert_eq!(pay(&world, "C", "9000000000.01").unwrap_err(), "E_AMOUNT");
    let lines = |world: &World, account: &str| {
        let statement = world
            .admin("wallet.statement", json!({"account": account}))
            .unwrap();
        statement["items"].as_array().unwrap().len()
    };
    assert_eq!(lines(&world, "acme"), 1, "nothing else is booked");
    // Two at once do not slip past each other either.
    let socket = world.config.admin.socket.clone();
    let booked = ["D", "E"]
        .map(|receipt| {
            let socket = socket.clone();
            let params =
                json!({"account": "twin", "amount": "8000000000", "provider": "bank", "receipt": receipt});
            std::thread::spawn(move || common::admin(&socket, "wallet.topup", params).is_ok())
        })
        .map(|thread| usize::from(thread.join().unwrap()));
    assert_eq!(booked.iter().sum::<usize>(), 1);
    assert_eq!(lines(&world, "twin"), 1);
    world.reconciles();
    world.stop();
    world.start();
    for account in ["acme", "twin"] {
        assert_eq!(world.wallet(account).0, "8000000000.00");
    }
    assert_eq!(pay(&world, "B", "8000000000.00").unwrap_err(), "E_ARG");
    let rest = pay(&world, "F", "1000000000").unwrap();
    assert_eq!(rest["balance"], "9000000000.00", "what fits is taken");
    world.reconciles();
}

#[test]
fn an_amount_is_never_read_from_a_fraction_in_json() {
    let world = World::new();
    world.account("acme", "0", json!({}));
    let pay = |receipt: &str, amount: Value| {
        let params = json!({"account": "acme", "amount": amount, "provider": "bank", "receipt": receipt});
        world.admin("wallet.topup", params)
    };
    for amount in [json!(5.25), json!(5.0), json!(0.1), json!(1e3)] {
        assert_eq!(pay("A", amount.clone()).unwrap_err(), "E_AMOUNT", "{amount}");
    }
    assert_eq!(world.wallet("acme").0, "0.00");
    assert_eq!(pay("A", json!(5)).unwrap()["balance"], "5.00");
    assert_eq!(pay("B", json!("5.25")).unwrap()["balance"], "10.25");
    let limit = json!({"account": "acme", "credit": 0.5});
    assert_eq!(world.admin("wallet.limit", limit).unwrap_err(), "E_AMOUNT");
    world.reconciles();
}

#[test]
fn updates_and_suspensions_at_once_never_undo_each_other() {
    let mut world = World::new();
    world.account("acme", "0", json!({}));
    let socket = world.config.admin.socket.clone();
    let updates = std::thread::spawn(move || {
        for n in 1..=20 {
            let shown =
                common::admin(&socket, "account.update", json!({"account": "acme", "tps": n})).unwrap();
            assert_eq!(shown["tps"], n, "{shown}");
        }
    });
    let socket = world.config.admin.socket.clone();
    let standing = std::thread::spawn(move || {
        for n in 1..=20 {
            let (method, state) = if n % 2 == 0 {
                ("account.suspend", "suspended")
            } else {
                ("account.resume", "active")
            };
            let shown = common::admin(&socket, method, json!({"account": "acme"})).unwrap();
            assert_eq!(shown["state"], state, "{shown}");
        }
    });
    updates.join().unwrap();
    standing.join().unwrap();
    for _ in 0..2 {
        let shown = world.admin("account.show", json!({"account": "acme"})).unwrap();
        assert_eq!(shown["tps"], 20, "{shown}");
        assert_eq!(shown["state"], "suspended", "{shown}");
        world.stop();
        world.start();
    }
}

// ---- A reader beside the daemon ----

#[test]
fn a_reader_that_holds_on_does_not_stop_submits() {
    let world = World::new();
    world.account("acme", "1000", json!({}));
    let reader = Connection::open(&world.config.store.path).unwrap();
    let count = || reader.query_row("SELECT count(*) FROM accepted_1", [], |r| r.get::<_, i64>(0));
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(count().unwrap(), 0);
    let mut customer = world.bound_as(CommandId::BIND_TRANSMITTER, "acme");
    let mut slowest = Duration::ZERO;
    for _ in 0..300 {
        let start = Instant::now();
        assert_eq!(customer.submit(&message(&[b'x'; 150])).status, ROK);
        slowest = slowest.max(start.elapsed());
    }
    // Less than a write waits for a lock: the log was moved around the reader, not through it.
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    eventually("all are charged", || {
        world.wallet("acme") == ("760.00".into(), "0.00".into())
    });
    let log = world.config.store.path.with_extension("db-wal");
    let log = std::fs::metadata(log).unwrap().len();
    assert!(log > 400 * 4096, "the log was to be moved: {log} octets");
    assert_eq!(count().unwrap(), 0, "the reader was in the way all the time");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(count().unwrap(), 300);
    world.reconciles();
}

// ---- The store alone ----

fn has(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|w| w == part)
}

/// The texts of messages that are not closed.
fn texts(store: &mut SqliteStore, keys: &[u64]) -> Vec<(u64, Vec<u8>)> {
    let keys: Vec<MessageKey> = keys.iter().map(|k| MessageKey(*k)).collect();
    let mut found = Vec::new();
    store
        .load(&keys, &mut |k, m| found.push((k.0, m.parts().text.to_vec())))
        .unwrap();
    found
}

#[test]
fn a_quiet_segment_is_closed_after_a_day_and_keeps_no_text_of_what_is_over() {
    const T: u64 = 1_700_000_000_000;
    const JOURNAL: &str =
        "SELECT count(*) FROM sqlite_schema WHERE name IN ('accepted_1', 'sent_1', 'mark_1', 'final_1')";
    for restarted in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut fence) = open(dir.path(), 1_000_000);
        commit(&mut store, fence, 1, paid());
        let mut batch = Batch {
            accepted: vec![
                accepted(1, T, b"PIN 4711 of tonight"),
                accepted(2, T, b"still open"),
            ],
            sent: vec![sent(1, 1), sent(2, 2)],
            finished: vec![finished(3, 1)],
            ..Batch::default()
        };
        charge(&mut batch, 2);
        commit(&mut store, fence, 2, batch);
        let conn = Connection::open(dir.path().join("store.db")).unwrap();
        maintain(&mut store, fence, T + DAY_MS - 1);
        assert_eq!(number(&conn, JOURNAL), 4, "its day is not over");
        if restarted {
            // When it was opened is known after a restart too.
            drop(store);
            (store, fence) = open(dir.path(), 1_000_000);
        }
        maintain(&mut store, fence, T + DAY_MS + 1);
        assert_eq!(number(&conn, JOURNAL), 0);
        let stub: Vec<u8> = conn
            .query_row("SELECT stub FROM closed_1 WHERE key = 1", [], |r| r.get(0))
            .unwrap();
        assert!(has(&stub, b"254712345678") && has(&stub, b"ACME"));
        assert!(!has(&stub, b"PIN") && !has(&stub, b"4711"), "no text is kept");
        let reader = Reader::open(&dir.path().join("store.db")).unwrap();
        let over = reader.message(MessageKey(1)).unwrap().unwrap();
        assert_eq!(over.end, Some((Final::Delivered, 0, 3_000)));
        assert_eq!((over.at_ms, over.charged), (T, Some(PRICE)));
        // What is not over is carried on, whole.
        let still = reader.message(MessageKey(2)).unwrap().unwrap();
        assert!(still.end.is_none() && still.sent.is_some());
        assert_eq!(texts(&mut store, &[2]), [(2, b"still open".to_vec())]);
        let check = reader.check(0).unwrap();
        assert_eq!((check.faults, check.messages), (Vec::new(), 2));
    }
}

/// Keys that recovery finds open.
fn found_open(store: &mut SqliteStore) -> BTreeSet<u64> {
    let (mut open, mut waits) = (BTreeSet::new(), BTreeSet::new());
    store
        .recover(&mut |record| match record {
            Record::Accepted(a) => {
                assert!(
                    !waits.contains(&a.key.0),
                    "nothing follows of a message that waits"
                );
                open.insert(a.key.0);
            }
            Record::Awaiting(a, _) => {
                assert!(waits.insert(a.key.0));
                open.insert(a.key.0);
            }
            Record::Finished(e) => {
                open.remove(&e.key.0);
            }
            _ => {}
        })
        .unwrap();
    open
}

#[test]
fn a_crash_while_sealing_repeats_work_and_loses_and_doubles_nothing() {
    let full = tempfile::tempdir().unwrap();
    two_full_segments(full.path());
    let wanted: BTreeSet<u64> = (1..=MESSAGES).filter(|k| stays_open(*k)).collect();
    // Seven slices a segment: two of closing, three of carrying, one of steps, and the catalogue; then the tables go.
    for slices in [1, 2, 4, 6, 7, 9, 12, 14, 16] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        std::fs::copy(full.path().join("store.db"), &path).unwrap();
        let (mut store, fence) = open(dir.path(), 600);
        for n in 0..slices {
            let progress = store.maintain(fence, 5_000).unwrap();
            assert_eq!(progress, Progress::More, "{n} of {slices}");
        }
        drop(store);
        let (mut store, fence) = open(dir.path(), 600);
        assert_eq!(found_open(&mut store), wanted, "after {slices} slices");
        let reader = Reader::open(&path).unwrap();
        for sealed in [false, true] {
            if sealed {
                maintain(&mut store, fence, 5_000);
            }
            let check = reader.check(0).unwrap();
            assert_eq!(
                (check.faults, check.messages),
                (Vec::new(), MESSAGES),
                "after {slices} slices, {sealed}"
            );
        }
        assert_eq!(store.backlog(), 0);
        assert_eq!(found_open(&mut store), wanted);
        for key in 1..=MESSAGES {
            let stored = reader.message(MessageKey(key)).unwrap().unwrap();
            assert_eq!(stored.end.is_none(), stays_open(key), "{key}");
            let smsc_id = stored.sent.map(|(.., id)| id);
            assert_eq!(smsc_id, Some(key.to_string()), "who took it is known");
        }
        let conn = Connection::open(&path).unwrap();
        let everywhere = "(SELECT key FROM closed_1 UNION ALL SELECT key FROM closed_2
             UNION ALL SELECT key FROM carried UNION ALL SELECT key FROM accepted_3)";
        for what in ["count(*)", "count(DISTINCT key)"] {
            let n = number(&conn, &format!("SELECT {what} FROM {everywhere}"));
            assert_eq!(n, MESSAGES as i64, "{what} after {slices} slices");
        }
        let keys: Vec<u64> = wanted.iter().copied().collect();
        let whole: Vec<_> = keys
            .iter()
            .map(|k| (*k, format!("text {k}").into_bytes()))
            .collect();
        assert_eq!(texts(&mut store, &keys), whole);
    }
}
