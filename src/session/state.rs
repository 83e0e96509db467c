//! States and what each PDU does in them.

use super::response_to;
use super::window::{Answered, Window};
use crate::smpp::{self, Bind, BindResp, CommandId, CommandStatus, PduError, RawPdu};

/// Which side of the session this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The SMSC side: customers bind to us.
    Server,
    /// The ESME side: we bind to an SMSC.
    Client,
}

/// What a bind allows (SMPP 3.4 §2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BindKind {
    /// Submits only.
    Transmitter,
    /// Deliveries only.
    Receiver,
    /// Both.
    Transceiver,
}

impl BindKind {
    /// From the bind's command_id.
    #[must_use]
    pub fn of(id: CommandId) -> Option<BindKind> {
        Some(match id {
            CommandId::BIND_TRANSMITTER => BindKind::Transmitter,
            CommandId::BIND_RECEIVER => BindKind::Receiver,
            CommandId::BIND_TRANSCEIVER => BindKind::Transceiver,
            _ => return None,
        })
    }

    /// The bind's command_id.
    #[must_use]
    pub fn command(self) -> CommandId {
        match self {
            BindKind::Transmitter => CommandId::BIND_TRANSMITTER,
            BindKind::Receiver => CommandId::BIND_RECEIVER,
            BindKind::Transceiver => CommandId::BIND_TRANSCEIVER,
        }
    }

    /// Whether the ESME may submit.
    #[must_use]
    pub fn transmits(self) -> bool {
        self != BindKind::Receiver
    }

    /// Whether the ESME takes deliveries.
    #[must_use]
    pub fn receives(self) -> bool {
        self != BindKind::Transmitter
    }

    /// Short name for lists: `tx`, `rx`, `trx`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BindKind::Transmitter => "tx",
            BindKind::Receiver => "rx",
            BindKind::Transceiver => "trx",
        }
    }
}

/// Why a session is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// No bind in time.
    BindTimeout,
    /// The bind was refused with this status.
    BindRefused(CommandStatus),
    /// The peer sent unbind (or answered ours).
    Unbound,
    /// The peer closed or reset the connection.
    PeerClosed,
    /// enquire_link was not answered.
    EnquireLinkTimeout,
    /// Nothing came for the idle time.
    Idle,
    /// Octets that are no SMPP frame.
    BadFrame,
    /// A PDU stayed incomplete too long.
    SlowPdu,
    /// The peer took nothing from its socket for the response time, so that requests never left ours.
    NotReading,
    /// We ended it: shutdown, kick, suspension.
    Local,
}

impl Cause {
    /// The name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cause::BindTimeout => "bind_timeout",
            Cause::BindRefused(_) => "bind_refused",
            Cause::Unbound => "unbound",
            Cause::PeerClosed => "peer_closed",
            Cause::EnquireLinkTimeout => "enquire_link_timeout",
            Cause::Idle => "idle",
            Cause::BadFrame => "bad_frame",
            Cause::SlowPdu => "slow_pdu",
            Cause::NotReading => "not_reading",
            Cause::Local => "local",
        }
    }
}

/// Where a session is. See the diagram in the module's description.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Connected, not bound.
    Open,
    /// A bind is under way: its kind and sequence number.
    Binding(BindKind, u32),
    /// Bound.
    Bound(BindKind),
    /// The peer sent unbind with this sequence number: nothing new is taken, and it is answered when the caller owes
    /// nothing any more, at the latest at this time.
    Leaving(u32, u64),
    /// unbind was sent or answered; the peer may close until this time.
    Unbinding(u64),
    /// Over.
    Closed(Cause),
}

/// Timer settings in milliseconds; 0 switches a timer off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// A connection must be bound within this time (session_init_timer).
    pub bind_ms: u64,
    /// Nothing heard for this long: send enquire_link.
    pub enquire_link_ms: u64,
    /// Nothing heard for this long: close (inactivity_timer).
    pub idle_ms: u64,
    /// A request unanswered for this long is given back (response_timer).
    pub response_ms: u64,
}

