//! Which message a receipt means, and what it says of it: early receipts, odd states, addresses not turned round, ids that are
//! spelled in two ways or used twice.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::path::Path;

use common::{Peer, World, eventually, linked, message, receipt_text};
use smsconnect::config::{self, ChargeOn, IdFormat};
use smsconnect::smpp::{Address, CommandId, CommandStatus, ShortMessage, Tag, Tlvs, put_tlv};

const ROK: CommandStatus = CommandStatus::ESME_ROK;

/// Submits, lets the SMSC take it under `smsc_id`; our id.
fn sent(customer: &mut Peer, smsc: &mut Peer, smsc_id: &str) -> String {
    let got = customer.submit(&message(b"x"));
    assert_eq!(got.status, ROK);
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, smsc_id);
    got.message_id()
}

/// The SMSC delivers a receipt; back once it is on record.
fn report(smsc: &mut Peer, sm: &ShortMessage<'_>) {
    smsc.deliver(sm);
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
}

/// As [`report`], in text form, for the number of [`message`].
fn receipt(smsc: &mut Peer, id: &str, stat: &str) {
    let text = receipt_text(id, stat, "000");
    report(smsc, &common::receipt(&text));
}

fn state(world: &World, id: &str) -> String {
    world.message(id)["state"].as_str().unwrap().into()
}

#[test]
fn all_receipts_that_came_before_the_response_count_in_their_order() {
    for charge_on in [ChargeOn::Submitted, ChargeOn::Delivered] {
        let (world, _script, mut smsc, mut customer) = linked(|c| c.tariff[0].charge_on = charge_on);
        let id = customer.submit(&message(b"x")).message_id();
        let submit = smsc.expect(CommandId::SUBMIT_SM);
        receipt(&mut smsc, "500", "ACCEPTD");
        receipt(&mut smsc, "500", "DELIVRD");
        assert_eq!(world.stat("parked_receipts"), 2);
        assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.80".into()));
        smsc.accept(&submit, "500");
        world.state(&id, "DELIVRD");
        eventually("it is charged", || {
            world.wallet("acme") == ("999.20".into(), "0.00".into())
        });
        assert_eq!(world.message(&id)["charged"], "0.80");
        assert_eq!(world.stat("parked_receipts"), 0);
        world.reconciles();
    }
}

#[test]
fn odd_states_are_read_for_what_they_mean() {
    let (world, _script, mut smsc, mut customer) = linked(|_| {});
    // The state in the TLV, the word in the text, what the message becomes.
    for (n, (tlv, stat, shown)) in [
        // SKIPPED (SMPP 5.0 §4.7.15).
        (Some(9), "", "UNDELIV"),
        (Some(9), "SKIPPED", "UNDELIV"),
        // ENROUTE in every receipt: the text says more.
        (Some(1), "DELIVRD", "DELIVRD"),
        (Some(1), "UNDELIV", "UNDELIV"),
        (Some(1), "", "sent"),
        (None, "BANANA", "UNKNOWN"),
    ]
    .into_iter()
    .enumerate()
    {
        let smsc_id = format!("7{n}00");
        let id = sent(&mut customer, &mut smsc, &smsc_id);
        let text = if stat.is_empty() {
            String::new()
        } else {
            receipt_text(&smsc_id, stat, "000")
        };
        let mut raw = Vec::new();
        if let Some(tlv) = tlv {
            put_tlv(
                &mut raw,
                Tag::RECEIPTED_MESSAGE_ID,
                format!("{smsc_id}\0").as_bytes(),
            );
            put_tlv(&mut raw, Tag::MESSAGE_STATE, &[tlv]);
        }
        let mut sm = common::receipt(&text);
        sm.tlvs = Tlvs::parse(&raw).unwrap();
        report(&mut smsc, &sm);
        let after = world.message(&id);
        assert_eq!(after["state"], shown, "{tlv:?} {stat:?}: {after}");
        let over = !["sent", "UNKNOWN"].contains(&shown);
        assert_eq!(!after["done_at"].is_null(), over, "{tlv:?} {stat:?}: {after}");
        if !over {
            // It is still open: what comes next counts.
            receipt(&mut smsc, &smsc_id, "DELIVRD");
            assert_eq!(state(&world, &id), "DELIVRD", "{tlv:?} {stat:?}");
        }
    }
    world.reconciles();
}

#[test]
fn a_receipt_whose_addresses_are_not_turned_round_is_matched() {
    let (world, _script, mut smsc, mut customer) = linked(|_| {});
    let id = sent(&mut customer, &mut smsc, "30");
    let text = receipt_text("30", "DELIVRD", "000");
    let turned = common::receipt(&text);
    // From our sender to somebody else: another message's.
    let foreign = ShortMessage {
        source: turned.dest,
        dest: Address {
            addr: b"254799999999",
            ..turned.source
        },
        ..turned
    };
    report(&mut smsc, &foreign);
    assert_eq!(state(&world, &id), "sent");
    assert_eq!(world.stat("parked_receipts"), 1);
    let as_sent = ShortMessage {
        source: turned.dest,
        dest: turned.source,
        ..turned
    };
    report(&mut smsc, &as_sent);
    assert_eq!(state(&world, &id), "DELIVRD");
}

