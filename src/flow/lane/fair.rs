//! Who is next: messages that wait at one upstream, in turns of customers and by urgency.
//!
//! Messages of one customer and one level of urgency are a *flow*, and keep their order. Between the flows of a level, customers
//! take turns that weigh segments (deficit round robin, Shreedhar and Varghese 1995): one with a million messages delays
//! another's first by one message. A flow that had nothing and gets something goes before those that have been served already
//! (as in FQ-CoDel, RFC 8290 §4.2), once. Between the levels, the more urgent one goes first until it has had its share of a
//! round, [`SHARES`]; so nobody starves, however much of the urgent there is. Each message costs a few steps, whatever waits.
//!
//! Beyond `queue_max` messages, flows keep keys alone, and their messages in the store: each flow for itself, so that what one
//! customer has spilled delays no other's. A flow is read back when it runs low. One that comes to a full lane still has its
//! share of it in memory, until there is twice `queue_max`, and one message beyond.

use std::collections::{HashMap, VecDeque};

use super::message::Outgoing;
use crate::ids::{AccountId, MessageKey};

/// Levels of urgency: priority_flag has four (SMPP 3.4 §5.2.14).
pub(super) const LEVELS: usize = 4;
/// Segments that each level is sent in a round while all of them have something to send; the most urgent is the last.
const SHARES: [i32; LEVELS] = [1, 2, 4, 8];
/// Octets a waiting message may have on average before the queue counts as full: texts are short, payloads need not be.
const OCTETS_EACH: usize = 1024;
/// Messages that any flow may have in memory, however full the lane is.
const RESERVE: usize = 64;
/// Keys of one flow that are read back at a time while other flows want some too.
const CHUNK: usize = 64;
/// Flows that are looked at in one go for whether they are to be read back.
const LOOKED_AT: usize = 256;
/// An empty flow gives its memory back above this many messages.
const KEEP: usize = 16;

/// Keys do not come from outside.
type Fast = foldhash::fast::FixedState;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Listed {
    #[default]
    No,
    /// It had nothing, and has not been served since.
    New,
    Old,
}

/// What one customer has waiting at one level.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub account: AccountId,
    level: u8,
    listed: Listed,
    /// It is in `Fair::spilled`.
    listed_spilled: bool,
    /// Segments it may still be sent in its turn; less than none after a long message.
    deficit: i32,
    pub queue: VecDeque<Outgoing>,
    /// Keys of messages that wait in the store, behind those in `queue`.
    pub backlog: VecDeque<MessageKey>,
}

#[derive(Debug, Default)]
struct Level {
    new: VecDeque<u32>,
    old: VecDeque<u32>,
    /// Messages in memory.
    len: usize,
    /// Segments it may still be sent in this round.
    deficit: i32,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Fair {
    flows: Vec<Flow>,
    index: HashMap<(AccountId, u8), u32, Fast>,
    /// The flow that was asked for last: messages of one customer come together.
    last: Option<(AccountId, u8, u32)>,
    levels: [Level; LEVELS],
    max: usize,
    len: usize,
    octets: usize,
    /// Flows that have something, in memory or in the store.
    busy: usize,
    /// Keys in backlogs.
    keys: usize,
    /// Flows with a backlog, in turns of being read back.
    spilled: VecDeque<u32>,
    /// Keys that are being read back, by flow, in the order in which they were given out.
    loading: Vec<(u32, usize)>,
}

impl Fair {
    /// Nothing; about `max` messages in memory.
    pub fn new(max: usize) -> Fair {
        Fair {
            max: max.max(1),
            ..Fair::default()
        }
    }

    /// Messages in memory.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keys of messages in the store.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The flow of a customer at a level.
    pub fn flow(&mut self, account: AccountId, level: u8) -> u32 {
        if let Some((a, l, at)) = self.last
            && (a, l) == (account, level)
        {
            return at;
        }
        let level = level.min(LEVELS as u8 - 1);
        let flows = &mut self.flows;
        let at = *self.index.entry((account, level)).or_insert_with(|| {
            flows.push(Flow {
                account,
                level,
                ..Flow::default()
            });
            flows.len() as u32 - 1
        });
        self.last = Some((account, level, at));
        at
    }

