//! Counting PDUs: one cached counter per kind and connection, added to once a wake-up.

use crate::metrics::{self, Counter};
use crate::smpp::{self, CommandId, CommandStatus};

/// One side's PDUs on one connection.
pub(super) struct Pdus {
    side: &'static str,
    kinds: Vec<Kind>,
    /// Octets of the output that have been looked at.
    seen: u64,
}

struct Kind {
    out: bool,
    id: CommandId,
    status: CommandStatus,
    n: u64,
    counter: Counter,
}

/// What a peer may make up has one label, so that the number of time series is bounded.
const OTHER: u32 = 0x7FFF_FFFF;

impl Pdus {
    pub fn new(side: &'static str) -> Pdus {
        Pdus {
            side,
            kinds: Vec::new(),
            seen: 0,
        }
    }

    /// A PDU that was read or will be written.
    pub fn count(&mut self, out: bool, id: CommandId, status: CommandStatus) {
        let id = if id.name().is_some() { id } else { CommandId(OTHER) };
        // A request's status means nothing.
        let status = match status {
            _ if !id.is_response() => CommandStatus::ESME_ROK,
            named if named.name().is_some() => named,
            _ => CommandStatus(OTHER),
        };
        let known = self
            .kinds
            .iter_mut()
            .find(|k| k.out == out && k.id == id && k.status == status);
        if let Some(kind) = known {
            kind.n += 1;
            return;
        }
        let label = if id.is_response() {
            status.name().unwrap_or("other")
        } else {
            ""
        };
        let direction = if out { "out" } else { "in" };
        let counter = metrics::pdus(self.side, direction, id.name().unwrap_or("other"), label);
        self.kinds.push(Kind {
            out,
            id,
            status,
            n: 1,
            counter,
        });
    }

    /// Counts what was appended to the output since the last call: `written` octets in all, the last of them in `out`.
    pub fn written(&mut self, out: &[u8], written: u64) {
        let fresh = usize::try_from(written.saturating_sub(self.seen)).unwrap_or(usize::MAX);
        self.seen = written;
        let mut rest = out.get(out.len().saturating_sub(fresh)..).unwrap_or(&[]);
        while let Ok(Some(pdu)) = smpp::cut(rest, u32::MAX) {
            self.count(true, pdu.header.command_id, pdu.header.command_status);
            rest = rest.get(pdu.bytes.len()..).unwrap_or(&[]);
        }
    }

    /// Adds what was counted to the counters that are scraped.
    pub fn flush(&mut self) {
        for kind in self.kinds.iter_mut().filter(|k| k.n > 0) {
            kind.counter.increment(std::mem::take(&mut kind.n));
        }
    }
}
