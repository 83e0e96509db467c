//! The power goes. The daemon runs as its users run it, traced; from the trace of its writes and fsyncs thousands of disks
//! are made as a power cut at some moment may leave them (`powercut/disk.rs`); each is opened as the next start would, and
//! must hold every message and payment acknowledged *before* that moment, once, with the money right. The acknowledgement is
//! not what the daemon believes it sent but the `submit_sm_resp` that the trace has going into a socket.
//!
//! A harness that cannot fail proves nothing: with `durability = "normal"`, and on a disk that lies about fsync, the same
//! images must show losses.
//!
//! `POWERCUT_IMAGES` (default 300) says how many images, `POWERCUT_SEED` (default 1) which.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;
#[path = "powercut/disk.rs"]
mod disk;
#[path = "powercut/trace.rs"]
mod trace;

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use common::process::{Daemon, strace};
use common::rows::{accepted, charge, on_record, opened_with};
use common::{Peer, eventually, message};
use disk::{Disk, Fate, Model, Rng};
use rusqlite::Connection;
use smsconnect::ids::{BatchId, MessageKey};
use smsconnect::smpp::{CommandId, CommandStatus};
use smsconnect::store::sqlite::{Options, Reader};
use smsconnect::store::{Batch, Store};
use smsconnect::tools::smsc::{Smsc, SmscOptions};
use trace::{Op, Trace};

/// The least that the config takes, so that segments fill up and are sealed during the run.
const SEGMENT: u64 = 1_000;
const PRICE: i64 = 800_000;
/// Operations of a start: creating, migrating, taking over.
const STARTING: usize = 90;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |n| n.parse().unwrap())
}

// ---- The run ----

/// How a life ends.
#[derive(Clone, Copy)]
enum End {
    /// In good order.
    Term,
    /// By a kill.
    Kill,
}

/// Runs the daemon for some lives, with so many messages in each. `None`: skipped.
fn record(durability: &str, lives: &[(u32, End)]) -> Option<Trace> {
    if !strace() {
        return None;
    }
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
    let store = format!("segment_messages = {SEGMENT}\ndurability = \"{durability}\"");
    let mut daemon = Daemon::with(smsc.addr(), &store, "binds = 1");
    let dir = daemon.dir.path().canonicalize().unwrap();
    let mut trace = Trace::default();
    let mut rng = Rng(7);
    for (n, (messages, end)) in lives.iter().enumerate() {
        let log = daemon.path(&format!("trace{n}"));
        let tracer = [
            "strace",
            "-D",
            "-f",
            "-q",
            "-y",
            "-xx",
            "-s",
            "10000000",
            "--seccomp-bpf",
            "-e",
            "signal=KILL",
            "-e",
            trace::CALLS,
            "-o",
            log.to_str().unwrap(),
        ];
        daemon.spawn_through(&tracer, &[]);
        daemon.ready();
        if n == 0 {
            daemon.account();
            daemon.pay("MORE", "4000");
        }
        traffic(&daemon, *messages, n, matches!(end, End::Term), &mut rng);
        let pid = daemon.pid().to_string();
        match end {
            End::Term => {
                daemon.signal("-TERM");
                let (status, said) = daemon.end();
                assert!(status.success(), "{said}");
            }
            End::Kill => {
                halt(&daemon, &log);
                daemon.kill();
            }
        }
        // Short numbers are padded.
        let gone = |line: &str| line.split_whitespace().take(2).eq([pid.as_str(), "+++"]);
        eventually("the trace is complete", || tail(&log).lines().any(gone));
        trace.add(&std::fs::read(&log).unwrap(), &dir);
        std::fs::remove_file(&log).unwrap();
        same_as_the_real_files(&trace, &dir);
    }
    Some(trace)
}

/// The end of a long file.
fn tail(path: &Path) -> String {
    let mut file = std::fs::File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length.saturating_sub(4_000))).unwrap();
    let mut octets = Vec::new();
    file.read_to_end(&mut octets).unwrap();
    String::from_utf8_lossy(&octets).into_owned()
}

