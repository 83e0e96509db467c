//! Accounts as the running gateway holds them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::ingress::lock;
use super::outbox::Outbox;
use crate::domain::account::{Account, AccountState as Standing};
use crate::domain::limit::RateLimit;
use crate::domain::quota::Quota;
use crate::domain::tariff::{PriceList, PriceRule};
use crate::domain::wallet::Wallet;
use crate::ids::AccountId;
use crate::money::Money;

/// An account with its wallet, rate limit and outbox. One per account for the life of the process.
#[derive(Debug)]
pub struct AccountState {
    /// Its id.
    pub id: AccountId,
    spec: ArcSwap<Account>,
    wallet: Mutex<Wallet>,
    limit: ArcSwapOption<RateLimit>,
    prices: ArcSwapOption<PriceList>,
    price_rules: ArcSwap<Vec<PriceRule>>,
    quota: Mutex<Quota>,
    /// It has been reported as low on money, and has not recovered since.
    pub(super) low: AtomicBool,
    /// Receipts and inbound messages waiting for the customer.
    pub outbox: Outbox,
    binds: AtomicU32,
    /// Submits accepted since the start.
    pub accepted: AtomicU64,
}

impl AccountState {
    /// An account with this stored balance.
    #[must_use]
    pub fn new(spec: Account, balance: Money) -> AccountState {
        AccountState {
            id: spec.id,
            wallet: Mutex::new(Wallet::new(balance, spec.credit_limit)),
            limit: ArcSwapOption::from(limit_of(&spec)),
            prices: ArcSwapOption::empty(),
            price_rules: ArcSwap::default(),
            quota: Mutex::default(),
            low: AtomicBool::new(false),
            outbox: Outbox::new(spec.id),
            spec: ArcSwap::from_pointee(spec),
            binds: AtomicU32::new(0),
            accepted: AtomicU64::new(0),
        }
    }

    /// The account as stored.
    #[must_use]
    pub fn spec(&self) -> Arc<Account> {
        self.spec.load_full()
    }

    /// Whether it may bind and submit.
    #[must_use]
    pub fn active(&self) -> bool {
        self.spec.load().state == Standing::Active
    }

    /// Replaces the stored fields; wallet and outbox stay.
    pub fn replace(&self, spec: Account) {
        self.with_wallet(|w| w.set_credit_limit(spec.credit_limit));
        if spec.tps != self.spec.load().tps {
            self.limit.store(limit_of(&spec));
        }
        self.spec.store(Arc::new(spec));
    }

    /// Works on the wallet; the lock is held only for `work`.
    pub fn with_wallet<R>(&self, work: impl FnOnce(&mut Wallet) -> R) -> R {
        work(&mut lock(&self.wallet))
    }

    /// Prices of its own, if it has any.
    #[must_use]
    pub fn prices(&self) -> Option<Arc<PriceList>> {
        self.prices.load_full()
    }

    /// The rules behind them.
    #[must_use]
    pub fn price_rules(&self) -> Arc<Vec<PriceRule>> {
        self.price_rules.load_full()
    }

    /// Puts prices in force.
    pub(super) fn set_prices(&self, rules: Vec<PriceRule>, prices: PriceList) {
        self.price_rules.store(Arc::new(rules));
        self.prices.store((!prices.is_empty()).then(|| Arc::new(prices)));
    }

    /// Works on the counted segments; the lock is held only for `work`.
    pub fn with_quota<R>(&self, work: impl FnOnce(&mut Quota) -> R) -> R {
        work(&mut lock(&self.quota))
    }

    /// Whether the rate limit lets `segments` through now.
    #[must_use]
    pub fn within_rate(&self, segments: u8, now_ms: u64) -> bool {
        self.limit
            .load()
            .as_ref()
            .is_none_or(|l| l.allows(segments, now_ms))
    }

    /// Takes a bind slot unless all `max_binds` are taken.
    #[must_use]
    pub fn take_bind(&self) -> bool {
        let max = match self.spec.load().max_binds {
            0 => u32::MAX,
            n => n,
        };
        self.binds
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < max).then_some(n + 1)
            })
            .is_ok()
    }

    /// Gives a bind slot back.
    pub fn drop_bind(&self) {
        self.binds.fetch_sub(1, Ordering::AcqRel);
    }

    /// Binds at the moment.
    #[must_use]
    pub fn binds(&self) -> u32 {
        self.binds.load(Ordering::Relaxed)
    }
}

fn limit_of(spec: &Account) -> Option<Arc<RateLimit>> {
    NonZeroU32::new(spec.tps).map(|tps| Arc::new(RateLimit::per_second(tps)))
}

/// All accounts, by id, system_id and name: an immutable value, swapped whole.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    by_id: HashMap<AccountId, Arc<AccountState>>,
    by_system_id: HashMap<String, AccountId>,
    by_name: HashMap<String, AccountId>,
}

impl Accounts {
    /// By id.
    #[must_use]
    pub fn get(&self, id: AccountId) -> Option<&Arc<AccountState>> {
        self.by_id.get(&id)
    }

    /// By the system_id a client binds with.
    #[must_use]
    pub fn by_system_id(&self, system_id: &[u8]) -> Option<&Arc<AccountState>> {
        self.get(*self.by_system_id.get(std::str::from_utf8(system_id).ok()?)?)
    }

    /// By name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<AccountState>> {
        self.get(*self.by_name.get(name)?)
    }

    /// The account that a payer means: its name or system_id, whatever the case and the blanks around it.
    #[must_use]
    pub fn by_payer_ref(&self, reference: &str) -> Option<&Arc<AccountState>> {
        let same = |a: &str| a.eq_ignore_ascii_case(reference.trim());
        self.iter().find(|a| {
            let spec = a.spec();
            same(&spec.name) || same(&spec.system_id)
        })
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<AccountState>> {
        self.by_id.values()
    }

    /// Adds an account.
    pub fn insert(&mut self, account: Arc<AccountState>) {
        let spec = account.spec();
        self.by_system_id.insert(spec.system_id.clone(), account.id);
        self.by_name.insert(spec.name.clone(), account.id);
        self.by_id.insert(account.id, account);
    }
}
