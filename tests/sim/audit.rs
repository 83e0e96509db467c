//! The auditor: judges a run by what is on disk and what was seen on the wire, with arithmetic of its own that is simpler than
//! the code's. Each complaint begins with the invariant that is broken.

use std::collections::{BTreeMap, BTreeSet};

use smsconnect::domain::message::{PAYLOAD, tlv};
use smsconnect::domain::outcome::{ChargeOn, Final, Wants};
use smsconnect::flow::{Gateway, UnknownOutcome};
use smsconnect::ids::AccountId;
use smsconnect::store::{Batch, MarkKind};

use super::oracle::{Copy, token_of};
use super::plan::{ACCOUNTS, PRICE};
use super::world::World;

struct Message {
    account: usize,
    token: u32,
    price: i64,
    charge_on: ChargeOn,
    /// Batch in which it was accepted, taken by an upstream for the first time, and ended.
    accepted: usize,
    sent: Option<usize>,
    /// The same of each part.
    pieces: BTreeMap<u8, usize>,
    /// Upstream and id of the last time that it was taken whole.
    last: Option<(usize, String)>,
    parts: bool,
    end: Option<(usize, Final, i64)>,
    told: BTreeSet<u8>,
}

/// Which of the customers' messages a row is.
pub fn text_token(row: &smsconnect::store::Accepted) -> u32 {
    let parts = row.message.parts();
    let text = tlv(parts.tlvs, PAYLOAD).unwrap_or(parts.text);
    token_of(text).unwrap_or(u32::MAX)
}

/// Balance and held money of each account as the batches so far say, messages in parts left out of `held`.
fn money(batches: &[Batch]) -> Vec<(i64, i64, bool)> {
    let mut out = vec![(0, 0, false); ACCOUNTS + 1];
    let mut open: BTreeMap<u64, (usize, i64)> = BTreeMap::new();
    for b in batches {
        for (account, delta) in &b.balances {
            out[account.0 as usize].0 += delta.0;
        }
        for a in &b.accepted {
            let held = if a.charge_on == ChargeOn::Accepted {
                0
            } else {
                a.price.0
            };
            open.insert(a.key.0, (a.account.0 as usize, held));
        }
        for e in &b.sent {
            let Some(entry) = open.get_mut(&e.key.0) else {
                continue;
            };
            if !e.piece.whole() {
                out[entry.0].2 = true;
            } else if entry.0 == 2 {
                entry.1 = 0;
            }
        }
        for e in &b.finished {
            open.remove(&e.key.0);
        }
    }
    for (account, held) in open.into_values() {
        out[account].1 += held;
    }
    out
}

/// What a process knows after it has read the disk.
pub fn recovered(w: &mut World, gateway: &Gateway) {
    let expected = w.store.disk(|d| money(d.batches()));
    for (n, (balance, held, parts)) in expected.into_iter().enumerate().skip(1) {
        let accounts = gateway.accounts();
        let Some(account) = accounts.get(AccountId(n as u32)) else {
            w.oracle.wrong.push(format!("I2 account {n} is gone"));
            continue;
        };
        let found = account.with_wallet(|a| (a.balance().0, a.held().0));
        if found.0 != balance || (found.1 != held && !parts) {
            let (b, h) = found;
            w.oracle.wrong.push(format!(
                "I2 account {n} read back with {b} and {h} held, not {balance} and {held}"
            ));
        }
    }
}

/// Nothing grows beyond its bound.
pub fn bounds(w: &mut World, gateway: &Gateway) {
    for (n, upstream) in gateway.upstreams().iter().enumerate() {
        let binds = w.plan.binds[n].len();
        // A refill loads up to 500 at a time; what binds had in hand comes back on top.
        let most = match w.spoilt.bound {
            0 => w.plan.queue_max + 500 + binds * w.plan.window * 4,
            spoilt => spoilt,
        };
        let (memory, _) = upstream.depth();
        if memory > most {
            w.oracle
                .wrong
                .push(format!("I9 {memory} messages wait in memory for upstream {n}"));
        }
    }
    for account in gateway.accounts().iter() {
        let (have, id) = (account.with_wallet(|a| a.balance().0), account.id);
        let stored = w.store.disk(|d| d.balance(id).0);
        if have != stored {
            w.oracle.wrong.push(format!(
                "I2 account {} has {have} in memory, {stored} on disk at {}",
                id.0,
                super::disk::clock::mono()
            ));
        }
    }
    let open = gateway.totals.open.load(std::sync::atomic::Ordering::Relaxed);
    if open > w.plan.open_max + 64 * 20 {
        w.oracle.wrong.push(format!("I9 {open} open messages"));
    }
}

