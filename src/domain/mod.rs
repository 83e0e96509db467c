//! Decisions: pure, and ignorant of SMPP, SQL and tokio. Every rule takes what it needs, time included, as arguments.

pub mod account;
pub mod address;
pub mod hours;
pub mod limit;
pub mod message;
pub mod outcome;
pub mod plan;
pub mod prefix;
pub mod quota;
pub mod reject;
pub mod route;
pub mod tariff;
pub mod wallet;
