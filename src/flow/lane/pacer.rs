//! How fast an upstream, or one of its binds, may be written to.
//!
//! The contract is a number of PDUs in any second, wherever the second begins, as SMSCs count. PDUs are spaced evenly (the
//! generic cell rate algorithm, ITU-T I.371): a step is 2 % longer than the contract's, and a PDU may come so much before its
//! time as timers of a millisecond and a busy machine make others late. Together they leave some room in every second:
//! `(1 s + EARLY) / step < tps`, hence at most `tps` PDUs in it, and 98 % of the contract is used where there is work.

/// So much longer is a step than the contract's, in thousandths.
const LONGER: u64 = 20;
/// A PDU may come this much before its time, ns; see the module's description for why it is less than `LONGER` of a second.
const EARLY_NS: u64 = 12_000_000;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
/// One slowdown for all refusals of one burst, ms.
const CALM_MS: u64 = 500;
/// What a refusal leaves of the rate.
const SLOWER: f64 = 0.75;
/// How much of the whole rate comes back in a second without a refusal.
const RECOVERY: f64 = 0.05;
/// The slowest that refusals make it: a share of the contract, and without a contract PDUs a second.
const FLOOR: f64 = 0.05;
const FLOOR_TPS: f64 = 10.0;
/// Without a contract the rate that refusals have taught is forgotten after this, ms.
const FORGET_MS: u64 = 60_000;

/// See the module's description. Times are ms since the epoch.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// PDUs a second by contract; 0: none.
    tps: u32,
    /// When the next PDU is due at the contract's pace, ns since the epoch.
    next_ns: u64,
    /// What refusals have made of the rate, PDUs a second.
    slowed: Option<Slowed>,
    /// PDUs in the second that began at this ms, and in the one before.
    counted: (u64, u32, u32),
}

#[derive(Clone, Copy, Debug)]
struct Slowed {
    rate: f64,
    /// The rate that was too much.
    was: f64,
    since_ms: u64,
    raised_ms: u64,
}

impl Pacer {
    /// At most `tps` PDUs in any second; 0: as many as there are.
    pub fn new(tps: u32) -> Pacer {
        Pacer {
            tps,
            ..Pacer::default()
        }
    }

    /// Whether anything is paced at the moment.
    pub fn paces(&self) -> bool {
        self.tps > 0 || self.slowed.is_some()
    }

    /// PDUs a second that it lets through now, if there is a limit.
    pub fn rate(&self) -> Option<f64> {
        let contract = (self.tps > 0).then_some(f64::from(self.tps));
        self.slowed.map(|s| s.rate).or(contract)
    }

    /// When the next PDU may go, if not now.
    pub fn wait(&self, now_ms: u64) -> Option<u64> {
        if !self.paces() {
            return None;
        }
        let at = self.next_ns.saturating_sub(EARLY_NS);
        (at > now_ms * MS).then(|| at.div_ceil(MS))
    }

    /// A PDU goes.
    pub fn spend(&mut self, now_ms: u64) {
        self.count(now_ms);
        if self.slowed.is_some() {
            self.recover(now_ms);
        }
        if let Some(step) = self.step() {
            self.next_ns = self.next_ns.max(now_ms * MS) + step;
        }
    }

    /// A PDU that has had its turn is written only `ms` later: so does everything behind it.
    pub fn late(&mut self, ms: u64) {
        if self.paces() {
            self.next_ns += ms * MS;
        }
    }

    /// The SMSC says that it is too fast: slower from here on, until it has been content for a while.
    pub fn refused(&mut self, now_ms: u64) {
        if self.slowed.is_some_and(|s| now_ms < s.since_ms + CALM_MS) {
            return;
        }
        let (_, current, last) = self.counted;
        let measured = f64::from(current.max(last)).max(FLOOR_TPS);
        let was = self.rate().unwrap_or(measured);
        let floor = if self.tps > 0 {
            (f64::from(self.tps) * FLOOR).max(1.0_f64.min(f64::from(self.tps)))
        } else {
            FLOOR_TPS
        };
        self.slowed = Some(Slowed {
            rate: (was * SLOWER).max(floor),
            was,
            since_ms: now_ms,
            raised_ms: now_ms,
        });
    }

    fn recover(&mut self, now_ms: u64) {
        let Some(slowed) = &mut self.slowed else { return };
        let whole = if self.tps > 0 {
            f64::from(self.tps)
        } else {
            slowed.was
        };
        let seconds = now_ms.saturating_sub(slowed.raised_ms) as f64 / 1e3;
        slowed.rate += whole * RECOVERY * seconds;
        slowed.raised_ms = now_ms.max(slowed.raised_ms);
        let over = if self.tps > 0 {
            slowed.rate >= whole
        } else {
            now_ms >= slowed.since_ms + FORGET_MS
        };
        if over {
            self.slowed = None;
        }
    }

