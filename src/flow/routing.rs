//! From a route to an upstream: who may carry a message, who can, and which of those is picked.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gateway::Gateway;
use super::lane::Upstream;
use super::policy::Policy;
use crate::domain::account::{Account, Barred};
use crate::domain::route::{Route, Strategy};
use crate::domain::tariff::{PriceKey, PriceList};
use crate::ids::UpstreamId;
use crate::money::Money;

/// What an upstream is to routing, beside how fast it is.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Country of its links, ISO 3166; empty: nobody has said.
    pub country: String,
    /// Currency of its costs.
    pub currency: String,
    /// What it takes a segment.
    pub costs: PriceList,
}

impl Offer {
    /// What a message of `segments` to `number` costs us; `None`: its list has no price for it.
    #[must_use]
    pub fn cost(&self, number: &[u8], operator: &str, segments: u8) -> Option<Money> {
        let key = PriceKey {
            number,
            operator,
            ..PriceKey::default()
        };
        let each = self.costs.find(&key)?;
        each.0.checked_mul(i64::from(segments)).map(Money)
    }
}

/// The upstreams of the moment: immutable, swapped whole when the config changes.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    all: Vec<Arc<Upstream>>,
    /// Place in `all` plus one, by id.
    places: Vec<u16>,
}

impl Upstreams {
    /// These, in the order of the config.
    #[must_use]
    pub fn new(all: Vec<Arc<Upstream>>) -> Upstreams {
        let mut places = Vec::new();
        for (at, upstream) in all.iter().enumerate() {
            let id = usize::from(upstream.id.0);
            if places.len() <= id {
                places.resize(id + 1, 0);
            }
            if let Some(place) = places.get_mut(id) {
                *place = at as u16 + 1;
            }
        }
        Upstreams { all, places }
    }

    /// By its stable id.
    #[must_use]
    pub fn get(&self, id: UpstreamId) -> Option<&Arc<Upstream>> {
        let place = self.places.get(usize::from(id.0))?;
        self.all.get(usize::from(place.checked_sub(1)?))
    }
}

impl Deref for Upstreams {
    type Target = [Arc<Upstream>];

    fn deref(&self) -> &[Arc<Upstream>] {
        &self.all
    }
}

/// For whom an upstream is picked.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whose message it is: says which upstreams may carry it.
    pub account: &'a Account,
    /// Destination in E.164 digits.
    pub number: &'a [u8],
    /// Differs from message to message, and is the same for the parts of one.
    pub turn: u64,
}

impl Gateway {
    /// Why `upstream` may not carry messages of `account`.
    ///
    /// # Errors
    /// [`Barred`].
    pub fn permits(&self, account: &Account, upstream: &Upstream) -> Result<(), Barred> {
        account.permits(&upstream.options.name, &upstream.options.offer.country)
    }

    /// The upstreams of a route that may carry a message, in the order of the config.
    fn permitted<'a>(
        upstreams: &'a Upstreams,
        route: &'a Route,
        account: &'a Account,
    ) -> impl Iterator<Item = (usize, &'a Arc<Upstream>)> + Clone {
        route.to.iter().enumerate().filter_map(move |(i, id)| {
            let upstream = upstreams.get(*id)?;
            let allowed = account.permits(&upstream.options.name, &upstream.options.offer.country);
            (allowed.is_ok() && !upstream.retired()).then_some((i, upstream))
        })
    }

    /// Whether any upstream of a route may carry messages of `account`, up or not.
    #[must_use]
    pub fn authorised(&self, policy: &Policy, route: u16, account: &Account) -> bool {
        let Some(route) = policy.routes.get(route) else {
            return false;
        };
        account.unbarred()
            || Self::permitted(&self.upstreams(), route, account)
                .next()
                .is_some()
    }

    /// Picks the upstream for a message by its route's strategy, among those that can send and that the account may use. If none
    /// can: the first that may and is switched on, where the message waits; if none is, the first that may. `None`: none may.
    #[must_use]
    pub fn pick(&self, policy: &Policy, route: u16, ask: &Ask<'_>) -> Option<Arc<Upstream>> {
        let route = policy.routes.get(route)?;
        let upstreams = self.upstreams();
        let may = || Self::permitted(&upstreams, route, ask.account);
        by_strategy(policy, route, may().filter(|(_, u)| u.live()), ask)
            .or_else(|| may().map(|(_, u)| u).find(|u| u.enabled()))
            .or_else(|| may().map(|(_, u)| u).next())
            .cloned()
    }

    /// Whether some other upstream of a route that names `from` can send: then what waits at `from` may be moved.
    #[must_use]
    pub(super) fn has_detour(&self, policy: &Policy, from: UpstreamId) -> bool {
        let upstreams = self.upstreams();
        policy.routes.routes().iter().any(|route| {
            route.to.contains(&from)
                && route
                    .to
                    .iter()
                    .any(|id| *id != from && upstreams.get(*id).is_some_and(|u| u.live()))
        })
    }
}

