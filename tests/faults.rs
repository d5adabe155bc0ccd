//! What a function can do to itself: run too long, crash, not load, speak garbage. Each is a defined error of the calls
//! that it was running; the next call works, on a fresh instance; other functions notice nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::functions::{kill_instance, sandboxed};
use common::{eventually, Server};
use nix::sys::signal::Signal;
use serde_json::{json, Value};

/// Runs the body, as Python.
const EXEC: &str = r#"
import os, signal, struct, sys, threading, _socket

def frame(kind, flags, call, nonce, payload, size=None):
    return struct.pack("<IBBHQQ", len(payload) if size is None else size, kind, flags, 0, call, nonce) + payload

def handle(request):
    exec(request.get_text(), globals())
    return "done"
"#;

/// A server with the function `exec`, and a neighbour whose one instance must survive everything.
fn with_neighbour(system: &str, config: Value) -> Option<Server> {
    let server = sandboxed(system, "")?;
    server.deploy("exec", EXEC, config);
    server.deploy(
        "neighbour",
        "calls = []\ndef handle(request):\n    calls.append(1)\n    return len(calls)",
        json!({}),
    );
    assert_eq!(server.answer("neighbour", ""), 1);
    Some(server)
}

/// Calls a function in a way that costs it its instance, and checks what must hold afterwards.
fn costs_its_instance(server: &Server, name: &str, body: &str) -> (u16, String, String) {
    let neighbour = server.answer("neighbour", "").as_u64().unwrap();
    let reply = server.invoke(name, body);
    assert!(reply.status >= 500, "{body}: {}", reply.text());
    let code = reply.code();
    let instance = reply.header("x-faas-instance").unwrap_or_else(|| panic!("{body}: which? {reply:?}")).to_owned();
    server.await_end(name, &json!(instance));
    common::mode::await_stock(server);
    let next = server.invoke(name, "pass");
    assert_eq!((next.status, next.text().as_str()), (200, "\"done\""), "the next call after {body}");
    assert_ne!(next.header("x-faas-instance"), Some(instance.as_str()), "{body}");
    assert_eq!(server.answer("neighbour", ""), neighbour + 1, "the neighbour after {body}");
    (reply.status, code, reply.json()["detail"].as_str().unwrap().to_owned())
}

// ---- Time ----

#[test]
fn a_call_beyond_its_timeout_is_ended_with_its_instance_whatever_it_does() {
    // The start of the next instance has to fit into it.
    let timeout_ms = if common::mode::in_containers() { 6000 } else { 2000 };
    let Some(server) = with_neighbour("", json!({ "timeout": format!("{timeout_ms}ms") })) else { return };
    for code in [
        "time.sleep(600)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "while True: pass",
        "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
        "x = 10 ** 10 ** 8",
        "threading.Thread(target=lambda: time.sleep(600)).start(); os.read(os.pipe()[0], 1)",
        "[signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)), time.sleep(600)]",
        "if os.fork() == 0: os.setsid()\ntime.sleep(600)",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E()",
    ] {
        let (status, problem, detail) = costs_its_instance(&server, "exec", code);
        assert_eq!((status, problem.as_str()), (504, "function_timeout"), "{code}");
        assert!(detail.contains(&format!("{timeout_ms} ms")), "{detail}");
    }
    let stats = server.stats("exec");
    assert_eq!((&stats["timed_out"], &stats["crashed"]), (&json!(9), &json!(0)));
}

