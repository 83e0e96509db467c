//! Message policy in the config: senders and their classes, rewriting, content, abuse, opt-out. Model, reading, checks and print.

use std::collections::HashSet;
use std::path::PathBuf;

use regex::RegexBuilder;

use super::check::Check;
use super::reader::Reader;
use super::{Config, Inbound, Sender};

/// `[senders]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Senders {
    /// Only registered senders may be used.
    pub require: bool,
    /// Names that nobody may use or imitate but whom a `[[sender]]` with `reserved = true` names.
    pub reserved: Vec<String>,
}

/// `[[class]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// A class of `[[sender]]`.
    pub name: String,
    /// At which operator of the plan; empty: at all that have no rule of their own.
    pub operator: String,
    /// When its messages may go; empty: always.
    pub window: String,
    /// How far the clock of `window` is ahead of UTC, minutes.
    pub utc_offset_min: i32,
    /// `hold` or `reject` at other times.
    pub outside: Outside,
    /// How to opt out, put behind each text.
    pub suffix: String,
    /// Messages to one number within `cap_s`; 0: any number.
    pub cap: u32,
    /// See `cap`, seconds.
    pub cap_s: u32,
}

impl Default for Class {
    fn default() -> Self {
        Class {
            name: String::new(),
            operator: String::new(),
            window: String::new(),
            utc_offset_min: 180,
            outside: Outside::Hold,
            suffix: String::new(),
            cap: 0,
            cap_s: 86_400,
        }
    }
}

choice! {
    /// `[[class]] outside`.
    Outside {
        /// The message waits until the window opens.
        #[default]
        Hold = "hold",
        /// The message is refused.
        Reject = "reject",
    }
}
choice! {
    /// `[[sender]] status`.
    Status {
        /// May be used.
        #[default]
        Active = "active",
        /// Asked for at the operator.
        Pending = "pending",
        /// Not for the moment.
        Suspended = "suspended",
        /// Not any more.
        Revoked = "revoked",
    }
}
choice! {
    /// `[[content]] action`.
    Action {
        /// The message goes, and a case is opened.
        #[default]
        Flag = "flag",
        /// It waits for a person.
        Hold = "hold",
        /// It is refused.
        Reject = "reject",
    }
}
choice! {
    /// `[[abuse]] counts`.
    Counts {
        /// All messages of an account.
        #[default]
        Messages = "messages",
        /// Those of one text.
        SameText = "same-text",
    }
}
choice! {
    /// `[[suppress]] scope`.
    Scope {
        /// The account's messages under the sender that the message had.
        #[default]
        Sender = "sender",
        /// All of the account's messages.
        Account = "account",
    }
}

/// `[[rewrite]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// Only messages of this account; empty: of each.
    pub account: String,
    /// Or only on the way to this upstream.
    pub upstream: String,
    /// Which source address; empty: none was given; `*`: any.
    pub from: String,
    /// What it becomes.
    pub to: String,
}

/// `[[content]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// Its name.
    pub name: String,
    /// Words and phrases, without case.
    pub words: Vec<String>,
    /// A pattern.
    pub regex: String,
    /// Any address of the web.
    pub urls: bool,
    /// Only senders of these classes; empty: any.
    pub class: Vec<String>,
    /// Only these accounts; empty: any.
    pub account: Vec<String>,
    /// What becomes of a message that it hits.
    pub action: Action,
}

/// `[[abuse]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Abuse {
    /// Its name.
    pub name: String,
    /// What it counts.
    pub counts: Counts,
    /// Only these accounts; empty: each.
    pub account: Vec<String>,
    /// How many are still fine.
    pub limit: u32,
    /// Within how long, seconds.
    pub span_s: u32,
}

impl Default for Abuse {
    fn default() -> Self {
        Abuse {
            name: String::new(),
            counts: Counts::Messages,
            account: Vec::new(),
            limit: 1_000,
            span_s: 60,
        }
    }
}

/// `[[suppress]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SuppressOn {
    /// Only receipts of this upstream; empty: of each.
    pub upstream: String,
    /// Only with this final state; empty: any.
    pub state: String,
    /// With one of these `err` codes; empty: any.
    pub errors: Vec<u32>,
    /// Whose messages are stopped.
    pub scope: Scope,
    /// For how long, seconds; 0: for good.
    pub for_s: u64,
    /// Noted with the entry.
    pub reason: String,
}

/// `[optout]`
#[derive(Clone, Debug, PartialEq)]
pub struct OptOut {
    /// First words that stop messages.
    pub stop: Vec<String>,
    /// First words that start them again.
    pub start: Vec<String>,
    /// Answer to the former; empty: none.
    pub stop_answer: String,
    /// Answer to the latter; empty: none.
    pub start_answer: String,
    /// A number is answered at most once in this time.
    pub answer_every_s: u64,
}

