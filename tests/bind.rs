//! Binding: who may, as what, from where, how many, and what happens to a connection that does not.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::Read;
use std::time::Duration;

use common::{PASSWORD, Peer, World, eventually, message};
use serde_json::json;
use smsconnect::smpp::{Bind, CommandId, CommandStatus, Npi, Ton, begin, finish};
use smsconnect::tools::smsc::SmscOptions;

const FAIL: CommandStatus = CommandStatus::ESME_RBINDFAIL;

fn try_bind(world: &World, id: CommandId, system_id: &str, password: &str) -> CommandStatus {
    Peer::connect(world.addr()).bind(id, system_id, password)
}

#[test]
fn each_kind_of_bind_works_and_may_do_what_its_kind_may() {
    let world = World::new();
    world.account("acme", "100", json!({}));
    let mut tx = world.bound_as(CommandId::BIND_TRANSMITTER, "acme");
    let mut rx = world.bound_as(CommandId::BIND_RECEIVER, "acme");
    let mut trx = world.bound_as(CommandId::BIND_TRANSCEIVER, "acme");
    assert_eq!(tx.submit(&message(b"a")).status, CommandStatus::ESME_ROK);
    assert_eq!(trx.submit(&message(b"b")).status, CommandStatus::ESME_ROK);
    assert_eq!(
        rx.submit(&message(b"c")).status,
        CommandStatus::ESME_RINVBNDSTS,
        "a receiver may not submit"
    );
    // Both receipts go to sessions that receive; the transmitter gets none, which the enquire_link after them shows.
    eventually(
        "both receipts were taken by the receiver or the transceiver",
        || {
            for peer in [&mut rx, &mut trx] {
                peer.stream
                    .set_read_timeout(Some(Duration::from_millis(5)))
                    .unwrap();
                if let Some(got) = peer.try_read().filter(|g| g.id == CommandId::DELIVER_SM) {
                    peer.answer(&got, CommandStatus::ESME_ROK);
                }
            }
            world.admin("stats.show", json!({})).unwrap()["delivered"] == 2
        },
    );
    tx.header(CommandId::ENQUIRE_LINK);
    assert_eq!(tx.read().unwrap().id, CommandId::ENQUIRE_LINK_RESP);
    let sessions = world.admin("session.list", json!({"account": "acme"})).unwrap();
    let mut kinds: Vec<&str> = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["bind"].as_str().unwrap())
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["rx", "trx", "tx"]);
}

#[test]
fn every_refusal_looks_the_same() {
    let world = World::new();
    world.account("acme", "0", json!({}));
    world.account("gone", "0", json!({}));
    world.account("far", "0", json!({"allow_ips": ["192.0.2.0/24"]}));
    world.account("txonly", "0", json!({"bind": "transmitter"}));
    world
        .admin("account.suspend", json!({"account": "gone"}))
        .unwrap();
    let trx = CommandId::BIND_TRANSCEIVER;
    assert_eq!(try_bind(&world, trx, "acme", "wrong"), FAIL);
    assert_eq!(try_bind(&world, trx, "acme", ""), FAIL);
    assert_eq!(try_bind(&world, trx, "nobody", PASSWORD), FAIL);
    assert_eq!(try_bind(&world, trx, "", ""), FAIL);
    assert_eq!(try_bind(&world, trx, "gone", PASSWORD), FAIL);
    assert_eq!(try_bind(&world, trx, "far", PASSWORD), FAIL);
    assert_eq!(try_bind(&world, trx, "txonly", PASSWORD), FAIL);
    assert_eq!(
        try_bind(&world, CommandId::BIND_TRANSMITTER, "txonly", PASSWORD),
        CommandStatus::ESME_ROK
    );
    // A correct password that has been seen once is remembered; a wrong one after it is still wrong.
    assert_eq!(try_bind(&world, trx, "acme", PASSWORD), CommandStatus::ESME_ROK);
    assert_eq!(try_bind(&world, trx, "acme", "secret2"), FAIL);
    world.admin("account.resume", json!({"account": "gone"})).unwrap();
    assert_eq!(try_bind(&world, trx, "gone", PASSWORD), CommandStatus::ESME_ROK);
}

