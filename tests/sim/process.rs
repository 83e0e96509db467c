//! One life of the gateway's process: the engine's thread and the tasks around every session, in one loop. What wakes whom is the
//! product's own: a session is looked at when it is rung, when something arrives, and when its deadline has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use smsconnect::flow::{Control, Engine, Gateway};
use smsconnect::ids::AccountId;
use smsconnect::money::Money;
use smsconnect::net::Statuses;
use smsconnect::net::bare::{Bind, Customer, Door, Upstream};
use smsconnect::store::Payment;
use smsconnect::store::{Store as _, StoreError};

use super::disk::{SimStore, clock};
use super::net::{Conn, IN, Peer};
use super::plan::{HOUR, PRICE};
use super::world::{Event, World};

pub struct Slot {
    pub upstream: usize,
    pub bind: Bind,
}

pub struct Link<'a> {
    pub up: Option<(usize, Upstream<'a>)>,
    /// When it wants to be looked at; changes only when it is served.
    pub due: u64,
    pub generation: u32,
    pub tries: u32,
    pub since: u64,
}

pub struct Process<'a> {
    pub gateway: Arc<Gateway>,
    pub engine: Engine<SimStore>,
    pub door: Door,
    pub slots: &'a [Slot],
    pub links: Vec<Link<'a>>,
    /// With when each wants to be looked at.
    pub sessions: BTreeMap<usize, (u64, Customer)>,
    /// Somebody may have been woken.
    pub poked: bool,
    pub engine_due: u64,
    pub tick_due: u64,
}

#[derive(PartialEq, Eq, Debug)]
pub enum End {
    /// It died; peers learn of it, or not.
    Killed,
    PowerCut,
    /// It ended in good order.
    Stopped,
    Over,
}

impl World {
    pub fn life(&mut self) -> End {
        let gateway = self.plan.gateway();
        let engine = match Engine::start(Arc::clone(&gateway), self.store.clone(), World::options()) {
            Ok(engine) => engine,
            Err(_) => return End::Killed,
        };
        super::audit::recovered(self, &gateway);
        let mut slots = Vec::new();
        for n in 0..2 {
            let options = self.plan.link(&gateway, n);
            for (index, kind) in options.kinds.iter().enumerate() {
                let bind = Bind::new(&gateway, &options, *kind, index as u16);
                slots.push(Slot { upstream: n, bind });
            }
        }
        let links = (0..slots.len())
            .map(|_| Link {
                up: None,
                due: u64::MAX,
                generation: 0,
                tries: 0,
                since: 0,
            })
            .collect();
        let door = Door::new(
            Arc::clone(&gateway),
            self.plan.customer(),
            Statuses::new(&BTreeMap::new()).unwrap(),
        );
        let now = clock::mono();
        for i in 0..slots.len() {
            let at = now + self.rng.between(1, 300);
            self.at(at, Event::Connect(self.life, i));
        }
        self.up = true;
        let mut p = Process {
            gateway,
            engine,
            door,
            slots: &slots,
            links,
            sessions: BTreeMap::new(),
            poked: true,
            engine_due: now,
            tick_due: now,
        };
        let end = self.live(&mut p);
        if matches!(end, End::Killed | End::PowerCut) && self.plan.zombies && self.rng.half() {
            self.zombie(&mut p);
        }
        end
    }

    pub fn live(&mut self, p: &mut Process<'_>) -> End {
        let limit = self.calm_at + 4 * HOUR + self.back;
        loop {
            let event = self.heap.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let mine = p.due();
            let next = event.min(mine);
            if next > limit {
                self.left = Some(self.remains(p));
                return End::Over;
            }
            clock::set(clock::mono().max(next));
            self.slew();
            if event <= mine
                && let Some((_, event)) = self.heap.pop_first()
            {
                if matches!(event, Event::Crash) {
                    self.oracle.fault("crash");
                    let power = self.plan.power_cuts && self.rng.half();
                    return if power { End::PowerCut } else { End::Killed };
                }
                if matches!(event, Event::Stop) {
                    return self.stop(p);
                }
                self.handle(event, Some(p));
            }
            if self.settle(p) {
                let at = clock::mono() + self.rng.between(0, 5);
                p.engine_due = p.engine_due.min(at);
            }
            let now = clock::mono();
            if now >= p.engine_due || now >= p.tick_due {
                if let Err(end) = self.turn(p) {
                    return end;
                }
                self.settle(p);
                if self.over(p) {
                    return End::Over;
                }
            }
        }
    }

