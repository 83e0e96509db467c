//! `smsconnect smsc`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::tools::smsc::{IdFormat, ReceiptForm, Smsc, SmscOptions};

#[derive(Clone, Copy, ValueEnum)]
enum Ids {
    Decimal,
    HexLower,
    HexUpper,
    HexDec,
    DecHex,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Both,
    Text,
    Tlv,
}

/// Rates are fractions: 0.05 is one in twenty.
#[derive(Args)]
#[command(
    after_help = "Example:\n  smsconnect smsc --listen 127.0.0.1:2776 --receipt-delay-ms 200 --throttle-rate 0.01\n\nCtrl-C prints the counters."
)]
pub(super) struct SmscArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:2776")]
    listen: SocketAddr,
    /// Only this system_id may bind
    #[arg(long)]
    system_id: Option<String>,
    /// With this password
    #[arg(long)]
    password: Option<String>,
    /// Pause before a response
    #[arg(long, default_value_t = 0)]
    resp_delay_ms: u64,
    /// Pause between response and receipt
    #[arg(long, default_value_t = 0)]
    receipt_delay_ms: u64,
    /// Submits a second; beyond: ESME_RTHROTTLED
    #[arg(long, default_value_t = 0)]
    tps: u32,
    /// Answered ESME_RTHROTTLED
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    throttle_rate: f64,
    /// Answered ESME_RMSGQFUL
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    queue_full_rate: f64,
    /// Answered with the reject status
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    reject_rate: f64,
    /// Status of rejects
    #[arg(long, default_value_t = 0x45)]
    reject_status: u32,
    /// Never answered
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    drop_resp_rate: f64,
    /// Close the connection after so many submits; 0: never
    #[arg(long, default_value_t = 0)]
    drop_conn_every: u64,
    /// Receipt before its response
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    receipt_first_rate: f64,
    /// Receipt sent twice
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    receipt_dup_rate: f64,
    /// Receipt never sent
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    receipt_lost_rate: f64,
    /// Receipts that say UNDELIV
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    undeliv_rate: f64,
    /// Spelling of ids in response and receipt
    #[arg(long, value_enum, default_value = "decimal")]
    id_format: Ids,
    /// First id
    #[arg(long, default_value_t = 1)]
    id_start: u64,
    /// Pad ids with zeros to this width
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=40))]
    id_width: u64,
    /// Form of receipts
    #[arg(long, value_enum, default_value = "both")]
    receipt_form: Form,
    /// Take connections, never answer a bind
    #[arg(long)]
    no_bind: bool,
    /// Status of bind responses
    #[arg(long, default_value_t = 0)]
    bind_status: u32,
    /// Unanswered deliver_sm a session
    #[arg(long, default_value_t = 1_000)]
    window: usize,
    /// Send enquire_link after so long without a word; 0: never
    #[arg(long, default_value_t = 0)]
    enquire_link_ms: u64,
    /// Append id, destination and first word of each accepted submit to this file
    #[arg(long)]
    accept_log: Option<PathBuf>,
    /// Same seed, same faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(f) if (0.0..=1.0).contains(&f) => Ok(f),
        _ => Err("must be a fraction from 0 to 1".into()),
    }
}

pub(super) fn run(a: &SmscArgs) -> ExitCode {
    let options = SmscOptions {
        listen: a.listen,
        system_id: a.system_id.clone(),
        password: a.password.clone(),
        resp_delay_ms: a.resp_delay_ms,
        receipt_delay_ms: a.receipt_delay_ms,
        tps: a.tps,
        throttle_rate: a.throttle_rate,
        queue_full_rate: a.queue_full_rate,
        reject_rate: a.reject_rate,
        reject_status: a.reject_status,
        drop_resp_rate: a.drop_resp_rate,
        drop_conn_every: a.drop_conn_every,
        receipt_first_rate: a.receipt_first_rate,
        receipt_dup_rate: a.receipt_dup_rate,
        receipt_lost_rate: a.receipt_lost_rate,
        undeliv_rate: a.undeliv_rate,
        id_format: match a.id_format {
            Ids::Decimal => IdFormat::Decimal,
            Ids::HexLower => IdFormat::HexLower,
            Ids::HexUpper => IdFormat::HexUpper,
            Ids::HexDec => IdFormat::HexDec,
            Ids::DecHex => IdFormat::DecHex,
        },
        id_start: a.id_start,
        id_width: a.id_width as usize,
        receipt_form: match a.receipt_form {
            Form::Both => ReceiptForm::Both,
            Form::Text => ReceiptForm::Text,
            Form::Tlv => ReceiptForm::Tlv,
        },
        no_bind: a.no_bind,
        bind_status: a.bind_status,
        window: a.window,
        enquire_link_ms: a.enquire_link_ms,
        accept_log: a.accept_log.clone(),
        record: false,
        seed: a.seed,
    };
    super::load::block_on(async move {
        let smsc = match Smsc::start(options).await {
            Ok(smsc) => smsc,
            Err(e) => {
                eprintln!("smsconnect: cannot start the simulator: {e}");
                return ExitCode::FAILURE;
            }
        };
        println!("SMSC simulator on {}", smsc.addr());
        super::load::interrupted().await;
        match serde_json::to_string_pretty(&smsc.stats()) {
            Ok(text) => println!("{text}"),
            Err(e) => eprintln!("smsconnect: {e}"),
        }
        smsc.stop().await;
        ExitCode::SUCCESS
    })
}
