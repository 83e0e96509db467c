//! The daemon as a process: signals, a full disk, a file size limit, a second daemon, bad files.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{PASSWORD, Peer, Script, eventually, message};
use serde_json::{Value, json};
use smsconnect::smpp::{CommandId, CommandStatus};

const ROK: CommandStatus = CommandStatus::ESME_ROK;

/// A daemon in a child process, killed at the end of the test.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn config(dir: &Path, port: u16, smsc: SocketAddr, extra: &str) {
    let text = format!(
        "[customer]\nlisten = [\"127.0.0.1:{port}\"]\n{extra}\n[numbering]\ncountry_code = \"254\"\n\
         [store]\npath = \"gateway.db\"\nfree_min_bytes = 0\n[admin]\nsocket = \"admin.sock\"\n[metrics]\nlisten = \"\"\n\
         [server]\ndrain_timeout_ms = 3000\n\
         [[upstream]]\nname = \"sim\"\naddress = \"{smsc}\"\npassword = \"x\"\nbinds = 1\n\
         reconnect_min_ms = 20\nreconnect_max_ms = 100\n[[route]]\nname = \"all\"\nto = [\"sim\"]\n\
         [[tariff]]\nname = \"standard\"\ncurrency = \"KES\"\n[[tariff.price]]\nprefix = \"254\"\nprice = \"0.80\"\n"
    );
    std::fs::write(dir.join("c.toml"), text).unwrap();
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smsconnect"));
    command.args(["serve", "--config"]).arg(dir.join("c.toml"));
    command
}

impl Daemon {
    fn start(smsc: SocketAddr) -> Daemon {
        Daemon::with(smsc, "", command)
    }

    fn with(smsc: SocketAddr, extra: &str, command: impl FnOnce(&Path) -> Command) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        config(dir.path(), port, smsc, extra);
        let child = command(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
        let daemon = Daemon { child, dir, port };
        eventually("the admin socket answers", || {
            daemon.try_admin("stats.show", json!({})).is_ok()
        });
        daemon
    }

    fn try_admin(&self, method: &str, params: Value) -> Result<Value, String> {
        common::admin(&self.dir.path().join("admin.sock"), method, params)
    }

    fn admin(&self, method: &str, params: Value) -> Value {
        self.try_admin(method, params).unwrap()
    }

    fn account(&self, name: &str) {
        let account = json!({"name": name, "system_id": name, "password": PASSWORD});
        self.admin("account.create", account);
        let payment = json!({"account": name, "amount": "1000", "provider": "bank", "receipt": name});
        self.admin("wallet.topup", payment);
    }

    fn bound(&self, name: &str) -> Peer {
        let mut peer = Peer::connect(SocketAddr::from(([127, 0, 0, 1], self.port)));
        assert_eq!(peer.bind(CommandId::BIND_TRANSCEIVER, name, PASSWORD), ROK);
        peer
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end: exit code and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < common::WAIT, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[test]
fn sigterm_answers_what_is_committed_unbinds_both_sides_and_exits_0() {
    for signal in ["-TERM", "-INT"] {
        let script = Script::new();
        let daemon = Daemon::start(script.addr());
        let mut smsc = script.bound();
        daemon.account("acme");
        let mut customer = daemon.bound("acme");
        let id = customer.submit(&message(b"x")).message_id();
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        daemon.signal(signal);
        // The customer is told to leave; the SMSC still gets its time to answer.
        let unbind = customer.reply().unwrap();
        assert_eq!(unbind.id, CommandId::UNBIND);
        customer.answer_header(&unbind);
        assert!(customer.reply().is_none());
        smsc.accept(&submit, "S1");
        let unbind = smsc.expect(CommandId::UNBIND);
        smsc.answer_header(&unbind);
        assert!(
            TcpStream::connect(("127.0.0.1", daemon.port)).is_err(),
            "nobody is let in"
        );
        let dir = daemon.dir.path().join("gateway.db");
        let keep = tempfile::tempdir().unwrap();
        let (code, said) = {
            let copy = keep.path().join("gateway.db");
            let ended = daemon.end_keeping(&dir, &copy);
            let reader = smsconnect::store::sqlite::Reader::open(&copy).unwrap();
            let key = smsconnect::ids::MessageKey::parse(id.as_bytes()).unwrap();
            let stored = reader.message(key).unwrap().unwrap();
            assert!(stored.sent.is_some(), "the last response is on record");
            ended
        };
        assert_eq!(code, Some(0), "{said}");
    }
}

impl Daemon {
    /// As [`Daemon::end`], and copies the store away before the folder goes.
    fn end_keeping(mut self, from: &Path, to: &Path) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        std::fs::copy(from, to).unwrap();
        let wal = from.with_extension("db-wal");
        if wal.exists() {
            std::fs::copy(wal, to.with_extension("db-wal")).unwrap();
        }
        (status.code(), said)
    }
}

#[test]
fn server_drain_ends_it_too() {
    let script = Script::new();
    let daemon = Daemon::start(script.addr());
    daemon.admin("server.drain", json!({}));
    let (code, said) = daemon.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_stuck_smsc_does_not_hold_the_end_up_for_longer_than_configured() {
    let script = Script::new();
    let daemon = Daemon::start(script.addr());
    let mut smsc = script.bound();
    daemon.account("acme");
    let mut customer = daemon.bound("acme");
    customer.submit(&message(b"x"));
    smsc.expect(CommandId::SUBMIT_SM);
    let start = Instant::now();
    daemon.signal("-TERM");
    let (code, said) = daemon.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn a_second_signal_ends_at_once() {
    let script = Script::new();
    let daemon = Daemon::start(script.addr());
    let mut smsc = script.bound();
    daemon.account("acme");
    let mut customer = daemon.bound("acme");
    customer.submit(&message(b"x"));
    // The SMSC never answers, so the first signal waits.
    smsc.expect(CommandId::SUBMIT_SM);
    daemon.signal("-TERM");
    assert_eq!(customer.reply().unwrap().id, CommandId::UNBIND);
    daemon.signal("-TERM");
    let (code, said) = daemon.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("second signal"), "{said}");
}

fn run(dir: &Path) -> Output {
    command(dir).output().unwrap()
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused() {
    let script = Script::new();
    let daemon = Daemon::start(script.addr());
    let said = run(daemon.dir.path());
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("in use by another smsconnect daemon"), "{text}");
    daemon.admin("stats.show", json!({}));
}

#[test]
fn a_foreign_store_file_is_refused_by_name_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    config(dir.path(), free_port(), "127.0.0.1:9".parse().unwrap(), "");
    let path = dir.path().join("gateway.db");
    std::fs::write(&path, b"my diary").unwrap();
    let said = run(dir.path());
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("gateway.db is not a SQLite database"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), b"my diary");
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    config(dir.path(), port, "127.0.0.1:9".parse().unwrap(), "");
    let said = run(dir.path());
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(
        text.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{text}"
    );
}

