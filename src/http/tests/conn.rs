//! What happens on a connection, and when.

use super::*;
use crate::limits::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

fn post(len: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n")
}

#[test]
fn requests_are_answered_one_at_a_time_and_in_order() {
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send([post(1), "a".into(), post(1), "b".into()].concat());
    assert_eq!(driver.requests, ["POST / a"]);
    driver.respond(Response::new(201));
    driver.turn();
    assert_eq!(driver.requests, ["POST / a", "POST / b"]);
    driver.respond(Response::new(202));
    assert_eq!(driver.turn().statuses(), [201, 202]);
    assert!(!driver.is_closed);
}

#[test]
fn a_connection_lives_as_long_as_both_sides_want() {
    for (request, says, lives) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "close", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n", "close", false),
        ("GET / HTTP/1.0\r\n\r\n", "close", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "keep-alive", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", "close", false),
    ] {
        let mut driver = Driver::new();
        driver.send(request);
        let text = driver.text();
        let field = text.split_once("\r\nConnection: ").map_or("", |(_, rest)| rest.split_once("\r\n").unwrap().0);
        assert_eq!((field, driver.is_closed), (says, !lives), "{request}");
    }
}

#[test]
fn head_is_answered_with_a_length_and_no_body() {
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    driver.respond(Response::json(200, b"{\"a\":1}".to_vec()));
    driver.turn();
    assert!(driver.text().ends_with("\r\nContent-Length: 7\r\n\r\n"), "{}", driver.text());
}

#[test]
fn every_answer_bears_a_date_and_the_requests_id() {
    let mut driver = Driver::new();
    driver.send("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine-1\r\n\r\n");
    assert!(driver.text().contains("\r\nX-Request-Id: mine-1\r\n"), "{}", driver.text());
    assert!(driver.text().contains("\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"));
    for bad in ["X-Request-Id: a b\r\n", "X-Request-Id: a\r\nX-Request-Id: a\r\n", ""] {
        let mut driver = Driver::new();
        driver.send(format!("GET /denied HTTP/1.1\r\nHost: h\r\n{bad}\r\n"));
        let text = driver.text();
        let (_, id) = text.split_once("X-Request-Id: ").unwrap();
        assert_eq!(id.find("\r\n"), Some(32), "{text}");
        assert!(text.contains(&format!("\"request_id\":\"{}\"", &id[..32])), "{text}");
    }
}

#[test]
fn a_function_sees_neither_the_key_nor_what_concerns_the_connection() {
    let mut driver = Driver::new();
    let fields = "Authorization: Bearer k\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
                  Upgrade: h2c\r\nX-Request-Id: i\r\nExpect: 100-continue\r\nX-Faas-Timeout: 5s\r\nX-Kept: V\r\nContent-Type: t\r\n";
    driver.conn.received(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes());
    let Poll::Request(request) = driver.conn.poll(driver.now, &mut driver.stamp, &mut admit) else { panic!() };
    let forwarded: Vec<(&str, &[u8])> = request.head.forwarded_headers().collect();
    assert_eq!(forwarded, [("host", b"h".as_slice()), ("x-kept", b"V"), ("content-type", b"t")]);
    assert_eq!(request.head.header("authorization"), Some(b"Bearer k".as_slice()));
    assert_eq!(request.head.headers_named("x-hop").count(), 1);
}

