//! Receipts and inbound messages → deliver_sm, and back.

use super::convert::{self, Form, LongMessages};
use crate::domain::message::{Flags, Fragment, Message, Parts};
use crate::flow::{OutItem, Payload, UpReceipt};
use crate::smpp::{
    self, Address, CommandId, DataCoding, DataSm, EsmClass, MessageState, Npi, ReceiptText,
    RegisteredDelivery, ShortMessage, Tag, Tlvs, Ton,
};
use crate::text::{Charset, gsm7, udh};
use std::borrow::Cow;

/// esm_class of a delivery receipt (SMPP 3.4 §5.2.12).
const RECEIPT: EsmClass = EsmClass(0x04);

/// esm_class of an intermediate notification.
const NOTIFICATION: EsmClass = EsmClass(0x20);

/// How a session takes deliveries.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// It speaks 3.4 or later.
    pub tlvs: bool,
    /// With data_sm instead of deliver_sm.
    pub data_sm: bool,
    /// Its data_coding 0 is Latin-1.
    pub latin1: bool,
}

impl How {
    /// The PDU that carries a delivery.
    pub fn command(self) -> CommandId {
        if self.data_sm {
            CommandId::DATA_SM
        } else {
            CommandId::DELIVER_SM
        }
    }
}

/// A session that cannot be sent message_payload gets a long inbound message in parts: all but the last of them. The answer to
/// the last counts for the whole.
pub(super) fn early_parts(item: &OutItem, how: How) -> Vec<OutItem> {
    let mut parts = cut_for(&shown(item, how), how);
    parts.pop();
    parts
}

/// Writes an item, or its last part where [`early_parts`] gave the others.
pub(super) fn write_last(out: &mut Vec<u8>, sequence: u32, item: &OutItem, how: How) {
    let item = shown(item, how);
    match cut_for(&item, how).pop() {
        Some(last) => write(out, sequence, &last, how),
        None => write(out, sequence, &item, how),
    }
}

/// An inbound message in the alphabet of its customer.
fn shown(item: &OutItem, how: How) -> Cow<'_, OutItem> {
    if how.latin1
        && let Payload::Inbound(message) = &item.payload
        && let Some(new) = convert::recoded(&message.parts(), Charset::Gsm7, Charset::Latin1)
    {
        return Cow::Owned(OutItem {
            payload: Payload::Inbound(new),
            ..item.clone()
        });
    }
    Cow::Borrowed(item)
}

fn cut_for(item: &OutItem, how: How) -> Vec<OutItem> {
    let Payload::Inbound(message) = &item.payload else {
        return Vec::new();
    };
    let parts = message.parts();
    let long = parts.text.len() > SHORT_MAX || parts.text.is_empty() && !parts.tlvs.is_empty();
    if how.tlvs || !long {
        return Vec::new();
    }
    let form = Form {
        long_messages: LongMessages::Udh,
        ..Form::default()
    };
    let alphabet = if how.latin1 {
        Charset::Latin1
    } else {
        Charset::Gsm7
    };
    convert::pieces(message, item.pos.0, &form)
        .unwrap_or_default()
        .into_iter()
        .map(|(_, part)| OutItem {
            payload: Payload::Inbound(convert::squeezed(part, alphabet)),
            ..item.clone()
        })
        .collect()
}

/// Longest text in short_message.
const SHORT_MAX: usize = 254;

fn put(out: &mut Vec<u8>, sequence: u32, sm: &ShortMessage<'_>, how: How) {
    if !how.data_sm {
        return smpp::put_short_message(out, CommandId::DELIVER_SM, sequence, sm);
    }
    // data_sm has no short_message: the text goes into message_payload (SMPP 3.4 §4.7.1).
    let mut raw = sm.tlvs.as_bytes().to_vec();
    if !sm.short_message.is_empty() {
        smpp::put_tlv(&mut raw, Tag::MESSAGE_PAYLOAD, sm.short_message);
    }
    let data = DataSm {
        service_type: sm.service_type,
        source: sm.source,
        dest: sm.dest,
        esm_class: sm.esm_class,
        registered_delivery: sm.registered_delivery,
        data_coding: sm.data_coding,
        tlvs: Tlvs::parse(&raw).unwrap_or(Tlvs::EMPTY),
    };
    let start = smpp::begin(out, CommandId::DATA_SM, smpp::CommandStatus::ESME_ROK, sequence);
    data.encode_body(out);
    smpp::finish(out, start);
}

