//! One server takes over from another: nothing is lost, nothing is refused, and either may die on the way.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "takeover/kept.rs"]
mod kept;
#[path = "takeover/load.rs"]
mod load;
#[path = "takeover/signals.rs"]
mod signals;
#[path = "takeover/strangers.rs"]
mod strangers;

use std::io::{BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::functions::sandboxed;
use common::host::{cgroup_parents, descendants, is_alive};
use common::{command, eventually, Home, Reply, Server};
use faas::takeover::socket;
use load::under_load;
use nix::sys::signal::Signal;
use serde_json::json;

const ANSWERS: &str = "def handle(request):\n    return 1";

/// The command of a server that takes over.
fn successor_command(home: &Home) -> Command {
    let mut command = command(home);
    command.arg("--takeover");
    command
}

/// Starts a server that takes over, and waits until it serves and the other has ended.
fn succeed(old: Server) -> Server {
    let new = Server::launch(old.home.clone(), successor_command(&old.home));
    let (_, status) = old.ended();
    assert_eq!(status.code(), Some(0), "{}", new.home.log());
    new
}

/// Starts a server that must not take over, and gives what it says.
fn refusal(home: &Home, mut command: Command) -> String {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}\n{}", home.log());
    said
}

/// Whether all that a server had is gone from this host.
fn await_nothing_left(groups: &[std::path::PathBuf], processes: &[u32]) {
    eventually("its cgroups are gone", || (!groups.iter().any(|group| group.exists())).then_some(()));
    eventually("its processes are gone", || (!processes.iter().any(|&pid| is_alive(pid))).then_some(()));
}

/// Whether somebody serves at this address.
fn is_answered(address: std::net::SocketAddr) -> bool {
    let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
    let mut answer = Vec::new();
    let asked = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_to_end(&mut answer)).is_ok_and(|length| length > 0)
}

/// What held changes up, by the server's own log, in milliseconds.
fn held_ms(home: &Home) -> Vec<f64> {
    let log = home.log();
    let lines = log.lines().filter_map(|line| line.split_once("changes of functions have waited for "));
    lines.map(|(_, rest)| rest.trim_end_matches(" ms").parse().unwrap()).collect()
}

#[test]
fn under_load_six_takeovers_in_a_row_fail_no_request_and_close_no_connection() {
    let Some(mut server) = sandboxed("", "") else { return };
    server.deploy("steady", ANSWERS, json!({"min_instances": 1, "max_instances": 3}));
    let address = server.address;
    let (seen, server) = under_load(address, "steady", "1", |seen| {
        for _ in 0..6 {
            let (groups, processes) = (cgroup_parents(&server), descendants(server.pid()));
            let before = server.pid();
            server = succeed(server);
            assert!(server.pid() != before && server.address == address, "another process at the same address");
            await_nothing_left(&groups, &processes);
            assert_ne!(cgroup_parents(&server), groups, "the two sides take turns");
            seen.await_calls(100);
        }
        server
    });
    let failures = seen.failures.into_inner().unwrap();
    let calls = seen.answered.into_inner();
    assert!(failures.is_empty(), "{} of {calls} calls: {:?}", failures.len(), &failures[..failures.len().min(5)]);
    println!("{calls} calls over 6 takeovers, none failed; changes waited for {:?} ms", held_ms(&server.home));
    let stats = server.stats("steady");
    assert!(stats["invocations"].as_u64().is_none_or(|count| count < calls), "counters begin anew: {stats}");
}

#[test]
fn min_instances_and_blanks_are_there_when_the_successor_begins_to_serve() {
    let Some(server) = sandboxed("", "") else { return };
    for number in 0..3 {
        server.deploy(&format!("warm{number}"), ANSWERS, json!({"min_instances": 2}));
    }
    server.deploy("cold", ANSWERS, json!({}));
    let server = succeed(server);
    for number in 0..3 {
        let name = format!("warm{number}");
        assert!(server.instances(&name).iter().filter(|it| it["state"] == "idle").count() >= 2, "{name}");
        let reply = server.invoke(&name, "");
        assert_eq!((reply.status, reply.header("x-faas-cold-start")), (200, Some("false")), "{}", reply.text());
    }
    assert_eq!(server.answer("cold", ""), 1);
}

