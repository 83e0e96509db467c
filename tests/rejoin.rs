//! Parts that a customer has cut, put together for an SMSC that takes long messages whole; each keeps its id, price and receipt.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use common::{Got, Peer, Script, World, both_bound, eventually, message, scripted, silent, wallet_is};
use serde_json::json;
use smsconnect::config::{Config, LongMessages};
use smsconnect::smpp::{self, CommandId, CommandStatus, EsmClass, ShortMessage, Tag, Tlvs};

const ROK: CommandStatus = CommandStatus::ESME_ROK;
const UDHI: u8 = 0x40;

fn whole(c: &mut Config) {
    c.upstream[0].long_messages = LongMessages::Payload;
}

fn linked(change: impl FnOnce(&mut Config)) -> (World, Script, Peer, Peer) {
    both_bound(scripted(|c| {
        whole(c);
        change(c);
    }))
}

fn udh(reference: u8, total: u8, part: u8, text: &str) -> Vec<u8> {
    [&[5, 0, 3, reference, total, part][..], text.as_bytes()].concat()
}

/// Submits a part behind a header; its id.
fn part(p: &mut Peer, place: [u8; 3], text: &str) -> String {
    let text = udh(place[0], place[1], place[2], text);
    let got = p.submit(&ShortMessage {
        esm_class: EsmClass(UDHI),
        ..message(&text)
    });
    assert_eq!(got.status, ROK);
    got.message_id()
}

fn sar_part(p: &mut Peer, place: [u8; 3], text: &str) -> String {
    let mut tlvs = Vec::new();
    smpp::put_tlv(&mut tlvs, Tag::SAR_MSG_REF_NUM, &[9, place[0]]);
    smpp::put_tlv(&mut tlvs, Tag::SAR_TOTAL_SEGMENTS, &[place[1]]);
    smpp::put_tlv(&mut tlvs, Tag::SAR_SEGMENT_SEQNUM, &[place[2]]);
    let got = p.submit(&ShortMessage {
        tlvs: Tlvs::parse(&tlvs).unwrap(),
        ..message(text.as_bytes())
    });
    assert_eq!(got.status, ROK);
    got.message_id()
}

/// The next submit_sm is whole, with this text.
fn takes(smsc: &mut Peer, text: &str) -> Got {
    let got = smsc.expect(CommandId::SUBMIT_SM);
    let sm = got.sm();
    assert_eq!(sm.tlvs.get(Tag::MESSAGE_PAYLOAD), Some(text.as_bytes()));
    assert!(sm.short_message.is_empty() && sm.tlvs.get(Tag::SAR_MSG_REF_NUM).is_none());
    assert_eq!(sm.esm_class.0 & UDHI, 0);
    got
}

/// The ids that the next `n` receipts speak of, all with this state.
fn receipts(p: &mut Peer, n: usize, stat: &str) -> Vec<String> {
    let mut ids: Vec<String> = (0..n)
        .map(|_| {
            let got = p.delivery();
            let text = got.text();
            assert!(text.contains(&format!("stat:{stat}")), "{text}");
            let id = text.strip_prefix("id:").unwrap().split(' ').next().unwrap();
            id.to_string()
        })
        .collect();
    ids.sort();
    ids
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[test]
fn parts_in_any_order_become_one_submit_and_one_receipt_becomes_one_for_each() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let mut ids = vec![part(&mut p, [7, 3, 2], "two "), part(&mut p, [7, 3, 3], "three")];
    silent(&mut smsc);
    ids.push(part(&mut p, [7, 3, 1], "one "));
    let got = takes(&mut smsc, "one two three");
    wallet_is(&world, "acme", "1000.00", "2.40");
    smsc.accept(&got, "S9");
    wallet_is(&world, "acme", "997.60", "0.00");
    silent(&mut smsc);
    smsc.receipt("S9", "DELIVRD", "000");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    assert_eq!(receipts(&mut p, 3, "DELIVRD"), sorted(ids.clone()));
    for id in &ids {
        world.state(id, "DELIVRD");
    }
    silent(&mut p);
    world.reconciles();
}

