//! Which way a message goes: numbers, routes, strategies, and who may carry what.

mod common;

use std::path::Path;

use common::{PASSWORD, Peer, World, eventually, message, upstream};
use serde_json::json;
use smsconnect::config::{self, Config};
use smsconnect::smpp::{Address, CommandId, CommandStatus, Npi, ShortMessage, Ton};
use smsconnect::tools::smsc::{Smsc, SmscOptions};

const ROK: CommandStatus = CommandStatus::ESME_ROK;
const NO_ROUTE: CommandStatus = CommandStatus(0x403);

fn to(number: &'static str) -> ShortMessage<'static> {
    ShortMessage {
        dest: Address {
            ton: Ton(0),
            npi: Npi(0),
            addr: number.as_bytes(),
        },
        ..message(b"hello")
    }
}

/// The Kenyan number plan as shipped.
fn plan(c: &mut Config) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/numbering/254.csv");
    let text = format!("[numbering]\ncountry_code = \"254\"\nplan = {file:?}\n");
    c.numbering = config::parse(&text, Path::new("plan.toml")).unwrap().numbering;
}

/// A gateway with several simulators, `a` first: the world's own is `a`.
struct Several {
    world: World,
    others: Vec<Smsc>,
}

impl Several {
    fn new(names: &[&str], change: impl FnOnce(&mut Config)) -> Several {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut others = Vec::new();
        for _ in names.iter().skip(1) {
            let options = SmscOptions {
                listen: "127.0.0.1:0".parse().unwrap(),
                record: true,
                ..SmscOptions::default()
            };
            others.push(runtime.block_on(Smsc::start(options)).unwrap());
        }
        let world = World::with(SmscOptions::default(), |c| {
            c.upstream[0].name = names[0].into();
            for (name, smsc) in names.iter().skip(1).zip(&others) {
                c.upstream.push(upstream(name, smsc.addr()));
            }
            c.route[0].to = names.iter().map(|n| (*n).into()).collect();
            change(c);
        });
        // The simulators live on their own runtime for as long as the test does.
        std::mem::forget(runtime);
        let several = Several { world, others };
        eventually("every upstream is bound", || {
            let list = several.world.admin("upstream.list", json!({})).unwrap();
            let items = list["items"].as_array().unwrap();
            items.iter().all(|u| u["live"] == true)
        });
        several
    }

    /// Messages that each has taken.
    fn taken(&self) -> Vec<u64> {
        let all = [&self.world.smsc].into_iter().chain(&self.others);
        all.map(|s| s.stats().accepted).collect()
    }

    fn send(&self, peer: &mut Peer, n: u64) {
        let before: u64 = self.taken().iter().sum();
        for _ in 0..n {
            assert_eq!(peer.submit(&to("0712345678")).status, ROK);
        }
        eventually("all are taken", || self.taken().iter().sum::<u64>() == before + n);
    }
}

#[test]
fn the_country_spells_its_numbers_in_many_ways_and_only_mobiles_are_taken() {
    let world = World::with(SmscOptions::default(), plan);
    world.account("acme", "100", json!({}));
    world.up(1);
    let mut p = world.bound("acme");
    for number in [
        "0712345678",
        "0112345678",
        "712345678",
        "254712345678",
        "+254712345678",
        "00254712345678",
        "000254712345678",
        "2540712345678",
    ] {
        assert_eq!(p.submit(&to(number)).status, ROK, "{number}");
    }
    for number in [
        "0201234567",
        "254201234567",
        "254800123456",
        "07123456",
        "25471234567890",
    ] {
        let status = p.submit(&to(number)).status;
        assert_eq!(status, CommandStatus::ESME_RINVDSTADR, "{number}");
    }
    drop(world);
    // Where it is allowed the same landline is taken.
    let world = World::with(SmscOptions::default(), |c| {
        plan(c);
        c.numbering.mobile_only = false;
    });
    world.account("acme", "100", json!({}));
    assert_eq!(world.bound("acme").submit(&to("0201234567")).status, ROK);
}

