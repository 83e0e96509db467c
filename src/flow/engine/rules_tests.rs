//! Message policy through the engine, with time as an argument and restarts on the same store: hours, held messages, opt-out,
//! suppression, caps and cases.

use std::sync::Arc;
use std::time::Duration;

use super::tests::{NOW, Nobody, PRICE, account, gateway, now};
use super::*;
use crate::domain::content::{Action, ContentRule, Patterns};
use crate::domain::frequency::{AbuseRule, Counts};
use crate::domain::message::{Flags, Message, Parts, Piece};
use crate::domain::optout::Words;
use crate::domain::reject::Reject;
use crate::domain::sender::{PROMOTIONAL, Registry, Sender, Standing, TRANSACTIONAL};
use crate::domain::suppression::{Scope, Source, Suppression};
use crate::domain::window::Daily;
use crate::flow::ingress::{Control, UpEvent, UpReceipt};
use crate::flow::outbox::Payload;
use crate::flow::rules::{
    ClassRule, OptOut, Outside, RuleChange, RuleReply, Rules, SuppressOn, SuppressScope,
};
use crate::flow::{Submission, admit};
use crate::ids::SessionId;
use crate::store::memory::MemoryStore;
use crate::store::{CaseState, Payment, SubjectKey};

const HOUR: u64 = 3_600_000;
/// Six in the morning in Nairobi, on a day of 1970.
const SIX: u64 = 3 * HOUR + 20 * 24 * HOUR;
const NUMBER: &[u8] = b"254712345678";

struct World {
    store: MemoryStore,
    gateway: Arc<Gateway>,
    engine: Option<Engine<MemoryStore>>,
    customer: Arc<Mailbox<ToCustomer>>,
    smsc: Arc<Mailbox<ToUpstream>>,
    rules: Rules,
    key: [u8; 32],
}

fn sender(id: &str, class: &str) -> Sender {
    Sender {
        id: id.into(),
        class: class.into(),
        standing: Standing::Active,
        ..Sender::default()
    }
}

fn by_day() -> ClassRule {
    ClassRule {
        hours: Daily::parse("08:00-18:00", 180),
        ..Rules::by_day()
    }
}

impl World {
    fn new(rules: Rules) -> World {
        NOW.set(SIX);
        let mut world = World {
            store: MemoryStore::default(),
            gateway: gateway(),
            engine: None,
            customer: Arc::new(Mailbox::new(Box::new(Nobody))),
            smsc: Arc::new(Mailbox::new(Box::new(Nobody))),
            rules,
            key: [7; 32],
        };
        world.start().unwrap();
        for n in 0..3 {
            let create = Control::CreateAccount(Box::new(account(n)));
            world.gateway.control(create, |r| drop(r.unwrap()));
        }
        world.turn();
        for n in 0..3 {
            let pay = Payment {
                account: world.id(n),
                amount: Money(PRICE * 100),
                provider: "bank".into(),
                receipt: format!("R{n}"),
                ..Payment::default()
            };
            world.gateway.control(Control::Pay(Box::new(pay)), |_| {});
        }
        world.turn();
        world
    }

    /// A process on the same store: the old one is gone without a word.
    fn start(&mut self) -> Result<(), StoreError> {
        self.engine = None;
        self.gateway = gateway();
        let policy = Policy {
            rules: self.rules.clone(),
            classes: vec![String::new(), PROMOTIONAL.into(), TRANSACTIONAL.into()],
            validity_default_ms: 24 * HOUR,
            validity_max_ms: 48 * HOUR,
            ..(*self.gateway.policy.load_full()).clone()
        };
        self.gateway.policy.store(Arc::new(policy));
        self.gateway.live.set_key(SubjectKey::new(&self.key));
        let options = EngineOptions {
            now_ms: now,
            mono_us: now,
            eager: true,
        };
        self.engine = Some(Engine::start(
            Arc::clone(&self.gateway),
            self.store.reopen(),
            options,
        )?);
        for account in self.gateway.accounts().iter() {
            account.outbox.join(SessionId(1), Arc::new(Nobody));
        }
        Ok(())
    }

    fn id(&self, n: usize) -> AccountId {
        self.gateway.accounts().by_name(&format!("a{n}")).unwrap().id
    }

    fn turn(&mut self) {
        // Two, with a tick of upkeep in each: what one brings about the next lets out.
        for _ in 0..2 {
            NOW.set(now() + TICK_MS);
            self.engine.as_mut().unwrap().turn(Duration::ZERO).unwrap();
        }
    }

    fn at(&mut self, ms: u64) {
        NOW.set(ms.max(now()));
        self.turn();
    }

    fn submit(&mut self, n: usize, source: &str, dest: &[u8], text: &str) -> Result<MessageKey, Reject> {
        self.submit_for(n, source, dest, text, None)
    }

