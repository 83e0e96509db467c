//! Changes of senders, suppressed numbers and cases: into the batch first, into memory once they are on record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Engine;
use crate::domain::outcome::Final;
use crate::domain::sender::{Sender, Standing};
use crate::domain::suppression::{Scope, ScopeRef, Source, Subject, Suppression};
use crate::flow::ingress::{ControlError, ControlReply, Reply};
use crate::flow::policy::Policy;
use crate::flow::rules::{RuleChange, RuleReply, SuppressScope, Trip};
use crate::ids::{AccountId, MessageKey, UpstreamId};
use crate::metrics;
use crate::store::{Case, CaseState, RuleRow, Store, StoreError};

/// Entries whose time is over that are forgotten in one tick.
const FORGET_MAX: usize = 1_000;
/// Senders that may be registered.
const SENDERS_MAX: usize = 100_000;
/// Cases kept in memory to be closed; older ones are in the store alone and stay as they are.
const CASES_MAX: usize = 10_000;

/// What the engine keeps beside [`crate::flow::rules::Live`].
#[derive(Default)]
pub(super) struct RuleState {
    /// The policy whose senders are in force.
    policy: Option<Arc<Policy>>,
    /// The key of numbers that the store's entries are under.
    key_check: Option<Subject>,
    /// Entries that end, by time; and until when each is.
    ends: BTreeSet<(u64, Subject, Scope)>,
    until: BTreeMap<(Subject, Scope), u64>,
    /// Open cases.
    cases: BTreeMap<u64, Case>,
    next_case: u64,
    senders: Vec<Sender>,
}

impl<S: Store> Engine<S> {
    pub(super) fn change_rules(&mut self, change: RuleChange, reply: Reply, now: u64) {
        let done = match change {
            RuleChange::Register(sender) => self.register(sender, now),
            RuleChange::Stand {
                account,
                id,
                operator,
                standing,
            } => self.stand(&account, &id, &operator, standing, now),
            RuleChange::Suppress(entries) => self.suppress_all(entries),
            RuleChange::Unsuppress(subject, scope) => {
                let live = &self.gateway.live;
                if live.has(&subject, &ScopeRef::from(&scope)).is_none() {
                    Err(ControlError::NoSuch("suppression"))
                } else {
                    self.batch.rules.unsuppressed.push((subject, scope));
                    Ok(RuleReply::Done)
                }
            }
            RuleChange::ShowHeld(after, max) => Ok(RuleReply::Held(self.show_held(after, max))),
            RuleChange::ShowText(key) => self.show_text(key),
            RuleChange::LetGo(key) => self.let_held_go(key, now).map(|()| RuleReply::Done),
            RuleChange::Refuse(key) => self.refuse_held(key, now).map(|()| RuleReply::Done),
            RuleChange::CloseCase(id, note) => self.close_case(id, note, now),
        };
        self.pending.replies.push((reply, done.map(ControlReply::Rule)));
    }

    /// The sender as it is, or as this very batch makes it.
    fn registered(&self, account: &str, id: &str, operator: &str) -> Option<&Sender> {
        let wanted =
            |s: &&Sender| s.account == account && s.operator == operator && s.id.eq_ignore_ascii_case(id);
        let new = self.batch.rules.senders.iter().rev().find(wanted);
        new.or_else(|| self.rules.senders.iter().find(wanted))
    }

    fn fits(&self, sender: &Sender) -> Result<(), ControlError> {
        let registry = self.gateway.live.registry().with(&self.batch.rules.senders);
        registry
            .admits(sender)
            .map_err(|e| ControlError::Invalid("id", e.to_string()))
    }

    fn register(&mut self, mut sender: Sender, now: u64) -> Result<RuleReply, ControlError> {
        if let Some(old) = self.registered(&sender.account, &sender.id, &sender.operator) {
            if old.standing == Standing::Revoked {
                return Err(ControlError::State(
                    "this registration was revoked, which is for good",
                ));
            }
            sender.standing = old.standing;
        } else if self.rules.senders.len() >= SENDERS_MAX {
            return Err(ControlError::State(
                "100000 senders are registered, which is the most",
            ));
        }
        self.fits(&sender)?;
        sender.at_ms = now;
        self.batch.rules.senders.push(sender.clone());
        Ok(RuleReply::Sender(sender))
    }

