//! Prices per segment by destination prefix.

use super::outcome::ChargeOn;
use super::prefix::{NotDigits, PrefixMap};
use crate::money::Money;

/// A named price list.
#[derive(Clone, Debug)]
pub struct Tariff {
    /// Its name in the config.
    pub name: String,
    /// ISO 4217 code.
    pub currency: String,
    /// When a charge is earned.
    pub charge_on: ChargeOn,
    /// Changes whenever a price, the currency or `charge_on` does; stamped on every message.
    pub version: u32,
    prices: PrefixMap<Money>,
}

impl Tariff {
    /// Builds a price list from `(prefix, price per segment)` pairs. An empty prefix prices every destination.
    ///
    /// # Errors
    /// [`NotDigits`] for a prefix with other characters.
    pub fn new(
        name: &str,
        currency: &str,
        charge_on: ChargeOn,
        list: &[(String, Money)],
    ) -> Result<Tariff, NotDigits> {
        let mut prices = PrefixMap::default();
        // FNV-1a over everything that decides a charge: equal lists give equal versions on every node and restart.
        let mut version = 0x811C_9DC5u32;
        let mut mix = |bytes: &[u8]| {
            for b in bytes {
                version = (version ^ u32::from(*b)).wrapping_mul(0x0100_0193);
            }
        };
        mix(name.as_bytes());
        mix(currency.as_bytes());
        mix(&[charge_on as u8]);
        for (prefix, price) in list {
            mix(prefix.as_bytes());
            mix(&price.0.to_le_bytes());
            *prices.entry(prefix, || *price)? = *price;
        }
        Ok(Tariff {
            name: name.into(),
            currency: currency.into(),
            charge_on,
            version,
            prices,
        })
    }

    /// The price of one segment to `number`; `None` where no prefix matches (a refusal, never free).
    #[must_use]
    pub fn price(&self, number: &[u8]) -> Option<Money> {
        self.prices.longest(number).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(prices: &[(&str, i64)]) -> Tariff {
        let list: Vec<_> = prices
            .iter()
            .map(|(p, m)| ((*p).to_string(), Money(*m)))
            .collect();
        Tariff::new("t", "KES", ChargeOn::Submitted, &list).unwrap()
    }

    #[test]
    fn the_longest_prefix_prices_and_nothing_is_free_by_accident() {
        let t = list(&[("254", 800_000), ("25471", 500_000)]);
        assert_eq!(t.price(b"254712345678"), Some(Money(500_000)));
        assert_eq!(t.price(b"254112345678"), Some(Money(800_000)));
        assert_eq!(t.price(b"447700900123"), None);
    }

    #[test]
    fn any_change_changes_the_version() {
        let a = list(&[("254", 800_000)]).version;
        assert_ne!(a, list(&[("254", 800_001)]).version);
        assert_ne!(a, list(&[("255", 800_000)]).version);
        assert_eq!(a, list(&[("254", 800_000)]).version);
    }
}
