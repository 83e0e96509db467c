//! The store of the simulation: a `MemoryStore` that fails as disks do. What survives a crash is what a commit has written:
//! a batch is there whole or not at all, as with a log whose torn end is cut off.
//!
//! `Sabotage` makes it lie, to show that the auditor notices.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smsconnect::ids::{AccountId, BatchId, MessageKey, Pos};
use smsconnect::store::memory::{Disk, MemoryStore};
use smsconnect::store::{
    Accepted, Batch, Fence, OutboxRow, Owned, Payment, Payout, Progress, Record, Store, StoreError,
};

thread_local! {
    static MONOTONIC: Cell<u64> = const { Cell::new(0) };
    static OFFSET: Cell<i64> = const { Cell::new(0) };
}

/// The virtual clock of this thread's world. The process under test sees it with an offset: that of the wall clock at its start,
/// and what it has followed since.
pub mod clock {
    use super::{MONOTONIC, OFFSET};

    pub fn set(ms: u64) {
        MONOTONIC.set(ms);
    }

    pub fn mono() -> u64 {
        MONOTONIC.get()
    }

    pub fn offset() -> i64 {
        OFFSET.get()
    }

    pub fn set_offset(ms: i64) {
        OFFSET.set(ms);
    }

    /// What the process takes the time to be.
    pub fn now() -> u64 {
        MONOTONIC.get().saturating_add_signed(OFFSET.get())
    }

    pub fn now_us() -> u64 {
        MONOTONIC.get() * 1_000
    }
}

/// What happens to a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Full,
    Busy,
    /// The answer is lost; the batch is there.
    UnknownWritten,
    /// The answer is lost, and so is the batch.
    UnknownLost,
    /// The process dies in it: before the batch was whole on disk, or after.
    DiesBefore,
    DiesAfter,
    /// The disk fails for good: the process has to stop.
    Broken,
}

/// How a store deceives its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sabotage {
    #[default]
    None,
    /// Acknowledges a batch with submits and forgets them.
    Forgets,
    /// Adds the balances of a batch twice.
    CountsTwice,
    /// Acknowledges first and writes with the next commit.
    Postpones,
    /// Takes commits from whoever asks.
    Unfenced,
    /// Loses what goes into the stored outbox and the receipts' marks.
    LosesReceipts,
    /// Charges where nothing is earned.
    KeepsHolds,
    /// Takes more than there is.
    Overdraws,
}

/// What all owners of one disk share.
#[derive(Default)]
pub struct Shared {
    pub faults: VecDeque<Fault>,
    /// So many reads find the store locked.
    pub busy_reads: u32,
    /// Commits fail until then: no room.
    pub full_until: u64,
    pub sabotage: Sabotage,
    /// Has done its harm.
    pub harmed: bool,
    postponed: Vec<(Fence, Batch)>,
    /// Faults that came, by kind.
    pub counts: std::collections::BTreeMap<&'static str, u64>,
    /// The process that owns it has died of it.
    pub died: bool,
}

#[derive(Clone, Default)]
pub struct SimStore {
    inner: MemoryStore,
    shared: Arc<Mutex<Shared>>,
}

impl SimStore {
    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn disk<R>(&self, work: impl FnOnce(&mut Disk) -> R) -> R {
        self.inner.with_disk(work)
    }

    /// Batches on disk.
    pub fn batches(&self) -> usize {
        self.disk(|d| d.batches().len())
    }

    fn fault(&self) -> Option<Fault> {
        let mut s = self.shared();
        let fault = if clock::mono() < s.full_until {
            // The engine's thread waits between its tries.
            clock::set(clock::mono() + 100);
            Some(Fault::Full)
        } else {
            s.faults.pop_front()
        };
        if let Some(f) = fault {
            let name = match f {
                Fault::Full => "disk full",
                Fault::Busy => "disk busy",
                Fault::UnknownWritten | Fault::UnknownLost => "outcome unknown",
                Fault::DiesBefore | Fault::DiesAfter => "died in a commit",
                Fault::Broken => "disk broken",
            };
            *s.counts.entry(name).or_default() += 1;
            s.died |= matches!(f, Fault::DiesBefore | Fault::DiesAfter | Fault::Broken);
        }
        fault
    }

    fn busy(&self) -> Result<(), StoreError> {
        let mut s = self.shared();
        if s.busy_reads == 0 {
            return Ok(());
        }
        s.busy_reads -= 1;
        *s.counts.entry("read refused").or_default() += 1;
        Err(StoreError::Retry("locked".into()))
    }