impl Default for OptOut {
    fn default() -> Self {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_string()).collect();
        OptOut {
            stop: list(&["STOP", "ACHA", "SITISHA", "ONDOA", "ONDOKA", "TOKA"]),
            start: list(&["START", "ANZA"]),
            stop_answer: "You will get no more messages from us. To get them again, send START.".into(),
            start_answer: "You will get our messages again. To stop them, send STOP.".into(),
            answer_every_s: 86_400,
        }
    }
}

/// Everything of this file.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// `[privacy] number_key`
    pub number_key: PathBuf,
    /// `[senders]`
    pub senders: Senders,
    /// `[[class]]`
    pub class: Vec<Class>,
    /// `[[rewrite]]`
    pub rewrite: Vec<Rewrite>,
    /// `[[content]]`
    pub content: Vec<Content>,
    /// `[[abuse]]`
    pub abuse: Vec<Abuse>,
    /// `[[suppress]]`
    pub suppress: Vec<SuppressOn>,
    /// `[optout]`
    pub optout: OptOut,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            number_key: "keys/numbers.key".into(),
            senders: Senders::default(),
            class: Vec::new(),
            rewrite: Vec::new(),
            content: Vec::new(),
            abuse: Vec::new(),
            suppress: Vec::new(),
            optout: OptOut::default(),
        }
    }
}

const YEAR_S: u64 = 366 * 86_400;

pub(super) fn read(r: &mut Reader<'_, '_>, c: &mut Rules) {
    r.table("senders", |r| {
        r.flag("require", &mut c.senders.require);
        r.list("reserved", &mut c.senders.reserved);
    });
    r.tables("class", |r| {
        let mut x = Class::default();
        r.text("name", &mut x.name);
        r.text("operator", &mut x.operator);
        r.text("window", &mut x.window);
        if let Some(n) = r.integer("utc_offset_min", -720, 840) {
            x.utc_offset_min = n as i32;
        }
        r.choice("outside", Outside::WORDS, Outside::parse, &mut x.outside);
        r.text("suffix", &mut x.suffix);
        r.u32("cap", 0, 1_000, &mut x.cap);
        r.u32("cap_s", 1, YEAR_S as u32, &mut x.cap_s);
        c.class.push(x);
    });
    r.tables("rewrite", |r| {
        let mut x = Rewrite::default();
        r.text("account", &mut x.account);
        r.text("upstream", &mut x.upstream);
        r.text("from", &mut x.from);
        r.text("to", &mut x.to);
        c.rewrite.push(x);
    });
    r.tables("content", |r| {
        let mut x = Content::default();
        r.text("name", &mut x.name);
        r.list("words", &mut x.words);
        r.text("regex", &mut x.regex);
        r.flag("urls", &mut x.urls);
        r.list("class", &mut x.class);
        r.list("account", &mut x.account);
        r.choice("action", Action::WORDS, Action::parse, &mut x.action);
        c.content.push(x);
    });
    r.tables("abuse", |r| {
        let mut x = Abuse::default();
        r.text("name", &mut x.name);
        r.choice("counts", Counts::WORDS, Counts::parse, &mut x.counts);
        r.list("account", &mut x.account);
        r.u32("limit", 1, 1_000_000_000, &mut x.limit);
        r.u32("span_s", 2, 86_400, &mut x.span_s);
        c.abuse.push(x);
    });
    r.tables("suppress", |r| {
        let mut x = SuppressOn::default();
        r.text("upstream", &mut x.upstream);
        r.text("state", &mut x.state);
        r.numbers("errors", 0xFFFF, &mut x.errors);
        r.choice("scope", Scope::WORDS, Scope::parse, &mut x.scope);
        r.u64("for_s", 0, 10 * YEAR_S, &mut x.for_s);
        r.text("reason", &mut x.reason);
        c.suppress.push(x);
    });
    r.table("optout", |r| {
        let o = &mut c.optout;
        r.list("stop", &mut o.stop);
        r.list("start", &mut o.start);
        r.text("stop_answer", &mut o.stop_answer);
        r.text("start_answer", &mut o.start_answer);
        r.u64("answer_every_s", 0, YEAR_S, &mut o.answer_every_s);
    });
}

pub(super) fn read_sender(r: &mut Reader<'_, '_>) -> Sender {
    let mut s = Sender::default();
    r.text("id", &mut s.id);
    r.text("class", &mut s.class);
    r.text("account", &mut s.account);
    r.text("operator", &mut s.operator);
    r.choice("status", Status::WORDS, Status::parse, &mut s.status);
    r.flag("reserved", &mut s.reserved);
    s
}

