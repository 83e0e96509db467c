use super::*;
use crate::domain::message::{Message, Parts};

fn upstream(queue_max: usize, tps: u32) -> Upstream {
    let options = UpstreamOptions {
        name: "up".into(),
        queue_max,
        tps,
        retry_min_ms: 100,
        retry_max_ms: 1_000,
        unknown_outcome: UnknownOutcome::Resend,
        unknown_resend_max: 1,
        id_form: None,
        rejoins: false,
        ..UpstreamOptions::default()
    };
    Upstream::new(UpstreamId(0), options, 1)
}

fn message(key: u64) -> Outgoing {
    Outgoing {
        key: MessageKey(key),
        piece: Piece::WHOLE,
        out: None,
        account: AccountId(1),
        at_ms: key,
        expires_ms: 1_000_000,
        attempts: 0,
        unanswered: 0,
        segments: 1,
        message: Message::new(&Parts::default()),
    }
}

fn keys(t: &Taken) -> Vec<u64> {
    t.out.iter().map(|m| m.key.0).collect()
}

#[test]
fn beyond_the_bound_only_keys_are_kept_and_the_order_stays() {
    let u = upstream(4, 0);
    assert_eq!(u.push((0..6).map(message)), [4, 5].map(MessageKey));
    assert_eq!(u.depth(), (4, 2));
    let first = u.take(0, 3, 0);
    assert_eq!(keys(&first), [0, 1, 2]);
    assert!(first.low);
    assert_eq!(u.push([message(6)]).len(), 1);
    assert_eq!(u.refill(10), [4, 5, 6].map(MessageKey));
    u.push_loaded([message(4), message(5), message(6)], 0);
    assert_eq!(keys(&u.take(0, 9, 0)), [3, 4, 5, 6]);
}

#[test]
fn retries_pause_double_and_end_with_the_validity() {
    let u = upstream(10, 0);
    let mut m = message(1);
    m.expires_ms = 350;
    u.retry(m, 0);
    assert_eq!(u.take(0, 9, 0).again_ms, Some(100));
    let m = u.take(0, 9, 100).out.remove(0);
    u.retry(m, 100);
    assert_eq!(u.take(0, 9, 299).again_ms, Some(300));
    let m = u.take(0, 9, 300).out.remove(0);
    u.retry(m, 300);
    assert_eq!(u.take(0, 9, 350).expired, [(MessageKey(1), Piece::WHOLE)]);
}

#[test]
fn pacing_never_exceeds_the_rate_and_uses_it() {
    for tps in [1u32, 10, 100, 1_000, 5_000] {
        let u = upstream(100_000, tps);
        assert!(u.push((0..40_000).map(message)).is_empty());
        let mut sent = Vec::new();
        let mut now = 1_000;
        while now < 4_000 {
            let t = u.take(0, usize::MAX, now);
            sent.extend(std::iter::repeat_n(now, t.out.len()));
            now = t.again_ms.unwrap_or(now + 1).max(now + 1);
        }
        for start in (1_000..3_000).step_by(50) {
            let n = sent
                .iter()
                .filter(|t| (start..start + 1_000).contains(*t))
                .count();
            assert!(n <= tps as usize, "{n} in a second at {tps}");
        }
        let total = sent.len() as f64 / 3.0;
        assert!(total >= f64::from(tps) * 0.97, "{total} at {tps}");
    }
}

#[test]
fn each_part_of_a_message_takes_its_turn() {
    let u = upstream(10, 1);
    assert!(u.push((0..3).map(message)).is_empty());
    assert_eq!(u.take(0, 1, 10_000).out.len(), 1);
    assert_eq!(u.turn(0, 10_000), Err(11_009));
    assert_eq!(u.turn(0, 11_009), Ok(()));
    assert!(u.take(0, 1, 11_010).out.is_empty(), "the part had the turn");
    assert_eq!(upstream(10, 0).turn(0, 0), Ok(()));
}

#[test]
fn what_waits_in_memory_can_be_withdrawn() {
    let u = upstream(2, 0);
    assert_eq!(u.push((0..5).map(message)).len(), 3);
    u.retry(message(9), 0);
    let in_hand = u.take(0, 1, 0).out;
    assert_eq!(in_hand.len(), 1);
    let wanted: BTreeSet<_> = [0, 1, 4, 9, 77].map(MessageKey).into();
    let mut got: Vec<_> = u
        .withdraw(|m| wanted.contains(&m.key))
        .into_iter()
        .map(|m| m.key)
        .collect();
    got.sort();
    assert_eq!(
        got,
        [1, 9].map(MessageKey),
        "0 is in a bind's hands, 4 in the store, 77 unknown"
    );
    u.forget_stored(1);
    assert_eq!(u.depth(), (0, 2), "4 has ended");
}

#[test]
fn large_messages_fill_the_queue_sooner() {
    let u = upstream(4, 0);
    let large = |key| Outgoing {
        message: Message::new(&Parts {
            text: &[0; 3000],
            ..Parts::default()
        }),
        ..message(key)
    };
    assert_eq!(u.push((0..4).map(large)).len(), 2);
}

/// Counts wake-ups.
#[derive(Default)]
struct Bell(AtomicU32);

