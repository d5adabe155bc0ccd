//! Changes and accidents while calls come without a pause: which of them may fail, and which must not.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::functions::{kill_instance, sandboxed};
use common::mode::in_containers;
use common::{eventually, Reply, Server, SetAtEnd};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

const CALLERS: usize = 8;

/// Calls without pause from several threads while `story` runs, and for at least so many calls.
/// `judge` sees every answer.
fn under_load<T>(
    server: &Server,
    name: &str,
    judge: impl Fn(&Reply) + Sync,
    story: impl FnOnce(&dyn Fn(u64)) -> T,
) -> T {
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    judge(&server.invoke(name, ""));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = SetAtEnd(&over);
        let await_calls = |count: u64| {
            let goal = answered.load(Ordering::Relaxed) + count;
            eventually("calls are answered", || (answered.load(Ordering::Relaxed) >= goal).then_some(()));
        };
        await_calls(20);
        story(&await_calls)
    })
}

fn answers(value: u64) -> String {
    format!("def handle(request):\n    time.sleep(0.001)\n    return {value}")
}

#[test]
fn no_call_fails_because_of_new_versions_and_each_new_one_is_in_force_when_it_is_acknowledged() {
    let Some(server) = sandboxed("", "") else { return };
    const VERSIONS: u64 = 20;
    server.deploy("changing", &answers(0), json!({"max_instances": 4}));
    // Versions that were asked for, and that were acknowledged, by number.
    let (asked, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    while acknowledged.load(Ordering::SeqCst) < VERSIONS {
                        let oldest = acknowledged.load(Ordering::SeqCst);
                        let got = server.answer("changing", "").as_u64().unwrap();
                        let newest = asked.load(Ordering::SeqCst);
                        assert!((oldest..=newest).contains(&got), "{got} is not of {oldest}..={newest}");
                    }
                })
            })
            .collect();
        for version in 1..=VERSIONS {
            asked.store(version, Ordering::SeqCst);
            let body = json!({ "code": answers(version) }).to_string();
            let reply = server.call("PUT", "/functions/changing", &body);
            // The callers end by this number.
            acknowledged.store(if reply.status == 200 { version } else { VERSIONS }, Ordering::SeqCst);
            assert_eq!((reply.status, &reply.json()["version"]), (200, &json!(version + 1)), "{}", reply.text());
        }
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
    assert_eq!(server.answer("changing", ""), VERSIONS);
    eventually("only instances of the last version are left", || {
        server.instances("changing").iter().all(|it| it["version"] == VERSIONS + 1).then_some(())
    });
    let stats = server.stats("changing");
    assert_eq!((&stats["failed"], &stats["refused"]), (&json!(0), &json!(0)), "{stats}");
}

#[test]
fn a_call_in_flight_ends_on_the_version_on_which_it_began() {
    let Some(server) = sandboxed("", "") else { return };
    let code =
        |word: &str| format!("def handle(request):\n    time.sleep(float(request.get_text()))\n    return '{word}'");
    server.deploy("slow", &code("old"), json!({}));
    std::thread::scope(|scope| {
        // The new code is looked at, and an instance is started for it, before this is over.
        let old = scope.spawn(|| server.answer("slow", if in_containers() { "12" } else { "5" }));
        server.await_load("slow", 1, 0);
        let body = json!({ "code": code("new") }).to_string();
        assert_eq!(server.call("PUT", "/functions/slow", &body).status, 200);
        assert_eq!(server.answer("slow", "0"), "new");
        assert!(!old.is_finished());
        assert_eq!(old.join().unwrap(), "old");
    });
}

#[test]
fn a_deleted_function_finishes_what_it_has_begun() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "def handle(request):\n    time.sleep(1)\n    return 'finished'";
    server.deploy("going", code, json!({"max_instances": 2}));
    std::thread::scope(|scope| {
        let begun: Vec<_> = (0..4).map(|_| scope.spawn(|| server.answer("going", ""))).collect();
        eventually("all are accepted", || (server.stats("going")["invocations"] == 4).then_some(()));
        assert_eq!(server.call("DELETE", "/functions/going", "").status, 204);
        let after = server.invoke("going", "");
        assert_eq!((after.status, after.code().as_str()), (404, "not_found"));
        begun.into_iter().for_each(|call| assert_eq!(call.join().unwrap(), "finished"));
    });
    eventually("its instances are gone", || (server.get("/instances").json()["count"] == 0).then_some(()));
}

