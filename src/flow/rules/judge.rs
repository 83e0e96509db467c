//! One message against the rules: sender, class, suppression, content, hours, opt-out, in the order in which the domain checks
//! them. Each refusal has one reason, and nothing is counted against a message that is refused before.

use super::super::account::AccountState;
use super::super::gateway::Gateway;
use super::super::ingress::lock;
use super::super::policy::Policy;
use super::text::{NewText, appended, words_of};
use super::{ClassRule, Outside, Rules, Trip, capped};
use crate::domain::account::Account;
use crate::domain::content::{Action, ContentRule, decoded};
use crate::domain::message::Parts;
use crate::domain::reject::Reject;
use crate::domain::sender::{Found, Standing, TRANSACTIONAL};
use crate::metrics;
use crate::store::Mark;

/// What the rules make of a message that may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Another source address.
    pub source: Option<Vec<u8>>,
    /// Index of the sender's class in [`Policy::classes`].
    pub class: u16,
    /// Another text, with how to opt out.
    pub text: Option<NewText>,
    /// Not before then, ms since the epoch; 0: at once; [`Mark::NEVER`]: not before a person has said so.
    pub not_before_ms: u64,
    /// Place of the class's rule in [`Rules::classes`], if it caps how often a number is written to.
    pub cap: Option<u16>,
}

impl Judged {
    /// The frequency cap it counts against.
    #[must_use]
    pub fn rule<'a>(&self, rules: &'a Rules) -> Option<&'a ClassRule> {
        rules.classes.get(usize::from(self.cap?))
    }
}

/// Who sends, to whom.
struct Way<'a> {
    account: &'a AccountState,
    spec: &'a Account,
    source: &'a [u8],
    dest: &'a [u8],
    operator: &'a str,
}

/// Judges a message whose destination is complete. Reads memory only.
///
/// # Errors
/// The first [`Reject`] that applies.
pub fn judge(
    gateway: &Gateway,
    policy: &Policy,
    account: &AccountState,
    spec: &Account,
    parts: &Parts<'_>,
    (now_ms, goes_ms): (u64, u64),
) -> Result<Judged, Reject> {
    let rules = &policy.rules;
    let rewritten = rewritten(rules, &spec.name, parts.source);
    let way = Way {
        account,
        spec,
        source: rewritten.map_or(parts.source, str::as_bytes),
        dest: parts.dest,
        operator: policy.operator(parts.dest),
    };
    let mut out = Judged {
        source: rewritten.map(|to| to.as_bytes().to_vec()),
        ..Judged::default()
    };
    out.class = sender(gateway, policy, &way)?;
    let class = policy.class_name(out.class);
    if let Some(scope) = gateway
        .live
        .stops(account.id, way.source, way.dest, class == TRANSACTIONAL)
    {
        metrics::suppression_hit(scope);
        return Err(Reject::Suppressed);
    }
    bounced(gateway, rules, &way, parts, now_ms)?;
    let held = content(gateway, rules, &way, class, parts)?;
    if !rules.abuse.is_empty() {
        gateway
            .live
            .watch(rules, account.id, &spec.name, words_of(parts), now_ms);
    }
    if let Some(rule) = rules.of_class(class, way.operator) {
        let opens = rule.hours.and_then(|h| h.opens(goes_ms));
        if opens.is_some() && rule.outside == Outside::Reject {
            return Err(Reject::Window);
        }
        out.not_before_ms = opens.unwrap_or(0);
        if !rule.suffix.is_empty() {
            out.text = appended(parts, &rule.suffix)?;
        }
        if rule.cap > 0 {
            out.cap = rules.classes.iter().position(|c| c == rule).map(|at| at as u16);
        }
    }
    if held {
        out.not_before_ms = Mark::NEVER;
    }
    Ok(out)
}

/// The address that an account's rewriting puts in place of one.
fn rewritten<'a>(rules: &'a Rules, account: &str, source: &[u8]) -> Option<&'a str> {
    let fits = |r: &&super::Rewrite| {
        r.upstream.is_none() && (r.account.is_empty() || r.account == account) && r.takes(source)
    };
    rules.rewrites.iter().find(fits).map(|r| r.to.as_str())
}

/// Whether the account may send as its source; the class that is registered.
fn sender(gateway: &Gateway, policy: &Policy, way: &Way<'_>) -> Result<u16, Reject> {
    if !way.spec.may_send_as(way.source) {
        return Err(Reject::Source);
    }
    gateway.live.with_registry(
        |registry| match registry.find(&way.spec.name, way.source, way.operator) {
            Found::Registered(s) if s.standing == Standing::Active => Ok(policy.class_index(&s.class)),
            Found::Unknown if !policy.rules.require_registered => Ok(0),
            _ => Err(Reject::Source),
        },
    )
}

/// Two of our own numbers that answer each other would do so for ever.
fn bounced(
    gateway: &Gateway,
    rules: &Rules,
    way: &Way<'_>,
    parts: &Parts<'_>,
    now_ms: u64,
) -> Result<(), Reject> {
    if rules.own.is_empty() || !rules.own.contains(way.dest) {
        return Ok(());
    }
    let text = words_of(parts);
    if !gateway.live.bounces(way.source, way.dest, text, now_ms) {
        return Ok(());
    }
    gateway.live.trip(Trip {
        account: way.account.id,
        rule: "loop".into(),
        kind: "loop",
        count: u64::from(crate::domain::frequency::LOOP_MAX),
        span_s: crate::domain::frequency::LOOP_SPAN_S,
    });
    Err(Reject::Loop)
}