    /// Every flow there ever was: as many as there are customers, times levels.
    pub fn flows(&self) -> impl Iterator<Item = (u32, &Flow)> {
        self.flows.iter().enumerate().map(|(at, f)| (at as u32, f))
    }

    pub fn get(&self, at: u32) -> Option<&Flow> {
        self.flows.get(at as usize)
    }

    /// How many messages of one flow are wanted in memory: its part of all.
    fn share(&self) -> usize {
        (self.max / self.busy.max(1)).max(1)
    }

    /// The same for one that would be read back to while `len` messages are in memory.
    fn wanted(&self, len: usize) -> usize {
        if self.octets >= self.max * OCTETS_EACH {
            (RESERVE.min(self.share()) / 8).max(1)
        } else if len >= 2 * self.max {
            1
        } else if len >= self.max {
            RESERVE.min(self.share())
        } else {
            self.share()
        }
    }

    /// Whether a flow may have one message more in memory.
    pub fn has_room(&self, at: u32) -> bool {
        let n = self.get(at).map_or(0, |f| f.queue.len());
        let large = self.octets >= self.max * OCTETS_EACH;
        self.len < self.max && !large || n < self.wanted(self.len.max(self.max))
    }

    /// Adds a message at the end of its flow.
    pub fn push_back(&mut self, at: u32, message: Outgoing) {
        self.put(at, message, true, Listed::New);
    }

    /// Puts a message back at the head of its flow.
    pub fn push_front(&mut self, message: Outgoing) {
        let at = self.flow(message.account, message.level());
        self.put(at, message, false, Listed::New);
    }

    /// Adds a message that was read back: its flow is no new one.
    pub fn push_loaded(&mut self, message: Outgoing) {
        let at = self.flow(message.account, message.level());
        self.put(at, message, true, Listed::Old);
    }

    fn put(&mut self, at: u32, message: Outgoing, behind: bool, list: Listed) {
        let Some(flow) = self.flows.get_mut(at as usize) else {
            return;
        };
        let Some(level) = self.levels.get_mut(usize::from(flow.level)) else {
            return;
        };
        self.len += 1;
        self.octets += message.octets();
        level.len += 1;
        if flow.queue.is_empty() && flow.backlog.is_empty() {
            self.busy += 1;
        }
        if behind {
            flow.queue.push_back(message);
        } else {
            flow.queue.push_front(message);
        }
        if flow.listed == Listed::No {
            flow.listed = list;
            flow.deficit = 1;
            match list {
                Listed::Old => level.old.push_back(at),
                _ => level.new.push_back(at),
            }
        }
    }

    /// Adds the key of a message in the store at the end of its flow.
    pub fn push_key(&mut self, at: u32, key: MessageKey) {
        if let Some(flow) = self.flows.get_mut(at as usize) {
            if flow.queue.is_empty() && flow.backlog.is_empty() {
                self.busy += 1;
            }
            flow.backlog.push_back(key);
            self.keys += 1;
            self.list_spilled(at);
        }
    }

    fn list_spilled(&mut self, at: u32) {
        if let Some(flow) = self.flows.get_mut(at as usize)
            && !std::mem::replace(&mut flow.listed_spilled, true)
        {
            self.spilled.push_back(at);
        }
    }

