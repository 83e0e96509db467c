//! Message policy over real sockets: senders, suppression, hours, content, rewriting, mobile-originated messages, and what the
//! admin socket and `check` say of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::process::Command;

use common::{Peer, World, eventually, linked, message, scripted, wallet_is};
use serde_json::{Value, json};
use smsconnect::config::{self, rules};
use smsconnect::smpp::{Address, CommandId, CommandStatus, EsmClass, Npi, ShortMessage, Tlvs, Ton};

const ROK: CommandStatus = CommandStatus::ESME_ROK;
const SUPPRESSED: CommandStatus = CommandStatus(0x0401);
const OUTSIDE_HOURS: CommandStatus = CommandStatus(0x0404);
const AGAINST_POLICY: CommandStatus = CommandStatus(0x0406);
const NUMBER: &[u8] = b"254712345678";

fn from<'a>(source: &'a [u8], text: &'a [u8]) -> ShortMessage<'a> {
    let mut sm = message(text);
    sm.source.addr = source;
    sm
}

fn to<'a>(source: &'a [u8], dest: &'a [u8]) -> ShortMessage<'a> {
    let mut sm = from(source, b"hello");
    sm.dest.addr = dest;
    sm
}

/// A message of a handset to a short code.
fn inbound<'a>(from: &'a [u8], text: &'a [u8], tlvs: &'a [u8]) -> ShortMessage<'a> {
    let address = |addr: &'a [u8]| Address {
        ton: Ton(1),
        npi: Npi(1),
        addr,
    };
    ShortMessage {
        source: address(from),
        dest: address(b"22555"),
        esm_class: EsmClass(0),
        short_message: text,
        tlvs: Tlvs::parse(tlvs).unwrap(),
        ..ShortMessage::default()
    }
}

fn sender(id: &str, class: &str) -> config::Sender {
    config::Sender {
        id: id.into(),
        class: class.into(),
        ..Default::default()
    }
}

fn rule(account: &str, keyword: &str) -> config::Inbound {
    config::Inbound {
        address: "22555".into(),
        keyword: (!keyword.is_empty()).then(|| keyword.into()),
        account: account.into(),
        ..Default::default()
    }
}

/// A class rule without hours, so that the time of the day decides nothing.
fn at_any_time() -> rules::Class {
    rules::Class {
        name: "promotional".into(),
        ..Default::default()
    }
}

/// Hours that begin in about two, whatever the time is now.
fn closed_now() -> String {
    let minute = smsconnect::clock::now_ms() / 60_000 % 1_440;
    let clock = |m: u64| format!("{:02}:{:02}", m % 1_440 / 60, m % 60);
    format!("{}-{}", clock(minute + 120), clock(minute + 180))
}

fn call(world: &World, method: &str, params: Value) -> Value {
    world
        .admin(method, params.clone())
        .unwrap_or_else(|e| panic!("{method} {params}: {e}"))
}

/// As an SMSC: takes the next message; its text.
fn sent(smsc: &mut Peer, id: &str) -> String {
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, id);
    got.text()
}

/// The next inbound message on record.
fn delivered(smsc: &mut Peer, sm: &ShortMessage<'_>) {
    smsc.deliver(sm);
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
}

fn range(prefix: &str, operator: &str) -> config::Range {
    config::Range {
        prefix: prefix.into(),
        operator: operator.into(),
        mcc: String::new(),
        mnc: String::new(),
        digits: 0,
    }
}

// Senders.

