//! Hours of the day on some days of the week, in a time zone.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

/// When something is open. Pure: whoever asks brings the time.
#[derive(Clone, Debug, PartialEq)]
pub struct Hours {
    days: u8,
    from_min: u16,
    to_min: u16,
    zone: TimeZone,
}

/// Bits of all seven days.
pub const EVERY_DAY: u8 = 0x7F;
/// Minutes of a day.
pub const DAY_MIN: u16 = 24 * 60;

impl Hours {
    /// From `from_min` to `to_min`, in minutes of the day (0 to 1440, the end excluded), on `days` (bit 0: Monday). An end at or
    /// before the beginning is on the next day, and counts to the day on which it began. `None` if it never opens: no day, or
    /// an end that is the beginning.
    #[must_use]
    pub fn new(days: u8, from_min: u16, to_min: u16, zone: TimeZone) -> Option<Hours> {
        let days = days & EVERY_DAY;
        let there = days != 0 && from_min != to_min && from_min < DAY_MIN && to_min <= DAY_MIN;
        there.then_some(Hours {
            days,
            from_min,
            to_min,
            zone,
        })
    }

    /// Whether it is open at `at_ms` (ms since the epoch).
    #[must_use]
    pub fn open(&self, at_ms: u64) -> bool {
        let (day, minute) = self.local(at_ms);
        let on = |day: u8| self.days & 1 << day != 0;
        if self.from_min < self.to_min {
            return on(day) && (self.from_min..self.to_min).contains(&minute);
        }
        // Past midnight: the evening of its day, or the morning after it.
        on(day) && minute >= self.from_min || on((day + 6) % 7) && minute < self.to_min
    }

    /// Day of the week (0: Monday) and minute of the day where the zone is.
    fn local(&self, at_ms: u64) -> (u8, u16) {
        let at = i64::try_from(at_ms).unwrap_or(i64::MAX / 2);
        let offset = Timestamp::from_millisecond(at).map_or(Offset::UTC, |t| self.zone.to_offset(t));
        let minutes = at / 60_000 + i64::from(offset.seconds()) / 60;
        let day = minutes.div_euclid(i64::from(DAY_MIN));
        // The first of January 1970 was a Thursday.
        (
            (day + 3).rem_euclid(7) as u8,
            minutes.rem_euclid(i64::from(DAY_MIN)) as u16,
        )
    }
}

/// A zone by its name (`Africa/Nairobi`, looked up in the system's database) or as a distance from UTC (`+03:00`).
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    if let Some(rest) = name.strip_prefix(['+', '-']) {
        let (hours, minutes) = rest.split_once(':')?;
        let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
        if !(0..=14).contains(&hours) || !(0..60).contains(&minutes) {
            return None;
        }
        return fixed(if name.starts_with('-') { -1 } else { 1 } * (hours * 60 + minutes));
    }
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    TimeZone::get(name).ok()
}

/// A zone at a distance from UTC, in minutes.
#[must_use]
pub fn fixed(offset_min: i32) -> Option<TimeZone> {
    Offset::from_seconds(offset_min.checked_mul(60)?)
        .ok()
        .map(TimeZone::fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ms of a time in UTC.
    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    #[test]
    fn hours_are_those_of_the_zone() {
        // Kenyan promotional hours: 08:00 to 18:00 in Nairobi, Monday to Saturday.
        let hours = Hours::new(0b011_1111, 480, 1_080, zone("Africa/Nairobi").unwrap()).unwrap();
        assert!(!hours.open(at("2026-11-25T04:59:59Z")), "07:59 on a Wednesday");
        assert!(hours.open(at("2026-11-25T05:00:00Z")));
        assert!(hours.open(at("2026-11-25T14:59:59Z")));
        assert!(!hours.open(at("2026-11-25T15:00:00Z")), "the end is out");
        assert!(!hours.open(at("2026-11-29T08:00:00Z")), "a Sunday");
        assert!(
            !hours.open(at("2026-11-28T22:00:00Z")),
            "Saturday in London, Sunday there"
        );
    }

    #[test]
    fn a_night_counts_to_the_evening_it_began_in() {
        let friday = Hours::new(0b001_0000, 22 * 60, 6 * 60, fixed(180).unwrap()).unwrap();
        assert!(friday.open(at("2026-11-27T20:00:00Z")), "Friday 23:00");
        assert!(friday.open(at("2026-11-28T02:59:00Z")), "Saturday 05:59");
        assert!(!friday.open(at("2026-11-28T20:00:00Z")), "Saturday 23:00");
        assert!(!friday.open(at("2026-11-27T02:00:00Z")), "Friday 05:00");
    }

    #[test]
    fn a_zone_with_summer_time_moves() {
        let nine = Hours::new(EVERY_DAY, 540, 600, zone("Europe/London").unwrap()).unwrap();
        assert!(nine.open(at("2026-01-15T09:30:00Z")));
        assert!(nine.open(at("2026-07-15T08:30:00Z")));
        assert!(!nine.open(at("2026-07-15T09:30:00Z")));
    }

    #[test]
    fn what_never_opens_is_none() {
        let utc = || TimeZone::UTC;
        assert_eq!(Hours::new(0, 0, 60, utc()), None);
        assert_eq!(Hours::new(EVERY_DAY, 60, 60, utc()), None);
        assert_eq!(Hours::new(EVERY_DAY, 1_440, 60, utc()), None);
        assert!(Hours::new(EVERY_DAY, 0, DAY_MIN, utc()).is_some_and(|h| h.open(0)));
        for bad in ["Mars/Olympus", "+25:00", "+3", "EAT3", ""] {
            assert_eq!(zone(bad), None, "{bad}");
        }
        assert_eq!(zone("-03:30"), fixed(-210));
    }
}
