//! A subscriber writes STOP or START: the numbers that may not be sent to change in the commit that takes the message on record,
//! before it is answered, and one free message says so.

use std::collections::HashMap;
use std::sync::Arc;

use super::Engine;
use crate::domain::content::decoded;
use crate::domain::message::{Flags, Message, Parts, payload_tlv, tlv};
use crate::domain::optout::{Wish, folded};
use crate::domain::outcome::{ChargeOn, Wants};
use crate::domain::suppression::{Scope, ScopeRef, Source, Subject, Suppression};
use crate::flow::Ask;
use crate::flow::ingress::Mailbox;
use crate::flow::policy::Policy;
use crate::flow::rules::{LinkId, Trip, words_of};
use crate::ids::{AccountId, UpstreamId};
use crate::metrics;
use crate::money::Money;
use crate::store::{Accepted, Store};
use crate::text::{self, Charset};

/// Numbers that were answered lately; beyond, the rest is not answered, so that nobody can make us send without end.
const ANSWERED_MAX: usize = 100_000;
/// How long an answer may wait for its upstream, ms: an hour later it only puzzles.
const ANSWER_VALID_MS: u64 = 3_600_000;
/// Inbound messages that no rule claims and that are kept; beyond, the oldest goes.
const UNCLAIMED_MAX: usize = 100_000;
/// data_coding of UCS-2.
const UCS2: u8 = 8;
/// Longest text in short_message.
const SHORT_MAX: usize = 254;
/// Shortest subscriber's number: what is shorter is a short code, which would answer in turn.
const SUBSCRIBER_MIN: usize = 7;

/// When numbers were answered last.
#[derive(Debug, Default)]
pub(super) struct Answered(HashMap<(Subject, AccountId), u64>);

impl Answered {
    /// Whether a number may be answered now; notes that it is.
    fn may(&mut self, whom: (Subject, AccountId), every_ms: u64, now: u64) -> bool {
        if self.0.len() >= ANSWERED_MAX {
            self.0.retain(|_, at| *at + every_ms > now);
        }
        if self.0.len() >= ANSWERED_MAX || self.0.get(&whom).is_some_and(|at| *at + every_ms > now) {
            return false;
        }
        self.0.insert(whom, now);
        true
    }
}

impl<S: Store> Engine<S> {
    /// Does what the text of an inbound message asks for, if it asks for anything. The accounts concerned, for who shall see it.
    pub(super) fn opt_out(&mut self, message: &Message, now: u64) -> Vec<AccountId> {
        let policy = self.gateway.policy.load_full();
        let parts = message.parts();
        let wish = decoded(parts.flags.data_coding, words_of(&parts))
            .and_then(|text| policy.rules.opt_out.words.read(&text));
        let Some(wish) = wish else { return Vec::new() };
        let number = policy.numbering.complete(parts.source, false);
        let Ok(number) = number.as_ref().map(|n| n.digits()) else {
            return Vec::new();
        };
        let Ok(subject) = self.gateway.live.subject(number) else {
            tracing::error!(
                "a subscriber wants to opt out and there is no key of numbers; set [privacy] number_key"
            );
            return Vec::new();
        };
        let accounts = self.accounts_at(parts.dest);
        let (stop, name) = match &wish {
            Wish::Stop(name) => (true, name.as_deref()),
            Wish::Start(name) => (false, name.as_deref()),
        };
        // Behind the word may stand the keyword of one of several at this address, or the name of a sender.
        let of_word = name.and_then(|n| {
            let owner = |(_, words): &&(AccountId, Vec<String>)| words.contains(&folded(n));
            accounts.iter().find(owner).map(|(id, _)| *id)
        });
        let mut concerned = Vec::new();
        for (account, _) in &accounts {
            let scope = match (of_word, name) {
                (Some(one), _) if one != *account => continue,
                (Some(_), _) | (None, None) => Scope::Account(*account),
                (None, Some(name)) => Scope::Sender(*account, name.to_ascii_lowercase().into()),
            };
            concerned.push(*account);
            if stop {
                self.stopped(subject, scope, now);
            } else {
                self.started(subject, &scope);
            }
        }
        if let Some(first) = concerned.first() {
            metrics::inbound(if stop { "stop" } else { "start" });
            let answer = if stop {
                &policy.rules.opt_out.stopped
            } else {
                &policy.rules.opt_out.started
            };
            self.confirm_wish(&policy, *first, subject, (parts.dest, number), answer, now);
        }
        concerned
    }

