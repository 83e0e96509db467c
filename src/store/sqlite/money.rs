//! The ledger as it is read: what messages cost and hold, payments, statements, and the proof that all of it adds up.

use std::collections::{BTreeMap, HashMap};

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{Reader, StoreError, fault, recover};
use crate::domain::tariff::{Terms, tax_in};
use crate::ids::{AccountId, MessageKey};
use crate::money::Money;
use crate::store::{ADJUST, Payment, Payout, PayoutState};

/// Sums over the whole store, for `wallet.check`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Lines that say what is wrong; empty: all is well.
    pub faults: Vec<String>,
    /// Wallets looked at.
    pub wallets: u64,
    /// Messages counted in journals and sealed segments.
    pub messages: u64,
    /// Ledger rows.
    pub entries: u64,
}

/// One line of a statement: a ledger row, or those of a day's messages of one billing line together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its ledger row; the first of several.
    pub entry: u64,
    /// When, ms since the epoch; the first of several.
    pub at_ms: u64,
    /// What for.
    pub reason: String,
    /// The other ledger account: `revenue`, `tax`, `clearing:mpesa` …
    pub against: String,
    /// Change of the balance.
    pub amount: Money,
    /// Messages it sums up.
    pub count: u64,
    /// Provider's receipt of a payment, reference of a payout.
    pub reference: String,
    /// Route of the messages.
    pub route: String,
    /// Class of their sender address.
    pub class: String,
    /// Balance after it.
    pub balance: Money,
}

/// What happened to a wallet in a span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Balance at its beginning.
    pub opening: Money,
    /// Its lines, oldest first.
    pub lines: Vec<Line>,
    /// Balance at its end: `opening` and all lines.
    pub closing: Money,
}

/// Money set aside for an open message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFor {
    /// Which message.
    pub key: MessageKey,
    /// Whose.
    pub account: AccountId,
    /// How much is still held.
    pub amount: Money,
    /// Accepted, ms since the epoch.
    pub at_ms: u64,
    /// An upstream has taken it.
    pub sent: bool,
}

/// What messages are open and what has been charged for them so far. A key may stand in both a journal and `carried` while a
/// segment is being sealed, hence the UNION. A message sent in parts is charged for each part that was taken; one that went as one
/// with others (part 1 of none) is charged whole.
fn messages_cte(conn: &Connection) -> rusqlite::Result<String> {
    let journals = recover::journals(conn)?;
    let union = |table: &str, columns: &str| {
        // A store that was just created has no journal yet.
        let none: Vec<String> = columns.split(", ").map(|c| format!("NULL AS {c}")).collect();
        let mut all = format!("SELECT {} WHERE 0", none.join(", "));
        for n in &journals {
            all += &format!(" UNION ALL SELECT {columns} FROM {table}_{n}");
        }
        all
    };
    let columns = "key, account, price, terms, tariff, at";
    Ok(format!(
        "WITH a AS (SELECT {columns} FROM carried UNION SELECT {columns} FROM ({accepted})),
              f AS (SELECT key, charged, COUNT(*) AS times FROM ({finals}) GROUP BY key),
              s AS (SELECT key, COUNT(DISTINCT part) AS parts, MIN(part) AS first, MAX(part) >> 8 AS total FROM
                      ({sent} UNION ALL SELECT key, part FROM carried_sent) GROUP BY key),
              m AS (SELECT a.key, a.account, a.tariff, a.price, a.at, f.key IS NOT NULL AS ended, s.key IS NOT NULL AS sent,
                      CASE
                        WHEN f.key IS NOT NULL THEN f.charged
                        WHEN a.terms & 3 = 0 THEN a.price
                        WHEN a.terms & 3 = 1 AND s.first <= 1 THEN a.price
                        WHEN a.terms & 3 = 1 AND s.key IS NOT NULL THEN a.price * s.parts / s.total
                        ELSE 0 END AS cost
                    FROM a LEFT JOIN f ON f.key = a.key LEFT JOIN s ON s.key = a.key)",
        accepted = union("accepted", columns),
        finals = union("final", "key, charged"),
        sent = union("sent", "key, part"),
    ))
}

