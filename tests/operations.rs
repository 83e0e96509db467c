//! The smaller operations: submit_multi, data_sm, query_sm, cancel_sm, replace_sm, alert_notification, outbind, and those that are
//! not offered.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::TcpListener;

use common::{
    Got, PASSWORD, Peer, Script, World, both_bound, eventually, message, receipt_text, scripted, silent,
    unhex, wallet_is,
};
use serde_json::{Value, json};
use smsconnect::config::{self, ChargeOn, Config, LongMessages};
use smsconnect::session::response_to;
use smsconnect::smpp::{
    self, Address, AlertNotification, Bind, CancelSm, CommandId, CommandStatus, DataCoding, DataSm,
    Destination, EsmClass, Npi, Outbind, QuerySm, QuerySmResp, RegisteredDelivery, ReplaceSm, ShortMessage,
    SmppTime, SubmitMulti, SubmitMultiResp, Tag, Tlvs, Ton, put_tlv,
};

const ROK: CommandStatus = CommandStatus::ESME_ROK;
const NO_BALANCE: CommandStatus = CommandStatus(0x0400);
const NUMBERS: [&str; 3] = ["254712345671", "254712345672", "254712345673"];
/// A number of the gateway's, whose inbound messages are acme's.
const SHORT_CODE: &[u8] = b"22555";

/// A gateway whose SMSC does not answer its bind before the test lets it: what is submitted until then waits.
fn waiting(change: impl FnOnce(&mut Config)) -> (World, Script) {
    scripted(|c| {
        c.customer.bind_timeout_ms = 600_000;
        c.inbound = vec![config::Inbound {
            address: "22555".into(),
            account: "acme".into(),
            ..Default::default()
        }];
        change(c);
    })
}

/// The same with the SMSC bound, and the customer.
fn linked(change: impl FnOnce(&mut Config)) -> (World, Script, Peer, Peer) {
    both_bound(waiting(change))
}

/// Switches the upstream off, so that the script has no connection of it left over.
fn switched_off(world: &World, mut smsc: Peer) {
    world.admin("upstream.disable", json!({"name": "sim"})).unwrap();
    smsc.expect(CommandId::UNBIND);
    drop(smsc);
    eventually("the upstream is down", || {
        world.admin("upstream.list", json!({})).unwrap()["items"][0]["bound"] == 0
    });
}

/// Stops the gateway and starts it again; its upstream is on then, and bound.
fn restarted(world: &mut World, script: Script) -> (Script, Peer) {
    world.stop();
    let again = std::thread::spawn(move || {
        let smsc = script.bound();
        (script, smsc)
    });
    world.start();
    again.join().unwrap()
}

fn acme() -> Address<'static> {
    Address {
        ton: Ton(5),
        npi: Npi(0),
        addr: b"ACME",
    }
}

fn number(digits: &str) -> Address<'_> {
    Address {
        ton: Ton(1),
        npi: Npi(1),
        addr: digits.as_bytes(),
    }
}

fn nobody() -> Address<'static> {
    Address::default()
}

fn to(digits: &str) -> Destination<'_> {
    Destination::Address(number(digits))
}

fn body(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

/// A request and its own response; deliveries that come between are kept for later.
fn ask(peer: &mut Peer, id: CommandId, body: &[u8]) -> Got {
    peer.request(id, body);
    let got = peer.expect(response_to(id));
    assert_eq!(got.sequence, peer.sequence);
    got
}

fn multi(destinations: Vec<Destination<'_>>) -> Vec<u8> {
    let multi = SubmitMulti {
        service_type: b"",
        source: acme(),
        destinations,
        esm_class: EsmClass(0),
        protocol_id: 0,
        priority_flag: 0,
        schedule_delivery_time: b"",
        validity_period: b"",
        registered_delivery: RegisteredDelivery(1),
        replace_if_present: 0,
        data_coding: DataCoding(0),
        sm_default_msg_id: 0,
        short_message: b"hello",
        tlvs: Tlvs::EMPTY,
    };
    body(|out| multi.encode_body(out))
}

/// A submit_multi to the three numbers; its id.
fn three(customer: &mut Peer) -> String {
    let all = NUMBERS.iter().map(|n| to(n)).collect();
    let got = ask(customer, CommandId::SUBMIT_MULTI, &multi(all));
    assert_eq!(got.status, ROK);
    let resp = SubmitMultiResp::decode(&got.body).unwrap();
    assert!(resp.unsuccessful.is_empty(), "{resp:?}");
    String::from_utf8(resp.message_id.to_vec()).unwrap()
}

/// The id of the message `n` places behind the first of a submit_multi, as operators see it.
fn sibling(id: &str, n: u64) -> String {
    (id.parse::<u64>().unwrap() + n).to_string()
}

fn payload(text: &[u8]) -> Vec<u8> {
    body(|out| put_tlv(out, Tag::MESSAGE_PAYLOAD, text))
}

fn data_sm(source: Address<'_>, dest: Address<'_>, esm_class: u8, tlvs: &[u8]) -> Vec<u8> {
    let data = DataSm {
        service_type: b"",
        source,
        dest,
        esm_class: EsmClass(esm_class),
        registered_delivery: RegisteredDelivery(1),
        data_coding: DataCoding(0),
        tlvs: Tlvs::parse(tlvs).unwrap(),
    };
    body(|out| data.encode_body(out))
}

fn query(peer: &mut Peer, id: &str, source: Address<'_>) -> Got {
    let query = QuerySm {
        message_id: id.as_bytes(),
        source,
    };
    ask(peer, CommandId::QUERY_SM, &body(|out| query.encode_body(out)))
}

/// message_state, length of final_date and error_code of a query of one's own message.
fn state(peer: &mut Peer, id: &str) -> (u8, usize, u8) {
    let got = query(peer, id, acme());
    assert_eq!(got.status, ROK, "{id}");
    let resp = QuerySmResp::decode(&got.body).unwrap();
    assert_eq!(resp.message_id, id.as_bytes());
    if !resp.final_date.is_empty() {
        let date = smpp::parse_time(resp.final_date).unwrap();
        assert!(matches!(date, Some(SmppTime::Absolute { .. })), "{date:?}");
    }
    (resp.message_state, resp.final_date.len(), resp.error_code)
}

fn cancel(peer: &mut Peer, id: &str, source: Address<'_>) -> CommandStatus {
    let cancel = CancelSm {
        service_type: b"",
        message_id: id.as_bytes(),
        source,
        dest: nobody(),
    };
    ask(peer, CommandId::CANCEL_SM, &body(|out| cancel.encode_body(out))).status
}

fn cancel_all(peer: &mut Peer, service_type: &[u8], source: Address<'_>, dest: Address<'_>) -> CommandStatus {
    let cancel = CancelSm {
        service_type,
        message_id: b"",
        source,
        dest,
    };
    ask(peer, CommandId::CANCEL_SM, &body(|out| cancel.encode_body(out))).status
}

fn replace_with(peer: &mut Peer, id: &str, text: &[u8], registered: u8, tlvs: &[u8]) -> CommandStatus {
    let replace = ReplaceSm {
        message_id: id.as_bytes(),
        source: acme(),
        schedule_delivery_time: b"",
        validity_period: b"",
        registered_delivery: RegisteredDelivery(registered),
        sm_default_msg_id: 0,
        short_message: text,
        tlvs: Tlvs::parse(tlvs).unwrap(),
    };
    ask(peer, CommandId::REPLACE_SM, &body(|out| replace.encode_body(out))).status
}

fn replace(peer: &mut Peer, id: &str, text: &[u8]) -> CommandStatus {
    replace_with(peer, id, text, 1, b"")
}

/// Submits; our id.
fn submitted(customer: &mut Peer, sm: &ShortMessage<'_>) -> String {
    let got = customer.submit(sm);
    assert_eq!(got.status, ROK);
    got.message_id()
}

/// Submits, lets the SMSC take it under `smsc_id`; our id once that is on record.
fn sent(world: &World, customer: &mut Peer, smsc: &mut Peer, smsc_id: &str) -> String {
    let id = submitted(customer, &message(b"hello"));
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, smsc_id);
    world.state(&id, "sent");
    id
}

