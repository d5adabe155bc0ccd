//! Who may ask for what, and what every answer carries: keys and scopes, methods, unknown paths, request ids, health.
#![allow(clippy::unwrap_used)] // in helpers of tests, too

mod common;

use common::{is_root, skip, Reply, Server};
use serde_json::json;

const HELLO: &str = "def handle(request):\n    return 'hello'\n";

/// A key of 32 bytes that may only invoke, and its digest from `sha256sum`.
const INVOKER: &str = "0123456789abcdef0123456789abcdef";
const INVOKER_SHA256: &str = "3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9";
const MANAGER: &str = "a-key-that-may-only-manage";

/// Every route that needs the scope manage.
const MANAGE: [(&str, &str); 11] = [
    ("GET", "/functions"),
    ("POST", "/functions"),
    ("GET", "/functions/f"),
    ("PUT", "/functions/f"),
    ("DELETE", "/functions/f"),
    ("GET", "/functions/f/logs"),
    ("GET", "/stats"),
    ("GET", "/stats/functions/f"),
    ("GET", "/instances"),
    ("HEAD", "/functions"),
    ("DELETE", "/instances/i0-1"),
];

fn server(system: &str) -> Option<Server> {
    if is_root() {
        return Some(Server::with(system, ""));
    }
    skip("process mode at level strict needs root");
    None
}

fn ask(server: &Server, method: &str, path: &str, authorization: &[&str]) -> Reply {
    let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", *value)).collect();
    server.send(method, path, &headers, b"")
}

#[test]
fn without_a_good_key_nothing_but_probes_is_answered() {
    let Some(server) = server("") else { return };
    server.deploy("f", HELLO, json!({}));
    let wrong: [(&[&str], &str); 10] = [
        (&[], "no Authorization header"),
        (&["Bearer wrong-key"], "not known"),
        (&["Bearer demo-key", "Bearer demo-key"], "several"),
        (&["Bearer  demo-key"], "one space"),
        (&["Bearer\tdemo-key"], "one space"),
        (&["Bearer demo-key extra"], "one space"),
        (&["Bearer"], "one space"),
        (&["Basic ZGVtbzpkZW1v"], "one space"),
        (&["demo-key"], "one space"),
        (&["Bearer demo-key,Bearer admin-key"], "one space"),
    ];
    for (authorization, why) in wrong {
        for (method, path) in MANAGE.iter().copied().chain([("POST", "/invoke/f"), ("GET", "/no/such/thing")]) {
            let reply = ask(&server, method, path, authorization);
            assert_eq!(reply.status, 401, "{method} {path} {authorization:?}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"faas\""));
            if method != "HEAD" {
                let said = reply.refused(401, "unauthorized");
                assert!(said.contains(why), "{authorization:?}: {said}");
            }
        }
    }
    for path in ["/functions?key=demo-key", "/functions?access_token=demo-key", "/invoke/f?api_key=demo-key"] {
        ask(&server, "GET", path, &[]).refused(401, "unauthorized");
    }
    assert_eq!(server.get("/functions/f").json()["version"], 1, "no change came through");
    // RFC 9110: the scheme is case-insensitive, and white space around a field's value is not part of it.
    for good in ["Bearer demo-key", "bearer demo-key", "  Bearer demo-key  ", "Bearer admin-key"] {
        assert_eq!(ask(&server, "GET", "/functions", &[good]).status, 200, "{good:?}");
    }
}

#[test]
fn a_key_may_do_what_its_scopes_say_and_no_more() {
    let Some(server) = server(&format!(
        "api_keys:\n  \
           - {{name: website, key_sha256: {INVOKER_SHA256}, scopes: [invoke]}}\n  \
           - {{name: deployer, key: {MANAGER}, scopes: [manage]}}"
    )) else {
        return;
    };
    let (invoker, manager) = (format!("Bearer {INVOKER}"), format!("Bearer {MANAGER}"));
    server.deploy("f", HELLO, json!({}));
    assert_eq!(ask(&server, "POST", "/invoke/f", &[&invoker]).json(), "hello");
    for (method, path) in MANAGE {
        let reply = ask(&server, method, path, &[&invoker]);
        assert_eq!(reply.status, 403, "{method} {path}");
        if method != "HEAD" {
            assert_eq!(reply.refused(403, "forbidden"), "the key website lacks the scope manage");
        }
    }
    let said = ask(&server, "POST", "/invoke/f", &[&manager]).refused(403, "forbidden");
    assert_eq!(said, "the key deployer lacks the scope invoke");
    assert_eq!(ask(&server, "GET", "/functions/f", &[&manager]).status, 200);
    assert_eq!(server.get("/functions/f").json()["version"], 1);
    // A digest is not a key.
    ask(&server, "POST", "/invoke/f", &[&format!("Bearer {INVOKER_SHA256}")]).refused(401, "unauthorized");
}

#[test]
fn the_well_known_keys_can_be_switched_off() {
    let keys = format!("well_known_keys: false\napi_keys:\n  - {{name: own, key: {MANAGER}, scopes: [admin]}}");
    let Some(server) = server(&keys) else { return };
    for key in ["demo-key", "admin-key"] {
        ask(&server, "GET", "/functions", &[&format!("Bearer {key}")]).refused(401, "unauthorized");
    }
    assert_eq!(ask(&server, "GET", "/functions", &[&format!("Bearer {MANAGER}")]).status, 200, "admin may do all");
}

#[test]
fn the_callers_key_never_reaches_the_function() {
    let Some(server) = server("") else { return };
    let code = "def handle(request):\n    return dict(request.headers)\n";
    let seen = server.run("f", code, "").to_string();
    assert!(!seen.contains("demo-key") && !seen.to_ascii_lowercase().contains("authorization"), "{seen}");
}

