//! Admission over real sockets: every check with its status, its order, and what reaches the SMSC.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Got, Peer, Script, World, eventually, linked, message};
use serde_json::json;
use smsconnect::config;
use smsconnect::money::Money;
use smsconnect::smpp::{
    Address, CommandId, CommandStatus, DataCoding, EsmClass, Npi, ShortMessage, Tag, Tlvs, Ton, put_tlv,
};
use smsconnect::tools::smsc::SmscOptions;

const ROK: CommandStatus = CommandStatus::ESME_ROK;

fn to(number: &str) -> ShortMessage<'_> {
    ShortMessage {
        dest: Address {
            ton: Ton(1),
            npi: Npi(1),
            addr: number.as_bytes(),
        },
        ..message(b"x")
    }
}

#[test]
fn every_reason_has_its_status() {
    let mut world = World::with(SmscOptions::default(), |c| {
        c.route.push(config::Route {
            name: "unpriced".into(),
            prefix: vec!["255".into()],
            to: vec!["sim".into()],
            ..Default::default()
        });
    });
    world.account("acme", "100", json!({"senders": ["ACME", "22555"]}));
    world.account("poor", "0.79", json!({}));
    let mut p = world.bound("acme");
    let cases: Vec<(&str, ShortMessage<'_>, u32)> = vec![
        ("good", message(b"x"), 0),
        (
            "a sender that is not its own",
            ShortMessage {
                source: Address {
                    addr: b"BANK",
                    ..message(b"x").source
                },
                ..message(b"x")
            },
            0x0A,
        ),
        ("no number", to("not-a-number"), 0x0B),
        ("too short a number", to("25471"), 0x0B),
        ("an empty number", to(""), 0x0B),
        ("no route", to("447700900123"), 0x0403),
        (
            "a route without a price is never free",
            to("255712345678"),
            0x0403,
        ),
        (
            "a schedule",
            ShortMessage {
                schedule_delivery_time: b"300101000000000+",
                ..message(b"x")
            },
            0x61,
        ),
        (
            "an unreadable schedule",
            ShortMessage {
                schedule_delivery_time: b"whenever",
                ..message(b"x")
            },
            0x61,
        ),
        (
            "a validity that is over",
            ShortMessage {
                validity_period: b"200101000000000+",
                ..message(b"x")
            },
            0x62,
        ),
        (
            "an unreadable validity",
            ShortMessage {
                validity_period: b"soon",
                ..message(b"x")
            },
            0x62,
        ),
        (
            "priority 9",
            ShortMessage {
                priority_flag: 9,
                ..message(b"x")
            },
            0x06,
        ),
    ];
    for (what, sm, status) in &cases {
        assert_eq!(p.submit(sm).status, CommandStatus(*status), "{what}");
    }
    let mut poor = world.bound("poor");
    assert_eq!(
        poor.submit(&message(b"x")).status,
        CommandStatus(0x0400),
        "no balance"
    );
    assert_eq!(world.wallet("poor"), ("0.79".into(), "0.00".into()));
    assert_eq!(world.stat("accepted"), 1);
    assert_eq!(world.stat("refused"), cases.len() as u64);
    world.reconciles();
    world.stop();
}

