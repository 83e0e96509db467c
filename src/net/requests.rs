//! What a bound customer asks for, and the answers: submit_sm, data_sm, submit_multi, query_sm, cancel_sm, replace_sm.

use std::sync::Arc;

use super::customer::Logic;
use super::submit::{self, Fault};
use crate::domain::reject::Reject;
use crate::flow::{Asked, Input, Operation, Outcome, Replacement, Submission, Ticket, ToCustomer, admit};
use crate::ids::MessageKey;
use crate::session::response_to;
use crate::smpp::{
    self, Address, CancelSm, CommandId, CommandStatus, DataSm, Destination, Header, Npi, QuerySm,
    QuerySmResp, ReplaceSm, ShortMessage, SubmitMulti, SubmitMultiResp, Tag, Tlvs, Ton, Unsuccessful,
};

/// Which operation an answer belongs to, in a ticket's tag.
mod tag {
    pub const SUBMIT_SM: u32 = 0;
    pub const DATA_SM: u32 = 1;
    pub const QUERY_SM: u32 = 2;
    pub const CANCEL_SM: u32 = 3;
    pub const REPLACE_SM: u32 = 4;
    /// From here on: a submit_multi, by its place in [`super::Multis`].
    pub const SUBMIT_MULTI: u32 = 16;
}

/// A destination of a submit_multi that was not taken.
#[derive(Debug)]
struct NotTaken {
    ton: u8,
    npi: u8,
    address: Box<[u8]>,
    status: CommandStatus,
}

/// Answers to submit_multis that wait for their commit: the destinations that were refused, by place.
#[derive(Debug, Default)]
pub(super) struct Multis {
    waiting: Vec<Option<Vec<NotTaken>>>,
}

impl Multis {
    fn put(&mut self, not_taken: Vec<NotTaken>) -> u32 {
        let free = self.waiting.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        });
        if let Some(slot) = self.waiting.get_mut(at) {
            *slot = Some(not_taken);
        }
        at as u32
    }

    fn take(&mut self, at: u32) -> Vec<NotTaken> {
        let taken = self.waiting.get_mut(at as usize).and_then(Option::take);
        while matches!(self.waiting.last(), Some(None)) {
            self.waiting.pop();
        }
        taken.unwrap_or_default()
    }
}

/// Octets that wait for a customer to read them, beyond which alerts are left out.
const ALERTS_MAX: usize = 64 * 1024;

impl Logic {
    /// A request of a customer whose bind allows it.
    pub(super) fn request(&mut self, header: &Header, body: &[u8], out: &mut Vec<u8>, now: u64) {
        let sequence = header.sequence;
        let done = match header.command_id {
            CommandId::SUBMIT_SM => self.submit_sm(sequence, body, now),
            CommandId::DATA_SM => self.data_sm(sequence, body, now),
            CommandId::SUBMIT_MULTI => return self.submit_multi(sequence, body, out, now),
            CommandId::QUERY_SM => self.query_sm(sequence, body),
            CommandId::CANCEL_SM => self.cancel_sm(sequence, body),
            CommandId::REPLACE_SM => self.replace_sm(sequence, body, now),
            // Not offered: an error, never ESME_ROK, and the session stays up. A malformed one is told so.
            _ => Err(match smpp::decode(header, body) {
                Ok(_) => Reject::NotOffered.into(),
                Err(fault) => fault.into(),
            }),
        };
        if let Err(fault) = done {
            self.brake(&fault, now);
            let status = self.status_of(fault);
            smpp::put_header_only(out, response_to(header.command_id), status, sequence);
        }
    }

    /// A refusal that a sender could have avoided by waiting slows its session down.
    fn brake(&mut self, fault: &Fault, now: u64) {
        if let Fault::Reason(reason) = fault {
            self.brake.refused(*reason, now);
        }
    }

