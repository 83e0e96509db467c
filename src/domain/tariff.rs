//! What a message costs, and what of that is kept when it ends: price lists, tax, and the terms of a refund.

use super::outcome::{ChargeOn, Final};
use super::prefix::{NotDigits, PrefixMap};
use crate::money::Money;

/// One price.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PriceRule {
    /// Destination prefix in digits; empty: every number.
    pub prefix: String,
    /// Only for numbers of this operator of the number plan; empty: any.
    pub operator: String,
    /// Only for sender addresses of this class; empty: any.
    pub class: String,
    /// In force from here on, ms since the epoch; 0: always.
    pub from_ms: u64,
    /// Per segment.
    pub price: Money,
}

/// What a price depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PriceKey<'a> {
    /// Destination in E.164 digits.
    pub number: &'a [u8],
    /// Its operator; empty: not known.
    pub operator: &'a str,
    /// Class of the sender address; empty: none.
    pub class: &'a str,
    /// The moment of acceptance, ms since the epoch.
    pub at_ms: u64,
}

/// Prices of one prefix: its length, and what is in force from when, oldest first.
type Slot = (u8, Vec<(u64, Money)>);

#[derive(Clone, Debug)]
struct Group {
    operator: String,
    class: String,
    prices: PrefixMap<Slot>,
}

/// Prices, looked up by destination. Immutable; swapped whole.
#[derive(Clone, Debug, Default)]
pub struct PriceList {
    groups: Vec<Group>,
    /// Changes whenever a price does; 0 for an empty list.
    pub version: u32,
}

/// FNV-1a: equal lists give equal versions on every node and after every restart.
struct Fnv(u32);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0x811C_9DC5)
    }

    fn mix(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u32::from(*b)).wrapping_mul(0x0100_0193);
        }
    }
}

impl PriceList {
    /// Builds a list. Of two rules for the same prefix, operator, class and time the later in `rules` stands.
    ///
    /// # Errors
    /// [`NotDigits`] for a prefix with other characters.
    pub fn new(rules: &[PriceRule]) -> Result<PriceList, NotDigits> {
        let mut list = PriceList::default();
        let mut version = Fnv::new();
        for rule in rules {
            version.mix(rule.prefix.as_bytes());
            version.mix(&[0]);
            version.mix(rule.operator.as_bytes());
            version.mix(&[0]);
            version.mix(rule.class.as_bytes());
            version.mix(&rule.from_ms.to_le_bytes());
            version.mix(&rule.price.0.to_le_bytes());
            let same = |g: &Group| g.operator == rule.operator && g.class == rule.class;
            let at = list.groups.iter().position(same).unwrap_or_else(|| {
                list.groups.push(Group {
                    operator: rule.operator.clone(),
                    class: rule.class.clone(),
                    prices: PrefixMap::default(),
                });
                list.groups.len() - 1
            });
            let Some(group) = list.groups.get_mut(at) else {
                continue;
            };
            let length = rule.prefix.len().min(255) as u8;
            let (_, slot) = group.prices.entry(&rule.prefix, || (length, Vec::new()))?;
            match slot.binary_search_by_key(&rule.from_ms, |(from, _)| *from) {
                Ok(at) => slot[at].1 = rule.price,
                Err(at) => slot.insert(at, (rule.from_ms, rule.price)),
            }
        }
        if !rules.is_empty() {
            list.version = version.0.max(1);
        }
        Ok(list)
    }

    /// Nothing is priced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The price of one segment: of the rules in force, one for the number's operator before one for any, then the longest
    /// prefix, then one for the sender's class before one for any. `None` where nothing matches: a refusal, never free.
    #[must_use]
    pub fn find(&self, key: &PriceKey<'_>) -> Option<Money> {
        let mut best: Option<((bool, u8, bool), Money)> = None;
        for group in &self.groups {
            let (by_operator, by_class) = (!group.operator.is_empty(), !group.class.is_empty());
            if by_operator && group.operator != key.operator || by_class && group.class != key.class {
                continue;
            }
            group.prices.walk(key.number, |(length, slot)| {
                let rank = (by_operator, *length, by_class);
                let in_force = slot.iter().rev().find(|(from, _)| *from <= key.at_ms);
                if let Some((_, price)) = in_force
                    && best.is_none_or(|(least, _)| rank >= least)
                {
                    best = Some((rank, *price));
                }
            });
        }
        best.map(|(_, price)| price)
    }
}

