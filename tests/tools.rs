//! The traffic tools against each other: load and simulator in this process over real TCP, each fault switch with its effect.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Peer, eventually, message};
use smsconnect::session::response_to;
use smsconnect::smpp::{CommandId, CommandStatus, RegisteredDelivery, ShortMessage, Tag};
use smsconnect::tools::load::{self, LoadError, LoadOptions, LoadReport, Progress};
use smsconnect::tools::smsc::{IdFormat, ReceiptForm, Smsc, SmscOptions};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A simulator on a free port and the runtime that it lives on.
struct Rig {
    runtime: Runtime,
    smsc: Smsc,
}

impl Rig {
    fn new(options: SmscOptions) -> Rig {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let options = SmscOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..options
        };
        let smsc = runtime.block_on(Smsc::start(options)).unwrap();
        Rig { runtime, smsc }
    }

    /// `count` messages over one bind; a receipt that does not come is waited for only briefly.
    fn options(&self, count: u64) -> LoadOptions {
        LoadOptions {
            connect: vec![self.smsc.addr()],
            count: Some(count),
            receipt_wait: Duration::from_millis(300),
            ..LoadOptions::default()
        }
    }

    fn try_run(&self, options: LoadOptions) -> Result<LoadReport, LoadError> {
        self.runtime
            .block_on(load::run(options, None, CancellationToken::new()))
    }

    fn run(&self, options: LoadOptions) -> LoadReport {
        self.try_run(options).unwrap()
    }

    fn load(&self, count: u64) -> LoadReport {
        self.run(self.options(count))
    }

    fn bound(&self, kind: CommandId) -> Peer {
        let mut peer = Peer::connect(self.smsc.addr());
        assert_eq!(peer.bind(kind, "peer", "x"), CommandStatus::ESME_ROK);
        peer
    }
}

/// Runs `count` messages against a simulator with these options.
fn load_against(options: SmscOptions, count: u64) -> LoadReport {
    Rig::new(options).load(count)
}

fn within(n: u64, low: u64, high: u64) {
    assert!((low..=high).contains(&n), "{n} is not within {low}..={high}");
}

#[test]
fn every_message_is_answered_and_receipted_exactly_once() {
    const N: u64 = 5_000;
    let rig = Rig::new(SmscOptions {
        record: true,
        ..SmscOptions::default()
    });
    let progress = Arc::new(Progress::default());
    let options = LoadOptions {
        binds: 3,
        window: 50,
        ..rig.options(N)
    };
    let run = load::run(options, Some(Arc::clone(&progress)), CancellationToken::new());
    let report = rig.runtime.block_on(run).unwrap();

    assert!(report.exactly_once, "{report}");
    let counts = [report.sent, report.answered, report.accepted, report.receipts];
    assert_eq!(counts, [N; 4], "{report}");
    assert_eq!(report.statuses, [("ESME_ROK".to_string(), N)].into());
    assert_eq!(report.receipts_by_state, [("DELIVRD".to_string(), N)].into());
    assert_eq!((report.unanswered, report.broken), (0, 0));
    for p in [report.response, report.receipt] {
        let rising = [0.0, p.p50_ms, p.p90_ms, p.p99_ms, p.p999_ms, p.max_ms];
        assert!(p.p50_ms > 0.0 && rising.is_sorted(), "{p:?}");
    }
    assert!(report.per_second > 0.0 && report.receipt_seconds >= report.seconds);
    let seen = [
        &progress.sent,
        &progress.answered,
        &progress.accepted,
        &progress.receipts,
    ];
    assert_eq!(seen.map(|n| n.load(Ordering::Relaxed)), [N; 4]);

    eventually("the load has unbound", || rig.smsc.stats().binds == 0);
    let s = rig.smsc.stats();
    assert_eq!([s.submits, s.accepted, s.receipts, s.receipts_acked], [N; 4]);
    assert_eq!(
        (s.throttled, s.rejected, s.dropped, s.receipts_refused),
        (0, 0, 0, 0)
    );
    let log = rig.smsc.log();
    assert_eq!(log.iter().map(|r| &r.id).collect::<HashSet<_>>().len() as u64, N);
    let texts: HashMap<_, _> = log.iter().map(|r| (&r.dest, &r.text)).collect();
    assert_eq!(texts.len() as u64, N, "each message has a destination of its own");
    let first = String::from_utf8(texts[&b"254710000042".to_vec()].clone()).unwrap();
    assert!(first.starts_with("Message 42:"), "{first}");
}