pub(super) fn read_inbound(r: &mut Reader<'_, '_>) -> Inbound {
    let mut i = Inbound::default();
    r.text("address", &mut i.address);
    i.keyword = r.optional_text("keyword");
    r.list("alias", &mut i.alias);
    r.text("account", &mut i.account);
    r.flag("join", &mut i.join);
    r.flag("opt_out", &mut i.opt_out);
    i
}

/// Classes that `[[sender]]` and the admin socket know.
fn classes(c: &Config) -> HashSet<&str> {
    let own = c.sender.iter().map(|s| s.class.as_str());
    own.chain(["transactional", "promotional"]).collect()
}

pub(super) fn check(c: &Config, k: &mut Check<'_>) {
    let known = classes(c);
    let operators: HashSet<&str> = c.operators().collect();
    let upstream = |name: &String| name.is_empty() || c.upstream.iter().any(|u| u.name == *name);
    let mut seen = HashSet::new();
    for (i, x) in c.rules.class.iter().enumerate() {
        let path = |key: &str| format!("class[{i}].{key}");
        if !known.contains(x.name.as_str()) {
            k.fault(
                &path("name"),
                format!("no [[sender]] is of the class {:?}", x.name),
            );
        }
        if !x.operator.is_empty() && !operators.contains(x.operator.as_str()) {
            k.fault(
                &path("operator"),
                format!("{:?} is no operator of [numbering] plan", x.operator),
            );
        }
        if !seen.insert((&x.name, &x.operator)) {
            k.fault(&path("name"), "there is another rule for this class and operator");
        }
        if !x.window.is_empty() && !window(&x.window) {
            k.fault(
                &path("window"),
                "must be two times of day such as \"08:00-18:00\", or \"\" for always",
            );
        }
        if x.suffix.chars().count() > 60 {
            k.fault(&path("suffix"), "must be at most 60 characters");
        }
    }
    check_rewrites(c, k, &upstream);
    check_content(c, k, &known);
    for (i, x) in c.rules.suppress.iter().enumerate() {
        let path = |key: &str| format!("suppress[{i}].{key}");
        if !upstream(&x.upstream) {
            k.fault(
                &path("upstream"),
                format!("there is no [[upstream]] named {:?}", x.upstream),
            );
        }
        if !x.state.is_empty() && !super::check::FINAL.contains(&x.state.as_str()) {
            k.fault(
                &path("state"),
                format!("must be one of {}", super::check::FINAL.join(", ")),
            );
        }
        if x.state.is_empty() && x.errors.is_empty() {
            k.fault(
                &path("errors"),
                "needs errors or a state, or every receipt would suppress its number",
            );
        }
        if x.state == "DELIVRD" {
            k.fault(&path("state"), "a delivered message suppresses nobody");
        }
    }
    check_words(c, k);
    if c.rules.number_key.parent() == c.store.path.parent() {
        k.fault(
            "privacy.number_key",
            "must not be in the folder of the store: whoever copies the one has the other",
        );
    }
}

fn check_rewrites(c: &Config, k: &mut Check<'_>, upstream: &dyn Fn(&String) -> bool) {
    for (i, x) in c.rules.rewrite.iter().enumerate() {
        let path = |key: &str| format!("rewrite[{i}].{key}");
        if !upstream(&x.upstream) {
            k.fault(
                &path("upstream"),
                format!("there is no [[upstream]] named {:?}", x.upstream),
            );
        }
        if !x.upstream.is_empty() && !x.account.is_empty() {
            k.fault(
                &path("account"),
                "a rewrite is of an account or of an upstream, not of both",
            );
        }
        if let Err(e) = address(&x.to) {
            k.fault(&path("to"), e);
        }
    }
}

fn check_content(c: &Config, k: &mut Check<'_>, known: &HashSet<&str>) {
    k.names("content", c.rules.content.iter().map(|x| x.name.as_str()));
    k.names("abuse", c.rules.abuse.iter().map(|x| x.name.as_str()));
    for (i, x) in c.rules.content.iter().enumerate() {
        let path = |key: &str| format!("content[{i}].{key}");
        if x.words.is_empty() && x.regex.is_empty() && !x.urls {
            k.fault(&path("words"), "needs words, regex or urls = true");
        }
        if x.words.iter().any(|w| w.trim().is_empty()) {
            k.fault(&path("words"), "a word must not be empty");
        }
        if let Err(e) = RegexBuilder::new(&x.regex).size_limit(1 << 20).build() {
            let what = e.to_string();
            let last = what
                .lines()
                .last()
                .unwrap_or("")
                .trim_start_matches("error: ")
                .to_string();
            k.fault(&path("regex"), format!("is no pattern: {last}"));
        }
        for class in x.class.iter().filter(|w| !known.contains(w.as_str())) {
            k.fault(&path("class"), format!("no [[sender]] is of the class {class:?}"));
        }
    }
}

