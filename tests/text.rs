//! What becomes of a text on its way: parts and their receipts, alphabets, optional parameters, parts of inbound messages put
//! together, an SMSC's own words.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use common::{
    Got, Peer, Script, World, linked, message, receipt, receipt_text, scripted, silent, unhex, wallet_is,
};
use serde_json::{Value, json};
use smsconnect::config::{self, Alphabet, LongMessages};
use smsconnect::smpp::{
    self, Address, CommandId, CommandStatus, DataCoding, EsmClass, Npi, RegisteredDelivery, ShortMessage,
    Tag, Tlvs, Ton,
};
use smsconnect::text::gsm7;

const ROK: CommandStatus = CommandStatus::ESME_ROK;
const UDHI: u8 = 0x40;
const UCS2: u8 = 8;

fn linked_with(form: LongMessages) -> (World, Script, Peer, Peer) {
    linked(|c| c.upstream[0].long_messages = form)
}

/// A text of the default alphabet in which no two parts look alike.
fn letters(n: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(n).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn tlv(tag: Tag, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    smpp::put_tlv(&mut out, tag, value);
    out
}

fn sar(reference: u16, total: u8, part: u8) -> Vec<u8> {
    [
        tlv(Tag::SAR_MSG_REF_NUM, &reference.to_be_bytes()),
        tlv(Tag::SAR_TOTAL_SEGMENTS, &[total]),
        tlv(Tag::SAR_SEGMENT_SEQNUM, &[part]),
    ]
    .concat()
}

/// A part's text behind its user data header.
fn udh(reference: u8, total: u8, part: u8, text: &[u8]) -> Vec<u8> {
    [&[5, 0, 3, reference, total, part][..], text].concat()
}

fn with_tlvs<'a>(text: &'a [u8], tlvs: &'a [u8]) -> ShortMessage<'a> {
    ShortMessage {
        tlvs: Tlvs::parse(tlvs).unwrap(),
        ..message(text)
    }
}

fn with_header(text: &[u8]) -> ShortMessage<'_> {
    ShortMessage {
        esm_class: EsmClass(UDHI),
        ..message(text)
    }
}

fn in_ucs2(text: &[u8]) -> ShortMessage<'_> {
    ShortMessage {
        data_coding: DataCoding(UCS2),
        ..message(text)
    }
}

/// Submits a text of any length in message_payload; its id.
fn submit_long(p: &mut Peer, text: &[u8]) -> String {
    let payload = tlv(Tag::MESSAGE_PAYLOAD, text);
    let got = p.submit(&with_tlvs(b"", &payload));
    assert_eq!(got.status, ROK);
    got.message_id()
}

fn take(smsc: &mut Peer, n: usize) -> Vec<Got> {
    (0..n).map(|_| smsc.expect(CommandId::SUBMIT_SM)).collect()
}

/// Accepts three parts under the ids s1, s2 and s3.
fn accept_three(smsc: &mut Peer) {
    for n in 1..=3 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, &format!("s{n}"));
    }
}

/// The SMSC's receipt for one of its ids, which we confirm.
fn ends(smsc: &mut Peer, id: &str, stat: &str, err: &str) {
    smsc.receipt(id, stat, err);
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
}

/// A part with a header: its place, and the text.
fn part_of(got: &Got) -> ([u8; 3], Vec<u8>) {
    let sm = got.sm();
    assert_eq!(sm.esm_class.0, UDHI);
    assert_eq!(sm.short_message[..3], [5, 0, 3]);
    assert!(sm.tlvs.get(Tag::MESSAGE_PAYLOAD).is_none());
    let place = [sm.short_message[3], sm.short_message[4], sm.short_message[5]];
    (place, sm.short_message[6..].to_vec())
}

/// The place that sar parameters give a part: reference, total, part.
fn sar_of(sm: &ShortMessage<'_>) -> (u16, u8, u8) {
    let reference = sm.tlvs.get(Tag::SAR_MSG_REF_NUM).unwrap();
    (
        u16::from_be_bytes(reference.try_into().unwrap()),
        sm.tlvs.get_u8(Tag::SAR_TOTAL_SEGMENTS).unwrap(),
        sm.tlvs.get_u8(Tag::SAR_SEGMENT_SEQNUM).unwrap(),
    )
}

// Long messages.

#[test]
fn a_long_message_goes_in_three_parts_with_a_header_under_one_id_and_one_price() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Udh);
    let text = letters(400);
    let id = submit_long(&mut p, &text);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "2.40".into()));
    let parts = take(&mut smsc, 3);
    let (first, _) = part_of(&parts[0]);
    let mut joined = Vec::new();
    for (got, n) in parts.iter().zip(1u8..) {
        let (place, text) = part_of(got);
        assert_eq!(place, [first[0], 3, n]);
        assert!(text.len() <= 153);
        assert_eq!(got.sm().registered_delivery.0 & 3, 1);
        joined.extend(text);
    }
    assert_eq!(joined, text);
    silent(&mut smsc);
    for (got, n) in parts.iter().zip(1..) {
        smsc.accept(got, &format!("s{n}"));
    }
    wallet_is(&world, "acme", "997.60", "0.00");
    world.state(&id, "sent");
    silent(&mut p);
    world.reconciles();
}

