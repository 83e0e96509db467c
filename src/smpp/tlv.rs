//! Optional parameters: validated once, walked lazily, kept verbatim and in order.

use super::field::{Fault, PduError};
use super::numbers::Tag;
use super::status::CommandStatus;

/// One optional parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Its tag.
    pub tag: Tag,
    /// Its value, possibly empty.
    pub value: &'a [u8],
}

impl std::fmt::Debug for Tlv<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.tag, self.value.len())
    }
}

/// Optional parameters whose lengths add up.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Tlvs<'a>(&'a [u8]);

impl std::fmt::Debug for Tlvs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> Tlvs<'a> {
    /// None.
    pub const EMPTY: Tlvs<'static> = Tlvs(&[]);

    /// Checks that every length fits.
    ///
    /// # Errors
    /// ESME_RINVOPTPARSTREAM where one runs past the end.
    #[inline]
    pub fn parse(octets: &'a [u8]) -> Result<Tlvs<'a>, PduError> {
        let mut rest = octets;
        while !rest.is_empty() {
            rest = match split(rest) {
                Some((_, rest)) => rest,
                None => {
                    let status = CommandStatus::ESME_RINVOPTPARSTREAM;
                    return Err(PduError::new(status, "tlv", Fault::BadLength));
                }
            };
        }
        Ok(Tlvs(octets))
    }

    /// In wire order.
    pub fn iter(&self) -> impl Iterator<Item = Tlv<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (tlv, next) = split(rest)?;
            rest = next;
            Some(tlv)
        })
    }

    /// The value of the first with this tag.
    #[must_use]
    pub fn get(&self, tag: Tag) -> Option<&'a [u8]> {
        self.iter().find(|t| t.tag == tag).map(|t| t.value)
    }

    /// A one-octet value; `None` if absent or of another width.
    #[must_use]
    pub fn get_u8(&self, tag: Tag) -> Option<u8> {
        match self.get(tag)? {
            [v] => Some(*v),
            _ => None,
        }
    }

    /// A text value without its NUL, if it has one.
    #[must_use]
    pub fn get_cstr(&self, tag: Tag) -> Option<&'a [u8]> {
        self.get(tag).map(|v| v.split(|b| *b == 0).next().unwrap_or(v))
    }

    /// The octets as they stand on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[inline]
fn split(octets: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (head, rest) = octets.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]])))?;
    Some((
        Tlv {
            tag: Tag(u16::from_be_bytes([head[0], head[1]])),
            value,
        },
        rest,
    ))
}

/// Appends one; a value beyond 65,535 octets is cut.
pub fn put_tlv(out: &mut Vec<u8>, tag: Tag, value: &[u8]) {
    let value = value.get(..value.len().min(0xFFFF)).unwrap_or(value);
    out.extend_from_slice(&tag.0.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}
