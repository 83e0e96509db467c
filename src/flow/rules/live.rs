//! What is added to the rules while traffic runs: registered senders, suppressed numbers, counts. Read by every session, written
//! by the engine when a change is on record, so that memory never knows more than the store.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;

use super::super::ingress::lock;
use super::{ClassRule, Rules};
use crate::domain::frequency::{Counts, Frequency, PingPong, Watch};
use crate::domain::message::{Parts, tlv};
use crate::domain::sender::{Registry, Sender};
use crate::domain::suppression::{Scope, ScopeRef, Subject, TagSet, tag};
use crate::ids::AccountId;
use crate::store::SubjectKey;

/// Trips of rules that wait for the engine to open their cases; beyond, a trip waits for the next message that trips it.
const TRIPS_MAX: usize = 1_000;
/// Link ids that wait for their answer; beyond, the oldest goes.
const LINKS_MAX: usize = 100_000;
/// How long an answer may take, ms: operators want it within a day.
const LINK_KEEP_MS: u64 = 86_400_000;

/// There is no key of numbers, so that nobody's number can be noted or found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotThere;

/// A rule has tripped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trip {
    /// Whose messages.
    pub account: AccountId,
    /// Name of the rule.
    pub rule: String,
    /// `velocity`, `same-text`, `content` or `loop`.
    pub kind: &'static str,
    /// How much was counted.
    pub count: u64,
    /// Within how long, seconds.
    pub span_s: u32,
}

/// What an inbound message brought along for its answer.
#[derive(Clone, Debug)]
pub(in crate::flow) struct LinkId {
    /// The parameter's tag at the upstream that it came from.
    pub tag: u16,
    /// Its value.
    pub value: Box<[u8]>,
    /// When it came, ms since the epoch.
    pub at_ms: u64,
}

#[derive(Default)]
struct Links {
    by_pair: HashMap<u64, LinkId, foldhash::fast::FixedState>,
    order: VecDeque<(u64, u64)>,
    random: foldhash::quality::RandomState,
}

/// See the module's description.
#[derive(Default)]
pub struct Live {
    /// Anything at all that admission has to look at.
    any: AtomicBool,
    key: OnceLock<SubjectKey>,
    registry: ArcSwap<Registry>,
    stored: Mutex<Vec<Sender>>,
    tags: TagSet,
    /// Messages to one number.
    pub(in crate::flow) frequency: Mutex<Frequency>,
    watches: Mutex<HashMap<AccountId, Watch, foldhash::fast::FixedState>>,
    pairs: Mutex<PingPong>,
    links: Mutex<Links>,
    /// How many there are, so that others need no lock to see that there is none.
    linked: AtomicU64,
    trips: Mutex<Vec<Trip>>,
    /// Rules with an open case: they trip no more until it is closed.
    open: Mutex<HashSet<(AccountId, String)>>,
    /// Messages that wait for a person.
    pub held: AtomicU64,
    /// Messages that wait for a time.
    pub waiting: AtomicU64,
    /// Inbound messages that no rule claims.
    pub unclaimed: AtomicU64,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Live({} suppressed)", self.tags.len())
    }
}

impl Live {
    /// The key under which numbers are known. Once, before anything is read back.
    pub fn set_key(&self, key: SubjectKey) {
        // A second one would be another store's: the first stands.
        let _first_stands = self.key.set(key);
    }

    /// The same; `None`: there is none, and nothing can be suppressed.
    #[must_use]
    pub fn key(&self) -> Option<&SubjectKey> {
        self.key.get()
    }

    /// A number as entries know it.
    ///
    /// # Errors
    /// [`NotThere`].
    pub fn subject(&self, digits: &[u8]) -> Result<Subject, NotThere> {
        self.key.get().map(|k| k.subject(digits)).ok_or(NotThere)
    }