#[test]
fn a_long_message_goes_in_three_parts_with_parameters() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Sar);
    let text = letters(400);
    let id = submit_long(&mut p, &text);
    let parts = take(&mut smsc, 3);
    let (reference, ..) = sar_of(&parts[0].sm());
    let mut joined = Vec::new();
    for (got, n) in parts.iter().zip(1u8..) {
        let sm = got.sm();
        assert_eq!(sar_of(&sm), (reference, 3, n));
        assert_eq!(sm.esm_class.0 & UDHI, 0);
        assert!(sm.tlvs.get(Tag::MESSAGE_PAYLOAD).is_none());
        joined.extend_from_slice(sm.short_message);
        smsc.accept(got, &format!("s{n}"));
    }
    assert_eq!(joined, text);
    wallet_is(&world, "acme", "997.60", "0.00");
    world.state(&id, "sent");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_long_message_goes_whole_in_message_payload_wherever_its_text_came() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Payload);
    let (long, short) = (letters(400), letters(200));
    submit_long(&mut p, &long);
    assert_eq!(p.submit(&message(&short)).status, ROK);
    for (text, got) in [long, short].iter().zip(take(&mut smsc, 2)) {
        let sm = got.sm();
        assert_eq!(sm.tlvs.get(Tag::MESSAGE_PAYLOAD), Some(&text[..]));
        assert!(sm.short_message.is_empty());
        assert_eq!(sm.esm_class.0 & UDHI, 0);
        smsc.accept(&got, &format!("s{}", text.len()));
    }
    wallet_is(&world, "acme", "996.00", "0.00");
    silent(&mut smsc);
}

#[test]
fn a_long_message_goes_as_it_came_unless_told_otherwise() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let (long, short) = (letters(400), letters(200));
    submit_long(&mut p, &long);
    assert_eq!(p.submit(&message(&short)).status, ROK);
    let got = take(&mut smsc, 2);
    assert_eq!(got[0].sm().tlvs.get(Tag::MESSAGE_PAYLOAD), Some(&long[..]));
    assert!(got[0].sm().short_message.is_empty());
    assert_eq!(got[1].sm().short_message, short);
    assert!(got[1].sm().tlvs.is_empty());
    smsc.accept(&got[0], "s1");
    smsc.accept(&got[1], "s2");
    wallet_is(&world, "acme", "996.00", "0.00");
    silent(&mut smsc);
}

#[test]
fn three_delivered_parts_are_one_delivered_message() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Udh);
    let id = submit_long(&mut p, &letters(400));
    accept_three(&mut smsc);
    for part in ["s3", "s1"] {
        ends(&mut smsc, part, "DELIVRD", "000");
        silent(&mut p);
    }
    ends(&mut smsc, "s2", "DELIVRD", "000");
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} sub:003 dlvrd:003 ")), "{told}");
    assert!(told.contains("stat:DELIVRD err:000"), "{told}");
    world.state(&id, "DELIVRD");
    silent(&mut p);
    wallet_is(&world, "acme", "997.60", "0.00");
    assert_eq!(world.stat("unmatched_receipts"), 0);
    world.reconciles();
}

#[test]
fn one_part_that_fails_fails_the_message_once_all_parts_have_ended() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Udh);
    let id = submit_long(&mut p, &letters(400));
    accept_three(&mut smsc);
    ends(&mut smsc, "s2", "UNDELIV", "009");
    silent(&mut p);
    ends(&mut smsc, "s1", "DELIVRD", "000");
    silent(&mut p);
    world.state(&id, "sent");
    ends(&mut smsc, "s3", "DELIVRD", "000");
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} sub:003 dlvrd:002 ")), "{told}");
    assert!(told.contains("stat:UNDELIV err:009"), "{told}");
    world.state(&id, "UNDELIV");
    silent(&mut p);
    wallet_is(&world, "acme", "997.60", "0.00");
    world.reconciles();
}

#[test]
fn an_account_that_wants_each_gets_a_receipt_for_every_part_under_the_one_id() {
    let (world, _script, mut smsc, _p) = linked_with(LongMessages::Udh);
    world.account("each", "1000", json!({"receipts": "each"}));
    let mut p = world.bound("each");
    let id = submit_long(&mut p, &letters(400));
    accept_three(&mut smsc);
    for (part, stat, err) in [
        ("s1", "DELIVRD", "000"),
        ("s2", "UNDELIV", "009"),
        ("s3", "DELIVRD", "000"),
    ] {
        ends(&mut smsc, part, stat, err);
        let told = p.delivery().text();
        assert!(told.starts_with(&format!("id:{id} sub:001 ")), "{told}");
        assert!(told.contains(&format!("stat:{stat} err:{err}")), "{told}");
    }
    world.state(&id, "UNDELIV");
    silent(&mut p);
    wallet_is(&world, "each", "997.60", "0.00");
    world.reconciles();
}

