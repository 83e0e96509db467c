//! `smsconnect load`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::tools::load::{LoadOptions, Tls, run as run_load};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  smsconnect load --connect 127.0.0.1:2775 --system-id acme --password secret --count 10000\n  smsconnect load --connect 127.0.0.1:2775 --system-id acme --password secret --binds 4 --window 500 --duration-s 60 --json\n\nExit code 1 if an accepted message has no receipt or more than one."
)]
pub(super) struct LoadArgs {
    /// Addresses to bind to, in turn
    #[arg(long, default_value = "127.0.0.1:2775", value_delimiter = ',')]
    connect: Vec<SocketAddr>,
    /// What to bind with
    #[arg(long)]
    system_id: String,
    /// Its password
    #[arg(long)]
    password: String,
    /// Bind through TLS to a server that a certificate in this PEM file vouches for
    #[arg(long)]
    tls_ca: Option<PathBuf>,
    /// What the server's certificate must be for
    #[arg(long, default_value = "localhost")]
    tls_name: String,
    /// Binds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    binds: u32,
    /// Unanswered submits a bind
    #[arg(long, default_value_t = 100)]
    window: usize,
    /// Messages a second, whatever is answered (default: as fast as they are answered)
    #[arg(long, value_parser = super::rate)]
    rate: Option<f64>,
    /// Messages in all
    #[arg(long)]
    count: Option<u64>,
    /// How long to send
    #[arg(long)]
    duration_s: Option<u64>,
    /// Do not ask for receipts
    #[arg(long)]
    no_receipts: bool,
    /// How long to wait for receipts when none comes
    #[arg(long, default_value_t = 10)]
    receipt_wait_s: u64,
    /// Source address
    #[arg(long, default_value = "LOAD")]
    source: String,
    /// Destinations begin with this and count on to twelve digits
    #[arg(long, default_value = "25471")]
    destination_prefix: String,
    /// Text; {n} is the message's number
    #[arg(
        long,
        default_value = "The quick brown fox jumps over the lazy dog, and then once more for the length of a hundred chars."
    )]
    text: String,
    /// Bind again when a connection breaks
    #[arg(long)]
    reconnect: bool,
    /// Send again what was refused for the moment
    #[arg(long)]
    retry_refused: bool,
    /// Append id and destination of each accepted message to this file
    #[arg(long)]
    ids_log: Option<PathBuf>,
    /// Append id and state of each receipt to this file
    #[arg(long)]
    receipts_log: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs a tool on a runtime of its own.
pub(super) fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(work),
        Err(e) => {
            eprintln!("smsconnect: cannot start threads: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    let term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    match term {
        Ok(mut term) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = term.recv() => {}
        },
        Err(_) => {
            let _interrupt = tokio::signal::ctrl_c().await;
        }
    }
}

pub(super) fn run(a: &LoadArgs) -> ExitCode {
    let tls = match a.tls_ca.as_ref().map(|ca| Tls::new(ca, &a.tls_name)).transpose() {
        Ok(tls) => tls,
        Err(e) => {
            eprintln!("smsconnect: {e}");
            return ExitCode::FAILURE;
        }
    };
    let options = LoadOptions {
        connect: a.connect.clone(),
        system_id: a.system_id.clone(),
        password: a.password.clone(),
        tls,
        binds: a.binds,
        window: a.window.max(1),
        rate: a.rate,
        count: a.count,
        duration: a.duration_s.map(Duration::from_secs),
        receipts: !a.no_receipts,
        receipt_wait: Duration::from_secs(a.receipt_wait_s),
        source: a.source.clone(),
        destination_prefix: a.destination_prefix.clone(),
        text: a.text.clone(),
        reconnect: a.reconnect,
        retry_refused: a.retry_refused,
        ids_log: a.ids_log.clone(),
        receipts_log: a.receipts_log.clone(),
    };
    let json = a.json;
    block_on(async move {
        let stop = CancellationToken::new();
        let on_signal = stop.clone();
        tokio::spawn(async move {
            interrupted().await;
            on_signal.cancel();
        });
        match run_load(options, None, stop).await {
            Ok(report) => {
                match serde_json::to_string(&report) {
                    Ok(text) if json => println!("{text}"),
                    _ => print!("{report}"),
                }
                let checked = report.receipts > 0 || report.missing > 0;
                if checked && !report.exactly_once {
                    ExitCode::FAILURE
                } else {
                    ExitCode::SUCCESS
                }
            }
            Err(e) => {
                eprintln!("smsconnect: {e}");
                ExitCode::FAILURE
            }
        }
    })
}
