//! Segments: one function says where a message is cut, so that what is billed is what would be sent.

use super::{gsm7, udh};

/// How text is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alphabet {
    /// One septet an octet: 160 in one message, 153 in a part.
    Gsm7,
    /// Octets: 140 in one message, 134 in a part.
    Octet,
    /// UTF-16 code units: 70 in one message, 67 in a part.
    Ucs2,
}

/// The alphabet a data_coding stands for (SMPP 3.4 §5.2.19, 3GPP TS 23.038 §4).
///
/// Latin-1 and ASCII (1, 3) are counted like the default alphabet, since SMSCs convert them to it for the air.
#[must_use]
pub fn alphabet(data_coding: u8) -> Alphabet {
    match data_coding {
        0x02 | 0x04 | 0x05 | 0x06 | 0x07 | 0x09 | 0x0A | 0x0D | 0x0E => Alphabet::Octet,
        0x08 => Alphabet::Ucs2,
        // SMPP reserves these; clients send TS 23.038's general group there, such as 0x18 for a flash message in UCS-2.
        0x10..=0x3F => match data_coding >> 2 & 3 {
            1 => Alphabet::Octet,
            2 => Alphabet::Ucs2,
            _ => Alphabet::Gsm7,
        },
        // Message waiting, text in UCS-2.
        0xE0..=0xEF => Alphabet::Ucs2,
        // Message class: bit 2 tells 8-bit data from the default alphabet.
        0xF0..=0xFF if data_coding & 0x04 != 0 => Alphabet::Octet,
        _ => Alphabet::Gsm7,
    }
}

/// What is to be counted or split.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// data_coding of the message.
    pub data_coding: u8,
    /// A user data header begins the body.
    pub udhi: bool,
    /// short_message or message_payload.
    pub body: &'a [u8],
    /// sar_total_segments, if given: the message is one part of several already.
    pub sar_total: Option<u8>,
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Content({} octets, data_coding {:#x})",
            self.body.len(),
            self.data_coding
        )
    }
}

/// More than 255 parts: a concatenated message cannot number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("more than 255 segments")]
pub struct SegmentError;

/// Octets of the user data of a short message on the air.
const AIR: usize = 140;
/// Octets of a header with an 8-bit concatenation element alone.
const CONCAT: usize = 6;

/// How many segments a message is billed as; at least 1.
///
/// # Errors
/// [`SegmentError`].
pub fn count(content: &Content<'_>) -> Result<u8, SegmentError> {
    let mut n = 0usize;
    walk(content, |_| n += 1);
    u8::try_from(n).map_err(|_| SegmentError)
}

/// Where a message is cut: ranges of the body (after its user data header, if it has one), in order.
///
/// # Errors
/// [`SegmentError`].
pub fn parts(content: &Content<'_>) -> Result<Vec<std::ops::Range<usize>>, SegmentError> {
    let mut out = Vec::new();
    walk(content, |range| out.push(range));
    if out.len() > 255 {
        Err(SegmentError)
    } else {
        Ok(out)
    }
}

fn walk(content: &Content<'_>, mut each: impl FnMut(std::ops::Range<usize>)) {
    let header = if content.udhi {
        udh::header_len(content.body).unwrap_or(0)
    } else {
        0
    };
    let end = content.body.len();
    let text = content.body.get(header..).unwrap_or(&[]);
    let kind = alphabet(content.data_coding);
    let one_of_many = content.sar_total.is_some_and(|t| t > 1)
        || (content.udhi && udh::concat(content.body).is_some_and(|c| c.total > 1));
    // A part that came split already, or that fits, is one segment.
    if one_of_many && text.len() <= room(kind, header.max(CONCAT)) || units(kind, text) <= room(kind, header)
    {
        each(header..end);
        return;
    }
    // Otherwise it would be sent in parts, each with the header's other elements and a concatenation element.
    let own = if content.udhi && udh::concat(content.body).is_none() {
        header.saturating_sub(1)
    } else {
        0
    };
    let room = room(kind, CONCAT + own).max(1);
    let mut from = 0;
    while from < text.len() {
        let to = cut(kind, text, from, room);
        each(header + from..header + to);
        from = to;
    }
}

/// Units that fit beside a header of `header` octets.
fn room(kind: Alphabet, header: usize) -> usize {
    let octets = AIR.saturating_sub(header);
    match kind {
        // The header is filled up to a septet boundary.
        Alphabet::Gsm7 => octets * 8 / 7,
        Alphabet::Octet => octets,
        Alphabet::Ucs2 => octets / 2,
    }
}