#[test]
fn a_part_that_is_refused_for_good_is_not_charged() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Udh);
    let id = submit_long(&mut p, &letters(400));
    let parts = take(&mut smsc, 3);
    smsc.accept(&parts[0], "s1");
    smsc.respond(&parts[1], CommandStatus::ESME_RSUBMITFAIL, b"");
    smsc.accept(&parts[2], "s3");
    ends(&mut smsc, "s1", "DELIVRD", "000");
    silent(&mut p);
    ends(&mut smsc, "s3", "DELIVRD", "000");
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} sub:003 dlvrd:002 ")), "{told}");
    assert!(told.contains("stat:REJECTD err:069"), "{told}");
    world.state(&id, "REJECTD");
    wallet_is(&world, "acme", "998.40", "0.00");
    silent(&mut smsc);
    silent(&mut p);
    world.reconciles();
}

#[test]
fn after_a_restart_only_the_part_that_was_never_answered_is_sent_again() {
    let (mut world, script) = scripted(|c| {
        c.upstream[0].long_messages = LongMessages::Udh;
        // The answer that is due never comes.
        c.server.drain_timeout_ms = 2_000;
    });
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let text = letters(400);
    let id = submit_long(&mut p, &text);
    let parts = take(&mut smsc, 3);
    smsc.accept(&parts[0], "s1");
    smsc.accept(&parts[1], "s2");
    wallet_is(&world, "acme", "998.40", "0.80");
    drop(p);
    world.stop();
    drop(smsc);
    world.start();
    assert_eq!(world.wallet("acme"), ("998.40".into(), "0.80".into()));
    let mut smsc = script.bound();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(part_of(&got), part_of(&parts[2]));
    smsc.accept(&got, "s3");
    wallet_is(&world, "acme", "997.60", "0.00");
    silent(&mut smsc);
    let mut p = world.bound("acme");
    for part in ["s1", "s2", "s3"] {
        silent(&mut p);
        ends(&mut smsc, part, "DELIVRD", "000");
    }
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} sub:003 dlvrd:003 ")), "{told}");
    world.state(&id, "DELIVRD");
    assert_eq!(world.stat("unmatched_receipts"), 0);
    world.reconciles();
}

#[test]
fn with_a_window_of_one_the_parts_go_one_after_the_other() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.upstream[0].long_messages = LongMessages::Udh;
        c.upstream[0].window = 1;
    });
    let id = submit_long(&mut p, &letters(400));
    let next = p.submit(&message(b"next")).message_id();
    for n in 1..=3u8 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let ([_, total, part], _) = part_of(&got);
        assert_eq!((total, part), (3, n));
        silent(&mut smsc);
        smsc.accept(&got, &format!("s{n}"));
    }
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.text(), "next");
    smsc.accept(&got, "s4");
    world.state(&id, "sent");
    world.state(&next, "sent");
    wallet_is(&world, "acme", "996.80", "0.00");
}

#[test]
fn parts_that_the_customer_cut_with_a_header_go_to_a_sar_upstream_with_parameters() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Sar);
    for n in 1..=2 {
        let text = udh(0x2A, 2, n, b"part");
        assert_eq!(p.submit(&with_header(&text)).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let sm = got.sm();
        assert_eq!(sar_of(&sm), (0x2A, 2, n));
        assert_eq!((sm.esm_class.0 & UDHI, sm.short_message), (0, &b"part"[..]));
        smsc.accept(&got, &format!("s{n}"));
    }
    wallet_is(&world, "acme", "998.40", "0.00");
}

#[test]
fn parts_that_the_customer_cut_with_a_header_go_to_a_udh_upstream_unchanged() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Udh);
    for n in 1..=2 {
        let text = udh(0x2A, 2, n, b"part");
        assert_eq!(p.submit(&with_header(&text)).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let sm = got.sm();
        assert_eq!((sm.esm_class.0, sm.short_message), (UDHI, &text[..]));
        assert!(sm.tlvs.is_empty());
        smsc.accept(&got, &format!("s{n}"));
    }
    wallet_is(&world, "acme", "998.40", "0.00");
}

