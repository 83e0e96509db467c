//! How often one number is written to, and how much one account sends: counts over a rolling span of time in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

type Random = foldhash::quality::RandomState;
type Fast = foldhash::fast::FixedState;

/// Messages to one number within a span, exact: the times of the last few are kept. Beyond `max` numbers those past their span
/// are dropped; if none is, new ones are not counted, so that memory is bounded and nobody is refused for it.
#[derive(Debug)]
pub struct Frequency {
    random: Random,
    sent: HashMap<u64, Times, Fast>,
    max: usize,
    swept_s: u32,
    /// Numbers that were not counted for lack of room.
    pub overflow: u64,
}

/// Numbers counted at a time unless the config says otherwise: about 100 octets each.
pub const NUMBERS_MAX: usize = 2_000_000;

impl Default for Frequency {
    fn default() -> Self {
        Frequency::new(NUMBERS_MAX)
    }
}

impl Frequency {
    /// Counts at most `max` numbers.
    #[must_use]
    pub fn new(max: usize) -> Frequency {
        Frequency {
            random: Random::default(),
            sent: HashMap::default(),
            max,
            swept_s: 0,
            overflow: 0,
        }
    }

    /// Counts one more message to `whom` unless there have been `cap` within `span_s` seconds; whether it may go. Give it back with
    /// [`Frequency::give_back`] if it is not sent.
    pub fn take(&mut self, whom: &impl Hash, cap: u32, span_s: u32, now_s: u32) -> bool {
        let key = self.random.hash_one(whom);
        if self.sent.len() >= self.max && !self.sent.contains_key(&key) && !self.room(span_s, now_s) {
            self.overflow += 1;
            return true;
        }
        let times = self.sent.entry(key).or_default();
        times.retain(|t| within(t, span_s, now_s));
        let few = times.len() < cap as usize;
        if few {
            times.push(now_s);
        }
        few
    }

    /// Counts a message that is on record, whatever the cap: after a restart.
    pub fn restore(&mut self, whom: &impl Hash, cap: u32, span_s: u32, at_s: u32) {
        if self.sent.len() < self.max || self.room(span_s, at_s) {
            let times = self.sent.entry(self.random.hash_one(whom)).or_default();
            times.push(at_s);
            if times.len() > cap as usize {
                times.remove(0);
            }
        }
    }

    /// The last message counted was not sent after all.
    pub fn give_back(&mut self, whom: &impl Hash, at_s: u32) {
        let key = self.random.hash_one(whom);
        if let Some(times) = self.sent.get_mut(&key) {
            let at = times.all().rposition(|t| t == at_s);
            at.into_iter().for_each(|at| times.remove(at));
        }
    }

    /// How many there have been.
    #[must_use]
    pub fn count(&self, whom: &impl Hash, span_s: u32, now_s: u32) -> usize {
        let times = self.sent.get(&self.random.hash_one(whom));
        times.map_or(0, |t| t.all().filter(|t| within(*t, span_s, now_s)).count())
    }

    /// Numbers counted at the moment.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether another number can be counted; looks for old ones at most once a minute.
    fn room(&mut self, span_s: u32, now_s: u32) -> bool {
        if self.sent.len() >= self.max && now_s >= self.swept_s.saturating_add(60) {
            self.swept_s = now_s;
            self.sent
                .retain(|_, times| times.all().any(|t| within(t, span_s, now_s)));
        }
        self.sent.len() < self.max
    }
}

fn within(at_s: u32, span_s: u32, now_s: u32) -> bool {
    span_s > now_s || at_s > now_s - span_s
}

/// Times of the last few messages to one number, the first three without a box: few caps are higher.
#[derive(Debug, Default)]
struct Times {
    first: [u32; Times::FIRST],
    len: u32,
    more: Vec<u32>,
}

impl Times {
    const FIRST: usize = 3;

