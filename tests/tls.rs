//! TLS on both sides: customers with and without certificates, SMSCs known by an authority or a fingerprint, and nothing in the
//! clear where TLS was asked for.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Got, PASSWORD, Peer, Script, WAIT, World, eventually, message, receipt, receipt_text};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use serde_json::{Value, json};
use smsconnect::config::{self, Config, Secret};
use smsconnect::smpp::{self, Bind, CommandId, CommandStatus, Npi, RegisteredDelivery, ShortMessage, Ton};
use smsconnect::tools::smsc::SmscOptions;
use tokio_util::sync::CancellationToken;

const ROK: CommandStatus = CommandStatus::ESME_ROK;
static BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
/// The password of the upstream, at most eight characters.
const HUSH: &str = "hush-7vQ";

// Certificates.

/// Somebody who vouches for others.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Authority {
            params,
            key,
            certificate,
        }
    }

    /// A certificate for a host name or an address.
    fn vouches_for(&self, host: &str) -> Identity {
        let mut params = CertificateParams::new(vec![host.to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, host);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Identity { certificate, key }
    }

    fn write(&self, path: &Path) {
        std::fs::write(path, self.certificate.pem()).unwrap();
    }
}

impl Identity {
    fn write(&self, dir: &Path) {
        std::fs::write(dir.join("cert.pem"), self.certificate.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), self.key.serialize_pem()).unwrap();
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.certificate.der().to_vec())
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    /// SHA-256 in small hexadecimal letters.
    fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.der());
        digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }
}

// Peers.

trait Octets: Read + Write + Send {}
impl<T: Read + Write + Send> Octets for T {}

/// A scripted SMPP peer over TLS, of either side.
struct Sealed {
    stream: Box<dyn Octets>,
    buf: Vec<u8>,
    aside: VecDeque<Got>,
    sequence: u32,
}

impl Sealed {
    fn over(stream: impl Octets + 'static) -> Sealed {
        Sealed {
            stream: Box::new(stream),
            buf: Vec::new(),
            aside: VecDeque::new(),
            sequence: 0,
        }
    }

    /// Whether it could be written; a peer that is gone is noticed by the next read.
    fn raw(&mut self, octets: &[u8]) -> bool {
        self.stream.write_all(octets).is_ok() && self.stream.flush().is_ok()
    }

    /// `None`: closed.
    fn receive(&mut self) -> Option<Got> {
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
                return Some(got);
            }
            let mut chunk = [0u8; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.buf.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                    panic!("nothing came within {WAIT:?}")
                }
                // Closed without a word of TLS, or with an alert.
                Err(_) => return None,
            }
        }
    }

    fn read(&mut self) -> Option<Got> {
        match self.aside.pop_front() {
            Some(got) => Some(got),
            None => self.receive(),
        }
    }

    fn expect(&mut self, id: CommandId) -> Got {
        if let Some(at) = self.aside.iter().position(|g| g.id == id) {
            return self.aside.remove(at).unwrap();
        }
        loop {
            let got = self.receive().unwrap_or_else(|| panic!("closed, wanted {id}"));
            if got.id == id {
                return got;
            }
            self.aside.push_back(got);
        }
    }

    /// The status of a bind; `None`: closed instead.
    fn bind(&mut self, system_id: &str, password: &str) -> Option<CommandStatus> {
        self.sequence += 1;
        self.raw(&bind_pdu(self.sequence, system_id, password));
        self.read().map(|got| got.status)
    }

    fn submit(&mut self, sm: &ShortMessage<'_>) -> Got {
        self.sequence += 1;
        let mut out = Vec::new();
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, self.sequence, sm);
        assert!(self.raw(&out));
        self.expect(CommandId::SUBMIT_SM_RESP)
    }

    fn deliver(&mut self, sm: &ShortMessage<'_>) {
        self.sequence += 1;
        let mut out = Vec::new();
        smpp::put_short_message(&mut out, CommandId::DELIVER_SM, self.sequence, sm);
        assert!(self.raw(&out));
    }

    /// A response whose body is an id.
    fn respond(&mut self, got: &Got, id: &str) {
        let mut out = Vec::new();
        let resp = smsconnect::session::response_to(got.id);
        smpp::put_message_id_resp(&mut out, resp, ROK, got.sequence, id.as_bytes());
        assert!(self.raw(&out));
    }

    fn lives(&mut self) {
        self.sequence += 1;
        let mut out = Vec::new();
        smpp::put_header_only(&mut out, CommandId::ENQUIRE_LINK, ROK, self.sequence);
        assert!(self.raw(&out));
        self.expect(CommandId::ENQUIRE_LINK_RESP);
    }
}

