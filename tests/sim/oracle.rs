//! What was seen on the wire, noted where octets leave and enter the gateway and where peers decide. It judges nothing.

use std::collections::BTreeMap;

use smsconnect::smpp::{self, RawPdu};

/// Cuts a stream into PDUs.
#[derive(Default)]
pub struct Framer(Vec<u8>);

impl Framer {
    /// Every whole PDU now there, as octets of its own.
    pub fn feed(&mut self, octets: &[u8]) -> Vec<Vec<u8>> {
        self.0.extend_from_slice(octets);
        let mut out = Vec::new();
        while let Ok(Some(pdu)) = smpp::cut(&self.0, u32::MAX) {
            let n = pdu.bytes.len();
            out.push(self.0.drain(..n).collect());
        }
        out
    }
}

pub fn raw(pdu: &[u8]) -> RawPdu<'_> {
    smpp::cut(pdu, u32::MAX).unwrap().unwrap()
}

/// One submit_sm that the gateway has written whole.
#[derive(Clone, Debug)]
pub struct Copy {
    pub token: u32,
    /// 0: whole.
    pub part: u8,
    pub upstream: usize,
    pub conn: usize,
    /// When it was written at the earliest, and when the last of it had left.
    pub queued: u64,
    pub emitted: u64,
    pub life: usize,
    /// The SMSC will deliver it.
    pub taken: bool,
    pub smsc_id: String,
    /// When the gateway read that it was taken.
    pub answered: Option<u64>,
    /// When the gateway lost the connection.
    pub lost: Option<u64>,
}

/// A receipt of an SMSC.
#[derive(Clone, Debug)]
pub struct Rcpt {
    /// None: of a message that nobody sent.
    pub copy: Option<usize>,
    pub upstream: usize,
    pub id: String,
    pub number: Vec<u8>,
    pub state: u8,
    /// Batches on disk when the gateway answered it with ESME_ROK, and when.
    pub answered: Option<(usize, u64)>,
    pub sent: u32,
}

/// An ESME_ROK to a submit.
#[derive(Clone, Debug)]
pub struct Rok {
    pub account: usize,
    pub id: u64,
    pub batches: usize,
}

/// A delivery that a customer has taken.
#[derive(Clone, Debug)]
pub struct Got {
    pub account: usize,
    pub id: u64,
    pub state: u8,
    pub number: Vec<u8>,
}

/// A submit that a customer has written.
#[derive(Clone, Debug)]
pub struct Sub {
    pub account: usize,
    pub wants: u8,
}

/// From a start of the process to its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    /// Batches on disk at its end.
    pub batches: usize,
}

#[derive(Default)]
pub struct Oracle {
    pub subs: Vec<Sub>,
    pub roks: Vec<Rok>,
    pub copies: Vec<Copy>,
    pub by_sequence: BTreeMap<(usize, u32), usize>,
    pub rcpts: Vec<Rcpt>,
    pub deliveries: BTreeMap<(usize, u32), usize>,
    pub got: Vec<Got>,
    /// Messages whose cancellation was answered with ESME_ROK, and batches on disk then.
    pub cancelled: Vec<(u64, usize)>,
    pub lives: Vec<Life>,
    /// What was wrong at once.
    pub wrong: Vec<String>,
    /// Faults by kind, for the figures.
    pub faults: BTreeMap<&'static str, u64>,
    pub hash: u64,
}

impl Oracle {
    pub fn note(&mut self, octets: &[u8]) {
        for b in octets {
            self.hash = (self.hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }
}

/// A message's text says which one it is, over and over, so that each of its parts does.
pub fn text_of(token: u32, long: bool) -> Vec<u8> {
    let one = format!("m{token}.");
    let n = if long { 330 / one.len() } else { 1 };
    one.repeat(n.max(1)).into_bytes()
}

/// The token in a text.
pub fn token_of(text: &[u8]) -> Option<u32> {
    for (at, _) in text.iter().enumerate().filter(|(_, c)| **c == b'm') {
        let digits: Vec<u8> = text[at + 1..]
            .iter()
            .copied()
            .take_while(u8::is_ascii_digit)
            .collect();
        if !digits.is_empty() && text.get(at + 1 + digits.len()) == Some(&b'.') {
            return String::from_utf8(digits).ok()?.parse().ok();
        }
    }
    None
}
