//! What is known of a customer account, and the checks that need nothing else.

use std::fmt;
use std::net::IpAddr;

use crate::ids::AccountId;
use crate::money::Money;

/// Which binds an account may make.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum BindAllowed {
    /// Transmitter, receiver and transceiver.
    #[default]
    All = 0,
    /// Only bind_transmitter.
    Transmitter = 1,
    /// Only bind_receiver.
    Receiver = 2,
    /// Only bind_transceiver.
    Transceiver = 3,
}

/// An account's standing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum AccountState {
    /// May bind and submit.
    #[default]
    Active = 0,
    /// May do neither; what was accepted goes on.
    Suspended = 1,
    /// Ended for good.
    Closed = 2,
}

impl AccountState {
    /// The name over the admin socket.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            AccountState::Active => "active",
            AccountState::Suspended => "suspended",
            AccountState::Closed => "closed",
        }
    }
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)* }

        impl $name {
            /// The words over the admin socket.
            pub const WORDS: &'static [&'static str] = &[$($word,)*];

            /// Its word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// From its word.
            #[must_use]
            pub fn parse(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$variant),)* _ => None }
            }

            /// From the stored number; unknown numbers read as the default.
            #[must_use]
            pub fn from_code(code: u8) -> $name {
                match code { $($code => $name::$variant,)* _ => $name::default() }
            }
        }
    };
}

choice! {
    /// How receipts and inbound messages are handed to the customer.
    DeliverAs {
        /// With deliver_sm (SMPP 3.4 §4.6).
        #[default]
        DeliverSm = 0 "deliver_sm",
        /// With data_sm (§4.7), to sessions of 3.4 and later.
        DataSm = 1 "data_sm",
    }
}
choice! {
    /// Receipts of a message that was sent in parts.
    Receipts {
        /// One for the message: DELIVRD if all parts are, otherwise the first failure.
        #[default]
        RolledUp = 0 "rolled-up",
        /// One for each part, all with the message's id.
        Each = 1 "each",
    }
}
choice! {
    /// What the customer's data_coding 0 stands for (SMPP 3.4 §5.2.19: "SMSC default alphabet").
    Alphabet {
        /// GSM 03.38, one septet an octet.
        #[default]
        Gsm7 = 0 "gsm7",
        /// ISO 8859-1.
        Latin1 = 1 "latin1",
    }
}

/// A customer account as stored.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Assigned by the store.
    pub id: AccountId,
    /// Unique name, also the organisation.
    pub name: String,
    /// What its clients bind with; at most 15 characters, unique.
    pub system_id: String,
    /// argon2id in PHC string form; never shown.
    pub password_hash: String,
    /// Tariff name; empty: the first of the config.
    pub tariff: String,
    /// Segments a second; 0: unlimited.
    pub tps: u32,
    /// Unanswered submits a session; 0: the config's `window_max`.
    pub window: u32,
    /// Simultaneous binds; 0: unlimited.
    pub max_binds: u32,
    /// Addresses or networks that may bind. Empty: any. Once one is set, everything else is refused; an entry that cannot
    /// be read admits nobody.
    pub allow_ips: Vec<String>,
    /// Source addresses it may use, compared without case; empty: any.
    pub senders: Vec<String>,
    /// Which binds it may make.
    pub bind: BindAllowed,
    /// Standing.
    pub state: AccountState,
    /// How far below zero its balance may go.
    pub credit_limit: Money,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// See [`DeliverAs`].
    pub deliver_as: DeliverAs,
    /// See [`Receipts`].
    pub receipts: Receipts,
    /// See [`Alphabet`].
    pub alphabet: Alphabet,
    /// Typographic characters (quotes, dashes …) are replaced where the text then fits GSM 03.38, and billed as such.
    pub transliterate: bool,
    /// `host:port` where the customer waits for an outbind when something waits for it; empty: nowhere.
    pub outbind: String,
    /// Password of the outbind; at most 64 characters.
    pub outbind_password: String,
    /// SHA-256 fingerprints (hex) of client certificates; once one is set, only sessions over TLS with one of them bind.
    pub certificates: Vec<String>,
    /// ISO 4217 code of its wallet, that of its tariff when it was created; for good, since amounts of two currencies do not add
    /// up. Empty in accounts of releases before this field until they are read.
    pub currency: String,
    /// Below this much available money it counts as low; zero: never.
    pub low_balance: Money,
    /// Segments it may send in a day of the calendar; 0: any number.
    pub quota_day: u64,
    /// Segments it may send in a month; 0: any number.
    pub quota_month: u64,
    /// Names of the only upstreams that may carry its messages: the sub-processors that the customer has authorised (Data
    /// Protection (General) Regulations 2021, reg. 25(1)). Empty: any.
    pub allow_upstreams: Vec<String>,
    /// Names of upstreams that may not; wins over the other list.
    pub deny_upstreams: Vec<String>,
    /// ISO 3166 code of the country whose links alone may carry its messages; empty: any country.
    pub residency: String,
}

