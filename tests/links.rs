//! Upstream links, octet by octet: who is woken, what counts as an answer, how a link ends with answers due, what an SMSC is told.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{
    Got, Peer, Script, WAIT, World, eventually, message, receipt, receipt_text, scripted, silent, wallet_is,
};
use serde_json::{Value, json};
use smsconnect::config::{self, BindMode, Unknown};
use smsconnect::smpp::{self, CommandId, CommandStatus, EsmClass, ShortMessage, SmppTime};
use smsconnect::tools::smsc::SmscOptions;

const ROK: CommandStatus = CommandStatus::ESME_ROK;

/// A route over two upstreams, each a script, in turn.
fn in_turn() -> (World, [Script; 2]) {
    let scripts = [Script::new(), Script::new()];
    let [a, b] = [scripts[0].addr(), scripts[1].addr()];
    let world = World::with(SmscOptions::default(), |c| {
        c.upstream = vec![common::upstream("one", a), common::upstream("two", b)];
        c.route[0].to = vec!["one".into(), "two".into()];
        c.route[0].strategy = config::Strategy::RoundRobin;
    });
    world.account("acme", "1000", json!({}));
    (world, scripts)
}

/// The next connection of the gateway, its bind accepted, and the kind of bind.
fn bound_as(script: &Script) -> (CommandId, Peer) {
    let mut peer = Peer::over(script.accept());
    let bind = peer.read().unwrap();
    peer.respond(&bind, ROK, b"script\0");
    (bind.id, peer)
}

/// The next connection of the gateway, its bind refused.
fn refuse(script: &Script) {
    let mut peer = Peer::over(script.accept());
    let bind = peer.read().unwrap();
    peer.respond(&bind, CommandStatus::ESME_RBINDFAIL, b"");
    assert!(peer.read().is_none(), "closed by us");
}

fn upstreams(world: &World) -> Vec<Value> {
    let list = world.admin("upstream.list", json!({})).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// The next PDU on any of the connections, and on which.
fn either(peers: &mut [Peer]) -> (usize, Got) {
    let mut found = None;
    eventually("one of the connections has something", || {
        for (i, peer) in peers.iter_mut().enumerate() {
            let short = Some(Duration::from_millis(5));
            peer.stream.set_read_timeout(short).unwrap();
            found = peer.try_read().map(|got| (i, got));
            peer.stream.set_read_timeout(Some(WAIT)).unwrap();
            if found.is_some() {
                return true;
            }
        }
        false
    });
    found.unwrap()
}

/// An answer of any kind without a body.
fn header(peer: &mut Peer, id: CommandId, sequence: u32) {
    let mut out = Vec::new();
    smpp::put_header_only(&mut out, id, ROK, sequence);
    peer.raw(&out);
}

/// Six messages, one after the other: each reaches the link, which has nothing to do and is woken by nothing else.
fn six_arrive(world: &World, smsc: &mut Peer, mut before_each: impl FnMut()) {
    let mut p = world.bound("acme");
    for n in 0..6 {
        before_each();
        let id = p.submit(&message(b"x")).message_id();
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, &format!("s{n}"));
        world.state(&id, "sent");
    }
}

#[test]
fn a_pair_of_transmitter_and_receiver_never_leaves_a_message_waiting() {
    let (world, script) = scripted(|c| {
        c.upstream[0].bind = BindMode::TransmitterReceiver;
        c.upstream[0].enquire_link_ms = 0;
    });
    let (id, one) = bound_as(&script);
    let (_, two) = bound_as(&script);
    let (mut tx, mut rx) = if id == CommandId::BIND_TRANSMITTER {
        (one, two)
    } else {
        (two, one)
    };
    six_arrive(&world, &mut tx, || {});
    silent(&mut rx);
}

#[test]
fn a_bind_that_is_refused_again_and_again_takes_no_messages_from_the_other() {
    let (world, script) = scripted(|c| {
        c.upstream[0].binds = 2;
        c.upstream[0].enquire_link_ms = 0;
    });
    let mut live = script.bound();
    six_arrive(&world, &mut live, || refuse(&script));
    assert_eq!(upstreams(&world)[0]["bound"], 1);
}

