//! A customer's connection, from accept to close.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::accept::Place;
use super::auth::{self, Refusal};
use super::brake::Brake;
use super::pdus::Pdus;
use super::requests::Multis;
use super::{Shared, Wake, deliver, tls};
use crate::clock;
use crate::domain::account::{Alphabet, DeliverAs};
use crate::flow::{
    AccountState, Admitted, Input, Mailbox, OutItem, Policy, SessionInfo, SessionKind, ToCustomer,
};
use crate::ids::{AccountId, Pos, SessionId};
use crate::kill;
use crate::session::{BindKind, Cause, Event, Role, Session, State, Timers};
use crate::smpp::{self, BindResp, CommandId, CommandStatus, MAX_PDU_DEFAULT, Tag, Tlvs};
use crate::wire::{Connection, Read};

/// A peer that does not read: above this many octets waiting for it, nothing more is read from it.
pub(super) const OUT_HIGH: usize = 512 * 1024;
/// Deliveries stop well before that.
const OUT_DELIVER: usize = 128 * 1024;

/// Deliveries given up that are remembered, so that a late answer is understood.
const GIVEN_UP_MAX: usize = 1_000;

/// Who is bound, once bound.
pub(super) struct Bound {
    pub account: Arc<AccountState>,
    pub kind: BindKind,
    info: Arc<SessionInfo>,
    pub window: usize,
    /// 3.4 or later: may be sent TLVs.
    pub tlvs: bool,
}

/// A bind waiting for its password check.
pub(super) struct BindRequest {
    kind: BindKind,
    pub(super) system_id: Vec<u8>,
    password: Vec<u8>,
    version: u8,
}

struct Customer {
    conn: Connection,
    wake: Wake,
    logic: Logic,
}

/// Everything but the socket.
pub(super) struct Logic {
    pub shared: Arc<Shared>,
    peer: SocketAddr,
    place: Option<Place>,
    /// Only this account may bind.
    only: Option<AccountId>,
    id: SessionId,
    pub session: Session<OutItem>,
    wake: Wake,
    pub mailbox: Arc<Mailbox<ToCustomer>>,
    pub bound: Option<Bound>,
    pub(super) bind: Option<BindRequest>,
    pub batch: Vec<Admitted>,
    /// The rules under which they were admitted.
    pub rules: Option<Arc<Policy>>,
    /// Submits handed over and not answered yet.
    pub unanswered: usize,
    delivered: Vec<OutItem>,
    /// Deliveries stop until then: the customer has left the last ones unanswered.
    quiet_until_ms: u64,
    /// How often in a row.
    silences: u32,
    /// Deliveries given up for lack of an answer, by sequence number.
    given_up: VecDeque<(u32, Pos)>,
    pub letters: Vec<ToCustomer>,
    /// Answers to submit_multis that are under way.
    pub multis: Multis,
    pdus: Pdus,
    pub brake: Brake,
    /// When batches of submits were handed over, monotonic microseconds, and how many of each are unanswered.
    handed: VecDeque<(u64, usize)>,
    items: Vec<OutItem>,
    pub stopping: bool,
}

/// A customer that we have called by outbind: nobody else may bind over that connection.
pub(super) struct Called {
    pub account: AccountId,
    /// The outbind PDU.
    pub hello: Vec<u8>,
}

/// Serves a connection until it is closed.
pub(super) async fn serve(
    mut conn: Connection,
    peer: SocketAddr,
    shared: Arc<Shared>,
    place: Option<Place>,
    called: Option<Called>,
) {
    let only = called.as_ref().map(|c| c.account);
    conn.out = called.map(|c| c.hello).unwrap_or_default();
    let wake = Wake::default();
    let logic = Logic::new(shared, peer, place, only, wake.clone(), clock::now_ms());
    let mut customer = Customer { conn, wake, logic };
    let cause = customer.run().await;
    customer.logic.end(cause);
}

