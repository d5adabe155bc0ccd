use super::*;
use crate::registry::testing::{config, image_id};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

fn new(name: &str, code: &str) -> NewFunction {
    let (name, code) = (name.to_string(), code.to_string());
    NewFunction { name, code, config: config(), image_id: Some(image_id('a')), now_ms: 1000 }
}

fn update(store: &mut Store, name: &str, expected: u64, code: &str) -> Result<FunctionVersion, StoreError> {
    store.update(name, expected, code.to_string(), config(), Some(image_id('b')), 2000)
}

/// The store's directory inside a temporary one, so that the store makes it itself.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("state/faas");
    (root, dir)
}

/// Opens the closed database behind the store's back.
fn tamper(dir: &Path) -> Connection {
    let connection = Connection::open(dir.join("faas.db")).unwrap();
    connection.pragma_update(None, "ignore_check_constraints", true).unwrap();
    connection
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.functions.iter().map(|function| function.name.as_str()).collect()
}

#[test]
fn what_was_stored_is_loaded_again_field_by_field() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    let b = store.create(new("b", "code é \0 of b")).unwrap();
    store.create(new("a", "old")).unwrap();
    let a = update(&mut store, "a", 1, "new").unwrap();
    assert_eq!((a.version, a.created_at_ms, a.updated_at_ms, a.code.as_str()), (2, 1000, 2000, "new"));
    drop(store);
    let loaded = Store::open(&dir).unwrap().load_all().unwrap();
    assert_eq!(loaded.functions, [a, b]);
    assert!(loaded.refused.is_empty());
}

#[test]
fn a_name_is_taken_once_until_it_is_deleted() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.create(new("f", "first")).unwrap();
    assert!(matches!(store.create(new("f", "second")), Err(StoreError::Exists { name }) if name == "f"));
    assert_eq!(store.load_all().unwrap().functions[0].code, "first");
    update(&mut store, "f", 1, "third").unwrap();
    assert!(store.delete("f").unwrap());
    assert!(!store.delete("f").unwrap());
    assert_eq!(store.create(new("f", "fourth")).unwrap().version, 1);
    let versions: i64 = store.connection.query_row("SELECT count(*) FROM versions", [], |row| row.get(0)).unwrap();
    assert_eq!(versions, 1, "a deleted function leaves no version behind");
}

#[test]
fn of_two_updates_to_the_same_version_one_wins() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.create(new("f", "1")).unwrap();
    update(&mut store, "f", 1, "2").unwrap();
    for stale in [0, 1, 3, u64::MAX] {
        let error = update(&mut store, "f", stale, "late").unwrap_err();
        assert!(matches!(error, StoreError::Conflict { expected, found: 2, .. } if expected == stale), "{error}");
    }
    assert!(matches!(update(&mut store, "g", 1, "x"), Err(StoreError::NotFound { .. })));
    assert_eq!(store.load_all().unwrap().functions[0].code, "2");
}

#[test]
fn the_last_ten_versions_are_kept() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.create(new("f", "1")).unwrap();
    store.create(new("other", "1")).unwrap();
    for version in 1..25 {
        update(&mut store, "f", version, &format!("{}", version + 1)).unwrap();
    }
    let sql = "SELECT min(version), max(version), count(*) FROM versions WHERE name = ?1";
    let kept = |name: &str| -> (i64, i64, i64) {
        store.connection.query_row(sql, [name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
    };
    assert_eq!((kept("f"), kept("other")), ((16, 25, 10), (1, 1, 1)));
}

#[test]
fn a_clock_that_was_set_back_does_not_put_an_update_before_the_creation() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.create(new("f", "1")).unwrap();
    assert_eq!(store.update("f", 1, "2".to_string(), config(), None, 5).unwrap().updated_at_ms, 1000);
}

#[test]
fn a_commit_is_synced_before_it_is_acknowledged() {
    let (_root, dir) = directory();
    let store = Store::open(&dir).unwrap();
    let pragma = |name| store.connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
    assert_eq!(pragma("journal_mode").unwrap(), "wal".to_string().into());
    assert_eq!(pragma("synchronous").unwrap(), 2.into());
    assert_eq!(pragma("foreign_keys").unwrap(), 1.into());
}

