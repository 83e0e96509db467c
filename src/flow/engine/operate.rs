//! query_sm, cancel_sm and replace_sm: what customers ask of messages that are on record.
//!
//! Only what has not been sent can be cancelled or replaced, and only what no bind has in hand. What is over is looked up
//! beside the engine, by [`crate::flow::Lookups`].

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use super::Engine;
use super::book::{Effect, Open, Phase};
use super::tally::Why;
use crate::domain::account::Account;
use crate::domain::address::same_number;
use crate::domain::message::{Flags, Message, Parts, Piece, payload_tlv};
use crate::domain::outcome::{ChargeOn, Final, Wants};
use crate::domain::reject::Reject;
use crate::flow::account::AccountState;
use crate::flow::ingress::{Asked, Mailbox, Operation, Outcome, Ticket, ToCustomer};
use crate::flow::lane::Outgoing;
use crate::flow::lookup::{Job, Question};
use crate::flow::quote::quote_as;
use crate::flow::rules::judge;
use crate::flow::rules::opens;
use crate::ids::{MessageKey, UpstreamId};
use crate::money::Money;
use crate::store::{Accepted, Mark, MarkKind, Store, StoreError};
use crate::text::{self, Charset};

/// data_coding of UCS-2.
const UCS2: u8 = 0x08;
/// Longest text in short_message.
const SHORT_MAX: usize = 254;
/// Waiting messages looked at in one turn for a cancellation of many.
const CANCEL_SLICE: usize = 2_000;
/// Cancellations of many at a time.
const CANCELS_MAX: usize = 16;
/// SMPP 3.4 §5.2.28.
const ENROUTE: u8 = 1;

/// A cancellation of everything that waits for a destination.
pub(super) struct CancelJob {
    account: Arc<AccountState>,
    source: Box<[u8]>,
    dest: Box<[u8]>,
    service_type: Box<[u8]>,
    /// It has not begun: what came before it in its turn is in the lanes only from the next on.
    fresh: bool,
    keys: VecDeque<MessageKey>,
    cancelled: u64,
    ticket: Ticket,
    reply: Arc<Mailbox<ToCustomer>>,
}

/// The text and times that replace_sm brings.
#[derive(Debug)]
pub struct Replacement {
    /// Until when it may be sent, if that is to change.
    pub expires_ms: Option<u64>,
    /// Before when it is not to be sent, if that is to change.
    pub due_ms: Option<u64>,
    /// registered_delivery.
    pub registered_delivery: u8,
    /// sm_default_msg_id.
    pub default_msg_id: u8,
    /// The new text.
    pub text: Box<[u8]>,
}

impl<S: Store> Engine<S> {
    pub(super) fn operate(&mut self, asked: Asked, now: u64) -> Result<(), StoreError> {
        let Asked {
            account,
            operation,
            ticket,
            reply,
        } = asked;
        match operation {
            Operation::Query { key, source } => self.query(&account, key, source, ticket, reply),
            Operation::Cancel { key, source } => self.cancel(&account, key, source, ticket, reply, now),
            Operation::CancelAll {
                source,
                dest,
                service_type,
            } => self.cancel_all(CancelJob {
                account,
                source,
                dest,
                service_type,
                fresh: true,
                keys: VecDeque::new(),
                cancelled: 0,
                ticket,
                reply,
            }),
            Operation::Replace {
                key,
                source,
                replacement,
            } => {
                let outcome = self.replace(&account, key, &source, *replacement, now)?;
                match outcome {
                    Some(outcome) => self.answer(reply, ticket, outcome),
                    None => self.look_up(&account, key, source, ticket, reply, Question::Replace),
                }
            }
        }
        Ok(())
    }

    /// Answers once what it stands on is on record.
    fn answer(&mut self, reply: Arc<Mailbox<ToCustomer>>, ticket: Ticket, outcome: Outcome) {
        self.pending
            .outcomes
            .push((reply, ToCustomer::Outcome(ticket, outcome)));
    }

