//! A message as lanes and binds carry it.

use crate::domain::message::{Message, Piece};
use crate::ids::{AccountId, MessageKey};

/// A message on its way to an upstream. 64 octets beside its text: a lane may hold a great many.
#[derive(Debug)]
pub struct Outgoing {
    /// Its key.
    pub key: MessageKey,
    /// Which part of it, once it has been cut for an upstream.
    pub piece: Piece,
    /// Parts that are out already: the message waited again after some of them had gone.
    pub out: Option<Box<PartSet>>,
    /// Whose: customers take turns at an upstream.
    pub account: AccountId,
    /// Accepted, ms since the epoch.
    pub at_ms: u64,
    /// Until when it may be sent, ms since the epoch.
    pub expires_ms: u64,
    /// Temporary refusals so far.
    pub attempts: u16,
    /// Times it was written and never answered.
    pub unanswered: u16,
    /// Segments, for the turns of customers.
    pub segments: u8,
    /// The message.
    pub message: Message,
}

impl Outgoing {
    /// How urgent it is, 0 to 3: see [`crate::domain::message::Flags::level`].
    #[must_use]
    pub fn level(&self) -> u8 {
        self.message.flags().level()
    }

    /// Octets of its record.
    pub(super) fn octets(&self) -> usize {
        self.message.record().len()
    }
}

/// Some of the parts of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartSet {
    /// How many parts there are.
    pub of: u8,
    set: [u64; 4],
}

impl PartSet {
    /// None of `of` parts.
    #[must_use]
    pub fn new(of: u8) -> PartSet {
        PartSet { of, set: [0; 4] }
    }

    /// Adds one.
    pub fn insert(&mut self, part: u8) {
        if let Some(word) = self.set.get_mut(usize::from(part >> 6)) {
            *word |= 1 << (part & 63);
        }
    }

    /// Whether it is in.
    #[must_use]
    pub fn contains(&self, part: u8) -> bool {
        let word = self.set.get(usize::from(part >> 6));
        word.is_some_and(|w| w & 1 << (part & 63) != 0)
    }
}
