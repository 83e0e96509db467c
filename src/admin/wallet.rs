//! wallet.*

use serde_json::{Value, json};

use super::params::Params;
use super::{Context, Fault, time};
use crate::domain::account::Account;
use crate::flow::{AccountState, Control, ControlReply};
use crate::store::sqlite::Reader;

fn currency(context: &Context, account: &AccountState) -> String {
    let policy = context.gateway.policy.load();
    policy
        .tariff(&account.spec().tariff)
        .map_or_else(String::new, |t| t.currency.clone())
}

fn describe(context: &Context, account: &AccountState) -> Value {
    let wallet = account.with_wallet(|w| *w);
    json!({
        "account": account.spec().name,
        "currency": currency(context, account),
        "balance": wallet.balance().to_string(),
        "held": wallet.held().to_string(),
        "credit_limit": wallet.credit_limit().to_string(),
        "available": wallet.available().to_string(),
    })
}

pub(super) async fn topup(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    let amount = p
        .money("amount")?
        .ok_or_else(|| Fault::validation("amount", "amount is required"))?;
    if amount.0 <= 0 {
        return Err(Fault::new("E_AMOUNT", "amount must be more than zero").field("amount"));
    }
    let word = |name: &str, text: String| {
        let text = text.trim().to_string();
        let fits = text.len() <= 64 && text.bytes().all(|c| c.is_ascii_graphic());
        if fits {
            Ok(text)
        } else {
            Err(Fault::validation(
                name,
                format!("{name} must be at most 64 printable characters"),
            ))
        }
    };
    let provider = word("provider", p.need("provider")?)?.to_ascii_lowercase();
    // Receipts are read out and typed by people.
    let receipt = word("receipt", p.need("receipt")?)?.to_ascii_uppercase();
    p.done()?;
    let reply = context
        .control(Control::Topup {
            account: account.id,
            amount,
            provider,
            receipt,
        })
        .await?;
    let ControlReply::Topup(topup, duplicate) = reply else {
        return Err(Fault::unavailable("unexpected answer of the engine"));
    };
    Ok(json!({
        "entry": topup.entry,
        "account": account.spec().name,
        "amount": topup.amount.to_string(),
        "currency": currency(context, &account),
        "provider": topup.provider,
        "receipt": topup.receipt,
        "at": time(topup.at_ms),
        "balance": account.with_wallet(|w| w.balance()).to_string(),
        "duplicate": duplicate,
    }))
}

pub(super) fn show(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    p.done()?;
    Ok(describe(context, &account))
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
    Ok(describe(context, &account))
}

/// Runs a read off the runtime's threads.
pub(super) async fn read<R: Send + 'static>(
    context: &Context,
    work: impl FnOnce(&Reader) -> Result<R, crate::store::StoreError> + Send + 'static,
) -> Result<R, Fault> {
    let path = context.store.clone();
    let done = tokio::task::spawn_blocking(move || Reader::open(&path).and_then(|r| work(&r))).await;
    match done {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(e)) => Err(Fault::new("E_STORAGE", e.to_string())),
        Err(_) => Err(Fault::unavailable("the read was interrupted")),
    }
}

pub(super) async fn statement(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(100) as usize;
    p.done()?;
    let id = account.id;
    let lines = read(context, move |r| r.ledger(id, limit)).await?;
    let items: Vec<Value> = lines
        .into_iter()
        .map(|l| {
            json!({
                "entry": l.entry,
                "at": time(l.at_ms),
                "reason": l.reason,
                "amount": l.amount.to_string(),
                "count": l.count,
                "reference": l.reference,
            })
        })
        .collect();
    Ok(json!({ "items": items, "cursor": null }))
}

pub(super) async fn check(context: &Context, params: Value) -> Result<Value, Fault> {
    Params::new(params)?.done()?;
    let check = read(context, Reader::check).await?;
    Ok(json!({
        "ok": check.faults.is_empty(),
        "faults": check.faults,
        "wallets": check.wallets,
        "messages": check.messages,
        "ledger_entries": check.entries,
    }))
}
