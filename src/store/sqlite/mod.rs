//! SQLite as the store: WAL, one write connection, group commit, append-only journal tables cut into segments.

mod backup;
mod money;
mod open;
mod read;
mod recover;
mod rules;
mod schema;
mod seal;
mod verify;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::{
    Accepted, AccountId, Batch, BatchId, Fence, MessageKey, OutboxRow, Owned, Payment, Payout, Pos, Progress,
    Record, Store, StoreError, UpstreamId,
};
use crate::kill;
pub use backup::{BackupError, backup};
pub use money::{Check, HeldFor, Line, Statement};
pub use open::OpenError;
pub use read::{Reader, Stored};
pub use verify::{FAULTS_MAX, Report, verify};

/// How the store is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file.
    pub path: PathBuf,
    /// `synchronous=FULL`: on disk before the answer. Otherwise NORMAL: survives a crash of the daemon, not of the power.
    pub full: bool,
    /// Messages in a segment before a new one is opened.
    pub segment_messages: u64,
    /// Closed messages older than this many days are removed; 0: kept.
    pub keep_days: u32,
    /// Go on with a database that is older than its last start, or whose log is of another store (see [`OpenError::Older`],
    /// [`OpenError::Mixed`]).
    pub accept_older: bool,
}

/// The write connection and what it knows of the live segment.
#[derive(Debug)]
pub struct SqliteStore {
    conn: Connection,
    options: Options,
    /// Pages in the write-ahead log, told by SQLite after each commit.
    wal_pages: Arc<AtomicI32>,
    live: i64,
    live_rows: u64,
    /// When its first message was accepted, ms since the epoch; 0 while it has none.
    live_opened_ms: u64,
    live_pos: u64,
    sealing: Option<seal::Sealing>,
    scratch: seal::Scratch,
    waiting: Vec<(i64, Pos)>,
    /// Where looking for old rows in stored outboxes goes on.
    outbox_cursor: (i64, i64),
    /// Sealed segments may still have journal tables.
    leftovers: bool,
    /// Pages in the log at which cutting it off is tried next.
    truncate_at: i32,
    /// The last checkpoint found no room; said once.
    stuck: bool,
    /// The newest epoch ever taken here, on record or not, and the store's number.
    noted: open::Note,
    lock: open::Lock,
}

/// Octets of a page of a new database.
const PAGE: u64 = 4096;
/// Pages in the log before they are moved into the main file. Small, because moving them is a pause (about 5 ms each
/// 400 pages) that the next commit waits for.
const CHECKPOINT_PAGES: i32 = 400;
/// A log this long (64 MiB) is cut off whole when no reader is in the way, so that a spike does not stay on disk.
const TRUNCATE_PAGES: i32 = 16_384;
/// Cutting is tried again once the log has grown by so much: a reader that holds on must not cost every commit a try.
const TRUNCATE_AGAIN: i32 = 1_024;

