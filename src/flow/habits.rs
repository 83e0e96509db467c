//! How an SMSC spells the ids of its messages: learned from the receipts that find theirs, or fixed by the config.
//!
//! A response may give an id in hexadecimal and its receipt in decimal, or the other way round. Trying every reading of
//! every receipt would now and then end the wrong message (decimal 10 is hexadecimal 16), so once a reading has proved itself
//! it is the only one tried, until it has failed many times in a row.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// How a receipt's id relates to that of the response. Letter case, leading zeros and blanks never matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum IdForm {
    /// Both spell it alike.
    Same = 0,
    /// The response is hexadecimal, the receipt decimal.
    HexDec = 1,
    /// The response is decimal, the receipt hexadecimal.
    DecHex = 2,
}

impl IdForm {
    /// All, the most usual first.
    pub const ALL: [IdForm; 3] = [IdForm::Same, IdForm::HexDec, IdForm::DecHex];

    /// Its word in the config.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            IdForm::Same => "same",
            IdForm::HexDec => "hex-dec",
            IdForm::DecHex => "dec-hex",
        }
    }
}

/// Matches by one form, with none by another, after which it is the only one tried.
const LEARNED: u64 = 10;
/// Receipts in a row that find nothing, after which what was learned is forgotten.
const FORGET: u32 = 50;
/// A receipt's weight in the match rate: about the last hundred count.
const WEIGHT: u32 = 100;
/// Receipts before the rate says anything.
const RATE_MIN: u64 = 50;
const NONE: u8 = u8::MAX;
/// The rate in millionths.
const WHOLE: u32 = 1_000_000;
/// An upstream whose match rate is below this needs a look (in millionths).
const ALARM: u32 = 900_000;

/// What is known of one upstream. Written by the engine, read by operators.
#[derive(Debug)]
pub struct IdHabits {
    fixed: Option<IdForm>,
    learned: AtomicU8,
    matched: [AtomicU64; 3],
    /// Matches by form since something was last forgotten.
    run: [AtomicU64; 3],
    missed: AtomicU64,
    missed_in_a_row: AtomicU32,
    rate: AtomicU32,
}

impl IdHabits {
    /// `fixed`: what the config says; `None`: to be learned.
    #[must_use]
    pub fn new(fixed: Option<IdForm>) -> IdHabits {
        IdHabits {
            fixed,
            learned: AtomicU8::new(NONE),
            matched: Default::default(),
            run: Default::default(),
            missed: AtomicU64::new(0),
            missed_in_a_row: AtomicU32::new(0),
            rate: AtomicU32::new(WHOLE),
        }
    }

    /// The form that is fixed or has been learned.
    #[must_use]
    pub fn form(&self) -> Option<IdForm> {
        self.fixed.or_else(|| {
            let learned = self.learned.load(Ordering::Relaxed);
            IdForm::ALL.get(usize::from(learned)).copied()
        })
    }

    /// Whether the config says it.
    #[must_use]
    pub fn fixed(&self) -> bool {
        self.fixed.is_some()
    }

    /// The forms to try.
    pub(super) fn forms(&self) -> impl Iterator<Item = IdForm> + use<> {
        let form = self.form();
        IdForm::ALL
            .into_iter()
            .filter(move |f| form.is_none_or(|known| known == *f))
    }

    /// A receipt has found its message. It proves something only if no other form would have found the same: 7 is 7 in all.
    pub(super) fn found(&self, form: IdForm, proves: bool) {
        let at = form as usize;
        self.matched[at].fetch_add(1, Ordering::Relaxed);
        self.missed_in_a_row.store(0, Ordering::Relaxed);
        self.weigh(WHOLE);
        if !proves || self.form().is_some() {
            return;
        }
        let n = self.run[at].fetch_add(1, Ordering::Relaxed) + 1;
        let others = self
            .run
            .iter()
            .enumerate()
            .any(|(i, r)| i != at && r.load(Ordering::Relaxed) > 0);
        if n >= LEARNED && !others {
            self.learned.store(form as u8, Ordering::Relaxed);
        }
    }

    /// A receipt has found none.
    pub(super) fn missed(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
        self.weigh(0);
        if self.missed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= FORGET {
            self.missed_in_a_row.store(0, Ordering::Relaxed);
            self.learned.store(NONE, Ordering::Relaxed);
            for run in &self.run {
                run.store(0, Ordering::Relaxed);
            }
        }
    }

