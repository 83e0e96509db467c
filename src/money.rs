//! Money in integer micro-units (1 KES = 1,000,000): checked arithmetic, parsed from decimal strings, never a float.

use std::fmt;

/// An amount in millionths of its currency's unit. Negative values are debts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Money(pub i64);

/// Why a string is not an amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MoneyError {
    /// Not an optional sign, digits, and an optional point with digits.
    #[error("not a decimal amount such as \"0.80\"")]
    Syntax,
    /// More than six digits after the point.
    #[error("at most 6 decimals")]
    Precision,
    /// Does not fit (about 9.2 million million units).
    #[error("amount too large")]
    Range,
}

const UNIT: i64 = 1_000_000;

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money(0);
    /// The most that a balance, a credit limit or a payment may be: nine thousand million units. Sums of a few of them stay
    /// far from the ends of the range, here and in the store.
    pub const MOST: Money = Money(9_000_000_000 * UNIT);

    /// Reads a decimal string: `"0.80"`, `"-12"`, `"5000.00"`. No exponent, no separators, at most six decimals.
    ///
    /// # Errors
    /// [`MoneyError`] names what is wrong; nothing is ever rounded.
    pub fn parse(text: &str) -> Result<Money, MoneyError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let has_point = digits.len() != whole.len();
        if whole.is_empty() || (has_point && fraction.is_empty()) {
            return Err(MoneyError::Syntax);
        }
        if !whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit()) {
            return Err(MoneyError::Syntax);
        }
        if fraction.len() > 6 {
            return Err(MoneyError::Precision);
        }
        let whole: i64 = whole.parse().map_err(|_| MoneyError::Range)?;
        let micro: i64 = if fraction.is_empty() {
            0
        } else {
            format!("{fraction:0<6}")
                .parse()
                .map_err(|_| MoneyError::Syntax)?
        };
        let value = whole
            .checked_mul(UNIT)
            .and_then(|w| w.checked_add(micro))
            .ok_or(MoneyError::Range)?;
        Ok(Money(if negative { -value } else { value }))
    }

    /// Sum; `None` on overflow.
    #[must_use]
    pub const fn checked_add(self, other: Money) -> Option<Money> {
        match self.0.checked_add(other.0) {
            Some(v) => Some(Money(v)),
            None => None,
        }
    }

    /// Difference; `None` on overflow.
    #[must_use]
    pub const fn checked_sub(self, other: Money) -> Option<Money> {
        match self.0.checked_sub(other.0) {
            Some(v) => Some(Money(v)),
            None => None,
        }
    }

    /// The price of `count` segments; `None` on overflow.
    #[must_use]
    pub const fn times(self, count: u32) -> Option<Money> {
        match self.0.checked_mul(count as i64) {
            Some(v) => Some(Money(v)),
            None => None,
        }
    }
}

impl fmt::Display for Money {
    /// At least two decimals, as many as the amount has: `0.80`, `-3.1415`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let abs = self.0.unsigned_abs();
        let micro = format!("{:06}", abs % UNIT as u64);
        let kept = micro.trim_end_matches('0').len().max(2);
        let text = format!(
            "{sign}{}.{}",
            abs / UNIT as u64,
            micro.get(..kept).unwrap_or(&micro)
        );
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_read_and_print() {
        for (text, micro, shown) in [
            ("0.80", 800_000, "0.80"),
            ("5000", 5_000_000_000, "5000.00"),
            ("-1.000001", -1_000_001, "-1.000001"),
        ] {
            assert_eq!(Money::parse(text), Ok(Money(micro)));
            assert_eq!(Money(micro).to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused_by_cause() {
        for text in ["", ".", "1.", ".5", "1e3", "1,000", "+1", " 1", "0x1", "--1"] {
            assert_eq!(Money::parse(text), Err(MoneyError::Syntax), "{text}");
        }
        assert_eq!(Money::parse("0.0000001"), Err(MoneyError::Precision));
        assert_eq!(Money::parse("9223372036855"), Err(MoneyError::Range));
    }

    proptest! {
        #[test]
        fn printing_loses_nothing(micro in -9_000_000_000_000_000_000i64..9_000_000_000_000_000_000) {
            prop_assert_eq!(Money::parse(&Money(micro).to_string()), Ok(Money(micro)));
        }
    }
}
