//! What happens by time rather than by message: expiry, receipt timeouts, lanes of dead upstreams, refilling, sealing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::book::{Open, PartState, Phase};
use crate::domain::message::Piece;
use crate::domain::outcome::Final;
use crate::flow::lane::{Outgoing, PartSet, Rerouted, UnknownOutcome};
use crate::flow::routing::Ask;
use crate::flow::{Policy, Upstream};
use crate::ids::{AccountId, MessageKey, UpstreamId};
use crate::money::Money;
use crate::store::{MarkKind, Progress, Store, StoreError};

/// Deadlines nearer than this are kept in order; farther ones are found by the sweep.
const NEAR_MS: u64 = 120_000;
/// The sweep goes once around all open messages in this time, well before a near deadline can pass.
pub(super) const SWEEP_MS: u64 = 60_000;
/// Expiries in one turn.
const EXPIRE_MAX: usize = 1_000;
/// An expired message that a bind has in hand is looked at again after this.
const AGAIN_MS: u64 = 1_000;
/// Messages read back from the store in one turn.
const REFILL_MAX: usize = 500;
/// Waiting messages looked at in one turn when another route is sought for them.
const REROUTE_MAX: usize = 2_000;
/// How often a slice of the stored outboxes is looked through for rows past their time.
const EXPIRE_EVERY_MS: u64 = 1_000;
/// Octets of write-ahead log that cannot be moved into the store (a full disk, a reader that holds on) before no more is
/// accepted.
const LOG_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Full segments that may wait before sealing stops giving way to traffic.
const SEAL_BACKLOG: usize = 4;

impl<S: Store> Engine<S> {
    /// Keeps a near deadline in order.
    pub(super) fn watch(&mut self, key: MessageKey, deadline_ms: u64, now: u64) {
        if deadline_ms <= now + NEAR_MS {
            self.due.insert((deadline_ms, key), ());
        }
    }

    pub(super) fn upkeep(&mut self, now: u64) -> Result<(), StoreError> {
        self.rules_tick(now);
        self.expire(now);
        self.awaken_near(now)?;
        self.sweep(now)?;
        self.book.shrink();
        self.expire_parked(now);
        self.expire_parts(now);
        self.expire_rejoining(now);
        self.rebalance();
        self.gateway.upstreams().iter().for_each(|u| u.quality.fold(now));
        self.outboxes(now);
        self.low_balances(now);
        self.expire_stored(now)?;
        self.measure(now);
        self.probe()
    }

