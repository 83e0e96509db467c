//! One bind of the load.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

use super::{LoadError, LoadOptions, Shared};
use crate::clock;
use crate::session::{BindKind, Cause, Event, Role, Session, State, Timers, response_to};
use crate::smpp::{
    self, Address, Bind, CommandId, CommandStatus, MAX_PDU_DEFAULT, MessageIdResp, Npi, RegisteredDelivery,
    ShortMessage, Tag, Ton,
};
use crate::wire::{Connection, Read};

/// A message on its way.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    n: u64,
    sent_us: u64,
}

pub(super) struct Bound {
    conn: Connection,
    session: Session<Ticket>,
}

/// How long a bind may take.
const BIND: Duration = Duration::from_secs(30);
/// A submit without an answer for this long is counted unanswered.
const RESPONSE: Duration = Duration::from_secs(30);
/// Pause before a broken connection is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Connects and binds.
pub(super) async fn bind(address: SocketAddr, options: &LoadOptions) -> Result<Bound, LoadError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| LoadError::Connect(address, e))?;
    let _set = stream.set_nodelay(true);
    let timers = Timers {
        bind_ms: BIND.as_millis() as u64,
        enquire_link_ms: 30_000,
        idle_ms: 0,
        response_ms: RESPONSE.as_millis() as u64,
    };
    let now = clock::now_ms();
    let mut conn = match &options.tls {
        Some(tls) => Connection::with_tls(stream, tls.connect()?),
        None => Connection::new(stream),
    };
    let mut session = Session::new(Role::Client, timers, options.window, now);
    let request = Bind {
        system_id: options.system_id.as_bytes(),
        password: options.password.as_bytes(),
        system_type: b"",
        interface_version: 0x34,
        addr_ton: Ton(0),
        addr_npi: Npi(0),
        address_range: b"",
    };
    session.bind(BindKind::Transceiver, &request, now, &mut conn.out);
    let refused = |why: String| LoadError::Bind(address, why);
    let answered = tokio::time::timeout(BIND, async {
        loop {
            conn.flush().map_err(|e| LoadError::Connect(address, e))?;
            conn.stream
                .readable()
                .await
                .map_err(|e| LoadError::Connect(address, e))?;
            let now = clock::now_ms();
            let mut outcome = None;
            let read = conn.read(now, |out, octets| {
                let Ok(Some(pdu)) = smpp::cut(octets, MAX_PDU_DEFAULT) else {
                    return 0;
                };
                outcome = match session.receive(&pdu, now, out) {
                    Event::Bound => Some(Ok(())),
                    Event::Closed(Cause::BindRefused(status)) => Some(Err(refused(status.to_string()))),
                    _ => None,
                };
                pdu.bytes.len()
            });
            match (outcome, read) {
                (Some(result), _) => return result,
                (None, Ok(Read::Some | Read::Nothing)) => {}
                (None, _) => return Err(refused("a closed connection".into())),
            }
        }
    });
    match answered.await {
        Ok(result) => result.map(|()| Bound { conn, session }),
        Err(_) => Err(refused("silence".into())),
    }
}

/// Sends and receives until the load is over.
pub(super) async fn run(address: SocketAddr, mut bound: Bound, shared: Arc<Shared>) {
    let mut link = Link {
        shared: Arc::clone(&shared),
        again: VecDeque::new(),
        template: Template::new(&shared.options),
        events: Events::default(),
    };
    loop {
        if link.serve(&mut bound).await {
            return;
        }
        let lost = bound.session.abandon().count() as u64;
        {
            let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.broken += 1;
            tally.unanswered += lost;
        }
        if !shared.options.reconnect {
            return;
        }
        bound = loop {
            if shared.stop.is_cancelled() || (shared.exhausted(clock::mono_us()) && !shared.options.receipts)
            {
                return;
            }
            tokio::time::sleep(PAUSE).await;
            if let Ok(again) = bind(address, &shared.options).await {
                break again;
            }
            if shared.idle_us() > shared.options.receipt_wait.as_micros() as u64
                && shared.exhausted(clock::mono_us())
            {
                return;
            }
        };
    }
}

impl Shared {
    /// Since the last response or receipt, µs.
    fn idle_us(&self) -> u64 {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let last = tally
            .last_receipt_us
            .max(tally.last_response_us)
            .max(self.start_us);
        clock::mono_us().saturating_sub(last)
    }
}