#[test]
fn what_was_throttled_on_a_bind_that_is_gone_is_tried_again_on_the_other() {
    let (world, script) = scripted(|c| {
        c.upstream[0].binds = 2;
        c.upstream[0].enquire_link_ms = 0;
        // Long enough that the first bind is gone by then; it comes back to nobody who answers.
        c.upstream[0].retry_min_ms = 300;
        c.upstream[0].retry_max_ms = 300;
    });
    let mut peers = vec![script.bound(), script.bound()];
    eventually("both are bound", || upstreams(&world)[0]["bound"] == 2);
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    let (at, got) = either(&mut peers);
    let mut other = peers.remove(1 - at);
    let mut first = peers.remove(0);
    first.respond(&got, CommandStatus::ESME_RTHROTTLED, b"");
    drop(first);
    let got = other.expect(CommandId::SUBMIT_SM);
    other.accept(&got, "s1");
    world.state(&id, "sent");
    wallet_is(&world, "acme", "999.20", "0.00");
    silent(&mut other);
}

#[test]
fn the_answer_to_another_operation_is_no_answer_to_a_submit() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    header(&mut smsc, CommandId::ENQUIRE_LINK_RESP, got.sequence);
    silent(&mut smsc);
    assert_eq!(world.message(&id)["state"], "queued");
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.80".into()));
    smsc.accept(&got, "s1");
    world.state(&id, "sent");
    wallet_is(&world, "acme", "999.20", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_generic_nack_says_no_even_with_a_status_of_zero() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    header(&mut smsc, CommandId::GENERIC_NACK, got.sequence);
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} ")), "{told}");
    assert!(told.contains("stat:REJECTD"), "{told}");
    world.state(&id, "REJECTD");
    wallet_is(&world, "acme", "1000.00", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_bind_status_and_a_temporary_error_are_tried_again() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    for status in [CommandStatus::ESME_RINVBNDSTS, CommandStatus::ESME_RX_T_APPN] {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.respond(&got, status, b"");
    }
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, "s1");
    world.state(&id, "sent");
    wallet_is(&world, "acme", "999.20", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_system_error_is_tried_three_times_in_all() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    for _ in 0..3 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.respond(&got, CommandStatus::ESME_RSYSERR, b"");
    }
    let told = p.delivery().text();
    assert!(told.contains("stat:REJECTD"), "{told}");
    world.state(&id, "REJECTD");
    wallet_is(&world, "acme", "1000.00", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_reconnect_waits_for_the_answer_that_is_due() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let first = p.submit(&message(b"first")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    world.admin("upstream.reconnect", json!({"name": "sim"})).unwrap();
    silent(&mut smsc);
    let second = p.submit(&message(b"second")).message_id();
    silent(&mut smsc);
    smsc.accept(&got, "s1");
    let unbind = smsc.read().unwrap();
    assert_eq!(unbind.id, CommandId::UNBIND);
    smsc.respond(&unbind, ROK, b"");
    assert!(smsc.read().is_none(), "closed by us");
    let mut smsc = script.bound();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.text(), "second", "the first was answered");
    smsc.accept(&got, "s2");
    world.state(&first, "sent");
    world.state(&second, "sent");
    wallet_is(&world, "acme", "998.40", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn an_smsc_that_unbinds_is_answered_once_it_has_answered() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.header(CommandId::UNBIND);
    let unbind = smsc.sequence;
    silent(&mut smsc);
    let pause = Some(Duration::from_millis(100));
    smsc.stream.set_read_timeout(pause).unwrap();
    assert!(smsc.try_read().is_none(), "it owes us an answer");
    smsc.stream.set_read_timeout(Some(WAIT)).unwrap();
    smsc.accept(&got, "s1");
    let answer = smsc.read().unwrap();
    assert_eq!((answer.id, answer.sequence), (CommandId::UNBIND_RESP, unbind));
    drop(smsc);
    let mut smsc = script.bound();
    silent(&mut smsc);
    world.state(&id, "sent");
    wallet_is(&world, "acme", "999.20", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_late_acceptance_settles_a_held_message_once() {
    let (world, script) = scripted(|c| {
        c.upstream[0].unknown_outcome = Unknown::Hold;
        c.upstream[0].response_timeout_ms = 200;
    });
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    world.state(&id, "held");
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.80".into()));
    for _ in 0..2 {
        smsc.accept(&got, "s1");
    }
    world.state(&id, "sent");
    wallet_is(&world, "acme", "999.20", "0.00");
    smsc.receipt("s1", "DELIVRD", "000");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} ")), "{told}");
    assert!(told.contains("stat:DELIVRD"), "{told}");
    world.state(&id, "DELIVRD");
    assert_eq!(world.wallet("acme"), ("999.20".into(), "0.00".into()));
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_second_copy_that_waits_is_not_sent_after_a_late_acceptance() {
    let (world, script) = scripted(|c| {
        // The copy is due at once and waits for the next place that the rate allows, a second after the first.
        c.upstream[0].tps = 1;
        c.upstream[0].response_timeout_ms = 100;
    });
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"first")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    eventually("the copy waits", || {
        world.admin("queue.show", json!({})).unwrap()["items"][0]["memory"] == 1
    });
    smsc.accept(&got, "s1");
    world.state(&id, "sent");
    let next = p.submit(&message(b"second")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.text(), "second");
    smsc.accept(&got, "s2");
    world.state(&next, "sent");
    wallet_is(&world, "acme", "998.40", "0.00");
    world.reconciles();
}

/// What is left of a message's validity, in seconds, as the SMSC is told.
fn validity(got: &Got) -> u64 {
    let field = got.sm().validity_period;
    assert_eq!((field.len(), field.last()), (16, Some(&b'R')), "{field:?}");
    match smpp::parse_time(field) {
        Ok(Some(SmppTime::Relative { seconds })) => seconds,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_smsc_is_told_how_long_a_message_is_of_use() {
    let (world, script) = scripted(|c| c.customer.validity_default_s = 7_200);
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let mut sm = message(b"x");
    sm.validity_period = b"000000010000000R";
    p.submit(&sm);
    let hour = validity(&smsc.expect(CommandId::SUBMIT_SM));
    assert!((3_500..=3_600).contains(&hour), "{hour}");
    p.submit(&message(b"x"));
    let default = validity(&smsc.expect(CommandId::SUBMIT_SM));
    assert!((7_100..=7_200).contains(&default), "{default}");
}

#[test]
fn parts_of_one_message_take_one_way_and_single_messages_take_turns() {
    let (world, scripts) = in_turn();
    let mut peers = [scripts[0].bound(), scripts[1].bound()];
    eventually("both are up", || {
        upstreams(&world).iter().all(|u| u["live"] == true)
    });
    let mut p = world.bound("acme");
    let mut ways = Vec::new();
    for part in 1..=4u8 {
        let text = [&[0x05, 0x00, 0x03, 0x2A, 0x04, part][..], b"part"].concat();
        let sm = ShortMessage {
            esm_class: EsmClass(0x40),
            ..message(&text)
        };
        assert_eq!(p.submit(&sm).status, ROK);
        ways.push(either(&mut peers).0);
    }
    assert!(ways.iter().all(|way| *way == ways[0]), "{ways:?}");
    let mut ways = Vec::new();
    for _ in 0..8 {
        p.submit(&message(b"x"));
        ways.push(either(&mut peers).0);
    }
    assert!(ways.contains(&0) && ways.contains(&1), "{ways:?}");
}

/// Receipts for the messages `s0`, `s1` … in the octets of one stream.
fn receipts_of(n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, sequence) in (0..n).zip(1u32..) {
        let text = receipt_text(&format!("s{n}"), "DELIVRD", "000");
        smpp::put_short_message(&mut out, CommandId::DELIVER_SM, sequence, &receipt(&text));
    }
    out
}

/// `n` messages whose answers and receipts come in writes of `piece` octets: each is charged once and its receipt passed on once.
fn all_are_settled(n: usize, piece: usize) {
    let (world, script) = scripted(|c| c.upstream[0].window = 1_000);
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    for _ in 0..n {
        p.send(&message(b"x"));
    }
    let mut ids: Vec<String> = (0..n)
        .map(|_| p.expect(CommandId::SUBMIT_SM_RESP).message_id())
        .collect();
    // The gateway gives a few at first, and more as they are answered.
    for i in 0..n {
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        let mut answer = Vec::new();
        smpp::put_message_id_resp(
            &mut answer,
            CommandId::SUBMIT_SM_RESP,
            ROK,
            submit.sequence,
            format!("s{i}").as_bytes(),
        );
        answer.chunks(piece).for_each(|octets| smsc.raw(octets));
    }
    for octets in receipts_of(n).chunks(piece) {
        smsc.raw(octets);
    }
    for _ in 0..n {
        assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    }
    let mut told: Vec<String> = (0..n).map(|_| p.delivery().text()).collect();
    ids.sort();
    told.sort();
    for (text, id) in told.iter().zip(&ids) {
        assert!(text.starts_with(&format!("id:{id} ")), "{text}");
        assert!(text.contains("stat:DELIVRD"), "{text}");
    }
    let cents = 100_000 - 80 * n;
    wallet_is(
        &world,
        "acme",
        &format!("{}.{:02}", cents / 100, cents % 100),
        "0.00",
    );
    assert_eq!(world.stat("unmatched_receipts"), 0);
    silent(&mut smsc);
    silent(&mut p);
    world.reconciles();
}

#[test]
fn an_smsc_may_write_octet_by_octet() {
    all_are_settled(25, 1);
}

#[test]
fn an_smsc_may_write_a_thousand_receipts_at_once() {
    all_are_settled(1_000, usize::MAX);
}
