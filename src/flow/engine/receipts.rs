//! Receipts find their messages, or are parked until they do; inbound messages find their accounts.

use std::sync::atomic::Ordering;

use super::Engine;
use super::settle::counts;
use crate::domain::address::same_number;
use crate::domain::message::{Fragment, Message, PAYLOAD, Piece, tlv};
use crate::domain::outcome::Final;
use crate::flow::habits::IdForm;
use crate::flow::ingress::UpReceipt;
use crate::flow::outbox::Payload;
use crate::ids::{MessageKey, UpstreamId};
use crate::store::{Finished, Mark, MarkKind, Parked, Store, flags};

/// message_state of a message that is on its way (SMPP 3.4 §5.2.28).
const ENROUTE: u8 = 1;
/// Bit of registered_delivery that asks for intermediate notifications (SMPP 3.4 §5.2.17).
const INTERMEDIATE: u8 = 0x10;

impl<S: Store> Engine<S> {
    pub(super) fn receipt(&mut self, upstream: UpstreamId, receipt: UpReceipt, now: u64) {
        self.gateway.totals.receipts.fetch_add(1, Ordering::Relaxed);
        let found = self.find(upstream, &receipt.smsc_id, [&receipt.number, &receipt.other]);
        let Some(state) = Final::from_code(receipt.state) else {
            // An intermediate notification: nothing has ended.
            if let Some((key, ..)) = found.filter(|_| receipt.state == ENROUTE) {
                let led = self.book.led_by(key);
                for key in std::iter::once(key).chain(led) {
                    self.notify(key, receipt.err, now);
                }
            }
            return;
        };
        match found {
            Some((key, piece, form)) => {
                let proves = self.proves(upstream, &receipt.smsc_id, form);
                if let Some(upstream) = self.gateway.upstream(upstream) {
                    upstream.habits.found(form, proves);
                }
                self.confirm(upstream, key, piece, state, receipt.err, now);
            }
            None => self.park(upstream, receipt, now),
        }
    }

    /// The open message that an upstream means by `smsc_id`, and how the id had to be read. One of the receipt's addresses must
    /// agree with its destination, unless it has none: SMSCs start their ids over. Some put the number into the receipt's
    /// destination instead of its source.
    pub(super) fn find(
        &self,
        upstream: UpstreamId,
        smsc_id: &[u8],
        numbers: [&[u8]; 2],
    ) -> Option<(MessageKey, Piece, IdForm)> {
        let lane = self.gateway.upstream(upstream)?;
        let correlation = &self.book.correlation;
        let as_written = correlation.read_as(upstream, smsc_id, IdForm::Same)?;
        if lane.habits.form().is_none() && correlation.ended(as_written, numbers[0]) {
            // Repeated; read in another way it could only hit another message.
            return None;
        }
        lane.habits.forms().find_map(|form| {
            let handle = correlation.read_as(upstream, smsc_id, form)?;
            let key = correlation.get(handle)?;
            let dest = self.book.get(key)?.stub.parts().dest;
            let agrees = numbers.iter().all(|n| n.is_empty()) || numbers.iter().any(|n| same_number(dest, n));
            agrees.then(|| (key, self.book.piece_of(key, handle), form))
        })
    }

    /// Whether no other form reads an id as this one does.
    fn proves(&self, upstream: UpstreamId, smsc_id: &[u8], form: IdForm) -> bool {
        let read = |form| self.book.correlation.read_as(upstream, smsc_id, form);
        let one = read(form);
        IdForm::ALL.into_iter().filter(|f| read(*f) == one).count() == 1
    }

    /// Tells a customer who asked for it that a message is still on its way (SMPP 3.4 §5.2.17, bit 4).
    fn notify(&mut self, key: MessageKey, err: u16, now: u64) {
        let Some(open) = self.book.get(key) else { return };
        if open.stub.parts().flags.registered_delivery & INTERMEDIATE == 0 {
            return;
        }
        let account = open.account;
        let payload = Payload::Receipt {
            key,
            stub: open.stub.clone(),
            state: None,
            err,
            submitted_ms: open.at_ms,
            done_ms: now,
            counts: (1, 0),
        };
        self.deliver_stored(Some(account), payload, now);
    }

    fn confirm(
        &mut self,
        upstream: UpstreamId,
        key: MessageKey,
        piece: Piece,
        state: Final,
        err: u16,
        now: u64,
    ) {
        if !state.provisional() {
            self.suppress_by_receipt(upstream, key, state, err, now);
            self.over(key, piece, state, err, true, now);
            return;
        }
        if !piece.whole() {
            // A part's provisional state decides nothing: the message's does not change before the part ends.
            return;
        }
        for other in self.book.led_by(key) {
            self.confirm(upstream, other, piece, state, err, now);
        }
        // ACCEPTD and UNKNOWN may be replaced until the receipt timeout; the customer is told at once, and once.
        let Some(open) = self.book.get(key).filter(|o| o.provisional != Some(state)) else {
            return;
        };
        let wanted = open.wants.covers(state);
        let open = open.clone();
        let mut row = Mark {
            pos: self.pos(),
            key,
            kind: MarkKind::Provisional,
            at_ms: now,
            upstream,
            state: state.code(),
            err,
            flags: if wanted { flags::WANTED } else { 0 },
            piece: Piece::WHOLE,
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
            row.flags |= self.deliver_receipt(&end, &open, counts(&open, state));
        }
        self.book.mark(&row);
        self.batch.marks.push(row);
    }

