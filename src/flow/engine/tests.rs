//! A seeded world around the engine: customers, SMSCs and time are driven by one random number generator, with no socket and
//! no sleep. After every step the engine may be dropped and started again on the same store, and what it reads back must be
//! what it had. At the end everything is let run out, and an independent account of the money is compared.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::account::{Account, AccountState as Standing, BindAllowed};
use crate::domain::address::Numbering;
use crate::domain::message::{Flags, Message, Parts};
use crate::domain::outcome::{ChargeOn, Wants};
use crate::domain::plan::NumberPlan;
use crate::domain::route::{Route, RouteTable, Strategy};
use crate::domain::tariff::{PriceRule, Tariff, Terms};
use crate::flow::ingress::{Control, Signal, UpEvent, UpReceipt};
use crate::flow::lane::{UnknownOutcome, Upstream, UpstreamOptions};
use crate::flow::outbox::Payload;
use crate::flow::{Limits, Policy, Submission, admit};
use crate::ids::SessionId;
use crate::store::Payment;
use crate::store::memory::MemoryStore;

thread_local! {
    pub(super) static NOW: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn now() -> u64 {
    NOW.get()
}

pub(super) struct Nobody;

impl Signal for Nobody {
    fn signal(&self) {}
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const ACCOUNTS: usize = 3;
pub(super) const PRICE: i64 = 800_000;
/// What a message that was taken costs depends on how it ends.
const TERMS: &str =
    "tax 1600; UNDELIV release; UNKNOWN keep 300000; EXPIRED keep; REJECTD 7 keep; REJECTD release";

fn policy() -> Policy {
    let tariff = |name: &str, charge_on| {
        let list = [PriceRule {
            prefix: "254".into(),
            price: Money(PRICE),
            ..PriceRule::default()
        }];
        let terms = TERMS.parse().unwrap();
        (
            name.to_string(),
            Arc::new(Tariff::new(name, "KES", charge_on, false, terms, &list).unwrap()),
        )
    };
    let route = Route {
        name: "all".into(),
        prefixes: vec![String::new()],
        to: vec![UpstreamId(0), UpstreamId(1)],
        strategy: Strategy::RoundRobin,
        ..Route::default()
    };
    Policy {
        numbering: Numbering {
            country_code: "254".into(),
        },
        routes: RouteTable::new(vec![route]).unwrap(),
        tariffs: [
            tariff("t0", ChargeOn::Accepted),
            tariff("t1", ChargeOn::Submitted),
            tariff("t2", ChargeOn::Delivered),
        ]
        .into(),
        default_tariff: None,
        inbound: vec![crate::flow::InboundRule {
            address: "22555".into(),
            words: Vec::new(),
            opt_out: true,
            account: "a1".into(),
            join: true,
        }],
        plan: NumberPlan::default(),
        mobile_only: false,
        classes: vec![String::new()],
        senders: HashMap::new(),
        rules: crate::flow::Rules::default(),
        urgency: crate::domain::urgency::Urgency::default(),
        day_offset_min: 0,
        validity_default_ms: 500_000,
        validity_max_ms: 500_000,
        schedule_max_ms: 86_400_000,
        receipt_timeout_ms: 900_000,
        receipt_keep_ms: 1 << 40,
        join_timeout_ms: 60_000,
        deliver_attempts_max: 1_000,
        deliver_retry_min_ms: 1_000,
        deliver_retry_max_ms: 1_000,
    }
}

pub(super) fn gateway() -> Arc<Gateway> {
    let upstream = |id: u16, unknown_outcome| {
        let options = UpstreamOptions {
            name: format!("u{id}"),
            queue_max: 5,
            tps: 0,
            retry_min_ms: 1_000,
            retry_max_ms: 4_000,
            unknown_outcome,
            unknown_resend_max: 1,
            id_form: None,
            rejoins: false,
            ..UpstreamOptions::default()
        };
        let upstream = Upstream::new(UpstreamId(id), options, 1);
        upstream.sender_up(0);
        Arc::new(upstream)
    };
    let limits = Limits {
        open_max: 10_000,
        waiting_max: 10_000,
        open_hot_max: 10_000,
        ingress_max: 10_000,
        outbox_max: 6,
        parked_max: 1_000,
        parked_keep_ms: 1 << 40,
        free_min_bytes: 0,
        batch_rows_max: 50,
    };
    let upstreams = vec![
        upstream(0, UnknownOutcome::Resend),
        upstream(1, UnknownOutcome::Hold),
    ];
    Arc::new(Gateway::new(policy(), upstreams, limits, crate::flow::metrics()))
}

struct World {
    random: Random,
    store: MemoryStore,
    gateway: Arc<Gateway>,
    engine: Option<Engine<MemoryStore>>,
    customer: Arc<Mailbox<ToCustomer>>,
    smsc: [Arc<Mailbox<ToUpstream>>; 2],
    /// Written to an SMSC, not answered yet.
    flying: [Vec<Outgoing>; 2],
    /// Ids of what the SMSCs took.
    taken: [Vec<Box<[u8]>>; 2],
    next_smsc_id: u64,
    next_token: u64,
    tokens: [BTreeSet<u64>; 2],
    /// Answered ESME_ROK.
    acknowledged: BTreeSet<MessageKey>,
    /// Receipts the customer has taken.
    received: BTreeSet<MessageKey>,
    inbound_sent: u64,
    inbound_received: BTreeSet<Vec<u8>>,
    topups: i64,
}

pub(super) fn account(n: usize) -> Account {
    Account {
        id: AccountId::NONE,
        name: format!("a{n}"),
        system_id: format!("s{n}"),
        password_hash: String::new(),
        tariff: format!("t{n}"),
        tps: 0,
        window: 0,
        max_binds: 0,
        allow_ips: Vec::new(),
        senders: Vec::new(),
        bind: BindAllowed::All,
        state: Standing::Active,
        credit_limit: Money::ZERO,
        created_ms: 0,
        ..Account::default()
    }
}

impl World {
    fn new(seed: u64) -> World {
        NOW.set(1_000_000);
        let mut world = World {
            random: Random(seed * 0x9E37_79B9 + 1),
            store: MemoryStore::default(),
            gateway: gateway(),
            engine: None,
            customer: Arc::new(Mailbox::new(Box::new(Nobody))),
            smsc: std::array::from_fn(|_| Arc::new(Mailbox::new(Box::new(Nobody) as Box<dyn Signal>))),
            flying: Default::default(),
            taken: Default::default(),
            next_smsc_id: 1,
            next_token: 1,
            tokens: Default::default(),
            acknowledged: BTreeSet::new(),
            received: BTreeSet::new(),
            inbound_sent: 0,
            inbound_received: BTreeSet::new(),
            topups: 0,
        };
        world.start();
        for n in 0..ACCOUNTS {
            world
                .gateway
                .control(Control::CreateAccount(Box::new(account(n))), |r| drop(r.unwrap()));
        }
        world.turn();
        for n in 0..ACCOUNTS {
            world.top_up(n, 30);
        }
        world.turn();
        world
    }

    fn start(&mut self) {
        let options = EngineOptions {
            now_ms: now,
            mono_us: now,
            eager: true,
        };
        self.engine = Some(Engine::start(Arc::clone(&self.gateway), self.store.reopen(), options).unwrap());
        for n in 0..2 {
            // The old connections are gone.
            self.smsc[n] = Arc::new(Mailbox::new(Box::new(Nobody)));
            self.tokens[n].clear();
        }
        self.customer = Arc::new(Mailbox::new(Box::new(Nobody)));
        for account in self.gateway.accounts().iter() {
            account.outbox.join(SessionId(1), Arc::new(Nobody));
        }
    }

    fn engine(&self) -> &Engine<MemoryStore> {
        self.engine.as_ref().unwrap()
    }

    /// One turn, and everybody reads his mail.
    fn turn(&mut self) {
        self.engine.as_mut().unwrap().turn(Duration::ZERO).unwrap();
        let mut letters = Vec::new();
        self.customer.take(&mut letters);
        for letter in letters {
            if let ToCustomer::Accepted(_, key) = letter {
                assert!(self.acknowledged.insert(key), "a key was given out twice");
            }
        }
        for n in 0..2 {
            let mut letters = Vec::new();
            self.smsc[n].take(&mut letters);
            for letter in letters {
                match letter {
                    ToUpstream::Committed(token) => assert!(self.tokens[n].remove(&token), "answered once"),
                    ToUpstream::Write(message) => self.flying[n].push(message),
                }
            }
        }
        for account in self.gateway.accounts().iter() {
            if account.outbox.receivers() == 0 {
                account.outbox.join(SessionId(1), Arc::new(Nobody));
            }
        }
    }

    fn drained(&mut self) {
        for _ in 0..200 {
            self.turn();
            if self.engine().inputs.is_empty() {
                return;
            }
        }
        panic!("the ingress never empties");
    }

    fn top_up(&mut self, n: usize, messages: i64) {
        let account = self.gateway.accounts().by_name(&format!("a{n}")).unwrap().id;
        self.topups += 1;
        let op = Control::Pay(Box::new(Payment {
            account,
            amount: Money(PRICE * messages),
            provider: "bank".into(),
            receipt: format!("R{}", self.topups),
            ..Payment::default()
        }));
        self.gateway.control(op, |_| {});
    }

    fn submit(&mut self) {
        let n = self.random.below(ACCOUNTS);
        let account = Arc::clone(self.gateway.accounts().by_name(&format!("a{n}")).unwrap());
        let policy = self.gateway.policy.load_full();
        let mut items = Vec::new();
        for sequence in 0..=self.random.below(6) as u32 {
            let number = format!("2547{:08}", self.random.below(1_000_000));
            let short = self.random.one_in(4);
            let submission = Submission {
                ticket: Some(crate::flow::Ticket { sequence, tag: 0 }),
                parts: Parts {
                    flags: Flags {
                        registered_delivery: [0, 1, 1, 2, 0x11][self.random.below(5)],
                        ..Flags::default()
                    },
                    source: b"ACME",
                    dest: number.as_bytes(),
                    text: b"hello",
                    ..Parts::default()
                },
                national: false,
                segments: Some(1),
                due_ms: Ok(None),
                expires_ms: Ok(short.then(|| now() + 30_000)),
            };
            if let Ok(admitted) = admit(&self.gateway, &policy, &account, &submission, now()) {
                items.push(admitted);
            }
        }
        if !items.is_empty() {
            self.gateway.ingress.put(Input::Submits {
                account,
                policy,
                items,
                reply: Arc::clone(&self.customer),
            });
        }
    }

    fn report(&mut self, n: usize, events: Vec<UpEvent>) {
        self.gateway.ingress.put(Input::Upstream {
            upstream: UpstreamId(n as u16),
            events,
            reply: Arc::clone(&self.smsc[n]),
        });
    }

    /// A bind takes what its window allows.
    fn take(&mut self, n: usize) {
        let upstream = Arc::clone(&self.gateway.upstreams()[n]);
        let max = 1 + self.random.below(8);
        let taken = upstream.take(0, max, now());
        let mut events: Vec<UpEvent> = taken
            .expired
            .into_iter()
            .map(|(key, piece)| UpEvent::Expired(key, piece))
            .collect();
        if upstream.marks_before_sending() {
            events.extend(taken.out.into_iter().map(UpEvent::Sending));
        } else {
            self.flying[n].extend(taken.out);
        }
        self.report(n, events);
    }

    /// The SMSC answers one, or its connection breaks.
    fn answer(&mut self, n: usize, friendly: bool) {
        if self.flying[n].is_empty() {
            return;
        }
        let at = self.random.below(self.flying[n].len());
        let message = self.flying[n].remove(at);
        let upstream = Arc::clone(&self.gateway.upstreams()[n]);
        let what = if friendly { 9 } else { self.random.below(12) };
        let events = match what {
            0 => vec![UpEvent::Failed {
                key: message.key,
                piece: message.piece,
                status: 0x0B,
            }],
            1 => {
                if upstream.marks_before_sending() {
                    vec![UpEvent::Refused(message)]
                } else {
                    upstream.retry(message, now());
                    Vec::new()
                }
            }
            2 => {
                let (key, piece) = (message.key, message.piece);
                let mut events = Vec::new();
                match upstream.unanswered(message) {
                    Ok(again) => upstream.unsent(std::iter::once(again)),
                    Err(event) => events.push(event),
                }
                if self.random.one_in(2) {
                    // Late, it answers all the same.
                    let smsc_id: Box<[u8]> = self.next_smsc_id.to_string().into_bytes().into();
                    self.next_smsc_id += 1;
                    self.taken[n].push(smsc_id.clone());
                    events.push(UpEvent::LateSent { key, piece, smsc_id });
                }
                events
            }
            3 if upstream.marks_before_sending() => vec![UpEvent::Unwritten(message)],
            _ => {
                let smsc_id: Box<[u8]> = self.next_smsc_id.to_string().into_bytes().into();
                self.next_smsc_id += 1;
                if self.random.one_in(5) {
                    // Receipts overtake the response.
                    if self.random.one_in(2) {
                        self.receipt_for(n, &smsc_id, 6);
                    }
                    self.receipt_for(n, &smsc_id, 2);
                }
                self.taken[n].push(smsc_id.clone());
                vec![UpEvent::Sent {
                    key: message.key,
                    piece: message.piece,
                    smsc_id,
                }]
            }
        };
        self.report(n, events);
    }

    fn receipt_for(&mut self, n: usize, smsc_id: &[u8], state: u8) {
        let token = self.next_token;
        self.next_token += 1;
        self.tokens[n].insert(token);
        let receipt = UpReceipt {
            smsc_id: smsc_id.into(),
            number: Box::from(&b""[..]),
            other: Box::from(&b""[..]),
            state,
            err: 0,
        };
        self.report(n, vec![UpEvent::Receipt(token, receipt)]);
    }

    fn receipt(&mut self, n: usize, friendly: bool) {
        if self.taken[n].is_empty() {
            return;
        }
        let at = self.random.below(self.taken[n].len());
        let state = if friendly {
            2
        } else {
            [2, 2, 2, 5, 6, 7, 1][self.random.below(7)]
        };
        let smsc_id = self.taken[n][at].clone();
        self.receipt_for(n, &smsc_id, state);
        // Sometimes it will come again.
        if friendly || !self.random.one_in(4) {
            self.taken[n].remove(at);
        }
    }

    fn inbound(&mut self) {
        let token = self.next_token;
        self.next_token += 1;
        self.tokens[0].insert(token);
        self.inbound_sent += 1;
        let text = self.inbound_sent.to_string();
        let message = Message::new(&Parts {
            source: b"254700000001",
            dest: b"22555",
            text: text.as_bytes(),
            ..Parts::default()
        });
        self.report(0, vec![UpEvent::Inbound(token, message, None)]);
    }

    /// A receiving session takes some, and answers, refuses, or breaks off.
    fn deliver(&mut self, friendly: bool) {
        let n = self.random.below(ACCOUNTS);
        let account = Arc::clone(self.gateway.accounts().by_name(&format!("a{n}")).unwrap());
        let mut items = Vec::new();
        account
            .outbox
            .take(crate::ids::SessionId(1), 1 + self.random.below(4), &mut items);
        for item in items {
            match if friendly { 9 } else { self.random.below(10) } {
                0 => account.outbox.refused(item, now(), 1_000, false),
                1 => account.outbox.give_back(std::iter::once(item)),
                _ => {
                    match &item.payload {
                        Payload::Receipt { key, .. } => {
                            self.received.insert(*key);
                        }
                        Payload::Inbound(m) => {
                            self.inbound_received.insert(m.parts().text.to_vec());
                        }
                    }
                    account.outbox.delivered(std::slice::from_ref(&item));
                }
            }
        }
    }

    /// Everything that must be the same before and after a restart.
    fn picture(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (key, o) in self.engine().book.iter() {
            // What was marked as being sent has an unknown outcome for the next process; only the second upstream marks.
            let phase = match o.phase {
                Phase::Sending => Phase::Held,
                other => other,
            };
            let upstream = (phase == Phase::Sent).then_some(o.upstream);
            lines.push(format!(
                "open {key} {:?} {phase:?} {upstream:?} {:?} {:?} {:?} {} {:?} {} {}",
                o.account, o.charge_on, o.wants, o.provisional, o.captured, o.price, o.at_ms, o.expires_ms
            ));
        }
        for account in self.gateway.accounts().iter() {
            let (balance, held) = account.with_wallet(|w| (w.balance(), w.held()));
            lines.push(format!("wallet {:?} {balance} {held}", account.id));
            assert_eq!(balance, self.store.with_disk(|d| d.balance(account.id)));
        }
        let parked: Vec<u64> = self.engine().parked_order.iter().map(|(p, ..)| p.0).collect();
        lines.push(format!("parked {parked:?}"));
        lines.sort();
        lines
    }

    fn crash(&mut self) {
        self.drained();
        let before = self.picture();
        self.engine = None;
        // What was in flight is gone; the SMSC keeps what it took.
        self.flying = Default::default();
        self.gateway = gateway();
        self.start();
        let after = self.picture();
        for (b, a) in before.iter().zip(&after) {
            assert_eq!(b, a, "read back differently");
        }
        assert_eq!(before.len(), after.len());
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0..5 => self.submit(),
            5..9 => {
                let n = self.random.below(2);
                self.take(n);
            }
            9..14 => {
                let n = self.random.below(2);
                self.answer(n, false);
            }
            14..18 => {
                let n = self.random.below(2);
                self.receipt(n, false);
            }
            18..21 => self.deliver(false),
            21 => self.inbound(),
            22 => NOW.set(now() + self.random.next() % 20_000),
            _ => {
                let n = self.random.below(ACCOUNTS);
                self.top_up(n, 5);
            }
        }
        if self.random.one_in(3) {
            self.turn();
        }
        if self.random.one_in(60) {
            let errors = [
                StoreError::Full("test".into()),
                StoreError::Retry("test".into()),
                StoreError::Full("test".into()),
            ];
            let n = 1 + self.random.below(3);
            self.store
                .with_disk(|d| d.failures.extend(errors[..n].iter().cloned()));
        }
        if self.random.one_in(40) {
            self.store.with_disk(|d| d.failures.clear());
            self.crash();
        }
    }

    /// No more faults: everything ends, and the customer takes everything.
    fn run_out(&mut self) {
        self.store.with_disk(|d| d.failures.clear());
        for round in 0..4_000 {
            for n in 0..2 {
                self.take(n);
                for _ in 0..10 {
                    self.answer(n, true);
                    self.receipt(n, true);
                }
            }
            for _ in 0..6 {
                self.deliver(true);
            }
            NOW.set(now() + 2_000);
            self.turn();
            let waiting: u64 = self.gateway.accounts().iter().map(|a| a.outbox.len()).sum();
            if self.engine().book.len() == 0 && waiting == 0 && self.tokens.iter().all(BTreeSet::is_empty) {
                return;
            }
            // Held ones and lost receipts end by time.
            if round % 100 == 99 {
                NOW.set(now() + 1_000_000);
            }
        }
        panic!("{} messages never end", self.engine().book.len());
    }

    /// An account of its own of what is on record.
    fn audit(&self) {
        self.store.with_disk(|d| {
            let mut price: BTreeMap<MessageKey, (AccountId, ChargeOn, Wants)> = BTreeMap::new();
            let mut cost: BTreeMap<AccountId, i64> = BTreeMap::new();
            let mut ended: BTreeMap<MessageKey, Final> = BTreeMap::new();
            let mut sent = BTreeSet::new();
            let mut told = BTreeSet::new();
            for batch in d.batches() {
                for a in &batch.accepted {
                    assert!(price.insert(a.key, (a.account, a.charge_on, a.wants)).is_none());
                }
                sent.extend(batch.sent.iter().map(|e| e.key));
                for e in &batch.finished {
                    assert!(ended.insert(e.key, e.state).is_none(), "{} ended twice", e.key);
                    let (account, charge_on, wants) = price[&e.key];
                    if wants.covers(e.state) {
                        told.insert(e.key);
                    }
                    let taken = sent.contains(&e.key) || e.state == Final::Delivered;
                    let terms: Terms = TERMS.parse().unwrap();
                    let fair = terms.earned(charge_on, e.state, e.err, taken);
                    assert_eq!(
                        e.charged.0,
                        if fair { PRICE } else { 0 },
                        "{charge_on:?} {:?}",
                        e.state
                    );
                    *cost.entry(account).or_default() += e.charged.0;
                }
            }
            assert_eq!(price.len(), ended.len(), "every message ends");
            for key in &self.acknowledged {
                assert!(price.contains_key(key), "acknowledged and not on record");
            }
            for account in self.gateway.accounts().iter() {
                let paid: i64 = d
                    .batches()
                    .iter()
                    .flat_map(|b| &b.payments)
                    .filter(|t| t.account == account.id)
                    .map(|t| t.amount.0)
                    .sum();
                let left = paid - cost.get(&account.id).copied().unwrap_or(0);
                assert_eq!(d.balance(account.id).0, left, "{:?}", account.id);
                assert_eq!(account.with_wallet(|w| (w.balance().0, w.held().0)), (left, 0));
                let ledger: i64 = d
                    .batches()
                    .iter()
                    .flat_map(|b| &b.postings)
                    .filter(|p| p.account == account.id)
                    .map(|p| {
                        let is = |name: &str| i64::from(matches!(name, "wallet" | "held"));
                        p.amount.0 * (is(&p.credit) - is(&p.debit))
                    })
                    .sum();
                let fold = |name: &str| -> i64 {
                    let rows = d.batches().iter().flat_map(|b| &b.postings);
                    rows.filter(|p| p.account == account.id)
                        .map(|p| p.amount.0 * (i64::from(p.credit == name) - i64::from(p.debit == name)))
                        .sum()
                };
                assert_eq!(fold("held"), 0, "nothing is open any more");
                let spent = cost.get(&account.id).copied().unwrap_or(0);
                assert_eq!(fold("revenue") + fold("tax"), spent);
                // Every price is the same, so that the tax is that of one message times their number.
                let terms: Terms = TERMS.parse().unwrap();
                assert_eq!(fold("tax"), spent / PRICE * terms.tax_in(Money(PRICE)).0);
                assert_eq!(ledger, left, "the ledger folds to the balance");
            }
            for key in &told {
                assert!(
                    self.received.contains(key),
                    "{key} ended as {:?} and nobody was told",
                    ended[key]
                );
            }
        });
        assert_eq!(self.inbound_received.len() as u64, self.inbound_sent);
    }
}

#[test]
fn when_the_sequence_is_used_up_ids_go_on_under_the_next_epoch() {
    let mut world = World::new(5);
    let before = world.engine().fence.epoch;
    world.engine.as_mut().unwrap().next_sequence = SEQUENCE_MAX - 2;
    for _ in 0..40 {
        world.submit();
        world.turn();
    }
    assert_eq!(world.engine().fence.epoch, before + 1);
    // `turn` has checked that no id came twice. A restart goes on above.
    world.crash();
    assert_eq!(world.engine().fence.epoch, before + 2);
    world.submit();
    world.run_out();
    world.audit();
    let epochs: BTreeSet<u64> = world.acknowledged.iter().map(|k| k.0 >> 32).collect();
    assert!(epochs.contains(&u64::from(before)) && epochs.contains(&u64::from(before + 1)));
}

#[test]
fn replay_is_live_and_the_money_adds_up_whatever_happens() {
    let seeds = std::env::var("SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(60u64);
    for seed in 1..=seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..500 {
                world.step();
            }
            world.run_out();
            world.audit();
            world.acknowledged.len()
        });
        match run {
            Ok(messages) => assert!(messages > 20, "seed {seed}: {messages} messages"),
            Err(_) => panic!("seed {seed}"),
        }
    }
}
