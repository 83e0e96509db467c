//! Opening a store file: whose it is, whether it is whole, and that nobody else writes to it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::schema;
use crate::store::StoreError;

/// Why a store was not opened. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file exists and is no SQLite database.
    #[error("{0} is not a SQLite database; it was left untouched. Point [store] path at another file")]
    NotSqlite(PathBuf),
    /// A SQLite database of another program.
    #[error(
        "{0} is a database of another program; it was left untouched. Point [store] path at another file"
    )]
    Foreign(PathBuf),
    /// Written by a newer release.
    #[error("{0} was written by a newer release (schema {1}); install that release, or restore a backup")]
    Newer(PathBuf, i64),
    /// Another daemon has it.
    #[error("{0} is in use by another smsconnect daemon; stop that one first")]
    InUse(PathBuf),
    /// Its write-ahead log is gone, or it is an older copy: acknowledged messages and payments may be missing.
    #[error(
        "{0} is older than its last start: its -wal file is gone, or it was put back from a copy. Put the newest {0} and {0}-wal \
         back; to go on with what is here, knowing that what was acknowledged since may be missing: smsconnect serve --accept-older-store"
    )]
    Older(PathBuf),
    /// Database and write-ahead log are of two stores.
    #[error(
        "{0} and its -wal file are not of one store, or .lock is of another one: files have been mixed up. Put back those that \
         belong together; to go on with what is here, whosever it is: smsconnect serve --accept-older-store"
    )]
    Mixed(PathBuf),
    /// Damage found by the checks at start.
    #[error("{path} is damaged ({what}); restore a backup, nothing was changed")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What the check said.
        what: String,
    },
    /// Folder missing, no permission, disk full …
    #[error("cannot open {path}: {what}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        what: String,
    },
}

/// Keeps a second daemon out for as long as it lives, and remembers beside the database what it must know of itself: a
/// database whose own epoch is older has lost its write-ahead log, or was put back from a copy; and SQLite takes any log that
/// lies beside a database for its own, even one of another store.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// What is remembered beside the database.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// The newest epoch that was ever taken here; 0 if none is on record.
    pub epoch: u32,
    /// The store's own number, drawn at its first start; 0 if it has none yet. While a daemon runs it is in `node.running`,
    /// and so in every log: each commit writes that page.
    pub store: i64,
}

impl Lock {
    /// Reads the note.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> std::io::Result<Note> {
        let mut text = [0u8; 64];
        let n = self.file.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(text.get(..n).unwrap_or(&[]));
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        Ok(Note {
            epoch: field("epoch ").and_then(|n| n.parse().ok()).unwrap_or(0),
            store: field("store ").and_then(|n| n.parse().ok()).unwrap_or(0),
        })
    }

    /// Notes an epoch that is on record in the database, and the store's number before it is.
    ///
    /// # Errors
    /// The file cannot be written or synced.
    pub fn note(&self, note: Note) -> std::io::Result<()> {
        let text = format!("epoch {:<10}\nstore {:<19}\n", note.epoch, note.store);
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.sync_data()
    }
}

/// How long a write waits for a lock that somebody else holds (a backup tool) before it counts as refused.
pub const BUSY: Duration = Duration::from_secs(5);

/// Takes `<path>.lock`. A file of its own, since closing any descriptor of the database would drop SQLite's own locks.
pub fn lock(path: &Path) -> Result<Lock, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let io = |e: &dyn std::fmt::Display| OpenError::Io {
        path: PathBuf::from(&name),
        what: e.to_string(),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|e| io(&e))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(path.into())),
        Err(std::fs::TryLockError::Error(e)) => Err(io(&e)),
    }
}

/// Reads the first 100 octets before SQLite may touch the file (SQLite file format §1.3).
pub fn inspect(path: &Path) -> Result<(), OpenError> {
    let mut header = Vec::with_capacity(100);
    match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            return Err(OpenError::Io {
                path: path.into(),
                what: e.to_string(),
            });
        }
        Ok(file) => {
            let read = file.take(100).read_to_end(&mut header);
            read.map_err(|e| OpenError::Io {
                path: path.into(),
                what: e.to_string(),
            })?;
        }
    }
    if header.is_empty() || (header.iter().all(|octet| *octet == 0) && unborn(path)) {
        return Ok(());
    }
    if !header.starts_with(b"SQLite format 3\0") || header.len() < 100 {
        return Err(OpenError::NotSqlite(path.into()));
    }
    let field = |at: usize| {
        header
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map_or(0, i32::from_be_bytes)
    };
    if field(68) != schema::APPLICATION_ID {
        return Err(OpenError::Foreign(path.into()));
    }
    let version = i64::from(field(60));
    if version > schema::MIGRATIONS.len() as i64 {
        return Err(OpenError::Newer(path.into(), version));
    }
    Ok(())
}

