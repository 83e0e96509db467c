//! Finding the message a receipt speaks of, by upstream and the SMSC's id.
//!
//! SMSCs answer a submit with one spelling of the id and send the receipt with another: other case, leading zeros, decimal
//! for hexadecimal. Ids are therefore compared in a plain form, and a receipt is looked up under each form it could mean. A match
//! must also agree on the number, because SMSCs start their ids over.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::HashMap;

use crate::flow::habits::IdForm;
use crate::ids::{MessageKey, UpstreamId};

/// Entries are the hash of (upstream, plain id), keyed at random per process: peers choose ids and must not be able to make
/// them collide.
#[derive(Debug, Default)]
pub struct Correlation {
    hasher: foldhash::quality::RandomState,
    map: HashMap<u64, u64, foldhash::fast::FixedState>,
    recent: VecDeque<u64>,
    /// How often each is in `recent`, and a hash of the number its last message went to.
    recent_set: HashMap<u64, (u32, u64), foldhash::fast::FixedState>,
}

/// Ended messages whose ids are remembered, so that a repeated receipt is told from an early one.
const RECENT: usize = 200_000;

impl Correlation {
    /// Notes that `upstream` knows `key` as `smsc_id`; the newest wins. The entry's handle, 0 for an empty id, and the message that
    /// was noted under it before.
    pub fn insert(
        &mut self,
        upstream: UpstreamId,
        smsc_id: &[u8],
        key: MessageKey,
    ) -> (u64, Option<MessageKey>) {
        let handle = self.noted_as(upstream, smsc_id);
        if handle == 0 {
            return (0, None);
        }
        let before = self.map.insert(handle, key.0);
        (handle, before.map(MessageKey).filter(|before| *before != key))
    }

    /// Gives back what a flood has left behind.
    pub fn shrink(&mut self) {
        self.map.shrink_to(self.map.len() * 2);
    }

    /// Notes a message under the handle it had.
    pub fn restore(&mut self, handle: u64, key: MessageKey) {
        self.map.insert(handle, key.0);
    }

    /// The handle of an id as a response gives it; 0 for an empty id.
    #[must_use]
    pub fn noted_as(&self, upstream: UpstreamId, smsc_id: &[u8]) -> u64 {
        match plain(smsc_id) {
            [] => 0,
            id => self.handle(upstream, id),
        }
    }

    /// The handle of the id that a response must have had if `smsc_id`, from a receipt, is to be read as `form` says.
    #[must_use]
    pub fn read_as(&self, upstream: UpstreamId, smsc_id: &[u8], form: IdForm) -> Option<u64> {
        let id = plain(smsc_id);
        let text = std::str::from_utf8(id).ok().filter(|t| !t.is_empty())?;
        match form {
            IdForm::Same => Some(self.handle(upstream, id)),
            IdForm::HexDec => {
                let value: u128 = text.parse().ok()?;
                Some(self.handle(upstream, format!("{value:x}").as_bytes()))
            }
            IdForm::DecHex => {
                let value = u128::from_str_radix(text, 16).ok()?;
                Some(self.handle(upstream, value.to_string().as_bytes()))
            }
        }
    }

    /// Forgets an entry, if it still means `key`.
    pub fn remove(&mut self, handle: u64, key: MessageKey) {
        if self.map.get(&handle) == Some(&key.0) {
            self.map.remove(&handle);
        }
    }