#[test]
fn parts_that_the_customer_cut_with_parameters_go_to_a_udh_upstream_with_a_header() {
    let (world, _script, mut smsc, mut p) = linked_with(LongMessages::Udh);
    let wide = [6, 8, 4, 0x12, 0x34, 2, 1];
    let wanted = [
        (sar(0x2A, 2, 1), udh(0x2A, 2, 1, b"part")),
        (sar(0x1234, 2, 1), [&wide[..], &b"part"[..]].concat()),
    ];
    for (tlvs, text) in &wanted {
        assert_eq!(p.submit(&with_tlvs(b"part", tlvs)).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let sm = got.sm();
        assert_eq!((sm.esm_class.0, sm.short_message), (UDHI, &text[..]));
        assert!(sm.tlvs.is_empty());
        smsc.accept(&got, &format!("s{}", got.sequence));
    }
    wallet_is(&world, "acme", "998.40", "0.00");
}

#[test]
fn no_character_is_cut_in_two() {
    let (_world, _script, mut smsc, mut p) = linked_with(LongMessages::Udh);
    // The euro sign's two octets would stand on both sides of the cut at 153, the emoji's two units on both sides of 67.
    let gsm = [&letters(152)[..], &b"\x1b\x65"[..], &letters(20)[..]].concat();
    let ucs2 = utf16(&format!("{}\u{1F600}{}", "x".repeat(66), "y".repeat(10)));
    let sent = [(message(&gsm), 152), (in_ucs2(&ucs2), 132)];
    for (sm, first) in sent {
        assert_eq!(p.submit(&sm).status, ROK);
        let parts = take(&mut smsc, 2);
        let (_, one) = part_of(&parts[0]);
        let (_, two) = part_of(&parts[1]);
        assert_eq!(one.len(), first);
        assert_eq!([one, two].concat(), sm.short_message);
        for got in &parts {
            assert_eq!(got.sm().data_coding, sm.data_coding);
            smsc.accept(got, &format!("s{}", got.sequence));
        }
    }
}

// Alphabets.

/// What a message becomes on its way: data_coding and text.
fn arrives(p: &mut Peer, smsc: &mut Peer, sm: &ShortMessage<'_>) -> (u8, Vec<u8>) {
    assert_eq!(p.submit(sm).status, ROK);
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, &format!("s{}", got.sequence));
    let sm = got.sm();
    assert_eq!(sm.priority_flag, 0);
    (sm.data_coding.0, sm.short_message.to_vec())
}

#[test]
fn an_upstream_of_latin_1_gets_latin_1_and_ucs_2_where_that_lacks_a_character() {
    let (_world, _script, mut smsc, mut p) = linked(|c| c.upstream[0].default_alphabet = Alphabet::Latin1);
    let mut arrives = |sm: &ShortMessage<'_>| arrives(&mut p, &mut smsc, sm);
    assert_eq!(arrives(&message(b"caf\x05 \x1b\x3c")), (0, b"caf\xe9 [".to_vec()));
    assert_eq!(arrives(&message(b"5 \x1b\x65")), (UCS2, utf16("5 €")));
    let ucs2 = utf16("é");
    assert_eq!(
        arrives(&in_ucs2(&ucs2)),
        (UCS2, ucs2.clone()),
        "only data_coding 0 is changed"
    );
}

#[test]
fn an_upstream_of_ascii_gets_ascii_and_ucs_2_where_that_lacks_a_character() {
    let (_world, _script, mut smsc, mut p) = linked(|c| c.upstream[0].default_alphabet = Alphabet::Ascii);
    let mut arrives = |sm: &ShortMessage<'_>| arrives(&mut p, &mut smsc, sm);
    assert_eq!(arrives(&message(b"a\x00b \x1b\x28")), (0, b"a@b {".to_vec()));
    assert_eq!(arrives(&message(b"caf\x05")), (UCS2, utf16("café")));
    assert_eq!(arrives(&message(b"\x1b\x65")), (UCS2, utf16("€")));
}

#[test]
fn an_upstream_of_packed_septets_gets_them_packed_as_others_pack_them() {
    let (_world, _script, mut smsc, mut p) =
        linked(|c| c.upstream[0].default_alphabet = Alphabet::Gsm7Packed);
    let path = format!("{}/tests/vectors/gsm7.json", env!("CARGO_MANIFEST_DIR"));
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut n = 0;
    for v in all["vectors"].as_array().unwrap() {
        let segments = v["segments"].as_array().unwrap();
        if v["encoding"] != "GSM" || segments.len() != 1 || v["units"] == 0 {
            continue;
        }
        let octets = |key: &str| unhex(segments[0][key].as_str().unwrap());
        let text = octets("hex");
        let wanted = (0, octets("packed_hex"));
        assert_eq!(arrives(&mut p, &mut smsc, &message(&text)), wanted, "{}", v["id"]);
        n += 1;
    }
    assert!(n > 20);
}

#[test]
fn an_account_that_writes_latin_1_is_understood() {
    let (world, _script, mut smsc, _p) = linked(|_| {});
    world.account("latin", "1000", json!({"alphabet": "latin1"}));
    let mut p = world.bound("latin");
    let mut arrives = |sm: &ShortMessage<'_>| arrives(&mut p, &mut smsc, sm);
    assert_eq!(arrives(&message(b"caf\xe9")), (0, b"caf\x05".to_vec()));
    let ucs2 = utf16("é");
    assert_eq!(arrives(&in_ucs2(&ucs2)), (UCS2, ucs2.clone()));
}

