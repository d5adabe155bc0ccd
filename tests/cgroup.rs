//! Control groups on the machine that runs the tests, whatever its layout: children join, limits hold, nothing stays.
// Helpers of tests may stop the test.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use faas::sandbox::cgroup::{Cgroup, CgroupError, CgroupRoot, Limits};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};

const MIB: u64 = 1024 * 1024;
const LIMITS: Limits = Limits { memory_bytes: 64 * MIB, cpu_millis: 500, tasks: 8 };

/// The root for one test, or `None` with the reason on the output; in CI a skip is a failure.
fn root(test: &str) -> Option<CgroupRoot> {
    let root = CgroupRoot::prepare(&format!("test-{test}-{}", std::process::id())).unwrap();
    if root.controllers().iter().all(|(_, state)| state.is_ok()) {
        return Some(root);
    }
    println!("SKIP: {}", root.describe().join("; "));
    assert!(std::env::var_os("FAAS_CI").is_none(), "CI skips nothing");
    None
}

/// A Python process that joins by writing `0` to inherited descriptors, says so, and then runs `code`.
fn joined(cgroup: &Cgroup, code: &str) -> Child {
    let fds: Vec<OwnedFd> = cgroup.join_fds().unwrap();
    for fd in &fds {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let numbers: Vec<String> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let script = format!("import os, time\nfor fd in [{}]: os.write(fd, b'0')\n{code}", numbers.join(","));
    Command::new("python3").args(["-I", "-S", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap()
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn finish(root: &CgroupRoot, cgroup: Cgroup) {
    eventually("the group can be removed", || match cgroup.remove() {
        Ok(()) => true,
        Err(CgroupError::Busy { .. }) => false,
        Err(other) => panic!("{other}"),
    });
    assert!(cgroup.paths().all(|path| !path.exists()));
    root.remove().unwrap();
}

/// The value in whichever of the files exists.
fn file(cgroup: &Cgroup, names: &[&str]) -> String {
    let found = cgroup.paths().flat_map(|dir| names.iter().map(move |name| dir.join(name))).find(|path| path.exists());
    std::fs::read_to_string(found.unwrap_or_else(|| panic!("none of {names:?}"))).unwrap().trim().to_owned()
}

#[test]
fn limits_are_what_the_kernel_reads_back_also_after_a_change_in_either_direction() {
    let Some(root) = root("limits") else { return };
    let mut cgroup = root.create("i0-1").unwrap();
    for memory_bytes in [64 * MIB, 256 * MIB, 32 * MIB] {
        for cpu_millis in [10, 500, 4000] {
            cgroup.set_limits(Limits { memory_bytes, cpu_millis, tasks: 8 }).unwrap();
            assert_eq!(file(&cgroup, &["memory.limit_in_bytes", "memory.max"]), memory_bytes.to_string());
            let quota = (cpu_millis * 100).to_string();
            assert_eq!(file(&cgroup, &["cpu.cfs_quota_us", "cpu.max"]).split(' ').next(), Some(quota.as_str()));
            assert_eq!(file(&cgroup, &["pids.max"]), "8");
        }
    }
    assert_eq!(root.figures().memory_bytes("i0-1"), Some(0));
    assert_eq!(cgroup.oom_kills().unwrap(), Some(0));
    assert!(matches!(root.create("i0-1"), Err(CgroupError::Create { .. })), "a name is used once");
    finish(&root, cgroup);
}

#[test]
fn a_process_that_takes_too_much_memory_is_killed_and_counted() {
    let Some(root) = root("memory") else { return };
    let mut cgroup = root.create("hog").unwrap();
    cgroup.set_limits(LIMITS).unwrap();
    let mut hog = joined(&cgroup, "b = bytearray(200 << 20)\nprint('survived')");
    let status: ExitStatus = hog.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    // With `memory.oom.group` some kernels count the process twice: as the victim, and as a member of the group.
    assert!(matches!(cgroup.oom_kills().unwrap(), Some(1 | 2)), "{:?}", cgroup.oom_kills());
    assert!(cgroup.ran_out_of_memory());
    finish(&root, cgroup);
}

#[test]
fn on_v1_all_of_a_group_can_be_ended_when_its_memory_has_run_out_and_only_then() {
    let Some(root) = root("together") else { return };
    let mut cgroup = root.create("hog").unwrap();
    let Some(watch) = cgroup.oom_watch().cloned() else {
        // Version 2 ends a group as one by itself, which the test of the server sees.
        return finish(&root, cgroup);
    };
    cgroup.set_limits(LIMITS).unwrap();
    let mut bystander = joined(&cgroup, "print('there', flush=True)\ntime.sleep(60)");
    assert_eq!(first_line(&mut bystander), "there");
    watch.respond().unwrap();
    assert!(bystander.try_wait().unwrap().is_none() && !cgroup.ran_out_of_memory(), "nothing has happened yet");
    let mut hog = joined(&cgroup, "b = bytearray(200 << 20)\nprint('survived')");
    faas::sys::io::wait_readable(watch.event(), Instant::now() + Duration::from_secs(30)).unwrap();
    watch.respond().unwrap();
    for child in [&mut hog, &mut bystander] {
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }
    assert!(cgroup.ran_out_of_memory());
    finish(&root, cgroup);
}

/// The kernel tells all groups below one that is out of memory, on version 1, and none of them on version 2.
#[test]
fn who_has_not_met_his_limit_is_no_victim_of_one_above() {
    let Some(root) = root("above") else { return };
    let mut cgroup = root.create("modest").unwrap();
    let mut greedy = root.create("greedy").unwrap();
    for cgroup in [&mut cgroup, &mut greedy] {
        cgroup.set_limits(Limits { memory_bytes: 512 * MIB, ..LIMITS }).unwrap();
    }
    let above = |name: &str| cgroup.paths().map(|dir| dir.with_file_name(name)).find(|path| path.exists());
    for name in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max"] {
        let value = if name == "memory.swap.max" { 0 } else { 64 * MIB };
        above(name).into_iter().for_each(|path| std::fs::write(path, value.to_string()).unwrap());
    }
    let mut bystander = joined(&cgroup, "print('there', flush=True)\ntime.sleep(60)");
    assert_eq!(first_line(&mut bystander), "there");
    let mut hog = joined(&greedy, "b = bytearray(200 << 20)\nprint('survived')");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&hog.wait().unwrap()), Some(9));
    if let Some(watch) = cgroup.oom_watch() {
        faas::sys::io::wait_readable(watch.event(), Instant::now() + Duration::from_secs(30)).unwrap();
        watch.respond().unwrap();
    }
    assert!(greedy.oom_kills().unwrap() > Some(0));
    assert!(!greedy.ran_out_of_memory(), "it was killed for the limit above, not for its own");
    assert!(bystander.try_wait().unwrap().is_none() && !cgroup.ran_out_of_memory());
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    eventually("the group can be removed", || greedy.remove().is_ok());
    finish(&root, cgroup);
}

#[test]
fn forks_and_threads_beyond_the_limit_get_eagain() {
    let Some(root) = root("pids") else { return };
    let mut cgroup = root.create("forks").unwrap();
    cgroup.set_limits(LIMITS).unwrap();
    let code = "\
made = 0
try:
    while made < 100:
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
        made += 1
except BlockingIOError:
    print(made)
";
    let mut child = joined(&cgroup, code);
    assert_eq!(first_line(&mut child), "7", "eight tasks, the parent is one");
    cgroup.kill_all().unwrap();
    child.wait().unwrap();
    finish(&root, cgroup);
}

#[test]
fn a_busy_group_stays_and_killing_empties_it() {
    let Some(root) = root("kill") else { return };
    let mut cgroup = root.create("sleeper").unwrap();
    cgroup.set_limits(LIMITS).unwrap();
    assert!(!cgroup.populated().unwrap());
    // The child's child is in another session and would survive its parent.
    let code = "\
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
print('in', flush=True)
time.sleep(60)
";
    let mut child = joined(&cgroup, code);
    assert_eq!(first_line(&mut child), "in");
    assert!(cgroup.populated().unwrap());
    assert!(root.figures().memory_bytes("sleeper") > Some(100_000));
    assert!(matches!(cgroup.remove(), Err(CgroupError::Busy { .. })));
    assert!(matches!(root.remove(), Err(CgroupError::Busy { .. })));
    cgroup.kill_all().unwrap();
    child.wait().unwrap();
    eventually("every process is gone", || !cgroup.populated().unwrap());
    finish(&root, cgroup);
}

#[test]
fn the_next_server_sweeps_what_a_killed_one_left() {
    let Some(root) = root("sweep") else { return };
    let mut left = root.create("i7-3").unwrap();
    left.set_limits(LIMITS).unwrap();
    let mut child = joined(&left, "print('in', flush=True)\ntime.sleep(60)");
    assert_eq!(first_line(&mut child), "in");
    let paths: Vec<_> = left.paths().map(|path| path.to_owned()).collect();
    drop(left);

    // A predecessor's child would be reaped by init; this one is ours.
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    assert_eq!(root.sweep().unwrap(), paths.len());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&reaper.join().unwrap()), Some(9));
    assert!(paths.iter().all(|path| !path.exists()));
    assert_eq!(root.sweep().unwrap(), 0, "a second sweep finds nothing");
    root.remove().unwrap();
}

#[test]
fn names_cannot_leave_the_directory() {
    for name in ["", ".", "..", "a/b", "../x", "a b", "é", &"x".repeat(65)] {
        assert!(matches!(CgroupRoot::prepare(name), Err(CgroupError::InvalidName { .. })), "{name:?}");
    }
}

/// The figures for the one who changes this: what an assignment and a start pay.
#[test]
fn an_assignment_costs_microseconds() {
    let Some(root) = root("cost") else { return };
    let mut cgroup = root.create("cost").unwrap();
    cgroup.set_limits(LIMITS).unwrap();
    let mut times: Vec<Duration> = (0..200u64)
        .map(|round| {
            let started = Instant::now();
            let limits = Limits { memory_bytes: (64 + round % 2) * MIB, cpu_millis: 500 + round as u32 % 2, ..LIMITS };
            cgroup.set_limits(limits).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("memory and cpu: {:?} p50, {:?} p95", times[100], times[190]);
    assert!(times[100] < Duration::from_millis(2));
    finish(&root, cgroup);
}