#[test]
fn a_report_is_readable_by_people_and_scripts() {
    let report = load_against(
        SmscOptions {
            reject_rate: 0.5,
            ..SmscOptions::default()
        },
        2_000,
    );
    let text = report.to_string();
    for part in [
        "sent                  2,000\n",
        "  ESME_RSUBMITFAIL",
        "p99.9",
        "exactly once          yes",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["sent"], 2_000);
    assert_eq!(json["exactly_once"], true);
    assert_eq!(json["statuses"]["ESME_ROK"], report.accepted);
    assert!(json["response"]["p99_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_text_without_a_number_still_counts_destinations() {
    let rig = Rig::new(SmscOptions {
        record: true,
        ..SmscOptions::default()
    });
    let options = LoadOptions {
        text: "always the same".into(),
        source: "22555".into(),
        destination_prefix: "2547".into(),
        receipts: false,
        ..rig.options(500)
    };
    let report = rig.run(options);
    assert_eq!(
        (report.accepted, report.receipts, rig.smsc.stats().receipts),
        (500, 0, 0),
        "{report}"
    );
    let dests: HashSet<Vec<u8>> = rig.smsc.log().into_iter().map(|r| r.dest).collect();
    let wanted = (0..500).map(|n| format!("2547{n:08}").into_bytes());
    assert_eq!(dests, wanted.collect());
    assert!(
        rig.smsc
            .log()
            .iter()
            .all(|r| r.text == b"always the same" && r.source == b"22555")
    );
}

#[test]
fn several_addresses_share_the_load() {
    let (a, b) = (
        Rig::new(SmscOptions::default()),
        Rig::new(SmscOptions {
            id_start: 1_000_000,
            ..SmscOptions::default()
        }),
    );
    let connect = vec![a.smsc.addr(), b.smsc.addr()];
    let report = a.run(LoadOptions {
        connect,
        binds: 2,
        window: 10,
        ..a.options(4_000)
    });
    assert!(report.exactly_once, "{report}");
    let (left, right) = (a.smsc.stats().accepted, b.smsc.stats().accepted);
    assert!(left > 0 && right > 0 && left + right == 4_000, "{left} + {right}");
}

#[test]
fn ids_are_spelled_as_asked() {
    let spell = |id_format, id_width| {
        let options = SmscOptions {
            id_format,
            id_width,
            id_start: 0xA000_0000,
            record: true,
            ..SmscOptions::default()
        };
        let rig = Rig::new(options);
        let report = rig.load(300);
        (rig.smsc.log()[0].id.clone(), report)
    };
    for (format, width, first) in [
        (IdFormat::Decimal, 0, "2684354560"),
        (IdFormat::Decimal, 14, "00002684354560"),
        (IdFormat::HexLower, 0, "a0000000"),
        (IdFormat::HexUpper, 12, "0000A0000000"),
    ] {
        let (id, report) = spell(format, width);
        assert!(id == first && report.exactly_once, "{id} {report}");
    }
    // The load compares ids as they are spelled: a receipt in another base answers nothing it knows.
    for (format, first) in [(IdFormat::HexDec, "a0000000"), (IdFormat::DecHex, "2684354560")] {
        let (id, report) = spell(format, 0);
        assert_eq!(
            (id.as_str(), report.missing, report.unknown),
            (first, 300, 300),
            "{report}"
        );
        assert!(!report.exactly_once);
    }
}

#[test]
fn receipts_take_each_form() {
    for form in [ReceiptForm::Both, ReceiptForm::Text, ReceiptForm::Tlv] {
        let rig = Rig::new(SmscOptions {
            receipt_form: form,
            ..SmscOptions::default()
        });
        let report = rig.load(300);
        assert!(
            report.exactly_once && report.receipts_by_state["DELIVRD"] == 300,
            "{form:?} {report}"
        );

        let mut peer = rig.bound(CommandId::BIND_TRANSCEIVER);
        let id = peer.submit(&message(b"one")).message_id();
        let got = peer.delivery();
        let (sm, text) = (got.sm(), got.text());
        assert!(sm.esm_class.is_receipt());
        assert_eq!(
            (sm.source.addr, sm.dest.addr),
            (&b"254712345678"[..], &b"ACME"[..])
        );
        assert_eq!(
            text.starts_with(&format!("id:{id} sub:001 dlvrd:001 ")),
            form != ReceiptForm::Tlv,
            "{text}"
        );
        assert_eq!(
            text.contains("stat:DELIVRD err:000"),
            form != ReceiptForm::Tlv,
            "{text}"
        );
        let (tlv_id, state) = (
            sm.tlvs.get_cstr(Tag::RECEIPTED_MESSAGE_ID),
            sm.tlvs.get_u8(Tag::MESSAGE_STATE),
        );
        let wanted = (form != ReceiptForm::Text).then_some((id.as_bytes(), 2));
        assert_eq!(tlv_id.zip(state), wanted);
    }
}

#[test]
fn refusals_come_at_their_rates_and_repeat_with_the_seed() {
    let options = |seed| SmscOptions {
        throttle_rate: 0.3,
        queue_full_rate: 0.3,
        reject_rate: 0.3,
        reject_status: 0x0B,
        seed,
        ..SmscOptions::default()
    };
    let rig = Rig::new(options(7));
    let report = rig.load(4_000);
    assert_eq!((report.answered, report.sent), (4_000, 4_000));
    let n = |name: &str| report.statuses[name];
    within(n("ESME_RTHROTTLED"), 1_050, 1_350);
    within(n("ESME_RMSGQFUL"), 700, 980);
    within(n("ESME_RINVDSTADR"), 480, 700);
    assert!(
        report.exactly_once && report.receipts == report.accepted,
        "{report}"
    );
    let s = rig.smsc.stats();
    assert_eq!(s.throttled, n("ESME_RTHROTTLED") + n("ESME_RMSGQFUL"));
    assert_eq!((s.rejected, s.accepted), (n("ESME_RINVDSTADR"), report.accepted));
    assert_eq!(
        load_against(options(7), 4_000).statuses,
        report.statuses,
        "same seed, same faults"
    );
    assert_ne!(
        load_against(options(8), 4_000).statuses,
        report.statuses,
        "another seed, others"
    );
}

#[test]
fn a_rate_limit_throttles_what_is_beyond_it() {
    let report = load_against(
        SmscOptions {
            tps: 50,
            ..SmscOptions::default()
        },
        1_000,
    );
    let (accepted, throttled) = (report.accepted, report.statuses["ESME_RTHROTTLED"]);
    assert_eq!(accepted + throttled, 1_000);
    assert!(
        accepted >= 50 && accepted % 50 == 0,
        "whole seconds of 50: {accepted}"
    );
}

#[test]
fn what_is_refused_for_the_moment_is_sent_again() {
    let rig = Rig::new(SmscOptions {
        throttle_rate: 0.3,
        queue_full_rate: 0.2,
        ..SmscOptions::default()
    });
    let report = rig.run(LoadOptions {
        retry_refused: true,
        ..rig.options(300)
    });
    assert!(
        report.exactly_once && report.accepted == 300 && report.sent == 300,
        "{report}"
    );
    let s = rig.smsc.stats();
    assert!(s.throttled > 100 && s.submits == 300 + s.throttled, "{s:?}");
}

#[test]
fn receipts_are_lost_repeated_and_bad_at_their_rates() {
    let lost = load_against(
        SmscOptions {
            receipt_lost_rate: 0.2,
            ..SmscOptions::default()
        },
        2_000,
    );
    within(lost.missing, 310, 490);
    assert_eq!(
        (lost.accepted, lost.receipts),
        (2_000, 2_000 - lost.missing),
        "{lost}"
    );
    assert_eq!((lost.duplicate, lost.unknown, lost.exactly_once), (0, 0, false));

    let rig = Rig::new(SmscOptions {
        receipt_dup_rate: 0.2,
        ..SmscOptions::default()
    });
    let twice = rig.load(2_000);
    within(rig.smsc.stats().receipts, 2_310, 2_490);
    // The load ends with the last first receipt; a repeat behind that one may go uncounted.
    assert!(
        twice.duplicate >= 300 && twice.missing == 0 && !twice.exactly_once,
        "{twice}"
    );

    let bad = load_against(
        SmscOptions {
            undeliv_rate: 0.5,
            ..SmscOptions::default()
        },
        2_000,
    );
    assert!(bad.exactly_once, "{bad}");
    within(bad.receipts_by_state["UNDELIV"], 870, 1_130);

    let rig = Rig::new(SmscOptions {
        undeliv_rate: 1.0,
        ..SmscOptions::default()
    });
    let mut peer = rig.bound(CommandId::BIND_TRANSCEIVER);
    peer.submit(&message(b"one"));
    let text = peer.delivery().text();
    assert!(
        text.contains("dlvrd:000") && text.contains("stat:UNDELIV err:001"),
        "{text}"
    );
}

#[test]
fn a_receipt_may_come_before_its_response_and_twice() {
    let order = |options: SmscOptions| {
        let rig = Rig::new(options);
        let mut peer = rig.bound(CommandId::BIND_TRANSCEIVER);
        peer.send(&message(b"one"));
        [peer.read().unwrap().id, peer.read().unwrap().id]
    };
    let (response, receipt) = (CommandId::SUBMIT_SM_RESP, CommandId::DELIVER_SM);
    assert_eq!(order(SmscOptions::default()), [response, receipt]);
    let first = SmscOptions {
        receipt_first_rate: 1.0,
        ..SmscOptions::default()
    };
    assert_eq!(order(first.clone()), [receipt, response]);
    let report = load_against(first, 1_000);
    assert!(report.exactly_once, "{report}");

    let rig = Rig::new(SmscOptions {
        receipt_dup_rate: 1.0,
        ..SmscOptions::default()
    });
    let mut peer = rig.bound(CommandId::BIND_TRANSCEIVER);
    peer.submit(&message(b"one"));
    assert_eq!(peer.delivery().body, peer.delivery().body);
}

#[test]
fn no_receipt_comes_unasked() {
    let rig = Rig::new(SmscOptions::default());
    let mut peer = rig.bound(CommandId::BIND_TRANSCEIVER);
    peer.submit(&ShortMessage {
        registered_delivery: RegisteredDelivery(0),
        ..message(b"one")
    });
    let asked = peer.submit(&message(b"two")).message_id();
    assert!(peer.delivery().text().starts_with(&format!("id:{asked} ")));
    assert_eq!(rig.smsc.stats().receipts, 1);
}

#[test]
fn delays_hold_responses_and_receipts_back() {
    let slow = SmscOptions {
        resp_delay_ms: 100,
        receipt_delay_ms: 200,
        ..SmscOptions::default()
    };
    let report = load_against(slow, 100);
    assert!(report.exactly_once, "{report}");
    // The clock of the simulator may gain 20 ms a second on the load's: see crate::clock.
    assert!(report.response.p50_ms >= 70.0, "{report}");
    assert!(report.receipt.p50_ms >= 250.0, "{report}");
}

#[test]
fn an_open_loop_keeps_its_rate_and_measures_from_the_intended_time() {
    let rig = Rig::new(SmscOptions::default());
    let report = rig.run(LoadOptions {
        rate: Some(2_000.0),
        ..rig.options(400)
    });
    assert!(report.exactly_once && report.seconds >= 0.19, "{report}");

    // One message in 20 ms while one a millisecond is wanted: the queue in front of the window counts as latency.
    let rig = Rig::new(SmscOptions {
        resp_delay_ms: 20,
        ..SmscOptions::default()
    });
    let report = rig.run(LoadOptions {
        rate: Some(1_000.0),
        window: 1,
        ..rig.options(20)
    });
    assert!(report.response.max_ms > 200.0, "{report}");
}

#[test]
fn a_load_ends_by_time_or_when_it_is_stopped() {
    let rig = Rig::new(SmscOptions::default());
    let duration = Some(Duration::from_millis(200));
    let report = rig.run(LoadOptions {
        count: None,
        duration,
        ..rig.options(0)
    });
    assert!(
        report.sent > 0 && report.exactly_once && report.seconds >= 0.1,
        "{report}"
    );

    let (stop, progress) = (CancellationToken::new(), Arc::new(Progress::default()));
    let options = LoadOptions {
        rate: Some(1_000.0),
        ..rig.options(1_000_000_000)
    };
    let running = rig
        .runtime
        .spawn(load::run(options, Some(Arc::clone(&progress)), stop.clone()));
    eventually("some messages are answered", || {
        progress.answered.load(Ordering::Relaxed) > 20
    });
    stop.cancel();
    let report = rig.runtime.block_on(running).unwrap().unwrap();
    assert!(report.answered > 20 && report.answered == report.sent, "{report}");
}

#[test]
fn unanswered_messages_are_counted_when_the_connection_breaks() {
    let rig = Rig::new(SmscOptions {
        drop_resp_rate: 0.5,
        ..SmscOptions::default()
    });
    let options = LoadOptions {
        window: 1_000,
        receipts: false,
        ..rig.options(1_000)
    };
    let running = rig
        .runtime
        .spawn(load::run(options, None, CancellationToken::new()));
    eventually("all are submitted", || rig.smsc.stats().submits == 1_000);
    rig.smsc.drop_connections();
    let report = rig.runtime.block_on(running).unwrap().unwrap();
    within(rig.smsc.stats().dropped, 400, 600);
    assert_eq!(
        (report.unanswered, report.broken),
        (rig.smsc.stats().dropped, 1),
        "{report}"
    );
    assert_eq!(
        (report.answered, report.sent),
        (1_000 - report.unanswered, 1_000),
        "{report}"
    );
}

#[test]
fn a_broken_connection_is_bound_again_and_nothing_is_sent_twice() {
    let rig = Rig::new(SmscOptions {
        drop_conn_every: 100,
        record: true,
        ..SmscOptions::default()
    });
    let once = rig.load(1_000);
    assert!(
        once.broken == 1 && once.unanswered > 0 && once.sent < 1_000,
        "{once}"
    );

    let rig = Rig::new(SmscOptions {
        drop_conn_every: 100,
        record: true,
        ..SmscOptions::default()
    });
    let report = rig.run(LoadOptions {
        reconnect: true,
        window: 10,
        receipts: false,
        ..rig.options(1_000)
    });
    assert_eq!(
        (report.sent, report.answered + report.unanswered),
        (1_000, 1_000),
        "{report}"
    );
    assert!(
        report.broken >= 9 && report.unanswered >= report.broken,
        "{report}"
    );
    let log = rig.smsc.log();
    assert!(log.len() as u64 >= report.accepted);
    assert_eq!(
        log.iter().map(|r| &r.dest).collect::<HashSet<_>>().len(),
        log.len(),
        "never sent twice"
    );
}

#[test]
fn a_load_that_cannot_bind_says_why() {
    let login = SmscOptions {
        system_id: Some("load".into()),
        password: Some("secret1".into()),
        ..SmscOptions::default()
    };
    let rig = Rig::new(login);
    let wrong = rig.try_run(rig.options(1)).unwrap_err().to_string();
    assert!(
        wrong.contains("ESME_RINVPASWD") && wrong.contains("check system_id, password"),
        "{wrong}"
    );
    assert!(!wrong.contains("secret1"));
    let right = LoadOptions {
        password: "secret1".into(),
        ..rig.options(1)
    };
    assert_eq!(rig.run(right.clone()).accepted, 1);
    assert!(
        rig.try_run(LoadOptions {
            system_id: "other".into(),
            ..right
        })
        .is_err()
    );

    let rig = Rig::new(SmscOptions {
        bind_status: 0x0D,
        ..SmscOptions::default()
    });
    let refused = rig.try_run(rig.options(1)).unwrap_err();
    assert!(matches!(refused, LoadError::Bind(at, _) if at == rig.smsc.addr()));
    assert!(refused.to_string().contains("ESME_RBINDFAIL"), "{refused}");

    let options = rig.options(1);
    for senseless in [
        LoadOptions {
            count: None,
            ..options.clone()
        },
        LoadOptions {
            binds: 0,
            ..options.clone()
        },
        LoadOptions {
            rate: Some(0.0),
            ..options.clone()
        },
        LoadOptions {
            connect: vec![],
            ..options.clone()
        },
    ] {
        assert!(matches!(rig.try_run(senseless), Err(LoadError::Options(_))));
    }
    let Rig { runtime, smsc } = rig;
    runtime.block_on(smsc.stop());
    let gone = runtime
        .block_on(load::run(options, None, CancellationToken::new()))
        .unwrap_err();
    assert!(matches!(gone, LoadError::Connect(..)) && gone.to_string().contains("is the server running"));
}

#[test]
fn a_bind_may_stay_unanswered() {
    let rig = Rig::new(SmscOptions {
        no_bind: true,
        ..SmscOptions::default()
    });
    let mut peer = Peer::connect(rig.smsc.addr());
    peer.header(CommandId::ENQUIRE_LINK);
    peer.stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let silent = std::io::Read::read(&mut peer.stream, &mut [0]).unwrap_err();
    assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(rig.smsc.stats().binds, 0);
    rig.smsc.drop_connections();
    peer.stream.set_read_timeout(Some(common::WAIT)).unwrap();
    assert!(peer.read().is_none());
}

/// Lines of a log as (first field, the others).
fn lines(path: &Path) -> HashMap<String, String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|l| l.split_once('\t').unwrap())
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}

