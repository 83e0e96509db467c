//! A load generator: binds, submits at a rate or as fast as it is answered, takes the receipts, and checks that every
//! accepted message got exactly one.

mod connection;
mod report;
mod tally;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
pub(crate) use report::thousands;
pub use report::{LoadReport, Percentiles};
use tally::Tally;
pub use tls::Tls;

/// What to send, to whom, how fast.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Addresses to bind to, in turn.
    pub connect: Vec<SocketAddr>,
    /// What to bind with.
    pub system_id: String,
    /// Its password.
    pub password: String,
    /// Bind through TLS.
    pub tls: Option<Tls>,
    /// Binds (transceivers).
    pub binds: u32,
    /// Unanswered submits a bind.
    pub window: usize,
    /// Messages a second over all binds (open loop); `None`: as fast as they are answered.
    pub rate: Option<f64>,
    /// Messages in all; `None`: until `duration`.
    pub count: Option<u64>,
    /// How long to send.
    pub duration: Option<Duration>,
    /// Ask for receipts and check them.
    pub receipts: bool,
    /// How long to wait for receipts after the last response without one coming.
    pub receipt_wait: Duration,
    /// Source address.
    pub source: String,
    /// Destinations are this, completed to twelve digits with a count.
    pub destination_prefix: String,
    /// Text; `{n}` stands for the message's number.
    pub text: String,
    /// Bind again when a connection breaks and go on; what was unanswered is counted, never sent again.
    pub reconnect: bool,
    /// Send a message again that was refused for the moment (ESME_RTHROTTLED, ESME_RMSGQFUL).
    pub retry_refused: bool,
    /// Appends `id<TAB>destination` for every accepted message.
    pub ids_log: Option<PathBuf>,
    /// Appends `id<TAB>stat` for every receipt.
    pub receipts_log: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            connect: vec![SocketAddr::from(([127, 0, 0, 1], 2775))],
            system_id: "load".into(),
            password: "load".into(),
            tls: None,
            binds: 1,
            window: 100,
            rate: None,
            count: None,
            duration: None,
            receipts: true,
            receipt_wait: Duration::from_secs(10),
            source: "LOAD".into(),
            destination_prefix: "25471".into(),
            text: "Message {n}: the quick brown fox jumps over the lazy dog, and then once more for length."
                .into(),
            reconnect: false,
            retry_refused: false,
            ids_log: None,
            receipts_log: None,
        }
    }
}

/// Why a load did not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No connection.
    #[error("cannot connect to {0}: {1}; is the server running there?")]
    Connect(SocketAddr, std::io::Error),
    /// The bind was refused.
    #[error(
        "{0} refused the bind with {1}; check system_id, password, the account's state, its addresses and its bind limit"
    )]
    Bind(SocketAddr, String),
    /// TLS cannot begin.
    #[error("TLS: {0}")]
    Tls(String),
    /// The options make no sense.
    #[error("{0}")]
    Options(&'static str),
    /// A log file.
    #[error("cannot write {0}: {1}")]
    Log(PathBuf, std::io::Error),
}

/// Where a load is; readable while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Submits sent.
    pub sent: AtomicU64,
    /// Submits answered.
    pub answered: AtomicU64,
    /// Answered ESME_ROK.
    pub accepted: AtomicU64,
    /// Receipts taken.
    pub receipts: AtomicU64,
}

/// What the connections share.
struct Shared {
    pub options: LoadOptions,
    pub progress: Arc<Progress>,
    /// Messages handed to connections so far.
    pub taken: AtomicU64,
    /// Start of sending, µs.
    pub start_us: u64,
    /// Set when everything is sent that will be.
    pub stop: CancellationToken,
    tally: std::sync::Mutex<Tally>,
}

impl Shared {
    /// Takes up to `max` message numbers that are due now: the first number and how many.
    pub fn take(&self, max: usize, now_us: u64) -> (u64, u64) {
        let o = &self.options;
        let elapsed = now_us.saturating_sub(self.start_us);
        if o.duration.is_some_and(|d| elapsed >= d.as_micros() as u64) || self.stop.is_cancelled() {
            return (0, 0);
        }
        let mut limit = o.count.unwrap_or(u64::MAX);
        if let Some(rate) = o.rate {
            limit = limit.min((elapsed as f64 * rate / 1e6) as u64 + 1);
        }
        let mut first = 0;
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            first = n;
            let more = limit.saturating_sub(n).min(max as u64);
            (more > 0).then_some(n + more)
        });
        match taken {
            Ok(before) => (before, limit.saturating_sub(before).min(max as u64)),
            Err(_) => (first, 0),
        }
    }

    /// When a message was meant to be sent, µs.
    pub fn intended_us(&self, n: u64, now_us: u64) -> u64 {
        match self.options.rate {
            Some(rate) => (self.start_us + (n as f64 / rate * 1e6) as u64).min(now_us),
            None => now_us,
        }
    }

    /// No more messages will be handed out.
    pub fn exhausted(&self, now_us: u64) -> bool {
        let o = &self.options;
        self.stop.is_cancelled()
            || o.count.is_some_and(|c| self.taken.load(Ordering::Acquire) >= c)
            || o.duration
                .is_some_and(|d| now_us.saturating_sub(self.start_us) >= d.as_micros() as u64)
    }
}

/// Runs a load to its end, or until `stop`.
///
/// # Errors
/// [`LoadError`] if it could not start.
pub async fn run(
    options: LoadOptions,
    progress: Option<Arc<Progress>>,
    stop: CancellationToken,
) -> Result<LoadReport, LoadError> {
    if options.connect.is_empty() || options.binds == 0 {
        return Err(LoadError::Options("give at least one address and one bind"));
    }
    if options.count.is_none() && options.duration.is_none() {
        return Err(LoadError::Options("give --count or --duration, or both"));
    }
    if options.rate.is_some_and(|r| !r.is_finite() || r <= 0.0) {
        return Err(LoadError::Options("--rate must be more than zero"));
    }
    let progress = progress.unwrap_or_default();
    let mut links = Vec::new();
    for i in 0..options.binds {
        let address = options.connect.get(i as usize % options.connect.len()).copied();
        let address = address.ok_or(LoadError::Options("give at least one address"))?;
        links.push((address, connection::bind(address, &options).await?));
    }
    let tally = Tally::new(&options)?;
    let shared = Arc::new(Shared {
        progress,
        taken: AtomicU64::new(0),
        start_us: clock::mono_us(),
        stop,
        tally: std::sync::Mutex::new(tally),
        options,
    });
    let mut tasks = tokio::task::JoinSet::new();
    for (address, bound) in links {
        tasks.spawn(connection::run(address, bound, Arc::clone(&shared)));
    }
    while tasks.join_next().await.is_some() {}
    let tally = std::mem::take(
        &mut *shared
            .tally
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    Ok(report::of(
        &shared.options,
        tally,
        shared.taken.load(Ordering::Acquire),
        shared.start_us,
    ))
}