/// The SMSC delivers the receipt of a message to `number`; back once it is on record.
fn report(smsc: &mut Peer, smsc_id: &str, number: &str, stat: &str) {
    let text = receipt_text(smsc_id, stat, "000");
    let mut sm = common::receipt(&text);
    sm.source.addr = number.as_bytes();
    smsc.deliver(&sm);
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
}

/// The SMSC takes three submits; under which id each number's.
fn takes_three(smsc: &mut Peer) -> Vec<(String, String)> {
    let mut taken = Vec::new();
    for n in 0..3 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let digits = String::from_utf8(got.sm().dest.addr.to_vec()).unwrap();
        let smsc_id = format!("m{n}");
        smsc.accept(&got, &smsc_id);
        taken.push((digits, smsc_id));
    }
    taken.sort();
    taken
}

fn tlv(got: &Got, tag: Tag) -> Option<Vec<u8>> {
    got.sm().tlvs.get(tag).map(<[u8]>::to_vec)
}

/// A message from a handset to the short code.
fn inbound(text: &[u8]) -> ShortMessage<'_> {
    let mut sm = common::receipt("");
    sm.esm_class = EsmClass(0);
    sm.dest.addr = SHORT_CODE;
    sm.short_message = text;
    sm
}

/// The SMSC delivers a message from a handset; back once it is on record.
fn arrives(smsc: &mut Peer, text: &[u8]) {
    smsc.deliver(&inbound(text));
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
}

fn deliveries_are(world: &World, account: &str, n: u64) {
    eventually(&format!("{n} deliveries wait for {account}"), || {
        world.admin("account.show", json!({"account": account})).unwrap()["waiting_deliveries"] == n
    });
}

/// What the SMSC gets is this and nothing else, in this order; each is taken.
fn only(smsc: &mut Peer, texts: &[&str]) {
    for (n, text) in texts.iter().enumerate() {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        assert_eq!(got.text(), *text);
        smsc.accept(&got, &format!("only-{n}"));
    }
    silent(smsc);
}

// ---- submit_multi ----

#[test]
fn a_submit_multi_names_what_it_did_not_take_and_the_rest_goes_under_one_id() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let destinations = vec![
        to(NUMBERS[0]),
        to("not-a-number"),
        to(NUMBERS[1]),
        Destination::List(b"friends"),
        to(NUMBERS[2]),
    ];
    let got = ask(&mut p, CommandId::SUBMIT_MULTI, &multi(destinations));
    assert_eq!(got.status, ROK);
    let resp = SubmitMultiResp::decode(&got.body).unwrap();
    let not_taken: Vec<(&[u8], CommandStatus)> = resp
        .unsuccessful
        .iter()
        .map(|u| (u.address.addr, u.status))
        .collect();
    assert_eq!(
        not_taken,
        [
            (&b"not-a-number"[..], CommandStatus::ESME_RINVDSTADR),
            (&b"friends"[..], CommandStatus::ESME_RINVDLNAME),
        ]
    );
    let id = String::from_utf8(resp.message_id.to_vec()).unwrap();
    assert!(
        !id.is_empty() && id.bytes().all(|c| c.is_ascii_digit()),
        "one id: {id}"
    );
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "2.40".into()));
    let mut smsc = script.bound();
    let taken = takes_three(&mut smsc);
    let reached: Vec<&str> = taken.iter().map(|(digits, _)| digits.as_str()).collect();
    assert_eq!(reached, NUMBERS);
    for (digits, smsc_id) in &taken {
        report(&mut smsc, smsc_id, digits, "DELIVRD");
    }
    let mut from = Vec::new();
    for _ in 0..3 {
        let got = p.delivery();
        assert!(got.text().starts_with(&format!("id:{id} ")), "{}", got.text());
        assert!(got.text().contains("stat:DELIVRD"), "{}", got.text());
        let in_tlv = tlv(&got, Tag::RECEIPTED_MESSAGE_ID).unwrap();
        assert_eq!(in_tlv, [id.as_bytes(), &[0]].concat());
        from.push(String::from_utf8(got.sm().source.addr.to_vec()).unwrap());
    }
    from.sort();
    assert_eq!(from, NUMBERS, "each from its own number");
    silent(&mut p);
    wallet_is(&world, "acme", "997.60", "0.00");
    world.reconciles();
}

