//! How many segments an account may send in a day and in a month of the calendar.

/// Which day and month a moment falls into, in a zone at a fixed distance from UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Period {
    /// Days since 1970-01-01.
    pub day: u32,
    /// Months since January 1970.
    pub month: u32,
}

const DAY_MS: i64 = 86_400_000;

impl Period {
    /// The period of `now_ms` (ms since the epoch) where clocks are `offset_min` minutes ahead of UTC.
    #[must_use]
    pub fn of(now_ms: u64, offset_min: i32) -> Period {
        let local = i64::try_from(now_ms).unwrap_or(i64::MAX / 2) + i64::from(offset_min) * 60_000;
        let day = local.div_euclid(DAY_MS);
        Period {
            day: u32::try_from(day).unwrap_or(0),
            month: month_of(day),
        }
    }

    /// The first day of a month.
    #[must_use]
    pub fn first_day(month: u32) -> u32 {
        // Days before each month of a year counted from 1970; leap years of the Gregorian calendar.
        let (year, month) = (1970 + i64::from(month / 12), i64::from(month % 12) + 1);
        u32::try_from(days_from_civil(year, month, 1)).unwrap_or(0)
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, counted in years that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn month_of(day: i64) -> u32 {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    u32::try_from((year - 1970) * 12 + month - 1).unwrap_or(0)
}

/// Segments sent so far in the running day and month. A limit of 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    period: Period,
    day: u64,
    month: u64,
}

impl Quota {
    /// What the store knows of the running period.
    #[must_use]
    pub const fn new(period: Period, day: u64, month: u64) -> Quota {
        Quota { period, day, month }
    }

    /// Counts `segments` of a message accepted in `period`, unless that is more than a limit allows; whether it did.
    #[must_use]
    pub fn take(&mut self, period: Period, segments: u8, per_day: u64, per_month: u64) -> bool {
        self.turn(period);
        let n = u64::from(segments);
        let fits = |used: u64, limit: u64| limit == 0 || used + n <= limit;
        let fits = fits(self.day, per_day) && fits(self.month, per_month);
        if fits {
            self.day += n;
            self.month += n;
        }
        fits
    }

    /// Takes back what a message counted that was refused after all. One of an earlier period is over.
    pub fn give_back(&mut self, period: Period, segments: u8) {
        let n = u64::from(segments);
        if period.day == self.period.day {
            self.day = self.day.saturating_sub(n);
        }
        if period.month == self.period.month {
            self.month = self.month.saturating_sub(n);
        }
    }

    /// Segments of the running day and month.
    #[must_use]
    pub fn used(&mut self, period: Period) -> (u64, u64) {
        self.turn(period);
        (self.day, self.month)
    }

    /// A clock that goes back does not open a new day.
    fn turn(&mut self, period: Period) {
        if period.day > self.period.day {
            self.day = 0;
            self.period.day = period.day;
        }
        if period.month > self.period.month {
            self.month = 0;
            self.period.month = period.month;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months_turn_at_local_midnight() {
        // 2024-02-29T21:00:00Z is 2024-03-01T00:00 three hours further east.
        let ms = 1_709_240_400_000;
        let (utc, nairobi) = (Period::of(ms, 0), Period::of(ms, 180));
        assert_eq!((utc.month, nairobi.month), (54 * 12 + 1, 54 * 12 + 2));
        assert_eq!(nairobi.day, utc.day + 1);
        assert_eq!(Period::of(ms - 1, 180).day, utc.day);
        assert_eq!(Period::first_day(nairobi.month), nairobi.day);
        assert_eq!(Period::of(0, 0), Period { day: 0, month: 0 });
        assert_eq!(Period::first_day(0), 0);
        for month in 0..2_000 {
            let first = Period::first_day(month);
            assert_eq!(Period::of(u64::from(first) * 86_400_000, 0).month, month);
            if month > 0 {
                assert_eq!(Period::of(u64::from(first) * 86_400_000 - 1, 0).month, month - 1);
            }
        }
    }

    #[test]
    fn limits_hold_to_the_segment_and_a_refusal_counts_nothing() {
        let (today, tomorrow) = (Period { day: 1, month: 0 }, Period { day: 2, month: 0 });
        let mut q = Quota::default();
        assert!(q.take(today, 3, 5, 8));
        assert!(!q.take(today, 3, 5, 8));
        assert!(q.take(today, 2, 5, 8));
        q.give_back(today, 2);
        assert_eq!(q.used(today), (3, 3));
        assert!(q.take(tomorrow, 5, 5, 8));
        assert!(!q.take(tomorrow, 1, 0, 8), "the month is full");
        q.give_back(today, 3);
        assert_eq!(
            q.used(tomorrow),
            (5, 5),
            "yesterday's is taken from the month alone"
        );
        assert_eq!(q.used(today), (5, 5), "a clock that goes back opens no new day");
        assert!(q.take(tomorrow, 200, 0, 0));
    }
}
