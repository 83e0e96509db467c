//! suppression.*: numbers that must not be sent to. A number comes in and is never shown again: entries know it by a keyed hash.

use serde_json::{Value, json};

use super::params::Params;
use super::reads::read;
use super::{Context, Fault, time};
use crate::domain::suppression::{Scope, ScopeRef, Source, Subject, Suppression};
use crate::flow::rules::{RuleChange, RuleReply};
use crate::flow::{Control, ControlReply};
use crate::ids::AccountId;

/// Numbers in one import request.
const IMPORT_MAX: usize = 10_000;
/// Longest reason.
const REASON_MAX: usize = 100;

/// A number with its middle hidden.
pub(super) fn masked(number: &[u8]) -> String {
    let n = number.len();
    let show = |at: usize| at < 5.min(n / 2) || at + 2 >= n;
    let one = |(at, c): (usize, &u8)| {
        if show(at) && c.is_ascii_graphic() {
            *c as char
        } else {
            '*'
        }
    };
    number.iter().enumerate().map(one).collect()
}

fn hex(subject: &Subject) -> String {
    subject.iter().map(|b| format!("{b:02x}")).collect()
}

fn no_key() -> Fault {
    Fault::new(
        "E_STATE",
        "there is no key of numbers; set [privacy] number_key to a file that can be made",
    )
}

/// A number in E.164 digits, and its hash.
fn subject(context: &Context, number: &str) -> Result<(String, Subject), Fault> {
    let policy = context.gateway.policy.load();
    let complete = policy.numbering.complete(number.trim().as_bytes(), false);
    let complete = complete.map_err(|e| Fault::new("E_MSISDN", format!("number: {e}")).field("number"))?;
    let subject = context.gateway.live.subject(complete.digits());
    Ok((masked(complete.digits()), subject.map_err(|_| no_key())?))
}

/// `scope`, with `account` and `sender` where it needs them.
fn scope(context: &Context, p: &mut Params) -> Result<Scope, Fault> {
    let word = p.text("scope")?;
    let sender = p.text("sender")?.filter(|s| !s.is_empty());
    let account = match p.has("account") {
        true => Some(p.account(context)?.id),
        false => None,
    };
    let word = word.unwrap_or_else(|| {
        let usual = match (account, &sender) {
            (Some(_), Some(_)) => "sender",
            (Some(_), None) => "account",
            (None, _) => "platform",
        };
        usual.into()
    });
    match (word.as_str(), account, sender) {
        ("platform", None, None) => Ok(Scope::Platform),
        ("account", Some(account), None) => Ok(Scope::Account(account)),
        ("sender", Some(account), Some(sender)) => {
            Ok(Scope::Sender(account, sender.to_ascii_lowercase().into()))
        }
        ("platform" | "account" | "sender", ..) => Err(Fault::validation(
            "scope",
            "platform takes neither account nor sender, account takes an account, sender takes both",
        )),
        _ => Err(Fault::validation(
            "scope",
            format!("scope must be one of {}", Scope::WORDS.join(", ")),
        )),
    }
}

/// What entries of one request have in common.
fn rest(context: &Context, p: &mut Params, usual: Source) -> Result<Suppression, Fault> {
    let scope = scope(context, p)?;
    let source = p.choice("source", Source::WORDS, Source::parse)?.unwrap_or(usual);
    let reason = p.text("reason")?.unwrap_or_default();
    if reason.len() > REASON_MAX {
        return Err(Fault::validation("reason", "reason has at most 100 octets"));
    }
    // A reason is no place for the number that must not be kept.
    if reason.bytes().filter(u8::is_ascii_digit).count() >= 7 {
        return Err(Fault::validation("reason", "reason must not hold a number"));
    }
    Ok(Suppression {
        subject: Subject::default(),
        scope,
        source,
        transactional: p.flag("transactional")?.unwrap_or(false),
        reason,
        at_ms: (context.now_ms)(),
        until_ms: p.time("until")?.unwrap_or(0),
    })
}

fn describe(context: &Context, s: &Suppression) -> Value {
    let accounts = context.gateway.accounts();
    let account = Some(s.scope.account()).filter(|a| *a != AccountId::NONE);
    json!({
        "subject": hex(&s.subject),
        "scope": s.scope.word(),
        "account": account.and_then(|a| accounts.get(a)).map(|a| a.spec().name.clone()),
        "sender": s.scope.sender(),
        "source": s.source.word(),
        "transactional": s.transactional,
        "reason": s.reason,
        "at": time(s.at_ms),
        "until": if s.until_ms == 0 { Value::Null } else { time(s.until_ms) },
    })
}

