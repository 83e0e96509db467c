//! The smaller operations: submit_multi, query_sm, cancel_sm, replace_sm, alert_notification, and the broadcast family of 5.0.

use super::field::{Address, Fault, PduError, address, all, cstring, octets, put_address, put_cstring};
use super::numbers::{DataCoding, EsmClass, RegisteredDelivery};
use super::status::CommandStatus;
use super::tlv::Tlvs;

const ID: CommandStatus = CommandStatus::ESME_RINVMSGID;
const SRC: CommandStatus = CommandStatus::ESME_RINVSRCADR;
const DST: CommandStatus = CommandStatus::ESME_RINVDSTADR;
const TYPE: CommandStatus = CommandStatus::ESME_RINVSERTYP;

fn text(i: &[u8], max: usize) -> Result<(&[u8], &[u8]), PduError> {
    let (i, [length]) = all(octets::<1>(i))?;
    match i
        .split_at_checked(usize::from(length))
        .filter(|_| usize::from(length) <= max)
    {
        Some((text, rest)) => Ok((rest, text)),
        None => Err(PduError::new(
            CommandStatus::ESME_RINVMSGLEN,
            "sm_length",
            Fault::BadLength,
        )),
    }
}

/// A destination of submit_multi.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination<'a> {
    /// dest_flag 1.
    Address(Address<'a>),
    /// dest_flag 2: the name of a distribution list.
    List(&'a [u8]),
}

/// submit_multi (SMPP 3.4 §4.5.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubmitMulti<'a> {
    /// service_type.
    pub service_type: &'a [u8],
    /// Originator.
    pub source: Address<'a>,
    /// 1 to 254 of them.
    pub destinations: Vec<Destination<'a>>,
    /// Mode, type and features.
    pub esm_class: EsmClass,
    /// GSM protocol identifier.
    pub protocol_id: u8,
    /// 0–3.
    pub priority_flag: u8,
    /// When to deliver.
    pub schedule_delivery_time: &'a [u8],
    /// Until when it is valid.
    pub validity_period: &'a [u8],
    /// Which receipts are wanted.
    pub registered_delivery: RegisteredDelivery,
    /// 0 or 1.
    pub replace_if_present: u8,
    /// Alphabet and class.
    pub data_coding: DataCoding,
    /// Predefined message of the SMSC.
    pub sm_default_msg_id: u8,
    /// At most 254 octets.
    pub short_message: &'a [u8],
    /// Optional parameters.
    pub tlvs: Tlvs<'a>,
}

impl<'a> SubmitMulti<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<SubmitMulti<'a>, PduError> {
        let (i, service_type) = all(cstring(6, TYPE, "service_type")(body))?;
        let (i, source) = all(address(21, SRC, "source_addr")(i))?;
        let (mut i, [count]) = all(octets::<1>(i))?;
        if count == 0 || count == 255 {
            return Err(PduError::new(
                CommandStatus::ESME_RINVNUMDESTS,
                "number_of_dests",
                Fault::BadValue,
            ));
        }
        let mut destinations = Vec::new();
        for _ in 0..count {
            let (rest, [flag]) = all(octets::<1>(i))?;
            let (rest, destination) = match flag {
                1 => all(address(21, DST, "destination_addr")(rest))
                    .map(|(r, a)| (r, Destination::Address(a)))?,
                2 => all(cstring(21, CommandStatus::ESME_RINVDLNAME, "dl_name")(rest))
                    .map(|(r, n)| (r, Destination::List(n)))?,
                _ => {
                    return Err(PduError::new(
                        CommandStatus::ESME_RINVDESTFLAG,
                        "dest_flag",
                        Fault::BadValue,
                    ));
                }
            };
            destinations.push(destination);
            i = rest;
        }
        let (i, [esm, protocol_id, priority_flag]) = all(octets::<3>(i))?;
        let (i, schedule) = all(cstring(
            17,
            CommandStatus::ESME_RINVSCHED,
            "schedule_delivery_time",
        )(i))?;
        let (i, validity) = all(cstring(17, CommandStatus::ESME_RINVEXPIRY, "validity_period")(i))?;
        let (i, [registered, replace_if_present, coding, sm_default_msg_id]) = all(octets::<4>(i))?;
        let (i, short_message) = text(i, 255)?;
        Ok(SubmitMulti {
            service_type,
            source,
            destinations,
            esm_class: EsmClass(esm),
            protocol_id,
            priority_flag,
            schedule_delivery_time: schedule,
            validity_period: validity,
            registered_delivery: RegisteredDelivery(registered),
            replace_if_present,
            data_coding: DataCoding(coding),
            sm_default_msg_id,
            short_message,
            tlvs: Tlvs::parse(i)?,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_cstring(out, self.service_type);
        put_address(out, &self.source);
        out.push(self.destinations.len().min(254) as u8);
        for destination in self.destinations.iter().take(254) {
            match destination {
                Destination::Address(a) => {
                    out.push(1);
                    put_address(out, a);
                }
                Destination::List(name) => {
                    out.push(2);
                    put_cstring(out, name);
                }
            }
        }
        out.extend_from_slice(&[self.esm_class.0, self.protocol_id, self.priority_flag]);
        put_cstring(out, self.schedule_delivery_time);
        put_cstring(out, self.validity_period);
        out.extend_from_slice(&[
            self.registered_delivery.0,
            self.replace_if_present,
            self.data_coding.0,
            self.sm_default_msg_id,
        ]);
        let text = self
            .short_message
            .get(..self.short_message.len().min(255))
            .unwrap_or(&[]);
        out.push(text.len() as u8);
        out.extend_from_slice(text);
        out.extend_from_slice(self.tlvs.as_bytes());
    }
}

/// A destination that submit_multi could not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsuccessful<'a> {
    /// Which.
    pub address: Address<'a>,
    /// Why.
    pub status: CommandStatus,
}

