//! Upstream binds: retries, final errors, unknown outcomes, fail-over, expiry, windows, reconnects, pacing.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{Peer, Script, World, eventually, message, receipt, receipt_text, scripted, silent};
use serde_json::json;
use smsconnect::config::{self, BindMode, Unknown};
use smsconnect::smpp::{Address, CommandId, CommandStatus, Npi, ShortMessage, Ton};
use smsconnect::tools::smsc::SmscOptions;

const ROK: CommandStatus = CommandStatus::ESME_ROK;

#[test]
fn throttling_is_retried_with_a_pause_until_it_passes() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    for status in [CommandStatus::ESME_RTHROTTLED, CommandStatus::ESME_RMSGQFUL] {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.respond(&got, status, b"");
    }
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, "1");
    world.state(&id, "sent");
    smsc.receipt("1", "DELIVRD", "000");
    p.delivery();
    assert_eq!(world.wallet("acme").0, "999.20", "charged once");
    world.reconciles();
}

#[test]
fn a_final_refusal_gives_the_money_back_and_tells_the_customer() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.respond(&got, CommandStatus::ESME_RINVDSTADR, b"");
    let receipt = p.delivery();
    assert!(
        receipt.text().starts_with(&format!("id:{id} ")),
        "{}",
        receipt.text()
    );
    assert!(receipt.text().contains("stat:REJECTD"), "{}", receipt.text());
    world.state(&id, "REJECTD");
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
    world.reconciles();
}

#[test]
fn what_was_never_written_is_sent_when_the_link_is_back() {
    let (world, script) = scripted(|c| c.upstream[0].window = 1);
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let ids: Vec<String> = (0..3).map(|_| p.submit(&message(b"x")).message_id()).collect();
    // The first is taken; then the link breaks while the second is in the window and the third waits.
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, "1");
    smsc.expect(CommandId::SUBMIT_SM);
    drop(smsc);
    let mut smsc = script.bound();
    for n in 2..4 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, &n.to_string());
    }
    for id in &ids {
        world.state(id, "sent");
    }
    silent(&mut smsc);
    world.reconciles();
}

/// The SMSC reads a submit and closes without an answer.
fn cut(world: &World, script: &Script) -> (Peer, String) {
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    smsc.expect(CommandId::SUBMIT_SM);
    drop(smsc);
    (p, id)
}

#[test]
fn unknown_outcome_resend_sends_once_more_and_then_holds() {
    let (world, script) = scripted(|_| {});
    let (mut p, id) = cut(&world, &script);
    let mut smsc = script.bound();
    smsc.expect(CommandId::SUBMIT_SM);
    drop(smsc);
    let mut smsc = script.bound();
    world.state(&id, "held");
    silent(&mut smsc);
    // A receipt decides even so: without a response it cannot be matched, so it is parked, and the hold stays.
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.80".into()));
    p.header(CommandId::ENQUIRE_LINK);
    assert_eq!(p.read().unwrap().id, CommandId::ENQUIRE_LINK_RESP);
    world.reconciles();
}

#[test]
fn unknown_outcome_hold_never_sends_again() {
    let (world, script) = scripted(|c| c.upstream[0].unknown_outcome = Unknown::Hold);
    let (_p, id) = cut(&world, &script);
    let mut smsc = script.bound();
    world.state(&id, "held");
    silent(&mut smsc);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.80".into()));
}

#[test]
fn unknown_outcome_fail_releases_and_says_so() {
    let (world, script) = scripted(|c| c.upstream[0].unknown_outcome = Unknown::Fail);
    let (mut p, id) = cut(&world, &script);
    let mut smsc = script.bound();
    let got = p.delivery();
    assert!(got.text().starts_with(&format!("id:{id} ")), "{}", got.text());
    assert!(got.text().contains("stat:UNDELIV"), "{}", got.text());
    silent(&mut smsc);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
    world.reconciles();
}

#[test]
fn a_response_that_never_comes_is_an_unknown_outcome_too() {
    let (world, script) = scripted(|c| {
        c.upstream[0].response_timeout_ms = 100;
        c.upstream[0].unknown_outcome = Unknown::Hold;
    });
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    smsc.expect(CommandId::SUBMIT_SM);
    world.state(&id, "held");
}