/// One line of a refund policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundRule {
    /// For messages that end like this.
    pub state: Final,
    /// Only with one of these `err` codes; empty: any.
    pub errors: Vec<u16>,
    /// The price is kept (charged); otherwise it is released, or given back.
    pub keep: bool,
    /// For ACCEPTD and UNKNOWN: how long a later receipt is awaited before that is the end, ms.
    pub wait_ms: Option<u64>,
}

/// What decides about money after a message is on record. Stands behind the version that is stamped on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Tax in hundredths of a percent: 1600 is 16 %.
    pub tax_bp: u32,
    /// Exceptions from what `charge_on` says; one with `errors` wins over one without.
    pub refunds: Vec<RefundRule>,
}

impl Terms {
    /// Whether a message, or a part of one, that ended like this has earned its price. `taken`: an upstream had accepted it, or
    /// says so by a receipt; without that nothing is ever earned, whatever the policy says.
    #[must_use]
    pub fn earned(&self, charge_on: ChargeOn, state: Final, err: u16, taken: bool) -> bool {
        if !taken && state != Final::Delivered {
            return false;
        }
        match self.rule(state, err) {
            Some(rule) => rule.keep,
            None => charge_on != ChargeOn::Delivered || state == Final::Delivered,
        }
    }

    fn rule(&self, state: Final, err: u16) -> Option<&RefundRule> {
        let of_state = || self.refunds.iter().filter(|r| r.state == state);
        of_state()
            .find(|r| r.errors.contains(&err))
            .or_else(|| of_state().find(|r| r.errors.is_empty()))
    }

    /// How long a later receipt is awaited for a message in this provisional state, ms; `None`: as long as for all.
    #[must_use]
    pub fn wait_ms(&self, provisional: Final) -> Option<u64> {
        self.refunds
            .iter()
            .filter(|r| r.state == provisional)
            .find_map(|r| r.wait_ms)
    }

    /// The tax in an amount that contains it: the amount less the net amount, which is rounded half up to a micro-unit.
    #[must_use]
    pub fn tax_in(&self, amount: Money) -> Money {
        tax_in(amount, self.tax_bp)
    }
}

/// See [`Terms::tax_in`].
#[must_use]
pub fn tax_in(amount: Money, tax_bp: u32) -> Money {
    let whole = 10_000 + i128::from(tax_bp);
    let net = (i128::from(amount.0) * 10_000 + whole / 2).div_euclid(whole);
    // The net of an amount that fits is no larger than it.
    Money(amount.0.saturating_sub(i64::try_from(net).unwrap_or(amount.0)))
}

/// A net amount with its tax, rounded half up to a micro-unit; [`tax_in`] finds exactly that tax again. `None` on overflow.
#[must_use]
pub fn with_tax(net: Money, tax_bp: u32) -> Option<Money> {
    let tax = (i128::from(net.0) * i128::from(tax_bp) + 5_000).div_euclid(10_000);
    i64::try_from(i128::from(net.0) + tax).ok().map(Money)
}

/// The stored form: `tax 1600; UNDELIV 1,2 release; UNKNOWN keep 86400000`.
impl std::fmt::Display for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tax {}", self.tax_bp)?;
        for rule in &self.refunds {
            write!(f, "; {}", rule.state.word())?;
            if !rule.errors.is_empty() {
                let errors: Vec<String> = rule.errors.iter().map(u16::to_string).collect();
                write!(f, " {}", errors.join(","))?;
            }
            f.write_str(if rule.keep { " keep" } else { " release" })?;
            if let Some(wait) = rule.wait_ms {
                write!(f, " {wait}")?;
            }
        }
        Ok(())
    }
}

/// Stored terms that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the stored terms of a tariff are damaged")]
pub struct DamagedTerms;

impl std::str::FromStr for Terms {
    type Err = DamagedTerms;

    fn from_str(text: &str) -> Result<Terms, DamagedTerms> {
        let mut terms = Terms::default();
        for part in text.split("; ") {
            let mut words = part.split(' ');
            let head = words.next().ok_or(DamagedTerms)?;
            if head == "tax" {
                let bp = words.next().and_then(|n| n.parse().ok());
                terms.tax_bp = bp.ok_or(DamagedTerms)?;
                continue;
            }
            let state = Final::from_word(head).ok_or(DamagedTerms)?;
            let mut word = words.next().ok_or(DamagedTerms)?;
            let mut errors = Vec::new();
            if !matches!(word, "keep" | "release") {
                let parsed: Result<Vec<u16>, _> = word.split(',').map(str::parse).collect();
                errors = parsed.map_err(|_| DamagedTerms)?;
                word = words.next().ok_or(DamagedTerms)?;
            }
            terms.refunds.push(RefundRule {
                state,
                errors,
                keep: match word {
                    "keep" => true,
                    "release" => false,
                    _ => return Err(DamagedTerms),
                },
                wait_ms: words
                    .next()
                    .map(str::parse)
                    .transpose()
                    .map_err(|_| DamagedTerms)?,
            });
        }
        Ok(terms)
    }
}

