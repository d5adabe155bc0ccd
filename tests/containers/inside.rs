//! What a function in a container is and is not, as it finds out itself.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::common::host::{cgroup_directories, namespace, status};
use crate::scene::{assert_processes_answer, container, deploy, engine, found, server, EXEC};

#[test]
fn the_first_call_is_answered_by_a_container_of_its_own() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(
        &server,
        "f",
        "count = 0\ndef handle(request):\n    global count\n    count += 1\n    return count",
        json!({}),
    );
    let function = server.get("/functions/f").json();
    assert_eq!(function["config"]["execution_mode"], "container", "{function}");
    let first = server.invoke("f", "");
    assert_eq!((first.status, first.text().as_str()), (200, "1"), "{}", first.text());
    assert_eq!(first.header("x-faas-cold-start"), Some("true"));
    let second = server.invoke("f", "");
    assert_eq!((second.text().as_str(), second.header("x-faas-cold-start")), ("2", Some("false")));
    assert_eq!(first.header("x-faas-instance"), second.header("x-faas-instance"));
    // It is the process that the API names, and the label says whose it is.
    let container = container(engine, &server, "f");
    assert_eq!(container["Config"]["Labels"]["faas.managed"], "1", "{container:#}");
    assert_ne!(namespace(server.pid(), "mnt"), namespace(container["State"]["Pid"].as_u64().unwrap() as u32, "mnt"));
}

#[test]
fn its_root_can_be_read_and_nothing_of_it_written() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({}));
    let code = r#"
import errno
def met(path):
    try:
        with open(path, "w") as file:
            file.write("x")
        return "written"
    except OSError as error:
        return errno.errorcode[error.errno]
root = [line.split() for line in open("/proc/self/mountinfo") if line.split()[4] == "/"][-1]
places = ["/x", "/usr/x", "/etc/x", "/etc/passwd", "/var/x", "/faas/x", "/faas/run/x", "/faas/shim/x", "/proc/sys/x",
          "/usr/lib/x", sys.executable, os.path.join(os.path.dirname(os.__file__), "os.py"), "/proc/sysrq-trigger",
          "/proc/sys/kernel/core_pattern", "/sys/x"]
got = {"root": root[5].split(","), "met": {place: met(place) for place in places}, "tmp": met("/tmp/x"),
       "shm": met("/dev/shm/x"), "python": os.path.exists(sys.executable)}
"#;
    let got = found(&server, "f", code);
    assert!(got["root"].as_array().unwrap().contains(&json!("ro")), "{got:#}");
    for (place, met) in got["met"].as_object().unwrap() {
        assert!(["EROFS", "EACCES", "EPERM", "ENOENT"].contains(&met.as_str().unwrap()), "{place}: {met}");
    }
    assert_eq!((&got["tmp"], &got["python"]), (&json!("written"), &json!(true)), "{got:#}");
}

#[test]
fn it_is_a_common_user_without_a_capability_who_gains_none() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({}));
    let code = r#"
lines = dict(line.rstrip("\n").split(":\t") for line in open("/proc/self/status") if ":\t" in line)
try:
    os.setuid(0)
    gain = "root"
except OSError:
    gain = None
got = {"status": lines, "gain": gain, "uid": os.getuid(), "groups": [it for it in os.getgroups() if it != os.getgid()]}
"#;
    let got = found(&server, "f", code);
    let inside = &got["status"];
    let pid = server.instances("f")[0]["pid"].as_u64().unwrap() as u32;
    let outside = status(pid);
    for field in ["Uid", "Gid"] {
        for ids in [inside[field].as_str().unwrap(), outside[field].as_str()] {
            assert!(ids.split_ascii_whitespace().all(|id| id != "0"), "{field}: {ids}");
        }
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(inside[set], "0000000000000000", "{set}");
    }
    assert_eq!((&inside["NoNewPrivs"], &inside["Seccomp"]), (&json!("1"), &json!("2")));
    // Docker puts the user's own group on the list once more.
    let own = got["uid"].clone();
    assert!(got["groups"] == json!([]) || got["groups"] == json!([own]), "{got:#}");
    assert_eq!(got["gain"], Value::Null, "{got:#}");
    assert_ne!(got["uid"], 0);
}

