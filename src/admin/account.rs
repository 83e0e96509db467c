//! account.*

use argon2::{Argon2, PasswordHasher};
use serde_json::{Value, json};

use super::params::Params;
use super::{Context, Fault, time};
use crate::domain::account::{Account, AccountState as Standing, BindAllowed, parse_net};
use crate::flow::{AccountState, Control, ControlReply};
use crate::ids::AccountId;
use crate::money::Money;

/// Longest system_id (SMPP 3.4 §5.2.1: 16 octets with the NUL).
const SYSTEM_ID_MAX: usize = 15;
/// Longest password taken; the standard's 8 is what most clients can send, and what is generated.
const PASSWORD_MAX: usize = 64;
const GENERATED: usize = 8;

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
    };
    fields(context, &mut p, &mut account)?;
    p.done()?;
    let (password, generated) = secret(given)?;
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

/// The optional fields of create and update.
fn fields(context: &Context, p: &mut Params, a: &mut Account) -> Result<(), Fault> {
    if let Some(tariff) = p.text("tariff")? {
        if !tariff.is_empty() && context.gateway.policy.load().tariff(&tariff).is_none() {
            return Err(Fault::validation(
                "tariff",
                "no [[tariff]] of this name in the config",
            ));
        }
        a.tariff = tariff;
    }
    let narrow = |n: Option<u64>, old: u32| n.map_or(old, |n| n as u32);
    a.tps = narrow(p.number("tps", 0, 1_000_000)?, a.tps);
    a.window = narrow(p.number("window", 0, 100_000)?, a.window);
    a.max_binds = narrow(p.number("max_binds", 0, 100_000)?, a.max_binds);
    if let Some(ips) = p.list("allow_ips")? {
        if let Some(bad) = ips.iter().find(|ip| parse_net(ip).is_none()) {
            return Err(Fault::validation(
                "allow_ips",
                format!("{bad:?} is no address or network such as 192.0.2.0/24"),
            ));
        }
        a.allow_ips = ips;
    }
    if let Some(senders) = p.list("senders")? {
        if senders.iter().any(|s| s.len() > 20 || s.contains(',')) {
            return Err(Fault::validation(
                "senders",
                "a sender is at most 20 characters without commas",
            ));
        }
        a.senders = senders;
    }
    if let Some(bind) = p.text("bind")? {
        a.bind = match bind.as_str() {
            "all" => BindAllowed::All,
            "transmitter" => BindAllowed::Transmitter,
            "receiver" => BindAllowed::Receiver,
            "transceiver" => BindAllowed::Transceiver,
            _ => {
                return Err(Fault::validation(
                    "bind",
                    "bind must be all, transmitter, receiver or transceiver",
                ));
            }
        };
    }
    Ok(())
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
    let _one_at_a_time = context.changing.lock().await;
    let mut account = (*state.spec()).clone();
    if account.state == Standing::Closed {
        return Err(Fault::new("E_STATE", "the account is closed"));
    }
    fields(context, &mut p, &mut account)?;
    let given = p.text("password")?;
    p.done()?;
    if let Some(password) = given {
        account.password_hash = hash(secret(Some(password))?.0).await?;
    }
    put(context, account).await
}

async fn put(context: &Context, account: Account) -> Result<Value, Fault> {
    let id = account.id;
    context.control(Control::PutAccount(Box::new(account))).await?;
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
    let one_at_a_time = context.changing.lock().await;
    let mut account = (*state.spec()).clone();
    if account.state == Standing::Closed && to != Standing::Closed {
        return Err(Fault::new("E_STATE", "the account is closed for good"));
    }
    account.state = to;
    let shown = put(context, account).await?;
    drop(one_at_a_time);
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
