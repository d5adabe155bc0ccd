//! What must hold when things happen at the same time, or fail half way: nothing is lost, nobody waits for ever.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use common::{eventually, is_root, skip, Server};
use serde_json::json;

const NEEDS_ROOT: &str = "process mode at level strict needs root";

/// Reads until so many answers have come, all with this status, on a connection that stays open.
fn read_answers(stream: &mut TcpStream, wanted: usize, status: &str) {
    let mut lines = BufReader::new(stream).split(b'\n');
    let mut seen = 0;
    while seen < wanted {
        let line = lines.next().unwrap_or_else(|| panic!("closed after {seen} answers"));
        let line = line.unwrap_or_else(|error| panic!("{error} after {seen} answers"));
        // An answer's body has no line feed, so the next one's first line may follow it.
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some((_, rest)) = line.split_once("HTTP/1.1 ") {
            assert!(rest.starts_with(status), "{line}");
            seen += 1;
        }
    }
}

#[test]
fn more_pipelined_requests_than_a_connection_may_hold_are_all_answered() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    // Three times what is held for a connection, so that reading pauses again and again.
    let requests = 4000;
    let mut stream = server.connect();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let request = b"GET /functions?limit=1 HTTP/1.1\r\nHost: test\r\n\r\n";
        writer.write_all(&request.repeat(requests)).unwrap();
    });
    // The connection stays open and silent: nothing but what was sent can make the server go on.
    read_answers(&mut stream, requests, "401");
    sender.join().unwrap();
}

#[test]
fn pipelined_calls_behind_a_slow_one_are_all_answered() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    server.deploy("slow", "def handle(request):\n    time.sleep(0.3)\n    return 1", json!({}));
    let mut stream = server.connect();
    let key = "Authorization: Bearer demo-key\r\n";
    let mut bytes = format!("GET /invoke/slow HTTP/1.1\r\nHost: t\r\n{key}\r\n").into_bytes();
    let filler = format!("GET /functions HTTP/1.1\r\nHost: t\r\n{key}X-Filler: {}\r\n\r\n", "x".repeat(4000));
    bytes.extend(filler.as_bytes().repeat(40));
    stream.write_all(&bytes).unwrap();
    read_answers(&mut stream, 41, "200");
}

#[test]
fn a_half_closed_client_gets_all_its_answers() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    let mut stream = server.connect();
    stream.write_all(&b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n".repeat(2000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    read_answers(&mut stream, 2000, "200");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}

/// The children of one of the server's threads, or of all but its main one.
fn children(server: &Server, of_main: bool) -> Vec<u32> {
    let pid = server.pid();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let tasks = tasks.filter(|task| (task.file_name() == *pid.to_string()) == of_main);
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

fn kill(pid: u32) {
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn zygotes_that_die_at_work_leave_no_zombie_and_hold_up_no_call() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    for round in 0..20 {
        let name = format!("f{round}");
        server.deploy(&name, "def handle(request):\n    return 1", json!({}));
        // Blanks are made while these are replaced, so that the zygote is at work when it dies.
        children(&server, true).into_iter().take(4).for_each(kill);
        std::thread::sleep(std::time::Duration::from_millis(round % 7));
        children(&server, false).into_iter().for_each(kill);
        let reply = server.get(&format!("/invoke/{name}"));
        assert!(matches!(reply.status, 200 | 502), "{}", reply.text());
    }
    let last = server.run("last", "def handle(request):\n    return 1", "");
    assert_eq!(last, 1);
    eventually("no zombie is left", || {
        let all = [children(&server, true), children(&server, false)].concat();
        (!all.into_iter().any(is_zombie)).then_some(())
    });
    assert_eq!(server.get("/health").status, 200);
}