async fn put(context: &Context, entries: Vec<Suppression>) -> Result<usize, Fault> {
    let change = RuleChange::Suppress(entries);
    match context.control(Control::Rule(Box::new(change))).await? {
        ControlReply::Rule(RuleReply::Suppressed(new)) => Ok(new),
        _ => Err(Fault::unavailable("unexpected answer of the engine")),
    }
}

/// Notes a number.
pub(super) async fn add(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let (shown, subject) = subject(context, &p.need("number")?)?;
    let rest = rest(context, &mut p, Source::Admin)?;
    p.done()?;
    let entry = Suppression { subject, ..rest };
    let described = describe(context, &entry);
    let new = put(context, vec![entry]).await?;
    Ok(json!({ "number": shown, "new": new == 1, "entry": described }))
}

/// Notes many: `numbers`, at most 10,000 a request.
pub(super) async fn import(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let numbers = p
        .list("numbers")?
        .ok_or_else(|| Fault::validation("numbers", "numbers is required: a list of numbers"))?;
    let dry_run = p.flag("dry_run")?.unwrap_or(false);
    let rest = rest(context, &mut p, Source::Import)?;
    p.done()?;
    if numbers.len() > IMPORT_MAX {
        return Err(Fault::validation(
            "numbers",
            "at most 10000 numbers a request; send several",
        ));
    }
    let mut entries = Vec::new();
    let mut invalid = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (at, number) in numbers.iter().enumerate() {
        match subject(context, number) {
            Ok((_, subject)) if seen.insert(subject) => entries.push(Suppression {
                subject,
                ..rest.clone()
            }),
            Ok(_) => {}
            Err(fault) if fault.code() == "E_MSISDN" => invalid.push(at + 1),
            Err(fault) => return Err(fault),
        }
    }
    let valid = entries.len();
    let live = &context.gateway.live;
    let fresh = |e: &&Suppression| live.has(&e.subject, &ScopeRef::from(&e.scope)).is_none();
    let new = if dry_run {
        entries.iter().filter(fresh).count()
    } else if entries.is_empty() {
        0
    } else {
        put(context, entries).await?
    };
    Ok(json!({
        "given": numbers.len(), "valid": valid, "new": new, "known": valid - new, "invalid_lines": invalid, "dry_run": dry_run,
    }))
}

/// Forgets one; only with a reason, since it stands for somebody's wish.
pub(super) async fn remove(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let (shown, subject) = subject(context, &p.need("number")?)?;
    let scope = scope(context, &mut p)?;
    p.need("reason")?;
    p.done()?;
    let change = RuleChange::Unsuppress(subject, scope);
    context.control(Control::Rule(Box::new(change))).await?;
    Ok(json!({ "number": shown, "removed": true }))
}

/// Every entry of a number.
pub(super) async fn check(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let (shown, subject) = subject(context, &p.need("number")?)?;
    let account = match p.has("account") {
        true => Some(p.account(context)?.id),
        false => None,
    };
    p.done()?;
    let mut found = read(context, move |r| r.suppressed(&subject)).await?;
    // What is asked on behalf of one account tells nothing of another's list.
    found.retain(|s| account.is_none_or(|a| s.scope.account() == a || s.scope == Scope::Platform));
    let entries: Vec<Value> = found.iter().map(|s| describe(context, s)).collect();
    Ok(json!({ "number": shown, "suppressed": !entries.is_empty(), "entries": entries }))
}

/// Entries, by hash.
pub(super) async fn list(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = match p.has("account") {
        true => Some(p.account(context)?.id),
        false => None,
    };
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(100) as usize;
    let cursor = p.text("cursor")?.unwrap_or_default();
    p.done()?;
    let after = unhex(&cursor)
        .ok_or_else(|| Fault::validation("cursor", "cursor must be one that this method gave"))?;
    // One more than fits says whether there is more; the entries of one number stay together.
    let mut found = read(context, move |r| r.suppressions(account, &after, limit + 64)).await?;
    let mut next = None;
    if found.len() > limit {
        let last = found.get(limit - 1).map(|s| s.subject);
        let end = found
            .iter()
            .rposition(|s| Some(s.subject) == last)
            .map_or(limit, |at| at + 1);
        if end < found.len() {
            next = last.map(|s| hex(&s));
        }
        found.truncate(end);
    }
    let items: Vec<Value> = found.iter().map(|s| describe(context, s)).collect();
    Ok(json!({ "items": items, "cursor": next, "total": context.gateway.live.suppressed() }))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (text.len().is_multiple_of(2)).then(|| (0..text.len()).step_by(2).map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn the_middle_of_a_number_is_hidden() {
        assert_eq!(masked(b"254712345678"), "25471*****78");
        assert_eq!(masked(b"22555"), "22*55");
        assert_eq!(masked(b""), "");
    }
}
