//! The configuration: one TOML file, every key with its unit in the name, every fault reported at once with its line.

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// The words that may be written.
            pub const WORDS: &'static [&'static str] = &[$($text,)*];

            /// From its word.
            #[must_use]
            pub fn parse(word: &str) -> Option<$name> {
                match word { $($text => Some($name::$variant),)* _ => None }
            }

            /// Its word.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

mod check;
mod print;
mod read;
mod reader;
mod routing;
pub mod rules;
mod sending;
mod tables;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::money::Money;

pub use check::REASONS;
pub use print::print;
pub use routing::DAYS;
pub use sending::Priority;
pub use tables::{Ported, Range};

/// A secret that is never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

/// A fault of a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// Line from 1; 0 if the fault has no place.
    pub line: usize,
    /// What is wrong and how to mend it, beginning with the key.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

choice! {
    /// `[store] durability`.
    Durability {
        /// On disk before the answer.
        #[default]
        Full = "full",
        /// Survives a crash of the daemon, not of the power.
        Normal = "normal",
    }
}
choice! {
    /// `[log] format`.
    LogFormat {
        /// For people.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}
choice! {
    /// `[[upstream]] bind`.
    BindMode {
        /// One session for both directions.
        #[default]
        Transceiver = "transceiver",
        /// Two sessions a bind.
        TransmitterReceiver = "transmitter+receiver",
        /// Sending only.
        Transmitter = "transmitter",
        /// Receiving only.
        Receiver = "receiver",
    }
}
choice! {
    /// `[[upstream]] id_format`.
    IdFormat {
        /// Every spelling is tried.
        #[default]
        Auto = "auto",
        /// Receipts spell ids as responses do (case and leading zeros aside).
        Same = "same",
        /// Response hexadecimal, receipt decimal.
        HexDec = "hex-dec",
        /// Response decimal, receipt hexadecimal.
        DecHex = "dec-hex",
    }
}
choice! {
    /// `[[upstream]] unknown_outcome`.
    Unknown {
        /// Send it again.
        #[default]
        Resend = "resend",
        /// Keep it for a receipt or an operator.
        Hold = "hold",
        /// Give it up and release its price.
        Fail = "fail",
    }
}
choice! {
    /// `[[upstream]] default_alphabet`: what its data_coding 0 stands for.
    Alphabet {
        /// GSM 03.38, one septet an octet.
        #[default]
        Gsm7 = "gsm7",
        /// GSM 03.38, eight septets in seven octets.
        Gsm7Packed = "gsm7-packed",
        /// ISO 8859-1.
        Latin1 = "latin1",
        /// US-ASCII.
        Ascii = "ascii",
    }
}
choice! {
    /// `[[upstream]] long_messages`.
    LongMessages {
        /// As the customer sent them.
        #[default]
        AsIs = "as-is",
        /// In parts with a user data header.
        Udh = "udh",
        /// In parts with sar parameters.
        Sar = "sar",
        /// Whole, in message_payload.
        Payload = "payload",
    }
}
choice! {
    /// `[[upstream]] validity`.
    Validity {
        /// As a span from now.
        #[default]
        Relative = "relative",
        /// As an instant in UTC.
        Absolute = "absolute",
        /// Not at all.
        Omit = "omit",
    }
}
choice! {
    /// `[[route]] strategy`.
    Strategy {
        /// The first upstream that is bound.
        #[default]
        Failover = "failover",
        /// By share of their weights.
        Weighted = "weighted",
        /// Each in turn.
        RoundRobin = "round-robin",
        /// The least cost.
        Cheapest = "cheapest",
        /// The best measured delivery ratio.
        Quality = "quality",
    }
}
choice! {
    /// `[[tariff]] tax_mode`.
    TaxMode {
        /// Prices contain the tax.
        #[default]
        Inclusive = "inclusive",
        /// The tax comes on top.
        Exclusive = "exclusive",
    }
}
choice! {
    /// `[[tariff.refund]] then`.
    Then {
        /// The price is not charged, or given back.
        #[default]
        Release = "release",
        /// The price is charged.
        Keep = "keep",
    }
}
choice! {
    /// `[[tariff]] charge_on`.
    ChargeOn {
        /// At our acknowledgement.
        Accepted = "accepted",
        /// When the upstream has taken the message.
        #[default]
        Submitted = "submitted",
        /// When it is delivered.
        Delivered = "delivered",
    }
}

/// `[customer]`
#[derive(Clone, Debug, PartialEq)]
pub struct Customer {
    /// Where customers' SMPP clients bind.
    pub listen: Vec<SocketAddr>,
    /// Where they bind over TLS.
    pub tls_listen: Vec<SocketAddr>,
    /// Certificate chain, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Authorities whose client certificates are taken, PEM; none: clients need no certificate.
    pub tls_client_ca: Option<PathBuf>,
    /// Our name in bind responses.
    pub system_id: String,
    /// A connection that has not bound by then is closed.
    pub bind_timeout_ms: u64,
    /// Silence before an enquire_link.
    pub enquire_link_ms: u64,
    /// Silence before closing.
    pub idle_timeout_ms: u64,
    /// How long a customer may take to answer.
    pub response_timeout_ms: u64,
    /// A PDU that stays incomplete closes the connection.
    pub pdu_timeout_ms: u64,
    /// Unanswered submits a session may have.
    pub window_max: u32,
    /// Unanswered deliver_sm a session.
    pub deliver_window: u32,
    /// First pause after a refused deliver_sm; doubles.
    pub deliver_retry_min_ms: u64,
    /// Longest such pause.
    pub deliver_retry_max_ms: u64,
    /// Refusals before a delivery is parked.
    pub deliver_attempts_max: u32,
    /// Open connections in all.
    pub connections_max: u32,
    /// For messages without validity_period.
    pub validity_default_s: u64,
    /// Longer ones are cut.
    pub validity_max_s: u64,
    /// How far ahead a message may be scheduled; 0: not at all.
    pub schedule_max_s: u64,
    /// No final receipt by then: UNKNOWN.
    pub receipt_timeout_s: u64,
    /// Receipts and MO wait this long for a customer who is offline.
    pub receipt_keep_s: u64,
    /// Parts of an inbound message wait this long for the others.
    pub join_timeout_ms: u64,
}

impl Default for Customer {
    fn default() -> Self {
        Customer {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 2775))],
            tls_listen: Vec::new(),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            system_id: "SMSCONNECT".into(),
            bind_timeout_ms: 5_000,
            enquire_link_ms: 30_000,
            idle_timeout_ms: 90_000,
            response_timeout_ms: 10_000,
            pdu_timeout_ms: 10_000,
            window_max: 1_000,
            deliver_window: 100,
            deliver_retry_min_ms: 5_000,
            deliver_retry_max_ms: 600_000,
            deliver_attempts_max: 20,
            connections_max: 20_000,
            validity_default_s: 86_400,
            validity_max_s: 604_800,
            schedule_max_s: 2_592_000,
            receipt_timeout_s: 259_200,
            receipt_keep_s: 604_800,
            join_timeout_ms: 60_000,
        }
    }
}

