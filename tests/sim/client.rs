//! A customer's client: submits, resubmits what was left unanswered, takes its receipts, and behaves as badly as clients do.

use std::collections::{BTreeMap, VecDeque};

use smsconnect::ids::MessageKey;
use smsconnect::session::{BindKind, response_to};
use smsconnect::smpp::{
    self, Address, Bind, CancelSm, CommandId, CommandStatus, DataSm, MessageIdResp, Npi, Pdu, QuerySm,
    RegisteredDelivery, ShortMessage, Tag, Tlvs, Ton,
};

use super::disk::clock;
use super::net::{IN, OUT, Peer};
use super::oracle::{Framer, Got, Sub, raw, text_of};
use super::world::{Event, World};

pub struct Client {
    pub account: usize,
    pub kind: BindKind,
    pub conn: Option<usize>,
    pub bound: bool,
    framer: Framer,
    sequence: u32,
    /// Unanswered submits by sequence number: how often each is tried.
    pub open: BTreeMap<u32, VecDeque<u8>>,
    /// When those were written that were submitted last.
    asked_ms: BTreeMap<u32, u64>,
    /// Ids that this connection was given, and cancellations under way.
    ids: Vec<u64>,
    pub cancelling: BTreeMap<u32, u64>,
    heard: u64,
    asked: Option<u64>,
    pub reading: bool,
    /// Messages still to be submitted: which try each will be.
    pub todo: VecDeque<u8>,
}

/// A message is submitted so many times at most.
const TRIES: u8 = 4;

impl Client {
    pub fn new(account: usize, kind: BindKind, messages: u32) -> Client {
        let n = if kind.transmits() { messages } else { 0 };
        Client {
            account,
            kind,
            conn: None,
            bound: false,
            framer: Framer::default(),
            sequence: 0,
            open: BTreeMap::new(),
            asked_ms: BTreeMap::new(),
            ids: Vec::new(),
            cancelling: BTreeMap::new(),
            heard: 0,
            asked: None,
            reading: true,
            todo: (0..n).map(|_| 0).collect(),
        }
    }
}

pub fn number_of(token: u32) -> String {
    // A seventh go where only one upstream goes.
    let second = if token % 7 == 3 { "1" } else { "7" };
    format!("254{second}{token:08}")
}

impl World {
    /// It is a client's turn to do something.
    pub fn client_thinks(&mut self, i: usize) {
        let now = clock::mono();
        let pause = if self.calm {
            self.rng.between(500, 3_000)
        } else {
            self.rng
                .between(self.plan.faults_ms / 400, self.plan.faults_ms / 80)
        };
        self.at(now + pause, Event::Client(i));
        let Some(conn) = self.clients[i].conn else {
            return self.client_connects(i);
        };
        let faulty = !self.calm;
        let plan = self.plan.customers.clone();
        if faulty && self.rng.per_mille(plan.hangs_up) {
            self.oracle.fault("customer hung up");
            return self.hang_up(conn, IN);
        }
        if faulty && self.rng.per_mille(plan.stops_reading) {
            self.oracle.fault("customer stopped reading");
            self.clients[i].reading = false;
        } else if !self.clients[i].reading && (self.calm || self.rng.per_mille(200)) {
            self.clients[i].reading = true;
            self.unread(conn, OUT);
            if self.clients[i].conn.is_none() {
                return;
            }
        }
        let c = &self.clients[i];
        if c.asked
            .is_some_and(|at| now > at + 20_000 && c.heard < at && c.reading)
        {
            return self.hang_up(conn, IN);
        }
        if now > c.heard + 30_000 && c.asked.is_none_or(|at| c.heard >= at) {
            self.clients[i].asked = Some(now);
            self.client_sends(i, |out, sequence| {
                smpp::put_header_only(out, CommandId::ENQUIRE_LINK, CommandStatus::ESME_ROK, sequence);
            });
        }
        if !self.clients[i].bound {
            return;
        }
        if faulty && self.rng.per_mille(plan.leaves) {
            self.oracle.fault("customer unbound");
            return self.client_sends(i, |out, sequence| {
                smpp::put_header_only(out, CommandId::UNBIND, CommandStatus::ESME_ROK, sequence);
            });
        }
        if faulty && self.rng.per_mille(plan.garbage) {
            self.oracle.fault("garbage");
            let octets = vec![
                0,
                0,
                0,
                self.rng.below(15) as u8,
                0,
                0,
                0,
                4,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                1,
            ];
            return self.send(conn, IN, &octets);
        }
        if self.clients[i].kind.transmits() {
            self.client_submits(i, conn);
            if faulty && self.rng.per_mille(plan.cancels) {
                self.client_asks(i, true);
            }
            if faulty && self.rng.per_mille(plan.queries) {
                self.client_asks(i, false);
            }
        }
    }

