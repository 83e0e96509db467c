//! Parts that a customer has cut, put together again for an upstream that takes long messages whole
//! (`long_messages = "payload"`).
//!
//! Each part stays a message of its own: its id, its price, its receipt. Only on the way to the SMSC they are one: the oldest
//! of them leads, is what lanes and binds know, and what becomes of it becomes of the others. Parts that do not come in time
//! let the others go as they are; any SMSC takes them so.

use std::collections::{BTreeMap, VecDeque};

use super::Engine;
use crate::domain::message::{
    Flags, Fragment, Message, PAYLOAD, Parts, Piece, payload_tlv, retain_tlvs, tlv,
};
use crate::flow::lane::Outgoing;
use crate::ids::{AccountId, MessageKey, UpstreamId};
use crate::store::{Store, StoreError};
use crate::text::udh;

/// How long parts wait for the others at most, if the wait for inbound ones is longer: a client writes all of them at once.
const REJOIN_MS: u64 = 10_000;
/// Messages of which parts are awaited; beyond, the oldest go as they are.
const REJOINING_MAX: usize = 10_000;
/// Octets of parts that wait; beyond likewise.
const OCTETS_MAX: usize = 16 << 20;
/// Longest text in short_message.
const SHORT_MAX: usize = 254;
const UDHI: u8 = 0x40;
/// sar_msg_ref_num, sar_total_segments, sar_segment_seqnum.
const SAR: [u16; 3] = [0x020C, 0x020E, 0x020F];

/// What the parts of one message have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Whole {
    account: AccountId,
    upstream: UpstreamId,
    source: Box<[u8]>,
    dest: Box<[u8]>,
    reference: u16,
    total: u8,
}

#[derive(Debug)]
struct Waiting {
    since_ms: u64,
    parts: BTreeMap<u8, (Fragment, Outgoing)>,
}

/// Parts that wait for others. In memory only: after a restart they are read back, and wait again.
#[derive(Debug, Default)]
pub(super) struct Rejoining {
    waiting: BTreeMap<Whole, Waiting>,
    /// When each began, oldest first; and of some that are complete.
    order: VecDeque<(u64, Whole)>,
    octets: usize,
}

impl Rejoining {
    fn remove(&mut self, whole: &Whole) -> Option<Waiting> {
        let found = self.waiting.remove(whole)?;
        let octets: usize = found.parts.values().map(|(_, m)| octets(m)).sum();
        self.octets = self.octets.saturating_sub(octets);
        Some(found)
    }

    /// Takes the one that has waited longest, if since `before` or longer.
    fn oldest(&mut self, before: u64) -> Option<(UpstreamId, Waiting)> {
        while let Some((since, whole)) = self.order.front() {
            let waits = self.waiting.get(whole).is_some_and(|w| w.since_ms == *since);
            if waits && *since > before {
                return None;
            }
            let (_, whole) = self.order.pop_front()?;
            if waits {
                return self.remove(&whole).map(|w| (whole.upstream, w));
            }
        }
        None
    }

    /// Keys of the parts that wait.
    pub fn keys(&self) -> impl Iterator<Item = MessageKey> + '_ {
        let parts = self.waiting.values().flat_map(|w| w.parts.values());
        parts.map(|(_, message)| message.key)
    }

    /// Takes a part away, for its cancellation.
    pub fn withdraw(&mut self, key: MessageKey) -> Option<Outgoing> {
        for waiting in self.waiting.values_mut() {
            let found = waiting.parts.iter().find(|(_, (_, m))| m.key == key);
            if let Some(part) = found.map(|(part, _)| *part) {
                let (_, message) = waiting.parts.remove(&part)?;
                self.octets = self.octets.saturating_sub(octets(&message));
                return Some(message);
            }
        }
        None
    }
}

fn octets(message: &Outgoing) -> usize {
    message.message.record().len()
}