#[test]
fn what_was_begun_is_finished_and_its_connection_goes_on_in_the_successor() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy(
        "slow",
        "def handle(request):\n    time.sleep(float(request.get_text()))\n    return 'done'",
        json!({}),
    );
    let head = |length: usize| {
        format!(
            "POST /invoke/slow HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    // One call that runs, one whose body is not whole, one whose head is not, one connection without a word.
    let [mut running, mut receiving, mut beginning, mut silent] = [(); 4].map(|()| server.connect());
    // Longer than a start of the successor takes.
    running.write_all((head(1) + "8").as_bytes()).unwrap();
    receiving.write_all((head(3) + "0").as_bytes()).unwrap();
    let whole = head(1) + "0";
    let (first, rest) = whole.split_at(30);
    beginning.write_all(first.as_bytes()).unwrap();
    silent.write_all(b"").unwrap();
    server.await_load("slow", 1, 0);
    let old_pid = server.pid();
    let new = Server::launch(server.home.clone(), successor_command(&server.home));
    assert!(is_alive(old_pid), "it has a call to finish");
    receiving.write_all(b".1").unwrap();
    beginning.write_all(rest.as_bytes()).unwrap();
    silent.write_all((head(1) + "0").as_bytes()).unwrap();
    for stream in [running, receiving, beginning, silent] {
        let (mut writing, mut reading) = (stream.try_clone().unwrap(), BufReader::new(stream));
        assert_eq!(Reply::read(&mut reading, false).text(), "\"done\"");
        writing.write_all((head(1) + "0").as_bytes()).unwrap();
        let reply = Reply::read(&mut reading, false);
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("\"done\"", None), "it stays open");
    }
    assert_eq!(server.ended().1.code(), Some(0));
    assert_eq!(new.stats("slow")["failed"], 0);
}

#[test]
fn a_successor_killed_at_any_moment_before_it_serves_changes_nothing() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("steady", ANSWERS, json!({"min_instances": 1, "max_instances": 3}));
    let address = server.address;
    let mut killed = 0;
    let (seen, mut server) = under_load(address, "steady", "1", |_| {
        // From its first step to its last before it serves; the first that came to serve ends this. Close together at
        // first, so that there are some on a fast machine, and further apart on one that needs a second for a start.
        for turn in 0_u64.. {
            let mut child = successor_command(&server.home).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(turn * (turn + 1) * 2));
            let has_taken_over = server.home.log().contains("serves from now on");
            if has_taken_over {
                let mut first = [0; 4];
                child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
                let pid = child.id();
                return (server, Some((child, pid)));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            // It may have been told in the moment between: then the service has died with it, as it does anywhere.
            if server.home.log().contains("serves from now on") || !is_answered(address) {
                return (server, None);
            }
            server.deploy(&format!("after{killed}"), ANSWERS, json!({}));
        }
        unreachable!()
    });
    if let Some((mut child, pid)) = server.1.take() {
        let failures = seen.failures.into_inner().unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        println!("{killed} successors killed, {} calls, none failed", seen.answered.into_inner());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }
    assert!(killed >= 3, "{killed}");
    let (home, _) = server.0.ended();
    let server = Server::on(home);
    for number in 1..killed {
        assert_eq!(server.answer(&format!("after{number}"), ""), 1);
    }
}

#[test]
fn a_server_that_is_killed_while_its_successor_prepares_is_replaced_and_refuses_nobody() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("kept", ANSWERS, json!({"min_instances": 1}));
    let (address, groups, processes) = (server.address, cgroup_parents(&server), descendants(server.pid()));
    let home = server.home.clone();
    std::thread::scope(|scope| {
        let launched = scope.spawn(|| Server::launch(home.clone(), successor_command(&home)));
        // It has the listener by then.
        eventually("it prepares itself", || home.log().contains("taking over from process").then_some(()));
        server.signal(Signal::SIGKILL);
        let (_, status) = server.ended();
        assert_eq!(status.code(), None);
        let new = launched.join().unwrap();
        assert_eq!(new.address, address);
        assert_eq!(new.answer("kept", ""), 1);
        new.deploy("after", ANSWERS, json!({}));
        await_nothing_left(&groups, &processes);
        home.await_words("starting as after a crash");
    });
}

