//! Closing a batch, committing it, and letting out what waited for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::book::Effect;
use super::tally::Why;
use super::{DIRTY_MS, Engine};
use crate::domain::message::Piece;
use crate::domain::outcome::ChargeOn;
use crate::domain::reject::Reject;
use crate::flow::ingress::{ControlError, ControlReply, Outcome, Ticket, ToCustomer, ToUpstream};
use crate::flow::lane::Outgoing;
use crate::ids::{AccountId, MessageKey};
use crate::kill;
use crate::money::Money;
use crate::store::{Store, StoreError};

/// Pause before a commit that found no room is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(100);

impl<S: Store> Engine<S> {
    /// Commits what has gathered and lets the results out. Does nothing for an empty batch.
    pub(super) fn commit(&mut self) -> Result<(), StoreError> {
        if self.batch.is_empty() && self.pending.is_empty() {
            return Ok(());
        }
        if !self.batch.is_empty() {
            self.close_batch();
            self.kill_point("admit.before_commit", "topup.before_commit");
            self.write()?;
            self.kill_point("admit.after_commit", "topup.after_commit");
        }
        self.release();
        Ok(())
    }

    fn kill_point(&self, admit: &'static str, topup: &'static str) {
        if !self.batch.accepted.is_empty() {
            kill::point(admit);
        }
        if !self.batch.payments.is_empty() {
            kill::point(topup);
        }
    }

    /// Adds postings and balances: sums per account, billing line, reason and commit.
    fn close_batch(&mut self) {
        self.batch.id = self.batch_id();
        let now = (self.options.now_ms)();
        self.batch.postings.retain(|p| !p.of_messages());
        let mut sums = self.pending.effects.clone();
        for a in &self.batch.accepted {
            let tally = sums.entry((a.account, a.line, Why::Earned)).or_default();
            tally.add(&self.book.accepting(a));
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|((account, line, why), _)| (*account, *line, *why));
        let mut balances: Vec<(AccountId, Money)> = self.pending.wallet_posts.clone();
        for ((account, line, why), tally) in sums {
            tally.post(account, line, why, now, &mut self.batch.postings);
            let delta = Money(tally.effect.refund.0 - tally.effect.charge.0);
            if delta != Money::ZERO {
                match balances.iter_mut().rev().find(|(a, _)| *a == account) {
                    Some((_, sum)) => sum.0 += delta.0,
                    None => balances.push((account, delta)),
                }
            }
        }
        self.batch.usage.clear();
        for (account, period, segments) in &self.pending.quotas {
            match self
                .batch
                .usage
                .iter_mut()
                .find(|(a, day, _)| (*a, *day) == (*account, period.day))
            {
                Some((.., n)) => *n += u64::from(*segments),
                None => self
                    .batch
                    .usage
                    .push((*account, period.day, u64::from(*segments))),
            }
        }
        self.batch.balances = balances;
    }

    /// Writes the batch. Submits are given up when there is no room; everything else is tried until there is: it speaks of
    /// messages that are on record already.
    fn write(&mut self) -> Result<(), StoreError> {
        let mut tries = 0u32;
        loop {
            let started = (self.options.mono_us)();
            match self.store.commit(self.fence, &self.batch) {
                Ok(()) => {
                    self.committed((self.options.mono_us)().saturating_sub(started));
                    return Ok(());
                }
                Err(StoreError::Unknown(id)) => {
                    if self.store.committed(id)? {
                        self.committed((self.options.mono_us)().saturating_sub(started));
                        return Ok(());
                    }
                }
                Err(error @ (StoreError::Full(_) | StoreError::Retry(_))) => {
                    if tries == 0 {
                        tracing::error!(%error, "the store takes no writes; submits are refused until it does");
                    }
                    self.gateway.store_down.store(true, Ordering::Relaxed);
                    self.give_up_submits();
                    if self.batch.is_empty() {
                        return Ok(());
                    }
                    if self.gateway.ending() {
                        return Err(error);
                    }
                    self.beat();
                    self.close_batch();
                    if !self.options.eager {
                        std::thread::sleep(FULL_PAUSE);
                    }
                    self.refuse_waiting();
                }
                Err(e) => return Err(e),
            }
            tries += 1;
        }
    }

