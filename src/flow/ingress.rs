//! What crosses between the sessions and the engine: always batches, never one message at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::account::AccountState;
use super::lane::Outgoing;
use super::policy::Policy;
use super::rules::{RuleChange, RuleReply};
use crate::domain::account::Account;
use crate::domain::message::{Fragment, Message, Piece};
use crate::domain::outcome::{ChargeOn, Wants};
use crate::domain::quota::Period;
use crate::domain::reject::Reject;
use crate::domain::tariff::PriceRule;
use crate::domain::wallet::Hold;
use crate::ids::{AccountId, MessageKey, UpstreamId};
use crate::money::Money;
use crate::store::{Payment, Payout, PayoutState};

/// Wakes whoever waits behind a mailbox. `net` implements it with its runtime; tests with a counter.
pub trait Signal: Send + Sync {
    /// Called after something was put in. Must not block.
    fn signal(&self);
}

/// Locks without poisoning: a panic aborts the process in production, and a test that panics has failed already.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A batch mailbox towards one session. Bounded by what the session may have outstanding (its windows).
pub struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    signal: Box<dyn Signal>,
}

impl<T> std::fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({})", lock(&self.items).len())
    }
}

impl<T> Mailbox<T> {
    /// An empty mailbox that wakes its owner through `signal`.
    #[must_use]
    pub fn new(signal: Box<dyn Signal>) -> Mailbox<T> {
        Mailbox {
            items: Mutex::new(Vec::new()),
            signal,
        }
    }

    /// Puts a batch in and wakes the owner once.
    pub fn put(&self, batch: impl IntoIterator<Item = T>) {
        lock(&self.items).extend(batch);
        self.signal.signal();
    }

    /// Moves everything into `into`.
    pub fn take(&self, into: &mut Vec<T>) {
        let mut items = lock(&self.items);
        if into.is_empty() {
            std::mem::swap(into, &mut items);
        } else {
            into.append(&mut items);
        }
    }

    /// Wakes the owner without putting anything in.
    pub fn wake(&self) {
        self.signal.signal();
    }
}

/// What a session gave with a request and gets back with its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The customer's sequence number.
    pub sequence: u32,
    /// The session's own: which operation the answer belongs to.
    pub tag: u32,
}

/// To a customer's session.
#[derive(Debug, PartialEq, Eq)]
pub enum ToCustomer {
    /// On record: answer this submit with ESME_ROK and the key.
    Accepted(Ticket, MessageKey),
    /// Could not be put on record: answer with the reason's status. Nothing was charged.
    Refused(Ticket, Reject),
    /// What came of a query_sm, cancel_sm or replace_sm.
    Outcome(Ticket, Outcome),
    /// A handset that the customer waits for is reachable again (alert_notification): the body of the PDU.
    Alert(Arc<[u8]>),
}

/// What came of an operation on a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The state of a message.
    State {
        /// Its id.
        key: MessageKey,
        /// message_state.
        state: u8,
        /// When it ended, ms since the epoch.
        done_ms: Option<u64>,
        /// `err` of its receipt.
        err: u16,
    },
    /// Done, and on record.
    Done,
    /// The message has been sent, or is over.
    TooLate,
    /// No such message of this account.
    NotFound,
    /// For a reason of ours.
    Refused(Reject),
}

/// An operation on messages that are on record.
#[derive(Debug)]
pub enum Operation {
    /// Tells the state of a message.
    Query {
        /// Which.
        key: MessageKey,
        /// Its source address; empty: any.
        source: Box<[u8]>,
    },
    /// Takes a message back.
    Cancel {
        /// Which.
        key: MessageKey,
        /// Its source address; empty: any.
        source: Box<[u8]>,
    },
    /// Takes back everything that waits for a destination.
    CancelAll {
        /// From this source address.
        source: Box<[u8]>,
        /// To this number.
        dest: Box<[u8]>,
        /// Of this service_type; empty: any.
        service_type: Box<[u8]>,
    },
    /// Puts another text in place of a message's.
    Replace {
        /// Which.
        key: MessageKey,
        /// Its source address; empty: any.
        source: Box<[u8]>,
        /// The new text and times.
        replacement: Box<super::engine::Replacement>,
    },
}

/// A customer's operation on its messages.
#[derive(Debug)]
pub struct Asked {
    /// Whose.
    pub account: Arc<AccountState>,
    /// What.
    pub operation: Operation,
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// Where the answer goes.
    pub reply: Arc<Mailbox<ToCustomer>>,
}

/// To an upstream bind.
#[derive(Debug)]
pub enum ToUpstream {
    /// On record: answer the deliver_sm that carried this token with ESME_ROK.
    Committed(u64),
    /// Marked as being sent: write it now.
    Write(Outgoing),
}

