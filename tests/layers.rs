//! The layers of the crate: who may use whom, and who may know which library. A change that goes against the direction of
//! the data fails here, not in a review two years later.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A layer, the layers of ours it may use, and libraries that only some may know.
const LAYERS: &[(&str, &[&str], &[&str])] = &[
    ("ids", &[], &[]),
    ("money", &[], &["thiserror"]),
    ("country", &[], &[]),
    ("clock", &["ids"], &[]),
    ("text", &[], &["thiserror"]),
    ("kill", &[], &["nix"]),
    ("smpp", &["text"], &["bytes", "nom", "thiserror"]),
    ("session", &["smpp"], &[]),
    (
        "domain",
        &["ids", "money", "text"],
        &["foldhash", "governor", "jiff", "regex", "thiserror"],
    ),
    (
        "store",
        &["domain", "ids", "money"],
        &["rusqlite", "nix", "ring", "thiserror", "tracing"],
    ),
    (
        "flow",
        &["domain", "store", "ids", "money", "text", "metrics"],
        &[
            "arc_swap",
            "foldhash",
            "hashbrown",
            "indexmap",
            "thiserror",
            "tracing",
        ],
    ),
    ("wire", &[], &["rustls", "tokio"]),
    (
        "net",
        &[
            "smpp", "session", "flow", "domain", "ids", "money", "text", "clock", "config", "metrics", "wire",
        ],
        &[
            "tokio",
            "tokio_util",
            "arc_swap",
            "ring",
            "rustls",
            "socket2",
            "httparse",
            "argon2",
            "blake2",
            "getrandom",
            "itoa",
            "tracing",
            "thiserror",
        ],
    ),
    (
        "admin",
        &["flow", "domain", "store", "ids", "money", "country", "metrics"],
        &[
            "tokio",
            "tokio_util",
            "serde_json",
            "serde",
            "argon2",
            "getrandom",
            "jiff",
            "csv",
            "nix",
            "rustix",
            "tracing",
            "thiserror",
        ],
    ),
    (
        "config",
        &["ids", "money", "country"],
        &["toml", "serde", "csv", "jiff", "regex"],
    ),
    ("metrics", &["ids", "money"], &["metrics"]),
    (
        "tools",
        &["smpp", "session", "clock", "wire"],
        &[
            "thiserror",
            "tokio",
            "tokio_util",
            "hdrhistogram",
            "rustls",
            "serde_json",
            "getrandom",
            "itoa",
            "foldhash",
            "hashbrown",
            "serde",
        ],
    ),
    (
        "cli",
        &["config", "tools", "daemon", "clock"],
        &[
            "clap",
            "comfy_table",
            "serde_json",
            "tokio",
            "tokio_util",
            "indicatif",
        ],
    ),
];

/// What every layer may use: empty in release builds.
const EVERYBODY: &[&str] = &["kill"];

/// Layers that put everything together and may use all.
const TOP: &[&str] = &["daemon", "main", "lib"];

/// Every library of ours in `Cargo.toml`, as written in code.
fn libraries() -> BTreeSet<String> {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .map(|k| k.replace('-', "_"))
        .collect()
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// First path segments that follow `prefix` in the code of a file; comments do not count, and neither do unit tests.
fn uses(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or("");
        for (at, _) in line.match_indices(prefix) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let name: String = line[at + prefix.len()..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            found.insert(name);
        }
    }
    found
}

fn layer_of(path: &Path, src: &Path) -> String {
    let inner = path.strip_prefix(src).unwrap();
    let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_string()
}

/// What a file breaks, in words.
fn faults(layer: &str, code: &str, libraries: &BTreeSet<String>) -> Vec<String> {
    if TOP.contains(&layer) {
        return Vec::new();
    }
    let Some((_, layers, crates)) = LAYERS.iter().find(|(name, ..)| *name == layer) else {
        return vec![format!("{layer} is in no row of the table of layers")];
    };
    // Everything from the unit tests on is free to use what it likes.
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or("");
    let mut out = Vec::new();
    for used in uses(code, "crate::") {
        let used = used.as_str();
        if used != layer && !used.is_empty() && !layers.contains(&used) && !EVERYBODY.contains(&used) {
            out.push(format!("{layer} must not use {used}"));
        }
    }
    for library in libraries {
        let known =
            !uses(code, &format!("{library}::")).is_empty() || code.contains(&format!("use {library};"));
        // `metrics::` is the layer where the layer is imported.
        let ours = code.contains(&format!("crate::{library}"));
        if known && !ours && library != layer && !crates.contains(&library.as_str()) {
            out.push(format!("{layer} must not know {library}"));
        }
    }
    out
}

#[test]
fn no_layer_uses_one_it_must_not_know() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 80, "the sources were not found");
    let libraries = libraries();
    let mut wrong = Vec::new();
    for file in &files {
        let inner = file.strip_prefix(&src).unwrap();
        // A file that is a test module as a whole.
        if inner.file_name().is_some_and(|n| n == "tests.rs") {
            continue;
        }
        let code = std::fs::read_to_string(file).unwrap();
        for fault in faults(&layer_of(file, &src), &code, &libraries) {
            wrong.push(format!("{}: {fault}", inner.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_breach_of_the_table_is_seen() {
    let libraries = libraries();
    let seen = |layer: &str, code: &str| faults(layer, code, &libraries);
    assert_eq!(
        seen("smpp", "use crate::domain::money;"),
        ["smpp must not use domain"]
    );
    assert_eq!(
        seen("flow", "let x = tokio::spawn(f);"),
        ["flow must not know tokio"]
    );
    assert_eq!(
        seen("net", "fn f(c: rusqlite::Connection) {}"),
        ["net must not know rusqlite"]
    );
    assert_eq!(
        seen("admin", "    use crate::session::State;"),
        ["admin must not use session"]
    );
    assert!(seen("smpp", "// like crate::domain\nuse crate::text::udh;").is_empty());
    assert_eq!(seen("other", ""), ["other is in no row of the table of layers"]);
}

#[test]
fn only_the_clock_reads_a_clock() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files.iter().filter(|f| !f.ends_with("clock.rs")) {
        let code = std::fs::read_to_string(file).unwrap();
        for banned in [
            "Instant::now(",
            "SystemTime::now(",
            "Timestamp::now(",
            "Zoned::now(",
        ] {
            assert!(!code.contains(banned), "{}: {banned}", file.display());
        }
    }
}
