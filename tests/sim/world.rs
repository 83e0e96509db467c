//! The world of one seed: a virtual clock, an event heap, the network, the peers, and one gateway process after the other on the
//! same disk. The process is the real one but for its sockets: `net::bare` over `flow`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use smsconnect::flow::{Control, Engine, EngineOptions};
use smsconnect::ids::AccountId;
use smsconnect::money::Money;
use smsconnect::smpp::{CommandId, CommandStatus, MessageIdResp, ShortMessage, Tag};
use smsconnect::store::Payment;

use super::client::Client;
use super::disk::{Fault, SimStore, clock};
use super::net::{Conn, IN, OUT, Peer};
use super::oracle::{Copy, Life, Oracle, Rok, raw, token_of};
use super::plan::{ACCOUNTS, HOUR, MINUTE, PRICE, Plan};
use super::process::{End, Process};
use super::rng::Rng;
use super::smsc::Smsc;

#[derive(Clone, Debug)]
pub enum Event {
    /// Octets arrive.
    Arrive(usize, usize, Vec<u8>),
    /// One end learns that the other is gone.
    Closed(usize, usize),
    /// A peer says something, if it is still connected.
    Say(usize, Vec<u8>),
    Client(usize),
    Smsc(usize),
    Receipt(usize),
    /// A bind of the gateway tries to connect.
    Connect(usize, usize),
    Crash,
    Reset,
    HalfOpen,
    WallJump,
    Disk,
    Outage,
    Order,
    /// An upstream is switched on again, in the life in which it was switched off.
    On(usize, usize),
    Stop,
    Topup,
    Calm,
}

pub struct World {
    pub seed: u64,
    pub plan: Plan,
    pub rng: Rng,
    pub heap: BTreeMap<(u64, u64), Event>,
    pub next_event: u64,
    pub conns: Vec<Conn>,
    pub clients: Vec<Client>,
    pub smscs: Vec<Smsc>,
    pub store: SimStore,
    pub oracle: Oracle,
    pub calm: bool,
    /// Number of the process, and whether it is up.
    pub life: usize,
    pub up: bool,
    /// Connections that the process has not looked at yet.
    pub accepted: Vec<usize>,
    /// Connections whose pipe from the gateway has room again.
    pub writable: BTreeSet<usize>,
    /// Wall clock less the monotonic one.
    pub wall: i64,
    /// Since when a connection has had more to write than its pipe takes: a request's time runs from when it was written.
    pub blocked: BTreeMap<usize, u64>,
    pub slewed: u64,
    /// How far the wall clock has gone back in all.
    pub back: u64,
    pub calm_at: u64,
    pub start: u64,
    pub spoilt: Spoilt,
    pub log: bool,
    /// What remained at the end of time.
    pub left: Option<String>,
}

/// What is spoilt on purpose, to see whether the auditor notices.
#[derive(Default)]
pub struct Spoilt {
    /// Wake-ups are lost.
    pub deaf: bool,
    /// An SMSC gets one message a second time.
    pub twice: bool,
    /// An SMSC's message is gone.
    pub drops: bool,
    /// A receipt is another customer's.
    pub swaps: bool,
    /// Messages that may wait in memory, if not the right number.
    pub bound: usize,
}