#[test]
fn weights_share_the_traffic_and_turns_go_round() {
    let s = Several::new(&["a", "b"], |c| {
        c.route[0].strategy = config::Strategy::Weighted;
        c.route[0].weights = vec![3, 1];
        let mut other = c.route[0].clone();
        other.name = "turns".into();
        other.account = vec!["turns".into()];
        other.strategy = config::Strategy::RoundRobin;
        other.weights.clear();
        c.route.push(other);
    });
    s.world.account("acme", "1000", json!({}));
    s.world.account("turns", "1000", json!({}));
    let mut p = s.world.bound("acme");
    s.send(&mut p, 100);
    let taken = s.taken();
    assert!((72..=78).contains(&taken[0]), "{taken:?}");
    let mut p = s.world.bound("turns");
    s.send(&mut p, 40);
    assert_eq!(s.taken()[0] - taken[0], 20);
}

#[test]
fn the_cheapest_that_can_send_carries_it() {
    let cost = |c: &mut config::Upstream, amount: i64| {
        c.currency = "KES".into();
        c.cost = vec![config::Cost {
            prefix: "254".into(),
            cost: smsconnect::money::Money(amount),
            ..config::Cost::default()
        }];
    };
    let s = Several::new(&["dear", "cheap"], |c| {
        cost(&mut c.upstream[0], 500_000);
        cost(&mut c.upstream[1], 300_000);
        c.route[0].strategy = config::Strategy::Cheapest;
    });
    s.world.account("acme", "1000", json!({}));
    let mut p = s.world.bound("acme");
    s.send(&mut p, 5);
    assert_eq!(s.taken(), [0, 5]);
    s.world
        .admin("upstream.disable", json!({"name": "cheap"}))
        .unwrap();
    s.send(&mut p, 5);
    assert_eq!(s.taken(), [5, 5]);
}

#[test]
fn residency_and_lists_hold_through_failover_and_restart() {
    let mut s = Several::new(&["nairobi", "london"], |c| {
        c.upstream[0].country = "KE".into();
        c.upstream[1].country = "GB".into();
    });
    for (name, limits) in [
        ("home", json!({"residency": "KE"})),
        ("strict", json!({"allow_upstreams": "nairobi"})),
        ("wary", json!({"deny_upstreams": "london"})),
        ("free", json!({})),
    ] {
        s.world.account(name, "1000", limits);
    }
    s.world
        .admin("upstream.disable", json!({"name": "nairobi"}))
        .unwrap();
    let mut ids = Vec::new();
    for name in ["home", "strict", "wary"] {
        let got = s.world.bound(name).submit(&to("0712345678"));
        assert_eq!(got.status, ROK);
        ids.push(got.message_id());
    }
    // The only one that may go abroad goes, and is enough to know that the others had their chance.
    assert_eq!(s.world.bound("free").submit(&to("0712345678")).status, ROK);
    eventually("the free one went", || s.taken()[1] == 1);
    s.world.stop();
    s.world.config.upstream[0].address = vec!["127.0.0.1:1".into()];
    s.world.start();
    eventually("london is bound again", || {
        s.world.admin("upstream.show", json!({"name": "london"})).unwrap()["live"] == true
    });
    assert_eq!(s.world.bound("free").submit(&to("0712345678")).status, ROK);
    eventually("the next free one went", || s.taken()[1] == 2);
    for id in &ids {
        assert_eq!(s.world.message(id)["state"], "queued");
    }
    s.world.stop();
    s.world.config.upstream[0].address = vec![s.world.smsc.addr().to_string()];
    s.world.start();
    eventually("they went where they may", || s.taken() == [3, 2]);
    s.world.reconciles();
}

#[test]
fn who_may_use_no_upstream_of_the_route_is_refused() {
    let world = World::new();
    world.account("acme", "100", json!({"residency": "KE"}));
    let got = world.bound("acme").submit(&to("0712345678"));
    assert_eq!(got.status, NO_ROUTE, "nobody has said where the link is");
    assert_eq!(world.wallet("acme"), ("100.00".into(), "0.00".into()));
    let wrong = |field: &str, value: &str| {
        let mut params = json!({"account": "acme"});
        params[field] = json!(value);
        world.admin("account.update", params).unwrap_err()
    };
    assert_eq!(wrong("residency", "Kenya"), "E_ARG");
    assert_eq!(wrong("allow_upstreams", "nobody"), "E_ARG");
    assert_eq!(wrong("deny_upstreams", "nobody"), "E_ARG");
    world
        .admin("account.update", json!({"account": "acme", "residency": ""}))
        .unwrap();
    let mut p = Peer::connect(world.addr());
    p.bind(CommandId::BIND_TRANSCEIVER, "acme", PASSWORD);
    assert_eq!(p.submit(&to("0712345678")).status, ROK);
}

