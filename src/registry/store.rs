//! The durable home of functions: an SQLite database in a directory that one server owns.
//!
//! Owns the directory, its lock, the schema and every statement. Does not own what is served (`registry::snapshot`),
//! what is valid (`registry::settings`) or who may change it (`auth`). All methods block on the disk: they are for
//! control threads, which share one store under a mutex, and for the start of the server.
//!
//! Invariants:
//! - A method that changes something returns `Ok` after the change is on the disk (WAL, `synchronous=FULL`), and leaves
//!   everything as it was when it returns an error: at once, and after a crash unless that is [`StoreError::InDoubt`].
//! - What `load_all` returns is byte for byte what was deployed; whatever is not is refused by name.
//! - A version number is used once while its function exists. A function that was deleted is another one when it comes
//!   back, and starts at 1.
//!
//! The interface is this narrow (create, update, delete, load) because a second store, on PostgreSQL, shall have it.

mod directory;
mod error;
mod row;
mod schema;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{params, Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::function::{FunctionConfig, FunctionVersion};
use super::image::ImageId;
use crate::limits::{FUNCTION_VERSIONS_KEPT, STORE_BUSY_TIMEOUT};
use directory::DirectoryLock;
pub use directory::SharedLock;
pub use error::{RefusalReason, StoreError};
pub use row::code_sha256;
use row::Sealed;
pub use schema::CURRENT as SCHEMA;

/// An open store. The directory is this process's until the value is dropped.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// A commit failed and may yet be found in the write-ahead log; see [`Store::take_back`].
    in_doubt: bool,
    /// There may be something in the write-ahead log; see [`Store::empty_log`].
    log_in_use: bool,
    /// What SQLite called the content when it was last read whole; see [`Store::is_as_read`].
    read_version: Cell<Option<i64>>,
    // After the connection, because fields are dropped in order: the next server must find the database closed.
    lock: DirectoryLock,
}

/// A function that does not exist yet. Everything in it is valid.
#[derive(Debug, Clone)]
pub struct NewFunction {
    /// Its name.
    pub name: String,
    /// Its source.
    pub code: String,
    /// Its settings.
    pub config: FunctionConfig,
    /// What its image is, if it runs in containers.
    pub image_id: Option<ImageId>,
    /// The time, milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What was in the store when the server started. No name is in both lists.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The current version of every intact function, sorted by name.
    pub functions: Vec<FunctionVersion>,
    /// The others. Their names are taken until they are deleted.
    pub refused: Vec<Refused>,
}

/// A stored function that must not be served.
#[derive(Debug)]
pub struct Refused {
    /// Its name, as far as it can be read.
    pub name: String,
    /// What is wrong.
    pub reason: RefusalReason,
}