#[test]
fn sar_parts_are_put_together_and_two_messages_do_not_mix() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    sar_part(&mut p, [1, 2, 1], "a1");
    sar_part(&mut p, [2, 2, 1], "b1");
    sar_part(&mut p, [2, 2, 2], "b2");
    let got = takes(&mut smsc, "b1b2");
    smsc.accept(&got, "S1");
    sar_part(&mut p, [1, 2, 2], "a2");
    let got = takes(&mut smsc, "a1a2");
    smsc.accept(&got, "S2");
    wallet_is(&world, "acme", "996.80", "0.00");
}

#[test]
fn a_refused_whole_releases_the_price_of_every_part() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let ids = vec![part(&mut p, [7, 2, 1], "one "), part(&mut p, [7, 2, 2], "two")];
    let got = takes(&mut smsc, "one two");
    smsc.respond(&got, CommandStatus::ESME_RINVDSTADR, b"");
    assert_eq!(receipts(&mut p, 2, "REJECTD"), sorted(ids));
    wallet_is(&world, "acme", "1000.00", "0.00");
    world.reconciles();
}

#[test]
fn parts_whose_others_never_come_go_as_they_are() {
    let (world, _script, mut smsc, mut p) = linked(|c| c.customer.join_timeout_ms = 200);
    let id = part(&mut p, [7, 3, 2], "two ");
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.sm().short_message, udh(7, 3, 2, "two "));
    smsc.accept(&got, "S1");
    smsc.receipt("S1", "DELIVRD", "000");
    assert_eq!(receipts(&mut p, 1, "DELIVRD"), [id]);
    wallet_is(&world, "acme", "999.20", "0.00");
}

#[test]
fn the_receipt_after_a_restart_is_for_every_part_too() {
    let (mut world, script, mut smsc, mut p) = linked(|_| {});
    let ids = vec![part(&mut p, [7, 2, 2], "two"), part(&mut p, [7, 2, 1], "one ")];
    let got = takes(&mut smsc, "one two");
    smsc.accept(&got, "S1");
    wallet_is(&world, "acme", "998.40", "0.00");
    drop((p, smsc));
    world.stop();
    world.start();
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    smsc.receipt("S1", "UNDELIV", "045");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    assert_eq!(receipts(&mut p, 2, "UNDELIV"), sorted(ids));
    world.reconciles();
}

#[test]
fn parts_that_wait_through_a_restart_are_put_together_after_it() {
    let (mut world, script) = scripted(whole);
    let smsc = script.bound();
    let mut p = world.bound("acme");
    part(&mut p, [7, 2, 1], "one ");
    drop((p, smsc));
    world.stop();
    world.start();
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    part(&mut p, [7, 2, 2], "two");
    let got = takes(&mut smsc, "one two");
    smsc.accept(&got, "S1");
    wallet_is(&world, "acme", "998.40", "0.00");
    world.reconciles();
}

#[test]
fn a_whole_that_was_not_taken_is_sent_whole_again() {
    let (world, script, mut smsc, mut p) = linked(|_| {});
    part(&mut p, [7, 2, 1], "one ");
    part(&mut p, [7, 2, 2], "two");
    let got = takes(&mut smsc, "one two");
    smsc.respond(&got, CommandStatus::ESME_RTHROTTLED, b"");
    takes(&mut smsc, "one two");
    // Never answered: the next connection has it again.
    drop(smsc);
    let mut smsc = script.bound();
    let got = takes(&mut smsc, "one two");
    smsc.accept(&got, "S1");
    wallet_is(&world, "acme", "998.40", "0.00");
    silent(&mut smsc);
}

#[test]
fn a_cancelled_part_is_not_waited_for() {
    let (world, _script, mut smsc, mut p) = linked(|c| c.customer.join_timeout_ms = 60_000);
    let id = part(&mut p, [7, 2, 1], "one ");
    let sent = world.admin("message.show", json!({"id": id})).unwrap();
    assert_eq!(sent["state"], "queued", "{sent}");
    let mut cancel = Vec::new();
    cancel.extend_from_slice(b"\0");
    cancel.extend_from_slice(id.as_bytes());
    cancel.extend_from_slice(b"\0\0\0\0\0\0\0");
    p.request(CommandId::CANCEL_SM, &cancel);
    assert_eq!(p.expect(CommandId::CANCEL_SM_RESP).status, ROK);
    wallet_is(&world, "acme", "1000.00", "0.00");
    part(&mut p, [7, 2, 2], "two");
    silent(&mut smsc);
    eventually("one part waits", || world.wallet("acme").1 == "0.80");
}