    /// A receipt that had found none has, now that its message is known: it had only come early.
    pub(super) fn found_late(&self, form: IdForm, proves: bool) {
        // The miss may have been before a restart.
        let counted = self
            .missed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if counted.is_ok() {
            // What the miss took away.
            let rate = self.rate.load(Ordering::Relaxed);
            self.rate
                .store((rate + rate / (WEIGHT - 1)).min(WHOLE), Ordering::Relaxed);
        }
        self.found(form, proves);
    }

    fn weigh(&self, value: u32) {
        let rate = self.rate.load(Ordering::Relaxed);
        let next = rate - rate / WEIGHT + value / WEIGHT;
        self.rate.store(next.min(WHOLE), Ordering::Relaxed);
    }

    /// Receipts that found their message, by form, and those that did not.
    #[must_use]
    pub fn counts(&self) -> ([u64; 3], u64) {
        (
            [0, 1, 2].map(|i| self.matched[i].load(Ordering::Relaxed)),
            self.missed.load(Ordering::Relaxed),
        )
    }

    /// Share of about the last hundred receipts that found their message, 0 to 1; `None` before there were fifty.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        let (matched, missed) = self.counts();
        (matched.iter().sum::<u64>() + missed >= RATE_MIN)
            .then(|| f64::from(self.rate.load(Ordering::Relaxed)) / f64::from(WHOLE))
    }

    /// Whether too few receipts find their messages.
    #[must_use]
    pub fn alarm(&self) -> bool {
        self.rate().is_some() && self.rate.load(Ordering::Relaxed) < ALARM
    }
}

/// Words for states that nobody knows, as an SMSC wrote them: what to put into its `states`.
#[derive(Debug, Default)]
pub struct UnknownStats(Mutex<BTreeMap<String, u64>>);

/// Words that are kept, and characters of each.
const WORDS_MAX: usize = 16;
const WORD_MAX: usize = 20;

impl UnknownStats {
    /// Counts one. What does not look like a word counts as `?`: it could be a text, which is nobody's to see.
    pub fn count(&self, stat: &[u8]) {
        let letter = |c: &u8| c.is_ascii_alphabetic() || matches!(c, b'_' | b'-');
        let word = match std::str::from_utf8(stat) {
            Ok(text) if !stat.is_empty() && stat.len() <= WORD_MAX && stat.iter().all(letter) => text,
            _ => "?",
        };
        let word = word.to_ascii_uppercase();
        if let Ok(mut words) = self.0.lock()
            && (words.len() < WORDS_MAX || words.contains_key(&word))
        {
            *words.entry(word).or_default() += 1;
        }
    }

    /// The words in capitals, and how often each came.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().map(|words| words.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_that_proves_itself_is_the_only_one_tried_until_it_fails() {
        let h = IdHabits::new(None);
        assert_eq!(h.forms().count(), 3);
        (0..9).for_each(|_| h.found(IdForm::HexDec, true));
        assert_eq!(h.form(), None);
        h.found(IdForm::HexDec, true);
        assert_eq!(h.forms().collect::<Vec<_>>(), [IdForm::HexDec]);
        (0..49).for_each(|_| h.missed());
        assert_eq!(h.form(), Some(IdForm::HexDec));
        h.missed();
        assert_eq!(h.form(), None, "the SMSC was replaced");
    }

    #[test]
    fn mixed_evidence_teaches_nothing() {
        let h = IdHabits::new(None);
        h.found(IdForm::Same, true);
        (0..20).for_each(|_| h.found(IdForm::DecHex, true));
        assert_eq!(h.form(), None);
    }

    #[test]
    fn the_rate_falls_with_misses_and_an_early_receipt_is_none() {
        let h = IdHabits::new(Some(IdForm::Same));
        (0..100).for_each(|_| h.found(IdForm::Same, true));
        assert_eq!((h.rate(), h.alarm()), (Some(1.0), false));
        (0..30).for_each(|_| h.missed());
        assert!(h.alarm());
        (0..300).for_each(|_| h.found(IdForm::Same, true));
        assert!(!h.alarm());
        h.missed();
        h.found_late(IdForm::Same, true);
        assert_eq!(h.counts(), ([401, 0, 0], 30));
        // An SMSC whose receipts all come before their responses.
        let h = IdHabits::new(None);
        for _ in 0..200 {
            h.missed();
            h.found_late(IdForm::Same, true);
        }
        assert!(h.rate() > Some(0.98) && !h.alarm(), "{:?}", h.rate());
    }

    #[test]
    fn an_id_that_is_the_same_in_all_forms_teaches_nothing() {
        let h = IdHabits::new(None);
        (0..9).for_each(|_| h.found(IdForm::Same, false));
        (0..10).for_each(|_| h.found(IdForm::HexDec, true));
        assert_eq!(h.form(), Some(IdForm::HexDec));
    }
}
