//! Messages that await only their receipt and are kept in a short form: whatever is asked of them or comes for them finds them as
//! if they were kept whole.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Peer, Script, World, eventually, message, receipt, receipt_text, scripted, wallet_is};
use smsconnect::config::{ChargeOn, Config};
use smsconnect::session::response_to;
use smsconnect::smpp::{
    self, Address, CancelSm, CommandId, CommandStatus, EsmClass, Npi, QuerySm, QuerySmResp, ShortMessage, Ton,
};

const ROK: CommandStatus = CommandStatus::ESME_ROK;

/// A gateway that keeps one open message whole.
fn small(change: impl FnOnce(&mut Config)) -> (World, Script, Peer, Peer) {
    common::both_bound(scripted(|c| {
        c.limits.open_hot_max = 1;
        change(c);
    }))
}

fn number(n: usize) -> String {
    format!("25471234567{n}")
}

/// Submits to a number of its own, taken by the SMSC under `smsc_id`; our id.
fn sent(customer: &mut Peer, smsc: &mut Peer, n: usize, smsc_id: &str) -> String {
    let dest = number(n);
    let got = customer.submit(&ShortMessage {
        dest: Address {
            ton: Ton(1),
            npi: Npi(1),
            addr: dest.as_bytes(),
        },
        ..message(b"hello world")
    });
    assert_eq!(got.status, ROK);
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, smsc_id);
    got.message_id()
}

/// The SMSC's receipt for `smsc_id`, from a number.
fn says(smsc: &mut Peer, n: usize, smsc_id: &str, stat: &str) {
    let (text, from) = (receipt_text(smsc_id, stat, "000"), number(n));
    let mut sm = receipt(&text);
    sm.source.addr = from.as_bytes();
    smsc.deliver(&sm);
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
}

/// The customer is told this of a message, and nothing before it.
fn told(customer: &mut Peer, id: &str, n: usize, stat: &str) {
    let got = customer.delivery();
    let sm = got.sm();
    assert_eq!(sm.esm_class, EsmClass(0x04));
    assert_eq!(sm.source.addr, number(n).as_bytes());
    assert!(got.text().starts_with(&format!("id:{id} ")), "{}", got.text());
    assert!(got.text().contains(&format!("stat:{stat}")), "{}", got.text());
    assert!(got.text().ends_with("text:hello world"), "{}", got.text());
    customer.answer(&got, ROK);
}

fn resting(world: &World, n: u64) {
    eventually("messages rest", || world.stat("resting") == n);
}

#[test]
fn receipts_find_messages_that_rest() {
    let (world, _script, mut smsc, mut p) = small(|c| c.tariff[0].charge_on = ChargeOn::Delivered);
    let ids: Vec<String> = (0..5)
        .map(|n| sent(&mut p, &mut smsc, n, &format!("A{n}")))
        .collect();
    resting(&world, 4);
    wallet_is(&world, "acme", "1000.00", "4.00");
    // In hexadecimal, in decimal, and twice.
    for n in [3, 0, 4, 1, 2] {
        says(
            &mut smsc,
            n,
            &format!("A{n}"),
            if n == 4 { "UNDELIV" } else { "DELIVRD" },
        );
        told(&mut p, &ids[n], n, if n == 4 { "UNDELIV" } else { "DELIVRD" });
        says(&mut smsc, n, &format!("A{n}"), "DELIVRD");
    }
    resting(&world, 0);
    eventually("none is open", || world.stat("open") == 0);
    wallet_is(&world, "acme", "996.80", "0.00");
    world.reconciles();
}

#[test]
fn what_is_asked_of_them_is_answered() {
    let (world, _script, mut smsc, mut p) = small(|_| {});
    let ids: Vec<String> = (0..3)
        .map(|n| sent(&mut p, &mut smsc, n, &format!("{n}7")))
        .collect();
    resting(&world, 2);
    for id in &ids {
        let query = QuerySm {
            message_id: id.as_bytes(),
            source: Address::default(),
        };
        let got = ask(&mut p, CommandId::QUERY_SM, |out| query.encode_body(out));
        assert_eq!(got.status, ROK);
        assert_eq!(
            QuerySmResp::decode(&got.body).unwrap().message_state,
            1,
            "ENROUTE"
        );
        let cancel = CancelSm {
            service_type: b"",
            message_id: id.as_bytes(),
            source: Address::default(),
            dest: Address::default(),
        };
        let got = ask(&mut p, CommandId::CANCEL_SM, |out| cancel.encode_body(out));
        assert_eq!(got.status, CommandStatus::ESME_RCANCELFAIL, "an SMSC has it");
        world.state(id, "sent");
    }
}