fn bind_pdu(sequence: u32, system_id: &str, password: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let start = smpp::begin(&mut out, CommandId::BIND_TRANSCEIVER, ROK, sequence);
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
    out
}

/// What a client knows and shows.
fn client(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Identity>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(authority.certificate.der().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(vec![own.der()], own.key()).unwrap(),
    };
    // Every connection is shown the certificate of its own day.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn tcp(addr: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(addr).unwrap();
    tcp.set_read_timeout(Some(WAIT)).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// A connection whose handshake is done.
fn shaken(addr: SocketAddr, config: &Arc<ClientConfig>) -> (ClientConnection, TcpStream) {
    let mut tcp = tcp(addr);
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut tls = ClientConnection::new(Arc::clone(config), name).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).unwrap();
    }
    (tls, tcp)
}

fn connect(addr: SocketAddr, config: &Arc<ClientConfig>) -> Sealed {
    let (tls, tcp) = shaken(addr, config);
    Sealed::over(StreamOwned::new(tls, tcp))
}

/// The certificate that a new connection is shown.
fn shown(addr: SocketAddr, config: &Arc<ClientConfig>) -> Vec<u8> {
    let (tls, _tcp) = shaken(addr, config);
    tls.peer_certificates().unwrap()[0].to_vec()
}

// Worlds.

/// A gateway with a TLS port beside the plain one.
fn sealed(identity: &Identity, change: impl FnOnce(&mut Config)) -> (World, SocketAddr) {
    let world = World::with(SmscOptions::default(), |c| {
        identity.write(&c.dir);
        c.customer.tls_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        c.customer.tls_cert = Some(c.dir.join("cert.pem"));
        c.customer.tls_key = Some(c.dir.join("key.pem"));
        change(c);
    });
    world.account("acme", "10000", json!({}));
    let addr = world.running.as_ref().unwrap().customer[1];
    (world, addr)
}

// Customers.

#[test]
fn a_customer_binds_submits_and_gets_its_receipt_over_tls_1_3_and_1_2() {
    let authority = Authority::new("ours");
    let (world, addr) = sealed(&authority.vouches_for("127.0.0.1"), |_| {});
    for version in BOTH {
        let config = client(&authority, &[version], None);
        let (tls, tcp) = shaken(addr, &config);
        assert_eq!(tls.protocol_version(), Some(version.version));
        let mut p = Sealed::over(StreamOwned::new(tls, tcp));
        assert_eq!(p.bind("acme", PASSWORD), Some(ROK));
        let id = p.submit(&message(b"hello")).message_id();
        let told = p.expect(CommandId::DELIVER_SM);
        p.respond(&told, "");
        assert!(told.text().starts_with(&format!("id:{id} ")), "{}", told.text());
        assert!(told.text().contains("stat:DELIVRD"), "{}", told.text());
        world.state(&id, "DELIVRD");
        p.lives();
    }
    world.reconciles();
}

#[test]
fn a_client_without_tls_gets_nothing_on_the_tls_port_and_harms_nobody() {
    let authority = Authority::new("ours");
    let (world, addr) = sealed(&authority.vouches_for("127.0.0.1"), |_| {});
    let config = client(&authority, &BOTH, None);
    let mut p = connect(addr, &config);
    assert_eq!(p.bind("acme", PASSWORD), Some(ROK));
    let mut plain = tcp(addr);
    plain.write_all(&bind_pdu(1, "acme", PASSWORD)).unwrap();
    let mut got = Vec::new();
    let end = plain.read_to_end(&mut got);
    assert!(
        !matches!(&end, Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)),
        "closed"
    );
    // At most a TLS alert: nothing of SMPP.
    assert!(got.is_empty() || got[0] == 0x15, "{got:?}");
    p.lives();
    assert_eq!(connect(addr, &config).bind("acme", PASSWORD), Some(ROK));
    world.bound("acme");
}

