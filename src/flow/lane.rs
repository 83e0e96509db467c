//! One upstream's lane: what waits for it, how fast it may go, and what becomes of messages it did not take.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::ingress::{Signal, UpEvent, lock};
use crate::domain::message::Message;
use crate::ids::{MessageKey, UpstreamId};

/// A message on its way to an upstream.
#[derive(Debug)]
pub struct Outgoing {
    /// Its key.
    pub key: MessageKey,
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
    /// How its receipts spell the ids of its responses.
    pub hex_forms: bool,
}

/// A bind, for listing.
#[derive(Debug, Default)]
pub struct BindInfo {
    /// 0 down, 1 connecting, 2 bound.
    pub state: AtomicU32,
    /// Unanswered requests.
    pub outstanding: AtomicU32,
    /// Since when in this state, ms since the epoch.
    pub since_ms: AtomicU64,
    /// Why it is down, in a word or two.
    pub why: Mutex<String>,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Outgoing>,
    /// Temporarily refused, by when they are tried again.
    retry: BTreeMap<(u64, MessageKey), Outgoing>,
    /// Keys of messages that wait in the store.
    backlog: VecDeque<MessageKey>,
    /// Next free instant of the pacer, microseconds since the epoch.
    next_us: u64,
    signals: BTreeMap<u16, Arc<dyn Signal>>,
    turn: usize,
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
    /// Rises when its binds are to reconnect.
    reconnects: AtomicU32,
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
    pub expired: Vec<MessageKey>,
    /// When to come again although nothing new arrives (pacing, retries), ms since the epoch.
    pub again_ms: Option<u64>,
    /// The lane ran low and the store has more.
    pub low: bool,
}

/// The pacer lets this much of a second through at once, so that timers of a millisecond can keep up with any rate.
const PACE_BURST_US: u64 = 10_000;

impl Upstream {
    /// An upstream with `binds` sessions, none of them up.
    #[must_use]
    pub fn new(id: UpstreamId, options: UpstreamOptions, binds: usize) -> Upstream {
        Upstream {
            id,
            options,
            lane: Mutex::default(),
            enabled: AtomicBool::new(true),
            senders: AtomicU32::new(0),
            reconnects: AtomicU32::new(0),
            binds: (0..binds).map(|_| BindInfo::default()).collect(),
            sent: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            receipts: AtomicU64::new(0),
        }
    }

    /// Can send now.
    #[must_use]
    pub fn live(&self) -> bool {
        self.enabled() && self.senders.load(Ordering::Acquire) > 0
    }

    /// Switched on.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Switches it on or off and wakes its binds.
    pub fn enable(&self, on: bool) {
        self.enabled.store(on, Ordering::Release);
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

    /// Wakes every bind.
    pub fn wake_all(&self) {
        for signal in lock(&self.lane).signals.values() {
            signal.signal();
        }
    }

    /// A bind registers for wake-ups for as long as its task lives.
    pub fn register(&self, bind: u16, signal: Arc<dyn Signal>) {
        lock(&self.lane).signals.insert(bind, signal);
    }

    /// A bind that may send is up.
    pub fn sender_up(&self) {
        self.senders.fetch_add(1, Ordering::AcqRel);
    }

    /// A bind that could send is gone.
    pub fn sender_down(&self) {
        self.senders.fetch_sub(1, Ordering::AcqRel);
    }

    /// Messages waiting: in memory and in the store.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        let lane = lock(&self.lane);
        (lane.queue.len() + lane.retry.len(), lane.backlog.len())
    }

