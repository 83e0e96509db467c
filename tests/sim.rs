//! A seeded simulation of the whole business path: see `tests/sim/world.rs` for the world and `tests/sim/audit.rs` for the judge.
//!
//! `SIM_SEED=n cargo test --test sim` runs one seed, `SIM_SEEDS=n` so many of them. What has failed once is in
//! `tests/sim/seeds.txt` and runs every time.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sim {
    pub mod audit;
    pub mod client;
    pub mod disk;
    pub mod net;
    pub mod oracle;
    pub mod plan;
    pub mod process;
    pub mod rng;
    pub mod smsc;
    pub mod world;
}

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::audit::audit;
use sim::disk::Sabotage;
use sim::plan::{HOUR, Plan};
use sim::rng::Rng;
use sim::world::World;

/// Random seeds in an ordinary test run; those of one day are the same.
const SEEDS: u64 = 100;

/// What many runs came to.
#[derive(Default)]
struct Figures {
    seeds: u64,
    virtual_ms: u64,
    crashes: u64,
    submits: u64,
    acknowledged: u64,
    copies: u64,
    receipts: u64,
    delivered: u64,
    batches: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Figures {
    fn add(&mut self, w: &World) {
        let o = &w.oracle;
        self.seeds += 1;
        self.virtual_ms += w.passed();
        self.crashes += o.lives.len() as u64 - 2;
        self.submits += o.subs.len() as u64;
        self.acknowledged += o.roks.len() as u64;
        self.copies += o.copies.iter().filter(|c| c.taken).count() as u64;
        self.receipts += o.rcpts.iter().filter(|r| r.answered.is_some()).count() as u64;
        self.delivered += o.got.len() as u64;
        self.batches += w.store.batches() as u64;
        for (kind, n) in o.faults.iter().chain(&w.store.shared().counts) {
            *self.faults.entry(kind).or_default() += n;
        }
    }

    fn print(&self) {
        println!(
            "{} seeds, {} virtual hours, {} crashes, {} submits, {} acknowledged, {} taken by SMSCs, {} receipts answered, {} delivered, {} commits",
            self.seeds,
            self.virtual_ms / HOUR,
            self.crashes,
            self.submits,
            self.acknowledged,
            self.copies,
            self.receipts,
            self.delivered,
            self.batches
        );
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        println!("faults: {}", faults.join(", "));
    }
}

fn world(seed: u64) -> World {
    let plan = Plan::of(&mut Rng::new(seed));
    World::new(seed, plan)
}

fn finished(mut world: World) -> (World, Vec<String>) {
    world.run();
    let bad = audit(&world);
    (world, bad)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

/// Seeds that have failed once: the first word of each line.
fn past() -> Vec<u64> {
    let lines = include_str!("sim/seeds.txt").lines();
    lines
        .filter_map(|l| l.split_whitespace().next()?.parse().ok())
        .collect()
}

/// Runs them all, on as many threads as there are processors; each world keeps to its own.
fn run_all(seeds: &[u64]) -> (Figures, Vec<String>) {
    let next = AtomicU64::new(0);
    let done = Mutex::new((Figures::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize).copied() {
                    let run = std::panic::catch_unwind(|| finished(world(seed)));
                    let mut done = done.lock().unwrap();
                    let bad = match run {
                        Ok((world, bad)) => {
                            done.0.add(&world);
                            bad
                        }
                        Err(_) => vec!["panicked".to_string()],
                    };
                    if let Some(first) = bad.first() {
                        let line = format!(
                            "SIM_SEED={seed} cargo test --test sim  # {first} ({} in all)",
                            bad.len()
                        );
                        println!("{line}");
                        done.1.push(line);
                    }
                }
            });
        }
    });
    done.into_inner().unwrap()
}

#[test]
fn without_faults_everything_goes_out_once_and_comes_back() {
    let (world, bad) = finished(World::new(1, Plan::quiet()));
    assert_eq!(bad, Vec::<String>::new());
    let o = &world.oracle;
    assert!(o.roks.len() >= 10 && o.copies.len() == o.roks.len() && o.rcpts.len() == o.copies.len());
}