impl Customer {
    async fn run(&mut self) -> Cause {
        loop {
            if let Err(cause) = self.wait().await {
                return cause;
            }
            let now = clock::now_ms();
            let (conn, logic) = (&mut self.conn, &mut self.logic);
            if !logic.may_read(conn.pending(), now) {
                conn.hold(now);
            }
            let acknowledged = logic.letters(&mut conn.out);
            if let Some(request) = logic.bind.take() {
                let certificate = conn.peer_certificate().map(tls::fingerprint);
                let checked = logic.check_bind(&request, certificate).await;
                logic.checked(checked, &request, &mut conn.out, clock::now_ms());
                conn.feed(&[], now, |out, octets| logic.consume(out, octets, now));
                logic.hand_over();
            }
            let delivering = logic.turn(conn, now);
            logic.pdus.written(&conn.out, conn.written());
            logic.pdus.flush();
            if conn.flush().is_err() {
                return logic.session.close(Cause::PeerClosed);
            }
            if acknowledged {
                kill::point("admit.after_ack");
            }
            if delivering {
                kill::point("deliver.after_write");
            }
            if let State::Closed(cause) = logic.session.state() {
                return cause;
            }
        }
    }

    /// Waits for something to do, and reads if there is something to read.
    async fn wait(&mut self) -> Result<(), Cause> {
        let now = clock::now_ms();
        let logic = &mut self.logic;
        let deadline = logic
            .deadline(self.conn.partial_since(), now)
            .map_or(3_600_000, |at| at.saturating_sub(now));
        let may_read = logic.may_read(self.conn.pending(), now);
        let may_write = self.conn.pending() > 0;
        let (stream, wake, stop) = (&self.conn.stream, &self.wake.0, &logic.shared.stop);
        let readable = tokio::select! {
            ready = stream.readable(), if may_read => ready.map(|()| true),
            ready = stream.writable(), if may_write => ready.map(|()| false),
            () = wake.notified() => Ok(false),
            () = tokio::time::sleep(Duration::from_millis(deadline)) => Ok(false),
            () = stop.cancelled(), if !logic.stopping => Ok(false),
        };
        match readable {
            Ok(true) => {
                let now = clock::now_ms();
                let result = self.conn.read(now, |out, octets| logic.consume(out, octets, now));
                logic.hand_over();
                match result {
                    Ok(Read::Some | Read::Nothing) => Ok(()),
                    Ok(Read::Closed) | Err(_) => {
                        // What TLS says of a failed handshake, as far as the socket takes it.
                        let _said = self.conn.flush();
                        Err(logic.session.close(Cause::PeerClosed))
                    }
                }
            }
            Ok(false) => Ok(()),
            Err(_) => Err(logic.session.close(Cause::PeerClosed)),
        }
    }
}

impl Logic {
    /// A connection that has just been accepted.
    pub(super) fn new(
        shared: Arc<Shared>,
        peer: SocketAddr,
        place: Option<Place>,
        only: Option<AccountId>,
        wake: Wake,
        now: u64,
    ) -> Logic {
        let c = &shared.customer;
        let timers = Timers {
            bind_ms: c.bind_timeout_ms,
            enquire_link_ms: c.enquire_link_ms,
            idle_ms: c.idle_timeout_ms,
            response_ms: c.response_timeout_ms,
        };
        Logic {
            id: shared.gateway.session_id(),
            session: Session::new(Role::Server, timers, c.deliver_window as usize, now),
            mailbox: Arc::new(Mailbox::new(Box::new(wake.clone()))),
            wake,
            bound: None,
            bind: None,
            batch: Vec::new(),
            rules: None,
            unanswered: 0,
            delivered: Vec::new(),
            quiet_until_ms: 0,
            silences: 0,
            given_up: VecDeque::new(),
            letters: Vec::new(),
            multis: Multis::default(),
            pdus: Pdus::new("customer"),
            brake: Brake::default(),
            handed: VecDeque::new(),
            items: Vec::new(),
            stopping: false,
            peer,
            place,
            only,
            shared,
        }
    }

    /// Whether the peer is read at all: not while it leaves too much unread itself, nor while most of what it sends is refused.
    pub(super) fn may_read(&self, pending: usize, now: u64) -> bool {
        let window = self.bound.as_ref().map_or(0, |b| b.window);
        pending < OUT_HIGH && !self.brake.holds(now, self.unanswered, window)
    }

