//! Binds towards a telecom's SMSC: connect, bind, send, take receipts, and start over when the link breaks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Wake;
use super::convert::{self, Form, LongMessages};
use super::deliver::{self, Delivered, ReceiptMaps, sm_of};
use super::pace::Pace;
use super::pdus::Pdus;
use super::tls::TlsClient;
use crate::clock;
use crate::domain::message::{Message, Piece};
use crate::flow::{Gateway, Input, Mailbox, Outgoing, ToUpstream, UpEvent, Upstream};
use crate::ids::MessageKey;
use crate::kill;
use crate::session::{BindKind, Cause, Event, Role, Session, State, Timers, response_to};
use crate::smpp::{
    self, Bind, CommandId, CommandStatus, DataSm, MAX_PDU_DEFAULT, MessageIdResp, Npi, ShortMessage, Ton,
};
use crate::wire::{Connection, Read};

/// How an upstream is bound. One per `[[upstream]]`.
#[derive(Clone)]
pub struct LinkOptions {
    /// The upstream's lane.
    pub upstream: Arc<Upstream>,
    /// `host:port`, tried in turn.
    pub addresses: Vec<String>,
    /// What to bind with.
    pub system_id: String,
    /// Never logged.
    pub password: String,
    /// system_type of the bind.
    pub system_type: String,
    /// address_range of the bind.
    pub address_range: String,
    /// interface_version of the bind.
    pub interface_version: u8,
    /// The kinds of session each bind consists of: one, or a transmitter and a receiver.
    pub kinds: Vec<BindKind>,
    /// Binds in parallel.
    pub binds: u16,
    /// Unanswered submits a session.
    pub window: usize,
    /// Session timers.
    pub timers: Timers,
    /// First pause before a new try; doubles, with jitter.
    pub reconnect_min_ms: u64,
    /// Longest pause.
    pub reconnect_max_ms: u64,
    /// How it is known, over TLS; `None`: plain TCP.
    pub tls: Option<TlsClient>,
    /// In what form it takes messages.
    pub form: Form,
    /// How it is told what is left of a message's validity.
    pub validity: Validity,
    /// What it makes of states and errors.
    pub maps: ReceiptMaps,
    /// Overrides of source TON, source NPI, destination TON, destination NPI.
    pub address_types: [Option<u8>; 4],
}

/// How an upstream is told what is left of a message's validity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Validity {
    /// As a span from now.
    #[default]
    Relative,
    /// As an instant in UTC.
    Absolute,
    /// Not at all: for SMSCs that refuse the field.
    Omit,
}

impl std::fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LinkOptions({})", self.upstream.options.name)
    }
}

/// See [`crate::flow::BindInfo::state`].
const CONNECTING: u32 = 1;
/// Bits of a delivery's token that number its connection; the one above says that it came with data_sm.
const GENERATION: u32 = 0x7FFF_FFFF;
/// Deliveries read and not yet on record: above this the link is not read.
const OWED_MAX: usize = 10_000;
/// A peer that does not read: nothing more is taken from the lane above this.
const OUT_MAX: usize = 256 * 1024;
/// And above so many octets of them.
const OWED_OCTETS_MAX: usize = 8 * 1024 * 1024;
/// Requests given up that are remembered, so that a late answer settles its message.
const LATE_MAX: usize = 10_000;
/// How long an orderly end waits for answers that are due.
const END_MS: u64 = 5_000;
/// Tries of a message that the SMSC refuses with ESME_RSYSERR: it may be the SMSC's trouble or the message's.
const SYSERR_TRIES: u32 = 3;
/// A link that held this long starts its pauses over.
const STABLE_MS: u64 = 10_000;

/// Starts the tasks of one upstream.
pub(super) fn start(
    gateway: &Arc<Gateway>,
    options: LinkOptions,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let options = Arc::new(options);
    let mut index = 0u16;
    for _ in 0..options.binds {
        for kind in options.kinds.clone() {
            let link = Link::new(gateway, &options, kind, index, stop);
            tasks.spawn(link.keep());
            index += 1;
        }
    }
}

/// One session of a bind, over all its connections.
pub(super) struct Link {
    gateway: Arc<Gateway>,
    options: Arc<LinkOptions>,
    kind: BindKind,
    index: usize,
    mailbox: Arc<Mailbox<ToUpstream>>,
    pub(super) wake: Wake,
    stop: CancellationToken,
}

/// A submit on its way: where its octets begin in the connection's stream, to know whether any of it was ever written.
#[derive(Debug)]
pub(super) struct InFlight {
    message: Outgoing,
    start: u64,
}

