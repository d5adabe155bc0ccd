//! The layers of the sandbox at level strict, one by one, from inside a function of a running server: how things are.
//! `abuse.rs` is about what attacks meet, and `sandbox_plan.rs` asserts the same layers without a server.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use common::host::{cgroup_directories, descendants, descriptors, namespace, status, zygotes};
use common::{eventually, is_root, skip, Server};
use serde_json::{json, Value};

const LOOK: &str = include_str!("layers/look.py");
const UID_BASE: u32 = 2_000_000_000;
const NAMESPACES: [&str; 7] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];

/// A server with a small pool, so that it is soon at rest, and a secret in its environment. `None` without root.
fn server() -> Option<Server> {
    if !is_root() {
        skip("process mode at level strict needs root");
        return None;
    }
    Some(Server::with("pool_size: 2\nshutdown_grace: 2", ""))
}

/// The instances of a function, as the API tells.
fn instances(server: &Server, name: &str) -> Vec<Value> {
    let all = server.get("/instances").json();
    let all = all["instances"].as_array().unwrap().iter();
    all.filter(|instance| instance["function"] == name && instance["pid"].is_u64()).cloned().collect()
}

fn pid_of(instance: &Value) -> u32 {
    instance["pid"].as_u64().unwrap() as u32
}

/// What the one instance of the function sees, and its process id outside.
fn look(server: &Server, name: &str) -> (Value, u32) {
    let address = (server.address.ip().to_string(), server.address.port());
    let hidden = [
        server.home.path().to_owned(),
        server.home.state(),
        std::env::current_exe().unwrap(),
        PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    ];
    let others = ["/etc/shadow", "/root/.ssh", "/sys", "/run", "/var", "/home", "/bin/sh"];
    let hidden: Vec<_> = hidden.iter().map(|path| path.to_str().unwrap()).chain(others).collect();
    let reply = server.post(&format!("/invoke/{name}"), &json!({ "server": address, "hidden": hidden }).to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let instances = instances(server, name);
    assert_eq!(instances.len(), 1, "{instances:?}");
    (reply.json(), pid_of(&instances[0]))
}

/// A field of `/proc/PID/status` as numbers.
fn numbers(text: &str) -> Vec<u32> {
    text.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect()
}

/// A function that looks around, what it saw, and its process id outside.
fn looked() -> Option<(Server, Value, u32)> {
    let server = server()?;
    server.deploy("look", LOOK, json!({ "environment": { "MINE": "yes" } }));
    let (seen, pid) = look(&server, "look");
    Some((server, seen, pid))
}

#[test]
fn layer_1_an_instance_is_alone_in_namespaces_of_its_own() {
    let Some((server, seen, pid)) = looked() else { return };
    assert_eq!((&seen["pid"], &seen["ppid"]), (&1.into(), &0.into()));
    assert_eq!(seen["processes"], json!(["1"]));
    assert_ne!(pid, 1);
    for kind in NAMESPACES {
        assert_ne!(namespace(pid, kind), namespace(server.pid(), kind), "{kind}");
    }
    assert_eq!(seen["hostname"], "faas");
    assert_eq!(seen["cgroup"], json!(["/"]));
}

#[test]
fn layer_2_an_instance_is_a_user_of_its_own_and_has_no_way_to_another() {
    let Some((_server, seen, pid)) = looked() else { return };
    assert_eq!(seen["ids"], json!([[1000, 1000, 1000], [1000, 1000, 1000], []]));
    let outside = status(pid);
    let uid = numbers(&outside["Uid"])[0];
    assert!((UID_BASE..UID_BASE + 1000).contains(&uid), "{uid}");
    assert_eq!((numbers(&outside["Uid"]), numbers(&outside["Gid"])), (vec![uid; 4], vec![uid; 4]));
    assert_eq!(outside.get("Groups").map_or("", String::as_str), "");
    assert_eq!(seen["uid_map"], json!(["1000", uid.to_string(), "1"]));
    assert_eq!(seen["setgroups"], "deny");
}

#[test]
fn layer_3_an_instance_sees_a_minimal_tree_that_it_cannot_write() {
    let Some((_server, seen, _)) = looked() else { return };
    for (path, error) in seen["hidden"].as_object().unwrap() {
        assert_eq!(error, "ENOENT", "{path}");
    }
    assert_eq!(seen["writable"], json!([]));
    assert_eq!(seen["own"], json!([null, null]), "/tmp and /dev/shm are its own");
    for file in ["self_exe", "interpreter"] {
        assert!(matches!(seen[file].as_str(), Some("EROFS" | "ETXTBSY" | "EACCES")), "{file}: {}", seen[file]);
    }
    let root: BTreeSet<&str> = seen["root"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for absent in ["sys", "run", "var", "boot", "bin", "sbin", "mnt", "srv"] {
        assert!(!root.contains(absent), "{root:?}");
    }
    let etc: BTreeSet<&str> = seen["etc"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let known = [
        "passwd",
        "group",
        "hosts",
        "resolv.conf",
        "nsswitch.conf",
        "localtime",
        "ssl",
        "pki",
        "ca-certificates",
        "ld.so.cache",
    ];
    assert!(etc.is_subset(&BTreeSet::from(known)), "{etc:?}");
    for mount in seen["mounts"].as_array().unwrap().iter().filter_map(Value::as_str) {
        let fields: Vec<&str> = mount.split(' ').collect();
        let options: Vec<&str> = fields[3].split(',').collect();
        let own = ["/tmp", "/dev/shm", "/proc"].contains(&fields[1]);
        assert!(options.contains(&"nosuid"), "{mount}");
        assert_eq!(own, options.contains(&"rw"), "{mount}");
        assert!(options.contains(&"nodev") || fields[1].starts_with("/dev/"), "{mount}");
        assert!(!mount.contains("cgroup") && !mount.contains("sysfs"), "{mount}");
        if ["/tmp", "/dev/shm"].contains(&fields[1]) {
            assert!(options.contains(&"size=65536k") && options.contains(&"nr_inodes=16384"), "{mount}");
        }
    }
}

#[test]
fn layer_4_proc_tells_of_processes_only() {
    let Some((_server, seen, _)) = looked() else { return };
    assert_eq!(seen["proc"], json!(["self", "thread-self"]));
    assert_eq!(seen["core_pattern"], "ENOENT");
}

#[test]
fn layer_5_dev_holds_five_devices_that_do_nothing() {
    let Some((_server, seen, _)) = looked() else { return };
    assert_eq!(seen["dev"], json!(["full", "null", "random", "shm", "urandom", "zero"]));
    for (path, error) in seen["devices"].as_object().unwrap() {
        assert_eq!(error, "ENOENT", "{path}");
    }
}

#[test]
fn layer_6_an_instance_has_no_capability_and_can_gain_none() {
    let Some((_server, seen, pid)) = looked() else { return };
    // Asked from both sides.
    let inside: std::collections::BTreeMap<String, String> = serde_json::from_value(seen["status"].clone()).unwrap();
    for side in [&status(pid), &inside] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(side[set], "0000000000000000", "{set}");
        }
        assert_eq!(side["NoNewPrivs"], "1");
    }
    // Every bit of the securebits set and locked, but KEEP_CAPS, which is only locked.
    assert_eq!(seen["privilege"], json!({ "securebits": 0xef, "dumpable": 0, "no_new_privs": 1 }));
    // The files of a process that is not dumpable belong to root.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/environ")).unwrap());
    assert_eq!(owner, 0, "it is dumpable");
}

#[test]
fn layer_7_system_calls_are_filtered_with_the_error_that_fits() {
    let Some((_server, seen, pid)) = looked() else { return };
    assert_eq!((status(pid)["Seccomp"].as_str(), &seen["status"]["Seccomp"]), ("2", &json!("2")));
    let expected = json!({
        "clone3": "ENOSYS", "io_uring_setup": "ENOSYS", "new": "ENOSYS", "fsopen": "EPERM", "pidfd_getfd": "EPERM",
    });
    assert_eq!(seen["calls"], expected);
}

#[test]
fn layers_1_and_2_two_instances_of_a_function_share_no_namespace_no_user_and_no_control_group() {
    let Some(server) = server() else { return };
    let code = "import os, time\ndef handle(request):\n    time.sleep(5)\n    return os.getpid()";
    server.deploy("slow", code, json!({ "max_instances": 2 }));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(server.post("/invoke/slow", "").text(), "1"));
        }
    });
    let pids: Vec<u32> = instances(&server, "slow").iter().map(pid_of).collect();
    let [one, other] = pids[..] else { panic!("two calls at once run in two instances: {pids:?}") };
    for kind in NAMESPACES {
        assert_ne!(namespace(one, kind), namespace(other, kind), "{kind}");
    }
    assert_ne!(status(one)["Uid"], status(other)["Uid"]);
    assert_ne!(status(one)["Gid"], status(other)["Gid"]);
    let (one, other) = (cgroup_directories(one), cgroup_directories(other));
    assert!(!one.is_empty() && one.iter().all(|directory| !other.contains(directory)), "{one:?} {other:?}");
}

