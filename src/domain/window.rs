//! Times of day: when messages of a class may go.

use std::fmt;

const MINUTE_MS: u64 = 60_000;
const DAY_MIN: u64 = 24 * 60;

/// A span of every day, by a clock that is a fixed time ahead of UTC (Africa/Nairobi: 180 minutes, without daylight saving).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Daily {
    /// Opens, minutes from midnight.
    pub from_min: u16,
    /// Closes, minutes from midnight; before `from_min`: on the next day. Equal: never closed.
    pub to_min: u16,
    /// How far its clock is ahead of UTC, minutes; −720 to 840.
    pub offset_min: i32,
}

impl Daily {
    /// Reads `"08:00-18:00"`; `"00:00-24:00"` is never closed.
    #[must_use]
    pub fn parse(text: &str, offset_min: i32) -> Option<Daily> {
        let (from, to) = text.split_once('-')?;
        let minutes = |text: &str| -> Option<u16> {
            let (h, m) = text.trim().split_once(':')?;
            let two =
                |s: &str| (s.len() == 2 && s.bytes().all(|c| c.is_ascii_digit())).then(|| s.parse().ok())?;
            let (h, m): (u16, u16) = (two(h)?, two(m)?);
            (h < 24 && m < 60 || h == 24 && m == 0).then_some(h * 60 + m)
        };
        let (from_min, to_min) = (minutes(from)?, minutes(to)?);
        (from_min < 1_440).then_some(Daily {
            from_min,
            to_min: to_min % 1_440,
            offset_min,
        })
    }

    /// When it opens next, ms since the epoch; `None`: it is open at `now_ms`.
    #[must_use]
    pub fn opens(&self, now_ms: u64) -> Option<u64> {
        let shift = i64::from(self.offset_min) * MINUTE_MS as i64;
        let local = (now_ms as i64).saturating_add(shift).max(0) as u64;
        let minute = local / MINUTE_MS % DAY_MIN;
        let (from, to) = (u64::from(self.from_min), u64::from(self.to_min));
        let open = match from.cmp(&to) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => (from..to).contains(&minute),
            std::cmp::Ordering::Greater => minute >= from || minute < to,
        };
        if open {
            return None;
        }
        let wait = (from + DAY_MIN - minute) % DAY_MIN;
        Some(now_ms - local % MINUTE_MS + wait * MINUTE_MS)
    }
}

impl fmt::Display for Daily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = if self.to_min == self.from_min {
            1_440
        } else {
            self.to_min
        };
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            self.from_min / 60,
            self.from_min % 60,
            to / 60,
            to % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn nairobi_by_day() {
        let day = Daily::parse("08:00-18:00", 180).unwrap();
        // 1970-01-02T05:00:00Z is eight o'clock in Nairobi.
        let eight = 29 * HOUR;
        assert_eq!(day.opens(eight), None);
        assert_eq!(day.opens(eight - 1), Some(eight));
        assert_eq!(day.opens(eight + 10 * HOUR - 1), None);
        assert_eq!(day.opens(eight + 10 * HOUR), Some(eight + 24 * HOUR));
        assert_eq!(day.to_string(), "08:00-18:00");
    }

    #[test]
    fn over_midnight_always_and_nonsense() {
        let night = Daily::parse("22:00-06:00", 0).unwrap();
        assert_eq!(night.opens(23 * HOUR), None);
        assert_eq!(night.opens(5 * HOUR), None);
        assert_eq!(night.opens(6 * HOUR), Some(22 * HOUR));
        assert_eq!(Daily::parse("00:00-24:00", 0).unwrap().opens(77), None);
        for bad in [
            "",
            "8-18",
            "08:00",
            "08:00-25:00",
            "08:60-18:00",
            "24:00-24:00",
            "8:00-18:00",
        ] {
            assert_eq!(Daily::parse(bad, 0), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn it_is_open_when_it_opens_and_not_a_moment_before(
            from in 0u16..1_440, to in 0u16..1_440, offset in -720i32..840, now in 86_400_000u64..400_000_000_000)
        {
            let day = Daily { from_min: from, to_min: to, offset_min: offset };
            if let Some(at) = day.opens(now) {
                prop_assert!(at > now && at - now <= 86_400_000);
                prop_assert_eq!(day.opens(at), None);
                prop_assert!(day.opens(at - 1).is_some());
            }
        }
    }
}