    /// The next message, and whether its flow runs low while the store has more of it.
    pub fn next(&mut self) -> Option<(Outgoing, bool)> {
        let at = self.level()?;
        let found = loop {
            let level = self.levels.get_mut(at)?;
            let new = !level.new.is_empty();
            let list = if new { &mut level.new } else { &mut level.old };
            let index = *list.front()?;
            let flow = self.flows.get_mut(index as usize)?;
            if flow.deficit > 0
                && let Some(message) = flow.queue.pop_front()
            {
                let segments = i32::from(message.segments.max(1));
                flow.deficit -= segments;
                level.deficit -= segments;
                level.len -= 1;
                break (index, message);
            }
            list.pop_front();
            if !new && flow.queue.is_empty() {
                // It had a whole round to get something.
                flow.listed = Listed::No;
            } else {
                flow.listed = Listed::Old;
                flow.deficit = (flow.deficit + 1).min(1);
                level.old.push_back(index);
            }
        };
        let (index, message) = found;
        self.len -= 1;
        self.octets = self.octets.saturating_sub(message.octets());
        let share = self.wanted(self.len);
        let flow = self.flows.get_mut(index as usize)?;
        let low = !flow.backlog.is_empty() && flow.queue.len() <= share / 2;
        self.emptied(index);
        Some((message, low))
    }

    /// The level whose turn it is: the most urgent one that has something and has not had its share of this round.
    fn level(&mut self) -> Option<usize> {
        let due = |levels: &[Level; LEVELS]| levels.iter().rposition(|l| l.len > 0 && l.deficit > 0);
        if let Some(at) = due(&self.levels) {
            return Some(at);
        }
        // All of them have: as many rounds as it takes until one may send again. What had nothing to send saves nothing up.
        let waits = |(level, share): (&Level, &i32)| (level.len > 0).then(|| (share - level.deficit) / share);
        let rounds = self.levels.iter().zip(&SHARES).filter_map(waits).min()?;
        for (level, share) in self.levels.iter_mut().zip(&SHARES) {
            level.deficit = level
                .deficit
                .saturating_add(share.saturating_mul(rounds))
                .min(*share);
        }
        due(&self.levels)
    }

    /// Looks after a flow that may have nothing any more.
    fn emptied(&mut self, at: u32) {
        let many = self.flows.len() > 1_024;
        let Some(flow) = self.flows.get_mut(at as usize) else {
            return;
        };
        if flow.queue.is_empty() {
            if many || flow.queue.capacity() > KEEP {
                flow.queue = VecDeque::new();
            }
            if flow.backlog.is_empty() {
                self.busy -= 1;
                flow.backlog = VecDeque::new();
            }
        }
    }

    /// Up to `max` keys to be read back, of the flows that run low, in turns. They are the next of their flows: give them to
    /// [`Fair::loaded`] or [`Fair::not_loaded`].
    pub fn refill(&mut self, max: usize, but: Option<u32>) -> Vec<MessageKey> {
        let mut out = Vec::new();
        for _ in 0..self.spilled.len().min(LOOKED_AT) {
            let Some(at) = self.spilled.pop_front() else { break };
            let share = self.wanted(self.len + out.len());
            let alone = self.spilled.is_empty();
            let Some(flow) = self.flows.get_mut(at as usize) else {
                continue;
            };
            if flow.backlog.is_empty() {
                flow.listed_spilled = false;
                continue;
            }
            self.spilled.push_back(at);
            if but == Some(at) || flow.queue.len() > share / 2 {
                continue;
            }
            let some = if alone { max } else { CHUNK };
            let n = share
                .saturating_sub(flow.queue.len())
                .max(1)
                .min(some)
                .min(max - out.len())
                .min(flow.backlog.len());
            out.extend(flow.backlog.drain(..n));
            self.loading.push((at, n));
            if flow.queue.is_empty() && flow.backlog.is_empty() {
                self.busy -= 1;
            }
            if out.len() >= max {
                break;
            }
        }
        self.keys -= out.len();
        out
    }

    /// What [`Fair::refill`] gave out has been read, or is over.
    pub fn loaded(&mut self) {
        self.loading.clear();
    }

