//! Rebuilding memory from the journal at start: the same `Book` functions as live traffic, with the money already settled.

use std::collections::HashMap;
use std::sync::Arc;

use super::Engine;
use super::book::{PartState, Phase};
use super::settle::counts;
use crate::domain::outcome::{ChargeOn, Final};
use crate::domain::quota::{Period, Quota};
use crate::domain::tariff::{PriceList, PriceRule};
use crate::flow::account::{AccountState, Accounts};
use crate::flow::outbox::{OutItem, Payload};
use crate::ids::{AccountId, MessageKey, Pos, UpstreamId};
use crate::kill;
use crate::money::Money;
use crate::store::{Finished, Record, Store, StoreError, flags};

#[derive(Default)]
struct Found {
    accounts: Vec<crate::domain::account::Account>,
    balances: HashMap<AccountId, (Money, bool)>,
    prices: HashMap<AccountId, Vec<PriceRule>>,
    usage: Vec<(AccountId, u32, u64)>,
    marks: HashMap<AccountId, Pos>,
    held: HashMap<AccountId, i64>,
    undelivered: Vec<(AccountId, OutItem)>,
    stored: Vec<(AccountId, u64)>,
    parts: Vec<crate::store::OutboxRow>,
    parked: Vec<crate::store::Parked>,
    upstreams: HashMap<String, UpstreamId>,
    rules: Vec<crate::store::RuleRow>,
    /// Messages that a cap of their class counts, as they were accepted.
    capped: Vec<(AccountId, u16, u64, Box<[u8]>)>,
}

impl<S: Store> Engine<S> {
    pub(super) fn recover(&mut self) -> Result<(), StoreError> {
        let mut found = Found::default();
        let caps = self.gateway.policy.load().rules.classes.iter().any(|c| c.cap > 0);
        let book = &mut self.book;
        let lines = &mut self.lines;
        let hot_max = self.gateway.limits.open_hot_max;
        self.store.recover(&mut |record| match record {
            Record::Account(account) => {
                kill::point("recover.accounts");
                found.accounts.push(*account);
            }
            Record::Upstream(id, name) => {
                found.upstreams.insert(name.to_string(), id);
            }
            Record::Prices(account, rules) => {
                found.prices.insert(account, rules);
            }
            Record::Tariff(tariff) => book.set_terms(tariff.version, tariff.terms),
            Record::Line(number, line) => {
                lines.insert(line, number);
            }
            Record::Wallet(account, balance, frozen) => {
                found.balances.insert(account, (balance, frozen));
            }
            Record::Usage(account, day, segments) => found.usage.push((account, day, segments)),
            Record::Watermark(account, pos) => {
                found.marks.insert(account, pos);
            }
            Record::Accepted(a) => {
                kill::point("recover.messages");
                if book.get(a.key).is_none() {
                    book.accepted(a, UpstreamId::NONE);
                    if caps {
                        let dest = a.message.parts().dest.into();
                        found.capped.push((a.account, a.line, a.at_ms, dest));
                    }
                    if a.charge_on != ChargeOn::Accepted {
                        *found.held.entry(a.account).or_default() += a.price.0;
                    }
                }
            }
            Record::Awaiting(a, e) => {
                kill::point("recover.messages");
                book.accepted(a, UpstreamId::NONE);
                if caps {
                    let dest = a.message.parts().dest.into();
                    found.capped.push((a.account, a.line, a.at_ms, dest));
                }
                let effect = book.sent(e);
                let held = match a.charge_on {
                    ChargeOn::Accepted => 0,
                    _ => a.price.0 - effect.unhold.0,
                };
                *found.held.entry(a.account).or_default() += held;
                if book.hot() > hot_max
                    && let Some(entry) = book.at_rest(a.key)
                {
                    book.rest(a.key, entry);
                }
            }
            Record::Sent(e) => {
                let account = book.get(e.key).map(|o| o.account);
                let effect = book.sent(e);
                found.unhold(account, effect.unhold);
            }
            Record::Mark(e) => {
                book.mark(e);
                if let Some(o) = book.get(e.key)
                    && let Some(state) = Final::from_code(e.state).filter(|_| e.flags & flags::WANTED != 0)
                {
                    let end = Finished {
                        pos: e.pos,
                        key: e.key,
                        account: o.account,
                        state,
                        err: e.err,
                        at_ms: e.at_ms,
                        charged: Money::ZERO,
                        flags: e.flags,
                    };
                    let counts = (1, u8::from(state == Final::Delivered));
                    found.receipt(&end, o, counts);
                }
            }
            Record::Finished(e) => {
                if let Some((open, effect)) = book.finished(e) {
                    found.unhold(Some(open.account), effect.unhold);
                    found.receipt(e, &open, counts(&open, e.state));
                }
            }
            Record::Parked(row) => found.parked.push(row),
            Record::Outbox(account, rows) => found.stored.push((account, rows)),
            Record::Part(row) => found.parts.push(row),
            Record::Rule(row) => found.rules.push(row),
        })?;
        kill::point("recover.install");
        self.install_rules(std::mem::take(&mut found.rules))?;
        self.count_again(std::mem::take(&mut found.capped));
        self.install(found)
    }

