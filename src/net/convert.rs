//! A message as the customer wrote it into messages as an upstream takes them: alphabet, parts, optional parameters.

use crate::domain::message::{Flags, Message, Parts, Piece};
use crate::domain::reject::Reject;
use crate::smpp::{self, Tag, Tlvs};
use crate::text::{self, Charset, Content, udh};

/// In what form an upstream takes messages of more than one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LongMessages {
    /// As the customer sent them.
    #[default]
    AsIs,
    /// In parts with a concatenation element in their user data header (3GPP TS 23.040 §9.2.3.24.1).
    Udh,
    /// In parts with sar_msg_ref_num, sar_total_segments and sar_segment_seqnum (SMPP 3.4 §5.3.2.22–24).
    Sar,
    /// Whole, in message_payload (§5.3.2.32).
    Payload,
}

/// What an upstream takes.
#[derive(Clone, Debug, Default)]
pub struct Form {
    /// What its data_coding 0 stands for.
    pub alphabet: Charset,
    /// How long messages go.
    pub long_messages: LongMessages,
    /// Optional parameters that pass besides those every SMSC knows.
    pub tlvs: Vec<u16>,
    /// SMPP 3.3: no optional parameters at all, so that what is long has to go in parts with a header.
    pub bare: bool,
}

/// UDHI of esm_class (SMPP 3.4 §5.2.12).
const UDHI: u8 = 0x40;
/// data_coding of UCS-2.
const UCS2: u8 = 0x08;
/// Longest text that every SMSC takes in short_message.
const SHORT_MAX: usize = 254;
/// Octets of one short message, header and text.
const SEGMENT: usize = 140;

/// Optional parameters of a submit_sm that pass to every upstream (SMPP 3.4 §4.4.1). What is not here, and not in the
/// upstream's own list, stays with us: it was meant for us, or for nobody.
const KNOWN: [u16; 28] = [
    0x0005, 0x000D, 0x0019, 0x0030, 0x0201, 0x0202, 0x0203, 0x0204, 0x0205, 0x020A, 0x020B, 0x020C, 0x020D,
    0x020E, 0x020F, 0x0302, 0x0303, 0x0304, 0x0381, 0x0424, 0x0426, 0x0501, 0x1201, 0x1203, 0x1204, 0x130C,
    0x1380, 0x1383,
];

fn passes(tag: u16, form: &Form) -> bool {
    !form.bare && (KNOWN.contains(&tag) || form.tlvs.contains(&tag))
}

/// A message's text: its user data header, and what follows it.
struct Body<'a> {
    header: &'a [u8],
    text: &'a [u8],
    /// It stands in message_payload.
    payload: bool,
}

impl<'a> Body<'a> {
    fn of(parts: &Parts<'a>) -> Body<'a> {
        let in_payload = tlvs(parts).get(Tag::MESSAGE_PAYLOAD).filter(|p| !p.is_empty());
        let all = in_payload.unwrap_or(parts.text);
        let header = if parts.flags.esm_class & UDHI != 0 {
            udh::header_len(all).unwrap_or(0)
        } else {
            0
        };
        let (header, text) = all.split_at_checked(header).unwrap_or((&[], all));
        Body {
            header,
            text,
            payload: in_payload.is_some(),
        }
    }
}

fn tlvs<'a>(parts: &Parts<'a>) -> Tlvs<'a> {
    Tlvs::parse(parts.tlvs).unwrap_or(Tlvs::EMPTY)
}

/// Octets for a new text and optional parameters, to be borrowed by [`Parts`].
#[derive(Default)]
pub(super) struct Rewritten {
    text: Vec<u8>,
    tlvs: Vec<u8>,
    data_coding: u8,
    /// How the customer wrote it, see [`Flags::LATIN1`].
    written: u8,
}

impl Rewritten {
    /// The message with this text instead of its own.
    fn new(parts: &Parts<'_>, data_coding: u8, header: &[u8], text: &[u8], in_payload: bool) -> Rewritten {
        let whole = [header, text].concat();
        let in_payload = in_payload || whole.len() > SHORT_MAX;
        let mut out = Rewritten {
            data_coding,
            ..Rewritten::default()
        };
        for tlv in tlvs(parts).iter().filter(|t| t.tag != Tag::MESSAGE_PAYLOAD) {
            smpp::put_tlv(&mut out.tlvs, tlv.tag, tlv.value);
        }
        if in_payload {
            smpp::put_tlv(&mut out.tlvs, Tag::MESSAGE_PAYLOAD, &whole);
        } else {
            out.text = whole;
        }
        out
    }

