//! What the API tells of calls and instances: counters that add up, latencies, instances and how they are stopped.
#![allow(clippy::unwrap_used)] // in helpers of tests, too

mod common;

use common::{eventually, is_root, skip, Server};
use serde_json::{json, Value};

/// Does what its path says.
const ACTOR: &str = r#"
import os
def handle(request):
    if request.path == "/raise":
        raise ValueError("asked for")
    if request.path == "/500":
        return "asked for", 500
    if request.path == "/404":
        return "asked for", 404
    if request.path == "/sleep":
        time.sleep(60)
    if request.path == "/exit":
        os._exit(3)
    return os.getpid()
"#;

/// Takes as long as it is told to.
const SLOW: &str = "def handle(request):\n    time.sleep(float(request.query_params['s']))\n    return 'done'\n";

fn server() -> Option<Server> {
    if is_root() {
        return Some(Server::start());
    }
    skip("process mode at level strict needs root");
    None
}

fn stats(server: &Server, name: &str) -> Value {
    server.get(&format!("/stats/functions/{name}")).json()
}

/// The numbers of these fields.
fn numbers<const N: usize>(document: &Value, fields: [&str; N]) -> [u64; N] {
    fields.map(|field| document[field].as_u64().unwrap_or_else(|| panic!("{field} of {document}")))
}

fn instances(server: &Server) -> Vec<Value> {
    server.get("/instances").json()["instances"].as_array().unwrap().clone()
}

#[test]
fn counters_add_up_to_the_calls_that_were_made() {
    let Some(server) = server() else { return };
    // Its starts are part of it.
    server.deploy("f", ACTOR, json!({"timeout": 4, "max_instances": 1}));
    for (path, status) in [
        ("/", 200),
        ("/", 200),
        ("/404", 404),
        ("/500", 500),
        ("/raise", 500),
        ("/sleep", 504),
        ("/exit", 502),
        ("/", 200),
    ] {
        assert_eq!(server.get(&format!("/invoke/f{path}")).status, status, "{path}");
    }
    let f = stats(&server, "f");
    let fields = ["invocations", "succeeded", "failed", "timed_out", "crashed", "refused", "abandoned"];
    assert_eq!(numbers(&f, fields), [8, 4, 4, 1, 1, 0, 0], "{f}");
    // The first call, the one after the killed instance (which crashed its own), and the one after that.
    assert_eq!(f["cold_starts"], 3, "every call that an instance was started for, its own failure or not: {f}");
    assert_eq!((&f["latency"]["count"], &f["cold_start_latency"]["count"]), (&json!(8), &json!(3)));
    assert_eq!(
        (&f["queued"], &f["running"], &f["name"], &f["version"]),
        (&json!(0), &json!(0), &json!("f"), &json!(1))
    );
    let [p50, p95, p99] = ["p50_ms", "p95_ms", "p99_ms"].map(|p| f["latency"][p].as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p95 && p95 <= p99 && p99 <= f["latency"]["max_ms"].as_f64().unwrap(), "{f}");
    assert!(p99 >= 4000.0, "the call that timed out is among them: {f}");

    // The whole is the sum of the parts.
    server.deploy("g", ACTOR, json!({}));
    assert_eq!(server.get("/invoke/g").status, 200);
    let (all, g) = (server.get("/stats").json(), stats(&server, "g"));
    for field in fields.into_iter().chain(["cold_starts"]) {
        assert_eq!(all[field].as_u64().unwrap(), f[field].as_u64().unwrap() + g[field].as_u64().unwrap(), "{field}");
    }
    assert_eq!((&all["functions"], &all["queued"], &all["running"]), (&json!(2), &json!(0), &json!(0)));
    assert_eq!(all["instances"]["idle"], 2, "{all}");
    assert!(all["uptime_seconds"].is_u64() && all["connections"].as_u64() >= Some(1), "{all}");
    assert!(all["memory_bytes"].as_u64() > Some(1 << 20), "two interpreters take more than a megabyte: {all}");
    assert!(g["memory_bytes"].as_u64() > Some(1 << 19), "{g}");
}