fn check_words(c: &Config, k: &mut Check<'_>) {
    let fold = |w: &String| w.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let stop: HashSet<String> = c.rules.optout.stop.iter().map(fold).collect();
    for (key, words) in [("stop", &c.rules.optout.stop), ("start", &c.rules.optout.start)] {
        for word in words {
            if fold(word).is_empty() || word.split_whitespace().count() != 1 {
                k.fault(&format!("optout.{key}"), format!("{word:?} is no single word"));
            } else if key == "start" && stop.contains(&fold(word)) {
                k.fault("optout.start", format!("{word:?} stops already"));
            }
        }
    }
    for (i, inbound) in c.inbound.iter().enumerate() {
        if inbound.keyword.is_none() && !inbound.alias.is_empty() {
            k.fault(
                &format!("inbound[{i}].alias"),
                "stands beside a keyword; give one",
            );
        }
        for word in inbound.keyword.iter().chain(&inbound.alias) {
            if stop.contains(&fold(word)) {
                k.fault(
                    &format!("inbound[{i}].keyword"),
                    format!("{word:?} is a word of [optout] stop"),
                );
            }
        }
    }
}

pub(super) fn check_senders(c: &Config, k: &mut Check<'_>) {
    let operators: HashSet<&str> = c.operators().collect();
    let reserved: Vec<String> = c.rules.senders.reserved.iter().map(|r| look(r)).collect();
    for (i, s) in c.sender.iter().enumerate() {
        let path = |key: &str| format!("sender[{i}].{key}");
        if let Err(e) = address(&s.id) {
            k.fault(&path("id"), e);
        }
        let word = |c: char| c.is_ascii_lowercase() || c == '_' || c == '-';
        if s.class.is_empty() || !s.class.chars().all(word) {
            k.fault(
                &path("class"),
                "must be a word in small letters, such as \"promotional\"",
            );
        }
        if !s.operator.is_empty() && !operators.contains(s.operator.as_str()) {
            k.fault(
                &path("operator"),
                format!("{:?} is no operator of [numbering] plan", s.operator),
            );
        }
        if s.id.chars().any(char::is_alphabetic) && reserved.contains(&look(&s.id)) && !s.reserved {
            k.fault(
                &path("id"),
                format!(
                    "{:?} is a name of [senders] reserved, or looks like one; its owner's has reserved = true",
                    s.id
                ),
            );
        }
        let revoked = |s: &Sender| s.status == Status::Revoked;
        for o in c.sender.iter().take(i).filter(|o| !revoked(o) && !revoked(s)) {
            let alike = o.id.eq_ignore_ascii_case(&s.id);
            let meet = o.operator.is_empty() || s.operator.is_empty() || o.operator == s.operator;
            if alike && o.account == s.account && o.operator == s.operator {
                k.fault(&path("id"), format!("{:?} is listed twice", s.id));
            } else if alike && meet && o.class != s.class && both(&o.class) && both(&s.class) {
                k.fault(
                    &path("class"),
                    format!(
                        "{:?} is {} above; one sender cannot be both at one operator",
                        s.id, o.class
                    ),
                );
            } else if o.account != s.account
                && !o.account.is_empty()
                && !s.account.is_empty()
                && s.id.chars().any(char::is_alphabetic)
                && look(&o.id) == look(&s.id)
            {
                k.fault(
                    &path("id"),
                    format!("{:?} is, or looks like, {:?} of another account", s.id, o.id),
                );
            }
        }
    }
}

fn both(class: &str) -> bool {
    matches!(class, "transactional" | "promotional")
}

/// What a name looks like, as the registry compares names: case, 0 and O, 1, l and I are the same.
fn look(id: &str) -> String {
    let letters = id.chars().filter(|c| c.is_alphanumeric());
    letters
        .flat_map(char::to_lowercase)
        .map(|c| match c {
            '0' => 'o',
            '1' | 'l' => 'i',
            c => c,
        })
        .collect()
}

