//! `[numbering]`, `[[route]]` and what upstreams are to routing: read and checked.

use std::collections::HashSet;

use super::check::{Check, digits};
use super::reader::Reader;
use super::{Config, Cost, Route, Strategy, Upstream, tables};
use crate::country;
use crate::money::Money;

/// Most weights add up to in one route.
const WEIGHT_MAX: u32 = 1_000_000;

pub(super) fn numbering(r: &mut Reader<'_, '_>, c: &mut Config) {
    let dir = c.dir.clone();
    let o = &mut c.numbering;
    r.text("country_code", &mut o.country_code);
    o.plan = r.optional_text("plan").map(|p| dir.join(p));
    if let Some(plan) = &o.plan {
        match tables::ranges(plan) {
            Ok(ranges) => o.ranges = ranges,
            Err(faults) => tell(r, "plan", faults),
        }
    }
    o.ported = r.optional_text("ported").map(|p| dir.join(p));
    if let Some(ported) = &o.ported {
        match tables::ported(ported, &o.ranges) {
            Ok(numbers) => o.ported_numbers = numbers,
            Err(faults) => tell(r, "ported", faults),
        }
    }
    r.flag("mobile_only", &mut o.mobile_only);
}

fn tell(r: &mut Reader<'_, '_>, key: &str, faults: Vec<String>) {
    let line = r.line_of(key);
    faults.iter().for_each(|what| r.fault(line, key, what));
}

pub(super) fn route(r: &mut Reader<'_, '_>) -> Route {
    let mut route = Route::default();
    r.text("name", &mut route.name);
    r.list("prefix", &mut route.prefix);
    r.list("operator", &mut route.operator);
    r.list("account", &mut route.account);
    r.list("sender", &mut route.sender);
    r.list("class", &mut route.class);
    let line = r.line_of("hours");
    if let Some(text) = r.optional_text("hours") {
        match hours(&text) {
            Some(span) => route.hours = Some(span),
            None => r.fault(
                line,
                "hours",
                &format!("{text:?} is no span of the day; write it as \"08:00-18:00\""),
            ),
        }
    }
    let (line, mut words) = (r.line_of("days"), Vec::new());
    let written = r.has("days");
    r.list("days", &mut words);
    if written {
        route.days = 0;
        for word in &words {
            match days(word) {
                Some(bits) => route.days |= bits,
                None => r.fault(
                    line,
                    "days",
                    &format!("{word:?} is no day; write days as \"mon\" or \"mon-fri\""),
                ),
            }
        }
    }
    r.text("zone", &mut route.zone);
    r.list("to", &mut route.to);
    r.numbers("weights", WEIGHT_MAX, &mut route.weights);
    r.choice("strategy", Strategy::WORDS, Strategy::parse, &mut route.strategy);
    r.u32("floor_percent", 1, 50, &mut route.floor_percent);
    route
}

/// Minutes of the day of `08:00-18:00`; `24:00` is the end of the day.
fn hours(text: &str) -> Option<(u16, u16)> {
    let minute = |text: &str| {
        let (h, m) = text.trim().split_once(':')?;
        let (h, m): (u16, u16) = (h.parse().ok()?, m.parse().ok()?);
        (m < 60 && h * 60 + m <= 1_440 && h <= 24).then_some(h * 60 + m)
    };
    let (from, to) = text.split_once('-')?;
    Some((minute(from)?, minute(to)?)).filter(|(from, _)| *from < 1_440)
}

/// Days of the week, Monday first.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Bits (0: Monday) of `mon` or `mon-fri`; `sat-mon` goes round.
fn days(text: &str) -> Option<u8> {
    let at = |word: &str| DAYS.iter().position(|d| d.eq_ignore_ascii_case(word.trim()));
    let Some((from, to)) = text.split_once('-') else {
        return at(text).map(|d| 1 << d);
    };
    let (from, to) = (at(from)?, at(to)?);
    let count = (to + 7 - from) % 7;
    Some((0..=count).fold(0, |bits, n| bits | 1 << ((from + n) % 7)))
}

