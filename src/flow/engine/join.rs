//! Putting the parts of inbound messages together. Each part is on record before it is answered upstream; when all are there,
//! in whatever order they came, one message takes their place. What is incomplete for too long is delivered as it came.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use super::Engine;
use crate::domain::message::{Flags, Fragment, Message, Parts, retain_tlvs};
use crate::flow::outbox::{OutItem, Payload, part_row, read_part};
use crate::ids::{AccountId, Pos};
use crate::store::{OutboxRow, Store};
use crate::text::{Charset, udh};

/// Messages that wait for parts; beyond, the oldest is delivered as it came.
const JOINING_MAX: usize = 10_000;
/// How long a message that was put together is remembered: an SMSC that missed our answer sends a part again, and that part
/// is no message of its own.
const JOINED_KEEP_MS: u64 = 30_000;
/// Longest beginning of a text that is read for its first word, in octets.
const WORD_MAX: usize = 160;
/// Set in esm_class where a user data header begins the text.
const UDHI: u8 = 0x40;
/// data_coding of UCS-2.
const UCS2: u8 = 8;
/// sar_msg_ref_num, sar_total_segments, sar_segment_seqnum.
const SAR: [u16; 3] = [0x020C, 0x020E, 0x020F];

/// What parts of one message have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Whole {
    source: Box<[u8]>,
    dest: Box<[u8]>,
    reference: u16,
    total: u8,
}

/// Parts of messages that were put together, as they came: octet for octet, since a reference comes round again.
#[derive(Debug, Default)]
pub(super) struct Joined {
    records: HashSet<Arc<[u8]>>,
    order: VecDeque<(u64, Arc<[u8]>)>,
}

impl Joined {
    fn contains(&mut self, message: &Message, now: u64) -> bool {
        while self
            .order
            .front()
            .is_some_and(|(at, _)| at + JOINED_KEEP_MS <= now || self.order.len() > JOINING_MAX)
        {
            if let Some((_, record)) = self.order.pop_front() {
                self.records.remove(&record);
            }
        }
        self.records.contains(message.record())
    }

    fn add(&mut self, message: &Message, now: u64) {
        let record: Arc<[u8]> = message.record().into();
        if self.records.insert(Arc::clone(&record)) {
            self.order.push_back((now, record));
        }
    }
}

impl Whole {
    fn of(message: &Message, fragment: Fragment) -> Whole {
        let parts = message.parts();
        Whole {
            source: parts.source.into(),
            dest: parts.dest.into(),
            reference: fragment.reference,
            total: fragment.total,
        }
    }
}

/// A message that waits for parts.
#[derive(Debug)]
pub(super) struct Joining {
    since_ms: u64,
    parts: BTreeMap<u8, (Pos, Message, Fragment)>,
}

impl<S: Store> Engine<S> {
    /// A part has come: on record as what it is, or complete with those before it.
    pub(super) fn part(&mut self, message: Message, fragment: Fragment, now: u64) {
        if self.joined.contains(&message, now) {
            return;
        }
        let pos = self.pos();
        self.batch.outbox_put.push(part_row(pos, &message, fragment, now));
        self.keep_part(pos, message, fragment, now, now);
        while self.joining.len() > JOINING_MAX
            && let Some(joining) = self.oldest_joining(u64::MAX)
        {
            self.deliver_parts(joining, now);
        }
    }

    /// A part that a restart found.
    pub(super) fn found_part(&mut self, row: &OutboxRow, now: u64) {
        if let Some((message, fragment)) = read_part(row) {
            self.keep_part(row.pos, message, fragment, row.at_ms, now);
        }
    }

    fn keep_part(&mut self, pos: Pos, message: Message, fragment: Fragment, at: u64, now: u64) {
        let whole = Whole::of(&message, fragment);
        let order = &mut self.joining_order;
        let joining = self.joining.entry(whole.clone()).or_insert_with(|| {
            order.push_back((at, whole.clone()));
            Joining {
                since_ms: at,
                parts: BTreeMap::new(),
            }
        });
        // The SMSC delivered it twice: the newer one stays.
        let old = joining.parts.insert(fragment.part, (pos, message, fragment));
        let complete = joining.parts.len() >= usize::from(fragment.total);
        if let Some((old, ..)) = old {
            self.batch.outbox_del.push((AccountId::NONE, old));
        }
        if complete && let Some(joining) = self.joining.remove(&whole) {
            self.deliver_whole(joining, now);
        }
    }