/// Account, amount and number of the holds of open messages.
pub(super) fn open_holds(conn: &Connection) -> rusqlite::Result<Vec<(u32, i64, i64)>> {
    let with = messages_cte(conn)?;
    conn.prepare(&format!(
        "{with} SELECT account, SUM(price - cost), COUNT(*) FROM m WHERE NOT ended GROUP BY account"
    ))?
    .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
    .collect()
}

/// Tax in hundredths of a percent by tariff version; versions that were never noted have none.
pub(super) fn tax_rates(conn: &Connection) -> rusqlite::Result<HashMap<u32, u32>> {
    conn.prepare("SELECT version, terms FROM tariff_version")?
        .query_map([], |r| {
            let terms: Terms = r.get_ref(1)?.as_str()?.parse().unwrap_or_default();
            Ok((r.get(0)?, terms.tax_bp))
        })?
        .collect()
}

const PAYMENT: &str =
    "provider, receipt, entry, account, amount, at, paid_at, payer_ref, note, assigned, paid_out, reversed";

fn payment(r: &Row<'_>) -> rusqlite::Result<Payment> {
    Ok(Payment {
        provider: r.get(0)?,
        receipt: r.get(1)?,
        entry: r.get::<_, i64>(2)? as u64,
        account: AccountId(r.get(3)?),
        amount: Money(r.get(4)?),
        at_ms: r.get::<_, i64>(5)? as u64,
        paid_ms: r.get::<_, i64>(6)? as u64,
        payer_ref: r.get(7)?,
        note: r.get(8)?,
        assigned_ms: r.get::<_, i64>(9)? as u64,
        paid_out: Money(r.get(10)?),
        reversed: Money(r.get(11)?),
    })
}

fn payout(r: &Row<'_>) -> rusqlite::Result<Payout> {
    Ok(Payout {
        reference: r.get(0)?,
        provider: r.get(1)?,
        receipt: r.get(2)?,
        account: AccountId(r.get(3)?),
        amount: Money(r.get(4)?),
        state: PayoutState::from_code(r.get(5)?),
        at_ms: r.get::<_, i64>(6)? as u64,
        settled_ms: r.get::<_, i64>(7)? as u64,
    })
}

pub(super) fn find_payment(
    conn: &Connection,
    provider: &str,
    receipt: &str,
) -> rusqlite::Result<Option<Payment>> {
    conn.prepare_cached(&format!(
        "SELECT {PAYMENT} FROM payment WHERE provider = ?1 AND receipt = ?2"
    ))?
    .query_row((provider, receipt), payment)
    .optional()
}

pub(super) fn find_payout(conn: &Connection, reference: &str) -> rusqlite::Result<Option<Payout>> {
    conn.prepare_cached(
        "SELECT reference, provider, receipt, account, amount, state, at, settled FROM payout WHERE reference = ?1",
    )?
    .query_row([reference], payout)
    .optional()
}