#[test]
fn it_has_no_network_and_does_not_reach_the_server() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({}));
    let own = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listener = TcpListener::bind(own).unwrap();
    let code = format!(
        r#"
def met(family, address):
    try:
        with socket.socket(family) as s:
            s.settimeout(5)
            s.connect(address)
        return "connected"
    except OSError:
        return None
try:
    interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
except OSError:
    interfaces = []
try:
    name = socket.getaddrinfo("localhost.localdomain.test", 80)
except OSError:
    name = None
got = {{"interfaces": interfaces, "name": name,
        "met": [met(socket.AF_INET, ("127.0.0.1", {})), met(socket.AF_INET, ("127.0.0.1", {})),
                met(socket.AF_INET6, ("::1", {})), met(socket.AF_UNIX, {:?})]}}
"#,
        server.address.port(),
        listener.local_addr().unwrap().port(),
        server.address.port(),
        engine.socket(),
    );
    let got = found(&server, "f", &code);
    assert_eq!(got["met"], json!([null, null, null, null]), "{got:#}");
    assert_eq!(got["name"], Value::Null);
    assert!(got["interfaces"].as_array().unwrap().iter().all(|name| name == "lo"), "{got:#}");
    let pid = server.instances("f")[0]["pid"].as_u64().unwrap() as u32;
    assert_ne!(namespace(pid, "net"), namespace(server.pid(), "net"));
}

#[test]
fn the_hosts_network_is_for_those_who_ask_and_may_have_it() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "allowed_networks: [none, host]");
    deploy(&server, "host", EXEC, json!({ "network": "host" }));
    deploy(&server, "none", EXEC, json!({}));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let code = format!(
        "with socket.socket() as s:\n    got = s.connect_ex(('127.0.0.1', {}))",
        listener.local_addr().unwrap().port()
    );
    assert_eq!(found(&server, "host", &code), 0);
    assert_ne!(found(&server, "none", &code), 0);
}

#[test]
fn two_containers_share_no_namespace_and_no_user_with_each_other_or_the_host() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    let mut pids = vec![server.pid()];
    for name in ["one", "two"] {
        deploy(&server, name, EXEC, json!({}));
        found(&server, name, "got = 1");
        pids.push(server.instances(name)[0]["pid"].as_u64().unwrap() as u32);
    }
    let users: BTreeSet<_> = pids.iter().map(|&pid| status(pid)["Uid"].clone()).collect();
    assert_eq!(users.len(), 3, "each has a user of the host's of its own: {users:?}");
    for kind in ["pid", "mnt", "net", "ipc", "uts"] {
        let namespaces: BTreeSet<_> = pids.iter().map(|&pid| namespace(pid, kind)).collect();
        assert_eq!(namespaces.len(), 3, "{kind}: {namespaces:?}");
    }
    assert_eq!(found(&server, "one", "got = os.getpid()"), 1);
    let seen = found(&server, "one", "got = sorted(name for name in os.listdir('/proc') if name.isdigit())");
    assert_eq!(seen, json!(["1"]), "it sees its own processes alone");
}

#[test]
fn it_has_three_descriptors_and_its_channel() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({}));
    // The one of the directory that is listed is gone when the list is looked at.
    let code = "got = [int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd) \
                or int(fd) < 4]";
    assert_eq!(found(&server, "f", code), json!([0, 1, 2, 3]));
}

#[test]
fn its_limits_are_the_functions_whatever_its_container_was_made_with() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    for (name, memory, bytes, cpu, quota) in
        [("small", "96Mi", 96_u64 << 20, 0.5, "50000"), ("large", "512Mi", 512 << 20, 2.0, "200000")]
    {
        deploy(&server, name, EXEC, json!({ "memory": memory, "cpu_limit": cpu }));
        found(&server, name, "got = 1");
        // By the kernel's word: Podman 4.3 goes on to describe the container as it was made.
        let (bytes, tasks) = (bytes.to_string(), faas::limits::INSTANCE_TASKS_MAX.to_string());
        let groups = cgroup_directories(server.instances(name)[0]["pid"].as_u64().unwrap() as u32);
        let read = |file: &str| groups.iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok());
        let holds = |v1: &str, v2: &str, wanted: &str, wanted_v2: &str| {
            let found = (read(v1), read(v2));
            let is_so = found.0.as_deref().map(str::trim) == Some(wanted)
                || found.1.as_deref().map(str::trim) == Some(wanted_v2);
            assert!(is_so, "{name}: {v1}, {v2} of {groups:?}: {found:?}");
        };
        holds("memory.limit_in_bytes", "memory.max", &bytes, &bytes);
        // One of memory and swap, one of swap alone.
        holds("memory.memsw.limit_in_bytes", "memory.swap.max", &bytes, "0");
        holds("cpu.cfs_quota_us", "cpu.max", quota, &format!("{quota} 100000"));
        holds("pids.max", "pids.max", &tasks, &tasks);
    }
}

