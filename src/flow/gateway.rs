//! The shared handle: what every session, the admin socket and the engine know of each other.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::account::Accounts;
use super::events::Events;
use super::ingress::{
    Control, ControlError, ControlReply, Ingress, Input, Mailbox, Signal, ToCustomer, lock,
};
use super::lane::{Outgoing, Upstream};
use super::lookup::Lookups;
use super::policy::Policy;
use super::routing::Upstreams;
use super::rules::Live;
use crate::domain::outcome::Final;
use crate::domain::reject::Reject;
use crate::ids::{AccountId, MessageKey, SessionId, UpstreamId};
use crate::metrics::Metrics;

/// Bounds on what the gateway holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages accepted and not final; beyond: refused.
    pub open_max: u64,
    /// Of these taken by no SMSC yet; beyond: refused.
    pub waiting_max: u64,
    /// Of these in memory whole; beyond, those that await only their receipt are kept in a short form.
    pub open_hot_max: usize,
    /// Submits waiting for their commit; beyond: refused.
    pub ingress_max: u64,
    /// Receipts and inbound messages in memory per account; beyond: in the store.
    pub outbox_max: usize,
    /// Parked receipts; beyond, the oldest goes.
    pub parked_max: usize,
    /// How long a parked receipt is kept, ms.
    pub parked_keep_ms: u64,
    /// Free disk space below which submits are refused, bytes.
    pub free_min_bytes: u64,
    /// Rows in one commit.
    pub batch_rows_max: usize,
}

/// What a listed session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionKind {
    /// bind_transmitter.
    Transmitter,
    /// bind_receiver.
    Receiver,
    /// bind_transceiver.
    Transceiver,
}

/// A bound customer session, for listing and kicking.
pub struct SessionInfo {
    /// Its number in this process.
    pub id: SessionId,
    /// Whose.
    pub account: AccountId,
    /// Kind of bind.
    pub kind: SessionKind,
    /// From where.
    pub peer: SocketAddr,
    /// Bound since, ms since the epoch.
    pub since_ms: u64,
    /// Submits read.
    pub submits: AtomicU64,
    /// Deliveries answered.
    pub delivered: AtomicU64,
    /// Set to end it.
    pub kicked: AtomicBool,
    /// Wakes it.
    pub signal: Arc<dyn Signal>,
    /// For what concerns the session and is no answer.
    pub mailbox: Arc<Mailbox<ToCustomer>>,
}

/// Counters since the start, for `stats.show` and the demo.
#[derive(Debug, Default)]
pub struct Totals {
    /// Submits on record.
    pub accepted: AtomicU64,
    /// Submits refused.
    pub refused: AtomicU64,
    /// Taken by upstreams.
    pub sent: AtomicU64,
    /// Ended.
    pub finished: AtomicU64,
    /// Receipts from upstreams.
    pub receipts: AtomicU64,
    /// Receipts without a known message.
    pub unmatched: AtomicU64,
    /// Inbound messages.
    pub inbound: AtomicU64,
    /// Deliveries answered by customers.
    pub delivered: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
    /// Rows committed.
    pub rows: AtomicU64,
    /// Open messages.
    pub open: AtomicU64,
    /// Of these in the lanes of upstreams or behind them in the store.
    pub waiting: AtomicU64,
    /// Of these kept in a short form until their receipt comes.
    pub resting: AtomicU64,
    /// Parked receipts.
    pub parked: AtomicU64,
    /// Segments waiting to be sealed.
    pub sealing: AtomicU64,
    /// Octets of the write-ahead log.
    pub log_bytes: AtomicU64,
}

/// Octets a submit that waits for its commit may have on average before the gateway counts as full.
const INGRESS_OCTETS_EACH: u64 = 1024;