impl Store {
    /// Opens the store in `dir`, which is made if it is missing, and brings its schema up to date.
    ///
    /// Fails when another server uses the directory, when it is not ours alone, or when the database is damaged or newer
    /// than this release.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        Store::open_locked(dir, directory::claim(dir)?)
    }

    /// Opens the store of a server that still serves and has sent its lock, `lock`. Until that server has given the state
    /// up, nothing may be written here.
    ///
    /// # Errors
    /// As [`Store::open`]; when `lock` is not that of `dir`.
    pub fn open_beside(dir: &Path, lock: OwnedFd) -> Result<Store, StoreError> {
        let mut store = Store::open_locked(dir, directory::inherit(dir, lock)?)?;
        // Whether a commit of the other one failed is not known here; to write over it when writing begins is safe.
        store.in_doubt = true;
        Ok(store)
    }

    fn open_locked(dir: &Path, lock: DirectoryLock) -> Result<Store, StoreError> {
        let path = dir.join("faas.db");
        // SQLite would make the file with the umask's permissions; its companions take those of the file.
        directory::private_file(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |source| StoreError::from_sqlite(&path, source);
        let mut connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
        configure(&connection).map_err(failed)?;
        schema::migrate(&mut connection, &path)?;
        Ok(Store { connection, path, in_doubt: false, log_in_use: true, read_version: Cell::new(None), lock })
    }

    /// What a server that takes over is given of the directory's lock.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn share_lock(&self) -> std::io::Result<SharedLock> {
        self.lock.share()
    }

    /// Names this process as the directory's owner to whoever is refused.
    pub fn note_owner(&self) {
        self.lock.note_owner();
    }

    /// Stores version 1 of a function. Fails with [`StoreError::Exists`] when there is one of that name.
    pub fn create(&mut self, new: NewFunction) -> Result<FunctionVersion, StoreError> {
        let NewFunction { name, code, config, image_id, now_ms } = new;
        self.change(|transaction, failed| {
            if is_taken(transaction, &name).map_err(failed)? {
                return Err(StoreError::Exists { name });
            }
            let function = FunctionVersion {
                name,
                version: 1,
                code_sha256: code_sha256(&code),
                code,
                config,
                image_id,
                created_at_ms: now_ms,
                updated_at_ms: now_ms,
            };
            write_version(transaction, &function).map_err(failed)?;
            Ok(function)
        })
    }

    /// Stores the version after `expected_version`, and forgets the oldest beyond [`FUNCTION_VERSIONS_KEPT`].
    ///
    /// Fails with [`StoreError::Conflict`] when another version is current, so that two who merge their changes into
    /// the same version cannot both win.
    pub fn update(
        &mut self,
        name: &str,
        expected_version: u64,
        code: String,
        config: FunctionConfig,
        image_id: Option<ImageId>,
        now_ms: u64,
    ) -> Result<FunctionVersion, StoreError> {
        self.change(|transaction, failed| {
            let Some(current) = find(transaction, name).map_err(failed)? else {
                return Err(StoreError::NotFound { name: name.to_string() });
            };
            let found = current.version;
            if found != expected_version {
                return Err(StoreError::Conflict { name: name.to_string(), expected: expected_version, found });
            }
            let function = FunctionVersion {
                name: name.to_string(),
                version: found + 1,
                code_sha256: code_sha256(&code),
                code,
                config,
                image_id,
                created_at_ms: current.created_at_ms,
                // The clock may have been set back; the order of a function's own times is kept.
                updated_at_ms: now_ms.max(current.created_at_ms),
            };
            write_version(transaction, &function).map_err(failed)?;
            Ok(function)
        })
    }

    /// Removes a function with all its versions, intact or not. `false` when there is nothing of that name.
    pub fn delete(&mut self, name: &str) -> Result<bool, StoreError> {
        self.change(|transaction, failed| {
            // The versions on their own, too: damage may have left some without the row that the foreign key starts
            // from.
            let versions = transaction.execute("DELETE FROM versions WHERE name = ?1", [name]).map_err(failed)?;
            let functions = transaction.execute("DELETE FROM functions WHERE name = ?1", [name]).map_err(failed)?;
            Ok(versions + functions > 0)
        })
    }

    /// Makes a change in a transaction of its own. The change is given how to name an error of SQLite.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>, &dyn Fn(rusqlite::Error) -> StoreError) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.in_doubt {
            self.take_back()?;
        }
        let failed = |source| StoreError::from_sqlite(&self.path, source);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        self.log_in_use = true;
        let made = change(&transaction, &failed)?;
        let Err(error) = transaction.commit() else { return Ok(made) };
        self.in_doubt = may_be_whole(&error);
        let error = failed(error);
        if self.in_doubt {
            self.take_back()?;
        }
        Err(error)
    }

    /// Makes sure that a commit that failed is not found after a crash.
    ///
    /// When the last step of a commit fails, which is the sync, the change is whole in the write-ahead log, and whoever
    /// opens the database next takes it for made. SQLite has gone back to the state before, so that whatever it writes
    /// next goes over the change's place in the log; the checksums of the log are a chain, which breaks there. After a
    /// failed sync it would prove nothing to sync again: the kernel has dropped what it could not write, and calls the
    /// rest clean. What is written anew is synced anew.
    fn take_back(&mut self) -> Result<(), StoreError> {
        // Writes a page even if nothing in it is new.
        let written = self.connection.pragma_update(None, "user_version", schema::CURRENT);
        written.map_err(|source| StoreError::InDoubt { path: self.path.clone(), source })?;
        self.in_doubt = false;
        Ok(())
    }

    /// Moves what is in the write-ahead log into the database and cuts the log to nothing. Changes are durable without
    /// it. Gives whether the log is empty: while somebody else reads the database (a backup) it cannot be, and is not
    /// waited for.
    ///
    /// The log is where damage would go unnoticed. SQLite takes a frame with a flipped bit for the end of a log that was
    /// cut short by a crash, and drops what follows: changes that were acknowledged, and with them deletions. In the
    /// database the seals tell. So nothing stays in the log for longer than it must.
    pub fn empty_log(&mut self) -> Result<bool, StoreError> {
        if self.log_in_use {
            let failed = |source| StoreError::from_sqlite(&self.path, source);
            self.connection.busy_timeout(Duration::ZERO).map_err(failed)?;
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            let busy = self.connection.query_row(sql, [], |row| row.get::<_, bool>(0));
            self.connection.busy_timeout(STORE_BUSY_TIMEOUT).map_err(failed)?;
            self.log_in_use = busy.map_err(failed)?;
        }
        Ok(!self.log_in_use)
    }

    /// Whether there is anything of this name, intact or not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn holds(&self, name: &str) -> Result<bool, StoreError> {
        is_taken(&self.connection, name).map_err(|source| StoreError::from_sqlite(&self.path, source))
    }

    /// Reads and checks every function. Fails only when not even the names can be read.
    pub fn load_all(&self) -> Result<Loaded, StoreError> {
        self.load_beyond(&|_| None)
    }

    /// The same for one who has read it all before: what `known` gives in the very version that is stored, down to its
    /// seal, is taken from there, so that only what has changed is read and checked.
    ///
    /// # Errors
    /// As [`load_all`](Self::load_all).
    pub fn load_beyond(&self, known: &dyn Fn(&str) -> Option<Arc<FunctionVersion>>) -> Result<Loaded, StoreError> {
        let failed = |source| StoreError::from_sqlite(&self.path, source);
        // As it was at one moment, also while another server writes. It is only read, so its end changes nothing.
        let _moment = self.connection.unchecked_transaction().map_err(failed)?;
        self.read_version.set(self.data_version().ok());
        let mut functions = BTreeMap::new();
        let mut refused = BTreeMap::new();
        for heading in self.headings().map_err(failed)? {
            match heading.and_then(|heading| self.load(heading, known)) {
                Ok(function) => drop(functions.insert(function.name.clone(), function)),
                Err(Refused { name, reason }) => drop(refused.insert(name, reason)),
            }
        }
        match self.names_of_versions() {
            Ok(names) => {
                for name in names.into_iter().filter(|name| !functions.contains_key(name)) {
                    refused.entry(name).or_insert(RefusalReason::HeadingMissing);
                }
            }
            // The index that is damaged here is the one by which versions are found, so that those concerned are among
            // the refused already.
            Err(error) => log::warn!("cannot look for functions without a heading: {}", failed(error)),
        }
        // Damage to a name may have made it that of another function, which is intact.
        refused.retain(|name, _| !functions.contains_key(name));
        Ok(Loaded {
            functions: functions.into_values().collect(),
            refused: refused.into_iter().map(|(name, reason)| Refused { name, reason }).collect(),
        })
    }

    /// Whether nobody else has written since everything was read: then there is nothing to read again.
    pub fn is_as_read(&self) -> bool {
        self.read_version.get().is_some_and(|read| self.data_version().is_ok_and(|now| now == read))
    }

    /// A number that changes when another connection commits; our own commits leave it as it is.
    fn data_version(&self) -> rusqlite::Result<i64> {
        self.connection.query_row("PRAGMA data_version", [], |row| row.get(0))
    }

    /// The rows of `functions`; one that holds something else than it should is already refused.
    fn headings(&self) -> rusqlite::Result<Vec<Result<Heading, Refused>>> {
        let sql = "SELECT name, current_version, created_at_ms, seal FROM functions ORDER BY name";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            let name = row.get_ref(0)?.as_bytes_or_null().ok().flatten().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let heading = || -> rusqlite::Result<Heading> {
                Ok(Heading { name: row.get(0)?, version: row.get(1)?, created_at_ms: row.get(2)?, seal: row.get(3)? })
            };
            Ok(heading().map_err(|source| Refused { name, reason: RefusalReason::Unreadable { source } }))
        })?;
        rows.collect()
    }

    /// The names that have versions. Should be those of `functions`; one that is missing there was lost to damage, and
    /// must not be lost without a word.
    fn names_of_versions(&self) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.connection.prepare("SELECT DISTINCT name FROM versions")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.collect()
    }

    /// The version that `heading` names, if it is what was deployed.
    fn load(
        &self,
        heading: Heading,
        known: &dyn Fn(&str) -> Option<Arc<FunctionVersion>>,
    ) -> Result<FunctionVersion, Refused> {
        if let Some(known) = known(&heading.name).filter(|known| is_sealed_by(known, &heading.seal)) {
            return Ok((*known).clone());
        }
        match self.read_version(&heading) {
            Ok(function) => Ok(function),
            Err(reason) => Err(Refused { name: heading.name, reason }),
        }
    }

    fn read_version(&self, heading: &Heading) -> Result<FunctionVersion, RefusalReason> {
        let sql = "SELECT code, code_sha256, config, updated_at_ms FROM versions WHERE name = ?1 AND version = ?2";
        let row = self.connection.query_row(sql, params![heading.name, heading.version], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, i64>(3)?))
        });
        let row = row.optional().map_err(|source| RefusalReason::Unreadable { source })?;
        let (code, stored_sha256, config, updated_at_ms) =
            row.ok_or(RefusalReason::VersionMissing { version: heading.version })?;

        if code_sha256(&code) != stored_sha256 {
            return Err(RefusalReason::CodeChanged);
        }
        let sealed = Sealed {
            name: &heading.name,
            version: heading.version,
            created_at_ms: heading.created_at_ms,
            updated_at_ms,
            code_sha256: &stored_sha256,
            config: &config,
        };
        if sealed.digest() != heading.seal.as_slice() {
            return Err(RefusalReason::RowChanged);
        }
        let (config, image_id) = row::decode_config(&config).map_err(|source| RefusalReason::Settings { source })?;
        Ok(FunctionVersion {
            name: heading.name.clone(),
            version: from_sql(heading.version),
            code,
            code_sha256: stored_sha256,
            config,
            image_id,
            created_at_ms: from_sql(heading.created_at_ms),
            updated_at_ms: from_sql(updated_at_ms),
        })
    }
}

