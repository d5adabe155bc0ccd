//! HTTP over real sockets: what a connection may be used for, how its end is met, and the limits of what is sent.
//!
//! The grammar is tested where it is parsed, `src/http/tests`; here is what only a socket can show.
#![allow(clippy::unwrap_used)] // in helpers of tests, too

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use common::{eventually, is_root, skip, Reply, Server};
use serde_json::{json, Value};

const ECHO: &str = "def handle(request):\n    return request.body\n";
const SLOW: &str = "def handle(request):\n    time.sleep(float(request.query_params['s']))\n    return 'done'\n";
const KEY: &str = "Authorization: Bearer demo-key\r\n";

fn server_with(limits: &str) -> Option<Server> {
    if is_root() {
        let rest = if limits.is_empty() { String::new() } else { format!("limits:\n{limits}") };
        return Some(Server::with("", &rest));
    }
    skip("process mode at level strict needs root");
    None
}

fn server() -> Option<Server> {
    server_with("")
}

fn echo_request(body: &str) -> Vec<u8> {
    format!("POST /invoke/echo HTTP/1.1\r\nHost: h\r\n{KEY}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn slow_request(seconds: &str) -> Vec<u8> {
    format!("GET /invoke/slow?s={seconds} HTTP/1.1\r\nHost: h\r\n{KEY}\r\n").into_bytes()
}

/// A connection that stays open.
struct Talk(BufReader<TcpStream>);

impl Talk {
    fn with(server: &Server) -> Talk {
        Talk(BufReader::new(server.connect()))
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Talk {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
        self
    }

    fn read(&mut self) -> Reply {
        Reply::read(&mut self.0, false)
    }

    /// Whether the server has closed, once everything was read.
    fn is_over(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}

fn slow_stats(server: &Server) -> Value {
    server.get("/stats/functions/slow").json()
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let Some(server) = server() else { return };
    server.deploy("echo", ECHO, json!({}));
    let mut talk = Talk::with(&server);
    for body in ["one", "", "three"] {
        assert_eq!(talk.send(echo_request(body)).read().text(), body);
    }
    // Refusals of every kind leave it usable.
    for (request, status) in [
        ("GET /functions HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 401),
        (format!("GET /none HTTP/1.1\r\nHost: h\r\n{KEY}\r\n"), 404),
        (format!("PATCH /functions HTTP/1.1\r\nHost: h\r\n{KEY}Content-Length: 3\r\n\r\nabc"), 405),
        (format!("POST /functions HTTP/1.1\r\nHost: h\r\n{KEY}Content-Length: 1\r\n\r\n{{"), 400),
        (format!("DELETE /functions/echo HTTP/1.1\r\nHost: h\r\n{KEY}\r\n"), 204),
        ("GET http://example.org/health HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 200),
    ] {
        assert_eq!(talk.send(&request).read().status, status, "{request}");
    }
    let last = talk.send("GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").read();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(talk.is_over());
}

#[test]
fn an_old_client_gets_one_answer_unless_it_asks_to_stay() {
    let Some(server) = server() else { return };
    let mut talk = Talk::with(&server);
    assert_eq!(talk.send("GET /health HTTP/1.0\r\n\r\n").read().header("connection"), Some("close"));
    assert!(talk.is_over());
    let mut talk = Talk::with(&server);
    for _ in 0..2 {
        let reply = talk.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").read();
        assert_eq!(reply.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let Some(server) = server() else { return };
    server.deploy("echo", ECHO, json!({}));
    let mut talk = Talk::with(&server);
    let mut all = Vec::new();
    let mut expected = Vec::new();
    for number in 0..300 {
        if number % 50 == 7 {
            // One that a control thread answers, and one that is refused, are not overtaken.
            all.extend_from_slice(format!("GET /stats HTTP/1.1\r\nHost: h\r\n{KEY}\r\n").as_bytes());
            all.extend_from_slice(b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n");
            expected.extend([(200, None), (401, None)]);
        }
        let body = format!("{number}{}", "x".repeat(number * 7));
        all.extend(echo_request(&body));
        expected.push((200, Some(body)));
    }
    // They are more than the server holds for one connection, so somebody must read while this is written.
    let mut writer = talk.0.get_ref().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&all).unwrap());
        for (at, (status, body)) in expected.into_iter().enumerate() {
            let reply = talk.read();
            assert_eq!(reply.status, status, "answer {at}: {}", reply.text());
            assert!(body.is_none_or(|body| body == reply.text()), "answer {at}");
        }
    });
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let Some(server) = server() else { return };
    server.deploy("echo", ECHO, json!({}));
    let mut talk = Talk::with(&server);
    let mut request = echo_request("in pieces");
    request.extend_from_slice(
        format!(
            "POST /invoke/echo HTTP/1.1\r\nHost: h\r\n{KEY}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        .as_bytes(),
    );
    for byte in request {
        talk.send([byte]);
    }
    assert_eq!(talk.read().text(), "in pieces");
    assert_eq!(talk.read().text(), "abc");
}

#[test]
fn a_body_may_come_in_chunks() {
    let Some(server) = server() else { return };
    server.deploy("echo", ECHO, json!({}));
    let mut talk = Talk::with(&server);
    let head = format!("POST /invoke/echo HTTP/1.1\r\nHost: h\r\n{KEY}Transfer-Encoding: chunked\r\n\r\n");
    talk.send(format!("{head}5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n"));
    assert_eq!(talk.read().text(), "hello world");
    talk.send(&head).send("0\r\n\r\n");
    assert_eq!(talk.read().text(), "");
    // A megabyte, which is more than one message to the instance.
    let chunk = format!("10000\r\n{}\r\n", "c".repeat(0x10000));
    talk.send(&head).send(chunk.repeat(16)).send("0\r\n\r\n");
    assert_eq!(talk.read().body.len(), 16 * 0x10000);
    let reply = talk.send(&head).send("5\r\nhelloX").read();
    reply.refused(400, "bad_request");
    assert!(talk.is_over(), "nobody knows where the next request begins");
}

#[test]
fn a_client_that_expects_100_continue_is_told_before_it_sends() {
    let Some(server) = server() else { return };
    server.deploy("echo", ECHO, json!({}));
    let head = |key: &str, length: usize| {
        format!(
            "POST /invoke/echo HTTP/1.1\r\nHost: h\r\n{key}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut talk = Talk::with(&server);
    talk.send(head(KEY, 5));
    let mut interim = [0; 25];
    talk.0.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(talk.send("hello").read().text(), "hello");

    // Without a key, or with too much: the verdict at once, and no byte of the body is asked for.
    Talk::with(&server).send(head("", 5)).read().refused(401, "unauthorized");
    Talk::with(&server).send(head(KEY, 7 << 20)).read().refused(413, "payload_too_large");
    let other = format!("POST /invoke/echo HTTP/1.1\r\nHost: h\r\n{KEY}Expect: 200-ok\r\nContent-Length: 1\r\n\r\n");
    Talk::with(&server).send(other).read().refused(417, "expectation_failed");
}

#[test]
fn what_is_too_large_is_refused_by_name_even_if_it_is_never_read() {
    let Some(server) = server() else { return };
    server.deploy("echo", ECHO, json!({}));
    let long = "a".repeat(9 * 1024);
    let fields: String = (0..65).map(|number| format!("X-{number}: 1\r\n")).collect();
    for (head, status, code) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414, "uri_too_long"),
        (format!("GET /health HTTP/1.1\r\nHost: h\r\nA: {long}\r\nB: {long}\r\n\r\n"), 431, "headers_too_large"),
        (format!("GET /health HTTP/1.1\r\nHost: h\r\n{fields}\r\n"), 431, "headers_too_large"),
        (
            format!("POST /functions HTTP/1.1\r\nHost: h\r\n{KEY}Content-Length: 99999999\r\n\r\n"),
            413,
            "payload_too_large",
        ),
    ] {
        let reply = Reply::parse(&server.raw(head.as_bytes()), false);
        reply.refused(status, code);
        assert_eq!(reply.header("connection"), Some("close"), "{code}");
    }
    // The whole body is sent before the answer is read: the answer survives it.
    for coding in
        ["Content-Length: 8000000\r\n\r\n".to_owned(), "Transfer-Encoding: chunked\r\n\r\n7a1200\r\n".to_owned()]
    {
        let mut request = format!("POST /invoke/echo HTTP/1.1\r\nHost: h\r\n{KEY}{coding}").into_bytes();
        request.resize(request.len() + 200_000, b'x');
        let reply = Reply::parse(&server.raw(&request), false);
        assert!(reply.refused(413, "payload_too_large").contains("6291456"), "{}", reply.text());
    }
}

#[test]
fn bodies_up_to_the_limit_go_through_in_both_directions() {
    let Some(server) = server() else { return };
    server.deploy("echo", ECHO, json!({}));
    server.deploy("big", "def handle(request):\n    return b'x' * request.get_json()\n", json!({}));
    let body: Vec<u8> = (0..6 << 20).map(|at: u32| (at % 251) as u8).collect();
    let reply = server.send("POST", "/invoke/echo", &[("Authorization", "Bearer demo-key")], &body);
    assert!(reply.status == 200 && reply.body == body, "{}: {} bytes", reply.status, reply.body.len());
    let reply = server.post("/invoke/big", &(6 << 20).to_string());
    assert_eq!((reply.status, reply.body.len()), (200, 6 << 20));
    let reply = server.post("/invoke/big", &((6 << 20) + 1).to_string());
    assert!(reply.refused(502, "response_too_large").contains("6291456"));
    // The instance survived its answer.
    let reply = server.post("/invoke/big", "3");
    assert_eq!((reply.text().as_str(), reply.header("x-faas-cold-start")), ("xxx", Some("false")));
}

#[test]
fn the_limits_of_bodies_can_be_configured() {
    let Some(server) = server_with("  max_request_body: 1024\n  max_response_body: 2Ki\n") else { return };
    server.deploy("echo", ECHO, json!({}));
    server.deploy("big", "def handle(request):\n    return 'x' * request.get_json()\n", json!({}));
    assert_eq!(server.post("/invoke/echo", &"x".repeat(1024)).body.len(), 1024);
    assert!(server.post("/invoke/echo", &"x".repeat(1025)).refused(413, "payload_too_large").contains("1024"));
    // The two quotation marks of the JSON are part of the answer.
    assert_eq!(server.post("/invoke/big", "2046").status, 200);
    assert!(server.post("/invoke/big", "2047").refused(502, "response_too_large").contains("2048"));
    // The API itself has a limit of its own.
    server.deploy("long", &format!("{ECHO}# {}", "x".repeat(5000)), json!({}));
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    let Some(server) = server() else { return };
    server.deploy("slow", SLOW, json!({}));
    let mut talk = Talk::with(&server);
    talk.send(slow_request("0.1")).send(slow_request("0"));
    talk.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!((talk.read().json(), talk.read().json()), (json!("done"), json!("done")));
    assert!(talk.is_over());
    // What was not sent whole is a malformed request, and is told so.
    let mut talk = Talk::with(&server);
    talk.send("GET /health HTT");
    talk.0.get_ref().shutdown(Shutdown::Write).unwrap();
    talk.read().refused(400, "bad_request");
}

/// The client's end of a connection on which it has sent a slow request and its FIN.
fn half_closed(server: &Server, request: &[u8]) -> Talk {
    let mut talk = Talk::with(server);
    talk.send(request);
    talk.0.get_ref().shutdown(Shutdown::Write).unwrap();
    talk
}

fn slow_request_1_0(seconds: &str) -> Vec<u8> {
    format!("GET /invoke/slow?s={seconds} HTTP/1.0\r\n{KEY}\r\n").into_bytes()
}

#[test]
fn a_client_that_has_closed_and_gone_frees_its_place_in_the_queue_and_its_running_call_is_abandoned() {
    let Some(server) = server() else { return };
    server.deploy("slow", SLOW, json!({"max_instances": 1}));
    let running = Talk::with(&server).send(slow_request("8")).0.get_ref().try_clone().unwrap();
    eventually("one runs", || (slow_stats(&server)["running"] == 1).then_some(()));
    let queued = Talk::with(&server).send(slow_request("0")).0.get_ref().try_clone().unwrap();
    let mut patient = half_closed(&server, &slow_request("0"));
    let mut silent = half_closed(&server, &slow_request_1_0("0"));
    eventually("three wait", || (slow_stats(&server)["queued"] == 3).then_some(()));
    // Not a reset: all that the server hears is a FIN, as of the two that wait.
    drop((running, queued));
    eventually("the one that has gone waits no more", || (slow_stats(&server)["queued"] == 2).then_some(()));
    let stats = slow_stats(&server);
    assert_eq!((&stats["abandoned"], &stats["running"]), (&json!(2), &json!(1)), "{stats}");
    // It is asked once, or again if the running call takes long.
    const ASKED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut times = 0;
    while patient.0.fill_buf().unwrap().starts_with(ASKED) {
        patient.0.consume(ASKED.len());
        times += 1;
    }
    assert!(times > 0, "it is not asked whether it waits");
    // The call of nobody has run to its end; these two were there all the time.
    assert_eq!((patient.read().json(), silent.read().json()), (json!("done"), json!("done")));
    assert!(patient.is_over() && silent.is_over());
    let stats = slow_stats(&server);
    assert_eq!((&stats["succeeded"], &stats["abandoned"], &stats["failed"]), (&json!(2), &json!(2), &json!(0)));
}

#[test]
fn a_client_that_half_closes_and_is_then_gone_frees_its_place_in_the_queue() {
    let Some(server) = server() else { return };
    server.deploy("slow", SLOW, json!({"max_instances": 1}));
    let mut running = Talk::with(&server);
    running.send(slow_request("5"));
    eventually("one runs", || (slow_stats(&server)["running"] == 1).then_some(()));
    // One that only half-closes, and one whose unread requests keep the server from reading on.
    let mut half = Talk::with(&server);
    half.send(slow_request("50"));
    half.0.get_ref().shutdown(Shutdown::Write).unwrap();
    let mut full = Talk::with(&server);
    full.send(slow_request("50").repeat(1000));
    eventually("both wait", || (slow_stats(&server)["queued"] == 2).then_some(()));
    common::reset(half.0.into_inner());
    common::reset(full.0.into_inner());
    eventually("nobody waits", || (slow_stats(&server)["queued"] == 0).then_some(()));
    assert_eq!(running.read().json(), "done");
    assert_eq!(slow_stats(&server)["abandoned"], 2);
    eventually("their connections are gone", || (server.get("/stats").json()["connections"] == 2).then_some(()));
}

#[test]
fn one_connection_too_many_is_refused_with_503_and_a_place_that_gets_free_is_used() {
    let Some(server) = server_with("  max_connections: 3\n") else { return };
    let mut open: Vec<Talk> = (0..3).map(|_| Talk::with(&server)).collect();
    for talk in &mut open {
        assert_eq!(talk.send("GET /health HTTP/1.1\r\nHost: h\r\n\r\n").read().status, 200);
    }
    let reply = Talk::with(&server).read();
    assert!(reply.refused(503, "too_many_connections").contains('3'));
    assert_eq!((reply.header("connection"), reply.header("retry-after")), (Some("close"), Some("1")));
    for talk in &mut open {
        assert_eq!(
            talk.send("GET /health HTTP/1.1\r\nHost: h\r\n\r\n").read().status,
            200,
            "those that are in stay in"
        );
    }
    open.pop();
    eventually("the place is free", || {
        let mut talk = Talk::with(&server);
        (talk.send("GET /health HTTP/1.1\r\nHost: h\r\n\r\n").read().status == 200).then_some(())
    });
}

#[test]
fn connections_that_are_refused_are_bounded_too() {
    let Some(server) = server_with("  max_connections: 1\n") else { return };
    let mut first = Talk::with(&server);
    let mut connections = || {
        let reply = first.send(format!("GET /stats HTTP/1.1\r\nHost: h\r\n{KEY}\r\n")).read();
        reply.json()["connections"].as_u64().unwrap()
    };
    assert_eq!(connections(), 1);
    let refused: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    for mut stream in refused {
        assert!(connections() <= 65, "one, and 64 that are being told");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&answer));
    }
    eventually("they are gone", || (connections() == 1).then_some(()));
}

#[test]
fn what_is_not_http_is_answered_with_400_and_closed() {
    let Some(server) = server() else { return };
    for bytes in [
        "hello\r\n\r\n".as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\nBad Name: 1\r\n\r\n",
        b"GET /health HTTP/1.1\nHost: h\n\n",
        b"GET health HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        let reply = Reply::parse(&server.raw(bytes), false);
        reply.refused(400, "bad_request");
        assert_eq!(reply.header("connection"), Some("close"));
    }
    Reply::parse(&server.raw(b"GET / HTTP/2.0\r\nHost: h\r\n\r\n"), false).refused(505, "version_not_supported");
    assert_eq!(server.get("/health").status, 200);
}

/// The answer to one of several calls that fail together lets in what its client had sent behind it.
#[test]
fn calls_that_fail_together_are_all_answered_while_one_connection_goes_on() {
    let Some(server) = server() else { return };
    let bad = "time.sleep(4)\nraise RuntimeError('never loads')\ndef handle(request): pass\n";
    server.deploy("bad", bad, json!({"max_instances": 1}));
    server.deploy("echo", ECHO, json!({}));
    let bad_request = format!("GET /invoke/bad HTTP/1.1\r\nHost: h\r\n{KEY}\r\n");
    let mut first = Talk::with(&server);
    first.send(&bad_request).send(echo_request("behind it"));
    // The first one is what an instance is started for, and the others wait behind it.
    eventually("the first call to begin", || (server.get("/stats/functions/bad").json()["running"] == 1).then_some(()));
    let mut others: Vec<Talk> = (0..4).map(|_| Talk::with(&server)).collect();
    for other in &mut others {
        other.send(&bad_request);
    }
    assert_eq!(first.read().code(), "function_load_error");
    for other in &mut others {
        assert_eq!(other.read().code(), "function_load_error");
    }
    assert_eq!(first.read().text(), "behind it");
}
