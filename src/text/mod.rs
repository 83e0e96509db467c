//! Alphabets and segments: what a message's octets mean, how many short messages they are, and changing one into another.

mod charset;
pub mod gsm7;
mod segment;
pub mod udh;

pub use charset::{Charset, shaped, transliterate};
pub use segment::{Alphabet, Content, SegmentError, alphabet, count, parts};
