//! The number plan: which operator holds a number's range, and which numbers have moved to another.

use std::sync::Arc;

use super::prefix::{NotDigits, PrefixMap};

/// An operator of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// Its name in the plan.
    pub name: String,
    /// Mobile country code; empty: not given.
    pub mcc: String,
    /// Mobile network code; empty: not given.
    pub mnc: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    operator: u16,
    /// Length of the prefix.
    prefix: u8,
    /// Digits of a whole number; 0: not given.
    digits: u8,
}

/// Number ranges by longest prefix, and overrides. Immutable; swapped whole.
#[derive(Clone, Debug, Default)]
pub struct NumberPlan {
    operators: Vec<Operator>,
    names: Vec<String>,
    ranges: PrefixMap<Held>,
    ported: Arc<Ported>,
}

/// Why the plan gives a number the operator that it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Because {
    /// By the longest range, whose prefix has so many digits.
    Prefix(u8),
    /// It has been ported, on this day since 1970-01-01.
    Ported(u16),
}

/// Why a number is none that a text can be sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotMobile {
    /// It is in no range of the plan.
    Range,
    /// Numbers of its range have another length.
    Digits,
}

impl NumberPlan {
    /// Adds a range; of two for the same prefix the later stands. `digits`: how long numbers in it are, country code included;
    /// 0: not known.
    ///
    /// # Errors
    /// [`NotDigits`].
    pub fn add(&mut self, prefix: &str, operator: Operator, digits: u8) -> Result<(), NotDigits> {
        let known = self.names.iter().position(|n| *n == operator.name);
        *self.ranges.entry(prefix, Held::default)? = Held {
            operator: known.unwrap_or(self.names.len()) as u16,
            prefix: prefix.len().min(255) as u8,
            digits,
        };
        if known.is_none() {
            self.names.push(operator.name.clone());
            self.operators.push(operator);
        }
        Ok(())
    }

    /// Puts overrides in force.
    pub fn set_ported(&mut self, ported: Ported) {
        self.ported = Arc::new(ported);
    }

    /// The operator of a number in E.164 digits; empty where no range is known.
    #[must_use]
    pub fn operator(&self, number: &[u8]) -> &str {
        self.explain(number).map_or("", |(name, _)| name)
    }

    /// The operator of a number, and why.
    #[must_use]
    pub fn explain(&self, number: &[u8]) -> Option<(&str, Because)> {
        let (at, because) = match self.ported.find(number) {
            Some((operator, day)) => (operator, Because::Ported(day)),
            None => {
                let held = self.ranges.longest(number)?;
                (held.operator, Because::Prefix(held.prefix))
            }
        };
        Some((self.names.get(usize::from(at))?, because))
    }

    /// Whether a text can be sent to a number of this plan's country.
    ///
    /// # Errors
    /// [`NotMobile`].
    pub fn mobile(&self, number: &[u8]) -> Result<(), NotMobile> {
        let held = self.ranges.longest(number).ok_or(NotMobile::Range)?;
        if held.digits != 0 && number.len() != usize::from(held.digits) {
            return Err(NotMobile::Digits);
        }
        Ok(())
    }

    /// Nothing is known of any number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Names of all operators, in the order of their first range.
    #[must_use]
    pub fn operators(&self) -> &[String] {
        &self.names
    }

    /// An operator by name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Operator> {
        self.operators.iter().find(|o| o.name == name)
    }

    /// How many numbers are overridden.
    #[must_use]
    pub fn ported(&self) -> usize {
        self.ported.len()
    }
}

/// Numbers that have moved to another operator: an open-addressed table of ten octets a place, about 14 an entry. A lookup is one
/// hash and, nearly always, one cache line.
#[derive(Clone, Debug, Default)]
pub struct Ported {
    /// Number (50 bits) and operator (14 bits); 0: free.
    places: Vec<u64>,
    /// Since when, in days since 1970-01-01.
    days: Vec<u16>,
    len: usize,
}

/// Bits of the operator in a place.
const OPERATOR_BITS: u32 = 14;

impl Ported {
    /// A table of `rows`: number, index of the operator in the plan, day. Of two for a number the later stands.
    #[must_use]
    pub fn new(rows: impl ExactSizeIterator<Item = (u64, u16, u16)>) -> Ported {
        // Seven tenths full: the run to a free place stays within a cache line or two.
        let size = (rows.len() * 10).div_ceil(7).max(rows.len() + 1);
        let mut table = Ported {
            places: vec![0; if rows.len() == 0 { 0 } else { size }],
            days: vec![0; if rows.len() == 0 { 0 } else { size }],
            len: 0,
        };
        for (number, operator, day) in rows {
            table.put(number, operator, day);
        }
        table
    }

