//! Peers that send too much, too slowly or at the wrong time, and never read: they harm nobody but themselves.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use common::{PASSWORD, Peer, World, eventually, message};
use serde_json::json;
use smsconnect::config::Config;
use smsconnect::smpp::{
    self, Address, Bind, CommandId, CommandStatus, Npi, RegisteredDelivery, ShortMessage, Ton,
};
use smsconnect::tools::smsc::SmscOptions;

const ROK: CommandStatus = CommandStatus::ESME_ROK;
const FULL: CommandStatus = CommandStatus::ESME_RMSGQFUL;

/// The memory of the process is that of all its tests: the one that measures it runs alone.
static TURN: RwLock<()> = RwLock::new(());

fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

fn world(change: impl FnOnce(&mut Config)) -> World {
    let world = World::with(SmscOptions::default(), change);
    world.account("acme", "10000", json!({}));
    world
}

/// A message without a receipt.
fn quiet(text: &[u8]) -> ShortMessage<'_> {
    ShortMessage {
        registered_delivery: RegisteredDelivery(0),
        ..message(text)
    }
}

fn header(id: CommandId, sequence: u32) -> Vec<u8> {
    let mut out = Vec::new();
    smpp::put_header_only(&mut out, id, ROK, sequence);
    out
}

/// Submits with the sequence numbers 1 to `n`; every fifth goes to a number that is none.
fn submits(n: u32) -> Vec<u8> {
    let good = quiet(b"x");
    let bad = ShortMessage {
        dest: Address {
            addr: b"nonsense",
            ..good.dest
        },
        ..good
    };
    let mut out = Vec::new();
    for sequence in 1..=n {
        let sm = if sequence.is_multiple_of(5) { &bad } else { &good };
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, sequence, sm);
    }
    out
}

/// The answers to `n` submits by sequence number, each with an id of its own if it was taken.
fn answers(p: &mut Peer, n: u32) -> BTreeMap<u32, CommandStatus> {
    let (mut all, mut ids) = (BTreeMap::new(), HashSet::new());
    for _ in 0..n {
        let got = p.read().unwrap();
        assert_eq!(got.id, CommandId::SUBMIT_SM_RESP);
        assert!(all.insert(got.sequence, got.status).is_none(), "answered twice");
        if got.status == ROK {
            assert!(ids.insert(got.message_id()), "an id for two");
        }
    }
    all
}

/// The session answers, and nothing else is on its way.
fn lives(p: &mut Peer) {
    p.header(CommandId::ENQUIRE_LINK);
    assert_eq!(p.read().unwrap().id, CommandId::ENQUIRE_LINK_RESP);
}

#[test]
fn a_thousand_submits_in_one_write_are_answered_as_those_that_come_octet_by_octet() {
    let _turn = beside_others();
    let world = world(|c| c.customer.window_max = 2_000);
    let wanted = |n: u32| -> BTreeMap<u32, CommandStatus> {
        let status = |s: u32| {
            if s.is_multiple_of(5) {
                CommandStatus::ESME_RINVDSTADR
            } else {
                ROK
            }
        };
        (1..=n).map(|s| (s, status(s))).collect()
    };
    let mut p = world.bound("acme");
    p.raw(&submits(1_000));
    assert_eq!(answers(&mut p, 1_000), wanted(1_000));
    p.sequence = 1_000;
    lives(&mut p);
    let mut p = world.bound("acme");
    for octet in submits(50).chunks(1) {
        p.raw(octet);
    }
    assert_eq!(answers(&mut p, 50), wanted(50));
    p.sequence = 50;
    lives(&mut p);
    assert_eq!(world.stat("accepted"), 840);
    world.reconciles();
}

