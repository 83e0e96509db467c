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
    pub mod rng;
    pub mod smsc;
    pub mod world;
}

use sim::audit::audit;
use sim::plan::Plan;
use sim::rng::Rng;
use sim::world::World;

fn run(seed: u64) -> (World, Vec<String>) {
    let plan = Plan::of(&mut Rng::new(seed));
    let mut world = World::new(seed, plan);
    world.run();
    let bad = audit(&world);
    (world, bad)
}

#[test]
fn without_faults_everything_goes_out_once_and_comes_back() {
    let mut world = World::new(1, Plan::quiet());
    world.run();
    assert_eq!(audit(&world), Vec::<String>::new());
    assert!(world.oracle.roks.len() >= 10 && world.oracle.copies.len() == world.oracle.roks.len());
}

#[test]
fn seeds() {
    let seed = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok());
    let n = std::env::var("SIM_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20u64);
    let seeds: Vec<u64> = seed.map_or((1..=n).collect(), |s| vec![s]);
    let mut failed = Vec::new();
    let mut kinds = std::collections::BTreeMap::new();
    for seed in seeds {
        let (_, bad) = run(seed);
        for line in &bad {
            let kind: String = line.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
            kinds.entry(kind).or_insert((0, seed, line.clone())).0 += 1;
        }
        if !bad.is_empty() {
            failed.push(format!(
                "SIM_SEED={seed} cargo test --test sim: {} ({} in all)",
                bad[0],
                bad.len()
            ));
        }
    }
    assert!(
        failed.is_empty(),
        "{} failed\n{}\n{kinds:#?}",
        failed.len(),
        failed[..failed.len().min(30)].join("\n")
    );
}
