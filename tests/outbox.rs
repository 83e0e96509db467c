//! What waits for a customer: beyond the memory, through restarts, past binds that refuse or never answer, and not for ever.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Got, Peer, Script, World, eventually, message, silent};
use serde_json::json;
use smsconnect::config::{self, Config};
use smsconnect::smpp::{CommandId, CommandStatus, EsmClass, ShortMessage};

const ROK: CommandStatus = CommandStatus::ESME_ROK;

fn scripted(change: impl FnOnce(&mut Config)) -> (World, Script, Peer) {
    let (world, script) = common::scripted(|c| {
        c.customer.deliver_retry_min_ms = 50;
        c.customer.deliver_retry_max_ms = 200;
        change(c);
    });
    let smsc = script.bound();
    (world, script, smsc)
}

fn transmitter(world: &World) -> Peer {
    world.bound_as(CommandId::BIND_TRANSMITTER, "acme")
}

fn receiver(world: &World) -> Peer {
    world.bound_as(CommandId::BIND_RECEIVER, "acme")
}

/// A message and, on record at the gateway, its receipt; our id.
fn ended(tx: &mut Peer, smsc: &mut Peer, smsc_id: &str) -> String {
    let id = tx.submit(&message(b"x")).message_id();
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, smsc_id);
    smsc.receipt(smsc_id, "DELIVRD", "000");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    id
}

/// So many of them, from a bind that takes no receipts; their ids in order.
fn many_ended(world: &World, smsc: &mut Peer, n: usize) -> Vec<String> {
    let mut tx = transmitter(world);
    (0..n).map(|i| ended(&mut tx, smsc, &format!("s{i}"))).collect()
}

/// The id a receipt speaks of.
fn id_of(got: &Got) -> String {
    let text = got.text();
    let id = text.strip_prefix("id:").and_then(|t| t.split(' ').next());
    id.unwrap().to_string()
}

fn waiting(world: &World) -> u64 {
    world.admin("account.show", json!({"account": "acme"})).unwrap()["waiting_deliveries"]
        .as_u64()
        .unwrap()
}

fn waiting_is(world: &World, n: u64) {
    eventually(&format!("{n} deliveries wait"), || waiting(world) == n);
}

#[test]
fn refused_and_stored_receipts_all_arrive_after_a_restart() {
    let (mut world, _script, mut smsc) = scripted(|c| c.limits.outbox_max = 4);
    let mut ids = many_ended(&world, &mut smsc, 12);
    waiting_is(&world, 12);
    drop(smsc);
    world.stop();
    world.start();
    assert_eq!(waiting(&world), 12);
    let mut rx = receiver(&world);
    for _ in 0..3 {
        let got = rx.expect(CommandId::DELIVER_SM);
        rx.answer(&got, CommandStatus::ESME_RX_R_APPN);
    }
    let mut taken: Vec<String> = (0..12).map(|_| id_of(&rx.delivery())).collect();
    ids.sort();
    taken.sort();
    assert_eq!(taken, ids);
    waiting_is(&world, 0);
    silent(&mut rx);
    drop(rx);
    world.stop();
    world.start();
    assert_eq!(waiting(&world), 0, "what was taken is not on record any more");
    silent(&mut receiver(&world));
}

#[test]
fn a_bind_that_never_answers_keeps_nothing_from_the_other() {
    let (world, _script, mut smsc) = scripted(|c| {
        c.customer.deliver_window = 1;
        c.customer.response_timeout_ms = 600_000;
    });
    let mut tx = transmitter(&world);
    let mut mute = receiver(&world);
    let first = ended(&mut tx, &mut smsc, "s0");
    assert_eq!(id_of(&mute.expect(CommandId::DELIVER_SM)), first);
    let mut rx = receiver(&world);
    for n in 1..=10 {
        let id = ended(&mut tx, &mut smsc, &format!("s{n}"));
        assert_eq!(id_of(&rx.delivery()), id);
    }
    waiting_is(&world, 1);
    // And what it had goes to the other as soon as it is gone.
    drop(mute);
    assert_eq!(id_of(&rx.delivery()), first);
    waiting_is(&world, 0);
}

