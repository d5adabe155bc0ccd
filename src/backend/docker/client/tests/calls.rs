//! Engines that do what they should.

use super::*;
use crate::limits::ENGINE_READS_PER_TURN_MAX;

#[test]
fn calls_one_after_the_other_share_a_connection() {
    let engine = Engine::new(|listener| assert_eq!(Peer::accept(&listener).echo(), 3));
    let mut caller = engine.caller();
    caller.client.set_version(ApiVersion { major: 1, minor: 41 });
    let versioned = Request { is_versioned: true, ..post("/containers/create") };
    for (request, target) in [(get("/a"), "/a"), (versioned, "/v1.41/containers/create"), (get("/b"), "/b")] {
        let call = caller.submit(request);
        assert_eq!(caller.reply(call), (200, target.to_owned()));
        assert_eq!(connections(&caller.client), 1);
    }
    engine.finish_after(caller);
}

#[test]
fn an_engine_that_says_close_gets_a_new_connection() {
    let engine = Engine::new(|listener| {
        for _ in 0..2 {
            let mut peer = Peer::asked(&listener);
            peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").wait_for_end();
        }
    });
    let mut caller = engine.caller();
    for _ in 0..2 {
        let call = caller.submit(get("/a"));
        assert_eq!(caller.reply(call), (200, "ok".to_owned()));
        assert_eq!(connections(&caller.client), 0);
    }
    engine.finish();
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole_then() {
    let engine = Engine::new(|listener| {
        let mut peer = Peer::asked(&listener);
        peer.send("HTTP/1.1 200 OK\r\n\r\nhello ").send("world");
    });
    let mut caller = engine.caller();
    let call = caller.submit(get("/a"));
    assert_eq!(caller.reply(call), (200, "hello world".to_owned()));
    assert_eq!(connections(&caller.client), 0);
    engine.finish();
}

#[test]
fn any_status_is_a_reply_and_a_refused_stream_too() {
    let engine = Engine::new(|listener| {
        let mut peer = Peer::accept(&listener);
        for _ in 0..2 {
            peer.request();
            peer.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 18\r\n\r\n{\"message\":\"full\"}");
        }
        peer.request();
        peer.send("HTTP/1.1 304 Not Modified\r\n\r\n");
        peer.request();
    });
    let mut caller = engine.caller();
    // What is allowed is about good answers: the reason of a bad one is heard all the same.
    let call = caller.submit(request(Method::Post, "/a", ReplyKind::Whole { bytes_max: 2 }));
    assert_eq!(caller.reply(call), (500, "{\"message\":\"full\"}".to_owned()));
    let call = caller.submit(stream("/events"));
    assert_eq!(caller.reply(call), (500, "{\"message\":\"full\"}".to_owned()));
    let call = caller.submit(post("/containers/a/start"));
    assert_eq!(caller.reply(call), (304, String::new()));
    engine.finish_after(caller);
}

#[test]
fn a_stream_is_handed_on_as_it_comes_and_its_connection_is_used_again() {
    let (told, heard) = std::sync::mpsc::channel();
    let engine = Engine::new(move |listener| {
        let mut peer = Peer::asked(&listener);
        peer.send(CHUNKED);
        for piece in ["5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"] {
            // Not before the client has had what came before.
            heard.recv().unwrap();
            peer.send(piece);
        }
        assert_eq!(peer.echo(), 1);
    });
    let mut caller = engine.caller();
    let call = caller.submit(stream("/events"));
    assert!(matches!(caller.next(), News::Head { call: of, status: 200 } if of == call));
    for piece in ["first", "second"] {
        told.send(()).unwrap();
        assert!(matches!(caller.next(), News::Chunk { call: of, bytes } if of == call && bytes == piece.as_bytes()));
    }
    told.send(()).unwrap();
    assert!(matches!(caller.next(), News::End { call: of } if of == call));
    caller.echoed("/a");
    engine.finish_after(caller);
}

#[test]
fn a_long_request_and_a_long_answer_pass_each_other() {
    let length = 3_000_000;
    let engine = Engine::new(move |listener| {
        let mut peer = Peer::accept(&listener);
        let request = peer.request();
        peer.answer(&request[request.len() - length..]);
        assert_eq!(peer.echo(), 1);
    });
    let mut caller = engine.caller();
    let mut long = post("/images/load");
    long.body = Some(b"0123456789".repeat(length / 10));
    long.reply = ReplyKind::Whole { bytes_max: length };
    let body = String::from_utf8(long.body.clone().unwrap()).unwrap();
    let call = caller.submit(long);
    let (status, answer) = caller.reply(call);
    assert!(status == 200 && answer == body, "{} bytes of another kind", answer.len());
    caller.echoed("/a");
    engine.finish_after(caller);
}

#[test]
fn a_flood_does_not_keep_other_calls_from_their_answers() {
    let engine = Engine::new(|listener| {
        let mut flood = Peer::accept(&listener);
        let mut other = Peer::accept(&listener);
        flood.request();
        flood.send(CHUNKED);
        let flooding = std::thread::spawn(move || {
            let chunk = format!("{:x}\r\n{}\r\n", 30_000, "x".repeat(30_000));
            while flood.0.write_all(chunk.as_bytes()).is_ok() {}
        });
        other.echo();
        flooding.join().unwrap();
    });
    let mut caller = engine.caller();
    let flood = caller.submit(stream("/flood"));
    for _ in 0..20 {
        let call = caller.submit(get("/a"));
        while !matches!(caller.next(), News::Reply { call: of, status: 200, .. } if of == call) {}
    }
    // Nobody takes the news: then no more is read than may wait.
    let until = Instant::now() + PATIENCE;
    while caller.client.news.len() < ENGINE_NEWS_MAX || caller.client.more_since.is_none() {
        assert!(Instant::now() < until, "{} news", caller.client.news.len());
        caller.poll.poll(&mut caller.events, Some(Duration::ZERO)).unwrap();
        let now = Instant::now();
        for event in &caller.events {
            caller.client.ready(caller.poll.registry(), event, now);
        }
        caller.client.expire(caller.poll.registry(), now);
    }
    for _ in 0..10 {
        caller.client.expire(caller.poll.registry(), Instant::now());
    }
    assert!(
        caller.client.news.len() <= ENGINE_NEWS_MAX + ENGINE_READS_PER_TURN_MAX,
        "{} news",
        caller.client.news.len()
    );
    let wake = caller.client.next_wake();
    assert!(wake.is_none_or(|wake| wake > Instant::now()), "it would turn for nothing");
    // They are taken: it goes on.
    caller.turn(Duration::ZERO);
    caller.heard.clear();
    assert!(matches!(caller.next(), News::Chunk { call, .. } if call == flood));
    caller.cancel(flood);
    caller.heard.clear();
    caller.hears_nothing(Duration::from_millis(50));
    engine.finish_after(caller);
}

#[test]
fn calls_beyond_the_connections_wait_for_one_in_their_order() {
    let count = 3 * ENGINE_CONNECTIONS_MAX;
    let engine = Engine::new(move |listener| {
        let peers: Vec<Peer> = (0..ENGINE_CONNECTIONS_MAX).map(|_| Peer::accept(&listener)).collect();
        let echoing = peers.into_iter().map(|mut peer| std::thread::spawn(move || peer.echo()));
        let total: usize = echoing.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(total, count);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "a connection beyond the limit");
    });
    let mut caller = engine.caller();
    let calls: Vec<CallId> = (0..count).map(|at| caller.submit(get(&format!("/{at}")))).collect();
    assert_eq!(
        (connections(&caller.client), caller.client.waiting.len()),
        (ENGINE_CONNECTIONS_MAX, count - ENGINE_CONNECTIONS_MAX)
    );
    let mut answered = Vec::new();
    for _ in 0..count {
        let News::Reply { call, status: 200, body } = caller.next() else { panic!("no reply") };
        let at = calls.iter().position(|known| *known == call).unwrap();
        assert_eq!(body, format!("/{at}").as_bytes(), "the answer of another call");
        answered.push(at);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..count).collect::<Vec<_>>());
    engine.finish_after(caller);
}

