//! What one commit holds. Every entry is a row appended, except the few per account.

use std::borrow::Cow;

use super::rules::RuleRows;
use crate::domain::account::Account;
use crate::domain::message::{Message, Piece};
use crate::domain::outcome::{ChargeOn, Final, Wants};
use crate::domain::tariff::{PriceRule, Terms};
use crate::ids::{AccountId, BatchId, MessageKey, Pos, UpstreamId};
use crate::money::Money;

/// Bits of the `flags` column of final and mark rows.
pub mod flags {
    /// The customer asked for this receipt.
    pub const WANTED: u8 = 1;
    /// The receipt was put into the stored outbox in the same commit.
    pub const SPILLED: u8 = 2;
    /// Of a part that is over: an upstream had taken it, or says so by its receipt.
    pub const TAKEN: u8 = 4;
}

/// A message taken on record together with its charge.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Its key.
    pub key: MessageKey,
    /// Whose it is.
    pub account: AccountId,
    /// When, in ms since the epoch.
    pub at_ms: u64,
    /// Until when it may be sent.
    pub expires_ms: u64,
    /// Price of all its segments: the hold.
    pub price: Money,
    /// Version of the tariff that set the price.
    pub tariff: u32,
    /// When the price is earned.
    pub charge_on: ChargeOn,
    /// Which receipts the customer wants.
    pub wants: Wants,
    /// Segments billed.
    pub segments: u8,
    /// Its billing line, see [`BillingLine`].
    pub line: u16,
    /// The message itself.
    pub message: Message,
}

/// The upstream took a message (submit_sm_resp with ESME_ROK).
#[derive(Debug, Clone)]
pub struct Sent {
    /// Position in the journal.
    pub pos: Pos,
    /// Which message.
    pub key: MessageKey,
    /// Who took it.
    pub upstream: UpstreamId,
    /// When, in ms since the epoch.
    pub at_ms: u64,
    /// The SMSC's id as it wrote it, at most 65 octets.
    pub smsc_id: Box<[u8]>,
    /// Which part of a message that was sent in parts.
    pub piece: Piece,
}

/// A message is over.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Position in the journal; also the place of its receipt in the account's outbox.
    pub pos: Pos,
    /// Which message.
    pub key: MessageKey,
    /// Whose it is.
    pub account: AccountId,
    /// How it ended.
    pub state: Final,
    /// The receipt's `err`, or the command_status that refused it (cut to 16 bits).
    pub err: u16,
    /// When, in ms since the epoch.
    pub at_ms: u64,
    /// What it cost in the end.
    pub charged: Money,
    /// See [`flags`].
    pub flags: u8,
}

/// A step on record that is neither acceptance by the upstream nor an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MarkKind {
    /// About to be written to an upstream socket (`unknown_outcome = "hold"` or `"fail"`).
    Sending = 1,
    /// Written, never answered, and held for a receipt or an operator.
    Held = 2,
    /// A provisional receipt state (ACCEPTD, UNKNOWN) arrived.
    Provisional = 3,
    /// Marked as being sent, but not written after all or refused for the moment.
    Requeued = 4,
    /// One part of a message sent in parts is over; the message is when all are.
    PartOver = 5,
    /// replace_sm: the accepted row holds the new text, price and times from here on.
    Replaced = 6,
    /// Not to be sent before `at_ms`; [`Mark::NEVER`]: not before a person has said so.
    Waits = 7,
}

impl MarkKind {
    /// From the stored number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<MarkKind> {
        match code {
            1 => Some(MarkKind::Sending),
            2 => Some(MarkKind::Held),
            3 => Some(MarkKind::Provisional),
            4 => Some(MarkKind::Requeued),
            5 => Some(MarkKind::PartOver),
            6 => Some(MarkKind::Replaced),
            7 => Some(MarkKind::Waits),
            _ => None,
        }
    }
}

/// See [`MarkKind`].
#[derive(Debug, Clone)]
pub struct Mark {
    /// Position in the journal.
    pub pos: Pos,
    /// Which message.
    pub key: MessageKey,
    /// What happened.
    pub kind: MarkKind,
    /// When, in ms since the epoch; for `Waits`, until when.
    pub at_ms: u64,
    /// At which upstream.
    pub upstream: UpstreamId,
    /// For `Provisional` and `PartOver`: [`Final::code`]; otherwise 0.
    pub state: u8,
    /// For `Provisional` and `PartOver`: the receipt's `err`.
    pub err: u16,
    /// See [`flags`].
    pub flags: u8,
    /// Which part of a message that was sent in parts.
    pub piece: Piece,
}

impl Mark {
    /// `at_ms` of a message that waits for a person.
    pub const NEVER: u64 = i64::MAX as u64;
}

