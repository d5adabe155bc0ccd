//! The configuration read again by a running server: what it takes, what waits for a restart, what it refuses, and that
//! calls under way notice nothing.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::functions::sandboxed;
use common::{eventually, slowed, Reply, Server, SetAtEnd};
use nix::sys::signal::Signal;
use serde_json::{json, Value};

/// Says what was read last in the log, since every reload says something.
const READ_AGAIN: &str = "the configuration is read again";

fn configure(server: &Server, system: &str, rest: &str) {
    let indented: String = system.lines().map(|line| format!("  {line}\n")).collect();
    let head = format!("system:\n  function_storage_path: {}\n  api_gateway_port: 0\n", server.home.state().display());
    // The whole file at once, as editors and configuration management write it.
    let new = server.home.path().join("faas.yaml.new");
    std::fs::write(&new, format!("{head}{indented}{rest}\n")).unwrap();
    std::fs::rename(new, server.home.path().join("faas.yaml")).unwrap();
}

fn ask(server: &Server, key: &str) -> Reply {
    server.send("POST", "/admin/reload", &[("Authorization", &format!("Bearer {key}"))], b"")
}

/// Asks for a reload through the API and expects it to be taken.
#[track_caller]
fn reload(server: &Server) -> Value {
    let reply = ask(server, "admin-key");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Configures, reloads, and expects just these keys to have changed.
#[track_caller]
fn change(server: &Server, system: &str, rest: &str, changed: &[&str]) -> Value {
    configure(server, system, rest);
    let answer = reload(server);
    assert_eq!(answer["changed"], json!(changed), "{answer}");
    assert_eq!(answer["restart_needed"], json!([]), "{answer}");
    answer
}

/// Sends the signal and waits until the log says what came of it.
fn hang_up(server: &Server, said: &str) {
    let count = |log: String| log.matches(said).count();
    let before = count(server.home.log());
    server.signal(Signal::SIGHUP);
    eventually(said, || (count(server.home.log()) > before).then_some(()));
}

const HELLO: &str = "def handle(request):\n    return 'hello'";
/// Waits as many seconds as the body says.
const SLOW: &str = "def handle(request):\n    time.sleep(float(request.get_text()))\n    return 'done'";

/// A connection that stays open, and one request after another on it.
struct Open(BufReader<TcpStream>);

impl Open {
    fn to(server: &Server) -> Open {
        Open(BufReader::new(server.connect()))
    }

    fn send(&mut self, key: &str, target: &str, body: &str) -> Reply {
        let length = body.len();
        let head = format!("POST {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {key}\r\n");
        write!(self.0.get_mut(), "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        Reply::read(&mut self.0, false)
    }
}

#[test]
fn a_key_that_went_is_refused_from_the_next_request_on_also_on_an_open_connection() {
    let entry = |name: &str, key: &str| format!("\n  - name: {name}\n    key: {key}\n    scopes: [invoke]");
    let (ada, bob) = (entry("ada", "ada-0123456789abcdef"), entry("bob", "bob-0123456789abcdef"));
    let Some(server) = sandboxed("", "") else { return };
    configure(&server, &format!("pool_size: 2\napi_keys:{ada}"), "");
    hang_up(&server, "system.api_keys.ada");
    server.deploy("slow", SLOW, json!({}));
    let mut open = Open::to(&server);
    assert_eq!(open.send("ada-0123456789abcdef", "/invoke/slow", "0").status, 200);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| Open::to(&server).send("ada-0123456789abcdef", "/invoke/slow", "6"));
        server.await_load("slow", 1, 0);
        let (system, changed) =
            (format!("pool_size: 2\napi_keys:{bob}"), ["system.api_keys.ada", "system.api_keys.bob"]);
        change(&server, &system, "", &changed);
        open.send("ada-0123456789abcdef", "/invoke/slow", "0").refused(401, "unauthorized");
        assert_eq!(Open::to(&server).send("bob-0123456789abcdef", "/invoke/slow", "0").status, 200);
        assert!(!running.is_finished());
        assert_eq!(running.join().unwrap().status, 200, "a call under way notices nothing");
    });
    // Less may go than came: another scope under the same name.
    let manages = bob.replace("[invoke]", "[manage]");
    change(&server, &format!("pool_size: 2\napi_keys:{manages}"), "", &["system.api_keys.bob"]);
    Open::to(&server).send("bob-0123456789abcdef", "/invoke/slow", "0").refused(403, "forbidden");
    // The well-known ones are keys as well; the last reload is asked for by the key that goes with it.
    let admins = bob.replace("[invoke]", "[admin]");
    let system = format!("pool_size: 2\nwell_known_keys: false\napi_keys:{admins}");
    change(&server, &system, "", &["system.well_known_keys", "system.api_keys.bob"]);
    server.get("/functions").refused(401, "unauthorized");
    assert_eq!(ask(&server, "bob-0123456789abcdef").status, 200);
    let told = server.home.log();
    assert!(!told.contains("0123456789abcdef"), "{told}");
}

