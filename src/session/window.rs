//! Requests awaiting their response: sequence numbers, window, and age.

use std::collections::VecDeque;

use super::response_to;
use crate::smpp::CommandId;

/// Highest sequence number (SMPP 3.4 §3.2).
pub const SEQUENCE_MAX: u32 = 0x7FFF_FFFF;

/// How far the oldest unanswered request may lag behind the newest, in windows. A peer that answers everything but one
/// request is then stopped until that one times out, so that the ring stays small.
const LAG_WINDOWS: usize = 4;
const LAG_MIN: usize = 1024;

#[derive(Debug)]
enum Slot<T> {
    /// Answered or expired.
    Empty,
    /// A request of the session's own (enquire_link, unbind, bind).
    Own { sent_ms: u64, command: CommandId },
    /// A request of the caller.
    Ticket {
        sent_ms: u64,
        command: CommandId,
        ticket: T,
    },
}

/// What a response answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered<T> {
    /// A request of the session's own.
    Own,
    /// The caller's request, and when it was sent.
    Ticket(T, u64),
    /// Nothing that is outstanding: late, repeated, invented, or the response to another operation.
    Stray,
}

/// Outstanding requests in the order sent. Sequence numbers run 1..=0x7FFFFFFF and wrap; one is never given out again
/// while its request is unanswered, since the ring is far smaller than the range.
#[derive(Debug)]
pub struct Window<T> {
    slots: VecDeque<Slot<T>>,
    /// Sequence number of `slots[0]`.
    base: u32,
    open: usize,
    limit: usize,
}

impl<T> Window<T> {
    /// A window of `limit` caller's requests (at least 1).
    #[must_use]
    pub fn new(limit: usize) -> Window<T> {
        Window {
            slots: VecDeque::new(),
            base: 1,
            open: 0,
            limit: limit.max(1),
        }
    }

    /// How many more requests of the caller fit.
    #[must_use]
    pub fn free(&self) -> usize {
        let lag = (self.limit * LAG_WINDOWS)
            .max(LAG_MIN)
            .saturating_sub(self.slots.len());
        self.limit.saturating_sub(self.open).min(lag)
    }

    /// The caller's requests that are unanswered.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Registers a request of the caller, a `command` PDU, and gives its sequence number; the ticket comes back when the
    /// window is full.
    ///
    /// # Errors
    /// The ticket, unchanged.
    pub fn push(&mut self, ticket: T, command: CommandId, now_ms: u64) -> Result<u32, T> {
        if self.free() == 0 {
            return Err(ticket);
        }
        self.open += 1;
        Ok(self.put(Slot::Ticket {
            sent_ms: now_ms,
            command,
            ticket,
        }))
    }

    /// The ticket registered last, if it is still outstanding.
    #[must_use]
    pub fn newest(&self) -> Option<&T> {
        match self.slots.back() {
            Some(Slot::Ticket { ticket, .. }) => Some(ticket),
            _ => None,
        }
    }

    /// Registers a request of the session's own.
    pub(super) fn push_own(&mut self, command: CommandId, now_ms: u64) -> u32 {
        self.put(Slot::Own {
            sent_ms: now_ms,
            command,
        })
    }

    /// A sequence number that nothing will answer.
    pub(super) fn skip(&mut self) -> u32 {
        let sequence = self.put(Slot::Empty);
        self.trim();
        sequence
    }

    fn put(&mut self, slot: Slot<T>) -> u32 {
        let sequence = advance(self.base, self.slots.len());
        self.slots.push_back(slot);
        sequence
    }

    /// Takes the request that `response` with `sequence` answers: its own response, or a generic_nack. A response to
    /// another operation leaves the request outstanding.
    pub fn answer(&mut self, sequence: u32, response: CommandId) -> Answered<T> {
        let Some(slot) = distance(self.base, sequence).and_then(|d| self.slots.get_mut(d)) else {
            return Answered::Stray;
        };
        match slot {
            Slot::Own { command, .. } | Slot::Ticket { command, .. }
                if response == response_to(*command) || response == CommandId::GENERIC_NACK => {}
            _ => return Answered::Stray,
        }
        let taken = std::mem::replace(slot, Slot::Empty);
        self.trim();
        match taken {
            Slot::Empty => Answered::Stray,
            Slot::Own { .. } => Answered::Own,
            Slot::Ticket { sent_ms, ticket, .. } => {
                self.open -= 1;
                Answered::Ticket(ticket, sent_ms)
            }
        }
    }