    fn put(&mut self, number: u64, operator: u16, day: u16) {
        let entry = number << OPERATOR_BITS | u64::from(operator) & ((1 << OPERATOR_BITS) - 1);
        let mut at = self.home(number);
        for _ in 0..self.places.len() {
            let Some(place) = self.places.get_mut(at) else {
                return;
            };
            let fresh = *place == 0;
            if fresh || *place >> OPERATOR_BITS == number {
                *place = entry;
                if let Some(slot) = self.days.get_mut(at) {
                    *slot = day;
                }
                self.len += usize::from(fresh);
                return;
            }
            at = if at + 1 == self.places.len() { 0 } else { at + 1 };
        }
    }

    /// Where the search for a number begins.
    fn home(&self, number: u64) -> usize {
        let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let hash = (hash ^ hash >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((u128::from(hash) * self.places.len() as u128) >> 64) as usize
    }

    /// The operator and the day of a number in E.164 digits.
    #[must_use]
    pub fn find(&self, number: &[u8]) -> Option<(u16, u16)> {
        if self.len == 0 {
            return None;
        }
        let number = digits_of(number)?;
        let mut at = self.home(number);
        for _ in 0..self.places.len() {
            let place = *self.places.get(at)?;
            if place == 0 {
                return None;
            }
            if place >> OPERATOR_BITS == number {
                let operator = (place & ((1 << OPERATOR_BITS) - 1)) as u16;
                return Some((operator, *self.days.get(at)?));
            }
            at = if at + 1 == self.places.len() { 0 } else { at + 1 };
        }
        None
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// No entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets it takes.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.places.capacity() * 8 + self.days.capacity() * 2
    }
}

/// An E.164 number as an integer: its first digit is never 0, so that nothing is lost. `None` for more than 15 digits, or others.
#[must_use]
pub fn digits_of(number: &[u8]) -> Option<u64> {
    if number.is_empty() || number.len() > 15 {
        return None;
    }
    number.iter().try_fold(0u64, |n, c| {
        let digit = c.checked_sub(b'0').filter(|d| *d < 10)?;
        Some(n * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn kenya() -> NumberPlan {
        let mut plan = NumberPlan::default();
        for (prefix, operator) in [("2547", "safaricom"), ("25473", "airtel"), ("254763", "equitel")] {
            let operator = Operator {
                name: operator.into(),
                ..Operator::default()
            };
            plan.add(prefix, operator, 12).unwrap();
        }
        plan
    }

    #[test]
    fn the_longest_range_names_the_operator() {
        let mut plan = kenya();
        assert_eq!(plan.operator(b"254712345678"), "safaricom");
        assert_eq!(plan.operator(b"254733345678"), "airtel");
        assert_eq!(
            plan.explain(b"254763345678"),
            Some(("equitel", Because::Prefix(6)))
        );
        assert_eq!(plan.operator(b"44770"), "");
        assert!(plan.add("2547x", Operator::default(), 0).is_err());
        assert_eq!(plan.operators().len(), 3);
    }

    #[test]
    fn a_ported_number_is_its_new_operators() {
        let mut plan = kenya();
        plan.set_ported(Ported::new([(254_712_345_678, 1, 20_000)].into_iter()));
        assert_eq!(
            plan.explain(b"254712345678"),
            Some(("airtel", Because::Ported(20_000)))
        );
        assert_eq!(plan.operator(b"254712345679"), "safaricom");
        assert_eq!(plan.ported(), 1);
    }

    #[test]
    fn numbers_outside_the_plan_are_not_mobile() {
        let plan = kenya();
        assert_eq!(plan.mobile(b"254712345678"), Ok(()));
        assert_eq!(
            plan.mobile(b"254201234567"),
            Err(NotMobile::Range),
            "Nairobi landline"
        );
        assert_eq!(plan.mobile(b"25471234567"), Err(NotMobile::Digits));
        assert_eq!(plan.mobile(b"2547123456789"), Err(NotMobile::Digits));
    }

    #[test]
    fn an_override_takes_less_than_sixteen_octets() {
        let table = Ported::new((0..100_000u32).map(|n| (254_700_000_000 + u64::from(n), 1, 1)));
        assert_eq!(table.len(), 100_000);
        assert!(table.octets() <= 16 * 100_000, "{}", table.octets());
    }

    proptest! {
        #[test]
        fn overrides_agree_with_a_map(
            rows in proptest::collection::vec((1u64..300, 0u16..9, 0u16..9), 0..200),
            asked in proptest::collection::vec(1u64..400, 50),
        ) {
            let table = Ported::new(rows.clone().into_iter());
            let map: HashMap<u64, (u16, u16)> = rows.into_iter().map(|(n, o, d)| (n, (o, d))).collect();
            prop_assert_eq!(table.len(), map.len());
            for n in asked {
                prop_assert_eq!(table.find(n.to_string().as_bytes()), map.get(&n).copied());
            }
        }
    }
}
