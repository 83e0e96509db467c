//! A message as the gateway keeps it: numbers and octets in one allocation, no protocol types.

use std::fmt;

/// Why stored octets are not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a stored message record is damaged")]
pub struct Damaged;

/// Which part of a message sent in parts; [`Piece::WHOLE`] for one that is not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Piece {
    /// How many parts; 0: not in parts.
    pub of: u8,
    /// This one, from 1.
    pub part: u8,
}

impl Piece {
    /// The message as one.
    pub const WHOLE: Piece = Piece { of: 0, part: 0 };
    /// The message as one with others, under the id that the SMSC gave to the first of them.
    pub const LED: Piece = Piece { of: 0, part: 1 };

    /// The stored number.
    #[must_use]
    pub const fn code(self) -> u16 {
        (self.of as u16) << 8 | self.part as u16
    }

    /// From the stored number.
    #[must_use]
    pub const fn from_code(code: u16) -> Piece {
        Piece {
            of: (code >> 8) as u8,
            part: code as u8,
        }
    }

    /// Not a part.
    #[must_use]
    pub const fn whole(self) -> bool {
        self.of == 0
    }
}

/// Which part of an inbound message a deliver_sm is: from its user data header or its sar parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Common to all parts.
    pub reference: u16,
    /// How many parts.
    pub total: u8,
    /// This one, from 1.
    pub part: u8,
    /// Octets of user data header before its text.
    pub header: u8,
}

/// A text as message_payload (SMPP 3.4 §5.3.2.32), the raw TLV; at most 65,535 octets of it.
#[must_use]
pub fn payload_tlv(text: &[u8]) -> Vec<u8> {
    let text = text.get(..text.len().min(0xFFFF)).unwrap_or(text);
    let [high, low] = (text.len() as u16).to_be_bytes();
    [&[0x04, 0x24, high, low], text].concat()
}

/// The value of the first TLV with this tag among raw well-formed ones.
#[must_use]
pub fn tlv(raw: &[u8], tag: u16) -> Option<&[u8]> {
    let mut rest = raw;
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, next) = after.split_at_checked(len)?;
        if u16::from_be_bytes([head[0], head[1]]) == tag {
            return Some(value);
        }
        rest = next;
    }
    None
}

/// message_payload.
pub const PAYLOAD: u16 = 0x0424;

/// Raw well-formed TLVs without those whose tag `keep` does not want.
#[must_use]
pub fn retain_tlvs(raw: &[u8], keep: impl Fn(u16) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = raw;
    while let [t1, t0, l1, l0, ..] = rest {
        let len = usize::from(u16::from_be_bytes([*l1, *l0]));
        let Some((one, next)) = rest.split_at_checked(4 + len) else {
            break;
        };
        if keep(u16::from_be_bytes([*t1, *t0])) {
            out.extend_from_slice(one);
        }
        rest = next;
    }
    out
}

/// The one-octet fields of a message, with the meaning SMPP 3.4 §5.2 gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// Source type of number.
    pub source_ton: u8,
    /// Source numbering plan.
    pub source_npi: u8,
    /// Destination type of number.
    pub dest_ton: u8,
    /// Destination numbering plan.
    pub dest_npi: u8,
    /// esm_class as the sender gave it.
    pub esm_class: u8,
    /// protocol_id.
    pub protocol_id: u8,
    /// priority_flag, 0–3, and above it the message's level and how the text was written before its account's alphabet was
    /// applied: see [`Flags::level`], [`Flags::LATIN1`] and [`Flags::UCS2`].
    pub priority: u8,
    /// registered_delivery as the sender gave it (upstream, receipts are always asked for).
    pub registered_delivery: u8,
    /// data_coding.
    pub data_coding: u8,
    /// sm_default_msg_id.
    pub default_msg_id: u8,
}

impl Flags {
    /// In `priority`: the customer wrote the text in Latin-1 with data_coding 0.
    pub const LATIN1: u8 = 0x80;
    /// In `priority`: the customer wrote it in UCS-2.
    pub const UCS2: u8 = 0x40;
    /// The bits of priority_flag itself.
    pub const PRIORITY: u8 = 0x03;
    /// In `priority`: see [`Flags::scheduled`].
    const SCHEDULED: u8 = 0x04;
    /// Where in `priority` its level begins, see [`Flags::level`].
    const LEVEL: u8 = 4;