fn units(kind: Alphabet, text: &[u8]) -> usize {
    match kind {
        Alphabet::Gsm7 | Alphabet::Octet => text.len(),
        Alphabet::Ucs2 => text.len().div_ceil(2),
    }
}

/// The end of the part that begins at `from`: never between an escape and its character, nor within a surrogate pair.
fn cut(kind: Alphabet, text: &[u8], from: usize, room: usize) -> usize {
    let octets = if kind == Alphabet::Ucs2 { room * 2 } else { room };
    let to = from + octets.max(1);
    if to >= text.len() {
        return text.len();
    }
    match kind {
        // An escape at the very end would lose its character; two in a row are one character (the reserved extension).
        Alphabet::Gsm7 => {
            let run = text
                .get(from..to)
                .unwrap_or(&[])
                .iter()
                .rev()
                .take_while(|c| **c == gsm7::ESCAPE)
                .count();
            if run % 2 == 1 && to > from + 1 { to - 1 } else { to }
        }
        Alphabet::Ucs2 => {
            let high = text.get(to - 2).is_some_and(|c| c & 0xFC == 0xD8);
            let low = text.get(to).is_some_and(|c| c & 0xFC == 0xDC);
            if high && low && to > from + 2 { to - 2 } else { to }
        }
        Alphabet::Octet => to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn n(data_coding: u8, udhi: bool, body: &[u8]) -> u8 {
        count(&Content {
            data_coding,
            udhi,
            body,
            sar_total: None,
        })
        .unwrap()
    }

    #[test]
    fn limits_of_one_message_and_of_parts() {
        for (dcs, one, part) in [
            (0u8, 160usize, 153usize),
            (3, 160, 153),
            (4, 140, 134),
            (8, 140, 134),
        ] {
            assert_eq!(n(dcs, false, &vec![b'a'; one]), 1, "{dcs}");
            assert_eq!(n(dcs, false, &vec![b'a'; one + 2]), 2, "{dcs}");
            assert_eq!(n(dcs, false, &vec![b'a'; part * 3]), 3, "{dcs}");
            assert_eq!(n(dcs, false, &vec![b'a'; part * 3 + 2]), 4, "{dcs}");
        }
        assert_eq!(n(0, false, b""), 1);
    }

    #[test]
    fn a_part_that_came_split_is_one_segment() {
        let mut body = b"\x05\x00\x03\x07\x03\x02".to_vec();
        body.extend([b'a'; 153]);
        assert_eq!(n(0, true, &body), 1);
        let content = Content {
            data_coding: 0,
            udhi: false,
            body: &[b'a'; 153],
            sar_total: Some(3),
        };
        assert_eq!(count(&content), Ok(1));
    }

    #[test]
    fn a_header_that_is_longer_than_the_text_is_counted_as_text() {
        for length in [0u8, 1, 200, 255] {
            let mut body = vec![b'a'; 300];
            body[0] = length;
            let n = n(0, true, &body);
            assert!((1..=4).contains(&n), "{length}: {n}");
        }
        assert_eq!(n(4, true, &[200]), 1);
    }

    #[test]
    fn a_thousand_parts_are_refused() {
        let body = vec![b'a'; 60_000];
        assert_eq!(
            count(&Content {
                data_coding: 0,
                udhi: false,
                body: &body,
                sar_total: None
            }),
            Err(SegmentError)
        );
    }

    proptest! {
        #[test]
        fn parts_cover_the_text_once_and_never_cut_a_pair(
            dcs in prop_oneof![Just(0u8), Just(4), Just(8)],
            body in proptest::collection::vec(prop_oneof![Just(0x1Bu8), Just(0xD8), Just(0xDC), any::<u8>()], 0..1500),
        ) {
            let content = Content { data_coding: dcs, udhi: false, body: &body, sar_total: None };
            let parts = parts(&content).unwrap();
            prop_assert_eq!(parts.len(), usize::from(count(&content).unwrap()));
            let mut at = 0;
            for p in &parts {
                prop_assert_eq!(p.start, at);
                at = p.end;
            }
            prop_assert_eq!(at, body.len());
            for p in parts.iter().take(parts.len().saturating_sub(1)) {
                if dcs == 8 { prop_assert!(body[p.end - 2] & 0xFC != 0xD8 || body[p.end] & 0xFC != 0xDC); }
            }
        }
    }
}
