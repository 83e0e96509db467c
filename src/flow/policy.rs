//! The rules in force: one immutable value, swapped whole when the config changes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::address::{BadNumber, Msisdn, Numbering};
use crate::domain::optout::folded;
use crate::domain::plan::{NotMobile, NumberPlan};
use crate::domain::route::{RouteKey, RouteTable};
use crate::domain::tariff::Tariff;
use crate::domain::urgency::Urgency;
use crate::ids::AccountId;

/// Who gets mobile-originated messages to an address.
#[derive(Clone, Debug)]
pub struct InboundRule {
    /// Short code or number, compared as written.
    pub address: String,
    /// First words of the text that mean it, as [`folded`] leaves them; none: any text.
    pub words: Vec<String>,
    /// STOP and START are for its account.
    pub opt_out: bool,
    /// Name of the account.
    pub account: String,
    /// Parts of a message are put together.
    pub join: bool,
}

/// Routes, prices and limits of messages.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Number completion.
    pub numbering: Numbering,
    /// Which upstreams carry what.
    pub routes: RouteTable,
    /// Price lists by name.
    pub tariffs: HashMap<String, Arc<Tariff>>,
    /// The price list of accounts that name none: the first of the config.
    pub default_tariff: Option<Arc<Tariff>>,
    /// Which operator holds a number.
    pub plan: NumberPlan,
    /// Numbers of the country that the plan does not know as mobile ones are refused.
    pub mobile_only: bool,
    /// Classes of sender addresses; the first, without a name, is that of all others.
    pub classes: Vec<String>,
    /// Class of a sender address (in small letters), as a place in `classes`.
    pub senders: HashMap<Vec<u8>, u16>,
    /// Senders, classes, content, opt-out.
    pub rules: super::rules::Rules,
    /// How urgent messages are.
    pub urgency: Urgency,
    /// How far ahead of UTC days are counted, minutes.
    pub day_offset_min: i32,
    /// Rules for inbound messages; the first that matches wins, those with a keyword before those without.
    pub inbound: Vec<InboundRule>,
    /// Validity of messages that state none, ms.
    pub validity_default_ms: u64,
    /// Longest validity, ms; longer ones are cut.
    pub validity_max_ms: u64,
    /// A message may be scheduled so far ahead, ms.
    pub schedule_max_ms: u64,
    /// Without a final receipt for this long a message is UNKNOWN, ms.
    pub receipt_timeout_ms: u64,
    /// Receipts and inbound messages wait this long for a customer, ms.
    pub receipt_keep_ms: u64,
    /// Parts of an inbound message wait this long for the others, ms.
    pub join_timeout_ms: u64,
    /// Refusals by a customer before a receipt is parked.
    pub deliver_attempts_max: u32,
    /// First pause after a refusal, ms; doubles.
    pub deliver_retry_min_ms: u64,
    /// Longest pause, ms.
    pub deliver_retry_max_ms: u64,
}

impl Policy {
    /// The price list an account is charged by.
    #[must_use]
    pub fn tariff(&self, name: &str) -> Option<&Arc<Tariff>> {
        if name.is_empty() {
            self.default_tariff.as_ref()
        } else {
            self.tariffs.get(name)
        }
    }

    /// Place of a sender address's class in [`Policy::classes`].
    #[must_use]
    pub fn class_of(&self, source: &[u8]) -> u16 {
        if self.senders.is_empty() {
            return 0;
        }
        self.senders
            .get(&source.to_ascii_lowercase())
            .copied()
            .unwrap_or(0)
    }