/// One balanced posting: `amount` leaves `debit` and arrives at `credit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// When, in ms since the epoch.
    pub at_ms: u64,
    /// Whose wallet is touched.
    pub account: AccountId,
    /// Ledger account that gives: `wallet`, `held`, `revenue`, `tax`, `suspense`, `payout`, `adjustment`, `clearing:<provider>`.
    pub debit: String,
    /// Ledger account that receives.
    pub credit: String,
    /// Never negative.
    pub amount: Money,
    /// How many messages it sums up.
    pub count: u32,
    /// What for: `hold`, `charge`, `release:EXPIRED`, `refund:UNDELIV`, `topup`, `suspense`, `assign`, `reversal`, `payout` …
    pub reason: Cow<'static, str>,
    /// The provider's receipt, or the reference of a payout or an adjustment; empty for messages.
    pub reference: String,
    /// Billing line of the messages it sums up; 0 otherwise.
    pub line: u16,
}

impl Posting {
    /// Whether it sums up messages, so that it is made anew when the batch is closed again.
    #[must_use]
    pub fn of_messages(&self) -> bool {
        self.reference.is_empty()
    }
}

/// A receipt whose message is not known yet.
#[derive(Debug, Clone)]
pub struct Parked {
    /// Position in the journal.
    pub pos: Pos,
    /// Where it came from.
    pub upstream: UpstreamId,
    /// The id as the SMSC wrote it.
    pub smsc_id: Box<[u8]>,
    /// Source address of the receipt: the number the message went to.
    pub number: Box<[u8]>,
    /// [`Final::code`].
    pub state: u8,
    /// The receipt's `err`.
    pub err: u16,
    /// When it came, in ms since the epoch.
    pub at_ms: u64,
}

/// What waits in an account's stored outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OutboxKind {
    /// A delivery receipt; the payload is a stub with its outcome.
    Receipt = 0,
    /// A mobile-originated message; the payload is a message record.
    Inbound = 1,
    /// A part of one that waits for the others; the payload is a fragment and a message record.
    Part = 2,
}

impl OutboxKind {
    /// From the stored number.
    #[must_use]
    pub const fn from_code(code: u8) -> OutboxKind {
        match code {
            1 => OutboxKind::Inbound,
            2 => OutboxKind::Part,
            _ => OutboxKind::Receipt,
        }
    }
}

/// A receipt or inbound message that waits for a customer in the store.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Whose.
    pub account: AccountId,
    /// Its place in the account's order.
    pub pos: Pos,
    /// What it is.
    pub kind: OutboxKind,
    /// The message a receipt speaks of; 0 for inbound messages.
    pub key: MessageKey,
    /// When it came, in ms since the epoch.
    pub at_ms: u64,
    /// True once the customer has refused it for the last time: kept for the operator, no longer offered.
    pub parked: bool,
    /// See [`OutboxKind`].
    pub payload: Box<[u8]>,
}

/// Money from or to the world outside, under the provider's own number: a top-up, or with [`ADJUST`] as the provider a
/// correction by a person.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payment {
    /// The ledger entry it made, assigned by the store; 0 in a batch not yet committed.
    pub entry: u64,
    /// Whose; [`AccountId::NONE`] while nobody knows (suspense).
    pub account: AccountId,
    /// How much; negative only for adjustments.
    pub amount: Money,
    /// Who says so: `mpesa`, `bank`, `manual` …
    pub provider: String,
    /// The provider's receipt number, unique per provider.
    pub receipt: String,
    /// When it was booked, in ms since the epoch.
    pub at_ms: u64,
    /// What the payer wrote as the account (BillRefNumber).
    pub payer_ref: String,
    /// When the payer paid, as the provider says, in ms since the epoch; 0: not said.
    pub paid_ms: u64,
    /// What a person noted.
    pub note: String,
    /// When it was assigned from suspense, in ms since the epoch; 0: it was not.
    pub assigned_ms: u64,
    /// How much of it has been paid out again, or is on its way.
    pub paid_out: Money,
    /// How much of it the provider has taken back.
    pub reversed: Money,
}

/// Provider of corrections by a person.
pub const ADJUST: &str = "adjustment";

impl Payment {
    /// What can still be paid out or reversed.
    #[must_use]
    pub fn left(&self) -> Money {
        Money(
            self.amount
                .0
                .saturating_sub(self.paid_out.0)
                .saturating_sub(self.reversed.0)
                .max(0),
        )
    }
}

/// How far a payout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum PayoutState {
    /// Set aside; somebody has to pay it.
    #[default]
    Pending = 0,
    /// Paid, as the provider says.
    Paid = 1,
    /// Not paid: back on the wallet.
    Failed = 2,
    /// Nobody knows: it stays set aside until somebody finds out, and is never tried again by itself.
    Unknown = 3,
}

impl PayoutState {
    /// All words.
    pub const WORDS: &'static [&'static str] = &["pending", "paid", "failed", "unknown"];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.get(self as usize).copied().unwrap_or("pending")
    }

    /// From its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<PayoutState> {
        Self::WORDS
            .iter()
            .position(|w| *w == word)
            .map(|n| PayoutState::from_code(n as u8))
    }

    /// From the stored number.
    #[must_use]
    pub const fn from_code(code: u8) -> PayoutState {
        match code {
            1 => PayoutState::Paid,
            2 => PayoutState::Failed,
            3 => PayoutState::Unknown,
            _ => PayoutState::Pending,
        }
    }
}

