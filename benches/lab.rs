//! What the measuring programs share: a gateway and a simulator as processes of their own on loopback and on the disk of the
//! build folder, with durability full; the load generator; and what the system tells of them.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "each program uses a part; measuring tools read clocks, and stop where something is wrong"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smsconnect::smpp::{self, Bind, CommandId, CommandStatus, Npi, Ton};

pub const SMSCONNECT: &str = env!("CARGO_BIN_EXE_smsconnect");

/// What a world is made of.
#[derive(Clone)]
pub struct Setup {
    pub upstream_binds: u32,
    pub upstream_window: u32,
    /// More lines of `[customer]`, `[limits]` and so on, whole sections.
    pub sections: String,
    /// More lines of `[customer]`.
    pub customer: String,
    /// More lines of `[store]`.
    pub store: String,
    /// More lines of the upstream.
    pub upstream: String,
    /// More words for the simulator.
    pub smsc: Vec<String>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            upstream_binds: 4,
            upstream_window: 500,
            sections: String::new(),
            customer: String::new(),
            store: String::new(),
            upstream: String::new(),
            smsc: Vec::new(),
        }
    }
}

/// A child that is stopped at the end.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub smsc_port: u16,
    pub setup: Setup,
    pub serve: Process,
    pub smsc: Process,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub fn world(setup: &Setup) -> World {
    // Beside the build, on a real disk: /tmp is often memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (port, smsc_port) = (free_port(), free_port());
    let config = format!(
        "[customer]\nlisten = [\"127.0.0.1:{port}\"]\ndeliver_window = 500\nwindow_max = 1000\n{}\n[numbering]\ncountry_code = \"254\"\n\
         [store]\npath = \"gateway.db\"\n{}\n[admin]\nsocket = \"admin.sock\"\n[metrics]\nlisten = \"\"\n[log]\nlevel = \"warn\"\n{}\n\
         [[upstream]]\nname = \"sim\"\naddress = \"127.0.0.1:{smsc_port}\"\npassword = \"x\"\nbinds = {}\nwindow = {}\n\
         reconnect_min_ms = 50\n{}\n[[route]]\nname = \"all\"\nto = [\"sim\"]\n[[tariff]]\nname = \"standard\"\ncurrency = \"KES\"\n\
         [[tariff.price]]\nprefix = \"254\"\nprice = \"0.80\"\n",
        setup.customer,
        setup.store,
        setup.sections,
        setup.upstream_binds,
        setup.upstream_window,
        setup.upstream
    );
    fs::write(dir.path().join("c.toml"), config).unwrap();
    let smsc = simulator(smsc_port, &setup.smsc);
    let serve = serve(dir.path());
    let world = World {
        dir,
        port,
        smsc_port,
        setup: setup.clone(),
        serve,
        smsc,
    };
    world.up();
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

pub fn simulator(port: u16, more: &[String]) -> Process {
    let smsc = Command::new(SMSCONNECT)
        .args(["smsc", "--listen", &format!("127.0.0.1:{port}")])
        .args(more)
        .stdout(Stdio::null())
        .spawn();
    Process(smsc.unwrap())
}

pub fn serve(dir: &Path) -> Process {
    let serve = Command::new(SMSCONNECT)
        .args(["serve", "--config"])
        .arg(dir.join("c.toml"))
        .spawn();
    Process(serve.unwrap())
}

impl World {
    /// Waits until all upstream binds are up.
    pub fn up(&self) {
        let start = Instant::now();
        while !self
            .try_ctl("upstream.list", json!({}))
            .is_some_and(|l| l["items"][0]["bound"] == self.setup.upstream_binds)
        {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "the gateway does not come up"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.ctl("stats.show", json!({}))[name].as_u64().unwrap()
    }

    /// Ends the gateway in good order.
    pub fn stop(&mut self) {
        let pid = self.serve.0.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.serve.0.wait().unwrap();
    }

    pub fn start(&mut self) {
        self.serve = serve(self.dir.path());
    }

    /// The load generator, with more words; its report.
    pub fn load(&self, words: &[&str]) -> Value {
        let out = self.loading(words).wait_with_output().unwrap();
        serde_json::from_slice(&out.stdout).unwrap()
    }

    pub fn loading(&self, words: &[&str]) -> Child {
        self.loading_at(self.port, words)
    }

    pub fn loading_at(&self, port: u16, words: &[&str]) -> Child {
        Command::new(SMSCONNECT)
            .args(["load", "--system-id", "load", "--password", "secret1", "--json"])
            .args(["--connect", &format!("127.0.0.1:{port}")])
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn try_ctl(&self, method: &str, params: Value) -> Option<Value> {
        call(&self.dir.path().join("admin.sock"), method, params)
    }

    pub fn ctl(&self, method: &str, params: Value) -> Value {
        self.try_ctl(method, params)
            .unwrap_or_else(|| panic!("{method} failed"))
    }
}

/// CPU microseconds of each thread of a process, summed by name.
pub fn threads(pid: u32) -> BTreeMap<String, u64> {
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
pub fn process_cpu(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    cpu_of(&stat)
}

/// User and system time of a stat line, microseconds. Clock ticks are a hundredth of a second on Linux.
fn cpu_of(stat: &str) -> u64 {
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}

pub fn rss_kib(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// Resident memory of the process itself, without the pages of files.
pub fn own_kib(pid: u32) -> u64 {
    memory(pid, "RssAnon:")
}

fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One block written and synced, a hundred times: (median, 99th percentile) in milliseconds.
pub fn fdatasync(dir: &Path) -> (f64, f64) {
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

/// Connects and asks to bind.
pub fn begin(addr: SocketAddr, system_id: &str, password: &str) -> TcpStream {
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
pub fn answered(stream: &mut TcpStream) {
    let mut head = [0u8; 16];
    std::io::Read::read_exact(stream, &mut head).unwrap();
    assert_eq!(head[8..12], [0; 4], "the bind was refused");
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    std::io::Read::read_exact(stream, &mut vec![0; length - 16]).unwrap();
}

pub fn connect(addr: SocketAddr, system_id: &str, password: &str) -> TcpStream {
    let mut stream = begin(addr, system_id, password);
    answered(&mut stream);
    stream
}

pub fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or(0.0)
}

pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// The machine's load, printed with every table: others may be at work.
pub fn machine() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{cores} cores, load average {}",
        load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
    );
}

/// One request over the admin socket; `None` if it failed.
pub fn call(socket: &Path, method: &str, params: Value) -> Option<Value> {
    use std::io::{BufRead, BufReader};
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
