//! Every PDU that an independent implementation made, read by this codec and by rusmpp: what one takes the other takes, and both read
//! the same fields out of it.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::BytesMut;
use rusmpp::pdus::SubmitSm;
use rusmpp::tokio_codec::CommandCodec;
use rusmpp::{Command, Pdu as Theirs};
use serde_json::Value;
use smsconnect::smpp::{self, Pdu, ShortMessage};
use tokio_util::codec::Decoder;

fn pdus() -> Vec<(String, Vec<u8>)> {
    let all: Value = serde_json::from_str(include_str!("vectors/smpp-pdus.json")).unwrap();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let vectors = all["vectors"].as_array().unwrap().iter();
    vectors
        .map(|v| {
            let hex = v["hex"].as_str().unwrap().as_bytes();
            (
                v["id"].as_str().unwrap().to_string(),
                hex.chunks(2).map(octet).collect(),
            )
        })
        .collect()
}

fn theirs(pdu: &[u8]) -> Option<Command> {
    CommandCodec::new()
        .decode(&mut BytesMut::from(pdu))
        .ok()
        .flatten()
}

fn same(id: &str, ours: &ShortMessage<'_>, theirs: &SubmitSm) {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    assert_eq!(text(ours.source.addr), theirs.source_addr.as_str(), "{id}");
    assert_eq!(text(ours.dest.addr), theirs.destination_addr.as_str(), "{id}");
    assert_eq!(
        text(ours.validity_period),
        theirs.validity_period.as_str(),
        "{id}"
    );
    assert_eq!(
        text(ours.schedule_delivery_time),
        theirs.schedule_delivery_time.as_str(),
        "{id}"
    );
    assert_eq!(ours.source.ton.0, u8::from(theirs.source_addr_ton), "{id}");
    assert_eq!(ours.dest.npi.0, u8::from(theirs.dest_addr_npi), "{id}");
    assert_eq!(ours.esm_class.0, u8::from(theirs.esm_class), "{id}");
    assert_eq!(ours.data_coding.0, u8::from(theirs.data_coding), "{id}");
    assert_eq!(
        ours.registered_delivery.0,
        u8::from(theirs.registered_delivery),
        "{id}"
    );
    assert_eq!(ours.protocol_id, theirs.protocol_id, "{id}");
    assert_eq!(ours.short_message, theirs.short_message().as_ref(), "{id}");
    assert_eq!(ours.tlvs.iter().count(), theirs.tlvs().len(), "{id}");
}

#[test]
fn both_codecs_read_the_same_out_of_every_pdu() {
    let pdus = pdus();
    assert!(pdus.len() > 300, "{} PDUs", pdus.len());
    let (mut taken, mut compared, mut refused) = (0, 0, Vec::new());
    for (id, pdu) in &pdus {
        let raw = smpp::cut(pdu, smpp::MAX_PDU_DEFAULT).unwrap().unwrap();
        let ours = smpp::decode(&raw.header, raw.body).unwrap_or_else(|e| panic!("{id}: {e}"));
        let Some(command) = theirs(pdu) else {
            refused.push(id.as_str());
            continue;
        };
        taken += 1;
        assert_eq!(raw.header.command_id.0, u32::from(command.id()), "{id}");
        assert_eq!(raw.header.command_status.0, u32::from(command.status()), "{id}");
        assert_eq!(raw.header.sequence, command.sequence_number(), "{id}");
        if let (Pdu::ShortMessage(_, sm), Some(Theirs::SubmitSm(other))) = (&ours, command.pdu()) {
            same(id, sm, other);
            compared += 1;
        }
    }
    eprintln!(
        "{taken} of {} PDUs taken by both, {compared} compared field by field",
        pdus.len()
    );
    assert!(compared > 50, "only {compared} were compared");
    // Habits of 3.4 that rusmpp, written for 5.0, does not take.
    assert!(refused.len() * 10 < pdus.len(), "{refused:?}");
}
