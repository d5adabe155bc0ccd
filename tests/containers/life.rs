//! How containers come and go: with their functions, with their server, and by hands that are not the server's.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{json, Value};

use crate::common::engine::Engine;
use crate::common::host::{descriptors, is_alive};
use crate::common::{command, eventually, Home, Server};
use crate::door::{Door, Manner};
use crate::scene::{
    assert_processes_answer, await_containers, await_health, configuration, contained, container, deploy, engine,
    found, health, ids, label, server, server_on, EXEC,
};

/// A registry that is not there, on this machine: nobody else is asked for the image.
const ABSENT_IMAGE: &str = "127.0.0.1:1/absent:test";

fn remove(engine: &Engine, id: &str) {
    engine.must("DELETE", &format!("/containers/{id}?force=1&v=1"), &Value::Null);
}

#[test]
fn a_container_that_is_killed_from_outside_costs_the_call_that_it_runs_and_no_other() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({ "max_instances": 1 }));
    found(&server, "f", "got = 1");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| server.invoke("f", "print('begun'); time.sleep(600)"));
        server.await_print("f", "begun");
        let next = scope.spawn(|| server.invoke("f", "got = 'next'"));
        server.await_load("f", 1, 1);
        let id = container(engine, &server, "f")["Id"].as_str().unwrap().to_owned();
        engine.must("POST", &format!("/containers/{id}/kill"), &Value::Null);
        let detail = call.join().unwrap().refused(502, "function_crashed");
        assert!(detail.ends_with("signal 9"), "{detail}");
        let next = next.join().unwrap();
        assert_eq!((next.status, next.text().as_str()), (200, "\"next\""), "{}", next.text());
    });
    // Removed while it is idle: nobody notices.
    let id = container(engine, &server, "f")["Id"].as_str().unwrap().to_owned();
    let instance = server.instances("f")[0]["id"].clone();
    remove(engine, &id);
    server.await_end("f", &instance);
    assert_eq!(found(&server, "f", "got = 2"), 2);
}

#[test]
fn a_container_in_stock_that_is_killed_or_removed_is_made_up_for() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "container_pool_size: 2");
    deploy(&server, "f", EXEC, json!({}));
    found(&server, "f", "got = 1");
    let label = label(engine, &server, "f");
    let own = container(engine, &server, "f")["Id"].as_str().unwrap().to_owned();
    for round in 0..2 {
        await_containers(engine, &label, 3);
        let before = ids(engine, &label);
        for id in before.iter().filter(|id| **id != own) {
            match round {
                0 => drop(engine.must("POST", &format!("/containers/{id}/kill"), &Value::Null)),
                _ => remove(engine, id),
            }
        }
        eventually("two others are there", || {
            let now = ids(engine, &label);
            (now.len() == 3 && now.intersection(&before).count() == 1).then_some(())
        });
    }
    await_containers(engine, &label, 3);
    deploy(&server, "g", EXEC, json!({}));
    assert_eq!(found(&server, "g", "got = 2"), 2);
}

#[test]
fn deploying_calling_and_deleting_leave_no_container_no_directory_and_no_descriptor() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "stays", EXEC, json!({}));
    found(&server, "stays", "got = 1");
    let label = label(engine, &server, "stays");
    let mut sources = BTreeSet::new();
    let mut cycle = |number: usize| {
        let name = format!("comes-and-goes-{number}");
        deploy(&server, &name, EXEC, json!({ "memory": "96Mi" }));
        found(&server, &name, "got = 1");
        let mounts = container(engine, &server, &name)["Mounts"].as_array().unwrap().clone();
        let own = mounts.iter().filter(|it| it["Destination"] == "/faas/run");
        sources.extend(own.map(|it| it["Source"].as_str().unwrap().to_owned()));
        assert_eq!(server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
    };
    // Connections and caches are there after the first.
    (0..2).for_each(&mut cycle);
    await_containers(engine, &label, 2);
    let before = descriptors(server.pid());
    (2..12).for_each(&mut cycle);
    await_containers(engine, &label, 2);
    eventually("the descriptors are back", || (descriptors(server.pid()) <= before).then_some(()));
    assert_eq!(sources.len(), 12, "each has a directory of its own: {sources:?}");
    let left: Vec<_> = sources.iter().filter(|source| Path::new(source).exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(found(&server, "stays", "got = 1"), 1);
}

#[test]
fn a_server_that_is_told_to_end_leaves_no_container() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "container_pool_size: 2");
    deploy(&server, "f", EXEC, json!({ "min_instances": 2, "max_instances": 2 }));
    server.await_idle("f", 2);
    found(&server, "f", "got = 1");
    let label = label(engine, &server, "f");
    await_containers(engine, &label, 4);
    let (home, status) = server.end(Signal::SIGTERM);
    assert!(status.success(), "{}", home.log());
    assert_eq!(ids(engine, &label), BTreeSet::new());
}