#[test]
fn a_submit_multi_without_a_good_destination_is_refused_and_holds_nothing() {
    let (world, _script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let bad = vec![to("not-a-number"), Destination::List(b"friends"), to("2")];
    let got = ask(&mut p, CommandId::SUBMIT_MULTI, &multi(bad));
    assert_ne!(got.status, ROK);
    let resp = SubmitMultiResp::decode(&got.body).unwrap();
    assert!(resp.message_id.is_empty());
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
    assert_eq!(world.stat("accepted"), 0);
    let none = ask(&mut p, CommandId::SUBMIT_MULTI, &multi(Vec::new()));
    assert_eq!(none.status, CommandStatus::ESME_RINVNUMDESTS);
    silent(&mut p);
    world.reconciles();
}

#[test]
fn a_balance_for_two_of_three_takes_two_and_names_the_third() {
    let (world, _script) = waiting(|_| {});
    world.account("poor", "1.60", json!({}));
    let mut p = world.bound("poor");
    let all = NUMBERS.iter().map(|n| to(n)).collect();
    let got = ask(&mut p, CommandId::SUBMIT_MULTI, &multi(all));
    assert_eq!(got.status, ROK);
    let resp = SubmitMultiResp::decode(&got.body).unwrap();
    assert!(!resp.message_id.is_empty());
    assert_eq!(resp.unsuccessful.len(), 1);
    assert_eq!(resp.unsuccessful[0].address.addr, NUMBERS[2].as_bytes());
    assert_eq!(resp.unsuccessful[0].status, NO_BALANCE);
    assert_eq!(world.wallet("poor"), ("1.60".into(), "1.60".into()));
    world.reconciles();
}

#[test]
fn a_submit_multi_is_delivered_when_all_of_it_is() {
    let (_world, _script, mut smsc, mut p) = linked(|_| {});
    let id = three(&mut p);
    assert_eq!(state(&mut p, &id), (1, 0, 0));
    let taken = takes_three(&mut smsc);
    for (digits, smsc_id) in &taken {
        assert_eq!(state(&mut p, &id), (1, 0, 0), "before {digits}");
        report(&mut smsc, smsc_id, digits, "DELIVRD");
        p.delivery();
    }
    assert_eq!(state(&mut p, &id), (2, 16, 0));
    // The messages behind the first have no id of their own for the customer.
    let second = query(&mut p, &sibling(&id, 1), acme());
    assert_eq!(second.status, CommandStatus::ESME_RINVMSGID);
}

#[test]
fn a_submit_multi_with_one_failure_is_not_delivered() {
    let (_world, _script, mut smsc, mut p) = linked(|_| {});
    let id = three(&mut p);
    for (n, (digits, smsc_id)) in takes_three(&mut smsc).iter().enumerate() {
        let stat = if n == 1 { "UNDELIV" } else { "DELIVRD" };
        report(&mut smsc, smsc_id, digits, stat);
        p.delivery();
    }
    assert_eq!(state(&mut p, &id), (5, 16, 0));
}

#[test]
fn a_cancel_takes_back_all_of_a_submit_multi_that_waits() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let id = three(&mut p);
    assert_eq!(cancel(&mut p, &id, acme()), ROK);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
    for n in 0..3 {
        world.state(&sibling(&id, n), "DELETED");
        assert!(p.delivery().text().contains("stat:DELETED"));
    }
    let mut smsc = script.bound();
    submitted(&mut p, &message(b"marker"));
    only(&mut smsc, &["marker"]);
    world.reconciles();
}

#[test]
fn a_cancel_takes_back_what_waits_of_a_submit_multi_whose_middle_is_over() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        // The two that are refused for the moment wait longer than the test takes.
        c.upstream[0].retry_min_ms = 600_000;
        c.upstream[0].retry_max_ms = 600_000;
    });
    let id = three(&mut p);
    for _ in 0..3 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let status = if got.sm().dest.addr == NUMBERS[1].as_bytes() {
            CommandStatus::ESME_RINVDSTADR
        } else {
            CommandStatus::ESME_RTHROTTLED
        };
        smsc.respond(&got, status, b"");
    }
    world.state(&sibling(&id, 1), "REJECTD");
    eventually("two wait for their next try", || {
        world.admin("queue.show", json!({})).unwrap()["items"][0]["memory"] == 2
    });
    assert_eq!(cancel(&mut p, &id, acme()), ROK);
    for n in [0, 2] {
        world.state(&sibling(&id, n), "DELETED");
    }
    wallet_is(&world, "acme", "1000.00", "0.00");
    world.reconciles();
}

// ---- data_sm ----

#[test]
fn a_data_sm_is_a_message_like_any_other() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let text = payload(b"by data_sm");
    let request = data_sm(acme(), number("254712345678"), 0, &text);
    let got = ask(&mut p, CommandId::DATA_SM, &request);
    assert_eq!(got.status, ROK);
    let id = got.message_id();
    assert!(!id.is_empty());
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(submit.text(), "");
    assert_eq!(tlv(&submit, Tag::MESSAGE_PAYLOAD).unwrap(), b"by data_sm");
    assert_eq!(submit.sm().dest.addr, b"254712345678");
    smsc.accept(&submit, "d1");
    world.state(&id, "sent");
    wallet_is(&world, "acme", "999.20", "0.00");
    smsc.receipt("d1", "DELIVRD", "000");
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} ")), "{told}");
    assert_eq!(state(&mut p, &id), (2, 16, 0));
    world.reconciles();
}

