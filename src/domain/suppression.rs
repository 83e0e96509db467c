//! Numbers that must not be sent to. The number itself is nowhere: an entry knows it by a keyed hash, since the numbers of a
//! country are few enough to try them all (139 million in Kenya, half a minute of SHA-256 on one core).

use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::ids::AccountId;

/// A number under the key of this installation: the first 16 octets of its HMAC-SHA-256.
pub type Subject = [u8; 16];

/// Whose messages an entry stops.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Scope {
    /// Everybody's. Only operators of the platform write it.
    Platform,
    /// All of an account.
    Account(AccountId),
    /// Those of an account under one sender address, in small letters.
    Sender(AccountId, Box<str>),
}

impl Scope {
    /// All words.
    pub const WORDS: &'static [&'static str] = &["platform", "account", "sender"];

    /// Its word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Scope::Platform => "platform",
            Scope::Account(_) => "account",
            Scope::Sender(..) => "sender",
        }
    }

    /// Its stored number.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Scope::Platform => 0,
            Scope::Account(_) => 1,
            Scope::Sender(..) => 2,
        }
    }

    /// From what is stored.
    #[must_use]
    pub fn from_stored(code: u8, account: AccountId, sender: &str) -> Option<Scope> {
        match code {
            0 => Some(Scope::Platform),
            1 => Some(Scope::Account(account)),
            2 => Some(Scope::Sender(account, sender.into())),
            _ => None,
        }
    }

    /// The account, if it is one's.
    #[must_use]
    pub const fn account(&self) -> AccountId {
        match self {
            Scope::Platform => AccountId::NONE,
            Scope::Account(account) | Scope::Sender(account, _) => *account,
        }
    }

    /// The sender, if it is one's.
    #[must_use]
    pub fn sender(&self) -> &str {
        match self {
            Scope::Sender(_, sender) => sender,
            _ => "",
        }
    }
}

/// Where an entry comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Source {
    /// A person at the platform.
    #[default]
    Admin = 0,
    /// The subscriber wrote STOP.
    Inbound = 1,
    /// An operator's receipt says so.
    Receipt = 2,
    /// A list was read in.
    Import = 3,
    /// A data subject's request.
    Request = 4,
    /// A complaint.
    Complaint = 5,
}

impl Source {
    /// All words.
    pub const WORDS: &'static [&'static str] = &["admin", "mo", "receipt", "import", "dsar", "complaint"];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.get(self as usize).copied().unwrap_or("admin")
    }

    /// From its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Source> {
        let at = Self::WORDS.iter().position(|w| *w == word)?;
        Some(Source::from_code(at as u8))
    }

    /// From the stored number.
    #[must_use]
    pub const fn from_code(code: u8) -> Source {
        match code {
            1 => Source::Inbound,
            2 => Source::Receipt,
            3 => Source::Import,
            4 => Source::Request,
            5 => Source::Complaint,
            _ => Source::Admin,
        }
    }
}

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suppression {
    /// Who must not be sent to.
    pub subject: Subject,
    /// Whose messages it stops.
    pub scope: Scope,
    /// Where it comes from.
    pub source: Source,
    /// It stops transactional messages too: an objection to all use. Without it, those of senders registered as transactional
    /// pass, which a subscriber cannot stop by a word.
    pub transactional: bool,
    /// Why; never a number or a text.
    pub reason: String,
    /// Since when, ms since the epoch.
    pub at_ms: u64,
    /// Until when, ms since the epoch; 0: for good.
    pub until_ms: u64,
}

/// Bits of a tag that are its number's alone, so that all entries of one number stand together.
const SUBJECT_BITS: u32 = 40;
const SUBJECT_MASK: u64 = u64::MAX << (64 - SUBJECT_BITS);

/// One entry as admission knows it: 40 bits of the number, 23 of number and scope, and whether it stops transactional messages.
/// Two entries are taken for each other once in 10¹² messages with ten million of them: then one message too many is refused.
#[must_use]
pub fn tag(subject: &Subject, scope: &ScopeRef<'_>) -> u64 {
    let (kind, account, sender) = match scope {
        ScopeRef::Platform => (0u8, 0, &[][..]),
        ScopeRef::Account(account) => (1, account.0, &[][..]),
        ScopeRef::Sender(account, sender) => (2, account.0, *sender),
    };
    // The subject is a secret function of the number already, so nobody can choose what meets in the table.
    let mut low = [0u8; 24];
    let len = sender.len().min(low.len());
    low[..len].copy_from_slice(&sender[..len]);
    low.make_ascii_lowercase();
    let hash = foldhash_of((subject, kind, account, &low[..len]));
    (prefix(subject) | hash & !SUBJECT_MASK & !1).max(2)
}

