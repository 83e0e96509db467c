//! Versions of SMPP: what each is told, what it is sent, and answers in every form that peers give them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Got, PASSWORD, Peer, Script, World, eventually, message};
use serde_json::json;
use smsconnect::config;
use smsconnect::smpp::{
    Bind, BindResp, CommandId, CommandStatus, EsmClass, Npi, ShortMessage, Tag, Tlvs, Ton, put_tlv,
};
use smsconnect::tools::smsc::SmscOptions;

const ROK: CommandStatus = CommandStatus::ESME_ROK;

/// A gateway whose SMSC is a script and bound, and one account with money that owns a short code.
fn linked() -> (World, Script, Peer) {
    let script = Script::new();
    let addr = script.addr();
    let world = World::with(SmscOptions::default(), |c| {
        c.upstream[0].address = vec![addr.to_string()];
        c.inbound = vec![config::Inbound {
            address: "22555".into(),
            account: "acme".into(),
            ..Default::default()
        }];
    });
    world.account("acme", "1000", json!({}));
    let smsc = script.bound();
    (world, script, smsc)
}

/// A transceiver of this interface_version, and the answer to its bind.
fn bound_with(world: &World, version: u8) -> (Peer, Got) {
    let mut peer = Peer::connect(world.addr());
    let mut body = Vec::new();
    Bind {
        system_id: b"acme",
        password: PASSWORD.as_bytes(),
        system_type: b"",
        interface_version: version,
        addr_ton: Ton(0),
        addr_npi: Npi(0),
        address_range: b"",
    }
    .encode_body(&mut body);
    peer.request(CommandId::BIND_TRANSCEIVER, &body);
    let got = peer.read().unwrap();
    assert_eq!(
        (got.id, got.status),
        (CommandId::BIND_TRANSCEIVER_RESP, ROK),
        "{version:#x}"
    );
    (peer, got)
}

fn session(world: &World, version: u8) -> Peer {
    bound_with(world, version).0
}

fn tlv(got: &Got, tag: Tag) -> Option<Vec<u8>> {
    got.sm().tlvs.get(tag).map(<[u8]>::to_vec)
}

fn deliveries_are(world: &World, n: u64) {
    eventually(&format!("{n} deliveries wait"), || {
        world.admin("account.show", json!({"account": "acme"})).unwrap()["waiting_deliveries"] == n
    });
}

fn wallet_is(world: &World, balance: &str, held: &str) {
    let wanted = (balance.to_string(), held.to_string());
    eventually(&format!("the wallet is {wanted:?}"), || {
        world.wallet("acme") == wanted
    });
}

/// Nothing comes but answers to enquire_link. Two of them: what the gateway writes in the same turn stands behind the first.
fn silent(peer: &mut Peer) {
    for _ in 0..2 {
        peer.header(CommandId::ENQUIRE_LINK);
        let got = peer.read().unwrap();
        assert_eq!(
            got.id,
            CommandId::ENQUIRE_LINK_RESP,
            "nothing else was due: {got:?}"
        );
    }
}

/// Submits and lets the SMSC take it under `smsc_id`; our id once that is on record.
fn sent(world: &World, customer: &mut Peer, smsc: &mut Peer, smsc_id: &str) -> String {
    let got = customer.submit(&message(b"x"));
    assert_eq!(got.status, ROK);
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, smsc_id);
    world.state(&got.message_id(), "sent");
    got.message_id()
}

/// The SMSC delivers a message from a handset to the short code; back once it is on record.
fn arrives(smsc: &mut Peer, text: &[u8], tlvs: &[u8]) {
    let mut sm = ShortMessage {
        esm_class: EsmClass(0),
        short_message: text,
        tlvs: Tlvs::parse(tlvs).unwrap(),
        ..common::receipt("")
    };
    sm.dest.addr = b"22555";
    smsc.deliver(&sm);
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
}

fn payload(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_tlv(&mut out, Tag::MESSAGE_PAYLOAD, text);
    out
}

/// Letters in a row that shows where one is missing or out of place.
fn letters(n: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(n).collect()
}

#[test]
fn each_version_is_told_what_is_spoken_with_it() {
    let (world, _script, _smsc) = linked();
    for (version, told) in [
        (0x34, Some(0x34)),
        (0x50, Some(0x50)),
        (0x33, None),
        (0x03, None),
        (0x00, None),
    ] {
        let (mut peer, got) = bound_with(&world, version);
        let resp = BindResp::decode(&got.body).unwrap();
        assert_eq!(resp.system_id, world.config.customer.system_id.as_bytes());
        assert_eq!(resp.tlvs.get_u8(Tag::SC_INTERFACE_VERSION), told, "{version:#x}");
        assert_eq!(resp.tlvs.is_empty(), told.is_none(), "{version:#x}");
        assert_eq!(peer.submit(&message(b"x")).status, ROK, "{version:#x}");
        silent(&mut peer);
    }
}

