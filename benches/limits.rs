//! What happens at the edges: millions of receipts awaited, a store of many millions, all upstreams down, ten times the load that can
//! be taken, and the price of TLS and of work beside traffic. Compared in one run wherever two things are compared.
//!
//! ```text
//! cargo bench --bench limits -- pending 10000000     memory of awaited receipts, then a restart with them
//! cargo bench --bench limits -- restart 1000000      from exec to the first bind_resp
//! cargo bench --bench limits -- growth 50000000      throughput with so many closed messages against an empty store
//! cargo bench --bench limits -- beside 10000000      retention, statements and wallet.check beside traffic
//! cargo bench --bench limits -- down 30              all upstreams down for so many seconds at full rate
//! cargo bench --bench limits -- overload 10          so many seconds of ten times the peak
//! cargo bench --bench limits -- tls 8                plaintext and TLS in turn, so many seconds each
//! cargo bench --bench limits -- soak 30 5000         minutes, and messages a second; memory every minute
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measuring tool: it reads clocks, and stops where something is wrong"
)]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
#[path = "lab.rs"]
mod lab;

use lab::{Setup, World, connect, machine, median, number, own_kib, rss_kib, simulator, world};
use smsconnect::smpp::{self, CommandId, CommandStatus};

/// The shape that all throughput figures here have: 4 binds x window 500.
const SHAPE: [&str; 4] = ["--binds", "4", "--window", "500"];

fn load(world: &World, more: &[&str]) -> Value {
    world.load(&[&SHAPE, more].concat())
}

fn per_second(world: &World, seconds: u64) -> f64 {
    let report = load(world, &["--duration-s", &seconds.to_string()]);
    assert_eq!(report["exactly_once"], true, "{report}");
    number(&report["per_second"])
}

/// A gateway whose SMSC never sends a receipt, with `n` messages that await theirs.
fn awaiting(n: u64) -> World {
    let setup = Setup {
        smsc: vec!["--receipt-lost-rate".into(), "1".into()],
        sections: "[limits]\nopen_max = 1000000000\n".into(),
        ..Setup::default()
    };
    let world = world(&setup);
    load(&world, &["--count", "10000", "--receipt-wait-s", "0"]);
    let pid = world.serve.0.id();
    let (rss, own) = (rss_kib(pid), own_kib(pid));
    let report = load(&world, &["--count", &n.to_string(), "--receipt-wait-s", "0"]);
    // What is being sealed takes memory for a while.
    while world.stat("segments_to_seal") > 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(2));
    let open = world.stat("open");
    println!(
        "{open} messages await their receipt, {} of them in the short form; {:.0} /s on the way there",
        world.stat("resting"),
        number(&report["per_second"])
    );
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 * 1024.0 / n as f64;
    println!(
        "  {:.1} bytes each of the process's own memory, {:.1} with mapped pages of the file ({} MB, {} MB)",
        each(own_kib(pid), own),
        each(rss_kib(pid), rss),
        own_kib(pid) / 1024,
        rss_kib(pid) / 1024
    );
    world
}

/// Kills the gateway and starts it again: from exec to the first answered bind.
fn restart(world: &mut World) {
    for how in ["after kill -9", "after an end in good order"] {
        if how == "after kill -9" {
            let _gone = (world.serve.0.kill(), world.serve.0.wait());
        } else {
            world.stop();
        }
        let start = Instant::now();
        world.start();
        while std::net::TcpStream::connect(world.addr()).is_err() {
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(connect(world.addr(), "load", "secret1"));
        println!(
            "  restart {how}: {:.2} s from exec to the first bind_resp",
            start.elapsed().as_secs_f64()
        );
        world.up();
        println!(
            "  {} open, {} MB resident",
            world.stat("open"),
            rss_kib(world.serve.0.id()) / 1024
        );
    }
}

/// A gateway with about `n` closed messages: a segment of real ones, copied with other keys, and their money with them.
fn filled(n: u64, store: &str) -> World {
    let setup = Setup {
        store: store.into(),
        ..Setup::default()
    };
    let mut world = world(&setup);
    load(&world, &["--count", "1050000"]);
    while world.stat("segments_to_seal") > 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(1));
    world.stop();
    let start = Instant::now();
    copies(&world.dir.path().join("gateway.db"), n);
    let size = std::fs::metadata(world.dir.path().join("gateway.db"))
        .unwrap()
        .len();
    println!(
        "a store of about {n} closed messages: {:.1} GB, written in {:.0} s",
        size as f64 / 1e9,
        start.elapsed().as_secs_f64()
    );
    world.start();
    world.up();
    let check = world.ctl("wallet.check", json!({}));
    assert_eq!(check["ok"], true, "{check}");
    world
}