#[test]
fn every_answer_has_a_date_a_length_and_a_request_id() {
    let Some(server) = server("") else { return };
    server.deploy("f", "def handle(request):\n    return request.request_id\n", json!({}));
    let key = ("Authorization", "Bearer demo-key");
    let mut made = Vec::new();
    for (method, path) in [
        ("GET", "/health"),
        ("GET", "/functions"),
        ("GET", "/functions/none"),
        ("PATCH", "/functions"),
        ("OPTIONS", "/functions"),
        ("POST", "/invoke/f"),
        ("GET", "/stats"),
    ] {
        for (given, kept) in [
            ("a", true),
            ("4bf92f35-77b3_4da6.1", true),
            ("two words", false),
            ("<script>", false),
            ("caf\u{e9}", false),
            ("", false),
            (&"x".repeat(500), false),
        ] {
            let reply = server.send(method, path, &[key, ("X-Request-Id", given)], b"");
            let id = reply.header("x-request-id").expect("an id").to_owned();
            assert_eq!(id == given, kept, "{method} {path} {given:?}: {id}");
            assert!(reply.header("date").is_some_and(|date| date.ends_with(" GMT")), "{method} {path}");
            if path == "/invoke/f" {
                assert_eq!(reply.json(), id, "the function sees the id of the answer");
            }
            if !kept {
                made.push(id);
            }
        }
    }
    let twice = [key, ("X-Request-Id", "a"), ("X-Request-Id", "b")];
    made.push(server.send("GET", "/health", &twice, b"").header("x-request-id").unwrap().to_owned());
    assert!(!["a", "b"].contains(&made[made.len() - 1].as_str()));
    let count = made.len();
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), count, "no id is made twice");
}

#[test]
fn a_wrong_method_is_405_and_allow_names_the_right_ones() {
    let Some(server) = server("") else { return };
    for (method, path, allow) in [
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("DELETE", "/functions", "GET, HEAD, POST, OPTIONS"),
        ("POST", "/functions/f", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("PATCH", "/functions/f", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("PUT", "/functions/f/logs", "GET, HEAD, OPTIONS"),
        ("POST", "/stats", "GET, HEAD, OPTIONS"),
        ("DELETE", "/stats/functions/f", "GET, HEAD, OPTIONS"),
        ("POST", "/instances", "GET, HEAD, OPTIONS"),
        ("GET", "/instances/i0-1", "DELETE, OPTIONS"),
        ("get", "/functions", "GET, HEAD, POST, OPTIONS"),
    ] {
        let reply = server.call(method, path, "");
        reply.refused(405, "method_not_allowed");
        assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
        let options = server.call("OPTIONS", path, "");
        assert_eq!((options.status, options.header("allow")), (204, Some(allow)), "OPTIONS {path}");
    }
    assert_eq!(server.call("OPTIONS", "*", "").status, 204);
    server.call("CONNECT", "example.org:443", "").refused(501, "not_implemented");
}

#[test]
fn head_is_get_without_the_body() {
    let Some(server) = server("") else { return };
    server.deploy("f", HELLO, json!({}));
    for path in ["/health", "/functions", "/functions/f", "/functions/none"] {
        let (get, head) = (server.get(path), server.call("HEAD", path, ""));
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty() && !get.body.is_empty());
        assert_eq!(head.header("content-type"), get.header("content-type"));
        if path == "/functions/f" {
            assert_eq!(head.header("content-length"), get.header("content-length"));
        }
    }
    let reply = server.call("HEAD", "/invoke/f", "");
    assert_eq!((reply.status, reply.header("content-length"), reply.body.len()), (200, Some("7"), 0));
}

#[test]
fn a_path_that_nothing_is_at_is_404() {
    let Some(server) = server("") else { return };
    for path in ["/", "/health/", "/Health", "/functions/f/code", "/functions//logs", "/stats/f", "/instances/x"] {
        let method = if path == "/instances/x" { "DELETE" } else { "GET" };
        server.call(method, path, "").refused(404, "not_found");
    }
}

#[test]
fn health_names_the_layers_that_were_left_out() {
    let Some(server) = server("process_isolation_level: none\nsandbox_without: [seccomp, cpu_limit]") else { return };
    let process = server.get("/health").json()["modes"]["process"].clone();
    assert_eq!((&process["isolation"], &process["missing"]), (&json!("none"), &json!(["seccomp", "cpu_limit"])));
}

#[test]
fn probes_need_no_key_and_say_what_works() {
    let Some(server) = server("") else { return };
    let reply = ask(&server, "GET", "/health", &[]);
    let health = reply.json();
    assert_eq!((reply.status, &health["status"]), (200, &json!("healthy")), "{health}");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_seconds"].is_u64());
    assert_eq!(health["modes"]["process"], json!({"status": "available", "isolation": "strict", "missing": []}));
    assert_eq!(health["modes"]["container"]["status"], "unavailable");
    assert_eq!(ask(&server, "GET", "/livez", &[]).json(), json!({"status": "live"}));
    assert_eq!(ask(&server, "GET", "/readyz", &[]).json(), json!({"status": "ready"}));
    // A key that is wrong is not looked at here: a probe may send what it likes.
    for path in ["/health?x=1", "/livez", "/readyz"] {
        assert_eq!(ask(&server, "GET", path, &["Bearer wrong"]).status, 200);
        assert_eq!(ask(&server, "HEAD", path, &[]).status, 200);
    }
}
