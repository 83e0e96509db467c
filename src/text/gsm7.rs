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

#[cfg(test)]
mod tests {
    use super::*;

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
