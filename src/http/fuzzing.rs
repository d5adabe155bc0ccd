//! Any bytes from a client, cut anywhere: nothing panics, what is held stays bounded, the answers do not depend on the
//! cuts, and the connection ends when the client does.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::request_id::RequestIds;
use super::*;
use crate::fuzzing::Steps;
use crate::limits::{HTTP_BODY_COPY_BYTES_MAX, HTTP_OUTPUT_BYTES_MAX};

/// Largest body that is let in.
const BODY_MAX: usize = 100;

/// A client, and a front that echoes bodies.
struct Client {
    conn: Conn,
    stamp: Stamp,
    now: Instant,
    requests: Vec<(String, Vec<u8>)>,
    received: Vec<u8>,
    is_closed: bool,
}

impl Client {
    fn new(now: Instant) -> Client {
        let stamp = Stamp::new(UNIX_EPOCH, RequestIds::from_seed([1; 4]));
        let conn = Conn::new(now, HttpLimits::default());
        Client { conn, stamp, now, requests: Vec::new(), received: Vec::new(), is_closed: false }
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.conn.wants_read() {
            self.conn.received(bytes);
        }
        self.turn();
    }

    fn turn(&mut self) {
        loop {
            match self.conn.poll(self.now, &mut self.stamp, &mut admit) {
                Poll::Request(request) => {
                    assert!(request.body.len() <= BODY_MAX, "a body of {} bytes", request.body.len());
                    let head = &request.head;
                    let what = format!("{} {} {:?}", head.method(), head.path(), head.query());
                    self.requests.push((what, request.body.clone()));
                    self.conn.respond(Response::new(200).with_body(request.body), self.now, &self.stamp);
                }
                Poll::WaitingForResponse => panic!("it was given one"),
                Poll::Close => {
                    self.is_closed = true;
                    return;
                }
                Poll::NeedBytes => {
                    let len = self.conn.output().len() + self.conn.output_tail().len();
                    assert!(len <= HTTP_OUTPUT_BYTES_MAX + 2 * HTTP_BODY_COPY_BYTES_MAX, "{len} bytes of output");
                    if len == 0 {
                        return;
                    }
                    self.received.extend_from_slice(self.conn.output());
                    self.received.extend_from_slice(self.conn.output_tail());
                    self.conn.wrote(len, self.now);
                }
            }
        }
    }

    /// The client ends, and time passes.
    fn finish(&mut self) {
        self.conn.peer_closed();
        self.turn();
        self.now += Duration::from_secs(3600);
        self.conn.expired(self.now, &mut self.stamp);
        self.turn();
        assert!(self.is_closed, "the connection outlives its client");
    }

    /// What was answered, without `100 Continue`, which rightly depends on what has come by then.
    fn seen(self) -> (Vec<(String, Vec<u8>)>, String) {
        let answers = String::from_utf8_lossy(&self.received).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        (self.requests, answers)
    }
}

/// Turns `/denied` away.
fn admit(head: &RequestHead) -> Result<usize, Response> {
    match head.path() {
        "/denied" => Err(Problem::unauthorized("no key").into_response(head.request_id())),
        _ => Ok(BODY_MAX),
    }
}

/// The first byte says how many cuts there are, one byte each says how far the next is; the rest is sent.
pub fn http_connection(input: &[u8]) {
    let mut steps = Steps::new(input);
    let count = usize::from(steps.byte() % 16);
    let cuts = steps.bytes(count);
    let bytes = steps.bytes(usize::MAX);
    let now = Instant::now();

    let mut whole = Client::new(now);
    whole.send(bytes);
    whole.finish();

    let mut pieces = Client::new(now);
    let mut rest = bytes;
    for &cut in cuts {
        let (piece, after) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.send(piece);
        rest = after;
    }
    pieces.send(rest);
    pieces.finish();
    assert_eq!(pieces.seen(), whole.seen(), "the cuts made a difference");
}
