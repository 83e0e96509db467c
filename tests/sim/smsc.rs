//! A telecom's SMSC, with every disorder of answers and receipts that has been seen.

use std::collections::BTreeMap;

use smsconnect::session::{BindKind, response_to};
use smsconnect::smpp::{
    self, Address, BindResp, CommandId, CommandStatus, EsmClass, MessageState, Npi, ReceiptText,
    ShortMessage, Tag, Tlvs, Ton,
};

use super::disk::clock;
use super::net::IN;
use super::oracle::{Framer, Rcpt, raw};
use super::plan::{MINUTE, SmscPlan, Spelling};
use super::world::{Event, World};

pub struct Link {
    kind: Option<BindKind>,
    framer: Framer,
    sequence: u32,
    heard: u64,
}

pub struct Smsc {
    next_id: u64,
    pub links: BTreeMap<usize, Link>,
    /// Refuses connections until then.
    pub out_until: u64,
}

impl Smsc {
    pub fn new(first: u64) -> Smsc {
        Smsc {
            next_id: first,
            links: BTreeMap::new(),
            out_until: 0,
        }
    }
}

fn spelled(id: u64, how: Option<Spelling>) -> String {
    match how {
        None => id.to_string(),
        Some(Spelling::Zeros) => format!("{id:010}"),
        Some(Spelling::Hex) => format!("{id:x}"),
        Some(Spelling::UpperHex) => format!("{id:X}"),
    }
}

const FINAL: [u8; 5] = [2, 5, 3, 8, 4];

impl World {
    fn smsc_plan(&self, s: usize) -> SmscPlan {
        let plan = &self.plan.smscs[s];
        if self.calm {
            SmscPlan {
                ids: plan.ids,
                answer_ms: 50,
                ..SmscPlan::default()
            }
        } else {
            plan.clone()
        }
    }

    pub fn smsc_connected(&mut self, s: usize, conn: usize) {
        let link = Link {
            kind: None,
            framer: Framer::default(),
            sequence: 0,
            heard: clock::mono(),
        };
        self.smscs[s].links.insert(conn, link);
    }

    pub fn smsc_lost(&mut self, s: usize, conn: usize) {
        self.smscs[s].links.remove(&conn);
    }

    /// Now and then: looks after its links.
    pub fn smsc_thinks(&mut self, s: usize) {
        let now = clock::mono();
        let pause = self
            .rng
            .between(self.plan.faults_ms / 400, self.plan.faults_ms / 80)
            .clamp(1_000, 30_000);
        self.at(now + pause, Event::Smsc(s));
        let dead: Vec<usize> = self.smscs[s]
            .links
            .iter()
            .filter(|(_, l)| now > l.heard + 100_000)
            .map(|(c, _)| *c)
            .collect();
        for conn in dead {
            self.hang_up(conn, IN);
        }
        let plan = self.smsc_plan(s);
        let links: Vec<usize> = self.smscs[s].links.keys().copied().collect();
        for conn in links {
            if self.rng.per_mille(plan.hangs_up) {
                self.oracle.fault("smsc hung up");
                self.hang_up(conn, IN);
            } else if self.rng.per_mille(plan.leaves) {
                self.oracle.fault("smsc unbound");
                self.smsc_says(s, conn, |out, sequence| {
                    smpp::put_header_only(out, CommandId::UNBIND, CommandStatus::ESME_ROK, sequence);
                });
            } else if self.rng.per_mille(plan.stray) {
                self.oracle.fault("stray response");
                let n = self.rng.between(500, 5_000) as u32;
                self.smsc_says(s, conn, |out, sequence| {
                    let ok = CommandStatus::ESME_ROK;
                    smpp::put_message_id_resp(out, CommandId::SUBMIT_SM_RESP, ok, sequence + n, b"77");
                });
            }
        }
        if self.rng.per_mille(plan.restart_ids) {
            self.oracle.fault("ids started over");
            self.smscs[s].next_id = self.rng.between(1, 30);
        }
        if self.rng.per_mille(plan.receipt_unknown) {
            self.oracle.fault("receipt for nothing");
            let rcpt = Rcpt {
                copy: None,
                upstream: s,
                id: self.rng.between(900_000, 999_999).to_string(),
                number: b"254799999999".to_vec(),
                state: 2,
                answered: None,
                sent: 0,
            };
            self.oracle.rcpts.push(rcpt);
            let r = self.oracle.rcpts.len() - 1;
            self.at(now, Event::Receipt(r));
        }
    }

    fn smsc_says(&mut self, s: usize, conn: usize, write: impl FnOnce(&mut Vec<u8>, u32)) {
        let Some(link) = self.smscs[s].links.get_mut(&conn) else {
            return;
        };
        link.sequence += 1;
        let mut out = Vec::new();
        write(&mut out, link.sequence);
        self.send(conn, IN, &out);
    }

    /// Octets from the gateway.
    pub fn smsc_reads(&mut self, s: usize, conn: usize, octets: &[u8]) {
        let Some(link) = self.smscs[s].links.get_mut(&conn) else {
            return;
        };
        link.heard = clock::mono();
        for pdu in link.framer.feed(octets) {
            if self.smscs[s].links.contains_key(&conn) {
                self.smsc_pdu(s, conn, &pdu);
            }
        }
    }

