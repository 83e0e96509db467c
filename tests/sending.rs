//! Who goes first at an upstream and how fast: turns of customers, urgency, contracts, over real sockets.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{World, both_bound, message, scripted};
use serde_json::json;
use smsconnect::config::Priority;
use smsconnect::smpp::{CommandId, CommandStatus, ShortMessage};

/// The most in any second, wherever it begins.
fn most(at: &[Duration]) -> usize {
    (0..at.len())
        .map(|i| at[i..].partition_point(|t| *t < at[i] + Duration::from_secs(1)))
        .max()
        .unwrap_or(0)
}

/// Submits without waiting for the answers.
fn send_all<'a>(peer: &mut common::Peer, texts: impl Iterator<Item = &'a [u8]>) -> usize {
    let sent = texts.map(|text| peer.send(&message(text))).count();
    for _ in 0..sent {
        let got = peer.expect(CommandId::SUBMIT_SM_RESP);
        assert_eq!(got.status, CommandStatus::ESME_ROK);
    }
    sent
}

#[test]
fn an_smsc_never_sees_more_than_the_contract_in_any_second_and_nearly_all_of_it() {
    let tps = 150u32;
    let (world, script, mut smsc, mut p) = both_bound(scripted(|c| {
        c.upstream[0].tps = tps;
        c.customer.window_max = 1_000;
    }));
    let text: &[u8] = b"x";
    send_all(&mut p, std::iter::repeat_n(text, 600));
    let (start, mut at) = (Instant::now(), Vec::new());
    while at.len() < 600 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        at.push(start.elapsed());
        smsc.accept(&got, &at.len().to_string());
    }
    // What arrives is what was written, but for how long this process took to look at it.
    assert!(most(&at) <= tps as usize + 2, "{} in a second", most(&at));
    // What waits behind a slow reader comes at once, so the rate is judged from the first to the last.
    let rate = 599.0 / (at[599] - at[0]).as_secs_f64();
    assert!(rate >= f64::from(tps) * 0.95, "{rate}");
    drop((world, script));
}

#[test]
fn an_smsc_that_is_too_slow_is_written_to_more_slowly_and_gets_everything_once() {
    let (world, _script, mut smsc, mut p) = both_bound(scripted(|c| {
        c.upstream[0].tps = 200;
        c.upstream[0].retry_min_ms = 50;
        c.upstream[0].retry_max_ms = 100;
    }));
    let texts: Vec<String> = (0..150).map(|n| n.to_string()).collect();
    send_all(&mut p, texts.iter().map(String::as_bytes));
    let (mut taken, mut refused) = (std::collections::BTreeSet::new(), 0);
    while taken.len() < 150 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        if refused < 20 && taken.len() >= 10 {
            refused += 1;
            smsc.respond(&got, CommandStatus::ESME_RTHROTTLED, b"");
        } else {
            assert!(taken.insert(got.text()), "twice");
            smsc.accept(&got, &taken.len().to_string());
        }
        if refused == 20 && taken.len() < 20 {
            let shown = world
                .admin("upstream.show", json!({"name": world.config.upstream[0].name}))
                .unwrap();
            assert!(shown["rate"].as_f64().unwrap() < 200.0, "{shown}");
        }
    }
    assert_eq!(refused, 20);
    world.reconciles();
}

fn urgent(flag: u8) -> ShortMessage<'static> {
    ShortMessage {
        priority_flag: flag,
        ..message(b"otp")
    }
}

/// Two customers at an SMSC of 100 a second whose window is 10: one has 2,000 waiting. After how many others the message of the
/// other came.
fn behind_bulk(change: impl FnOnce(&mut smsconnect::config::Config), sm: &ShortMessage<'_>) -> usize {
    let (world, script) = scripted(|c| {
        c.upstream[0].tps = 100;
        c.upstream[0].window = 10;
        // Most of them wait in the store.
        c.upstream[0].queue_max = 100;
        c.customer.window_max = 2_000;
        change(c);
    });
    world.account("bank", "100", json!({}));
    let more = json!({"account": "acme", "amount": "1000", "provider": "bank", "receipt": "more"});
    world.admin("wallet.topup", more).unwrap();
    let (mut smsc, mut bulk, mut bank) = (script.bound(), world.bound("acme"), world.bound("bank"));
    let text: &[u8] = b"bulk";
    send_all(&mut bulk, std::iter::repeat_n(text, 2_000));
    // What had gone before.
    let mut id = 0;
    for _ in 0..50 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        id += 1;
        smsc.accept(&got, &id.to_string());
    }
    assert_eq!(bank.submit(sm).status, CommandStatus::ESME_ROK);
    let mut before = 0;
    loop {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        id += 1;
        smsc.accept(&got, &id.to_string());
        if got.text() != "bulk" {
            return before;
        }
        before += 1;
    }
}