    fn stopped(&mut self, subject: Subject, scope: Scope, now: u64) {
        // What stops more stays: an objection to all use is not made an opt-out by a word.
        if self.gateway.live.has(&subject, &ScopeRef::from(&scope)) == Some(true) {
            return;
        }
        let entry = Suppression {
            subject,
            scope,
            source: Source::Inbound,
            transactional: false,
            reason: "stop".into(),
            at_ms: now,
            until_ms: 0,
        };
        // There is a key: it has just named the subject.
        let _there_is_a_key = self.suppress(entry);
    }

    /// Takes back what a word can take back: not an objection to all use. Without a name, the senders of the account too.
    fn started(&mut self, subject: Subject, scope: &Scope) {
        let mut scopes = vec![scope.clone()];
        if let Scope::Account(id) = scope {
            let accounts = self.gateway.accounts();
            let spec = accounts.get(*id).map(|a| a.spec());
            let registry = self.gateway.live.registry();
            let own = registry
                .senders()
                .iter()
                .filter(|s| s.account.is_empty() || spec.as_ref().is_some_and(|a| a.name == s.account))
                .map(|s| s.id.as_str());
            let listed = spec.iter().flat_map(|a| a.senders.iter().map(String::as_str));
            for sender in own.chain(listed) {
                scopes.push(Scope::Sender(*id, sender.to_ascii_lowercase().into()));
            }
        }
        for scope in scopes {
            let known = self.gateway.live.has(&subject, &ScopeRef::from(&scope));
            let new = |e: &crate::domain::suppression::Suppression| e.subject == subject && e.scope == scope;
            if known == Some(false) || self.batch.rules.suppressed.iter().any(new) {
                self.unsuppress(subject, scope);
            }
        }
    }

    /// One free message to the subscriber, from the address that was written to.
    fn confirm_wish(
        &mut self,
        policy: &Arc<Policy>,
        account: AccountId,
        subject: Subject,
        (from, to): (&[u8], &[u8]),
        answer: &str,
        now: u64,
    ) {
        let every = policy.rules.opt_out.answer_every_ms;
        let subscriber = to.len() >= SUBSCRIBER_MIN && !policy.rules.own.contains(to);
        if answer.is_empty() || !subscriber || !self.answered.may((subject, account), every, now) {
            return;
        }
        let accounts = self.gateway.accounts();
        let Some(owner) = accounts.get(account) else {
            return;
        };
        let spec = owner.spec();
        let Some(route) = policy.routes.find(&policy.route_key(&spec.name, from, to, now)) else {
            return;
        };
        let message = answer_message(from, to, answer);
        let content = text::Content {
            data_coding: message.flags().data_coding,
            udhi: false,
            body: words_of(&message.parts()),
            sar_total: None,
        };
        let lane = self
            .gateway
            .pick(
                policy,
                route,
                &Ask {
                    account: &spec,
                    number: to,
                    turn: self.turn,
                },
            )
            .map_or(UpstreamId::NONE, |u| u.id);
        let row = Accepted {
            key: self.next_key(),
            account,
            at_ms: now,
            expires_ms: now + ANSWER_VALID_MS,
            price: Money::ZERO,
            tariff: 0,
            charge_on: ChargeOn::Accepted,
            wants: Wants::from_bits(0),
            segments: text::count(&content).unwrap_or(1),
            line: self.line_of(policy, route, 0),
            message,
        };
        self.gateway.awaits_commit(row.message.record().len());
        self.book.accepted(&row, lane);
        self.watch(row.key, row.expires_ms, now);
        self.pending.lanes.push(lane);
        self.batch.accepted.push(row);
        let nobody = Arc::new(Mailbox::new(Box::new(Nobody)));
        self.pending.submits.push((Arc::clone(owner), nobody, vec![None]));
    }