/// One of the upstreams that can send, as the route's strategy says.
fn by_strategy<'a>(
    policy: &Policy,
    route: &Route,
    mut live: impl Iterator<Item = (usize, &'a Arc<Upstream>)> + Clone,
    ask: &Ask<'_>,
) -> Option<&'a Arc<Upstream>> {
    match route.strategy {
        Strategy::Failover => live.next().map(|(_, u)| u),
        Strategy::RoundRobin => {
            let n = live.clone().count().max(1) as u64;
            live.nth((ask.turn % n) as usize).map(|(_, u)| u)
        }
        Strategy::Weighted => {
            let weight = |i: usize| u64::from(route.weights.get(i).copied().unwrap_or(1));
            let total: u64 = live.clone().map(|(i, _)| weight(i)).sum();
            let mut at = share(ask.turn, total);
            live.find(|(i, _)| {
                let mine = at < weight(*i);
                at = at.saturating_sub(weight(*i));
                mine
            })
            .map(|(_, u)| u)
        }
        Strategy::Cheapest => {
            let operator = policy.operator(ask.number);
            let cost = |u: &Upstream| {
                let cost = u.options.offer.cost(ask.number, operator, 1);
                cost.map_or(i64::MAX, |m| m.0)
            };
            // Of equals the first, as `min_by_key` has it.
            live.min_by_key(|(_, u)| cost(u)).map(|(_, u)| u)
        }
        Strategy::Quality => by_quality(route, live, ask.turn),
    }
}

/// The best by delivery ratio, but for the floor of each of the others.
fn by_quality<'a>(
    route: &Route,
    live: impl Iterator<Item = (usize, &'a Arc<Upstream>)> + Clone,
    turn: u64,
) -> Option<&'a Arc<Upstream>> {
    let mut best: Option<(u32, usize, &Arc<Upstream>)> = None;
    let mut n = 0u64;
    for (i, u) in live.clone() {
        n += 1;
        let ratio = u.quality.ratio();
        if best.is_none_or(|(most, ..)| ratio > most) {
            best = Some((ratio, i, u));
        }
    }
    let (_, first, best) = best?;
    let at = share(turn, 100);
    let floor = u64::from(route.floor_percent).min(100 / n.max(1));
    let other = at.checked_div(floor).filter(|k| *k + 1 < n);
    match other {
        Some(k) => live.filter(|(i, _)| *i != first).nth(k as usize).map(|(_, u)| u),
        None => Some(best),
    }
}

/// A number below `of` for each turn, every one as often as the others and well mixed: of any run of turns each gets its share to
/// within a few (a Weyl sequence; the step is the golden ratio's).
fn share(turn: u64, of: u64) -> u64 {
    let mixed = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((u128::from(mixed) * u128::from(of)) >> 64) as u64
}

