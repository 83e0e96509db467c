//! Message policy: who may send as whom, to whom, when and what. [`Rules`] is what the config says, swapped whole; [`Live`] is
//! what people, subscribers and traffic add to it while it runs. [`judge()`] is asked by admission, and explains itself.

mod change;
mod judge;
mod live;
mod text;

use std::collections::HashSet;

use crate::domain::content::ContentRule;
use crate::domain::frequency::AbuseRule;
use crate::domain::optout::Words;
use crate::domain::outcome::Final;
use crate::domain::sender::{PROMOTIONAL, Registry};
use crate::domain::window::Daily;
use crate::ids::UpstreamId;

pub use change::{HeldView, RuleChange, RuleReply};
pub use judge::{Explained, Judged, explain, judge, opens};
pub(super) use live::{LinkId, capped};
pub use live::{Live, NotThere, Trip};
pub use text::{NewText, appended, words_of};

/// What becomes of a message outside its class's hours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Outside {
    /// It waits until they begin, if its validity lasts so long.
    #[default]
    Hold,
    /// It is refused.
    Reject,
}

/// What senders of a class have to keep to at an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRule {
    /// The class.
    pub class: String,
    /// At which operator; empty: at all that have no rule of their own.
    pub operator: String,
    /// When its messages may go.
    pub hours: Option<Daily>,
    /// What becomes of them at other times.
    pub outside: Outside,
    /// How to opt out, put behind each text.
    pub suffix: String,
    /// Messages to one number within `cap_span_s`; 0: any number.
    pub cap: u32,
    /// See `cap`, seconds.
    pub cap_span_s: u32,
}

/// What stands in place of a source address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Only for this account; empty: each. Never together with `upstream`.
    pub account: String,
    /// Only on the way to this upstream: then the message itself stays as it is.
    pub upstream: Option<UpstreamId>,
    /// Which address, without case; empty: none was given; `*`: any.
    pub from: String,
    /// What it becomes.
    pub to: String,
}

impl Rewrite {
    fn takes(&self, source: &[u8]) -> bool {
        self.from == "*" || self.from.as_bytes().eq_ignore_ascii_case(source)
    }
}

/// Which receipts say that a number wants or gets no more messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressOn {
    /// Only those of this upstream; `None`: of each.
    pub upstream: Option<UpstreamId>,
    /// Only with this final state; `None`: any.
    pub state: Option<Final>,
    /// With one of these `err` codes; empty: any.
    pub errors: Vec<u16>,
    /// Whose messages are stopped.
    pub scope: SuppressScope,
    /// For how long, ms; 0: for good.
    pub for_ms: u64,
    /// What is noted as the reason.
    pub reason: String,
}

/// See [`SuppressOn::scope`]. Never the platform's: one customer's receipts tell nothing about another's messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SuppressScope {
    /// Those of the account under the sender that the message had.
    #[default]
    Sender,
    /// All of the account.
    Account,
}

/// What is done when a subscriber writes STOP or START.
#[derive(Clone, Debug, Default)]
pub struct OptOut {
    /// The words.
    pub words: Words,
    /// Answer to STOP; empty: none.
    pub stopped: String,
    /// Answer to START; empty: none.
    pub started: String,
    /// One number is answered at most once in this time, ms.
    pub answer_every_ms: u64,
}

/// The rules of the config. Immutable; swapped whole with the policy.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Only registered senders may be used.
    pub require_registered: bool,
    /// Senders and reserved names of the config.
    pub registry: Registry,
    /// See [`ClassRule`].
    pub classes: Vec<ClassRule>,
    /// The first that fits is applied.
    pub rewrites: Vec<Rewrite>,
    /// Every one that applies is asked; the strictest that hits decides.
    pub content: Vec<ContentRule>,
    /// See [`AbuseRule`].
    pub abuse: Vec<AbuseRule>,
    /// See [`SuppressOn`].
    pub suppress: Vec<SuppressOn>,
    /// See [`OptOut`].
    pub opt_out: OptOut,
    /// Tag of the parameter that an upstream's inbound messages bring for their answers.
    pub link_tags: Vec<(UpstreamId, u16)>,
    /// Addresses at which messages come in to us, without `+`: sent to, they may answer.
    pub own: HashSet<Vec<u8>>,
}

impl Rules {
    /// What a class has to keep to at an operator: a rule for it, or else one for all.
    #[must_use]
    pub fn of_class(&self, class: &str, operator: &str) -> Option<&ClassRule> {
        if class.is_empty() {
            return None;
        }
        let here = self.classes.iter().filter(|c| c.class == class);
        let mut for_all = None;
        for rule in here {
            if rule.operator == operator {
                return Some(rule);
            }
            if rule.operator.is_empty() {
                for_all = Some(rule);
            }
        }
        for_all
    }

    /// Whether there is a rule for what is sent at all, so that most installations pay nothing.
    #[must_use]
    pub fn any(&self) -> bool {
        self.require_registered
            || !self.registry.is_empty()
            || !self.rewrites.is_empty()
            || !self.content.is_empty()
            || !self.abuse.is_empty()
            || !self.own.is_empty()
    }

    /// What a source address becomes on the way to an upstream.
    #[must_use]
    pub fn towards(&self, upstream: UpstreamId, source: &[u8]) -> Option<&str> {
        let fits = |r: &&Rewrite| r.upstream == Some(upstream) && r.takes(source);
        self.rewrites.iter().find(fits).map(|r| r.to.as_str())
    }

    /// The rule that a promotional message keeps to where the config has none: by day in Nairobi (Safaricom's rule for Kenya).
    #[must_use]
    pub fn by_day() -> ClassRule {
        ClassRule {
            class: PROMOTIONAL.into(),
            operator: String::new(),
            hours: Daily::parse("08:00-18:00", 180),
            outside: Outside::Hold,
            suffix: String::new(),
            cap: 0,
            cap_span_s: 86_400,
        }
    }
}