    /// Whether admission has to look at anything here.
    #[must_use]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Senders in force: the config's and those registered over the admin socket.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    pub(super) fn with_registry<R>(&self, work: impl FnOnce(&Registry) -> R) -> R {
        work(&self.registry.load())
    }

    /// Puts the senders of a new config in force, below those that are registered.
    pub fn refresh(&self, rules: &Rules) {
        let stored = lock(&self.stored);
        self.registry.store(Arc::new(rules.registry.with(&stored)));
        self.noted();
    }

    /// A sender is registered or changed, on record.
    pub(in crate::flow) fn register(&self, rules: &Rules, senders: Vec<Sender>) {
        let mut stored = lock(&self.stored);
        for sender in senders {
            stored.retain(|s| !s.same(&sender));
            stored.push(sender);
        }
        self.registry.store(Arc::new(rules.registry.with(&stored)));
        self.noted();
    }

    /// Senders registered over the admin socket.
    #[must_use]
    pub fn stored(&self) -> Vec<Sender> {
        lock(&self.stored).clone()
    }

    fn noted(&self) {
        let any = !self.tags.is_empty() || !self.registry.load().is_empty();
        self.any.store(any, Ordering::Relaxed);
    }

    /// Numbers that are suppressed, over all scopes.
    #[must_use]
    pub fn suppressed(&self) -> usize {
        self.tags.len()
    }

    /// Octets that they take.
    #[must_use]
    pub fn suppressed_octets(&self) -> usize {
        self.tags.octets()
    }

    /// An entry is on record.
    pub fn suppress(&self, subject: &Subject, scope: &Scope, transactional: bool) {
        self.tags
            .insert(tag(subject, &ScopeRef::from(scope)), transactional);
        self.any.store(true, Ordering::Relaxed);
    }

    /// An entry is off the record.
    pub(in crate::flow) fn release(&self, subject: &Subject, scope: &Scope) {
        self.tags.remove(tag(subject, &ScopeRef::from(scope)));
        self.noted();
    }

    /// Whether an entry of this very scope is there; if so, whether it stops transactional messages.
    #[must_use]
    pub fn has(&self, subject: &Subject, scope: &ScopeRef<'_>) -> Option<bool> {
        self.tags.get(tag(subject, scope))
    }

    /// Whether a message of `account` from `source` to `dest` is stopped, by which scope. Only the account's own entries and the
    /// platform's are looked at: what an answer tells is the account's to know.
    #[must_use]
    pub fn stops(
        &self,
        account: AccountId,
        source: &[u8],
        dest: &[u8],
        transactional: bool,
    ) -> Option<&'static str> {
        if self.tags.is_empty() {
            return None;
        }
        let subject = self.key.get()?.subject(dest);
        let mut scopes = None;
        let mut found: Option<usize> = None;
        self.tags.each(&subject, |there, all| {
            // Nearly no number has an entry: what its tags would be is worked out for those alone.
            let scopes = scopes.get_or_insert_with(|| {
                [
                    tag(&subject, &ScopeRef::Sender(account, source)),
                    tag(&subject, &ScopeRef::Account(account)),
                    tag(&subject, &ScopeRef::Platform),
                ]
            });
            let at = scopes.iter().position(|t| *t == there);
            if let Some(at) = at.filter(|_| all || !transactional) {
                found = Some(found.map_or(at, |f| f.min(at)));
            }
        });
        ["sender", "account", "platform"].get(found?).copied()
    }

    /// Counts a message under the abuse rules that are for its account; what trips goes to the engine, once until its case is
    /// closed.
    pub(super) fn watch(&self, rules: &Rules, account: AccountId, name: &str, text: &[u8], now_ms: u64) {
        let now_s = (now_ms / 1_000) as u32;
        let texts = rules.abuse.iter().any(|r| r.counts == Counts::SameText);
        let hash = if texts {
            foldhash::fast::FixedState::default().hash_one(text)
        } else {
            0
        };
        let mut watches = lock(&self.watches);
        for (at, rule) in rules.abuse.iter().enumerate() {
            if !rule.accounts.is_empty() && !rule.accounts.iter().any(|a| a == name) {
                continue;
            }
            let watch = watches.entry(account).or_default();
            let count = watch.count(at as u16, rule, hash, now_s);
            if count > rule.limit {
                self.trip(Trip {
                    account,
                    rule: rule.name.clone(),
                    kind: match rule.counts {
                        Counts::Messages => "velocity",
                        Counts::SameText => "same-text",
                    },
                    count: u64::from(count),
                    span_s: rule.span_s,
                });
            }
        }
    }

    /// Whether a text goes to and fro between two addresses.
    pub(in crate::flow) fn bounces(&self, from: &[u8], to: &[u8], text: &[u8], now_ms: u64) -> bool {
        lock(&self.pairs).bounces(from, to, text, (now_ms / 1_000) as u32)
    }

    /// A rule has tripped; noted unless its case is open.
    pub(in crate::flow) fn trip(&self, trip: Trip) {
        let mut trips = lock(&self.trips);
        if trips.len() < TRIPS_MAX && lock(&self.open).insert((trip.account, trip.rule.clone())) {
            trips.push(trip);
        }
    }

    pub(in crate::flow) fn take_trips(&self) -> Vec<Trip> {
        std::mem::take(&mut lock(&self.trips))
    }

    /// A case is open (`true`) or closed: its rule may trip again.
    pub(in crate::flow) fn case(&self, account: AccountId, rule: &str, open: bool) {
        let mut all = lock(&self.open);
        if open {
            all.insert((account, rule.to_string()));
        } else {
            all.remove(&(account, rule.to_string()));
        }
    }

    /// An inbound message brought a link id for whoever answers it.
    pub(in crate::flow) fn link(&self, account: AccountId, from: &[u8], to: &[u8], id: LinkId) {
        let mut links = lock(&self.links);
        let pair = links.random.hash_one((account, from, to));
        let at = id.at_ms;
        while links.order.len() >= LINKS_MAX
            || links.order.front().is_some_and(|(t, _)| t + LINK_KEEP_MS <= at)
        {
            let Some((t, old)) = links.order.pop_front() else {
                break;
            };
            if links.by_pair.get(&old).is_some_and(|l| l.at_ms == t) {
                links.by_pair.remove(&old);
            }
        }
        links.by_pair.insert(pair, id);
        links.order.push_back((at, pair));
        self.linked.store(links.by_pair.len() as u64, Ordering::Relaxed);
    }

    /// The optional parameters of a message that answers one which had brought a link id along: its own and that one. `None`: it
    /// does not, or has one already.
    pub(in crate::flow) fn answer(
        &self,
        account: AccountId,
        parts: &Parts<'_>,
        now_ms: u64,
    ) -> Option<Vec<u8>> {
        if self.linked.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let id = self.take_link(account, parts.source, parts.dest, now_ms)?;
        if tlv(parts.tlvs, id.tag).is_some() {
            return None;
        }
        let mut tlvs = parts.tlvs.to_vec();
        tlvs.extend_from_slice(&id.tag.to_be_bytes());
        tlvs.extend_from_slice(&(id.value.len() as u16).to_be_bytes());
        tlvs.extend_from_slice(&id.value);
        Some(tlvs)
    }

    /// The link id for a message from `source` to `dest`: each is used once.
    fn take_link(&self, account: AccountId, source: &[u8], dest: &[u8], now_ms: u64) -> Option<LinkId> {
        let mut links = lock(&self.links);
        if links.by_pair.is_empty() {
            return None;
        }
        let pair = links.random.hash_one((account, dest, source));
        let found = links.by_pair.remove(&pair)?;
        self.linked.store(links.by_pair.len() as u64, Ordering::Relaxed);
        (found.at_ms + LINK_KEEP_MS > now_ms).then_some(found)
    }
}