#[test]
fn a_held_message_resumes_as_held_after_a_restart() {
    let (mut world, script) = scripted(|c| c.upstream[0].unknown_outcome = Unknown::Hold);
    let (p, id) = cut(&world, &script);
    drop(script.bound());
    world.state(&id, "held");
    drop(p);
    world.stop();
    let again = std::thread::spawn(move || (script.bound(), script));
    world.start();
    let (mut smsc, _script) = again.join().unwrap();
    assert_eq!(world.message(&id)["state"], "held");
    silent(&mut smsc);
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.80".into()));
}

#[test]
fn when_one_upstream_is_down_the_next_of_the_route_takes_over() {
    let script = Script::new();
    let addr = script.addr();
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let world = World::with(SmscOptions::default(), |c| {
        c.upstream = vec![common::upstream("down", nobody), common::upstream("up", addr)];
        c.route[0].to = vec!["down".into(), "up".into()];
    });
    world.account("acme", "100", json!({}));
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    p.submit(&message(b"x"));
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, "1");
}

#[test]
fn what_waits_at_a_link_that_goes_down_moves_to_the_next() {
    let (one, two) = (Script::new(), Script::new());
    let (a, b) = (one.addr(), two.addr());
    let world = World::with(SmscOptions::default(), |c| {
        c.upstream = vec![common::upstream("one", a), common::upstream("two", b)];
        c.upstream[0].window = 1;
        c.route[0].to = vec!["one".into(), "two".into()];
    });
    world.account("acme", "100", json!({}));
    let (mut first, mut second) = (one.bound(), two.bound());
    let mut p = world.bound("acme");
    let ids: Vec<String> = (0..4).map(|_| p.submit(&message(b"x")).message_id()).collect();
    first.expect(CommandId::SUBMIT_SM);
    // Three wait behind the window of the first link; switching it off moves them.
    world.admin("upstream.disable", json!({"name": "one"})).unwrap();
    for n in 0..3 {
        let got = second.expect(CommandId::SUBMIT_SM);
        second.accept(&got, &format!("t{n}"));
    }
    eventually("three are sent", || {
        ids.iter()
            .filter(|id| world.message(id)["state"] == "sent")
            .count()
            == 3
    });
}

#[test]
fn disable_enable_and_reconnect_do_what_they_say() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let list = |w: &World| w.admin("upstream.list", json!({})).unwrap()["items"][0].clone();
    eventually("bound", || list(&world)["bound"] == 1);
    world.admin("upstream.disable", json!({"name": "sim"})).unwrap();
    assert_eq!(smsc.read().unwrap().id, CommandId::UNBIND);
    drop(smsc);
    eventually("down", || list(&world)["bound"] == 0);
    let mut p = world.bound("acme");
    let id = p.submit(&message(b"x")).message_id();
    assert_eq!(world.message(&id)["state"], "queued");
    world.admin("upstream.enable", json!({"name": "sim"})).unwrap();
    let mut smsc = script.bound();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    smsc.accept(&got, "1");
    world.state(&id, "sent");
    world.admin("upstream.reconnect", json!({"name": "sim"})).unwrap();
    assert_eq!(smsc.read().unwrap().id, CommandId::UNBIND);
    drop(smsc);
    script.bound();
    assert_eq!(
        world
            .admin("upstream.enable", json!({"name": "nobody"}))
            .unwrap_err(),
        "E_NOT_FOUND"
    );
}

#[test]
fn what_cannot_be_sent_in_time_expires_and_costs_nothing() {
    let (world, script) = scripted(|_| {});
    // The link is up and refuses everything for the moment.
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let mut sm = message(b"x");
    sm.validity_period = b"000000000001000R";
    let id = p.submit(&sm).message_id();
    smsc.stream
        .set_read_timeout(Some(Duration::from_millis(5)))
        .unwrap();
    p.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut receipt = None;
    eventually("it expires", || {
        if let Some(got) = smsc.try_read() {
            smsc.respond(&got, CommandStatus::ESME_RTHROTTLED, b"");
        }
        receipt = p.try_read();
        receipt.is_some()
    });
    let receipt = receipt.unwrap();
    assert!(receipt.text().contains("stat:EXPIRED"), "{}", receipt.text());
    world.state(&id, "EXPIRED");
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
    world.reconciles();
}

