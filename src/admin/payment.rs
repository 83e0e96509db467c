//! Money from and to the world outside: wallet.topup, adjust, assign, reverse, payout, settle, and what is on record of them.

use serde_json::{Value, json};

use super::params::Params;
use super::reads::read;
use super::wallet::currency;
use super::{Context, Fault, time};
use crate::flow::{Control, ControlReply};
use crate::ids::AccountId;
use crate::money::Money;
use crate::store::{ADJUST, Payment, Payout, PayoutState};

/// Most rows in one answer.
const ROWS_MAX: u64 = 10_000;
/// Longest note or payer reference.
const TEXT_MAX: usize = 200;

fn name_of(context: &Context, id: AccountId) -> Value {
    let accounts = context.gateway.accounts();
    accounts.get(id).map_or(Value::Null, |a| json!(a.spec().name))
}

/// A provider or a receipt: printable, without blanks around it.
fn word(name: &str, text: &str) -> Result<String, Fault> {
    let text = text.trim();
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic());
    if fits {
        return Ok(text.to_string());
    }
    Err(Fault::validation(
        name,
        format!("{name} must be 1 to 64 printable characters"),
    ))
}

pub(super) fn provider_of(p: &mut Params) -> Result<String, Fault> {
    let provider = word("provider", &p.need("provider")?)?.to_ascii_lowercase();
    if provider == ADJUST {
        return Err(Fault::validation(
            "provider",
            "corrections are booked with wallet.adjust",
        ));
    }
    Ok(provider)
}

/// Receipts are read out and typed by people.
pub(super) fn receipt_of(text: &str) -> Result<String, Fault> {
    word("receipt", text).map(|r| r.to_ascii_uppercase())
}

fn note(p: &mut Params, name: &str) -> Result<String, Fault> {
    let text = p.text(name)?.unwrap_or_default();
    if text.len() > TEXT_MAX || text.contains(char::is_control) {
        return Err(Fault::validation(
            name,
            format!("{name} must be at most {TEXT_MAX} characters on one line"),
        ));
    }
    Ok(text.trim().to_string())
}

fn positive(p: &mut Params) -> Result<Money, Fault> {
    let amount = p
        .money("amount")?
        .ok_or_else(|| Fault::validation("amount", "amount is required"))?;
    if amount.0 <= 0 {
        return Err(Fault::new("E_AMOUNT", "amount must be more than zero").field("amount"));
    }
    Ok(amount)
}

/// Sends a payment and shows it as it is on record.
pub(super) async fn pay(context: &Context, op: Control) -> Result<Value, Fault> {
    let ControlReply::Payment(payment, duplicate) = context.control(op).await? else {
        return Err(Fault::unavailable("unexpected answer of the engine"));
    };
    let mut shown = describe(context, &payment);
    if let Some(object) = shown.as_object_mut() {
        object.insert("duplicate".into(), json!(duplicate));
        let accounts = context.gateway.accounts();
        if let Some(account) = accounts.get(payment.account) {
            let balance = account.with_wallet(|w| w.balance());
            object.insert("balance".into(), json!(balance.to_string()));
            object.insert("currency".into(), json!(currency(account)));
        }
    }
    Ok(shown)
}

fn describe(context: &Context, p: &Payment) -> Value {
    json!({
        "entry": p.entry,
        "account": name_of(context, p.account),
        "suspense": p.account == AccountId::NONE,
        "amount": p.amount.to_string(),
        "provider": p.provider,
        "receipt": p.receipt,
        "at": time(p.at_ms),
        "paid_at": if p.paid_ms == 0 { Value::Null } else { time(p.paid_ms) },
        "payer_ref": p.payer_ref,
        "note": p.note,
        "assigned_at": if p.assigned_ms == 0 { Value::Null } else { time(p.assigned_ms) },
        "paid_out": p.paid_out.to_string(),
        "reversed": p.reversed.to_string(),
    })
}

pub(super) async fn topup(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let known = p.has("account");
    let account = if known {
        p.account(context)?.id
    } else {
        AccountId::NONE
    };
    let payer_ref = note(&mut p, "payer_ref")?;
    if !known && payer_ref.is_empty() {
        return Err(Fault::validation(
            "account",
            "account is required, or payer_ref as the payer wrote it",
        ));
    }
    let amount = positive(&mut p)?;
    let provider = provider_of(&mut p)?;
    let receipt = receipt_of(&p.need("receipt")?)?;
    let paid_ms = p.time("paid_at")?.unwrap_or(0);
    let note = note(&mut p, "note")?;
    p.done()?;
    let payment = Payment {
        account,
        amount,
        provider,
        receipt,
        payer_ref,
        paid_ms,
        note,
        ..Payment::default()
    };
    pay(context, Control::Pay(Box::new(payment))).await
}