#[test]
fn a_call_whose_time_passes_in_the_queue_is_told_so_and_never_runs() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "seen = []\ndef handle(request):\n    seen.append(request.get_text())\n    \
                time.sleep(3 if seen[-1] == 'slow' else 0)\n    return seen";
    server.deploy("one", code, json!({"max_instances": 1, "timeout": 20}));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| server.invoke("one", "slow"));
        server.await_load("one", 1, 0);
        // The calls of the next version wait for the same, only, instance.
        assert_eq!(server.call("PUT", "/functions/one", r#"{"config": {"timeout": "500ms"}}"#).status, 200);
        slow.join().unwrap();
    });
    assert_eq!(server.call("PUT", "/functions/one", r#"{"config": {"timeout": "2s"}}"#).status, 200);
    common::mode::await_stock(&server);
    eventually("it is warm", || (server.invoke("one", "warm").text() == r#"["warm"]"#).then_some(()));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| server.invoke("one", "slow"));
        server.await_load("one", 1, 0);
        let late = scope.spawn(|| server.invoke("one", "late"));
        let late = late.join().unwrap();
        // The slow one's end, a timeout too, may have made room for it just in time, or for the rest of its time.
        if late.status != 200 && late.status != 504 {
            assert_eq!((late.status, late.code().as_str()), (503, "queue_timeout"), "{}", late.text());
            assert!(late.json()["detail"].as_str().unwrap().contains("2000 ms"), "{}", late.text());
            assert!(late.header("retry-after").is_some());
        }
        assert_eq!(slow.join().unwrap().code(), "function_timeout");
    });
}

#[test]
fn many_waiting_calls_run_out_of_time_each_at_its_own_limit() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "def handle(request):\n    time.sleep(0.4)";
    server.deploy("busy", code, json!({"max_instances": 1, "timeout": "1s"}));
    // Its first start may take longer than it has.
    eventually("it is warm", || (server.invoke("busy", "").status == 200).then_some(()));
    let timed_out = server.stats("busy")["timed_out"].as_u64().unwrap();
    let replies: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| server.invoke("busy", ""))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    // They come within a moment, and so do their ends: whose turn it is in that moment runs, and ends, on its own limit.
    let codes: Vec<String> = replies.iter().filter(|reply| reply.status != 200).map(|reply| reply.code()).collect();
    assert!(codes.iter().all(|code| code == "queue_timeout" || code == "function_timeout"), "{codes:?}");
    // Two of them fit into a second; those that a busy machine sends later have later limits, and may find room again.
    assert!(codes.len() >= 4 && codes.iter().any(|code| code == "queue_timeout"), "{codes:?}");
    assert_eq!(server.stats("busy")["timed_out"], json!(timed_out + codes.len() as u64));
    eventually("it works again", || (server.invoke("busy", "").status == 200).then_some(()));
}

// ---- Crashes ----

#[test]
fn a_crash_says_how_the_process_ended() {
    let Some(server) = with_neighbour("", json!({})) else { return };
    for (code, words) in [
        ("os._exit(3)", "exited with status 3"),
        ("os._exit(0)", "exited with status 0"),
        ("os.abort()", "ended by signal"),
        ("import ctypes; ctypes.string_at(0)", "ended by signal 11"),
        ("os.close(3)", "process"),
        ("os.closerange(0, 256)", "process"),
        ("os.dup2(0, 3)", "process"),
        ("_socket.socket(fileno=3).shutdown(_socket.SHUT_RDWR)", "process"),
    ] {
        let (status, problem, detail) = costs_its_instance(&server, "exec", code);
        assert_eq!((status, problem.as_str()), (502, "function_crashed"), "{code}: {detail}");
        assert!(detail.contains(words), "{code}: {detail}");
    }
}

#[test]
fn a_crash_fails_the_running_call_only_and_those_behind_it_run_elsewhere() {
    let Some(server) = with_neighbour("", json!({"max_instances": 1})) else { return };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.invoke("exec", "time.sleep(3); os._exit(7)"));
        server.await_load("exec", 1, 0);
        let others: Vec<_> = (0..5).map(|_| scope.spawn(|| server.answer("exec", "pass"))).collect();
        let reply = first.join().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (502, "function_crashed"));
        others.into_iter().for_each(|call| assert_eq!(call.join().unwrap(), "done"));
    });
}

