//! Who may bind. Password checks are slow on purpose (argon2id), so they run one at a time off the runtime's threads, each
//! address in its turn, and a secret that has been verified is remembered under a keyed hash: a reconnect storm costs
//! microseconds. Whoever keeps failing waits longer for each answer, whether the system_id exists or not.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordVerifier};
use blake2::digest::{KeyInit, Mac};

use super::tls;
use super::turnstile::{Failures, Turnstile};
use crate::clock;
use crate::domain::account::BindAllowed;
use crate::flow::{AccountState, Gateway};
use crate::ids::AccountId;
use crate::session::BindKind;

type Keyed = blake2::Blake2sMac256;

/// Verified secrets that are remembered.
const REMEMBERED_MAX: usize = 100_000;
/// Longest pause for an address that keeps failing.
const IP_PAUSE_MS: u64 = 10_000;
/// Longest pause for a system_id that keeps failing, from wherever: short, since its owner would wait too where its secret
/// has not been verified yet.
const SYSTEM_ID_PAUSE_MS: u64 = 2_000;
/// A hash of nothing in particular, so that an unknown system_id takes as long as a wrong password.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c21zY29ubmVjdC1ub2JvZHk$sF0Aq0vE4nFHNB0jV5gk3d1m0p1cVYJb1Wv7PLnU9fY";

/// Why a bind is refused. The customer sees one answer for all; the reason is for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    UnknownSystemId,
    WrongPassword,
    Inactive,
    Address,
    Certificate,
    NotCalled,
    BindKind,
    TooManyBinds,
    Busy,
}

impl Refusal {
    pub fn name(self) -> &'static str {
        match self {
            Refusal::UnknownSystemId => "unknown system_id",
            Refusal::WrongPassword => "wrong password",
            Refusal::Inactive => "account is not active",
            Refusal::Address => "address is not in the account's allow-list",
            Refusal::Certificate => "no certificate that the account allows",
            Refusal::NotCalled => "another account was called by outbind",
            Refusal::BindKind => "kind of bind is not allowed for the account",
            Refusal::TooManyBinds => "too many binds",
            Refusal::Busy => "too many password checks are waiting",
        }
    }
}

/// What a client says of itself.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub system_id: &'a [u8],
    pub password: &'a [u8],
    pub kind: BindKind,
    pub peer: IpAddr,
    /// Fingerprint of its certificate, over TLS.
    pub certificate: Option<&'a str>,
    /// Over a connection that we have opened: only the account that was called.
    pub only: Option<AccountId>,
}

/// See the module's description.
pub(super) struct Auth {
    turnstile: Arc<Turnstile>,
    waiting_max: usize,
    by_ip: Failures<IpAddr>,
    by_system_id: Failures<Box<[u8]>>,
    key: [u8; 32],
    remembered: Mutex<HashSet<[u8; 32]>>,
}

impl Auth {
    pub fn new(waiting_max: usize) -> Auth {
        let mut key = [0; 32];
        if getrandom::fill(&mut key).is_err() {
            // Without randomness nothing is remembered under a guessable key: each check is then done in full.
            tracing::error!("the system gives no randomness; verified secrets are not remembered");
        }
        Auth {
            turnstile: Arc::default(),
            waiting_max,
            by_ip: Failures::new(IP_PAUSE_MS),
            by_system_id: Failures::new(SYSTEM_ID_PAUSE_MS),
            key,
            remembered: Mutex::default(),
        }
    }

    /// Checks a bind and takes one of the account's bind slots.
    pub async fn bind(&self, gateway: &Gateway, claim: &Claim<'_>) -> Result<Arc<AccountState>, Refusal> {
        let Claim {
            system_id,
            password,
            kind,
            peer,
            certificate,
            only,
        } = *claim;
        let account = gateway.accounts().by_system_id(system_id).cloned();
        let hash = account
            .as_ref()
            .map_or_else(|| NOBODY.to_string(), |a| a.spec().password_hash.clone());
        let good = self.verify(hash, system_id, password, peer).await?;
        if !good || account.is_none() {
            let now = clock::now_ms();
            self.by_ip.failed(super::host(peer), now);
            self.by_system_id.failed(system_id.into(), now);
        }
        let account = account.ok_or(Refusal::UnknownSystemId)?;
        if !good {
            return Err(Refusal::WrongPassword);
        }
        let spec = account.spec();
        if only.is_some_and(|id| id != account.id) {
            return Err(Refusal::NotCalled);
        }
        if !account.active() {
            return Err(Refusal::Inactive);
        }
        if !spec.admits(peer) {
            return Err(Refusal::Address);
        }
        let shown = certificate.unwrap_or_default();
        if !spec.certificates.is_empty() && !spec.certificates.iter().any(|c| tls::normal(c) == shown) {
            return Err(Refusal::Certificate);
        }
        let allowed = match spec.bind {
            BindAllowed::All => true,
            BindAllowed::Transmitter => kind == BindKind::Transmitter,
            BindAllowed::Receiver => kind == BindKind::Receiver,
            BindAllowed::Transceiver => kind == BindKind::Transceiver,
        };
        if !allowed {
            return Err(Refusal::BindKind);
        }
        if account.take_bind() {
            Ok(account)
        } else {
            Err(Refusal::TooManyBinds)
        }
    }

    async fn verify(
        &self,
        hash: String,
        system_id: &[u8],
        password: &[u8],
        peer: IpAddr,
    ) -> Result<bool, Refusal> {
        let tag = self.tag(&hash, password);
        if self.knows(tag.as_ref()) {
            return Ok(true);
        }
        let now = clock::now_ms();
        let pause = self
            .by_ip
            .pause_ms(&super::host(peer), now)
            .max(self.by_system_id.pause_ms(&Box::from(system_id), now));
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let turn = self
            .turnstile
            .enter(super::host(peer), self.waiting_max)
            .await
            .map_err(|_| Refusal::Busy)?;
        // Another bind of the same account may have been checked while this one waited.
        if self.knows(tag.as_ref()) {
            return Ok(true);
        }
        let password = password.to_vec();
        let good = tokio::task::spawn_blocking(move || {
            let _held = turn;
            PasswordHash::new(&hash).is_ok_and(|h| Argon2::default().verify_password(&password, &h).is_ok())
        })
        .await
        .unwrap_or(false);
        if let Some(tag) = tag.filter(|_| good) {
            let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(tag);
        }
        Ok(good)
    }

    fn knows(&self, tag: Option<&[u8; 32]>) -> bool {
        tag.is_some_and(|t| {
            self.remembered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(t)
        })
    }

    /// Keyed over the stored hash too, so that a changed password forgets the old one.
    fn tag(&self, hash: &str, password: &[u8]) -> Option<[u8; 32]> {
        if self.key == [0; 32] {
            return None;
        }
        let mut mac = Keyed::new_from_slice(&self.key).ok()?;
        mac.update(&(hash.len() as u64).to_le_bytes());
        mac.update(hash.as_bytes());
        mac.update(password);
        Some(mac.finalize().into_bytes().into())
    }
}
