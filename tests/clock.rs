//! The wall clock is set while calls run, wait and idle: by a day, forwards and back. Only `make test-vm` runs this, on a
//! machine of its own: the tests set the clock of the machine that they run on.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::functions::sandboxed;
use common::{eventually, skip, slowed, Reply, Server};
use serde_json::json;

const DAY_S: i64 = 24 * 3600;

/// Sets the clock by a day, forwards or back, and sets it right again when dropped.
struct Shifted {
    by_s: i64,
}

impl Shifted {
    fn by(by_s: i64) -> Shifted {
        shift(by_s);
        Shifted { by_s }
    }
}

impl Drop for Shifted {
    fn drop(&mut self) {
        shift(-self.by_s);
    }
}

fn shift(by_s: i64) {
    let script = format!("import time; time.clock_settime(time.CLOCK_REALTIME, time.time() + {by_s})");
    assert!(Command::new("python3").args(["-c", &script]).status().unwrap().success(), "the clock cannot be set");
}

/// Seconds since the epoch, by the machine's clock.
fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn whole_ms(time: Duration) -> String {
    format!("{}ms", slowed(time).as_millis())
}

/// What the machine's suite alone allows.
fn may_set_clock() -> bool {
    let may = std::env::var_os("FAAS_MAY_SET_CLOCK").is_some();
    if !may {
        skip("it would set this machine's clock; make test-vm runs it on another");
    }
    may
}

/// The answer's date, in seconds since the epoch, told by Python so that it is not the server's own arithmetic.
fn date_s(reply: &Reply) -> i64 {
    let script = format!(
        "from email.utils import parsedate_to_datetime as date; print(int(date({:?}).timestamp()))",
        reply.header("date").expect("a date")
    );
    let output = Command::new("python3").args(["-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// The one answer of a connection that is then closed.
fn read(mut stream: TcpStream) -> Reply {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Reply::parse(&answer, false)
}

const CODE: &str = "def handle(request):\n    print('called')\n    time.sleep(float(request.get_text() or 0))\n    \
                    return int(time.time())";

fn a_day_is_nothing(by_s: i64) {
    if !may_set_clock() {
        return;
    }
    let Some(server) = sandboxed("", "") else { return };
    let timeout = slowed(Duration::from_secs(4));
    server.deploy("f", CODE, json!({ "timeout": "15m", "max_instances": 2 }));
    server.deploy("strict", CODE, json!({ "timeout": whole_ms(Duration::from_secs(4)), "max_instances": 1 }));
    server.answer("strict", "0");
    server.answer("f", "0");
    let idle = server.instances("f")[0]["id"].clone();
    let before = server.get("/functions/f").json();

    // A call within its time, one beyond it, one that waits behind that, and heads that are not whole.
    let _shifted = std::thread::scope(|scope| {
        let within = scope.spawn(|| (Instant::now(), server.invoke("f", &format!("{}", timeout.as_secs_f64() / 2.0))));
        let beyond = scope.spawn(|| (Instant::now(), server.invoke("strict", "3600")));
        server.await_load("strict", 1, 0);
        let behind = scope.spawn(|| server.invoke("strict", "0"));
        server.await_load("strict", 1, 1);
        server.await_load("f", 1, 0);
        let (mut in_time, mut never) = (server.connect(), server.connect());
        let half_sent = Instant::now();
        for stream in [&mut in_time, &mut never] {
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: te").unwrap();
        }
        let shifted = Shifted::by(by_s);
        in_time.write_all(b"st\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(read(in_time).status, 200, "a head that came in time");
        let late = scope.spawn(move || (read(never).status, half_sent.elapsed()));
        let (begun, reply) = within.join().unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(begun.elapsed() >= timeout / 2);
        let (begun, reply) = beyond.join().unwrap();
        let took = begun.elapsed();
        reply.refused(504, "function_timeout");
        assert!(took >= timeout && took < timeout * 2, "{took:?} of {timeout:?}");
        let reply = behind.join().unwrap();
        let answered = reply.status == 200;
        assert!(answered || reply.code() == "queue_timeout", "{}", reply.text());
        let (status, took) = late.join().unwrap();
        let limit = faas::limits::HTTP_HEAD_TIMEOUT;
        assert!(status == 408 && took >= limit && took < limit * 2, "half a head: {status} after {took:?}");
        shifted
    });
    assert_eq!(server.instances("f").iter().filter(|it| it["id"] == idle).count(), 1, "an idle instance lives on");
    let reply = server.invoke("f", "0");
    let (now, told, date) = (now_s(), reply.json().as_i64().unwrap(), date_s(&reply));
    assert!((now - told).abs() <= 10 && (now - date).abs() <= 10, "now {now}, a function {told}, the date {date}");
    assert!(server.logs("f").len() >= 3, "what was printed before and after");

    // Functions can be changed, and a function's times keep their order.
    assert_eq!(server.call("PUT", "/functions/f", r#"{"config": {"timeout": 60}}"#).status, 200);
    let after = server.get("/functions/f").json();
    assert_eq!((&after["version"], &after["created_at"]), (&json!(2), &before["created_at"]));
    assert!(after["updated_at"].as_str() >= after["created_at"].as_str(), "{after}");
    assert_eq!(server.invoke("f", "0").status, 200);
}

#[test]
#[ignore = "sets the clock of the machine: make test-vm"]
fn a_clock_that_is_set_forwards_by_a_day_ends_nothing_early() {
    a_day_is_nothing(DAY_S);
}

#[test]
#[ignore = "sets the clock of the machine: make test-vm"]
fn a_clock_that_is_set_back_by_a_day_keeps_nothing_waiting() {
    a_day_is_nothing(-DAY_S);
}

fn idle_times_count(by_s: i64) {
    if !may_set_clock() {
        return;
    }
    let ttl = slowed(Duration::from_secs(2));
    let Some(server) = sandboxed(&format!("warm_instance_ttl: {}", whole_ms(Duration::from_secs(2))), "") else {
        return;
    };
    server.deploy("f", CODE, json!({}));
    server.answer("f", "0");
    let (begun, _shifted) = (Instant::now(), Shifted::by(by_s));
    assert_eq!(server.instances("f").len(), 1, "it is not idle for a day");
    eventually("an idle instance ends", || server.instances("f").is_empty().then_some(()));
    let took = begun.elapsed();
    // What the look itself takes counts towards neither.
    assert!(took >= ttl / 2 && took < ttl * 4, "{took:?} of {ttl:?}");
}

#[test]
#[ignore = "sets the clock of the machine: make test-vm"]
fn idle_times_are_the_same_whether_the_clock_is_set_forwards_or_back() {
    idle_times_count(DAY_S);
    idle_times_count(-DAY_S);
}

#[test]
#[ignore = "sets the clock of the machine: make test-vm"]
fn a_server_that_starts_a_day_before_its_functions_were_made_serves_them() {
    if !may_set_clock() {
        return;
    }
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", CODE, json!({}));
    let (home, _) = server.end(nix::sys::signal::Signal::SIGKILL);
    let _shifted = Shifted::by(-DAY_S);
    let server = Server::on(home);
    assert_eq!(server.invoke("f", "0").status, 200);
    assert_eq!(server.call("PUT", "/functions/f", r#"{"config": {"timeout": 60}}"#).status, 200);
    let function = server.get("/functions/f").json();
    assert!(function["updated_at"].as_str() >= function["created_at"].as_str(), "{function}");
    assert!(!server.home.log().contains("panicked"));
}