    fn committed(&mut self, us: u64) {
        self.next_batch += 1;
        let rows = self.batch.rows();
        let g = &self.gateway;
        if g.store_down.swap(false, Ordering::Relaxed) {
            tracing::info!("the store takes writes again");
        }
        g.totals.commits.fetch_add(1, Ordering::Relaxed);
        g.totals.rows.fetch_add(rows as u64, Ordering::Relaxed);
        g.metrics.commit(rows, us);
        self.rate.last_batch = rows;
        self.rate.rows += rows as u64;
    }

    /// Takes the submits of this batch back: nothing of them is on record, their holds are released.
    fn give_up_submits(&mut self) {
        for a in self.batch.accepted.drain(..) {
            self.book.not_accepted(a.key);
            self.due.remove(&(a.expires_ms, a.key));
            if let Some(account) = self.gateway.accounts().get(a.account) {
                account.with_wallet(|w| w.unhold(a.price));
            }
            self.gateway.left_commit(1, a.message.record().len());
        }
        self.give_up_waits();
        self.pending.lanes.clear();
        for (_, reply, sequences) in self.pending.submits.drain(..) {
            reply.put(
                sequences
                    .into_iter()
                    .flatten()
                    .map(|t| ToCustomer::Refused(t, Reject::StoreUnavailable)),
            );
        }
        for (id, period, segments) in self.pending.quotas.drain(..) {
            if let Some(account) = self.gateway.accounts().get(id) {
                account.with_quota(|q| q.give_back(period, segments));
            }
        }
        self.batch.postings.retain(|p| !p.of_messages());
        self.batch.balances.clear();
        self.batch.usage.clear();
    }

    /// While the store is down, submits that had been admitted before it was noticed are answered, not kept waiting, and
    /// control requests are turned away.
    fn refuse_waiting(&mut self) {
        let gateway = Arc::clone(&self.gateway);
        gateway.ingress.take(&mut self.inputs, Duration::ZERO);
        let mut keep = std::collections::VecDeque::new();
        for input in self.inputs.others.drain(..) {
            match input {
                super::Input::Submits {
                    account,
                    items,
                    reply,
                    ..
                } => {
                    let octets = items.iter().map(|i| i.message.record().len()).sum();
                    gateway.left_commit(items.len(), octets);
                    let tickets: Vec<_> = items.iter().filter_map(|i| i.ticket).collect();
                    for item in &items {
                        if let Some(period) = item.quota {
                            account.with_quota(|q| q.give_back(period, item.segments));
                        }
                    }
                    account.with_wallet(|w| items.into_iter().for_each(|i| w.release(i.hold)));
                    reply.put(
                        tickets
                            .into_iter()
                            .map(|t| ToCustomer::Refused(t, Reject::StoreUnavailable)),
                    );
                }
                super::Input::Operation(asked) => {
                    let refused = Outcome::Refused(Reject::StoreUnavailable);
                    asked.reply.put([ToCustomer::Outcome(asked.ticket, refused)]);
                }
                super::Input::Control(_, reply) => reply(Err(ControlError::Unavailable)),
                other => keep.push_back(other),
            }
        }
        self.inputs.others = keep;
    }

    /// Everything in the batch is on disk: settle wallets, answer, dispatch, deliver.
    fn release(&mut self) {
        self.release_money();
        // After the money and before the answers: who reads it, or has an answer and asks, finds both done.
        self.gateway
            .totals
            .open
            .store(self.book.len() as u64, Ordering::Relaxed);
        self.release_accounts();
        self.release_rules();
        self.release_submits();
        for (reply, answers) in self.pending.answers.drain(..) {
            if answers.iter().any(|a| matches!(a, ToUpstream::Committed(_))) {
                kill::point("receipt.after_commit");
            }
            reply.put(answers);
        }
        for (reply, outcome) in self.pending.outcomes.drain(..) {
            reply.put([outcome]);
        }
        for job in self.pending.lookups.drain(..) {
            if let Err(job) = self.gateway.lookups.ask(job) {
                job.answer(None, true);
            }
        }
        self.release_returned();
        self.release_deliveries();
        self.release_replies();
        self.batch.clear();
    }

