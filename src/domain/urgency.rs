//! How urgent a message is at an upstream: 0 (bulk) to 3 (one-time passwords).

/// The most urgent.
pub const MOST_URGENT: u8 = 3;

/// One rule; see [`Urgency::level`]. An empty list names all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrgencyRule {
    /// Only of the accounts of these names.
    pub accounts: Vec<String>,
    /// Only on these routes of the table.
    pub routes: Vec<u16>,
    /// Only from senders of these classes.
    pub classes: Vec<u16>,
    /// As urgent as this, whatever the customer asks for; `None`: what it asks for, up to `max`.
    pub level: Option<u8>,
    /// The most that priority_flag may ask for.
    pub max: u8,
}

/// The rules of urgency in their order. An immutable value, swapped whole when the config changes.
#[derive(Clone, Debug, Default)]
pub struct Urgency(Vec<UrgencyRule>);

impl Urgency {
    /// In this order; the first that applies decides.
    #[must_use]
    pub fn new(rules: Vec<UrgencyRule>) -> Urgency {
        Urgency(rules)
    }

    /// How urgent a message is: what the first rule says that applies to it; without one, what priority_flag asks for (SMPP 3.4
    /// §5.2.14).
    #[must_use]
    pub fn level(&self, account: &str, route: u16, class: u16, priority_flag: u8) -> u8 {
        let asked = priority_flag.min(MOST_URGENT);
        let applies = |rule: &&UrgencyRule| {
            (rule.accounts.is_empty() || rule.accounts.iter().any(|a| a == account))
                && (rule.routes.is_empty() || rule.routes.contains(&route))
                && (rule.classes.is_empty() || rule.classes.contains(&class))
        };
        match self.0.iter().find(applies) {
            None => asked,
            Some(rule) => rule.level.unwrap_or(asked.min(rule.max)).min(MOST_URGENT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_applies_decides_and_otherwise_the_customer() {
        let any = UrgencyRule {
            accounts: Vec::new(),
            routes: Vec::new(),
            classes: Vec::new(),
            level: None,
            max: 1,
        };
        let rules = vec![
            UrgencyRule {
                classes: vec![2],
                level: Some(3),
                ..any.clone()
            },
            UrgencyRule {
                accounts: vec!["bank".into()],
                routes: vec![7],
                max: 3,
                ..any.clone()
            },
            any,
        ];
        let urgency = Urgency::new(rules);
        assert_eq!(urgency.level("shop", 0, 2, 0), 3, "the class of its sender");
        assert_eq!(urgency.level("bank", 7, 0, 2), 2, "as far as this account may");
        assert_eq!(
            urgency.level("bank", 6, 0, 2),
            1,
            "on another route it is as all others"
        );
        assert_eq!(urgency.level("shop", 7, 0, 0), 0);
        assert_eq!(Urgency::default().level("shop", 0, 0, 3), 3);
        assert_eq!(Urgency::default().level("shop", 0, 0, 200), 3);
    }
}
