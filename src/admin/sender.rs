//! sender.*: who may use which source address at which operator. In force at once, for live sessions too.

use serde_json::{Value, json};

use super::params::Params;
use super::{Context, Fault, time};
use crate::domain::sender::{PROMOTIONAL, Sender, Standing, TRANSACTIONAL, form};
use crate::flow::rules::{RuleChange, RuleReply};
use crate::flow::{Control, ControlReply};

/// Longest reference.
const REFERENCE_MAX: usize = 200;

pub(super) fn describe(s: &Sender, by_config: bool) -> Value {
    json!({
        "account": s.account,
        "sender": s.id,
        "operator": s.operator,
        "class": s.class,
        "status": s.standing.word(),
        "reserved": s.reserved,
        "reference": s.reference,
        "at": if s.at_ms == 0 { Value::Null } else { time(s.at_ms) },
        "origin": if by_config { "config" } else { "admin" },
    })
}

/// The account's name, the address and the operator that a request names.
fn key(context: &Context, p: &mut Params) -> Result<(String, String, String), Fault> {
    let account = p.account(context)?;
    let id = p.need("sender")?;
    let operator = p.text("operator")?.unwrap_or_default();
    let policy = context.gateway.policy.load();
    if !operator.is_empty() && !policy.plan.operators().contains(&operator) {
        return Err(Fault::validation(
            "operator",
            "no operator of this name in [numbering] plan",
        ));
    }
    Ok((account.spec().name.clone(), id, operator))
}

async fn change(context: &Context, change: RuleChange) -> Result<Value, Fault> {
    match context.control(Control::Rule(Box::new(change))).await? {
        ControlReply::Rule(RuleReply::Sender(sender)) => Ok(describe(&sender, false)),
        _ => Err(Fault::unavailable("unexpected answer of the engine")),
    }
}

/// Registers a sender of an account, or changes its class and reference; its status stays.
pub(super) async fn register(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let (account, id, operator) = key(context, &mut p)?;
    let class = p.need("class")?;
    let status = p
        .choice("status", Standing::WORDS, Standing::parse)?
        .unwrap_or(Standing::Pending);
    let reference = p.text("reference")?.unwrap_or_default();
    p.done()?;
    form(&id).map_err(|e| Fault::new("E_SENDER", format!("sender: {e}")).field("sender"))?;
    if class != TRANSACTIONAL && class != PROMOTIONAL {
        return Err(Fault::validation(
            "class",
            "class must be transactional or promotional",
        ));
    }
    if reference.len() > REFERENCE_MAX {
        return Err(Fault::validation("reference", "reference has at most 200 octets"));
    }
    let sender = Sender {
        account,
        id,
        operator,
        class,
        standing: status,
        reference,
        ..Sender::default()
    };
    change(context, RuleChange::Register(sender)).await
}

/// Lets a sender be used (`active`), or no more.
pub(super) async fn stand(context: &Context, params: Value, standing: Standing) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let (account, id, operator) = key(context, &mut p)?;
    p.done()?;
    let to = RuleChange::Stand {
        account,
        id,
        operator,
        standing,
    };
    change(context, to).await
}

/// Senders of the config and those registered here.
pub(super) fn list(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = match p.has("account") {
        true => Some(p.account(context)?.spec().name.clone()),
        false => None,
    };
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(100) as usize;
    let cursor = p.number("cursor", 0, u64::MAX)?.unwrap_or(0) as usize;
    p.done()?;
    let registry = context.gateway.live.registry();
    let by_config = context.gateway.policy.load().rules.registry.senders().len();
    let of = |s: &Sender| {
        account
            .as_ref()
            .is_none_or(|a| s.account == *a || s.account.is_empty())
    };
    let mut found = registry
        .senders()
        .iter()
        .enumerate()
        .skip(cursor)
        .filter(|(_, s)| of(s));
    let items: Vec<(usize, Value)> = found
        .by_ref()
        .take(limit)
        .map(|(at, s)| (at, describe(s, at < by_config)))
        .collect();
    let next = found.next().map(|(at, _)| at);
    Ok(json!({ "items": items.into_iter().map(|(_, v)| v).collect::<Vec<_>>(), "cursor": next }))
}
