//! What happened, counted: responses, receipts, latencies, and which ids still miss their receipt.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use hashbrown::HashMap;
use hdrhistogram::Histogram;

use super::{LoadError, LoadOptions};

/// Microseconds up to an hour with three digits: 0.1 % exact.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap_or_else(|_| {
        // The bounds are constants that the crate accepts; an auto-sizing one stands in for the type's sake.
        Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are within the crate's range"))
    })
}

/// An accepted message awaiting its receipt, or one that had it.
#[derive(Clone, Copy)]
pub(super) struct Track {
    /// When it was meant to be sent, µs.
    sent_us: u64,
    /// Receipts so far; `u8::MAX - 1` and more stand still.
    receipts: u8,
    /// Its response has come.
    answered: bool,
}

/// Ids as numbers where they are numbers: an integer map costs a tenth of a string map.
#[derive(Default)]
pub(super) struct Ids {
    numbers: HashMap<u64, Track, foldhash::fast::FixedState>,
    others: HashMap<Vec<u8>, Track, foldhash::fast::FixedState>,
}

/// A number is unambiguous only without leading zeros.
fn number(id: &[u8]) -> Option<u64> {
    if id.is_empty() || id.len() > 19 || (id.len() > 1 && id.first() == Some(&b'0')) {
        return None;
    }
    let mut n = 0u64;
    for c in id {
        n = n * 10 + u64::from(c.checked_sub(b'0').filter(|d| *d < 10)?);
    }
    Some(n)
}

impl Ids {
    fn entry(&mut self, id: &[u8]) -> &mut Track {
        let new = || Track {
            sent_us: 0,
            receipts: 0,
            answered: false,
        };
        match number(id) {
            Some(n) => self.numbers.entry(n).or_insert_with(new),
            None => self.others.entry(id.to_vec()).or_insert_with(new),
        }
    }

    pub fn values(&self) -> impl Iterator<Item = &Track> {
        self.numbers.values().chain(self.others.values())
    }
}

/// See the module's description. One for all connections, locked once per batch.
pub(super) struct Tally {
    pub receipts_wanted: bool,
    pub statuses: BTreeMap<u32, u64>,
    pub accepted: u64,
    pub answered: u64,
    pub unanswered: u64,
    pub receipts: u64,
    pub receipts_by_state: BTreeMap<String, u64>,
    pub broken: u64,
    pub inbound: u64,
    pub response: Histogram<u64>,
    pub receipt: Histogram<u64>,
    pub last_response_us: u64,
    pub last_receipt_us: u64,
    pub ids: Ids,
    /// Messages whose receipt is still to come.
    pub missing: u64,
    ids_log: Option<File>,
    receipts_log: Option<File>,
    lines: (Vec<u8>, Vec<u8>),
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            receipts_wanted: false,
            statuses: BTreeMap::new(),
            accepted: 0,
            answered: 0,
            unanswered: 0,
            receipts: 0,
            receipts_by_state: BTreeMap::new(),
            broken: 0,
            inbound: 0,
            response: histogram(),
            receipt: histogram(),
            last_response_us: 0,
            last_receipt_us: 0,
            ids: Ids::default(),
            missing: 0,
            ids_log: None,
            receipts_log: None,
            lines: Default::default(),
        }
    }
}

impl Tally {
    pub fn new(options: &LoadOptions) -> Result<Tally, LoadError> {
        let open = |path: &Option<PathBuf>| -> Result<Option<File>, LoadError> {
            let Some(path) = path else { return Ok(None) };
            let file = File::options().create(true).append(true).open(path);
            file.map(Some).map_err(|e| LoadError::Log(path.clone(), e))
        };
        Ok(Tally {
            receipts_wanted: options.receipts,
            ids_log: open(&options.ids_log)?,
            receipts_log: open(&options.receipts_log)?,
            ..Tally::default()
        })
    }

    /// A response to a message meant to be sent at `sent_us`.
    pub fn response(&mut self, status: u32, id: &[u8], dest: u64, sent_us: u64, now_us: u64) {
        self.answered += 1;
        *self.statuses.entry(status).or_default() += 1;
        self.response
            .saturating_record(now_us.saturating_sub(sent_us).max(1));
        self.last_response_us = now_us;
        if status != 0 {
            return;
        }
        self.accepted += 1;
        if self.ids_log.is_some() {
            self.lines.0.extend_from_slice(id);
            let _written = writeln!(self.lines.0, "\t{dest}");
        }
        if self.receipts_wanted {
            let track = self.ids.entry(id);
            if track.answered {
                // Two responses with one id: the second can never be told from the first by its receipts.
                return;
            }
            let early = track.receipts;
            *track = Track {
                sent_us,
                receipts: early,
                answered: true,
            };
            if early == 0 {
                self.missing += 1;
            } else {
                self.receipt
                    .saturating_record(now_us.saturating_sub(sent_us).max(1));
            }
        }
    }

    /// A receipt.
    pub fn receipt(&mut self, id: &[u8], state: &str, now_us: u64) {
        self.receipts += 1;
        self.last_receipt_us = now_us;
        if self.receipts_log.is_some() {
            self.lines.1.extend_from_slice(id);
            let _written = writeln!(self.lines.1, "\t{state}");
        }
        match self.receipts_by_state.get_mut(state) {
            Some(n) => *n += 1,
            None => {
                self.receipts_by_state.insert(state.to_string(), 1);
            }
        }
        let track = self.ids.entry(id);
        track.receipts = track.receipts.saturating_add(1);
        if track.answered && track.receipts == 1 {
            self.missing -= 1;
            self.receipt
                .saturating_record(now_us.saturating_sub(track.sent_us).max(1));
        }
    }

    /// Writes the logs: before deliver_sm_resp goes out, so that they never lack what was acknowledged.
    pub fn flush(&mut self) {
        if let Some(file) = self.ids_log.as_mut().filter(|_| !self.lines.0.is_empty()) {
            let _written = file.write_all(&self.lines.0);
        }
        if let Some(file) = self.receipts_log.as_mut().filter(|_| !self.lines.1.is_empty()) {
            let _written = file.write_all(&self.lines.1);
        }
        self.lines.0.clear();
        self.lines.1.clear();
    }

    /// (without a receipt, with more than one, receipts for ids never answered).
    pub fn exactly_once(&self) -> (u64, u64, u64) {
        let count = |which: fn(&Track) -> bool| self.ids.values().filter(|t| which(t)).count() as u64;
        (
            count(|t| t.answered && t.receipts == 0),
            count(|t| t.answered && t.receipts > 1),
            count(|t| !t.answered && t.receipts > 0),
        )
    }
}
