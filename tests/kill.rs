//! kill -9 at every kill point of the daemon: a child process ends itself at a named place, is started again, and the customer's
//! answers and receipts, what the SMSC received and the ledger are compared. `KILL_SWEEP=n` adds n rounds per site.

#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use common::{PASSWORD, Peer, eventually, message};
use serde_json::{Value, json};
use smsconnect::money::Money;
use smsconnect::smpp::{self, Address, CommandId, CommandStatus, Npi, Ton};
use smsconnect::tools::smsc::{Smsc, SmscOptions};

// ---- The daemon as a process ----

struct Daemon {
    child: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
}

impl Daemon {
    fn new(smsc: SocketAddr, store: &str) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let text = format!(
            "[customer]\nlisten = [\"127.0.0.1:{port}\"]\n[numbering]\ncountry_code = \"254\"\n\
             [store]\npath = \"gateway.db\"\nfree_min_bytes = 0\n{store}\n[admin]\nsocket = \"admin.sock\"\n\
             [metrics]\nlisten = \"\"\n[log]\nlevel = \"warn\"\n[server]\nworker_threads = 1\n\
             [[upstream]]\nname = \"sim\"\naddress = \"{smsc}\"\npassword = \"x\"\nbinds = 1\n\
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

    /// Starts it to end itself at `kill`; nothing is waited for.
    fn spawn(&mut self, kill: &str) {
        let said = File::create(self.path("stderr")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_smsconnect"));
        command
            .args(["serve", "--config"])
            .arg(self.path("c.toml"))
            .stderr(said);
        self.child = Some(command.env("SMSCONNECT_KILL", kill).spawn().unwrap());
    }

    /// The same, and waits until it serves.
    fn start(&mut self, kill: &str) {
        self.spawn(kill);
        let (socket, said) = (self.path("admin.sock"), self.path("stderr"));
        let child = self.child.as_mut().unwrap();
        eventually("the admin socket answers", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(&said).unwrap());
            common::admin(&socket, "stats.show", json!({})).is_ok()
        });
    }

    fn admin(&self, method: &str, params: Value) -> Value {
        common::admin(&self.path("admin.sock"), method, params).unwrap()
    }