impl Link {
    /// The session `index` of its upstream, not connected; it is woken from now on.
    pub(super) fn new(
        gateway: &Arc<Gateway>,
        options: &Arc<LinkOptions>,
        kind: BindKind,
        index: u16,
        stop: &CancellationToken,
    ) -> Link {
        let wake = Wake::default();
        options.upstream.register(index, Arc::new(wake.clone()));
        Link {
            gateway: Arc::clone(gateway),
            options: Arc::clone(options),
            kind,
            index: usize::from(index),
            mailbox: Arc::new(Mailbox::new(Box::new(wake.clone()))),
            wake,
            stop: stop.clone(),
        }
    }

    fn show(&self, state: u32, why: &str) {
        if let Some(info) = self.options.upstream.binds.get(self.index) {
            info.state.store(state, Ordering::Release);
            info.since_ms.store(clock::now_ms(), Ordering::Relaxed);
            // While it tries again, why it was down stays.
            if state != CONNECTING {
                let mut text = info.why.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                text.clear();
                text.push_str(why);
            }
        }
    }

    /// Keeps the link up until stopped.
    async fn keep(self) {
        let upstream = Arc::clone(&self.options.upstream);
        let name = upstream.options.name.clone();
        let (mut tries, mut address) = (0u32, 0usize);
        while !self.stop.is_cancelled() {
            if !upstream.enabled() {
                self.show(0, "disabled");
                tokio::select! { () = self.wake.0.notified() => {}, () = self.stop.cancelled() => {} }
                self.letters_without_link();
                continue;
            }
            self.show(CONNECTING, "");
            let reconnects = upstream.reconnects();
            let target = self
                .options
                .addresses
                .get(address % self.options.addresses.len().max(1))
                .cloned();
            address += 1;
            let started = clock::now_ms();
            let why = match self.connect(&target.unwrap_or_default()).await {
                Ok(conn) => self.serve(conn, reconnects, address as u32).await,
                Err(why) => why,
            };
            self.letters_without_link();
            if self.stop.is_cancelled() {
                break;
            }
            if clock::now_ms() > started + STABLE_MS {
                tries = 0;
            }
            self.show(0, &why);
            tracing::warn!(upstream = %name, bind = self.index, reason = %why, "upstream bind is down");
            if upstream.enabled() && upstream.reconnects() == reconnects {
                self.pause(tries).await;
                tries = tries.saturating_add(1);
            }
        }
        self.show(0, "stopped");
    }

