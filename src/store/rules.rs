//! Rows of the rules that people and subscribers make while traffic runs: senders, who must not be sent to, cases of abuse.

use crate::domain::sender::Sender;
use crate::domain::suppression::{Scope, Subject, Suppression};
use crate::ids::AccountId;

/// How far a case is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum CaseState {
    /// Somebody should look.
    #[default]
    Open = 0,
    /// Somebody has.
    Closed = 1,
}

/// A rule has tripped for an account: one row from the trip until a person closes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Case {
    /// Its number.
    pub id: u64,
    /// Whose messages; [`AccountId::NONE`]: nobody's in particular.
    pub account: AccountId,
    /// Name of the rule.
    pub rule: String,
    /// `velocity`, `same-text`, `content`, `loop`.
    pub kind: String,
    /// What was counted when it tripped, and within how many seconds.
    pub count: u64,
    /// See `count`.
    pub span_s: u32,
    /// Since when, ms since the epoch.
    pub at_ms: u64,
    /// How far it is.
    pub state: CaseState,
    /// When it was closed, ms since the epoch; 0: it is not.
    pub closed_ms: u64,
    /// What the person who closed it found.
    pub note: String,
}

/// What a commit changes of the rules; nearly always nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuleRows {
    /// Senders registered or changed.
    pub senders: Vec<Sender>,
    /// Entries made or changed; one of the same number and scope is replaced.
    pub suppressed: Vec<Suppression>,
    /// Entries that are gone.
    pub unsuppressed: Vec<(Subject, Scope)>,
    /// With the first entry: which key the numbers are under, see [`super::SubjectKey::check`].
    pub key_check: Option<Subject>,
    /// Cases opened or closed.
    pub cases: Vec<Case>,
}

impl RuleRows {
    /// Rows it will write.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.senders.len()
            + self.suppressed.len()
            + self.unsuppressed.len()
            + self.cases.len()
            + usize::from(self.key_check.is_some())
    }

    /// Empties it.
    pub fn clear(&mut self) {
        if self.rows() > 0 {
            *self = RuleRows::default();
        }
    }
}

/// One row found at recovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleRow {
    /// A registered sender.
    Sender(Sender),
    /// Who must not be sent to.
    Suppressed(Suppression),
    /// Which key their numbers are under.
    KeyCheck(Subject),
    /// A case, open or closed.
    Case(Case),
    /// The place in the outbox of an inbound message that no rule claims.
    Unclaimed(crate::ids::Pos),
}

/// The rules as the rows of many commits leave them: the memory store's tables.
#[derive(Debug, Default)]
pub(super) struct RuleTables {
    senders: Vec<Sender>,
    suppressed: std::collections::BTreeMap<(Subject, Scope), Suppression>,
    key_check: Option<Subject>,
    cases: std::collections::BTreeMap<u64, Case>,
}

impl RuleTables {
    pub fn apply(&mut self, rows: &RuleRows) {
        for sender in &rows.senders {
            self.senders.retain(|s| !s.same(sender));
            self.senders.push(sender.clone());
        }
        for key in &rows.unsuppressed {
            self.suppressed.remove(key);
        }
        for s in &rows.suppressed {
            self.suppressed.insert((s.subject, s.scope.clone()), s.clone());
        }
        self.key_check = rows.key_check.or(self.key_check);
        for case in &rows.cases {
            self.cases.insert(case.id, case.clone());
        }
    }

    pub fn replay(&self, out: &mut dyn FnMut(super::Record<'_>)) {
        let mut put = |row| out(super::Record::Rule(row));
        self.key_check.into_iter().for_each(|c| put(RuleRow::KeyCheck(c)));
        self.senders.iter().for_each(|s| put(RuleRow::Sender(s.clone())));
        self.suppressed
            .values()
            .for_each(|s| put(RuleRow::Suppressed(s.clone())));
        self.cases.values().for_each(|c| put(RuleRow::Case(c.clone())));
    }
}