#[test]
fn a_sender_over_the_admin_socket_is_in_force_for_live_sessions_and_after_a_restart() {
    let (mut world, script, mut smsc, mut p) = linked(|c| {
        c.numbering.ranges = vec![range("2547", "safaricom"), range("2541", "airtel")];
        c.rules.senders.require = true;
        c.rules.senders.reserved = vec!["M-PESA".into()];
    });
    let submit = |p: &mut Peer, id: &[u8]| p.submit(&from(id, b"hello")).status;
    let refused = CommandStatus::ESME_RINVSRCADR;
    assert_eq!(submit(&mut p, b"SHOP"), refused, "not registered");
    let shop = |more: Value| {
        let mut params = json!({"account": "acme", "sender": "SHOP", "operator": "safaricom"});
        params
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().cloned().unwrap());
        params
    };
    let made = call(&world, "sender.register", shop(json!({"class": "transactional"})));
    assert_eq!(made["status"], "pending");
    assert_eq!(submit(&mut p, b"SHOP"), refused, "pending");
    call(&world, "sender.activate", shop(json!({})));
    assert_eq!(submit(&mut p, b"shop"), ROK);
    sent(&mut smsc, "s1");
    assert_eq!(
        p.submit(&to(b"SHOP", b"254101234567")).status,
        refused,
        "not at that operator"
    );
    for (params, code) in [
        (
            json!({"account": "acme", "sender": "MPESA", "class": "promotional"}),
            "E_ARG",
        ),
        (
            json!({"account": "acme", "sender": "SHOP", "class": "promotional"}),
            "E_ARG",
        ),
        (
            json!({"account": "acme", "sender": "TWELVE CHARS", "class": "promotional"}),
            "E_SENDER",
        ),
        (
            json!({"account": "acme", "sender": "X", "class": "other"}),
            "E_ARG",
        ),
        (
            json!({"account": "acme", "sender": "X", "operator": "orange", "class": "promotional"}),
            "E_ARG",
        ),
        (
            json!({"account": "nobody", "sender": "X", "class": "promotional"}),
            "E_NOT_FOUND",
        ),
    ] {
        assert_eq!(
            world.admin("sender.register", params.clone()),
            Err(code.into()),
            "{params}"
        );
    }
    drop((smsc, p));
    world.stop();
    world.start();
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    assert_eq!(submit(&mut p, b"SHOP"), ROK);
    sent(&mut smsc, "s2");
    call(&world, "sender.suspend", shop(json!({})));
    assert_eq!(
        submit(&mut p, b"SHOP"),
        refused,
        "the session that is bound notices"
    );
    let listed = call(&world, "sender.list", json!({"account": "acme"}));
    assert_eq!(listed["items"][0]["status"], "suspended");
    assert_eq!(listed["items"][0]["origin"], "admin");
    call(&world, "sender.revoke", shop(json!({})));
    assert_eq!(
        world.admin("sender.activate", shop(json!({}))),
        Err("E_STATE".into())
    );
}

#[test]
fn sources_are_rewritten_for_an_account_and_for_an_upstream() {
    let rewrite = |account: &str, upstream: &str, from: &str, to: &str| rules::Rewrite {
        account: account.into(),
        upstream: upstream.into(),
        from: from.into(),
        to: to.into(),
    };
    let (_world, _script, mut smsc, mut p) = linked(|c| {
        c.rules.rewrite = vec![
            rewrite("acme", "", "", "ACME"),
            rewrite("acme", "", "old", "NEW"),
            rewrite("other", "", "*", "OTHER"),
            rewrite("", "sim", "shop", "22555"),
        ];
    });
    for (given, wanted, ton, npi) in [
        (&b""[..], &b"ACME"[..], 5, 0),
        (b"OLD", b"NEW", 5, 0),
        (b"SHOP", b"22555", 3, 0),
        (b"ACME", b"ACME", 5, 0),
    ] {
        assert_eq!(p.submit(&from(given, b"hello")).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        let source = got.sm().source;
        assert_eq!((source.addr, source.ton.0, source.npi.0), (wanted, ton, npi));
        smsc.accept(&got, &format!("s-{}", String::from_utf8_lossy(given)));
    }
}

// Suppression.

#[test]
fn a_suppressed_number_is_refused_without_a_debit_and_only_for_whom_it_concerns() {
    let (mut world, script, mut smsc, mut p) = linked(|c| {
        c.sender = vec![sender("BANK", "transactional")];
    });
    world.account("other", "10", json!({}));
    let mut q = world.bound("other");
    let added = call(
        &world,
        "suppression.add",
        json!({"account": "acme", "number": "0712345678", "reason": "asked by phone"}),
    );
    assert_eq!(added["number"], "25471*****78");
    assert_eq!(added["new"], true);
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, SUPPRESSED);
    wallet_is(&world, "acme", "1000.00", "0.00");
    assert_eq!(p.submit(&from(b"BANK", b"123456")).status, ROK, "transactional");
    sent(&mut smsc, "s1");
    assert_eq!(
        q.submit(&from(b"ACME", b"buy")).status,
        ROK,
        "another customer's list"
    );
    sent(&mut smsc, "s2");
    let seen = |account: &str| {
        call(
            &world,
            "suppression.check",
            json!({"account": account, "number": "+254712345678"}),
        )["suppressed"]
            .clone()
    };
    assert_eq!((seen("acme"), seen("other")), (json!(true), json!(false)));
    // The platform's list is everybody's.
    call(
        &world,
        "suppression.add",
        json!({"number": "254799999999", "transactional": true, "source": "dsar"}),
    );
    for (peer, id) in [(&mut p, &b"BANK"[..]), (&mut q, b"ACME")] {
        assert_eq!(peer.submit(&to(id, b"254799999999")).status, SUPPRESSED);
    }
    let dump = std::fs::read(&world.config.store.path).unwrap();
    let wal = std::fs::read(world.config.store.path.with_extension("db-wal")).unwrap_or_default();
    for file in [&dump, &wal] {
        assert!(
            !file.windows(12).any(|w| w == b"254799999999"),
            "the number itself is on no disk"
        );
    }
    drop((smsc, p, q));
    world.stop();
    world.start();
    let _smsc = script.bound();
    let mut p = world.bound("acme");
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, SUPPRESSED);
    assert_eq!(
        world.admin(
            "suppression.remove",
            json!({"account": "acme", "number": "254712345678"})
        ),
        Err("E_ARG".into()),
        "not without a reason"
    );
    call(
        &world,
        "suppression.remove",
        json!({"account": "acme", "number": "254712345678", "reason": "fresh consent C-7"}),
    );
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, ROK);
    let mut metrics = String::new();
    eventually("the hits are counted", || {
        metrics = scrape(&world);
        metrics.contains("smsconnect_suppression_hits_total{scope=\"account\"}")
    });
    assert!(!metrics.contains("2547"), "no number in the metrics");
}

