//! Containers of a real engine, made from our specs: what was asked for is there, in the engine's words and the kernel's,
//! and what is not is noticed.
//!
//! On an engine of the tests' own, or that which `FAAS_TEST_ENGINE` names (`engine`). Each test removes the containers
//! that it made, by its own label.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;
#[path = "container_walls/engine.rs"]
mod engine;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::patience;
use serde_json::{json, Value};

use faas::backend::docker::api::containers::{self, Status};
use faas::backend::docker::api::events::{self, Events, Happening};
use faas::backend::docker::api::system::{self, EngineKind};
use faas::backend::docker::hardening::{verify, verify_process, ContainerSpec};
use faas::limits;
use faas::sandbox::plan::Network;
use faas::sandbox::seccomp::{instance_filter, Arch, Sockets};

use engine::{Engine, MEBIBYTE};

/// The kernel's word on a process, once the container's program runs in it.
fn status_of(pid: u32) -> String {
    let deadline = Instant::now() + patience();
    loop {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        if command.starts_with("python3\0") {
            return std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        }
        assert!(Instant::now() < deadline, "{command:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_container_has_every_wall_it_was_asked_for_until_it_is_gone() {
    let Some(engine) = Engine::find("walls") else { return };
    let (status, body) = engine.ask(&system::ping());
    system::pinged(status, &body).unwrap();
    let listen = || engine.open(&events::subscribe(engine.kind, &containers::labels(&engine.server, 0)));
    let early = (engine.kind == EngineKind::Podman).then(listen);

    let mut spec = engine.spec(Network::None, "import time\ntime.sleep(600)");
    let id = engine.make(&spec);
    // Docker tells of what has been, too.
    let mut stream = early.unwrap_or_else(listen);
    let inspected = engine.inspect(&id);
    assert_eq!((&inspected.id, inspected.status, inspected.is_running), (&id, Status::Running, true));
    verify(&spec, &inspected).unwrap();
    let process = status_of(inspected.pid.unwrap());
    verify_process(&spec, &process).unwrap();

    let other = ContainerSpec { uid: spec.uid + 1, ..spec.clone() };
    assert_eq!(verify(&other, &inspected).unwrap_err().field, "Config.User");
    assert_eq!(verify_process(&other, &process).unwrap_err().field, "Uid of its process");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(verify_process(&ContainerSpec { uid: 0, ..spec.clone() }, &own).is_err(), "{own}");

    (spec.memory_bytes, spec.cpu_millis) = (256 * MEBIBYTE, 500);
    assert_eq!(verify(&spec, &inspected).unwrap_err().field, "HostConfig.Memory");
    for memory_bytes in [256 * MEBIBYTE, 64 * MEBIBYTE] {
        spec.memory_bytes = memory_bytes;
        let (status, body) = engine.ask(&containers::update(engine.kind, &id, spec.memory_bytes, spec.cpu_millis));
        containers::updated(engine.kind, status, &body).unwrap();
        // Podman 4.3 goes on to describe the container as it was made. The kernel is asked by tests/containers.rs.
        if engine.kind == EngineKind::Docker {
            verify(&spec, &engine.inspect(&id)).unwrap();
        }
    }

    let (status, body) = engine.ask(&containers::kill(&id));
    assert_eq!(status, 204);
    containers::killed(status, &body).unwrap();
    let (status, body) = engine.ask(&containers::wait(&id, patience()));
    assert_eq!(containers::waited(status, &body).unwrap(), 137);
    let ended = engine.inspect(&id);
    assert_eq!((ended.status, ended.pid, ended.exit_code, ended.is_out_of_memory), (Status::Ended, None, 137, false));
    let (status, body) = engine.ask(&containers::kill(&id));
    // Podman 4.3 says 500, and later ones what Docker says.
    let not_running: &[u16] = if engine.kind == EngineKind::Docker { &[409] } else { &[409, 500] };
    assert!(not_running.contains(&status), "it does not run any more: {status}");
    containers::killed(status, &body).unwrap();
    assert_eq!(engine.ours().iter().map(|one| (&one.id, one.is_running)).collect::<Vec<_>>(), [(&id, false)]);
    for expected in [204, 404] {
        let (status, body) = engine.ask(&containers::remove(&id));
        assert_eq!(status, expected);
        containers::removed(status, &body).unwrap();
    }
    assert_eq!(engine.ours(), []);

    let wanted = [Happening::Started, Happening::Died { status: Some(137) }, Happening::Removed];
    assert_eq!(happenings(&engine, &mut stream, &id, wanted.len()), wanted);
}

/// What the stream tells of a container: the first so many things. Podman 4.3 tells of all that have any of the labels.
fn happenings(engine: &Engine, stream: &mut UnixStream, id: &str, count: usize) -> Vec<Happening> {
    let (mut events, mut seen, mut bytes) = (Events::default(), Vec::new(), [0; 4096]);
    while seen.len() < count {
        let read = stream.read(&mut bytes).unwrap();
        assert!(read > 0, "the stream of events ended: {seen:?}");
        // Of head and chunks, the lines that are events are taken.
        let text = String::from_utf8(bytes[..read].to_vec()).unwrap();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            for event in events.push(format!("{line}\n").as_bytes()).unwrap() {
                let event = event.unwrap();
                if engine.kind == EngineKind::Docker || event.attributes["faas.server"] == engine.server {
                    assert_eq!(event.container, id);
                    seen.push(event.happening);
                }
            }
        }
    }
    seen
}

#[test]
fn every_single_thing_that_an_engine_leaves_out_is_noticed() {
    let Some(engine) = Engine::find("single") else { return };
    let spec = engine.spec(Network::None, "import time\ntime.sleep(600)");
    let id = engine.make(&spec);
    let inspected = engine.inspect(&id);
    verify(&spec, &inspected).unwrap();
    let is_reported = |path: &str| engine.kind == EngineKind::Docker || !NOT_REPORTED_BY_PODMAN.contains(&path);
    for (path, value) in ALTERED.iter().filter(|(path, _)| is_reported(path)) {
        let mut altered = inspected.clone();
        let place =
            altered.document.pointer_mut(&format!("/{}", path.replace('.', "/"))).unwrap_or_else(|| panic!("{path}"));
        *place = serde_json::from_str(value).unwrap();
        let ignored = verify(&spec, &altered).expect_err(path);
        assert!(path.starts_with(&ignored.field), "{path}: {ignored}");
    }
}

/// Fields, and what a forgetful engine would leave there.
const ALTERED: &[(&str, &str)] = &[
    ("Image", "\"sha256:0000000000000000000000000000000000000000000000000000000000000000\""),
    ("Path", "\"/bin/sh\""),
    ("Config.User", "\"\""),
    ("Config.Tty", "true"),
    ("HostConfig.Memory", "0"),
    ("HostConfig.MemorySwap", "-1"),
    ("HostConfig.CpuQuota", "0"),
    ("HostConfig.PidsLimit", "null"),
    ("HostConfig.ReadonlyRootfs", "false"),
    ("HostConfig.Tmpfs", "{\"/tmp\":\"\"}"),
    ("HostConfig.CapDrop", "null"),
    ("HostConfig.CapAdd", "[\"SYS_ADMIN\"]"),
    ("HostConfig.Privileged", "true"),
    ("HostConfig.SecurityOpt", "[\"no-new-privileges\"]"),
    ("HostConfig.NetworkMode", "\"default\""),
    ("HostConfig.IpcMode", "\"host\""),
    ("HostConfig.PidMode", "\"host\""),
    ("HostConfig.UTSMode", "\"host\""),
    ("HostConfig.UsernsMode", "\"host\""),
    ("HostConfig.CgroupnsMode", "\"host\""),
    ("HostConfig.MaskedPaths", "null"),
    ("HostConfig.ReadonlyPaths", "[]"),
    ("HostConfig.Ulimits", "null"),
    ("HostConfig.LogConfig.Config", "{}"),
    ("HostConfig.RestartPolicy.Name", "\"always\""),
    ("HostConfig.Devices", "[{\"PathOnHost\":\"/dev/kvm\"}]"),
    ("Mounts", "[]"),
    ("Mounts.0.RW", "true"),
    ("Mounts.1.Source", "\"/\""),
];

const NOT_REPORTED_BY_PODMAN: [&str; 3] =
    ["HostConfig.MaskedPaths", "HostConfig.ReadonlyPaths", "HostConfig.LogConfig.Config"];

/// What the container tells of itself: one JSON object on one line.
const LOOK_AROUND: &str = r#"
import ctypes, errno, json, os, resource, socket

def attempt(do):
    try:
        return do() or "done"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))

