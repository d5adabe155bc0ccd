//! What a newcomer gets wrong, and whether the message says what to do about it.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};

use common::{command, eventually, is_root, skip, Home, Server};
use serde_json::json;

/// What a server says that does not start.
fn refusal(config: &str) -> String {
    let home = Home::new();
    let storage = home.state();
    let config = config.replace("STATE", &storage.display().to_string());
    std::fs::write(home.path().join("faas.yaml"), config).unwrap();
    let status = command(&home).status().unwrap();
    assert_eq!(status.code(), Some(1), "{}", home.log());
    home.log()
}

#[test]
fn what_is_wrong_with_a_request_is_told_with_its_mend() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::start();
    let detail = |reply: common::Reply| reply.json()["detail"].as_str().unwrap_or_default().to_owned();

    let keyless = server.send("GET", "/functions", &[], b"");
    assert_eq!(keyless.status, 401);
    assert!(detail(keyless).ends_with("send \"Authorization: Bearer KEY\""));

    let empty = server.post("/functions", "");
    assert_eq!(empty.status, 400);
    assert_eq!(detail(empty), "the body is empty; give a JSON object with name, code and config");
}

#[test]
fn a_fault_of_the_code_has_a_line_only_where_there_is_one() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::start();
    let reply =
        server.post("/functions", &json!({"name": "a", "code": "def handle(request):\n  return (\n"}).to_string());
    assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_code"));
    assert_eq!(reply.json()["line"], 2);

    let reply = server.post("/functions", &json!({"name": "a", "code": "def hande(request): pass"}).to_string());
    assert_eq!((reply.status, reply.code().as_str()), (400, "handler_not_found"));
    assert!(reply.json().get("line").is_none(), "{}", reply.text());
    assert!(reply.json()["detail"].as_str().unwrap().ends_with("it defines `hande`"), "{}", reply.text());
}

#[test]
fn an_interpreter_that_is_not_there_is_not_replaced_by_another() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let said = refusal("system:\n  function_storage_path: STATE\n  api_gateway_port: 0\n  python: no-such-python\n");
    assert!(said.contains("no no-such-python in PATH"), "{said}");
    assert!(said.contains("system.python names another interpreter"), "{said}");
}

#[test]
fn a_second_server_on_a_directory_is_told_what_to_do() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::start();
    let second = command(&server.home).stderr(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("process {}: start this one with --takeover", server.pid())), "{said}");
}

/// The hint once named demo-key where that key was switched off.
#[test]
fn a_server_names_only_keys_that_it_takes_when_it_says_how_to_try_it() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let own = format!("well_known_keys: false\n{}", api_keys("invoke"));
    for (keys, end) in [
        ("", "/invoke/hello -H 'Authorization: Bearer demo-key'"),
        (&own, "/invoke/hello -H 'Authorization: Bearer KEY'"),
        ("well_known_keys: false", "there is no API key, system.api_keys makes some."),
    ] {
        let home = Home::with(keys, "");
        let mut server = command(&home).spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
        let hint = lines.find(|line| line.contains("/invoke/hello") || line.starts_with("No functions"));
        server.kill().unwrap();
        server.wait().unwrap();
        let hint = hint.unwrap_or_else(|| panic!("it said nothing:\n{}", home.log()));
        assert!(hint.ends_with(end), "{hint}");
    }
}

/// The setting for one key with this scope.
fn api_keys(scope: &str) -> String {
    let sha256 = "0".repeat(64);
    format!("api_keys: [{{name: own, key_sha256: \"{sha256}\", scopes: [{scope}]}}]")
}

#[test]
fn what_nobody_can_do_for_want_of_a_key_is_told_at_the_start_and_at_a_reload() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::with("well_known_keys: false", "");
    server.home.await_words("there is no API key: nobody can call");

    server.home.clone().configured(&format!("well_known_keys: false\n{}", api_keys("manage")), "");
    server.signal(nix::sys::signal::Signal::SIGHUP);
    let lacks = |scope: &str| server.home.log().contains(&format!("has the scope {scope}: nobody can"));
    eventually("the reload", || (lacks("admin") && lacks("invoke")).then_some(()));
    assert!(!lacks("manage"), "{}", server.home.log());
    assert!(!Server::start().home.log().contains("nobody can"));
}

#[test]
fn a_configuration_that_is_not_there_can_be_made() {
    let home = Home::new();
    let status = command(&home).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(home.log().contains("faas --create-config PATH writes a file to begin with"), "{}", home.log());
}
