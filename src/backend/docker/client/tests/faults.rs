//! Engines that do what they should not, and callers that change their mind.

use super::*;
use crate::limits::ENGINE_ERROR_BODY_BYTES_MAX;
use nix::sys::socket::{bind, listen, socket, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use std::os::fd::AsRawFd;

const SOON: Duration = Duration::from_millis(150);

#[test]
fn an_engine_that_is_not_there_fails_calls_with_the_words_of_the_kernel() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("engine");
    let mut caller = Caller::new(path.clone());
    let words = |caller: &mut Caller| {
        let call = caller.submit(get("/a"));
        let error = caller.failure(call);
        assert!(matches!(&error, EngineError::Unreachable { socket, .. } if *socket == path), "{error:?}");
        error.to_string()
    };
    assert!(words(&mut caller).ends_with("engine cannot be reached: No such file or directory (os error 2)"));
    drop(UnixListener::bind(&path).unwrap());
    assert!(words(&mut caller).contains("Connection refused"), "nobody listens");
    let engine = std::fs::remove_file(&path).and_then(|()| UnixListener::bind(&path)).unwrap();
    let call = caller.submit(get("/a"));
    Peer::accept(&engine).answer("ok");
    assert_eq!(caller.reply(call), (200, "ok".to_owned()), "it is there now");
}

#[test]
fn a_full_backlog_is_waited_for_until_the_deadline() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("engine");
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    // Takes the one place that there is.
    let filler = UnixStream::connect(&path).unwrap();
    let mut caller = Caller::new(path);
    let hopeless = caller.submit(within(get("/a"), SOON));
    let patient = caller.submit(get("/b"));
    assert_eq!(connections(&caller.client), 0);
    assert!(caller.client.next_wake().is_some_and(|wake| wake <= Instant::now() + ENGINE_CONNECT_PAUSE));
    let error = caller.failure(hopeless);
    assert!(matches!(&error, EngineError::TimedOut { what, after } if what == "GET /a" && *after == SOON), "{error:?}");
    let listener = UnixListener::from(listener);
    drop((filler, Peer::accept(&listener)));
    let engine = std::thread::spawn(move || Peer::accept(&listener).echo());
    assert_eq!(caller.reply(patient), (200, "/b".to_owned()));
    drop(caller);
    assert_eq!(engine.join().unwrap(), 1);
}

#[test]
fn an_engine_that_hangs_costs_a_call_its_time_and_its_connection() {
    let engine = Engine::new(|listener| {
        let mut silent = Peer::asked(&listener);
        silent.wait_for_end();
        let mut dripping = Peer::asked(&listener);
        dripping.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        // Bytes that come one by one buy no time.
        while dripping.0.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Peer::accept(&listener).echo();
    });
    let mut caller = engine.caller();
    for path in ["/silent", "/dripping"] {
        let begun = Instant::now();
        let large = ReplyKind::Whole { bytes_max: 1_000_000 };
        let call = caller.submit(within(request(Method::Post, path, large), SOON));
        let error = caller.failure(call);
        assert!(matches!(&error, EngineError::TimedOut { after, .. } if *after == SOON), "{error:?}");
        assert!(begun.elapsed() >= SOON, "too early");
        assert_eq!(connections(&caller.client), 0, "what is still to come would be taken for the next answer");
    }
    caller.echoed("/a");
    engine.finish_after(caller);
}

#[test]
fn a_call_that_waits_for_a_connection_has_the_same_deadline() {
    let engine = Engine::new(|listener| {
        let mut peers: Vec<Peer> = (0..ENGINE_CONNECTIONS_MAX).map(|_| Peer::accept(&listener)).collect();
        peers.iter_mut().for_each(Peer::wait_for_end);
    });
    let mut caller = engine.caller();
    for _ in 0..ENGINE_CONNECTIONS_MAX {
        caller.submit(get("/held"));
    }
    let call = caller.submit(within(get("/a"), SOON));
    let error = caller.failure(call);
    assert!(matches!(&error, EngineError::TimedOut { what, .. } if what == "GET /a"), "{error:?}");
    assert_eq!((connections(&caller.client), caller.client.waiting.len()), (ENGINE_CONNECTIONS_MAX, 0));
    engine.finish_after(caller);
}