    pub fn parts<'a>(&'a self, of: &Parts<'a>) -> Parts<'a> {
        Parts {
            flags: Flags {
                data_coding: self.data_coding,
                priority: of.flags.priority | self.written,
                ..of.flags
            },
            text: &self.text,
            tlvs: &self.tlvs,
            ..*of
        }
    }
}

/// What an account's own alphabet and its wish for plain characters make of a message; `None`: nothing. data_coding 0 is GSM
/// 03.38 from here on.
///
/// # Errors
/// [`Reject::TooLong`] for a part of a message that is no part any more, written as it has to be.
pub(super) fn shape(
    parts: &Parts<'_>,
    latin1: bool,
    transliterate: bool,
) -> Result<Option<Rewritten>, Reject> {
    let dcs = parts.flags.data_coding;
    let body = Body::of(parts);
    let part = is_part(parts, &body);
    // One part in plain characters and the next in UCS-2 would be no message: parts stay in the alphabet they came in.
    let transliterate = transliterate && !part;
    if !(latin1 && dcs == 0 || transliterate && matches!(dcs, UCS2 | 0)) {
        return Ok(None);
    }
    let from = match dcs {
        UCS2 => Charset::Ucs2,
        _ if latin1 => Charset::Latin1,
        _ => Charset::Gsm7,
    };
    let Some((dcs, octets)) = text::shaped(from, body.text, transliterate) else {
        return Ok(None);
    };
    if part && dcs == UCS2 && body.header.len() + octets.len() > SEGMENT {
        return Err(Reject::TooLong);
    }
    let mut new = Rewritten::new(parts, dcs, body.header, &octets, body.payload);
    new.written = if from == Charset::Ucs2 {
        Flags::UCS2
    } else {
        Flags::LATIN1
    };
    Ok(Some(new))
}

/// Whether the customer has cut it from a longer message.
fn is_part(parts: &Parts<'_>, body: &Body<'_>) -> bool {
    udh::concat(body.header).is_some_and(|c| c.total > 1) || sar_of(parts).is_some()
}

/// A message whose data_coding is 0, from one alphabet into another, or into UCS-2 where that lacks a character; `None`: it is
/// not. What it becomes may be longer than a short_message: who sends it on sees to that.
pub(super) fn recoded(parts: &Parts<'_>, from: Charset, to: Charset) -> Option<Message> {
    if from == to || parts.flags.data_coding != 0 {
        return None;
    }
    let body = Body::of(parts);
    let text = match from {
        Charset::Gsm7Packed => text::gsm7::decode(&text::gsm7::unpack(body.text, body.header.len())),
        from => from.decode(body.text),
    };
    let (dcs, octets) = match to.encode(&text) {
        Some(octets) => (0, octets),
        None => (UCS2, Charset::Ucs2.encode(&text)?),
    };
    if body.payload {
        let new = Rewritten::new(parts, dcs, body.header, &octets, true);
        return Some(Message::new(&new.parts(parts)));
    }
    Some(Message::new(&Parts {
        flags: Flags {
            data_coding: dcs,
            ..parts.flags
        },
        text: &[body.header, &octets].concat(),
        ..*parts
    }))
}

