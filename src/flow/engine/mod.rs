//! The engine: one thread that owns open messages, receipt correlation and the store.
//!
//! Each turn takes what has come in, turns it into one batch, commits it, and only then lets answers, dispatches and
//! receipts out. Nothing else in the program writes messages or money.

mod asleep;
mod book;
mod commit;
mod control;
mod correlate;
mod join;
mod operate;
mod optout;
mod payments;
mod receipts;
mod recover;
mod rejoin;
mod resting;
mod rules;
#[cfg(test)]
mod rules_tests;
mod settle;
mod tally;
#[cfg(test)]
mod tests;
mod upkeep;
mod waits;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::account::AccountState;
use super::gateway::Gateway;
use super::ingress::{
    ControlError, ControlReply, Input, Inputs, Mailbox, Reply, Ticket, ToCustomer, ToUpstream,
};
use super::lane::Outgoing;
use super::outbox::OutItem;
use super::policy::Policy;
use crate::domain::outcome::Final;
use crate::domain::quota::Period;
use crate::domain::tariff::{PriceList, PriceRule};
use crate::ids::{AccountId, BatchId, MessageKey, Pos, UpstreamId};
use crate::money::Money;
use crate::store::{Batch, BillingLine, Fence, Parked, Store, StoreError};
use book::{Book, Effect, Phase};
pub use operate::Replacement;
use tally::{Tally, Why};

/// How the engine runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Reads the time, ms since the epoch.
    pub now_ms: fn() -> u64,
    /// Reads a monotonic microsecond counter, for latency figures.
    pub mono_us: fn() -> u64,
    /// Never waits for more work to come before it commits.
    pub eager: bool,
}

/// An open message as shown to operators.
#[derive(Clone, Debug)]
pub struct OpenView {
    /// Its key.
    pub key: MessageKey,
    /// Whose.
    pub account: AccountId,
    /// `queued`, `sending`, `sent` or `held`.
    pub state: &'static str,
    /// Who has it or took it.
    pub upstream: UpstreamId,
    /// Accepted, ms since the epoch.
    pub at_ms: u64,
    /// Not sent after this, ms since the epoch.
    pub expires_ms: u64,
    /// Segments billed.
    pub segments: u8,
    /// Price of all segments.
    pub price: Money,
    /// Already charged.
    pub captured: Money,
    /// A provisional receipt state.
    pub provisional: Option<Final>,
}

/// One hand-over of a session: whose, where its answers go, and a ticket for each message that is answered by itself.
type Submitted = (Arc<AccountState>, Arc<Mailbox<ToCustomer>>, Vec<Option<Ticket>>);

/// Keys of these maps are ours, so that a hash need not withstand an enemy.
type Fast = foldhash::fast::FixedState;

/// What a batch does to wallets, by account, billing line and reason.
type Sums = HashMap<(AccountId, u16, Why), Tally, Fast>;

/// Numbers of billing lines by route and class of one policy.
#[derive(Default)]
struct LinesOf {
    policy: Option<Arc<Policy>>,
    known: HashMap<(u16, u16), u16, Fast>,
}

/// What must not leave before the commit.
#[derive(Default)]
struct Pending {
    /// Submits, with one entry for each of `batch.accepted`.
    submits: Vec<Submitted>,
    /// Lanes for `batch.accepted`, in the same order.
    lanes: Vec<UpstreamId>,
    answers: Vec<(Arc<Mailbox<ToUpstream>>, Vec<ToUpstream>)>,
    outcomes: Vec<(Arc<Mailbox<ToCustomer>>, ToCustomer)>,
    lookups: Vec<super::lookup::Job>,
    deliveries: Vec<(AccountId, OutItem)>,
    effects: Sums,
    /// Segments counted in `batch.accepted`, of accounts with a quota.
    quotas: Vec<(AccountId, Period, u8)>,
    /// Held for what this batch pays out.
    set_aside: Vec<(AccountId, Money)>,
    prices: Vec<(AccountId, Vec<PriceRule>, PriceList)>,
    replies: Vec<(Reply, Result<ControlReply, ControlError>)>,
    /// Provider, receipt, and whether it was on record before.
    payment_replies: Vec<(Reply, String, String, bool)>,
    new_accounts: Vec<Arc<AccountState>>,
    replaced: Vec<crate::domain::account::Account>,
    recorded: Vec<(AccountId, usize)>,
    wallet_posts: Vec<(AccountId, Money)>,
    /// Messages that go back to their lanes; `true`: after a refusal, with a pause.
    returned: Vec<(UpstreamId, Outgoing, bool)>,
}

