//! Messages of which nothing is awaited but the receipt, in a form of 32 octets.
//!
//! An SMSC may have millions of messages whose handsets are off. Once more are open than `[limits] open_hot_max`, those that have
//! been sent rest: what is kept is how their receipt will name them and when waiting ends. When either comes, the
//! message's row is read back from the store, and it goes on as if it had never rested.

use hashbrown::HashTable;

use super::Engine;
use super::book::{Book, Phase};
use super::upkeep::SWEEP_MS;
use crate::domain::outcome::{ChargeOn, Final};
use crate::flow::habits::IdForm;
use crate::flow::ingress::{Input, UpEvent, UpReceipt};
use crate::ids::{MessageKey, UpstreamId};
use crate::money::Money;
use crate::store::{Accepted, Store, StoreError};

/// A message at rest. The order of the fields leaves no gap: 32 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resting {
    /// Its entry in the correlation: a hash under a key of this process.
    handle: u64,
    key: u64,
    /// Sent or provisionally received, s since the epoch, rounded up.
    step_s: u32,
    /// Hash of the last digits of the number it went to.
    number: u16,
    upstream: UpstreamId,
    /// Minutes until waiting ends, for one whose tariff says so; otherwise [`AS_ALL`].
    wait_min: u16,
    provisional_err: u16,
    /// [`Final::code`] of a provisional state, 0 for none.
    provisional: u8,
}

/// Waits as long as `receipt_timeout_s` says at the time.
const AS_ALL: u16 = u16::MAX;
/// Tables, each of which grows on its own: one of millions of entries would stop the engine for a second when it grows.
const SHARDS: usize = 256;
/// A message rests when it has been sent for this long, ms: most receipts come sooner.
const FRESH_MS: u64 = 5_000;
/// Read back in one go because their time is near.
const WAKE_MAX: usize = 500;

/// All messages at rest, by the handle of their SMSC id. Several may have one handle: SMSCs start their ids over.
#[derive(Debug)]
pub(super) struct Rests {
    shards: Vec<HashTable<Resting>>,
    len: usize,
    /// Where the look for those whose time is near goes on.
    cursor: usize,
}

impl Default for Rests {
    fn default() -> Rests {
        Rests {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            len: 0,
            cursor: 0,
        }
    }
}

impl Rests {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The table finds its place by the lowest and the highest bits.
    fn shard(&mut self, handle: u64) -> Option<&mut HashTable<Resting>> {
        self.shards.get_mut((handle >> 40) as usize % SHARDS)
    }

    pub(super) fn insert(&mut self, entry: Resting) {
        if let Some(shard) = self.shard(entry.handle) {
            shard.insert_unique(entry.handle, entry, |e| e.handle);
            self.len += 1;
        }
    }

    /// The newest with this handle that `agrees`.
    fn newest(&self, handle: u64, agrees: impl Fn(&Resting) -> bool) -> Option<Resting> {
        self.shards
            .get((handle >> 40) as usize % SHARDS)?
            .iter_hash(handle)
            .filter(|e| e.handle == handle && agrees(e))
            .max_by_key(|e| (e.step_s, e.key))
            .copied()
    }

    /// The newest with this handle.
    pub(super) fn key_of(&self, handle: u64) -> Option<MessageKey> {
        self.newest(handle, |_| true).map(|e| MessageKey(e.key))
    }

    fn take(&mut self, entry: &Resting) {
        let found = self
            .shard(entry.handle)
            .and_then(|s| s.find_entry(entry.handle, |e| e == entry).ok());
        if let Some(found) = found {
            let (_, place) = found.remove();
            let shard = place.into_table();
            // What a burst has left behind is given back.
            if shard.capacity() > 1_024 && shard.len() < shard.capacity() / 8 {
                shard.shrink_to(shard.len() * 2, |e| e.handle);
            }
            self.len -= 1;
        }
    }

    /// Those of the next tables whose waiting ends before `until_ms`, at most [`WAKE_MAX`]; `tables` are looked through.
    fn near(&mut self, tables: usize, until_ms: u64, timeout_ms: u64) -> Vec<Resting> {
        let mut near = Vec::new();
        for _ in 0..tables.min(SHARDS) {
            let shard = self.shards.get(self.cursor).into_iter().flatten();
            near.extend(shard.filter(|e| e.ends_ms(timeout_ms) <= until_ms).copied());
            if near.len() > WAKE_MAX {
                // The rest of this table comes next time.
                near.truncate(WAKE_MAX);
                break;
            }
            self.cursor = (self.cursor + 1) % SHARDS;
        }
        near
    }
}

