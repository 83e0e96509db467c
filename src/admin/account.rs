//! account.*

use argon2::{Argon2, PasswordHasher};
use serde_json::{Value, json};

use super::params::Params;
use super::{Context, Fault, time};
use crate::country;
use crate::domain::account::{
    Account, AccountState as Standing, Alphabet, BindAllowed, DeliverAs, Receipts, parse_net,
};
use crate::flow::{AccountState, Change, Control, ControlError, ControlReply};
use crate::ids::AccountId;
use crate::money::Money;

/// Longest system_id (SMPP 3.4 §5.2.1: 16 octets with the NUL).
const SYSTEM_ID_MAX: usize = 15;
/// Longest password taken; the standard's 8 is what most clients can send, and what is generated.
const PASSWORD_MAX: usize = 64;
const GENERATED: usize = 8;
/// Largest quota: more than any link can send in a month.
const QUOTA_MAX: u64 = 1_000_000_000_000;

pub(super) async fn create(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let name = p.need("name")?;
    if name.len() > 64 || name.contains(|c: char| c.is_control() || c == ',') {
        return Err(Fault::validation(
            "name",
            "name must be at most 64 characters without commas",
        ));
    }
    let system_id = p.need("system_id")?;
    if system_id.len() > SYSTEM_ID_MAX || !system_id.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(Fault::validation(
            "system_id",
            "system_id must be 1 to 15 printable ASCII characters",
        ));
    }
    let given = p.text("password")?;
    let mut account = Account {
        id: AccountId::NONE,
        name,
        system_id,
        password_hash: String::new(),
        tariff: String::new(),
        tps: 0,
        window: 0,
        max_binds: 0,
        allow_ips: Vec::new(),
        senders: Vec::new(),
        bind: BindAllowed::All,
        state: Standing::Active,
        credit_limit: Money::ZERO,
        created_ms: (context.now_ms)(),
        ..Account::default()
    };
    let mut wanted = Fields::default();
    fields(context, &mut p, &mut wanted)?;
    wanted.apply(&mut account);
    p.done()?;
    let (password, generated) = secret(given)?;
    called_in_the_open(&account).map_err(|why| Fault::validation("outbind", why))?;
    account.password_hash = hash(password.clone()).await?;
    let ControlReply::Account(account) = context.control(Control::CreateAccount(Box::new(account))).await?
    else {
        return Err(Fault::unavailable("unexpected answer of the engine"));
    };
    let mut shown = describe(&account);
    if let (true, Some(object)) = (generated, shown.as_object_mut()) {
        object.insert("password".into(), json!(password));
    }
    Ok(shown)
}

/// A given password, or a generated one of eight characters that no two of which look alike.
fn secret(given: Option<String>) -> Result<(String, bool), Fault> {
    if let Some(password) = given {
        let fits =
            (1..=PASSWORD_MAX).contains(&password.len()) && password.bytes().all(|c| c.is_ascii_graphic());
        if !fits {
            return Err(Fault::validation(
                "password",
                "password must be 1 to 64 printable ASCII characters without blanks",
            ));
        }
        return Ok((password, false));
    }
    const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789A";
    let mut random = [0u8; GENERATED];
    getrandom::fill(&mut random).map_err(|_| Fault::unavailable("the system gives no randomness"))?;
    Ok((
        random
            .iter()
            .map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]))
            .collect(),
        true,
    ))
}

async fn hash(password: String) -> Result<String, Fault> {
    tokio::task::spawn_blocking(move || {
        Argon2::default()
            .hash_password(password.as_bytes())
            .map(|h| h.to_string())
    })
    .await
    .ok()
    .and_then(Result::ok)
    .ok_or_else(|| Fault::unavailable("the password could not be hashed"))
}

