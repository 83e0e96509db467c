//! Submits go on record, and what upstreams report about messages becomes events.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::book::{Open, Part, PartState, Phase, rolled_up};
use super::tally::Why;
use super::{Engine, LinesOf};
use crate::domain::account::Receipts;
use crate::domain::message::{Message, Piece};
use crate::domain::outcome::Final;
use crate::flow::account::AccountState;
use crate::flow::ingress::{Admitted, Input, Mailbox, ToCustomer, ToUpstream, UpEvent};
use crate::flow::lane::Outgoing;
use crate::flow::outbox::{OutItem, Payload};
use crate::flow::policy::Policy;
use crate::flow::routing::Ask;
use crate::ids::{AccountId, MessageKey, UpstreamId};
use crate::store::{
    Accepted, BillingLine, Finished, Mark, MarkKind, Sent, Store, StoreError, TariffVersion, flags,
};

impl<S: Store> Engine<S> {
    pub(super) fn submits(
        &mut self,
        account: Arc<AccountState>,
        policy: &Arc<Policy>,
        items: Vec<Admitted>,
        reply: Arc<Mailbox<ToCustomer>>,
    ) {
        let spec = account.spec();
        let mut sequences = Vec::with_capacity(items.len());
        let mut version = None;
        for item in items {
            self.turn = self.turn.wrapping_add(1);
            let turn = part_of(account.id, &item.message).unwrap_or(self.turn);
            let ask = Ask {
                account: &spec,
                number: item.message.parts().dest,
                turn,
            };
            let lane = self
                .gateway
                .pick(policy, item.route, &ask)
                .map_or(UpstreamId::NONE, |u| u.id);
            // Nearly always that of the message before.
            if version.replace(item.tariff) != Some(item.tariff) {
                self.note_terms(policy, &account, item.tariff);
            }
            if let Some(period) = item.quota {
                self.pending.quotas.push((account.id, period, item.segments));
            }
            let line = self.line_of(policy, item.route, item.class);
            let row = Accepted {
                key: self.next_key(),
                account: account.id,
                at_ms: item.at_ms,
                expires_ms: item.expires_ms,
                price: item.hold.into_record(),
                tariff: item.tariff,
                charge_on: item.charge_on,
                wants: item.wants,
                segments: item.segments,
                line,
                message: item.message,
            };
            // Its effect is added when the batch is closed, since the row may still be refused for lack of space.
            self.book.accepted(&row, lane);
            self.watch(row.key, row.expires_ms, row.at_ms);
            if item.not_before_ms > 0 {
                self.wait_until(row.key, lane, item.not_before_ms);
            }
            sequences.push(item.ticket);
            self.pending.lanes.push(lane);
            self.batch.accepted.push(row);
        }
        self.pending.submits.push((account, reply, sequences));
    }

    /// Puts the terms behind a version on record before the first message that is stamped with it.
    pub(super) fn note_terms(&mut self, policy: &Policy, account: &AccountState, version: u32) {
        if self.book.knows_terms(version) {
            return;
        }
        let Some(tariff) = policy.tariff(&account.spec().tariff) else {
            return;
        };
        self.book.set_terms(version, tariff.terms.clone());
        self.batch.tariffs.push(TariffVersion {
            version,
            name: tariff.name.clone(),
            at_ms: (self.options.now_ms)(),
            terms: tariff.terms.clone(),
        });
    }

    /// The number of a billing line; a new one goes on record with the first message that names it.
    pub(super) fn line_of(&mut self, policy: &Arc<Policy>, route: u16, class: u16) -> u16 {
        if !self
            .lines_of
            .policy
            .as_ref()
            .is_some_and(|p| Arc::ptr_eq(p, policy))
        {
            self.lines_of = LinesOf {
                policy: Some(Arc::clone(policy)),
                known: HashMap::default(),
            };
        }
        if let Some(line) = self.lines_of.known.get(&(route, class)) {
            return *line;
        }
        let line = BillingLine {
            route: policy
                .routes
                .get(route)
                .map_or_else(String::new, |r| r.name.clone()),
            class: policy.class_name(class).into(),
        };
        let next = u16::try_from(self.lines.len() + 1).unwrap_or(u16::MAX);
        let number = *self.lines.entry(line.clone()).or_insert(next);
        if number == next {
            self.batch.lines.push((number, line));
        }
        self.lines_of.known.insert((route, class), number);
        number
    }

    pub(super) fn next_key(&mut self) -> MessageKey {
        let key = MessageKey::new(self.fence.shard, self.fence.epoch, self.next_sequence);
        // `next_epoch` starts the sequence over long before it could wrap.
        self.next_sequence = self.next_sequence.saturating_add(1);
        key
    }

