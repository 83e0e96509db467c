//! Listening and accepting. An accept loop never ends by itself: running out of descriptors means waiting, not dying.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::{Shared, customer};

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

/// Accepts customers until stopped.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    // Accept loops share one bound on open connections.
    let open = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let max = shared.customer.connections_max as usize;
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                use std::sync::atomic::Ordering;
                if open.fetch_add(1, Ordering::AcqRel) >= max {
                    open.fetch_sub(1, Ordering::AcqRel);
                    shared.gateway.metrics.bind_failures.increment(1);
                    continue;
                }
                let (shared, open) = (Arc::clone(&shared), Arc::clone(&open));
                tasks.spawn(async move {
                    customer::serve(stream, peer, shared).await;
                    open.fetch_sub(1, Ordering::AcqRel);
                });
            }
            Err(error) => {
                // EMFILE, ENFILE, ENOBUFS, or a connection that was reset before it was accepted.
                tracing::warn!(%error, "cannot accept a connection for the moment");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
