//! A server that is not root, on a host that allows that: what each level says and does. And interpreters that are
//! missing, or several.
//!
//! The tests run as root and become user nobody, who has no home here, no group and no cgroup.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::os::unix::fs::chown;
use std::process::{Command, Output, Stdio};

use common::host::{namespace, status};
use common::{as_nobody, command, is_root, skip, Home, Server, NOBODY};
use serde_json::{json, Value};

/// A directory for a server of user nobody at this level; `None`, with the reason, where that cannot be tried.
fn home(level: &str) -> Option<Home> {
    if !is_root() {
        skip("becoming another user takes root");
        return None;
    }
    let home = configured(&format!("process_isolation_level: {level}"));
    std::fs::create_dir(home.state()).unwrap();
    chown(home.state(), Some(NOBODY), Some(NOBODY)).unwrap();
    let can = Command::new("setpriv")
        .args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"])
        .args(["unshare", "--user", "--map-root-user", "--mount", "true"])
        .output();
    match can {
        Ok(output) if output.status.success() => Some(home),
        Ok(output) => {
            skip(&format!("no user namespaces here: {}", String::from_utf8_lossy(&output.stderr).trim()));
            None
        }
        Err(error) => {
            skip(&format!("setpriv: {error}"));
            None
        }
    }
}

fn configured(system: &str) -> Home {
    let home = Home::new();
    let indented: String = system.lines().map(|line| format!("  {line}\n")).collect();
    let path = home.state().display().to_string();
    let config = format!("system:\n  function_storage_path: {path}\n  api_gateway_port: 0\n  pool_size: 2\n{indented}");
    std::fs::write(home.path().join("faas.yaml"), config).unwrap();
    home
}

/// An interpreter that every user can reach; those of version managers are in their owner's home.
fn public_python() -> Option<&'static str> {
    let works = |path: &&str| {
        let check = ["-I", "-S", "-c", "import sys; sys.exit(sys.version_info < (3, 8))"];
        Command::new(path).args(check).output().is_ok_and(|output| output.status.success())
    };
    let found = ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(works);
    if found.is_none() {
        skip("no Python 3.8 or newer outside of anybody's home");
    }
    found
}

fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

const LOOK: &str = "
import os, socket

def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno

def handle(request):
    status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
    return {
        'pid': os.getpid(),
        'ids': [os.getresuid(), os.getresgid()],
        'status': {name: value.strip() for name, value in status.items()},
        'connect': attempt(socket.socket().connect, ('127.0.0.1', request.get_json()['port'])),
        'write': attempt(os.mkdir, '/faas/written'),
        'shadow': attempt(os.stat, '/etc/passwd-'),
        'state': attempt(os.stat, request.get_json()['state']),
        'processes': [name for name in os.listdir('/proc') if name.isdigit()],
        'descriptors': len(os.listdir('/proc/self/fd')),
        'environ': sorted(os.environ),
    }
";

#[test]
fn strict_refuses_and_names_every_missing_layer_with_its_mend() {
    let Some(home) = home("strict") else { return };
    let output = run(as_nobody(&home));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let first = said.lines().next().unwrap();
    assert!(first.starts_with("faas: ") && first.contains("strict"), "{said}");
    let missing: Vec<&str> = said.lines().filter(|line| line.starts_with("  ")).collect();
    for layer in ["identity", "memory_limit", "tasks_limit", "cpu_limit"] {
        let line = missing.iter().find(|line| line.trim_start().starts_with(layer));
        let line = line.unwrap_or_else(|| panic!("{layer} is not named: {said}"));
        assert!(line.contains("; "), "no mend: {line}");
    }
    assert!(said.lines().last().unwrap().contains("standard"), "{said}");
}

