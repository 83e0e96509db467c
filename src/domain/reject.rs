//! Why a submit is refused. Declared in the order in which admission checks, so that a submit with several faults always
//! gets the same answer; customers build their retry rules on it.

/// A refusal. Knows no command_status: one function at the edge maps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reject {
    /// The account was suspended or closed while bound.
    AccountInactive,
    /// More unanswered submits than the session's window.
    WindowFull,
    /// The gateway has as much in hand as its limits allow.
    Overload,
    /// The store cannot take writes (disk full), or the gateway is shutting down.
    StoreUnavailable,
    /// The operation is not offered.
    NotOffered,
    /// schedule_delivery_time is not offered.
    Schedule,
    /// validity_period unreadable or already over.
    Validity,
    /// Neither text nor payload.
    Empty,
    /// Destination is no number we can route.
    Destination,
    /// Source address not allowed for the account.
    Source,
    /// The destination must not be sent to: an opt-out, an objection.
    Suppressed,
    /// The same text goes to and fro between two numbers of ours.
    Loop,
    /// A rule for texts refuses it.
    Content,
    /// Outside the hours of the sender's class.
    Window,
    /// More segments than one message may have.
    TooLong,
    /// Above the account's rate.
    Rate,
    /// The account's segments of the day or the month are used up.
    Quota,
    /// As many messages to this number as its class may send in a span of time.
    Frequency,
    /// No route for this destination and account.
    NoRoute,
    /// No price: a refusal, never free.
    NoPrice,
    /// Not enough balance and credit.
    Balance,
}

impl Reject {
    /// Every reason, in the order of checking.
    pub const ALL: [Reject; 21] = [
        Reject::AccountInactive,
        Reject::WindowFull,
        Reject::Overload,
        Reject::StoreUnavailable,
        Reject::NotOffered,
        Reject::Schedule,
        Reject::Validity,
        Reject::Empty,
        Reject::Destination,
        Reject::Source,
        Reject::Suppressed,
        Reject::Loop,
        Reject::Content,
        Reject::Window,
        Reject::TooLong,
        Reject::Rate,
        Reject::Quota,
        Reject::Frequency,
        Reject::NoRoute,
        Reject::NoPrice,
        Reject::Balance,
    ];

    /// The name used in metrics, in `[status]` of the config and over the admin socket.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reject::AccountInactive => "account_inactive",
            Reject::WindowFull => "window_full",
            Reject::Overload => "overload",
            Reject::StoreUnavailable => "store",
            Reject::NotOffered => "not_offered",
            Reject::Schedule => "schedule",
            Reject::Validity => "validity",
            Reject::Empty => "empty",
            Reject::Destination => "destination",
            Reject::Source => "source",
            Reject::Suppressed => "suppressed",
            Reject::Loop => "loop",
            Reject::Content => "content",
            Reject::Window => "window",
            Reject::TooLong => "too_long",
            Reject::Rate => "rate",
            Reject::Quota => "quota",
            Reject::Frequency => "frequency",
            Reject::NoRoute => "no_route",
            Reject::NoPrice => "no_price",
            Reject::Balance => "balance",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_reason_in_order_with_its_own_name() {
        assert!(
            Reject::ALL
                .windows(2)
                .all(|w| w[0] < w[1] && w[0].name() != w[1].name())
        );
        assert_eq!(
            Reject::ALL.map(|r| r as usize),
            std::array::from_fn::<usize, 21, _>(|i| i)
        );
    }
}