    /// How urgent the message is at an upstream, 0 (bulk) to 3: what priority_flag asks for, as far as the rules of the
    /// operator let it, or what they say instead. Fixed at admission and stored with the message, so that it waits in the same
    /// line after a restart.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.priority >> Flags::LEVEL & 0x03
    }

    /// Whether the customer has given a time before which it is not to go (schedule_delivery_time).
    #[must_use]
    pub const fn scheduled(self) -> bool {
        self.priority & Flags::SCHEDULED != 0
    }

    /// The same with such a time, or without.
    #[must_use]
    pub const fn with_schedule(self, scheduled: bool) -> Flags {
        let others = self.priority & !Flags::SCHEDULED;
        Flags {
            priority: if scheduled {
                others | Flags::SCHEDULED
            } else {
                others
            },
            ..self
        }
    }

    /// The same with another level.
    #[must_use]
    pub const fn with_level(self, level: u8) -> Flags {
        let others = self.priority & !(0x03 << Flags::LEVEL);
        Flags {
            priority: others | (level & 0x03) << Flags::LEVEL,
            ..self
        }
    }
}

const FLAGS: usize = 10;
const HEAD: usize = FLAGS + 3 + 4;
/// Set in a length octet: one more octet follows the head, see [`Parts::sibling`].
const EXTENDED: u8 = 0x80;
/// No address or service_type is longer than the codec lets through: 64 octets.
const FIELD_MAX: usize = 0x7F;

/// A short message: addresses, text and optional parameters in a single allocation.
///
/// The same layout is stored (see [`Message::record`]), so taking a message from the store copies it once.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// flags (10) | source len | dest len | service_type len (bit 7: extended) | text len (u32 LE) | sibling? | source | dest |
    /// service_type | text | TLVs
    record: Box<[u8]>,
}

/// The parts a [`Message`] is made of; all borrowed.
#[derive(Clone, Copy, Default)]
pub struct Parts<'a> {
    /// One-octet fields.
    pub flags: Flags,
    /// Source address, at most 20 octets.
    pub source: &'a [u8],
    /// Destination as it is sent upstream (E.164 digits), at most 20 octets.
    pub dest: &'a [u8],
    /// service_type, at most 5 octets.
    pub service_type: &'a [u8],
    /// short_message with its user data header, or empty where the payload TLV carries the text.
    pub text: &'a [u8],
    /// Optional parameters, as raw well-formed TLVs in their order.
    pub tlvs: &'a [u8],
    /// Which message of a submit_multi this is: its key is so far above that of the first, whose key is the id of all.
    pub sibling: u8,
}

impl Message {
    /// Packs the parts. Addresses and service_type are cut at 127 octets, which the codec never lets through.
    #[must_use]
    pub fn new(parts: &Parts<'_>) -> Message {
        let cut = |field: &'_ [u8]| field.len().min(FIELD_MAX);
        let (source, dest, service) = (cut(parts.source), cut(parts.dest), cut(parts.service_type));
        let extended = if parts.sibling > 0 { EXTENDED } else { 0 };
        let head = HEAD + usize::from(extended >> 7);
        // To the octet: a box of another size would be a second allocation.
        let mut out =
            Vec::with_capacity(head + source + dest + service + parts.text.len() + parts.tlvs.len());
        let f = &parts.flags;
        out.extend_from_slice(&[
            f.source_ton,
            f.source_npi,
            f.dest_ton,
            f.dest_npi,
            f.esm_class,
            f.protocol_id,
            f.priority,
            f.registered_delivery,
            f.data_coding,
            f.default_msg_id,
            source as u8,
            dest as u8,
            service as u8 | extended,
        ]);
        out.extend_from_slice(&(parts.text.len() as u32).to_le_bytes());
        if extended != 0 {
            out.push(parts.sibling);
        }
        out.extend_from_slice(&parts.source[..source]);
        out.extend_from_slice(&parts.dest[..dest]);
        out.extend_from_slice(&parts.service_type[..service]);
        out.extend_from_slice(parts.text);
        out.extend_from_slice(parts.tlvs);
        Message {
            record: out.into_boxed_slice(),
        }
    }

