//! The user data header (3GPP TS 23.040 §9.2.3.24).

/// Which part of a concatenated message this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Concat {
    /// Common to all parts; 8 or 16 bits.
    pub reference: u16,
    /// How many parts.
    pub total: u8,
    /// This one, from 1.
    pub part: u8,
}

/// The user data of one short message: no header is longer.
const AIR: usize = 140;

/// Octets of the header at the beginning of `body`, its length octet included; `None` if it does not fit the body, or no
/// short message could carry it.
#[must_use]
pub fn header_len(body: &[u8]) -> Option<usize> {
    let len = usize::from(*body.first()?) + 1;
    (len <= body.len() && len <= AIR).then_some(len)
}

/// The concatenation element (identifier 0x00 or 0x08) of the header at the beginning of `body`, among any others.
#[must_use]
pub fn concat(body: &[u8]) -> Option<Concat> {
    let mut rest = body.get(1..header_len(body)?)?;
    while let [id, len, after @ ..] = rest {
        let (value, next) = after.split_at_checked(usize::from(*len))?;
        match (id, value) {
            (0x00, [reference, total, part]) => {
                return Some(Concat {
                    reference: u16::from(*reference),
                    total: *total,
                    part: *part,
                });
            }
            (0x08, [high, low, total, part]) => {
                return Some(Concat {
                    reference: u16::from_be_bytes([*high, *low]),
                    total: *total,
                    part: *part,
                });
            }
            _ => rest = next,
        }
    }
    None
}

/// A header without its concatenation element; empty if nothing else is in it.
#[must_use]
pub fn without_concat(header: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    let mut rest = header.get(1..).unwrap_or(&[]);
    while let [id, len, after @ ..] = rest {
        let Some((value, next)) = after.split_at_checked(usize::from(*len)) else {
            break;
        };
        if !matches!((id, value.len()), (0x00, 3) | (0x08, 4)) {
            out.extend_from_slice(&[*id, *len]);
            out.extend_from_slice(value);
        }
        rest = next;
    }
    if out.len() == 1 {
        return Vec::new();
    }
    out[0] = (out.len() - 1).min(255) as u8;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_element_is_found_among_others_and_damage_is_none() {
        let c = Concat {
            reference: 7,
            total: 3,
            part: 2,
        };
        assert_eq!(concat(b"\x05\x00\x03\x07\x03\x02rest"), Some(c));
        assert_eq!(
            concat(b"\x0b\x05\x04\x0b\x84\x23\xf0\x00\x03\x07\x03\x02x"),
            Some(c)
        );
        assert_eq!(
            concat(b"\x06\x08\x04\x01\x02\x03\x02"),
            Some(Concat {
                reference: 0x102,
                total: 3,
                part: 2
            })
        );
        for bad in [
            &b""[..],
            b"\x05",
            b"\x05\x00\x09\x07\x03\x02",
            b"\x03\x05\x01\x00",
        ] {
            assert_eq!(concat(bad), None);
        }
    }
}
