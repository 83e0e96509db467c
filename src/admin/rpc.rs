//! Methods, who may call them, and the errors they answer.

use serde_json::{Value, json};

use crate::domain::sender::Standing;

use super::{
    Context, account, event, link, message, payment, price, reconcile, review, sender, suppression, wallet,
};

/// A method of the admin socket.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// `noun.verb`.
    pub name: &'static str,
    /// Roles that may call it; the break-glass role may call all.
    pub roles: &'static [&'static str],
    /// What it does, in a sentence.
    pub doc: &'static str,
}

const READ: &[&str] = &["operator", "noc", "finance", "support", "dpo", "trust", "auditor"];
const OPERATOR: &[&str] = &["operator"];
const LINKS: &[&str] = &["operator", "noc"];
const MONEY: &[&str] = &["operator", "finance", "support", "auditor"];

/// Every method, with the roles of the permission matrix. Default deny: a role that is not listed may not.
pub const METHODS: &[Method] = &[
    Method {
        name: "account.create",
        roles: OPERATOR,
        doc: "Creates a customer account; answers its secret once",
    },
    Method {
        name: "account.list",
        roles: READ,
        doc: "Lists accounts",
    },
    Method {
        name: "account.show",
        roles: READ,
        doc: "Shows an account",
    },
    Method {
        name: "account.update",
        roles: OPERATOR,
        doc: "Changes an account",
    },
    Method {
        name: "account.suspend",
        roles: &["operator", "finance", "dpo", "trust"],
        doc: "Ends its sessions and refuses binds and submits",
    },
    Method {
        name: "account.resume",
        roles: &["operator", "finance", "dpo", "trust"],
        doc: "Undoes account.suspend",
    },
    Method {
        name: "account.close",
        roles: OPERATOR,
        doc: "Closes an account for good",
    },
    Method {
        name: "wallet.topup",
        roles: &["finance"],
        doc: "Books a payment, once per provider and receipt",
    },
    Method {
        name: "wallet.adjust",
        roles: &["finance"],
        doc: "Corrects a balance up or down, once per reference, with a note why",
    },
    Method {
        name: "wallet.assign",
        roles: &["finance"],
        doc: "Gives a payment in suspense to an account",
    },
    Method {
        name: "wallet.suspense",
        roles: MONEY,
        doc: "Payments that nobody has claimed",
    },
    Method {
        name: "wallet.payments",
        roles: MONEY,
        doc: "Payments on record, newest first",
    },
    Method {
        name: "wallet.reverse",
        roles: &["finance"],
        doc: "Books that a provider has taken a payment back",
    },
    Method {
        name: "wallet.payout",
        roles: &["finance"],
        doc: "Sets unused money of a payment aside for its payer, once per reference",
    },
    Method {
        name: "wallet.settle",
        roles: &["finance"],
        doc: "Says what became of a payout: paid, failed or unknown",
    },
    Method {
        name: "wallet.payouts",
        roles: MONEY,
        doc: "Payouts, newest first",
    },
    Method {
        name: "wallet.reconcile",
        roles: &["finance"],
        doc: "Compares a provider's CSV with the payments on record; with apply books what is missing here",
    },
    Method {
        name: "wallet.holds",
        roles: MONEY,
        doc: "Money set aside for open messages, with its age",
    },
    Method {
        name: "tariff.list",
        roles: READ,
        doc: "The tariffs of the config",
    },
    Method {
        name: "price.list",
        roles: READ,
        doc: "Prices that an account has of its own",
    },
    Method {
        name: "price.set",
        roles: &["finance"],
        doc: "Sets a price of an account's own",
    },
    Method {
        name: "price.remove",
        roles: &["finance"],
        doc: "Takes a price of an account's own away",
    },
    Method {
        name: "event.list",
        roles: READ,
        doc: "What operators should have heard of: low and frozen wallets, conflicting payments",
    },
    Method {
        name: "wallet.show",
        roles: MONEY,
        doc: "Balance, holds, credit limit, available",
    },
    Method {
        name: "wallet.statement",
        roles: MONEY,
        doc: "Opening balance, lines and closing balance of a span of time, as JSON or CSV",
    },
    Method {
        name: "wallet.limit",
        roles: &["finance"],
        doc: "Sets the credit limit",
    },
    Method {
        name: "wallet.check",
        roles: MONEY,
        doc: "Adds the whole ledger up and compares it with the messages",
    },
    Method {
        name: "message.show",
        roles: READ,
        doc: "State and history of a message",
    },
    Method {
        name: "session.list",
        roles: READ,
        doc: "Bound customer sessions",
    },
    Method {
        name: "session.kick",
        roles: LINKS,
        doc: "Ends sessions of an account, or one session",
    },
    Method {
        name: "upstream.list",
        roles: READ,
        doc: "Upstreams and the state of each bind",
    },
    Method {
        name: "upstream.show",
        roles: READ,
        doc: "One upstream, with the form of its ids that has been learned",
    },
    Method {
        name: "upstream.enable",
        roles: LINKS,
        doc: "Switches an upstream on",
    },
    Method {
        name: "upstream.disable",
        roles: LINKS,
        doc: "Switches an upstream off: it unbinds, its messages wait or take another route",
    },
    Method {
        name: "upstream.reconnect",
        roles: LINKS,
        doc: "Makes an upstream's binds start over",
    },
    Method {
        name: "queue.show",
        roles: READ,
        doc: "What waits, per upstream and per customer outbox",
    },
    Method {
        name: "stats.show",
        roles: READ,
        doc: "Counters since the start",
    },
    Method {
        name: "sender.register",
        roles: &["operator", "support"],
        doc: "Registers a sender address of an account at an operator, with its class",
    },
    Method {
        name: "sender.list",
        roles: READ,
        doc: "Sender addresses of the config and those registered",
    },
    Method {
        name: "sender.activate",
        roles: &["operator", "trust"],
        doc: "Lets a registered sender be used",
    },
    Method {
        name: "sender.suspend",
        roles: &["operator", "trust"],
        doc: "Lets a registered sender be used no more for the moment",
    },
    Method {
        name: "sender.revoke",
        roles: &["operator", "trust"],
        doc: "Ends a registration for good",
    },
    Method {
        name: "suppression.add",
        roles: &["support", "dpo"],
        doc: "Notes a number that must not be sent to",
    },
    Method {
        name: "suppression.import",
        roles: &["support", "dpo"],
        doc: "Notes many numbers, 10000 a request",
    },
    Method {
        name: "suppression.remove",
        roles: &["dpo"],
        doc: "Forgets a number that must not be sent to, with a reason",
    },
    Method {
        name: "suppression.check",
        roles: &["support", "dpo", "auditor"],
        doc: "Every entry of a number",
    },
    Method {
        name: "suppression.list",
        roles: &["support", "dpo", "auditor"],
        doc: "Numbers that must not be sent to, by their keyed hash",
    },
    Method {
        name: "held.list",
        roles: &["operator", "dpo", "trust", "auditor"],
        doc: "Messages that wait for a person since a content rule hit them",
    },
    Method {
        name: "held.show",
        roles: &["dpo", "trust"],
        doc: "The text of a held message, for who decides; needs a reason",
    },
    Method {
        name: "held.release",
        roles: &["operator", "trust"],
        doc: "Lets a held message go",
    },
    Method {
        name: "held.reject",
        roles: &["operator", "trust"],
        doc: "Refuses a held message; nothing is charged",
    },
    Method {
        name: "case.list",
        roles: &["operator", "support", "dpo", "trust", "auditor"],
        doc: "Rules against abuse that have tripped, newest first",
    },
    Method {
        name: "case.show",
        roles: &["operator", "support", "dpo", "trust", "auditor"],
        doc: "Shows a case",
    },
    Method {
        name: "case.close",
        roles: &["operator", "dpo", "trust"],
        doc: "Closes a case with what was found; its rule may trip again",
    },
    Method {
        name: "inbound.list",
        roles: &["operator", "support", "dpo", "auditor"],
        doc: "Inbound messages that no rule claims",
    },
    Method {
        name: "server.drain",
        roles: OPERATOR,
        doc: "Stops taking submits and ends in good order",
    },
];

