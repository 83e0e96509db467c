//! What became of a message.

/// The state of a message that is over. The numbers are those of SMPP 3.4 §5.2.28, so that stored rows, receipts and
/// query answers agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Final {
    /// Reached the handset.
    Delivered = 2,
    /// Its validity ran out.
    Expired = 3,
    /// Cancelled.
    Deleted = 4,
    /// Cannot be delivered.
    Undeliverable = 5,
    /// Accepted by the SMSC's user on the handset's behalf; provisional until the receipt timeout.
    Accepted = 6,
    /// Nobody knows; provisional while the receipt timeout runs.
    Unknown = 7,
    /// Refused.
    Rejected = 8,
}

impl Final {
    /// From the stored number; `None` for anything else (1, ENROUTE, is not final).
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Final> {
        Some(match code {
            2 => Final::Delivered,
            3 => Final::Expired,
            4 => Final::Deleted,
            5 => Final::Undeliverable,
            6 => Final::Accepted,
            7 => Final::Unknown,
            8 => Final::Rejected,
            _ => return None,
        })
    }

    /// The stored number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The receipt's seven-letter word (SMPP 3.4 Appendix B).
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Final::Delivered => "DELIVRD",
            Final::Expired => "EXPIRED",
            Final::Deleted => "DELETED",
            Final::Undeliverable => "UNDELIV",
            Final::Accepted => "ACCEPTD",
            Final::Unknown => "UNKNOWN",
            Final::Rejected => "REJECTD",
        }
    }

    /// From the receipt's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Final> {
        (0..=8).filter_map(Final::from_code).find(|f| f.word() == word)
    }

    /// Whether a later state may replace it (until the receipt timeout).
    #[must_use]
    pub const fn provisional(self) -> bool {
        matches!(self, Final::Accepted | Final::Unknown)
    }
}

/// When a charge is earned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum ChargeOn {
    /// At our acknowledgement.
    Accepted = 0,
    /// When the upstream has taken the message.
    #[default]
    Submitted = 1,
    /// When it is delivered.
    Delivered = 2,
}

impl ChargeOn {
    /// From the stored number; unknown numbers read as the default.
    #[must_use]
    pub const fn from_code(code: u8) -> ChargeOn {
        match code {
            0 => ChargeOn::Accepted,
            2 => ChargeOn::Delivered,
            _ => ChargeOn::Submitted,
        }
    }
}

/// Which receipts the customer asked for (registered_delivery bits 1–0, SMPP 3.4 §5.2.17).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Wants {
    /// None.
    #[default]
    Nothing = 0,
    /// For success and failure.
    Always = 1,
    /// For failure only.
    Failure = 2,
    /// For success only (value 3 is reserved in 3.4; 5.0 gives it this meaning).
    Success = 3,
}

impl Wants {
    /// From the two low bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Wants {
        match bits & 3 {
            1 => Wants::Always,
            2 => Wants::Failure,
            3 => Wants::Success,
            _ => Wants::Nothing,
        }
    }

    /// Whether `state` is one the customer asked to hear of.
    #[must_use]
    pub const fn covers(self, state: Final) -> bool {
        let success = matches!(state, Final::Delivered | Final::Accepted);
        match self {
            Wants::Nothing => false,
            Wants::Always => true,
            Wants::Failure => !success,
            Wants::Success => success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        let finals: Vec<Final> = (0..=255).filter_map(Final::from_code).collect();
        assert_eq!(finals.len(), 7);
        assert!(
            finals
                .iter()
                .all(|f| Final::from_code(f.code()) == Some(*f) && f.word().len() == 7)
        );
    }

    #[test]
    fn wants_follow_the_two_bits() {
        assert!(!Wants::from_bits(0x10).covers(Final::Delivered));
        assert!(Wants::from_bits(0x11).covers(Final::Undeliverable));
        assert!(!Wants::from_bits(2).covers(Final::Delivered) && Wants::from_bits(2).covers(Final::Expired));
        assert!(Wants::from_bits(3).covers(Final::Delivered) && !Wants::from_bits(3).covers(Final::Rejected));
    }
}