/// What the caller has to act on.
#[derive(Debug)]
pub enum Event<'a, T> {
    /// Dealt with here.
    Nothing,
    /// Server: a client wants to bind; answer with [`Session::accept`] or [`Session::refuse`].
    Bind(BindKind, Bind<'a>),
    /// Client: the SMSC has accepted our bind.
    Bound,
    /// A request that belongs to the caller in this state. It owes exactly one response with this sequence number.
    Request(CommandId, u32, &'a [u8]),
    /// The response to a request of the caller: its ticket, when it was sent, and what was answered.
    Response {
        /// Given to [`Session::request`].
        ticket: T,
        /// When the request was sent.
        sent_ms: u64,
        /// The answer's status; generic_nack arrives here too.
        status: CommandStatus,
        /// The answer's body, possibly empty.
        body: &'a [u8],
    },
    /// A response that answers nothing outstanding: late, repeated or invented.
    Stray {
        /// Which response.
        id: CommandId,
        /// Its sequence number.
        sequence: u32,
        /// Its status.
        status: CommandStatus,
        /// Its body, possibly empty.
        body: &'a [u8],
    },
    /// Write what is in the buffer, then close.
    Closed(Cause),
}

/// A session. `T` is what the caller attaches to each request it sends.
#[derive(Debug)]
pub struct Session<T> {
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) timers: Timers,
    pub(super) window: Window<T>,
    pub(super) opened_ms: u64,
    pub(super) heard_ms: u64,
    /// enquire_link awaiting its answer since.
    pub(super) enquiring: Option<u64>,
}

/// How long a peer may take to close after unbind. Some clients report an error if we close first.
pub(super) const UNBIND_GRACE_MS: u64 = 1_000;
/// How long an unbind waits for responses that are still owed: many clients close as soon as it is answered, and would
/// never learn the ids of their last submits.
pub(super) const LEAVE_MAX_MS: u64 = 2_000;

impl<T> Session<T> {
    /// A fresh connection at `now_ms`, with a window of `window` requests of ours.
    #[must_use]
    pub fn new(role: Role, timers: Timers, window: usize, now_ms: u64) -> Session<T> {
        Session {
            role,
            state: State::Open,
            timers,
            window: Window::new(window),
            opened_ms: now_ms,
            heard_ms: now_ms,
            enquiring: None,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The kind of bind, if bound.
    #[must_use]
    pub fn bound(&self) -> Option<BindKind> {
        match self.state {
            State::Bound(kind) => Some(kind),
            _ => None,
        }
    }

    /// Requests of ours that may still be sent before the window is full; 0 unless bound.
    #[must_use]
    pub fn free(&self) -> usize {
        if self.bound().is_some() {
            self.window.free()
        } else {
            0
        }
    }

    /// Requests of ours that are unanswered.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.window.open()
    }

    /// Takes the requests that will never be answered, oldest first. For when the session is over.
    pub fn abandon(&mut self) -> impl Iterator<Item = T> + '_ {
        self.window.drain()
    }

    /// Registers a request, a `command` PDU; the caller writes it with the sequence number returned.
    ///
    /// # Errors
    /// The ticket, when not bound or the window is full.
    pub fn request(&mut self, ticket: T, command: CommandId, now_ms: u64) -> Result<u32, T> {
        if self.bound().is_none() {
            return Err(ticket);
        }
        self.window.push(ticket, command, now_ms)
    }

    /// A sequence number for a PDU that has no response (alert_notification, SMPP 3.4 §4.12).
    pub fn unanswered_sequence(&mut self) -> u32 {
        self.window.skip()
    }

    /// The ticket of the request registered last, to write its PDU from.
    #[must_use]
    pub fn newest(&self) -> Option<&T> {
        self.window.newest()
    }

    /// Client: sends the bind.
    pub fn bind(&mut self, kind: BindKind, bind: &Bind<'_>, now_ms: u64, out: &mut Vec<u8>) {
        let sequence = self.window.push_own(kind.command(), now_ms);
        let start = smpp::begin(out, kind.command(), CommandStatus::ESME_ROK, sequence);
        bind.encode_body(out);
        smpp::finish(out, start);
        self.state = State::Binding(kind, sequence);
    }

    /// Server: accepts the bind under way with this response body.
    pub fn accept(&mut self, resp: &BindResp<'_>, now_ms: u64, out: &mut Vec<u8>) {
        if let State::Binding(kind, sequence) = self.state {
            let start = smpp::begin(
                out,
                response_to(kind.command()),
                CommandStatus::ESME_ROK,
                sequence,
            );
            resp.encode_body(out);
            smpp::finish(out, start);
            self.state = State::Bound(kind);
            self.heard_ms = now_ms;
        }
    }

