//! Open messages and how events change them. The same functions serve live traffic and recovery, so what is rebuilt after
//! a crash cannot differ from what ran before it.

use indexmap::IndexMap;

use super::correlate::Correlation;
use crate::domain::message::Stub;
use crate::domain::outcome::{ChargeOn, Final, Wants};
use crate::ids::{AccountId, MessageKey, Pos, UpstreamId};
use crate::money::Money;
use crate::store::{Accepted, Finished, Mark, MarkKind, Sent};

/// Where an open message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Waits for an upstream.
    Queued,
    /// Marked as being written.
    Sending,
    /// Taken by an upstream; its receipt is awaited.
    Sent,
    /// Written, never answered; a receipt or the receipt timeout decides.
    Held,
}

/// An open message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Whose.
    pub account: AccountId,
    /// Who has it or took it.
    pub upstream: UpstreamId,
    /// Where it is.
    pub phase: Phase,
    /// When its price is earned.
    pub charge_on: ChargeOn,
    /// Which receipts are wanted.
    pub wants: Wants,
    /// Segments billed.
    pub segments: u8,
    /// A provisional receipt state, if one came.
    pub provisional: Option<Final>,
    /// Its `err`.
    pub provisional_err: u16,
    /// Its price has been charged.
    pub captured: bool,
    /// It waits in the store, not in a lane's memory.
    pub stored: bool,
    /// Price of all segments.
    pub price: Money,
    /// Accepted, ms since the epoch.
    pub at_ms: u64,
    /// Not sent after this, ms since the epoch.
    pub expires_ms: u64,
    /// Last step, ms since the epoch.
    pub step_ms: u64,
    /// Position of the last step applied.
    pub last: Pos,
    /// Its entry in the correlation, 0 if none.
    pub correlation: u64,
    /// Addresses and first text, for its receipt.
    pub stub: Stub,
}

/// What an event does to a wallet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effect {
    /// No longer held.
    pub unhold: Money,
    /// Charged.
    pub charge: Money,
    /// Given back after a charge.
    pub refund: Money,
}

/// All open messages. Keys are ours and dense, so the map's default hasher is not needed; foldhash is fast and safe.
#[derive(Debug, Default)]
pub struct Book {
    open: IndexMap<u64, Open, foldhash::fast::FixedState>,
    /// Receipt correlation.
    pub correlation: Correlation,
}

impl Book {
    /// How many messages are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// An open message.
    #[must_use]
    pub fn get(&self, key: MessageKey) -> Option<&Open> {
        self.open.get(&key.0)
    }

    /// The open message at a place in no order, for sweeps.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<(MessageKey, &Open)> {
        self.open.get_index(index).map(|(k, o)| (MessageKey(*k), o))
    }

    /// All open messages, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (MessageKey, &Open)> {
        self.open.iter().map(|(k, o)| (MessageKey(*k), o))
    }

    /// A message is on record. Again changes nothing.
    pub fn accepted(&mut self, a: &Accepted, upstream: UpstreamId) -> Effect {
        let mut effect = Effect::default();
        self.open.entry(a.key.0).or_insert_with(|| {
            let captured = a.charge_on == ChargeOn::Accepted;
            if captured {
                effect = Effect {
                    unhold: a.price,
                    charge: a.price,
                    refund: Money::ZERO,
                };
            }
            Open {
                account: a.account,
                upstream,
                phase: Phase::Queued,
                charge_on: a.charge_on,
                wants: a.wants,
                segments: a.segments,
                provisional: None,
                provisional_err: 0,
                captured,
                stored: false,
                price: a.price,
                at_ms: a.at_ms,
                expires_ms: a.expires_ms,
                step_ms: a.at_ms,
                last: Pos(0),
                correlation: 0,
                stub: a.message.stub(),
            }
        });
        effect
    }

    /// Takes back what [`Book::accepted`] did, when the commit found no room.
    pub fn not_accepted(&mut self, key: MessageKey) {
        self.open.swap_remove(&key.0);
    }

    /// Points a queued message at another lane.
    pub fn moved(&mut self, key: MessageKey, upstream: UpstreamId) {
        if let Some(o) = self.open.get_mut(&key.0) {
            o.upstream = upstream;
        }
    }

    /// Notes where a waiting message is: in the store, or in a lane's memory.
    pub fn set_stored(&mut self, key: MessageKey, stored: bool) {
        if let Some(o) = self.open.get_mut(&key.0) {
            o.stored = stored;
        }
    }

    /// The upstream took it.
    pub fn sent(&mut self, e: &Sent) -> Effect {
        let Some(o) = self.open.get_mut(&e.key.0).filter(|o| e.pos > o.last) else {
            return Effect::default();
        };
        o.last = e.pos;
        o.phase = Phase::Sent;
        o.upstream = e.upstream;
        o.step_ms = e.at_ms;
        if o.correlation != 0 {
            self.correlation.remove(o.correlation, e.key);
        }
        o.correlation = self.correlation.insert(e.upstream, &e.smsc_id, e.key);
        if o.captured || o.charge_on != ChargeOn::Submitted {
            return Effect::default();
        }
        o.captured = true;
        Effect {
            unhold: o.price,
            charge: o.price,
            refund: Money::ZERO,
        }
    }

    /// A step that is neither.
    pub fn mark(&mut self, e: &Mark) {
        let Some(o) = self.open.get_mut(&e.key.0).filter(|o| e.pos > o.last) else {
            return;
        };
        o.last = e.pos;
        o.step_ms = e.at_ms;
        match e.kind {
            MarkKind::Sending => {
                o.phase = Phase::Sending;
                o.upstream = e.upstream;
            }
            MarkKind::Held => o.phase = Phase::Held,
            MarkKind::Requeued => o.phase = Phase::Queued,
            MarkKind::Provisional => {
                o.provisional = Final::from_code(e.state);
                o.provisional_err = e.err;
            }
        }
    }

    /// A marked message goes back to the queue: it was refused for the moment, or never written.
    pub fn requeued(&mut self, key: MessageKey) {
        if let Some(o) = self.open.get_mut(&key.0) {
            o.phase = Phase::Queued;
        }
    }

    /// What a message that ends like this costs.
    ///
    /// `taken`: an upstream had accepted it, or says so by sending a receipt.
    #[must_use]
    pub fn cost(o: &Open, state: Final, taken: bool) -> Money {
        let earned = match o.charge_on {
            ChargeOn::Accepted | ChargeOn::Submitted => taken,
            ChargeOn::Delivered => state == Final::Delivered,
        };
        if earned { o.price } else { Money::ZERO }
    }

    /// It is over. `None` if it was not open.
    pub fn finished(&mut self, e: &Finished) -> Option<(Open, Effect)> {
        let o = self.open.swap_remove(&e.key.0)?;
        if o.correlation != 0 {
            self.correlation.remove(o.correlation, e.key);
            self.correlation.remember(o.correlation, o.stub.parts().dest);
        }
        let effect = if o.captured {
            Effect {
                unhold: Money::ZERO,
                charge: Money::ZERO,
                refund: Money(o.price.0.saturating_sub(e.charged.0)),
            }
        } else {
            Effect {
                unhold: o.price,
                charge: e.charged,
                refund: Money::ZERO,
            }
        };
        Some((o, effect))
    }
}
