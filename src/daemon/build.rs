//! From the config's words to the values the gateway works with.

use std::collections::HashMap;
use std::sync::Arc;

use super::{routing, rules};
use crate::admin::Principal;
use crate::config::{self, BindMode, Config, IdFormat, Unknown};
use crate::domain::address::Numbering;
use crate::domain::outcome::{ChargeOn, Final};
use crate::domain::route::RouteTable;
use crate::domain::tariff::{PriceRule, RefundRule, Tariff, Terms};
use crate::domain::urgency::{Urgency, UrgencyRule};
use crate::flow::{Gateway, IdForm, Limits, Policy, UnknownOutcome, Upstream, UpstreamOptions};
use crate::ids::UpstreamId;
use crate::metrics::Metrics;
use crate::net::{Form, LinkOptions, LongMessages, ReceiptMaps, Statuses, TlsClient, Validity};
use crate::session::{BindKind, Timers};
use crate::text::Charset;

pub(super) struct Built {
    pub gateway: Gateway,
    pub links: Vec<LinkOptions>,
    pub statuses: Statuses,
}

/// Builds a gateway; `known` are the upstreams that rows on record may name.
pub(super) fn gateway(
    config: &Config,
    known: &HashMap<String, UpstreamId>,
    metrics: Metrics,
) -> Result<Built, String> {
    let statuses = Statuses::new(&config.status).map_err(|name| format!("status.{name}: no such reason"))?;
    let mut next = known.values().map(|id| id.0 + 1).max().unwrap_or(0);
    let mut upstreams = Vec::new();
    let mut links = Vec::new();
    for u in &config.upstream {
        let id = known.get(&u.name).copied().unwrap_or_else(|| {
            next += 1;
            UpstreamId(next - 1)
        });
        let kinds = kinds(u.bind);
        let upstream = Arc::new(Upstream::new(
            id,
            upstream_options(u)?,
            u.binds as usize * kinds.len(),
        ));
        upstreams.push(Arc::clone(&upstream));
        links.push(link(u, upstream, kinds, config)?);
    }
    let limits = Limits {
        open_max: config.limits.open_max,
        waiting_max: config.limits.waiting_max,
        open_hot_max: config.limits.open_hot_max as usize,
        ingress_max: config.limits.ingress_max,
        outbox_max: config.limits.outbox_max as usize,
        parked_max: config.limits.parked_max as usize,
        parked_keep_ms: config.limits.parked_keep_s * 1_000,
        free_min_bytes: config.store.free_min_bytes,
        batch_rows_max: config.store.batch_rows_max as usize,
    };
    let mut policy = policy(config, routing::routes(config, &upstreams)?)?;
    policy.rules = rules::rules(config, &upstreams)?;
    Ok(Built {
        gateway: Gateway::new(policy, upstreams, limits, metrics),
        links,
        statuses,
    })
}

fn kinds(mode: BindMode) -> Vec<BindKind> {
    match mode {
        BindMode::Transceiver => vec![BindKind::Transceiver],
        BindMode::TransmitterReceiver => vec![BindKind::Transmitter, BindKind::Receiver],
        BindMode::Transmitter => vec![BindKind::Transmitter],
        BindMode::Receiver => vec![BindKind::Receiver],
    }
}

fn upstream_options(u: &config::Upstream) -> Result<UpstreamOptions, String> {
    Ok(UpstreamOptions {
        name: u.name.clone(),
        queue_max: u.queue_max as usize,
        tps: u.tps,
        bind_tps: u.bind_tps,
        retry_min_ms: u.retry_min_ms,
        retry_max_ms: u.retry_max_ms,
        unknown_outcome: match u.unknown_outcome {
            Unknown::Resend => UnknownOutcome::Resend,
            Unknown::Hold => UnknownOutcome::Hold,
            Unknown::Fail => UnknownOutcome::Fail,
        },
        unknown_resend_max: u.unknown_resend_max,
        offer: routing::offer(u)?,
        rejoins: u.long_messages == config::LongMessages::Payload && u.interface_version >= 0x34,
        id_form: match u.id_format {
            IdFormat::Auto => None,
            IdFormat::Same => Some(IdForm::Same),
            IdFormat::HexDec => Some(IdForm::HexDec),
            IdFormat::DecHex => Some(IdForm::DecHex),
        },
    })
}