#[test]
fn typography_is_written_plainly_and_billed_so_for_an_account_that_wants_it() {
    let (world, _script, mut smsc, mut plain) = linked(|_| {});
    world.account("fancy", "1000", json!({"transliterate": true}));
    let mut p = world.bound("fancy");
    let filler = "word ".repeat(18);
    let text = utf16(&format!("\u{201c}{filler}\u{201d} \u{2013} ok"));
    let wanted = format!("\"{filler}\" - ok").into_bytes();
    assert!((71..=100).contains(&wanted.len()));
    assert_eq!(p.submit(&in_ucs2(&text)).status, ROK);
    assert_eq!(world.wallet("fancy"), ("1000.00".into(), "0.80".into()));
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!((got.sm().data_coding.0, got.sm().short_message), (0, &wanted[..]));
    smsc.accept(&got, "s1");
    wallet_is(&world, "fancy", "999.20", "0.00");
    // Another account's is left alone, and costs two.
    assert_eq!(
        arrives(&mut plain, &mut smsc, &in_ucs2(&text)),
        (UCS2, text.clone())
    );
    wallet_is(&world, "acme", "998.40", "0.00");
}

// Optional parameters.

#[test]
fn an_unknown_parameter_stays_with_us_unless_the_upstream_knows_it() {
    let vendor = tlv(Tag(0x1400), b"x");
    let known = tlv(Tag::USER_MESSAGE_REFERENCE, &[0, 7]);
    let both = [&vendor[..], &known[..]].concat();
    for (allowed, wanted) in [(vec![], &known), (vec![0x1400], &both)] {
        let (_world, _script, mut smsc, mut p) = linked(|c| c.upstream[0].tlvs = allowed);
        assert_eq!(p.submit(&with_tlvs(b"hi", &both)).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        assert_eq!(got.sm().tlvs.as_bytes(), &wanted[..]);
        assert_eq!(got.text(), "hi");
    }
}

// Inbound messages.

fn rule(keyword: Option<&str>, account: &str, join: bool) -> config::Inbound {
    config::Inbound {
        address: "22555".into(),
        keyword: keyword.map(str::to_string),
        account: account.into(),
        join,
        ..Default::default()
    }
}

/// A message of a handset to a short code.
fn inbound<'a>(esm_class: u8, text: &'a [u8], tlvs: &'a [u8]) -> ShortMessage<'a> {
    let address = |addr: &'static [u8]| Address {
        ton: Ton(1),
        npi: Npi(1),
        addr,
    };
    ShortMessage {
        source: address(b"254712345678"),
        dest: address(b"22555"),
        esm_class: EsmClass(esm_class),
        registered_delivery: RegisteredDelivery(0),
        ..with_tlvs(text, tlvs)
    }
}

/// Delivers to us, which we confirm.
fn comes(smsc: &mut Peer, sm: &ShortMessage<'_>) {
    let sequence = smsc.deliver(sm);
    let got = smsc.expect(CommandId::DELIVER_SM_RESP);
    assert_eq!((got.status, got.sequence), (ROK, sequence));
}

fn part_comes(smsc: &mut Peer, total: u8, part: u8, text: &[u8]) {
    comes(smsc, &inbound(UDHI, &udh(0x2A, total, part, text), b""));
}

/// The customer gets one message, as if it had never been in parts.
fn gets_whole(p: &mut Peer, text: &str) {
    let got = p.delivery();
    let sm = got.sm();
    assert_eq!(got.text(), text);
    assert_eq!(sm.esm_class.0 & UDHI, 0);
    assert_eq!(sm.source.addr, b"254712345678");
    assert_eq!(sm.dest.addr, b"22555");
    for tag in [
        Tag::SAR_MSG_REF_NUM,
        Tag::SAR_TOTAL_SEGMENTS,
        Tag::SAR_SEGMENT_SEQNUM,
    ] {
        assert!(sm.tlvs.get(tag).is_none(), "{tag}");
    }
}

fn gets_part(p: &mut Peer, total: u8, part: u8, text: &[u8]) {
    let got = p.delivery();
    let sm = got.sm();
    assert_eq!(sm.esm_class.0, UDHI);
    assert_eq!(sm.short_message, udh(0x2A, total, part, text));
}

#[test]
fn inbound_parts_reach_the_customer_as_one_message_in_whatever_order_they_come() {
    let (_world, _script, mut smsc, mut p) = linked(|c| c.inbound = vec![rule(None, "acme", true)]);
    for (n, text) in [(3, "three"), (1, "one ")] {
        part_comes(&mut smsc, 3, n, text.as_bytes());
        silent(&mut p);
    }
    part_comes(&mut smsc, 3, 2, b"two ");
    gets_whole(&mut p, "one two three");
    comes(&mut smsc, &inbound(0, b"world", &sar(0x1234, 2, 2)));
    silent(&mut p);
    comes(&mut smsc, &inbound(0, b"hello ", &sar(0x1234, 2, 1)));
    gets_whole(&mut p, "hello world");
    silent(&mut p);
}