/// Stops every thread outside a call, so that the trace tells all that was done when the process is killed.
fn halt(daemon: &Daemon, log: &Path) {
    daemon.signal("-STOP");
    let stopped = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        tasks
            .map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).unwrap())
            .all(|text| {
                text.lines()
                    .any(|l| l.starts_with("State:\tT") || l.starts_with("State:\tt"))
            })
    };
    let (mut length, mut times) = (0, 0);
    eventually("every thread has stopped", || {
        let now = std::fs::metadata(log).unwrap().len();
        times = if stopped() && now == length { times + 1 } else { 0 };
        length = now;
        times == 10
    });
}

/// Messages in bursts of random size, so that there are small commits and large ones; a payment now and then. Ends when full
/// segments are sealed; `settled`: and every message has got its receipt.
fn traffic(daemon: &Daemon, messages: u32, life: usize, settled: bool, rng: &mut Rng) {
    let mut customer = daemon.bound();
    let (mut sent, mut receipts) = (0, 0);
    while sent < messages {
        let burst = (1 + rng.below(8) as u32).min(messages - sent);
        for _ in 0..burst {
            customer.send(&message(&vec![b'x'; 20 + rng.below(100)]));
        }
        sent += burst;
        answers(&mut customer, burst, &mut receipts);
        if rng.below(8) == 0 {
            daemon.pay(&format!("R{life}-{sent}"), "12.50");
        }
    }
    while settled && receipts < messages {
        customer.delivery();
        receipts += 1;
    }
    eventually("full segments are sealed", || {
        daemon.stat("segments_to_seal") == 0
    });
}

/// Takes so many responses, and answers the receipts that come between.
fn answers(customer: &mut Peer, mut responses: u32, receipts: &mut u32) {
    while responses > 0 {
        let got = customer.read().unwrap();
        match got.id {
            CommandId::SUBMIT_SM_RESP => {
                assert_eq!(got.status, CommandStatus::ESME_ROK);
                responses -= 1;
            }
            CommandId::DELIVER_SM => {
                customer.answer(&got, CommandStatus::ESME_ROK);
                *receipts += 1;
            }
            other => panic!("{other}"),
        }
    }
}

/// The model's own check: with everything kept it is the real thing, octet for octet.
fn same_as_the_real_files(trace: &Trace, dir: &Path) {
    let mut model = Model::new(Disk::Honest);
    trace.ops.iter().for_each(|(at, op)| model.apply(*at, op));
    let mut real = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("gateway.db") && !name.ends_with("-shm") {
            real.insert(name.clone(), std::fs::read(dir.join(name)).unwrap());
        }
    }
    let model = model.now();
    assert!(
        model.keys().eq(real.keys()),
        "{:?} {:?}",
        model.keys(),
        real.keys()
    );
    for (name, octets) in &real {
        assert!(model[name] == *octets, "{name} is not what the trace says");
    }
}

// ---- The audit ----

/// What is wrong with an image.
#[derive(Debug, Default, Clone)]
struct Verdict {
    /// The daemon would not start on it.
    refused: Option<String>,
    /// SQLite finds damage.
    damaged: Option<String>,
    /// Acknowledged messages and payments that are not on record.
    lost: usize,
    /// Anything else that must never be.
    wrong: Vec<String>,
}

impl Verdict {
    fn fine(&self) -> bool {
        self.refused.is_none() && self.damaged.is_none() && self.lost == 0 && self.wrong.is_empty()
    }
}

/// What the outside was told before the cut, and what it had ever sent.
#[derive(Debug, Default)]
struct Told {
    acked: Vec<u64>,
    paid: Vec<(String, i64)>,
}

