//! What operators should hear of without asking: kept in memory, newest last, and shown by `event.list`.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::ingress::lock;

/// Events kept; the oldest go.
const KEPT: usize = 1_000;

/// Something happened that a person may want to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Rises by one with each, from 1 at every start.
    pub number: u64,
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// `wallet_low`, `wallet_recovered`, `wallet_frozen`, `wallet_unfrozen`, `topup_conflict`.
    pub kind: &'static str,
    /// Name of the account; empty: none.
    pub account: String,
    /// In words.
    pub what: String,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Events(Mutex<(u64, VecDeque<Event>)>);

impl Events {
    /// Adds an event and writes it to the log.
    pub fn add(&self, at_ms: u64, kind: &'static str, account: &str, what: String) {
        tracing::warn!(kind, account, "{what}");
        let mut events = lock(&self.0);
        events.0 += 1;
        let number = events.0;
        if events.1.len() >= KEPT {
            events.1.pop_front();
        }
        events.1.push_back(Event {
            number,
            at_ms,
            kind,
            account: account.into(),
            what,
        });
    }

    /// Those after number `after`, oldest first, at most `max`.
    #[must_use]
    pub fn after(&self, after: u64, max: usize) -> Vec<Event> {
        let events = lock(&self.0);
        let newer = events.1.iter().filter(|e| e.number > after);
        newer.take(max).cloned().collect()
    }
}