    /// What an inbound message brought along for its answer (a linkId) is kept for the next message the other way.
    pub(super) fn note_link(&self, upstream: UpstreamId, message: &Message, now: u64) {
        let policy = self.gateway.policy.load();
        let Some((_, tag)) = policy.rules.link_tags.iter().find(|(u, _)| *u == upstream) else {
            return;
        };
        let parts = message.parts();
        let Some(value) = tlv(parts.tlvs, *tag) else {
            return;
        };
        let Some((owner, _)) = self.owner_of(parts.dest, words_of(&parts), parts.flags.data_coding) else {
            return;
        };
        if let Ok(number) = policy.numbering.complete(parts.source, false) {
            let id = LinkId {
                tag: *tag,
                value: value.into(),
                at_ms: now,
            };
            let dest = parts.dest.strip_prefix(b"+").unwrap_or(parts.dest);
            self.gateway.live.link(owner, number.digits(), dest, id);
        }
    }

    /// Whether two numbers of ours answer each other: then this one's message is kept from its customer no more than others, but
    /// the next answer is refused (see `judge`).
    pub(super) fn note_bounce(&self, message: &Message, owner: Option<AccountId>, now: u64) {
        let policy = self.gateway.policy.load();
        let parts = message.parts();
        if policy.rules.own.is_empty() || !policy.rules.own.contains(parts.source) {
            return;
        }
        if self
            .gateway
            .live
            .bounces(parts.source, parts.dest, words_of(&parts), now)
        {
            self.gateway.live.trip(Trip {
                account: owner.unwrap_or(AccountId::NONE),
                rule: "loop".into(),
                kind: "loop",
                count: u64::from(crate::domain::frequency::LOOP_MAX),
                span_s: crate::domain::frequency::LOOP_SPAN_S,
            });
        }
    }

    /// A message that no rule claims is kept; of too many the oldest goes.
    pub(super) fn keep_unclaimed(&mut self, pos: crate::ids::Pos) {
        self.unclaimed.push_back(pos);
        while self.unclaimed.len() > UNCLAIMED_MAX
            && let Some(old) = self.unclaimed.pop_front()
        {
            self.gateway.metrics.outbox_expired.increment(1);
            self.batch.outbox_del.push((AccountId::NONE, old));
        }
        let n = self.unclaimed.len() as u64;
        self.gateway
            .live
            .unclaimed
            .store(n, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Answers are nobody's: no session waits for them.
struct Nobody;

impl crate::flow::ingress::Signal for Nobody {
    fn signal(&self) {}
}

fn answer_message(from: &[u8], to: &[u8], answer: &str) -> Message {
    let (data_coding, octets) = match Charset::Gsm7.encode(answer) {
        Some(octets) => (0, octets),
        None => (UCS2, Charset::Ucs2.encode(answer).unwrap_or_default()),
    };
    let long = octets.len() > SHORT_MAX;
    let payload = payload_tlv(&octets);
    let (source_ton, source_npi) = crate::flow::admit::types_of(from);
    Message::new(&Parts {
        flags: Flags {
            source_ton,
            source_npi,
            dest_ton: 1,
            dest_npi: 1,
            data_coding,
            ..Flags::default()
        },
        source: from.strip_prefix(b"+").unwrap_or(from),
        dest: to,
        text: if long { &[] } else { &octets },
        tlvs: if long { &payload } else { &[] },
        ..Parts::default()
    })
}