/// Whether this is the version that a heading with this seal names.
fn is_sealed_by(function: &FunctionVersion, seal: &[u8]) -> bool {
    let config = row::encode_config(&function.config, function.image_id.as_ref());
    config.is_ok_and(|config| sealed(function, &config).digest() == seal)
}

/// What the seal of a version covers, with its encoded config.
fn sealed<'a>(function: &'a FunctionVersion, config: &'a str) -> Sealed<'a> {
    Sealed {
        name: &function.name,
        version: to_sql(function.version),
        created_at_ms: to_sql(function.created_at_ms),
        updated_at_ms: to_sql(function.updated_at_ms),
        code_sha256: &function.code_sha256,
        config,
    }
}

/// A row of `functions`.
struct Heading {
    name: String,
    version: i64,
    created_at_ms: i64,
    seal: Vec<u8>,
}

/// What a change needs to know of the version it follows.
struct Current {
    version: u64,
    created_at_ms: u64,
}

/// Sets what SQLite forgets when a connection is closed, and the journal mode, which it keeps.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(STORE_BUSY_TIMEOUT)?;
    // A damaged page is reported when it is read, and not first when a cell of it turns out to lie outside.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // The log is emptied whole by `Store::empty_log`, or not at all.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // FULL syncs the write-ahead log at every commit; NORMAL, the usual companion of WAL, would lose the last changes
    // at a power cut after we had acknowledged them.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Answers with the mode that is now in force: where WAL cannot be had the rollback journal, which is as durable.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)).map(drop)
}