#[test]
fn qos_time_to_live_bounds_the_validity() {
    let (_world, _script, mut smsc, mut p) = linked(|_| {});
    let mut tlvs = payload(b"x");
    put_tlv(&mut tlvs, Tag::QOS_TIME_TO_LIVE, &600u32.to_be_bytes());
    let request = data_sm(acme(), number("254712345678"), 0, &tlvs);
    assert_eq!(ask(&mut p, CommandId::DATA_SM, &request).status, ROK);
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    let left = match smpp::parse_time(submit.sm().validity_period) {
        Ok(Some(SmppTime::Relative { seconds })) => seconds,
        other => panic!("{other:?}"),
    };
    assert!((500..=600).contains(&left), "{left}");
    let mut tlvs = payload(b"x");
    put_tlv(&mut tlvs, Tag::QOS_TIME_TO_LIVE, &[1, 2]);
    let request = data_sm(acme(), number("254712345678"), 0, &tlvs);
    assert_eq!(
        ask(&mut p, CommandId::DATA_SM, &request).status,
        CommandStatus::ESME_RINVPARLEN
    );
}

#[test]
fn a_data_sm_to_an_address_longer_than_any_number_is_refused() {
    let (world, _script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let text = payload(b"x");
    let long = "254712345678000000000";
    assert_eq!(long.len(), 21);
    let request = data_sm(acme(), number(long), 0, &text);
    assert_eq!(
        ask(&mut p, CommandId::DATA_SM, &request).status,
        CommandStatus::ESME_RINVDSTADR
    );
    let request = data_sm(number(long), number("254712345678"), 0, &text);
    assert_eq!(
        ask(&mut p, CommandId::DATA_SM, &request).status,
        CommandStatus::ESME_RINVSRCADR
    );
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
    silent(&mut p);
}

// ---- query_sm ----

#[test]
fn a_query_tells_the_state_the_time_and_the_error() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let good = sent(&world, &mut p, &mut smsc, "q1");
    let bad = sent(&world, &mut p, &mut smsc, "q2");
    assert_eq!(state(&mut p, &good), (1, 0, 0));
    smsc.receipt("q1", "DELIVRD", "000");
    p.delivery();
    assert_eq!(state(&mut p, &good), (2, 16, 0));
    assert_eq!(state(&mut p, &bad), (1, 0, 0));
    smsc.receipt("q2", "UNDELIV", "012");
    p.delivery();
    assert_eq!(state(&mut p, &bad), (5, 16, 12));
}

#[test]
fn a_query_of_what_is_not_ones_own_finds_nothing() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    world.account("rival", "10", json!({}));
    let mut rival = world.bound("rival");
    let open = sent(&world, &mut p, &mut smsc, "q1");
    let over = sent(&world, &mut p, &mut smsc, "q2");
    smsc.receipt("q2", "DELIVRD", "000");
    p.delivery();
    let unknown = CommandStatus::ESME_RINVMSGID;
    for id in [open.as_str(), over.as_str()] {
        assert_eq!(query(&mut rival, id, acme()).status, unknown);
        assert_eq!(query(&mut rival, id, nobody()).status, unknown);
        assert_eq!(query(&mut p, id, number("254700000000")).status, unknown);
        assert_eq!(query(&mut p, id, nobody()).status, ROK, "any source");
    }
    for id in [
        "",
        "letters",
        "12a",
        "1",
        "99999999999999999999",
        "18446744073709551615",
    ] {
        assert_eq!(query(&mut p, id, nobody()).status, unknown, "{id}");
    }
    silent(&mut p);
}

#[test]
fn a_query_is_answered_after_a_restart_too() {
    let (mut world, script, mut smsc, mut p) = linked(|_| {});
    let over = sent(&world, &mut p, &mut smsc, "q1");
    smsc.receipt("q1", "UNDELIV", "012");
    p.delivery();
    let open = sent(&world, &mut p, &mut smsc, "q2");
    switched_off(&world, smsc);
    let waits = submitted(&mut p, &message(b"x"));
    assert_eq!(state(&mut p, &waits), (1, 0, 0));
    drop(p);
    let (_script, _smsc) = restarted(&mut world, script);
    let mut p = world.bound("acme");
    assert_eq!(state(&mut p, &over), (5, 16, 12));
    assert_eq!(state(&mut p, &open), (1, 0, 0));
    assert_eq!(state(&mut p, &waits), (1, 0, 0));
}

#[test]
fn a_malformed_query_is_refused_and_the_session_stays_up() {
    let (world, _script) = waiting(|_| {});
    let mut p = world.bound("acme");
    for broken in [&b""[..], b"123", b"123\0", b"123\0\x05\0ACME"] {
        let got = ask(&mut p, CommandId::QUERY_SM, broken);
        assert_ne!(got.status, ROK, "{broken:?}");
        assert!(got.body.is_empty());
    }
    silent(&mut p);
}

// ---- cancel_sm ----

#[test]
fn a_cancelled_message_is_never_sent_and_costs_nothing() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let told = submitted(&mut p, &message(b"told"));
    let mut quiet = message(b"quiet");
    quiet.registered_delivery = RegisteredDelivery(0);
    let quiet = submitted(&mut p, &quiet);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "1.60".into()));
    assert_eq!(cancel(&mut p, &quiet, acme()), ROK);
    silent(&mut p);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.80".into()));
    assert_eq!(cancel(&mut p, &told, nobody()), ROK, "any source");
    let receipt = p.delivery().text();
    assert!(receipt.starts_with(&format!("id:{told} ")), "{receipt}");
    assert!(receipt.contains("stat:DELETED"), "{receipt}");
    for id in [&told, &quiet] {
        world.state(id, "DELETED");
        assert_eq!(state(&mut p, id), (4, 16, 0));
        assert_eq!(
            cancel(&mut p, id, acme()),
            CommandStatus::ESME_RCANCELFAIL,
            "only once"
        );
    }
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
    let mut smsc = script.bound();
    submitted(&mut p, &message(b"marker"));
    only(&mut smsc, &["marker"]);
    wallet_is(&world, "acme", "999.20", "0.00");
    world.reconciles();
}