    pub(super) fn upstream(
        &mut self,
        upstream: UpstreamId,
        events: Vec<UpEvent>,
        reply: Arc<Mailbox<ToUpstream>>,
        now: u64,
    ) -> Result<(), StoreError> {
        let mut answers = Vec::new();
        let mut events = events.into_iter();
        let mut done = Ok(());
        while let Some(event) = events.next() {
            match event {
                // Of one of two copies, the other of which the SMSC has taken: its receipt decides.
                UpEvent::Failed { key, piece, .. }
                | UpEvent::Abandoned(key, piece)
                | UpEvent::Held(key, piece)
                    if self.book.is_sent(key, piece) => {}
                UpEvent::Sent { key, piece, smsc_id } => self.sent(upstream, key, piece, smsc_id, now),
                UpEvent::LateSent { key, piece, smsc_id } => {
                    self.late_sent(upstream, key, piece, smsc_id, now);
                }
                UpEvent::Failed { key, piece, status } => {
                    let err = status.min(0xFFFF) as u16;
                    self.over(key, piece, Final::Rejected, err, false, now);
                }
                UpEvent::Expired(key, piece) => self.over(key, piece, Final::Expired, 0, false, now),
                UpEvent::Again(key) => {
                    self.book.written(key);
                    for other in self.book.led_by(key) {
                        self.book.written(other);
                    }
                }
                UpEvent::Abandoned(key, piece) => {
                    self.over(key, piece, Final::Undeliverable, 0, false, now);
                }
                UpEvent::Unwritten(message) => self.returned(upstream, message, false, now),
                UpEvent::Refused(message) => self.returned(upstream, message, true, now),
                UpEvent::Held(key, piece) => self.mark(upstream, key, piece, MarkKind::Held, now),
                UpEvent::Sending(message) => {
                    self.mark(upstream, message.key, message.piece, MarkKind::Sending, now);
                    answers.push(ToUpstream::Write(message));
                }
                UpEvent::Receipt(sequence, receipt) => {
                    if let Err(error) = self.wake_unseen(upstream, &receipt) {
                        // It and what is behind it come again.
                        let events = std::iter::once(UpEvent::Receipt(sequence, receipt))
                            .chain(events)
                            .collect();
                        self.inputs.back(Input::Upstream {
                            upstream,
                            events,
                            reply: Arc::clone(&reply),
                        });
                        done = Err(error);
                        break;
                    }
                    self.receipt(upstream, receipt, now);
                    answers.push(ToUpstream::Committed(sequence));
                }
                UpEvent::Alert(address, body) => self.alert(&address, &body),
                UpEvent::Inbound(sequence, message, fragment) => {
                    self.note_link(upstream, &message, now);
                    self.inbound(message, fragment, now);
                    answers.push(ToUpstream::Committed(sequence));
                }
            }
        }
        if !answers.is_empty() {
            self.pending.answers.push((reply, answers));
        }
        done
    }

    /// To every receiving session of the account that the address belongs to. Nothing is kept: the PDU has no response, so
    /// nobody could say that it arrived (SMPP 3.4 §4.12).
    fn alert(&self, address: &[u8], body: &Arc<[u8]>) {
        if let Some((account, _)) = self.owner_of(address, &[], 0) {
            for session in self.gateway.sessions().iter().filter(|s| s.account == account) {
                session.mailbox.put([ToCustomer::Alert(Arc::clone(body))]);
            }
        }
    }

    fn sent(&mut self, upstream: UpstreamId, key: MessageKey, piece: Piece, smsc_id: Box<[u8]>, now: u64) {
        let row = Sent {
            pos: self.pos(),
            key,
            upstream,
            at_ms: now,
            smsc_id,
            piece,
        };
        let Some((account, line)) = self.book.get(key).map(|o| (o.account, o.line)) else {
            // Over already: a receipt came before its response, which the receipt stands for.
            return;
        };
        let effect = self.book.sent(&row);
        self.book.rest_shadowed();
        self.effect(account, line, Why::Earned, effect);
        self.gateway.totals.sent.fetch_add(1, Ordering::Relaxed);
        let id = row.smsc_id.clone();
        self.batch.sent.push(row);
        for other in self.book.led_by(key) {
            self.led_sent(upstream, other, id.clone(), now);
        }
        if !self.parked.is_empty() {
            self.unpark(upstream, &id, now);
        }
    }

