//! bind_transmitter, bind_receiver, bind_transceiver, their responses, and outbind (SMPP 3.4 §4.1).

use super::field::{PduError, all, cstring, octets, put_cstring};
use super::numbers::{Npi, Ton};
use super::status::CommandStatus;
use super::tlv::Tlvs;

/// Longest password taken. The standard says 9 octets with the NUL; platforms that hand out longer ones are common, and
/// their customers' clients send them.
const PASSWORD_MAX: usize = 65;

/// The body of a bind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Who binds; at most 15 octets.
    pub system_id: &'a [u8],
    /// Its password.
    pub password: &'a [u8],
    /// Kind of system; at most 12 octets.
    pub system_type: &'a [u8],
    /// 0x33, 0x34 or 0x50.
    pub interface_version: u8,
    /// TON of the addresses served.
    pub addr_ton: Ton,
    /// NPI of the addresses served.
    pub addr_npi: Npi,
    /// Addresses served; at most 40 octets.
    pub address_range: &'a [u8],
}

impl std::fmt::Debug for Bind<'_> {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bind(version {:#x})", self.interface_version)
    }
}

impl<'a> Bind<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<Bind<'a>, PduError> {
        let (i, system_id) = all(cstring(16, CommandStatus::ESME_RINVSYSID, "system_id")(body))?;
        let (i, password) = all(cstring(PASSWORD_MAX, CommandStatus::ESME_RINVPASWD, "password")(
            i,
        ))?;
        let (i, system_type) = all(cstring(13, CommandStatus::ESME_RINVSYSTYP, "system_type")(i))?;
        let (i, [interface_version, ton, npi]) = all(octets::<3>(i))?;
        let (_, address_range) = all(cstring(41, CommandStatus::ESME_RBINDFAIL, "address_range")(i))?;
        let (addr_ton, addr_npi) = (Ton(ton), Npi(npi));
        Ok(Bind {
            system_id,
            password,
            system_type,
            interface_version,
            addr_ton,
            addr_npi,
            address_range,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_cstring(out, self.system_id);
        put_cstring(out, self.password);
        put_cstring(out, self.system_type);
        out.extend_from_slice(&[self.interface_version, self.addr_ton.0, self.addr_npi.0]);
        put_cstring(out, self.address_range);
    }
}

/// The body of a bind response; a refusal may come without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BindResp<'a> {
    /// The SMSC's name.
    pub system_id: &'a [u8],
    /// sc_interface_version, from 3.4 on.
    pub tlvs: Tlvs<'a>,
}

impl<'a> BindResp<'a> {
    /// Reads a body, which may be empty.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<BindResp<'a>, PduError> {
        if body.is_empty() {
            return Ok(BindResp::default());
        }
        let (i, system_id) = all(cstring(16, CommandStatus::ESME_RINVSYSID, "system_id")(body))?;
        Ok(BindResp {
            system_id,
            tlvs: Tlvs::parse(i)?,
        })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_cstring(out, self.system_id);
        out.extend_from_slice(self.tlvs.as_bytes());
    }
}

/// The body of an outbind (SMPP 3.4 §4.1.7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Outbind<'a> {
    /// The SMSC's name.
    pub system_id: &'a [u8],
    /// Its password.
    pub password: &'a [u8],
}

impl std::fmt::Debug for Outbind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbind")
    }
}

impl<'a> Outbind<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`PduError`] with the status of the field.
    pub fn decode(body: &'a [u8]) -> Result<Outbind<'a>, PduError> {
        let (i, system_id) = all(cstring(16, CommandStatus::ESME_RINVSYSID, "system_id")(body))?;
        let (_, password) = all(cstring(PASSWORD_MAX, CommandStatus::ESME_RINVPASWD, "password")(
            i,
        ))?;
        Ok(Outbind { system_id, password })
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        put_cstring(out, self.system_id);
        put_cstring(out, self.password);
    }
}
