//! Receipts and inbound messages → deliver_sm, and back.

use crate::domain::message::{Flags, Message, Parts};
use crate::flow::{OutItem, Payload, UpReceipt};
use crate::smpp::{
    self, Address, CommandId, DataCoding, EsmClass, MessageState, Npi, ReceiptText, RegisteredDelivery,
    ShortMessage, Tag, Tlvs, Ton,
};

/// esm_class of a delivery receipt (SMPP 3.4 §5.2.12).
const RECEIPT: EsmClass = EsmClass(0x04);

/// Writes the deliver_sm for an item. `tlvs`: the peer speaks 3.4 or later.
pub(super) fn write(out: &mut Vec<u8>, sequence: u32, item: &OutItem, tlvs: bool) {
    match &item.payload {
        Payload::Inbound(message) => {
            let mut sm = sm_of(&message.parts());
            if !tlvs {
                sm.tlvs = Tlvs::EMPTY;
            }
            smpp::put_short_message(out, CommandId::DELIVER_SM, sequence, &sm);
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
            let state = MessageState(state.code());
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
                esm_class: RECEIPT,
                short_message: &text,
                tlvs: Tlvs::parse(&raw).unwrap_or(Tlvs::EMPTY),
                ..sm_of(&Parts::default())
            };
            smpp::put_short_message(out, CommandId::DELIVER_SM, sequence, &sm);
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
        priority_flag: f.priority,
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

/// What an SMSC delivered.
#[derive(Debug)]
pub(super) enum Delivered {
    /// A receipt for a message of ours.
    Receipt(UpReceipt),
    /// A mobile-originated message.
    Inbound(Message),
}

/// Longest SMSC id that is taken (SMPP 3.4 §5.2.23: 65 octets with the NUL).
const ID_MAX: usize = 65;

/// Tells receipts from inbound messages.
pub(super) fn read(sm: &ShortMessage<'_>) -> Delivered {
    let Some(receipt) = smpp::parse_receipt(sm) else {
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
        return Delivered::Inbound(Message::new(&Parts {
            flags: f,
            source: sm.source.addr,
            dest: sm.dest.addr,
            service_type: sm.service_type,
            text: sm.short_message,
            tlvs: sm.tlvs.as_bytes(),
            sibling: 0,
        }));
    };
    let id: &[u8] = receipt.id.as_deref().unwrap_or(&[]);
    Delivered::Receipt(UpReceipt {
        smsc_id: id.get(..ID_MAX.min(id.len())).unwrap_or(&[]).into(),
        number: sm.source.addr.into(),
        other: sm.dest.addr.into(),
        state: state_of(&receipt),
        err: receipt.err.as_deref().map_or(0, error_number),
    })
}

/// The state a receipt reports. The TLV counts where it names an end; where it does not, the text may: one SMSC sends ENROUTE
/// in the TLV of every receipt. What names nothing known is UNKNOWN, never dropped.
fn state_of(receipt: &smpp::Receipt<'_>) -> u8 {
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

/// The `err` field as a number: up to three digits; anything else is 0.
fn error_number(err: &[u8]) -> u16 {
    let digits = err.iter().take_while(|c| c.is_ascii_digit()).take(5);
    digits.fold(0u32, |n, c| n * 10 + u32::from(c - b'0')).min(0xFFFF) as u16
}