#[test]
fn a_function_beyond_its_memory_is_told_that_it_was_memory_and_one_that_exits_that_it_exited() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({ "memory": "64Mi" }));
    assert_eq!(found(&server, "f", "got = 1"), 1);
    for (code, problem, words) in [
        ("x = b'x' * (200 << 20)", "function_out_of_memory", "67108864"),
        ("os._exit(3)", "function_crashed", "exited with status 3"),
        ("import ctypes; ctypes.string_at(0)", "function_crashed", "ended by signal 11"),
    ] {
        let reply = server.invoke("f", code);
        let detail = reply.refused(502, problem);
        assert!(detail.contains(words), "{code}: {detail}");
        assert_eq!(found(&server, "f", "got = 2"), 2, "after {code}");
        assert_processes_answer(&server);
    }
}

#[test]
fn a_child_that_takes_all_the_memory_takes_its_whole_instance_with_it() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    deploy(&server, "f", EXEC, json!({ "memory": "64Mi" }));
    assert_eq!(found(&server, "f", "got = 1"), 1);
    // The kernel may kill the child alone; its parent would wait for it, or go on.
    let code = "if os.fork() == 0: b'x' * (200 << 20)\nos.wait()\ntime.sleep(20)\ngot = 1";
    let detail = server.invoke("f", code).refused(502, "function_out_of_memory");
    assert!(detail.contains("67108864"), "{detail}");
    assert_eq!(found(&server, "f", "got = 2"), 2);
}

#[test]
fn under_apparmor_it_has_the_engines_profile_or_the_one_that_is_configured() {
    if !Path::new("/sys/kernel/security/apparmor").exists() {
        eprintln!("DOES NOT APPLY here: there is no AppArmor, as there is in the machine of `make test-vm`");
        return;
    }
    let Some(engine) = engine() else { return };
    let look = "got = open('/proc/self/attr/current').read().strip()";
    let version =
        "try:\n    got = len(open('/etc/debian_version').read()) > 0\nexcept PermissionError:\n    got = 'refused'";
    let own = server(engine.socket(), "");
    deploy(&own, "f", EXEC, json!({}));
    assert_eq!(found(&own, "f", look), "docker-default (enforce)");
    assert_eq!(found(&own, "f", version), true);
    drop(own);

    let name = format!("faas-test-{}", std::process::id());
    let profile = Profile::load(&format!(
        "profile {name} flags=(attach_disconnected, mediate_deleted) {{\n  file,\n  network,\n  signal,\n  unix,\n  \
         deny /etc/debian_version r,\n}}\n"
    ));
    let named = server(engine.socket(), &format!("container_security_label: apparmor={name}"));
    deploy(&named, "f", EXEC, json!({}));
    assert_eq!(found(&named, "f", look), json!(format!("{name} (enforce)")));
    assert_eq!(found(&named, "f", version), "refused");
    drop(named);
    drop(profile);

    // One that nobody has loaded is named, and nothing runs without it.
    let without = server(engine.socket(), &format!("container_security_label: apparmor={name}"));
    let body = json!({ "name": "f", "code": EXEC, "config": { "execution_mode": "container" } }).to_string();
    let detail = without.call("POST", "/functions", &body).refused(503, "check_failed");
    assert!(detail.contains("container_security_label") && detail.contains(&name), "{detail}");
    assert_processes_answer(&without);
}

/// A profile of AppArmor's in the kernel, until this is dropped.
struct Profile(String);

impl Profile {
    fn load(text: &str) -> Profile {
        let profile = Profile(text.to_owned());
        profile.tell("--add");
        profile
    }

    fn tell(&self, order: &str) {
        let mut parser = Command::new("apparmor_parser")
            .args([order, "--skip-cache"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("what loads profiles is installed");
        parser.stdin.take().unwrap().write_all(self.0.as_bytes()).unwrap();
        assert!(parser.wait().unwrap().success(), "{order}: {}", self.0);
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.tell("--remove");
    }
}

#[test]
fn a_function_goes_from_one_mode_to_the_other_and_back() {
    let Some(engine) = engine() else { return };
    let server = server(engine.socket(), "");
    server.deploy("f", EXEC, json!({}));
    let is_in_a_container = || {
        assert_eq!(found(&server, "f", "got = 1"), 1);
        let instances = server.instances("f");
        // Those of the version before may be on their way out.
        let newest = instances.iter().max_by_key(|it| it["version"].as_u64()).and_then(|it| it["pid"].as_u64());
        newest.is_some_and(|pid| engine.container_of(pid as u32).is_some())
    };
    assert!(!is_in_a_container());
    for (mode, expected) in [("container", true), ("process", false), ("container", true)] {
        let update = json!({ "config": { "execution_mode": mode } }).to_string();
        assert_eq!(server.call("PUT", "/functions/f", &update).status, 200);
        assert_eq!(is_in_a_container(), expected, "{mode}");
        server.await_idle("f", 1);
    }
}