#[test]
fn what_was_sent_cannot_be_cancelled() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let too_late = CommandStatus::ESME_RCANCELFAIL;
    let id = submitted(&mut p, &message(b"x"));
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(cancel(&mut p, &id, acme()), too_late, "it is on its way");
    smsc.accept(&submit, "c1");
    world.state(&id, "sent");
    assert_eq!(cancel(&mut p, &id, acme()), too_late, "the SMSC has it");
    smsc.receipt("c1", "DELIVRD", "000");
    assert!(p.delivery().text().contains("stat:DELIVRD"));
    assert_eq!(cancel(&mut p, &id, acme()), too_late, "it is over");
    wallet_is(&world, "acme", "999.20", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn what_was_written_and_never_answered_cannot_be_cancelled_or_replaced() {
    let (world, script, mut smsc, mut p) = linked(|_| {});
    let id = submitted(&mut p, &message(b"x"));
    smsc.expect(CommandId::SUBMIT_SM);
    drop(smsc);
    eventually("it waits for its second try", || {
        world.admin("upstream.show", json!({"name": "sim"})).unwrap()["waiting"] != json!(0)
    });
    assert_eq!(cancel(&mut p, &id, acme()), CommandStatus::ESME_RCANCELFAIL);
    let mut smsc = script.bound();
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&submit, "c1");
    world.state(&id, "sent");
    world.reconciles();
}

#[test]
fn a_message_of_another_account_or_sender_cannot_be_cancelled() {
    let (world, script) = waiting(|_| {});
    world.account("rival", "10", json!({}));
    let (mut p, mut rival) = (world.bound("acme"), world.bound("rival"));
    let id = submitted(&mut p, &message(b"mine"));
    let unknown = CommandStatus::ESME_RINVMSGID;
    assert_eq!(cancel(&mut rival, &id, acme()), unknown);
    assert_eq!(cancel(&mut rival, &id, nobody()), unknown);
    assert_eq!(cancel(&mut p, &id, number("254700000000")), unknown);
    for other in ["letters", "1"] {
        assert_eq!(cancel(&mut p, other, acme()), unknown, "{other}");
    }
    assert_eq!(world.message(&id)["state"], "queued");
    let mut smsc = script.bound();
    only(&mut smsc, &["mine"]);
}

#[test]
fn all_that_waits_for_a_number_can_be_cancelled_at_once() {
    let (world, script) = waiting(|_| {});
    world.account("rival", "10", json!({}));
    let (mut p, mut rival) = (world.bound("acme"), world.bound("rival"));
    let send = |peer: &mut Peer, source: Address<'_>, digits: &str, text: &[u8]| {
        let mut sm = message(text);
        sm.source = source;
        sm.dest = number(digits);
        submitted(peer, &sm)
    };
    let gone = [
        send(&mut p, acme(), NUMBERS[0], b"first"),
        send(&mut p, acme(), NUMBERS[0], b"second"),
    ];
    send(&mut p, acme(), NUMBERS[1], b"another number");
    send(&mut p, number("254700000000"), NUMBERS[0], b"another sender");
    send(&mut rival, acme(), NUMBERS[0], b"another account");
    // In the national form: it is the same number.
    assert_eq!(cancel_all(&mut p, b"", acme(), number("0712345671")), ROK);
    for id in &gone {
        world.state(id, "DELETED");
        assert!(p.delivery().text().contains("stat:DELETED"));
    }
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "1.60".into()));
    assert_eq!(
        cancel_all(&mut p, b"", acme(), number(NUMBERS[0])),
        CommandStatus::ESME_RCANCELFAIL,
        "none is left"
    );
    let mut smsc = script.bound();
    only(
        &mut smsc,
        // Customers take turns.
        &["another number", "another account", "another sender"],
    );
    world.reconciles();
}

#[test]
fn a_service_type_narrows_what_is_cancelled() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let mut alert = message(b"of the service");
    alert.service_type = b"CMT";
    let alert = submitted(&mut p, &alert);
    submitted(&mut p, &message(b"of none"));
    let dest = number("254712345678");
    assert_eq!(
        cancel_all(&mut p, b"WAP", acme(), dest),
        CommandStatus::ESME_RCANCELFAIL
    );
    assert_eq!(cancel_all(&mut p, b"CMT", acme(), dest), ROK);
    world.state(&alert, "DELETED");
    let mut smsc = script.bound();
    only(&mut smsc, &["of none"]);
    wallet_is(&world, "acme", "999.20", "0.00");
    world.reconciles();
}

#[test]
fn a_cancel_of_everything_and_a_cancel_of_nothing_are_refused() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    submitted(&mut p, &message(b"stays"));
    assert_eq!(
        cancel_all(&mut p, b"", acme(), nobody()),
        CommandStatus::ESME_RINVDSTADR
    );
    assert_eq!(
        cancel_all(&mut p, b"", acme(), number(NUMBERS[0])),
        CommandStatus::ESME_RCANCELFAIL
    );
    let mut smsc = script.bound();
    only(&mut smsc, &["stays"]);
}