#[test]
fn a_client_that_stalls_in_the_handshake_is_closed_in_time() {
    let authority = Authority::new("ours");
    let (_world, addr) = sealed(&authority.vouches_for("127.0.0.1"), |c| {
        c.customer.bind_timeout_ms = 1_000;
    });
    // The first octets of a ClientHello, or none, or a handshake without a bind.
    for first in [&[0x16, 3, 1, 2, 0, 1][..], &[]] {
        let mut stalled = tcp(addr);
        stalled.write_all(first).unwrap();
        let mut got = Vec::new();
        let end = stalled.read_to_end(&mut got);
        assert!(
            !matches!(&end, Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)),
            "closed"
        );
        assert!(got.is_empty());
    }
    let config = client(&authority, &BOTH, None);
    assert!(connect(addr, &config).read().is_none());
}

#[test]
fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let authority = Authority::new("ours");
    let [first, second] = [(); 2].map(|()| authority.vouches_for("127.0.0.1"));
    let (world, addr) = sealed(&first, |_| {});
    let config = client(&authority, &BOTH, None);
    let mut old = connect(addr, &config);
    assert_eq!(old.bind("acme", PASSWORD), Some(ROK));
    assert_eq!(shown(addr, &config), first.der().to_vec());
    second.write(&world.config.dir);
    eventually("new connections are shown the new certificate", || {
        shown(addr, &config) == second.der().to_vec()
    });
    old.lives();
    assert_eq!(old.submit(&message(b"x")).status, ROK);
    std::fs::write(world.config.dir.join("cert.pem"), "no certificate").unwrap();
    // The files are looked at every two seconds.
    for _ in 0..25 {
        assert_eq!(shown(addr, &config), second.der().to_vec());
        std::thread::sleep(Duration::from_millis(100));
    }
    // One that the key does not belong to is as bad.
    std::fs::write(world.config.dir.join("cert.pem"), first.certificate.pem()).unwrap();
    for _ in 0..25 {
        assert_eq!(shown(addr, &config), second.der().to_vec());
        std::thread::sleep(Duration::from_millis(100));
    }
    first.write(&world.config.dir);
    eventually("a mended certificate is taken up", || {
        shown(addr, &config) == first.der().to_vec()
    });
    old.lives();
    assert_eq!(connect(addr, &config).bind("acme", PASSWORD), Some(ROK));
}

#[test]
fn an_account_with_certificates_binds_with_one_of_them_only() {
    let (ours, clients, strangers) = (
        Authority::new("ours"),
        Authority::new("clients"),
        Authority::new("strangers"),
    );
    let (world, addr) = sealed(&ours.vouches_for("127.0.0.1"), |c| {
        clients.write(&c.dir.join("clients.pem"));
        c.customer.tls_client_ca = Some(c.dir.join("clients.pem"));
    });
    let [own, others] = [(); 2].map(|()| clients.vouches_for("client.example"));
    let unknown = strangers.vouches_for("client.example");
    let spelled: Vec<String> = own
        .fingerprint()
        .to_uppercase()
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).into_owned())
        .collect();
    world.account("pinned", "1000", json!({"certificates": [spelled.join(":")]}));
    for version in BOTH {
        let with = |own: Option<&Identity>| client(&ours, &[version], own);
        let bind = |config: Arc<ClientConfig>, name: &str| connect(addr, &config).bind(name, PASSWORD);
        let refused = Some(CommandStatus::ESME_RBINDFAIL);
        assert_eq!(bind(with(Some(&own)), "pinned"), Some(ROK));
        assert_eq!(bind(with(None), "pinned"), refused);
        assert_eq!(bind(with(Some(&others)), "pinned"), refused);
        // Who asks for nothing takes anybody that the authority knows, and anybody without a certificate.
        assert_eq!(bind(with(None), "acme"), Some(ROK));
        assert_eq!(bind(with(Some(&others)), "acme"), Some(ROK));
    }
    // One that the authority does not know: TLS ends it, in 1.3 once the client thinks that it is done.
    let config = client(&ours, &[&TLS13], Some(&unknown));
    assert_eq!(connect(addr, &config).bind("acme", PASSWORD), None);
    // Nor without TLS.
    let mut plain = Peer::connect(world.addr());
    let status = plain.bind(CommandId::BIND_TRANSCEIVER, "pinned", PASSWORD);
    assert_eq!(status, CommandStatus::ESME_RBINDFAIL);
    world.bound("acme");
}

