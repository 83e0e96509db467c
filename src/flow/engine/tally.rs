//! Sums of what a batch does to wallets, and the postings they become.

use std::borrow::Cow;

use super::book::Effect;
use crate::domain::outcome::Final;
use crate::ids::AccountId;
use crate::money::Money;
use crate::store::Posting;

/// Why money that was held or charged comes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Why {
    /// It does not: it is held, or earned.
    Earned,
    /// The message ended like this.
    Ended(Final),
    /// replace_sm made the message cheaper.
    Replaced,
}

/// Effects added up, with how many messages each kind comes from.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tally {
    pub effect: Effect,
    holds: u32,
    charges: u32,
    releases: u32,
    refunds: u32,
}

impl Tally {
    pub fn add(&mut self, e: &Effect) {
        let sum = &mut self.effect;
        for (to, from) in [
            (&mut sum.hold, e.hold),
            (&mut sum.unhold, e.unhold),
            (&mut sum.charge, e.charge),
            (&mut sum.charge_tax, e.charge_tax),
            (&mut sum.refund, e.refund),
            (&mut sum.refund_tax, e.refund_tax),
        ] {
            to.0 += from.0;
        }
        self.holds += u32::from(e.hold != Money::ZERO);
        self.charges += u32::from(e.charge != Money::ZERO);
        self.releases += u32::from(e.unhold != e.charge);
        self.refunds += u32::from(e.refund != Money::ZERO);
    }

    /// The postings of one account, billing line and reason. What is charged leaves `held`; what was held and is not charged goes
    /// back to the wallet.
    pub fn post(&self, account: AccountId, line: u16, why: Why, at_ms: u64, into: &mut Vec<Posting>) {
        let e = &self.effect;
        let back = |what: &'static str| -> Cow<'static, str> {
            match why {
                Why::Earned => what.into(),
                Why::Ended(state) => format!("{what}:{}", state.word()).into(),
                Why::Replaced => format!("{what}:REPLACED").into(),
            }
        };
        let less = |a: Money, b: Money| Money(a.0 - b.0);
        let mut one = |debit: &str, credit: &str, amount: Money, count: u32, reason: Cow<'static, str>| {
            if amount != Money::ZERO {
                into.push(Posting {
                    at_ms,
                    account,
                    debit: debit.into(),
                    credit: credit.into(),
                    amount,
                    count,
                    reason,
                    reference: String::new(),
                    line,
                });
            }
        };
        one("wallet", "held", e.hold, self.holds, "hold".into());
        one(
            "held",
            "revenue",
            less(e.charge, e.charge_tax),
            self.charges,
            "charge".into(),
        );
        one("held", "tax", e.charge_tax, self.charges, "charge".into());
        one(
            "held",
            "wallet",
            less(e.unhold, e.charge),
            self.releases,
            back("release"),
        );
        one(
            "revenue",
            "wallet",
            less(e.refund, e.refund_tax),
            self.refunds,
            back("refund"),
        );
        one("tax", "wallet", e.refund_tax, self.refunds, back("refund"));
    }
}
