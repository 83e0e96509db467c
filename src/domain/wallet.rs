//! One account's money in memory: a lease on the stored balance.
//!
//! Invariant: `balance = stored balance`, `held = sum of the prices of open, uncaptured messages`, and a hold is granted
//! only while `balance + credit_limit - held` covers it.

#![warn(clippy::arithmetic_side_effects)]

use crate::money::Money;

/// Balance, holds and credit of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wallet {
    balance: Money,
    held: Money,
    credit_limit: Money,
    frozen: bool,
}

/// Money set aside for one message. It must end in exactly one of: the message's record (and later capture or release),
/// or [`Wallet::release`]. It cannot be copied, so it cannot be spent twice.
#[must_use = "a hold that is dropped is money lost to the customer: put it on record or release it"]
#[derive(PartialEq, Eq, Debug)]
pub struct Hold(Money);

impl Hold {
    /// How much is set aside.
    #[must_use]
    pub const fn amount(&self) -> Money {
        self.0
    }

    /// Hands the hold over to the message's stored record, which from now on stands for it.
    #[must_use]
    pub const fn into_record(self) -> Money {
        self.0
    }
}

/// Not enough money.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insufficient;

impl Wallet {
    /// A wallet with this stored balance, nothing held.
    #[must_use]
    pub const fn new(balance: Money, credit_limit: Money) -> Wallet {
        Wallet {
            balance,
            held: Money::ZERO,
            credit_limit,
            frozen: false,
        }
    }

    /// What is on the account, holds included.
    #[must_use]
    pub const fn balance(&self) -> Money {
        self.balance
    }

    /// What open messages have set aside.
    #[must_use]
    pub const fn held(&self) -> Money {
        self.held
    }

    /// How far below zero the account may go.
    #[must_use]
    pub const fn credit_limit(&self) -> Money {
        self.credit_limit
    }

    /// What can still be spent; saturates at the ends of the range.
    #[must_use]
    pub const fn available(&self) -> Money {
        Money(
            self.balance
                .0
                .saturating_add(self.credit_limit.0)
                .saturating_sub(self.held.0),
        )
    }

    /// Sets money aside for a message.
    ///
    /// # Errors
    /// [`Insufficient`] when less than `price` is available; nothing changes then.
    pub fn hold(&mut self, price: Money) -> Result<Hold, Insufficient> {
        if price.0 < 0 || self.frozen || self.available() < price {
            return Err(Insufficient);
        }
        self.held = self.held.checked_add(price).ok_or(Insufficient)?;
        Ok(Hold(price))
    }

    /// Takes a hold back whole: the message was refused before it was on record.
    pub fn release(&mut self, hold: Hold) {
        self.unhold(hold.into_record());
    }

    /// Puts the hold of a message on record back after a restart; never refused, it was granted before.
    pub fn rehold(&mut self, price: Money) {
        self.held = Money(self.held.0.saturating_add(price.0));
    }

    /// Lets go of recorded holds: their messages were captured (together with [`Wallet::post`]) or released.
    pub fn unhold(&mut self, amount: Money) {
        debug_assert!(amount.0 <= self.held.0, "releasing more than is held");
        self.held = Money(self.held.0.saturating_sub(amount.0).max(0));
    }

    /// Moves the balance by a posted amount: positive for top-ups and refunds, negative for charges.
    pub fn post(&mut self, amount: Money) {
        self.balance = Money(self.balance.0.saturating_add(amount.0));
    }

    /// Whether new holds are refused whatever the credit limit: a payment was reversed after it had been spent.
    #[must_use]
    pub const fn frozen(&self) -> bool {
        self.frozen
    }

    /// See [`Wallet::frozen`].
    pub fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Changes the credit limit.
    pub fn set_credit_limit(&mut self, limit: Money) {
        self.credit_limit = limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_balance_buys_exactly_what_it_covers() {
        let mut w = Wallet::new(Money(2_500_000), Money::ZERO);
        let first = w.hold(Money(800_000)).unwrap();
        let holds: Vec<_> = std::iter::from_fn(|| w.hold(Money(800_000)).ok()).collect();
        assert_eq!(holds.len(), 2);
        w.release(first);
        assert_eq!(w.available(), Money(900_000));
    }

    #[test]
    fn credit_extends_and_extremes_do_not_wrap() {
        let mut w = Wallet::new(Money(-100), Money(300));
        assert!(w.hold(Money(201)).is_err());
        assert_eq!(w.hold(Money(200)).unwrap().into_record(), Money(200));
        let mut w = Wallet::new(Money(i64::MAX), Money(i64::MAX));
        assert_eq!(w.hold(Money(i64::MAX)).unwrap().into_record(), Money(i64::MAX));
        assert!(w.hold(Money(1)).is_err());
        assert!(w.hold(Money(-1)).is_err());
    }

    #[test]
    fn a_frozen_wallet_keeps_what_it_holds_and_grants_nothing() {
        let mut w = Wallet::new(Money(100), Money(1_000));
        let hold = w.hold(Money(60)).unwrap();
        w.post(Money(-150));
        w.set_frozen(true);
        assert!(w.hold(Money(1)).is_err(), "credit does not help");
        w.unhold(hold.into_record());
        w.post(Money(-60));
        assert_eq!((w.balance(), w.held()), (Money(-110), Money::ZERO));
        w.set_frozen(false);
        assert_eq!(w.hold(Money(1)).unwrap().into_record(), Money(1));
    }

    proptest! {
        #[test]
        fn no_order_of_steps_overdraws(start in 0i64..10_000, credit in 0i64..1_000, steps in proptest::collection::vec((0u8..3, 1i64..2_000), 0..200)) {
            let mut w = Wallet::new(Money(start), Money(credit));
            let mut open = Vec::new();
            for (what, price) in steps {
                match what {
                    0 => if let Ok(h) = w.hold(Money(price)) { open.push(h.into_record()); },
                    1 => if let Some(p) = open.pop() { w.unhold(p); w.post(Money(0i64.saturating_sub(p.0))); },
                    _ => if let Some(p) = open.pop() { w.unhold(p); },
                }
                prop_assert!(w.balance().0.saturating_add(credit) >= 0);
                prop_assert!(w.available().0 >= 0);
                prop_assert_eq!(w.held().0, open.iter().map(|m| m.0).sum::<i64>());
            }
        }
    }
}