    fn end(&mut self, why: &str) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        eventually(why, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// It has ended itself, as by kill -9. Nobody else has sent it a signal.
    fn killed(&mut self, at: &str) {
        let status = self.end(&format!("{at} is passed"));
        let said = std::fs::read_to_string(self.path("stderr")).unwrap();
        assert_eq!(status.signal(), Some(9), "{at}: {status} {said}");
        // What it leaves is whole, before anything is recovered.
        let report = smsconnect::store::sqlite::verify(&self.path("gateway.db")).unwrap();
        assert_eq!(report.faults, Vec::<String>::new(), "{at}");
    }

    /// Ends it in good order.
    fn stop(&mut self) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = self.end("the daemon ends");
        assert!(
            status.success(),
            "{}",
            std::fs::read_to_string(self.path("stderr")).unwrap()
        );
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

// ---- The customer ----

/// What the customer has sent and been told, over all its connections.
#[derive(Default)]
struct Customer {
    sent: u64,
    /// id → destination.
    acked: HashMap<String, String>,
    /// ids for which a receipt has come: once or more, since what was taken is marked a little later.
    receipts: HashSet<String>,
    /// Acknowledged and not audited yet.
    fresh: Vec<String>,
}

fn dest(n: u64) -> String {
    format!("2547{n:08}")
}

/// The gateway ended within the connection.
struct Gone;

impl Customer {
    fn bound(&self, daemon: &Daemon) -> Peer {
        let mut peer = Peer::connect(SocketAddr::from(([127, 0, 0, 1], daemon.port)));
        let status = peer.bind(CommandId::BIND_TRANSCEIVER, "acme", PASSWORD);
        assert_eq!(status, CommandStatus::ESME_ROK);
        peer
    }

    /// Sends groups of `group` messages, each when the answers and receipts of the last are there, until the daemon ends or
    /// `groups` are done.
    fn talk(&mut self, daemon: &Daemon, group: u64, groups: u64) {
        let mut peer = self.bound(daemon);
        for _ in 0..groups {
            if self.group(&mut peer, group).is_err() {
                return;
            }
        }
    }

    fn group(&mut self, peer: &mut Peer, group: u64) -> Result<(), Gone> {
        let mut out = Vec::new();
        let mut waiting = HashMap::new();
        for _ in 0..group {
            self.sent += 1;
            let number = dest(self.sent);
            let mut sm = message(&[b'x'; 140]);
            sm.dest = Address {
                ton: Ton(1),
                npi: Npi(1),
                addr: number.as_bytes(),
            };
            peer.sequence += 1;
            smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, peer.sequence, &sm);
            waiting.insert(peer.sequence, number);
        }
        write(peer, &out)?;
        let mut ids = HashSet::new();
        while !waiting.is_empty() || ids.iter().any(|id| !self.receipts.contains(id)) {
            let got = peer.read().ok_or(Gone)?;
            if got.id == CommandId::SUBMIT_SM_RESP {
                assert_eq!(got.status, CommandStatus::ESME_ROK);
                let number = waiting.remove(&got.sequence).unwrap();
                let id = got.message_id();
                let twice = self.acked.insert(id.clone(), number);
                assert!(twice.is_none(), "{id} was given out twice");
                self.fresh.push(id.clone());
                ids.insert(id);
            } else {
                self.delivery(peer, &got)?;
            }
        }
        Ok(())
    }

    /// Takes a receipt and answers it.
    fn delivery(&mut self, peer: &mut Peer, got: &common::Got) -> Result<(), Gone> {
        if got.id != CommandId::DELIVER_SM {
            return Ok(());
        }
        let text = got.text();
        let id = text.strip_prefix("id:").unwrap().split(' ').next().unwrap();
        self.receipts.insert(id.to_string());
        let mut out = Vec::new();
        smpp::put_message_id_resp(
            &mut out,
            CommandId::DELIVER_SM_RESP,
            CommandStatus::ESME_ROK,
            got.sequence,
            b"",
        );
        write(peer, &out)
    }

    /// Takes receipts until every acknowledged message has one.
    fn collect(&mut self, daemon: &Daemon) {
        let missing = |c: &Customer| c.fresh.iter().any(|id| !c.receipts.contains(id));
        if !missing(self) {
            return;
        }
        let mut peer = self.bound(daemon);
        while missing(self) {
            let got = peer.read().unwrap();
            assert!(self.delivery(&mut peer, &got).is_ok(), "the daemon ended");
        }
    }
}

/// What the gateway does not take any more is no fault of the test.
fn write(peer: &mut Peer, octets: &[u8]) -> Result<(), Gone> {
    use std::io::Write;
    peer.stream.write_all(octets).map_err(|_| Gone)
}

// ---- All together ----

struct Rig {
    _runtime: tokio::runtime::Runtime,
    smsc: Smsc,
    daemon: Daemon,
    customer: Customer,
    paid: Money,
    /// Found so far: on record, and repeated upstream.
    on_record: u64,
    repeats: u64,
    kills: u32,
}

impl Rig {
    fn new(store: &str) -> Rig {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let options = SmscOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            record: true,
            receipt_delay_ms: 2,
            ..SmscOptions::default()
        };
        let smsc = runtime.block_on(Smsc::start(options)).unwrap();
        let mut daemon = Daemon::new(smsc.addr(), store);
        daemon.start("");
        let account = json!({"name": "acme", "system_id": "acme", "password": PASSWORD});
        daemon.admin("account.create", account);
        let payment =
            json!({"account": "acme", "amount": "10000000", "provider": "bank", "receipt": "FIRST"});
        daemon.admin("wallet.topup", payment);
        daemon.stop();
        Rig {
            _runtime: runtime,
            smsc,
            daemon,
            customer: Customer::default(),
            paid: Money::parse("10000000").unwrap(),
            on_record: 0,
            repeats: 0,
            kills: 0,
        }
    }

    /// A daemon armed for one site, and traffic in groups until it has ended there.
    fn kill(&mut self, site: &str, n: u64, group: u64) {
        let at = format!("{site}:{n}");
        self.daemon.start(&at);
        self.customer.talk(&self.daemon, group, u64::MAX);
        self.daemon.killed(&at);
        self.kills += 1;
    }

    /// Starts without the variable and compares everything; the daemon serves afterwards. Answers how many messages went on
    /// record that the customer has no answer for, and how many went upstream once more than needed, since the last audit.
    fn audit(&mut self, after: &str) -> (u64, u64) {
        self.daemon.start("");
        self.compare(after)
    }

