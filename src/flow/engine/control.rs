//! Changes from the control plane, ordered with traffic.

use std::sync::Arc;

use super::Engine;
use crate::domain::account::Account;
use crate::flow::account::AccountState;
use crate::flow::ingress::{Change, Control, ControlError, ControlReply, Reply};
use crate::ids::AccountId;
use crate::money::Money;
use crate::store::{Mark, Store};

impl<S: Store> Engine<S> {
    pub(super) fn control(&mut self, op: Control, reply: Reply, now: u64) {
        match op {
            Control::CreateAccount(account) => self.create_account(*account, reply),
            Control::ChangeAccount(id, change) => self.change_account(id, change, reply),
            Control::ChangePrices(account, change) => self.change_prices(account, change, reply),
            Control::Pay(payment) => self.pay(*payment, reply, now),
            Control::Assign {
                provider,
                receipt,
                account,
            } => self.assign(&provider, &receipt, account, reply, now),
            Control::Reverse { provider, receipt } => self.reverse(&provider, &receipt, reply, now),
            Control::Payout(payout) => self.request_payout(*payout, reply, now),
            Control::SettlePayout { reference, state } => self.settle_payout(&reference, state, reply, now),
            Control::ShowOpen(key) => {
                let mut view = self.book.get(key).map(|o| Self::view(key, o));
                let scheduled = self.book.get(key).is_some_and(|o| o.scheduled);
                if let Some((view, until)) = view.as_mut().zip(self.book.waits(key)) {
                    view.state = if until == Mark::NEVER {
                        "review"
                    } else if scheduled {
                        "scheduled"
                    } else {
                        "waiting"
                    };
                }
                self.pending.replies.push((reply, Ok(ControlReply::Open(view))));
            }
            Control::Rule(change) => self.change_rules(*change, reply, now),
            Control::Barrier => self.pending.replies.push((reply, Ok(ControlReply::Done))),
        }
    }

    /// The account that already uses a name or system_id, created in this very batch or before.
    fn taken(&self, account: &Account) -> Option<&'static str> {
        let accounts = self.gateway.accounts();
        let others = accounts.iter().map(|a| a.spec());
        let fresh = self.pending.new_accounts.iter().map(|a| a.spec());
        for other in others.chain(fresh).filter(|o| o.id != account.id) {
            if other.name == account.name {
                return Some("name");
            }
            if other.system_id == account.system_id {
                return Some("system_id");
            }
        }
        None
    }

    fn create_account(&mut self, mut account: Account, reply: Reply) {
        account.id = AccountId::NONE;
        if let Some(field) = self.taken(&account) {
            return self
                .pending
                .replies
                .push((reply, Err(ControlError::Taken(field))));
        }
        if let Some(tariff) = self.gateway.policy.load().tariff(&account.tariff) {
            account.currency.clone_from(&tariff.currency);
        }
        account.id = AccountId(self.next_account);
        self.next_account += 1;
        self.batch.accounts.push(account.clone());
        self.batch.balances.push((account.id, Money::ZERO));
        self.pending.wallet_posts.push((account.id, Money::ZERO));
        self.pending
            .new_accounts
            .push(Arc::new(AccountState::new(account.clone(), Money::ZERO)));
        self.pending
            .replies
            .push((reply, Ok(ControlReply::Account(Box::new(account)))));
    }

    fn other_currency(&self, account: &Account) -> bool {
        let policy = self.gateway.policy.load();
        let tariff = policy.tariff(&account.tariff);
        tariff.is_some_and(|t| !account.currency.is_empty() && t.currency != account.currency)
    }

    fn change_account(&mut self, id: AccountId, change: Change, reply: Reply) {
        // One that is already changed in this batch goes on from there.
        let changed = self.pending.replaced.iter().rev().find(|a| a.id == id).cloned();
        let accounts = self.gateway.accounts();
        let found = changed.or_else(|| accounts.get(id).map(|a| (*a.spec()).clone()));
        let result = match found {
            None => Err(ControlError::NotFound),
            Some(mut account) => change(&mut account).and_then(|()| match self.taken(&account) {
                Some(field) => Err(ControlError::Taken(field)),
                None if self.other_currency(&account) => Err(ControlError::State(
                    "this tariff is in another currency than the account's wallet; open another account for it",
                )),
                None => Ok(account),
            }),
        };
        let result = result.map(|account| {
            self.batch.accounts.push(account.clone());
            self.pending.replaced.push(account.clone());
            ControlReply::Account(Box::new(account))
        });
        self.pending.replies.push((reply, result));
    }
}
