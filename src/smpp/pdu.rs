//! All PDUs in one type, for tools, tests and everything off the hot path.

use super::bind::{Bind, BindResp, Outbind};
use super::field::PduError;
use super::frame::Header;
use super::message::{DataSm, MessageIdResp, ShortMessage};
use super::numbers::CommandId;
use super::operation::{
    AlertNotification, Broadcast, CancelSm, QuerySm, QuerySmResp, ReplaceSm, SubmitMulti, SubmitMultiResp,
};
use super::status::CommandStatus;
use super::write;

/// A decoded PDU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pdu<'a> {
    /// bind_transmitter, bind_receiver or bind_transceiver.
    Bind(CommandId, Bind<'a>),
    /// Their responses; `false`: without a body.
    BindResp(CommandId, BindResp<'a>, bool),
    /// outbind.
    Outbind(Outbind<'a>),
    /// submit_sm or deliver_sm.
    ShortMessage(CommandId, ShortMessage<'a>),
    /// submit_sm_resp, deliver_sm_resp or data_sm_resp.
    MessageIdResp(CommandId, MessageIdResp<'a>),
    /// data_sm.
    DataSm(DataSm<'a>),
    /// submit_multi.
    SubmitMulti(SubmitMulti<'a>),
    /// submit_multi_resp.
    SubmitMultiResp(SubmitMultiResp<'a>),
    /// query_sm.
    QuerySm(QuerySm<'a>),
    /// query_sm_resp.
    QuerySmResp(QuerySmResp<'a>),
    /// cancel_sm.
    CancelSm(CancelSm<'a>),
    /// replace_sm.
    ReplaceSm(ReplaceSm<'a>),
    /// alert_notification.
    AlertNotification(AlertNotification<'a>),
    /// broadcast_sm, query_broadcast_sm, cancel_broadcast_sm and their responses.
    Broadcast(CommandId, Broadcast<'a>),
    /// A PDU whose body is empty: enquire_link, unbind, generic_nack, cancel_sm_resp, replace_sm_resp. Octets that
    /// follow all the same are kept.
    HeaderOnly(CommandId, &'a [u8]),
    /// A command_id the specification does not know.
    Unknown(CommandId, &'a [u8]),
}

/// Decodes the body that follows `header`.
///
/// # Errors
/// [`PduError`] with the status to answer.
pub fn decode<'a>(header: &Header, body: &'a [u8]) -> Result<Pdu<'a>, PduError> {
    let id = header.command_id;
    Ok(match id {
        CommandId::BIND_TRANSMITTER | CommandId::BIND_RECEIVER | CommandId::BIND_TRANSCEIVER => {
            Pdu::Bind(id, Bind::decode(body)?)
        }
        CommandId::BIND_TRANSMITTER_RESP
        | CommandId::BIND_RECEIVER_RESP
        | CommandId::BIND_TRANSCEIVER_RESP => Pdu::BindResp(id, BindResp::decode(body)?, !body.is_empty()),
        CommandId::OUTBIND => Pdu::Outbind(Outbind::decode(body)?),
        CommandId::SUBMIT_SM | CommandId::DELIVER_SM => Pdu::ShortMessage(id, ShortMessage::decode(body)?),
        CommandId::SUBMIT_SM_RESP | CommandId::DELIVER_SM_RESP | CommandId::DATA_SM_RESP => {
            Pdu::MessageIdResp(id, MessageIdResp::decode(body)?)
        }
        CommandId::DATA_SM => Pdu::DataSm(DataSm::decode(body)?),
        CommandId::SUBMIT_MULTI => Pdu::SubmitMulti(SubmitMulti::decode(body)?),
        CommandId::SUBMIT_MULTI_RESP => Pdu::SubmitMultiResp(SubmitMultiResp::decode(body)?),
        CommandId::QUERY_SM => Pdu::QuerySm(QuerySm::decode(body)?),
        CommandId::QUERY_SM_RESP => Pdu::QuerySmResp(QuerySmResp::decode(body)?),
        CommandId::CANCEL_SM => Pdu::CancelSm(CancelSm::decode(body)?),
        CommandId::REPLACE_SM => Pdu::ReplaceSm(ReplaceSm::decode(body)?),
        CommandId::ALERT_NOTIFICATION => Pdu::AlertNotification(AlertNotification::decode(body)?),
        CommandId(0x111..=0x113 | 0x8000_0111..=0x8000_0113) => {
            Pdu::Broadcast(id, Broadcast::decode(id.0 as u8, id.is_response(), body)?)
        }
        CommandId::ENQUIRE_LINK
        | CommandId::ENQUIRE_LINK_RESP
        | CommandId::UNBIND
        | CommandId::UNBIND_RESP
        | CommandId::GENERIC_NACK
        | CommandId::CANCEL_SM_RESP
        | CommandId::REPLACE_SM_RESP => Pdu::HeaderOnly(id, body),
        other => Pdu::Unknown(other, body),
    })
}

/// Appends a whole PDU.
pub fn encode(out: &mut Vec<u8>, status: CommandStatus, sequence: u32, pdu: &Pdu<'_>) {
    let start = write::begin(out, command_id(pdu), status, sequence);
    match pdu {
        Pdu::Bind(_, p) => p.encode_body(out),
        Pdu::BindResp(_, p, true) => p.encode_body(out),
        Pdu::BindResp(_, _, false) => {}
        Pdu::Outbind(p) => p.encode_body(out),
        Pdu::ShortMessage(_, p) => p.encode_body(out),
        Pdu::MessageIdResp(_, p) => p.encode_body(out),
        Pdu::DataSm(p) => p.encode_body(out),
        Pdu::SubmitMulti(p) => p.encode_body(out),
        Pdu::SubmitMultiResp(p) => p.encode_body(out),
        Pdu::QuerySm(p) => p.encode_body(out),
        Pdu::QuerySmResp(p) => p.encode_body(out),
        Pdu::CancelSm(p) => p.encode_body(out),
        Pdu::ReplaceSm(p) => p.encode_body(out),
        Pdu::AlertNotification(p) => p.encode_body(out),
        Pdu::Broadcast(id, p) => p.encode_body(id.0 as u8, id.is_response(), out),
        Pdu::HeaderOnly(_, rest) | Pdu::Unknown(_, rest) => out.extend_from_slice(rest),
    }
    write::finish(out, start);
}

fn command_id(pdu: &Pdu<'_>) -> CommandId {
    match pdu {
        Pdu::Bind(id, _)
        | Pdu::BindResp(id, ..)
        | Pdu::ShortMessage(id, _)
        | Pdu::MessageIdResp(id, _)
        | Pdu::Broadcast(id, _)
        | Pdu::HeaderOnly(id, _)
        | Pdu::Unknown(id, _) => *id,
        Pdu::Outbind(_) => CommandId::OUTBIND,
        Pdu::DataSm(_) => CommandId::DATA_SM,
        Pdu::SubmitMulti(_) => CommandId::SUBMIT_MULTI,
        Pdu::SubmitMultiResp(_) => CommandId::SUBMIT_MULTI_RESP,
        Pdu::QuerySm(_) => CommandId::QUERY_SM,
        Pdu::QuerySmResp(_) => CommandId::QUERY_SM_RESP,
        Pdu::CancelSm(_) => CommandId::CANCEL_SM,
        Pdu::ReplaceSm(_) => CommandId::REPLACE_SM,
        Pdu::AlertNotification(_) => CommandId::ALERT_NOTIFICATION,
    }
}
