//! State that has changed on the disk since it was written: flipped bits, lost sectors, files that end early. Each seed is
//! one damage to what a kill -9 left, and one start on it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::json;

use super::common::{command, eventually, Home, Random, Server};
use super::table::{sized, Row};

const FUNCTIONS: u64 = 6;
const SECTOR: usize = 512;
/// What belongs to the database.
const FILES: [&str; 3] = ["faas.db", "faas.db-wal", "faas.db-shm"];

/// Damages a file in one of four ways.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) -> &'static str {
    match random.below(4) {
        0 => {
            let position = random.below(bytes.len());
            bytes[position] ^= 1 << random.below(8);
            "a flipped bit"
        }
        1 => {
            for _ in 0..8 {
                let position = random.below(bytes.len());
                bytes[position] ^= 1 << random.below(8);
            }
            "eight flipped bits"
        }
        2 => {
            let begin = random.below(bytes.len()) / SECTOR * SECTOR;
            let end = (begin + SECTOR).min(bytes.len());
            bytes[begin..end].fill(0);
            "a lost sector"
        }
        _ => {
            bytes.truncate(random.below(bytes.len()));
            "an early end"
        }
    }
}

/// What a version of a function answers; the code is long enough to need pages of its own.
fn answer(function: u64, version: u64) -> u64 {
    function * 100 + version
}

fn code(function: u64, version: u64) -> String {
    let comment = format!("# {function} {version}\n").repeat(600);
    format!("{comment}def handle(request):\n    return {}\n", answer(function, version))
}

/// A server that has made so many versions of each function, killed; the log is emptied behind each, or never.
fn killed(versions: u64, keeps_log: bool) -> Home {
    let server = Server::with("pool_size: 2", "");
    server.deploy("f0", &code(0, 1), json!({}));
    // Who reads the database keeps the log in use.
    let reader = Connection::open(server.home.state().join("faas.db")).unwrap();
    if keeps_log {
        reader.execute_batch("BEGIN; SELECT count(*) FROM functions").unwrap();
    }
    for function in 1..FUNCTIONS {
        server.deploy(&format!("f{function}"), &code(function, 1), json!({}));
    }
    for version in 2..=versions {
        for function in 0..FUNCTIONS {
            let body = json!({ "code": code(function, version) }).to_string();
            assert_eq!(server.call("PUT", &format!("/functions/f{function}"), &body).status, 200);
        }
    }
    let log = || std::fs::metadata(server.home.state().join("faas.db-wal")).unwrap().len();
    eventually("the log as it should be", || ((log() > 0) == keeps_log).then_some(()));
    let (home, _) = server.end(Signal::SIGKILL);
    // The reader is the last to go now, and would tidy up.
    let files: Vec<_> =
        FILES.map(|file| (home.state().join(file), std::fs::read(home.state().join(file)).unwrap())).into();
    drop(reader);
    files.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    home
}

/// What became of a start.
#[derive(Debug, Default)]
struct Starts {
    refused: u64,
    functions_served: u64,
    functions_refused: u64,
    /// Of the served, those of an earlier version.
    functions_older: u64,
    /// Functions that are neither served nor named.
    lost: u64,
    wrong: u64,
    unclear: u64,
}

impl Starts {
    /// Starts a server and looks at each function; `latest` is the version that it should have.
    fn start(&mut self, home: Home, what: &str, latest: u64) -> Home {
        let said = home.log().len();
        let command = command(&home);
        match Server::try_launch(home, command) {
            Err((home, status)) => {
                self.refuse(&home.log()[said..], status, &home.state(), what);
                home
            }
            Ok(server) => {
                for function in 0..FUNCTIONS {
                    self.look(&server, function, said, what, latest);
                }
                let (home, _) = server.end(Signal::SIGKILL);
                let log = &home.log()[said..];
                self.unclear += u64::from(log.contains("panicked"));
                home
            }
        }
    }

