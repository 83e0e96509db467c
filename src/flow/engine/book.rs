//! Open messages and how events change them. The same functions serve live traffic and recovery, so what is rebuilt after
//! a crash cannot differ from what ran before it.

use indexmap::IndexMap;

use super::correlate::Correlation;
use crate::domain::message::{Piece, Stub};
use crate::domain::outcome::{ChargeOn, Final, Wants};
use crate::ids::{AccountId, MessageKey, Pos, UpstreamId};
use crate::money::Money;
use crate::store::{Accepted, Finished, Mark, MarkKind, Sent, flags};

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
    /// How much of its price has been charged.
    pub captured: Money,
    /// It waits in the store, not in a lane's memory.
    pub stored: bool,
    /// It was written and never answered, and is to be sent again: the SMSC may have it. In memory only, see
    /// [`super::Engine`]'s `unsure_before`.
    pub written: bool,
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
    /// Its parts, once one has been sent.
    pub parts: Option<Box<[Part]>>,
    /// Addresses and first text, for its receipt.
    pub stub: Stub,
}

/// One part of a message that is sent in parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// Its entry in the correlation, 0 if none.
    pub correlation: u64,
    /// Where it is.
    pub state: PartState,
}

/// Where a part is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PartState {
    /// Waits, or is in a bind's hands.
    #[default]
    Waiting,
    /// Marked as being written: the SMSC may have it.
    Sending,
    /// Taken by an upstream; its receipt is awaited.
    Sent,
    /// Written, never answered.
    Held,
    /// Over: how, its `err`, and whether an upstream had taken it.
    Over(Final, u16, bool),
}

impl Part {
    /// An upstream has taken it, or says so by a receipt.
    #[must_use]
    pub fn taken(&self) -> bool {
        matches!(self.state, PartState::Sent | PartState::Over(_, _, true))
    }
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
            let captured = if a.charge_on == ChargeOn::Accepted {
                effect = Effect {
                    unhold: a.price,
                    charge: a.price,
                    refund: Money::ZERO,
                };
                a.price
            } else {
                Money::ZERO
            };
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
                written: false,
                price: a.price,
                at_ms: a.at_ms,
                expires_ms: a.expires_ms,
                step_ms: a.at_ms,
                last: Pos(0),
                correlation: 0,
                parts: None,
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

    /// It was written, and never answered.
    pub fn written(&mut self, key: MessageKey) {
        if let Some(open) = self.open.get_mut(&key.0) {
            open.written = true;
        }
    }

    /// Notes where a waiting message is: in the store, or in a lane's memory.
    pub fn set_stored(&mut self, key: MessageKey, stored: bool) {
        if let Some(o) = self.open.get_mut(&key.0) {
            o.stored = stored;
        }
    }

    /// Whether an upstream has taken it, or this part of it.
    #[must_use]
    pub fn is_sent(&self, key: MessageKey, piece: Piece) -> bool {
        self.get(key).is_some_and(|o| match piece.part.checked_sub(1) {
            None => o.phase == Phase::Sent,
            Some(at) => o
                .parts
                .as_deref()
                .and_then(|parts| parts.get(usize::from(at)))
                .is_some_and(|p| p.state == PartState::Sent),
        })
    }

    /// The upstream took it, or a part of it.
    pub fn sent(&mut self, e: &Sent) -> Effect {
        let Some(o) = self.open.get_mut(&e.key.0) else {
            return Effect::default();
        };
        if !e.piece.whole() {
            return self.part_sent(e);
        }
        if e.pos <= o.last {
            return Effect::default();
        }
        o.last = e.pos;
        o.phase = Phase::Sent;
        o.upstream = e.upstream;
        o.step_ms = e.at_ms;
        if o.correlation != 0 {
            self.correlation.remove(o.correlation, e.key);
        }
        o.correlation = self.correlation.insert(e.upstream, &e.smsc_id, e.key);
        if o.captured == o.price || o.charge_on != ChargeOn::Submitted {
            return Effect::default();
        }
        capture(o, o.price)
    }