/// Writes the PDU for an item as it stands.
pub(super) fn write(out: &mut Vec<u8>, sequence: u32, item: &OutItem, how: How) {
    let tlvs = how.tlvs;
    match &item.payload {
        Payload::Inbound(message) => {
            let parts = message.parts();
            let mut sm = sm_of(&parts);
            let mut raw = Vec::new();
            if parts.text.len() > SHORT_MAX && tlvs {
                raw.extend_from_slice(parts.tlvs);
                smpp::put_tlv(&mut raw, Tag::MESSAGE_PAYLOAD, parts.text);
                sm.short_message = &[];
                sm.tlvs = Tlvs::parse(&raw).unwrap_or(Tlvs::EMPTY);
            }
            if !tlvs {
                sm.tlvs = Tlvs::EMPTY;
            }
            put(out, sequence, &sm, how);
        }
        Payload::Receipt {
            key,
            stub,
            state,
            err,
            submitted_ms,
            done_ms,
            counts,
        } => {
            let original = stub.parts();
            // The messages of a submit_multi share the id of the first.
            let id = key.0.saturating_sub(u64::from(original.sibling));
            let id = itoa::Buffer::new().format(id).as_bytes().to_vec();
            // Not ended: an intermediate notification (SMPP 3.4 §5.2.12).
            let class = if state.is_some() { RECEIPT } else { NOTIFICATION };
            let state = state.map_or(MessageState::ENROUTE, |s| MessageState(s.code()));
            let mut text = Vec::with_capacity(160);
            smpp::write_receipt(
                &mut text,
                &ReceiptText {
                    id: &id,
                    sub: u16::from(counts.0),
                    dlvrd: u16::from(counts.1),
                    submit_unix_s: submitted_ms / 1_000,
                    done_unix_s: done_ms / 1_000,
                    stat: state,
                    err: *err,
                    // UCS-2 octets would be read as Latin-1 in the receipt's own alphabet.
                    text: if original.flags.data_coding & 0x0C == 0 {
                        original.text
                    } else {
                        &[]
                    },
                },
            );
            let mut raw = Vec::with_capacity(48);
            if tlvs {
                let mut id_z = id.clone();
                id_z.push(0);
                smpp::put_tlv(&mut raw, Tag::RECEIPTED_MESSAGE_ID, &id_z);
                smpp::put_tlv(&mut raw, Tag::MESSAGE_STATE, &[state.0]);
            }
            // A receipt comes from where the message went (SMPP 3.4 §4.6.1).
            let sm = ShortMessage {
                source: address(original.flags.dest_ton, original.flags.dest_npi, original.dest),
                dest: address(
                    original.flags.source_ton,
                    original.flags.source_npi,
                    original.source,
                ),
                esm_class: class,
                short_message: &text,
                tlvs: Tlvs::parse(&raw).unwrap_or(Tlvs::EMPTY),
                ..sm_of(&Parts::default())
            };
            put(out, sequence, &sm, how);
        }
    }
}

fn address(ton: u8, npi: u8, addr: &[u8]) -> Address<'_> {
    Address {
        ton: Ton(ton),
        npi: Npi(npi),
        addr,
    }
}

