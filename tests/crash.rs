//! kill -9 under load, for real: a child process, a simulator, a load that reconnects; then the customer's accepted ids, what the
//! SMSC received, and the ledger are compared.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use common::process::Daemon;
use serde_json::json;
use smsconnect::tools::load::{self, LoadOptions};
use smsconnect::tools::smsc::{Smsc, SmscOptions};
use tokio_util::sync::CancellationToken;

const BINDS: u32 = 2;
const WINDOW: usize = 100;
const UPSTREAM_WINDOW: usize = 100;

#[test]
fn nothing_acknowledged_is_lost_or_charged_twice_by_kill_9() {
    let rounds: u64 = std::env::var("CRASH_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(4);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = SmscOptions {
        listen,
        record: true,
        receipt_delay_ms: 5,
        ..SmscOptions::default()
    };
    let smsc = runtime.block_on(Smsc::start(options)).unwrap();
    let upstream = format!("binds = 2\nwindow = {UPSTREAM_WINDOW}");
    let mut daemon = Daemon::with(smsc.addr(), "segment_messages = 5000", &upstream);
    let socket = daemon.path("admin.sock");
    daemon.start(&[]);
    common::admin(
        &socket,
        "account.create",
        json!({"name": "acme", "system_id": "acme", "password": "secret1"}),
    )
    .unwrap();
    let topup = json!({"account": "acme", "amount": "10000000.00", "provider": "bank", "receipt": "T1"});
    common::admin(&socket, "wallet.topup", topup.clone()).unwrap();

    let ids_log = daemon.path("ids");
    let stop = CancellationToken::new();
    let load = LoadOptions {
        connect: vec![daemon.addr()],
        system_id: "acme".into(),
        password: "secret1".into(),
        binds: BINDS,
        window: WINDOW,
        rate: Some(5_000.0),
        duration: Some(Duration::from_millis(2_500 * (rounds + 1))),
        reconnect: true,
        ids_log: Some(ids_log.clone()),
        receipt_wait: Duration::from_secs(5),
        text: "crash {n} test".into(),
        ..LoadOptions::default()
    };
    let running = runtime.spawn(load::run(load, None, stop.clone()));
    common::eventually("the load is under way", || {
        common::admin(&socket, "stats.show", json!({})).is_ok_and(|s| s["accepted"].as_u64() > Some(100))
    });
    for round in 0..rounds {
        // Not a wait for a condition: the moment of the kill is meant to be arbitrary.
        std::thread::sleep(Duration::from_millis(1_500 + round * 97 % 400));
        daemon.kill();
        daemon.start(&[]);
    }
    let report = runtime.block_on(running).unwrap().unwrap();
    common::eventually("every message is final", || {
        let stats = common::admin(&socket, "stats.show", json!({})).unwrap();
        stats["open"] == 0
    });

    // Every id answered ESME_ROK was received by the SMSC and got its receipt (perhaps more than once, never none).
    assert_eq!(report.missing, 0, "{report}");
    assert!(report.accepted > 500 * rounds, "{report}");
    let mut times: HashMap<Vec<u8>, u32> = HashMap::new();
    for received in smsc.log() {
        *times.entry(received.dest).or_default() += 1;
    }
    let ids = std::fs::read_to_string(&ids_log).unwrap();
    let mut seen = HashSet::new();
    for line in ids.lines() {
        let (id, dest) = line.split_once('\t').unwrap();
        assert!(seen.insert(id.to_string()), "id {id} was given out twice");
        assert!(
            times.contains_key(dest.as_bytes()),
            "an accepted message never reached the SMSC"
        );
    }
    assert_eq!(seen.len() as u64, report.accepted);

    // Duplicates upstream only for what was in flight at a kill: the windows, and what was sent within one commit.
    let repeats: u64 = times.values().map(|n| u64::from(n - 1)).sum();
    let bound = rounds * (2 * UPSTREAM_WINDOW as u64 + 500);
    assert!(
        repeats <= bound,
        "{repeats} duplicates upstream, the bound is {bound}"
    );

    // Money: what is on record was charged exactly once, accepted or not answered.
    let check = common::admin(&socket, "wallet.check", json!({})).unwrap();
    assert_eq!(check["ok"], true, "{check}");
    let messages = check["messages"].as_u64().unwrap();
    assert!(
        messages >= report.accepted && messages <= report.accepted + report.unanswered,
        "{check} {report}"
    );
    assert_eq!(messages, times.len() as u64);
    let wallet = common::admin(&socket, "wallet.show", json!({"account": "acme"})).unwrap();
    let balance = smsconnect::money::Money::parse(wallet["balance"].as_str().unwrap()).unwrap();
    assert_eq!(balance.0, 10_000_000_000_000 - messages as i64 * 800_000);
    assert_eq!(wallet["held"], "0.00");
    let again = common::admin(&socket, "wallet.topup", topup).unwrap();
    assert_eq!(again["duplicate"], true);

    daemon.kill();
    eprintln!(
        "{rounds} kills: {} accepted, {} unanswered, {repeats} repeated upstream",
        report.accepted, report.unanswered
    );
}