#[test]
fn two_thousand_submits_in_one_write_are_all_answered_over_tls() {
    let authority = Authority::new("ours");
    let (world, addr) = sealed(&authority.vouches_for("127.0.0.1"), |c| {
        c.customer.window_max = 5_000;
    });
    let mut p = connect(addr, &client(&authority, &BOTH, None));
    assert_eq!(p.bind("acme", PASSWORD), Some(ROK));
    let sm = ShortMessage {
        registered_delivery: RegisteredDelivery(0),
        ..message(b"one of two thousand")
    };
    let mut out = Vec::new();
    for n in 0..2_000 {
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, 1_000 + n, &sm);
    }
    assert!(p.raw(&out));
    let mut sequences: Vec<u32> = (0..2_000)
        .map(|_| {
            let got = p.expect(CommandId::SUBMIT_SM_RESP);
            assert_eq!(got.status, ROK);
            got.sequence
        })
        .collect();
    sequences.sort_unstable();
    assert!(sequences.iter().copied().eq(1_000..3_000));
    p.lives();
    assert_eq!(world.stat("accepted"), 2_000);
    world.reconciles();
}

#[test]
fn octets_after_the_end_of_tls_stop_nobody() {
    let authority = Authority::new("ours");
    let (world, addr) = sealed(&authority.vouches_for("127.0.0.1"), |_| {});
    let config = client(&authority, &BOTH, None);
    let mut kept = Vec::new();
    // One for every thread of the gateway, and one more.
    for _ in 0..3 {
        let (mut tls, mut tcp) = shaken(addr, &config);
        tls.send_close_notify();
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        out.resize(out.len() + 32 * 1024, 0x17);
        // It may be closed while this is written.
        let _written = tcp.write_all(&out);
        kept.push(tcp);
    }
    let mut other = tcp(world.addr());
    let mut enquire = Vec::new();
    smpp::put_header_only(&mut enquire, CommandId::ENQUIRE_LINK, ROK, 1);
    other.write_all(&enquire).unwrap();
    let mut answer = [0u8; 16];
    let lives = other.read_exact(&mut answer).is_ok();
    if !lives {
        // It could not be stopped either.
        std::mem::forget(world);
        panic!("the gateway's threads are all caught");
    }
}

// Upstreams.

/// What a listener has read, octet by octet as it came.
type Seen = Arc<Mutex<Vec<u8>>>;

struct Tapped {
    tcp: TcpStream,
    seen: Seen,
}

impl Read for Tapped {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.tcp.read(buf)?;
        self.seen.lock().unwrap().extend_from_slice(&buf[..n]);
        Ok(n)
    }
}

impl Write for Tapped {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.tcp.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

/// An SMSC behind TLS.
struct SealedScript {
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

impl SealedScript {
    fn new(identity: &Identity) -> SealedScript {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.der()], identity.key())
            .unwrap();
        SealedScript {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            config: Arc::new(config),
        }
    }

    fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection of the gateway, if it likes our certificate, and what it wrote.
    fn accept(&self) -> (io::Result<Sealed>, Seen) {
        let (tcp, _) = self.listener.accept().unwrap();
        tcp.set_read_timeout(Some(WAIT)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let seen = Seen::default();
        let mut tapped = Tapped {
            tcp,
            seen: Arc::clone(&seen),
        };
        let mut tls = ServerConnection::new(Arc::clone(&self.config)).unwrap();
        while tls.is_handshaking() {
            match tls.complete_io(&mut tapped) {
                Ok((0, 0)) => return (Err(ErrorKind::UnexpectedEof.into()), seen),
                Ok(_) => {}
                Err(e) => return (Err(e), seen),
            }
        }
        (Ok(Sealed::over(StreamOwned::new(tls, tapped))), seen)
    }
}

fn contains(octets: &[u8], word: &str) -> bool {
    octets.windows(word.len()).any(|w| w == word.as_bytes())
}

fn towards(addr: SocketAddr, change: impl FnOnce(&mut config::Upstream, &Path)) -> World {
    let world = World::with(SmscOptions::default(), |c| {
        let dir = c.dir.clone();
        let u = &mut c.upstream[0];
        u.address = vec![addr.to_string()];
        u.password = Some(Secret(HUSH.into()));
        u.tls = true;
        // Long enough to be seen down.
        u.reconnect_min_ms = 300;
        u.reconnect_max_ms = 300;
        change(u, &dir);
    });
    world.account("acme", "1000", json!({}));
    world
}

fn upstream(world: &World) -> Value {
    world.admin("upstream.list", json!({})).unwrap()["items"][0].clone()
}

/// The link comes up, a message goes over it and its receipt comes back; the password was sealed.
fn works(identity: &Identity, change: impl FnOnce(&mut config::Upstream, &Path)) {
    let script = SealedScript::new(identity);
    let world = towards(script.addr(), change);
    let (smsc, seen) = script.accept();
    let mut smsc = smsc.unwrap();
    let bind = smsc.read().unwrap();
    assert_eq!(bind.id, CommandId::BIND_TRANSCEIVER);
    assert!(contains(&bind.body, HUSH));
    assert!(!contains(&seen.lock().unwrap(), HUSH), "it is sealed");
    smsc.respond(&bind, "script");
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"hello")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.text(), "hello");
    smsc.respond(&got, "s1");
    smsc.deliver(&receipt(&receipt_text("s1", "DELIVRD", "000")));
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    assert!(p.delivery().text().starts_with(&format!("id:{id} ")));
    world.state(&id, "DELIVRD");
    assert_eq!(upstream(&world)["bound"], 1);
}

/// The gateway comes again and again, never binds, never says the password, and says why.
fn never_binds(identity: &Identity, change: impl FnOnce(&mut config::Upstream, &Path)) {
    let script = SealedScript::new(identity);
    let world = towards(script.addr(), change);
    let tries: Arc<Mutex<Vec<(bool, Seen)>>> = Arc::default();
    let kept = Arc::clone(&tries);
    // It ends with the process.
    std::thread::spawn(move || {
        loop {
            let (smsc, seen) = script.accept();
            kept.lock().unwrap().push((smsc.is_ok(), seen));
        }
    });
    eventually("it has tried three times", || tries.lock().unwrap().len() >= 3);
    eventually("it says why", || {
        let why = upstream(&world)["binds"][0]["why"].to_string();
        why.contains("certificate")
    });
    assert_eq!(upstream(&world)["bound"], 0);
    for (shaken, seen) in tries.lock().unwrap().iter() {
        assert!(!shaken, "it liked the certificate");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.first(), Some(&0x16), "a TLS handshake");
        assert!(!contains(&seen, HUSH), "a plain password");
    }
}

#[test]
fn an_upstream_that_an_authority_vouches_for_is_bound() {
    let authority = Authority::new("theirs");
    works(&authority.vouches_for("127.0.0.1"), |u, dir| {
        authority.write(&dir.join("ca.pem"));
        u.tls_ca = Some(dir.join("ca.pem"));
    });
}

#[test]
fn an_upstream_may_have_another_name_in_its_certificate() {
    let authority = Authority::new("theirs");
    works(&authority.vouches_for("smsc.example"), |u, dir| {
        authority.write(&dir.join("ca.pem"));
        u.tls_ca = Some(dir.join("ca.pem"));
        u.tls_name = "smsc.example".into();
    });
}

