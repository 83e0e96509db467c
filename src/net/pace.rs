//! How many unanswered submits an SMSC takes well: few at first, more while it answers as quickly as at its best, half as many
//! when it says that it is too much.

/// Unanswered submits at the start.
const START: f64 = 10.0;
/// An answer this much later than the quickest ones is slow, whatever the ratio, in ms: clocks tick in milliseconds.
const SLACK_MS: u64 = 20;
/// One halving for all refusals of one burst.
const CALM_MS: u64 = 100;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Pace {
    window: f64,
    cap: f64,
    /// Below it every answer widens the window by one; above it a whole windowful does.
    steady: f64,
    /// The quickest answer, creeping up so that a slower SMSC is not compared with its past for ever.
    quickest_ms: f64,
    halved_ms: u64,
}

impl Pace {
    /// At most `cap` unanswered submits.
    pub fn new(cap: usize) -> Pace {
        let cap = cap.max(1) as f64;
        Pace {
            window: START.min(cap),
            cap,
            steady: cap,
            quickest_ms: f64::INFINITY,
            halved_ms: 0,
        }
    }

    /// Unanswered submits that may be out now; at least 1.
    pub fn window(&self) -> usize {
        self.window as usize
    }

    /// An answer came after `took_ms`.
    pub fn answered(&mut self, took_ms: u64) {
        let took = took_ms as f64;
        self.quickest_ms = (self.quickest_ms * 1.000_1).min(took);
        if took > self.quickest_ms * 2.0 + SLACK_MS as f64 {
            return;
        }
        self.window += if self.window < self.steady {
            1.0
        } else {
            1.0 / self.window
        };
        self.window = self.window.min(self.cap);
    }

    /// Too much: throttled, its queue full, or an answer that did not come.
    pub fn refused(&mut self, now_ms: u64) {
        if now_ms < self.halved_ms + CALM_MS {
            return;
        }
        self.halved_ms = now_ms;
        self.window = (self.window / 2.0).max(1.0);
        self.steady = self.window;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_small_and_grows_to_the_cap_while_answers_are_quick() {
        let mut p = Pace::new(50);
        assert_eq!(p.window(), 10);
        (0..40).for_each(|_| p.answered(5));
        assert_eq!(p.window(), 50);
        assert_eq!(Pace::new(3).window(), 3);
    }

    #[test]
    fn slow_answers_hold_it_where_it_is() {
        let mut p = Pace::new(100);
        p.answered(5);
        (0..100).for_each(|_| p.answered(200));
        assert_eq!(p.window(), 11);
    }

    #[test]
    fn a_refusal_halves_it_once_a_burst_and_it_grows_slowly_again() {
        let mut p = Pace::new(64);
        (0..60).for_each(|_| p.answered(1));
        (0..30).for_each(|_| p.refused(1_000));
        assert_eq!(p.window(), 32);
        p.refused(1_200);
        assert_eq!(p.window(), 16);
        (0..16).for_each(|_| p.answered(1));
        assert_eq!(p.window(), 16, "a windowful of answers is worth one");
        (0..4).for_each(|_| p.answered(1));
        assert_eq!(p.window(), 17);
        (0..20).for_each(|i| p.refused(10_000 + i * 200));
        assert_eq!(p.window(), 1);
    }
}
