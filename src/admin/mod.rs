//! The control plane: JSON-RPC 2.0 over a Unix socket, one object a line. Who may do what is decided by the peer's user on every
//! request; changes go through the engine, reads through a read-only connection, and neither touches traffic.

mod access;
mod account;
mod event;
mod link;
mod message;
mod params;
mod payment;
mod price;
mod reads;
mod reconcile;
mod review;
mod rpc;
mod sender;
mod server;
mod suppression;
mod wallet;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::flow::{Control, ControlError, ControlReply, Gateway};
pub use access::{Access, Principal};
pub use rpc::{Fault, METHODS, Method};
pub use server::{AdminError, Server};

/// What every method works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The running gateway.
    pub gateway: Arc<Gateway>,
    /// The store, for reads.
    pub store: PathBuf,
    /// Asked for by `server.drain`.
    pub shutdown: Arc<Notify>,
    /// Process start, ms since the epoch.
    pub started_ms: u64,
    /// Reads the time.
    pub now_ms: fn() -> u64,
}

/// How long a change may wait for its commit.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

impl Context {
    /// Sends a change through the engine and waits until it is on record.
    async fn control(&self, op: Control) -> Result<ControlReply, Fault> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.gateway.control(op, move |result| {
            // Nobody waits any more if the caller gave up; the change is on record all the same.
            let _unheard = tx.send(result);
        });
        match tokio::time::timeout(CONTROL_TIMEOUT, rx).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(error))) => Err(fault_of(error)),
            Ok(Err(_)) | Err(_) => Err(Fault::unavailable(
                "the store does not answer; ask again with the same keys",
            )),
        }
    }
}

fn fault_of(error: ControlError) -> Fault {
    match error {
        ControlError::NotFound => Fault::not_found("account"),
        ControlError::Taken(field) => {
            Fault::new("E_EXISTS", format!("this {field} is taken; choose another")).field(field)
        }
        ControlError::IdempotencyConflict => Fault::new(
            "E_IDEMPOTENCY_CONFLICT",
            "this provider and receipt are on record with another amount or account",
        )
        .field("receipt"),
        ControlError::Unavailable => Fault::unavailable("the store takes no writes at the moment"),
        ControlError::Invalid(field, what) => Fault::validation(field, what),
        ControlError::State(what) => Fault::new("E_STATE", what),
        ControlError::NoSuch(what) => Fault::not_found(what),
        ControlError::Funds(there) => {
            Fault::new("E_FUNDS", format!("only {there} is there for this")).field("amount")
        }
    }
}

/// A time as RFC 3339 in UTC.
fn time(ms: u64) -> Value {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or(Value::Null, |t| json!(t.to_string()))
}