    /// The stored form.
    #[must_use]
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// Takes a stored form back.
    ///
    /// # Errors
    /// [`Damaged`] if its lengths do not add up.
    pub fn from_record(record: &[u8]) -> Result<Message, Damaged> {
        let head: &[u8; HEAD] = record.first_chunk().ok_or(Damaged)?;
        let text = u32::from_le_bytes([head[13], head[14], head[15], head[16]]) as usize;
        let service = usize::from(head[12] & !EXTENDED) + usize::from(head[12] >> 7);
        let needed = HEAD + usize::from(head[10]) + usize::from(head[11]) + service + text;
        if record.len() < needed {
            return Err(Damaged);
        }
        Ok(Message {
            record: record.into(),
        })
    }

    /// The parts, borrowed.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        let r = &self.record;
        let [a, b, c] = [r[10], r[11], r[12] & !EXTENDED].map(usize::from);
        let text = u32::from_le_bytes([r[13], r[14], r[15], r[16]]) as usize;
        let (extra, rest) = r[HEAD..].split_at(usize::from(r[12] >> 7));
        let (source, rest) = rest.split_at(a);
        let (dest, rest) = rest.split_at(b);
        let (service_type, rest) = rest.split_at(c);
        let (text, tlvs) = rest.split_at(text);
        Parts {
            flags: self.flags(),
            source,
            dest,
            service_type,
            text,
            tlvs,
            sibling: extra.first().copied().unwrap_or(0),
        }
    }

    /// The one-octet fields.
    #[must_use]
    pub fn flags(&self) -> Flags {
        let r = &self.record;
        Flags {
            source_ton: r[0],
            source_npi: r[1],
            dest_ton: r[2],
            dest_npi: r[3],
            esm_class: r[4],
            protocol_id: r[5],
            priority: r[6],
            registered_delivery: r[7],
            data_coding: r[8],
            default_msg_id: r[9],
        }
    }

    /// What a receipt needs once the text itself is no longer held.
    #[must_use]
    pub fn stub(&self) -> Stub {
        Stub::of(&self.parts())
    }
}

impl fmt::Debug for Message {
    /// Sizes only: text and numbers are personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} octets)", self.record.len())
    }
}

/// What is kept of a message while its receipt is awaited: the addresses and the first 20 octets of its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Stub {
    /// source ton, npi, dest ton, npi, data_coding, source len, dest len (bit 7: extended) | sibling? | source | dest | text
    record: Box<[u8]>,
}

const STUB_HEAD: usize = 7;
/// Bit of registered_delivery that asks for intermediate notifications (SMPP 3.4 §5.2.17).
const INTERMEDIATE: u8 = 0x10;
/// Set in a stub's source TON (which ends at 7) where they were asked for.
const NOTIFY: u8 = 0x80;
/// How much of the text a receipt repeats (SMPP 3.4 Appendix B).
pub const RECEIPT_TEXT: usize = 20;

impl Default for Stub {
    /// Nothing is known.
    fn default() -> Self {
        Stub::of(&Parts::default())
    }
}

impl Stub {
    fn of(parts: &Parts<'_>) -> Stub {
        // The user data header of a part is not text; a payload's text is in its TLV and is left out.
        let header = if parts.flags.esm_class & 0x40 != 0 {
            parts.text.first().map_or(0, |n| usize::from(*n) + 1)
        } else {
            0
        };
        let text = parts.text.get(header..).unwrap_or(&[]);
        let text = text.get(..RECEIPT_TEXT.min(text.len())).unwrap_or(&[]);
        let (source, dest) = (parts.source.len().min(FIELD_MAX), parts.dest.len().min(FIELD_MAX));
        let extended = if parts.sibling > 0 { EXTENDED } else { 0 };
        let head = STUB_HEAD + usize::from(extended >> 7);
        let mut out = Vec::with_capacity(head + source + dest + text.len());
        let f = &parts.flags;
        let notify = if f.registered_delivery & INTERMEDIATE != 0 {
            NOTIFY
        } else {
            0
        };
        out.extend_from_slice(&[
            f.source_ton & !NOTIFY | notify,
            f.source_npi,
            f.dest_ton,
            f.dest_npi,
            f.data_coding,
            source as u8,
            dest as u8 | extended,
        ]);
        if extended != 0 {
            out.push(parts.sibling);
        }
        out.extend_from_slice(&parts.source[..source]);
        out.extend_from_slice(&parts.dest[..dest]);
        out.extend_from_slice(text);
        Stub {
            record: out.into_boxed_slice(),
        }
    }

