//! command_status: number, name and meaning in one table.

use std::fmt;

macro_rules! statuses {
    ($($value:literal $name:ident $text:literal;)*) => {
        /// command_status (SMPP 3.4 §5.1.3, 5.0 §4.7.6). 0x0400–0x04FF are the vendor's.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct CommandStatus(pub u32);

        impl CommandStatus {
            $(#[doc = $text] pub const $name: CommandStatus = CommandStatus($value);)*

            /// Its name in the specification.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What it means, in a few words.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "a status of the vendor's own",
                }
            }

            /// The status of a name such as `ESME_RTHROTTLED`.
            #[must_use]
            pub fn from_name(name: &str) -> Option<CommandStatus> {
                match name {
                    $(stringify!($name) => Some(CommandStatus($value)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    0x0000 ESME_ROK "no error";
    0x0001 ESME_RINVMSGLEN "message length is invalid";
    0x0002 ESME_RINVCMDLEN "command length is invalid";
    0x0003 ESME_RINVCMDID "command id is invalid";
    0x0004 ESME_RINVBNDSTS "wrong bind status for this command";
    0x0005 ESME_RALYBND "already bound";
    0x0006 ESME_RINVPRTFLG "priority flag is invalid";
    0x0007 ESME_RINVREGDLVFLG "registered delivery flag is invalid";
    0x0008 ESME_RSYSERR "system error";
    0x000A ESME_RINVSRCADR "source address is invalid";
    0x000B ESME_RINVDSTADR "destination address is invalid";
    0x000C ESME_RINVMSGID "message id is invalid";
    0x000D ESME_RBINDFAIL "bind failed";
    0x000E ESME_RINVPASWD "password is invalid";
    0x000F ESME_RINVSYSID "system id is invalid";
    0x0011 ESME_RCANCELFAIL "cancel_sm failed";
    0x0013 ESME_RREPLACEFAIL "replace_sm failed";
    0x0014 ESME_RMSGQFUL "message queue is full";
    0x0015 ESME_RINVSERTYP "service type is invalid";
    0x0033 ESME_RINVNUMDESTS "number of destinations is invalid";
    0x0034 ESME_RINVDLNAME "distribution list name is invalid";
    0x0040 ESME_RINVDESTFLAG "destination flag is invalid";
    0x0042 ESME_RINVSUBREP "submit with replace is invalid";
    0x0043 ESME_RINVESMCLASS "esm_class is invalid";
    0x0044 ESME_RCNTSUBDL "cannot submit to the distribution list";
    0x0045 ESME_RSUBMITFAIL "submit failed";
    0x0048 ESME_RINVSRCTON "source type of number is invalid";
    0x0049 ESME_RINVSRCNPI "source numbering plan is invalid";
    0x0050 ESME_RINVDSTTON "destination type of number is invalid";
    0x0051 ESME_RINVDSTNPI "destination numbering plan is invalid";
    0x0053 ESME_RINVSYSTYP "system type is invalid";
    0x0054 ESME_RINVREPFLAG "replace_if_present flag is invalid";
    0x0055 ESME_RINVNUMMSGS "number of messages is invalid";
    0x0058 ESME_RTHROTTLED "throttled: the rate limit is exceeded";
    0x0061 ESME_RINVSCHED "scheduled delivery time is invalid";
    0x0062 ESME_RINVEXPIRY "validity period is invalid";
    0x0063 ESME_RINVDFTMSGID "predefined message is invalid";
    0x0064 ESME_RX_T_APPN "temporary error of the receiving application";
    0x0065 ESME_RX_P_APPN "permanent error of the receiving application";
    0x0066 ESME_RX_R_APPN "rejected by the receiving application";
    0x0067 ESME_RQUERYFAIL "query_sm failed";
    0x00C0 ESME_RINVOPTPARSTREAM "error in the optional part";
    0x00C1 ESME_ROPTPARNOTALLWD "optional parameter not allowed";
    0x00C2 ESME_RINVPARLEN "parameter length is invalid";
    0x00C3 ESME_RMISSINGOPTPARAM "expected optional parameter missing";
    0x00C4 ESME_RINVOPTPARAMVAL "value of an optional parameter is invalid";
    0x00FE ESME_RDELIVERYFAILURE "delivery failure";
    0x00FF ESME_RUNKNOWNERR "unknown error";
    0x0100 ESME_RSERTYPUNAUTH "not authorised for the service type";
    0x0101 ESME_RPROHIBITED "operation is prohibited";
    0x0102 ESME_RSERTYPUNAVAIL "service type is unavailable";
    0x0103 ESME_RSERTYPDENIED "service type is denied";
    0x0104 ESME_RINVDCS "data coding scheme is invalid";
    0x0105 ESME_RINVSRCADDRSUBUNIT "source address subunit is invalid";
    0x0106 ESME_RINVDSTADDRSUBUNIT "destination address subunit is invalid";
    0x0107 ESME_RINVBCASTFREQINT "broadcast frequency interval is invalid";
    0x0108 ESME_RINVBCASTALIAS_NAME "broadcast alias name is invalid";
    0x0109 ESME_RINVBCASTAREAFMT "broadcast area format is invalid";
    0x010A ESME_RINVNUMBCAST_AREAS "number of broadcast areas is invalid";
    0x010B ESME_RINVBCASTCNTTYPE "broadcast content type is invalid";
    0x010C ESME_RINVBCASTMSGCLASS "broadcast message class is invalid";
    0x010D ESME_RBCASTFAIL "broadcast_sm failed";
    0x010E ESME_RBCASTQUERYFAIL "query_broadcast_sm failed";
    0x010F ESME_RBCASTCANCELFAIL "cancel_broadcast_sm failed";
    0x0110 ESME_RINVBCAST_REP "number of repeated broadcasts is invalid";
    0x0111 ESME_RINVBCASTSRVGRP "broadcast service group is invalid";
    0x0112 ESME_RINVBCASTCHANIND "broadcast channel indicator is invalid";
}

impl fmt::Display for CommandStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

impl fmt::Debug for CommandStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