#[test]
fn a_customer_that_does_not_want_them_joined_gets_the_parts_as_they_come() {
    let (_world, _script, mut smsc, mut p) = linked(|c| c.inbound = vec![rule(None, "acme", false)]);
    for (n, text) in [(2, b"two"), (1, b"one")] {
        part_comes(&mut smsc, 2, n, text);
        gets_part(&mut p, 2, n, text);
    }
    let tlvs = sar(0x1234, 2, 1);
    comes(&mut smsc, &inbound(0, b"hello ", &tlvs));
    let got = p.delivery();
    assert_eq!(sar_of(&got.sm()), (0x1234, 2, 1));
    assert_eq!(got.text(), "hello ");
}

#[test]
fn an_incomplete_message_is_delivered_as_it_came_after_its_time() {
    let (_world, _script, mut smsc, mut p) = linked(|c| {
        c.inbound = vec![rule(None, "acme", true)];
        c.customer.join_timeout_ms = 200;
    });
    part_comes(&mut smsc, 3, 2, b"two");
    gets_part(&mut p, 3, 2, b"two");
    silent(&mut p);
}

#[test]
fn parts_before_a_restart_and_the_rest_after_it_are_put_together() {
    let (mut world, script) = scripted(|c| c.inbound = vec![rule(None, "acme", true)]);
    let mut smsc = script.bound();
    part_comes(&mut smsc, 3, 3, b"three");
    part_comes(&mut smsc, 3, 1, b"one ");
    world.stop();
    drop(smsc);
    world.start();
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    silent(&mut p);
    part_comes(&mut smsc, 3, 2, b"two ");
    gets_whole(&mut p, "one two three");
    silent(&mut p);
}

#[test]
fn what_was_put_together_leaves_nothing_behind() {
    let (mut world, script) = scripted(|c| {
        c.inbound = vec![rule(None, "acme", true)];
        c.customer.join_timeout_ms = 2_000;
    });
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    // In one write: parts and whole may come to be on record in one commit.
    let (one, two) = (udh(0x2A, 2, 1, b"one "), udh(0x2A, 2, 2, b"two"));
    let mut out = Vec::new();
    for (text, sequence) in [(&one, 1), (&two, 2)] {
        smpp::put_short_message(
            &mut out,
            CommandId::DELIVER_SM,
            sequence,
            &inbound(UDHI, text, b""),
        );
    }
    smsc.raw(&out);
    for _ in 0..2 {
        assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    }
    gets_whole(&mut p, "one two");
    drop(p);
    world.stop();
    drop(smsc);
    // Whatever was left would be past its time at once.
    world.config.customer.join_timeout_ms = 1;
    world.start();
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    comes(&mut smsc, &inbound(0, b"later", b""));
    let got = p.delivery();
    assert_eq!(got.text(), "later", "and no part of what was delivered");
    silent(&mut p);
}

#[test]
fn a_part_that_comes_twice_does_no_harm() {
    let (_world, _script, mut smsc, mut p) = linked(|c| c.inbound = vec![rule(None, "acme", true)]);
    for _ in 0..2 {
        part_comes(&mut smsc, 2, 1, b"one ");
        silent(&mut p);
    }
    part_comes(&mut smsc, 2, 2, b"two");
    gets_whole(&mut p, "one two");
    silent(&mut p);
}

#[test]
fn a_part_that_comes_again_when_the_whole_is_with_the_customer_is_no_message() {
    let (_world, _script, mut smsc, mut p) = linked(|c| c.inbound = vec![rule(None, "acme", true)]);
    part_comes(&mut smsc, 2, 1, b"one ");
    part_comes(&mut smsc, 2, 2, b"two");
    gets_whole(&mut p, "one two");
    // Alone it would wait for a part that has come long ago. References come round again: other words are another message.
    part_comes(&mut smsc, 2, 1, b"one ");
    part_comes(&mut smsc, 2, 2, b"three");
    part_comes(&mut smsc, 2, 1, b"two and ");
    gets_whole(&mut p, "two and three");
    silent(&mut p);
}

#[test]
fn what_else_the_header_says_is_kept_when_parts_are_joined() {
    let (_world, _script, mut smsc, mut p) = linked(|c| c.inbound = vec![rule(None, "acme", true)]);
    for (n, text) in [(2u8, &b"card"[..]), (1, b"v")] {
        let header = [0x0B, 0x05, 0x04, 0x23, 0xF4, 0, 0, 0x00, 3, 0x2A, 2, n];
        comes(&mut smsc, &inbound(UDHI, &[&header[..], text].concat(), b""));
    }
    let got = p.delivery();
    assert_eq!(got.sm().esm_class.0 & UDHI, UDHI);
    assert_eq!(got.sm().short_message, b"\x06\x05\x04\x23\xf4\0\0vcard");
}

