//! A text with an opt-out behind it: before it is counted and priced, so that what is billed is what is sent.

use crate::domain::message::{PAYLOAD, Parts, payload_tlv, retain_tlvs, tlv};
use crate::domain::reject::Reject;
use crate::text::{Alphabet, Charset, Content, alphabet, count, udh};

/// UDHI of esm_class (SMPP 3.4 §5.2.12).
const UDHI: u8 = 0x40;
/// Longest text in short_message.
const SHORT_MAX: usize = 254;
/// sar_msg_ref_num, sar_total_segments and sar_segment_seqnum (SMPP 3.4 §5.3.2.22–24).
const SAR: [u16; 3] = [0x020C, 0x020E, 0x020F];

/// Octets of a new text and optional parameters, and how many segments they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewText {
    /// short_message; empty where the text is in message_payload.
    pub text: Vec<u8>,
    /// Optional parameters.
    pub tlvs: Vec<u8>,
    /// Segments billed.
    pub segments: u8,
}

/// The text of a message with its user data header, wherever it stands.
#[must_use]
pub fn body_of<'a>(parts: &Parts<'a>) -> &'a [u8] {
    if parts.tlvs.is_empty() {
        return parts.text;
    }
    tlv(parts.tlvs, PAYLOAD)
        .filter(|p| !p.is_empty())
        .unwrap_or(parts.text)
}

/// The text behind its user data header.
#[must_use]
pub fn words_of<'a>(parts: &Parts<'a>) -> &'a [u8] {
    let body = body_of(parts);
    let header = match parts.flags.esm_class & UDHI {
        0 => 0,
        _ => udh::header_len(body).unwrap_or(0),
    };
    body.get(header..).unwrap_or(&[])
}

/// A message with `suffix` behind its text. `None`: it stays as it is, since it is data, ends so already, or is a part of a longer
/// message before the last.
///
/// # Errors
/// [`Reject::TooLong`]: the last part of a message that the customer has cut has no room for it, or it is more than 255 segments.
pub fn appended(parts: &Parts<'_>, suffix: &str) -> Result<Option<NewText>, Reject> {
    let data_coding = parts.flags.data_coding;
    let charset = match alphabet(data_coding) {
        Alphabet::Octet => return Ok(None),
        Alphabet::Ucs2 => Charset::Ucs2,
        Alphabet::Gsm7 if matches!(data_coding, 1 | 3) => Charset::Latin1,
        Alphabet::Gsm7 => Charset::Gsm7,
    };
    let Some(suffix) = charset.encode(suffix) else {
        return Ok(None);
    };
    let body = body_of(parts);
    let udhi = parts.flags.esm_class & UDHI != 0;
    let sar = |tag: u16| tlv(parts.tlvs, tag);
    let concat = if udhi { udh::concat(body) } else { None };
    let (total, part) = match (concat, sar(SAR[1]), sar(SAR[2])) {
        (Some(c), ..) => (c.total, c.part),
        (None, Some([total]), Some([part])) => (*total, *part),
        _ => (1, 1),
    };
    if part < total || body.ends_with(&suffix) {
        return Ok(None);
    }
    let whole = [body, &suffix].concat();
    let segments = count(&Content {
        data_coding,
        udhi,
        body: &whole,
        sar_total: (total > 1).then_some(total),
    })
    .map_err(|_| Reject::TooLong)?;
    if total > 1 && segments > 1 {
        return Err(Reject::TooLong);
    }
    let in_payload = parts.text.is_empty() && !body.is_empty() || whole.len() > SHORT_MAX;
    let mut tlvs = retain_tlvs(parts.tlvs, |tag| tag != PAYLOAD);
    if in_payload {
        tlvs.extend(payload_tlv(&whole));
    }
    Ok(Some(NewText {
        text: if in_payload { Vec::new() } else { whole },
        tlvs,
        segments,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Flags;

    const STOP: &str = " STOP 22555";

    fn parts(text: &[u8], data_coding: u8, esm_class: u8) -> Parts<'_> {
        Parts {
            flags: Flags {
                data_coding,
                esm_class,
                ..Flags::default()
            },
            text,
            ..Parts::default()
        }
    }

    #[test]
    fn a_suffix_can_make_another_segment() {
        let new = |n: usize| appended(&parts(&vec![b'a'; n], 0, 0), STOP).unwrap().unwrap();
        assert_eq!(new(149).segments, 1);
        assert_eq!(new(150).segments, 2);
        assert!(new(150).text.ends_with(b" STOP 22555"));
        let long = new(250);
        assert!(
            long.text.is_empty(),
            "too long for short_message: in message_payload"
        );
        assert_eq!(tlv(&long.tlvs, PAYLOAD).map(<[u8]>::len), Some(261));
    }

    #[test]
    fn it_is_written_in_the_alphabet_of_the_text_and_once() {
        let ucs2 = appended(&parts(b"\x01\x03", 8, 0), STOP).unwrap().unwrap();
        assert_eq!(ucs2.text.len(), 2 + 2 * STOP.len());
        assert_eq!(appended(&parts(b"bye STOP 22555", 0, 0), STOP).unwrap(), None);
        assert_eq!(appended(&parts(b"\x01\x02", 4, 0), STOP).unwrap(), None, "data");
        let payload = payload_tlv(b"hello");
        let message = Parts {
            tlvs: &payload,
            ..parts(b"", 0, 0)
        };
        let new = appended(&message, STOP).unwrap().unwrap();
        assert_eq!(tlv(&new.tlvs, PAYLOAD), Some(&b"hello STOP 22555"[..]));
    }

    #[test]
    fn of_a_cut_message_the_last_part_bears_it_or_none_does() {
        let part = |n: u8, len: usize| [&[5, 0, 3, 9, 2, n][..], &vec![b'a'; len]].concat();
        assert_eq!(appended(&parts(&part(1, 153), 0, 0x40), STOP).unwrap(), None);
        let last = appended(&parts(&part(2, 100), 0, 0x40), STOP).unwrap().unwrap();
        assert_eq!(last.segments, 1);
        assert_eq!(
            appended(&parts(&part(2, 150), 0, 0x40), STOP),
            Err(Reject::TooLong),
            "there is no room for it"
        );
    }
}