/// The messages that go to an upstream for one of ours: one, or its parts. `None`: it goes as it is.
pub(super) fn pieces(message: &Message, key: u64, form: &Form) -> Option<Vec<(Piece, Message)>> {
    let parts = message.parts();
    let foreign = !parts.tlvs.is_empty() && tlvs(&parts).iter().any(|t| !passes(t.tag.0, form));
    let other_alphabet = parts.flags.data_coding == 0 && form.alphabet != Charset::Gsm7;
    if !foreign && !other_alphabet && form.long_messages == LongMessages::AsIs {
        return None;
    }
    let mut kept = Vec::new();
    // Where nothing passes, these still say what the text is, and are gone once it is cut.
    let says = |tag| form.bare && (tag == Tag::MESSAGE_PAYLOAD || SAR.contains(&tag));
    for tlv in tlvs(&parts)
        .iter()
        .filter(|t| passes(t.tag.0, form) || says(t.tag))
    {
        smpp::put_tlv(&mut kept, tlv.tag, tlv.value);
    }
    let known = Message::new(&Parts { tlvs: &kept, ..parts });
    // What has become UCS-2 is cut as UCS-2; septets are packed part by part.
    let packed = form.alphabet == Charset::Gsm7Packed;
    let whole = if packed {
        known
    } else {
        written_in(form.alphabet, known)
    };
    let long_messages = if form.bare {
        LongMessages::Udh
    } else {
        form.long_messages
    };
    let mut out = cut(&whole.parts(), key, long_messages).unwrap_or_else(|| vec![(Piece::WHOLE, whole)]);
    if packed {
        out = out
            .into_iter()
            .map(|(piece, part)| (piece, written_in(form.alphabet, part)))
            .collect();
    }
    if form.bare {
        out = out.into_iter().map(|(piece, m)| (piece, stripped(m))).collect();
    }
    Some(out)
}

/// A message whose data_coding is 0 in an upstream's own alphabet, or in UCS-2 where it has a character that the alphabet lacks.
fn written_in(alphabet: Charset, message: Message) -> Message {
    let parts = message.parts();
    if alphabet == Charset::Gsm7 || parts.flags.data_coding != 0 {
        return message;
    }
    let body = Body::of(&parts);
    if alphabet == Charset::Gsm7Packed {
        let packed = text::gsm7::pack(body.text, body.header.len());
        return Message::new(&Rewritten::new(&parts, 0, body.header, &packed, body.payload).parts(&parts));
    }
    let text = Charset::Gsm7.decode(body.text);
    let (dcs, octets) = match alphabet.encode(&text) {
        Some(octets) => (0, octets),
        None => match Charset::Ucs2.encode(&text).unwrap_or_default() {
            // A part cannot grow: its place among the others is taken. What this upstream has no letter for is a question mark.
            long if is_part(&parts, &body) && body.header.len() + long.len() > SEGMENT => {
                (0, with_question_marks(alphabet, &text))
            }
            octets => (UCS2, octets),
        },
    };
    Message::new(&Rewritten::new(&parts, dcs, body.header, &octets, body.payload).parts(&parts))
}

/// Without optional parameters; a text that is in one moves. What does not fit a short_message stays where it is, for the
/// SMSC to refuse.
fn stripped(message: Message) -> Message {
    let parts = message.parts();
    let body = Body::of(&parts);
    if parts.tlvs.is_empty() || body.header.len() + body.text.len() > SHORT_MAX {
        return message;
    }
    Message::new(&Parts {
        text: &[body.header, body.text].concat(),
        tlvs: &[],
        ..parts
    })
}

/// A part that has outgrown a short_message as UCS-2, in a smaller alphabet again.
pub(super) fn squeezed(message: Message, alphabet: Charset) -> Message {
    let parts = message.parts();
    if parts.text.len() <= SHORT_MAX || parts.flags.data_coding != UCS2 {
        return message;
    }
    let body = Body::of(&parts);
    let octets = with_question_marks(alphabet, &Charset::Ucs2.decode(body.text));
    Message::new(&Parts {
        flags: Flags {
            data_coding: 0,
            ..parts.flags
        },
        text: &[body.header, &octets].concat(),
        ..parts
    })
}

fn with_question_marks(alphabet: Charset, text: &str) -> Vec<u8> {
    let known = |c: char| alphabet.encode(c.encode_utf8(&mut [0; 4])).is_some();
    let text: String = text.chars().map(|c| if known(c) { c } else { '?' }).collect();
    alphabet.encode(&text).unwrap_or_default()
}