impl Resting {
    fn ends_ms(&self, timeout_ms: u64) -> u64 {
        let wait = match self.wait_min {
            AS_ALL => timeout_ms,
            minutes => u64::from(minutes) * 60_000,
        };
        u64::from(self.step_s) * 1_000 + wait
    }
}

impl Book {
    /// What an open message is at rest; `None` while anything but its receipt is awaited.
    pub(super) fn at_rest(&self, key: MessageKey) -> Option<Resting> {
        let open = self.get(key)?;
        let plain = open.phase == Phase::Sent
            && open.parts.is_none()
            && open.correlation != 0
            && !open.written
            && !open.led
            // Reading its row back gives what is charged already.
            && open.captured == if open.charge_on == ChargeOn::Delivered { Money::ZERO } else { open.price };
        if !plain {
            return None;
        }
        let state = open.provisional.unwrap_or(Final::Unknown);
        let wait = self.terms(open.tariff).wait_ms(state);
        Some(Resting {
            handle: open.correlation,
            key: key.0,
            step_s: u32::try_from(open.step_ms.max(open.at_ms).div_ceil(1_000)).ok()?,
            number: self.correlation.tail(open.stub.parts().dest),
            upstream: open.upstream,
            wait_min: wait.map_or(AS_ALL, |ms| {
                u16::try_from(ms / 60_000).unwrap_or(AS_ALL).min(AS_ALL - 1)
            }),
            provisional_err: open.provisional_err,
            provisional: open.provisional.map_or(0, Final::code),
        })
    }
}

impl<S: Store> Engine<S> {
    /// Lets messages rest while too many are open; looks at about two for each that was written in this turn.
    pub(super) fn rest(&mut self, now: u64, looks: usize) {
        let max = self.gateway.limits.open_hot_max;
        if self.book.hot() <= max {
            return;
        }
        let timeout = self.gateway.policy.load().receipt_timeout_ms;
        for _ in 0..looks {
            let over = self.book.hot().saturating_sub(max);
            if over == 0 {
                return;
            }
            let Some((key, open)) = self.book.at(self.rest_cursor) else {
                self.rest_cursor = 0;
                continue;
            };
            let fresh = now < open.step_ms + FRESH_MS && over < max / 4;
            let entry = self.book.at_rest(key).filter(|_| !fresh);
            // One whose time is near would be woken at once.
            match entry.filter(|e| e.ends_ms(timeout) > now + SWEEP_MS) {
                // Another takes its place in the book.
                Some(entry) => self.book.rest(key, entry),
                None => self.rest_cursor += 1,
            }
        }
    }

    /// Reads those messages back that an input brings receipts of, or asks something of. Where two messages have one SMSC id it is
    /// left to [`Engine::wake`], receipt by receipt.
    pub(super) fn wake_for(&mut self, input: &Input) -> Result<(), StoreError> {
        let Input::Upstream { upstream, events, .. } = input else {
            return self.awaken_for(input);
        };
        if self.book.rests.len() == 0 {
            return Ok(());
        }
        let mut found = Vec::new();
        for event in events {
            if let UpEvent::Receipt(_, r) = event {
                self.named(*upstream, &r.smsc_id, [&r.number, &r.other], &mut found);
            }
        }
        found.sort_unstable_by_key(|e| (e.handle, e.key));
        found.dedup();
        let alone =
            |e: &Resting, others: &[Resting]| others.iter().filter(|o| o.handle == e.handle).count() == 1;
        let clear: Vec<Resting> = found
            .chunk_by(|a, b| a.handle == b.handle)
            .filter_map(|same| same.first().filter(|e| alone(e, same)).copied())
            .filter(|e| self.book.correlation.get(e.handle).is_none())
            .collect();
        self.wake_these(clear)
    }

    /// Reads the message back that a receipt means, if it rests. Another with the same SMSC id rests instead.
    pub(super) fn wake(
        &mut self,
        upstream: UpstreamId,
        smsc_id: &[u8],
        numbers: [&[u8]; 2],
    ) -> Result<(), StoreError> {
        let mut found = Vec::new();
        if self.book.rests.len() > 0 {
            self.named(upstream, smsc_id, numbers, &mut found);
        }
        found.truncate(1);
        self.wake_these(found)
    }

    /// Reads the message back that a receipt means, if no other is what it means.
    pub(super) fn wake_unseen(&mut self, upstream: UpstreamId, r: &UpReceipt) -> Result<(), StoreError> {
        let numbers: [&[u8]; 2] = [&r.number, &r.other];
        if self.book.rests.len() == 0 || self.find(upstream, &r.smsc_id, numbers).is_some() {
            return Ok(());
        }
        self.wake(upstream, &r.smsc_id, numbers)
    }

