//! The daemon as a process of its own, for the tests that kill it, trace it, or break its disk.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::{Value, json};
use smsconnect::money::Money;
use smsconnect::smpp::{CommandId, CommandStatus};

use super::{PASSWORD, Peer, eventually, skip};

/// A daemon in a child process, started again and again on one store; killed at the end of the test.
pub struct Daemon {
    child: Option<Child>,
    pub dir: tempfile::TempDir,
    pub port: u16,
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// `store` and `upstream` are more lines of these sections.
fn config(dir: &Path, port: u16, smsc: SocketAddr, store: &str, upstream: &str) {
    let text = format!(
        "[customer]\nlisten = [\"127.0.0.1:{port}\"]\n[numbering]\ncountry_code = \"254\"\n\
         [store]\npath = \"gateway.db\"\nfree_min_bytes = 0\n{store}\n\
         [admin]\nsocket = \"admin.sock\"\n[metrics]\nlisten = \"\"\n\
         [log]\nlevel = \"warn\"\n[server]\ndrain_timeout_ms = 3000\n\
         [[upstream]]\nname = \"sim\"\naddress = \"{smsc}\"\npassword = \"x\"\n\
         reconnect_min_ms = 20\nreconnect_max_ms = 100\n{upstream}\n[[route]]\nname = \"all\"\nto = [\"sim\"]\n\
         [[tariff]]\nname = \"standard\"\ncurrency = \"KES\"\n[[tariff.price]]\nprefix = \"254\"\nprice = \"0.80\"\n"
    );
    std::fs::write(dir.join("c.toml"), text).unwrap();
}

impl Daemon {
    /// A folder with a config; nothing runs yet.
    pub fn new(smsc: SocketAddr) -> Daemon {
        Daemon::with(smsc, "", "binds = 1")
    }

    /// The same with more lines of the config's `[store]` and `[[upstream]]`.
    pub fn with(smsc: SocketAddr, store: &str, upstream: &str) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        config(dir.path(), port, smsc, store, upstream);
        Daemon {
            child: None,
            dir,
            port,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it, `through` another program (its words, or none) that becomes the daemon under the same process id.
    pub fn spawn_through(&mut self, through: &[&str], extra: &[&str]) {
        // Into a file: a pipe that nobody reads fills up.
        let said = File::create(self.path("stderr")).unwrap();
        let binary = env!("CARGO_BIN_EXE_smsconnect");
        let mut command = match through.split_first() {
            None => Command::new(binary),
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(binary);
                command
            }
        };
        command.args(["serve", "--config"]).arg(self.path("c.toml"));
        self.child = Some(command.args(extra).stderr(said).spawn().unwrap());
    }

    pub fn spawn(&mut self, extra: &[&str]) {
        self.spawn_through(&[], extra);
    }

    pub fn start(&mut self, extra: &[&str]) {
        self.spawn(extra);
        self.ready();
    }

    /// Waits until it serves.
    pub fn ready(&mut self) {
        let (socket, said) = (self.path("admin.sock"), self.path("stderr"));
        let child = self.child.as_mut().unwrap();
        eventually("the admin socket answers", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(&said).unwrap());
            super::admin(&socket, "stats.show", json!({})).is_ok()
        });
    }

    pub fn admin(&self, method: &str, params: Value) -> Value {
        super::admin(&self.path("admin.sock"), method, params).unwrap()
    }

    /// A counter of `stats.show`.
    pub fn stat(&self, name: &str) -> u64 {
        self.admin("stats.show", json!({}))[name].as_u64().unwrap()
    }

    pub fn pay(&self, receipt: &str, amount: &str) -> Value {
        let payment = json!({"account": "acme", "amount": amount, "provider": "bank", "receipt": receipt});
        self.admin("wallet.topup", payment)
    }

    /// An account with 1000.00.
    pub fn account(&self) {
        let account = json!({"name": "acme", "system_id": "acme", "password": PASSWORD});
        self.admin("account.create", account);
        self.pay("FIRST", "1000");
    }

    pub fn balance(&self) -> String {
        let wallet = self.admin("wallet.show", json!({"account": "acme"}));
        wallet["balance"].as_str().unwrap().into()
    }

    /// The balance in micro-units.
    pub fn micros(&self) -> i64 {
        Money::parse(&self.balance()).unwrap().0
    }

    pub fn reconciles(&self) -> u64 {
        let check = self.admin("wallet.check", json!({}));
        assert_eq!(check["ok"], true, "{check}");
        check["messages"].as_u64().unwrap()
    }

    pub fn bound(&self) -> Peer {
        let mut peer = Peer::connect(self.addr());
        let status = peer.bind(CommandId::BIND_TRANSCEIVER, "acme", PASSWORD);
        assert_eq!(status, CommandStatus::ESME_ROK);
        peer
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Whether it is there; waits for nothing.
    pub fn runs(&mut self) -> bool {
        let ended = self.child.as_mut().map(|c| c.try_wait().unwrap());
        ended.is_some_and(|e| e.is_none())
    }

    /// Waits for the end: how it ended and what it said.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let child = self.child.as_mut().unwrap();
        let mut status = None;
        eventually("the daemon ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        self.child = None;
        (status.unwrap(), self.said())
    }

    /// What it has said since its last start.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap()
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

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Whether strace is here and may trace what it starts; otherwise the test is skipped.
pub fn strace() -> bool {
    let tried = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync", "true"])
        .stderr(Stdio::null())
        .status();
    match tried {
        Ok(status) if status.success() => true,
        Ok(_) => {
            skip("strace may not trace");
            false
        }
        Err(_) => {
            skip("strace is not installed");
            false
        }
    }
}

/// Whether every thread of a process is traced (or, `wanted` false, none).
fn traced(pid: u32, wanted: bool) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return !wanted;
    };
    tasks.filter_map(Result::ok).all(|task| {
        std::fs::read_to_string(task.path().join("status")).is_ok_and(|text| {
            text.lines()
                .any(|l| l.starts_with("TracerPid:") && l.ends_with("\t0") != wanted)
        })
    })
}

/// An strace that injects faults into a running process for as long as it lives.
pub struct Fault {
    strace: Child,
    pid: u32,
}

impl Fault {
    /// `args` name the calls and what is to happen to them. `None` where a running process may not be traced: the test is
    /// skipped.
    pub fn into(pid: u32, args: &[&str]) -> Option<Fault> {
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-o", "/dev/null"])
            .args(args)
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ended = false;
        eventually("every thread is traced", || {
            ended = strace.try_wait().unwrap().is_some();
            ended || traced(pid, true)
        });
        if !ended {
            return Some(Fault { strace, pid });
        }
        let said = strace.wait_with_output().unwrap().stderr;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("not permitted"), "{said}");
        skip("strace may not attach");
        None
    }

    /// The fault is over.
    pub fn mend(mut self) {
        signal(self.strace.id(), "-TERM");
        self.strace.wait().unwrap();
        eventually("nothing is traced", || traced(self.pid, false));
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let _gone = self.strace.kill();
        let _gone = self.strace.wait();
    }
}
