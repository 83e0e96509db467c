//! Kill points: named places at which a test makes the process end as by `kill -9`.
//!
//! Armed by the environment, in debug builds only: `SMSCONNECT_KILL=site:n` ends the process the n-th time (from 1) that the
//! site is passed; several stand separated by commas. In a release build [`point`] is empty and the variable means nothing.

/// Every site, with what holds at it. `tests/kill.rs` kills at each of them.
pub const SITES: &[(&str, &str)] = &[
    ("admit.before_commit", "admitted and held, nothing on disk"),
    (
        "admit.after_commit",
        "messages and charges on disk, nobody has been told",
    ),
    (
        "admit.after_ack",
        "the answer has been given to the customer's socket",
    ),
    (
        "upstream.after_write",
        "a submit is with the SMSC's socket, unanswered",
    ),
    (
        "upstream.after_response",
        "the SMSC has taken it, which is not on disk",
    ),
    (
        "receipt.after_commit",
        "a receipt is on disk, its deliver_sm_resp not sent",
    ),
    (
        "deliver.after_write",
        "a delivery is with the customer's socket, not marked",
    ),
    ("recover.accounts", "an account has been read back"),
    ("recover.messages", "a message has been read back"),
    ("recover.install", "all is read, nothing of it in use"),
    (
        "checkpoint.before",
        "the log is about to be moved into the main file",
    ),
    ("checkpoint.after", "it has been"),
    ("seal.slice", "a slice of sealing is done and not committed"),
    ("retention.drop", "an old segment is dropped, not committed"),
    ("topup.before_commit", "a payment is booked in memory alone"),
    ("topup.after_commit", "a payment is on disk, nobody has been told"),
];

/// Passes a site.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_site: &'static str) {}

/// Passes a site: the last thing this process does, if it was armed for this pass.
#[cfg(debug_assertions)]
pub fn point(site: &'static str) {
    armed::pass(site);
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A site and the passes left until the end.
    type Armed = Vec<(String, AtomicU64)>;

    static ARMED: OnceLock<Armed> = OnceLock::new();

    pub fn pass(site: &'static str) {
        debug_assert!(
            super::SITES.iter().any(|(s, _)| *s == site),
            "{site} is not listed"
        );
        let armed = ARMED.get_or_init(|| read(&std::env::var("SMSCONNECT_KILL").unwrap_or_default()));
        for (_, left) in armed.iter().filter(|(s, _)| s == site) {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                end();
            }
        }
    }

    /// `site:n,site:n`; what is no such pair arms nothing.
    pub fn read(text: &str) -> Armed {
        let pairs = text.split(',').filter_map(|pair| pair.trim().rsplit_once(':'));
        pairs
            .filter_map(|(site, n)| Some((site.to_string(), n.parse().ok().filter(|n| *n > 0)?)))
            .map(|(site, n)| (site, AtomicU64::new(n)))
            .collect()
    }

    fn end() {
        use nix::sys::signal::{Signal, kill};
        let _sent = kill(nix::unistd::Pid::this(), Signal::SIGKILL);
        // Not one instruction more of the caller.
        loop {
            std::thread::park();
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::sync::atomic::Ordering;

    #[test]
    fn the_variable_names_sites_and_passes() {
        let read = |text: &str| -> Vec<(String, u64)> {
            let armed = super::armed::read(text);
            armed
                .into_iter()
                .map(|(s, n)| (s, n.load(Ordering::Relaxed)))
                .collect()
        };
        assert_eq!(read(""), []);
        assert_eq!(read("seal.slice:3"), [("seal.slice".into(), 3)]);
        assert_eq!(read("a:1, b:2").len(), 2);
        assert_eq!(read("a,b:0,c:x,:"), [], "nothing is armed by mistake");
    }
}
