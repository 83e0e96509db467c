//! The values of a submit_sm, in the order of SMPP 3.4 §4.4.1.

use super::field::{Fault, PduError};
use super::message::ShortMessage;
use super::numbers::Tag;
use super::operation::ReplaceSm;
use super::status::CommandStatus;
use super::time::parse_time;
use crate::text::udh;

/// Highest TON and NPI: six and eighteen are the last assigned (SMPP 3.4 §5.2.5, §5.2.6); seven is reserved but sent by clients
/// that fill the field with ones.
const TON_MAX: u8 = 7;
const NPI_MAX: u8 = 18;

/// Message types that an ESME may send besides the default: acknowledgements of the handset's user (SMPP 3.4 §5.2.12).
const DELIVERY_ACK: u8 = 0x08;
const USER_ACK: u8 = 0x10;

fn bad<T>(status: CommandStatus, field: &'static str) -> Result<T, PduError> {
    Err(PduError::new(status, field, Fault::BadValue))
}

/// Checks every field's value.
///
/// Taken although 3.4 reserves it: registered_delivery 3 (success only in 5.0), any data_coding and protocol_id (the SMSC
/// knows its own), sm_default_msg_id beside a text (the SMSC knows which counts), an empty source address (the SMSC fills it
/// in).
///
/// # Errors
/// The first field at fault, with its status.
pub fn check_submit(sm: &ShortMessage<'_>) -> Result<(), PduError> {
    if sm.source.ton.0 > TON_MAX {
        return bad(CommandStatus::ESME_RINVSRCTON, "source_addr_ton");
    }
    if sm.source.npi.0 > NPI_MAX {
        return bad(CommandStatus::ESME_RINVSRCNPI, "source_addr_npi");
    }
    if sm.dest.ton.0 > TON_MAX {
        return bad(CommandStatus::ESME_RINVDSTTON, "dest_addr_ton");
    }
    if sm.dest.npi.0 > NPI_MAX {
        return bad(CommandStatus::ESME_RINVDSTNPI, "dest_addr_npi");
    }
    if sm.dest.addr.is_empty() {
        return bad(CommandStatus::ESME_RINVDSTADR, "destination_addr");
    }
    // Receipts and notifications are the SMSC's to send (SMPP 3.4 §5.2.12).
    if !matches!(sm.esm_class.message_type(), 0x00 | DELIVERY_ACK | USER_ACK) {
        return bad(CommandStatus::ESME_RINVESMCLASS, "esm_class");
    }
    if sm.priority_flag > 3 {
        return bad(CommandStatus::ESME_RINVPRTFLG, "priority_flag");
    }
    if parse_time(sm.schedule_delivery_time).is_err() {
        return bad(CommandStatus::ESME_RINVSCHED, "schedule_delivery_time");
    }
    if parse_time(sm.validity_period).is_err() {
        return bad(CommandStatus::ESME_RINVEXPIRY, "validity_period");
    }
    // Bits 5–7 of registered_delivery are reserved (SMPP 3.4 §5.2.17).
    if sm.registered_delivery.0 & 0xE0 != 0 {
        return bad(CommandStatus::ESME_RINVREGDLVFLG, "registered_delivery");
    }
    // Replacing an earlier message is not offered: taking the flag and ignoring it would deliver both.
    if sm.replace_if_present != 0 {
        return bad(CommandStatus::ESME_RINVREPFLAG, "replace_if_present_flag");
    }
    optional(sm)
}

/// Checks the values of a replace_sm (SMPP 3.4 §4.10.1).
///
/// # Errors
/// The first field at fault, with its status.
pub fn check_replace(r: &ReplaceSm<'_>) -> Result<(), PduError> {
    if parse_time(r.schedule_delivery_time).is_err() {
        return bad(CommandStatus::ESME_RINVSCHED, "schedule_delivery_time");
    }
    if parse_time(r.validity_period).is_err() {
        return bad(CommandStatus::ESME_RINVEXPIRY, "validity_period");
    }
    if r.registered_delivery.0 & 0xE0 != 0 {
        return bad(CommandStatus::ESME_RINVREGDLVFLG, "registered_delivery");
    }
    Ok(())
}

fn optional(sm: &ShortMessage<'_>) -> Result<(), PduError> {
    if sm.tlvs.is_empty() {
        return header(sm, sm.short_message);
    }
    for tlv in sm.tlvs.iter() {
        let width = match tlv.tag {
            Tag::SAR_TOTAL_SEGMENTS | Tag::SAR_SEGMENT_SEQNUM | Tag::MORE_MESSAGES_TO_SEND => 1,
            Tag::SAR_MSG_REF_NUM | Tag::USER_MESSAGE_REFERENCE | Tag::SOURCE_PORT | Tag::DESTINATION_PORT => {
                2
            }
            _ => continue,
        };
        if tlv.value.len() != width {
            return Err(PduError::new(
                CommandStatus::ESME_RINVPARLEN,
                "tlv",
                Fault::BadLength,
            ));
        }
    }
    let payload = sm.tlvs.get(Tag::MESSAGE_PAYLOAD);
    if payload.is_some_and(|p| !p.is_empty()) && !sm.short_message.is_empty() {
        // SMPP 3.4 §5.3.2.32: one or the other.
        return bad(CommandStatus::ESME_RINVMSGLEN, "message_payload");
    }
    header(sm, payload.unwrap_or(sm.short_message))
}

/// A user data header must fit the text it begins.
fn header(sm: &ShortMessage<'_>, text: &[u8]) -> Result<(), PduError> {
    if sm.esm_class.udhi() && udh::header_len(text).is_none() {
        return bad(CommandStatus::ESME_RINVMSGLEN, "short_message");
    }
    Ok(())
}
