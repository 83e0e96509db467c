//! What a seed stands for: who takes part, how large everything is, and which faults come how often. Each kind of fault is off
//! in about half of all runs, so that every mixture of them comes up.

use std::collections::BTreeMap;
use std::sync::Arc;

use smsconnect::config;
use smsconnect::domain::account::{Account, DeliverAs, Receipts};
use smsconnect::domain::address::Numbering;
use smsconnect::domain::outcome::ChargeOn;
use smsconnect::domain::route::{Route, RouteTable, Strategy};
use smsconnect::domain::tariff::{PriceRule, Tariff};
use smsconnect::flow::{Gateway, Limits, Policy, UnknownOutcome, Upstream, UpstreamOptions};
use smsconnect::ids::{AccountId, UpstreamId};
use smsconnect::money::Money;
use smsconnect::net::{Form, LinkOptions, LongMessages, ReceiptMaps, Validity};
use smsconnect::session::{BindKind, Timers};

use super::rng::Rng;

pub const PRICE: i64 = 800_000;
pub const MINUTE: u64 = 60_000;
pub const HOUR: u64 = 60 * MINUTE;

/// How an SMSC writes its ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spelling {
    Zeros,
    Hex,
    UpperHex,
}

/// Chances in a thousand.
#[derive(Clone, Debug, Default)]
pub struct SmscPlan {
    pub throttle: u64,
    pub reject: u64,
    pub nack: u64,
    pub silent: u64,
    pub late: u64,
    pub twice: u64,
    pub stray: u64,
    pub receipt_first: u64,
    pub receipt_twice: u64,
    pub receipt_lost: u64,
    pub receipt_late: u64,
    pub receipt_odd: u64,
    pub receipt_unknown: u64,
    pub provisional: u64,
    pub failed: u64,
    pub restart_ids: u64,
    pub hangs_up: u64,
    pub refuses_bind: u64,
    pub mute_bind: u64,
    pub leaves: u64,
    pub answer_ms: u64,
    pub ids: (Option<Spelling>, Option<Spelling>),
}

#[derive(Clone, Debug, Default)]
pub struct CustomerPlan {
    pub window: usize,
    pub same_sequence: u64,
    pub hangs_up: u64,
    pub leaves: u64,
    pub stops_reading: u64,
    pub refuses: u64,
    pub silent: u64,
    pub late: u64,
    pub garbage: u64,
    pub cancels: u64,
    pub queries: u64,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub messages: u32,
    pub faults_ms: u64,
    pub crashes: u64,
    pub power_cuts: bool,
    pub zombies: bool,
    pub outages: u64,
    pub resets: u64,
    pub half_open: u64,
    pub wall_jumps: u64,
    pub disk: u64,
    /// Orders of an operator: switch an upstream off for a while, reconnect it, end sessions.
    pub orders: u64,
    /// Orderly ends of the process.
    pub stops: u64,
    pub delay_ms: u64,
    pub split: bool,
    pub pipe: usize,
    pub smscs: [SmscPlan; 2],
    pub customers: CustomerPlan,
    pub unknown: [UnknownOutcome; 2],
    pub binds: [Vec<BindKind>; 2],
    pub window: usize,
    pub response_ms: u64,
    pub queue_max: usize,
    pub tps: u32,
    pub outbox_max: usize,
    pub rows_max: usize,
    pub open_max: u64,
    pub open_hot_max: usize,
    pub ingress_max: u64,
    pub deliver_window: u32,
    pub parts: [bool; 2],
    pub each: bool,
    pub data_sm: bool,
    /// Clients by account: which account and how it binds.
    pub clients: Vec<(usize, BindKind)>,
    pub small_balance: i64,
    pub credit: i64,
    pub round_robin: bool,
}

/// What a message that was taken costs depends on how it ends.
const TERMS: &str = "tax 1600; UNDELIV release; UNKNOWN keep 1200000; REJECTD release";
pub const ACCOUNTS: usize = 3;

impl Plan {
    /// No faults at all: two customers' messages go out and come back.
    pub fn quiet() -> Plan {
        Plan {
            messages: 10,
            faults_ms: 10_000,
            crashes: 0,
            power_cuts: false,
            zombies: false,
            outages: 0,
            resets: 0,
            half_open: 0,
            wall_jumps: 0,
            disk: 0,
            orders: 0,
            stops: 0,
            delay_ms: 20,
            split: false,
            pipe: 65_536,
            smscs: [SmscPlan::quiet(), SmscPlan::quiet()],
            customers: CustomerPlan {
                window: 10,
                ..CustomerPlan::default()
            },
            unknown: [UnknownOutcome::Resend, UnknownOutcome::Resend],
            binds: [vec![BindKind::Transceiver], vec![BindKind::Transceiver]],
            window: 10,
            response_ms: 10_000,
            queue_max: 100,
            tps: 0,
            outbox_max: 100,
            rows_max: 2_000,
            open_max: 10_000,
            open_hot_max: 10_000,
            ingress_max: 10_000,
            deliver_window: 10,
            parts: [false, false],
            each: false,
            data_sm: false,
            clients: vec![
                (0, BindKind::Transceiver),
                (1, BindKind::Transceiver),
                (2, BindKind::Transceiver),
            ],
            small_balance: 1_000,
            credit: 0,
            round_robin: false,
        }
    }

