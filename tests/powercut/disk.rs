//! A disk with a cache that a power cut empties.
//!
//! What is certain after a cut: the octets of a file up to its last fsync, and the names in the folder up to the last fsync
//! of the folder. Everything later is up to chance, each operation on its own and not in order: a write is there, or not,
//! or some of its 512-octet sectors are; a file was cut, or not; a name was made or removed, or not. That is more than
//! Linux file systems do to anybody (they keep the order of changes to names and sizes, and put a new file's name on disk
//! with its first fsync), so who survives it survives them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::trace::{At, Op};

/// A disk gives this or that up in units of it.
const SECTOR: usize = 512;

/// SplitMix64: the same seed, the same images.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn percent(&mut self, p: usize) -> bool {
        self.below(100) < p
    }
}

/// What becomes of the operations in the cache.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// All are lost.
    Lost,
    /// All have made it.
    Kept,
    /// The first so many percent have made it, the one after them is torn.
    InOrder(usize),
    /// Each with a chance of its own: kept, and of the others one in three is torn.
    Chance(usize),
    /// All but one in so many.
    AllBut(usize),
}

impl Fate {
    pub fn any(rng: &mut Rng) -> Fate {
        match rng.below(8) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            2 | 3 => Fate::InOrder(rng.below(101)),
            4 => Fate::AllBut(1 + rng.below(6)),
            _ => Fate::Chance(5 + rng.below(91)),
        }
    }

    fn of(self, rng: &mut Rng, n: usize, all: usize) -> Outcome {
        let kept = match self {
            Fate::Lost => false,
            Fate::Kept => true,
            Fate::InOrder(percent) => match n.cmp(&(all * percent / 100)) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => return Outcome::Torn,
                std::cmp::Ordering::Greater => false,
            },
            Fate::AllBut(n) => rng.below(n) != 0,
            Fate::Chance(p) => {
                if rng.percent(p) {
                    true
                } else if rng.percent(33) {
                    return Outcome::Torn;
                } else {
                    false
                }
            }
        };
        if kept { Outcome::Kept } else { Outcome::Lost }
    }
}

enum Outcome {
    Kept,
    Torn,
    Lost,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Arc<[u8]>),
    Truncate(usize),
}

#[derive(Debug, Clone)]
enum Name {
    Made(String, usize),
    Gone(String),
}

#[derive(Debug, Default, Clone)]
struct File {
    certain: Vec<u8>,
    cached: Vec<(At, Change)>,
}

/// How honest the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// An fsync returns when it is done.
    Honest,
    /// An fsync does nothing; what is older than so many operations is on disk.
    Lies(usize),
}

/// The files of a store on such a disk.
#[derive(Debug)]
pub struct Model {
    disk: Disk,
    files: Vec<File>,
    /// The names as the running system sees them.
    names: BTreeMap<String, usize>,
    certain: BTreeMap<String, usize>,
    cached: Vec<(At, Name)>,
}

impl Model {
    pub fn new(disk: Disk) -> Model {
        Model {
            disk,
            files: Vec::new(),
            names: BTreeMap::new(),
            certain: BTreeMap::new(),
            cached: Vec::new(),
        }
    }

    pub fn apply(&mut self, at: At, op: &Op) {
        match op {
            Op::Create(name) => {
                self.names.insert(name.clone(), self.files.len());
                self.cached.push((at, Name::Made(name.clone(), self.files.len())));
                self.files.push(File::default());
            }
            Op::Unlink(name) => {
                self.names.remove(name);
                self.cached.push((at, Name::Gone(name.clone())));
            }
            Op::Write(name, offset, octets) => {
                let change = Change::Write(*offset, Arc::clone(octets));
                self.file(name).cached.push((at, change));
            }
            Op::Truncate(name, size) => self.file(name).cached.push((at, Change::Truncate(*size))),
            Op::Sync(name, before) if self.disk == Disk::Honest => {
                let before = *before;
                self.file(name).settle(before);
            }
            Op::SyncNames(before) if self.disk == Disk::Honest => self.settle(*before),
            Op::Sync(..) | Op::SyncNames(_) | Op::Acked(_) | Op::Paid(..) => {}
        }
        if let Disk::Lies(behind) = self.disk {
            let before = at.saturating_sub(behind);
            self.settle(before);
            self.files.iter_mut().for_each(|f| f.settle(before));
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        let at = *self.names.get(name).unwrap_or_else(|| panic!("no file {name}"));
        &mut self.files[at]
    }

    fn settle(&mut self, before: At) {
        while self.cached.first().is_some_and(|(at, _)| *at < before) {
            rename(&mut self.certain, &self.cached.remove(0).1);
        }
    }

    /// The files as a power cut now may leave them.
    pub fn cut(&self, rng: &mut Rng, fate: Fate) -> BTreeMap<String, Vec<u8>> {
        let mut names = self.certain.clone();
        for (n, (_, name)) in self.cached.iter().enumerate() {
            if let Outcome::Kept = fate.of(rng, n, self.cached.len()) {
                rename(&mut names, name);
            }
        }
        names
            .into_iter()
            .map(|(name, file)| (name, self.files[file].cut(rng, fate)))
            .collect()
    }

    /// The files as the running system sees them.
    pub fn now(&self) -> BTreeMap<String, Vec<u8>> {
        self.cut(&mut Rng(0), Fate::Kept)
    }
}

fn rename(names: &mut BTreeMap<String, usize>, change: &Name) {
    match change {
        Name::Made(name, file) => {
            names.insert(name.clone(), *file);
        }
        Name::Gone(name) => {
            names.remove(name);
        }
    }
}

impl File {
    fn settle(&mut self, before: At) {
        let n = self.cached.partition_point(|(at, _)| *at < before);
        for (_, change) in self.cached.drain(..n) {
            change.apply(&mut self.certain);
        }
    }

    fn cut(&self, rng: &mut Rng, fate: Fate) -> Vec<u8> {
        let mut octets = self.certain.clone();
        for (n, (_, change)) in self.cached.iter().enumerate() {
            match fate.of(rng, n, self.cached.len()) {
                Outcome::Kept => change.apply(&mut octets),
                Outcome::Torn => change.tear(&mut octets, rng),
                Outcome::Lost => {}
            }
        }
        octets
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Write(offset, octets) => put(to, *offset, octets),
            Change::Truncate(size) => to.resize(*size, 0),
        }
    }

    /// Some of its sectors; a cut of the file is whole or not at all.
    fn tear(&self, to: &mut Vec<u8>, rng: &mut Rng) {
        let Change::Write(offset, octets) = self else {
            return;
        };
        let mut from = 0;
        while from < octets.len() {
            let room = SECTOR - (offset + from) % SECTOR;
            let end = (from + room).min(octets.len());
            if rng.percent(50) {
                put(to, offset + from, &octets[from..end]);
            }
            from = end;
        }
    }
}

fn put(to: &mut Vec<u8>, offset: usize, octets: &[u8]) {
    let end = offset + octets.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(octets);
}

/// Puts files into a folder that holds nothing else.
pub fn write(files: &BTreeMap<String, Vec<u8>>, dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (name, octets) in files {
        std::fs::write(dir.join(name), octets).unwrap();
    }
}
