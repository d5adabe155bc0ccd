//! The client against engines that follow a script, each in a thread: `calls` when all goes well, `faults` when it does
//! not, `storm` when everything goes wrong in random order.

mod calls;
mod faults;
mod storm;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use tempfile::TempDir;

use super::super::engine_error::EngineError;
use super::super::http::{ApiVersion, Method, ReplyKind, Request};
use super::*;

/// What no wait of a test takes on a machine that works.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_TOKEN: usize = 100;

/// An engine that listens and does what its script says, in a thread of its own.
struct Engine {
    directory: TempDir,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    fn new(script: impl FnOnce(UnixListener) + Send + 'static) -> Engine {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("engine")).unwrap();
        let thread = std::thread::spawn(move || script(listener));
        Engine { directory, thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("engine")
    }

    fn caller(&self) -> Caller {
        Caller::new(self.socket())
    }

    /// Closes the client's connections, and waits for the end of a script that waits for that.
    fn finish_after(self, caller: Caller) {
        drop(caller);
        self.finish();
    }

    /// Waits for the end of the script, which fails the test if the script did.
    fn finish(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The engine's end of a connection.
struct Peer(UnixStream);

impl Peer {
    fn accept(listener: &UnixListener) -> Peer {
        let until = Instant::now() + PATIENCE;
        listener.set_nonblocking(true).unwrap();
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert!(Instant::now() < until, "nobody connects: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        listener.set_nonblocking(false).unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer(stream)
    }

    /// A connection whose first request has been read.
    fn asked(listener: &UnixListener) -> Peer {
        let mut peer = Peer::accept(listener);
        peer.request();
        peer
    }

    /// A connection whose first request has been answered: [`Caller::first`] is the other side.
    fn after_first(listener: &UnixListener) -> Peer {
        let mut peer = Peer::asked(listener);
        peer.answer("first");
        peer
    }

    /// The next request, whole; empty when the client has closed the connection instead.
    fn request(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(1) => bytes.push(byte[0]),
                _ => {
                    assert!(bytes.is_empty(), "half a request: {}", String::from_utf8_lossy(&bytes));
                    return String::new();
                }
            }
        }
        let head = String::from_utf8(bytes).unwrap();
        let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        head + std::str::from_utf8(&body).unwrap()
    }

    /// What is sent may find nobody there any more.
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Peer {
        let _ = self.0.write_all(bytes.as_ref());
        self
    }

    fn answer(&mut self, body: &str) -> &mut Peer {
        self.send(answer(body))
    }

    /// Takes requests and answers each with its target, until the client closes the connection; so many they were.
    fn echo(&mut self) -> usize {
        let mut count = 0;
        loop {
            let request = self.request();
            let Some(target) = request.split(' ').nth(1) else { return count };
            self.answer(target);
            count += 1;
        }
    }

    /// Waits until the client has closed the connection.
    fn wait_for_end(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("the client closes the connection");
    }
}

/// The head of an answer in chunks.
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A client with its loop.
struct Caller {
    poll: Poll,
    events: Events,
    client: Client,
    /// News that came while a test waited for other news.
    heard: VecDeque<News>,
}

impl Caller {
    fn new(socket: PathBuf) -> Caller {
        let client = Client::new(socket, FIRST_TOKEN);
        Caller { poll: Poll::new().unwrap(), events: Events::with_capacity(64), client, heard: VecDeque::new() }
    }

    fn submit(&mut self, request: Request) -> CallId {
        self.client.submit(self.poll.registry(), request, Instant::now())
    }

    fn cancel(&mut self, call: CallId) {
        self.client.cancel(self.poll.registry(), call);
    }

    /// One turn of the loop, which waits no longer than this.
    fn turn(&mut self, longest: Duration) {
        let now = Instant::now();
        let wake = self.client.next_wake().map(|wake| wake.saturating_duration_since(now));
        self.poll.poll(&mut self.events, Some(wake.unwrap_or(longest).min(longest))).unwrap();
        let now = Instant::now();
        for event in &self.events {
            assert!(self.client.owns(event.token()), "{event:?}");
            self.client.ready(self.poll.registry(), event, now);
        }
        self.client.expire(self.poll.registry(), now);
        while let Some(news) = self.client.take_news() {
            self.heard.push_back(news);
        }
        self.check();
    }

    /// What holds between two turns.
    fn check(&self) {
        let calls: Vec<CallId> =
            self.client.connections.iter().flatten().filter_map(|c| c.call().map(|c| c.id)).collect();
        let mut both = calls.clone();
        both.extend(self.client.waiting.iter().map(|call| call.id));
        let count = both.len();
        both.sort_unstable();
        both.dedup();
        assert_eq!(both.len(), count, "a call is in two places: {both:?}");
        assert!(self.client.streams() <= ENGINE_STREAMS_MAX);
        assert!(self.client.waiting.len() <= ENGINE_QUEUE_MAX + ENGINE_CONNECTIONS_MAX);
    }

    /// The next news of any call.
    fn next(&mut self) -> News {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(news) = self.heard.pop_front() {
                return news;
            }
            assert!(Instant::now() < until, "nothing is heard: {:?}", self.client);
            self.turn(Duration::from_millis(50));
        }
    }

    /// The answer to a call, of which the next news must be.
    #[track_caller]
    fn reply(&mut self, call: CallId) -> (u16, String) {
        match self.next() {
            News::Reply { call: of, status, body } if of == call => (status, String::from_utf8(body).unwrap()),
            other => panic!("{call:?}: {other:?}"),
        }
    }

    /// A call that the engine answers with its target.
    #[track_caller]
    fn echoed(&mut self, path: &str) {
        let call = self.submit(get(path));
        assert_eq!(self.reply(call), (200, path.to_owned()));
    }

    /// A call that the engine answers, so that there is a connection that has been used.
    #[track_caller]
    fn first(&mut self) {
        let call = self.submit(get("/first"));
        assert_eq!(self.reply(call), (200, "first".to_owned()));
    }

    /// Why a call failed, of which the next news must be.
    #[track_caller]
    fn failure(&mut self, call: CallId) -> EngineError {
        match self.next() {
            News::Failed { call: of, error } if of == call => error,
            other => panic!("{call:?}: {other:?}"),
        }
    }

    /// A stream from here to its end, or to the error that broke it.
    #[track_caller]
    fn stream(&mut self, call: CallId) -> (Vec<u8>, Result<(), EngineError>) {
        let mut all = Vec::new();
        loop {
            match self.next() {
                News::Chunk { call: of, bytes } if of == call => {
                    assert!(!bytes.is_empty() && bytes.len() <= ENGINE_READ_BYTES);
                    all.extend(bytes);
                }
                News::End { call: of } if of == call => return (all, Ok(())),
                News::Failed { call: of, error } if of == call => return (all, Err(error)),
                other => panic!("{call:?}: {other:?}"),
            }
        }
    }

    /// Lets time pass, in which nothing may be heard.
    #[track_caller]
    fn hears_nothing(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn(Duration::from_millis(10));
            assert!(self.heard.is_empty(), "{:?}", self.heard);
        }
    }

    /// Turns until it is so.
    #[track_caller]
    fn until(&mut self, what: &str, is_so: impl Fn(&Client) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(&self.client) {
            assert!(Instant::now() < until, "in vain: {what}");
            self.turn(Duration::from_millis(10));
        }
    }
}

/// Connections that the client has.
fn connections(client: &Client) -> usize {
    client.connections.iter().flatten().count()
}

fn request(method: Method, path: &str, reply: ReplyKind) -> Request {
    let body = (method == Method::Post).then(|| b"{}".to_vec());
    let path = path.to_owned();
    Request {
        method,
        path,
        is_versioned: false,
        body,
        registry_auth: None,
        reply,
        timeout: PATIENCE,
        idle_timeout: None,
    }
}

fn get(path: &str) -> Request {
    request(Method::Get, path, ReplyKind::Whole { bytes_max: 100_000 })
}

fn post(path: &str) -> Request {
    request(Method::Post, path, ReplyKind::Whole { bytes_max: 100_000 })
}

fn stream(path: &str) -> Request {
    request(Method::Get, path, ReplyKind::Stream)
}

fn within(mut request: Request, timeout: Duration) -> Request {
    request.timeout = timeout;
    request
}
