//! What may happen to either of two servers while one takes over from the other: signals, another configuration, a lack
//! of descriptors.

use std::process::{Child, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

use super::common::functions::sandboxed;
use super::common::{eventually, patience, Server};
use super::{successor_command, ANSWERS};

/// What a successor waits for before it asks for the place.
const SLOW_TO_LOAD: &str = "import time\ntime.sleep(6)\ndef handle(request):\n    return 1";

/// A server, and its successor, which has the listener and its first thread and is not ready yet.
fn preparing() -> Option<(Server, Child)> {
    let server = sandboxed("", "")?;
    server.deploy("steady", ANSWERS, json!({}));
    server.deploy("heavy", SLOW_TO_LOAD, json!({"min_instances": 1}));
    assert_eq!(server.answer("heavy", ""), 1);
    let child = successor_command(&server.home).stdout(Stdio::null()).spawn().unwrap();
    eventually("the successor starts", || (server.home.log().matches("functions run on").count() == 2).then_some(()));
    // Its front is about to run; what is pending before that is read then.
    std::thread::sleep(std::time::Duration::from_millis(300));
    Some((server, child))
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// Whether somebody who connects now is answered.
fn serves(server: &Server) {
    let stream = std::net::TcpStream::connect_timeout(&server.address, patience());
    drop(stream.unwrap_or_else(|error| panic!("nobody is let in: {error}")));
    assert_eq!(server.answer("steady", ""), 1);
}

#[test]
fn a_successor_that_is_stopped_before_it_serves_leaves_the_listener_as_it_was() {
    let Some((server, mut child)) = preparing() else { return };
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(1), "{}", server.home.log());
    assert!(server.home.log().contains("cannot take over: a signal came first"), "{}", server.home.log());
    serves(&server);
    let reply = server.deploy("after", ANSWERS, json!({}));
    assert_eq!(reply.status, 201);
}

#[test]
fn a_server_that_is_stopped_while_its_successor_prepares_is_not_replaced() {
    let Some((server, mut child)) = preparing() else { return };
    let (home, status) = server.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    assert_eq!(child.wait().unwrap().code(), Some(1), "{}", home.log());
    assert!(home.log().contains("refuses: it is stopping"), "{}", home.log());
    serves(&Server::on(home));
}

#[test]
fn a_reload_before_it_serves_writes_nothing_to_the_state_of_its_predecessor() {
    let Some((server, mut child)) = preparing() else { return };
    let path = server.home.path().join("faas.yaml");
    let before = std::fs::read_to_string(&path).unwrap();
    let declared = "\nfunctions:\n  declared:\n    code: |\n      def handle(request):\n          return 1\n";
    std::fs::write(&path, before.clone() + declared).unwrap();
    signal(&child, Signal::SIGHUP);
    eventually("it is heard", || server.home.log().contains("SIGHUP").then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(500));
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    std::fs::write(&path, before).unwrap();
    let (home, _) = server.end(Signal::SIGTERM);
    let server = Server::on(home);
    assert_eq!(server.get("/functions/declared").status, 404, "it was written beside the server that served");
}

#[test]
fn a_configuration_that_was_taken_while_the_successor_prepared_is_in_force_afterwards() {
    let Some((server, mut child)) = preparing() else { return };
    let path = server.home.path().join("faas.yaml");
    let before = std::fs::read_to_string(&path).unwrap();
    let after = "\nlimits:\n  max_request_body: 1Ki\n\
                 functions:\n  declared:\n    code: |\n      def handle(request):\n          return 'declared'\n";
    std::fs::write(&path, before + after).unwrap();
    server.signal(Signal::SIGHUP);
    eventually("it is taken", || server.home.log().contains("is read again; changed").then_some(()));
    let address = server.address;
    let (home, status) = server.ended();
    assert_eq!(status.code(), Some(0), "{}", home.log());
    // The successor is this test's child, and answers at the same address.
    let ask = |path: &str, body: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        super::Reply::parse(&answer, false)
    };
    let (large, declared) = (ask("/invoke/steady", &"x".repeat(2000)), ask("/invoke/declared", ""));
    signal(&child, Signal::SIGTERM);
    child.wait().unwrap();
    assert_eq!(large.status, 413, "{}", large.text());
    assert_eq!(declared.text(), "\"declared\"");
}

#[test]
fn the_log_of_a_function_that_is_damaged_outlives_a_takeover() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("damaged", "def handle(request):\n    print('its last word')\n    return 1", json!({}));
    assert_eq!(server.answer("damaged", ""), 1);
    eventually("it is logged", || (!server.logs_where("damaged", "limit=10").is_empty()).then_some(()));
    let database = rusqlite::Connection::open(server.home.state().join("faas.db")).unwrap();
    assert_eq!(database.execute("UPDATE versions SET code = 'another'", []).unwrap(), 1);
    drop(database);
    let server = super::succeed(server);
    server.home.await_words("function damaged is not served");
    let logs = std::fs::read_dir(server.home.state().join("logs")).unwrap();
    let words = logs.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
    assert!(words.into_iter().any(|text| text.contains("its last word")), "the log is gone");
}

#[test]
fn a_third_server_says_for_whom_it_waits_and_can_be_stopped_meanwhile() {
    let Some(first) = sandboxed("", "") else { return };
    let code = "def handle(request):\n    time.sleep(float(request.get_text()))\n    return 1";
    first.deploy("slow", code, json!({}));
    let mut stream = first.connect();
    let request = "POST /invoke/slow HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\n\
                   Content-Length: 2\r\n\r\n60";
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    first.await_load("slow", 1, 0);
    let second = Server::launch(first.home.clone(), successor_command(&first.home));
    let mut third = successor_command(&first.home).stdout(Stdio::null()).spawn().unwrap();
    let says = format!("process {}, still finishes its calls; waiting for it", first.pid());
    eventually("it says so", || first.home.log().contains(&says).then_some(()));
    signal(&third, Signal::SIGINT);
    assert_eq!(third.wait().unwrap().code(), Some(1));
    assert!(first.home.log().contains("cannot take over: a signal came first"), "{}", first.home.log());
    second.deploy("after", ANSWERS, json!({}));
    drop(stream);
}

#[test]
fn connections_for_which_the_successor_has_no_descriptor_wait_and_are_not_lost() {
    use super::Reply;
    use std::io::{BufReader, Write};
    let Some((server, mut child)) = preparing() else { return };
    let kept: Vec<_> = (0..100).map(|_| server.connect()).collect();
    // Each is known to the server.
    let request = "GET /livez HTTP/1.1\r\nHost: test\r\n\r\n";
    for mut stream in &kept {
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(Reply::read(&mut BufReader::new(stream), false).status, 200);
    }
    // What it has by now, and a few more.
    let limit = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count() + 40;
    let limit = format!("--nofile={limit}:{limit}");
    let limited = std::process::Command::new("prlimit").args(["--pid", &child.id().to_string(), &limit]).status();
    assert!(limited.unwrap().success());
    eventually("it serves", || server.home.log().contains("serves from now on").then_some(()));
    eventually("it has no more", || server.home.log().contains("of the predecessor can be taken").then_some(()));
    let last = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    for (number, mut stream) in kept.into_iter().enumerate() {
        stream.write_all(last.as_bytes()).unwrap();
        assert_eq!(Reply::read(&mut BufReader::new(&stream), false).status, 200, "{number}");
    }
    assert_eq!(server.ended().1.code(), Some(0));
    signal(&child, Signal::SIGTERM);
    child.wait().unwrap();
}
