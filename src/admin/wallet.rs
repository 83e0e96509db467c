//! wallet.*: what is on an account, what happened to it, and whether it all adds up.

use serde_json::{Value, json};

use super::params::Params;
use super::reads::read;
use super::{Context, Fault, time};
use crate::domain::account::Account;
use crate::flow::{AccountState, Control};
use crate::ids::{AccountId, MessageKey};
use crate::store::sqlite::Line;

/// Most lines in one answer.
const LINES_MAX: u64 = 10_000;
const LINES: u64 = 1_000;
/// Beyond every timeout this much may pass before a hold counts as forgotten, ms.
const HOLD_GRACE_MS: u64 = 3_600_000;

pub(super) fn currency(account: &AccountState) -> String {
    account.spec().currency.clone()
}

fn describe(account: &AccountState) -> Value {
    let wallet = account.with_wallet(|w| *w);
    let spec = account.spec();
    json!({
        "account": spec.name,
        "currency": spec.currency,
        "balance": wallet.balance().to_string(),
        "held": wallet.held().to_string(),
        "credit_limit": wallet.credit_limit().to_string(),
        "available": wallet.available().to_string(),
        "frozen": wallet.frozen(),
        "low_balance": spec.low_balance.to_string(),
    })
}

pub(super) fn show(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    p.done()?;
    Ok(describe(&account))
}

pub(super) async fn limit(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    let credit = p
        .money("credit")?
        .ok_or_else(|| Fault::validation("credit", "credit is required"))?;
    p.done()?;
    if credit.0 < 0 {
        return Err(Fault::new("E_AMOUNT", "credit must not be negative").field("credit"));
    }
    let change = move |a: &mut Account| {
        a.credit_limit = credit;
        Ok(())
    };
    context
        .control(Control::ChangeAccount(account.id, Box::new(change)))
        .await?;
    Ok(describe(&account))
}

/// Opening balance, lines, closing balance of a span of time. Of more lines than fit one answer the first come, with the balance
/// after the last of them as `closing`, and a cursor for the rest.
pub(super) async fn statement(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    let from = p.time("from")?.unwrap_or(0);
    let to = p.time("to")?.unwrap_or_else(|| (context.now_ms)() + 1);
    let limit = p.number("limit", 1, LINES_MAX)?.unwrap_or(LINES) as usize;
    let skip = p.number("cursor", 0, u64::from(u32::MAX))?.unwrap_or(0) as usize;
    let csv = p
        .choice("format", &["json", "csv"], |w| match w {
            "json" => Some(false),
            "csv" => Some(true),
            _ => None,
        })?
        .unwrap_or(false);
    p.done()?;
    if from > to {
        return Err(Fault::validation("from", "from must not be after to"));
    }
    let offset = context.gateway.policy.load().day_offset_min;
    let id = account.id;
    let all = read(context, move |r| r.statement(id, from, to, offset)).await?;
    let opening = match skip.checked_sub(1).and_then(|last| all.lines.get(last)) {
        Some(line) => line.balance,
        None => all.opening,
    };
    let page: Vec<&Line> = all.lines.iter().skip(skip).take(limit).collect();
    let closing = page.last().map_or(opening, |line| line.balance);
    let next = (skip + page.len() < all.lines.len()).then_some(skip + page.len());
    let mut answer = json!({
        "account": account.spec().name,
        "currency": currency(&account),
        "from": time(from),
        "to": time(to),
        "opening": opening.to_string(),
        "closing": closing.to_string(),
        "cursor": next,
    });
    let (key, lines) = if csv {
        ("csv", json!(to_csv(&page)?))
    } else {
        ("items", page.iter().map(|l| line(l)).collect())
    };
    if let Some(object) = answer.as_object_mut() {
        object.insert(key.into(), lines);
    }
    Ok(answer)
}

fn line(l: &Line) -> Value {
    json!({
        "entry": l.entry,
        "at": time(l.at_ms),
        "reason": l.reason,
        "against": l.against,
        "route": l.route,
        "class": l.class,
        "count": l.count,
        "reference": l.reference,
        "amount": l.amount.to_string(),
        "balance": l.balance.to_string(),
    })
}

fn to_csv(lines: &[&Line]) -> Result<String, Fault> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |_| Fault::unavailable("the statement could not be written");
    out.write_record([
        "entry",
        "at",
        "reason",
        "against",
        "route",
        "class",
        "count",
        "reference",
        "amount",
        "balance",
    ])
    .map_err(failed)?;
    for l in lines {
        let at = time(l.at_ms);
        out.write_record([
            &l.entry.to_string(),
            at.as_str().unwrap_or(""),
            &l.reason,
            &l.against,
            &l.route,
            &l.class,
            &l.count.to_string(),
            &l.reference,
            &l.amount.to_string(),
            &l.balance.to_string(),
        ])
        .map_err(failed)?;
    }
    let bytes = out
        .into_inner()
        .map_err(|_| Fault::unavailable("the statement could not be written"))?;
    String::from_utf8(bytes).map_err(|_| Fault::unavailable("the statement could not be written"))
}

/// Money set aside for open messages, oldest first, with its age.
pub(super) async fn holds(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = if p.has("account") {
        Some(p.account(context)?)
    } else {
        None
    };
    let limit = p.number("limit", 1, LINES_MAX)?.unwrap_or(100) as usize;
    p.done()?;
    let id: Option<AccountId> = account.as_ref().map(|a| a.id);
    let (items, count, sum) = read(context, move |r| r.holds(id, limit)).await?;
    let now = (context.now_ms)();
    let accounts = context.gateway.accounts();
    let name = |id: AccountId| {
        accounts
            .get(id)
            .map_or_else(String::new, |a| a.spec().name.clone())
    };
    let items: Vec<Value> = items
        .into_iter()
        .map(|h| {
            let MessageKey(key) = h.key;
            json!({
                "id": key.to_string(),
                "account": name(h.account),
                "amount": h.amount.to_string(),
                "at": time(h.at_ms),
                "age_s": now.saturating_sub(h.at_ms) / 1_000,
                "state": if h.sent { "sent" } else { "queued" },
            })
        })
        .collect();
    Ok(json!({ "count": count, "amount": sum.to_string(), "items": items }))
}

pub(super) async fn check(context: &Context, params: Value) -> Result<Value, Fault> {
    Params::new(params)?.done()?;
    let policy = context.gateway.policy.load_full();
    let longest = policy.validity_max_ms + policy.longest_wait_ms() + HOLD_GRACE_MS;
    let oldest = (context.now_ms)().saturating_sub(longest);
    let check = read(context, move |r| r.check(oldest)).await?;
    Ok(json!({
        "ok": check.faults.is_empty(),
        "faults": check.faults,
        "wallets": check.wallets,
        "messages": check.messages,
        "ledger_entries": check.entries,
    }))
}