#[test]
fn an_allow_list_admits_its_networks_and_fails_closed() {
    let world = World::new();
    world.account("acme", "0", json!({"allow_ips": ["127.0.0.0/8"]}));
    let trx = CommandId::BIND_TRANSCEIVER;
    assert_eq!(try_bind(&world, trx, "acme", PASSWORD), CommandStatus::ESME_ROK);
    world
        .admin(
            "account.update",
            json!({"account": "acme", "allow_ips": ["10.0.0.1"]}),
        )
        .unwrap();
    assert_eq!(try_bind(&world, trx, "acme", PASSWORD), FAIL);
    let refused = world.admin(
        "account.update",
        json!({"account": "acme", "allow_ips": ["10.0.0.300"]}),
    );
    assert_eq!(refused.unwrap_err(), "E_ARG");
    assert_eq!(
        try_bind(&world, trx, "acme", PASSWORD),
        FAIL,
        "the old list stands"
    );
}

#[test]
fn max_binds_counts_sessions_and_frees_them() {
    let world = World::new();
    world.account("acme", "0", json!({"max_binds": 2}));
    let trx = CommandId::BIND_TRANSCEIVER;
    let first = world.bound("acme");
    let _second = world.bound("acme");
    assert_eq!(try_bind(&world, trx, "acme", PASSWORD), FAIL);
    drop(first);
    eventually("a place is free again", || {
        try_bind(&world, trx, "acme", PASSWORD) == CommandStatus::ESME_ROK
    });
}

#[test]
fn a_connection_that_does_not_bind_is_closed() {
    let world = World::with(SmscOptions::default(), |c| c.customer.bind_timeout_ms = 100);
    let mut silent = Peer::connect(world.addr());
    assert!(silent.read().is_none(), "closed by the bind timer");
    // Half a bind is no bind.
    let mut slow = Peer::connect(world.addr());
    slow.raw(&[0, 0, 0, 40, 0, 0]);
    assert!(slow.read().is_none());
}

#[test]
fn a_half_written_pdu_closes_the_connection_and_nobody_elses() {
    let world = World::with(SmscOptions::default(), |c| c.customer.pdu_timeout_ms = 100);
    world.account("acme", "10", json!({}));
    let mut good = world.bound("acme");
    let mut slow = world.bound("acme");
    slow.raw(&[0, 0, 0, 60, 0, 0, 0, 4, 0, 0]);
    assert!(slow.read().is_none(), "closed by the PDU timer");
    assert_eq!(good.submit(&message(b"x")).status, CommandStatus::ESME_ROK);
}

#[test]
fn before_the_bind_everything_else_is_refused() {
    let world = World::new();
    world.account("acme", "10", json!({}));
    let mut peer = Peer::connect(world.addr());
    assert_eq!(peer.submit(&message(b"x")).status, CommandStatus::ESME_RINVBNDSTS);
    // enquire_link is allowed in any state (SMPP 3.4 §2.3).
    peer.header(CommandId::ENQUIRE_LINK);
    assert_eq!(peer.read().unwrap().id, CommandId::ENQUIRE_LINK_RESP);
    assert_eq!(
        peer.bind(CommandId::BIND_TRANSCEIVER, "acme", PASSWORD),
        CommandStatus::ESME_ROK
    );
    assert_eq!(
        peer.bind(CommandId::BIND_TRANSCEIVER, "acme", PASSWORD),
        CommandStatus::ESME_RALYBND,
        "a second bind on a session"
    );
    assert_eq!(peer.submit(&message(b"x")).status, CommandStatus::ESME_ROK);
}