/// What a request answers instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    code: &'static str,
    message: String,
    field: Option<String>,
}

impl Fault {
    /// An error with a stable code.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Fault {
        Fault {
            code,
            message: message.into(),
            field: None,
        }
    }

    /// Names the faulty parameter.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Fault {
        self.field = Some(field.into());
        self
    }

    /// No such thing.
    #[must_use]
    pub fn not_found(what: &str) -> Fault {
        Fault::new("E_NOT_FOUND", format!("no such {what}")).field(what)
    }

    /// A parameter is wrong.
    #[must_use]
    pub fn validation(field: &str, what: impl Into<String>) -> Fault {
        Fault::new("E_ARG", what).field(field)
    }

    /// Not now.
    #[must_use]
    pub fn unavailable(what: &str) -> Fault {
        Fault::new("E_UNAVAILABLE", what)
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The JSON-RPC error object. Codes -32600.. are JSON-RPC's own; everything else is -32000 with the stable code in `data`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let number = match self.code {
            "E_PARSE" => -32700,
            "E_VERSION" | "E_TOO_LARGE" => -32600,
            "E_UNKNOWN_CMD" => -32601,
            "E_ARG" => -32602,
            _ => -32000,
        };
        let mut data = json!({ "code": self.code });
        if let (Some(field), Some(data)) = (&self.field, data.as_object_mut()) {
            data.insert("field".into(), json!(field));
        }
        json!({ "code": number, "message": self.message, "data": data })
    }
}