/// The optional fields of create and update: those that were given.
#[derive(Default)]
struct Fields {
    tariff: Option<String>,
    tps: Option<u32>,
    window: Option<u32>,
    max_binds: Option<u32>,
    allow_ips: Option<Vec<String>>,
    senders: Option<Vec<String>>,
    bind: Option<BindAllowed>,
    deliver_as: Option<DeliverAs>,
    receipts: Option<Receipts>,
    alphabet: Option<Alphabet>,
    transliterate: Option<bool>,
    outbind: Option<String>,
    outbind_password: Option<String>,
    certificates: Option<Vec<String>>,
    low_balance: Option<Money>,
    quota_day: Option<u64>,
    quota_month: Option<u64>,
    allow_upstreams: Option<Vec<String>>,
    deny_upstreams: Option<Vec<String>>,
    residency: Option<String>,
}

impl Fields {
    fn apply(self, a: &mut Account) {
        fn set<T>(slot: &mut T, given: Option<T>) {
            if let Some(value) = given {
                *slot = value;
            }
        }
        set(&mut a.tariff, self.tariff);
        set(&mut a.tps, self.tps);
        set(&mut a.window, self.window);
        set(&mut a.max_binds, self.max_binds);
        set(&mut a.allow_ips, self.allow_ips);
        set(&mut a.senders, self.senders);
        set(&mut a.bind, self.bind);
        set(&mut a.deliver_as, self.deliver_as);
        set(&mut a.receipts, self.receipts);
        set(&mut a.alphabet, self.alphabet);
        set(&mut a.transliterate, self.transliterate);
        set(&mut a.outbind, self.outbind);
        set(&mut a.outbind_password, self.outbind_password);
        set(&mut a.certificates, self.certificates);
        set(&mut a.low_balance, self.low_balance);
        set(&mut a.quota_day, self.quota_day);
        set(&mut a.quota_month, self.quota_month);
        set(&mut a.allow_upstreams, self.allow_upstreams);
        set(&mut a.deny_upstreams, self.deny_upstreams);
        set(&mut a.residency, self.residency);
    }
}

fn fields(context: &Context, p: &mut Params, f: &mut Fields) -> Result<(), Fault> {
    f.tariff = p.text("tariff")?;
    if let Some(tariff) = f.tariff.as_ref().filter(|t| !t.is_empty())
        && context.gateway.policy.load().tariff(tariff).is_none()
    {
        return Err(Fault::validation(
            "tariff",
            "no [[tariff]] of this name in the config",
        ));
    }
    let narrow = |n: Option<u64>| n.map(|n| n as u32);
    f.tps = narrow(p.number("tps", 0, 1_000_000)?);
    f.window = narrow(p.number("window", 0, 100_000)?);
    f.max_binds = narrow(p.number("max_binds", 0, 100_000)?);
    f.allow_ips = p.list("allow_ips")?;
    if let Some(bad) = f.allow_ips.iter().flatten().find(|ip| parse_net(ip).is_none()) {
        return Err(Fault::validation(
            "allow_ips",
            format!("{bad:?} is no address or network such as 192.0.2.0/24"),
        ));
    }
    f.low_balance = p.money("low_balance")?;
    if f.low_balance.is_some_and(|m| m < Money::ZERO) {
        return Err(Fault::new("E_AMOUNT", "low_balance must not be negative").field("low_balance"));
    }
    f.quota_day = p.number("quota_day", 0, QUOTA_MAX)?;
    f.quota_month = p.number("quota_month", 0, QUOTA_MAX)?;
    f.allow_upstreams = upstreams(context, p, "allow_upstreams")?;
    f.deny_upstreams = upstreams(context, p, "deny_upstreams")?;
    f.residency = p.text("residency")?;
    if let Some(code) = f
        .residency
        .as_ref()
        .filter(|c| !c.is_empty() && !country::is_iso(c))
    {
        return Err(Fault::validation(
            "residency",
            format!("{code:?} is no country; write the ISO 3166 code in capitals, such as KE"),
        ));
    }
    f.senders = p.list("senders")?;
    if f.senders
        .iter()
        .flatten()
        .any(|s| s.len() > 20 || s.contains(','))
    {
        return Err(Fault::validation(
            "senders",
            "a sender is at most 20 characters without commas",
        ));
    }
    f.bind = match p.text("bind")?.as_deref() {
        None => None,
        Some("all") => Some(BindAllowed::All),
        Some("transmitter") => Some(BindAllowed::Transmitter),
        Some("receiver") => Some(BindAllowed::Receiver),
        Some("transceiver") => Some(BindAllowed::Transceiver),
        Some(_) => {
            return Err(Fault::validation(
                "bind",
                "bind must be all, transmitter, receiver or transceiver",
            ));
        }
    };
    f.deliver_as = p.choice("deliver_as", DeliverAs::WORDS, DeliverAs::parse)?;
    f.receipts = p.choice("receipts", Receipts::WORDS, Receipts::parse)?;
    f.alphabet = p.choice("alphabet", Alphabet::WORDS, Alphabet::parse)?;
    f.transliterate = p.flag("transliterate")?;
    f.outbind = p.text("outbind")?;
    if let Some(address) = f.outbind.as_ref().filter(|a| !a.is_empty()) {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none() {
            return Err(Fault::validation("outbind", "outbind must be \"host:port\""));
        }
    }
    f.outbind_password = p.text("outbind_password")?;
    if f.outbind_password
        .as_ref()
        .is_some_and(|s| s.len() > PASSWORD_MAX)
    {
        return Err(Fault::validation(
            "outbind_password",
            "outbind_password must be at most 64 characters",
        ));
    }
    f.certificates = p.list("certificates")?;
    let hex = |c: &String| c.chars().filter(|c| *c != ':').all(|c| c.is_ascii_hexdigit());
    let digits = |c: &String| c.chars().filter(char::is_ascii_hexdigit).count();
    if f.certificates
        .iter()
        .flatten()
        .any(|c| !hex(c) || digits(c) != 64)
    {
        return Err(Fault::validation(
            "certificates",
            "a certificate is named by its SHA-256 fingerprint, 64 hexadecimal digits",
        ));
    }
    Ok(())
}