/// Opens an image as the daemon would and looks at what is in it, with statements simpler than the daemon's own.
fn audit(dir: &Path, told: &Told, ever: &HashSet<u64>) -> Verdict {
    let mut verdict = Verdict::default();
    let path = dir.join("gateway.db");
    let options = Options {
        path: path.clone(),
        full: true,
        segment_messages: SEGMENT,
        keep_days: 0,
        accept_older: false,
    };
    let mut store = match opened_with(options.clone()) {
        Ok(store) => store,
        Err(error) => {
            verdict.refused = Some(error.to_string());
            return verdict;
        }
    };
    let recovered = store.acquire().and_then(|owned| {
        store.recover(&mut |_| {})?;
        Ok(owned.fence)
    });
    let fence = match recovered {
        Ok(fence) => fence,
        Err(error) => {
            verdict.refused = Some(error.to_string());
            return verdict;
        }
    };
    if let Some(id) = told.acked.iter().find(|id| *id >> 32 >= u64::from(fence.epoch)) {
        let said = format!("epoch {} would give out ids like {id} again", fence.epoch);
        verdict.wrong.push(said);
    }
    let found = match look(&path, told, ever, &mut verdict) {
        Ok(found) => found,
        Err(error) => {
            verdict.damaged = Some(error.to_string());
            return verdict;
        }
    };
    // It goes on: what is written behind the cut is there at the next start, and nothing comes back that was gone.
    let key = MessageKey::new(0, fence.epoch, 0);
    let mut batch = Batch {
        id: BatchId {
            epoch: fence.epoch,
            number: 1,
        },
        accepted: vec![accepted(key.0, 1_000, b"after the power came back")],
        ..Batch::default()
    };
    charge(&mut batch, 0);
    let again = store.commit(fence, &batch).map_err(|e| e.to_string());
    drop(store);
    let again = again.and_then(|()| opened_with(options).map_err(|e| e.to_string()));
    let again = again.and_then(|_| {
        Connection::open(&path)
            .and_then(|c| on_record(&c))
            .map_err(|e| e.to_string())
    });
    match again {
        Ok(keys) if keys.len() == found + 1 && keys.contains(&key.0) => {}
        other => verdict
            .wrong
            .push(format!("{found} messages, one more, and then {other:?}")),
    }
    match Reader::open(&path).and_then(|r| r.check(0)) {
        Ok(check) => verdict.wrong.extend(check.faults),
        Err(error) => verdict.damaged = Some(error.to_string()),
    }
    verdict
}

/// Adds to the verdict; how many messages are on record.
fn look(path: &Path, told: &Told, ever: &HashSet<u64>, verdict: &mut Verdict) -> rusqlite::Result<usize> {
    let conn = Connection::open(path)?;
    let said: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0))?;
    if said != "ok" {
        verdict.damaged = Some(said);
    }
    let mut found = HashSet::new();
    for key in &on_record(&conn)? {
        if !found.insert(*key) {
            verdict.wrong.push(format!("message {key} is on record twice"));
        }
        if !ever.contains(key) {
            verdict.wrong.push(format!("message {key} was never sent"));
        }
    }
    verdict.lost += told.acked.iter().filter(|id| !found.contains(id)).count();

    let sum = |sql: &str| conn.query_row(sql, [], |r| r.get::<_, i64>(0));
    for (receipt, amount) in &told.paid {
        let sql = format!(
            "SELECT COUNT(*) FROM ledger WHERE reason = 'topup' AND reference = '{receipt}' AND amount = {amount}"
        );
        verdict.lost += usize::from(sum(&sql)? != 1);
    }
    let balance = sum("SELECT COALESCE(SUM(balance), 0) FROM wallet")?;
    let payments = sum("SELECT COALESCE(SUM(amount), 0) FROM ledger WHERE reason = 'topup'")?;
    let charges = sum("SELECT COALESCE(SUM(amount), 0) FROM ledger WHERE credit = 'revenue'")?;
    let charged = sum("SELECT COALESCE(SUM(count), 0) FROM ledger WHERE credit = 'revenue'")?;
    let given_back = sum("SELECT COUNT(*) FROM ledger WHERE debit = 'revenue'")?;
    if balance != payments - charges || charges != charged * PRICE || given_back != 0 {
        verdict.wrong.push(format!(
            "{payments} paid, {charges} for {charged} messages, {balance} left"
        ));
    }
    if charged > found.len() as i64 {
        verdict
            .wrong
            .push(format!("{charged} charges for {} messages", found.len()));
    }
    Ok(found.len())
}

