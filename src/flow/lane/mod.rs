//! One upstream's lane: what waits for it, whose turn it is, how fast it may go, and what becomes of messages it did not take.

mod fair;
mod message;
mod options;
mod pacer;
mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::habits::{IdHabits, UnknownStats};
use super::ingress::{Signal, UpEvent, lock};
use super::routing::Quality;
use crate::domain::message::Piece;
use crate::ids::{AccountId, MessageKey, UpstreamId};
use fair::Fair;
pub use message::{Outgoing, PartSet};
pub use options::{BindInfo, UnknownOutcome, UpstreamOptions};
use pacer::Pacer;
pub(super) use search::Rerouted;
use search::Search;

#[derive(Default)]
struct Lane {
    fair: Fair,
    /// Temporarily refused, by when they are tried again.
    retry: BTreeMap<(u64, MessageKey, Piece), Outgoing>,
    /// How many keys in `fair` stand for messages that have ended meanwhile.
    gone: usize,
    /// A search for another route that is under way.
    search: Option<Search>,
    /// Messages that are no longer in memory, for whoever keeps account of that.
    unloaded: Vec<MessageKey>,
    /// PDUs over all binds.
    pace: Pacer,
    /// The same, for marks: see [`Upstream::marks_before_sending`].
    mark_pace: Pacer,
    /// PDUs of each bind.
    bind_pace: Vec<Pacer>,
    /// Every bind, up or not.
    binds: BTreeMap<u16, Arc<dyn Signal>>,
    /// Binds that can send.
    senders: BTreeSet<u16>,
    /// Senders that found the lane empty and want to be woken, longest waiting first.
    idle: VecDeque<u16>,
}

/// An upstream: its lane, its switches, and what is shown of it.
pub struct Upstream {
    /// Its stable id.
    pub id: UpstreamId,
    /// Its settings.
    pub options: UpstreamOptions,
    lane: Mutex<Lane>,
    enabled: AtomicBool,
    /// Binds that may send.
    senders: AtomicU32,
    /// Rises whenever it may have become able or unable to send.
    turns: AtomicU32,
    /// Rises when its binds are to reconnect.
    reconnects: AtomicU32,
    /// How it spells ids.
    pub habits: IdHabits,
    /// Words of its receipts that stand for no state we know.
    pub unknown_stats: UnknownStats,
    /// How much of what it took it has delivered lately.
    pub quality: Quality,
    /// It is no longer in the config: nothing goes to it any more.
    retired: AtomicBool,
    /// Its binds.
    pub binds: Vec<BindInfo>,
    /// Accepted by the SMSC since the start.
    pub sent: AtomicU64,
    /// Temporary refusals since the start.
    pub throttled: AtomicU64,
    /// Refused for good since the start.
    pub refused: AtomicU64,
    /// Receipts since the start.
    pub receipts: AtomicU64,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({})", self.options.name)
    }
}

/// What a bind takes from the lane.
#[derive(Debug, Default)]
pub struct Taken {
    /// To be written now.
    pub out: Vec<Outgoing>,
    /// Too old to be sent.
    pub expired: Vec<(MessageKey, Piece)>,
    /// When to come again although nothing new arrives (pacing, retries), ms since the epoch.
    pub again_ms: Option<u64>,
    /// The lane ran low and the store has more.
    pub low: bool,
}

impl Upstream {
    /// An upstream with `binds` sessions, none of them up.
    #[must_use]
    pub fn new(id: UpstreamId, options: UpstreamOptions, binds: usize) -> Upstream {
        Upstream {
            id,
            habits: IdHabits::new(options.id_form),
            unknown_stats: UnknownStats::default(),
            quality: Quality::default(),
            retired: AtomicBool::new(false),
            lane: Mutex::new(Lane {
                fair: Fair::new(options.queue_max),
                pace: Pacer::new(options.tps),
                mark_pace: Pacer::new(options.tps),
                bind_pace: (0..binds).map(|_| Pacer::new(options.bind_tps)).collect(),
                ..Lane::default()
            }),
            options,
            enabled: AtomicBool::new(true),
            senders: AtomicU32::new(0),
            turns: AtomicU32::new(0),
            reconnects: AtomicU32::new(0),
            binds: (0..binds).map(|_| BindInfo::default()).collect(),
            sent: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            receipts: AtomicU64::new(0),
        }
    }

    /// Takes it out of routing for good: it is no longer in the config, or another has taken its place.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.turns.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether [`Upstream::retire`] was called.
    #[must_use]
    pub fn retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Can send now.
    #[must_use]
    pub fn live(&self) -> bool {
        !self.retired() && self.enabled() && self.senders.load(Ordering::Acquire) > 0
    }