    fn install(&mut self, found: Found) -> Result<(), StoreError> {
        let mut accounts = Accounts::default();
        let policy = self.gateway.policy.load_full();
        let period = Period::of((self.options.now_ms)(), policy.day_offset_min);
        for mut spec in found.accounts {
            let id = spec.id;
            self.next_account = self.next_account.max(id.0 + 1);
            if spec.currency.is_empty()
                && let Some(tariff) = policy.tariff(&spec.tariff)
            {
                // Of a release that did not fix it.
                spec.currency.clone_from(&tariff.currency);
                self.batch.accounts.push(spec.clone());
            }
            let (balance, frozen) = found.balances.get(&id).copied().unwrap_or_default();
            let account = AccountState::new(spec, balance);
            account.with_wallet(|w| {
                w.rehold(Money(found.held.get(&id).copied().unwrap_or(0)));
                w.set_frozen(frozen);
            });
            if let Some(rules) = found.prices.get(&id)
                && let Ok(list) = PriceList::new(rules)
            {
                account.set_prices(rules.clone(), list);
            }
            let used = |days: std::ops::RangeInclusive<u32>| -> u64 {
                let of = found
                    .usage
                    .iter()
                    .filter(|(a, day, _)| *a == id && days.contains(day));
                of.map(|(.., n)| n).sum()
            };
            let (today, month) = (
                used(period.day..=period.day),
                used(Period::first_day(period.month)..=period.day),
            );
            account.with_quota(|q| *q = Quota::new(period, today, month));
            account
                .outbox
                .restore(found.marks.get(&id).copied().unwrap_or_default());
            accounts.insert(Arc::new(account));
        }
        for (id, rows) in found.stored {
            if let Some(account) = accounts.get(id) {
                account.outbox.spilled(rows);
            }
        }
        let mut items = found.undelivered;
        items.sort_by_key(|(account, item)| (*account, item.pos));
        for (id, item) in items {
            if let Some(account) = accounts.get(id).filter(|a| item.pos > a.outbox.mark()) {
                account.outbox.push([item]);
            }
        }
        self.gateway.set_accounts(accounts);
        let now = (self.options.now_ms)();
        let parked = found.parked.clone();
        self.book.rest_shadowed();
        self.rest(now, self.book.hot());
        for row in &parked {
            self.wake(row.upstream, &row.smsc_id, [&row.number, &[]])?;
        }
        for row in found.parked {
            self.keep_parked(row);
        }
        // A crash may have come between the response and the receipt that had been waiting for it.
        for row in &parked {
            self.match_parked(row, now);
        }
        for row in &found.parts {
            self.found_part(row, now);
        }
        self.name_upstreams(&found.upstreams);
        self.queue_open();
        self.tell_open();
        Ok(())
    }