    /// The plan of a seed.
    pub fn of(r: &mut Rng) -> Plan {
        let on = |r: &mut Rng, low: u64, high: u64| if r.half() { r.between(low, high) } else { 0 };
        let long = r.per_mille(120);
        let both = vec![BindKind::Transmitter, BindKind::Receiver];
        let kinds = |r: &mut Rng| match r.below(4) {
            0 => both.clone(),
            1 => vec![BindKind::Transceiver; 2],
            _ => vec![BindKind::Transceiver],
        };
        let unknown =
            |r: &mut Rng| r.pick(&[UnknownOutcome::Resend, UnknownOutcome::Hold, UnknownOutcome::Fail]);
        let mut clients = Vec::new();
        for account in 0..ACCOUNTS {
            match r.below(4) {
                0 => clients.extend([(account, BindKind::Transmitter), (account, BindKind::Receiver)]),
                1 => clients.extend([(account, BindKind::Transceiver); 2]),
                _ => clients.push((account, BindKind::Transceiver)),
            }
        }
        let messages = r.between(5, 45) as u32;
        Plan {
            messages,
            // Without a draw of its own, so that the seeds of before stand for what they stood for.
            open_hot_max: [1, 6, 10_000][messages as usize % 3],
            faults_ms: if long {
                r.between(2, 5) * HOUR
            } else {
                r.between(1, 12) * MINUTE
            },
            crashes: on(r, 1, 5),
            power_cuts: r.half(),
            zombies: r.half(),
            outages: if long { 1 } else { on(r, 1, 2) },
            resets: on(r, 1, 8),
            half_open: on(r, 1, 4),
            wall_jumps: on(r, 1, 3),
            disk: on(r, 1, 6),
            orders: on(r, 1, 4),
            stops: on(r, 1, 2),
            delay_ms: r.pick(&[1, 30, 400]),
            split: r.half(),
            pipe: r.pick(&[120, 1_000, 65_536, 65_536]),
            smscs: [SmscPlan::of(r), SmscPlan::of(r)],
            customers: CustomerPlan {
                window: r.between(1, 20) as usize,
                same_sequence: on(r, 50, 400),
                hangs_up: on(r, 5, 50),
                leaves: on(r, 5, 50),
                stops_reading: on(r, 10, 60),
                refuses: on(r, 50, 400),
                silent: on(r, 50, 400),
                late: on(r, 50, 300),
                garbage: on(r, 2, 15),
                cancels: on(r, 20, 200),
                queries: on(r, 20, 100),
            },
            unknown: [unknown(r), unknown(r)],
            binds: [kinds(r), kinds(r)],
            window: r.between(1, 20) as usize,
            response_ms: r.pick(&[2_000, 10_000, 60_000]),
            queue_max: r.pick(&[2, 5, 50]),
            tps: r.pick(&[0, 0, 1, 10]),
            outbox_max: r.pick(&[1, 4, 50]),
            rows_max: r.pick(&[3, 50, 2_000]),
            open_max: r.pick(&[15, 10_000, 10_000]),
            ingress_max: r.pick(&[3, 10_000, 10_000]),
            deliver_window: r.pick(&[1, 3, 20]),
            parts: [r.per_mille(300), r.per_mille(300)],
            each: r.per_mille(300),
            data_sm: r.per_mille(200),
            clients,
            small_balance: r.between(1, 12) as i64,
            credit: r.pick(&[0, 0, 3]),
            round_robin: r.per_mille(300),
        }
    }

    pub fn accounts(&self) -> Vec<Account> {
        let account = |n: usize| Account {
            id: AccountId::NONE,
            name: format!("a{n}"),
            system_id: format!("s{n}"),
            tariff: format!("t{n}"),
            receipts: if self.each && n == 1 {
                Receipts::Each
            } else {
                Receipts::RolledUp
            },
            deliver_as: if self.data_sm && n == 0 {
                DeliverAs::DataSm
            } else {
                DeliverAs::DeliverSm
            },
            credit_limit: if n == 2 {
                Money(self.credit * PRICE)
            } else {
                Money::ZERO
            },
            ..Account::default()
        };
        (0..ACCOUNTS).map(account).collect()
    }

    /// What each account starts with, in messages.
    pub fn paid(&self, account: usize) -> i64 {
        if account == 2 { self.small_balance } else { 1_000 }
    }

