//! A server one of whose threads hangs ends and says which; one that was stopped as a whole goes on. And what a
//! supervisor that speaks systemd's protocol hears of a server's life.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::functions::sandboxed;
use common::{command, eventually, is_root, skip, slowed, Home, Server};
use faas::limits::{WATCHDOG_INTERVAL, WATCHDOG_LAST_WORDS, WATCHDOG_TIMEOUT};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use serde_json::json;

const HELLO: &str = "def handle(request):\n    return 'hello'";

/// The id of the server's thread of this name.
fn thread(server: &Server, name: &str) -> Pid {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let named = tasks
        .flatten()
        .find(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    let task = named.unwrap_or_else(|| panic!("no thread {name}"));
    Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap())
}

/// A thread that was stopped alone, as a debugger would.
struct Hanging(Pid);

impl Hanging {
    fn stop(thread: Pid) -> Hanging {
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        let hanging = Hanging(thread);
        ptrace::interrupt(thread).unwrap();
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(matches!(stopped, WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)), "{stopped:?}");
        hanging
    }

    /// Waits for its end: how its process ended. A process is not gone until the tracer of a thread of it has heard of
    /// that thread's end.
    fn end(&self) -> WaitStatus {
        eventually("the thread ends", || {
            match waitpid(self.0, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive => None,
                status => Some(status),
            }
        })
    }
}

impl Drop for Hanging {
    /// It goes on, if it is there; if it is not, its process can be waited for. Otherwise a test that fails would wait
    /// for its server for ever.
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
        let _ = waitpid(self.0, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
    }
}

/// A server of which this thread hangs.
fn ends_when_it_hangs(name: &str, called: &str) {
    let server = Server::with("workers: 2\npool_size: 1", "");
    server.deploy("hello", HELLO, json!({}));
    assert_eq!(server.answer("hello", ""), "hello");
    let thread = thread(&server, name);
    let hanging = Hanging::stop(thread);
    let begun = Instant::now();
    let status = hanging.end();
    let took = begun.elapsed();
    assert_eq!(status, WaitStatus::Exited(thread, 70), "{}", server.home.log());
    assert!(took >= WATCHDOG_TIMEOUT - WATCHDOG_INTERVAL, "{took:?}");
    let limit = WATCHDOG_TIMEOUT + WATCHDOG_INTERVAL + WATCHDOG_LAST_WORDS;
    assert!(took <= slowed(limit), "{took:?}");
    // The main thread's end was its process's.
    let home = if thread.as_raw() as u32 == server.pid() { forget(server) } else { server.ended().0 };
    let log = home.log();
    let said = format!("a thread has not turned for 10s, and the server ends: {called} (tid {thread})\n  state: t ");
    assert!(log.contains(&said), "{log}");
    assert!(log.contains("\n  wchan: ptrace") && log.contains("\n  syscall: "), "{log}");
    assert_eq!(log.matches("has not turned").count(), 1, "the others do: {log}");
    // What watches over the process would start another.
    let server = Server::on(home);
    assert_eq!(server.answer("hello", ""), "hello");
}

/// The directory of a server that has been waited for.
fn forget(mut server: Server) -> Home {
    let home = std::mem::replace(&mut server.home, Home::new());
    std::mem::forget(server);
    home
}

#[test]
fn a_worker_a_supervisor_or_a_front_that_hangs_ends_the_server_and_is_named() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    // Of each the thread's name, and what it is called. They take as long as the limit, so all at once.
    let threads = [("faas-worker-1", "faas-worker-1"), ("faas-supervisor", "faas-supervisor"), ("faas", "front")];
    std::thread::scope(|scope| {
        for (name, called) in threads {
            scope.spawn(move || ends_when_it_hangs(name, called));
        }
    });
}

#[test]
fn a_control_thread_that_waits_ends_nothing() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("hello", HELLO, json!({}));
    let _hanging = Hanging::stop(thread(&server, "faas-control-0"));
    std::thread::sleep(WATCHDOG_TIMEOUT + 3 * WATCHDOG_INTERVAL);
    assert_eq!(server.answer("hello", ""), "hello");
}

#[test]
fn a_process_that_was_stopped_for_longer_than_the_limit_goes_on() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("hello", HELLO, json!({}));
    // One of its threads owes a turn when all are stopped: only so could that time be taken for its own.
    let late = Hanging::stop(thread(&server, "faas-worker-0"));
    std::thread::sleep(3 * WATCHDOG_INTERVAL);
    server.signal(Signal::SIGSTOP);
    std::thread::sleep(WATCHDOG_TIMEOUT + 3 * WATCHDOG_INTERVAL);
    server.signal(Signal::SIGCONT);
    std::thread::sleep(2 * WATCHDOG_INTERVAL);
    drop(late);
    assert_eq!(server.answer("hello", ""), "hello");
    std::thread::sleep(3 * WATCHDOG_INTERVAL);
    assert_eq!(server.answer("hello", ""), "hello");
    assert!(!server.home.log().contains("turned"), "{}", server.home.log());
}

// ---- What the supervisor of the process hears ----

/// A socket where systemd has one.
struct Supervisor {
    socket: UnixDatagram,
    name: String,
}