    /// Server: refuses the bind under way. The response carries an empty system_id: some clients cannot read one
    /// without a body.
    pub fn refuse(&mut self, status: CommandStatus, out: &mut Vec<u8>) -> Cause {
        if let State::Binding(kind, sequence) = self.state {
            let start = smpp::begin(out, response_to(kind.command()), status, sequence);
            out.push(0);
            smpp::finish(out, start);
        }
        let cause = Cause::BindRefused(status);
        self.state = State::Closed(cause);
        cause
    }

    /// Starts an orderly end: sends unbind if bound.
    pub fn unbind(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        if self.bound().is_some() {
            let sequence = self.window.push_own(CommandId::UNBIND, now_ms);
            smpp::put_header_only(out, CommandId::UNBIND, CommandStatus::ESME_ROK, sequence);
            self.state = State::Unbinding(now_ms + UNBIND_GRACE_MS);
        } else if !matches!(
            self.state,
            State::Closed(_) | State::Unbinding(_) | State::Leaving(..)
        ) {
            self.state = State::Closed(Cause::Local);
        }
    }

    /// The caller owes the peer no response: if the peer wants to leave, its unbind is answered now.
    pub fn owes_nothing(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        if let State::Leaving(sequence, _) = self.state {
            smpp::put_header_only(out, CommandId::UNBIND_RESP, CommandStatus::ESME_ROK, sequence);
            self.state = State::Unbinding(now_ms + UNBIND_GRACE_MS);
        }
    }

    /// Ends it without a word: the connection is gone or must go.
    pub fn close(&mut self, cause: Cause) -> Cause {
        if let State::Closed(first) = self.state {
            return first;
        }
        self.state = State::Closed(cause);
        cause
    }

