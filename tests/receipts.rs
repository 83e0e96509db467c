//! Receipts and inbound messages: correlated, durable, delivered to their owner until he takes them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Got, Peer, Script, World, eventually, message, receipt_text};
use serde_json::json;
use smsconnect::config::{self, Config};
use smsconnect::smpp::{CommandId, CommandStatus, EsmClass, ShortMessage, Tag, Tlvs, put_tlv};

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

/// Submits, lets the SMSC take it under `smsc_id`; our id.
fn sent(customer: &mut Peer, smsc: &mut Peer, smsc_id: &str) -> String {
    let got = customer.submit(&message(b"hello world"));
    assert_eq!(got.status, ROK);
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, smsc_id);
    got.message_id()
}

fn tlv(got: &Got, tag: Tag) -> Option<Vec<u8>> {
    got.sm().tlvs.get(tag).map(<[u8]>::to_vec)
}

#[test]
fn a_receipt_comes_back_under_our_id_in_text_and_tlvs() {
    let (world, _script, mut smsc) = scripted(|_| {});
    let mut p = world.bound("acme");
    let id = sent(&mut p, &mut smsc, "A1B2");
    smsc.receipt("A1B2", "DELIVRD", "000");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    let got = p.delivery();
    let sm = got.sm();
    assert_eq!(sm.esm_class, EsmClass(0x04));
    assert_eq!(sm.source.addr, b"254712345678", "from where the message went");
    assert_eq!(sm.dest.addr, b"ACME", "to who sent it");
    let text = got.text();
    let words: Vec<&str> = text.split(' ').collect();
    assert_eq!(words[0], format!("id:{id}"));
    assert_eq!(&words[1..3], ["sub:001", "dlvrd:001"]);
    for (name, value) in [("submit", "date:"), ("done", "date:")] {
        let at = words.iter().position(|w| *w == name).unwrap();
        let date = words[at + 1].strip_prefix(value).unwrap();
        assert!(
            date.len() == 10 && date.bytes().all(|c| c.is_ascii_digit()),
            "{text}"
        );
    }
    assert!(text.contains(" stat:DELIVRD err:000 text:hello world"), "{text}");
    assert_eq!(
        tlv(&got, Tag::RECEIPTED_MESSAGE_ID).unwrap(),
        [id.as_bytes(), &[0]].concat()
    );
    assert_eq!(tlv(&got, Tag::MESSAGE_STATE).unwrap(), [2]);
    world.state(&id, "DELIVRD");
    world.reconciles();
}

#[test]
fn receipts_in_tlvs_alone_are_read_too() {
    let (world, _script, mut smsc) = scripted(|_| {});
    let mut p = world.bound("acme");
    let id = sent(&mut p, &mut smsc, "77");
    let mut raw = Vec::new();
    put_tlv(&mut raw, Tag::RECEIPTED_MESSAGE_ID, b"77\0");
    put_tlv(&mut raw, Tag::MESSAGE_STATE, &[5]);
    let mut sm = common::receipt("");
    sm.tlvs = Tlvs::parse(&raw).unwrap();
    smsc.deliver(&sm);
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    let got = p.delivery();
    assert!(got.text().contains("stat:UNDELIV"), "{}", got.text());
    world.state(&id, "UNDELIV");
}

#[test]
fn without_a_wish_there_is_no_receipt_but_a_final_state() {
    let (world, _script, mut smsc) = scripted(|_| {});
    let mut p = world.bound("acme");
    let mut quiet = message(b"x");
    quiet.registered_delivery.0 = 0;
    let id = p.submit(&quiet).message_id();
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, "9");
    smsc.receipt("9", "DELIVRD", "000");
    world.state(&id, "DELIVRD");
    // Only failures are wanted (registered_delivery 2, SMPP 3.4 §5.2.17).
    let mut failures = message(b"x");
    failures.registered_delivery.0 = 2;
    for (smsc_id, stat) in [("10", "DELIVRD"), ("11", "UNDELIV")] {
        p.submit(&failures);
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&submit, smsc_id);
        smsc.receipt(smsc_id, stat, "001");
    }
    let got = p.delivery();
    assert!(got.text().contains("stat:UNDELIV err:001"), "{}", got.text());
    p.header(CommandId::ENQUIRE_LINK);
    assert_eq!(
        p.read().unwrap().id,
        CommandId::ENQUIRE_LINK_RESP,
        "nothing else came"
    );
}