#[test]
fn how_long_instances_stay_idle_is_shown_with_what_was_learnt() {
    let Some(server) = server() else { return };
    server.deploy("f", ACTOR, json!({}));
    assert_eq!(stats(&server, "f")["idle"], json!({"mode": "fixed", "ttl_seconds": 600.0}));
    let update = |ttl: Value| server.call("PUT", "/functions/f", &json!({"config": {"idle_ttl": ttl}}).to_string());
    assert_eq!(update(json!("90s")).json()["config"]["idle_ttl"], 90);
    assert_eq!(stats(&server, "f")["idle"]["ttl_seconds"], 90.0);
    assert_eq!(update(json!("adaptive")).json()["config"]["idle_ttl"], "adaptive");
    for _ in 0..3 {
        assert_eq!(server.get("/invoke/f/").status, 200);
    }
    let f = stats(&server, "f");
    let idle = &f["idle"];
    assert_eq!(
        (&idle["mode"], numbers(idle, ["prewarmed", "prewarmed_used", "prewarmed_wasted"])),
        (&json!("adaptive"), [0; 3])
    );
    let level = json!({"warm_from_seconds": 0.0, "warm_until_seconds": 600.0, "because": "unsure",
        "representative": false, "idle_times": 2});
    assert_eq!(idle["levels"], json!([level]), "{f}");
    assert_eq!(numbers(&f, ["cold_starts", "warm_starts"]), [1, 2], "{f}");
    // A new version knows what the old one learnt.
    assert_eq!(server.call("PUT", "/functions/f", r#"{"config": {"memory": "96Mi"}}"#).status, 200);
    assert_eq!(stats(&server, "f")["idle"]["levels"][0]["idle_times"], 2);
    assert_eq!(update(json!("default")).json()["config"]["idle_ttl"], "default");
    assert_eq!(stats(&server, "f")["idle"]["mode"], "fixed");
}

#[test]
fn a_call_that_runs_and_one_that_waits_are_seen() {
    let Some(server) = server() else { return };
    server.deploy("slow", SLOW, json!({"max_instances": 1}));
    std::thread::scope(|scope| {
        let calls = [(); 2].map(|()| scope.spawn(|| server.get("/invoke/slow?s=4")));
        eventually("one runs, one waits", || {
            let slow = stats(&server, "slow");
            // What an instance is started for runs, to those who count.
            let is_busy = server.get("/functions/slow").json()["instances"]["busy"] == 1;
            (slow["running"] == 1 && slow["queued"] == 1 && is_busy).then_some(())
        });
        let all = server.get("/stats").json();
        assert_eq!((&all["running"], &all["queued"], &all["instances"]["busy"]), (&json!(1), &json!(1), &json!(1)));
        for call in calls {
            assert_eq!(call.join().unwrap().json(), "done");
        }
    });
    let slow = stats(&server, "slow");
    assert_eq!(numbers(&slow, ["invocations", "succeeded", "running", "queued"]), [2, 2, 0, 0], "{slow}");
}

#[test]
fn an_instance_shows_what_it_is() {
    let Some(server) = server() else { return };
    assert_eq!(server.get("/instances").json(), json!({"count": 0, "instances": []}));
    server.deploy("f", ACTOR, json!({}));
    let first = server.get("/invoke/f");
    assert_eq!(first.header("x-faas-cold-start"), Some("true"));
    assert!(first.header("x-faas-duration-ms").unwrap().parse::<f64>().unwrap() > 0.0);
    let second = server.get("/invoke/f");
    assert_eq!(second.header("x-faas-cold-start"), Some("false"));
    assert_eq!(second.header("x-faas-instance"), first.header("x-faas-instance"));

    let all = instances(&server);
    assert_eq!(all.len(), 1);
    let instance = &all[0];
    assert_eq!(instance["id"].as_str(), first.header("x-faas-instance"));
    assert_eq!(
        (&instance["function"], &instance["version"], &instance["mode"]),
        (&json!("f"), &json!(1), &json!("process"))
    );
    assert_eq!((&instance["state"], &instance["invocations"]), (&json!("idle"), &json!(2)), "{instance}");
    assert!(instance["memory_bytes"].as_u64() > Some(1 << 19), "{instance}");
    assert!(instance["started_at"].as_str() <= instance["last_used_at"].as_str(), "{instance}");
    // The pid is the host's: its process there is pid 1 of its own namespace.
    let status = std::fs::read_to_string(format!("/proc/{}/status", instance["pid"])).unwrap();
    let pids = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    assert!(pids.ends_with("\t1"), "{pids}");
}

#[test]
fn a_failed_call_too_names_its_instance_and_its_duration() {
    let Some(server) = server() else { return };
    server.deploy("f", ACTOR, json!({}));
    let reply = server.get("/invoke/f/raise");
    assert_eq!(reply.refused(500, "function_error"), "ValueError: asked for");
    assert_eq!(reply.header("x-faas-instance"), instances(&server)[0]["id"].as_str());
    assert_eq!(reply.header("x-faas-cold-start"), Some("true"));
    assert!(reply.header("x-faas-duration-ms").is_some());
}

#[test]
fn stopping_an_instance_lets_its_call_finish() {
    let Some(server) = server() else { return };
    server.deploy("slow", SLOW, json!({}));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| server.get("/invoke/slow?s=2"));
        let busy = eventually("it runs", || instances(&server).into_iter().find(|one| one["state"] == "busy"));
        let path = format!("/instances/{}", busy["id"].as_str().unwrap());
        let stopped = server.call("DELETE", &path, "");
        assert_eq!((stopped.status, &stopped.json()["state"]), (202, &json!("stopping")));
        // It is not given another call meanwhile, and stopping it again is no error.
        assert_eq!(server.get("/invoke/slow?s=0").json(), "done");
        assert!([202, 404].contains(&server.call("DELETE", &path, "").status));
        let reply = call.join().unwrap();
        assert_eq!((reply.status, reply.json()), (200, json!("done")));
        assert_eq!(reply.header("x-faas-instance"), busy["id"].as_str());
        eventually("it is gone", || {
            let gone = instances(&server).iter().all(|one| one["id"] != busy["id"]);
            (gone && !std::path::Path::new(&format!("/proc/{}", busy["pid"])).exists()).then_some(())
        });
        server.call("DELETE", &path, "").refused(404, "not_found");
    });
    for wrong in ["i99999-1", "i0-0", "i0-99", "i00-1", "i0", "1", "i-1-1", "i0-1-1", "i4294967296-1"] {
        server.call("DELETE", &format!("/instances/{wrong}"), "").refused(404, "not_found");
    }
}