#[test]
fn streams_leave_connections_to_calls_that_end() {
    let (told, heard) = std::sync::mpsc::channel();
    let engine = Engine::new(move |listener| {
        let mut streams: Vec<Peer> = (0..ENGINE_STREAMS_MAX).map(|_| Peer::accept(&listener)).collect();
        for peer in &mut streams {
            peer.request();
            peer.send(CHUNKED);
        }
        let mut other = Peer::accept(&listener);
        assert_eq!(other.request().split(' ').nth(1), Some("/a"));
        other.answer("/a");
        // One more stream begins when another one has ended, on the connection that was used last.
        heard.recv().unwrap();
        streams[0].send("0\r\n\r\n");
        assert!(streams[0].request().contains("/last"));
    });
    let mut caller = engine.caller();
    let streams: Vec<CallId> = (0..ENGINE_STREAMS_MAX).map(|_| caller.submit(stream("/events"))).collect();
    for _ in &streams {
        assert!(matches!(caller.next(), News::Head { .. }));
    }
    let last = caller.submit(stream("/last"));
    caller.echoed("/a");
    assert_eq!(caller.client.waiting.len(), 1);
    told.send(()).unwrap();
    assert!(matches!(caller.next(), News::End { call } if call == streams[0]));
    caller.until("the last stream begins", |client| client.waiting.is_empty());
    for call in streams.into_iter().chain([last]) {
        caller.cancel(call);
    }
    caller.turn(Duration::ZERO);
    engine.finish();
}

#[test]
fn a_connection_without_work_is_closed_after_a_while() {
    let engine = Engine::new(|listener| assert_eq!(Peer::accept(&listener).echo(), 1));
    let mut caller = engine.caller();
    let call = caller.submit(get("/a"));
    caller.reply(call);
    let now = Instant::now();
    caller.client.expire(caller.poll.registry(), now);
    assert_eq!(connections(&caller.client), 1);
    let wake = caller.client.next_wake().expect("somebody has to close it");
    assert!(wake <= now + ENGINE_IDLE_TIMEOUT);
    caller.client.expire(caller.poll.registry(), wake);
    assert_eq!((connections(&caller.client), caller.client.next_wake()), (0, None));
    engine.finish();
}

#[test]
fn an_answer_that_takes_many_turns_is_read_to_its_end_though_the_poll_tells_of_it_once() {
    let engine = Engine::new(|listener| {
        let mut peer = Peer::asked(&listener);
        peer.answer(&"x".repeat(10_000));
        peer.request();
    });
    let mut caller = engine.caller();
    // So that a turn is short.
    caller.client.buffer.truncate(100);
    let call = caller.submit(get("/a"));
    let mut turns = 0;
    while caller.heard.is_empty() {
        caller.turn(PATIENCE);
        turns += 1;
    }
    assert!(turns >= 10_000 / (100 * ENGINE_READS_PER_TURN_MAX), "{turns} turns");
    assert_eq!(caller.reply(call).1.len(), 10_000);
    engine.finish_after(caller);
}
