//! Putting the parts together: from a config to a running gateway, and back in good order.

mod build;
pub mod demo;
mod routing;
mod rules;
mod signals;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admin::{Access, Context, Server};
use crate::clock;
use crate::config::{Config, Durability, LogFormat};
use crate::flow::{Engine, EngineOptions, Found, Gateway};
use crate::metrics::{RECEIPT_SECONDS, ROWS, SECONDS};
use crate::net::Net;
use crate::store::StoreError;
use crate::store::sqlite::{Options, SqliteStore};
/// What can be done with a store from outside, whether a daemon has it or not.
pub use crate::store::sqlite::{Report, backup, verify};

/// A gateway that runs within this process.
pub struct Running {
    /// The shared handle.
    pub gateway: Arc<Gateway>,
    /// Where customers can connect (port 0 resolved).
    pub customer: Vec<SocketAddr>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Notified by `server.drain`.
    pub shutdown: Arc<Notify>,
    net: Net,
    engine: std::thread::JoinHandle<bool>,
    admin_stop: CancellationToken,
    drain_timeout: Duration,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({:?})", self.customer)
    }
}

/// Why a gateway did not start; the text is complete, with what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

fn failed(e: impl std::fmt::Display) -> StartError {
    StartError(e.to_string())
}

/// Starts a gateway. Must be called within a tokio runtime.
///
/// # Errors
/// The store, a listener or the admin socket cannot be opened.
pub fn start(config: &Config) -> Result<Running, StartError> {
    start_with(config, false)
}

/// As [`start`]; with `accept_older`, on a store that is older than its last start too.
///
/// # Errors
/// As [`start`].
pub fn start_with(config: &Config, accept_older: bool) -> Result<Running, StartError> {
    let recorder = recorder();
    let store = SqliteStore::open(Options {
        path: config.store.path.clone(),
        full: config.store.durability == Durability::Full,
        segment_messages: config.store.segment_messages,
        keep_days: config.store.keep_days,
        accept_older,
    })
    .map_err(failed)?;
    let known = store.known().map_err(failed)?;
    let built = build::gateway(config, &known, crate::flow::metrics()).map_err(StartError)?;
    let gateway = Arc::new(built.gateway);
    if let Some(key) = rules::number_key(config).map_err(StartError)? {
        gateway.live.set_key(key);
    }
    let options = EngineOptions {
        now_ms: clock::now_ms,
        mono_us: clock::mono_us,
        eager: false,
    };
    let started = clock::mono_us();
    let engine = Engine::start(Arc::clone(&gateway), store, options)
        .map_err(|e| failed(format!("{}: {e}", config.store.path.display())))?;
    tracing::info!(
        open = engine.open(),
        accounts = gateway.accounts().iter().count(),
        ms = (clock::mono_us() - started) / 1_000,
        "store read"
    );
    if engine.unclean() {
        check_in_background(&config.store.path);
    }
    let thread = spawn_engine(engine).map_err(failed)?;
    spawn_lookups(&gateway, &config.store.path).map_err(failed)?;
    let net = Net::start(
        Arc::clone(&gateway),
        config,
        built.statuses,
        built.links,
        recorder,
    )
    .map_err(failed)?;
    let shutdown = Arc::new(Notify::new());
    let admin_stop = CancellationToken::new();
    let server = Server::open(&config.admin.socket, config.admin.mode).map_err(failed)?;
    let context = Context {
        gateway: Arc::clone(&gateway),
        store: config.store.path.clone(),
        shutdown: Arc::clone(&shutdown),
        started_ms: clock::now_ms(),
        now_ms: clock::now_ms,
    };
    tokio::spawn(server.run(
        context,
        Access::new(build::principals(config)),
        admin_stop.clone(),
    ));
    Ok(Running {
        customer: net.customer.clone(),
        metrics: net.metrics,
        gateway,
        shutdown,
        net,
        engine: thread,
        admin_stop,
        drain_timeout: Duration::from_millis(config.server.drain_timeout_ms),
    })
}

/// The engine owns the store on a thread of its own: its commits block. It answers whether it ended with everything on
/// record.
fn spawn_engine(mut engine: Engine<SqliteStore>) -> std::io::Result<std::thread::JoinHandle<bool>> {
    std::thread::Builder::new()
        .name("engine".into())
        // The engine is alive in every arm: a failed store must not be closed before the process is gone.
        .spawn(move || match engine.run() {
            Ok(()) => true,
            Err(error @ (StoreError::Full(_) | StoreError::Retry(_))) => {
                tracing::error!(%error, "stopped while the store took no writes; nothing acknowledged is lost");
                false
            }
            Err(error) => fatal(&error),
        })
}

/// Answers questions about what is over, on a thread with a read-only connection of its own. It ends with the gateway.
fn spawn_lookups(gateway: &Gateway, path: &Path) -> std::io::Result<()> {
    use crate::store::sqlite::Reader;
    let Some(jobs) = gateway.lookups.open() else {
        return Ok(());
    };
    let path = path.to_path_buf();
    std::thread::Builder::new()
        .name("lookups".into())
        .spawn(move || {
            let mut reader: Option<Reader> = None;
            for job in jobs {
                if reader.is_none() {
                    reader = Reader::open(&path).ok();
                }
                let Some(open) = &reader else {
                    job.answer(None, true);
                    continue;
                };
                job.work(|key| {
                    open.message(key).map(|found| {
                        found.map(|m| Found {
                            account: m.account,
                            source: m.stub.parts().source.to_vec(),
                            sibling: m.stub.parts().sibling,
                            provisional: m.provisional,
                            end: m.end,
                        })
                    })
                });
            }
        })
        .map(|_| ())
}

