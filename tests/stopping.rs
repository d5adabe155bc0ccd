//! The stop of a server, also under load: no request that was sent to it is lost. And the stop of one instance.
//!
//! The clients here tell apart exactly what became of each request. A connection that could not be made was no request.
//! One that was sent, on whatever connection, must be answered with what it asked for: a reset, an end without an
//! answer, and an answer that says anything else are failures.
//!
//! With `FAAS_FAULTS=full` there are 50 stops under load, otherwise 3.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::functions::sandboxed;
use common::{eventually, in_time, patience, Reply, Server};
use nix::sys::signal::Signal;
use serde_json::json;

const CONNECTIONS: u64 = 32;
const GRACE: Duration = Duration::from_secs(10);
const ECHO: &str = "def handle(request):\n    return request.get_json()";
const SLOW: &str = "def handle(request):\n    time.sleep(float(request.get_text()))\n    return 'done'";

fn request(function: &str, body: &str) -> String {
    let fields = format!("Host: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: {}", body.len());
    format!("POST /invoke/{function} HTTP/1.1\r\n{fields}\r\n\r\n{body}")
}

/// A connection that stays open.
struct Talk(BufReader<TcpStream>);

impl Talk {
    fn with(server: &Server) -> Talk {
        Talk(BufReader::new(server.connect()))
    }

    fn send(&mut self, text: &str) -> &mut Talk {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
        self
    }

    fn read(&mut self) -> Reply {
        Reply::read(&mut self.0, false)
    }

    /// Whether the server closes in order, without another word.
    fn ends(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}

fn says_close(reply: &Reply) -> bool {
    reply.header("connection") == Some("close")
}

/// How many entries of the server's own in a function's log contain this.
fn ends_in_log(server: &Server, function: &str, text: &str) -> usize {
    let log = server.get(&format!("/functions/{function}/logs")).json();
    let entries = log["entries"].as_array().unwrap().iter();
    entries.filter(|it| it["stream"] == "system" && it["message"].as_str().unwrap().contains(text)).count()
}

fn await_signal(server: &Server) {
    eventually("the server hears the signal", || server.home.log().contains("finishing what was sent").then_some(()));
}

// ---- Under load ----

/// How a client uses its connection.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// One request after the other on a connection that stays.
    KeepsAlive,
    /// Two requests at once, then the next two.
    Pipelines,
    /// A connection for each request.
    ConnectsAnew,
}

/// What one client has seen.
#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    failures: Vec<String>,
}

/// The load of one server until it is gone.
struct Load<'a> {
    address: SocketAddr,
    /// From one request of a client to its next.
    interval: Duration,
    numbers: &'a AtomicU64,
    /// The signal is about to be sent: from now on a connection may be refused.
    stopping: &'a AtomicBool,
    /// Ends the load whatever the server does.
    over: &'a AtomicBool,
}

impl Load<'_> {
    fn run(&self, manner: Manner) -> Seen {
        let mut seen = Seen::default();
        let mut due = Instant::now();
        'connections: while !self.over.load(Ordering::Relaxed) {
            let stream = match TcpStream::connect_timeout(&self.address, patience()) {
                Ok(stream) => stream,
                Err(error) => {
                    let gone = matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::TimedOut);
                    if !gone || !self.stopping.load(Ordering::SeqCst) {
                        seen.failures.push(format!("connect: {error}"));
                    }
                    return seen;
                }
            };
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(patience())).unwrap();
            let mut stream = BufReader::new(stream);
            loop {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // What was missed is not made up for in a burst.
                due = (due + self.interval).max(Instant::now());
                match self.exchange(&mut stream, manner) {
                    Ok((answered, goes_on)) => {
                        seen.answered += answered;
                        if self.over.load(Ordering::Relaxed) {
                            return seen;
                        }
                        if !goes_on {
                            continue 'connections;
                        }
                    }
                    Err(failure) => {
                        seen.failures.push(format!("{manner:?}: {failure}"));
                        return seen;
                    }
                }
            }
        }
        seen
    }

    /// Sends one request, or two, and reads the answers: how many, and whether the connection goes on.
    fn exchange(&self, stream: &mut BufReader<TcpStream>, manner: Manner) -> Result<(u64, bool), String> {
        let count = if matches!(manner, Manner::Pipelines) { 2 } else { 1 };
        let numbers: Vec<u64> = (0..count).map(|_| self.numbers.fetch_add(1, Ordering::Relaxed)).collect();
        let bytes: String = numbers.iter().map(|number| request("echo", &number.to_string())).collect();
        stream.get_mut().write_all(bytes.as_bytes()).map_err(|error| format!("write: {error}"))?;
        let mut closes = false;
        for (index, number) in numbers.iter().enumerate() {
            if closes {
                return Err(format!("answer {index} of {count} was the last"));
            }
            let reply = read_reply(stream).map_err(|error| format!("answer {index} of {count}: {error}"))?;
            if (reply.status, reply.text()) != (200, number.to_string()) {
                return Err(format!("{} {} for {number}", reply.status, reply.text()));
            }
            closes = says_close(&reply);
        }
        Ok((count, !closes && !matches!(manner, Manner::ConnectsAnew)))
    }
}

