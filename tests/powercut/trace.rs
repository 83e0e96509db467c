//! An strace log of the daemon, read as what it did to its store and what it told the outside.
//!
//! Order is everything here. strace writes a line when a call begins and, if others have overtaken it, another when it has
//! ended. A write, a new name and an acknowledgement count from where the call *begins*; an fsync from where it has
//! *ended*, and only for what had begun before it did: each the way that promises less.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use smsconnect::money::Money;
use smsconnect::smpp::{self, CommandId, CommandStatus};

/// The calls that are traced: all with which the daemon or SQLite may change a file, and all that write to a socket.
pub const CALLS: &str = "trace=openat,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync,ftruncate,fallocate,\
     unlink,unlinkat,rename,renameat,renameat2,link,linkat";

/// A place in the order: the number of a line, over all lives.
pub type At = usize;

/// One thing that was done.
#[derive(Debug, Clone)]
pub enum Op {
    /// A file was created.
    Create(String),
    /// Octets written to a file at an offset.
    Write(String, usize, Arc<[u8]>),
    /// A file was cut or grown to a size.
    Truncate(String, usize),
    /// A name was removed.
    Unlink(String),
    /// What a file got before this place is on disk.
    Sync(String, At),
    /// Names made and removed before this place are on disk.
    SyncNames(At),
    /// A submit_sm_resp with ESME_ROK and this id was given to a socket.
    Acked(u64),
    /// An answer that says a payment is booked was given to a socket: its receipt and amount in micro-units.
    Paid(String, i64),
}

/// What the daemon did, over one life after the other.
#[derive(Debug, Default)]
pub struct Trace {
    /// In order.
    pub ops: Vec<(At, Op)>,
    /// Where each life begins in `ops`.
    pub starts: Vec<usize>,
    lines: At,
    names: BTreeSet<String>,
}

/// A call: where it began and ended, and its text without the process id.
struct Call<'a> {
    name: &'a [u8],
    args: &'a [u8],
    begun: At,
    ended: At,
    /// What it returned, as text; `None` if the process was killed on the way in.
    returned: Option<&'a [u8]>,
}

impl Trace {
    /// Adds a life: its log, and the folder of the store (absolute, without links).
    ///
    /// # Panics
    /// If the log holds a call on the store that this model does not know.
    pub fn add(&mut self, log: &[u8], dir: &Path) {
        let calls = calls(log, self.lines);
        self.lines += log.split(|c| *c == b'\n').count();
        let mut ops = Vec::new();
        let mut sockets = HashMap::new();
        for call in &calls {
            let failed = call.returned.is_some_and(|r| r.starts_with(b"-1"));
            if !failed && !socket(call, &mut sockets, &mut ops) {
                self.file(call, dir, &mut ops);
            }
        }
        ops.sort_by_key(|(at, _)| *at);
        self.starts.push(self.ops.len());
        self.ops.append(&mut ops);
    }

    /// A call on a file of the store.
    fn file(&mut self, call: &Call<'_>, dir: &Path, ops: &mut Vec<(At, Op)>) {
        // Where a process was killed on the way into a call, the call was not made.
        let Some(returned) = call.returned else { return };
        let shown = match call.name {
            b"openat" => returned,
            _ => call.args,
        };
        let path = match call.name {
            b"unlink" => text(quoted(call.args)),
            _ => text(described(shown)),
        };
        let Ok(name) = Path::new(&path).strip_prefix(dir) else {
            return;
        };
        let name = name.to_str().unwrap().to_string();
        if !name.is_empty() && !name.starts_with("gateway.db") || name.ends_with("-shm") {
            // What is in the -shm file is never believed after a start of the machine: SQLite makes it anew.
            return;
        }
        let op = match call.name {
            b"openat" if self.names.insert(name.clone()) && has(call.args, b"O_CREAT") => Op::Create(name),
            b"openat" => return,
            b"fsync" | b"fdatasync" if name.is_empty() => Op::SyncNames(call.begun),
            b"fsync" | b"fdatasync" => Op::Sync(name, call.begun),
            b"unlink" => {
                self.names.remove(&name);
                Op::Unlink(name)
            }
            b"ftruncate" => Op::Truncate(name, last_number(call.args)),
            b"pwrite64" => {
                let octets = quoted(call.args);
                assert_eq!(number(returned), octets.len(), "a write was cut short");
                Op::Write(name, last_number(call.args), octets.into())
            }
            other => panic!("{} of {name} is not in the model", String::from_utf8_lossy(other)),
        };
        let at = match op {
            Op::Sync(..) | Op::SyncNames(_) => call.ended,
            _ => call.begun,
        };
        ops.push((at, op));
    }
}