// ---- The sweep ----

/// What a sweep found.
#[derive(Debug, Default)]
struct Tally {
    images: usize,
    refused: usize,
    damaged: usize,
    /// Images that open, are whole, and have lost something acknowledged.
    losing: usize,
    /// The most that one of them has lost.
    worst: usize,
    wrong: usize,
    /// The first that is not fine: what to tell.
    first: Option<String>,
}

impl Tally {
    fn add(&mut self, verdict: &Verdict) {
        self.images += 1;
        self.refused += usize::from(verdict.refused.is_some());
        self.damaged += usize::from(verdict.refused.is_none() && verdict.damaged.is_some());
        self.losing += usize::from(verdict.lost > 0);
        self.worst = self.worst.max(verdict.lost);
        self.wrong += usize::from(!verdict.wrong.is_empty());
    }

    fn join(mut self, other: Tally) -> Tally {
        self.images += other.images;
        self.refused += other.refused;
        self.damaged += other.damaged;
        self.losing += other.losing;
        self.worst = self.worst.max(other.worst);
        self.wrong += other.wrong;
        self.first = self.first.or(other.first);
        self
    }
}

/// Where an image is cut: one in eight during a start, every second right behind an acknowledgement, where the promise is
/// newest, the others anywhere.
fn moment(trace: &Trace, image: usize, images: usize, rng: &mut Rng) -> usize {
    let all = trace.ops.len() + 1;
    if image.is_multiple_of(8) {
        return (trace.starts[rng.below(trace.starts.len())] + rng.below(STARTING)).min(all - 1);
    }
    let at = image * all / images + rng.below(all / images + 1);
    let behind = |op: &(usize, Op)| matches!(op.1, Op::Acked(_) | Op::Paid(..));
    match trace.ops.get(at..).and_then(|rest| rest.iter().position(behind)) {
        Some(next) if image % 2 == 1 => at + next + 1,
        _ => at.min(all - 1),
    }
}

/// Makes and audits `images` images of a trace. Two threads: the work is copying and SQLite.
fn sweep(name: &str, trace: &Trace, disk: Disk, images: usize) -> Tally {
    let seed = from_environment("POWERCUT_SEED", 1);
    let ever: HashSet<u64> = acked(trace).collect();
    let tally = std::thread::scope(|scope| {
        let ever = &ever;
        let threads = [0, 1].map(|t| {
            scope.spawn(move || {
                let mut cuts: Vec<_> = (t..images)
                    .step_by(2)
                    .map(|image| {
                        let mut rng = Rng(seed ^ (image as u64) << 32);
                        (moment(trace, image, images, &mut rng), image, rng)
                    })
                    .collect();
                cuts.sort_by_key(|(at, ..)| *at);
                part(name, trace, disk, cuts, ever)
            })
        });
        threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .fold(Tally::default(), Tally::join)
    });
    eprintln!(
        "{name}: {} images: {} refused, {} damaged, {} lost something acknowledged (at most {}), {} wrong",
        tally.images, tally.refused, tally.damaged, tally.losing, tally.worst, tally.wrong
    );
    tally
}

fn acked(trace: &Trace) -> impl Iterator<Item = u64> {
    trace.ops.iter().filter_map(|(_, op)| match op {
        Op::Acked(id) => Some(*id),
        _ => None,
    })
}

