//! Alphabets and segments: what a message's octets mean and how many short messages they are.

pub mod gsm7;
mod segment;
pub mod udh;

pub use segment::{Alphabet, Content, SegmentError, alphabet, count, parts};