#[test]
fn standard_serves_warns_of_what_is_missing_and_keeps_the_other_layers() {
    let Some(home) = home("standard") else { return };
    let Some(python) = public_python() else { return };
    add(&home, &format!("  python: {python}\n"));
    let command = as_nobody(&home);
    let server = Server::launch(home, command);
    for layer in ["identity", "memory_limit", "tasks_limit", "cpu_limit"] {
        server.home.await_line(layer, |line| line.contains("WARN") && line.contains(layer));
    }
    assert_eq!(missing_layers(&server), ["identity", "memory_limit", "tasks_limit", "cpu_limit"]);
    // The quick start.
    let code = "def handle(request):\n    return {\"message\": \"Hello, World!\", \"data\": request.get_json()}";
    server.deploy("hello-world", code, json!({ "execution_mode": "process", "timeout": 30, "memory": "128Mi" }));
    let reply = server.post("/invoke/hello-world", r#"{"name": "AITest", "test": true}"#);
    assert_eq!(reply.text(), r#"{"message":"Hello, World!","data":{"name":"AITest","test":true}}"#);

    let layers = server.get("/functions/hello-world/sandbox").json()["sandbox"]["layers"].clone();
    let of = |state: &str| -> Vec<Value> {
        let layers = layers.as_array().unwrap().iter();
        layers.filter(|layer| layer["state"] == state).map(|layer| layer["name"].clone()).collect()
    };
    assert_eq!(of("missing"), ["identity", "memory_limit", "tasks_limit", "cpu_limit"].map(Value::from));
    assert!(of("required").contains(&json!("seccomp")) && of("tried").contains(&json!("landlock")), "{layers}");

    server.deploy("look", LOOK, json!({}));
    let body = json!({ "port": server.address.port(), "state": server.home.state() }).to_string();
    let reply = server.post("/invoke/look", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = reply.json();
    assert_eq!((&seen["pid"], &seen["processes"]), (&json!(1), &json!(["1"])));
    assert_eq!(seen["ids"], json!([[1000, 1000, 1000], [1000, 1000, 1000]]));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(seen["status"][set], "0000000000000000", "{set}");
    }
    assert_eq!((&seen["status"]["NoNewPrivs"], &seen["status"]["Seccomp"]), (&json!("1"), &json!("2")));
    // Landlock, where it knows of TCP, refuses before the network is looked at.
    assert!([json!(libc::ENETUNREACH), json!(libc::EACCES)].contains(&seen["connect"]), "{}", seen["connect"]);
    assert_eq!(seen["write"], libc::EROFS);
    assert_eq!((&seen["shadow"], &seen["state"]), (&json!(libc::ENOENT), &json!(libc::ENOENT)));
    let instances = server.get("/instances").json();
    let instance = |found: &&Value| found["function"] == "look";
    let pid = instances["instances"].as_array().unwrap().iter().find(instance).unwrap()["pid"].as_u64().unwrap() as u32;
    for kind in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(namespace(pid, kind), namespace(server.pid(), kind), "{kind}");
    }
    assert!(status(pid)["Uid"].starts_with(&NOBODY.to_string()));
    let figures = instances["instances"].as_array().unwrap().iter().find(instance).unwrap();
    for figure in ["memory_bytes", "memory_peak_bytes", "memory_limit_bytes", "cpu_seconds", "tasks", "tasks_limit"] {
        assert_eq!(figures.get(figure), Some(&Value::Null), "there is no cgroup to read it from: {figures}");
    }
    let (home, ended) = server.end(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(ended.code(), Some(0), "{}", home.log());
}

#[test]
fn level_none_serves_and_says_loudly_what_it_is() {
    let Some(home) = home("none") else { return };
    let Some(python) = public_python() else { return };
    add(&home, &format!("  python: {python}\n"));
    let command = as_nobody(&home);
    let server = Server::launch(home, command);
    server.home.await_line("a warning", |line| line.contains("WARN") && line.contains("NOT isolated"));
    assert_eq!(server.run("one", "def handle(request):\n    return 1", ""), 1);
    assert_eq!(server.get("/health").json()["modes"]["process"]["isolation"], "none");
    assert_eq!(missing_layers(&server), ["identity", "memory_limit", "tasks_limit", "cpu_limit"]);
}

/// What `/health` says is missing; names, and nothing of this host.
fn missing_layers(server: &Server) -> Vec<String> {
    let health = server.get("/health").json();
    let missing = health["modes"]["process"]["missing"].as_array().unwrap_or_else(|| panic!("{health}"));
    missing.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_look_at_the_system_tells_nobody_what_is_missing_and_what_mends_it() {
    let Some(home) = home("standard") else { return };
    let Some(python) = public_python() else { return };
    add(&home, &format!("  python: {python}\n"));
    for (level, word) in [("standard", "degraded"), ("strict", "failed")] {
        let config = std::fs::read_to_string(home.path().join("faas.yaml")).unwrap();
        std::fs::write(home.path().join("faas.yaml"), config.replace("level: standard", &format!("level: {level}")))
            .unwrap();
        let mut command = as_nobody(&home);
        command.arg("--check-system");
        let output = run(command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(i32::from(level == "strict")), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        let found = lines.iter().position(|line| line.starts_with(word) && line.contains("identity"));
        assert!(lines[found.unwrap_or_else(|| panic!("{said}")) + 1].contains("mend: "), "{said}");
        for (number, line) in lines.iter().enumerate() {
            let bad = line.starts_with("degraded") || line.starts_with("failed");
            assert!(!bad || lines[number + 1].contains("mend: "), "no mend for: {line}\n{said}");
        }
        assert!(lines.iter().any(|line| line.starts_with("ok") && line.contains("sandbox")), "{said}");
    }
}

/// Adds lines to the section `system:`, which is the last.
fn add(home: &Home, lines: &str) {
    let path = home.path().join("faas.yaml");
    let config = std::fs::read_to_string(&path).unwrap() + lines;
    std::fs::write(path, config).unwrap();
}

#[test]
fn without_python_the_server_says_how_to_mend_it() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let home = configured("python: /nowhere/python3");
    let mut start = command(&home);
    start.env("PATH", "");
    let output = run(start);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("faas: ") && said.contains("/nowhere/python3") && said.contains("system.python"),
        "{said}"
    );
}

#[test]
fn a_runtime_that_is_missing_is_a_400_that_names_it() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::with("pool_size: 1", "");
    let body = json!({ "name": "f", "code": "def handle(request): pass", "config": { "runtime": "python3.99" } });
    let reply = server.post("/functions", &body.to_string());
    assert_eq!((reply.status, reply.code().as_str()), (400, "runtime_unavailable"));
    assert!(reply.text().contains("python3.99"), "{}", reply.text());
}

#[test]
fn functions_on_two_runtimes_run_side_by_side() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let versions = pythons();
    let [one, other, ..] = &versions[..] else { return skip("there is one Python only") };
    let lines = [one, other].map(|(name, path)| format!("  {name}: {path}\n")).concat();
    let server = Server::on(configured(&format!("runtimes:\n{lines}")));
    let code = "import sys\ndef handle(request):\n    return 'python%d.%d' % sys.version_info[:2]";
    for (name, _) in [one, other] {
        server.deploy(&name.replace('.', "-"), code, json!({ "runtime": name }));
    }
    for round in 0..3 {
        for (name, _) in [one, other] {
            let said = server.post(&format!("/invoke/{}", name.replace('.', "-")), "").text();
            assert_eq!(said, format!("\"{name}\""), "round {round}");
        }
    }
    let configured = server.get(&format!("/functions/{}", one.0.replace('.', "-"))).json();
    assert_eq!(configured["config"]["runtime"], one.0.as_str());
}