/// Whether a rollback journal says that the file was empty before a transaction that has not ended: the power went while
/// the schema was being written, before anything could be acknowledged. SQLite empties the file again (SQLite file format
/// §3: magic, then at 16 the size of the database in pages).
fn unborn(path: &Path) -> bool {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let mut name = path.as_os_str().to_owned();
    name.push("-journal");
    let mut header = [0u8; 20];
    let read = File::open(name).and_then(|file| file.read_exact_at(&mut header, 0));
    read.is_ok() && header.starts_with(&MAGIC) && header.ends_with(&[0; 4])
}

/// Opens or creates the write connection.
pub fn connect(path: &Path, full: bool) -> Result<Connection, OpenError> {
    let io = |what: String| OpenError::Io {
        path: path.into(),
        what,
    };
    if !path.exists() {
        // SQLite gives -wal and -shm the permissions of the database.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| io(e.to_string()))?;
    }
    let mut conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|e| io(e.to_string()))?;
    // Until the store has passed every check: closing would move the log into the main file, and delete it.
    keep_log_on_close(&conn, true).map_err(|e| io(e.to_string()))?;
    conn.busy_timeout(BUSY).map_err(|e| io(e.to_string()))?;
    // The schema goes in under the rollback journal: until that transaction is whole the file is empty, and from then on
    // its header carries our application_id.
    let known = schema::migrate(&mut conn).map_err(|e| damaged(path, &e))?;
    if !known {
        return Err(OpenError::Newer(path.into(), -1));
    }
    let sync = if full { "FULL" } else { "NORMAL" };
    conn.execute_batch(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous={sync}; PRAGMA wal_autocheckpoint=0;
         PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-65536; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0;
         PRAGMA foreign_keys=OFF; PRAGMA trusted_schema=OFF;"
    ))
    .map_err(|e| damaged(path, &e))?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// Whether closing the connection leaves the log alone.
pub fn keep_log_on_close(conn: &Connection, keep: bool) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep)
        .map(|_| ())
}

/// The checks at an unclean start that must pass before anything is served: every table is there, and each wallet equals its base plus
/// the ledger's tail. The whole file is checked in the background afterwards.
pub fn check_now(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    let fail = |what: String| OpenError::Damaged {
        path: path.into(),
        what,
    };
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name IN ('node','account','wallet','ledger','segment','carried','carried_sent','carried_mark','outbox','parked','payment','payout','price','tariff_version','billing_line','usage')", [], |r| r.get(0))
        .map_err(|e| damaged(path, &e))?;
    if tables != 16 {
        return Err(fail("tables are missing".into()));
    }
    let wrong = wallets_off(conn).map_err(|e| damaged(path, &e))?;
    if wrong != 0 {
        return Err(fail(format!("{wrong} wallets do not equal their ledger")));
    }
    Ok(())
}

/// How many wallets do not equal their base plus the ledger rows after it. One pass over the tail of the ledger.
pub(super) fn wallets_off(conn: &Connection) -> rusqlite::Result<usize> {
    let mut wallets: HashMap<u32, (i64, i64)> = conn
        .prepare("SELECT account, balance - base, base_entry FROM wallet")?
        .query_map([], |r| Ok((r.get(0)?, (r.get(1)?, r.get(2)?))))?
        .collect::<rusqlite::Result<_>>()?;
    let mut tail = conn.prepare(
        "SELECT entry, account, CASE WHEN credit IN ('wallet', 'held') THEN amount ELSE 0 END
                              - CASE WHEN debit IN ('wallet', 'held') THEN amount ELSE 0 END
         FROM ledger WHERE entry > (SELECT COALESCE(MIN(base_entry), 0) FROM wallet)",
    )?;
    let mut rows = tail.query([])?;
    while let Some(r) = rows.next()? {
        let (entry, account, delta): (i64, u32, i64) = (r.get(0)?, r.get(1)?, r.get(2)?);
        if let Some((left, base_entry)) = wallets.get_mut(&account)
            && entry > *base_entry
        {
            *left = left.wrapping_sub(delta);
        }
    }
    Ok(wallets.values().filter(|(left, _)| *left != 0).count())
}

fn damaged(path: &Path, error: &rusqlite::Error) -> OpenError {
    match super::classify(error) {
        StoreError::Fatal(what) => OpenError::Damaged {
            path: path.into(),
            what,
        },
        other => OpenError::Io {
            path: path.into(),
            what: other.to_string(),
        },
    }
}