    fn look_up(
        &mut self,
        account: &AccountState,
        key: MessageKey,
        source: Box<[u8]>,
        ticket: Ticket,
        reply: Arc<Mailbox<ToCustomer>>,
        question: Question,
    ) {
        let job = Job {
            account: account.id,
            key,
            source,
            ticket,
            reply,
            question,
        };
        // After the commit: what ends in this very turn is then on record.
        self.pending.lookups.push(job);
    }

    /// The keys of a message that is open: its own, or those of all messages of a submit_multi that still are.
    fn siblings(&self, key: MessageKey) -> Vec<MessageKey> {
        let nth = |n: u64| MessageKey(key.0.saturating_add(n));
        let is = |n: u64| {
            self.book
                .get(nth(n))
                .is_some_and(|o| u64::from(o.stub.parts().sibling) == n)
        };
        // Any of them may be over while others are open.
        (0..=u64::from(u8::MAX)).filter(|n| is(*n)).map(nth).collect()
    }

    /// Whether an open message is this customer's. An empty source is taken for any: clients leave it out, and an id is
    /// looked up within the account alone.
    fn owned(&self, account: &AccountState, key: MessageKey, source: &[u8]) -> bool {
        self.book.get(key).is_some_and(|o| {
            o.account == account.id
                && (source.is_empty() || o.stub.parts().source.eq_ignore_ascii_case(source))
        })
    }

    fn query(
        &mut self,
        account: &AccountState,
        key: MessageKey,
        source: Box<[u8]>,
        ticket: Ticket,
        reply: Arc<Mailbox<ToCustomer>>,
    ) {
        let open = self
            .siblings(key)
            .into_iter()
            .find(|k| self.owned(account, *k, &source));
        match open.and_then(|k| self.book.get(k)) {
            Some(open) => {
                let state = open.provisional.map_or(ENROUTE, Final::code);
                let outcome = Outcome::State {
                    key,
                    state,
                    done_ms: None,
                    err: open.provisional_err,
                };
                self.answer(reply, ticket, outcome);
            }
            None => self.look_up(account, key, source, ticket, reply, Question::State),
        }
    }

    fn cancel(
        &mut self,
        account: &AccountState,
        key: MessageKey,
        source: Box<[u8]>,
        ticket: Ticket,
        reply: Arc<Mailbox<ToCustomer>>,
        now: u64,
    ) {
        let open: Vec<MessageKey> = self
            .siblings(key)
            .into_iter()
            .filter(|k| self.owned(account, *k, &source))
            .collect();
        if open.is_empty() {
            return self.look_up(account, key, source, ticket, reply, Question::Cancel);
        }
        let outcome = if self.cancel_these(&open, now) > 0 {
            Outcome::Done
        } else {
            Outcome::TooLate
        };
        self.answer(reply, ticket, outcome);
    }

    /// Takes those messages out of their lanes that wait there whole and were never written; which they are. Of the others a
    /// bind or an SMSC has something, or may have.
    fn take_out(&mut self, keys: &[MessageKey]) -> Vec<MessageKey> {
        let mut out = Vec::new();
        let mut waiting: BTreeMap<UpstreamId, HashSet<MessageKey>> = BTreeMap::new();
        for key in keys {
            // As one with others it can only be taken out with all of them, by the one that leads.
            let alone = self.book.get(*key).is_some_and(|o| !o.led);
            if !alone || self.book.led_by(*key).iter().any(|k| !keys.contains(k)) {
                continue;
            }
            if self.rejoining.withdraw(*key).is_some() {
                out.push(*key);
                continue;
            }
            let Some(open) = self
                .book
                .get(*key)
                .filter(|o| o.phase == Phase::Queued && o.parts.is_none())
            else {
                continue;
            };
            // In no lane: nobody can have it.
            if self.book.waits(*key).is_some() {
                out.push(*key);
                continue;
            }
            let lane = self.gateway.upstream(open.upstream);
            // After a crash nobody knows what had been written, where that is not marked on record.
            let unsure = self.unsure_before.is_some_and(|first| *key < first);
            if open.written || unsure && lane.as_ref().is_some_and(|l| !l.marks_before_sending()) {
                continue;
            }
            match lane {
                Some(_) if open.stored => out.push(*key),
                Some(_) => {
                    waiting.entry(open.upstream).or_default().insert(*key);
                }
                // Its upstream is gone from the config: nobody can have it.
                None => out.push(*key),
            }
        }
        for (upstream, keys) in waiting {
            let Some(lane) = self.gateway.upstream(upstream) else {
                continue;
            };
            let mut found: BTreeMap<MessageKey, Vec<Outgoing>> = BTreeMap::new();
            for message in lane.withdraw(|m| m.unanswered == 0 && keys.contains(&m.key)) {
                found.entry(message.key).or_default().push(message);
            }
            let mut back = Vec::new();
            for (key, parts) in found {
                // Cut in parts it counts only if none of them is out.
                let all = parts
                    .first()
                    .is_some_and(|m| m.piece.whole() || parts.len() >= usize::from(m.piece.of));
                if all {
                    out.push(key);
                } else {
                    back.extend(parts);
                }
            }
            lane.unsent(back.into_iter());
        }
        out
    }