#[test]
fn whatever_fails_nothing_is_lost_charged_twice_or_told_to_another() {
    let seeds: Vec<u64> = match (number("SIM_SEED"), number("SIM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, n) => {
            let from = number("SIM_FROM").unwrap_or(1);
            past()
                .into_iter()
                .chain(from..from + n.unwrap_or(SEEDS))
                .collect()
        }
    };
    let (figures, failed) = run_all(&seeds);
    figures.print();
    assert!(
        failed.is_empty(),
        "{} of {} seeds:\n{}",
        failed.len(),
        seeds.len(),
        failed.join("\n")
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 4, 5, 6] {
        let (a, _) = finished(world(seed));
        let (b, _) = finished(world(seed));
        assert_eq!(a.oracle.hash, b.oracle.hash, "seed {seed}");
        assert_eq!(a.store.batches(), b.store.batches());
    }
    let (a, b) = (finished(world(3)).0, finished(world(4)).0);
    assert_ne!(a.oracle.hash, b.oracle.hash);
}

/// Runs seeds in worlds that `spoil` has spoilt until the auditor complains of `invariant`.
fn is_noticed(invariant: &str, spoil: impl Fn(&mut World)) {
    let mut seen = Vec::new();
    for seed in 1..30 {
        let plan = Plan {
            zombies: true,
            crashes: 4,
            ..Plan::of(&mut Rng::new(seed))
        };
        let mut world = World::new(seed, plan);
        spoil(&mut world);
        world.run();
        // What the wire has to show may be spoilt too.
        let bad = audit(&world);
        if bad.iter().any(|b| b.starts_with(invariant)) {
            return;
        }
        seen.extend(bad);
    }
    panic!(
        "{invariant} is never complained of, but: {:?}",
        &seen[..seen.len().min(10)]
    );
}

fn with_disk(sabotage: Sabotage) -> impl Fn(&mut World) {
    move |world| world.store.shared().sabotage = sabotage
}

#[test]
fn a_store_that_acknowledges_and_forgets_is_noticed() {
    is_noticed("I1 ", with_disk(Sabotage::Forgets));
}

#[test]
fn a_store_that_adds_a_batch_twice_is_noticed() {
    is_noticed("I2 ", with_disk(Sabotage::CountsTwice));
}

#[test]
fn a_store_that_charges_for_nothing_is_noticed() {
    is_noticed("I3 ", with_disk(Sabotage::KeepsHolds));
}

#[test]
fn a_wallet_below_its_floor_is_noticed() {
    is_noticed("I4 ", with_disk(Sabotage::Overdraws));
}

#[test]
fn an_smsc_that_gets_a_message_twice_for_no_reason_is_noticed() {
    is_noticed("I5 ", |world| world.spoilt.twice = true);
}

#[test]
fn a_message_that_no_smsc_has_is_noticed() {
    is_noticed("I5 ", |world| world.spoilt.drops = true);
}

#[test]
fn sessions_that_are_not_woken_are_noticed() {
    let calm = || {
        let plan = Plan {
            faults_ms: 1,
            ..Plan::quiet()
        };
        World::new(1, plan)
    };
    assert_eq!(finished(calm()).1, Vec::<String>::new());
    let mut world = calm();
    world.spoilt.deaf = true;
    assert!(finished(world).1.iter().any(|b| b.starts_with("I6 ")));
}

#[test]
fn a_store_that_loses_receipts_is_noticed() {
    is_noticed("I7 ", with_disk(Sabotage::LosesReceipts));
}

#[test]
fn a_receipt_for_another_customer_is_noticed() {
    is_noticed("I7 ", |world| world.spoilt.swaps = true);
}

#[test]
fn a_queue_beyond_its_bound_is_noticed() {
    is_noticed("I9 ", |world| world.spoilt.bound = 1);
}

#[test]
fn an_acknowledgement_before_the_commit_is_noticed() {
    is_noticed("I10 ", with_disk(Sabotage::Postpones));
}

#[test]
fn a_store_that_takes_writes_from_a_fenced_owner_is_noticed() {
    is_noticed("I12 ", with_disk(Sabotage::Unfenced));
}