impl<S: Store> Engine<S> {
    /// What is to go into a lane now for a message that would: itself; nothing, if it waits for other parts; or the whole that
    /// it completes.
    pub(super) fn rejoin(&mut self, upstream: UpstreamId, message: Outgoing, now: u64) -> Vec<Outgoing> {
        let wanted = self.gateway.upstream(upstream).is_some_and(|u| u.options.rejoins);
        if !wanted || message.out.is_some() || !message.piece.whole() {
            return vec![message];
        }
        let account = self.book.get(message.key).map(|o| o.account);
        let (Some(account), Some(fragment)) = (account, fragment(&message.message)) else {
            return vec![message];
        };
        let parts = message.message.parts();
        let whole = Whole {
            account,
            upstream,
            source: parts.source.into(),
            dest: parts.dest.into(),
            reference: fragment.reference,
            total: fragment.total,
        };
        let order = &mut self.rejoining.order;
        let waiting = self.rejoining.waiting.entry(whole.clone()).or_insert_with(|| {
            order.push_back((now, whole.clone()));
            Waiting {
                since_ms: now,
                parts: BTreeMap::new(),
            }
        });
        if waiting.parts.contains_key(&fragment.part) {
            // The customer sent it again, or used its reference again: which of them the others belong to cannot be told.
            let mut all = self.let_go(&whole);
            all.push(message);
            return all;
        }
        self.rejoining.octets += octets(&message);
        waiting.parts.insert(fragment.part, (fragment, message));
        if waiting.parts.len() < usize::from(fragment.total) {
            return Vec::new();
        }
        match self.rejoining.remove(&whole) {
            Some(waiting) => self.complete(waiting.parts.into_values().collect()),
            None => Vec::new(),
        }
    }

    fn let_go(&mut self, whole: &Whole) -> Vec<Outgoing> {
        let waiting = self.rejoining.remove(whole);
        let parts = waiting.into_iter().flat_map(|w| w.parts.into_values());
        parts.map(|(_, message)| message).collect()
    }

    /// One message of all its parts, under the oldest; the parts, if they cannot be one.
    fn complete(&mut self, parts: Vec<(Fragment, Outgoing)>) -> Vec<Outgoing> {
        let Some(message) = joined(&parts) else {
            return parts.into_iter().map(|(_, message)| message).collect();
        };
        let mut keys: Vec<MessageKey> = parts.iter().map(|(_, m)| m.key).collect();
        keys.sort_unstable();
        let Some((lead, others)) = keys.split_first() else {
            return Vec::new();
        };
        self.book.lead(*lead, others);
        let all = || parts.iter().map(|(_, m)| m);
        vec![Outgoing {
            key: *lead,
            piece: Piece::WHOLE,
            out: None,
            account: all().map(|m| m.account).next().unwrap_or_default(),
            at_ms: all().map(|m| m.at_ms).min().unwrap_or(0),
            expires_ms: all().map(|m| m.expires_ms).min().unwrap_or(0),
            attempts: 0,
            unanswered: all().map(|m| m.unanswered).max().unwrap_or(0),
            segments: all().fold(0u8, |n, m| n.saturating_add(m.segments)),
            message,
        }]
    }

    /// A leading message that was read back from the store is put together again: lanes may keep no more than its key.
    pub(super) fn lead_again(&mut self, lead: Outgoing) -> Result<Outgoing, StoreError> {
        let others = self.book.led_by(lead.key);
        if others.is_empty() {
            return Ok(lead);
        }
        let mut parts: Vec<(Fragment, Outgoing)> = Vec::with_capacity(others.len() + 1);
        let like = |key, message| Outgoing {
            key,
            piece: Piece::WHOLE,
            out: None,
            account: lead.account,
            message,
            at_ms: lead.at_ms,
            expires_ms: lead.expires_ms,
            attempts: 0,
            unanswered: lead.unanswered,
            segments: lead.segments,
        };
        self.store.load(&others, &mut |key, message| {
            if let Some(fragment) = fragment(&message) {
                parts.push((fragment, like(key, message)));
            }
        })?;
        let expires = others
            .iter()
            .filter_map(|k| self.book.get(*k))
            .map(|o| o.expires_ms);
        let expires_ms = expires.min().unwrap_or(lead.expires_ms).min(lead.expires_ms);
        if let Some(own) = fragment(&lead.message) {
            parts.push((own, like(lead.key, lead.message.clone())));
        }
        parts.sort_by_key(|(f, _)| f.part);
        match joined(&parts) {
            Some(message) if parts.len() == others.len() + 1 => Ok(Outgoing {
                message,
                expires_ms,
                ..lead
            }),
            // They were put together once, from the same rows.
            _ => Err(StoreError::Fatal(
                "parts of an open message are not in the store".into(),
            )),
        }
    }

