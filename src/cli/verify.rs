//! `smsconnect verify`: proves a store, or a copy of one, whole.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::daemon::{self, Report};

#[derive(Args)]
#[command(
    after_help = "Example:\n  smsconnect verify /backup/gateway-2026-01-31.db\n\nLooks at every page and every row: structure, ledger, journal, and that they agree. Changes nothing; works on a copy, on the\nstore of a stopped daemon, and beside a running one. Exit codes: 0 whole, 1 damaged (every fault is listed), 2 no such file."
)]
pub(super) struct VerifyArgs {
    /// The store
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// There is nothing to look at.
const EXIT_USAGE: u8 = 2;

pub(super) fn run(a: &VerifyArgs) -> ExitCode {
    if let Err(e) = std::fs::metadata(&a.file) {
        eprintln!("smsconnect: {}: {e}", a.file.display());
        return ExitCode::from(EXIT_USAGE);
    }
    match daemon::verify(&a.file) {
        Ok(report) if report.faults.is_empty() => {
            println!("{}: whole: {}", a.file.display(), summary(&report));
            let covered = match report.as_made {
                Some(_) => "every octet is as when the copy was made",
                None => {
                    "no checksum of a copy counts for it: a changed letter within a text would not be seen"
                }
            };
            println!("{covered}");
            ExitCode::SUCCESS
        }
        Ok(report) => {
            for fault in &report.faults {
                println!("{fault}");
            }
            println!("{}: damaged: {}", a.file.display(), summary(&report));
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("smsconnect: {e}");
            ExitCode::FAILURE
        }
    }
}

/// What a store holds, on one line.
pub(super) fn summary(r: &Report) -> String {
    format!(
        "{} octets, {} messages ({} open, {} held), {} accounts, {} ledger entries, {} segments",
        r.bytes, r.messages, r.open, r.held, r.accounts, r.entries, r.segments
    )
}
