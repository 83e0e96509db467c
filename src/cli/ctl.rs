//! `smsconnect ctl`: the admin client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct CtlArgs {
    /// The admin socket
    #[arg(long)]
    socket: Option<PathBuf>,
    /// A config file that names it
    #[arg(long, short)]
    config: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
    /// NOUN VERB and ARGS: --key value, key=value, or the usual arguments in their order
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true, value_name = "NOUN VERB [ARGS]")]
    words: Vec<String>,
}

const HELP: &str = "\
Methods:
  account create NAME SYSTEM_ID [--password P] [--tps N] [--window N] [--max-binds N]
                 [--allow-ips A,B] [--senders A,B] [--tariff T] [--bind all|transmitter|receiver|transceiver]
                 [--deliver-as deliver_sm|data_sm] [--receipts rolled-up|each] [--alphabet gsm7|latin1]
                 [--transliterate true] [--outbind HOST:PORT --outbind-password P] [--certificates SHA256,…]
                 [--low-balance AMOUNT] [--quota-day SEGMENTS] [--quota-month SEGMENTS]
  account list | show ACCOUNT | update ACCOUNT … | suspend ACCOUNT | resume ACCOUNT | close ACCOUNT
  wallet topup ACCOUNT AMOUNT --provider P --receipt R [--paid-at T] [--payer-ref REF] [--note TEXT]
  wallet topup --payer-ref REF --amount AMOUNT --provider P --receipt R      (to suspense if nobody is called that)
  wallet suspense | assign ACCOUNT --provider P --receipt R | reverse --provider P --receipt R
  wallet adjust ACCOUNT AMOUNT --reference R --note WHY                      (AMOUNT may be negative)
  wallet payout ACCOUNT AMOUNT --provider P --receipt R --reference X | settle REFERENCE paid|failed|unknown
  wallet payments [--provider P] | payouts [--open true]
  wallet reconcile --provider P --file LIST.csv [--apply]
  wallet show ACCOUNT | limit ACCOUNT CREDIT | holds [ACCOUNT] | check
  wallet statement ACCOUNT [--from T] [--to T] [--format csv] [--limit N] [--cursor C]
  tariff list | price list ACCOUNT
  price set ACCOUNT PREFIX PRICE [--operator O] [--class C] [--effective-from T] | price remove ACCOUNT PREFIX …
  event list [--cursor N]
  message show ID
  sender register ACCOUNT SENDER transactional|promotional [--operator O] [--status S] [--reference R]
  sender list [--account A] | activate ACCOUNT SENDER [--operator O] | suspend … | revoke …
  suppression add NUMBER [--account A [--sender S]] [--transactional true] [--until T] [--source S] [--reason WHY]
  suppression import [--account A [--sender S]] --file LIST [--dry-run]      (a number a line, 10000 a file)
  suppression remove NUMBER … --reason WHY | check NUMBER [--account A] | list [--account A] [--cursor C]
  held list | show ID --reason WHY | release ID | reject ID
  case list [--all true] | show CASE | close CASE --note WHAT
  inbound list                                                               (messages that no rule claims)
  session list | kick SESSION | kick --account ACCOUNT
  upstream list | show NAME | enable NAME | disable NAME | reconnect NAME
  queue show    stats show    server drain

Examples:
  smsconnect ctl account create acme acme --tps 100
  smsconnect ctl wallet topup acme 5000.00 --provider mpesa --receipt SGR7XYZ123
  smsconnect ctl --json upstream list

The socket is found by --socket, else --config, else $SMSCONNECT_SOCKET, else /run/smsconnect/admin.sock.
Exit codes: 0 ok, 2 usage, 3 denied, 4 not found, 5 conflict or state, 6 validation, 7 pending approval,
8 compliance block, 9 unavailable or timeout, 10 funds.";