/// A message in the form an upstream takes; `None`: it has it already.
fn cut(parts: &Parts<'_>, key: u64, form: LongMessages) -> Option<Vec<(Piece, Message)>> {
    let body = Body::of(parts);
    let sar = sar_of(parts);
    let concat = udh::concat(body.header);
    // A part that the customer has cut keeps its place and its id; only how it says so changes.
    if sar.is_some() || concat.is_some() {
        let (reference, total, part) = sar.or(concat.map(|c| (c.reference, c.total, c.part)))?;
        let one = match form {
            LongMessages::Udh if concat.is_none() => {
                with_udh(parts, &body, body.text, reference, total, part)
            }
            LongMessages::Sar if sar.is_none() => with_sar(parts, &body, body.text, reference, total, part),
            _ => return None,
        };
        return Some(vec![(Piece::WHOLE, one)]);
    }
    let all: Vec<u8> = [body.header, body.text].concat();
    let content = Content {
        data_coding: parts.flags.data_coding,
        udhi: !body.header.is_empty(),
        body: &all,
        sar_total: None,
    };
    let ranges = text::parts(&content).ok()?;
    match form {
        LongMessages::AsIs => return None,
        LongMessages::Payload if body.payload || ranges.len() < 2 => return None,
        LongMessages::Payload => {
            let whole = Rewritten::new(parts, parts.flags.data_coding, body.header, body.text, true);
            return Some(vec![(Piece::WHOLE, Message::new(&whole.parts(parts)))]);
        }
        LongMessages::Udh | LongMessages::Sar => {}
    }
    if ranges.len() < 2 {
        // What fits goes as a short_message, wherever it came.
        let short = body.payload && all.len() <= SHORT_MAX;
        return short.then(|| {
            let whole = Rewritten::new(parts, parts.flags.data_coding, body.header, body.text, false);
            vec![(Piece::WHOLE, Message::new(&whole.parts(parts)))]
        });
    }
    let total = ranges.len() as u8;
    let cut = ranges.into_iter().enumerate().map(|(i, range)| {
        let text = all.get(range).unwrap_or(&[]);
        let part = i as u8 + 1;
        let message = if form == LongMessages::Sar {
            with_sar(parts, &body, text, key as u16, total, part)
        } else {
            // Eight bits of reference: two messages of one number with 256 others between them are not in the air at once.
            with_udh(parts, &body, text, key as u16 & 0xFF, total, part)
        };
        (Piece { of: total, part }, message)
    });
    Some(cut.collect())
}

fn sar_of(parts: &Parts<'_>) -> Option<(u16, u8, u8)> {
    let tlvs = tlvs(parts);
    let reference = tlvs.get(Tag::SAR_MSG_REF_NUM)?.try_into().ok()?;
    let (total, part) = (
        tlvs.get_u8(Tag::SAR_TOTAL_SEGMENTS)?,
        tlvs.get_u8(Tag::SAR_SEGMENT_SEQNUM)?,
    );
    (total > 1).then_some((u16::from_be_bytes(reference), total, part))
}

const SAR: [Tag; 3] = [
    Tag::SAR_MSG_REF_NUM,
    Tag::SAR_TOTAL_SEGMENTS,
    Tag::SAR_SEGMENT_SEQNUM,
];

/// A part that says so in its header, behind the elements that were there.
fn with_udh(parts: &Parts<'_>, body: &Body<'_>, text: &[u8], reference: u16, total: u8, part: u8) -> Message {
    let others = body.header.get(1..).unwrap_or(&[]);
    let mut header = vec![0];
    match u8::try_from(reference) {
        Ok(short) => header.extend_from_slice(&[0x00, 3, short, total, part]),
        Err(_) => {
            let [high, low] = reference.to_be_bytes();
            header.extend_from_slice(&[0x08, 4, high, low, total, part]);
        }
    }
    header.extend_from_slice(others);
    header[0] = (header.len() - 1).min(255) as u8;
    let mut kept = Vec::new();
    for tlv in tlvs(parts)
        .iter()
        .filter(|t| t.tag != Tag::MESSAGE_PAYLOAD && !SAR.contains(&t.tag))
    {
        smpp::put_tlv(&mut kept, tlv.tag, tlv.value);
    }
    let text = [&header, text].concat();
    Message::new(&Parts {
        flags: Flags {
            esm_class: parts.flags.esm_class | UDHI,
            ..parts.flags
        },
        text: &text,
        tlvs: &kept,
        ..*parts
    })
}

