//! wallet.reconcile: a provider's own list against ours.

use serde_json::{Value, json};

use super::params::Params;
use super::payment::{pay, provider_of, receipt_of};
use super::reads::read;
use super::{Context, Fault, time};
use crate::flow::Control;
use crate::ids::AccountId;
use crate::money::Money;
use crate::store::Payment;

/// Rows of one list.
const ROWS_MAX: usize = 50_000;

/// One incoming payment of a provider's list.
struct Row {
    receipt: String,
    amount: Money,
    payer_ref: String,
    paid_ms: u64,
}

/// Headers under which providers give a field; compared without case, blanks and dots.
const RECEIPT: &[&str] = &[
    "receipt",
    "receiptno",
    "transid",
    "mpesareceiptnumber",
    "reference",
];
const AMOUNT: &[&str] = &["amount", "paidin", "transamount", "credit"];
const PAYER: &[&str] = &["payer_ref", "account", "a/cno", "billrefnumber", "accountnumber"];
const TIME: &[&str] = &["paid_at", "completiontime", "transtime", "time", "date"];

fn column(headers: &csv::StringRecord, names: &[&str]) -> Option<usize> {
    let plain = |h: &str| -> String {
        h.trim_start_matches('\u{feff}')
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '.')
            .flat_map(char::to_lowercase)
            .collect()
    };
    names
        .iter()
        .find_map(|name| headers.iter().position(|h| plain(h) == *name))
}

/// `2026-01-05T13:22:10Z`, `2026-01-05 13:22:10` or `20260105132210`; the last two where clocks are `offset_min` ahead of UTC.
fn moment(text: &str, offset_min: i32) -> Option<u64> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(at.as_millisecond()).ok();
    }
    let local = if text.len() == 14 {
        jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", text)
    } else {
        text.replacen(' ', "T", 1).parse()
    };
    let offset = jiff::tz::Offset::from_seconds(offset_min * 60).ok()?;
    let at = offset.to_timestamp(local.ok()?).ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

/// The incoming payments of a list, and how many rows are something else (withdrawals, charges, blank lines).
fn rows(text: &str, offset_min: i32) -> Result<(Vec<Row>, u64), Fault> {
    let wrong = |what: String| Fault::validation("csv", what);
    let mut file = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .flexible(true)
        .from_reader(text.as_bytes());
    let headers = file.headers().map_err(|e| wrong(e.to_string()))?.clone();
    let need = |names: &[&str]| {
        column(&headers, names).ok_or_else(|| wrong(format!("no column is called {}", names.join(" or "))))
    };
    let (receipt, amount) = (need(RECEIPT)?, need(AMOUNT)?);
    let (payer, when) = (column(&headers, PAYER), column(&headers, TIME));
    let (mut out, mut skipped) = (Vec::new(), 0);
    for (i, record) in file.records().enumerate() {
        let line = i + 2;
        let record = record.map_err(|e| wrong(e.to_string()))?;
        let cell = |at: Option<usize>| at.and_then(|at| record.get(at)).unwrap_or("");
        let figure = cell(Some(amount)).replace(',', "");
        if cell(Some(receipt)).is_empty() || figure.is_empty() {
            skipped += 1;
            continue;
        }
        let money = Money::parse(&figure).map_err(|e| wrong(format!("row {line}: {figure:?}: {e}")))?;
        if money.0 <= 0 {
            skipped += 1;
            continue;
        }
        if money > Money::MOST {
            return Err(wrong(format!("row {line}: more than {}", Money::MOST)));
        }
        let at = cell(when);
        let paid_ms = match at {
            "" => 0,
            at => moment(at, offset_min).ok_or_else(|| wrong(format!("row {line}: {at:?} is no time")))?,
        };
        let receipt = receipt_of(cell(Some(receipt))).map_err(|_| {
            wrong(format!(
                "row {line}: the receipt is not 1 to 64 printable characters"
            ))
        })?;
        let payer_ref: String = cell(payer)
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        out.push(Row {
            receipt,
            amount: money,
            payer_ref,
            paid_ms,
        });
        if out.len() > ROWS_MAX {
            return Err(wrong(format!(
                "more than {ROWS_MAX} payments; cut the list by day"
            )));
        }
    }
    Ok((out, skipped))
}

