//! The sandbox from inside: a zygote is made by the real plan through the real binary, forks an instance by the real
//! plans, and the instance tells what it sees. Layers are those of SPECIFICATION.md, each asserted by itself.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod sandbox;

use faas::sandbox::layer::Layers;
use faas::sandbox::plan::{instance_inner_plan, InstanceSpec, Privilege};
use faas::sys::process::{pidfd_kill, ProcessEnd};
use serde_json::Value;

use sandbox::{python, root_or_skip, Zygote, ALLOW_ALL, HOST_UID};

fn spec(privilege: Privilege) -> InstanceSpec {
    let mut spec = InstanceSpec::strict(privilege, HOST_UID, ALLOW_ALL.to_vec());
    spec.tmp_bytes = 8 << 20;
    spec.file_bytes = 16 << 20;
    spec.tmp_inodes = 100;
    spec
}

#[test]
fn every_layer_holds_as_seen_from_inside() {
    if root_or_skip("every_layer_holds_as_seen_from_inside") {
        return;
    }
    let interpreter = python("python3");
    let zygote = Zygote::start(&interpreter, Privilege::Root);
    let instance = zygote.spawn(&spec(Privilege::Root));
    let seen = instance.look();
    let text = |key: &str| seen["status"][key].as_str().unwrap_or("").to_owned();

    // 1. Namespaces: alone, and pid 1; no network device but a loopback that is down.
    assert_eq!(seen["pid"], 1, "{seen:#}");
    assert_eq!((&seen["ppid"], &seen["sid"]), (&0.into(), &1.into()));
    assert_eq!(seen["interfaces"], serde_json::json!(["lo"]));
    // Landlock, where it knows of TCP, refuses before the network is looked at.
    assert!([libc::ENETUNREACH, libc::EACCES].map(Value::from).contains(&seen["connect"]), "{}", seen["connect"]);
    assert_eq!(seen["hostname"], "faas");
    for name in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_ne!(link(&instance.pid.to_string()), link("self"), "the {name} namespace is the host's");
    }

    // 2. Identity: a host user id of its own, seen as 1000, with no way to another.
    let host_status = std::fs::read_to_string(format!("/proc/{}/status", instance.pid)).unwrap();
    let ids = format!("{HOST_UID}\t{HOST_UID}\t{HOST_UID}\t{HOST_UID}");
    assert!(host_status.contains(&format!("Uid:\t{ids}\nGid:\t{ids}\n")), "{host_status}");
    assert!(host_status.contains(&format!("PPid:\t{}\n", std::process::id())), "the server is not its parent");
    assert_eq!(seen["uid"], serde_json::json!([1000, 1000, 1000]));
    assert_eq!(seen["gid"], serde_json::json!([1000, 1000, 1000]));
    assert_eq!(seen["groups"], serde_json::json!([]));
    assert_eq!(seen["uid_map"], serde_json::json!(["1000", HOST_UID.to_string(), "1"]));
    assert_eq!(seen["setgroups"], "deny");
    assert_eq!(seen["setuid"], libc::EINVAL, "user 0 exists in there");
    assert_eq!(seen["setgroups_call"], libc::EPERM);

    // 3. The tree: only what is named, read-only but for /tmp and /dev/shm, and those with an end.
    let home = interpreter.executable.iter().nth(1).unwrap().to_str().unwrap();
    let expected_root = ["dev", "etc", "faas", "lib", "lib64", "proc", "tmp", "usr", home];
    let root: Vec<&str> = seen["root"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    assert!(root.iter().all(|name| expected_root.contains(name)), "{root:?}");
    let beside = interpreter.executable.parent().unwrap();
    assert_eq!(seen["beside"], serde_json::json!([interpreter.executable.file_name().unwrap().to_str()]), "{beside:?}");
    assert_eq!(seen["writable"], serde_json::json!([]));
    assert_eq!(seen["unwritable"], libc::EROFS);
    assert_eq!((&seen["tmp"], &seen["shm"]), (&"None".into(), &"None".into()));
    assert_eq!(seen["fill_tmp"], libc::ENOSPC);
    assert_eq!(seen["sparse"], libc::EFBIG);
    assert_eq!(seen["inodes"], libc::ENOSPC);
    for name in seen["etc"].as_array().unwrap() {
        let known = [
            "passwd",
            "group",
            "hosts",
            "resolv.conf",
            "nsswitch.conf",
            "localtime",
            "ld.so.cache",
            "ssl",
            "pki",
            "ca-certificates",
        ];
        assert!(known.contains(&name.as_str().unwrap()), "/etc shows {name}");
    }
    assert_eq!((&seen["packages"], &seen["hidden"]), (&serde_json::json!([]), &serde_json::json!([])));
    for mount in seen["mounts"].as_array().unwrap().iter().filter_map(|line| line.as_str()) {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (target, options) = (fields[1], fields[3].split(',').collect::<Vec<_>>());
        assert!(options.contains(&"nosuid"), "{mount}");
        let device = target.starts_with("/dev/") && target != "/dev/shm";
        assert!(device || options.contains(&"nodev"), "{mount}");
        let own = ["/tmp", "/dev/shm", "/proc"].contains(&target);
        assert_eq!(own, options.contains(&"rw"), "{mount}");
        assert!(!own || options.contains(&"noexec"), "{mount}");
    }

    // 4. /proc: its own process, and nothing of the host.
    assert_eq!(seen["proc"], serde_json::json!(["1", "self", "thread-self"]));
    assert_eq!(seen["core_pattern"], libc::ENOENT);

    // 5. /dev.
    assert_eq!(seen["dev"], serde_json::json!(["full", "null", "random", "shm", "urandom", "zero"]));
    assert_eq!((&seen["null"], &seen["random"]), (&"None".into(), &4.into()));

    // 6. Privilege.
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(text(set), "0000000000000000", "{set}");
    }
    assert_eq!(text("NoNewPrivs"), "1");
    assert_eq!((&seen["securebits"], &seen["dumpable"]), (&0xef.into(), &0.into()));
    for refused in ["chroot", "sethostname", "mount", "umount", "remount", "raise_limit"] {
        assert_eq!(seen[refused], libc::EPERM, "{refused}");
    }

    // 7. Seccomp is on.
    assert_eq!(text("Seccomp"), "2");

    // 9. Limits.
    let limit = |name: &str| seen["limits"][name][1].as_i64().unwrap();
    let limits = ["NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE", "STACK", "NICE", "RTPRIO"].map(limit);
    assert_eq!(limits, [256, 16 << 20, 0, 0, 0, 8 << 20, 0, 0]);

    // 10. Descriptors and environment.
    let names = |fd: &str| seen["descriptors"][fd].as_str().unwrap_or("absent").to_owned();
    assert_eq!(names("0"), "/dev/null");
    assert_eq!(text("SigBlk"), "0000000000000000");
    assert!(names("1").starts_with("pipe:") && names("1") == names("2"), "{}", seen["descriptors"]);
    assert!(names("3").starts_with("socket:"));
    assert_eq!(seen["descriptors"].as_object().unwrap().len(), 4, "{}", seen["descriptors"]);
    assert_eq!((&seen["cwd"], &seen["umask"]), (&"/tmp".into(), &0o077.into()));
    let environment: Vec<&String> = seen["environ"].as_object().unwrap().keys().collect();
    assert!(environment.iter().all(|name| ["HOME", "LANG", "PATH", "LC_CTYPE"].contains(&name.as_str())));
    assert_eq!(instance.output(), "to the output pipe");

    // 11. Life cycle: it dies with the server, not with the zygote.
    assert_eq!(seen["death_signal"], libc::SIGKILL);
    drop(zygote);
    instance.channel.assert_open();
    pidfd_kill(&instance.pidfd).unwrap();
    assert_eq!(instance.end(), ProcessEnd::Signal(libc::SIGKILL));
}

