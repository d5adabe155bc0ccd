//! The client of the container engine against a real one.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faas::backend::docker::client::{CallId, Client, News};
use faas::backend::docker::http::request::percent_encoded;
use faas::backend::docker::http::{ApiVersion, Method, ReplyKind, Request};
use faas::limits::ENGINE_CONNECTIONS_MAX;
use mio::{Events, Poll};
use serde_json::{json, Value};

use common::{patience, skip};

struct Caller {
    poll: Poll,
    events: Events,
    client: Client,
}

impl Caller {
    fn submit(&mut self, request: Request) -> CallId {
        self.client.submit(self.poll.registry(), request, Instant::now())
    }

    fn next(&mut self) -> News {
        let until = Instant::now() + patience();
        loop {
            if let Some(news) = self.client.take_news() {
                return news;
            }
            let now = Instant::now();
            assert!(now < until, "nothing is heard of the engine");
            let wake = self.client.next_wake().unwrap_or(until).min(until);
            self.poll.poll(&mut self.events, Some(wake.saturating_duration_since(now))).unwrap();
            let now = Instant::now();
            for event in &self.events {
                self.client.ready(self.poll.registry(), event, now);
            }
            self.client.expire(self.poll.registry(), now);
        }
    }

    /// The whole answer to a request: its status, and its body as JSON, or null.
    fn call(&mut self, request: Request) -> (u16, Value) {
        let path = request.path.clone();
        let call = self.submit(request);
        match self.next() {
            News::Reply { call: of, status, body } if of == call => {
                (status, serde_json::from_slice(&body).unwrap_or_default())
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

fn request(method: Method, path: &str, body: Option<Value>) -> Request {
    Request {
        method,
        path: path.to_owned(),
        is_versioned: true,
        body: body.map(|body| body.to_string().into_bytes()),
        reply: ReplyKind::Whole { bytes_max: 16 << 20 },
        timeout: patience(),
        registry_auth: None,
        idle_timeout: None,
    }
}

fn get(path: &str) -> Request {
    request(Method::Get, path, None)
}

#[test]
fn an_engine_answers_calls_and_streams_its_events() {
    let socket = match common::engine::Engine::shared() {
        Ok(engine) => engine.socket().to_owned(),
        Err(reason) => return skip(reason),
    };
    let mut caller =
        Caller { poll: Poll::new().unwrap(), events: Events::with_capacity(64), client: Client::new(socket, 1) };

    for method in [Method::Get, Method::Head] {
        let ping = Request { method, is_versioned: false, reply: ReplyKind::Whole { bytes_max: 100 }, ..get("/_ping") };
        assert_eq!(caller.call(ping).0, 200);
    }
    let (status, version) = caller.call(Request { is_versioned: false, ..get("/version") });
    let newest = ApiVersion::parse(version["ApiVersion"].as_str().unwrap()).expect("two numbers");
    assert_eq!(status, 200);
    caller.client.set_version(newest);
    let (status, containers) = caller.call(get("/containers/json?all=1"));
    assert!(status == 200 && containers.is_array(), "{status}: {containers}");
    let (status, error) = caller.call(get("/containers/faas-test-none/json"));
    assert!(status == 404 && error["message"].is_string(), "{status}: {error}");
    // A path is one path, whatever is in it.
    assert_eq!(caller.call(get("/containers/a b\r\nX: y/json")).0, 404);

    let name = format!("faas-test-{}", std::process::id());
    let filters = percent_encoded(&json!({ "type": ["volume"], "volume": [name] }).to_string());
    // Docker answers the head first and listens afterwards: what happens between is told only if it is asked for.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let stream = Request { reply: ReplyKind::Stream, ..get(&format!("/events?since={now}&filters={filters}")) };
    let events = caller.submit(stream);
    assert!(matches!(caller.next(), News::Head { call, status: 200 } if call == events));
    let made = caller.submit(request(Method::Post, "/volumes/create", Some(json!({ "Name": name }))));
    let (mut is_made, mut told) = (false, Vec::new());
    while !(is_made && told.contains(&b'\n')) {
        match caller.next() {
            News::Reply { call, status: 201, .. } if call == made => is_made = true,
            News::Chunk { call, bytes } if call == events => told.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    let event: Value = serde_json::from_slice(told.split(|&byte| byte == b'\n').next().unwrap()).unwrap();
    assert_eq!((&event["Type"], &event["Action"]), (&json!("volume"), &json!("create")));
    caller.client.cancel(caller.poll.registry(), events);
    assert_eq!(caller.call(request(Method::Delete, &format!("/volumes/{name}"), None)).0, 204);

    // More calls than connections, all at once.
    let begun = Instant::now();
    let mut open: Vec<CallId> = (0..10 * ENGINE_CONNECTIONS_MAX).map(|_| caller.submit(get("/info"))).collect();
    while !open.is_empty() {
        let News::Reply { call, status: 200, .. } = caller.next() else { panic!("no answer") };
        open.retain(|known| *known != call);
    }
    println!("{} calls took {:?}", 10 * ENGINE_CONNECTIONS_MAX, begun.elapsed());
    let short = Request { timeout: Duration::from_nanos(1), ..get("/info") };
    let call = caller.submit(short);
    let late = matches!(caller.next(), News::Failed { call: of, .. } if of == call);
    assert!(late, "nobody answers within a nanosecond");
}