    /// It went as one with the message that leads it.
    fn led_sent(&mut self, upstream: UpstreamId, key: MessageKey, smsc_id: Box<[u8]>, now: u64) {
        let Some((account, line)) = self.book.get(key).map(|o| (o.account, o.line)) else {
            return;
        };
        let row = Sent {
            pos: self.pos(),
            key,
            upstream,
            at_ms: now,
            smsc_id,
            piece: Piece::LED,
        };
        let effect = self.book.sent(&row);
        self.effect(account, line, Why::Earned, effect);
        self.gateway.totals.sent.fetch_add(1, Ordering::Relaxed);
        self.batch.sent.push(row);
    }

    /// The SMSC had taken it after all. If it waits for its second try, it waits no longer; if that is under way already,
    /// the message is charged once all the same.
    fn late_sent(
        &mut self,
        upstream: UpstreamId,
        key: MessageKey,
        piece: Piece,
        smsc_id: Box<[u8]>,
        now: u64,
    ) {
        let Some(open) = self.book.get(key).filter(|o| o.phase != Phase::Sent) else {
            return;
        };
        if open.phase == Phase::Queued
            && let Some(lane) = self.gateway.upstream(open.upstream)
        {
            let _over = lane.withdraw(|m| m.key == key && m.piece == piece);
        }
        self.sent(upstream, key, piece, smsc_id, now);
    }

    /// A marked message comes back. It may be taken again only after the mark's end is on record: otherwise a crash could
    /// leave two marks in the wrong order, and what may have been written would be taken for unwritten.
    fn returned(&mut self, upstream: UpstreamId, message: Outgoing, refused: bool, now: u64) {
        if self.book.get(message.key).is_none() {
            return;
        }
        self.mark(upstream, message.key, message.piece, MarkKind::Requeued, now);
        self.pending.returned.push((upstream, message, refused));
    }

    pub(super) fn mark(
        &mut self,
        upstream: UpstreamId,
        key: MessageKey,
        piece: Piece,
        kind: MarkKind,
        now: u64,
    ) {
        let row = Mark {
            pos: self.pos(),
            key,
            kind,
            at_ms: now,
            upstream,
            state: 0,
            err: 0,
            flags: 0,
            piece,
        };
        if self.book.get(key).is_some() {
            self.book.mark(&row);
            self.batch.marks.push(row);
        }
        if piece.whole() {
            for other in self.book.led_by(key) {
                self.mark(upstream, other, piece, kind, now);
            }
        }
    }

    /// A message or a part of one is over. The message is when all its parts are.
    pub(super) fn over(
        &mut self,
        key: MessageKey,
        piece: Piece,
        state: Final,
        err: u16,
        taken: bool,
        now: u64,
    ) {
        if piece.whole() {
            return self.finish(key, state, err, taken, now);
        }
        let Some(open) = self.book.get(key) else { return };
        let done = open.parts.as_deref().and_then(|parts| {
            let part = parts.get(usize::from(piece.part.checked_sub(1)?))?;
            matches!(part.state, PartState::Over(..)).then_some(())
        });
        if done.is_some() {
            return;
        }
        let each = self
            .gateway
            .accounts()
            .get(open.account)
            .is_some_and(|a| a.spec().receipts == Receipts::Each);
        let wanted = each && open.wants.covers(state);
        let open = open.clone();
        let mut row = Mark {
            pos: self.pos(),
            key,
            kind: MarkKind::PartOver,
            at_ms: now,
            upstream: open.upstream,
            state: state.code(),
            err,
            flags: if wanted { flags::WANTED } else { 0 } | if taken { flags::TAKEN } else { 0 },
            piece,
        };
        if wanted {
            let end = Finished {
                pos: row.pos,
                key,
                account: open.account,
                state,
                err,
                at_ms: now,
                charged: crate::money::Money::ZERO,
                flags: 0,
            };
            let counts = (1, u8::from(state == Final::Delivered));
            row.flags |= self.deliver_receipt(&end, &open, counts);
        }
        self.book.mark(&row);
        self.batch.marks.push(row);
        let ended = self
            .book
            .get(key)
            .and_then(|o| o.parts.as_deref())
            .and_then(rolled_up);
        if let Some((state, err)) = ended {
            self.finish_parts(key, state, err, each, now);
        }
    }

    /// Every part that is still open is over in the same way.
    pub(super) fn parts_over(
        &mut self,
        key: MessageKey,
        which: impl Fn(PartState) -> bool,
        state: Final,
        now: u64,
    ) {
        let parts: Vec<Part> = self
            .book
            .get(key)
            .and_then(|o| o.parts.as_deref())
            .unwrap_or(&[])
            .to_vec();
        for (at, part) in parts.iter().enumerate().filter(|(_, p)| which(p.state)) {
            let piece = Piece {
                of: parts.len() as u8,
                part: at as u8 + 1,
            };
            self.over(key, piece, state, 0, part.taken(), now);
        }
    }

