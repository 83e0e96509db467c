//! Money from and to the world outside: top-ups, suspense, reversals, adjustments, payouts, and prices of accounts. Each is
//! durable before it is answered, and each has a key of its own under which it happens once.

use super::Engine;
use crate::domain::tariff::PriceList;
use crate::flow::ingress::{ControlError, ControlReply, PriceChange, Reply};
use crate::ids::AccountId;
use crate::money::Money;
use crate::store::{ADJUST, Payment, Payout, PayoutState, Posting, Store};

impl<S: Store> Engine<S> {
    fn deny(&mut self, reply: Reply, error: ControlError) {
        self.pending.replies.push((reply, Err(error)));
    }

    /// A payment as it is after everything in this batch; `Err` is answered already.
    fn payment(
        &mut self,
        provider: &str,
        receipt: &str,
        reply: Reply,
    ) -> Result<(Option<Payment>, Reply), ()> {
        let same = |p: &&Payment| p.provider == provider && p.receipt == receipt;
        if let Some(known) = self.batch.payments.iter().rev().find(same) {
            return Ok((Some(known.clone()), reply));
        }
        match self.store.find_payment(provider, receipt) {
            Ok(known) => Ok((known, reply)),
            Err(error) => {
                self.deny(reply, ControlError::Unavailable);
                self.read_failed(error);
                Err(())
            }
        }
    }

    /// Puts a payment on record as it is now; a second change in one batch takes the place of the first.
    fn put_payment(&mut self, payment: Payment) {
        let same = |p: &&mut Payment| p.provider == payment.provider && p.receipt == payment.receipt;
        match self.batch.payments.iter_mut().find(same) {
            Some(known) => *known = payment,
            None => self.batch.payments.push(payment),
        }
    }

    /// Answers with the payment once it is on record and its entry has a number.
    fn answer_payment(&mut self, reply: Reply, payment: &Payment, duplicate: bool) {
        self.pending.payment_replies.push((
            reply,
            payment.provider.clone(),
            payment.receipt.clone(),
            duplicate,
        ));
    }

    fn post(
        &mut self,
        account: AccountId,
        (debit, credit): (&str, &str),
        amount: Money,
        reason: &'static str,
        reference: &str,
        now: u64,
    ) {
        self.batch.postings.push(Posting {
            at_ms: now,
            account,
            debit: debit.into(),
            credit: credit.into(),
            amount,
            count: 1,
            reason: reason.into(),
            reference: reference.into(),
            line: 0,
        });
        let delta = match (debit, credit) {
            ("wallet", _) => Money(-amount.0),
            (_, "wallet") => amount,
            _ => return,
        };
        match self.pending.wallet_posts.iter_mut().find(|(a, _)| *a == account) {
            Some((_, sum)) => sum.0 += delta.0,
            None => self.pending.wallet_posts.push((account, delta)),
        }
    }

    /// The balance of an account with what this batch pays in and out.
    fn balance_with(&self, account: AccountId, more: Money) -> Option<Money> {
        let accounts = self.gateway.accounts();
        let balance = accounts
            .get(account)
            .map_or(Money::ZERO, |a| a.with_wallet(|w| w.balance()));
        let posts = &self.pending.wallet_posts;
        let pending = posts.iter().filter(|(a, _)| *a == account).map(|(_, sum)| *sum);
        pending.chain([more]).try_fold(balance, Money::checked_add)
    }

    /// Notes whether a wallet is frozen from here on: after a reversal that leaves less than nothing, until a payment fills it.
    fn freeze(&mut self, account: AccountId, reversal: bool, now: u64) {
        let accounts = self.gateway.accounts();
        let Some(state) = accounts.get(account) else {
            return;
        };
        let noted = self.batch.frozen.iter().rev().find(|(a, _)| *a == account);
        let frozen = noted.map_or_else(|| state.with_wallet(|w| w.frozen()), |(_, frozen)| *frozen);
        let below = self
            .balance_with(account, Money::ZERO)
            .is_some_and(|balance| balance < Money::ZERO);
        let change = match (frozen, below) {
            (false, true) if reversal => true,
            (true, false) => false,
            _ => return,
        };
        self.batch.frozen.push((account, change));
        let (kind, what) = if change {
            (
                "wallet_frozen",
                "a payment was reversed after it had been spent; new submits are refused",
            )
        } else {
            ("wallet_unfrozen", "the balance is not below zero any more")
        };
        self.gateway
            .events
            .add(now, kind, &state.spec().name, what.into());
    }