    fn compare(&mut self, after: &str) -> (u64, u64) {
        let daemon = &self.daemon;
        self.customer.collect(daemon);
        eventually("every message is final", || {
            daemon.admin("stats.show", json!({}))["open"] == 0
        });
        for id in self.customer.fresh.drain(..) {
            let shown = daemon.admin("message.show", json!({"id": id}));
            assert_eq!(shown["state"], "DELIVRD", "after {after}: {shown}");
            assert_eq!(shown["charged"], "0.80", "after {after}: {shown}");
        }
        // So that a daemon armed for a slice does not come to it before it serves.
        eventually("full segments are sealed", || {
            daemon.admin("stats.show", json!({}))["segments_to_seal"] == 0
        });
        let mut times: HashMap<Vec<u8>, u64> = HashMap::new();
        for received in self.smsc.log() {
            *times.entry(received.dest).or_default() += 1;
        }
        for (id, number) in &self.customer.acked {
            assert!(
                times.contains_key(number.as_bytes()),
                "after {after}: {id} never reached the SMSC"
            );
        }
        let check = daemon.admin("wallet.check", json!({}));
        assert_eq!(check["ok"], true, "after {after}: {check}");
        let messages = check["messages"].as_u64().unwrap();
        let acked = self.customer.acked.len() as u64;
        assert!(
            (acked..=self.customer.sent).contains(&messages),
            "after {after}: {check} {acked}"
        );
        assert_eq!(
            messages,
            times.len() as u64,
            "after {after}: only what is on record was sent"
        );
        let wallet = daemon.admin("wallet.show", json!({"account": "acme"}));
        let balance = Money::parse(wallet["balance"].as_str().unwrap()).unwrap();
        assert_eq!(
            balance.0,
            self.paid.0 - messages as i64 * 800_000,
            "after {after}"
        );
        assert_eq!(wallet["held"], "0.00", "after {after}");
        let repeats = times.values().map(|n| n - 1).sum::<u64>();
        let found = (messages - acked - self.on_record, repeats - self.repeats);
        (self.on_record, self.repeats) = (messages - acked, repeats);
        found
    }
}

