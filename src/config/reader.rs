//! A TOML table read key by key: what is not asked for is a fault, and so is what does not fit. Nothing stops at the first.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Faults as (line, text).
pub(super) type Faults = Vec<(usize, String)>;

/// Where keys stand, by dotted path.
pub(super) type Places = BTreeMap<String, usize>;

/// One table with its path in the file.
pub(super) struct Reader<'a, 't> {
    source: &'a str,
    path: String,
    line: usize,
    entries: Vec<(String, usize, &'a Spanned<DeValue<'t>>)>,
    asked: Vec<&'static str>,
    pub faults: &'a mut Faults,
    pub places: &'a mut Places,
}

fn line_of(source: &str, at: usize) -> usize {
    source
        .get(..at)
        .map_or(1, |s| s.bytes().filter(|b| *b == b'\n').count() + 1)
}

impl<'a, 't> Reader<'a, 't> {
    pub fn new(
        source: &'a str,
        path: &str,
        line: usize,
        table: Option<&'a DeTable<'t>>,
        faults: &'a mut Faults,
        places: &'a mut Places,
    ) -> Reader<'a, 't> {
        let entries: Vec<_> = table
            .into_iter()
            .flat_map(|t| t.iter())
            .map(|(k, v)| (k.get_ref().to_string(), line_of(source, k.span().start), v))
            .collect();
        places.insert(path.to_string(), line);
        for (key, line, _) in &entries {
            places.insert(join(path, key), *line);
        }
        Reader {
            source,
            path: path.to_string(),
            line,
            entries,
            asked: Vec::new(),
            faults,
            places,
        }
    }

    /// The line of a key; the table's own where the key was not written.
    pub fn line_of(&self, key: &str) -> usize {
        let written = self.entries.iter().find(|(k, ..)| k == key);
        written.map_or(self.line, |(_, line, _)| *line)
    }

    fn find(&mut self, key: &'static str) -> Option<(usize, &'a DeValue<'t>)> {
        self.asked.push(key);
        self.entries
            .iter()
            .find(|(k, ..)| k == key)
            .map(|(_, line, v)| (*line, v.get_ref()))
    }

    pub fn fault(&mut self, line: usize, key: &str, what: &str) {
        let path = join(&self.path, key);
        self.faults.push((line, format!("{path}: {what}")));
    }