#[test]
fn an_instance_that_exits_tells_its_status_to_the_server() {
    if root_or_skip("an_instance_that_exits_tells_its_status_to_the_server") {
        return;
    }
    let zygote = Zygote::start(&python("python3"), Privilege::Root);
    let instance = zygote.spawn(&spec(Privilege::Root));
    instance.channel.send(b"leave");
    assert_eq!(instance.end(), ProcessEnd::Status(7));
}

#[test]
fn every_python_of_this_machine_works_in_the_tree() {
    if root_or_skip("every_python_of_this_machine_works_in_the_tree") {
        return;
    }
    for interpreter in sandbox::all_pythons() {
        let zygote = Zygote::start(&interpreter, Privilege::Root);
        let seen = zygote.spawn(&spec(Privilege::Root)).look();
        let (major, minor, micro) = interpreter.version;
        assert_eq!(seen["python"], serde_json::json!([major, minor, micro]));
        assert_eq!(seen["ssl"], "True", "{}: no certificates", interpreter.executable.display());
        assert_eq!(seen["hidden"], serde_json::json!([]), "{}", interpreter.executable.display());
        assert_eq!(seen["pid"], 1);
    }
}

#[test]
fn a_common_user_gets_every_layer_but_a_host_user_id() {
    if root_or_skip("a_common_user_gets_every_layer_but_a_host_user_id") {
        return;
    }
    let privilege = Privilege::Unprivileged { uid: 65534, gid: 65534 };
    // The system's Python: one under /root is out of a common user's reach.
    let zygote = Zygote::start(&sandbox::system_python(), privilege);
    let seen = zygote.spawn(&spec(privilege)).look();
    assert_eq!(seen["pid"], 1, "{seen:#}");
    assert_eq!(seen["uid"], serde_json::json!([1000, 1000, 1000]));
    assert_eq!(seen["proc"], serde_json::json!(["1", "self", "thread-self"]));
    assert_eq!(seen["writable"], serde_json::json!([]));
    assert_eq!(seen["interfaces"], serde_json::json!(["lo"]));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(seen["status"][set], "0000000000000000", "{set}");
    }
    for refused in ["chroot", "mount", "umount", "remount"] {
        assert_eq!(seen[refused], libc::EPERM, "{refused}");
    }
}