def mount_of(path):
    for line in open("/proc/self/mountinfo"):
        fields = line.split()
        if fields[4] == path:
            return fields[5] + "," + fields[-1]

def write(path):
    with open(path, "w") as file:
        file.write("x" * 10)

def fill(path):
    with open(path, "wb") as file:
        for _ in range(65):
            file.write(b"x" * (1 << 20))

def crowd(directory):
    for number in range(20000):
        os.close(os.open("%s/%d" % (directory, number), os.O_CREAT))

limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))
          for name in ("NOFILE", "FSIZE", "STACK", "CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO", "NPROC")}
seen = {
    "pid": os.getpid(),
    "ids": [os.getresuid(), os.getresgid()],
    "hostname": socket.gethostname(),
    "resolver": open("/etc/resolv.conf").read(),
    "interfaces": sorted(os.listdir("/proc/self/net/dev_snmp6")) if os.path.exists("/proc/self/net/dev_snmp6") else [],
    "sys": os.listdir("/sys"),
    "kallsyms": open("/proc/kallsyms").read(),
    "tmp": mount_of("/tmp"), "shm": mount_of("/dev/shm"), "root": mount_of("/"),
    "run": mount_of("/faas/run"), "shim": mount_of("/faas/shim"),
    "write /": attempt(lambda: write("/x")), "write /faas/run": attempt(lambda: write("/faas/run/x")),
    "write /run": attempt(lambda: write("/run/x")), "write /var/tmp": attempt(lambda: write("/var/tmp/x")),
    "write /faas/shim/container.py": attempt(lambda: write("/faas/shim/container.py")),
    "write /proc/sys/kernel/hostname": attempt(lambda: write("/proc/sys/kernel/hostname")),
    "fill /tmp": attempt(lambda: fill("/tmp/big")), "crowd /dev/shm": attempt(lambda: crowd("/dev/shm")),
    "message queue": attempt(lambda: write("/dev/mqueue/x")),
    "limits": limits,
}
print(json.dumps(seen))
"#;

