//! A connection's octets: reads into a buffer shared by the thread, keeps only what is incomplete, writes in one piece.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};

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

/// See the module's description. `S`: the socket, or `()` where somebody else carries the octets.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    /// The socket.
    pub stream: S,
    /// Octets of a PDU that is not whole yet, or that must wait.
    partial: Vec<u8>,
    /// Written by the session, not yet taken by the socket.
    pub out: Vec<u8>,
    taken: usize,
    /// Octets the socket has taken since the start.
    pub flushed: u64,
    partial_since: Option<u64>,
    tls: Option<Box<Tls>>,
}

/// The TLS side of a connection: plain octets go in and come out of `out` and `partial` as without it.
struct Tls {
    connection: rustls::Connection,
    /// Sealed, not yet taken by the socket.
    sealed: Vec<u8>,
    taken: usize,
    /// Plain octets handed to TLS since the start.
    handed: u64,
    /// The peer has said that nothing more comes.
    ended: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({} sealed octets)", self.sealed.len() - self.taken)
    }
}

/// Sealed octets that may wait: above this no more are made.
const SEALED_MAX: usize = 128 * 1024;

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

impl<S> Connection<S> {
    /// A fresh connection.
    #[must_use]
    pub fn new(stream: S) -> Connection<S> {
        Connection {
            stream,
            partial: Vec::new(),
            out: Vec::new(),
            taken: 0,
            flushed: 0,
            partial_since: None,
            tls: None,
        }
    }

    /// The certificate that the peer has shown, in DER, once the handshake is over.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let certificates = self.tls.as_ref()?.connection.peer_certificates()?;
        certificates.first().map(AsRef::as_ref)
    }

    /// Octets not yet taken by the socket.
    #[must_use]
    pub fn pending(&self) -> usize {
        let sealed = self.tls.as_ref().map_or(0, |t| {
            t.sealed.len() - t.taken + usize::from(t.connection.wants_write())
        });
        self.out.len() - self.taken + sealed
    }

    /// Octets ever written to `out`.
    #[must_use]
    pub fn written(&self) -> u64 {
        let handed = self.tls.as_ref().map_or(self.flushed, |t| t.handed);
        handed + (self.out.len() - self.taken) as u64
    }

    /// Since when a PDU has been incomplete.
    #[must_use]
    pub fn partial_since(&self) -> Option<u64> {
        self.partial_since
    }

    /// We do not read for a while: an incomplete PDU is not the peer's fault meanwhile.
    pub fn hold(&mut self, now_ms: u64) {
        if self.partial_since.is_some() {
            self.partial_since = Some(now_ms);
        }
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
}

impl Connection<()> {
    /// Takes up to `max` octets of what the session has written, as a socket would.
    pub fn carry(&mut self, max: usize) -> Vec<u8> {
        let n = max.min(self.out.len());
        self.flushed += n as u64;
        self.out.drain(..n).collect()
    }
}

impl Connection {
    /// The same over TLS; the handshake goes on with the first reads and flushes.
    #[must_use]
    pub fn with_tls(stream: TcpStream, mut tls: rustls::Connection) -> Connection {
        // What is handed over is bounded here, by `SEALED_MAX`.
        tls.set_buffer_limit(None);
        Connection {
            tls: Some(Box::new(Tls {
                connection: tls,
                sealed: Vec::new(),
                taken: 0,
                handed: 0,
                ended: false,
            })),
            ..Connection::new(stream)
        }
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
            Ok(n) if self.tls.is_none() => {
                self.feed(scratch.get(..n).unwrap_or(&[]), now_ms, consume);
                Ok(Read::Some)
            }
            Ok(n) => {
                let plain = self.open(scratch.get(..n).unwrap_or(&[]))?;
                if !plain.is_empty() {
                    self.feed(&plain, now_ms, consume);
                }
                let ended = self.tls.as_ref().is_some_and(|t| t.ended);
                Ok(if ended { Read::Closed } else { Read::Some })
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
            Err(e) => Err(e),
        })
    }

    /// Opens sealed octets; nothing while the handshake is under way.
    fn open(&mut self, mut sealed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let Some(tls) = &mut self.tls else {
            return Ok(plain);
        };
        let mut chunk = [0u8; 16 * 1024];
        while !sealed.is_empty() && !tls.ended {
            // Nothing is taken behind the peer's close_notify.
            if tls.connection.read_tls(&mut sealed)? == 0 {
                tls.ended = true;
            }
            tls.connection
                .process_new_packets()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            loop {
                match tls.connection.reader().read(&mut chunk) {
                    Ok(0) => {
                        tls.ended = true;
                        break;
                    }
                    Ok(n) => plain.extend_from_slice(chunk.get(..n).unwrap_or(&[])),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(plain)
    }

    /// Gives the socket what it takes.
    ///
    /// # Errors
    /// What the socket says; the connection is over then.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.tls.is_some() {
            return self.flush_tls();
        }
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

    fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        loop {
            if tls.sealed.len() - tls.taken < SEALED_MAX && !self.out.is_empty() {
                tls.connection.writer().write_all(&self.out)?;
                tls.handed += self.out.len() as u64;
                self.out = Vec::new();
            }
            while tls.connection.wants_write() && tls.sealed.len() - tls.taken < SEALED_MAX {
                tls.connection.write_tls(&mut tls.sealed)?;
            }
            if tls.taken == tls.sealed.len() {
                tls.sealed.clear();
                tls.taken = 0;
                return Ok(());
            }
            match self.stream.try_write(tls.sealed.get(tls.taken..).unwrap_or(&[])) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    tls.taken += n;
                    // Which plain octets are in what has left cannot be told: all of them may be.
                    self.flushed = tls.handed;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    tls.sealed.drain(..tls.taken);
                    tls.taken = 0;
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }
}