/// Rounds beyond the usual ones.
fn sweep() -> u64 {
    std::env::var("KILL_SWEEP")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Sites of the path of one message, and for one message at a time: how many go on record unanswered, how many are sent twice.
const PATH: &[(&str, u64, RangeInclusive<u64>)] = &[
    ("admit.before_commit", 0, 0..=0),
    ("admit.after_commit", 1, 0..=0),
    ("admit.after_ack", 0, 0..=1),
    ("upstream.after_write", 0, 0..=1),
    ("upstream.after_response", 0, 1..=1),
    ("receipt.after_commit", 0, 0..=0),
    ("deliver.after_write", 0, 0..=0),
];
const RECOVERY: &[&str] = &["recover.accounts", "recover.messages", "recover.install"];
const LOG: &[&str] = &["checkpoint.before", "checkpoint.after"];
const SEGMENTS: &[&str] = &["seal.slice", "retention.drop"];
const PAYMENTS: &[&str] = &["topup.before_commit", "topup.after_commit"];

#[test]
fn a_kill_on_the_path_of_a_message_loses_and_doubles_nothing() {
    let mut rig = Rig::new("");
    for (site, unanswered, sent_twice) in PATH {
        rig.kill(site, 2, 1);
        let (on_record, repeats) = rig.audit(site);
        assert!(on_record <= 1, "{site}: one message was on its way");
        // Where the answer is past, the customer has it.
        assert_eq!(on_record, *unanswered, "{site}: on record and not answered");
        assert!(
            sent_twice.contains(&repeats),
            "{site}: sent again {repeats} times"
        );
        rig.daemon.stop();
        // Many at once: no more is repeated than was under way.
        for round in 0..=sweep() {
            let (n, group) = if round == 0 {
                (3, 16)
            } else {
                (1 + round * 7 % 23, 1 + round * 13 % 41)
            };
            rig.kill(site, n, group);
            let (on_record, repeats) = rig.audit(site);
            assert!(
                on_record <= group && repeats <= group,
                "{site}: {on_record} {repeats} of {group}"
            );
            rig.daemon.stop();
        }
    }
    eprintln!(
        "{} kills, {} messages, {} repeated upstream",
        rig.kills, rig.customer.sent, rig.repeats
    );
}

#[test]
fn a_kill_during_recovery_twice_and_thrice_changes_nothing() {
    let mut rig = Rig::new("");
    for (times, n, site) in [
        (2, 1, "recover.accounts"),
        (3, 4, "recover.messages"),
        (2, 1, "recover.install"),
    ] {
        for round in 0..=sweep() {
            // Something is open: on record, neither answered nor sent.
            rig.kill("admit.after_commit", 2 + round % 5, 12);
            let wal = std::fs::metadata(rig.daemon.path("gateway.db-wal"))
                .unwrap()
                .len();
            assert!(wal > 0, "there is a log to recover");
            for _ in 0..times {
                let at = format!("{site}:{n}");
                rig.daemon.spawn(&at);
                rig.daemon.killed(&at);
                rig.kills += 1;
            }
            let (on_record, repeats) = rig.audit(site);
            assert!(
                (1..=12).contains(&on_record) && repeats <= 12,
                "{site}: {on_record} {repeats}"
            );
            rig.daemon.stop();
        }
    }
}

#[test]
fn a_kill_around_a_checkpoint_loses_nothing() {
    let mut rig = Rig::new("");
    for site in LOG {
        for round in 0..2 + sweep() {
            rig.kill(site, 1 + round % 4, 16);
            let (on_record, repeats) = rig.audit(site);
            assert!(on_record <= 16 && repeats <= 16, "{site}: {on_record} {repeats}");
            rig.daemon.stop();
        }
    }
}

#[test]
fn a_kill_while_segments_are_sealed_and_dropped_loses_nothing() {
    let mut rig = Rig::new("segment_messages = 1000\nkeep_days = 1");
    for n in 1..=4 + sweep() {
        rig.kill("seal.slice", n, 100);
        let (on_record, repeats) = rig.audit("seal.slice");
        assert!(on_record <= 100 && repeats <= 100, "{on_record} {repeats}");
        rig.daemon.stop();
    }
    // What is sealed by now becomes old.
    let store = rig.daemon.path("gateway.db");
    let segments = |store: &Path, change: &str| {
        let conn = rusqlite::Connection::open(store).unwrap();
        conn.execute_batch(change).unwrap();
        let mut stmt = conn
            .prepare("SELECT number FROM segment WHERE state = 2")
            .unwrap();
        let numbers = stmt.query_map([], |r| r.get(0)).unwrap();
        numbers.collect::<Result<BTreeSet<i64>, _>>().unwrap()
    };
    let old = segments(&store, "UPDATE segment SET newest = 1 WHERE state = 2");
    assert!(old.len() >= 3, "{old:?}");
    for n in 1..=3 {
        let at = format!("retention.drop:{n}");
        rig.daemon.spawn(&at);
        rig.daemon.killed(&at);
        if n == 1 {
            assert_eq!(segments(&store, ""), old, "nothing is dropped by half");
        }
    }
    assert!(segments(&store, "").len() < old.len());
    rig.daemon.start("");
    eventually("all that is old is dropped", || {
        segments(&store, "").is_disjoint(&old)
    });
    // The ledger still equals what the messages have cost, the dropped ones too.
    assert_eq!(rig.compare("retention.drop"), (0, 0));
}

#[test]
fn a_payment_is_booked_once_wherever_the_process_ends() {
    let mut rig = Rig::new("");
    for (i, site) in PAYMENTS.iter().enumerate() {
        let at = format!("{site}:1");
        let receipt = format!("R{i}");
        let payment = json!({"account": "acme", "amount": "250", "provider": "bank", "receipt": receipt});
        rig.daemon.start(&at);
        let answer = common::admin(&rig.daemon.path("admin.sock"), "wallet.topup", payment.clone());
        assert!(answer.is_err(), "{site}: {answer:?}");
        rig.daemon.killed(&at);
        rig.daemon.start("");
        let again = rig.daemon.admin("wallet.topup", payment);
        assert_eq!(
            again["duplicate"],
            *site == "topup.after_commit",
            "{site}: {again}"
        );
        rig.paid.0 += 250_000_000;
        rig.compare(site);
        rig.daemon.stop();
    }
}

#[test]
fn every_kill_point_is_listed_and_killed_at() {
    let mut tested: BTreeSet<&str> = PATH.iter().map(|(site, ..)| *site).collect();
    for list in [RECOVERY, LOG, SEGMENTS, PAYMENTS] {
        tested.extend(list);
    }
    let listed: BTreeSet<&str> = smsconnect::kill::SITES.iter().map(|(site, _)| *site).collect();
    assert_eq!(tested, listed);
}