#[test]
fn a_second_server_on_the_directory_is_refused_and_told_who_holds_it() {
    let (_root, dir) = directory();
    let first = Store::open(&dir).unwrap();
    let error = Store::open(&dir).unwrap_err();
    assert!(matches!(error, StoreError::Locked { holder_pid: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains(&format!("{}", dir.display())), "{error}");
    std::fs::write(dir.join("lock"), "no number").unwrap();
    assert!(matches!(Store::open(&dir), Err(StoreError::Locked { holder_pid: None, .. })));
    drop(first);
    Store::open(&dir).unwrap();
}

#[test]
fn nobody_else_may_read_or_write_what_the_store_keeps() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.create(new("f", "code")).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["faas.db", "faas.db-wal", "faas.db-shm", "lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    drop(store);
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(Store::open(&dir), Err(StoreError::Exposed { mode: 0o770, .. })));
}

#[test]
fn a_file_in_the_directorys_place_is_refused() {
    let (root, _) = directory();
    let path = root.path().join("file");
    std::fs::write(&path, "").unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::NotADirectory { .. })));
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (_root, dir) = directory();
    Store::open(&dir).unwrap().create(new("f", "code")).unwrap();
    tamper(&dir).pragma_update(None, "user_version", schema::CURRENT + 1).unwrap();
    let error = Store::open(&dir).unwrap_err();
    assert!(matches!(error, StoreError::SchemaTooNew { .. }), "{error}");
    tamper(&dir).pragma_update(None, "user_version", schema::CURRENT).unwrap();
    assert_eq!(Store::open(&dir).unwrap().load_all().unwrap().functions.len(), 1);
}

#[test]
fn a_changed_row_is_refused_by_name_and_the_rest_is_served() {
    type Reason = fn(&RefusalReason) -> bool;
    let code_changed: Reason = |reason| matches!(reason, RefusalReason::CodeChanged);
    let row_changed: Reason = |reason| matches!(reason, RefusalReason::RowChanged);
    let missing: Reason = |reason| matches!(reason, RefusalReason::VersionMissing { .. });
    let heading_missing: Reason = |reason| matches!(reason, RefusalReason::HeadingMissing);
    let unreadable: Reason = |reason| matches!(reason, RefusalReason::Unreadable { .. });
    for (sql, expected) in [
        ("UPDATE versions SET code = 'import evil' WHERE name = 'b'", code_changed),
        ("UPDATE versions SET code = substr(code, 1, 3) WHERE name = 'b'", code_changed),
        ("UPDATE versions SET code = CAST(x'ff' AS TEXT) WHERE name = 'b'", unreadable),
        ("UPDATE versions SET code_sha256 = upper(code_sha256) WHERE name = 'b'", code_changed),
        ("UPDATE versions SET config = replace(config, '1500', '1501') WHERE name = 'b'", row_changed),
        ("UPDATE versions SET updated_at_ms = 7 WHERE name = 'b'", row_changed),
        ("UPDATE functions SET created_at_ms = -7 WHERE name = 'b'", row_changed),
        ("UPDATE functions SET seal = x'00' WHERE name = 'b'", row_changed),
        ("UPDATE functions SET current_version = 1 WHERE name = 'b'", row_changed),
        ("UPDATE functions SET current_version = 3 WHERE name = 'b'", missing),
        ("UPDATE functions SET current_version = -1 WHERE name = 'b'", missing),
        ("DELETE FROM versions WHERE name = 'b' AND version = 2", missing),
        ("PRAGMA foreign_keys = OFF; DELETE FROM functions WHERE name = 'b'", heading_missing),
    ] {
        let (_root, dir) = directory();
        let mut store = Store::open(&dir).unwrap();
        for name in ["a", "b", "c"] {
            store.create(new(name, &format!("code of {name}"))).unwrap();
            update(&mut store, name, 1, &format!("second code of {name}")).unwrap();
        }
        drop(store);
        tamper(&dir).execute_batch(sql).unwrap();

        let mut store = Store::open(&dir).unwrap();
        let loaded = store.load_all().unwrap();
        assert_eq!(names(&loaded), ["a", "c"], "{sql}");
        let [Refused { name, reason }] = &loaded.refused[..] else { panic!("{sql}: {loaded:?}") };
        assert!(name == "b" && expected(reason), "{sql}: {reason}");
        assert!(matches!(store.create(new("b", "again")), Err(StoreError::Exists { .. })), "{sql}");
        assert!(store.delete("b").unwrap(), "a refused function can be deleted: {sql}");
        assert_eq!(store.create(new("b", "again")).unwrap().version, 1);
    }
}

