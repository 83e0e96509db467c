//! The number plan: which operator holds a number's range.

use super::prefix::{NotDigits, PrefixMap};

/// Number ranges by longest prefix. Immutable; swapped whole.
#[derive(Clone, Debug, Default)]
pub struct NumberPlan {
    names: Vec<String>,
    ranges: PrefixMap<u16>,
}

impl NumberPlan {
    /// Adds a range; of two for the same prefix the later stands.
    ///
    /// # Errors
    /// [`NotDigits`].
    pub fn add(&mut self, prefix: &str, operator: &str) -> Result<(), NotDigits> {
        let known = self.names.iter().position(|n| n == operator);
        *self.ranges.entry(prefix, || 0)? = known.unwrap_or(self.names.len()) as u16;
        if known.is_none() {
            self.names.push(operator.into());
        }
        Ok(())
    }

    /// The operator of a number in E.164 digits; empty where no range is known.
    #[must_use]
    pub fn operator(&self, number: &[u8]) -> &str {
        self.ranges
            .longest(number)
            .and_then(|at| self.names.get(usize::from(*at)))
            .map_or("", String::as_str)
    }

    /// All operators, in the order of their first range.
    #[must_use]
    pub fn operators(&self) -> &[String] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_range_names_the_operator() {
        let mut plan = NumberPlan::default();
        for (prefix, operator) in [("2547", "safaricom"), ("25473", "airtel"), ("254763", "equitel")] {
            plan.add(prefix, operator).unwrap();
        }
        assert_eq!(plan.operator(b"254712345678"), "safaricom");
        assert_eq!(plan.operator(b"254733345678"), "airtel");
        assert_eq!(plan.operator(b"254763345678"), "equitel");
        assert_eq!(plan.operator(b"44770"), "");
        assert!(plan.add("2547x", "x").is_err());
        assert_eq!(plan.operators().len(), 3);
    }
}
