//! From TOML to the model.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::reader::{Faults, Places, Reader, number};
use super::sending;
use super::{
    Alphabet, BindMode, ChargeOn, Config, Durability, IdFormat, LogFormat, LongMessages, Price, Principal,
    Refund, Secret, Tariff, TaxMode, Then, Unknown, Upstream, Validity, routing, rules,
};
use crate::money::Money;

const DAY_MS: u64 = 86_400_000;
const YEAR_S: u64 = 366 * 86_400;

/// The config with its defaults for whatever is missing or wrong, the faults, and where keys stand.
pub(super) fn read(text: &str, path: &Path) -> (Config, Faults, Places) {
    let mut faults = Faults::new();
    let mut places = Places::new();
    let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let mut config = Config {
        dir,
        ..Config::default()
    };
    match DeTable::parse(text) {
        Err(e) => {
            let line = e.span().map_or(0, |s| {
                text.get(..s.start).map_or(1, |t| t.matches('\n').count() + 1)
            });
            faults.push((line, format!("not TOML: {}", e.message())));
        }
        Ok(table) => {
            let mut r = Reader::new(text, "", 0, Some(table.get_ref()), &mut faults, &mut places);
            root(&mut r, &mut config);
            r.done();
        }
    }
    resolve(&mut config);
    (config, faults, places)
}

fn root(r: &mut Reader<'_, '_>, c: &mut Config) {
    r.table("customer", |r| customer(r, c));
    r.table("privacy", |r| {
        r.flag("require_dpa", &mut c.privacy.require_dpa);
        if let Some(path) = r.optional_text("number_key") {
            c.rules.number_key = path.into();
        }
    });
    r.table("numbering", |r| routing::numbering(r, c));
    r.table("billing", |r| {
        if let Some(n) = r.integer("utc_offset_min", -720, 840) {
            c.billing.utc_offset_min = n as i32;
        }
    });
    r.table("store", |r| store(r, c));
    r.table("admin", |r| admin(r, c));
    r.table("metrics", |r| {
        if let Some(text) = r.has("listen").then(|| r.optional_text("listen")) {
            match text.as_deref().map(str::parse) {
                None => c.metrics.listen = None,
                Some(Ok(address)) => c.metrics.listen = Some(address),
                Some(Err(_)) => {
                    r.fault(
                        r.line_of("listen"),
                        "listen",
                        "no address; write it as \"127.0.0.1:9464\", or \"\" for none",
                    );
                }
            }
        }
    });
    r.table("limits", |r| limits(r, c));
    r.table("server", |r| {
        r.u64("drain_timeout_ms", 0, DAY_MS, &mut c.server.drain_timeout_ms);
        r.u32("worker_threads", 0, 1_024, &mut c.server.worker_threads);
    });
    r.table("log", |r| {
        r.choice("format", LogFormat::WORDS, LogFormat::parse, &mut c.log.format);
        r.text("level", &mut c.log.level);
    });
    r.table("status", |r| {
        for (key, line, value) in r.keys() {
            match number(value).filter(|n| *n > 0) {
                Some(status) => {
                    c.status.insert(key, status);
                }
                None => r.fault(line, &key, "must be a command_status such as 0x58"),
            }
        }
    });
    r.tables("upstream", |r| c.upstream.push(upstream(r)));
    r.tables("route", |r| c.route.push(routing::route(r)));
    r.tables("sender", |r| c.sender.push(rules::read_sender(r)));
    rules::read(r, &mut c.rules);
    r.tables("priority", |r| c.priority.push(sending::priority(r)));
    r.tables("tariff", |r| c.tariff.push(tariff(r)));
    r.tables("inbound", |r| c.inbound.push(rules::read_inbound(r)));
}