#[test]
fn damage_anywhere_in_the_file_changes_nothing_that_is_served_and_hides_nothing() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    for number in 0..20 {
        store.create(new(&format!("f{number}"), &format!("# {number}\n").repeat(400))).unwrap();
    }
    let intact: BTreeMap<_, _> =
        store.load_all().unwrap().functions.into_iter().map(|function| (function.name.clone(), function)).collect();
    drop(store);
    let file = dir.join("faas.db");
    let bytes = std::fs::read(&file).unwrap();
    let (mut refused, mut unopened) = (0, 0);
    // A prime stride visits every kind of place: page headers, cell pointers, record headers, overflow pages, free space.
    for position in (100..bytes.len()).step_by(151) {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1 << (position % 8);
        std::fs::write(&file, damaged).unwrap();
        match Store::open(&dir).and_then(|store| store.load_all()) {
            Err(StoreError::Corrupt { .. } | StoreError::Sqlite { .. } | StoreError::SchemaTooNew { .. }) => {
                unopened += 1
            }
            Err(error) => panic!("byte {position}: {error}"),
            Ok(loaded) => {
                refused += loaded.refused.len();
                let refused_names = loaded.refused.iter().map(|refused| refused.name.clone());
                let mut told: BTreeSet<_> = refused_names.collect();
                for function in loaded.functions {
                    assert_eq!(intact.get(&function.name), Some(&function), "byte {position}");
                    assert!(told.insert(function.name), "byte {position}: both served and refused");
                }
                assert!(intact.keys().all(|name| told.contains(name)), "byte {position}: one is lost without a word");
            }
        }
    }
    assert!(refused > 0 && unopened > 0, "{refused} refused, {unopened} times not opened");
}

#[test]
fn a_damaged_database_says_what_to_do() {
    for damaged in [&b"this is not a database, but long enough to be taken for one"[..], &[0xff; 8192]] {
        let (_root, dir) = directory();
        drop(Store::open(&dir).unwrap());
        std::fs::write(dir.join("faas.db"), damaged).unwrap();
        let error = Store::open(&dir).unwrap_err();
        assert!(
            matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains("restore a backup"),
            "{error}"
        );
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_the_old_version() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.create(new("f", "old")).unwrap();
    let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    store.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let large = "x".repeat(100_000);
    assert!(matches!(update(&mut store, "f", 1, &large), Err(StoreError::DiskFull { .. })));
    assert!(matches!(store.create(new("g", &large)), Err(StoreError::DiskFull { .. })));
    let loaded = store.load_all().unwrap();
    assert_eq!((names(&loaded), loaded.functions[0].code.as_str()), (vec!["f"], "old"));
    store.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
    assert_eq!(update(&mut store, "f", 1, &large).unwrap().version, 2, "the store goes on when there is space again");
}

#[test]
fn a_database_that_another_process_holds_is_busy() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    let other = tamper(&dir);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(store.create(new("f", "code")), Err(StoreError::Busy { .. })));
    other.execute_batch("ROLLBACK").unwrap();
    store.create(new("f", "code")).unwrap();
}

#[test]
fn a_thousand_functions_are_loaded() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.connection.pragma_update(None, "synchronous", "OFF").unwrap();
    for number in 0..1000 {
        store.create(new(&format!("f{number:04}"), &format!("# {number}"))).unwrap();
    }
    let loaded = store.load_all().unwrap();
    assert_eq!((loaded.functions.len(), loaded.refused.len()), (1000, 0));
    assert!(loaded.functions.is_sorted_by(|a, b| a.name < b.name));
}

const CHILD_DIRECTORY: &str = "FAAS_TEST_STORE_CHILD_DIRECTORY";
const CHILD_ROUND: &str = "FAAS_TEST_STORE_CHILD_ROUND";
const GONE: u64 = 3;