/// Where every run begins: 2026-01-01.
const START: u64 = 1_767_225_600_000;

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let rng = Rng::new(seed ^ 0x5EED);
        let mut world = World {
            seed,
            clients: Vec::new(),
            smscs: vec![Smsc::new(1), Smsc::new(1_000)],
            plan,
            rng,
            heap: BTreeMap::new(),
            next_event: 0,
            conns: Vec::new(),
            store: SimStore::default(),
            oracle: Oracle::default(),
            calm: false,
            life: 0,
            up: false,
            accepted: Vec::new(),
            writable: BTreeSet::new(),
            wall: 0,
            blocked: BTreeMap::new(),
            slewed: START,
            back: 0,
            calm_at: 0,
            start: START,
            spoilt: Spoilt::default(),
            log: std::env::var_os("SIM_LOG").is_some(),
            left: None,
        };
        clock::set(START);
        clock::set_offset(0);
        world.prepare();
        world
    }

    pub fn options() -> EngineOptions {
        EngineOptions {
            now_ms: clock::now,
            mono_us: clock::now_us,
            eager: true,
        }
    }

    /// Accounts and their first payments.
    fn prepare(&mut self) {
        let gateway = self.plan.gateway();
        let mut engine = Engine::start(Arc::clone(&gateway), self.store.clone(), World::options()).unwrap();
        for account in self.plan.accounts() {
            gateway.control(Control::CreateAccount(Box::new(account)), |r| drop(r.unwrap()));
            engine.turn(Duration::ZERO).unwrap();
        }
        for n in 0..ACCOUNTS {
            let account = gateway.accounts().by_name(&format!("a{n}")).unwrap().id;
            assert_eq!(account, AccountId(n as u32 + 1));
            let amount = Money(self.plan.paid(n) * PRICE);
            let (provider, receipt) = ("bank".to_string(), format!("first{n}"));
            gateway.control(
                Control::Pay(Box::new(Payment {
                    account,
                    amount,
                    provider,
                    receipt,
                    ..Payment::default()
                })),
                |r| drop(r.unwrap()),
            );
            engine.turn(Duration::ZERO).unwrap();
        }
        self.oracle.lives.push(Life {
            batches: self.store.batches(),
        });
        let clients = self.plan.clients.clone();
        for (i, (account, kind)) in clients.iter().enumerate() {
            let share = self.plan.messages / clients.len() as u32 + 1;
            self.clients.push(Client::new(*account, *kind, share));
            let at = START + self.rng.between(10, 1_000);
            self.at(at, Event::Client(i));
        }
        for s in 0..2 {
            self.at(START + 500, Event::Smsc(s));
        }
        let p = &self.plan;
        let faults = [
            (Event::Crash, p.crashes),
            (Event::Reset, p.resets),
            (Event::HalfOpen, p.half_open),
            (Event::WallJump, p.wall_jumps),
            (Event::Disk, p.disk),
            (Event::Outage, p.outages),
            (Event::Order, p.orders),
            (Event::Stop, p.stops),
            (Event::Topup, 2),
        ];
        for (event, n) in faults {
            for _ in 0..n {
                let at = START + self.rng.below(self.plan.faults_ms);
                self.at(at, event.clone());
            }
        }
        self.calm_at = START + self.plan.faults_ms;
        self.at(self.calm_at, Event::Calm);
    }

    pub fn at(&mut self, at: u64, event: Event) {
        self.next_event += 1;
        self.heap.insert((at.max(clock::mono()), self.next_event), event);
    }

    /// One line of the story, where somebody wants to read it (`SIM_LOG=1`).
    pub fn say(&self, line: impl FnOnce() -> String) {
        if self.log {
            eprintln!("{} {:>9} {}", self.seed, self.passed(), line());
        }
    }

    /// Virtual time that has passed, ms.
    pub fn passed(&self) -> u64 {
        clock::mono() - self.start
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        self.next_life();
        loop {
            let end = self.life();
            self.oracle.lives.push(Life {
                batches: self.store.batches(),
            });
            self.up = false;
            self.say(|| format!("-- {end:?} --"));
            if end == End::Over {
                return;
            }
            self.bury(&end);
            let restart = clock::mono() + self.rng.between(200, 20_000);
            while let Some((&(at, _), _)) = self.heap.first_key_value()
                && at <= restart
            {
                clock::set(clock::mono().max(at));
                if let Some((_, event)) = self.heap.pop_first() {
                    self.handle(event, None);
                }
            }
            clock::set(clock::mono().max(restart));
            self.next_life();
        }
    }

    fn next_life(&mut self) {
        self.life = self.oracle.lives.len();
        self.store.shared().died = false;
        // A new process takes the wall clock as it is.
        clock::set_offset(self.wall);
        self.slewed = clock::mono();
    }

    /// The process is dead: its connections are reset, or silent if the power went.
    fn bury(&mut self, end: &End) {
        let now = clock::mono();
        for conn in 0..self.conns.len() {
            if self.conns[conn].gone[0] {
                continue;
            }
            self.conns[conn].gone[0] = true;
            self.lost(conn);
            if *end == End::PowerCut {
                self.conns[conn].pipes.iter_mut().for_each(|p| p.hole = true);
            } else {
                // What was on its way arrives, or not.
                if self.rng.half() {
                    self.conns[conn].pipes[OUT].hole = true;
                }
                let at = self.conns[conn].pipes[OUT].last_at.max(now) + 1;
                self.at(at, Event::Closed(conn, OUT));
            }
        }
        self.accepted.clear();
    }

    pub fn handle(&mut self, event: Event, mut p: Option<&mut Process<'_>>) {
        match event {
            Event::Arrive(conn, IN, octets) => match p {
                Some(p) if self.conns[conn].life == self.life && !self.conns[conn].gone[0] => {
                    self.conns[conn].pipes[IN].unread.push_back(octets);
                    if let Some(i) = p
                        .links
                        .iter()
                        .position(|l| l.up.as_ref().is_some_and(|u| u.0 == conn))
                    {
                        self.serve_link(p, i);
                    } else {
                        self.serve_customer(p, conn);
                    }
                    let at = clock::mono() + self.rng.between(0, 5);
                    p.engine_due = p.engine_due.min(at);
                }
                // Nobody is there: the peer is told, once the machine is.
                Some(_) => self.at(clock::mono() + 1, Event::Closed(conn, OUT)),
                None if self.conns[conn].gone[1] => {}
                None => self.at(clock::mono() + 5_000, Event::Arrive(conn, IN, octets)),
            },
            Event::Arrive(conn, _, octets) => {
                let reads = match self.conns[conn].peer {
                    Peer::Client(i) => self.clients[i].reading || self.clients[i].conn != Some(conn),
                    Peer::Smsc(..) => true,
                };
                if reads {
                    self.peer_reads(conn, &octets);
                } else {
                    self.conns[conn].pipes[OUT].unread.push_back(octets);
                }
            }
            Event::Closed(conn, IN) => {
                let Some(p) = p else { return };
                if self.conns[conn].gone[0] || self.conns[conn].life != self.life {
                    return;
                }
                self.conns[conn].gone[0] = true;
                self.lost(conn);
                p.poked = true;
                if let Some((_, s)) = p.sessions.remove(&conn) {
                    s.end();
                } else if let Some(i) = p
                    .links
                    .iter()
                    .position(|l| l.up.as_ref().is_some_and(|u| u.0 == conn))
                {
                    self.link_down(p, i);
                }
                self.accepted.retain(|c| *c != conn);
                let at = clock::mono() + self.rng.between(0, 5);
                p.engine_due = p.engine_due.min(at);
            }
            Event::Closed(conn, _) => {
                if !std::mem::replace(&mut self.conns[conn].gone[1], true) {
                    self.peer_lost(conn);
                }
            }
            Event::Say(conn, octets) => {
                if !self.conns[conn].gone[1] {
                    self.send(conn, IN, &octets);
                }
            }
            Event::Client(i) => self.client_thinks(i),
            Event::Smsc(s) => self.smsc_thinks(s),
            Event::Receipt(r) => self.smsc_delivers(r),
            Event::Connect(life, i) => {
                if let Some(p) = p.filter(|_| life == self.life) {
                    self.link_connects(p, i);
                }
            }
            Event::Reset => {
                if let Some(conn) = self.some_conn() {
                    self.oracle.fault("connection reset");
                    self.conns[conn].pipes.iter_mut().for_each(|p| p.hole = true);
                    self.handle(Event::Closed(conn, OUT), None);
                    self.handle(Event::Closed(conn, IN), p.take());
                }
            }
            Event::HalfOpen => {
                if let Some(conn) = self.some_conn() {
                    self.oracle.fault("half-open connection");
                    let which = self.rng.below(3);
                    self.conns[conn].pipes[IN].hole |= which != 1;
                    self.conns[conn].pipes[OUT].hole |= which != 2;
                }
            }
            Event::WallJump => {
                self.oracle.fault("wall clock set");
                let by = self
                    .rng
                    .pick(&[-(HOUR as i64), -300_000, 300_000, 24 * HOUR as i64]);
                self.wall += by;
                self.back += (-by).max(0) as u64;
            }
            Event::Disk => self.disk_fault(),
            Event::Outage => {
                let both = self.rng.half();
                let most = if self.plan.faults_ms > HOUR {
                    3 * HOUR
                } else {
                    4 * MINUTE
                };
                let until = clock::mono() + self.rng.between(5_000, most);
                for s in 0..2 {
                    if both || s == 0 {
                        self.oracle.fault("smsc down");
                        self.smscs[s].out_until = until;
                        let links: Vec<usize> = self.smscs[s].links.keys().copied().collect();
                        links.into_iter().for_each(|conn| self.hang_up(conn, IN));
                    }
                }
            }
            Event::Topup => {
                if let Some(p) = p {
                    let n = self.rng.below(ACCOUNTS as u64);
                    // Now and then the same payment comes again.
                    let receipt = format!("R{}", self.rng.below(6));
                    let op = Control::Pay(Box::new(Payment {
                        account: AccountId(n as u32 + 1),
                        amount: Money(PRICE * self.rng.between(1, 5) as i64),
                        provider: "mpesa".into(),
                        receipt,
                        ..Payment::default()
                    }));
                    p.gateway.control(op, |_| {});
                    p.engine_due = clock::mono();
                }
            }
            Event::Order => {
                if let Some(p) = p {
                    self.order(p);
                }
            }
            Event::On(life, n) => {
                if let Some(p) = p.filter(|_| life == self.life) {
                    p.gateway.upstreams()[n].enable(true);
                    p.poked = true;
                }
            }
            Event::Crash | Event::Stop => {}
            Event::Calm => self.calm(),
        }
    }

    /// No more faults from here on.
    fn calm(&mut self) {
        self.calm = true;
        let later: Vec<(u64, u64)> = self
            .heap
            .iter()
            .filter(|(_, e)| {
                matches!(
                    e,
                    Event::Crash
                        | Event::Reset
                        | Event::HalfOpen
                        | Event::Disk
                        | Event::Outage
                        | Event::Order
                        | Event::Stop
                )
            })
            .map(|(k, _)| *k)
            .collect();
        later.iter().for_each(|k| {
            self.heap.remove(k);
        });
        let mut shared = self.store.shared();
        shared.faults.clear();
        shared.full_until = 0;
        shared.busy_reads = 0;
        drop(shared);
        for s in 0..2 {
            self.smscs[s].out_until = 0;
            self.at(clock::mono(), Event::Smsc(s));
        }
        for i in 0..self.clients.len() {
            self.at(clock::mono(), Event::Client(i));
        }
        // Thinking twice as often does no harm; but nobody is to be looked at only hours from now.
        let waiting: Vec<(u64, u64)> = self
            .heap
            .iter()
            .filter(|((at, _), e)| *at > clock::mono() && matches!(e, Event::Client(_) | Event::Smsc(_)))
            .map(|(k, _)| *k)
            .collect();
        waiting.iter().for_each(|k| {
            self.heap.remove(k);
        });
    }

    /// An operator does something.
    fn order(&mut self, p: &mut Process<'_>) {
        let n = self.rng.below(2) as usize;
        p.poked = true;
        match self.rng.below(3) {
            0 => {
                self.oracle.fault("upstream switched off");
                p.gateway.upstreams()[n].enable(false);
                let at = clock::mono() + self.rng.between(1_000, 2 * MINUTE);
                self.at(at, Event::On(self.life, n));
            }
            1 => {
                self.oracle.fault("upstream reconnected");
                p.gateway.upstreams()[n].reconnect();
            }
            _ => {
                self.oracle.fault("sessions ended");
                p.gateway.kick(|s| s.account == AccountId(1));
            }
        }
    }

    fn disk_fault(&mut self) {
        let now = clock::mono();
        let what = self.rng.below(10);
        let n = self.rng.between(1, 4);
        let wait = self.rng.between(100, 8_000);
        let mut shared = self.store.shared();
        let faults: &[Fault] = match what {
            0 => {
                shared.full_until = now + wait;
                &[]
            }
            1 => &[Fault::Busy],
            2 => &[Fault::UnknownWritten],
            3 => &[Fault::UnknownLost],
            4 => &[Fault::UnknownLost, Fault::Full, Fault::UnknownWritten],
            5 => &[Fault::DiesBefore],
            6 => &[Fault::DiesAfter],
            7 => &[Fault::Broken],
            8 => {
                shared.busy_reads += n as u32;
                &[]
            }
            _ => &[Fault::Full, Fault::Busy],
        };
        let faults: VecDeque<Fault> = faults
            .iter()
            .copied()
            .cycle()
            .take(faults.len() * n as usize)
            .collect();
        shared.faults.extend(faults);
    }

    fn some_conn(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.conns.len())
            .filter(|c| !self.conns[*c].gone[0] && !self.conns[*c].gone[1])
            .collect();
        (!open.is_empty()).then(|| self.rng.pick(&open))
    }

    /// A client connects to the gateway, if it is there.
    pub fn open(&mut self, peer: Peer) -> Option<usize> {
        if !self.up {
            return None;
        }
        let conn = self.conns.len();
        self.conns.push(Conn::new(peer, self.life));
        self.accepted.push(conn);
        Some(conn)
    }

    /// A peer closes its end.
    pub fn hang_up(&mut self, conn: usize, _towards: usize) {
        if std::mem::replace(&mut self.conns[conn].gone[1], true) {
            return;
        }
        if !self.conns[conn].pipes[IN].hole {
            let at = self.conns[conn].pipes[IN].last_at.max(clock::mono()) + 1;
            self.at(at, Event::Closed(conn, IN));
        }
        self.peer_lost(conn);
    }

    pub fn gateway_closes(&mut self, conn: usize) {
        if std::mem::replace(&mut self.conns[conn].gone[0], true) {
            return;
        }
        self.lost(conn);
        if !self.conns[conn].pipes[OUT].hole {
            let at = self.conns[conn].pipes[OUT].last_at.max(clock::mono()) + 1;
            self.at(at, Event::Closed(conn, OUT));
        }
    }

    /// The gateway has lost a connection.
    pub fn lost(&mut self, conn: usize) {
        let now = clock::mono();
        self.say(|| format!("lost {conn} {:?}", self.conns[conn].peer));
        for copy in self.oracle.copies.iter_mut().filter(|c| c.conn == conn) {
            copy.lost.get_or_insert(now);
        }
    }

    fn peer_lost(&mut self, conn: usize) {
        match self.conns[conn].peer {
            Peer::Client(i) if self.clients[i].conn == Some(conn) => self.client_lost(i),
            Peer::Client(_) => {}
            Peer::Smsc(s, _) => self.smsc_lost(s, conn),
        }
    }

    fn peer_reads(&mut self, conn: usize, octets: &[u8]) {
        let pipe = &mut self.conns[conn].pipes[OUT];
        pipe.in_flight -= octets.len();
        self.writable.insert(conn);
        if self.conns[conn].gone[1] {
            return;
        }
        match self.conns[conn].peer {
            Peer::Client(i) => self.client_reads(i, conn, octets),
            Peer::Smsc(s, _) => self.smsc_reads(s, conn, octets),
        }
    }

    /// A peer reads again.
    pub fn unread(&mut self, conn: usize, way: usize) {
        while let Some(octets) = self.conns[conn].pipes[way].unread.pop_front() {
            self.peer_reads(conn, &octets);
        }
    }

    pub fn room(&self, conn: usize) -> usize {
        self.plan
            .pipe
            .saturating_sub(self.conns[conn].pipes[OUT].in_flight)
    }

    /// Octets go on their way: in pieces, each later than the one before.
    pub fn send(&mut self, conn: usize, way: usize, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() {
            let n = if self.plan.split {
                self.rng.between(1, 60).min(rest.len() as u64) as usize
            } else {
                rest.len()
            };
            let (now_sent, later) = rest.split_at(n);
            rest = later;
            let delay = self.rng.between(1, self.plan.delay_ms.max(1));
            let pipe = &mut self.conns[conn].pipes[way];
            pipe.in_flight += n;
            pipe.last_at = pipe.last_at.max(clock::mono() + delay);
            let at = pipe.last_at;
            if !pipe.hole {
                self.at(at, Event::Arrive(conn, way, now_sent.to_vec()));
            }
        }
    }

    /// Octets leave the gateway: what they promise must be true now.
    pub fn gateway_says(&mut self, conn: usize, octets: &[u8]) {
        self.oracle.note(&clock::mono().to_le_bytes());
        self.oracle.note(octets);
        let batches = self.store.batches();
        for pdu in self.conns[conn].framers[OUT].feed(octets) {
            let pdu = raw(&pdu);
            let (id, sequence) = (pdu.header.command_id, pdu.header.sequence);
            self.say(|| {
                let peer = self.conns[conn].peer;
                let text = String::from_utf8_lossy(pdu.body).replace('\0', " ");
                format!(
                    "out {conn} {peer:?} {id} {sequence} {} {text}",
                    pdu.header.command_status
                )
            });
            let ok = pdu.header.command_status == CommandStatus::ESME_ROK;
            match (self.conns[conn].peer, id) {
                (Peer::Client(i), CommandId::SUBMIT_SM_RESP) if ok => {
                    let text = String::from_utf8_lossy(MessageIdResp::id(pdu.body)).into_owned();
                    self.oracle.roks.push(Rok {
                        account: self.clients[i].account,
                        id: text.parse().unwrap_or(0),
                        batches,
                    });
                }
                (Peer::Client(i), CommandId::CANCEL_SM_RESP) if ok => {
                    if let Some(id) = self.clients[i].cancelling.get(&sequence) {
                        self.oracle.cancelled.push((*id, batches));
                    }
                }
                (Peer::Smsc(s, _), CommandId::SUBMIT_SM) => self.submit_leaves(s, conn, sequence, pdu.body),
                (Peer::Smsc(..), CommandId::DELIVER_SM_RESP) if ok => {
                    match self.oracle.deliveries.get(&(conn, sequence)).copied() {
                        Some(r) => {
                            let first = self.oracle.rcpts[r].answered;
                            self.oracle.rcpts[r].answered = first.or(Some((batches, clock::mono())));
                        }
                        None => self.oracle.wrong.push("I7 an answer to no delivery".into()),
                    }
                }
                _ => {}
            }
        }
        self.send(conn, OUT, octets);
    }

    fn submit_leaves(&mut self, upstream: usize, conn: usize, sequence: u32, body: &[u8]) {
        let Ok(sm) = ShortMessage::decode(body) else {
            return self.oracle.wrong.push("I5 a submit that cannot be read".into());
        };
        let text = sm.tlvs.get(Tag::MESSAGE_PAYLOAD).unwrap_or(sm.short_message);
        let part = if sm.esm_class.udhi() {
            sm.short_message.get(5).copied().unwrap_or(0)
        } else {
            0
        };
        let Some(token) = token_of(text) else {
            return self.oracle.wrong.push("I5 a submit of nobody's".into());
        };
        let copy = Copy {
            token,
            part,
            upstream,
            conn,
            queued: self.blocked.get(&conn).copied().unwrap_or(clock::mono()),
            emitted: clock::mono(),
            life: self.life,
            taken: false,
            smsc_id: String::new(),
            answered: None,
            lost: None,
        };
        self.oracle.copies.push(copy);
        let n = self.oracle.copies.len() - 1;
        self.oracle.by_sequence.insert((conn, sequence), n);
    }

    /// Octets of an SMSC reach the process.
    pub fn gateway_hears(&mut self, conn: usize, octets: &[u8]) {
        for pdu in self.conns[conn].framers[IN].feed(octets) {
            let pdu = raw(&pdu);
            self.say(|| {
                let (h, peer) = (&pdu.header, self.conns[conn].peer);
                let text = String::from_utf8_lossy(pdu.body).replace('\0', " ");
                format!(
                    "in  {conn} {peer:?} {} {} {} {text}",
                    h.command_id, h.sequence, h.command_status
                )
            });
            let ok = pdu.header.command_status == CommandStatus::ESME_ROK;
            if pdu.header.command_id == CommandId::SUBMIT_SM_RESP
                && ok
                && let Some(copy) = self.oracle.by_sequence.get(&(conn, pdu.header.sequence))
                && let Some(copy) = self.oracle.copies.get_mut(*copy)
                && copy.taken
            {
                copy.answered.get_or_insert(clock::mono());
            }
        }
    }
}
