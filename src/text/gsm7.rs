//! The GSM 03.38 default alphabet with its extension table, unpacked: one septet an octet, as SMPP carries it.

/// Announces a character of the extension table.
pub const ESCAPE: u8 = 0x1B;

const BASIC: [char; 128] = [
    '@', '£', '$', '¥', 'è', 'é', 'ù', 'ì', 'ò', 'Ç', '\n', 'Ø', 'ø', '\r', 'Å', 'å', 'Δ', '_', 'Φ', 'Γ',
    'Λ', 'Ω', 'Π', 'Ψ', 'Σ', 'Θ', 'Ξ', '\u{1b}', 'Æ', 'æ', 'ß', 'É', ' ', '!', '"', '#', '¤', '%', '&', '\'',
    '(', ')', '*', '+', ',', '-', '.', '/', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ':', ';', '<',
    '=', '>', '?', '¡', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q',
    'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z', 'Ä', 'Ö', 'Ñ', 'Ü', '§', '¿', 'a', 'b', 'c', 'd', 'e', 'f',
    'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x', 'y', 'z', 'ä',
    'ö', 'ñ', 'ü', 'à',
];

const EXTENSION: [(u8, char); 10] = [
    (0x0A, '\u{0c}'),
    (0x14, '^'),
    (0x28, '{'),
    (0x29, '}'),
    (0x2F, '\\'),
    (0x3C, '['),
    (0x3D, '~'),
    (0x3E, ']'),
    (0x40, '|'),
    (0x65, '€'),
];

/// Encodes a text; `None` if a character is in neither table.
#[must_use]
pub fn encode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        if let Some(at) = BASIC
            .iter()
            .position(|b| *b == c)
            .filter(|at| *at != usize::from(ESCAPE))
        {
            out.push(at as u8);
        } else {
            let (code, _) = EXTENSION.iter().find(|(_, e)| *e == c)?;
            out.extend_from_slice(&[ESCAPE, *code]);
        }
    }
    Some(out)
}

/// Decodes unpacked septets. An escape before an unknown code gives the code's basic character, as 23.038 §6.2.1.1 asks;
/// octets above 127 and a lone escape give U+FFFD.
#[must_use]
pub fn decode(octets: &[u8]) -> String {
    let mut out = String::with_capacity(octets.len());
    let mut rest = octets.iter();
    while let Some(&c) = rest.next() {
        if c != ESCAPE {
            out.push(BASIC.get(usize::from(c)).copied().unwrap_or('\u{fffd}'));
            continue;
        }
        match rest.next() {
            Some(&code) if code != ESCAPE => {
                let extended = EXTENSION.iter().find(|(e, _)| *e == code).map(|(_, c)| *c);
                out.push(
                    extended
                        .or_else(|| BASIC.get(usize::from(code)).copied())
                        .unwrap_or('\u{fffd}'),
                );
            }
            _ => out.push('\u{fffd}'),
        }
    }
    out
}

/// Packs septets as on the air (3GPP TS 23.038 §6.1.2.1), after `header` octets of user data header: they begin at the next
/// septet boundary, with fill bits before them.
#[must_use]
pub fn pack(septets: &[u8], header: usize) -> Vec<u8> {
    let fill = (7 - header * 8 % 7) % 7;
    let mut out = vec![0u8; (fill + septets.len() * 7).div_ceil(8)];
    for (i, septet) in septets.iter().enumerate() {
        let bit = fill + i * 7;
        let wide = u16::from(septet & 0x7F) << (bit % 8);
        for (at, octet) in [(bit / 8, wide as u8), (bit / 8 + 1, (wide >> 8) as u8)] {
            if let Some(slot) = out.get_mut(at) {
                *slot |= octet;
            }
        }
    }
    out
}

/// Unpacks septets that follow `header` octets of user data header (see [`pack`]). Seven bits left over at the end are a septet unless they are zero: fill, or a lone `@`,
/// which nobody can tell apart.
#[must_use]
pub fn unpack(octets: &[u8], header: usize) -> Vec<u8> {
    let fill = (7 - header * 8 % 7) % 7;
    let bits = (octets.len() * 8).saturating_sub(fill);
    let n = bits / 7;
    let mut out: Vec<u8> = (0..n)
        .map(|i| {
            let bit = fill + i * 7;
            let at = |n: usize| u16::from(octets.get(n).copied().unwrap_or(0));
            ((at(bit / 8) | at(bit / 8 + 1) << 8) >> (bit % 8)) as u8 & 0x7F
        })
        .collect();
    if bits.is_multiple_of(7) && out.last() == Some(&0) {
        out.pop();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn septets_pack_and_unpack() {
        assert_eq!(
            pack(b"hellohello", 0),
            [0xE8, 0x32, 0x9B, 0xFD, 0x46, 0x97, 0xD9, 0xEC, 0x37]
        );
        assert_eq!(pack(b"A", 6), [0x82], "one fill bit after a header of six octets");
        for n in 0..20 {
            let septets: Vec<u8> = (0..n).map(|i| i + 1).collect();
            assert_eq!(unpack(&pack(&septets, 0), 0), septets, "{n}");
        }
    }

    #[test]
    fn both_tables_round_trip() {
        let all: String = BASIC
            .iter()
            .filter(|c| **c != '\u{1b}')
            .chain(EXTENSION.iter().map(|(_, c)| c))
            .collect();
        assert_eq!(decode(&encode(&all).unwrap()), all);
        assert_eq!(encode("[€]").unwrap(), [0x1B, 0x3C, 0x1B, 0x65, 0x1B, 0x3E]);
        assert_eq!(encode("ё"), None);
        assert_eq!(decode(&[0x1B]), "\u{fffd}");
    }
}