    /// Takes one whole PDU.
    pub fn receive<'a>(&mut self, pdu: &RawPdu<'a>, now_ms: u64, out: &mut Vec<u8>) -> Event<'a, T> {
        self.heard_ms = now_ms;
        let header = &pdu.header;
        if let State::Closed(cause) = self.state {
            return Event::Closed(cause);
        }
        if header.command_id.is_response() {
            return self.response(pdu);
        }
        match header.command_id {
            CommandId::ENQUIRE_LINK => {
                smpp::put_header_only(
                    out,
                    CommandId::ENQUIRE_LINK_RESP,
                    CommandStatus::ESME_ROK,
                    header.sequence,
                );
                Event::Nothing
            }
            CommandId::UNBIND => {
                self.peer_unbinds(header.sequence, now_ms, out);
                Event::Nothing
            }
            id => match self.role {
                Role::Server => self.customer_request(id, pdu, out),
                Role::Client => self.smsc_request(id, pdu, out),
            },
        }
    }

    /// A second unbind is answered and changes nothing, and one before a bind ends the connection as soon as it is
    /// answered: neither may be used to stay for longer than the timers allow.
    fn peer_unbinds(&mut self, sequence: u32, now_ms: u64, out: &mut Vec<u8>) {
        match self.state {
            State::Bound(_) => self.state = State::Leaving(sequence, now_ms + LEAVE_MAX_MS),
            State::Leaving(..) | State::Unbinding(_) | State::Closed(_) => {
                smpp::put_header_only(out, CommandId::UNBIND_RESP, CommandStatus::ESME_ROK, sequence);
            }
            State::Open | State::Binding(..) => {
                smpp::put_header_only(out, CommandId::UNBIND_RESP, CommandStatus::ESME_ROK, sequence);
                self.state = State::Unbinding(now_ms + UNBIND_GRACE_MS);
            }
        }
    }

    fn customer_request<'a>(&mut self, id: CommandId, pdu: &RawPdu<'a>, out: &mut Vec<u8>) -> Event<'a, T> {
        let sequence = pdu.header.sequence;
        if let Some(kind) = BindKind::of(id) {
            return self.bind_request(kind, pdu, out);
        }
        let known = matches!(
            id,
            CommandId::SUBMIT_SM
                | CommandId::SUBMIT_MULTI
                | CommandId::DATA_SM
                | CommandId::QUERY_SM
                | CommandId::CANCEL_SM
                | CommandId::REPLACE_SM
                // Of 5.0 (§4.4): not offered, but answered by their own responses.
                | CommandId::BROADCAST_SM
                | CommandId::QUERY_BROADCAST_SM
                | CommandId::CANCEL_BROADCAST_SM
        );
        match self.state {
            State::Bound(kind) if known && kind.transmits() => {
                return Event::Request(id, sequence, pdu.body);
            }
            _ if known => put_error(out, id, CommandStatus::ESME_RINVBNDSTS, sequence),
            _ => nack(out, CommandStatus::ESME_RINVCMDID, sequence),
        }
        Event::Nothing
    }

    fn bind_request<'a>(&mut self, kind: BindKind, pdu: &RawPdu<'a>, out: &mut Vec<u8>) -> Event<'a, T> {
        let sequence = pdu.header.sequence;
        if self.state != State::Open {
            put_error(out, kind.command(), CommandStatus::ESME_RALYBND, sequence);
            return Event::Nothing;
        }
        match Bind::decode(pdu.body) {
            Ok(bind) => {
                self.state = State::Binding(kind, sequence);
                Event::Bind(kind, bind)
            }
            Err(PduError { status, .. }) => {
                self.state = State::Binding(kind, sequence);
                Event::Closed(self.refuse(status, out))
            }
        }
    }

    fn smsc_request<'a>(&mut self, id: CommandId, pdu: &RawPdu<'a>, out: &mut Vec<u8>) -> Event<'a, T> {
        let sequence = pdu.header.sequence;
        let deliver = matches!(id, CommandId::DELIVER_SM | CommandId::DATA_SM);
        match self.state {
            State::Bound(_) if deliver || id == CommandId::ALERT_NOTIFICATION => {
                return Event::Request(id, sequence, pdu.body);
            }
            // On its way when we asked to leave: it is to come again, not to be given up.
            State::Unbinding(..) | State::Leaving(..) if deliver => {
                put_error(out, id, CommandStatus::ESME_RX_T_APPN, sequence);
            }
            _ if deliver => put_error(out, id, CommandStatus::ESME_RINVBNDSTS, sequence),
            // alert_notification has no response (SMPP 3.4 §4.12.1).
            _ if id == CommandId::ALERT_NOTIFICATION => {}
            _ => nack(out, CommandStatus::ESME_RINVCMDID, sequence),
        }
        Event::Nothing
    }

    fn response<'a>(&mut self, pdu: &RawPdu<'a>) -> Event<'a, T> {
        let header = &pdu.header;
        // generic_nack says no, whatever its status says.
        let status = match (header.command_id, header.command_status) {
            (CommandId::GENERIC_NACK, CommandStatus::ESME_ROK) => CommandStatus::ESME_RUNKNOWNERR,
            (_, status) => status,
        };
        match self.window.answer(header.sequence, header.command_id) {
            Answered::Stray => Event::Stray {
                id: header.command_id,
                sequence: header.sequence,
                status,
                body: pdu.body,
            },
            Answered::Ticket(ticket, sent_ms) => Event::Response {
                ticket,
                sent_ms,
                status,
                body: pdu.body,
            },
            Answered::Own => self.own_response(pdu, status),
        }
    }

    fn own_response<'a>(&mut self, pdu: &RawPdu<'a>, status: CommandStatus) -> Event<'a, T> {
        match self.state {
            State::Binding(kind, sequence)
                if self.role == Role::Client && sequence == pdu.header.sequence =>
            {
                if status == CommandStatus::ESME_ROK {
                    self.state = State::Bound(kind);
                    Event::Bound
                } else {
                    Event::Closed(self.close(Cause::BindRefused(status)))
                }
            }
            State::Unbinding(_) if pdu.header.command_id == CommandId::UNBIND_RESP => {
                Event::Closed(self.close(Cause::Unbound))
            }
            _ => {
                // Any answer to enquire_link shows that the peer lives, generic_nack included.
                self.enquiring = None;
                Event::Nothing
            }
        }
    }
}

/// An error response: submit_sm_resp and its like without a body (SMPP 3.4 §4.4.2 allows both forms).
fn put_error(out: &mut Vec<u8>, request: CommandId, status: CommandStatus, sequence: u32) {
    smpp::put_header_only(out, response_to(request), status, sequence);
}

fn nack(out: &mut Vec<u8>, status: CommandStatus, sequence: u32) {
    smpp::put_header_only(out, CommandId::GENERIC_NACK, status, sequence);
}
