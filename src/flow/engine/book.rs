//! Open messages and how events change them. The same functions serve live traffic and recovery, so what is rebuilt after
//! a crash cannot differ from what ran before it.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::correlate::Correlation;
use super::resting::{Resting, Rests};
use crate::domain::message::{Piece, Stub};
use crate::domain::outcome::{ChargeOn, Final, Wants};
use crate::domain::tariff::Terms;
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
    /// How urgent it is, see [`crate::domain::message::Flags::level`].
    pub level: u8,
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
    /// It goes, or went, to an upstream as one with others, and another of them leads.
    pub led: bool,
    /// Its customer has given a time for it: that is why it waits, if it does.
    pub scheduled: bool,
    /// Price of all segments.
    pub price: Money,
    /// Version of the tariff: its terms decide what is kept.
    pub tariff: u32,
    /// Its billing line.
    pub line: u16,
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
    /// Held from now on. In the ledger alone: the wallet granted it at admission.
    pub hold: Money,
    /// No longer held: charged or released.
    pub unhold: Money,
    /// Charged, tax included.
    pub charge: Money,
    /// The tax in that.
    pub charge_tax: Money,
    /// Given back after a charge, tax included.
    pub refund: Money,
    /// The tax in that.
    pub refund_tax: Money,
}

/// All open messages. Keys are ours and dense, so the map's default hasher is not needed; foldhash is fast and safe.
#[derive(Debug, Default)]
pub struct Book {
    open: IndexMap<u64, Open, foldhash::fast::FixedState>,
    /// Messages that went, or are to go, to an upstream as one: the leading one, and the others in their order.
    led: HashMap<u64, Vec<MessageKey>, foldhash::fast::FixedState>,
    /// Receipt correlation.
    pub correlation: Correlation,
    /// Open messages of which the receipt alone is awaited.
    pub(super) rests: Rests,
    /// Messages whose SMSC id has been given to a newer one. At rest they are told apart by their numbers.
    shadowed: Vec<MessageKey>,
    terms: HashMap<u32, Terms, foldhash::fast::FixedState>,
    /// Until when messages wait that must not go yet: few, so that the others do not pay for them.
    waits: HashMap<u64, u64, foldhash::fast::FixedState>,
    /// How many of those are kept by their key alone, see [`super::asleep`].
    asleep: usize,
}

/// Open messages for which room is kept when there are fewer.
const KEPT: usize = 1 << 20;

/// Of messages whose tariff is not known: only of releases that kept none.
static PLAIN: Terms = Terms {
    tax_bp: 0,
    refunds: Vec::new(),
};

