//! Changes from the control plane, ordered with traffic.

use std::sync::Arc;

use super::Engine;
use crate::domain::account::Account;
use crate::flow::account::AccountState;
use crate::flow::ingress::{Change, Control, ControlError, ControlReply, Reply};
use crate::ids::AccountId;
use crate::money::Money;
use crate::store::{Posting, Store, Topup};

impl<S: Store> Engine<S> {
    pub(super) fn control(&mut self, op: Control, reply: Reply, now: u64) {
        match op {
            Control::CreateAccount(account) => self.create_account(*account, reply),
            Control::ChangeAccount(id, change) => self.change_account(id, change, reply),
            Control::Topup {
                account,
                amount,
                provider,
                receipt,
            } => {
                self.topup(
                    Topup {
                        entry: 0,
                        account,
                        amount,
                        provider,
                        receipt,
                        at_ms: now,
                    },
                    reply,
                );
            }
            Control::ShowOpen(key) => {
                let view = self.book.get(key).map(|o| Self::view(key, o));
                self.pending.replies.push((reply, Ok(ControlReply::Open(view))));
            }
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
            .push((reply, Ok(ControlReply::Account(account))));
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
                None => Ok(account),
            }),
        };
        let result = result.map(|account| {
            self.batch.accounts.push(account.clone());
            self.pending.replaced.push(account.clone());
            ControlReply::Account(account)
        });
        self.pending.replies.push((reply, result));
    }

    fn topup(&mut self, topup: Topup, reply: Reply) {
        let same = |t: &Topup| t.provider == topup.provider && t.receipt == topup.receipt;
        let known = match self.batch.topups.iter().find(|t| same(t)).cloned() {
            Some(first) => Ok(Some(first)),
            None => self.store.find_topup(&topup.provider, &topup.receipt),
        };
        match known {
            Err(error) => {
                self.pending.replies.push((reply, Err(ControlError::Unavailable)));
                self.read_failed(error);
            }
            Ok(Some(first)) if (first.account, first.amount) != (topup.account, topup.amount) => {
                self.pending
                    .replies
                    .push((reply, Err(ControlError::IdempotencyConflict)));
            }
            // Entry 0: it is in this very batch; its number is known after the commit.
            Ok(Some(first)) if first.entry == 0 => {
                self.pending
                    .topup_replies
                    .push((reply, first.provider, first.receipt, true));
            }
            Ok(Some(first)) => self
                .pending
                .replies
                .push((reply, Ok(ControlReply::Topup(first, true)))),
            Ok(None) => self.book_topup(topup, reply),
        }
    }

    /// Whether a balance can take this payment on top of those of the batch.
    fn fits(&self, account: AccountId, amount: Money) -> bool {
        let accounts = self.gateway.accounts();
        let balance = accounts
            .get(account)
            .map_or(Money::ZERO, |a| a.with_wallet(|w| w.balance()));
        let posts = &self.pending.wallet_posts;
        let pending = posts.iter().filter(|(a, _)| *a == account).map(|(_, sum)| *sum);
        pending
            .chain([amount])
            .try_fold(balance, Money::checked_add)
            .is_some_and(|sum| sum <= Money::MOST)
    }

    fn book_topup(&mut self, topup: Topup, reply: Reply) {
        if self.gateway.accounts().get(topup.account).is_none() {
            return self.pending.replies.push((reply, Err(ControlError::NotFound)));
        }
        if !self.fits(topup.account, topup.amount) {
            let what = format!("the balance would be more than {}", Money::MOST);
            return self
                .pending
                .replies
                .push((reply, Err(ControlError::Invalid("amount", what))));
        }
        self.batch.postings.push(Posting {
            at_ms: topup.at_ms,
            account: topup.account,
            debit: format!("clearing:{}", topup.provider),
            credit: "wallet".into(),
            amount: topup.amount,
            count: 1,
            reason: "topup",
            reference: topup.receipt.clone(),
        });
        match self
            .pending
            .wallet_posts
            .iter_mut()
            .find(|(a, _)| *a == topup.account)
        {
            Some((_, sum)) => sum.0 += topup.amount.0,
            None => self.pending.wallet_posts.push((topup.account, topup.amount)),
        }
        self.pending
            .topup_replies
            .push((reply, topup.provider.clone(), topup.receipt.clone(), false));
        self.batch.topups.push(topup);
    }
}
