//! How an upstream is treated, and what is shown of its binds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::flow::habits::IdForm;
use crate::flow::routing::Offer;

/// What to do with a message that was written and never answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnknownOutcome {
    /// Send it again (up to `unknown_resend_max`, then hold): at least once.
    #[default]
    Resend,
    /// Keep it for a receipt or an operator.
    Hold,
    /// Give it up and release its price.
    Fail,
}

impl UnknownOutcome {
    /// Its word in the config.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            UnknownOutcome::Resend => "resend",
            UnknownOutcome::Hold => "hold",
            UnknownOutcome::Fail => "fail",
        }
    }
}

/// How an upstream is treated.
#[derive(Clone, Debug, Default)]
pub struct UpstreamOptions {
    /// Name in the config.
    pub name: String,
    /// Messages waiting in memory; beyond, in the store.
    pub queue_max: usize,
    /// PDUs a second over all binds; 0: unlimited.
    pub tps: u32,
    /// PDUs a second on each bind; 0: unlimited.
    pub bind_tps: u32,
    /// First pause after a temporary refusal, ms; doubles.
    pub retry_min_ms: u64,
    /// Longest pause, ms.
    pub retry_max_ms: u64,
    /// See [`UnknownOutcome`].
    pub unknown_outcome: UnknownOutcome,
    /// Resends before holding.
    pub unknown_resend_max: u32,
    /// How its receipts spell the ids of its responses; `None`: to be learned.
    pub id_form: Option<IdForm>,
    /// Parts that customers have cut are put together for it.
    pub rejoins: bool,
    /// What it is to routing.
    pub offer: Offer,
}

/// A bind, for listing.
#[derive(Debug, Default)]
pub struct BindInfo {
    /// 0 down, 1 connecting, 2 bound.
    pub state: AtomicU32,
    /// Unanswered requests.
    pub outstanding: AtomicU32,
    /// How many it is given at most, as it has answered so far.
    pub window: AtomicU32,
    /// Since when in this state, ms since the epoch.
    pub since_ms: AtomicU64,
    /// Why it is down, in a word or two.
    pub why: Mutex<String>,
}