#[test]
fn an_upstream_with_the_right_fingerprint_is_bound_whoever_vouches_for_it() {
    let identity = Authority::new("theirs").vouches_for("smsc.example");
    let plain = identity.fingerprint();
    let capitals: Vec<String> = plain
        .to_uppercase()
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).into_owned())
        .collect();
    for spelled in [plain, capitals.join(":")] {
        works(&identity, |u, _| u.tls_fingerprint = spelled);
    }
}

#[test]
fn an_upstream_with_another_fingerprint_is_never_bound() {
    let authority = Authority::new("theirs");
    let [one, other] = [(); 2].map(|()| authority.vouches_for("127.0.0.1"));
    never_binds(&one, |u, _| u.tls_fingerprint = other.fingerprint());
}

#[test]
fn an_upstream_has_to_be_the_pinned_one_even_if_an_authority_vouches_for_it() {
    let authority = Authority::new("theirs");
    let [one, other] = [(); 2].map(|()| authority.vouches_for("127.0.0.1"));
    never_binds(&one, |u, dir| {
        authority.write(&dir.join("ca.pem"));
        u.tls_ca = Some(dir.join("ca.pem"));
        u.tls_fingerprint = other.fingerprint();
    });
}

#[test]
fn an_upstream_with_another_name_is_never_bound() {
    let authority = Authority::new("theirs");
    never_binds(&authority.vouches_for("smsc.example"), |u, dir| {
        authority.write(&dir.join("ca.pem"));
        u.tls_ca = Some(dir.join("ca.pem"));
    });
}

#[test]
fn an_upstream_that_an_unknown_authority_vouches_for_is_never_bound() {
    let known = Authority::new("known");
    never_binds(&Authority::new("unknown").vouches_for("127.0.0.1"), |u, dir| {
        known.write(&dir.join("ca.pem"));
        u.tls_ca = Some(dir.join("ca.pem"));
    });
}

#[test]
fn tls_never_falls_back_to_plain_text() {
    let authority = Authority::new("theirs");
    let script = Script::new();
    let world = towards(script.addr(), |u, dir| {
        authority.write(&dir.join("ca.pem"));
        u.tls_ca = Some(dir.join("ca.pem"));
    });
    for _ in 0..3 {
        let mut stream = script.accept();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let mut chunk = [0u8; 4096];
        let n = stream.read(&mut chunk).unwrap();
        let mut got = chunk[..n].to_vec();
        assert_eq!(got.first(), Some(&0x16), "a TLS handshake");
        // As an SMSC without TLS answers octets that are no SMPP to it.
        let mut nack = Vec::new();
        smpp::put_header_only(
            &mut nack,
            CommandId::GENERIC_NACK,
            CommandStatus::ESME_RINVCMDLEN,
            0,
        );
        stream.write_all(&nack).unwrap();
        let end = stream.read_to_end(&mut got);
        assert!(
            !matches!(&end, Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)),
            "closed by us"
        );
        assert!(!contains(&got, HUSH), "a plain password");
        assert!(!contains(&got, "smsconnect"), "a plain system_id");
    }
    assert_eq!(upstream(&world)["bound"], 0);
}

#[test]
fn the_load_generator_binds_through_tls_and_trusts_nobody_else() {
    use smsconnect::tools::load::{LoadError, LoadOptions, Tls, run};
    let authority = Authority::new("Authority");
    let (world, addr) = sealed(&authority.vouches_for("localhost"), |_| {});
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let load = |name: &str| {
        let options = LoadOptions {
            connect: vec![addr],
            system_id: "acme".into(),
            password: PASSWORD.into(),
            tls: Some(Tls::new(&ca, name)?),
            binds: 2,
            window: 10,
            count: Some(200),
            ..LoadOptions::default()
        };
        world
            .runtime
            .block_on(run(options, None, CancellationToken::new()))
    };
    assert!(
        matches!(load("localhost"), Err(LoadError::Tls(_))),
        "no such file"
    );
    authority.write(&ca);
    let report = load("localhost").unwrap();
    assert!(report.exactly_once && report.accepted == 200, "{report:?}");
    assert!(
        load("another.example").is_err(),
        "its certificate is for another name"
    );
    Authority::new("Authority").write(&ca);
    assert!(load("localhost").is_err(), "another authority of the same name");
    world.reconciles();
}