fn customer(r: &mut Reader<'_, '_>, c: &mut Config) {
    let o = &mut c.customer;
    r.addresses("listen", &mut o.listen);
    r.addresses("tls_listen", &mut o.tls_listen);
    o.tls_cert = r.optional_text("tls_cert").map(Into::into);
    o.tls_key = r.optional_text("tls_key").map(Into::into);
    o.tls_client_ca = r.optional_text("tls_client_ca").map(Into::into);
    r.text("system_id", &mut o.system_id);
    r.u64("bind_timeout_ms", 1, DAY_MS, &mut o.bind_timeout_ms);
    r.u64("enquire_link_ms", 0, DAY_MS, &mut o.enquire_link_ms);
    r.u64("idle_timeout_ms", 0, DAY_MS, &mut o.idle_timeout_ms);
    r.u64("response_timeout_ms", 1, DAY_MS, &mut o.response_timeout_ms);
    r.u64("pdu_timeout_ms", 1, DAY_MS, &mut o.pdu_timeout_ms);
    r.u32("window_max", 1, 100_000, &mut o.window_max);
    r.u32("deliver_window", 1, 100_000, &mut o.deliver_window);
    r.u64("deliver_retry_min_ms", 1, DAY_MS, &mut o.deliver_retry_min_ms);
    r.u64("deliver_retry_max_ms", 1, DAY_MS, &mut o.deliver_retry_max_ms);
    r.u32("deliver_attempts_max", 1, 1_000_000, &mut o.deliver_attempts_max);
    r.u32("connections_max", 1, 1_000_000, &mut o.connections_max);
    r.u64("validity_default_s", 1, YEAR_S, &mut o.validity_default_s);
    r.u64("validity_max_s", 1, YEAR_S, &mut o.validity_max_s);
    r.u64("schedule_max_s", 0, YEAR_S, &mut o.schedule_max_s);
    r.u64("receipt_timeout_s", 1, YEAR_S, &mut o.receipt_timeout_s);
    r.u64("receipt_keep_s", 1, YEAR_S, &mut o.receipt_keep_s);
    r.u64("join_timeout_ms", 1, DAY_MS, &mut o.join_timeout_ms);
}

fn store(r: &mut Reader<'_, '_>, c: &mut Config) {
    let o = &mut c.store;
    if let Some(path) = r.optional_text("path") {
        o.path = path.into();
    }
    r.choice(
        "durability",
        Durability::WORDS,
        Durability::parse,
        &mut o.durability,
    );
    r.u64("free_min_bytes", 0, i64::MAX as u64, &mut o.free_min_bytes);
    r.u32("keep_days", 0, 36_500, &mut o.keep_days);
    r.u64("segment_messages", 1_000, 1_000_000_000, &mut o.segment_messages);
    r.u32("batch_rows_max", 1, 100_000, &mut o.batch_rows_max);
}

fn admin(r: &mut Reader<'_, '_>, c: &mut Config) {
    let o = &mut c.admin;
    if let Some(path) = r.optional_text("socket") {
        o.socket = path.into();
    }
    let line = r.line_of("mode");
    if let Some(mode) = r.optional_text("mode") {
        match u32::from_str_radix(&mode, 8).ok().filter(|m| *m <= 0o777) {
            Some(mode) => o.mode = mode,
            None => r.fault(
                line,
                "mode",
                "must be octal permissions in quotes, such as \"0660\"",
            ),
        }
    }
    r.tables("principal", |r| {
        let mut p = Principal::default();
        r.text("name", &mut p.name);
        p.uid = r.integer("uid", 0, i64::from(u32::MAX)).map(|n| n as u32);
        p.gid = r.integer("gid", 0, i64::from(u32::MAX)).map(|n| n as u32);
        p.user = r.optional_text("user");
        p.group = r.optional_text("group");
        r.list("roles", &mut p.roles);
        r.list("orgs", &mut p.orgs);
        o.principal.push(p);
    });
    r.table("approvals", |r| {
        for (key, line, value) in r.keys() {
            match value {
                DeValue::Boolean(on) => {
                    o.approvals.insert(key, *on);
                }
                _ => r.fault(line, &key, "must be true or false"),
            }
        }
    });
}

fn limits(r: &mut Reader<'_, '_>, c: &mut Config) {
    let o = &mut c.limits;
    r.u64("open_max", 1, 1_000_000_000, &mut o.open_max);
    r.u64("waiting_max", 1, 1_000_000_000, &mut o.waiting_max);
    r.u32("open_hot_max", 1, 100_000_000, &mut o.open_hot_max);
    r.u64("ingress_max", 1, 100_000_000, &mut o.ingress_max);
    r.u32("outbox_max", 1, 100_000_000, &mut o.outbox_max);
    r.u32("parked_max", 1, 100_000_000, &mut o.parked_max);
    r.u64("parked_keep_s", 1, YEAR_S, &mut o.parked_keep_s);
    r.u32("bind_checks_max", 1, 1_000_000, &mut o.bind_checks_max);
    r.u32("unbound_per_ip_max", 1, 1_000_000, &mut o.unbound_per_ip_max);
}

