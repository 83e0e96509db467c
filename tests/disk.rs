//! Disks that are full, slow, stuck or broken, under the real daemon with customers on it. Whatever happens: what was
//! acknowledged is on record after the next start, once, and the money is right.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::process::{Daemon, Fault, strace};
use common::rows::{self, MESSAGES, accepted, charge, commit, number, on_record, paid, sent};
use common::{Got, Peer, eventually, message};
use rusqlite::Connection;
use serde_json::json;
use smsconnect::smpp::{self, CommandId, CommandStatus};
use smsconnect::store::sqlite::{OpenError, Options, Reader};
use smsconnect::store::{Batch, Store};
use smsconnect::tools::smsc::{Smsc, SmscOptions};

const ROK: CommandStatus = CommandStatus::ESME_ROK;
const FULL: CommandStatus = CommandStatus::ESME_RMSGQFUL;
const PRICE: i64 = 800_000;
/// Submits that a customer has unanswered.
const WINDOW: usize = 4;

// ---- The bench: a daemon, its SMSC, a customer ----

struct Bench {
    daemon: Daemon,
    smsc: Smsc,
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    /// Nothing runs yet but the SMSC; `store` is more of the config's `[store]`.
    fn idle(store: &str) -> Bench {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let options = SmscOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..SmscOptions::default()
        };
        let smsc = runtime.block_on(Smsc::start(options)).unwrap();
        let daemon = Daemon::with(smsc.addr(), store, "binds = 1");
        Bench {
            daemon,
            smsc,
            _runtime: runtime,
        }
    }

    /// With a daemon, and a customer who has 10,000.00.
    fn new() -> Bench {
        let mut bench = Bench::idle("");
        bench.daemon.start(&[]);
        bench.daemon.account();
        bench.daemon.pay("MORE", "9000");
        bench
    }

    fn traffic(&self) -> Traffic {
        Traffic::start(self.daemon.bound())
    }

    fn path(&self, name: &str) -> String {
        self.daemon.path(name).to_str().unwrap().into()
    }

    /// A fault in calls on one file of the store.
    fn fault(&self, file: &str, calls: &str, what: &str) -> Option<Fault> {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{what}"));
        Fault::into(
            self.daemon.pid(),
            &["-P", &self.path(file), "-e", &trace, "-e", &inject],
        )
    }

    /// The daemon is killed if it still runs, and started: everything acknowledged is there, everything is sent in the end,
    /// and the money is right.
    fn audit(&mut self, seen: &Seen) {
        if self.daemon.runs() {
            self.daemon.kill();
        }
        self.daemon.start(&[]);
        let held = || self.daemon.admin("wallet.show", json!({"account": "acme"}))["held"] == "0.00";
        eventually("everything is sent", held);
        let conn = Connection::open(self.path("gateway.db")).unwrap();
        let keys = on_record(&conn).unwrap();
        let found: HashSet<u64> = keys.iter().copied().collect();
        assert_eq!(found.len(), keys.len(), "a message is on record twice");
        let lost: Vec<_> = seen.acked.iter().filter(|id| !found.contains(id)).collect();
        assert!(lost.is_empty(), "lost: {lost:?} of {}", seen.acked.len());
        let distinct: HashSet<u64> = seen.acked.iter().copied().collect();
        assert_eq!(distinct.len(), seen.acked.len(), "an id was given out twice");
        let unanswered = seen.sent - seen.acked.len() - seen.refused;
        assert!(
            found.len() <= seen.acked.len() + unanswered,
            "what was refused is on record: {seen:?}"
        );
        assert_eq!(self.daemon.reconciles(), found.len() as u64);
        let paid: i64 = conn
            .query_row("SELECT SUM(amount) FROM ledger WHERE reason = 'topup'", [], |r| {
                r.get(0)
            })
            .unwrap();
        assert_eq!(self.daemon.micros(), paid - found.len() as i64 * PRICE);
    }
}