#[test]
fn every_field_that_is_wrong_has_the_status_of_its_name() {
    type Change = fn(&mut ShortMessage<'static>);
    let cases: [(&str, Change, CommandStatus); 22] = [
        (
            "service_type of 7",
            |m| m.service_type = b"1234567",
            CommandStatus::ESME_RINVSERTYP,
        ),
        (
            "source of 21",
            |m| m.source.addr = &[b'1'; 21],
            CommandStatus::ESME_RINVSRCADR,
        ),
        (
            "source TON",
            |m| m.source.ton = Ton(8),
            CommandStatus::ESME_RINVSRCTON,
        ),
        (
            "source NPI",
            |m| m.source.npi = Npi(19),
            CommandStatus::ESME_RINVSRCNPI,
        ),
        (
            "destination of 21",
            |m| m.dest.addr = &[b'1'; 21],
            CommandStatus::ESME_RINVDSTADR,
        ),
        (
            "destination TON",
            |m| m.dest.ton = Ton(8),
            CommandStatus::ESME_RINVDSTTON,
        ),
        (
            "destination NPI",
            |m| m.dest.npi = Npi(19),
            CommandStatus::ESME_RINVDSTNPI,
        ),
        (
            "a receipt",
            |m| m.esm_class = EsmClass(0x04),
            CommandStatus::ESME_RINVESMCLASS,
        ),
        (
            "a notification",
            |m| m.esm_class = EsmClass(0x20),
            CommandStatus::ESME_RINVESMCLASS,
        ),
        (
            "priority 4",
            |m| m.priority_flag = 4,
            CommandStatus::ESME_RINVPRTFLG,
        ),
        (
            "a schedule of 17",
            |m| m.schedule_delivery_time = &[b'0'; 17],
            CommandStatus::ESME_RINVSCHED,
        ),
        (
            "a schedule of month 13",
            |m| m.schedule_delivery_time = b"301301000000000+",
            CommandStatus::ESME_RINVSCHED,
        ),
        (
            "a validity of 17",
            |m| m.validity_period = &[b'0'; 17],
            CommandStatus::ESME_RINVEXPIRY,
        ),
        (
            "a validity 13 hours off",
            |m| m.validity_period = b"300101000000052+",
            CommandStatus::ESME_RINVEXPIRY,
        ),
        (
            "registered_delivery, bit 7",
            |m| m.registered_delivery.0 = 0x80,
            CommandStatus::ESME_RINVREGDLVFLG,
        ),
        (
            "replace_if_present",
            |m| m.replace_if_present = 1,
            CommandStatus::ESME_RINVREPFLAG,
        ),
        (
            "a header longer than its text",
            |m| (m.esm_class, m.short_message) = (EsmClass(0x40), b"\x05\x00\x03\x01\x02"),
            CommandStatus::ESME_RINVMSGLEN,
        ),
        (
            "a text twice",
            |m| m.tlvs = Tlvs::parse(b"\x04\x24\0\x01x").unwrap(),
            CommandStatus::ESME_RINVMSGLEN,
        ),
        (
            "sar_total_segments of two octets",
            |m| m.tlvs = Tlvs::parse(b"\x02\x0e\0\x02\0\x02").unwrap(),
            CommandStatus::ESME_RINVPARLEN,
        ),
        ("good: source TON 7", |m| m.source.ton = Ton(7), ROK),
        (
            "good: an acknowledgement of the user",
            |m| m.esm_class = EsmClass(0x10),
            ROK,
        ),
        (
            "good: three days",
            |m| m.validity_period = b"000003000000000R",
            ROK,
        ),
    ];
    let (world, _script, _smsc, mut p) = linked(|_| {});
    for (what, change, status) in cases {
        let mut sm = message(b"x");
        change(&mut sm);
        assert_eq!(p.submit(&sm).status, status, "{what}");
    }
    assert_eq!(world.stat("accepted"), 3);
}

#[test]
fn statuses_can_be_overridden() {
    let world = World::with(SmscOptions::default(), |c| {
        c.status.insert("balance".into(), 0x45);
    });
    world.account("poor", "0", json!({}));
    assert_eq!(
        world.bound("poor").submit(&message(b"x")).status,
        CommandStatus::ESME_RSUBMITFAIL
    );
}

#[test]
fn national_numbers_are_completed_with_the_country_of_the_config() {
    let (_world, _script, mut smsc, mut p) = linked(|_| {});
    for written in [
        "0712345678",
        "712345678",
        "254712345678",
        "+254712345678",
        "00254712345678",
    ] {
        let mut sm = to(written);
        sm.dest.ton = Ton(0);
        assert_eq!(p.submit(&sm).status, ROK, "{written}");
        let got = smsc.expect(CommandId::SUBMIT_SM);
        assert_eq!(got.sm().dest.addr, b"254712345678", "{written}");
        assert_eq!((got.sm().dest.ton, got.sm().dest.npi), (Ton(1), Npi(1)));
        smsc.accept(&got, written);
    }
}

#[test]
fn the_message_arrives_as_it_was_written_and_a_receipt_is_always_asked_for() {
    let (_world, _script, mut smsc, mut p) = linked(|_| {});
    let text: Vec<u8> = (0..=255u8).cycle().take(254).collect();
    let mut sm = message(&text);
    sm.registered_delivery.0 = 0;
    sm.data_coding = DataCoding(4);
    sm.protocol_id = 0x39;
    sm.priority_flag = 2;
    sm.service_type = b"CMT";
    // 254 octets of 8-bit data do not fit one message; half do.
    sm.short_message = &text[..140];
    assert_eq!(p.submit(&sm).status, ROK);
    let got = smsc.expect(CommandId::SUBMIT_SM);
    let sent = got.sm();
    assert_eq!(sent.short_message, &text[..140]);
    assert_eq!(sent.data_coding, DataCoding(4));
    assert_eq!((sent.protocol_id, sent.priority_flag), (0x39, 2));
    assert_eq!(sent.service_type, b"CMT");
    assert_eq!(sent.source.addr, b"ACME");
    assert_eq!(sent.registered_delivery.0 & 3, 1, "the charge depends on it");
}

fn priced(world: &World, p: &mut Peer, sm: &ShortMessage<'_>) -> String {
    let got = p.submit(sm);
    assert_eq!(got.status, ROK);
    world.message(&got.message_id())["price"].as_str().unwrap().into()
}

#[test]
fn segments_are_counted_from_coding_udh_sar_and_payload() {
    let (world, _script, _smsc, mut p) = linked(|_| {});
    let long = vec![b'a'; 254];
    let plain = |n: usize| message(&long[..n]);
    let mut payload = Vec::new();
    put_tlv(&mut payload, Tag::MESSAGE_PAYLOAD, &vec![b'a'; 1_000]);
    let mut sar = Vec::new();
    put_tlv(&mut sar, Tag::SAR_MSG_REF_NUM, &[0, 1]);
    put_tlv(&mut sar, Tag::SAR_TOTAL_SEGMENTS, &[3]);
    put_tlv(&mut sar, Tag::SAR_SEGMENT_SEQNUM, &[1]);
    let udh = [&[5u8, 0, 3, 7, 2, 1][..], &long[..130]].concat();
    let cases: Vec<(&str, ShortMessage<'_>, &str)> = vec![
        ("nothing", plain(0), "0.80"),
        ("160 characters", plain(160), "0.80"),
        ("161 characters", plain(161), "1.60"),
        (
            "70 of UCS-2",
            ShortMessage {
                data_coding: DataCoding(8),
                ..plain(140)
            },
            "0.80",
        ),
        (
            "71 of UCS-2",
            ShortMessage {
                data_coding: DataCoding(8),
                ..plain(142)
            },
            "1.60",
        ),
        (
            "a part with UDH is one segment",
            ShortMessage {
                esm_class: EsmClass(0x40),
                ..message(&udh)
            },
            "0.80",
        ),
        (
            "a part with sar TLVs is one segment",
            ShortMessage {
                tlvs: Tlvs::parse(&sar).unwrap(),
                ..plain(100)
            },
            "0.80",
        ),
        (
            "message_payload of 1,000",
            ShortMessage {
                tlvs: Tlvs::parse(&payload).unwrap(),
                ..plain(0)
            },
            "5.60",
        ),
    ];
    for (what, sm, price) in cases {
        assert_eq!(priced(&world, &mut p, &sm), price, "{what}");
    }
}

#[test]
fn a_payload_beside_a_text_is_refused() {
    let world = World::new();
    world.account("acme", "10", json!({}));
    let mut payload = Vec::new();
    put_tlv(&mut payload, Tag::MESSAGE_PAYLOAD, b"payload");
    let sm = ShortMessage {
        tlvs: Tlvs::parse(&payload).unwrap(),
        ..message(b"text")
    };
    let status = world.bound("acme").submit(&sm).status;
    assert_ne!(status, ROK);
}

#[test]
fn the_rate_is_counted_in_segments_with_a_burst_of_a_second() {
    let world = World::new();
    world.account("acme", "100", json!({"tps": 10}));
    let mut p = world.bound("acme");
    let two = vec![b'a'; 200];
    let statuses: Vec<_> = (0..8).map(|_| p.submit(&message(&two)).status).collect();
    assert_eq!(statuses[..5], [ROK; 5], "ten segments at once");
    assert_eq!(statuses[5], CommandStatus::ESME_RTHROTTLED);
    // Another account is not slowed by it.
    world.account("other", "100", json!({}));
    assert_eq!(world.bound("other").submit(&message(b"x")).status, ROK);
    // And a tenth of a second later there is room for one segment again.
    eventually("the bucket fills up", || p.submit(&message(b"x")).status == ROK);
    let held: u64 = world.stat("accepted");
    assert!(held >= 7, "{held}");
    world.reconciles();
}

#[test]
fn a_message_larger_than_the_burst_still_passes() {
    let world = World::new();
    world.account("acme", "100", json!({"tps": 1}));
    let mut p = world.bound("acme");
    assert_eq!(p.submit(&message(&[b'a'; 250])).status, ROK);
    assert_eq!(p.submit(&message(b"x")).status, CommandStatus::ESME_RTHROTTLED);
}

#[test]
fn beyond_the_window_submits_are_refused_and_the_session_lives() {
    let world = World::new();
    world.account("acme", "1000", json!({"window": 5}));
    let mut p = world.bound("acme");
    // Written at once, read at once: more than five are unanswered for as long as a commit takes.
    let mut burst = Vec::new();
    for _ in 0..200 {
        p.sequence += 1;
        smsconnect::smpp::put_short_message(&mut burst, CommandId::SUBMIT_SM, p.sequence, &message(b"x"));
    }
    p.raw(&burst);
    let answers: Vec<Got> = (0..200).map(|_| p.expect(CommandId::SUBMIT_SM_RESP)).collect();
    let ok = answers.iter().filter(|g| g.status == ROK).count();
    let full = answers
        .iter()
        .filter(|g| g.status == CommandStatus::ESME_RMSGQFUL)
        .count();
    assert_eq!(ok + full, 200);
    assert!(ok >= 5 && full > 0, "{ok} {full}");
    let mut sequences: Vec<u32> = answers.iter().map(|g| g.sequence).collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 200, "each sequence number is answered once");
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    world.reconciles();
}

