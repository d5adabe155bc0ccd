//! `network: none | outbound | host`, from inside functions of a server whose machine and internet are network namespaces
//! of the test. What must not be reached answers there all the same, so that a refusal is known to be the sandbox's.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;
#[path = "network/world.rs"]
mod world;

use std::net::TcpListener;
use std::time::Duration;

use common::host::{cgroup_parents, Holdings};
use common::{Home, Server};
use serde_json::{json, Value};
use world::{http, World, FORBIDDEN, PUBLIC, PUBLIC_V6};

const PROBE: &str = include_str!("network/probe.py");
const ANY: &str = "pool_size: 1";

fn deploy(server: &Server, name: &str, network: &str) {
    server.deploy(name, PROBE, json!({ "network": network, "max_instances": 8 }));
}

/// Has the function do these things, by name, and gives what came of each.
fn ask(server: &Server, name: &str, what: &Value) -> Value {
    let reply = server.post(&format!("/invoke/{name}"), &what.to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn outbound_reaches_the_internet_by_name_and_by_address() {
    let Some(world) = World::new() else { return };
    let server = world.server(ANY);
    deploy(&server, "f", "outbound");
    // First of all, before anything of its own is open: the listener is out of reach.
    assert_eq!(ask(&server, "f", &json!({ "open": ["descriptors"] }))["open"], json!([0, 1, 2, 3]));
    let got = ask(
        &server,
        "f",
        &json!({
            "by name": ["fetch", "http://internet.test/page"],
            "v4": ["connect", PUBLIC, 7],
            "v6": ["connect", PUBLIC_V6, 7],
            "mapped": ["connect", format!("::ffff:{PUBLIC}"), 7],
            "with a timeout": ["connect", PUBLIC, 7, 20],
            "asyncio": ["fetch_async", "internet.test"],
            "from a child": ["child", PUBLIC],
            "refused": ["connect", PUBLIC, 9],
            "refused, with a timeout": ["connect", PUBLIC, 9, 20],
            "no such name": ["name", "nowhere.test"],
            "slow": ["timed_out", PUBLIC],
        }),
    );
    assert_eq!(got["by name"], r#"{"path": "/page"}"#, "{got:#}");
    assert_eq!((&got["v4"], &got["v6"]), (&json!(PUBLIC), &json!(PUBLIC_V6)));
    assert_eq!(got["mapped"], format!("::ffff:{PUBLIC}"));
    assert_eq!(got["with a timeout"], PUBLIC);
    assert_eq!(got["asyncio"], "hello\n");
    assert_eq!(got["from a child"], format!("'{PUBLIC}'"));
    assert_eq!((&got["refused"], &got["refused, with a timeout"]), (&json!("ECONNREFUSED"), &json!("ECONNREFUSED")));
    assert_eq!(got["no such name"][0], "gaierror -2", "{got:#}");
    assert_eq!(got["slow"][0], "TimeoutError('timed out')");
    assert!((0.5..20.0).contains(&got["slow"][1].as_f64().unwrap()), "{got:#}");
}

#[test]
fn outbound_reaches_neither_private_networks_nor_metadata_nor_the_machine_nor_the_server() {
    let Some(world) = World::new() else { return };
    let server = world.server("pool_size: 1\nhost: 0.0.0.0\nallow_well_known_keys_anywhere: true");
    let on_the_machine = TcpListener::bind("[::]:0").unwrap();
    let (port, own) = (server.address.port(), on_the_machine.local_addr().unwrap().port());
    deploy(&server, "f", "outbound");
    let mut what = serde_json::Map::new();
    for address in FORBIDDEN {
        assert_eq!(http(address, "/"), r#"{"path": "/"}"#, "{address} answers whoever may ask");
        what.insert(address.to_owned(), json!(["connect", address, 80]));
        if !address.contains(':') {
            for spelling in [format!("::ffff:{address}"), format!("64:ff9b::{address}")] {
                what.insert(spelling.clone(), json!(["connect", spelling, 80]));
            }
        }
    }
    for address in ["127.0.0.1", "127.1.2.3", "0.0.0.0", "11.0.113.1", "::1", "::", "2a0b:1:1::1", "::ffff:11.0.113.1"]
    {
        for port in [port, own, 22] {
            what.insert(format!("{address} {port}"), json!(["connect", address, port]));
        }
    }
    what.insert("link".to_owned(), json!(["connect", "fe80::1", 80]));
    what.insert("broadcast".to_owned(), json!(["connect", "11.0.113.255", 80]));
    what.insert("with a timeout".to_owned(), json!(["connect", FORBIDDEN[0], 80, 5]));
    let got = ask(&server, "f", &Value::Object(what));
    for (place, outcome) in got.as_object().unwrap() {
        assert_eq!(outcome, "EACCES", "{place}");
    }
    let accepted = world.accepted();
    let strangers: Vec<_> =
        FORBIDDEN.iter().filter(|place| accepted.iter().filter(|got| got == place).count() > 1).collect();
    assert!(strangers.is_empty(), "{strangers:?} were reached: {accepted:?}");
    // What is forbidden can be opened, one port at a time, but for the server and a cloud's metadata.
    let server = world
        .server(&format!("pool_size: 1\noutbound_allow: ['10.9.9.9:80', '127.0.0.1:{own}', '11.0.113.1', 'fd00::/8']"));
    deploy(&server, "f", "outbound");
    let got = ask(
        &server,
        "f",
        &json!({
            "opened": ["connect", "10.9.9.9", 80], "own": ["connect", "127.0.0.1", own],
            "mapped": ["connect", "::ffff:10.9.9.9", 80],
            "another port": ["connect", "10.9.9.9", 7], "another address": ["connect", "192.168.77.1", 80],
            "server": ["connect", "11.0.113.1", server.address.port()],
            "around metadata": ["connect", "fd00:77::1", 80], "metadata": ["connect", "fd00:ec2::254", 80],
        }),
    );
    assert_eq!(
        got,
        json!({
            "opened": "10.9.9.9", "own": "127.0.0.1", "mapped": "::ffff:10.9.9.9", "another port": "EACCES",
            "another address": "EACCES", "server": "EACCES", "around metadata": "fd00:77::1", "metadata": "EACCES",
        })
    );
}

#[test]
fn outbound_sockets_only_connect() {
    let Some(world) = World::new() else { return };
    let server = world.server(ANY);
    deploy(&server, "f", "outbound");
    let got = ask(&server, "f", &json!({ "met": ["sockets", PUBLIC] }));
    assert_eq!(
        got["met"],
        json!({
            "bind": "EPERM", "listen": "EPERM", "fast open, sendto": "ENOTSUP", "fast open, sendmsg": "ENOTSUP",
            "fast open, deferred": "ENOPROTOOPT", "source route": "ENOPROTOOPT", "device": "ENOPROTOOPT",
            "linger": "ENOPROTOOPT", "interfaces": "EPERM", "udp": "EACCES", "udp, sent": "ENETUNREACH", "unix": "EACCES", "abstract": "EACCES",
            "socketpair": "x", "no socket": "ENOTSOCK", "no descriptor": "EBADF",
        })
    );
    let got = ask(&server, "f", &json!({ "again": ["again", PUBLIC, FORBIDDEN[0]] }));
    assert_eq!(
        got["again"],
        json!({
            "connected": "EISCONN", "unspecified": "EACCES", "still": "still", "disconnected": "EACCES",
            "fast open": "ENOTSUP", "reconnected": null, "again": "again", "listen": "EPERM",
        })
    );
}

#[test]
fn an_address_that_flips_during_connect_never_leads_to_a_forbidden_place() {
    let Some(world) = World::new() else { return };
    let server = world.server(ANY);
    deploy(&server, "f", "outbound");
    let (mut reached, mut refused) = (0, 0);
    // Which of the two threads runs when is the kernel's to say: more rounds where one of them had no processor.
    for round in 0..40 {
        if round >= 4 && reached > 0 && refused > 0 {
            break;
        }
        let got = ask(&server, "f", &json!({ "flips": ["flip", PUBLIC, FORBIDDEN[0], 240] }));
        let peers = got["flips"]["peers"].as_object().unwrap();
        assert!(peers.keys().all(|peer| peer == PUBLIC), "{got:#}");
        reached += peers.values().filter_map(Value::as_u64).sum::<u64>();
        refused += got["flips"]["refused"].as_u64().unwrap();
    }
    println!("{reached} connected, {refused} refused");
    assert!(reached > 0 && refused > 0, "the address did not flip: {reached} {refused}");
    assert!(!world.accepted().iter().any(|place| place == FORBIDDEN[0]));
}

#[test]
fn many_connections_and_deaths_leave_nothing_behind() {
    let Some(world) = World::new() else { return };
    let server = world.server("pool_size: 2\nwarm_instance_ttl: 100ms");
    let parents = cgroup_parents(&server);
    // With the first container comes the process that ends them.
    server.run("first", "def handle(request):\n    return 1", "");
    let before = Holdings::at_rest(&server, &parents);
    server.deploy("f", PROBE, json!({ "network": "outbound", "max_instances": 8, "timeout": 20 }));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let got = ask(&server, "f", &json!({ "many": ["many", PUBLIC, 50] }));
                assert_eq!(got["many"], json!(vec![PUBLIC; 50]));
            });
        }
    });
    let got = ask(&server, "f", &json!({ "many": ["many_async", PUBLIC, 200] }));
    assert_eq!(got["many"], json!(vec!["x\n"; 200]));
    let got = ask(&server, "f", &json!({ "storm": ["storm", PUBLIC, 2] }));
    // Python takes a call that was interrupted before it was looked at for one under way.
    let known = ["None", "ENOTSOCK", "ENOTCONN", "EINTR", PUBLIC].map(Value::from);
    let outcomes = got["storm"].as_array().unwrap();
    assert!(outcomes.contains(&PUBLIC.into()) && outcomes.iter().all(|outcome| known.contains(outcome)), "{got}");
    // Killed while it waits for a connection, with all its threads and its broker's.
    let timeout = if common::mode::in_containers() { 15 } else { 4 };
    server.deploy("hangs", PROBE, json!({ "network": "outbound", "timeout": timeout }));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let reply = server.post("/invoke/hangs", &json!({ "hang": ["hang", PUBLIC] }).to_string());
                reply.refused(504, "function_timeout");
            });
        }
    });
    let got = ask(&server, "f", &json!({ "after": ["connect", PUBLIC, 7] }));
    assert_eq!(got["after"], PUBLIC, "the others are not touched by it");
    for name in ["f", "hangs"] {
        assert_eq!(server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
    }
    let threads = |server: &Server| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim() == "faas-egress").count()
    };
    if threads(&server) > 0 {
        // Blanks of a kind that nobody uses any more may wait a little longer; they are known and bounded.
        std::thread::sleep(Duration::from_secs(1));
    }
    before.await_again(&server, &parents, "all that");
    assert_eq!(threads(&server), 0);
}