#[test]
fn the_bind_response_says_3_4_to_those_who_know_tlvs() {
    let world = World::new();
    world.account("acme", "0", json!({}));
    for (version, tlv) in [(0x34u8, true), (0x50, true), (0x33, false), (0x00, false)] {
        let mut peer = Peer::connect(world.addr());
        let mut out = Vec::new();
        let start = begin(&mut out, CommandId::BIND_TRANSCEIVER, CommandStatus::ESME_ROK, 1);
        Bind {
            system_id: b"acme",
            password: PASSWORD.as_bytes(),
            system_type: b"",
            interface_version: version,
            addr_ton: Ton(0),
            addr_npi: Npi(0),
            address_range: b"",
        }
        .encode_body(&mut out);
        finish(&mut out, start);
        peer.raw(&out);
        let got = peer.read().unwrap();
        assert_eq!(got.status, CommandStatus::ESME_ROK);
        let mut body = b"SMSCONNECT\0".to_vec();
        if tlv {
            body.extend([0x02, 0x10, 0, 1, version.min(0x50)]);
        }
        assert_eq!(got.body, body, "interface_version {version:#x}");
    }
}

#[test]
fn unbind_is_answered_and_the_connection_closed() {
    let world = World::new();
    world.account("acme", "10", json!({}));
    let mut peer = world.bound("acme");
    // Pipelined behind a submit: both are answered.
    peer.send(&message(b"x"));
    peer.header(CommandId::UNBIND);
    let mut ids = Vec::new();
    while let Some(got) = peer.read() {
        if got.id != CommandId::DELIVER_SM {
            ids.push(got.id);
        }
    }
    assert_eq!(
        ids,
        [CommandId::SUBMIT_SM_RESP, CommandId::UNBIND_RESP],
        "first the response that is owed"
    );
    eventually("the session is off the list", || {
        world.admin("session.list", json!({})).unwrap()["items"]
            .as_array()
            .unwrap()
            .is_empty()
    });
}

#[test]
fn an_idle_session_is_asked_and_then_closed() {
    let world = World::with(SmscOptions::default(), |c| {
        c.customer.enquire_link_ms = 100;
        c.customer.idle_timeout_ms = 400;
    });
    world.account("acme", "10", json!({}));
    let mut peer = world.bound("acme");
    let got = peer.read().unwrap();
    assert_eq!(got.id, CommandId::ENQUIRE_LINK);
    // One that answers stays; one that does not is closed.
    peer.answer_header(&got);
    let again = peer.read().unwrap();
    assert_eq!(again.id, CommandId::ENQUIRE_LINK);
    let mut rest = Vec::new();
    peer.stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn suspending_and_kicking_end_sessions() {
    let world = World::new();
    world.account("acme", "10", json!({}));
    let mut one = world.bound("acme");
    world
        .admin("account.suspend", json!({"account": "acme"}))
        .unwrap();
    assert_eq!(one.read().unwrap().id, CommandId::UNBIND);
    world.admin("account.resume", json!({"account": "acme"})).unwrap();
    let mut two = world.bound("acme");
    let list = world.admin("session.list", json!({})).unwrap();
    let id = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["session"].as_u64().unwrap())
        .max();
    world.admin("session.kick", json!({"session": id})).unwrap();
    assert_eq!(two.read().unwrap().id, CommandId::UNBIND);
}

#[test]
fn many_wrong_passwords_do_not_keep_a_good_customer_out() {
    let world = World::new();
    world.account("acme", "10", json!({}));
    world.account("busy", "10", json!({}));
    // A verified secret is remembered, so a good customer does not queue behind a storm of bad ones.
    drop(world.bound("acme"));
    let addr = world.addr();
    let storm: Vec<_> = (0..8)
        .map(|i| {
            std::thread::spawn(move || {
                Peer::connect(addr).bind(CommandId::BIND_TRANSCEIVER, "busy", &format!("bad{i}"))
            })
        })
        .collect();
    let mut good = world.bound("acme");
    assert_eq!(good.submit(&message(b"x")).status, CommandStatus::ESME_ROK);
    for thread in storm {
        assert_ne!(thread.join().unwrap(), CommandStatus::ESME_ROK);
    }
}