fn ask(peer: &mut Peer, id: CommandId, encode: impl FnOnce(&mut Vec<u8>)) -> common::Got {
    let mut body = Vec::new();
    encode(&mut body);
    peer.request(id, &body);
    peer.expect(response_to(id))
}

#[test]
fn they_are_found_after_a_restart() {
    let (mut world, script, mut smsc, mut p) = small(|_| {});
    let ids: Vec<String> = (0..6)
        .map(|n| sent(&mut p, &mut smsc, n, &format!("{n}55")))
        .collect();
    resting(&world, 5);
    let again = std::thread::spawn(move || {
        let smsc = script.bound();
        (script, smsc)
    });
    world.stop();
    drop((p, smsc));
    world.start();
    let (_script, mut smsc) = again.join().unwrap();
    resting(&world, 5);
    let mut p = world.bound("acme");
    for (n, id) in ids.iter().enumerate() {
        says(&mut smsc, n, &format!("{n}55"), "DELIVRD");
        told(&mut p, id, n, "DELIVRD");
    }
    resting(&world, 0);
    world.reconciles();
}

#[test]
fn one_smsc_id_of_two_messages_is_told_apart_by_the_number() {
    let (world, _script, mut smsc, mut p) = small(|_| {});
    let ids: Vec<String> = (0..3).map(|n| sent(&mut p, &mut smsc, n, "77")).collect();
    resting(&world, 2);
    for n in [1, 2, 0] {
        says(&mut smsc, n, "77", "DELIVRD");
        told(&mut p, &ids[n], n, "DELIVRD");
    }
    eventually("none is open", || world.stat("open") == 0);
    assert_eq!(world.stat("unmatched_receipts"), 0);
    world.reconciles();
}

#[test]
fn a_provisional_state_is_kept_and_told_once() {
    let (world, _script, mut smsc, mut p) = small(|_| {});
    let ids: Vec<String> = (0..3)
        .map(|n| sent(&mut p, &mut smsc, n, &format!("{n}9")))
        .collect();
    resting(&world, 2);
    for (n, id) in ids.iter().enumerate() {
        says(&mut smsc, n, &format!("{n}9"), "ACCEPTD");
        told(&mut p, id, n, "ACCEPTD");
    }
    resting(&world, 2);
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(world.message(id)["state"], "ACCEPTD");
        says(&mut smsc, n, &format!("{n}9"), "DELIVRD");
        told(&mut p, id, n, "DELIVRD");
    }
    resting(&world, 0);
    world.reconciles();
}

#[test]
fn receipts_with_one_id_that_come_in_one_write_each_find_their_message() {
    let (world, _script, mut smsc, mut p) = small(|_| {});
    let ids: Vec<String> = (0..4).map(|n| sent(&mut p, &mut smsc, n, "77")).collect();
    resting(&world, 3);
    let mut out = Vec::new();
    for n in [2, 0, 3, 1] {
        let (text, from) = (receipt_text("77", "DELIVRD", "000"), number(n));
        let mut sm = receipt(&text);
        sm.source.addr = from.as_bytes();
        smsc.sequence += 1;
        smpp::put_short_message(&mut out, CommandId::DELIVER_SM, smsc.sequence, &sm);
    }
    smsc.raw(&out);
    let mut told = Vec::new();
    for _ in 0..4 {
        let got = p.delivery();
        told.push(got.text()[3..].split(' ').next().unwrap().to_string());
        p.answer(&got, ROK);
    }
    told.sort();
    assert_eq!(told, ids);
    assert_eq!(world.stat("unmatched_receipts"), 0);
    world.reconciles();
}

#[test]
fn a_receipt_with_a_short_spelling_of_the_number_finds_its_message() {
    let (world, _script, mut smsc, mut p) = small(|_| {});
    let ids: Vec<String> = (0..2)
        .map(|n| sent(&mut p, &mut smsc, n, &format!("{n}8")))
        .collect();
    resting(&world, 1);
    for (n, id) in ids.iter().enumerate() {
        let (text, whole) = (receipt_text(&format!("{n}8"), "DELIVRD", "000"), number(n));
        let mut sm = receipt(&text);
        sm.source.addr = &whole.as_bytes()[5..];
        smsc.deliver(&sm);
        assert!(p.delivery().text().starts_with(&format!("id:{id} ")));
    }
    assert_eq!(world.stat("unmatched_receipts"), 0);
}