/// How much of what an upstream took it has delivered lately. The engine adds, anybody reads.
#[derive(Debug)]
pub struct Quality {
    /// Ended as DELIVRD, since the last fold.
    good: AtomicU64,
    /// Ended, since the last fold.
    all: AtomicU64,
    /// Both before, decayed, in thousandths of a message.
    old_good: AtomicU64,
    old_all: AtomicU64,
    folded_ms: AtomicU64,
    ratio: AtomicU64,
}

/// After this long a message counts half, ms.
const HALF_LIFE_MS: f64 = 600_000.0;
/// Messages that an upstream is thought to have delivered before any has ended: a new one starts with the benefit of the doubt, and
/// one failure says little.
const PRIOR: f64 = 20.0;
/// The ratio in millionths.
const WHOLE: f64 = 1_000_000.0;

impl Default for Quality {
    fn default() -> Quality {
        Quality {
            good: AtomicU64::new(0),
            all: AtomicU64::new(0),
            old_good: AtomicU64::new(0),
            old_all: AtomicU64::new(0),
            folded_ms: AtomicU64::new(0),
            ratio: AtomicU64::new(WHOLE as u64),
        }
    }
}

impl Quality {
    /// A message that the upstream had taken has ended.
    pub fn ended(&self, delivered: bool) {
        self.all.fetch_add(1, Ordering::Relaxed);
        if delivered {
            self.good.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes what has ended since into the ratio, and lets what is older count less. Called now and then, by one thread.
    pub fn fold(&self, now_ms: u64) {
        let before = self.folded_ms.swap(now_ms, Ordering::Relaxed);
        let keep = match before {
            0 => 1.0,
            at => (-(now_ms.saturating_sub(at) as f64) / HALF_LIFE_MS).exp2(),
        };
        let sum = |old: &AtomicU64, new: &AtomicU64| {
            let more = new.swap(0, Ordering::Relaxed) as f64;
            let sum = old.load(Ordering::Relaxed) as f64 / 1e3 * keep + more;
            old.store((sum * 1e3) as u64, Ordering::Relaxed);
            sum
        };
        let good = sum(&self.old_good, &self.good);
        let all = sum(&self.old_all, &self.all);
        let ratio = (good + PRIOR) / (all.max(good) + PRIOR) * WHOLE;
        self.ratio.store(ratio as u64, Ordering::Relaxed);
    }

    /// The ratio in millionths, as of the last fold.
    #[must_use]
    pub fn ratio(&self) -> u32 {
        u32::try_from(self.ratio.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// How many messages it rests on.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.old_all.load(Ordering::Relaxed) / 1_000
    }

    /// Goes on from what another has measured.
    pub fn adopt(&self, other: &Quality) {
        for (to, from) in [
            (&self.good, &other.good),
            (&self.all, &other.all),
            (&self.old_good, &other.old_good),
            (&self.old_all, &other.old_all),
            (&self.folded_ms, &other.folded_ms),
            (&self.ratio, &other.ratio),
        ] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_over_any_run() {
        for start in [0u64, 7, 1_000_003] {
            let mut counts = [0u32; 10];
            for turn in start..start + 1_000 {
                counts[share(turn, 10) as usize] += 1;
            }
            assert!(counts.iter().all(|n| (95..=105).contains(n)), "{counts:?}");
        }
        assert_eq!(share(5, 0), 0);
    }

    #[test]
    fn the_ratio_follows_what_ends_and_forgets() {
        let q = Quality::default();
        assert_eq!(q.ratio(), 1_000_000, "the benefit of the doubt");
        let mut now = 1_000;
        q.fold(now);
        for i in 0..1_000u32 {
            q.ended(i % 2 == 0);
        }
        now += 100;
        q.fold(now);
        assert!((500_000..520_000).contains(&q.ratio()), "{}", q.ratio());
        // Ten half-lives later little of it is left, and a hundred good ones outweigh it.
        now += 6_000_000;
        for _ in 0..100 {
            q.ended(true);
        }
        q.fold(now);
        assert!(q.ratio() > 980_000, "{}", q.ratio());
    }
}
