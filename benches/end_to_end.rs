//! The whole path on this machine: `smsconnect load` against `serve` against `smsconnect smsc`, all on the same cores, durability
//! full, receipts on. Prints what was reached, where the CPU went, and how the disk synced at the same time.
//!
//! ```text
//! cargo bench --bench end_to_end                                    4 binds x window 500, 60 s
//! cargo bench --bench end_to_end -- --windows 1,10,100,500 --seconds 10
//! cargo bench --bench end_to_end -- --rate 10000
//! cargo bench --bench end_to_end -- --idle 5000                     memory of idle binds
//! cargo bench --bench end_to_end -- --relay 1                       the same load through a relay that keeps nothing
//! cargo bench --bench end_to_end -- --storm 5000                    binds all at once after a restart, over 50 accounts
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measuring tool: it reads clocks, and stops where something is wrong"
)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
#[path = "lab.rs"]
mod lab;
#[path = "relay.rs"]
mod relay;

use lab::{
    Process, SMSCONNECT, Setup, World, answered, begin, connect, fdatasync, free_port, machine, number,
    process_cpu, rss_kib, threads,
};
use smsconnect::smpp::{self, CommandId, CommandStatus};

fn world(p: &Plan) -> World {
    lab::world(&Setup {
        upstream_binds: p.upstream_binds,
        upstream_window: p.upstream_window,
        ..Setup::default()
    })
}

struct Plan {
    binds: u32,
    windows: Vec<usize>,
    seconds: u64,
    rate: Option<u64>,
    upstream_binds: u32,
    upstream_window: u32,
    idle: u32,
    relay: bool,
    storm: u32,
}

fn plan() -> Plan {
    let mut p = Plan {
        binds: 4,
        windows: vec![500],
        seconds: 60,
        rate: None,
        upstream_binds: 4,
        upstream_window: 500,
        idle: 0,
        relay: false,
        storm: 0,
    };
    let mut words = std::env::args().skip(1).filter(|w| w != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        let number = || value.parse::<u64>().unwrap();
        match word.as_str() {
            "--binds" => p.binds = number() as u32,
            "--windows" => p.windows = value.split(',').map(|w| w.parse().unwrap()).collect(),
            "--seconds" => p.seconds = number(),
            "--rate" => p.rate = Some(number()),
            "--upstream-binds" => p.upstream_binds = number() as u32,
            "--upstream-window" => p.upstream_window = number() as u32,
            "--idle" => p.idle = number() as u32,
            "--relay" => p.relay = number() > 0,
            "--storm" => p.storm = number() as u32,
            other => panic!("{other}: unknown; see the head of benches/end_to_end.rs"),
        }
    }
    p
}

fn run(p: &Plan, window: usize) -> f64 {
    let world = world(p);
    let (sync50, sync99) = fdatasync(world.dir.path());
    let (binds, window_word, seconds) = (p.binds.to_string(), window.to_string(), p.seconds.to_string());
    let mut words = vec![
        "--binds",
        &binds,
        "--window",
        &window_word,
        "--duration-s",
        &seconds,
    ];
    let rate = p.rate.map(|r| r.to_string());
    words.extend(rate.iter().flat_map(|rate| ["--rate", rate]));
    let before = threads(world.serve.0.id());
    let load = world.loading(&words);
    let load_id = load.id();
    std::thread::sleep(Duration::from_secs(p.seconds).saturating_sub(Duration::from_millis(300)));
    let (load_cpu, smsc_cpu): (u64, u64) = (
        threads(load_id).values().sum(),
        threads(world.smsc.0.id()).values().sum(),
    );
    let at_end = threads(world.serve.0.id());
    let rss = rss_kib(world.serve.0.id());
    let sent_by_then = world.ctl("stats.show", json!({}))["accepted"].as_u64().unwrap();
    let out = load.wait_with_output().unwrap();
    let r: Value = serde_json::from_slice(&out.stdout).unwrap();
    let stats = world.ctl("stats.show", json!({}));
    let check = world.ctl("wallet.check", json!({}));
    println!(
        "{} binds x window {window}, {} upstream binds x {}, {} s{}",
        p.binds,
        p.upstream_binds,
        p.upstream_window,
        p.seconds,
        p.rate.map_or(String::new(), |r| format!(", open loop {r}/s"))
    );
    println!("  answered          {:>10.0} /s", number(&r["per_second"]));
    println!(
        "  with receipt      {:>10.0} /s until the last receipt",
        number(&r["end_to_end_per_second"])
    );
    for (name, key) in [("submit->response", "response"), ("submit->receipt", "receipt")] {
        println!(
            "  {name}  p50 {:.2}  p99 {:.2}  p99.9 {:.2} ms",
            number(&r[key]["p50_ms"]),
            number(&r[key]["p99_ms"]),
            number(&r[key]["p999_ms"])
        );
    }
    println!("  one fdatasync of this disk just before: p50 {sync50:.2}  p99 {sync99:.2} ms");
    println!(
        "  accepted {}, exactly once {}, wallet.check {}",
        r["accepted"], r["exactly_once"], check["ok"]
    );
    println!(
        "  {} rows a commit; serve {} MB resident",
        stats["rows_per_commit"],
        rss / 1024
    );
    let per = |us: u64| us as f64 / sent_by_then.max(1) as f64;
    let mut line = String::new();
    for (name, us) in &at_end {
        let us = us - before.get(name).copied().unwrap_or(0);
        if us > 0 {
            line += &format!("{name} {:.2}, ", per(us));
        }
    }
    println!(
        "  CPU us a message: {line}simulator {:.2}, load {:.2}",
        per(smsc_cpu),
        per(load_cpu)
    );
    number(&r["per_second"])
}

