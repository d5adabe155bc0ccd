//! When a call's time is up, and what it is told.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::functions::sandboxed;
use common::{Reply, Server};
use serde_json::json;

/// Sleeps for as many seconds as the body says, and tells which headers it was given.
const SLEEPER: &str = r#"
def handle(request):
    time.sleep(float(request.get_text() or 0))
    return sorted(name.lower() for name in request.headers)
"#;

fn invoke_within(server: &Server, name: &str, body: &str, timeout: &str) -> Reply {
    let headers = [("Authorization", "Bearer demo-key"), ("X-Faas-Timeout", timeout)];
    server.send("POST", &format!("/invoke/{name}"), &headers, body.as_bytes())
}

fn detail(reply: &Reply) -> String {
    reply.json()["detail"].as_str().unwrap().to_owned()
}

#[test]
fn the_error_says_whose_time_was_up_the_functions_or_the_callers() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({"max_instances": 1}));
    server.deploy("strict", SLEEPER, json!({"timeout": 2}));
    assert_eq!(server.invoke("sleeper", "").status, 200);
    common::eventually("it is warm", || (server.invoke("strict", "").status == 200).then_some(()));

    let start = Instant::now();
    let reply = invoke_within(&server, "sleeper", "5", "300ms");
    assert_eq!((reply.status, reply.code()), (504, "function_timeout".to_owned()));
    assert_eq!(detail(&reply), "the X-Faas-Timeout of 300 ms passed while the function ran");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    // The instance still runs the call that its caller gave up, and then serves again: it was not killed.
    let waiting = invoke_within(&server, "sleeper", "", "0.2");
    assert_eq!((waiting.status, waiting.code()), (503, "queue_timeout".to_owned()));
    assert_eq!(detail(&waiting), "the X-Faas-Timeout of 200 ms passed before an instance was free");
    let after = server.invoke("sleeper", "");
    assert_eq!(after.header("x-faas-instance"), reply.header("x-faas-instance"));

    let reply = invoke_within(&server, "strict", "600", "1h");
    assert_eq!((reply.status, reply.code()), (504, "function_timeout".to_owned()));
    assert_eq!(detail(&reply), "the function's timeout of 2000 ms passed while the function ran");
}

#[test]
fn a_timeout_that_is_none_is_refused_and_one_that_is_good_is_not_shown_to_the_function() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("sleeper", SLEEPER, json!({}));
    for wrong in ["", "0", "-1", "soon", "1 s", "1, 2"] {
        let reply = invoke_within(&server, "sleeper", "", wrong);
        assert_eq!((reply.status, reply.code()), (400, "invalid_header".to_owned()), "{wrong:?}");
        assert!(detail(&reply).contains("X-Faas-Timeout") && detail(&reply).contains("500ms"), "{}", detail(&reply));
    }
    let seen = invoke_within(&server, "sleeper", "", "5s");
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert!(!seen.text().contains("x-faas"), "{}", seen.text());
}

#[test]
fn the_wait_for_an_instance_has_an_end_of_its_own_and_says_which_limit_it_met() {
    if common::mode::about_processes_alone("no container is made within the wait that this test allows") {
        return;
    }
    let config = "max_concurrent_functions: 3\npool_size: 0";
    let Some(server) = sandboxed(config, "limits:\n  max_queue_wait: 500ms") else { return };
    // All that there is room for is there before: a cold start could take longer than the wait that is allowed here.
    server.deploy("one", SLEEPER, json!({"min_instances": 1, "max_instances": 1}));
    server.deploy("many", SLEEPER, json!({"min_instances": 2, "max_instances": 9}));
    server.await_idle("one", 1);
    server.await_idle("many", 2);
    let retry_after = |reply: &Reply| reply.header("retry-after").unwrap().parse::<u64>().unwrap();
    let server = &server;
    std::thread::scope(|scope| {
        let running: Vec<_> =
            ["one", "many", "many"].map(|name| scope.spawn(move || server.invoke(name, "8"))).into_iter().collect();
        server.await_load("one", 1, 0);
        server.await_load("many", 2, 0);
        for (name, status, limit) in [("one", 429, "max_instances"), ("many", 503, "max_concurrent_functions")] {
            let start = Instant::now();
            let reply = server.invoke(name, "");
            assert_eq!((reply.status, reply.code()), (status, "queue_wait_exceeded".to_owned()), "{}", reply.text());
            let detail = detail(&reply);
            assert!(detail.contains("limits.max_queue_wait, 500 ms") && detail.contains(limit), "{detail}");
            assert!((1..=60).contains(&retry_after(&reply)));
            assert!(start.elapsed() >= Duration::from_millis(500) && start.elapsed() < Duration::from_secs(5));
        }
        running.into_iter().for_each(|call| assert_eq!(call.join().unwrap().status, 200));
    });
}

#[test]
fn a_function_that_fails_to_load_is_answered_with_its_error_at_once_and_tells_of_its_pause() {
    let Some(server) = sandboxed("", "") else { return };
    let broken = "def handle(request):\n    return 1\n\nraise KeyError('no such thing')";
    server.deploy("broken", broken, json!({}));
    let trouble =
        || (server.get("/functions/broken").json()["trouble"].clone(), server.stats("broken")["trouble"].clone());
    assert_eq!(trouble(), (json!(null), json!(null)));
    let start = Instant::now();
    for _ in 0..20 {
        let reply = server.invoke("broken", "");
        assert_eq!((reply.status, reply.code()), (500, "function_load_error".to_owned()), "{}", reply.text());
    }
    // Twenty starts in a row would be twenty failures; nineteen calls were answered without one, or nearly.
    assert!(start.elapsed() < common::slowed(Duration::from_secs(10)), "{:?}", start.elapsed());
    let (told, stats) = trouble();
    let failures = told["failed_starts_in_a_row"].as_u64().unwrap();
    assert!((1..20).contains(&failures), "{told}");
    assert_eq!((&told["code"], &told["crashes_in_a_row"]), (&json!("function_load_error"), &json!(0)));
    assert!(told["detail"].as_str().unwrap().contains("no such thing"), "{told}");
    assert_eq!(stats["code"], told["code"]);
    // Until the pause is told, one start more may have failed; the pauses grow, so that one is met soon.
    common::eventually("a pause is told of", || {
        server.invoke("broken", "");
        trouble().0["backoff_until"].is_string().then_some(())
    });

    let mended = json!({"code": "def handle(request):\n    return 1"}).to_string();
    assert_eq!(server.call("PUT", "/functions/broken", &mended).status, 200);
    assert_eq!(server.invoke("broken", "").status, 200);
    assert_eq!(trouble(), (json!(null), json!(null)));
}