    fn smsc_pdu(&mut self, s: usize, conn: usize, pdu: &[u8]) {
        let pdu = raw(pdu);
        let (id, sequence) = (pdu.header.command_id, pdu.header.sequence);
        let plan = self.smsc_plan(s);
        let mut out = Vec::new();
        match id {
            CommandId::BIND_TRANSCEIVER | CommandId::BIND_TRANSMITTER | CommandId::BIND_RECEIVER => {
                if self.rng.per_mille(plan.mute_bind) {
                    return self.oracle.fault("bind unanswered");
                }
                let refused = self.rng.per_mille(plan.refuses_bind);
                let status = if refused {
                    self.oracle.fault("bind refused");
                    CommandStatus::ESME_RBINDFAIL
                } else {
                    CommandStatus::ESME_ROK
                };
                let start = smpp::begin(&mut out, response_to(id), status, sequence);
                let resp = BindResp {
                    system_id: b"SMSC",
                    tlvs: Tlvs::EMPTY,
                };
                resp.encode_body(&mut out);
                smpp::finish(&mut out, start);
                if !refused && let Some(link) = self.smscs[s].links.get_mut(&conn) {
                    link.kind = BindKind::of(id);
                }
            }
            CommandId::SUBMIT_SM => return self.smsc_submit(s, conn, sequence, &plan),
            CommandId::ENQUIRE_LINK => {
                smpp::put_header_only(&mut out, response_to(id), CommandStatus::ESME_ROK, sequence);
            }
            CommandId::UNBIND => {
                smpp::put_header_only(&mut out, response_to(id), CommandStatus::ESME_ROK, sequence);
                self.send(conn, IN, &out);
                return self.hang_up(conn, IN);
            }
            CommandId::UNBIND_RESP => return self.hang_up(conn, IN),
            CommandId::DELIVER_SM_RESP if pdu.header.command_status != CommandStatus::ESME_ROK => {
                if let Some(r) = self.oracle.deliveries.get(&(conn, sequence)).copied() {
                    self.at(clock::mono() + 2_000, Event::Receipt(r));
                }
            }
            _ => {}
        }
        if !out.is_empty() {
            self.send(conn, IN, &out);
        }
    }

    fn smsc_submit(&mut self, s: usize, conn: usize, sequence: u32, plan: &SmscPlan) {
        let now = clock::mono();
        let Some(copy) = self.oracle.by_sequence.get(&(conn, sequence)).copied() else {
            return self
                .oracle
                .wrong
                .push("I5 a submit that was not seen leaving".into());
        };
        let soon = now + self.rng.between(1, plan.answer_ms.max(1));
        let refused = if self.rng.per_mille(plan.throttle) {
            self.oracle.fault("throttled");
            Some(
                self.rng
                    .pick(&[CommandStatus::ESME_RTHROTTLED, CommandStatus::ESME_RMSGQFUL]),
            )
        } else if self.rng.per_mille(plan.reject) {
            self.oracle.fault("rejected");
            let all = [CommandStatus::ESME_RINVDSTADR, CommandStatus::ESME_RSYSERR];
            Some(self.rng.pick(&all))
        } else {
            None
        };
        if let Some(status) = refused {
            let mut out = Vec::new();
            smpp::put_header_only(&mut out, CommandId::SUBMIT_SM_RESP, status, sequence);
            return self.at(soon, Event::Say(conn, out));
        }
        if self.rng.per_mille(plan.nack) {
            self.oracle.fault("generic_nack");
            let mut out = Vec::new();
            let status = self
                .rng
                .pick(&[CommandStatus::ESME_ROK, CommandStatus::ESME_RSYSERR]);
            smpp::put_header_only(&mut out, CommandId::GENERIC_NACK, status, sequence);
            return self.at(soon, Event::Say(conn, out));
        }
        // It takes the message, whatever becomes of the answer.
        let id = self.smscs[s].next_id;
        self.smscs[s].next_id += 1;
        let said = spelled(id, plan.ids.0);
        self.oracle.copies[copy].taken = true;
        self.oracle.copies[copy].smsc_id = said.clone();
        if std::mem::take(&mut self.spoilt.drops) {
            self.oracle.copies[copy].taken = false;
        }
        if std::mem::take(&mut self.spoilt.twice) {
            let again = self.oracle.copies[copy].clone();
            self.oracle.copies.push(again);
        }
        let mut out = Vec::new();
        let ok = CommandStatus::ESME_ROK;
        smpp::put_message_id_resp(&mut out, CommandId::SUBMIT_SM_RESP, ok, sequence, said.as_bytes());
        let mut answered = soon;
        if self.rng.per_mille(plan.silent) {
            self.oracle.fault("submit unanswered");
        } else {
            if self.rng.per_mille(plan.late) {
                self.oracle.fault("submit answered late");
                answered += self.plan.response_ms + self.rng.below(20_000);
            }
            if self.rng.per_mille(plan.twice) {
                self.oracle.fault("submit answered twice");
                let again = answered + self.rng.below(3_000);
                self.at(again, Event::Say(conn, out.clone()));
            }
            self.at(answered, Event::Say(conn, out));
        }
        self.smsc_receipts(s, copy, id, answered, plan);
    }

