//! Does a time that was taken survive being written and read, and does writing never panic?
//!
//! Input: a time field as on the wire. Its first eight octets are also tried as an instant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsconnect::smpp::{SmppTime, format_absolute, parse_time};

/// 2000-01-01 and 2100-01-01, in ms: two digits of a year say no more than what lies between.
const CENTURY: std::ops::Range<u64> = 946_684_800_000..4_102_444_800_000;

fn write(unix_ms: u64) {
    let mut out = Vec::new();
    format_absolute(unix_ms, &mut out);
    assert_eq!(out.len(), 16);
    // An offset can carry a local time over the century's edge; it is written with two digits all the same.
    if CENTURY.contains(&unix_ms) {
        let tenths = unix_ms / 100 * 100;
        assert_eq!(parse_time(&out), Ok(Some(SmppTime::Absolute { unix_ms: tenths })));
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some(octets) = data.first_chunk::<8>() {
        write(u64::from_be_bytes(*octets));
        write(CENTURY.start + u64::from_be_bytes(*octets) % (CENTURY.end - CENTURY.start));
    }
    match parse_time(data) {
        Ok(None) => assert!(data.is_empty()),
        Ok(Some(time)) => {
            assert_eq!(data.len(), 16);
            match time {
                SmppTime::Absolute { unix_ms } => {
                    assert_eq!(unix_ms % 100, 0);
                    write(unix_ms);
                }
                // 99 of everything.
                SmppTime::Relative { seconds } => assert!(seconds <= 3_390_000_000),
            }
        }
        Err(_) => assert!(!data.is_empty()),
    }
});
