//! Relations between keys, and what this release does not offer yet: refused, never ignored.

use std::collections::HashSet;

use super::Config;
use super::reader::{Faults, Places, join};

pub(super) struct Check<'a> {
    places: &'a Places,
    faults: &'a mut Faults,
}

impl Check<'_> {
    /// A fault at a key, or at its table where the key was not written.
    pub fn fault(&mut self, path: &str, what: impl AsRef<str>) {
        let parent = path.rsplit_once('.').map_or("", |(p, _)| p);
        let line = self
            .places
            .get(path)
            .or_else(|| self.places.get(parent))
            .copied()
            .unwrap_or(0);
        self.faults.push((line, format!("{path}: {}", what.as_ref())));
    }

    pub fn names<'n>(&mut self, table: &str, names: impl Iterator<Item = &'n str>) {
        let mut seen = HashSet::new();
        for (i, name) in names.enumerate() {
            let path = format!("{table}[{i}].name");
            if name.is_empty() {
                self.fault(&path, "is missing; give each a name");
            } else if !seen.insert(name) {
                self.fault(&path, format!("{name:?} is used twice"));
            }
        }
    }
}

/// Final states, by the words of receipts.
pub(super) const FINAL: &[&str] = &[
    "DELIVRD", "EXPIRED", "DELETED", "UNDELIV", "ACCEPTD", "UNKNOWN", "REJECTD",
];

pub(super) fn digits(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit())
}

/// Reasons of refusal that `[status]` may give another command_status.
pub const REASONS: &[&str] = &[
    "account_inactive",
    "window_full",
    "overload",
    "store",
    "not_offered",
    "schedule",
    "validity",
    "empty",
    "destination",
    "source",
    "suppressed",
    "loop",
    "content",
    "window",
    "too_long",
    "rate",
    "quota",
    "frequency",
    "no_route",
    "no_price",
    "balance",
];

pub(super) fn check(c: &Config, places: &Places, faults: &mut Faults) {
    let mut k = Check { places, faults };
    customer(c, &mut k);
    if c.privacy.require_dpa {
        k.fault(
            "privacy.require_dpa",
            "data-processing agreements are not offered yet; leave it false",
        );
    }
    if c.store.path.is_dir() {
        k.fault("store.path", "is a folder; name a file");
    }
    admin(c, &mut k);
    upstreams(c, &mut k);
    routes(c, &mut k);
    super::routing::check(c, &mut k);
    tariffs(c, &mut k);
    super::rules::check_senders(c, &mut k);
    super::rules::check(c, &mut k);
    priorities(c, &mut k);
    for reason in c.status.keys().filter(|r| !REASONS.contains(&r.as_str())) {
        k.fault(
            &format!("status.{reason}"),
            format!("is no reason of refusal; reasons are {}", REASONS.join(", ")),
        );
    }
    for (i, inbound) in c.inbound.iter().enumerate() {
        for (key, value) in [("address", &inbound.address), ("account", &inbound.account)] {
            if value.is_empty() {
                k.fault(&join(&format!("inbound[{i}]"), key), "is missing");
            }
        }
    }
}

fn customer(c: &Config, k: &mut Check<'_>) {
    let o = &c.customer;
    if o.listen.is_empty() && o.tls_listen.is_empty() {
        k.fault("customer.listen", "must name at least one address, or tls_listen");
    }
    if !o.tls_listen.is_empty() {
        for (key, file) in [("tls_cert", &o.tls_cert), ("tls_key", &o.tls_key)] {
            match file {
                None => k.fault(
                    &format!("customer.{key}"),
                    "is missing; tls_listen needs tls_cert and tls_key",
                ),
                Some(path) => readable(&format!("customer.{key}"), path, k),
            }
        }
        if let Some(path) = &o.tls_client_ca {
            readable("customer.tls_client_ca", path, k);
        }
    }
    if o.system_id.len() > 15 || !o.system_id.is_ascii() {
        k.fault("customer.system_id", "must be at most 15 ASCII characters");
    }
    if o.idle_timeout_ms > 0 && o.enquire_link_ms >= o.idle_timeout_ms {
        k.fault(
            "customer.enquire_link_ms",
            "must be less than idle_timeout_ms, or every quiet session is closed",
        );
    }
    if o.deliver_retry_min_ms > o.deliver_retry_max_ms {
        k.fault(
            "customer.deliver_retry_min_ms",
            "must not be more than deliver_retry_max_ms",
        );
    }
    if o.validity_default_s > o.validity_max_s {
        k.fault(
            "customer.validity_default_s",
            "must not be more than validity_max_s",
        );
    }
}