    /// When the oldest outstanding request was sent.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        // trim() keeps the front occupied whenever anything is outstanding.
        match self.slots.front() {
            Some(Slot::Own { sent_ms, .. } | Slot::Ticket { sent_ms, .. }) => Some(*sent_ms),
            _ => None,
        }
    }

    /// Takes the oldest request if it was sent at or before `before_ms`, with its sequence number: `Some(None)` for one of
    /// the session's own.
    pub(super) fn expire(&mut self, before_ms: u64) -> Option<Option<(u32, T)>> {
        if self.oldest()? > before_ms {
            return None;
        }
        let slot = self.slots.pop_front()?;
        let sequence = self.base;
        self.base = advance(self.base, 1);
        self.trim();
        match slot {
            Slot::Ticket { ticket, .. } => {
                self.open -= 1;
                Some(Some((sequence, ticket)))
            }
            _ => Some(None),
        }
    }

    /// Empties the window, oldest first: what is left when a session ends.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.base = advance(self.base, self.slots.len());
        self.open = 0;
        self.slots.drain(..).filter_map(|s| match s {
            Slot::Ticket { ticket, .. } => Some(ticket),
            _ => None,
        })
    }

    fn trim(&mut self) {
        while matches!(self.slots.front(), Some(Slot::Empty)) {
            self.slots.pop_front();
            self.base = advance(self.base, 1);
        }
        if self.slots.is_empty() && self.slots.capacity() > LAG_MIN {
            self.slots = VecDeque::new();
        }
    }
}

fn advance(sequence: u32, by: usize) -> u32 {
    let range = u64::from(SEQUENCE_MAX);
    ((u64::from(sequence - 1) + by as u64) % range) as u32 + 1
}

fn distance(base: u32, sequence: u32) -> Option<usize> {
    if sequence == 0 || sequence > SEQUENCE_MAX {
        return None;
    }
    Some(((sequence + SEQUENCE_MAX - base) % SEQUENCE_MAX) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SM: CommandId = CommandId::SUBMIT_SM;
    const RESP: CommandId = CommandId::SUBMIT_SM_RESP;

    #[test]
    fn only_its_own_response_or_a_nack_answers_a_request() {
        let mut w = Window::new(3);
        let (first, second) = (w.push('a', SM, 0).unwrap(), w.push('b', SM, 0).unwrap());
        for wrong in [CommandId::ENQUIRE_LINK_RESP, CommandId::DELIVER_SM_RESP] {
            assert_eq!(w.answer(first, wrong), Answered::Stray);
        }
        assert_eq!(w.answer(first, RESP), Answered::Ticket('a', 0));
        assert_eq!(
            w.answer(second, CommandId::GENERIC_NACK),
            Answered::Ticket('b', 0)
        );
        assert_eq!(w.open(), 0);
    }

    #[test]
    fn the_window_fills_and_frees_in_any_order() {
        let mut w = Window::new(3);
        let seqs: Vec<u32> = (0..3).map(|i| w.push(i, SM, 10).unwrap()).collect();
        assert_eq!(seqs, [1, 2, 3]);
        assert_eq!(w.push(9, SM, 10), Err(9));
        assert_eq!(w.answer(2, RESP), Answered::Ticket(1, 10));
        assert_eq!(w.answer(2, RESP), Answered::Stray);
        assert_eq!(w.push(9, SM, 20), Ok(4));
        assert_eq!(w.oldest(), Some(10));
        assert_eq!(w.expire(10), Some(Some((1, 0))));
        assert_eq!(w.oldest(), Some(10));
        assert_eq!(w.drain().collect::<Vec<_>>(), [2, 9]);
        assert_eq!(w.answer(3, RESP), Answered::Stray);
    }

    #[test]
    fn sequence_numbers_wrap_within_their_range() {
        let mut w = Window::new(10);
        w.base = SEQUENCE_MAX - 1;
        let seqs: Vec<u32> = (0..4).map(|i| w.push(i, SM, 0).unwrap()).collect();
        assert_eq!(seqs, [SEQUENCE_MAX - 1, SEQUENCE_MAX, 1, 2]);
        for (i, s) in seqs.iter().enumerate().rev() {
            assert_eq!(w.answer(*s, RESP), Answered::Ticket(i, 0));
        }
        for bad in [0, SEQUENCE_MAX + 1, u32::MAX] {
            assert_eq!(w.answer(bad, RESP), Answered::Stray);
        }
    }

    proptest! {
        #[test]
        fn every_ticket_comes_back_exactly_once(ops in proptest::collection::vec((0u8..3, 0usize..40), 0..400)) {
            let mut w = Window::new(16);
            let mut model: Vec<(u32, u32)> = Vec::new();
            let (mut next, mut now) = (0u32, 0u64);
            for (what, n) in ops {
                now += 1;
                match what {
                    0 => match w.push(next, SM, now) {
                        Ok(seq) => {
                            prop_assert!(model.iter().all(|(s, _)| *s != seq), "reused while outstanding");
                            model.push((seq, next));
                            next += 1;
                        }
                        Err(_) => prop_assert!(model.len() >= 16),
                    },
                    1 if !model.is_empty() => {
                        let (seq, ticket) = model.remove(n % model.len());
                        let answered = w.answer(seq, RESP);
                        prop_assert!(matches!(answered, Answered::Ticket(t, _) if t == ticket));
                    }
                    _ => prop_assert_eq!(w.answer(SEQUENCE_MAX, RESP), Answered::Stray),
                }
                prop_assert_eq!(w.open(), model.len());
            }
        }
    }
}
