//! What the tests over real sockets share: a gateway in this process, a simulator SMSC, a scripted SMPP peer, an admin client.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests; each test binary uses a part"
)]

pub mod process;
pub mod rows;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smsconnect::config::{self, Config, Secret};
use smsconnect::daemon::Running;
use smsconnect::money::Money;
use smsconnect::smpp::{
    self, Address, Bind, CommandId, CommandStatus, EsmClass, Npi, RegisteredDelivery, ShortMessage, Ton,
};
use smsconnect::tools::smsc::{Smsc, SmscOptions};

pub const PASSWORD: &str = "secret1";
pub const WAIT: Duration = Duration::from_secs(20);

/// A config on loopback with one upstream and one price of 0.80.
pub fn config(dir: &Path, smsc: SocketAddr) -> Config {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut c = Config {
        dir: dir.into(),
        ..Config::default()
    };
    c.customer.listen = vec![loopback];
    c.numbering.country_code = "254".into();
    c.store.path = dir.join("gateway.db");
    c.store.free_min_bytes = 0;
    c.admin.socket = dir.join("admin.sock");
    c.metrics.listen = Some(loopback);
    c.log.level = "warn".into();
    c.upstream = vec![upstream("sim", smsc)];
    c.route = vec![config::Route {
        name: "kenya".into(),
        prefix: vec!["254".into()],
        to: vec!["sim".into()],
        ..Default::default()
    }];
    c.tariff = vec![tariff("standard", config::ChargeOn::Submitted)];
    c
}

pub fn upstream(name: &str, address: SocketAddr) -> config::Upstream {
    config::Upstream {
        name: name.into(),
        address: vec![address.to_string()],
        password: Some(Secret("x".into())),
        binds: 1,
        reconnect_min_ms: 20,
        reconnect_max_ms: 100,
        retry_min_ms: 20,
        retry_max_ms: 100,
        ..config::Upstream::default()
    }
}

pub fn tariff(name: &str, charge_on: config::ChargeOn) -> config::Tariff {
    config::Tariff {
        name: name.into(),
        currency: "KES".into(),
        charge_on,
        price: vec![config::Price {
            prefix: "254".into(),
            price: Money(800_000),
            ..config::Price::default()
        }],
        ..config::Tariff::default()
    }
}

/// A gateway, its simulator and a runtime for both.
pub struct World {
    pub runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
    pub config: Config,
    pub smsc: Smsc,
    pub running: Option<Running>,
}

impl World {
    pub fn new() -> World {
        World::with(SmscOptions::default(), |_| {})
    }

