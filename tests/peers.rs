//! What the machine does to a daemon: clocks that jump, a pause, descriptors and memory that run out, an admin socket that is
//! abused, a configuration that changes between two starts.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use common::{PASSWORD, Peer, eventually, message};
use serde_json::{Value, json};
use smsconnect::money::Money;
use smsconnect::smpp::{CommandId, CommandStatus};
use smsconnect::tools::load::{self, LoadOptions};
use smsconnect::tools::smsc::{Smsc, SmscOptions};
use tokio_util::sync::CancellationToken;

const ROK: CommandStatus = CommandStatus::ESME_ROK;

/// Says that something cannot be tested here; where everything must be, that is a failure.
fn skip(what: &str) {
    assert!(std::env::var_os("SMSCONNECT_NO_SKIP").is_none(), "{what}");
    eprintln!("{what}; not tested here");
}

// ---- The daemon as a process ----

struct Daemon {
    child: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
    smsc: SocketAddr,
    env: Vec<(&'static str, String)>,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Daemon {
    /// Its SMSC is at an address where nobody listens yet.
    fn new() -> Daemon {
        let daemon = Daemon {
            child: None,
            dir: tempfile::tempdir().unwrap(),
            port: free().port(),
            smsc: free(),
            env: Vec::new(),
        };
        daemon.config("0.80", "all", "");
        daemon
    }

    fn config(&self, price: &str, route: &str, upstream: &str) {
        let (port, smsc) = (self.port, self.smsc);
        let text = format!(
            "[customer]\nlisten = [\"127.0.0.1:{port}\"]\n[numbering]\ncountry_code = \"254\"\n\
             [store]\npath = \"gateway.db\"\nfree_min_bytes = 0\n[admin]\nsocket = \"admin.sock\"\n\
             [metrics]\nlisten = \"\"\n[log]\nlevel = \"info\"\n\
             [[upstream]]\nname = \"sim\"\naddress = \"{smsc}\"\npassword = \"x\"\nbinds = 1\nqueue_max = 1000\n\
             reconnect_min_ms = 20\nreconnect_max_ms = 100\n{upstream}\n[[route]]\nname = \"{route}\"\nto = [\"sim\"]\n\
             [[tariff]]\nname = \"standard\"\ncurrency = \"KES\"\n[[tariff.price]]\nprefix = \"254\"\nprice = \"{price}\"\n"
        );
        std::fs::write(self.path("c.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn spawn(&mut self) {
        let said = File::options()
            .create(true)
            .append(true)
            .open(self.path("stderr"))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_smsconnect"));
        command
            .args(["serve", "--config"])
            .arg(self.path("c.toml"))
            .stderr(said);
        self.child = Some(command.envs(self.env.iter().cloned()).spawn().unwrap());
    }

    fn start(&mut self) {
        self.spawn();
        let (socket, said) = (self.path("admin.sock"), self.path("stderr"));
        let child = self.child.as_mut().unwrap();
        eventually("the admin socket answers", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(&said).unwrap());
            common::admin(&socket, "stats.show", json!({})).is_ok()
        });
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap()
    }

    fn admin(&self, method: &str, params: Value) -> Value {
        common::admin(&self.path("admin.sock"), method, params).unwrap()
    }

    fn stat(&self, name: &str) -> u64 {
        self.admin("stats.show", json!({}))[name].as_u64().unwrap()
    }

    fn account(&self) {
        self.admin(
            "account.create",
            json!({"name": "acme", "system_id": "acme", "password": PASSWORD}),
        );
        let payment = json!({"account": "acme", "amount": "100000", "provider": "bank", "receipt": "FIRST"});
        self.admin("wallet.topup", payment);
    }

    fn bound(&self) -> Peer {
        let mut peer = Peer::connect(self.addr());
        assert_eq!(peer.bind(CommandId::BIND_TRANSCEIVER, "acme", PASSWORD), ROK);
        peer
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([name, &self.pid().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn stop(&mut self) {
        self.signal("-TERM");
        let status = self.end();
        assert!(status.success(), "{}", self.said());
    }

    fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        eventually("the daemon ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Sets a limit of the running process.
    fn limit(&self, what: &str) {
        let set = Command::new("prlimit")
            .args(["--pid", &self.pid().to_string(), what])
            .status();
        assert!(set.unwrap().success());
    }

    /// Everything accepted becomes final, is charged once, and adds up; how many messages that is.
    fn settled(&self) -> u64 {
        eventually("every message is final", || self.stat("open") == 0);
        // What has been admitted and is not on record yet holds its price too.
        let held = || self.admin("wallet.show", json!({"account": "acme"}))["held"].clone();
        eventually("nothing is held", || held() == "0.00");
        let check = self.admin("wallet.check", json!({}));
        assert_eq!(check["ok"], true, "{check}");
        check["messages"].as_u64().unwrap()
    }

    fn balance(&self) -> Money {
        let wallet = self.admin("wallet.show", json!({"account": "acme"}));
        Money::parse(wallet["balance"].as_str().unwrap()).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

fn simulator(runtime: &tokio::runtime::Runtime, listen: SocketAddr) -> Smsc {
    let options = SmscOptions {
        listen,
        record: true,
        ..SmscOptions::default()
    };
    runtime.block_on(Smsc::start(options)).unwrap()
}

/// The id under which a message was accepted.
fn accept(peer: &mut Peer) -> u64 {
    let got = peer.submit(&message(b"x"));
    assert_eq!(got.status, ROK);
    got.message_id().parse().unwrap()
}

// ---- Time ----

/// Where the library that fakes the wall clock lies.
fn faketime() -> Option<String> {
    let lib = [
        "/usr/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
    ];
    let found = lib.iter().map(|dir| format!("{dir}/faketime/libfaketimeMT.so.1"));
    found.into_iter().find(|path| Path::new(path).exists())
}

/// The hour in which the last line of a log was written, `2026-01-31T14`.
fn last_hour(log: &str) -> String {
    log.lines()
        .last()
        .unwrap_or("")
        .trim_start()
        .chars()
        .take(13)
        .collect()
}

#[test]
fn a_wall_clock_that_jumps_or_stands_still_expires_nothing_and_repeats_no_id() {
    let Some(library) = faketime() else {
        return skip("libfaketime is not installed");
    };
    let mut daemon = Daemon::new();
    let wall = daemon.path("wall");
    let set = |to: &str| {
        // Whole at once: it is read all the time.
        std::fs::write(wall.with_extension("new"), to).unwrap();
        std::fs::rename(wall.with_extension("new"), &wall).unwrap();
    };
    set("+0");
    daemon.env = vec![
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", wall.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ];
    daemon.start();
    daemon.account();
    let mut ids = vec![accept(&mut daemon.bound())];
    let mut hours = BTreeSet::new();
    for jump in ["+0", "-3600", "+86400", "@2030-01-01 00:00:00 x0"] {
        set(jump);
        // A new session and its first message under the new time; the log is written with the wall clock.
        let logged = daemon.said().len();
        let mut customer = daemon.bound();
        ids.push(accept(&mut customer));
        eventually("the session is in the log", || {
            daemon.said()[logged..].contains("customer bound")
        });
        let hour = daemon
            .said()
            .lines()
            .rfind(|l| l.contains("customer bound"))
            .map(last_hour)
            .unwrap();
        assert!(hours.insert(hour.clone()), "the clock did not jump: {hour} again");
        // Timers are of another clock: nothing expires, no session ends, answers come.
        customer.header(CommandId::ENQUIRE_LINK);
        assert_eq!(customer.expect(CommandId::ENQUIRE_LINK_RESP).status, ROK);
        assert_eq!(daemon.stat("open"), ids.len() as u64, "{jump}");
    }
    // Started again an hour in the past: ids still rise, and what was accepted "later" is no worse for it.
    daemon.kill();
    set("-3600");
    daemon.start();
    ids.push(accept(&mut daemon.bound()));
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let runtime = runtime();
    let smsc = simulator(&runtime, daemon.smsc);
    assert_eq!(daemon.settled(), ids.len() as u64);
    assert_eq!(smsc.log().len(), ids.len());
    for id in ids {
        let shown = daemon.admin("message.show", json!({"id": id.to_string()}));
        assert_eq!(shown["state"], "DELIVRD", "{shown}");
    }
}

#[test]
fn a_daemon_that_stood_still_for_a_while_loses_and_doubles_nothing() {
    let runtime = runtime();
    let mut daemon = Daemon::new();
    daemon.config(
        "0.80",
        "all",
        "response_timeout_ms = 1000\nenquire_link_ms = 500\nunknown_resend_max = 5",
    );
    let smsc = simulator(&runtime, daemon.smsc);
    daemon.start();
    daemon.account();
    let options = LoadOptions {
        connect: vec![daemon.addr()],
        system_id: "acme".into(),
        password: PASSWORD.into(),
        binds: 2,
        window: 50,
        rate: Some(1_000.0),
        duration: Some(Duration::from_secs(5)),
        reconnect: true,
        receipt_wait: Duration::from_secs(5),
        ..LoadOptions::default()
    };
    let running = runtime.spawn(load::run(options, None, CancellationToken::new()));
    for n in 1..=2 {
        eventually("the load is under way", || daemon.stat("accepted") > 500 * n);
        daemon.signal("-STOP");
        // The pause is what is tested: longer than every timer towards the SMSC.
        std::thread::sleep(Duration::from_millis(1_500));
        daemon.signal("-CONT");
    }
    let report = runtime.block_on(running).unwrap().unwrap();
    assert_eq!(report.missing, 0, "{report}");
    let messages = daemon.settled();
    assert!(
        messages >= report.accepted && messages <= report.accepted + report.unanswered,
        "{report}"
    );
    let mut times: HashMap<Vec<u8>, u64> = HashMap::new();
    for received in smsc.log() {
        *times.entry(received.dest).or_default() += 1;
    }
    assert_eq!(times.len() as u64, messages);
    let repeats: u64 = times.values().map(|n| n - 1).sum();
    // What was unanswered at either pause.
    assert!(repeats <= 2 * 100, "{repeats} sent again");
}

// ---- What runs out ----

#[test]
fn without_descriptors_those_who_are_in_are_served_and_others_wait() {
    let runtime = runtime();
    let mut daemon = Daemon::new();
    let _smsc = simulator(&runtime, daemon.smsc);
    daemon.start();
    daemon.account();
    let mut customer = daemon.bound();
    accept(&mut customer);
    customer.delivery();
    let used = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .count();
    daemon.limit(&format!("--nofile={0}:{0}", used + 5));
    let crowd: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(daemon.addr()).unwrap())
        .collect();
    eventually("no more connections are accepted", || {
        daemon.said().contains("cannot accept a connection")
    });
    // The store and the link have what they need; logs and receipts go on.
    let before = daemon.said().len();
    for _ in 0..300 {
        accept(&mut customer);
        customer.delivery();
    }
    assert!(
        daemon.said().len() - before < 100_000,
        "it does not flood the log"
    );
    drop(crowd);
    let mut another = daemon.bound();
    accept(&mut another);
    assert_eq!(daemon.settled(), 302);
    assert_eq!(daemon.balance(), Money(100_000_000_000 - 302 * 800_000));
}

#[test]
fn with_little_memory_it_holds_its_bounds_or_ends_and_nothing_acknowledged_is_lost() {
    let runtime = runtime();
    let mut daemon = Daemon::new();
    daemon.start();
    daemon.account();
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let used: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmSize:"))
        .and_then(|l| l.trim().strip_suffix(" kB"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let most = (used + 24 * 1_024) * 1_024;
    daemon.limit(&format!("--as={most}:{most}"));
    // Nobody takes the messages: all of them stay.
    let options = LoadOptions {
        connect: vec![daemon.addr()],
        system_id: "acme".into(),
        password: PASSWORD.into(),
        binds: 4,
        window: 500,
        count: Some(20_000),
        receipts: false,
        receipt_wait: Duration::ZERO,
        text: "a text of some length, so that what is kept takes its place in memory {n}".into(),
        ..LoadOptions::default()
    };
    let report = runtime
        .block_on(load::run(options, None, CancellationToken::new()))
        .unwrap();
    let ended = daemon.child.as_mut().unwrap().try_wait().unwrap();
    eprintln!("{} accepted, ended: {ended:?}", report.accepted);
    daemon.kill();
    daemon.start();
    let smsc = simulator(&runtime, daemon.smsc);
    let messages = daemon.settled();
    assert!(
        messages >= report.accepted && messages <= report.accepted + report.unanswered,
        "{report}"
    );
    let sent: BTreeSet<Vec<u8>> = smsc.log().into_iter().map(|r| r.dest).collect();
    assert_eq!(sent.len() as u64, messages);
    assert!(report.accepted > 0);
}

// ---- The admin socket ----

#[test]
fn an_abused_admin_socket_serves_others_and_traffic_meanwhile() {
    let runtime = runtime();
    let mut daemon = Daemon::new();
    let _smsc = simulator(&runtime, daemon.smsc);
    daemon.start();
    daemon.account();
    let mut customer = daemon.bound();
    let open = || {
        let stream = UnixStream::connect(daemon.path("admin.sock")).unwrap();
        stream.set_read_timeout(Some(common::WAIT)).unwrap();
        stream
    };
    // Half lines, from as many as there are places but a few.
    let mut slow: Vec<UnixStream> = (0..60).map(|_| open()).collect();
    for stream in &mut slow {
        stream.write_all(br#"{"jsonrpc":"2.0","id":1,"meth"#).unwrap();
    }
    // A line without an end: it is cut off at its bound, not kept.
    let mut huge = open();
    let chunk = vec![b'x'; 64 * 1_024];
    let mut wrote = 0;
    while wrote < 8 * 1_024 * 1_024 && huge.write_all(&chunk).is_ok() {
        wrote += chunk.len();
    }
    let mut line = String::new();
    // What was written beyond the bound may have broken the connection before the answer is read.
    if BufReader::new(&huge).read_line(&mut line).is_ok() && !line.is_empty() {
        assert!(line.contains("E_TOO_LARGE"), "{line}");
    }
    // A name that is a path is a name: no file has it.
    let files = || {
        let entries = std::fs::read_dir(daemon.dir.path()).unwrap();
        entries.map(|e| e.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    let before = files();
    for (n, name) in ["../x", "/tmp/x", "x/y", ".."].into_iter().enumerate() {
        let account = json!({"name": name, "system_id": format!("x{n}"), "password": PASSWORD});
        let _either_way = common::admin(&daemon.path("admin.sock"), "account.create", account);
        let shown = common::admin(&daemon.path("admin.sock"), "message.show", json!({"id": name}));
        assert_eq!(shown.unwrap_err(), "E_ARG", "{name}");
    }
    assert_eq!(files(), before);
    assert!(!daemon.dir.path().with_file_name("x").exists());
    // A payment sent again and again counts once.
    let payment = json!({"account": "acme", "amount": "5", "provider": "bank", "receipt": "AGAIN"});
    for n in 0..20 {
        assert_eq!(daemon.admin("wallet.topup", payment.clone())["duplicate"], n > 0);
    }
    accept(&mut customer);
    customer.delivery();
    // Who was slow is served when the line is whole.
    let last = slow.last_mut().unwrap();
    last.write_all(b"od\":\"stats.show\",\"params\":{}}\n").unwrap();
    let mut line = String::new();
    BufReader::new(last).read_line(&mut line).unwrap();
    assert!(line.contains("\"result\""), "{line}");
    // Beyond the places a connection is closed at once, and there is room again afterwards.
    let mut more: Vec<UnixStream> = (0..20).map(|_| open()).collect();
    let mut octet = [0u8; 1];
    assert_eq!(more.last_mut().unwrap().read(&mut octet).unwrap(), 0);
    drop((slow, more));
    eventually("there is room again", || {
        common::admin(&daemon.path("admin.sock"), "stats.show", json!({})).is_ok()
    });
    assert_eq!(daemon.settled(), 1);
    assert_eq!(daemon.balance(), Money(100_005_000_000 - 800_000));
}

// ---- The configuration ----

#[test]
fn a_price_and_a_route_that_change_between_two_starts_touch_no_accepted_message() {
    let mut daemon = Daemon::new();
    daemon.start();
    daemon.account();
    let first = accept(&mut daemon.bound());
    daemon.stop();
    // A bad one is refused with every fault, before the store is touched.
    daemon.config("-1", "all", "window = 0");
    daemon.spawn();
    assert_eq!(daemon.end().code(), Some(2), "{}", daemon.said());
    daemon.config("2.00", "other", "");
    daemon.start();
    let second = accept(&mut daemon.bound());
    let runtime = runtime();
    let _smsc = simulator(&runtime, daemon.smsc);
    assert_eq!(daemon.settled(), 2);
    for (id, price) in [(first, "0.80"), (second, "2.00")] {
        let shown = daemon.admin("message.show", json!({"id": id.to_string()}));
        assert_eq!(
            (&shown["state"], &shown["charged"]),
            (&json!("DELIVRD"), &json!(price))
        );
    }
    assert_eq!(daemon.balance(), Money(100_000_000_000 - 2_800_000));
}