#[test]
fn an_instance_killed_from_outside_fails_its_call_with_the_signal() {
    let Some(server) = with_neighbour("", json!({})) else { return };
    std::thread::scope(|scope| {
        let call = scope.spawn(|| server.invoke("exec", "print('begun'); time.sleep(600)"));
        // One that is killed while it loads is another story: the function is then not started again for a moment. And
        // what it has not begun runs elsewhere.
        server.await_print("exec", "begun");
        let [instance] = &server.instances("exec")[..] else { panic!("one instance") };
        kill_instance(instance);
        let reply = call.join().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (502, "function_crashed"));
        assert!(reply.json()["detail"].as_str().unwrap().ends_with("signal 9"), "{}", reply.text());
    });
    assert_eq!(server.answer("exec", "pass"), "done");
    // The same while it is idle: nobody notices.
    let [instance] = &server.instances("exec")[..] else { panic!("one instance") };
    kill_instance(instance);
    server.await_end("exec", &instance["id"]);
    assert_eq!(server.answer("exec", "pass"), "done");
}

#[test]
fn a_function_beyond_its_memory_is_told_that_it_was_memory() {
    let Some(server) = with_neighbour("", json!({"memory": "64Mi"})) else { return };
    for code in ["x = b'x' * (200 << 20)", "x = []\nwhile True: x.append(b'x' * (1 << 20))"] {
        let (status, problem, detail) = costs_its_instance(&server, "exec", code);
        assert_eq!((status, problem.as_str()), (502, "function_out_of_memory"), "{code}: {detail}");
        assert!(detail.contains("67108864"), "{detail}");
    }
}

// ---- Loading ----

#[test]
fn a_function_that_does_not_load_says_why_and_recovers_with_the_next_version() {
    let Some(server) = with_neighbour("", json!({})) else { return };
    for (code, kind, message) in [
        ("import nope\ndef handle(request): pass", "ModuleNotFoundError", "No module named 'nope'"),
        ("handle = 1 / 0", "ZeroDivisionError", "division by zero"),
        ("import sys\nsys.exit(4)\ndef handle(request): pass", "SystemExit", "4"),
        ("def handle(request): pass\ndel handle", "AttributeError", "handle"),
        ("def f(): f()\nf()\ndef handle(request): pass", "RecursionError", "maximum recursion"),
    ] {
        let body = json!({ "name": "broken", "code": code }).to_string();
        let created = server.post("/functions", &body);
        assert_eq!(created.status, 201, "{code}: {}", created.text());
        // The second time it is refused out of memory of the first, or tried again; the answer is the same.
        for _ in 0..3 {
            let reply = server.invoke("broken", "");
            assert_eq!((reply.status, reply.code().as_str()), (500, "function_load_error"), "{}", reply.text());
            let error = &reply.json()["error"];
            assert_eq!(error["type"], kind, "{code}");
            assert!(error["message"].as_str().unwrap().contains(message), "{code}: {error}");
        }
        let logs = server.logs("broken");
        assert!(logs.iter().any(|entry| entry["stream"] == "traceback"), "{code}: {logs:?}");
        let mended = json!({"code": "def handle(request):\n    return 'mended'"}).to_string();
        assert_eq!(server.call("PUT", "/functions/broken", &mended).status, 200);
        assert_eq!(server.answer("broken", ""), "mended", "at once, in spite of the pause after a failed start");
        assert_eq!(server.call("DELETE", "/functions/broken", "").status, 204);
    }
    assert_eq!(server.answer("neighbour", ""), 2);
}

#[test]
fn a_function_that_does_not_load_is_not_tried_all_the_time_but_again_later() {
    let Some(server) = sandboxed("", "") else { return };
    // The clock says whether it loads, so it mends itself.
    let code = "if time.time() < DUE: raise OSError('not yet')\ndef handle(request):\n    return 'loaded'";
    let begun = Instant::now();
    server.deploy("later", &code.replace("DUE", "float('inf')"), json!({}));
    // Not before the update has been deployed, which on a busy machine takes a while.
    let wait = Duration::from_millis(1500) + (3 * begun.elapsed()).min(Duration::from_secs(12));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let due = (now + wait).as_secs_f64();
    let update = json!({ "code": code.replace("DUE", &due.to_string()) }).to_string();
    assert_eq!(server.call("PUT", "/functions/later", &update).status, 200);
    let mut refused = 0;
    eventually("it loads", || {
        let reply = server.invoke("later", "");
        if reply.status == 500 {
            assert_eq!(reply.code(), "function_load_error");
            refused += 1;
        }
        (reply.status == 200).then_some(())
    });
    let tries = server.logs("later").iter().filter(|entry| entry["stream"] == "traceback").count();
    assert!(refused >= 1 && (1..=8).contains(&tries), "{tries} starts for {refused} calls in {wait:?}");
}

