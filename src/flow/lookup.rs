//! Looking up what is over: beside the engine, on a thread of its own with a read-only connection, so that a client that asks
//! a thousand times costs nobody's submit anything.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};

use super::ingress::{Mailbox, Outcome, Ticket, ToCustomer};
use crate::domain::outcome::Final;
use crate::domain::reject::Reject;
use crate::ids::{AccountId, MessageKey};

/// Questions waiting; beyond, they are refused.
const WAITING_MAX: usize = 1_000;

/// What is asked about a message that is not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// query_sm.
    State,
    /// cancel_sm: whether it is too late, or there is no such message.
    Cancel,
    /// replace_sm: the same.
    Replace,
}

/// One question of a session.
pub struct Job {
    /// Whose messages it may see.
    pub account: AccountId,
    /// Which message.
    pub key: MessageKey,
    /// Its source address; empty: any.
    pub source: Box<[u8]>,
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// Where the answer goes.
    pub reply: Arc<Mailbox<ToCustomer>>,
    /// What is asked.
    pub question: Question,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({:?} {})", self.question, self.key)
    }
}

/// A message as the store has it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose.
    pub account: AccountId,
    /// Its source address.
    pub source: Vec<u8>,
    /// Its place in a submit_multi.
    pub sibling: u8,
    /// A provisional state and its `err`, while it has not ended.
    pub provisional: Option<(Final, u16)>,
    /// How it ended, `err`, and when; `None`: it has not.
    pub end: Option<(Final, u16, u64)>,
}

/// message_state of a message that is on its way (SMPP 3.4 §5.2.28).
const ENROUTE: u8 = 1;

impl Job {
    /// Answers from what `read` finds. The messages of a submit_multi are one: delivered if all are, over when all are.
    pub fn work<E>(self, mut read: impl FnMut(MessageKey) -> Result<Option<Found>, E>) {
        let mut all = Vec::new();
        for n in 0..=u8::MAX {
            match read(MessageKey(self.key.0.saturating_add(u64::from(n)))) {
                Ok(Some(found)) if found.sibling == n => all.push(found),
                Ok(_) => break,
                Err(_) => return self.answer(None, true),
            }
        }
        let mine = |f: &Found| {
            f.account == self.account
                && (self.source.is_empty() || f.source.eq_ignore_ascii_case(&self.source))
        };
        if all.is_empty() || !all.iter().all(mine) {
            return self.answer(None, false);
        }
        let open = all.iter().any(|f| f.end.is_none());
        let ends = all.iter().filter_map(|f| f.end);
        let worst = ends.clone().find(|(state, ..)| *state != Final::Delivered);
        let last = ends.map(|(.., at)| at).max();
        let end = worst
            .or_else(|| all.first().and_then(|f| f.end))
            .filter(|_| !open);
        let provisional = all.iter().find(|f| f.end.is_none()).and_then(|f| f.provisional);
        let outcome = Outcome::State {
            key: self.key,
            state: end.map_or(
                provisional.map_or(ENROUTE, |(state, _)| state.code()),
                |(state, ..)| state.code(),
            ),
            done_ms: end.and(last),
            err: end.map_or(provisional.map_or(0, |(_, err)| err), |(_, err, _)| err),
        };
        self.answer(Some(outcome), false);
    }

    /// Answers: what was found, or that there is nothing, or that it could not be looked up.
    pub fn answer(self, found: Option<Outcome>, failed: bool) {
        let outcome = match (found, self.question) {
            _ if failed => Outcome::Refused(Reject::Overload),
            (None, _) => Outcome::NotFound,
            (Some(state), Question::State) => state,
            (Some(_), Question::Cancel | Question::Replace) => Outcome::TooLate,
        };
        self.reply.put([ToCustomer::Outcome(self.ticket, outcome)]);
    }
}

/// The way to whoever looks things up.
#[derive(Debug, Default)]
pub struct Lookups(OnceLock<SyncSender<Job>>);

impl Lookups {
    /// Where questions arrive from now on; `None` if somebody takes them already.
    #[must_use]
    pub fn open(&self) -> Option<Receiver<Job>> {
        let (tx, rx) = std::sync::mpsc::sync_channel(WAITING_MAX);
        self.0.set(tx).ok().map(|()| rx)
    }

    /// Hands a question over.
    ///
    /// # Errors
    /// The question, if too many wait or nobody takes them.
    pub fn ask(&self, job: Job) -> Result<(), Job> {
        match self.0.get() {
            None => Err(job),
            Some(tx) => tx.try_send(job).map_err(|e| match e {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
        }
    }
}
