//! Rate limits in segments per second: governor's GCRA over a clock that we set.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Nanoseconds on the caller's time line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tick(u64);

impl std::ops::Add<Nanos> for Tick {
    type Output = Tick;
    fn add(self, other: Nanos) -> Tick {
        Tick(self.0.saturating_add(other.into()))
    }
}

impl Reference for Tick {
    fn duration_since(&self, earlier: Self) -> Nanos {
        Nanos::new(self.0.saturating_sub(earlier.0))
    }
    fn saturating_sub(&self, duration: Nanos) -> Self {
        Tick(self.0.saturating_sub(duration.into()))
    }
}

/// The clock handed to governor: shows the latest time it was told, never earlier.
#[derive(Clone, Debug, Default)]
struct ToldClock(Arc<AtomicU64>);

impl Clock for ToldClock {
    type Instant = Tick;
    fn now(&self) -> Tick {
        Tick(self.0.load(Ordering::Relaxed))
    }
}

/// An account's rate limit: `tps` segments a second with a burst of one second. Shared by all its sessions.
pub struct RateLimit {
    clock: ToldClock,
    burst: u32,
    limiter: RateLimiter<NotKeyed, InMemoryState, ToldClock, NoOpMiddleware<Tick>>,
}

impl std::fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RateLimit({}/s)", self.burst)
    }
}

impl RateLimit {
    /// A limit of `tps` segments per second.
    #[must_use]
    pub fn per_second(tps: NonZeroU32) -> RateLimit {
        let clock = ToldClock::default();
        let limiter = RateLimiter::direct_with_clock(Quota::per_second(tps), clock.clone());
        RateLimit {
            clock,
            burst: tps.get(),
            limiter,
        }
    }

    /// Takes the cells of one message at `now_ms`. A message larger than the burst takes the whole burst, or it would
    /// never pass.
    #[must_use]
    pub fn allows(&self, segments: u8, now_ms: u64) -> bool {
        self.clock
            .0
            .fetch_max(now_ms.saturating_mul(1_000_000), Ordering::Relaxed);
        let cells = u32::from(segments).clamp(1, self.burst);
        NonZeroU32::new(cells).is_none_or(|n| matches!(self.limiter.check_n(n), Ok(Ok(()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(tps: u32) -> RateLimit {
        RateLimit::per_second(NonZeroU32::new(tps).unwrap())
    }

    #[test]
    fn a_second_holds_a_burst_and_then_the_rate() {
        let l = limit(10);
        let start = 1_700_000_000_000;
        assert_eq!((0..50).filter(|_| l.allows(1, start)).count(), 10);
        let later = (1..=100).filter(|i| l.allows(1, start + i * 100)).count();
        assert_eq!(later, 100, "ten a second for ten seconds");
    }

    #[test]
    fn segments_count_and_a_large_message_still_passes() {
        let l = limit(5);
        assert!(l.allows(3, 1_000));
        assert!(!l.allows(3, 1_000));
        assert!(limit(2).allows(9, 1_000), "larger than the burst");
    }

    #[test]
    fn a_clock_that_steps_back_grants_nothing() {
        let l = limit(1);
        assert!(l.allows(1, 10_000));
        assert!(!l.allows(1, 5_000));
        assert!(l.allows(1, 11_000));
    }
}