    fn write(&mut self, fence: Fence, batch: &Batch) -> Result<(), StoreError> {
        let sabotage = self.shared().sabotage;
        let mut batch = batch.clone();
        let harmed = self.shared().harmed;
        match sabotage {
            Sabotage::Forgets if !batch.accepted.is_empty() && !harmed => {
                self.shared().harmed = true;
                batch.accepted.clear();
            }
            Sabotage::CountsTwice if !batch.balances.is_empty() && batch.payments.is_empty() && !harmed => {
                self.shared().harmed = true;
                batch.balances.extend(batch.balances.clone());
            }
            Sabotage::KeepsHolds if batch.finished.iter().any(|f| f.charged.0 == 0) && !harmed => {
                self.shared().harmed = true;
                batch.finished.iter_mut().for_each(|f| f.charged.0 += 1);
            }
            Sabotage::LosesReceipts if batch.finished.iter().any(|f| f.flags & 1 != 0) => {
                self.shared().harmed = true;
                batch.finished.iter_mut().for_each(|f| f.flags = 0);
                batch.outbox_put.clear();
                let last = batch.finished.iter().map(|f| f.pos).max().unwrap_or_default();
                let accounts: Vec<AccountId> = batch.finished.iter().map(|f| f.account).collect();
                batch.watermarks.extend(accounts.into_iter().map(|a| (a, last)));
            }
            Sabotage::Overdraws if batch.payments.is_empty() && !batch.balances.is_empty() && !harmed => {
                self.shared().harmed = true;
                batch
                    .balances
                    .iter_mut()
                    .for_each(|(_, delta)| delta.0 -= 1 << 40);
            }
            Sabotage::Postpones => {
                let held = std::mem::replace(&mut self.shared().postponed, vec![(fence, batch)]);
                for (fence, batch) in held {
                    self.inner.commit(fence, &batch)?;
                }
                return Ok(());
            }
            Sabotage::Unfenced => {
                // The number must be one that the disk has not seen.
                let mut fence = fence;
                if let Err(StoreError::Fenced) = self.inner.commit(fence, &batch) {
                    self.shared().harmed = true;
                    fence.epoch = self.disk(|d| d.epoch());
                    let mut newer = batch.clone();
                    newer.id.number = 1 << 40;
                    return self.inner.commit(fence, &newer);
                }
                return Ok(());
            }
            _ => {}
        }
        self.inner.commit(fence, &batch)
    }
}

impl Store for SimStore {
    fn acquire(&mut self) -> Result<Owned, StoreError> {
        self.inner.acquire()
    }

    fn commit(&mut self, fence: Fence, batch: &Batch) -> Result<(), StoreError> {
        match self.fault() {
            None => self.write(fence, batch),
            Some(Fault::Full) => Err(StoreError::Full("no room".into())),
            Some(Fault::Busy) => Err(StoreError::Retry("locked".into())),
            Some(Fault::UnknownWritten) => {
                self.write(fence, batch)?;
                Err(StoreError::Unknown(batch.id))
            }
            Some(Fault::UnknownLost) => Err(StoreError::Unknown(batch.id)),
            Some(Fault::DiesAfter) => {
                self.write(fence, batch)?;
                Err(StoreError::Fatal("killed".into()))
            }
            Some(Fault::DiesBefore | Fault::Broken) => Err(StoreError::Fatal("killed".into())),
        }
    }

    fn committed(&mut self, id: BatchId) -> Result<bool, StoreError> {
        self.inner.committed(id)
    }

    fn recover(&mut self, out: &mut dyn FnMut(Record<'_>)) -> Result<(), StoreError> {
        self.inner.recover(out)
    }

    fn open_rows(&mut self, keys: &[MessageKey], out: &mut dyn FnMut(Accepted)) -> Result<(), StoreError> {
        self.busy()?;
        self.inner.open_rows(keys, out)
    }

    fn load_outbox(
        &mut self,
        account: AccountId,
        after: Pos,
        max: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        self.busy()?;
        self.inner.load_outbox(account, after, max)
    }

    fn expire_outbox(&mut self, before_ms: u64) -> Result<Vec<(AccountId, bool)>, StoreError> {
        self.busy()?;
        self.inner.expire_outbox(before_ms)
    }

    fn find_payment(&mut self, provider: &str, receipt: &str) -> Result<Option<Payment>, StoreError> {
        self.inner.find_payment(provider, receipt)
    }

    fn find_payout(&mut self, reference: &str) -> Result<Option<Payout>, StoreError> {
        self.inner.find_payout(reference)
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.inner.checkpoint()
    }

    fn log_bytes(&self) -> u64 {
        self.inner.log_bytes()
    }

    fn maintain(&mut self, fence: Fence, now_ms: u64) -> Result<Progress, StoreError> {
        self.inner.maintain(fence, now_ms)
    }

    fn sealing(&self) -> Option<Pos> {
        self.inner.sealing()
    }

    fn backlog(&self) -> usize {
        self.inner.backlog()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.inner.free_bytes()
    }

    fn release(&mut self, fence: Fence) -> Result<(), StoreError> {
        self.inner.release(fence)
    }
}