#[test]
fn ids_are_decimal_at_most_twenty_long_and_never_repeat() {
    let mut world = World::new();
    world.account("acme", "1000", json!({}));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut p = world.bound("acme");
        ids.extend((0..20).map(|_| p.submit(&message(b"x")).message_id()));
        drop(p);
        world.stop();
        world.start();
    }
    assert!(
        ids.iter()
            .all(|id| id.len() <= 20 && id.bytes().all(|c| c.is_ascii_digit()))
    );
    let n = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), n);
}

#[test]
fn longest_prefix_and_most_specific_route_win() {
    let script = Script::new();
    let other = Script::new();
    let (a, b) = (script.addr(), other.addr());
    let world = World::with(SmscOptions::default(), |c| {
        c.upstream = vec![common::upstream("general", a), common::upstream("special", b)];
        let route = |name: &str, prefix: &str, to: &str| config::Route {
            name: name.into(),
            prefix: vec![prefix.into()],
            to: vec![to.into()],
            ..Default::default()
        };
        c.route = vec![route("all", "254", "general"), route("part", "25471", "special")];
        c.tariff[0].price.push(config::Price {
            prefix: "254712".into(),
            price: Money(1_250_000),
            ..config::Price::default()
        });
    });
    world.account("acme", "100", json!({}));
    let (mut general, mut special) = (script.bound(), other.bound());
    let mut p = world.bound("acme");
    assert_eq!(priced(&world, &mut p, &to("254733000000")), "0.80");
    assert_eq!(
        general.expect(CommandId::SUBMIT_SM).sm().dest.addr,
        b"254733000000"
    );
    assert_eq!(priced(&world, &mut p, &to("254712000000")), "1.25");
    assert_eq!(
        special.expect(CommandId::SUBMIT_SM).sm().dest.addr,
        b"254712000000"
    );
}

