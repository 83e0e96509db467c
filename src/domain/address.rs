//! Destination numbers: what a customer wrote, completed to E.164.

use std::fmt;

/// An E.164 number without `+`: 7 to 15 digits, first digit not 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Msisdn {
    len: u8,
    digits: [u8; 15],
}

impl Msisdn {
    /// The ASCII digits.
    #[must_use]
    pub fn digits(&self) -> &[u8] {
        self.digits.get(..usize::from(self.len)).unwrap_or(&[])
    }

    fn from_parts(head: &[u8], tail: &[u8]) -> Result<Msisdn, BadNumber> {
        let len = head.len() + tail.len();
        if !(7..=15).contains(&len) {
            return Err(BadNumber::Length);
        }
        let mut digits = [0u8; 15];
        for (slot, &c) in digits.iter_mut().zip(head.iter().chain(tail)) {
            if !c.is_ascii_digit() {
                return Err(BadNumber::NotDigits);
            }
            *slot = c;
        }
        if digits[0] == b'0' {
            return Err(BadNumber::LeadingZero);
        }
        Ok(Msisdn {
            len: len as u8,
            digits,
        })
    }
}

impl fmt::Debug for Msisdn {
    /// Shows only how long it is: numbers are personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Msisdn({} digits)", self.len)
    }
}

/// Why an address is not a number that can be routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadNumber {
    /// Something other than digits after an optional `+`.
    #[error("not digits")]
    NotDigits,
    /// Not 7 to 15 digits once completed (E.164 §6.1).
    #[error("not 7 to 15 digits")]
    Length,
    /// Still starts with 0 although no country code is configured to complete it.
    #[error("a national number, and no country code is configured")]
    LeadingZero,
}

impl BadNumber {
    /// The same in words, for explanations.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            BadNumber::NotDigits => "not digits",
            BadNumber::Length => "not 7 to 15 digits",
            BadNumber::LeadingZero => "a national number, and no country code is configured",
        }
    }
}

/// The national numbering a site lives in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Numbering {
    /// E.164 country code, digits only; empty: numbers are taken as international.
    pub country_code: String,
}

/// National significant numbers are at most this long without a trunk 0; longer digit strings are international.
const NATIONAL_MAX: usize = 9;

/// Shorter ones are short codes or typing errors, not subscribers; a country with shorter numbers writes them in full.
const NATIONAL_MIN: usize = 7;

impl Numbering {
    /// Completes an address to E.164.
    ///
    /// Taken with country code 254: `+254…`, `254…`, `00254…`, `000254…` (clients that prefix twice), `07…`, `01…`, `7…`,
    /// and `2540…` (a trunk 0 left behind the country code).
    ///
    /// `national` says that the sender marked the address as national (TON 2).
    ///
    /// # Errors
    /// [`BadNumber`] when no reading makes it a number.
    pub fn complete(&self, address: &[u8], national: bool) -> Result<Msisdn, BadNumber> {
        let (plus, digits) = match address {
            [b'+', rest @ ..] => (true, rest),
            _ => (false, address),
        };
        let cc = self.country_code.as_bytes();
        if let [b'0', b'0', rest @ ..] = digits {
            let zeros = rest.iter().take_while(|c| **c == b'0').count();
            return self.international(rest.get(zeros..).unwrap_or(&[]));
        }
        if plus || cc.is_empty() {
            return self.international(digits);
        }
        match digits {
            [b'0', rest @ ..] => self.national(rest),
            _ if digits.starts_with(cc) && digits.len() > NATIONAL_MAX => self.international(digits),
            _ if national || digits.len() <= NATIONAL_MAX => self.national(digits),
            _ => self.international(digits),
        }
    }

    fn national(&self, digits: &[u8]) -> Result<Msisdn, BadNumber> {
        if digits.len() < NATIONAL_MIN {
            return Err(BadNumber::Length);
        }
        Msisdn::from_parts(self.country_code.as_bytes(), digits)
    }

    fn international(&self, digits: &[u8]) -> Result<Msisdn, BadNumber> {
        let cc = self.country_code.as_bytes();
        if let Some([b'0', rest @ ..]) = digits.strip_prefix(cc).filter(|_| !cc.is_empty()) {
            return Msisdn::from_parts(cc, rest);
        }
        Msisdn::from_parts(&[], digits)
    }
}

/// Whether two spellings are the same number: equal in their last nine digits (or all, if shorter).
///
/// SMSCs answer a receipt with the number in national or international form, with or without `+`.
#[must_use]
pub fn same_number(a: &[u8], b: &[u8]) -> bool {
    let tail = |n: &[u8]| -> ([u8; 9], usize) {
        let mut out = [0u8; 9];
        let mut len = 0;
        for &c in n.iter().rev().filter(|c| c.is_ascii_digit()).take(9) {
            out[len] = c;
            len += 1;
        }
        (out, len)
    };
    let ((a, a_len), (b, b_len)) = (tail(a), tail(b));
    let shared = a_len.min(b_len);
    // Below six shared digits a match would say nothing (short codes must be equal as a whole).
    (a_len == b_len || shared >= 6) && a.get(..shared) == b.get(..shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kenya() -> Numbering {
        Numbering {
            country_code: "254".into(),
        }
    }

    #[test]
    fn kenyan_spellings_reach_one_number() {
        for text in [
            "254712345678",
            "+254712345678",
            "00254712345678",
            "000254712345678",
            "0712345678",
            "712345678",
            "2540712345678",
            "+2540712345678",
        ] {
            assert_eq!(
                kenya().complete(text.as_bytes(), false).unwrap().digits(),
                b"254712345678",
                "{text}"
            );
        }
        assert_eq!(
            kenya().complete(b"0112345678", false).unwrap().digits(),
            b"254112345678"
        );
        assert_eq!(
            kenya().complete(b"447700900123", false).unwrap().digits(),
            b"447700900123"
        );
    }

    #[test]
    fn without_a_country_numbers_are_international() {
        let n = Numbering::default();
        assert_eq!(
            n.complete(b"254712345678", false).unwrap().digits(),
            b"254712345678"
        );
        assert_eq!(n.complete(b"0712345678", false), Err(BadNumber::LeadingZero));
        assert_eq!(n.complete(b"12345", false), Err(BadNumber::Length));
        assert_eq!(n.complete(b"ACME", false), Err(BadNumber::Length));
        assert_eq!(n.complete(b"ACMEBANK", false), Err(BadNumber::NotDigits));
        assert_eq!(n.complete(b"", false), Err(BadNumber::Length));
        assert_eq!(n.complete(b"1234567890123456", false), Err(BadNumber::Length));
    }

    #[test]
    fn receipts_may_spell_the_number_nationally() {
        assert!(same_number(b"254712345678", b"0712345678"));
        assert!(same_number(b"+254712345678", b"254712345678"));
        assert!(!same_number(b"254712345678", b"254712345679"));
        assert!(!same_number(b"22555", b"254712322555"));
        assert!(same_number(b"22555", b"22555"));
    }
}
