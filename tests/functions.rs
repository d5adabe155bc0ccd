//! What a function is given: the request, its globals, its environment, bodies of every size.
#![allow(clippy::unwrap_used)]

mod common;

use common::functions::sandboxed;
use common::{command, Home, Reply, Server};
use serde_json::{json, Value};

const KEY: (&str, &str) = ("Authorization", "Bearer demo-key");

/// Answers with everything that the request says.
const PROBE: &str = r#"
def handle(request):
    return {
        "method": request.method,
        "path": request.path,
        "body": list(request.body),
        "body_is_bytes": type(request.body) is bytes,
        "text": request.get_text(),
        "params": request.query_params,
        "x": request.query_params_list("x"),
        "mixed": [request.get_header("x-MIXED"), request.headers.get("X-mixed"), request.headers.get("x-mixed"),
                  "X-MIXED" in request.headers],
        "absent": [request.get_header("x-absent"), request.get_header("x-absent", "default")],
        "repeated": request.get_header("x-many"),
        "names": sorted(request.headers),
        "key_is_seen": b"demo-key" in bytes(request._data) or "demo-key" in repr(dict(request.headers)),
    }
"#;

fn probe(server: &Server, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Value {
    let reply = server.send(method, target, headers, body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn the_request_says_what_the_client_sent() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("probe", PROBE, json!({}));
    let headers = [KEY, ("X-Mixed", "One"), ("X-Many", "a"), ("X-Many", "b")];
    let target = "/invoke/probe/a/b%20c?x=1&y=%C3%A9+z&x=2&empty=&flag";
    let seen = probe(&server, "POST", target, &headers, b"\x00\xffhi");
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["path"], "/a/b c");
    assert_eq!(seen["body"], json!([0, 255, 104, 105]));
    assert_eq!(seen["body_is_bytes"], true);
    assert_eq!(seen["text"], "\0\u{fffd}hi");
    assert_eq!(seen["params"], json!({"x": "2", "y": "é z", "empty": "", "flag": ""}));
    assert_eq!(seen["x"], json!(["1", "2"]));
    assert_eq!(seen["mixed"], json!(["One", "One", "One", true]));
    assert_eq!(seen["absent"], json!([null, "default"]));
    assert_eq!(seen["repeated"], "a, b");
}

#[test]
fn the_path_of_a_call_without_a_rest_is_a_slash() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("probe", PROBE, json!({}));
    for target in ["/invoke/probe", "/invoke/probe/", "/invoke/probe?x=1"] {
        assert_eq!(probe(&server, "GET", target, &[KEY], b"")["path"], "/", "{target}");
    }
}

#[test]
fn the_callers_key_is_never_seen_by_the_function() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("probe", PROBE, json!({}));
    for name in ["Authorization", "authorization", "AUTHORIZATION"] {
        let seen = probe(&server, "POST", "/invoke/probe", &[(name, "Bearer demo-key")], b"{}");
        assert_eq!(seen["key_is_seen"], false, "{name}");
        assert!(!seen["names"].as_array().unwrap().contains(&json!("authorization")), "{name}");
    }
}

#[test]
fn every_method_reaches_the_function() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("method", "def handle(request):\n    return {}, 200, {'X-Method': request.method}", json!({}));
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let reply = server.send(method, "/invoke/method", &[KEY], b"");
        assert_eq!((reply.status, reply.header("x-method")), (200, Some(method)), "{}", reply.text());
    }
}

#[test]
fn json_is_decoded_only_when_asked_for() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("json", "def handle(request):\n    return {'got': request.get_json()}", json!({}));
    server.deploy("text", "def handle(request):\n    return {'got': request.get_text()}", json!({}));
    assert_eq!(server.answer("json", "")["got"], Value::Null);
    assert_eq!(server.answer("json", " [1, \"é\", null] ")["got"], json!([1, "é", null]));
    assert_eq!(server.answer("text", "{not json")["got"], "{not json");
    let (status, code, detail) = server.failure("json", "{not json");
    assert_eq!((status, code.as_str()), (500, "function_error"));
    assert!(detail.starts_with("JSONDecodeError: "), "{detail}");
}

#[test]
fn time_and_json_are_there_without_an_import() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "def handle(request):\n    return {'now': time.time() > 0, 'text': json.dumps({'a': 1})}";
    assert_eq!(server.run("ready", code, "{}"), json!({"now": true, "text": "{\"a\": 1}"}));
}

