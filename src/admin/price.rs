//! tariff.* and price.*: the price lists of the config, and prices that an account has of its own.

use serde_json::{Value, json};

use super::params::Params;
use super::{Context, Fault, time};
use crate::domain::outcome::ChargeOn;
use crate::domain::tariff::PriceRule;
use crate::flow::{AccountState, Control};
use crate::money::Money;

/// Prices one account may have.
const PRICES_MAX: usize = 10_000;
/// A segment dearer than this is a slip of the finger.
const PRICE_MOST: Money = Money(1_000_000 * 1_000_000);

/// The tariffs of the config.
pub(super) fn tariffs(context: &Context, params: Value) -> Result<Value, Fault> {
    Params::new(params)?.done()?;
    let policy = context.gateway.policy.load();
    let mut tariffs: Vec<_> = policy.tariffs.values().collect();
    tariffs.sort_by(|a, b| a.name.cmp(&b.name));
    let items: Vec<Value> = tariffs
        .into_iter()
        .map(|t| {
            json!({
                "name": t.name,
                "currency": t.currency,
                "charge_on": match t.charge_on {
                    ChargeOn::Accepted => "accepted",
                    ChargeOn::Submitted => "submitted",
                    ChargeOn::Delivered => "delivered",
                },
                "tax_percent": Money(i64::from(t.terms.tax_bp) * 10_000).to_string(),
                "tax_mode": if t.tax_exclusive { "exclusive" } else { "inclusive" },
                "version": t.version,
                "default": policy.default_tariff.as_ref().is_some_and(|d| d.name == t.name),
            })
        })
        .collect();
    Ok(json!({ "items": items, "cursor": null }))
}

fn describe(rule: &PriceRule) -> Value {
    json!({
        "prefix": rule.prefix,
        "operator": rule.operator,
        "class": rule.class,
        "effective_from": if rule.from_ms == 0 { Value::Null } else { time(rule.from_ms) },
        "price": rule.price.to_string(),
    })
}

fn all(account: &AccountState) -> Value {
    let rules = account.price_rules();
    json!({
        "account": account.spec().name,
        "currency": account.spec().currency,
        "items": rules.iter().map(describe).collect::<Vec<_>>(),
        "cursor": null,
    })
}

/// The prices of an account that stand before those of its tariff.
pub(super) fn list(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    p.done()?;
    Ok(all(&account))
}

fn key(context: &Context, p: &mut Params) -> Result<PriceRule, Fault> {
    let rule = PriceRule {
        prefix: p.text("prefix")?.unwrap_or_default(),
        operator: p.text("operator")?.unwrap_or_default(),
        class: p.text("class")?.unwrap_or_default(),
        from_ms: p.time("effective_from")?.unwrap_or(0),
        price: Money::ZERO,
    };
    if rule.prefix.len() > 20 || !rule.prefix.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Fault::validation(
            "prefix",
            "prefix must be up to 20 digits, without +",
        ));
    }
    let policy = context.gateway.policy.load();
    if !rule.operator.is_empty() && !policy.plan.operators().contains(&rule.operator) {
        return Err(Fault::validation(
            "operator",
            "no operator of this name in [numbering] plan",
        ));
    }
    if !rule.class.is_empty() && !policy.classes.contains(&rule.class) {
        return Err(Fault::validation("class", "no [[sender]] is of this class"));
    }
    Ok(rule)
}

fn same(a: &PriceRule, b: &PriceRule) -> bool {
    (&a.prefix, &a.operator, &a.class, a.from_ms) == (&b.prefix, &b.operator, &b.class, b.from_ms)
}

/// Sets a price; in force for what is submitted from then on.
pub(super) async fn set(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    let mut rule = key(context, &mut p)?;
    rule.price = p
        .money("price")?
        .ok_or_else(|| Fault::validation("price", "price is required"))?;
    p.done()?;
    if !(0..=PRICE_MOST.0).contains(&rule.price.0) {
        return Err(Fault::new("E_AMOUNT", format!("price must be from 0 to {PRICE_MOST}")).field("price"));
    }
    let change = move |rules: &mut Vec<PriceRule>| {
        rules.retain(|r| !same(r, &rule));
        if rules.len() >= PRICES_MAX {
            return Err(crate::flow::ControlError::State(
                "an account may have 10000 prices",
            ));
        }
        rules.push(rule);
        Ok(())
    };
    context
        .control(Control::ChangePrices(account.id, Box::new(change)))
        .await?;
    Ok(all(&account))
}

/// Takes a price away; the tariff's is in force again.
pub(super) async fn remove(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    let rule = key(context, &mut p)?;
    p.done()?;
    let change = move |rules: &mut Vec<PriceRule>| {
        let before = rules.len();
        rules.retain(|r| !same(r, &rule));
        if rules.len() == before {
            return Err(crate::flow::ControlError::NoSuch("price"));
        }
        Ok(())
    };
    context
        .control(Control::ChangePrices(account.id, Box::new(change)))
        .await?;
    Ok(all(&account))
}
