//! Delivery receipts: Appendix-B text in every order and spelling seen, and the TLV form.

use std::borrow::Cow;

use super::message::ShortMessage;
use super::numbers::{MessageState, Tag};
use super::time::format_minute;

/// What a receipt says. Absent fields are `None`; nothing is guessed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Receipt<'a> {
    /// The SMSC's id as written; from receipted_message_id if there is one.
    pub id: Option<Cow<'a, [u8]>>,
    /// `stat` as written.
    pub stat: Option<Cow<'a, [u8]>>,
    /// message_state TLV, or what `stat` stands for; an unknown word is UNKNOWN.
    pub state: Option<MessageState>,
    /// `err` as written.
    pub err: Option<Cow<'a, [u8]>>,
    /// `sub`.
    pub sub: Option<u32>,
    /// `dlvrd`.
    pub dlvrd: Option<u32>,
    /// `submit date` as written.
    pub submit_date: Option<Cow<'a, [u8]>>,
    /// `done date` as written.
    pub done_date: Option<Cow<'a, [u8]>>,
    /// What follows `text:`.
    pub text: Option<Cow<'a, [u8]>>,
}

impl std::fmt::Debug for Receipt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receipt({:?})", self.state)
    }
}

const DATA_CODING_UCS2: u8 = 0x08;

/// Reads a deliver_sm as a receipt; `None` if it is an ordinary message.
///
/// A receipt is what esm_class says is one, or what carries receipted_message_id. A text that merely looks like a receipt is
/// an ordinary message: anybody can type one.
#[must_use]
pub fn parse_receipt<'a>(sm: &ShortMessage<'a>) -> Option<Receipt<'a>> {
    let tlv_id = sm.tlvs.get_cstr(Tag::RECEIPTED_MESSAGE_ID);
    if !(sm.esm_class.is_receipt() || sm.esm_class.is_intermediate() || tlv_id.is_some()) {
        return None;
    }
    let mut receipt = from_text(text_of(sm));
    if let Some(id) = tlv_id.filter(|id| !id.is_empty()) {
        receipt.id = Some(Cow::Borrowed(id));
    }
    if let Some(state) = sm.tlvs.get_u8(Tag::MESSAGE_STATE) {
        receipt.state = Some(MessageState(state));
    }
    Some(receipt)
}

/// The text without a user data header and in one-octet characters.
fn text_of<'a>(sm: &ShortMessage<'a>) -> Cow<'a, [u8]> {
    let mut text = sm.short_message;
    if text.is_empty() {
        text = sm.tlvs.get(Tag::MESSAGE_PAYLOAD).unwrap_or(text);
    }
    if sm.esm_class.udhi() {
        // Some SMSCs set the bit on receipts without a header: what begins like a receipt has none.
        let header = text.first().map_or(0, |n| usize::from(*n) + 1);
        if header < text.len() && !text.first().is_some_and(u8::is_ascii_alphabetic) {
            text = text.get(header..).unwrap_or(text);
        }
    }
    if sm.data_coding.0 == DATA_CODING_UCS2 && text.first() == Some(&0) {
        let low = text
            .chunks_exact(2)
            .map(|pair| if pair[0] == 0 { pair[1] } else { b'?' });
        return Cow::Owned(low.collect());
    }
    Cow::Borrowed(text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Id,
    Sub,
    Dlvrd,
    SubmitDate,
    DoneDate,
    Stat,
    Err,
    Text,
}

const KEYS: [(&[u8], Key); 10] = [
    (b"id", Key::Id),
    (b"submit date", Key::SubmitDate),
    (b"submit_date", Key::SubmitDate),
    (b"done date", Key::DoneDate),
    (b"done_date", Key::DoneDate),
    (b"sub", Key::Sub),
    (b"dlvrd", Key::Dlvrd),
    (b"stat", Key::Stat),
    (b"err", Key::Err),
    (b"text", Key::Text),
];

/// The key that begins at `at`, and where its value does.
fn key_at(text: &[u8], at: usize) -> Option<(Key, usize)> {
    let rest = text.get(at..)?;
    KEYS.iter().find_map(|(name, key)| {
        let head = rest.get(..name.len())?;
        (head.eq_ignore_ascii_case(name) && rest.get(name.len()) == Some(&b':'))
            .then_some((*key, at + name.len() + 1))
    })
}

fn blank(c: u8) -> bool {
    c.is_ascii_whitespace() || c == 0
}

