//! The table of faults names tests: all of them exist, and no fault is without one.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

/// Name of a file → its text, of everything under a folder.
fn sources(dir: &Path, out: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            out.entry(name).or_default().push_str(&text);
        }
    }
}

/// Whether a text has a test function of this name.
fn has_test(text: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    text.find(&function).is_some_and(|at| {
        // Attributes stand above, and in proptest! the same.
        let above = &text[..at];
        let start = above.rfind("\n\n").unwrap_or(0);
        above[start..].contains("#[test]")
    })
}

#[test]
fn every_fault_has_tests_and_every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    sources(&root.join("tests"), &mut files);
    sources(&root.join("src"), &mut files);
    let table = include_str!("../docs/reliability.md");
    let mut wrong = Vec::new();
    let mut faults = Vec::new();
    for line in table.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(number) = cells.get(1).and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        faults.push(number);
        let named: Vec<&str> = cells[5].split('`').skip(1).step_by(2).collect();
        if named.is_empty() || cells[2..5].iter().any(|c| c.is_empty()) {
            wrong.push(format!("{number}: a cell is empty"));
        }
        for test in named {
            let (file, name) = test.split_once("::").unwrap_or((test, ""));
            match files.get(file) {
                None => wrong.push(format!("{number}: there is no {file}")),
                Some(text) if !has_test(text, name) => {
                    wrong.push(format!("{number}: {file} has no test {name}"));
                }
                Some(_) => {}
            }
        }
    }
    assert_eq!(faults, (1..=52).collect::<Vec<_>>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_test_that_is_gone_is_missed() {
    let text = "\n\n#[test]\nfn one() {}\n\nfn helper() {}\n";
    assert!(has_test(text, "one"));
    assert!(!has_test(text, "helper") && !has_test(text, "on") && !has_test(text, "two"));
}