/// As `Reply::read`, with the end of the connection as a value.
fn read_reply(from: &mut impl BufRead) -> Result<Reply, String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let read = from.read_until(b'\n', &mut bytes).map_err(|error| error.to_string())?;
        if read == 0 {
            return Err(format!("the connection ends behind {:?}", String::from_utf8_lossy(&bytes)));
        }
    }
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    from.read_exact(&mut body).map_err(|error| format!("in the body: {error}"))?;
    Ok(Reply::parse(&[bytes, body].concat(), false))
}

/// Puts a server under load, and lets `story` happen meanwhile, which sets the flags.
fn under_load(
    server: &Server,
    interval: Duration,
    story: impl FnOnce(&AtomicBool, &AtomicBool),
) -> (Vec<Seen>, Duration) {
    let (numbers, stopping, over) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let load = Load { address: server.address, interval, numbers: &numbers, stopping: &stopping, over: &over };
    let manner = |client| match client % 8 {
        0 => Manner::ConnectsAnew,
        1 => Manner::Pipelines,
        _ => Manner::KeepsAlive,
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let load = &load;
        let clients: Vec<_> = (0..CONNECTIONS).map(|client| scope.spawn(move || load.run(manner(client)))).collect();
        story(&stopping, &over);
        (clients.into_iter().map(|client| client.join().unwrap()).collect(), begun.elapsed())
    })
}

fn answered(seen: &[Seen]) -> u64 {
    seen.iter().map(|seen| seen.answered).sum()
}

fn loaded_server() -> Option<Server> {
    let server = sandboxed(&format!("shutdown_grace: {}", GRACE.as_secs()), "")?;
    server.deploy("echo", ECHO, json!({"max_instances": 4}));
    Some(server)
}

#[test]
fn no_request_fails_when_the_server_is_stopped_under_load() {
    let stops = if common::faults_in_full() { 50 } else { 3 };
    let Some(server) = loaded_server() else { return };
    // What it can do, so that the load is 70 % of that.
    let (seen, took) = under_load(&server, Duration::ZERO, |_, over| {
        std::thread::sleep(Duration::from_secs(2));
        over.store(true, Ordering::SeqCst);
    });
    drop(server);
    let throughput = answered(&seen) as f64 / took.as_secs_f64();
    // The clients that pipeline send two at a time.
    let interval = Duration::from_secs_f64((CONNECTIONS + CONNECTIONS / 8) as f64 / (0.7 * throughput));
    let (mut all, mut slowest) = (0, Duration::ZERO);
    for stop in 0..stops {
        let server = loaded_server().unwrap();
        let mut sent = Instant::now();
        let (seen, _) = under_load(&server, interval, |stopping, _| {
            // At another moment of the load each time.
            std::thread::sleep(Duration::from_millis(500) + Duration::from_micros(stop * 1733));
            stopping.store(true, Ordering::SeqCst);
            sent = Instant::now();
            server.signal(Signal::SIGTERM);
        });
        let (home, status) = server.ended();
        slowest = slowest.max(sent.elapsed());
        let failures: Vec<_> = seen.iter().flat_map(|seen| &seen.failures).collect();
        assert!(failures.is_empty(), "stop {stop}: {failures:#?}\n{}", home.log());
        assert_eq!(status.code(), Some(0), "{}", home.log());
        assert!(sent.elapsed() < GRACE + Duration::from_secs(1), "{:?}", sent.elapsed());
        all += answered(&seen);
    }
    eprintln!(
        "{stops} stops at 70 % of {throughput:.0} requests/s: {all} requests, none failed; the end within {slowest:.1?}"
    );
}

// ---- One by one ----

