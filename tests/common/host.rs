//! What the host can tell of a server from outside: its processes, descriptors, cgroups, mounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{eventually, Server};

/// The fields of `/proc/PID/status`; empty when the process is gone.
pub fn status(pid: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Every process of this host with its parent and its state.
fn processes() -> Vec<(u32, u32, char)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may contain anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        Some((pid, fields.next()?.parse().ok()?, state))
    })
    .collect()
}

/// The processes of this host that belong to one of these users, whoever started them.
pub fn processes_of_users(users: std::ops::Range<u32>) -> Vec<u32> {
    let uid = |pid: u32| status(pid).get("Uid")?.split_ascii_whitespace().next()?.parse::<u32>().ok();
    let pids = processes().into_iter().map(|(pid, ..)| pid);
    pids.filter(|&pid| uid(pid).is_some_and(|uid| users.contains(&uid))).collect()
}

/// The memory of a process that is in use, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let text = status(pid).remove("VmRSS").unwrap_or_default();
    text.trim_end_matches(" kB").parse::<u64>().map_or(0, |kib| kib << 10)
}

/// The processes below this one, at any depth.
pub fn descendants(pid: u32) -> Vec<u32> {
    let all = processes();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(all.iter().filter(|process| process.1 == parent).map(|process| process.0));
        next += 1;
    }
    found.split_off(1)
}

/// The children that have ended and that nobody has buried.
pub fn zombies(pid: u32) -> Vec<u32> {
    processes().into_iter().filter(|&(_, parent, state)| parent == pid && state == 'Z').map(|(pid, ..)| pid).collect()
}

/// Whether this process exists and has not ended.
pub fn is_alive(pid: u32) -> bool {
    status(pid).get("State").is_some_and(|state| !state.starts_with('Z'))
}

/// The zygotes of this server: its children that run the zygote's script.
pub fn zygotes(server: u32) -> Vec<u32> {
    let is_zygote = |pid: &u32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // A fork of it has the same command line, and is its child or has a pid namespace of its own.
        let own = std::fs::read_link(format!("/proc/{pid}/ns/pid_for_children")).ok();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        command.contains("/faas/zygote.py")
            && status.lines().any(|line| line == format!("PPid:\t{server}"))
            && own == std::fs::read_link(format!("/proc/{server}/ns/pid")).ok()
    };
    descendants(server).into_iter().filter(is_zygote).collect()
}

/// The namespace of this kind that a process is in, as a name that tells namespaces apart.
pub fn namespace(pid: u32, kind: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The directories of this process in the cgroup hierarchies that limit instances.
pub fn cgroup_directories(pid: u32) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap());
        for mount in mounts.lines() {
            let (left, right) = mount.split_once(" - ").unwrap();
            let options = right.rsplit(' ').next().unwrap().split(',');
            let is_it = match controllers {
                "" => right.starts_with("cgroup2 "),
                names => {
                    right.starts_with("cgroup ") && names.split(',').all(|name| options.clone().any(|o| o == name))
                }
            };
            let mut places = left.split(' ').skip(3);
            let (root, point) = (places.next().unwrap(), places.next().unwrap());
            if is_it {
                let path = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
                found.push(Path::new(point).join(path.trim_start_matches('/')));
            }
        }
    }
    // Ours, or an engine's, which has the id of a container in its name.
    let is_engines = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let id = name.strip_prefix("libpod-").unwrap_or(&name);
        id.len() == 64 && id.bytes().all(|it| it.is_ascii_hexdigit())
    };
    found.retain(|it| it.to_string_lossy().contains("/faas-") || is_engines(it));
    found
}

/// The directories that hold the cgroups of this server's instances, one per hierarchy; waits until it has one. None in
/// container mode, where they are the engine's.
pub fn cgroup_parents(server: &Server) -> Vec<PathBuf> {
    if super::mode::in_containers() {
        return Vec::new();
    }
    eventually("an instance or blank in a cgroup", || {
        let groups = descendants(server.pid()).into_iter().map(cgroup_directories).find(|groups| !groups.is_empty())?;
        Some(groups.iter().map(|group| group.parent().unwrap().to_owned()).collect())
    })
}

/// The groups below these directories.
pub fn cgroups_in(parents: &[PathBuf]) -> usize {
    let entries = parents.iter().filter_map(|parent| std::fs::read_dir(parent).ok()).flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).count()
}

/// What a server holds of the host: what must be the same before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    pub processes: usize,
    pub descriptors: usize,
    pub threads: String,
    pub cgroups: usize,
    /// Of the server's own mount namespace.
    pub mounts: usize,
}

impl Holdings {
    pub fn of(server: &Server, cgroup_parents: &[PathBuf]) -> Holdings {
        Holdings {
            processes: descendants(server.pid()).len(),
            descriptors: descriptors(server.pid()),
            threads: status(server.pid()).remove("Threads").unwrap_or_default(),
            cgroups: cgroups_in(cgroup_parents),
            mounts: std::fs::read_to_string(format!("/proc/{}/mountinfo", server.pid()))
                .map_or(0, |text| text.lines().count()),
        }
    }

    /// What the server holds once its pool is full and nothing changes any more.
    pub fn at_rest(server: &Server, cgroup_parents: &[PathBuf]) -> Holdings {
        super::mode::await_pool(server);
        let (mut last, mut since) = (Holdings::of(server, cgroup_parents), Instant::now());
        eventually("a server at rest", || {
            let now = Holdings::of(server, cgroup_parents);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            (since.elapsed() >= super::mode::rest()).then(|| last.clone())
        })
    }

    /// Waits until the server holds just this again.
    pub fn await_again(&self, server: &Server, cgroup_parents: &[PathBuf], after: &str) {
        let mut last: Option<Holdings> = None;
        // Connections to an engine that nobody needs are kept for a while, and one or two always.
        let is_again = |now: &Holdings| {
            let more = now.descriptors.saturating_sub(self.descriptors);
            let forgiven = Holdings { descriptors: self.descriptors, ..now.clone() };
            now == self || (super::mode::in_containers() && more <= 2 && forgiven == *self)
        };
        let kept = if super::mode::in_containers() { faas::limits::ENGINE_IDLE_TIMEOUT } else { Default::default() };
        let deadline = Instant::now() + super::patience() + kept;
        while !last.as_ref().is_some_and(is_again) {
            assert!(Instant::now() < deadline, "after {after}: before {self:?}, now {last:?}");
            last = Some(Holdings::of(server, cgroup_parents));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