#[test]
fn calls_beyond_the_queue_fail_at_once() {
    let directory = TempDir::new().unwrap();
    let _listener = UnixListener::bind(directory.path().join("engine")).unwrap();
    let mut caller = Caller::new(directory.path().join("engine"));
    for _ in 0..ENGINE_CONNECTIONS_MAX + ENGINE_QUEUE_MAX {
        caller.submit(get("/a"));
    }
    caller.hears_nothing(Duration::from_millis(20));
    let call = caller.submit(get("/b"));
    let error = caller.failure(call);
    assert!(matches!(error, EngineError::Busy { limit: ENGINE_QUEUE_MAX }), "{error:?}");
    caller.hears_nothing(Duration::from_millis(20));
}

#[test]
fn garbage_is_told_and_never_asked_for_again() {
    let engine = Engine::new(|listener| {
        for garbage in
            ["220 mail.example ESMTP\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"]
        {
            let mut peer = Peer::asked(&listener);
            peer.send(garbage).wait_for_end();
        }
    });
    let mut caller = engine.caller();
    for detail in ["it is not in HTTP/1.1", "it has both Content-Length and Transfer-Encoding"] {
        let call = caller.submit(get("/a?b"));
        let error = caller.failure(call);
        assert!(matches!(error, EngineError::Garbage { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("GET /a: the container engine's answer is not valid: {detail}"));
        assert_eq!(connections(&caller.client), 0);
    }
    engine.finish();
}

#[test]
fn an_answer_beyond_its_limit_is_not_read_to_its_end() {
    let engine = Engine::new(|listener| {
        let heads = ["200 OK\r\nContent-Length: 100001", "200 OK\r\nTransfer-Encoding: chunked", "200 OK", "500 No"];
        for head in heads {
            let mut peer = Peer::asked(&listener);
            peer.send(format!("HTTP/1.1 {head}\r\n\r\n"));
            let chunk = format!("{:x}\r\n{}\r\n", 1000, "x".repeat(1000));
            // Ends when the client closes the connection.
            while !head.contains("Length") && peer.0.write_all(chunk.as_bytes()).is_ok() {}
            let mut rest = Vec::new();
            let _ = peer.0.read_to_end(&mut rest);
        }
    });
    let mut caller = engine.caller();
    for _ in 0..3 {
        let call = caller.submit(get("/a"));
        let error = caller.failure(call);
        assert!(matches!(error, EngineError::TooLarge { limit: 100_000, .. }), "{error:?}");
        assert_eq!(connections(&caller.client), 0);
    }
    let call = caller.submit(stream("/a"));
    let error = caller.failure(call);
    assert!(matches!(error, EngineError::TooLarge { limit: ENGINE_ERROR_BODY_BYTES_MAX, .. }), "{error:?}");
    engine.finish();
}

#[test]
fn a_stream_that_is_cut_has_failed_and_what_came_is_heard() {
    let engine = Engine::new(|listener| {
        let endings = ["4\r\nmore", "5\r\nhello\r\nx", "c\r\nhello", ""];
        for ending in endings {
            let mut peer = Peer::asked(&listener);
            peer.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n{ending}"));
            if ending.is_empty() {
                peer.wait_for_end();
            }
        }
    });
    let mut caller = engine.caller();
    for (last, is_garbage) in [("more", false), ("hello", true), ("hello", false)] {
        let call = caller.submit(stream("/events"));
        assert!(matches!(caller.next(), News::Head { .. }));
        let (bytes, outcome) = caller.stream(call);
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("first{last}"));
        match outcome.unwrap_err() {
            EngineError::Garbage { .. } if is_garbage => {}
            EngineError::Closed { what } if !is_garbage => assert_eq!(what, "GET /events"),
            other => panic!("{other:?}"),
        }
    }
    // Silence is a fault only where it was said to be one.
    let call =
        caller.submit(Request { idle_timeout: Some(SOON), ..within(stream("/events"), Duration::from_secs(10)) });
    assert!(matches!(caller.next(), News::Head { .. }));
    let (bytes, outcome) = caller.stream(call);
    assert_eq!(bytes, b"first");
    assert!(matches!(outcome, Err(EngineError::TimedOut { after, .. }) if after == SOON));
    assert_eq!(connections(&caller.client), 0);
    engine.finish();
}

#[test]
fn a_stream_may_be_silent_for_longer_than_its_head_may_take() {
    let (told, heard) = std::sync::mpsc::channel();
    let engine = Engine::new(move |listener| {
        let mut peer = Peer::asked(&listener);
        peer.send(CHUNKED);
        heard.recv().unwrap();
        peer.send("2\r\nok\r\n0\r\n\r\n");
        // And now a head that does not come.
        peer.request();
        peer.wait_for_end();
    });
    let mut caller = engine.caller();
    let call = caller.submit(stream("/events"));
    assert!(matches!(caller.next(), News::Head { .. }));
    caller.client.expire(caller.poll.registry(), Instant::now() + 100 * PATIENCE);
    caller.hears_nothing(Duration::from_millis(10));
    told.send(()).unwrap();
    assert_eq!(caller.stream(call).0, b"ok");
    let call = caller.submit(within(stream("/events"), SOON));
    assert!(matches!(caller.failure(call), EngineError::TimedOut { .. }), "a head that does not come");
    engine.finish();
}

/// Two calls on one connection, which the engine closes between them, or when it has read the second.
fn closed_under(second: Request, reads_second: bool, has_third: bool) -> (Caller, CallId, Engine) {
    let (told, heard) = std::sync::mpsc::channel();
    let (tell, hear) = std::sync::mpsc::channel();
    let engine = Engine::new(move |listener| {
        let mut peer = Peer::after_first(&listener);
        if reads_second {
            peer.request();
        } else {
            heard.recv().unwrap();
        }
        drop(peer);
        let _ = tell.send(());
        if has_third {
            Peer::accept(&listener).echo();
        }
    });
    let mut caller = engine.caller();
    caller.first();
    if !reads_second {
        // The engine closes it, and the client does not know yet.
        told.send(()).unwrap();
        hear.recv().unwrap();
        assert_eq!(connections(&caller.client), 1);
    }
    let second = caller.submit(second);
    (caller, second, engine)
}

#[test]
fn a_connection_that_was_closed_before_the_request_is_not_used() {
    for second in [get("/second"), post("/second")] {
        let (mut caller, second, engine) = closed_under(second, false, true);
        assert_eq!(caller.reply(second), (200, "/second".to_owned()));
        engine.finish_after(caller);
    }
}

#[test]
fn a_request_that_was_read_and_not_answered_is_sent_again_only_if_it_changes_nothing() {
    let (mut caller, second, engine) = closed_under(get("/second"), true, true);
    assert_eq!(caller.reply(second), (200, "/second".to_owned()));
    engine.finish_after(caller);

    let (mut caller, second, engine) = closed_under(post("/second"), true, false);
    let error = caller.failure(second);
    assert!(matches!(&error, EngineError::Closed { what } if what == "POST /second"), "{error:?}");
    engine.finish();
}

/// A call on the connection of one that was answered, which ends without its own answer.
#[track_caller]
fn fails_behind_a_first_call(engine: Engine) {
    let mut caller = engine.caller();
    caller.first();
    let second = caller.submit(get("/second"));
    assert!(matches!(caller.failure(second), EngineError::Closed { .. }));
    engine.finish();
}

#[test]
fn a_request_is_never_sent_a_third_time() {
    let engine = Engine::new(|listener| {
        let mut peer = Peer::after_first(&listener);
        peer.request();
        drop(peer);
        Peer::accept(&listener).request();
        listener.set_nonblocking(true).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(listener.accept().is_err(), "a third time");
    });
    fails_behind_a_first_call(engine);
}

#[test]
fn half_an_answer_is_not_asked_for_again() {
    let engine = Engine::new(|listener| {
        let mut peer = Peer::after_first(&listener);
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-");
    });
    fails_behind_a_first_call(engine);
}

#[test]
fn bytes_that_nobody_asked_for_are_nobodys_answer() {
    let engine = Engine::new(|listener| {
        // Behind an answer, and later.
        let mut peer = Peer::asked(&listener);
        peer.send(answer("first") + &answer("unasked")).wait_for_end();
        let mut peer = Peer::asked(&listener);
        peer.answer("second");
        std::thread::sleep(Duration::from_millis(20));
        peer.answer("unasked").wait_for_end();
        Peer::accept(&listener).echo();
    });
    let mut caller = engine.caller();
    caller.first();
    assert_eq!(connections(&caller.client), 0);
    let second = caller.submit(get("/a"));
    assert_eq!(caller.reply(second).1, "second");
    caller.until("the connection is closed", |client| connections(client) == 0);
    let third = caller.submit(get("/third"));
    assert_eq!(caller.reply(third).1, "/third");
    engine.finish_after(caller);
}

#[test]
fn bytes_that_nobody_asked_for_are_found_before_the_next_request_too() {
    let (told, heard) = std::sync::mpsc::channel();
    let (tell, hear) = std::sync::mpsc::channel();
    let engine = Engine::new(move |listener| {
        let mut peer = Peer::after_first(&listener);
        heard.recv().unwrap();
        peer.answer("unasked");
        tell.send(()).unwrap();
        peer.wait_for_end();
        Peer::accept(&listener).echo();
    });
    let mut caller = engine.caller();
    caller.first();
    told.send(()).unwrap();
    hear.recv().unwrap();
    // Its event has not been looked at.
    let second = caller.submit(get("/second"));
    assert_eq!(caller.reply(second).1, "/second");
    engine.finish_after(caller);
}

#[test]
fn an_answer_that_does_not_wait_for_the_request_is_heard_and_ends_the_connection() {
    let engine = Engine::new(|listener| {
        let mut peer = Peer::accept(&listener);
        peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").wait_for_end();
    });
    let mut caller = engine.caller();
    let mut long = post("/images/load");
    long.body = Some(vec![b'x'; 3_000_000]);
    let call = caller.submit(long);
    assert_eq!(caller.reply(call), (413, "no".to_owned()));
    assert_eq!(connections(&caller.client), 0);
    engine.finish();
}

#[test]
fn of_a_call_that_was_cancelled_nothing_is_heard_and_its_place_is_free() {
    let engine = Engine::new(|listener| {
        let mut peers: Vec<Peer> = (0..ENGINE_CONNECTIONS_MAX).map(|_| Peer::accept(&listener)).collect();
        peers[0].request();
        peers[0].wait_for_end();
        Peer::accept(&listener).echo();
    });
    let mut caller = engine.caller();
    let held: Vec<CallId> = (0..ENGINE_CONNECTIONS_MAX).map(|_| caller.submit(get("/held"))).collect();
    let waiting = caller.submit(get("/waiting"));
    let next = caller.submit(get("/next"));
    caller.cancel(waiting);
    caller.hears_nothing(Duration::from_millis(20));
    caller.cancel(held[0]);
    assert!(caller.client.waiting.is_empty(), "the next call has the place");
    assert_eq!(caller.reply(next), (200, "/next".to_owned()));
    caller.cancel(next);
    caller.cancel(held[0]);
    caller.hears_nothing(Duration::from_millis(20));
    engine.finish_after(caller);
}

#[test]
fn what_is_in_the_news_already_is_not_heard_of_a_cancelled_call() {
    let directory = TempDir::new().unwrap();
    let mut caller = Caller::new(directory.path().join("engine"));
    let call = caller.submit(get("/a"));
    let other = caller.submit(get("/b"));
    caller.cancel(call);
    assert!(matches!(caller.failure(other), EngineError::Unreachable { .. }));
    caller.hears_nothing(Duration::from_millis(10));
}

#[test]
fn a_request_of_which_nothing_was_written_is_sent_again_whatever_it_does() {
    let engine = Engine::new(|listener| {
        Peer::accept(&listener).echo();
    });
    // The engine closes a kept connection in the moment between the look at it and the write.
    let closed_in_between = |request: Request, is_reused: bool| {
        let mut caller = engine.caller();
        let (here, there) = mio::net::UnixStream::pair().unwrap();
        let now = Instant::now();
        let mut connection = Connection::new(here, now + PATIENCE);
        if is_reused {
            connection.rest(now + PATIENCE);
        }
        drop(there);
        connection.begin(Call::new(CallId(77), request, now), None);
        caller.client.connections[0] = Some(connection);
        caller.client.advance(caller.poll.registry(), 0, now);
        caller
    };
    let fresh = closed_in_between(get("/a"), false).failure(CallId(77));
    assert!(matches!(fresh, EngineError::Closed { .. }), "{fresh:?}");
    let mut caller = closed_in_between(post("/a"), true);
    assert!(caller.client.waiting[0].is_second_try && caller.client.news.is_empty());
    assert_eq!(caller.reply(CallId(77)), (200, "/a".to_owned()));
    engine.finish_after(caller);
}
