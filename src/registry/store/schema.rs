//! The tables, and how an older database becomes one of today.
//!
//! A migration is never edited once released: the list only grows. `user_version` counts how many have run.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// Entry `n` leads from schema version `n` to `n + 1`.
///
/// `functions` is small and says which version is current; the large rows are in `versions`, so that damage to one
/// code does not hide the names of the others. `seal` (see `row::seal`) stands in both: `functions` must not be able
/// to point at an older version without being noticed, and an older version must be checkable on its own.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE functions (
        name TEXT NOT NULL PRIMARY KEY,
        current_version INTEGER NOT NULL CHECK (current_version >= 1),
        created_at_ms INTEGER NOT NULL,
        seal BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE versions (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
        version INTEGER NOT NULL CHECK (version >= 1),
        code TEXT NOT NULL,
        code_sha256 TEXT NOT NULL,
        config TEXT NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        seal BLOB NOT NULL,
        UNIQUE (name, version)
    ) STRICT;
"];

/// The schema version that this release writes.
pub const CURRENT: i64 = MIGRATIONS.len() as i64;

/// Brings the database to [`CURRENT`]. Each step is one transaction, so a crash leaves a version that is known.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::from_sqlite(path, source);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let done = usize::try_from(found).ok().filter(|done| *done <= MIGRATIONS.len());
    let Some(done) = done else {
        return Err(StoreError::SchemaTooNew { path: path.to_path_buf(), found, known: CURRENT });
    };
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(sql).map_err(failed)?;
        transaction.pragma_update(None, "user_version", step as i64 + 1).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