    /// Remembers the id of a message to `dest` that has ended, for a while.
    pub fn remember(&mut self, handle: u64, dest: &[u8]) {
        let number = self.number(dest);
        let entry = self.recent_set.entry(handle).or_insert((0, 0));
        *entry = (entry.0 + 1, number);
        self.recent.push_back(handle);
        if self.recent.len() > RECENT
            && let Some(old) = self.recent.pop_front()
            && let Some((n, _)) = self.recent_set.get_mut(&old)
        {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.recent_set.remove(&old);
            }
        }
    }

    /// The message noted under a handle.
    #[must_use]
    pub fn get(&self, handle: u64) -> Option<MessageKey> {
        self.map.get(&handle).copied().map(MessageKey)
    }

    /// Whether a message with this handle, to `number` if one is given, ended a short while ago: then a receipt for it is a
    /// repeated one. An SMSC that starts its ids over uses them for another number.
    #[must_use]
    pub fn ended(&self, handle: u64, number: &[u8]) -> bool {
        self.recent_set
            .get(&handle)
            .is_some_and(|(_, dest)| number.is_empty() || *dest == self.number(number))
    }

    /// A hash that any two numbers share which [`crate::domain::address::same_number`] takes for one: of their last six digits.
    #[must_use]
    pub fn tail(&self, digits: &[u8]) -> u16 {
        let mut tail = [0u8; 6];
        let digits = digits.iter().rev().filter(|c| c.is_ascii_digit());
        tail.iter_mut().zip(digits).for_each(|(to, from)| *to = *from);
        self.hasher.hash_one(tail) as u16
    }

    /// A number without its spelling: what [`crate::domain::address::same_number`] compares.
    fn number(&self, digits: &[u8]) -> u64 {
        let mut tail = [0u8; 9];
        let digits = digits.iter().rev().filter(|c| c.is_ascii_digit()).take(9);
        tail.iter_mut().zip(digits).for_each(|(to, from)| *to = *from);
        self.hasher.hash_one(tail)
    }

    fn handle(&self, upstream: UpstreamId, plain_id: &[u8]) -> u64 {
        let mut folded = [0u8; 72];
        for (to, from) in folded.iter_mut().zip(plain_id) {
            *to = from.to_ascii_lowercase();
        }
        let n = plain_id.len().min(folded.len());
        // 0 means "no entry".
        self.hasher.hash_one((folded.get(..n), upstream.0)).max(1)
    }
}

/// An id without leading zeros and surrounding blanks; a lone zero stays.
fn plain(id: &[u8]) -> &[u8] {
    let id = id.trim_ascii();
    let zeros = id
        .iter()
        .take_while(|c| **c == b'0')
        .count()
        .min(id.len().saturating_sub(1));
    id.get(zeros..).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: UpstreamId = UpstreamId(3);

    fn finds(noted: &str, receipt: &str) -> bool {
        let mut c = Correlation::default();
        c.insert(UP, noted.as_bytes(), MessageKey(7));
        IdForm::ALL
            .into_iter()
            .filter_map(|form| c.read_as(UP, receipt.as_bytes(), form))
            .any(|h| c.get(h) == Some(MessageKey(7)))
    }

    #[test]
    fn spellings_of_one_id_meet() {
        for (noted, receipt) in [
            ("1A2B", "1a2b"),
            ("0000123", "123"),
            ("123", "0000123"),
            ("1a2b", "6699"),
            ("6699", "1A2B"),
            ("0", "0"),
            ("f81d4fae-7dec-11d0", "F81D4FAE-7DEC-11D0"),
            (" 42 ", "42"),
            // 128 bits.
            (
                "F81D4FAE7DEC11D0A76500A0C91E6BF6",
                "329800735698586629295641978511506172918",
            ),
        ] {
            assert!(finds(noted, receipt), "{noted} {receipt}");
        }
        assert!(!finds("123", "124"));
        assert!(!finds("12", ""));
    }

    #[test]
    fn upstreams_do_not_mix_and_the_newest_wins() {
        let mut c = Correlation::default();
        let (h, _) = c.insert(UP, b"5", MessageKey(1));
        let other = c.read_as(UpstreamId(4), b"5", IdForm::Same).unwrap();
        assert!(c.get(other).is_none());
        assert_eq!(c.insert(UP, b"5", MessageKey(2)).1, Some(MessageKey(1)));
        c.remove(h, MessageKey(1));
        assert_eq!(c.get(h), Some(MessageKey(2)));
        assert_eq!(c.insert(UP, b"", MessageKey(3)), (0, None));
    }

    #[test]
    fn ended_ids_are_remembered_with_their_number() {
        let mut c = Correlation::default();
        let (h, _) = c.insert(UP, b"5", MessageKey(1));
        c.remove(h, MessageKey(1));
        c.remember(h, b"254712345678");
        assert!(c.ended(h, b"") && c.ended(h, b"0712345678"));
        assert!(
            !c.ended(h, b"254712345679"),
            "the id is used again for another number"
        );
    }
}