fn link(
    u: &config::Upstream,
    upstream: Arc<Upstream>,
    kinds: Vec<BindKind>,
    config: &Config,
) -> Result<LinkOptions, String> {
    let given = |n: i32| u8::try_from(n).ok();
    Ok(LinkOptions {
        upstream,
        addresses: u.address.clone(),
        system_id: u.system_id.clone(),
        password: u.secret()?,
        system_type: u.system_type.clone(),
        address_range: u.address_range.clone(),
        interface_version: u.interface_version as u8,
        kinds,
        binds: u.binds as u16,
        window: u.window as usize,
        timers: Timers {
            bind_ms: config.customer.bind_timeout_ms.max(5_000),
            enquire_link_ms: u.enquire_link_ms,
            idle_ms: 0,
            response_ms: u.response_timeout_ms,
        },
        reconnect_min_ms: u.reconnect_min_ms,
        reconnect_max_ms: u.reconnect_max_ms,
        tls: u
            .tls
            .then(|| TlsClient::new(u.tls_ca.as_deref(), &u.tls_fingerprint, &u.tls_name))
            .transpose()
            .map_err(|e| format!("upstream {}: {e}", u.name))?,
        form: Form {
            bare: u.interface_version < 0x34,
            alphabet: match u.default_alphabet {
                config::Alphabet::Gsm7 => Charset::Gsm7,
                config::Alphabet::Gsm7Packed => Charset::Gsm7Packed,
                config::Alphabet::Latin1 => Charset::Latin1,
                config::Alphabet::Ascii => Charset::Ascii,
            },
            long_messages: match u.long_messages {
                config::LongMessages::AsIs => LongMessages::AsIs,
                config::LongMessages::Udh => LongMessages::Udh,
                config::LongMessages::Sar => LongMessages::Sar,
                config::LongMessages::Payload => LongMessages::Payload,
            },
            tlvs: u.tlvs.iter().chain([&u.link_id_tlv]).map(|t| *t as u16).collect(),
        },
        validity: match u.validity {
            config::Validity::Relative => Validity::Relative,
            config::Validity::Absolute => Validity::Absolute,
            config::Validity::Omit => Validity::Omit,
        },
        maps: receipt_maps(u),
        address_types: [
            given(u.source_ton),
            given(u.source_npi),
            given(u.dest_ton),
            given(u.dest_npi),
        ],
    })
}

/// `stat` words are compared in capitals, `err` words in small letters.
fn receipt_maps(u: &config::Upstream) -> ReceiptMaps {
    let code = |word: &String| {
        let found = (0..=8).find(|c| Final::from_code(*c).is_some_and(|f| f.word() == word));
        found.unwrap_or(ENROUTE)
    };
    ReceiptMaps {
        states: u
            .states
            .iter()
            .map(|(stat, word)| (stat.to_ascii_uppercase(), code(word)))
            .collect(),
        errors: u
            .errors
            .iter()
            .map(|(err, n)| (err.to_ascii_lowercase(), *n as u16))
            .collect(),
    }
}

/// message_state of a message that has not ended (SMPP 3.4 §5.2.28).
const ENROUTE: u8 = 1;

fn terms(t: &config::Tariff) -> Result<Terms, String> {
    let rule = |r: &config::Refund| {
        Some(RefundRule {
            state: Final::from_word(&r.state)?,
            errors: r.errors.iter().map(|e| *e as u16).collect(),
            keep: r.then == config::Then::Keep,
            wait_ms: r.wait_s.map(|s| s * 1_000),
        })
    };
    let refunds: Option<Vec<RefundRule>> = t.refund.iter().map(rule).collect();
    Ok(Terms {
        tax_bp: t.tax_bp,
        refunds: refunds.ok_or_else(|| format!("tariff {}: a refund names no final state", t.name))?,
    })
}