impl Book {
    /// How many messages are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len() + self.rests.len() + self.asleep
    }

    /// How many of them do not rest.
    #[must_use]
    pub fn hot(&self) -> usize {
        self.open.len()
    }

    /// Those whose id a newer one has rest, if they can: the SMSC has started its ids over. Not while more may be told of them by the
    /// journal.
    pub(super) fn rest_shadowed(&mut self) {
        while let Some(old) = self.shadowed.pop() {
            if let Some(entry) = self.at_rest(old) {
                self.rest(old, entry);
            }
        }
    }

    /// How many do.
    #[must_use]
    pub fn resting(&self) -> usize {
        self.rests.len()
    }

    /// A message rests from now on, see [`super::resting`].
    pub(super) fn rest(&mut self, key: MessageKey, entry: Resting) {
        if let Some(open) = self.open.swap_remove(&key.0) {
            self.correlation.remove(open.correlation, key);
            self.rests.insert(entry);
        }
    }

    /// How many messages are kept by their key alone until their time comes.
    #[must_use]
    pub fn asleep(&self) -> usize {
        self.asleep
    }

    /// Whether one is.
    #[must_use]
    pub fn is_asleep(&self, key: MessageKey) -> bool {
        self.asleep > 0 && self.waits.contains_key(&key.0) && !self.open.contains_key(&key.0)
    }

    /// From now on one is: only its time is kept.
    pub(super) fn leave_for_sleep(&mut self, key: MessageKey) {
        if self.open.swap_remove(&key.0).is_some() {
            self.asleep += 1;
        }
    }

    /// Its row was read back. What it did to the wallet is done.
    pub(super) fn awake(&mut self, row: &Accepted) {
        if self.is_asleep(row.key) {
            self.asleep -= 1;
            self.accepted(row, UpstreamId::NONE);
            self.set_stored(row.key, true);
        }
    }

    /// Gives back what a flood has left behind. Moving the messages that are open takes as long as at the way up.
    pub fn shrink(&mut self) {
        if self.open.capacity() > KEPT && self.open.len() < self.open.capacity() / 8 {
            self.open.shrink_to(self.open.len() * 2);
            self.correlation.shrink();
        }
    }

    /// A message that rested is what it was: accepted, then sent, then perhaps provisionally received. What these did to the
    /// wallet is done.
    pub(super) fn wake(
        &mut self,
        row: &Accepted,
        handle: u64,
        upstream: UpstreamId,
        provisional: Option<(Final, u16)>,
        step_ms: u64,
    ) {
        let _done = self.accepted(row, upstream);
        if let Some(open) = self.open.get_mut(&row.key.0) {
            open.phase = Phase::Sent;
            open.step_ms = step_ms;
            open.provisional = provisional.map(|(state, _)| state);
            open.provisional_err = provisional.map_or(0, |(_, err)| err);
            if open.charge_on != ChargeOn::Delivered {
                open.captured = open.price;
            }
            open.correlation = handle;
            self.correlation.restore(handle, row.key);
        }
    }

    /// The terms behind a tariff's version.
    #[must_use]
    pub fn terms(&self, version: u32) -> &Terms {
        self.terms.get(&version).unwrap_or(&PLAIN)
    }

    /// Whether a version's terms are known.
    #[must_use]
    pub fn knows_terms(&self, version: u32) -> bool {
        self.terms.contains_key(&version)
    }

    /// Notes the terms behind a version; what is known stands.
    pub fn set_terms(&mut self, version: u32, terms: Terms) {
        self.terms.entry(version).or_insert(terms);
    }

    /// An open message that does not rest.
    #[must_use]
    pub fn get(&self, key: MessageKey) -> Option<&Open> {
        self.open.get(&key.0)
    }

    /// The open message at a place in no order, for sweeps. Of those that do not rest.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<(MessageKey, &Open)> {
        self.open.get_index(index).map(|(k, o)| (MessageKey(*k), o))
    }

    /// All open messages that do not rest, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (MessageKey, &Open)> {
        self.open.iter().map(|(k, o)| (MessageKey(*k), o))
    }

    /// What a message's acceptance does to its wallet.
    #[must_use]
    pub fn accepting(&self, a: &Accepted) -> Effect {
        Effect {
            hold: a.price,
            ..if a.charge_on == ChargeOn::Accepted {
                charged(self.terms(a.tariff), Money::ZERO, a.price)
            } else {
                Effect::default()
            }
        }
    }

    /// A message is on record. Again changes nothing.
    pub fn accepted(&mut self, a: &Accepted, upstream: UpstreamId) -> Effect {
        let effect = self.accepting(a);
        self.open.entry(a.key.0).or_insert_with(|| {
            let captured = effect.charge;
            Open {
                account: a.account,
                upstream,
                phase: Phase::Queued,
                charge_on: a.charge_on,
                wants: a.wants,
                segments: a.segments,
                level: a.message.flags().level(),
                provisional: None,
                provisional_err: 0,
                captured,
                stored: false,
                written: false,
                led: false,
                scheduled: a.message.flags().scheduled(),
                price: a.price,
                tariff: a.tariff,
                line: a.line,
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

    /// Notes that `others` go to an upstream as one with `lead`.
    pub fn lead(&mut self, lead: MessageKey, others: &[MessageKey]) {
        for other in others {
            if let Some(open) = self.open.get_mut(&other.0) {
                open.led = true;
            }
        }
        self.led.insert(lead.0, others.to_vec());
    }

    /// Those that share what becomes of `lead`.
    #[must_use]
    pub fn led_by(&self, lead: MessageKey) -> Vec<MessageKey> {
        if self.led.is_empty() {
            return Vec::new();
        }
        self.led.get(&lead.0).cloned().unwrap_or_default()
    }

    /// Takes back what [`Book::accepted`] did, when the commit found no room.
    pub fn not_accepted(&mut self, key: MessageKey) {
        self.open.swap_remove(&key.0);
        self.woken(key);
    }

    /// Until when a message waits, ms since the epoch, if it does.
    #[must_use]
    pub fn waits(&self, key: MessageKey) -> Option<u64> {
        if self.waits.is_empty() {
            return None;
        }
        self.waits.get(&key.0).copied()
    }

    /// It waits no more.
    pub fn woken(&mut self, key: MessageKey) {
        if !self.waits.is_empty() {
            self.waits.remove(&key.0);
        }
    }

    /// How many wait, for a time or a person.
    #[must_use]
    pub fn all_waiting(&self) -> usize {
        self.waits.len()
    }

    /// Those that do, in no order.
    pub fn waiting(&self) -> impl Iterator<Item = (MessageKey, u64)> + '_ {
        self.waits.iter().map(|(key, until)| (MessageKey(*key), *until))
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
        self.woken(e.key);
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
        if e.piece == Piece::LED {
            // The id is its leader's; so is every receipt.
            let handle = self.correlation.noted_as(e.upstream, &e.smsc_id);
            let lead = self.correlation.get(handle).or_else(|| self.rests.key_of(handle));
            if let Some(lead) = lead.filter(|lead| *lead != e.key) {
                let others = self.led.entry(lead.0).or_default();
                if !others.contains(&e.key) {
                    others.push(e.key);
                }
            }
            o.correlation = 0;
            o.led = true;
        } else {
            let (handle, before) = self.correlation.insert(e.upstream, &e.smsc_id, e.key);
            o.correlation = handle;
            self.shadowed.extend(before);
        }
        if o.captured == o.price || o.charge_on != ChargeOn::Submitted {
            return Effect::default();
        }
        capture(&self.terms, o, o.price)
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
        let (handle, before) = self.correlation.insert(e.upstream, &e.smsc_id, e.key);
        part.correlation = handle;
        self.shadowed.extend(before);
        part.state = PartState::Sent;
        o.last = o.last.max(e.pos);
        // Another part may be in the air at another upstream: after a crash it is that one's policy which decides.
        if !o.parts.iter().flatten().any(|p| p.state == PartState::Sending) {
            o.upstream = e.upstream;
        }
        o.step_ms = o.step_ms.max(e.at_ms);
        settle_phase(o);
        if o.charge_on != ChargeOn::Submitted {
            return Effect::default();
        }
        let earned = share(o, |p| p.taken());
        capture(&self.terms, o, earned)
    }

    /// A step that is neither.
    pub fn mark(&mut self, e: &Mark) {
        // Whatever else is told of a message, it has left where it waited; live, nothing else is written of that.
        if e.kind != MarkKind::Waits && e.kind != MarkKind::Replaced {
            self.woken(e.key);
        }
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
        if e.kind == MarkKind::Waits {
            self.waits.insert(e.key.0, e.at_ms);
            return;
        }
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
            MarkKind::PartOver | MarkKind::Replaced | MarkKind::Waits => {}
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
            o.tariff = a.tariff;
            o.segments = a.segments;
            o.wants = a.wants;
            o.expires_ms = a.expires_ms;
            o.scheduled = a.message.flags().scheduled();
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

    /// What a message that ends like this costs, by the terms it was accepted under. `taken`: an upstream had accepted it, or says
    /// so by sending a receipt. A message in parts costs what its parts do.
    #[must_use]
    pub fn cost(&self, o: &Open, state: Final, err: u16, taken: bool) -> Money {
        let terms = self.terms(o.tariff);
        if o.parts.is_some() {
            return share(o, |p| match p.state {
                PartState::Over(state, err, taken) => terms.earned(o.charge_on, state, err, taken),
                _ => terms.earned(o.charge_on, state, err, p.taken()),
            });
        }
        if terms.earned(o.charge_on, state, err, taken) {
            o.price
        } else {
            Money::ZERO
        }
    }

    /// It is over. `None` if it was not open.
    pub fn finished(&mut self, e: &Finished) -> Option<(Open, Effect)> {
        let o = self.open.swap_remove(&e.key.0)?;
        self.woken(e.key);
        if !self.led.is_empty() {
            self.led.remove(&e.key.0);
        }
        let handles = o.parts.iter().flatten().map(|p| p.correlation);
        for handle in handles.chain([o.correlation]).filter(|h| *h != 0) {
            self.correlation.remove(handle, e.key);
            self.correlation.remember(handle, o.stub.parts().dest);
        }
        let terms = self.terms(o.tariff);
        let mut effect = if e.charged >= o.captured {
            charged(terms, o.captured, e.charged)
        } else {
            Effect {
                refund: Money(o.captured.0 - e.charged.0),
                refund_tax: Money(terms.tax_in(o.captured).0 - terms.tax_in(e.charged).0),
                ..Effect::default()
            }
        };
        effect.unhold = Money(o.price.0 - o.captured.0);
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

/// The effect of a charge that grows from `before` to `after`. The tax is that of the whole, so that it does not depend on the
/// steps.
fn charged(terms: &Terms, before: Money, after: Money) -> Effect {
    let more = Money(after.0 - before.0);
    Effect {
        unhold: more,
        charge: more,
        charge_tax: Money(terms.tax_in(after).0 - terms.tax_in(before).0),
        ..Effect::default()
    }
}

/// Charges what has been earned beyond what was charged before.
fn capture(terms: &HashMap<u32, Terms, foldhash::fast::FixedState>, o: &mut Open, earned: Money) -> Effect {
    let effect = charged(
        terms.get(&o.tariff).unwrap_or(&PLAIN),
        o.captured,
        earned.max(o.captured),
    );
    o.captured.0 += effect.charge.0;
    effect
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