#[test]
fn the_logs_of_both_sides_tell_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| Some(dir.path().join(name));
    let rig = Rig::new(SmscOptions {
        accept_log: path("accepted"),
        reject_rate: 0.2,
        ..SmscOptions::default()
    });
    let options = LoadOptions {
        text: "word{n} and more".into(),
        ids_log: path("ids"),
        receipts_log: path("receipts"),
        ..rig.options(1_000)
    };
    let report = rig.run(options);
    let [accepted, ids, receipts] = ["accepted", "ids", "receipts"].map(|name| lines(&dir.path().join(name)));
    assert_eq!(
        [accepted.len(), ids.len(), receipts.len()],
        [report.accepted as usize; 3]
    );
    assert!(
        receipts
            .iter()
            .all(|(id, stat)| ids.contains_key(id) && stat == "DELIVRD")
    );
    for (id, dest) in &ids {
        let n: u64 = dest.strip_prefix("25471").unwrap().parse().unwrap();
        assert_eq!(accepted[id], format!("{dest}\tword{n}"));
    }
}

#[test]
fn receipts_of_a_transmitter_go_to_a_receiver() {
    let rig = Rig::new(SmscOptions::default());
    let mut tx = rig.bound(CommandId::BIND_TRANSMITTER);
    let id = tx.submit(&message(b"one")).message_id();
    let mut rx = rig.bound(CommandId::BIND_RECEIVER);
    assert_eq!(
        rx.delivery().text().split(' ').next(),
        Some(format!("id:{id}").as_str())
    );
    let refused = rx.submit(&message(b"two"));
    assert_eq!(refused.status, CommandStatus::ESME_RINVBNDSTS);
}

