//! outbind (SMPP 3.4 §2.2.1, §4.1.7): where something waits for a customer that is not bound and has named an address, we knock
//! there; it then binds over that connection as over any other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::{Shared, customer};
use crate::clock;
use crate::ids::AccountId;
use crate::smpp::{self, CommandId, CommandStatus, Outbind};
use crate::wire::Connection;

/// How often it is looked whether somebody has to be called.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// First pause after a call that brought no bind; it doubles.
const FIRST_MS: u64 = 2_000;
/// Longest pause.
const LONGEST_MS: u64 = 300_000;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Calls customers until stopped.
pub(super) async fn run(shared: Arc<Shared>, tasks: TaskTracker) {
    // When each may be called again, and the pause after that.
    let mut calls: HashMap<AccountId, (u64, u64)> = HashMap::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = clock::now_ms();
        let accounts = shared.gateway.accounts();
        for account in accounts.iter() {
            let spec = account.spec();
            // We call in plain text: never who is to be known by a certificate, nor where plain text is not listened for.
            let plain = spec.certificates.is_empty() && !shared.customer.listen.is_empty();
            if spec.outbind.is_empty() || !account.active() || !plain {
                continue;
            }
            if account.outbox.receivers() > 0 {
                calls.remove(&account.id);
                continue;
            }
            let (next, pause) = calls.get(&account.id).copied().unwrap_or((0, FIRST_MS));
            if account.outbox.is_empty() || now < next {
                continue;
            }
            calls.insert(account.id, (now + pause, (pause * 2).min(LONGEST_MS)));
            let (shared, address, password) = (
                Arc::clone(&shared),
                spec.outbind.clone(),
                spec.outbind_password.clone(),
            );
            let id = account.id.0;
            tasks.spawn(async move {
                match tokio::time::timeout(CONNECT, call(&shared, &address, &password)).await {
                    Ok(Ok((stream, hello))) => match stream.peer_addr() {
                        Ok(peer) => {
                            let called = customer::Called {
                                account: AccountId(id),
                                hello,
                            };
                            customer::serve(Connection::new(stream), peer, shared, None, Some(called)).await;
                        }
                        Err(error) => tracing::warn!(account = id, %error, "outbind failed"),
                    },
                    Ok(Err(error)) => tracing::warn!(account = id, %error, "outbind failed"),
                    Err(_) => tracing::warn!(account = id, "outbind failed: no answer"),
                }
            });
        }
    }
}

async fn call(shared: &Shared, address: &str, password: &str) -> std::io::Result<(TcpStream, Vec<u8>)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut out = Vec::new();
    let start = smpp::begin(&mut out, CommandId::OUTBIND, CommandStatus::ESME_ROK, 1);
    Outbind {
        system_id: shared.customer.system_id.as_bytes(),
        password: password.as_bytes(),
    }
    .encode_body(&mut out);
    smpp::finish(&mut out, start);
    Ok((stream, out))
}
