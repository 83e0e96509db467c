//! session.*, upstream.*, queue.*, stats.*, server.*

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use super::params::Params;
use super::{Context, Fault, time};
use crate::flow::{SessionKind, Upstream};

fn load(n: &AtomicU64) -> u64 {
    n.load(Ordering::Relaxed)
}

pub(super) fn sessions(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let only = match p.text("account")? {
        Some(name) => Some(
            context
                .gateway
                .accounts()
                .by_name(&name)
                .ok_or_else(|| Fault::not_found("account"))?
                .id,
        ),
        None => None,
    };
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(1_000) as usize;
    let cursor = p.number("cursor", 0, u64::MAX)?.unwrap_or(0);
    p.done()?;
    let accounts = context.gateway.accounts();
    let mut rows: Vec<_> = context.gateway.sessions();
    rows.retain(|s| s.id.0 > cursor && only.is_none_or(|a| a == s.account));
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|s| s.id.0);
    let items: Vec<Value> = rows
        .iter()
        .map(|s| {
            json!({
                "session": s.id.0,
                "account": accounts.get(s.account).map(|a| a.spec().name.clone()),
                "bind": match s.kind {
                    SessionKind::Transmitter => "tx",
                    SessionKind::Receiver => "rx",
                    SessionKind::Transceiver => "trx",
                },
                "peer": s.peer.to_string(),
                "since": time(s.since_ms),
                "submits": load(&s.submits),
                "delivered": load(&s.delivered),
            })
        })
        .collect();
    Ok(json!({ "items": items, "cursor": next }))
}

pub(super) fn kick(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let session = p.number("session", 1, u64::MAX)?;
    let account = match p.text("account")? {
        Some(name) => Some(
            context
                .gateway
                .accounts()
                .by_name(&name)
                .ok_or_else(|| Fault::not_found("account"))?
                .id,
        ),
        None => None,
    };
    p.done()?;
    if session.is_none() && account.is_none() {
        return Err(Fault::validation("session", "name a session or an account"));
    }
    let n = context
        .gateway
        .kick(|s| session.is_none_or(|id| id == s.id.0) && account.is_none_or(|a| a == s.account));
    if n == 0 && session.is_some() {
        return Err(Fault::not_found("session"));
    }
    Ok(json!({ "kicked": n }))
}

fn describe(u: &Upstream) -> Value {
    let binds: Vec<Value> = u
        .binds
        .iter()
        .enumerate()
        .map(|(i, b)| {
            json!({
                "bind": i,
                "state": match b.state.load(Ordering::Relaxed) { 2 => "bound", 1 => "connecting", _ => "down" },
                "since": time(load(&b.since_ms)),
                "outstanding": b.outstanding.load(Ordering::Relaxed),
                "window": b.window.load(Ordering::Relaxed),
                "why": b.why.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            })
        })
        .collect();
    let bound = u
        .binds
        .iter()
        .filter(|b| b.state.load(Ordering::Relaxed) == 2)
        .count();
    let (waiting, stored) = u.depth();
    json!({
        "name": u.options.name,
        "enabled": u.enabled(),
        "live": u.live(),
        "bound": bound,
        "waiting": waiting + stored,
        "sent": load(&u.sent),
        "throttled": load(&u.throttled),
        "refused": load(&u.refused),
        "receipts": load(&u.receipts),
        "binds": binds,
    })
}

pub(super) fn upstream(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let u = named(context, &mut p)?;
    p.done()?;
    let mut shown = describe(&u);
    let ([same, hex_dec, dec_hex], unmatched) = u.habits.counts();
    if let Some(object) = shown.as_object_mut() {
        object.insert(
            "id_format".into(),
            json!({
                "form": u.habits.form().map(crate::flow::IdForm::word),
                "learned": !u.habits.fixed() && u.habits.form().is_some(),
                "matched": { "same": same, "hex-dec": hex_dec, "dec-hex": dec_hex },
                "unmatched": unmatched,
                "match_rate": u.habits.rate(),
            }),
        );
        object.insert("unknown_stats".into(), json!(u.unknown_stats.counts()));
        object.insert("unknown_outcome".into(), json!(u.options.unknown_outcome.word()));
        object.insert("tps".into(), json!(u.options.tps));
        object.insert("bind_tps".into(), json!(u.options.bind_tps));
        object.insert("rate".into(), json!(u.rate()));
    }
    Ok(shown)
}