#[test]
fn a_connection_that_never_binds_is_closed_and_costs_others_nothing() {
    let _turn = beside_others();
    let world = world(|c| c.customer.bind_timeout_ms = 1_500);
    let mut p = world.bound("acme");
    let mut idle: Vec<Peer> = (0..20).map(|_| Peer::connect(world.addr())).collect();
    // One says half a word, one talks without ever binding.
    idle[0].raw(&header(CommandId::ENQUIRE_LINK, 1)[..9]);
    lives(&mut idle[1]);
    for _ in 0..20 {
        assert_eq!(p.submit(&quiet(b"x")).status, ROK);
    }
    for peer in &mut idle {
        assert!(peer.read().is_none(), "closed");
    }
    lives(&mut p);
    world.bound("acme");
}

#[test]
fn of_one_address_only_so_many_connections_may_wait_for_their_bind() {
    let _turn = beside_others();
    let world = world(|c| {
        c.limits.unbound_per_ip_max = 3;
        c.customer.bind_timeout_ms = 60_000;
    });
    let mut waiting: Vec<Peer> = (0..3).map(|_| Peer::connect(world.addr())).collect();
    waiting.iter_mut().for_each(lives);
    assert!(Peer::connect(world.addr()).read().is_none(), "closed at once");
    waiting.iter_mut().for_each(lives);
    let status = waiting[0].bind(CommandId::BIND_TRANSCEIVER, "acme", PASSWORD);
    assert_eq!(status, ROK);
    let mut another = Peer::connect(world.addr());
    lives(&mut another);
    assert!(Peer::connect(world.addr()).read().is_none(), "full again");
    // Another address is not concerned.
    lives(&mut from([127, 0, 0, 2], world.addr()));
    // One that leaves makes room too.
    drop(another);
    eventually("there is room again", || {
        let mut peer = Peer::connect(world.addr());
        peer.raw(&header(CommandId::ENQUIRE_LINK, 1));
        peer.read().is_some()
    });
    assert_eq!(waiting[0].submit(&quiet(b"x")).status, ROK);
}

/// Far more than sockets hold.
const ENOUGH: usize = 512 * 1024 * 1024;

/// Resident memory of this process in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn a_peer_that_never_reads_is_not_read_from_and_others_are_served() {
    let _alone = TURN.write().unwrap_or_else(PoisonError::into_inner);
    let world = world(|c| c.customer.pdu_timeout_ms = 60_000);
    world.account("other", "1000", json!({}));
    let mut other = world.bound("other");
    let mut p = world.bound("acme");
    for peer in [&mut other, &mut p] {
        assert_eq!(peer.submit(&quiet(b"x")).status, ROK);
    }
    let before = resident_kib();
    let flood = header(CommandId::ENQUIRE_LINK, 7).repeat(4_096);
    p.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut sent = 0;
    while sent < ENOUGH {
        // What was written of a PDU is followed by the rest of it.
        match p.stream.write(&flood[sent % 16..]) {
            Ok(n) => sent += n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(sent < ENOUGH, "it is read from although it never reads");
    for _ in 0..20 {
        assert_eq!(other.submit(&quiet(b"x")).status, ROK);
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 100 * 1024, "{grown} KiB more after {sent} octets");
    // Once it reads, everything is answered: the octets were held back, not lost.
    let mut chunk = vec![0u8; 64 * 1024];
    let mut read = 0;
    while read < sent / 16 * 16 {
        let n = p.stream.read(&mut chunk).unwrap();
        assert!(n > 0, "closed after {read} of {sent}");
        read += n;
    }
    assert_eq!(read, sent / 16 * 16);
    assert_eq!(other.submit(&quiet(b"x")).status, ROK);
}

/// Whether the connection is closed after one more unbind; what comes is thrown away.
fn closed_at_unbind(peer: &mut Peer) -> bool {
    peer.sequence += 1;
    if peer
        .stream
        .write_all(&header(CommandId::UNBIND, peer.sequence))
        .is_err()
    {
        return true;
    }
    let mut chunk = [0u8; 4096];
    loop {
        match peer.stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => return true,
        }
    }
}

