//! The disk refuses: EIO and ENOSPC at every write, sync and cut of the store's files, one call after the other.
//!
//! Each trial lets the n-th call of one kind fail (once, or from then on) while one change is made, and looks at three
//! things: what was answered, what is served, and what a kill -9 at this moment would leave on the disk. A copy of the
//! database and its write-ahead log is just that, since nothing of the page cache is lost.

use std::path::Path;

use nix::sys::signal::Signal;
use rusqlite::{Connection, OptionalExtension};
use serde_json::json;

use super::common::injection::{can_inject, threads_of, Fault, Injection};
use super::common::{eventually, faults_in_full, Home, Reply, Server};
use super::table::Row;

/// What a client sees and the disk holds of one function: version and code.
pub(crate) type Held = Option<(u64, String)>;

/// A change of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Create,
    Update,
    Delete,
}

const CHANGES: [Change; 3] = [Change::Create, Change::Update, Change::Delete];

/// The threads that use the store.
const CONTROL: &str = "faas-control";

/// The kinds of calls by which the store changes its files.
pub(crate) const CALLS: [&str; 3] = ["pwrite64", "fsync,fdatasync", "ftruncate"];

/// Makes the function be there, or not be there, so that the change can be made.
fn prepare(server: &Server, name: &str, change: Change) {
    let is_there = served(server, name).is_some();
    if is_there && change == Change::Create {
        assert_eq!(server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
    } else if !is_there && change != Change::Create {
        assert_eq!(server.post("/functions", &json!({ "name": name, "code": code("0") }).to_string()).status, 201);
    }
}

/// Asks for the change, to this code.
fn ask(server: &Server, name: &str, change: Change, code: &str) -> Reply {
    match change {
        Change::Create => server.post("/functions", &json!({ "name": name, "code": code }).to_string()),
        Change::Update => server.call("PUT", &format!("/functions/{name}"), &json!({ "code": code }).to_string()),
        Change::Delete => server.call("DELETE", &format!("/functions/{name}"), ""),
    }
}

/// What is there when the change has been made.
fn after(before: &Held, change: Change, code: &str) -> Held {
    match (change, before) {
        (Change::Create, _) => Some((1, code.to_owned())),
        (Change::Update, Some((version, _))) => Some((version + 1, code.to_owned())),
        (Change::Update, None) => panic!("nothing to update"),
        (Change::Delete, _) => None,
    }
}

/// Code that answers with this word.
pub(crate) fn code(word: &str) -> String {
    format!("def handle(request):\n    return '{word}'\n")
}

/// The answer of that code.
fn word(code: &str) -> String {
    code.trim().rsplit(' ').next().unwrap().replace('\'', "\"")
}

/// What the server says that it serves.
pub(crate) fn served(server: &Server, name: &str) -> Held {
    let reply = server.get(&format!("/functions/{name}"));
    if reply.status == 404 {
        return None;
    }
    assert_eq!(reply.status, 200, "{}", reply.text());
    let function = reply.json();
    Some((function["version"].as_u64().unwrap(), function["code"].as_str().unwrap().to_owned()))
}

/// What a server would find that starts after a kill -9 at this moment.
fn stored(home: &Home, name: &str) -> Held {
    let read = || ["faas.db", "faas.db-wal"].map(|file| std::fs::read(home.state().join(file)).unwrap_or_default());
    // The log is emptied behind the answer: the two must be of one moment.
    let [database, log] = eventually("files that nobody writes", || {
        let first = read();
        (read() == first).then_some(first)
    });
    let copy = Home::new();
    let path = copy.path().join("faas.db");
    std::fs::write(&path, database).unwrap();
    std::fs::write(copy.path().join("faas.db-wal"), log).unwrap();
    look_up(&path, name)
}

fn look_up(database: &Path, name: &str) -> Held {
    let database = Connection::open(database).unwrap();
    let sound: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let sql = "SELECT v.version, v.code FROM functions f JOIN versions v \
               ON v.name = f.name AND v.version = f.current_version WHERE f.name = ?1";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?));
    database.query_row(sql, [name], row).optional().unwrap()
}

/// How often the server has said that it could not empty the log.
fn emptied_in_vain(server: &Server) -> usize {
    server.home.log().matches("the store's log cannot be emptied").count()
}

/// Waits until the log has been emptied, or not, behind an answer.
fn await_emptied(server: &Server, in_vain: usize) {
    eventually("the log is emptied, or cannot be", || {
        let size = std::fs::metadata(server.home.state().join("faas.db-wal")).map_or(0, |file| file.len());
        (size == 0 || emptied_in_vain(server) > in_vain).then_some(())
    });
}

/// How many trials there were, and what came of them.
#[derive(Debug, Default)]
struct Tally {
    trials: u64,
    calls_failed: usize,
    refused: usize,
    made: usize,
    wrong: u64,
}

impl Tally {
    fn judge(&mut self, is_right: bool, otherwise: impl FnOnce() -> String) {
        if !is_right {
            eprintln!("{}", otherwise());
            self.wrong += 1;
        }
    }
}

