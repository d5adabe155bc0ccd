//! Containers that are killed from outside, that run out of memory, and that a killed server leaves behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{json, Value};

use super::account::Fate;
use super::common::host::is_alive;
use super::common::{eventually, Random, Server};
use super::contained::{contained, label_of, lines, shared_engine, Pair};
use super::scene::QUICK;
use super::table::{sized, slackened, time, Row};

#[test]
fn a_random_container_killed_twice_a_second_costs_the_calls_that_it_had_begun() {
    let Some(mut row) = Row::of("the engine kills a random container, 2 a second") else { return };
    let Some(engine) = shared_engine() else { return };
    let pair = Pair::set(&mut row, engine.socket(), engine.image(), "container_pool_size: 2");
    let loads = pair.load();
    let (begun, length) = (Instant::now(), sized(Duration::from_secs(60), Duration::from_secs(3)));
    let (mut killed, mut random) = (0, Random(0x9e37_79b9_7f4a_7c15));
    for turn in 1.. {
        if begun.elapsed() >= length {
            break;
        }
        let instances: Vec<_> =
            pair.server.instances("containers").into_iter().filter(|it| it["pid"].is_u64()).collect();
        let container = instances.get(random.below(instances.len())).and_then(|it| {
            let container = engine.container_of(it["pid"].as_u64()? as u32)?;
            Some(container["Id"].as_str()?.to_owned())
        });
        if let Some(id) = container {
            let (status, _) = engine.call("POST", &format!("/containers/{id}/kill"), &Value::Null);
            killed += u64::from(status == 204);
        }
        std::thread::sleep((Duration::from_millis(500) * turn).saturating_sub(begun.elapsed()));
    }
    let accounts = loads.stop();
    let account = &accounts.containers;
    row.note(format!("killed: {killed}"));
    row.at_most("failed requests in containers", account.failed(), killed);
    row.exactly("of these without an answer", account.lost(), 0);
    row.exactly("answered but not 502", account.failed() - account.lost() - account.answered(502), 0);
    row.within("slowest 502", account.slowest(|it| it.fate == Fate::Answered(502)), Duration::from_secs(1));
    accounts.note(&mut row);
    row.end();
}

#[test]
fn containers_that_run_out_of_memory_are_told_from_others_and_cost_nobody_else() {
    let Some(mut row) = Row::of("memory runs out in a container") else { return };
    let Some(engine) = shared_engine() else { return };
    let pair = Pair::set(&mut row, engine.socket(), engine.image(), "container_pool_size: 2");
    // Itself, and a child while it waits for that.
    let code = "import os\n\
                def take(): return len(bytearray(b'x' * (640 << 20)))\n\
                def handle(request):\n    \
                    if request.get_text() == 'fine': return 1\n    \
                    if request.get_text() == 'itself': return take()\n    \
                    child = os.fork()\n    \
                    if child == 0: take()\n    \
                    os.waitpid(child, 0)\n    \
                    time.sleep(10)";
    pair.server.deploy("takes", code, contained(json!({ "memory": "64Mi", "max_instances": 1, "timeout": "20s" })));
    let loads = pair.load();
    let (mut told, mut slowest, mut fine, rounds) = (0, Duration::ZERO, 0, sized(20, 2));
    for round in 0..rounds {
        fine += u64::from(eventually("it has an instance", || {
            (pair.server.invoke("takes", "fine").status == 200).then_some(true)
        }));
        let asked = Instant::now();
        let reply = pair.server.invoke("takes", ["itself", "a child"][round as usize % 2]);
        slowest = slowest.max(asked.elapsed());
        told += u64::from(reply.status == 502 && reply.code() == "function_out_of_memory");
    }
    let accounts = loads.stop();
    row.exactly("calls told 502 function_out_of_memory", told, rounds);
    row.within("slowest of them", slowest, Duration::from_secs(3));
    row.exactly("works again each time", fine, rounds);
    row.exactly("failed requests of others in containers", accounts.containers.failed(), 0);
    accounts.note(&mut row);
    row.end();
}

