//! Timers: when to look again, and what has run out.

use super::state::{Cause, Event, Role, Session, State};
use crate::smpp::{self, CommandId, CommandStatus};

impl<T> Session<T> {
    /// When [`Session::timeout`] should be called next. May change after every call that takes `now_ms`.
    #[must_use]
    pub fn next_timeout(&self) -> Option<u64> {
        let t = &self.timers;
        let after = |from: u64, ms: u64| (ms > 0).then(|| from + ms);
        match self.state {
            State::Open => after(self.opened_ms, t.bind_ms),
            // The bind timer stops when the bind has been read: how long its password check takes is our doing.
            State::Binding(..) if self.role == Role::Server => None,
            State::Binding(..) => after(self.opened_ms, t.bind_ms),
            State::Leaving(_, until) | State::Unbinding(until) => Some(until),
            State::Closed(_) => None,
            State::Bound(_) => {
                let enquire = match self.enquiring {
                    Some(since) => after(since, t.response_ms),
                    None => after(self.heard_ms, t.enquire_link_ms),
                };
                let oldest = self.window.oldest().and_then(|sent| after(sent, t.response_ms));
                [enquire, oldest, after(self.heard_ms, t.idle_ms)]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    /// Acts on what has run out by `now_ms`. Requests without an answer are handed to `expired` with their sequence numbers,
    /// oldest first.
    pub fn timeout(
        &mut self,
        now_ms: u64,
        out: &mut Vec<u8>,
        mut expired: impl FnMut(u32, T),
    ) -> Event<'static, T> {
        let t = self.timers;
        let due = |from: u64, ms: u64| ms > 0 && now_ms >= from + ms;
        match self.state {
            State::Closed(cause) => return Event::Closed(cause),
            State::Binding(..) if self.role == Role::Server => return Event::Nothing,
            State::Open | State::Binding(..) if due(self.opened_ms, t.bind_ms) => {
                return Event::Closed(self.close(Cause::BindTimeout));
            }
            State::Unbinding(until) if now_ms >= until => {
                return Event::Closed(self.close(Cause::Unbound));
            }
            State::Leaving(_, until) if now_ms >= until => {
                self.owes_nothing(now_ms, out);
                return Event::Nothing;
            }
            State::Bound(_) => {}
            _ => return Event::Nothing,
        }
        if due(self.heard_ms, t.idle_ms) {
            return Event::Closed(self.close(Cause::Idle));
        }
        if let Some(since) = self.enquiring {
            if self.heard_ms > since {
                // Something else came meanwhile: the peer lives, although it did not answer.
                self.enquiring = None;
            } else if due(since, t.response_ms) {
                return Event::Closed(self.close(Cause::EnquireLinkTimeout));
            }
        }
        if t.response_ms > 0 {
            while let Some(ticket) = now_ms
                .checked_sub(t.response_ms)
                .and_then(|before| self.window.expire(before))
            {
                if let Some((sequence, ticket)) = ticket {
                    expired(sequence, ticket);
                }
            }
        }
        if self.enquiring.is_none() && due(self.heard_ms, t.enquire_link_ms) {
            let sequence = self.window.push_own(CommandId::ENQUIRE_LINK, now_ms);
            smpp::put_header_only(out, CommandId::ENQUIRE_LINK, CommandStatus::ESME_ROK, sequence);
            self.enquiring = Some(now_ms);
        }
        Event::Nothing
    }
}