#[test]
fn a_receipt_before_its_response_waits_for_it() {
    let (world, _script, mut smsc) = scripted(|_| {});
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.receipt("500", "DELIVRD", "000");
    assert_eq!(
        smsc.expect(CommandId::DELIVER_SM_RESP).status,
        ROK,
        "it is kept, not refused"
    );
    eventually("it is parked", || world.stat("parked_receipts") == 1);
    smsc.accept(&submit, "500");
    assert!(p.delivery().text().starts_with(&format!("id:{id} ")));
    assert_eq!(world.stat("parked_receipts"), 0);
    world.state(&id, "DELIVRD");
}

#[test]
fn a_second_receipt_changes_nothing_and_charges_nothing() {
    let (world, _script, mut smsc) = scripted(|_| {});
    let mut p = world.bound("acme");
    let id = sent(&mut p, &mut smsc, "600");
    for stat in ["DELIVRD", "DELIVRD", "UNDELIV"] {
        smsc.receipt("600", stat, "000");
        assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    }
    p.delivery();
    p.header(CommandId::ENQUIRE_LINK);
    assert_eq!(p.read().unwrap().id, CommandId::ENQUIRE_LINK_RESP);
    world.state(&id, "DELIVRD");
    assert_eq!(world.wallet("acme").0, "999.20");
    world.reconciles();
}

#[test]
fn an_unknown_id_is_parked_and_survives_a_restart() {
    let (mut world, script, mut smsc) = scripted(|_| {});
    smsc.receipt("does-not-exist", "DELIVRD", "000");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    eventually("parked", || world.stat("parked_receipts") == 1);
    assert!(world.stat("unmatched_receipts") >= 1);
    let addr = script.addr();
    drop(smsc);
    world.stop();
    drop(script);
    let listener = std::net::TcpListener::bind(addr);
    drop(listener);
    world.start();
    assert_eq!(world.stat("parked_receipts"), 1, "parked receipts are durable");
}

#[test]
fn a_receipt_may_arrive_on_any_bind_and_go_to_any_receiving_bind() {
    let (world, script, mut first) = scripted(|c| c.upstream[0].binds = 2);
    let mut second = script.bound();
    let mut tx = world.bound_as(CommandId::BIND_TRANSMITTER, "acme");
    let id = tx.submit(&message(b"x")).message_id();
    // Whichever bind got the submit, the receipt comes on the other.
    first
        .stream
        .set_read_timeout(Some(std::time::Duration::from_millis(20)))
        .unwrap();
    let mut on_first = None;
    eventually("one of the binds has it", || {
        on_first = first.try_read();
        if on_first.is_none() {
            second
                .stream
                .set_read_timeout(Some(std::time::Duration::from_millis(20)))
                .unwrap();
            if let Some(got) = second.try_read() {
                second.accept(&got, "700");
                first.receipt("700", "DELIVRD", "000");
                return true;
            }
        }
        on_first.is_some()
    });
    if let Some(got) = on_first {
        first.accept(&got, "700");
        second.receipt("700", "DELIVRD", "000");
    }
    let mut rx = world.bound_as(CommandId::BIND_RECEIVER, "acme");
    assert!(rx.delivery().text().starts_with(&format!("id:{id} ")));
}

#[test]
fn a_receipt_belongs_to_the_number_too() {
    // SMSCs restart their ids: the same id for another number is another message's receipt.
    let (world, _script, mut smsc) = scripted(|_| {});
    let mut p = world.bound("acme");
    let id = sent(&mut p, &mut smsc, "42");
    let text = receipt_text("42", "UNDELIV", "001");
    let mut foreign = common::receipt(&text);
    foreign.source.addr = b"254799999999";
    smsc.deliver(&foreign);
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    eventually("it is parked", || world.stat("parked_receipts") == 1);
    smsc.receipt("42", "DELIVRD", "000");
    assert!(p.delivery().text().contains("stat:DELIVRD"));
    world.state(&id, "DELIVRD");
}