    /// Switched on.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Switches it on or off and wakes its binds.
    pub fn enable(&self, on: bool) {
        self.enabled.store(on, Ordering::Release);
        self.turns.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
    }

    /// Makes its binds reconnect.
    pub fn reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
    }

    /// Rises with every [`Upstream::reconnect`].
    #[must_use]
    pub fn reconnects(&self) -> u32 {
        self.reconnects.load(Ordering::Acquire)
    }

    /// Rises whenever it may have become able or unable to send.
    pub(super) fn turns(&self) -> u32 {
        self.turns.load(Ordering::Acquire)
    }

    /// Wakes every bind.
    pub fn wake_all(&self) {
        for signal in lock(&self.lane).binds.values() {
            signal.signal();
        }
    }

    /// A bind registers for wake-ups for as long as its task lives.
    pub fn register(&self, bind: u16, signal: Arc<dyn Signal>) {
        lock(&self.lane).binds.insert(bind, signal);
    }

    /// A bind that may send is up.
    pub fn sender_up(&self, bind: u16) {
        let mut lane = lock(&self.lane);
        lane.senders.insert(bind);
        lane.end_search();
        self.senders.store(lane.senders.len() as u32, Ordering::Release);
        self.turns.fetch_add(1, Ordering::AcqRel);
    }

    /// A bind that could send is gone: what it was woken for is another's now.
    pub fn sender_down(&self, bind: u16) {
        let mut lane = lock(&self.lane);
        lane.senders.remove(&bind);
        lane.idle.retain(|b| *b != bind);
        self.senders.store(lane.senders.len() as u32, Ordering::Release);
        self.turns.fetch_add(1, Ordering::AcqRel);
        let waiting = lane.fair.len() + lane.retry.len();
        lane.wake(waiting);
    }

    /// Messages waiting: in memory and in the store.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        let lane = lock(&self.lane);
        let stay = lane.search.as_ref().map_or(0, |s| s.stay().len());
        let stored = (lane.fair.keys() + stay).saturating_sub(lane.gone);
        (lane.fair.len() + lane.retry.len(), stored)
    }

    /// When the oldest message that waits in memory was accepted, ms since the epoch.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        let lane = lock(&self.lane);
        let queued = lane.fair.oldest_ms();
        lane.retry.values().map(|m| m.at_ms).chain(queued).min()
    }

    /// Adds committed messages in order. What does not fit waits in the store: its keys are kept here and handed back.
    #[must_use]
    pub(super) fn push(&self, messages: impl IntoIterator<Item = Outgoing>) -> Vec<MessageKey> {
        let mut lane = lock(&self.lane);
        let (mut added, mut stored) = (0usize, Vec::new());
        for message in messages {
            if !message.piece.whole() {
                lane.keep(message);
                added += 1;
                continue;
            }
            let flow = lane.fair.flow(message.account, message.level());
            // While the store has older ones of its flow, newer ones queue behind them.
            let behind = lane.fair.get(flow).is_some_and(|f| !f.backlog.is_empty())
                || lane.search.as_ref().is_some_and(|s| s.holds() == Some(flow));
            if !behind && lane.fair.has_room(flow) {
                lane.fair.push_back(flow, message);
                added += 1;
            } else {
                stored.push(message.key);
                lane.fair.push_key(flow, message.key);
            }
        }
        lane.wake(added);
        stored
    }

    /// Messages that wait in the store only: whose they are, and how urgent.
    pub(super) fn push_backlog(&self, keys: impl IntoIterator<Item = (AccountId, u8, MessageKey)>) {
        let mut lane = lock(&self.lane);
        for (account, level, key) in keys {
            let flow = lane.fair.flow(account, level);
            lane.fair.push_key(flow, key);
        }
    }

    /// `n` messages of the backlog have ended; their keys go when it is their turn.
    pub(super) fn forget_stored(&self, n: usize) {
        lock(&self.lane).gone += n;
    }

    /// A message of the backlog waits for a time now, and no longer here.
    pub(super) fn forget_key(&self, account: AccountId, level: u8, key: MessageKey) {
        let mut lane = lock(&self.lane);
        let flow = lane.fair.flow(account, level);
        lane.fair.remove_key(flow, key);
        // It may be among those that a search has looked at already.
        if let Some(search) = &mut lane.search {
            search.forget(key);
        }
    }

    /// Keys to be loaded, of flows that run low. Give what was read to [`Upstream::push_loaded`], or all of them back with
    /// [`Upstream::not_loaded`].
    pub(super) fn refill(&self, max: usize) -> Vec<MessageKey> {
        let mut lane = lock(&self.lane);
        let held = lane.search.as_ref().and_then(Search::holds);
        lane.fair.refill(max, held)
    }

    /// Messages that were in memory and wait in the store only from now on.
    pub(super) fn unloaded(&self) -> Vec<MessageKey> {
        std::mem::take(&mut lock(&self.lane).unloaded)
    }

    /// Keys that [`Upstream::refill`] gave out and that could not be read: first in line again.
    pub(super) fn not_loaded(&self, keys: impl DoubleEndedIterator<Item = MessageKey>) {
        lock(&self.lane).fair.not_loaded(keys);
    }

    /// Messages read back from the store, older than anything in the backlogs; `gone` of the keys had ended meanwhile.
    pub(super) fn push_loaded(&self, messages: impl IntoIterator<Item = Outgoing>, gone: usize) {
        let mut lane = lock(&self.lane);
        let before = lane.fair.len();
        for message in messages {
            lane.fair.push_loaded(message);
        }
        lane.fair.loaded();
        lane.gone = lane.gone.saturating_sub(gone);
        let added = lane.fair.len().saturating_sub(before);
        lane.wake(added);
    }

    /// Takes away what waits here in memory and is `wanted`: whole messages, or parts. The rest is in a bind's hands.
    pub(super) fn withdraw(&self, wanted: impl Fn(&Outgoing) -> bool) -> Vec<Outgoing> {
        let mut lane = lock(&self.lane);
        let found = lane.fair.withdraw(&wanted);
        let refused = lane.retry.extract_if(.., |_, m| wanted(m));
        let refused: Vec<Outgoing> = refused.map(|(_, m)| m).collect();
        found.into_iter().chain(refused).collect()
    }

    /// Keys of everything of a customer's that waits here, for a search through it.
    pub(super) fn keys(&self, account: AccountId) -> Vec<MessageKey> {
        let lane = lock(&self.lane);
        let held = lane.search.as_ref().filter(|s| s.holds().is_some());
        let mut found: Vec<MessageKey> = held.map_or_else(Vec::new, |s| s.stay().iter().copied().collect());
        for (_, flow) in lane.fair.flows().filter(|(_, f)| f.account == account) {
            found.extend(flow.queue.iter().map(|m| m.key));
            found.extend(&flow.backlog);
        }
        found.extend(
            lane.retry
                .values()
                .filter(|m| m.account == account)
                .map(|m| m.key),
        );
        found
    }

    /// Takes up to `max` messages that `bind` may write at `now_ms`. A bind that finds less than it could take is woken when
    /// there is more.
    pub fn take(&self, bind: u16, max: usize, now_ms: u64) -> Taken {
        let mut taken = Taken::default();
        if !self.enabled() {
            return taken;
        }
        let mut lane = lock(&self.lane);
        lane.retry_due(now_ms);
        while taken.out.len() < max {
            if lane.fair.is_empty() {
                taken.again_ms = lane.retry.first_key_value().map(|((due, ..), _)| *due);
                lane.idles(bind);
                break;
            }
            if let Some(wait) = self.wait(&lane, bind, now_ms) {
                taken.again_ms = Some(wait);
                lane.idles(bind);
                break;
            }
            let Some((message, low)) = lane.fair.next() else {
                break;
            };
            taken.low |= low;
            if message.expires_ms <= now_ms {
                taken.expired.push((message.key, message.piece));
                continue;
            }
            self.spend(&mut lane, bind, now_ms);
            taken.out.push(message);
        }
        // It took what it could and there is more: the next one's turn.
        if taken.again_ms.is_none() && !lane.fair.is_empty() {
            lane.wake(1);
        }
        taken
    }

    /// Lets one PDU more through, for a message that is written in several, or that was marked before: `Err` says when.
    ///
    /// # Errors
    /// The time at which to ask again, ms since the epoch.
    pub fn turn(&self, bind: u16, now_ms: u64) -> Result<(), u64> {
        if !self.paced() {
            return Ok(());
        }
        let mut lane = lock(&self.lane);
        let waits = [Some(&lane.pace), lane.bind_pace.get(usize::from(bind))];
        match waits.into_iter().flatten().filter_map(|p| p.wait(now_ms)).max() {
            Some(at) => Err(at),
            None => {
                lane.pace.spend(now_ms);
                if let Some(pace) = lane.bind_pace.get_mut(usize::from(bind)) {
                    pace.spend(now_ms);
                }
                Ok(())
            }
        }
    }

    /// Whether PDUs need a turn at all.
    #[must_use]
    pub fn paced(&self) -> bool {
        self.options.tps > 0 || self.options.bind_tps > 0
    }

    /// What had its turn is written only `ms` later than it was to.
    pub fn late(&self, bind: u16, ms: u64) {
        let mut lane = lock(&self.lane);
        lane.pace.late(ms);
        if let Some(pace) = lane.bind_pace.get_mut(usize::from(bind)) {
            pace.late(ms);
        }
    }

    /// The SMSC says that it is too fast (ESME_RTHROTTLED): all binds go slower until it has been content for a while.
    pub fn too_fast(&self, now_ms: u64) {
        let mut lane = lock(&self.lane);
        lane.pace.refused(now_ms);
        lane.mark_pace.refused(now_ms);
    }

    /// PDUs a second that go out at most at the moment, if there is a limit.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        lock(&self.lane).pace.rate()
    }

    /// When the pacers let the next one of a bind through, if not now.
    fn wait(&self, lane: &Lane, bind: u16, now_ms: u64) -> Option<u64> {
        if self.marks_before_sending() {
            return lane.mark_pace.wait(now_ms);
        }
        let of_bind = lane.bind_pace.get(usize::from(bind)).and_then(|p| p.wait(now_ms));
        lane.pace.wait(now_ms).max(of_bind)
    }

    fn spend(&self, lane: &mut Lane, bind: u16, now_ms: u64) {
        if self.marks_before_sending() {
            return lane.mark_pace.spend(now_ms);
        }
        lane.pace.spend(now_ms);
        if let Some(pace) = lane.bind_pace.get_mut(usize::from(bind)) {
            pace.spend(now_ms);
        }
    }

    /// Messages that never reached the socket: first in line again.
    pub fn unsent(&self, messages: impl DoubleEndedIterator<Item = Outgoing>) {
        let mut lane = lock(&self.lane);
        let mut back = 0;
        for message in messages.rev() {
            lane.fair.push_front(message);
            back += 1;
        }
        lane.wake(back);
    }

    /// A temporary refusal: try again after a pause that doubles, until its validity ends.
    pub fn retry(&self, mut message: Outgoing, now_ms: u64) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
        let pause = self
            .options
            .retry_min_ms
            .saturating_mul(1 << message.attempts.min(20))
            .min(self.options.retry_max_ms);
        message.attempts = message.attempts.saturating_add(1);
        // Not later than its end, so that an expiry is reported on time.
        let due = (now_ms + pause).min(message.expires_ms.max(now_ms));
        let mut lane = lock(&self.lane);
        lane.retry.insert((due, message.key, message.piece), message);
        // Somebody has to note when it is due.
        lane.wake(1);
    }

    /// Written and never answered: what `unknown_outcome` says.
    ///
    /// # Errors
    /// The report for the engine, where it is not to be sent again.
    pub fn unanswered(&self, mut message: Outgoing) -> Result<Outgoing, UpEvent> {
        match self.options.unknown_outcome {
            UnknownOutcome::Resend if u32::from(message.unanswered) < self.options.unknown_resend_max => {
                message.unanswered += 1;
                Ok(message)
            }
            UnknownOutcome::Resend | UnknownOutcome::Hold => Err(UpEvent::Held(message.key, message.piece)),
            UnknownOutcome::Fail => Err(UpEvent::Abandoned(message.key, message.piece)),
        }
    }

    /// Whether a message must be marked on record before it is written.
    #[must_use]
    pub fn marks_before_sending(&self) -> bool {
        self.options.unknown_outcome != UnknownOutcome::Resend
    }
}

