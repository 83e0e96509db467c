//! Which upstreams may carry a message: an immutable table, swapped whole when the config changes.
//!
//! Of the routes that match, the most specific wins: one for the number's operator before one for any; then the longest prefix;
//! then one for the account; one for the sender; one for the sender's class; one with hours; then the order of the config. An
//! operator comes first because a ported number's prefix says nothing about it any more. Prices are found in the same order.
//!
//! At load the routes are put where a message finds them: by operator, in a trie of prefixes, and at each prefix by account and
//! sender. A lookup costs a step a digit and a few probes, however many routes there are.

use std::collections::HashMap;

use super::hours::Hours;
use super::prefix::{NotDigits, PrefixMap};
use crate::ids::UpstreamId;

/// How one of several eligible upstreams is picked. Only those that can send and that the account may use take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strategy {
    /// The first, in the order given.
    #[default]
    Failover,
    /// By share of their weights.
    Weighted,
    /// Each in turn.
    RoundRobin,
    /// The one whose cost for the number is least.
    Cheapest,
    /// The one that has delivered most of what it took lately; the others keep a floor of traffic, to be measured by.
    Quality,
}

impl Strategy {
    /// Its word in the config.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Strategy::Failover => "failover",
            Strategy::Weighted => "weighted",
            Strategy::RoundRobin => "round-robin",
            Strategy::Cheapest => "cheapest",
            Strategy::Quality => "quality",
        }
    }
}

/// One route. What is empty matches everything.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Its name in the config.
    pub name: String,
    /// Destination prefixes.
    pub prefixes: Vec<String>,
    /// Operators of the number plan.
    pub operators: Vec<String>,
    /// Only for the accounts of these names.
    pub accounts: Vec<String>,
    /// Only for these source addresses, whatever their case.
    pub senders: Vec<String>,
    /// Only for source addresses of these classes.
    pub classes: Vec<String>,
    /// Only then.
    pub hours: Option<Hours>,
    /// Upstreams in order of preference.
    pub to: Vec<UpstreamId>,
    /// Shares, in the order of `to`, where the strategy is by weight.
    pub weights: Vec<u32>,
    /// How to pick among them.
    pub strategy: Strategy,
    /// Hundredths of the traffic that each upstream keeps that is not the best, where the strategy is by quality.
    pub floor_percent: u8,
}

/// What a message is matched by.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteKey<'a> {
    /// Name of the account.
    pub account: &'a str,
    /// Source address as written.
    pub source: &'a [u8],
    /// Its class; empty: none.
    pub class: &'a str,
    /// Operator of the number; empty: not known.
    pub operator: &'a str,
    /// Destination in E.164 digits.
    pub number: &'a [u8],
    /// The moment, ms since the epoch.
    pub at_ms: u64,
}

/// The field in which a route does not match a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mismatch {
    /// The number's operator.
    Operator,
    /// The number.
    Prefix,
    /// The account.
    Account,
    /// The source address.
    Sender,
    /// Its class.
    Class,
    /// The time.
    Hours,
}

impl Mismatch {
    /// Its key in the config.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Mismatch::Operator => "operator",
            Mismatch::Prefix => "prefix",
            Mismatch::Account => "account",
            Mismatch::Sender => "sender",
            Mismatch::Class => "class",
            Mismatch::Hours => "hours",
        }
    }
}

/// What wins: the larger, field by field. See the module's description.
pub type Specificity = (bool, u8, bool, bool, bool, bool);

/// Why a table was not built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    /// A prefix with other characters.
    #[error("a prefix has digits only")]
    NotDigits,
    /// More than [`ROUTES_MAX`].
    #[error("more than 65535 routes")]
    TooMany,
}

impl From<NotDigits> for RouteError {
    fn from(_: NotDigits) -> RouteError {
        RouteError::NotDigits
    }
}

/// Routes of one table.
pub const ROUTES_MAX: usize = u16::MAX as usize;

/// For any account, or any sender.
const ANY: u32 = 0;

/// Routes of one prefix; each list with the most specific first.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// By account and sender, one of which at least is named.
    named: HashMap<(u32, u32), Vec<u16>>,
    /// For any account and sender.
    plain: Vec<u16>,
}

impl Slot {
    fn lists(&mut self) -> impl Iterator<Item = &mut Vec<u16>> {
        self.named.values_mut().chain([&mut self.plain])
    }

