//! Protocol numbers as open newtypes: an unknown value is an ordinary value and prints as hex.

use std::fmt;

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident($int:ty) { $($(#[$cdoc:meta])* $value:literal $constant:ident $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$cdoc])* #[doc = concat!("`", $text, "`")] pub const $constant: $name = $name($value);)*

            /// Its name in the specification; `None` for values it does not know.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#x}", self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

numbers! {
    /// command_id (SMPP 3.4 §5.1.2.1; broadcast operations 5.0 §4.4).
    CommandId(u32) {
        0x0000_0001 BIND_RECEIVER "bind_receiver";
        0x0000_0002 BIND_TRANSMITTER "bind_transmitter";
        0x0000_0003 QUERY_SM "query_sm";
        0x0000_0004 SUBMIT_SM "submit_sm";
        0x0000_0005 DELIVER_SM "deliver_sm";
        0x0000_0006 UNBIND "unbind";
        0x0000_0007 REPLACE_SM "replace_sm";
        0x0000_0008 CANCEL_SM "cancel_sm";
        0x0000_0009 BIND_TRANSCEIVER "bind_transceiver";
        0x0000_000B OUTBIND "outbind";
        0x0000_0015 ENQUIRE_LINK "enquire_link";
        0x0000_0021 SUBMIT_MULTI "submit_multi";
        0x0000_0102 ALERT_NOTIFICATION "alert_notification";
        0x0000_0103 DATA_SM "data_sm";
        0x0000_0111 BROADCAST_SM "broadcast_sm";
        0x0000_0112 QUERY_BROADCAST_SM "query_broadcast_sm";
        0x0000_0113 CANCEL_BROADCAST_SM "cancel_broadcast_sm";
        0x8000_0000 GENERIC_NACK "generic_nack";
        0x8000_0001 BIND_RECEIVER_RESP "bind_receiver_resp";
        0x8000_0002 BIND_TRANSMITTER_RESP "bind_transmitter_resp";
        0x8000_0003 QUERY_SM_RESP "query_sm_resp";
        0x8000_0004 SUBMIT_SM_RESP "submit_sm_resp";
        0x8000_0005 DELIVER_SM_RESP "deliver_sm_resp";
        0x8000_0006 UNBIND_RESP "unbind_resp";
        0x8000_0007 REPLACE_SM_RESP "replace_sm_resp";
        0x8000_0008 CANCEL_SM_RESP "cancel_sm_resp";
        0x8000_0009 BIND_TRANSCEIVER_RESP "bind_transceiver_resp";
        0x8000_0015 ENQUIRE_LINK_RESP "enquire_link_resp";
        0x8000_0021 SUBMIT_MULTI_RESP "submit_multi_resp";
        0x8000_0103 DATA_SM_RESP "data_sm_resp";
        0x8000_0111 BROADCAST_SM_RESP "broadcast_sm_resp";
        0x8000_0112 QUERY_BROADCAST_SM_RESP "query_broadcast_sm_resp";
        0x8000_0113 CANCEL_BROADCAST_SM_RESP "cancel_broadcast_sm_resp";
    }
}

impl CommandId {
    /// Whether it answers a request: the top bit is set.
    #[must_use]
    pub const fn is_response(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

numbers! {
    /// TLV tag (SMPP 3.4 §5.3.2).
    Tag(u16) {
        0x0005 DEST_ADDR_SUBUNIT "dest_addr_subunit";
        0x000D SOURCE_ADDR_SUBUNIT "source_addr_subunit";
        0x0017 QOS_TIME_TO_LIVE "qos_time_to_live";
        0x001D ADDITIONAL_STATUS_INFO_TEXT "additional_status_info_text";
        0x001E RECEIPTED_MESSAGE_ID "receipted_message_id";
        0x0202 SOURCE_SUBADDRESS "source_subaddress";
        0x0203 DEST_SUBADDRESS "dest_subaddress";
        0x0204 USER_MESSAGE_REFERENCE "user_message_reference";
        0x020A SOURCE_PORT "source_port";
        0x020B DESTINATION_PORT "destination_port";
        0x020C SAR_MSG_REF_NUM "sar_msg_ref_num";
        0x020E SAR_TOTAL_SEGMENTS "sar_total_segments";
        0x020F SAR_SEGMENT_SEQNUM "sar_segment_seqnum";
        0x0210 SC_INTERFACE_VERSION "sc_interface_version";
        0x0381 CALLBACK_NUM "callback_num";
        0x0420 DPF_RESULT "dpf_result";
        0x0423 NETWORK_ERROR_CODE "network_error_code";
        0x0424 MESSAGE_PAYLOAD "message_payload";
        0x0425 DELIVERY_FAILURE_REASON "delivery_failure_reason";
        0x0426 MORE_MESSAGES_TO_SEND "more_messages_to_send";
        0x0427 MESSAGE_STATE "message_state";
        0x0428 CONGESTION_STATE "congestion_state";
    }
}

numbers! {
    /// message_state (SMPP 3.4 §5.2.28).
    MessageState(u8) {
        1 ENROUTE "ENROUTE";
        2 DELIVERED "DELIVRD";
        3 EXPIRED "EXPIRED";
        4 DELETED "DELETED";
        5 UNDELIVERABLE "UNDELIV";
        6 ACCEPTED "ACCEPTD";
        7 UNKNOWN "UNKNOWN";
        8 REJECTED "REJECTD";
    }
}

impl MessageState {
    /// The seven-letter word of a receipt; `UNKNOWN` for numbers without one.
    #[must_use]
    pub fn stat(self) -> &'static str {
        self.name().unwrap_or("UNKNOWN")
    }

    /// Reads the `stat` of a receipt: any case, the standard's words and spellings that SMSCs use for them.
    #[must_use]
    pub fn from_stat(word: &[u8]) -> Option<MessageState> {
        let is = |names: &[&str]| names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(word));
        Some(if is(&["DELIVRD", "DELIVERED", "DELIVERD", "DELIV"]) {
            MessageState::DELIVERED
        } else if is(&["EXPIRED", "EXPIRD"]) {
            MessageState::EXPIRED
        } else if is(&["DELETED", "CANCELED", "CANCELLED"]) {
            MessageState::DELETED
        } else if is(&[
            "UNDELIV",
            "UNDELIVERABLE",
            "UNDELIVERED",
            "UNDELIVRD",
            "UNDELIVERD",
            "FAILED",
        ]) {
            MessageState::UNDELIVERABLE
        } else if is(&["ACCEPTD", "ACCEPTED", "ACKED"]) {
            MessageState::ACCEPTED
        } else if is(&["REJECTD", "REJECTED", "REJECTE"]) {
            MessageState::REJECTED
        } else if is(&["ENROUTE", "EN_ROUTE", "BUFFERED", "BUFFRED"]) {
            MessageState::ENROUTE
        } else if is(&["UNKNOWN"]) {
            MessageState::UNKNOWN
        } else {
            return None;
        })
    }
}

macro_rules! octet {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
        pub struct $name(pub u8);
    )*};
}

octet! {
    /// Type of number (SMPP 3.4 §5.2.5): 0 unknown, 1 international, 2 national, 5 alphanumeric.
    Ton
    /// Numbering plan indicator (SMPP 3.4 §5.2.6): 0 unknown, 1 E.164.
    Npi
    /// data_coding (SMPP 3.4 §5.2.19).
    DataCoding
    /// esm_class (SMPP 3.4 §5.2.12).
    EsmClass
    /// registered_delivery (SMPP 3.4 §5.2.17).
    RegisteredDelivery
}

impl EsmClass {
    /// A user data header begins the text.
    #[must_use]
    pub const fn udhi(self) -> bool {
        self.0 & 0x40 != 0
    }

    /// Message type bits 5–2.
    #[must_use]
    pub const fn message_type(self) -> u8 {
        self.0 & 0x3C
    }

    /// A delivery receipt (type 0x04).
    #[must_use]
    pub const fn is_receipt(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// An intermediate delivery notification (type 0x20).
    #[must_use]
    pub const fn is_intermediate(self) -> bool {
        self.0 & 0x20 != 0
    }
}