impl SqliteStore {
    /// Opens or creates the store at `options.path`.
    ///
    /// # Errors
    /// [`OpenError`]; the file is left as it was.
    pub fn open(options: Options) -> Result<SqliteStore, OpenError> {
        let path = options.path.clone();
        let lock = open::lock(&path)?;
        open::inspect(&path)?;
        let mut conn = open::connect(&path, options.full)?;
        open::check_now(&conn, &path)?;
        let noted = note(&conn, &lock, &options)?;
        let wal_pages = Arc::new(AtomicI32::new(0));
        let told = Arc::clone(&wal_pages);
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            told.store(pages, Ordering::Relaxed);
            Ok(())
        }))
        .map_err(|e| OpenError::Io {
            path: path.clone(),
            what: e.to_string(),
        })?;
        let mut store = SqliteStore {
            conn,
            options,
            wal_pages,
            live: 0,
            live_rows: 0,
            live_opened_ms: 0,
            live_pos: 0,
            sealing: None,
            scratch: seal::Scratch::default(),
            waiting: Vec::new(),
            outbox_cursor: (-1, 0),
            leftovers: true,
            truncate_at: TRUNCATE_PAGES,
            stuck: false,
            noted,
            lock,
        };
        let opened = store
            .find_segments()
            .and_then(|()| open::keep_log_on_close(&store.conn, false));
        opened.map_err(|e| OpenError::Damaged {
            path,
            what: e.to_string(),
        })?;
        Ok(store)
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// Upstreams that rows may name.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn known(&self) -> Result<HashMap<String, UpstreamId>, StoreError> {
        let read = || -> rusqlite::Result<_> {
            self.conn
                .prepare("SELECT name, id FROM upstream")?
                .query_map([], |r| Ok((r.get(0)?, UpstreamId(r.get(1)?))))?
                .collect()
        };
        read().map_err(fault)
    }

    /// Moves the log into the main file. Never waits for a reader: it would hold up every commit.
    fn move_log(&self, cut: bool) -> rusqlite::Result<()> {
        if !cut {
            return self
                .conn
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        self.conn.busy_timeout(Duration::ZERO)?;
        let done = self
            .conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.conn.busy_timeout(open::BUSY)?;
        done
    }

    /// Which of our kinds an error of the write connection is. Unlike [`classify`] it can ask what the system said: a write
    /// that failed with EIO is a failing disk, not a quota.
    fn fault(&self, error: rusqlite::Error) -> StoreError {
        // SAFETY: the handle belongs to `self.conn`, which is open, and the call only reads a number from it.
        let errno = unsafe { rusqlite::ffi::sqlite3_system_errno(self.conn.handle()) };
        match classify(&error) {
            StoreError::Full(text) if errno == nix::errno::Errno::EIO as i32 => StoreError::Fatal(text),
            kind => kind,
        }
    }

    fn find_segments(&mut self) -> rusqlite::Result<()> {
        let live = self
            .conn
            .query_row("SELECT number, rows FROM segment WHERE state = 0", [], |r| {
                Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?))
            });
        match live {
            Ok((number, _)) => {
                self.live = number;
                // The count in the catalogue is written when a segment fills up; the live one is counted here.
                let sql = format!("SELECT COUNT(*), COALESCE(MIN(at), 0) FROM accepted_{number}");
                let (rows, opened): (i64, i64) =
                    self.conn.query_row(&sql, [], |r| Ok((r.get(0)?, r.get(1)?)))?;
                self.live_rows = rows as u64;
                self.live_opened_ms = opened as u64;
            }
            Err(rusqlite::Error::QueryReturnedNoRows) => {
                let tx = self.conn.transaction()?;
                self.live = schema::open_segment(&tx)?;
                tx.commit()?;
            }
            Err(e) => return Err(e),
        }
        let mut stmt = self
            .conn
            .prepare("SELECT number, last_pos FROM segment WHERE state = 1 ORDER BY number")?;
        self.waiting = stmt
            .query_map([], |r| Ok((r.get(0)?, Pos(r.get::<_, i64>(1)? as u64))))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(())
    }
}

/// What holds of the store, from the database and from what was noted beside it.
fn note(conn: &Connection, lock: &open::Lock, options: &Options) -> Result<open::Note, OpenError> {
    let io = |what: String| OpenError::Io {
        path: options.path.clone(),
        what,
    };
    let noted = lock.read().map_err(|e| io(e.to_string()))?;
    let (epoch, running): (u32, i64) = conn
        .query_row("SELECT epoch, running FROM node WHERE shard = 0", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .map_err(|e| io(e.to_string()))?;
    // 0 and 1 are no numbers: ended in good order, and left by a release that drew none. A copy says of itself that it is one:
    // whoever put it here knows that it is older, and it gets a number of its own.
    let copy = running == schema::COPY;
    let ours = running <= schema::COPY || noted.store == 0 || running == noted.store;
    if noted.epoch > epoch && !copy && !options.accept_older {
        return Err(OpenError::Older(options.path.clone()));
    }
    if !ours && !options.accept_older {
        return Err(OpenError::Mixed(options.path.clone()));
    }
    Ok(open::Note {
        epoch: noted.epoch.max(epoch),
        store: match running {
            schema::COPY => 0,
            n if n > schema::COPY => n,
            _ => noted.store,
        },
    })
}

/// Octets that an ordinary user can still write in a folder; `None` if the system cannot tell.
fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    Some((stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64))
}

/// Which of our kinds an SQLite error is.
pub(super) fn classify(error: &rusqlite::Error) -> StoreError {
    let text = error.to_string();
    let rusqlite::Error::SqliteFailure(e, _) = error else {
        return StoreError::Fatal(text);
    };
    match e.code {
        ErrorCode::DiskFull => StoreError::Full(text),
        // A refused write (quota, file size limit) leaves the file as it was; SQLite reports it as an I/O error.
        ErrorCode::SystemIoFailure
            if matches!(
                e.extended_code,
                rusqlite::ffi::SQLITE_IOERR_WRITE
                    | rusqlite::ffi::SQLITE_IOERR_SHMSIZE
                    | rusqlite::ffi::SQLITE_IOERR_TRUNCATE
            ) =>
        {
            StoreError::Full(text)
        }
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Retry(text),
        ErrorCode::ReadOnly => StoreError::Fatal(format!(
            "{text}: check the owner and mode of the file and its folder"
        )),
        _ => StoreError::Fatal(text),
    }
}