/// A bind is woken for about this many messages.
const MESSAGES_PER_WAKE: usize = 64;

impl Lane {
    /// What was refused for the moment and whose pause is over is first in line again.
    fn retry_due(&mut self, now_ms: u64) {
        let mut due = Vec::new();
        while let Some(first) = self.retry.first_entry().filter(|e| e.key().0 <= now_ms) {
            due.push(first.remove());
        }
        for message in due.into_iter().rev() {
            self.fair.push_front(message);
        }
    }

    /// A part of a message stays in memory whatever happens: in the store there is only the whole, which would be cut anew
    /// when it is read back, and its other parts may be anywhere. They are few: binds have had them in hand. It is in line
    /// at once.
    fn keep(&mut self, part: Outgoing) {
        self.retry.insert((0, part.key, part.piece), part);
    }

    fn idles(&mut self, bind: u16) {
        if self.senders.contains(&bind) && !self.idle.contains(&bind) {
            self.idle.push_back(bind);
        }
    }

    /// Wakes idle binds for `added` messages; one that is busy comes by itself when it can take more.
    fn wake(&mut self, added: usize) {
        for _ in 0..added.div_ceil(MESSAGES_PER_WAKE) {
            let Some(bind) = self.idle.pop_front() else { return };
            if let Some(signal) = self.binds.get(&bind) {
                signal.signal();
            }
        }
    }
}
