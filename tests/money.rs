//! Money: prices and taxes, holds and what becomes of them, payments in and out, statements, quotas, and the proof that it all adds
//! up to the micro-unit.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::{Peer, World, eventually, linked, message, scripted, silent, wallet_is};
use rusqlite::Connection;
use serde_json::{Value, json};
use smsconnect::config::{self, Config, Price, Refund, TaxMode, Then};
use smsconnect::domain::tariff::tax_in;
use smsconnect::money::Money;
use smsconnect::smpp::{Address, CommandId, CommandStatus, Npi, ShortMessage, Ton};
use smsconnect::store::sqlite::Reader;

const ROK: CommandStatus = CommandStatus::ESME_ROK;
const NO_BALANCE: CommandStatus = CommandStatus(0x0400);

fn price(prefix: &str, operator: &str, class: &str, from: u64, micro: i64) -> Price {
    Price {
        prefix: prefix.into(),
        operator: operator.into(),
        class: class.into(),
        effective_from_ms: from,
        price: Money(micro),
    }
}

fn refund(state: &str, errors: &[u32], then: Then, wait_s: Option<u64>) -> Refund {
    Refund {
        state: state.into(),
        errors: errors.into(),
        then,
        wait_s,
    }
}

fn call(world: &World, method: &str, params: Value) -> Value {
    world
        .admin(method, params)
        .unwrap_or_else(|e| panic!("{method}: {e}"))
}

/// The whole error object as text.
fn denied(world: &World, method: &str, params: Value) -> String {
    let mut stream = UnixStream::connect(&world.config.admin.socket).unwrap();
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(answer["error"].is_object(), "{method} was not refused: {answer}");
    answer["error"].to_string()
}

fn pay(world: &World, account: &str, amount: &str, receipt: &str) -> Value {
    let params = json!({"account": account, "amount": amount, "provider": "mpesa", "receipt": receipt});
    call(world, "wallet.topup", params)
}

fn to<'a>(source: &'a [u8], number: &'a [u8]) -> ShortMessage<'a> {
    let address = |addr, ton| Address {
        ton: Ton(ton),
        npi: Npi(0),
        addr,
    };
    ShortMessage {
        source: address(source, 5),
        dest: address(number, 1),
        ..message(b"x")
    }
}

/// Submits and gives back how much more is held.
fn priced(world: &World, p: &mut Peer, sm: &ShortMessage<'_>) -> Money {
    let held = || Money::parse(&world.wallet("acme").1).unwrap();
    let before = held();
    assert_eq!(p.submit(sm).status, ROK);
    Money(held().0 - before.0)
}

/// Lines of the whole statement as (reason, against, amount).
fn lines(world: &World, account: &str) -> Vec<(String, String, String)> {
    let statement = call(world, "wallet.statement", json!({"account": account}));
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let items = statement["items"].as_array().unwrap();
    items
        .iter()
        .map(|l| (text(&l["reason"]), text(&l["against"]), text(&l["amount"])))
        .collect()
}

fn line(reason: &str, against: &str, amount: &str) -> (String, String, String) {
    (reason.into(), against.into(), amount.into())
}

/// What the whole ledger says: sum by ledger account.
fn folds(path: &Path) -> BTreeMap<String, i64> {
    let conn = Connection::open(path).unwrap();
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    let mut stmt = conn.prepare("SELECT debit, credit, amount FROM ledger").unwrap();
    let mut rows = stmt.query([]).unwrap();
    while let Some(r) = rows.next().unwrap() {
        let amount: i64 = r.get(2).unwrap();
        assert!(amount > 0, "an empty posting");
        *sums.entry(r.get(0).unwrap()).or_default() -= amount;
        *sums.entry(r.get(1).unwrap()).or_default() += amount;
    }
    sums.retain(|_, v| *v != 0);
    assert_eq!(sums.values().sum::<i64>(), 0, "double entry");
    sums
}

fn store(world: &World) -> std::path::PathBuf {
    world.config.store.path.clone()
}

/// The hour at which the tests run decides nothing.
fn at_any_time() -> Vec<config::rules::Class> {
    vec![config::rules::Class {
        name: "promotional".into(),
        ..Default::default()
    }]
}

// Prices.

#[test]
fn operator_prefix_class_and_time_decide_the_price() {
    let later = 4_000_000_000_000;
    let (world, _script, _smsc, mut p) = linked(|c| {
        c.numbering.ranges = [("25471", "safaricom"), ("25473", "airtel")]
            .map(|(prefix, operator)| config::Range {
                prefix: prefix.into(),
                operator: operator.into(),
                ..config::Range::default()
            })
            .into();
        c.numbering.mobile_only = false;
        c.sender = vec![config::Sender {
            id: "DEALS".into(),
            class: "promotional".into(),
            ..Default::default()
        }];
        c.rules.class = at_any_time();
        c.tariff[0].price = vec![
            price("254", "", "", 0, 800_000),
            price("254", "", "promotional", 0, 600_000),
            price("", "airtel", "", 0, 900_000),
            price("2547", "", "", 1_000, 700_000),
            price("2547", "", "", later, 1_000_000),
        ];
    });
    let mut cost = |from: &[u8], number: &[u8]| priced(&world, &mut p, &to(from, number)).0;
    assert_eq!(cost(b"ACME", b"254112345678"), 800_000);
    assert_eq!(cost(b"deals", b"254112345678"), 600_000, "the sender's class");
    assert_eq!(
        cost(b"ACME", b"254712345678"),
        700_000,
        "the longest that is in force"
    );
    assert_eq!(
        cost(b"DEALS", b"254733345678"),
        900_000,
        "the operator before all"
    );
    assert_eq!(
        p.submit(&to(b"ACME", b"447700900123")).status,
        CommandStatus(0x0403),
        "no price"
    );
}