impl Supervisor {
    fn at_a_path(home: &Home) -> Supervisor {
        let path = home.path().join("notify");
        Supervisor { socket: UnixDatagram::bind(&path).unwrap(), name: path.display().to_string() }
    }

    fn at_an_abstract_name() -> Supervisor {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("faas-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Supervisor { socket, name: format!("@{name}") }
    }

    /// Starts a server as systemd would, with a watchdog of this period.
    fn start(&self, home: Home, watchdog: Option<Duration>) -> Server {
        self.socket.set_read_timeout(Some(common::patience())).unwrap();
        let mut supervised: Command = command(&home);
        supervised.env("NOTIFY_SOCKET", &self.name);
        if let Some(period) = watchdog {
            supervised.env("WATCHDOG_USEC", period.as_micros().to_string());
        }
        Server::launch(home, supervised)
    }

    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message but for those of the watchdog.
    fn hear_news(&self) -> String {
        loop {
            let message = self.hear();
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }
}

#[track_caller]
fn assert_reloading(message: &str, after_us: i64) {
    let mut lines = message.lines();
    assert_eq!(lines.next(), Some("RELOADING=1"), "{message}");
    let time = lines.next().and_then(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(time.parse::<i64>().unwrap() >= after_us, "{message} is not after {after_us}");
}

/// The clock that systemd compares with.
fn monotonic_us() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000
}

#[test]
fn a_supervisor_hears_of_readiness_reloads_and_the_stop_in_their_order() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    for is_path in [true, false] {
        let code = "import os\ndef handle(request):\n    return sorted(os.environ)";
        let home = Home::with("pool_size: 2", "");
        let supervisor = if is_path { Supervisor::at_a_path(&home) } else { Supervisor::at_an_abstract_name() };
        let server = supervisor.start(home, Some(Duration::from_secs(20)));
        let serving = format!("STATUS=Serving on http://{}", server.address);
        assert_eq!(supervisor.hear_news(), format!("READY=1\n{serving}"));

        let before = monotonic_us();
        server.signal(Signal::SIGHUP);
        assert_reloading(&supervisor.hear_news(), before);
        assert_eq!(supervisor.hear_news(), format!("READY=1\n{serving}"));

        let before = monotonic_us();
        let file = server.home.path().join("faas.yaml");
        let good = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, "system:\n  porridge: 1\n").unwrap();
        let asked = server.send("POST", "/admin/reload", &[("Authorization", "Bearer admin-key")], b"");
        assert_eq!(asked.status, 400);
        assert_reloading(&supervisor.hear_news(), before);
        let message = supervisor.hear_news();
        assert!(message.starts_with(&format!("READY=1\n{serving}; the last reload changed nothing: ")), "{message}");
        assert!(message.ends_with(&asked.detail()), "{message}");
        std::fs::write(&file, good).unwrap();

        let seen = server.run("environment", code, "");
        let names: Vec<&str> = seen.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert!(
            names.contains(&"PATH") && !names.iter().any(|name| name.contains("NOTIFY") || name.contains("WATCHDOG"))
        );

        let (home, status) = server.end(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0), "{}", home.log());
        assert_eq!(supervisor.hear_news(), "STOPPING=1\nSTATUS=Finishing what was accepted");
        supervisor.socket.set_nonblocking(true).unwrap();
        let mut rest = [0; 256];
        while let Ok(length) = supervisor.socket.recv(&mut rest) {
            assert_eq!(&rest[..length], b"WATCHDOG=1");
        }
    }
}

#[test]
fn the_supervisors_watchdog_is_fed_while_all_threads_turn_and_not_when_one_hangs() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let period = Duration::from_secs(2);
    let supervisor = Supervisor::at_an_abstract_name();
    let server = supervisor.start(Home::with("pool_size: 2", ""), Some(period));
    assert!(supervisor.hear().starts_with("READY=1\n"));
    let mut last = Instant::now();
    for _ in 0..6 {
        assert_eq!(supervisor.hear(), "WATCHDOG=1");
        let pause = last.elapsed();
        last = Instant::now();
        assert!(pause < slowed(period), "{pause:?}");
    }
    let thread = thread(&server, "faas-worker-0");
    let hanging = Hanging::stop(thread);
    let begun = Instant::now();
    supervisor.socket.set_read_timeout(Some(4 * period)).unwrap();
    let mut buffer = [0; 256];
    while supervisor.socket.recv(&mut buffer).is_ok() {
        // One may have been on its way.
        assert!(begun.elapsed() < period, "it is fed on");
    }
    assert_eq!(hanging.end(), WaitStatus::Exited(thread, 70));
    let _ = server.ended();
}

#[test]
fn a_process_that_the_watchdog_is_not_meant_for_does_not_feed_it() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let supervisor = Supervisor::at_an_abstract_name();
    let home = Home::with("pool_size: 2", "");
    let mut supervised = command(&home);
    supervised.env("NOTIFY_SOCKET", &supervisor.name);
    supervised.env("WATCHDOG_USEC", "400000").env("WATCHDOG_PID", "1");
    let server = Server::launch(home, supervised);
    supervisor.socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(supervisor.hear().starts_with("READY=1\n"));
    let mut buffer = [0; 256];
    assert!(supervisor.socket.recv(&mut buffer).is_err(), "{}", String::from_utf8_lossy(&buffer));
    assert_eq!(server.get("/health").status, 200);
}
