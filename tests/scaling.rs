//! How many instances there are, which of them gets a call, and what happens to the calls beyond them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::functions::{kill_instance, sandboxed};
use common::{eventually, Reply, Server};
use serde_json::{json, Value};

/// Sleeps for as many seconds as the body says, and tells when that was on the clock that all instances share.
const SLEEPER: &str = r#"
def handle(request):
    begin = time.monotonic()
    time.sleep(float(request.get_text() or 0))
    return [begin, time.monotonic()]
"#;

/// Makes so many calls at once and gives their answers.
fn at_once(server: &Server, count: usize, name: &str, body: &str) -> Vec<Reply> {
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..count).map(|_| scope.spawn(|| server.invoke(name, body))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    })
}

fn span(reply: &Reply) -> (f64, f64) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    (answer[0].as_f64().unwrap(), answer[1].as_f64().unwrap())
}

/// The largest number of these calls that ran at one moment.
fn most_at_once(replies: &[Reply]) -> usize {
    let spans: Vec<(f64, f64)> = replies.iter().map(span).collect();
    let at = |moment: f64| spans.iter().filter(|(begin, end)| (*begin..*end).contains(&moment)).count();
    spans.iter().map(|(begin, _)| at(*begin)).max().unwrap()
}

fn instances_of(replies: &[Reply]) -> BTreeSet<&str> {
    replies.iter().map(|reply| reply.header("x-faas-instance").unwrap()).collect()
}

#[test]
fn max_instances_calls_run_really_in_parallel() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({"max_instances": 4}));
    // On a machine that is busy beyond measure the four may miss each other once, not for ever.
    eventually("four calls overlap", || (most_at_once(&at_once(&server, 4, "sleeper", "1")) == 4).then_some(()));
}

#[test]
fn more_calls_than_max_instances_wait_for_their_turn_and_are_all_answered() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({"max_instances": 3}));
    let replies = at_once(&server, 14, "sleeper", "0.1");
    assert!(most_at_once(&replies) <= 3);
    assert!(instances_of(&replies).len() <= 3, "{:?}", instances_of(&replies));
    let stats = server.stats("sleeper");
    assert!(stats["cold_starts"].as_u64().unwrap() <= 3, "{stats}");
    assert_eq!((&stats["invocations"], &stats["succeeded"]), (&json!(14), &json!(14)), "{stats}");
}

#[test]
fn a_burst_starts_no_more_instances_than_it_has_calls() {
    let Some(server) = sandboxed("pool_size: 6", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({"max_instances": 10}));
    // Long enough for all three to begin before one is done, which would take the call that another is started for.
    at_once(&server, 3, "sleeper", "4").iter().for_each(|reply| assert_eq!(reply.status, 200));
    let instances = server.instances("sleeper");
    assert!((1..=3).contains(&instances.len()), "{instances:?}");
    assert!(instances.iter().all(|instance| instance["invocations"].as_u64() >= Some(1)), "none for nothing");
}

#[test]
fn an_idle_instance_is_preferred_to_a_new_one() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({}));
    let replies: Vec<Reply> = (0..20).map(|_| server.invoke("sleeper", "0.002")).collect();
    assert_eq!(instances_of(&replies).len(), 1);
    let cold: Vec<bool> = replies.iter().map(|reply| reply.header("x-faas-cold-start") == Some("true")).collect();
    assert!(cold[0] && cold[1..].iter().all(|cold| !cold), "only the first starts one: {cold:?}");
    let instances = server.instances("sleeper");
    assert_eq!((instances.len(), &instances[0]["invocations"]), (1, &json!(20)));
}

