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

/// A customer account as stored.
#[derive(Clone, PartialEq, Eq)]
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
