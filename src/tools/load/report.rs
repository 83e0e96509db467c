//! The outcome of a load, for people and for scripts.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::LoadOptions;
use super::tally::Tally;
use crate::smpp::CommandStatus;

/// Latency in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50_ms: f64,
    /// 90 %.
    pub p90_ms: f64,
    /// 99 %.
    pub p99_ms: f64,
    /// 99.9 %.
    pub p999_ms: f64,
    /// Largest.
    pub max_ms: f64,
}

impl Percentiles {
    fn of(h: &Histogram<u64>) -> Percentiles {
        let at = |q: f64| h.value_at_quantile(q) as f64 / 1e3;
        Percentiles {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: h.max() as f64 / 1e3,
        }
    }
}

/// See the module's description.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// Binds and window used.
    pub binds: u32,
    /// Unanswered submits a bind.
    pub window: usize,
    /// Submits sent.
    pub sent: u64,
    /// Answered.
    pub answered: u64,
    /// Answered ESME_ROK.
    pub accepted: u64,
    /// Never answered: their connection broke.
    pub unanswered: u64,
    /// Connections that broke.
    pub broken: u64,
    /// Answers by status name.
    pub statuses: BTreeMap<String, u64>,
    /// From the first submit to the last response, seconds.
    pub seconds: f64,
    /// Answered per second over that time.
    pub per_second: f64,
    /// From the first submit to the last receipt, seconds.
    pub receipt_seconds: f64,
    /// Accepted per second until the last receipt was there.
    pub end_to_end_per_second: f64,
    /// submit_sm to its response.
    pub response: Percentiles,
    /// submit_sm to its receipt.
    pub receipt: Percentiles,
    /// Receipts taken.
    pub receipts: u64,
    /// By state.
    pub receipts_by_state: BTreeMap<String, u64>,
    /// Accepted messages without a receipt.
    pub missing: u64,
    /// Accepted messages with more than one.
    pub duplicate: u64,
    /// Receipts for ids that were never answered to us.
    pub unknown: u64,
    /// Every accepted message got exactly one receipt.
    pub exactly_once: bool,
}

pub(super) fn of(options: &LoadOptions, tally: Tally, sent: u64, start_us: u64) -> LoadReport {
    let (missing, duplicate, unknown) = tally.exactly_once();
    let seconds = tally.last_response_us.saturating_sub(start_us) as f64 / 1e6;
    let receipt_seconds = tally
        .last_receipt_us
        .max(tally.last_response_us)
        .saturating_sub(start_us) as f64
        / 1e6;
    let rate = |n: u64, s: f64| if s > 0.0 { n as f64 / s } else { 0.0 };
    LoadReport {
        binds: options.binds,
        window: options.window,
        sent,
        answered: tally.answered,
        accepted: tally.accepted,
        unanswered: tally.unanswered,
        broken: tally.broken,
        statuses: tally
            .statuses
            .iter()
            .map(|(s, n)| (CommandStatus(*s).to_string(), *n))
            .collect(),
        seconds,
        per_second: rate(tally.answered, seconds),
        receipt_seconds,
        end_to_end_per_second: rate(tally.accepted, receipt_seconds),
        response: Percentiles::of(&tally.response),
        receipt: Percentiles::of(&tally.receipt),
        receipts: tally.receipts,
        receipts_by_state: tally.receipts_by_state,
        missing,
        duplicate,
        unknown,
        exactly_once: options.receipts && missing == 0 && duplicate == 0 && unknown == 0,
    }
}

/// 1234567 as 1,234,567.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<22}{value}");
        line("binds x window", format!("{} x {}", self.binds, self.window))?;
        line("sent", thousands(self.sent))?;
        line("accepted", thousands(self.accepted))?;
        for (status, n) in self.statuses.iter().filter(|(s, _)| *s != "ESME_ROK") {
            line(&format!("  {status}"), thousands(*n))?;
        }
        if self.unanswered > 0 {
            line(
                "unanswered",
                format!(
                    "{} ({} connections broke)",
                    thousands(self.unanswered),
                    self.broken
                ),
            )?;
        }
        line(
            "responses",
            format!(
                "{}/s over {:.1} s",
                thousands(self.per_second as u64),
                self.seconds
            ),
        )?;
        let p = |p: &Percentiles| {
            format!(
                "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} ms",
                p.p50_ms, p.p90_ms, p.p99_ms, p.p999_ms, p.max_ms
            )
        };
        line("submit -> response", p(&self.response))?;
        if self.receipts > 0 || self.missing > 0 {
            line("receipts", thousands(self.receipts))?;
            for (state, n) in &self.receipts_by_state {
                line(&format!("  {state}"), thousands(*n))?;
            }
            line("submit -> receipt", p(&self.receipt))?;
            let verdict = if self.exactly_once { "yes" } else { "NO" };
            line(
                "exactly once",
                format!(
                    "{verdict} (missing {}, repeated {}, unknown {})",
                    self.missing, self.duplicate, self.unknown
                ),
            )?;
        }
        Ok(())
    }
}