/// Binds that do nothing: resident memory each.
fn idle(p: &Plan) {
    let world = world(p);
    let pid = world.serve.0.id();
    let addr = world.addr();
    let bind = |_: u32| connect(addr, "load", "secret1");
    let mut held = vec![bind(1)];
    let before = rss_kib(pid);
    let start = Instant::now();
    held.extend((1..p.idle).map(bind));
    let took = start.elapsed();
    let after = rss_kib(pid);
    println!(
        "{} idle binds: {:.1} KiB resident each ({} -> {} KiB), bound one after the other in {:.2} s",
        held.len(),
        (after - before) as f64 / f64::from(p.idle - 1),
        before,
        after,
        took.as_secs_f64()
    );
}

/// The same load through a relay that keeps nothing: what all that the gateway does on top costs.
fn relayed(p: &Plan, window: usize) -> f64 {
    let (port, smsc_port) = (free_port(), free_port());
    let smsc = Command::new(SMSCONNECT)
        .args(["smsc", "--listen", &format!("127.0.0.1:{smsc_port}")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _smsc = Process(smsc);
    let relay = Command::new(std::env::current_exe().unwrap())
        .args(["--as-relay", &format!("127.0.0.1:{port} 127.0.0.1:{smsc_port}")])
        .spawn()
        .unwrap();
    let relay = Process(relay);
    while TcpStream::connect(("127.0.0.1", port)).is_err()
        || TcpStream::connect(("127.0.0.1", smsc_port)).is_err()
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    let out = Command::new(SMSCONNECT)
        .args(["load", "--system-id", "load", "--password", "secret1", "--json"])
        .args(["--connect", &format!("127.0.0.1:{port}")])
        .args(["--binds", &p.binds.to_string(), "--window", &window.to_string()])
        .args(["--duration-s", &p.seconds.to_string()])
        .output()
        .unwrap();
    let r: Value = serde_json::from_slice(&out.stdout).unwrap();
    let per_second = r["per_second"].as_f64().unwrap();
    let cpu = process_cpu(relay.0.id());
    println!(
        "  a relay that keeps nothing {per_second:>10.0} /s, {:.2} us of CPU a message, exactly once {}",
        cpu as f64 / r["accepted"].as_f64().unwrap().max(1.0),
        r["exactly_once"]
    );
    per_second
}

/// Binds of 50 accounts all at once, to a gateway that has just been started again: how long until the last is bound, and what a
/// customer who is bound already notices.
fn storm(p: &Plan) {
    let mut world = world(p);
    let accounts = 50;
    for n in 0..accounts {
        let name = format!("a{n}");
        world.ctl(
            "account.create",
            json!({"name": name, "system_id": name, "password": format!("secret{n}")}),
        );
    }
    // Its own start is no part of it.
    let _gone = (world.serve.0.kill(), world.serve.0.wait());
    world.start();
    let addr = world.addr();
    while TcpStream::connect(addr).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut bound = connect(addr, "load", "secret1");
    let request = |stream: &mut TcpStream, sequence| {
        let mut out = Vec::new();
        smpp::put_header_only(
            &mut out,
            CommandId::ENQUIRE_LINK,
            CommandStatus::ESME_ROK,
            sequence,
        );
        let start = Instant::now();
        stream.write_all(&out).unwrap();
        std::io::Read::read_exact(stream, &mut [0; 16]).unwrap();
        start.elapsed()
    };
    let total = p.storm;
    let start = Instant::now();
    let threads: Vec<_> = (0..8)
        .map(|t| {
            std::thread::spawn(move || {
                let mut held = Vec::new();
                for n in (t..total).step_by(8) {
                    let account = n % accounts;
                    held.push(begin(addr, &format!("a{account}"), &format!("secret{account}")));
                }
                held.iter_mut().for_each(answered);
                held
            })
        })
        .collect();
    let (mut worst, mut n) = (Duration::ZERO, 0);
    while threads.iter().any(|t| !t.is_finished()) {
        n += 1;
        worst = worst.max(request(&mut bound, n));
        std::thread::sleep(Duration::from_millis(10));
    }
    let held: usize = threads.into_iter().map(|t| t.join().unwrap().len()).sum();
    println!(
        "{held} binds of {accounts} accounts at once after a restart: all bound in {:.2} s; the worst enquire_link of a customer bound \
         before took {:.0} ms",
        start.elapsed().as_secs_f64(),
        worst.as_secs_f64() * 1e3
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [as_relay, addresses] = words.as_slice()
        && as_relay == "--as-relay"
    {
        let (listen, smsc) = addresses.split_once(' ').unwrap();
        return relay::run(&TcpListener::bind(listen).unwrap(), smsc.parse().unwrap());
    }
    let p = plan();
    machine();
    if p.idle > 1 {
        idle(&p);
    } else if p.storm > 0 {
        storm(&p);
    } else {
        for window in &p.windows {
            let gateway = run(&p, *window);
            if p.relay {
                let relay = relayed(&p, *window);
                println!("  the gateway reaches {:.2} of it", gateway / relay);
            }
        }
    }
}
