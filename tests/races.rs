//! What must hold when things happen at the same time, or fail half way: nothing is lost, nobody waits for ever.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use common::{eventually, is_root, skip, Home, Server};
use serde_json::json;

const NEEDS_ROOT: &str = "process mode at level strict needs root";

/// Reads until so many answers have come, all with this status, on a connection that stays open.
fn read_answers(stream: &mut TcpStream, wanted: usize, status: &str) {
    let mut lines = BufReader::new(stream).split(b'\n');
    let mut seen = 0;
    while seen < wanted {
        let line = lines.next().unwrap_or_else(|| panic!("closed after {seen} answers"));
        let line = line.unwrap_or_else(|error| panic!("{error} after {seen} answers"));
        // An answer's body has no line feed, so the next one's first line may follow it.
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some((_, rest)) = line.split_once("HTTP/1.1 ") {
            assert!(rest.starts_with(status), "{line}");
            seen += 1;
        }
    }
}

#[test]
fn more_pipelined_requests_than_a_connection_may_hold_are_all_answered() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    // Three times what is held for a connection, so that reading pauses again and again.
    let requests = 4000;
    let mut stream = server.connect();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let request = b"GET /functions?limit=1 HTTP/1.1\r\nHost: test\r\n\r\n";
        writer.write_all(&request.repeat(requests)).unwrap();
    });
    // The connection stays open and silent: nothing but what was sent can make the server go on.
    read_answers(&mut stream, requests, "401");
    sender.join().unwrap();
}

#[test]
fn pipelined_calls_behind_a_slow_one_are_all_answered() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    server.deploy("slow", "def handle(request):\n    time.sleep(0.3)\n    return 1", json!({}));
    let mut stream = server.connect();
    let key = "Authorization: Bearer demo-key\r\n";
    let mut bytes = format!("GET /invoke/slow HTTP/1.1\r\nHost: t\r\n{key}\r\n").into_bytes();
    let filler = format!("GET /functions HTTP/1.1\r\nHost: t\r\n{key}X-Filler: {}\r\n\r\n", "x".repeat(4000));
    bytes.extend(filler.as_bytes().repeat(40));
    stream.write_all(&bytes).unwrap();
    read_answers(&mut stream, 41, "200");
}