#[test]
fn a_repeated_receipt_never_ends_another_message() {
    // Decimal 16 is hexadecimal 10: read in another way, the receipt would be the second message's.
    let (world, _script, mut smsc, mut customer) = linked(|_| {});
    let ten = sent(&mut customer, &mut smsc, "10");
    let sixteen = sent(&mut customer, &mut smsc, "16");
    receipt(&mut smsc, "10", "DELIVRD");
    assert_eq!(state(&world, &ten), "DELIVRD");
    for stat in ["DELIVRD", "UNDELIV"] {
        receipt(&mut smsc, "10", stat);
        assert_eq!(state(&world, &sixteen), "sent", "{stat}");
    }
    assert_eq!(state(&world, &ten), "DELIVRD");
    receipt(&mut smsc, "16", "UNDELIV");
    assert_eq!(state(&world, &sixteen), "UNDELIV");
    world.reconciles();
}

/// Twelve messages; of the last two, which are open together, the first's receipt spells the second's id.
fn twelve(in_response: fn(u32) -> String, in_receipt: fn(u32) -> String, last: [u32; 2]) {
    assert_eq!(in_receipt(last[0]), in_response(last[1]));
    let (world, _script, mut smsc, mut customer) = linked(|_| {});
    for n in 0..10 {
        let number = 0x1A2B_3C4D + n * 0x1111;
        let id = sent(&mut customer, &mut smsc, &in_response(number));
        receipt(&mut smsc, &in_receipt(number), "DELIVRD");
        assert_eq!(state(&world, &id), "DELIVRD", "{number}");
    }
    let [first, second] = last.map(|number| sent(&mut customer, &mut smsc, &in_response(number)));
    receipt(&mut smsc, &in_receipt(last[0]), "DELIVRD");
    assert_eq!(state(&world, &first), "DELIVRD", "by now the spelling is known");
    assert_eq!(state(&world, &second), "sent");
    receipt(&mut smsc, &in_receipt(last[1]), "UNDELIV");
    assert_eq!(state(&world, &second), "UNDELIV");
    assert_eq!(world.stat("parked_receipts"), 0);
    assert_eq!(world.stat("unmatched_receipts"), 0);
    world.reconciles();
}

#[test]
fn hexadecimal_in_responses_and_decimal_in_receipts_meet() {
    twelve(|n| format!("{n:X}"), |n| n.to_string(), [0x10, 0x16]);
}

#[test]
fn decimal_in_responses_and_hexadecimal_in_receipts_meet() {
    twelve(|n| n.to_string(), |n| format!("{n:X}"), [16, 10]);
}

#[test]
fn the_spelling_is_configured_in_words_or_in_the_numbers_of_other_gateways() {
    let read = |value: &str| {
        let text = format!(
            "[[upstream]]\nname = \"sim\"\naddress = \"127.0.0.1:2775\"\nid_format = {value}\n[[route]]\nname = \"all\"\nto = [\"sim\"]\n"
        );
        config::parse(&text, Path::new("c.toml")).map(|c| c.upstream[0].id_format)
    };
    for (values, wanted) in [
        (&["\"auto\""][..], IdFormat::Auto),
        (&["0", "0x00", "3", "0x03", "\"same\""][..], IdFormat::Same),
        (&["1", "0x01", "\"hex-dec\""][..], IdFormat::HexDec),
        (&["2", "0x02", "\"dec-hex\""][..], IdFormat::DecHex),
    ] {
        for value in values {
            assert_eq!(read(value), Ok(wanted), "{value}");
        }
    }
    for value in ["4", "0x04", "-1", "1.0", "\"1\"", "\"hex\"", "true"] {
        let faults = read(value).unwrap_err();
        assert_eq!(faults.len(), 1, "{value}: {faults:?}");
        assert_eq!(faults[0].line, 4, "{value}: {faults:?}");
        assert!(faults[0].what.contains("id_format"), "{value}: {faults:?}");
    }
}

#[test]
fn ids_of_128_bits_are_matched_in_any_case_and_to_the_last_digit() {
    let (world, _script, mut smsc, mut customer) = linked(|_| {});
    let written = [
        "F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
        "F81D4FAE-7DEC-11D0-A765-00A0C91E6BF7",
    ];
    let [first, second] = written.map(|smsc_id| sent(&mut customer, &mut smsc, smsc_id));
    receipt(&mut smsc, &written[1].to_lowercase(), "DELIVRD");
    assert_eq!(state(&world, &second), "DELIVRD");
    assert_eq!(state(&world, &first), "sent");
    receipt(&mut smsc, &written[0].to_lowercase(), "UNDELIV");
    assert_eq!(state(&world, &first), "UNDELIV");
    assert_eq!(state(&world, &second), "DELIVRD");
}

#[test]
fn an_id_used_again_for_another_number_belongs_to_the_new_message() {
    let (world, _script, mut smsc, mut customer) = linked(|_| {});
    let old = sent(&mut customer, &mut smsc, "77");
    receipt(&mut smsc, "77", "DELIVRD");
    assert_eq!(state(&world, &old), "DELIVRD");
    let other = Address {
        addr: b"254722000111",
        ..message(b"x").dest
    };
    let new = ShortMessage {
        dest: other,
        ..message(b"x")
    };
    let new = customer.submit(&new).message_id();
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    // Its receipt is here before the response that tells its id: no repetition of the old one's.
    let text = receipt_text("77", "UNDELIV", "000");
    let early = ShortMessage {
        source: other,
        ..common::receipt(&text)
    };
    report(&mut smsc, &early);
    assert_eq!(world.stat("parked_receipts"), 1);
    smsc.accept(&submit, "77");
    world.state(&new, "UNDELIV");
    assert_eq!(state(&world, &old), "DELIVRD");
    assert_eq!(world.stat("parked_receipts"), 0);
    world.reconciles();
}
