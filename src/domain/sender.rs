//! Sender addresses: who may use which at which operator, of what class, and what looks like somebody else's.
//!
//! Operators register a sender per name and sell two kinds: a promotional one may send by day only and tells how to opt out, a
//! transactional one may send at any time; one name is never both at one operator (Safaricom's rule; a name that mixes is
//! deleted and fined).

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::text::Charset;

/// Class of one-off messages that somebody waits for: codes, confirmations.
pub const TRANSACTIONAL: &str = "transactional";
/// Class of marketing.
pub const PROMOTIONAL: &str = "promotional";
/// Longest alphanumeric address (3GPP TS 23.040 §9.1.2.5: eleven characters of seven bits fill its ten octets).
pub const ALPHANUMERIC_MAX: usize = 11;
/// Longest numeric address: a short code or an E.164 number.
pub const NUMERIC_MAX: usize = 15;

/// How far a registration is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Standing {
    /// Asked for; the operator has not said yes yet.
    #[default]
    Pending = 0,
    /// May be used.
    Active = 1,
    /// May not be used for the moment.
    Suspended = 2,
    /// Gone for good.
    Revoked = 3,
}

impl Standing {
    /// All words.
    pub const WORDS: &'static [&'static str] = &["pending", "active", "suspended", "revoked"];

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Standing::Pending => "pending",
            Standing::Active => "active",
            Standing::Suspended => "suspended",
            Standing::Revoked => "revoked",
        }
    }

    /// From its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Standing> {
        let at = Self::WORDS.iter().position(|w| *w == word)?;
        Some(Standing::from_code(at as u8))
    }

    /// From the stored number; what is not known may not be used.
    #[must_use]
    pub const fn from_code(code: u8) -> Standing {
        match code {
            0 => Standing::Pending,
            1 => Standing::Active,
            3 => Standing::Revoked,
            _ => Standing::Suspended,
        }
    }
}

/// One registration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sender {
    /// Name of the account; empty: every account.
    pub account: String,
    /// The address as it is sent.
    pub id: String,
    /// At which operator of the number plan; empty: at all.
    pub operator: String,
    /// `transactional`, `promotional`, or a word that only prices know.
    pub class: String,
    /// How far it is.
    pub standing: Standing,
    /// It may look like a reserved name: it is that name's owner's.
    pub reserved: bool,
    /// When it was registered or last changed, ms since the epoch; 0: by the config.
    pub at_ms: u64,
    /// What the operator calls the registration.
    pub reference: String,
}

impl Sender {
    /// Whether two speak of the same account, name and operator.
    #[must_use]
    pub fn same(&self, other: &Sender) -> bool {
        self.account == other.account
            && self.operator == other.operator
            && self.id.eq_ignore_ascii_case(&other.id)
    }
}

/// Why a registration cannot stand.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadSender {
    /// Not an address.
    #[error("{0}")]
    Form(&'static str),
    /// The same name has the other class at the same operator.
    #[error(
        "{0:?} is {1} already at this operator; one sender cannot be both transactional and promotional there"
    )]
    TwoClasses(String, String),
    /// It is, or looks like, a reserved name.
    #[error("{0:?} is reserved, or looks like {1:?}, which is")]
    Reserved(String, String),
    /// It is, or looks like, another account's sender.
    #[error("{0:?} looks like {1:?}, which is registered for another account")]
    LooksLike(String, String),
}

/// Whether `id` can be a sender address: digits, or up to eleven characters of the GSM default alphabet.
///
/// # Errors
/// [`BadSender::Form`].
pub fn form(id: &str) -> Result<(), BadSender> {
    let digits = id.strip_prefix('+').unwrap_or(id);
    if digits.is_empty() {
        return Err(BadSender::Form("must not be empty"));
    }
    if digits.bytes().all(|c| c.is_ascii_digit()) {
        return if digits.len() <= NUMERIC_MAX {
            Ok(())
        } else {
            Err(BadSender::Form("a number has at most 15 digits"))
        };
    }
    if id.chars().count() > ALPHANUMERIC_MAX {
        return Err(BadSender::Form(
            "an alphanumeric sender has at most 11 characters (3GPP TS 23.040 §9.1.2.5)",
        ));
    }
    // The extension table takes two septets a character, and phones show none of it in a sender.
    match Charset::Gsm7.encode(id) {
        Some(octets) if octets.len() == id.chars().count() && !id.chars().any(char::is_control) => Ok(()),
        _ => Err(BadSender::Form(
            "an alphanumeric sender has characters of the GSM default alphabet only",
        )),
    }
}