/// Why an upstream may not carry an account's messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Barred {
    /// It is on the account's list of those that may not.
    Denied,
    /// It is not on the list of those that may.
    NotAuthorised,
    /// It is in another country than the account's messages have to stay in, or nobody has said in which.
    Residency,
}

impl Barred {
    /// In a word or two, for explanations.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Barred::Denied => "denied by the account",
            Barred::NotAuthorised => "not authorised by the account",
            Barred::Residency => "outside the account's country of residency",
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({}, {})", self.id.0, self.state.name())
    }
}

impl Account {
    /// Whether a client at `peer` may bind.
    #[must_use]
    pub fn admits(&self, peer: IpAddr) -> bool {
        self.allow_ips.is_empty() || self.allow_ips.iter().any(|net| contains(net, peer))
    }

    /// Whether the upstream `name`, whose links are in `country`, may carry its messages. Asked wherever a message gets an
    /// upstream: at acceptance, failover, retry, rerouting and restart.
    ///
    /// # Errors
    /// The first [`Barred`].
    pub fn permits(&self, name: &str, country: &str) -> Result<(), Barred> {
        if self.unbarred() {
            return Ok(());
        }
        if self.deny_upstreams.iter().any(|n| n == name) {
            return Err(Barred::Denied);
        }
        if !self.allow_upstreams.is_empty() && !self.allow_upstreams.iter().any(|n| n == name) {
            return Err(Barred::NotAuthorised);
        }
        if !self.residency.is_empty() && !self.residency.eq_ignore_ascii_case(country) {
            return Err(Barred::Residency);
        }
        Ok(())
    }

    /// Whether every upstream may carry its messages.
    #[must_use]
    pub fn unbarred(&self) -> bool {
        self.deny_upstreams.is_empty() && self.allow_upstreams.is_empty() && self.residency.is_empty()
    }

    /// Whether it may send as `source`.
    #[must_use]
    pub fn may_send_as(&self, source: &[u8]) -> bool {
        self.senders.is_empty()
            || self
                .senders
                .iter()
                .any(|s| s.as_bytes().eq_ignore_ascii_case(source))
    }
}

/// Whether `net` (`192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`) holds `peer`. Unreadable networks hold nobody.
#[must_use]
pub fn contains(net: &str, peer: IpAddr) -> bool {
    let Some((base, bits)) = parse_net(net) else {
        return false;
    };
    let shift = |width: u32| width.checked_sub(bits).filter(|s| *s < width);
    match (base, peer.to_canonical()) {
        (IpAddr::V4(b), IpAddr::V4(p)) => {
            bits == 0 || shift(32).is_some_and(|s| b.to_bits() >> s == p.to_bits() >> s)
        }
        (IpAddr::V6(b), IpAddr::V6(p)) => {
            bits == 0 || shift(128).is_some_and(|s| b.to_bits() >> s == p.to_bits() >> s)
        }
        _ => false,
    }
}

/// Reads an address or a network in CIDR form.
#[must_use]
pub fn parse_net(net: &str) -> Option<(IpAddr, u32)> {
    let (base, bits) = match net.split_once('/') {
        Some((base, bits)) => (base.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?),
        None => {
            let base: IpAddr = net.parse().ok()?;
            (base, if base.is_ipv4() { 32 } else { 128 })
        }
    };
    (bits <= if base.is_ipv4() { 32 } else { 128 }).then_some((base, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_barred_by_list_and_by_country() {
        let mut a = Account::default();
        assert_eq!(a.permits("any", ""), Ok(()));
        a.residency = "KE".into();
        assert_eq!(a.permits("saf", "KE"), Ok(()));
        assert_eq!(a.permits("world", "GB"), Err(Barred::Residency));
        assert_eq!(
            a.permits("world", ""),
            Err(Barred::Residency),
            "nobody has said where"
        );
        a.allow_upstreams = vec!["saf".into(), "airtel".into()];
        assert_eq!(a.permits("telkom", "KE"), Err(Barred::NotAuthorised));
        a.deny_upstreams = vec!["saf".into()];
        assert_eq!(a.permits("saf", "KE"), Err(Barred::Denied));
        assert_eq!(a.permits("airtel", "KE"), Ok(()));
    }

    #[test]
    fn networks_hold_their_addresses_and_fail_closed() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert!(contains("192.0.2.0/24", ip("192.0.2.9")));
        assert!(contains("192.0.2.7", ip("192.0.2.7")));
        assert!(contains("0.0.0.0/0", ip("8.8.8.8")));
        assert!(
            contains("192.0.2.0/24", ip("::ffff:192.0.2.9")),
            "IPv4 seen through an IPv6 socket"
        );
        assert!(contains("2001:db8::/32", ip("2001:db8::1")));
        assert!(!contains("192.0.2.0/24", ip("192.0.3.9")));
        for broken in ["", "192.0.2", "192.0.2.0/33", "192.0.2.0/x", "any"] {
            assert!(!contains(broken, ip("192.0.2.9")), "{broken}");
        }
    }
}