    /// Keys that [`Fair::refill`] gave out and that could not be read: first of their flows again.
    pub fn not_loaded(&mut self, keys: impl DoubleEndedIterator<Item = MessageKey>) {
        let mut keys = keys.rev();
        while let Some((at, n)) = self.loading.pop() {
            let back: Vec<MessageKey> = keys.by_ref().take(n).collect();
            self.push_keys_first(at, back.into_iter().rev().collect());
        }
    }

    /// Takes the oldest of a flow: a message in memory, or the key of one in the store.
    pub fn oldest(&mut self, at: u32) -> Option<Result<Outgoing, MessageKey>> {
        let flow = self.flows.get_mut(at as usize)?;
        let found = match flow.queue.pop_front() {
            Some(message) => {
                if let Some(level) = self.levels.get_mut(usize::from(flow.level)) {
                    level.len -= 1;
                }
                self.len -= 1;
                self.octets = self.octets.saturating_sub(message.octets());
                Ok(message)
            }
            None => {
                let key = flow.backlog.pop_front()?;
                self.keys -= 1;
                Err(key)
            }
        };
        self.emptied(at);
        Some(found)
    }

    /// Puts keys of messages before the other keys of a flow. What it has in memory stays before them.
    pub fn push_keys_first(&mut self, at: u32, mut keys: VecDeque<MessageKey>) {
        if keys.is_empty() {
            return;
        }
        if let Some(flow) = self.flows.get_mut(at as usize) {
            if flow.queue.is_empty() && flow.backlog.is_empty() {
                self.busy += 1;
            }
            self.keys += keys.len();
            keys.append(&mut flow.backlog);
            flow.backlog = keys;
            self.list_spilled(at);
        }
    }

    /// Takes the key of a message in the store out of its flow.
    pub fn remove_key(&mut self, at: u32, key: MessageKey) {
        if let Some(flow) = self.flows.get_mut(at as usize)
            && let Some(place) = flow.backlog.iter().position(|k| *k == key)
        {
            flow.backlog.remove(place);
            self.keys -= 1;
            if flow.queue.is_empty() && flow.backlog.is_empty() {
                self.busy -= 1;
            }
        }
    }

    /// Takes away what is in memory and `wanted`.
    pub fn withdraw(&mut self, wanted: impl Fn(&Outgoing) -> bool) -> Vec<Outgoing> {
        let mut found = Vec::new();
        for flow in &mut self.flows {
            let before = found.len();
            let places: Vec<usize> = flow
                .queue
                .iter()
                .enumerate()
                .filter_map(|(i, m)| wanted(m).then_some(i))
                .collect();
            if places.is_empty() {
                continue;
            }
            if places.len() <= FEW {
                for at in places.into_iter().rev() {
                    found.extend(flow.queue.remove(at));
                }
                if let Some(new) = found.get_mut(before..) {
                    new.reverse();
                }
            } else {
                let mut keep = VecDeque::with_capacity(flow.queue.len());
                for m in flow.queue.drain(..) {
                    if wanted(&m) {
                        found.push(m);
                    } else {
                        keep.push_back(m);
                    }
                }
                flow.queue = keep;
            }
            if let Some(level) = self.levels.get_mut(usize::from(flow.level)) {
                level.len -= found.len() - before;
            }
        }
        self.len -= found.len();
        let octets: usize = found.iter().map(Outgoing::octets).sum();
        self.octets = self.octets.saturating_sub(octets);
        self.recount();
        found
    }

    /// When the oldest message in memory was accepted.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.flows
            .iter()
            .filter_map(|f| f.queue.front().map(|m| m.at_ms))
            .min()
    }

    fn recount(&mut self) {
        let busy = |f: &&Flow| !f.queue.is_empty() || !f.backlog.is_empty();
        self.busy = self.flows.iter().filter(busy).count();
    }
}