/// Words of `[[upstream]] states`.
const STATES: &[&str] = &[
    "ENROUTE", "DELIVRD", "EXPIRED", "DELETED", "UNDELIV", "ACCEPTD", "UNKNOWN", "REJECTD",
];

fn upstream(r: &mut Reader<'_, '_>) -> Upstream {
    let mut u = Upstream::default();
    r.text("name", &mut u.name);
    r.list("address", &mut u.address);
    r.text("system_id", &mut u.system_id);
    u.password = r
        .has("password")
        .then(|| r.optional_text("password").unwrap_or_default())
        .map(Secret);
    u.password_file = r.optional_text("password_file").map(Into::into);
    r.choice("bind", BindMode::WORDS, BindMode::parse, &mut u.bind);
    r.u32("binds", 1, 1_000, &mut u.binds);
    r.u32("window", 1, 100_000, &mut u.window);
    r.u32("tps", 0, 1_000_000, &mut u.tps);
    r.u32("bind_tps", 0, 1_000_000, &mut u.bind_tps);
    id_format(r, &mut u.id_format);
    r.u64("enquire_link_ms", 0, DAY_MS, &mut u.enquire_link_ms);
    r.u64("response_timeout_ms", 1, DAY_MS, &mut u.response_timeout_ms);
    r.u64("reconnect_min_ms", 1, DAY_MS, &mut u.reconnect_min_ms);
    r.u64("reconnect_max_ms", 1, DAY_MS, &mut u.reconnect_max_ms);
    r.u64("retry_min_ms", 1, DAY_MS, &mut u.retry_min_ms);
    r.u64("retry_max_ms", 1, DAY_MS, &mut u.retry_max_ms);
    r.choice(
        "unknown_outcome",
        Unknown::WORDS,
        Unknown::parse,
        &mut u.unknown_outcome,
    );
    r.u32("unknown_resend_max", 0, 1_000, &mut u.unknown_resend_max);
    routing::upstream(r, &mut u, price);
    r.u32("queue_max", 1, 100_000_000, &mut u.queue_max);
    r.text("system_type", &mut u.system_type);
    r.text("address_range", &mut u.address_range);
    r.u32("interface_version", 0x33, 0x50, &mut u.interface_version);
    for (key, into, max) in [
        ("source_ton", &mut u.source_ton, 7),
        ("source_npi", &mut u.source_npi, 18),
        ("dest_ton", &mut u.dest_ton, 7),
        ("dest_npi", &mut u.dest_npi, 18),
    ] {
        if let Some(n) = r.integer(key, -1, max) {
            *into = n as i32;
        }
    }
    r.choice(
        "default_alphabet",
        Alphabet::WORDS,
        Alphabet::parse,
        &mut u.default_alphabet,
    );
    r.choice(
        "long_messages",
        LongMessages::WORDS,
        LongMessages::parse,
        &mut u.long_messages,
    );
    r.choice("validity", Validity::WORDS, Validity::parse, &mut u.validity);
    r.numbers("tlvs", 0xFFFF, &mut u.tlvs);
    r.u32("link_id_tlv", 0, 0xFFFF, &mut u.link_id_tlv);
    r.table("states", |r| {
        for (key, line, value) in r.keys() {
            match value {
                DeValue::String(s) if STATES.contains(&s.as_ref()) => {
                    u.states.insert(key, s.to_string());
                }
                _ => r.fault(line, &key, &format!("must be one of {}", STATES.join(", "))),
            }
        }
    });
    r.table("errors", |r| {
        for (key, line, value) in r.keys() {
            match number(value).filter(|n| *n <= 0xFFFF) {
                Some(n) => {
                    u.errors.insert(key, n);
                }
                None => r.fault(line, &key, "must be a number from 0 to 65535"),
            }
        }
    });
    r.flag("tls", &mut u.tls);
    u.tls_ca = r.optional_text("tls_ca").map(Into::into);
    r.text("tls_fingerprint", &mut u.tls_fingerprint);
    r.text("tls_name", &mut u.tls_name);
    u
}