#[test]
fn bulk_in_memory_and_store_delays_another_customer_by_the_window_and_a_slot() {
    // A commit takes a moment too, in which some more of the other's go.
    let before = behind_bulk(|_| {}, &urgent(0));
    assert!(before <= 10 + 1 + 10, "{before}");
    let before = behind_bulk(|_| {}, &urgent(3));
    assert!(before <= 10 + 1 + 10, "{before}");
}

/// The priority_flag of messages of one customer whose window is one, in the order in which they come.
fn order(world: &World, smsc: &mut common::Peer, flags: &[u8]) -> Vec<String> {
    let mut p = world.bound("acme");
    // The first holds the window of one until all others wait.
    let texts: Vec<String> = flags.iter().enumerate().map(|(n, f)| format!("{f}{n}")).collect();
    let first = {
        p.submit(&message(b"first"));
        smsc.expect(CommandId::SUBMIT_SM)
    };
    for (text, flag) in texts.iter().zip(flags) {
        let sm = ShortMessage {
            priority_flag: *flag,
            ..message(text.as_bytes())
        };
        assert_eq!(p.submit(&sm).status, CommandStatus::ESME_ROK);
    }
    smsc.accept(&first, "0");
    let mut came = Vec::new();
    for n in 0..flags.len() {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        came.push(got.text());
        smsc.accept(&got, &format!("{}", n + 1));
    }
    came
}

#[test]
fn within_a_customer_the_urgent_go_first_in_their_order_and_bulk_is_not_starved() {
    let (world, script) = scripted(|c| {
        c.upstream[0].window = 1;
        c.upstream[0].binds = 1;
    });
    let mut smsc = script.bound();
    let flags: Vec<u8> = (0..60).map(|n| [0, 3][n % 2]).collect();
    let came = order(&world, &mut smsc, &flags);
    for level in ["0", "3"] {
        let of: Vec<usize> = came
            .iter()
            .filter(|t| t.starts_with(level))
            .map(|t| t[1..].parse().unwrap())
            .collect();
        assert!(of.is_sorted() && of.len() == 30, "{came:?}");
    }
    let at = |level| came.iter().position(|t| t.starts_with(level));
    assert_eq!(at('3'), Some(0), "{came:?}");
    assert!(
        at('0').is_some_and(|n| n <= 16),
        "a share of each round: {came:?}"
    );
}

#[test]
fn what_priority_flag_may_ask_for_is_the_operators_to_say() {
    let (world, script) = scripted(|c| {
        c.upstream[0].window = 1;
        c.upstream[0].binds = 1;
        c.priority = vec![Priority {
            account: vec!["acme".into()],
            max: 0,
            ..Priority::default()
        }];
    });
    let mut smsc = script.bound();
    let came = order(&world, &mut smsc, &[0, 3, 0, 3]);
    assert_eq!(came, ["00", "31", "02", "33"]);
}

/// In so many seconds, as SMPP writes it.
fn in_seconds(n: u64) -> Vec<u8> {
    smsconnect::smpp::relative_time(n).to_vec()
}

fn scheduled(at: &[u8]) -> ShortMessage<'_> {
    ShortMessage {
        schedule_delivery_time: at,
        ..message(b"later")
    }
}