fn scrape(world: &World) -> String {
    use std::io::{Read, Write};
    let addr = world.running.as_ref().unwrap().metrics.unwrap();
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    let _partial = stream.read_to_string(&mut text);
    text
}

#[test]
fn of_many_destinations_the_suppressed_ones_are_named() {
    let (world, _script, mut smsc, mut p) = linked(|_| {});
    call(
        &world,
        "suppression.add",
        json!({"account": "acme", "number": "254712345678"}),
    );
    let mut body = b"\0\x05\0ACME\0\x02".to_vec();
    for number in [&b"254712345678"[..], b"254712345679"] {
        body.extend_from_slice(&[1, 1, 1]);
        body.extend_from_slice(number);
        body.push(0);
    }
    body.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    body.extend_from_slice(b"hi");
    p.request(CommandId::SUBMIT_MULTI, &body);
    let got = p.expect(CommandId::SUBMIT_MULTI_RESP);
    assert_eq!(got.status, ROK);
    let told = smsconnect::smpp::SubmitMultiResp::decode(&got.body).unwrap();
    assert_eq!(told.unsuccessful.len(), 1);
    assert_eq!(told.unsuccessful[0].address.addr, NUMBER);
    assert_eq!(told.unsuccessful[0].status, SUPPRESSED);
    let one = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(one.sm().dest.addr, b"254712345679");
    wallet_is(&world, "acme", "1000.00", "0.80");
}