/// Brings the two lines of a call that was overtaken together.
fn calls(log: &[u8], first: At) -> Vec<Call<'_>> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    let mut open: HashMap<&[u8], usize> = HashMap::new();
    for (n, line) in log.split(|c| *c == b'\n').enumerate() {
        let at = first + n;
        let Some(space) = line.iter().position(|c| *c == b' ') else {
            continue;
        };
        let (pid, rest) = line.split_at(space);
        let rest = rest.trim_ascii_start();
        if rest.starts_with(b"<... ") {
            if let Some(call) = open.remove(pid).and_then(|i| calls.get_mut(i)) {
                call.ended = at;
                call.returned = value(after_equals(rest).1);
            }
            continue;
        }
        let Some(bracket) = rest.iter().position(|c| *c == b'(') else {
            continue;
        };
        let (name, args) = (&rest[..bracket], &rest[bracket + 1..]);
        if !name.iter().all(|c| c.is_ascii_alphanumeric()) {
            continue;
        }
        let (args, returned) = match args.strip_suffix(b" <unfinished ...>") {
            Some(args) => {
                open.insert(pid, calls.len());
                (args, None)
            }
            None => {
                let (args, returned) = after_equals(args);
                (args, value(returned))
            }
        };
        calls.push(Call {
            name,
            args,
            begun: at,
            ended: at,
            returned,
        });
    }
    calls
}

/// The text before the bracket and the equals sign of a return value, and the value. Strings are in hex, so neither can be
/// inside one.
fn after_equals(text: &[u8]) -> (&[u8], &[u8]) {
    let at = text
        .windows(3)
        .rposition(|w| w == b" = ")
        .unwrap_or_else(|| panic!("no return value: {}", String::from_utf8_lossy(text)));
    let args = text[..at].trim_ascii_end();
    (args.strip_suffix(b")").unwrap_or(args), &text[at + 3..])
}

/// A question mark stands for what nobody will know: the process was killed.
fn value(returned: &[u8]) -> Option<&[u8]> {
    (!returned.starts_with(b"?")).then_some(returned)
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

fn number(text: &[u8]) -> usize {
    let end = text
        .iter()
        .position(|c| !c.is_ascii_digit())
        .unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).unwrap().parse().unwrap()
}

fn last_number(args: &[u8]) -> usize {
    number(args.rsplit(|c| *c == b' ').next().unwrap())
}

fn text(octets: Vec<u8>) -> String {
    String::from_utf8(octets).unwrap()
}

/// What stands in all quotation marks of a call, one after the other.
fn quoted(args: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut parts = args.split(|c| *c == b'"');
    parts.next();
    while let (Some(hex), after) = (parts.next(), parts.next()) {
        unhex(hex, &mut octets);
        assert!(
            !after.is_some_and(|a| a.starts_with(b"...")),
            "strace cut a string"
        );
    }
    octets
}

/// What a descriptor stands for: the path in the first angle brackets.
fn described(text: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    if let Some(from) = text.iter().position(|c| *c == b'<') {
        let rest = &text[from + 1..];
        let to = rest.iter().position(|c| *c == b'>').unwrap_or(rest.len());
        match rest.starts_with(b"\\x") {
            true => unhex(&rest[..to], &mut octets),
            false => octets.extend_from_slice(&rest[..to]),
        }
    }
    octets
}

fn unhex(hex: &[u8], out: &mut Vec<u8>) {
    let digit = |c: u8| match c {
        b'0'..=b'9' => c - b'0',
        b'a'..=b'f' => c - b'a' + 10,
        _ => panic!("not hex: {}", c as char),
    };
    assert_eq!(hex.len() % 4, 0, "octets are written as \\xNN");
    out.extend(hex.chunks_exact(4).map(|c| digit(c[2]) << 4 | digit(c[3])));
}

/// Reads acknowledgements out of what is written to a socket; `false` if the call writes to none.
fn socket(call: &Call<'_>, streams: &mut HashMap<Vec<u8>, Vec<u8>>, ops: &mut Vec<(At, Op)>) -> bool {
    if !matches!(call.name, b"write" | b"writev" | b"sendto" | b"sendmsg") {
        return false;
    }
    let to = described(call.args);
    if !to.starts_with(b"socket:") {
        return false;
    }
    let mut octets = quoted(call.args);
    if let Some(returned) = call.returned {
        octets.truncate(number(returned));
    }
    let stream = streams.entry(to).or_default();
    stream.extend(octets);
    let mut done = 0;
    if stream.starts_with(b"{") {
        while let Some(end) = stream[done..].iter().position(|c| *c == b'\n') {
            ops.extend(paid(&stream[done..done + end]).map(|op| (call.begun, op)));
            done += end + 1;
        }
    } else {
        while let Ok(Some(pdu)) = smpp::cut(&stream[done..], 100_000) {
            let header = &pdu.header;
            if header.command_id == CommandId::SUBMIT_SM_RESP
                && header.command_status == CommandStatus::ESME_ROK
            {
                let id = smpp::MessageIdResp::decode(pdu.body).unwrap().message_id.to_vec();
                ops.push((call.begun, Op::Acked(text(id).parse().unwrap())));
            }
            done += pdu.bytes.len();
        }
    }
    stream.drain(..done);
    true
}

/// The answer of `wallet.topup`.
fn paid(line: &[u8]) -> Option<Op> {
    let answer: Value = serde_json::from_slice(line).ok()?;
    let result = answer.get("result")?;
    let receipt = result.get("receipt")?.as_str()?.to_string();
    let amount = Money::parse(result.get("amount")?.as_str()?).ok()?;
    Some(Op::Paid(receipt, amount.0))
}