    /// Counts a refusal; its status.
    fn status_of(&self, fault: Fault) -> CommandStatus {
        let gateway = &self.shared.gateway;
        match fault {
            Fault::Field(status) => {
                gateway.refused(None);
                status
            }
            Fault::Reason(reason) => {
                gateway.refused(Some(reason));
                self.shared.statuses.of(reason)
            }
        }
    }

    /// What every request needs before its fields are looked at.
    fn may(&self) -> Result<(), Fault> {
        let Some(bound) = &self.bound else {
            return Err(Fault::Field(CommandStatus::ESME_RINVBNDSTS));
        };
        if self.stopping {
            return Err(Reject::StoreUnavailable.into());
        }
        if !bound.account.active() {
            return Err(Reject::AccountInactive.into());
        }
        if self.unanswered >= bound.window {
            return Err(Reject::WindowFull.into());
        }
        Ok(())
    }

    fn submit_sm(&mut self, sequence: u32, body: &[u8], now: u64) -> Result<(), Fault> {
        self.may()?;
        let sm = ShortMessage::decode(body)?;
        smpp::check_submit(&sm)?;
        let ticket = Ticket {
            sequence,
            tag: tag::SUBMIT_SM,
        };
        self.take(&submit::read(Some(ticket), &sm, now)?, now)
    }

    /// data_sm is a submit_sm without the fields that few need (SMPP 3.4 §4.7); qos_time_to_live stands for its validity.
    fn data_sm(&mut self, sequence: u32, body: &[u8], now: u64) -> Result<(), Fault> {
        self.may()?;
        let data = DataSm::decode(body)?;
        if data.tlvs.get(Tag::MESSAGE_PAYLOAD).is_none() {
            return Err(Fault::Field(CommandStatus::ESME_RMISSINGOPTPARAM));
        }
        let sm = submit::of_data(&data)?;
        smpp::check_submit(&sm)?;
        let ticket = Ticket {
            sequence,
            tag: tag::DATA_SM,
        };
        let mut submission = submit::read(Some(ticket), &sm, now)?;
        if let Some(seconds) = submit::time_to_live(&data.tlvs)? {
            submission.expires_ms = Ok(Some(now.saturating_add(seconds * 1_000)));
        }
        self.take(&submission, now)
    }

    /// Admits one message into the batch.
    fn take(&mut self, submission: &Submission<'_>, now: u64) -> Result<(), Fault> {
        let Some(bound) = &self.bound else {
            return Err(Fault::Field(CommandStatus::ESME_RINVBNDSTS));
        };
        let gateway = &self.shared.gateway;
        // One batch, one set of rules: indices into them go with it.
        if self.batch.is_empty() {
            self.rules = None;
        }
        let policy = self.rules.get_or_insert_with(|| gateway.policy.load_full());
        let admitted = submit::shape(&bound.account.spec(), submission, |s| {
            admit(gateway, policy, &bound.account, s, now)
        })?;
        if admitted.ticket.is_some() {
            self.unanswered += 1;
        }
        self.batch.push(admitted);
        Ok(())
    }