/// What one read brought, to be counted under one lock.
#[derive(Default)]
struct Events {
    responses: Vec<(u32, Ticket, [u8; 24], u8)>,
    receipts: Vec<(Vec<u8>, &'static str)>,
    acks: Vec<(CommandId, u32)>,
    inbound: u64,
}

struct Link {
    shared: Arc<Shared>,
    /// Refused for the moment, to be sent again: (not before, ticket).
    again: VecDeque<(u64, Ticket)>,
    template: Template,
    events: Events,
}

/// After a temporary refusal.
const AGAIN_MS: u64 = 100;

impl Link {
    /// Serves one connection; `true` when the load is over.
    async fn serve(&mut self, bound: &mut Bound) -> bool {
        let mut finishing = false;
        loop {
            let now = clock::now_ms();
            let now_us = clock::mono_us();
            let more = !self.shared.exhausted(now_us) || !self.again.is_empty();
            if more {
                self.send(bound, now, now_us);
            }
            let mut lost = 0;
            bound.session.timeout(now, &mut bound.conn.out, |_, _| lost += 1);
            bound.session.owes_nothing(now, &mut bound.conn.out);
            if lost > 0 {
                self.shared
                    .tally
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .unanswered += lost;
            }
            if bound.conn.flush().is_err() {
                return false;
            }
            if matches!(bound.session.state(), State::Closed(_)) {
                return finishing;
            }
            if !more && !finishing && bound.session.outstanding() == 0 && self.done() {
                finishing = true;
                bound.session.unbind(now, &mut bound.conn.out);
                continue;
            }
            let wait = self.wait_ms(bound, more);
            let pending = bound.conn.pending();
            let readable = tokio::select! {
                ready = bound.conn.stream.readable() => ready.is_ok(),
                ready = bound.conn.stream.writable(), if pending > 0 => { if ready.is_err() { return finishing } false }
                () = tokio::time::sleep(Duration::from_millis(wait)) => false,
            };
            if !readable {
                continue;
            }
            let now = clock::now_ms();
            let (session, conn) = (&mut bound.session, &mut bound.conn);
            let read = conn.read(now, |out, octets| self.consume(session, out, octets, now));
            self.count(&mut bound.conn.out);
            match read {
                Ok(Read::Some | Read::Nothing) => {}
                Ok(Read::Closed) | Err(_) => return finishing,
            }
        }
    }

    fn wait_ms(&self, bound: &Bound, more: bool) -> u64 {
        if more && self.shared.options.rate.is_some() || !self.again.is_empty() {
            1
        } else if more && bound.session.free() > 0 {
            10
        } else {
            50
        }
    }

    /// Nothing is awaited any more, or nothing has come for too long.
    fn done(&self) -> bool {
        if !self.shared.options.receipts || self.shared.stop.is_cancelled() {
            return true;
        }
        let (missing, last) = {
            let tally = self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
            let complete = tally.answered + tally.unanswered >= self.shared.taken.load(Ordering::Acquire);
            (
                tally.missing > 0 || !complete,
                tally.last_receipt_us.max(tally.last_response_us),
            )
        };
        !missing
            || clock::mono_us().saturating_sub(last) > self.shared.options.receipt_wait.as_micros() as u64
    }

    fn send(&mut self, bound: &mut Bound, now: u64, now_us: u64) {
        let mut free = bound.session.free();
        while free > 0
            && let Some((_, ticket)) = self.again.pop_front_if(|(at, _)| *at <= now)
        {
            self.write(bound, ticket, now);
            free -= 1;
        }
        if free == 0 {
            return;
        }
        let (first, n) = self.shared.take(free, now_us);
        for i in first..first + n {
            let ticket = Ticket {
                n: i,
                sent_us: self.shared.intended_us(i, now_us),
            };
            self.write(bound, ticket, now);
        }
        self.shared.progress.sent.fetch_add(n, Ordering::Relaxed);
    }

    fn write(&mut self, bound: &mut Bound, ticket: Ticket, now: u64) {
        if let Ok(sequence) = bound.session.request(ticket, CommandId::SUBMIT_SM, now) {
            self.template.put(&mut bound.conn.out, sequence, ticket.n);
        }
    }

    fn consume(
        &mut self,
        session: &mut Session<Ticket>,
        out: &mut Vec<u8>,
        octets: &[u8],
        now: u64,
    ) -> usize {
        let mut taken = 0;
        while let Ok(Some(pdu)) = smpp::cut(octets.get(taken..).unwrap_or(&[]), MAX_PDU_DEFAULT) {
            taken += pdu.bytes.len();
            match session.receive(&pdu, now, out) {
                Event::Response {
                    ticket, status, body, ..
                } => {
                    let again = matches!(
                        status,
                        CommandStatus::ESME_RTHROTTLED | CommandStatus::ESME_RMSGQFUL
                    );
                    if again && self.shared.options.retry_refused {
                        self.again.push_back((now + AGAIN_MS, ticket));
                        continue;
                    }
                    let id = MessageIdResp::decode(body).map_or(&[][..], |r| r.message_id);
                    let mut short = [0u8; 24];
                    let n = id.len().min(short.len());
                    if let (Some(to), Some(from)) = (short.get_mut(..n), id.get(..n)) {
                        to.copy_from_slice(from);
                    }
                    self.events.responses.push((status.0, ticket, short, n as u8));
                }
                Event::Request(id, sequence, body) => self.delivery(id, sequence, body),
                _ => {}
            }
        }
        taken
    }