#[test]
fn unbinding_again_and_again_keeps_no_connection_open() {
    let _turn = beside_others();
    // No timer but that of the unbind may end it.
    let world = world(|c| c.customer.bind_timeout_ms = 60_000);
    for mut peer in [world.bound("acme"), Peer::connect(world.addr())] {
        peer.header(CommandId::UNBIND);
        assert_eq!(peer.read().unwrap().id, CommandId::UNBIND_RESP);
        let short = Some(Duration::from_millis(10));
        peer.stream.set_read_timeout(short).unwrap();
        eventually("it is closed", || closed_at_unbind(&mut peer));
    }
    eventually("the session is gone", || world.stat("sessions") == 0);
    world.bound("acme");
}

/// A connection from another address of this host.
fn from(ip: [u8; 4], to: SocketAddr) -> Peer {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Peer::over(socket.into())
}

#[test]
fn who_guesses_learns_nothing_waits_longer_and_keeps_nobody_out() {
    let _turn = beside_others();
    let world = world(|_| {});
    // Its secret is remembered from now on.
    drop(world.bound("acme"));
    let trx = CommandId::BIND_TRANSCEIVER;
    let guess = |ip: [u8; 4], system_id: &str| {
        let mut peer = from(ip, world.addr());
        let status = peer.bind(trx, system_id, "guess");
        assert!(peer.read().is_none(), "closed after it");
        status
    };
    let (wrong, unknown) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    // More than eight, so that what waits below waits for longer than a busy machine may take.
    for _ in 0..9 {
        assert_eq!(guess(wrong, "acme"), CommandStatus::ESME_RBINDFAIL);
        assert_eq!(guess(unknown, "nobody"), CommandStatus::ESME_RBINDFAIL);
    }
    for ip in [wrong, unknown] {
        // A further guess waits for its answer; the bind of one that is known does not wait for it.
        let mut waits = from(ip, world.addr());
        let mut out = Vec::new();
        let start = smpp::begin(&mut out, trx, ROK, 1);
        Bind {
            system_id: b"acme",
            password: b"guess",
            system_type: b"",
            interface_version: 0x34,
            addr_ton: Ton(0),
            addr_npi: Npi(0),
            address_range: b"",
        }
        .encode_body(&mut out);
        smpp::finish(&mut out, start);
        waits.raw(&out);
        let mut good = from(ip, world.addr());
        assert_eq!(good.bind(trx, "acme", PASSWORD), ROK);
        waits.stream.set_nonblocking(true).unwrap();
        assert!(waits.try_read().is_none(), "the guess is still waiting");
        waits.stream.set_nonblocking(false).unwrap();
        assert_eq!(waits.read().unwrap().status, CommandStatus::ESME_RBINDFAIL);
        assert_eq!(good.submit(&quiet(b"x")).status, ROK);
    }
}

#[test]
fn a_flood_beyond_the_window_is_told_so_and_the_session_lives() {
    let _turn = beside_others();
    let world = world(|_| {});
    world.account("small", "10000", json!({"window": 10}));
    let mut p = world.bound("small");
    let mut out = Vec::new();
    for sequence in 1..=3_000 {
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, sequence, &quiet(b"x"));
    }
    p.raw(&out);
    let all = answers(&mut p, 3_000);
    assert!(all.keys().copied().eq(1..=3_000));
    let n = |status: CommandStatus| all.values().filter(|s| **s == status).count();
    let (taken, refused) = (n(ROK), n(FULL));
    assert_eq!(taken + refused, 3_000);
    assert!(taken >= 10 && refused > 0, "{taken} taken, {refused} refused");
    assert!(all.values().take(10).all(|s| *s == ROK), "what fits is taken");
    p.sequence = 3_000;
    lives(&mut p);
    for _ in 0..20 {
        assert_eq!(p.submit(&quiet(b"x")).status, ROK);
    }
    assert_eq!(world.stat("accepted"), taken as u64 + 20);
    world.reconciles();
}