/// When all is over nothing may be left anywhere.
pub fn at_rest(w: &mut World, gateway: &Gateway) {
    for (n, upstream) in gateway.upstreams().iter().enumerate() {
        let (memory, stored) = upstream.depth();
        if memory > 0 {
            w.oracle.wrong.push(format!(
                "I9 {memory} and {stored} wait for upstream {n}, and none is open"
            ));
        }
    }
    for account in gateway.accounts().iter() {
        let (held, n) = (account.with_wallet(|a| a.held().0), account.id.0);
        if held != 0 {
            w.oracle
                .wrong
                .push(format!("I2 account {n} holds {held} for nothing"));
        }
    }
}

/// Everything that is wrong with a run.
pub fn audit(w: &World) -> Vec<String> {
    let mut bad = w.oracle.wrong.clone();
    if let Some(left) = &w.left {
        bad.push(format!("I6 not over: {left}"));
    }
    w.store.disk(|d| {
        let messages = read(d.batches(), &mut bad);
        wallets(w, d.batches(), &messages, &mut bad);
        promises(w, &messages, &mut bad);
        cancelled(w, &messages, &mut bad);
        copies(w, &messages, &mut bad);
        receipts(w, d.batches(), &messages, &mut bad);
    });
    bad
}

/// I3 (one acceptance and one end each), I12 (epochs only rise).
fn read(batches: &[Batch], bad: &mut Vec<String>) -> BTreeMap<u64, Message> {
    let mut all: BTreeMap<u64, Message> = BTreeMap::new();
    let mut epoch = 0;
    for (n, b) in batches.iter().enumerate() {
        if b.id.epoch < epoch {
            bad.push(format!("I12 epoch {} wrote after epoch {epoch}", b.id.epoch));
        }
        epoch = epoch.max(b.id.epoch);
        for a in &b.accepted {
            let message = Message {
                account: a.account.0 as usize - 1,
                token: text_token(a),
                price: a.price.0,
                charge_on: a.charge_on,
                accepted: n,
                sent: None,
                pieces: BTreeMap::new(),
                last: None,
                parts: false,
                end: None,
                told: BTreeSet::new(),
            };
            if all.insert(a.key.0, message).is_some() {
                bad.push(format!("I3 {} accepted twice", a.key));
            }
        }
        for e in &b.sent {
            let Some(m) = all.get_mut(&e.key.0) else {
                bad.push(format!("I3 {} sent and not accepted", e.key));
                continue;
            };
            m.sent.get_or_insert(n);
            m.pieces.entry(e.piece.part).or_insert(n);
            m.parts |= !e.piece.whole();
            let id = String::from_utf8_lossy(&e.smsc_id).into_owned();
            m.last = Some((usize::from(e.upstream.0), id));
        }
        for e in b.marks.iter().filter(|e| e.kind == MarkKind::Provisional) {
            all.get_mut(&e.key.0).map(|m| m.told.insert(e.state));
        }
        for e in &b.finished {
            match all.get_mut(&e.key.0) {
                Some(m) if m.end.is_none() => m.end = Some((n, e.state, e.charged.0)),
                Some(_) => bad.push(format!("I3 {} ended twice", e.key)),
                None => bad.push(format!("I3 {} ended and was never accepted", e.key)),
            }
        }
    }
    all
}

