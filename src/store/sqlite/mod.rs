//! SQLite as the store: WAL, one write connection, group commit, append-only journal tables cut into segments.

mod open;
mod read;
mod recover;
mod schema;
mod seal;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rusqlite::{Connection, ErrorCode};

use super::{
    AccountId, Batch, BatchId, Fence, Message, MessageKey, OutboxRow, Owned, Pos, Progress, Record, Store,
    StoreError, Topup, UpstreamId,
};
pub use open::OpenError;
pub use read::{Check, Line, Reader, Stored};

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
    live_pos: u64,
    sealing: Option<seal::Sealing>,
    waiting: Vec<(i64, Pos)>,
    _lock: open::Lock,
}

/// Pages in the log before they are moved into the main file. Small, because moving them is a pause (about 5 ms each
/// 400 pages) that the next commit waits for.
const CHECKPOINT_PAGES: i32 = 400;
/// A log this long (64 MiB) is cut off whole, so that a spike does not stay on disk.
const TRUNCATE_PAGES: i32 = 16_384;

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
            live_pos: 0,
            sealing: None,
            waiting: Vec::new(),
            _lock: lock,
        };
        store.find_segments().map_err(|e| OpenError::Damaged {
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
                let sql = format!("SELECT COUNT(*) FROM accepted_{number}");
                self.live_rows = self.conn.query_row(&sql, [], |r| r.get::<_, i64>(0))? as u64;
            }
            Err(rusqlite::Error::QueryReturnedNoRows) => {
                let tx = self.conn.transaction()?;
                self.live = schema::open_segment(&tx, 0)?;
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
        self.take_over().map_err(fault)
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

    fn load(
        &mut self,
        keys: &[MessageKey],
        out: &mut dyn FnMut(MessageKey, Message),
    ) -> Result<(), StoreError> {
        recover::load(&self.conn, keys, out)
    }

    fn load_outbox(
        &mut self,
        account: AccountId,
        after: Pos,
        max: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        recover::load_outbox(&self.conn, account, after, max)
    }

    fn find_topup(&mut self, provider: &str, receipt: &str) -> Result<Option<Topup>, StoreError> {
        read::find_topup(&self.conn, provider, receipt).map_err(fault)
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < CHECKPOINT_PAGES {
            return Ok(());
        }
        let mode = if pages > TRUNCATE_PAGES {
            "TRUNCATE"
        } else {
            "PASSIVE"
        };
        match self
            .conn
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
        {
            Ok(()) => Ok(()),
            Err(e) => match fault(e) {
                // The log keeps what could not be moved; it is tried again after the next commit.
                StoreError::Full(_) | StoreError::Retry(_) => Ok(()),
                other => Err(other),
            },
        }
    }

    fn maintain(&mut self, fence: Fence, now_ms: u64) -> Result<Progress, StoreError> {
        seal::maintain(self, fence, now_ms)
    }

    fn sealing(&self) -> Option<Pos> {
        self.waiting.first().map(|(_, pos)| *pos)
    }

    fn backlog(&self) -> usize {
        self.waiting.len()
    }

    fn free_bytes(&self) -> Option<u64> {
        let folder = self
            .options
            .path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let stat = nix::sys::statvfs::statvfs(folder).ok()?;
        Some((stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64))
    }

    fn release(&mut self, fence: Fence) -> Result<(), StoreError> {
        let done = self.conn.execute(
            "UPDATE node SET running = 0 WHERE shard = ?1 AND epoch = ?2",
            (i64::from(fence.shard), i64::from(fence.epoch)),
        );
        match done.map_err(fault)? {
            1 => self
                .conn
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .map_err(fault),
            _ => Err(StoreError::Fenced),
        }
    }
}