/// A submit that passed every check and holds its price.
#[derive(Debug)]
pub struct Admitted {
    /// Comes back with the answer; `None` for the second and later messages of a submit_multi.
    pub ticket: Option<Ticket>,
    /// Now, ms since the epoch.
    pub at_ms: u64,
    /// Until when it may be sent.
    pub expires_ms: u64,
    /// Its price, set aside.
    pub hold: Hold,
    /// Version of the tariff.
    pub tariff: u32,
    /// When the price is earned.
    pub charge_on: ChargeOn,
    /// Which receipts are wanted.
    pub wants: Wants,
    /// Segments billed.
    pub segments: u8,
    /// Index of its route in the policy.
    pub route: u16,
    /// Index of its sender's class in the policy.
    pub class: u16,
    /// Not to be sent before then, ms since the epoch; 0: at once; [`crate::store::Mark::NEVER`]: not before a person has said so.
    pub not_before_ms: u64,
    /// Where its segments were counted, if its account has a quota.
    pub quota: Option<Period>,
    /// The message.
    pub message: Message,
}

/// A receipt as an upstream reported it.
#[derive(Debug, Clone)]
pub struct UpReceipt {
    /// The SMSC's id as written, at most 65 octets.
    pub smsc_id: Box<[u8]>,
    /// The number the message went to (source address of the receipt); empty if not given.
    pub number: Box<[u8]>,
    /// Destination address of the receipt; some SMSCs do not turn the addresses round.
    pub other: Box<[u8]>,
    /// message_state; 1 (ENROUTE) and unknown numbers are no end.
    pub state: u8,
    /// The `err` field.
    pub err: u16,
}

/// What an upstream bind reports.
#[derive(Debug)]
pub enum UpEvent {
    /// Taken by the SMSC under this id.
    Sent {
        /// Which message.
        key: MessageKey,
        /// Which part of it.
        piece: Piece,
        /// The SMSC's id, at most 65 octets; empty if it gave none.
        smsc_id: Box<[u8]>,
    },
    /// Taken by the SMSC, as it says after the response timeout: the message may wait for another try by now.
    LateSent {
        /// Which message.
        key: MessageKey,
        /// Which part of it.
        piece: Piece,
        /// The SMSC's id, at most 65 octets; empty if it gave none.
        smsc_id: Box<[u8]>,
    },
    /// Refused for good with this command_status.
    Failed {
        /// Which message.
        key: MessageKey,
        /// Which part of it.
        piece: Piece,
        /// The command_status.
        status: u32,
    },
    /// Its validity ran out before it was sent.
    Expired(MessageKey, Piece),
    /// About to be written; wants its mark on record first.
    Sending(Outgoing),
    /// Marked as being sent, but not written: first in line again, once that is on record.
    Unwritten(Outgoing),
    /// Marked as being sent and refused for the moment: it waits for its next try, once that is on record.
    Refused(Outgoing),
    /// Written, never answered, and to be held.
    Held(MessageKey, Piece),
    /// Written, never answered, and to be failed.
    Abandoned(MessageKey, Piece),
    /// Written and never answered, and to be sent again: from now on nobody can say that it was not sent.
    Again(MessageKey),
    /// A receipt; the token comes back with the answer.
    Receipt(u64, UpReceipt),
    /// A mobile-originated message, and which part of one it is; the token comes back with the answer.
    Inbound(u64, Message, Option<Fragment>),
    /// A handset is reachable again (alert_notification): the address it speaks to, and the body of the PDU.
    Alert(Box<[u8]>, Arc<[u8]>),
}

/// Why a control request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlError {
    /// No such account.
    NotFound,
    /// The name or system_id is taken.
    Taken(&'static str),
    /// The receipt is on record with another amount or account.
    IdempotencyConflict,
    /// The store cannot take it now.
    Unavailable,
    /// A field is wrong.
    Invalid(&'static str, String),
    /// Not in the state that it is in.
    State(&'static str),
    /// No such payment or payout.
    NoSuch(&'static str),
    /// Less money is there than is asked for.
    Funds(Money),
}

/// What a control request answers.
#[derive(Debug, Clone)]
pub enum ControlReply {
    /// The account as it is now.
    Account(Box<Account>),
    /// The payment on record, and whether it had been there before.
    Payment(Payment, bool),
    /// The payout on record, and whether it had been there before.
    Payout(Payout, bool),
    /// An open message, if it is open.
    Open(Option<super::OpenView>),
    /// What a change of the rules answers.
    Rule(RuleReply),
    /// Done.
    Done,
}

/// Called once with the outcome, on the engine's thread: must not block.
pub type Reply = Box<dyn FnOnce(Result<ControlReply, ControlError>) + Send>;

/// What to change of an account; an error refuses it.
pub type Change = Box<dyn FnOnce(&mut Account) -> Result<(), ControlError> + Send>;

/// What to change of an account's own prices; an error refuses it.
pub type PriceChange = Box<dyn FnOnce(&mut Vec<PriceRule>) -> Result<(), ControlError> + Send>;

/// A change from the control plane. It goes through the engine so that it is ordered with traffic and durable before the
/// answer.
pub enum Control {
    /// Creates an account; its id is assigned.
    CreateAccount(Box<Account>),
    /// Changes an account as it is when its turn comes, so that two changes at a time never undo each other.
    ChangeAccount(AccountId, Change),
    /// Changes the prices that an account has of its own, as they are when its turn comes; without any it is left to its tariff.
    ChangePrices(AccountId, PriceChange),
    /// Books a payment: to its account, or where that is [`AccountId::NONE`] to the one that its payer wrote, or to suspense. An
    /// adjustment may be negative.
    Pay(Box<Payment>),
    /// Gives a payment in suspense to an account.
    Assign {
        /// Who says so.
        provider: String,
        /// The provider's receipt number.
        receipt: String,
        /// Whose it is.
        account: AccountId,
    },
    /// The provider has taken a payment back, whole or what is left of it.
    Reverse {
        /// Who says so.
        provider: String,
        /// The provider's receipt number.
        receipt: String,
    },
    /// Sets unused money of a payment aside, to be paid back outside.
    Payout(Box<Payout>),
    /// What became of a payout.
    SettlePayout {
        /// Its reference.
        reference: String,
        /// How it ended, or that nobody knows.
        state: PayoutState,
    },
    /// Senders, suppressed numbers, held messages and cases.
    Rule(Box<RuleChange>),
    /// Looks an open message up.
    ShowOpen(MessageKey),
    /// Answers when everything before it is on record.
    Barrier,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Control::CreateAccount(_) => "CreateAccount",
            Control::ChangeAccount(..) => "ChangeAccount",
            Control::ChangePrices(..) => "ChangePrices",
            Control::Pay(_) => "Pay",
            Control::Assign { .. } => "Assign",
            Control::Reverse { .. } => "Reverse",
            Control::Payout(_) => "Payout",
            Control::SettlePayout { .. } => "SettlePayout",
            Control::Rule(_) => "Rule",
            Control::ShowOpen(_) => "ShowOpen",
            Control::Barrier => "Barrier",
        })
    }
}