#[test]
fn a_server_that_is_killed_while_it_finishes_its_calls_costs_those_alone_and_leaves_nothing() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("slow", "def handle(request):\n    time.sleep(20)\n    return 1", json!({"max_instances": 1}));
    server.deploy("steady", ANSWERS, json!({"min_instances": 1}));
    let (address, groups) = (server.address, cgroup_parents(&server));
    let mut stream = server.connect();
    let request =
        "POST /invoke/slow HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    server.await_load("slow", 1, 0);
    let new = Server::launch(server.home.clone(), successor_command(&server.home));
    let processes = descendants(server.pid());
    let (seen, ()) = under_load(address, "steady", "1", |seen| {
        server.signal(Signal::SIGKILL);
        let (_, status) = server.ended();
        assert_eq!(status.code(), None);
        seen.await_calls(100);
    });
    assert_eq!(seen.failures.into_inner().unwrap(), Vec::<String>::new());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "its call died with it");
    await_nothing_left(&groups, &processes);
    let (home, status) = succeed(new).end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{}", home.log());
}

#[test]
fn a_successor_that_cannot_start_changes_nothing_and_says_why() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("steady", ANSWERS, json!({}));
    let sound = std::fs::read_to_string(server.home.path().join("faas.yaml")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (from, to, says) in [
        ("pool_size: 2", "pool_sise: 2", "did you mean pool_size"),
        ("pool_size: 2", "python: /no/such/python", "/no/such/python"),
        ("api_gateway_port: 0", &format!("api_gateway_port: {port}") as &str, "cannot listen"),
        ("pool_size: 2", "sandbox_uid_base: 1999950000", "user ids"),
    ] {
        assert!(sound.contains(from));
        std::fs::write(server.home.path().join("faas.yaml"), sound.replace(from, to)).unwrap();
        let said = refusal(&server.home, successor_command(&server.home));
        assert!(said.contains(says), "{to}: {said}");
        assert_eq!(server.answer("steady", ""), 1);
        server.deploy(&format!("after{}", says.len()), ANSWERS, json!({}));
    }
    std::fs::write(server.home.path().join("faas.yaml"), sound).unwrap();
    assert_eq!(succeed(server).answer("steady", ""), 1);
}

#[test]
fn a_new_configuration_may_change_everything_also_the_port() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("steady", ANSWERS, json!({}));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = server.home.path().join("faas.yaml");
    let config = std::fs::read_to_string(&path).unwrap();
    let declared = "functions:\n  declared:\n    code: |\n      def handle(request):\n          return 'declared'\n";
    let config = config.replace("api_gateway_port: 0", &format!("api_gateway_port: {free}"));
    std::fs::write(&path, config.replace("pool_size: 2", "pool_size: 1\n  max_concurrent_functions: 5") + declared)
        .unwrap();
    let old = server.address;
    let mut kept = server.connect();
    let new = succeed(server);
    assert_eq!(new.address.port(), free);
    assert_eq!(new.answer("steady", ""), 1);
    assert_eq!(new.answer("declared", ""), "declared");
    assert!(std::net::TcpStream::connect(old).is_err(), "nobody listens at the old address");
    let request = "GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    kept.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    kept.read_to_end(&mut answer).unwrap();
    assert_eq!(Reply::parse(&answer, false).status, 200, "who was connected there is served");
}