#[test]
fn the_window_holds_receipts_back_until_they_are_answered() {
    let rig = Rig::new(SmscOptions {
        window: 10,
        ..SmscOptions::default()
    });
    let mut peer = rig.bound(CommandId::BIND_TRANSCEIVER);
    for _ in 0..25 {
        peer.send(&message(b"one"));
    }
    let (mut responses, mut held) = (0, Vec::new());
    while responses < 25 {
        match peer.read().unwrap() {
            got if got.id == CommandId::DELIVER_SM => held.push(got),
            _ => responses += 1,
        }
    }
    assert_eq!(rig.smsc.stats().receipts, 10);
    while held.len() < 10 {
        held.push(peer.expect(CommandId::DELIVER_SM));
    }
    peer.answer(&held[3], CommandStatus::ESME_RX_T_APPN);
    let next = peer.expect(CommandId::DELIVER_SM);
    assert_eq!(
        (rig.smsc.stats().receipts, rig.smsc.stats().receipts_refused),
        (11, 1)
    );
    held.remove(3);
    held.push(next);
    held.iter()
        .for_each(|got| peer.answer(got, CommandStatus::ESME_ROK));
    (0..14).for_each(|_| drop(peer.delivery()));
    eventually("all are answered", || rig.smsc.stats().receipts_acked == 24);
}