/// What a customer has seen.
#[derive(Debug, Default)]
struct Seen {
    sent: usize,
    acked: Vec<u64>,
    /// Answered ESME_RMSGQFUL.
    refused: usize,
    /// The gateway has closed the session, or wanted to.
    closed: bool,
}

/// A customer who submits until told to stop, or until the session ends.
struct Traffic {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Traffic {
    fn start(mut peer: Peer) -> Traffic {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (writes, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread =
            std::thread::spawn(
                move || {
                    while !stopped.load(Ordering::Relaxed) && turn(&mut peer, &writes) {}
                },
            );
        Traffic { seen, stop, thread }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn acked(&self) -> usize {
        self.seen().acked.len()
    }

    fn refused(&self) -> usize {
        self.seen().refused
    }

    /// Waits until so many more have been acknowledged.
    fn more(&self, n: usize) {
        let wanted = self.acked() + n;
        eventually("submits are acknowledged", || self.acked() >= wanted);
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.end()
    }

    /// Waits until the session has ended.
    fn end(self) -> Seen {
        self.thread.join().unwrap();
        Arc::into_inner(self.seen).unwrap().into_inner().unwrap()
    }
}

/// A window of submits, and their answers; `false` when the session is over.
fn turn(peer: &mut Peer, seen: &Mutex<Seen>) -> bool {
    let mut out = Vec::new();
    for _ in 0..WINDOW {
        peer.sequence += 1;
        smpp::put_short_message(
            &mut out,
            CommandId::SUBMIT_SM,
            peer.sequence,
            &message(&[b'x'; 100]),
        );
    }
    seen.lock().unwrap().sent += WINDOW;
    // Whether the gateway is still there is seen by reading.
    let _gone = peer.stream.write_all(&out);
    let (mut answered, mut refused) = (0, 0);
    while answered < WINDOW {
        let got = peer.read();
        let mut seen = seen.lock().unwrap();
        let Some(got) = got.filter(|got| got.id != CommandId::UNBIND) else {
            seen.closed = true;
            return false;
        };
        match (got.id, got.status) {
            (CommandId::DELIVER_SM, _) => {
                let mut out = Vec::new();
                smpp::put_message_id_resp(&mut out, CommandId::DELIVER_SM_RESP, ROK, got.sequence, b"");
                let _gone = peer.stream.write_all(&out);
                continue;
            }
            (CommandId::SUBMIT_SM_RESP, ROK) => seen.acked.push(got.message_id().parse().unwrap()),
            (CommandId::SUBMIT_SM_RESP, FULL) => {
                seen.refused += 1;
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
        answered += 1;
    }
    if refused == WINDOW {
        // Refused for the moment: a client waits a little.
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// How long an enquire_link takes.
fn pulse(peer: &mut Peer) -> Duration {
    let start = Instant::now();
    peer.header(CommandId::ENQUIRE_LINK);
    peer.expect(CommandId::ENQUIRE_LINK_RESP);
    start.elapsed()
}

// ---- No room ----

#[test]
fn a_full_disk_refuses_submits_and_is_noticed_to_have_room_again_without_a_restart() {
    if !strace() {
        return;
    }
    let mut bench = Bench::new();
    let traffic = bench.traffic();
    traffic.more(40);
    let mut other = bench.daemon.bound();
    let Some(fault) = bench.fault("gateway.db-wal", "pwrite64", "error=ENOSPC") else {
        return;
    };
    eventually("submits are refused", || traffic.refused() > 0);
    let before = traffic.acked();
    let refused = traffic.refused();
    eventually("they go on being refused", || traffic.refused() > refused + 40);
    assert_eq!(
        traffic.acked(),
        before,
        "no ESME_ROK while nothing can be written"
    );
    assert_eq!(
        bench.daemon.admin("stats.show", json!({}))["store_writable"],
        false
    );
    // Nothing else is hurt: links live, customers can bind, and of a payment it is said that it is not on record yet.
    assert!(pulse(&mut other) < Duration::from_secs(1));
    drop(bench.daemon.bound());
    let payment = json!({"account": "acme", "amount": "5", "provider": "bank", "receipt": "FULL"});
    let socket = bench.daemon.path("admin.sock");
    assert!(common::admin(&socket, "wallet.topup", payment).is_err());
    assert_eq!(bench.smsc.stats().binds, 1, "the link to the SMSC stays");
    fault.mend();
    traffic.more(40);
    // "Ask again with the same keys": it may have waited for room all the time, and is booked once either way.
    bench.daemon.pay("FULL", "5");
    let conn = Connection::open(bench.path("gateway.db")).unwrap();
    let booked = "SELECT COUNT(*) FROM ledger WHERE reason = 'topup' AND reference = 'FULL'";
    assert_eq!(number(&conn, booked), 1);
    drop(conn);
    let seen = traffic.stop();
    assert!(!seen.closed);
    bench.audit(&seen);
}

#[test]
fn a_log_that_cannot_be_moved_for_lack_of_room_grows_and_nothing_is_refused_or_lost() {
    if !strace() {
        return;
    }
    let mut bench = Bench::new();
    let traffic = bench.traffic();
    let Some(fault) = bench.fault("gateway.db", "pwrite64", "error=ENOSPC") else {
        return;
    };
    let size = |name: &str| std::fs::metadata(bench.path(name)).unwrap().len();
    // More than what is moved at once.
    eventually("the log grows", || size("gateway.db-wal") > 500 * 4096);
    let before = size("gateway.db");
    assert!(
        bench.daemon.said().contains("cannot be moved"),
        "{}",
        bench.daemon.said()
    );
    traffic.more(40);
    fault.mend();
    eventually("the log is moved", || size("gateway.db") > before);
    traffic.more(40);
    let seen = traffic.stop();
    assert_eq!((seen.refused, seen.closed), (0, false));
    bench.audit(&seen);
}

#[test]
fn a_start_without_room_says_so_and_loses_nothing() {
    let mut bench = Bench::new();
    let traffic = bench.traffic();
    traffic.more(200);
    bench.daemon.kill();
    let seen = traffic.end();
    // A file size limit of less than the log's first page, as a quota that was set too low: wherever the log goes on, nothing
    // can be written to it.
    bench.daemon.spawn_through(&["prlimit", "--fsize=4096"], &[]);
    let (status, said) = bench.daemon.end();
    assert_eq!(status.code(), Some(1), "not killed by SIGXFSZ: {status} {said}");
    assert!(said.contains("the store is full"), "{said}");
    bench.audit(&seen);
}

// ---- Errors of the disk ----

#[test]
fn a_disk_that_cannot_be_read_ends_the_process_and_loses_nothing() {
    if !strace() {
        return;
    }
    let mut bench = Bench::new();
    let traffic = bench.traffic();
    traffic.more(40);
    // Moving the log reads it.
    let Some(fault) = bench.fault("gateway.db-wal", "pread64", "error=EIO") else {
        return;
    };
    let (status, said) = bench.daemon.end();
    drop(fault);
    assert!(!status.success(), "{said}");
    assert!(said.contains("the store has failed"), "{said}");
    let seen = traffic.end();
    assert_eq!(seen.refused, 0);
    bench.audit(&seen);
}

#[test]
fn a_disk_that_cannot_be_read_at_the_start_is_named_and_left_alone() {
    if !strace() {
        return;
    }
    let mut bench = Bench::new();
    let traffic = bench.traffic();
    traffic.more(40);
    bench.daemon.kill();
    let seen = traffic.end();
    let files = |bench: &Bench| {
        ["gateway.db", "gateway.db-wal"].map(|f| std::fs::read(bench.path(f)).unwrap_or_default())
    };
    let before = files(&bench);
    for file in ["gateway.db", "gateway.db-wal"] {
        let path = bench.path(file);
        let tracer = [
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-P",
            &path,
            "-e",
            "trace=pread64",
            "-e",
            "inject=pread64:error=EIO",
        ];
        bench.daemon.spawn_through(&tracer, &[]);
        let (status, said) = bench.daemon.end();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&bench.path("gateway.db")), "{said}");
        assert!(said.contains("I/O error") || said.contains("damaged"), "{said}");
        assert!(
            files(&bench) == before,
            "{file} cannot be read: nothing may be changed"
        );
    }
    bench.audit(&seen);
}

#[test]
fn a_slow_disk_slows_customers_down_and_nothing_else() {
    if !strace() {
        return;
    }
    let mut bench = Bench::new();
    let traffic = bench.traffic();
    traffic.more(40);
    let mut other = bench.daemon.bound();
    for ms in [50, 500] {
        let delay = format!("delay_enter={}", ms * 1_000);
        let Some(fault) = bench.fault("gateway.db-wal", "fsync,fdatasync", &delay) else {
            return;
        };
        let start = Instant::now();
        let before = traffic.acked();
        // As many as a slow disk gives; meanwhile everybody's link is answered.
        while traffic.acked() < before + 2 * WINDOW {
            let took = pulse(&mut other);
            assert!(took < Duration::from_secs(1), "{took:?} at {ms} ms");
            std::thread::sleep(Duration::from_millis(20));
            assert!(start.elapsed() < common::WAIT);
        }
        assert!(start.elapsed() >= Duration::from_millis(ms), "the disk was slow");
        fault.mend();
    }
    traffic.more(40);
    let seen = traffic.stop();
    assert_eq!((seen.refused, seen.closed), (0, false));
    bench.audit(&seen);
}

#[test]
fn a_stuck_fsync_holds_acknowledgements_back_and_no_session_is_ended_for_it() {
    if !strace() {
        return;
    }
    let mut bench = Bench::new();
    let mut customer = bench.daemon.bound();
    let mut seen = Seen::default();
    let acked = |seen: &mut Seen, got: &Got| {
        assert_eq!((got.id, got.status), (CommandId::SUBMIT_SM_RESP, ROK));
        seen.sent += 1;
        seen.acked.push(got.message_id().parse().unwrap());
    };
    acked(&mut seen, &customer.submit(&message(b"before")));
    let stuck = "delay_enter=4000000:when=1";
    let Some(fault) = bench.fault("gateway.db-wal", "fsync,fdatasync", stuck) else {
        return;
    };
    let start = Instant::now();
    customer.send(&message(b"held"));
    let mut pulses = 0;
    let held = loop {
        let took = pulse(&mut customer);
        assert!(took < Duration::from_secs(1), "{took:?} while the disk is stuck");
        pulses += 1;
        let short = Some(Duration::from_millis(50));
        customer.stream.set_read_timeout(short).unwrap();
        let got = customer.try_read();
        customer.stream.set_read_timeout(Some(common::WAIT)).unwrap();
        if let Some(got) = got.filter(|got| got.id != CommandId::DELIVER_SM) {
            break got;
        }
        assert!(start.elapsed() < common::WAIT);
    };
    acked(&mut seen, &held);
    // The fsync that is stuck may have begun a little before.
    let took = start.elapsed();
    assert!(took > Duration::from_secs(3), "acknowledged after {took:?}");
    assert!(pulses > 20, "{pulses}");
    fault.mend();
    acked(&mut seen, &customer.submit(&message(b"after")));
    assert_eq!(bench.smsc.stats().binds, 1, "the link to the SMSC stays");
    bench.audit(&seen);
}

// ---- Files that are not what they were ----

/// The files of a store whose log holds [`BATCHES`] commits of [`ROWS`] messages each; the process that wrote it has crashed.
fn crashed() -> [Vec<u8>; 3] {
    let dir = tempfile::tempdir().unwrap();
    let mut store = rows::opened_with(Options {
        path: dir.path().join(FILES[0]),
        full: true,
        segment_messages: 1_000_000,
        keep_days: 0,
        accept_older: false,
    })
    .unwrap();
    let fence = store.acquire().unwrap().fence;
    commit(&mut store, fence, 1, paid());
    for n in 0..BATCHES {
        let mut batch = Batch::default();
        for key in n * ROWS + 1..=(n + 1) * ROWS {
            let text = format!("text {key}");
            batch.accepted.push(accepted(key, 1_000, text.as_bytes()));
            batch.sent.push(sent(key, key));
        }
        charge(&mut batch, ROWS as u32);
        commit(&mut store, fence, n + 2, batch);
    }
    let left = files(dir.path());
    drop(store);
    left
}

const BATCHES: u64 = 40;
const ROWS: u64 = 5;
const FILES: [&str; 3] = ["store.db", "store.db-wal", "store.db.lock"];

fn files(dir: &Path) -> [Vec<u8>; 3] {
    FILES.map(|f| std::fs::read(dir.join(f)).unwrap_or_default())
}

fn put(dir: &Path, files: &[Vec<u8>; 3]) {
    for (name, octets) in FILES.iter().zip(files) {
        std::fs::write(dir.join(name), octets).unwrap();
    }
}

/// A store is as it was after some commit, and which.
fn is_a_prefix(dir: &Path) -> u64 {
    let path = dir.join("store.db");
    let conn = Connection::open(&path).unwrap();
    let batch = number(&conn, "SELECT batch FROM node") as u64;
    let wanted = batch.saturating_sub(1) * ROWS;
    let paid = if batch > 0 { 10_000_000 } else { 0 };
    is_exactly(dir, wanted, paid);
    batch
}

/// These messages are on record with their texts, and nothing else; the balance is what was `paid` less their price.
fn is_exactly(dir: &Path, messages: u64, paid: i64) {
    let path = dir.join("store.db");
    let conn = Connection::open(&path).unwrap();
    let mut found = on_record(&conn).unwrap();
    found.sort_unstable();
    let wanted: Vec<u64> = (1..=messages).collect();
    assert_eq!(found, wanted);
    let balance = number(&conn, "SELECT COALESCE(SUM(balance), 0) FROM wallet");
    assert_eq!(balance, paid - messages as i64 * PRICE);
    for key in &found {
        let text: Vec<u8> = conn
            .query_row(
                "SELECT message FROM accepted_1 WHERE key = ?1",
                [*key as i64],
                |r| r.get(0),
            )
            .unwrap();
        let wanted = format!("text {key}");
        assert!(
            text.windows(wanted.len()).any(|w| w == wanted.as_bytes()),
            "the text of {key}"
        );
    }
    let check = Reader::open(&path).unwrap().check(0).unwrap();
    assert_eq!(check.faults, Vec::<String>::new());
}

#[test]
fn a_torn_or_damaged_log_gives_a_whole_prefix_or_is_refused_and_never_anything_else() {
    let original = crashed();
    let length = original[1].len();
    let (mut prefixes, mut shorter, mut refused) = (0, 0, 0);
    for seed in 0..200u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut below = |n: usize| {
            // xorshift64*
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            (random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
        };
        let mut log = original[1].clone();
        // In the tail; one in ten anywhere, the log's own header too.
        let from = if seed % 10 == 0 { 0 } else { length / 2 };
        match seed % 5 {
            0 => {
                for _ in 0..1 + below(8) {
                    let at = from + below(length - from);
                    log[at] ^= 1 << below(8);
                }
            }
            1 => log.truncate(from + below(length - from)),
            2 => {
                let at = (from + below(length - from)) / 512 * 512;
                log[at..(at + 512).min(length)].fill(0);
            }
            3 => {
                // Sectors that were written to the wrong place.
                let (to, back) = (
                    (from + below(length - from)) / 512 * 512,
                    below(length / 2) / 512 * 512,
                );
                let n = 512.min(length - to);
                log.copy_within(back..back + n, to);
            }
            _ => {
                log.truncate(from + below(length - from));
                log.extend((0..below(9_000)).map(|n| n as u8));
            }
        }
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &[original[0].clone(), log, original[2].clone()]);
        let before = files(dir.path());
        match rows::opened(dir.path(), 1_000_000) {
            Ok(mut store) => {
                let batch = is_a_prefix(dir.path());
                prefixes += 1;
                shorter += usize::from(batch < BATCHES + 1);
                store.acquire().unwrap();
                store.recover(&mut |_| {}).unwrap();
            }
            Err(error) => {
                refused += 1;
                assert!(
                    matches!(error, OpenError::Older(_) | OpenError::Damaged { .. }),
                    "{error}"
                );
                assert!(
                    files(dir.path()) == before,
                    "refused, and changed: seed {seed}, {error}"
                );
            }
        }
    }
    eprintln!("{prefixes} opened, {shorter} of them shorter; {refused} refused");
    assert_eq!(prefixes + refused, 200);
    assert!(shorter > 100 && refused > 0, "{shorter} {refused}");
}

#[test]
fn the_log_of_another_store_is_refused_and_changes_nothing() {
    for starts in 1..4 {
        // Ours ended in good order after its second start; all of it is in the main file.
        let ours = tempfile::tempdir().unwrap();
        put(ours.path(), &crashed());
        let mut store = rows::opened(ours.path(), 1_000_000).unwrap();
        let fence = store.acquire().unwrap().fence;
        store.release(fence).unwrap();
        drop(store);
        // Theirs was started less often, as often, or more often, and has crashed.
        let theirs = tempfile::tempdir().unwrap();
        for _ in 1..starts {
            rows::open(theirs.path(), 1_000_000);
        }
        let (mut store, fence) = rows::open(theirs.path(), 1_000_000);
        commit(&mut store, fence, 1, paid());
        let mut batch = Batch::default();
        for key in 9_000..9_100 {
            batch.accepted.push(accepted(key, 1_000, b"theirs"));
        }
        commit(&mut store, fence, 2, batch);
        let [_, log, _] = files(theirs.path());
        let [db, _, lock] = files(ours.path());
        put(ours.path(), &[db, log, lock]);
        let before = files(ours.path());
        let error = rows::opened(ours.path(), 1_000_000).unwrap_err();
        assert!(
            matches!(error, OpenError::Older(_) | OpenError::Mixed(_)),
            "{error}"
        );
        assert!(files(ours.path()) == before, "{error}");
        // Without it, everything is as it was.
        std::fs::remove_file(ours.path().join(FILES[1])).unwrap();
        let mut store = rows::opened(ours.path(), 1_000_000).unwrap();
        is_exactly(ours.path(), BATCHES * ROWS, 10_000_000);
        store.acquire().unwrap();
    }
}

#[test]
fn a_store_that_may_not_be_written_is_named_and_works_again_once_it_may() {
    if !strace() {
        return;
    }
    let mut bench = Bench::new();
    let traffic = bench.traffic();
    traffic.more(40);
    bench.daemon.kill();
    let seen = traffic.end();
    let read = |bench: &Bench, f: &str| std::fs::read(bench.path(f)).unwrap();
    let before = [read(&bench, "gateway.db"), read(&bench, "gateway.db-wal")];
    // The tests may run as root, who may write everything: the system says no to opening for writing, as it does to others.
    // The first opening is the look at the header, which only reads.
    let path = bench.path("gateway.db");
    let tracer = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        &path,
        "-e",
        "trace=openat",
        "-e",
        "inject=openat:error=EACCES:when=2",
    ];
    bench.daemon.spawn_through(&tracer, &[]);
    let (status, said) = bench.daemon.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&path) && said.contains("readonly"), "{said}");
    assert!(said.contains("owner and mode"), "what to do: {said}");
    assert!([read(&bench, "gateway.db"), read(&bench, "gateway.db-wal")] == before);
    bench.audit(&seen);
}

#[test]
fn a_foreign_program_that_locks_the_store_delays_submits_then_has_them_refused_until_it_lets_go() {
    let mut bench = Bench::new();
    let traffic = bench.traffic();
    traffic.more(40);
    let mut other = bench.daemon.bound();
    let foreign = Connection::open(bench.path("gateway.db")).unwrap();
    foreign.busy_timeout(common::WAIT).unwrap();
    foreign.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // A commit that was under way has been answered by now, or waits.
    let before = traffic.acked();
    let slack = 2 * WINDOW;
    while traffic.refused() == 0 {
        assert!(
            pulse(&mut other) < Duration::from_secs(1),
            "links are answered while a commit waits"
        );
        std::thread::sleep(Duration::from_millis(50));
        assert!(
            traffic.acked() <= before + slack,
            "acknowledged while somebody else holds the lock"
        );
    }
    foreign.execute_batch("COMMIT").unwrap();
    traffic.more(40);
    let seen = traffic.stop();
    assert!(!seen.closed);
    bench.audit(&seen);
}

// ---- A kill in the middle of the store's own work ----

/// A store with two full segments that wait to be sealed, of messages so old that retention drops them at once.
fn full_segments() -> [Vec<u8>; 3] {
    let dir = tempfile::tempdir().unwrap();
    rows::two_full_segments(dir.path());
    files(dir.path())
}

/// Runs a daemon on such a store with a kill armed, if it comes to that; then one without, to the end, and looks.
fn killed(store: &[Vec<u8>; 3], files: &[&str], call: &str, when: usize) -> bool {
    let mut bench = Bench::idle("keep_days = 1");
    for (name, octets) in ["gateway.db", "gateway.db-wal", "gateway.db.lock"]
        .iter()
        .zip(store)
    {
        std::fs::write(bench.path(name), octets).unwrap();
    }
    let (trace, inject) = (
        format!("trace={call}"),
        format!("inject={call}:signal=KILL:when={when}"),
    );
    let paths: Vec<String> = files.iter().map(|f| bench.path(f)).collect();
    let mut tracer = vec![
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ];
    paths.iter().for_each(|p| tracer.extend(["-P", p]));
    bench.daemon.spawn_through(&tracer, &[]);
    let socket = bench.daemon.path("admin.sock");
    let sealed = || {
        let stats = common::admin(&socket, "stats.show", json!({}));
        stats.is_ok_and(|s| s["segments_to_seal"] == 0 && s["open"] == 0)
    };
    eventually("all is sealed, or it is killed", || {
        !bench.daemon.runs() || sealed()
    });
    if bench.daemon.runs() {
        // Ending in good order moves the log and cuts it off.
        bench.daemon.signal("-TERM");
    }
    let (status, said) = bench.daemon.end();
    assert!(status.code().is_none_or(|c| c == 0), "{said}");
    bench.daemon.start(&[]);
    eventually("all is sealed", sealed);
    assert_eq!(bench.daemon.reconciles(), MESSAGES, "{call} {when}");
    let conn = Connection::open(bench.path("gateway.db")).unwrap();
    let whole: String = conn
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .unwrap();
    assert_eq!(whole, "ok", "{call} {when}");
    let balance = number(&conn, "SELECT balance FROM wallet");
    assert_eq!(balance, 10_000_000 - MESSAGES as i64 * PRICE, "{call} {when}");
    eventually("what is past its time is dropped", || {
        number(&conn, "SELECT COUNT(*) FROM segment WHERE state = 2") == 0
    });
    status.code().is_none()
}

#[test]
fn a_kill_at_any_write_of_sealing_retention_and_checkpoints_loses_and_doubles_nothing() {
    if !strace() {
        return;
    }
    let store = full_segments();
    let (db, log, lock) = ("gateway.db", "gateway.db-wal", "gateway.db.lock");
    let mut kills = 0;
    // The whole work takes about 440 writes.
    for when in [
        1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 120, 144, 180, 233, 280, 330, 377,
    ] {
        kills += u32::from(killed(&store, &[db, log], "pwrite64", when));
    }
    // Within a checkpoint, and between its steps.
    for (file, call, when) in [
        (db, "pwrite64", 1),
        (db, "pwrite64", 40),
        (db, "fsync", 1),
        (log, "fsync", 5),
        (db, "ftruncate", 1),
        (log, "ftruncate", 1),
        (lock, "pwrite64", 1),
        (lock, "fdatasync", 1),
    ] {
        let killed = killed(&store, &[file], call, when);
        assert!(killed, "{file} {call} {when} never came");
        kills += 1;
    }
    assert!(kills > 15, "only {kills} kills");
}