#[test]
fn under_load_a_function_that_is_deleted_and_made_again_is_missing_only_in_between() {
    let Some(server) = sandboxed("", "") else { return };
    const ROUNDS: u64 = 8;
    let config = json!({"max_instances": 3});
    server.deploy("going", &answers(0), config.clone());
    // It is there; its deletion was sent; that was acknowledged; its making was sent; that was acknowledged, and so on.
    let stage = AtomicU64::new(0);
    let counts = [const { AtomicU64::new(0) }; 4];
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    while stage.load(Ordering::SeqCst) < 4 * ROUNDS {
                        let before = stage.load(Ordering::SeqCst);
                        let reply = server.invoke("going", "");
                        let after = stage.load(Ordering::SeqCst);
                        let seen = match reply.status {
                            200 => reply.text().parse::<u64>().ok(),
                            status => {
                                assert_eq!((status, reply.code().as_str()), (404, "not_found"), "{}", reply.text());
                                None
                            }
                        };
                        // Which stages of the story this answer may come from.
                        let is_possible = (before..=after).any(|stage| match (stage % 4, seen) {
                            (0, Some(made)) => made == stage / 4,
                            (1, Some(made)) => made == stage / 4,
                            (3, Some(made)) => made == stage / 4 + 1,
                            (1..=3, None) => true,
                            _ => false,
                        });
                        assert!(is_possible, "{seen:?} between the stages {before} and {after}");
                        counts[(before % 4) as usize].fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // The callers end by this number, also when the story fails.
        struct End<'a>(&'a AtomicU64);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(4 * ROUNDS, Ordering::SeqCst);
            }
        }
        let end = End(&stage);
        let await_calls = |kind: usize| {
            let goal = counts[kind].load(Ordering::Relaxed) + 20;
            eventually("calls are answered", || (counts[kind].load(Ordering::Relaxed) >= goal).then_some(()));
        };
        for made in 1..=ROUNDS {
            await_calls(0);
            stage.fetch_add(1, Ordering::SeqCst);
            assert_eq!(server.call("DELETE", "/functions/going", "").status, 204);
            stage.fetch_add(1, Ordering::SeqCst);
            await_calls(2);
            stage.fetch_add(1, Ordering::SeqCst);
            server.deploy("going", &answers(made), config.clone());
            stage.fetch_add(1, Ordering::SeqCst);
        }
        drop(end);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
    assert_eq!(server.answer("going", ""), ROUNDS);
}

#[test]
fn no_call_fails_because_of_changes_of_a_config_or_of_two_versions_that_take_turns() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("turning", &answers(0), json!({"max_instances": 3}));
    let judge =
        |reply: &Reply| assert!(reply.status == 200 && ["0", "1"].contains(&reply.text().as_str()), "{reply:?}");
    let config = |round: u64| {
        json!({
            "timeout": 20 + round, "memory": format!("{}Mi", 64 + round), "max_instances": 1 + round % 4,
            "min_instances": round % 2, "environment": {"ROUND": round.to_string()},
        })
    };
    under_load(&server, "turning", judge, |await_calls| {
        for round in 0..24 {
            // The config alone, the code alone, and both at once.
            let body = match round % 3 {
                0 => json!({ "config": config(round) }),
                1 => json!({ "code": answers(round / 3 % 2) }),
                _ => json!({ "code": answers(round / 3 % 2), "config": config(round) }),
            };
            let reply = server.call("PUT", "/functions/turning", &body.to_string());
            assert_eq!(reply.status, 200, "{}", reply.text());
            await_calls(if round % 4 == 0 { 30 } else { 1 });
        }
    });
    let stats = server.stats("turning");
    assert_eq!((&stats["failed"], &stats["refused"]), (&json!(0), &json!(0)), "{stats}");
    let version = server.get("/functions/turning").json()["version"].clone();
    eventually("only instances of the last version are left", || {
        server.instances("turning").iter().all(|it| it["version"] == version).then_some(())
    });
}