pub(super) fn upstream(
    r: &mut Reader<'_, '_>,
    u: &mut Upstream,
    price: fn(&mut Reader<'_, '_>, &'static str) -> Money,
) {
    r.text("country", &mut u.country);
    r.text("currency", &mut u.currency);
    r.tables("cost", |r| {
        let mut cost = Cost::default();
        r.text("prefix", &mut cost.prefix);
        r.text("operator", &mut cost.operator);
        cost.cost = price(r, "cost");
        u.cost.push(cost);
    });
}

pub(super) fn check(c: &Config, k: &mut Check<'_>) {
    let n = &c.numbering;
    if !n.country_code.is_empty() && !country::is_e164(&n.country_code) {
        k.fault(
            "numbering.country_code",
            format!(
                "{:?} is no assigned country code of E.164; write it as \"254\"",
                n.country_code
            ),
        );
    }
    if n.ported.is_some() && n.plan.is_none() {
        k.fault("numbering.ported", "needs plan, whose operators it names");
    }
    let operators: HashSet<&str> = n.ranges.iter().map(|r| r.operator.as_str()).collect();
    if operators.len() > tables::OPERATORS_MAX {
        k.fault(
            "numbering.plan",
            format!("names more than {} operators", tables::OPERATORS_MAX),
        );
    }
    for (i, u) in c.upstream.iter().enumerate() {
        let path = |key: &str| format!("upstream[{i}].{key}");
        if u.name.contains(',') {
            k.fault(
                &path("name"),
                "must not contain a comma: accounts list names with commas between",
            );
        }
        if !u.country.is_empty() && !country::is_iso(&u.country) {
            k.fault(
                &path("country"),
                format!(
                    "{:?} is no country; write the ISO 3166 code in capitals, such as \"KE\"",
                    u.country
                ),
            );
        }
        if !u.currency.is_empty()
            && (u.currency.len() != 3 || !u.currency.bytes().all(|b| b.is_ascii_uppercase()))
        {
            k.fault(
                &path("currency"),
                "must be three capital letters, such as \"KES\"",
            );
        }
        if u.currency.is_empty() && !u.cost.is_empty() {
            k.fault(&path("currency"), "is missing; costs need one, such as \"KES\"");
        }
        let mut seen = HashSet::new();
        for (j, cost) in u.cost.iter().enumerate() {
            let path = |key: &str| format!("upstream[{i}].cost[{j}].{key}");
            if !digits(&cost.prefix) {
                k.fault(&path("prefix"), "a prefix has digits only, without +");
            }
            operator(&path("operator"), &cost.operator, &operators, k);
            if !seen.insert((&cost.prefix, &cost.operator)) {
                k.fault(
                    &path("cost"),
                    "there is another cost for the same prefix and operator",
                );
            }
        }
    }
    for (i, r) in c.route.iter().enumerate() {
        route_of(c, i, r, &operators, k);
    }
    if c.route.len() > usize::from(u16::MAX) {
        k.fault("route", "more than 65535 routes");
    }
}

fn operator(path: &str, name: &str, known: &HashSet<&str>, k: &mut Check<'_>) {
    if !name.is_empty() && !known.contains(name) {
        k.fault(path, format!("{name:?} is no operator of [numbering] plan"));
    }
}

fn route_of(c: &Config, i: usize, r: &Route, operators: &HashSet<&str>, k: &mut Check<'_>) {
    let path = |key: &str| format!("route[{i}].{key}");
    for name in &r.operator {
        operator(&path("operator"), name, operators, k);
    }
    for class in r
        .class
        .iter()
        .filter(|c2| !c.sender.iter().any(|s| s.class == **c2))
    {
        k.fault(&path("class"), format!("no [[sender]] is of the class {class:?}"));
    }
    if r.days == 0 {
        k.fault(&path("days"), "names no day: the route would never be taken");
    }
    if let Some((from, to)) = r.hours
        && from == to
    {
        k.fault(
            &path("hours"),
            "never opens: it ends when it begins; for the whole day write \"00:00-24:00\"",
        );
    }
    if !r.zone.is_empty() && !zone(&r.zone) {
        k.fault(
            &path("zone"),
            format!("{:?} is no zone such as \"Africa/Nairobi\" or \"+03:00\"", r.zone),
        );
    }
    if !r.zone.is_empty() && r.hours.is_none() && r.days == super::EVERY_DAY {
        k.fault(&path("zone"), "says nothing without hours or days");
    }
    for (at, name) in r.to.iter().enumerate() {
        if r.to.iter().take(at).any(|other| other == name) {
            k.fault(&path("to"), format!("{name:?} is named twice"));
        }
    }
    match r.strategy {
        Strategy::Weighted => weights(r, &path, k),
        _ if !r.weights.is_empty() => {
            k.fault(&path("weights"), "are for strategy = \"weighted\" only");
        }
        Strategy::Cheapest => costs(c, r, &path, k),
        _ => {}
    }
}

fn weights(r: &Route, path: &impl Fn(&str) -> String, k: &mut Check<'_>) {
    if r.weights.len() != r.to.len() {
        k.fault(
            &path("weights"),
            format!(
                "strategy \"weighted\" needs one for each of the {} upstreams of to",
                r.to.len()
            ),
        );
    } else if r.weights.contains(&0) {
        k.fault(
            &path("weights"),
            "must not be 0; leave the upstream out of to instead",
        );
    }
}

fn costs(c: &Config, r: &Route, path: &impl Fn(&str) -> String, k: &mut Check<'_>) {
    let mut currencies = HashSet::new();
    for u in c.upstream.iter().filter(|u| r.to.contains(&u.name)) {
        if u.cost.is_empty() {
            k.fault(
                &path("strategy"),
                format!("\"cheapest\" needs [[upstream.cost]] of {:?}", u.name),
            );
        } else {
            currencies.insert(&u.currency);
        }
    }
    if currencies.len() > 1 {
        k.fault(
            &path("strategy"),
            "\"cheapest\" cannot compare costs in different currencies",
        );
    }
}

/// Whether a zone is one: a distance from UTC, or a name that the system knows.
fn zone(name: &str) -> bool {
    match name.strip_prefix(['+', '-']) {
        Some(rest) => rest.split_once(':').is_some_and(|(h, m)| {
            h.parse().is_ok_and(|h: u8| h <= 14) && m.len() == 2 && m.parse().is_ok_and(|m: u8| m < 60)
        }),
        None => jiff::tz::TimeZone::get(name).is_ok(),
    }
}

/// What an upstream is to routing, as TOML: the last of its keys, since tables come last.
pub(super) fn print_upstream(u: &Upstream) -> String {
    let mut out = format!("currency = {:?}", u.currency);
    for c in &u.cost {
        out += &format!(
            "\n[[upstream.cost]]\nprefix = {:?}\noperator = {:?}\ncost = \"{}\"",
            c.prefix, c.operator, c.cost
        );
    }
    out
}

/// A route as TOML.
pub(super) fn print_route(r: &Route) -> String {
    let days: Vec<&str> = (0..7).filter(|d| r.days & 1 << d != 0).map(|d| DAYS[d]).collect();
    let time = |min: u16| format!("{:02}:{:02}", min / 60, min % 60);
    let hours = r
        .hours
        .map_or_else(String::new, |(from, to)| format!("{}-{}", time(from), time(to)));
    format!(
        "\n[[route]]\nname = {:?}\nprefix = {:?}\noperator = {:?}\naccount = {:?}\nsender = {:?}\nclass = {:?}\nhours = {hours:?}\n\
         days = {days:?}\nzone = {:?}\nto = {:?}\nweights = {:?}\nstrategy = {:?}\nfloor_percent = {}",
        r.name,
        r.prefix,
        r.operator,
        r.account,
        r.sender,
        r.class,
        r.zone,
        r.to,
        r.weights,
        r.strategy.word(),
        r.floor_percent
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_days_are_read() {
        assert_eq!(hours("08:00-18:30"), Some((480, 1_110)));
        assert_eq!(hours("22:00-06:00"), Some((1_320, 360)));
        assert_eq!(hours("00:00-24:00"), Some((0, 1_440)));
        for bad in ["8-18", "08:00", "08:60-09:00", "25:00-26:00", "24:00-25:00", ""] {
            assert_eq!(hours(bad), None, "{bad}");
        }
        assert_eq!(days("mon"), Some(1));
        assert_eq!(days("mon-fri"), Some(0b001_1111));
        assert_eq!(days("sat-mon"), Some(0b110_0001));
        assert_eq!(days("someday"), None);
    }
}