#[test]
fn lists_are_read_in_and_told_by_hash_page_by_page() {
    let (world, _script) = scripted(|_| {});
    let numbers: Vec<String> = (0..25).map(|n| format!("2547000000{n:02}")).collect();
    let mut with_faults = numbers.clone();
    with_faults.extend(["nonsense".into(), numbers[0].clone()]);
    let import = |dry: bool| {
        call(
            &world,
            "suppression.import",
            json!({"account": "acme", "numbers": with_faults, "dry_run": dry, "reason": "old list"}),
        )
    };
    let told = import(true);
    assert_eq!((&told["new"], &told["valid"]), (&json!(25), &json!(25)));
    assert_eq!(import(false)["new"], 25);
    let again = import(false);
    assert_eq!((&again["new"], &again["known"]), (&json!(0), &json!(25)));
    assert_eq!(again["invalid_lines"], json!([26]));
    let (mut seen, mut cursor) = (std::collections::BTreeSet::new(), Value::Null);
    loop {
        let page = call(
            &world,
            "suppression.list",
            json!({"account": "acme", "limit": 10, "cursor": cursor}),
        );
        for item in page["items"].as_array().unwrap() {
            assert_eq!(item["source"], "import");
            assert!(seen.insert(item["subject"].as_str().unwrap().to_string()));
        }
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(seen.len(), 25);
    assert_eq!(
        world.admin("suppression.add", json!({"number": "12", "account": "acme"})),
        Err("E_MSISDN".into())
    );
    assert_eq!(
        world.admin(
            "suppression.add",
            json!({"number": "254712345678", "account": "acme", "reason": "call 254712345678"})
        ),
        Err("E_ARG".into()),
        "a reason is no place for a number"
    );
}

#[test]
fn the_key_of_numbers_is_made_once_and_a_store_is_not_opened_without_it() {
    use std::os::unix::fs::PermissionsExt;
    let (mut world, _script) = scripted(|_| {});
    let key = world.config.dir.join(&world.config.rules.number_key);
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    call(
        &world,
        "suppression.add",
        json!({"account": "acme", "number": "254712345678"}),
    );
    world.stop();
    std::fs::rename(&key, key.with_extension("away")).unwrap();
    let start = |world: &World| {
        world
            .runtime
            .block_on(async { smsconnect::daemon::start(&world.config).map(|_| ()) })
    };
    let error = start(&world).unwrap_err().to_string();
    assert!(error.contains("number_key"), "{error}");
    std::fs::rename(key.with_extension("away"), &key).unwrap();
    world.start();
}

// Hours, opt-out suffix and frequency.

#[test]
fn a_promotional_message_outside_its_hours_is_held_or_refused() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.sender = vec![sender("DEALS", "promotional"), sender("CODES", "transactional")];
        c.numbering.ranges = vec![range("2547", "safaricom"), range("2541", "airtel")];
        let closed = |operator: &str, outside| rules::Class {
            operator: operator.into(),
            window: closed_now(),
            utc_offset_min: 0,
            outside,
            ..at_any_time()
        };
        c.rules.class = vec![
            closed("", rules::Outside::Hold),
            closed("airtel", rules::Outside::Reject),
        ];
    });
    assert_eq!(p.submit(&to(b"DEALS", b"254101234567")).status, OUTSIDE_HOURS);
    let held = p.submit(&from(b"DEALS", b"sale"));
    assert_eq!(held.status, ROK);
    assert_eq!(p.submit(&from(b"CODES", b"123456")).status, ROK);
    assert_eq!(sent(&mut smsc, "s1"), "123456");
    let id = held.message_id();
    world.state(&id, "waiting");
    wallet_is(&world, "acme", "999.20", "0.80");
    common::silent(&mut smsc);
    // What ends before its hours begin is told so, and its price comes back.
    let mut short = from(b"DEALS", b"flash sale");
    short.validity_period = b"000000000001000R";
    let id = p.submit(&short).message_id();
    let receipt = p.delivery();
    assert!(receipt.text().contains(&id) && receipt.text().contains("stat:EXPIRED"));
    wallet_is(&world, "acme", "999.20", "0.80");
    world.reconciles();
}

#[test]
fn the_opt_out_is_part_of_what_is_sent_and_priced() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.sender = vec![sender("DEALS", "promotional")];
        c.rules.class = vec![rules::Class {
            suffix: " STOP 22555".into(),
            cap: 2,
            ..at_any_time()
        }];
    });
    let text = "x".repeat(150);
    assert_eq!(p.submit(&from(b"DEALS", text.as_bytes())).status, ROK);
    assert_eq!(sent(&mut smsc, "s1"), format!("{text} STOP 22555"));
    wallet_is(&world, "acme", "998.40", "0.00");
    assert_eq!(p.submit(&from(b"ACME", text.as_bytes())).status, ROK);
    assert_eq!(sent(&mut smsc, "s2"), text, "no class, no opt-out");
    wallet_is(&world, "acme", "997.60", "0.00");
    // A third message to the same number is one too many.
    assert_eq!(p.submit(&from(b"DEALS", b"again")).status, ROK);
    sent(&mut smsc, "s3");
    assert_eq!(p.submit(&from(b"DEALS", b"and again")).status, AGAINST_POLICY);
    assert_eq!(p.submit(&to(b"DEALS", b"254712345679")).status, ROK);
    sent(&mut smsc, "s4");
    world.reconciles();
}