#[test]
fn beyond_the_queues_bound_a_call_is_refused_with_429() {
    let Some(server) = sandboxed("", "limits:\n  max_queue_per_function: 2") else { return };
    server.deploy("sleeper", SLEEPER, json!({"max_instances": 1}));
    server.deploy("other", SLEEPER, json!({}));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.invoke("sleeper", "3"));
        server.await_load("sleeper", 1, 0);
        let queued: Vec<_> = (0..2).map(|_| scope.spawn(|| server.invoke("sleeper", "0"))).collect();
        server.await_load("sleeper", 1, 2);
        let refused = server.invoke("sleeper", "0");
        assert_eq!((refused.status, refused.code().as_str()), (429, "queue_full"), "{}", refused.text());
        assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        assert!(refused.json()["detail"].as_str().unwrap().starts_with("2 calls"), "{}", refused.text());
        span(&server.invoke("other", "0"));
        let end = span(&first.join().unwrap()).1;
        for call in queued {
            assert!(span(&call.join().unwrap()).0 >= end, "one after the other");
        }
    });
}

#[test]
fn waiting_calls_are_served_in_the_order_in_which_they_came() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({"max_instances": 1}));
    std::thread::scope(|scope| {
        let mut calls = vec![scope.spawn(|| server.invoke("sleeper", "4"))];
        server.await_load("sleeper", 1, 0);
        for queued in 1..=5 {
            calls.push(scope.spawn(|| server.invoke("sleeper", "0.01")));
            server.await_load("sleeper", 1, queued);
        }
        let spans: Vec<(f64, f64)> = calls.into_iter().map(|call| span(&call.join().unwrap())).collect();
        assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
    });
}

#[test]
fn min_instances_are_kept_warm_and_restored() {
    let Some(server) = sandboxed("warm_instance_ttl: 200ms", "") else { return };
    server.deploy("warm", SLEEPER, json!({"min_instances": 2, "max_instances": 3}));
    let before = server.await_idle("warm", 2);
    let reply = server.invoke("warm", "");
    assert_eq!(reply.header("x-faas-cold-start"), Some("false"), "the first call finds one");

    kill_instance(&before[0]);
    server.await_end("warm", &before[0]["id"]);
    let after = server.await_idle("warm", 2);
    let path = format!("/instances/{}", after[1]["id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &path, "").status, 202);
    server.await_end("warm", &after[1]["id"]);
    server.await_idle("warm", 2);

    // More than that is there only while it is of use.
    at_once(&server, 3, "warm", "0.5");
    let kept = server.await_idle("warm", 2);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(ids(&server.await_idle("warm", 2)), ids(&kept), "three times their age, and still there");

    assert_eq!(server.call("PUT", "/functions/warm", r#"{"config": {"min_instances": 0}}"#).status, 200);
    eventually("none is kept any more", || server.instances("warm").is_empty().then_some(()));
}

fn ids(instances: &[Value]) -> BTreeSet<String> {
    instances.iter().map(|instance| instance["id"].to_string()).collect()
}

#[test]
fn an_instance_without_calls_is_stopped_after_its_time() {
    // Time to look at it before.
    let Some(server) = sandboxed("warm_instance_ttl: 3s", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({}));
    assert_eq!(server.invoke("sleeper", "").status, 200);
    let [instance] = &server.instances("sleeper")[..] else { panic!("one instance") };
    let pid = instance["pid"].as_u64().unwrap();
    eventually("it is stopped", || server.instances("sleeper").is_empty().then_some(()));
    eventually("its process is gone", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    assert_eq!(server.invoke("sleeper", "").header("x-faas-cold-start"), Some("true"));
}

#[test]
fn an_instance_that_works_is_not_stopped_however_long_it_takes() {
    let Some(server) = sandboxed("warm_instance_ttl: 100ms", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({}));
    span(&server.invoke("sleeper", "1"));
}

/// Sleeps only when the body says so.
const MIXED: &str = r#"
def handle(request):
    seconds = float(request.get_text() or 0)
    if seconds:
        time.sleep(seconds)
    return seconds
"#;

#[test]
fn fast_calls_are_piped_and_each_gets_its_own_answer() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("mirror", "def handle(request):\n    return request.get_json()", json!({"max_instances": 1}));
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for n in 0..100 {
                    assert_eq!(server.answer("mirror", &format!("[{caller},{n}]")), json!([caller, n]));
                }
            });
        }
    });
    assert_eq!(server.instances("mirror").len(), 1);
}

