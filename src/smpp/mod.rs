//! SMPP 3.4 (and the 5.0 additions) as octets: sans-IO, no clock, no state.
//!
//! Contract: [`cut`] and every `decode` return errors for bad octets and never panic or allocate by a length they have not
//! checked. Decoded values borrow from the frame. Encoding appends to a `Vec<u8>` and cannot fail: fields are cut to what
//! their length octets can say.

mod bind;
mod check;
mod field;
mod frame;
mod message;
mod numbers;
mod operation;
mod pdu;
mod receipt;
mod status;
mod time;
mod tlv;
mod write;

pub use bind::{Bind, BindResp, Outbind};
pub use check::{check_replace, check_submit};
pub use field::{Address, Fault, PduError};
pub use frame::{FrameError, HEADER_LEN, Header, MAX_PDU_DEFAULT, RawPdu, cut};
pub use message::{DataSm, MessageIdResp, ShortMessage};
pub use numbers::{CommandId, DataCoding, EsmClass, MessageState, Npi, RegisteredDelivery, Tag, Ton};
pub use operation::{
    AlertNotification, Broadcast, CancelSm, Destination, QuerySm, QuerySmResp, ReplaceSm, SubmitMulti,
    SubmitMultiResp, Unsuccessful,
};
pub use pdu::{Pdu, decode, encode};
pub use receipt::{Receipt, ReceiptText, parse_receipt, write_receipt};
pub use status::CommandStatus;
pub use time::{SmppTime, TimeError, format_absolute, parse_time, relative_time};
pub use tlv::{Tlv, Tlvs, put_tlv};
pub use write::{begin, finish, put_header_only, put_message_id_resp, put_short_message};
