//! Writing PDUs on the hot path: append to one buffer, patch the length afterwards.

use super::field::put_cstring;
use super::message::ShortMessage;
use super::numbers::CommandId;
use super::status::CommandStatus;

/// Starts a PDU; give what it returns to [`finish`] after the body.
#[inline]
pub fn begin(out: &mut Vec<u8>, id: CommandId, status: CommandStatus, sequence: u32) -> usize {
    let start = out.len();
    let mut header = [0u8; 16];
    header[4..8].copy_from_slice(&id.0.to_be_bytes());
    header[8..12].copy_from_slice(&status.0.to_be_bytes());
    header[12..].copy_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&header);
    start
}

/// Ends a PDU: writes its command_length.
#[inline]
pub fn finish(out: &mut [u8], start: usize) {
    let length = (out.len() - start) as u32;
    if let Some(slot) = out.get_mut(start..start + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

/// A PDU that is a header only: enquire_link, unbind, generic_nack, and errors without a body.
#[inline]
pub fn put_header_only(out: &mut Vec<u8>, id: CommandId, status: CommandStatus, sequence: u32) {
    let start = begin(out, id, status, sequence);
    finish(out, start);
}

/// submit_sm_resp or deliver_sm_resp with a message_id, possibly empty.
#[inline]
pub fn put_message_id_resp(
    out: &mut Vec<u8>,
    id: CommandId,
    status: CommandStatus,
    sequence: u32,
    message_id: &[u8],
) {
    let start = begin(out, id, status, sequence);
    put_cstring(out, message_id);
    finish(out, start);
}

/// submit_sm or deliver_sm.
#[inline]
pub fn put_short_message(out: &mut Vec<u8>, id: CommandId, sequence: u32, sm: &ShortMessage<'_>) {
    let start = begin(out, id, CommandStatus::ESME_ROK, sequence);
    sm.encode_body(out);
    finish(out, start);
}