/// What a name looks like: case, 0 and O, 1, l and I are the same to a hurried reader, blanks and punctuation are nothing.
#[must_use]
pub fn skeleton(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for c in id.chars().filter(|c| c.is_alphanumeric()) {
        for c in c.to_lowercase() {
            out.push(match c {
                '0' => 'o',
                '1' | 'l' => 'i',
                c => c,
            });
        }
    }
    out
}

/// Whether an address is written in letters, so that it can look like a name.
#[must_use]
pub fn alphanumeric(source: &[u8]) -> bool {
    source
        .strip_prefix(b"+")
        .unwrap_or(source)
        .iter()
        .any(|c| !c.is_ascii_digit())
}

/// What the registry says of a source address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    /// Nothing: nobody has registered it.
    Unknown,
    /// It is registered for this account at this operator.
    Registered(&'a Sender),
    /// It is registered, but for other accounts, or looks like one that is.
    Foreign,
    /// It looks like a reserved name.
    Reserved,
}

/// Customers choose what is looked up, and operators what is there: nobody can make entries meet.
type Fast = foldhash::quality::RandomState;

/// Registrations and reserved names, looked up by address. Immutable; swapped whole.
#[derive(Clone, Default)]
pub struct Registry {
    senders: Vec<Sender>,
    /// By address in small letters.
    by_id: HashMap<Vec<u8>, Vec<u32>, Fast>,
    /// By what names in letters look like.
    by_look: HashMap<String, Vec<u32>, Fast>,
    reserved: HashMap<String, String, Fast>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Registry({}, {} reserved)",
            self.senders.len(),
            self.reserved.len()
        )
    }
}

impl Registry {
    /// A registry of `senders`; the first that breaks a rule is named by its place.
    ///
    /// # Errors
    /// Its place among them and why it cannot stand.
    pub fn new(senders: Vec<Sender>, reserved: &[String]) -> Result<Registry, (usize, BadSender)> {
        let mut out = Registry {
            reserved: reserved.iter().map(|r| (skeleton(r), r.clone())).collect(),
            ..Registry::default()
        };
        out.reserved.remove("");
        for (at, sender) in senders.into_iter().enumerate() {
            out.admits(&sender).map_err(|e| (at, e))?;
            out.insert(sender);
        }
        Ok(out)
    }

    /// As [`Registry::new`] for what has been checked before, on top of the config: what no longer fits (the config has
    /// changed) may not be used.
    #[must_use]
    pub fn with(&self, more: &[Sender]) -> Registry {
        let mut out = self.clone();
        for sender in more {
            let mut sender = sender.clone();
            if sender.standing == Standing::Active && out.admits(&sender).is_err() {
                sender.standing = Standing::Suspended;
            }
            out.insert(sender);
        }
        out
    }

    fn insert(&mut self, sender: Sender) {
        let at = self.senders.len() as u32;
        let key = sender.id.to_ascii_lowercase().into_bytes();
        self.by_id.entry(key).or_default().push(at);
        if alphanumeric(sender.id.as_bytes()) {
            self.by_look.entry(skeleton(&sender.id)).or_default().push(at);
        }
        self.senders.push(sender);
    }

