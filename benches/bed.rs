//! A gateway of one account on a store in memory, and a submit for it: what the benches of admission share.

use std::sync::Arc;
use std::time::Duration;

use smsconnect::domain::account::{Account, AccountState, BindAllowed};
use smsconnect::domain::address::Numbering;
use smsconnect::domain::message::{Flags, Parts};
use smsconnect::domain::outcome::ChargeOn;
use smsconnect::domain::route::{Route, RouteTable, Strategy};
use smsconnect::domain::tariff::{PriceRule, Tariff, Terms};
use smsconnect::flow::{
    AccountState as Live, Control, Engine, EngineOptions, Gateway, Limits, Policy, Submission,
};
use smsconnect::ids::{AccountId, UpstreamId};
use smsconnect::money::Money;
use smsconnect::store::memory::MemoryStore;

/// `routes` and `prices`: one for each thousand block below 2547, as a number plan of a country would have them.
pub fn world(lines: u32, tps: u32) -> (Arc<Gateway>, Arc<Live>) {
    let prefix = |n: u32| format!("2547{n:04}");
    let route = |prefixes: Vec<String>| Route {
        name: "r".into(),
        prefixes,
        to: vec![UpstreamId(0)],
        strategy: Strategy::Failover,
        ..Route::default()
    };
    let mut routes = vec![route(vec!["254".into()])];
    let mut prices = vec![PriceRule {
        prefix: "254".into(),
        price: Money(800_000),
        ..PriceRule::default()
    }];
    for n in 0..lines {
        routes.push(route(vec![prefix(n)]));
        prices.push(PriceRule {
            prefix: prefix(n),
            price: Money(700_000),
            ..PriceRule::default()
        });
    }
    let policy = Policy {
        numbering: Numbering {
            country_code: "254".into(),
        },
        routes: RouteTable::new(routes).unwrap_or_default(),
        default_tariff: Tariff::new("t", "KES", ChargeOn::Submitted, false, Terms::default(), &prices)
            .ok()
            .map(Arc::new),
        validity_default_ms: 86_400_000,
        validity_max_ms: 604_800_000,
        ..Policy::default()
    };
    let limits = Limits {
        open_max: u64::MAX,
        waiting_max: u64::MAX,
        open_hot_max: 1_000_000,
        ingress_max: u64::MAX,
        outbox_max: 1_000,
        parked_max: 1_000,
        parked_keep_ms: 1_000,
        free_min_bytes: 0,
        batch_rows_max: 1_000,
    };
    let gateway = Arc::new(Gateway::new(
        policy,
        Vec::new(),
        limits,
        smsconnect::flow::metrics(),
    ));
    let options = EngineOptions {
        now_ms: || 1_000,
        mono_us: || 1_000,
        eager: true,
    };
    let engine = Engine::start(Arc::clone(&gateway), MemoryStore::default(), options);
    let account = Account {
        id: AccountId::NONE,
        name: "acme".into(),
        system_id: "acme".into(),
        password_hash: String::new(),
        tariff: String::new(),
        tps,
        window: 0,
        max_binds: 0,
        allow_ips: Vec::new(),
        senders: vec!["ACME".into()],
        bind: BindAllowed::All,
        state: AccountState::Active,
        credit_limit: Money(i64::MAX / 4),
        created_ms: 0,
        ..Account::default()
    };
    gateway.control(Control::CreateAccount(Box::new(account)), |_| {});
    let turned = engine.and_then(|mut e| e.turn(Duration::ZERO));
    assert!(turned.is_ok(), "{turned:?}");
    let live = gateway.accounts().by_name("acme").cloned();
    let Some(live) = live else { panic!("no account") };
    (gateway, live)
}

/// A typical submit to `number`.
pub fn submission(number: &[u8]) -> Submission<'_> {
    Submission {
        ticket: Some(smsconnect::flow::Ticket { sequence: 7, tag: 0 }),
        parts: Parts {
            flags: Flags {
                registered_delivery: 1,
                ..Flags::default()
            },
            source: b"ACME",
            dest: number,
            text: b"Your code is 123456. It is valid for five minutes; do not give it to anybody.",
            ..Parts::default()
        },
        national: false,
        segments: Some(1),
        due_ms: Ok(None),
        expires_ms: Ok(None),
    }
}
