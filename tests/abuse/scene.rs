//! A server, another function on it that must come to no harm, and the attacks one after the other.
//!
//! After each attack the four checks of the table: another function answers from where it was, the function itself
//! answers again, the server holds no more memory and descriptors than before, and no process, cgroup or mount is left.

use std::cell::Cell;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use tempfile::TempDir;

use super::lacking::Lacking;
use super::remains::Containers;
use super::table::{Case, Moment, Outcome, Theme};
use crate::common::engine::Engine;
use crate::common::host::{cgroup_parents, processes_of_users, resident_bytes, status, zygotes, Holdings};
use crate::common::mode::{await_stock, in_containers};
use crate::common::{command, eventually, patience, slowed, Home, Reply, Server};

const COMMON: &str = include_str!("common.py");
/// How much more memory the server may hold after an attack than before all of them: its buffers and caches, and what
/// its allocator keeps of a body or a log that was large.
const RESIDENT_GROWTH_BYTES_MAX: u64 = 48 << 20;
/// A call that is over its time ends at most so much later.
const LATE_MAX: Duration = Duration::from_secs(1);
const PRECIOUS: &str = "precious\n";
const CANARIES: [&str; 5] =
    ["code-canary-5a17", "environment-canary-93c2", "body-canary-7be0", "Bearer demo-key", "server-canary-c0de"];

pub(crate) struct Scene {
    pub(crate) server: Server,
    facts: Value,
    uid_base: u32,
    /// The calls that the other function has had.
    count: Cell<u64>,
    before: Option<Before>,
    /// Those of the server, in container mode.
    containers: Option<Containers>,
    /// Files of the host that any of its users might reach.
    treasure: TempDir,
    /// The engine that leaves walls out, if there is one.
    _lacking: Option<Lacking>,
    /// Of the host, to be reached by nobody.
    _doors: (TcpListener, Option<TcpListener>, UnixListener, UnixListener),
}

struct Before {
    groups: Vec<PathBuf>,
    holdings: Holdings,
    processes: usize,
    resident_bytes: u64,
}

impl Scene {
    /// A server with these lines in its `system:` section.
    pub(crate) fn set(system: &str) -> Scene {
        Scene::on(system, treasure(), None)
    }

    /// A server whose engine leaves out these walls of its containers.
    pub(crate) fn without_walls(walls: &[&str]) -> Scene {
        let (engine, treasure) = (Engine::shared().unwrap(), treasure());
        let lacking = Lacking::new(engine.socket(), walls, treasure.path());
        let lines = format!("container_runtime: {}\nbase_image: {}", lacking.socket().display(), engine.image());
        Scene::on(&format!("default_mode: container\ncontainer_pool_size: 2\n{lines}"), treasure, Some(lacking))
    }

    fn on(system: &str, treasure: TempDir, lacking: Option<Lacking>) -> Scene {
        let address = host_address();
        let port = free_port();
        // Users of its own, so that its processes can be counted on a host where other servers run.
        let uid_base = 1_900_000_000 + u32::from(port) * 1024;
        // Longer than any case has, so that top-level code that takes its time meets the function's limit.
        let start = slowed(Duration::from_secs(60)).as_secs();
        let lines = format!("pool_size: 2\nshutdown_grace: 1\ncold_start_timeout: {start}\n{system}");
        let home = Home::with(&format!("sandbox_uid_base: {uid_base}\n{lines}"), "");
        let doors = open_doors(treasure.path(), &address);
        let mut command = command(&home);
        command.env("FAAS_CANARY", CANARIES[4]);
        let server = Server::launch(home, command);
        let (door, key) = (format!("faas-victim-{port}"), 0x6600_0000 + u32::from(port));
        let victim = include_str!("victim.py")
            .replace("DOOR", &format!("{door:?}"))
            .replace("KEY", &key.to_string())
            .replace("PORT", &port.to_string());
        server.deploy(
            "victim",
            &format!("SECRET = {:?}\n{victim}", CANARIES[0]),
            json!({ "environment": { "TOKEN": CANARIES[1] }, "min_instances": 1, "max_instances": 1 }),
        );
        assert_eq!(server.post("/invoke/victim", CANARIES[2]).text(), "1");
        let victim_pid = server.instances("victim")[0]["pid"].as_u64().unwrap() as u32;
        // Without pid namespaces its forks look the same. It was there first. What is outside of a container, and nearest,
        // is the engine's process that looks after it.
        let zygote = match in_containers() {
            true => status(victim_pid)["PPid"].parse().unwrap(),
            false => eventually("a zygote", || zygotes(server.pid()).into_iter().min()),
        };
        let home = server.home.path().to_owned();
        let facts = json!({
            "server": { "pid": server.pid(), "port": server.address.port() },
            "zygote": { "pid": zygote },
            "victim": {
                "pid": victim_pid, "port": port, "door": door, "key": key,
                "uid": status(victim_pid)["Uid"].split('\t').next().unwrap().parse::<u32>().unwrap(),
            },
            "host": {
                "address": address, "port": doors.0.local_addr().unwrap().port(),
                "port6": doors.1.as_ref().map_or(1, |door| door.local_addr().unwrap().port()),
                "door": door_of(treasure.path()), "socket": treasure.path().join("docker.sock"),
                "precious": treasure.path().join("precious"),
                "setuid": treasure.path().join("id"),
            },
            "home": treasure.path(),
            "contained": in_containers(),
            "uid_base": uid_base,
            "hidden": {
                "home": home, "configuration": home.join("faas.yaml"), "database": server.home.state().join("faas.db"),
                "code of the server": env!("CARGO_MANIFEST_DIR"), "server": env!("CARGO_BIN_EXE_faas"),
                "code of the victim": "/function/victim.py",
            },
            "yranac": CANARIES.map(|text| text.chars().rev().collect::<String>()),
        });
        let containers = Containers::of(victim_pid);
        let count = Cell::new(1);
        Scene { server, facts, uid_base, count, before: None, containers, treasure, _lacking: lacking, _doors: doors }
    }