    /// The first route of the most specific list for which `fits`.
    fn find(&self, account: u32, sender: u32, fits: impl Fn(&&u16) -> bool) -> Option<u16> {
        let named = [(account, sender), (account, ANY), (ANY, sender)];
        let tried = named
            .iter()
            .filter(|at| **at != (ANY, ANY) && !self.named.is_empty());
        tried
            .filter_map(|at| self.named.get(at))
            .chain([&self.plain])
            .find_map(|list| list.iter().find(|i| fits(i)).copied())
    }
}

/// All routes, compiled for lookup.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    /// Routes for any operator.
    any: PrefixMap<Slot>,
    by_operator: HashMap<String, PrefixMap<Slot>>,
    /// Numbers of the accounts that routes name, from 1.
    accounts: HashMap<String, u32>,
    /// Of source addresses in small letters, from 1.
    senders: HashMap<Vec<u8>, u32>,
}

impl RouteTable {
    /// Builds the table; the order of `routes` breaks ties.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn new(routes: Vec<Route>) -> Result<RouteTable, RouteError> {
        if routes.len() > ROUTES_MAX {
            return Err(RouteError::TooMany);
        }
        let mut table = RouteTable::default();
        for (index, route) in routes.iter().enumerate() {
            table.place(index as u16, route)?;
        }
        let order = |index: &u16| {
            let route = routes.get(usize::from(*index));
            let rank = route.map_or((false, false), |r| (!r.classes.is_empty(), r.hours.is_some()));
            (std::cmp::Reverse(rank), *index)
        };
        for map in table.by_operator.values_mut().chain([&mut table.any]) {
            for list in map.values_mut().flat_map(Slot::lists) {
                list.sort_by_key(order);
                list.dedup();
            }
        }
        table.routes = routes;
        Ok(table)
    }

    fn place(&mut self, index: u16, route: &Route) -> Result<(), RouteError> {
        let accounts = numbered(&mut self.accounts, route.accounts.iter().cloned());
        let lower = |s: &String| s.to_ascii_lowercase().into_bytes();
        let senders = numbered(&mut self.senders, route.senders.iter().map(lower));
        let all = [String::new()];
        let prefixes: &[String] = if route.prefixes.is_empty() {
            &all
        } else {
            &route.prefixes
        };
        let mut maps: Vec<&mut PrefixMap<Slot>> = Vec::new();
        if route.operators.is_empty() {
            maps.push(&mut self.any);
        } else {
            for name in &route.operators {
                self.by_operator.entry(name.clone()).or_default();
            }
            let named = self.by_operator.iter_mut();
            maps.extend(
                named
                    .filter(|(name, _)| route.operators.contains(name))
                    .map(|(_, m)| m),
            );
        }
        for map in maps {
            for prefix in prefixes {
                let slot = map.entry(prefix, Slot::default)?;
                for at in accounts.iter().flat_map(|a| senders.iter().map(|s| (*a, *s))) {
                    match at {
                        (ANY, ANY) => slot.plain.push(index),
                        at => slot.named.entry(at).or_default().push(index),
                    }
                }
            }
        }
        Ok(())
    }

    /// The most specific route that matches.
    #[must_use]
    pub fn find(&self, key: &RouteKey<'_>) -> Option<u16> {
        let account = match self.accounts.is_empty() {
            true => ANY,
            false => self.accounts.get(key.account).copied().unwrap_or(ANY),
        };
        let sender = match self.senders.is_empty() {
            true => ANY,
            false => {
                let mut small = [0u8; SOURCE_MAX];
                let small = lower(key.source, &mut small);
                small.and_then(|s| self.senders.get(s)).copied().unwrap_or(ANY)
            }
        };
        if !self.by_operator.is_empty()
            && let Some(map) = self.by_operator.get(key.operator)
            && let Some(found) = self.find_in(map, account, sender, key)
        {
            return Some(found);
        }
        self.find_in(&self.any, account, sender, key)
    }

    fn find_in(&self, map: &PrefixMap<Slot>, account: u32, sender: u32, key: &RouteKey<'_>) -> Option<u16> {
        // An E.164 number has at most 15 digits, so at most 16 prefixes.
        let mut slots: [Option<&Slot>; 16] = [None; 16];
        let mut n = 0;
        map.walk(key.number, |slot| {
            if let Some(place) = slots.get_mut(n) {
                *place = Some(slot);
                n += 1;
            }
        });
        let fits = |index: &&u16| {
            let route = self.routes.get(usize::from(**index));
            route.is_some_and(|r| open(r, key))
        };
        let mut longest_first = slots.iter().take(n).rev().flatten();
        longest_first.find_map(|slot| slot.find(account, sender, fits))
    }

    /// The field in which a route does not match, or how specific it is.
    ///
    /// # Errors
    /// The first [`Mismatch`].
    pub fn matches(route: &Route, key: &RouteKey<'_>) -> Result<Specificity, Mismatch> {
        let names = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
        if !names(&route.operators, key.operator) {
            return Err(Mismatch::Operator);
        }
        let fitting = route
            .prefixes
            .iter()
            .filter(|p| key.number.starts_with(p.as_bytes()));
        let prefix = match fitting.map(String::len).max() {
            Some(length) => length,
            None if route.prefixes.is_empty() => 0,
            None => return Err(Mismatch::Prefix),
        };
        if !names(&route.accounts, key.account) {
            return Err(Mismatch::Account);
        }
        let sends = |s: &String| s.as_bytes().eq_ignore_ascii_case(key.source);
        if !route.senders.is_empty() && !route.senders.iter().any(sends) {
            return Err(Mismatch::Sender);
        }
        if !names(&route.classes, key.class) {
            return Err(Mismatch::Class);
        }
        if route.hours.as_ref().is_some_and(|h| !h.open(key.at_ms)) {
            return Err(Mismatch::Hours);
        }
        Ok((
            !route.operators.is_empty(),
            prefix.min(255) as u8,
            !route.accounts.is_empty(),
            !route.senders.is_empty(),
            !route.classes.is_empty(),
            route.hours.is_some(),
        ))
    }

    /// Every route that matches, the one that [`RouteTable::find`] gives first, for explanations.
    #[must_use]
    pub fn ranked(&self, key: &RouteKey<'_>) -> Vec<u16> {
        let mut fits: Vec<(std::cmp::Reverse<Specificity>, u16)> = Vec::new();
        for (index, route) in self.routes.iter().enumerate() {
            if let Ok(rank) = Self::matches(route, key) {
                fits.push((std::cmp::Reverse(rank), index as u16));
            }
        }
        fits.sort_unstable();
        fits.into_iter().map(|(_, index)| index).collect()
    }

    /// The route at `index`.
    #[must_use]
    pub fn get(&self, index: u16) -> Option<&Route> {
        self.routes.get(usize::from(index))
    }

    /// All routes in the order of the config.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