#[test]
fn an_account_has_prices_of_its_own_that_survive_a_restart() {
    // Answers that are due never come.
    let (mut world, _script, _smsc, mut p) = linked(|c| c.server.drain_timeout_ms = 300);
    let sm = to(b"ACME", b"254712345678");
    assert_eq!(priced(&world, &mut p, &sm), Money(800_000));
    let set = json!({"account": "acme", "prefix": "25471", "price": "0.55"});
    assert_eq!(call(&world, "price.set", set)["items"][0]["price"], "0.55");
    assert_eq!(priced(&world, &mut p, &sm), Money(550_000));
    let from = json!({"account": "acme", "prefix": "25471", "price": "0.01", "effective_from": "2099-01-01"});
    call(&world, "price.set", from);
    assert_eq!(priced(&world, &mut p, &sm), Money(550_000), "not in force yet");
    assert_eq!(
        priced(&world, &mut p, &to(b"ACME", b"254733345678")),
        Money(800_000),
        "the tariff's"
    );
    drop(p);
    world.stop();
    world.start();
    let mut p = world.bound("acme");
    assert_eq!(
        call(&world, "price.list", json!({"account": "acme"}))["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(priced(&world, &mut p, &sm), Money(550_000));
    call(
        &world,
        "price.remove",
        json!({"account": "acme", "prefix": "25471"}),
    );
    assert_eq!(priced(&world, &mut p, &sm), Money(800_000));
    let gone = denied(
        &world,
        "price.remove",
        json!({"account": "acme", "prefix": "25471"}),
    );
    assert!(gone.contains("E_NOT_FOUND"), "{gone}");
    for (bad, field) in [
        (
            json!({"account": "acme", "prefix": "+254", "price": "1"}),
            "prefix",
        ),
        (
            json!({"account": "acme", "prefix": "254", "price": "-1"}),
            "price",
        ),
        (
            json!({"account": "acme", "prefix": "254", "operator": "nobody", "price": "1"}),
            "operator",
        ),
        (json!({"account": "acme", "prefix": "254"}), "price"),
    ] {
        let said = denied(&world, "price.set", bad);
        assert!(said.contains(field), "{said}");
    }
    // Every message has the price of its own moment, and the versions behind them are on record.
    let conn = Connection::open(store(&world)).unwrap();
    let versions: i64 = conn
        .query_row("SELECT COUNT(*) FROM tariff_version", [], |r| r.get(0))
        .unwrap();
    assert!(versions >= 3, "{versions}");
    world.reconciles();
}

#[test]
fn a_wallet_keeps_its_currency() {
    let world = World::with(Default::default(), |c| {
        let mut other = common::tariff("dollars", config::ChargeOn::Submitted);
        other.currency = "USD".into();
        c.tariff.push(other);
    });
    world.account("acme", "10", json!({}));
    assert_eq!(
        call(&world, "wallet.show", json!({"account": "acme"}))["currency"],
        "KES"
    );
    let said = denied(
        &world,
        "account.update",
        json!({"account": "acme", "tariff": "dollars"}),
    );
    assert!(said.contains("E_STATE") && said.contains("currency"), "{said}");
    world.account("beta", "10", json!({"tariff": "dollars"}));
    assert_eq!(
        call(&world, "wallet.show", json!({"account": "beta"}))["currency"],
        "USD"
    );
}

// Taxes and refunds.

#[test]
fn tax_is_a_line_of_its_own_inside_the_price_or_on_top_of_it() {
    for (mode, whole) in [(TaxMode::Exclusive, 928_000i64), (TaxMode::Inclusive, 800_000)] {
        let (world, _script, mut smsc, mut p) = linked(|c| {
            c.tariff[0].tax_bp = 1_600;
            c.tariff[0].tax_mode = mode;
        });
        assert_eq!(priced(&world, &mut p, &message(b"x")), Money(whole));
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, "S1");
        let left = Money(1_000_000_000 - whole).to_string();
        wallet_is(&world, "acme", &left, "0.00");
        let tax = tax_in(Money(whole), 1_600);
        let net = Money(whole - tax.0);
        assert_eq!(
            lines(&world, "acme")[1..],
            [
                line("charge", "revenue", &format!("-{net}")),
                line("charge", "tax", &format!("-{tax}")),
            ]
        );
        if mode == TaxMode::Exclusive {
            assert_eq!((net, tax), (Money(800_000), Money(128_000)));
        }
        assert_eq!(folds(&store(&world))["tax"], tax.0);
        world.reconciles();
    }
}

fn with_refunds(c: &mut Config) {
    c.tariff[0].tax_bp = 1_600;
    c.tariff[0].refund = vec![
        refund("UNDELIV", &[], Then::Release, None),
        refund("UNDELIV", &[9], Then::Keep, None),
        refund("UNKNOWN", &[], Then::Keep, Some(1)),
    ];
}

#[test]
fn the_final_state_and_its_error_decide_what_is_kept() {
    let (world, _script, mut smsc, mut p) = linked(with_refunds);
    let mut ends = |id: &str, stat: &str, err: &str| {
        assert_eq!(p.submit(&message(b"x")).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, id);
        smsc.receipt(id, stat, err);
        assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    };
    ends("S1", "DELIVRD", "000");
    wallet_is(&world, "acme", "999.20", "0.00");
    ends("S2", "UNDELIV", "001");
    wallet_is(&world, "acme", "999.20", "0.00");
    ends("S3", "UNDELIV", "009");
    wallet_is(&world, "acme", "998.40", "0.00");
    // Every step stays in the ledger, with its reason; the tax goes back with the rest.
    let reasons: Vec<(String, String, String)> = lines(&world, "acme");
    assert!(
        reasons.contains(&line("refund:UNDELIV", "revenue", "0.689655")),
        "{reasons:?}"
    );
    assert!(
        reasons.contains(&line("refund:UNDELIV", "tax", "0.110345")),
        "{reasons:?}"
    );
    let folds = folds(&store(&world));
    assert_eq!(folds["revenue"] + folds["tax"], 1_600_000);
    assert_eq!(folds["tax"], 2 * tax_in(Money(800_000), 1_600).0);
    world.reconciles();
}

#[test]
fn unknown_waits_as_long_as_the_tariff_says_and_is_kept_then() {
    let (world, _script, mut smsc, mut p) = linked(with_refunds);
    for (id, later) in [("S1", Some("UNDELIV")), ("S2", None)] {
        assert_eq!(p.submit(&message(b"x")).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, id);
        smsc.receipt(id, "UNKNOWN", "000");
        assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
        assert_eq!(world.stat("open"), 1, "a later receipt may still come");
        if let Some(stat) = later {
            smsc.receipt(id, stat, "001");
            assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
            wallet_is(&world, "acme", "1000.00", "0.00");
        }
    }
    eventually("the wait is over", || world.stat("open") == 0);
    assert_eq!(world.wallet("acme"), ("999.20".into(), "0.00".into()));
    world.reconciles();
}

#[test]
fn what_expires_in_our_queue_costs_nothing_whatever_the_policy() {
    for charge_on in [
        config::ChargeOn::Accepted,
        config::ChargeOn::Submitted,
        config::ChargeOn::Delivered,
    ] {
        let (world, _script) = scripted(|c| {
            c.tariff[0].charge_on = charge_on;
            c.tariff[0].refund = vec![refund("EXPIRED", &[], Then::Keep, None)];
        });
        let mut p = world.bound("acme");
        let sm = ShortMessage {
            validity_period: b"000000000001000R",
            ..message(b"x")
        };
        let got = p.submit(&sm);
        assert_eq!(got.status, ROK);
        world.state(&got.message_id(), "EXPIRED");
        assert_eq!(world.wallet("acme"), ("1000.00".into(), "0.00".into()));
        world.reconciles();
    }
}

#[test]
fn a_delivered_only_tariff_can_keep_an_unknown_end() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.tariff[0].charge_on = config::ChargeOn::Delivered;
        c.tariff[0].refund = vec![refund("UNDELIV", &[3], Then::Keep, None)];
    });
    for (id, err, held) in [("S1", "003", "999.20"), ("S2", "004", "999.20")] {
        assert_eq!(p.submit(&message(b"x")).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, id);
        smsc.receipt(id, "UNDELIV", err);
        assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
        wallet_is(&world, "acme", held, "0.00");
    }
    world.reconciles();
}

