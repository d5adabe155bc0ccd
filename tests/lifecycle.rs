//! From start to stop: draining, the second signal, the end of zygotes, and that nothing piles up meanwhile.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use common::host::{cgroup_parents, cgroups_in, descendants, is_alive, status, zombies, zygotes, Holdings};
use common::{eventually, in_time, is_root, skip, slowed, Home, Reply, Server};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

/// Says that it has begun, in its log, and answers after as many seconds as the body says.
const SLOW: &str = "def handle(request):\n    print('begun')\n    time.sleep(float(request.body))\n    return 'done'";

fn server(system: &str) -> Option<Server> {
    if !is_root() {
        skip("process mode at level strict needs root");
        return None;
    }
    Some(Server::with(system, ""))
}

/// A call of that function, as bytes.
fn request(seconds: &str) -> String {
    let fields = format!("Host: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: {}", seconds.len());
    format!("POST /invoke/slow HTTP/1.1\r\n{fields}\r\n\r\n{seconds}")
}

/// Waits until so many calls of the function run.
fn await_running(server: &Server, name: &str, count: u64) {
    eventually("calls that run", || {
        (server.get(&format!("/functions/{name}")).json()["instances"]["busy"] == count).then_some(())
    });
}

/// What a server held, to be looked for after its end.
struct Left {
    processes: Vec<u32>,
    cgroups: Vec<PathBuf>,
}

impl Left {
    fn by(server: &Server) -> Left {
        Left { cgroups: cgroup_parents(server), processes: descendants(server.pid()) }
    }

    fn assert_nothing(&self) {
        let alive: Vec<_> = self.processes.iter().filter(|pid| is_alive(**pid)).collect();
        assert!(alive.is_empty(), "processes are left: {alive:?}");
        assert_eq!(cgroups_in(&self.cgroups), 0);
        assert!(!self.cgroups.iter().any(|group| group.exists()), "{:?} are left", self.cgroups);
    }
}

/// Ends a server by signals while a function runs for so many seconds: what the client got, if anything, how the server
/// ended, and how long after the first signal.
fn stop_during_a_call(server: Server, seconds: u32, signals: &[Signal]) -> (Option<Reply>, Home, ExitStatus, Duration) {
    server.deploy("slow", SLOW, json!({}));
    let request = request(&seconds.to_string());
    let (answer, started) = std::thread::scope(|scope| {
        let call = scope.spawn(|| server.raw(request.as_bytes()));
        await_running(&server, "slow", 1);
        let started = Instant::now();
        for signal in signals {
            server.signal(*signal);
            // Two signals that are both pending may be read in any order.
            eventually("the server to hear it", || server.home.log().contains("finishing what was sent").then_some(()));
        }
        (call.join().unwrap(), started)
    });
    let reply = (!answer.is_empty()).then(|| Reply::parse(&answer, false));
    let (home, status) = server.ended();
    (reply, home, status, started.elapsed())
}

#[test]
fn calls_that_run_at_the_signal_are_answered_and_new_connections_are_refused() {
    let Some(server) = server("pool_size: 2") else { return };
    server.deploy("slow", SLOW, json!({ "max_instances": 4 }));
    let left = Left::by(&server);
    let mut idle = server.connect();
    // Long enough for the last to begin before the first is done.
    let seconds = slowed(Duration::from_secs(5)).as_secs_f64().to_string();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| server.post("/invoke/slow", &seconds))).collect();
        await_running(&server, "slow", 4);
        server.signal(Signal::SIGTERM);
        eventually("the server to stop listening", || TcpStream::connect(server.address).err());
        for call in calls {
            let reply = call.join().unwrap();
            assert_eq!((reply.status, reply.text().as_str()), (200, "\"done\""));
        }
    });
    // A connection that waits for nothing is closed.
    let _ = idle.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n");
    let _ = std::io::Read::read_to_end(&mut idle, &mut Vec::new());
    let (home, status) = server.ended();
    assert_eq!(status.code(), Some(0), "{}", home.log());
    left.assert_nothing();
}

#[test]
fn a_call_longer_than_the_shutdown_grace_is_cut_with_503_and_the_server_ends_within_a_second() {
    in_time(Duration::from_secs(2)..Duration::from_secs(3), || {
        let server = server("pool_size: 2\nshutdown_grace: 2")?;
        let left = Left::by(&server);
        let (reply, home, status, took) = stop_during_a_call(server, 60, &[Signal::SIGTERM]);
        let reply = reply.expect("an answer");
        assert_eq!((reply.status, reply.code().as_str()), (503, "shutting_down"));
        assert_eq!(status.code(), Some(0), "{}", home.log());
        left.assert_nothing();
        Some(took)
    });
}

#[test]
fn a_second_signal_stops_at_once() {
    // Not even the linger is waited for.
    in_time(Duration::ZERO..Duration::from_secs(1), || {
        let server = server("pool_size: 2\nshutdown_grace: 3600")?;
        let left = Left::by(&server);
        let (reply, home, status, took) = stop_during_a_call(server, 3000, &[Signal::SIGTERM, Signal::SIGINT]);
        assert!(reply.is_none_or(|reply| reply.status == 503));
        assert_eq!(status.code(), Some(0), "{}", home.log());
        assert!(home.log().contains("second signal"), "{}", home.log());
        left.assert_nothing();
        Some(took)
    });
}