    fn park(&mut self, upstream: UpstreamId, receipt: UpReceipt, now: u64) {
        self.gateway.totals.unmatched.fetch_add(1, Ordering::Relaxed);
        self.gateway.metrics.unmatched.increment(1);
        if let Some(lane) = self.gateway.upstream(upstream) {
            lane.habits.missed();
        }
        let row = Parked {
            pos: self.pos(),
            upstream,
            smsc_id: receipt.smsc_id,
            // The one of its addresses that can be a subscriber's.
            number: if numeric(&receipt.number) || !numeric(&receipt.other) {
                receipt.number
            } else {
                receipt.other
            },
            state: receipt.state,
            err: receipt.err,
            at_ms: now,
        };
        self.batch.parked.push(row.clone());
        self.keep_parked(row);
        while self.parked_order.len() > self.gateway.limits.parked_max {
            self.drop_oldest_parked();
        }
    }

    /// Makes a parked receipt findable. A repeated receipt of an ended message is kept for the operator but never matched:
    /// the SMSC may give its id to another message later.
    pub(super) fn keep_parked(&mut self, row: Parked) {
        let correlation = &self.book.correlation;
        let read_as = |form| correlation.read_as(row.upstream, &row.smsc_id, form);
        let repeated = read_as(IdForm::Same).is_some_and(|h| correlation.ended(h, &row.number));
        let forms: Vec<u64> = if repeated {
            Vec::new()
        } else {
            IdForm::ALL.into_iter().filter_map(read_as).collect()
        };
        self.parked_order.push_back((row.pos, row.at_ms, forms.clone()));
        for handle in forms {
            self.parked.entry(handle).or_default().push(row.clone());
        }
        self.gateway
            .totals
            .parked
            .store(self.parked_order.len() as u64, Ordering::Relaxed);
    }

    /// A message just got its SMSC id: were its receipts here first? All of them count, in the order they came: ACCEPTD may
    /// stand before DELIVRD.
    pub(super) fn unpark(&mut self, upstream: UpstreamId, smsc_id: &[u8], now: u64) {
        let handle = self.book.correlation.noted_as(upstream, smsc_id);
        let mut rows = self.parked.get(&handle).cloned().unwrap_or_default();
        rows.sort_by_key(|p| p.pos);
        rows.dedup_by_key(|p| p.pos);
        for row in rows {
            self.match_parked(&row, now);
        }
    }

    /// Applies a parked receipt if its message is known now.
    pub(super) fn match_parked(&mut self, row: &Parked, now: u64) {
        if let (Some((key, piece, form)), Some(state)) = (
            self.find(row.upstream, &row.smsc_id, [&row.number, &[]]),
            Final::from_code(row.state),
        ) {
            let proves = self.proves(row.upstream, &row.smsc_id, form);
            if let Some(lane) = self.gateway.upstream(row.upstream) {
                lane.habits.found_late(form, proves);
            }
            self.forget_parked(row.pos);
            self.batch.unparked.push(row.pos);
            self.confirm(row.upstream, key, piece, state, row.err, now);
        }
    }

    fn forget_parked(&mut self, pos: crate::ids::Pos) {
        if let Ok(at) = self.parked_order.binary_search_by_key(&pos, |(p, _, _)| *p)
            && let Some((_, _, forms)) = self.parked_order.remove(at)
        {
            self.unlist(pos, &forms);
        }
    }

    fn unlist(&mut self, pos: crate::ids::Pos, forms: &[u64]) {
        for handle in forms {
            if let Some(list) = self.parked.get_mut(handle) {
                list.retain(|p| p.pos != pos);
                if list.is_empty() {
                    self.parked.remove(handle);
                }
            }
        }
        self.gateway
            .totals
            .parked
            .store(self.parked_order.len() as u64, Ordering::Relaxed);
    }

    pub(super) fn drop_oldest_parked(&mut self) {
        if let Some((pos, _, forms)) = self.parked_order.pop_front() {
            self.gateway.metrics.parked_dropped.increment(1);
            self.unlist(pos, &forms);
            self.batch.unparked.push(pos);
        }
    }

    /// Parked receipts past their time go.
    pub(super) fn expire_parked(&mut self, now: u64) {
        let before = now.saturating_sub(self.gateway.limits.parked_keep_ms);
        // A slice a tick, so that a day's worth does not come in one commit.
        for _ in 0..500 {
            if self.parked_order.front().is_none_or(|(_, at, _)| *at > before) {
                return;
            }
            self.drop_oldest_parked();
        }
    }

    pub(super) fn inbound(&mut self, message: Message, fragment: Option<Fragment>, now: u64) {
        self.gateway.totals.inbound.fetch_add(1, Ordering::Relaxed);
        let joins = self.gateway.policy.load().joins(message.parts().dest);
        match fragment.filter(|_| joins) {
            Some(fragment) => self.part(message, fragment, now),
            None => {
                let parts = message.parts();
                let header = fragment.map_or(0, |f| usize::from(f.header));
                let mut text = parts.text.get(header..).unwrap_or(&[]);
                if parts.text.is_empty() {
                    text = tlv(parts.tlvs, PAYLOAD).unwrap_or(text);
                }
                let owner = self
                    .owner_of(parts.dest, text, parts.flags.data_coding)
                    .map(|(a, _)| a);
                self.deliver_inbound(message, owner, now);
            }
        }
    }
}

/// At least seven digits, with or without a plus.
fn numeric(address: &[u8]) -> bool {
    let digits = address.strip_prefix(b"+").unwrap_or(address);
    digits.len() >= 7 && digits.iter().all(u8::is_ascii_digit)
}
