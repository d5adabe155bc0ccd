//! What comes in over HTTP: code that attacks the compiler, names that are paths, keys that ask for more than theirs.

use super::*;

#[test]
fn code_that_exhausts_the_compiler_is_refused_as_the_codes_own_fault() {
    let Some(scene) = Scene::set() else { return };
    let bombs = [
        ("parentheses", format!("x = {}1{}", "(".repeat(90_000), ")".repeat(90_000))),
        ("a long sum", format!("x = {}", vec!["1"; 200_000].join("+"))),
        ("a row of signs", format!("x = {}1", "-".repeat(400_000))),
        ("lambdas", format!("x = {}1", "lambda:".repeat(50_000))),
        ("a wide tree", format!("x = ({})", "1,".repeat(480_000))),
        ("many names", "a\n".repeat(480_000)),
    ];
    for (what, bomb) in bombs {
        let body = json!({"name": "bomb", "code": format!("{bomb}\ndef handle(request): return 1\n")}).to_string();
        let reply = scene.server.post("/functions", &body);
        assert_eq!(reply.status, 400, "{what}: {}", reply.text());
        assert!(["code_too_complex", "invalid_code"].contains(&reply.code().as_str()), "{what}: {}", reply.text());
    }
    // What would be large only if it were computed is not computed.
    for bomb in ["9**9**9", "'a' * 10**10", "(0,) * 10**9", "1 << 10**9"] {
        scene.server.deploy("folded", &format!("def handle(request): return {bomb}"), json!({}));
        scene.assert_nothing_is_left_of("folded");
    }
}

#[test]
fn a_name_never_leads_out_of_its_place() {
    let Some(scene) = Scene::set() else { return };
    for name in ["..", "../x", "a/b", "a.jsonl", "%2e%2e", "a\\b", "a\0b", "a\nb", "é", "", "-a", &"a".repeat(64)] {
        let body = json!({"name": name, "code": "def handle(request): return 1"}).to_string();
        let reply = scene.server.post("/functions", &body);
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_name"), "{name:?}: {}", reply.text());
    }
    for path in ["..", "%2e%2e%2ffaas.db", "..%2f..%2fetc%2fpasswd", "bystander%00", "bystander%2f", "%ff", "a%5cb"] {
        for (method, path) in [
            ("GET", format!("/functions/{path}")),
            ("GET", format!("/functions/{path}/logs")),
            ("DELETE", format!("/functions/{path}")),
            ("POST", format!("/invoke/{path}")),
            ("GET", format!("/stats/functions/{path}")),
        ] {
            let reply = scene.server.call(method, &path, "");
            assert!([400, 404].contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.text());
        }
    }
    scene.assert_others_answer();
}

#[test]
fn an_environment_is_seen_by_its_function_and_its_managers_alone() {
    let Some(scene) = Scene::set() else { return };
    let secret = "canary-of-an-environment";
    let code = "import os\nprint('starting')\ndef handle(request): return sorted(k for k in os.environ)";
    scene.server.deploy("keeper", code, json!({"environment": {"TOKEN": secret}}));
    assert_eq!(scene.server.post("/invoke/keeper", "{}").status, 200);
    let wrong = json!({"config": {"environment": {"TOKEN": [secret]}}}).to_string();
    let reply = scene.server.call("PUT", "/functions/keeper", &wrong);
    assert_eq!(reply.status, 400);
    assert!(!reply.text().contains(secret), "{}", reply.text());
    for path in ["/functions/keeper/logs", "/stats", "/stats/functions/keeper", "/instances", "/health"] {
        let reply = scene.server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.text().contains(secret), "{path}: {}", reply.text());
    }
    assert!(scene.server.get("/functions/keeper").text().contains(secret), "the canary is where it may be");
    let log = scene.server.home.log();
    assert!(log.contains("DEBUG") && !log.contains(secret), "{log}");
}

#[test]
fn a_key_that_invokes_reads_no_code_no_log_and_no_environment() {
    let keys = "api_keys: [{name: website, key: a-key-that-only-invokes, scopes: [invoke]}]";
    let Some(scene) = Scene::with(keys) else { return };
    let ask = |method: &str, path: &str| {
        scene.server.send(method, path, &[("Authorization", "Bearer a-key-that-only-invokes")], b"{}")
    };
    assert_eq!(ask("POST", "/invoke/bystander").status, 200);
    for (method, path) in [
        ("GET", "/functions"),
        ("GET", "/functions/bystander"),
        ("GET", "/functions/bystander/logs"),
        ("POST", "/functions"),
        ("PUT", "/functions/bystander"),
        ("DELETE", "/functions/bystander"),
        ("GET", "/stats"),
        ("GET", "/instances"),
        ("DELETE", "/instances/i0-1"),
    ] {
        let reply = ask(method, path);
        assert_eq!(reply.status, 403, "{method} {path}: {}", reply.text());
    }
}

#[test]
fn the_log_of_a_deleted_function_is_not_its_successors() {
    let Some(scene) = Scene::set() else { return };
    let code = "def talk():\n    while True: print('of the first tenant'); time.sleep(0.001)\n\
                def handle(request):\n    threading.Thread(target=talk).start()\n    return 'answered'";
    for _ in 0..3 {
        assert_eq!(scene.attack("tenant", code, json!({"timeout": 10}), "{}").status, 200);
        eventually("it has talked", || (scene.server.get("/functions/tenant/logs").json()["count"] != 0).then_some(()));
        assert_eq!(scene.server.call("DELETE", "/functions/tenant", "").status, 204);
        assert_eq!(scene.server.get("/functions/tenant/logs").status, 404);
        eventually("its log is removed", || {
            let logs = scene.server.home.state().join("logs");
            let named = std::fs::read_dir(logs)
                .unwrap()
                .flatten()
                .any(|file| file.file_name().to_string_lossy().starts_with("tenant."));
            (!named).then_some(())
        });
        scene.server.deploy("tenant", "def handle(request): return 1", json!({}));
        let log = scene.server.get("/functions/tenant/logs").json();
        assert_eq!(log["entries"], json!([]), "the successor reads what the first tenant said");
        scene.assert_nothing_is_left_of("tenant");
    }
}

#[test]
fn what_a_function_says_forges_no_line_of_the_servers_log_and_steers_no_terminal() {
    let Some(scene) = Scene::set() else { return };
    let code = "evil = '\\x1b[2J\\n2026-01-01T00:00:00.000Z [ERROR] faas: forged\\r\\x9b'\n\
                class Evil(Exception): pass\n\
                Evil.__name__ = evil\n\
                os.write(2, evil.encode())\n\
                raise Evil(evil)";
    assert_eq!(scene.attack("forger", code, json!({}), "{}").status, 500);
    scene.assert_nothing_is_left_of("forger");
    let log = scene.server.home.log();
    assert!(!log.contains(|character: char| character.is_control() && character != '\n'), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00.000Z")), "{log}");
}
