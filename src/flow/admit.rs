//! Admission: every check of a submit, in one order, on memory only.

use std::sync::atomic::Ordering;

use super::account::AccountState;
use super::gateway::Gateway;
use super::ingress::{Admitted, Ticket};
use super::policy::Policy;
use super::quote::quote;
use crate::domain::account::Account;
use crate::domain::message::{Flags, Message, Parts};
use crate::domain::outcome::Wants;
use crate::domain::quota::Period;
use crate::domain::reject::Reject;

/// A submit as the protocol edge hands it over: fields checked for form, nothing decided.
#[derive(Clone, Copy)]
pub struct Submission<'a> {
    /// Comes back with the answer; `None` for the second and later messages of a submit_multi.
    pub ticket: Option<Ticket>,
    /// Addresses as written, text, optional parameters.
    pub parts: Parts<'a>,
    /// Destination is marked as national.
    pub national: bool,
    /// Segments as counted, or `None` if there are too many for one message.
    pub segments: Option<u8>,
    /// validity_period as a length from now, or an instant; `Err` if it is over or unreadable.
    pub expires_ms: Result<Option<u64>, ()>,
}

impl std::fmt::Debug for Submission<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Submission({:?})", self.ticket)
    }
}

/// Checks a submit and sets its price aside, in this order: account → what the gateway can take → fields → destination →
/// sender → segments → rate → route → price → quota → hold.
///
/// # Errors
/// The first [`Reject`] that applies; nothing is held then.
pub fn admit(
    gateway: &Gateway,
    policy: &Policy,
    account: &AccountState,
    submission: &Submission<'_>,
    now_ms: u64,
) -> Result<Admitted, Reject> {
    if !account.active() {
        return Err(Reject::AccountInactive);
    }
    if let Some(reason) = gateway.closed_for_submits() {
        return Err(reason);
    }
    let expires_ms = expiry(policy, submission, now_ms)?;
    let parts = &submission.parts;
    let dest = policy
        .destination(parts.dest, submission.national)
        .map_err(|_| Reject::Destination)?;
    let spec = account.spec();
    if !spec.may_send_as(parts.source) {
        return Err(Reject::Source);
    }
    let segments = submission.segments.ok_or(Reject::TooLong)?;
    if !account.within_rate(segments, now_ms) {
        return Err(Reject::Rate);
    }
    let key = policy.route_key(&spec.name, parts.source, dest.digits(), now_ms);
    let route = policy.routes.find(&key).ok_or(Reject::NoRoute)?;
    if !gateway.authorised(policy, route, &spec) {
        return Err(Reject::NoRoute);
    }
    let addresses = (parts.source, dest.digits());
    let quote = quote(policy, account, &spec, addresses, segments, now_ms)?;
    let period = within_quota(policy, account, &spec, segments, now_ms)?;
    let hold = account.with_wallet(|w| w.hold(quote.price)).map_err(|_| {
        if let Some(period) = period {
            account.with_quota(|q| q.give_back(period, segments));
        }
        Reject::Balance
    })?;
    let message = Message::new(&Parts {
        dest: dest.digits(),
        // The number is international now, whatever the customer called it (TON 1, NPI 1; SMPP 3.4 §5.2.5).
        flags: Flags {
            dest_ton: 1,
            dest_npi: 1,
            ..parts.flags
        },
        ..*parts
    });
    gateway.in_commit.fetch_add(1, Ordering::Relaxed);
    gateway
        .in_commit_octets
        .fetch_add(message.record().len() as u64, Ordering::Relaxed);
    Ok(Admitted {
        ticket: submission.ticket,
        at_ms: now_ms,
        expires_ms,
        hold,
        tariff: quote.version,
        charge_on: quote.tariff.charge_on,
        class: quote.class,
        quota: period,
        wants: Wants::from_bits(parts.flags.registered_delivery),
        segments,
        route,
        message,
    })
}

/// Counts the segments of an account that has a quota; the period they were counted in.
fn within_quota(
    policy: &Policy,
    account: &AccountState,
    spec: &Account,
    segments: u8,
    now_ms: u64,
) -> Result<Option<Period>, Reject> {
    if spec.quota_day == 0 && spec.quota_month == 0 {
        return Ok(None);
    }
    let period = Period::of(now_ms, policy.day_offset_min);
    let taken = account.with_quota(|q| q.take(period, segments, spec.quota_day, spec.quota_month));
    if taken {
        Ok(Some(period))
    } else {
        Err(Reject::Quota)
    }
}

fn expiry(policy: &Policy, submission: &Submission<'_>, now_ms: u64) -> Result<u64, Reject> {
    let longest = now_ms + policy.validity_max_ms;
    match submission.expires_ms {
        Err(()) => Err(Reject::Validity),
        Ok(None) => Ok((now_ms + policy.validity_default_ms).min(longest)),
        Ok(Some(at)) if at <= now_ms => Err(Reject::Validity),
        Ok(Some(at)) => Ok(at.min(longest)),
    }
}