#[test]
fn layer_9_the_kernel_is_told_the_limits_of_the_config() {
    let Some(server) = server() else { return };
    let config = json!({ "memory": "96Mi", "cpu_limit": "250m" });
    server.deploy("limited", "def handle(request):\n    return 1", config);
    assert_eq!(server.post("/invoke/limited", "").status, 200);
    let directories = cgroup_directories(pid_of(&instances(&server, "limited")[0]));
    let read = |names: &[&str]| {
        let files = directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
        let text = files.filter_map(|file| std::fs::read_to_string(file).ok()).next();
        text.unwrap_or_else(|| panic!("no {names:?} in {directories:?}")).trim().to_owned()
    };
    assert_eq!(read(&["memory.limit_in_bytes", "memory.max"]), (96 << 20).to_string());
    assert_eq!(read(&["pids.max"]), "64");
    assert!(["25000", "25000 100000"].contains(&read(&["cpu.cfs_quota_us", "cpu.max"]).as_str()));
}

#[test]
fn layer_9_resource_limits_are_set_and_cannot_be_raised() {
    let Some((_server, seen, pid)) = looked() else { return };
    let hard = |name: &str| seen["limits"][name][1].as_i64().unwrap();
    assert_eq!([hard("NOFILE"), hard("FSIZE"), hard("STACK")], [256, 64 << 20, 8 << 20]);
    assert_eq!(["CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO"].map(hard), [0; 5]);
    let told = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let processes = told.lines().find(|line| line.starts_with("Max processes")).unwrap();
    assert_eq!(processes.split_ascii_whitespace().collect::<Vec<_>>()[2..4], ["64", "64"]);
}