#[test]
fn hex_and_decimal_spellings_of_an_id_are_the_same_id() {
    let (_world, _script, mut smsc) = scripted(|_| {});
    let world = _world;
    let mut p = world.bound("acme");
    for (in_response, in_receipt) in [
        ("1A2B3C4D", "439041101"),
        ("439041102", "1A2B3C4E"),
        ("0000000123", "123"),
    ] {
        let id = sent(&mut p, &mut smsc, in_response);
        smsc.receipt(in_receipt, "DELIVRD", "000");
        assert!(
            p.delivery().text().starts_with(&format!("id:{id} ")),
            "{in_response} {in_receipt}"
        );
    }
}

#[test]
fn provisional_states_are_replaced_by_final_ones() {
    let (world, _script, mut smsc) = scripted(|_| {});
    let mut p = world.bound("acme");
    let mut sm = message(b"x");
    // Intermediate notifications are asked for too (bit 4).
    sm.registered_delivery.0 = 0x11;
    let id = p.submit(&sm).message_id();
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, "800");
    smsc.receipt("800", "ACCEPTD", "000");
    world.state(&id, "ACCEPTD");
    smsc.receipt("800", "DELIVRD", "000");
    world.state(&id, "DELIVRD");
    let mut texts = vec![p.delivery().text()];
    if texts[0].contains("ACCEPTD") {
        texts.push(p.delivery().text());
    }
    assert!(texts.last().unwrap().contains("stat:DELIVRD"), "{texts:?}");
}

#[test]
fn receipts_wait_for_a_customer_who_is_offline_through_a_restart() {
    let (mut world, script, mut smsc) = scripted(|_| {});
    let mut tx = world.bound_as(CommandId::BIND_TRANSMITTER, "acme");
    let ids: Vec<String> = (0..5)
        .map(|i| {
            let id = sent(&mut tx, &mut smsc, &format!("9{i}"));
            smsc.receipt(&format!("9{i}"), "DELIVRD", "000");
            id
        })
        .collect();
    for id in &ids {
        world.state(id, "DELIVRD");
    }
    drop(tx);
    drop(smsc);
    let again = std::thread::spawn(move || (script.bound(), script));
    world.stop();
    world.start();
    let _upstream = again.join().unwrap();
    let mut rx = world.bound_as(CommandId::BIND_RECEIVER, "acme");
    let mut got: Vec<String> = (0..5).map(|_| rx.delivery().text()).collect();
    got.sort();
    for (text, id) in got.iter().zip(&ids) {
        assert!(text.starts_with(&format!("id:{id} ")), "{text}");
    }
    // Once taken, they do not come again.
    eventually("all are marked as delivered", || {
        world.admin("account.show", json!({"account": "acme"})).unwrap()["waiting_deliveries"] == 0
    });
    drop(rx);
    world.stop();
    world.start();
    let mut rx = world.bound_as(CommandId::BIND_RECEIVER, "acme");
    rx.header(CommandId::ENQUIRE_LINK);
    assert_eq!(rx.read().unwrap().id, CommandId::ENQUIRE_LINK_RESP);
}

#[test]
fn what_was_not_answered_is_delivered_to_the_next_session() {
    let (world, _script, mut smsc) = scripted(|_| {});
    let mut p = world.bound("acme");
    let id = sent(&mut p, &mut smsc, "31");
    smsc.receipt("31", "DELIVRD", "000");
    let first = p.expect(CommandId::DELIVER_SM);
    drop(p);
    let mut again = world.bound("acme");
    let got = again.delivery();
    assert_eq!(got.text(), first.text());
    assert!(got.text().starts_with(&format!("id:{id} ")));
}

