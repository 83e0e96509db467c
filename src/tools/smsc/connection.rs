//! One connection of the simulator: everything that is there is read, and answered in one write.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;

use super::fault::Random;
use super::{IdFormat, ReceiptForm, Received, Shared, lock};
use crate::clock;
use crate::session::{BindKind, Event, Role, Session, State, Timers, response_to};
use crate::smpp::{
    self, Address, BindResp, CommandId, CommandStatus, EsmClass, MAX_PDU_DEFAULT, MessageState, Npi,
    ReceiptText, ShortMessage, Tag, Tlvs, Ton,
};
use crate::wire::{Connection, Read};

/// A whole deliver_sm; its sequence number is set when it is sent.
pub(super) struct Delivery {
    pdu: Vec<u8>,
    receipt: bool,
}

impl Delivery {
    pub fn of(sm: &ShortMessage<'_>, receipt: bool) -> Delivery {
        let mut pdu = Vec::new();
        smpp::put_short_message(&mut pdu, CommandId::DELIVER_SM, 0, sm);
        Delivery { pdu, receipt }
    }

    pub fn inbound(source: &str, dest: &str, text: &[u8]) -> Delivery {
        let (ton, npi) = (Ton(1), Npi(1));
        let sm = ShortMessage {
            source: Address {
                ton,
                npi,
                addr: source.as_bytes(),
            },
            dest: Address {
                ton,
                npi,
                addr: dest.as_bytes(),
            },
            short_message: text,
            ..ShortMessage::default()
        };
        Delivery::of(&sm, false)
    }
}

/// What becomes of a submit.
enum Fate {
    Accept,
    Refuse(CommandStatus),
    Silence,
}

struct Link {
    shared: Arc<Shared>,
    session: Session<Delivery>,
    random: Random,
    /// Responses that wait for their time: (due, PDU).
    late: VecDeque<(u64, Vec<u8>)>,
    /// Deliveries that wait for their time or for the window: (due, delivery).
    due: VecDeque<(u64, Delivery)>,
    submits: u64,
    logged: Vec<u8>,
    bound: bool,
    close: bool,
    drops: u64,
    out_text: Vec<u8>,
    tlvs: Vec<u8>,
}

pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _set = stream.set_nodelay(true);
    let timers = Timers {
        bind_ms: 0,
        enquire_link_ms: shared.options.enquire_link_ms,
        idle_ms: 0,
        response_ms: 60_000,
    };
    let seed = shared.seeds.fetch_add(1, Ordering::Relaxed);
    let mut link = Link {
        session: Session::new(Role::Server, timers, shared.options.window, clock::now_ms()),
        random: Random::new(seed),
        late: VecDeque::new(),
        due: VecDeque::new(),
        submits: 0,
        logged: Vec::new(),
        bound: false,
        close: false,
        drops: shared.drops.load(Ordering::Acquire),
        out_text: Vec::new(),
        tlvs: Vec::new(),
        shared,
    };
    let mut conn = Connection::new(stream);
    link.run(&mut conn).await;
    if link.bound {
        link.shared.counters.binds.fetch_sub(1, Ordering::Relaxed);
    }
    // What a receiver did not get goes to another one.
    // Unanswered ones too: an SMSC delivers again what was not answered.
    let mut left: Vec<Delivery> = link.session.abandon().collect();
    left.extend(link.due.drain(..).map(|(_, d)| d));
    if !left.is_empty() {
        lock(&link.shared.mail.queue).extend(left);
        link.shared.mail.ready.notify_one();
    }
}