/// A list of upstreams, each of which must be in the config: a slip of the finger would bar all, or none.
fn upstreams(context: &Context, p: &mut Params, key: &'static str) -> Result<Option<Vec<String>>, Fault> {
    let list = p.list(key)?;
    let unknown = |name: &&String| context.gateway.upstream_by_name(name).is_none();
    match list.iter().flatten().find(unknown) {
        Some(name) => Err(Fault::validation(
            key,
            format!("there is no [[upstream]] named {name:?} in the config"),
        )),
        None => Ok(list),
    }
}

pub(super) fn list(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let limit = p.number("limit", 1, 1_000)?.unwrap_or(1_000) as usize;
    let cursor = p.number("cursor", 0, u64::from(u32::MAX))?.unwrap_or(0);
    p.done()?;
    let accounts = context.gateway.accounts();
    let mut all: Vec<_> = accounts.iter().filter(|a| u64::from(a.id.0) > cursor).collect();
    all.sort_by_key(|a| a.id);
    let more = all.len() > limit;
    let page: Vec<_> = all.into_iter().take(limit).collect();
    let next = page.last().filter(|_| more).map(|a| a.id.0);
    let items: Vec<Value> = page.into_iter().map(|a| summary(a)).collect();
    Ok(json!({ "items": items, "cursor": next }))
}

pub(super) fn show(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let account = p.account(context)?;
    p.done()?;
    Ok(live(&account))
}

pub(super) async fn update(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let state = p.account(context)?;
    // Read into a copy first, so that a wrong field changes nothing.
    let mut wanted = Fields::default();
    fields(context, &mut p, &mut wanted)?;
    let given = p.text("password")?;
    p.done()?;
    let password_hash = match given {
        Some(password) => Some(hash(secret(Some(password))?.0).await?),
        None => None,
    };
    let change = move |account: &mut Account| {
        if account.state == Standing::Closed {
            return Err(ControlError::State("the account is closed"));
        }
        wanted.apply(account);
        called_in_the_open(account).map_err(ControlError::State)?;
        if let Some(hash) = password_hash {
            account.password_hash = hash;
        }
        Ok(())
    };
    changed(context, state.id, Box::new(change)).await
}

