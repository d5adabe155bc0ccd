//! The protocol, tested by sending bytes. `framing` asks what is accepted, `conn` what happens when, `ending` how the
//! server stops, `presence` how a client goes, `random` what nobody thought of.

mod conn;
mod ending;
mod framing;
mod presence;
mod random;

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::request_id::RequestIds;
use super::*;

/// The largest body that the driver's `admit` lets in.
const BODY_MAX: usize = 100;

/// A connection with a virtual clock, an `admit` that knows a few paths, and a front that echoes.
struct Driver {
    conn: Conn,
    stamp: Stamp,
    now: Instant,
    /// Requests so far, as `METHOD path?query body`.
    requests: Vec<String>,
    /// What the client received.
    answers: Vec<u8>,
    is_closed: bool,
    /// Do not answer requests.
    is_holding: bool,
}

impl Driver {
    fn new() -> Driver {
        let now = Instant::now();
        Driver {
            conn: Conn::new(now, HttpLimits::default()),
            stamp: Stamp::new(UNIX_EPOCH, RequestIds::from_seed([1; 4])),
            now,
            requests: Vec::new(),
            answers: Vec::new(),
            is_closed: false,
            is_holding: false,
        }
    }

    /// Sends bytes and lets everything happen that can.
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Driver {
        self.conn.received(bytes.as_ref());
        self.turn()
    }

    fn turn(&mut self) -> &mut Driver {
        while self.poll() || self.write() {}
        self
    }

    /// Polls once; true if that got anywhere.
    fn poll(&mut self) -> bool {
        match self.conn.poll(self.now, &mut self.stamp, &mut admit) {
            Poll::Request(request) => {
                self.requests.push(describe(&request));
                if !self.is_holding {
                    self.respond(Response::new(200).with_body(request.body));
                }
                true
            }
            Poll::NeedBytes | Poll::WaitingForResponse => false,
            Poll::Close => {
                self.is_closed = true;
                false
            }
        }
    }

    fn respond(&mut self, response: Response) {
        self.conn.respond(response, self.now, &self.stamp);
    }

    /// Takes all output; true if there was any.
    fn write(&mut self) -> bool {
        let len = self.conn.output().len() + self.conn.output_tail().len();
        self.answers.extend_from_slice(self.conn.output());
        self.answers.extend_from_slice(self.conn.output_tail());
        self.conn.wrote(len, self.now);
        len > 0
    }

    fn finish(&mut self) -> &mut Driver {
        self.conn.peer_closed();
        self.turn()
    }

    /// Lets time pass as an event loop would: the deadline, then a turn.
    fn wait(&mut self, duration: Duration) -> &mut Driver {
        self.now += duration;
        self.conn.expired(self.now, &mut self.stamp);
        self.turn()
    }

    /// The client's bytes, as text.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.answers).into_owned()
    }

    /// The statuses that the client received, in their order.
    fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        let heads = text.split("HTTP/1.1 ").skip(1);
        // Details speak of versions too, but no number follows there.
        heads.filter_map(|head| head.get(..3)?.parse().ok()).collect()
    }
}

/// Turns `/denied` away, and lets in bodies of up to [`BODY_MAX`] bytes.
fn admit(head: &RequestHead) -> Result<usize, Response> {
    if head.path() == "/denied" {
        return Err(Problem::unauthorized("no key").into_response(head.request_id()));
    }
    Ok(BODY_MAX)
}

fn describe(request: &Request) -> String {
    let head = &request.head;
    let query = head.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{} {}{query} {}", head.method(), head.path(), String::from_utf8_lossy(&request.body))
}
