//! A connection's octets: reads into a buffer shared by the thread, keeps only what is incomplete, writes in one piece.

use std::cell::RefCell;
use std::io;

use tokio::net::TcpStream;

/// One read takes at most this much: 400 submits of 160 octets.
const READ: usize = 64 * 1024;
/// An empty buffer larger than this is given back, so that an idle connection holds almost nothing.
const KEEP: usize = 4 * 1024;

/// Octets already written that may stay at the front of the output: moving the rest costs less than once an octet.
const COMPACT: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// See the module's description.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// Octets of a PDU that is not whole yet, or that must wait.
    partial: Vec<u8>,
    /// Written by the session, not yet taken by the socket.
    pub out: Vec<u8>,
    taken: usize,
    /// Octets the socket has taken since the start.
    pub flushed: u64,
    partial_since: Option<u64>,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Some octets, all handed on.
    Some,
    /// Nothing there.
    Nothing,
    /// The peer has closed.
    Closed,
}

impl Connection {
    /// A fresh connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Connection {
        Connection {
            stream,
            partial: Vec::new(),
            out: Vec::new(),
            taken: 0,
            flushed: 0,
            partial_since: None,
        }
    }

    /// Octets not yet taken by the socket.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.out.len() - self.taken
    }

    /// Octets ever written to `out`.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.flushed + self.pending() as u64
    }

    /// Since when a PDU has been incomplete.
    #[must_use]
    pub fn partial_since(&self) -> Option<u64> {
        self.partial_since
    }

    /// Reads once and calls `consume` with everything unconsumed; it returns how much it took.
    ///
    /// # Errors
    /// What the socket says; the connection is over then.
    pub fn read(
        &mut self,
        now_ms: u64,
        consume: impl FnOnce(&mut Vec<u8>, &[u8]) -> usize,
    ) -> io::Result<Read> {
        SCRATCH.with_borrow_mut(|scratch| match self.stream.try_read(scratch) {
            Ok(0) => Ok(Read::Closed),
            Ok(n) => {
                self.feed(scratch.get(..n).unwrap_or(&[]), now_ms, consume);
                Ok(Read::Some)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
            Err(e) => Err(e),
        })
    }

    /// Hands octets on, behind those that wait.
    pub fn feed(&mut self, octets: &[u8], now_ms: u64, consume: impl FnOnce(&mut Vec<u8>, &[u8]) -> usize) {
        let taken;
        if self.partial.is_empty() {
            let n = consume(&mut self.out, octets);
            self.partial.extend_from_slice(octets.get(n..).unwrap_or(&[]));
            taken = n;
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(octets);
            let n = consume(&mut self.out, &whole);
            whole.drain(..n.min(whole.len()));
            if !(whole.is_empty() && whole.capacity() > KEEP) {
                self.partial = whole;
            }
            taken = n;
        }
        // A whole PDU was taken: the clock of an incomplete one starts over.
        let progressed = taken > 0;
        self.partial_since = match self.partial_since {
            _ if self.partial.is_empty() => None,
            Some(since) if !progressed => Some(since),
            _ => Some(now_ms),
        };
    }

    /// Gives the socket what it takes.
    ///
    /// # Errors
    /// What the socket says; the connection is over then.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.taken < self.out.len() {
            match self.stream.try_write(self.out.get(self.taken..).unwrap_or(&[])) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.taken += n;
                    self.flushed += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // A peer that reads slowly but steadily never lets the buffer run empty.
                    if self.taken >= COMPACT {
                        self.out.drain(..self.taken);
                        self.taken = 0;
                    }
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        self.taken = 0;
        self.out.clear();
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
        Ok(())
    }
}