    fn part_sent(&mut self, e: &Sent) -> Effect {
        let Some(o) = self.open.get_mut(&e.key.0) else {
            return Effect::default();
        };
        let Some(part) = part_mut(o, e.piece) else {
            return Effect::default();
        };
        if matches!(part.state, PartState::Over(..)) {
            return Effect::default();
        }
        let old = std::mem::replace(&mut part.correlation, 0);
        if old != 0 {
            self.correlation.remove(old, e.key);
        }
        part.correlation = self.correlation.insert(e.upstream, &e.smsc_id, e.key);
        part.state = PartState::Sent;
        o.last = o.last.max(e.pos);
        o.upstream = e.upstream;
        o.step_ms = o.step_ms.max(e.at_ms);
        settle_phase(o);
        if o.charge_on != ChargeOn::Submitted {
            return Effect::default();
        }
        let earned = share(o, |p| p.taken());
        capture(o, earned)
    }

    /// A step that is neither.
    pub fn mark(&mut self, e: &Mark) {
        let Some(o) = self.open.get_mut(&e.key.0) else {
            return;
        };
        if !e.piece.whole() {
            return self.part_mark(e);
        }
        if e.pos <= o.last {
            return;
        }
        o.last = e.pos;
        o.step_ms = e.at_ms;
        match e.kind {
            MarkKind::Sending => {
                o.phase = Phase::Sending;
                o.upstream = e.upstream;
                become_of(o, PartState::Waiting, PartState::Sending);
            }
            MarkKind::Held => {
                o.phase = Phase::Held;
                // Of a message in parts: those whose fate was not known when the process ended.
                become_of(o, PartState::Sending, PartState::Held);
                if o.parts.iter().flatten().any(|p| p.state == PartState::Waiting) {
                    o.phase = Phase::Queued;
                }
            }
            MarkKind::Requeued => {
                o.phase = Phase::Queued;
                become_of(o, PartState::Sending, PartState::Waiting);
            }
            MarkKind::Provisional => {
                o.provisional = Final::from_code(e.state);
                o.provisional_err = e.err;
            }
            MarkKind::PartOver | MarkKind::Replaced => {}
        }
    }

    fn part_mark(&mut self, e: &Mark) {
        let Some(o) = self.open.get_mut(&e.key.0) else {
            return;
        };
        let Some(part) = part_mut(o, e.piece) else { return };
        if matches!(part.state, PartState::Over(..)) {
            return;
        }
        match (e.kind, Final::from_code(e.state)) {
            (MarkKind::PartOver, Some(state)) => {
                let taken = part.taken() || e.flags & flags::TAKEN != 0;
                part.state = PartState::Over(state, e.err, taken);
                let handle = std::mem::replace(&mut part.correlation, 0);
                if handle != 0 {
                    let dest: Vec<u8> = o.stub.parts().dest.to_vec();
                    self.correlation.remove(handle, e.key);
                    self.correlation.remember(handle, &dest);
                }
            }
            (MarkKind::Held, _) => part.state = PartState::Held,
            (MarkKind::Sending, _) => {
                part.state = PartState::Sending;
                o.upstream = e.upstream;
            }
            (MarkKind::Requeued, _) => {
                part.state = PartState::Waiting;
                o.phase = Phase::Queued;
            }
            _ => {}
        }
        if let Some(o) = self.open.get_mut(&e.key.0) {
            o.last = o.last.max(e.pos);
            o.step_ms = o.step_ms.max(e.at_ms);
            settle_phase(o);
        }
    }

    /// Which part of an open message the correlation entry `handle` stands for.
    #[must_use]
    pub fn piece_of(&self, key: MessageKey, handle: u64) -> Piece {
        let parts = self.get(key).and_then(|o| o.parts.as_deref()).unwrap_or(&[]);
        match parts.iter().position(|p| p.correlation == handle) {
            Some(at) => Piece {
                of: parts.len() as u8,
                part: at as u8 + 1,
            },
            None => Piece::WHOLE,
        }
    }

    /// A message whose text was replaced before it was sent: its new row, and what that does to the wallet beyond what the
    /// caller has held or released already.
    pub fn replaced(&mut self, a: &Accepted) {
        if let Some(o) = self.open.get_mut(&a.key.0) {
            if o.charge_on == ChargeOn::Accepted {
                o.captured = a.price;
            }
            o.price = a.price;
            o.segments = a.segments;
            o.wants = a.wants;
            o.expires_ms = a.expires_ms;
            o.stub = a.message.stub();
        }
    }