/// I2, I3, I4: money.
fn wallets(w: &World, batches: &[Batch], messages: &BTreeMap<u64, Message>, bad: &mut Vec<String>) {
    let mut paid = [0i64; ACCOUNTS];
    let mut balance = [0i64; ACCOUNTS];
    let mut ledger = [0i64; ACCOUNTS];
    let mut held = [0i64; ACCOUNTS];
    let mut tax = [0i64; ACCOUNTS];
    let mut receipts = BTreeSet::new();
    for (n, b) in batches.iter().enumerate() {
        for t in &b.payments {
            paid[t.account.0 as usize - 1] += t.amount.0;
            if !receipts.insert((t.provider.clone(), t.receipt.clone())) {
                bad.push(format!("I2 payment {} counted twice", t.receipt));
            }
        }
        for p in &b.postings {
            let at = p.account.0 as usize - 1;
            for (name, sign) in [(&p.debit, -1), (&p.credit, 1)] {
                match name.as_str() {
                    "wallet" => ledger[at] += sign * p.amount.0,
                    "held" => {
                        ledger[at] += sign * p.amount.0;
                        held[at] += sign * p.amount.0;
                    }
                    "tax" => tax[at] += sign * p.amount.0,
                    _ => {}
                }
            }
            if held[at] < 0 {
                bad.push(format!("I2 account {at} holds {} after batch {n}", held[at]));
            }
        }
        for (account, delta) in &b.balances {
            let at = account.0 as usize - 1;
            balance[at] += delta.0;
        }
        for (account, (have, posted)) in balance.iter().zip(&ledger).enumerate() {
            let floor = if account == 2 { -w.plan.credit * PRICE } else { 0 };
            if *have < floor {
                bad.push(format!("I4 account {account} at {have} after batch {n}"));
            }
            if have != posted {
                bad.push(format!(
                    "I2 account {account}: {have} in the wallet, {posted} in the ledger, batch {n}"
                ));
            }
        }
    }
    let mut charged = [0i64; ACCOUNTS];
    let mut taxed = [0i64; ACCOUNTS];
    for (key, m) in messages {
        let Some((_, state, cost)) = m.end else {
            bad.push(format!("I6 {key} never ended"));
            continue;
        };
        charged[m.account] += cost;
        // 16 % inside the price: what is left of it after the net amount, rounded half up.
        taxed[m.account] += cost - (cost * 10_000 + 5_800) / 11_600;
        // The terms of the plan, read by hand.
        let earned = match state {
            Final::Delivered | Final::Unknown => true,
            Final::Undeliverable | Final::Rejected => false,
            _ => m.charge_on != ChargeOn::Delivered,
        };
        let fair = match earned {
            _ if m.parts => (0..=m.price).contains(&cost),
            false => cost == 0,
            true if m.sent.is_some() => cost == m.price,
            true => cost == 0 || cost == m.price,
        };
        if !fair {
            bad.push(format!(
                "I3 {key} ({:?}, {state:?}) cost {cost} of {}",
                m.charge_on, m.price
            ));
        }
    }
    for n in 0..ACCOUNTS {
        if held[n] != 0 {
            bad.push(format!("I2 account {n}: {} is held for nothing", held[n]));
        }
        if tax[n] != taxed[n] {
            bad.push(format!("I2 account {n}: tax {} instead of {}", tax[n], taxed[n]));
        }
        if paid[n] - charged[n] != balance[n] {
            bad.push(format!(
                "I2 account {n}: {} paid, {} charged, {} left",
                paid[n], charged[n], balance[n]
            ));
        }
    }
}

/// I1 and I10: what was answered ESME_ROK was on record when it was, for whom it was.
fn promises(w: &World, messages: &BTreeMap<u64, Message>, bad: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for rok in &w.oracle.roks {
        match messages.get(&rok.id) {
            None => bad.push(format!("I1 {} was acknowledged and is not on record", rok.id)),
            Some(m) if m.accepted >= rok.batches => {
                bad.push(format!("I10 {} was acknowledged before it was on record", rok.id));
            }
            Some(m) if m.account != rok.account => bad.push(format!("I1 {} is another customer's", rok.id)),
            Some(_) => {}
        }
        let meant = messages
            .get(&rok.id)
            .and_then(|m| w.oracle.subs.get(m.token as usize));
        if meant.is_some_and(|s| s.account != rok.account) {
            bad.push(format!("I1 {} is not what was submitted", rok.id));
        }
        if !seen.insert(rok.id) {
            bad.push(format!("I1 {} was given out twice", rok.id));
        }
    }
}

/// What was cancelled is over for good, and no SMSC has it.
fn cancelled(w: &World, messages: &BTreeMap<u64, Message>, bad: &mut Vec<String>) {
    for (id, batches) in &w.oracle.cancelled {
        let Some(m) = messages.get(id) else {
            bad.push(format!("I1 {id} was cancelled and is not on record"));
            continue;
        };
        if !m
            .end
            .is_some_and(|(n, state, _)| n < *batches && state == Final::Deleted)
        {
            bad.push(format!("I6 {id} was cancelled and is not DELETED"));
        }
        if w.oracle.copies.iter().any(|c| c.token == m.token && c.taken) {
            bad.push(format!("I5 {id} was cancelled, and an SMSC has it"));
        }
    }
}

/// I5: what reached an SMSC more than once was in flight at a fault; and what is on record as taken was taken.
fn copies(w: &World, messages: &BTreeMap<u64, Message>, bad: &mut Vec<String>) {
    let by_token: BTreeMap<u32, &Message> = messages.values().map(|m| (m.token, m)).collect();
    let mut taken: BTreeMap<(u32, u8), Vec<&Copy>> = BTreeMap::new();
    for copy in &w.oracle.copies {
        if !by_token.contains_key(&copy.token) {
            bad.push(format!("I5 message {} was sent and is not on record", copy.token));
        }
        if copy.taken {
            taken.entry((copy.token, copy.part)).or_default().push(copy);
        }
    }
    for ((token, part), list) in &taken {
        let record = by_token.get(token).and_then(|m| m.pieces.get(part).copied());
        for pair in list.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            let marks = w.plan.unknown[first.upstream] != UnknownOutcome::Resend;
            if marks || !excused(w, first, second, record) {
                bad.push(format!(
                    "I5 message {token} part {part} taken at {} and again at {}",
                    first.emitted, second.emitted
                ));
            }
        }
    }
    for (key, m) in messages {
        if let Some((upstream, id)) = &m.last
            && !w
                .oracle
                .copies
                .iter()
                .any(|c| c.taken && c.token == m.token && c.upstream == *upstream && c.smsc_id == *id)
        {
            bad.push(format!("I5 {key} is on record as taken, and no SMSC has it"));
        }
    }
}

