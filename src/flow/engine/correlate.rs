//! Finding the message a receipt speaks of, by upstream and the SMSC's id.
//!
//! SMSCs answer a submit with one spelling of the id and send the receipt with another: other case, leading zeros, decimal
//! for hexadecimal. Ids are therefore compared in a plain form, and a receipt is looked up under each form it could mean. A match
//! must also agree on the number, because SMSCs start their ids over.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::HashMap;

use crate::ids::{MessageKey, UpstreamId};

/// Entries are the hash of (upstream, plain id), keyed at random per process: peers choose ids and must not be able to make
/// them collide.
#[derive(Debug, Default)]
pub struct Correlation {
    hasher: foldhash::quality::RandomState,
    map: HashMap<u64, u64, foldhash::fast::FixedState>,
    recent: VecDeque<u64>,
    recent_set: HashMap<u64, u32, foldhash::fast::FixedState>,
}

/// Ended messages whose ids are remembered, so that a repeated receipt is told from an early one.
const RECENT: usize = 200_000;

impl Correlation {
    /// Notes that `upstream` knows `key` as `smsc_id`; the newest wins. The entry's handle, 0 for an empty id.
    pub fn insert(&mut self, upstream: UpstreamId, smsc_id: &[u8], key: MessageKey) -> u64 {
        if smsc_id.is_empty() {
            return 0;
        }
        let handle = self.handle(upstream, plain(smsc_id));
        self.map.insert(handle, key.0);
        if let Some(n) = self.recent_set.get_mut(&handle) {
            // The SMSC uses the id again: a receipt for it now means the new message.
            *n = 0;
        }
        handle
    }

    /// Forgets an entry, if it still means `key`.
    pub fn remove(&mut self, handle: u64, key: MessageKey) {
        if self.map.get(&handle) == Some(&key.0) {
            self.map.remove(&handle);
        }
    }

    /// Remembers the id of an ended message for a while.
    pub fn remember(&mut self, handle: u64) {
        *self.recent_set.entry(handle).or_insert(0) += 1;
        self.recent.push_back(handle);
        if self.recent.len() > RECENT
            && let Some(old) = self.recent.pop_front()
            && let Some(n) = self.recent_set.get_mut(&old)
        {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.recent_set.remove(&old);
            }
        }
    }

    /// Handles under which a receipt's id could have been noted, most likely first.
    #[must_use]
    pub fn forms(&self, upstream: UpstreamId, smsc_id: &[u8], convert: bool) -> Vec<u64> {
        let id = plain(smsc_id);
        if id.is_empty() {
            return Vec::new();
        }
        let mut forms = vec![self.handle(upstream, id)];
        if convert {
            let text = std::str::from_utf8(id).unwrap_or("");
            if let Ok(value) = text.parse::<u64>() {
                forms.push(self.handle(upstream, format!("{value:x}").as_bytes()));
            }
            if let Ok(value) = u64::from_str_radix(text, 16) {
                forms.push(self.handle(upstream, value.to_string().as_bytes()));
            }
        }
        forms
    }

    /// The message noted under a handle.
    #[must_use]
    pub fn get(&self, handle: u64) -> Option<MessageKey> {
        self.map.get(&handle).copied().map(MessageKey)
    }

    /// Whether a message with this handle ended a short while ago.
    #[must_use]
    pub fn ended(&self, handle: u64) -> bool {
        self.recent_set.get(&handle).is_some_and(|n| *n > 0)
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
        c.forms(UP, receipt.as_bytes(), true)
            .into_iter()
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
        ] {
            assert!(finds(noted, receipt), "{noted} {receipt}");
        }
        assert!(!finds("123", "124"));
    }

    #[test]
    fn upstreams_do_not_mix_and_the_newest_wins() {
        let mut c = Correlation::default();
        let h = c.insert(UP, b"5", MessageKey(1));
        assert!(
            c.forms(UpstreamId(4), b"5", true)
                .into_iter()
                .all(|h| c.get(h).is_none())
        );
        c.insert(UP, b"5", MessageKey(2));
        c.remove(h, MessageKey(1));
        assert_eq!(c.get(h), Some(MessageKey(2)));
        assert_eq!(c.insert(UP, b"", MessageKey(3)), 0);
    }

    #[test]
    fn ended_ids_are_remembered_until_used_again() {
        let mut c = Correlation::default();
        let h = c.insert(UP, b"5", MessageKey(1));
        c.remove(h, MessageKey(1));
        c.remember(h);
        assert!(c.ended(h));
        c.insert(UP, b"5", MessageKey(2));
        assert!(!c.ended(h));
    }
}
