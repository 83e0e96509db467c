//! Who is checked next: one at a time, each address in its turn, so that one host that knocks a thousand times makes nobody else
//! wait; and a pause for those who keep failing.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Lets one through at a time, going round among the addresses that wait.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    taken: bool,
    waiting: usize,
    /// Addresses with somebody waiting, next first.
    turns: VecDeque<IpAddr>,
    by_ip: HashMap<IpAddr, VecDeque<oneshot::Sender<Turn>>>,
}

/// The right to be checked now; the next one's turn comes when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Turnstile>>);

/// Too many wait already.
#[derive(Debug)]
pub(super) struct Full;

impl Turnstile {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn, unless `max` wait already.
    pub async fn enter(self: &Arc<Self>, ip: IpAddr, max: usize) -> Result<Turn, Full> {
        let waits = {
            let mut line = self.line();
            if !line.taken {
                line.taken = true;
                return Ok(Turn(Some(Arc::clone(self))));
            }
            if line.waiting >= max {
                return Err(Full);
            }
            let (tx, rx) = oneshot::channel();
            let queue = line.by_ip.entry(ip).or_default();
            queue.push_back(tx);
            if queue.len() == 1 {
                line.turns.push_back(ip);
            }
            line.waiting += 1;
            rx
        };
        // The turn itself is sent, so that one that arrives where nobody listens any more goes on to the next.
        waits.await.map_err(|_| Full)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turnstile) = self.0.take() else { return };
        let mut line = turnstile.line();
        while let Some(ip) = line.turns.pop_front() {
            let Some(queue) = line.by_ip.get_mut(&ip) else {
                continue;
            };
            let next = queue.pop_front();
            if queue.is_empty() {
                line.by_ip.remove(&ip);
            } else {
                line.turns.push_back(ip);
            }
            line.waiting -= 1;
            match next.map(|n| n.send(Turn(Some(Arc::clone(&turnstile))))) {
                Some(Ok(())) => return,
                // Its connection is gone; the turn is still ours to give.
                Some(Err(mut turn)) => turn.0 = None,
                None => {}
            }
        }
        line.taken = false;
    }
}

/// Failures after which answers begin to wait.
const FREE: u32 = 5;
/// The first pause; it doubles with each further failure.
const FIRST_MS: u64 = 100;
/// One failure is forgiven in this time.
const FORGIVE_MS: u64 = 10_000;
/// Who has failed, at most; beyond, the oldest entries go.
const ENTRIES_MAX: usize = 20_000;

/// Failed binds by whoever failed.
#[derive(Debug)]
pub(super) struct Failures<K> {
    longest_ms: u64,
    by: Mutex<HashMap<K, (u32, u64)>>,
}

impl<K: std::hash::Hash + Eq> Failures<K> {
    /// Pauses of at most `longest_ms`.
    pub fn new(longest_ms: u64) -> Failures<K> {
        Failures {
            longest_ms,
            by: Mutex::default(),
        }
    }

    /// How long the next answer waits.
    pub fn pause_ms(&self, who: &K, now_ms: u64) -> u64 {
        let by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        let n = by.get(who).map_or(0, |(n, at)| forgiven(*n, *at, now_ms));
        match n.checked_sub(FREE) {
            None => 0,
            Some(over) => (FIRST_MS << over.min(20)).min(self.longest_ms),
        }
    }

    /// One more failure.
    pub fn failed(&self, who: K, now_ms: u64) {
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        if by.len() >= ENTRIES_MAX {
            by.retain(|_, (n, at)| forgiven(*n, *at, now_ms) > 0);
            if by.len() >= ENTRIES_MAX {
                by.clear();
            }
        }
        let entry = by.entry(who).or_insert((0, now_ms));
        *entry = (forgiven(entry.0, entry.1, now_ms).saturating_add(1), now_ms);
    }
}

fn forgiven(n: u32, at_ms: u64, now_ms: u64) -> u32 {
    let passed = now_ms.saturating_sub(at_ms) / FORGIVE_MS;
    n.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[tokio::test]
    async fn addresses_take_turns_however_many_knock_from_one() {
        let t = Arc::new(Turnstile::default());
        let first = t.enter(ip(1), 100).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for n in [1u8, 1, 1, 2, 3] {
            let (t, order) = (Arc::clone(&t), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let turn = t.enter(ip(n), 100).await.unwrap();
                order.lock().unwrap().push(n);
                drop(turn);
            }));
            // On one thread, each is in line before the next comes.
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [1, 2, 3, 1, 1]);
    }

    #[tokio::test]
    async fn beyond_the_bound_nobody_waits_and_one_who_left_is_passed_over() {
        let t = Arc::new(Turnstile::default());
        let first = t.enter(ip(1), 1).await.unwrap();
        let gone = tokio::spawn({
            let t = Arc::clone(&t);
            async move { t.enter(ip(2), 1).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        assert!(t.enter(ip(3), 1).await.is_err());
        gone.abort();
        let _aborted = gone.await;
        drop(first);
        assert!(t.enter(ip(3), 1).await.is_ok());
    }

    #[test]
    fn pauses_grow_with_failures_and_are_forgiven() {
        let f = Failures::new(2_000);
        for i in 0..5 {
            assert_eq!(f.pause_ms(&"a", i), 0);
            f.failed("a", i);
        }
        assert_eq!(f.pause_ms(&"a", 5), 100);
        (0..20).for_each(|_| f.failed("a", 5));
        assert_eq!((f.pause_ms(&"a", 5), f.pause_ms(&"b", 5)), (2_000, 0));
        assert_eq!(f.pause_ms(&"a", 5 + 21 * FORGIVE_MS), 0);
    }
}