const DEFAULT_SOCKET: &str = "/run/smsconnect/admin.sock";
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 9;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Names of the arguments that may be given by place.
fn places(method: &str) -> &'static [&'static str] {
    match method {
        "account.create" => &["name", "system_id"],
        "wallet.topup" | "wallet.adjust" | "wallet.payout" => &["account", "amount"],
        "wallet.settle" => &["reference", "outcome"],
        "wallet.reverse" | "wallet.suspense" | "wallet.payments" | "wallet.payouts" | "wallet.reconcile" => {
            &[]
        }
        "price.list" => &["account"],
        "price.set" => &["account", "prefix", "price"],
        "price.remove" => &["account", "prefix"],
        "wallet.limit" => &["account", "credit"],
        "wallet.check" => &[],
        "sender.register" => &["account", "sender", "class"],
        "sender.activate" | "sender.suspend" | "sender.revoke" => &["account", "sender"],
        "suppression.add" | "suppression.remove" | "suppression.check" => &["number"],
        "held.show" | "held.release" | "held.reject" => &["id"],
        "case.show" | "case.close" => &["case"],
        "message.show" => &["id"],
        "session.kick" => &["session"],
        m if m.starts_with("account.") || m.starts_with("wallet.") => &["account"],
        m if m.starts_with("upstream.") => &["name"],
        _ => &[],
    }
}

/// `--key value`, `--key=value`, `key=value`, or by place. A flag without a value is true.
fn params(method: &str, words: &[String]) -> Result<Value, String> {
    let mut map = Map::new();
    let mut places = places(method).iter();
    let mut words = words.iter().peekable();
    let mut put = |key: &str, value: Value| map.insert(key.replace('-', "_"), value);
    while let Some(word) = words.next() {
        if let Some(key) = word.strip_prefix("--") {
            match key.split_once('=') {
                Some((key, value)) => put(key, json!(value)),
                None => {
                    let value = words.next_if(|next| !next.starts_with("--"));
                    put(key, value.map_or(Value::Bool(true), |v| json!(v)))
                }
            };
        } else if let Some((key, value)) = word
            .split_once('=')
            .filter(|(k, _)| k.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'))
        {
            put(key, json!(value));
        } else {
            match places.next() {
                Some(key) => put(key, json!(word)),
                None => return Err(format!("{word:?} is one argument too many for {method}")),
            };
        }
    }
    Ok(Value::Object(map))
}

/// A list is read here and sent whole: the daemon opens no files for those who may not.
fn with_file(method: &str, mut params: Value) -> Result<Value, String> {
    if method == "wallet.reconcile"
        && let Some(map) = params.as_object_mut()
        && let Some(file) = map.remove("file")
    {
        let name = file.as_str().unwrap_or_default();
        let text = std::fs::read_to_string(name).map_err(|e| format!("{name}: {e}"))?;
        map.insert("csv".into(), json!(text));
    }
    if method == "suppression.import"
        && let Some(map) = params.as_object_mut()
        && let Some(file) = map.remove("file")
    {
        let name = file.as_str().unwrap_or_default();
        let text = std::fs::read_to_string(name).map_err(|e| format!("{name}: {e}"))?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        map.insert("numbers".into(), lines.map(|l| json!(l)).collect());
    }
    Ok(params)
}

fn socket(args: &CtlArgs) -> Result<PathBuf, ExitCode> {
    if let Some(path) = &args.socket {
        return Ok(path.clone());
    }
    if let Some(config) = &args.config {
        return super::load_config(config).map(|c| c.admin.socket);
    }
    Ok(std::env::var_os("SMSCONNECT_SOCKET").map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from))
}

fn call(path: &PathBuf, method: &str, params: &Value) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(std::io::Error::other("the daemon closed the connection"));
    }
    serde_json::from_str(&answer).map_err(std::io::Error::other)
}

fn exit_code(code: &str) -> u8 {
    match code {
        "E_DENIED" | "E_SELF_APPROVAL" | "E_PURPOSE" | "E_REASON_REQUIRED" => 3,
        "E_NOT_FOUND" => 4,
        "E_CONFLICT" | "E_STATE" | "E_EXISTS" | "E_IDEMPOTENCY_CONFLICT" | "E_WINDOW_CLOSED" => 5,
        "E_PENDING" => 7,
        "E_COMPLIANCE" | "E_CONSENT_COVERAGE" | "E_BASIS_MISSING" | "E_RESTRICTED" => 8,
        "E_UNAVAILABLE" | "E_TIMEOUT" | "E_STORAGE" | "E_SHUTTING_DOWN" => UNAVAILABLE,
        "E_FUNDS" | "E_LIMIT" => 10,
        _ => 6,
    }
}

