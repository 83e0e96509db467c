//! One commit to SQLite: what a batch of messages costs at each step, fsync included.
//!
//! `cargo bench --bench commit`; files go to the folder of TMPDIR, which should be on the disk that is meant.

use divan::{Bencher, counter::ItemsCount};
use smsconnect::domain::message::{Message, Parts, Piece};
use smsconnect::domain::outcome::{ChargeOn, Final, Wants};
use smsconnect::ids::{AccountId, BatchId, MessageKey, Pos, UpstreamId};
use smsconnect::money::Money;
use smsconnect::store::sqlite::{Options, SqliteStore};
use smsconnect::store::{Accepted, Batch, Fence, Finished, Posting, Sent, Store};

fn main() {
    divan::main();
}

const TEXT: &[u8] = b"Your code is 123456. It is valid for five minutes; do not give it to anybody.";

struct Bed {
    _dir: tempfile::TempDir,
    store: SqliteStore,
    fence: Fence,
    next: u64,
    batch: u64,
}

impl Bed {
    fn new(full: bool) -> Bed {
        let made = || -> Result<Bed, Box<dyn std::error::Error>> {
            let dir = tempfile::tempdir()?;
            let mut store = SqliteStore::open(Options {
                accept_older: false,
                path: dir.path().join("bench.db"),
                full,
                segment_messages: 1_000_000,
                keep_days: 0,
            })?;
            let fence = store.acquire()?.fence;
            Ok(Bed {
                _dir: dir,
                store,
                fence,
                next: 1,
                batch: 1,
            })
        };
        match made() {
            Ok(bed) => bed,
            Err(e) => panic!("no store: {e}"),
        }
    }

    /// `n` messages in the steady state of traffic: so many are accepted, so many sent, so many end.
    fn mixed(&mut self, n: u64) -> Batch {
        let first = self.next;
        self.next += n;
        let keys = first..first + n;
        let message = Message::new(&Parts {
            source: b"ACME",
            dest: b"254712345678",
            text: TEXT,
            ..Parts::default()
        });
        let number = self.batch;
        self.batch += 1;
        Batch {
            id: BatchId {
                epoch: self.fence.epoch,
                number,
            },
            accepted: keys
                .clone()
                .map(|key| Accepted {
                    key: MessageKey(key),
                    account: AccountId(1),
                    at_ms: 1,
                    expires_ms: 2,
                    price: Money(800_000),
                    tariff: 1,
                    charge_on: ChargeOn::Submitted,
                    wants: Wants::from_bits(1),
                    segments: 1,
                    line: 0,
                    message: message.clone(),
                })
                .collect(),
            sent: keys
                .clone()
                .map(|key| Sent {
                    piece: Piece::WHOLE,
                    pos: Pos(key * 2),
                    key: MessageKey(key),
                    upstream: UpstreamId(0),
                    at_ms: 3,
                    smsc_id: key.to_string().into_bytes().into(),
                })
                .collect(),
            finished: keys
                .map(|key| Finished {
                    pos: Pos(key * 2 + 1),
                    key: MessageKey(key),
                    account: AccountId(1),
                    state: Final::Delivered,
                    err: 0,
                    at_ms: 4,
                    charged: Money(800_000),
                    flags: 1,
                })
                .collect(),
            postings: vec![Posting {
                at_ms: 1,
                account: AccountId(1),
                debit: "wallet".into(),
                credit: "revenue".into(),
                amount: Money(800_000 * n as i64),
                count: n as u32,
                reason: "charge".into(),
                reference: String::new(),
                line: 0,
            }],
            balances: vec![(AccountId(1), Money(-800_000 * n as i64))],
            ..Batch::default()
        }
    }
}

fn run(bencher: Bencher, full: bool, n: u64) {
    let bed = std::cell::RefCell::new(Bed::new(full));
    bencher
        .counter(ItemsCount::new(n))
        .with_inputs(|| bed.borrow_mut().mixed(n))
        .bench_local_values(|batch| {
            let bed = &mut *bed.borrow_mut();
            let done = bed
                .store
                .commit(bed.fence, &batch)
                .and_then(|()| bed.store.checkpoint());
            assert!(done.is_ok(), "{done:?}");
        });
}

/// On disk before the answer.
#[divan::bench(args = [1, 10, 100, 500, 2_000])]
fn full(bencher: Bencher, messages: u64) {
    run(bencher, true, messages);
}

/// In the system's hands before the answer.
#[divan::bench(args = [1, 10, 100, 500, 2_000])]
fn normal(bencher: Bencher, messages: u64) {
    run(bencher, false, messages);
}
