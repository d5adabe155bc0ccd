//! An engine that makes containers without some of their walls, and says that it made them as ordered: it stands between a
//! server and the tests' engine, alters what is ordered, and what is told of it. Nothing in the server knows of it.
//!
//! What the server asks the kernel about cannot be left out so: its user, its capabilities, `no_new_privs`, and that
//! there is a filter at all. A container without one of these gets no function.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{json, Value};
use tempfile::TempDir;

/// A wall that can be left out, and what it is for.
pub(crate) const WALLS: &[(&str, &str)] = &[
    ("seccomp", "system calls by an allow-list; in its place a filter that lets all pass"),
    ("read_only_root", "the image's files cannot be written, whoever they belong to"),
    ("tree", "nothing of the host's files but two directories; in its place one more, read-only"),
    ("masks", "nothing of /sys, and of /proc what is its own"),
    ("tmpfs_limits", "a size and a number of files for what can be written"),
    ("network_namespace", "no network device but a loopback of its own"),
    ("ipc_namespace", "System V objects and message queues of its own"),
    ("uts_namespace", "a host name of its own"),
    ("cgroup_namespace", "does not see where in the host's control groups it is"),
    ("memory_limit", "memory and swap by control group"),
    ("tasks_limit", "processes and threads by control group"),
    ("cpu_limit", "processor time by control group"),
    ("rlimits", "open files, size of a file, processes, core files; no real time"),
];

/// Walls without which no function gets into a container, and a word of what the log then says.
pub(crate) const LOOKED_AT: &[(&str, &str, &str)] = &[
    ("user", "a host user and group of its own, never root", "Permission denied"),
    ("capabilities", "no capability in any set", "Cap"),
    ("no_new_privileges", "programs with the set-user-id bit give nothing", "no container"),
    ("filter", "that there is a filter of system calls", "Seccomp"),
    ("pid_namespace", "sees and signals its own processes only", "NSpid"),
];

/// See the module's documentation.
pub(crate) struct Lacking {
    directory: TempDir,
}

struct Between {
    engine: PathBuf,
    walls: Vec<String>,
    /// Of the host, shown in the containers when the tree is missing.
    treasure: PathBuf,
    /// What was ordered, by the names of containers.
    ordered: Mutex<HashMap<String, Value>>,
}

impl Lacking {
    /// One in front of this engine, without these walls.
    pub(crate) fn new(engine: &Path, walls: &[&str], treasure: &Path) -> Lacking {
        let directory = tempfile::Builder::new().prefix("faas-lacking-").tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let between = Arc::new(Between {
            engine: engine.to_owned(),
            walls: walls.iter().map(|&wall| wall.to_owned()).collect(),
            treasure: treasure.to_owned(),
            ordered: Mutex::default(),
        });
        // It listens until this process ends, as the directory is gone before.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let between = Arc::clone(&between);
                // Whoever hangs up ends it here, with an error that is none.
                std::thread::spawn(move || between.serve(stream));
            }
        });
        Lacking { directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }
}

impl Between {
    /// Carries the requests of one connection to the engine, each on a connection of its own.
    fn serve(&self, mut client: UnixStream) -> std::io::Result<()> {
        loop {
            let head = head_of(&mut client)?;
            let mut body = vec![0; length_in(&head)];
            client.read_exact(&mut body)?;
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let mut engine = UnixStream::connect(&self.engine)?;
            if path.contains("/events") || path.contains("/images/create") {
                engine.write_all(head.as_bytes())?;
                engine.write_all(&body)?;
                return carry(engine, client);
            }
            if method == "POST" && (path.contains("/containers/create?") || path.contains("/update")) {
                body = self.altered(path, &body);
            }
            // In HTTP/1.0 an answer is as long as its connection.
            let kind = "Content-Type: application/json";
            write!(engine, "{method} {path} HTTP/1.0\r\n{kind}\r\nContent-Length: {}\r\n\r\n", body.len())?;
            engine.write_all(&body)?;
            let head = head_of(&mut engine)?;
            let mut answer = Vec::new();
            engine.read_to_end(&mut answer)?;
            if method == "GET" && path.contains("/containers/") && path.ends_with("/json") {
                answer = self.embellished(path, answer);
            }
            let fields = head.split("\r\n").skip(1).filter(|field| {
                let name = field.split(':').next().unwrap_or_default().to_ascii_lowercase();
                !["", "content-length", "transfer-encoding", "connection"].contains(&&*name)
            });
            let mut whole = format!("HTTP/1.1 {}\r\n", head.split("\r\n").next().unwrap().split_once(' ').unwrap().1);
            fields.for_each(|field| whole.push_str(&format!("{field}\r\n")));
            if !whole.starts_with("HTTP/1.1 204") && !whole.starts_with("HTTP/1.1 304") {
                whole.push_str(&format!("Content-Length: {}\r\n", answer.len()));
            }
            client.write_all(format!("{whole}\r\n").as_bytes())?;
            client.write_all(&answer)?;
        }
    }

