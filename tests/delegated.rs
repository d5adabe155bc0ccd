//! A common user's server in a control group of version 2 that was delegated to him, as systemd does it with
//! `Delegate=yes`: he has limits without being root, and `strict` still tells him what he lacks.
//!
//! The tests run as root, which delegates the group, and become another user. They need a host whose only hierarchy is
//! version 2, so they are left out elsewhere: `make test-vm` runs them.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::functions::list;
use common::host::cgroup_directories;
use common::{as_nobody, eventually, Home, Server, NOBODY};
use nix::sys::signal::Signal;
use serde_json::json;

const TOP: &str = "/sys/fs/cgroup";

/// A group of user nobody's, which goes with the value.
struct Delegated(PathBuf);

impl Delegated {
    /// One that is given these controllers.
    fn new(name: &str, controllers: &str) -> Delegated {
        let slice = Path::new(TOP).join(format!("{name}-{}.slice", std::process::id()));
        let group = slice.join("faas.service");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(Path::new(TOP).join("cgroup.subtree_control"), controllers).unwrap();
        std::fs::write(slice.join("cgroup.subtree_control"), controllers).unwrap();
        // What /sys/kernel/cgroup/delegate lists, as far as this server uses it.
        for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            chown(group.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Delegated(group)
    }

    /// The command that starts a server of user nobody's alone in this group.
    fn command(&self, home: &Home) -> Command {
        let server = as_nobody(home);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("echo 0 > {}/cgroup.procs && exec \"$@\"", self.0.display())).arg("sh");
        command.arg(server.get_program()).args(server.get_args());
        let log = std::fs::OpenOptions::new().append(true).open(home.path().join("stderr")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command
    }

    /// The groups in it.
    fn children(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten().filter(|entry| entry.path().is_dir());
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // Leaves first; what a failed test has left in use stays.
        for path in [self.0.join("supervisor"), self.0.clone(), self.0.parent().unwrap().to_owned()] {
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn home(level: &str) -> Home {
    let python = "python: /usr/bin/python3";
    let home = Home::with(&format!("process_isolation_level: {level}\npool_size: 2\n{python}"), "");
    std::fs::create_dir(home.state()).unwrap();
    chown(home.state(), Some(NOBODY), Some(NOBODY)).unwrap();
    home
}

fn run(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

const HUNGRY: &str = "
import os, time

def handle(request):
    return globals()[request.path.strip('/')]()

def fine():
    return 'fine'

def memory():
    return len(b'x' * (640 << 20))

def tasks():
    for count in range(1000):
        try:
            if os.fork() == 0:
                while True:
                    time.sleep(60)
        except BlockingIOError:
            return count

def processor():
    '''Processor time that a second of the clock gave.'''
    started, used = time.monotonic(), time.process_time()
    while time.monotonic() < started + 2:
        pass
    return (time.process_time() - used) / (time.monotonic() - started)
";

#[test]
#[ignore = "needs a host with cgroup v2 alone; run by make test-vm"]
fn in_a_delegated_group_a_common_users_functions_are_held_to_their_limits() {
    let group = Delegated::new("limits", "+memory +pids +cpu");
    let home = home("standard");
    let command = group.command(&home);
    let server = Server::launch(home, command);
    let is_warning = |line: &str, layer: &str| line.contains("WARN") && line.contains(layer);
    server.home.await_line("identity", |line| is_warning(line, "identity"));
    let log = server.home.log();
    let warned = |layer: &str| log.lines().any(|line| is_warning(line, layer));
    assert!(!["memory_limit", "tasks_limit", "cpu_limit"].into_iter().any(warned), "{log}");

    server.deploy("hungry", HUNGRY, json!({ "memory": "96Mi", "cpu_limit": "250m" }));
    assert_eq!(server.answer("hungry/fine", ""), "fine");
    let pid = server.instances("hungry")[0]["pid"].as_u64().unwrap() as u32;
    let directories = cgroup_directories(pid);
    let [directory] = &directories[..] else { panic!("one hierarchy: {directories:?}") };
    assert!(directory.starts_with(&group.0), "{directory:?}");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap().trim().to_owned();
    assert_eq!(read("memory.max"), (96 << 20).to_string());
    assert_eq!(read("memory.oom.group"), "1");
    assert_eq!(read("pids.max"), "64");
    assert_eq!(read("cpu.max"), "25000 100000");

    let share = server.answer("hungry/processor", "").as_f64().unwrap();
    assert!(share < 0.4, "{share} of a processor instead of 0.25");
    assert_eq!(server.answer("hungry/tasks", ""), 63);
    let (status, code, _) = server.failure("hungry/memory", "");
    assert_eq!((status, code.as_str()), (502, "function_out_of_memory"));
    assert_eq!(server.answer("hungry/fine", ""), "fine", "on another instance");

    let (home, ended) = server.end(Signal::SIGTERM);
    assert_eq!(ended.code(), Some(0), "{}", home.log());
    assert_eq!(group.children(), ["supervisor"]);
}

#[test]
#[ignore = "needs a host with cgroup v2 alone; run by make test-vm"]
fn what_a_killed_server_left_in_its_delegated_group_is_removed_by_the_next() {
    let group = Delegated::new("sweep", "+memory +pids +cpu");
    let home = home("standard");
    let command = group.command(&home);
    let server = Server::launch(home, command);
    server.deploy("stays", HUNGRY, json!({ "min_instances": 1 }));
    assert_eq!(server.answer("stays/fine", ""), "fine");
    let old = server.pid();
    let (home, _) = server.end(Signal::SIGKILL);
    let left = group.children();
    let ours = left.iter().find(|name| name.starts_with("faas-")).unwrap_or_else(|| panic!("{left:?}"));
    let before = std::fs::read_dir(group.0.join(ours)).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let before: Vec<PathBuf> = before.map(|entry| entry.path()).collect();
    assert!(!before.is_empty(), "nothing to sweep");
    eventually("the leaf is free", || {
        let pids = std::fs::read_to_string(group.0.join("supervisor/cgroup.procs")).unwrap();
        pids.is_empty().then_some(())
    });

    // The group hands controllers on by now, so that no process can be in it: systemd would have made it anew.
    let leaf = Delegated(group.0.join("supervisor"));
    chown(leaf.0.join("cgroup.procs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let command = leaf.command(&home);
    let server = Server::launch(home, command);
    assert_ne!(server.pid(), old);
    assert_eq!(server.answer("stays/fine", ""), "fine");
    let pid = list(&server.get("/instances").json()["instances"])[0]["pid"].as_u64().unwrap() as u32;
    assert!(cgroup_directories(pid)[0].starts_with(group.0.join(ours)));
    let (home, ended) = server.end(Signal::SIGTERM);
    assert_eq!(ended.code(), Some(0), "{}", home.log());
    assert_eq!(group.children(), ["supervisor"]);
}

#[test]
#[ignore = "needs a host with cgroup v2 alone; run by make test-vm"]
fn strict_in_a_delegated_group_misses_only_the_users_of_the_host() {
    let group = Delegated::new("strict", "+memory +pids +cpu");
    let home = home("strict");
    let output = run(group.command(&home));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let missing: Vec<&str> = said.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(missing.len(), 1, "{said}");
    assert!(missing[0].contains("identity") && missing[0].contains("; run the server as root"), "{said}");
}

#[test]
#[ignore = "needs a host with cgroup v2 alone; run by make test-vm"]
fn a_controller_that_was_not_delegated_is_named_with_its_mend() {
    // Only what is enabled from the top on can be enabled below; tests that run beside this one enable all there.
    let group = Delegated::new("part", "+memory +pids");
    let home = home("strict");
    let output = run(group.command(&home));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().find(|line| line.trim_start().starts_with("cpu_limit"));
    let line = line.unwrap_or_else(|| panic!("the processor limit is not named: {said}"));
    assert!(line.contains("faas.service") && line.contains("; delegate it") && line.contains("Delegate=cpu"), "{line}");
    assert!(!said.contains("memory_limit") && !said.contains("tasks_limit"), "{said}");
}