#[test]
fn an_idle_instance_that_is_stopped_goes_at_once() {
    let Some(server) = server() else { return };
    let pid = server.run("f", ACTOR, "");
    assert_eq!(pid, 1, "its own pid namespace");
    let id = instances(&server)[0]["id"].clone();
    assert_eq!(server.call("DELETE", &format!("/instances/{}", id.as_str().unwrap()), "").status, 202);
    eventually("it is gone", || instances(&server).is_empty().then_some(()));
    // The next call gets a new one.
    let reply = server.get("/invoke/f");
    assert_eq!((reply.status, reply.header("x-faas-cold-start")), (200, Some("true")));
    assert_ne!(reply.header("x-faas-instance"), id.as_str());
}

#[test]
fn a_client_that_went_away_is_counted_and_leaves_nothing_behind() {
    let Some(server) = server() else { return };
    server.deploy("slow", SLOW, json!({"max_instances": 1}));
    let ask = |seconds: &str| {
        let mut stream = server.connect();
        let head =
            format!("GET /invoke/slow?s={seconds} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer demo-key\r\n\r\n");
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        stream
    };
    let running = ask("5");
    eventually("one runs", || (stats(&server, "slow")["running"] == 1).then_some(()));
    let waiting = ask("50");
    eventually("one waits", || (stats(&server, "slow")["queued"] == 1).then_some(()));
    common::reset(waiting);
    eventually("nobody waits", || (stats(&server, "slow")["queued"] == 0).then_some(()));
    common::reset(running);
    // The function cannot be interrupted without ending its instance: it runs to its end.
    eventually("nothing runs", || (stats(&server, "slow")["running"] == 0).then_some(()));
    let slow = stats(&server, "slow");
    assert_eq!(numbers(&slow, ["invocations", "succeeded", "failed", "abandoned"]), [2, 0, 0, 2], "{slow}");
    assert_eq!(server.get("/invoke/slow?s=0").header("x-faas-cold-start"), Some("false"));
    eventually("their connections are gone", || (server.get("/stats").json()["connections"] == 1).then_some(()));
}