#[test]
fn a_scheduled_message_goes_at_its_time_and_survives_a_restart() {
    let (mut world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let start = Instant::now();
    let id = p.submit(&scheduled(&in_seconds(3))).message_id();
    let mut absolute = Vec::new();
    let day = smsconnect::clock::now_ms() + 86_400_000;
    smsconnect::smpp::format_absolute(day, &mut absolute);
    let far = p.submit(&scheduled(&absolute)).message_id();
    assert_eq!(world.message(&id)["state"], "scheduled");
    common::eventually("it is on record alone", || {
        world.message(&far)["state"] == "scheduled"
    });
    common::silent(&mut smsc);
    drop(smsc);
    drop(p);
    world.stop();
    let again = std::thread::spawn(move || (script.bound(), script));
    world.start();
    let (mut smsc, _script) = again.join().unwrap();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    // Its clock follows the wall clock by a fiftieth at most.
    let early = Duration::from_millis(3_000 - 3_000 / 50 - 2);
    assert!(start.elapsed() >= early, "never early: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(8));
    smsc.accept(&got, "1");
    world.state(&id, "sent");
    assert_eq!(world.message(&far)["state"], "scheduled");
    common::silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_time_too_far_ahead_or_long_past_is_no_schedule() {
    let (world, _script, mut smsc, mut p) = both_bound(scripted(|c| c.customer.schedule_max_s = 3_600));
    for at in [
        in_seconds(3_700),
        b"200101000000000+".to_vec(),
        b"whenever".to_vec(),
    ] {
        assert_eq!(p.submit(&scheduled(&at)).status, CommandStatus::ESME_RINVSCHED);
    }
    assert_eq!(
        p.submit(&scheduled(&in_seconds(3_500))).status,
        CommandStatus::ESME_ROK
    );
    common::silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_validity_that_ends_before_the_time_expires_the_message_and_gives_the_money_back() {
    let (world, _script, mut smsc, mut p) = both_bound(scripted(|_| {}));
    let (at, valid) = (in_seconds(3_000), in_seconds(1));
    let sm = ShortMessage {
        validity_period: &valid,
        ..scheduled(&at)
    };
    let id = p.submit(&sm).message_id();
    let got = p.delivery();
    assert!(
        got.text().contains(&id) && got.text().contains("stat:EXPIRED"),
        "{}",
        got.text()
    );
    common::wallet_is(&world, "acme", "1000.00", "0.00");
    common::silent(&mut smsc);
    world.reconciles();
}

#[test]
fn a_scheduled_message_is_cancelled_and_its_money_comes_back() {
    let (world, _script, mut smsc, mut p) = both_bound(scripted(|_| {}));
    // One that is kept by its key alone, and one whose time is near.
    for n in [86_400, 200] {
        let id = p.submit(&scheduled(&in_seconds(n))).message_id();
        assert_eq!(world.message(&id)["state"], "scheduled");
        let cancelled = world.admin("message.cancel", json!({"id": id}));
        if cancelled.is_err() {
            let mut body = vec![0];
            body.extend_from_slice(format!("{id}\0").as_bytes());
            body.extend_from_slice(&[5, 0]);
            body.extend_from_slice(b"ACME\0");
            body.extend_from_slice(&[1, 1]);
            body.extend_from_slice(b"254712345678\0");
            p.request(CommandId::CANCEL_SM, &body);
            let got = p.expect(CommandId::CANCEL_SM_RESP);
            assert_eq!(got.status, CommandStatus::ESME_ROK);
        }
        world.state(&id, "DELETED");
    }
    common::wallet_is(&world, "acme", "1000.00", "0.00");
    common::silent(&mut smsc);
    world.reconciles();
}

#[test]
fn replace_sm_gives_a_scheduled_message_another_text_and_time() {
    let (world, _script, mut smsc, mut p) = both_bound(scripted(|_| {}));
    // It is kept by its key alone until it is asked for.
    let id = p.submit(&scheduled(&in_seconds(86_400))).message_id();
    assert_eq!(world.message(&id)["state"], "scheduled");
    let mut body = format!("{id}\0").into_bytes();
    body.extend_from_slice(b"\x05\x00ACME\0");
    body.extend_from_slice(&in_seconds(2));
    body.extend_from_slice(b"\0\0\x01\x00\x06sooner");
    let start = Instant::now();
    p.request(CommandId::REPLACE_SM, &body);
    let got = p.expect(CommandId::REPLACE_SM_RESP);
    assert_eq!(got.status, CommandStatus::ESME_ROK);
    let got = smsc.expect(CommandId::SUBMIT_SM);
    assert_eq!(got.text(), "sooner");
    assert!(start.elapsed() >= Duration::from_secs(1), "at its new time");
    smsc.accept(&got, "1");
    world.state(&id, "sent");
    common::silent(&mut smsc);
    world.reconciles();
}