#[test]
fn globals_live_as_long_as_the_instance() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "calls = 0\ndef handle(request):\n    global calls\n    calls += 1\n    return calls";
    server.deploy("count", code, json!({}));
    let replies: Vec<Reply> = (0..3).map(|_| server.invoke("count", "")).collect();
    let told: Vec<(String, &str)> =
        replies.iter().map(|reply| (reply.text(), reply.header("x-faas-cold-start").unwrap())).collect();
    assert_eq!(told, [("1".into(), "true"), ("2".into(), "false"), ("3".into(), "false")]);
    let instance = replies[0].header("x-faas-instance").unwrap();
    assert!(replies.iter().all(|reply| reply.header("x-faas-instance") == Some(instance)));
    assert!(replies.iter().all(|reply| reply.header("x-faas-duration-ms").unwrap().parse::<f64>().unwrap() >= 0.0));

    assert_eq!(server.call("DELETE", &format!("/instances/{instance}"), "").status, 202);
    server.await_end("count", &json!(instance));
    let fresh = server.invoke("count", "");
    assert_eq!((fresh.text().as_str(), fresh.header("x-faas-cold-start")), ("1", Some("true")));
    assert_ne!(fresh.header("x-faas-instance"), Some(instance));
}

#[test]
fn the_environment_is_the_configured_one_and_nothing_of_the_servers() {
    if !common::mode::can_run_functions() {
        return;
    }
    let home = Home::with("pool_size: 1", "");
    let mut start = command(&home);
    start.env("FAAS_TEST_CANARY", "canary-of-the-server").env("AWS_SECRET_ACCESS_KEY", "canary-of-the-server");
    let server = Server::launch(home, start);
    let code = r#"
import os
def handle(request):
    files = []
    for name in ("/proc/self/environ", "/proc/1/environ", "/proc/self/cmdline"):
        try:
            files.append(open(name, "rb").read().decode("latin-1"))
        except OSError:
            pass
    return {"environ": dict(os.environ), "files": files}
"#;
    server.deploy("environ", code, json!({"environment": {"GREETING": "Grüß Gott", "EMPTY": ""}}));
    let seen = server.answer("environ", "");
    assert_eq!(seen["environ"]["GREETING"], "Grüß Gott");
    assert_eq!(seen["environ"]["EMPTY"], "");
    let mut names: Vec<&str> = seen["environ"].as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let own = ["FAAS_FUNCTION", "FAAS_INSTANCE", "FAAS_VERSION", "HOME", "LANG", "PATH", "PYTHONDONTWRITEBYTECODE"];
    let expected: Vec<&str> =
        ["EMPTY"].iter().chain(&own[..3]).chain(&["GREETING"]).chain(&own[3..]).copied().collect();
    assert_eq!(names, [expected, vec!["TMPDIR"]].concat());
    assert!(!seen.to_string().contains("canary"), "{seen}");
}

#[test]
fn two_functions_never_share_globals() {
    let Some(server) = sandboxed("", "") else { return };
    let code =
        "import sys\nsys.mine = getattr(sys, 'mine', []) + [__name__]\ndef handle(request):\n    return sys.mine";
    let first = server.run("first", code, "");
    assert_eq!(first.as_array().unwrap().len(), 1);
    assert_eq!(server.run("second", code, ""), first);
}

#[test]
fn bodies_pass_exactly_in_both_directions_up_to_the_limit() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("mirror", "def handle(request):\n    return bytes(request.body)", json!({}));
    const LIMIT: usize = 6 * 1024 * 1024;
    // Around the sizes of one frame and of one datagram, and the limit itself.
    let sizes = [0, 1, 4095, 49_151, 49_152, 49_153, 65_535, 65_536, 65_537, 131_073, 1_000_003, LIMIT];
    for size in sizes {
        let body = noise(size);
        let reply = server.send("POST", "/invoke/mirror", &[KEY], &body);
        assert_eq!(reply.status, 200, "{size} bytes: {}", &reply.text()[..reply.text().len().min(500)]);
        assert!(reply.body == body, "{size} bytes came back changed");
    }
    let reply = server.send("POST", "/invoke/mirror", &[KEY], &noise(LIMIT + 1));
    assert_eq!((reply.status, reply.code().as_str()), (413, "payload_too_large"));
    assert_eq!(server.invoke("mirror", "still there").text(), "still there");
}

#[test]
fn big_calls_at_once_do_not_mix() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "def handle(request):\n    return request.body * 2, 200, {'X-First': str(request.body[0])}";
    server.deploy("twice", code, json!({"max_instances": 2}));
    std::thread::scope(|scope| {
        for caller in 0..6u8 {
            let server = &server;
            scope.spawn(move || {
                for size in [10, 70_000, 900_000, 200] {
                    let reply = server.send("POST", "/invoke/twice", &[KEY], &vec![caller; size]);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    assert!(reply.body == vec![caller; 2 * size]);
                    assert_eq!(reply.header("x-first"), Some(caller.to_string().as_str()));
                }
            });
        }
    });
}

/// Bytes in which no two stretches are alike, the same at every run.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}