/// submit_multi_resp (SMPP 3.4 §4.5.2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SubmitMultiResp<'a> {
    /// The SMSC's id.
    pub message_id: &'a [u8],
    /// Destinations not taken.
    pub unsuccessful: Vec<Unsuccessful<'a>>,
    /// Optional parameters.
    pub tlvs: Tlvs<'a>,
    /// There was a body at all.
    pub body: bool,
}

impl<'a> SubmitMultiResp<'a> {
    /// Reads a body, which an error may lack.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<SubmitMultiResp<'a>, PduError> {
        if body.is_empty() {
            return Ok(SubmitMultiResp::default());
        }
        let (i, message_id) = all(cstring(65, ID, "message_id")(body))?;
        let (mut i, [count]) = all(octets::<1>(i))?;
        let mut unsuccessful = Vec::new();
        for _ in 0..count {
            let (rest, address) = all(address(21, DST, "destination_addr")(i))?;
            let (rest, status) = all(octets::<4>(rest))?;
            unsuccessful.push(Unsuccessful {
                address,
                status: CommandStatus(u32::from_be_bytes(status)),
            });
            i = rest;
        }
        Ok(SubmitMultiResp {
            message_id,
            unsuccessful,
            tlvs: Tlvs::parse(i)?,
            body: true,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        if !self.body {
            return;
        }
        put_cstring(out, self.message_id);
        out.push(self.unsuccessful.len().min(255) as u8);
        for u in self.unsuccessful.iter().take(255) {
            put_address(out, &u.address);
            out.extend_from_slice(&u.status.0.to_be_bytes());
        }
        out.extend_from_slice(self.tlvs.as_bytes());
    }
}

/// query_sm (SMPP 3.4 §4.8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuerySm<'a> {
    /// Which message.
    pub message_id: &'a [u8],
    /// Originator of that message.
    pub source: Address<'a>,
}

impl<'a> QuerySm<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<QuerySm<'a>, PduError> {
        let (i, message_id) = all(cstring(65, ID, "message_id")(body))?;
        let (_, source) = all(address(21, SRC, "source_addr")(i))?;
        Ok(QuerySm { message_id, source })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_cstring(out, self.message_id);
        put_address(out, &self.source);
    }
}

/// query_sm_resp (SMPP 3.4 §4.8.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QuerySmResp<'a> {
    /// Which message.
    pub message_id: &'a [u8],
    /// When it ended; empty or 16 octets.
    pub final_date: &'a [u8],
    /// message_state.
    pub message_state: u8,
    /// Network error code.
    pub error_code: u8,
    /// Optional parameters (5.0).
    pub tlvs: Tlvs<'a>,
    /// There was a body at all.
    pub body: bool,
}