#[test]
fn a_refusing_customer_is_asked_again_later_and_at_last_no_more() {
    let (world, _script, mut smsc) = scripted(|c| c.customer.deliver_attempts_max = 3);
    let mut p = world.bound("acme");
    sent(&mut p, &mut smsc, "55");
    smsc.receipt("55", "DELIVRD", "000");
    for _ in 0..3 {
        let got = p.expect(CommandId::DELIVER_SM);
        p.answer(&got, CommandStatus::ESME_RX_T_APPN);
    }
    // Parked: it is on record and not offered any more, and others pass it.
    let id = sent(&mut p, &mut smsc, "56");
    smsc.receipt("56", "DELIVRD", "000");
    assert!(p.delivery().text().starts_with(&format!("id:{id} ")));
}

#[test]
fn an_unanswered_delivery_is_offered_again() {
    let (world, _script, mut smsc) = scripted(|c| c.customer.response_timeout_ms = 100);
    let mut p = world.bound("acme");
    let id = sent(&mut p, &mut smsc, "57");
    smsc.receipt("57", "DELIVRD", "000");
    let first = p.expect(CommandId::DELIVER_SM);
    let second = p.delivery();
    assert_eq!(first.text(), second.text());
    assert!(second.text().starts_with(&format!("id:{id} ")));
    assert_ne!(first.sequence, second.sequence);
}

#[test]
fn inbound_messages_go_to_the_account_of_their_number_and_wait_for_it() {
    let (mut world, script, mut smsc) = scripted(|c| {
        c.inbound = vec![config::Inbound {
            address: "22555".into(),
            account: "acme".into(),
            ..Default::default()
        }];
    });
    world.account("other", "1", json!({}));
    let mut other = world.bound("other");
    let mut mo = ShortMessage {
        short_message: b"STOP please",
        ..common::receipt("")
    };
    mo.esm_class = EsmClass(0);
    mo.dest.addr = b"22555";
    smsc.deliver(&mo);
    assert_eq!(
        smsc.expect(CommandId::DELIVER_SM_RESP).status,
        ROK,
        "on record although the customer is offline"
    );
    drop(smsc);
    let again = std::thread::spawn(move || (script.bound(), script));
    other.header(CommandId::ENQUIRE_LINK);
    assert_eq!(
        other.read().unwrap().id,
        CommandId::ENQUIRE_LINK_RESP,
        "not its number"
    );
    drop(other);
    world.stop();
    world.start();
    let _upstream = again.join().unwrap();
    let mut rx = world.bound_as(CommandId::BIND_RECEIVER, "acme");
    let got = rx.delivery();
    assert_eq!(got.text(), "STOP please");
    assert_eq!(got.sm().source.addr, b"254712345678");
    assert_eq!(got.sm().dest.addr, b"22555");
    assert_eq!(got.sm().esm_class, EsmClass(0));
}

#[test]
fn a_receipt_timeout_ends_in_unknown() {
    let (world, _script, mut smsc) = scripted(|c| c.customer.receipt_timeout_s = 1);
    let mut p = world.bound("acme");
    let id = sent(&mut p, &mut smsc, "58");
    let got = p.delivery();
    assert!(got.text().contains("stat:UNKNOWN"), "{}", got.text());
    world.state(&id, "UNKNOWN");
    assert_eq!(
        world.wallet("acme"),
        ("999.20".into(), "0.00".into()),
        "it was submitted"
    );
    // The receipt that comes too late changes nothing.
    smsc.receipt("58", "DELIVRD", "000");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    world.reconciles();
}

#[test]
fn every_receipt_reaches_its_own_account_only() {
    let (world, _script, mut smsc) = scripted(|_| {});
    world.account("rival", "1000", json!({}));
    let (mut acme, mut rival) = (world.bound("acme"), world.bound("rival"));
    let mine = sent(&mut acme, &mut smsc, "61");
    let theirs = sent(&mut rival, &mut smsc, "62");
    smsc.receipt("62", "DELIVRD", "000");
    smsc.receipt("61", "DELIVRD", "000");
    assert!(acme.delivery().text().starts_with(&format!("id:{mine} ")));
    assert!(rival.delivery().text().starts_with(&format!("id:{theirs} ")));
    let denied = world.admin("message.show", json!({"id": theirs, "account": "acme"}));
    assert_eq!(denied.unwrap_err(), "E_NOT_FOUND");
}