    fn submit_for(
        &mut self,
        n: usize,
        source: &str,
        dest: &[u8],
        text: &str,
        valid_ms: Option<u64>,
    ) -> Result<MessageKey, Reject> {
        let account = Arc::clone(self.gateway.accounts().by_name(&format!("a{n}")).unwrap());
        let policy = self.gateway.policy.load_full();
        let submission = Submission {
            ticket: Some(crate::flow::Ticket { sequence: 1, tag: 0 }),
            parts: Parts {
                flags: Flags {
                    registered_delivery: 1,
                    ..Flags::default()
                },
                source: source.as_bytes(),
                dest,
                text: text.as_bytes(),
                ..Parts::default()
            },
            national: false,
            segments: Some(1),
            due_ms: Ok(None),
            expires_ms: Ok(valid_ms.map(|ms| now() + ms)),
        };
        let admitted = admit(&self.gateway, &policy, &account, &submission, now())?;
        let mut input = Input::Submits {
            account,
            items: vec![admitted],
            reply: Arc::clone(&self.customer),
            policy: Arc::clone(&policy),
        };
        if let Input::Submits { .. } = &mut input {
            self.gateway.ingress.put(input);
        }
        self.turn();
        let mut letters = Vec::new();
        self.customer.take(&mut letters);
        match letters.pop() {
            Some(ToCustomer::Accepted(_, key)) => Ok(key),
            other => panic!("not taken: {other:?}"),
        }
    }

    /// Everything that an upstream could write now.
    fn sent(&mut self) -> Vec<Outgoing> {
        self.turn();
        let mut out = Vec::new();
        for upstream in self.gateway.upstreams().iter() {
            out.extend(upstream.take(0, 100, now()).out);
        }
        out.sort_by_key(|m| m.key);
        out
    }

    fn report(&mut self, events: Vec<UpEvent>) {
        self.gateway.ingress.put(Input::Upstream {
            upstream: UpstreamId(0),
            events,
            reply: Arc::clone(&self.smsc),
        });
        self.turn();
    }

    fn inbound(&mut self, from: &[u8], text: &str) {
        let message = Message::new(&Parts {
            source: from,
            dest: b"22555",
            text: text.as_bytes(),
            ..Parts::default()
        });
        self.report(vec![UpEvent::Inbound(1, message, None)]);
    }