/// One hand-over to the engine.
pub enum Input {
    /// Submits of one session.
    Submits {
        /// Whose.
        account: Arc<AccountState>,
        /// The rules under which they were admitted, which others may have followed since.
        policy: Arc<Policy>,
        /// In the order they came.
        items: Vec<Admitted>,
        /// Where the answers go.
        reply: Arc<Mailbox<ToCustomer>>,
    },
    /// Reports of one upstream bind.
    Upstream {
        /// Which upstream.
        upstream: UpstreamId,
        /// In the order they came.
        events: Vec<UpEvent>,
        /// Where the answers go.
        reply: Arc<Mailbox<ToUpstream>>,
    },
    /// An operation on messages.
    Operation(Box<Asked>),
    /// A control request.
    Control(Control, Reply),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Input::Submits { items, .. } => write!(f, "Submits({})", items.len()),
            Input::Upstream { events, .. } => write!(f, "Upstream({})", events.len()),
            Input::Operation(asked) => asked.operation.fmt(f),
            Input::Control(op, _) => op.fmt(f),
        }
    }
}

/// The engine's inbox. Bounded by the windows of all sessions and by `ingress_max`, which admission enforces.
#[derive(Debug, Default)]
pub struct Ingress {
    state: Mutex<Inbox>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    inputs: Inputs,
    woken: bool,
}

/// What waits for the engine: what upstreams say, and everything else, each in the order in which it came.
#[derive(Debug, Default)]
pub struct Inputs {
    links: VecDeque<Input>,
    pub(super) others: VecDeque<Input>,
}

impl Inputs {
    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.others.is_empty()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.len() + self.others.len()
    }

    fn push(&mut self, input: Input) {
        match input {
            Input::Upstream { .. } => self.links.push_back(input),
            _ => self.others.push_back(input),
        }
    }

    /// The next for a turn that has gathered `rows` of at most `max`. What ends messages goes before what begins them, so that
    /// customers with many binds cannot open more than is ended; of each turn the others have a quarter.
    pub(super) fn next(&mut self, rows: usize, max: usize) -> Option<Input> {
        if rows < (max * 3).div_ceil(4) || self.others.is_empty() {
            self.links.pop_front().or_else(|| self.others.pop_front())
        } else {
            self.others.pop_front()
        }
    }

    /// One that could not be worked on comes again first.
    pub(super) fn back(&mut self, input: Input) {
        match input {
            Input::Upstream { .. } => self.links.push_front(input),
            _ => self.others.push_front(input),
        }
    }
}

impl Ingress {
    /// Hands one batch over.
    pub fn put(&self, input: Input) {
        let mut state = lock(&self.state);
        state.inputs.push(input);
        // The engine looks again by itself after each commit; only a waiting one needs the call.
        let first = state.inputs.len() == 1;
        drop(state);
        if first {
            self.ready.notify_one();
        }
    }

    /// Makes the engine look at its timers and lanes.
    pub fn wake(&self) {
        lock(&self.state).woken = true;
        self.ready.notify_one();
    }

    /// Moves everything into `into`, waiting up to `wait` for something to come.
    pub fn take(&self, into: &mut Inputs, wait: Duration) {
        let mut state = lock(&self.state);
        if state.inputs.is_empty() && !state.woken && !wait.is_zero() {
            state = self
                .ready
                .wait_timeout_while(state, wait, |s| s.inputs.is_empty() && !s.woken)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.woken = false;
        into.links.append(&mut state.inputs.links);
        into.others.append(&mut state.inputs.others);
    }
}
