//! Isolation at level strict, through the running server: what a function sees, what it may ask of the kernel, and
//! what becomes of a hostile one. `sandbox_plan.rs` asserts the same layers without a server.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use common::host::{
    cgroup_directories, cgroup_parents, descendants, descriptors, namespace, status, zygotes, Holdings,
};
use common::{eventually, is_root, skip, slowed, Reply, Server};
use serde_json::{json, Value};

const LOOK: &str = include_str!("isolation/look.py");
const ABUSE: &str = include_str!("isolation/abuse.py");
const UID_BASE: u32 = 2_000_000_000;
const NAMESPACES: [&str; 7] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];

/// A server with a small pool, so that it is soon at rest, and a secret in its environment. `None` without root.
fn server() -> Option<Server> {
    if !is_root() {
        skip("process mode at level strict needs root");
        return None;
    }
    Some(Server::with("pool_size: 2\ndrain_timeout: 2", ""))
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

#[test]
fn an_instance_sees_itself_and_nothing_of_the_host() {
    let Some(server) = server() else { return };
    server.deploy("look", LOOK, json!({ "environment": { "MINE": "yes" } }));
    let (seen, pid) = look(&server, "look");

    // Namespaces: alone, the first process there is, in none of the server's.
    assert_eq!((&seen["pid"], &seen["ppid"], &seen["session"]), (&1.into(), &0.into(), &1.into()));
    assert_eq!(seen["processes"], json!(["1"]));
    assert_ne!(pid, 1);
    for kind in NAMESPACES {
        assert_ne!(namespace(pid, kind), namespace(server.pid(), kind), "{kind}");
    }
    assert_eq!(seen["hostname"], "faas");

    // Identity: 1000 inside, a user of its own outside, and no way to any other.
    let ids = json!([[1000, 1000, 1000], [1000, 1000, 1000], []]);
    assert_eq!(seen["ids"], ids);
    let outside = status(pid);
    let uid = numbers(&outside["Uid"])[0];
    assert!((UID_BASE..UID_BASE + 1000).contains(&uid), "{uid}");
    assert_eq!((numbers(&outside["Uid"]), numbers(&outside["Gid"])), (vec![uid; 4], vec![uid; 4]));
    assert_eq!(outside.get("Groups").map_or("", String::as_str), "");
    assert_eq!(seen["uid_map"], json!(["1000", uid.to_string(), "1"]));

    // Privilege, asked from both sides.
    for side in [&outside, &serde_json::from_value(seen["status"].clone()).unwrap()] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(side[set], "0000000000000000", "{set}");
        }
        assert_eq!((side["NoNewPrivs"].as_str(), side["Seccomp"].as_str()), ("1", "2"));
    }
    // The files of a process that is not dumpable belong to root.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/environ")).unwrap());
    assert_eq!(owner, 0, "it is dumpable");

    // No network but a loopback that is down.
    let devices = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let devices: Vec<&str> =
        devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(devices, ["lo"]);
    for target in ["server", "loopback", "loopback6", "metadata"] {
        let error = seen["connect"][target].as_str();
        assert!(matches!(error, Some("ENETUNREACH" | "EADDRNOTAVAIL" | "EACCES")), "{target}: {error:?}");
    }
    assert_eq!(seen["connect"]["docker"], "ENOENT");

    // Files.
    for (path, error) in seen["hidden"].as_object().unwrap() {
        assert_eq!(error, "ENOENT", "{path}");
    }
    assert_eq!(seen["writable"], json!([]));
    assert_eq!(seen["own"], json!([null, null]), "/tmp and /dev/shm are its own");
    for file in ["self_exe", "interpreter"] {
        assert!(matches!(seen[file].as_str(), Some("EROFS" | "ETXTBSY" | "EACCES")), "{file}: {}", seen[file]);
    }
    assert_eq!(seen["proc"], json!(["self", "thread-self"]));
    assert_eq!(seen["core_pattern"], "ENOENT");
    assert_eq!(seen["dev"], json!(["full", "null", "random", "shm", "urandom", "zero"]));
    for (path, error) in seen["devices"].as_object().unwrap() {
        assert_eq!(error, "ENOENT", "{path}");
    }
    let root: BTreeSet<&str> = seen["root"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for absent in ["sys", "run", "var", "boot", "bin", "sbin", "mnt", "srv"] {
        assert!(!root.contains(absent), "{root:?}");
    }
    for mount in seen["mounts"].as_array().unwrap().iter().filter_map(Value::as_str) {
        let fields: Vec<&str> = mount.split(' ').collect();
        let options: Vec<&str> = fields[3].split(',').collect();
        let own = ["/tmp", "/dev/shm", "/proc"].contains(&fields[1]);
        assert!(options.contains(&"nosuid"), "{mount}");
        assert_eq!(own, options.contains(&"rw"), "{mount}");
        assert!(!mount.contains("cgroup") && !mount.contains("sysfs"), "{mount}");
    }

    // Descriptors, environment, limits.
    let fds: BTreeSet<&String> = seen["descriptors"].as_object().unwrap().keys().collect();
    assert_eq!(fds.into_iter().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{}", seen["descriptors"]);
    assert_eq!(seen["descriptors"]["0"], "/dev/null");
    let environment: BTreeSet<&str> = seen["environ"].as_object().unwrap().keys().map(String::as_str).collect();
    let shims = ["PATH", "LANG", "HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE"];
    let told = ["FAAS_FUNCTION", "FAAS_VERSION", "FAAS_INSTANCE", "MINE"];
    assert_eq!(environment, shims.into_iter().chain(told).collect(), "{}", seen["environ"]);
    let hard = |name: &str| seen["limits"][name][1].as_i64().unwrap();
    assert_eq!([hard("NOFILE"), hard("FSIZE"), hard("STACK")], [256, 64 << 20, 8 << 20]);
    assert_eq!(["CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO"].map(hard), [0; 5]);
}

#[test]
fn two_instances_share_no_namespace_and_no_user() {
    let Some(server) = server() else { return };
    let code = "import os, time\ndef handle(request):\n    time.sleep(1)\n    return os.getpid()";
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
fn the_kernel_is_told_the_limits_of_the_config() {
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

#[cfg(target_arch = "x86_64")]
#[test]
fn every_forbidden_system_call_is_refused() {
    let Some(server) = server() else { return };
    let said = server.run("refusals", include_str!("isolation/refusals.py"), "");
    assert!(said["checked"].as_u64() > Some(80), "{said}");
    assert_eq!(said["wrong"], json!([]));
}

#[test]
fn the_zygote_has_little_power_no_user_code_and_no_secret() {
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

/// What a hostile call must meet.
enum Meets {
    /// It is left to tell, and tells this.
    Answer(Value),
    /// It is left to tell, and this is looked for in what it tells.
    Telling(&'static str),
    /// This status with this code.
    Problem(u16, &'static str),
    /// Any of these: which one is the kernel's and the interpreter's affair.
    OneOf(&'static [(u16, &'static str)]),
}

use Meets::{Answer, OneOf, Problem, Telling};

fn met(reply: &Reply, expected: &Meets) -> bool {
    let problem = |status: u16, code: &str| reply.status == status && reply.code() == code;
    match expected {
        Answer(value) => reply.status == 200 && reply.json() == *value,
        Telling(text) => reply.status == 200 && reply.text().contains(text),
        Problem(status, code) => problem(*status, code),
        OneOf(all) => all.iter().any(|(status, code)| match *status {
            200 => reply.status == 200,
            status => problem(status, code),
        }),
    }
}

/// Runs each case as a function of its own. After each, another function answers from where it was, the function
/// itself answers, and once it is deleted the server holds just what it held before.
fn endure(mut config: Value, cases: &[(&str, Meets)]) {
    let Some(server) = server() else { return };
    let timeout = std::time::Duration::from_secs_f64(config["timeout"].as_f64().unwrap());
    config["timeout"] = slowed(timeout).as_secs_f64().into();
    let counter = "count = 0\ndef handle(request):\n    global count\n    count += 1\n    return count";
    server.deploy("neighbour", &format!("CANARY = 'canary-' + 'of-another'\n{counter}"), json!({}));
    let groups = cgroup_parents(&server);
    // The first call of each kind makes threads and files that stay.
    server.deploy("first", ABUSE, config.clone());
    assert_eq!(server.post("/invoke/first/fine", "").status, 200);
    assert_eq!(server.call("DELETE", "/functions/first", "").status, 204);
    assert_eq!(server.post("/invoke/neighbour", "").text(), "1");
    let before = Holdings::at_rest(&server, &groups);
    for (number, (name, expected)) in cases.iter().enumerate() {
        let started = std::time::Instant::now();
        server.deploy(name, ABUSE, config.clone());
        let reply = server.post(&format!("/invoke/{name}/{name}"), "");
        assert!(met(&reply, expected), "{name}: {} {}", reply.status, &reply.text()[..reply.text().len().min(500)]);
        let count = server.post("/invoke/neighbour", "");
        assert_eq!((count.status, count.text()), (200, (number + 2).to_string()), "after {name}");
        let again = server.post(&format!("/invoke/{name}/fine"), "");
        assert_eq!((again.status, again.text().as_str()), (200, "\"fine\""), "after {name}");
        assert_eq!(server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
        before.await_again(&server, &groups, name);
        eprintln!("{name}: {:?}", started.elapsed());
    }
    let resident: u64 = status(server.pid())["VmRSS"].trim_end_matches(" kB").parse().unwrap();
    assert!(resident < 200 << 10, "the server itself holds {resident} kB");
}

#[test]
fn a_function_that_takes_all_it_can_meets_its_limits() {
    endure(
        json!({ "memory": "64Mi", "timeout": 10 }),
        &[
            ("forks_for_ever", Answer(json!({ "count": 63, "error": "EAGAIN" }))),
            ("forks_that_fork", Answer(json!("EAGAIN"))),
            ("starts_threads_for_ever", Telling("can't start new thread")),
            ("allocates_ten_times_its_memory", Problem(502, "function_out_of_memory")),
            ("two_children_share_it_out", OneOf(&[(200, ""), (502, "function_out_of_memory")])),
            ("fills_tmp", OneOf(&[(200, ""), (502, "function_out_of_memory")])),
            ("writes_a_sparse_terabyte", Answer(json!("EFBIG"))),
            ("makes_a_million_files", Telling("ENOSPC")),
            ("opens_files_until_refused", Telling("EMFILE")),
            ("opens_sockets_until_refused", Telling("EMFILE")),
            ("prints_without_end", Answer(json!("printed"))),
            ("returns_too_much", Problem(502, "response_too_large")),
        ],
    );
}

#[test]
fn a_function_that_does_not_end_is_ended() {
    endure(
        json!({ "timeout": 1.5 }),
        &[
            ("sleeps_past_its_timeout_ignoring_signals", Problem(504, "function_timeout")),
            ("burns_all_processors", Problem(504, "function_timeout")),
            ("builds_an_enormous_number", Problem(504, "function_timeout")),
            ("matches_for_ever", Problem(504, "function_timeout")),
            ("raises_what_is_never_told", Problem(504, "function_timeout")),
            ("never_ends_at_exit", Answer(json!("registered"))),
            ("leaves_a_daemon", Answer(json!("left"))),
        ],
    );
}

#[test]
fn a_function_that_breaks_itself_breaks_nothing_else() {
    endure(
        json!({ "timeout": 10 }),
        &[
            ("exits", Problem(502, "function_crashed")),
            ("crashes", Problem(502, "function_crashed")),
            ("aborts", Problem(502, "function_crashed")),
            ("closes_every_descriptor", Problem(502, "function_crashed")),
            ("recurses", Problem(500, "function_error")),
            ("recurses_in_c", Problem(500, "function_error")),
            ("returns_an_object", Problem(502, "invalid_response")),
            ("returns_a_cycle", Problem(502, "invalid_response")),
            ("raises_what_cannot_be_told", Problem(500, "function_error")),
            ("raises_system_exit", OneOf(&[(500, "function_error"), (502, "function_crashed")])),
            ("spoils_the_modules", OneOf(&[(200, ""), (502, "function_crashed"), (502, "invalid_response")])),
            ("stops_itself", Answer(json!("cannot be stopped"))),
        ],
    );
}

#[test]
fn a_function_that_attacks_its_channel_ends_only_itself() {
    endure(
        json!({ "timeout": 3 }),
        &[
            ("speaks_garbage", Problem(502, "protocol_violation")),
            ("speaks_of_a_huge_payload", Problem(502, "protocol_violation")),
            // It is taken for the end of the channel; what was said behind it still counts.
            ("speaks_an_empty_message", OneOf(&[(200, ""), (502, "function_crashed")])),
            ("forges_an_answer", OneOf(&[(200, ""), (502, "protocol_violation")])),
            ("takes_the_calls_of_later_for_itself", Problem(504, "function_timeout")),
        ],
    );
}

#[test]
fn a_function_that_looks_for_others_finds_nobody() {
    endure(
        json!({ "timeout": 20 }),
        &[
            ("kills_everybody", Answer(json!("nobody else was there"))),
            ("searches_its_memory", Telling("\"found\":0")),
            ("walks_out", Answer(json!([]))),
            ("raises_its_limits", Answer(json!([]))),
            ("leaves_messages_behind", Answer(json!({ "seen": false, "made": true }))),
        ],
    );
}

#[test]
fn a_thread_left_running_cannot_write_into_a_later_answer() {
    let Some(server) = server() else { return };
    server.deploy("late", ABUSE, json!({}));
    let reply = server.post("/invoke/late/leaves_a_thread_that_writes_into_later_replies", "");
    assert!(met(&reply, &OneOf(&[(200, ""), (502, "protocol_violation")])), "{}", reply.text());
    // A call that the instance had begun when the garbage was read goes down with it; none gets anything else.
    eventually("an instance without that thread", || {
        let again = server.post("/invoke/late/fine", "");
        assert!(met(&again, &OneOf(&[(200, ""), (502, "protocol_violation")])), "{}", again.text());
        (again.status == 200 && again.text() == "\"fine\"" && server.home.log().contains("broke the frame protocol"))
            .then_some(())
    });
}

#[test]
fn nothing_of_an_instance_is_left_when_its_function_is_deleted() {
    let Some(server) = server() else { return };
    server.deploy("gone", ABUSE, json!({}));
    assert_eq!(server.post("/invoke/gone/leaves_a_daemon", "").status, 200);
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
