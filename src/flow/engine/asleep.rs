//! Messages that wait for a time that is far off, in about forty octets.
//!
//! What is kept of one is its key and its time; its row is in the store, and so is the mark that says until when. It is read back
//! some minutes ahead of its time, or when its customer asks something of it.

use super::Engine;
use super::book::{Book, Phase};
use crate::domain::outcome::ChargeOn;
use crate::flow::ingress::{Control, Input, Operation};
use crate::ids::MessageKey;
use crate::money::Money;
use crate::store::{Mark, Store, StoreError};

/// So long before its time a message is read back, ms.
pub(super) const AHEAD_MS: u64 = 300_000;
/// Messages that are read back in one turn.
const AWAKEN_MAX: usize = 500;

impl Book {
    /// A message whose time is far off is kept by its key alone from now on; nothing happens to any other.
    pub(super) fn sleep(&mut self, key: MessageKey, now: u64) {
        let Some(until) = self
            .waits(key)
            .filter(|at| *at != Mark::NEVER && *at > now + AHEAD_MS)
        else {
            return;
        };
        let may = self.get(key).is_some_and(|o| {
            o.phase == Phase::Queued
                && o.parts.is_none()
                && !o.written
                && !o.led
                // Its end comes only after its time.
                && o.expires_ms > until
                // Reading its row back gives what is charged already.
                && o.captured == if o.charge_on == ChargeOn::Accepted { o.price } else { Money::ZERO }
        });
        if may {
            self.leave_for_sleep(key);
        }
    }
}

impl<S: Store> Engine<S> {
    /// Reads messages back that are asleep; others are passed over.
    pub(super) fn awaken(&mut self, keys: &[MessageKey]) -> Result<(), StoreError> {
        if self.book.asleep() == 0 {
            return Ok(());
        }
        let keys: Vec<MessageKey> = keys.iter().copied().filter(|k| self.book.is_asleep(*k)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let (book, mut read) = (&mut self.book, 0);
        self.store.open_rows(&keys, &mut |row| {
            book.awake(&row);
            read += 1;
        })?;
        if read < keys.len() {
            // Open in memory but not on record: that cannot be, and going on would hide it.
            return Err(StoreError::Fatal(
                "a scheduled message is not in the store".into(),
            ));
        }
        Ok(())
    }

    /// Reads those back that an input asks something of. They may sleep again once the answer is on record.
    pub(super) fn awaken_for(&mut self, input: &Input) -> Result<(), StoreError> {
        if self.book.asleep() == 0 {
            return Ok(());
        }
        let key = match input {
            Input::Control(Control::ShowOpen(key), _) => *key,
            Input::Operation(asked) => match &asked.operation {
                Operation::Query { key, .. }
                | Operation::Cancel { key, .. }
                | Operation::Replace { key, .. } => *key,
                Operation::CancelAll { .. } => return Ok(()),
            },
            _ => return Ok(()),
        };
        // A submit_multi has one id for all of its messages.
        let nth = |n: u64| MessageKey(key.0.saturating_add(n));
        let keys: Vec<MessageKey> = (0..=u64::from(u8::MAX))
            .map(nth)
            .filter(|k| self.book.is_asleep(*k))
            .collect();
        self.awaken(&keys)?;
        self.drowsy.extend(keys);
        Ok(())
    }

    /// Reads those back whose time is near, a slice a turn. What could not be read is tried again.
    pub(super) fn awaken_near(&mut self, now: u64) -> Result<(), StoreError> {
        if self.book.asleep() == 0 {
            return Ok(());
        }
        let until = (now + AHEAD_MS, MessageKey(u64::MAX));
        let from = self.awake_upto;
        if from >= until {
            return Ok(());
        }
        let range = (std::ops::Bound::Excluded(from), std::ops::Bound::Included(until));
        let near: Vec<(u64, MessageKey)> = self.waiting.range(range).take(AWAKEN_MAX).copied().collect();
        let keys: Vec<MessageKey> = near.iter().map(|(_, key)| *key).collect();
        self.awaken(&keys)?;
        self.awake_upto = match near.last() {
            Some(last) if near.len() == AWAKEN_MAX => *last,
            _ => until,
        };
        Ok(())
    }
}
