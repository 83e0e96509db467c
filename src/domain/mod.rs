//! Decisions: pure, and ignorant of SMPP, SQL and tokio. Every rule takes what it needs, time included, as arguments.

pub mod account;
pub mod address;
pub mod content;
pub mod frequency;
pub mod hours;
pub mod limit;
pub mod message;
pub mod optout;
pub mod outcome;
pub mod plan;
pub mod prefix;
pub mod quota;
pub mod reject;
pub mod route;
pub mod sender;
pub mod suppression;
pub mod tariff;
pub mod urgency;
pub mod wallet;
pub mod window;