#[test]
fn a_session_survives_what_the_simulator_does_not_know() {
    let rig = Rig::new(SmscOptions::default());
    let mut peer = rig.bound(CommandId::BIND_TRANSCEIVER);
    for id in [
        CommandId::SUBMIT_MULTI,
        CommandId::DATA_SM,
        CommandId::QUERY_SM,
        CommandId::CANCEL_SM,
    ] {
        peer.header(id);
        let got = peer.read().unwrap();
        assert_eq!(
            (got.id, got.status, got.sequence),
            (response_to(id), CommandStatus::ESME_RINVCMDID, peer.sequence)
        );
    }
    peer.header(CommandId::SUBMIT_SM);
    let empty = peer.expect(CommandId::SUBMIT_SM_RESP).status;
    assert_ne!(empty, CommandStatus::ESME_ROK);
    assert_eq!(peer.submit(&message(b"one")).status, CommandStatus::ESME_ROK);
    peer.header(CommandId::UNBIND);
    assert_eq!(
        peer.expect(CommandId::UNBIND_RESP).status,
        CommandStatus::ESME_ROK
    );
}

#[test]
fn mobile_originated_messages_and_enquiries_reach_the_peer() {
    let rig = Rig::new(SmscOptions {
        enquire_link_ms: 30,
        ..SmscOptions::default()
    });
    rig.smsc.send_mo("254700000001", "22555", b"hello");
    let mut peer = rig.bound(CommandId::BIND_RECEIVER);
    let got = peer.delivery();
    assert_eq!(
        (got.sm().source.addr, got.text().as_str()),
        (&b"254700000001"[..], "hello")
    );
    assert!(!got.sm().esm_class.is_receipt());
    eventually("it is answered", || rig.smsc.stats().mo_acked == 1);
    let enquiry = peer.expect(CommandId::ENQUIRE_LINK);
    peer.answer(&enquiry, CommandStatus::ESME_ROK);
    peer.expect(CommandId::ENQUIRE_LINK);
}