    pub fn with(options: SmscOptions, change: impl FnOnce(&mut Config)) -> World {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = SmscOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            record: true,
            ..options
        };
        let smsc = runtime.block_on(Smsc::start(options)).unwrap();
        let mut config = config(dir.path(), smsc.addr());
        change(&mut config);
        let mut world = World {
            runtime,
            dir,
            config,
            smsc,
            running: None,
        };
        world.start();
        world
    }

    pub fn start(&mut self) {
        self.running = Some(
            self.runtime
                .block_on(async { smsconnect::daemon::start(&self.config) })
                .unwrap(),
        );
    }

    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop());
            // Whatever the test was about: what is left is whole.
            if !std::thread::panicking() {
                self.whole();
            }
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.running.as_ref().unwrap().customer[0]
    }

    pub fn admin(&self, method: &str, params: Value) -> Result<Value, String> {
        admin(&self.config.admin.socket, method, params)
    }

    /// An account with money.
    pub fn account(&self, name: &str, balance: &str, extra: Value) {
        let mut account = json!({"name": name, "system_id": name, "password": PASSWORD});
        account
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().cloned().unwrap_or_default());
        self.admin("account.create", account).unwrap();
        if balance != "0" {
            let topup = json!({"account": name, "amount": balance, "provider": "bank", "receipt": format!("T-{name}")});
            self.admin("wallet.topup", topup).unwrap();
        }
    }

    pub fn bound(&self, system_id: &str) -> Peer {
        self.bound_as(CommandId::BIND_TRANSCEIVER, system_id)
    }

    pub fn bound_as(&self, id: CommandId, system_id: &str) -> Peer {
        let mut peer = Peer::connect(self.addr());
        assert_eq!(peer.bind(id, system_id, PASSWORD), CommandStatus::ESME_ROK);
        peer
    }

    pub fn wallet(&self, account: &str) -> (String, String) {
        let w = self.admin("wallet.show", json!({"account": account})).unwrap();
        (
            w["balance"].as_str().unwrap().into(),
            w["held"].as_str().unwrap().into(),
        )
    }

    /// The ledger, the wallets and the messages agree, and the store is whole.
    pub fn reconciles(&self) {
        let check = self.admin("wallet.check", json!({})).unwrap();
        assert_eq!(check["ok"], true, "{check}");
        self.whole();
    }

    fn whole(&self) {
        let report = smsconnect::store::sqlite::verify(&self.config.store.path).unwrap();
        assert_eq!(report.faults, Vec::<String>::new());
    }

    /// A counter of `stats.show`.
    pub fn stat(&self, name: &str) -> u64 {
        self.admin("stats.show", json!({})).unwrap()[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// What `message.show` says of an id.
    pub fn message(&self, id: &str) -> Value {
        self.admin("message.show", json!({"id": id})).unwrap()
    }

    /// Waits for a state of a message.
    pub fn state(&self, id: &str, state: &str) {
        eventually(&format!("{id} is {state}"), || self.message(id)["state"] == state);
    }

    pub fn up(&self, n: u64) {
        eventually("the upstream is bound", || self.smsc.stats().binds >= n);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Says that a test, or a part of it, cannot be done on this machine. Where everything must be (CI sets
/// `SMSCONNECT_NO_SKIP=1`) that is a failure.
pub fn skip(reason: &str) {
    let must = std::env::var("SMSCONNECT_NO_SKIP").is_ok_and(|v| v == "1");
    assert!(!must, "not to be skipped here: {reason}");
    eprintln!("skipped: {reason}");
}

/// Waits for a condition that other threads bring about.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < WAIT, "not within {WAIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A gateway whose SMSC is a script, and a customer with money.
pub fn scripted(change: impl FnOnce(&mut Config)) -> (World, Script) {
    let script = Script::new();
    let addr = script.addr();
    let world = World::with(SmscOptions::default(), |c| {
        c.upstream[0].address = vec![addr.to_string()];
        change(c);
    });
    world.account("acme", "1000", json!({}));
    (world, script)
}

/// The same with the SMSC bound, and the customer.
pub fn linked(change: impl FnOnce(&mut Config)) -> (World, Script, Peer, Peer) {
    both_bound(scripted(change))
}

pub fn both_bound((world, script): (World, Script)) -> (World, Script, Peer, Peer) {
    let smsc = script.bound();
    let customer = world.bound("acme");
    (world, script, smsc, customer)
}

/// Nothing comes but answers to enquire_link. Two of them: what the gateway writes in the same turn stands behind the first.
pub fn silent(peer: &mut Peer) {
    for _ in 0..2 {
        peer.header(CommandId::ENQUIRE_LINK);
        let mut got = peer.read().unwrap();
        // Answers to what this peer has delivered itself may stand before.
        while got.id == CommandId::DELIVER_SM_RESP {
            got = peer.read().unwrap();
        }
        assert_eq!(
            got.id,
            CommandId::ENQUIRE_LINK_RESP,
            "nothing else was due: {got:?}"
        );
    }
}

/// Waits for a balance and what is held of it.
pub fn wallet_is(world: &World, account: &str, balance: &str, held: &str) {
    let wanted = (balance.to_string(), held.to_string());
    eventually(&format!("the wallet is {wanted:?}"), || {
        world.wallet(account) == wanted
    });
}

pub fn admin(socket: &PathBuf, method: &str, params: Value) -> Result<Value, String> {
    let mut stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    // Whoever waits for a daemon asks one that is just ending, too.
    writeln!(stream, "{request}").map_err(|e| e.to_string())?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(|e| e.to_string())?;
    let answer: Value = serde_json::from_str(&line).map_err(|e| e.to_string())?;
    match answer.get("error") {
        Some(e) => Err(e["data"]["code"].as_str().unwrap_or("").to_string()),
        None => Ok(answer["result"].clone()),
    }
}

/// One PDU as it came.
#[derive(Debug, Clone)]
pub struct Got {
    pub id: CommandId,
    pub status: CommandStatus,
    pub sequence: u32,
    pub body: Vec<u8>,
}

impl Got {
    /// The message_id of a response.
    pub fn message_id(&self) -> String {
        String::from_utf8(
            smpp::MessageIdResp::decode(&self.body)
                .unwrap()
                .message_id
                .to_vec(),
        )
        .unwrap()
    }

    pub fn sm(&self) -> ShortMessage<'_> {
        ShortMessage::decode(&self.body).unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.sm().short_message).into_owned()
    }
}

/// A scripted SMPP peer.
pub struct Peer {
    pub stream: TcpStream,
    buf: Vec<u8>,
    aside: VecDeque<Got>,
    pub sequence: u32,
}

impl Peer {
    pub fn connect(addr: SocketAddr) -> Peer {
        Peer::over(TcpStream::connect(addr).unwrap())
    }

    pub fn over(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer {
            stream,
            buf: Vec::new(),
            aside: VecDeque::new(),
            sequence: 0,
        }
    }

    pub fn raw(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).unwrap();
    }

    /// The next PDU; `None` when the other side has closed.
    pub fn read(&mut self) -> Option<Got> {
        if let Some(got) = self.aside.pop_front() {
            return Some(got);
        }
        self.receive()
            .unwrap_or_else(|| panic!("nothing came within {WAIT:?}"))
    }

    /// The next PDU that is no delivery: receipts of the account may come at any time.
    pub fn reply(&mut self) -> Option<Got> {
        loop {
            let got = self.read()?;
            if got.id != CommandId::DELIVER_SM {
                return Some(got);
            }
        }
    }

    /// The next PDU if one comes within the stream's read timeout.
    pub fn try_read(&mut self) -> Option<Got> {
        if let Some(got) = self.aside.pop_front() {
            return Some(got);
        }
        self.receive().flatten()
    }

    /// `None`: nothing within the read timeout; `Some(None)`: closed.
    fn receive(&mut self) -> Option<Option<Got>> {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, WouldBlock};
        loop {
            if let Some(pdu) = smpp::cut(&self.buf, 100_000).unwrap() {
                let got = Got {
                    id: pdu.header.command_id,
                    status: pdu.header.command_status,
                    sequence: pdu.header.sequence,
                    body: pdu.body.to_vec(),
                };
                let n = pdu.bytes.len();
                self.buf.drain(..n);
                return Some(Some(got));
            }
            let mut chunk = [0u8; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Some(None),
                Ok(n) => self.buf.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ConnectionReset | BrokenPipe) => return Some(None),
                Err(e) if matches!(e.kind(), TimedOut | WouldBlock) => return None,
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// The next PDU of one kind; others are put aside for later reads.
    pub fn expect(&mut self, id: CommandId) -> Got {
        if let Some(at) = self.aside.iter().position(|g| g.id == id) {
            return self.aside.remove(at).unwrap();
        }
        loop {
            let got = self
                .receive()
                .unwrap_or_else(|| panic!("no {id} within {WAIT:?}"))
                .unwrap_or_else(|| panic!("closed, wanted {id}"));
            if got.id == id {
                return got;
            }
            self.aside.push_back(got);
        }
    }

    pub fn bind(&mut self, id: CommandId, system_id: &str, password: &str) -> CommandStatus {
        self.sequence += 1;
        let mut out = Vec::new();
        let start = smpp::begin(&mut out, id, CommandStatus::ESME_ROK, self.sequence);
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
        self.raw(&out);
        self.read().unwrap().status
    }

    pub fn send(&mut self, sm: &ShortMessage<'_>) -> u32 {
        self.sequence += 1;
        let mut out = Vec::new();
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, self.sequence, sm);
        self.raw(&out);
        self.sequence
    }

    /// Submits and waits for the response; deliveries that come between are kept for later.
    pub fn submit(&mut self, sm: &ShortMessage<'_>) -> Got {
        let sequence = self.send(sm);
        let got = self.expect(CommandId::SUBMIT_SM_RESP);
        assert_eq!(got.sequence, sequence);
        got
    }

    pub fn answer(&mut self, got: &Got, status: CommandStatus) {
        let mut out = Vec::new();
        smpp::put_message_id_resp(
            &mut out,
            smsconnect::session::response_to(got.id),
            status,
            got.sequence,
            b"",
        );
        self.raw(&out);
    }

    /// A response without a body.
    pub fn answer_header(&mut self, got: &Got) {
        let mut out = Vec::new();
        smpp::put_header_only(
            &mut out,
            smsconnect::session::response_to(got.id),
            CommandStatus::ESME_ROK,
            got.sequence,
        );
        self.raw(&out);
    }

    /// The next deliver_sm, answered ESME_ROK.
    pub fn delivery(&mut self) -> Got {
        let got = self.expect(CommandId::DELIVER_SM);
        self.answer(&got, CommandStatus::ESME_ROK);
        got
    }

    pub fn header(&mut self, id: CommandId) {
        self.sequence += 1;
        let mut out = Vec::new();
        smpp::put_header_only(&mut out, id, CommandStatus::ESME_ROK, self.sequence);
        self.raw(&out);
    }
}

/// An SMSC whose every octet the test decides.
pub struct Script(TcpListener);

impl Script {
    pub fn new() -> Script {
        Script(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection of the gateway.
    pub fn accept(&self) -> TcpStream {
        self.0.accept().unwrap().0
    }

    /// The next connection of the gateway, its bind accepted.
    pub fn bound(&self) -> Peer {
        let mut peer = Peer::over(self.accept());
        let bind = peer.read().unwrap();
        peer.respond(&bind, CommandStatus::ESME_ROK, b"script\0");
        peer
    }
}

impl Peer {
    /// Any response to a request.
    pub fn respond(&mut self, got: &Got, status: CommandStatus, body: &[u8]) {
        let mut out = Vec::new();
        let start = smpp::begin(
            &mut out,
            smsconnect::session::response_to(got.id),
            status,
            got.sequence,
        );
        out.extend_from_slice(body);
        smpp::finish(&mut out, start);
        self.raw(&out);
    }

    /// Any request.
    pub fn request(&mut self, id: CommandId, body: &[u8]) {
        self.sequence += 1;
        let mut out = Vec::new();
        let start = smpp::begin(&mut out, id, CommandStatus::ESME_ROK, self.sequence);
        out.extend_from_slice(body);
        smpp::finish(&mut out, start);
        self.raw(&out);
    }

    /// As an SMSC: accepts a submit under this id.
    pub fn accept(&mut self, got: &Got, id: &str) {
        self.respond(got, CommandStatus::ESME_ROK, format!("{id}\0").as_bytes());
    }

    /// As an SMSC: delivers; the response is left to be read.
    pub fn deliver(&mut self, sm: &ShortMessage<'_>) -> u32 {
        self.sequence += 1;
        let mut out = Vec::new();
        smpp::put_short_message(&mut out, CommandId::DELIVER_SM, self.sequence, sm);
        self.raw(&out);
        self.sequence
    }

    /// As an SMSC: the receipt of a message for `254712345678`, text form only.
    pub fn receipt(&mut self, id: &str, stat: &str, err: &str) -> u32 {
        let text = receipt_text(id, stat, err);
        self.deliver(&receipt(&text))
    }
}

pub fn receipt_text(id: &str, stat: &str, err: &str) -> String {
    format!(
        "id:{id} sub:001 dlvrd:001 submit date:2601010000 done date:2601010001 stat:{stat} err:{err} text:x"
    )
}

/// A deliver_sm with a receipt's text, from the number of [`message`].
pub fn receipt(text: &str) -> ShortMessage<'_> {
    ShortMessage {
        source: Address {
            ton: Ton(1),
            npi: Npi(1),
            addr: b"254712345678",
        },
        dest: Address {
            ton: Ton(5),
            npi: Npi(0),
            addr: b"ACME",
        },
        esm_class: EsmClass(0x04),
        short_message: text.as_bytes(),
        ..ShortMessage::default()
    }
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

/// An ordinary message with a receipt asked for.
pub fn message(text: &[u8]) -> ShortMessage<'_> {
    ShortMessage {
        source: Address {
            ton: Ton(5),
            npi: Npi(0),
            addr: b"ACME",
        },
        dest: Address {
            ton: Ton(1),
            npi: Npi(1),
            addr: b"254712345678",
        },
        registered_delivery: RegisteredDelivery(1),
        short_message: text,
        ..ShortMessage::default()
    }
}