    fn rule(&mut self, change: RuleChange) -> Result<RuleReply, ControlError> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.gateway.control(Control::Rule(Box::new(change)), move |r| {
            tx.send(r).unwrap();
        });
        self.turn();
        match rx.recv().unwrap()? {
            ControlReply::Rule(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    fn held(&mut self) -> Vec<MessageKey> {
        match self.rule(RuleChange::ShowHeld(MessageKey(0), 100)).unwrap() {
            RuleReply::Held(found) => found.into_iter().map(|h| h.key).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// What came to a customer: states of receipts, and texts of inbound messages.
    fn delivered(&self, n: usize) -> Vec<String> {
        let mut items = Vec::new();
        let accounts = self.gateway.accounts();
        let outbox = &accounts.by_name(&format!("a{n}")).unwrap().outbox;
        outbox.take(SessionId(1), 100, &mut items);
        outbox.delivered(&items);
        let show = |item: &OutItem| match &item.payload {
            Payload::Receipt { state, .. } => state.map_or("ENROUTE".into(), |s| s.word().to_string()),
            Payload::Inbound(m) => String::from_utf8_lossy(m.parts().text).into_owned(),
        };
        items.iter().map(show).collect()
    }

    fn outbox_empty(&self, n: usize) -> bool {
        let accounts = self.gateway.accounts();
        accounts.by_name(&format!("a{n}")).unwrap().outbox.is_empty()
    }

    fn holds(&self, n: usize) -> i64 {
        let accounts = self.gateway.accounts();
        let account = accounts.by_name(&format!("a{n}")).unwrap();
        account.with_wallet(|w| w.held().0)
    }

    fn spent(&self, n: usize) -> i64 {
        PRICE * 100 - self.store.with_disk(|d| d.balance(self.id(n)).0)
    }

    fn state(&mut self, key: MessageKey) -> Option<&'static str> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.gateway
            .control(Control::ShowOpen(key), move |r| tx.send(r).unwrap());
        self.turn();
        match rx.recv().unwrap().unwrap() {
            ControlReply::Open(view) => view.map(|v| v.state),
            other => panic!("{other:?}"),
        }
    }
}

fn promotional() -> Rules {
    Rules {
        registry: Registry::new(
            vec![sender("DEALS", PROMOTIONAL), sender("BANK", TRANSACTIONAL)],
            &[],
        )
        .unwrap(),
        classes: vec![by_day()],
        ..Rules::default()
    }
}

#[test]
fn a_promotional_message_waits_until_its_hours_begin_across_a_restart() {
    let mut world = World::new(promotional());
    let first = world.submit(1, "DEALS", NUMBER, "one").unwrap();
    let code = world.submit(1, "BANK", NUMBER, "123456").unwrap();
    let second = world.submit(1, "DEALS", NUMBER, "two").unwrap();
    assert_eq!(
        world.sent().iter().map(|m| m.key).collect::<Vec<_>>(),
        [code],
        "what is transactional goes at any time"
    );
    assert_eq!(world.state(first), Some("waiting"));
    assert_eq!(world.holds(1), 3 * PRICE);
    world.start().unwrap();
    world.turn();
    assert_eq!(world.holds(1), 3 * PRICE);
    assert_eq!(world.state(second), Some("waiting"));
    world.sent();
    world.at(SIX + 2 * HOUR - 60_000);
    assert_eq!(world.sent().len(), 0);
    world.at(SIX + 2 * HOUR);
    let sent: Vec<MessageKey> = world.sent().iter().map(|m| m.key).collect();
    assert_eq!(sent, [first, second]);
    assert_eq!(world.state(first), Some("queued"));
}

#[test]
fn a_restart_after_the_hours_have_begun_sends_at_once() {
    let mut world = World::new(promotional());
    let key = world.submit(1, "DEALS", NUMBER, "one").unwrap();
    NOW.set(SIX + 3 * HOUR);
    world.start().unwrap();
    let sent: Vec<MessageKey> = world.sent().iter().map(|m| m.key).collect();
    assert_eq!(sent, [key]);
}

#[test]
fn who_opts_out_while_a_message_waits_does_not_get_it() {
    let mut rules = opting_out();
    rules.classes = vec![by_day()];
    let mut world = World::new(rules);
    world.submit(1, "DEALS", NUMBER, "one").unwrap();
    world.submit(1, "DEALS", b"254712345679", "one").unwrap();
    world.inbound(NUMBER, "STOP");
    assert_eq!(world.sent().len(), 1, "the answer");
    NOW.set(SIX + 3 * HOUR);
    world.start().unwrap();
    let sent = world.sent();
    let deals = sent.iter().filter(|m| m.message.parts().source == b"DEALS");
    let to: Vec<Vec<u8>> = deals.map(|m| m.message.parts().dest.to_vec()).collect();
    assert_eq!(to, [b"254712345679".to_vec()]);
    assert!(world.delivered(1).contains(&"REJECTD".to_string()));
    assert_eq!(world.holds(1), PRICE);
}

#[test]
fn what_is_valid_too_short_ends_expired_and_costs_nothing() {
    let mut world = World::new(promotional());
    world
        .submit_for(1, "DEALS", NUMBER, "flash sale", Some(HOUR))
        .unwrap();
    assert_eq!(world.holds(1), PRICE);
    world.at(SIX + HOUR + 60_000);
    assert_eq!(world.delivered(1), ["EXPIRED"]);
    assert_eq!((world.holds(1), world.spent(1)), (0, 0));
    world.at(SIX + 4 * HOUR);
    assert!(world.sent().is_empty());
}

#[test]
fn a_class_may_refuse_outside_its_hours_and_append_its_opt_out_in_them() {
    let mut rules = promotional();
    rules.classes = vec![ClassRule {
        outside: Outside::Reject,
        suffix: " STOP 22555".into(),
        ..by_day()
    }];
    let mut world = World::new(rules);
    assert_eq!(world.submit(1, "DEALS", NUMBER, "one"), Err(Reject::Window));
    assert_eq!(world.holds(1), 0);
    world.at(SIX + 4 * HOUR);
    world.submit(1, "DEALS", NUMBER, &"x".repeat(155)).unwrap();
    assert_eq!(world.holds(1), 2 * PRICE, "the suffix makes a second segment");
    let sent = world.sent();
    assert!(sent[0].message.parts().text.ends_with(b" STOP 22555"));
    assert_eq!(sent[0].segments, 2);
}

#[test]
fn a_waiting_message_can_be_cancelled() {
    let mut world = World::new(promotional());
    let key = world.submit(1, "DEALS", NUMBER, "one").unwrap();
    let account = Arc::clone(world.gateway.accounts().by_name("a1").unwrap());
    let asked = crate::flow::Asked {
        account,
        operation: crate::flow::Operation::Cancel {
            key,
            source: Box::default(),
        },
        ticket: Ticket { sequence: 9, tag: 3 },
        reply: Arc::clone(&world.customer),
    };
    world.gateway.ingress.put(Input::Operation(Box::new(asked)));
    world.turn();
    let mut letters = Vec::new();
    world.customer.take(&mut letters);
    let done = ToCustomer::Outcome(Ticket { sequence: 9, tag: 3 }, crate::flow::Outcome::Done);
    assert_eq!(letters, [done]);
    assert_eq!(world.holds(1), 0);
    world.at(SIX + 4 * HOUR);
    assert!(world.sent().is_empty());
}

#[test]
fn without_room_for_it_a_waiting_message_was_never_there() {
    let mut world = World::new(promotional());
    world
        .store
        .with_disk(|d| d.failures.push(StoreError::Full("no room".into())));
    let account = Arc::clone(world.gateway.accounts().by_name("a1").unwrap());
    let policy = world.gateway.policy.load_full();
    let submission = Submission {
        ticket: Some(Ticket { sequence: 1, tag: 0 }),
        parts: Parts {
            source: b"DEALS",
            dest: NUMBER,
            text: b"one",
            ..Parts::default()
        },
        national: false,
        segments: Some(1),
        due_ms: Ok(None),
        expires_ms: Ok(None),
    };
    let items = vec![admit(&world.gateway, &policy, &account, &submission, now()).unwrap()];
    let reply = Arc::clone(&world.customer);
    world.gateway.ingress.put(Input::Submits {
        account,
        items,
        reply,
        policy: Arc::clone(&policy),
    });
    world.turn();
    let marks = world
        .store
        .with_disk(|d| d.batches().iter().map(|b| b.marks.len()).sum::<usize>());
    assert_eq!((marks, world.holds(1)), (0, 0));
    world.start().unwrap();
    world.at(SIX + 4 * HOUR);
    assert!(world.sent().is_empty());
}

fn reviewed() -> Rules {
    let words = ["jackpot".to_string()];
    let patterns = Patterns {
        words: &words,
        ..Patterns::default()
    };
    let mut rules = promotional();
    let rule = |name: &str, action, patterns: &Patterns<'_>| {
        ContentRule::new(name, &[], &[], action, patterns).unwrap()
    };
    let url = Patterns {
        urls: true,
        ..Patterns::default()
    };
    rules.content = vec![
        rule("betting", Action::Hold, &patterns),
        rule("links", Action::Reject, &url),
    ];
    rules
}

#[test]
fn a_held_message_waits_for_a_person_who_lets_it_go_or_refuses_it() {
    let mut world = World::new(reviewed());
    assert_eq!(
        world.submit(1, "BANK", NUMBER, "see http://x.y"),
        Err(Reject::Content)
    );
    let go = world.submit(1, "BANK", NUMBER, "the Jackpot is yours").unwrap();
    let no = world.submit(1, "BANK", NUMBER, "JACKPOT!").unwrap();
    let by_day = world.submit(1, "DEALS", NUMBER, "jackpot").unwrap();
    assert!(world.sent().is_empty());
    world.start().unwrap();
    assert_eq!(world.held(), [go, no, by_day]);
    assert_eq!(world.state(go), Some("review"));
    world.rule(RuleChange::LetGo(go)).unwrap();
    world.rule(RuleChange::Refuse(no)).unwrap();
    world.rule(RuleChange::LetGo(by_day)).unwrap();
    assert!(matches!(
        world.rule(RuleChange::LetGo(go)),
        Err(ControlError::State(_))
    ));
    assert!(matches!(
        world.rule(RuleChange::Refuse(no)),
        Err(ControlError::NoSuch("message"))
    ));
    assert_eq!(world.delivered(1), ["REJECTD"]);
    let sent: Vec<MessageKey> = world.sent().iter().map(|m| m.key).collect();
    assert_eq!(sent, [go], "the promotional one still waits for its hours");
    assert!(world.held().is_empty());
    world.start().unwrap();
    assert!(world.held().is_empty());
    assert_eq!(world.holds(1), 2 * PRICE);
    world.at(SIX + 4 * HOUR);
    let sent: Vec<MessageKey> = world.sent().iter().map(|m| m.key).collect();
    assert!(sent.contains(&by_day), "{sent:?}");
}

fn opting_out() -> Rules {
    let list = |words: &[&str]| words.iter().map(|w| (*w).to_string()).collect::<Vec<_>>();
    let mut rules = promotional();
    rules.classes.clear();
    rules.opt_out = OptOut {
        words: Words::new(&list(&["STOP", "ACHA"]), &list(&["START"])),
        stopped: "You will get no more.".into(),
        started: "You will get messages.".into(),
        answer_every_ms: 24 * HOUR,
    };
    rules.own = [b"22555".to_vec()].into();
    rules
}

#[test]
fn stop_is_on_record_with_the_message_and_answered_once_for_free() {
    let mut world = World::new(opting_out());
    assert!(world.submit(1, "DEALS", NUMBER, "buy").is_ok());
    let before = world.store.with_disk(|d| d.batches().len());
    world.sent();
    let spent = (world.holds(1), world.spent(1));
    world.inbound(NUMBER, " stop! ");
    let together = world.store.with_disk(|d| {
        let with = |b: &&Batch| !b.rules.suppressed.is_empty();
        d.batches()[before..]
            .iter()
            .filter(with)
            .map(|b| (b.outbox_put.len(), b.accepted.len()))
            .collect::<Vec<_>>()
    });
    assert_eq!(
        together,
        [(1, 1)],
        "one commit: the message, the entry and the answer"
    );
    let answers = world.sent();
    assert_eq!(answers.len(), 1);
    let parts = answers[0].message.parts();
    assert_eq!((parts.source, parts.dest), (&b"22555"[..], NUMBER));
    assert_eq!(parts.text, b"You will get no more.");
    assert_eq!(world.delivered(1), [" stop! "], "its customer sees it");
    assert_eq!(
        (world.holds(1), world.spent(1)),
        spent,
        "nobody pays for the answer"
    );
    assert_eq!(world.submit(1, "DEALS", NUMBER, "buy"), Err(Reject::Suppressed));
    assert_eq!(world.submit(1, "SHOP", NUMBER, "buy"), Err(Reject::Suppressed));
    assert!(world.submit(1, "BANK", NUMBER, "123456").is_ok(), "transactional");
    assert!(
        world.submit(2, "DEALS", NUMBER, "buy").is_ok(),
        "another customer"
    );
    assert!(world.submit(1, "DEALS", b"254712345679", "buy").is_ok());
    world.inbound(NUMBER, "ACHA");
    world.sent();
    world.start().unwrap();
    world.sent();
    assert_eq!(world.submit(1, "DEALS", NUMBER, "buy"), Err(Reject::Suppressed));
    world.inbound(NUMBER, "start");
    assert!(world.submit(1, "DEALS", NUMBER, "buy").is_ok());
    world.start().unwrap();
    assert!(world.submit(1, "DEALS", NUMBER, "buy").is_ok());
}

#[test]
fn many_stops_bring_one_answer_and_short_codes_none() {
    let mut world = World::new(opting_out());
    for text in ["STOP", "stop", "ACHA", "START", "STOP"] {
        world.inbound(NUMBER, text);
    }
    assert_eq!(world.sent().len(), 1);
    world.inbound(b"22666", "STOP");
    assert!(world.sent().is_empty());
    NOW.set(now() + 25 * HOUR);
    world.inbound(NUMBER, "STOP");
    assert_eq!(world.sent().len(), 1, "another day");
}

#[test]
fn a_name_behind_the_word_stops_one_sender() {
    let mut world = World::new(opting_out());
    world.inbound(NUMBER, "STOP deals");
    assert_eq!(world.submit(1, "DEALS", NUMBER, "buy"), Err(Reject::Suppressed));
    assert!(world.submit(1, "SHOP", NUMBER, "buy").is_ok());
    world.inbound(NUMBER, "START");
    assert!(
        world.submit(1, "DEALS", NUMBER, "buy").is_ok(),
        "a bare START takes it back for the senders that are known"
    );
}

fn entry(world: &World, scope: Scope, transactional: bool, until_ms: u64) -> Suppression {
    Suppression {
        subject: world.gateway.live.subject(NUMBER).unwrap(),
        scope,
        source: Source::Request,
        transactional,
        reason: "objection".into(),
        at_ms: now(),
        until_ms,
    }
}

#[test]
fn an_objection_to_all_use_is_not_taken_back_by_a_word() {
    let mut world = World::new(opting_out());
    let all = entry(&world, Scope::Account(world.id(1)), true, 0);
    world.rule(RuleChange::Suppress(vec![all])).unwrap();
    assert_eq!(world.submit(1, "BANK", NUMBER, "123456"), Err(Reject::Suppressed));
    world.inbound(NUMBER, "STOP");
    world.inbound(NUMBER, "START");
    assert_eq!(world.submit(1, "BANK", NUMBER, "123456"), Err(Reject::Suppressed));
}

#[test]
fn an_entry_ends_when_its_time_is_over_unless_another_has_taken_its_place() {
    let mut world = World::new(opting_out());
    let (one, two) = (Scope::Account(world.id(1)), Scope::Account(world.id(2)));
    let until = now() + HOUR;
    let rows = vec![
        entry(&world, one.clone(), false, until),
        entry(&world, two.clone(), false, until),
        entry(&world, Scope::Platform, false, until),
    ];
    world.rule(RuleChange::Suppress(rows)).unwrap();
    let for_good = entry(&world, two, false, 0);
    world.rule(RuleChange::Suppress(vec![for_good])).unwrap();
    world.start().unwrap();
    assert_eq!(world.submit(0, "DEALS", NUMBER, "x"), Err(Reject::Suppressed));
    world.at(until + 1_000);
    assert!(world.submit(0, "DEALS", NUMBER, "x").is_ok());
    assert!(world.submit(1, "DEALS", NUMBER, "x").is_ok());
    assert_eq!(world.submit(2, "DEALS", NUMBER, "x"), Err(Reject::Suppressed));
    let subject = world.gateway.live.subject(NUMBER).unwrap();
    let gone = world.rule(RuleChange::Unsuppress(subject, one));
    assert!(matches!(gone, Err(ControlError::NoSuch("suppression"))));
}

#[test]
fn without_its_key_a_store_with_entries_is_not_opened() {
    let mut world = World::new(opting_out());
    world.inbound(NUMBER, "STOP");
    world.key = [8; 32];
    let error = world.start().unwrap_err();
    assert!(error.to_string().contains("number_key"), "{error}");
    world.key = [7; 32];
    assert!(world.start().is_ok());
}

#[test]
fn receipts_of_some_kinds_suppress_for_the_sender_of_that_account() {
    let mut rules = opting_out();
    rules.suppress = vec![SuppressOn {
        upstream: None,
        state: None,
        errors: vec![27],
        scope: SuppressScope::Sender,
        for_ms: 0,
        reason: "blacklisted".into(),
    }];
    let mut world = World::new(rules);
    for (n, (id, err)) in [("X1", 1), ("X2", 27)].into_iter().enumerate() {
        world.submit(1, "DEALS", NUMBER, "buy").unwrap();
        let key = world.sent()[0].key;
        world.report(vec![
            UpEvent::Sent {
                key,
                piece: Piece::WHOLE,
                smsc_id: id.as_bytes().into(),
            },
            UpEvent::Receipt(
                n as u64,
                UpReceipt {
                    smsc_id: id.as_bytes().into(),
                    number: NUMBER.into(),
                    other: Box::default(),
                    state: Final::Undeliverable.code(),
                    err,
                },
            ),
        ]);
    }
    assert_eq!(world.submit(1, "DEALS", NUMBER, "buy"), Err(Reject::Suppressed));
    assert!(world.submit(1, "SHOP", NUMBER, "buy").is_ok());
    assert!(world.submit(2, "DEALS", NUMBER, "buy").is_ok());
}

#[test]
fn a_number_gets_as_many_as_its_class_allows_after_a_restart_too() {
    let mut rules = promotional();
    rules.classes = vec![ClassRule {
        hours: None,
        cap: 2,
        cap_span_s: 3_600,
        ..by_day()
    }];
    let mut world = World::new(rules);
    assert!(world.submit(1, "DEALS", NUMBER, "1").is_ok());
    assert!(world.submit(1, "DEALS", NUMBER, "2").is_ok());
    let held = world.holds(1);
    assert_eq!(world.submit(1, "DEALS", NUMBER, "3"), Err(Reject::Frequency));
    assert_eq!(world.holds(1), held);
    assert!(world.submit(1, "BANK", NUMBER, "3").is_ok(), "of another class");
    assert!(
        world.submit(2, "DEALS", NUMBER, "3").is_ok(),
        "of another customer"
    );
    world.start().unwrap();
    assert_eq!(world.submit(1, "DEALS", NUMBER, "3"), Err(Reject::Frequency));
    world.at(now() + HOUR);
    assert!(world.submit(1, "DEALS", NUMBER, "3").is_ok());
}

#[test]
fn a_rule_against_abuse_opens_one_case_until_it_is_closed() {
    let rules = Rules {
        abuse: vec![AbuseRule {
            name: "same".into(),
            counts: Counts::SameText,
            accounts: Vec::new(),
            limit: 3,
            span_s: 600,
        }],
        ..Rules::default()
    };
    let mut world = World::new(rules);
    let cases = |world: &World| {
        world.store.with_disk(|d| {
            let all = d.batches().iter().flat_map(|b| b.rules.cases.clone());
            all.collect::<Vec<_>>()
        })
    };
    for n in 0..8 {
        assert!(world.submit(1, "SHOP", NUMBER, "the same").is_ok());
        assert!(world.submit(1, "SHOP", NUMBER, &format!("another {n}")).is_ok());
    }
    world.turn();
    let opened = cases(&world);
    assert_eq!(opened.len(), 1);
    let first = &opened[0];
    assert_eq!((first.id, first.account, first.count), (1, world.id(1), 4));
    assert_eq!((first.rule.as_str(), first.kind.as_str()), ("same", "same-text"));
    world.start().unwrap();
    for _ in 0..5 {
        world.submit(1, "SHOP", NUMBER, "the same").unwrap();
    }
    world.turn();
    assert_eq!(cases(&world).len(), 1, "it is open across a restart");
    world.rule(RuleChange::CloseCase(1, "a campaign".into())).unwrap();
    assert!(matches!(
        world.rule(RuleChange::CloseCase(1, "again".into())),
        Err(ControlError::NoSuch("case"))
    ));
    world.submit(1, "SHOP", NUMBER, "the same").unwrap();
    world.turn();
    let all = cases(&world);
    assert_eq!(all.len(), 3);
    assert_eq!((all[1].state, all[2].id), (CaseState::Closed, 2));
}

#[test]
fn two_numbers_of_ours_do_not_answer_each_other_for_ever() {
    let mut rules = opting_out();
    rules.own = [b"22555".to_vec(), b"254700000001".to_vec()].into();
    let mut world = World::new(rules);
    let mut taken = 0;
    for _ in 0..10 {
        if world
            .submit(1, "22555", b"254700000001", "we are closed")
            .is_err()
        {
            break;
        }
        taken += 1;
        world.inbound(b"254700000001", "we are closed");
    }
    assert!((1..=5).contains(&taken), "{taken}");
    let kinds = world.store.with_disk(|d| {
        let cases = d.batches().iter().flat_map(|b| b.rules.cases.clone());
        cases.map(|c| c.kind).collect::<Vec<_>>()
    });
    assert_eq!(kinds, ["loop"]);
    assert!(
        world
            .submit(1, "22555", b"254700000001", "something else")
            .is_ok()
    );
}

#[test]
fn a_sender_is_in_force_as_soon_as_it_is_registered_and_no_longer_than_it_stands() {
    let mut world = World::new(promotional());
    let register = |account: &str, id: &str, class: &str| {
        RuleChange::Register(Sender {
            account: account.into(),
            id: id.into(),
            class: class.into(),
            ..Sender::default()
        })
    };
    let stand = |standing| RuleChange::Stand {
        account: "a1".into(),
        id: "NEWS".into(),
        operator: String::new(),
        standing,
    };
    assert!(
        world.submit(1, "NEWS", NUMBER, "x").is_ok(),
        "nobody has registered it"
    );
    world.rule(register("a1", "NEWS", TRANSACTIONAL)).unwrap();
    assert_eq!(
        world.submit(1, "NEWS", NUMBER, "x"),
        Err(Reject::Source),
        "pending"
    );
    world.rule(stand(Standing::Active)).unwrap();
    assert!(world.submit(1, "news", NUMBER, "x").is_ok());
    assert_eq!(
        world.submit(2, "NEWS", NUMBER, "x"),
        Err(Reject::Source),
        "another's"
    );
    assert_eq!(
        world.submit(2, "N-EWS", NUMBER, "x"),
        Err(Reject::Source),
        "looks alike"
    );
    let both = world.rule(register("a2", "DEALS", TRANSACTIONAL));
    assert!(matches!(both, Err(ControlError::Invalid("id", _))), "{both:?}");
    let alike = world.rule(register("a2", "NEW5", PROMOTIONAL));
    assert!(alike.is_ok(), "5 and S are told apart");
    world.rule(stand(Standing::Suspended)).unwrap();
    world.start().unwrap();
    assert_eq!(world.submit(1, "NEWS", NUMBER, "x"), Err(Reject::Source));
    world.rule(stand(Standing::Revoked)).unwrap();
    assert!(matches!(
        world.rule(stand(Standing::Active)),
        Err(ControlError::State(_))
    ));
}

#[test]
fn a_link_id_goes_from_a_question_to_its_answer() {
    let mut rules = opting_out();
    rules.link_tags = vec![(UpstreamId(0), 0x1501)];
    let mut world = World::new(rules);
    let question = Message::new(&Parts {
        source: b"+254712345678",
        dest: b"22555",
        text: b"NEWS",
        tlvs: &[0x15, 0x01, 0, 2, b'L', b'7'],
        ..Parts::default()
    });
    world.report(vec![UpEvent::Inbound(1, question, None)]);
    world.submit(2, "22555", NUMBER, "not whose it is").unwrap();
    world.submit(1, "22555", NUMBER, "the news").unwrap();
    world.submit(1, "22555", NUMBER, "more news").unwrap();
    let sent = world.sent();
    let tlvs: Vec<&[u8]> = sent.iter().map(|m| m.message.parts().tlvs).collect();
    assert_eq!(tlvs, [&b""[..], &[0x15, 0x01, 0, 2, b'L', b'7'], b""]);
}

#[test]
fn every_decision_is_explained_and_counts_nothing() {
    let mut rules = reviewed();
    rules.classes = vec![ClassRule {
        suffix: " STOP 22555".into(),
        cap: 1,
        ..by_day()
    }];
    let mut world = World::new(rules);
    let explained = |world: &World, source: &str, text: &str| {
        let account = Arc::clone(world.gateway.accounts().by_name("a1").unwrap());
        let parts = Parts {
            source: source.as_bytes(),
            dest: NUMBER,
            text: text.as_bytes(),
            ..Parts::default()
        };
        let policy = world.gateway.policy.load_full();
        crate::flow::rules::explain(&world.gateway, &policy, &account, &parts, now())
    };
    let text = "x".repeat(155);
    for _ in 0..3 {
        let told = explained(&world, "deals", &text);
        assert_eq!((told.sender, told.class.as_str()), ("active", PROMOTIONAL));
        assert_eq!(told.hours.as_deref(), Some("08:00-18:00"));
        assert_eq!(
            (told.opens_ms.map(|ms| ms / HOUR * HOUR), told.outside),
            (Some(SIX + 2 * HOUR), Some("hold"))
        );
        assert_eq!((told.suffix.as_str(), told.segments), (" STOP 22555", Some(2)));
        assert_eq!((told.cap, told.refused), (Some((0, 1, 86_400)), None));
    }
    let told = explained(&world, "BANK", "jackpot at http://x.y");
    assert_eq!(
        told.content,
        [("betting".to_string(), "hold"), ("links".to_string(), "reject")]
    );
    assert_eq!((told.refused, told.hours), (Some(Reject::Content), None));
    assert_eq!(explained(&world, "SHOP", "hi").sender, "unregistered");
    world.submit(1, "DEALS", NUMBER, "one").unwrap();
    assert_eq!(explained(&world, "DEALS", "two").refused, Some(Reject::Frequency));
    let entry = entry(&world, Scope::Account(world.id(1)), false, 0);
    world.rule(RuleChange::Suppress(vec![entry])).unwrap();
    let told = explained(&world, "DEALS", "two");
    assert_eq!(
        (told.suppressed, told.refused),
        (Some("account"), Some(Reject::Suppressed))
    );
    assert_eq!(explained(&world, "BANK", "two").suppressed, None);
}

/// Whatever is submitted, held, let go, cancelled by time and restarted: money that is held is that of open messages, and each
/// message ends once.
#[test]
fn through_any_order_of_steps_holds_are_those_of_open_messages() {
    for seed in 1..40u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut world = World::new(reviewed());
        let (mut accepted, mut ended) = (0usize, 0usize);
        for _ in 0..60 {
            match below(7) {
                0 | 1 => {
                    let source = ["DEALS", "BANK"][below(2) as usize];
                    let text = ["jackpot", "hello"][below(2) as usize];
                    let valid = [None, Some(HOUR), Some(20 * 60_000)][below(3) as usize];
                    let taken = world.submit_for(1, source, NUMBER, text, valid);
                    accepted += usize::from(taken.is_ok());
                }
                2 => {
                    if let Some(key) = world.held().first().copied() {
                        world.rule(RuleChange::LetGo(key)).unwrap();
                    }
                }
                3 => {
                    if let Some(key) = world.held().last().copied() {
                        world.rule(RuleChange::Refuse(key)).unwrap();
                    }
                }
                4 => {
                    // Receipts that nobody has read yet are offered again; these have been.
                    world.engine.as_mut().unwrap().flush_outboxes(now(), true);
                    world.engine.as_mut().unwrap().commit().unwrap();
                    world.start().unwrap();
                }
                5 => world.at(now() + below(3 * HOUR)),
                _ => {
                    for message in world.sent() {
                        world.report(vec![UpEvent::Failed {
                            key: message.key,
                            piece: message.piece,
                            status: 8,
                        }]);
                    }
                }
            }
            // Some wait in the store for their turn.
            while !world.outbox_empty(1) {
                ended += world.delivered(1).len();
                world.turn();
            }
            let open = world.engine.as_ref().unwrap().open();
            assert_eq!(world.holds(1), open as i64 * PRICE, "seed {seed}");
            assert_eq!(accepted, ended + open, "seed {seed}: each ends once");
        }
        world.at(now() + 72 * HOUR);
        world.turn();
        while !world.outbox_empty(1) {
            ended += world.delivered(1).len();
            world.turn();
        }
        assert_eq!((world.holds(1), world.spent(1)), (0, 0));
        assert_eq!(accepted, ended, "seed {seed}");
    }
}

#[test]
fn what_has_waited_and_was_sent_is_not_sent_again_after_a_restart() {
    let mut rules = opting_out();
    rules.classes = vec![by_day()];
    let mut world = World::new(rules);
    let key = world.submit(1, "DEALS", NUMBER, "one").unwrap();
    world.at(SIX + 2 * HOUR);
    assert_eq!(world.sent().iter().map(|m| m.key).collect::<Vec<_>>(), [key]);
    world.report(vec![UpEvent::Sent {
        key,
        piece: Piece::WHOLE,
        smsc_id: b"X1".as_slice().into(),
    }]);
    // Its subscriber opts out afterwards: that is too late for this one.
    world.inbound(NUMBER, "STOP");
    let answers = world.sent().len();
    for ms in [SIX + 2 * HOUR + 1_000, SIX + 2 * HOUR + 5_000] {
        NOW.set(ms);
        world.start().unwrap();
        let again = world.sent().iter().filter(|m| m.key == key).count();
        assert_eq!((again, world.state(key)), (0, Some("sent")), "{answers} answers");
    }
    world.report(vec![UpEvent::Receipt(
        1,
        UpReceipt {
            smsc_id: b"X1".as_slice().into(),
            number: NUMBER.into(),
            other: Box::default(),
            state: 2,
            err: 0,
        },
    )]);
    assert_eq!(world.state(key), None, "its receipt ends it");
}