#[test]
fn top_level_code_that_never_ends_is_ended_by_the_cold_start_timeout() {
    let Some(server) = sandboxed("cold_start_timeout: 1s", "") else { return };
    server.deploy("stuck", "while True: pass\ndef handle(request): pass", json!({"timeout": 20}));
    let reply = server.invoke("stuck", "");
    assert_eq!((reply.status, reply.code().as_str()), (503, "cold_start_timeout"), "{}", reply.text());
    assert!(reply.json()["detail"].as_str().unwrap().contains("1000 ms"));
    eventually("its instance is gone", || server.instances("stuck").is_empty().then_some(()));
}

#[test]
fn a_call_does_not_wait_longer_for_a_slow_load_than_its_timeout() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("slow", "time.sleep(3)\ndef handle(request):\n    return 'loaded'", json!({"timeout": "1s"}));
    let reply = server.invoke("slow", "");
    assert_eq!((reply.status, reply.code().as_str()), (503, "queue_timeout"), "{}", reply.text());
    // The load goes on, since it is not late yet, and serves those who come after it.
    server.await_idle("slow", 1);
    assert_eq!(server.answer("slow", ""), "loaded");
}

#[test]
fn a_crash_while_loading_is_told_as_one() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exits", "import os\nos._exit(9)\ndef handle(request): pass", json!({}));
    let (status, code, detail) = server.failure("exits", "");
    assert_eq!((status, code.as_str()), (502, "function_crashed"));
    assert!(detail.contains("status 9"), "{detail}");
}

// ---- Its own channel ----

#[test]
fn garbage_on_its_own_channel_costs_the_function_its_instance_and_nobody_else_anything() {
    let Some(server) = with_neighbour("", json!({})) else { return };
    for code in [
        "os.write(3, b'garbage')",
        "os.write(3, b'\\0' * 24)",
        "os.write(3, frame(18, 1, 1, 1, b'', size=0xffffffff))",
        "os.write(3, frame(18, 1, 1, 1, b'abc', size=2))",
        "os.write(3, frame(18, 1, 1, 1, b'abc', size=4))",
        "os.write(3, frame(99, 1, 1, 1, b''))",
        "os.write(3, frame(18, 0xfe, 1, 1, b''))",
        "os.write(3, frame(16, 1, 0, 0, b'{\"python\":\"3.11.7\"}'))",
        "os.write(3, frame(17, 0, 0, 0, b''))",
        "os.write(3, frame(3, 1, 1, 1, b'x' * 20))",
        "os.write(3, frame(4, 1, 1, 1, b'a body of nothing'))",
        "os.write(3, frame(20, 0, 1, 1, b'\\x09an unknown stream'))",
        "os.write(3, frame(19, 1, 1, 1, b'{\"phase\":\"call\",\"type\":\"E\",\"message\":\"forged\"}'))",
        "os.write(3, frame(18, 1, 12345, 678, struct.pack('<HHIQ', 200, 0, 0, 0)))",
        "for _ in range(2000): os.write(3, frame(20, 0, 0, 0, b'\\0' + b'x' * 16000))",
        "os.write(3, frame(20, 0, 0, 0, b'\\0x') * 65)",
    ] {
        let (status, problem, detail) = costs_its_instance(&server, "exec", code);
        assert_eq!((status, problem.as_str()), (502, "protocol_violation"), "{code}: {detail}");
    }
    // An empty datagram cannot be told from the end of the channel.
    let (status, problem, _) =
        costs_its_instance(&server, "exec", "os.write(3, b'')\nos.write(3, b'') or time.sleep(9)");
    assert!(status == 502 && (problem == "function_crashed" || problem == "protocol_violation"), "{problem}");
}