    fn stand(
        &mut self,
        account: &str,
        id: &str,
        operator: &str,
        standing: Standing,
        now: u64,
    ) -> Result<RuleReply, ControlError> {
        let found = self.registered(account, id, operator).cloned();
        let mut sender = found.ok_or(ControlError::NoSuch("sender"))?;
        if sender.standing == Standing::Revoked {
            return Err(ControlError::State(
                "this registration was revoked, which is for good",
            ));
        }
        if standing == Standing::Active {
            self.fits(&sender)?;
        }
        sender.standing = standing;
        sender.at_ms = now;
        self.batch.rules.senders.push(sender.clone());
        Ok(RuleReply::Sender(sender))
    }

    fn suppress_all(&mut self, entries: Vec<Suppression>) -> Result<RuleReply, ControlError> {
        let live = Arc::clone(&self.gateway);
        let new = |e: &&Suppression| live.live.has(&e.subject, &ScopeRef::from(&e.scope)).is_none();
        let new = entries.iter().filter(new).count();
        for entry in entries {
            self.suppress(entry)
                .map_err(|()| ControlError::State("there is no key of numbers; set [privacy] number_key"))?;
        }
        Ok(RuleReply::Suppressed(new))
    }

    /// An entry goes on record with this batch. The first one says which key they are all under.
    ///
    /// # Errors
    /// There is no key: nothing can be noted.
    pub(super) fn suppress(&mut self, entry: Suppression) -> Result<(), ()> {
        let key = self.gateway.live.key().ok_or(())?;
        if self.rules.key_check.is_none() {
            let check = key.check();
            self.batch.rules.key_check = Some(check);
            self.rules.key_check = Some(check);
        }
        // Of two in one batch for the same number the later stands.
        let rows = &mut self.batch.rules;
        rows.unsuppressed
            .retain(|(s, scope)| *s != entry.subject || *scope != entry.scope);
        rows.suppressed.push(entry);
        Ok(())
    }

    /// An entry goes off the record with this batch.
    pub(super) fn unsuppress(&mut self, subject: Subject, scope: Scope) {
        let rows = &mut self.batch.rules;
        rows.suppressed
            .retain(|e| e.subject != subject || e.scope != scope);
        rows.unsuppressed.push((subject, scope));
    }

    /// A receipt says how a message ended; some endings mean that its number gets no more.
    pub(super) fn suppress_by_receipt(
        &mut self,
        upstream: UpstreamId,
        key: MessageKey,
        state: Final,
        err: u16,
        now: u64,
    ) {
        let policy = self.gateway.policy.load_full();
        let fits = |r: &&crate::flow::rules::SuppressOn| {
            r.upstream.is_none_or(|u| u == upstream)
                && r.state.is_none_or(|s| s == state)
                && (r.errors.is_empty() || r.errors.contains(&err))
        };
        let Some(rule) = policy.rules.suppress.iter().find(fits) else {
            return;
        };
        let Some(open) = self.book.get(key) else { return };
        let parts = open.stub.parts();
        let Ok(subject) = self.gateway.live.subject(parts.dest) else {
            return;
        };
        let sender = String::from_utf8_lossy(parts.source).to_ascii_lowercase();
        let scope = match rule.scope {
            SuppressScope::Sender => Scope::Sender(open.account, sender.into()),
            SuppressScope::Account => Scope::Account(open.account),
        };
        let entry = Suppression {
            subject,
            scope,
            source: Source::Receipt,
            transactional: false,
            reason: rule.reason.clone(),
            at_ms: now,
            until_ms: match rule.for_ms {
                0 => 0,
                ms => now.saturating_add(ms),
            },
        };
        // There is a key: it has just named the subject.
        let _there_is_a_key = self.suppress(entry);
    }

    fn close_case(&mut self, id: u64, note: String, now: u64) -> Result<RuleReply, ControlError> {
        let case = self.rules.cases.get(&id).ok_or(ControlError::NoSuch("case"))?;
        let case = Case {
            state: CaseState::Closed,
            closed_ms: now,
            note,
            ..case.clone()
        };
        self.batch.rules.cases.push(case.clone());
        Ok(RuleReply::Case(case))
    }

    /// Opens cases of what has tripped, forgets entries that are over, follows a new config.
    pub(super) fn rules_tick(&mut self, now: u64) {
        let policy = self.gateway.policy.load_full();
        if !self
            .rules
            .policy
            .as_ref()
            .is_some_and(|p| Arc::ptr_eq(p, &policy))
        {
            self.gateway.live.refresh(&policy.rules);
            self.rules.policy = Some(policy);
        }
        for trip in self.gateway.live.take_trips() {
            self.open_case(trip, now);
        }
        for _ in 0..FORGET_MAX {
            let Some((until, subject, scope)) = self.rules.ends.first().cloned().filter(|(u, ..)| *u <= now)
            else {
                break;
            };
            self.rules.ends.pop_first();
            if self.rules.until.get(&(subject, scope.clone())) == Some(&until) {
                self.unsuppress(subject, scope);
            }
        }
    }

