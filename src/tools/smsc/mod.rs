//! An SMSC simulator with faults to order.

mod connection;
mod fault;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How the simulator writes its ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IdFormat {
    /// Decimal in response and receipt.
    #[default]
    Decimal,
    /// Lower-case hexadecimal in both.
    HexLower,
    /// Upper-case hexadecimal in both.
    HexUpper,
    /// Hexadecimal in the response, decimal in the receipt.
    HexDec,
    /// Decimal in the response, hexadecimal in the receipt.
    DecHex,
}

/// Which form receipts take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReceiptForm {
    /// Appendix-B text and TLVs.
    #[default]
    Both,
    /// Text only.
    Text,
    /// TLVs only.
    Tlv,
}

/// What the simulator does. Rates are fractions from 0 to 1.
#[derive(Clone, Debug)]
pub struct SmscOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Only this system_id may bind; `None`: any.
    pub system_id: Option<String>,
    /// With this password; `None`: any.
    pub password: Option<String>,
    /// Pause before a response, ms.
    pub resp_delay_ms: u64,
    /// Pause between response and receipt, ms.
    pub receipt_delay_ms: u64,
    /// Submits a second over all binds; beyond: ESME_RTHROTTLED. 0: unlimited.
    pub tps: u32,
    /// Answered ESME_RTHROTTLED.
    pub throttle_rate: f64,
    /// Answered ESME_RMSGQFUL.
    pub queue_full_rate: f64,
    /// Answered `reject_status`.
    pub reject_rate: f64,
    /// See `reject_rate`.
    pub reject_status: u32,
    /// Accepted, but never answered and never receipted.
    pub drop_resp_rate: f64,
    /// Closes the connection after so many submits; 0: never.
    pub drop_conn_every: u64,
    /// Receipts sent before their response.
    pub receipt_first_rate: f64,
    /// Receipts sent twice.
    pub receipt_dup_rate: f64,
    /// Receipts never sent.
    pub receipt_lost_rate: f64,
    /// Receipts that say UNDELIV.
    pub undeliv_rate: f64,
    /// Spelling of ids.
    pub id_format: IdFormat,
    /// First id.
    pub id_start: u64,
    /// Ids are padded with zeros to this width.
    pub id_width: usize,
    /// Form of receipts.
    pub receipt_form: ReceiptForm,
    /// Takes connections and never answers a bind.
    pub no_bind: bool,
    /// Status of bind responses.
    pub bind_status: u32,
    /// Unanswered deliver_sm a session.
    pub window: usize,
    /// Sends enquire_link after so long without a word, ms; 0: never.
    pub enquire_link_ms: u64,
    /// Appends `id<TAB>destination<TAB>first word of the text` for each accepted submit, written before the response is.
    pub accept_log: Option<PathBuf>,
    /// Keeps what it received, for tests.
    pub record: bool,
    /// Same seed, same faults.
    pub seed: u64,
}

impl Default for SmscOptions {
    fn default() -> Self {
        SmscOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 2776)),
            system_id: None,
            password: None,
            resp_delay_ms: 0,
            receipt_delay_ms: 0,
            tps: 0,
            throttle_rate: 0.0,
            queue_full_rate: 0.0,
            reject_rate: 0.0,
            reject_status: 0x45,
            drop_resp_rate: 0.0,
            drop_conn_every: 0,
            receipt_first_rate: 0.0,
            receipt_dup_rate: 0.0,
            receipt_lost_rate: 0.0,
            undeliv_rate: 0.0,
            id_format: IdFormat::Decimal,
            id_start: 1,
            id_width: 0,
            receipt_form: ReceiptForm::Both,
            no_bind: false,
            bind_status: 0,
            window: 1_000,
            enquire_link_ms: 0,
            accept_log: None,
            record: false,
            seed: 1,
        }
    }
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SmscStats {
    /// Sessions bound at the moment.
    pub binds: u64,
    /// submit_sm read.
    pub submits: u64,
    /// Accepted.
    pub accepted: u64,
    /// Answered ESME_RTHROTTLED or ESME_RMSGQFUL.
    pub throttled: u64,
    /// Answered another error.
    pub rejected: u64,
    /// Never answered.
    pub dropped: u64,
    /// Receipts sent.
    pub receipts: u64,
    /// Receipts answered ESME_ROK.
    pub receipts_acked: u64,
    /// Receipts answered with an error.
    pub receipts_refused: u64,
    /// Mobile-originated messages answered ESME_ROK.
    pub mo_acked: u64,
}