    fn len(&self) -> usize {
        self.len as usize + self.more.len()
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + '_ {
        (0..self.len()).map(|at| match at.checked_sub(Times::FIRST) {
            None => self.first[at],
            Some(at) => self.more.get(at).copied().unwrap_or(0),
        })
    }

    fn push(&mut self, at_s: u32) {
        match self.first.get_mut(self.len as usize) {
            Some(slot) => {
                *slot = at_s;
                self.len += 1;
            }
            None => self.more.push(at_s),
        }
    }

    fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        if self.all().all(&keep) {
            return;
        }
        let kept: Vec<u32> = self.all().filter(|t| keep(*t)).collect();
        *self = Times::default();
        kept.into_iter().for_each(|t| self.push(t));
    }

    fn remove(&mut self, at: usize) {
        let mut kept: Vec<u32> = self.all().collect();
        kept.remove(at);
        *self = Times::default();
        kept.into_iter().for_each(|t| self.push(t));
    }
}

/// What a rule against abuse counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Counts {
    /// All messages.
    #[default]
    Messages,
    /// Messages of one text.
    SameText,
}

/// A rule against abuse: more than `limit` within a span is a case for a person; nothing is refused by it.
#[derive(Clone, Debug)]
pub struct AbuseRule {
    /// Its name in the config, in metrics and cases.
    pub name: String,
    /// What it counts.
    pub counts: Counts,
    /// Only for these accounts; empty: each.
    pub accounts: Vec<String>,
    /// How many are still fine.
    pub limit: u32,
    /// Within how long, seconds.
    pub span_s: u32,
}

/// Texts counted of one account at a time; beyond, the count starts over.
const TEXTS_MAX: usize = 4_096;

/// A count over a span that moves on in two halves: at most a half too much is remembered, never less.
#[derive(Clone, Copy, Debug, Default)]
struct Rolling {
    half: u32,
    now: u32,
    before: u32,
}

impl Rolling {
    fn add(&mut self, half: u32) -> u32 {
        match half.saturating_sub(self.half) {
            0 => {}
            1 => {
                self.before = self.now;
                self.now = 0;
            }
            _ => (self.before, self.now) = (0, 0),
        }
        self.half = half;
        self.now = self.now.saturating_add(1);
        self.now.saturating_add(self.before)
    }
}

/// What one account has sent lately, by rule.
#[derive(Debug, Default)]
pub struct Watch {
    messages: HashMap<u16, Rolling, Fast>,
    texts: HashMap<(u16, u64), Rolling, Fast>,
}

impl Watch {
    /// Counts one message under the rule numbered `at`; how many there are now. `text` is a hash.
    pub fn count(&mut self, at: u16, rule: &AbuseRule, text: u64, now_s: u32) -> u32 {
        let half = now_s / (rule.span_s / 2).max(1);
        match rule.counts {
            Counts::Messages => self.messages.entry(at).or_default().add(half),
            Counts::SameText => {
                if self.texts.len() >= TEXTS_MAX {
                    self.texts.retain(|_, r| r.half + 1 >= half);
                }
                if self.texts.len() >= TEXTS_MAX {
                    self.texts.clear();
                }
                self.texts.entry((at, text)).or_default().add(half)
            }
        }
    }
}

/// Texts that go to and fro between two addresses: each other's answers, for ever.
#[derive(Debug, Default)]
pub struct PingPong {
    seen: HashMap<u64, Rolling, Fast>,
}

/// How often a text may go to and fro within [`LOOP_SPAN_S`].
pub const LOOP_MAX: u32 = 5;
/// See [`LOOP_MAX`], seconds.
pub const LOOP_SPAN_S: u32 = 120;
/// Pairs remembered; beyond, old ones are forgotten, and if that is not enough, all.
const PAIRS_MAX: usize = 65_536;