/// One change while calls fail. Gives whether a call failed at all: if not, there are no more calls of this kind.
fn trial(server: &Server, change: Change, fault: Fault, tally: &mut Tally) -> bool {
    let (name, code) = ("f", &code(&tally.trials.to_string()));
    prepare(server, name, change);
    let what = format!("{change:?} with {fault:?}");
    let before = served(server, name);
    let wanted = after(&before, change, code);
    let refusals = emptied_in_vain(server);
    let injection = Injection::into(&threads_of(server, CONTROL), &[fault]);
    let reply = ask(server, name, change, code);
    await_emptied(server, refusals);
    let (now, on_disk) = (served(server, name), stored(&server.home, name));
    let failed = injection.end();
    tally.trials += 1;
    tally.calls_failed += failed;
    if reply.status < 300 {
        tally.made += 1;
        tally
            .judge((&now, &on_disk) == (&wanted, &wanted), || format!("{what} was acknowledged: {now:?}, {on_disk:?}"));
    } else {
        tally.refused += 1;
        let detail = reply.refused(503, "not_stored");
        assert!(reply.header("retry-after").is_some(), "{what}");
        let is_old = (&now, &on_disk) == (&before, &before);
        tally.judge(is_old, || format!("{what} was refused ({detail}): {now:?}, {on_disk:?}, and it was {before:?}"));
        let answer = server.invoke(name, "");
        let is_old = match &before {
            Some((_, code)) => answer.text() == word(code),
            None => answer.status == 404,
        };
        tally.judge(is_old, || format!("after {what}, which was refused, the answer is {}", answer.text()));
        // The disk is well again, and so is the server.
        let reply = ask(server, name, change, code);
        let is_new =
            reply.status < 300 && (served(server, name), stored(&server.home, name)) == (wanted.clone(), wanted);
        tally.judge(is_new, || format!("after {what}, when nothing fails any more: {}", reply.text()));
    }
    failed > 0
}

#[test]
fn no_call_of_the_disk_that_fails_costs_more_than_the_change() {
    let Some(mut row) = Row::of("EIO and ENOSPC at every write, sync and cut of the store") else { return };
    if !can_inject() {
        return;
    }
    let server = Server::with("pool_size: 2", "");
    let mut tally = Tally::default();
    for change in CHANGES {
        for calls in CALLS {
            // Until there is no n-th call any more. In the small size each is tried in one way, and all ways in turn.
            let mut first = 1;
            loop {
                let all = [("EIO", false), ("ENOSPC", true), ("ENOSPC", false), ("EIO", true)];
                let ways = if faults_in_full() { &all[..] } else { std::slice::from_ref(&all[first % all.len()]) };
                let faults = ways.iter().map(|&(errno, lasting)| Fault { calls, errno, first, lasting });
                // All of them are tried: each change takes the same calls, and one may be the last that fails.
                if faults.filter(|&fault| trial(&server, change, fault, &mut tally)).count() == 0 {
                    break;
                }
                first += 1;
            }
        }
    }
    row.note(format!("{} changes with {} calls that failed", tally.trials, tally.calls_failed));
    row.note(format!("{} acknowledged, {} refused", tally.made, tally.refused));
    row.exactly("acknowledged and not durable, refused and made, or another version served", tally.wrong, 0);
    let log = server.home.log();
    row.holds("no panic", !log.contains("panicked"));
    let (home, _) = server.end(Signal::SIGKILL);
    let kept = stored(&home, "f");
    row.holds("the same after kill -9", served(&Server::on(home), "f") == kept);
    row.end();
}

/// The last word about a change that may be in the log and cannot be taken out of it.
#[test]
fn a_change_that_the_disk_leaves_in_doubt_is_said_to_be_and_is_undone_when_the_disk_is_well() {
    let Some(mut row) = Row::of("the disk fails for good in the middle of a commit") else { return };
    if !can_inject() {
        return;
    }
    let server = Server::with("pool_size: 2", "");
    server.deploy("f", &code("old"), json!({}));
    let calls = calls_of_an_update(&server);
    let before = served(&server, "f");
    // All pages are written, then the sync fails, and nothing can be written any more.
    let fault = |calls, first| Fault { calls, errno: "EIO", first, lasting: true };
    let dead = [fault("fsync,fdatasync", 1), fault("pwrite64", calls + 1)];
    let update = |server: &Server| ask(server, "f", Change::Update, &code("new")).refused(503, "not_stored");

    let injection = Injection::into(&threads_of(&server, CONTROL), &dead);
    row.holds("the answer says so", update(&server).contains("if the server crashes now"));
    row.holds("the old one is served", served(&server, "f") == before);
    row.holds("more changes are refused", server.call("DELETE", "/functions/none", "").status == 503);
    injection.end();
    row.holds("a change of nothing is answered again", server.call("DELETE", "/functions/none", "").status == 404);
    row.holds("and has undone the other", stored(&server.home, "f") == before);

    let injection = Injection::into(&threads_of(&server, CONTROL), &dead);
    update(&server);
    let (home, _) = server.end(Signal::SIGKILL);
    drop(injection);
    let server = Server::on(home);
    let now = served(&server, "f");
    row.holds("after kill -9 it is the one or the other, whole", {
        now == before || now == after(&before, Change::Update, &code("new"))
    });
    row.holds(
        "which is the one that answers",
        now.is_some_and(|(_, code)| word(&code) == server.invoke("f", "").text()),
    );
    row.end();
}

/// How many pieces the store writes for an update before it syncs them.
fn calls_of_an_update(server: &Server) -> usize {
    await_emptied(server, emptied_in_vain(server));
    // Never comes.
    let fault = |calls| Fault { calls, errno: "EIO", first: 60_000, lasting: false };
    let injection = Injection::into(&threads_of(server, CONTROL), &[fault("pwrite64"), fault("fsync,fdatasync")]);
    assert_eq!(ask(server, "f", Change::Update, &code("counted")).status, 200);
    // What empties the log behind the answer writes and syncs, too, and is not to be counted, here or by who comes next.
    await_emptied(server, emptied_in_vain(server));
    let trace = injection.trace();
    trace.lines().take_while(|line| !line.contains("sync(")).filter(|line| line.contains("pwrite64(")).count()
}