    /// Books a payment, once per provider and receipt.
    pub(super) fn pay(&mut self, payment: Payment, reply: Reply, now: u64) {
        let Ok((known, reply)) = self.payment(&payment.provider, &payment.receipt, reply) else {
            return;
        };
        if let Some(first) = known {
            // One that came with the payer's words alone is the same one whoever it went to.
            let same_owner = first.account == payment.account
                || payment.account == AccountId::NONE && first.payer_ref == payment.payer_ref;
            if first.amount == payment.amount && same_owner {
                return self.answer_payment(reply, &first, true);
            }
            let what = format!(
                "receipt {} of {} came again with another amount or account",
                payment.receipt, payment.provider
            );
            self.gateway.events.add(now, "topup_conflict", "", what);
            return self.deny(reply, ControlError::IdempotencyConflict);
        }
        let mut payment = payment;
        if payment.account == AccountId::NONE {
            let accounts = self.gateway.accounts();
            let meant = accounts.by_payer_ref(&payment.payer_ref);
            payment.account = meant.map_or(AccountId::NONE, |a| a.id);
        }
        let account = payment.account;
        if account != AccountId::NONE {
            if self.gateway.accounts().get(account).is_none() {
                return self.deny(reply, ControlError::NotFound);
            }
            if self
                .balance_with(account, payment.amount)
                .is_none_or(|sum| sum > Money::MOST)
            {
                let what = format!("the balance would be more than {}", Money::MOST);
                return self.deny(reply, ControlError::Invalid("amount", what));
            }
        }
        if payment.provider == ADJUST {
            if payment.amount < Money::ZERO
                && let Err(short) = self.covers(account, Money(-payment.amount.0), true)
            {
                return self.deny(reply, ControlError::Funds(short));
            }
            let (sides, amount) = if payment.amount < Money::ZERO {
                (("wallet", ADJUST), Money(-payment.amount.0))
            } else {
                ((ADJUST, "wallet"), payment.amount)
            };
            self.post(account, sides, amount, ADJUST, &payment.receipt, now);
        } else {
            let clearing = format!("clearing:{}", payment.provider);
            let (to, reason) = if account == AccountId::NONE {
                ("suspense", "suspense")
            } else {
                ("wallet", "topup")
            };
            self.post(
                account,
                (&clearing, to),
                payment.amount,
                reason,
                &payment.receipt,
                now,
            );
        }
        self.freeze(account, false, now);
        self.answer_payment(reply, &payment, false);
        self.put_payment(Payment {
            at_ms: now,
            ..payment
        });
    }

    /// Sets `amount` aside if that much is available; it comes off with the balance when the batch is on record. Otherwise how
    /// much there is.
    fn covers(&mut self, account: AccountId, amount: Money, with_credit: bool) -> Result<(), Money> {
        let accounts = self.gateway.accounts();
        let Some(state) = accounts.get(account) else {
            return Err(Money::ZERO);
        };
        let held = state.with_wallet(|w| {
            let there = if with_credit {
                w.available()
            } else {
                Money(w.balance().0.saturating_sub(w.held().0).min(w.available().0))
            };
            if there < amount {
                return Err(there);
            }
            w.hold(amount).map_err(|_| Money::ZERO)
        })?;
        self.pending.set_aside.push((account, held.into_record()));
        Ok(())
    }