#[test]
fn admission_comes_before_100_continue() {
    let expecting = |path: &str, len: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {len}\r\n\r\n")
    };
    let mut driver = Driver::new();
    driver.send(expecting("/", 1));
    assert_eq!(driver.text(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(driver.send("a").requests, ["POST / a"]);
    assert_eq!(driver.statuses(), [100, 200]);
    assert_eq!(Driver::new().send(expecting("/denied", 1)).statuses(), [401]);
    assert_eq!(Driver::new().send(expecting("/", BODY_MAX + 1)).statuses(), [413]);
    assert_eq!(Driver::new().send(expecting("/", 1) + "a").statuses(), [200]);
    assert_eq!(Driver::new().send(expecting("/", 0)).statuses(), [200]);
}

#[test]
fn a_half_closed_client_gets_every_answer() {
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send([GET, GET].concat()).finish();
    assert!(!driver.is_closed && driver.requests.len() == 1);
    driver.respond(Response::new(201));
    driver.turn();
    driver.respond(Response::new(202));
    driver.turn();
    assert_eq!((driver.statuses(), driver.is_closed), (vec![201, 202], true));
}

#[test]
fn a_client_that_leaves_in_the_middle_is_told_so() {
    for (bytes, statuses) in
        [("", vec![]), ("\r\n", vec![]), ("GET / HT", vec![400]), (&post(2), vec![400]), (&(post(2) + "a"), vec![400])]
    {
        let mut driver = Driver::new();
        driver.send(bytes).finish();
        assert_eq!((driver.statuses(), driver.is_closed), (statuses, true), "{bytes:?}");
    }
}

#[test]
fn a_refused_client_is_drained_before_the_connection_closes() {
    let mut driver = Driver::new();
    driver.send(post(BODY_MAX + 1));
    assert_eq!((driver.statuses(), driver.is_closed, driver.conn.wants_read()), (vec![413], false, true));
    assert!(driver.conn.take_half_close(), "the client is shown the end");
    assert!(!driver.conn.take_half_close(), "once");
    driver.send(vec![b'x'; HTTP_DRAIN_BYTES_MAX - 1]);
    assert!(!driver.is_closed);
    driver.send("x");
    assert!(driver.is_closed, "the drain is bounded in bytes");

    let mut driver = Driver::new();
    driver.send(post(BODY_MAX + 1)).wait(HTTP_DRAIN_TIMEOUT);
    assert!(driver.is_closed, "and in time");

    let mut driver = Driver::new();
    driver.send(post(BODY_MAX + 1)).finish();
    assert!(driver.is_closed, "and by the client");
}

#[test]
fn one_connection_too_many_is_told_so() {
    let mut driver = Driver::new();
    let problem = Problem::unavailable("too_many_connections", "8192 connections are open already");
    driver.conn = Conn::refused(driver.now, HttpLimits::default(), problem, &mut driver.stamp);
    assert_eq!(driver.turn().statuses(), [503]);
    assert!(driver.finish().is_closed);
}

#[test]
fn a_slow_head_gets_408_however_it_trickles() {
    let mut driver = Driver::new();
    driver.wait(50 * SECOND);
    for byte in &GET.as_bytes()[..9] {
        driver.send([*byte]).wait(SECOND);
    }
    assert_eq!(driver.statuses(), [0; 0]);
    driver.send("P").wait(SECOND);
    assert_eq!(driver.statuses(), [408]);
    assert!(driver.text().contains("Connection: close") && driver.text().contains("request_timeout"));
}

#[test]
fn a_slow_body_gets_408() {
    let start = || {
        let mut driver = Driver::new();
        driver.send(post(BODY_MAX));
        driver
    };
    let mut silent = start();
    silent.wait(HTTP_BODY_GRACE - SECOND);
    assert_eq!(silent.statuses(), [0; 0]);
    assert_eq!(silent.wait(SECOND).statuses(), [408]);
    let mut trickling = start();
    for _ in 0..9 {
        trickling.send("x").wait(SECOND);
    }
    assert_eq!(trickling.statuses(), [0; 0]);
    assert_eq!(trickling.send("x").wait(SECOND).statuses(), [408]);
}

#[test]
fn a_body_at_the_minimum_rate_gets_the_whole_body_timeout_and_no_more() {
    let mut driver = Driver::new();
    let mut admit = |_: &RequestHead| Ok(1 << 20);
    driver.conn.received(post(1 << 20).as_bytes());
    let start = driver.now;
    while driver.conn.output().is_empty() {
        driver.conn.received(&[b'x'; HTTP_BODY_RATE_MIN as usize]);
        let _ = driver.conn.poll(driver.now, &mut driver.stamp, &mut admit);
        driver.now += SECOND;
        driver.conn.expired(driver.now, &mut driver.stamp);
    }
    assert_eq!(driver.now - start, HTTP_BODY_TIMEOUT);
    assert!(driver.conn.output().starts_with(b"HTTP/1.1 408 "));
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let mut driver = Driver::new();
    assert!(!driver.wait(HTTP_IDLE_TIMEOUT - SECOND).is_closed);
    driver.send(GET);
    assert!(!driver.wait(HTTP_IDLE_TIMEOUT - SECOND).is_closed, "each answer begins a new wait");
    driver.send("\r\n");
    assert!(driver.wait(SECOND).is_closed, "an empty line is not a request");
    assert_eq!(driver.statuses(), [200]);
}

#[test]
fn deadlines_are_armed_anew_for_every_request() {
    let mut driver = Driver::new();
    for _ in 0..20 {
        driver.send("GET / HTTP/1.1\r\n").wait(8 * SECOND).send("Host: h\r\n\r\n").wait(60 * SECOND);
    }
    assert_eq!(driver.statuses(), [200; 20]);
}

#[test]
fn the_client_is_not_timed_while_the_server_works() {
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send([GET, "GET /half"].concat());
    assert_eq!(driver.conn.deadline(), None);
    driver.wait(1000 * SECOND);
    driver.respond(Response::new(200));
    assert_eq!(driver.turn().statuses(), [200]);
    assert_eq!(driver.conn.deadline(), Some(driver.now + HTTP_HEAD_TIMEOUT), "the next head's time begins now");
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let mut driver = Driver::new();
    driver.conn.received(GET.as_bytes());
    while driver.poll() {}
    let step = HTTP_WRITE_STALL_TIMEOUT - SECOND;
    for _ in 0..3 {
        driver.now += step;
        driver.conn.expired(driver.now, &mut driver.stamp);
        driver.conn.wrote(1, driver.now);
    }
    assert!(!driver.conn.output().is_empty(), "each byte taken buys time");
    driver.now += HTTP_WRITE_STALL_TIMEOUT;
    driver.conn.expired(driver.now, &mut driver.stamp);
    assert!(driver.turn().is_closed);
    driver.respond(Response::new(200));
    assert!(driver.conn.output().is_empty(), "a late answer does no harm");
}

#[test]
fn a_pipelining_client_is_held_back() {
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send(GET);
    let mut sent = 0;
    while driver.conn.wants_read() {
        driver.send(GET);
        sent += 1;
    }
    assert_eq!(sent, HTTP_PIPELINE_BYTES_MAX.div_ceil(GET.len()));
    driver.is_holding = false;
    driver.respond(Response::new(200));
    assert_eq!(driver.turn().statuses().len(), 1 + sent);
    assert!(driver.conn.wants_read());
}

#[test]
fn a_client_that_takes_no_answers_gets_no_more_of_them() {
    let mut driver = Driver::new();
    let body = vec![b'x'; HTTP_BODY_COPY_BYTES_MAX];
    driver.is_holding = true;
    let mut answered = 0;
    driver.conn.received(GET.repeat(1000).as_bytes());
    while driver.poll() {
        driver.respond(Response::new(200).with_body(body.clone()));
        answered += 1;
    }
    assert_eq!(answered, HTTP_OUTPUT_BYTES_MAX.div_ceil(driver.conn.output().len() / answered));
    assert_eq!(driver.conn.deadline(), Some(driver.now + HTTP_WRITE_STALL_TIMEOUT));
    driver.write();
    assert!(driver.poll(), "and goes on once it takes them");
}

#[test]
fn a_large_body_is_not_copied_and_nothing_overtakes_it() {
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.conn.received([GET, GET].concat().as_bytes());
    driver.poll();
    let body = vec![b'x'; HTTP_BODY_COPY_BYTES_MAX + 1];
    let address = body.as_ptr();
    driver.respond(Response::new(200).with_body(body));
    assert_eq!(
        (driver.conn.output_tail().as_ptr(), driver.conn.output_tail().len()),
        (address, HTTP_BODY_COPY_BYTES_MAX + 1)
    );
    assert!(!driver.poll(), "the next request waits until the body is taken");
    let head_len = driver.conn.output().len();
    driver.conn.wrote(head_len + 10, driver.now);
    assert_eq!((driver.conn.output().len(), driver.conn.output_tail().len()), (0, HTTP_BODY_COPY_BYTES_MAX - 9));
    driver.write();
    assert!(driver.poll());
}