/// What the tags of all entries of a number begin with.
fn prefix(subject: &Subject) -> u64 {
    let head = subject.first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(head) & SUBJECT_MASK
}

fn foldhash_of(what: impl std::hash::Hash) -> u64 {
    foldhash::quality::FixedState::default().hash_one(what)
}

/// A [`Scope`] that borrows its sender, as it is written.
#[derive(Clone, Copy, Debug)]
pub enum ScopeRef<'a> {
    /// See [`Scope::Platform`].
    Platform,
    /// See [`Scope::Account`].
    Account(AccountId),
    /// See [`Scope::Sender`].
    Sender(AccountId, &'a [u8]),
}

impl<'a> From<&'a Scope> for ScopeRef<'a> {
    fn from(scope: &'a Scope) -> ScopeRef<'a> {
        match scope {
            Scope::Platform => ScopeRef::Platform,
            Scope::Account(account) => ScopeRef::Account(*account),
            Scope::Sender(account, sender) => ScopeRef::Sender(*account, sender.as_bytes()),
        }
    }
}

/// Shards of a [`TagSet`]: one that grows holds its readers up for the time of ten thousand entries of ten million.
const SHARDS: usize = 1_024;
/// Slots of a shard that is not empty.
const SLOTS_MIN: usize = 16;

/// Tags in memory, 10 to 15 octets an entry: open addressing in tables that grow by half when they are four fifths full. Written
/// by one thread, read by all.
pub struct TagSet {
    shards: Box<[RwLock<Shard>]>,
    len: AtomicUsize,
}

impl Default for TagSet {
    fn default() -> Self {
        TagSet {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            len: AtomicUsize::new(0),
        }
    }
}

impl fmt::Debug for TagSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TagSet({})", self.len())
    }
}

impl TagSet {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets that its tables take.
    #[must_use]
    pub fn octets(&self) -> usize {
        let of = |s: &RwLock<Shard>| s.read().unwrap_or_else(PoisonError::into_inner).slots.capacity() * 8;
        self.shards.iter().map(of).sum()
    }

    fn shard(&self, tag: u64) -> Option<&RwLock<Shard>> {
        self.shards.get((tag >> 54) as usize % SHARDS)
    }

    /// Whether a tag is there; if so, whether it stops transactional messages.
    #[must_use]
    pub fn get(&self, tag: u64) -> Option<bool> {
        let shard = self.shard(tag)?.read().unwrap_or_else(PoisonError::into_inner);
        shard.get(tag)
    }

    /// Shows each entry of a number, and some of others that look alike, to `see`: the tag, and whether it stops transactional
    /// messages. One search, whatever the scopes.
    pub fn each(&self, subject: &Subject, mut see: impl FnMut(u64, bool)) {
        let prefix = prefix(subject);
        let Some(shard) = self.shard(prefix) else { return };
        let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
        shard
            .run(prefix)
            .take_while(|(_, slot)| *slot != 0)
            .filter(|(_, slot)| slot & SUBJECT_MASK == prefix)
            .for_each(|(_, slot)| see(slot & !1, slot & 1 != 0));
    }

    /// Puts one in, or changes what it stops; whether it is new.
    pub fn insert(&self, tag: u64, transactional: bool) -> bool {
        let Some(shard) = self.shard(tag) else {
            return false;
        };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let new = shard.insert(tag & !1 | u64::from(transactional));
        self.len.fetch_add(usize::from(new), Ordering::Relaxed);
        new
    }

    /// Takes one out; whether it was there.
    pub fn remove(&self, tag: u64) -> bool {
        let Some(shard) = self.shard(tag) else {
            return false;
        };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let was = shard.remove(tag);
        self.len.fetch_sub(usize::from(was), Ordering::Relaxed);
        was
    }
}

/// One table. A slot of 0 is free; the lowest bit is no part of the tag.
#[derive(Default)]
struct Shard {
    slots: Vec<u64>,
    used: usize,
}

impl Shard {
    /// Where a tag would like to be: its number's bits below those of the shard, spread over the table.
    fn home(&self, tag: u64) -> usize {
        ((u128::from((tag & SUBJECT_MASK) << 10) * self.slots.len() as u128) >> 64) as usize
    }

