//! `max_invocations_per_instance`, over the API: instances are replaced after so many calls, and no call notices.

mod common;

use std::collections::BTreeSet;

use serde_json::{json, Value};

use common::functions::sandboxed;
use common::host::{cgroup_parents, status, Holdings};
use common::{eventually, Reply};

/// Remembers that it was called, in every place where an instance can remember.
const FORGETFUL: &str = r#"
import os
count = 0

def handle(request):
    global count
    count += 1
    mark = '/tmp/mark'
    found = os.path.exists(mark)
    open(mark, 'w').close()
    return {'count': count, 'found': found, 'instance': os.environ['FAAS_INSTANCE'], 'got': request.get_json()}
"#;

fn status_and_body(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn with_one_call_per_instance_every_call_has_a_sandbox_of_its_own() {
    let Some(server) = sandboxed("pool_size: 4", "") else { return };
    let parents = cgroup_parents(&server);
    // Containers are kept in stock from the first function on that runs in one.
    let one = json!({"max_invocations_per_instance": 1, "max_instances": 6, "timeout": 120});
    server.deploy("once", FORGETFUL, one);
    let before = Holdings::at_rest(&server, &parents);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let caller = |caller: usize| {
            let server = &server;
            move || -> Vec<Value> {
                let call = |n: usize| status_and_body(&server.invoke("once", &format!("{}", caller * 25 + n)));
                (0..25).map(call).collect()
            }
        };
        let callers: Vec<_> = (0..8).map(|n| scope.spawn(caller(n))).collect();
        callers.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), 200);
    assert!(answers.iter().all(|it| it["count"] == 1 && it["found"] == false), "something survived: {answers:?}");
    let distinct = |key: &str| answers.iter().map(|it| it[key].to_string()).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct("instance"), distinct("got")), (200, 200));

    before.await_again(&server, &parents, "200 sandboxes");
    let stats = server.stats("once");
    assert_eq!((&stats["succeeded"], &stats["cold_starts"], &stats["crashed"]), (&json!(200), &json!(200), &json!(0)));
    assert_eq!(server.instances("once"), Vec::<Value>::new());
}

#[test]
fn consecutive_sandboxes_of_single_calls_differ_in_process_and_host_user() {
    let Some(server) = sandboxed("", "") else { return };
    let slow = "import time\ndef handle(request):\n    time.sleep(4)\n";
    server.deploy("once", slow, json!({"max_invocations_per_instance": 1, "max_instances": 1}));
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let call = scope.spawn(|| server.invoke("once", ""));
            server.await_load("once", 1, 0);
            let pid = server.instances("once")[0]["pid"].as_u64().expect("it is known while it runs");
            let uid = status(u32::try_from(pid).unwrap())["Uid"].clone();
            assert!(seen.insert(format!("pid {pid}")) && seen.insert(format!("uid {uid}")), "{pid}, {uid}: {seen:?}");
            assert_eq!(call.join().unwrap().status, 200);
        });
    }
}

#[test]
fn an_instance_answers_as_many_calls_as_it_may_and_its_exit_handlers_run() {
    let Some(server) = sandboxed("", "") else { return };
    let code = format!("import atexit\natexit.register(lambda: print('goodbye', count))\n{FORGETFUL}");
    server.deploy("thrice", &code, json!({"max_invocations_per_instance": 3, "max_instances": 1}));
    let counts: Vec<Value> = (0..7).map(|n| server.answer("thrice", &n.to_string())["count"].clone()).collect();
    assert_eq!(counts, [1, 2, 3, 1, 2, 3, 1]);
    eventually("two have said goodbye", || {
        let logs = server.logs("thrice");
        let goodbyes = logs.iter().filter(|it| it["message"].as_str().is_some_and(|it| it.contains("goodbye 3")));
        (goodbyes.count() == 2).then_some(())
    });
}

#[test]
fn under_load_no_instance_answers_more_than_it_may_and_no_call_fails() {
    let Some(server) = sandboxed("pool_size: 4", "") else { return };
    server.deploy("few", FORGETFUL, json!({"max_invocations_per_instance": 20, "max_instances": 2, "timeout": 120}));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..50 {
                    let answer = status_and_body(&server.invoke("few", &n.to_string()));
                    assert!((1..=20).contains(&answer["count"].as_u64().unwrap()), "{answer}");
                    assert_eq!(answer["got"], n);
                }
            });
        }
    });
    let stats = server.stats("few");
    assert_eq!(stats["succeeded"], 400, "{stats}");
    assert!(stats["cold_starts"].as_u64() >= Some(19), "400 calls are twenty instances' work: {stats}");
}

#[test]
fn the_instances_that_are_kept_are_there_again_after_every_call() {
    let Some(server) = sandboxed("", "") else { return };
    let config = json!({"max_invocations_per_instance": 1, "min_instances": 1, "max_instances": 3});
    server.deploy("kept", FORGETFUL, config);
    let mut ids = BTreeSet::new();
    for n in 0..5 {
        let idle = server.await_idle("kept", 1);
        assert!(ids.insert(idle[0]["id"].to_string()), "a fresh one each time");
        let reply = server.invoke("kept", &n.to_string());
        assert_eq!((reply.status, reply.header("x-faas-cold-start")), (200, Some("false")), "{}", reply.text());
    }
}

#[test]
fn an_update_sets_and_takes_away_the_number_of_calls() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", FORGETFUL, json!({"max_instances": 1}));
    assert_eq!(server.answer("f", "0")["count"], 1);
    for (given, counts) in [(json!(1), [1, 1]), (json!("unlimited"), [1, 2])] {
        let update = json!({"config": {"max_invocations_per_instance": given}}).to_string();
        let reply = server.call("PUT", "/functions/f", &update);
        assert_eq!((reply.status, &reply.json()["config"]["max_invocations_per_instance"]), (200, &given));
        assert_eq!([server.answer("f", "0")["count"].clone(), server.answer("f", "0")["count"].clone()], counts);
    }
}
