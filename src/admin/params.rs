//! Parameters: read by name, each fault naming its field.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Context, Fault};
use crate::flow::AccountState;
use crate::money::Money;

/// The parameters of one request. What is not asked for is an error, so that a misspelt name is not ignored.
#[derive(Debug)]
pub(super) struct Params(Map<String, Value>);

impl Params {
    pub fn new(value: Value) -> Result<Params, Fault> {
        match value {
            Value::Object(map) => Ok(Params(map)),
            Value::Null => Ok(Params(Map::new())),
            _ => Err(Fault::validation(
                "params",
                "params must be an object with named members",
            )),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|v| !v.is_null())
    }

    /// Whether a parameter was given.
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|v| !v.is_null())
    }

    /// A time in RFC 3339, in ms since the epoch; a date alone is its midnight in UTC.
    pub fn time(&mut self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let whole = if text.len() == 10 {
            format!("{text}T00:00:00Z")
        } else {
            text
        };
        whole
            .parse::<jiff::Timestamp>()
            .ok()
            .and_then(|t| u64::try_from(t.as_millisecond()).ok())
            .map(Some)
            .ok_or_else(|| {
                let what = format!("{name} must be a time such as 2026-01-31T12:00:00Z");
                Fault::validation(name, what)
            })
    }

    /// A text, if given.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(Value::Number(n)) => Ok(Some(n.to_string())),
            Some(_) => Err(Fault::validation(name, format!("{name} must be a string"))),
        }
    }

    /// A text that must be there and not empty.
    pub fn need(&mut self, name: &str) -> Result<String, Fault> {
        self.text(name)?
            .filter(|s| !s.trim().is_empty())
            .ok_or_else(|| Fault::validation(name, format!("{name} is required")))
    }

    /// A whole number within bounds, if given. Numbers in strings are taken too.
    pub fn number(&mut self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Fault> {
        let wrong = || Fault::validation(name, format!("{name} must be a whole number from {min} to {max}"));
        let value = match self.take(name) {
            None => return Ok(None),
            Some(Value::Number(n)) => n.as_u64(),
            Some(Value::String(s)) => s.parse().ok(),
            Some(_) => None,
        };
        value
            .filter(|v| (min..=max).contains(v))
            .map(Some)
            .ok_or_else(wrong)
    }

    /// An amount as a decimal string.
    pub fn money(&mut self, name: &str) -> Result<Option<Money>, Fault> {
        let wrong = |e: &dyn std::fmt::Display| {
            Fault::new(
                "E_AMOUNT",
                format!("{name}: {e}; write it as a string such as \"250.00\""),
            )
            .field(name)
        };
        let text = match self.take(name) {
            None => return Ok(None),
            Some(Value::String(text)) => text,
            // A number with a fraction has lost digits on its way already.
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => n.to_string(),
            Some(_) => return Err(wrong(&"not a decimal string")),
        };
        match Money::parse(&text) {
            Ok(amount) if amount.0.unsigned_abs() > Money::MOST.0.unsigned_abs() => {
                Err(wrong(&format!("more than {}", Money::MOST)))
            }
            Ok(amount) => Ok(Some(amount)),
            Err(e) => Err(wrong(&e)),
        }
    }

    /// One of `words`, if given.
    pub fn choice<T>(
        &mut self,
        name: &str,
        words: &[&str],
        parse: fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        parse(&text)
            .map(Some)
            .ok_or_else(|| Fault::validation(name, format!("{name} must be one of {}", words.join(", "))))
    }

    /// True or false, if given; the words are taken too.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(Value::String(s)) if s == "true" || s == "false" => Ok(Some(s == "true")),
            Some(_) => Err(Fault::validation(name, format!("{name} must be true or false"))),
        }
    }

    /// A list of texts, if given; one text with commas is taken too.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<String>>, Fault> {
        let wrong = || Fault::validation(name, format!("{name} must be a list of strings"));
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(
                s.split(',')
                    .map(str::trim)
                    .filter(|s| !s.is_empty())
                    .map(str::to_string)
                    .collect(),
            )),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|v| v.as_str().map(str::to_string).ok_or_else(wrong))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(_) => Err(wrong()),
        }
    }

    /// The account named by `account`: its name, or its system_id.
    pub fn account(&mut self, context: &Context) -> Result<Arc<AccountState>, Fault> {
        let name = self.need("account")?;
        let accounts = context.gateway.accounts();
        accounts
            .by_name(&name)
            .or_else(|| accounts.by_system_id(name.as_bytes()))
            .cloned()
            .ok_or_else(|| Fault::not_found("account"))
    }

    /// Nothing may be left. `idem` may stand on any write: changes here are idempotent by their own keys.
    pub fn done(mut self) -> Result<(), Fault> {
        self.0.remove("idem");
        self.0.remove("reason");
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Fault::validation(name, format!("unknown parameter {name}"))),
        }
    }
}
