//! What is kept across takeovers: functions, each in force when it is acknowledged, and the lines of their logs.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{json, Value};

use super::common::functions::sandboxed;
use super::common::{eventually, patience, Reply, Server, SetAtEnd};
use super::{held_ms, succeed};

#[test]
fn deployments_before_between_and_after_are_all_there_and_in_force_when_they_are_acknowledged() {
    let Some(mut server) = sandboxed("", "") else { return };
    let code = |state: u64| format!("def handle(request):\n    return {state}");
    server.deploy("changing", &code(0), json!({"max_instances": 2}));
    let address = server.address;
    let (asked, acknowledged, put_off) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    // A connection that is kept, and the next request on it.
    let exchange = |stream: &mut BufReader<std::net::TcpStream>, method: &str, path: &str, body: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        Reply::read(stream, false)
    };
    let connect = || {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        BufReader::new(stream)
    };
    let (names, server) = std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            let mut stream = connect();
            let mut names = BTreeSet::new();
            for state in 1_u64.. {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                asked.store(state, Ordering::SeqCst);
                let name = format!("new{state}");
                let new = json!({ "name": name, "code": code(state) }).to_string();
                let body = json!({ "code": code(state) }).to_string();
                for (method, path, body) in [("PUT", "/functions/changing", &body), ("POST", "/functions", &new)] {
                    loop {
                        let reply = exchange(&mut stream, method, path, body);
                        if (200..300).contains(&reply.status) {
                            break;
                        }
                        reply.refused(503, "taking_over");
                        assert_eq!(reply.header("retry-after"), Some("1"));
                        put_off.fetch_add(1, Ordering::Relaxed);
                    }
                    if method == "PUT" {
                        acknowledged.store(state, Ordering::SeqCst);
                    }
                }
                names.insert(name);
                if state % 3 == 0 {
                    let gone = format!("new{}", state - 1);
                    let reply = exchange(&mut stream, "DELETE", &format!("/functions/{gone}"), "");
                    if reply.status == 204 {
                        names.remove(&gone);
                    } else {
                        reply.refused(503, "taking_over");
                    }
                }
            }
            names
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut stream = connect();
                while !over.load(Ordering::SeqCst) {
                    let oldest = acknowledged.load(Ordering::SeqCst);
                    let reply = exchange(&mut stream, "POST", "/invoke/changing", "");
                    let newest = asked.load(Ordering::SeqCst);
                    let got: u64 =
                        reply.text().parse().unwrap_or_else(|_| panic!("{}: {}", reply.status, reply.text()));
                    assert!((oldest..=newest).contains(&got), "{got} is not of {oldest}..={newest}");
                }
            });
        }
        let end = SetAtEnd(&over);
        for _ in 0..5 {
            server = succeed(server);
            let goal = acknowledged.load(Ordering::SeqCst) + 3;
            eventually("changes go on", || (acknowledged.load(Ordering::SeqCst) >= goal).then_some(()));
        }
        drop(end);
        (changer.join().unwrap(), server)
    });
    let listed = server.get("/functions?limit=1000").json();
    let listed: BTreeSet<String> = listed["functions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|function| function["name"].as_str().unwrap().to_owned())
        .filter(|name| name != "changing")
        .collect();
    assert_eq!(listed, names, "what was acknowledged is what there is");
    assert_eq!(server.answer("changing", ""), acknowledged.load(Ordering::SeqCst));
    let (home, _) = server.end(Signal::SIGTERM);
    println!("{} changes put off, held for {:?} ms", put_off.into_inner(), held_ms(&home));
    let server = Server::on(home);
    assert_eq!(server.answer("changing", ""), acknowledged.into_inner());
}

#[test]
fn no_line_of_a_log_is_lost_or_counted_twice() {
    let Some(mut server) = sandboxed("", "limits:\n  max_log_entries: 100000") else { return };
    let code = "def handle(request):\n    time.sleep(0.01)\n    print('line', request.get_text())\n    return 1";
    server.deploy("talks", code, json!({"max_instances": 2, "min_instances": 1}));
    let address = server.address;
    let (over, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let server = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut stream = BufReader::new(std::net::TcpStream::connect(address).unwrap());
                // No more than two files hold, however long the takeovers take.
                while !over.load(Ordering::SeqCst) && next.load(Ordering::SeqCst) < 4900 {
                    let number = next.fetch_add(1, Ordering::SeqCst).to_string();
                    let request = format!(
                        "POST /invoke/talks HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\n\
                         Content-Length: {}\r\n\r\n{number}",
                        number.len()
                    );
                    stream.get_mut().write_all(request.as_bytes()).unwrap();
                    assert_eq!(Reply::read(&mut stream, false).text(), "1");
                }
            });
        }
        let _end = SetAtEnd(&over);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(200));
            server = succeed(server);
        }
        server
    });
    let count = next.into_inner();
    let expected: BTreeSet<String> = (0..count).map(|number| format!("line {number}")).collect();
    let entries = |server: &Server| {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let since = all.last().map_or(0, |entry| entry["seq"].as_u64().unwrap());
            let page = server.logs_where("talks", &format!("limit=1000&since={since}"));
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    };
    let check = |server: &Server| {
        let all = entries(server);
        let sequence: Vec<u64> = all.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
        assert_eq!(sequence, (1..=count).collect::<Vec<_>>(), "each number once");
        let lines: BTreeSet<String> = all.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect();
        assert_eq!(lines, expected);
    };
    check(&server);
    // And so it is on the disk.
    let (home, _) = server.end(Signal::SIGTERM);
    check(&Server::on(home));
}
