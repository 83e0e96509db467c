//! The measure of what durability, money and receipts cost: a relay on the same codec that keeps nothing. Each customer
//! connection has one connection to the SMSC; every PDU is decoded, encoded anew and written on, as many at a time as a read brings.
//!
//! ```text
//! cargo run --release --example relay -- 127.0.0.1:2775 127.0.0.1:2776      listen, SMSC
//! cargo bench --bench end_to_end -- --relay 1                               beside the gateway, in one run
//! ```

#![allow(
    clippy::unwrap_used,
    reason = "a measuring tool: it stops where something is wrong"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use smsconnect::smpp;

/// Octets of one read: a thousand PDUs.
const READ: usize = 256 * 1024;

/// Relays until the process ends.
pub fn run(listener: &TcpListener, smsc: SocketAddr) {
    for customer in listener.incoming() {
        let customer = customer.unwrap();
        let upstream = TcpStream::connect(smsc).unwrap();
        for stream in [&customer, &upstream] {
            stream.set_nodelay(true).unwrap();
        }
        let (there, back) = (customer.try_clone().unwrap(), upstream.try_clone().unwrap());
        std::thread::spawn(move || pump(there, back));
        std::thread::spawn(move || pump(upstream, customer));
    }
}

/// One direction of a connection.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let (mut kept, mut out) = (Vec::new(), Vec::new());
    let mut read = vec![0; READ];
    while let Ok(n) = from.read(&mut read)
        && n > 0
    {
        kept.extend_from_slice(&read[..n]);
        let mut done = 0;
        while let Ok(Some(raw)) = smpp::cut(&kept[done..], smpp::MAX_PDU_DEFAULT) {
            done += raw.bytes.len();
            match smpp::decode(&raw.header, raw.body) {
                Ok(pdu) => smpp::encode(&mut out, raw.header.command_status, raw.header.sequence, &pdu),
                Err(_) => out.extend_from_slice(raw.bytes),
            }
        }
        kept.drain(..done);
        if to.write_all(&out).is_err() {
            break;
        }
        out.clear();
    }
    let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[allow(dead_code, reason = "the end-to-end bench runs it as a part of itself")]
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, smsc] = words.as_slice() else {
        eprintln!("relay LISTEN SMSC, such as relay 127.0.0.1:2775 127.0.0.1:2776");
        std::process::exit(2);
    };
    run(&TcpListener::bind(listen).unwrap(), smsc.parse().unwrap());
}