    /// The stored form.
    #[must_use]
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// Takes a stored form back.
    ///
    /// # Errors
    /// [`Damaged`] if its lengths do not add up.
    pub fn from_record(record: &[u8]) -> Result<Stub, Damaged> {
        let head: &[u8; STUB_HEAD] = record.first_chunk().ok_or(Damaged)?;
        if record.len() < stub_end(head) {
            return Err(Damaged);
        }
        Ok(Stub {
            record: record.into(),
        })
    }

    /// The same without the text.
    #[must_use]
    pub fn without_text(&self) -> Stub {
        let r = &self.record;
        let end = r.first_chunk().map_or(r.len(), stub_end);
        Stub {
            record: r[..end].into(),
        }
    }

    /// Addresses, text, and whether intermediate notifications were asked for; what a stub does not keep is zero or empty.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        let r = &self.record;
        let (extra, rest) = r[STUB_HEAD..].split_at(usize::from(r[6] >> 7));
        let (source, rest) = rest.split_at(usize::from(r[5]));
        let (dest, text) = rest.split_at(usize::from(r[6] & !EXTENDED));
        let flags = Flags {
            source_ton: r[0] & !NOTIFY,
            registered_delivery: if r[0] & NOTIFY != 0 { INTERMEDIATE } else { 0 },
            source_npi: r[1],
            dest_ton: r[2],
            dest_npi: r[3],
            data_coding: r[4],
            ..Flags::default()
        };
        Parts {
            flags,
            source,
            dest,
            service_type: &[],
            text,
            tlvs: &[],
            sibling: extra.first().copied().unwrap_or(0),
        }
    }
}

/// Where a stub's addresses end.
fn stub_end(head: &[u8; STUB_HEAD]) -> usize {
    STUB_HEAD + usize::from(head[5]) + usize::from(head[6] & !EXTENDED) + usize::from(head[6] >> 7)
}

impl fmt::Debug for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stub({} octets)", self.record.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample<'a>() -> Parts<'a> {
        Parts {
            flags: Flags {
                source_ton: 5,
                dest_ton: 1,
                dest_npi: 1,
                data_coding: 8,
                ..Flags::default()
            },
            source: b"ACME",
            dest: b"254712345678",
            service_type: b"OTP",
            text: b"0123456789012345678901234567890123456789",
            tlvs: &[2, 4, 0, 2, 0, 1],
            sibling: 0,
        }
    }

    #[test]
    fn a_message_of_a_submit_multi_knows_which() {
        let third = Parts {
            sibling: 2,
            ..sample()
        };
        let message = Message::from_record(Message::new(&third).record()).unwrap();
        assert_eq!(
            (message.parts().sibling, message.parts().text),
            (2, sample().text)
        );
        let stub = Stub::from_record(message.stub().record()).unwrap().without_text();
        assert_eq!((stub.parts().sibling, stub.parts().dest), (2, sample().dest));
        assert!(stub.parts().text.is_empty());
    }

    #[test]
    fn a_record_gives_the_same_parts_back() {
        let message = Message::new(&sample());
        let again = Message::from_record(message.record()).unwrap();
        let parts = again.parts();
        assert_eq!(parts.flags, sample().flags);
        assert_eq!(
            (parts.source, parts.dest, parts.service_type),
            (sample().source, sample().dest, sample().service_type)
        );
        assert_eq!((parts.text, parts.tlvs), (sample().text, sample().tlvs));
    }

    #[test]
    fn a_stub_keeps_addresses_and_twenty_octets_without_the_header() {
        let stub = Message::new(&sample()).stub();
        let parts = Stub::from_record(stub.record()).unwrap();
        assert_eq!(parts.parts().text, b"01234567890123456789");
        assert_eq!(parts.parts().dest, b"254712345678");
        let long = Parts {
            flags: Flags {
                esm_class: 0x40,
                ..Flags::default()
            },
            text: b"\x05\x00\x03\x01\x02\x01hello",
            ..sample()
        };
        assert_eq!(Message::new(&long).stub().parts().text, b"hello");
    }

    #[test]
    fn debug_shows_no_text() {
        assert!(!format!("{:?}", Message::new(&sample())).contains("2547"));
    }

    proptest! {
        #[test]
        fn damaged_records_are_errors_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(m) = Message::from_record(&bytes) { let _ = m.stub(); let _ = m.parts(); }
            if let Ok(s) = Stub::from_record(&bytes) { let _ = s.parts(); }
        }
    }
}