    fn release_money(&mut self) {
        let accounts = self.gateway.accounts();
        for a in self
            .batch
            .accepted
            .iter()
            .filter(|a| a.charge_on == ChargeOn::Accepted)
        {
            let tally = self
                .pending
                .effects
                .entry((a.account, a.line, Why::Earned))
                .or_default();
            tally.add(&Effect {
                hold: Money::ZERO,
                ..self.book.accepting(a)
            });
        }
        self.pending.quotas.clear();
        for ((id, ..), tally) in self.pending.effects.drain() {
            let Effect {
                unhold,
                charge,
                refund,
                ..
            } = tally.effect;
            if let Some(account) = accounts.get(id) {
                account.with_wallet(|w| {
                    w.unhold(unhold);
                    w.post(Money(refund.0 - charge.0));
                });
            }
            self.gateway.metrics.charged(charge, refund);
        }
        for (id, amount) in self.pending.wallet_posts.drain(..) {
            if let Some(account) = accounts.get(id) {
                account.with_wallet(|w| w.post(amount));
            }
        }
        for (id, amount) in self.pending.set_aside.drain(..) {
            if let Some(account) = accounts.get(id) {
                account.with_wallet(|w| w.unhold(amount));
            }
        }
        for (id, frozen) in &self.batch.frozen {
            if let Some(account) = accounts.get(*id) {
                account.with_wallet(|w| w.set_frozen(*frozen));
            }
        }
        for (id, rules, prices) in self.pending.prices.drain(..) {
            if let Some(account) = accounts.get(id) {
                account.set_prices(rules, prices);
            }
        }
    }

    fn release_accounts(&mut self) {
        if !self.pending.new_accounts.is_empty() {
            let mut accounts = (*self.gateway.accounts()).clone();
            for account in self.pending.new_accounts.drain(..) {
                accounts.insert(account);
            }
            self.gateway.set_accounts(accounts);
        }
        for spec in self.pending.replaced.drain(..) {
            if let Some(account) = self.gateway.accounts().get(spec.id) {
                account.replace(spec);
            }
        }
    }

    fn release_submits(&mut self) {
        let n = self.batch.accepted.len() as u64;
        if n == 0 {
            return;
        }
        // Before the answers: who has one and asks finds it counted.
        self.gateway.totals.accepted.fetch_add(n, Ordering::Relaxed);
        let mut keys = self.batch.accepted.iter().map(|a| a.key);
        for (account, reply, sequences) in self.pending.submits.drain(..) {
            account
                .accepted
                .fetch_add(sequences.len() as u64, Ordering::Relaxed);
            let answers: Vec<ToCustomer> = sequences
                .into_iter()
                .zip(&mut keys)
                .filter_map(|(t, k): (Option<Ticket>, MessageKey)| Some(ToCustomer::Accepted(t?, k)))
                .collect();
            reply.put(answers);
        }
        let mut octets = 0;
        for (a, lane) in self.batch.accepted.drain(..).zip(self.pending.lanes.drain(..)) {
            octets += a.message.record().len();
            if self.book.waits(a.key).is_some() {
                self.drowsy.push(a.key);
                continue;
            }
            let message = Outgoing {
                key: a.key,
                piece: Piece::WHOLE,
                out: None,
                account: a.account,
                at_ms: a.at_ms,
                expires_ms: a.expires_ms,
                attempts: 0,
                unanswered: 0,
                segments: a.segments,
                message: a.message,
            };
            self.dispatching.push_back((lane, message));
        }
        self.rejoin_all();
        for key in self.gateway.dispatch(&mut self.dispatching) {
            self.book.set_stored(key, true);
        }
        self.gateway.left_commit(n as usize, octets);
    }