/// See the module's description. Cheap to share; all methods take `&self`.
pub struct Gateway {
    /// Rules in force.
    pub policy: ArcSwap<Policy>,
    accounts: ArcSwap<Accounts>,
    /// See [`Gateway::upstreams`].
    upstreams: ArcSwap<Upstreams>,
    /// The way in to the engine.
    pub ingress: Ingress,
    /// Questions about what is over.
    pub lookups: Lookups,
    /// Bounds.
    pub limits: Limits,
    /// Counters.
    pub totals: Totals,
    /// Metric handles.
    pub metrics: Metrics,
    /// What operators should hear of.
    pub events: Events,
    /// Senders, suppressed numbers and counts, beside those of the config.
    pub live: Live,
    /// Submits admitted and not yet committed.
    pub(super) in_commit: AtomicU64,
    /// And their octets.
    pub(super) in_commit_octets: AtomicU64,
    /// Disk below `free_min_bytes`.
    pub(super) low_space: AtomicBool,
    /// The last commit failed for lack of space or a lock.
    pub(super) store_down: AtomicBool,
    draining: AtomicBool,
    /// The engine is asked to end.
    ending: AtomicBool,
    /// Ended: the engine has stopped.
    pub(super) stopped: AtomicBool,
    /// When the engine last showed that it works, ms since the epoch.
    pub(super) beat_ms: AtomicU64,
    sessions: Mutex<BTreeMap<SessionId, Arc<SessionInfo>>>,
    next_session: AtomicU64,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gateway({} upstreams)", self.upstreams().len())
    }
}

impl Gateway {
    /// A gateway without accounts; the engine fills them in at recovery.
    #[must_use]
    pub fn new(policy: Policy, upstreams: Vec<Arc<Upstream>>, limits: Limits, metrics: Metrics) -> Gateway {
        let live = Live::default();
        live.refresh(&policy.rules);
        Gateway {
            policy: ArcSwap::from_pointee(policy),
            accounts: ArcSwap::default(),
            upstreams: ArcSwap::from_pointee(Upstreams::new(upstreams)),
            ingress: Ingress::default(),
            lookups: Lookups::default(),
            limits,
            totals: Totals::default(),
            metrics,
            events: Events::default(),
            live,
            in_commit: AtomicU64::new(0),
            in_commit_octets: AtomicU64::new(0),
            low_space: AtomicBool::new(false),
            store_down: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            beat_ms: AtomicU64::new(0),
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
        }
    }

    /// The accounts as they are now.
    #[must_use]
    pub fn accounts(&self) -> Arc<Accounts> {
        self.accounts.load_full()
    }

    pub(super) fn set_accounts(&self, accounts: Accounts) {
        self.accounts.store(Arc::new(accounts));
    }

    /// Upstreams in the order of the config.
    #[must_use]
    pub fn upstreams(&self) -> Arc<Upstreams> {
        self.upstreams.load_full()
    }

    /// Puts other upstreams in force.
    pub fn set_upstreams(&self, upstreams: Vec<Arc<Upstream>>) {
        self.upstreams.store(Arc::new(Upstreams::new(upstreams)));
    }

    /// An upstream by its stable id.
    #[must_use]
    pub fn upstream(&self, id: UpstreamId) -> Option<Arc<Upstream>> {
        self.upstreams.load().get(id).cloned()
    }

    /// An upstream by name.
    #[must_use]
    pub fn upstream_by_name(&self, name: &str) -> Option<Arc<Upstream>> {
        let upstreams = self.upstreams.load();
        upstreams.iter().find(|u| u.options.name == name).cloned()
    }

    /// Sends a control request to the engine; `reply` is called once on its thread.
    pub fn control(
        &self,
        op: Control,
        reply: impl FnOnce(Result<ControlReply, ControlError>) + Send + 'static,
    ) {
        if self.stopped() {
            reply(Err(ControlError::Unavailable));
        } else {
            self.ingress.put(Input::Control(op, Box::new(reply)));
        }
    }

    /// Why no submit can be taken at all at the moment, if so.
    #[must_use]
    pub fn closed_for_submits(&self) -> Option<Reject> {
        if self.low_space.load(Ordering::Relaxed)
            || self.store_down.load(Ordering::Relaxed)
            || self.draining.load(Ordering::Relaxed)
        {
            return Some(Reject::StoreUnavailable);
        }
        let full = self.in_commit.load(Ordering::Relaxed) >= self.limits.ingress_max
            || self.in_commit_octets.load(Ordering::Relaxed) >= self.limits.ingress_max * INGRESS_OCTETS_EACH
            || self.totals.open.load(Ordering::Relaxed) >= self.limits.open_max
            || self.totals.waiting.load(Ordering::Relaxed) >= self.limits.waiting_max;
        full.then_some(Reject::Overload)
    }