impl Signal for Bell {
    fn signal(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn only_binds_that_can_send_and_have_nothing_to_do_are_woken() {
    let u = upstream(1_000, 0);
    let bells: Vec<Arc<Bell>> = (0..3).map(|_| Arc::new(Bell::default())).collect();
    for (i, bell) in bells.iter().enumerate() {
        u.register(i as u16, Arc::clone(bell) as Arc<dyn Signal>);
    }
    let rung = || [0, 1, 2].map(|i| bells[i].0.load(Ordering::Relaxed));
    // 2 is down (or a receiver); 0 and 1 found the lane empty.
    for bind in [0, 1] {
        u.sender_up(bind);
        assert!(u.take(bind, 5, 0).out.is_empty());
    }
    assert!(u.push([message(1)]).is_empty());
    assert_eq!(rung(), [1, 0, 0]);
    // 0 is full and does not come: the next message is for 1.
    assert!(u.push([message(2)]).is_empty());
    assert_eq!(rung(), [1, 1, 0]);
    // 1 takes one of the two; nobody is idle, so nobody is woken for the other.
    assert_eq!(u.take(1, 1, 0).out.len(), 1);
    assert_eq!(rung(), [1, 1, 0]);
    assert_eq!(u.take(1, 5, 0).out.len(), 1);
    assert!(u.push([message(3)]).is_empty());
    assert_eq!(rung(), [1, 2, 0]);
    // 1 is gone before it came; 0 has become idle meanwhile.
    u.sender_down(1);
    assert!(u.take(0, 0, 0).out.is_empty());
    assert_eq!(u.take(0, 5, 0).out.len(), 1);
}

#[test]
fn a_search_moves_what_can_go_and_keeps_the_order_of_what_stays() {
    let u = upstream(3, 0);
    assert_eq!(u.push((0..8).map(message)).len(), 5);
    u.search();
    let odd = |key: MessageKey| (key.0 % 2 == 1).then_some(UpstreamId(9));
    let first = u.reroute(4, odd).unwrap();
    assert_eq!(first.messages.len(), 1);
    assert_eq!(first.keys, [(UpstreamId(9), MessageKey(3))]);
    assert_eq!(first.stored, [0, 2].map(MessageKey));
    assert_eq!(u.push([message(8)]), [MessageKey(8)], "newer ones queue behind");
    assert_eq!(u.reroute(100, odd).unwrap().keys.len(), 2);
    assert!(u.reroute(100, odd).is_none());
    assert_eq!(u.refill(10), [0, 2, 4].map(MessageKey));
}

#[test]
fn unanswered_is_resent_once_and_then_held() {
    let u = upstream(10, 0);
    let again = u.unanswered(message(1)).unwrap();
    assert!(matches!(
        u.unanswered(again),
        Err(UpEvent::Held(MessageKey(1), Piece::WHOLE))
    ));
}

fn of(account: u32, level: u8, key: u64) -> Outgoing {
    let flags = crate::domain::message::Flags::default().with_level(level);
    Outgoing {
        account: AccountId(account),
        message: Message::new(&Parts {
            flags,
            ..Parts::default()
        }),
        ..message(key)
    }
}

/// Reads back what runs low, as the engine does.
fn refill(u: &Upstream, account: u32) {
    loop {
        let keys = u.refill(500);
        if keys.is_empty() {
            return;
        }
        u.push_loaded(keys.iter().map(|k| of(account, 0, k.0)), 0);
    }
}

#[test]
fn a_million_messages_of_one_customer_cost_an_urgent_one_of_another_a_slot_of_the_pacer() {
    let tps = 100;
    let u = upstream(50_000, tps);
    let stored = u.push((0..1_000_000).map(|key| of(1, 0, key)));
    assert_eq!(stored.len(), 950_000);
    let (mut now, mut taken) = (10_000, 0);
    let mut ask = |now: u64, ours: u64| {
        let t = u.take(0, 10, now);
        if t.low {
            refill(&u, 1);
        }
        taken += t.out.len();
        let found = t.out.iter().any(|m| m.key.0 == ours);
        (found, t.again_ms.unwrap_or(now + 1).max(now + 1))
    };
    for n in 0..500u64 {
        // At any moment, with any backlog before it.
        let at = now + n % 13;
        let key = 2_000_000 + n;
        assert!(u.push([of(2, if n % 2 == 0 { 3 } else { 0 }, key)]).is_empty());
        now = at;
        loop {
            let (found, again) = ask(now, key);
            if found {
                break;
            }
            now = again;
        }
        let slot = 1_020 / u64::from(tps) + 1;
        // Its own slot, and one before it.
        assert!(now - at <= 2 * slot, "{} ms", now - at);
    }
    assert!(taken > 500);
}

#[test]
fn a_refusal_takes_its_turn_again_and_not_before_the_others() {
    let u = upstream(100, 0);
    assert!(u.push((0..10).map(|key| of(1, 0, key))).is_empty());
    let refused = u.take(0, 10, 0).out;
    refused.into_iter().for_each(|m| u.retry(m, 0));
    assert!(u.push([of(2, 0, 77)]).is_empty());
    let order = keys(&u.take(0, 20, 5_000));
    assert_eq!(order.len(), 11);
    assert!(order.iter().position(|k| *k == 77) <= Some(1), "{order:?}");
    let rest: Vec<u64> = order.into_iter().filter(|k| *k != 77).collect();
    assert_eq!(rest, (0..10).collect::<Vec<_>>(), "and keep their order");
}

#[test]
fn each_bind_has_a_contract_of_its_own_beside_that_of_all() {
    let options = UpstreamOptions {
        tps: 100,
        bind_tps: 40,
        ..upstream(1_000, 0).options
    };
    let u = Upstream::new(UpstreamId(0), options, 4);
    assert!(u.push((0..1_000).map(message)).is_empty());
    let mut sent = [0usize; 4];
    for now in 1_000..2_000u64 {
        for bind in 0..4 {
            // The first asks first: it must not get more than its own.
            sent[usize::from(bind)] += u.take(bind, 10, now).out.len();
        }
    }
    assert!(sent.iter().all(|n| *n <= 40), "{sent:?}");
    let all: usize = sent.iter().sum();
    assert!((97..=100).contains(&all), "{sent:?}");
}
