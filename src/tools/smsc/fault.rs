//! Randomness that repeats: SplitMix64.

/// A generator seeded per connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True in `rate` of all cases.
    pub fn hits(&mut self, rate: f64) -> bool {
        rate > 0.0 && (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_kept_and_seeds_repeat() {
        let mut r = Random::new(7);
        let n = (0..10_000).filter(|_| r.hits(0.3)).count();
        assert!((2_800..3_200).contains(&n), "{n}");
        assert!(!r.hits(0.0) && r.hits(1.0));
        assert_eq!(Random::new(3).next(), Random::new(3).next());
    }
}