    /// Plans the receipts of a message that was taken.
    fn smsc_receipts(&mut self, s: usize, copy: usize, id: u64, answered: u64, plan: &SmscPlan) {
        if self.rng.per_mille(plan.receipt_lost) {
            return self.oracle.fault("receipt lost");
        }
        let mut at = answered + self.rng.between(100, 8_000);
        if self.rng.per_mille(plan.receipt_first) {
            self.oracle.fault("receipt before response");
            at = clock::mono();
        } else if self.rng.per_mille(plan.receipt_late) {
            self.oracle.fault("receipt late");
            at += self.rng.between(5 * MINUTE, 100 * MINUTE);
        }
        let number = super::client::number_of(self.oracle.copies[copy].token);
        let rcpt = Rcpt {
            copy: Some(copy),
            upstream: s,
            id: spelled(id, plan.ids.1),
            number: number.into_bytes(),
            state: if self.rng.per_mille(plan.failed) {
                self.rng.pick(&FINAL)
            } else {
                2
            },
            answered: None,
            sent: 0,
        };
        let mut states = Vec::new();
        if self.rng.per_mille(plan.provisional) {
            self.oracle.fault("provisional receipt");
            states.push((self.rng.pick(&[6, 7, 1]), at));
            at += self.rng.between(0, 20_000);
        }
        states.push((rcpt.state, at));
        if self.rng.per_mille(plan.receipt_twice) {
            self.oracle.fault("receipt twice");
            states.push((rcpt.state, at + self.rng.below(60_000)));
        }
        if self.rng.per_mille(plan.receipt_odd) {
            self.oracle.fault("contradictory receipt");
            states.push((self.rng.pick(&FINAL), at + self.rng.below(60_000)));
        }
        for (state, at) in states {
            self.oracle.rcpts.push(Rcpt {
                state,
                ..rcpt.clone()
            });
            let r = self.oracle.rcpts.len() - 1;
            self.at(at, Event::Receipt(r));
        }
    }

    /// A receipt is due; it is sent again until it is answered.
    pub fn smsc_delivers(&mut self, r: usize) {
        if self.oracle.rcpts[r].answered.is_some() {
            return;
        }
        let now = clock::mono();
        let s = self.oracle.rcpts[r].upstream;
        let pause = if self.calm {
            5_000
        } else {
            (self.plan.faults_ms / 50).clamp(3_000, 60_000)
        };
        self.at(now + pause, Event::Receipt(r));
        let receives = |l: &Link| l.kind.is_some_and(BindKind::receives);
        let links: Vec<usize> = self.smscs[s]
            .links
            .iter()
            .filter(|(_, l)| receives(l))
            .map(|(c, _)| *c)
            .collect();
        if links.is_empty() {
            return;
        }
        let conn = self.rng.pick(&links);
        let way = self.rng.below(4);
        let rcpt = &mut self.oracle.rcpts[r];
        rcpt.sent += 1;
        let rcpt = rcpt.clone();
        let mut text = Vec::new();
        smpp::write_receipt(
            &mut text,
            &ReceiptText {
                id: rcpt.id.as_bytes(),
                sub: 1,
                dlvrd: u16::from(rcpt.state == 2),
                submit_unix_s: now / 1_000,
                done_unix_s: now / 1_000,
                stat: MessageState(rcpt.state),
                err: 0,
                text: b"",
            },
        );
        let mut tlvs = Vec::new();
        if way == 1 {
            let id = [rcpt.id.as_bytes(), b"\0"].concat();
            smpp::put_tlv(&mut tlvs, Tag::RECEIPTED_MESSAGE_ID, &id);
            smpp::put_tlv(&mut tlvs, Tag::MESSAGE_STATE, &[rcpt.state]);
        }
        let address = |addr| Address {
            ton: Ton(1),
            npi: Npi(1),
            addr,
        };
        let local = [b"0", rcpt.number.get(3..).unwrap_or(&[])].concat();
        // Some do not turn the addresses round, some write them as at home.
        let (source, dest): (&[u8], &[u8]) = match way {
            2 => (b"ACME", &rcpt.number),
            3 => (&local, b"ACME"),
            _ => (&rcpt.number, b"ACME"),
        };
        let sm = ShortMessage {
            source: address(source),
            dest: address(dest),
            esm_class: EsmClass(4),
            short_message: &text,
            tlvs: Tlvs::parse(&tlvs).unwrap(),
            ..ShortMessage::default()
        };
        let Some(link) = self.smscs[s].links.get_mut(&conn) else {
            return;
        };
        link.sequence += 1;
        let sequence = link.sequence;
        self.oracle.deliveries.insert((conn, sequence), r);
        let mut out = Vec::new();
        smpp::put_short_message(&mut out, CommandId::DELIVER_SM, sequence, &sm);
        self.send(conn, IN, &out);
    }
}