/// The PDU fields of a stored message.
pub(super) fn sm_of<'a>(parts: &Parts<'a>) -> ShortMessage<'a> {
    let f = &parts.flags;
    ShortMessage {
        service_type: parts.service_type,
        source: address(f.source_ton, f.source_npi, parts.source),
        dest: address(f.dest_ton, f.dest_npi, parts.dest),
        esm_class: EsmClass(f.esm_class),
        protocol_id: f.protocol_id,
        priority_flag: f.priority & Flags::PRIORITY,
        schedule_delivery_time: &[],
        validity_period: &[],
        registered_delivery: RegisteredDelivery(f.registered_delivery),
        replace_if_present: 0,
        data_coding: DataCoding(f.data_coding),
        sm_default_msg_id: f.default_msg_id,
        short_message: parts.text,
        tlvs: Tlvs::parse(parts.tlvs).unwrap_or(Tlvs::EMPTY),
    }
}

/// An upstream's own words: states by the `stat` of its receipts, and `err` codes by what it calls them.
#[derive(Clone, Debug, Default)]
pub struct ReceiptMaps {
    /// `stat` in capitals → state.
    pub states: std::collections::BTreeMap<String, u8>,
    /// `err` as written, in lower case → our number.
    pub errors: std::collections::BTreeMap<String, u16>,
}

/// What an SMSC delivered.
#[derive(Debug)]
pub(super) enum Delivered {
    /// A receipt for a message of ours.
    Receipt(UpReceipt),
    /// The same, whose state nobody knows by this word.
    Strange(UpReceipt, Box<[u8]>),
    /// A mobile-originated message, and which part of one it is.
    Inbound(Message, Option<Fragment>),
}

/// Longest SMSC id that is taken (SMPP 3.4 §5.2.23: 65 octets with the NUL).
const ID_MAX: usize = 65;

/// The text of a receipt that an SMSC has packed like everything else; `None`: it has not, as most have not where they pack
/// messages.
fn unpacked(sm: &ShortMessage<'_>, alphabet: Charset) -> Option<Vec<u8>> {
    let is_receipt = sm.esm_class.is_receipt() || sm.esm_class.is_intermediate();
    if alphabet != Charset::Gsm7Packed || !is_receipt || sm.data_coding.0 != 0 {
        return None;
    }
    let text = gsm7::unpack(sm.short_message, 0);
    let says = |text: &[u8]| text.windows(5).any(|w| w.eq_ignore_ascii_case(b"stat:"));
    (says(&text) && !says(sm.short_message)).then_some(text)
}

/// Tells receipts from inbound messages.
pub(super) fn read(sm: &ShortMessage<'_>, maps: &ReceiptMaps, alphabet: Charset) -> Delivered {
    let plain = unpacked(sm, alphabet);
    let as_text = ShortMessage {
        short_message: plain.as_deref().unwrap_or(sm.short_message),
        ..*sm
    };
    let Some(receipt) = smpp::parse_receipt(&as_text) else {
        let f = Flags {
            source_ton: sm.source.ton.0,
            source_npi: sm.source.npi.0,
            dest_ton: sm.dest.ton.0,
            dest_npi: sm.dest.npi.0,
            esm_class: sm.esm_class.0,
            protocol_id: sm.protocol_id,
            priority: sm.priority_flag,
            registered_delivery: 0,
            data_coding: sm.data_coding.0,
            default_msg_id: 0,
        };
        let parts = Parts {
            flags: f,
            source: sm.source.addr,
            dest: sm.dest.addr,
            service_type: sm.service_type,
            text: sm.short_message,
            tlvs: sm.tlvs.as_bytes(),
            sibling: 0,
        };
        let message =
            convert::recoded(&parts, alphabet, Charset::Gsm7).unwrap_or_else(|| Message::new(&parts));
        return Delivered::Inbound(message, fragment(sm));
    };
    let id: &[u8] = receipt.id.as_deref().unwrap_or(&[]);
    let state = state_of(&receipt, sm.esm_class.is_intermediate(), maps);
    let err = match receipt.err.as_deref() {
        Some(err) => error_of(err, maps),
        None => sm.tlvs.get(Tag::NETWORK_ERROR_CODE).map_or(0, network_error),
    };
    let up = UpReceipt {
        smsc_id: id.get(..ID_MAX.min(id.len())).unwrap_or(&[]).into(),
        number: sm.source.addr.into(),
        other: sm.dest.addr.into(),
        state,
        err,
    };
    match receipt.stat.as_deref() {
        Some(stat) if state == MessageState::UNKNOWN.0 && MessageState::from_stat(stat).is_none() => {
            Delivered::Strange(up, stat.into())
        }
        _ => Delivered::Receipt(up),
    }
}