#[test]
fn a_cancel_that_comes_too_late_takes_no_part_of_a_message_away() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.upstream[0].long_messages = LongMessages::Udh;
        c.upstream[0].retry_min_ms = 500;
        c.upstream[0].retry_max_ms = 500;
    });
    let id = submitted(&mut p, &message(&[b'a'; 200]));
    for _ in 0..2 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.respond(&got, CommandStatus::ESME_RTHROTTLED, b"");
    }
    eventually("both parts wait for their next try", || {
        world.admin("queue.show", json!({})).unwrap()["items"][0]["memory"] == 2
    });
    if cancel(&mut p, &id, acme()) == ROK {
        world.state(&id, "DELETED");
        wallet_is(&world, "acme", "1000.00", "0.00");
    } else {
        for n in 0..2 {
            let got = smsc.expect(CommandId::SUBMIT_SM);
            smsc.accept(&got, &format!("p{n}"));
        }
        world.state(&id, "sent");
        wallet_is(&world, "acme", "998.40", "0.00");
    }
    silent(&mut smsc);
    world.reconciles();
}

// ---- replace_sm ----

#[test]
fn a_replaced_message_is_sent_and_priced_with_its_new_text() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let id = submitted(&mut p, &message(b"old"));
    let price = |held: &str| {
        assert_eq!(world.wallet("acme"), ("1000.00".into(), held.into()));
        assert_eq!(world.message(&id)["price"], held);
        world.reconciles();
    };
    price("0.80");
    assert_eq!(replace(&mut p, &id, &[b'l'; 200]), ROK);
    price("1.60");
    assert_eq!(replace(&mut p, &id, b"new"), ROK);
    price("0.80");
    let mut smsc = script.bound();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.text(), "new");
    assert_eq!(got.sm().dest.addr, b"254712345678");
    assert_eq!(got.sm().source.addr, b"ACME");
    smsc.accept(&got, "r1");
    wallet_is(&world, "acme", "999.20", "0.00");
    smsc.receipt("r1", "DELIVRD", "000");
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} ")), "{told}");
    assert!(told.ends_with("text:new"), "{told}");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_longer_text_costs_what_it_is_long() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let id = submitted(&mut p, &message(b"old"));
    assert_eq!(replace(&mut p, &id, &[b'l'; 200]), ROK);
    let mut smsc = script.bound();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.sm().short_message, [b'l'; 200]);
    smsc.accept(&got, "r1");
    wallet_is(&world, "acme", "998.40", "0.00");
    smsc.receipt("r1", "DELIVRD", "000");
    p.delivery();
    assert_eq!(world.message(&id)["charged"], "1.60");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn where_the_charge_is_earned_at_once_a_replacement_is_charged_and_refunded() {
    let (world, script) = waiting(|c| c.tariff[0].charge_on = ChargeOn::Accepted);
    let mut p = world.bound("acme");
    let id = submitted(&mut p, &message(b"old"));
    wallet_is(&world, "acme", "999.20", "0.00");
    assert_eq!(replace(&mut p, &id, &[b'l'; 200]), ROK);
    wallet_is(&world, "acme", "998.40", "0.00");
    world.reconciles();
    assert_eq!(replace(&mut p, &id, b"new"), ROK);
    wallet_is(&world, "acme", "999.20", "0.00");
    world.reconciles();
    let mut smsc = script.bound();
    only(&mut smsc, &["new"]);
    wallet_is(&world, "acme", "999.20", "0.00");
    world.reconciles();
}

#[test]
fn a_replacement_that_the_balance_does_not_cover_leaves_the_old_text() {
    let (world, script) = waiting(|_| {});
    world.account("poor", "1.00", json!({}));
    let mut p = world.bound("poor");
    let id = submitted(&mut p, &message(b"old"));
    assert_eq!(replace(&mut p, &id, &[b'l'; 200]), NO_BALANCE);
    assert_eq!(world.wallet("poor"), ("1.00".into(), "0.80".into()));
    let mut smsc = script.bound();
    only(&mut smsc, &["old"]);
    eventually("it is charged once", || {
        world.wallet("poor") == ("0.20".to_string(), "0.00".to_string())
    });
    world.reconciles();
}

#[test]
fn what_was_sent_or_is_not_ones_own_cannot_be_replaced() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    world.account("rival", "10", json!({}));
    let mut rival = world.bound("rival");
    let too_late = CommandStatus::ESME_RREPLACEFAIL;
    let id = submitted(&mut p, &message(b"old"));
    let submit = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(replace(&mut p, &id, b"new"), too_late, "it is on its way");
    smsc.accept(&submit, "r1");
    world.state(&id, "sent");
    assert_eq!(replace(&mut p, &id, &[b'l'; 200]), too_late, "the SMSC has it");
    wallet_is(&world, "acme", "999.20", "0.00");
    smsc.receipt("r1", "DELIVRD", "000");
    p.delivery();
    assert_eq!(replace(&mut p, &id, b"new"), too_late, "it is over");
    for id in [id.as_str(), "letters", "1"] {
        let status = replace(&mut rival, id, b"new");
        assert_eq!(status, CommandStatus::ESME_RINVMSGID, "{id}");
    }
    silent(&mut smsc);
    wallet_is(&world, "acme", "999.20", "0.00");
    world.reconciles();
}

#[test]
fn the_receipt_that_the_replacement_asks_for_counts() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let quiet = submitted(&mut p, &message(b"asked first"));
    let mut asked = message(b"asked later");
    asked.registered_delivery = RegisteredDelivery(0);
    let asked = submitted(&mut p, &asked);
    assert_eq!(replace_with(&mut p, &quiet, b"no receipt", 0, b""), ROK);
    assert_eq!(replace_with(&mut p, &asked, b"a receipt", 1, b""), ROK);
    let mut smsc = script.bound();
    for _ in 0..2 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let text = got.text();
        assert_eq!(got.sm().registered_delivery.0 & 3, 1, "the charge depends on it");
        smsc.accept(&got, &format!("r-{}", text.len()));
    }
    report(&mut smsc, "r-10", "254712345678", "DELIVRD");
    report(&mut smsc, "r-9", "254712345678", "DELIVRD");
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{asked} ")), "{told}");
    world.state(&quiet, "DELIVRD");
    silent(&mut p);
    world.reconciles();
}