impl Link {
    async fn run(&mut self, conn: &mut Connection) {
        let shared = Arc::clone(&self.shared);
        loop {
            let now = clock::now_ms();
            let receives = self.session.bound().is_some_and(BindKind::receives);
            let next = [
                self.session.next_timeout(),
                self.late.front().map(|(d, _)| *d),
                self.next_due(),
            ];
            let wait = next
                .into_iter()
                .flatten()
                .min()
                .map_or(3_600_000, |at| at.saturating_sub(now));
            let pending = conn.pending();
            let readable = tokio::select! {
                ready = conn.stream.readable(), if pending < 1 << 20 => ready.is_ok(),
                ready = conn.stream.writable(), if pending > 0 => { if ready.is_err() { return } false }
                () = shared.mail.ready.notified(), if receives => false,
                () = shared.drop_all.notified() => false,
                () = shared.stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(wait)) => false,
            };
            if shared.drops.load(Ordering::Acquire) != self.drops {
                return;
            }
            let now = clock::now_ms();
            if readable {
                match conn.read(now, |out, octets| self.consume(out, octets, now)) {
                    Ok(Read::Some | Read::Nothing) => {}
                    Ok(Read::Closed) | Err(_) => return,
                }
            }
            self.session
                .timeout(now, &mut conn.out, |_, delivery| drop(delivery));
            self.session.owes_nothing(now, &mut conn.out);
            self.send_due(&mut conn.out, now);
            self.write_log();
            if conn.flush().is_err() || self.close || matches!(self.session.state(), State::Closed(_)) {
                return;
            }
        }
    }

    fn next_due(&self) -> Option<u64> {
        self.due
            .front()
            .filter(|_| self.session.free() > 0)
            .map(|(d, _)| *d)
    }

    fn consume(&mut self, out: &mut Vec<u8>, octets: &[u8], now: u64) -> usize {
        let mut taken = 0;
        while !self.close {
            let Ok(Some(pdu)) = smpp::cut(octets.get(taken..).unwrap_or(&[]), MAX_PDU_DEFAULT) else {
                break;
            };
            taken += pdu.bytes.len();
            if self.shared.options.no_bind {
                continue;
            }
            match self.session.receive(&pdu, now, out) {
                Event::Bind(kind, bind) => {
                    let o = &self.shared.options;
                    let known = o
                        .system_id
                        .as_ref()
                        .is_none_or(|s| s.as_bytes() == bind.system_id)
                        && o.password.as_ref().is_none_or(|p| p.as_bytes() == bind.password);
                    self.bind(kind, known, out, now);
                }
                Event::Request(CommandId::SUBMIT_SM, sequence, body) => self.submit(sequence, body, out, now),
                Event::Request(id, sequence, _) => {
                    smpp::put_header_only(out, response_to(id), CommandStatus::ESME_RINVCMDID, sequence);
                }
                Event::Response { ticket, status, .. } => self.answered(&ticket, status),
                _ => {}
            }
        }
        taken
    }

    fn bind(&mut self, _kind: BindKind, known: bool, out: &mut Vec<u8>, now: u64) {
        let status = CommandStatus(self.shared.options.bind_status);
        if !known {
            self.session.refuse(CommandStatus::ESME_RINVPASWD, out);
        } else if status != CommandStatus::ESME_ROK {
            self.session.refuse(status, out);
        } else {
            self.session.accept(
                &BindResp {
                    system_id: b"smsc",
                    tlvs: Tlvs::EMPTY,
                },
                now,
                out,
            );
            self.shared.counters.binds.fetch_add(1, Ordering::Relaxed);
            self.bound = true;
            self.shared.mail.ready.notify_one();
        }
    }

    fn answered(&self, delivery: &Delivery, status: CommandStatus) {
        let receipt = delivery.receipt;
        let c = &self.shared.counters;
        let counter = match (receipt, status == CommandStatus::ESME_ROK) {
            (true, true) => &c.receipts_acked,
            (false, true) => &c.mo_acked,
            (_, false) => &c.receipts_refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn fate(&mut self, now: u64) -> Fate {
        let o = &self.shared.options;
        if o.tps > 0 {
            let mut pacer = lock(&self.shared.pacer);
            if pacer.0 != now / 1_000 {
                *pacer = (now / 1_000, 0);
            }
            pacer.1 += 1;
            if pacer.1 > o.tps {
                return Fate::Refuse(CommandStatus::ESME_RTHROTTLED);
            }
        }
        let r = &mut self.random;
        if r.hits(o.throttle_rate) {
            Fate::Refuse(CommandStatus::ESME_RTHROTTLED)
        } else if r.hits(o.queue_full_rate) {
            Fate::Refuse(CommandStatus::ESME_RMSGQFUL)
        } else if r.hits(o.reject_rate) {
            Fate::Refuse(CommandStatus(o.reject_status))
        } else if r.hits(o.drop_resp_rate) {
            Fate::Silence
        } else {
            Fate::Accept
        }
    }

    fn submit(&mut self, sequence: u32, body: &[u8], out: &mut Vec<u8>, now: u64) {
        let shared = Arc::clone(&self.shared);
        let c = &shared.counters;
        c.submits.fetch_add(1, Ordering::Relaxed);
        self.submits += 1;
        if shared.options.drop_conn_every > 0 && self.submits >= shared.options.drop_conn_every {
            self.close = true;
            return;
        }
        let sm = match ShortMessage::decode(body) {
            Ok(sm) => sm,
            Err(e) => {
                c.rejected.fetch_add(1, Ordering::Relaxed);
                return smpp::put_header_only(out, CommandId::SUBMIT_SM_RESP, e.status, sequence);
            }
        };
        match self.fate(now) {
            Fate::Silence => {
                c.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Fate::Refuse(status) => {
                let throttled =
                    status == CommandStatus::ESME_RTHROTTLED || status == CommandStatus::ESME_RMSGQFUL;
                if throttled { &c.throttled } else { &c.rejected }.fetch_add(1, Ordering::Relaxed);
                self.respond(sequence, status, b"", out, now);
            }
            Fate::Accept => self.accept(sequence, &sm, out, now),
        }
    }

    fn accept(&mut self, sequence: u32, sm: &ShortMessage<'_>, out: &mut Vec<u8>, now: u64) {
        let shared = Arc::clone(&self.shared);
        let o = &shared.options;
        shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let n = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (mut given, mut later) = (IdText::default(), IdText::default());
        let hex_first = matches!(
            o.id_format,
            IdFormat::HexLower | IdFormat::HexUpper | IdFormat::HexDec
        );
        let hex_later = matches!(
            o.id_format,
            IdFormat::HexLower | IdFormat::HexUpper | IdFormat::DecHex
        );
        let upper = o.id_format == IdFormat::HexUpper;
        given.write(n, hex_first, upper, o.id_width);
        later.write(n, hex_later, upper, o.id_width);
        if shared.log.is_some() {
            let word = sm.short_message.split(|c| *c == b' ').next().unwrap_or(&[]);
            for part in [given.get(), b"\t", sm.dest.addr, b"\t", word, b"\n"] {
                self.logged.extend_from_slice(part);
            }
        }
        if o.record {
            lock(&shared.record).push(Received {
                id: String::from_utf8_lossy(given.get()).into_owned(),
                source: sm.source.addr.to_vec(),
                dest: sm.dest.addr.to_vec(),
                text: sm.short_message.to_vec(),
                registered_delivery: sm.registered_delivery.0,
                data_coding: sm.data_coding.0,
                esm_class: sm.esm_class.0,
                tlvs: sm.tlvs.as_bytes().to_vec(),
            });
        }
        let wanted = sm.registered_delivery.0 & 3 != 0 && !self.random.hits(o.receipt_lost_rate);
        let first = wanted && self.random.hits(o.receipt_first_rate);
        if first {
            self.receipt(later.get(), sm, out, now, 0);
        }
        self.respond(sequence, CommandStatus::ESME_ROK, given.get(), out, now);
        if wanted && !first {
            self.receipt(later.get(), sm, out, now, o.resp_delay_ms + o.receipt_delay_ms);
        }
        if wanted && self.random.hits(o.receipt_dup_rate) {
            self.receipt(later.get(), sm, out, now, o.resp_delay_ms + o.receipt_delay_ms);
        }
    }

    fn respond(&mut self, sequence: u32, status: CommandStatus, id: &[u8], out: &mut Vec<u8>, now: u64) {
        let delay = self.shared.options.resp_delay_ms;
        if delay == 0 {
            smpp::put_message_id_resp(out, CommandId::SUBMIT_SM_RESP, status, sequence, id);
        } else {
            let mut pdu = Vec::new();
            smpp::put_message_id_resp(&mut pdu, CommandId::SUBMIT_SM_RESP, status, sequence, id);
            self.late.push_back((now + delay, pdu));
        }
    }

    fn receipt(&mut self, id: &[u8], original: &ShortMessage<'_>, out: &mut Vec<u8>, now: u64, delay: u64) {
        let shared = Arc::clone(&self.shared);
        let o = &shared.options;
        let state = if self.random.hits(o.undeliv_rate) {
            MessageState::UNDELIVERABLE
        } else {
            MessageState::DELIVERED
        };
        let delivered = state == MessageState::DELIVERED;
        let mut text = std::mem::take(&mut self.out_text);
        let mut raw = std::mem::take(&mut self.tlvs);
        text.clear();
        raw.clear();
        if o.receipt_form != ReceiptForm::Tlv {
            let r = ReceiptText {
                id,
                sub: 1,
                dlvrd: u16::from(delivered),
                submit_unix_s: now / 1_000,
                done_unix_s: now / 1_000,
                stat: state,
                err: u16::from(!delivered),
                text: original.short_message,
            };
            smpp::write_receipt(&mut text, &r);
        }
        if o.receipt_form != ReceiptForm::Text {
            raw.extend_from_slice(&Tag::RECEIPTED_MESSAGE_ID.0.to_be_bytes());
            raw.extend_from_slice(&(id.len() as u16 + 1).to_be_bytes());
            raw.extend_from_slice(id);
            raw.push(0);
            smpp::put_tlv(&mut raw, Tag::MESSAGE_STATE, &[state.0]);
        }
        let sm = ShortMessage {
            source: original.dest,
            dest: original.source,
            esm_class: EsmClass(0x04),
            short_message: &text,
            tlvs: Tlvs::parse(&raw).unwrap_or(Tlvs::EMPTY),
            ..ShortMessage::default()
        };
        let receives = self.session.bound().is_some_and(BindKind::receives);
        if receives && delay == 0 && self.due.is_empty() && self.session.free() > 0 {
            self.deliver(Delivery::of(&sm, true), out, now);
        } else if receives {
            self.due.push_back((now + delay, Delivery::of(&sm, true)));
        } else {
            // A transmitter's receipts go to whoever receives.
            lock(&shared.mail.queue).push(Delivery::of(&sm, true));
            shared.mail.ready.notify_one();
        }
        self.out_text = text;
        self.tlvs = raw;
    }

    fn send_due(&mut self, out: &mut Vec<u8>, now: u64) {
        while let Some((_, pdu)) = self.late.pop_front_if(|(due, _)| *due <= now) {
            out.extend_from_slice(&pdu);
        }
        if self.session.bound().is_some_and(BindKind::receives) {
            let mail = std::mem::take(&mut *lock(&self.shared.mail.queue));
            self.due.extend(mail.into_iter().map(|d| (now, d)));
        }
        while self.session.free() > 0 {
            let Some((_, delivery)) = self.due.pop_front_if(|(due, _)| *due <= now) else {
                break;
            };
            self.deliver(delivery, out, now);
        }
    }

    /// Sends a delivery, which is kept until it is answered.
    fn deliver(&mut self, delivery: Delivery, out: &mut Vec<u8>, now: u64) {
        let receipt = delivery.receipt;
        let start = out.len();
        out.extend_from_slice(&delivery.pdu);
        match self.session.request(delivery, CommandId::DELIVER_SM, now) {
            Ok(sequence) => {
                if let Some(slot) = out.get_mut(start + 12..start + 16) {
                    slot.copy_from_slice(&sequence.to_be_bytes());
                }
                if receipt {
                    self.shared.counters.receipts.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(delivery) => {
                out.truncate(start);
                self.due.push_front((now, delivery));
            }
        }
    }

    /// The log is written before the responses are, so that it never lacks what was acknowledged.
    fn write_log(&mut self) {
        if !self.logged.is_empty()
            && let Some(log) = &self.shared.log
        {
            let _written = lock(log).write_all(&self.logged);
            self.logged.clear();
        }
    }
}

/// An id of up to 40 characters without an allocation.
#[derive(Default)]
struct IdText {
    buf: Vec<u8>,
}

impl IdText {
    fn write(&mut self, n: u64, hex: bool, upper: bool, width: usize) {
        self.buf.clear();
        let _written = match (hex, upper) {
            (false, _) => write!(self.buf, "{n:0width$}"),
            (true, false) => write!(self.buf, "{n:0width$x}"),
            (true, true) => write!(self.buf, "{n:0width$X}"),
        };
    }

    fn get(&self) -> &[u8] {
        &self.buf
    }
}
