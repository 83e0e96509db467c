//! Longest-prefix match over decimal digits: the one lookup behind routes and prices.

/// A trie over the digits 0–9. Building allocates; looking up touches at most one node per digit.
#[derive(Clone, Debug)]
pub struct PrefixMap<T> {
    nodes: Vec<[u32; 10]>,
    values: Vec<Option<T>>,
}

/// A prefix that holds something other than digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a prefix has digits only")]
pub struct NotDigits;

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        PrefixMap {
            nodes: vec![[0; 10]],
            values: vec![None],
        }
    }
}

impl<T> PrefixMap<T> {
    /// The value stored for exactly `prefix`, created by `make` if there is none. An empty prefix matches every number.
    ///
    /// # Errors
    /// [`NotDigits`].
    pub fn entry(&mut self, prefix: &str, make: impl FnOnce() -> T) -> Result<&mut T, NotDigits> {
        let mut at = 0usize;
        for c in prefix.bytes() {
            let digit = usize::from(c.checked_sub(b'0').filter(|d| *d < 10).ok_or(NotDigits)?);
            if self.nodes[at][digit] == 0 {
                self.nodes[at][digit] = self.nodes.len() as u32;
                self.nodes.push([0; 10]);
                self.values.push(None);
            }
            at = self.nodes[at][digit] as usize;
        }
        Ok(self.values[at].get_or_insert_with(make))
    }

    /// Calls `each` for every stored prefix of `digits`, shortest first.
    pub fn walk<'a>(&'a self, digits: &[u8], mut each: impl FnMut(&'a T)) {
        let mut at = 0usize;
        if let Some(v) = &self.values[0] {
            each(v);
        }
        for &c in digits {
            let digit = usize::from(c.wrapping_sub(b'0'));
            at = match self.nodes[at].get(digit) {
                Some(&next) if next != 0 => next as usize,
                _ => return,
            };
            if let Some(v) = &self.values[at] {
                each(v);
            }
        }
    }

    /// Every value, in no order of meaning.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().flatten()
    }

    /// The value of the longest stored prefix of `digits`.
    #[must_use]
    pub fn longest<'a>(&'a self, digits: &[u8]) -> Option<&'a T> {
        let mut best = None;
        self.walk(digits, |v| best = Some(v));
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_prefix_wins_and_letters_match_nothing() {
        let mut map = PrefixMap::default();
        for p in ["", "254", "25471"] {
            *map.entry(p, || p).unwrap() = p;
        }
        assert_eq!(map.longest(b"254712345678"), Some(&"25471"));
        assert_eq!(map.longest(b"254112345678"), Some(&"254"));
        assert_eq!(map.longest(b"x54"), Some(&""));
        assert_eq!(map.entry("25x", || "").err(), Some(NotDigits));
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_search(
            prefixes in proptest::collection::vec("[0-9]{0,6}", 0..40),
            number in "[0-9]{1,15}",
        ) {
            let mut map = PrefixMap::default();
            for p in &prefixes { map.entry(p, || p.clone()).unwrap(); }
            let want = prefixes.iter().filter(|p| number.starts_with(p.as_str())).max_by_key(|p| p.len());
            prop_assert_eq!(map.longest(number.as_bytes()), want);
        }
    }
}