    pub(super) fn deadline(&self, partial_since: Option<u64>, now: u64) -> Option<u64> {
        let slow = partial_since.map(|t| t + self.shared.customer.pdu_timeout_ms);
        let quiet = (self.quiet_until_ms > 0).then_some(self.quiet_until_ms);
        [self.session.next_timeout(), slow, quiet, self.brake.until(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes every whole PDU; how many octets. Stops at a bind, whose password has to be checked first.
    pub(super) fn consume(&mut self, out: &mut Vec<u8>, octets: &[u8], now: u64) -> usize {
        let mut taken = 0;
        while self.bind.is_none() && !matches!(self.session.state(), State::Closed(_)) {
            let rest = octets.get(taken..).unwrap_or(&[]);
            let pdu = match smpp::cut(rest, MAX_PDU_DEFAULT) {
                Ok(Some(pdu)) => pdu,
                Ok(None) => break,
                Err(e) => {
                    // The stream cannot be followed any more (SMPP 3.4 §4.1.1): say so and close.
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
                Event::Bind(kind, bind) => {
                    self.bind = Some(BindRequest {
                        kind,
                        system_id: bind.system_id.to_vec(),
                        password: bind.password.to_vec(),
                        version: bind.interface_version,
                    });
                }
                Event::Request(_, _, body) => self.request(&pdu.header, body, out, now),
                Event::Response { ticket, status, .. } => self.delivered(ticket, status, now),
                Event::Stray {
                    id: CommandId::DELIVER_SM_RESP | CommandId::DATA_SM_RESP,
                    sequence,
                    status: CommandStatus::ESME_ROK,
                    ..
                } => self.late_answer(sequence),
                Event::Nothing | Event::Bound | Event::Stray { .. } | Event::Closed(_) => {}
            }
        }
        taken
    }

    /// Hands what was admitted to the engine, and what the customer has taken to its outbox.
    pub(super) fn hand_over(&mut self) {
        let Some(bound) = &self.bound else { return };
        if !self.batch.is_empty() {
            let items = std::mem::take(&mut self.batch);
            let policy = self.rules.take();
            let answers = items.iter().filter(|i| i.ticket.is_some()).count();
            self.handed.push_back((clock::mono_us(), answers));
            let segments = items.iter().map(|i| u64::from(i.segments)).sum();
            self.shared.gateway.metrics.admitted(items.len() as u64, segments);
            bound
                .info
                .submits
                .fetch_add(items.len() as u64, Ordering::Relaxed);
            self.shared.gateway.ingress.put(Input::Submits {
                account: Arc::clone(&bound.account),
                policy: policy.unwrap_or_else(|| self.shared.gateway.policy.load_full()),
                items,
                reply: Arc::clone(&self.mailbox),
            });
        }
        if !self.delivered.is_empty() {
            let n = self.delivered.len() as u64;
            bound.account.outbox.delivered(&self.delivered);
            self.delivered.clear();
            bound.info.delivered.fetch_add(n, Ordering::Relaxed);
            self.shared
                .gateway
                .totals
                .delivered
                .fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Submits are answered in the order they were handed over.
    pub(super) fn measure(&mut self, mut answered: usize) {
        let now = clock::mono_us();
        while let Some((since, left)) = self.handed.front_mut().filter(|_| answered > 0) {
            let n = answered.min(*left);
            let seconds = now.saturating_sub(*since) as f64 / 1e6;
            self.shared.gateway.metrics.submit_seconds.record_many(seconds, n);
            answered -= n;
            *left -= n;
            if *left == 0 {
                self.handed.pop_front();
            }
        }
    }

    /// Deliveries, timers and the end: what follows whenever something was read, a letter came or the time has.
    pub(super) fn turn<S>(&mut self, conn: &mut Connection<S>, now: u64) -> bool {
        let delivering = self.deliver(conn.pending(), &mut conn.out, now);
        self.timers(conn.partial_since(), &mut conn.out, now);
        if self.shared.stop.is_cancelled() && !self.stopping {
            self.stopping = true;
        }
        if self.unanswered == 0 {
            self.session.owes_nothing(now, &mut conn.out);
            if self.stopping {
                self.session.unbind(now, &mut conn.out);
            }
        }
        delivering
    }

    async fn check_bind(
        &self,
        request: &BindRequest,
        certificate: Option<String>,
    ) -> Result<Arc<AccountState>, Refusal> {
        let shared = &self.shared;
        let claim = auth::Claim {
            system_id: &request.system_id,
            password: &request.password,
            kind: request.kind,
            peer: self.peer.ip(),
            certificate: certificate.as_deref(),
            only: self.only,
        };
        shared.auth.bind(&shared.gateway, &claim).await
    }

    /// Answers a bind whose password has been checked.
    pub(super) fn checked(
        &mut self,
        checked: Result<Arc<AccountState>, Refusal>,
        request: &BindRequest,
        out: &mut Vec<u8>,
        now: u64,
    ) {
        let (kind, version) = (request.kind, request.version);
        match checked {
            Ok(account) => {
                let name = self.shared.customer.system_id.clone();
                let mut raw = Vec::new();
                // sc_interface_version only to peers that know TLVs (SMPP 3.4 §4.1.2 and §3.4.2): the highest version that both
                // speak. A client that leaves interface_version 0 is one of before 3.4 (§5.2.4).
                let tlvs = version >= 0x34;
                if tlvs {
                    let spoken = if version >= 0x50 { 0x50 } else { 0x34 };
                    smpp::put_tlv(&mut raw, Tag::SC_INTERFACE_VERSION, &[spoken]);
                }
                let resp = BindResp {
                    system_id: name.as_bytes(),
                    tlvs: Tlvs::parse(&raw).unwrap_or(Tlvs::EMPTY),
                };
                self.session.accept(&resp, now, out);
                self.bound(account, kind, tlvs, now);
            }
            Err(refusal) => self.refuse(refusal, &request.system_id, out),
        }
    }

    fn bound(&mut self, account: Arc<AccountState>, kind: BindKind, tlvs: bool, now: u64) {
        let info = Arc::new(SessionInfo {
            id: self.id,
            account: account.id,
            kind: match kind {
                BindKind::Transmitter => SessionKind::Transmitter,
                BindKind::Receiver => SessionKind::Receiver,
                BindKind::Transceiver => SessionKind::Transceiver,
            },
            peer: self.peer,
            since_ms: now,
            submits: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            kicked: AtomicBool::new(false),
            signal: Arc::new(self.wake.clone()),
            mailbox: Arc::clone(&self.mailbox),
        });
        let limit = self.shared.customer.window_max;
        let window = match account.spec().window {
            0 => limit,
            own => own.min(limit),
        };
        if let Some(place) = &mut self.place {
            place.bound();
        }
        tracing::info!(session = self.id.0, account = account.id.0, kind = kind.name(), peer = %self.peer, "customer bound");
        self.shared.gateway.enter(Arc::clone(&info));
        self.shared.gateway.metrics.sessions.increment(1.0);
        if kind.receives() {
            account.outbox.join(self.id, Arc::new(self.wake.clone()));
        }
        self.bound = Some(Bound {
            account,
            kind,
            info,
            window: window as usize,
            tlvs,
        });
    }

    fn refuse(&mut self, refusal: Refusal, system_id: &[u8], out: &mut Vec<u8>) {
        self.shared.gateway.metrics.bind_failures.increment(1);
        let system_id = String::from_utf8_lossy(system_id);
        tracing::warn!(peer = %self.peer, system_id = %system_id.escape_debug(), reason = refusal.name(), "bind refused");
        let status = match refusal {
            // Worth another try soon, unlike the others.
            Refusal::Busy => CommandStatus::ESME_RSYSERR,
            _ => CommandStatus::ESME_RBINDFAIL,
        };
        self.session.refuse(status, out);
    }

    /// Sends receipts and inbound messages while the window and the peer allow; whether there were any.
    fn deliver(&mut self, pending: usize, out: &mut Vec<u8>, now: u64) -> bool {
        let Some(bound) = self.bound.as_ref().filter(|b| b.kind.receives()) else {
            return false;
        };
        if now >= self.quiet_until_ms {
            self.quiet_until_ms = 0;
        }
        let free = self.session.free();
        if free == 0 || pending > OUT_DELIVER || self.stopping || self.quiet_until_ms > 0 {
            bound.account.outbox.pass();
            return false;
        }
        bound.account.outbox.take(self.id, free, &mut self.items);
        let any = !self.items.is_empty();
        let mut back = Vec::new();
        let spec = bound.account.spec();
        let data = spec.deliver_as == DeliverAs::DataSm;
        let how = deliver::How {
            tlvs: bound.tlvs,
            data_sm: data && bound.tlvs,
            latin1: spec.alphabet == Alphabet::Latin1,
        };
        for item in self.items.drain(..) {
            let early = deliver::early_parts(&item, how);
            if self.session.free() <= early.len() && self.session.outstanding() > 0 {
                back.push(item);
                continue;
            }
            for early in early {
                let sequence = self.session.unanswered_sequence();
                deliver::write(out, sequence, &early, how);
            }
            // The PDU needs its sequence number before the window takes the item over.
            match self.session.request(item, how.command(), now) {
                Ok(sequence) => {
                    if let Some(item) = self.session.newest() {
                        deliver::write_last(out, sequence, item, how);
                    }
                }
                Err(item) => back.push(item),
            }
        }
        if !back.is_empty() {
            bound.account.outbox.give_back(back.into_iter());
        }
        any
    }

    /// The customer has answered a delivery.
    fn delivered(&mut self, item: OutItem, status: CommandStatus, now: u64) {
        self.silences = 0;
        self.quiet_until_ms = 0;
        if status == CommandStatus::ESME_ROK {
            self.delivered.push(item);
        } else {
            self.refused(item, now);
        }
    }

    /// The customer has left deliveries unanswered. That is no refusal: they are offered again for as long as they are kept,
    /// here after a pause that doubles, at once to any other session of the account.
    fn unanswered(&mut self, items: Vec<OutItem>, now: u64) {
        let Some(bound) = &self.bound else { return };
        let policy = self.shared.gateway.policy.load();
        let pause = policy
            .deliver_retry_min_ms
            .saturating_mul(1 << self.silences.min(20))
            .min(policy.deliver_retry_max_ms);
        self.silences = self.silences.saturating_add(1);
        self.quiet_until_ms = now + pause;
        bound.account.outbox.rest(self.id);
        bound.account.outbox.give_back(items.into_iter());
    }

    /// The customer answers after all: it has the delivery, and needs it no second time.
    fn late_answer(&mut self, sequence: u32) {
        let Some(bound) = &self.bound else { return };
        if let Some(at) = self.given_up.iter().position(|(s, _)| *s == sequence)
            && let Some((_, pos)) = self.given_up.remove(at)
        {
            self.silences = 0;
            self.quiet_until_ms = 0;
            bound.account.outbox.delivered_late(pos);
        }
    }

    fn refused(&self, item: OutItem, now: u64) {
        let Some(bound) = &self.bound else { return };
        let policy = self.shared.gateway.policy.load();
        let pause = policy
            .deliver_retry_min_ms
            .saturating_mul(1 << item.attempts.min(20))
            .min(policy.deliver_retry_max_ms);
        let park = item.attempts + 1 >= policy.deliver_attempts_max;
        bound.account.outbox.refused(item, now, pause, park);
    }

    fn timers(&mut self, partial_since: Option<u64>, out: &mut Vec<u8>, now: u64) {
        let mut late = Vec::new();
        let given_up = &mut self.given_up;
        self.session.timeout(now, out, |sequence, item| {
            given_up.push_back((sequence, item.pos));
            late.push(item);
        });
        while given_up.len() > GIVEN_UP_MAX {
            given_up.pop_front();
        }
        if !late.is_empty() {
            self.unanswered(late, now);
        }
        if partial_since.is_some_and(|t| now >= t + self.shared.customer.pdu_timeout_ms) {
            self.session.close(Cause::SlowPdu);
        }
        let Some(bound) = &self.bound else { return };
        if bound.info.kicked.load(Ordering::Acquire) || !bound.account.active() {
            self.session.unbind(now, out);
        }
    }

    /// The connection is over: what it owed is offered to others.
    pub(super) fn end(&mut self, cause: Cause) {
        self.hand_over();
        let Some(bound) = self.bound.take() else {
            if !matches!(cause, Cause::PeerClosed | Cause::BindRefused(_)) {
                tracing::debug!(peer = %self.peer, cause = cause.name(), "connection closed before a bind");
            }
            return;
        };
        bound.account.outbox.leave(self.id);
        let items: Vec<OutItem> = self.session.abandon().collect();
        bound.account.outbox.give_back(items.into_iter());
        bound.account.drop_bind();
        self.shared.gateway.leave(self.id);
        self.shared.gateway.metrics.sessions.decrement(1.0);
        tracing::info!(
            session = self.id.0,
            account = bound.account.id.0,
            cause = cause.name(),
            "customer session ended"
        );
    }
}
