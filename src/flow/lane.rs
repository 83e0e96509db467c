//! One upstream's lane: what waits for it, how fast it may go, and what becomes of messages it did not take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::habits::{IdForm, IdHabits, UnknownStats};
use super::ingress::{Signal, UpEvent, lock};
use super::routing::{Offer, Quality};
use crate::domain::message::{Message, Piece};
use crate::ids::{MessageKey, UpstreamId};

/// A message on its way to an upstream.
#[derive(Debug)]
pub struct Outgoing {
    /// Its key.
    pub key: MessageKey,
    /// Which part of it, once it has been cut for an upstream.
    pub piece: Piece,
    /// Parts that are out already: the message waited again after some of them had gone.
    pub out: Option<Box<PartSet>>,
    /// Accepted, ms since the epoch.
    pub at_ms: u64,
    /// Until when it may be sent, ms since the epoch.
    pub expires_ms: u64,
    /// Temporary refusals so far.
    pub attempts: u32,
    /// Times it was written and never answered.
    pub unanswered: u32,
    /// Segments, for pacing.
    pub segments: u8,
    /// The message.
    pub message: Message,
}

/// Some of the parts of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartSet {
    /// How many parts there are.
    pub of: u8,
    set: [u64; 4],
}

impl PartSet {
    /// None of `of` parts.
    #[must_use]
    pub fn new(of: u8) -> PartSet {
        PartSet { of, set: [0; 4] }
    }

    /// Adds one.
    pub fn insert(&mut self, part: u8) {
        if let Some(word) = self.set.get_mut(usize::from(part >> 6)) {
            *word |= 1 << (part & 63);
        }
    }

    /// Whether it is in.
    #[must_use]
    pub fn contains(&self, part: u8) -> bool {
        let word = self.set.get(usize::from(part >> 6));
        word.is_some_and(|w| w & 1 << (part & 63) != 0)
    }
}

/// What to do with a message that was written and never answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnknownOutcome {
    /// Send it again (up to `unknown_resend_max`, then hold): at least once.
    #[default]
    Resend,
    /// Keep it for a receipt or an operator.
    Hold,
    /// Give it up and release its price.
    Fail,
}

impl UnknownOutcome {
    /// Its word in the config.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            UnknownOutcome::Resend => "resend",
            UnknownOutcome::Hold => "hold",
            UnknownOutcome::Fail => "fail",
        }
    }
}

/// How an upstream is treated.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Name in the config.
    pub name: String,
    /// Messages waiting in memory; beyond, in the store.
    pub queue_max: usize,
    /// PDUs a second over all binds; 0: unlimited.
    pub tps: u32,
    /// First pause after a temporary refusal, ms; doubles.
    pub retry_min_ms: u64,
    /// Longest pause, ms.
    pub retry_max_ms: u64,
    /// See [`UnknownOutcome`].
    pub unknown_outcome: UnknownOutcome,
    /// Resends before holding.
    pub unknown_resend_max: u32,
    /// How its receipts spell the ids of its responses; `None`: to be learned.
    pub id_form: Option<IdForm>,
    /// Parts that customers have cut are put together for it.
    pub rejoins: bool,
    /// What it is to routing.
    pub offer: Offer,
}

