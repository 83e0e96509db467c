//! The tables beside the config: number plans and ported numbers, one CSV file each. A bad line is a fault with its file and line.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use csv::{ByteRecord, Reader, ReaderBuilder, Trim};

/// A range of the number plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Its prefix in E.164 digits.
    pub prefix: String,
    /// Who holds it.
    pub operator: String,
    /// Mobile country code; empty: not given.
    pub mcc: String,
    /// Mobile network code; empty: not given.
    pub mnc: String,
    /// Digits of a whole number in it, country code included; 0: not given.
    pub digits: u8,
}

/// Numbers that have moved to another operator than their range's.
#[derive(Clone, Debug, Default)]
pub struct Ported {
    /// Operators that rows name by place.
    pub operators: Vec<String>,
    /// Number, place of its operator, and since when, in days since 1970-01-01.
    pub rows: Arc<Vec<(u64, u16, u16)>>,
    /// Of everything in the file: two tables with the same are the same.
    digest: u64,
}

impl PartialEq for Ported {
    fn eq(&self, other: &Ported) -> bool {
        (self.digest, self.rows.len()) == (other.digest, other.rows.len())
    }
}

impl Ported {
    /// The same table without its rows, to compare others with.
    #[must_use]
    pub fn shape(&self) -> (u64, usize) {
        (self.digest, self.rows.len())
    }
}

/// Faults of one file that are told; one that is not a table at all has as many as lines.
const FAULTS_MAX: usize = 20;
/// Days of 1970-01-01 to 2149, which is what a row can hold.
const DAY_MS: i64 = 86_400_000;
/// Operators of one plan.
pub(super) const OPERATORS_MAX: usize = 16_000;

struct Table {
    file: String,
    reader: Reader<std::fs::File>,
    columns: Vec<Option<usize>>,
    faults: Vec<String>,
}

impl Table {
    /// Opens a file with these columns; those after a `?` may be missing.
    fn open(path: &Path, columns: &[&str]) -> Result<Table, Vec<String>> {
        let file = path.display().to_string();
        let open = ReaderBuilder::new()
            .trim(Trim::All)
            .flexible(true)
            .has_headers(false)
            .from_path(path);
        let mut reader = open.map_err(|e| vec![format!("{file}: {e}")])?;
        let mut headers = ByteRecord::new();
        while reader
            .read_byte_record(&mut headers)
            .map_err(|e| vec![format!("{file}: {e}")])?
            && headers.get(0).is_some_and(|f| f.starts_with(b"#"))
        {}
        let line = headers.position().map_or(1, csv::Position::line);
        let mut places = Vec::new();
        let mut faults = Vec::new();
        for name in columns {
            let (name, may_miss) = name.strip_prefix('?').map_or((*name, false), |n| (n, true));
            let at = headers.iter().position(|h| h == name.as_bytes());
            if at.is_none() && !may_miss {
                faults.push(format!("{file}:{line}: has no column {name:?}"));
            }
            places.push(at);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Table {
            file,
            reader,
            columns: places,
            faults,
        })
    }

    fn each(&mut self, mut row: impl FnMut(&[&str]) -> Result<(), String>) {
        let mut record = ByteRecord::new();
        let mut fields: Vec<usize> = Vec::new();
        loop {
            match self.reader.read_byte_record(&mut record) {
                Ok(false) => return,
                // The reader's own comments would shift the numbers of the lines behind them.
                Ok(true) if record.get(0).is_some_and(|f| f.starts_with(b"#")) => continue,
                Ok(true) => {}
                Err(e) => {
                    self.faults.push(format!("{}: {e}", self.file));
                    return;
                }
            }
            fields.clear();
            let text = |at: &Option<usize>| {
                let octets = at.and_then(|at| record.get(at)).unwrap_or(b"");
                std::str::from_utf8(octets).map_err(|_| "is not UTF-8".to_string())
            };
            let read: Result<Vec<&str>, String> = self.columns.iter().map(text).collect();
            if let Err(what) = read.and_then(|fields| row(&fields)) {
                let line = record.position().map_or(0, csv::Position::line);
                self.faults.push(format!("{}:{line}: {what}", self.file));
                if self.faults.len() >= FAULTS_MAX {
                    self.faults.push(format!(
                        "{}: and more; the first {FAULTS_MAX} are named",
                        self.file
                    ));
                    return;
                }
            }
        }
    }