    /// An order without the walls; of a change of limits the same.
    fn altered(&self, path: &str, body: &[u8]) -> Vec<u8> {
        let mut order: Value = serde_json::from_slice(body).unwrap();
        let is_new = path.contains("/containers/create?");
        if is_new {
            let name = path.split("name=").nth(1).unwrap().split('&').next().unwrap();
            self.ordered.lock().unwrap().insert(name.to_owned(), order.clone());
        }
        let nowhere = &mut json!({});
        for wall in &self.walls {
            let members = if is_new { order.as_object_mut().unwrap() } else { nowhere.as_object_mut().unwrap() };
            alter(members, wall, &self.treasure);
            let limits = if is_new { &mut order["HostConfig"] } else { &mut order };
            let limits = limits.as_object_mut().unwrap();
            match &**wall {
                "memory_limit" => limits.retain(|name, _| !name.starts_with("Memory")),
                "cpu_limit" => limits.retain(|name, _| !name.starts_with("Cpu")),
                _ => {}
            }
        }
        order.to_string().into_bytes()
    }

    /// A description of a container that says that it has all that was ordered.
    fn embellished(&self, path: &str, answer: Vec<u8>) -> Vec<u8> {
        let name = path.trim_end_matches("/json").rsplit('/').next().unwrap();
        let ordered = self.ordered.lock().unwrap();
        let (Some(order), Ok(mut about)) = (ordered.get(name), serde_json::from_slice::<Value>(&answer)) else {
            return answer;
        };
        let Some(described) = about["HostConfig"].as_object_mut() else { return answer };
        for (member, value) in order["HostConfig"].as_object().unwrap() {
            // Limits change, and are told as they would be.
            if member.starts_with("Memory") || member.starts_with("Cpu") && member != "CgroupnsMode" {
                let missing = if member.starts_with("Memory") { "memory_limit" } else { "cpu_limit" };
                if self.walls.iter().any(|wall| wall == missing) {
                    described.insert(member.clone(), value.clone());
                }
            } else {
                described.insert(member.clone(), value.clone());
            }
        }
        about["Config"]["Hostname"] = order["Hostname"].clone();
        about["Config"]["User"] = order["User"].clone();
        let treasure = self.treasure.to_str();
        about["Mounts"].as_array_mut().unwrap().retain(|mount| mount["Destination"].as_str() != treasure);
        about.to_string().into_bytes()
    }
}

/// Leaves one wall out of an order.
fn alter(order: &mut serde_json::Map<String, Value>, wall: &str, treasure: &Path) {
    let Some(config) = order.get_mut("HostConfig") else { return };
    let mut options: Vec<Value> = config["SecurityOpt"].as_array().unwrap().clone();
    let without = |options: &mut Vec<Value>, prefix: &str| {
        options.retain(|option| !option.as_str().unwrap().starts_with(prefix));
    };
    match wall {
        "seccomp" => {
            without(&mut options, "seccomp=");
            let all = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                // A filter without any rule is none.
                "syscalls": [{ "names": ["uselib"], "action": "SCMP_ACT_ERRNO" }],
            });
            options.push(json!(format!("seccomp={all}")));
        }
        "filter" => {
            without(&mut options, "seccomp=");
            options.push(json!("seccomp=unconfined"));
        }
        "no_new_privileges" => without(&mut options, "no-new-privileges"),
        "capabilities" => config["CapDrop"] = json!([]),
        "read_only_root" => config["ReadonlyRootfs"] = json!(false),
        "masks" => (config["MaskedPaths"], config["ReadonlyPaths"]) = (json!([]), json!([])),
        "tree" => config["Mounts"].as_array_mut().unwrap().push(json!({
            "Type": "bind", "Source": treasure, "Target": treasure, "ReadOnly": true,
        })),
        "tmpfs_limits" => {
            for options in config["Tmpfs"].as_object_mut().unwrap().values_mut() {
                *options = json!("rw,noexec,nosuid,nodev,mode=1777");
            }
        }
        "pid_namespace" => config["PidMode"] = json!("host"),
        "network_namespace" => config["NetworkMode"] = json!("host"),
        "ipc_namespace" => config["IpcMode"] = json!("host"),
        "cgroup_namespace" => config["CgroupnsMode"] = json!("host"),
        "uts_namespace" => config["UTSMode"] = json!("host"),
        "tasks_limit" => config["PidsLimit"] = json!(0),
        "rlimits" => config["Ulimits"] = json!([]),
        // Of an order's limits these are taken where those of a change are.
        "memory_limit" | "cpu_limit" | "user" => {}
        _ => panic!("no wall is called {wall}"),
    }
    config["SecurityOpt"] = json!(options);
    match wall {
        "uts_namespace" => drop(order.remove("Hostname")),
        "user" => drop(order.insert("User".to_owned(), json!("65534:65534"))),
        _ => {}
    }
}

fn head_of(stream: &mut UnixStream) -> std::io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

fn length_in(head: &str) -> usize {
    let fields = head.split("\r\n").filter_map(|field| field.split_once(": "));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().map_or(0, |(_, length)| length.parse().unwrap())
}

/// What the engine goes on to say, until it or the client ends.
fn carry(mut engine: UnixStream, mut client: UnixStream) -> std::io::Result<()> {
    let (mut gone, other) = (client.try_clone()?, engine.try_clone()?);
    std::thread::spawn(move || {
        let _ = gone.read(&mut [0]);
        let _ = other.shutdown(Shutdown::Both);
    });
    std::io::copy(&mut engine, &mut client)?;
    client.shutdown(Shutdown::Both)
}