    /// Completes a destination to E.164, and refuses numbers of the country that are no mobile ones.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn destination(&self, address: &[u8], national: bool) -> Result<Msisdn, &'static str> {
        let dest = self
            .numbering
            .complete(address, national)
            .map_err(BadNumber::why)?;
        let code = self.numbering.country_code.as_bytes();
        let checked = self.mobile_only && !self.plan.is_empty() && !code.is_empty();
        if checked && dest.digits().starts_with(code) {
            self.plan.mobile(dest.digits()).map_err(|e| match e {
                NotMobile::Range => "in no mobile range of the number plan",
                NotMobile::Digits => "not as many digits as numbers of its range have",
            })?;
        }
        Ok(dest)
    }

    /// The operator of a number in E.164 digits; empty where nothing is known of it.
    #[must_use]
    pub fn operator(&self, number: &[u8]) -> &str {
        self.plan.operator(number)
    }

    /// Place of a class in [`Policy::classes`]; that of no class for a word that is not there.
    #[must_use]
    pub fn class_index(&self, class: &str) -> u16 {
        let at = self.classes.iter().position(|c| c == class);
        at.unwrap_or(0) as u16
    }

    /// What a message of `account` is matched by.
    #[must_use]
    pub fn route_key<'a>(
        &'a self,
        account: &'a str,
        source: &'a [u8],
        number: &'a [u8],
        at_ms: u64,
    ) -> RouteKey<'a> {
        RouteKey {
            account,
            source,
            class: self.class_name(self.class_of(source)),
            operator: self.operator(number),
            number,
            at_ms,
        }
    }

    /// The name of a class; empty for none.
    #[must_use]
    pub fn class_name(&self, class: u16) -> &str {
        self.classes.get(usize::from(class)).map_or("", String::as_str)
    }

    /// The longest that a message without a final receipt is kept open, by any tariff, ms.
    #[must_use]
    pub fn longest_wait_ms(&self) -> u64 {
        let rules = self.tariffs.values().flat_map(|t| &t.terms.refunds);
        rules
            .filter_map(|r| r.wait_ms)
            .fold(self.receipt_timeout_ms, u64::max)
    }

    /// Whether parts of messages to `address` are put together for anybody.
    #[must_use]
    pub fn joins(&self, address: &[u8]) -> bool {
        let address = address.strip_prefix(b"+").unwrap_or(address);
        self.inbound
            .iter()
            .any(|r| r.join && r.address.strip_prefix('+').unwrap_or(&r.address).as_bytes() == address)
    }

    /// The rules for messages to `address`.
    pub fn inbound_rules<'a>(&'a self, address: &'a [u8]) -> impl Iterator<Item = &'a InboundRule> {
        let address = address.strip_prefix(b"+").unwrap_or(address);
        self.inbound
            .iter()
            .filter(move |r| r.address.strip_prefix('+').unwrap_or(&r.address).as_bytes() == address)
    }

    /// The account that owns inbound messages to `address` beginning with `text`, and whether it wants their parts put together.
    #[must_use]
    pub fn inbound_owner(
        &self,
        address: &[u8],
        text: &[u8],
        by_name: impl Fn(&str) -> Option<AccountId>,
    ) -> Option<(AccountId, bool)> {
        let text = String::from_utf8_lossy(text);
        let word = folded(text.split_whitespace().next().unwrap_or(""));
        let keyword = |rule: &&InboundRule| rule.words.contains(&word);
        let rule = self
            .inbound_rules(address)
            .find(keyword)
            .or_else(|| self.inbound_rules(address).find(|r| r.words.is_empty()))?;
        by_name(&rule.account).map(|account| (account, rule.join))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyword_beats_the_bare_address() {
        let rule = |keyword: Option<&str>, account: &str| InboundRule {
            address: "22555".into(),
            words: keyword.iter().map(|k| folded(k)).collect(),
            opt_out: true,
            account: account.into(),
            join: true,
        };
        let policy = Policy {
            inbound: vec![rule(None, "1"), rule(Some("NEWS"), "2")],
            ..Policy::default()
        };
        let owner = |address: &str, text: &str| {
            policy.inbound_owner(address.as_bytes(), text.as_bytes(), |n| {
                n.parse().ok().map(AccountId)
            })
        };
        assert_eq!(owner("22555", " news today"), Some((AccountId(2), true)));
        assert_eq!(owner("22555", "\"News!\" please"), Some((AccountId(2), true)));
        assert_eq!(owner("22555", "newsletter"), Some((AccountId(1), true)));
        assert_eq!(owner("22556", "news"), None);
    }
}