#[test]
fn a_reload_is_for_those_who_administer_the_server() {
    let Some(server) = sandboxed("", "") else { return };
    ask(&server, "demo-key").refused(403, "forbidden");
    ask(&server, "nobodys-key").refused(401, "unauthorized");
    assert_eq!(server.send("GET", "/admin/reload", &[("Authorization", "Bearer admin-key")], b"").status, 405);
    let nothing = json!({ "changed": [], "restart_needed": [], "deployed": [], "not_deployed": [] });
    assert_eq!(reload(&server), nothing);
}

#[test]
fn limits_of_connections_bodies_and_functions_change() {
    let Some(server) = sandboxed("", "") else { return };
    let pool = "pool_size: 2";
    server.deploy("size", "def handle(request):\n    return 'x' * int(request.get_text() or 0)", json!({}));
    let big = "1".repeat(2000);
    assert_eq!(server.post("/invoke/size", "9000").status, 200);

    change(&server, pool, "limits:\n  max_request_body: 1Ki", &["limits.max_request_body"]);
    server.post("/invoke/size", &big).refused(413, "payload_too_large");
    change(&server, pool, "", &["limits.max_request_body"]);

    change(&server, pool, "limits:\n  max_response_body: 1Ki", &["limits.max_response_body"]);
    assert_eq!(server.post("/invoke/size", "9000").status, 200, "an instance keeps what it started with");
    let instance = server.await_idle("size", 1).remove(0);
    assert_eq!(server.call("DELETE", &format!("/instances/{}", instance["id"].as_str().unwrap()), "").status, 202);
    server.await_end("size", &instance["id"]);
    server.post("/invoke/size", "9000").refused(502, "response_too_large");

    let (kept, opened) = ("limits:\n  max_response_body: 1Ki\n", Open::to(&server));
    change(&server, pool, &format!("{kept}  max_connections: 1"), &["limits.max_connections"]);
    let mut refused = BufReader::new(server.connect());
    Reply::read(&mut refused, false).refused(503, "too_many_connections");
    drop((refused, opened));
    configure(&server, pool, &format!("{kept}  max_functions: 1"));
    hang_up(&server, "limits.max_connections, limits.max_functions");
    let body = json!({ "name": "one-more", "code": HELLO }).to_string();
    server.post("/functions", &body).refused(503, "too_many_functions");
    change(&server, pool, kept, &["limits.max_functions"]);
    assert_eq!(server.post("/functions", &body).status, 201);
}