    /// Cancels those that can be; how many.
    fn cancel_these(&mut self, keys: &[MessageKey], now: u64) -> usize {
        let taken = self.take_out(keys);
        for key in &taken {
            if let Some(open) = self.book.get(*key).filter(|o| o.stored)
                && self.book.waits(*key).is_none()
                && let Some(lane) = self.gateway.upstream(open.upstream)
            {
                lane.forget_stored(1);
            }
            self.finish(*key, Final::Deleted, 0, false, now);
        }
        taken.len()
    }

    fn cancel_all(&mut self, job: CancelJob) {
        if self.cancels.len() >= CANCELS_MAX {
            return self.answer(job.reply, job.ticket, Outcome::Refused(Reject::Overload));
        }
        self.cancels.push_back(job);
    }

    /// One slice of a cancellation of many.
    pub(super) fn cancel_slice(&mut self, now: u64) -> Result<(), StoreError> {
        let Some(mut job) = self.cancels.pop_front() else {
            return Ok(());
        };
        if std::mem::take(&mut job.fresh) {
            for upstream in self.gateway.upstreams().iter() {
                job.keys.extend(upstream.keys(job.account.id));
            }
            job.keys.extend(self.rejoining.keys());
            job.keys.extend(self.book.waiting().map(|(key, _)| key));
        }
        // Those that sleep have to be read to know whose they are.
        let asleep = self.book.asleep() > 0;
        let n = if asleep { CANCEL_SLICE / 10 } else { CANCEL_SLICE }.min(job.keys.len());
        if asleep {
            let first = job.keys.iter().take(n).copied();
            let keys: Vec<MessageKey> = first.filter(|k| self.book.is_asleep(*k)).collect();
            if let Err(error) = self.awaken(&keys) {
                self.cancels.push_front(job);
                return Err(error);
            }
            self.drowsy.extend(keys);
        }
        let mut found: Vec<MessageKey> = job
            .keys
            .drain(..n)
            .filter(|key| {
                self.book.get(*key).is_some_and(|o| {
                    let parts = o.stub.parts();
                    o.account == job.account.id
                        && o.phase == Phase::Queued
                        && parts.source.eq_ignore_ascii_case(&job.source)
                        && same_number(parts.dest, &job.dest)
                })
            })
            .collect();
        if !job.service_type.is_empty() && !found.is_empty() {
            let mut of_the_service = HashSet::new();
            self.store.load(&found, &mut |key, message| {
                if message
                    .parts()
                    .service_type
                    .eq_ignore_ascii_case(&job.service_type)
                {
                    of_the_service.insert(key);
                }
            })?;
            found.retain(|k| of_the_service.contains(k));
        }
        // What lanes know is the leading one; what is taken out with it are parts of the same message.
        let led: Vec<MessageKey> = found.iter().flat_map(|k| self.book.led_by(*k)).collect();
        found.extend(led);
        job.cancelled += self.cancel_these(&found, now) as u64;
        if !job.keys.is_empty() {
            self.cancels.push_back(job);
            return Ok(());
        }
        let outcome = if job.cancelled > 0 {
            Outcome::Done
        } else {
            Outcome::TooLate
        };
        self.answer(job.reply, job.ticket, outcome);
        Ok(())
    }