impl<'a> QuerySmResp<'a> {
    /// Reads a body, which an error may lack.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<QuerySmResp<'a>, PduError> {
        if body.is_empty() {
            return Ok(QuerySmResp::default());
        }
        let (i, message_id) = all(cstring(65, ID, "message_id")(body))?;
        let (i, final_date) = all(cstring(17, CommandStatus::ESME_RQUERYFAIL, "final_date")(i))?;
        let (i, [message_state, error_code]) = all(octets::<2>(i))?;
        Ok(QuerySmResp {
            message_id,
            final_date,
            message_state,
            error_code,
            tlvs: Tlvs::parse(i)?,
            body: true,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        if self.body {
            put_cstring(out, self.message_id);
            put_cstring(out, self.final_date);
            out.extend_from_slice(&[self.message_state, self.error_code]);
            out.extend_from_slice(self.tlvs.as_bytes());
        }
    }
}

/// cancel_sm (SMPP 3.4 §4.9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CancelSm<'a> {
    /// service_type, for a group of messages.
    pub service_type: &'a [u8],
    /// Which message; empty: the group.
    pub message_id: &'a [u8],
    /// Originator.
    pub source: Address<'a>,
    /// Recipient.
    pub dest: Address<'a>,
}

impl<'a> CancelSm<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<CancelSm<'a>, PduError> {
        let (i, service_type) = all(cstring(6, TYPE, "service_type")(body))?;
        let (i, message_id) = all(cstring(65, ID, "message_id")(i))?;
        let (i, source) = all(address(21, SRC, "source_addr")(i))?;
        let (_, dest) = all(address(21, DST, "destination_addr")(i))?;
        Ok(CancelSm {
            service_type,
            message_id,
            source,
            dest,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_cstring(out, self.service_type);
        put_cstring(out, self.message_id);
        put_address(out, &self.source);
        put_address(out, &self.dest);
    }
}

/// replace_sm (SMPP 3.4 §4.10.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplaceSm<'a> {
    /// Which message.
    pub message_id: &'a [u8],
    /// Its originator.
    pub source: Address<'a>,
    /// When to deliver.
    pub schedule_delivery_time: &'a [u8],
    /// Until when it is valid.
    pub validity_period: &'a [u8],
    /// Which receipts are wanted.
    pub registered_delivery: RegisteredDelivery,
    /// Predefined message of the SMSC.
    pub sm_default_msg_id: u8,
    /// The new text.
    pub short_message: &'a [u8],
    /// Optional parameters (5.0).
    pub tlvs: Tlvs<'a>,
}

impl<'a> ReplaceSm<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<ReplaceSm<'a>, PduError> {
        let (i, message_id) = all(cstring(65, ID, "message_id")(body))?;
        let (i, source) = all(address(21, SRC, "source_addr")(i))?;
        let (i, schedule) = all(cstring(
            17,
            CommandStatus::ESME_RINVSCHED,
            "schedule_delivery_time",
        )(i))?;
        let (i, validity) = all(cstring(17, CommandStatus::ESME_RINVEXPIRY, "validity_period")(i))?;
        let (i, [registered, sm_default_msg_id]) = all(octets::<2>(i))?;
        let (i, short_message) = text(i, 255)?;
        Ok(ReplaceSm {
            message_id,
            source,
            schedule_delivery_time: schedule,
            validity_period: validity,
            registered_delivery: RegisteredDelivery(registered),
            sm_default_msg_id,
            short_message,
            tlvs: Tlvs::parse(i)?,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_cstring(out, self.message_id);
        put_address(out, &self.source);
        put_cstring(out, self.schedule_delivery_time);
        put_cstring(out, self.validity_period);
        let text = self
            .short_message
            .get(..self.short_message.len().min(255))
            .unwrap_or(&[]);
        out.extend_from_slice(&[
            self.registered_delivery.0,
            self.sm_default_msg_id,
            text.len() as u8,
        ]);
        out.extend_from_slice(text);
        out.extend_from_slice(self.tlvs.as_bytes());
    }
}

/// alert_notification (SMPP 3.4 §4.12.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlertNotification<'a> {
    /// The handset that is available.
    pub source: Address<'a>,
    /// The ESME that asked.
    pub esme: Address<'a>,
    /// ms_availability_status.
    pub tlvs: Tlvs<'a>,
}