    fn policy(&self) -> Policy {
        let tariff = |name: &str, charge_on| {
            let list = [PriceRule {
                prefix: "254".into(),
                price: Money(PRICE),
                ..PriceRule::default()
            }];
            let terms = TERMS.parse().unwrap();
            (
                name.to_string(),
                Arc::new(Tariff::new(name, "KES", charge_on, false, terms, &list).unwrap()),
            )
        };
        let route = |prefix: &str, to: &[u16], strategy| Route {
            name: prefix.into(),
            prefixes: vec![prefix.into()],
            to: to.iter().map(|n| UpstreamId(*n)).collect(),
            strategy,
            ..Route::default()
        };
        let both = if self.round_robin {
            Strategy::RoundRobin
        } else {
            Strategy::Failover
        };
        Policy {
            numbering: Numbering {
                country_code: "254".into(),
            },
            routes: RouteTable::new(vec![
                route("2547", &[0, 1], both),
                route("2541", &[1], Strategy::Failover),
            ])
            .unwrap(),
            tariffs: [
                tariff("t0", ChargeOn::Accepted),
                tariff("t1", ChargeOn::Submitted),
                tariff("t2", ChargeOn::Delivered),
            ]
            .into(),
            validity_default_ms: 10 * MINUTE,
            validity_max_ms: HOUR,
            receipt_timeout_ms: HOUR / 2,
            receipt_keep_ms: 1 << 40,
            join_timeout_ms: MINUTE,
            deliver_attempts_max: 1_000_000,
            deliver_retry_min_ms: 1_000,
            deliver_retry_max_ms: 20_000,
            ..Policy::default()
        }
    }

    pub fn gateway(&self) -> Arc<Gateway> {
        let upstream = |n: usize| {
            let options = UpstreamOptions {
                name: format!("u{n}"),
                queue_max: self.queue_max,
                tps: self.tps,
                retry_min_ms: 500,
                retry_max_ms: 20_000,
                unknown_outcome: self.unknown[n],
                unknown_resend_max: 2,
                id_form: None,
                rejoins: false,
                ..UpstreamOptions::default()
            };
            Arc::new(Upstream::new(UpstreamId(n as u16), options, self.binds[n].len()))
        };
        let limits = Limits {
            open_max: self.open_max,
            waiting_max: 10_000,
            open_hot_max: self.open_hot_max,
            ingress_max: self.ingress_max,
            outbox_max: self.outbox_max,
            parked_max: 100_000,
            parked_keep_ms: 1 << 40,
            free_min_bytes: 0,
            batch_rows_max: self.rows_max,
        };
        let upstreams = vec![upstream(0), upstream(1)];
        Arc::new(Gateway::new(
            self.policy(),
            upstreams,
            limits,
            smsconnect::flow::metrics(),
        ))
    }

    pub fn customer(&self) -> config::Customer {
        config::Customer {
            window_max: 20,
            deliver_window: self.deliver_window,
            ..config::Customer::default()
        }
    }

    pub fn link(&self, gateway: &Gateway, n: usize) -> Arc<LinkOptions> {
        Arc::new(LinkOptions {
            upstream: Arc::clone(&gateway.upstreams()[n]),
            addresses: Vec::new(),
            system_id: format!("gw{n}"),
            password: "secret".into(),
            system_type: String::new(),
            address_range: String::new(),
            interface_version: 0x34,
            kinds: self.binds[n].clone(),
            binds: 1,
            window: self.window,
            timers: Timers {
                bind_ms: 5_000,
                enquire_link_ms: 30_000,
                idle_ms: 0,
                response_ms: self.response_ms,
            },
            reconnect_min_ms: 500,
            reconnect_max_ms: 30_000,
            tls: None,
            form: Form {
                long_messages: if self.parts[n] {
                    LongMessages::Udh
                } else {
                    LongMessages::AsIs
                },
                ..Form::default()
            },
            validity: Validity::Relative,
            maps: ReceiptMaps {
                states: BTreeMap::new(),
                errors: BTreeMap::new(),
            },
            address_types: [None; 4],
        })
    }
}

impl SmscPlan {
    fn quiet() -> SmscPlan {
        SmscPlan {
            answer_ms: 50,
            ..SmscPlan::default()
        }
    }

    fn of(r: &mut Rng) -> SmscPlan {
        let on = |r: &mut Rng, low: u64, high: u64| if r.half() { r.between(low, high) } else { 0 };
        let ids = r.pick(&[
            (None, None),
            (Some(Spelling::Zeros), None),
            (None, Some(Spelling::Zeros)),
            (Some(Spelling::Hex), None),
            (Some(Spelling::UpperHex), Some(Spelling::Hex)),
            (None, Some(Spelling::UpperHex)),
        ]);
        SmscPlan {
            throttle: on(r, 50, 500),
            reject: on(r, 20, 200),
            nack: on(r, 10, 100),
            silent: on(r, 30, 300),
            late: on(r, 30, 300),
            twice: on(r, 50, 300),
            stray: on(r, 50, 300),
            receipt_first: on(r, 50, 500),
            receipt_twice: on(r, 50, 500),
            receipt_lost: on(r, 50, 300),
            receipt_late: on(r, 50, 300),
            receipt_odd: on(r, 50, 300),
            receipt_unknown: on(r, 50, 200),
            provisional: on(r, 50, 300),
            failed: on(r, 50, 500),
            restart_ids: on(r, 5, 60),
            hangs_up: on(r, 5, 60),
            refuses_bind: on(r, 50, 300),
            mute_bind: on(r, 50, 300),
            leaves: on(r, 5, 40),
            answer_ms: r.pick(&[10, 200, 2_000]),
            ids,
        }
    }
}
