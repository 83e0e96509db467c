//! Prometheus metrics: names, help texts and cached handles in one place.
//!
//! Labels are bounded: upstream names, command names and statuses of the protocol's tables, refusal reasons. Never an
//! account's customer, a number or a text.

pub use metrics::Counter;
use metrics::{
    Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::domain::outcome::Final;
use crate::domain::reject::Reject;
use crate::money::Money;

/// Handles for what the hot path counts. Without an installed recorder they cost a branch each.
#[derive(Clone)]
pub struct Metrics {
    accepted: Counter,
    segments: Counter,
    refused: [Counter; Reject::ALL.len()],
    charged: Counter,
    refunded: Counter,
    finished: [Counter; 9],
    /// Receipts without a known message.
    pub unmatched: Counter,
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
    /// Bound customer sessions.
    pub sessions: Gauge,
    /// Connections that failed to bind.
    pub bind_failures: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// Handles bound to the recorder installed at this moment.
    #[must_use]
    pub fn new() -> Metrics {
        describe();
        Metrics {
            accepted: counter!("smsconnect_submits_accepted_total"),
            segments: counter!("smsconnect_segments_total"),
            refused: Reject::ALL.map(|r| counter!("smsconnect_submits_refused_total", "reason" => r.name())),
            charged: counter!("smsconnect_charged_micros_total"),
            refunded: counter!("smsconnect_refunded_micros_total"),
            finished: std::array::from_fn(|code| {
                let state = Final::from_code(code as u8).map_or("none", Final::word);
                counter!("smsconnect_messages_finished_total", "state" => state)
            }),
            unmatched: counter!("smsconnect_receipts_unmatched_total"),
            inbound_unclaimed: counter!("smsconnect_inbound_unclaimed_total"),
            outbox_expired: counter!("smsconnect_outbox_expired_total"),
            commit_rows: histogram!("smsconnect_commit_rows"),
            commit_seconds: histogram!("smsconnect_commit_seconds"),
            submit_seconds: histogram!("smsconnect_submit_response_seconds"),
            response_seconds: histogram!("smsconnect_upstream_response_seconds"),
            sessions: gauge!("smsconnect_sessions"),
            bind_failures: counter!("smsconnect_bind_failures_total"),
        }
    }

    /// Submits of one read that were admitted, and their segments.
    pub fn admitted(&self, messages: u64, segments: u64) {
        self.accepted.increment(messages);
        self.segments.increment(segments);
    }

    /// A refused submit.
    pub fn refused(&self, reason: Reject) {
        if let Some(counter) = self.refused.get(reason as usize) {
            counter.increment(1);
        }
    }

    /// A message that ended.
    pub fn finished(&self, state: Final) {
        if let Some(counter) = self.finished.get(usize::from(state.code())) {
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

/// What is read from the gateway's state when Prometheus asks.
pub fn upstream_gauges(
    upstream: &str,
    bound: usize,
    binds: usize,
    outstanding: u32,
    waiting: usize,
    stored: usize,
) {
    let set = |name: &'static str, value: f64| gauge!(name, "upstream" => upstream.to_string()).set(value);
    set("smsconnect_upstream_binds", binds as f64);
    set("smsconnect_upstream_bound", bound as f64);
    set("smsconnect_upstream_outstanding", f64::from(outstanding));
    set("smsconnect_queue_messages", (waiting + stored) as f64);
    set("smsconnect_queue_stored_messages", stored as f64);
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
pub fn engine_gauges(open: u64, parked: u64, sealing: u64, store_ok: bool) {
    gauge!("smsconnect_open_messages").set(open as f64);
    gauge!("smsconnect_parked_receipts").set(parked as f64);
    gauge!("smsconnect_segments_to_seal").set(sealing as f64);
    gauge!("smsconnect_store_writable").set(f64::from(u8::from(store_ok)));
}

/// Bucket bounds in seconds: half a millisecond to half a minute.
pub const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0,
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
    ] {
        describe_counter!(name, help);
    }
    for (name, help) in [
        ("smsconnect_sessions", "Bound customer sessions"),
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
        ("smsconnect_open_messages", "Messages accepted and not final"),
        ("smsconnect_parked_receipts", "Receipts waiting for their message"),
        (
            "smsconnect_segments_to_seal",
            "Full journal segments waiting to be sealed",
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
    ] {
        describe_histogram!(name, Unit::Seconds, help);
    }
}
