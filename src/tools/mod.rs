//! Traffic tools of the product: an SMSC to send to and a load to send. They speak SMPP and know nothing of the gateway.

pub mod load;
pub mod smsc;