fn code_of(name: &str, version: u64) -> String {
    format!("# {name} {version}\n").repeat(50)
}

/// Not a test of its own: what the next test kills. It makes each function, updates it, deletes every third, and says
/// so after each step.
#[test]
fn child_of_the_kill_test() {
    let (Ok(dir), Ok(round)) = (std::env::var(CHILD_DIRECTORY), std::env::var(CHILD_ROUND)) else { return };
    let mut store = Store::open(Path::new(&dir)).unwrap();
    let mut out = std::io::stderr();
    for number in 0.. {
        let name = format!("r{round}-{number}");
        store.create(new(&name, &code_of(&name, 1))).unwrap();
        writeln!(out, "done {name} 1").unwrap();
        update(&mut store, &name, 1, &code_of(&name, 2)).unwrap();
        writeln!(out, "done {name} 2").unwrap();
        if number % 3 == 0 {
            store.delete(&name).unwrap();
            writeln!(out, "done {name} {GONE}").unwrap();
        }
    }
}

#[test]
fn no_acknowledged_change_is_lost_when_the_server_is_killed() {
    let (_root, dir) = directory();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "registry::store::tests::child_of_the_kill_test", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIRECTORY, &dir)
            .env(CHILD_ROUND, round.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut last = None;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut acknowledge = |line: String| {
            let mut words = line.split(' ');
            let (Some("done"), Some(name), Some(step)) = (words.next(), words.next(), words.next()) else {
                panic!("the child failed: {line}");
            };
            acknowledged.insert(name.to_string(), step.parse().unwrap());
            last = Some(name.to_string());
        };
        // Another number of steps in every round, so that the blow falls on each kind of step.
        lines.by_ref().take(5 + 7 * round).for_each(&mut acknowledge);
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(&mut acknowledge);

        let loaded = Store::open(&dir).unwrap().load_all().unwrap();
        assert!(loaded.refused.is_empty(), "{:?}", loaded.refused);
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for function in loaded.functions {
            assert_eq!(function.code, code_of(&function.name, function.version), "{}", function.name);
            found.insert(function.name, function.version);
        }
        for (name, step) in &acknowledged {
            let found = found.remove(name).unwrap_or(GONE);
            // The step after the last acknowledged one may have been committed when the blow fell.
            let in_flight = Some(name) == last.as_ref() && found == step + 1;
            assert!(found == *step || in_flight, "{name}: acknowledged {step}, found {found}");
        }
        for (name, version) in found {
            assert_eq!(version, 1, "{name} was never acknowledged: only its creation can have been in flight");
            acknowledged.insert(name, 1);
        }
        if let Some(name) = last {
            // What became of the step in flight is settled now; later rounds must find it unchanged.
            let functions = Store::open(&dir).unwrap().load_all().unwrap().functions;
            let version = functions.iter().find(|function| function.name == name).map(|function| function.version);
            acknowledged.insert(name, version.unwrap_or(GONE));
        }
    }
}

#[test]
fn the_log_is_emptied_on_request_and_nobody_who_reads_is_waited_for() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    let log_bytes = || std::fs::metadata(dir.join("faas.db-wal")).unwrap().len();
    store.create(new("f", "code")).unwrap();
    assert!(log_bytes() > 0);
    assert!(store.empty_log().unwrap());
    assert_eq!(log_bytes(), 0);
    // Somebody reads, and what is read stays as it was.
    let reader = tamper(&dir);
    reader.execute_batch("BEGIN; SELECT * FROM functions").unwrap();
    let count = || reader.query_row("SELECT count(*) FROM functions", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 1);
    store.create(new("g", "code")).unwrap();
    let begun = std::time::Instant::now();
    assert!(!store.empty_log().unwrap());
    assert!(begun.elapsed() < STORE_BUSY_TIMEOUT / 2, "{:?}", begun.elapsed());
    assert_eq!(count(), 1);
    reader.execute_batch("COMMIT").unwrap();
    assert!(store.empty_log().unwrap());
    assert_eq!((log_bytes(), count()), (0, 2));
}