// Holds.

#[test]
fn many_sessions_on_a_small_balance_never_overdraw_it() {
    let (world, _script) = scripted(|_| {});
    world.account("small", "8.00", json!({}));
    call(
        &world,
        "wallet.limit",
        json!({"account": "small", "credit": "1.60"}),
    );
    let addr = world.addr();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut p = Peer::connect(addr);
                assert_eq!(
                    p.bind(CommandId::BIND_TRANSCEIVER, "small", common::PASSWORD),
                    ROK
                );
                (0..10)
                    .map(|_| p.submit(&message(b"x")).status)
                    .filter(|s| {
                        assert!(matches!(*s, ROK | NO_BALANCE), "{s:?}");
                        *s == ROK
                    })
                    .count()
            })
        })
        .collect();
    let accepted: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!(accepted, 12, "9.60 buys twelve, not one more or less");
    assert_eq!(world.wallet("small"), ("8.00".into(), "9.60".into()));
    let holds = call(&world, "wallet.holds", json!({"account": "small", "limit": 5}));
    assert_eq!(
        (holds["count"].clone(), holds["amount"].clone()),
        (json!(12), json!("9.60"))
    );
    assert_eq!(holds["items"].as_array().unwrap().len(), 5);
    assert_eq!(holds["items"][0]["state"], "queued");
    assert!(holds["items"][0]["age_s"].as_u64().unwrap() < 60);
    let folds = folds(&store(&world));
    assert_eq!((folds["held"], folds["wallet"]), (9_600_000, 998_400_000));
    world.reconciles();
}

