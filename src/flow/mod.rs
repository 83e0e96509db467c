//! The path of a message: admission, commit, dispatch, settlement, receipts. Synchronous, with time passed in; it knows
//! neither tokio nor SMPP nor SQL, so the whole business path runs in a test without sockets or sleeping.
//!
//! Who owns what:
//! - [`Gateway`] is the shared handle: accounts, policy, upstream lanes, and the way in to the engine.
//! - [`Engine`] is the single owner of open messages, receipt correlation and the store. It takes inputs in batches,
//!   turns them into one [`crate::store::Batch`], commits, and only then lets any answer, dispatch or receipt out.
//! - An account's wallet is behind a mutex held for a few instructions; admission takes holds there, the engine settles them.

mod account;
mod admit;
mod engine;
mod events;
mod gateway;
mod habits;
mod ingress;
mod lane;
mod lookup;
mod outbox;
mod policy;
mod quote;
mod routing;
pub mod rules;

pub use account::{AccountState, Accounts};
pub use admit::{Submission, admit, types_of};
pub use engine::{Engine, EngineOptions, OpenView, Replacement};
pub use events::{Event, Events};
pub use gateway::{Gateway, Limits, SessionInfo, SessionKind, Totals, metrics};
pub use habits::{IdForm, IdHabits, UnknownStats};
pub use ingress::{
    Admitted, Asked, Change, Control, ControlError, ControlReply, Ingress, Input, Mailbox, Operation,
    Outcome, PriceChange, Signal, Ticket, ToCustomer, ToUpstream, UpEvent, UpReceipt,
};
pub use lane::{BindInfo, Outgoing, PartSet, UnknownOutcome, Upstream, UpstreamOptions};
pub use lookup::{Found, Job, Lookups};
pub use outbox::{OutItem, Outbox, Payload};
pub use policy::{InboundRule, Policy};
pub use quote::{Quote, quote, quote_as};
pub use routing::{Ask, Offer, Quality, Upstreams};
pub use rules::Rules;
