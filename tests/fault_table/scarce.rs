//! A host that runs out: of descriptors, of processes, of memory.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::common::host::{cgroup_parents, zombies, zygotes};
use super::common::injection::{can_inject, threads_of, Fault, Injection};
use super::common::{eventually, patience, prepared, Home, Reply, Server};
use super::load::invoke;
use super::scene::{note_troubles, Scene, BUSY, QUICK};
use super::table::{sized, slackened, Row};

/// The longest pause until another instance is tried.
const RETRY: Duration = faas::limits::START_BACKOFF_MAX;

#[test]
fn a_server_out_of_descriptors_rests_and_recovers() {
    let Some(mut row) = Row::of("`ulimit -n 64` and 1,000 connections") else { return };
    // This process holds the other ends.
    let own = std::process::id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &own, "--nofile=4096:"]).status().unwrap().success());
    let home = Home::with("pool_size: 1", "");
    let mut command = Command::new("prlimit");
    command.args(["--nofile=64:64", env!("CARGO_BIN_EXE_faas")]);
    let command = prepared(&home, command);
    let server = Server::launch(home, command);
    server.deploy("f", QUICK, json!({ "max_instances": 1 }));
    assert_eq!(server.invoke("f", "").status, 200);
    let before = server.connect();
    assert_eq!(call_on(&before).status, 200);
    // More than are accepted wait in the listener's queue.
    let crowd: Vec<_> = (0..1000).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    eventually("it has run out", || server.home.log().contains("no connection can be accepted").then_some(()));
    let (begun, used) = (Instant::now(), front_cpu(&server));
    std::thread::sleep(sized(Duration::from_secs(10), Duration::from_secs(2)));
    let cpu = (front_cpu(&server) - used).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    row.percent_at_most("processor time of the front thread", cpu, 10.0);
    row.holds("a connection from before is answered", call_on(&before).status == 200);
    let left = Instant::now();
    drop(crowd);
    while try_invoke(&server, "f").is_none_or(|reply| reply.status != 200) {
        assert!(left.elapsed() < patience(), "it does not recover: {}", server.home.log());
    }
    row.within("a new connection is answered again", left.elapsed(), Duration::from_secs(1));
    server.deploy("cold", QUICK, json!({}));
    eventually("a cold start works", || (server.invoke("cold", "").status == 200).then_some(()));
    row.within("a cold start works again", left.elapsed(), RETRY + Duration::from_secs(1));
    let buried = Instant::now();
    while !zombies(server.pid()).is_empty() && buried.elapsed() < slackened(Duration::from_secs(1)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    row.exactly("zombies", zombies(server.pid()).len() as u64, 0);
    row.exactly("panics", panics(&server), 0);
    row.end();
}

/// Calls on a connection that stays open.
fn call_on(mut stream: &TcpStream) -> Reply {
    use std::io::Write;
    stream.write_all(&invoke("f", "")).unwrap();
    Reply::read(&mut std::io::BufReader::new(stream), false)
}

/// Calls on a connection of its own, which may be closed without an answer.
fn try_invoke(server: &Server, name: &str) -> Option<Reply> {
    use std::io::Write;
    let mut stream = TcpStream::connect(server.address).ok()?;
    stream.set_read_timeout(Some(slackened(Duration::from_millis(500)))).unwrap();
    stream.write_all(&invoke(name, "")).ok()?;
    let mut peeked = [0];
    (stream.peek(&mut peeked).ok()? > 0).then(|| Reply::read(&mut std::io::BufReader::new(stream), false))
}

/// The processor time that the front thread, which is the main one, has used.
fn front_cpu(server: &Server) -> Duration {
    let pid = server.pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).unwrap();
    let mut fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11);
    let mut ticks = || fields.next().unwrap().parse::<u32>().unwrap();
    Duration::from_secs(1) / 100 * (ticks() + ticks())
}

fn panics(server: &Server) -> u64 {
    server.home.log().matches("panicked").count() as u64
}