#[test]
fn what_a_container_sees_of_itself_is_what_process_mode_gives() {
    let Some(engine) = Engine::find("inside") else { return };
    let spec = engine.spec(Network::Outbound, LOOK_AROUND);
    let text = engine.output_of(&spec);
    let seen: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let id = spec.uid;
    assert_eq!((&seen["pid"], &seen["hostname"]), (&json!(1), &json!("faas")), "{seen}");
    assert_eq!(seen["ids"], json!([[id, id, id], [id, id, id]]));
    let resolver = seen["resolver"].as_str().unwrap();
    for part in ["nameserver 127.0.0.53", "use-vc"] {
        assert!(resolver.contains(part), "{resolver}");
    }
    // Engines say in comments what they did.
    assert_eq!(resolver.lines().filter(|line| line.starts_with("nameserver")).count(), 1, "{resolver}");
    assert_eq!((&seen["sys"], &seen["kallsyms"]), (&json!([]), &json!("")), "{seen}");
    // Podman takes no limit on the number of files.
    let (inodes, crowded) = match engine.kind {
        EngineKind::Docker => ("nr_inodes=16384", "ENOSPC"),
        EngineKind::Podman => ("noexec", "done"),
    };
    for (mount, options) in [
        ("tmp", vec!["rw", "nosuid", "nodev", "noexec", "size=65536k", inodes]),
        ("shm", vec!["rw", "nosuid", "nodev", "noexec", "size=65536k", inodes]),
        ("root", vec!["ro"]),
        ("run", vec!["ro"]),
        ("shim", vec!["ro"]),
    ] {
        let found: Vec<&str> = seen[mount].as_str().unwrap().split(',').collect();
        assert!(options.iter().all(|option| found.contains(option)), "{mount}: {found:?}");
    }
    for (attempt, outcome) in [
        ("write /", "EROFS"),
        ("write /faas/run", "EROFS"),
        ("write /run", "EROFS"),
        ("write /var/tmp", "EROFS"),
        ("write /faas/shim/container.py", "EROFS"),
        ("write /proc/sys/kernel/hostname", "EROFS"),
        ("fill /tmp", "EFBIG"),
        ("crowd /dev/shm", crowded),
        ("message queue", "EMFILE"),
    ] {
        assert_eq!(seen[attempt], outcome, "{attempt}: {seen}");
    }
    let stack = limits::SANDBOX_STACK_BYTES;
    assert_eq!(seen["limits"]["STACK"], json!([stack, stack]));
    assert_eq!(seen["limits"]["NOFILE"], json!([limits::SANDBOX_OPEN_FILES, limits::SANDBOX_OPEN_FILES]));
    for none in ["CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO"] {
        assert_eq!(seen["limits"][none], json!([0, 0]), "{none}");
    }
}

