//! event.list

use serde_json::{Value, json};

use super::params::Params;
use super::{Context, Fault, time};

/// What operators should have heard of, oldest first; `cursor` asks for what came after.
pub(super) fn list(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let after = p.number("cursor", 0, u64::MAX)?.unwrap_or(0);
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(100) as usize;
    p.done()?;
    let events = context.gateway.events.after(after, limit);
    let cursor = events.last().map_or(after, |e| e.number);
    let items: Vec<Value> = events
        .into_iter()
        .map(|e| {
            json!({
                "number": e.number,
                "at": time(e.at_ms),
                "kind": e.kind,
                "account": e.account,
                "what": e.what,
            })
        })
        .collect();
    Ok(json!({ "items": items, "cursor": cursor }))
}