    /// How often numbers were written to of late: as far as the journal of the moment tells, which is what has been accepted since
    /// the last segment was sealed.
    fn count_again(&mut self, accepted: Vec<(AccountId, u16, u64, Box<[u8]>)>) {
        let policy = self.gateway.policy.load_full();
        let classes: HashMap<u16, &str> = self.lines.iter().map(|(l, n)| (*n, l.class.as_str())).collect();
        let mut frequency = crate::flow::ingress::lock(&self.gateway.live.frequency);
        for (account, line, at_ms, dest) in accepted {
            let class = classes.get(&line).copied().unwrap_or("");
            let rule = policy.rules.of_class(class, policy.operator(&dest));
            if let Some(rule) = rule.filter(|r| r.cap > 0) {
                let whom = crate::flow::rules::capped(account, rule, &dest);
                frequency.restore(&whom, rule.cap, rule.cap_span_s, (at_ms / 1_000) as u32);
            }
        }
    }

    /// Upstreams seen for the first time go on record under the id the daemon gave them.
    fn name_upstreams(&mut self, known: &HashMap<String, UpstreamId>) {
        for upstream in self.gateway.upstreams().iter() {
            if !known.contains_key(&upstream.options.name) {
                self.batch
                    .upstreams
                    .push((upstream.id, upstream.options.name.clone()));
            }
        }
    }

    /// Every open message that no upstream has taken waits again, oldest first. One that had been marked as being sent has
    /// an unknown outcome and follows its upstream's policy.
    fn queue_open(&mut self) {
        let policy = self.gateway.policy.load_full();
        let mut waiting: Vec<(MessageKey, UpstreamId)> = Vec::new();
        let mut unknown = Vec::new();
        let mut deadlines = Vec::new();
        let waits: HashMap<MessageKey, u64> = self.book.waiting().collect();
        for (key, open) in self.book.iter() {
            match open.phase {
                Phase::Queued if waits.contains_key(&key) => {
                    deadlines.push((key, open.expires_ms, open.at_ms));
                }
                Phase::Queued => {
                    // Of one in parts, some may have been in the air.
                    if open.parts.iter().flatten().any(|p| p.state == PartState::Sending) {
                        unknown.push((key, open.upstream));
                    }
                    waiting.push((key, self.home(&policy, key).unwrap_or(UpstreamId::NONE)));
                    deadlines.push((key, open.expires_ms, open.at_ms));
                }
                Phase::Sending => unknown.push((key, open.upstream)),
                Phase::Sent | Phase::Held => {}
            }
        }
        // Those whose time has come meanwhile are found by the first tick.
        for (key, until) in waits {
            self.book.set_stored(key, true);
            self.waits(key, until);
            self.drowsy.push(key);
        }
        waiting.sort_unstable();
        for (key, lane) in &waiting {
            self.book.moved(*key, *lane);
            self.book.set_stored(*key, true);
        }
        for upstream in self.gateway.upstreams().iter() {
            let here = waiting.iter().filter(|(_, lane)| *lane == upstream.id);
            let keys: Vec<MessageKey> = here.map(|(key, _)| *key).collect();
            upstream.push_backlog(self.in_line(&keys));
        }
        for (key, expires, at) in deadlines {
            self.watch(key, expires, at);
        }
        self.settle_unknown(unknown);
    }
}

impl Found {
    fn unhold(&mut self, account: Option<AccountId>, amount: Money) {
        if let Some(account) = account {
            *self.held.entry(account).or_default() -= amount.0;
        }
    }

    /// A receipt that may not have reached the customer: those at or below the watermark are left out later, when all
    /// watermarks are known.
    fn receipt(&mut self, e: &Finished, open: &super::book::Open, counts: (u8, u8)) {
        if e.flags & flags::WANTED == 0 || e.flags & flags::SPILLED != 0 {
            return;
        }
        if self.marks.get(&open.account).is_some_and(|mark| e.pos <= *mark) {
            return;
        }
        let payload = Payload::Receipt {
            key: e.key,
            stub: open.stub.clone(),
            state: Some(e.state),
            err: e.err,
            submitted_ms: open.at_ms,
            done_ms: e.at_ms,
            counts,
        };
        self.undelivered.push((
            open.account,
            OutItem {
                pos: e.pos,
                at_ms: e.at_ms,
                attempts: 0,
                stored: false,
                payload,
            },
        ));
    }
}