#[test]
fn containers_of_a_killed_server_end_with_it_and_its_successor_removes_them_and_nobody_elses() {
    let Some(engine) = engine() else { return };
    let strangers = [
        json!({}),
        json!({ "faas.managed": "1" }),
        json!({ "faas.managed": "1", "faas.server": "of-another-server", "faas.side": "0" }),
    ];
    let strangers = strangers.map(|labels| engine.strangers_container(&labels));
    let others = server(engine.socket(), "");
    deploy(&others, "f", EXEC, json!({}));
    found(&others, "f", "got = 1");
    let of_others = container(engine, &others, "f")["Id"].as_str().unwrap().to_owned();

    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({}));
    found(&server, "f", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); got = 1");
    let label = label(engine, &server, "f");
    await_containers(engine, &label, 2);
    let before = ids(engine, &label);
    let pid = server.instances("f")[0]["pid"].as_u64().unwrap() as u32;
    let (home, _) = server.end(Signal::SIGKILL);
    eventually("the function's process ends with its server", || (!is_alive(pid)).then_some(()));

    let server = server_on(home);
    eventually("what the killed one left is removed", || ids(engine, &label).is_disjoint(&before).then_some(()));
    assert_eq!(found(&server, "f", "got = 2"), 2);
    for id in strangers.iter().chain([&of_others]) {
        assert!(engine.is_running(id), "{id} is not this server's");
    }
    assert_eq!(found(&others, "f", "got = 3"), 3);
    strangers.iter().for_each(|id| remove(engine, id));
}

#[test]
fn the_containers_of_a_server_that_lives_are_left_alone_by_its_successor_until_it_ends() {
    let Some(engine) = engine() else { return };
    let old = server(engine.socket(), "");
    deploy(&old, "f", EXEC, json!({ "max_instances": 1 }));
    found(&old, "f", "got = 1");
    let label = label(engine, &old, "f");
    let of_old = container(engine, &old, "f")["Id"].as_str().unwrap().to_owned();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| old.invoke("f", "time.sleep(15); got = 'of the old one'"));
        old.await_load("f", 1, 0);
        let mut start = command(&old.home);
        start.arg("--takeover");
        let new = Server::launch(old.home.clone(), start);
        assert!(engine.is_running(&of_old), "it works still");
        assert_eq!(found(&new, "f", "got = 'of the new one'"), "of the new one");
        assert_eq!(call.join().unwrap().text(), "\"of the old one\"");
        eventually("the old one's are gone", || (!ids(engine, &label).contains(&of_old)).then_some(()));
        assert_eq!(found(&new, "f", "got = 'still there'"), "still there");
    });
}

#[test]
fn an_image_that_is_not_there_is_told_when_a_function_is_deployed() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    let code = "def handle(request):\n    return 1";
    let body = json!({ "name": "f", "code": code, "config": contained(json!({ "image": ABSENT_IMAGE })) }).to_string();
    let reply = server.post("/functions", &body);
    assert!([400, 503].contains(&reply.status) && reply.code().ends_with("_unavailable"), "{}", reply.text());
    assert!(reply.detail().contains(ABSENT_IMAGE), "{}", reply.text());
    assert_eq!(server.get("/functions/f").status, 404);
    // The same of the server's own image; the server starts, and serves the rest.
    let server = self::server(engine.socket(), &format!("base_image: {ABSENT_IMAGE}"));
    let body = json!({ "name": "f", "code": code, "config": contained(json!({})) }).to_string();
    let reply = server.post("/functions", &body);
    assert!([400, 503].contains(&reply.status) && reply.code().ends_with("_unavailable"), "{}", reply.text());
    assert!(reply.detail().contains(ABSENT_IMAGE), "{}", reply.text());
    assert_processes_answer(&server);
}

#[test]
fn an_image_without_python_is_told_with_what_is_missing() {
    let Some(engine) = engine() else { return };
    let root = tempfile::tempdir().unwrap();
    let archive = Command::new("tar").args(["--create", "--directory"]).arg(root.path()).arg(".").output().unwrap();
    engine.import("faas-empty:test", &mut &archive.stdout[..], archive.stdout.len() as u64);
    let server = server(engine.socket(), "cold_start_timeout: 5s");
    let code = "def handle(request):\n    return 1";
    let body =
        json!({ "name": "f", "code": code, "config": contained(json!({ "image": "faas-empty:test" })) }).to_string();
    let deployed = server.post("/functions", &body);
    let refused = if deployed.status == 201 { server.invoke("f", "") } else { deployed };
    assert!([400, 503].contains(&refused.status), "{}", refused.text());
    // The log says what is missing.
    server.home.await_words("python");
    engine.call("DELETE", "/images/faas-empty:test?force=1", &Value::Null);
    assert_processes_answer(&server);
}

#[test]
fn with_containers_disabled_the_engine_is_not_asked_and_functions_that_need_one_are_refused() {
    let Some(engine) = engine() else { return };
    let door = Door::new(engine.socket(), Manner::Open);
    let home = Home::with(&configuration(&door.socket(), ""), "");
    let mut start = command(&home);
    start.env("FAAS_DISABLE_CONTAINER", "1");
    let server = Server::launch(home, start);
    server.deploy("process", "def handle(request):\n    return request.get_json()", json!({}));
    let body = json!({ "name": "f", "code": EXEC, "config": contained(json!({})) }).to_string();
    let detail = server.post("/functions", &body).refused(400, "mode_unavailable");
    assert!(detail.contains("config.execution_mode"), "{detail}");
    assert_processes_answer(&server);
    let health = health(&server);
    assert_ne!(health["status"], "available", "{health}");
    assert_eq!(door.connections(), 0);
}

#[test]
fn a_function_that_was_deployed_for_containers_says_why_it_cannot_be_called_without() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({}));
    assert_eq!(found(&server, "f", "got = 1"), 1);
    await_health(&server, "available");
    let (home, _) = server.end(Signal::SIGTERM);
    let mut start = command(&home);
    start.env("FAAS_DISABLE_CONTAINER", "1");
    let server = Server::launch(home, start);
    let reply = server.invoke("f", "got = 1");
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.detail().contains("container"), "{}", reply.text());
    assert_processes_answer(&server);
    let (home, _) = server.end(Signal::SIGTERM);
    assert_eq!(found(&server_on(home), "f", "got = 2"), 2, "it is as it was when there are containers again");
}