#[test]
fn limits_of_calls_and_their_times_change() {
    let Some(server) = sandboxed("pool_size: 2", "") else { return };
    server.deploy("slow", SLOW, json!({ "max_instances": 1 }));
    let pool = "pool_size: 2";
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.answer("slow", &slowed(Duration::from_secs(8)).as_secs().to_string()));
        server.await_load("slow", 1, 0);
        let queued = scope.spawn(|| server.answer("slow", "0"));
        server.await_load("slow", 1, 1);
        change(&server, pool, "limits:\n  max_queue_per_function: 1", &["limits.max_queue_per_function"]);
        server.invoke("slow", "0").refused(429, "queue_full");
        change(
            &server,
            pool,
            "limits:\n  max_invocations: 2",
            &["limits.max_invocations", "limits.max_queue_per_function"],
        );
        server.invoke("slow", "0").refused(503, "overloaded");
        assert_eq!((running.join().unwrap(), queued.join().unwrap()), (json!("done"), json!("done")));
    });
    server.await_idle("slow", 1);
    change(
        &server,
        "pool_size: 2\nwarm_instance_ttl: 50ms",
        "",
        &["system.warm_instance_ttl", "limits.max_invocations"],
    );
    server.await_idle("slow", 0);

    let blanks = |count: u64| eventually("blanks", || (server.get("/stats").json()["blanks"] == count).then_some(()));
    blanks(2);
    change(&server, "pool_size: 4", "", &["system.warm_instance_ttl", "system.pool_size"]);
    blanks(4);
    change(&server, "pool_size: 1", "", &["system.pool_size"]);
    blanks(1);

    let changed = ["system.cold_start_timeout"];
    change(&server, "pool_size: 1\ncold_start_timeout: 10ms", "", &changed);
    server.deploy("late", "time.sleep(60)\ndef handle(request):\n    return 1", json!({}));
    server.invoke("late", "").refused(503, "cold_start_timeout");
    let changed = ["system.cold_start_timeout", "system.drain_timeout"];
    change(&server, "pool_size: 1\ndrain_timeout: 1s", "", &changed);
}

#[test]
fn a_stop_has_the_patience_that_was_read_last() {
    let Some(server) = sandboxed("shutdown_grace: 3600", "") else { return };
    server.deploy("slow", SLOW, json!({ "timeout": "15m" }));
    change(&server, "pool_size: 2\nshutdown_grace: 1s", "", &["system.shutdown_grace"]);
    let begun = std::thread::scope(|scope| {
        let call = scope.spawn(|| server.invoke("slow", "600"));
        server.await_load("slow", 1, 0);
        let begun = Instant::now();
        server.signal(Signal::SIGTERM);
        call.join().unwrap().refused(503, "shutting_down");
        begun
    });
    let (home, status) = server.ended();
    assert_eq!(status.code(), Some(0), "{}", home.log());
    assert!(begun.elapsed() < common::patience());
}

#[test]
fn networks_and_what_may_be_reached_in_them_change() {
    let Some(server) = sandboxed("", "") else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = format!(
        "import socket\ndef handle(request):\n    try:\n        socket.create_connection(('127.0.0.1', {port}), 5).close()\n    except OSError as error:\n        return type(error).__name__\n    return 'connected'"
    );
    let body = json!({ "name": "out", "code": code, "config": { "network": "outbound" } }).to_string();
    let reply = server.post("/functions", &body);
    if reply.status != 201 {
        reply.refused(400, "network_unavailable");
        return common::skip("outbound network needs Linux 5.9");
    }
    assert_eq!(server.answer("out", ""), "PermissionError");
    let open = format!("pool_size: 2\noutbound_allow: ['127.0.0.1:{port}']");
    change(&server, &open, "", &["system.outbound_allow"]);
    assert_eq!(server.answer("out", ""), "connected", "the same instance");
    change(&server, "pool_size: 2", "", &["system.outbound_allow"]);
    assert_eq!(server.answer("out", ""), "PermissionError");

    change(&server, "pool_size: 2\nallowed_networks: [none]", "", &["system.allowed_networks"]);
    let detail = server.invoke("out", "").refused(503, "network_unavailable");
    assert!(detail.contains("outbound is not allowed on this server, which allows none"), "{detail}");
    server.call("PUT", "/functions/out", &json!({ "code": code + "\n" }).to_string()).refused(400, "invalid_config");
    change(&server, "pool_size: 2", "", &["system.allowed_networks"]);
    assert_eq!(server.answer("out", ""), "PermissionError");
}