#[test]
fn thousands_of_calls_and_hundreds_of_functions_leave_nothing_behind() {
    let Some(server) = server("pool_size: 2") else { return };
    let groups = cgroup_parents(&server);
    let resident_kb = || status(server.pid())["VmRSS"].trim_end_matches(" kB").parse::<u64>().unwrap();
    let calls = |count: usize| {
        for number in 0..count {
            let reply = server.post("/invoke/stays", &number.to_string());
            assert_eq!((reply.status, reply.text()), (200, number.to_string()));
        }
    };
    let cycle = |number: usize| {
        let name = format!("comes-and-goes-{number}");
        server.deploy(&name, "def handle(request):\n    print('here')\n    return 1", json!({}));
        assert_eq!(server.post(&format!("/invoke/{name}"), "").status, 200);
        assert_eq!(server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
    };
    server.deploy("stays", "def handle(request):\n    return request.get_json()", json!({}));
    // Caches and arenas fill first.
    calls(200);
    (0..20).for_each(cycle);
    let before = Holdings::at_rest(&server, &groups);
    let resident_before_kb = resident_kb();
    calls(2000);
    (20..220).for_each(cycle);
    before.await_again(&server, &groups, "all of it");
    let grown_kb = resident_kb().saturating_sub(resident_before_kb);
    // 2,200 leaks of 4 kB would be more than that.
    assert!(grown_kb < 6 << 10, "the server has grown by {grown_kb} kB");
    assert_eq!(server.get("/functions").json()["count"], 1);
    // Those of a log go behind the answer to the deletion.
    eventually("fewer than 40 files in the state directory", || (walk(&server.home.state()) < 40).then_some(()));
}

fn walk(directory: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_zygote_that_is_killed_is_replaced_and_leaves_no_zombie() {
    let Some(server) = server("pool_size: 2") else { return };
    server.deploy("warm", "def handle(request):\n    return 'warm'", json!({ "min_instances": 1 }));
    assert_eq!(server.post("/invoke/warm", "").status, 200);
    let groups = cgroup_parents(&server);
    let before = Holdings::at_rest(&server, &groups);
    let mut last = 0;
    for round in 0..20 {
        let zygote = eventually("a zygote", || zygotes(server.pid()).into_iter().find(|&pid| pid != last));
        kill(Pid::from_raw(zygote as i32), Signal::SIGKILL).unwrap();
        last = zygote;
        assert_eq!(server.post("/invoke/warm", "").text(), "\"warm\"", "a warm call does not need a zygote");
        // Cold ones do: half the rounds kill it while it makes blanks.
        let name = format!("cold{round}");
        server.deploy(&name, "def handle(request):\n    return 'cold'", json!({}));
        if round % 2 == 0 {
            assert_eq!(server.post(&format!("/invoke/{name}"), "").text(), "\"cold\"");
        }
        assert_eq!(server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
    }
    assert!(is_alive(eventually("a zygote", || zygotes(server.pid()).into_iter().find(|&pid| pid != last))));
    before.await_again(&server, &groups, "20 zygotes");
    assert_eq!(zombies(server.pid()), Vec::<u32>::new());
}

#[test]
fn a_zygote_that_is_killed_while_it_forks_leaves_no_zombie() {
    let Some(server) = server("pool_size: 16") else { return };
    let groups = cgroup_parents(&server);
    let before = Holdings::at_rest(&server, &groups);
    for _ in 0..20 {
        // Takes the whole pool away, so that the zygote has blanks to make, and kills it in the midst of that.
        // One that has not begun to fork would be replaced after ever longer pauses, and that is another matter.
        let (zygote, others) = eventually("a zygote at work", || {
            let zygote = *zygotes(server.pid()).first()?;
            let others: Vec<u32> = descendants(server.pid()).into_iter().filter(|pid| *pid != zygote).collect();
            (others.len() > 2).then_some((zygote, others))
        });
        for pid in others.into_iter().chain([zygote]) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
    before.await_again(&server, &groups, "20 zygotes");
    assert_eq!(zombies(server.pid()), Vec::<u32>::new());
    server.deploy("after", "def handle(request):\n    return 1", json!({}));
    assert_eq!(server.post("/invoke/after", "").text(), "1");
}

#[test]
fn the_end_of_a_client_is_no_leak() {
    let Some(server) = server("pool_size: 2") else { return };
    server.deploy("slow", SLOW, json!({ "max_instances": 1 }));
    assert_eq!(server.post("/invoke/slow", "0").status, 200);
    let groups = cgroup_parents(&server);
    let before = Holdings::at_rest(&server, &groups);
    for _ in 0..50 {
        let mut client = server.connect();
        client.write_all(request("0.01").as_bytes()).unwrap();
    }
    before.await_again(&server, &groups, "the end of all connections");
    assert_eq!(server.post("/invoke/slow", "0").status, 200);
}