/// replace_sm's answer.
fn replaced(p: &mut Peer, id: &str, text: &[u8]) -> CommandStatus {
    let mut body = id.as_bytes().to_vec();
    // message_id, source TON, NPI and address, no times, receipt, default message, text.
    body.extend_from_slice(&[0, 5, 0, 0, 0, 0, 1, 0, text.len() as u8]);
    body.extend_from_slice(text);
    p.request(CommandId::REPLACE_SM, &body);
    p.expect(CommandId::REPLACE_SM_RESP).status
}

#[test]
fn a_replaced_text_is_judged_like_the_first() {
    let (world, script) = scripted(|c| {
        c.sender = vec![sender("DEALS", "promotional")];
        c.rules.class = vec![rules::Class {
            suffix: " STOP 22555".into(),
            ..at_any_time()
        }];
        c.rules.content = vec![
            content("scam", &["pin"], rules::Action::Reject),
            content("betting", &["jackpot"], rules::Action::Hold),
        ];
    });
    let mut p = world.bound("acme");
    let id = p.submit(&from(b"DEALS", b"hello")).message_id();
    assert_eq!(replaced(&mut p, &id, b"your PIN"), AGAINST_POLICY);
    assert_eq!(replaced(&mut p, &id, b"a jackpot"), AGAINST_POLICY);
    let long = "x".repeat(155);
    assert_eq!(replaced(&mut p, &id, long.as_bytes()), ROK);
    wallet_is(&world, "acme", "1000.00", "1.60");
    let mut smsc = script.bound();
    assert_eq!(sent(&mut smsc, "s1"), format!("{long} STOP 22555"));
    wallet_is(&world, "acme", "998.40", "0.00");
    world.reconciles();
}

// Content.

fn content(name: &str, words: &[&str], action: rules::Action) -> rules::Content {
    rules::Content {
        name: name.into(),
        words: words.iter().map(|w| (*w).into()).collect(),
        action,
        ..Default::default()
    }
}