/// outbind and what follows it are plain text.
fn called_in_the_open(account: &Account) -> Result<(), &'static str> {
    if account.outbind.is_empty() || account.certificates.is_empty() {
        return Ok(());
    }
    Err("outbind is plain text: not for an account that has to show a certificate")
}

/// Makes a change and shows the account as it is then.
pub(super) async fn changed(context: &Context, id: AccountId, change: Change) -> Result<Value, Fault> {
    context.control(Control::ChangeAccount(id, change)).await?;
    let accounts = context.gateway.accounts();
    accounts
        .get(id)
        .map(|a| live(a))
        .ok_or_else(|| Fault::not_found("account"))
}

async fn set_state(context: &Context, params: Value, to: Standing) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let state = p.account(context)?;
    p.done()?;
    let change = move |account: &mut Account| {
        if account.state == Standing::Closed && to != Standing::Closed {
            return Err(ControlError::State("the account is closed for good"));
        }
        account.state = to;
        Ok(())
    };
    let shown = changed(context, state.id, Box::new(change)).await?;
    // Its sessions see the new state when they are woken.
    if to != Standing::Active {
        context.gateway.kick(|s| s.account == state.id);
    }
    Ok(shown)
}

pub(super) async fn suspend(context: &Context, params: Value) -> Result<Value, Fault> {
    set_state(context, params, Standing::Suspended).await
}

pub(super) async fn resume(context: &Context, params: Value) -> Result<Value, Fault> {
    set_state(context, params, Standing::Active).await
}

pub(super) async fn close(context: &Context, params: Value) -> Result<Value, Fault> {
    set_state(context, params, Standing::Closed).await
}

fn describe(a: &Account) -> Value {
    json!({
        "account": a.name,
        "name": a.name,
        "id": a.id.0,
        "system_id": a.system_id,
        "state": a.state.name(),
        "tariff": a.tariff,
        "tps": a.tps,
        "window": a.window,
        "max_binds": a.max_binds,
        "allow_ips": a.allow_ips,
        "senders": a.senders,
        "bind": match a.bind {
            BindAllowed::All => "all",
            BindAllowed::Transmitter => "transmitter",
            BindAllowed::Receiver => "receiver",
            BindAllowed::Transceiver => "transceiver",
        },
        "deliver_as": a.deliver_as.word(),
        "receipts": a.receipts.word(),
        "alphabet": a.alphabet.word(),
        "transliterate": a.transliterate,
        "outbind": a.outbind,
        "certificates": a.certificates,
        "currency": a.currency,
        "low_balance": a.low_balance.to_string(),
        "quota_day": a.quota_day,
        "quota_month": a.quota_month,
        "allow_upstreams": a.allow_upstreams,
        "deny_upstreams": a.deny_upstreams,
        "residency": a.residency,
        "created_at": time(a.created_ms),
    })
}

fn summary(a: &AccountState) -> Value {
    let spec = a.spec();
    json!({
        "account": spec.name,
        "id": a.id.0,
        "system_id": spec.system_id,
        "state": spec.state.name(),
        "tps": spec.tps,
        "binds": a.binds(),
        "balance": a.with_wallet(|w| w.balance()).to_string(),
        "waiting_deliveries": a.outbox.len(),
    })
}

fn live(a: &AccountState) -> Value {
    let mut shown = describe(&a.spec());
    if let Some(object) = shown.as_object_mut() {
        object.insert("binds".into(), json!(a.binds()));
        object.insert(
            "balance".into(),
            json!(a.with_wallet(|w| w.balance()).to_string()),
        );
        object.insert("waiting_deliveries".into(), json!(a.outbox.len()));
    }
    shown
}