#[test]
fn layer_10_an_instance_holds_its_channel_and_its_own_environment_and_no_terminal() {
    let Some((_server, seen, _)) = looked() else { return };
    let fds: BTreeSet<&String> = seen["descriptors"].as_object().unwrap().keys().collect();
    assert_eq!(fds.into_iter().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{}", seen["descriptors"]);
    assert_eq!(seen["descriptors"]["0"], "/dev/null");
    assert_eq!(seen["session"], 1);
    assert_eq!(seen["devices"]["/dev/tty"], "ENOENT");
    let environment: BTreeSet<&str> = seen["environ"].as_object().unwrap().keys().map(String::as_str).collect();
    let shims = ["PATH", "LANG", "HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE"];
    let told = ["FAAS_FUNCTION", "FAAS_VERSION", "FAAS_INSTANCE", "MINE"];
    assert_eq!(environment, shims.into_iter().chain(told).collect(), "{}", seen["environ"]);
}

/// Leaves a process behind that is no child of the function's any more, in a session of its own.
const DAEMON: &str = "import os, signal\n\
    def handle(request):\n\
    \x20   if os.fork() == 0:\n\
    \x20       os.setsid()\n\
    \x20       if os.fork() == 0:\n\
    \x20           while True: signal.pause()\n\
    \x20       os._exit(0)\n\
    \x20   os.wait()\n\
    \x20   return 'left'";

#[test]
fn layer_11_nothing_of_an_instance_is_left_when_its_function_is_deleted() {
    let Some(server) = server() else { return };
    server.deploy("gone", DAEMON, json!({}));
    assert_eq!(server.post("/invoke/gone", "").status, 200);
    let pid = pid_of(&instances(&server, "gone")[0]);
    let group = cgroup_directories(pid);
    let below = descendants(pid);
    assert_eq!(below.len(), 1, "the daemon is the instance's child: {below:?}");
    assert!(group.iter().all(|directory| directory.exists()) && !group.is_empty());
    assert_eq!(server.call("DELETE", "/functions/gone", "").status, 204);
    eventually("the end of the instance and its daemon", || {
        let gone = |pid: &u32| !PathBuf::from(format!("/proc/{pid}")).exists();
        (gone(&pid) && below.iter().all(gone) && !group.iter().any(|directory| directory.exists())).then_some(())
    });
}

#[test]
fn layer_12_an_instance_has_no_network_but_a_loopback_that_is_down() {
    let Some((_server, seen, pid)) = looked() else { return };
    let devices = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let devices: Vec<&str> =
        devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(devices, ["lo"]);
    for target in ["server", "loopback", "loopback6", "metadata"] {
        let error = seen["connect"][target].as_str();
        // Landlock refuses TCP before the network is looked at.
        assert!(matches!(error, Some("ENETUNREACH" | "EADDRNOTAVAIL" | "EACCES")), "{target}: {error:?}");
    }
    assert_eq!(seen["connect"]["docker"], "ENOENT");
}

#[test]
fn layer_13_the_zygote_has_little_power_no_user_code_and_no_secret() {
    let Some(server) = server() else { return };
    server.deploy("own", "SECRET = 'canary'\ndef handle(request):\n    return 1", json!({}));
    assert_eq!(server.post("/invoke/own", "").status, 200);
    // A child of it that has just been forked looks just like it.
    let zygote = eventually("one runtime to have one zygote", || match zygotes(server.pid())[..] {
        [zygote] => Some(zygote),
        _ => None,
    });
    let seen = status(zygote);
    // SETGID, SETUID, SETPCAP, SYS_ADMIN.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(seen[set], "00000000002001c0", "{set}");
    }
    assert_eq!((seen["CapInh"].as_str(), seen["CapAmb"].as_str()), ("0000000000000000", "0000000000000000"));
    assert_eq!((seen["NoNewPrivs"].as_str(), seen["Threads"].as_str()), ("1", "1"));
    assert_ne!(namespace(zygote, "mnt"), namespace(server.pid(), "mnt"));
    let environment = std::fs::read_to_string(format!("/proc/{zygote}/environ")).unwrap();
    let names: Vec<&str> = environment.split_terminator('\0').map(|entry| entry.split_once('=').unwrap().0).collect();
    assert_eq!(names, ["PATH", "LANG", "HOME"]);
    // While it makes a blank it has that one's descriptors too.
    eventually("/dev/null, the log twice, the control socket, both ends of a pipe", || {
        (descriptors(zygote) == 6).then_some(())
    });
    for secret in ["etc/shadow", "root/.ssh", "sys", "var"] {
        assert!(!PathBuf::from(format!("/proc/{zygote}/root/{secret}")).exists(), "it sees /{secret}");
    }
}
