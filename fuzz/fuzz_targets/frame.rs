//! Does `cut` find the same PDUs however the octets arrive, and never claim more than there is?
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsconnect::smpp::{HEADER_LEN, cut};

/// Small enough for the fuzzer to reach the limit.
const MAX_LEN: u32 = 512;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    loop {
        match cut(rest, MAX_LEN) {
            Ok(Some(pdu)) => {
                let len = pdu.header.length as usize;
                assert!((HEADER_LEN..=MAX_LEN as usize).contains(&len));
                assert_eq!(pdu.bytes, &rest[..len]);
                assert_eq!(pdu.body, &rest[HEADER_LEN..len]);
                // One octet less is not a PDU yet, and what follows does not matter.
                assert!(matches!(cut(&rest[..len - 1], MAX_LEN), Ok(None)));
                assert!(matches!(cut(&rest[..len], MAX_LEN), Ok(Some(p)) if p.bytes == pdu.bytes));
                rest = &rest[len..];
            }
            Ok(None) => {
                // Either the length is missing, or it is possible and the octets are not all there.
                if let Some(length) = rest.first_chunk::<4>() {
                    let length = u32::from_be_bytes(*length);
                    assert!((HEADER_LEN as u32..=MAX_LEN).contains(&length));
                    assert!(rest.len() < length as usize);
                }
                return;
            }
            Err(e) => {
                assert!(e.length < HEADER_LEN as u32 || e.length > MAX_LEN);
                assert_eq!(e.sequence.is_some(), rest.len() >= HEADER_LEN);
                // More octets do not mend it.
                assert_eq!(cut(&rest[..4], MAX_LEN).err().map(|e| e.length), Some(e.length));
                return;
            }
        }
    }
});