/// Roles of the permission matrix.
const ROLES: [&str; 8] = [
    "operator",
    "noc",
    "finance",
    "support",
    "dpo",
    "trust",
    "auditor",
    "breakglass",
];

fn admin(c: &Config, k: &mut Check<'_>) {
    k.names(
        "admin.principal",
        c.admin.principal.iter().map(|p| p.name.as_str()),
    );
    for (i, p) in c.admin.principal.iter().enumerate() {
        let path = format!("admin.principal[{i}]");
        let ways = [
            p.uid.is_some(),
            p.gid.is_some(),
            p.user.is_some(),
            p.group.is_some(),
        ];
        if ways.into_iter().filter(|w| *w).count() != 1 {
            k.fault(
                &join(&path, "user"),
                "give exactly one of uid, gid, user and group",
            );
        }
        for role in p.roles.iter().filter(|r| !ROLES.contains(&r.as_str())) {
            k.fault(
                &join(&path, "roles"),
                format!("{role:?} is no role; roles are {}", ROLES.join(", ")),
            );
        }
        if p.orgs.iter().any(|o| o != "*") {
            k.fault(
                &join(&path, "orgs"),
                "principals of single organisations are not offered yet; write [\"*\"]",
            );
        }
    }
    for item in c
        .admin
        .approvals
        .iter()
        .filter(|(_, on)| **on)
        .map(|(item, _)| item)
    {
        k.fault(
            &format!("admin.approvals.{item}"),
            "approvals are not offered yet; leave it false",
        );
    }
}

fn upstreams(c: &Config, k: &mut Check<'_>) {
    k.names("upstream", c.upstream.iter().map(|u| u.name.as_str()));
    for (i, u) in c.upstream.iter().enumerate() {
        let path = |key: &str| format!("upstream[{i}].{key}");
        if u.address.is_empty() {
            k.fault(&path("address"), "is missing; write it as \"host:port\"");
        }
        for address in &u.address {
            let port = address
                .rsplit_once(':')
                .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
            if port.is_none_or(|p| p == 0) {
                k.fault(&path("address"), format!("{address:?} is no \"host:port\""));
            }
        }
        if u.system_id.len() > 15 {
            k.fault(&path("system_id"), "must be at most 15 characters");
        }
        match (&u.password, &u.password_file) {
            (Some(_), Some(_)) => k.fault(&path("password"), "give password or password_file, not both"),
            (None, Some(_)) => {
                if let Err(e) = u.secret() {
                    k.fault(&path("password_file"), e);
                }
            }
            _ => {}
        }
        if u.secret().is_ok_and(|s| s.len() > 64) {
            k.fault(&path("password"), "must be at most 64 characters");
        }
        if u.reconnect_min_ms > u.reconnect_max_ms {
            k.fault(
                &path("reconnect_min_ms"),
                "must not be more than reconnect_max_ms",
            );
        }
        if u.retry_min_ms > u.retry_max_ms {
            k.fault(&path("retry_min_ms"), "must not be more than retry_max_ms");
        }
        if u.interface_version < 0x34
            && matches!(
                u.long_messages,
                super::LongMessages::Sar | super::LongMessages::Payload
            )
        {
            k.fault(
                &path("long_messages"),
                "needs optional parameters, which interface_version 0x33 does not have; write \"udh\"",
            );
        }
        tls(u, &path, k);
    }
}

/// Never a certificate that nobody has vouched for, and never plain text where TLS was asked for.
fn tls(u: &super::Upstream, path: &impl Fn(&str) -> String, k: &mut Check<'_>) {
    if !u.tls {
        if u.tls_ca.is_some() || !u.tls_fingerprint.is_empty() {
            k.fault(
                &path("tls"),
                "is false although tls_ca or tls_fingerprint is set; set tls = true",
            );
        }
        return;
    }
    let hex: String = u.tls_fingerprint.chars().filter(|c| *c != ':').collect();
    if !hex.is_empty() && (hex.len() != 64 || !hex.chars().all(|c| c.is_ascii_hexdigit())) {
        k.fault(
            &path("tls_fingerprint"),
            "must be a SHA-256 fingerprint: 64 hexadecimal digits",
        );
    }
    match (&u.tls_ca, hex.is_empty()) {
        (None, true) => k.fault(
            &path("tls"),
            "needs tls_ca (a PEM file) or tls_fingerprint, to know the SMSC by",
        ),
        (Some(file), _) => readable(&path("tls_ca"), file, k),
        (None, false) => {}
    }
}