    /// Takes the measure of the server at rest; from then on every attack is followed by the checks.
    pub(crate) fn with_checks(mut self) -> Scene {
        let groups = cgroup_parents(&self.server);
        // The first call of each kind makes threads, files and arenas that stay.
        self.server.deploy("first", &format!("def handle(request):\n    return {:?} * (6 << 18)", "x"), json!({}));
        assert_eq!(self.server.post("/invoke/first", &"x".repeat(6 << 18)).status, 200);
        assert_eq!(self.server.call("DELETE", "/functions/first", "").status, 204);
        if let Some(containers) = &self.containers {
            // However long it takes until all of the stock is there.
            containers.assert_nothing_is_left("the first");
        }
        let holdings = Holdings::at_rest(&self.server, &groups);
        let processes = processes_of_users(self.users()).len();
        let resident_bytes = resident_bytes(self.server.pid());
        self.before = Some(Before { groups, holdings, processes, resident_bytes });
        self
    }

    /// Attacks where a layer is missing, and tells how that fared. The other function is to come to no harm even so.
    pub(crate) fn try_out(&self, theme: &Theme, case: &Case) -> Outcome {
        let deployed = Deployed { server: &self.server, name: case.name };
        let (reply, _) = self.attack(theme, case, Moment::Call);
        let outcome = case.judge(&reply, Moment::Call);
        if outcome != Outcome::Held {
            eprintln!("{}: {} {}", case.name, reply.status, reply.text().chars().take(1000).collect::<String>());
        }
        drop(deployed);
        self.count.set(self.count.get() + 1);
        let is_well = self.server.post("/invoke/victim", "").text() == self.count.get().to_string();
        if is_well && self.precious() == PRECIOUS {
            outcome
        } else {
            self.count.set(self.server.post("/invoke/victim", "").text().parse().unwrap_or(0));
            Outcome::Through
        }
    }

    /// Kills the server while a function sleeps that ignores every signal and never looks at its channel again. Whether
    /// anything of its instances is there some seconds later.
    pub(crate) fn leaves_something_when_killed(mut self, theme: &Theme, case: &Case) -> bool {
        let code = format!("{COMMON}\n{}", theme.code);
        let mut config = self.config(case);
        config["timeout"] = "60s".into();
        self.server.deploy(case.name, &code, config);
        let server = &self.server;
        std::thread::scope(|scope| {
            let target = format!("/invoke/{0}/{0}", case.name);
            let head = format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\n\r\n");
            scope.spawn(move || server.raw(head.as_bytes()));
            eventually("the function ignores SIGTERM", || {
                let pid = self.server.instances(case.name).first()?["pid"].as_u64()?;
                let ignored = u64::from_str_radix(status(pid as u32).get("SigIgn")?, 16).ok()?;
                (ignored & 1 << (nix::libc::SIGTERM - 1) != 0).then_some(())
            });
            self.server.signal(nix::sys::signal::Signal::SIGKILL);
        });
        let deadline = Instant::now() + slowed(Duration::from_secs(5));
        while !processes_of_users(self.users()).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let is_outlived = !processes_of_users(self.users()).is_empty();
        // Whoever starts next on its directory tidies up after it.
        let home = std::mem::replace(&mut self.server.home, Home::new());
        drop(self);
        drop(Server::on(home));
        is_outlived
    }