    /// Gives a payment in suspense to an account.
    pub(super) fn assign(
        &mut self,
        provider: &str,
        receipt: &str,
        account: AccountId,
        reply: Reply,
        now: u64,
    ) {
        let Ok((known, reply)) = self.payment(provider, receipt, reply) else {
            return;
        };
        let Some(payment) = known else {
            return self.deny(reply, ControlError::NoSuch("receipt"));
        };
        if payment.account == account && payment.assigned_ms != 0 {
            return self.answer_payment(reply, &payment, true);
        }
        if payment.account != AccountId::NONE {
            return self.deny(
                reply,
                ControlError::State("this payment belongs to an account already"),
            );
        }
        if payment.left() == Money::ZERO {
            return self.deny(reply, ControlError::State("this payment has been reversed"));
        }
        if self.gateway.accounts().get(account).is_none() {
            return self.deny(reply, ControlError::NotFound);
        }
        if self
            .balance_with(account, payment.left())
            .is_none_or(|sum| sum > Money::MOST)
        {
            let what = format!("the balance would be more than {}", Money::MOST);
            return self.deny(reply, ControlError::Invalid("account", what));
        }
        self.post(
            account,
            ("suspense", "wallet"),
            payment.left(),
            "assign",
            receipt,
            now,
        );
        self.freeze(account, false, now);
        self.answer_payment(reply, &payment, false);
        self.put_payment(Payment {
            account,
            assigned_ms: now,
            ..payment
        });
    }

    /// The provider has taken back what is left of a payment. The balance may end below zero: the wallet is frozen then, and
    /// what is in flight goes on.
    pub(super) fn reverse(&mut self, provider: &str, receipt: &str, reply: Reply, now: u64) {
        let Ok((known, reply)) = self.payment(provider, receipt, reply) else {
            return;
        };
        let Some(payment) = known.filter(|_| provider != ADJUST) else {
            return self.deny(reply, ControlError::NoSuch("receipt"));
        };
        if payment.reversed > Money::ZERO {
            return self.answer_payment(reply, &payment, true);
        }
        let left = payment.left();
        if left == Money::ZERO {
            return self.deny(
                reply,
                ControlError::State("all of this payment has been paid out"),
            );
        }
        let from = if payment.account == AccountId::NONE {
            "suspense"
        } else {
            "wallet"
        };
        self.post(
            payment.account,
            (from, &format!("clearing:{provider}")),
            left,
            "reversal",
            receipt,
            now,
        );
        self.freeze(payment.account, true, now);
        self.answer_payment(reply, &payment, false);
        self.put_payment(Payment {
            reversed: left,
            ..payment
        });
    }

    /// A payout as it is after everything in this batch; `Err` is answered already.
    fn payout(&mut self, reference: &str, reply: Reply) -> Result<(Option<Payout>, Reply), ()> {
        if let Some(known) = self.batch.payouts.iter().rev().find(|p| p.reference == reference) {
            return Ok((Some(known.clone()), reply));
        }
        match self.store.find_payout(reference) {
            Ok(known) => Ok((known, reply)),
            Err(error) => {
                self.deny(reply, ControlError::Unavailable);
                self.read_failed(error);
                Err(())
            }
        }
    }

    fn answer_payout(&mut self, reply: Reply, payout: Payout, duplicate: bool) {
        self.pending
            .replies
            .push((reply, Ok(ControlReply::Payout(payout, duplicate))));
    }

