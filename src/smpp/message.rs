//! submit_sm and deliver_sm (one layout), data_sm, and the responses that carry a message_id.

use nom::Parser;

use super::field::{
    Address, Fault, Parsed, PduError, address, all, cstring, err, octets, put_address, put_cstring,
};
use super::numbers::{DataCoding, EsmClass, RegisteredDelivery};
use super::status::CommandStatus;
use super::tlv::Tlvs;

/// submit_sm and deliver_sm (SMPP 3.4 §4.4.1, §4.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ShortMessage<'a> {
    /// service_type, at most 5 octets.
    pub service_type: &'a [u8],
    /// Originator.
    pub source: Address<'a>,
    /// Recipient.
    pub dest: Address<'a>,
    /// Mode, type and features.
    pub esm_class: EsmClass,
    /// GSM protocol identifier.
    pub protocol_id: u8,
    /// 0–3.
    pub priority_flag: u8,
    /// When to deliver: empty or 16 octets.
    pub schedule_delivery_time: &'a [u8],
    /// Until when it is valid: empty or 16 octets.
    pub validity_period: &'a [u8],
    /// Which receipts are wanted.
    pub registered_delivery: RegisteredDelivery,
    /// 0 or 1.
    pub replace_if_present: u8,
    /// Alphabet and class.
    pub data_coding: DataCoding,
    /// Predefined message of the SMSC.
    pub sm_default_msg_id: u8,
    /// At most 255 octets; empty where message_payload carries the text.
    pub short_message: &'a [u8],
    /// Optional parameters.
    pub tlvs: Tlvs<'a>,
}

impl std::fmt::Debug for ShortMessage<'_> {
    /// Without text and numbers: personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ShortMessage({} octets, {:?})",
            self.short_message.len(),
            self.tlvs
        )
    }
}

/// sm_length and short_message.
#[inline(always)]
fn short_message(i: &[u8]) -> Parsed<'_, &[u8]> {
    let (i, [length]) = octets::<1>(i)?;
    // 3.4 stops at 254; 5.0 (§4.7.28) allows 255, and nothing is won by refusing one octet.
    match i.split_at_checked(usize::from(length)) {
        Some((text, rest)) => Ok((rest, text)),
        None => err(PduError::new(
            CommandStatus::ESME_RINVMSGLEN,
            "sm_length",
            Fault::BadLength,
        )),
    }
}

impl<'a> ShortMessage<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    #[inline]
    pub fn decode(body: &'a [u8]) -> Result<ShortMessage<'a>, PduError> {
        let mut head = (
            cstring(6, CommandStatus::ESME_RINVSERTYP, "service_type"),
            address(21, CommandStatus::ESME_RINVSRCADR, "source_addr"),
            address(21, CommandStatus::ESME_RINVDSTADR, "destination_addr"),
            octets::<3>,
            cstring(17, CommandStatus::ESME_RINVSCHED, "schedule_delivery_time"),
            cstring(17, CommandStatus::ESME_RINVEXPIRY, "validity_period"),
            octets::<4>,
            short_message,
        );
        let (rest, fields) = all(head.parse(body))?;
        let (
            service_type,
            source,
            dest,
            [esm_class, protocol_id, priority_flag],
            schedule,
            validity,
            tail,
            text,
        ) = fields;
        let [
            registered_delivery,
            replace_if_present,
            data_coding,
            sm_default_msg_id,
        ] = tail;
        Ok(ShortMessage {
            service_type,
            source,
            dest,
            esm_class: EsmClass(esm_class),
            protocol_id,
            priority_flag,
            schedule_delivery_time: schedule,
            validity_period: validity,
            registered_delivery: RegisteredDelivery(registered_delivery),
            replace_if_present,
            data_coding: DataCoding(data_coding),
            sm_default_msg_id,
            short_message: text,
            tlvs: Tlvs::parse(rest)?,
        })
    }

    /// Appends the body. A text beyond 255 octets is cut: it belongs in message_payload.
    #[inline]
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        let text = self
            .short_message
            .get(..self.short_message.len().min(255))
            .unwrap_or(self.short_message);
        out.reserve(
            self.service_type.len() + self.source.addr.len() + self.dest.addr.len() + text.len() + 64,
        );
        put_cstring(out, self.service_type);
        put_address(out, &self.source);
        put_address(out, &self.dest);
        out.extend_from_slice(&[self.esm_class.0, self.protocol_id, self.priority_flag]);
        put_cstring(out, self.schedule_delivery_time);
        put_cstring(out, self.validity_period);
        out.extend_from_slice(&[
            self.registered_delivery.0,
            self.replace_if_present,
            self.data_coding.0,
            self.sm_default_msg_id,
            text.len() as u8,
        ]);
        out.extend_from_slice(text);
        out.extend_from_slice(self.tlvs.as_bytes());
    }
}