    fn precious(&self) -> String {
        std::fs::read_to_string(self.treasure.path().join("precious")).unwrap()
    }

    fn users(&self) -> std::ops::Range<u32> {
        self.uid_base..self.uid_base + 1000
    }

    fn config(&self, case: &Case) -> Value {
        json!({
            "memory": case.memory, "cpu_limit": case.cpu_limit,
            "timeout": timeout(case).as_secs_f64(),
            "max_instances": 1, "environment": { "FACTS": self.facts.to_string() },
        })
    }

    /// Makes the attack in a function of its own, and gives what its caller is told, and how long that took.
    pub(crate) fn attack(&self, theme: &Theme, case: &Case, moment: Moment) -> (Reply, Duration) {
        let code = format!("{COMMON}\n{}", theme.code);
        let code = match moment {
            Moment::Call => code,
            Moment::Import => as_dependency(&code, case.name),
        };
        self.server.deploy(case.name, &code, self.config(case));
        if let Some(containers) = &self.containers {
            containers.look();
        }
        let called = Instant::now();
        let reply = self.server.post(&format!("/invoke/{0}/{0}", case.name), "");
        (reply, called.elapsed())
    }

    /// Attacks, expects what the table says, and makes the four checks.
    pub(crate) fn endure(&self, theme: &Theme, case: &Case, moment: Moment) {
        let name = case.name;
        let started = Instant::now();
        let deployed = Deployed { server: &self.server, name };
        let (reply, took) = self.attack(theme, case, moment);
        assert_eq!(
            case.judge(&reply, moment),
            Outcome::Held,
            "{name} at {moment:?}: {} {}",
            reply.status,
            reply.text().chars().take(1500).collect::<String>()
        );
        if matches!(reply.status, 503 | 504) {
            let timeout = timeout(case);
            let latest = timeout + LATE_MAX + slowed(Duration::from_millis(500));
            assert!(reply.detail().contains(&format!("{} ms", timeout.as_millis())), "{name}: {}", reply.text());
            assert!(took < latest, "{name}: its end came after {took:?}");
        }
        if let Some(text) = case.logs {
            eventually("what was cut is told in the log", || self.server.log_says(name, text).then_some(()));
        }
        self.assert_others_answer(name);
        self.assert_it_answers_again(case, &reply, moment);
        if let Some(containers) = &self.containers {
            containers.look();
        }
        drop(deployed);
        self.assert_nothing_is_left(name);
        eprintln!("{name} at {moment:?}: {took:?}, with the checks {:?}", started.elapsed());
    }

    /// From where it was: its instance is the same as before.
    pub(crate) fn assert_others_answer(&self, after: &str) {
        self.count.set(self.count.get() + 1);
        let reply = self.server.post("/invoke/victim", "");
        assert_eq!((reply.status, reply.text()), (200, self.count.get().to_string()), "after {after}");
        assert_eq!(self.server.get("/health").status, 200, "after {after}");
    }

    fn assert_it_answers_again(&self, case: &Case, first: &Reply, moment: Moment) {
        let name = case.name;
        let is_mended = moment == Moment::Import && (first.status != 200 || case.drags_others_along);
        if is_mended {
            // Its top-level code would do the same again, in every instance.
            let mended = json!({ "code": "def handle(request):\n    return 'fine'" }).to_string();
            assert_eq!(self.server.call("PUT", &format!("/functions/{name}"), &mended).status, 200);
            await_stock(&self.server);
        }
        let wanted: &[u8] = if moment == Moment::Import && !is_mended { &first.body } else { b"\"fine\"" };
        let deadline = Instant::now() + patience();
        loop {
            let again = self.server.post(&format!("/invoke/{name}/fine"), "");
            if again.status == 200 && again.body == wanted {
                return;
            }
            let drags_along = case.drags_others_along
                && ["protocol_violation", "function_timeout", "function_crashed"].contains(&again.code().as_str());
            assert!(drags_along && Instant::now() < deadline, "after {name}: {} {}", again.status, again.text());
        }
    }