/// The store cannot be trusted or is no longer ours. Aborts without closing it: closing would move the log into the main
/// file. Whatever was acknowledged is on disk and is read back at the next start.
fn fatal(error: &StoreError) -> ! {
    tracing::error!(%error, "the store has failed; stopping at once, nothing acknowledged is lost");
    eprintln!("smsconnect: {error}; stopping at once, nothing acknowledged is lost");
    std::process::abort();
}

/// After an unclean start the whole file is checked while traffic runs; damage is reported, loudly.
fn check_in_background(path: &Path) {
    let path = path.to_path_buf();
    tracing::warn!(
        "the last stop was not clean; everything acknowledged was read back, the whole store is being checked"
    );
    let checked = std::thread::Builder::new().name("check".into()).spawn(move || {
        match crate::store::sqlite::Reader::open(&path).and_then(|r| r.integrity()) {
            Ok(None) => tracing::info!("the store is whole"),
            Ok(Some(what)) => tracing::error!(%what, "the store is damaged; restore a backup"),
            Err(error) => tracing::error!(%error, "the store could not be checked"),
        }
    });
    if let Err(error) = checked {
        tracing::error!(%error, "the store could not be checked");
    }
}

impl Running {
    /// Ends in good order: no new work, answers for what is committed, unbinds on both sides, everything on record.
    /// `false` if the store took no writes at the end.
    pub async fn stop(self) -> bool {
        self.gateway.drain();
        let ended = tokio::time::timeout(self.drain_timeout, async {
            self.net.stop_customers().await;
            self.net.stop_links().await;
        })
        .await;
        if ended.is_err() {
            tracing::warn!("not every session ended within drain_timeout_ms; what is open is on record");
        }
        self.admin_stop.cancel();
        self.gateway.end();
        let engine = self.engine;
        let joined = tokio::task::spawn_blocking(move || engine.join());
        match tokio::time::timeout(ENGINE_END, joined).await {
            Ok(joined) => matches!(joined, Ok(Ok(true))),
            Err(_) => {
                tracing::error!("the store did not come to its end in time; nothing acknowledged is lost");
                false
            }
        }
    }
}

/// The process-wide metrics recorder; a second gateway in one process shares it.
fn recorder() -> Arc<dyn Fn() -> String + Send + Sync> {
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
    static HANDLE: std::sync::OnceLock<Option<PrometheusHandle>> = std::sync::OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|b| b.set_buckets_for_metric(Matcher::Full("smsconnect_commit_rows".into()), &ROWS))
            .and_then(|b| {
                b.set_buckets_for_metric(
                    Matcher::Full("smsconnect_receipt_seconds".into()),
                    &RECEIPT_SECONDS,
                )
            });
        let handle = builder.ok()?.install_recorder().ok()?;
        // Histograms keep every sample until they are folded into their buckets.
        let upkeep = handle.clone();
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                    upkeep.run_upkeep();
                }
            })
            .ok()?;
        Some(handle)
    });
    Arc::new(move || handle.as_ref().map_or_else(String::new, PrometheusHandle::render))
}

/// A runtime sized by the config.
///
/// # Errors
/// The system gives no threads.
pub fn runtime(worker_threads: u32) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_name("net");
    if worker_threads > 0 {
        builder.worker_threads(worker_threads as usize);
    }
    builder.build()
}

/// Logs to stderr as `[log]` says.
pub fn init_log(config: &Config) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&config.log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second gateway in one process keeps the first one's log.
    let _set = match config.log.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

/// How long the engine may take for its last commit.
const ENGINE_END: Duration = Duration::from_secs(10);
/// An engine without a sign of life for this long is stuck: the watchdog is not told otherwise.
const STUCK_MS: u64 = 30_000;

/// `smsconnect serve`: runs until a signal or `server.drain`, exit code 0 after a clean end.
#[must_use]
pub fn serve(config: &Config, path: &Path, accept_older: bool) -> ExitCode {
    init_log(config);
    let runtime = match runtime(config.server.worker_threads) {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("smsconnect: cannot start threads: {e}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        let mut signals = signals::Signals::new();
        // Reading a large store back takes a while, in which a signal must work: nothing has begun that needs an end.
        let config = config.clone();
        let socket = config.admin.socket.clone();
        let starting = tokio::task::spawn_blocking(move || start_with(&config, accept_older));
        let started = tokio::select! {
            started = starting => started.map_err(failed).and_then(|r| r),
            () = signals.first() => {
                eprintln!("smsconnect: stopped while starting; nothing was changed");
                std::process::exit(0);
            }
        };
        let running = match started {
            Ok(running) => running,
            Err(e) => {
                eprintln!("smsconnect: {e}");
                return ExitCode::FAILURE;
            }
        };
        for address in &running.customer {
            tracing::info!(%address, "customers can bind");
        }
        tracing::info!(config = %path.display(), admin = %socket.display(), "ready");
        signals::notify_ready();
        let gateway = Arc::clone(&running.gateway);
        signals
            .wait(&running.shutdown, || gateway.alive(clock::now_ms(), STUCK_MS))
            .await;
        signals::notify_stopping();
        tracing::info!("stopping; a second signal ends at once");
        let second = tokio::spawn(signals.exit_on_next());
        let clean = running.stop().await;
        second.abort();
        tracing::info!("stopped");
        if clean {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}