#[test]
fn it_expires_without_any_link_too_even_when_it_waits_in_the_store() {
    let (world, _script) = scripted(|c| c.upstream[0].queue_max = 1);
    let mut p = world.bound("acme");
    let mut sm = message(b"x");
    sm.validity_period = b"000000000001000R";
    let ids: Vec<String> = (0..4).map(|_| p.submit(&sm).message_id()).collect();
    for id in &ids {
        world.state(id, "EXPIRED");
    }
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
}

#[test]
fn an_answer_that_comes_after_the_validity_is_still_an_acceptance() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    let mut sm = message(b"x");
    sm.validity_period = b"000000000001000R";
    let id = p.submit(&sm).message_id();
    let got = smsc.expect(CommandId::SUBMIT_SM);
    // The SMSC has it; whether the customer's validity ends meanwhile is no longer ours to decide.
    std::thread::sleep(Duration::from_millis(1_600));
    assert_eq!(world.message(&id)["state"], "queued");
    smsc.accept(&got, "1");
    smsc.receipt("1", "DELIVRD", "000");
    assert!(p.delivery().text().contains("stat:DELIVRD"));
    assert_eq!(world.wallet("acme").0, "999.20");
    world.reconciles();
}

#[test]
fn the_window_of_a_bind_is_never_exceeded() {
    let (world, script) = scripted(|c| c.upstream[0].window = 3);
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    for _ in 0..10 {
        p.submit(&message(b"x"));
    }
    let mut open: Vec<_> = (0..3).map(|_| smsc.expect(CommandId::SUBMIT_SM)).collect();
    silent(&mut smsc);
    for n in 0..10 {
        let got = open.remove(0);
        smsc.accept(&got, &n.to_string());
        if n < 7 {
            open.push(smsc.expect(CommandId::SUBMIT_SM));
        }
    }
    silent(&mut smsc);
}

#[test]
fn the_window_starts_small_grows_with_quick_answers_and_shrinks_when_throttled() {
    let (world, script) = scripted(|c| {
        c.upstream[0].window = 500;
        c.upstream[0].retry_min_ms = 60_000;
    });
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    for _ in 0..100 {
        p.submit(&message(b"x"));
    }
    let mut open: Vec<_> = (0..10).map(|_| smsc.expect(CommandId::SUBMIT_SM)).collect();
    silent(&mut smsc);
    for (n, got) in open.drain(..).enumerate() {
        smsc.accept(&got, &n.to_string());
    }
    // An answer makes room for itself and widens the window by one.
    open.extend((0..20).map(|_| smsc.expect(CommandId::SUBMIT_SM)));
    silent(&mut smsc);
    smsc.respond(&open.remove(0), CommandStatus::ESME_RTHROTTLED, b"");
    // Ten are too many now; nine more answers only bring it there.
    for (n, got) in open.drain(..9).enumerate() {
        smsc.accept(&got, &format!("b{n}"));
    }
    silent(&mut smsc);
}