    fn done<T>(self, value: T) -> Result<T, Vec<String>> {
        if self.faults.is_empty() {
            Ok(value)
        } else {
            Err(self.faults)
        }
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Reads a number plan: prefix and operator, and as far as they are there mcc, mnc and digits.
///
/// # Errors
/// A text for each bad line, beginning with the file and the line.
pub(super) fn ranges(path: &Path) -> Result<Vec<Range>, Vec<String>> {
    let mut table = Table::open(path, &["prefix", "operator", "?mcc", "?mnc", "?digits"])?;
    let mut out: Vec<Range> = Vec::new();
    let mut seen: HashMap<String, ()> = HashMap::new();
    table.each(|f| {
        let [prefix, operator, mcc, mnc, count] = *f else {
            return Ok(());
        };
        if !digits(prefix) || prefix.len() > 15 {
            return Err(format!("{prefix:?} is no prefix: up to 15 digits, without +"));
        }
        if operator.is_empty() {
            return Err(format!("{prefix} has no operator"));
        }
        if !mcc.is_empty() && (!digits(mcc) || mcc.len() != 3) {
            return Err(format!("{mcc:?} is no mobile country code: three digits"));
        }
        if !mnc.is_empty() && (!digits(mnc) || !(2..=3).contains(&mnc.len())) {
            return Err(format!("{mnc:?} is no mobile network code: two or three digits"));
        }
        let length = match count {
            "" => 0,
            n => n
                .parse()
                .ok()
                .filter(|n| (7..=15).contains(n) && usize::from(*n) >= prefix.len())
                .ok_or_else(|| {
                    format!("{n:?} is no number of digits: 7 to 15, and not less than the prefix has")
                })?,
        };
        if seen.insert(prefix.into(), ()).is_some() {
            return Err(format!("{prefix} is listed twice"));
        }
        out.push(Range {
            prefix: prefix.into(),
            operator: operator.into(),
            mcc: mcc.into(),
            mnc: mnc.into(),
            digits: length,
        });
        Ok(())
    });
    table.done(out)
}

/// Reads a table of ported numbers: number, operator, and since when (a date) as far as that is there; otherwise since the file was
/// written. `known` are the operators of the plan. Of two rows for a number the later stands.
///
/// # Errors
/// A text for each bad line, beginning with the file and the line.
pub(super) fn ported(path: &Path, known: &[Range]) -> Result<Ported, Vec<String>> {
    let mut table = Table::open(path, &["number", "operator", "?since"])?;
    let written = std::fs::metadata(path)
        .and_then(|m| m.modified())
        .ok()
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let written = written.map_or(0, |d| (d.as_secs() / 86_400).min(u64::from(u16::MAX)) as u16);
    let mut places: HashMap<&str, Option<u16>> = known.iter().map(|r| (r.operator.as_str(), None)).collect();
    let mut out = Ported {
        digest: 0xCBF2_9CE4_8422_2325,
        ..Ported::default()
    };
    let mut rows = Vec::new();
    table.each(|f| {
        let [number, operator, since] = *f else {
            return Ok(());
        };
        let plain = number.strip_prefix('+').unwrap_or(number);
        if !digits(plain) || !(7..=15).contains(&plain.len()) || plain.starts_with('0') {
            return Err(format!(
                "{:?}… is no international number: 7 to 15 digits",
                plain.get(..plain.len().min(4)).unwrap_or("")
            ));
        }
        let place = match places.get_mut(operator) {
            None => return Err(format!("{operator:?} is no operator of [numbering] plan")),
            Some(Some(place)) => *place,
            Some(new) => {
                let place = out.operators.len() as u16;
                out.operators.push(operator.into());
                *new.insert(place)
            }
        };
        let day = match since {
            "" => written,
            text => day(text).ok_or_else(|| format!("{text:?} is no date such as 2026-03-31"))?,
        };
        let number = plain.parse().unwrap_or(0);
        for octet in [number, u64::from(day)]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .chain(operator.bytes())
        {
            out.digest = (out.digest ^ u64::from(octet)).wrapping_mul(0x0100_0000_01B3);
        }
        rows.push((number, place, day));
        Ok(())
    });
    out.rows = Arc::new(rows);
    table.done(out)
}

/// Days since 1970-01-01 of a date.
fn day(text: &str) -> Option<u16> {
    let date: jiff::civil::Date = text.parse().ok()?;
    let at = jiff::tz::TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
    u16::try_from(at.as_millisecond().div_euclid(DAY_MS)).ok()
}
