//! What message policy costs a submit: suppressed numbers, ten million of them, and admission with every rule there is.
//!
//! `cargo bench --bench policy`

#[path = "bed.rs"]
mod bed;

use std::sync::{Arc, OnceLock};

use bed::{submission, world};
use divan::{Bencher, black_box};
use smsconnect::domain::content::{Action, ContentRule, Patterns};
use smsconnect::domain::frequency::{AbuseRule, Counts};
use smsconnect::domain::sender::{PROMOTIONAL, Registry, Sender, Standing, TRANSACTIONAL};
use smsconnect::domain::suppression::Scope;
use smsconnect::flow::rules::{ClassRule, Rules};
use smsconnect::flow::{AccountState, Gateway, Policy, admit};
use smsconnect::store::SubjectKey;

/// Entries, as a country's platform might have them after years.
const ENTRIES: u32 = 10_000_000;

fn main() {
    let (gateway, _) = filled();
    println!(
        "{} suppressed numbers in {} octets",
        gateway.live.suppressed(),
        gateway.live.suppressed_octets()
    );
    divan::main();
}

/// One gateway for all: making ten million entries takes a while.
fn filled() -> &'static (Arc<Gateway>, Arc<AccountState>) {
    static WORLD: OnceLock<(Arc<Gateway>, Arc<AccountState>)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (gateway, account) = world(1, 0);
        gateway.live.set_key(SubjectKey::new(&[7; 32]));
        for n in 0..ENTRIES {
            let number = format!("2547{n:08}");
            let subject = gateway.live.subject(number.as_bytes()).unwrap_or_default();
            let scope = match n % 3 {
                0 => Scope::Platform,
                1 => Scope::Account(account.id),
                _ => Scope::Sender(account.id, "acme".into()),
            };
            gateway.live.suppress(&subject, &scope, false);
        }
        (gateway, account)
    })
}

/// Numbers that are not suppressed, a million of them so that caches do not help.
fn strangers() -> Vec<Vec<u8>> {
    let number = |n: u32| format!("2541{:08}", n.wrapping_mul(2_654_435_761) % 100_000_000).into_bytes();
    (0..1_000_000).map(number).collect()
}

/// One number against the three scopes that may stop it: one HMAC and three searches.
#[divan::bench(sample_size = 2_000)]
fn suppression_of_ten_million(bencher: Bencher) {
    let (gateway, account) = filled();
    let numbers = strangers();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % numbers.len();
        gateway
            .live
            .stops(account.id, b"ACME", black_box(&numbers[at]), false)
            .is_some()
    });
}

fn sender(id: String, class: &str) -> Sender {
    Sender {
        id,
        class: class.into(),
        standing: Standing::Active,
        ..Sender::default()
    }
}

/// Every rule: a thousand senders and reserved names, hours, an opt-out, a cap, words, velocity.
fn everything(gateway: &Gateway, suffix: &str) -> Policy {
    let mut senders: Vec<Sender> = (0..1_000)
        .map(|n| sender(format!("SHOP{n}"), TRANSACTIONAL))
        .collect();
    senders.push(sender("ACME".into(), PROMOTIONAL));
    let words: Vec<String> = ["jackpot", "casino", "free money", "send your pin"]
        .map(String::from)
        .into();
    let patterns = Patterns {
        words: &words,
        ..Patterns::default()
    };
    let content = ContentRule::new("words", &[], &[], Action::Reject, &patterns);
    let rules = Rules {
        registry: Registry::new(senders, &["M-PESA".to_string(), "KRA".to_string()]).unwrap_or_default(),
        classes: vec![ClassRule {
            hours: smsconnect::domain::window::Daily::parse("00:00-23:59", 180),
            suffix: suffix.into(),
            cap: 100,
            ..Rules::by_day()
        }],
        content: content.into_iter().collect(),
        abuse: vec![AbuseRule {
            name: "velocity".into(),
            counts: Counts::Messages,
            accounts: Vec::new(),
            limit: u32::MAX,
            span_s: 60,
        }],
        ..Rules::default()
    };
    gateway.live.refresh(&rules);
    Policy {
        rules,
        classes: vec![String::new(), PROMOTIONAL.into(), TRANSACTIONAL.into()],
        ..(*gateway.policy.load_full()).clone()
    }
}

fn bench(bencher: Bencher, policy: &Policy) {
    let (gateway, account) = filled();
    let numbers = strangers();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % numbers.len();
        // Half a second more each time, so that the hours of the day go by too.
        let now = 36_000_000 + at as u64 * 500 % 40_000_000;
        match admit(
            gateway,
            policy,
            account,
            black_box(&submission(&numbers[at])),
            now,
        ) {
            Ok(a) => {
                account.with_wallet(|w| w.release(a.hold));
                true
            }
            Err(_) => false,
        }
    });
}

/// Admission where nothing but ten million suppressed numbers is configured.
#[divan::bench(sample_size = 2_000)]
fn admission_with_suppression(bencher: Bencher) {
    let (gateway, _) = filled();
    let policy = gateway.policy.load_full();
    gateway.live.refresh(&policy.rules);
    bench(bencher, &policy);
}

/// Admission with every rule but the opt-out behind the text.
#[divan::bench(sample_size = 2_000)]
fn admission_with_every_rule(bencher: Bencher) {
    let policy = everything(&filled().0, "");
    bench(bencher, &policy);
}

/// And with that: the text is written anew, counted anew.
#[divan::bench(sample_size = 2_000)]
fn admission_with_every_rule_and_an_opt_out(bencher: Bencher) {
    let policy = everything(&filled().0, " STOP 22555");
    bench(bencher, &policy);
}