/// Runs the probe of the filter's tests, with the profile in the filter's place. In a child, since the probe wants to be
/// refused what is its parent's, and process 1 has none.
const PROBE: &str = r#"
import os, sys
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
sys.argv = ["probe", "", ""]
source = open("/faas/shim/probe.py").read()
probe = {"__name__": "probe"}
exec(compile(source, "probe.py", "exec"), probe)
for case in probe["REFUSALS"]:
    wrong = probe["refusal"](*case)
    if wrong:
        print("refusal:", wrong)
for work in probe["WORK"]:
    try:
        work()
    except BaseException as error:
        print("work: %s: %s: %s" % (work.__name__, type(error).__name__, error))
print("end")
"#;

/// What a profile cannot say the error of: engines that know the default of a profile (not Docker 20.10) answer `ENOSYS`.
#[cfg(target_arch = "x86_64")]
const OTHER_ERRORS: [&str; 6] = [
    "prctl set_pdeathsig",
    "prctl set_dumpable",
    "prctl cap_ambient",
    "TIOCSTI",
    "TIOCSTI with high bits",
    "a raw socket",
];

#[cfg(target_arch = "x86_64")]
#[test]
fn the_standard_library_works_under_the_profile_and_what_is_forbidden_fails() {
    let Some(engine) = Engine::find("probe") else { return };
    let spec = engine.spec(Network::None, PROBE);
    std::fs::write(spec.shim_directory.join("probe.py"), include_str!("seccomp_probe.py")).unwrap();
    let text = engine.output_of(&spec);
    let others = OTHER_ERRORS.map(|name| format!("refusal: {name}: result -1, errno ENOSYS"));
    let unexpected: Vec<&str> = text.lines().filter(|line| !others.iter().any(|other| other == line)).collect();
    assert_eq!(unexpected, ["end"], "{text}");
}

/// Loads the filter that asks, and says what became of it.
const LOAD_BROKERED: &str = r#"
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
text = open("/faas/run/filter", "rb").read()

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

def load(flags):
    program = Program(len(text) // 8, text)
    result = libc.syscall(ctypes.c_long(number), ctypes.c_long(1), ctypes.c_long(flags), ctypes.byref(program))
    return "listener" if result > 2 else errno.errorcode.get(ctypes.get_errno(), "loaded")

print(load(0), load(8 | 32), load(8 | 32))
"#;

#[test]
fn a_filter_that_asks_can_be_loaded_once_and_only_where_connections_are_brokered() {
    let Some(engine) = Engine::find("brokered") else { return };
    for (network, outcome) in [(Network::Outbound, "listener EPERM"), (Network::None, "EPERM EPERM")] {
        let spec = engine.spec(network, LOAD_BROKERED);
        let filter = instance_filter(Arch::native().unwrap(), Sockets::Brokered);
        std::fs::write(spec.run_directory.join("filter"), filter).unwrap();
        let text = engine.output_of(&spec);
        let (first, rest) = text.trim().split_once(' ').unwrap();
        assert!(["EPERM", "ENOSYS"].contains(&first), "{network}: {text}");
        assert_eq!(rest, outcome, "{network}");
    }
}