/// Runs a method. Whoever calls this has checked the caller's roles.
pub(super) async fn dispatch(context: &Context, method: &str, params: Value) -> Result<Value, Fault> {
    match method {
        "account.create" => account::create(context, params).await,
        "account.list" => account::list(context, params),
        "account.show" => account::show(context, params),
        "account.update" => account::update(context, params).await,
        "account.suspend" => account::suspend(context, params).await,
        "account.resume" => account::resume(context, params).await,
        "account.close" => account::close(context, params).await,
        "wallet.topup" => payment::topup(context, params).await,
        "wallet.adjust" => payment::adjust(context, params).await,
        "wallet.assign" => payment::assign(context, params).await,
        "wallet.suspense" => payment::suspense(context, params).await,
        "wallet.payments" => payment::payments(context, params).await,
        "wallet.reverse" => payment::reverse(context, params).await,
        "wallet.payout" => payment::payout(context, params).await,
        "wallet.settle" => payment::settle(context, params).await,
        "wallet.payouts" => payment::payouts(context, params).await,
        "wallet.reconcile" => reconcile::reconcile(context, params).await,
        "wallet.holds" => wallet::holds(context, params).await,
        "tariff.list" => price::tariffs(context, params),
        "price.list" => price::list(context, params),
        "price.set" => price::set(context, params).await,
        "price.remove" => price::remove(context, params).await,
        "event.list" => event::list(context, params),
        "wallet.show" => wallet::show(context, params),
        "wallet.statement" => wallet::statement(context, params).await,
        "wallet.limit" => wallet::limit(context, params).await,
        "wallet.check" => wallet::check(context, params).await,
        "message.show" => message::show(context, params).await,
        "session.list" => link::sessions(context, params),
        "session.kick" => link::kick(context, params),
        "upstream.list" => link::upstreams(context, params),
        "upstream.show" => link::upstream(context, params),
        "upstream.enable" => link::enable(context, params, true),
        "upstream.disable" => link::enable(context, params, false),
        "upstream.reconnect" => link::reconnect(context, params),
        "queue.show" => link::queue(context, params),
        "stats.show" => link::stats(context, params),
        "sender.register" => sender::register(context, params).await,
        "sender.list" => sender::list(context, params),
        "sender.activate" => sender::stand(context, params, Standing::Active).await,
        "sender.suspend" => sender::stand(context, params, Standing::Suspended).await,
        "sender.revoke" => sender::stand(context, params, Standing::Revoked).await,
        "suppression.add" => suppression::add(context, params).await,
        "suppression.import" => suppression::import(context, params).await,
        "suppression.remove" => suppression::remove(context, params).await,
        "suppression.check" => suppression::check(context, params).await,
        "suppression.list" => suppression::list(context, params).await,
        "held.list" => review::held(context, params).await,
        "held.show" => review::show(context, params).await,
        "held.release" => review::decide(context, params, true).await,
        "held.reject" => review::decide(context, params, false).await,
        "case.list" => review::cases(context, params).await,
        "case.show" => review::case(context, params).await,
        "case.close" => review::close(context, params).await,
        "inbound.list" => review::unclaimed(context, params).await,
        "server.drain" => link::drain(context, params),
        _ => Err(Fault::new(
            "E_UNKNOWN_CMD",
            format!("no method {method:?}; `smsconnect ctl --help` lists them"),
        )),
    }
}