#[test]
fn what_the_log_says_and_how_much_is_kept_of_functions_logs_changes() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("talks", "def handle(request):\n    for n in range(20):\n        print(n)", json!({}));
    server.answer("talks", "");
    assert_eq!(server.logs("talks").len(), 20);
    assert!(!server.home.log().contains("[DEBUG]"));
    let changed = ["system.logging_level", "limits.max_log_entries"];
    change(&server, "pool_size: 2\nlogging_level: DEBUG", "limits:\n  max_log_entries: 5", &changed);
    assert_eq!(server.logs("talks").len(), 5);
    // Its end is told at that level.
    let instance = server.await_idle("talks", 1).remove(0);
    server.call("DELETE", &format!("/instances/{}", instance["id"].as_str().unwrap()), "");
    eventually("a line for debugging", || server.home.log().contains("[DEBUG]").then_some(()));
    change(&server, "pool_size: 2\nlogging_level: ERROR", "", &changed);
    assert_eq!(server.logs("talks").len(), 20, "what memory had given up is in the files");
    // Lines from before may still be on their way to the file.
    eventually("a reload of which nothing is said", || {
        let before = server.home.log().len();
        reload(&server);
        std::thread::sleep(Duration::from_millis(100));
        (server.home.log().len() == before).then_some(())
    });
}