fn from_text(text: Cow<'_, [u8]>) -> Receipt<'_> {
    let mut receipt = Receipt::default();
    let octets: &[u8] = &text;
    let slice = |from: usize, to: usize| -> Cow<'_, [u8]> {
        match &text {
            Cow::Borrowed(t) => Cow::Borrowed(t.get(from..to).unwrap_or(&[])),
            Cow::Owned(t) => Cow::Owned(t.get(from..to).unwrap_or(&[]).to_vec()),
        }
    };
    let number = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|s| s.parse().ok());
    let (mut at, mut bare) = (0, None);
    while at < octets.len() {
        while octets.get(at).is_some_and(|c| blank(*c)) {
            at += 1;
        }
        let Some((key, mut from)) = key_at(octets, at) else {
            let end = word_end(octets, at);
            bare = bare.or_else(|| {
                octets
                    .get(at..end)
                    .filter(|w| MessageState::from_stat(w).is_some())
                    .map(|_| (at, end))
            });
            at = end.max(at + 1);
            continue;
        };
        if key == Key::Text {
            let from = from
                + octets
                    .get(from..)
                    .map_or(0, |t| t.iter().take_while(|c| **c == b' ').count());
            let tail = octets.get(from..).unwrap_or(&[]);
            let to = from + tail.len() - tail.iter().rev().take_while(|c| **c == 0 || **c == b' ').count();
            receipt.text = Some(slice(from, to.max(from)));
            break;
        }
        while octets.get(from).is_some_and(|c| blank(*c)) {
            from += 1;
        }
        // "id: sub:001" has no id.
        let to = if key_at(octets, from).is_some() {
            from
        } else {
            word_end(octets, from)
        };
        let value = (to > from).then(|| slice(from, to));
        let set = |slot: &mut Option<Cow<'_, [u8]>>| slot.is_none();
        match key {
            Key::Id if set(&mut receipt.id) => receipt.id = value,
            Key::Stat if set(&mut receipt.stat) => receipt.stat = value,
            Key::Err if set(&mut receipt.err) => receipt.err = value,
            Key::SubmitDate if set(&mut receipt.submit_date) => receipt.submit_date = value,
            Key::DoneDate if set(&mut receipt.done_date) => receipt.done_date = value,
            Key::Sub => receipt.sub = receipt.sub.or_else(|| number(&value?)),
            Key::Dlvrd => receipt.dlvrd = receipt.dlvrd.or_else(|| number(&value?)),
            _ => {}
        }
        at = to;
    }
    if receipt.stat.is_none() {
        // One SMSC leaves the key out: "… done date:1809031208 DELIVRD err:000".
        receipt.stat = bare.map(|(from, to)| slice(from, to));
    }
    receipt.state = receipt
        .stat
        .as_deref()
        .map(|word| MessageState::from_stat(word).unwrap_or(MessageState::UNKNOWN));
    receipt
}

fn word_end(octets: &[u8], from: usize) -> usize {
    octets
        .get(from..)
        .and_then(|t| t.iter().position(|c| blank(*c)))
        .map_or(octets.len(), |n| from + n)
}

/// A receipt to be written.
#[derive(Clone, Copy)]
pub struct ReceiptText<'a> {
    /// Our id.
    pub id: &'a [u8],
    /// Parts submitted.
    pub sub: u16,
    /// Parts delivered.
    pub dlvrd: u16,
    /// When it was submitted, seconds since the epoch.
    pub submit_unix_s: u64,
    /// When it ended, seconds since the epoch.
    pub done_unix_s: u64,
    /// How it ended.
    pub stat: MessageState,
    /// Error code, three digits or more.
    pub err: u16,
    /// Beginning of the message, at most 20 octets.
    pub text: &'a [u8],
}

impl std::fmt::Debug for ReceiptText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReceiptText({})", self.stat)
    }
}

/// Writes the Appendix-B text, dates in UTC.
pub fn write_receipt(out: &mut Vec<u8>, r: &ReceiptText<'_>) {
    out.extend_from_slice(b"id:");
    out.extend_from_slice(r.id);
    out.extend_from_slice(b" sub:");
    put3(out, r.sub);
    out.extend_from_slice(b" dlvrd:");
    put3(out, r.dlvrd);
    out.extend_from_slice(b" submit date:");
    format_minute(r.submit_unix_s, out);
    out.extend_from_slice(b" done date:");
    format_minute(r.done_unix_s, out);
    out.extend_from_slice(b" stat:");
    out.extend_from_slice(r.stat.stat().as_bytes());
    out.extend_from_slice(b" err:");
    put3(out, r.err);
    out.extend_from_slice(b" text:");
    out.extend_from_slice(r.text.get(..r.text.len().min(20)).unwrap_or(&[]));
}

/// At least three digits.
fn put3(out: &mut Vec<u8>, n: u16) {
    let digits: [u8; 5] = std::array::from_fn(|i| b'0' + (n / 10u16.pow(4 - i as u32) % 10) as u8);
    let from = digits.iter().position(|d| *d != b'0').unwrap_or(4).min(2);
    out.extend_from_slice(digits.get(from..).unwrap_or(&[]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smpp::{EsmClass, ShortMessage};
    use proptest::prelude::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut out = Vec::new();
        let r = ReceiptText {
            id: b"42",
            sub: 1,
            dlvrd: 0,
            submit_unix_s: 1_767_268_800,
            done_unix_s: 1_767_268_860,
            stat: MessageState::UNDELIVERABLE,
            err: 1077,
            text: b"Hello id:7",
        };
        write_receipt(&mut out, &r);
        assert_eq!(out, b"id:42 sub:001 dlvrd:000 submit date:2601011200 done date:2601011201 stat:UNDELIV err:1077 text:Hello id:7");
        let sm = ShortMessage {
            esm_class: EsmClass(4),
            short_message: &out,
            ..ShortMessage::default()
        };
        let back = parse_receipt(&sm).unwrap();
        assert_eq!(
            (back.id.as_deref(), back.state, back.err.as_deref()),
            (
                Some(&b"42"[..]),
                Some(MessageState::UNDELIVERABLE),
                Some(&b"1077"[..])
            )
        );
        assert_eq!(back.text.as_deref(), Some(&b"Hello id:7"[..]));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..120), esm in any::<u8>(), dcs in any::<u8>()) {
            let sm = ShortMessage { esm_class: EsmClass(esm), data_coding: crate::smpp::DataCoding(dcs), short_message: &text, ..ShortMessage::default() };
            let _ = parse_receipt(&sm);
        }
    }
}