    /// When the oldest message that waits in memory was accepted, ms since the epoch.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        let lane = lock(&self.lane);
        let queued = lane.queue.front().map(|m| m.at_ms);
        lane.retry.values().map(|m| m.at_ms).chain(queued).min()
    }

    /// Adds committed messages in order. What does not fit waits in the store, of which only the key is kept.
    pub(super) fn push(&self, messages: impl IntoIterator<Item = Outgoing>) {
        let mut lane = lock(&self.lane);
        let mut added = 0usize;
        for message in messages {
            // While the store has older ones, newer ones queue behind them.
            if lane.backlog.is_empty() && lane.queue.len() < self.options.queue_max {
                lane.queue.push_back(message);
            } else {
                lane.backlog.push_back(message.key);
            }
            added += 1;
        }
        wake(&mut lane, added);
    }

    /// Messages that wait in the store only (restart).
    pub(super) fn push_backlog(&self, keys: impl IntoIterator<Item = MessageKey>) {
        let mut lane = lock(&self.lane);
        lane.backlog.extend(keys);
    }

    /// Keys to be loaded, if the queue is at most half full.
    pub(super) fn refill(&self, max: usize) -> Vec<MessageKey> {
        let mut lane = lock(&self.lane);
        if lane.backlog.is_empty() || lane.queue.len() > self.options.queue_max / 2 {
            return Vec::new();
        }
        let n = max.min(lane.backlog.len());
        lane.backlog.drain(..n).collect()
    }

    /// Messages read back from the store, older than anything in the backlog.
    pub(super) fn push_loaded(&self, messages: impl IntoIterator<Item = Outgoing>) {
        let mut lane = lock(&self.lane);
        let before = lane.queue.len();
        lane.queue.extend(messages);
        let added = lane.queue.len() - before;
        wake(&mut lane, added);
    }

    /// Takes everything away, for another upstream: messages in memory, and keys.
    pub(super) fn clear(&self) -> (Vec<Outgoing>, Vec<MessageKey>) {
        let mut lane = lock(&self.lane);
        let mut out: Vec<Outgoing> = lane.queue.drain(..).collect();
        out.extend(std::mem::take(&mut lane.retry).into_values());
        (out, lane.backlog.drain(..).collect())
    }

    /// Takes those of `keys` away that wait here, in memory or in the store. The others are in a bind's hands.
    pub(super) fn withdraw(&self, keys: &HashSet<MessageKey>) -> Vec<MessageKey> {
        let mut found = Vec::new();
        let mut lane = lock(&self.lane);
        let mut keep = |key: MessageKey| {
            let wanted = keys.contains(&key);
            if wanted {
                found.push(key);
            }
            !wanted
        };
        lane.queue.retain(|m| keep(m.key));
        lane.backlog.retain(|k| keep(*k));
        lane.retry.retain(|(_, k), _| keep(*k));
        found
    }

    /// Takes up to `max` messages that may be written at `now_ms`.
    pub fn take(&self, max: usize, now_ms: u64) -> Taken {
        let mut taken = Taken::default();
        if !self.enabled() {
            return taken;
        }
        let mut lane = lock(&self.lane);
        while taken.out.len() < max {
            let retry_due = lane.retry.first_key_value().map(|((due, _), _)| *due);
            let use_retry = retry_due.is_some_and(|due| due <= now_ms);
            if !use_retry && lane.queue.is_empty() {
                taken.again_ms = retry_due;
                break;
            }
            if let Some(wait) = self.pace(&mut lane, now_ms) {
                taken.again_ms = Some(wait);
                break;
            }
            let next = if use_retry {
                lane.retry.pop_first().map(|(_, m)| m)
            } else {
                lane.queue.pop_front()
            };
            let Some(message) = next else { break };
            if message.expires_ms <= now_ms {
                taken.expired.push(message.key);
                continue;
            }
            self.paced(&mut lane, now_ms);
            taken.out.push(message);
        }
        taken.low = !lane.backlog.is_empty() && lane.queue.len() <= self.options.queue_max / 2;
        if lane.queue.is_empty() && lane.queue.capacity() > 4096 {
            lane.queue = VecDeque::new();
        }
        taken
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
            lane.queue.push_front(message);
            back += 1;
        }
        wake(&mut lane, back);
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
        lock(&self.lane).retry.insert((due, message.key), message);
    }

    /// Written and never answered: what `unknown_outcome` says. A report for the engine, unless it is to be sent again.
    pub fn unanswered(&self, mut message: Outgoing) -> Option<UpEvent> {
        match self.options.unknown_outcome {
            UnknownOutcome::Resend if message.unanswered < self.options.unknown_resend_max => {
                message.unanswered += 1;
                self.unsent(std::iter::once(message));
                None
            }
            UnknownOutcome::Resend | UnknownOutcome::Hold => Some(UpEvent::Held(message.key)),
            UnknownOutcome::Fail => Some(UpEvent::Abandoned(message.key)),
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

fn wake(lane: &mut Lane, added: usize) {
    let n = lane.signals.len();
    if added == 0 || n == 0 {
        return;
    }
    let wakes = added.div_ceil(MESSAGES_PER_WAKE).min(n);
    for signal in lane.signals.values().cycle().skip(lane.turn % n).take(wakes) {
        signal.signal();
    }
    lane.turn = (lane.turn + wakes) % n;
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
            hex_forms: true,
        };
        Upstream::new(UpstreamId(0), options, 1)
    }

    fn message(key: u64) -> Outgoing {
        Outgoing {
            key: MessageKey(key),
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
        u.push((0..6).map(message));
        assert_eq!(u.depth(), (4, 2));
        let first = u.take(3, 0);
        assert_eq!(keys(&first), [0, 1, 2]);
        assert!(first.low);
        u.push([message(6)]);
        assert_eq!(u.refill(10), [4, 5, 6].map(MessageKey));
        u.push_loaded([message(4), message(5), message(6)]);
        assert_eq!(keys(&u.take(9, 0)), [3, 4, 5, 6]);
    }

    #[test]
    fn retries_pause_double_and_end_with_the_validity() {
        let u = upstream(10, 0);
        let mut m = message(1);
        m.expires_ms = 350;
        u.retry(m, 0);
        assert_eq!(u.take(9, 0).again_ms, Some(100));
        let m = u.take(9, 100).out.remove(0);
        u.retry(m, 100);
        assert_eq!(u.take(9, 299).again_ms, Some(300));
        let m = u.take(9, 300).out.remove(0);
        u.retry(m, 300);
        assert_eq!(u.take(9, 350).expired, [MessageKey(1)]);
    }

    #[test]
    fn pacing_never_exceeds_the_rate_and_uses_it() {
        for tps in [1u32, 10, 100, 1_000, 5_000] {
            let u = upstream(100_000, tps);
            u.push((0..40_000).map(message));
            let mut sent = Vec::new();
            let mut now = 1_000;
            while now < 4_000 {
                let t = u.take(usize::MAX, now);
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
    fn what_waits_can_be_withdrawn_wherever_it_waits() {
        let u = upstream(2, 0);
        u.push((0..5).map(message));
        u.retry(message(9), 0);
        let in_hand = u.take(1, 0).out;
        assert_eq!(in_hand.len(), 1);
        let wanted: HashSet<_> = [0, 1, 4, 9, 77].map(MessageKey).into();
        let mut got = u.withdraw(&wanted);
        got.sort();
        assert_eq!(
            got,
            [1, 4, 9].map(MessageKey),
            "0 is in a bind's hands, 77 unknown"
        );
        assert_eq!(u.depth(), (0, 2));
    }

    #[test]
    fn unanswered_is_resent_once_and_then_held() {
        let u = upstream(10, 0);
        assert!(u.unanswered(message(1)).is_none());
        let again = u.take(1, 0).out.remove(0);
        assert!(matches!(u.unanswered(again), Some(UpEvent::Held(MessageKey(1)))));
    }
}