/// `[privacy]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Privacy {
    /// An account binds only with an active data-processing agreement.
    pub require_dpa: bool,
}

/// `[numbering]`
#[derive(Clone, Debug, PartialEq)]
pub struct Numbering {
    /// National forms are completed with it; empty: numbers are taken as international.
    pub country_code: String,
    /// A CSV file of number ranges: prefix, operator, mcc, mnc; `None`: operators are not known.
    pub plan: Option<PathBuf>,
    /// What is in it.
    pub ranges: Vec<Range>,
    /// A CSV file of ported numbers: number, operator, since; `None`: none.
    pub ported: Option<PathBuf>,
    /// What is in it.
    pub ported_numbers: Ported,
    /// Numbers of the country that are in no range of the plan, or have not as many digits as it says, are refused.
    pub mobile_only: bool,
}

impl Default for Numbering {
    fn default() -> Self {
        Numbering {
            country_code: String::new(),
            plan: None,
            ranges: Vec::new(),
            ported: None,
            ported_numbers: Ported::default(),
            mobile_only: true,
        }
    }
}

/// `[billing]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Billing {
    /// How far clocks are ahead of UTC where days and months of quotas and statements begin, minutes.
    pub utc_offset_min: i32,
}

/// `[[sender]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sender {
    /// A source address.
    pub id: String,
    /// Its class, such as `promotional`.
    pub class: String,
    /// Only for this account; empty: for every account.
    pub account: String,
    /// Only at this operator of the plan; empty: at all.
    pub operator: String,
    /// Whether it may be used.
    pub status: rules::Status,
    /// It may look like a reserved name: it is its owner's.
    pub reserved: bool,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// The database file.
    pub path: PathBuf,
    /// When an answer may leave.
    pub durability: Durability,
    /// Below it submits are refused.
    pub free_min_bytes: u64,
    /// Closed messages older than this are removed; 0: kept.
    pub keep_days: u32,
    /// Messages in a journal segment.
    pub segment_messages: u64,
    /// Rows in one commit.
    pub batch_rows_max: u32,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            path: "smsconnect.db".into(),
            durability: Durability::Full,
            free_min_bytes: 268_435_456,
            keep_days: 0,
            segment_messages: 250_000,
            batch_rows_max: 2_000,
        }
    }
}