#[test]
fn while_a_commit_is_in_doubt_even_a_change_of_nothing_writes_a_page_first() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    store.create(new("f", "code")).unwrap();
    store.empty_log().unwrap();
    let log_bytes = || std::fs::metadata(dir.join("faas.db-wal")).unwrap().len();
    assert!(!store.delete("none").unwrap());
    assert_eq!(log_bytes(), 0);
    store.in_doubt = true;
    assert!(!store.delete("none").unwrap());
    assert!(!store.in_doubt && log_bytes() > 0);
}

#[test]
fn only_what_has_changed_is_read_again() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    for name in ["same", "newer", "again", "gone"] {
        store.create(new(name, "first")).unwrap();
    }
    let known: BTreeMap<String, Arc<FunctionVersion>> = store
        .load_all()
        .unwrap()
        .functions
        .into_iter()
        .map(|function| (function.name.clone(), Arc::new(FunctionVersion { code: "known".to_owned(), ..function })))
        .collect();
    update(&mut store, "newer", 1, "second").unwrap();
    for name in ["again", "gone"] {
        assert!(store.delete(name).unwrap());
    }
    // Of the same number as the one before.
    store.create(NewFunction { now_ms: 1001, ..new("again", "first") }).unwrap();
    store.create(new("new", "first")).unwrap();
    let found = store.load_beyond(&|name| known.get(name).cloned()).unwrap().functions;
    let found: Vec<_> = found.iter().map(|function| (function.name.as_str(), function.code.as_str())).collect();
    assert_eq!(found, [("again", "first"), ("new", "first"), ("newer", "second"), ("same", "known")]);
}

#[test]
fn who_has_read_everything_knows_whether_another_has_written_since() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    assert!(!store.is_as_read(), "nothing was read");
    store.create(new("f", "1")).unwrap();
    let lock = store.share_lock().unwrap().give().try_clone_to_owned().unwrap();
    let other = Store::open_beside(&dir, lock).unwrap();
    for code in ["2", "3"] {
        other.load_all().unwrap();
        assert!(other.is_as_read());
        let version = store.load_all().unwrap().functions[0].version;
        update(&mut store, "f", version, code).unwrap();
        assert!(!other.is_as_read(), "version {version} was replaced");
    }
    store.empty_log().unwrap();
    assert_eq!(other.load_all().unwrap().functions[0].code, "3");
    store.load_all().unwrap();
    store.create(new("g", "1")).unwrap();
    assert!(store.is_as_read(), "its own changes are known to whoever made them");
}

#[test]
fn a_lock_that_is_shared_is_held_until_the_last_who_has_it_is_gone() {
    let (root, dir) = directory();
    let store = Store::open(&dir).unwrap();
    let given = store.share_lock().unwrap();
    let other = given.give().try_clone_to_owned().unwrap();
    drop((store, given));
    assert!(matches!(Store::open(&dir), Err(StoreError::Locked { .. })), "another process may have it");
    // Which opens the store with it, and nobody with another file.
    let elsewhere = root.path().join("elsewhere");
    drop(Store::open(&elsewhere).unwrap());
    let foreign = Store::open_beside(&elsewhere, other.try_clone().unwrap());
    assert!(matches!(foreign, Err(StoreError::ForeignLock { .. })));
    let mut store = Store::open_beside(&dir, other).unwrap();
    store.create(new("f", "1")).unwrap();
    assert_eq!(names(&store.load_all().unwrap()), ["f"]);
}

#[test]
fn an_image_that_was_not_deployed_is_refused_like_code_that_was_not() {
    let (_root, dir) = directory();
    let mut store = Store::open(&dir).unwrap();
    let stored = store.create(new("f", "code")).unwrap();
    assert_eq!(stored.image_id, Some(image_id('a')));
    drop(store);
    let sql = "UPDATE versions SET config = replace(config, ?1, ?2)";
    let ids = [image_id('a'), image_id('b')].map(|id| id.to_string());
    assert_eq!(tamper(&dir).execute(sql, params![ids[0], ids[1]]).unwrap(), 1);
    let loaded = Store::open(&dir).unwrap().load_all().unwrap();
    assert!(loaded.functions.is_empty());
    assert!(matches!(loaded.refused[0].reason, RefusalReason::RowChanged));
}