    /// Ends a message: money, the event, and the receipt the customer asked for. Nothing if it is not open.
    pub(super) fn finish(&mut self, key: MessageKey, state: Final, err: u16, taken: bool, now: u64) {
        self.end(key, state, err, taken, true, now);
    }

    /// The last part is over; `told`: the customer has had a receipt for each.
    fn finish_parts(&mut self, key: MessageKey, state: Final, err: u16, told: bool, now: u64) {
        self.end(key, state, err, true, !told, now);
    }

    fn end(&mut self, key: MessageKey, state: Final, err: u16, taken: bool, tell: bool, now: u64) {
        let Some(open) = self.book.get(key) else {
            return;
        };
        let taken = taken || open.phase == Phase::Sent;
        let charged = self.book.cost(open, state, err, taken);
        // The customer has already heard of this provisional state.
        let told = open.provisional == Some(state);
        let wanted = open.wants.covers(state) && !told && tell;
        let mut row = Finished {
            pos: self.pos(),
            key,
            account: self.book.get(key).map_or_else(Default::default, |o| o.account),
            state,
            err,
            at_ms: now,
            charged,
            flags: if wanted { flags::WANTED } else { 0 },
        };
        let led = self.book.led_by(key);
        let Some((open, effect)) = self.book.finished(&row) else {
            return;
        };
        if !self.held.is_empty() {
            self.held.remove(&key);
        }
        self.effect(open.account, open.line, Why::Ended(state), effect);
        if wanted {
            row.flags |= self.deliver_receipt(&row, &open, counts(&open, state));
        }
        self.gateway.totals.finished.fetch_add(1, Ordering::Relaxed);
        self.gateway.metrics.finished(usize::from(state.code()));
        if open.phase == Phase::Sent {
            let seconds = now.saturating_sub(open.step_ms) as f64 / 1e3;
            self.gateway.metrics.receipt_seconds.record(seconds);
            if let Some(upstream) = self.gateway.upstream(open.upstream) {
                upstream.quality.ended(state == Final::Delivered);
            }
        }
        self.batch.finished.push(row);
        for other in led {
            self.end(other, state, err, taken, true, now);
        }
    }

    /// Queues a receipt for the customer; [`flags::SPILLED`] if it goes to the store.
    /// `counts`: parts submitted and delivered.
    pub(super) fn deliver_receipt(&mut self, row: &Finished, open: &Open, counts: (u8, u8)) -> u8 {
        let item = OutItem {
            pos: row.pos,
            at_ms: row.at_ms,
            attempts: 0,
            stored: false,
            payload: Payload::Receipt {
                key: row.key,
                stub: open.stub.clone(),
                state: Some(row.state),
                err: row.err,
                submitted_ms: open.at_ms,
                done_ms: row.at_ms,
                counts,
            },
        };
        self.deliver(open.account, item)
    }

    /// Keeps an item in memory if there is room, else writes it to the stored outbox in this commit.
    pub(super) fn deliver(&mut self, account: crate::ids::AccountId, item: OutItem) -> u8 {
        let accounts = self.gateway.accounts();
        let Some(owner) = accounts.get(account) else {
            return 0;
        };
        if owner.outbox.reserve(self.gateway.limits.outbox_max) {
            self.pending.deliveries.push((account, item));
            return 0;
        }
        self.batch.outbox_put.push(item.row(account, false));
        owner.outbox.spilled(1);
        flags::SPILLED
    }
}

/// Parts submitted and delivered, for a receipt's text.
pub(super) fn counts(open: &Open, state: Final) -> (u8, u8) {
    match open.parts.as_deref() {
        None => (1, u8::from(state == Final::Delivered)),
        Some(parts) => {
            let delivered = |p: &&Part| matches!(p.state, PartState::Over(Final::Delivered, ..));
            (parts.len() as u8, parts.iter().filter(delivered).count() as u8)
        }
    }
}

/// For a part of a message that the customer has split: a number that all its parts share, so that they take one way and can
/// be put together again. `None` for any other message.
fn part_of(account: AccountId, message: &Message) -> Option<u64> {
    let parts = message.parts();
    let udhi = parts.flags.esm_class & 0x40 != 0;
    if !(udhi || parts.tlvs.windows(2).any(|w| w == SAR_REFERENCE)) {
        return None;
    }
    let hasher = foldhash::fast::FixedState::default();
    Some(hasher.hash_one((account.0, parts.source, parts.dest)))
}

/// Tag of sar_msg_ref_num (SMPP 3.4 §5.3.2.22). A value that happens to hold these octets makes a message go with its
/// destination's others, which does no harm.
const SAR_REFERENCE: [u8; 2] = [0x02, 0x0C];