/// What is refused for lack of space is refused whole, and everything goes on when there is space again.
#[test]
fn no_room_refuses_submits_loses_nothing_and_recovers() {
    let script = Script::new();
    // A file size limit acts as a full disk does: writes beyond it fail. 1 MiB in blocks of 512 octets.
    let daemon = Daemon::with(script.addr(), "", |dir| {
        let mut limited = Command::new("sh");
        limited
            .args(["-c", "ulimit -S -f 2048; exec \"$0\" serve --config \"$1\""])
            .arg(env!("CARGO_BIN_EXE_smsconnect"))
            .arg(dir.join("c.toml"));
        limited
    });
    let mut smsc = script.bound();
    daemon.account("acme");
    let mut customer = daemon.bound("acme");
    let text = [b'x'; 150];
    let mut ids = Vec::new();
    let mut taken = 0;
    let mut refused = 0;
    for _ in 0..20_000 {
        let got = customer.submit(&message(&text));
        match got.status {
            ROK => {
                ids.push(got.message_id());
                let submit = smsc.expect(CommandId::SUBMIT_SM);
                smsc.accept(&submit, &format!("F{taken}"));
                taken += 1;
            }
            CommandStatus::ESME_RMSGQFUL => {
                refused += 1;
                if refused == 5 {
                    break;
                }
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, 5, "after {taken} submits the room is used up");
    // It says so, and still answers: sessions, admin socket, links.
    customer.header(CommandId::ENQUIRE_LINK);
    assert_eq!(customer.reply().unwrap().id, CommandId::ENQUIRE_LINK_RESP);
    assert_eq!(daemon.admin("stats.show", json!({}))["store_writable"], false);
    let freed = Command::new("prlimit")
        .args([
            "--pid",
            &daemon.child.id().to_string(),
            "--fsize=unlimited:unlimited",
        ])
        .status()
        .unwrap();
    assert!(freed.success());
    eventually("submits are taken again", || {
        let got = customer.submit(&message(b"again"));
        if got.status == ROK {
            ids.push(got.message_id());
            let submit = smsc.expect(CommandId::SUBMIT_SM);
            smsc.accept(&submit, &format!("G{}", ids.len()));
        }
        got.status == ROK
    });
    for id in &ids {
        let shown = daemon.admin("message.show", json!({"id": id}));
        assert_ne!(shown["state"], "unknown", "{shown}");
    }
    eventually("all are sent", || {
        daemon.admin("wallet.show", json!({"account": "acme"}))["held"] == "0.00"
    });
    let check = daemon.admin("wallet.check", json!({}));
    assert_eq!(check["ok"], true, "{check}");
    assert_eq!(check["messages"], ids.len());
    let balance = daemon.admin("wallet.show", json!({"account": "acme"}));
    let left = 1_000_000_000 - 800_000 * ids.len() as i64;
    assert_eq!(
        smsconnect::money::Money::parse(balance["balance"].as_str().unwrap())
            .unwrap()
            .0,
        left
    );
}

#[test]
fn little_free_space_refuses_submits_before_the_disk_is_full() {
    let mut world = common::World::with(Default::default(), |c| c.store.free_min_bytes = 1 << 60);
    world.account("acme", "10", json!({}));
    let mut p = world.bound("acme");
    eventually("the free space is looked at", || {
        p.submit(&message(b"x")).status == CommandStatus::ESME_RMSGQFUL
    });
    world.stop();
    world.config.store.free_min_bytes = 1;
    world.start();
    assert_eq!(world.bound("acme").submit(&message(b"x")).status, ROK);
}

#[test]
fn the_service_manager_is_told_ready_alive_and_stopping() {
    let script = Script::new();
    let dir = tempfile::tempdir().unwrap();
    let told = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
    told.set_read_timeout(Some(common::WAIT)).unwrap();
    let at = dir.path().join("notify");
    let daemon = Daemon::with(script.addr(), "", |dir| {
        let mut command = command(dir);
        command.env("NOTIFY_SOCKET", &at).env("WATCHDOG_USEC", "100000");
        command
    });
    let hear = |wanted: &str| {
        let mut buf = [0u8; 512];
        loop {
            let n = told.recv(&mut buf).expect(wanted);
            if String::from_utf8_lossy(&buf[..n]).lines().any(|l| l == wanted) {
                return;
            }
        }
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    daemon.signal("-TERM");
    hear("STOPPING=1");
    assert_eq!(daemon.end().0, Some(0));
}
