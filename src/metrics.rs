//! Prometheus metrics: names, help texts and cached handles in one place.
//!
//! Labels are bounded: upstream names, command names and statuses of the protocol's tables, refusal reasons. Never an
//! account's customer, a number or a text.

pub use metrics::Counter;
use metrics::{
    Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::money::Money;

/// The words of one label, in the order of the numbers that stand for them.
pub type Words<'a> = &'a [&'static str];

/// Handles for what the hot path counts. Without an installed recorder they cost a branch each.
#[derive(Clone)]
pub struct Metrics {
    accepted: Counter,
    segments: Counter,
    refused: Vec<Counter>,
    charged: Counter,
    refunded: Counter,
    finished: Vec<Counter>,
    /// Receipts without a known message.
    pub unmatched: Counter,
    /// Parked receipts given up: too old, or too many.
    pub parked_dropped: Counter,
    /// Inbound messages that no rule claims.
    pub inbound_unclaimed: Counter,
    /// Receipts and inbound messages dropped after `receipt_keep_s`.
    pub outbox_expired: Counter,
    commit_rows: Histogram,
    commit_seconds: Histogram,
    /// submit_sm read to its response written, seconds.
    pub submit_seconds: Histogram,
    /// submit_sm written upstream to its response read, seconds.
    pub response_seconds: Histogram,
    /// Accepted by the upstream to its final receipt, seconds.
    pub receipt_seconds: Histogram,
    /// Bound customer sessions.
    pub sessions: Gauge,
    /// Connections that failed to bind.
    pub bind_failures: Counter,
    /// Accounts below their low-balance threshold.
    pub wallets_low: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Handles bound to the recorder installed at this moment. `reasons`: the label of each refusal; `states`: of each final
    /// state.
    #[must_use]
    pub fn new(reasons: Words<'_>, states: Words<'_>) -> Metrics {
        describe();
        let each =
            |words: Words<'_>, make: fn(&'static str) -> Counter| words.iter().map(|w| make(w)).collect();
        Metrics {
            accepted: counter!("smsconnect_submits_accepted_total"),
            segments: counter!("smsconnect_segments_total"),
            refused: each(
                reasons,
                |word| counter!("smsconnect_submits_refused_total", "reason" => word),
            ),
            charged: counter!("smsconnect_charged_micros_total"),
            refunded: counter!("smsconnect_refunded_micros_total"),
            finished: each(
                states,
                |word| counter!("smsconnect_messages_finished_total", "state" => word),
            ),
            unmatched: counter!("smsconnect_receipts_unmatched_total"),
            parked_dropped: counter!("smsconnect_receipts_parked_dropped_total"),
            inbound_unclaimed: counter!("smsconnect_inbound_unclaimed_total"),
            outbox_expired: counter!("smsconnect_outbox_expired_total"),
            commit_rows: histogram!("smsconnect_commit_rows"),
            commit_seconds: histogram!("smsconnect_commit_seconds"),
            submit_seconds: histogram!("smsconnect_submit_response_seconds"),
            response_seconds: histogram!("smsconnect_upstream_response_seconds"),
            receipt_seconds: histogram!("smsconnect_receipt_seconds"),
            sessions: gauge!("smsconnect_sessions"),
            wallets_low: gauge!("smsconnect_wallets_low"),
            bind_failures: counter!("smsconnect_bind_failures_total"),
        }
    }

    /// Submits of one read that were admitted, and their segments.
    pub fn admitted(&self, messages: u64, segments: u64) {
        self.accepted.increment(messages);
        self.segments.increment(segments);
    }

    /// A refused submit, by the number of its reason.
    pub fn refused(&self, reason: usize) {
        if let Some(counter) = self.refused.get(reason) {
            counter.increment(1);
        }
    }

    /// A message that ended, by the number of its state.
    pub fn finished(&self, state: usize) {
        if let Some(counter) = self.finished.get(state) {
            counter.increment(1);
        }
    }

    /// Money moved by one commit.
    pub fn charged(&self, charge: Money, refund: Money) {
        self.charged.increment(charge.0.unsigned_abs());
        self.refunded.increment(refund.0.unsigned_abs());
    }

    /// One commit.
    pub fn commit(&self, rows: usize, us: u64) {
        self.commit_rows.record(rows as f64);
        self.commit_seconds.record(us as f64 / 1e6);
    }
}

/// The counter of one kind of PDU. `side` is `customer` or `upstream`, `direction` `in` or `out`, `status` that of a
/// response and empty for a request.
pub fn pdus(
    side: &'static str,
    direction: &'static str,
    command: &'static str,
    status: &'static str,
) -> Counter {
    counter!("smsconnect_pdus_total", "side" => side, "direction" => direction, "command" => command, "status" => status)
}

/// A message that was refused since its number is suppressed, by the scope of the entry.
pub fn suppression_hit(scope: &'static str) {
    counter!("smsconnect_suppression_hits_total", "scope" => scope).increment(1);
}

/// A text that a rule of the config hit.
pub fn content_hit(rule: &str, action: &'static str) {
    counter!("smsconnect_content_hits_total", "rule" => rule.to_string(), "action" => action).increment(1);
}

/// An inbound message, by what became of it.
pub fn inbound(outcome: &'static str) {
    counter!("smsconnect_inbound_total", "outcome" => outcome).increment(1);
}

/// A rule against abuse has tripped.
pub fn case_opened(kind: &'static str) {
    counter!("smsconnect_cases_opened_total", "kind" => kind).increment(1);
}

/// What waits, and how many numbers must not be sent to.
pub fn rule_gauges(held: u64, waiting: u64, unclaimed: u64, suppressed: usize) {
    gauge!("smsconnect_messages_held").set(held as f64);
    gauge!("smsconnect_messages_waiting").set(waiting as f64);
    gauge!("smsconnect_inbound_unclaimed").set(unclaimed as f64);
    gauge!("smsconnect_suppressed_numbers").set(suppressed as f64);
}

/// A request over the admin socket.
pub fn admin_request(method: &'static str, outcome: &'static str) {
    counter!("smsconnect_admin_requests_total", "method" => method, "outcome" => outcome).increment(1);
}

/// What is read from the gateway's state when Prometheus asks.
pub fn upstream_gauges(
    upstream: &str,
    bound: usize,
    binds: usize,
    outstanding: u32,
    waiting: usize,
    stored: usize,
    age_ms: u64,
) {
    let set = |name: &'static str, value: f64| gauge!(name, "upstream" => upstream.to_string()).set(value);
    set("smsconnect_upstream_binds", binds as f64);
    set("smsconnect_upstream_bound", bound as f64);
    set("smsconnect_upstream_outstanding", f64::from(outstanding));
    set("smsconnect_queue_messages", (waiting + stored) as f64);
    set("smsconnect_queue_stored_messages", stored as f64);
    set("smsconnect_queue_age_seconds", age_ms as f64 / 1e3);
}

/// How many of an upstream's receipts find their messages.
pub fn upstream_matching(upstream: &str, matched: u64, unmatched: u64, rate: f64, alarm: bool, window: u32) {
    let label = || upstream.to_string();
    counter!("smsconnect_upstream_receipts_matched_total", "upstream" => label()).absolute(matched);
    gauge!("smsconnect_upstream_receipts_unmatched", "upstream" => label()).set(unmatched as f64);
    gauge!("smsconnect_upstream_receipt_match_ratio", "upstream" => label()).set(rate);
    gauge!("smsconnect_upstream_receipt_match_alarm", "upstream" => label()).set(f64::from(u8::from(alarm)));
    gauge!("smsconnect_upstream_window", "upstream" => label()).set(f64::from(window));
}

/// Counters kept by an upstream itself.
pub fn upstream_counters(upstream: &str, sent: u64, throttled: u64, refused: u64, receipts: u64) {
    let set =
        |name: &'static str, value: u64| counter!(name, "upstream" => upstream.to_string()).absolute(value);
    set("smsconnect_upstream_sent_total", sent);
    set("smsconnect_upstream_throttled_total", throttled);
    set("smsconnect_upstream_refused_total", refused);
    set("smsconnect_upstream_receipts_total", receipts);
}

/// Gauges of the store and the engine.
pub fn engine_gauges(open: u64, parked: u64, sealing: u64, log_bytes: u64, held: Money, store_ok: bool) {
    gauge!("smsconnect_open_messages").set(open as f64);
    gauge!("smsconnect_parked_receipts").set(parked as f64);
    gauge!("smsconnect_segments_to_seal").set(sealing as f64);
    gauge!("smsconnect_store_log_bytes").set(log_bytes as f64);
    gauge!("smsconnect_wallet_held_micros").set(held.0 as f64);
    gauge!("smsconnect_store_writable").set(f64::from(u8::from(store_ok)));
}

/// Bucket bounds in seconds: half a millisecond to half a minute.
pub const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0,
];
/// Bucket bounds of receipts: handsets that are switched off answer days later.
pub const RECEIPT_SECONDS: [f64; 14] = [
    0.01, 0.05, 0.2, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0, 21_600.0, 86_400.0, 259_200.0,
];
/// Bucket bounds for rows in a commit.
pub const ROWS: [f64; 12] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
];

