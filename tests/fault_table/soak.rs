//! A long time of everything at once: functions that come, change and go, calls of all kinds, clients that leave, instances
//! that are killed or stopped. Between rounds the server is at rest, and must hold what it held after the first.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::common::host::{cgroup_parents, resident_bytes, Holdings};
use super::common::{reset, Server};
use super::scene::kill_if_alive;
use super::table::{sized, Row};

const ROUNDS: u64 = 5;
const MIB: u64 = 1 << 20;
/// What a server's memory may grow by after the first round, in MiB: what an allocator keeps for another day.
const GROWTH_MIB: u64 = 8;

const CODE: &str = "import os\ncache = []\ndef handle(request):\n    text = request.get_text()\n    \
    print('called with', len(text))\n    cache.append(text[:100])\n    \
    if text.startswith('raise'): raise ValueError(text)\n    if text.startswith('exit'): os._exit(3)\n    \
    if text.startswith('sleep'): time.sleep(0.1)\n    if text.startswith('large'): return 'x' * 300_000\n    \
    return len(text)";

/// What one round did.
#[derive(Debug, Default)]
struct Deeds {
    changes: AtomicU64,
    calls: AtomicU64,
    left: AtomicU64,
    killed: AtomicU64,
    stopped: AtomicU64,
    /// Answers that nothing of this explains.
    strange: AtomicU64,
}

impl Deeds {
    fn expect(&self, what: &str, status: u16, allowed: &[u16]) {
        if !allowed.contains(&status) {
            eprintln!("{what}: {status}");
            self.strange.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn name(number: u64) -> String {
    format!("f{}", number % 6)
}

/// Posts, replaces and deletes. Two do it, so that a name may be taken or gone.
fn change(server: &Server, deeds: &Deeds, turn: u64) {
    let name = name(turn * 7);
    let code = format!("# {turn}\n{CODE}");
    let status = match turn % 5 {
        0 | 1 => server.post("/functions", &json!({ "name": name, "code": code }).to_string()).status,
        2 | 3 => server.call("PUT", &format!("/functions/{name}"), &json!({ "code": code }).to_string()).status,
        _ => server.call("DELETE", &format!("/functions/{name}"), "").status,
    };
    deeds.expect("a change", status, &[200, 201, 204, 404, 409]);
    deeds.changes.fetch_add(1, Ordering::Relaxed);
}

fn call(server: &Server, deeds: &Deeds, turn: u64) {
    let name = name(turn);
    let large = "b".repeat(200_000);
    let (body, allowed): (&str, &[u16]) = match turn % 23 {
        0 => ("raise", &[500]),
        1 => ("exit", &[]),
        2 => ("sleep", &[200]),
        3 => ("large", &[200]),
        4 => (&large, &[200]),
        _ => ("hello", &[200]),
    };
    let status = server.invoke(&name, body).status;
    // A function may be gone, its instance killed, and so often that it is not started again for a moment.
    deeds.expect(&body[..body.len().min(5)], status, &[allowed, &[404, 502, 503]].concat());
    match turn % 50 {
        10 => drop(server.get(&format!("/functions/{name}/logs"))),
        20 => drop(server.get("/stats")),
        30 => drop(server.get("/instances")),
        _ => {}
    }
    deeds.calls.fetch_add(1, Ordering::Relaxed);
}

/// Goes away in the middle of a head, of a body, of an answer, or while the call runs.
fn leave(server: &Server, deeds: &Deeds, turn: u64) {
    let mut stream = server.connect();
    let head = format!(
        "POST /invoke/{} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: 5\r\n\r\n",
        name(turn)
    );
    let body = if turn % 2 == 0 { "sleep" } else { "large" };
    let sent = match turn % 4 {
        0 => head[..40].to_owned(),
        1 => format!("{head}sl"),
        _ => format!("{head}{body}"),
    };
    let _ = stream.write_all(sent.as_bytes());
    std::thread::sleep(Duration::from_millis(turn % 30));
    if turn % 3 == 0 {
        reset(stream);
    }
    deeds.left.fetch_add(1, Ordering::Relaxed);
}

fn end_an_instance(server: &Server, deeds: &Deeds, turn: u64) {
    let instances = server.instances(&name(turn));
    if let Some(instance) = instances.get(turn as usize % instances.len().max(1)) {
        if turn % 2 == 0 {
            deeds.killed.fetch_add(u64::from(kill_if_alive(instance)), Ordering::Relaxed);
        } else {
            let path = format!("/instances/{}", instance["id"].as_str().unwrap());
            deeds.expect("a stop", server.call("DELETE", &path, "").status, &[202, 404]);
            deeds.stopped.fetch_add(1, Ordering::Relaxed);
        }
    }
    std::thread::sleep(Duration::from_millis(100));
}

/// Everything at once for a while; then everybody goes, and all functions with them.
fn churn(server: &Server, deeds: &Deeds, lasts: Duration, first: u64) {
    let (over, begun) = (AtomicBool::new(false), Instant::now());
    let repeat = |act: fn(&Server, &Deeds, u64), begin: u64| {
        for turn in begin.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            act(server, deeds, turn);
        }
    };
    std::thread::scope(|scope| {
        for person in 0..4 {
            scope.spawn(move || repeat(call, first + person * 1_000_003));
        }
        for person in 0..2 {
            scope.spawn(move || repeat(change, first + person * 1_000_003));
        }
        scope.spawn(|| repeat(leave, first));
        scope.spawn(|| repeat(end_an_instance, first));
        while begun.elapsed() < lasts {
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
    });
    for number in 0..6 {
        let status = server.call("DELETE", &format!("/functions/{}", name(number)), "").status;
        deeds.expect("the last deletion", status, &[204, 404]);
    }
}

#[test]
fn a_long_time_of_everything_leaves_nothing_behind() {
    let Some(mut row) = Row::of("a soak with churn") else { return };
    let server = Server::with("pool_size: 4", "");
    let parents = cgroup_parents(&server);
    let lasts = sized(Duration::from_secs(120), Duration::from_secs(3));
    let deeds = Deeds::default();
    let mut rests = Vec::new();
    for round in 0..ROUNDS {
        churn(&server, &deeds, lasts, round * 10_000_019);
        let holdings = Holdings::at_rest(&server, &parents);
        rests.push((holdings, resident_bytes(server.pid()) / MIB));
    }
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    row.note(format!(
        "{} changes, {} calls, {} clients left, {} instances killed, {} stopped",
        count(&deeds.changes),
        count(&deeds.calls),
        count(&deeds.left),
        count(&deeds.killed),
        count(&deeds.stopped)
    ));
    row.exactly("answers that nothing explains", count(&deeds.strange), 0);
    let ((first, memory), (last, memory_last)) = (&rests[0], &rests[rests.len() - 1]);
    row.exactly("processes", last.processes as u64, first.processes as u64);
    row.exactly("descriptors", last.descriptors as u64, first.descriptors as u64);
    row.exactly("threads", last.threads.parse().unwrap(), first.threads.parse().unwrap());
    row.exactly("cgroups", last.cgroups as u64, first.cgroups as u64);
    row.exactly("mounts", last.mounts as u64, first.mounts as u64);
    let all: Vec<_> = rests.iter().map(|(_, memory)| memory.to_string()).collect();
    row.note(format!("memory after each round: {} MiB", all.join(", ")));
    row.at_most("memory, MiB", *memory_last, memory + GROWTH_MIB);
    row.holds("no panic", !server.home.log().contains("panicked"));
    row.end();
}