#[test]
fn texts_are_flagged_held_or_refused_and_a_person_decides() {
    let (mut world, script, mut smsc, mut p) = linked(|c| {
        c.rules.content = vec![
            content("swear", &["darn"], rules::Action::Flag),
            content("betting", &["jackpot"], rules::Action::Hold),
            content("scam", &["send your pin"], rules::Action::Reject),
        ];
    });
    assert_eq!(p.submit(&from(b"ACME", b"darn it")).status, ROK);
    assert_eq!(sent(&mut smsc, "s1"), "darn it");
    assert_eq!(
        p.submit(&from(b"ACME", b"Send  your PIN!")).status,
        AGAINST_POLICY
    );
    let go = p.submit(&from(b"ACME", b"the jackpot")).message_id();
    let no = p.submit(&from(b"ACME", b"JACKPOT jackpot")).message_id();
    let held = call(&world, "held.list", json!({}));
    let ids: Vec<&str> = held["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [&go, &no]);
    assert_eq!(held["items"][0]["to"], "25471*****78");
    assert!(!held.to_string().contains("jackpot"), "no text");
    drop((smsc, p));
    world.stop();
    world.start();
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    world.state(&go, "review");
    assert_eq!(
        world.admin("held.show", json!({"id": go})),
        Err("E_REASON_REQUIRED".into())
    );
    let shown = call(&world, "held.show", json!({"id": go, "reason": "review"}));
    assert_eq!(shown["text"], "the jackpot");
    call(&world, "held.release", json!({"id": go}));
    call(&world, "held.reject", json!({"id": no}));
    assert_eq!(sent(&mut smsc, "s2"), "the jackpot");
    let receipt = p.delivery();
    assert!(receipt.text().contains("stat:REJECTD") && receipt.text().contains(&no));
    assert_eq!(
        world.admin("held.release", json!({"id": no})),
        Err("E_NOT_FOUND".into())
    );
    wallet_is(&world, "acme", "998.40", "0.00");
    let open = || {
        call(&world, "case.list", json!({}))["items"]
            .as_array()
            .unwrap()
            .clone()
    };
    eventually("the cases are open", || open().len() == 3);
    let rules: std::collections::BTreeSet<String> = open()
        .iter()
        .map(|c| c["rule"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(rules, ["betting", "scam", "swear"].map(String::from).into());
    let case = open()[0]["case"].clone();
    let closed = call(&world, "case.close", json!({"case": case, "note": "looked at"}));
    assert_eq!(closed["state"], "closed");
    assert_eq!(open().len(), 2);
    let shown = call(&world, "case.show", json!({"case": case}));
    assert_eq!(shown["note"], "looked at");
    world.reconciles();
}

// Mobile-originated messages.

#[test]
fn keywords_and_aliases_find_their_account_and_what_nobody_claims_is_kept() {
    let (world, _script, mut smsc, mut acme) = linked(|c| {
        c.inbound = vec![
            config::Inbound {
                alias: vec!["Habari".into()],
                ..rule("acme", "News")
            },
            rule("other", "BET365"),
        ];
    });
    world.account("other", "1", json!({}));
    let mut other = world.bound("other");
    for (text, mine) in [
        ("NEWS today", true),
        ("habari!", true),
        ("\"news\"", true),
        ("bet365 please", false),
    ] {
        delivered(&mut smsc, &inbound(NUMBER, text.as_bytes(), &[]));
        let peer = if mine { &mut acme } else { &mut other };
        assert_eq!(peer.delivery().text(), text);
    }
    delivered(&mut smsc, &inbound(NUMBER, b"newsletter", &[]));
    let kept = call(&world, "inbound.list", json!({}));
    assert_eq!(kept["total"], 1);
    assert_eq!(kept["items"][0]["from"], "25471*****78");
    assert_eq!(kept["items"][0]["to"], "22555");
    assert!(!kept.to_string().contains("newsletter"));
    common::silent(&mut acme);
    common::silent(&mut other);
}

#[test]
fn stop_reaches_the_account_and_the_next_message_is_refused() {
    let (mut world, script, mut smsc, mut p) = linked(|c| c.inbound = vec![rule("acme", "")]);
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, ROK);
    sent(&mut smsc, "s1");
    wallet_is(&world, "acme", "999.20", "0.00");
    delivered(&mut smsc, &inbound(NUMBER, b"Sitisha", &[]));
    // On record before it was answered: nothing is waited for here.
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, SUPPRESSED);
    assert_eq!(p.delivery().text(), "Sitisha");
    let answer = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(answer.sm().source.addr, b"22555");
    assert_eq!(answer.sm().dest.addr, NUMBER);
    assert!(answer.text().contains("no more messages"));
    smsc.accept(&answer, "s2");
    wallet_is(&world, "acme", "999.20", "0.00");
    drop((smsc, p));
    world.stop();
    world.start();
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, SUPPRESSED);
    let check = call(&world, "suppression.check", json!({"number": "254712345678"}));
    assert_eq!(check["entries"][0]["source"], "mo");
    delivered(&mut smsc, &inbound(NUMBER, b"anza", &[]));
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, ROK);
    world.reconciles();
}

#[test]
fn a_stop_that_comes_while_nobody_is_bound_is_kept_and_in_force() {
    let (world, script) = scripted(|c| c.inbound = vec![rule("acme", "")]);
    let mut smsc = script.bound();
    delivered(&mut smsc, &inbound(NUMBER, b"STOP", &[]));
    let mut p = world.bound("acme");
    assert_eq!(p.delivery().text(), "STOP");
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, SUPPRESSED);
}