    /// Waits before the next try; a reconnect or disable order cuts it short.
    async fn pause(&self, tries: u32) {
        let o = &self.options;
        let base = o
            .reconnect_min_ms
            .saturating_mul(1 << tries.min(16))
            .min(o.reconnect_max_ms);
        let mut random = [0u8; 2];
        let _drawn = getrandom::fill(&mut random);
        // Between half and the whole pause, so that binds of one upstream do not knock all at once.
        let jitter = base / 2 * u64::from(u16::from_le_bytes(random)) / u64::from(u16::MAX);
        let until = clock::now_ms() + base / 2 + jitter;
        let order = o.upstream.reconnects();
        loop {
            let left = until.saturating_sub(clock::now_ms());
            if left == 0
                || self.stop.is_cancelled()
                || !o.upstream.enabled()
                || o.upstream.reconnects() != order
            {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(left)) => {}
                () = self.wake.0.notified() => self.letters_without_link(),
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn connect(&self, address: &str) -> Result<Connection, String> {
        let limit = Duration::from_millis(self.options.timers.bind_ms.max(1));
        let connected = tokio::select! {
            c = tokio::time::timeout(limit, TcpStream::connect(address)) => c,
            () = self.stop.cancelled() => return Err("stopped".into()),
        };
        match connected {
            Ok(Ok(stream)) => {
                let _set = stream.set_nodelay(true);
                match &self.options.tls {
                    None => Ok(Connection::new(stream)),
                    Some(tls) => Ok(Connection::with_tls(stream, tls.connect(address)?)),
                }
            }
            Ok(Err(e)) => Err(format!("cannot connect to {address}: {e}")),
            Err(_) => Err(format!("no answer from {address}")),
        }
    }

    /// How often reconnecting has been ordered.
    pub(super) fn reconnects(&self) -> u32 {
        self.options.upstream.reconnects()
    }

    /// Letters for a link that is gone: its receipts will come again, its marked messages go back to the lane.
    pub(super) fn letters_without_link(&self) {
        let mut letters = Vec::new();
        self.mailbox.take(&mut letters);
        let unwritten = letters.into_iter().filter_map(|l| match l {
            ToUpstream::Write(message) => Some(UpEvent::Unwritten(message)),
            ToUpstream::Committed(_) => None,
        });
        self.report(unwritten.collect());
    }

    fn report(&self, events: Vec<UpEvent>) {
        if !events.is_empty() {
            self.gateway.ingress.put(Input::Upstream {
                upstream: self.options.upstream.id,
                events,
                reply: Arc::clone(&self.mailbox),
            });
        }
    }

    /// Serves one connection until it ends; why it did.
    async fn serve(&self, mut conn: Connection, reconnects: u32, generation: u32) -> String {
        let mut served = self.served(reconnects, generation, clock::now_ms());
        served.bind(&mut conn.out, clock::now_ms());
        let cause = served.run(&mut conn).await;
        served.end(&conn);
        if let Some(fault) = served.fault.take() {
            return fault;
        }
        match cause {
            Cause::BindRefused(status) => format!("bind refused: {status}"),
            other => other.name().to_string(),
        }
    }

    /// A connection that has just been made.
    pub(super) fn served(&self, reconnects: u32, generation: u32, now: u64) -> Served<'_> {
        Served {
            link: self,
            session: Session::new(Role::Client, self.options.timers, self.options.window, now),
            events: Vec::new(),
            letters: Vec::new(),
            pdus: Pdus::new("upstream"),
            owed: 0,
            owed_octets: 0,
            marked: 0,
            late: VecDeque::new(),
            parts: VecDeque::new(),
            pace: Pace::new(self.options.window),
            unwritten: Vec::new(),
            ending: None,
            fault: None,
            again_ms: None,
            sending: false,
            took_ms: None,
            blocked: false,
            reconnects,
            generation,
        }
    }
}

/// One connection.
pub(super) struct Served<'a> {
    link: &'a Link,
    pub(super) session: Session<InFlight>,
    events: Vec<UpEvent>,
    letters: Vec<ToUpstream>,
    pdus: Pdus,
    /// deliver_sm read and not answered, and their octets.
    owed: usize,
    owed_octets: usize,
    /// Messages whose mark is being put on record, for which the window has to have room when they come back.
    marked: usize,
    /// Requests given up for lack of an answer, by sequence number, newest last: the answer may still come.
    late: VecDeque<(u32, MessageKey, Piece)>,
    /// How many unanswered submits the SMSC takes well at the moment.
    pace: Pace,
    /// Parts of messages that have been cut for this upstream and that the window had no room for yet.
    parts: VecDeque<Outgoing>,
    /// Requests whose time ran out while not one octet of them had left: the connection goes, and they with it.
    unwritten: Vec<InFlight>,
    /// Asked to end: nothing new is sent, and by this time the unbind is.
    ending: Option<u64>,
    /// What the socket or TLS said when the connection broke.
    fault: Option<String>,
    /// When the lane wants to be asked again.
    again_ms: Option<u64>,
    /// Counted as a sender of the upstream.
    sending: bool,
    /// When what has not been written yet had its turn.
    took_ms: Option<u64>,
    /// The socket did not take everything the last time.
    blocked: bool,
    reconnects: u32,
    /// Number of this connection, in the tokens of its deliveries.
    generation: u32,
}