/// A correction by a person, up or down, once per reference.
pub(super) async fn adjust(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?.id;
    let amount = p
        .money("amount")?
        .filter(|a| a.0 != 0)
        .ok_or_else(|| Fault::validation("amount", "amount is required and not zero"))?;
    let receipt = receipt_of(&p.need("reference")?)?;
    let note = note(&mut p, "note")?;
    if note.is_empty() {
        return Err(Fault::validation(
            "note",
            "note is required: why the balance is corrected",
        ));
    }
    p.done()?;
    let payment = Payment {
        account,
        amount,
        provider: ADJUST.into(),
        receipt,
        note,
        ..Payment::default()
    };
    pay(context, Control::Pay(Box::new(payment))).await
}

pub(super) async fn assign(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?.id;
    let provider = provider_of(&mut p)?;
    let receipt = receipt_of(&p.need("receipt")?)?;
    p.done()?;
    let op = Control::Assign {
        provider,
        receipt,
        account,
    };
    pay(context, op).await
}

pub(super) async fn reverse(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let provider = provider_of(&mut p)?;
    let receipt = receipt_of(&p.need("receipt")?)?;
    p.done()?;
    pay(context, Control::Reverse { provider, receipt }).await
}

/// Payments that nobody has claimed yet.
pub(super) async fn suspense(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let limit = p.number("limit", 1, ROWS_MAX)?.unwrap_or(100) as usize;
    p.done()?;
    let rows = read(context, move |r| r.payments(None, true, limit)).await?;
    let items: Vec<Value> = rows.iter().map(|row| describe(context, row)).collect();
    Ok(json!({ "items": items, "cursor": null }))
}

/// Payments on record, newest first.
pub(super) async fn payments(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let provider = p.text("provider")?.map(|t| t.to_ascii_lowercase());
    let limit = p.number("limit", 1, ROWS_MAX)?.unwrap_or(100) as usize;
    p.done()?;
    let rows = read(context, move |r| r.payments(provider.as_deref(), false, limit)).await?;
    let items: Vec<Value> = rows.iter().map(|row| describe(context, row)).collect();
    Ok(json!({ "items": items, "cursor": null }))
}

fn describe_payout(context: &Context, p: &Payout) -> Value {
    json!({
        "reference": p.reference,
        "account": name_of(context, p.account),
        "amount": p.amount.to_string(),
        "provider": p.provider,
        "receipt": p.receipt,
        "state": p.state.word(),
        "at": time(p.at_ms),
        "settled_at": if p.settled_ms == 0 { Value::Null } else { time(p.settled_ms) },
    })
}

async fn send_payout(context: &Context, op: Control) -> Result<Value, Fault> {
    let ControlReply::Payout(payout, duplicate) = context.control(op).await? else {
        return Err(Fault::unavailable("unexpected answer of the engine"));
    };
    let mut shown = describe_payout(context, &payout);
    if let Some(object) = shown.as_object_mut() {
        object.insert("duplicate".into(), json!(duplicate));
        let accounts = context.gateway.accounts();
        if let Some(account) = accounts.get(payout.account) {
            let balance = account.with_wallet(|w| w.balance());
            object.insert("balance".into(), json!(balance.to_string()));
            object.insert("currency".into(), json!(currency(account)));
        }
    }
    Ok(shown)
}

/// Sets unused money of a payment aside for its payer.
pub(super) async fn payout(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?.id;
    let provider = provider_of(&mut p)?;
    let receipt = receipt_of(&p.need("receipt")?)?;
    let amount = positive(&mut p)?;
    let reference = word("reference", &p.need("reference")?)?;
    p.done()?;
    let payout = Payout {
        reference,
        provider,
        receipt,
        account,
        amount,
        ..Payout::default()
    };
    send_payout(context, Control::Payout(Box::new(payout))).await
}

/// What became of a payout.
pub(super) async fn settle(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let reference = word("reference", &p.need("reference")?)?;
    let words = ["paid", "failed", "unknown"];
    let state = p
        .choice("outcome", &words, |w| {
            PayoutState::parse(w).filter(|s| *s != PayoutState::Pending)
        })?
        .ok_or_else(|| Fault::validation("outcome", "outcome is required: paid, failed or unknown"))?;
    p.done()?;
    send_payout(context, Control::SettlePayout { reference, state }).await
}

pub(super) async fn payouts(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let open = p.flag("open")?.unwrap_or(false);
    let limit = p.number("limit", 1, ROWS_MAX)?.unwrap_or(100) as usize;
    p.done()?;
    let rows = read(context, move |r| r.payouts(open, limit)).await?;
    let items: Vec<Value> = rows.iter().map(|row| describe_payout(context, row)).collect();
    Ok(json!({ "items": items, "cursor": null }))
}
