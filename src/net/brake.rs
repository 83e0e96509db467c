//! A customer who sends far more than can be taken: a refusal costs nearly what an acceptance does, and a session that gets
//! thousands a second takes that time from others. It is read more slowly then, and the network holds its submits back.

use crate::domain::reject::Reject;

/// Refusals in one second after which a session is read more slowly.
const REFUSALS: u32 = 500;
/// How long reading pauses at most, ms. Other sessions notice nothing; what this one asks beside its submits is answered when what
/// stands before it in its socket has been read.
const PAUSE_MS: u64 = 200;

/// Counts the refusals of one session that a sender could have avoided by waiting.
#[derive(Debug, Default)]
pub(super) struct Brake {
    second: u64,
    refusals: u32,
    until_ms: u64,
    /// The last refusal was for a full window: as soon as that has room, reading goes on.
    window: bool,
}

impl Brake {
    /// A submit was refused.
    pub(super) fn refused(&mut self, reason: Reject, now_ms: u64) {
        if !matches!(
            reason,
            Reject::WindowFull | Reject::Rate | Reject::Overload | Reject::StoreUnavailable
        ) {
            return;
        }
        let second = now_ms / 1_000;
        if second != std::mem::replace(&mut self.second, second) {
            self.refusals = 0;
        }
        self.refusals += 1;
        if self.refusals > REFUSALS {
            self.until_ms = now_ms + PAUSE_MS;
            self.window = reason == Reject::WindowFull;
        }
    }

    /// Whether nothing is read at the moment; `unanswered` submits of the session's `window` are in hand.
    pub(super) fn holds(&self, now_ms: u64, unanswered: usize, window: usize) -> bool {
        // A clock that is set back does not make it longer.
        now_ms < self.until_ms
            && now_ms + PAUSE_MS >= self.until_ms
            && !(self.window && unanswered <= window / 2)
    }

    /// When reading goes on at the latest.
    pub(super) fn until(&self, now_ms: u64) -> Option<u64> {
        (now_ms < self.until_ms && now_ms + PAUSE_MS >= self.until_ms).then_some(self.until_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_refusals_change_nothing_and_many_make_reading_pause() {
        let mut brake = Brake::default();
        for n in 0..3 * u64::from(REFUSALS) {
            // 500 a second.
            brake.refused(Reject::Rate, 1_000 + n * 2);
            assert!(!brake.holds(1_000 + n * 2, 1_000, 1_000));
        }
        for _ in 0..=REFUSALS {
            brake.refused(Reject::Rate, 10_000);
        }
        assert!(brake.holds(10_000, 0, 10) && brake.holds(10_199, 0, 10) && !brake.holds(10_200, 0, 10));
        assert_eq!((brake.until(10_000), brake.until(10_200)), (Some(10_200), None));
        assert!(!brake.holds(5_000, 0, 10), "the clock was set back");
    }

    #[test]
    fn a_window_with_room_ends_the_pause() {
        let mut brake = Brake::default();
        for _ in 0..=REFUSALS {
            brake.refused(Reject::WindowFull, 10_000);
        }
        assert!(brake.holds(10_001, 10, 10) && brake.holds(10_001, 6, 10) && !brake.holds(10_001, 5, 10));
    }

    #[test]
    fn what_waiting_would_not_have_changed_does_not_count() {
        let mut brake = Brake::default();
        for _ in 0..10 * REFUSALS {
            brake.refused(Reject::Balance, 10_000);
            brake.refused(Reject::Destination, 10_000);
        }
        assert!(!brake.holds(10_001, 10, 10));
    }
}
