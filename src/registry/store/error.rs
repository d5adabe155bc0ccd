//! What can go wrong with the store, and what an operator can do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the store could not be opened, or did not do what it was asked to.
///
/// Whatever the variant, nothing was changed: the version that was current still is. Only [`StoreError::InDoubt`] cannot
/// say that of the time after a crash.
#[derive(Debug)]
pub enum StoreError {
    /// The storage path is something other than a directory.
    NotADirectory {
        /// The storage path.
        path: PathBuf,
    },
    /// The storage directory belongs to another user, who could change what runs.
    NotOwned {
        /// The storage directory.
        path: PathBuf,
        /// Its owner's uid.
        owner_uid: u32,
        /// The uid of this process.
        our_uid: u32,
    },
    /// The storage directory may be written by others, who could change what runs.
    Exposed {
        /// The storage directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file operation outside SQLite failed.
    Files {
        /// What was tried, as a verb phrase: `create directory`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server uses the directory.
    Locked {
        /// The storage directory.
        path: PathBuf,
        /// The other server's process id, if it could be read.
        holder_pid: Option<u32>,
    },
    /// The lock that another server sent is not that of this directory.
    ForeignLock {
        /// The lock that it should be.
        path: PathBuf,
    },
    /// The database was written by a newer release.
    SchemaTooNew {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest schema version that this release knows.
        known: i64,
    },
    /// The database file is damaged, or is no database.
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// There is no space left for the change.
    DiskFull {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file system refused to open, read, write or sync.
    Io {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A change failed when it was to be made durable, and could not be taken back: the next start may find it made.
    InDoubt {
        /// The database file.
        path: PathBuf,
        /// What SQLite said when it was to be taken back.
        source: rusqlite::Error,
    },
    /// Another process held the database for longer than the store waits.
    Busy {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The database or its file system may only be read.
    ReadOnly {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A constraint of the schema was violated: the row would not have been one that we write.
    Constraint {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// SQLite failed in a way that none of the above names.
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A function of that name exists.
    Exists {
        /// The name.
        name: String,
    },
    /// No function of that name exists.
    NotFound {
        /// The name.
        name: String,
    },
    /// The function has been changed since the caller read it.
    Conflict {
        /// The name.
        name: String,
        /// The version the caller built upon.
        expected: u64,
        /// The version that is current.
        found: u64,
    },
}

impl StoreError {
    /// Sorts an error of SQLite by what the caller can do about it.
    pub(super) fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt { path, source },
            Some(ErrorCode::DiskFull) => StoreError::DiskFull { path, source },
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::FileLockingProtocolFailed) => {
                StoreError::Io { path, source }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path, source },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly { path, source },
            Some(ErrorCode::ConstraintViolation) => StoreError::Constraint { path, source },
            _ => StoreError::Sqlite { path, source },
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NotADirectory { path } => {
                write!(f, "storage path {} is not a directory", path.display())
            }
            StoreError::NotOwned { path, owner_uid, our_uid } => write!(
                f,
                "storage directory {} belongs to uid {owner_uid}, but this server runs as uid {our_uid}: choose another \
                 function_storage_path, or change its owner",
                path.display()
            ),
            StoreError::Exposed { path, mode } => write!(
                f,
                "storage directory {} may be written by other users (mode {mode:04o}): choose another \
                 function_storage_path, or run chmod 700 on it",
                path.display()
            ),
            StoreError::Files { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            StoreError::Locked { path, holder_pid } => {
                write!(f, "storage directory {} is in use by another server", path.display())?;
                if let Some(pid) = holder_pid {
                    write!(f, ", process {pid}")?;
                }
                f.write_str(
                    ": start this one with --takeover to take its place without losing a request, stop that one, or \
                     choose another function_storage_path",
                )
            }
            StoreError::ForeignLock { path } => write!(
                f,
                "the lock that the running server sent is not {}: its state directory was replaced while it ran; stop it",
                path.display()
            ),
            StoreError::SchemaTooNew { path, found, known } => write!(
                f,
                "{} has schema version {found}, and this release knows versions up to {known}: run the newer release, \
                 or restore a backup made before the upgrade",
                path.display()
            ),
            StoreError::Corrupt { path, source } => write!(
                f,
                "{} is damaged ({source}): stop the server, move the file and its -wal and -shm companions aside, then \
                 restore a backup, or save what can be read with sqlite3's .recover command",
                path.display()
            ),
            StoreError::DiskFull { path, .. } => write!(f, "no space left to write {}", path.display()),
            StoreError::Io { path, source } => write!(f, "cannot read or write {}: {source}", path.display()),
            StoreError::InDoubt { path, source } => write!(
                f,
                "cannot write {}, and not take back what may have been written: {source}. A server that starts on it \
                 may find the last change made",
                path.display()
            ),
            StoreError::Busy { path, .. } => write!(f, "{} is held by another process", path.display()),
            StoreError::ReadOnly { path, source } => write!(f, "{} cannot be written: {source}", path.display()),
            StoreError::Constraint { path, source } | StoreError::Sqlite { path, source } => {
                write!(f, "the database {} refused a statement: {source}", path.display())
            }
            StoreError::Exists { name } => write!(f, "a function named {name} exists"),
            StoreError::NotFound { name } => write!(f, "there is no function named {name}"),
            StoreError::Conflict { name, expected, found } => {
                write!(f, "function {name} is at version {found}, not at version {expected}")
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Files { source, .. } => Some(source),
            StoreError::Corrupt { source, .. }
            | StoreError::DiskFull { source, .. }
            | StoreError::Io { source, .. }
            | StoreError::InDoubt { source, .. }
            | StoreError::Busy { source, .. }
            | StoreError::ReadOnly { source, .. }
            | StoreError::Constraint { source, .. }
            | StoreError::Sqlite { source, .. } => Some(source),
            StoreError::NotADirectory { .. }
            | StoreError::NotOwned { .. }
            | StoreError::Exposed { .. }
            | StoreError::Locked { .. }
            | StoreError::ForeignLock { .. }
            | StoreError::SchemaTooNew { .. }
            | StoreError::Exists { .. }
            | StoreError::NotFound { .. }
            | StoreError::Conflict { .. } => None,
        }
    }
}

/// Why a stored function is not served. It stays in the store until it is deleted.
#[derive(Debug)]
pub enum RefusalReason {
    /// The row could not be read.
    Unreadable {
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The function's current version is not in the store.
    VersionMissing {
        /// Which version that would be.
        version: i64,
    },
    /// There are versions of it, but nothing says which one is current.
    HeadingMissing,
    /// The code is not the code that was deployed.
    CodeChanged,
    /// Name, version, times, settings or digest are not those that were deployed.
    RowChanged,
    /// The settings are intact but in a form that this release does not read.
    Settings {
        /// What is wrong with them.
        source: serde_json::Error,
    },
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusalReason::Unreadable { source } => write!(f, "its row cannot be read: {source}"),
            RefusalReason::VersionMissing { version } => write!(f, "its version {version} is not in the database"),
            RefusalReason::HeadingMissing => write!(f, "the row that names its current version is lost"),
            RefusalReason::CodeChanged => write!(f, "its code does not match its SHA-256"),
            RefusalReason::RowChanged => write!(f, "its row does not match its seal"),
            RefusalReason::Settings { source } => write!(f, "its settings cannot be read: {source}"),
        }
    }
}

impl std::error::Error for RefusalReason {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RefusalReason::Unreadable { source } => Some(source),
            RefusalReason::Settings { source } => Some(source),
            RefusalReason::VersionMissing { .. }
            | RefusalReason::HeadingMissing
            | RefusalReason::CodeChanged
            | RefusalReason::RowChanged => None,
        }
    }
}