impl PingPong {
    /// Counts a text from one address to another; whether it has gone to and fro too often.
    pub fn bounces(&mut self, from: &[u8], to: &[u8], text: &[u8], now_s: u32) -> bool {
        let (a, b) = if from <= to { (from, to) } else { (to, from) };
        let key = Fast::default().hash_one((a, b, text));
        let half = now_s / (LOOP_SPAN_S / 2);
        if self.seen.len() >= PAIRS_MAX {
            self.seen.retain(|_, r| r.half + 1 >= half);
        }
        if self.seen.len() >= PAIRS_MAX {
            self.seen.clear();
        }
        self.seen.entry(key).or_default().add(half) > LOOP_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u32 = 86_400;

    #[test]
    fn a_cap_rolls_with_the_span() {
        let mut f = Frequency::default();
        let who = ("acme", "254712345678");
        assert!(f.take(&who, 2, DAY, 200_000));
        assert!(f.take(&who, 2, DAY, 200_100));
        assert!(!f.take(&who, 2, DAY, 286_399));
        assert!(
            f.take(&("acme", "254700000000"), 2, DAY, 286_399),
            "another number"
        );
        assert!(f.take(&who, 2, DAY, 286_400), "the first is a day old");
        assert!(!f.take(&who, 2, DAY, 286_401));
        f.give_back(&who, 286_400);
        assert!(f.take(&who, 2, DAY, 286_401));
        assert_eq!(f.count(&who, DAY, 286_401), 2);
    }

    #[test]
    fn a_cap_of_more_than_a_few_counts_as_exactly() {
        let mut f = Frequency::default();
        let taken = (0..12).filter(|n| f.take(&"x", 7, 100, 1_000 + n)).count();
        assert_eq!((taken, f.count(&"x", 100, 1_011)), (7, 7));
        assert!(!f.take(&"x", 7, 100, 1_099));
        assert!(f.take(&"x", 7, 100, 1_100));
        f.give_back(&"x", 1_100);
        assert_eq!(f.count(&"x", 100, 1_100), 6);
    }

    #[test]
    fn memory_is_bounded_and_the_bound_refuses_nobody() {
        let mut f = Frequency::new(100);
        for n in 0..250 {
            assert!(f.take(&n, 1, DAY, 200_000));
        }
        assert_eq!((f.len(), f.overflow), (100, 150));
        assert!(
            f.take(&1_000, 1, DAY, 200_000 + DAY + 60),
            "the old ones have made room"
        );
        assert_eq!(f.len(), 1);
    }

    #[test]
    fn what_is_on_record_counts_after_a_restart() {
        let mut f = Frequency::default();
        f.restore(&"x", 1, DAY, 200_000);
        assert!(!f.take(&"x", 1, DAY, 200_001));
    }

    #[test]
    fn velocity_and_the_same_text() {
        let rule = |counts| AbuseRule {
            name: "r".into(),
            counts,
            accounts: Vec::new(),
            limit: 3,
            span_s: 60,
        };
        let mut watch = Watch::default();
        let counts: Vec<u32> = [0, 10, 40, 70, 200]
            .map(|s| watch.count(0, &rule(Counts::Messages), 0, 1_200 + s))
            .into();
        assert_eq!(counts, [1, 2, 3, 2, 1]);
        assert_eq!(watch.count(1, &rule(Counts::SameText), 7, 1_200), 1);
        assert_eq!(watch.count(1, &rule(Counts::SameText), 8, 1_200), 1);
        assert_eq!(watch.count(1, &rule(Counts::SameText), 7, 1_200), 2);
    }

    #[test]
    fn a_text_that_bounces_is_noticed_whoever_began() {
        let mut pairs = PingPong::default();
        let mut turns = (0..8).map(|n| {
            let (a, b): (&[u8], &[u8]) = if n % 2 == 0 {
                (b"22555", b"22666")
            } else {
                (b"22666", b"22555")
            };
            pairs.bounces(a, b, b"sorry, we are closed", 1_000)
        });
        assert_eq!(turns.position(|b| b), Some(LOOP_MAX as usize));
        assert!(!pairs.bounces(b"22555", b"22666", b"something else", 1_000));
    }
}
