//! The command line: what was typed becomes options; nothing behind this sees a raw string.

mod backup;
mod ctl;
mod load;
mod smsc;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config;
use crate::daemon;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SMSCONNECT_COMMIT"), ")");

#[derive(Parser)]
#[command(
    name = "smsconnect",
    version = VERSION,
    about = "An SMPP gateway that acknowledges only what is on disk and bills it exactly once",
    after_help = "Try it with nothing configured:  smsconnect demo\nRun it:  smsconnect serve --config conf/minimal.toml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    #[command(
        after_help = "Example:\n  smsconnect serve --config /etc/smsconnect/smsconnect.toml\n\nExit codes: 0 after a clean end, 2 on a bad config (every fault is listed), 1 on anything else.\nSIGTERM or Ctrl-C ends in good order; a second one ends at once."
    )]
    Serve {
        #[command(flatten)]
        config: ConfigArg,
        /// Start on a store that is older than its last start: put back from a copy, or its -wal file lost. What was
        /// acknowledged since then may be missing
        #[arg(long)]
        accept_older_store: bool,
    },
    /// Check a config file
    #[command(
        after_help = "Example:\n  smsconnect check --config conf/smsconnect.toml --print\n\nExit codes: 0 good, 2 faults (all are listed)."
    )]
    Check {
        #[command(flatten)]
        config: ConfigArg,
        /// Print the effective configuration, secrets masked
        #[arg(long)]
        print: bool,
    },
    /// Copy the store while the gateway runs
    Backup(backup::BackupArgs),
    /// Prove a store or a copy of it whole
    Verify(verify::VerifyArgs),
    /// See the main job on this machine: simulator, gateway and two customers
    #[command(
        after_help = "Example:\n  smsconnect demo --messages 100000 --exit\n\nExit code 1 if anything does not reconcile."
    )]
    Demo(DemoArgs),
    /// Run the SMSC simulator alone
    Smsc(smsc::SmscArgs),
    /// Run the load generator alone
    Load(load::LoadArgs),
    /// Talk to a running gateway's admin socket
    Ctl(ctl::CtlArgs),
}

#[derive(Args)]
struct ConfigArg {
    /// The TOML config file
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct DemoArgs {
    /// Messages to send
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    messages: u64,
    /// Messages a second (default: as fast as they are answered)
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Binds of each customer and towards the simulator
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    binds: u32,
    /// Keep the store in this folder (default: a temporary one)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// End after the table
    #[arg(long)]
    exit: bool,
}

/// A rate of more than zero.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("must be a number greater than 0".into()),
    }
}

/// A bad config.
const EXIT_CONFIG: u8 = 2;

fn load_config(path: &std::path::Path) -> Result<config::Config, ExitCode> {
    config::load(path).map_err(|faults| {
        for fault in &faults {
            eprintln!("{fault}");
        }
        eprintln!(
            "smsconnect: {} fault{} in the config",
            faults.len(),
            if faults.len() == 1 { "" } else { "s" }
        );
        ExitCode::from(EXIT_CONFIG)
    })
}

/// Runs the command that was typed.
#[must_use]
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve {
            config: arg,
            accept_older_store,
        } => match load_config(&arg.config) {
            Ok(config) => daemon::serve(&config, &arg.config, accept_older_store),
            Err(code) => code,
        },
        Command::Check { config: arg, print } => match load_config(&arg.config) {
            Ok(config) => {
                if print {
                    println!("{}", config::print(&config));
                } else {
                    println!("{}: good", arg.config.display());
                }
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
        Command::Backup(args) => backup::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Demo(a) => daemon::demo::run(&daemon::demo::DemoOptions {
            messages: a.messages,
            rate: a.rate,
            binds: a.binds,
            dir: a.dir,
            exit: a.exit,
        }),
        Command::Smsc(args) => smsc::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Ctl(args) => ctl::run(&args),
    }
}
