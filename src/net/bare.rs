//! Sessions without sockets: everything that `customer` and `upstream` do, for octets that somebody else carries and a time
//! that somebody else tells. The seeded simulation (`tests/sim`) drives the gateway through them; the daemon has a task around
//! each, which only waits, reads and writes.
//!
//! What is not here is what needs a runtime: listening and connecting, TLS, pauses between connections, and password checks
//! (whoever names an account is let in).

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::customer::Logic;
use super::upstream::{Link, LinkOptions, Served};
use super::{Shared, Statuses, Wake, accept, auth};
use crate::config;
use crate::flow::Gateway;
use crate::session::{BindKind, Cause, State};
use crate::wire::Connection;

/// Where customers' connections arrive.
pub struct Door(Arc<Shared>);

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    /// The door of a gateway, with the timers and windows of `customer`.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, customer: config::Customer, statuses: Statuses) -> Door {
        Door(Arc::new(Shared {
            gateway,
            customer,
            statuses,
            auth: auth::Auth::new(0),
            crowd: Arc::<accept::Crowd>::default(),
            unbound_per_ip_max: u32::MAX,
            stop: CancellationToken::new(),
        }))
    }
}

/// A customer's connection.
pub struct Customer {
    logic: Logic,
    wake: Wake,
    conn: Connection<()>,
}

impl std::fmt::Debug for Customer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Customer({:?})", self.logic.session.state())
    }
}

impl Customer {
    /// A connection accepted at `now`, ms since the epoch as everywhere here.
    #[must_use]
    pub fn accepted(door: &Door, peer: SocketAddr, now: u64) -> Customer {
        let wake = Wake::default();
        Customer {
            logic: Logic::new(Arc::clone(&door.0), peer, None, None, wake.clone(), now),
            wake,
            conn: Connection::new(()),
        }
    }

    /// Whether the engine has rung since this was last asked.
    #[must_use]
    pub fn rung(&self) -> bool {
        self.wake.rung()
    }

    /// Octets that have arrived; give none while [`Customer::may_read`] says no.
    pub fn read(&mut self, octets: &[u8], now: u64) {
        let logic = &mut self.logic;
        self.conn
            .feed(octets, now, |out, octets| logic.consume(out, octets, now));
        logic.hand_over();
    }

    /// Does what there is to do: after reading, when rung, and when [`Customer::deadline`] has come.
    pub fn turn(&mut self, now: u64) {
        let (logic, conn) = (&mut self.logic, &mut self.conn);
        if !logic.may_read(conn.pending(), now) {
            conn.hold(now);
        }
        logic.letters(&mut conn.out);
        if let Some(request) = logic.bind.take() {
            let accounts = logic.shared.gateway.accounts();
            let named = accounts.by_system_id(&request.system_id).cloned();
            let checked = match named.filter(|a| a.active()) {
                None => Err(auth::Refusal::UnknownSystemId),
                Some(account) if account.take_bind() => Ok(account),
                Some(_) => Err(auth::Refusal::TooManyBinds),
            };
            logic.checked(checked, &request, &mut conn.out, now);
            conn.feed(&[], now, |out, octets| logic.consume(out, octets, now));
            logic.hand_over();
        }
        logic.turn(conn, now);
    }

    /// When it wants to be looked at although nothing comes.
    #[must_use]
    pub fn deadline(&self, now: u64) -> Option<u64> {
        self.logic.deadline(self.conn.partial_since(), now)
    }

    /// Whether the peer is read at all: not while it leaves too much unread itself, nor while most of what it sends is refused.
    #[must_use]
    pub fn may_read(&self, now: u64) -> bool {
        self.logic.may_read(self.conn.pending(), now)
    }

    /// Octets that wait to be carried.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.conn.pending()
    }

    /// Takes octets to the peer.
    pub fn carry(&mut self, max: usize) -> Vec<u8> {
        self.conn.carry(max)
    }

    /// Why it is over, if it is: what is pending may still be carried, then comes [`Customer::end`].
    #[must_use]
    pub fn over(&self) -> Option<Cause> {
        match self.logic.session.state() {
            State::Closed(cause) => Some(cause),
            _ => None,
        }
    }

    /// The connection is gone.
    pub fn end(mut self) {
        let cause = self.logic.session.close(Cause::PeerClosed);
        self.logic.end(cause);
    }
}

/// One session of an upstream, over all its connections.
pub struct Bind(Link);

impl std::fmt::Debug for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bind")
    }
}

impl Bind {
    /// Session `index` of its upstream, not connected.
    #[must_use]
    pub fn new(gateway: &Arc<Gateway>, options: &Arc<LinkOptions>, kind: BindKind, index: u16) -> Bind {
        Bind(Link::new(
            gateway,
            options,
            kind,
            index,
            &CancellationToken::new(),
        ))
    }

    /// Whether the lane or the engine has rung since this was last asked.
    #[must_use]
    pub fn rung(&self) -> bool {
        self.0.wake.rung()
    }

    /// While it is not connected: letters are answered as the daemon does between two connections.
    pub fn idle(&self) {
        self.0.letters_without_link();
    }

    /// A connection made at `now`; `generation` rises with each of them. The bind PDU is ready to be carried.
    #[must_use]
    pub fn connected(&self, generation: u32, now: u64) -> Upstream<'_> {
        let mut served = self.0.served(self.0.reconnects(), generation, now);
        let mut conn = Connection::new(());
        served.bind(&mut conn.out, now);
        Upstream { served, conn }
    }
}

/// A connection to an upstream.
pub struct Upstream<'a> {
    served: Served<'a>,
    conn: Connection<()>,
}

impl std::fmt::Debug for Upstream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({:?})", self.served.session.state())
    }
}

impl Upstream<'_> {
    /// Octets that have arrived; give none while [`Upstream::may_read`] says no.
    pub fn read(&mut self, octets: &[u8], now: u64) {
        let served = &mut self.served;
        self.conn
            .feed(octets, now, |out, octets| served.consume(out, octets, now));
    }

    /// Does what there is to do: after reading, when rung, and when [`Upstream::deadline`] has come.
    pub fn turn(&mut self, now: u64) {
        self.served.turn_of(&mut self.conn, now);
    }

    /// When it wants to be looked at although nothing comes.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.served.deadline()
    }

    /// Whether the peer is read at all.
    #[must_use]
    pub fn may_read(&self) -> bool {
        self.served.may_read()
    }

    /// Octets that wait to be carried.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.conn.pending()
    }

    /// Takes octets to the peer.
    pub fn carry(&mut self, max: usize) -> Vec<u8> {
        self.conn.carry(max)
    }

    /// Why it is over, if it is: what is pending may still be carried, then comes [`Upstream::end`].
    #[must_use]
    pub fn over(&self) -> Option<Cause> {
        match self.served.session.state() {
            State::Closed(cause) => Some(cause),
            _ => None,
        }
    }

    /// The connection is gone: what is unanswered follows the upstream's policy.
    pub fn end(mut self) {
        self.served.session.close(Cause::PeerClosed);
        self.served.end(&self.conn);
    }
}