    /// Cancels or asks about a message that it has submitted.
    fn client_asks(&mut self, i: usize, cancel: bool) {
        if self.clients[i].ids.is_empty() {
            return;
        }
        self.oracle.fault(if cancel { "cancel_sm" } else { "query_sm" });
        let all = self.clients[i].ids.clone();
        // The newest are the likeliest to be open.
        let id = self.rng.pick(&all[all.len().saturating_sub(4)..]);
        let text = id.to_string();
        let nobody = Address {
            ton: Ton(0),
            npi: Npi(0),
            addr: b"",
        };
        if cancel {
            let next = self.clients[i].sequence + 1;
            self.clients[i].cancelling.insert(next, id);
        }
        self.client_sends(i, |out, sequence| {
            let pdu = if cancel {
                Pdu::CancelSm(CancelSm {
                    service_type: b"",
                    message_id: text.as_bytes(),
                    source: nobody,
                    dest: nobody,
                })
            } else {
                Pdu::QuerySm(QuerySm {
                    message_id: text.as_bytes(),
                    source: nobody,
                })
            };
            smpp::encode(out, CommandStatus::ESME_ROK, sequence, &pdu);
        });
    }

    fn client_connects(&mut self, i: usize) {
        let Some(conn) = self.open(Peer::Client(i)) else {
            return;
        };
        let now = clock::mono();
        let (account, kind) = (self.clients[i].account, self.clients[i].kind);
        let c = &mut self.clients[i];
        c.conn = Some(conn);
        c.bound = false;
        c.framer = Framer::default();
        c.heard = now;
        c.asked = None;
        c.sequence = 0;
        c.ids.clear();
        c.cancelling.clear();
        c.asked_ms.clear();
        let system_id = format!("s{account}");
        let bind = Bind {
            system_id: system_id.as_bytes(),
            password: b"secret",
            system_type: b"",
            interface_version: 0x34,
            addr_ton: Ton(0),
            addr_npi: Npi(0),
            address_range: b"",
        };
        self.client_sends(i, |out, sequence| {
            let start = smpp::begin(out, kind.command(), CommandStatus::ESME_ROK, sequence);
            bind.encode_body(out);
            smpp::finish(out, start);
        });
    }

    fn client_sends(&mut self, i: usize, write: impl FnOnce(&mut Vec<u8>, u32)) {
        let Some(conn) = self.clients[i].conn else { return };
        self.clients[i].sequence += 1;
        let mut out = Vec::new();
        write(&mut out, self.clients[i].sequence);
        self.send(conn, IN, &out);
    }