impl Served<'_> {
    pub(super) fn bind(&mut self, out: &mut Vec<u8>, now: u64) {
        let o = &self.link.options;
        let bind = Bind {
            system_id: o.system_id.as_bytes(),
            password: o.password.as_bytes(),
            system_type: o.system_type.as_bytes(),
            interface_version: o.interface_version,
            addr_ton: Ton(0),
            addr_npi: Npi(0),
            address_range: o.address_range.as_bytes(),
        };
        self.session.bind(self.link.kind, &bind, now, out);
    }

    async fn run(&mut self, conn: &mut Connection) -> Cause {
        loop {
            self.pdus.written(&conn.out, conn.written());
            self.pdus.flush();
            let before = conn.flushed;
            if conn.flush().is_err() {
                return self.session.close(Cause::PeerClosed);
            }
            self.blocked = conn.pending() > 0;
            self.written_late();
            if conn.flushed > before && self.session.outstanding() > 0 {
                kill::point("upstream.after_write");
            }
            if let State::Closed(cause) = self.session.state() {
                return cause;
            }
            if let Err(cause) = self.wait(conn).await {
                return cause;
            }
            self.turn_of(conn, clock::now_ms());
        }
    }

    /// The contract counts what is written: turns that were used only later move what comes behind.
    fn written_late(&mut self) {
        if let Some(took) = self.took_ms.filter(|_| !self.blocked) {
            self.took_ms = None;
            let late = clock::now_ms().saturating_sub(took);
            if late > 1 {
                let upstream = &self.link.options.upstream;
                upstream.late(self.link.index as u16, late);
            }
        }
    }

    /// What follows whenever something was read, a letter came or the time has.
    pub(super) fn turn_of<S>(&mut self, conn: &mut Connection<S>, now: u64) {
        self.letters(conn, now);
        self.take(conn, now);
        self.timers(conn, now);
        self.hand_over();
    }

    /// When it wants to be looked at again although nothing comes.
    pub(super) fn deadline(&self) -> Option<u64> {
        // Once the unbind is out its own timer counts: this one would be over already, and the task would spin.
        let ending = self.ending.filter(|_| self.session.bound().is_some());
        [self.session.next_timeout(), self.again_ms, ending]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether the peer may be read: not while it has been promised too many answers.
    pub(super) fn may_read(&self) -> bool {
        self.owed < OWED_MAX && self.owed_octets < OWED_OCTETS_MAX
    }

    async fn wait(&mut self, conn: &mut Connection) -> Result<(), Cause> {
        let now = clock::now_ms();
        let deadline = self.deadline().map_or(3_600_000, |at| at.saturating_sub(now));
        let stopping = self.link.stop.is_cancelled();
        let may_read = self.may_read();
        let may_write = conn.pending() > 0;
        let readable = tokio::select! {
            ready = conn.stream.readable(), if may_read => ready.map(|()| true),
            ready = conn.stream.writable(), if may_write => ready.map(|()| false),
            () = self.link.wake.0.notified() => Ok(false),
            () = tokio::time::sleep(Duration::from_millis(deadline)) => Ok(false),
            () = self.link.stop.cancelled(), if !stopping => Ok(false),
        };
        match readable {
            Ok(true) => {
                let now = clock::now_ms();
                match conn.read(now, |out, octets| self.consume(out, octets, now)) {
                    Ok(Read::Some | Read::Nothing) => Ok(()),
                    Ok(Read::Closed) => Err(self.session.close(Cause::PeerClosed)),
                    Err(error) => {
                        // What TLS says of a failed handshake, as far as the socket takes it.
                        let _said = conn.flush();
                        self.fault = Some(error.to_string());
                        Err(self.session.close(Cause::PeerClosed))
                    }
                }
            }
            Ok(false) => Ok(()),
            Err(_) => Err(self.session.close(Cause::PeerClosed)),
        }
    }

    pub(super) fn consume(&mut self, out: &mut Vec<u8>, octets: &[u8], now: u64) -> usize {
        let mut taken = 0;
        while !matches!(self.session.state(), State::Closed(_)) {
            let pdu = match smpp::cut(octets.get(taken..).unwrap_or(&[]), MAX_PDU_DEFAULT) {
                Ok(Some(pdu)) => pdu,
                Ok(None) => break,
                Err(e) => {
                    let sequence = e.sequence.unwrap_or(0);
                    smpp::put_header_only(
                        out,
                        CommandId::GENERIC_NACK,
                        CommandStatus::ESME_RINVCMDLEN,
                        sequence,
                    );
                    self.session.close(Cause::BadFrame);
                    return octets.len();
                }
            };
            taken += pdu.bytes.len();
            self.pdus
                .count(false, pdu.header.command_id, pdu.header.command_status);
            match self.session.receive(&pdu, now, out) {
                Event::Bound => self.bound(),
                Event::Response {
                    ticket,
                    sent_ms,
                    status,
                    body,
                } => self.answered(ticket, sent_ms, status, body, now),
                Event::Request(CommandId::DELIVER_SM, sequence, body) => self.delivery(sequence, body, out),
                Event::Request(CommandId::ALERT_NOTIFICATION, _, body) => {
                    // A malformed one has nobody to tell: the PDU has no response.
                    if let Ok(alert) = smpp::AlertNotification::decode(body) {
                        self.events
                            .push(UpEvent::Alert(alert.esme.addr.into(), body.into()));
                    }
                }
                Event::Request(CommandId::DATA_SM, sequence, body) => self.data_sm(sequence, body, out),
                Event::Request(id, sequence, _) => {
                    smpp::put_header_only(out, response_to(id), CommandStatus::ESME_RINVCMDID, sequence);
                }
                Event::Stray {
                    id: CommandId::SUBMIT_SM_RESP,
                    sequence,
                    status,
                    body,
                } => self.late_answer(sequence, status, body),
                Event::Nothing | Event::Bind(..) | Event::Stray { .. } | Event::Closed(_) => {}
            }
        }
        taken
    }

    fn bound(&mut self) {
        let link = self.link;
        link.show(2, "");
        tracing::info!(upstream = %link.options.upstream.options.name, bind = link.index, kind = link.kind.name(), "upstream bound");
        if link.kind.transmits() {
            link.options.upstream.sender_up(link.index as u16);
            self.sending = true;
        }
    }

    /// The SMSC has answered a submit.
    fn answered(&mut self, ticket: InFlight, sent_ms: u64, status: CommandStatus, body: &[u8], now: u64) {
        let upstream = &self.link.options.upstream;
        self.link
            .gateway
            .metrics
            .response_seconds
            .record(now.saturating_sub(sent_ms) as f64 / 1e3);
        let (key, piece) = (ticket.message.key, ticket.message.piece);
        match status {
            CommandStatus::ESME_RTHROTTLED => {
                self.pace.refused(now);
                upstream.too_fast(now);
            }
            CommandStatus::ESME_RMSGQFUL => self.pace.refused(now),
            _ => self.pace.answered(now.saturating_sub(sent_ms)),
        }
        match status {
            CommandStatus::ESME_ROK => {
                kill::point("upstream.after_response");
                upstream.sent.fetch_add(1, Ordering::Relaxed);
                // A response without a readable id is still an acceptance; its receipt cannot be matched.
                let id = MessageIdResp::id(body);
                self.events.push(UpEvent::Sent {
                    key,
                    piece,
                    smsc_id: id.into(),
                });
            }
            // Refused for the moment: too fast, full, not bound any more (an unbind crossed it), or a temporary error.
            CommandStatus::ESME_RTHROTTLED
            | CommandStatus::ESME_RMSGQFUL
            | CommandStatus::ESME_RINVBNDSTS
            | CommandStatus::ESME_RX_T_APPN => self.refused(ticket.message, now),
            CommandStatus::ESME_RSYSERR if u32::from(ticket.message.attempts) + 1 < SYSERR_TRIES => {
                self.refused(ticket.message, now);
            }
            refused => {
                upstream.refused.fetch_add(1, Ordering::Relaxed);
                self.events.push(UpEvent::Failed {
                    key,
                    piece,
                    status: refused.0,
                });
            }
        }
    }

    fn refused(&mut self, message: Outgoing, now: u64) {
        let upstream = &self.link.options.upstream;
        if upstream.marks_before_sending() {
            self.events.push(UpEvent::Refused(message));
        } else {
            upstream.retry(message, now);
        }
    }

    /// An answer after the response timeout: an acceptance settles the message, wherever it is now; for a refusal it is too
    /// late.
    fn late_answer(&mut self, sequence: u32, status: CommandStatus, body: &[u8]) {
        let Ok(at) = self.late.binary_search_by_key(&sequence, |(s, ..)| *s) else {
            return;
        };
        if let Some((_, key, piece)) = self.late.remove(at).filter(|_| status == CommandStatus::ESME_ROK) {
            let upstream = &self.link.options.upstream;
            upstream.sent.fetch_add(1, Ordering::Relaxed);
            let id = MessageIdResp::id(body);
            self.events.push(UpEvent::LateSent {
                key,
                piece,
                smsc_id: id.into(),
            });
        }
    }

    /// Some SMSCs deliver with data_sm (SMPP 3.4 §4.7): the text is in message_payload, receipts are told by esm_class as ever.
    fn data_sm(&mut self, sequence: u32, body: &[u8], out: &mut Vec<u8>) {
        let read = DataSm::decode(body).map(|data| data.as_short_message());
        self.delivered(read, body.len(), CommandId::DATA_SM_RESP, sequence, out);
    }

    fn delivery(&mut self, sequence: u32, body: &[u8], out: &mut Vec<u8>) {
        let read = ShortMessage::decode(body);
        self.delivered(read, body.len(), CommandId::DELIVER_SM_RESP, sequence, out);
    }

    fn delivered(
        &mut self,
        read: Result<ShortMessage<'_>, smpp::PduError>,
        octets: usize,
        resp: CommandId,
        sequence: u32,
        out: &mut Vec<u8>,
    ) {
        match read {
            // Nothing can be put on record: the SMSC is told to try again, rather than kept waiting.
            Ok(_) if !self.link.gateway.store_takes_writes() => {
                smpp::put_message_id_resp(out, resp, CommandStatus::ESME_RX_T_APPN, sequence, b"");
            }
            Ok(sm) => {
                self.owed += 1;
                self.owed_octets += octets;
                let data = u32::from(resp == CommandId::DATA_SM_RESP) << 31;
                let generation = self.generation & GENERATION | data;
                let token = u64::from(generation) << 32 | u64::from(sequence);
                let upstream = &self.link.options.upstream;
                let receipt = |receipt| {
                    upstream.receipts.fetch_add(1, Ordering::Relaxed);
                    UpEvent::Receipt(token, receipt)
                };
                self.events.push(
                    match deliver::read(&sm, &self.link.options.maps, self.link.options.form.alphabet) {
                        Delivered::Receipt(known) => receipt(known),
                        Delivered::Strange(unknown, stat) => {
                            upstream.unknown_stats.count(&stat);
                            receipt(unknown)
                        }
                        Delivered::Inbound(message, fragment) => UpEvent::Inbound(token, message, fragment),
                    },
                );
            }
            Err(e) => smpp::put_message_id_resp(out, resp, e.status, sequence, b""),
        }
    }

    fn letters<S>(&mut self, conn: &mut Connection<S>, now: u64) {
        let mut letters = std::mem::take(&mut self.letters);
        self.link.mailbox.take(&mut letters);
        let mut write = Vec::new();
        for letter in letters.drain(..) {
            match letter {
                // The receipt is on record: now, and only now, the SMSC may forget it.
                ToUpstream::Committed(token) => self.answer(conn, token),
                ToUpstream::Write(message) => {
                    self.marked = self.marked.saturating_sub(1);
                    write.push(message);
                }
            }
        }
        // Marks had a turn, but the record took its time: what is written has one of its own.
        let paced = self.link.options.upstream.paced();
        self.write_all(write, !paced, conn, now);
        self.letters = letters;
    }

    fn answer<S>(&mut self, conn: &mut Connection<S>, token: u64) {
        // A delivery of an earlier connection: that session is gone and its SMSC will deliver again.
        let high = (token >> 32) as u32;
        if high & GENERATION == self.generation & GENERATION {
            self.owed = self.owed.saturating_sub(1);
            if self.owed == 0 {
                self.owed_octets = 0;
            }
            let sequence = token as u32;
            let resp = if high & !GENERATION == 0 {
                CommandId::DELIVER_SM_RESP
            } else {
                CommandId::DATA_SM_RESP
            };
            smpp::put_message_id_resp(&mut conn.out, resp, CommandStatus::ESME_ROK, sequence, b"");
        }
    }

    /// Takes from the lane what window and socket allow.
    fn take<S>(&mut self, conn: &mut Connection<S>, now: u64) {
        self.again_ms = None;
        let link = self.link;
        let upstream = &link.options.upstream;
        if !self.sending || self.ending.is_some() || link.stop.is_cancelled() {
            // Nothing more is written: parts that waited for their turn go back, so that the end need not wait for them.
            let parts = self.parts.drain(..).collect();
            return self.unsent(parts);
        }
        // What the socket does not take now it would take at once later on, whatever the contract says.
        let paced = upstream.paced();
        if conn.pending() > OUT_MAX || paced && self.blocked {
            return;
        }
        let free = self.session.free().min(self.room()).saturating_sub(self.marked);
        if free == 0 {
            return;
        }
        let free = self.write_parts(free, conn, now);
        if free == 0 {
            return;
        }
        let taken = upstream.take(link.index as u16, free, now);
        self.again_ms = taken.again_ms;
        self.events
            .extend(taken.expired.into_iter().map(|(k, p)| UpEvent::Expired(k, p)));
        if upstream.marks_before_sending() {
            self.marked += taken.out.len();
            self.events.extend(taken.out.into_iter().map(UpEvent::Sending));
        } else {
            self.write_all(taken.out, true, conn, now);
        }
        if taken.low {
            link.gateway.ingress.wake();
        }
    }

    /// Writes messages, in parts where the upstream wants them so. What the window has no room for waits: parts here, so that
    /// they stay together, whole messages in the lane again. `turns`: each has had its turn of the pacer; otherwise it waits
    /// for one here.
    fn write_all<S>(&mut self, messages: Vec<Outgoing>, turns: bool, conn: &mut Connection<S>, now: u64) {
        let mut back = Vec::new();
        // Each message has a place in the window and a turn of the pacer; its further parts need their own.
        let mut spare = self.room().saturating_sub(messages.len() + self.marked);
        for message in messages {
            let cut = self.cut(&message);
            match cut {
                None if turns => back.extend(self.write(message, conn, now)),
                None => {
                    let mut one = 1;
                    let waits = if self.parts.is_empty() && self.turn(&mut one, now) {
                        self.write(message, conn, now)
                    } else {
                        Some(message)
                    };
                    self.parts.extend(waits);
                }
                Some(pieces) => {
                    for (i, piece) in in_pieces(&message, pieces).enumerate() {
                        let mut one = 1;
                        let place = if i == 0 { &mut one } else { &mut spare };
                        let may = self.parts.is_empty() && (i == 0 && turns || self.turn(place, now));
                        let waits = if may {
                            self.write(piece, conn, now)
                        } else {
                            Some(piece)
                        };
                        self.parts.extend(waits);
                    }
                }
            }
        }
        self.unsent(back);
    }

    /// The parts of a message, if this upstream wants it in parts. One of which parts are out already has to be cut as it was,
    /// whatever this upstream prefers; where that is not to be had, the rest of it is given up.
    fn cut(&mut self, message: &Outgoing) -> Option<Vec<(Piece, Message)>> {
        let form = &self.link.options.form;
        let Some(out) = message.out.as_deref() else {
            return message
                .piece
                .whole()
                .then(|| convert::pieces(&message.message, message.key.0, form))
                .flatten();
        };
        let in_parts = match form.long_messages {
            LongMessages::AsIs | LongMessages::Payload => LongMessages::Udh,
            how => how,
        };
        let form = Form {
            long_messages: in_parts,
            ..form.clone()
        };
        let cut = convert::pieces(&message.message, message.key.0, &form).unwrap_or_default();
        if cut.first().is_some_and(|(piece, _)| piece.of == out.of) {
            return Some(cut);
        }
        for part in (1..=out.of).filter(|part| !out.contains(*part)) {
            let piece = Piece { of: out.of, part };
            self.events.push(UpEvent::Abandoned(message.key, piece));
        }
        Some(Vec::new())
    }

    fn room(&self) -> usize {
        self.pace.window().saturating_sub(self.session.outstanding())
    }

    /// One more PDU than was taken from the lane: whether window and pacer let it through now.
    fn turn(&mut self, spare: &mut usize, now: u64) -> bool {
        let Some(left) = spare.checked_sub(1) else {
            return false;
        };
        match self.link.options.upstream.turn(self.link.index as u16, now) {
            Ok(()) => {
                *spare = left;
                true
            }
            Err(at) => {
                self.again_ms = Some(at);
                false
            }
        }
    }

    /// Writes parts that wait, up to `free`; how much of it is left.
    fn write_parts<S>(&mut self, mut free: usize, conn: &mut Connection<S>, now: u64) -> usize {
        while free > 0
            && let Some(part) = self.parts.pop_front()
        {
            if part.expires_ms <= now {
                self.events.push(UpEvent::Expired(part.key, part.piece));
                continue;
            }
            if !self.turn(&mut free, now) {
                self.parts.push_front(part);
                return 0;
            }
            if let Some(back) = self.write(part, conn, now) {
                self.parts.push_front(back);
                return 0;
            }
        }
        free
    }

    /// Writes a submit; gives it back if the window has no room after all.
    fn write<S>(&mut self, message: Outgoing, conn: &mut Connection<S>, now: u64) -> Option<Outgoing> {
        let start = conn.written();
        match self
            .session
            .request(InFlight { message, start }, CommandId::SUBMIT_SM, now)
        {
            Ok(sequence) => {
                self.took_ms.get_or_insert(now);
                if let Some(ticket) = self.session.newest() {
                    {
                        let policy = self.link.gateway.policy.load();
                        let id = self.link.options.upstream.id;
                        let from = rewritten(&policy.rules, id, &ticket.message.message);
                        put_submit(
                            &mut conn.out,
                            sequence,
                            &ticket.message,
                            &self.link.options,
                            from,
                            now,
                        );
                    }
                }
                None
            }
            Err(back) => Some(back.message),
        }
    }

    /// Messages of which not one octet reached the socket, oldest first: first in line again.
    fn unsent(&mut self, messages: Vec<Outgoing>) {
        let upstream = &self.link.options.upstream;
        if upstream.marks_before_sending() {
            self.events.extend(messages.into_iter().map(UpEvent::Unwritten));
        } else if !messages.is_empty() {
            upstream.unsent(messages.into_iter());
        }
    }

    fn timers<S>(&mut self, conn: &mut Connection<S>, now: u64) {
        let mut late = Vec::new();
        self.session.timeout(now, &mut conn.out, |sequence, t: InFlight| {
            late.push((sequence, t))
        });
        let mut again = Vec::new();
        for (sequence, ticket) in late {
            if ticket.start >= conn.flushed {
                // The peer does not read. Its octets may still leave as long as the connection lives, so it must end before
                // the message goes anywhere else.
                self.unwritten.push(ticket);
            } else {
                self.pace.refused(now);
                self.remember(sequence, &ticket.message);
                again.extend(self.unanswered(ticket.message));
            }
        }
        self.again(again);
        if !self.unwritten.is_empty() {
            self.session.close(Cause::NotReading);
            return;
        }
        self.show_use();
        let upstream = &self.link.options.upstream;
        let unwanted = !upstream.enabled() || upstream.reconnects() != self.reconnects;
        if unwanted && self.ending.is_none() {
            self.ending = Some(now + END_MS);
            self.stop_sending();
        }
        let settled =
            self.session.outstanding() == 0 && self.owed == 0 && self.marked == 0 && self.parts.is_empty();
        // Everything that was written is answered and every delivery on record, or it has taken too long. At the end of the
        // process the deadline is the caller's.
        if self.ending.is_some_and(|at| settled || now >= at) || (self.link.stop.is_cancelled() && settled) {
            self.session.unbind(now, &mut conn.out);
        }
        // The SMSC wants to leave: it is answered once neither side owes the other anything, or a little later.
        if settled {
            self.session.owes_nothing(now, &mut conn.out);
        }
        if self.session.bound().is_none() {
            self.stop_sending();
        }
    }

    fn show_use(&self) {
        let upstream = &self.link.options.upstream;
        if let Some(info) = upstream.binds.get(self.link.index) {
            info.outstanding
                .store(self.session.outstanding() as u32, Ordering::Relaxed);
            info.window.store(self.pace.window() as u32, Ordering::Relaxed);
        }
    }

    fn remember(&mut self, sequence: u32, message: &Outgoing) {
        // Sequence numbers rise until they wrap, long after the session is over.
        if self.late.back().is_some_and(|(last, ..)| *last >= sequence) {
            self.late.clear();
        }
        if self.late.len() >= LATE_MAX {
            self.late.pop_front();
        }
        self.late.push_back((sequence, message.key, message.piece));
    }

    /// Written and never answered: what `unknown_outcome` says. Back if it is to be sent again.
    fn unanswered(&mut self, message: Outgoing) -> Option<Outgoing> {
        match self.link.options.upstream.unanswered(message) {
            Ok(again) => {
                self.events.push(UpEvent::Again(again.key));
                Some(again)
            }
            Err(event) => {
                self.events.push(event);
                None
            }
        }
    }

    /// Messages to be sent again, oldest first.
    fn again(&mut self, messages: Vec<Outgoing>) {
        if !messages.is_empty() {
            self.link.options.upstream.unsent(messages.into_iter());
        }
    }

    fn hand_over(&mut self) {
        self.link.report(std::mem::take(&mut self.events));
    }

    fn stop_sending(&mut self) {
        if std::mem::take(&mut self.sending) {
            self.link.options.upstream.sender_down(self.link.index as u16);
        }
    }

    pub(super) fn end<S>(&mut self, conn: &Connection<S>) {
        self.stop_sending();
        let mut left = std::mem::take(&mut self.unwritten);
        left.extend(self.session.abandon());
        let (mut unsent, mut again) = (Vec::new(), Vec::new());
        for ticket in left {
            if ticket.start >= conn.flushed {
                unsent.push(ticket.message);
            } else {
                again.extend(self.unanswered(ticket.message));
            }
        }
        unsent.extend(self.parts.drain(..));
        // Each goes to the head of the lane, so the older ones come last.
        self.unsent(unsent);
        self.again(again);
        self.hand_over();
        self.show_use();
    }
}

