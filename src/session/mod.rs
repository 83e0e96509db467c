//! One SMPP session as a sans-IO machine, for both sides: the server that customers bind to and the client that binds to
//! SMSCs. It is given whole PDUs and the time, appends answers to a buffer, and says what the caller has to decide.
//!
//! ```text
//!            bind_* / bind()            accept() / bind_resp ROK             unbind
//!   Open ───────────────────→ Binding ─────────────────────────→ Bound ─────────────→ Unbinding
//!    │ bind timer                │ refuse() / bind_resp error      │ enquire_link, idle     │ peer closes, or a second passes
//!    └───────────────────────────┴─────────────→ Closed(cause) ←───┴────────────────────────┘
//!                            unbind by the peer: Bound → Leaving (until nothing is owed) → Unbinding
//! ```
//!
//! Time is milliseconds on any line that does not go backwards. The machine never reads a clock and never panics on what a
//! peer sends.

mod state;
mod timers;
mod window;

pub use state::{BindKind, Cause, Event, Role, Session, State, Timers};
pub use window::{Answered, Window};

use crate::smpp::CommandId;

/// The response to a request: same number with the top bit set (SMPP 3.4 §5.1.2.1).
#[must_use]
pub fn response_to(id: CommandId) -> CommandId {
    CommandId(id.0 | 0x8000_0000)
}
