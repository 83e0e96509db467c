//! A consistent copy of a store, taken while a daemon writes to it.
//!
//! Through SQLite's backup API, from a read-only connection that holds one read transaction for the whole copy. In WAL mode
//! a reader never stops the writer; and since the transaction stays open between the steps, all of them see the same moment:
//! without it, the API starts over whenever somebody has written, and under load it would never come to its end. What is
//! written meanwhile stays in the log, which is moved and cut off again afterwards, so the log grows by what comes in during
//! the copy and no more: that is why pages are copied as they are, at the speed of the disk, and not rebuilt by
//! `VACUUM INTO`, which keeps the same transaction open for several times as long. A copy that would eat up the space
//! the daemon needs gives up instead.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::digest;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::open::{self, OpenError};
use super::verify::{self, Report};
use super::{free_bytes, schema};

/// Pages copied between two looks at the free space: 4 MiB.
const STEP: i32 = 1_024;

/// Why there is no copy. Nothing is left under the name that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The source is no store of ours, or cannot be read.
    #[error(transparent)]
    Source(#[from] OpenError),
    /// There is a file of that name; a backup never replaces anything.
    #[error("{0} exists; name another file")]
    Exists(PathBuf),
    /// Too little space, for the copy or for the daemon beside it.
    #[error("{folder} has {free} octets free, {need} are needed; nothing was kept")]
    NoRoom {
        /// Where.
        folder: PathBuf,
        /// Octets free.
        free: u64,
        /// Octets that must be.
        need: u64,
    },
    /// The system said no.
    #[error("cannot write {path}: {what}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        what: String,
    },
    /// The source cannot be copied.
    #[error("the copy failed: {0}")]
    Copy(String),
    /// The copy was made and is not whole: neither is the source. It was removed.
    #[error("the store is damaged, the copy was not kept: {}", .0.faults.join("; "))]
    NotWhole(Box<Report>),
}

/// Copies the store at `from` to the new file `to`, with its checksum in `to.sha256`, and proves the copy whole. `free_min`:
/// octets that must stay free where the store lies. `progress` is told pages done and pages in all.
///
/// The copy is marked as one. A daemon starts on it as after a crash, since what was open at its moment may have been sent
/// since, and under an epoch far from all that the original, or another start of the same copy, may have taken meanwhile: no id
/// is given out twice.
///
/// # Errors
/// [`BackupError`].
pub fn backup(
    from: &Path,
    to: &Path,
    free_min: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, BackupError> {
    verify::ours(from)?;
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.into()));
    }
    let part = Part::new(to)?;
    copy(from, &part.path, free_min, progress)?;
    sync(&part.path)?;
    let report = verify::verify(&part.path)?;
    if !report.faults.is_empty() {
        return Err(BackupError::NotWhole(Box::new(report)));
    }
    let sum = checksum(&part.path).map_err(|e| io(&part.path, &e))?;
    write_checksum(to, &sum)?;
    // A link, not a rename: it never replaces a file that has appeared meanwhile.
    match std::fs::hard_link(&part.path, to) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(BackupError::Exists(to.into()));
        }
        // A file system without links.
        Err(_) if to.symlink_metadata().is_err() => {
            std::fs::rename(&part.path, to).map_err(|e| io(to, &e))?;
        }
        Err(e) => return Err(io(to, &e)),
    }
    sync(folder(to))?;
    Ok(report)
}

/// The copy under its temporary name; removed when it is no longer needed.
struct Part {
    path: PathBuf,
}

impl Part {
    fn new(to: &Path) -> Result<Part, BackupError> {
        let path = with_suffix(to, &format!(".part-{}", std::process::id()));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io(&path, &e))?;
        Ok(Part { path })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let _gone = std::fs::remove_file(with_suffix(&self.path, suffix));
        }
    }
}

fn copy(
    from: &Path,
    part: &Path,
    free_min: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), BackupError> {
    let sql = |e: rusqlite::Error| BackupError::Copy(e.to_string());
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags | OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sql)?;
    source.busy_timeout(open::BUSY).map_err(sql)?;
    source.execute_batch("BEGIN").map_err(sql)?;
    // The transaction begins with the first read; from here on it is one moment.
    let pages: i64 = source
        .query_row("PRAGMA page_count", [], |r| r.get(0))
        .map_err(sql)?;
    let page: i64 = source
        .query_row("PRAGMA page_size", [], |r| r.get(0))
        .map_err(sql)?;
    let _tables: i64 = source
        .query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))
        .map_err(sql)?;
    room(folder(part), pages.unsigned_abs() * page.unsigned_abs())?;
    let mut target =
        Connection::open_with_flags(part, flags | OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql)?;
    // Nobody else knows the file and a half one is thrown away: it is synced once, when it is whole.
    target
        .execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")
        .map_err(sql)?;
    {
        let job = Backup::new(&source, &mut target).map_err(sql)?;
        loop {
            room(folder(from), free_min)?;
            let step = job.step(STEP).map_err(sql)?;
            let at = job.progress();
            let total = u64::from(at.pagecount.unsigned_abs());
            progress(
                total.saturating_sub(u64::from(at.remaining.unsigned_abs())),
                total,
            );
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
    }
    source.execute_batch("COMMIT").map_err(sql)?;
    // One file, without a log beside it; in this mode it can be read where nothing can be written.
    target
        .execute_batch(&format!(
            "PRAGMA journal_mode=DELETE; UPDATE node SET running = {}",
            schema::COPY
        ))
        .map_err(sql)?;
    target.close().map_err(|(_, e)| sql(e))
}

fn room(folder: &Path, need: u64) -> Result<(), BackupError> {
    match free_bytes(folder) {
        Some(free) if free < need => Err(BackupError::NoRoom {
            folder: folder.into(),
            free,
            need,
        }),
        _ => Ok(()),
    }
}

fn io(path: &Path, e: &std::io::Error) -> BackupError {
    BackupError::Io {
        path: path.into(),
        what: e.to_string(),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(|e| io(path, &e))
}

/// SHA-256 of a file, in hexadecimal.
fn checksum(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        context.update(chunk.get(..n).unwrap_or(&[]));
    }
    let sum = context.finish();
    Ok(sum.as_ref().iter().map(|b| format!("{b:02x}")).collect())
}

/// In the form that `sha256sum -c` reads. Before the copy has its name: a copy never stands without its checksum.
fn write_checksum(to: &Path, sum: &str) -> Result<(), BackupError> {
    let path = with_suffix(to, ".sha256");
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        writeln!(file, "{sum}  {name}")?;
        file.sync_all()
    };
    write().map_err(|e| io(&path, &e))
}

/// Whether a copy is as it was made; `None` where that cannot be told: no checksum beside it, or a daemon has been started
/// on it since.
pub(super) fn as_made(path: &Path) -> std::io::Result<Option<bool>> {
    let Ok(text) = std::fs::read_to_string(with_suffix(path, ".sha256")) else {
        return Ok(None);
    };
    if schema::is_wal(path)? {
        return Ok(None);
    }
    let wanted = text.split_whitespace().next().unwrap_or("");
    Ok(Some(checksum(path)?.eq_ignore_ascii_case(wanted)))
}