/// What a frequency cap counts by.
pub(in crate::flow) fn capped<'a>(
    account: AccountId,
    rule: &'a ClassRule,
    dest: &'a [u8],
) -> (AccountId, &'a str, &'a [u8]) {
    (account, &rule.class, dest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Live {
        let live = Live::default();
        live.set_key(SubjectKey::new(&[7; 32]));
        live
    }

    #[test]
    fn an_entry_stops_its_own_scope_and_tells_nothing_to_others() {
        let live = live();
        let (a, b) = (AccountId(1), AccountId(2));
        let number = b"254712345678";
        let subject = live.subject(number).unwrap();
        assert!(!live.any());
        live.suppress(&subject, &Scope::Sender(a, "acme".into()), false);
        assert_eq!(live.stops(a, b"ACME", number, false), Some("sender"));
        assert_eq!(live.stops(a, b"OTHER", number, false), None);
        assert_eq!(live.stops(a, b"ACME", number, true), None, "transactional");
        live.suppress(&subject, &Scope::Account(a), false);
        assert_eq!(live.stops(a, b"OTHER", number, false), Some("account"));
        assert_eq!(
            live.stops(b, b"ACME", number, false),
            None,
            "another customer's list"
        );
        live.suppress(&subject, &Scope::Platform, true);
        assert_eq!(live.stops(b, b"ACME", number, true), Some("platform"));
        for scope in [
            Scope::Sender(a, "acme".into()),
            Scope::Account(a),
            Scope::Platform,
        ] {
            live.release(&subject, &scope);
        }
        assert_eq!(live.stops(a, b"ACME", number, false), None);
        assert!(!live.any());
    }

    #[test]
    fn a_rule_trips_once_until_its_case_is_closed() {
        let live = live();
        let trip = || Trip {
            account: AccountId(1),
            rule: "r".into(),
            kind: "velocity",
            count: 9,
            span_s: 60,
        };
        live.trip(trip());
        live.trip(trip());
        assert_eq!(live.take_trips().len(), 1);
        live.trip(trip());
        assert!(live.take_trips().is_empty());
        live.case(AccountId(1), "r", false);
        live.trip(trip());
        assert_eq!(live.take_trips().len(), 1);
    }

    #[test]
    fn a_link_id_is_for_the_one_answer_within_a_day() {
        let live = live();
        let id = |at_ms| LinkId {
            tag: 0x1501,
            value: (*b"L1").into(),
            at_ms,
        };
        live.link(AccountId(1), b"254712345678", b"22555", id(1_000));
        assert!(
            live.take_link(AccountId(2), b"22555", b"254712345678", 2_000)
                .is_none()
        );
        assert!(
            live.take_link(AccountId(1), b"22555", b"254712345678", 2_000)
                .is_some()
        );
        assert!(
            live.take_link(AccountId(1), b"22555", b"254712345678", 2_000)
                .is_none()
        );
        live.link(AccountId(1), b"254712345678", b"22555", id(1_000));
        let late = 1_000 + LINK_KEEP_MS;
        assert!(
            live.take_link(AccountId(1), b"22555", b"254712345678", late)
                .is_none()
        );
    }
}