#[test]
fn when_no_process_can_be_made_cold_calls_are_told_so_and_warm_ones_go_on() {
    let Some(mut row) = Row::of("fork fails (EAGAIN: no more processes below the server's cgroup)") else { return };
    starved(&mut row, NoMoreProcesses::below);
    row.end();
}

#[test]
fn when_there_is_no_memory_for_a_process_cold_calls_are_told_so_and_warm_ones_go_on() {
    if !can_inject() {
        return;
    }
    let Some(mut row) = Row::of("fork fails (ENOMEM, in the zygote)") else { return };
    starved(&mut row, |server| {
        let zygote = eventually("there is a zygote", || zygotes(server.pid()).first().copied());
        Injection::into(&[zygote], &[Fault::of("/^(clone3?|v?fork)$", "ENOMEM")])
    });
    row.end();
}

#[test]
fn when_there_is_no_memory_for_a_cgroup_cold_calls_are_told_so_and_warm_ones_go_on() {
    if !can_inject() {
        return;
    }
    let Some(mut row) = Row::of("memory fails (ENOMEM for a blank's cgroup)") else { return };
    let fault = Fault::of("/^mkdir", "ENOMEM");
    starved(&mut row, |server| Injection::into(&threads_of(server, "faas-supervisor"), &[fault]));
    row.end();
}

/// The group above those of all instances may have no more processes, until this is dropped.
struct NoMoreProcesses(PathBuf);

impl NoMoreProcesses {
    fn below(server: &Server) -> NoMoreProcesses {
        let mut files = cgroup_parents(server).into_iter().map(|parent| parent.join("pids.max"));
        let file = files.find(|file| file.exists()).expect("a group that counts processes");
        std::fs::write(&file, "0").unwrap();
        NoMoreProcesses(file)
    }
}

impl Drop for NoMoreProcesses {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, "max");
    }
}

/// What becomes of cold calls, and of warm ones, from when the host is starved of something until what that gives is
/// dropped.
fn starved<T>(row: &mut Row, starve: impl FnOnce(&Server) -> T) {
    const DEADLINE: Duration = Duration::from_secs(5);
    let scene = Scene::set(row, "pool_size: 2", BUSY, 4);
    let server = &scene.server;
    let names: Vec<_> = (0..4).map(|number| format!("cold-{number}")).collect();
    for name in &names {
        server.deploy(name, QUICK, json!({ "timeout": "5s" }));
    }
    let load = scene.load();
    let starvation = starve(server);
    let begun = Instant::now();
    let (mut good, mut put_off, mut other, mut slowest) = (0, 0, Vec::new(), Duration::ZERO);
    while begun.elapsed() < sized(Duration::from_secs(20), Duration::from_secs(2)) {
        for name in &names {
            let called = Instant::now();
            let reply = server.invoke(name, "");
            slowest = slowest.max(called.elapsed());
            match reply.status {
                // The pool had something left.
                200 => good += 1,
                503 if reply.header("retry-after").is_some() => put_off += 1,
                status => other.push(format!("{status} {}", reply.text())),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let body = json!({ "name": "new", "code": QUICK }).to_string();
    let posted = server.post("/functions", &body);
    drop(starvation);
    let lifted = Instant::now();
    for name in &names {
        eventually("cold calls work again", || (server.invoke(name, "").status == 200).then_some(()));
    }
    row.within("cold calls work again", lifted.elapsed(), RETRY + Duration::from_secs(1));
    let account = load.stop();
    row.note(format!("cold calls: {good} answered, {put_off} told to try again"));
    row.exactly("told anything else", other.len() as u64, 0);
    other.iter().take(3).for_each(|answer| row.note(answer));
    row.holds("some were told so", put_off > 0);
    row.within("slowest of them, with a deadline of 5 s", slowest, DEADLINE + Duration::from_millis(250));
    let said = (posted.status, posted.header("retry-after").is_some());
    row.holds("a new function is put off in the same way", said == (503, true));
    row.exactly("failed warm requests", account.failed(), 0);
    row.exactly("panics", panics(server), 0);
    note_troubles(row, &account);
}