    /// An orderly end: what has come in goes on record, and the store is released.
    fn stop(&mut self, p: &mut Process<'_>) -> End {
        self.oracle.fault("orderly end");
        p.gateway.drain();
        p.gateway.end();
        match p.engine.run() {
            Ok(()) | Err(StoreError::Full(_) | StoreError::Retry(_)) => {}
            Err(error) => {
                if !self.store.shared().died {
                    self.oracle.wrong.push(format!("I10 the engine gave up: {error}"));
                }
            }
        }
        self.settle(p);
        End::Stopped
    }

    /// One turn of the engine's thread.
    pub fn turn(&mut self, p: &mut Process<'_>) -> Result<(), End> {
        let before = self.store.batches();
        let log = self.log.then_some(before);
        match p.engine.turn(Duration::ZERO) {
            Ok(()) | Err(StoreError::Full(_) | StoreError::Retry(_)) => {}
            Err(error) => {
                if !self.store.shared().died {
                    self.oracle.wrong.push(format!("I10 the engine gave up: {error}"));
                }
                self.oracle.fault("crash in a commit");
                return Err(End::Killed);
            }
        }
        if let Some(from) = log {
            self.store.disk(|d| {
                for b in d.batches().get(from..).unwrap_or(&[]) {
                    let rows: Vec<String> = b
                        .accepted
                        .iter()
                        .map(|a| {
                            format!(
                                "accepted {} {:?} exp {}",
                                a.key,
                                super::audit::text_token(a),
                                a.expires_ms
                            )
                        })
                        .chain(b.sent.iter().map(|e| {
                            let id = String::from_utf8_lossy(&e.smsc_id);
                            format!("sent {} {:?} u{} {id}", e.key, e.piece, e.upstream.0)
                        }))
                        .chain(
                            b.marks
                                .iter()
                                .map(|e| format!("{:?} {} {:?} {}", e.kind, e.key, e.piece, e.state)),
                        )
                        .chain(
                            b.finished
                                .iter()
                                .map(|e| format!("{:?} {} {}", e.state, e.key, e.charged)),
                        )
                        .chain(
                            b.parked
                                .iter()
                                .map(|e| format!("parked {}", String::from_utf8_lossy(&e.smsc_id))),
                        )
                        .collect();
                    if !rows.is_empty() {
                        self.say(|| format!("disk {:?}", rows));
                    }
                }
            });
        }
        let now = clock::mono();
        p.poked = true;
        p.engine_due = u64::MAX;
        if self.store.batches() > before {
            p.engine_due = now + self.rng.between(1, 20);
        }
        // Housekeeping comes every 100 ms; where nothing else happens for long it is left out, to save time.
        let event = self.heap.first_key_value().map_or(now, |((at, _), _)| *at);
        p.tick_due = now + event.saturating_sub(now).clamp(100, 5_000);
        super::audit::bounds(self, &p.gateway);
        Ok(())
    }

    /// The process's clock follows the wall clock a little at a time, as `smsconnect::clock` does.
    pub fn slew(&mut self) {
        let now = clock::mono();
        if now >= self.slewed + 1_000 {
            self.slewed = now;
            let step = (self.wall - clock::offset()).clamp(-20, 20);
            clock::set_offset(clock::offset() + step);
        }
    }

