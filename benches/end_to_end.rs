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

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
#[path = "relay.rs"]
mod relay;

use smsconnect::smpp::{self, Bind, CommandId, CommandStatus, Npi, Ton};

const SMSCONNECT: &str = env!("CARGO_BIN_EXE_smsconnect");

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

/// A child that is stopped at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

struct World {
    dir: tempfile::TempDir,
    port: u16,
    serve: Process,
    smsc: Process,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn world(p: &Plan) -> World {
    // Beside the build, on a real disk: /tmp is often memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (port, smsc_port) = (free_port(), free_port());
    let config = format!(
        "[customer]\nlisten = [\"127.0.0.1:{port}\"]\ndeliver_window = 500\nwindow_max = 1000\n[numbering]\ncountry_code = \"254\"\n\
         [store]\npath = \"gateway.db\"\n[admin]\nsocket = \"admin.sock\"\n[metrics]\nlisten = \"\"\n[log]\nlevel = \"warn\"\n\
         [[upstream]]\nname = \"sim\"\naddress = \"127.0.0.1:{smsc_port}\"\npassword = \"x\"\nbinds = {}\nwindow = {}\n\
         reconnect_min_ms = 50\n[[route]]\nname = \"all\"\nto = [\"sim\"]\n[[tariff]]\nname = \"standard\"\ncurrency = \"KES\"\n\
         [[tariff.price]]\nprefix = \"254\"\nprice = \"0.80\"\n",
        p.upstream_binds, p.upstream_window
    );
    fs::write(dir.path().join("c.toml"), config).unwrap();
    let smsc = Command::new(SMSCONNECT)
        .args(["smsc", "--listen", &format!("127.0.0.1:{smsc_port}")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let serve = Command::new(SMSCONNECT)
        .args(["serve", "--config"])
        .arg(dir.path().join("c.toml"))
        .spawn()
        .unwrap();
    let world = World {
        dir,
        port,
        serve: Process(serve),
        smsc: Process(smsc),
    };
    let start = Instant::now();
    loop {
        let bound = world
            .try_ctl("upstream.list", json!({}))
            .is_some_and(|l| l["items"][0]["bound"] == p.upstream_binds);
        if bound {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the gateway does not come up"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    world.ctl(
        "account.create",
        json!({"name": "load", "system_id": "load", "password": "secret1"}),
    );
    world.ctl(
        "wallet.topup",
        json!({"account": "load", "amount": "1000000000", "provider": "bank", "receipt": "1"}),
    );
    world
}

impl World {
    fn try_ctl(&self, method: &str, params: Value) -> Option<Value> {
        use std::io::{BufRead, BufReader};
        let socket = self.dir.path().join("admin.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
        writeln!(
            stream,
            "{}",
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        )
        .ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str::<Value>(&line).ok()?.get("result").cloned()
    }

    fn ctl(&self, method: &str, params: Value) -> Value {
        self.try_ctl(method, params)
            .unwrap_or_else(|| panic!("{method} failed"))
    }
}

/// CPU microseconds of each thread of a process, summed by name.
fn threads(pid: u32) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let Ok(stat) = fs::read_to_string(task.unwrap().path().join("stat")) else {
            continue;
        };
        let (open, close) = (stat.find('(').unwrap(), stat.rfind(')').unwrap());
        *out.entry(stat[open + 1..close].to_string()).or_insert(0) += cpu_of(&stat);
    }
    out
}

/// CPU microseconds of a process, threads that have ended included.
fn process_cpu(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    cpu_of(&stat)
}

/// User and system time of a stat line, microseconds. Clock ticks are a hundredth of a second on Linux.
fn cpu_of(stat: &str) -> u64 {
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}

fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One block written and synced, a hundred times: (median, 99th percentile) in milliseconds.
fn fdatasync(dir: &Path) -> (f64, f64) {
    let path: PathBuf = dir.join("sync");
    let mut file = fs::File::create(&path).unwrap();
    let mut took: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[1; 4096]).unwrap();
            file.sync_data().unwrap();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    fs::remove_file(path).unwrap();
    took.sort_by(f64::total_cmp);
    (took[100], took[198])
}

fn run(p: &Plan, window: usize) -> f64 {
    let world = world(p);
    let (sync50, sync99) = fdatasync(world.dir.path());
    let mut command = Command::new(SMSCONNECT);
    command
        .args(["load", "--system-id", "load", "--password", "secret1", "--json"])
        .args(["--connect", &format!("127.0.0.1:{}", world.port)])
        .args(["--binds", &p.binds.to_string(), "--window", &window.to_string()])
        .args(["--duration-s", &p.seconds.to_string()])
        .stdout(Stdio::piped());
    if let Some(rate) = p.rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let before = threads(world.serve.0.id());
    let load = command.spawn().unwrap();
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
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
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
    let addr = SocketAddr::from(([127, 0, 0, 1], world.port));
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
    world.serve = Process(
        Command::new(SMSCONNECT)
            .args(["serve", "--config"])
            .arg(world.dir.path().join("c.toml"))
            .spawn()
            .unwrap(),
    );
    let addr = SocketAddr::from(([127, 0, 0, 1], world.port));
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

/// Connects and asks to bind.
fn begin(addr: SocketAddr, system_id: &str, password: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    let mut out = Vec::new();
    let start = smpp::begin(&mut out, CommandId::BIND_TRANSCEIVER, CommandStatus::ESME_ROK, 1);
    Bind {
        system_id: system_id.as_bytes(),
        password: password.as_bytes(),
        system_type: b"",
        interface_version: 0x34,
        addr_ton: Ton(0),
        addr_npi: Npi(0),
        address_range: b"",
    }
    .encode_body(&mut out);
    smpp::finish(&mut out, start);
    stream.write_all(&out).unwrap();
    stream
}

/// The bind's answer is that it is bound.
fn answered(stream: &mut TcpStream) {
    let mut head = [0u8; 16];
    std::io::Read::read_exact(stream, &mut head).unwrap();
    assert_eq!(head[8..12], [0; 4], "the bind was refused");
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    std::io::Read::read_exact(stream, &mut vec![0; length - 16]).unwrap();
}

fn connect(addr: SocketAddr, system_id: &str, password: &str) -> TcpStream {
    let mut stream = begin(addr, system_id, password);
    answered(&mut stream);
    stream
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