/// A named price list with its terms.
#[derive(Clone, Debug)]
pub struct Tariff {
    /// Its name in the config.
    pub name: String,
    /// ISO 4217 code.
    pub currency: String,
    /// When a charge is earned.
    pub charge_on: ChargeOn,
    /// Prices do not contain the tax yet.
    pub tax_exclusive: bool,
    /// Tax and refunds.
    pub terms: Terms,
    /// Changes whenever anything that decides a charge does.
    pub version: u32,
    prices: PriceList,
}

impl Tariff {
    /// Builds a tariff.
    ///
    /// # Errors
    /// [`NotDigits`] for a prefix with other characters.
    pub fn new(
        name: &str,
        currency: &str,
        charge_on: ChargeOn,
        tax_exclusive: bool,
        terms: Terms,
        rules: &[PriceRule],
    ) -> Result<Tariff, NotDigits> {
        let prices = PriceList::new(rules)?;
        let mut version = Fnv::new();
        version.mix(name.as_bytes());
        version.mix(currency.as_bytes());
        version.mix(&[charge_on as u8, u8::from(tax_exclusive)]);
        version.mix(terms.to_string().as_bytes());
        version.mix(&prices.version.to_le_bytes());
        Ok(Tariff {
            name: name.into(),
            currency: currency.into(),
            charge_on,
            tax_exclusive,
            terms,
            version: version.0.max(1),
            prices,
        })
    }

    /// The version to stamp where an account has prices of its own.
    #[must_use]
    pub fn version_with(&self, own: &PriceList) -> u32 {
        if own.is_empty() {
            self.version
        } else {
            (self.version.rotate_left(7) ^ own.version).max(1)
        }
    }

    /// The price of one segment, the account's own list first; as listed, so that tax may still come on top.
    #[must_use]
    pub fn unit(&self, own: Option<&PriceList>, key: &PriceKey<'_>) -> Option<Money> {
        own.and_then(|own| own.find(key))
            .or_else(|| self.prices.find(key))
    }