/// Whether a person has to look at its text first. The text is decoded once, and only where a rule is for it.
fn content(
    gateway: &Gateway,
    rules: &Rules,
    way: &Way<'_>,
    class: &str,
    parts: &Parts<'_>,
) -> Result<bool, Reject> {
    let mut worst = None;
    for rule in hits(rules, &way.spec.name, class, parts) {
        metrics::content_hit(&rule.name, rule.action.word());
        gateway.live.trip(Trip {
            account: way.account.id,
            rule: rule.name.clone(),
            kind: "content",
            count: 1,
            span_s: 0,
        });
        worst = worst.max(Some(rule.action));
    }
    match worst {
        Some(Action::Reject) => Err(Reject::Content),
        worst => Ok(worst == Some(Action::Hold)),
    }
}

/// The rules that a text hits.
fn hits<'a>(rules: &'a Rules, account: &str, class: &str, parts: &Parts<'_>) -> Vec<&'a ContentRule> {
    let mut text = None;
    let mut out = Vec::new();
    for rule in rules.content.iter().filter(|r| r.applies(class, account)) {
        let text = text.get_or_insert_with(|| decoded(parts.flags.data_coding, words_of(parts)));
        let Some(text) = text else { break };
        if rule.hits(text) {
            out.push(rule);
        }
    }
    out
}

/// When a message of this class may go at an operator, ms since the epoch; `None`: now.
#[must_use]
pub fn opens(rules: &Rules, class: &str, operator: &str, now_ms: u64) -> Option<u64> {
    rules.of_class(class, operator)?.hours?.opens(now_ms)
}

/// Why a message would be taken or not, and in what form: for people, without counting it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explained {
    /// The source address that it would have.
    pub source: String,
    /// What the registry says: `active`, `pending`, `suspended`, `revoked`, `unregistered`, `foreign`, `reserved`, or
    /// `not-allowed` where the account's own list does not have it.
    pub sender: &'static str,
    /// Class of the sender; empty: none.
    pub class: String,
    /// The scope of the entry that stops it.
    pub suppressed: Option<&'static str>,
    /// Content rules that its text hits, and what they do.
    pub content: Vec<(String, &'static str)>,
    /// Hours of its class.
    pub hours: Option<String>,
    /// When they begin next, ms since the epoch; `None`: they are, or there are none.
    pub opens_ms: Option<u64>,
    /// `hold` or `reject` outside them.
    pub outside: Option<&'static str>,
    /// The opt-out behind its text.
    pub suffix: String,
    /// Segments with it.
    pub segments: Option<u8>,
    /// Messages to this number so far, how many may be, and within how many seconds.
    pub cap: Option<(usize, u32, u32)>,
    /// Why it would be refused.
    pub refused: Option<Reject>,
}

/// Explains what [`judge`] would say.
#[must_use]
pub fn explain(
    gateway: &Gateway,
    policy: &Policy,
    account: &AccountState,
    parts: &Parts<'_>,
    now_ms: u64,
) -> Explained {
    let rules = &policy.rules;
    let spec = account.spec();
    let source = rewritten(rules, &spec.name, parts.source).map_or(parts.source, str::as_bytes);
    let operator = policy.operator(parts.dest);
    let mut out = Explained {
        source: String::from_utf8_lossy(source).into_owned(),
        ..Explained::default()
    };
    let mut refused = Vec::new();
    gateway
        .live
        .with_registry(|r| match r.find(&spec.name, source, operator) {
            Found::Registered(s) => {
                out.sender = s.standing.word();
                out.class.clone_from(&s.class);
            }
            Found::Unknown => out.sender = "unregistered",
            Found::Foreign => out.sender = "foreign",
            Found::Reserved => out.sender = "reserved",
        });
    let allowed = spec.may_send_as(source);
    if !allowed {
        out.sender = "not-allowed";
    }
    if !(allowed && (out.sender == "active" || out.sender == "unregistered" && !rules.require_registered)) {
        refused.push(Reject::Source);
    }
    out.suppressed = gateway
        .live
        .stops(account.id, source, parts.dest, out.class == TRANSACTIONAL);
    refused.extend(out.suppressed.map(|_| Reject::Suppressed));
    let hit = hits(rules, &spec.name, &out.class, parts);
    if hit.iter().any(|r| r.action == Action::Reject) {
        refused.push(Reject::Content);
    }
    out.content = hit.iter().map(|r| (r.name.clone(), r.action.word())).collect();
    if let Some(rule) = rules.of_class(&out.class, operator) {
        out.hours = rule.hours.map(|h| h.to_string());
        out.opens_ms = rule.hours.and_then(|h| h.opens(now_ms));
        out.outside = rule.hours.map(|_| match rule.outside {
            Outside::Hold => "hold",
            Outside::Reject => "reject",
        });
        if out.opens_ms.is_some() && rule.outside == Outside::Reject {
            refused.push(Reject::Window);
        }
        out.suffix.clone_from(&rule.suffix);
        if !rule.suffix.is_empty() {
            match appended(parts, &rule.suffix) {
                Ok(new) => out.segments = new.map(|n| n.segments),
                Err(reason) => refused.push(reason),
            }
        }
        if rule.cap > 0 {
            let whom = capped(account.id, rule, parts.dest);
            let so_far = lock(&gateway.live.frequency).count(&whom, rule.cap_span_s, (now_ms / 1_000) as u32);
            out.cap = Some((so_far, rule.cap, rule.cap_span_s));
            if so_far >= rule.cap as usize {
                refused.push(Reject::Frequency);
            }
        }
    }
    out.refused = refused.first().copied();
    out
}
