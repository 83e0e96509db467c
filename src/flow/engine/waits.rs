//! Messages that are on record and must not go yet: until a time, or until a person has looked at them. They are in no lane; a mark
//! says until when, so that a restart finds them as they are. When it is their time they take the route of that moment.

use std::collections::{BTreeMap, HashSet};

use super::Engine;
use crate::domain::message::Piece;
use crate::domain::outcome::Final;
use crate::domain::sender::TRANSACTIONAL;
use crate::flow::ingress::ControlError;
use crate::flow::rules::{HeldView, RuleReply, opens};
use crate::ids::{MessageKey, UpstreamId};
use crate::metrics;
use crate::store::{Mark, MarkKind, Store, StoreError};

/// Messages whose time has come that are put into their lanes in one tick.
const WAKE_MAX: usize = 5_000;
/// Messages held for a person that are shown at a time.
const SHOWN_MAX: usize = 1_000;

impl<S: Store> Engine<S> {
    /// An accepted message waits, from the same commit on.
    pub(super) fn wait_until(&mut self, key: MessageKey, upstream: UpstreamId, until_ms: u64) {
        let mark = Mark {
            pos: self.pos(),
            key,
            kind: MarkKind::Waits,
            at_ms: until_ms.min(Mark::NEVER),
            upstream,
            state: 0,
            err: 0,
            flags: 0,
            piece: Piece::WHOLE,
        };
        self.book.mark(&mark);
        self.batch.marks.push(mark);
        self.book.set_stored(key, true);
        self.waits(key, until_ms);
    }

    /// Keeps the time of a message that waits.
    pub(super) fn waits(&mut self, key: MessageKey, until_ms: u64) {
        if until_ms < Mark::NEVER {
            self.waiting.insert((until_ms, key));
        } else {
            self.held.insert(key);
        }
    }

    /// Puts messages whose time has come into their lanes. Nothing is written: a restart sees by the clock that it is over.
    pub(super) fn wake_due(&mut self, now: u64) -> Result<(), StoreError> {
        if self.waiting.first().is_none_or(|(due, _)| *due > now) {
            self.count_waiting();
            return Ok(());
        }
        let mut lanes: BTreeMap<UpstreamId, Vec<MessageKey>> = BTreeMap::new();
        let policy = self.gateway.policy.load_full();
        let mut read = Ok(());
        for _ in 0..WAKE_MAX {
            let Some((due, key)) = self.waiting.first().copied().filter(|(due, _)| *due <= now) else {
                break;
            };
            // Nearly always it was read ahead.
            read = self.awaken(&[key]);
            if read.is_err() {
                break;
            }
            self.waiting.pop_first();
            // It may be over, or wait for another time by now.
            if self.book.waits(key) != Some(due) {
                continue;
            }
            self.book.woken(key);
            // Its subscriber may have opted out while it waited.
            if self.stopped_meanwhile(key) {
                self.finish(key, Final::Rejected, 0, false, now);
                continue;
            }
            let lane = self.home(&policy, key).unwrap_or(UpstreamId::NONE);
            self.book.moved(key, lane);
            lanes.entry(lane).or_default().push(key);
        }
        for (lane, keys) in lanes {
            if let Some(upstream) = self.gateway.upstream(lane) {
                upstream.push_backlog(self.in_line(&keys));
            }
        }
        self.count_waiting();
        read
    }

    fn count_waiting(&self) {
        let live = &self.gateway.live;
        let held = self.held.len() as u64;
        live.held.store(held, std::sync::atomic::Ordering::Relaxed);
        live.waiting.store(
            self.book.all_waiting() as u64 - held,
            std::sync::atomic::Ordering::Relaxed,
        );
    }

    fn stopped_meanwhile(&self, key: MessageKey) -> bool {
        let Some(open) = self.book.get(key) else {
            return false;
        };
        let parts = open.stub.parts();
        let transactional = self.class_of_line(key) == TRANSACTIONAL;
        let scope = self
            .gateway
            .live
            .stops(open.account, parts.source, parts.dest, transactional);
        scope.inspect(|scope| metrics::suppression_hit(scope)).is_some()
    }

    /// Messages that wait for a person, oldest first, after `after`.
    pub(super) fn show_held(&self, after: MessageKey, max: usize) -> Vec<HeldView> {
        let keys = self
            .held
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        let view = |key: &MessageKey| {
            let open = self.book.get(*key)?;
            let parts = open.stub.parts();
            Some(HeldView {
                key: *key,
                account: open.account,
                source: parts.source.into(),
                dest: parts.dest.into(),
                at_ms: open.at_ms,
                expires_ms: open.expires_ms,
                segments: open.segments,
            })
        };
        keys.filter_map(view).take(max.min(SHOWN_MAX)).collect()
    }

    fn held_one(&self, key: MessageKey) -> Result<(), ControlError> {
        match self.book.waits(key) {
            Some(Mark::NEVER) => Ok(()),
            _ if self.book.get(key).is_some() => {
                Err(ControlError::State("this message does not wait for a person"))
            }
            _ => Err(ControlError::NoSuch("message")),
        }
    }

    /// What a person has to read to decide.
    pub(super) fn show_text(&mut self, key: MessageKey) -> Result<RuleReply, ControlError> {
        self.held_one(key)?;
        let mut found = None;
        let read = self.store.load(&[key], &mut |_, message| found = Some(message));
        if let Err(error) = read {
            self.read_failed(error);
            return Err(ControlError::Unavailable);
        }
        found
            .map(RuleReply::Message)
            .ok_or(ControlError::NoSuch("message"))
    }

    /// A person lets a message go: at once, or when the hours of its class begin.
    pub(super) fn let_held_go(&mut self, key: MessageKey, now: u64) -> Result<(), ControlError> {
        self.held_one(key)?;
        let policy = self.gateway.policy.load_full();
        let class = self.class_of_line(key);
        let operator = self
            .book
            .get(key)
            .map_or("", |o| policy.operator(o.stub.parts().dest));
        let until = opens(&policy.rules, &class, operator, now).unwrap_or(now);
        let upstream = self.book.get(key).map_or(UpstreamId::NONE, |o| o.upstream);
        self.held.remove(&key);
        self.wait_until(key, upstream, until);
        Ok(())
    }

    /// A person refuses a message: nothing is charged, and its customer gets the receipt it asked for.
    pub(super) fn refuse_held(&mut self, key: MessageKey, now: u64) -> Result<(), ControlError> {
        self.held_one(key)?;
        self.held.remove(&key);
        self.finish(key, Final::Rejected, 0, false, now);
        Ok(())
    }

    /// The class of a message's sender, as its billing line has it.
    pub(super) fn class_of_line(&self, key: MessageKey) -> String {
        let line = self.book.get(key).map_or(0, |o| o.line);
        let found = self.lines.iter().find(|(_, number)| **number == line);
        found.map_or_else(String::new, |(line, _)| line.class.clone())
    }

    /// Marks of submits that were given up for lack of room go with them.
    pub(super) fn give_up_waits(&mut self) {
        let gone: HashSet<MessageKey> = self
            .batch
            .marks
            .iter()
            .filter(|m| m.kind == MarkKind::Waits && self.book.get(m.key).is_none())
            .map(|m| m.key)
            .collect();
        if !gone.is_empty() {
            self.batch.marks.retain(|m| !gone.contains(&m.key));
        }
    }
}