#[test]
fn fast_calls_are_not_held_by_a_slow_one_of_the_same_function() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("mixed", MIXED, json!({"max_instances": 3, "timeout": 60}));
    for round in 0..2 {
        // It is known to be fast, and both instances that the slow calls will take are busy with calls in their pipes.
        std::thread::scope(|scope| {
            let fast = |count: usize| {
                let server = &server;
                let call = |_| {
                    let begun = Instant::now();
                    assert_eq!(server.invoke("mixed", "").status, 200);
                    begun.elapsed()
                };
                move || (0..count).map(call).max().unwrap()
            };
            let load: Vec<_> = (0..6).map(|_| scope.spawn(fast(60))).collect();
            let slow: Vec<_> = (0..2).map(|_| scope.spawn(|| server.invoke("mixed", "6"))).collect();
            let slowest = load.into_iter().map(|caller| caller.join().unwrap()).chain([fast(60)()]).max().unwrap();
            assert!(slowest < Duration::from_secs(4), "round {round}: fast calls waited for a slow one: {slowest:?}");
            slow.into_iter().for_each(|call| assert_eq!(call.join().unwrap().status, 200));
        });
    }
}

#[test]
fn a_call_whose_client_has_gone_does_not_keep_its_place_in_the_queue() {
    use std::io::Write;
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({"max_instances": 1}));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.invoke("sleeper", "4"));
        server.await_load("sleeper", 1, 0);
        let mut gone = server.connect();
        let call = "POST /invoke/sleeper HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer demo-key\r\nContent-Length: 3\r\n\r\n600";
        gone.write_all(format!("GET /health HTTP/1.1\r\nHost: t\r\n\r\n{call}").as_bytes()).unwrap();
        server.await_load("sleeper", 1, 1);
        // With an answer unread the connection is reset, not half closed: a client that may still read gets its answer.
        drop(gone);
        server.await_load("sleeper", 1, 0);
        assert!(!first.is_finished(), "it did not leave the queue by being run");
        span(&first.join().unwrap());
        span(&server.invoke("sleeper", "0"));
    });
}

#[test]
fn the_stats_of_a_function_with_instances_are_a_document_with_the_memory_of_all() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({}));
    at_once(&server, 2, "sleeper", "0.5");
    let each: Vec<u64> = server.instances("sleeper").iter().map(|it| it["memory_bytes"].as_u64().unwrap()).collect();
    let (stats, all) = (server.stats("sleeper"), server.get("/stats").json());
    assert_eq!((&stats["name"], &stats["succeeded"]), (&json!("sleeper"), &json!(2)), "{stats}");
    assert!(each.iter().all(|bytes| *bytes > 0), "{each:?}");
    // An idle one gives back a little now and then, between one look and the next.
    for sum in [&stats["memory_bytes"], &all["memory_bytes"]] {
        assert!(sum.as_u64().unwrap() >= *each.iter().max().unwrap() / 10 * 9, "{sum} of {each:?}");
    }
}

#[test]
fn more_minimum_instances_than_the_server_has_room_for_are_refused_or_told() {
    let config = "max_concurrent_functions: 3\npool_size: 0";
    let Some(server) = sandboxed(config, "limits:\n  max_queue_wait: 500ms") else { return };
    let too_many = json!({"name": "many", "code": SLEEPER, "config": {"min_instances": 4}}).to_string();
    let detail = server.post("/functions", &too_many).refused(400, "invalid_config");
    assert_eq!(detail, "config.min_instances: 4 is more than system.max_concurrent_functions, which is 3");

    let told = || server.home.log().contains("take the whole of system.max_concurrent_functions, 3");
    server.deploy("none", SLEEPER, json!({}));
    server.deploy("two", SLEEPER, json!({"min_instances": 2}));
    assert!(!told(), "{}", server.home.log());
    server.deploy("three", SLEEPER, json!({"min_instances": 3}));
    eventually("the log tells", || told().then_some(()));
    eventually("all are there", || {
        let there = server.instances("two").len() + server.instances("three").len();
        (there == 3).then_some(())
    });
    let detail = server.invoke("none", "").refused(503, "queue_wait_exceeded");
    assert!(detail.ends_with("were taken, 3 of them kept for the min_instances of functions"), "{detail}");
}