#[test]
fn a_connection_that_is_idle_at_the_signal_is_served_once_more_and_told_to_end() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("echo", ECHO, json!({}));
    let (mut used, mut unused, mut silent) = (Talk::with(&server), Talk::with(&server), Talk::with(&server));
    assert!(!says_close(&used.send(&request("echo", "1")).read()));
    server.signal(Signal::SIGTERM);
    await_signal(&server);
    // Both at once: idle connections are closed a second after the signal.
    for talk in [&mut used, &mut unused] {
        talk.send(&request("echo", "2"));
    }
    for talk in [&mut used, &mut unused] {
        let reply = talk.read();
        assert_eq!((reply.status, reply.text().as_str(), says_close(&reply)), (200, "2", true));
        assert!(talk.ends());
    }
    // The one without a request is closed in time, so that nobody is waited for.
    assert!(silent.ends());
    let (home, status) = server.ended();
    assert_eq!(status.code(), Some(0), "{}", home.log());
}

#[test]
fn a_stopping_server_is_alive_and_not_ready() {
    let Some(server) = sandboxed("", "") else { return };
    let mut talks: Vec<Talk> = (0..3).map(|_| Talk::with(&server)).collect();
    server.signal(Signal::SIGTERM);
    await_signal(&server);
    // All at once: idle connections are closed a second after the signal.
    for (talk, path) in talks.iter_mut().zip(["/livez", "/readyz", "/health"]) {
        talk.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }
    let mut replies = talks.iter_mut().map(|talk| {
        let reply = talk.read();
        (reply.status, reply.json())
    });
    let mut next = || replies.next().unwrap();
    assert_eq!(next(), (200, json!({"status": "live"})));
    assert_eq!(next(), (503, json!({"status": "not ready", "reasons": ["draining"]})));
    let (status, health) = next();
    assert_eq!((status, &health["status"]), (503, &json!("draining")));
    assert_eq!(server.ended().1.code(), Some(0));
}

#[test]
fn requests_that_have_begun_to_come_at_the_signal_are_answered_however_long_they_take() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("echo", ECHO, json!({}));
    server.deploy("slow", SLOW, json!({"max_instances": 4}));
    let (mut head, mut body, mut pipelined) = (Talk::with(&server), Talk::with(&server), Talk::with(&server));
    // Twice as long as idle connections are waited for.
    pipelined.send(&(request("slow", "2") + &request("slow", "0") + &request("echo", "3")));
    server.await_load("slow", 1, 0);
    let text = request("echo", "12345678");
    head.send(&text[..20]);
    body.send(&text[..text.len() - 4]);
    server.signal(Signal::SIGTERM);
    await_signal(&server);
    std::thread::sleep(Duration::from_millis(1500));
    // Idle connections are gone by now. These have something to say.
    head.send(&text[20..]);
    body.send(&text[text.len() - 4..]);
    for talk in [&mut head, &mut body] {
        let reply = talk.read();
        assert_eq!((reply.status, reply.text().as_str(), says_close(&reply)), (200, "12345678", true));
        assert!(talk.ends());
    }
    for (answer, is_last) in [("\"done\"", false), ("\"done\"", false), ("3", true)] {
        let reply = pipelined.read();
        assert_eq!((reply.status, reply.text().as_str(), says_close(&reply)), (200, answer, is_last));
    }
    assert!(pipelined.ends());
    let (home, status) = server.ended();
    assert_eq!(status.code(), Some(0), "{}", home.log());
}

#[test]
fn a_connection_that_waits_to_be_accepted_at_the_signal_is_served() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("slow", SLOW, json!({}));
    // Stopped, the server accepts nothing; what connects waits in the listener's queue, behind the signal.
    server.signal(Signal::SIGSTOP);
    let mut waiting: Vec<Talk> = (0..50).map(|_| Talk::with(&server)).collect();
    waiting.iter_mut().take(25).for_each(|talk| {
        talk.send(&request("slow", "0"));
    });
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGCONT);
    await_signal(&server);
    waiting.iter_mut().skip(25).for_each(|talk| {
        talk.send(&request("slow", "0"));
    });
    for talk in &mut waiting {
        let reply = talk.read();
        assert_eq!((reply.status, says_close(&reply)), (200, true), "{}", reply.text());
        assert!(talk.ends());
    }
    let (home, status) = server.ended();
    assert_eq!(status.code(), Some(0), "{}", home.log());
}