/// Whether a commit that failed like this may have left everything in the write-ahead log that it takes. It has not when
/// a piece of it could not be written.
fn may_be_whole(error: &rusqlite::Error) -> bool {
    let is_torn = |error: &rusqlite::ffi::Error| {
        error.code == ErrorCode::DiskFull || error.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE
    };
    !error.sqlite_error().is_some_and(is_torn)
}

/// Of a damaged function there may be only one of the two; its name is taken all the same.
fn is_taken(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM functions WHERE name = ?1 UNION ALL SELECT 1 FROM versions WHERE name = ?1)";
    connection.query_row(sql, [name], |row| row.get(0))
}

fn find(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<Option<Current>> {
    let sql = "SELECT current_version, created_at_ms FROM functions WHERE name = ?1";
    let current =
        |row: &rusqlite::Row<'_>| Ok(Current { version: from_sql(row.get(0)?), created_at_ms: from_sql(row.get(1)?) });
    transaction.query_row(sql, [name], current).optional()
}

/// Adds `function` as the current version of its name.
fn write_version(transaction: &Transaction<'_>, function: &FunctionVersion) -> rusqlite::Result<()> {
    let config = row::encode_config(&function.config, function.image_id.as_ref())
        .map_err(|source| rusqlite::Error::ToSqlConversionFailure(Box::new(source)))?;
    let sealed = sealed(function, &config);
    let seal = sealed.digest();
    let Sealed { version, created_at_ms, updated_at_ms, code_sha256, .. } = sealed;
    transaction.execute(
        "INSERT INTO functions (name, current_version, created_at_ms, seal) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET current_version = excluded.current_version, seal = excluded.seal",
        params![function.name, version, created_at_ms, seal],
    )?;
    transaction.execute(
        "INSERT INTO versions (name, version, code, code_sha256, config, updated_at_ms, seal)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![function.name, version, function.code, code_sha256, config, updated_at_ms, seal],
    )?;
    transaction.execute(
        "DELETE FROM versions WHERE name = ?1 AND version <= ?2",
        params![function.name, version - to_sql(FUNCTION_VERSIONS_KEPT)],
    )?;
    Ok(())
}

/// SQLite's integers are signed. Versions and times stay below 2^63 for the next 290 million years.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A negative number is in no row that we wrote; where one is, the seal says so.
fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
