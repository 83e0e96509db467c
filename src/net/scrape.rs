//! GET /metrics, /healthz and /readyz: three answers do not need an HTTP framework.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::flow::Gateway;
use crate::metrics;
use crate::money::Money;

/// Renders the metrics text.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// A request head is at most this long and must come within [`DEADLINE`].
const HEAD_MAX: usize = 8 * 1024;
const DEADLINE: Duration = Duration::from_secs(5);
/// An engine without a sign of life for this long is stuck.
const STUCK_MS: u64 = 30_000;
/// Scrapes at a time.
const SCRAPES: usize = 16;

pub(super) async fn run(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    render: Render,
    stop: CancellationToken,
) {
    let permits = Arc::new(tokio::sync::Semaphore::new(SCRAPES));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let (gateway, render) = (Arc::clone(&gateway), Arc::clone(&render));
        tokio::spawn(async move {
            let _held = permit;
            let _done = tokio::time::timeout(DEADLINE, answer(stream, &gateway, &render)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, gateway: &Gateway, render: &Render) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let mut chunk = [0u8; 1024];
        let n = stream.read(&mut chunk).await?;
        head.extend_from_slice(chunk.get(..n).unwrap_or(&[]));
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let (status, kind, body) = match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => respond(
                request.method.unwrap_or(""),
                request.path.unwrap_or(""),
                gateway,
                render,
            ),
            Ok(httparse::Status::Partial) if n > 0 && head.len() < HEAD_MAX => continue,
            _ => ("400 Bad Request", TEXT, "bad request\n".to_string()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        return stream.shutdown().await;
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

fn respond(
    method: &str,
    path: &str,
    gateway: &Gateway,
    render: &Render,
) -> (&'static str, &'static str, String) {
    if method != "GET" && method != "HEAD" {
        return ("405 Method Not Allowed", TEXT, "only GET\n".into());
    }
    match path.split('?').next().unwrap_or("") {
        "/metrics" => {
            refresh(gateway);
            ("200 OK", PROMETHEUS, render())
        }
        "/healthz" if gateway.alive(clock::now_ms(), STUCK_MS) => ("200 OK", TEXT, "ok\n".into()),
        "/healthz" => (
            "503 Service Unavailable",
            TEXT,
            "the engine is stopped or stuck\n".into(),
        ),
        "/readyz" => match not_ready(gateway) {
            None => ("200 OK", TEXT, "ready\n".into()),
            Some(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        },
        _ => (
            "404 Not Found",
            TEXT,
            "try /metrics, /healthz or /readyz\n".into(),
        ),
    }
}

/// Why the gateway should not get traffic, if so: it drains, the store takes no writes, or no upstream is bound.
fn not_ready(gateway: &Gateway) -> Option<&'static str> {
    if gateway.draining() || gateway.stopped() {
        Some("draining")
    } else if !gateway.store_ok() {
        Some("the store takes no writes")
    } else if !gateway.upstreams().is_empty() && !gateway.upstreams().iter().any(|u| u.live()) {
        Some("no upstream is bound")
    } else {
        None
    }
}

fn refresh(gateway: &Gateway) {
    for u in gateway.upstreams().iter() {
        let bound = u
            .binds
            .iter()
            .filter(|b| b.state.load(Ordering::Relaxed) == 2)
            .count();
        let outstanding = u
            .binds
            .iter()
            .map(|b| b.outstanding.load(Ordering::Relaxed))
            .sum();
        let (waiting, stored) = u.depth();
        let name = &u.options.name;
        let age_ms = u.oldest_ms().map_or(0, |at| clock::now_ms().saturating_sub(at));
        metrics::upstream_gauges(name, bound, u.binds.len(), outstanding, waiting, stored, age_ms);
        let (matched, unmatched) = u.habits.counts();
        metrics::upstream_matching(
            name,
            matched.iter().sum(),
            unmatched,
            u.habits.rate().unwrap_or(1.0),
            u.habits.alarm(),
            u.binds.iter().map(|b| b.window.load(Ordering::Relaxed)).sum(),
        );
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        metrics::upstream_counters(
            name,
            load(&u.sent),
            load(&u.throttled),
            load(&u.refused),
            load(&u.receipts),
        );
    }
    let t = &gateway.totals;
    let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    let live = &gateway.live;
    metrics::rule_gauges(
        load(&live.held),
        load(&live.waiting),
        load(&live.unclaimed),
        live.suppressed(),
    );
    metrics::engine_gauges(
        load(&t.open),
        load(&t.parked),
        load(&t.sealing),
        load(&t.log_bytes),
        Money(
            gateway
                .accounts()
                .iter()
                .map(|a| a.with_wallet(|w| w.held().0))
                .fold(0, i64::saturating_add),
        ),
        gateway.store_ok(),
    );
}