    fn refuse(&mut self, said: &str, status: ExitStatus, state: &Path, what: &str) {
        self.refused += 1;
        let names_it = said.contains("faas: ") && said.contains(state.join("faas.db").to_str().unwrap());
        if status.code() != Some(1) || !names_it || said.contains("panicked") {
            eprintln!("{what}: {status}, {said}");
            self.unclear += 1;
        }
    }

    fn look(&mut self, server: &Server, function: u64, said: usize, what: &str, latest: u64) {
        let name = format!("f{function}");
        let reply = server.invoke(&name, "");
        if reply.status == 200 {
            self.functions_served += 1;
            let found = reply.json().as_u64();
            let version = (1..=latest).find(|&version| found == Some(answer(function, version)));
            self.functions_older += u64::from(version.is_some_and(|version| version < latest));
            if version.is_none() {
                eprintln!("{what}: {name} answers {}", reply.text());
                self.wrong += 1;
            }
        } else if server.home.log()[said..].contains(&format!("function {name} is not served")) {
            self.functions_refused += 1;
        } else {
            eprintln!("{what}: {name} is neither served nor named: {}", reply.text());
            self.lost += 1;
        }
    }
}

/// Starts on as many damages of one file as there are seeds.
fn starts(home: Home, file: &str, latest: u64, seeds: u64) -> (Home, Starts) {
    let files: Vec<PathBuf> = FILES.map(|name| home.state().join(name)).into();
    let sound: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap_or_default()).collect();
    let restore = || files.iter().zip(&sound).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    let (mut home, mut starts) = (home, Starts::default());
    for seed in 0..seeds {
        restore();
        let path = home.state().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let how = damage(&mut bytes, &mut Random(seed));
        std::fs::write(&path, bytes).unwrap();
        home = starts.start(home, &format!("{how} in {file}, seed {seed}"), latest);
    }
    restore();
    (home, starts)
}

/// Whether a server serves this version of all functions.
fn has_all(home: Home, version: u64) -> bool {
    let server = Server::on(home);
    (0..FUNCTIONS).all(|function| server.answer(&format!("f{function}"), "") == answer(function, version))
}

#[test]
fn a_damaged_database_costs_the_functions_that_are_damaged_or_is_refused_whole() {
    let Some(mut row) = Row::of("flipped bits, lost sectors, early ends of the database") else { return };
    let seeds = sized(200, 8);
    let (home, starts) = starts(killed(2, false), "faas.db", 2, seeds);
    row.note(format!("{seeds} starts, {} refused whole", starts.refused));
    row.note(format!("functions: {} served, {} refused by name", starts.functions_served, starts.functions_refused));
    row.exactly("wrong or older code run", starts.wrong + starts.functions_older, 0);
    row.exactly("lost without a word", starts.lost, 0);
    row.exactly("panics and unclear refusals", starts.unclear, 0);
    row.holds("all is there when the file is", has_all(home, 2));
    row.end();
}

/// The log is empty unless the server was killed in the moment behind a change, or while somebody read the database, as
/// here. Where a damaged log ends cannot be told from where a crash cut it short, so that what it held may be gone.
#[test]
fn a_damaged_log_that_a_reader_kept_in_use_runs_nothing_that_was_not_deployed() {
    let Some(mut row) = Row::of("the same of the write-ahead log, killed while a backup reads") else { return };
    let seeds = sized(100, 5);
    let (home, starts) = starts(killed(3, true), "faas.db-wal", 3, seeds);
    row.note(format!("{seeds} starts, {} refused whole", starts.refused));
    row.note(format!("functions: {} served, {} refused by name", starts.functions_served, starts.functions_refused));
    row.note(format!("of the served, {} older ones; {} gone", starts.functions_older, starts.lost));
    row.exactly("wrong code run", starts.wrong, 0);
    row.exactly("panics and unclear refusals", starts.unclear, 0);
    row.holds("all is there when the log is", has_all(home, 3));
    row.end();
}