    /// Counts a refused submit; `None`: for the form of a field.
    pub fn refused(&self, reason: Option<Reject>) {
        self.totals.refused.fetch_add(1, Ordering::Relaxed);
        self.metrics
            .refused(reason.map_or(Reject::ALL.len(), |r| r as usize));
    }

    /// A message of ours that waits for its commit, as [`super::admit()`] notes those of customers.
    pub(super) fn awaits_commit(&self, octets: usize) {
        self.in_commit.fetch_add(1, Ordering::Relaxed);
        self.in_commit_octets.fetch_add(octets as u64, Ordering::Relaxed);
    }

    /// Admitted submits that are on record now, or were given up.
    pub(super) fn left_commit(&self, n: usize, octets: usize) {
        self.in_commit.fetch_sub(n as u64, Ordering::Relaxed);
        self.in_commit_octets.fetch_sub(octets as u64, Ordering::Relaxed);
    }

    /// Whether the store takes writes.
    #[must_use]
    pub fn store_ok(&self) -> bool {
        !self.store_down.load(Ordering::Relaxed) && !self.low_space.load(Ordering::Relaxed)
    }

    /// Whether anything can be put on record at all; the reserve of disk space serves receipts too.
    #[must_use]
    pub fn store_takes_writes(&self) -> bool {
        !self.store_down.load(Ordering::Relaxed)
    }

    /// Stops taking submits; what is accepted goes on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`Gateway::drain`] was called.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Asks the engine to put on record what has come in and to end. While the store takes no writes it ends without: what
    /// it could not record has not been acknowledged to anybody.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.ingress.wake();
    }

    /// Whether [`Gateway::end`] was called.
    #[must_use]
    pub fn ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Whether the engine has shown a sign of life within `within_ms`.
    #[must_use]
    pub fn alive(&self, now_ms: u64, within_ms: u64) -> bool {
        !self.stopped() && self.beat_ms.load(Ordering::Relaxed) + within_ms >= now_ms
    }

    /// Whether the engine has ended.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// A number for a new session.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// Lists a bound session until [`Gateway::leave`].
    pub fn enter(&self, session: Arc<SessionInfo>) {
        lock(&self.sessions).insert(session.id, session);
    }

    /// Takes a session off the list.
    pub fn leave(&self, id: SessionId) {
        lock(&self.sessions).remove(&id);
    }

    /// Bound customer sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<SessionInfo>> {
        lock(&self.sessions).values().cloned().collect()
    }

    /// Ends sessions that `which` picks; how many.
    pub fn kick(&self, which: impl Fn(&SessionInfo) -> bool) -> usize {
        let chosen: Vec<_> = self.sessions().into_iter().filter(|s| which(s)).collect();
        for session in &chosen {
            session.kicked.store(true, Ordering::Release);
            session.signal.signal();
        }
        chosen.len()
    }

    /// Puts messages into their lanes: `(upstream, message)` in the order accepted. The keys of those that wait in the
    /// store only.
    #[must_use]
    pub(super) fn dispatch(&self, messages: &mut VecDeque<(UpstreamId, Outgoing)>) -> Vec<MessageKey> {
        let mut stored = Vec::new();
        while let Some((id, first)) = messages.pop_front() {
            let mut run = vec![first];
            while messages.front().is_some_and(|(next, _)| *next == id) {
                run.extend(messages.pop_front().map(|(_, m)| m));
            }
            match self.upstream(id) {
                Some(upstream) => stored.append(&mut upstream.push(run)),
                None => stored.extend(run.into_iter().map(|m| m.key)),
            }
        }
        stored
    }
}

/// Handles of the metrics, with the labels of the domain's own words.
#[must_use]
pub fn metrics() -> Metrics {
    // A malformed field has its own status and one reason for all.
    let mut reasons: Vec<&'static str> = Reject::ALL.map(Reject::name).into();
    reasons.push("field");
    let states: Vec<&'static str> = (0..=8)
        .map(|code| Final::from_code(code).map_or("none", Final::word))
        .collect();
    Metrics::new(&reasons, &states)
}
