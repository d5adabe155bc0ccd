//! One function floods a full server: what the others get.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::functions::sandboxed;
use common::{slowed, Server, SetAtEnd};
use serde_json::json;

const WORK: &str = "def handle(request):\n    time.sleep(0.05)\n    return 1";

/// Keeps calls of a function coming from so many callers until `story` is over.
fn with_flood<T>(server: &Server, name: &str, callers: usize, story: impl FnOnce(&AtomicU64) -> T) -> T {
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let reply = server.invoke(name, "");
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = SetAtEnd(&over);
        server.await_load(name, 4, callers as u64 - 4);
        story(&answered)
    })
}

#[test]
fn a_function_is_served_although_another_has_every_slot_and_an_endless_queue() {
    let config = "max_concurrent_functions: 4\npool_size: 0";
    let Some(server) = sandboxed(config, "") else { return };
    server.deploy("flood", WORK, json!({"max_instances": 100}));
    server.deploy("small", WORK, json!({"max_instances": 100}));
    with_flood(&server, "flood", 24, |flooded| {
        let before = flooded.load(Ordering::Relaxed);
        let mut warm = 0;
        for n in 0..20 {
            let start = Instant::now();
            let reply = server.invoke("small", "");
            assert_eq!(reply.status, 200, "{}", reply.text());
            // The call of another ends, then its process, and a sandbox is made: far less than the queue takes.
            assert!(start.elapsed() < slowed(Duration::from_secs(3)), "call {n} took {:?}", start.elapsed());
            warm += u64::from(reply.header("x-faas-cold-start") == Some("false"));
        }
        assert!(warm >= 15, "it keeps its instance between its calls, and was warm for {warm} of 20");
        assert!(flooded.load(Ordering::Relaxed) > before, "and the flood goes on");
        assert_eq!(server.stats("flood")["failed"], json!(0));
    });
}