#[test]
fn silence_is_no_refusal_and_parks_nothing() {
    let (world, _script, mut smsc) = scripted(|c| {
        c.customer.response_timeout_ms = 200;
        c.customer.deliver_attempts_max = 2;
    });
    let mut mute = receiver(&world);
    let mut ids = many_ended(&world, &mut smsc, 3);
    let mut offers: BTreeMap<String, u32> = BTreeMap::new();
    // Each is offered more often than it may be refused.
    while !ids.iter().all(|id| offers.get(id).is_some_and(|n| *n > 3)) {
        *offers
            .entry(id_of(&mute.expect(CommandId::DELIVER_SM)))
            .or_default() += 1;
    }
    let mut rx = receiver(&world);
    let mut taken: Vec<String> = (0..3).map(|_| id_of(&rx.delivery())).collect();
    ids.sort();
    taken.sort();
    assert_eq!(taken, ids);
    waiting_is(&world, 0);
}

#[test]
fn what_a_silent_bind_gives_back_goes_to_the_other_at_once() {
    let (world, _script, mut smsc) = scripted(|c| {
        c.customer.response_timeout_ms = 200;
        c.customer.deliver_retry_min_ms = 600_000;
        c.customer.deliver_retry_max_ms = 600_000;
    });
    let mut tx = transmitter(&world);
    let mut mute = receiver(&world);
    let first = ended(&mut tx, &mut smsc, "s0");
    assert_eq!(id_of(&mute.expect(CommandId::DELIVER_SM)), first);
    let mut rx = receiver(&world);
    assert_eq!(id_of(&rx.delivery()), first);
    // The silent one has its pause; those that come meanwhile are not for it.
    for n in 1..=3 {
        let id = ended(&mut tx, &mut smsc, &format!("s{n}"));
        assert_eq!(id_of(&rx.delivery()), id);
    }
    waiting_is(&world, 0);
}

#[test]
fn receipts_that_nobody_comes_for_go_after_their_time() {
    let (world, _script, mut smsc) = scripted(|c| c.customer.receipt_keep_s = 1);
    for id in many_ended(&world, &mut smsc, 6) {
        world.state(&id, "DELIVRD");
    }
    waiting_is(&world, 0);
    silent(&mut receiver(&world));
}

#[test]
fn receipts_in_the_store_that_nobody_comes_for_go_after_their_time() {
    let (world, _script, mut smsc) = scripted(|c| {
        c.customer.receipt_keep_s = 1;
        c.limits.outbox_max = 2;
    });
    for id in many_ended(&world, &mut smsc, 6) {
        world.state(&id, "DELIVRD");
    }
    waiting_is(&world, 0);
    silent(&mut receiver(&world));
}

#[test]
fn a_delivery_answered_late_is_not_made_again() {
    let (world, _script, mut smsc) = scripted(|c| {
        c.customer.response_timeout_ms = 200;
        c.customer.deliver_retry_min_ms = 60_000;
        c.customer.deliver_retry_max_ms = 60_000;
    });
    let mut tx = transmitter(&world);
    let mut rx = receiver(&world);
    let first = ended(&mut tx, &mut smsc, "s1");
    let got = rx.expect(CommandId::DELIVER_SM);
    assert_eq!(id_of(&got), first);
    // It is given up meanwhile, and the pause before it would be offered again is long.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(waiting(&world), 1);
    rx.answer(&got, ROK);
    waiting_is(&world, 0);
    silent(&mut rx);
    // The answer has ended the pause as well.
    let second = ended(&mut tx, &mut smsc, "s2");
    assert_eq!(id_of(&rx.delivery()), second);
    waiting_is(&world, 0);
}

/// An inbound message.
fn inbound(text: &str) -> ShortMessage<'_> {
    let mut sm = ShortMessage {
        short_message: text.as_bytes(),
        ..common::receipt("")
    };
    sm.esm_class = EsmClass(0);
    sm.dest.addr = b"22555";
    sm
}

#[test]
fn inbound_messages_beyond_the_memory_arrive_in_order() {
    let (world, _script, mut smsc) = scripted(|c| {
        c.limits.outbox_max = 4;
        c.inbound = vec![config::Inbound {
            address: "22555".into(),
            account: "acme".into(),
            ..Default::default()
        }];
    });
    let texts: Vec<String> = (0..12).map(|n| format!("number {n}")).collect();
    for text in &texts {
        smsc.deliver(&inbound(text));
    }
    for _ in &texts {
        assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    }
    waiting_is(&world, 12);
    let mut rx = receiver(&world);
    let came: Vec<String> = texts.iter().map(|_| rx.delivery().text()).collect();
    assert_eq!(came, texts);
    waiting_is(&world, 0);
    silent(&mut rx);
}
