//! The shipped configuration files: the reference equals the built-in defaults and names every key, the smallest one starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use smsconnect::config::{self, Config};

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

fn read(name: &str) -> Config {
    config::load(&conf(name)).unwrap_or_else(|faults| panic!("{name}: {faults:?}"))
}

/// A config with nothing but what has no default.
fn bare() -> Config {
    config::parse("", &conf("bare.toml")).unwrap()
}

#[test]
fn the_reference_equals_the_defaults() {
    let reference = read("smsconnect.toml");
    let mut plain = bare();
    let example = plain.clone();
    plain.upstream = reference.upstream.clone();
    plain.route = reference.route.clone();
    plain.tariff = reference.tariff.clone();
    plain.sender = reference.sender.clone();
    plain.inbound = reference.inbound.clone();
    plain.rules.class = reference.rules.class.clone();
    plain.rules.rewrite = reference.rules.rewrite.clone();
    plain.rules.content = reference.rules.content.clone();
    plain.rules.abuse = reference.rules.abuse.clone();
    plain.rules.suppress = reference.rules.suppress.clone();
    assert_eq!(reference.priority, [config::Priority::default()]);
    plain.priority = reference.priority.clone();
    assert_eq!(reference, plain);
    // The examples hold the defaults of their optional keys.
    let up = &reference.upstream[0];
    let default = config::Upstream {
        name: up.name.clone(),
        address: up.address.clone(),
        system_id: up.system_id.clone(),
        password: up.password.clone(),
        currency: up.currency.clone(),
        cost: up.cost.clone(),
        ..config::Upstream::default()
    };
    assert_eq!(*up, default);
    assert!(example.upstream.is_empty());
}

/// `table.key` for every key of a TOML text; arrays of tables count once.
fn keys(text: &str) -> std::collections::BTreeSet<String> {
    fn walk(path: &str, value: &toml::Value, out: &mut std::collections::BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    walk(&path, value, out);
                }
            }
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                items.iter().for_each(|item| walk(path, item, out));
            }
            _ => {
                out.insert(path.to_string());
            }
        }
    }
    let mut out = std::collections::BTreeSet::new();
    let table: toml::Table = text.parse().unwrap();
    walk("", &toml::Value::Table(table), &mut out);
    out
}

#[test]
fn the_reference_names_every_key_and_print_shows_it() {
    let reference = read("smsconnect.toml");
    let printed = keys(&config::print(&reference));
    let written = keys(&std::fs::read_to_string(conf("smsconnect.toml")).unwrap());
    assert_eq!(printed, written);
}

#[test]
fn what_print_shows_reads_back_as_the_same_config() {
    for name in ["smsconnect.toml", "minimal.toml", "demo.toml"] {
        let first = read(name);
        let printed = config::print(&first);
        let mut back =
            config::parse(&printed, &conf("printed.toml")).unwrap_or_else(|f| panic!("{name}: {f:?}"));
        // Secrets are masked.
        for (again, once) in back.upstream.iter_mut().zip(&first.upstream) {
            again.password = once.password.clone();
            again.password_file = once.password_file.clone();
        }
        assert_eq!(back, first, "{name}");
    }
}

#[test]
fn check_passes_the_shipped_files_and_lists_every_fault_of_a_bad_one() {
    let check = |file: &Path| {
        let out = Command::new(env!("CARGO_BIN_EXE_smsconnect"))
            .args(["check", "--config"])
            .arg(file)
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    for name in ["smsconnect.toml", "minimal.toml", "demo.toml"] {
        assert_eq!(check(&conf(name)).0, Some(0), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    std::fs::write(
        &bad,
        "[customer]\nlisten = [\"nowhere\"]\nwindow_max = 0\nwindo_max = 5\nenquire_link_ms = 90000\n[store]\nfree_min_bytes = -1\n\
         [[upstream]]\nname = \"a\"\naddress = \"127.0.0.1\"\n[[upstream]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n\
         [[route]]\nname = \"r\"\nprefix = [\"+254\"]\nto = [\"b\"]\n[[tariff]]\nname = \"t\"\ncurrency = \"KES\"\n\
         [[tariff.price]]\nprefix = \"254\"\nprice = \"0.0000001\"\n[status]\nblance = 3\n",
    )
    .unwrap();
    let (code, text) = check(&bad);
    assert_eq!(code, Some(2), "{text}");
    for (line, key) in [
        (2, "listen"),
        (3, "window_max"),
        (4, "windo_max"),
        (5, "enquire_link_ms"),
        (7, "free_min_bytes"),
        (10, "address"),
        (12, "name"),
        (16, "prefix"),
        (17, "to"),
        (23, "price"),
        (25, "blance"),
    ] {
        assert!(
            text.lines()
                .any(|l| l.contains(&format!("bad.toml:{line}:")) && l.contains(key)),
            "line {line} {key} in\n{text}"
        );
    }
    let (code, text) = check(&dir.path().join("missing.toml"));
    assert_eq!(code, Some(2));
    assert!(text.contains("missing.toml"), "{text}");
}

#[test]
fn every_refusal_can_be_given_a_status_and_nothing_else() {
    let names: Vec<&str> = smsconnect::domain::reject::Reject::ALL
        .iter()
        .map(|r| r.name())
        .collect();
    assert_eq!(config::REASONS, names.as_slice());
}