    /// Sets money of a payment aside that nobody has used, once per reference. Who pays it out says so with
    /// [`Engine::settle_payout`]; until then nothing else happens, however long that takes.
    pub(super) fn request_payout(&mut self, payout: Payout, reply: Reply, now: u64) {
        let Ok((known, reply)) = self.payout(&payout.reference, reply) else {
            return;
        };
        if let Some(first) = known {
            let terms = |p: &Payout| (p.provider.clone(), p.receipt.clone(), p.account, p.amount);
            if terms(&first) == terms(&payout) {
                return self.answer_payout(reply, first, true);
            }
            return self.deny(reply, ControlError::IdempotencyConflict);
        }
        let Ok((payment, reply)) = self.payment(&payout.provider, &payout.receipt, reply) else {
            return;
        };
        let Some(payment) = payment.filter(|p| p.account == payout.account && p.provider != ADJUST) else {
            return self.deny(reply, ControlError::NoSuch("receipt"));
        };
        if payout.amount > payment.left() {
            return self.deny(reply, ControlError::Funds(payment.left()));
        }
        if let Err(short) = self.covers(payout.account, payout.amount, false) {
            return self.deny(reply, ControlError::Funds(short));
        }
        self.post(
            payout.account,
            ("wallet", "payout"),
            payout.amount,
            "payout",
            &payout.reference,
            now,
        );
        self.put_payment(Payment {
            paid_out: Money(payment.paid_out.0 + payout.amount.0),
            ..payment
        });
        let payout = Payout {
            state: PayoutState::Pending,
            at_ms: now,
            settled_ms: 0,
            ..payout
        };
        self.batch.payouts.push(payout.clone());
        self.answer_payout(reply, payout, false);
    }

    /// What became of a payout: paid and failed are ends, unknown stays set aside.
    pub(super) fn settle_payout(&mut self, reference: &str, state: PayoutState, reply: Reply, now: u64) {
        let Ok((known, reply)) = self.payout(reference, reply) else {
            return;
        };
        let Some(payout) = known else {
            return self.deny(reply, ControlError::NoSuch("reference"));
        };
        if payout.state == state {
            return self.answer_payout(reply, payout, true);
        }
        if matches!(payout.state, PayoutState::Paid | PayoutState::Failed) {
            return self.deny(reply, ControlError::State("this payout is settled already"));
        }
        let Ok((payment, reply)) = self.payment(&payout.provider, &payout.receipt, reply) else {
            return;
        };
        match state {
            PayoutState::Paid => {
                let clearing = format!("clearing:{}", payout.provider);
                self.post(
                    payout.account,
                    ("payout", &clearing),
                    payout.amount,
                    "payout:paid",
                    reference,
                    now,
                );
            }
            PayoutState::Failed => {
                self.post(
                    payout.account,
                    ("payout", "wallet"),
                    payout.amount,
                    "payout:failed",
                    reference,
                    now,
                );
                self.freeze(payout.account, false, now);
                if let Some(payment) = payment {
                    self.put_payment(Payment {
                        paid_out: Money(payment.paid_out.0.saturating_sub(payout.amount.0)),
                        ..payment
                    });
                }
            }
            PayoutState::Pending | PayoutState::Unknown => {}
        }
        let payout = Payout {
            state,
            settled_ms: now,
            ..payout
        };
        self.batch.payouts.retain(|p| p.reference != reference);
        self.batch.payouts.push(payout.clone());
        self.answer_payout(reply, payout, false);
    }

    /// Changes an account's own prices; in force with the next message it submits.
    pub(super) fn change_prices(&mut self, id: AccountId, change: PriceChange, reply: Reply) {
        let accounts = self.gateway.accounts();
        let Some(account) = accounts.get(id) else {
            return self.deny(reply, ControlError::NotFound);
        };
        // One that is already changed in this batch goes on from there.
        let changed = self.batch.prices.iter().rev().find(|(a, _)| *a == id);
        let mut rules = changed.map_or_else(|| account.price_rules().to_vec(), |(_, rules)| rules.clone());
        if let Err(error) = change(&mut rules) {
            return self.deny(reply, error);
        }
        rules.sort();
        let Ok(list) = PriceList::new(&rules) else {
            let what = "a prefix has digits only, without +".into();
            return self.deny(reply, ControlError::Invalid("prefix", what));
        };
        self.pending.prices.push((id, rules.clone(), list));
        self.batch.prices.retain(|(a, _)| *a != id);
        self.batch.prices.push((id, rules));
        self.pending.replies.push((reply, Ok(ControlReply::Done)));
    }
}