    /// `None`: the message is not open.
    fn replace(
        &mut self,
        account: &AccountState,
        key: MessageKey,
        source: &[u8],
        new: Replacement,
        now: u64,
    ) -> Result<Option<Outcome>, StoreError> {
        if !self.owned(account, key, source) {
            return Ok(None);
        }
        // One text for several destinations, some of which may have been sent: all or nothing is not to be had.
        if self.siblings(key).len() > 1 {
            return Ok(Some(Outcome::TooLate));
        }
        let mut old = None;
        self.store.load(&[key], &mut |_, message| old = Some(message))?;
        let (Some(open), Some(old)) = (self.book.get(key).cloned(), old) else {
            return Ok(None);
        };
        // A person decides about it first.
        if new.due_ms.is_some() && self.book.waits(key) == Some(Mark::NEVER) {
            return Ok(Some(Outcome::Refused(Reject::Schedule)));
        }
        let row = match self.replaced_row(account, key, &open, &old, &new, now) {
            Ok(row) => row,
            Err(reason) => return Ok(Some(Outcome::Refused(reason))),
        };
        // The difference in price is held before the message is touched, and given back if it is too late for it.
        let mut more = Money((row.price.0 - open.price.0).max(0));
        self.note_terms(&self.gateway.policy.load_full(), account, row.tariff);
        let (was, is) = (self.book.terms(open.tariff), self.book.terms(row.tariff));
        let (tax_was, tax_is) = (was.tax_in(open.captured), is.tax_in(row.price));
        let charged = open.charge_on == ChargeOn::Accepted;
        // Two tariffs may be taxed in two ways: then all of the old price comes back, and all of the new one is charged.
        let anew = charged && was.tax_bp != is.tax_bp;
        if anew {
            more = row.price;
        }
        let Ok(hold) = account.with_wallet(|w| w.hold(more)) else {
            return Ok(Some(Outcome::Refused(Reject::Balance)));
        };
        if self.take_out(&[key]).is_empty() {
            account.with_wallet(|w| w.release(hold));
            return Ok(Some(Outcome::TooLate));
        }
        let more = hold.into_record();
        let less = Money((open.price.0 - row.price.0).max(0));
        let effect = if anew {
            Effect {
                hold: more,
                unhold: more,
                charge: more,
                charge_tax: tax_is,
                refund: open.captured,
                refund_tax: tax_was,
            }
        } else if charged {
            Effect {
                hold: more,
                unhold: more,
                charge: more,
                charge_tax: Money((tax_is.0 - tax_was.0).max(0)),
                refund: less,
                refund_tax: Money((tax_was.0 - tax_is.0).max(0)),
            }
        } else {
            Effect {
                hold: more,
                unhold: less,
                ..Effect::default()
            }
        };
        self.effect(open.account, open.line, Why::Replaced, effect);
        self.mark(open.upstream, key, Piece::WHOLE, MarkKind::Replaced, now);
        self.book.replaced(&row);
        self.watch(key, row.expires_ms, now);
        let put_off = match new.due_ms {
            Some(due) => {
                self.put_off(key, &open, due);
                true
            }
            None => self.book.waits(key).is_some(),
        };
        if !open.stored && !put_off {
            let message = Outgoing {
                key,
                piece: Piece::WHOLE,
                out: None,
                account: open.account,
                at_ms: open.at_ms,
                expires_ms: row.expires_ms,
                attempts: 0,
                unanswered: 0,
                segments: row.segments,
                message: row.message.clone(),
            };
            self.pending.returned.push((open.upstream, message, false));
        }
        self.batch.replaced.push(row);
        Ok(Some(Outcome::Done))
    }