/// Characters of the GSM default alphabet beside letters and digits of ASCII (3GPP TS 23.038 §6.2.1), without those that do not print.
const GSM: &str = "@\u{a3}$\u{a5}\u{e8}\u{e9}\u{f9}\u{ec}\u{f2}\u{c7}\u{d8}\u{f8}\u{c5}\u{e5}\u{394}_\u{3a6}\u{393}\u{39b}\u{3a9}\u{3a0}\u{3a8}\u{3a3}\u{398}\u{39e}\u{c6}\u{e6}\u{df}\u{c9} !\"#\u{a4}%&'()*+,-./:;<=>?\u{a1}\u{c4}\u{d6}\u{d1}\u{dc}\u{a7}\u{bf}\u{e4}\u{f6}\u{f1}\u{fc}\u{e0}";

/// A sender address: up to 15 digits, or up to 11 characters of the GSM default alphabet (3GPP TS 23.040 §9.1.2.5).
fn address(id: &str) -> Result<(), &'static str> {
    let digits = id.strip_prefix('+').unwrap_or(id);
    let numeric = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    match id.chars().count() {
        0 => Err("is missing"),
        _ if numeric && digits.len() > 15 => Err("a number has at most 15 digits"),
        _ if numeric => Ok(()),
        n if n > 11 => Err("an alphanumeric sender has at most 11 characters"),
        _ if id.chars().all(|c| c.is_ascii_alphanumeric() || GSM.contains(c)) => Ok(()),
        _ => Err("an alphanumeric sender has characters of the GSM default alphabet only"),
    }
}

fn window(text: &str) -> bool {
    let time = |t: &str| {
        let (h, m) = t.trim().split_once(':')?;
        let two = |s: &str| (s.len() == 2).then(|| s.parse::<u16>().ok())?;
        let (h, m) = (two(h)?, two(m)?);
        (h < 24 && m < 60 || h == 24 && m == 0).then_some(h * 60 + m)
    };
    text.split_once('-')
        .and_then(|(a, b)| Some((time(a)?, time(b)?)))
        .is_some_and(|(from, _)| from < 1_440)
}

fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|s| format!("{s:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

/// The tables of this file that stand before the lists of routes and tariffs.
pub(super) fn print(c: &Rules) -> String {
    let mut out = format!(
        "\n[senders]\nrequire = {}\nreserved = {}\n\n[optout]\nstop = {}\nstart = {}\nstop_answer = {:?}\nstart_answer = {:?}\nanswer_every_s = {}\n",
        c.senders.require,
        list(&c.senders.reserved),
        list(&c.optout.stop),
        list(&c.optout.start),
        c.optout.stop_answer,
        c.optout.start_answer,
        c.optout.answer_every_s
    );
    for x in &c.class {
        out += &format!(
            "\n[[class]]\nname = {:?}\noperator = {:?}\nwindow = {:?}\nutc_offset_min = {}\noutside = {:?}\nsuffix = {:?}\ncap = {}\ncap_s = {}\n",
            x.name,
            x.operator,
            x.window,
            x.utc_offset_min,
            x.outside.word(),
            x.suffix,
            x.cap,
            x.cap_s
        );
    }
    for x in &c.rewrite {
        out += &format!(
            "\n[[rewrite]]\naccount = {:?}\nupstream = {:?}\nfrom = {:?}\nto = {:?}\n",
            x.account, x.upstream, x.from, x.to
        );
    }
    for x in &c.content {
        out += &format!(
            "\n[[content]]\nname = {:?}\nwords = {}\nregex = {:?}\nurls = {}\nclass = {}\naccount = {}\naction = {:?}\n",
            x.name,
            list(&x.words),
            x.regex,
            x.urls,
            list(&x.class),
            list(&x.account),
            x.action.word()
        );
    }
    for x in &c.abuse {
        out += &format!(
            "\n[[abuse]]\nname = {:?}\ncounts = {:?}\naccount = {}\nlimit = {}\nspan_s = {}\n",
            x.name,
            x.counts.word(),
            list(&x.account),
            x.limit,
            x.span_s
        );
    }
    for x in &c.suppress {
        out += &format!(
            "\n[[suppress]]\nupstream = {:?}\nstate = {:?}\nerrors = {:?}\nscope = {:?}\nfor_s = {}\nreason = {:?}\n",
            x.upstream,
            x.state,
            x.errors,
            x.scope.word(),
            x.for_s,
            x.reason
        );
    }
    out
}

pub(super) fn print_sender(s: &Sender) -> String {
    format!(
        "\n[[sender]]\nid = {:?}\nclass = {:?}\naccount = {:?}\noperator = {:?}\nstatus = {:?}\nreserved = {}",
        s.id,
        s.class,
        s.account,
        s.operator,
        s.status.word(),
        s.reserved
    )
}
