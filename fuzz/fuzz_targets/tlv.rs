//! Do the lazy walk, the look-ups and the writer agree on where each optional parameter ends?
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsconnect::smpp::{CommandStatus, Tag, Tlvs, put_tlv};

/// Whether the lengths add up, reckoned by index, apart from the parser.
fn adds_up(octets: &[u8]) -> bool {
    let mut at = 0;
    while at < octets.len() {
        let Some(head) = octets.get(at..at + 4) else {
            return false;
        };
        at += 4 + usize::from(u16::from_be_bytes([head[2], head[3]]));
    }
    at == octets.len()
}

fuzz_target!(|data: &[u8]| {
    let tlvs = match Tlvs::parse(data) {
        Ok(tlvs) => tlvs,
        Err(e) => {
            assert!(!adds_up(data));
            assert_eq!(e.status, CommandStatus::ESME_RINVOPTPARSTREAM);
            return;
        }
    };
    assert!(adds_up(data));
    assert_eq!((tlvs.as_bytes(), tlvs.is_empty()), (data, data.is_empty()));

    let mut written = Vec::new();
    let mut seen: Vec<Tag> = Vec::new();
    for tlv in tlvs.iter() {
        put_tlv(&mut written, tlv.tag, tlv.value);
        if !seen.contains(&tlv.tag) {
            // A look-up gives the first of its tag.
            seen.push(tlv.tag);
            assert_eq!(tlvs.get(tlv.tag), Some(tlv.value));
            assert_eq!(tlvs.get_u8(tlv.tag).is_some(), tlv.value.len() == 1);
            let text = tlvs.get_cstr(tlv.tag).unwrap_or(b"\0");
            assert!(tlv.value.starts_with(text) && !text.contains(&0));
        }
    }
    assert_eq!(written, data);
});
