//! The only place that reads a clock; everything else takes the time as an argument.
//!
//! Time is milliseconds since the Unix epoch from a clock that never jumps: it is anchored to the wall clock once and then
//! advances with the monotonic clock, and it follows a corrected wall clock by at most one part in fifty. A clock set an
//! hour back or a day ahead therefore expires nothing by itself and never moves a timer backwards.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

struct Anchor {
    start: Instant,
    unix_ms: u64,
    slew_ms: AtomicI64,
    last_slew_ms: AtomicU64,
    latest_ms: AtomicU64,
}

static ANCHOR: OnceLock<Anchor> = OnceLock::new();

/// How often the offset to the wall clock is looked at, and how far it may move each time.
const SLEW_EVERY_MS: u64 = 1_000;
const SLEW_STEP_MS: i64 = 20;

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
fn monotonic() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

fn anchor() -> &'static Anchor {
    ANCHOR.get_or_init(|| Anchor {
        start: monotonic(),
        unix_ms: wall_ms(),
        slew_ms: AtomicI64::new(0),
        last_slew_ms: AtomicU64::new(0),
        latest_ms: AtomicU64::new(0),
    })
}

/// Milliseconds since the Unix epoch, never going backwards (see the module's description).
#[must_use]
pub fn now_ms() -> u64 {
    let a = anchor();
    let elapsed = monotonic().saturating_duration_since(a.start).as_millis() as u64;
    let last = a.last_slew_ms.load(Ordering::Relaxed);
    if elapsed >= last + SLEW_EVERY_MS
        && a.last_slew_ms
            .compare_exchange(last, elapsed, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    {
        let steady = (a.unix_ms + elapsed) as i64 + a.slew_ms.load(Ordering::Relaxed);
        let step = (wall_ms() as i64 - steady).clamp(-SLEW_STEP_MS, SLEW_STEP_MS);
        a.slew_ms.fetch_add(step, Ordering::Relaxed);
    }
    let now = (a.unix_ms + elapsed).saturating_add_signed(a.slew_ms.load(Ordering::Relaxed));
    // While the wall clock is ahead the slew is negative: time stands still for a moment rather than going back.
    a.latest_ms.fetch_max(now, Ordering::Relaxed).max(now)
}

/// Microseconds on the monotonic clock since the first reading; for measuring durations only.
#[must_use]
pub fn mono_us() -> u64 {
    monotonic().saturating_duration_since(anchor().start).as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_near_the_wall_clock_and_rises() {
        let first = now_ms();
        assert!(first.abs_diff(wall_ms()) < 5_000);
        assert!(now_ms() >= first);
        assert!(mono_us() <= mono_us());
    }
}
