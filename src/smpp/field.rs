//! Leaf parsers. nom composes them; each reads from a complete slice, so nothing here is ever "incomplete".

use nom::error::{ErrorKind, ParseError};
use nom::{Err as NomErr, IResult};

use super::numbers::{Npi, Ton};
use super::status::CommandStatus;

/// What is wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The body ends inside it.
    Truncated,
    /// No NUL within the body.
    NoTerminator,
    /// Longer than the field may be.
    TooLong,
    /// A length that does not fit the rest.
    BadLength,
    /// A value the specification does not allow.
    BadValue,
}

/// A PDU that cannot be taken: the status to answer, and which field is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {fault:?} ({status})")]
pub struct PduError {
    /// The status SMPP names for this field.
    pub status: CommandStatus,
    /// The field's name in the specification.
    pub field: &'static str,
    /// What is wrong with it.
    pub fault: Fault,
}

impl PduError {
    pub(super) const fn new(status: CommandStatus, field: &'static str, fault: Fault) -> PduError {
        PduError { status, field, fault }
    }
}

impl<I> ParseError<I> for PduError {
    fn from_error_kind(_: I, _: ErrorKind) -> Self {
        PduError::new(CommandStatus::ESME_RINVCMDLEN, "body", Fault::Truncated)
    }
    fn append(_: I, _: ErrorKind, other: Self) -> Self {
        other
    }
}

pub(super) type Parsed<'a, T> = IResult<&'a [u8], T, PduError>;

pub(super) fn err<T>(e: PduError) -> Result<T, NomErr<PduError>> {
    Err(NomErr::Error(e))
}

/// Runs a parser over a whole body and unwraps nom's envelope. What it leaves over is handed back.
#[inline(always)]
pub(super) fn all<'a, T>(parsed: Parsed<'a, T>) -> Result<(&'a [u8], T), PduError> {
    match parsed {
        Ok(done) => Ok(done),
        Err(NomErr::Error(e) | NomErr::Failure(e)) => Err(e),
        Err(NomErr::Incomplete(_)) => Err(PduError::new(
            CommandStatus::ESME_RINVCMDLEN,
            "body",
            Fault::Truncated,
        )),
    }
}

/// `N` octets at once.
#[inline(always)]
pub(super) fn octets<const N: usize>(i: &[u8]) -> Parsed<'_, [u8; N]> {
    match i.split_first_chunk::<N>() {
        Some((head, rest)) => Ok((rest, *head)),
        None => err(PduError::new(
            CommandStatus::ESME_RINVCMDLEN,
            "body",
            Fault::Truncated,
        )),
    }
}

/// A NUL-terminated field of at most `max` octets with its NUL (C-Octet String, SMPP 3.4 §3.1). The scan stops at `max`.
#[inline(always)]
pub(super) fn cstring<'a>(
    max: usize,
    status: CommandStatus,
    field: &'static str,
) -> impl Fn(&'a [u8]) -> Parsed<'a, &'a [u8]> {
    move |i| {
        let window = i.get(..max.min(i.len())).unwrap_or(i);
        match window.iter().position(|b| *b == 0) {
            Some(n) => match i.split_at_checked(n + 1) {
                Some((head, rest)) => Ok((rest, head.get(..n).unwrap_or(&[]))),
                None => err(PduError::new(status, field, Fault::NoTerminator)),
            },
            // Too short for the field: the PDU is cut. Long enough: the field is too long.
            None if i.len() < max => err(PduError::new(
                if i.is_empty() {
                    CommandStatus::ESME_RINVCMDLEN
                } else {
                    status
                },
                field,
                if i.is_empty() {
                    Fault::Truncated
                } else {
                    Fault::NoTerminator
                },
            )),
            None => err(PduError::new(status, field, Fault::TooLong)),
        }
    }
}

/// An address: type of number, numbering plan, and up to 20 octets (SMPP 3.4 §5.2.5–5.2.9).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Address<'a> {
    /// Type of number.
    pub ton: Ton,
    /// Numbering plan.
    pub npi: Npi,
    /// The address as written.
    pub addr: &'a [u8],
}

impl std::fmt::Debug for Address<'_> {
    /// Without the address: numbers are personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Address({}/{}, {} octets)",
            self.ton.0,
            self.npi.0,
            self.addr.len()
        )
    }
}

#[inline(always)]
pub(super) fn address<'a>(
    max: usize,
    status: CommandStatus,
    field: &'static str,
) -> impl Fn(&'a [u8]) -> Parsed<'a, Address<'a>> {
    move |i| {
        let (i, [ton, npi]) = octets::<2>(i)?;
        let (i, addr) = cstring(max, status, field)(i)?;
        Ok((
            i,
            Address {
                ton: Ton(ton),
                npi: Npi(npi),
                addr,
            },
        ))
    }
}

pub(super) fn put_cstring(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(value);
    out.push(0);
}

pub(super) fn put_address(out: &mut Vec<u8>, a: &Address<'_>) {
    out.extend_from_slice(&[a.ton.0, a.npi.0]);
    put_cstring(out, a.addr);
}