    fn client_submits(&mut self, i: usize, conn: usize) {
        let window = self.plan.customers.window;
        let burst = self.rng.between(1, window as u64);
        let mut out = Vec::new();
        for _ in 0..burst {
            let c = &mut self.clients[i];
            if c.open.values().map(VecDeque::len).sum::<usize>() >= window {
                break;
            }
            let Some(tries) = c.todo.pop_front() else { break };
            let again = !self.calm && self.rng.per_mille(self.plan.customers.same_sequence);
            let c = &mut self.clients[i];
            if !again || c.sequence < 2 {
                c.sequence += 1;
            }
            let sequence = c.sequence;
            c.open.entry(sequence).or_default().push_back(tries + 1);
            c.asked_ms.insert(sequence, clock::mono());
            let account = c.account;
            let token = self.oracle.subs.len() as u32;
            let wants = self.rng.pick(&[0, 1, 1, 1, 2, 3]);
            self.oracle.subs.push(Sub { account, wants });
            let text = text_of(token, self.rng.per_mille(150));
            let number = number_of(token);
            let validity = if self.rng.per_mille(250) {
                smpp::relative_time(self.rng.between(2, 90)).to_vec()
            } else {
                Vec::new()
            };
            let mut raw_tlvs = Vec::new();
            let short: &[u8] = if text.len() > 150 {
                smpp::put_tlv(&mut raw_tlvs, Tag::MESSAGE_PAYLOAD, &text);
                &[]
            } else {
                &text
            };
            let sm = ShortMessage {
                source: Address {
                    ton: Ton(5),
                    npi: Npi(0),
                    addr: b"ACME",
                },
                dest: Address {
                    ton: Ton(1),
                    npi: Npi(1),
                    addr: number.as_bytes(),
                },
                registered_delivery: RegisteredDelivery(wants),
                validity_period: &validity,
                short_message: short,
                tlvs: Tlvs::parse(&raw_tlvs).unwrap(),
                ..ShortMessage::default()
            };
            smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, sequence, &sm);
        }
        if !out.is_empty() {
            self.send(conn, IN, &out);
        }
    }

    /// Octets from the gateway.
    pub fn client_reads(&mut self, i: usize, conn: usize, octets: &[u8]) {
        self.clients[i].heard = clock::mono();
        for pdu in self.clients[i].framer.feed(octets) {
            if self.clients[i].conn != Some(conn) {
                return;
            }
            self.client_pdu(i, conn, &pdu);
        }
    }

    fn client_pdu(&mut self, i: usize, conn: usize, pdu: &[u8]) {
        let pdu = raw(pdu);
        let (id, status, sequence) = (
            pdu.header.command_id,
            pdu.header.command_status,
            pdu.header.sequence,
        );
        match id {
            CommandId::BIND_TRANSCEIVER_RESP
            | CommandId::BIND_TRANSMITTER_RESP
            | CommandId::BIND_RECEIVER_RESP => {
                if status == CommandStatus::ESME_ROK {
                    self.clients[i].bound = true;
                } else {
                    self.hang_up(conn, IN);
                }
            }
            CommandId::SUBMIT_SM_RESP | CommandId::GENERIC_NACK => {
                let c = &mut self.clients[i];
                let Some(tries) = c.open.get_mut(&sequence).and_then(VecDeque::pop_front) else {
                    if id == CommandId::SUBMIT_SM_RESP {
                        self.oracle.wrong.push(format!(
                            "I1 client {i}: an answer to nothing, sequence {sequence}"
                        ));
                    }
                    return;
                };
                c.open.retain(|_, waiting| !waiting.is_empty());
                let waited = c.asked_ms.get(&sequence).map_or(0, |at| clock::mono() - at);
                let key = MessageKey::parse(MessageIdResp::id(pdu.body));
                c.ids.extend(key.map(|k| k.0));
                // Nothing is wrong any more, and the way is short and wide: somebody was not woken.
                let short = self.plan.delay_ms <= 30 && self.plan.pipe > 10_000 && !self.plan.split;
                let calm = self.conns[conn].since >= self.calm_at;
                if calm && short && waited > 3_000 {
                    let line = format!("I6 client {i} waited {waited} ms for an answer");
                    self.oracle.wrong.push(line);
                }
                let c = &mut self.clients[i];
                let busy = [CommandStatus::ESME_RMSGQFUL, CommandStatus::ESME_RTHROTTLED];
                if busy.contains(&status) && tries < TRIES {
                    c.todo.push_back(tries);
                }
                if status == CommandStatus::ESME_ROK && key.is_none() {
                    self.oracle
                        .wrong
                        .push(format!("I1 client {i}: ESME_ROK without an id"));
                }
            }
            CommandId::DELIVER_SM | CommandId::DATA_SM => {
                self.client_delivery(i, conn, id, sequence, pdu.body)
            }
            CommandId::ENQUIRE_LINK => {
                let mut out = Vec::new();
                smpp::put_header_only(&mut out, response_to(id), CommandStatus::ESME_ROK, sequence);
                self.send(conn, IN, &out);
            }
            CommandId::UNBIND => {
                let mut out = Vec::new();
                smpp::put_header_only(&mut out, response_to(id), CommandStatus::ESME_ROK, sequence);
                self.send(conn, IN, &out);
                self.hang_up(conn, IN);
            }
            CommandId::UNBIND_RESP => self.hang_up(conn, IN),
            _ => {}
        }
    }

    fn client_delivery(&mut self, i: usize, conn: usize, id: CommandId, sequence: u32, body: &[u8]) {
        let sm = if id == CommandId::DATA_SM {
            DataSm::decode(body).map(|d| d.as_short_message())
        } else {
            ShortMessage::decode(body)
        };
        let Ok(sm) = sm else {
            return self.oracle.wrong.push("I7 a delivery that cannot be read".into());
        };
        let plan = self.plan.customers.clone();
        let faulty = !self.calm;
        if faulty && self.rng.per_mille(plan.refuses) {
            self.oracle.fault("delivery refused");
            let mut out = Vec::new();
            smpp::put_header_only(&mut out, response_to(id), CommandStatus::ESME_RX_T_APPN, sequence);
            return self.send(conn, IN, &out);
        }
        let mut account = self.clients[i].account;
        if std::mem::take(&mut self.spoilt.swaps) {
            account = (account + 1) % super::plan::ACCOUNTS;
        }
        match smpp::parse_receipt(&sm) {
            Some(receipt) => {
                let key = MessageKey::parse(receipt.id.as_deref().unwrap_or_default()).unwrap_or_default();
                self.oracle.got.push(Got {
                    account,
                    id: key.0,
                    state: receipt.state.map_or(0, |s| s.0),
                    number: sm.source.addr.to_vec(),
                });
            }
            None => self
                .oracle
                .wrong
                .push("I7 an inbound message that nobody sent".into()),
        }
        if faulty && self.rng.per_mille(plan.silent) {
            return self.oracle.fault("delivery unanswered");
        }
        let mut out = Vec::new();
        smpp::put_message_id_resp(&mut out, response_to(id), CommandStatus::ESME_ROK, sequence, b"");
        if faulty && self.rng.per_mille(plan.late) {
            self.oracle.fault("delivery answered late");
            let at = clock::mono() + self.rng.between(1_000, 25_000);
            return self.at(at, Event::Say(conn, out));
        }
        self.send(conn, IN, &out);
    }

    /// The connection is over, as the client sees it.
    pub fn client_lost(&mut self, i: usize) {
        let c = &mut self.clients[i];
        c.conn = None;
        c.bound = false;
        c.reading = true;
        // What was left unanswered is submitted again.
        for tries in std::mem::take(&mut c.open).into_values().flatten() {
            if tries < TRIES {
                c.todo.push_back(tries);
            }
        }
    }
}