#[test]
fn none_reaches_nothing_and_says_so_at_once() {
    let Some(world) = World::new() else { return };
    let server = world.server(ANY);
    server.deploy("f", PROBE, json!({}));
    let got = ask(
        &server,
        "f",
        &json!({ "name": ["name", "internet.test"], "connect": ["connect", PUBLIC, 7], "own": ["listen_and_call"] }),
    );
    println!("a lookup without network: {} s", got["name"][1]);
    assert!(got["name"][0].as_str().unwrap().starts_with("gaierror"), "{got:#}");
    // A resolver that waited for an answer would do so for five seconds.
    assert!(got["name"][1].as_f64().unwrap() < 4.0, "{got:#}");
    assert!(["ENETUNREACH", "EACCES"].contains(&got["connect"].as_str().unwrap()), "{got:#}");
}

#[test]
fn host_is_refused_unless_the_operator_allows_it_and_then_is_the_hosts_network() {
    if common::mode::about_processes_alone("the host's network of a container is the engine's and not this machine's") {
        return;
    }
    let Some(world) = World::new() else { return };
    let server = world.server(ANY);
    let body = json!({ "name": "f", "code": PROBE, "config": { "network": "host" } }).to_string();
    let detail = server.post("/functions", &body).refused(400, "invalid_config");
    assert_eq!(
        detail,
        "config.network: host is not allowed on this server, which allows none, outbound (system.allowed_networks)"
    );
    drop(server);

    let home = Home::with("pool_size: 1\nallowed_networks: [none, outbound, host]", "");
    let server = world.server_on(home);
    let own = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    deploy(&server, "h", "host");
    let sandbox = server.get("/functions/h/sandbox").json()["sandbox"].clone();
    let state = |name: &str| {
        let layers = sandbox["layers"].as_array().unwrap();
        layers.iter().find(|layer| layer["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!((state("network_namespace"), state("ipc_namespace")), (json!("left out"), json!("required")));
    deploy(&server, "o", "outbound");
    server.deploy("n", PROBE, json!({}));
    let what = json!({
        "by name": ["fetch", "http://internet.test/page"], "private": ["connect", FORBIDDEN[0], 80],
        "server": ["connect", "127.0.0.1", server.address.port()], "listens": ["listen_and_call"],
        "resolv.conf": ["read", "/etc/resolv.conf"], "closed": ["connect", "127.0.0.1", own],
    });
    let got = ask(&server, "h", &what);
    assert_eq!(got["by name"], r#"{"path": "/page"}"#, "{got:#}");
    assert_eq!((&got["private"], &got["server"]), (&json!(FORBIDDEN[0]), &json!("127.0.0.1")));
    assert_eq!((&got["listens"], &got["closed"]), (&json!("connected"), &json!("ECONNREFUSED")));
    assert_eq!(got["resolv.conf"], world::resolv_conf());
    // Each has its own kind, though they share a zygote.
    assert_eq!(ask(&server, "o", &what)["private"], "EACCES");
    assert!(ask(&server, "n", &what)["by name"].as_str().unwrap().contains("gaierror"));

    // What was stored is not run in a network that is not allowed any more.
    let (home, status) = server.end(nix::sys::signal::Signal::SIGTERM);
    assert!(status.success());
    let home = home.configured("pool_size: 1\nallowed_networks: [none]", "");
    let server = world.server_on(home);
    for (name, network) in [("h", "host"), ("o", "outbound")] {
        let detail = server.post(&format!("/invoke/{name}"), "{}").refused(503, "network_unavailable");
        assert!(detail.starts_with(&format!("network {network} is not allowed on this server, which allows none")));
        let line = format!("function {name} cannot be called: network {network} is not allowed");
        // The log is written by a thread of its own.
        common::eventually("the log names the function", || server.home.log().contains(&line).then_some(()));
    }
    assert_eq!(
        ask(&server, "n", &json!({ "c": ["connect", PUBLIC, 7] }))["c"].as_str().map(|text| text == PUBLIC),
        Some(false)
    );
}

#[test]
fn outbound_works_for_a_server_that_is_not_root() {
    if common::mode::about_processes_alone("the engine of the tests hears root alone") {
        return;
    }
    let Some(world) = World::new() else { return };
    let home = Home::with("pool_size: 1\nprocess_isolation_level: standard", "");
    use std::os::unix::fs::{chown, PermissionsExt};
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = home.path().join("faas");
    common::copy_program(std::path::Path::new(env!("CARGO_BIN_EXE_faas")), &copy);
    std::fs::create_dir(home.state()).unwrap();
    std::fs::set_permissions(home.state(), std::fs::Permissions::from_mode(0o700)).unwrap();
    chown(home.state(), Some(common::NOBODY), Some(common::NOBODY)).unwrap();
    let user = format!("--reuid={}", common::NOBODY);
    let group = format!("--regid={}", common::NOBODY);
    let before = ["setpriv", user.as_str(), group.as_str(), "--clear-groups"];
    let command = world.command(&home, copy.to_str().unwrap(), &before);
    let server = Server::launch(home, command);
    deploy(&server, "f", "outbound");
    let got = ask(
        &server,
        "f",
        &json!({
            "by name": ["fetch", "http://internet.test/page"], "forbidden": ["connect", FORBIDDEN[0], 80],
            "server": ["connect", "127.0.0.1", server.address.port()],
        }),
    );
    assert_eq!(got, json!({ "by name": r#"{"path": "/page"}"#, "forbidden": "EACCES", "server": "EACCES" }));
}

/// Not a test: prints what a connection costs. `cargo test --test network -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn the_cost_of_a_connection() {
    let Some(world) = World::new() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let server = world
        .server(&format!("pool_size: 1\nallowed_networks: [outbound, host]\noutbound_allow: ['127.0.0.1:{port}']"));
    for network in ["host", "outbound"] {
        deploy(&server, network, network);
        let what = json!({ "us": ["latency", "127.0.0.1", port, 150] });
        // No more than an instance may make at once.
        let us: Vec<f64> = (0..5).map(|_| ask(&server, network, &what)["us"].as_f64().unwrap()).collect();
        println!("{network}: p50 of 150, five times: {us:.0?} us");
    }
}