/// See the module's description.
pub struct Engine<S> {
    gateway: Arc<Gateway>,
    store: S,
    options: EngineOptions,
    fence: Fence,
    next_batch: u64,
    next_pos: u64,
    next_sequence: u32,
    next_account: u32,
    /// Numbers of billing lines.
    lines: HashMap<BillingLine, u16>,
    /// The same by route and class of the policy in force.
    lines_of: LinesOf,
    book: Book,
    /// Messages about to end, by time: those with a short validity or a near receipt timeout.
    due: BTreeMap<(u64, MessageKey), ()>,
    /// Messages that wait for a time, by time.
    waiting: BTreeSet<(u64, MessageKey)>,
    /// Of those, none up to here is asleep.
    awake_upto: (u64, MessageKey),
    /// Messages that may sleep once this turn is on record.
    drowsy: Vec<MessageKey>,
    /// Messages that wait for a person.
    held: BTreeSet<MessageKey>,
    /// Senders, suppressed numbers and cases.
    rules: rules::RuleState,
    /// Subscribers whose STOP or START was answered.
    answered: optout::Answered,
    /// Inbound messages that no rule claims, oldest first.
    unclaimed: VecDeque<Pos>,
    sweep: usize,
    swept_ms: u64,
    /// Where the look for messages that can rest goes on.
    rest_cursor: usize,
    /// When the stored outboxes were last looked through.
    expired_ms: u64,
    parked: HashMap<u64, Vec<Parked>>,
    parked_order: VecDeque<(Pos, u64, Vec<u64>)>,
    inputs: Inputs,
    /// Inbound messages that wait for parts.
    joining: BTreeMap<join::Whole, join::Joining>,
    /// When each of them began, oldest first; and of some that are complete.
    joining_order: VecDeque<(u64, join::Whole)>,
    joined: join::Joined,
    /// Outbound parts that wait for others.
    rejoining: rejoin::Rejoining,
    /// Cancellations of many that are under way.
    cancels: VecDeque<operate::CancelJob>,
    batch: Batch,
    pending: Pending,
    dispatching: VecDeque<(UpstreamId, Outgoing)>,
    /// Sum of [`super::lane::Upstream::turns`] when another route was last sought.
    upstream_turns: u64,
    dirty_ms: u64,
    tick_ms: u64,
    turn: u64,
    rate: Rate,
    unclean: bool,
    /// After a crash: messages before this one may have been written without a trace.
    unsure_before: Option<MessageKey>,
    /// A read that failed where its caller could not be told so: the turn ends with it.
    failed: Option<StoreError>,
    /// Sealing waits for receipts that are in customers' hands.
    seal_waits: bool,
}

impl<S> std::fmt::Debug for Engine<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} open)", self.book.len())
    }
}

/// How fast rows have been coming, for the linger.
#[derive(Default)]
struct Rate {
    window_ms: u64,
    rows: u64,
    per_second: u64,
    last_batch: usize,
}

/// Above this many rows a second, commits of fewer than `LINGER_ROWS` rows wait for company.
const LINGER_RATE: u64 = 20_000;
const LINGER_ROWS: usize = 48;
const LINGER: Duration = Duration::from_micros(400);
/// Open messages looked at in a turn of no rows, when too many are in memory.
const RESTS: usize = 64;
/// Sequence numbers left for the messages of one turn when the next epoch is taken: far more than a turn can accept.
const SEQUENCE_MAX: u32 = u32::MAX - (1 << 20);
/// Pause before background work that found no room is tried again.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(200);
/// Housekeeping: timers, watermarks, lanes of dead upstreams, free space.
const TICK_MS: u64 = 100;
/// How long watermarks and deletions of delivered rows may wait for a commit that happens anyway.
const DIRTY_MS: u64 = 200;