#[test]
fn a_delivery_that_meets_our_unbind_is_asked_for_again() {
    let (world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    eventually("bound", || {
        world.admin("upstream.list", json!({})).unwrap()["items"][0]["bound"] == 1
    });
    world.admin("upstream.disable", json!({"name": "sim"})).unwrap();
    smsc.expect(CommandId::UNBIND);
    let text = receipt_text("late", "DELIVRD", "000");
    smsc.deliver(&receipt(&text));
    let got = smsc.expect(CommandId::DELIVER_SM_RESP);
    assert_eq!(got.status, CommandStatus::ESME_RX_T_APPN);
}

#[test]
fn the_queue_in_memory_is_bounded_and_the_order_stays() {
    let (world, script) = scripted(|c| {
        c.upstream[0].queue_max = 4;
        c.upstream[0].window = 2;
    });
    let mut p = world.bound("acme");
    let texts: Vec<String> = (0..60).map(|n| format!("n{n:02}")).collect();
    for text in &texts {
        p.submit(&message(text.as_bytes()));
    }
    let queue = world.admin("queue.show", json!({})).unwrap();
    let mut smsc = script.bound();
    let mut got_texts = Vec::new();
    for n in 0..60 {
        let got = smsc.expect(CommandId::SUBMIT_SM);
        got_texts.push(got.text());
        smsc.accept(&got, &n.to_string());
    }
    assert_eq!(got_texts, texts, "{queue}");
}

#[test]
fn transmitter_and_receiver_make_a_pair_and_overrides_apply() {
    let (world, script) = scripted(|c| {
        c.upstream[0].bind = BindMode::TransmitterReceiver;
        c.upstream[0].source_ton = 0;
        c.upstream[0].source_npi = 3;
        c.upstream[0].dest_ton = 2;
        c.upstream[0].dest_npi = 8;
    });
    let accept = |script: &Script| {
        let mut peer = Peer::over(script.accept());
        let bind = peer.read().unwrap();
        peer.respond(&bind, ROK, b"script\0");
        (bind.id, peer)
    };
    let mut both = vec![accept(&script), accept(&script)];
    both.sort_by_key(|(id, _)| id.0);
    let ids: Vec<_> = both.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [CommandId::BIND_RECEIVER, CommandId::BIND_TRANSMITTER]);
    let (mut rx, mut tx) = (both.remove(0).1, both.remove(0).1);
    let mut p = world.bound("acme");
    p.submit(&message(b"x"));
    let got = tx.expect(CommandId::SUBMIT_SM);
    assert_eq!(
        (
            got.sm().source.ton,
            got.sm().source.npi,
            got.sm().dest.ton,
            got.sm().dest.npi
        ),
        (Ton(0), Npi(3), Ton(2), Npi(8))
    );
    tx.accept(&got, "1");
    rx.receipt("1", "DELIVRD", "000");
    p.delivery();
}

#[test]
fn a_refused_bind_is_tried_again() {
    let (world, script) = scripted(|_| {});
    for _ in 0..2 {
        let mut peer = Peer::over(script.accept());
        let bind = peer.read().unwrap();
        peer.respond(&bind, CommandStatus::ESME_RBINDFAIL, b"");
        assert!(peer.read().is_none(), "closed by us");
    }
    let mut smsc = script.bound();
    let mut p = world.bound("acme");
    p.submit(&message(b"x"));
    smsc.expect(CommandId::SUBMIT_SM);
}

#[test]
fn a_dead_link_is_noticed_by_enquire_link() {
    let (_world, script) = scripted(|c| {
        c.upstream[0].enquire_link_ms = 50;
        c.upstream[0].response_timeout_ms = 100;
    });
    let mut smsc = script.bound();
    assert_eq!(smsc.read().unwrap().id, CommandId::ENQUIRE_LINK);
    // Not answered: the gateway gives the link up and comes back.
    script.bound();
}

#[test]
fn pacing_keeps_to_the_paid_rate() {
    let world = World::with(
        SmscOptions {
            tps: 55,
            ..SmscOptions::default()
        },
        |c| c.upstream[0].tps = 50,
    );
    world.up(1);
    world.account("acme", "1000", json!({}));
    let mut p = world.bound("acme");
    for _ in 0..100 {
        p.send(&message(b"x"));
    }
    for _ in 0..100 {
        assert_eq!(p.expect(CommandId::SUBMIT_SM_RESP).status, ROK);
    }
    eventually("all are taken", || world.smsc.stats().accepted == 100);
    assert_eq!(world.smsc.stats().throttled, 0, "never above the rate");
}

#[test]
fn routes_share_round_robin() {
    let (one, two) = (Script::new(), Script::new());
    let (a, b) = (one.addr(), two.addr());
    let world = World::with(SmscOptions::default(), |c| {
        c.upstream = vec![common::upstream("one", a), common::upstream("two", b)];
        c.route[0].to = vec!["one".into(), "two".into()];
        c.route[0].strategy = config::Strategy::RoundRobin;
    });
    world.account("acme", "100", json!({}));
    let (mut first, mut second) = (one.bound(), two.bound());
    eventually("both are up", || {
        world.admin("upstream.list", json!({})).unwrap()["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|u| u["live"] == true)
    });
    let mut p = world.bound("acme");
    let number = |n: u32| format!("2547123456{n:02}");
    for n in 0..6 {
        let dest = number(n);
        let sm = ShortMessage {
            dest: Address {
                addr: dest.as_bytes(),
                ..message(b"").dest
            },
            ..message(b"x")
        };
        p.submit(&sm);
    }
    for _ in 0..3 {
        first.expect(CommandId::SUBMIT_SM);
        second.expect(CommandId::SUBMIT_SM);
    }
}