/// Octets of a source address (SMPP 3.4 §4.4.1; data_sm's are cut to that before).
const SOURCE_MAX: usize = 64;

fn lower<'a>(source: &[u8], into: &'a mut [u8; SOURCE_MAX]) -> Option<&'a [u8]> {
    let place = into.get_mut(..source.len())?;
    place.copy_from_slice(source);
    place.make_ascii_lowercase();
    Some(place)
}

fn open(route: &Route, key: &RouteKey<'_>) -> bool {
    (route.classes.is_empty() || route.classes.iter().any(|c| c == key.class))
        && route.hours.as_ref().is_none_or(|h| h.open(key.at_ms))
}

/// Numbers of names, new ones counted up from 1; of no names [`ANY`].
fn numbered<K: std::hash::Hash + Eq>(
    known: &mut HashMap<K, u32>,
    names: impl Iterator<Item = K>,
) -> Vec<u32> {
    let mut out = Vec::new();
    for name in names {
        let next = known.len() as u32 + 1;
        out.push(*known.entry(name).or_insert(next));
    }
    if out.is_empty() {
        out.push(ANY);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::hours::{EVERY_DAY, fixed};
    use super::*;
    use proptest::prelude::*;

    fn route(name: &str, prefixes: &[&str], accounts: &[&str], senders: &[&str]) -> Route {
        let owned = |list: &[&str]| list.iter().map(|p| (*p).to_string()).collect();
        Route {
            name: name.into(),
            prefixes: owned(prefixes),
            accounts: owned(accounts),
            senders: owned(senders),
            to: vec![UpstreamId(0)],
            ..Route::default()
        }
    }

    fn key<'a>(account: &'a str, source: &'a str, number: &'a str) -> RouteKey<'a> {
        RouteKey {
            account,
            source: source.as_bytes(),
            number: number.as_bytes(),
            ..RouteKey::default()
        }
    }

    #[test]
    fn the_most_specific_route_wins_then_the_order() {
        let table = RouteTable::new(vec![
            route("all", &[""], &[], &[]),
            route("kenya", &["254"], &[], &[]),
            route("kenya-acme", &["254"], &["acme"], &[]),
            route("kenya-late", &["254"], &[], &[]),
            route("saf-bank", &["25471"], &[], &["BANK"]),
            Route {
                operators: vec!["airtel".into()],
                ..route("airtel", &[], &[], &[])
            },
            Route {
                classes: vec!["promotional".into()],
                ..route("promo", &["254"], &[], &[])
            },
            Route {
                hours: Hours::new(EVERY_DAY, 0, 60, fixed(0).unwrap()),
                ..route("night", &["254"], &[], &[])
            },
        ])
        .unwrap();
        let name = |key: RouteKey<'_>| table.find(&key).map(|i| table.get(i).unwrap().name.clone());
        let late = 3_600_000;
        let day = |k| RouteKey { at_ms: late, ..k };
        assert_eq!(name(key("b", "X", "447700900123")).as_deref(), Some("all"));
        assert_eq!(name(day(key("b", "X", "254712345678"))).as_deref(), Some("kenya"));
        assert_eq!(name(key("b", "X", "254712345678")).as_deref(), Some("night"));
        assert_eq!(
            name(key("acme", "X", "254712345678")).as_deref(),
            Some("kenya-acme")
        );
        assert_eq!(
            name(key("acme", "bank", "254712345678")).as_deref(),
            Some("saf-bank"),
            "a longer prefix that applies beats an account"
        );
        let promo = RouteKey {
            class: "promotional",
            ..key("b", "X", "254712345678")
        };
        assert_eq!(name(promo).as_deref(), Some("promo"), "a class beats hours");
        let ported = RouteKey {
            operator: "airtel",
            ..key("acme", "bank", "254712345678")
        };
        assert_eq!(
            name(ported).as_deref(),
            Some("airtel"),
            "an operator beats every prefix: the number may be ported"
        );
    }

    #[test]
    fn no_route_is_none_and_says_which_field() {
        let table = RouteTable::new(vec![route("kenya", &["254"], &["acme"], &["BANK"])]).unwrap();
        assert_eq!(table.find(&key("acme", "BANK", "447700900123")), None);
        let why = |k| RouteTable::matches(&table.routes()[0], &k).err();
        assert_eq!(why(key("acme", "BANK", "447700900123")), Some(Mismatch::Prefix));
        assert_eq!(why(key("b", "BANK", "254712345678")), Some(Mismatch::Account));
        assert_eq!(why(key("acme", "X", "254712345678")), Some(Mismatch::Sender));
        assert_eq!(why(key("acme", "bank", "254712345678")), None);
    }

    #[test]
    fn too_many_routes_are_refused_and_not_cut() {
        let many = (0..=ROUTES_MAX).map(|_| route("r", &["1"], &[], &[])).collect();
        assert_eq!(RouteTable::new(many).err(), Some(RouteError::TooMany));
    }

    prop_compose! {
        fn any_route()(
            prefixes in proptest::collection::vec("[12]{0,3}", 0..3),
            operators in proptest::collection::vec("[xy]", 0..2),
            accounts in proptest::collection::vec("[ab]", 0..2),
            senders in proptest::collection::vec("[PQ]", 0..2),
            classes in proptest::collection::vec("[mn]", 0..2),
            night in any::<bool>(),
        ) -> Route {
            Route {
                prefixes, operators, accounts, senders, classes,
                hours: night.then(|| Hours::new(EVERY_DAY, 0, 60, fixed(0).unwrap()).unwrap()),
                to: vec![UpstreamId(0)],
                ..Route::default()
            }
        }
    }

    proptest! {
        /// The compiled lookup and the plain search through all routes give the same route.
        #[test]
        fn agrees_with_the_obvious_search(
            routes in proptest::collection::vec(any_route(), 0..30),
            account in "[abc]", source in "[pqr]", class in "[mno]?", operator in "[xyz]?", number in "[12]{3,6}",
            hour in 0u64..3,
        ) {
            let table = RouteTable::new(routes).unwrap();
            let key = RouteKey {
                account: &account, source: source.as_bytes(), class: &class, operator: &operator,
                number: number.as_bytes(), at_ms: hour * 3_600_000,
            };
            prop_assert_eq!(table.find(&key), table.ranked(&key).first().copied());
        }
    }
}