#[test]
fn a_link_id_is_carried_to_the_answer_at_its_own_tag() {
    let (_world, _script, mut smsc, mut p) = linked(|c| {
        c.inbound = vec![rule("acme", "")];
        c.upstream[0].link_id_tlv = 0x1501;
    });
    let link = [0x15, 0x01, 0x00, 0x03, b'L', b'4', b'2'];
    delivered(&mut smsc, &inbound(NUMBER, b"NEWS", &link));
    let question = p.delivery();
    assert_eq!(question.sm().tlvs.as_bytes(), &link[..], "the customer sees it");
    assert_eq!(p.submit(&from(b"22555", b"the news")).status, ROK);
    let answer = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(answer.sm().tlvs.as_bytes(), &link[..]);
    smsc.accept(&answer, "s1");
    assert_eq!(p.submit(&from(b"22555", b"more")).status, ROK);
    let second = smsc.expect(CommandId::SUBMIT_SM);
    assert!(second.sm().tlvs.as_bytes().is_empty(), "once");
}

#[test]
fn operators_codes_of_receipts_suppress_for_the_sender() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.upstream[0].errors = [("SenderName Blacklisted".to_string(), 27)].into();
        c.rules.suppress = vec![rules::SuppressOn {
            upstream: "sim".into(),
            errors: vec![27],
            ..Default::default()
        }];
    });
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, ROK);
    sent(&mut smsc, "s1");
    smsc.receipt("s1", "UNDELIV", "027");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    assert_eq!(p.submit(&from(b"ACME", b"buy")).status, SUPPRESSED);
    assert_eq!(p.submit(&from(b"SHOP", b"buy")).status, ROK);
    let check = call(&world, "suppression.check", json!({"number": "254712345678"}));
    assert_eq!(check["entries"][0]["scope"], "sender");
    assert_eq!(check["entries"][0]["source"], "receipt");
}

// `check`.

#[test]
fn bad_rules_are_refused_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    let faults = [
        ("[senders]\nreserved = [\"M-PESA\"]", ""),
        ("[[sender]]\nid = \"ACME\"\nclass = \"promotional\"", ""),
        (
            "[[sender]]\nid = \"acme\"\naccount = \"a\"\nclass = \"transactional\"",
            "cannot be both",
        ),
        ("[[sender]]\nid = \"MPESA\"\nclass = \"promotional\"", "reserved"),
        (
            "[[sender]]\nid = \"TWELVE CHARS\"\nclass = \"promotional\"",
            "at most 11",
        ),
        (
            "[[sender]]\nid = \"A[B]\"\nclass = \"promotional\"",
            "GSM default alphabet",
        ),
        (
            "[[sender]]\nid = \"SH0P\"\naccount = \"a\"\nclass = \"promotional\"",
            "",
        ),
        (
            "[[sender]]\nid = \"shop\"\naccount = \"b\"\nclass = \"promotional\"",
            "looks like",
        ),
        (
            "[[class]]\nname = \"promotional\"\nwindow = \"8-18\"",
            "08:00-18:00",
        ),
        ("[[class]]\nname = \"nosuch\"", "no [[sender]]"),
        ("[[content]]\nname = \"a\"\nregex = \"(a\"", "no pattern"),
        ("[[content]]\nname = \"b\"", "needs words"),
        ("[[rewrite]]\nupstream = \"x\"\nto = \"A\"", "no [[upstream]]"),
        ("[[suppress]]\nscope = \"sender\"", "needs errors"),
        (
            "[[inbound]]\naddress = \"22555\"\naccount = \"a\"\nkeyword = \"Stop\"",
            "[optout] stop",
        ),
        ("[optout]\nstart = [\"ACHA\"]", "stops already"),
    ];
    let text: Vec<&str> = faults.iter().map(|(text, _)| *text).collect();
    std::fs::write(&file, text.join("\n")).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_smsconnect"))
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    let mut line = 1;
    for (text, wanted) in faults {
        let lines = line..line + text.lines().count();
        line = lines.end;
        if wanted.is_empty() {
            continue;
        }
        let told = said
            .lines()
            .any(|l| lines.clone().any(|n| l.contains(&format!("bad.toml:{n}: "))) && l.contains(wanted));
        assert!(told, "lines {lines:?} should say {wanted:?}:\n{said}");
    }
}

#[test]
fn the_key_of_numbers_may_not_stand_beside_the_store() {
    let text = "[privacy]\nnumber_key = \"n.key\"\n[store]\npath = \"g.db\"\n";
    let faults = config::parse(text, std::path::Path::new("/somewhere/c.toml")).unwrap_err();
    assert!(faults[0].to_string().contains("privacy.number_key"), "{faults:?}");
}