#[test]
fn a_receipt_has_tlvs_for_those_who_know_them() {
    let (world, _script, mut smsc) = linked();
    for (version, knows) in [
        (0x33, false),
        (0x34, true),
        (0x50, true),
        (0x00, false),
        (0x03, false),
    ] {
        let mut p = session(&world, version);
        let smsc_id = format!("s{version}");
        let id = sent(&world, &mut p, &mut smsc, &smsc_id);
        smsc.receipt(&smsc_id, "DELIVRD", "000");
        let got = p.delivery();
        assert!(got.text().starts_with(&format!("id:{id} ")), "{}", got.text());
        assert!(got.text().contains("stat:DELIVRD"), "{}", got.text());
        assert_eq!(got.sm().esm_class, EsmClass(0x04));
        assert_eq!(!got.sm().tlvs.is_empty(), knows, "{version:#x}");
        if knows {
            assert_eq!(
                tlv(&got, Tag::RECEIPTED_MESSAGE_ID).unwrap(),
                [id.as_bytes(), &[0]].concat()
            );
            assert_eq!(tlv(&got, Tag::MESSAGE_STATE).unwrap(), [2]);
        }
        deliveries_are(&world, 0);
        drop(p);
    }
    world.reconciles();
}

#[test]
fn a_long_inbound_message_comes_in_message_payload_from_3_4_on() {
    let (world, _script, mut smsc) = linked();
    let text = letters(600);
    for version in [0x34, 0x50] {
        let mut p = session(&world, version);
        arrives(&mut smsc, b"", &payload(&text));
        let got = p.delivery();
        assert_eq!(got.sm().short_message, b"");
        assert_eq!(tlv(&got, Tag::MESSAGE_PAYLOAD).unwrap(), text);
        assert_eq!(got.sm().esm_class, EsmClass(0));
        deliveries_are(&world, 0);
        silent(&mut p);
    }
}

/// The parts of a message with a concatenation element each; their text, once they have been found to belong together.
fn joined(p: &mut Peer, total: u8) -> Vec<u8> {
    let mut text = Vec::new();
    let mut reference = None;
    for part in 1..=total {
        let got = p.delivery();
        let sm = got.sm();
        assert!(sm.tlvs.is_empty(), "{:?}", sm.tlvs);
        assert!(sm.esm_class.udhi());
        assert_eq!(sm.source.addr, b"254712345678");
        assert_eq!(sm.dest.addr, b"22555");
        let (header, rest) = sm.short_message.split_at(6);
        assert_eq!(header[..3], [5, 0, 3]);
        assert_eq!(*reference.get_or_insert(header[3]), header[3], "one reference");
        assert_eq!(header[4..], [total, part]);
        // 153 septets in a part.
        assert!(rest.len() <= 153, "{}", rest.len());
        text.extend_from_slice(rest);
    }
    text
}

#[test]
fn a_long_inbound_message_comes_in_parts_to_3_3() {
    let (world, _script, mut smsc) = linked();
    for version in [0x33, 0x00] {
        let mut p = session(&world, version);
        for (octets, parts) in [(600, 4), (255, 2)] {
            let text = letters(octets);
            arrives(&mut smsc, b"", &payload(&text));
            assert_eq!(joined(&mut p, parts), text);
            deliveries_are(&world, 0);
        }
        silent(&mut p);
    }
}

#[test]
fn a_short_payload_and_a_short_text_come_as_they_can_be_read() {
    let (world, _script, mut smsc) = linked();
    let mut tlvs = payload(b"short payload");
    put_tlv(&mut tlvs, Tag(0x1401), b"of the vendor");
    let mut p = session(&world, 0x33);
    arrives(&mut smsc, b"", &tlvs);
    let got = p.delivery();
    assert_eq!(got.text(), "short payload");
    assert!(got.sm().tlvs.is_empty());
    assert!(!got.sm().esm_class.udhi());
    let mut port = Vec::new();
    put_tlv(&mut port, Tag::SOURCE_PORT, &[0, 7]);
    arrives(&mut smsc, b"short text", &port);
    let got = p.delivery();
    assert_eq!(got.text(), "short text");
    assert!(got.sm().tlvs.is_empty());
    deliveries_are(&world, 0);
    drop(p);
    let mut p = session(&world, 0x34);
    arrives(&mut smsc, b"short text", &port);
    let got = p.delivery();
    assert_eq!(got.text(), "short text");
    assert_eq!(tlv(&got, Tag::SOURCE_PORT).unwrap(), [0, 7]);
    deliveries_are(&world, 0);
}