#[test]
fn who_connects_after_the_signal_is_refused_and_never_reset_in_a_connection() {
    let Some(server) = sandboxed("", "") else { return };
    server.signal(Signal::SIGTERM);
    await_signal(&server);
    let mut tries = 0;
    loop {
        tries += 1;
        assert!(tries < 1000);
        match TcpStream::connect_timeout(&server.address, Duration::from_millis(50)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
            Ok(_) => panic!("it is let in"),
        }
    }
    let (home, status) = server.ended();
    assert_eq!(status.code(), Some(0), "{}", home.log());
}

#[test]
fn what_has_not_come_or_not_ended_when_the_grace_is_over_is_told_so() {
    let Some(server) = sandboxed("shutdown_grace: 4", "") else { return };
    server.deploy("slow", SLOW, json!({"max_instances": 1}));
    let (mut running, mut queued, mut half) = (Talk::with(&server), Talk::with(&server), Talk::with(&server));
    running.send(&request("slow", "60"));
    server.await_load("slow", 1, 0);
    queued.send(&request("slow", "0"));
    server.await_load("slow", 1, 1);
    half.send("POST /invoke/slow HT");
    server.signal(Signal::SIGTERM);
    let begun = Instant::now();
    await_signal(&server);
    // It comes too late, behind a call that does not end.
    std::thread::sleep(Duration::from_millis(1500));
    running.send(&request("slow", "0"));
    for talk in [&mut running, &mut queued] {
        let detail = talk.read().refused(503, "shutting_down");
        assert!(detail.contains("system.shutdown_grace, 4000 ms"), "{detail}");
    }
    half.read().refused(503, "shutting_down");
    running.read().refused(503, "shutting_down");
    assert!([&mut running, &mut queued, &mut half].into_iter().all(Talk::ends));
    let (home, status) = server.ended();
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(0), "{}", home.log());
    // How soon after that it ends is asserted elsewhere (`lifecycle.rs`).
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(4) + patience(), "{took:?}");
    // The one that ran has an entry in its function's log. The others have not come so far.
    assert_eq!(ends_in_log(&Server::on(home), "slow", "system.shutdown_grace, 4000 ms"), 1);
}

#[test]
fn a_client_that_does_not_take_its_answer_holds_up_the_end_no_longer_than_a_second() {
    in_time(Duration::ZERO..Duration::from_secs(2), || {
        let server = sandboxed("shutdown_grace: 1", "")?;
        server.deploy("big", "def handle(request):\n    return 'x' * 6000000", json!({}));
        let mut deaf: Vec<Talk> = (0..4).map(|_| Talk::with(&server)).collect();
        deaf.iter_mut().for_each(|talk| {
            talk.send(&request("big", ""));
        });
        eventually("they are answered", || (server.stats("big")["succeeded"] == 4).then_some(()));
        let begun = Instant::now();
        server.signal(Signal::SIGTERM);
        let (home, status) = server.ended();
        let took = begun.elapsed();
        assert_eq!(status.code(), Some(0), "{}", home.log());
        let mut rest = Vec::new();
        let _ = deaf[0].0.read_to_end(&mut rest);
        Some(took)
    });
}

// ---- One instance ----

#[test]
fn an_instance_that_was_stopped_ends_its_call_within_the_drain_timeout_or_is_killed() {
    let Some(server) = sandboxed("drain_timeout: 4", "") else { return };
    server.deploy("slow", SLOW, json!({"max_instances": 1}));
    for (seconds, status) in [("2", 200), ("60", 503)] {
        std::thread::scope(|scope| {
            let call = scope.spawn(|| server.invoke("slow", seconds));
            server.await_load("slow", 1, 0);
            let id = server.instances("slow")[0]["id"].clone();
            let begun = Instant::now();
            assert_eq!(server.call("DELETE", &format!("/instances/{}", id.as_str().unwrap()), "").status, 202);
            let next = scope.spawn(|| server.invoke("slow", "0"));
            let reply = call.join().unwrap();
            assert_eq!(reply.status, status, "{}", reply.text());
            if status == 503 {
                assert!(reply.refused(503, "instance_stopped").contains("drain_timeout, 4000 ms"));
                assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
            }
            server.await_end("slow", &id);
            assert_eq!(next.join().unwrap().text(), "\"done\"");
        });
    }
    assert_eq!(ends_in_log(&server, "slow", "system.drain_timeout, 4000 ms"), 1);
}