pub(super) fn upstreams(context: &Context, params: Value) -> Result<Value, Fault> {
    Params::new(params)?.done()?;
    let items: Vec<Value> = context.gateway.upstreams().iter().map(|u| describe(u)).collect();
    Ok(json!({ "items": items, "cursor": null }))
}

fn named(context: &Context, p: &mut Params) -> Result<Arc<Upstream>, Fault> {
    let name = p.need("name")?;
    context
        .gateway
        .upstream_by_name(&name)
        .ok_or_else(|| Fault::not_found("upstream").field("name"))
}

pub(super) fn enable(context: &Context, params: Value, on: bool) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let upstream = named(context, &mut p)?;
    p.done()?;
    upstream.enable(on);
    context.gateway.ingress.wake();
    Ok(describe(&upstream))
}

pub(super) fn reconnect(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let upstream = named(context, &mut p)?;
    p.done()?;
    upstream.reconnect();
    Ok(describe(&upstream))
}

pub(super) fn queue(context: &Context, params: Value) -> Result<Value, Fault> {
    Params::new(params)?.done()?;
    let upstreams: Vec<Value> = context
        .gateway
        .upstreams()
        .iter()
        .map(|u| {
            let (memory, stored) = u.depth();
            let outstanding: u32 = u
                .binds
                .iter()
                .map(|b| b.outstanding.load(Ordering::Relaxed))
                .sum();
            json!({
                "upstream": u.options.name,
                "memory": memory,
                "stored": stored,
                "outstanding": outstanding,
                "live": u.live(),
            })
        })
        .collect();
    let outboxes: Vec<Value> = context
        .gateway
        .accounts()
        .iter()
        .filter(|a| !a.outbox.is_empty())
        .take(1_000)
        .map(|a| json!({ "account": a.spec().name, "deliveries": a.outbox.len(), "receivers": a.outbox.receivers() }))
        .collect();
    Ok(
        json!({ "items": upstreams, "outboxes": outboxes, "open": load(&context.gateway.totals.open), "cursor": null }),
    )
}

pub(super) fn stats(context: &Context, params: Value) -> Result<Value, Fault> {
    Params::new(params)?.done()?;
    let t = &context.gateway.totals;
    let commits = load(&t.commits);
    Ok(json!({
        "since": time(context.started_ms),
        "sessions": context.gateway.sessions().len(),
        "accepted": load(&t.accepted),
        "refused": load(&t.refused),
        "sent": load(&t.sent),
        "finished": load(&t.finished),
        "receipts": load(&t.receipts),
        "unmatched_receipts": load(&t.unmatched),
        "parked_receipts": load(&t.parked),
        "inbound": load(&t.inbound),
        "delivered": load(&t.delivered),
        "open": load(&t.open),
        "waiting": load(&t.waiting),
        "resting": load(&t.resting),
        "commits": commits,
        "rows_per_commit": load(&t.rows).checked_div(commits).unwrap_or(0),
        "segments_to_seal": load(&t.sealing),
        "store_writable": context.gateway.store_ok(),
        "draining": context.gateway.draining(),
    }))
}

pub(super) fn drain(context: &Context, params: Value) -> Result<Value, Fault> {
    Params::new(params)?.done()?;
    context.gateway.drain();
    context.shutdown.notify_one();
    Ok(json!({ "draining": true, "open": load(&context.gateway.totals.open) }))
}