fn policy(config: &Config, routes: RouteTable) -> Result<Policy, String> {
    let mut tariffs = HashMap::new();
    let mut default_tariff = None;
    for t in &config.tariff {
        let list: Vec<PriceRule> = t
            .price
            .iter()
            .map(|p| PriceRule {
                prefix: p.prefix.clone(),
                operator: p.operator.clone(),
                class: p.class.clone(),
                from_ms: p.effective_from_ms,
                price: p.price,
            })
            .collect();
        let charge_on = match t.charge_on {
            config::ChargeOn::Accepted => ChargeOn::Accepted,
            config::ChargeOn::Submitted => ChargeOn::Submitted,
            config::ChargeOn::Delivered => ChargeOn::Delivered,
        };
        let exclusive = t.tax_mode == config::TaxMode::Exclusive;
        let tariff = Tariff::new(&t.name, &t.currency, charge_on, exclusive, terms(t)?, &list)
            .map_err(|e| format!("tariff {}: {e}", t.name))?;
        let tariff = Arc::new(tariff);
        default_tariff.get_or_insert_with(|| Arc::clone(&tariff));
        tariffs.insert(t.name.clone(), tariff);
    }
    let plan = routing::plan(&config.numbering)?;
    let classes = rules::classes(config);
    let mut senders = HashMap::new();
    for sender in &config.sender {
        let class = classes.iter().position(|c| *c == sender.class);
        senders.insert(
            sender.id.to_ascii_lowercase().into_bytes(),
            class.unwrap_or(0) as u16,
        );
    }
    let urgency = urgency(config, &classes);
    let c = &config.customer;
    Ok(Policy {
        numbering: Numbering {
            country_code: config.numbering.country_code.clone(),
        },
        routes,
        tariffs,
        default_tariff,
        plan,
        mobile_only: config.numbering.mobile_only,
        classes,
        senders,
        urgency,
        day_offset_min: config.billing.utc_offset_min,
        inbound: config.inbound.iter().map(rules::inbound).collect(),
        rules: crate::flow::Rules::default(),
        validity_default_ms: c.validity_default_s * 1_000,
        validity_max_ms: c.validity_max_s * 1_000,
        schedule_max_ms: c.schedule_max_s * 1_000,
        receipt_timeout_ms: c.receipt_timeout_s * 1_000,
        receipt_keep_ms: c.receipt_keep_s * 1_000,
        join_timeout_ms: c.join_timeout_ms,
        deliver_attempts_max: c.deliver_attempts_max,
        deliver_retry_min_ms: c.deliver_retry_min_ms,
        deliver_retry_max_ms: c.deliver_retry_max_ms,
    })
}

fn urgency(config: &Config, classes: &[String]) -> Urgency {
    let places = |all: Vec<&String>, names: &[String]| -> Vec<u16> {
        let place = |name: &String| all.iter().position(|n| *n == name);
        names.iter().filter_map(place).map(|at| at as u16).collect()
    };
    let rules = config.priority.iter().map(|p| UrgencyRule {
        accounts: p.account.clone(),
        routes: places(config.route.iter().map(|r| &r.name).collect(), &p.route),
        classes: places(classes.iter().collect(), &p.class),
        level: u8::try_from(p.level).ok(),
        max: p.max as u8,
    });
    Urgency::new(rules.collect())
}

/// The `[[admin.principal]]` table.
pub(super) fn principals(config: &Config) -> Vec<Principal> {
    let of = |p: &config::Principal| Principal {
        name: p.name.clone(),
        uid: p.uid,
        gid: p.gid,
        user: p.user.clone(),
        group: p.group.clone(),
        roles: p.roles.clone(),
    };
    config.admin.principal.iter().map(of).collect()
}
