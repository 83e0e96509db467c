//! What a message would cost, and by which rules.

use std::sync::Arc;

use super::account::AccountState;
use super::policy::Policy;
use crate::domain::account::Account;
use crate::domain::reject::Reject;
use crate::domain::tariff::{PriceKey, Tariff};
use crate::money::Money;

/// A price and where it comes from.
#[derive(Clone, Debug)]
pub struct Quote {
    /// Of all segments, tax included.
    pub price: Money,
    /// Stamped on the message.
    pub version: u32,
    /// Its tariff.
    pub tariff: Arc<Tariff>,
    /// Index of the sender's class in [`Policy::classes`].
    pub class: u16,
}

/// Prices a message from `source` of the class that the config gives it. See [`quote_as`].
///
/// # Errors
/// As [`quote_as`].
pub fn quote(
    policy: &Policy,
    account: &AccountState,
    spec: &Account,
    (source, dest): (&[u8], &[u8]),
    segments: u8,
    now_ms: u64,
) -> Result<Quote, Reject> {
    let class = policy.class_of(source);
    quote_as(policy, account, spec, (class, dest), segments, now_ms)
}

/// Prices a message from a sender of `class` to `dest` (E.164 digits). Reads memory only.
///
/// # Errors
/// [`Reject::NoPrice`]: no tariff, none in the account's currency, or no price in force for this message.
pub fn quote_as(
    policy: &Policy,
    account: &AccountState,
    spec: &Account,
    (class, dest): (u16, &[u8]),
    segments: u8,
    now_ms: u64,
) -> Result<Quote, Reject> {
    let tariff = policy.tariff(&spec.tariff).ok_or(Reject::NoPrice)?;
    // An account that was read before it had a currency has that of its tariff.
    if !spec.currency.is_empty() && spec.currency != tariff.currency {
        return Err(Reject::NoPrice);
    }
    let key = PriceKey {
        number: dest,
        operator: policy.operator(dest),
        class: policy.class_name(class),
        at_ms: now_ms,
    };
    let own = account.prices();
    let price = tariff
        .charge(own.as_deref(), &key, segments)
        .ok_or(Reject::NoPrice)?;
    Ok(Quote {
        price,
        version: own
            .as_deref()
            .map_or(tariff.version, |own| tariff.version_with(own)),
        tariff: Arc::clone(tariff),
        class,
    })
}