#[test]
fn what_stands_behind_the_id_of_an_answer_does_no_harm() {
    let (world, _script, mut smsc) = linked();
    let mut p = world.bound("acme");
    let mut tlvs = Vec::new();
    // congestion_state: 90 of 100 (SMPP 5.0 §4.8.4.18).
    put_tlv(&mut tlvs, Tag::CONGESTION_STATE, &[90]);
    put_tlv(&mut tlvs, Tag(0x1401), b"of the vendor");
    put_tlv(&mut tlvs, Tag(0x3FFF), b"");
    for n in 0..3 {
        let id = p.submit(&message(b"x")).message_id();
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        let smsc_id = format!("t{n}");
        smsc.respond(&submit, ROK, &[smsc_id.as_bytes(), &[0], &tlvs[..]].concat());
        world.state(&id, "sent");
        assert_eq!(world.message(&id)["smsc_id"], smsc_id.as_str());
        smsc.receipt(&smsc_id, "DELIVRD", "000");
        let told = p.delivery().text();
        assert!(told.starts_with(&format!("id:{id} ")), "{told}");
        smsc.expect(CommandId::DELIVER_SM_RESP);
    }
    // A refusal with optional parameters is a refusal, one without a body too.
    for body in [[&[0u8][..], &tlvs[..]].concat(), Vec::new()] {
        let id = p.submit(&message(b"x")).message_id();
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        smsc.respond(&submit, CommandStatus::ESME_RINVDSTADR, &body);
        world.state(&id, "REJECTD");
        assert!(p.delivery().text().contains("stat:REJECTD"));
    }
    wallet_is(&world, "997.60", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn an_answer_without_an_id_is_an_acceptance_all_the_same() {
    let (world, _script, mut smsc) = linked();
    let mut p = world.bound("acme");
    let mut empty_id = vec![0];
    put_tlv(&mut empty_id, Tag::CONGESTION_STATE, &[1]);
    let mut ids = Vec::new();
    for body in [&b""[..], b"\0", &empty_id[..]] {
        let id = p.submit(&message(b"x")).message_id();
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        smsc.respond(&submit, ROK, body);
        world.state(&id, "sent");
        ids.push(id);
    }
    wallet_is(&world, "997.60", "0.00");
    // Nor do receipts without an id find one of them.
    smsc.receipt("", "DELIVRD", "000");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    for id in &ids {
        assert_eq!(world.message(id)["state"], "sent");
    }
    let id = sent(&world, &mut p, &mut smsc, "with-an-id");
    smsc.receipt("with-an-id", "DELIVRD", "000");
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} ")), "{told}");
    silent(&mut p);
    world.reconciles();
}

#[test]
fn a_customer_may_answer_a_delivery_in_every_form() {
    let (world, _script, mut smsc) = linked();
    for version in [0x33, 0x34] {
        let mut p = session(&world, version);
        let mut with_tlvs = vec![0];
        put_tlv(&mut with_tlvs, Tag(0x1401), b"of the vendor");
        for body in [&b""[..], b"\0", b"123\0", &with_tlvs[..]] {
            arrives(&mut smsc, b"hello", b"");
            let got = p.expect(CommandId::DELIVER_SM);
            assert_eq!(got.text(), "hello");
            p.respond(&got, ROK, body);
            deliveries_are(&world, 0);
        }
        silent(&mut p);
    }
}

#[test]
fn unknown_parameters_of_a_submit_do_no_harm() {
    let (world, _script, mut smsc) = linked();
    let mut tlvs = Vec::new();
    put_tlv(&mut tlvs, Tag(0x1401), b"of the vendor");
    put_tlv(&mut tlvs, Tag(0x3FFF), b"");
    for version in [0x34, 0x50] {
        let mut p = session(&world, version);
        let sm = ShortMessage {
            tlvs: Tlvs::parse(&tlvs).unwrap(),
            ..message(b"with parameters")
        };
        assert_eq!(p.submit(&sm).status, ROK);
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        assert_eq!(submit.text(), "with parameters");
        assert!(
            submit.sm().tlvs.is_empty(),
            "they were meant for us, or for nobody"
        );
        smsc.accept(&submit, &format!("u{version}"));
    }
    wallet_is(&world, "998.40", "0.00");
    silent(&mut smsc);
}