#[test]
fn stopping_instances_under_load_fails_no_call() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("steady", &answers(1), json!({"max_instances": 3}));
    let judge = |reply: &Reply| assert_eq!((reply.status, reply.text().as_str()), (200, "1"), "{}", reply.text());
    let stopped = under_load(&server, "steady", judge, |await_calls| {
        let mut stopped = 0;
        while stopped < 20 {
            for instance in server.instances("steady") {
                let path = format!("/instances/{}", instance["id"].as_str().unwrap());
                let status = server.call("DELETE", &path, "").status;
                // It may have gone since, for having been stopped a moment ago.
                assert!(status == 202 || status == 404, "{status}");
                stopped += u32::from(status == 202);
            }
            await_calls(10);
        }
        stopped
    });
    assert!(stopped >= 20);
}

#[test]
fn killing_instances_under_load_fails_only_the_calls_that_they_had_begun() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("victim", &answers(1), json!({"max_instances": 3}));
    let failed = AtomicU64::new(0);
    let judge = |reply: &Reply| {
        if reply.status != 200 {
            assert_eq!((reply.status, reply.code().as_str()), (502, "function_crashed"), "{}", reply.text());
            failed.fetch_add(1, Ordering::Relaxed);
        }
    };
    let killed = under_load(&server, "victim", judge, |await_calls| {
        let mut killed = 0;
        while killed < 20 {
            let instances = server.instances("victim");
            if let Some(instance) = instances.iter().find(|it| it["state"] == "busy" || it["state"] == "idle") {
                if is_alive(instance["pid"].as_i64().unwrap()) {
                    kill_instance(instance);
                    killed += 1;
                }
            }
            await_calls(10);
        }
        killed
    });
    let failed = failed.into_inner();
    assert!(failed <= killed, "{failed} calls failed with {killed} instances, each of which runs one at a time");
    assert_eq!(server.invoke("victim", "").status, 200);
}

#[test]
fn a_killed_zygote_fails_no_call_and_is_replaced() {
    if common::mode::about_processes_alone("no zygote makes containers") {
        return;
    }
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("warm", &answers(1), json!({"max_instances": 2}));
    let judge = |reply: &Reply| assert_eq!((reply.status, reply.text().as_str()), (200, "1"), "{}", reply.text());
    under_load(&server, "warm", judge, |await_calls| {
        for round in 0..4 {
            let zygote = eventually("there is a zygote", || zygote_of(&server));
            kill(Pid::from_raw(zygote), Signal::SIGKILL).unwrap();
            // Beyond the blanks in stock, so that new ones are needed.
            let begun = Instant::now();
            for function in 0..4 {
                let name = format!("cold-{round}-{function}");
                let body = json!({ "name": name, "code": answers(2) }).to_string();
                // Code is looked at in a sandbox, so for a moment that is put off too.
                eventually("a function can be posted", || {
                    let reply = server.post("/functions", &body);
                    let put_off = reply.status == 503 && reply.header("retry-after").is_some();
                    assert!(reply.status == 201 || put_off, "{}", reply.text());
                    (reply.status == 201).then_some(())
                });
                eventually("a cold start works", || (server.invoke(&name, "").status == 200).then_some(()));
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
            await_calls(10);
            assert_ne!(zygote_of(&server), Some(zygote));
        }
    });
    eventually("the dead are buried", || zombies_of(&server).is_empty().then_some(()));
}

fn is_alive(pid: i64) -> bool {
    stat(&pid.to_string()).is_some_and(|(state, _)| state != 'Z')
}

/// State and parent of a process.
fn stat(pid: &str) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The server's children.
fn children_of(server: &Server) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries.filter(|pid| stat(pid).is_some_and(|(_, parent)| parent == server.pid())).collect()
}

fn zygote_of(server: &Server) -> Option<i32> {
    let is_zygote = |pid: &&String| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // An instance is a fork of the zygote with the same command line, but pid 1 of a namespace of its own.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pids =
            status.lines().find(|line| line.starts_with("NSpid:")).map_or(0, |line| line.split('\t').count() - 1);
        String::from_utf8_lossy(&command).contains("zygote.py") && pids == own_depth()
    };
    children_of(server).iter().find(is_zygote)?.parse().ok()
}

/// Namespaces of pids that this process is in, as `NSpid` counts them.
fn own_depth() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find(|line| line.starts_with("NSpid:")).unwrap().split('\t').count() - 1
}

fn zombies_of(server: &Server) -> Vec<String> {
    children_of(server).into_iter().filter(|pid| stat(pid).is_some_and(|(state, _)| state == 'Z')).collect()
}