    fn step(&self) -> Option<u64> {
        let longer = |step: u64| step + step * LONGER / 1_000 + 1;
        match self.slowed {
            Some(slowed) => Some(longer((SECOND as f64 / slowed.rate.max(0.001)) as u64)),
            None => (self.tps > 0).then(|| longer(SECOND / u64::from(self.tps))),
        }
    }

    fn count(&mut self, now_ms: u64) {
        let (began, current, _) = self.counted;
        match now_ms.saturating_sub(began) {
            0..1_000 => self.counted.1 += 1,
            1_000..2_000 => self.counted = (now_ms, 1, current),
            _ => self.counted = (now_ms, 1, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// When PDUs leave in `ms` milliseconds if somebody asks at the times that `late` makes of those named.
    fn run(pacer: &mut Pacer, from: u64, ms: u64, mut late: impl FnMut() -> u64) -> Vec<u64> {
        let (mut now, mut sent) = (from, Vec::new());
        while now < from + ms {
            match pacer.wait(now) {
                Some(at) => now = at + late(),
                None => {
                    pacer.spend(now);
                    sent.push(now);
                }
            }
        }
        sent
    }

    /// The most in any second, wherever it begins.
    fn most(sent: &[u64]) -> usize {
        let in_second = |i: usize| sent[i..].partition_point(|t| *t < sent[i] + 1_000);
        (0..sent.len()).map(in_second).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn no_second_ever_holds_more_than_the_contract_and_98_percent_are_used(
            tps in 1u32..5_000, start in 1_700_000_000_000u64..1_700_000_001_000, seed in any::<u64>()
        ) {
            let mut random = seed;
            let mut pacer = Pacer::new(tps);
            let sent = run(&mut pacer, start, 5_000, || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Timers are late, now and then a lot.
                (random >> 60) % 3
            });
            prop_assert!(most(&sent) <= tps as usize, "{} in a second at {}", most(&sent), tps);
            let least = f64::from(tps) * 5.0 * 0.97 - 1.0;
            prop_assert!(sent.len() as f64 >= least, "{} of {}", sent.len(), tps * 5);
        }

        #[test]
        fn after_a_pause_no_burst_makes_up_for_it(tps in 1u32..2_000, idle in 0u64..100_000) {
            let mut pacer = Pacer::new(tps);
            let start = 1_700_000_000_000;
            let mut sent = run(&mut pacer, start, 1_500, || 0);
            sent.extend(run(&mut pacer, start + 1_500 + idle, 1_500, || 0));
            prop_assert!(most(&sent) <= tps as usize);
        }
    }

    #[test]
    fn it_slows_down_when_refused_and_recovers_without_exceeding_the_contract() {
        let mut pacer = Pacer::new(100);
        let mut sent = run(&mut pacer, 10_000, 1_000, || 0);
        (0..30).for_each(|_| pacer.refused(11_000));
        assert_eq!(pacer.rate(), Some(75.0), "one slowdown for a burst");
        let after = run(&mut pacer, 11_000, 1_000, || 0);
        assert!((70..=80).contains(&after.len()), "{}", after.len());
        sent.extend(after);
        sent.extend(run(&mut pacer, 12_000, 8_000, || 0));
        assert!(most(&sent) <= 100);
        assert_eq!(pacer.rate(), Some(100.0));
        let last = run(&mut pacer, 20_000, 1_000, || 0);
        assert!(last.len() >= 97, "{}", last.len());
        for n in 0..100 {
            pacer.refused(30_000 + n * 600);
        }
        assert!(pacer.rate().is_some_and(|r| r >= 5.0));
    }

    #[test]
    fn without_a_contract_the_smsc_teaches_one_and_it_is_forgotten() {
        let mut pacer = Pacer::new(0);
        assert_eq!(pacer.wait(1_000), None);
        (0..400).for_each(|i| pacer.spend(5_000 + i * 2));
        pacer.refused(5_900);
        assert_eq!(pacer.rate(), Some(300.0));
        assert!(pacer.wait(5_900).is_none(), "what went before was not paced");
        for now in (6_000..67_000).step_by(10) {
            if pacer.wait(now).is_none() {
                pacer.spend(now);
            }
        }
        assert_eq!(pacer.rate(), None);
    }

    #[test]
    fn what_is_written_late_pushes_the_rest_back() {
        let mut pacer = Pacer::new(10);
        pacer.spend(1_000);
        pacer.late(50);
        assert_eq!(pacer.wait(1_101), Some(1_141));
    }
}
