//! Listening and accepting. An accept loop never ends by itself: running out of descriptors means waiting, not dying.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::tls::Acceptor;
use super::{Shared, customer};
use crate::wire::Connection;

/// Connections the kernel may queue: a reconnect storm of thousands must not be refused.
const BACKLOG: i32 = 8192;

/// Opens a listening socket.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))
}

/// Connections of one listener or more, and those of each address that have not bound.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    open: AtomicUsize,
    unbound: Mutex<HashMap<IpAddr, u32>>,
}

impl Crowd {
    fn unbound(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.unbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in unless there are `max` already, or `unbound_max` of its address that have not bound.
    fn enter(self: &Arc<Self>, ip: IpAddr, max: usize, unbound_max: u32) -> Option<Place> {
        if self.open.fetch_add(1, Ordering::AcqRel) >= max {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        let mut unbound = self.unbound();
        let n = unbound.entry(ip).or_insert(0);
        if *n >= unbound_max {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        *n += 1;
        Some(Place {
            crowd: Arc::clone(self),
            ip: Some(ip),
        })
    }
}

/// A connection's place; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    /// While it has not bound.
    ip: Option<IpAddr>,
}

impl Place {
    /// It has bound: it counts among those of its address no longer.
    pub fn bound(&mut self) {
        let Some(ip) = self.ip.take() else { return };
        let mut unbound = self.crowd.unbound();
        if let Some(n) = unbound.get_mut(&ip) {
            *n -= 1;
            if *n == 0 {
                unbound.remove(&ip);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bound();
        self.crowd.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Accepts customers until stopped.
pub(super) async fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    tls: Option<Arc<Acceptor>>,
) {
    let max = shared.customer.connections_max as usize;
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = shared
                    .crowd
                    .enter(super::host(peer.ip()), max, shared.unbound_per_ip_max);
                let (Some(place), Some(connection)) = (place, connection(stream, tls.as_deref())) else {
                    shared.gateway.metrics.bind_failures.increment(1);
                    continue;
                };
                let shared = Arc::clone(&shared);
                tasks.spawn(customer::serve(connection, peer, shared, Some(place), None));
            }
            Err(error) => {
                // EMFILE, ENFILE, ENOBUFS, or a connection that was reset before it was accepted.
                tracing::warn!(%error, "cannot accept a connection for the moment");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn connection(stream: TcpStream, tls: Option<&Acceptor>) -> Option<Connection> {
    let _set = stream.set_nodelay(true);
    match tls {
        None => Some(Connection::new(stream)),
        Some(acceptor) => acceptor.accept().map(|tls| Connection::with_tls(stream, tls)),
    }
}
