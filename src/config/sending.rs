//! `[[priority]]`: who goes first at an upstream.

use std::fmt::Write;

use super::reader::Reader;

/// `[[priority]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Priority {
    /// Only of these accounts; empty: any.
    pub account: Vec<String>,
    /// Only on these routes; empty: any.
    pub route: Vec<String>,
    /// Only from senders of these classes; empty: any.
    pub class: Vec<String>,
    /// 0 (bulk) to 3, whatever priority_flag says; -1: what it says, up to `max`.
    pub level: i32,
    /// The most that priority_flag may ask for.
    pub max: u32,
}

impl Default for Priority {
    fn default() -> Self {
        Priority {
            account: Vec::new(),
            route: Vec::new(),
            class: Vec::new(),
            level: -1,
            max: 3,
        }
    }
}

pub(super) fn priority(r: &mut Reader<'_, '_>) -> Priority {
    let mut p = Priority::default();
    r.list("account", &mut p.account);
    r.list("route", &mut p.route);
    r.list("class", &mut p.class);
    if let Some(n) = r.integer("level", -1, 3) {
        p.level = n as i32;
    }
    r.u32("max", 0, 3, &mut p.max);
    p
}

/// Appends the tables as TOML.
pub(super) fn print(priorities: &[Priority], out: &mut String) {
    for p in priorities {
        let _written = writeln!(
            out,
            "[[priority]]\naccount = {:?}\nroute = {:?}\nclass = {:?}\nlevel = {}\nmax = {}\n",
            p.account, p.route, p.class, p.level, p.max
        );
    }
}
