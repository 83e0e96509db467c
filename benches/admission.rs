//! Admission of one submit: every check, price and hold, in memory.
//!
//! `cargo bench --bench admission`

#[path = "bed.rs"]
mod bed;

use bed::{submission, world};
use divan::{Bencher, black_box};
use smsconnect::flow::admit;

fn main() {
    divan::main();
}

/// Accepted, with this many routes and prices.
#[divan::bench(args = [1, 100, 10_000])]
fn accepted(bencher: Bencher, lines: u32) {
    let (gateway, account) = world(lines, 0);
    let policy = gateway.policy.load_full();
    bencher.bench_local(|| {
        let admitted = admit(
            &gateway,
            &policy,
            &account,
            black_box(&submission(b"254700091234")),
            1_000,
        );
        if let Ok(a) = admitted {
            account.with_wallet(|w| w.release(a.hold));
        }
    });
}

/// With a rate limit that lets it through.
#[divan::bench]
fn accepted_with_a_rate_limit(bencher: Bencher) {
    let (gateway, account) = world(100, 1_000_000);
    let policy = gateway.policy.load_full();
    let mut now = 1_000;
    bencher.bench_local(|| {
        now += 1;
        let admitted = admit(
            &gateway,
            &policy,
            &account,
            black_box(&submission(b"0700091234")),
            now,
        );
        if let Ok(a) = admitted {
            account.with_wallet(|w| w.release(a.hold));
        }
    });
}

/// Refused by the first check that looks at the number.
#[divan::bench]
fn refused(bencher: Bencher) {
    let (gateway, account) = world(100, 0);
    let policy = gateway.policy.load_full();
    bencher.bench_local(|| {
        admit(
            &gateway,
            &policy,
            &account,
            black_box(&submission(b"nonsense")),
            1_000,
        )
        .is_err()
    });
}