/// Compares a provider's list with ours. With `apply` what is missing here is booked: to the account that the payer wrote, or to
/// suspense. What is missing there is looked for in the span of time that the list covers.
pub(super) async fn reconcile(context: &Context, params: Value) -> Result<Value, Fault> {
    let mut p = Params::new(params)?;
    let provider = provider_of(&mut p)?;
    let text = p.need("csv")?;
    let apply = p.flag("apply")?.unwrap_or(false);
    let (from, to) = (p.time("from")?, p.time("to")?);
    p.done()?;
    let offset = context.gateway.policy.load().day_offset_min;
    let (rows, skipped) = rows(&text, offset)?;
    let times = || rows.iter().map(|r| r.paid_ms).filter(|at| *at != 0);
    let span = (
        from.or_else(|| times().min()),
        to.or_else(|| times().max().map(|at| at + 1)),
    );
    let (known, of_span) = {
        let provider = provider.clone();
        let receipts: Vec<String> = rows.iter().map(|r| r.receipt.clone()).collect();
        read(context, move |r| {
            let known = r.payments_by(&provider, &receipts)?;
            let of_span = match span {
                (Some(from), Some(to)) => r.payments_between(&provider, from, to)?,
                _ => Vec::new(),
            };
            Ok((known, of_span))
        })
        .await?
    };
    let (mut matched, mut missing, mut mismatched) = (0u64, Vec::new(), Vec::new());
    let mut seen = std::collections::HashMap::new();
    for row in &rows {
        if let Some(first) = seen.insert(&row.receipt, row.amount) {
            let why = if first == row.amount {
                "listed twice"
            } else {
                "listed twice with two amounts"
            };
            mismatched.push(json!({
                "receipt": row.receipt, "there": row.amount.to_string(), "here": first.to_string(), "why": why,
            }));
            continue;
        }
        match known.get(&row.receipt) {
            None => missing.push(row),
            Some(ours) if ours.amount != row.amount => mismatched.push(json!({
                "receipt": row.receipt,
                "here": ours.amount.to_string(),
                "there": row.amount.to_string(),
                "why": "amount",
            })),
            Some(ours) if ours.reversed > Money::ZERO => mismatched.push(json!({
                "receipt": row.receipt,
                "here": ours.amount.to_string(),
                "there": row.amount.to_string(),
                "why": "reversed here",
            })),
            Some(_) => matched += 1,
        }
    }
    let there: Vec<Value> = of_span
        .iter()
        .filter(|ours| ours.reversed == Money::ZERO && !seen.contains_key(&ours.receipt))
        .map(|ours| json!({ "receipt": ours.receipt, "amount": ours.amount.to_string(), "at": time(ours.at_ms) }))
        .collect();
    let mut applied = 0u64;
    let mut here = Vec::new();
    for row in missing {
        let accounts = context.gateway.accounts();
        let name = accounts
            .by_payer_ref(&row.payer_ref)
            .map(|a| a.spec().name.clone());
        let mut shown = json!({
            "receipt": row.receipt,
            "amount": row.amount.to_string(),
            "payer_ref": row.payer_ref,
            "account": name,
            "suspense": name.is_none(),
        });
        if apply {
            let payment = Payment {
                account: AccountId::NONE,
                amount: row.amount,
                provider: provider.clone(),
                receipt: row.receipt.clone(),
                payer_ref: row.payer_ref.clone(),
                paid_ms: row.paid_ms,
                note: "reconciliation".into(),
                ..Payment::default()
            };
            // One that was booked meanwhile answers that it is a duplicate: no harm is done.
            let booked = pay(context, Control::Pay(Box::new(payment))).await;
            let (key, value) = match booked {
                Ok(booked) => {
                    applied += 1;
                    ("entry", booked["entry"].clone())
                }
                Err(fault) => ("error", json!(fault.code())),
            };
            if let Some(object) = shown.as_object_mut() {
                object.insert(key.into(), value);
            }
        }
        here.push(shown);
    }
    Ok(json!({
        "provider": provider,
        "rows": rows.len(),
        "skipped": skipped,
        "matched": matched,
        "missing_here": here,
        "missing_there": there,
        "mismatched": mismatched,
        "applied": applied,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_of_mpesa_is_read_and_withdrawals_are_left_out() {
        let text = "Receipt No.,Completion Time,Details,Paid In,Withdrawn,A/C No.\n\
                    SGR7XYZ123,2026-01-05 13:22:10,Pay Bill,\"5,000.00\",,acme\n\
                    SGR7XYZ124,2026-01-05 13:25:00,Charge,,-15.00,\n\n\
                    sgr7xyz125,20260105134000,Pay Bill,1.5,,  Beta \n";
        let (rows, skipped) = rows(text, 180).unwrap();
        assert_eq!((rows.len(), skipped), (2, 1));
        assert_eq!(rows[0].amount, Money(5_000_000_000));
        assert_eq!(rows[0].paid_ms, 1_767_608_530_000);
        assert_eq!(
            (rows[1].receipt.as_str(), rows[1].payer_ref.as_str()),
            ("SGR7XYZ125", "Beta")
        );
        assert_eq!(rows[1].paid_ms, 1_767_609_600_000);
    }

    #[test]
    fn a_list_that_cannot_be_read_says_where() {
        for (text, what) in [
            ("a,b\n1,2\n", "no column"),
            ("receipt,amount\nX,1.0000001\n", "row 2"),
            ("receipt,amount,time\nX,1,yesterday\n", "row 2"),
        ] {
            let fault = rows(text, 0).err().unwrap().to_json().to_string();
            assert!(fault.contains(what), "{fault}");
        }
    }
}
