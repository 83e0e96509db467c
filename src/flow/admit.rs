//! Admission: every check of a submit, in one order, on memory only.

use std::sync::atomic::Ordering;

use super::account::AccountState;
use super::gateway::Gateway;
use super::ingress::lock;
use super::ingress::{Admitted, Ticket};
use super::policy::Policy;
use super::quote::quote_as;
use super::rules::{Judged, capped, judge};
use crate::domain::account::Account;
use crate::domain::message::{Flags, Message, Parts};
use crate::domain::outcome::Wants;
use crate::domain::quota::Period;
use crate::domain::reject::Reject;
use crate::domain::route::RouteKey;

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
    /// schedule_delivery_time as an instant, ms since the epoch; `None`: at once; `Err` if it is unreadable.
    pub due_ms: Result<Option<u64>, ()>,
    /// validity_period as a length from now, or an instant; `Err` if it is over or unreadable.
    pub expires_ms: Result<Option<u64>, ()>,
}

impl std::fmt::Debug for Submission<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Submission({:?})", self.ticket)
    }
}

/// Checks a submit and sets its price aside, in this order: account → what the gateway can take → fields → destination →
/// sender, suppression, content, hours (see [`judge`]) → segments → rate → route → price → quota → frequency → hold.
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
    let due_ms = schedule(policy, submission, now_ms)?;
    let expires_ms = expiry(policy, submission, due_ms, now_ms)?;
    let parts = &submission.parts;
    let dest = policy
        .destination(parts.dest, submission.national)
        .map_err(|_| Reject::Destination)?;
    let spec = account.spec();
    let mut parts = Parts {
        dest: dest.digits(),
        // The number is international now, whatever the customer called it (TON 1, NPI 1; SMPP 3.4 §5.2.5).
        flags: Flags {
            dest_ton: 1,
            dest_npi: 1,
            ..parts.flags
        },
        ..*parts
    };
    let judged = judged(
        gateway,
        policy,
        account,
        &spec,
        &parts,
        (now_ms, due_ms.max(now_ms)),
    )?;
    let judged = judged.as_deref();
    let class = judged.map_or(0, |j| j.class);
    let segments = match judged.and_then(|j| j.text.as_ref()) {
        Some(new) => {
            (parts.text, parts.tlvs) = (&new.text, &new.tlvs);
            new.segments
        }
        None => submission.segments.ok_or(Reject::TooLong)?,
    };
    if let Some(source) = judged.and_then(|j| j.source.as_deref()) {
        parts.source = source;
        (parts.flags.source_ton, parts.flags.source_npi) = types_of(source);
    }
    if !account.within_rate(segments, now_ms) {
        return Err(Reject::Rate);
    }
    let key = RouteKey {
        class: policy.class_name(class),
        ..policy.route_key(&spec.name, parts.source, dest.digits(), now_ms)
    };
    let route = policy.routes.find(&key).ok_or(Reject::NoRoute)?;
    if !gateway.authorised(policy, route, &spec) {
        return Err(Reject::NoRoute);
    }
    let quote = quote_as(policy, account, &spec, (class, parts.dest), segments, now_ms)?;
    let period = within_quota(policy, account, &spec, segments, now_ms)?;
    let back = |reason| {
        if let Some(period) = period {
            account.with_quota(|q| q.give_back(period, segments));
        }
        reason
    };
    let capped = within_cap(gateway, policy, account, judged, parts.dest, now_ms).map_err(back)?;
    let hold = account.with_wallet(|w| w.hold(quote.price)).map_err(|_| {
        if capped {
            give_cap_back(gateway, policy, account, judged, parts.dest, now_ms);
        }
        back(Reject::Balance)
    })?;
    let linked = gateway.live.answer(account.id, &parts, now_ms);
    if let Some(tlvs) = &linked {
        parts.tlvs = tlvs;
    }
    let asked = parts.flags.priority & Flags::PRIORITY;
    let level = policy.urgency.level(&spec.name, route, class, asked);
    let not_before_ms = judged.map_or(0, |j| j.not_before_ms).max(due_ms);
    let scheduled = due_ms > 0 && not_before_ms == due_ms;
    parts.flags = parts.flags.with_level(level).with_schedule(scheduled);
    let message = Message::new(&parts);
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
        not_before_ms,
        quota: period,
        wants: Wants::from_bits(parts.flags.registered_delivery),
        segments,
        route,
        message,
    })
}