pub(super) fn run(args: &CtlArgs) -> ExitCode {
    let [noun, verb, rest @ ..] = args.words.as_slice() else {
        return ExitCode::from(USAGE);
    };
    // Our own options may also stand at the end.
    let json = args.json || rest.iter().any(|w| w == "--json");
    let rest: Vec<String> = rest.iter().filter(|w| *w != "--json").cloned().collect();
    if rest.iter().any(|w| w == "--help" || w == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let method = format!("{noun}.{verb}");
    let params = match params(&method, &rest) {
        Ok(params) => params,
        Err(e) => {
            eprintln!("smsconnect: {e}; see smsconnect ctl --help");
            return ExitCode::from(USAGE);
        }
    };
    let params = match with_file(&method, params) {
        Ok(params) => params,
        Err(e) => {
            eprintln!("smsconnect: {e}");
            return ExitCode::from(USAGE);
        }
    };
    let path = match socket(args) {
        Ok(path) => path,
        Err(code) => return code,
    };
    let answer = match call(&path, &method, &params) {
        Ok(answer) => answer,
        Err(e) => {
            eprintln!(
                "smsconnect: cannot reach the daemon at {}: {e}\nIs it running? Name its socket with --socket or --config.",
                path.display()
            );
            return ExitCode::from(UNAVAILABLE);
        }
    };
    if let Some(error) = answer.get("error") {
        return failed(error, json);
    }
    let result = answer.get("result").unwrap_or(&Value::Null);
    if json {
        println!("{result}")
    } else if let Some(csv) = result.get("csv").and_then(Value::as_str) {
        // As it is, to be written into a file.
        print!("{csv}");
    } else {
        show(result)
    }
    ExitCode::SUCCESS
}

fn failed(error: &Value, json: bool) -> ExitCode {
    let code = error
        .pointer("/data/code")
        .and_then(Value::as_str)
        .unwrap_or("E_UNKNOWN");
    let field = error.pointer("/data/field").and_then(Value::as_str).unwrap_or("");
    let message = error.get("message").and_then(Value::as_str).unwrap_or("");
    if json {
        eprintln!("{error}");
    } else if field.is_empty() {
        eprintln!("error: {code}: {message}");
    } else {
        eprintln!("error: {code} {field}: {message}");
    }
    ExitCode::from(exit_code(code))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(s) if s.is_empty() => "-".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join("\n"),
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| format!("{k} {}", cell(v)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

fn show(result: &Value) {
    let Value::Object(map) = result else {
        return println!("{}", cell(result));
    };
    let Some(Value::Array(items)) = map.get("items") else {
        return show_object(map);
    };
    if items.is_empty() {
        println!("none");
    } else {
        println!("{}", table(items));
    }
    let rest: Map<String, Value> = map
        .iter()
        .filter(|(k, v)| *k != "items" && !v.is_null() && **v != json!([]))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if !rest.is_empty() {
        show_object(&rest);
    }
}

fn show_object(map: &Map<String, Value>) {
    let mut t = Table::new();
    t.load_style(presets::NOTHING);
    for (key, value) in map {
        t.add_row([key.replace('_', " "), cell(value)]);
    }
    println!("{t}");
}

fn table(items: &[Value]) -> Table {
    let mut columns: Vec<String> = Vec::new();
    for key in items.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !columns.contains(key) {
            columns.push(key.clone());
        }
    }
    let mut t = Table::new();
    t.load_style(presets::UTF8_FULL_CONDENSED);
    t.set_header(columns.iter().map(|c| c.replace('_', " ")));
    for item in items {
        t.add_row(
            columns
                .iter()
                .map(|c| item.get(c).map_or_else(|| "-".into(), cell)),
        );
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, words: &[&str]) -> Result<Value, String> {
        params(
            method,
            &words.iter().map(|w| (*w).to_string()).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn arguments_by_place_and_by_name() {
        assert_eq!(
            read(
                "wallet.topup",
                &["acme", "5.00", "--provider", "mpesa", "receipt=R=1", "--dry-run"]
            ),
            Ok(
                json!({"account": "acme", "amount": "5.00", "provider": "mpesa", "receipt": "R=1", "dry_run": true})
            )
        );
        assert_eq!(
            read("account.update", &["acme", "--tps=10"]),
            Ok(json!({"account": "acme", "tps": "10"}))
        );
        assert!(read("stats.show", &["x"]).is_err());
    }
}