#[test]
fn inbound_text_comes_in_the_customers_alphabet_whatever_the_smscs_is() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.upstream[0].default_alphabet = Alphabet::Latin1;
        c.inbound = vec![rule(None, "acme", true), rule(Some("LATIN"), "latin", true)];
    });
    world.account("latin", "0", json!({"alphabet": "latin1"}));
    let mut latin = world.bound("latin");
    comes(&mut smsc, &inbound(0, b"caf\xe9", b""));
    assert_eq!(p.delivery().sm().short_message, b"caf\x05");
    comes(&mut smsc, &inbound(0, b"latin caf\xe9", b""));
    assert_eq!(latin.delivery().sm().short_message, b"latin caf\xe9");
    // GSM 03.38 has no such letter.
    comes(&mut smsc, &inbound(0, b"\xeb", b""));
    let got = p.delivery();
    assert_eq!(
        (got.sm().data_coding, got.sm().short_message),
        (DataCoding(UCS2), &b"\0\xeb"[..])
    );
}

#[test]
fn parts_of_which_one_is_ucs2_are_joined_in_ucs2() {
    let (_world, _script, mut smsc, mut p) = linked(|c| {
        c.upstream[0].default_alphabet = Alphabet::Latin1;
        c.inbound = vec![rule(None, "acme", true)];
    });
    part_comes(&mut smsc, 2, 1, b"caf\xe9 ");
    part_comes(&mut smsc, 2, 2, b"gar\xe7on");
    let got = p.delivery();
    assert_eq!(got.sm().data_coding, DataCoding(UCS2));
    assert_eq!(got.sm().short_message, utf16("caf\u{e9} gar\u{e7}on"));
}

#[test]
fn a_receipt_is_read_whether_its_smsc_packs_it_or_not() {
    let (_world, _script, mut smsc, mut p) =
        linked(|c| c.upstream[0].default_alphabet = Alphabet::Gsm7Packed);
    for (id, packed) in [("s1", true), ("s2", false)] {
        p.submit(&message(b"x"));
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, id);
        let text = receipt_text(id, "DELIVRD", "000").into_bytes();
        let octets = if packed { gsm7::pack(&text, 0) } else { text };
        comes(
            &mut smsc,
            &ShortMessage {
                short_message: &octets,
                ..receipt("")
            },
        );
        assert!(p.delivery().text().contains("stat:DELIVRD"));
    }
}

#[test]
fn an_upstream_of_3_3_gets_no_optional_parameters() {
    let (_world, _script, mut smsc, mut p) = linked(|c| c.upstream[0].interface_version = 0x33);
    let mut tlvs = Vec::new();
    smpp::put_tlv(&mut tlvs, Tag::MESSAGE_PAYLOAD, &[b'a'; 200]);
    smpp::put_tlv(&mut tlvs, Tag::USER_MESSAGE_REFERENCE, &[0, 1]);
    assert_eq!(p.submit(&with_tlvs(b"", &tlvs)).status, ROK);
    for n in 1..=2 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        assert!(got.sm().tlvs.is_empty());
        assert_eq!(part_of(&got).0[1..], [2, n]);
    }
}

#[test]
fn a_keyword_is_found_in_ucs2() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.inbound = vec![rule(None, "acme", true), rule(Some("NEWS"), "news", true)];
    });
    world.account("news", "0", json!({}));
    let mut news = world.bound("news");
    let text: Vec<u8> = "news \u{43f}\u{440}"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    let sm = ShortMessage {
        data_coding: DataCoding(8),
        ..inbound(0, &text, b"")
    };
    comes(&mut smsc, &sm);
    assert_eq!(news.delivery().sm().short_message, text);
    silent(&mut p);
}

#[test]
fn the_keyword_of_the_first_part_decides_who_gets_the_whole() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.inbound = vec![rule(None, "acme", true), rule(Some("NEWS"), "news", true)];
    });
    world.account("news", "0", json!({}));
    let mut news = world.bound("news");
    part_comes(&mut smsc, 2, 2, b"today");
    part_comes(&mut smsc, 2, 1, b"News of ");
    gets_whole(&mut news, "News of today");
    silent(&mut news);
    silent(&mut p);
}

// An SMSC's own words.

#[test]
fn an_upstreams_own_states_and_errors_are_understood() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        let u = &mut c.upstream[0];
        u.states = [("DELIVERED_TO_HANDSET".to_string(), "DELIVRD".to_string())].into();
        u.errors = [("0dc".to_string(), 220)].into();
    });
    for (stat, err, wanted) in [
        ("DELIVERED_TO_HANDSET", "000", "stat:DELIVRD err:000"),
        ("delivered_to_handset", "0DC", "stat:DELIVRD err:220"),
        ("UNDELIV", "0dc", "stat:UNDELIV err:220"),
    ] {
        let id = p.submit(&message(b"x")).message_id();
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let smsc_id = format!("s{}", got.sequence);
        smsc.accept(&got, &smsc_id);
        ends(&mut smsc, &smsc_id, stat, err);
        let told = p.delivery().text();
        assert!(told.starts_with(&format!("id:{id} ")), "{told}");
        assert!(told.contains(wanted), "{told}");
        world.state(&id, &wanted[5..12]);
    }
}