impl<S: Store> Engine<S> {
    /// Takes the store over and reads back everything that is open.
    ///
    /// # Errors
    /// Any [`StoreError`]; the process should not serve.
    pub fn start(
        gateway: Arc<Gateway>,
        mut store: S,
        options: EngineOptions,
    ) -> Result<Engine<S>, StoreError> {
        let owned = store.acquire()?;
        let mut engine = Engine {
            gateway,
            store,
            options,
            fence: owned.fence,
            next_batch: 1,
            next_pos: owned.next_pos.0.max(1),
            next_sequence: 0,
            next_account: 1,
            lines: HashMap::new(),
            lines_of: LinesOf::default(),
            book: Book::default(),
            due: BTreeMap::new(),
            waiting: BTreeSet::new(),
            awake_upto: (0, MessageKey(0)),
            drowsy: Vec::new(),
            held: BTreeSet::new(),
            rules: rules::RuleState::default(),
            answered: optout::Answered::default(),
            unclaimed: VecDeque::new(),
            sweep: 0,
            swept_ms: 0,
            rest_cursor: 0,
            expired_ms: 0,
            parked: HashMap::new(),
            parked_order: VecDeque::new(),
            inputs: Inputs::default(),
            joining: BTreeMap::new(),
            joining_order: VecDeque::new(),
            joined: join::Joined::default(),
            rejoining: rejoin::Rejoining::default(),
            cancels: VecDeque::new(),
            batch: Batch::default(),
            pending: Pending::default(),
            dispatching: VecDeque::new(),
            upstream_turns: 0,
            dirty_ms: 0,
            tick_ms: 0,
            turn: 0,
            rate: Rate::default(),
            unclean: owned.unclean,
            unsure_before: owned
                .unclean
                .then(|| MessageKey::new(owned.fence.shard, owned.fence.epoch, 0)),
            failed: None,
            seal_waits: false,
        };
        engine.recover()?;
        engine.beat();
        Ok(engine)
    }

    /// Whether the previous owner of the store stopped without saying so.
    #[must_use]
    pub fn unclean(&self) -> bool {
        self.unclean
    }

    /// Open messages.
    #[must_use]
    pub fn open(&self) -> usize {
        self.book.len()
    }

    /// Runs until [`Gateway::end`] is called, then puts on record what has come in and releases the store.
    ///
    /// # Errors
    /// `Fatal` or `Fenced`: the process must end without dropping the engine (closing the store would checkpoint it). `Full` or
    /// `Retry`: asked to end while the store took no writes; nothing that was acknowledged is lost.
    pub fn run(&mut self) -> Result<(), StoreError> {
        use std::sync::atomic::Ordering;
        while !self.gateway.ending() {
            let wait = self.wait();
            match self.turn(wait) {
                // Background work found no room; commits wait for it on their own.
                Err(error @ (StoreError::Full(_) | StoreError::Retry(_))) if !self.gateway.ending() => {
                    tracing::warn!(%error, "background work of the store waits");
                    std::thread::sleep(BACKGROUND_PAUSE);
                }
                other => other?,
            }
        }
        self.turn(Duration::ZERO)?;
        // What has tripped since the last tick has its case before the end.
        self.rules_tick((self.options.now_ms)());
        self.flush_outboxes((self.options.now_ms)(), true);
        self.commit()?;
        self.gateway.stopped.store(true, Ordering::Release);
        self.refuse_late();
        self.store.release(self.fence)
    }

    /// Answers control requests that came too late.
    fn refuse_late(&mut self) {
        let gateway = Arc::clone(&self.gateway);
        gateway.ingress.take(&mut self.inputs, Duration::ZERO);
        for input in self.inputs.others.drain(..) {
            if let Input::Control(_, reply) = input {
                reply(Err(ControlError::Unavailable));
            }
        }
    }

    fn wait(&self) -> Duration {
        let now = (self.options.now_ms)();
        if self.inputs.is_empty() && self.seal_waits {
            Duration::from_millis(5)
        } else if self.inputs.is_empty() && self.cancels.is_empty() && self.store.backlog() == 0 {
            // What has been given a time goes at that time.
            let timed = self.waiting.first().map_or(u64::MAX, |(due, _)| *due);
            Duration::from_millis((self.tick_ms + TICK_MS).min(timed).saturating_sub(now).max(1))
        } else {
            Duration::ZERO
        }
    }

