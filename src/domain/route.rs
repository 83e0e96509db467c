//! Which upstreams may carry a message: an immutable table, swapped whole when the config changes.

use super::prefix::{NotDigits, PrefixMap};
use crate::ids::UpstreamId;

/// How one of several eligible upstreams is picked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strategy {
    /// The first that is bound, in the order given.
    #[default]
    Failover,
    /// Each bound one in turn.
    RoundRobin,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name in the config.
    pub name: String,
    /// Destination prefixes; an empty one matches every number.
    pub prefixes: Vec<String>,
    /// Only for the accounts of these names; empty: any.
    pub accounts: Vec<String>,
    /// Only for these source addresses; empty: any.
    pub senders: Vec<String>,
    /// Upstreams in order of preference.
    pub to: Vec<UpstreamId>,
    /// How to pick among them.
    pub strategy: Strategy,
}

/// All routes, looked up by destination.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    by_prefix: PrefixMap<Vec<u16>>,
}

impl RouteTable {
    /// Builds the table; the order of `routes` breaks ties.
    ///
    /// # Errors
    /// [`NotDigits`] for a prefix with other characters.
    pub fn new(routes: Vec<Route>) -> Result<RouteTable, NotDigits> {
        let mut by_prefix: PrefixMap<Vec<u16>> = PrefixMap::default();
        for (index, route) in routes.iter().enumerate() {
            for prefix in &route.prefixes {
                by_prefix.entry(prefix, Vec::new)?.push(index as u16);
            }
        }
        Ok(RouteTable { routes, by_prefix })
    }

    /// The most specific route: the longest prefix first; within one prefix a route for this account and sender before one
    /// for either, before one for all; then the order of the config.
    #[must_use]
    pub fn find(&self, account: &str, source: &[u8], dest: &[u8]) -> Option<u16> {
        let mut best = None;
        self.by_prefix.walk(dest, |list| {
            let mut best_here: Option<(u8, u16)> = None;
            for &index in list {
                let Some(rank) = self
                    .routes
                    .get(usize::from(index))
                    .and_then(|r| rank(r, account, source))
                else {
                    continue;
                };
                if best_here.is_none_or(|(b, _)| rank > b) {
                    best_here = Some((rank, index));
                }
            }
            if let Some((_, index)) = best_here {
                best = Some(index);
            }
        });
        best
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

fn rank(route: &Route, account: &str, source: &[u8]) -> Option<u8> {
    let mut rank = 0;
    if !route.accounts.is_empty() {
        if !route.accounts.iter().any(|a| a == account) {
            return None;
        }
        rank += 2;
    }
    if !route.senders.is_empty() {
        if !route
            .senders
            .iter()
            .any(|s| s.as_bytes().eq_ignore_ascii_case(source))
        {
            return None;
        }
        rank += 1;
    }
    Some(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, prefixes: &[&str], accounts: &[&str], senders: &[&str]) -> Route {
        Route {
            name: name.into(),
            prefixes: prefixes.iter().map(|p| (*p).to_string()).collect(),
            accounts: accounts.iter().map(|a| (*a).to_string()).collect(),
            senders: senders.iter().map(|s| (*s).to_string()).collect(),
            to: vec![UpstreamId(0)],
            strategy: Strategy::Failover,
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
        ])
        .unwrap();
        let name = |account: &str, source: &str, dest: &str| {
            table
                .find(account, source.as_bytes(), dest.as_bytes())
                .map(|i| table.get(i).unwrap().name.as_str())
        };
        assert_eq!(name("b", "X", "447700900123"), Some("all"));
        assert_eq!(name("b", "X", "254712345678"), Some("kenya"));
        assert_eq!(name("acme", "X", "254712345678"), Some("kenya-acme"));
        assert_eq!(
            name("acme", "bank", "254712345678"),
            Some("saf-bank"),
            "a longer prefix that applies beats an account"
        );
    }

    #[test]
    fn no_route_is_none() {
        let table = RouteTable::new(vec![route("kenya", &["254"], &[], &[])]).unwrap();
        assert_eq!(table.find("a", b"X", b"447700900123"), None);
    }
}