    /// One submission to several destinations, each priced and held by itself; the answer names those that were not taken.
    fn submit_multi(&mut self, sequence: u32, body: &[u8], out: &mut Vec<u8>, now: u64) {
        let multi = match self.may().and_then(|()| Ok(SubmitMulti::decode(body)?)) {
            Ok(multi) => multi,
            Err(fault) => {
                self.brake(&fault, now);
                let status = self.status_of(fault);
                return smpp::put_header_only(out, CommandId::SUBMIT_MULTI_RESP, status, sequence);
            }
        };
        let mut not_taken = Vec::new();
        let (mut taken, first) = (0u8, self.batch.len());
        for destination in &multi.destinations {
            let (address, done) = match destination {
                Destination::Address(address) => (*address, self.one_of_many(&multi, *address, taken, now)),
                // Distribution lists are of the SMSC's own making (SMPP 3.4 §5.2.7); there are none here.
                Destination::List(name) => {
                    let address = Address {
                        ton: Ton(0),
                        npi: Npi(0),
                        addr: name,
                    };
                    (address, Err(Fault::Field(CommandStatus::ESME_RINVDLNAME)))
                }
            };
            match done {
                Ok(()) => taken = taken.saturating_add(1),
                Err(fault) => {
                    self.brake(&fault, now);
                    not_taken.push(NotTaken {
                        ton: address.ton.0,
                        npi: address.npi.0,
                        address: address.addr.into(),
                        status: self.status_of(fault),
                    });
                }
            }
        }
        if taken == 0 {
            let status = not_taken
                .first()
                .map_or(CommandStatus::ESME_RSUBMITFAIL, |n| n.status);
            return put_multi_resp(out, status, sequence, b"", &not_taken);
        }
        let slot = self.multis.put(not_taken);
        let ticket = Ticket {
            sequence,
            tag: tag::SUBMIT_MULTI + slot,
        };
        if let Some(admitted) = self.batch.get_mut(first) {
            admitted.ticket = Some(ticket);
            self.unanswered += 1;
        }
    }

    fn one_of_many(
        &mut self,
        multi: &SubmitMulti<'_>,
        dest: Address<'_>,
        sibling: u8,
        now: u64,
    ) -> Result<(), Fault> {
        let sm = ShortMessage {
            service_type: multi.service_type,
            source: multi.source,
            dest,
            esm_class: multi.esm_class,
            protocol_id: multi.protocol_id,
            priority_flag: multi.priority_flag,
            schedule_delivery_time: multi.schedule_delivery_time,
            validity_period: multi.validity_period,
            registered_delivery: multi.registered_delivery,
            replace_if_present: multi.replace_if_present,
            data_coding: multi.data_coding,
            sm_default_msg_id: multi.sm_default_msg_id,
            short_message: multi.short_message,
            tlvs: multi.tlvs,
        };
        smpp::check_submit(&sm)?;
        let mut submission = submit::read(None, &sm, now)?;
        submission.parts.sibling = sibling;
        self.take(&submission, now)
    }

    fn ask(&mut self, sequence: u32, tag: u32, operation: Operation) -> Result<(), Fault> {
        let Some(bound) = &self.bound else {
            return Err(Fault::Field(CommandStatus::ESME_RINVBNDSTS));
        };
        self.unanswered += 1;
        let asked = Asked {
            account: Arc::clone(&bound.account),
            operation,
            ticket: Ticket { sequence, tag },
            reply: Arc::clone(&self.mailbox),
        };
        // What was admitted before it goes first.
        self.hand_over();
        self.shared.gateway.ingress.put(Input::Operation(Box::new(asked)));
        Ok(())
    }

    fn query_sm(&mut self, sequence: u32, body: &[u8]) -> Result<(), Fault> {
        self.may()?;
        let query = QuerySm::decode(body)?;
        let operation = Operation::Query {
            key: key(query.message_id)?,
            source: query.source.addr.into(),
        };
        self.ask(sequence, tag::QUERY_SM, operation)
    }

    fn cancel_sm(&mut self, sequence: u32, body: &[u8]) -> Result<(), Fault> {
        self.may()?;
        let cancel = CancelSm::decode(body)?;
        let operation = if cancel.message_id.is_empty() {
            // All of a destination: without one it would be everything, which nobody means (SMPP 3.4 §4.9.1).
            if cancel.dest.addr.is_empty() {
                return Err(Fault::Field(CommandStatus::ESME_RINVDSTADR));
            }
            Operation::CancelAll {
                source: cancel.source.addr.into(),
                dest: cancel.dest.addr.into(),
                service_type: cancel.service_type.into(),
            }
        } else {
            Operation::Cancel {
                key: key(cancel.message_id)?,
                source: cancel.source.addr.into(),
            }
        };
        self.ask(sequence, tag::CANCEL_SM, operation)
    }