    /// Whether a key was written.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(k, ..)| k == key)
    }

    /// Whether a key was written as a string.
    pub fn is_text(&self, key: &str) -> bool {
        let written = self.entries.iter().find(|(k, ..)| k == key);
        written.is_some_and(|(_, _, v)| matches!(v.get_ref(), DeValue::String(_)))
    }

    pub fn text(&mut self, key: &'static str, into: &mut String) {
        match self.find(key) {
            None => {}
            Some((_, DeValue::String(s))) => *into = s.to_string(),
            Some((line, _)) => self.fault(line, key, "must be a string in quotes"),
        }
    }

    pub fn optional_text(&mut self, key: &'static str) -> Option<String> {
        let mut value = String::new();
        let there = self.has(key);
        self.text(key, &mut value);
        (there && !value.is_empty()).then_some(value)
    }

    pub fn flag(&mut self, key: &'static str, into: &mut bool) {
        match self.find(key) {
            None => {}
            Some((_, DeValue::Boolean(b))) => *into = *b,
            Some((line, _)) => self.fault(line, key, "must be true or false"),
        }
    }

    pub fn integer(&mut self, key: &'static str, min: i64, max: i64) -> Option<i64> {
        let (line, value) = self.find(key)?;
        let number = match value {
            DeValue::Integer(i) => i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok(),
            _ => None,
        };
        match number {
            Some(n) if (min..=max).contains(&n) => Some(n),
            Some(n) => {
                self.fault(line, key, &format!("{n} is out of range; from {min} to {max}"));
                None
            }
            None => {
                self.fault(line, key, "must be a whole number without quotes");
                None
            }
        }
    }

    pub fn u64(&mut self, key: &'static str, min: u64, max: u64, into: &mut u64) {
        if let Some(n) = self.integer(key, min as i64, max.min(i64::MAX as u64) as i64) {
            *into = n as u64;
        }
    }

    pub fn u32(&mut self, key: &'static str, min: u32, max: u32, into: &mut u32) {
        if let Some(n) = self.integer(key, i64::from(min), i64::from(max)) {
            *into = n as u32;
        }
    }

    /// A list of whole numbers from 0 to `max`.
    pub fn numbers(&mut self, key: &'static str, max: u32, into: &mut Vec<u32>) {
        let Some((line, value)) = self.find(key) else {
            return;
        };
        let items = match value {
            DeValue::Array(items) => items,
            _ => return self.fault(line, key, "must be a list of numbers"),
        };
        into.clear();
        for item in items {
            match number(item.get_ref()).filter(|n| *n <= max) {
                Some(n) => into.push(n),
                None => self.fault(line, key, &format!("must be a list of numbers from 0 to {max}")),
            }
        }
    }

    /// A list of strings; one string stands for a list of one.
    pub fn list(&mut self, key: &'static str, into: &mut Vec<String>) {
        match self.find(key) {
            None => {}
            Some((_, DeValue::String(s))) => *into = vec![s.to_string()],
            Some((line, DeValue::Array(items))) => {
                into.clear();
                for item in items {
                    match item.get_ref() {
                        DeValue::String(s) => into.push(s.to_string()),
                        _ => self.fault(line, key, "must be a list of strings"),
                    }
                }
            }
            Some((line, _)) => self.fault(line, key, "must be a string or a list of strings"),
        }
    }

    pub fn addresses(&mut self, key: &'static str, into: &mut Vec<SocketAddr>) {
        if !self.has(key) {
            self.asked.push(key);
            return;
        }
        let line = self
            .places
            .get(&join(&self.path, key))
            .copied()
            .unwrap_or(self.line);
        let mut texts = Vec::new();
        self.list(key, &mut texts);
        into.clear();
        for text in texts {
            match text.parse() {
                Ok(address) => into.push(address),
                Err(_) => self.fault(
                    line,
                    key,
                    &format!("{text:?} is no address; write it as \"0.0.0.0:2775\""),
                ),
            }
        }
    }

    pub fn choice<T>(
        &mut self,
        key: &'static str,
        words: &[&str],
        parse: fn(&str) -> Option<T>,
        into: &mut T,
    ) {
        match self.find(key) {
            None => {}
            Some((line, DeValue::String(s))) => match parse(s) {
                Some(value) => *into = value,
                None => self.fault(line, key, &format!("{s:?} is not one of {}", words.join(", "))),
            },
            Some((line, _)) => self.fault(line, key, &format!("must be one of {}", words.join(", "))),
        }
    }

    /// Runs `each` on every table of an array of tables.
    pub fn tables(&mut self, key: &'static str, mut each: impl FnMut(&mut Reader<'_, '_>)) {
        match self.find(key) {
            None => {}
            Some((line, DeValue::Array(items))) => {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{}[{i}]", join(&self.path, key));
                    let at = line_of(self.source, item.span().start);
                    match item.get_ref() {
                        DeValue::Table(t) => {
                            let mut r =
                                Reader::new(self.source, &path, at, Some(t), self.faults, self.places);
                            each(&mut r);
                            r.done();
                        }
                        _ => self.fault(line, key, &format!("must be written as [[{key}]] tables")),
                    }
                }
            }
            Some((line, _)) => self.fault(line, key, &format!("must be written as [[{key}]] tables")),
        }
    }

    /// Runs `each` on a sub-table; it may be absent.
    pub fn table(&mut self, key: &'static str, each: impl FnOnce(&mut Reader<'_, '_>)) {
        let found = self.find(key);
        let path = join(&self.path, key);
        let table = match found {
            None => None,
            Some((_, DeValue::Table(t))) => Some(t),
            Some((line, _)) => {
                return self.fault(line, key, &format!("must be a table: write [{path}]"));
            }
        };
        let line = found.map_or(0, |(l, _)| l);
        let mut r = Reader::new(self.source, &path, line, table, self.faults, self.places);
        each(&mut r);
        r.done();
    }

    /// The keys of this table as they stand, for tables whose keys are data.
    pub fn keys(&mut self) -> Vec<(String, usize, &'a DeValue<'t>)> {
        self.entries
            .drain(..)
            .map(|(k, line, v)| (k, line, v.get_ref()))
            .collect()
    }

    /// Every key that was not asked for is unknown.
    pub fn done(&mut self) {
        let unknown: Vec<(String, usize)> = self
            .entries
            .iter()
            .filter(|(k, ..)| !self.asked.contains(&k.as_str()))
            .map(|(k, line, _)| (k.clone(), *line))
            .collect();
        for (key, line) in unknown {
            let near = self
                .asked
                .iter()
                .min_by_key(|a| distance(a, &key))
                .filter(|a| distance(a, &key) <= 3);
            let hint = near.map_or(String::new(), |n| format!("; did you mean {n}?"));
            self.fault(line, &key, &format!("unknown key{hint}"));
        }
    }
}

/// A whole number, decimal, hexadecimal or otherwise.
pub(super) fn number(value: &DeValue<'_>) -> Option<u32> {
    match value {
        DeValue::Integer(i) => {
            let n = i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok()?;
            u32::try_from(n).ok()
        }
        _ => None,
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_string()
    } else {
        format!("{path}.{key}")
    }
}

/// Levenshtein distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut previous = row.first().copied().unwrap_or(0);
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, y) in b.bytes().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(0);
            let left = row.get(j).copied().unwrap_or(0);
            let best = (previous + usize::from(x != y)).min(above + 1).min(left + 1);
            previous = above;
            if let Some(slot) = row.get_mut(j + 1) {
                *slot = best;
            }
        }
    }
    row.last().copied().unwrap_or(0)
}
