//! The socket: accepting, framing, identity, deadlines.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::access::{Access, allowed};
use super::rpc::{self, METHODS};
use super::{Context, Fault};

/// A request is at most this long.
const FRAME_MAX: u64 = 1024 * 1024;
/// A connection without a request for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// A peer that does not read its answer for this long is closed.
const WRITE: Duration = Duration::from_secs(10);
/// Connections at a time.
const CONNECTIONS: usize = 64;

/// Why the socket was not opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Its folder does not exist.
    #[error("the folder of [admin] socket {0} does not exist; create it, or set another path")]
    NoFolder(PathBuf),
    /// Others could replace the socket.
    #[error("the folder of [admin] socket {0} is writable by everybody; chmod o-w it, or set another path")]
    UnsafeFolder(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is not a socket; it was left untouched")]
    NotASocket(PathBuf),
    /// A daemon answers there.
    #[error("{0} is in use by another daemon")]
    InUse(PathBuf),
    /// The system said no.
    #[error("cannot open {0}: {1}")]
    Io(PathBuf, std::io::Error),
}

/// The listening socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Opens the socket at `path` with `mode`. A stale socket is removed; anything else is left alone.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn open(path: &Path, mode: u32) -> Result<Server, AdminError> {
        let io = |e| AdminError::Io(path.into(), e);
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let meta = std::fs::metadata(folder).map_err(|_| AdminError::NoFolder(path.into()))?;
        // The sticky bit (as on /tmp) keeps others from replacing what is ours.
        if meta.mode() & 0o002 != 0 && meta.mode() & 0o1000 == 0 {
            return Err(AdminError::UnsafeFolder(path.into()));
        }
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(AdminError::NotASocket(path.into()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(AdminError::InUse(path.into()));
            }
            std::fs::remove_file(path).map_err(io)?;
        }
        let listener = UnixListener::bind(path).map_err(io)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io)?;
        Ok(Server {
            listener,
            path: path.into(),
        })
    }

    /// Serves until stopped, then removes the socket.
    pub async fn run(self, context: Context, access: Access, stop: CancellationToken) {
        let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        let access = Arc::new(access);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                continue;
            };
            let (context, access, stop) = (context.clone(), Arc::clone(&access), stop.clone());
            tokio::spawn(async move {
                let _held = permit;
                tokio::select! {
                    _ended = connection(stream, &context, &access) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        let _gone = std::fs::remove_file(&self.path);
    }
}

async fn connection(stream: UnixStream, context: &Context, access: &Access) -> std::io::Result<()> {
    let peer = stream.peer_cred()?;
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n =
            tokio::time::timeout(IDLE, (&mut reader).take(FRAME_MAX).read_until(b'\n', &mut line)).await??;
        if n == 0 {
            return Ok(());
        }
        let too_long = line.last() != Some(&b'\n') && n as u64 >= FRAME_MAX;
        let answer = if too_long {
            Some(error(
                Value::Null,
                &Fault::new("E_TOO_LARGE", "a request is at most 1 MiB"),
            ))
        } else {
            handle(&line, peer.uid(), peer.gid(), context, access).await
        };
        if let Some(answer) = answer {
            let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
            bytes.push(b'\n');
            tokio::time::timeout(WRITE, write.write_all(&bytes)).await??;
        }
        if too_long {
            return Ok(());
        }
    }
}

fn error(id: Value, fault: &Fault) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": fault.to_json() })
}

/// One line: a request, a notification (no answer), or a batch of them (JSON-RPC 2.0 §6).
async fn handle(line: &[u8], uid: u32, gid: u32, context: &Context, access: &Access) -> Option<Value> {
    if line.trim_ascii().is_empty() {
        return None;
    }
    match serde_json::from_slice::<Value>(line) {
        Err(e) => Some(error(
            Value::Null,
            &Fault::new("E_PARSE", format!("not JSON: {e}")),
        )),
        Ok(Value::Array(requests)) if !requests.is_empty() => {
            let mut answers = Vec::new();
            for request in requests {
                answers.extend(one(request, uid, gid, context, access).await);
            }
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
        Ok(request) => one(request, uid, gid, context, access).await,
    }
}

async fn one(mut request: Value, uid: u32, gid: u32, context: &Context, access: &Access) -> Option<Value> {
    let id = request.get("id").cloned();
    let version = request.get("jsonrpc").and_then(Value::as_str) == Some("2.0");
    let method = request.get("method").and_then(Value::as_str).map(str::to_string);
    let result = match method {
        Some(method) if version => {
            let params = request.get_mut("params").map_or(Value::Null, Value::take);
            let result = authorised(&method, params, uid, gid, context, access).await;
            let outcome = result.as_ref().map_or_else(Fault::code, |_| "ok");
            let known = METHODS
                .iter()
                .find(|m| m.name == method)
                .map_or("unknown", |m| m.name);
            crate::metrics::admin_request(known, outcome);
            result
        }
        _ => Err(Fault::new(
            "E_VERSION",
            "a request is {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"noun.verb\",\"params\":{}}",
        )),
    };
    match (id, result) {
        (None, Ok(_)) => None,
        (id, Err(fault)) => Some(error(id.unwrap_or(Value::Null), &fault)),
        (Some(id), Ok(result)) => Some(json!({ "jsonrpc": "2.0", "id": id, "result": result })),
    }
}

/// Looks the caller up on every request, so that a changed table applies at once.
async fn authorised(
    method: &str,
    params: Value,
    uid: u32,
    gid: u32,
    context: &Context,
    access: &Access,
) -> Result<Value, Fault> {
    let Some(roles) = access.roles(uid, gid) else {
        tracing::warn!(uid, method = %method.escape_debug(), "admin request denied: no principal");
        return Err(Fault::new(
            "E_DENIED",
            "your user is no [[admin.principal]] of this daemon",
        ));
    };
    let Some(found) = METHODS.iter().find(|m| m.name == method) else {
        return Err(Fault::new("E_UNKNOWN_CMD", format!("no such method: {method}")));
    };
    if !allowed(&roles, found.roles) {
        tracing::warn!(uid, method = found.name, "admin request denied: role");
        return Err(Fault::new(
            "E_DENIED",
            format!("{method} needs one of the roles {}", found.roles.join(", ")),
        ));
    }
    let result = rpc::dispatch(context, method, params).await;
    tracing::info!(uid, method = %method.escape_debug(), outcome = result.as_ref().map_or_else(Fault::code, |_| "ok"), "admin request");
    result
}