#[test]
fn a_replacement_survives_a_restart() {
    let (mut world, script, smsc, mut p) = linked(|_| {});
    switched_off(&world, smsc);
    let id = submitted(&mut p, &message(b"old"));
    let text = [b'n'; 200];
    assert_eq!(replace(&mut p, &id, &text), ROK);
    drop(p);
    world.reconciles();
    let (_script, mut smsc) = restarted(&mut world, script);
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.sm().short_message, text);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "1.60".into()));
    smsc.accept(&got, "r1");
    world.state(&id, "sent");
    wallet_is(&world, "acme", "998.40", "0.00");
    silent(&mut smsc);
    world.reconciles();
}

#[test]
fn what_a_restart_has_read_back_can_be_cancelled_and_replaced() {
    let (mut world, script, smsc, mut p) = linked(|_| {});
    switched_off(&world, smsc);
    let gone = submitted(&mut p, &message(b"gone"));
    let changed = submitted(&mut p, &message(b"old"));
    drop(p);
    world.stop();
    world.start();
    // It connects and its bind is not answered yet.
    let mut p = world.bound("acme");
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "1.60".into()));
    assert_eq!(cancel(&mut p, &gone, acme()), ROK);
    assert_eq!(replace(&mut p, &changed, b"new"), ROK);
    assert!(p.delivery().text().contains("stat:DELETED"));
    let mut smsc = script.bound();
    only(&mut smsc, &["new"]);
    world.state(&gone, "DELETED");
    wallet_is(&world, "acme", "999.20", "0.00");
    world.reconciles();
}

#[test]
fn a_payload_is_replaced_as_a_whole() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let old = payload(&[b'o'; 400]);
    let sm = ShortMessage {
        tlvs: Tlvs::parse(&old).unwrap(),
        ..message(b"")
    };
    let id = submitted(&mut p, &sm);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "2.40".into()));
    assert_eq!(replace(&mut p, &id, b"new"), ROK);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.80".into()));
    let mut smsc = script.bound();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.text(), "new");
    assert_eq!(tlv(&got, Tag::MESSAGE_PAYLOAD), None);
    smsc.accept(&got, "r1");
    wallet_is(&world, "acme", "999.20", "0.00");
    world.reconciles();
}

#[test]
fn a_replacement_in_message_payload_arrives_whole() {
    let (world, script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let id = submitted(&mut p, &message(b"old"));
    let text: Vec<u8> = (b'a'..=b'z').cycle().take(400).collect();
    assert_eq!(replace_with(&mut p, &id, b"", 1, &payload(&text)), ROK);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "2.40".into()));
    let mut smsc = script.bound();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    let arrived = tlv(&got, Tag::MESSAGE_PAYLOAD).unwrap_or_else(|| got.sm().short_message.to_vec());
    assert_eq!(arrived.len(), text.len(), "what is paid for is sent");
    assert_eq!(arrived, text);
    smsc.accept(&got, "r1");
    wallet_is(&world, "acme", "997.60", "0.00");
    world.reconciles();
}

// ---- From the SMSC ----

#[test]
fn an_alert_reaches_the_receivers_of_its_account_and_nobody_else() {
    let (world, _script, mut smsc, mut trx) = linked(|_| {});
    world.account("rival", "10", json!({}));
    let mut rx = world.bound_as(CommandId::BIND_RECEIVER, "acme");
    let mut tx = world.bound_as(CommandId::BIND_TRANSMITTER, "acme");
    let mut rival = world.bound("rival");
    let alert = |esme: &'static [u8]| {
        let mut raw = Vec::new();
        // ms_availability_status: available (SMPP 3.4 §5.3.2.30).
        put_tlv(&mut raw, Tag(0x0422), &[0]);
        let alert = AlertNotification {
            source: number("254712345678"),
            esme: Address {
                ton: Ton(0),
                npi: Npi(0),
                addr: esme,
            },
            tlvs: Tlvs::parse(&raw).unwrap(),
        };
        body(|out| alert.encode_body(out))
    };
    smsc.request(CommandId::ALERT_NOTIFICATION, &alert(b"99999"));
    let ours = alert(SHORT_CODE);
    smsc.request(CommandId::ALERT_NOTIFICATION, &ours);
    for peer in [&mut rx, &mut trx] {
        let got = peer.read().unwrap();
        assert_eq!(got.id, CommandId::ALERT_NOTIFICATION);
        assert_eq!(got.body, ours);
        silent(peer);
    }
    silent(&mut tx);
    silent(&mut rival);
    silent(&mut smsc);
}

#[test]
fn an_smsc_may_deliver_with_data_sm() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    let id = sent(&world, &mut p, &mut smsc, "s1");
    let text = payload(receipt_text("s1", "DELIVRD", "000").as_bytes());
    let receipt = data_sm(number("254712345678"), acme(), 0x04, &text);
    let answer = ask(&mut smsc, CommandId::DATA_SM, &receipt);
    assert_eq!(answer.status, ROK);
    assert_eq!(
        world.message(&id)["state"],
        "DELIVRD",
        "on record before the answer"
    );
    let told = p.delivery().text();
    assert!(told.starts_with(&format!("id:{id} ")), "{told}");
    assert!(told.contains("stat:DELIVRD"), "{told}");
    drop(p);
    let code = Address {
        ton: Ton(0),
        npi: Npi(0),
        addr: SHORT_CODE,
    };
    let mo = data_sm(number("254712345678"), code, 0, &payload(b"from a handset"));
    assert_eq!(ask(&mut smsc, CommandId::DATA_SM, &mo).status, ROK);
    deliveries_are(&world, "acme", 1);
    let mut rx = world.bound_as(CommandId::BIND_RECEIVER, "acme");
    let got = rx.delivery();
    assert_eq!(got.sm().source.addr, b"254712345678");
    assert_eq!(got.sm().dest.addr, SHORT_CODE);
    assert_eq!(tlv(&got, Tag::MESSAGE_PAYLOAD).unwrap(), b"from a handset");
    deliveries_are(&world, "acme", 0);
    silent(&mut smsc);
}

