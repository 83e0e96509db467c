//! Metrics, health, logs; and that no personal data is in any of them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use common::{Peer, Script, World, eventually, message, receipt_text};
use serde_json::json;
use smsconnect::smpp::{Address, CommandId, CommandStatus, ShortMessage};
use smsconnect::tools::smsc::SmscOptions;

fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    request(
        addr,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    )
}

fn request(addr: SocketAddr, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(common::WAIT)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, b)| b).to_string();
    (status, body)
}

/// The value of a metric line.
fn value(body: &str, line: &str) -> Option<f64> {
    body.lines()
        .find_map(|l| l.strip_prefix(line).filter(|r| r.starts_with(' ')))
        .and_then(|v| v.trim().parse().ok())
}

#[test]
fn metrics_count_what_happened_in_base_units() {
    let world = World::new();
    world.account("acme", "100", json!({}));
    world.up(1);
    let mut p = world.bound("acme");
    for _ in 0..3 {
        p.submit(&message(b"x"));
    }
    let mut bad = message(b"x");
    bad.dest = Address {
        addr: b"nonsense",
        ..bad.dest
    };
    p.submit(&bad);
    for _ in 0..3 {
        p.delivery();
    }
    let addr = world.running.as_ref().unwrap().metrics.unwrap();
    let mut body = String::new();
    eventually("the receipts are counted", || {
        body = get(addr, "/metrics").1;
        value(&body, "smsconnect_messages_finished_total{state=\"DELIVRD\"}") >= Some(3.0)
    });
    // One recorder serves a whole process; other tests of this file do not submit.
    assert_eq!(
        value(&body, "smsconnect_submits_accepted_total"),
        Some(3.0),
        "{body}"
    );
    assert_eq!(
        value(&body, "smsconnect_submits_refused_total{reason=\"destination\"}"),
        Some(1.0),
        "{body}"
    );
    assert_eq!(value(&body, "smsconnect_segments_total"), Some(3.0));
    for name in [
        "smsconnect_pdus_total",
        "smsconnect_commit_seconds_bucket",
        "smsconnect_commit_rows_bucket",
        "smsconnect_submit_response_seconds_bucket",
        "smsconnect_upstream_response_seconds_bucket",
        "smsconnect_queue_messages",
        "smsconnect_upstream_bound",
        "smsconnect_sessions",
        "smsconnect_open_messages",
        "smsconnect_parked_receipts",
        "smsconnect_store_writable",
        "smsconnect_charged_micros_total",
        "smsconnect_admin_requests_total",
    ] {
        assert!(body.contains(name), "{name} is missing");
    }
    for line in body.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        assert!(line.starts_with("smsconnect_"), "{line}");
    }
}

#[test]
fn health_and_readiness_say_why() {
    let script = Script::new();
    let addr = script.addr();
    let mut world = World::with(SmscOptions::default(), |c| {
        c.upstream[0].address = vec![addr.to_string()];
    });
    let metrics = world.running.as_ref().unwrap().metrics.unwrap();
    assert_eq!(get(metrics, "/healthz").0, 200);
    let (status, why) = get(metrics, "/readyz");
    assert_eq!((status, why.trim()), (503, "no upstream is bound"));
    let _smsc = script.bound();
    eventually("ready", || get(metrics, "/readyz").0 == 200);
    assert_eq!(get(metrics, "/nothing").0, 404);
    assert_eq!(
        request(metrics, "POST /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").0,
        405
    );
    world.running.as_ref().unwrap().gateway.drain();
    assert_eq!(get(metrics, "/readyz"), (503, "draining\n".into()));
    world.stop();
}

#[test]
fn a_scraper_that_talks_nonsense_or_nothing_harms_nobody() {
    let world = World::new();
    let metrics = world.running.as_ref().unwrap().metrics.unwrap();
    let _silent: Vec<_> = (0..20).map(|_| TcpStream::connect(metrics).unwrap()).collect();
    let mut noise = TcpStream::connect(metrics).unwrap();
    let _reset = noise.write_all(&[0xFFu8; 20_000]);
    world.account("acme", "1", json!({}));
    let mut p = world.bound("acme");
    p.header(CommandId::ENQUIRE_LINK);
    assert_eq!(p.read().unwrap().id, CommandId::ENQUIRE_LINK_RESP);
}

const TEXT: &str = "CANARYTEXT";
const NUMBER: &str = "254712999888";
const SENDER: &str = "254711777666";
const SECRET: &str = "CanaryPw";
const UPSTREAM_SECRET: &str = "UpCanary";

fn canary<'a>(text: &'a str) -> ShortMessage<'a> {
    let mut sm = message(text.as_bytes());
    sm.dest = Address {
        addr: NUMBER.as_bytes(),
        ..sm.dest
    };
    sm.source = Address {
        addr: SENDER.as_bytes(),
        ..sm.source
    };
    sm
}