    fn delivery(&mut self, id: CommandId, sequence: u32, body: &[u8]) {
        self.events.acks.push((id, sequence));
        let Ok(sm) = ShortMessage::decode(body) else {
            return;
        };
        if let (Some(id), Some(state)) = (
            sm.tlvs.get_cstr(Tag::RECEIPTED_MESSAGE_ID),
            sm.tlvs.get_u8(Tag::MESSAGE_STATE),
        ) {
            self.events
                .receipts
                .push((id.to_vec(), smpp::MessageState(state).stat()));
        } else if let Some(receipt) = smpp::parse_receipt(&sm) {
            let id = receipt.id.map(|i| i.into_owned()).unwrap_or_default();
            self.events
                .receipts
                .push((id, receipt.state.map_or("UNKNOWN", |s| s.stat())));
        } else {
            self.events.inbound += 1;
        }
    }

    /// Counts what a read brought, and only then answers its deliveries.
    fn count(&mut self, out: &mut Vec<u8>) {
        let e = &mut self.events;
        if e.responses.is_empty() && e.acks.is_empty() {
            return;
        }
        let now_us = clock::mono_us();
        let p = &self.shared.progress;
        let mut tally = self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
        p.answered.fetch_add(e.responses.len() as u64, Ordering::Relaxed);
        p.receipts.fetch_add(e.receipts.len() as u64, Ordering::Relaxed);
        let before = tally.accepted;
        for (status, ticket, id, n) in e.responses.drain(..) {
            let dest = self.template.destination(ticket.n);
            tally.response(
                status,
                id.get(..usize::from(n)).unwrap_or(&[]),
                dest,
                ticket.sent_us,
                now_us,
            );
        }
        p.accepted.fetch_add(tally.accepted - before, Ordering::Relaxed);
        for (id, state) in e.receipts.drain(..) {
            tally.receipt(&id, state, now_us);
        }
        tally.inbound += std::mem::take(&mut e.inbound);
        tally.flush();
        drop(tally);
        for (id, sequence) in e.acks.drain(..) {
            smpp::put_message_id_resp(out, response_to(id), CommandStatus::ESME_ROK, sequence, b"");
        }
    }
}

/// A submit_sm with a hole for the sequence number and one for the counting digits of the destination.
struct Template {
    pdu: Vec<u8>,
    digits: std::ops::Range<usize>,
    base: u64,
    modulus: u64,
    /// The text has a `{n}`: then each PDU is built anew.
    text: Option<(String, LoadOptions)>,
}

const DEST_LEN: usize = 12;

impl Template {
    fn new(options: &LoadOptions) -> Template {
        let pad = DEST_LEN.saturating_sub(options.destination_prefix.len());
        let dest = format!("{}{:0pad$}", options.destination_prefix, 0);
        let pdu = build(options, dest.as_bytes(), options.text.as_bytes());
        // header, service_type NUL, source ton npi address NUL, dest ton npi
        let start = 16 + 1 + 2 + options.source.len() + 1 + 2 + options.destination_prefix.len();
        let digits = if pad == 0 {
            start..start
        } else {
            start..start + pad
        };
        let base = dest.parse().unwrap_or(0);
        let text = options
            .text
            .contains("{n}")
            .then(|| (options.text.clone(), options.clone()));
        Template {
            pdu,
            digits,
            base,
            modulus: 10u64.pow(pad.min(18) as u32),
            text,
        }
    }

    fn destination(&self, n: u64) -> u64 {
        self.base + n % self.modulus
    }

    fn put(&self, out: &mut Vec<u8>, sequence: u32, n: u64) {
        let start = out.len();
        match &self.text {
            None => out.extend_from_slice(&self.pdu),
            Some((text, options)) => {
                let text = text.replace("{n}", itoa::Buffer::new().format(n));
                out.extend_from_slice(&build(
                    options,
                    self.destination(n).to_string().as_bytes(),
                    text.as_bytes(),
                ));
            }
        }
        let Some(pdu) = out.get_mut(start..) else {
            return;
        };
        if let Some(slot) = pdu.get_mut(12..16) {
            slot.copy_from_slice(&sequence.to_be_bytes());
        }
        let mut rest = n % self.modulus;
        for slot in pdu
            .get_mut(self.digits.clone())
            .unwrap_or(&mut [])
            .iter_mut()
            .rev()
        {
            *slot = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
}

fn build(options: &LoadOptions, dest: &[u8], text: &[u8]) -> Vec<u8> {
    let alphabetic = options.source.bytes().any(|c| c.is_ascii_alphabetic());
    let sm = ShortMessage {
        source: Address {
            ton: Ton(if alphabetic { 5 } else { 1 }),
            npi: Npi(u8::from(!alphabetic)),
            addr: options.source.as_bytes(),
        },
        dest: Address {
            ton: Ton(1),
            npi: Npi(1),
            addr: dest,
        },
        registered_delivery: RegisteredDelivery(u8::from(options.receipts)),
        short_message: text,
        ..ShortMessage::default()
    };
    let mut pdu = Vec::new();
    smpp::put_short_message(&mut pdu, CommandId::SUBMIT_SM, 0, &sm);
    pdu
}