    fn replace_sm(&mut self, sequence: u32, body: &[u8], now: u64) -> Result<(), Fault> {
        self.may()?;
        let replace = ReplaceSm::decode(body)?;
        smpp::check_replace(&replace)?;
        let payload = replace
            .tlvs
            .get(Tag::MESSAGE_PAYLOAD)
            .filter(|_| replace.short_message.is_empty());
        let expires_ms = match submit::expires(replace.validity_period, now) {
            Ok(Some(at)) if at <= now => return Err(Reject::Validity.into()),
            Ok(at) => at,
            Err(()) => return Err(Reject::Validity.into()),
        };
        let longest = now + self.shared.gateway.policy.load().schedule_max_ms;
        let due_ms = match submit::expires(replace.schedule_delivery_time, now) {
            Ok(Some(at)) if at <= now || at > longest => return Err(Reject::Schedule.into()),
            Ok(at) => at,
            Err(()) => return Err(Reject::Schedule.into()),
        };
        let operation = Operation::Replace {
            key: key(replace.message_id)?,
            source: replace.source.addr.into(),
            replacement: Box::new(Replacement {
                expires_ms,
                due_ms,
                registered_delivery: replace.registered_delivery.0,
                default_msg_id: replace.sm_default_msg_id,
                text: payload.unwrap_or(replace.short_message).into(),
            }),
        };
        self.ask(sequence, tag::REPLACE_SM, operation)
    }

    /// Answers what the engine has put on record; whether a message was acknowledged.
    pub(super) fn letters(&mut self, out: &mut Vec<u8>) -> bool {
        let mut letters = std::mem::take(&mut self.letters);
        self.mailbox.take(&mut letters);
        let submits = |l: &ToCustomer| matches!(l, ToCustomer::Accepted(..) | ToCustomer::Refused(..));
        let alerts = |l: &ToCustomer| matches!(l, ToCustomer::Alert(_));
        let answers = letters.iter().filter(|l| !alerts(l)).count();
        let acknowledged = letters.iter().any(|l| matches!(l, ToCustomer::Accepted(..)));
        self.unanswered = self.unanswered.saturating_sub(answers);
        self.measure(letters.iter().filter(|l| submits(l)).count());
        let mut digits = itoa::Buffer::new();
        for letter in letters.drain(..) {
            match letter {
                ToCustomer::Accepted(ticket, key) => {
                    let id = digits.format(key.0).as_bytes();
                    self.accepted(ticket, id, out);
                }
                ToCustomer::Refused(ticket, reason) => {
                    let status = self.status_of(reason.into());
                    self.refused_submit(ticket, status, out);
                }
                ToCustomer::Outcome(ticket, outcome) => self.outcome(ticket, outcome, out),
                ToCustomer::Alert(body) => self.alert(&body, out),
            }
        }
        if letters.capacity() <= 256 {
            self.letters = letters;
        }
        acknowledged
    }

    fn accepted(&mut self, ticket: Ticket, id: &[u8], out: &mut Vec<u8>) {
        let rok = CommandStatus::ESME_ROK;
        match ticket.tag {
            tag::DATA_SM => {
                smpp::put_message_id_resp(out, CommandId::DATA_SM_RESP, rok, ticket.sequence, id);
            }
            slot @ tag::SUBMIT_MULTI.. => {
                let not_taken = self.multis.take(slot - tag::SUBMIT_MULTI);
                put_multi_resp(out, rok, ticket.sequence, id, &not_taken);
            }
            _ => smpp::put_message_id_resp(out, CommandId::SUBMIT_SM_RESP, rok, ticket.sequence, id),
        }
    }

    fn refused_submit(&mut self, ticket: Ticket, status: CommandStatus, out: &mut Vec<u8>) {
        let id = match ticket.tag {
            tag::DATA_SM => CommandId::DATA_SM_RESP,
            slot @ tag::SUBMIT_MULTI.. => {
                self.multis.take(slot - tag::SUBMIT_MULTI);
                CommandId::SUBMIT_MULTI_RESP
            }
            _ => CommandId::SUBMIT_SM_RESP,
        };
        smpp::put_header_only(out, id, status, ticket.sequence);
    }