/// What the rules make of a message; nothing where there are none, and then it costs next to nothing.
fn judged(
    gateway: &Gateway,
    policy: &Policy,
    account: &AccountState,
    spec: &Account,
    parts: &Parts<'_>,
    now_ms: (u64, u64),
) -> Result<Option<Box<Judged>>, Reject> {
    if policy.rules.any() || gateway.live.any() {
        return judge(gateway, policy, account, spec, parts, now_ms).map(|j| Some(Box::new(j)));
    }
    if spec.may_send_as(parts.source) {
        Ok(None)
    } else {
        Err(Reject::Source)
    }
}

/// TON and NPI of an address that has taken another's place: alphanumeric (5, 0), international (1, 1) or a short code (3, 0;
/// SMPP 3.4 §5.2.5).
#[must_use]
pub fn types_of(source: &[u8]) -> (u8, u8) {
    let digits = source.strip_prefix(b"+").unwrap_or(source);
    if digits.is_empty() {
        (0, 0)
    } else if !digits.iter().all(u8::is_ascii_digit) {
        (5, 0)
    } else if digits.len() < 7 {
        (3, 0)
    } else {
        (1, 1)
    }
}

/// Counts a message against the frequency cap of its class; whether there is one.
fn within_cap(
    gateway: &Gateway,
    policy: &Policy,
    account: &AccountState,
    judged: Option<&Judged>,
    dest: &[u8],
    now_ms: u64,
) -> Result<bool, Reject> {
    let Some(rule) = judged.and_then(|j| j.rule(&policy.rules)) else {
        return Ok(false);
    };
    let whom = capped(account.id, rule, dest);
    let mut frequency = lock(&gateway.live.frequency);
    if frequency.take(&whom, rule.cap, rule.cap_span_s, (now_ms / 1_000) as u32) {
        Ok(true)
    } else {
        Err(Reject::Frequency)
    }
}

fn give_cap_back(
    gateway: &Gateway,
    policy: &Policy,
    account: &AccountState,
    judged: Option<&Judged>,
    dest: &[u8],
    now_ms: u64,
) {
    if let Some(rule) = judged.and_then(|j| j.rule(&policy.rules)) {
        let whom = capped(account.id, rule, dest);
        lock(&gateway.live.frequency).give_back(&whom, (now_ms / 1_000) as u32);
    }
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

/// When the customer wants it sent; 0: at once. A time that has just passed is now: clocks differ, and messages are on their way
/// for a moment.
fn schedule(policy: &Policy, submission: &Submission<'_>, now_ms: u64) -> Result<u64, Reject> {
    match submission.due_ms {
        Err(()) => Err(Reject::Schedule),
        Ok(None) => Ok(0),
        Ok(Some(at)) if at + JUST_PASSED_MS < now_ms => Err(Reject::Schedule),
        Ok(Some(at)) if at > now_ms + policy.schedule_max_ms => Err(Reject::Schedule),
        Ok(Some(at)) if at <= now_ms => Ok(0),
        Ok(Some(at)) => Ok(at),
    }
}

/// A schedule_delivery_time that has passed for no longer than this is now, ms.
const JUST_PASSED_MS: u64 = 60_000;

/// Validity counts from the submission; where none is given, from when the message may go. The longest is that of a message that
/// goes at that time.
fn expiry(policy: &Policy, submission: &Submission<'_>, due_ms: u64, now_ms: u64) -> Result<u64, Reject> {
    let longest = due_ms.max(now_ms) + policy.validity_max_ms;
    match submission.expires_ms {
        Err(()) => Err(Reject::Validity),
        Ok(None) => Ok((due_ms.max(now_ms) + policy.validity_default_ms).min(longest)),
        Ok(Some(at)) if at <= now_ms => Err(Reject::Validity),
        Ok(Some(at)) => Ok(at.min(longest)),
    }
}
