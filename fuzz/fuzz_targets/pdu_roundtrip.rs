//! Is decode∘encode stable: does a PDU that was taken, written again, read as the same PDU?
//!
//! Not "the same octets": octets after the last field of a bind, say, are not kept. The input is a whole PDU.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsconnect::smpp::{self, CommandId, MAX_PDU_DEFAULT, Pdu};

fuzz_target!(|data: &[u8]| {
    let Ok(Some(raw)) = smpp::cut(data, MAX_PDU_DEFAULT) else {
        return;
    };
    let Ok(pdu) = smpp::decode(&raw.header, raw.body) else {
        return;
    };
    if let Pdu::ShortMessage(CommandId::SUBMIT_SM, sm) = &pdu {
        let _ = smpp::check_submit(sm);
    }
    // What is logged about a PDU must not depend on its octets being sound.
    let _ = format!("{pdu:?}");

    let mut once = Vec::new();
    smpp::encode(&mut once, raw.header.command_status, raw.header.sequence, &pdu);
    let again = smpp::cut(&once, MAX_PDU_DEFAULT);
    let Ok(Some(again)) = again else {
        panic!("what was written is no PDU: {again:?}")
    };
    assert_eq!(again.bytes.len(), once.len());
    assert_eq!(
        (
            again.header.command_id,
            again.header.command_status,
            again.header.sequence
        ),
        (
            raw.header.command_id,
            raw.header.command_status,
            raw.header.sequence
        )
    );
    match smpp::decode(&again.header, again.body) {
        Ok(read) => assert_eq!(read, pdu),
        Err(e) => panic!("what was written does not read: {e}"),
    }
});