    /// Parts for upstreams that take long messages whole wait for the others.
    fn rejoin_all(&mut self) {
        if !self.gateway.upstreams().iter().any(|u| u.options.rejoins) {
            return;
        }
        let now = (self.options.now_ms)();
        for (lane, message) in std::mem::take(&mut self.dispatching) {
            let ready = self.rejoin(lane, message, now);
            self.dispatching.extend(ready.into_iter().map(|m| (lane, m)));
        }
    }

    fn release_returned(&mut self) {
        if self.pending.returned.is_empty() {
            return;
        }
        let now = (self.options.now_ms)();
        let (refused, unwritten): (Vec<_>, Vec<_>) = self
            .pending
            .returned
            .drain(..)
            .partition(|(_, _, refused)| *refused);
        for (id, message, _) in refused {
            if let Some(upstream) = self.gateway.upstream(id) {
                upstream.retry(message, now);
            }
        }
        // Last first: each goes to the head of its lane.
        for (id, message, _) in unwritten.into_iter().rev() {
            if let Some(upstream) = self.gateway.upstream(id) {
                upstream.unsent(std::iter::once(message));
            }
        }
    }

    fn release_deliveries(&mut self) {
        let accounts = self.gateway.accounts();
        for (id, rows) in self.pending.recorded.drain(..) {
            if let Some(account) = accounts.get(id) {
                account.outbox.recorded(rows);
            }
        }
        // One hand-over per account; the order within an account is that of positions.
        self.pending
            .deliveries
            .sort_by_key(|(account, item)| (*account, item.pos));
        let mut items = self.pending.deliveries.drain(..).peekable();
        while let Some((id, first)) = items.next() {
            let mut run = vec![first];
            while let Some((_, item)) = items.next_if(|(next, _)| *next == id) {
                run.push(item);
            }
            if let Some(account) = accounts.get(id) {
                account.outbox.push(run);
            }
        }
    }

    fn release_replies(&mut self) {
        for (reply, result) in self.pending.replies.drain(..) {
            reply(result);
        }
        let mut failed = Vec::new();
        for (reply, provider, receipt, duplicate) in self.pending.payment_replies.drain(..) {
            let found = self.store.find_payment(&provider, &receipt);
            reply(match found {
                Ok(Some(payment)) => Ok(ControlReply::Payment(payment, duplicate)),
                Ok(None) => Err(ControlError::Unavailable),
                Err(error) => {
                    failed.push(error);
                    Err(ControlError::Unavailable)
                }
            });
        }
        failed.into_iter().for_each(|e| self.read_failed(e));
    }

    /// Watermarks and rows of outboxes: with the next commit that happens anyway, or after a while.
    pub(super) fn flush_outboxes(&mut self, now: u64, force: bool) {
        if !force && self.batch.is_empty() && now < self.dirty_ms + DIRTY_MS {
            return;
        }
        if !force && now < self.dirty_ms + DIRTY_MS / 4 {
            return;
        }
        self.dirty_ms = now;
        for account in self.gateway.accounts().iter() {
            let Some(dirty) = account.outbox.dirty() else {
                continue;
            };
            if let Some(mark) = dirty.watermark {
                self.batch.watermarks.push((account.id, mark));
            }
            self.batch
                .outbox_del
                .extend(dirty.delete.into_iter().map(|pos| (account.id, pos)));
            if !dirty.put.is_empty() {
                self.pending.recorded.push((account.id, dirty.put.len()));
                self.batch.outbox_put.extend(dirty.put);
            }
        }
    }
}

impl super::Pending {
    fn is_empty(&self) -> bool {
        self.submits.is_empty()
            && self.answers.is_empty()
            && self.replies.is_empty()
            && self.outcomes.is_empty()
            && self.lookups.is_empty()
            && self.returned.is_empty()
            && self.payment_replies.is_empty()
    }
}