/// `[[admin.principal]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Principal {
    /// Its name.
    pub name: String,
    /// By user id.
    pub uid: Option<u32>,
    /// By group id.
    pub gid: Option<u32>,
    /// By user name.
    pub user: Option<String>,
    /// By group name.
    pub group: Option<String>,
    /// What it may do.
    pub roles: Vec<String>,
    /// For which organisations; `*`: all.
    pub orgs: Vec<String>,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Who may do what; empty: only the user that runs the daemon, everything.
    pub principal: Vec<Principal>,
    /// Four-eyes switches.
    pub approvals: BTreeMap<String, bool>,
}

impl Default for Admin {
    fn default() -> Self {
        Admin {
            socket: "admin.sock".into(),
            mode: 0o660,
            principal: Vec::new(),
            approvals: BTreeMap::new(),
        }
    }
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsConfig {
    /// Where /metrics, /healthz and /readyz are served; empty: nowhere.
    pub listen: Option<SocketAddr>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Messages accepted and not final; beyond: ESME_RMSGQFUL.
    pub open_max: u64,
    /// Of these taken by no SMSC yet; beyond: ESME_RMSGQFUL.
    pub waiting_max: u64,
    /// Of these in memory whole; beyond, those that await only their receipt are kept in a short form.
    pub open_hot_max: u32,
    /// Submits waiting for their commit; beyond: ESME_RMSGQFUL.
    pub ingress_max: u64,
    /// Receipts and MO per account in memory; beyond: in the store.
    pub outbox_max: u32,
    /// Receipts without a known message.
    pub parked_max: u32,
    /// How long they are kept.
    pub parked_keep_s: u64,
    /// Password checks waiting.
    pub bind_checks_max: u32,
    /// Connections of one address that have not bound.
    pub unbound_per_ip_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            open_max: 20_000_000,
            waiting_max: 2_000_000,
            open_hot_max: 250_000,
            ingress_max: 100_000,
            outbox_max: 10_000,
            parked_max: 1_000_000,
            parked_keep_s: 259_200,
            bind_checks_max: 10_000,
            unbound_per_ip_max: 6_000,
        }
    }
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// How long an orderly end may take.
    pub drain_timeout_ms: u64,
    /// Threads for connections; 0: one per core.
    pub worker_threads: u32,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            drain_timeout_ms: 30_000,
            worker_threads: 0,
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Text or JSON, to stderr.
    pub format: LogFormat,
    /// error, warn, info, debug or trace; or a filter such as `info,smsconnect::net=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            format: LogFormat::Text,
            level: "info".into(),
        }
    }
}

/// `[[upstream]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// `host:port`, tried in turn.
    pub address: Vec<String>,
    /// What to bind with.
    pub system_id: String,
    /// Its password; or see `password_file`.
    pub password: Option<Secret>,
    /// A file that holds it.
    pub password_file: Option<PathBuf>,
    /// Kind of binds.
    pub bind: BindMode,
    /// Parallel binds.
    pub binds: u32,
    /// Unanswered submits a session.
    pub window: u32,
    /// Submits a second over all binds; 0: unlimited.
    pub tps: u32,
    /// Submits a second on each bind; 0: unlimited.
    pub bind_tps: u32,
    /// How receipts spell ids.
    pub id_format: IdFormat,
    /// Silence before an enquire_link.
    pub enquire_link_ms: u64,
    /// How long an answer may take, from the write.
    pub response_timeout_ms: u64,
    /// First pause before reconnecting; doubles, with jitter.
    pub reconnect_min_ms: u64,
    /// Longest such pause.
    pub reconnect_max_ms: u64,
    /// First pause after ESME_RTHROTTLED or ESME_RMSGQFUL; doubles.
    pub retry_min_ms: u64,
    /// Longest such pause.
    pub retry_max_ms: u64,
    /// What to do with a message that was written and never answered.
    pub unknown_outcome: Unknown,
    /// Resends before holding.
    pub unknown_resend_max: u32,
    /// Country of the link, ISO 3166.
    pub country: String,
    /// Currency of its costs.
    pub currency: String,
    /// What it takes a segment.
    pub cost: Vec<Cost>,
    /// Messages waiting in memory; beyond, in the store.
    pub queue_max: u32,
    /// system_type of the bind.
    pub system_type: String,
    /// address_range of the bind.
    pub address_range: String,
    /// interface_version of the bind.
    pub interface_version: u32,
    /// Source TON; -1: as the customer sent.
    pub source_ton: i32,
    /// Source NPI; -1: as the customer sent.
    pub source_npi: i32,
    /// Destination TON; -1: international.
    pub dest_ton: i32,
    /// Destination NPI; -1: E.164.
    pub dest_npi: i32,
    /// What its data_coding 0 stands for.
    pub default_alphabet: Alphabet,
    /// How messages of more than one segment go.
    pub long_messages: LongMessages,
    /// How it is told what is left of a message's validity.
    pub validity: Validity,
    /// Optional parameters that pass besides those every SMSC knows, by tag.
    pub tlvs: Vec<u32>,
    /// Tag of the parameter (a linkId) that its inbound messages bring for their answers; 0: none.
    pub link_id_tlv: u32,
    /// States by the `stat` of its receipts.
    pub states: BTreeMap<String, String>,
    /// Error numbers by the `err` of its receipts.
    pub errors: BTreeMap<String, u32>,
    /// TLS towards the SMSC.
    pub tls: bool,
    /// Authorities that vouch for its certificate, PEM.
    pub tls_ca: Option<PathBuf>,
    /// Or the SHA-256 fingerprint of the certificate itself, hex.
    pub tls_fingerprint: String,
    /// The name in its certificate; empty: the host of the address.
    pub tls_name: String,
}