    /// What a message of so many segments costs, tax and all; `None` without a price, or beyond the range of money.
    #[must_use]
    pub fn charge(&self, own: Option<&PriceList>, key: &PriceKey<'_>, segments: u8) -> Option<Money> {
        let listed = self.unit(own, key)?.times(u32::from(segments))?;
        if self.tax_exclusive {
            with_tax(listed, self.terms.tax_bp)
        } else {
            Some(listed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(prefix: &str, operator: &str, class: &str, from_ms: u64, price: i64) -> PriceRule {
        PriceRule {
            prefix: prefix.into(),
            operator: operator.into(),
            class: class.into(),
            from_ms,
            price: Money(price),
        }
    }

    fn key<'a>(number: &'a str, operator: &'a str, class: &'a str, at_ms: u64) -> PriceKey<'a> {
        PriceKey {
            number: number.as_bytes(),
            operator,
            class,
            at_ms,
        }
    }

    fn list(rules: &[PriceRule]) -> PriceList {
        PriceList::new(rules).unwrap()
    }

    #[test]
    fn the_longest_prefix_prices_and_nothing_is_free_by_accident() {
        let l = list(&[rule("254", "", "", 0, 800_000), rule("25471", "", "", 0, 500_000)]);
        assert_eq!(l.find(&key("254712345678", "", "", 1)), Some(Money(500_000)));
        assert_eq!(l.find(&key("254112345678", "", "", 1)), Some(Money(800_000)));
        assert_eq!(l.find(&key("447700900123", "", "", 1)), None);
    }

    #[test]
    fn operator_beats_prefix_and_class_breaks_ties() {
        let l = list(&[
            rule("25471", "", "", 0, 5),
            rule("", "airtel", "", 0, 4),
            rule("25471", "", "promotional", 0, 3),
            rule("254", "", "promotional", 0, 2),
        ]);
        assert_eq!(l.find(&key("254712", "safaricom", "", 0)), Some(Money(5)));
        assert_eq!(
            l.find(&key("254712", "safaricom", "promotional", 0)),
            Some(Money(3))
        );
        assert_eq!(
            l.find(&key("254722", "safaricom", "promotional", 0)),
            Some(Money(2))
        );
        assert_eq!(l.find(&key("254712", "airtel", "promotional", 0)), Some(Money(4)));
        assert_eq!(l.find(&key("254722", "", "", 0)), None);
    }

    #[test]
    fn a_price_is_in_force_from_its_time_and_not_before() {
        let l = list(&[
            rule("254", "", "", 0, 10),
            rule("254", "", "", 2_000, 12),
            rule("254", "", "", 1_000, 11),
            rule("25471", "", "", 1_500, 9),
        ]);
        let at = |ms| l.find(&key("254711", "", "", ms)).unwrap().0;
        assert_eq!(
            [0, 999, 1_000, 1_499, 1_500, 2_000].map(at),
            [10, 10, 11, 11, 9, 9]
        );
        assert_eq!(l.find(&key("254722", "", "", 9_999)), Some(Money(12)));
    }

    #[test]
    fn any_change_changes_the_version() {
        let tariff = |price: i64, tax_bp: u32, keep: bool| {
            let terms = Terms {
                tax_bp,
                refunds: vec![RefundRule {
                    state: Final::Unknown,
                    errors: vec![],
                    keep,
                    wait_ms: None,
                }],
            };
            let rules = [rule("254", "", "", 0, price)];
            Tariff::new("t", "KES", ChargeOn::Submitted, true, terms, &rules).unwrap()
        };
        let one = tariff(800_000, 1_600, true);
        for other in [
            tariff(800_001, 1_600, true),
            tariff(800_000, 1_500, true),
            tariff(800_000, 1_600, false),
        ] {
            assert_ne!(one.version, other.version);
        }
        assert_eq!(one.version, tariff(800_000, 1_600, true).version);
        let own = list(&[rule("254", "", "", 0, 1)]);
        assert_ne!(one.version, one.version_with(&own));
        assert_eq!(one.version, one.version_with(&PriceList::default()));
        assert_eq!(one.charge(Some(&own), &key("254", "", "", 0), 1), Some(Money(1)));
        assert_eq!(
            one.charge(None, &key("254", "", "", 0), 2),
            Some(Money(1_856_000))
        );
    }

    #[test]
    fn a_refund_policy_decides_by_state_and_error_and_never_charges_what_nobody_took() {
        let terms: Terms = "tax 0; UNDELIV release; UNDELIV 7,9 keep; UNKNOWN keep 86400000; REJECTD release"
            .parse()
            .unwrap();
        let earned = |on, state, err, taken| terms.earned(on, state, err, taken);
        for on in [ChargeOn::Accepted, ChargeOn::Submitted, ChargeOn::Delivered] {
            assert!(earned(on, Final::Delivered, 0, true));
            assert!(!earned(on, Final::Undeliverable, 1, true));
            assert!(earned(on, Final::Undeliverable, 9, true), "its own rule wins");
            assert!(earned(on, Final::Unknown, 0, true));
            assert!(!earned(on, Final::Rejected, 0, true));
            for state in [Final::Expired, Final::Rejected, Final::Deleted, Final::Unknown] {
                assert!(!earned(on, state, 7, false), "never taken");
            }
        }
        assert!(
            earned(ChargeOn::Submitted, Final::Expired, 0, true),
            "no rule: as charge_on says"
        );
        assert!(!earned(ChargeOn::Delivered, Final::Expired, 0, true));
        assert_eq!(terms.wait_ms(Final::Unknown), Some(86_400_000));
        assert_eq!(terms.wait_ms(Final::Accepted), None);
        assert_eq!(terms.to_string().parse::<Terms>(), Ok(terms));
        for broken in [
            "",
            "tax",
            "tax x",
            "tax 1; DELIVRD",
            "tax 1; NOWORD keep",
            "tax 1; UNKNOWN keep x",
        ] {
            assert!(broken.parse::<Terms>().is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn tax_put_on_top_is_found_again_to_the_micro_unit(net in 0i64..1_000_000_000_000_000, bp in 0u32..10_000) {
            let whole = with_tax(Money(net), bp).unwrap();
            prop_assert_eq!(whole.0 - tax_in(whole, bp).0, net);
        }

        #[test]
        fn tax_inside_an_amount_is_within_half_a_micro_unit(amount in 0i64..9_000_000_000_000_000_000, bp in 0u32..20_000) {
            let tax = i128::from(tax_in(Money(amount), bp).0);
            let whole = 10_000 + i128::from(bp);
            // tax * (1 + rate) is what the amount's tax share should be, give or take the rounding of the net.
            let off = tax * whole - i128::from(amount) * i128::from(bp);
            prop_assert!(off.abs() * 2 <= whole, "{}", off);
        }
    }
}
