//! Copies of the store: taken under load, proved whole, served again; and damage of every kind, found.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::HashSet;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{PASSWORD, Peer, eventually, message};
use rusqlite::Connection;
use serde_json::{Value, json};
use smsconnect::ids::MessageKey;
use smsconnect::money::Money;
use smsconnect::smpp::{CommandId, CommandStatus};
use smsconnect::store::sqlite::{OpenError, Reader, Report, verify};
use smsconnect::tools::load::{self, LoadOptions};
use smsconnect::tools::smsc::{Smsc, SmscOptions};
use tokio_util::sync::CancellationToken;

// ---- The daemon as a process ----

struct Daemon {
    child: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
}

impl Daemon {
    fn new(smsc: SocketAddr) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let text = format!(
            "[customer]\nlisten = [\"127.0.0.1:{port}\"]\n[numbering]\ncountry_code = \"254\"\n\
             [store]\npath = \"gateway.db\"\nfree_min_bytes = 0\nsegment_messages = 2000\n[admin]\nsocket = \"admin.sock\"\n\
             [metrics]\nlisten = \"\"\n[log]\nlevel = \"warn\"\n\
             [[upstream]]\nname = \"sim\"\naddress = \"{smsc}\"\npassword = \"x\"\nbinds = 1\nwindow = 200\n\
             reconnect_min_ms = 20\nreconnect_max_ms = 100\n[[route]]\nname = \"all\"\nto = [\"sim\"]\n\
             [[tariff]]\nname = \"standard\"\ncurrency = \"KES\"\n[[tariff.price]]\nprefix = \"254\"\nprice = \"0.80\"\n"
        );
        std::fs::write(dir.path().join("c.toml"), text).unwrap();
        Daemon {
            child: None,
            dir,
            port,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn start(&mut self) {
        let said = File::create(self.path("stderr")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_smsconnect"));
        command
            .args(["serve", "--config"])
            .arg(self.path("c.toml"))
            .stderr(said);
        let mut child = command.spawn().unwrap();
        let (socket, said) = (self.path("admin.sock"), self.path("stderr"));
        eventually("the admin socket answers", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(&said).unwrap());
            common::admin(&socket, "stats.show", json!({})).is_ok()
        });
        self.child = Some(child);
    }

    fn admin(&self, method: &str, params: Value) -> Value {
        common::admin(&self.path("admin.sock"), method, params).unwrap()
    }

    fn account(&self, name: &str) {
        self.admin(
            "account.create",
            json!({"name": name, "system_id": name, "password": PASSWORD}),
        );
        let payment = json!({"account": name, "amount": "100000", "provider": "bank", "receipt": name});
        self.admin("wallet.topup", payment);
    }

    fn bound(&self, name: &str) -> Peer {
        let mut peer = Peer::connect(self.addr());
        let status = peer.bind(CommandId::BIND_TRANSMITTER, name, PASSWORD);
        assert_eq!(status, CommandStatus::ESME_ROK);
        peer
    }

