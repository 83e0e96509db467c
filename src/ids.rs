//! Identifiers that cross layers: plain integers in newtypes, so that an account can never be used as a message.

use std::fmt;

/// A customer account. Assigned once by the store, never reused; 0 means "none" (unclaimed inbound traffic).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AccountId(pub u32);

impl AccountId {
    /// No account: inbound messages that no `[[inbound]]` rule claims are kept under it.
    pub const NONE: AccountId = AccountId(0);
}

/// An upstream. Assigned by the store to a name at its first start and kept, so that rows written before a config
/// change still name the right SMSC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UpstreamId(pub u16);

impl UpstreamId {
    /// Not yet given to an upstream.
    pub const NONE: UpstreamId = UpstreamId(u16::MAX);
}

/// A customer or upstream connection of this process, for listing and kicking. Never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// A message's key: shard (12 bits), epoch (20), sequence (32).
///
/// The epoch rises by one at every start, so neither a clock nor AUTOINCREMENT takes part in uniqueness. Customers,
/// receipts and the admin socket show it as unpadded decimal (at most 20 digits); on shard 0 it stays under 2^52 and so
/// survives a round trip through a double.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MessageKey(pub u64);

impl MessageKey {
    /// The key of `sequence` within an epoch of a shard. `shard < 4096`, `epoch < 2^20`; higher bits are cut off.
    #[must_use]
    pub const fn new(shard: u16, epoch: u32, sequence: u32) -> MessageKey {
        MessageKey(((shard as u64 & 0xFFF) << 52) | ((epoch as u64 & 0xF_FFFF) << 32) | sequence as u64)
    }

    /// Reads the printed form. `None` for anything but 1–20 ASCII digits that fit 64 bits.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<MessageKey> {
        if text.is_empty() || text.len() > 20 {
            return None;
        }
        let mut value = 0u64;
        for &c in text {
            let digit = c.checked_sub(b'0').filter(|d| *d < 10)?;
            value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        }
        Some(MessageKey(value))
    }
}

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in the journal: rises by one for every event written, over all segments. Doubles as the order of an
/// account's receipts, so one number per account marks what has been delivered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Pos(pub u64);

/// Names one commit for ever: the epoch that made it and its number within the epoch. Committing it twice changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchId {
    /// The epoch of the writer.
    pub epoch: u32,
    /// 1, 2, 3 … within the epoch.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_and_parses_back() {
        for key in [
            MessageKey::new(0, 1, 0),
            MessageKey::new(0, 7, u32::MAX),
            MessageKey(u64::MAX),
        ] {
            assert_eq!(MessageKey::parse(key.to_string().as_bytes()), Some(key));
        }
    }

    #[test]
    fn anything_but_a_decimal_key_is_refused() {
        for text in ["", "12a", "-1", "18446744073709551616", "000000000000000000001"] {
            assert_eq!(MessageKey::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_single_node_key_is_exact_in_a_double() {
        assert!(MessageKey::new(0, (1 << 20) - 1, u32::MAX).0 < 1 << 52);
    }
}