/// The parts of a message that are still to be sent.
fn in_pieces(message: &Outgoing, pieces: Vec<(Piece, Message)>) -> impl Iterator<Item = Outgoing> + '_ {
    let out = move |piece: Piece| message.out.as_deref().is_some_and(|set| set.contains(piece.part));
    pieces
        .into_iter()
        .filter(move |(piece, _)| !out(*piece))
        .map(|(piece, part)| Outgoing {
            key: message.key,
            piece,
            out: None,
            account: message.account,
            at_ms: message.at_ms,
            expires_ms: message.expires_ms,
            attempts: message.attempts,
            unanswered: message.unanswered,
            segments: if piece.whole() { message.segments } else { 1 },
            message: part,
        })
}

/// The source address that this upstream is given instead of a message's own: one that takes short codes only, for one.
fn rewritten<'a>(
    rules: &'a crate::flow::Rules,
    upstream: crate::ids::UpstreamId,
    message: &Message,
) -> Option<&'a str> {
    if rules.rewrites.is_empty() {
        return None;
    }
    rules.towards(upstream, message.parts().source)
}

/// Writes the submit_sm of a message. Receipts are always asked for: the final state and the charge depend on them.
fn put_submit(
    out: &mut Vec<u8>,
    sequence: u32,
    message: &Outgoing,
    options: &LinkOptions,
    from: Option<&str>,
    now: u64,
) {
    let parts = message.message.parts();
    let mut sm = sm_of(&parts);
    if let Some(from) = from {
        let (ton, npi) = crate::flow::types_of(from.as_bytes());
        (sm.source.addr, sm.source.ton.0, sm.source.npi.0) = (from.as_bytes(), ton, npi);
    }
    sm.registered_delivery.0 = (sm.registered_delivery.0 & !0x03) | 0x01;
    // What is left of its validity, so that the SMSC gives up when we would: a one-time password is of no use an hour later.
    let left_s = message.expires_ms.saturating_sub(now) / 1_000;
    let relative = smpp::relative_time(left_s);
    let mut absolute = Vec::new();
    sm.validity_period = match options.validity {
        Validity::Relative => &relative,
        Validity::Absolute => {
            smpp::format_absolute(message.expires_ms, &mut absolute);
            &absolute
        }
        Validity::Omit => &[],
    };
    let [source_ton, source_npi, dest_ton, dest_npi] = options.address_types;
    sm.source.ton.0 = source_ton.unwrap_or(sm.source.ton.0);
    sm.source.npi.0 = source_npi.unwrap_or(sm.source.npi.0);
    sm.dest.ton.0 = dest_ton.unwrap_or(sm.dest.ton.0);
    sm.dest.npi.0 = dest_npi.unwrap_or(sm.dest.npi.0);
    smpp::put_short_message(out, CommandId::SUBMIT_SM, sequence, &sm);
}