#[test]
fn an_answer_to_another_functions_call_reaches_nobody() {
    let Some(server) = with_neighbour("", json!({})) else { return };
    server.deploy("victim", "def handle(request):\n    time.sleep(4)\n    return 'true answer'", json!({}));
    std::thread::scope(|scope| {
        let victim = scope.spawn(|| server.answer("victim", ""));
        server.await_load("victim", 1, 0);
        // Ids count up, so that they can be guessed; the nonce cannot.
        let forge = "for call in range(64):\n    try: os.write(3, frame(18, 1, call, 0, struct.pack('<HHIQ', 200, 0, 0, 0)))\n    \
                     except OSError: pass";
        assert_eq!(server.invoke("exec", forge).code(), "protocol_violation");
        assert_eq!(victim.join().unwrap(), "true answer");
    });
}

// ---- What outlives a call ----

#[test]
fn a_thread_left_running_cannot_reach_into_later_answers() {
    let Some(server) = with_neighbour("", json!({})) else { return };
    let noisy = "def noise():\n    for n in range(200):\n        print('noise', n); os.write(1, b'raw noise\\n'); time.sleep(0.005)\n\
                 threading.Thread(target=noise).start()";
    assert_eq!(server.answer("exec", noisy), "done");
    for _ in 0..50 {
        assert_eq!(server.answer("exec", "pass"), "done");
    }
    assert_eq!(server.instances("exec").len(), 1, "printing late is not a crime");
    // Garbage between two calls costs the instance, not the next call.
    let late = "threading.Timer(2, lambda: os.write(3, b'garbage')).start()";
    let reply = server.invoke("exec", late);
    assert_eq!(reply.text(), "\"done\"");
    server.await_end("exec", &json!(reply.header("x-faas-instance")));
    assert_eq!(server.answer("exec", "pass"), "done");
}

#[test]
fn a_child_left_running_ends_with_its_instance() {
    let Some(server) = with_neighbour("", json!({})) else { return };
    let code = "r, w = os.pipe()\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        \
                os.write(w, b'x'); time.sleep(600)\n    os._exit(0)\nos.read(r, 1)";
    let reply = server.invoke("exec", code);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let [instance] = &server.instances("exec")[..] else { panic!("one instance") };
    let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", instance["pid"])).unwrap();
    let inhabitants = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        processes.filter(|it| std::fs::read_link(it.path().join("ns/pid")).is_ok_and(|link| link == namespace)).count()
    };
    assert!(inhabitants() >= 2, "the child lives on after the answer");
    let path = format!("/instances/{}", instance["id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &path, "").status, 202);
    eventually("nobody is left in its namespace", || (inhabitants() == 0).then_some(()));
}

#[test]
fn atexit_runs_when_an_instance_is_stopped() {
    let Some(server) = with_neighbour("", json!({})) else { return };
    assert_eq!(server.answer("exec", "import atexit; atexit.register(print, 'last words')"), "done");
    let [instance] = &server.instances("exec")[..] else { panic!("one instance") };
    let path = format!("/instances/{}", instance["id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &path, "").status, 202);
    eventually("it is in the log", || server.logs("exec").iter().any(|it| it["message"] == "last words").then_some(()));
}

#[test]
fn atexit_that_never_ends_does_not_keep_an_instance() {
    let Some(server) = with_neighbour("warm_instance_ttl: 4s", json!({})) else { return };
    let endless = "import atexit\natexit.register(time.sleep, 600)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)";
    let stay = || {
        assert_eq!(server.answer("exec", endless), "done");
        let [instance] = &server.instances("exec")[..] else { panic!("one instance") };
        instance["id"].clone()
    };
    // Stopped by hand, by its age, with its function, with the server.
    let id = stay();
    assert_eq!(server.call("DELETE", &format!("/instances/{}", id.as_str().unwrap()), "").status, 202);
    server.await_end("exec", &id);
    let id = stay();
    server.await_end("exec", &id);
    let id = stay();
    assert_eq!(server.call("DELETE", "/functions/exec", "").status, 204);
    eventually("it goes with its function", || {
        let instances = server.get("/instances").json();
        (!instances.to_string().contains(&id.to_string())).then_some(())
    });
    server.deploy("exec", EXEC, json!({}));
    assert_eq!(server.answer("exec", endless), "done");
    let (_home, status) = server.end(Signal::SIGTERM);
    assert!(status.success(), "{status}");
}
