//! From the config's words to what routing works with: the number plan, routes, what upstreams cost.

use std::sync::Arc;

use crate::config::{self, Config};
use crate::domain::hours::{self, Hours};
use crate::domain::plan::{NumberPlan, Operator, Ported};
use crate::domain::route::{Route, RouteTable, Strategy};
use crate::domain::tariff::{PriceList, PriceRule};
use crate::flow::{Offer, Upstream};

/// The number plan with its overrides.
pub(super) fn plan(numbering: &config::Numbering) -> Result<NumberPlan, String> {
    let mut plan = NumberPlan::default();
    for range in &numbering.ranges {
        let operator = Operator {
            name: range.operator.clone(),
            mcc: range.mcc.clone(),
            mnc: range.mnc.clone(),
        };
        plan.add(&range.prefix, operator, range.digits)
            .map_err(|e| format!("numbering.plan: {e}"))?;
    }
    let table = &numbering.ported_numbers;
    // A table's own list of operators, in places of the plan's.
    let places: Result<Vec<u16>, String> = table
        .operators
        .iter()
        .map(|name| {
            let at = plan.operators().iter().position(|o| o == name);
            at.and_then(|at| u16::try_from(at).ok())
                .ok_or_else(|| format!("numbering.ported: {name:?} is no operator of the plan"))
        })
        .collect();
    let places = places?;
    let place = |at: u16| places.get(usize::from(at)).copied().unwrap_or(0);
    let rows = table.rows.iter().map(|(n, at, day)| (*n, place(*at), *day));
    plan.set_ported(Ported::new(rows));
    Ok(plan)
}

/// What an upstream is to routing.
pub(super) fn offer(u: &config::Upstream) -> Result<Offer, String> {
    let costs: Vec<PriceRule> = u
        .cost
        .iter()
        .map(|c| PriceRule {
            prefix: c.prefix.clone(),
            operator: c.operator.clone(),
            price: c.cost,
            ..PriceRule::default()
        })
        .collect();
    Ok(Offer {
        country: u.country.clone(),
        currency: u.currency.clone(),
        costs: PriceList::new(&costs).map_err(|e| format!("upstream {}: cost: {e}", u.name))?,
    })
}

/// The routes, compiled.
pub(super) fn routes(config: &Config, upstreams: &[Arc<Upstream>]) -> Result<RouteTable, String> {
    let id = |name: &String| upstreams.iter().find(|u| u.options.name == *name).map(|u| u.id);
    let routes: Result<Vec<Route>, String> = config
        .route
        .iter()
        .map(|r| {
            Ok(Route {
                name: r.name.clone(),
                prefixes: r.prefix.clone(),
                operators: r.operator.clone(),
                accounts: r.account.clone(),
                senders: r.sender.clone(),
                classes: r.class.clone(),
                hours: hours(r, config.billing.utc_offset_min)?,
                to: r.to.iter().filter_map(id).collect(),
                weights: r.weights.clone(),
                strategy: match r.strategy {
                    config::Strategy::Failover => Strategy::Failover,
                    config::Strategy::Weighted => Strategy::Weighted,
                    config::Strategy::RoundRobin => Strategy::RoundRobin,
                    config::Strategy::Cheapest => Strategy::Cheapest,
                    config::Strategy::Quality => Strategy::Quality,
                },
                floor_percent: r.floor_percent as u8,
            })
        })
        .collect();
    RouteTable::new(routes?).map_err(|e| format!("route: {e}"))
}

fn hours(r: &config::Route, offset_min: i32) -> Result<Option<Hours>, String> {
    if r.hours.is_none() && r.days == config::EVERY_DAY {
        return Ok(None);
    }
    let zone = match r.zone.as_str() {
        "" => hours::fixed(offset_min),
        name => hours::zone(name),
    };
    let (from, to) = r.hours.unwrap_or((0, hours::DAY_MIN));
    zone.and_then(|zone| Hours::new(r.days, from, to, zone))
        .map(Some)
        .ok_or_else(|| format!("route {}: its hours never open", r.name))
}
