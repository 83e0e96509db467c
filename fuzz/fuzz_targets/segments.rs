//! Is what is billed what would be sent: do the count and the cuts agree, cover the text once, and split no character?
//!
//! Input: data_coding, flags (bit 0: user data header, bit 1: sar_total_segments follows as an octet, bit 2: repeat the
//! body sixteen times, to reach long messages), then the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsconnect::text::{self, Alphabet, Content, gsm7, udh};

fuzz_target!(|data: &[u8]| {
    let [data_coding, flags, rest @ ..] = data else {
        return;
    };
    let (sar_total, rest) = match rest {
        [total, rest @ ..] if flags & 2 != 0 => (Some(*total), rest),
        _ => (None, rest),
    };
    let body = if flags & 4 != 0 {
        rest.repeat(16)
    } else {
        rest.to_vec()
    };
    let udhi = flags & 1 != 0;
    check(&Content {
        data_coding: *data_coding,
        udhi,
        body: &body,
        sar_total,
    });
    alphabet_is_stable(&body);
});

fn check(content: &Content<'_>) {
    let (count, parts) = (text::count(content), text::parts(content));
    let Ok(parts) = parts else {
        assert!(count.is_err());
        return;
    };
    assert_eq!(count.map(usize::from), Ok(parts.len()));
    assert!(!parts.is_empty());

    let header = if content.udhi {
        udh::header_len(content.body).unwrap_or(0)
    } else {
        0
    };
    let mut at = header;
    for part in &parts {
        assert_eq!(part.start, at);
        assert!(part.start < part.end || parts.len() == 1);
        at = part.end;
    }
    assert_eq!(at, content.body.len());

    for part in parts.iter().take(parts.len() - 1) {
        let (text, next) = (&content.body[part.clone()], &content.body[part.end..]);
        match text::alphabet(content.data_coding) {
            Alphabet::Gsm7 => {
                assert!(text.len() <= 153);
                // Parts begin at a character, so a walk from there finds every pair; a header may leave room for no pair.
                let mut walk = text.iter();
                while let Some(c) = walk.next() {
                    assert!(*c != gsm7::ESCAPE || walk.next().is_some() || text.len() == 1);
                }
            }
            Alphabet::Ucs2 => {
                assert!(text.len() <= 134 && text.len() % 2 == 0);
                let high = text.len() > 2 && text[text.len() - 2] & 0xFC == 0xD8;
                assert!(!(high && next.len() > 1 && next[0] & 0xFC == 0xDC));
            }
            Alphabet::Octet => assert!(text.len() <= 134),
        }
    }
}

/// A text of the default alphabet is the same text after it was encoded again.
fn alphabet_is_stable(octets: &[u8]) {
    let text = gsm7::decode(octets);
    match gsm7::encode(&text) {
        Some(again) => assert_eq!(gsm7::decode(&again), text),
        None => assert!(text.contains('\u{fffd}')),
    }
}
