//! Message policy: from the config's words to the snapshot that admission reads, and the key under which numbers are known.

use std::sync::Arc;

use crate::config::{self, Config, rules as words};
use crate::domain::content::{Action, ContentRule, Patterns};
use crate::domain::frequency::{AbuseRule, Counts};
use crate::domain::optout::{Words, folded};
use crate::domain::outcome::Final;
use crate::domain::sender::{PROMOTIONAL, Registry, Sender, Standing, TRANSACTIONAL};
use crate::domain::window::Daily;
use crate::flow::rules::{ClassRule, OptOut, Outside, Rewrite, Rules, SuppressOn, SuppressScope};
use crate::flow::{InboundRule, Upstream};
use crate::ids::UpstreamId;
use crate::store::SubjectKey;

/// The key of numbers. Where none can be made and nobody has been suppressed yet, the gateway runs without; entries, and subscribers
/// who may write STOP, need one.
pub(super) fn number_key(config: &Config) -> Result<Option<SubjectKey>, String> {
    let path = config.dir.join(&config.rules.number_key);
    match SubjectKey::load_or_create(&path) {
        Ok(key) => Ok(Some(key)),
        Err(e) if path.exists() || config.inbound.iter().any(|i| i.opt_out) => {
            Err(format!("{e}; see [privacy] number_key"))
        }
        Err(error) => {
            tracing::warn!(%error, "no number can be suppressed; see [privacy] number_key");
            Ok(None)
        }
    }
}

/// All classes: none, those of the config, and the two that operators sell.
pub(super) fn classes(config: &Config) -> Vec<String> {
    let mut out = vec![String::new()];
    let own = config.sender.iter().map(|s| s.class.as_str());
    for class in own.chain([PROMOTIONAL, TRANSACTIONAL]) {
        if !out.iter().any(|c| c == class) {
            out.push(class.into());
        }
    }
    out
}

/// The snapshot of `config`.
///
/// # Errors
/// The key and what is wrong with it.
pub(super) fn rules(config: &Config, upstreams: &[Arc<Upstream>]) -> Result<Rules, String> {
    let id = |name: &str| upstreams.iter().find(|u| u.options.name == name).map(|u| u.id);
    let c = &config.rules;
    let senders = config.sender.iter().map(sender).collect();
    let registry =
        Registry::new(senders, &c.senders.reserved).map_err(|(at, e)| format!("sender[{at}].id: {e}"))?;
    let mut classes: Vec<ClassRule> = c.class.iter().map(class).collect();
    if !classes
        .iter()
        .any(|r| r.class == PROMOTIONAL && r.operator.is_empty())
    {
        classes.push(Rules::by_day());
    }
    let content = c
        .content
        .iter()
        .enumerate()
        .map(|(at, x)| content(x).map_err(|e| format!("content[{at}].regex: {e}")));
    let link = |u: &config::Upstream| -> Option<(UpstreamId, u16)> {
        let tag = u16::try_from(u.link_id_tlv).ok().filter(|t| *t > 0)?;
        Some((id(&u.name)?, tag))
    };
    let own = config.inbound.iter().map(|i| {
        let address = i.address.strip_prefix('+').unwrap_or(&i.address);
        address.as_bytes().to_vec()
    });
    let rewrite = |r: &words::Rewrite| Rewrite {
        account: r.account.clone(),
        upstream: id(&r.upstream),
        from: r.from.clone(),
        to: r.to.clone(),
    };
    Ok(Rules {
        require_registered: c.senders.require,
        registry,
        classes,
        rewrites: c.rewrite.iter().map(rewrite).collect(),
        content: content.collect::<Result<_, _>>()?,
        abuse: c.abuse.iter().map(abuse).collect(),
        suppress: c.suppress.iter().map(|s| suppress(s, id(&s.upstream))).collect(),
        opt_out: OptOut {
            words: Words::new(&c.optout.stop, &c.optout.start),
            stopped: c.optout.stop_answer.clone(),
            started: c.optout.start_answer.clone(),
            answer_every_ms: c.optout.answer_every_s * 1_000,
        },
        link_tags: config.upstream.iter().filter_map(link).collect(),
        own: own.collect(),
    })
}

fn sender(s: &config::Sender) -> Sender {
    Sender {
        account: s.account.clone(),
        id: s.id.clone(),
        operator: s.operator.clone(),
        class: s.class.clone(),
        standing: match s.status {
            words::Status::Active => Standing::Active,
            words::Status::Pending => Standing::Pending,
            words::Status::Suspended => Standing::Suspended,
            words::Status::Revoked => Standing::Revoked,
        },
        reserved: s.reserved,
        ..Sender::default()
    }
}

fn class(c: &words::Class) -> ClassRule {
    ClassRule {
        class: c.name.clone(),
        operator: c.operator.clone(),
        hours: Daily::parse(&c.window, c.utc_offset_min),
        outside: match c.outside {
            words::Outside::Hold => Outside::Hold,
            words::Outside::Reject => Outside::Reject,
        },
        suffix: c.suffix.clone(),
        cap: c.cap,
        cap_span_s: c.cap_s,
    }
}

fn content(c: &words::Content) -> Result<ContentRule, String> {
    let action = match c.action {
        words::Action::Flag => Action::Flag,
        words::Action::Hold => Action::Hold,
        words::Action::Reject => Action::Reject,
    };
    let patterns = Patterns {
        words: &c.words,
        regex: &c.regex,
        urls: c.urls,
    };
    ContentRule::new(&c.name, &c.class, &c.account, action, &patterns)
}

fn abuse(a: &words::Abuse) -> AbuseRule {
    AbuseRule {
        name: a.name.clone(),
        counts: match a.counts {
            words::Counts::Messages => Counts::Messages,
            words::Counts::SameText => Counts::SameText,
        },
        accounts: a.account.clone(),
        limit: a.limit,
        span_s: a.span_s,
    }
}

fn suppress(s: &words::SuppressOn, upstream: Option<UpstreamId>) -> SuppressOn {
    SuppressOn {
        upstream,
        state: Final::from_word(&s.state),
        errors: s.errors.iter().map(|e| *e as u16).collect(),
        scope: match s.scope {
            words::Scope::Sender => SuppressScope::Sender,
            words::Scope::Account => SuppressScope::Account,
        },
        for_ms: s.for_s * 1_000,
        reason: if s.reason.is_empty() {
            "receipt".into()
        } else {
            s.reason.clone()
        },
    }
}

/// `[[inbound]]`
pub(super) fn inbound(i: &config::Inbound) -> InboundRule {
    InboundRule {
        address: i.address.clone(),
        words: i.keyword.iter().chain(&i.alias).map(|w| folded(w)).collect(),
        opt_out: i.opt_out,
        account: i.account.clone(),
        join: i.join,
    }
}
