//! message.*

use serde_json::{Value, json};

use super::params::Params;
use super::reads::read;
use super::{Context, Fault, time};
use crate::flow::{Control, ControlReply};
use crate::ids::{AccountId, MessageKey, UpstreamId};

fn upstream_name(context: &Context, id: UpstreamId) -> Value {
    context
        .gateway
        .upstream(id)
        .map_or(Value::Null, |u| json!(u.options.name))
}

fn account_name(context: &Context, id: AccountId) -> Value {
    context
        .gateway
        .accounts()
        .get(id)
        .map_or(Value::Null, |a| json!(a.spec().name))
}

pub(super) async fn show(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let id = p.need("id")?;
    let owner = p.text("account")?;
    p.done()?;
    let key = MessageKey::parse(id.as_bytes())
        .ok_or_else(|| Fault::validation("id", "id must be the decimal number of the submit_sm_resp"))?;
    let ControlReply::Open(open) = context.control(Control::ShowOpen(key)).await? else {
        return Err(Fault::unavailable("unexpected answer of the engine"));
    };
    let stored = read(context, move |r| r.message(key))
        .await?
        .ok_or_else(|| Fault::not_found("message"))?;
    let account = account_name(context, stored.account);
    // Ids can be guessed: a look-up within an account does not tell of others' messages.
    if owner.is_some_and(|o| account != json!(o)) {
        return Err(Fault::not_found("message"));
    }
    let state = match (&stored.end, &open) {
        (Some((state, ..)), _) => state.word().to_string(),
        (None, Some(open)) => open.provisional.map_or(open.state, |s| s.word()).to_string(),
        // The engine has no view of it at hand: it is open, and its receipt is awaited.
        (None, None) => stored.provisional.map_or("sent", |(s, _)| s.word()).into(),
    };
    let mut history = vec![json!({ "event": "accepted", "at": time(stored.at_ms) })];
    if let Some((upstream, at, smsc_id)) = &stored.sent {
        history.push(json!({
            "event": "sent", "at": time(*at), "upstream": upstream_name(context, *upstream), "smsc_id": smsc_id,
        }));
    }
    if let Some((state, err, at)) = &stored.end {
        history.push(json!({ "event": "final", "at": time(*at), "state": state.word(), "err": err }));
    }
    let upstream = stored
        .sent
        .as_ref()
        .map(|(u, ..)| *u)
        .or(open.as_ref().map(|o| o.upstream));
    Ok(json!({
        "id": key.to_string(),
        "account": account,
        "state": state,
        "upstream": upstream.map_or(Value::Null, |u| upstream_name(context, u)),
        "smsc_id": stored.sent.as_ref().map(|(.., id)| id),
        "segments": stored.segments,
        "price": stored.price.to_string(),
        "charged": charged(&stored, open.as_ref()),
        "accepted_at": time(stored.at_ms),
        "sent_at": stored.sent.as_ref().map(|(_, at, _)| time(*at)),
        "done_at": stored.end.as_ref().map(|(.., at)| time(*at)),
        "expires_at": open.as_ref().map(|o| time(o.expires_ms)),
        "err": stored.end.as_ref().map(|(_, err, _)| err),
        "history": history,
    }))
}

fn charged(stored: &crate::store::sqlite::Stored, open: Option<&crate::flow::OpenView>) -> String {
    stored
        .charged
        .or(open.map(|o| o.captured))
        .unwrap_or_default()
        .to_string()
}