/// Whether there was a fault between two copies before the gateway knew of the first one's success.
fn excused(w: &World, first: &Copy, second: &Copy, on_record: Option<usize>) -> bool {
    let before = |at: u64| first.answered.is_none_or(|read| at <= read) && at <= second.emitted;
    let timed_out = first.queued + w.plan.response_ms * 49 / 50;
    let died =
        w.oracle.lives.get(first.life).is_some_and(|life| {
            second.life > first.life && on_record.is_none_or(|batch| batch >= life.batches)
        });
    died || before(timed_out) || first.lost.is_some_and(before)
}

/// I7: receipts that were answered reached their owner, and nobody else.
fn receipts(w: &World, batches: &[Batch], messages: &BTreeMap<u64, Message>, bad: &mut Vec<String>) {
    let mut got: BTreeMap<u64, BTreeSet<u8>> = BTreeMap::new();
    for g in &w.oracle.got {
        match messages.get(&g.id) {
            Some(m) if m.account == g.account => {
                let number = super::client::number_of(m.token);
                if number.as_bytes() != g.number {
                    bad.push(format!("I7 the receipt of {} names another number", g.id));
                }
                got.entry(g.id).or_default().insert(g.state);
            }
            _ => bad.push(format!("I7 a receipt of {} for account {}", g.id, g.account)),
        }
    }
    // An SMSC that starts its ids over: the newest message with an id is the one that is meant.
    let mut ids: BTreeMap<(usize, String), u32> = BTreeMap::new();
    for e in batches.iter().flat_map(|b| &b.sent) {
        let id = String::from_utf8_lossy(&e.smsc_id).into_owned();
        *ids.entry((usize::from(e.upstream.0), id)).or_default() += 1;
    }
    for (key, m) in messages {
        let Some((batch, state, _)) = m.end else { continue };
        let wants = Wants::from_bits(w.oracle.subs.get(m.token as usize).map_or(0, |s| s.wants));
        let each = w.plan.each && m.account == 1 && m.parts;
        let has = got.get(key).is_some_and(|states| states.contains(&state.code()));
        if wants.covers(state) && !has && !each {
            bad.push(format!("I7 {key} ended as {state:?} and its owner was not told"));
        }
        if !wants.covers(state) && has && !m.told.contains(&state.code()) && !each {
            bad.push(format!(
                "I7 {key} ended as {state:?} and its owner was told, unasked"
            ));
        }
        // A final state that the SMSC has reported and that was answered in time is the message's.
        let Some((upstream, id)) = m.last.as_ref().filter(|_| !m.parts) else {
            continue;
        };
        if ids.get(&(*upstream, id.clone())) != Some(&1) {
            continue;
        }
        let mine = w.oracle.rcpts.iter().filter(|r| {
            r.copy
                .and_then(|c| w.oracle.copies.get(c))
                .is_some_and(|c| c.token == m.token && c.upstream == *upstream && c.smsc_id == *id)
        });
        let finals: Vec<_> = mine
            .filter(|r| Final::from_code(r.state).is_some_and(|s| !s.provisional()))
            .collect();
        let heard = finals.iter().any(|r| r.answered.is_some_and(|(n, _)| n <= batch));
        if heard && !finals.iter().any(|r| r.state == state.code()) {
            bad.push(format!("I7 {key} ended as {state:?}, which its SMSC never said"));
        }
    }
    // The SMSC may forget a receipt only when it is on record.
    for r in &w.oracle.rcpts {
        let (Some((n, _)), Some(state)) = (r.answered, Final::from_code(r.state)) else {
            continue;
        };
        let token = r.copy.and_then(|c| w.oracle.copies.get(c)).map(|c| c.token);
        let on_record = batches.iter().take(n).any(|b| {
            b.parked
                .iter()
                .any(|p| String::from_utf8_lossy(&p.smsc_id) == r.id && p.state == state.code())
                || b.finished
                    .iter()
                    .any(|e| messages.get(&e.key.0).is_some_and(|m| Some(m.token) == token))
                || b.marks.iter().any(|e| {
                    messages.get(&e.key.0).is_some_and(|m| {
                        Some(m.token) == token && matches!(e.kind, MarkKind::Provisional | MarkKind::PartOver)
                    })
                })
        });
        let whole = token.is_none_or(|t| !messages.values().any(|m| m.token == t && m.parts));
        if !on_record && (whole || !state.provisional()) {
            bad.push(format!(
                "I7 a receipt for message {token:?} was answered and is not on record"
            ));
        }
    }
}