impl<'a> AlertNotification<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<AlertNotification<'a>, PduError> {
        let (i, source) = all(address(65, SRC, "source_addr")(body))?;
        let (i, esme) = all(address(65, DST, "esme_addr")(i))?;
        Ok(AlertNotification {
            source,
            esme,
            tlvs: Tlvs::parse(i)?,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_address(out, &self.source);
        put_address(out, &self.esme);
        out.extend_from_slice(self.tlvs.as_bytes());
    }
}

/// The broadcast family of SMPP 5.0 (§4.4): known well enough to be refused by name, and kept verbatim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broadcast<'a> {
    /// service_type; not in query_broadcast_sm and responses.
    pub service_type: Option<&'a [u8]>,
    /// The SMSC's id.
    pub message_id: &'a [u8],
    /// Originator; not in responses.
    pub source: Option<Address<'a>>,
    /// priority_flag to sm_default_msg_id of broadcast_sm, verbatim.
    pub middle: &'a [u8],
    /// Optional parameters.
    pub tlvs: Tlvs<'a>,
    /// There was a body at all.
    pub body: bool,
}

impl<'a> Broadcast<'a> {
    /// Reads a body; `kind` is the low octet of the command_id, `response` its top bit.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(kind: u8, response: bool, body: &'a [u8]) -> Result<Broadcast<'a>, PduError> {
        let none = Broadcast {
            service_type: None,
            message_id: &[],
            source: None,
            middle: &[],
            tlvs: Tlvs::EMPTY,
            // cancel_broadcast_sm_resp has none (SMPP 5.0 §4.6.3.1); what a peer puts there is not kept.
            body: !(body.is_empty() || response && kind == 0x13),
        };
        if response {
            if body.is_empty() || kind == 0x13 {
                return Ok(none);
            }
            let (i, message_id) = all(cstring(65, ID, "message_id")(body))?;
            return Ok(Broadcast {
                message_id,
                tlvs: Tlvs::parse(i)?,
                ..none
            });
        }
        let (mut i, mut service_type) = (body, None);
        if kind != 0x12 {
            let (rest, value) = all(cstring(6, TYPE, "service_type")(i))?;
            (i, service_type) = (rest, Some(value));
        }
        let (mut message_id, mut source) = (&[][..], None);
        if kind != 0x11 {
            let (rest, value) = all(cstring(65, ID, "message_id")(i))?;
            (i, message_id) = (rest, value);
        }
        let (rest, value) = all(address(21, SRC, "source_addr")(i))?;
        source.replace(value);
        i = rest;
        let mut middle = &[][..];
        if kind == 0x11 {
            let (rest, value) = all(cstring(65, ID, "message_id")(i))?;
            message_id = value;
            let start = rest;
            let (rest, _) = all(octets::<1>(rest))?;
            let (rest, _) = all(cstring(
                17,
                CommandStatus::ESME_RINVSCHED,
                "schedule_delivery_time",
            )(rest))?;
            let (rest, _) = all(cstring(17, CommandStatus::ESME_RINVEXPIRY, "validity_period")(
                rest,
            ))?;
            let (rest, _) = all(octets::<3>(rest))?;
            middle = start.get(..start.len() - rest.len()).unwrap_or(&[]);
            i = rest;
        }
        Ok(Broadcast {
            service_type,
            message_id,
            source,
            middle,
            tlvs: Tlvs::parse(i)?,
            body: true,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, kind: u8, response: bool, out: &mut Vec<u8>) {
        if response {
            if kind != 0x13 && self.body {
                put_cstring(out, self.message_id);
            }
        } else {
            if let Some(service_type) = self.service_type {
                put_cstring(out, service_type);
            }
            if kind != 0x11 {
                put_cstring(out, self.message_id);
            }
            if let Some(source) = &self.source {
                put_address(out, source);
            }
            if kind == 0x11 {
                put_cstring(out, self.message_id);
                out.extend_from_slice(self.middle);
            }
        }
        out.extend_from_slice(self.tlvs.as_bytes());
    }
}