    /// A message that was taken out of its lane waits for the time that its customer has given it now.
    fn put_off(&mut self, key: MessageKey, open: &Open, due: u64) {
        let lane = self.gateway.upstream(open.upstream);
        if open.stored
            && self.book.waits(key).is_none()
            && let Some(lane) = lane
        {
            lane.forget_key(open.account, open.level, key);
        }
        let policy = self.gateway.policy.load_full();
        let class = self.class_of_line(key);
        let operator = policy.operator(open.stub.parts().dest);
        let until = opens(&policy.rules, &class, operator, due).unwrap_or(due);
        self.wait_until(key, open.upstream, until);
        self.drowsy.push(key);
    }

    /// The accepted row as it is from now on. data_coding, esm_class and the addresses stay: replace_sm has none of them
    /// (SMPP 3.4 §4.10.1).
    fn replaced_row(
        &self,
        account: &AccountState,
        key: MessageKey,
        open: &Open,
        old: &Message,
        new: &Replacement,
        now: u64,
    ) -> Result<Accepted, Reject> {
        let policy = self.gateway.policy.load_full();
        let parts = old.parts();
        let spec: Arc<Account> = account.spec();
        // The customer writes it as it wrote the first: its account's alphabet may have changed that.
        let from = match parts.flags.priority {
            p if p & Flags::LATIN1 != 0 => Charset::Latin1,
            p if p & Flags::UCS2 != 0 => Charset::Ucs2,
            _ => Charset::Gsm7,
        };
        let (data_coding, new_text) = match from {
            Charset::Gsm7 => (parts.flags.data_coding, new.text.to_vec()),
            from => text::shaped(from, &new.text, spec.transliterate).unwrap_or((UCS2, new.text.to_vec())),
        };
        let flags = Flags {
            registered_delivery: new.registered_delivery,
            default_msg_id: new.default_msg_id,
            data_coding,
            ..parts
                .flags
                .with_schedule(new.due_ms.is_some() || parts.flags.scheduled())
        };
        let udhi = flags.esm_class & 0x40 != 0;
        if udhi && text::udh::header_len(&new_text).is_none() {
            return Err(Reject::Empty);
        }
        let content = text::Content {
            data_coding,
            udhi,
            body: &new_text,
            sar_total: None,
        };
        let segments = text::count(&content).map_err(|_| Reject::TooLong)?;
        let longest = new.due_ms.unwrap_or(now).max(now) + policy.validity_max_ms;
        // One that is put off must not end before its time because nobody has given it a validity.
        let kept = new.due_ms.map_or(open.expires_ms, |due| {
            open.expires_ms
                .max((due + policy.validity_default_ms).min(longest))
        });
        let long = new_text.len() > SHORT_MAX;
        let payload = payload_tlv(&new_text);
        let new_due = new.due_ms;
        let mut parts = Parts {
            flags,
            text: if long { &[] } else { &new_text },
            // A text in message_payload is replaced too; everything else that came as a TLV belonged to the old text.
            tlvs: if long { &payload } else { &[] },
            ..parts
        };
        // A new text is judged as the first one was: replacing is no way around a rule.
        let judged = judge(
            &self.gateway,
            &policy,
            account,
            &spec,
            &parts,
            (now, new_due.unwrap_or(now)),
        )?;
        if judged.not_before_ms == Mark::NEVER && self.book.waits(key) != Some(Mark::NEVER) {
            return Err(Reject::Content);
        }
        let segments = match &judged.text {
            Some(new) => {
                (parts.text, parts.tlvs) = (&new.text, &new.tlvs);
                new.segments
            }
            None => segments,
        };
        let quote = quote_as(&policy, account, &spec, (judged.class, parts.dest), segments, now)?;
        Ok(Accepted {
            key,
            account: open.account,
            at_ms: open.at_ms,
            expires_ms: new.expires_ms.map_or(kept, |at| at.min(longest)),
            price: quote.price,
            tariff: quote.version,
            charge_on: open.charge_on,
            wants: Wants::from_bits(new.registered_delivery),
            segments,
            line: open.line,
            message: Message::new(&parts),
        })
    }
}
