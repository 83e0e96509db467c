//! What a text may not say: words, addresses of the web, patterns. Searched in time that grows with the text alone, whatever the
//! pattern (finite automata, no backtracking).

use std::borrow::Cow;
use std::fmt;

use regex::{Regex, RegexBuilder};

use crate::text::{Alphabet, Charset, alphabet};

/// What becomes of a message that a rule hits, the milder first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Action {
    /// It goes; a case is opened.
    #[default]
    Flag,
    /// It waits for a person, until its validity ends.
    Hold,
    /// It is refused.
    Reject,
}

impl Action {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Action::Flag => "flag",
            Action::Hold => "hold",
            Action::Reject => "reject",
        }
    }
}

/// Octets of memory that a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// What looks like an address of the web: with a scheme, with `www.`, or a name under a domain that links in messages use.
const URL: &str = r"(?i)\b(?:https?://|www\.)[^\s]+|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|net|org|info|biz|io|me|ly|link|xyz|top|site|online|app|co|ke|ug|tz|rw|ng|za|gl|to|cc)\b(?:/[^\s]*)?";

/// One rule.
#[derive(Clone)]
pub struct ContentRule {
    /// Its name in the config, in metrics and cases.
    pub name: String,
    /// Only for senders of these classes; empty: any.
    pub classes: Vec<String>,
    /// Only for these accounts; empty: any.
    pub accounts: Vec<String>,
    /// What becomes of a message that it hits.
    pub action: Action,
    /// Words and phrases, wherever they stand: whether they are whole is looked at where one is found.
    words: Option<Regex>,
    patterns: Vec<Regex>,
}

impl fmt::Debug for ContentRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentRule({}, {})", self.name, self.action.word())
    }
}

/// What a rule is made of.
#[derive(Clone, Debug, Default)]
pub struct Patterns<'a> {
    /// Whole words and phrases, without case.
    pub words: &'a [String],
    /// A pattern in the syntax of the `regex` crate.
    pub regex: &'a str,
    /// Any address of the web.
    pub urls: bool,
}

impl ContentRule {
    /// Compiles a rule.
    ///
    /// # Errors
    /// What is wrong with its pattern.
    pub fn new(
        name: &str,
        classes: &[String],
        accounts: &[String],
        action: Action,
        patterns: &Patterns<'_>,
    ) -> Result<ContentRule, String> {
        let compile = |p: &String| {
            let built = RegexBuilder::new(p).size_limit(PATTERN_BYTES_MAX).build();
            built.map_err(|e| e.to_string())
        };
        let mut all = Vec::new();
        let mut words: Vec<String> = patterns.words.iter().map(|w| phrase(w)).collect();
        // The longest first, so that a phrase is not hidden by its first word.
        words.sort_by_key(|w| std::cmp::Reverse(w.len()));
        let words = (!words.is_empty()).then(|| format!("(?i)(?:{})", words.join("|")));
        if !patterns.regex.is_empty() {
            all.push(patterns.regex.to_string());
        }
        if patterns.urls {
            all.push(URL.to_string());
        }
        if all.is_empty() && words.is_none() {
            return Err("needs words, regex or urls".into());
        }
        Ok(ContentRule {
            name: name.into(),
            classes: classes.to_vec(),
            accounts: accounts.to_vec(),
            action,
            words: words.as_ref().map(compile).transpose()?,
            patterns: all.iter().map(compile).collect::<Result<_, _>>()?,
        })
    }

    /// Whether it is for messages of this class and account.
    #[must_use]
    pub fn applies(&self, class: &str, account: &str) -> bool {
        let one_of = |list: &[String], what: &str| list.is_empty() || list.iter().any(|l| l == what);
        one_of(&self.classes, class) && one_of(&self.accounts, account)
    }

    /// Whether a text is hit.
    #[must_use]
    pub fn hits(&self, text: &str) -> bool {
        self.words.as_ref().is_some_and(|w| whole(w, text)) || self.patterns.iter().any(|p| p.is_match(text))
    }
}