    /// Those at rest that `smsc_id` may mean, in the order in which ids are read.
    fn named(&self, upstream: UpstreamId, smsc_id: &[u8], numbers: [&[u8]; 2], found: &mut Vec<Resting>) {
        let correlation = &self.book.correlation;
        let any = numbers.iter().all(|n| n.is_empty());
        let tails = numbers.map(|n| correlation.tail(n));
        let handles = IdForm::ALL
            .into_iter()
            .filter_map(|form| correlation.read_as(upstream, smsc_id, form));
        for handle in handles {
            let agrees = |e: &Resting| any || tails.contains(&e.number);
            found.extend(self.book.rests.newest(handle, agrees));
        }
    }

    /// Messages at rest whose waiting ends soon become what they were, so that the deadline finds them.
    pub(super) fn wake_near(&mut self, now: u64, elapsed_ms: u64) -> Result<(), StoreError> {
        if self.book.rests.len() == 0 {
            return Ok(());
        }
        let timeout = self.gateway.policy.load().receipt_timeout_ms;
        let tables = (SHARDS as u64 * elapsed_ms).div_ceil(SWEEP_MS) as usize;
        let near = self.book.rests.near(tables, now + SWEEP_MS, timeout);
        let keys: Vec<MessageKey> = near.iter().map(|e| MessageKey(e.key)).collect();
        self.wake_these(near)?;
        for key in keys {
            if let Some(open) = self.book.get(key) {
                let deadline = open.step_ms + self.wait_for(open, timeout);
                self.watch(key, deadline, now);
            }
        }
        Ok(())
    }

    fn wake_these(&mut self, mut entries: Vec<Resting>) -> Result<(), StoreError> {
        entries.sort_unstable_by_key(|e| e.key);
        entries.dedup();
        // A newer message with the same SMSC id rests instead, or this one goes on resting.
        entries.retain(|e| match self.book.correlation.get(e.handle) {
            None => true,
            Some(other) => {
                let newer = self.book.at_rest(other);
                newer.map(|newer| self.book.rest(other, newer)).is_some()
            }
        });
        if entries.is_empty() {
            return Ok(());
        }
        let keys: Vec<MessageKey> = entries.iter().map(|e| MessageKey(e.key)).collect();
        let book = &mut self.book;
        let mut read = 0;
        self.store.open_rows(&keys, &mut |row: Accepted| {
            if let Ok(at) = entries.binary_search_by_key(&row.key.0, |e| e.key)
                && let Some(entry) = entries.get(at)
            {
                book.rests.take(entry);
                book.wake(
                    &row,
                    entry.handle,
                    entry.upstream,
                    entry.state(),
                    u64::from(entry.step_s) * 1_000,
                );
                read += 1;
            }
        })?;
        if read < entries.len() {
            // Open in memory but not on record: that cannot be, and going on would hide it.
            return Err(StoreError::Fatal(
                "a message that awaits its receipt is not in the store".into(),
            ));
        }
        Ok(())
    }
}

impl Resting {
    fn state(&self) -> Option<(Final, u16)> {
        Final::from_code(self.provisional).map(|s| (s, self.provisional_err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(handle: u64, key: u64, step_s: u32) -> Resting {
        Resting {
            handle,
            key,
            step_s,
            number: key as u16,
            upstream: UpstreamId(1),
            wait_min: AS_ALL,
            provisional_err: 0,
            provisional: 0,
        }
    }

    #[test]
    fn an_entry_takes_32_octets() {
        assert_eq!(size_of::<Resting>(), 32);
    }

    #[test]
    fn of_several_with_one_id_the_newest_that_agrees_is_found() {
        let mut rests = Rests::default();
        for (key, step) in [(1, 10), (2, 30), (3, 20)] {
            rests.insert(entry(77, key, step));
        }
        rests.insert(entry(78, 4, 99));
        let key = |e: Option<Resting>| e.map(|e| e.key);
        assert_eq!(key(rests.newest(77, |_| true)), Some(2));
        assert_eq!(key(rests.newest(77, |e| e.number == 3)), Some(3));
        assert_eq!(key(rests.newest(77, |e| e.number == 4)), None);
        rests.take(&entry(77, 2, 30));
        assert_eq!((key(rests.newest(77, |_| true)), rests.len()), (Some(3), 3));
    }

    #[test]
    fn once_around_finds_everything_whose_time_is_near() {
        let mut rests = Rests::default();
        for n in 0..2_000u64 {
            let handle = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            rests.insert(entry(handle, n, (n % 100) as u32));
        }
        let mut found = 0;
        for _ in 0..2 * SHARDS {
            let near = rests.near(1, 50_000, 10_000);
            near.iter().for_each(|e| {
                assert!(e.step_s <= 40);
                rests.take(e);
            });
            found += near.len();
        }
        assert_eq!((found, rests.len()), (820, 1_180));
    }
}