#[test]
fn a_state_that_nobody_knows_ends_as_unknown_and_its_word_is_shown() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    for stat in ["Banana", "BANANA", "254712345678"] {
        let id = p.submit(&message(b"x")).message_id();
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let smsc_id = format!("s{}", got.sequence);
        smsc.accept(&got, &smsc_id);
        ends(&mut smsc, &smsc_id, stat, "000");
        assert!(p.delivery().text().contains("stat:UNKNOWN"));
        world.state(&id, "UNKNOWN");
    }
    let name = world.config.upstream[0].name.clone();
    let shown = world.admin("upstream.show", json!({"name": name})).unwrap();
    assert_eq!(shown["unknown_stats"], json!({"BANANA": 2, "?": 1}));
}

#[test]
fn a_receipt_in_parameters_alone_has_its_error_there() {
    let (_world, _script, mut smsc, mut p) = linked(|_| {});
    p.submit(&message(b"x"));
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, "s1");
    let mut tlvs = Vec::new();
    smpp::put_tlv(&mut tlvs, Tag::RECEIPTED_MESSAGE_ID, b"s1\0");
    smpp::put_tlv(&mut tlvs, Tag::MESSAGE_STATE, &[5]);
    smpp::put_tlv(&mut tlvs, Tag::NETWORK_ERROR_CODE, &[3, 0, 34]);
    let bare = receipt("");
    comes(
        &mut smsc,
        &ShortMessage {
            tlvs: Tlvs::parse(&tlvs).unwrap(),
            ..bare
        },
    );
    let told = p.delivery().text();
    assert!(told.contains("stat:UNDELIV err:034"), "{told}");
}

#[test]
fn who_asks_for_intermediate_notifications_gets_them() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let sm = ShortMessage {
        registered_delivery: RegisteredDelivery(0x11),
        ..message(b"x")
    };
    let id = p.submit(&sm).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.sm().registered_delivery.0, 0x11);
    smsc.accept(&got, "s1");
    let text = receipt_text("s1", "ENROUTE", "007");
    let notification = ShortMessage {
        esm_class: EsmClass(0x20),
        ..receipt(&text)
    };
    comes(&mut smsc, &notification);
    let told = p.delivery();
    assert_eq!(told.sm().esm_class.0, 0x20);
    assert!(told.text().starts_with(&format!("id:{id} ")), "{}", told.text());
    assert!(told.text().contains("stat:ENROUTE err:007"), "{}", told.text());
    assert_eq!(told.sm().tlvs.get_u8(Tag::MESSAGE_STATE), Some(1));
    assert_eq!(world.message(&id)["state"], "sent");
    ends(&mut smsc, "s1", "DELIVRD", "000");
    let told = p.delivery();
    assert_eq!(told.sm().esm_class.0, 0x04);
    world.state(&id, "DELIVRD");
}

#[test]
fn an_intermediate_notification_ends_nothing() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let id = p.submit(&message(b"x")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, "s1");
    let text = receipt_text("s1", "DELIVRD", "000");
    let notification = ShortMessage {
        esm_class: EsmClass(0x20),
        ..receipt(&text)
    };
    comes(&mut smsc, &notification);
    silent(&mut p);
    assert_eq!(world.message(&id)["state"], "sent");
    ends(&mut smsc, "s1", "UNDELIV", "001");
    let told = p.delivery().text();
    assert!(told.contains("stat:UNDELIV"), "{told}");
    world.state(&id, "UNDELIV");
}

#[test]
fn the_spelling_of_ids_that_was_learned_is_shown() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let shown = || world.admin("upstream.show", json!({"name": "sim"})).unwrap()["id_format"].clone();
    assert_eq!(shown()["form"], Value::Null);
    for n in 0xA_0000..0xA_000Cu32 {
        p.submit(&message(b"x"));
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, &format!("{n:X}"));
        ends(&mut smsc, &n.to_string(), "DELIVRD", "000");
        assert!(p.delivery().text().contains("stat:DELIVRD"));
    }
    let shown = shown();
    assert_eq!(shown["form"], "hex-dec", "{shown}");
    assert_eq!(shown["learned"], true, "{shown}");
    assert_eq!(shown["matched"]["hex-dec"], 12, "{shown}");
    assert_eq!(shown["unmatched"], 0, "{shown}");
}

fn metrics(addr: SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(common::WAIT)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn receipts_that_find_no_message_raise_the_alarm() {
    // One recorder serves a whole process: no other test has an upstream of this name.
    let (world, _script, mut smsc, _p) = linked(|c| {
        c.upstream[0].name = "lost".into();
        c.route[0].to = vec!["lost".into()];
    });
    let addr = world.running.as_ref().unwrap().metrics.unwrap();
    let alarm = "smsconnect_upstream_receipt_match_alarm{upstream=\"lost\"}";
    let is = |n: u8| metrics(addr).lines().any(|l| l == format!("{alarm} {n}"));
    assert!(is(0), "{}", metrics(addr));
    for n in 0..60 {
        ends(&mut smsc, &format!("lost{n}"), "DELIVRD", "000");
    }
    assert!(is(1), "{}", metrics(addr));
    assert_eq!(world.stat("unmatched_receipts"), 60);
}