/// A part that says so in optional parameters; other elements of its header stay.
fn with_sar(parts: &Parts<'_>, body: &Body<'_>, text: &[u8], reference: u16, total: u8, part: u8) -> Message {
    let header = udh::without_concat(body.header);
    let mut kept = Vec::new();
    for tlv in tlvs(parts)
        .iter()
        .filter(|t| t.tag != Tag::MESSAGE_PAYLOAD && !SAR.contains(&t.tag))
    {
        smpp::put_tlv(&mut kept, tlv.tag, tlv.value);
    }
    smpp::put_tlv(&mut kept, Tag::SAR_MSG_REF_NUM, &reference.to_be_bytes());
    smpp::put_tlv(&mut kept, Tag::SAR_TOTAL_SEGMENTS, &[total]);
    smpp::put_tlv(&mut kept, Tag::SAR_SEGMENT_SEQNUM, &[part]);
    let udhi = if header.is_empty() { 0 } else { UDHI };
    let text = [&header[..], text].concat();
    Message::new(&Parts {
        flags: Flags {
            esm_class: parts.flags.esm_class & !UDHI | udhi,
            ..parts.flags
        },
        text: &text,
        tlvs: &kept,
        ..*parts
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn form(alphabet: Charset, long_messages: LongMessages) -> Form {
        Form {
            alphabet,
            long_messages,
            ..Form::default()
        }
    }

    fn text<'a>(dcs: u8, text: &'a [u8]) -> Parts<'a> {
        Parts {
            flags: Flags {
                data_coding: dcs,
                ..Flags::default()
            },
            dest: b"254712345678",
            text,
            ..Parts::default()
        }
    }

    fn payload(octets: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        smpp::put_tlv(&mut out, Tag::MESSAGE_PAYLOAD, octets);
        out
    }

    #[test]
    fn what_needs_no_change_is_not_touched() {
        let m = Message::new(&text(0, b"hello"));
        assert!(pieces(&m, 1, &Form::default()).is_none());
        let one = pieces(&m, 1, &form(Charset::Gsm7, LongMessages::Udh)).unwrap();
        assert_eq!(one, [(Piece::WHOLE, m)]);
    }

    #[test]
    fn a_payload_is_cut_with_a_header_or_with_parameters() {
        let long = vec![b'a'; 400];
        let tlvs = payload(&long);
        let m = Message::new(&Parts {
            tlvs: &tlvs,
            ..text(0, b"")
        });
        let cut = pieces(&m, 0x1_07, &form(Charset::Gsm7, LongMessages::Udh)).unwrap();
        let lengths: Vec<usize> = cut.iter().map(|(_, m)| m.parts().text.len()).collect();
        assert_eq!(lengths, [159, 159, 100]);
        for (i, (piece, m)) in cut.iter().enumerate() {
            assert_eq!((piece.of, usize::from(piece.part)), (3, i + 1));
            assert_eq!(m.parts().text[..6], [5, 0, 3, 7, 3, i as u8 + 1]);
            assert_eq!(m.flags().esm_class & UDHI, UDHI);
            assert!(m.parts().tlvs.is_empty());
        }
        let cut = pieces(&m, 0x1_07, &form(Charset::Gsm7, LongMessages::Sar)).unwrap();
        assert_eq!(cut[2].1.parts().text.len(), 94);
        let tlvs = Tlvs::parse(cut[2].1.parts().tlvs).unwrap();
        assert_eq!(tlvs.get(Tag::SAR_MSG_REF_NUM), Some(&[1, 7][..]));
        assert_eq!(tlvs.get_u8(Tag::SAR_SEGMENT_SEQNUM), Some(3));
    }

    #[test]
    fn parts_of_the_customers_own_change_only_how_they_say_so() {
        let with_port = b"\x0b\x05\x04\x0b\x84\x23\xf0\x00\x03\x2a\x02\x01hello";
        let parts = Parts {
            flags: Flags {
                esm_class: UDHI,
                ..Flags::default()
            },
            ..text(0, with_port)
        };
        let m = Message::new(&parts);
        let sar = pieces(&m, 1, &form(Charset::Gsm7, LongMessages::Sar)).unwrap();
        let [(Piece::WHOLE, one)] = sar.as_slice() else {
            panic!()
        };
        assert_eq!(
            one.parts().text,
            b"\x06\x05\x04\x0b\x84\x23\xf0hello",
            "the port stays"
        );
        assert_eq!(sar_of(&one.parts()), Some((42, 2, 1)));
        let back = pieces(one, 1, &form(Charset::Gsm7, LongMessages::Udh)).unwrap();
        assert_eq!(
            udh::concat(back[0].1.parts().text).map(|c| (c.reference, c.total, c.part)),
            Some((42, 2, 1))
        );
        assert!(back[0].1.parts().text.ends_with(b"\x05\x04\x0b\x84\x23\xf0hello"));
        assert!(pieces(&m, 1, &form(Charset::Gsm7, LongMessages::Payload)).unwrap()[0].1 == m);
    }

    #[test]
    fn an_upstreams_alphabet_is_used_and_ucs2_where_it_lacks_a_character() {
        let latin = form(Charset::Latin1, LongMessages::AsIs);
        let m = Message::new(&text(0, b"\x04\x1b\x3c"));
        assert_eq!(pieces(&m, 1, &latin).unwrap()[0].1.parts().text, b"\xe8[");
        let euro = Message::new(&text(0, b"\x1b\x65"));
        let sent = &pieces(&euro, 1, &latin).unwrap()[0].1;
        assert_eq!(
            (sent.flags().data_coding, sent.parts().text),
            (UCS2, &b"\x20\xac"[..])
        );
        let ucs2 = Message::new(&text(8, b"\x04\x51"));
        assert!(pieces(&ucs2, 1, &latin).is_none());
        let packed = form(Charset::Gsm7Packed, LongMessages::AsIs);
        let m = Message::new(&text(0, b"hellohello"));
        assert_eq!(pieces(&m, 1, &packed).unwrap()[0].1.parts().text.len(), 9);
    }

    #[test]
    fn what_becomes_ucs2_is_cut_as_ucs2() {
        let mut long = vec![0x1B, 0x65];
        long.extend(std::iter::repeat_n(b'a', 158));
        let m = Message::new(&text(0, &long));
        let cut = pieces(&m, 7, &form(Charset::Latin1, LongMessages::Udh)).unwrap();
        let lengths: Vec<usize> = cut.iter().map(|(_, m)| m.parts().text.len()).collect();
        assert_eq!(lengths, [140, 140, 56]);
        assert!(cut.iter().all(|(_, m)| m.flags().data_coding == UCS2));
    }

    #[test]
    fn a_part_that_would_grow_keeps_its_place() {
        let long = [&b"\x05\x00\x03\x07\x02\x01\x1b\x65"[..], &[b'a'; 151]].concat();
        let mut part = text(0, &long);
        part.flags.esm_class = UDHI;
        let sent = pieces(&Message::new(&part), 1, &form(Charset::Latin1, LongMessages::Udh)).unwrap();
        let [(Piece::WHOLE, one)] = sent.as_slice() else {
            panic!()
        };
        assert_eq!(one.flags().data_coding, 0);
        assert!(one.parts().text.starts_with(b"\x05\x00\x03\x07\x02\x01?aaa"));
    }

    #[test]
    fn without_optional_parameters_everything_goes_in_the_text() {
        let bare = Form {
            bare: true,
            ..Form::default()
        };
        let tlvs = payload(&[b'a'; 400]);
        let m = Message::new(&Parts {
            tlvs: &tlvs,
            ..text(0, b"")
        });
        let cut = pieces(&m, 7, &bare).unwrap();
        assert_eq!(cut.len(), 3);
        let mut tlvs = payload(b"short");
        smpp::put_tlv(&mut tlvs, Tag::USER_MESSAGE_REFERENCE, &[0, 1]);
        let m = Message::new(&Parts {
            tlvs: &tlvs,
            ..text(0, b"")
        });
        let one = pieces(&m, 7, &bare).unwrap();
        assert_eq!(one[0].1.parts().text, b"short");
        let mut tlvs = Vec::new();
        smpp::put_tlv(&mut tlvs, Tag::SAR_MSG_REF_NUM, &[0, 9]);
        smpp::put_tlv(&mut tlvs, Tag::SAR_TOTAL_SEGMENTS, &[2]);
        smpp::put_tlv(&mut tlvs, Tag::SAR_SEGMENT_SEQNUM, &[1]);
        let m = Message::new(&Parts {
            tlvs: &tlvs,
            ..text(0, b"part")
        });
        let part = pieces(&m, 7, &bare).unwrap();
        assert_eq!(part[0].1.parts().text, b"\x05\x00\x03\x09\x02\x01part");
        let mut tlvs = Vec::new();
        smpp::put_tlv(&mut tlvs, Tag::SAR_TOTAL_SEGMENTS, &[1]);
        let m = Message::new(&Parts {
            tlvs: &tlvs,
            ..text(0, b"alone")
        });
        let alone = pieces(&m, 7, &bare).unwrap();
        assert_eq!(alone[0].1.parts().text, b"alone");
        for (_, m) in cut.iter().chain(&one).chain(&part).chain(&alone) {
            assert!(m.parts().tlvs.is_empty());
        }
    }

    #[test]
    fn an_inbound_text_is_understood_in_its_alphabet() {
        let packed = text::gsm7::pack(b"caf\x05", 0);
        let m = recoded(&text(0, &packed), Charset::Gsm7Packed, Charset::Gsm7).unwrap();
        assert_eq!(m.parts().text, b"caf\x05");
        let header = b"\x05\x00\x03\x07\x02\x01";
        let packed = [&header[..], &text::gsm7::pack(b"hello", 6)].concat();
        let mut part = text(0, &packed);
        part.flags.esm_class = UDHI;
        let m = recoded(&part, Charset::Gsm7Packed, Charset::Gsm7).unwrap();
        assert_eq!(m.parts().text, [&header[..], b"hello"].concat());
        let m = recoded(&text(0, b"\xe7"), Charset::Latin1, Charset::Gsm7).unwrap();
        assert_eq!((m.flags().data_coding, m.parts().text), (UCS2, &b"\0\xe7"[..]));
        assert!(recoded(&text(8, b"\0a"), Charset::Latin1, Charset::Gsm7).is_none());
    }

    #[test]
    fn unknown_parameters_pass_only_where_they_are_allowed() {
        let mut tlvs = Vec::new();
        smpp::put_tlv(&mut tlvs, Tag(0x1400), b"x");
        smpp::put_tlv(&mut tlvs, Tag::USER_MESSAGE_REFERENCE, &[0, 1]);
        let m = Message::new(&Parts {
            tlvs: &tlvs,
            ..text(0, b"hi")
        });
        let sent = pieces(&m, 1, &Form::default()).unwrap();
        assert_eq!(sent[0].1.parts().tlvs, [2, 4, 0, 2, 0, 1]);
        let allowed = Form {
            tlvs: vec![0x1400],
            ..Form::default()
        };
        assert!(pieces(&m, 1, &allowed).is_none());
    }

    #[test]
    fn an_accounts_alphabet_and_plain_characters() {
        let latin = shape(&text(0, b"caf\xe9"), true, false).unwrap().unwrap();
        assert_eq!((latin.data_coding, &latin.text[..]), (0, &b"caf\x05"[..]));
        let ucs2: Vec<u8> = "\u{201c}hi\u{201d}"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        let plain = shape(&text(8, &ucs2), false, true).unwrap().unwrap();
        assert_eq!((plain.data_coding, &plain.text[..]), (0, &b"\"hi\""[..]));
        assert!(
            shape(&text(8, b"\x04\x51"), false, true).unwrap().is_none(),
            "Cyrillic stays"
        );
        assert!(shape(&text(0, b"hi"), false, true).unwrap().is_none());
        assert!(shape(&text(8, &ucs2), false, false).unwrap().is_none());
        let long = [&b"\x05\x00\x03\x07\x02\x01"[..], &[0xEB; 153]].concat();
        let mut part = text(0, &long);
        part.flags.esm_class = UDHI;
        assert!(matches!(shape(&part, true, false), Err(Reject::TooLong)));
    }

    proptest! {
        #[test]
        fn cut_parts_hold_the_whole_text_once(body in proptest::collection::vec(1u8..0x1B, 0..900), sar in any::<bool>()) {
            let tlvs = payload(&body);
            let m = Message::new(&Parts { tlvs: &tlvs, ..text(0, b"") });
            let how = if sar { LongMessages::Sar } else { LongMessages::Udh };
            let cut = pieces(&m, 77, &form(Charset::Gsm7, how)).unwrap();
            let header = if sar || cut.len() == 1 { 0 } else { 6 };
            let joined: Vec<u8> = cut.iter().flat_map(|(_, m)| m.parts().text[header..].to_vec()).collect();
            if body.len() <= SHORT_MAX || cut.len() > 1 { prop_assert_eq!(joined, body); }
        }
    }
}