fn copies(path: &std::path::Path, n: u64) {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.execute_batch(
        "PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 4000;",
    )
    .unwrap();
    let (from, rows): (i64, i64) = conn
        .query_row(
            "SELECT number, (SELECT MAX(number) FROM segment) FROM segment WHERE state = 2 LIMIT 1",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .unwrap();
    let count: i64 = conn
        .query_row(&format!("SELECT count(*) FROM closed_{from}"), [], |r| r.get(0))
        .unwrap();
    let (account, charged): (i64, i64) = conn
        .query_row(
            "SELECT account, charged FROM segment_total WHERE segment = ?1",
            [from],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .unwrap();
    let schema = |table: &str, k: i64| -> String {
        let sql: String = conn
            .query_row(
                "SELECT sql FROM sqlite_schema WHERE name = ?1",
                [format!("{table}_{from}")],
                |r| r.get(0),
            )
            .unwrap();
        sql.replacen(&format!("{table}_{from}"), &format!("{table}_{k}"), 1)
    };
    let columns: Vec<String> = conn
        .prepare(&format!(
            "SELECT name FROM pragma_table_info('closed_{from}') WHERE name <> 'key'"
        ))
        .unwrap()
        .query_map([], |r| r.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let columns = columns.join(", ");
    for (copy, k) in (0..n.div_ceil(count as u64)).zip(rows + 1..) {
        // Epochs that the node has not had.
        let shift = (copy as i64 + 100) << 32;
        conn.execute_batch(&format!(
            "BEGIN; {}; {};
             INSERT INTO closed_{k}(key, {columns}) SELECT key + {shift}, {columns} FROM closed_{from};
             INSERT INTO closed_account_{k} SELECT account, key + {shift} FROM closed_account_{from};
             INSERT INTO segment SELECT {k}, state, last_pos, rows, cursor, newest FROM segment WHERE number = {from};
             INSERT INTO segment_total SELECT {k}, account, count, charged, tax FROM segment_total WHERE segment = {from};
             INSERT INTO ledger SELECT NULL, 0, {account}, 'wallet', 'held', {charged}, {count}, 'hold', '', 0;
             INSERT INTO ledger SELECT NULL, 0, {account}, 'held', 'revenue', {charged}, {count}, 'charge', '', 0;
             UPDATE wallet SET balance = balance - {charged} WHERE account = {account};
             COMMIT;",
            schema("closed", k),
            schema("closed_account", k)
        ))
        .unwrap();
    }
    conn.execute_batch(
        "UPDATE wallet SET base = balance, base_entry = (SELECT MAX(entry) FROM ledger);
         UPDATE node SET epoch = epoch + 100000; PRAGMA wal_checkpoint(TRUNCATE);",
    )
    .unwrap();
}

fn growth(n: u64) {
    let full = filled(n, "");
    let empty = world(&Setup::default());
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        without.push(per_second(&empty, 10));
        with.push(per_second(&full, 10));
    }
    println!("  empty store {without:.0?} /s, full one {with:.0?} /s");
    println!(
        "  the full store reaches {:.2} of the empty one (medians)",
        median(with) / median(without)
    );
}

/// Somebody who asks for reports all the time.
struct Reporter {
    stop: Arc<AtomicBool>,
    asking: std::thread::JoinHandle<u64>,
}

impl Reporter {
    fn start(world: &World, methods: &[&'static str]) -> Reporter {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, methods) = (Arc::clone(&stop), methods.to_vec());
        let socket = world.dir.path().join("admin.sock");
        let asking = std::thread::spawn(move || {
            let mut asked = 0;
            while !stopped.load(Ordering::Relaxed) {
                for method in &methods {
                    let params = match *method {
                        "wallet.statement" => json!({"account": "load"}),
                        _ => json!({}),
                    };
                    assert!(lab::call(&socket, method, params).is_some(), "{method}");
                    asked += 1;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            asked
        });
        Reporter { stop, asking }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.join().unwrap()
    }
}

fn beside(n: u64) {
    // Everything is older than a day but stays until the second half: the clock of its segments is set back there.
    let mut busy = filled(n, "keep_days = 1\n");
    let reports = ["wallet.statement", "wallet.payments", "queue.show", "stats.show"].as_slice();
    for (what, methods) in [
        ("reports", reports),
        ("audits of the whole store", &["wallet.check"]),
    ] {
        let (mut alone, mut beside, mut asked) = (Vec::new(), Vec::new(), 0);
        for _ in 0..3 {
            alone.push(per_second(&busy, 6));
            let reporter = Reporter::start(&busy, methods);
            beside.push(per_second(&busy, 6));
            asked += reporter.stop();
        }
        println!(
            "  beside {asked} {what}: {:.2} of {:.0} /s (medians of three in turn)",
            median(beside) / median(alone.clone()),
            median(alone)
        );
    }
    let plain = per_second(&busy, 8);
    busy.stop();
    let conn = rusqlite::Connection::open(busy.dir.path().join("gateway.db")).unwrap();
    conn.execute_batch("UPDATE segment SET newest = 1 WHERE state = 2")
        .unwrap();
    let old = |conn: &rusqlite::Connection| -> i64 {
        let sql = "SELECT count(*) FROM segment WHERE newest = 1";
        conn.query_row(sql, [], |r| r.get(0)).unwrap()
    };
    let before = old(&conn);
    drop(conn);
    busy.start();
    busy.up();
    let dropping = per_second(&busy, 8);
    let conn = rusqlite::Connection::open(busy.dir.path().join("gateway.db")).unwrap();
    let after = old(&conn);
    println!(
        "  {dropping:.0} /s while retention dropped {} segments: {:.2}",
        before - after,
        dropping / plain
    );
}

/// All upstreams are gone and customers send as fast as they can.
fn down(seconds: u64) {
    let mut world = world(&Setup::default());
    let _gone = (world.smsc.0.kill(), world.smsc.0.wait());
    let pid = world.serve.0.id();
    let before = own_kib(pid);
    let report = load(
        &world,
        &["--duration-s", &seconds.to_string(), "--receipt-wait-s", "0"],
    );
    println!(
        "no upstream for {seconds} s: {} accepted, refused {}, {} -> {} MB of own memory",
        report["accepted"],
        report["statuses"],
        before / 1024,
        own_kib(pid) / 1024
    );
    let open = world.stat("open");
    let start = Instant::now();
    world.smsc = simulator(world.smsc_port, &[]);
    while world.stat("open") > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let check = world.ctl("wallet.check", json!({}));
    println!(
        "  the upstream is back: {open} sent and ended in {:.1} s, wallet.check {}, {} MB",
        start.elapsed().as_secs_f64(),
        check["ok"],
        own_kib(pid) / 1024
    );
}

/// Ten times the peak, from senders that do not wait.
fn overload(seconds: u64) {
    let world = world(&Setup::default());
    let pid = world.serve.0.id();
    let peak = per_second(&world, seconds);
    let before = own_kib(pid);
    let words = [
        "--binds",
        "8",
        "--window",
        "100000",
        "--rate",
        &format!("{:.0}", peak * 10.0),
        "--duration-s",
        &seconds.to_string(),
    ];
    let mut sending = world.loading(&words);
    let mut link = connect(world.addr(), "load", "secret1");
    let (mut worst, mut n, start) = (Duration::ZERO, 0u32, Instant::now());
    while sending.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(seconds) {
        n += 1;
        let mut out = Vec::new();
        smpp::put_header_only(&mut out, CommandId::ENQUIRE_LINK, CommandStatus::ESME_ROK, n);
        let asked = Instant::now();
        link.write_all(&out).unwrap();
        std::io::Read::read_exact(&mut link, &mut [0; 16]).unwrap();
        worst = worst.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    let most = own_kib(pid);
    let out = sending.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let accepted = number(&report["accepted"]) / number(&report["seconds"]);
    println!(
        "peak {peak:.0} /s; asked for ten times that: {accepted:.0} /s accepted ({:.2} of it), refused {}",
        accepted / peak,
        report["statuses"]
    );
    println!(
        "  slowest enquire_link of another session {:.0} ms; {} -> {} MB; accepted and with exactly one receipt: {}",
        worst.as_secs_f64() * 1e3,
        before / 1024,
        most / 1024,
        report["exactly_once"]
    );
}

fn tls(seconds: u64) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let port = lab::free_port();
    let setup = Setup {
        customer: format!("tls_listen = [\"127.0.0.1:{port}\"]\ntls_cert = {cert:?}\ntls_key = {key:?}\n"),
        ..Setup::default()
    };
    let world = world(&setup);
    let ca = cert.to_str().unwrap();
    for window in ["500", "100", "10"] {
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let shape = [
                "--binds",
                "4",
                "--window",
                window,
                "--duration-s",
                &seconds.to_string(),
            ];
            let report = world.load(&shape);
            assert_eq!(report["exactly_once"], true, "{report}");
            plain.push(number(&report["per_second"]));
            let more = [&shape[..], &["--tls-ca", ca]].concat();
            let out = world.loading_at(port, &more).wait_with_output().unwrap();
            let report: Value = serde_json::from_slice(&out.stdout).unwrap();
            assert_eq!(report["exactly_once"], true, "{report}");
            sealed.push(number(&report["per_second"]));
        }
        let (plain, sealed) = (median(plain), median(sealed));
        println!(
            "4 x {window}: plaintext {plain:.0} /s, TLS {sealed:.0} /s: {:.2}",
            sealed / plain
        );
    }
}

fn soak(minutes: u64, rate: &str) {
    let world = world(&Setup::default());
    let seconds = (minutes * 60).to_string();
    let mut sending = world.loading(&[
        "--binds",
        "10",
        "--window",
        "100",
        "--rate",
        rate,
        "--duration-s",
        &seconds,
    ]);
    let pid = world.serve.0.id();
    while sending.try_wait().unwrap().is_none() {
        println!(
            "own {} MB, resident {} MB, accepted {}",
            own_kib(pid) / 1024,
            rss_kib(pid) / 1024,
            world.stat("accepted")
        );
        std::thread::sleep(Duration::from_secs(60));
    }
    let out = sending.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    println!(
        "accepted {}, exactly once {}",
        report["accepted"], report["exactly_once"]
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let (what, n, more) = match words.as_slice() {
        [what, n] => (what.as_str(), n.parse::<u64>().unwrap(), "5000"),
        [what, n, more] => (what.as_str(), n.parse::<u64>().unwrap(), more.as_str()),
        _ => {
            println!("which limit, and how much? See the head of benches/limits.rs.");
            return;
        }
    };
    machine();
    match what {
        "pending" | "restart" => restart(&mut awaiting(n)),
        "growth" => growth(n),
        "beside" => beside(n),
        "down" => down(n),
        "overload" => overload(n),
        "tls" => tls(n),
        "soak" => soak(n, more),
        other => panic!("{other}: unknown; see the head of benches/limits.rs"),
    }
}