// Payments.

#[test]
fn a_payment_without_a_known_account_waits_in_suspense_until_it_is_assigned() {
    let world = World::new();
    world.account("acme", "1", json!({}));
    let stray = json!({"payer_ref": "acmee", "amount": "50", "provider": "mpesa", "receipt": "QA1", "note": "till 2"});
    let first = call(&world, "wallet.topup", stray.clone());
    assert_eq!(
        (first["suspense"].clone(), first["account"].clone()),
        (json!(true), Value::Null)
    );
    let again = call(&world, "wallet.topup", stray.clone());
    assert_eq!(
        (again["duplicate"].clone(), again["entry"].clone()),
        (json!(true), first["entry"].clone())
    );
    assert_eq!(folds(&store(&world))["suspense"], 50_000_000);
    world.reconciles();
    let list = call(&world, "wallet.suspense", json!({}));
    assert_eq!(list["items"][0]["payer_ref"], "acmee");
    let give = json!({"account": "acme", "provider": "mpesa", "receipt": "qa1"});
    let given = call(&world, "wallet.assign", give.clone());
    assert_eq!(
        (given["balance"].clone(), given["account"].clone()),
        (json!("51.00"), json!("acme"))
    );
    assert_eq!(call(&world, "wallet.assign", give)["duplicate"], true);
    assert_eq!(
        call(&world, "wallet.topup", stray)["duplicate"],
        true,
        "the provider says it again"
    );
    assert!(
        call(&world, "wallet.suspense", json!({}))["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(!folds(&store(&world)).contains_key("suspense"));
    world.account("beta", "1", json!({}));
    let other = json!({"account": "beta", "provider": "mpesa", "receipt": "QA1"});
    assert!(denied(&world, "wallet.assign", other).contains("E_STATE"));
    let unknown = json!({"account": "beta", "provider": "mpesa", "receipt": "QA9"});
    assert!(denied(&world, "wallet.assign", unknown).contains("E_NOT_FOUND"));
    // Somebody is called that now: the same payment stays where it went.
    world.account("acmee", "1", json!({}));
    let again = json!({"payer_ref": "acmee", "amount": "50", "provider": "mpesa", "receipt": "QA1"});
    assert_eq!(call(&world, "wallet.topup", again)["account"], "acme");
    // What the payer wrote is a known account: it goes there at once, whatever the case.
    let direct = json!({"payer_ref": " BETA", "amount": "5", "provider": "mpesa", "receipt": "QA2"});
    assert_eq!(call(&world, "wallet.topup", direct)["account"], "beta");
    world.reconciles();
}

#[test]
fn the_same_receipt_with_other_terms_is_a_conflict_and_an_event() {
    let world = World::new();
    world.account("acme", "1", json!({}));
    world.account("beta", "1", json!({}));
    pay(&world, "acme", "5", "QB1");
    for params in [
        json!({"account": "acme", "amount": "6", "provider": "mpesa", "receipt": "QB1"}),
        json!({"account": "beta", "amount": "5", "provider": "mpesa", "receipt": "QB1"}),
    ] {
        assert!(denied(&world, "wallet.topup", params).contains("E_IDEMPOTENCY_CONFLICT"));
    }
    let events = call(&world, "event.list", json!({}));
    let kinds: Vec<&Value> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["kind"])
        .collect();
    assert_eq!(kinds, ["topup_conflict", "topup_conflict"]);
    assert_eq!(world.wallet("acme").0, "6.00");
    assert_eq!(world.wallet("beta").0, "1.00");
}

#[test]
fn a_reversal_after_spending_freezes_the_wallet_and_keeps_what_is_in_flight() {
    let (mut world, script) = scripted(|_| {});
    let mut smsc = script.bound();
    world.account("payer", "0.80", json!({}));
    pay(&world, "payer", "1.60", "QC1");
    call(
        &world,
        "wallet.limit",
        json!({"account": "payer", "credit": "100"}),
    );
    let mut p = world.bound("payer");
    for _ in 0..3 {
        assert_eq!(p.submit(&message(b"x")).status, ROK);
    }
    let in_flight: Vec<_> = (0..3).map(|_| smsc.expect(CommandId::SUBMIT_SM)).collect();
    smsc.accept(&in_flight[0], "S0");
    smsc.accept(&in_flight[1], "S1");
    wallet_is(&world, "payer", "0.80", "0.80");
    let back = json!({"provider": "mpesa", "receipt": "QC1"});
    assert_eq!(call(&world, "wallet.reverse", back.clone())["balance"], "-0.80");
    assert_eq!(call(&world, "wallet.reverse", back)["duplicate"], true);
    assert_eq!(world.wallet("payer").0, "-0.80");
    assert_eq!(
        p.submit(&message(b"x")).status,
        NO_BALANCE,
        "credit does not help"
    );
    smsc.accept(&in_flight[2], "S2");
    wallet_is(&world, "payer", "-1.60", "0.00");
    assert_eq!(
        call(&world, "wallet.show", json!({"account": "payer"}))["frozen"],
        true
    );
    // Through a restart too; a payment that fills it ends it.
    drop((p, smsc));
    world.stop();
    world.start();
    let mut p = world.bound("payer");
    assert_eq!(p.submit(&message(b"x")).status, NO_BALANCE);
    pay(&world, "payer", "1", "QC2");
    assert_eq!(p.submit(&message(b"x")).status, NO_BALANCE, "still below zero");
    pay(&world, "payer", "1", "QC3");
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    world.reconciles();
}

#[test]
fn unused_money_goes_back_once_and_an_unknown_payout_stays_set_aside() {
    let (world, _script) = scripted(|_| {});
    world.account("payer", "1", json!({}));
    pay(&world, "payer", "10", "QD1");
    let out = |amount: &str, reference: &str| json!({"account": "payer", "provider": "mpesa", "receipt": "QD1", "amount": amount, "reference": reference});
    let settle = |reference: &str, outcome: &str| json!({"reference": reference, "outcome": outcome});
    assert!(
        denied(&world, "wallet.payout", out("10.01", "P0")).contains("E_FUNDS"),
        "more than the payment"
    );
    let mut p = world.bound("payer");
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    call(
        &world,
        "wallet.limit",
        json!({"account": "payer", "credit": "50"}),
    );
    let said = denied(&world, "wallet.payout", out("9.50", "P0"));
    assert!(
        said.contains("E_FUNDS") && said.contains("9.40"),
        "what is held is not there, credit is not money: {said}"
    );
    let first = call(&world, "wallet.payout", out("4", "P1"));
    assert_eq!(
        (first["state"].clone(), first["balance"].clone()),
        (json!("pending"), json!("7.00"))
    );
    assert_eq!(call(&world, "wallet.payout", out("4", "P1"))["duplicate"], true);
    assert!(denied(&world, "wallet.payout", out("3", "P1")).contains("E_IDEMPOTENCY_CONFLICT"));
    assert_eq!(world.wallet("payer"), ("7.00".into(), "1.60".into()));
    assert!(
        denied(&world, "wallet.payout", out("6.01", "P2")).contains("E_FUNDS"),
        "what is on its way counts"
    );
    assert_eq!(
        call(&world, "wallet.settle", settle("P1", "unknown"))["state"],
        "unknown"
    );
    assert_eq!(
        world.wallet("payer").0,
        "7.00",
        "nobody knows: it stays set aside"
    );
    assert_eq!(
        call(&world, "wallet.payouts", json!({"open": true}))["items"][0]["reference"],
        "P1"
    );
    world.reconciles();
    assert_eq!(
        call(&world, "wallet.settle", settle("P1", "failed"))["balance"],
        "11.00"
    );
    assert_eq!(
        call(&world, "wallet.settle", settle("P1", "failed"))["duplicate"],
        true
    );
    assert!(denied(&world, "wallet.settle", settle("P1", "paid")).contains("E_STATE"));
    call(&world, "wallet.payout", out("5", "P2"));
    assert_eq!(
        call(&world, "wallet.settle", settle("P2", "paid"))["state"],
        "paid"
    );
    assert!(
        call(&world, "wallet.payouts", json!({"open": true}))["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(world.wallet("payer").0, "6.00");
    // The rest of the payment can be reversed, not what has been paid out.
    call(
        &world,
        "wallet.reverse",
        json!({"provider": "mpesa", "receipt": "QD1"}),
    );
    assert_eq!(world.wallet("payer").0, "1.00");
    assert!(denied(&world, "wallet.settle", settle("P9", "paid")).contains("E_NOT_FOUND"));
    world.reconciles();
}

#[test]
fn a_person_corrects_a_balance_once_per_reference_and_says_why() {
    let world = World::new();
    world.account("acme", "10", json!({}));
    let fix = |amount: &str, reference: &str| json!({"account": "acme", "amount": amount, "reference": reference, "note": "goodwill"});
    assert_eq!(
        call(&world, "wallet.adjust", fix("2.50", "A1"))["balance"],
        "12.50"
    );
    assert_eq!(
        call(&world, "wallet.adjust", fix("2.50", "A1"))["duplicate"],
        true
    );
    assert_eq!(call(&world, "wallet.adjust", fix("-12", "A2"))["balance"], "0.50");
    assert!(denied(&world, "wallet.adjust", fix("-0.51", "A3")).contains("E_FUNDS"));
    let silent = json!({"account": "acme", "amount": "1", "reference": "A4"});
    assert!(denied(&world, "wallet.adjust", silent).contains("note"));
    let sneaky = json!({"account": "acme", "amount": "1", "provider": "adjustment", "receipt": "A5"});
    assert!(denied(&world, "wallet.topup", sneaky).contains("wallet.adjust"));
    assert_eq!(folds(&store(&world))["adjustment"], 9_500_000);
    world.reconciles();
}

#[test]
fn the_same_payment_a_hundred_times_at_once_moves_money_once() {
    let world = World::new();
    world.account("acme", "1", json!({}));
    let socket = world.config.admin.socket.clone();
    let threads: Vec<_> = (0..10)
        .map(|_| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                let same = json!({"account": "acme", "amount": "7", "provider": "mpesa", "receipt": "QE1"});
                let answers = (0..10).map(|_| common::admin(&socket, "wallet.topup", same.clone()).unwrap());
                answers.filter(|a| a["duplicate"] == false).count()
            })
        })
        .collect();
    let firsts: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!((firsts, world.wallet("acme").0), (1, "8.00".into()));
    world.reconciles();
}

