//! Loops whose instructions `benches/instructions` counts under callgrind: counts are the same on every machine and every day, so
//! that a regression shows where a clock would only see noise. Run by that script; alone it does the work and says nothing.

#![allow(
    clippy::unwrap_used,
    reason = "a measuring tool: it stops where something is wrong"
)]

#[path = "bed.rs"]
mod bed;

use std::hint::black_box;

use bytes::BytesMut;
use rusmpp::tokio_codec::CommandCodec;
use smsconnect::flow::admit;
use smsconnect::smpp::{self, Address, CommandId, Npi, RegisteredDelivery, ShortMessage, Tag, Tlvs, Ton};
use tokio_util::codec::{Decoder, Encoder};

/// A submit_sm of 161 octets: 100 of text, and one optional parameter.
fn submit_pdu() -> Vec<u8> {
    let mut tlvs = Vec::new();
    smpp::put_tlv(&mut tlvs, Tag::USER_MESSAGE_REFERENCE, &[0, 7]);
    let text = [b'a'; 100];
    let sm = ShortMessage {
        source: Address {
            ton: Ton(5),
            npi: Npi(0),
            addr: b"EXAMPLE",
        },
        dest: Address {
            ton: Ton(1),
            npi: Npi(1),
            addr: b"254710000000",
        },
        registered_delivery: RegisteredDelivery(1),
        short_message: &text,
        tlvs: Tlvs::parse(&tlvs).unwrap(),
        ..ShortMessage::default()
    };
    let mut out = Vec::new();
    smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, 1, &sm);
    out
}

/// Decoded and encoded by the codec of this crate.
fn codec(n: u32) {
    let pdu = submit_pdu();
    let mut out = Vec::with_capacity(4_096);
    for sequence in 0..n {
        out.clear();
        let raw = smpp::cut(black_box(&pdu), smpp::MAX_PDU_DEFAULT)
            .unwrap()
            .unwrap();
        let sm = ShortMessage::decode(raw.body).unwrap();
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, sequence, black_box(&sm));
        black_box(&out);
    }
}

/// The same PDU by another implementation.
fn rusmpp(n: u32) {
    let pdu = submit_pdu();
    let mut codec = CommandCodec::new();
    let (mut read, mut out) = (BytesMut::new(), BytesMut::new());
    for _ in 0..n {
        out.clear();
        read.extend_from_slice(black_box(&pdu));
        let command = codec.decode(&mut read).unwrap().unwrap();
        codec.encode(black_box(&command), &mut out).unwrap();
        black_box(&out);
    }
}

/// Every check of a submit, its price and its hold, among a hundred routes and prices.
fn admission(n: u32) {
    let (gateway, account) = bed::world(100, 1_000_000);
    let policy = gateway.policy.load_full();
    for now in 0..n {
        let submission = bed::submission(black_box(b"0700091234"));
        let admitted = admit(&gateway, &policy, &account, &submission, 1_000 + u64::from(now));
        account.with_wallet(|w| w.release(admitted.unwrap().hold));
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let [what, n] = words.as_slice() else {
        eprintln!("instructions codec|rusmpp|admission N; benches/instructions counts them");
        return;
    };
    let n = n.parse().unwrap();
    match what.as_str() {
        "codec" => codec(n),
        "rusmpp" => rusmpp(n),
        "admission" => admission(n),
        other => panic!("{other}: unknown"),
    }
}
