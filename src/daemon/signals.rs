//! Signals and the service manager.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    term: Option<Signal>,
    int: Option<Signal>,
    /// Caught and otherwise ignored: a file size limit is then an error of the write, as a full disk is, not our death.
    _file_size: Option<Signal>,
}

/// SIGXFSZ on Linux.
const FILE_SIZE: i32 = 25;

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(s) => {
            s.recv().await;
        }
        None => std::future::pending().await,
    }
}

impl Signals {
    pub fn new() -> Signals {
        Signals {
            term: signal(SignalKind::terminate()).ok(),
            int: signal(SignalKind::interrupt()).ok(),
            _file_size: signal(SignalKind::from_raw(FILE_SIZE)).ok(),
        }
    }

    /// Waits for the first signal.
    pub async fn first(&mut self) {
        tokio::select! {
            () = next(&mut self.term) => {}
            () = next(&mut self.int) => {}
        }
    }

    /// Waits for the first signal or for `shutdown`, telling the watchdog meanwhile that we live, for as long as `alive`.
    pub async fn wait(&mut self, shutdown: &Notify, alive: impl Fn() -> bool) {
        let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3_600), |t| t / 2);
        let mut ticks = tokio::time::interval(every);
        loop {
            tokio::select! {
                () = next(&mut self.term) => return,
                () = next(&mut self.int) => return,
                () = shutdown.notified() => return,
                _ = ticks.tick() => {
                    if alive() {
                        tell(&[sd_notify::NotifyState::Watchdog]);
                    }
                }
            }
        }
    }

    /// Ends the process at the next signal: everything acknowledged is on disk.
    pub async fn exit_on_next(mut self) {
        tokio::select! {
            () = next(&mut self.term) => {}
            () = next(&mut self.int) => {}
        }
        eprintln!("smsconnect: second signal, ending at once; nothing acknowledged is lost");
        std::process::exit(1);
    }
}

fn tell(states: &[sd_notify::NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    let _told = sd_notify::notify(states);
}

pub(super) fn notify_ready() {
    tell(&[sd_notify::NotifyState::Ready]);
}

pub(super) fn notify_stopping() {
    tell(&[sd_notify::NotifyState::Stopping]);
}
