//! held.*, case.*, inbound.*: what waits for a person, what a person should look at, and what nobody claims.

use serde_json::{Value, json};

use super::params::Params;
use super::reads::read;
use super::suppression::masked;
use super::{Context, Fault, time};
use crate::domain::content::decoded;
use crate::domain::message::Message;
use crate::flow::rules::{RuleChange, RuleReply, words_of};
use crate::flow::{Control, ControlReply};
use crate::ids::{AccountId, MessageKey};
use crate::store::{Case, CaseState};

fn account_name(context: &Context, id: AccountId) -> Value {
    let accounts = context.gateway.accounts();
    accounts.get(id).map_or(Value::Null, |a| json!(a.spec().name))
}

fn key(p: &mut Params) -> Result<MessageKey, Fault> {
    let id = p.need("id")?;
    MessageKey::parse(id.as_bytes())
        .ok_or_else(|| Fault::validation("id", "id must be the decimal number of the submit_sm_resp"))
}

/// Messages that wait for a person, oldest first. Their text is not shown.
pub(super) async fn held(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(100) as usize;
    let cursor = p.number("cursor", 0, u64::MAX)?.unwrap_or(0);
    p.done()?;
    let change = RuleChange::ShowHeld(MessageKey(cursor), limit);
    let ControlReply::Rule(RuleReply::Held(found)) = context.control(Control::Rule(Box::new(change))).await?
    else {
        return Err(Fault::unavailable("unexpected answer of the engine"));
    };
    let next = found.last().filter(|_| found.len() == limit).map(|h| h.key.0);
    let items: Vec<Value> = found
        .iter()
        .map(|h| {
            json!({
                "id": h.key.to_string(),
                "account": account_name(context, h.account),
                "from": String::from_utf8_lossy(&h.source),
                "to": masked(&h.dest),
                "segments": h.segments,
                "accepted_at": time(h.at_ms),
                "expires_at": time(h.expires_ms),
            })
        })
        .collect();
    Ok(
        json!({ "items": items, "cursor": next, "total": context.gateway.live.held.load(std::sync::atomic::Ordering::Relaxed) }),
    )
}

/// A held message with its text, for who decides, and with the reason why it is read.
pub(super) async fn show(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let key = key(&mut p)?;
    let reason = p
        .need("reason")
        .map_err(|_| Fault::new("E_REASON_REQUIRED", "reading a text needs a reason").field("reason"))?;
    p.done()?;
    let change = RuleChange::ShowText(key);
    let ControlReply::Rule(RuleReply::Message(message)) =
        context.control(Control::Rule(Box::new(change))).await?
    else {
        return Err(Fault::unavailable("unexpected answer of the engine"));
    };
    // Who reads texts leaves a trace; the reason itself may hold what must not be in a log.
    tracing::info!(id = %key, reason_octets = reason.len(), "the text of a held message was read");
    let parts = message.parts();
    let text = decoded(parts.flags.data_coding, words_of(&parts));
    Ok(json!({
        "id": key.to_string(),
        "from": String::from_utf8_lossy(parts.source),
        "to": masked(parts.dest),
        "data_coding": parts.flags.data_coding,
        "text": text,
    }))
}

/// Lets a held message go, or refuses it.
pub(super) async fn decide(context: &Context, params: Value, go: bool) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let key = key(&mut p)?;
    p.done()?;
    let change = if go {
        RuleChange::LetGo(key)
    } else {
        RuleChange::Refuse(key)
    };
    context.control(Control::Rule(Box::new(change))).await?;
    Ok(json!({ "id": key.to_string(), "state": if go { "released" } else { "rejected" } }))
}

fn describe(context: &Context, c: &Case) -> Value {
    json!({
        "case": c.id,
        "account": account_name(context, c.account),
        "rule": c.rule,
        "kind": c.kind,
        "count": c.count,
        "span_s": c.span_s,
        "at": time(c.at_ms),
        "state": if c.state == CaseState::Open { "open" } else { "closed" },
        "closed_at": if c.closed_ms == 0 { Value::Null } else { time(c.closed_ms) },
        "note": c.note,
    })
}

/// Cases, newest first: open ones, or all.
pub(super) async fn cases(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let all = p.flag("all")?.unwrap_or(false);
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(100) as usize;
    let cursor = p.number("cursor", 1, i64::MAX as u64)?.unwrap_or(i64::MAX as u64);
    p.done()?;
    let found = read(context, move |r| r.cases(all, cursor, limit)).await?;
    let next = found.last().filter(|_| found.len() == limit).map(|c| c.id);
    let items: Vec<Value> = found.iter().map(|c| describe(context, c)).collect();
    Ok(json!({ "items": items, "cursor": next }))
}

/// One case.
pub(super) async fn case(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let id = case_id(&mut p)?;
    p.done()?;
    let found = read(context, move |r| r.cases(true, id + 1, 1)).await?;
    let found = found.iter().find(|c| c.id == id);
    found
        .map(|c| describe(context, c))
        .ok_or_else(|| Fault::not_found("case"))
}

fn case_id(p: &mut Params) -> Result<u64, Fault> {
    p.number("case", 1, i64::MAX as u64 - 1)?
        .ok_or_else(|| Fault::validation("case", "case is required: the number that case.list shows"))
}

/// Closes one with what was found; its rule may trip again.
pub(super) async fn close(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let id = case_id(&mut p)?;
    let note = p.need("note")?;
    p.done()?;
    if note.len() > 1_000 {
        return Err(Fault::validation("note", "note has at most 1000 octets"));
    }
    let change = RuleChange::CloseCase(id, note);
    match context.control(Control::Rule(Box::new(change))).await? {
        ControlReply::Rule(RuleReply::Case(case)) => Ok(describe(context, &case)),
        _ => Err(Fault::unavailable("unexpected answer of the engine")),
    }
}

/// Inbound messages that no rule claims, newest first, without their text.
pub(super) async fn unclaimed(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(100) as usize;
    let cursor = p.number("cursor", 1, i64::MAX as u64)?.unwrap_or(i64::MAX as u64);
    p.done()?;
    let found = read(context, move |r| r.unclaimed(cursor, limit)).await?;
    let next = found.last().filter(|_| found.len() == limit).map(|r| r.pos.0);
    let items: Vec<Value> = found
        .iter()
        .filter_map(|row| {
            let message = Message::from_record(&row.payload).ok()?;
            let parts = message.parts();
            Some(json!({
                "id": row.pos.0,
                "at": time(row.at_ms),
                "from": masked(parts.source),
                "to": String::from_utf8_lossy(parts.dest),
                "data_coding": parts.flags.data_coding,
                "octets": parts.text.len(),
            }))
        })
        .collect();
    Ok(json!({
        "items": items,
        "cursor": next,
        "total": context.gateway.live.unclaimed.load(std::sync::atomic::Ordering::Relaxed),
    }))
}