    fn assert_nothing_is_left(&self, after: &str) {
        let Some(before) = &self.before else { return };
        before.holdings.await_again(&self.server, &before.groups, after);
        eventually("no process of a user of the sandbox is left", || {
            (processes_of_users(self.users()).len() == before.processes).then_some(())
        });
        if let Some(containers) = &self.containers {
            containers.assert_nothing_is_left(after);
        }
        let grown = resident_bytes(self.server.pid()).saturating_sub(before.resident_bytes);
        assert!(grown < RESIDENT_GROWTH_BYTES_MAX, "after {after}: the server has grown by {} KiB", grown >> 10);
        let home = self.server.home.path();
        assert_eq!(
            std::fs::read_to_string(self.treasure.path().join("precious")).unwrap(),
            "precious\n",
            "after {after}"
        );
        for directory in [home, Path::new("."), Path::new("/tmp")] {
            let names = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.file_name());
            let cores: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("core.")).collect();
            assert_eq!(cores, [""; 0], "after {after}: in {}", directory.display());
        }
    }
}

/// Where a namespace was missing, what is made in it stays on the host.
impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.server.signal(nix::sys::signal::Signal::SIGTERM);
            self.server.wait();
        }
        let key = self.facts["victim"]["key"].to_string();
        for kind in ["-M", "-S", "-Q"] {
            let _ = Command::new("ipcrm").args([kind, &key]).stderr(Stdio::null()).status();
        }
        // Only those of this server have one of its users.
        for pid in processes_of_users(self.users()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// The time of a call, of which its start is a part: an engine that is busy takes seconds to set a container's limits.
fn timeout(case: &Case) -> Duration {
    let least = Duration::from_secs(if in_containers() { 6 } else { 0 });
    slowed(Duration::from_millis(case.timeout_ms).max(least))
}

/// Deletes the function in the end, also when a check has failed: those of the next case are to be its own.
struct Deployed<'a> {
    server: &'a Server,
    name: &'a str,
}

impl Drop for Deployed<'_> {
    fn drop(&mut self) {
        self.server.call("DELETE", &format!("/functions/{}", self.name), "");
    }
}

impl Server {
    fn log_says(&self, name: &str, text: &str) -> bool {
        self.logs(name).iter().any(|entry| entry["message"].as_str().is_some_and(|message| message.contains(text)))
    }
}

/// The case as the top level of a module that the function imports.
fn as_dependency(code: &str, case: &str) -> String {
    let code = Value::from(format!("{code}\nSAID = {case}()\n"));
    format!(
        "import sys\nwith open('/tmp/dependency.py', 'w', encoding='utf-8') as file:\n    file.write({code})\n\
         sys.path.insert(0, '/tmp')\nfrom dependency import SAID\ndef handle(request):\n    return SAID\n"
    )
}

/// Not below /tmp, which an instance has of its own whatever it sees of the host.
fn treasure() -> TempDir {
    std::fs::create_dir_all("/var/tmp").unwrap();
    tempfile::Builder::new().prefix("faas-test-").tempdir_in("/var/tmp").unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An address of the host that is not a loopback one, if it has any: no packet is sent.
fn host_address() -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let route = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    route.map_or_else(|_| "127.0.0.1".to_owned(), |address| address.ip().to_string())
}

fn door_of(home: &Path) -> String {
    format!("door-of-{}", home.file_name().unwrap().to_string_lossy())
}

/// What an attacker would like to find on the host, open to every user of it.
fn open_doors(path: &Path, address: &str) -> (TcpListener, Option<TcpListener>, UnixListener, UnixListener) {
    let open = |name: &str, mode: u32| {
        std::fs::set_permissions(path.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open("", 0o755);
    std::fs::write(path.join("precious"), PRECIOUS).unwrap();
    open("precious", 0o666);
    // A machine without the program has none to offer.
    if std::fs::copy("/usr/bin/id", path.join("id")).is_ok() {
        open("id", 0o4755);
    }
    let socket = UnixListener::bind(path.join("docker.sock")).unwrap();
    open("docker.sock", 0o777);
    let door = UnixListener::bind_addr(&SocketAddr::from_abstract_name(door_of(path)).unwrap()).unwrap();
    (TcpListener::bind((address, 0)).unwrap(), TcpListener::bind("[::1]:0").ok(), socket, door)
}