    /// The slots from a tag's home on, all the way round.
    fn run(&self, tag: u64) -> impl Iterator<Item = (usize, u64)> + '_ {
        let (before, after) = self.slots.split_at_checked(self.home(tag)).unwrap_or_default();
        let places = (before.len()..).zip(after).chain((0..).zip(before));
        places.map(|(at, slot)| (at, *slot))
    }

    /// The slot of a tag, or the free one where it belongs.
    fn find(&self, tag: u64) -> Option<(usize, u64)> {
        self.run(tag)
            .find(|(_, slot)| *slot == 0 || slot >> 1 == tag >> 1)
    }

    fn get(&self, tag: u64) -> Option<bool> {
        let (_, slot) = self.find(tag)?;
        (slot != 0).then_some(slot & 1 != 0)
    }

    fn insert(&mut self, tag: u64) -> bool {
        if (self.used + 1) * 5 > self.slots.len() * 4 {
            let slots = (self.slots.len() * 3 / 2).max(SLOTS_MIN);
            let old = std::mem::replace(&mut self.slots, vec![0; slots]);
            for tag in old.into_iter().filter(|t| *t != 0) {
                self.put(tag);
            }
        }
        let new = self.put(tag);
        self.used += usize::from(new);
        new
    }

    fn put(&mut self, tag: u64) -> bool {
        let Some((at, old)) = self.find(tag) else {
            return false;
        };
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = tag;
        }
        old == 0
    }

    /// What stands behind a freed slot and would rather be in it moves up, so that no search ends too early.
    fn remove(&mut self, tag: u64) -> bool {
        let Some((mut free, _)) = self.find(tag).filter(|(_, slot)| *slot != 0) else {
            return false;
        };
        let n = self.slots.len();
        let mut at = free;
        loop {
            at = (at + 1) % n;
            let next = self.slots.get(at).copied().unwrap_or(0);
            if next == 0 {
                break;
            }
            let way = |from: usize, to: usize| (to + n - from) % n;
            if way(self.home(next), at) >= way(free, at)
                && let Some(slot) = self.slots.get_mut(free)
            {
                *slot = next;
                free = at;
            }
        }
        if let Some(slot) = self.slots.get_mut(free) {
            *slot = 0;
        }
        self.used -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn subject(n: u64) -> Subject {
        (u128::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C0D_1234_5677)).to_be_bytes()
    }

    #[test]
    fn scopes_do_not_mix_and_senders_have_no_case() {
        let (a, b) = (AccountId(1), AccountId(2));
        let of = |scope: ScopeRef<'_>| tag(&subject(7), &scope);
        let all = [
            of(ScopeRef::Platform),
            of(ScopeRef::Account(a)),
            of(ScopeRef::Account(b)),
            of(ScopeRef::Sender(a, b"ACME")),
            of(ScopeRef::Sender(b, b"ACME")),
            of(ScopeRef::Sender(a, b"ACME2")),
        ];
        let distinct: std::collections::HashSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(of(ScopeRef::Sender(a, b"ACME")), of(ScopeRef::Sender(a, b"acme")));
        let set = TagSet::default();
        for tag in all {
            assert!(set.insert(tag, false));
        }
        let mut seen = Vec::new();
        set.each(&subject(7), |tag, _| seen.push(tag));
        seen.sort_unstable();
        let mut wanted = all.to_vec();
        wanted.sort_unstable();
        assert_eq!(seen, wanted, "one search finds all entries of a number");
        set.each(&subject(8), |_, _| panic!("of another number"));
        let stored = Scope::Sender(a, "acme".into());
        assert_eq!(tag(&subject(7), &ScopeRef::from(&stored)), all[3]);
    }

    #[test]
    fn an_entry_takes_at_most_sixteen_octets() {
        let set = TagSet::default();
        let mut worst = 0.0f64;
        for n in 0..400_000u64 {
            set.insert(tag(&subject(n), &ScopeRef::Platform), false);
            if n > 100_000 && n % 10_007 == 0 {
                worst = worst.max(set.octets() as f64 / set.len() as f64);
            }
        }
        assert_eq!(set.len(), 400_000);
        assert!(worst <= 16.0, "{worst} octets an entry");
        assert!((0..400_000).all(|n| set.get(tag(&subject(n), &ScopeRef::Platform)) == Some(false)));
        assert!((400_000..500_000).all(|n| set.get(tag(&subject(n), &ScopeRef::Platform)).is_none()));
    }

    proptest! {
        /// Few homes, so that runs meet and wrap.
        #[test]
        fn a_shard_is_a_map(steps in proptest::collection::vec((0u64..60, any::<bool>(), any::<bool>()), 1..400)) {
            let (mut shard, mut model) = (Shard::default(), HashMap::new());
            for (n, put, flag) in steps {
                let tag = (n % 7) << 50 | (n % 2) << 24 | (n + 1) << 1;
                if put {
                    prop_assert_eq!(shard.insert(tag | u64::from(flag)), model.insert(tag, flag).is_none());
                } else {
                    prop_assert_eq!(shard.remove(tag), model.remove(&tag).is_some());
                }
                prop_assert_eq!(shard.used, model.len());
            }
            for n in 0..60 {
                let tag = (n % 7) << 50 | (n % 2) << 24 | (n + 1) << 1;
                prop_assert_eq!(shard.get(tag), model.get(&tag).copied());
            }
        }
    }
}