#[test]
fn a_reload_while_the_successor_prepares_is_the_old_servers_and_in_force_in_the_new_one() {
    let Some(server) = sandboxed("", "") else { return };
    // What the successor needs some time to have warm.
    let slow = "import time\ntime.sleep(6)\ndef handle(request):\n    return len(request.body)";
    server.deploy("slow", slow, json!({"min_instances": 1}));
    let home = server.home.clone();
    let new = std::thread::scope(|scope| {
        let new = scope.spawn(|| Server::launch(home.clone(), successor_command(&home)));
        // It has read its configuration by then.
        let announced = |line: &str| line.split_once("wants to take over").map(|(before, _)| before.to_owned());
        let said = eventually("it knocks", || home.log().lines().find_map(announced));
        let mut words = said.split_whitespace().skip_while(|word| *word != "process");
        let pid: i32 = words.nth(1).unwrap().parse().unwrap();
        let path = home.path().join("faas.yaml");
        let declared = "limits:\n  max_request_body: 1Ki\n\
                        functions:\n  declared:\n    code: |\n      def handle(request):\n          return 1\n";
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + declared).unwrap();
        // The signal may reach both, from who tells all processes of this name.
        eventually("its signals are its own", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
            (u64::from_str_radix(blocked.trim(), 16).unwrap() & 1 == 1).then_some(())
        });
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGHUP).unwrap();
        eventually("it hears it", || home.log().contains("SIGHUP: the configuration will be read again").then_some(()));
        std::thread::sleep(Duration::from_millis(500));
        let reply = server.send("POST", "/admin/reload", &[("Authorization", "Bearer admin-key")], b"");
        assert_eq!(reply.json()["changed"], json!(["limits.max_request_body", "functions.declared"]));
        assert_eq!(reply.json()["deployed"], json!([{"name": "declared", "version": 1}]), "{}", home.log());
        let (_, status) = server.ended();
        assert_eq!(status.code(), Some(0), "{}", home.log());
        new.join().unwrap()
    });
    let large = "x".repeat(2000);
    eventually("the new limit rules", || (new.post("/invoke/slow", &large).status == 413).then_some(()));
    assert_eq!(new.answer("declared", ""), 1);
}

#[test]
fn without_a_server_that_runs_takeover_starts_one_and_says_so() {
    if !common::is_root() {
        return common::skip("process mode at level strict needs root");
    }
    let home = Home::with("pool_size: 1", "");
    let server = Server::launch(home.clone(), successor_command(&home));
    home.await_words("without taking over");
    // After a kill the socket is there, and nobody listens at it.
    let (home, _) = server.end(Signal::SIGKILL);
    let server = Server::launch(home.clone(), successor_command(&home));
    assert_eq!(server.get("/health").status, 200);
    let said = refusal(&home, command(&home));
    assert!(said.contains("--takeover") && said.contains(&server.pid().to_string()), "{said}");
    // As one of a release that knew no takeover.
    std::fs::remove_file(socket::path(&home.state())).unwrap();
    let said = refusal(&home, successor_command(&home));
    assert!(said.contains("cannot be asked") && said.contains(&server.pid().to_string()), "{said}");
    let (home, _) = server.end(Signal::SIGTERM);
    assert!(!socket::path(&home.state()).exists(), "a server that stops leaves no socket");
}

#[test]
fn sigusr2_starts_the_same_program_anew_and_a_start_that_fails_changes_nothing() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("steady", ANSWERS, json!({"min_instances": 1}));
    let path = server.home.path().join("faas.yaml");
    let sound = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, "nonsense: 1").unwrap();
    server.signal(Signal::SIGUSR2);
    eventually("it is said", || server.home.log().contains("did not take over").then_some(()));
    assert_eq!(server.answer("steady", ""), 1);
    std::fs::write(&path, sound).unwrap();
    let address = server.address;
    let home = server.home.clone();
    let (seen, ()) = under_load(address, "steady", "1", |seen| {
        server.signal(Signal::SIGUSR2);
        let (_, status) = server.ended();
        assert_eq!(status.code(), Some(0), "{}", home.log());
        seen.await_calls(100);
    });
    assert_eq!(seen.failures.into_inner().unwrap(), Vec::<String>::new(), "{}", home.log());
    // The new one is nobody's child here: its process id is in the lock.
    let pid: i32 = std::fs::read_to_string(home.state().join("lock")).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    eventually("it has ended", || (!is_alive(pid as u32)).then_some(()));
}