fn readable(key: &str, file: &std::path::Path, k: &mut Check<'_>) {
    if let Err(e) = std::fs::File::open(file) {
        k.fault(key, format!("{} cannot be read: {e}", file.display()));
    }
}

fn routes(c: &Config, k: &mut Check<'_>) {
    k.names("route", c.route.iter().map(|r| r.name.as_str()));
    for (i, r) in c.route.iter().enumerate() {
        let path = |key: &str| format!("route[{i}].{key}");
        if r.to.is_empty() {
            k.fault(&path("to"), "must name at least one upstream");
        }
        for to in
            r.to.iter()
                .filter(|to| !c.upstream.iter().any(|u| u.name == **to))
        {
            k.fault(&path("to"), format!("there is no [[upstream]] named {to:?}"));
        }
        if !r.prefix.iter().all(|p| digits(p)) {
            k.fault(&path("prefix"), "prefixes have digits only, without +");
        }
    }
}

fn priorities(c: &Config, k: &mut Check<'_>) {
    for (i, p) in c.priority.iter().enumerate() {
        let path = |key: &str| format!("priority[{i}].{key}");
        for name in p.route.iter().filter(|n| !c.route.iter().any(|r| r.name == **n)) {
            k.fault(&path("route"), format!("there is no [[route]] named {name:?}"));
        }
        for class in p
            .class
            .iter()
            .filter(|n| !c.sender.iter().any(|s| s.class == **n))
        {
            k.fault(&path("class"), format!("no [[sender]] is of the class {class:?}"));
        }
    }
}

fn tariffs(c: &Config, k: &mut Check<'_>) {
    k.names("tariff", c.tariff.iter().map(|t| t.name.as_str()));
    for (i, t) in c.tariff.iter().enumerate() {
        if t.currency.len() != 3 || !t.currency.bytes().all(|b| b.is_ascii_uppercase()) {
            k.fault(
                &format!("tariff[{i}].currency"),
                "must be three capital letters, such as \"KES\"",
            );
        }
        if t.price.is_empty() {
            k.fault(
                &format!("tariff[{i}].price"),
                "has no [[tariff.price]]: every destination would be refused",
            );
        }
        let operators: HashSet<&str> = c.numbering.ranges.iter().map(|r| r.operator.as_str()).collect();
        let own = c.sender.iter().map(|s| s.class.as_str());
        let classes: HashSet<&str> = own.chain(["transactional", "promotional"]).collect();
        let mut seen = HashSet::new();
        for (j, p) in t.price.iter().enumerate() {
            let path = |key: &str| format!("tariff[{i}].price[{j}].{key}");
            if !digits(&p.prefix) {
                k.fault(&path("prefix"), "a prefix has digits only, without +");
            }
            if !p.operator.is_empty() && !operators.contains(p.operator.as_str()) {
                k.fault(
                    &path("operator"),
                    format!("{:?} is no operator of [numbering] plan", p.operator),
                );
            }
            if !p.class.is_empty() && !classes.contains(p.class.as_str()) {
                k.fault(
                    &path("class"),
                    format!("no [[sender]] is of the class {:?}", p.class),
                );
            }
            if !seen.insert((&p.prefix, &p.operator, &p.class, p.effective_from_ms)) {
                k.fault(
                    &path("price"),
                    "there is another price for the same prefix, operator, class and time",
                );
            }
        }
        for (j, r) in t.refund.iter().enumerate() {
            let path = |key: &str| format!("tariff[{i}].refund[{j}].{key}");
            if !FINAL.contains(&r.state.as_str()) {
                k.fault(&path("state"), format!("must be one of {}", FINAL.join(", ")));
            }
            if r.wait_s.is_some() && !matches!(r.state.as_str(), "ACCEPTD" | "UNKNOWN") {
                k.fault(
                    &path("wait_s"),
                    "only ACCEPTD and UNKNOWN can be followed by another state; the others are final",
                );
            }
            if r.wait_s.is_some() && !r.errors.is_empty() {
                k.fault(
                    &path("wait_s"),
                    "a rule with errors cannot wait; give the state a rule of its own",
                );
            }
            let same = |o: &&super::Refund| {
                o.state == r.state
                    && (o.errors.is_empty() && r.errors.is_empty()
                        || o.errors.iter().any(|e| r.errors.contains(e)))
            };
            if t.refund.iter().take(j).any(|o| same(&o)) {
                k.fault(&path("state"), "there is another rule for this state and error");
            }
        }
    }
}