#[test]
fn a_providers_list_is_compared_and_what_is_missing_here_is_booked_on_demand() {
    let world = World::new();
    world.account("acme", "1", json!({}));
    for (receipt, amount, at) in [
        ("RA1", "100", "2026-01-05T08:00:00Z"),
        ("RA2", "200", "2026-01-05T09:00:00Z"),
        ("RA3", "300", "2026-01-05T10:00:00Z"),
        ("RA9", "900", "2026-02-01T10:00:00Z"),
    ] {
        let params = json!({"account": "acme", "amount": amount, "provider": "mpesa", "receipt": receipt, "paid_at": at});
        call(&world, "wallet.topup", params);
    }
    let csv = "Receipt No.,Completion Time,Paid In,Withdrawn,A/C No.\n\
               RA1,2026-01-05 08:00:00,100.00,,acme\n\
               RA2,2026-01-05 09:00:00,250.00,,acme\n\
               RA4,2026-01-05 12:00:00,\"1,000.50\",,ACME\n\
               RA5,2026-01-05 13:00:00,5.00,,akme\n\
               RA6,2026-01-05 13:30:00,,-30.00,\n";
    let list = |apply: bool| json!({"provider": "mpesa", "csv": csv, "apply": apply});
    let seen = call(&world, "wallet.reconcile", list(false));
    assert_eq!(
        (
            seen["rows"].clone(),
            seen["skipped"].clone(),
            seen["matched"].clone()
        ),
        (json!(4), json!(1), json!(1))
    );
    let receipts = |v: &Value| -> Vec<String> {
        v.as_array()
            .unwrap()
            .iter()
            .map(|x| x["receipt"].as_str().unwrap().into())
            .collect()
    };
    assert_eq!(receipts(&seen["missing_here"]), ["RA4", "RA5"]);
    assert_eq!(
        receipts(&seen["missing_there"]),
        ["RA3"],
        "RA9 is not of that day"
    );
    assert_eq!(receipts(&seen["mismatched"]), ["RA2"]);
    assert_eq!(seen["mismatched"][0]["there"], "250.00");
    assert_eq!(world.wallet("acme").0, "1501.00", "nothing was booked");
    assert_eq!(call(&world, "wallet.reconcile", list(true))["applied"], 2);
    assert_eq!(world.wallet("acme").0, "2501.50");
    assert_eq!(
        call(&world, "wallet.suspense", json!({}))["items"][0]["receipt"],
        "RA5"
    );
    let after = call(&world, "wallet.reconcile", list(true));
    assert_eq!(
        (after["matched"].clone(), after["applied"].clone()),
        (json!(3), json!(0))
    );
    let said = denied(
        &world,
        "wallet.reconcile",
        json!({"provider": "mpesa", "csv": "a,b\n1,2\n"}),
    );
    assert!(said.contains("column"), "{said}");
    world.reconciles();
}