    /// One turn: takes what has come (waiting up to `wait`), commits it, lets the results out, does some upkeep.
    ///
    /// # Errors
    /// `Fatal` or `Fenced`.
    pub fn turn(&mut self, wait: Duration) -> Result<(), StoreError> {
        let gateway = Arc::clone(&self.gateway);
        gateway.ingress.take(&mut self.inputs, wait);
        self.linger(&gateway);
        self.next_epoch()?;
        let now = self.beat();
        let idle = self.inputs.is_empty();
        self.cancel_slice(now)?;
        let most = gateway.limits.batch_rows_max;
        let (mut other, mut busy) = (false, None);
        loop {
            let input = if self.batch.rows() < most {
                self.inputs.next(self.batch.rows(), most)
            } else if other {
                None
            } else {
                // However much one upstream has said, somebody else has a turn.
                self.inputs.others.pop_front()
            };
            let Some(input) = input else { break };
            other |= !matches!(input, Input::Upstream { .. });
            if let Err(error) = self.wake_for(&input) {
                // Nothing of it is done: it comes again.
                self.inputs.back(input);
                busy = Some(error);
                break;
            }
            match self.input(input, now) {
                Ok(()) => {}
                Err(error @ (StoreError::Full(_) | StoreError::Retry(_))) => {
                    busy = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.wake_due(now)?;
        if now >= self.tick_ms + TICK_MS {
            self.tick_ms = now;
            self.upkeep(now)?;
        }
        self.flush_outboxes(now, false);
        self.commit()?;
        if let Some(error) = self.failed.take().or(busy) {
            return Err(error);
        }
        self.rest(now, 2 * self.rate.last_batch + RESTS);
        for key in self.drowsy.drain(..) {
            self.book.sleep(key, now);
        }
        self.tell_open();
        self.store.checkpoint()?;
        self.refill()?;
        self.seal(now, idle)
    }

    /// A store that cannot be read is not to be trusted with writes either; one that is busy is asked again.
    fn read_failed(&mut self, error: StoreError) {
        if !matches!(error, StoreError::Full(_) | StoreError::Retry(_)) {
            self.failed = self.failed.take().or(Some(error));
        }
    }

    /// Takes the next epoch in a commit of its own before the sequence numbers of this one are used up.
    fn next_epoch(&mut self) -> Result<(), StoreError> {
        if self.next_sequence <= SEQUENCE_MAX {
            return Ok(());
        }
        let epoch = self.fence.epoch + 1;
        self.batch.next_epoch = Some(epoch);
        self.commit()?;
        self.fence.epoch = epoch;
        self.next_sequence = 0;
        self.next_batch = 1;
        tracing::info!(epoch, "message ids go on under the next epoch");
        Ok(())
    }

    /// How many messages are open, and how many of them rest.
    fn tell_open(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        let totals = &self.gateway.totals;
        totals.open.store(self.book.len() as u64, Relaxed);
        totals.resting.store(self.book.resting() as u64, Relaxed);
        let upstreams = self.gateway.upstreams();
        let depths = upstreams.iter().map(|u| u.depth());
        let waiting: usize = depths.map(|(memory, stored)| memory + stored).sum();
        totals.waiting.store(waiting as u64, Relaxed);
    }

    /// Shows that the engine works; the time.
    fn beat(&self) -> u64 {
        let now = (self.options.now_ms)();
        self.gateway
            .beat_ms
            .store(now, std::sync::atomic::Ordering::Relaxed);
        now
    }

    /// At a high rate, commits of a few rows cost more than they bring: wait a little for company.
    fn linger(&mut self, gateway: &Gateway) {
        let few = self.rate.last_batch < LINGER_ROWS && self.inputs.len() < LINGER_ROWS / 4;
        if !self.options.eager && few && self.rate.per_second > LINGER_RATE && !self.inputs.is_empty() {
            std::thread::sleep(LINGER);
            gateway.ingress.take(&mut self.inputs, Duration::ZERO);
        }
    }

    fn input(&mut self, input: Input, now: u64) -> Result<(), StoreError> {
        match input {
            Input::Submits {
                account,
                policy,
                items,
                reply,
            } => self.submits(account, &policy, items, reply),
            Input::Upstream {
                upstream,
                events,
                reply,
            } => return self.upstream(upstream, events, reply, now),
            Input::Operation(asked) => return self.operate(*asked, now),
            Input::Control(op, reply) => self.control(op, reply, now),
        }
        Ok(())
    }

    fn pos(&mut self) -> Pos {
        let pos = Pos(self.next_pos);
        self.next_pos += 1;
        pos
    }

    fn batch_id(&self) -> BatchId {
        BatchId {
            epoch: self.fence.epoch,
            number: self.next_batch,
        }
    }

    /// Notes what an event does to a wallet; posted with the batch, in sums by account, billing line and reason.
    fn effect(&mut self, account: AccountId, line: u16, why: Why, effect: Effect) {
        if effect != Effect::default() {
            let tally = self.pending.effects.entry((account, line, why)).or_default();
            tally.add(&effect);
        }
    }

    fn view(key: MessageKey, o: &book::Open) -> OpenView {
        OpenView {
            key,
            account: o.account,
            state: match o.phase {
                Phase::Queued => "queued",
                Phase::Sending => "sending",
                Phase::Sent => "sent",
                Phase::Held => "held",
            },
            upstream: o.upstream,
            at_ms: o.at_ms,
            expires_ms: o.expires_ms,
            segments: o.segments,
            price: o.price,
            captured: o.captured,
            provisional: o.provisional,
        }
    }
}
