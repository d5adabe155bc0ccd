//! An engine that is not there, fails, hangs, dies and comes back: that costs functions in containers what they need it
//! for, and nobody else anything.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use faas::limits::ENGINE_IDLE_TIMEOUT;
use serde_json::{json, Value};

use crate::common::engine::Engine;
use crate::common::host::{cgroup_directories, descriptors, is_alive, resident_bytes};
use crate::common::{eventually, patience, skip, slowed, Random, Reply, Server, SetAtEnd};
use crate::door::{Door, Manner, BAD_MANNERS};
use crate::scene::{
    assert_processes_answer, await_containers, await_health, contained, deploy, engine, found, label, server,
    server_on, unavailable, EXEC,
};

/// No stock, so that whatever starts needs the engine, and a wait that a test can wait for. A start that works must be
/// able to do so on a busy machine.
const WITHOUT_STOCK: &str = "pool_size: 1\ncontainer_pool_size: 0\ncold_start_timeout: 6s";

/// Waits for an answer to a call that needs the engine.
fn await_answer(server: &Server, name: &str) {
    let mut last = String::new();
    let deadline = Instant::now() + patience();
    loop {
        let reply = server.invoke(name, "got = 1");
        if reply.status == 200 {
            return;
        }
        unavailable(&reply);
        last.clone_from(&reply.text());
        assert!(Instant::now() < deadline, "the engine is there, and still: {last}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A call that needs an engine that does not work: refused within a bounded time, in words that show nothing inside.
fn assert_refused(server: &Server, name: &str, what: &str) {
    let start = Instant::now();
    let reply: Reply = server.invoke(name, "got = 1");
    let refused = unavailable(&reply);
    assert!(
        ["no_instances", "cold_start_timeout", "queue_timeout", "container_unavailable", "runtime_unavailable"]
            .contains(&refused.code.as_str()),
        "{what}: {}",
        reply.text()
    );
    let inside = ["docker.sock", "/tmp", "panicked", "os error", "on fire"];
    assert!(!inside.iter().any(|word| refused.detail.contains(word)), "{what}: {}", refused.detail);
    assert!(start.elapsed() < slowed(Duration::from_secs(15)), "{what}: {:?}", start.elapsed());
}

#[test]
fn an_engine_that_fails_in_any_way_costs_functions_in_containers_alone_and_is_used_again() {
    let Some(engine) = engine() else { return };
    let door = Door::new(engine.socket(), Manner::Open);
    let server = server(&door.socket(), WITHOUT_STOCK);
    deploy(&server, "warm", EXEC, json!({ "max_instances": 1 }));
    for (number, _) in BAD_MANNERS.iter().enumerate() {
        deploy(&server, &format!("cold-{number}"), EXEC, json!({}));
    }
    await_answer(&server, "warm");
    let (before, memory) = (descriptors(server.pid()), resident_bytes(server.pid()));
    for (number, manner) in BAD_MANNERS.into_iter().enumerate() {
        let (name, what) = (format!("cold-{number}"), format!("{manner:?}"));
        door.set(manner);
        assert_refused(&server, &name, &what);
        let told = await_health(&server, "unavailable");
        assert!(told["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {told}");
        assert_processes_answer(&server);
        assert_eq!(found(&server, "warm", "got = 2"), 2, "{what}: what runs does not need the engine");
        assert_eq!(server.get("/readyz").status, 200, "{what}: the server is of use");
        door.set(Manner::Open);
        await_answer(&server, &name);
        await_health(&server, "available");
    }
    for number in 0..BAD_MANNERS.len() {
        assert_eq!(server.call("DELETE", &format!("/functions/cold-{number}"), "").status, 204);
    }
    // Connections to the engine that nobody needs are kept for a while.
    let deadline = Instant::now() + ENGINE_IDLE_TIMEOUT + patience();
    while descriptors(server.pid()) > before {
        assert!(Instant::now() < deadline, "{before} descriptors became {}", descriptors(server.pid()));
        std::thread::sleep(Duration::from_millis(100));
    }
    let grown = resident_bytes(server.pid()).saturating_sub(memory);
    assert!(grown < 48 << 20, "an answer without an end is not kept: {grown} bytes");
    await_containers(engine, &label(engine, &server, "warm"), 1);
}

#[test]
fn a_server_starts_without_its_engine_and_uses_it_when_it_comes() {
    let Some(engine) = engine() else { return };
    for manner in [Manner::Absent, Manner::Fails, Manner::IsSilent] {
        let door = Door::new(engine.socket(), manner);
        let start = Instant::now();
        let server = server(&door.socket(), WITHOUT_STOCK);
        // Interpreters are looked at meanwhile, which takes a busy machine several seconds.
        assert!(start.elapsed() < slowed(Duration::from_secs(25)), "{manner:?}: {:?}", start.elapsed());
        await_health(&server, "unavailable");
        // Whether the image is there cannot be known: the function is refused for now, or taken and refused when called.
        let body = json!({ "name": "f", "code": EXEC, "config": contained(json!({})) }).to_string();
        let deployed = server.post("/functions", &body);
        match deployed.status {
            201 => assert_refused(&server, "f", &format!("{manner:?}")),
            _ => drop(unavailable(&deployed)),
        }
        assert_processes_answer(&server);
        door.set(Manner::Open);
        await_health(&server, "available");
        if deployed.status != 201 {
            deploy(&server, "f", EXEC, json!({}));
        }
        await_answer(&server, "f");
    }
}

#[test]
fn connections_that_are_cut_at_any_moment_cost_no_container_and_no_call_of_others() {
    let Some(engine) = engine() else { return };
    let door = Door::new(engine.socket(), Manner::Open);
    let server = server(&door.socket(), "container_pool_size: 2\ncold_start_timeout: 6s");
    deploy(&server, "f", EXEC, json!({ "max_instances": 4, "timeout": 30 }));
    await_answer(&server, "f");
    let label = label(engine, &server, "f");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            // Cut at every moment of a container's life, again and again.
            let mut random = Random(7);
            while !over.load(Ordering::SeqCst) {
                door.set(Manner::HangsUp);
                std::thread::sleep(Duration::from_millis(random.below(20) as u64));
                door.set(Manner::Open);
                // Long enough for a container to be made now and then.
                std::thread::sleep(slowed(Duration::from_millis(random.below(3000) as u64)));
            }
        });
        let end = SetAtEnd(&over);
        for round in 0..10 {
            let name = format!("g-{round}");
            let body = json!({ "name": name, "code": EXEC, "config": contained(json!({})) }).to_string();
            eventually("it is deployed", || (server.post("/functions", &body).status == 201).then_some(()));
            await_answer(&server, &name);
            assert_eq!(server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
            assert_eq!(found(&server, "f", "got = 2"), 2);
            assert_processes_answer(&server);
        }
        drop(end);
        storm.join().unwrap();
    });
    await_health(&server, "available");
    // One that was created while the answer was lost is found and removed all the same.
    await_containers(engine, &label, 3);
}

#[test]
fn an_engine_that_is_stopped_killed_and_started_again_costs_functions_in_containers_alone() {
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(why) => return skip(&why),
    };
    let server = server(engine.socket(), &format!("{WITHOUT_STOCK}\nbase_image: {}", engine.image()));
    for name in ["warm", "cold-stopped", "cold-killed"] {
        deploy(&server, name, EXEC, json!({ "max_instances": 1 }));
    }
    await_answer(&server, "warm");
    let label = label(&engine, &server, "warm");

    // It stands still: whoever asks hangs, on connections that are there as on new ones.
    engine.stop();
    assert_refused(&server, "cold-stopped", "stopped");
    await_health(&server, "unavailable");
    assert_processes_answer(&server);
    assert_eq!(found(&server, "warm", "got = 2"), 2);
    engine.go_on();
    await_answer(&server, "cold-stopped");
    await_health(&server, "available");

    // It dies: its containers live on without it.
    engine.kill();
    assert_refused(&server, "cold-killed", "killed");
    await_health(&server, "unavailable");
    assert_processes_answer(&server);
    assert_eq!(found(&server, "warm", "got = 3"), 3);

    // One that starts again ends those.
    engine.start_again();
    await_answer(&server, "cold-killed");
    await_answer(&server, "warm");
    await_health(&server, "available");
    await_answer(&server, "cold-stopped");
    await_containers(&engine, &label, 3);
    assert_processes_answer(&server);
}

