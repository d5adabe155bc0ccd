//! The functions of the API: create, read, list, change, delete, with right and wrong input.
#![allow(clippy::unwrap_used)] // in helpers of tests, too

mod common;

use std::path::{Path, PathBuf};

use common::{eventually, is_root, skip, Reply, Server};
use serde_json::{json, Value};

const HELLO: &str = "def handle(request):\n    return 'hello'\n";

/// A server, unless functions cannot run here.
fn server() -> Option<Server> {
    if is_root() {
        return Some(Server::start());
    }
    skip("process mode at level strict needs root");
    None
}

fn post(server: &Server, body: &Value) -> Reply {
    server.post("/functions", &body.to_string())
}

fn put(server: &Server, name: &str, body: &Value) -> Reply {
    server.call("PUT", &format!("/functions/{name}"), &body.to_string())
}

/// Every file below the directory whose name begins with `name`.
fn files_of(directory: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_of(&entry.path(), name));
        } else if entry.file_name().to_string_lossy().starts_with(name) {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn a_created_function_is_the_resource_that_its_location_names() {
    let Some(server) = server() else { return };
    let created = server.deploy("hello-world", HELLO, json!({}));
    assert_eq!(created.header("location"), Some("/functions/hello-world"));
    assert_eq!(created.header("content-type"), Some("application/json"));
    let got = server.get("/functions/hello-world");
    assert_eq!(got.status, 200);
    let (created, mut got) = (created.json(), got.json());
    let besides = ["instance_details", "trouble"].map(|field| got.as_object_mut().unwrap().shift_remove(field));
    assert_eq!(besides, [Some(json!([])), Some(json!(null))], "a look at it tells of its instances besides");
    assert_eq!(created, got);
    let fields: Vec<&String> = got.as_object().unwrap().keys().collect();
    let expected = ["name", "version", "code", "code_sha256", "config", "created_at", "updated_at", "instances"];
    assert_eq!(fields, expected);
    assert_eq!((&got["name"], &got["version"], &got["code"]), (&json!("hello-world"), &json!(1), &json!(HELLO)));
    // From `printf` and `sha256sum`, not from this program.
    assert_eq!(got["code_sha256"], "ab272afb1ae7f81ccb16e733477642f1b1571ee7ea714a1ed8ca07104a3b566c");
    assert_eq!(
        got["config"],
        json!({
            "runtime": "python3", "execution_mode": "process", "image": "default", "network": "none",
            "handler": "handle", "timeout": 30, "memory": "256Mi", "cpu_limit": "1000m", "dependencies": [], "environment": {}, "min_instances": 0, "max_instances": 10,
            "max_invocations_per_instance": "unlimited", "idle_ttl": "default",
        })
    );
    assert_eq!(got["created_at"], got["updated_at"]);
    let time = got["created_at"].as_str().unwrap();
    assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{time}");
    assert_eq!(got["instances"], json!({"starting": 0, "idle": 0, "busy": 0, "stopping": 0}));
}

#[test]
fn config_comes_back_as_it_was_given() {
    let Some(server) = server() else { return };
    let config = json!({
        "runtime": "python3", "execution_mode": "process", "image": "default", "network": "none",
        "handler": "tools.run", "timeout": 15.5, "memory": "64Mi",
        "cpu_limit": "250m", "dependencies": [], "environment": {"A": "1", "B": ""}, "min_instances": 1,
        "max_instances": 2, "max_invocations_per_instance": 1000, "idle_ttl": "adaptive",
    });
    let reply = server.deploy("f", "def run(request):\n    return __name__\n", config.clone());
    assert_eq!(reply.json()["config"], config);
    assert_eq!(server.post("/invoke/f", "").json(), "tools");
    // min_instances is kept without a call having come.
    eventually("one instance is kept", || {
        let instances = server.get("/functions/f").json()["instances"].clone();
        (instances["idle"] == 1).then_some(())
    });
}

#[test]
fn code_that_does_not_compile_is_refused_with_its_line() {
    let Some(server) = server() else { return };
    let reply = post(&server, &json!({"name": "f", "code": "import json\n\ndef handle(request:\n    pass\n"}));
    let detail = reply.refused(400, "invalid_code");
    assert!(detail.starts_with("code, line 3: "), "{detail}");
    assert_eq!(reply.json()["line"], 3);
    assert!(reply.json()["column"].is_u64(), "{}", reply.text());
    for (code, line) in [("x = 'a\n", 1), ("def handle(request):\n  if 1:\n", 2), ("return 1\n", 1)] {
        let reply = post(&server, &json!({"name": "f", "code": code}));
        reply.refused(400, "invalid_code");
        assert_eq!(reply.json()["line"], line, "{code:?}: {}", reply.text());
    }
    // Python does not say where a NUL stands.
    post(&server, &json!({"name": "f", "code": "a = 1\n\0"})).refused(400, "invalid_code");
    assert_eq!(server.get("/functions").json()["count"], 0, "nothing of it is stored");
}

#[test]
fn a_missing_handler_is_refused_and_names_what_is_missing() {
    let Some(server) = server() else { return };
    let reply = post(&server, &json!({"name": "f", "code": "def handel(request):\n    pass\n"}));
    let detail = reply.refused(400, "handler_not_found");
    assert!(detail.contains("handle"), "{detail}");
    let reply = post(&server, &json!({"name": "f", "code": HELLO, "config": {"handler": "main.other"}}));
    assert!(reply.refused(400, "handler_not_found").contains("other"));
    post(&server, &json!({"name": "f", "code": ""})).refused(400, "handler_not_found");
}

#[test]
fn a_handler_may_be_bound_in_any_way_and_be_async() {
    let Some(server) = server() else { return };
    for (name, code) in [
        ("lambda", "handle = lambda request: 'ok'"),
        ("class", "class Handler:\n    def __call__(self, request):\n        return 'ok'\nhandle = Handler()"),
        ("async", "import asyncio\nasync def handle(request):\n    await asyncio.sleep(0)\n    return 'ok'"),
        (
            "import",
            "from functools import partial\ndef run(answer, request):\n    return answer\nhandle = partial(run, 'ok')",
        ),
    ] {
        assert_eq!(server.run(name, code, ""), "ok", "{name}");
    }
}

#[test]
fn what_the_body_lacks_or_has_too_much_is_named() {
    let Some(server) = server() else { return };
    let cases = [
        ("", "the body is empty"),
        ("{\"name\": \"f\"", "the body is not JSON"),
        ("{\"name\": \"f\", \"name\": \"g\"}", "name: given twice"),
        ("{\"name\": \"f\", \"config\": {\"timeout\": 1, \"timeout\": 2}}", "config.timeout: given twice"),
        ("[]", "object"),
        ("null", "object"),
        ("{}", "name: required"),
        (r#"{"code": "x"}"#, "name: required"),
        (r#"{"name": "f"}"#, "code: required"),
        (r#"{"name": 5, "code": "x"}"#, "name: must be a string"),
        (r#"{"name": "f", "code": ["x"]}"#, "code: must be a string"),
        (r#"{"name": "f", "code": "x", "config": []}"#, "config: must be an object"),
        (r#"{"name": "f", "cod": "x"}"#, "cod: unknown field; did you mean code?"),
        (r#"{"name": "f", "code": "x", "runtime": "python3"}"#, "runtime: unknown field; the fields are name, code"),
    ];
    for (body, detail) in cases {
        let said = server.post("/functions", body).refused(400, "invalid_request");
        assert!(said.contains(detail), "{body}: {said}");
    }
}

#[test]
fn a_wrong_config_field_is_named_with_what_is_allowed() {
    let Some(server) = server() else { return };
    let cases = [
        (json!({"memroy": "1Gi"}), "config.memroy: unknown key; did you mean memory?"),
        (json!({"zzz": 1}), "config.zzz: unknown key; known are runtime, "),
        (json!({"timeout": "soon"}), "config.timeout: got \"soon\""),
        (json!({"timeout": 0}), "config.timeout: got 0"),
        (json!({"timeout": 901}), "config.timeout: got 901"),
        (json!({"timeout": -1}), "config.timeout: got -1"),
        (json!({"timeout": [30]}), "config.timeout: got a list"),
        (json!({"memory": "31Mi"}), "config.memory: got \"31Mi\""),
        (json!({"memory": "lots"}), "config.memory: got \"lots\""),
        (json!({"memory": true}), "config.memory: got true"),
        (json!({"cpu_limit": "0m"}), "config.cpu_limit: got \"0m\""),
        (
            json!({"image": "python:3.12"}),
            "config.image: got \"python:3.12\"; expected default, unless execution_mode is container",
        ),
        (json!({"image": "a b"}), "config.image: got \"a b\"; expected the name of an image"),
        (json!({"image_id": "sha256:0"}), "config.image_id: unknown key"),
        (json!({"execution_mode": "vm"}), "config.execution_mode: got \"vm\"; expected process or container"),
        (json!({"runtime": "ruby"}), "config.runtime: got \"ruby\""),
        (json!({"runtime": "python2.7"}), "config.runtime: got \"python2.7\""),
        (json!({"handler": "a.b.c"}), "config.handler: got \"a.b.c\""),
        (json!({"handler": "class"}), "config.handler: got \"class\""),
        (json!({"handler": ""}), "config.handler: got \"\""),
        (json!({"min_instances": 3, "max_instances": 2}), "config.min_instances: 3 is more than max_instances"),
        (json!({"max_instances": 0}), "config.max_instances: got 0"),
        (json!({"max_instances": 1.5}), "config.max_instances: got 1.5"),
        (json!({"environment": ["A"]}), "config.environment: got a list"),
        (json!({"environment": {"A": 1}}), "config.environment.A: "),
        (json!({"environment": {"1A": "x"}}), "config.environment.1A: "),
        (json!({"dependencies": "requests"}), "config.dependencies: got \"requests\""),
    ];
    for (config, detail) in cases {
        let reply = post(&server, &json!({"name": "f", "code": HELLO, "config": config}));
        let said = reply.refused(400, "invalid_config");
        assert!(said.contains(detail), "{config}: {said}");
    }
    let secret = post(&server, &json!({"name": "f", "code": HELLO, "config": {"environment": {"K": "s3cret\0"}}}));
    assert!(!secret.refused(400, "invalid_config").contains("s3cret"), "a value of the environment is never shown");
}

#[test]
fn what_this_server_cannot_do_is_refused_and_says_so() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::with("container_runtime: none", "");
    let container = post(&server, &json!({"name": "f", "code": HELLO, "config": {"execution_mode": "container"}}));
    assert!(container.refused(400, "mode_unavailable").contains("container mode is switched off"));
    let packages =
        post(&server, &json!({"name": "f", "code": HELLO, "config": {"dependencies": ["requests==2.28.0"]}}));
    assert!(packages.refused(400, "dependencies_unavailable").contains("cannot be installed"));
    let runtime = post(&server, &json!({"name": "f", "code": HELLO, "config": {"runtime": "python3.99"}}));
    assert!(runtime.refused(400, "runtime_unavailable").contains("python3.99"));
    server.get("/functions/f").refused(404, "not_found");
    server.deploy("f", HELLO, json!({}));
    put(&server, "f", &json!({"config": {"execution_mode": "container"}})).refused(400, "mode_unavailable");
    assert_eq!(server.get("/functions/f").json()["version"], 1);
}

#[test]
fn names_are_letters_digits_dashes_and_underscores() {
    let Some(server) = server() else { return };
    let longest = "a".repeat(63);
    for name in ["a", "A", "0", "Hello_World-2", &longest] {
        assert_eq!(server.deploy(name, HELLO, json!({})).json()["name"], name);
        assert_eq!(server.post(&format!("/invoke/{name}"), "").json(), "hello");
    }
    let too_long = "a".repeat(64);
    for name in ["", "-a", "_a", "a b", "a/b", "a.b", "..", "é", "a\n", "a\0", "a%20b", &too_long] {
        let said = post(&server, &json!({"name": name, "code": HELLO})).refused(400, "invalid_name");
        assert!(said.starts_with("name: "), "{said}");
    }
    for (path, status, code) in [
        ("/functions/a%2fb", 400, "invalid_target"),
        ("/functions/..", 400, "invalid_target"),
        ("/functions/%2e%2e", 400, "invalid_target"),
        ("/functions/a%00", 400, "invalid_target"),
        ("/functions/a%5cb", 400, "invalid_target"),
        ("/functions/%ff", 400, "invalid_target"),
        ("/functions/%zz", 400, "invalid_target"),
        ("/invoke/..%2fhealth", 400, "invalid_target"),
        ("/invoke/a/../b", 400, "invalid_target"),
        ("/functions/%61", 200, ""),
        ("/functions/nobody", 404, "not_found"),
        ("/functions/", 404, "not_found"),
        ("/invoke/", 404, "not_found"),
        ("/invoke/nobody", 404, "not_found"),
        ("/functions/a%20b", 404, "not_found"),
        ("/stats/functions/nobody", 404, "not_found"),
        ("/functions/nobody/logs", 404, "not_found"),
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert!(status == 200 || reply.code() == code, "{path}: {}", reply.text());
    }
}

#[test]
fn a_taken_name_is_a_conflict_and_changes_nothing() {
    let Some(server) = server() else { return };
    server.deploy("f", HELLO, json!({}));
    let said = post(&server, &json!({"name": "f", "code": "def handle(request): return 2"})).refused(409, "conflict");
    assert!(said.contains("PUT /functions/f"), "{said}");
    assert_eq!(server.get("/functions/f").json()["code"], HELLO);
}

#[test]
fn code_and_bodies_beyond_their_limits_are_413() {
    let Some(server) = server() else { return };
    let line = "# a line of thirty-two characters\n";
    let large = format!("{HELLO}{}", line.repeat((1024 * 1024 - HELLO.len()) / line.len()));
    server.deploy("large", &large, json!({}));
    assert_eq!(server.post("/invoke/large", "").json(), "hello");
    let too_large = format!("{large}{line}");
    let said = post(&server, &json!({"name": "f", "code": too_large})).refused(413, "payload_too_large");
    assert!(said.contains("1048576"), "{said}");
    let huge = post(&server, &json!({"name": "f", "code": line.repeat(80_000)}));
    huge.refused(413, "payload_too_large");
}

#[test]
fn put_merges_config_and_code_into_the_next_version() {
    let Some(server) = server() else { return };
    let config = json!({"memory": "64Mi", "timeout": 5, "environment": {"WHO": "one"}});
    let code = "import os\ndef handle(request):\n    return os.environ['WHO'] + 'VERSION'\n";
    let first = server.deploy("f", code, config).json();
    assert_eq!(server.post("/invoke/f", "").json(), "oneVERSION");

    let second = put(&server, "f", &json!({"config": {"timeout": 7}}));
    assert_eq!(second.status, 200, "{}", second.text());
    let second = second.json();
    assert_eq!((&second["version"], &second["code"]), (&json!(2), &json!(code)));
    assert_eq!((&second["config"]["timeout"], &second["config"]["memory"]), (&json!(7), &json!("64Mi")));
    assert_eq!(second["config"]["environment"], json!({"WHO": "one"}));
    assert_eq!(second["created_at"], first["created_at"]);
    assert!(second["updated_at"].as_str() > first["updated_at"].as_str());

    let third = put(&server, "f", &json!({"code": code.replace("VERSION", "!")})).json();
    assert_eq!((&third["version"], &third["config"]), (&json!(3), &second["config"]));
    assert_ne!(third["code_sha256"], second["code_sha256"]);
    assert_eq!(server.post("/invoke/f", "").json(), "one!");

    // A map is replaced whole, so that a variable can be taken out.
    let fourth = put(&server, "f", &json!({"name": "f", "config": {"environment": {"WHO": "two"}}})).json();
    assert_eq!((&fourth["version"], &fourth["config"]["environment"]), (&json!(4), &json!({"WHO": "two"})));
    assert_eq!(server.post("/invoke/f", "").json(), "two!");
    assert_eq!(server.get("/functions/f").json()["version"], 4);
}

#[test]
fn a_put_that_changes_nothing_makes_no_version() {
    let Some(server) = server() else { return };
    let before = server.deploy("f", HELLO, json!({"timeout": 5})).json();
    for body in [json!({}), json!({"code": HELLO}), json!({"config": {"timeout": 5}}), json!({"config": null})] {
        let reply = put(&server, "f", &body);
        assert_eq!((reply.status, &reply.json()), (200, &before), "{body}");
    }
}

#[test]
fn a_put_that_is_wrong_leaves_the_function_as_it_was() {
    let Some(server) = server() else { return };
    server.deploy("f", HELLO, json!({}));
    let before = server.get("/functions/f").json();
    put(&server, "g", &json!({})).refused(404, "not_found");
    assert!(put(&server, "f", &json!({"name": "g"})).refused(400, "invalid_request").contains("renamed"));
    put(&server, "f", &json!({"code": "def handle(:"})).refused(400, "invalid_code");
    put(&server, "f", &json!({"code": "x = 1"})).refused(400, "handler_not_found");
    put(&server, "f", &json!({"config": {"handler": "other"}})).refused(400, "handler_not_found");
    put(&server, "f", &json!({"config": {"min_instances": 11}})).refused(400, "invalid_config");
    put(&server, "f", &json!({"config": {"timeout": "x"}})).refused(400, "invalid_config");
    put(&server, "f", &json!({"version": 5})).refused(400, "invalid_request");
    assert_eq!(server.get("/functions/f").json(), before);
    assert_eq!(server.post("/invoke/f", "").json(), "hello");
}

#[test]
fn a_deleted_function_is_gone_with_its_instances_and_files() {
    let Some(server) = server() else { return };
    assert_eq!(server.run("shortlived", "def handle(request):\n    print('said')\n    return 1\n", ""), 1);
    eventually("its log is on disk", || (!files_of(&server.home.state(), "shortlived").is_empty()).then_some(()));
    let deleted = server.call("DELETE", "/functions/shortlived", "");
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    for (method, path) in [
        ("GET", "/functions/shortlived"),
        ("PUT", "/functions/shortlived"),
        ("DELETE", "/functions/shortlived"),
        ("POST", "/invoke/shortlived"),
        ("GET", "/functions/shortlived/logs"),
        ("GET", "/stats/functions/shortlived"),
    ] {
        server.call(method, path, "").refused(404, "not_found");
    }
    assert_eq!(server.get("/functions").json()["count"], 0);
    eventually("its instances end", || (server.get("/instances").json()["count"] == 0).then_some(()));
    eventually("its log goes", || files_of(&server.home.state(), "shortlived").is_empty().then_some(()));
    // The same name begins anew.
    let again = server.deploy("shortlived", HELLO, json!({}));
    assert_eq!(again.json()["version"], 1);
    assert_eq!(server.get("/functions/shortlived/logs").json()["count"], 0);
    assert_eq!(server.get("/stats/functions/shortlived").json()["invocations"], 0);
}

#[test]
fn a_listing_is_sorted_paged_and_without_code() {
    let Some(server) = server() else { return };
    assert_eq!(server.get("/functions").json(), json!({"functions": [], "count": 0, "total": 0, "next_cursor": null}));
    for name in ["d", "a", "e", "c", "b"] {
        server.deploy(name, HELLO, json!({"environment": {"K": "v"}}));
    }
    let all = server.get("/functions").json();
    assert_eq!((&all["count"], &all["next_cursor"]), (&json!(5), &Value::Null));
    assert_eq!((all["functions"][0].get("code"), &all["functions"][0]["version"]), (None, &json!(1)));
    assert_eq!(all["functions"][0]["config"]["environment"], json!({"K": "v"}), "the key may manage");

    let mut names = Vec::new();
    let mut path = "/functions?limit=2".to_owned();
    loop {
        let page = server.get(&path).json();
        let listed = page["functions"].as_array().unwrap();
        assert!(page["count"] == listed.len() && listed.len() <= 2 && page["total"] == 5);
        names.extend(listed.iter().map(|function| function["name"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/functions?limit=2&cursor={cursor}");
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    // A cursor goes on behind a function that is not there any more.
    assert_eq!(server.get("/functions?cursor=cc&limit=1").json()["functions"][0]["name"], "d");
    for query in ["limit=0", "limit=1001", "limit=x", "limit=", "limit=1&limit=2", "limit=%zz", "cursor=%ff"] {
        let said = server.get(&format!("/functions?{query}")).refused(400, "invalid_query");
        assert!(said.starts_with(query.split('=').next().unwrap()), "{query}: {said}");
    }
}

#[test]
fn a_function_tells_what_its_sandbox_is_made_of() {
    let Some(server) = server() else { return };
    server.deploy("boxed", "def handle(request): return 1", json!({}));
    let document = server.get("/functions/boxed/sandbox").json();
    assert_eq!((&document["function"], &document["version"]), (&json!("boxed"), &json!(1)));
    let sandbox = &document["sandbox"];
    let layers = sandbox["layers"].as_array().unwrap();
    assert!(layers.iter().any(|layer| layer["name"] == "seccomp" && layer["state"] == "required"), "{layers:?}");
    let plans = sandbox["plans"].as_array().unwrap();
    let last = |plan: &Value| plan["steps"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
    assert_eq!(plans.len(), 3);
    assert!(last(&plans[0]).contains("zygote.py") && last(&plans[2]).contains("allow-list"), "{plans:?}");
    // The listing is of the filter that is loaded: the step says how many instructions that has.
    let filter = sandbox["filter"].as_array().unwrap();
    assert!(last(&plans[2]).contains(&format!("({} instructions)", filter.len())), "{}", last(&plans[2]));
    assert_eq!(server.get("/functions/nobody/sandbox").refused(404, "not_found"), "there is no function nobody");
    assert_eq!(server.call("POST", "/functions/boxed/sandbox", "").status, 405);
}