impl Default for Upstream {
    fn default() -> Self {
        Upstream {
            name: String::new(),
            address: Vec::new(),
            system_id: "smsconnect".into(),
            password: None,
            password_file: None,
            bind: BindMode::Transceiver,
            binds: 2,
            window: 100,
            tps: 0,
            bind_tps: 0,
            id_format: IdFormat::Auto,
            enquire_link_ms: 30_000,
            response_timeout_ms: 60_000,
            reconnect_min_ms: 1_000,
            reconnect_max_ms: 30_000,
            retry_min_ms: 1_000,
            retry_max_ms: 60_000,
            unknown_outcome: Unknown::Resend,
            unknown_resend_max: 1,
            country: String::new(),
            currency: String::new(),
            cost: Vec::new(),
            queue_max: 50_000,
            system_type: String::new(),
            address_range: String::new(),
            interface_version: 0x34,
            source_ton: -1,
            source_npi: -1,
            dest_ton: -1,
            dest_npi: -1,
            default_alphabet: Alphabet::Gsm7,
            long_messages: LongMessages::AsIs,
            validity: Validity::Relative,
            tlvs: Vec::new(),
            link_id_tlv: 0,
            states: BTreeMap::new(),
            errors: BTreeMap::new(),
            tls: false,
            tls_ca: None,
            tls_fingerprint: String::new(),
            tls_name: String::new(),
        }
    }
}

impl Upstream {
    /// The password, from wherever it is.
    ///
    /// # Errors
    /// The file cannot be read; the text names it.
    pub fn secret(&self) -> Result<String, String> {
        match (&self.password, &self.password_file) {
            (Some(secret), _) => Ok(secret.0.clone()),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map(|s| s.trim_end_matches(['\n', '\r']).to_string())
                .map_err(|e| format!("cannot read password_file {}: {e}", path.display())),
            (None, None) => Ok(String::new()),
        }
    }
}

/// `[[upstream.cost]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// Destination prefix; empty: every number.
    pub prefix: String,
    /// Only for this operator of the number plan; empty: any.
    pub operator: String,
    /// A segment.
    pub cost: Money,
}

/// All seven days, as bits.
pub const EVERY_DAY: u8 = 0x7F;

/// `[[route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Destination prefixes; empty: every number.
    pub prefix: Vec<String>,
    /// Only for these accounts.
    pub account: Vec<String>,
    /// Only for these source addresses.
    pub sender: Vec<String>,
    /// Only for numbers of these operators of the plan.
    pub operator: Vec<String>,
    /// Only for source addresses of these classes.
    pub class: Vec<String>,
    /// From and to, in minutes of the day; `None`: the whole day.
    pub hours: Option<(u16, u16)>,
    /// Days of the week, bit 0 for Monday.
    pub days: u8,
    /// Where hours and days are counted; empty: as `[billing] utc_offset_min` says.
    pub zone: String,
    /// Upstreams in order of preference.
    pub to: Vec<String>,
    /// Shares, in the order of `to`.
    pub weights: Vec<u32>,
    /// How to pick among them.
    pub strategy: Strategy,
    /// Hundredths of the traffic that each upstream keeps that is not the best, by quality.
    pub floor_percent: u32,
}