/// data_sm (SMPP 3.4 §4.7.1): addresses of up to 64 octets, the text in message_payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataSm<'a> {
    /// service_type.
    pub service_type: &'a [u8],
    /// Originator.
    pub source: Address<'a>,
    /// Recipient.
    pub dest: Address<'a>,
    /// Mode, type and features.
    pub esm_class: EsmClass,
    /// Which receipts are wanted.
    pub registered_delivery: RegisteredDelivery,
    /// Alphabet and class.
    pub data_coding: DataCoding,
    /// Optional parameters.
    pub tlvs: Tlvs<'a>,
}

impl<'a> DataSm<'a> {
    /// The submit_sm or deliver_sm that it stands for: its text stays in message_payload.
    #[must_use]
    pub fn as_short_message(&self) -> ShortMessage<'a> {
        ShortMessage {
            service_type: self.service_type,
            source: self.source,
            dest: self.dest,
            esm_class: self.esm_class,
            registered_delivery: self.registered_delivery,
            data_coding: self.data_coding,
            tlvs: self.tlvs,
            ..ShortMessage::default()
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<DataSm<'a>, PduError> {
        let (i, service_type) = all(cstring(6, CommandStatus::ESME_RINVSERTYP, "service_type")(body))?;
        let (i, source) = all(address(65, CommandStatus::ESME_RINVSRCADR, "source_addr")(i))?;
        let (i, dest) = all(address(65, CommandStatus::ESME_RINVDSTADR, "destination_addr")(i))?;
        let (i, [esm, registered, coding]) = all(octets::<3>(i))?;
        Ok(DataSm {
            service_type,
            source,
            dest,
            esm_class: EsmClass(esm),
            registered_delivery: RegisteredDelivery(registered),
            data_coding: DataCoding(coding),
            tlvs: Tlvs::parse(i)?,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_cstring(out, self.service_type);
        put_address(out, &self.source);
        put_address(out, &self.dest);
        out.extend_from_slice(&[self.esm_class.0, self.registered_delivery.0, self.data_coding.0]);
        out.extend_from_slice(self.tlvs.as_bytes());
    }
}

/// submit_sm_resp, deliver_sm_resp and data_sm_resp. Errors come with and without a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageIdResp<'a> {
    /// The SMSC's id, at most 64 octets.
    pub message_id: &'a [u8],
    /// Optional parameters.
    pub tlvs: Tlvs<'a>,
    /// There was a body at all.
    pub body: bool,
}

impl<'a> MessageIdResp<'a> {
    /// Reads a body: missing, a lone NUL, or an id with optional parameters.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<MessageIdResp<'a>, PduError> {
        if body.is_empty() {
            return Ok(MessageIdResp::default());
        }
        let (i, message_id) = all(cstring(65, CommandStatus::ESME_RINVMSGID, "message_id")(body))?;
        Ok(MessageIdResp {
            message_id,
            tlvs: Tlvs::parse(i)?,
            body: true,
        })
    }

    /// The id alone, whatever stands behind it: an acceptance must not lose its id to a malformed optional parameter.
    #[must_use]
    pub fn id(body: &[u8]) -> &[u8] {
        let id = body.split(|b| *b == 0).next().unwrap_or(&[]);
        id.get(..id.len().min(64)).unwrap_or(id)
    }

    /// Appends the body, if there is one.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        if self.body {
            put_cstring(out, self.message_id);
            out.extend_from_slice(self.tlvs.as_bytes());
        }
    }
}