/// Audits images in the order of their moments, going through the trace once.
fn part(name: &str, trace: &Trace, disk: Disk, cuts: Vec<(usize, usize, Rng)>, ever: &HashSet<u64>) -> Tally {
    // Memory, where there is such a folder: this measures no disk.
    let shm = Path::new("/dev/shm");
    let dir = match tempfile::tempdir_in(shm) {
        Ok(dir) => dir,
        Err(_) => tempfile::tempdir().unwrap(),
    };
    let mut tally = Tally::default();
    let mut model = Model::new(disk);
    let mut told = Told::default();
    let mut done = 0;
    for (upto, image, mut rng) in cuts {
        for (at, op) in &trace.ops[done..upto] {
            model.apply(*at, op);
            match op {
                Op::Acked(id) => told.acked.push(*id),
                Op::Paid(receipt, amount) => told.paid.push((receipt.clone(), *amount)),
                _ => {}
            }
        }
        done = upto;
        let fate = Fate::any(&mut rng);
        let files = model.cut(&mut rng, fate);
        disk::write(&files, dir.path());
        let verdict = audit(dir.path(), &told, ever);
        tally.add(&verdict);
        if !verdict.fine() && tally.first.is_none() {
            let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("powercut-{name}"));
            std::fs::create_dir_all(&kept).unwrap();
            disk::write(&files, &kept);
            tally.first = Some(format!(
                "image {image}, cut behind operation {upto} of {}, {fate:?}, kept in {}: {verdict:?}",
                trace.ops.len(),
                kept.display()
            ));
        }
    }
    tally
}

/// What the trace holds, so that a run that did not do what it is for is no proof.
fn worth_it(trace: &Trace, messages: usize, payments: usize) {
    let count = |is: &dyn Fn(&Op) -> bool| trace.ops.iter().filter(|(_, op)| is(op)).count();
    assert_eq!(acked(trace).collect::<HashSet<_>>().len(), messages);
    assert!(count(&|op| matches!(op, Op::Paid(..))) >= payments);
    let moved = count(&|op| matches!(op, Op::Sync(name, _) if name == "gateway.db"));
    assert!(moved >= 8, "the log was moved into the main file {moved} times");
    // A log that starts anew over its old octets.
    let anew = count(&|op| matches!(op, Op::Write(name, 0, _) if name == "gateway.db-wal"));
    assert!(anew >= 4, "the log began anew {anew} times");
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_acknowledged() {
    // Two segments fill up and are sealed; the second life begins behind a clean end, the third behind a kill.
    let lives = [(1_300, End::Term), (900, End::Kill), (150, End::Kill)];
    let Some(trace) = record("full", &lives) else {
        return;
    };
    worth_it(&trace, 2_350, 5);
    let images = from_environment("POWERCUT_IMAGES", 300) as usize;
    let tally = sweep("full", &trace, Disk::Honest, images);
    assert_eq!(tally.images, images);
    if let Some(first) = tally.first {
        panic!(
            "{} refused, {} damaged, {} losing, {} wrong; {first}",
            tally.refused, tally.damaged, tally.losing, tally.wrong
        );
    }
    // The control: the same trace, on a disk that says yes and has not done it.
    let tally = sweep("lies", &trace, Disk::Lies(300), images.min(200));
    assert!(tally.losing + tally.refused + tally.damaged > 20, "{tally:?}");
    assert!(
        tally.losing > 0,
        "a harness that cannot fail proves nothing: {tally:?}"
    );
}

#[test]
fn without_full_durability_the_same_power_cuts_lose_what_was_acknowledged() {
    let Some(trace) = record("normal", &[(400, End::Kill)]) else {
        return;
    };
    let tally = sweep("normal", &trace, Disk::Honest, 150);
    assert!(
        tally.losing > 10,
        "a harness that cannot fail proves nothing: {tally:?}"
    );
    // It loses the newest; it starts, and what is there adds up.
    assert_eq!(
        (tally.refused, tally.damaged, tally.wrong),
        (0, 0, 0),
        "{tally:?}"
    );
}
