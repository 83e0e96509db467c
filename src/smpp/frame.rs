//! Framing: the one place that knows "incomplete", and that decides how much memory a stranger can make us hold.

use super::numbers::CommandId;
use super::status::CommandStatus;

/// Octets of a PDU header (SMPP 3.4 §3.2).
pub const HEADER_LEN: usize = 16;
/// Longest PDU taken: message_payload carries at most 65,535 octets, the rest is header and mandatory fields.
pub const MAX_PDU_DEFAULT: u32 = 70_000;

/// A PDU header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Octets of the whole PDU.
    pub length: u32,
    /// Which operation.
    pub command_id: CommandId,
    /// Outcome, in responses.
    pub command_status: CommandStatus,
    /// Pairs a response with its request.
    pub sequence: u32,
}

impl Header {
    /// Reads a header; every value is possible.
    #[must_use]
    pub const fn decode(b: &[u8; HEADER_LEN]) -> Header {
        Header {
            length: u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
            command_id: CommandId(u32::from_be_bytes([b[4], b[5], b[6], b[7]])),
            command_status: CommandStatus(u32::from_be_bytes([b[8], b[9], b[10], b[11]])),
            sequence: u32::from_be_bytes([b[12], b[13], b[14], b[15]]),
        }
    }
}

/// One whole PDU, borrowed from the read buffer.
#[derive(Clone, Copy)]
pub struct RawPdu<'a> {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub body: &'a [u8],
    /// Header and body.
    pub bytes: &'a [u8],
}

impl std::fmt::Debug for RawPdu<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "RawPdu({}, {} octets)",
            self.header.command_id,
            self.bytes.len()
        )
    }
}

/// An impossible command_length: where the next PDU begins cannot be known, the connection has to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameError {
    /// The command_length.
    pub length: u32,
    /// The sequence number, if the header was there.
    pub sequence: Option<u32>,
}

/// Cuts the first whole PDU off `buf`; `Ok(None)` asks for more octets. Allocates nothing, whatever the length says.
///
/// # Errors
/// [`FrameError`] for a command_length below 16 or above `max`.
pub fn cut(buf: &[u8], max: u32) -> Result<Option<RawPdu<'_>>, FrameError> {
    let Some(length) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let header = buf.first_chunk::<HEADER_LEN>().map(Header::decode);
    if length < HEADER_LEN as u32 || length > max {
        return Err(FrameError {
            length,
            sequence: header.map(|h| h.sequence),
        });
    }
    let (Some(header), Some(bytes)) = (header, buf.get(..length as usize)) else {
        return Ok(None);
    };
    let body = bytes.get(HEADER_LEN..).unwrap_or(&[]);
    Ok(Some(RawPdu { header, body, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pdu_is_cut_when_whole_and_not_before() {
        let mut buf = vec![0, 0, 0, 17, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 9, 42, 1];
        for n in 0..17 {
            assert!(cut(&buf[..n], 100).unwrap().is_none(), "{n}");
        }
        let pdu = cut(&buf, 100).unwrap().unwrap();
        assert_eq!(
            (pdu.header.command_id, pdu.header.sequence, pdu.body),
            (CommandId::SUBMIT_SM, 9, &[42][..])
        );
        buf[3] = 15;
        assert_eq!(
            cut(&buf, 100).unwrap_err(),
            FrameError {
                length: 15,
                sequence: Some(9)
            }
        );
        assert_eq!(
            cut(&[0xFF; 4], 100).unwrap_err(),
            FrameError {
                length: u32::MAX,
                sequence: None
            }
        );
    }
}