/// Everything that can be said about a message and a customer is said at the highest log level; none of it may be personal.
#[test]
fn no_text_number_or_password_is_in_logs_metrics_or_errors() {
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let script = Script::new();
        let port = |_| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let (customer, metrics): (SocketAddr, SocketAddr) = (port(0), port(1));
        let text = format!(
            "[customer]\nlisten = [\"{customer}\"]\ndeliver_retry_min_ms = 20\ndeliver_attempts_max = 1\n\
             [numbering]\ncountry_code = \"254\"\n[store]\npath = \"g.db\"\nfree_min_bytes = 0\n\
             [admin]\nsocket = \"a.sock\"\n[metrics]\nlisten = \"{metrics}\"\n[log]\nlevel = \"trace\"\nformat = \"{format}\"\n\
             [[inbound]]\naddress = \"22555\"\naccount = \"acme\"\n\
             [[upstream]]\nname = \"sim\"\naddress = \"{}\"\npassword = \"{UPSTREAM_SECRET}\"\nbinds = 1\nreconnect_min_ms = 20\n\
             [[route]]\nname = \"all\"\nprefix = [\"254\"]\nto = [\"sim\"]\n[[tariff]]\nname = \"t\"\ncurrency = \"KES\"\n\
             [[tariff.price]]\nprefix = \"254\"\nprice = \"0.80\"\n",
            script.addr()
        );
        std::fs::write(dir.path().join("c.toml"), text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_smsconnect"))
            .args(["serve", "--config"])
            .arg(dir.path().join("c.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            said
        });
        let socket = dir.path().join("a.sock");
        eventually("the daemon answers", || {
            common::admin(&socket, "stats.show", json!({})).is_ok()
        });
        let mut answers = String::new();
        let mut call = |method: &str, params: serde_json::Value| {
            answers.push_str(&format!("{:?}", common::admin(&socket, method, params)));
        };
        let account = json!({"name": "acme", "system_id": "acme", "password": SECRET});
        call("account.create", account.clone());
        call("account.create", account);
        call(
            "account.update",
            json!({"account": "acme", "password": format!("{SECRET} x")}),
        );
        call(
            "wallet.topup",
            json!({"account": "acme", "amount": "4", "provider": "bank", "receipt": "1"}),
        );
        let mut smsc = script.bound();
        let connect = || Peer::connect(customer);
        connect().bind(CommandId::BIND_TRANSCEIVER, "acme", "CanaryPwWrong");
        connect().bind(CommandId::BIND_TRANSCEIVER, "nobody", SECRET);
        let mut p = connect();
        assert_eq!(
            p.bind(CommandId::BIND_TRANSCEIVER, "acme", SECRET),
            CommandStatus::ESME_ROK
        );
        // Accepted and delivered; refused by the SMSC; throttled; refused here in several ways; malformed.
        let mut ids = Vec::new();
        for (n, status) in [(0, 0), (1, 0x0B), (2, 0x58), (3, 0)] {
            ids.push(p.submit(&canary(TEXT)).message_id());
            let got = smsc.expect(CommandId::SUBMIT_SM);
            if status == 0 {
                smsc.accept(&got, &format!("{n}"));
            } else {
                smsc.respond(&got, CommandStatus(status), b"");
            }
        }
        let again = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&again, "9");
        let mut bad = canary(TEXT);
        bad.validity_period = b"never";
        p.submit(&bad);
        bad = canary(TEXT);
        bad.dest.addr = b"447700900123";
        p.submit(&bad);
        for _ in 0..4 {
            p.submit(&canary(TEXT));
        }
        let mut broken = Vec::new();
        smsconnect::smpp::put_short_message(&mut broken, CommandId::SUBMIT_SM, 99, &canary(TEXT));
        broken.truncate(broken.len() - 3);
        let length = broken.len() as u32;
        broken[..4].copy_from_slice(&length.to_be_bytes());
        p.raw(&broken);
        // Receipts: good, unknown, unreadable; inbound: ours and nobody's.
        let receipt =
            |id: &str| receipt_text(id, "DELIVRD", "000").replace("text:x", &format!("text:{TEXT}"));
        for text in [receipt("0"), receipt("77"), format!("stat:{TEXT} {NUMBER}")] {
            let mut sm = common::receipt(&text);
            sm.source.addr = NUMBER.as_bytes();
            sm.dest.addr = SENDER.as_bytes();
            smsc.deliver(&sm);
            smsc.expect(CommandId::DELIVER_SM_RESP);
        }
        for to in ["22555", "33666"] {
            let mut mo = common::receipt(TEXT);
            mo.esm_class.0 = 0;
            mo.source.addr = NUMBER.as_bytes();
            mo.dest.addr = to.as_bytes();
            smsc.deliver(&mo);
            smsc.expect(CommandId::DELIVER_SM_RESP);
        }
        let got = p.expect(CommandId::DELIVER_SM);
        p.answer(&got, CommandStatus::ESME_RX_R_APPN);
        smsc.raw(&[0, 0, 0, 1, 1, 2, 3, 4]);
        for id in &ids {
            call("message.show", json!({"id": id}));
        }
        call("message.show", json!({"id": NUMBER}));
        for method in ["account.show", "wallet.show", "wallet.statement"] {
            call(method, json!({"account": "acme"}));
        }
        for method in [
            "session.list",
            "upstream.list",
            "queue.show",
            "stats.show",
            "wallet.check",
            "account.list",
        ] {
            call(method, json!({}));
        }
        let (_, scraped) = get(metrics, "/metrics");
        drop(p);
        let kill = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        drop(smsc);
        assert!(child.wait().unwrap().success());
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let log = log.join().unwrap();
        assert!(
            log.contains("customer bound") && log.len() > 1_000,
            "the log is not empty: {log}"
        );
        for (place, said) in [
            ("log", &log),
            ("metrics", &scraped),
            ("admin", &answers),
            ("stdout", &stdout),
        ] {
            for personal in [
                TEXT,
                NUMBER,
                &NUMBER[3..],
                SENDER,
                &SENDER[3..],
                SECRET,
                UPSTREAM_SECRET,
            ] {
                let at = said.find(personal);
                assert!(
                    at.is_none(),
                    "{personal} is in the {place} ({format}): …{}…",
                    {
                        let at = at.unwrap_or(0);
                        said.get(at.saturating_sub(120)..(at + 60).min(said.len()))
                            .unwrap_or("")
                    }
                );
            }
        }
    }
}
