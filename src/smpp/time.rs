//! SMPP times (3.4 §7.1.1): `YYMMDDhhmmsstnnp`, absolute with a quarter-hour offset or relative.

/// A time field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SmppTime {
    /// An instant, in ms since the Unix epoch.
    Absolute {
        /// Milliseconds since the epoch.
        unix_ms: u64,
    },
    /// A span from now. Years count 365 days, months 30.
    Relative {
        /// Seconds.
        seconds: u64,
    },
}

/// Not a time: wrong length, not digits, no such date.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an SMPP time")]
pub struct TimeError;

/// Reads a time field; empty means "not given".
///
/// # Errors
/// [`TimeError`].
pub fn parse_time(field: &[u8]) -> Result<Option<SmppTime>, TimeError> {
    if field.is_empty() {
        return Ok(None);
    }
    let field: &[u8; 16] = field.try_into().map_err(|_| TimeError)?;
    let mut n = [0u64; 8];
    let (digits, kind) = field.split_at(15);
    for (slot, pair) in n.iter_mut().zip(digits.chunks(2)) {
        for c in pair {
            *slot = *slot * 10 + u64::from(c.checked_sub(b'0').filter(|d| *d < 10).ok_or(TimeError)?);
        }
    }
    // The fields are YY MM DD hh mm ss, then one digit of tenths and two of the offset.
    let [year, month, day, hour, minute, second, ..] = n;
    let digit = |at: usize| u64::from(field.get(at).map_or(0, |c| c - b'0'));
    let (tenths, quarters) = (digit(12), digit(13) * 10 + digit(14));
    match kind {
        [b'R'] => {
            let days = year * 365 + month * 30 + day;
            Ok(Some(SmppTime::Relative {
                seconds: ((days * 24 + hour) * 60 + minute) * 60 + second,
            }))
        }
        [sign @ (b'+' | b'-')] => {
            // 24:00 and 60 are no times; offsets go to 48 quarters.
            let fits = (1..=12).contains(&month)
                && day >= 1
                && day <= days_in(2000 + year, month)
                && hour < 24
                && minute < 60
                && second < 60
                && quarters <= 48;
            if !fits {
                return Err(TimeError);
            }
            let local = ((days_from_epoch(2000 + year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
            let offset = quarters * 900;
            // Local time ahead of UTC is marked '+'.
            let seconds = if *sign == b'+' {
                local - offset
            } else {
                local + offset
            };
            Ok(Some(SmppTime::Absolute {
                unix_ms: seconds * 1_000 + tenths * 100,
            }))
        }
        _ => Err(TimeError),
    }
}

/// Writes an instant in UTC: `YYMMDDhhmmsst00+`.
pub fn format_absolute(unix_ms: u64, out: &mut Vec<u8>) {
    let (year, month, day, hour, minute, second) = civil(unix_ms / 1_000);
    put2(out, year % 100);
    for part in [month, day, hour, minute, second] {
        put2(out, part);
    }
    out.push(b'0' + (unix_ms % 1_000 / 100) as u8);
    out.extend_from_slice(b"00+");
}

/// A span as `YYMMDDhhmmss000R`, at least a second; longer than 99 years is cut. Counted in days, hours, minutes and seconds, with
/// months of 30 and years of 365 days as [`parse_time`] reads them.
#[must_use]
pub fn relative_time(seconds: u64) -> [u8; 16] {
    let seconds = seconds.clamp(1, 99 * 365 * 86_400);
    let days = seconds / 86_400;
    let (years, rest) = (days / 365, days % 365);
    // Up to 12 months of 30 days, and what is left of the year.
    let months = (rest / 30).min(12);
    let parts = [
        years,
        months,
        rest - months * 30,
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ];
    let mut out = *b"000000000000000R";
    for (slot, part) in out.chunks_mut(2).zip(parts) {
        slot.copy_from_slice(&[b'0' + (part / 10 % 10) as u8, b'0' + (part % 10) as u8]);
    }
    out
}

/// Writes `YYMMDDhhmm` in UTC, the form of receipt dates.
pub(super) fn format_minute(unix_s: u64, out: &mut Vec<u8>) {
    let (year, month, day, hour, minute, _) = civil(unix_s);
    put2(out, year % 100);
    for part in [month, day, hour, minute] {
        put2(out, part);
    }
}

fn put2(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&[b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8]);
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, years 1970 and later.
fn days_from_epoch(year: u64, month: u64, day: u64) -> u64 {
    // Counting years from March puts the leap day last, so that month lengths need no table.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era_days = y * 365 + y / 4 - y / 100 + y / 400;
    era_days + (m * 153 + 2) / 5 + day - 1 - 719_468
}

fn civil(unix_s: u64) -> (u64, u64, u64, u64, u64, u64) {
    let (days, rest) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let era = days / 146_097;
    let doe = days % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let m = (5 * doy + 2) / 153;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (
        year,
        month,
        doy - (153 * m + 2) / 5 + 1,
        rest / 3_600,
        rest / 60 % 60,
        rest % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn absolute_and_relative_times_read() {
        let absolute = |s: &str| match parse_time(s.as_bytes()) {
            Ok(Some(SmppTime::Absolute { unix_ms })) => Some(unix_ms),
            _ => None,
        };
        assert_eq!(absolute("200101000000000+"), Some(1_577_836_800_000));
        assert_eq!(
            absolute("200101030000012+"),
            Some(1_577_836_800_000),
            "three hours ahead of UTC"
        );
        assert_eq!(absolute("191231210000012-"), Some(1_577_836_800_000));
        assert_eq!(absolute("200229120000500+"), Some(1_582_977_600_500));
        let relative = parse_time(b"000001020304000R");
        assert_eq!(relative, Ok(Some(SmppTime::Relative { seconds: 93_784 })));
        assert_eq!(parse_time(b""), Ok(None));
    }

    #[test]
    fn no_such_time_is_an_error() {
        for text in [
            "200230000000000+",
            "201301000000000+",
            "200101240000000+",
            "200101000000049+",
            "200101000000000",
            "200101000000000Z",
            "20010100000000xR",
            "2001010000000000+",
        ] {
            assert_eq!(parse_time(text.as_bytes()), Err(TimeError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_instant_survives_writing_and_reading(ms in 946_684_800_000u64..4_102_444_000_000) {
            let mut out = Vec::new();
            format_absolute(ms, &mut out);
            prop_assert_eq!(parse_time(&out), Ok(Some(SmppTime::Absolute { unix_ms: ms / 100 * 100 })));
        }

        #[test]
        fn a_span_survives_writing_and_reading(seconds in 1u64..3_000_000_000) {
            prop_assert_eq!(parse_time(&relative_time(seconds)), Ok(Some(SmppTime::Relative { seconds })));
        }

        #[test]
        fn any_octets_are_taken_without_a_panic(field in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_time(&field);
        }
    }
}