pub(super) fn fault(error: rusqlite::Error) -> StoreError {
    classify(&error)
}

impl Store for SqliteStore {
    fn acquire(&mut self) -> Result<Owned, StoreError> {
        self.take_over()
    }

    fn commit(&mut self, fence: Fence, batch: &Batch) -> Result<(), StoreError> {
        self.write(fence, batch)
    }

    fn committed(&mut self, id: BatchId) -> Result<bool, StoreError> {
        // A later epoch can only be one that a batch of this owner has taken: the lock keeps every other owner out.
        let found = self.conn.query_row(
            "SELECT count(*) FROM node WHERE shard = 0 AND (epoch > ?1 OR (epoch = ?1 AND batch >= ?2))",
            (i64::from(id.epoch), id.number as i64),
            |r| r.get::<_, i64>(0),
        );
        found.map(|n| n == 1).map_err(fault)
    }

    fn recover(&mut self, out: &mut dyn FnMut(Record<'_>)) -> Result<(), StoreError> {
        recover::recover(&self.conn, out)
    }

    fn open_rows(&mut self, keys: &[MessageKey], out: &mut dyn FnMut(Accepted)) -> Result<(), StoreError> {
        recover::open_rows(&self.conn, keys, out)
    }

    fn load_outbox(
        &mut self,
        account: AccountId,
        after: Pos,
        max: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        recover::load_outbox(&self.conn, account, after, max)
    }

    fn expire_outbox(&mut self, before_ms: u64) -> Result<Vec<(AccountId, bool)>, StoreError> {
        let (next, gone) =
            recover::expire_outbox(&self.conn, self.outbox_cursor, before_ms).map_err(|e| self.fault(e))?;
        self.outbox_cursor = next;
        Ok(gone)
    }

    fn find_payment(&mut self, provider: &str, receipt: &str) -> Result<Option<Payment>, StoreError> {
        money::find_payment(&self.conn, provider, receipt).map_err(fault)
    }

    fn find_payout(&mut self, reference: &str) -> Result<Option<Payout>, StoreError> {
        money::find_payout(&self.conn, reference).map_err(fault)
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < CHECKPOINT_PAGES {
            self.truncate_at = TRUNCATE_PAGES;
            return Ok(());
        }
        let cut = pages > self.truncate_at;
        kill::point("checkpoint.before");
        let done = self.move_log(cut);
        kill::point("checkpoint.after");
        if cut {
            self.truncate_at = pages + TRUNCATE_AGAIN;
        }
        match done.map_err(|e| self.fault(e)) {
            Ok(()) => {
                if std::mem::take(&mut self.stuck) {
                    tracing::info!("the write-ahead log moves into the store again");
                }
                Ok(())
            }
            // The log keeps what could not be moved; it is tried again after the next commit.
            Err(error @ (StoreError::Full(_) | StoreError::Retry(_))) => {
                if !std::mem::replace(&mut self.stuck, true) {
                    tracing::warn!(%error, "the write-ahead log cannot be moved into the store; it grows until it can");
                }
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    fn log_bytes(&self) -> u64 {
        u64::from(self.wal_pages.load(Ordering::Relaxed).unsigned_abs()) * PAGE
    }

    fn maintain(&mut self, fence: Fence, now_ms: u64) -> Result<Progress, StoreError> {
        seal::maintain(self, fence, now_ms)
    }

    fn sealing(&self) -> Option<Pos> {
        self.waiting.first().map(|(_, pos)| *pos)
    }

    fn backlog(&self) -> usize {
        self.waiting.len() + usize::from(self.leftovers)
    }

    fn free_bytes(&self) -> Option<u64> {
        let folder = self
            .options
            .path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        free_bytes(folder)
    }

    fn release(&mut self, fence: Fence) -> Result<(), StoreError> {
        let done = self.conn.execute(
            "UPDATE node SET running = 0 WHERE shard = ?1 AND epoch = ?2",
            (i64::from(fence.shard), i64::from(fence.epoch)),
        );
        match done.map_err(fault)? {
            // Everything is on record already; what stays in the log is moved at the next start.
            1 => {
                let _moved = self.move_log(true);
                Ok(())
            }
            _ => Err(StoreError::Fenced),
        }
    }
}