fn describe() {
    for (name, help) in [
        (
            "smsconnect_submits_accepted_total",
            "Submits that passed admission",
        ),
        ("smsconnect_submits_refused_total", "Submits refused, by reason"),
        ("smsconnect_segments_total", "Segments of accepted submits"),
        (
            "smsconnect_suppression_hits_total",
            "Submits refused since their number is suppressed, by scope of the entry",
        ),
        (
            "smsconnect_content_hits_total",
            "Texts that a content rule hit, by rule and action",
        ),
        (
            "smsconnect_inbound_total",
            "Inbound messages by outcome: delivered, unclaimed; and stop and start, which are delivered too",
        ),
        (
            "smsconnect_cases_opened_total",
            "Rules against abuse that have tripped, by kind",
        ),
        (
            "smsconnect_charged_micros_total",
            "Money charged, in millionths of the currency unit",
        ),
        (
            "smsconnect_refunded_micros_total",
            "Money given back, in millionths of the currency unit",
        ),
        (
            "smsconnect_messages_finished_total",
            "Messages that ended, by final state",
        ),
        (
            "smsconnect_receipts_unmatched_total",
            "Receipts without a known message, parked",
        ),
        (
            "smsconnect_receipts_parked_dropped_total",
            "Parked receipts given up after parked_keep_s or beyond parked_max",
        ),
        (
            "smsconnect_inbound_unclaimed_total",
            "Mobile-originated messages that no [[inbound]] rule claims",
        ),
        (
            "smsconnect_outbox_expired_total",
            "Receipts and inbound messages dropped after receipt_keep_s",
        ),
        ("smsconnect_bind_failures_total", "Customer binds refused"),
        (
            "smsconnect_pdus_total",
            "PDUs by side, direction, command and status",
        ),
        (
            "smsconnect_upstream_sent_total",
            "Messages accepted by the upstream",
        ),
        (
            "smsconnect_upstream_throttled_total",
            "Temporary refusals by the upstream (ESME_RTHROTTLED, ESME_RMSGQFUL)",
        ),
        (
            "smsconnect_upstream_refused_total",
            "Messages the upstream refused for good",
        ),
        ("smsconnect_upstream_receipts_total", "Receipts from the upstream"),
        (
            "smsconnect_upstream_receipts_matched_total",
            "Receipts from the upstream that found their message",
        ),
        (
            "smsconnect_admin_requests_total",
            "Requests over the admin socket, by method and outcome",
        ),
    ] {
        describe_counter!(name, help);
    }
    for (name, help) in [
        ("smsconnect_sessions", "Bound customer sessions"),
        (
            "smsconnect_wallets_low",
            "Accounts whose available money is below their low_balance",
        ),
        ("smsconnect_upstream_binds", "Binds configured for the upstream"),
        ("smsconnect_upstream_bound", "Binds of the upstream that are up"),
        (
            "smsconnect_upstream_outstanding",
            "Unanswered requests at the upstream",
        ),
        ("smsconnect_queue_messages", "Messages waiting for the upstream"),
        (
            "smsconnect_queue_stored_messages",
            "Messages waiting for the upstream in the store only",
        ),
        (
            "smsconnect_upstream_receipts_unmatched",
            "Receipts from the upstream that found no message so far",
        ),
        (
            "smsconnect_upstream_receipt_match_ratio",
            "Share of about the last hundred receipts that found their message; 1 before there were fifty",
        ),
        (
            "smsconnect_upstream_receipt_match_alarm",
            "1 while fewer than nine in ten receipts find their message: look at upstream show, id_format",
        ),
        (
            "smsconnect_upstream_window",
            "Unanswered submits that the upstream's binds may have now, as it has answered so far",
        ),
        (
            "smsconnect_queue_age_seconds",
            "Age of the oldest message waiting in memory for the upstream",
        ),
        (
            "smsconnect_wallet_held_micros",
            "Money set aside for open messages, in millionths of the currency unit",
        ),
        ("smsconnect_open_messages", "Messages accepted and not final"),
        ("smsconnect_parked_receipts", "Receipts waiting for their message"),
        (
            "smsconnect_segments_to_seal",
            "Full journal segments waiting to be sealed",
        ),
        (
            "smsconnect_store_log_bytes",
            "Octets of the write-ahead log that have not been moved into the store",
        ),
        ("smsconnect_store_writable", "1 while the store takes writes"),
    ] {
        describe_gauge!(name, help);
    }
    describe_histogram!("smsconnect_commit_rows", "Rows in one commit");
    for (name, help) in [
        ("smsconnect_commit_seconds", "Time of one commit, fsync included"),
        (
            "smsconnect_submit_response_seconds",
            "submit_sm read to its response",
        ),
        (
            "smsconnect_upstream_response_seconds",
            "submit_sm written to an upstream to its response",
        ),
        (
            "smsconnect_receipt_seconds",
            "Message taken by an upstream to its final receipt",
        ),
    ] {
        describe_histogram!(name, Unit::Seconds, help);
    }
}