    /// Ends messages whose time is up: unsent ones are EXPIRED, sent ones without a final receipt UNKNOWN.
    fn expire(&mut self, now: u64) {
        let timeout = self.gateway.policy.load().receipt_timeout_ms;
        let mut unsent: BTreeMap<UpstreamId, HashSet<MessageKey>> = BTreeMap::new();
        for _ in 0..EXPIRE_MAX {
            let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= now) else {
                break;
            };
            let (_, key) = *entry.key();
            entry.remove();
            let Some(open) = self.book.get(key) else {
                continue;
            };
            match open.phase {
                Phase::Queued if open.expires_ms <= now && self.book.waits(key).is_some() => {
                    self.expired(key, now);
                }
                Phase::Queued if open.expires_ms <= now && open.stored => {
                    if let Some(upstream) = self.gateway.upstream(open.upstream) {
                        upstream.forget_stored(1);
                    }
                    self.expired(key, now);
                }
                Phase::Queued if open.expires_ms <= now => {
                    unsent.entry(open.upstream).or_default().insert(key);
                }
                Phase::Sent | Phase::Held
                    if open.step_ms.max(open.at_ms) + self.wait_for(open, timeout) <= now =>
                {
                    let state = open.provisional.unwrap_or(Final::Unknown);
                    let (err, taken) = (open.provisional_err, open.phase == Phase::Sent);
                    if open.parts.is_some() {
                        self.parts_over(key, |s| !matches!(s, PartState::Over(..)), state, now);
                    } else {
                        self.finish(key, state, err, taken, now);
                    }
                }
                _ => {}
            }
        }
        for (upstream, keys) in unsent {
            self.expire_unsent(upstream, keys, now);
        }
    }

    /// How long a later receipt is awaited: as the message's tariff says for the state it is in, or as long as for all, ms.
    pub(super) fn wait_for(&self, open: &Open, timeout: u64) -> u64 {
        let state = open.provisional.unwrap_or(Final::Unknown);
        self.book.terms(open.tariff).wait_ms(state).unwrap_or(timeout)
    }

    /// Only what its lane still has is expired. What a bind has taken may be at the SMSC already: its answer decides, or
    /// the message comes back to the lane.
    fn expire_unsent(&mut self, upstream: UpstreamId, mut keys: HashSet<MessageKey>, now: u64) {
        let mut ended: Vec<(MessageKey, Piece)> = match self.gateway.upstream(upstream) {
            Some(u) => u
                .withdraw(|m| keys.contains(&m.key))
                .iter()
                .map(|m| (m.key, m.piece))
                .collect(),
            None => keys.iter().map(|k| (*k, Piece::WHOLE)).collect(),
        };
        ended.sort_unstable();
        for (key, piece) in ended {
            keys.remove(&key);
            if piece.whole() {
                self.expired(key, now);
            } else {
                self.over(key, piece, Final::Expired, 0, false, now);
                // Other parts may be in a bind's hands.
                self.watch(key, now + AGAIN_MS, now);
            }
        }
        for key in keys {
            self.watch(key, now + AGAIN_MS, now);
        }
    }

    /// What waits of a message is expired: all of it, or the parts that have not gone.
    fn expired(&mut self, key: MessageKey, now: u64) {
        if self.book.get(key).is_some_and(|o| o.parts.is_some()) {
            self.parts_over(key, |s| s == PartState::Waiting, Final::Expired, now);
        } else {
            self.finish(key, Final::Expired, 0, false, now);
        }
    }

    /// Looks at a slice of the open messages for deadlines that have come near.
    fn sweep(&mut self, now: u64) -> Result<(), StoreError> {
        let timeout = self.gateway.policy.load().receipt_timeout_ms;
        let elapsed = now.saturating_sub(self.swept_ms).min(SWEEP_MS);
        self.swept_ms = now;
        let slice = (self.book.hot() as u64 * elapsed).div_ceil(SWEEP_MS) as usize;
        for _ in 0..slice.min(self.book.hot()) {
            if self.sweep >= self.book.hot() {
                self.sweep = 0;
            }
            if let Some((key, open)) = self.book.at(self.sweep) {
                let deadline = match open.phase {
                    Phase::Queued | Phase::Sending => open.expires_ms,
                    Phase::Sent | Phase::Held => open.step_ms + self.wait_for(open, timeout),
                };
                self.watch(key, deadline, now);
            }
            self.sweep += 1;
        }
        self.wake_near(now, elapsed)
    }

    /// Moves what waits at an upstream that cannot send to another one of its route that can: a slice a turn, and only
    /// after an upstream has come or gone, since nothing else can have changed the answer.
    fn rebalance(&mut self) {
        let gateway = Arc::clone(&self.gateway);
        let upstreams = gateway.upstreams();
        if upstreams.len() < 2 {
            return;
        }
        let policy = gateway.policy.load_full();
        let turns = upstreams.iter().map(|u| u64::from(u.turns())).sum();
        if turns != self.upstream_turns {
            self.upstream_turns = turns;
            for from in upstreams.iter().filter(|u| !u.live()) {
                if from.depth() != (0, 0) && gateway.has_detour(&policy, from.id) {
                    from.search();
                }
            }
        }
        for from in upstreams.iter().filter(|u| !u.live()) {
            let found = from.reroute(REROUTE_MAX, |key| self.detour(&policy, key, from.id));
            if let Some(found) = found {
                self.moved(found);
            }
        }
    }

    /// The live upstream that a waiting message could go to instead of `from`.
    fn detour(&self, policy: &Policy, key: MessageKey, from: UpstreamId) -> Option<UpstreamId> {
        let found = self.home(policy, key)?;
        let live = self.gateway.upstream(found).is_some_and(|u| u.live());
        (live && found != from).then_some(found)
    }

    /// The upstream that the routes of the moment give an open message.
    pub(super) fn home(&self, policy: &Policy, key: MessageKey) -> Option<UpstreamId> {
        let open = self.book.get(key)?;
        let parts = open.stub.parts();
        let accounts = self.gateway.accounts();
        let account = accounts.get(open.account)?.spec();
        let now = (self.options.now_ms)();
        let found = policy.route_key(&account.name, parts.source, parts.dest, now);
        let ask = Ask {
            account: &account,
            number: parts.dest,
            turn: key.0,
        };
        let route = policy.routes.find(&found)?;
        self.gateway.pick(policy, route, &ask).map(|u| u.id)
    }

    /// Whether an upstream may carry an open message: in the config, and neither against the account's lists nor its residency.
    pub(super) fn may_carry(&self, key: MessageKey, upstream: &Upstream) -> bool {
        let accounts = self.gateway.accounts();
        let account = self.book.get(key).and_then(|o| accounts.get(o.account));
        !upstream.retired() && account.is_some_and(|a| self.gateway.permits(&a.spec(), upstream).is_ok())
    }

    fn moved(&mut self, found: Rerouted) {
        for key in found.stored {
            self.book.set_stored(key, true);
        }
        for (to, key) in &found.keys {
            self.book.moved(*key, *to);
            for other in self.book.led_by(*key) {
                self.book.moved(other, *to);
            }
        }
        let mut keys = found.keys.into_iter().peekable();
        while let Some((to, first)) = keys.next() {
            let mut run = vec![first];
            while let Some((_, key)) = keys.next_if(|(next, _)| *next == to) {
                run.push(key);
            }
            if let Some(upstream) = self.gateway.upstream(to) {
                upstream.push_backlog(self.in_line(&run));
            }
        }
        let now = (self.options.now_ms)();
        let mut messages = std::collections::VecDeque::new();
        for (to, message) in found.messages {
            let led = self.book.led_by(message.key);
            for key in std::iter::once(message.key).chain(led) {
                self.book.moved(key, to);
            }
            messages.extend(self.rejoin(to, message, now).into_iter().map(|m| (to, m)));
        }
        for key in self.gateway.dispatch(&mut messages) {
            self.book.set_stored(key, true);
        }
    }

    /// Keys with what a lane has to know of them: whose they are, and how urgent.
    pub(super) fn in_line(&self, keys: &[MessageKey]) -> Vec<(AccountId, u8, MessageKey)> {
        let known = |key: &MessageKey| self.book.get(*key).map(|o| (o.account, o.level, *key));
        keys.iter().filter_map(known).collect()
    }

    fn outboxes(&mut self, now: u64) {
        let before = now.saturating_sub(self.gateway.policy.load().receipt_keep_ms);
        for account in self.gateway.accounts().iter() {
            if account.outbox.next_due().is_some_and(|due| due <= now) {
                account.outbox.resume(now);
            }
            let dropped = account.outbox.expire(before);
            if dropped > 0 {
                self.gateway.metrics.outbox_expired.increment(dropped as u64);
            }
        }
    }

    /// Says once that an account is low on money, and once that it is not any more: when a tenth more than the threshold is
    /// there, so that a balance about the threshold is no stream of alarms.
    fn low_balances(&self, now: u64) {
        let mut low = 0u32;
        for account in self.gateway.accounts().iter() {
            let spec = account.spec();
            if spec.low_balance <= Money::ZERO {
                account.low.store(false, Ordering::Relaxed);
                continue;
            }
            let there = account.with_wallet(|w| w.available());
            let was = account.low.load(Ordering::Relaxed);
            let again = spec.low_balance.0.saturating_add(spec.low_balance.0 / 10);
            let is = if was {
                there.0 < again
            } else {
                there < spec.low_balance
            };
            low += u32::from(is);
            if is != was {
                account.low.store(is, Ordering::Relaxed);
                let (kind, what) = if is {
                    ("wallet_low", "is less than the threshold of")
                } else {
                    ("wallet_recovered", "is well above the threshold of")
                };
                let what = format!("what is available, {there}, {what} {}", spec.low_balance);
                self.gateway.events.add(now, kind, &spec.name, what);
            }
        }
        self.gateway.metrics.wallets_low.set(low);
    }

    /// Rows that nobody came for: of accounts that stay away, parked ones, and inbound messages that no rule claims.
    fn expire_stored(&mut self, now: u64) -> Result<(), StoreError> {
        let g = &self.gateway;
        if now < self.expired_ms + EXPIRE_EVERY_MS || g.store_down.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.expired_ms = now;
        let before = now.saturating_sub(g.policy.load().receipt_keep_ms);
        let gone = self.store.expire_outbox(before)?;
        g.metrics.outbox_expired.increment(gone.len() as u64);
        let accounts = g.accounts();
        for (id, parked) in gone {
            if let Some(account) = accounts.get(id).filter(|_| !parked) {
                account.outbox.gone(1);
            }
        }
        Ok(())
    }

    fn measure(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.rate.window_ms);
        if elapsed >= 100 {
            self.rate.per_second = self.rate.rows * 1_000 / elapsed;
            self.rate.rows = 0;
            self.rate.window_ms = now;
        }
        let g = &self.gateway;
        let low = self.store.log_bytes() > LOG_MAX
            || self
                .store
                .free_bytes()
                .is_some_and(|free| free < g.limits.free_min_bytes);
        if g.low_space.swap(low, Ordering::Relaxed) != low {
            if low {
                tracing::error!(
                    "free disk space is below [store] free_min_bytes, or the write-ahead log cannot be moved into the store; submits are refused until that is mended"
                );
            } else {
                tracing::info!("the store has room again");
            }
        }
        g.totals
            .log_bytes
            .store(self.store.log_bytes(), Ordering::Relaxed);
        g.totals
            .sealing
            .store(self.store.backlog() as u64, Ordering::Relaxed);
    }

    /// While the store is down and nothing has to be written, tries it with a batch of one posting-free row.
    fn probe(&mut self) -> Result<(), StoreError> {
        if !self.gateway.store_down.load(Ordering::Relaxed) || !self.batch.is_empty() {
            return Ok(());
        }
        self.batch.id = self.batch_id();
        let done = match self.store.commit(self.fence, &self.batch) {
            // If it is there its number is used up: the next batch under it would count as a repetition, and be dropped.
            Err(StoreError::Unknown(id)) if self.store.committed(id)? => Ok(()),
            other => other,
        };
        match done {
            Ok(()) => {
                self.next_batch += 1;
                self.gateway.store_down.store(false, Ordering::Relaxed);
                tracing::info!("the store takes writes again");
                Ok(())
            }
            Err(StoreError::Full(_) | StoreError::Retry(_) | StoreError::Unknown(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Reads waiting messages back into lanes that run low, and stored deliveries into outboxes that do.
    pub(super) fn refill(&mut self) -> Result<(), StoreError> {
        let gateway = Arc::clone(&self.gateway);
        for upstream in gateway.upstreams().iter() {
            for key in upstream.unloaded() {
                self.book.set_stored(key, true);
            }
            let keys = upstream.refill(REFILL_MAX);
            if keys.is_empty() {
                continue;
            }
            let wanted: Vec<MessageKey> = keys
                .iter()
                .copied()
                .filter(|k| self.book.get(*k).is_some_and(|o| o.phase == Phase::Queued))
                .collect();
            let mut loaded = Vec::with_capacity(wanted.len());
            let book = &self.book;
            let read = self.store.load(&wanted, &mut |key, message| {
                if let Some(open) = book.get(key) {
                    loaded.push(Outgoing {
                        key,
                        piece: Piece::WHOLE,
                        out: parts_out(open),
                        account: open.account,
                        at_ms: open.at_ms,
                        expires_ms: open.expires_ms,
                        attempts: 0,
                        unanswered: u16::from(open.written),
                        segments: open.segments,
                        message,
                    });
                }
            });
            if let Err(error) = read {
                upstream.not_loaded(keys.into_iter());
                return Err(error);
            }
            if loaded.len() < wanted.len() {
                // Open in memory but not on record: that cannot be, and going on would hide it.
                return Err(StoreError::Fatal("an open message is not in the store".into()));
            }
            let now = (self.options.now_ms)();
            let mut ready = Vec::with_capacity(loaded.len());
            for message in loaded {
                self.book.set_stored(message.key, false);
                if upstream.options.rejoins {
                    let message = self.lead_again(message)?;
                    ready.extend(self.rejoin(upstream.id, message, now));
                } else {
                    ready.push(message);
                }
            }
            upstream.push_loaded(ready, keys.len() - wanted.len());
        }
        for account in gateway.accounts().iter() {
            if let Some(after) = account.outbox.wants_load(gateway.limits.outbox_max) {
                let rows = self.store.load_outbox(account.id, after, REFILL_MAX)?;
                account.outbox.loaded(&rows);
            }
        }
        Ok(())
    }

    /// A slice of sealing, when nothing waits or too much has gathered.
    pub(super) fn seal(&mut self, now: u64, idle: bool) -> Result<(), StoreError> {
        if !idle && self.store.backlog() <= SEAL_BACKLOG {
            return Ok(());
        }
        if let Some(upto) = self.store.sealing() {
            let mut clear = true;
            for account in self.gateway.accounts().iter() {
                clear &= account.outbox.store_up_to(upto);
            }
            self.seal_waits = !clear;
            if !clear {
                return Ok(());
            }
        }
        match self.store.maintain(self.fence, now)? {
            Progress::Idle | Progress::More => Ok(()),
        }
    }

    /// Messages that were marked as being sent when the process ended.
    pub(super) fn settle_unknown(&mut self, messages: Vec<(MessageKey, UpstreamId)>) {
        let now = (self.options.now_ms)();
        for (key, upstream) in messages {
            let policy = self.gateway.upstream(upstream).map(|u| u.options.unknown_outcome);
            match policy {
                Some(UnknownOutcome::Fail) if self.book.get(key).is_some_and(|o| o.parts.is_some()) => {
                    self.parts_over(key, |s| s == PartState::Sending, Final::Undeliverable, now);
                }
                Some(UnknownOutcome::Fail) => self.finish(key, Final::Undeliverable, 0, false, now),
                Some(UnknownOutcome::Hold) => self.mark(upstream, key, Piece::WHOLE, MarkKind::Held, now),
                Some(UnknownOutcome::Resend) | None => {
                    // The policy was changed to resend while the process was down, or the upstream is gone from the config.
                    let waits = self.book.get(key).is_some_and(|o| o.phase == Phase::Queued);
                    self.book.requeued(key);
                    if waits {
                        // Other parts of it do; the whole of it is in line already.
                        continue;
                    }
                    let policy = self.gateway.policy.load_full();
                    let to = match self.gateway.upstream(upstream).filter(|u| self.may_carry(key, u)) {
                        Some(u) => u.id,
                        None => self.home(&policy, key).unwrap_or(UpstreamId::NONE),
                    };
                    self.book.moved(key, to);
                    self.book.set_stored(key, true);
                    if let Some(u) = self.gateway.upstream(to) {
                        u.push_backlog(self.in_line(&[key]));
                    }
                }
            }
        }
    }
}

/// The parts of a message that need not be sent again.
fn parts_out(open: &Open) -> Option<Box<PartSet>> {
    let parts = open.parts.as_deref()?;
    let mut set = PartSet::new(parts.len() as u8);
    for (at, _) in parts
        .iter()
        .enumerate()
        .filter(|(_, p)| p.state != PartState::Waiting)
    {
        set.insert(at as u8 + 1);
    }
    Some(Box::new(set))
}
