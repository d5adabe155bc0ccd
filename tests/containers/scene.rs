//! A server with an engine of containers, a function beside them that runs in a process, and what the engine says of
//! this server's containers.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{json, Value};

use crate::common::engine::Engine;
use crate::common::{command, eventually, skip, Home, Reply, Server};

/// Runs the body, as Python, and answers with what it leaves in `got`.
pub(crate) const EXEC: &str = r#"
import os, socket, sys, threading

def handle(request):
    names = dict(globals(), got=None)
    exec(request.get_text(), names)
    return names["got"]
"#;

/// Retry-After, the code and the detail of a 503.
pub(crate) struct Unavailable {
    pub(crate) code: String,
    pub(crate) detail: String,
}

/// The engine that all tests here share; says why there is none.
pub(crate) fn engine() -> Option<&'static Engine> {
    Engine::shared().map_err(skip).ok()
}

/// The configuration of a server on this socket; `system` is added, and wins.
pub(crate) fn configuration(socket: &Path, system: &str) -> String {
    let image = Engine::shared().expect("there is an engine").image();
    let socket = socket.to_str().unwrap();
    let mut lines = system.to_owned();
    for line in [
        "pool_size: 1",
        "container_pool_size: 1",
        "default_mode: process",
        "logging_level: DEBUG",
        &format!("container_runtime: {socket}"),
        &format!("base_image: {image}"),
    ] {
        let key = line.split(':').next().unwrap();
        if !system.lines().any(|given| given.trim_start().starts_with(&format!("{key}:"))) {
            lines.push_str(&format!("\n{line}"));
        }
    }
    lines
}

/// A server on this socket, with the function `process` that runs without containers.
pub(crate) fn server(socket: &Path, system: &str) -> Server {
    server_on(Home::with(&configuration(socket, system), ""))
}

/// The same on a directory.
pub(crate) fn server_on(home: Home) -> Server {
    let server = Server::launch(home.clone(), command(&home));
    if server.get("/functions/process").status == 404 {
        server.deploy("process", "def handle(request):\n    return request.get_json()", json!({}));
    }
    assert_processes_answer(&server);
    server
}

/// Deploys a function that runs in a container; `config` is the rest of its config.
pub(crate) fn deploy(server: &Server, name: &str, code: &str, config: Value) {
    server.deploy(name, code, contained(config));
}

/// This config, in a container.
pub(crate) fn contained(mut config: Value) -> Value {
    config["execution_mode"] = json!("container");
    config
}

/// What code finds in a container.
pub(crate) fn found(server: &Server, name: &str, code: &str) -> Value {
    let reply = server.invoke(name, code);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// That process mode works as if there were no containers.
pub(crate) fn assert_processes_answer(server: &Server) {
    let start = std::time::Instant::now();
    for number in ["1", "2"] {
        let reply = server.invoke("process", number);
        assert_eq!((reply.status, reply.text().as_str()), (200, number));
    }
    assert!(start.elapsed() < crate::common::slowed(std::time::Duration::from_secs(5)), "{:?}", start.elapsed());
    let modes = server.get("/health").json()["modes"].clone();
    assert_eq!(modes["process"]["status"], "available", "{modes}");
}

/// What `/health` says of container mode.
pub(crate) fn health(server: &Server) -> Value {
    let reply = server.get("/health");
    assert_eq!(reply.status, 200, "the server serves functions in processes: {}", reply.text());
    reply.json()["modes"]["container"].clone()
}

/// Waits until `/health` says so of container mode, and gives the rest of what it says.
pub(crate) fn await_health(server: &Server, status: &str) -> Value {
    eventually(&format!("container mode is {status}"), || {
        let health = health(server);
        (health["status"] == status).then_some(health)
    })
}

/// Checks that a call was refused for now, and that it says when to come again.
#[track_caller]
pub(crate) fn unavailable(reply: &Reply) -> Unavailable {
    assert_eq!(reply.status, 503, "{}", reply.text());
    let after = reply.header("retry-after").unwrap_or_else(|| panic!("no Retry-After: {}", reply.text()));
    assert!((1..=60).contains(&after.parse::<u64>().unwrap()), "{after}");
    Unavailable { code: reply.code(), detail: reply.detail() }
}

/// The container of the first instance of a function, as the engine inspects it.
pub(crate) fn container(engine: &Engine, server: &Server, name: &str) -> Value {
    let instances = server.instances(name);
    let instance = instances.first().unwrap_or_else(|| panic!("no instance of {name}"));
    let pid = instance["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process of the host");
    engine.container_of(pid).unwrap_or_else(|| panic!("no container has the process {pid}"))
}

/// The label that all containers of a server have and no others, learnt from that of an instance.
pub(crate) fn label(engine: &Engine, server: &Server, name: &str) -> String {
    let container = container(engine, server, name);
    let labels = &container["Config"]["Labels"];
    assert_eq!(labels["faas.managed"], "1", "{labels}");
    format!("faas.server={}", labels["faas.server"].as_str().unwrap_or_else(|| panic!("{labels}")))
}

/// The ids of the containers with this label.
pub(crate) fn ids(engine: &Engine, label: &str) -> BTreeSet<String> {
    engine.containers(label).iter().map(|it| it["Id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the server holds just so many containers, all of which run.
pub(crate) fn await_containers(engine: &Engine, label: &str, count: usize) {
    eventually(&format!("{count} containers, all running"), || {
        let all = engine.containers(label);
        (all.len() == count && all.iter().all(|it| it["State"] == "running")).then_some(())
    });
}