    fn deliver_whole(&mut self, joining: Joining, now: u64) {
        let Some((
            _,
            first,
            Fragment {
                header: first_header, ..
            },
        )) = joining.parts.values().next()
        else {
            return;
        };
        let first_header = *first_header;
        let head = first.parts();
        // An upstream's own alphabet may have made UCS-2 of some parts: then all of it is.
        let mixed = joining
            .parts
            .values()
            .any(|(_, part, _)| part.flags().data_coding != head.flags.data_coding);
        let body = |part: &Message, f: &Fragment| -> Option<Vec<u8>> {
            let octets = part
                .parts()
                .text
                .get(usize::from(f.header)..)
                .unwrap_or(&[])
                .to_vec();
            let from = match part.flags().data_coding {
                _ if !mixed => return Some(octets),
                0 => Charset::Gsm7,
                UCS2 => return Some(octets),
                _ => return None,
            };
            Charset::Ucs2.encode(&from.decode(&octets))
        };
        let bodies: Option<Vec<Vec<u8>>> = joining.parts.values().map(|(_, p, f)| body(p, f)).collect();
        let Some(bodies) = bodies else {
            return self.deliver_parts(joining, now);
        };
        let data_coding = if mixed { UCS2 } else { head.flags.data_coding };
        // What else is in the header of the first part belongs to the whole: ports, for one.
        let header = head.text.get(..usize::from(first_header)).unwrap_or(&[]);
        let mut text = udh::without_concat(header);
        let udhi = if text.is_empty() { 0 } else { UDHI };
        let kept = text.len();
        text.extend(bodies.into_iter().flatten());
        let tlvs = retain_tlvs(head.tlvs, |tag| !SAR.contains(&tag));
        let whole = Message::new(&Parts {
            flags: Flags {
                esm_class: head.flags.esm_class & !UDHI | udhi,
                data_coding,
                ..head.flags
            },
            text: &text,
            tlvs: &tlvs,
            ..head
        });
        // A rule for its first word may not want it joined: it sees the parts then.
        let owner = self.owner_of(head.dest, text.get(kept..).unwrap_or(&[]), data_coding);
        if !owner.is_none_or(|(_, join)| join) {
            return self.deliver_parts(joining, now);
        }
        self.gone(&joining);
        for (_, part, _) in joining.parts.values() {
            self.joined.add(part, now);
        }
        self.deliver_inbound(whole, owner.map(|(a, _)| a), now);
    }

    /// As they came, to whoever the first of them is for.
    fn deliver_parts(&mut self, joining: Joining, now: u64) {
        self.gone(&joining);
        let mut owner = None;
        for (_, part, fragment) in joining.parts.into_values() {
            let body = part
                .parts()
                .text
                .get(usize::from(fragment.header)..)
                .unwrap_or(&[]);
            let coding = part.flags().data_coding;
            let own = self.owner_of(part.parts().dest, body, coding).map(|(a, _)| a);
            owner = owner.or(own);
            self.deliver_inbound(part, owner, now);
        }
    }

    fn gone(&mut self, joining: &Joining) {
        let rows = joining.parts.values().map(|(pos, ..)| (AccountId::NONE, *pos));
        self.batch.outbox_del.extend(rows);
    }

    /// What has waited too long.
    pub(super) fn expire_parts(&mut self, now: u64) {
        let timeout = self.gateway.policy.load().join_timeout_ms;
        for _ in 0..100 {
            let Some(joining) = self.oldest_joining(now.saturating_sub(timeout)) else {
                return;
            };
            self.deliver_parts(joining, now);
        }
    }

    /// Takes the message that has waited longest for its parts, if since `before` or longer.
    fn oldest_joining(&mut self, before: u64) -> Option<Joining> {
        while let Some((since, whole)) = self.joining_order.front() {
            // It may be complete long since, and another have come by its reference.
            let waits = self.joining.get(whole).is_some_and(|j| j.since_ms == *since);
            if waits && *since > before {
                return None;
            }
            let (_, whole) = self.joining_order.pop_front()?;
            if waits {
                return self.joining.remove(&whole);
            }
        }
        None
    }

    /// The account that an inbound message belongs to, and whether it wants parts put together.
    pub(super) fn owner_of(&self, dest: &[u8], text: &[u8], data_coding: u8) -> Option<(AccountId, bool)> {
        let accounts = self.gateway.accounts();
        let by_name = |name: &str| accounts.by_name(name).map(|a| a.id);
        let begins = text.get(..WORD_MAX).unwrap_or(text);
        let begins = match data_coding {
            0 => Charset::Gsm7,
            8 => Charset::Ucs2,
            _ => Charset::Latin1,
        }
        .decode(begins);
        self.gateway
            .policy
            .load()
            .inbound_owner(dest, begins.as_bytes(), by_name)
    }

    /// Puts an inbound message on record and on its way.
    pub(super) fn deliver_inbound(&mut self, message: Message, owner: Option<AccountId>, now: u64) {
        let concerned = self.opt_out(&message, now);
        // Where several share an address and nobody owns what is not theirs by a word, those whom it concerns see it.
        let owners: Vec<AccountId> = match owner {
            Some(owner) => vec![owner],
            None => concerned,
        };
        self.note_bounce(&message, owners.first().copied(), now);
        crate::metrics::inbound(if owners.is_empty() {
            "unclaimed"
        } else {
            "delivered"
        });
        if owners.is_empty() {
            self.deliver_stored(None, Payload::Inbound(message), now);
            return;
        }
        for owner in owners {
            self.deliver_stored(Some(owner), Payload::Inbound(message.clone()), now);
        }
    }

    /// Puts something on its way that nothing else in the journal could bring back: it gets a row of its own.
    pub(super) fn deliver_stored(&mut self, owner: Option<AccountId>, payload: Payload, now: u64) {
        let item = OutItem {
            pos: self.pos(),
            at_ms: now,
            attempts: 0,
            stored: true,
            payload,
        };
        match owner {
            Some(account) => {
                self.batch.outbox_put.push(item.row(account, false));
                match self.gateway.accounts().get(account) {
                    Some(a) if !a.outbox.reserve(self.gateway.limits.outbox_max) => a.outbox.spilled(1),
                    _ => self.pending.deliveries.push((account, item)),
                }
            }
            None => {
                self.gateway.metrics.inbound_unclaimed.increment(1);
                self.batch.outbox_put.push(item.row(AccountId::NONE, true));
                self.keep_unclaimed(item.pos);
            }
        }
    }
}