    /// Whether nothing is registered or reserved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty() && self.reserved.is_empty()
    }

    /// All registrations, in the order they came.
    #[must_use]
    pub fn senders(&self) -> &[Sender] {
        &self.senders
    }

    fn at<'a>(&'a self, places: Option<&'a Vec<u32>>) -> impl Iterator<Item = &'a Sender> {
        places
            .into_iter()
            .flatten()
            .filter_map(|at| self.senders.get(*at as usize))
    }

    /// Whether a registration may stand beside those that are there; a former one of the same account, name and operator is
    /// not looked at.
    ///
    /// # Errors
    /// [`BadSender`].
    pub fn admits(&self, sender: &Sender) -> Result<(), BadSender> {
        form(&sender.id)?;
        let others = |s: &&Sender| !s.same(sender) && s.standing != Standing::Revoked;
        let meets = |s: &&Sender| {
            s.operator.is_empty() || sender.operator.is_empty() || s.operator == sender.operator
        };
        let key = sender.id.to_ascii_lowercase().into_bytes();
        let both = [TRANSACTIONAL, PROMOTIONAL];
        let clash = self
            .at(self.by_id.get(&key))
            .filter(others)
            .filter(meets)
            .find(|s| {
                s.class != sender.class
                    && both.contains(&s.class.as_str())
                    && both.contains(&sender.class.as_str())
            });
        if let Some(other) = clash {
            return Err(BadSender::TwoClasses(other.id.clone(), other.class.clone()));
        }
        if !alphanumeric(sender.id.as_bytes()) {
            return Ok(());
        }
        let look = skeleton(&sender.id);
        if let Some(name) = self.reserved.get(&look).filter(|_| !sender.reserved) {
            return Err(BadSender::Reserved(sender.id.clone(), name.clone()));
        }
        let alike = self
            .at(self.by_look.get(&look))
            .filter(others)
            .find(|s| s.account != sender.account && !s.account.is_empty() && !sender.account.is_empty());
        match alike {
            Some(other) => Err(BadSender::LooksLike(sender.id.clone(), other.id.clone())),
            None => Ok(()),
        }
    }

    /// What is registered for `source` of `account` at `operator`: a registration of the account before one for all, one for
    /// the operator before one for all operators.
    #[must_use]
    pub fn find(&self, account: &str, source: &[u8], operator: &str) -> Found<'_> {
        if self.is_empty() {
            return Found::Unknown;
        }
        let mut low = [0u8; 32];
        let known = match low.get_mut(..source.len()) {
            Some(low) => {
                low.copy_from_slice(source);
                low.make_ascii_lowercase();
                self.by_id.get(&*low)
            }
            None => None,
        };
        let rank = |s: &Sender| -> Option<u8> {
            let own = s.account == account;
            let here = s.operator == operator;
            ((own || s.account.is_empty()) && (here || s.operator.is_empty()))
                .then_some(u8::from(own) * 2 + u8::from(here && !s.operator.is_empty()))
        };
        // Of two alike the later: a registration over the admin socket stands before the config's.
        let best = self
            .at(known)
            .filter_map(|s| Some((rank(s)?, s)))
            .max_by_key(|(rank, _)| *rank);
        if let Some((_, sender)) = best {
            return Found::Registered(sender);
        }
        // Registered for this account, but not at this operator: nobody else's, and not known here.
        if self.at(known).any(|s| s.account == account) {
            return Found::Unknown;
        }
        if known.is_some_and(|k| {
            self.at(Some(k))
                .any(|s| s.standing != Standing::Revoked && !s.account.is_empty())
        }) {
            return Found::Foreign;
        }
        if !alphanumeric(source) || self.reserved.is_empty() && self.by_look.is_empty() {
            return Found::Unknown;
        }
        let look = skeleton(&Charset::Gsm7.decode(source));
        if self.reserved.contains_key(&look) {
            return Found::Reserved;
        }
        let alike: Vec<&Sender> = self.at(self.by_look.get(&look)).collect();
        let foreign =
            |s: &&Sender| !s.account.is_empty() && s.account != account && s.standing != Standing::Revoked;
        if alike.iter().any(foreign) && !alike.iter().any(|s| s.account == account || s.account.is_empty()) {
            Found::Foreign
        } else {
            Found::Unknown
        }
    }

    /// The reserved names.
    #[must_use]
    pub fn reserved(&self) -> HashSet<&str> {
        self.reserved.values().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(account: &str, id: &str, operator: &str, class: &str) -> Sender {
        Sender {
            account: account.into(),
            id: id.into(),
            operator: operator.into(),
            class: class.into(),
            standing: Standing::Active,
            ..Sender::default()
        }
    }

    #[test]
    fn one_name_is_never_both_classes_at_one_operator() {
        let both = |second: &Sender| {
            Registry::new(
                vec![sender("acme", "ACME", "safaricom", PROMOTIONAL), second.clone()],
                &[],
            )
        };
        let (at, why) = both(&sender("acme", "acme", "", TRANSACTIONAL)).unwrap_err();
        assert_eq!(at, 1);
        assert!(matches!(why, BadSender::TwoClasses(..)), "{why}");
        assert!(both(&sender("acme", "ACME", "airtel", TRANSACTIONAL)).is_ok());
        let changed = sender("acme", "ACME", "safaricom", TRANSACTIONAL);
        assert!(
            both(&changed).is_ok(),
            "a new registration of the same name takes the former's place"
        );
    }

    #[test]
    fn what_looks_like_a_reserved_or_foreign_name_is_one() {
        let reserved = ["M-PESA".to_string(), "EQUITY".to_string()];
        for id in ["MPESA", "m pesa", "M.PESA", "EQU1TY", "equlty"] {
            let one = Registry::new(vec![sender("acme", id, "", TRANSACTIONAL)], &reserved);
            assert!(
                matches!(one, Err((0, BadSender::Reserved(..)))),
                "{id} looks like a reserved name"
            );
        }
        let owner = Sender {
            reserved: true,
            ..sender("bank", "EQUITY", "", TRANSACTIONAL)
        };
        let registry = Registry::new(vec![owner, sender("acme", "SHOP01", "", "")], &reserved).unwrap();
        assert!(matches!(
            registry.find("bank", b"Equity", "x"),
            Found::Registered(_)
        ));
        assert_eq!(registry.find("acme", b"EQUITY", "x"), Found::Foreign);
        assert_eq!(registry.find("acme", b"mpesa", "x"), Found::Reserved);
        assert_eq!(registry.find("other", b"SH0P0l", "x"), Found::Foreign);
        assert_eq!(registry.find("other", b"SHOP", "x"), Found::Unknown);
        let alike = sender("other", "SHOPOI", "", "");
        assert!(matches!(registry.admits(&alike), Err(BadSender::LooksLike(..))));
    }

    #[test]
    fn the_account_and_the_operator_that_are_named_stand_before_all() {
        let all = [
            sender("", "INFO", "", "a"),
            sender("", "INFO", "airtel", "b"),
            sender("acme", "INFO", "", "c"),
            sender("acme", "INFO", "airtel", "d"),
        ];
        let registry = Registry::new(all.to_vec(), &[]).unwrap();
        let class = |account: &str, operator: &str| match registry.find(account, b"info", operator) {
            Found::Registered(s) => s.class.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(class("x", "safaricom"), "a");
        assert_eq!(class("x", "airtel"), "b");
        assert_eq!(class("acme", "safaricom"), "c");
        assert_eq!(class("acme", "airtel"), "d");
    }

    #[test]
    fn an_alphanumeric_sender_has_eleven_characters_of_the_default_alphabet() {
        for good in ["ACME", "22555", "+254712345678", "Caf\u{e9} Java", "12345678901"] {
            assert!(form(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "TWELVE CHARS",
            "ACM\u{c8}\u{103}",
            "A[B]",
            "1234567890123456",
            "\u{1F600}",
        ] {
            assert!(form(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_config_no_longer_allows_is_suspended_not_lost() {
        let config = Registry::new(Vec::new(), &["ACME".to_string()]).unwrap();
        let all = config.with(&[sender("acme", "ACME", "", PROMOTIONAL)]);
        assert_eq!(all.senders()[0].standing, Standing::Suspended);
    }
}