    /// Parts that have waited too long, or are too many, go as they are.
    pub(super) fn expire_rejoining(&mut self, now: u64) {
        let timeout = self.gateway.policy.load().join_timeout_ms.min(REJOIN_MS);
        let mut late = VecDeque::new();
        loop {
            let full = self.rejoining.waiting.len() > REJOINING_MAX || self.rejoining.octets > OCTETS_MAX;
            let before = if full {
                u64::MAX
            } else {
                now.saturating_sub(timeout)
            };
            let Some((upstream, waiting)) = self.rejoining.oldest(before) else {
                break;
            };
            late.extend(waiting.parts.into_values().map(|(_, m)| (upstream, m)));
        }
        if !late.is_empty() {
            for key in self.gateway.dispatch(&mut late) {
                self.book.set_stored(key, true);
            }
        }
    }
}

/// Which part of a longer message a customer's is. Only what stands in short_message: nobody puts a part into a payload.
fn fragment(message: &Message) -> Option<Fragment> {
    let parts = message.parts();
    let header = if parts.flags.esm_class & UDHI != 0 {
        udh::header_len(parts.text)?
    } else {
        0
    };
    if tlv(parts.tlvs, PAYLOAD).is_some() || parts.text.len() > SHORT_MAX {
        return None;
    }
    let by_sar = || {
        let reference = tlv(parts.tlvs, SAR[0])?.try_into().ok()?;
        let one = |tag| match tlv(parts.tlvs, tag) {
            Some([n]) => Some(*n),
            _ => None,
        };
        Some((u16::from_be_bytes(reference), one(SAR[1])?, one(SAR[2])?))
    };
    let by_header = || udh::concat(parts.text).map(|c| (c.reference, c.total, c.part));
    let in_header = if header > 0 { by_header() } else { None };
    let (reference, total, part) = in_header.or_else(by_sar)?;
    ((1..=total).contains(&part) && total > 1).then_some(Fragment {
        reference,
        total,
        part,
        header: header as u8,
    })
}

/// The text of all parts in message_payload, with what else the first one carries. `None`: they are in different alphabets, or
/// too long.
fn joined(parts: &[(Fragment, Outgoing)]) -> Option<Message> {
    let (fragment, first) = parts.first()?;
    let head = first.message.parts();
    let coding = head.flags.data_coding;
    if parts.iter().any(|(_, m)| m.message.flags().data_coding != coding) {
        return None;
    }
    let header = head.text.get(..usize::from(fragment.header)).unwrap_or(&[]);
    let mut text = udh::without_concat(header);
    let udhi = if text.is_empty() { 0 } else { UDHI };
    for (fragment, part) in parts {
        text.extend_from_slice(part.message.parts().text.get(usize::from(fragment.header)..)?);
    }
    if text.len() > usize::from(u16::MAX) {
        return None;
    }
    let mut tlvs = retain_tlvs(head.tlvs, |tag| !SAR.contains(&tag));
    tlvs.extend(payload_tlv(&text));
    Some(Message::new(&Parts {
        flags: Flags {
            esm_class: head.flags.esm_class & !UDHI | udhi,
            ..head.flags
        },
        text: &[],
        tlvs: &tlvs,
        ..head
    }))
}
