//! submit_sm → the gateway's own words.

use crate::domain::message::{Flags, Parts};
use crate::domain::reject::Reject;
use crate::flow::Submission;
use crate::smpp::{self, CommandStatus, PduError, ShortMessage, SmppTime, Tag};
use crate::text;

/// Why a submit_sm goes no further than the edge.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// A field is malformed: its own status.
    Field(CommandStatus),
    /// A reason of ours.
    Reason(Reject),
}

impl From<PduError> for Fault {
    fn from(e: PduError) -> Fault {
        Fault::Field(e.status)
    }
}

impl From<Reject> for Fault {
    fn from(reason: Reject) -> Fault {
        Fault::Reason(reason)
    }
}

/// TON of a national number (SMPP 3.4 §5.2.5).
const TON_NATIONAL: u8 = 2;

/// Reads a submit_sm body and checks the form of every field.
pub(super) fn read(sequence: u32, body: &[u8], now_ms: u64) -> Result<Submission<'_>, Fault> {
    let sm = ShortMessage::decode(body)?;
    smpp::check_submit(&sm)?;
    if !sm.schedule_delivery_time.is_empty() {
        return Err(Reject::Schedule.into());
    }
    let payload = sm.tlvs.get(Tag::MESSAGE_PAYLOAD).filter(|p| !p.is_empty());
    // An empty text is an ordinary message (SMPP 3.4 §4.4.1: sm_length may be 0); some clients send it as a ping of the phone.
    let content = text::Content {
        data_coding: sm.data_coding.0,
        udhi: sm.esm_class.udhi(),
        body: payload.unwrap_or(sm.short_message),
        sar_total: sm.tlvs.get_u8(Tag::SAR_TOTAL_SEGMENTS),
    };
    let flags = Flags {
        source_ton: sm.source.ton.0,
        source_npi: sm.source.npi.0,
        dest_ton: sm.dest.ton.0,
        dest_npi: sm.dest.npi.0,
        esm_class: sm.esm_class.0,
        protocol_id: sm.protocol_id,
        priority: sm.priority_flag,
        registered_delivery: sm.registered_delivery.0,
        data_coding: sm.data_coding.0,
        default_msg_id: sm.sm_default_msg_id,
    };
    Ok(Submission {
        sequence,
        national: sm.dest.ton.0 == TON_NATIONAL,
        segments: text::count(&content).ok(),
        expires_ms: expires(sm.validity_period, now_ms),
        parts: Parts {
            flags,
            source: sm.source.addr,
            dest: sm.dest.addr,
            service_type: sm.service_type,
            text: sm.short_message,
            tlvs: sm.tlvs.as_bytes(),
            sibling: 0,
        },
    })
}

fn expires(field: &[u8], now_ms: u64) -> Result<Option<u64>, ()> {
    match smpp::parse_time(field) {
        Err(_) => Err(()),
        Ok(None) => Ok(None),
        Ok(Some(SmppTime::Absolute { unix_ms })) => Ok(Some(unix_ms)),
        Ok(Some(SmppTime::Relative { seconds })) => {
            Ok(Some(now_ms.saturating_add(seconds.saturating_mul(1_000))))
        }
    }
}