    /// Everybody who was woken, has been written to, or whose time has come does what there is to do. Whether anybody did.
    pub fn settle(&mut self, p: &mut Process<'_>) -> bool {
        let mut any = false;
        for conn in std::mem::take(&mut self.accepted) {
            let peer = ([127, 0, 0, 1], 1).into();
            p.sessions
                .insert(conn, (0, Customer::accepted(&p.door, peer, clock::now())));
            self.writable.insert(conn);
        }
        for _ in 0..1_000 {
            let now = clock::now();
            let writable = std::mem::take(&mut self.writable);
            let poked = std::mem::take(&mut p.poked) && !self.spoilt.deaf;
            let mut again = false;
            let woken = |(conn, (due, s)): (&usize, &(u64, Customer))| {
                (*due <= now || writable.contains(conn) || (poked && s.rung())).then_some(*conn)
            };
            let conns: Vec<usize> = p.sessions.iter().filter_map(woken).collect();
            for conn in conns {
                again = true;
                self.serve_customer(p, conn);
            }
            for i in 0..p.links.len() {
                let rung = poked && p.slots[i].bind.rung();
                match &p.links[i].up {
                    None if rung => {
                        p.slots[i].bind.idle();
                        again = true;
                    }
                    Some((conn, _)) if rung || p.links[i].due <= now || writable.contains(conn) => {
                        again = true;
                        self.serve_link(p, i);
                    }
                    _ => {}
                }
            }
            if !again {
                return any;
            }
            any = true;
        }
        self.oracle
            .wrong
            .push("I6 sessions wake each other for ever".into());
        any
    }

    pub fn serve_customer(&mut self, p: &mut Process<'_>, conn: usize) {
        let Some((due, s)) = p.sessions.get_mut(&conn) else {
            return;
        };
        p.poked = true;
        while s.may_read(clock::now())
            && let Some(octets) = self.conns[conn].pipes[IN].unread.pop_front()
        {
            self.conns[conn].pipes[IN].in_flight -= octets.len();
            s.read(&octets, clock::now());
        }
        s.turn(clock::now());
        let room = self.room(conn);
        let octets = s.carry(room);
        if s.pending() > 1_200_000 {
            self.oracle
                .wrong
                .push("I9 more than a megabyte waits for a customer".into());
        }
        let over = s.over().is_some();
        *due = s.deadline(clock::now()).unwrap_or(u64::MAX);
        if !octets.is_empty() {
            self.gateway_says(conn, &octets);
        }
        if over && let Some((_, s)) = p.sessions.remove(&conn) {
            s.end();
            self.gateway_closes(conn);
        }
    }

    pub fn serve_link(&mut self, p: &mut Process<'_>, i: usize) {
        p.poked = true;
        let Some((conn, up)) = &mut p.links[i].up else {
            return;
        };
        let conn = *conn;
        while up.may_read()
            && let Some(octets) = self.conns[conn].pipes[IN].unread.pop_front()
        {
            self.conns[conn].pipes[IN].in_flight -= octets.len();
            self.gateway_hears(conn, &octets);
            up.read(&octets, clock::now());
        }
        up.turn(clock::now());
        let room = self.room(conn);
        let octets = up.carry(room);
        let (over, blocked) = (up.over().is_some(), up.pending() > 0);
        p.links[i].due = up.deadline().unwrap_or(u64::MAX);
        if !octets.is_empty() {
            self.gateway_says(conn, &octets);
        }
        if blocked {
            self.blocked.entry(conn).or_insert(clock::mono());
        } else {
            self.blocked.remove(&conn);
        }
        if over {
            self.gateway_closes(conn);
            self.link_down(p, i);
        }
    }

    pub fn link_down(&mut self, p: &mut Process<'_>, i: usize) {
        let Some((_, up)) = p.links[i].up.take() else {
            return;
        };
        p.poked = true;
        p.links[i].due = u64::MAX;
        up.end();
        p.slots[i].bind.idle();
        let now = clock::mono();
        if now > p.links[i].since + 10_000 {
            p.links[i].tries = 0;
        }
        self.reconnect(p, i);
    }

