//! Changes of the rules over the admin socket: through the engine, so that they are on record before they are in force, and in
//! force before they are answered.

use crate::domain::message::Message;
use crate::domain::sender::{Sender, Standing};
use crate::domain::suppression::{Scope, Subject, Suppression};
use crate::ids::{AccountId, MessageKey};
use crate::store::Case;

/// See the module's description.
#[derive(Debug, Clone)]
pub enum RuleChange {
    /// Registers a sender, or changes its class and reference.
    Register(Sender),
    /// Lets a registered sender be used, or no more.
    Stand {
        /// Name of its account.
        account: String,
        /// The address.
        id: String,
        /// At which operator; empty: at all.
        operator: String,
        /// How it is from now on.
        standing: Standing,
    },
    /// Notes numbers that must not be sent to.
    Suppress(Vec<Suppression>),
    /// Forgets one.
    Unsuppress(Subject, Scope),
    /// Messages that wait for a person, after a key.
    ShowHeld(MessageKey, usize),
    /// The text of one that waits for a person.
    ShowText(MessageKey),
    /// Lets one go.
    LetGo(MessageKey),
    /// Refuses one.
    Refuse(MessageKey),
    /// Closes a case, with what was found.
    CloseCase(u64, String),
}

/// What a change answers.
#[derive(Debug, Clone)]
pub enum RuleReply {
    /// The sender as it is now.
    Sender(Sender),
    /// How many entries are new.
    Suppressed(usize),
    /// Messages that wait for a person.
    Held(Vec<HeldView>),
    /// A message with its text.
    Message(Message),
    /// The case as it is now.
    Case(Case),
    /// Done.
    Done,
}

/// A message that waits for a person.
#[derive(Clone, PartialEq, Eq)]
pub struct HeldView {
    /// Its key.
    pub key: MessageKey,
    /// Whose.
    pub account: AccountId,
    /// Source address.
    pub source: Box<[u8]>,
    /// Destination.
    pub dest: Box<[u8]>,
    /// Accepted, ms since the epoch.
    pub at_ms: u64,
    /// It ends then, ms since the epoch.
    pub expires_ms: u64,
    /// Segments billed.
    pub segments: u8,
}

impl std::fmt::Debug for HeldView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeldView({})", self.key)
    }
}