#[test]
fn check_names_every_fault_of_routing_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file(
        "plan.csv",
        "prefix,operator,mcc\n25471,saf,639\n2547x,saf,639\n25473,,639\n25474,air,63\n25471,air,639\n",
    );
    file("good.csv", "prefix,operator,digits\n2547,saf,12\n2541,air,12\n");
    file(
        "moved.csv",
        "number,operator,since\n254712345678,air,2026-03-31\n# a comment\n0712345678,air,\n254712345678,mars,\n254712345679,air,soon\n",
    );
    let faults = |text: &str| -> Vec<String> {
        match config::parse(text, &dir.path().join("c.toml")) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    };
    let has = |text: &str, line: usize, words: &[&str]| {
        let found = faults(text);
        let fits =
            |f: &&String| f.contains(&format!("c.toml:{line}:")) && words.iter().all(|w| f.contains(w));
        assert!(
            found.iter().any(|f| fits(&f)),
            "line {line} {words:?} in {found:#?}"
        );
    };
    let numbering = "[numbering]\ncountry_code = \"254\"\nplan = \"plan.csv\"\n";
    for (row, what) in [
        (3, "prefix"),
        (4, "operator"),
        (5, "mobile country code"),
        (6, "twice"),
    ] {
        has(numbering, 3, &["plan.csv", &format!(":{row}:"), what]);
    }
    let moved = "[numbering]\nplan = \"good.csv\"\nported = \"moved.csv\"\n";
    for (row, what) in [(4, "international"), (5, "mars"), (6, "date")] {
        has(moved, 3, &["moved.csv", &format!(":{row}:"), what]);
    }
    has("[numbering]\ncountry_code = \"259\"\n", 2, &["259"]);
    let up = "[numbering]\nplan = \"good.csv\"\n[[upstream]]\nname = \"u\"\naddress = \"127.0.0.1:1\"\n";
    has(&format!("{up}country = \"Kenya\"\n"), 6, &["country", "ISO 3166"]);
    has(&format!("{up}operator = \"mars\"\n"), 6, &["operator"]);
    has(
        &format!("{up}[[upstream.cost]]\ncost = \"0.30\"\n"),
        3,
        &["currency"],
    );
    let route = |more: &str| format!("{up}[[route]]\nname = \"r\"\nto = [\"u\"]\n{more}");
    assert_eq!(
        faults(&route("hours = \"08:00-18:00\"\nzone = \"Africa/Nairobi\"\n")),
        Vec::<String>::new()
    );
    for (more, words) in [
        ("hours = \"08:00-08:00\"\n", &["hours", "never opens"][..]),
        ("hours = \"8 to 18\"\n", &["hours", "08:00-18:00"]),
        ("days = []\n", &["days", "never"]),
        ("days = [\"caturday\"]\n", &["days", "caturday"]),
        (
            "hours = \"08:00-18:00\"\nzone = \"Mars/Olympus\"\n",
            &["zone", "Mars"],
        ),
        ("operator = \"mars\"\n", &["operator", "mars"]),
        ("class = \"unheard\"\n", &["class", "unheard"]),
        ("strategy = \"weighted\"\n", &["weights", "needs one"]),
        ("strategy = \"weighted\"\nweights = [0]\n", &["weights", "0"]),
        ("weights = [1]\n", &["weights", "only"]),
        ("strategy = \"cheapest\"\n", &["strategy", "cost"]),
        ("strategy = \"chepest\"\n", &["strategy", "cheapest"]),
        ("to = [\"u\", \"gone\"]\n", &["to", "gone"]),
    ] {
        let text = if more.starts_with("to") {
            route("").replace("to = [\"u\"]\n", more)
        } else {
            route(more)
        };
        let found = faults(&text);
        let fits = |f: &String| {
            f.contains(".toml:") && !f.contains(".toml:0") && words.iter().all(|w| f.contains(w))
        };
        assert!(found.iter().any(fits), "{words:?} in {found:#?}");
    }
}