impl Default for Route {
    fn default() -> Self {
        Route {
            name: String::new(),
            prefix: Vec::new(),
            account: Vec::new(),
            sender: Vec::new(),
            operator: Vec::new(),
            class: Vec::new(),
            hours: None,
            days: EVERY_DAY,
            zone: String::new(),
            to: Vec::new(),
            weights: Vec::new(),
            strategy: Strategy::Failover,
            floor_percent: 5,
        }
    }
}

/// `[[tariff.price]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Price {
    /// Destination prefix; empty: every number.
    pub prefix: String,
    /// Only for this operator of the number plan; empty: any.
    pub operator: String,
    /// Only for senders of this class; empty: any.
    pub class: String,
    /// In force from then on, ms since the epoch; 0: always.
    pub effective_from_ms: u64,
    /// Per segment.
    pub price: Money,
}

/// `[[tariff.refund]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refund {
    /// A final state by the word of receipts.
    pub state: String,
    /// Only with one of these `err` codes; empty: any.
    pub errors: Vec<u32>,
    /// What becomes of the price.
    pub then: Then,
    /// How long a later receipt is awaited, seconds.
    pub wait_s: Option<u64>,
}

/// `[[tariff]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tariff {
    /// Its name.
    pub name: String,
    /// ISO 4217.
    pub currency: String,
    /// When a charge is earned.
    pub charge_on: ChargeOn,
    /// Tax in hundredths of a percent: 1600 is 16 %.
    pub tax_bp: u32,
    /// Whether prices contain it.
    pub tax_mode: TaxMode,
    /// Exceptions from what `charge_on` says.
    pub refund: Vec<Refund>,
    /// Prices by prefix, operator and class.
    pub price: Vec<Price>,
}

impl Default for Inbound {
    fn default() -> Self {
        Inbound {
            address: String::new(),
            keyword: None,
            alias: Vec::new(),
            account: String::new(),
            join: true,
            opt_out: true,
        }
    }
}

/// `[[inbound]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Inbound {
    /// Short code or number.
    pub address: String,
    /// First word of the text.
    pub keyword: Option<String>,
    /// Other first words that mean the same.
    pub alias: Vec<String>,
    /// Who gets it.
    pub account: String,
    /// Parts of a message are put together.
    pub join: bool,
    /// STOP and START are for its account.
    pub opt_out: bool,
}

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Folder of the file; relative paths start here.
    pub dir: PathBuf,
    /// `[customer]`
    pub customer: Customer,
    /// `[privacy]`
    pub privacy: Privacy,
    /// `[numbering]`
    pub numbering: Numbering,
    /// `[store]`
    pub store: Store,
    /// `[admin]`
    pub admin: Admin,
    /// `[metrics]`
    pub metrics: MetricsConfig,
    /// `[limits]`
    pub limits: Limits,
    /// `[server]`
    pub server: Server,
    /// `[log]`
    pub log: Log,
    /// `[status]`: command_status by reason.
    pub status: BTreeMap<String, u32>,
    /// `[[upstream]]`
    pub upstream: Vec<Upstream>,
    /// `[[route]]`
    pub route: Vec<Route>,
    /// `[billing]`
    pub billing: Billing,
    /// `[[sender]]`
    pub sender: Vec<Sender>,
    /// `[[tariff]]`
    pub tariff: Vec<Tariff>,
    /// `[[inbound]]`
    pub inbound: Vec<Inbound>,
    /// Message policy.
    pub rules: rules::Rules,
    /// `[[priority]]`
    pub priority: Vec<Priority>,
}

impl Config {
    /// Operators of the number plan.
    fn operators(&self) -> impl Iterator<Item = &str> {
        self.numbering.ranges.iter().map(|range| range.operator.as_str())
    }
}

/// Reads and checks a file.
///
/// # Errors
/// Every fault found, in the order of the file.
pub fn load(path: &Path) -> Result<Config, Vec<Fault>> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(e) => Err(vec![Fault {
            file: path.into(),
            line: 0,
            what: format!("cannot be read: {e}"),
        }]),
    }
}

/// Reads and checks a text as if it were the file `path`.
///
/// # Errors
/// Every fault found, in the order of the file.
pub fn parse(text: &str, path: &Path) -> Result<Config, Vec<Fault>> {
    let (config, mut faults, places) = read::read(text, path);
    check::check(&config, &places, &mut faults);
    let mut faults: Vec<Fault> = faults
        .into_iter()
        .map(|(line, what)| Fault {
            file: path.into(),
            line,
            what,
        })
        .collect();
    if faults.is_empty() {
        return Ok(config);
    }
    faults.sort_by_key(|f| f.line);
    Err(faults)
}
