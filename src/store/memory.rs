//! A store in memory with the semantics of the real one, for tests: batches are kept whole, recovery replays them, and it
//! can be told to fail.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Accepted, AccountId, Batch, BatchId, Fence, MessageKey, Money, OutboxRow, Owned, Payment, Payout, Pos,
    Progress, Record, Store, StoreError,
};

/// What survives the process: shared by the stores that are opened on it one after the other.
#[derive(Debug, Default)]
pub struct Disk {
    epoch: u32,
    batch: u64,
    next_pos: u64,
    running: bool,
    batches: Vec<Batch>,
    balances: BTreeMap<AccountId, i64>,
    payments: HashMap<(String, String), Payment>,
    payouts: HashMap<String, Payout>,
    outbox: BTreeMap<(AccountId, Pos), OutboxRow>,
    entries: u64,
    rules: super::rules::RuleTables,
    /// Errors for the next commits, in order.
    pub failures: Vec<StoreError>,
}

/// See the module's description.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryStore {
    /// A store on an existing disk, as after a restart.
    #[must_use]
    pub fn reopen(&self) -> MemoryStore {
        self.clone()
    }

    /// Works on the disk beneath.
    pub fn with_disk<R>(&self, work: impl FnOnce(&mut Disk) -> R) -> R {
        work(&mut self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Disk {
    /// The stored balance of an account.
    #[must_use]
    pub fn balance(&self, account: AccountId) -> Money {
        Money(self.balances.get(&account).copied().unwrap_or(0))
    }

    /// The epoch that may write.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Every batch committed, in order.
    #[must_use]
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }
}

impl Store for MemoryStore {
    fn acquire(&mut self) -> Result<Owned, StoreError> {
        self.with_disk(|d| {
            d.epoch += 1;
            d.batch = 0;
            let unclean = std::mem::replace(&mut d.running, true);
            Ok(Owned {
                fence: Fence {
                    shard: 0,
                    epoch: d.epoch,
                },
                next_pos: Pos(d.next_pos.max(1)),
                unclean,
            })
        })
    }

    fn commit(&mut self, fence: Fence, batch: &Batch) -> Result<(), StoreError> {
        self.with_disk(|d| {
            if !d.failures.is_empty() {
                return Err(d.failures.remove(0));
            }
            if fence.epoch != d.epoch {
                return Err(StoreError::Fenced);
            }
            if batch.id.number <= d.batch {
                return Ok(());
            }
            d.batch = batch.id.number;
            d.apply(batch);
            if let Some(next) = batch.next_epoch {
                d.epoch = next;
                d.batch = 0;
            }
            Ok(())
        })
    }

    fn committed(&mut self, id: BatchId) -> Result<bool, StoreError> {
        Ok(self.with_disk(|d| d.epoch > id.epoch || (d.epoch == id.epoch && d.batch >= id.number)))
    }

    fn recover(&mut self, out: &mut dyn FnMut(Record<'_>)) -> Result<(), StoreError> {
        self.with_disk(|d| d.replay(out));
        Ok(())
    }

    fn open_rows(&mut self, keys: &[MessageKey], out: &mut dyn FnMut(Accepted)) -> Result<(), StoreError> {
        self.with_disk(|d| {
            for key in keys {
                if let Some(a) = d.batches.iter().flat_map(|b| &b.accepted).find(|a| a.key == *key) {
                    out(a.clone());
                }
            }
        });
        Ok(())
    }

    fn load_outbox(
        &mut self,
        account: AccountId,
        after: Pos,
        max: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(self.with_disk(|d| {
            let rows = d
                .outbox
                .range((account, Pos(after.0 + 1))..=(account, Pos(u64::MAX)));
            rows.map(|(_, row)| row)
                .filter(|r| !r.parked)
                .take(max)
                .cloned()
                .collect()
        }))
    }

    fn expire_outbox(&mut self, before_ms: u64) -> Result<Vec<(AccountId, bool)>, StoreError> {
        Ok(self.with_disk(|d| {
            let old = d.outbox.extract_if(.., |_, row| row.at_ms < before_ms);
            old.map(|((account, _), row)| (account, row.parked)).collect()
        }))
    }

    fn find_payout(&mut self, reference: &str) -> Result<Option<Payout>, StoreError> {
        Ok(self.with_disk(|d| d.payouts.get(reference).cloned()))
    }

    fn find_payment(&mut self, provider: &str, receipt: &str) -> Result<Option<Payment>, StoreError> {
        Ok(self.with_disk(|d| {
            d.payments
                .get(&(provider.to_string(), receipt.to_string()))
                .cloned()
        }))
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn log_bytes(&self) -> u64 {
        0
    }

    fn maintain(&mut self, _fence: Fence, _now_ms: u64) -> Result<Progress, StoreError> {
        Ok(Progress::Idle)
    }

    fn sealing(&self) -> Option<Pos> {
        None
    }

    fn backlog(&self) -> usize {
        0
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }

    fn release(&mut self, _fence: Fence) -> Result<(), StoreError> {
        self.with_disk(|d| d.running = false);
        Ok(())
    }
}

impl Disk {
    fn apply(&mut self, batch: &Batch) {
        for (account, delta) in &batch.balances {
            *self.balances.entry(*account).or_default() += delta.0;
        }
        self.entries += batch.postings.len() as u64;
        for p in &batch.payments {
            let entry = if p.entry == 0 { self.entries } else { p.entry };
            self.payments.insert(
                (p.provider.clone(), p.receipt.clone()),
                Payment { entry, ..p.clone() },
            );
        }
        for p in &batch.payouts {
            self.payouts.insert(p.reference.clone(), p.clone());
        }
        for row in &batch.outbox_put {
            self.outbox.insert((row.account, row.pos), row.clone());
        }
        self.rules.apply(&batch.rules);
        for key in &batch.outbox_del {
            self.outbox.remove(key);
        }
        let last = |p: Option<Pos>| p.map_or(0, |p| p.0);
        self.next_pos = [
            self.next_pos,
            last(batch.sent.last().map(|e| e.pos)) + 1,
            last(batch.finished.last().map(|e| e.pos)) + 1,
            last(batch.marks.last().map(|e| e.pos)) + 1,
            last(batch.parked.last().map(|e| e.pos)) + 1,
            last(batch.outbox_put.iter().map(|e| e.pos).max()) + 1,
        ]
        .into_iter()
        .max()
        .unwrap_or(1);
        for a in &batch.replaced {
            for old in self.batches.iter_mut().flat_map(|b| &mut b.accepted) {
                if old.key == a.key {
                    *old = a.clone();
                }
            }
        }
        self.batches.push(batch.clone());
    }

    fn replay(&self, out: &mut dyn FnMut(Record<'_>)) {
        let mut accounts = BTreeMap::new();
        for account in self.batches.iter().flat_map(|b| &b.accounts) {
            accounts.insert(account.id, account.clone());
        }
        accounts
            .into_values()
            .for_each(|a| out(Record::Account(Box::new(a))));
        for (id, name) in self.batches.iter().flat_map(|b| &b.upstreams) {
            out(Record::Upstream(*id, name));
        }
        self.rules.replay(out);
        for row in self.outbox.values() {
            if row.account == AccountId::NONE && row.kind == super::OutboxKind::Inbound {
                out(Record::Rule(super::RuleRow::Unclaimed(row.pos)));
            }
        }
        let prices: BTreeMap<AccountId, _> = self.batches.iter().flat_map(|b| b.prices.clone()).collect();
        prices
            .into_iter()
            .for_each(|(id, rules)| out(Record::Prices(id, rules)));
        for tariff in self.batches.iter().flat_map(|b| &b.tariffs) {
            out(Record::Tariff(tariff.clone()));
        }
        for (id, line) in self.batches.iter().flat_map(|b| &b.lines) {
            out(Record::Line(*id, line.clone()));
        }
        let frozen: BTreeMap<AccountId, bool> =
            self.batches.iter().flat_map(|b| &b.frozen).copied().collect();
        for (account, balance) in &self.balances {
            let frozen = frozen.get(account).copied().unwrap_or(false);
            out(Record::Wallet(*account, Money(*balance), frozen));
        }
        let mut usage: BTreeMap<(AccountId, u32), u64> = BTreeMap::new();
        for (account, day, n) in self.batches.iter().flat_map(|b| &b.usage) {
            *usage.entry((*account, *day)).or_default() += n;
        }
        usage
            .into_iter()
            .for_each(|((account, day), n)| out(Record::Usage(account, day, n)));
        let marks: BTreeMap<AccountId, Pos> =
            self.batches.iter().flat_map(|b| &b.watermarks).copied().collect();
        marks
            .into_iter()
            .for_each(|(account, pos)| out(Record::Watermark(account, pos)));
        self.batches
            .iter()
            .flat_map(|b| &b.accepted)
            .for_each(|a| out(Record::Accepted(a)));
        for b in &self.batches {
            let mut marks = b.marks.iter().peekable();
            for e in &b.sent {
                while let Some(mark) = marks.next_if(|m| m.pos < e.pos) {
                    out(Record::Mark(mark));
                }
                out(Record::Sent(e));
            }
            marks.for_each(|e| out(Record::Mark(e)));
        }
        self.batches
            .iter()
            .flat_map(|b| &b.finished)
            .for_each(|e| out(Record::Finished(e)));
        let gone: std::collections::HashSet<Pos> =
            self.batches.iter().flat_map(|b| &b.unparked).copied().collect();
        for p in self
            .batches
            .iter()
            .flat_map(|b| &b.parked)
            .filter(|p| !gone.contains(&p.pos))
        {
            out(Record::Parked(p.clone()));
        }
        let mut counts: BTreeMap<AccountId, u64> = BTreeMap::new();
        for row in self.outbox.values().filter(|r| !r.parked) {
            *counts.entry(row.account).or_default() += 1;
        }
        counts
            .into_iter()
            .for_each(|(account, n)| out(Record::Outbox(account, n)));
        for row in self.outbox.values().filter(|r| r.kind == super::OutboxKind::Part) {
            out(Record::Part(row.clone()));
        }
    }
}