#[test]
fn what_is_made_at_the_start_waits_for_a_restart_and_is_named_until_then() {
    let Some(server) = sandboxed("", "") else { return };
    let system =
        "host: '::1'\nworkers: 3\nprocess_isolation_level: standard\nmax_concurrent_functions: 20\npool_size: 1";
    configure(&server, system, "");
    let needed =
        json!(["system.max_concurrent_functions", "system.host", "system.process_isolation_level", "system.workers"]);
    for changed in [json!(["system.pool_size"]), json!([])] {
        let answer = reload(&server);
        assert_eq!((&answer["changed"], &answer["restart_needed"]), (&changed, &needed), "{answer}");
    }
    eventually("the keys in the log", || {
        server.home.log().contains("a restart is needed for system.max_concurrent_functions, system.host").then_some(())
    });
    assert_eq!(server.get("/health").json()["modes"]["process"]["isolation"], "strict");
    let (home, status) = server.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    let server = Server::on(home);
    assert_eq!(server.get("/health").json()["modes"]["process"]["isolation"], "standard");
    assert_eq!(reload(&server)["restart_needed"], json!([]));
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_says_where() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("hello", HELLO, json!({}));
    let file = server.home.path().join("faas.yaml");
    let path = file.display().to_string();
    let good = std::fs::read_to_string(&file).unwrap().trim_end().to_owned() + "\n";
    let secret = "hunter2-hunter2";
    // Each would let the demo key go, were anything of it taken.
    let rest = "  well_known_keys: false\n";
    let cases = [
        (format!("{good}{rest}  pool_sise: 3\n"), Some("system.pool_sise"), Some(6), "did you mean pool_size?"),
        (format!("{good}{rest}  drain_timeout: soon\n"), Some("system.drain_timeout"), Some(6), "got \"soon\""),
        (format!("{good}{rest}limits:\n  max_connections: 0\n"), Some("limits.max_connections"), Some(7), "from 1 to"),
        (
            format!("{good}{rest}functions:\n  f:\n    source: nowhere.py\n"),
            Some("functions.f.source"),
            Some(8),
            "nowhere.py",
        ),
        (
            format!("{good}{rest}functions:\n  f:\n    environment: {{KEY: [{secret}]}}\n"),
            Some("functions.f.environment.KEY"),
            Some(8),
            "a list (not shown)",
        ),
        (
            format!("{good}{rest}  api_keys:\n    - {{name: a, key: {secret}, scopes: [all]}}\n"),
            Some("system.api_keys[0].key"),
            Some(7),
            "not shown",
        ),
        (format!("{good}{rest}  [\n"), None, Some(7), "not valid YAML"),
        (format!("{good}  host: 0.0.0.0\n  well_known_keys: true\n"), Some("system.well_known_keys"), None, "0.0.0.0"),
    ];
    for (number, (text, key, line, said)) in cases.into_iter().enumerate() {
        std::fs::write(&file, &text).unwrap();
        let reply = ask(&server, "admin-key");
        let detail = reply.refused(400, "configuration_refused");
        let told = reply.json();
        assert!(detail.contains(said), "{detail}");
        assert_eq!((told["key"].as_str(), told["line"].as_u64()), (key, line), "{told}");
        if line.is_some() {
            assert_eq!(told["file"], json!(path), "{told}");
        }
        assert!(!reply.text().contains(secret), "{told}");
        // Each is told twice: what was asked for through the API, and what came of the signal.
        let told = |times: usize| {
            eventually("what is wrong is told", || {
                (server.home.log().matches("nothing is changed").count() == 2 * number + times).then_some(())
            });
        };
        told(1);
        server.signal(Signal::SIGHUP);
        told(2);
        assert!(server.home.log().contains(&detail), "{}", server.home.log());
        assert_eq!(server.answer("hello", ""), "hello");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(ask(&server, "admin-key").refused(400, "configuration_refused").contains("cannot read"));
    assert!(!server.home.log().contains(secret));
    assert!(!server.home.log().contains(READ_AGAIN));
    std::fs::write(&file, good).unwrap();
    assert_eq!(reload(&server)["changed"], json!([]));
}

#[test]
fn functions_of_the_file_are_deployed_one_by_one_as_at_the_start() {
    let code = |text: &str| format!("    code: |\n      def handle(request):\n          return {text}\n");
    let (same, old, new) = (code("'same'"), code("'old'"), code("'new'"));
    let rest = format!("functions:\n  same:\n{same}  other:\n{old}  goes:\n{same}");
    let Some(server) = sandboxed("", &rest) else { return };
    assert_eq!((server.answer("same", ""), server.answer("other", "")), (json!("same"), json!("old")));
    let instance = server.await_idle("same", 1).remove(0)["id"].clone();
    // Changed, gone, new, wrong, and one without code: a set of defaults.
    let rest = format!(
        "functions:\n  same:\n{same}  other:\n{new}  comes:\n{new}  wrong:\n    code: 'def handle(:'\n  later:\n    timeout: 7\n"
    );
    configure(&server, "pool_size: 2", &rest);
    let answer = reload(&server);
    let changed = ["functions.comes", "functions.goes", "functions.later", "functions.other", "functions.wrong"];
    assert_eq!(answer["changed"], json!(changed));
    assert_eq!(answer["deployed"], json!([{"name": "comes", "version": 1}, {"name": "other", "version": 2}]));
    assert_eq!(answer["not_deployed"].as_array().unwrap().len(), 1, "{answer}");
    let refused = &answer["not_deployed"][0];
    assert_eq!((refused["name"].as_str(), refused["code"].as_str()), (Some("wrong"), Some("invalid_code")));
    assert!(refused["detail"].as_str().unwrap().starts_with("code, line 1: "), "{refused}");
    server.home.await_words("function wrong of the configuration is not deployed");
    for (name, answer) in [("same", "same"), ("other", "new"), ("comes", "new"), ("goes", "same")] {
        assert_eq!(server.answer(name, ""), answer, "{name}");
    }
    server.invoke("wrong", "").refused(404, "not_found");
    assert_eq!(server.await_idle("same", 1)[0]["id"], instance, "what has not changed keeps its instances");
    server.deploy("later", HELLO, json!({}));
    assert_eq!(server.get("/functions/later").json()["config"]["timeout"], 7);
    // As a restart would, a reload brings back what the file says.
    let body = json!({ "code": HELLO }).to_string();
    assert_eq!(server.call("PUT", "/functions/other", &body).status, 200);
    assert_eq!(server.answer("other", ""), "hello");
    assert_eq!(reload(&server)["deployed"], json!([{"name": "other", "version": 4}]));
    assert_eq!(server.answer("other", ""), "new");
    // And what it deployed outlives a restart.
    let server = Server::on(server.end(Signal::SIGTERM).0);
    assert_eq!((server.answer("other", ""), server.answer("comes", "")), (json!("new"), json!("new")));
}

#[test]
fn how_functions_run_that_do_not_say_changes() {
    const NO_ENGINE: &str = "container_runtime: /nowhere/engine.sock";
    let Some(server) = sandboxed(NO_ENGINE, "") else { return };
    let lines = |mode: &str| format!("pool_size: 2\n{NO_ENGINE}{mode}");
    change(&server, &lines("\ndefault_mode: container"), "", &["system.default_mode"]);
    let body = json!({ "name": "boxed", "code": HELLO }).to_string();
    let detail = server.post("/functions", &body).refused(503, "engine_unavailable");
    assert!(detail.contains("the container engine is absent") && !detail.contains("/nowhere"), "{detail}");
    // That is for the log.
    server.home.await_words("/nowhere/engine.sock");
    change(&server, &lines(""), "", &["system.default_mode"]);
    assert_eq!(server.post("/functions", &body).status, 201);
}

#[test]
fn calls_under_way_notice_nothing_of_reloads_by_signal_and_by_the_api() {
    let code = |version: u64| {
        let body = format!("          time.sleep(0.002)\n          return {version}");
        format!("functions:\n  busy:\n    max_instances: 3\n    code: |\n      def handle(request):\n{body}\n")
    };
    let Some(server) = sandboxed("", &code(0)) else { return };
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    const ROUNDS: u64 = 12;
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (server, over, answered) = (&server, &over, &answered);
            scope.spawn(move || {
                // Half of them on connections that stay.
                let mut open = Open::to(server);
                while !over.load(Ordering::Relaxed) {
                    let reply = match number % 2 {
                        0 => open.send("demo-key", "/invoke/busy", ""),
                        _ => server.invoke("busy", ""),
                    };
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    assert!(reply.json().as_u64().unwrap() <= ROUNDS);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = SetAtEnd(&over);
        for round in 1..=ROUNDS {
            let (pool, ttl) = (1 + round % 4, 30 + round);
            let system = format!("pool_size: {pool}\nwarm_instance_ttl: {ttl}\ncold_start_timeout: {ttl}");
            configure(&server, &system, &format!("limits:\n  max_queue_per_function: {}\n{}", 50 + round, code(round)));
            if round % 2 == 0 {
                hang_up(&server, READ_AGAIN);
            } else {
                reload(&server);
            }
            let goal = answered.load(Ordering::Relaxed) + 30;
            eventually("calls go on", || (answered.load(Ordering::Relaxed) >= goal).then_some(()));
        }
    });
    assert_eq!(server.answer("busy", ""), ROUNDS);
    let stats = server.stats("busy");
    assert_eq!(
        (&stats["failed"], &stats["refused"], &stats["abandoned"]),
        (&json!(0), &json!(0), &json!(0)),
        "{stats}"
    );
}

#[test]
fn of_many_reloads_at_once_each_is_answered_by_one_that_began_after_it_was_asked_for() {
    let function = |version: u64| {
        format!("functions:\n  f:\n    code: |\n      def handle(request):\n          return {version}\n")
    };
    let Some(server) = sandboxed("", &function(0)) else { return };
    let configuring = std::sync::Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let version = {
                        let mut last = configuring.lock().unwrap();
                        *last += 1;
                        configure(&server, "pool_size: 2", &function(*last));
                        *last
                    };
                    reload(&server);
                    let in_force = server.answer("f", "").as_u64().unwrap();
                    assert!(in_force >= version, "{in_force} after {version} was read");
                }
            });
        }
        // The control threads are not all taken by those who wait.
        for _ in 0..10 {
            assert_eq!(server.get("/instances").status, 200);
        }
    });
    assert_eq!(server.answer("f", ""), 24);
    let read = server.home.log().matches(READ_AGAIN).count();
    assert!((3..=24).contains(&read), "{read}");
}
