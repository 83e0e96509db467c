//! Connections as two pipes of octets: split, delayed, full, black-holed, reset.

use std::collections::VecDeque;

/// Who is at the other end of a gateway's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Client(usize),
    /// SMSC, and which bind of the gateway.
    Smsc(usize, usize),
}

#[derive(Default)]
pub struct Pipe {
    /// Nothing arrives before what was sent before it.
    pub last_at: u64,
    /// Octets sent and not read.
    pub in_flight: usize,
    /// Nothing arrives any more, and nobody says so.
    pub hole: bool,
    /// Arrived, and the reader does not read.
    pub unread: VecDeque<Vec<u8>>,
}

pub struct Conn {
    pub peer: Peer,
    /// The process that it belongs to.
    pub life: usize,
    /// When it was opened.
    pub since: u64,
    /// To the gateway, and from it.
    pub pipes: [Pipe; 2],
    /// The gateway's end is gone; the peer's is.
    pub gone: [bool; 2],
    pub framers: [super::oracle::Framer; 2],
}

pub const IN: usize = 0;
pub const OUT: usize = 1;

impl Conn {
    pub fn new(peer: Peer, life: usize) -> Conn {
        Conn {
            peer,
            life,
            since: super::disk::clock::mono(),
            pipes: Default::default(),
            gone: [false; 2],
            framers: Default::default(),
        }
    }
}