    fn open_case(&mut self, trip: Trip, now: u64) {
        metrics::case_opened(trip.kind);
        self.rules.next_case += 1;
        self.batch.rules.cases.push(Case {
            id: self.rules.next_case,
            account: trip.account,
            rule: trip.rule,
            kind: trip.kind.into(),
            count: trip.count,
            span_s: trip.span_s,
            at_ms: now,
            ..Case::default()
        });
    }

    /// What is on record now is in force.
    pub(super) fn release_rules(&mut self) {
        if self.batch.rules.rows() == 0 {
            return;
        }
        let rows = std::mem::take(&mut self.batch.rules);
        for (subject, scope) in rows.unsuppressed {
            self.gateway.live.release(&subject, &scope);
            self.rules.until.remove(&(subject, scope));
        }
        for entry in rows.suppressed {
            self.note_entry(entry);
        }
        if !rows.senders.is_empty() {
            for sender in &rows.senders {
                self.rules.senders.retain(|s| !s.same(sender));
                self.rules.senders.push(sender.clone());
            }
            let policy = self.gateway.policy.load();
            self.gateway.live.register(&policy.rules, rows.senders);
        }
        for case in rows.cases {
            self.note_case(case);
        }
    }

    fn note_entry(&mut self, entry: Suppression) {
        self.gateway
            .live
            .suppress(&entry.subject, &entry.scope, entry.transactional);
        let key = (entry.subject, entry.scope);
        if entry.until_ms > 0 {
            self.rules.ends.insert((entry.until_ms, key.0, key.1.clone()));
            self.rules.until.insert(key, entry.until_ms);
        } else {
            self.rules.until.remove(&key);
        }
    }

    fn note_case(&mut self, case: Case) {
        let open = case.state == CaseState::Open;
        self.gateway.live.case(case.account, &case.rule, open);
        self.rules.next_case = self.rules.next_case.max(case.id);
        if open {
            let (account, rule) = (case.account, case.rule.clone());
            self.rules.cases.insert(case.id, case);
            if self.rules.cases.len() > CASES_MAX
                && let Some((_, old)) = self.rules.cases.pop_first()
                && (old.account, &old.rule) != (account, &rule)
            {
                self.gateway.live.case(old.account, &old.rule, false);
            }
        } else {
            self.rules.cases.remove(&case.id);
        }
    }

    /// Rows that a restart finds. Entries without their key are an error: everybody on the lists would be sent to.
    pub(super) fn install_rules(&mut self, rows: Vec<RuleRow>) -> Result<(), StoreError> {
        let policy = self.gateway.policy.load_full();
        let mut senders = Vec::new();
        for row in rows {
            match row {
                RuleRow::KeyCheck(check) => {
                    self.rules.key_check = Some(check);
                    match self.gateway.live.key() {
                        Some(key) if key.check() == check => {}
                        Some(_) => return Err(StoreError::Fatal(OTHER_KEY.into())),
                        None => return Err(StoreError::Fatal(NO_KEY.into())),
                    }
                }
                RuleRow::Sender(sender) => senders.push(sender),
                RuleRow::Suppressed(entry) => self.note_entry(entry),
                RuleRow::Case(case) => self.note_case(case),
                RuleRow::Unclaimed(pos) => self.unclaimed.push_back(pos),
            }
        }
        self.rules.senders.clone_from(&senders);
        self.gateway.live.register(&policy.rules, senders);
        self.rules.policy = Some(policy);
        Ok(())
    }

    /// The accounts that a subscriber's command at `address` concerns.
    pub(super) fn accounts_at(&self, address: &[u8]) -> Vec<(AccountId, Vec<String>)> {
        let accounts = self.gateway.accounts();
        let policy = self.gateway.policy.load();
        let mut out: Vec<(AccountId, Vec<String>)> = Vec::new();
        for rule in policy.inbound_rules(address).filter(|r| r.opt_out) {
            let Some(account) = accounts.by_name(&rule.account) else {
                continue;
            };
            match out.iter_mut().find(|(id, _)| *id == account.id) {
                Some((_, words)) => words.extend(rule.words.iter().cloned()),
                None => out.push((account.id, rule.words.clone())),
            }
        }
        out
    }
}

const OTHER_KEY: &str = "the numbers that must not be sent to are under another key than that of [privacy] number_key; put the right key file back";
const NO_KEY: &str = "the numbers that must not be sent to are under a key that is not there; put the file of [privacy] number_key back";
