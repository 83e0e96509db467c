//! `smsconnect demo`: the main job on one machine with nothing configured.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_util::sync::CancellationToken;

use super::{Running, StartError, start};
use crate::config::{self, Config, Secret};
use crate::money::Money;
use crate::tools::load::{LoadOptions, LoadReport, Progress};
use crate::tools::smsc::{Smsc, SmscOptions};

/// What the demo does.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Messages in all, over both customers.
    pub messages: u64,
    /// Messages a second; `None`: as fast as they are answered.
    pub rate: Option<f64>,
    /// Binds of each customer.
    pub binds: u32,
    /// Where the store goes; `None`: a folder that is removed at the end.
    pub dir: Option<PathBuf>,
    /// End after the table.
    pub exit: bool,
}

const CUSTOMERS: [(&str, &str, &str); 2] =
    [("Acme Bank", "acme", "acmepw1"), ("Duka Shop", "duka", "dukapw1")];
const TOPUP: &str = "1000000.00";
const PRICE: &str = "0.80";

/// Runs the demo.
#[must_use]
pub fn run(options: &DemoOptions) -> ExitCode {
    let runtime = match super::runtime(0) {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("smsconnect: cannot start threads: {e}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match demo(options).await {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => {
                eprintln!("smsconnect: {e}");
                ExitCode::FAILURE
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

fn text(e: impl std::fmt::Display) -> StartError {
    StartError(e.to_string())
}

/// The folder of the demo's store, removed at the end unless it was asked for.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(asked: Option<&Path>) -> Result<Folder, StartError> {
        let (path, keep) = match asked {
            Some(dir) => (dir.to_path_buf(), true),
            None => (
                std::env::temp_dir().join(format!("smsconnect-demo-{}", std::process::id())),
                false,
            ),
        };
        std::fs::create_dir_all(&path).map_err(|e| text(format!("cannot create {}: {e}", path.display())))?;
        Ok(Folder { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _gone = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn config(folder: &Path, smsc: std::net::SocketAddr, binds: u32) -> Config {
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut c = Config {
        dir: folder.to_path_buf(),
        ..Config::default()
    };
    c.customer.listen = vec![loopback];
    c.numbering.country_code = "254".into();
    c.store.path = folder.join("smsconnect.db");
    c.admin.socket = folder.join("admin.sock");
    c.metrics.listen = Some(loopback);
    c.store.free_min_bytes = 16 * 1024 * 1024;
    c.log.level = "error".into();
    c.upstream = vec![config::Upstream {
        name: "simulator".into(),
        address: vec![smsc.to_string()],
        password: Some(Secret("demo".into())),
        binds,
        window: 500,
        ..config::Upstream::default()
    }];
    c.route = vec![config::Route {
        name: "kenya".into(),
        prefix: vec!["254".into()],
        to: vec!["simulator".into()],
        ..Default::default()
    }];
    let price = Money::parse(PRICE).unwrap_or_default();
    c.tariff = vec![config::Tariff {
        name: "standard".into(),
        currency: "KES".into(),
        price: vec![config::Price {
            prefix: "254".into(),
            price,
            ..Default::default()
        }],
        ..Default::default()
    }];
    c
}

/// A small JSON-RPC client: the demo uses the same admin socket as everybody.
struct Admin {
    stream: BufReader<tokio::net::UnixStream>,
}

impl Admin {
    async fn connect(path: &Path) -> Result<Admin, StartError> {
        let stream = tokio::net::UnixStream::connect(path).await.map_err(text)?;
        Ok(Admin {
            stream: BufReader::new(stream),
        })
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value, StartError> {
        let mut line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        line.push('\n');
        self.stream
            .get_mut()
            .write_all(line.as_bytes())
            .await
            .map_err(text)?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer).await.map_err(text)?;
        let mut answer: Value = serde_json::from_str(&answer).map_err(text)?;
        match answer.get("error") {
            Some(error) => Err(text(format!("{method}: {error}"))),
            None => Ok(answer.get_mut("result").map_or(Value::Null, Value::take)),
        }
    }
}

async fn demo(options: &DemoOptions) -> Result<bool, StartError> {
    let folder = Folder::new(options.dir.as_deref())?;
    let smsc_options = SmscOptions {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        ..SmscOptions::default()
    };
    let smsc = Smsc::start(smsc_options).await.map_err(text)?;
    let config = config(&folder.path, smsc.addr(), options.binds);
    super::init_log(&config);
    let running = start(&config)?;
    let mut admin = Admin::connect(&config.admin.socket).await?;
    for (name, system_id, password) in CUSTOMERS {
        let account = json!({"name": name, "system_id": system_id, "password": password});
        if let Err(e) = admin.call("account.create", account).await {
            // A folder given again already has them.
            if options.dir.is_none() {
                return Err(e);
            }
        }
        let receipt = format!("DEMO-{system_id}");
        let topup = json!({"account": name, "amount": TOPUP, "provider": "demo", "receipt": receipt});
        admin.call("wallet.topup", topup).await?;
    }
    wait_for_binds(&running, options.binds).await?;
    println!(
        "An SMSC simulator, the gateway on an embedded SQLite file and two customers, all over TCP on this machine.\n\
         Sending {} messages; each is priced, put on disk before it is answered, sent on, and its receipt matched.\n",
        crate::tools::load::thousands(options.messages)
    );
    let before = spent(&mut admin).await?;
    let (reports, interrupted) = send(options, &running).await?;
    if interrupted {
        println!("interrupted; stopping");
        running.stop().await;
        return Ok(false);
    }
    let good = table(&mut admin, &reports, &before, &smsc).await?;
    if !options.exit {
        stay(&running, &config).await;
    }
    let clean = running.stop().await;
    smsc.stop().await;
    Ok(good && clean)
}

async fn wait_for_binds(running: &Running, binds: u32) -> Result<(), StartError> {
    for _ in 0..500 {
        let upstreams = running.gateway.upstreams();
        let up = upstreams.iter().flat_map(|u| &u.binds);
        if up.filter(|b| b.state.load(Ordering::Acquire) == 2).count() >= binds as usize {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(text("the gateway did not bind to the simulator within 5 s"))
}

/// Balance of each customer.
async fn spent(admin: &mut Admin) -> Result<Vec<Money>, StartError> {
    let mut balances = Vec::new();
    for (name, ..) in CUSTOMERS {
        let wallet = admin.call("wallet.show", json!({"account": name})).await?;
        balances.push(money(&wallet, "balance"));
    }
    Ok(balances)
}

fn money(value: &Value, field: &str) -> Money {
    value
        .get(field)
        .and_then(Value::as_str)
        .and_then(|s| Money::parse(s).ok())
        .unwrap_or_default()
}

/// Both customers send at once; a bar shows how far they are.
async fn send(options: &DemoOptions, running: &Running) -> Result<(Vec<LoadReport>, bool), StartError> {
    let stop = CancellationToken::new();
    let bar = ProgressBar::new(options.messages);
    if let Ok(style) =
        ProgressStyle::with_template("  {bar:40} {human_pos}/{human_len} receipts  {per_sec}  {elapsed}")
    {
        bar.set_style(style);
    }
    let progress: Vec<Arc<Progress>> = CUSTOMERS.iter().map(|_| Arc::default()).collect();
    let mut loads = tokio::task::JoinSet::new();
    for (i, (_, system_id, password)) in CUSTOMERS.into_iter().enumerate() {
        let share = options.messages / 2 + u64::from(i == 0) * (options.messages % 2);
        let load = LoadOptions {
            connect: running.customer.clone(),
            system_id: system_id.into(),
            password: password.into(),
            binds: options.binds,
            window: 200,
            rate: options.rate.map(|r| r / 2.0),
            count: Some(share),
            source: system_id.to_uppercase(),
            destination_prefix: format!("2547{i}"),
            ..LoadOptions::default()
        };
        let (progress, stop) = (progress.get(i).cloned(), stop.clone());
        loads.spawn(async move { (i, crate::tools::load::run(load, progress, stop).await) });
    }
    let mut reports: Vec<(usize, LoadReport)> = Vec::new();
    let mut interrupted = false;
    loop {
        bar.set_position(progress.iter().map(|p| p.receipts.load(Ordering::Relaxed)).sum());
        tokio::select! {
            done = loads.join_next() => match done {
                None => break,
                Some(done) => {
                    let (i, report) = done.map_err(text)?;
                    reports.push((i, report.map_err(text)?));
                }
            },
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            _ = tokio::signal::ctrl_c(), if !interrupted => {
                interrupted = true;
                stop.cancel();
            }
        }
    }
    bar.finish_and_clear();
    reports.sort_by_key(|(i, _)| *i);
    Ok((reports.into_iter().map(|(_, r)| r).collect(), interrupted))
}

/// The table, and whether messages and money agree everywhere.
async fn table(
    admin: &mut Admin,
    reports: &[LoadReport],
    before: &[Money],
    smsc: &Smsc,
) -> Result<bool, StartError> {
    let price = Money::parse(PRICE).unwrap_or_default();
    let n = crate::tools::load::thousands;
    let mut t = Table::new();
    t.load_style(presets::UTF8_FULL_CONDENSED);
    t.set_header(["", CUSTOMERS[0].0, CUSTOMERS[1].0]);
    let mut good = true;
    let mut row = |name: &str, cells: Vec<String>| {
        let mut all = vec![name.to_string()];
        all.extend(cells);
        t.add_row(all);
    };
    let each = |f: &dyn Fn(&LoadReport) -> String| reports.iter().map(f).collect::<Vec<_>>();
    row("submitted", each(&|r| n(r.sent)));
    row("accepted", each(&|r| n(r.accepted)));
    row(
        "delivered",
        each(&|r| n(r.receipts_by_state.get("DELIVRD").copied().unwrap_or(0))),
    );
    row(
        "receipts matched",
        each(&|r| {
            format!(
                "{} (missing {}, repeated {})",
                n(r.receipts),
                r.missing,
                r.duplicate
            )
        }),
    );
    let after = spent(admin).await?;
    let mut charged = Vec::new();
    for ((r, before), after) in reports.iter().zip(before).zip(&after) {
        let spent = before.checked_sub(*after).unwrap_or_default();
        let want = price.times(r.accepted as u32).unwrap_or_default();
        good &= spent == want && r.exactly_once;
        charged.push(format!("KES {spent}"));
    }
    row("charged", charged);
    row("balance", after.iter().map(|b| format!("KES {b}")).collect());
    row(
        "messages/s, end to end",
        each(&|r| n(r.end_to_end_per_second as u64)),
    );
    row(
        "submit → response p50 / p99",
        each(&|r| format!("{:.1} / {:.1} ms", r.response.p50_ms, r.response.p99_ms)),
    );
    row(
        "submit → receipt p50 / p99",
        each(&|r| format!("{:.1} / {:.1} ms", r.receipt.p50_ms, r.receipt.p99_ms)),
    );
    for column in t.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{t}\n");
    let check = admin.call("wallet.check", json!({})).await?;
    let accepted: u64 = reports.iter().map(|r| r.accepted).sum();
    good &= check.get("ok") == Some(&Value::Bool(true)) && smsc.stats().accepted >= accepted;
    let ledger = check.get("ledger_entries").and_then(Value::as_u64).unwrap_or(0);
    if good {
        println!(
            "Reconciled: every accepted message was sent, receipted once and charged once ({ledger} ledger entries add up)."
        );
    } else {
        println!("NOT reconciled: {check}");
    }
    Ok(good)
}

async fn stay(running: &Running, config: &Config) {
    let address = running
        .customer
        .first()
        .map_or_else(String::new, ToString::to_string);
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
    println!(
        "\nThe gateway stays up. Bind with your own SMPP client:\n\
         \x20 host {host}   port {port}   system_id {}   password {}   (numbers 2547…)\n\
         Look inside:\n\
         \x20 smsconnect ctl --socket {} stats show\n\
         {}\
         Ctrl-C ends it.",
        CUSTOMERS[0].1,
        CUSTOMERS[0].2,
        config.admin.socket.display(),
        running
            .metrics
            .map_or_else(String::new, |m| format!("  curl http://{m}/metrics\n")),
    );
    let _interrupted = tokio::signal::ctrl_c().await;
}
