//! README as a newcomer follows it: every shell block, to the letter.

mod common;

use common::{is_root, skip, Server};
use std::process::Command;

/// The shell blocks of README, in their order.
fn blocks() -> Vec<String> {
    let readme = include_str!("../README.md");
    readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// Runs a block against this server's port instead of 8000, and gives what it printed.
fn run(server: &Server, block: &str) -> String {
    let script = block.replace("localhost:8000", &server.address.to_string());
    let output = Command::new("bash").arg("-c").arg(&script).output().expect("bash and curl are there");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_shell_block_of_readme_does_what_it_says() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::start();
    let said: Vec<String> = blocks().iter().map(|block| run(&server, block)).collect();
    assert_eq!(said.len(), 7, "a block of README has no expectation here");
    assert!(said[0].contains(r#""status":"healthy""#), "{}", said[0]);
    assert!(said[1].contains(r#""name":"hello-world","version":1"#), "{}", said[1]);
    assert_eq!(said[2], r#"{"message":"Hello, World!","data":{"name":"AITest","test":true}}"#);
    assert!(said[3].contains(r#"{"echo":{"ping":"pong"},"method":"POST","at":"#), "{}", said[3]);
    assert!(said[4].ends_with(r#"{"x":16.0,"square":256.0,"sqrt":4.0}{"error":"give a number x"}"#), "{}", said[4]);
    assert!(said[5].contains(r#"{"greeting":"Good morning, Ada!"}"#), "{}", said[5]);
    assert!(said[5].contains(r#""message":"greeting Ada""#), "{}", said[5]);
    assert!(said[6].contains(r#""version":2"#), "{}", said[6]);
    assert!(said[6].contains(r#"{"greeting":"Good evening, Ada!"}"#), "{}", said[6]);
    assert!(said[6].contains(r#""function":"greeting","version":2"#), "{}", said[6]);
    assert!(said[6].ends_with("204\n"), "{}", said[6]);
}