/// The words, or the numbers that operators bring along: Jasmin's `dlr_msgid` 0 to 2 and Kannel's `msg-id-type` 0x00 to 0x03
/// (0 and 3: spelled alike; 1: response hexadecimal, receipt decimal; 2: the other way round).
fn id_format(r: &mut Reader<'_, '_>, into: &mut IdFormat) {
    if r.is_text("id_format") {
        return r.choice("id_format", IdFormat::WORDS, IdFormat::parse, into);
    }
    match r.integer("id_format", 0, 3) {
        Some(0 | 3) => *into = IdFormat::Same,
        Some(1) => *into = IdFormat::HexDec,
        Some(2) => *into = IdFormat::DecHex,
        _ => {}
    }
}

/// A segment dearer than a million units is a slip of the finger; 255 of them still fit a balance.
const PRICE_MOST: Money = Money(1_000_000 * 1_000_000);

fn tariff(r: &mut Reader<'_, '_>) -> Tariff {
    let mut t = Tariff::default();
    r.text("name", &mut t.name);
    r.text("currency", &mut t.currency);
    r.choice("charge_on", ChargeOn::WORDS, ChargeOn::parse, &mut t.charge_on);
    tax(r, &mut t);
    r.tables("refund", |r| {
        let mut f = Refund::default();
        r.text("state", &mut f.state);
        r.numbers("errors", 0xFFFF, &mut f.errors);
        r.choice("then", Then::WORDS, Then::parse, &mut f.then);
        f.wait_s = r.integer("wait_s", 1, YEAR_S as i64).map(|n| n as u64);
        t.refund.push(f);
    });
    r.tables("price", |r| {
        let mut p = Price::default();
        r.text("prefix", &mut p.prefix);
        r.text("operator", &mut p.operator);
        r.text("class", &mut p.class);
        if let Some(text) = r.optional_text("effective_from") {
            match text.parse::<jiff::Timestamp>() {
                Ok(at) => p.effective_from_ms = u64::try_from(at.as_millisecond()).unwrap_or(0),
                Err(_) => r.fault(
                    r.line_of("effective_from"),
                    "effective_from",
                    &format!("{text:?} is no time; write it as \"2027-01-01T00:00:00Z\""),
                ),
            }
        }
        p.price = price(r, "price");
        t.price.push(p);
    });
    t
}

/// An amount of money that is neither negative nor a slip of the finger.
fn price(r: &mut Reader<'_, '_>, key: &'static str) -> Money {
    let line = r.line_of(key);
    match r.optional_text(key).map(|s| (Money::parse(&s), s)) {
        Some((Ok(price), s)) if price > PRICE_MOST => {
            r.fault(line, key, &format!("{s:?} is more than {PRICE_MOST}"));
        }
        Some((Ok(price), _)) if price.0 >= 0 => return price,
        Some((Ok(_), s)) => r.fault(line, key, &format!("{s:?} is negative")),
        Some((Err(e), s)) => r.fault(line, key, &format!("{s:?}: {e}")),
        None => r.fault(line, key, "is missing; write it as \"0.80\""),
    }
    Money::ZERO
}

/// A percentage with at most two decimals, in hundredths.
fn tax(r: &mut Reader<'_, '_>, t: &mut Tariff) {
    r.choice("tax_mode", TaxMode::WORDS, TaxMode::parse, &mut t.tax_mode);
    let Some(text) = r.optional_text("tax_percent") else {
        return;
    };
    // A percentage is read as an amount: exactly, never through a float.
    match Money::parse(&text) {
        Ok(Money(micro)) if (0..=100_000_000).contains(&micro) && micro % 10_000 == 0 => {
            t.tax_bp = u32::try_from(micro / 10_000).unwrap_or(0);
        }
        _ => r.fault(
            r.line_of("tax_percent"),
            "tax_percent",
            &format!("{text:?} is no percentage from 0 to 100 with at most two decimals, such as \"16\""),
        ),
    }
}

/// Relative paths start at the file's folder.
fn resolve(c: &mut Config) {
    let dir = c.dir.clone();
    for path in [&mut c.store.path, &mut c.admin.socket, &mut c.rules.number_key]
        .into_iter()
        .chain(
            c.upstream
                .iter_mut()
                .flat_map(|u| u.password_file.as_mut().into_iter().chain(u.tls_ca.as_mut())),
        )
        .chain(c.customer.tls_cert.as_mut())
        .chain(c.customer.tls_key.as_mut())
        .chain(c.customer.tls_client_ca.as_mut())
    {
        if path.is_relative() {
            *path = dir.join(&*path);
        }
    }
}