/// A submit the simulator accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The id it was given, as in the response.
    pub id: String,
    /// Source address.
    pub source: Vec<u8>,
    /// Destination address.
    pub dest: Vec<u8>,
    /// Text.
    pub text: Vec<u8>,
    /// registered_delivery.
    pub registered_delivery: u8,
    /// data_coding.
    pub data_coding: u8,
    /// esm_class.
    pub esm_class: u8,
    /// Optional parameters as raw octets.
    pub tlvs: Vec<u8>,
}

#[derive(Default)]
struct Counters {
    binds: AtomicU64,
    submits: AtomicU64,
    accepted: AtomicU64,
    throttled: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
    receipts: AtomicU64,
    receipts_acked: AtomicU64,
    receipts_refused: AtomicU64,
    mo_acked: AtomicU64,
}

/// Deliveries for whoever can receive: whole deliver_sm PDUs whose sequence number is still to be set.
#[derive(Default)]
struct Mail {
    queue: Mutex<Vec<connection::Delivery>>,
    ready: Notify,
}

struct Shared {
    options: SmscOptions,
    counters: Counters,
    next_id: AtomicU64,
    pacer: Mutex<(u64, u32)>,
    mail: Mail,
    record: Mutex<Vec<Received>>,
    log: Option<Mutex<std::fs::File>>,
    drop_all: Notify,
    drops: AtomicU64,
    stop: CancellationToken,
    seeds: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running simulator.
pub struct Smsc {
    shared: Arc<Shared>,
    addr: SocketAddr,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Smsc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Smsc({})", self.addr)
    }
}

impl Smsc {
    /// Starts listening.
    ///
    /// # Errors
    /// The address cannot be listened on, or the log cannot be opened.
    pub async fn start(options: SmscOptions) -> io::Result<Smsc> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let log = match &options.accept_log {
            Some(path) => Some(Mutex::new(
                std::fs::OpenOptions::new().create(true).append(true).open(path)?,
            )),
            None => None,
        };
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            next_id: AtomicU64::new(options.id_start),
            pacer: Mutex::default(),
            mail: Mail::default(),
            record: Mutex::default(),
            log,
            drop_all: Notify::new(),
            drops: AtomicU64::new(0),
            stop: CancellationToken::new(),
            seeds: AtomicU64::new(options.seed),
            options,
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone()));
        Ok(Smsc { shared, addr, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Counters at this moment.
    #[must_use]
    pub fn stats(&self) -> SmscStats {
        let c = &self.shared.counters;
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        SmscStats {
            binds: load(&c.binds),
            submits: load(&c.submits),
            accepted: load(&c.accepted),
            throttled: load(&c.throttled),
            rejected: load(&c.rejected),
            dropped: load(&c.dropped),
            receipts: load(&c.receipts),
            receipts_acked: load(&c.receipts_acked),
            receipts_refused: load(&c.receipts_refused),
            mo_acked: load(&c.mo_acked),
        }
    }

    /// What it accepted so far; empty unless `record` is set.
    #[must_use]
    pub fn log(&self) -> Vec<Received> {
        lock(&self.shared.record).clone()
    }

    /// Sends a mobile-originated message over any session that receives.
    pub fn send_mo(&self, source: &str, dest: &str, text: &[u8]) {
        lock(&self.shared.mail.queue).push(connection::Delivery::inbound(source, dest, text));
        self.shared.mail.ready.notify_waiters();
        self.shared.mail.ready.notify_one();
    }

    /// Sends any deliver_sm: for tests of strange receipts.
    pub fn send_deliver(&self, sm: &crate::smpp::ShortMessage<'_>) {
        lock(&self.shared.mail.queue).push(connection::Delivery::of(sm, true));
        self.shared.mail.ready.notify_waiters();
        self.shared.mail.ready.notify_one();
    }

    /// Closes every connection without a word.
    pub fn drop_connections(&self) {
        self.shared.drops.fetch_add(1, Ordering::AcqRel);
        self.shared.drop_all.notify_waiters();
    }

    /// Stops listening and closes every connection.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(connection::serve(stream, Arc::clone(&shared)));
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}