// ---- To the customer ----

#[test]
fn who_has_to_show_a_certificate_is_not_called_in_plain_text() {
    let (world, _script) = waiting(|_| {});
    let set = |field: &str, value: serde_json::Value| {
        world.admin("account.update", json!({"account": "acme", field: value}))
    };
    set("certificates", json!(["ab".repeat(32)])).unwrap();
    assert_eq!(set("outbind", json!("127.0.0.1:9")).unwrap_err(), "E_STATE");
    set("certificates", json!([])).unwrap();
    set("outbind", json!("127.0.0.1:9")).unwrap();
    assert_eq!(
        set("certificates", json!(["ab".repeat(32)])).unwrap_err(),
        "E_STATE"
    );
}

#[test]
fn a_customer_who_is_away_is_called_by_outbind() {
    let (world, _script, mut smsc, p) = linked(|_| {});
    drop(p);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let outbind = json!({"account": "acme", "outbind": address, "outbind_password": "knock"});
    world.admin("account.update", outbind).unwrap();
    arrives(&mut smsc, b"are you there");
    let mut called = Peer::over(listener.accept().unwrap().0);
    let got = called.read().unwrap();
    assert_eq!(got.id, CommandId::OUTBIND);
    let hello = Outbind::decode(&got.body).unwrap();
    assert_eq!(hello.system_id, world.config.customer.system_id.as_bytes());
    assert_eq!(hello.password, b"knock");
    assert_eq!(called.bind(CommandId::BIND_RECEIVER, "acme", PASSWORD), ROK);
    assert_eq!(called.delivery().text(), "are you there");
    deliveries_are(&world, "acme", 0);
    silent(&mut called);
}

/// A session of SMPP 3.3.
fn old(world: &World, system_id: &str) -> Peer {
    let mut peer = Peer::connect(world.addr());
    let bind = Bind {
        system_id: system_id.as_bytes(),
        password: PASSWORD.as_bytes(),
        system_type: b"",
        interface_version: 0x33,
        addr_ton: Ton(0),
        addr_npi: Npi(0),
        address_range: b"",
    };
    let got = ask(
        &mut peer,
        CommandId::BIND_TRANSCEIVER,
        &body(|out| bind.encode_body(out)),
    );
    assert_eq!(got.status, ROK);
    peer
}

#[test]
fn an_account_may_have_its_deliveries_as_data_sm() {
    let (world, _script, mut smsc, p) = linked(|_| {});
    drop(p);
    let change = json!({"account": "acme", "deliver_as": "data_sm"});
    let shown = world.admin("account.update", change).unwrap();
    assert_eq!(shown["deliver_as"], "data_sm");
    let mut p = world.bound("acme");
    let id = sent(&world, &mut p, &mut smsc, "s1");
    smsc.receipt("s1", "DELIVRD", "000");
    let got = p.expect(CommandId::DATA_SM);
    let data = DataSm::decode(&got.body).unwrap();
    assert_eq!(data.esm_class, EsmClass(0x04));
    assert_eq!(data.source.addr, b"254712345678");
    assert_eq!(data.dest.addr, b"ACME");
    let text = String::from_utf8_lossy(data.tlvs.get(Tag::MESSAGE_PAYLOAD).unwrap()).into_owned();
    assert!(text.starts_with(&format!("id:{id} ")), "{text}");
    assert!(text.contains("stat:DELIVRD"), "{text}");
    assert_eq!(data.tlvs.get_cstr(Tag::RECEIPTED_MESSAGE_ID), Some(id.as_bytes()));
    p.answer(&got, ROK);
    smsc.deliver(&inbound(b"hello gateway"));
    let got = p.expect(CommandId::DATA_SM);
    let data = DataSm::decode(&got.body).unwrap();
    assert_eq!(data.dest.addr, SHORT_CODE);
    assert_eq!(data.tlvs.get(Tag::MESSAGE_PAYLOAD), Some(&b"hello gateway"[..]));
    p.answer(&got, ROK);
    deliveries_are(&world, "acme", 0);
    silent(&mut p);
    drop(p);
    // data_sm is of 3.4: an older session gets what it knows.
    let mut p = old(&world, "acme");
    smsc.deliver(&inbound(b"hello again"));
    let got = p.delivery();
    assert_eq!(got.text(), "hello again");
    assert!(got.sm().tlvs.is_empty());
    deliveries_are(&world, "acme", 0);
    silent(&mut p);
}

// ---- What is not offered ----

#[test]
fn broadcasts_are_refused_by_their_own_responses() {
    let (world, _script) = waiting(|_| {});
    let mut p = world.bound("acme");
    let path = format!("{}/tests/vectors/smpp-pdus.json", env!("CARGO_MANIFEST_DIR"));
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut seen = 0;
    for (command, id) in [
        ("broadcast_sm", CommandId::BROADCAST_SM),
        ("query_broadcast_sm", CommandId::QUERY_BROADCAST_SM),
        ("cancel_broadcast_sm", CommandId::CANCEL_BROADCAST_SM),
    ] {
        let vectors = all["vectors"].as_array().unwrap();
        for v in vectors.iter().filter(|v| v["command"] == command) {
            let octets = unhex(v["hex"].as_str().unwrap());
            let sequence = u32::from_be_bytes(octets[12..16].try_into().unwrap());
            p.raw(&octets);
            let got = p.read().unwrap();
            assert_eq!((got.id, got.sequence), (response_to(id), sequence), "{}", v["id"]);
            assert_ne!(got.status, ROK, "{}", v["id"]);
            silent(&mut p);
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen}");
    assert_eq!(p.submit(&message(b"x")).status, ROK);
}