/// A bind, for listing.
#[derive(Debug, Default)]
pub struct BindInfo {
    /// 0 down, 1 connecting, 2 bound.
    pub state: AtomicU32,
    /// Unanswered requests.
    pub outstanding: AtomicU32,
    /// How many it is given at most, as it has answered so far.
    pub window: AtomicU32,
    /// Since when in this state, ms since the epoch.
    pub since_ms: AtomicU64,
    /// Why it is down, in a word or two.
    pub why: Mutex<String>,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Outgoing>,
    /// Octets of the messages in `queue`.
    octets: usize,
    /// Temporarily refused, by when they are tried again.
    retry: BTreeMap<(u64, MessageKey, Piece), Outgoing>,
    /// Keys of messages that wait in the store.
    backlog: VecDeque<MessageKey>,
    /// How many keys of the backlog stand for messages that have ended meanwhile.
    gone: usize,
    /// Looked at by the search for another route that is under way, and not movable: older than everything in `queue`.
    stay: VecDeque<MessageKey>,
    /// What that search has still to look at.
    search: Option<usize>,
    /// Next free instant of the pacer, microseconds since the epoch.
    next_us: u64,
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

/// What a slice of a search for another route found.
#[derive(Debug, Default)]
pub(super) struct Rerouted {
    /// Messages in memory, and where to.
    pub messages: Vec<(UpstreamId, Outgoing)>,
    /// Keys of messages in the store, and where to.
    pub keys: Vec<(UpstreamId, MessageKey)>,
    /// Messages that stay, but are in the store only from now on.
    pub stored: Vec<MessageKey>,
}

/// The pacer lets this much of a second through at once, so that timers of a millisecond can keep up with any rate.
const PACE_BURST_US: u64 = 10_000;
/// Octets a waiting message may have on average before the queue counts as full: texts are short, payloads need not be.
const OCTETS_EACH: usize = 1024;

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
            options,
            lane: Mutex::default(),
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
        lane.merge();
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
        let waiting = lane.queue.len() + lane.retry.len();
        lane.wake(waiting);
    }

    /// Messages waiting: in memory and in the store.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        let lane = lock(&self.lane);
        let stored = (lane.backlog.len() + lane.stay.len()).saturating_sub(lane.gone);
        (lane.queue.len() + lane.retry.len(), stored)
    }

    /// When the oldest message that waits in memory was accepted, ms since the epoch.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        let lane = lock(&self.lane);
        let queued = lane.queue.front().map(|m| m.at_ms);
        lane.retry.values().map(|m| m.at_ms).chain(queued).min()
    }

    /// Adds committed messages in order. What does not fit waits in the store: its keys are kept here and handed back.
    #[must_use]
    pub(super) fn push(&self, messages: impl IntoIterator<Item = Outgoing>) -> Vec<MessageKey> {
        let mut lane = lock(&self.lane);
        let (mut added, mut stored) = (0usize, Vec::new());
        for message in messages {
            // While the store has older ones, newer ones queue behind them.
            let room = lane.queue.len() < self.options.queue_max
                && lane.octets < self.options.queue_max * OCTETS_EACH;
            if !message.piece.whole() {
                lane.keep(message);
                added += 1;
            } else if room && lane.backlog.is_empty() && lane.stay.is_empty() {
                lane.append(message);
                added += 1;
            } else {
                stored.push(message.key);
            }
        }
        lane.backlog.extend(&stored);
        lane.wake(added);
        stored
    }

    /// Messages that wait in the store only.
    pub(super) fn push_backlog(&self, keys: impl IntoIterator<Item = MessageKey>) {
        let mut lane = lock(&self.lane);
        lane.backlog.extend(keys);
    }

    /// `n` messages of the backlog have ended; their keys go when it is their turn.
    pub(super) fn forget_stored(&self, n: usize) {
        lock(&self.lane).gone += n;
    }

    /// Keys to be loaded, if the queue is at most half full. Give those that did not load back with
    /// [`Upstream::not_loaded`].
    pub(super) fn refill(&self, max: usize) -> Vec<MessageKey> {
        let mut lane = lock(&self.lane);
        let low = lane.queue.len() <= self.options.queue_max / 2
            && lane.octets <= self.options.queue_max * OCTETS_EACH / 2;
        if lane.backlog.is_empty() || !low || !lane.stay.is_empty() {
            return Vec::new();
        }
        let n = max.min(lane.backlog.len());
        lane.backlog.drain(..n).collect()
    }

    /// Keys that [`Upstream::refill`] gave out and that could not be read: first in line again.
    pub(super) fn not_loaded(&self, keys: impl DoubleEndedIterator<Item = MessageKey>) {
        let mut lane = lock(&self.lane);
        for key in keys.rev() {
            lane.backlog.push_front(key);
        }
    }

    /// Messages read back from the store, older than anything in the backlog; `gone` of the keys had ended meanwhile.
    pub(super) fn push_loaded(&self, messages: impl IntoIterator<Item = Outgoing>, gone: usize) {
        let mut lane = lock(&self.lane);
        let before = lane.queue.len();
        for message in messages {
            lane.append(message);
        }
        lane.gone = lane.gone.saturating_sub(gone);
        let added = lane.queue.len() - before;
        lane.wake(added);
    }

    /// Begins to look for another route for everything that waits here.
    pub(super) fn search(&self) {
        let mut lane = lock(&self.lane);
        lane.merge();
        lane.search = Some(lane.queue.len() + lane.backlog.len());
    }

    /// Looks at up to `max` more waiting messages, oldest first: those for which `to` names an upstream leave the lane.
    /// `None` once everything has been looked at.
    pub(super) fn reroute(
        &self,
        max: usize,
        mut to: impl FnMut(MessageKey) -> Option<UpstreamId>,
    ) -> Option<Rerouted> {
        let mut lane = lock(&self.lane);
        let left = lane.search?;
        let mut found = Rerouted::default();
        for _ in 0..left.min(max) {
            if let Some(message) = lane.queue.pop_front() {
                lane.octets -= message.message.record().len();
                match to(message.key) {
                    Some(id) => found.messages.push((id, message)),
                    None if !message.piece.whole() => lane.keep(message),
                    None => {
                        found.stored.push(message.key);
                        lane.stay.push_back(message.key);
                    }
                }
            } else if let Some(key) = lane.backlog.pop_front() {
                match to(key) {
                    Some(id) => found.keys.push((id, key)),
                    None => lane.stay.push_back(key),
                }
            }
        }
        if left > max {
            lane.search = Some(left - max);
            return Some(found);
        }
        // What was refused for the moment waits for its time on, wherever that is.
        for (due, message) in std::mem::take(&mut lane.retry) {
            match to(message.key) {
                Some(id) => found.messages.push((id, message)),
                None => {
                    lane.retry.insert(due, message);
                }
            }
        }
        lane.merge();
        Some(found)
    }

    /// Takes away what waits here in memory and is `wanted`: whole messages, or parts. The rest is in a bind's hands.
    pub(super) fn withdraw(&self, wanted: impl Fn(&Outgoing) -> bool) -> Vec<Outgoing> {
        let mut lane = lock(&self.lane);
        let at = |(i, m): (usize, &Outgoing)| wanted(m).then_some(i);
        let places: Vec<usize> = lane.queue.iter().enumerate().filter_map(at).collect();
        let mut found = Vec::with_capacity(places.len());
        if places.len() <= FEW {
            for at in places.into_iter().rev() {
                found.extend(lane.queue.remove(at));
            }
            found.reverse();
        } else {
            let mut keep = VecDeque::with_capacity(lane.queue.len());
            for m in lane.queue.drain(..) {
                if wanted(&m) {
                    found.push(m);
                } else {
                    keep.push_back(m);
                }
            }
            lane.queue = keep;
        }
        let octets: usize = found.iter().map(|m| m.message.record().len()).sum();
        lane.octets = lane.octets.saturating_sub(octets);
        let refused = lane.retry.extract_if(.., |_, m| wanted(m));
        let refused: Vec<Outgoing> = refused.map(|(_, m)| m).collect();
        found.into_iter().chain(refused).collect()
    }

    /// Keys of everything that waits here, for a search through it.
    pub(super) fn keys(&self) -> Vec<MessageKey> {
        let lane = lock(&self.lane);
        let stored = lane.stay.iter().chain(&lane.backlog).copied();
        let memory = lane.queue.iter().chain(lane.retry.values()).map(|m| m.key);
        stored.chain(memory).collect()
    }

    /// Takes up to `max` messages that `bind` may write at `now_ms`. A bind that finds less than it could take is woken when
    /// there is more.
    pub fn take(&self, bind: u16, max: usize, now_ms: u64) -> Taken {
        let mut taken = Taken::default();
        if !self.enabled() {
            return taken;
        }
        let mut lane = lock(&self.lane);
        while taken.out.len() < max {
            let retry_due = lane.retry.first_key_value().map(|((due, ..), _)| *due);
            let use_retry = retry_due.is_some_and(|due| due <= now_ms);
            if !use_retry && lane.queue.is_empty() {
                taken.again_ms = retry_due;
                lane.idles(bind);
                break;
            }
            if let Some(wait) = self.pace(&mut lane, now_ms) {
                taken.again_ms = Some(wait);
                lane.idles(bind);
                break;
            }
            let next = if use_retry {
                lane.retry.pop_first().map(|(_, m)| m)
            } else {
                lane.pop()
            };
            let Some(message) = next else { break };
            if message.expires_ms <= now_ms {
                taken.expired.push((message.key, message.piece));
                continue;
            }
            self.paced(&mut lane, now_ms);
            taken.out.push(message);
        }
        // It took what it could and there is more: the next one's turn.
        if taken.again_ms.is_none() && !lane.queue.is_empty() {
            lane.wake(1);
        }
        taken.low = !lane.backlog.is_empty() && lane.queue.len() <= self.options.queue_max / 2;
        if lane.queue.is_empty() && lane.queue.capacity() > 4096 {
            lane.queue = VecDeque::new();
        }
        taken
    }

    /// Lets one PDU more through, for a message that is written in several: `Err` says when.
    ///
    /// # Errors
    /// The time at which to ask again, ms since the epoch.
    pub fn turn(&self, now_ms: u64) -> Result<(), u64> {
        if self.options.tps == 0 {
            return Ok(());
        }
        let mut lane = lock(&self.lane);
        match self.pace(&mut lane, now_ms) {
            Some(at) => Err(at),
            None => {
                self.paced(&mut lane, now_ms);
                Ok(())
            }
        }
    }

    /// When the pacer lets the next one through, if not now.
    fn pace(&self, lane: &mut Lane, now_ms: u64) -> Option<u64> {
        if self.options.tps == 0 {
            return None;
        }
        let now_us = now_ms * 1_000;
        (lane.next_us > now_us + self.burst_us()).then(|| (lane.next_us - self.burst_us()).div_ceil(1_000))
    }

    fn burst_us(&self) -> u64 {
        // A burst of one PDU at least counts as none: the pacer then spaces them evenly.
        if u64::from(self.options.tps) * PACE_BURST_US < 2_000_000 {
            0
        } else {
            PACE_BURST_US
        }
    }

    fn paced(&self, lane: &mut Lane, now_ms: u64) {
        if self.options.tps > 0 {
            let step = 1_000_000 / u64::from(self.options.tps).min(1_000_000);
            lane.next_us = lane.next_us.max(now_ms * 1_000) + step;
        }
    }

    /// Messages that never reached the socket: first in line again.
    pub fn unsent(&self, messages: impl DoubleEndedIterator<Item = Outgoing>) {
        let mut lane = lock(&self.lane);
        let mut back = 0;
        for message in messages.rev() {
            lane.octets += message.message.record().len();
            lane.queue.push_front(message);
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
        message.attempts += 1;
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
            UnknownOutcome::Resend if message.unanswered < self.options.unknown_resend_max => {
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

/// So few messages are taken out of the queue one by one; for more it is written anew.
const FEW: usize = 8;
/// A bind is woken for about this many messages.
const MESSAGES_PER_WAKE: usize = 64;

impl Lane {
    fn append(&mut self, message: Outgoing) {
        self.octets += message.message.record().len();
        self.queue.push_back(message);
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let message = self.queue.pop_front()?;
        self.octets = self.octets.saturating_sub(message.message.record().len());
        Some(message)
    }

    /// Ends a search: what was looked at and stays is the oldest of all again.
    fn merge(&mut self) {
        self.search = None;
        if self.stay.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.stay);
        for message in std::mem::take(&mut self.queue) {
            if message.piece.whole() {
                all.push_back(message.key);
            } else {
                self.keep(message);
            }
        }
        self.octets = 0;
        all.append(&mut self.backlog);
        self.backlog = all;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Parts;

    fn upstream(queue_max: usize, tps: u32) -> Upstream {
        let options = UpstreamOptions {
            name: "up".into(),
            queue_max,
            tps,
            retry_min_ms: 100,
            retry_max_ms: 1_000,
            unknown_outcome: UnknownOutcome::Resend,
            unknown_resend_max: 1,
            id_form: None,
            rejoins: false,
            offer: super::Offer::default(),
        };
        Upstream::new(UpstreamId(0), options, 1)
    }

    fn message(key: u64) -> Outgoing {
        Outgoing {
            key: MessageKey(key),
            piece: Piece::WHOLE,
            out: None,
            at_ms: key,
            expires_ms: 1_000_000,
            attempts: 0,
            unanswered: 0,
            segments: 1,
            message: Message::new(&Parts::default()),
        }
    }

    fn keys(t: &Taken) -> Vec<u64> {
        t.out.iter().map(|m| m.key.0).collect()
    }

    #[test]
    fn beyond_the_bound_only_keys_are_kept_and_the_order_stays() {
        let u = upstream(4, 0);
        assert_eq!(u.push((0..6).map(message)), [4, 5].map(MessageKey));
        assert_eq!(u.depth(), (4, 2));
        let first = u.take(0, 3, 0);
        assert_eq!(keys(&first), [0, 1, 2]);
        assert!(first.low);
        assert_eq!(u.push([message(6)]).len(), 1);
        assert_eq!(u.refill(10), [4, 5, 6].map(MessageKey));
        u.push_loaded([message(4), message(5), message(6)], 0);
        assert_eq!(keys(&u.take(0, 9, 0)), [3, 4, 5, 6]);
    }

    #[test]
    fn retries_pause_double_and_end_with_the_validity() {
        let u = upstream(10, 0);
        let mut m = message(1);
        m.expires_ms = 350;
        u.retry(m, 0);
        assert_eq!(u.take(0, 9, 0).again_ms, Some(100));
        let m = u.take(0, 9, 100).out.remove(0);
        u.retry(m, 100);
        assert_eq!(u.take(0, 9, 299).again_ms, Some(300));
        let m = u.take(0, 9, 300).out.remove(0);
        u.retry(m, 300);
        assert_eq!(u.take(0, 9, 350).expired, [(MessageKey(1), Piece::WHOLE)]);
    }

    #[test]
    fn pacing_never_exceeds_the_rate_and_uses_it() {
        for tps in [1u32, 10, 100, 1_000, 5_000] {
            let u = upstream(100_000, tps);
            assert!(u.push((0..40_000).map(message)).is_empty());
            let mut sent = Vec::new();
            let mut now = 1_000;
            while now < 4_000 {
                let t = u.take(0, usize::MAX, now);
                sent.extend(std::iter::repeat_n(now, t.out.len()));
                now = t.again_ms.unwrap_or(now + 1).max(now + 1);
            }
            for start in (1_000..3_000).step_by(50) {
                let n = sent
                    .iter()
                    .filter(|t| (start..start + 1_000).contains(*t))
                    .count();
                let slack = (tps as usize / 100).max(1);
                assert!(n <= tps as usize + slack, "{n} in a second at {tps}");
            }
            let total = sent.len() as f64 / 3.0;
            assert!(total >= f64::from(tps) * 0.97, "{total} at {tps}");
        }
    }

    #[test]
    fn each_part_of_a_message_takes_its_turn() {
        let u = upstream(10, 1);
        assert!(u.push((0..3).map(message)).is_empty());
        assert_eq!(u.take(0, 1, 10_000).out.len(), 1);
        assert_eq!(u.turn(10_000), Err(11_000));
        assert_eq!(u.turn(11_000), Ok(()));
        assert!(u.take(0, 1, 11_000).out.is_empty(), "the part had the turn");
        assert_eq!(upstream(10, 0).turn(0), Ok(()));
    }

    #[test]
    fn what_waits_in_memory_can_be_withdrawn() {
        let u = upstream(2, 0);
        assert_eq!(u.push((0..5).map(message)).len(), 3);
        u.retry(message(9), 0);
        let in_hand = u.take(0, 1, 0).out;
        assert_eq!(in_hand.len(), 1);
        let wanted: BTreeSet<_> = [0, 1, 4, 9, 77].map(MessageKey).into();
        let mut got: Vec<_> = u
            .withdraw(|m| wanted.contains(&m.key))
            .into_iter()
            .map(|m| m.key)
            .collect();
        got.sort();
        assert_eq!(
            got,
            [1, 9].map(MessageKey),
            "0 is in a bind's hands, 4 in the store, 77 unknown"
        );
        u.forget_stored(1);
        assert_eq!(u.depth(), (0, 2), "4 has ended");
    }

    #[test]
    fn large_messages_fill_the_queue_sooner() {
        let u = upstream(4, 0);
        let large = |key| Outgoing {
            message: Message::new(&Parts {
                text: &[0; 3000],
                ..Parts::default()
            }),
            ..message(key)
        };
        assert_eq!(u.push((0..4).map(large)).len(), 2);
    }

    /// Counts wake-ups.
    #[derive(Default)]
    struct Bell(AtomicU32);

    impl Signal for Bell {
        fn signal(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_binds_that_can_send_and_have_nothing_to_do_are_woken() {
        let u = upstream(1_000, 0);
        let bells: Vec<Arc<Bell>> = (0..3).map(|_| Arc::new(Bell::default())).collect();
        for (i, bell) in bells.iter().enumerate() {
            u.register(i as u16, Arc::clone(bell) as Arc<dyn Signal>);
        }
        let rung = || [0, 1, 2].map(|i| bells[i].0.load(Ordering::Relaxed));
        // 2 is down (or a receiver); 0 and 1 found the lane empty.
        for bind in [0, 1] {
            u.sender_up(bind);
            assert!(u.take(bind, 5, 0).out.is_empty());
        }
        assert!(u.push([message(1)]).is_empty());
        assert_eq!(rung(), [1, 0, 0]);
        // 0 is full and does not come: the next message is for 1.
        assert!(u.push([message(2)]).is_empty());
        assert_eq!(rung(), [1, 1, 0]);
        // 1 takes one of the two; nobody is idle, so nobody is woken for the other.
        assert_eq!(u.take(1, 1, 0).out.len(), 1);
        assert_eq!(rung(), [1, 1, 0]);
        assert_eq!(u.take(1, 5, 0).out.len(), 1);
        assert!(u.push([message(3)]).is_empty());
        assert_eq!(rung(), [1, 2, 0]);
        // 1 is gone before it came; 0 has become idle meanwhile.
        u.sender_down(1);
        assert!(u.take(0, 0, 0).out.is_empty());
        assert_eq!(u.take(0, 5, 0).out.len(), 1);
    }

    #[test]
    fn a_search_moves_what_can_go_and_keeps_the_order_of_what_stays() {
        let u = upstream(3, 0);
        assert_eq!(u.push((0..8).map(message)).len(), 5);
        u.search();
        let odd = |key: MessageKey| (key.0 % 2 == 1).then_some(UpstreamId(9));
        let first = u.reroute(4, odd).unwrap();
        assert_eq!(first.messages.len(), 1);
        assert_eq!(first.keys, [(UpstreamId(9), MessageKey(3))]);
        assert_eq!(first.stored, [0, 2].map(MessageKey));
        assert_eq!(u.push([message(8)]), [MessageKey(8)], "newer ones queue behind");
        assert_eq!(u.reroute(100, odd).unwrap().keys.len(), 2);
        assert!(u.reroute(100, odd).is_none());
        assert_eq!(u.refill(10), [0, 2, 4, 6, 8].map(MessageKey));
    }

    #[test]
    fn unanswered_is_resent_once_and_then_held() {
        let u = upstream(10, 0);
        let again = u.unanswered(message(1)).unwrap();
        assert!(matches!(
            u.unanswered(again),
            Err(UpEvent::Held(MessageKey(1), Piece::WHOLE))
        ));
    }
}