// Statements.

#[test]
fn statements_chain_and_their_lines_add_up_to_the_micro_unit() {
    let (world, _script, mut smsc, mut p) = linked(|c| {
        c.tariff[0].tax_bp = 1_600;
        c.tariff[0].price = vec![price("254", "", "", 0, 333_333)];
        c.sender = vec![config::Sender {
            id: "DEALS".into(),
            class: "promotional".into(),
            ..Default::default()
        }];
        c.rules.class = at_any_time();
    });
    for (n, source) in [(0, &b"ACME"[..]), (1, b"DEALS"), (2, b"ACME")] {
        assert_eq!(p.submit(&to(source, b"254712345678")).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        smsc.accept(&got, &format!("S{n}"));
        // A price change in between: each message has that of its own moment.
        call(
            &world,
            "price.set",
            json!({"account": "acme", "prefix": "254", "price": format!("0.{n}77777")}),
        );
    }
    wallet_is(&world, "acme", "999.411113", "0.00");
    pay(&world, "acme", "0.000001", "QF1");
    let all = call(&world, "wallet.statement", json!({"account": "acme"}));
    assert_eq!(
        (all["opening"].clone(), all["closing"].clone()),
        (json!("0.00"), json!("999.411114"))
    );
    let items = all["items"].as_array().unwrap();
    let money = |v: &Value| Money::parse(v.as_str().unwrap()).unwrap().0;
    let mut running = 0;
    for l in items {
        running += money(&l["amount"]);
        assert_eq!(money(&l["balance"]), running, "{l}");
    }
    assert_eq!(running, 999_411_114);
    // A day's messages of one route and class are one line.
    let of = |reason: &str, class: &str, against: &str| {
        let of = |l: &&Value| l["reason"] == reason && l["class"] == class && l["against"] == against;
        items
            .iter()
            .filter(of)
            .map(|l| (l["count"].clone(), l["route"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("charge", "", "revenue"), [(json!(2), json!("kenya"))]);
    assert_eq!(of("charge", "promotional", "tax"), [(json!(1), json!("kenya"))]);
    // Cut anywhere, the opening of the next is the closing of the last.
    let cut = "2026-01-01T00:00:00Z";
    let before = call(&world, "wallet.statement", json!({"account": "acme", "to": cut}));
    let after = call(
        &world,
        "wallet.statement",
        json!({"account": "acme", "from": cut}),
    );
    assert_eq!(before["closing"], after["opening"]);
    let page = call(&world, "wallet.statement", json!({"account": "acme", "limit": 2}));
    let next = call(
        &world,
        "wallet.statement",
        json!({"account": "acme", "cursor": page["cursor"]}),
    );
    assert_eq!(
        (page["closing"].clone(), next["closing"].clone()),
        (next["opening"].clone(), all["closing"].clone())
    );
    let csv = call(
        &world,
        "wallet.statement",
        json!({"account": "acme", "format": "csv"}),
    );
    let text = csv["csv"].as_str().unwrap();
    assert_eq!(text.lines().count(), items.len() + 1);
    assert!(
        text.lines().last().unwrap().ends_with("QF1,0.000001,999.411114"),
        "{text}"
    );
    let wrong = denied(
        &world,
        "wallet.statement",
        json!({"account": "acme", "from": "yesterday"}),
    );
    assert!(wrong.contains("from"), "{wrong}");
    world.reconciles();
}

// Alarms and quotas.

#[test]
fn a_low_balance_is_told_once_and_again_only_after_it_has_recovered() {
    let (world, _script) = scripted(|_| {});
    world.account("small", "10", json!({"low_balance": "9.50"}));
    let kinds = |world: &World| -> Vec<String> {
        let events = call(world, "event.list", json!({}));
        let items = events["items"].as_array().unwrap().iter();
        items
            .filter(|e| e["account"] == "small")
            .map(|e| e["kind"].as_str().unwrap().to_string())
            .collect()
    };
    let mut p = world.bound("small");
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    eventually("it is told", || kinds(&world) == ["wallet_low"]);
    pay(&world, "small", "1", "QG1");
    // 10.20 is above the threshold and not yet a tenth above it.
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(kinds(&world), ["wallet_low"]);
    pay(&world, "small", "1", "QG2");
    eventually("it has recovered", || {
        kinds(&world) == ["wallet_low", "wallet_recovered"]
    });
    let after = call(&world, "event.list", json!({"cursor": 1}));
    assert_eq!(after["items"][0]["kind"], "wallet_recovered");
}

#[test]
fn a_quota_of_segments_holds_for_the_day_through_a_restart() {
    let (mut world, _script) = scripted(|_| {});
    world.account("small", "100", json!({"quota_day": 3, "quota_month": 1000}));
    let mut p = world.bound("small");
    let long = [b'x'; 200];
    let payload = {
        let mut out = Vec::new();
        smsconnect::smpp::put_tlv(&mut out, smsconnect::smpp::Tag::MESSAGE_PAYLOAD, &long);
        out
    };
    let two_segments = ShortMessage {
        tlvs: smsconnect::smpp::Tlvs::parse(&payload).unwrap(),
        ..message(b"")
    };
    assert_eq!(p.submit(&two_segments).status, ROK);
    assert_eq!(
        p.submit(&two_segments).status,
        CommandStatus::ESME_RTHROTTLED,
        "two more are too many"
    );
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    assert_eq!(p.submit(&message(b"x")).status, CommandStatus::ESME_RTHROTTLED);
    drop(p);
    world.stop();
    world.start();
    let mut p = world.bound("small");
    assert_eq!(p.submit(&message(b"x")).status, CommandStatus::ESME_RTHROTTLED);
    call(
        &world,
        "account.update",
        json!({"account": "small", "quota_day": 4}),
    );
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    call(
        &world,
        "account.update",
        json!({"account": "small", "quota_day": 0, "quota_month": 4}),
    );
    assert_eq!(
        p.submit(&message(b"x")).status,
        CommandStatus::ESME_RTHROTTLED,
        "the month is full too"
    );
    world.reconciles();
}

#[test]
fn a_submit_that_is_refused_for_lack_of_money_uses_up_no_quota() {
    let (world, _script) = scripted(|_| {});
    world.account("small", "0.80", json!({"quota_day": 2}));
    let mut p = world.bound("small");
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    for _ in 0..3 {
        assert_eq!(p.submit(&message(b"x")).status, NO_BALANCE);
    }
    pay(&world, "small", "10", "QH1");
    assert_eq!(p.submit(&message(b"x")).status, ROK);
    assert_eq!(p.submit(&message(b"x")).status, CommandStatus::ESME_RTHROTTLED);
}

// The proof.

#[test]
fn the_check_finds_whatever_does_not_add_up() {
    let (mut world, script) = scripted(|c| {
        c.tariff[0].tax_bp = 1_600;
        c.server.drain_timeout_ms = 300;
    });
    let (_world, mut smsc) = ((), script.bound());
    let mut p = world.bound("acme");
    for n in 0..3 {
        assert_eq!(p.submit(&message(b"x")).status, ROK);
        let got = smsc.expect(CommandId::SUBMIT_SM);
        if n < 2 {
            smsc.accept(&got, &format!("S{n}"));
        }
    }
    smsc.receipt("S0", "DELIVRD", "000");
    assert_eq!(smsc.expect(CommandId::DELIVER_SM_RESP).status, ROK);
    silent(&mut smsc);
    call(
        &world,
        "wallet.topup",
        json!({"payer_ref": "?", "amount": "5", "provider": "mpesa", "receipt": "S1"}),
    );
    drop((p, smsc));
    world.stop();
    let path = store(&world);
    let check = |path: &Path| Reader::open(path).unwrap().check(0).unwrap().faults;
    assert_eq!(check(&path), Vec::<String>::new());
    let seg = "(SELECT MAX(number) FROM segment)";
    let live: i64 = Connection::open(&path)
        .unwrap()
        .query_row(&format!("SELECT {seg}"), [], |r| r.get(0))
        .unwrap();
    for (what, sql) in [
        ("a balance", "UPDATE wallet SET balance = balance + 1".to_string()),
        ("a ledger row", "UPDATE ledger SET amount = amount + 1 WHERE reason = 'charge' AND credit = 'tax' AND entry = (SELECT MIN(entry) FROM ledger WHERE credit = 'tax')".into()),
        ("a ledger row is gone", "DELETE FROM ledger WHERE reason = 'hold' AND entry = (SELECT MAX(entry) FROM ledger WHERE reason = 'hold')".into()),
        ("an end that was charged more", format!("UPDATE final_{live} SET charged = charged + 1")),
        ("an end without a message", format!("UPDATE final_{live} SET key = key + 1000")),
        ("a second end", format!("INSERT INTO final_{live} SELECT pos + 100000, key, account, state, err, at, charged, flags FROM final_{live}")),
        ("a lost message", format!("DELETE FROM accepted_{live} WHERE key = (SELECT MAX(key) FROM accepted_{live})")),
        ("another price", format!("UPDATE accepted_{live} SET price = price + 1 WHERE key = (SELECT MAX(key) FROM accepted_{live})")),
        ("a payment", "UPDATE payment SET amount = amount + 1 WHERE provider = 'mpesa'".into()),
        ("whose payment it is", "UPDATE payment SET account = 1 WHERE account = 0".into()),
        ("a reversal nobody booked", "UPDATE payment SET reversed = 1".into()),
        ("a payout nobody booked", "INSERT INTO payout VALUES('P', 'mpesa', 'S1', 1, 5, 0, 1, 0)".into()),
        ("another tax", "UPDATE tariff_version SET terms = 'tax 1500'".into()),
    ] {
        let copy = world.dir.path().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        Connection::open(&copy).unwrap().execute_batch(&sql).unwrap();
        assert!(!check(&copy).is_empty(), "{what} is not noticed");
        std::fs::remove_file(&copy).unwrap();
        for more in ["copy.db-wal", "copy.db-shm"] {
            let _gone = std::fs::remove_file(world.dir.path().join(more));
        }
    }
    // A hold that should be over by now.
    assert!(Reader::open(&path).unwrap().check(u64::MAX).unwrap().faults[0].contains("timeout"));
}

#[test]
fn a_store_of_the_release_before_is_brought_up_with_its_open_holds() {
    let (mut world, _script) = scripted(|_| {});
    let mut p = world.bound("acme");
    for _ in 0..2 {
        assert_eq!(p.submit(&message(b"x")).status, ROK);
    }
    drop(p);
    world.stop();
    let conn = Connection::open(store(&world)).unwrap();
    let live: i64 = conn
        .query_row("SELECT MAX(number) FROM segment", [], |r| r.get(0))
        .unwrap();
    // As the release before left it: no holds in the ledger, none of the new tables and columns.
    conn.execute_batch(&format!(
        "DELETE FROM ledger WHERE reason = 'hold';
         DROP INDEX ledger_account;
         CREATE TABLE topup(provider TEXT NOT NULL, receipt TEXT NOT NULL, entry INTEGER NOT NULL, account INTEGER NOT NULL,
           amount INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY(provider, receipt));
         INSERT INTO topup SELECT provider, receipt, entry, account, amount, at FROM payment;
         DROP TABLE payment; DROP TABLE payout; DROP TABLE price; DROP TABLE tariff_version; DROP TABLE billing_line; DROP TABLE usage;
         ALTER TABLE account DROP COLUMN currency; ALTER TABLE account DROP COLUMN low_balance;
         ALTER TABLE account DROP COLUMN quota_day; ALTER TABLE account DROP COLUMN quota_month;
         ALTER TABLE account DROP COLUMN allow_upstreams; ALTER TABLE account DROP COLUMN deny_upstreams;
         ALTER TABLE account DROP COLUMN residency;
         ALTER TABLE wallet DROP COLUMN frozen; ALTER TABLE ledger DROP COLUMN line; ALTER TABLE carried DROP COLUMN line;
         ALTER TABLE segment_total DROP COLUMN tax; ALTER TABLE accepted_{live} DROP COLUMN line;
         DROP TABLE sender; DROP TABLE suppression; DROP TABLE subject_key; DROP TABLE abuse_case;
         PRAGMA user_version = 2;"
    ))
    .unwrap();
    drop(conn);
    world.start();
    assert_eq!(world.wallet("acme"), ("1000.00".into(), "1.60".into()));
    assert_eq!(
        call(&world, "wallet.show", json!({"account": "acme"}))["currency"],
        "KES"
    );
    assert_eq!(folds(&store(&world))["held"], 1_600_000);
    world.reconciles();
}
