//! The wire codec on the path of one message: submit_sm in, submit_sm out, the response, the receipt, and what is billed.
//!
//! `cargo bench --bench codec`. Wall-clock on a shared machine is noise: compare runs of one machine, or count instructions.

use std::hint::black_box;

use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use smsconnect::smpp::{
    self, Address, CommandId, CommandStatus, EsmClass, Npi, RegisteredDelivery, ShortMessage, Tag, Tlvs, Ton,
};
use smsconnect::text::{self, Content};

/// Counts allocations too: decoding and counting must make none.
#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Octets of text in a submit_sm: a word, a typical message, one full segment, the longest short_message.
const TEXT_OCTETS: [usize; 4] = [5, 60, 160, 254];
/// Octets of text that become one segment, two, seven, and nearly as many as a message may have.
const BODY_OCTETS: [usize; 4] = [60, 161, 1_000, 38_000];

/// Optional parameters a customer's client commonly adds: a reference and the sar trio.
fn common_tlvs() -> Vec<u8> {
    let mut out = Vec::new();
    smpp::put_tlv(&mut out, Tag::USER_MESSAGE_REFERENCE, &[0, 7]);
    smpp::put_tlv(&mut out, Tag::SAR_MSG_REF_NUM, &[0, 9]);
    smpp::put_tlv(&mut out, Tag::SAR_TOTAL_SEGMENTS, &[2]);
    smpp::put_tlv(&mut out, Tag::SAR_SEGMENT_SEQNUM, &[1]);
    out
}

fn submit<'a>(text: &'a [u8], tlvs: Tlvs<'a>) -> ShortMessage<'a> {
    ShortMessage {
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
        short_message: text,
        tlvs,
        ..ShortMessage::default()
    }
}

fn submit_pdu(text: &[u8], tlvs: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Tlvs::parse takes whatever put_tlv wrote; without it the bench would measure a shorter PDU, not fail.
    let tlvs = Tlvs::parse(tlvs).unwrap_or(Tlvs::EMPTY);
    smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, 1, &submit(text, tlvs));
    out
}

/// Cut, then decode, as the read loop does. False where either fails, so that nothing is optimised away.
fn decode_submit(pdu: &[u8]) -> bool {
    let Ok(Some(raw)) = smpp::cut(pdu, smpp::MAX_PDU_DEFAULT) else {
        return false;
    };
    black_box(ShortMessage::decode(raw.body)).is_ok()
}

#[divan::bench(args = TEXT_OCTETS)]
fn submit_sm_decode(bencher: Bencher<'_, '_>, octets: usize) {
    let pdu = submit_pdu(&vec![b'a'; octets], &[]);
    assert!(decode_submit(&pdu));
    bencher
        .counter(BytesCount::new(pdu.len()))
        .bench_local(|| decode_submit(black_box(&pdu)));
}

#[divan::bench]
fn submit_sm_decode_with_tlvs(bencher: Bencher<'_, '_>) {
    let pdu = submit_pdu(&[b'a'; 60], &common_tlvs());
    assert!(decode_submit(&pdu));
    bencher
        .counter(BytesCount::new(pdu.len()))
        .bench_local(|| decode_submit(black_box(&pdu)));
}

#[divan::bench(args = TEXT_OCTETS)]
fn submit_sm_check(bencher: Bencher<'_, '_>, octets: usize) {
    let text = vec![b'a'; octets];
    let sm = submit(&text, Tlvs::EMPTY);
    assert!(smpp::check_submit(&sm).is_ok());
    bencher.bench_local(|| smpp::check_submit(black_box(&sm)));
}

#[divan::bench(args = TEXT_OCTETS)]
fn submit_sm_encode(bencher: Bencher<'_, '_>, octets: usize) {
    let text = vec![b'a'; octets];
    let sm = submit(&text, Tlvs::EMPTY);
    // One buffer for all, as a connection has.
    let mut out = Vec::with_capacity(4_096);
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        out.clear();
        smpp::put_short_message(&mut out, CommandId::SUBMIT_SM, 1, black_box(&sm));
        out.len()
    });
}

#[divan::bench]
fn submit_sm_resp_encode(bencher: Bencher<'_, '_>) {
    let mut out = Vec::with_capacity(4_096);
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        out.clear();
        let id = black_box(&b"0193f0c2a1b4d5e6"[..]);
        smpp::put_message_id_resp(
            &mut out,
            CommandId::SUBMIT_SM_RESP,
            CommandStatus::ESME_ROK,
            1,
            id,
        );
        out.len()
    });
}

const RECEIPT: &[u8] =
    b"id:0193f0c2a1b4d5e6 sub:001 dlvrd:001 submit date:2601011200 done date:2601011201 stat:DELIVRD err:000 text:Hello";

fn receipt_parse_of(bencher: Bencher<'_, '_>, text: &[u8], tlvs: &[u8]) {
    let Ok(tlvs) = Tlvs::parse(tlvs) else { return };
    let sm = ShortMessage {
        esm_class: EsmClass(0x04),
        ..submit(text, tlvs)
    };
    assert!(smpp::parse_receipt(&sm).is_some_and(|r| r.id.is_some() && r.state.is_some()));
    bencher
        .counter(ItemsCount::new(1usize))
        .bench_local(|| smpp::parse_receipt(black_box(&sm)));
}

#[divan::bench]
fn receipt_parse_text(bencher: Bencher<'_, '_>) {
    receipt_parse_of(bencher, RECEIPT, &[]);
}

#[divan::bench]
fn receipt_parse_text_and_tlvs(bencher: Bencher<'_, '_>) {
    let mut tlvs = Vec::new();
    smpp::put_tlv(&mut tlvs, Tag::RECEIPTED_MESSAGE_ID, b"0193f0c2a1b4d5e6\0");
    smpp::put_tlv(&mut tlvs, Tag::MESSAGE_STATE, &[2]);
    receipt_parse_of(bencher, RECEIPT, &tlvs);
}

fn segment_count_of(bencher: Bencher<'_, '_>, data_coding: u8, octets: usize) {
    let body = vec![b'a'; octets];
    let content = Content {
        data_coding,
        udhi: false,
        body: &body,
        sar_total: None,
    };
    bencher
        .counter(BytesCount::new(octets))
        .bench_local(|| text::count(black_box(&content)));
}

#[divan::bench(args = BODY_OCTETS)]
fn segment_count_gsm7(bencher: Bencher<'_, '_>, octets: usize) {
    segment_count_of(bencher, 0x00, octets);
}

/// An even number of octets below 255 parts of 134.
#[divan::bench(args = [60, 142, 1_000, 34_000])]
fn segment_count_ucs2(bencher: Bencher<'_, '_>, octets: usize) {
    segment_count_of(bencher, 0x08, octets);
}