    /// A marked message goes back to the queue: it was refused for the moment, or never written.
    pub fn requeued(&mut self, key: MessageKey) {
        if let Some(o) = self.open.get_mut(&key.0) {
            o.phase = Phase::Queued;
            become_of(o, PartState::Sending, PartState::Waiting);
        }
    }

    /// What a message that ends like this costs. `taken`: an upstream had accepted it, or says so by sending a receipt. A
    /// message in parts costs what its parts do.
    #[must_use]
    pub fn cost(o: &Open, state: Final, taken: bool) -> Money {
        if o.parts.is_some() {
            return match o.charge_on {
                ChargeOn::Accepted | ChargeOn::Submitted => share(o, Part::taken),
                ChargeOn::Delivered => share(o, |p| matches!(p.state, PartState::Over(Final::Delivered, ..))),
            };
        }
        let earned = match o.charge_on {
            ChargeOn::Accepted | ChargeOn::Submitted => taken,
            ChargeOn::Delivered => state == Final::Delivered,
        };
        if earned { o.price } else { Money::ZERO }
    }

    /// It is over. `None` if it was not open.
    pub fn finished(&mut self, e: &Finished) -> Option<(Open, Effect)> {
        let o = self.open.swap_remove(&e.key.0)?;
        let handles = o.parts.iter().flatten().map(|p| p.correlation);
        for handle in handles.chain([o.correlation]).filter(|h| *h != 0) {
            self.correlation.remove(handle, e.key);
            self.correlation.remember(handle, o.stub.parts().dest);
        }
        let effect = Effect {
            unhold: Money(o.price.0 - o.captured.0),
            charge: Money((e.charged.0 - o.captured.0).max(0)),
            refund: Money((o.captured.0 - e.charged.0).max(0)),
        };
        Some((o, effect))
    }
}

/// How a message in parts ended once all of them have: DELIVRD if all are, otherwise as the first that is not, with its `err`.
/// `None` while one is not over.
#[must_use]
pub fn rolled_up(parts: &[Part]) -> Option<(Final, u16)> {
    let mut end = Some((Final::Delivered, 0));
    for part in parts.iter().rev() {
        match part.state {
            PartState::Over(Final::Delivered, ..) => {}
            PartState::Over(state, err, _) => end = Some((state, err)),
            _ => return None,
        }
    }
    end
}

/// The part of an open message, which from now on is one in parts.
fn part_mut(o: &mut Open, piece: Piece) -> Option<&mut Part> {
    let state = match o.phase {
        // The mark was for all of it.
        Phase::Sending => PartState::Sending,
        _ => PartState::Waiting,
    };
    let part = Part {
        state,
        ..Part::default()
    };
    let parts = o
        .parts
        .get_or_insert_with(|| vec![part; usize::from(piece.of)].into());
    if parts.len() != usize::from(piece.of) {
        return None;
    }
    parts.get_mut(usize::from(piece.part.checked_sub(1)?))
}

/// The price of the parts that `counts`, of all of them: whole at the end, whatever the division leaves on the way.
fn share(o: &Open, counts: impl Fn(&Part) -> bool) -> Money {
    let parts = o.parts.as_deref().unwrap_or(&[]);
    let n = parts.iter().filter(|p| counts(p)).count() as i64;
    Money(o.price.0.saturating_mul(n) / (parts.len() as i64).max(1))
}

/// Charges what has been earned beyond what was charged before.
fn capture(o: &mut Open, earned: Money) -> Effect {
    let more = Money((earned.0 - o.captured.0).max(0));
    o.captured.0 += more.0;
    Effect {
        unhold: more,
        charge: more,
        refund: Money::ZERO,
    }
}

/// A message in parts is sent when none of them waits any more or is being written.
fn settle_phase(o: &mut Open) {
    let any = |state| o.parts.iter().flatten().any(|p| p.state == state);
    if !any(PartState::Waiting) {
        o.phase = if any(PartState::Sending) {
            Phase::Sending
        } else {
            Phase::Sent
        };
    }
}

/// All parts that were `from` are `to` now.
fn become_of(o: &mut Open, from: PartState, to: PartState) {
    for part in o.parts.iter_mut().flatten().filter(|p| p.state == from) {
        part.state = to;
    }
}
