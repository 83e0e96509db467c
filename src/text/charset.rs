//! Alphabets of short messages, and changing between them without losing a character.

use super::gsm7;

/// How characters are written in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Charset {
    /// GSM 03.38, one septet an octet.
    #[default]
    Gsm7,
    /// GSM 03.38, eight septets in seven octets (3GPP TS 23.038 §6.1.2.1).
    Gsm7Packed,
    /// US-ASCII.
    Ascii,
    /// ISO 8859-1.
    Latin1,
    /// UTF-16, big-endian: UCS-2 with surrogate pairs.
    Ucs2,
}

impl Charset {
    /// Reads octets; what stands for no character becomes U+FFFD.
    #[must_use]
    pub fn decode(self, octets: &[u8]) -> String {
        match self {
            Charset::Gsm7 => gsm7::decode(octets),
            Charset::Gsm7Packed => gsm7::decode(&gsm7::unpack(octets, 0)),
            Charset::Ascii => octets
                .iter()
                .map(|b| if b.is_ascii() { char::from(*b) } else { '\u{fffd}' })
                .collect(),
            Charset::Latin1 => octets.iter().map(|b| char::from(*b)).collect(),
            Charset::Ucs2 => {
                let units = octets
                    .chunks(2)
                    .map(|c| u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]));
                char::decode_utf16(units)
                    .map(|c| c.unwrap_or('\u{fffd}'))
                    .collect()
            }
        }
    }

    /// Writes a text; `None` if a character has no place in the alphabet.
    #[must_use]
    pub fn encode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Charset::Gsm7 => gsm7::encode(text),
            Charset::Gsm7Packed => gsm7::encode(text).map(|septets| gsm7::pack(&septets, 0)),
            Charset::Ascii => text.is_ascii().then(|| text.as_bytes().to_vec()),
            Charset::Latin1 => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect(),
            Charset::Ucs2 => Some(text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        }
    }
}

/// Typographic characters and the plain ones that stand for them: what word processors put into texts, and what makes an
/// otherwise plain message cost more than twice as much.
const PLAIN: [(char, &str); 34] = [
    ('\u{2018}', "'"),
    ('\u{2019}', "'"),
    ('\u{201a}', "'"),
    ('\u{201b}', "'"),
    ('\u{2032}', "'"),
    ('\u{00b4}', "'"),
    ('\u{02bc}', "'"),
    ('`', "'"),
    ('\u{201c}', "\""),
    ('\u{201d}', "\""),
    ('\u{201e}', "\""),
    ('\u{2033}', "\""),
    ('\u{00ab}', "\""),
    ('\u{00bb}', "\""),
    ('\u{2010}', "-"),
    ('\u{2011}', "-"),
    ('\u{2012}', "-"),
    ('\u{2013}', "-"),
    ('\u{2014}', "-"),
    ('\u{2015}', "-"),
    ('\u{2212}', "-"),
    ('\u{00ad}', ""),
    ('\u{200b}', ""),
    ('\u{feff}', ""),
    ('\u{2026}', "..."),
    ('\u{2022}', "*"),
    ('\u{00b7}', "*"),
    ('\u{00a0}', " "),
    ('\u{2002}', " "),
    ('\u{2003}', " "),
    ('\u{2009}', " "),
    ('\u{202f}', " "),
    ('\u{00d7}', "x"),
    ('\t', " "),
];

/// A text with its typographic characters replaced by plain ones; others stay as they are.
#[must_use]
pub fn transliterate(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match PLAIN.iter().find(|(from, _)| *from == c) {
            Some((_, to)) => out.push_str(to),
            None => out.push(c),
        }
    }
    out
}

/// data_coding of UCS-2.
const UCS2: u8 = 0x08;

/// What an account's alphabet and its wish for plain characters make of a text: data_coding and octets, or `None` where it stays
/// as it is. data_coding 0 is GSM 03.38 in the result.
#[must_use]
pub fn shaped(from: Charset, octets: &[u8], plain: bool) -> Option<(u8, Vec<u8>)> {
    let text = from.decode(octets);
    match from {
        Charset::Ucs2 => {
            // Only where it makes the message fit the default alphabet: otherwise nothing is gained by changing it.
            let gsm = plain.then(|| Charset::Gsm7.encode(&transliterate(&text)))??;
            Some((0, gsm))
        }
        Charset::Gsm7 => None,
        _ => {
            let gsm = Charset::Gsm7.encode(&text);
            let gsm = gsm.or_else(|| plain.then(|| Charset::Gsm7.encode(&transliterate(&text)))?);
            Some(match gsm {
                Some(gsm) => (0, gsm),
                None => (UCS2, Charset::Ucs2.encode(&text)?),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_alphabet_writes_what_it_has_and_refuses_the_rest() {
        for (charset, text, octets) in [
            (Charset::Gsm7, "@[é", &[0x00, 0x1B, 0x3C, 0x05][..]),
            (Charset::Gsm7Packed, "hello", &[0xE8, 0x32, 0x9B, 0xFD, 0x06]),
            (Charset::Latin1, "é", &[0xE9]),
            (Charset::Ascii, "a", &[0x61]),
            (Charset::Ucs2, "é😀", &[0x00, 0xE9, 0xD8, 0x3D, 0xDE, 0x00]),
        ] {
            assert_eq!(charset.encode(text).as_deref(), Some(octets), "{charset:?}");
            assert_eq!(charset.decode(octets), text, "{charset:?}");
        }
        assert_eq!(Charset::Gsm7.encode("ё"), None);
        assert_eq!(Charset::Latin1.encode("€"), None);
        assert_eq!(Charset::Ascii.encode("é"), None);
    }

    #[test]
    fn typography_becomes_plain() {
        let text = "\u{201c}It\u{2019}s 5\u{2013}6\u{2026}\u{201d}";
        assert_eq!(transliterate(text), "\"It's 5-6...\"");
        assert_eq!(transliterate("Привет"), "Привет");
        // Every replacement can be written in GSM 03.38.
        assert!(PLAIN.iter().all(|(_, to)| gsm7::encode(to).is_some()));
    }

    proptest! {
        #[test]
        fn what_an_alphabet_writes_it_reads(text in "\\PC{0,40}") {
            for charset in [Charset::Gsm7, Charset::Latin1, Charset::Ascii, Charset::Ucs2] {
                if let Some(octets) = charset.encode(&text) {
                    prop_assert_eq!(charset.decode(&octets), text.clone());
                }
            }
        }

        #[test]
        fn any_octets_read_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            for charset in [Charset::Gsm7, Charset::Gsm7Packed, Charset::Ascii, Charset::Ucs2] {
                let _ = charset.decode(&octets);
            }
        }
    }
}
