//! Signals to either of two servers while one takes over from the other.

use std::process::{Child, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

use super::common::functions::sandboxed;
use super::common::{eventually, patience, Server};
use super::{successor_command, ANSWERS};

/// What a successor waits for before it asks for the place.
const SLOW_TO_LOAD: &str = "import time\ntime.sleep(3)\ndef handle(request):\n    return 1";

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
