//! An SMPP gateway: customers' messages are authenticated, rate-limited, priced and charged, put on disk before they are
//! acknowledged, sent to telecoms' SMSCs, and their receipts brought back.
//!
//! # Reading order
//!
//! Data flows one way; a lower layer may use a higher one of this list, never the reverse (`tests/layers.rs` checks it):
//!
//! 1. [`ids`], [`money`], [`text`], [`country`], [`clock`] – values that everybody uses; [`clock`] alone reads the time.
//! 2. [`smpp`] – octets and PDUs, no state. [`session`] – one SMPP session as a machine without I/O, for both sides.
//! 3. [`domain`] – decisions: numbers, routes, prices, wallets, limits. Pure; knows no SMPP and no SQL.
//! 4. [`store`] – durable storage behind a small trait; SQLite today.
//! 5. [`flow`] – the path of a message: `admit` (session) → engine (commit, dispatch, settle, receipts) → outbox.
//! 6. [`wire`], [`net`] – sockets and tasks; the only translator between SMPP and the gateway's own words.
//! 7. [`admin`] – the control plane over a Unix socket. [`config`], [`metrics`] beside it.
//! 8. [`daemon`], [`cli`], [`tools`] – the process, the command line, simulator and load generator.
//!
//! [`kill`] stands outside: points of the path at which tests kill the process; empty in release builds.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod country;
pub mod daemon;
pub mod domain;
pub mod flow;
pub mod ids;
pub mod kill;
pub mod metrics;
pub mod money;
pub mod net;
pub mod session;
pub mod smpp;
pub mod store;
pub mod text;
pub mod tools;
pub mod wire;