#[test]
fn containers_of_a_killed_server_end_in_the_middle_of_their_calls_and_its_successor_removes_them() {
    let Some(mut row) = Row::of("kill -9 of a server with containers in the middle of calls") else { return };
    let Some(engine) = shared_engine() else { return };
    let stranger = engine.strangers_container(&json!({ "faas.managed": "1", "faas.server": "of-another-server" }));
    let system = lines(engine.socket(), engine.image(), "container_pool_size: 2");
    let mut server = Server::with(&system, "");
    // It looks at nothing any more, and heeds no signal that it can refuse.
    let code = "import signal\n\
                def handle(request):\n    \
                    for number in range(1, 65):\n        \
                        try: signal.signal(number, signal.SIG_IGN)\n        \
                        except (OSError, ValueError): pass\n    \
                    while True: time.sleep(60)";
    server.deploy("sleeps", code, contained(json!({ "max_instances": 3, "timeout": "60s" })));
    server.deploy("answers", QUICK, contained(json!({})));
    server.deploy("process", QUICK, json!({}));
    let (mut gone, mut removed, mut ready, mut cold) = (Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut left, mut answers) = (0, 0);
    let rounds = sized(20, 2);
    for _ in 0..rounds {
        let (home, ids) = std::thread::scope(|scope| {
            for _ in 0..3 {
                let (request, address) = (super::load::invoke("sleeps", ""), server.address);
                scope.spawn(move || {
                    use std::io::{Read, Write};
                    let mut stream = std::net::TcpStream::connect(address).unwrap();
                    stream.write_all(&request).unwrap();
                    // It ends with the server.
                    let _ = stream.read(&mut [0; 1]);
                });
            }
            server.await_load("sleeps", 3, 0);
            let label = label_of(engine, &server, "sleeps");
            let all = engine.containers(&label);
            let ids: BTreeSet<String> = all.iter().map(|it| it["Id"].as_str().unwrap().to_owned()).collect();
            let pids: Vec<u32> = ids
                .iter()
                .filter_map(|id| {
                    let (_, about) = engine.call("GET", &format!("/containers/{id}/json"), &Value::Null);
                    about["State"]["Pid"].as_u64().filter(|pid| *pid > 1).map(|pid| pid as u32)
                })
                .collect();
            assert!(pids.len() >= 3, "{pids:?}");
            server.signal(Signal::SIGKILL);
            let killed = Instant::now();
            while pids.iter().any(|&pid| is_alive(pid)) && killed.elapsed() < slackened(Duration::from_secs(1)) {
                std::thread::sleep(Duration::from_millis(2));
            }
            left += pids.iter().filter(|&&pid| is_alive(pid)).count() as u64;
            gone = gone.max(killed.elapsed());
            (server.ended().0, (ids, label))
        });
        let started = Instant::now();
        server = Server::on(home);
        ready = ready.max(started.elapsed());
        answers += u64::from(server.invoke("process", "").status == 200);
        let (ids, label) = ids;
        eventually("what the killed one left is removed", || {
            let now = engine.containers(&label);
            now.iter().all(|it| !ids.contains(it["Id"].as_str().unwrap())).then_some(())
        });
        removed = removed.max(started.elapsed());
        eventually("containers are used again", || (server.invoke("answers", "").status == 200).then_some(()));
        cold = cold.max(started.elapsed());
    }
    row.exactly("processes in containers 1 s later", left, 0);
    row.note(format!("the last was gone after {}", time(gone)));
    row.within("ready", ready, Duration::from_secs(1));
    row.exactly("a function in a process answers at once", answers, rounds);
    row.within("its predecessor's containers removed after the start", removed, Duration::from_secs(5));
    row.note(format!("first answer in a container after at most {}", time(cold)));
    row.holds("nobody else's container was touched", engine.is_running(&stranger));
    engine.must("DELETE", &format!("/containers/{stranger}?force=1&v=1"), &Value::Null);
    row.end();
}
