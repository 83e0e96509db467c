//! `smsconnect backup`: a copy of the store while the daemon runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{clock, daemon};

#[derive(Args)]
#[command(
    after_help = "Example:\n  smsconnect backup --config /etc/smsconnect/smsconnect.toml --to /backup/gateway-2026-01-31.db\n\nThe copy is one moment, proved whole, and readable by its owner only; FILE.sha256 beside it holds its checksum.\nRestore it as docs/restore.md says. Exit codes: 0 good, 2 on a bad config or command line, 1 on anything else: nothing is\nkept then, and nothing is ever overwritten."
)]
pub(super) struct BackupArgs {
    /// The config file that names the store
    #[arg(long, short, value_name = "FILE", required_unless_present = "store")]
    config: Option<PathBuf>,
    /// The store itself
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    store: Option<PathBuf>,
    /// The new file
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// Octets that stay free for a daemon whose config is not given.
const FREE_MIN: u64 = 64 << 20;

pub(super) fn run(a: &BackupArgs) -> ExitCode {
    let (store, free_min) = match (&a.config, &a.store) {
        (Some(config), _) => match super::load_config(config) {
            Ok(config) => (config.store.path, config.store.free_min_bytes),
            Err(code) => return code,
        },
        (None, store) => (store.clone().unwrap_or_default(), FREE_MIN),
    };
    let started = clock::mono_us();
    // Draws on a terminal only.
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent}%  {pos}/{len} pages  {eta} left") {
        bar.set_style(style);
    }
    let made = daemon::backup(&store, &a.to, free_min, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    match made {
        Ok(report) => {
            let seconds = (clock::mono_us() - started) as f64 / 1e6;
            println!(
                "{}: {} in {seconds:.1} s",
                a.to.display(),
                super::verify::summary(&report)
            );
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("smsconnect: {e}");
            ExitCode::FAILURE
        }
    }
}
