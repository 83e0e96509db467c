//! Looking for another route for everything that waits at an upstream, in slices and flow by flow.

use std::collections::VecDeque;

use super::{Lane, Outgoing, Upstream};
use crate::flow::ingress::lock;
use crate::ids::{MessageKey, UpstreamId};

/// What a slice of a search for another route found.
#[derive(Debug, Default)]
pub(in crate::flow) struct Rerouted {
    /// Messages in memory, and where to.
    pub messages: Vec<(UpstreamId, Outgoing)>,
    /// Keys of messages in the store, and where to.
    pub keys: Vec<(UpstreamId, MessageKey)>,
    /// Messages that stay, but are in the store only from now on.
    pub stored: Vec<MessageKey>,
}

/// A search that is under way.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Flows that are still to be looked at.
    flows: Vec<u32>,
    /// The one that is, and how much of it there still is.
    at: Option<(u32, usize)>,
    /// Of that one: looked at, and not movable. Older than everything else it has.
    stay: VecDeque<MessageKey>,
}

impl Search {
    /// The flow whose oldest messages are out of line at the moment.
    pub fn holds(&self) -> Option<u32> {
        self.at.map(|(at, _)| at).filter(|_| !self.stay.is_empty())
    }

    /// Forgets one of them.
    pub fn forget(&mut self, key: MessageKey) {
        self.stay.retain(|k| *k != key);
    }

    /// Their keys.
    pub fn stay(&self) -> &VecDeque<MessageKey> {
        &self.stay
    }
}

impl Upstream {
    /// Begins to look for another route for everything that waits here.
    pub(in crate::flow) fn search(&self) {
        let mut lane = lock(&self.lane);
        lane.end_search();
        let something = lane
            .fair
            .flows()
            .filter(|(_, f)| !f.queue.is_empty() || !f.backlog.is_empty());
        let flows = something.map(|(at, _)| at).collect();
        lane.search = Some(Search {
            flows,
            ..Search::default()
        });
    }

    /// Looks at up to `max` more waiting messages, the oldest of each flow first: those for which `to` names an upstream leave
    /// the lane. `None` once everything has been looked at.
    pub(in crate::flow) fn reroute(
        &self,
        max: usize,
        mut to: impl FnMut(MessageKey) -> Option<UpstreamId>,
    ) -> Option<Rerouted> {
        let mut lane = lock(&self.lane);
        let mut search = lane.search.take()?;
        let mut found = Rerouted::default();
        let mut left = max;
        while left > 0 {
            let Some((at, n)) = search.at else {
                match search.flows.pop() {
                    Some(at) => {
                        let n = lane.fair.get(at).map_or(0, |f| f.queue.len() + f.backlog.len());
                        search.at = Some((at, n));
                        continue;
                    }
                    None => break,
                }
            };
            let oldest = if n == 0 { None } else { lane.fair.oldest(at) };
            let Some(oldest) = oldest else {
                lane.merge(at, std::mem::take(&mut search.stay));
                search.at = None;
                continue;
            };
            search.at = Some((at, n - 1));
            left -= 1;
            match oldest {
                Ok(message) => match to(message.key) {
                    Some(id) => found.messages.push((id, message)),
                    None if !message.piece.whole() => lane.keep(message),
                    None => {
                        found.stored.push(message.key);
                        search.stay.push_back(message.key);
                    }
                },
                Err(key) => match to(key) {
                    Some(id) => found.keys.push((id, key)),
                    None => search.stay.push_back(key),
                },
            }
        }
        if search.at.is_some() || !search.flows.is_empty() {
            lane.search = Some(search);
            return Some(found);
        }
        // What was refused for the moment waits for its time on, wherever that is.
        for (due, message) in std::mem::take(&mut lane.retry) {
            match to(message.key) {
                Some(id) => found.messages.push((id, message)),
                None => {
                    lane.retry.insert(due, message);
                }
            }
        }
        Some(found)
    }
}

impl Lane {
    /// Ends a search: what was looked at and stays is the oldest of its flow again.
    pub(super) fn end_search(&mut self) {
        if let Some(search) = self.search.take()
            && let Some((at, _)) = search.at
        {
            self.merge(at, search.stay);
        }
    }

    /// `stay` are older than everything else in a flow: what it still has in memory waits in the store behind them.
    fn merge(&mut self, at: u32, mut stay: VecDeque<MessageKey>) {
        if stay.is_empty() {
            return;
        }
        let behind = self.fair.get(at).map_or(0, |f| f.queue.len());
        for _ in 0..behind {
            match self.fair.oldest(at) {
                Some(Ok(message)) if message.piece.whole() => {
                    self.unloaded.push(message.key);
                    stay.push_back(message.key);
                }
                Some(Ok(part)) => self.keep(part),
                _ => {}
            }
        }
        self.fair.push_keys_first(at, stay);
    }
}