/// So few messages are taken out of a queue one by one; for more it is written anew.
const FEW: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::{Flags, Message, Parts, Piece};
    use proptest::prelude::*;

    fn message(account: u32, level: u8, key: u64, segments: u8) -> Outgoing {
        let flags = Flags::default().with_level(level);
        Outgoing {
            key: MessageKey(key),
            piece: Piece::WHOLE,
            out: None,
            account: AccountId(account),
            at_ms: key,
            expires_ms: u64::MAX,
            attempts: 0,
            unanswered: 0,
            segments,
            message: Message::new(&Parts {
                flags,
                ..Parts::default()
            }),
        }
    }

    fn push(fair: &mut Fair, m: Outgoing) -> bool {
        let at = fair.flow(m.account, m.level());
        if fair.has_room(at) && fair.get(at).is_some_and(|f| f.backlog.is_empty()) {
            fair.push_back(at, m);
            true
        } else {
            fair.push_key(at, m.key);
            false
        }
    }

    fn next(fair: &mut Fair) -> Option<(u32, u8, u64)> {
        fair.next().map(|(m, _)| (m.account.0, m.level(), m.key.0))
    }

    /// Reads back what runs low; keys say whose they are in their last digits.
    fn refill(fair: &mut Fair, account_of: impl Fn(u64) -> (u32, u8)) -> usize {
        let keys = fair.refill(500, None);
        for key in &keys {
            let (account, level) = account_of(key.0);
            fair.push_loaded(message(account, level, key.0, 1));
        }
        fair.loaded();
        keys.len()
    }

    #[test]
    fn a_million_of_one_customer_delay_another_by_one_message() {
        let mut fair = Fair::new(50_000);
        for key in 0..1_000_000 {
            push(&mut fair, message(1, 0, key * 2, 1));
        }
        assert_eq!((fair.len(), fair.keys()), (50_000, 950_000));
        let (mut left, mut key) = (0, 2_000_000);
        // Whatever has been sent so far, and whether another's message is urgent or not.
        for n in 0..3_000u64 {
            for _ in 0..n % 97 {
                left += usize::from(next(&mut fair).is_some());
            }
            while refill(&mut fair, |key| (1 + (key % 2) as u32, 0)) > 0 {}
            let level = [0, 3][(n % 2) as usize];
            key += 2;
            assert!(
                push(&mut fair, message(2, level, key + 1, 1)),
                "in memory, full as it is"
            );
            let turn = (0..2).position(|_| next(&mut fair).is_some_and(|m| m.0 == 2));
            assert!(turn.is_some(), "not within one message of the other");
            left += usize::from(turn == Some(1));
        }
        assert!(left > 100_000);
    }

    #[test]
    fn what_is_urgent_goes_first_and_starves_nobody() {
        let mut fair = Fair::new(100_000);
        for key in 0..4_000 {
            push(&mut fair, message(1, (key % 4) as u8, key, 1));
        }
        let sent: Vec<_> = (0..1_500).filter_map(|_| next(&mut fair)).collect();
        assert_eq!(sent[0].1, 3);
        let of = |level| sent.iter().filter(|m| m.1 == level).count();
        assert_eq!([0, 1, 2, 3].map(of), [100, 200, 400, 800]);
        // Something urgent every now and then, one at a time: never late by more than the rest of a round, and the others go on.
        let mut fair = Fair::new(100_000);
        for key in 0..1_000 {
            push(&mut fair, message(1, 0, key, 1));
        }
        let mut bulk = 0;
        for key in 0..900 {
            push(&mut fair, message(2, 3, 10_000 + key, 1));
            let mut waited = 0;
            while next(&mut fair).is_some_and(|m| m.1 == 0) {
                waited += 1;
            }
            assert!(waited <= 1, "{waited}");
            bulk += waited;
        }
        assert!(bulk >= 100, "{bulk} of bulk in 900 urgent ones");
    }

    #[test]
    fn turns_are_weighed_by_segments() {
        let mut fair = Fair::new(100_000);
        for key in 0..3_000 {
            push(&mut fair, message(1, 0, key, 9));
            push(&mut fair, message(2, 0, 100_000 + key, 3));
            push(&mut fair, message(3, 0, 200_000 + key, 1));
        }
        let mut segments = [0u64; 4];
        for _ in 0..3_000 {
            if let Some((m, _)) = fair.next() {
                segments[m.account.0 as usize] += u64::from(m.segments);
            }
        }
        let (least, most) = (segments[1..].iter().min(), segments[1..].iter().max());
        assert!(most.unwrap() - least.unwrap() <= 10, "{segments:?}");
    }

    #[test]
    fn a_flow_that_always_comes_back_gets_no_more_than_its_turn() {
        let mut fair = Fair::new(1_000);
        for key in 0..500 {
            push(&mut fair, message(1, 0, key, 1));
        }
        let mut sent = [0; 3];
        for key in 0..400 {
            if fair
                .get(fair.index.get(&(AccountId(2), 0)).copied().unwrap_or(99))
                .is_none_or(|f| f.queue.is_empty())
            {
                push(&mut fair, message(2, 0, 1_000 + key, 1));
            }
            sent[next(&mut fair).unwrap().0 as usize] += 1;
        }
        assert!(sent[1] >= 199, "{sent:?}");
    }

    #[test]
    fn the_bound_is_shared_by_those_who_wait() {
        let mut fair = Fair::new(100);
        for key in 0..1_000 {
            push(&mut fair, message(1, 0, key, 1));
        }
        for account in 2..12 {
            for key in 0..100 {
                push(&mut fair, message(account, 0, key, 1));
            }
        }
        assert!(fair.len() <= 211, "{}", fair.len());
        let per = |a| {
            fair.flows()
                .filter(|(_, f)| f.account == AccountId(a))
                .map(|(_, f)| f.queue.len())
                .sum::<usize>()
        };
        assert!((2..12).all(|a| per(a) >= 1), "each has some in memory");
    }

    #[test]
    fn keys_that_cannot_be_read_keep_their_place() {
        let mut fair = Fair::new(4);
        for key in 0..40 {
            push(&mut fair, message(1 + key as u32 % 2, 0, key, 1));
        }
        for _ in 0..4 {
            next(&mut fair);
        }
        let keys = fair.refill(500, None);
        assert!(!keys.is_empty());
        fair.not_loaded(keys.iter().copied());
        let again = fair.refill(500, None);
        let sorted = |mut k: Vec<MessageKey>| {
            k.sort();
            k
        };
        assert_eq!(sorted(keys), sorted(again));
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_the_order_of_its_flow(
            steps in proptest::collection::vec((1u32..4, 0u8..4, 1u8..12, 0usize..4), 1..400), max in 1usize..40
        ) {
            let mut fair = Fair::new(max);
            let (mut pushed, mut seen) = (HashMap::new(), HashMap::<(u32, u8), u64>::new());
            let mut out = 0;
            let mut take = |fair: &mut Fair, pushed: &HashMap<u64, (u32, u8)>| {
                let Some((account, level, key)) = next(fair) else { return false };
                assert_eq!(pushed.get(&key), Some(&(account, level)));
                let last = seen.insert((account, level), key);
                assert!(last.is_none_or(|l| l < key), "{key} after {last:?}");
                out += 1;
                true
            };
            for (key, (account, level, segments, takes)) in steps.iter().enumerate() {
                pushed.insert(key as u64, (*account, *level));
                push(&mut fair, message(*account, *level, key as u64, *segments));
                prop_assert!(fair.len() <= 2 * max + 12);
                for _ in 0..*takes {
                    take(&mut fair, &pushed);
                }
                refill(&mut fair, |key| pushed[&key]);
            }
            loop {
                while take(&mut fair, &pushed) {}
                if refill(&mut fair, |key| pushed[&key]) == 0 {
                    break;
                }
            }
            prop_assert_eq!(out, steps.len());
            prop_assert_eq!((fair.len(), fair.keys(), fair.busy, fair.octets), (0, 0, 0, 0));
        }
    }
}