/// network_error_code: the kind of network, then the code (SMPP 3.4 §5.3.2.31).
fn network_error(value: &[u8]) -> u16 {
    match value {
        [_, high, low] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

/// Which part of a message a deliver_sm carries in its short_message, if it is one.
fn fragment(sm: &ShortMessage<'_>) -> Option<Fragment> {
    if sm.short_message.is_empty() {
        return None;
    }
    let header = if sm.esm_class.udhi() {
        udh::header_len(sm.short_message)?
    } else {
        0
    };
    let (reference, total, part) = match udh::concat(sm.short_message).filter(|_| header > 0) {
        Some(c) => (c.reference, c.total, c.part),
        None => (
            u16::from_be_bytes(sm.tlvs.get(Tag::SAR_MSG_REF_NUM)?.try_into().ok()?),
            sm.tlvs.get_u8(Tag::SAR_TOTAL_SEGMENTS)?,
            sm.tlvs.get_u8(Tag::SAR_SEGMENT_SEQNUM)?,
        ),
    };
    // A part beyond the total is none (3GPP TS 23.040 §9.2.3.24.1).
    ((1..=total).contains(&part) && total > 1).then_some(Fragment {
        reference,
        total,
        part,
        header: header as u8,
    })
}

/// The state a receipt reports. The upstream's own map counts first; then the TLV, where it names an end; where it does not, the
/// text may: one SMSC sends ENROUTE in the TLV of every receipt. What names nothing known is UNKNOWN, never dropped. An
/// intermediate notification (SMPP 3.4 §5.2.12, type 0x20) is no end, whatever state it names.
fn state_of(receipt: &smpp::Receipt<'_>, intermediate: bool, maps: &ReceiptMaps) -> u8 {
    if intermediate {
        return MessageState::ENROUTE.0;
    }
    if !maps.states.is_empty()
        && let Some(stat) = receipt.stat.as_deref()
        && let Some(state) = maps
            .states
            .get(&String::from_utf8_lossy(stat).to_ascii_uppercase())
    {
        return *state;
    }
    let text = receipt.stat.as_deref().map(MessageState::from_stat);
    let ends = |s: &MessageState| (MessageState::DELIVERED.0..=MessageState::REJECTED.0).contains(&s.0);
    let state = match (receipt.state, text) {
        (Some(tlv), _) if ends(&tlv) => tlv,
        (_, Some(Some(word))) => word,
        // SKIPPED (SMPP 5.0 §4.7.15): it was not and will not be delivered.
        (Some(MessageState(9)), _) => MessageState::UNDELIVERABLE,
        (Some(MessageState(0 | 1)), None) => MessageState::ENROUTE,
        _ => MessageState::UNKNOWN,
    };
    state.0
}

fn error_of(err: &[u8], maps: &ReceiptMaps) -> u16 {
    let own = (!maps.errors.is_empty())
        .then(|| {
            maps.errors
                .get(&String::from_utf8_lossy(err).to_ascii_lowercase())
        })
        .flatten();
    own.copied().unwrap_or_else(|| error_number(err))
}

/// The `err` field as a number: up to three digits; anything else is 0.
fn error_number(err: &[u8]) -> u16 {
    let digits = err.iter().take_while(|c| c.is_ascii_digit()).take(5);
    digits.fold(0u32, |n, c| n * 10 + u32::from(c - b'0')).min(0xFFFF) as u16
}