#[test]
fn an_instance_that_ends_while_the_engine_is_away_is_removed_when_it_is_back() {
    let Some(engine) = engine() else { return };
    let door = Door::new(engine.socket(), Manner::Open);
    let server = server(&door.socket(), WITHOUT_STOCK);
    deploy(&server, "f", EXEC, json!({ "max_instances": 1 }));
    deploy(&server, "g", EXEC, json!({ "max_instances": 1 }));
    ["f", "g"].into_iter().for_each(|name| await_answer(&server, name));
    let label = label(engine, &server, "f");
    door.set(Manner::Absent);
    // Its end is seen all the same; how it ended, the engine would have known.
    let reply = server.invoke("f", "os._exit(3)");
    reply.refused(502, "function_crashed");
    assert_eq!(server.call("DELETE", "/functions/g", "").status, 204);
    eventually("no instance is left", || {
        let all = server.get("/instances").json()["instances"].clone();
        let left = |name: &str| all.as_array().unwrap().iter().any(|it| it["function"] == name);
        (!left("f") && !left("g")).then_some(())
    });
    door.set(Manner::Open);
    await_containers(engine, &label, 0);
    await_answer(&server, "f");
}

#[test]
fn a_server_ends_in_its_time_although_its_engine_hangs() {
    let Some(engine) = engine() else { return };
    let door = Door::new(engine.socket(), Manner::Open);
    let server = server(&door.socket(), "shutdown_grace: 2");
    deploy(&server, "f", EXEC, json!({}));
    await_answer(&server, "f");
    let label = label(engine, &server, "f");
    let pid = server.instances("f")[0]["pid"].as_u64().unwrap() as u32;
    door.set(Manner::IsSilent);
    let start = Instant::now();
    let (home, status) = server.end(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{}", home.log());
    assert!(start.elapsed() < slowed(Duration::from_secs(5)), "{:?}", start.elapsed());
    eventually("its functions have ended", || (!is_alive(pid)).then_some(()));
    // What it could not remove, its successor does.
    door.set(Manner::Open);
    let server = server_on(home);
    await_containers(engine, &label, 1);
    assert_eq!(found(&server, "f", "got = 2"), 2);
}

/// Of the fixture: what a test leaves behind, all the others meet.
#[test]
fn nothing_is_left_of_an_engine_of_the_tests_whatever_its_containers_do() {
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(why) => return skip(&why),
    };
    let directory = engine.socket().parent().unwrap().to_owned();
    let ids = [(); 3].map(|()| engine.strangers_container(&json!({})));
    let pids = ids.each_ref().map(|id| {
        let inspected = engine.must("GET", &format!("/containers/{id}/json"), &Value::Null);
        inspected["State"]["Pid"].as_u64().unwrap() as u32
    });
    let mut all = cgroup_directories(pids[0]);
    // Docker's are in one that is the engine's own.
    let parents: Vec<_> = all.iter().filter_map(|group| group.parent()).map(Path::to_owned).collect();
    all.extend(parents.into_iter().filter(|parent| parent.to_string_lossy().contains("/test-engine-")));
    let groups = || all.iter().filter(|group| group.exists()).count();
    assert!(pids.iter().all(|&pid| is_alive(pid)) && groups() > 0);
    engine.must("POST", &format!("/containers/{}/pause", ids[0]), &Value::Null);
    engine.stop();
    drop(engine);
    assert!(!pids.iter().any(|&pid| is_alive(pid)), "{pids:?}");
    assert_eq!((directory.exists(), groups()), (false, 0));
    let of_it = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(directory.to_str().unwrap())
    });
    assert_eq!(of_it.count(), 0);
}