#[test]
fn many_sessions_on_one_small_balance_never_overdraw() {
    let world = World::new();
    // 100 messages of 0.80.
    world.account("acme", "80", json!({}));
    let addr = world.addr();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut p = Peer::connect(addr);
                assert_eq!(p.bind(CommandId::BIND_TRANSMITTER, "acme", common::PASSWORD), ROK);
                let mut out = Vec::new();
                for sequence in 2..52 {
                    smsconnect::smpp::put_short_message(
                        &mut out,
                        CommandId::SUBMIT_SM,
                        sequence,
                        &message(b"x"),
                    );
                }
                p.raw(&out);
                (0..50)
                    .filter(|_| {
                        let got = p.expect(CommandId::SUBMIT_SM_RESP);
                        assert!(got.status == ROK || got.status == CommandStatus(0x0400));
                        got.status == ROK
                    })
                    .count()
            })
        })
        .collect();
    let accepted: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!(accepted, 100, "exactly what the balance pays for");
    eventually("all are sent and charged", || {
        world.wallet("acme") == ("0.00".to_string(), "0.00".to_string())
    });
    world.reconciles();
}

#[test]
fn a_peer_that_does_not_read_slows_nobody() {
    let world = World::new();
    world.account("deaf", "100000", json!({}));
    world.account("acme", "100", json!({}));
    let mut deaf = world.bound("deaf");
    deaf.stream.set_nonblocking(true).unwrap();
    let mut burst = Vec::new();
    for _ in 0..500 {
        deaf.sequence += 1;
        smsconnect::smpp::put_short_message(&mut burst, CommandId::SUBMIT_SM, deaf.sequence, &message(b"x"));
    }
    // Written until the gateway reads no more, or a lot has gone: never read.
    let mut written = 0usize;
    let mut stuck = 0;
    while stuck < 50 && written < 30_000_000 {
        match std::io::Write::write(&mut deaf.stream, &burst) {
            Ok(n) => written += n,
            Err(_) => {
                stuck += 1;
                std::thread::yield_now();
            }
        }
    }
    let mut p = world.bound("acme");
    for _ in 0..20 {
        assert_eq!(p.submit(&message(b"x")).status, ROK);
    }
}
