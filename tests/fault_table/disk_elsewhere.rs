//! The disk refuses at other times than in the middle of a change: when the server starts, when there is really no space
//! left, when function logs are written.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use super::common::injection::{can_inject, failed_at_start, faulty_start, Fault};
use super::common::{faults_in_full, prepared, Home, Server};
use super::disk::{code, served, CALLS};
use super::table::{sized, Row};

/// What became of starts.
#[derive(Debug, Default)]
struct Starts {
    served: usize,
    refused: usize,
    calls_failed: usize,
    wrong: u64,
}

#[test]
fn a_server_whose_disk_fails_at_the_start_says_so_or_serves_what_it_has() {
    let Some(mut row) = Row::of("EIO and ENOSPC at every write, sync and cut of a start") else { return };
    if !can_inject() {
        return;
    }
    let server = Server::with("pool_size: 1", "");
    server.deploy("f", &code("kept"), json!({}));
    let kept = served(&server, "f");
    let (mut home, _) = server.end(Signal::SIGKILL);
    let mut starts = Starts::default();
    for calls in CALLS {
        for first in 1.. {
            let errno = if first % 2 == 0 { "EIO" } else { "ENOSPC" };
            let fault = Fault { calls, errno, first, lasting: !faults_in_full() || first % 3 == 0 };
            let said = home.log().len();
            let command = faulty_start(&home, &[fault]);
            match Server::try_launch(home, command) {
                Ok(server) => {
                    starts.served += 1;
                    starts.wrong += u64::from(served(&server, "f") != kept);
                    home = server.end(Signal::SIGKILL).0;
                }
                Err((refused, status)) => {
                    home = refused;
                    starts.refused += 1;
                    let said = &home.log()[said..];
                    let is_clear = status.code() == Some(1) && said.contains("faas: ") && !said.contains("panicked");
                    if !is_clear {
                        eprintln!("{fault:?}: {status}, {said}");
                        starts.wrong += 1;
                    }
                }
            }
            let failed = failed_at_start(&home);
            starts.calls_failed += failed;
            if failed == 0 {
                break;
            }
        }
    }
    row.note(format!("{} starts that served, {} that refused", starts.served, starts.refused));
    row.note(format!("{} calls that failed", starts.calls_failed));
    row.exactly("served something else, or refused without a clear word", starts.wrong, 0);
    let server = Server::on(home);
    row.holds("all is there afterwards", served(&server, "f") == kept && server.invoke("f", "").text() == "\"kept\"");
    row.end();
}

/// A command that starts a server whose state is on a file system of its own, of so many KiB, which ends with it.
fn on_small_disk(home: &Home, kib: u32) -> Command {
    let mut command = Command::new("unshare");
    let script =
        format!("mount -t tmpfs -o size={kib}k,mode=700 small \"$0\" && exec {} \"$@\"", env!("CARGO_BIN_EXE_faas"));
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(home.state());
    prepared(home, command)
}

#[test]
fn without_space_changes_are_refused_and_calls_go_on_and_with_space_all_is_well() {
    let Some(mut row) = Row::of("no space left where the state is") else { return };
    let home = Home::with("pool_size: 2", "");
    std::fs::create_dir(home.state()).unwrap();
    let command = on_small_disk(&home, 2048);
    let server = Server::launch(home, command);
    server.deploy("f", "def handle(request):\n    print(request.get_text())\n    return 'kept'", json!({}));
    let kept = served(&server, "f");
    let state = format!("/proc/{}/root{}", server.pid(), server.home.state().display());
    let filler = Path::new(&state).join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[7; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");

    let changes = sized(50, 10);
    let refused = (0..changes).filter(|turn| {
        let reply = match turn % 2 {
            0 => server.call("PUT", "/functions/f", &json!({ "code": code("new") }).to_string()),
            _ => server.post("/functions", &json!({ "name": "g", "code": code("new") }).to_string()),
        };
        reply.status == 503 && reply.code() == "not_stored" && reply.header("retry-after").is_some()
    });
    row.exactly("refused changes", refused.count() as u64, changes);
    let line = "x".repeat(200);
    let answered = (0..changes * 20).filter(|_| server.invoke("f", &line).text() == "\"kept\"").count();
    row.exactly("answered calls that print", answered as u64, changes * 20);
    row.holds("what they printed is there", server.logs("f").last().is_some_and(|entry| entry["message"] == line));
    row.holds("what was there is served", served(&server, "f") == kept && served(&server, "g").is_none());

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let reply = server.call("PUT", "/functions/f", &json!({ "code": code("new") }).to_string());
    row.holds("a change with space again", reply.status == 200 && server.invoke("f", "").text() == "\"new\"");
    let log = server.home.log();
    row.holds("nothing was in doubt, and no panic", !log.contains("may find the last") && !log.contains("panicked"));
    row.end();
}
