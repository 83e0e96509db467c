//! submit_sm → the gateway's own words.

use super::convert;
use crate::domain::account::{Account, Alphabet};
use crate::domain::message::{Flags, Parts};
use crate::domain::reject::Reject;
use crate::flow::{Admitted, Submission, Ticket};
use crate::smpp::{self, CommandStatus, DataSm, PduError, ShortMessage, SmppTime, Tag, Tlvs};
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

/// The gateway's own words for a submit_sm whose fields have been checked.
pub(super) fn read<'a>(
    ticket: Option<Ticket>,
    sm: &ShortMessage<'a>,
    now_ms: u64,
) -> Result<Submission<'a>, Fault> {
    // An empty text is an ordinary message (SMPP 3.4 §4.4.1: sm_length may be 0); some clients send it as a ping of the phone.
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
    let parts = Parts {
        flags,
        source: sm.source.addr,
        dest: sm.dest.addr,
        service_type: sm.service_type,
        text: sm.short_message,
        tlvs: sm.tlvs.as_bytes(),
        sibling: 0,
    };
    Ok(Submission {
        ticket,
        national: sm.dest.ton.0 == TON_NATIONAL,
        segments: count(&parts),
        due_ms: expires(sm.schedule_delivery_time, now_ms),
        expires_ms: expires(sm.validity_period, now_ms),
        parts,
    })
}

/// A data_sm as the submit_sm that it stands for. Its addresses may be longer than a submit_sm's: no number is.
pub(super) fn of_data<'a>(data: &DataSm<'a>) -> Result<ShortMessage<'a>, Fault> {
    if data.source.addr.len() > ADDRESS_MAX {
        return Err(Fault::Field(CommandStatus::ESME_RINVSRCADR));
    }
    if data.dest.addr.len() > ADDRESS_MAX {
        return Err(Fault::Field(CommandStatus::ESME_RINVDSTADR));
    }
    Ok(data.as_short_message())
}

/// Octets of an address of submit_sm without its NUL.
const ADDRESS_MAX: usize = 20;

/// qos_time_to_live in seconds (SMPP 3.4 §5.3.2.9), if given.
pub(super) fn time_to_live(tlvs: &Tlvs<'_>) -> Result<Option<u64>, Fault> {
    match tlvs.get(Tag::QOS_TIME_TO_LIVE) {
        None => Ok(None),
        Some(value) => match <[u8; 4]>::try_from(value) {
            Ok(octets) => Ok(Some(u64::from(u32::from_be_bytes(octets)).max(1))),
            Err(_) => Err(Fault::Field(CommandStatus::ESME_RINVPARLEN)),
        },
    }
}

/// Admits a submission in the form that its account's alphabet gives it: what is counted and priced is what is kept.
pub(super) fn shape(
    account: &Account,
    submission: &Submission<'_>,
    admit: impl Fn(&Submission<'_>) -> Result<Admitted, Reject>,
) -> Result<Admitted, Reject> {
    let latin1 = account.alphabet == Alphabet::Latin1;
    if !latin1 && !account.transliterate {
        return admit(submission);
    }
    match convert::shape(&submission.parts, latin1, account.transliterate)? {
        None => admit(submission),
        Some(new) => {
            let parts = new.parts(&submission.parts);
            admit(&Submission {
                segments: count(&parts),
                parts,
                ..*submission
            })
        }
    }
}

/// Segments of a message as it stands.
fn count(parts: &Parts<'_>) -> Option<u8> {
    let tlvs = Tlvs::parse(parts.tlvs).unwrap_or(Tlvs::EMPTY);
    let payload = tlvs.get(Tag::MESSAGE_PAYLOAD).filter(|p| !p.is_empty());
    text::count(&text::Content {
        data_coding: parts.flags.data_coding,
        udhi: parts.flags.esm_class & 0x40 != 0,
        body: payload.unwrap_or(parts.text),
        sar_total: tlvs.get_u8(Tag::SAR_TOTAL_SEGMENTS),
    })
    .ok()
}

/// A time field as an instant, ms since the epoch.
pub(super) fn expires(field: &[u8], now_ms: u64) -> Result<Option<u64>, ()> {
    match smpp::parse_time(field) {
        Err(_) => Err(()),
        Ok(None) => Ok(None),
        Ok(Some(SmppTime::Absolute { unix_ms })) => Ok(Some(unix_ms)),
        Ok(Some(SmppTime::Relative { seconds })) => {
            Ok(Some(now_ms.saturating_add(seconds.saturating_mul(1_000))))
        }
    }
}