impl Reader {
    /// Payments under a provider's numbers, newest first; of those nobody has claimed (suspense) alone if `unclaimed`.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn payments(
        &self,
        provider: Option<&str>,
        unclaimed: bool,
        max: usize,
    ) -> Result<Vec<Payment>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Payment>> {
            self.conn()
                .prepare(&format!(
                    "SELECT {PAYMENT} FROM payment WHERE (?1 IS NULL OR provider = ?1)
                       AND (NOT ?2 OR account = 0 AND reversed < amount) ORDER BY at DESC, receipt LIMIT ?3"
                ))?
                .query_map((provider, unclaimed, max as i64), payment)?
                .collect()
        };
        read().map_err(fault)
    }

    /// Payments of a provider by receipt, as far as they are on record.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn payments_by(
        &self,
        provider: &str,
        receipts: &[String],
    ) -> Result<HashMap<String, Payment>, StoreError> {
        let mut found = HashMap::new();
        for receipt in receipts {
            if let Some(payment) = find_payment(self.conn(), provider, receipt).map_err(fault)? {
                found.insert(receipt.clone(), payment);
            }
        }
        Ok(found)
    }

    /// Payments of a provider that were paid (or, where that is not known, booked) from `from_ms` on and before `to_ms`.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn payments_between(
        &self,
        provider: &str,
        from_ms: u64,
        to_ms: u64,
    ) -> Result<Vec<Payment>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Payment>> {
            self.conn()
                .prepare(&format!(
                    "SELECT {PAYMENT} FROM payment WHERE provider = ?1
                       AND CASE WHEN paid_at > 0 THEN paid_at ELSE at END BETWEEN ?2 AND ?3 - 1 ORDER BY at, receipt"
                ))?
                .query_map((provider, clamp(from_ms), clamp(to_ms)), payment)?
                .collect()
        };
        read().map_err(fault)
    }

    /// Payouts, newest first; of those that are not settled alone if `open`.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn payouts(&self, open: bool, max: usize) -> Result<Vec<Payout>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Payout>> {
            self.conn()
                .prepare(
                    "SELECT reference, provider, receipt, account, amount, state, at, settled FROM payout
                     WHERE NOT ?1 OR state IN (0, 3) ORDER BY at DESC, reference LIMIT ?2",
                )?
                .query_map((open, max as i64), payout)?
                .collect()
        };
        read().map_err(fault)
    }

    /// What happened to a wallet from `from_ms` on and before `to_ms`. Rows of messages are summed by day (where clocks are
    /// `offset_min` minutes ahead of UTC), reason and billing line. The closing balance of one span is the opening balance of
    /// the next.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn statement(
        &self,
        account: AccountId,
        from_ms: u64,
        to_ms: u64,
        offset_min: i32,
    ) -> Result<Statement, StoreError> {
        self.conn().execute_batch("BEGIN").map_err(fault)?;
        let result = self.statement_inner(account, from_ms, to_ms, offset_min);
        self.conn().execute_batch("COMMIT").map_err(fault)?;
        result.map_err(fault)
    }

    fn statement_inner(
        &self,
        account: AccountId,
        from_ms: u64,
        to_ms: u64,
        offset_min: i32,
    ) -> rusqlite::Result<Statement> {
        let (from, to) = (clamp(from_ms), clamp(to_ms));
        let opening = Money(self.conn().query_row(
            "SELECT COALESCE(SUM(CASE WHEN credit IN ('wallet', 'held') THEN amount ELSE 0 END
                               - CASE WHEN debit IN ('wallet', 'held') THEN amount ELSE 0 END), 0)
             FROM ledger WHERE account = ?1 AND at < ?2",
            (account.0, from),
            |r| r.get(0),
        )?);
        let mut lines: Vec<Line> = self
            .conn()
            .prepare(
                "SELECT MIN(entry), MIN(at), reason, CASE WHEN credit IN ('wallet', 'held') THEN debit ELSE credit END AS against,
                   SUM(CASE WHEN credit IN ('wallet', 'held') THEN amount ELSE -amount END), SUM(count), reference,
                   COALESCE(b.route, ''), COALESCE(b.class, '')
                 FROM ledger l LEFT JOIN billing_line b ON b.id = l.line
                 WHERE account = ?1 AND at >= ?2 AND at < ?3
                   AND (debit IN ('wallet', 'held')) <> (credit IN ('wallet', 'held'))
                 GROUP BY (at + ?4) / 86400000, reason, against, line, CASE WHEN reference = '' THEN 0 ELSE entry END
                 ORDER BY 1",
            )?
            .query_map((account.0, from, to, i64::from(offset_min) * 60_000), |r| {
                Ok(Line {
                    entry: r.get::<_, i64>(0)? as u64,
                    at_ms: r.get::<_, i64>(1)? as u64,
                    reason: r.get(2)?,
                    against: r.get(3)?,
                    amount: Money(r.get(4)?),
                    count: r.get::<_, i64>(5)? as u64,
                    reference: r.get(6)?,
                    route: r.get(7)?,
                    class: r.get(8)?,
                    balance: Money::ZERO,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut closing = opening;
        for line in &mut lines {
            closing = Money(closing.0.saturating_add(line.amount.0));
            line.balance = closing;
        }
        Ok(Statement {
            opening,
            lines,
            closing,
        })
    }

    /// Money set aside for open messages, oldest first: at most `max`, and how many and how much there is in all.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn holds(
        &self,
        account: Option<AccountId>,
        max: usize,
    ) -> Result<(Vec<HeldFor>, u64, Money), StoreError> {
        let read = || -> rusqlite::Result<(Vec<HeldFor>, u64, Money)> {
            let with = messages_cte(self.conn())?;
            let which = "NOT ended AND price > cost AND (?1 IS NULL OR account = ?1)";
            let id = account.map(|a| a.0);
            let (count, sum) = self.conn().query_row(
                &format!("{with} SELECT COUNT(*), COALESCE(SUM(price - cost), 0) FROM m WHERE {which}"),
                [id],
                |r| Ok((r.get::<_, i64>(0)? as u64, Money(r.get(1)?))),
            )?;
            let items = self
                .conn()
                .prepare(&format!(
                    "{with} SELECT key, account, price - cost, at, sent FROM m WHERE {which} ORDER BY at, key LIMIT ?2"
                ))?
                .query_map((id, max as i64), |r| {
                    Ok(HeldFor {
                        key: MessageKey(r.get::<_, i64>(0)? as u64),
                        account: AccountId(r.get(1)?),
                        amount: Money(r.get(2)?),
                        at_ms: r.get::<_, i64>(3)? as u64,
                        sent: r.get(4)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok((items, count, sum))
        };
        self.conn().execute_batch("BEGIN").map_err(fault)?;
        let result = read().map_err(fault);
        self.conn().execute_batch("COMMIT").map_err(fault)?;
        result
    }

    /// Adds everything up: every balance equals the fold of its ledger; what was charged and taxed is what the messages cost;
    /// what is held is what open messages have not been charged yet; money that came and went is what the payments say; no
    /// message ended twice, and none holds money since before `oldest_ms`. One read transaction, so it sees one moment; traffic
    /// goes on.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn check(&self, oldest_ms: u64) -> Result<Check, StoreError> {
        self.conn().execute_batch("BEGIN").map_err(fault)?;
        let result = check(self.conn(), oldest_ms).map_err(fault);
        self.conn().execute_batch("COMMIT").map_err(fault)?;
        result
    }
}

fn clamp(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// What a wallet's part of the ledger adds up to.
#[derive(Default)]
struct Fold {
    wallet: i64,
    held: i64,
    earned: i64,
    tax: i64,
}

/// What messages of an account have cost.
#[derive(Default)]
pub(super) struct Cost {
    pub messages: u64,
    pub charged: i64,
    pub tax: i64,
}

/// See [`Reader::check`].
pub(super) fn check(conn: &Connection, oldest_ms: u64) -> rusqlite::Result<Check> {
    let mut check = Check::default();
    let mut folds: BTreeMap<u32, Fold> = BTreeMap::new();
    let mut world: BTreeMap<String, i64> = BTreeMap::new();
    let mut stmt =
        conn.prepare("SELECT account, debit, credit, SUM(amount), COUNT(*) FROM ledger GROUP BY 1, 2, 3")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        let (account, amount): (u32, i64) = (r.get(0)?, r.get(3)?);
        check.entries += r.get::<_, i64>(4)? as u64;
        let fold = folds.entry(account).or_default();
        for (name, signed) in [
            (r.get_ref(1)?.as_str()?, -amount),
            (r.get_ref(2)?.as_str()?, amount),
        ] {
            match name {
                "wallet" => fold.wallet += signed,
                "held" => fold.held += signed,
                "revenue" => fold.earned += signed,
                "tax" => {
                    fold.earned += signed;
                    fold.tax += signed;
                }
                other => *world.entry(other.to_string()).or_default() += signed,
            }
        }
    }
    wallets(conn, &mut check, &folds)?;
    let costs = costs(conn)?;
    let holds: BTreeMap<u32, i64> = open_holds(conn)?
        .into_iter()
        .map(|(a, sum, _)| (a, sum))
        .collect();
    let nothing = Cost::default();
    let accounts: std::collections::BTreeSet<u32> = folds.keys().chain(costs.keys()).copied().collect();
    for account in accounts {
        let fold = folds.entry(account).or_default();
        let cost = costs.get(&account).unwrap_or(&nothing);
        check.messages += cost.messages;
        let held = holds.get(&account).copied().unwrap_or(0);
        for (what, says, ledger) in [
            ("messages cost", cost.charged, fold.earned),
            ("the tax in what messages cost is", cost.tax, fold.tax),
            ("open messages hold", held, fold.held),
        ] {
            if says != ledger {
                check.faults.push(format!(
                    "account {account}: {what} {} but the ledger says {}",
                    Money(says),
                    Money(ledger)
                ));
            }
        }
    }
    payments(conn, &mut check, &folds, &world)?;
    endings(conn, &mut check, oldest_ms)?;
    Ok(check)
}

/// Stored balances against the fold of the ledger.
fn wallets(conn: &Connection, check: &mut Check, folds: &BTreeMap<u32, Fold>) -> rusqlite::Result<()> {
    let mut stmt = conn.prepare("SELECT account, balance FROM wallet")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        let (account, balance): (u32, i64) = (r.get(0)?, r.get(1)?);
        check.wallets += 1;
        let fold = folds.get(&account).map_or(0, |f| f.wallet + f.held);
        if balance != fold {
            check.faults.push(format!(
                "account {account}: balance {} but its ledger adds up to {}",
                Money(balance),
                Money(fold)
            ));
        }
    }
    Ok(())
}

/// What came in and went out, against the payments and payouts on record.
fn payments(
    conn: &Connection,
    check: &mut Check,
    folds: &BTreeMap<u32, Fold>,
    world: &BTreeMap<String, i64>,
) -> rusqlite::Result<()> {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    let mut paid: BTreeMap<u32, i64> = BTreeMap::new();
    let mut stmt =
        conn.prepare("SELECT provider, account, SUM(amount), SUM(reversed) FROM payment GROUP BY 1, 2")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        let (provider, account): (String, u32) = (r.get(0)?, r.get(1)?);
        let left = r.get::<_, i64>(2)? - r.get::<_, i64>(3)?;
        let name = if provider == ADJUST {
            provider
        } else {
            format!("clearing:{provider}")
        };
        *expected.entry(name).or_default() -= left;
        if account == AccountId::NONE.0 {
            *expected.entry("suspense".into()).or_default() += left;
        } else {
            *paid.entry(account).or_default() += left;
        }
    }
    let mut stmt =
        conn.prepare("SELECT provider, account, state, SUM(amount) FROM payout GROUP BY 1, 2, 3")?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        let (provider, account, amount): (String, u32, i64) = (r.get(0)?, r.get(1)?, r.get(3)?);
        match PayoutState::from_code(r.get(2)?) {
            PayoutState::Failed => continue,
            PayoutState::Paid => *expected.entry(format!("clearing:{provider}")).or_default() += amount,
            PayoutState::Pending | PayoutState::Unknown => {
                *expected.entry("payout".into()).or_default() += amount;
            }
        }
        *paid.entry(account).or_default() -= amount;
    }
    for name in expected
        .keys()
        .chain(world.keys())
        .collect::<std::collections::BTreeSet<_>>()
    {
        let (says, ledger) = (
            expected.get(name).copied().unwrap_or(0),
            world.get(name).copied().unwrap_or(0),
        );
        if says != ledger {
            check.faults.push(format!(
                "{name}: payments say {} but the ledger says {}",
                Money(says),
                Money(ledger)
            ));
        }
    }
    for (account, fold) in folds.iter().filter(|(a, _)| **a != AccountId::NONE.0) {
        let says = paid.get(account).copied().unwrap_or(0);
        let ledger = fold.wallet + fold.held + fold.earned;
        if says != ledger {
            check.faults.push(format!(
                "account {account}: {} was paid in but its ledger accounts for {}",
                Money(says),
                Money(ledger)
            ));
        }
    }
    Ok(())
}

/// Every message has at most one end, every event its message, and no hold outlives the timeouts.
fn endings(conn: &Connection, check: &mut Check, oldest_ms: u64) -> rusqlite::Result<()> {
    let with = messages_cte(conn)?;
    let (twice, stray, old): (i64, i64, i64) = conn.query_row(
        &format!(
            "{with} SELECT (SELECT COUNT(*) FROM f WHERE times > 1),
               (SELECT COUNT(*) FROM f WHERE key NOT IN (SELECT key FROM a)),
               (SELECT COUNT(*) FROM m WHERE NOT ended AND price > cost AND at < ?1)"
        ),
        [clamp(oldest_ms)],
        |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
    )?;
    for (n, what) in [
        (twice, "messages ended twice"),
        (stray, "ends belong to no message"),
        (old, "messages hold money although every timeout is over"),
    ] {
        if n > 0 {
            check.faults.push(format!("{n} {what}"));
        }
    }
    Ok(())
}

/// Adds up rows of account, messages, charged and tax.
fn add_costs(conn: &Connection, sums: &mut BTreeMap<u32, Cost>, sql: &str) -> rusqlite::Result<()> {
    let mut stmt = conn.prepare(sql)?;
    let mut rows = stmt.query([])?;
    while let Some(r) = rows.next()? {
        let cost = sums.entry(r.get(0)?).or_default();
        cost.messages += r.get::<_, i64>(1)? as u64;
        cost.charged += r.get::<_, i64>(2)?;
        cost.tax += r.get::<_, i64>(3)?;
    }
    Ok(())
}

/// Per account: messages of sealed segments, of those that are gone too, and what they have cost.
pub(super) fn closed_costs(conn: &Connection) -> rusqlite::Result<BTreeMap<u32, Cost>> {
    let rates = tax_rates(conn)?;
    conn.create_scalar_function(
        "tax_of",
        2,
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC,
        move |c| {
            let rate = rates.get(&c.get::<u32>(1)?).copied().unwrap_or(0);
            Ok(tax_in(Money(c.get(0)?), rate).0)
        },
    )?;
    let mut sums: BTreeMap<u32, Cost> = BTreeMap::new();
    let sealed: Vec<i64> = conn
        .prepare("SELECT number FROM segment WHERE state = 2")?
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for n in &sealed {
        let sql = format!(
            "SELECT account, COUNT(*), SUM(charged), SUM(tax_of(charged, tariff)) FROM closed_{n} GROUP BY account"
        );
        add_costs(conn, &mut sums, &sql)?;
    }
    let gone = "SELECT account, SUM(count), SUM(charged), SUM(tax) FROM segment_total
                WHERE segment NOT IN (SELECT number FROM segment) GROUP BY account";
    add_costs(conn, &mut sums, gone)?;
    Ok(sums)
}

/// Per account: messages on record, and what they have cost so far.
pub(super) fn costs(conn: &Connection) -> rusqlite::Result<BTreeMap<u32, Cost>> {
    let mut sums = closed_costs(conn)?;
    let with = messages_cte(conn)?;
    let sql = format!(
        "{with} SELECT account, COUNT(*), SUM(cost), SUM(tax_of(cost, tariff)) FROM m GROUP BY account"
    );
    add_costs(conn, &mut sums, &sql)?;
    Ok(sums)
}