/// Whether any of the words stands in the text whole: with no letter or digit before or behind it.
fn whole(words: &Regex, text: &str) -> bool {
    let mut from = 0;
    while let Some(found) = words.find_at(text, from) {
        let before = text.get(..found.start()).and_then(|t| t.chars().next_back());
        let behind = text.get(found.end()..).and_then(|t| t.chars().next());
        if !before.is_some_and(char::is_alphanumeric) && !behind.is_some_and(char::is_alphanumeric) {
            return true;
        }
        // The next may begin within this one.
        let first = text.get(found.start()..).and_then(|t| t.chars().next());
        from = found.start() + first.map_or(1, char::len_utf8);
    }
    false
}

/// A phrase as a pattern: blanks between its words may be any.
fn phrase(words: &str) -> String {
    let words: Vec<String> = words.split_whitespace().map(regex::escape).collect();
    words.join(r"\s+")
}

/// A text as people read it; `None`: it is data. Most are written in what ASCII and the default alphabet have in common, and are
/// not copied then.
#[must_use]
pub fn decoded(data_coding: u8, octets: &[u8]) -> Option<Cow<'_, str>> {
    let charset = match alphabet(data_coding) {
        Alphabet::Octet => return None,
        Alphabet::Ucs2 => Charset::Ucs2,
        Alphabet::Gsm7 if matches!(data_coding, 1 | 3) => Charset::Latin1,
        Alphabet::Gsm7 => Charset::Gsm7,
    };
    // 3GPP TS 23.038 §6.2.1: these stand where ASCII has them, in Latin-1 too.
    let common = |c: &u8| matches!(c, b'\n' | b'\r' | b' '..=b'#' | b'%'..=b'?' | b'A'..=b'Z' | b'a'..=b'z');
    if charset != Charset::Ucs2
        && octets.iter().all(common)
        && let Ok(text) = std::str::from_utf8(octets)
    {
        return Some(Cow::Borrowed(text));
    }
    Some(Cow::Owned(charset.decode(octets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(words: &[&str], regex: &str, urls: bool) -> ContentRule {
        let words: Vec<String> = words.iter().map(|w| (*w).to_string()).collect();
        let patterns = Patterns {
            words: &words,
            regex,
            urls,
        };
        ContentRule::new("r", &[], &[], Action::Reject, &patterns).unwrap()
    }

    #[test]
    fn words_are_whole_and_without_case() {
        let rule = rule(&["bet", "free  money", "1.5x"], "", false);
        for hit in ["BET now", "a bet", "get Free\nMoney!", "bet", "(1.5X)"] {
            assert!(rule.hits(hit), "{hit}");
        }
        assert!(rule.hits("betbet bet"), "behind one that is not whole");
        for miss in ["better", "alphabet", "free the money", "115x"] {
            assert!(!rule.hits(miss), "{miss}");
        }
    }

    #[test]
    fn addresses_of_the_web_with_and_without_a_scheme() {
        let rule = rule(&[], "", true);
        for hit in [
            "see http://x.y",
            "bit.ly/abc",
            "WWW.ACME.CO",
            "go to acme.co.ke now",
        ] {
            assert!(rule.hits(hit), "{hit}");
        }
        for miss in ["KES 1.50 paid", "Mr.Smith", "3.4.5", "ok.Thanks"] {
            assert!(!rule.hits(miss), "{miss}");
        }
    }

    #[test]
    fn a_bad_pattern_is_told_and_an_empty_rule_too() {
        let bad = |regex: &str| {
            let patterns = Patterns {
                regex,
                ..Patterns::default()
            };
            ContentRule::new("r", &[], &[], Action::Flag, &patterns).is_err()
        };
        assert!(bad("(a"));
        assert!(bad(""));
        assert!(bad(r"(?:\w{1000}){1000}"), "a pattern that would take all memory");
    }

    #[test]
    fn texts_are_read_in_their_alphabet() {
        assert_eq!(decoded(0, b"\x00bc").as_deref(), Some("@bc"));
        assert_eq!(decoded(8, b"\x00b\x00c").as_deref(), Some("bc"));
        assert_eq!(decoded(3, b"\xe9").as_deref(), Some("\u{e9}"));
        assert_eq!(decoded(4, b"bc"), None);
    }
}