#[test]
fn a_sequence_number_that_is_used_again_gets_an_answer_for_each() {
    let _turn = beside_others();
    let world = world(|_| {});
    let mut p = world.bound("acme");
    let mut out = Vec::new();
    for _ in 0..3 {
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, 42, &quiet(b"x"));
    }
    p.raw(&out);
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let got = p.read().unwrap();
        assert_eq!(
            (got.id, got.sequence, got.status),
            (CommandId::SUBMIT_SM_RESP, 42, ROK)
        );
        ids.insert(got.message_id());
    }
    assert_eq!(ids.len(), 3);
    p.sequence = 42;
    lives(&mut p);
    assert_eq!(world.stat("accepted"), 3);
}

#[test]
fn customers_that_reconnect_all_the_time_leave_nothing_behind() {
    let _turn = beside_others();
    let world = world(|_| {});
    world.account("steady", "10000", json!({}));
    let mut steady = world.bound("steady");
    let addr = world.addr();
    let storm: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..25 {
                    let mut p = Peer::connect(addr);
                    assert_eq!(p.bind(CommandId::BIND_TRANSCEIVER, "acme", PASSWORD), ROK);
                    // Gone with an answer on its way, and without a word.
                    p.send(&quiet(b"x"));
                }
            })
        })
        .collect();
    while !storm.iter().all(std::thread::JoinHandle::is_finished) {
        assert_eq!(steady.submit(&quiet(b"x")).status, ROK);
    }
    for thread in storm {
        thread.join().unwrap();
    }
    eventually("only the steady one is left", || world.stat("sessions") == 1);
    world.reconciles();
}

#[test]
fn a_flood_is_read_slowly_answered_whole_and_disturbs_no_link_check() {
    let _turn = beside_others();
    let (world, _script, mut smsc, mut p) = common::linked(|c| c.customer.window_max = 5);
    let taking = std::thread::spawn(move || {
        let mut taken = 0;
        while let Some(got) = smsc.read() {
            if got.id == CommandId::SUBMIT_SM {
                taken += 1;
                smsc.accept(&got, &format!("f{taken}"));
            }
        }
    });
    let total = 4_000;
    let mut out = Vec::new();
    for _ in 0..total {
        p.sequence += 1;
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, p.sequence, &message(b"flood"));
    }
    p.sequence += 1;
    smpp::put_header_only(
        &mut out,
        CommandId::ENQUIRE_LINK,
        CommandStatus::ESME_ROK,
        p.sequence,
    );
    let start = std::time::Instant::now();
    p.raw(&out);
    let (mut accepted, mut refused) = (0, 0);
    loop {
        let got = p.read().unwrap();
        match (got.id, got.status) {
            (CommandId::SUBMIT_SM_RESP, CommandStatus::ESME_ROK) => accepted += 1,
            (CommandId::SUBMIT_SM_RESP, CommandStatus::ESME_RMSGQFUL) => refused += 1,
            (CommandId::ENQUIRE_LINK_RESP, _) => break,
            other => panic!("{other:?}"),
        }
    }
    while accepted + refused < total {
        let got = p.expect(CommandId::SUBMIT_SM_RESP);
        accepted += i32::from(got.status == CommandStatus::ESME_ROK);
        refused += i32::from(got.status == CommandStatus::ESME_RMSGQFUL);
    }
    assert_eq!(accepted + refused, total);
    assert!(refused > 500, "{accepted} {refused} in {:?}", start.elapsed());
    assert!(accepted > 5, "{accepted} {refused}");
    drop(p);
    drop(world);
    taking.join().unwrap();
}

#[test]
fn what_waits_for_an_upstream_has_a_bound() {
    let _turn = beside_others();
    let (world, _script) = common::scripted(|c| c.limits.waiting_max = 5);
    let mut p = world.bound("acme");
    let mut accepted = 0;
    loop {
        let got = p.submit(&message(b"waits"));
        if got.status == CommandStatus::ESME_RMSGQFUL {
            break;
        }
        assert_eq!(got.status, CommandStatus::ESME_ROK);
        accepted += 1;
        assert!(accepted < 50, "no bound");
    }
    assert!(accepted >= 5);
    eventually("they are counted", || world.stat("waiting") == accepted);
    world.reconciles();
}