#[test]
fn a_half_closed_client_gets_all_its_answers() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    let mut stream = server.connect();
    stream.write_all(&b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n".repeat(2000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    read_answers(&mut stream, 2000, "200");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}

/// The children of one of the server's threads, or of all but its main one.
fn children(server: &Server, of_main: bool) -> Vec<u32> {
    let pid = server.pid();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let tasks = tasks.filter(|task| (task.file_name() == *pid.to_string()) == of_main);
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

fn kill(pid: u32) {
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn zygotes_that_die_at_work_leave_no_zombie_and_hold_up_no_call() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    for round in 0..20 {
        let name = format!("f{round}");
        server.deploy(&name, "def handle(request):\n    return 1", json!({}));
        // Blanks are made while these are replaced, so that the zygote is at work when it dies.
        children(&server, true).into_iter().take(4).for_each(kill);
        std::thread::sleep(std::time::Duration::from_millis(round % 7));
        children(&server, false).into_iter().for_each(kill);
        let reply = server.get(&format!("/invoke/{name}"));
        assert!(matches!(reply.status, 200 | 502), "{}", reply.text());
    }
    let last = server.run("last", "def handle(request):\n    return 1", "");
    assert_eq!(last, 1);
    eventually("no zombie is left", || {
        let all = [children(&server, true), children(&server, false)].concat();
        (!all.into_iter().any(is_zombie)).then_some(())
    });
    assert_eq!(server.get("/health").status, 200);
}

/// A file system of a few hundred kilobytes for the state; gone with the value.
struct TinyDisk(std::path::PathBuf);

impl TinyDisk {
    fn mount(at: &std::path::Path) -> TinyDisk {
        std::fs::create_dir_all(at).expect("a directory");
        let (kind, options) = (Some("tmpfs"), Some("size=600k,mode=700"));
        nix::mount::mount(kind, at, kind, nix::mount::MsFlags::empty(), options).expect("a mount");
        TinyDisk(at.to_owned())
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_refuses_changes_and_keeps_what_was_there() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let home = Home::new();
    let _disk = TinyDisk::mount(&home.state());
    let server = Server::on(home.configured("", ""));
    server.deploy("f", "def handle(request):\n    return 'first'", json!({}));
    let filler = format!("# {}\ndef handle(request):\n    return 'second'", "x".repeat(600_000));
    let update = json!({ "code": filler }).to_string();
    for _ in 0..3 {
        let reply = server.call("PUT", "/functions/f", &update);
        assert_eq!((reply.status, reply.code().as_str()), (503, "not_stored"));
    }
    let create = json!({ "name": "g", "code": filler }).to_string();
    assert_eq!(server.post("/functions", &create).code(), "not_stored");
    let ready = server.get("/readyz");
    assert_eq!((ready.status, &ready.json()["reasons"]), (503, &json!(["not_stored"])));
    assert_eq!(server.get("/functions/g").status, 404);
    assert_eq!(server.get("/invoke/f").json(), "first");
    assert_eq!(server.get("/functions/f").json()["version"], 1);
    // What fits is stored again, and is there after a restart.
    let small = json!({ "code": "def handle(request):\n    return 'third'" }).to_string();
    assert_eq!(server.call("PUT", "/functions/f", &small).status, 200);
    assert_eq!(server.get("/readyz").status, 200);
    let (home, _) = server.end(nix::sys::signal::Signal::SIGKILL);
    let server = Server::on(home);
    assert_eq!(server.get("/invoke/f").json(), "third");
    let (_home, status) = server.end(nix::sys::signal::Signal::SIGTERM);
    assert!(status.success());
}

#[test]
fn a_damaged_function_is_refused_by_name_and_can_be_deleted() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    server.deploy("bad", "def handle(request):\n    print('before')\n    return 1", json!({}));
    server.deploy("good", "def handle(request):\n    return 2", json!({}));
    assert_eq!(server.get("/invoke/bad").status, 200);
    eventually("the log is there", || (server.get("/functions/bad/logs").json()["count"] == 1).then_some(()));
    let (home, _) = server.end(nix::sys::signal::Signal::SIGTERM);
    let database = rusqlite::Connection::open(home.state().join("faas.db")).unwrap();
    database.execute("UPDATE versions SET code = 'def handle(request): return 3' WHERE name = 'bad'", []).unwrap();
    drop(database);

    let server = Server::on(home);
    common::eventually("the log names it", || server.home.log().contains("function bad is not served").then_some(()));
    assert_eq!((server.get("/invoke/bad").status, server.get("/invoke/good").status), (404, 200));
    let again = json!({ "name": "bad", "code": "def handle(request):\n    return 4" }).to_string();
    assert!(server.post("/functions", &again).json()["detail"].as_str().unwrap().contains("damaged"));
    assert_eq!(server.call("DELETE", "/functions/bad", "").status, 204);
    assert_eq!(server.call("DELETE", "/functions/bad", "").status, 404);
    assert_eq!(server.post("/functions", &again).status, 201);
    assert_eq!(server.get("/invoke/bad").json(), 4);
    assert_eq!(server.get("/functions/bad/logs").json()["count"], 0, "the log of the function before it");
}

#[test]
fn the_counters_add_up_when_clients_go_away() {
    if !is_root() {
        return skip(NEEDS_ROOT);
    }
    let server = Server::start();
    let code = "def handle(request):\n    if request.query_params:\n        time.sleep(5)\n    return 1";
    server.deploy("f", code, json!({ "max_instances": 1 }));
    // The first runs, the others wait.
    for number in 1..=3 {
        let mut gone = server.connect();
        gone.write_all(b"GET /invoke/f?slow=1 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer demo-key\r\n\r\n").unwrap();
        eventually("the call is accepted", || {
            (server.get("/stats/functions/f").json()["invocations"] == number).then_some(())
        });
        // Gone without a word: the kernel sends a reset.
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&gone, nix::sys::socket::sockopt::Linger, &at_once).unwrap();
    }
    assert_eq!(server.get("/invoke/f").status, 200);
    let stats = server.get("/stats/functions/f").json();
    assert_eq!((stats["invocations"].as_u64(), stats["succeeded"].as_u64()), (Some(4), Some(1)), "{stats}");
    assert_eq!((&stats["abandoned"], &stats["name"]), (&json!(3), &json!("f")), "{stats}");
    assert!(stats["memory_bytes"].as_u64() > Some(0), "{stats}");
}
