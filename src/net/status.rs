//! From reasons to command_status: the one place where the gateway's refusals get their SMPP numbers.

use std::collections::BTreeMap;

use crate::domain::reject::Reject;
use crate::smpp::CommandStatus;

/// The status answered for each reason, after the overrides of `[status]`.
#[derive(Debug, Clone)]
pub struct Statuses([CommandStatus; Reject::ALL.len()]);

/// Vendor range (SMPP 3.4 §5.1.3): what the standard has no status for.
const NO_BALANCE: CommandStatus = CommandStatus(0x0400);
const SUPPRESSED: CommandStatus = CommandStatus(0x0401);
const NO_ROUTE: CommandStatus = CommandStatus(0x0403);
const OUTSIDE_HOURS: CommandStatus = CommandStatus(0x0404);
const AGAINST_POLICY: CommandStatus = CommandStatus(0x0406);

fn default_status(reason: Reject) -> CommandStatus {
    match reason {
        Reject::AccountInactive => CommandStatus::ESME_RSUBMITFAIL,
        Reject::WindowFull | Reject::Overload | Reject::StoreUnavailable => CommandStatus::ESME_RMSGQFUL,
        Reject::NotOffered => CommandStatus::ESME_RINVCMDID,
        Reject::Schedule => CommandStatus::ESME_RINVSCHED,
        Reject::Validity => CommandStatus::ESME_RINVEXPIRY,
        Reject::Empty | Reject::TooLong => CommandStatus::ESME_RINVMSGLEN,
        Reject::Destination => CommandStatus::ESME_RINVDSTADR,
        Reject::Source => CommandStatus::ESME_RINVSRCADR,
        Reject::Suppressed => SUPPRESSED,
        Reject::Window => OUTSIDE_HOURS,
        Reject::Content | Reject::Frequency | Reject::Loop => AGAINST_POLICY,
        Reject::Rate | Reject::Quota => CommandStatus::ESME_RTHROTTLED,
        Reject::NoRoute | Reject::NoPrice => NO_ROUTE,
        Reject::Balance => NO_BALANCE,
    }
}

impl Statuses {
    /// The defaults with `overrides` by reason name.
    ///
    /// # Errors
    /// The first name that is no reason.
    pub fn new(overrides: &BTreeMap<String, u32>) -> Result<Statuses, String> {
        let mut table = Reject::ALL.map(default_status);
        for (name, status) in overrides {
            let reason = Reject::ALL
                .iter()
                .position(|r| r.name() == name)
                .ok_or_else(|| name.clone())?;
            if let Some(slot) = table.get_mut(reason) {
                *slot = CommandStatus(*status);
            }
        }
        Ok(Statuses(table))
    }

    /// The status of a reason.
    #[must_use]
    pub fn of(&self, reason: Reject) -> CommandStatus {
        self.0
            .get(reason as usize)
            .copied()
            .unwrap_or(CommandStatus::ESME_RSYSERR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_an_error_status_and_can_be_overridden() {
        let plain = Statuses::new(&BTreeMap::new()).unwrap();
        assert!(
            Reject::ALL
                .iter()
                .all(|r| plain.of(*r) != CommandStatus::ESME_ROK)
        );
        assert_eq!(plain.of(Reject::Balance), CommandStatus(0x0400));
        assert_eq!(plain.of(Reject::Rate), CommandStatus::ESME_RTHROTTLED);
        let changed = Statuses::new(&BTreeMap::from([("balance".to_string(), 0x45)])).unwrap();
        assert_eq!(changed.of(Reject::Balance), CommandStatus::ESME_RSUBMITFAIL);
        assert!(Statuses::new(&BTreeMap::from([("blance".to_string(), 1)])).is_err());
    }
}
