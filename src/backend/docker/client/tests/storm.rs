//! An engine that does anything, and calls that are made and cancelled at random.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// A source of numbers, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Treats one connection badly, until one of the two ends it.
fn misbehave(mut peer: Peer, mut random: Random, is_over: &AtomicBool) {
    peer.0.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    while !is_over.load(Ordering::SeqCst) {
        let mut bytes = [0; 4096];
        match peer.0.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = match random.below(16) {
            0..=4 => answer("whole"),
            5..=7 => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".to_owned(),
            8 => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_owned(),
            9 => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab".to_owned(),
            10 => answer("one") + &answer("two"),
            11 => "rubbish\r\n\r\n".to_owned(),
            12 => format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{}", "x".repeat(100_000)),
            13 => "HTTP/1.1 409 Conflict\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
            14 => "HTTP/1.1 200 OK\r\n\r\nuntil the end".to_owned(),
            _ => String::new(),
        };
        // In pieces, so that ends fall anywhere.
        let cut = random.below(text.len() as u64 + 1) as usize;
        peer.send(&text[..cut]);
        if random.below(3) == 0 {
            std::thread::sleep(Duration::from_millis(random.below(20)));
        }
        peer.send(&text[cut..]);
        if random.below(4) == 0 {
            return;
        }
    }
}

#[test]
fn every_call_ends_once_whatever_the_engine_does() {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let engine = Engine::new(move |listener| {
        let mut threads = Vec::new();
        let mut seed = 1;
        while let Ok((stream, _)) = listener.accept() {
            if over.load(Ordering::SeqCst) {
                break;
            }
            seed += 1;
            let over = Arc::clone(&over);
            threads.push(std::thread::spawn(move || misbehave(Peer(stream), Random(seed), &over)));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let mut caller = engine.caller();
    let mut random = Random(7);
    let (mut open, mut cancelled) = (BTreeSet::new(), BTreeSet::new());
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    let mut submitted = 0;
    let until = Instant::now() + 3 * PATIENCE;
    while submitted < 1500 || !open.is_empty() {
        assert!(Instant::now() < until, "{} calls never end: {:?}", open.len(), caller.client);
        for _ in 0..random.below(12) {
            if submitted == 1500 {
                break;
            }
            submitted += 1;
            let timeout = Duration::from_millis(20 + random.below(300));
            let call = match random.below(3) {
                0 => get("/a"),
                1 => post("/a"),
                _ => Request { idle_timeout: Some(timeout), ..stream("/a") },
            };
            open.insert(caller.submit(within(call, timeout)));
        }
        if random.below(4) == 0 {
            if let Some(call) = open.iter().nth(random.below(open.len().max(1) as u64) as usize).copied() {
                open.remove(&call);
                cancelled.insert(call);
                caller.cancel(call);
            }
        }
        caller.turn(Duration::from_millis(5));
        for news in caller.heard.drain(..) {
            let call = news.call();
            assert!(
                open.contains(&call),
                "{news:?} of a call that has ended (cancelled: {})",
                cancelled.contains(&call)
            );
            let end = match &news {
                News::Head { .. } | News::Chunk { .. } => continue,
                News::Reply { .. } => "reply",
                News::End { .. } => "end",
                News::Failed { error: EngineError::TimedOut { .. }, .. } => "timed out",
                News::Failed { error: EngineError::Closed { .. }, .. } => "closed",
                News::Failed { error: EngineError::Garbage { .. }, .. } => "garbage",
                News::Failed { error: EngineError::TooLarge { .. }, .. } => "too large",
                News::Failed { error, .. } => panic!("{error:?}"),
            };
            *ends.entry(end).or_default() += 1;
            open.remove(&call);
        }
    }
    assert_eq!(ends.values().sum::<usize>() + cancelled.len(), submitted);
    assert_eq!(ends.len(), 6, "something never happened: {ends:?}");
    assert!(caller.client.waiting.is_empty());
    assert!(caller.client.connections.iter().flatten().all(Connection::is_idle), "a connection leaks");
    is_over.store(true, Ordering::SeqCst);
    let _ = UnixStream::connect(engine.socket());
    drop(caller);
    engine.finish();
}