    fn outcome(&mut self, ticket: Ticket, outcome: Outcome, out: &mut Vec<u8>) {
        let (id, too_late) = match ticket.tag {
            tag::CANCEL_SM => (CommandId::CANCEL_SM_RESP, CommandStatus::ESME_RCANCELFAIL),
            tag::REPLACE_SM => (CommandId::REPLACE_SM_RESP, CommandStatus::ESME_RREPLACEFAIL),
            _ => (CommandId::QUERY_SM_RESP, CommandStatus::ESME_RQUERYFAIL),
        };
        let status = match outcome {
            Outcome::State {
                key,
                state,
                done_ms,
                err,
            } => return put_state(out, ticket.sequence, key, state, done_ms, err),
            Outcome::Done => CommandStatus::ESME_ROK,
            Outcome::TooLate => too_late,
            Outcome::NotFound => CommandStatus::ESME_RINVMSGID,
            Outcome::Refused(reason) => self.status_of(reason.into()),
        };
        smpp::put_header_only(out, id, status, ticket.sequence);
    }

    /// alert_notification has no response and so no ticket (SMPP 3.4 §4.12); it is passed on while somebody is there to hear
    /// it.
    fn alert(&mut self, body: &[u8], out: &mut Vec<u8>) {
        // 3.3 does not know it; and who does not read misses it, rather than having it kept for ever.
        if out.len() > ALERTS_MAX || !self.bound.as_ref().is_some_and(|b| b.kind.receives() && b.tlvs) {
            return;
        }
        let sequence = self.session.unanswered_sequence();
        let start = smpp::begin(
            out,
            CommandId::ALERT_NOTIFICATION,
            CommandStatus::ESME_ROK,
            sequence,
        );
        out.extend_from_slice(body);
        smpp::finish(out, start);
    }
}

/// An id of ours; anything else names no message.
fn key(id: &[u8]) -> Result<MessageKey, Fault> {
    MessageKey::parse(id).ok_or(Fault::Field(CommandStatus::ESME_RINVMSGID))
}

fn put_multi_resp(
    out: &mut Vec<u8>,
    status: CommandStatus,
    sequence: u32,
    id: &[u8],
    not_taken: &[NotTaken],
) {
    let resp = SubmitMultiResp {
        message_id: id,
        unsuccessful: not_taken
            .iter()
            .map(|n| Unsuccessful {
                address: Address {
                    ton: Ton(n.ton),
                    npi: Npi(n.npi),
                    addr: &n.address,
                },
                status: n.status,
            })
            .collect(),
        tlvs: Tlvs::EMPTY,
        body: true,
    };
    let start = smpp::begin(out, CommandId::SUBMIT_MULTI_RESP, status, sequence);
    resp.encode_body(out);
    smpp::finish(out, start);
}

fn put_state(out: &mut Vec<u8>, sequence: u32, key: MessageKey, state: u8, done_ms: Option<u64>, err: u16) {
    let id = itoa::Buffer::new().format(key.0).as_bytes().to_vec();
    let mut date = Vec::with_capacity(16);
    if let Some(at) = done_ms {
        smpp::format_absolute(at, &mut date);
    }
    let resp = QuerySmResp {
        message_id: &id,
        final_date: &date,
        message_state: state,
        // One octet (SMPP 3.4 §4.8.2); a larger code of the SMSC is in the receipt.
        error_code: u8::try_from(err).unwrap_or(u8::MAX),
        tlvs: Tlvs::EMPTY,
        body: true,
    };
    let start = smpp::begin(out, CommandId::QUERY_SM_RESP, CommandStatus::ESME_ROK, sequence);
    resp.encode_body(out);
    smpp::finish(out, start);
}
