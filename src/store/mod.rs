//! The store boundary: what the gateway needs of durable storage, and nothing of how it is done.
//!
//! Hot-path writes go through [`Store`], one batch at a time, all or nothing. SQLite serves one machine today; another
//! engine can stand behind the same trait later. Admin reads use [`sqlite::Reader`], which never touches the writer.

mod batch;
pub mod memory;
mod rules;
pub mod sqlite;
mod subject;

pub use batch::{
    ADJUST, Accepted, Batch, BillingLine, Finished, Mark, MarkKind, OutboxKind, OutboxRow, Parked, Payment,
    Payout, PayoutState, Posting, Sent, TariffVersion, flags,
};

pub use rules::{Case, CaseState, RuleRow, RuleRows};
pub use subject::SubjectKey;

use crate::domain::account::Account;
use crate::domain::message::Message;
use crate::domain::tariff::PriceRule;
use crate::ids::{AccountId, BatchId, MessageKey, Pos, UpstreamId};
use crate::money::Money;

/// The right to write: a shard in one epoch. A newer epoch makes every older fence invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// The shard; 0 on a single node.
    pub shard: u16,
    /// Rises by one at every start.
    pub epoch: u32,
}

/// Why the store did not do it. The kind decides the reaction; texts are for people only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space (disk full, quota, file size limit). Nothing was written; try again when there is room.
    #[error("the store is full: {0}")]
    Full(String),
    /// Another epoch owns the shard: this process must stop writing for good.
    #[error("another process has taken the store over")]
    Fenced,
    /// Busy for the moment (a backup tool holds a lock); nothing was written, try again.
    #[error("the store is busy: {0}")]
    Retry(String),
    /// It may or may not have been written: ask [`Store::committed`].
    #[error("the outcome of a commit is unknown")]
    Unknown(BatchId),
    /// The store cannot be trusted any more (I/O error at fsync, damage): stop without closing it.
    #[error("the store has failed: {0}")]
    Fatal(String),
}

/// What [`Store::acquire`] hands over.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    /// The fence every commit must carry.
    pub fence: Fence,
    /// The first free journal position.
    pub next_pos: Pos,
    /// The previous owner stopped without saying so.
    pub unclean: bool,
}

/// One thing found at recovery. The order is: accounts, their prices, upstream names, tariff versions, billing lines, wallets,
/// usage, watermarks, then messages (carried ones first) with
/// their events in journal order, parked receipts, and last the outbox.
#[derive(Debug)]
pub enum Record<'a> {
    /// A customer account.
    Account(Box<Account>),
    /// An upstream that rows may name.
    Upstream(UpstreamId, &'a str),
    /// Prices that an account has of its own.
    Prices(AccountId, Vec<PriceRule>),
    /// What stands behind a version stamped on messages.
    Tariff(TariffVersion),
    /// A billing line and its number.
    Line(u16, BillingLine),
    /// The stored balance of an account, and whether it is frozen.
    Wallet(AccountId, Money, bool),
    /// Segments an account with a quota has had accepted on a day.
    Usage(AccountId, u32, u64),
    /// Everything of this account up to here has been delivered.
    Watermark(AccountId, Pos),
    /// A message on record; its text is not copied.
    Accepted(&'a Accepted),
    /// A message on record that an upstream took, and of which nothing follows: its receipt is awaited.
    Awaiting(&'a Accepted, &'a Sent),
    /// The upstream took it.
    Sent(&'a Sent),
    /// A step that changes no state for good.
    Mark(&'a Mark),
    /// It is over.
    Finished(&'a Finished),
    /// A receipt without a known message.
    Parked(Parked),
    /// The number of rows waiting in an account's stored outbox.
    Outbox(AccountId, u64),
    /// A part of an inbound message that waits for the others.
    Part(OutboxRow),
    /// A sender, a suppressed number or a case; they come before the messages.
    Rule(RuleRow),
}

/// How far background work came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing to do.
    Idle,
    /// A slice was done; there is more.
    More,
}

/// Durable storage for the hot path. Used by one thread; every call may block.
pub trait Store: Send {
    /// Takes the shard over: raises the epoch and marks the store in use.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn acquire(&mut self) -> Result<Owned, StoreError>;

    /// Writes a batch, all or nothing. When it returns `Ok` under full durability the batch survives a power cut.
    /// Committing a batch id again changes nothing and is `Ok`.
    ///
    /// # Errors
    /// Any [`StoreError`]; except for `Unknown` nothing was written.
    fn commit(&mut self, fence: Fence, batch: &Batch) -> Result<(), StoreError>;

    /// Whether a batch of this epoch is on record.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn committed(&mut self, id: BatchId) -> Result<bool, StoreError>;

    /// Reads back everything that is open. Cost grows with what is open and with the unsealed segments, not with history.
    ///
    /// # Errors
    /// `Fatal` if a row cannot be read.
    fn recover(&mut self, out: &mut dyn FnMut(Record<'_>)) -> Result<(), StoreError>;

    /// Reads rows of open messages back, in the order asked; a key that is gone is left out.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn open_rows(&mut self, keys: &[MessageKey], out: &mut dyn FnMut(Accepted)) -> Result<(), StoreError>;

    /// Reads messages back for dispatch, in the order asked; a key that is gone is left out.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn load(
        &mut self,
        keys: &[MessageKey],
        out: &mut dyn FnMut(MessageKey, Message),
    ) -> Result<(), StoreError> {
        self.open_rows(keys, &mut |row| out(row.key, row.message))
    }

    /// Reads the oldest rows of an account's stored outbox after `after`, at most `max`.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn load_outbox(
        &mut self,
        account: AccountId,
        after: Pos,
        max: usize,
    ) -> Result<Vec<OutboxRow>, StoreError>;

    /// Deletes rows older than `before_ms` from every stored outbox, parked and unclaimed ones too. A bounded slice a call; over
    /// many calls it goes round. Whose rows went; `true`: a parked one.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn expire_outbox(&mut self, before_ms: u64) -> Result<Vec<(AccountId, bool)>, StoreError>;

    /// A payment already on record under this provider and receipt.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn find_payment(&mut self, provider: &str, receipt: &str) -> Result<Option<Payment>, StoreError>;

    /// A payout already on record under this reference.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn find_payout(&mut self, reference: &str) -> Result<Option<Payout>, StoreError>;

    /// Moves the log into the main file when it has grown enough. Called after acknowledgements have gone out.
    ///
    /// # Errors
    /// `Fatal` when the store cannot be trusted any more.
    fn checkpoint(&mut self) -> Result<(), StoreError>;

    /// Octets in the log that are not in the main file yet.
    fn log_bytes(&self) -> u64;

    /// One bounded slice of background work: sealing full segments, retention.
    /// `spilled` says that no receipt waiting in memory alone has a position at or below the given one.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn maintain(&mut self, fence: Fence, now_ms: u64) -> Result<Progress, StoreError>;

    /// Highest journal position of the segment that waits to be sealed, if one does: receipts up to it must be put in the
    /// stored outbox before [`Store::maintain`] may drop it.
    fn sealing(&self) -> Option<Pos>;

    /// How many full segments wait to be sealed.
    fn backlog(&self) -> usize;

    /// Bytes free where the store lives; `None` if the system cannot tell.
    fn free_bytes(&self) -> Option<u64>;

    /// Says that this owner stops in good order.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn release(&mut self, fence: Fence) -> Result<(), StoreError>;
}