#[test]
fn a_step_that_fails_is_named() {
    if root_or_skip("a_step_that_fails_is_named") {
        return;
    }
    let zygote = Zygote::start(&python("python3"), Privilege::Root);
    let mut damaged = spec(Privilege::Root);
    // No such call: the kernel refuses a filter that ends without a verdict.
    damaged.seccomp = vec![0; 8];
    let step = instance_inner_plan(&damaged).steps().len() - 1;
    let failure = zygote.try_spawn(&damaged).err().unwrap();
    assert_eq!(failure, serde_json::json!([libc::EINVAL, format!("step {step}: load seccomp filter")]));

    damaged.seccomp = Vec::new();
    let failure = zygote.try_spawn(&damaged).err().unwrap();
    assert_eq!(failure, serde_json::json!([libc::EBADMSG, format!("step {step}: load seccomp filter")]));

    damaged.required = Layers::NONE;
    assert_eq!(zygote.spawn(&damaged).look()["status"]["Seccomp"], "0");

    // The zygote is not the worse for it.
    assert_eq!(zygote.spawn(&spec(Privilege::Root)).look()["pid"], 1);
}

/// The server of `instances_die_with_the_server`: makes an instance, says its pid, and waits to be killed.
#[test]
#[ignore = "run by instances_die_with_the_server, in a process of its own"]
fn a_server_to_be_killed() {
    let zygote = Zygote::start(&python("python3"), Privilege::Root);
    let instance = zygote.spawn(&spec(Privilege::Root));
    instance.channel.keep_open_in_a_child();
    println!("\npids {} {}", zygote.pid(), instance.pid);
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn instances_die_with_the_server() {
    if root_or_skip("instances_die_with_the_server") {
        return;
    }
    let mut server = sandbox::SeparateServer::start("a_server_to_be_killed");
    server.kill();
    // The channel is still open elsewhere, so that only the death signal can be what ends them.
    server.assert_orphans_die();
}

/// Not a check: prints what the steps cost, for the choice of the order and for SPECIFICATION.md.
#[test]
fn cost_of_a_blank() {
    if root_or_skip("cost_of_a_blank") {
        return;
    }
    let zygote = Zygote::start(&python("python3"), Privilege::Root);
    zygote.print_costs(&spec(Privilege::Root), 100);
}