/// Unused money of a top-up on its way back to the payer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payout {
    /// The operator's own number, unique.
    pub reference: String,
    /// Of which payment.
    pub provider: String,
    /// Of which payment.
    pub receipt: String,
    /// Whose.
    pub account: AccountId,
    /// How much.
    pub amount: Money,
    /// How far it is.
    pub state: PayoutState,
    /// When it was asked for, in ms since the epoch.
    pub at_ms: u64,
    /// Last change of its state, in ms since the epoch.
    pub settled_ms: u64,
}

/// What a statement names beside a charge. Interned: rows carry the number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct BillingLine {
    /// Name of the route.
    pub route: String,
    /// Class of the sender address; empty: none.
    pub class: String,
}

/// What stands behind a version stamped on messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TariffVersion {
    /// See [`crate::domain::tariff::Tariff::version_with`].
    pub version: u32,
    /// Name of the tariff.
    pub name: String,
    /// First seen, in ms since the epoch.
    pub at_ms: u64,
    /// Tax and refunds.
    pub terms: Terms,
}

/// Everything one commit writes.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Unique for ever; committing it twice changes nothing.
    pub id: BatchId,
    /// The owner goes on under this epoch from here: its sequence numbers are used up. The fence of the old epoch is void.
    pub next_epoch: Option<u32>,
    /// Messages taken on record.
    pub accepted: Vec<Accepted>,
    /// Taken by upstreams.
    pub sent: Vec<Sent>,
    /// Other steps.
    pub marks: Vec<Mark>,
    /// Ended.
    pub finished: Vec<Finished>,
    /// Messages whose row is replaced (replace_sm): key, expiry, price, segments, wanted receipts and message count.
    pub replaced: Vec<Accepted>,
    /// Money moved.
    pub postings: Vec<Posting>,
    /// Net change of stored balances, one entry per account.
    pub balances: Vec<(AccountId, Money)>,
    /// Payments as they are now; what moves money also has a posting.
    pub payments: Vec<Payment>,
    /// Payouts as they are now.
    pub payouts: Vec<Payout>,
    /// Wallets that are frozen, or no longer.
    pub frozen: Vec<(AccountId, bool)>,
    /// Prices that an account has of its own, whole; replaces those it had.
    pub prices: Vec<(AccountId, Vec<PriceRule>)>,
    /// Tariff versions seen for the first time.
    pub tariffs: Vec<TariffVersion>,
    /// Billing lines used for the first time.
    pub lines: Vec<(u16, BillingLine)>,
    /// Segments that accounts with a quota have had accepted: account, day, how many more.
    pub usage: Vec<(AccountId, u32, u64)>,
    /// Receipts to park.
    pub parked: Vec<Parked>,
    /// Parked receipts that found their message or are too old.
    pub unparked: Vec<Pos>,
    /// Rows for stored outboxes; a row already there is replaced.
    pub outbox_put: Vec<OutboxRow>,
    /// Rows delivered or too old.
    pub outbox_del: Vec<(AccountId, Pos)>,
    /// Delivered up to here.
    pub watermarks: Vec<(AccountId, Pos)>,
    /// Accounts created or changed.
    pub accounts: Vec<Account>,
    /// Senders, suppressed numbers and cases.
    pub rules: RuleRows,
    /// Upstreams named for the first time.
    pub upstreams: Vec<(UpstreamId, String)>,
}

impl Batch {
    /// Rows it will write.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.accepted.len()
            + self.sent.len()
            + self.marks.len()
            + self.finished.len()
            + self.replaced.len()
            + self.postings.len()
            + self.balances.len()
            + self.payments.len()
            + self.payouts.len()
            + self.frozen.len()
            + self.prices.len()
            + self.tariffs.len()
            + self.lines.len()
            + self.usage.len()
            + self.parked.len()
            + self.unparked.len()
            + self.outbox_put.len()
            + self.outbox_del.len()
            + self.watermarks.len()
            + self.accounts.len()
            + self.rules.rows()
            + self.upstreams.len()
            + usize::from(self.next_epoch.is_some())
    }

    /// Nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Empties it for the next use; buffers keep their memory.
    pub fn clear(&mut self) {
        self.accepted.clear();
        self.sent.clear();
        self.marks.clear();
        self.finished.clear();
        self.replaced.clear();
        self.postings.clear();
        self.balances.clear();
        self.payments.clear();
        self.payouts.clear();
        self.frozen.clear();
        self.prices.clear();
        self.tariffs.clear();
        self.lines.clear();
        self.usage.clear();
        self.parked.clear();
        self.unparked.clear();
        self.outbox_put.clear();
        self.outbox_del.clear();
        self.watermarks.clear();
        self.accounts.clear();
        self.rules.clear();
        self.upstreams.clear();
        self.next_epoch = None;
    }
}