    fn stop(&mut self) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.child.take().unwrap().wait().unwrap().success());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn settled(&self) {
        eventually("every message is final", || {
            self.admin("stats.show", json!({}))["open"] == 0
        });
        let check = self.admin("wallet.check", json!({}));
        assert_eq!(check["ok"], true, "{check}");
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

fn simulator(runtime: &tokio::runtime::Runtime) -> Smsc {
    let options = SmscOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        receipt_delay_ms: 5,
        ..SmscOptions::default()
    };
    runtime.block_on(Smsc::start(options)).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

/// Runs the command line.
fn smsconnect(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smsconnect"));
    command.args(args.iter().map(|a| a.as_ref()));
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{} {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn backup(daemon: &Daemon, to: &Path) -> String {
    let made = smsconnect(&[&"backup", &"--config", &daemon.path("c.toml"), &"--to", &to]);
    assert!(made.status.success(), "{}", said(&made));
    said(&made)
}

fn whole(path: &Path) -> Report {
    let report = verify(path).unwrap();
    assert_eq!(report.faults, Vec::<String>::new(), "{}", path.display());
    report
}

fn key(id: &str) -> MessageKey {
    MessageKey::parse(id.as_bytes()).unwrap()
}

/// How many of these ids a store knows, all of them the first ones.
fn prefix(store: &Path, ids: &[String]) -> usize {
    let reader = Reader::open(store).unwrap();
    let known: Vec<bool> = ids
        .iter()
        .map(|id| reader.message(key(id)).unwrap().is_some())
        .collect();
    let n = known.iter().take_while(|k| **k).count();
    assert!(
        known.iter().skip(n).all(|k| !k),
        "one moment: what came later is not there without what came before"
    );
    n
}

#[test]
fn a_copy_taken_under_load_is_one_moment_and_serves() {
    let runtime = runtime();
    let smsc = simulator(&runtime);
    let mut daemon = Daemon::new(smsc.addr());
    daemon.start();
    daemon.account("acme");
    daemon.account("witness");
    let stop = CancellationToken::new();
    let options = LoadOptions {
        connect: vec![daemon.addr()],
        system_id: "acme".into(),
        password: PASSWORD.into(),
        binds: 2,
        window: 200,
        rate: Some(4_000.0),
        duration: Some(Duration::from_secs(60)),
        text: "backup {n} test".into(),
        ..LoadOptions::default()
    };
    let running = runtime.spawn(load::run(options, None, stop.clone()));
    let accepted = |daemon: &Daemon| {
        daemon.admin("stats.show", json!({}))["accepted"]
            .as_u64()
            .unwrap()
    };
    eventually("segments are full and being sealed", || accepted(&daemon) > 6_000);

    // A witness submits one message after the other all the time, and notes the slowest.
    let (mut peer, over) = (daemon.bound("witness"), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&over);
    let ids = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let noted = Arc::clone(&ids);
    let witness = std::thread::spawn(move || {
        let mut slowest = Duration::ZERO;
        while !done.load(Ordering::Acquire) {
            let start = Instant::now();
            let got = peer.submit(&message(b"witness"));
            slowest = slowest.max(start.elapsed());
            assert_eq!(got.status, CommandStatus::ESME_ROK);
            noted.lock().unwrap().push(got.message_id());
        }
        slowest
    });
    let mut copies = Vec::new();
    for n in 0..3 {
        let before = accepted(&daemon);
        eventually("traffic goes on", || accepted(&daemon) > before + 1_000);
        let copy = daemon.path(&format!("copy-{n}.db"));
        let first = ids.lock().unwrap().len();
        backup(&daemon, &copy);
        let last = ids.lock().unwrap().len();
        copies.push((copy, first, last));
    }
    stop.cancel();
    over.store(true, Ordering::Release);
    let slowest = witness.join().unwrap();
    let report = runtime.block_on(running).unwrap().unwrap();
    assert!(
        slowest < Duration::from_secs(4),
        "a copy does not stop the writer: {slowest:?}"
    );
    let ids = std::mem::take(&mut *ids.lock().unwrap());
    let mut sizes = Vec::new();
    for (copy, first, last) in &copies {
        let found = whole(copy);
        assert_eq!(found.as_made, Some(true));
        assert!(found.segments > 1 && found.messages > 6_000, "{found:?}");
        let n = prefix(copy, &ids);
        assert!((*first..=last + 1).contains(&n), "{n} of {first} to {last}");
        sizes.push(found.messages);
        let mode = std::fs::metadata(copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for suffix in ["-wal", "-shm", "-journal", ".lock"] {
            let beside = format!("{}{suffix}", copy.display());
            assert!(!Path::new(&beside).exists(), "{beside}");
        }
    }
    assert!(sizes.is_sorted(), "{sizes:?}");
    let left = std::fs::read_dir(daemon.dir.path()).unwrap();
    let parts = left.filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains(".part")
    });
    assert_eq!(parts.count(), 0);
    eprintln!(
        "{} accepted, slowest {slowest:?}, copies of {sizes:?} messages",
        report.accepted
    );

    // Beside a running daemon, and beside what a killed one leaves.
    let store = daemon.path("gateway.db");
    daemon.settled();
    let live = smsconnect(&[&"verify", &store]);
    assert!(live.status.success(), "{}", said(&live));
    daemon.kill();
    let total = whole(&store).messages;
    assert_eq!(total, report.accepted + ids.len() as u64);

    // A daemon on the copy: its messages are those of the copy, what was open is sent, and no id is given out twice.
    let other = simulator(&runtime);
    let mut seen: HashSet<String> = ids.iter().cloned().collect();
    let (copy, ..) = &copies[1];
    for _ in 0..2 {
        let mut restored = Daemon::new(other.addr());
        std::fs::copy(copy, restored.path("gateway.db")).unwrap();
        let found = whole(&restored.path("gateway.db"));
        restored.start();
        // What was waiting is sent, by now; what had been sent has its receipt from the original's SMSC or not at all.
        for account in ["acme", "witness"] {
            let wallet = || restored.admin("wallet.show", json!({"account": account}));
            eventually("all is sent and charged", || wallet()["held"] == "0.00");
            let balance = Money::parse(wallet()["balance"].as_str().unwrap()).unwrap();
            assert!(
                balance.0 < 100_000_000_000 && balance.0 % 800_000 == 0,
                "{balance}"
            );
        }
        let check = restored.admin("wallet.check", json!({}));
        assert_eq!(
            (&check["ok"], &check["messages"]),
            (&json!(true), &json!(found.messages))
        );
        let got = restored.bound("witness").submit(&message(b"after"));
        assert_eq!(got.status, CommandStatus::ESME_ROK);
        let id = got.message_id();
        let shown = || restored.admin("message.show", json!({"id": id}));
        eventually("a new message is delivered", || shown()["state"] == "DELIVRD");
        assert!(seen.insert(id.clone()), "an id was given out twice");
        restored.stop();
        let used = whole(&restored.path("gateway.db"));
        assert_eq!(used.messages, found.messages + 1);
        assert!(used.open <= found.open && used.held == Money::ZERO, "{used:?}");
        assert!(used.epoch >= found.epoch + 1_000, "{used:?}");
    }
}

/// A copy with sealed segments, a live one, and messages that are open; not one octet of it is in use elsewhere.
fn sample() -> (tempfile::TempDir, PathBuf) {
    let runtime = runtime();
    let options = SmscOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        receipt_lost_rate: 0.05,
        ..SmscOptions::default()
    };
    let smsc = runtime.block_on(Smsc::start(options)).unwrap();
    let mut daemon = Daemon::new(smsc.addr());
    daemon.start();
    daemon.account("acme");
    let options = LoadOptions {
        connect: vec![daemon.addr()],
        system_id: "acme".into(),
        password: PASSWORD.into(),
        binds: 1,
        window: 200,
        count: Some(4_500),
        receipt_wait: Duration::ZERO,
        text: "sample {n} of a text that fills pages".into(),
        ..LoadOptions::default()
    };
    runtime
        .block_on(load::run(options, None, CancellationToken::new()))
        .unwrap();
    let sealed = || {
        let conn = Connection::open(daemon.path("gateway.db")).unwrap();
        let sql = "SELECT count(*) FROM segment WHERE state = 2";
        conn.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap()
    };
    eventually("segments are sealed", || sealed() == 2);
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    let words = backup(&daemon, &copy);
    for word in ["4500 messages", " octets", " s"] {
        assert!(words.contains(word), "{word}: {words}");
    }
    (dir, copy)
}

fn duplicate(copy: &Path, name: &str, with_checksum: bool) -> PathBuf {
    let path = copy.with_file_name(name);
    std::fs::copy(copy, &path).unwrap();
    let sum = format!("{}.sha256", path.display());
    let _gone = std::fs::remove_file(&sum);
    if with_checksum {
        std::fs::copy(format!("{}.sha256", copy.display()), &sum).unwrap();
    }
    path
}

/// What verify says of a damaged store; nothing if it takes it for whole.
fn faults(path: &Path) -> Vec<String> {
    match verify(path) {
        Ok(report) => report.faults,
        Err(error) => vec![error.to_string()],
    }
}

/// Numbers that look random and are the same each time.
fn next(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed >> 24
}

#[test]
fn damage_of_every_kind_is_found() {
    let (dir, copy) = sample();
    let report = whole(&copy);
    assert_eq!((report.messages, report.segments), (4_500, 3));
    assert!(report.open > 50, "some have no receipt: {report:?}");
    // A flipped octet anywhere is found by the checksum; in what SQLite or the ledger can tell, without it too.
    let octets = std::fs::read(&copy).unwrap();
    let mut without = 0;
    for n in 0..50u64 {
        let mut seed = n + 1;
        let at = next(&mut seed) as usize % octets.len();
        let mut flipped = octets.clone();
        flipped[at] ^= 1 << (next(&mut seed) % 8);
        let path = duplicate(&copy, "flipped.db", true);
        std::fs::write(&path, &flipped).unwrap();
        assert!(
            !faults(&path).is_empty(),
            "seed {n}: octet {at} is not what it was"
        );
        std::fs::remove_file(format!("{}.sha256", path.display())).unwrap();
        without += usize::from(!faults(&path).is_empty());
    }
    eprintln!("of 50 flipped bits {without} are found without a checksum");
    for (what, len) in [
        ("half", octets.len() / 2),
        ("a page", octets.len() - 4_096),
        ("an octet", octets.len() - 1),
    ] {
        let path = duplicate(&copy, "short.db", false);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(len as u64)
            .unwrap();
        assert!(!faults(&path).is_empty(), "{what} is missing");
    }
    // Changes that leave a sound database: only what it says is wrong.
    let charge = "reason = 'charge'";
    for (sql, word) in [
        ("UPDATE wallet SET balance = balance + 1".to_string(), "balance"),
        ("UPDATE wallet SET balance = balance + 1, base = base + 1".into(), "balance"),
        (format!("DELETE FROM ledger WHERE entry = (SELECT max(entry) FROM ledger WHERE {charge})"), "balance"),
        (format!("UPDATE ledger SET amount = amount + 800000 WHERE entry = (SELECT min(entry) FROM ledger WHERE {charge})"), "balance"),
        ("UPDATE ledger SET credit = 'wallet' WHERE entry = 2".into(), "no posting"),
        // Booked twice, and the balance with it: the ledger is sound, and more than the messages cost.
        ("INSERT INTO ledger VALUES(NULL, 1, 1, 'wallet', 'revenue', 800000, 1, 'charge', '', 0);
          UPDATE wallet SET balance = balance - 800000".into(), "messages cost"),
        // The same without any message: an account of its own.
        ("INSERT INTO account SELECT 7, 'x', 'x', password_hash, tariff, tps, window, max_binds, allow_ips, senders, bind, state,
            credit_limit, created_at, deliver_as, receipts, alphabet, transliterate, outbind, outbind_password, certificates,
            currency, low_balance, quota_day, quota_month, allow_upstreams, deny_upstreams, residency
          FROM account WHERE id = 1; INSERT INTO wallet VALUES(7, -800000, 0, 0, 0);
          INSERT INTO ledger VALUES(NULL, 1, 7, 'wallet', 'revenue', 800000, 1, 'charge', '', 0)".into(), "messages cost"),
        ("DELETE FROM closed_1 WHERE key = (SELECT max(key) FROM closed_1)".into(), "sealed"),
        ("UPDATE closed_2 SET charged = 0 WHERE key = (SELECT max(key) FROM closed_2)".into(), "sealed"),
        ("DELETE FROM closed_account_1 WHERE key = (SELECT max(key) FROM closed_account_1)".into(), "list"),
        ("DELETE FROM accepted_3 WHERE key = (SELECT max(key) FROM accepted_3)".into(), "not there"),
        ("DELETE FROM carried".into(), "cost"),
        ("DELETE FROM sent_3 WHERE key NOT IN (SELECT key FROM final_3)".into(), "cost"),
        ("INSERT INTO final_3 SELECT max(pos) + 1, key, account, state, err, at, charged, flags FROM final_3".into(), "twice"),
        ("UPDATE final_3 SET charged = -800000 WHERE pos = (SELECT max(pos) FROM final_3)".into(), "less than nothing"),
        ("INSERT INTO carried SELECT * FROM accepted_3 LIMIT 1".into(), "stands in"),
        ("UPDATE accepted_3 SET message = x'00' WHERE key = (SELECT max(key) FROM accepted_3)".into(), "cannot be read"),
        ("UPDATE final_3 SET state = 99 WHERE pos = (SELECT max(pos) FROM final_3)".into(), "cannot be read"),
        ("DROP TABLE closed_account_2".into(), "lost its table"),
        ("DROP TABLE final_3".into(), "final_3"),
        ("DELETE FROM segment WHERE number = 3".into(), "live"),
        ("UPDATE node SET next_pos = 5".into(), "positions"),
        ("UPDATE node SET epoch = 0".into(), "never was"),
        ("DELETE FROM account WHERE id = 1".into(), "no account"),
        ("DELETE FROM wallet".into(), "no wallet"),
        ("UPDATE payment SET entry = 999999".into(), "not its own"),
        ("PRAGMA user_version = 1".into(), "schema"),
    ] {
        let path = duplicate(&copy, "changed.db", false);
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        drop(conn);
        let found = faults(&path);
        assert!(found.iter().any(|f| f.contains(word)), "{sql}: {found:?}");
    }
    // The command says the same, and how many.
    let path = duplicate(&copy, "changed.db", false);
    Connection::open(&path)
        .unwrap()
        .execute_batch("UPDATE wallet SET balance = balance + 1; DELETE FROM carried")
        .unwrap();
    let output = smsconnect(&[&"verify", &path]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for word in ["balance", "cost", "damaged", "messages"] {
        assert!(said(&output).contains(word), "{word}: {}", said(&output));
    }
    let output = smsconnect(&[&"verify", &copy]);
    assert!(
        output.status.success() && said(&output).contains("whole"),
        "{}",
        said(&output)
    );
    // A store that is not whole is not copied.
    let to = dir.path().join("of-damaged.db");
    let output = smsconnect(&[&"backup", &"--store", &path, &"--to", &to]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("damaged") && !to.exists(),
        "{}",
        said(&output)
    );
}

#[test]
fn nothing_is_overwritten_and_nothing_but_a_store_is_copied() {
    let runtime = runtime();
    let smsc = simulator(&runtime);
    let mut daemon = Daemon::new(smsc.addr());
    daemon.start();
    daemon.account("acme");
    daemon.stop();
    let there = daemon.path("there");
    std::fs::write(&there, "precious").unwrap();
    let text = daemon.path("c.toml");
    let foreign = daemon.path("foreign.db");
    Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE t(x)")
        .unwrap();
    let empty = daemon.path("empty");
    File::create(&empty).unwrap();
    let (store, nowhere) = (daemon.path("gateway.db"), daemon.path("nowhere"));
    let new = daemon.path("new.db");
    let far = daemon.path("no-folder/new.db");
    for (from, to, word) in [
        (&store, &there, "exists"),
        (&store, &far, "cannot write"),
        (&text, &new, "not a SQLite database"),
        (&empty, &new, "not a SQLite database"),
        (&foreign, &new, "another program"),
        (&nowhere, &new, "cannot open"),
    ] {
        let output = smsconnect(&[&"backup", &"--store", from, &"--to", to]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(word), "{word}: {}", said(&output));
        assert!(!new.exists());
    }
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "precious");
    for (file, code) in [(&text, 1), (&empty, 1), (&foreign, 1), (&nowhere, 2)] {
        let output = smsconnect(&[&"verify", file]);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    }
    assert!(matches!(verify(&foreign), Err(OpenError::Foreign(_))));
    for bad in [&["backup", "--to", "x"][..], &["backup"], &["verify"]] {
        let args: Vec<&dyn AsRef<std::ffi::OsStr>> = bad.iter().map(|a| a as _).collect();
        assert_eq!(smsconnect(&args).status.code(), Some(2), "{bad:?}");
    }
    // Of a stopped daemon too, by either name of the source.
    let output = smsconnect(&[&"backup", &"--store", &store, &"--to", &new]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(whole(&new).accounts, 1);
}

/// The commands in the fenced blocks of a section of docs/restore.md.
fn commands(section: &str) -> String {
    let text = include_str!("../docs/restore.md");
    let (_, rest) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_string()
}

#[test]
fn the_page_on_backup_and_restore_is_followed_to_the_letter() {
    let runtime = runtime();
    let smsc = simulator(&runtime);
    let mut daemon = Daemon::new(smsc.addr());
    daemon.start();
    daemon.account("acme");
    let first = daemon
        .bound("acme")
        .submit(&message(b"before the backup"))
        .message_id();
    daemon.settled();
    // The machine of the page in a folder: its paths, its service manager, its user.
    let (root, bin) = (daemon.path("root"), daemon.path("bin"));
    for folder in [&bin, &root.join("etc"), &root.join("lib"), &root.join("backups")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let script = |name: &str, text: &str| {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let real = env!("CARGO_BIN_EXE_smsconnect");
    script("smsconnect", &format!("exec {real} \"$@\""));
    script("chown", "exit 0");
    script(
        "systemctl",
        &format!("echo \"$1 $2\" >> {}", bin.join("asked").display()),
    );
    let run = |text: &str| {
        let text = text
            .replace("/etc/smsconnect", &root.join("etc").display().to_string())
            .replace("/var/lib/smsconnect", &root.join("lib").display().to_string())
            .replace(
                "/var/backups/smsconnect",
                &root.join("backups").display().to_string(),
            );
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-e", "-c", &text])
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{text}: {}", said(&output));
    };
    // The daemon's folder is that of the page.
    daemon.stop();
    let config = std::fs::read_to_string(daemon.path("c.toml")).unwrap();
    let store = root.join("lib/smsconnect.db");
    std::fs::rename(daemon.path("gateway.db"), &store).unwrap();
    let config = config.replace("\"gateway.db\"", &format!("{:?}", store.display().to_string()));
    std::fs::write(daemon.path("c.toml"), &config).unwrap();
    let config = config.replace("admin.sock", &daemon.path("admin.sock").display().to_string());
    std::fs::write(root.join("etc/smsconnect.toml"), config).unwrap();
    daemon.start();
    run(&commands("Backup"));
    let second = daemon.bound("acme").submit(&message(b"after it")).message_id();
    daemon.settled();

    // Stop comes first among what changes anything, start last.
    let restore = commands("Restore");
    let (before, rest) = restore.split_once("systemctl stop smsconnect\n").unwrap();
    run(before);
    daemon.stop();
    run(&format!("systemctl stop smsconnect\n{rest}"));
    let asked = std::fs::read_to_string(bin.join("asked")).unwrap();
    assert_eq!(asked, "stop smsconnect\nstart smsconnect\n");
    assert!(rest.trim_end().ends_with("systemctl start smsconnect"));
    daemon.start();
    let shown = daemon.admin("message.show", json!({"id": first}));
    assert_eq!(shown["state"], "DELIVRD", "{shown}");
    let gone = common::admin(&daemon.path("admin.sock"), "message.show", json!({"id": second}));
    assert!(gone.is_err(), "{gone:?}");
    let wallet = daemon.admin("wallet.show", json!({"account": "acme"}));
    assert_eq!(wallet["balance"], "99999.20", "that of the copy: {wallet}");
    let third = daemon.bound("acme").submit(&message(b"on the copy")).message_id();
    assert!(key(&third) > key(&second), "{third} after {second}");
    daemon.settled();
    assert!(root.join("lib/before/smsconnect.db").exists());
}