    pub fn reconnect(&mut self, p: &mut Process<'_>, i: usize) {
        let link = &mut p.links[i];
        let pause = (500u64 << link.tries.min(16)).min(30_000);
        link.tries += 1;
        let at = clock::mono() + pause / 2 + self.rng.below(pause / 2);
        self.at(at, Event::Connect(self.life, i));
    }

    pub fn link_connects(&mut self, p: &mut Process<'_>, i: usize) {
        let s = p.slots[i].upstream;
        if clock::mono() < self.smscs[s].out_until || !p.gateway.upstreams()[s].enabled() {
            p.slots[i].bind.idle();
            return self.reconnect(p, i);
        }
        let conn = self.conns.len();
        self.conns.push(Conn::new(Peer::Smsc(s, i), self.life));
        self.smsc_connected(s, conn);
        let link = &mut p.links[i];
        link.generation += 1;
        link.since = clock::mono();
        let up = p.slots[i].bind.connected(link.generation, clock::now());
        link.up = Some((conn, up));
        self.serve_link(p, i);
    }

    /// Another process has taken the store over while this one still lives: nothing it does may count.
    pub fn zombie(&mut self, p: &mut Process<'_>) {
        self.oracle.fault("zombie");
        if self.store.clone().acquire().is_err() {
            return;
        }
        let mut shared = self.store.shared();
        shared.faults.clear();
        shared.full_until = 0;
        drop(shared);
        let before = self.store.batches();
        let op = Control::Pay(Box::new(Payment {
            account: AccountId(1),
            amount: Money(PRICE),
            provider: "zombie".into(),
            receipt: format!("Z{}", self.life),
            ..Payment::default()
        }));
        p.gateway.control(op, |_| {});
        let stopped = (0..3).any(|_| p.engine.turn(Duration::ZERO) == Err(StoreError::Fenced));
        // What it says now is judged like everything else.
        self.settle(p);
        if self.store.batches() > before {
            self.oracle.wrong.push("I12 a fenced owner has written".into());
        } else if !stopped {
            self.oracle.wrong.push("I12 a fenced owner goes on".into());
        }
    }

    /// Whether all is done.
    pub fn over(&mut self, p: &Process<'_>) -> bool {
        let over = self.done(p);
        if over {
            super::audit::at_rest(self, &p.gateway);
        }
        over
    }

    fn done(&self, p: &Process<'_>) -> bool {
        self.calm
            && p.engine.open() == 0
            && p.gateway.accounts().iter().all(|a| a.outbox.is_empty())
            && self
                .clients
                .iter()
                .all(|c| c.todo.is_empty() && c.open.is_empty())
            && self
                .oracle
                .rcpts
                .iter()
                .all(|r| r.sent == 0 || r.answered.is_some())
    }

    pub fn remains(&self, p: &Process<'_>) -> String {
        let mut outboxes: Vec<u64> = p.gateway.accounts().iter().map(|a| a.outbox.len()).collect();
        outboxes.sort_unstable();
        let todo: usize = self.clients.iter().map(|c| c.todo.len()).sum();
        let open: usize = self.clients.iter().map(|c| c.open.len()).sum();
        let owed = self
            .oracle
            .rcpts
            .iter()
            .filter(|r| r.sent > 0 && r.answered.is_none())
            .count();
        format!(
            "{} open messages, outboxes {outboxes:?}, {todo} to submit, {open} submits unanswered, {owed} receipts unanswered",
            p.engine.open()
        )
    }
}

impl Process<'_> {
    /// When the process has to be looked at, on the monotonic clock.
    fn due(&self) -> u64 {
        let mut first = u64::MAX;
        for (due, _) in self.sessions.values() {
            first = first.min(*due);
        }
        for link in &self.links {
            first = first.min(link.due);
        }
        if first < u64::MAX {
            first = first.saturating_add_signed(-clock::offset());
        }
        first.min(self.engine_due).min(self.tick_due)
    }
}