/// The Pythons of this machine from 3.8 on, newest first: name of the runtime and executable.
fn pythons() -> Vec<(String, String)> {
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from).unwrap_or_default();
    let managed = std::fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten();
    let candidates = managed.map(|entry| entry.path().join("bin/python3")).chain(["/usr/bin/python3".into()]);
    let mut found = std::collections::BTreeMap::new();
    for path in candidates {
        let Ok(output) = Command::new(&path).args(["-c", "import sys; print(sys.version_info[1])"]).output() else {
            continue;
        };
        let Ok(minor) = String::from_utf8_lossy(&output.stdout).trim().parse::<u32>() else { continue };
        if minor >= 8 {
            found.insert(minor, path.display().to_string());
        }
    }
    found.into_iter().rev().map(|(minor, path)| (format!("python3.{minor}"), path)).collect()
}

#[test]
fn a_common_users_server_is_taken_over_from_like_any_other() {
    let Some(home) = home("standard") else { return };
    let Some(python) = public_python() else { return };
    add(&home, &format!("  python: {python}\n"));
    let command = as_nobody(&home);
    let server = Server::launch(home.clone(), command);
    server.deploy("kept", "def handle(request):\n    return 1", json!({ "min_instances": 1 }));
    // The binary that runs cannot be written to, but another can come in its place.
    std::fs::remove_file(home.path().join("faas")).unwrap();
    let mut command = as_nobody(&home);
    command.arg("--takeover");
    let new = Server::launch(home, command);
    assert_eq!(server.ended().1.code(), Some(0), "{}", new.home.log());
    assert_eq!(
        (new.post("/invoke/kept", "").text().as_str(), status(new.pid())["Uid"].starts_with("65534")),
        ("1", true)
    );
}
