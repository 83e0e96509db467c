//! Is any deliver_sm read without a panic, and does a receipt that we wrote read as what we meant?
//!
//! Input: esm_class, data_coding, how many octets of text, the text, then optional parameters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsconnect::smpp::{
    DataCoding, EsmClass, MessageState, ReceiptText, ShortMessage, Tag, Tlvs, parse_receipt, write_receipt,
};

/// esm_class of a delivery receipt.
const RECEIPT: EsmClass = EsmClass(0x04);

fuzz_target!(|data: &[u8]| {
    let [esm_class, data_coding, length, rest @ ..] = data else {
        return;
    };
    let (text, tail) = rest.split_at(rest.len().min(usize::from(*length)));
    let sm = ShortMessage {
        esm_class: EsmClass(*esm_class),
        data_coding: DataCoding(*data_coding),
        short_message: text,
        tlvs: Tlvs::parse(tail).unwrap_or_default(),
        ..ShortMessage::default()
    };
    let read = parse_receipt(&sm);
    if let Some(id) = sm
        .tlvs
        .get_cstr(Tag::RECEIPTED_MESSAGE_ID)
        .filter(|id| !id.is_empty())
    {
        // The parameter makes it a receipt, and wins over the text.
        assert_eq!(read.and_then(|r| r.id).as_deref(), Some(id));
    }
    ours(text, tail);
});

/// Ids are ours: letters and digits. The text is the customer's: anything.
fn ours(text: &[u8], numbers: &[u8]) {
    let [sub, dlvrd, stat, err_high, err_low, ..] = numbers else {
        return;
    };
    let length = text.iter().take_while(|c| c.is_ascii_alphanumeric()).count();
    let (id, text) = text.split_at(length);
    if id.is_empty() {
        return;
    }
    let receipt = ReceiptText {
        id,
        sub: u16::from(*sub),
        dlvrd: u16::from(*dlvrd),
        submit_unix_s: 1_767_268_800,
        done_unix_s: 1_767_268_860,
        // ENROUTE to REJECTED.
        stat: MessageState(stat % 8 + 1),
        err: u16::from_be_bytes([*err_high, *err_low]),
        text,
    };
    let mut out = Vec::new();
    write_receipt(&mut out, &receipt);
    let sm = ShortMessage {
        esm_class: RECEIPT,
        short_message: &out,
        ..ShortMessage::default()
    };
    let Some(read) = parse_receipt(&sm) else {
        panic!("our own receipt is none")
    };
    assert_eq!(read.id.as_deref(), Some(id));
    assert_eq!(
        (read.sub, read.dlvrd),
        (Some(u32::from(receipt.sub)), Some(u32::from(receipt.dlvrd)))
    );
    assert_eq!(read.state, Some(receipt.stat));
    let err = read
        .err
        .as_deref()
        .and_then(|e| std::str::from_utf8(e).ok())
        .and_then(|e| e.parse().ok());
    assert_eq!(err, Some(receipt.err));
}
