//! The groups of one instance: joining, limits, the end.
//!
//! This file knows the names of the kernel's files for that and how v1 and v2 differ in them.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::sys::process::{pidfd_kill, pidfd_open};

use super::oom::{self, has_met_its_limit, OomWatch};
use super::{field, read, remove_dir, write, CgroupError, Controller, Group, Version};

/// Length of a period of the processor quota, in microseconds: the kernel's default. A shorter one makes throttling
/// finer and costs more timer interrupts.
const CPU_PERIOD_US: u64 = 100_000;

/// What an instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all its processes, tmpfs and socket buffers included, in bytes. Swap is not to be had.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub tasks: u32,
}

/// One instance's group in every hierarchy in use.
#[derive(Debug)]
pub struct Cgroup {
    groups: Vec<Group>,
    limits: Option<Limits>,
    /// Whether v1 counts swap: only with `swapaccount=1` on older kernels.
    swap_counted: bool,
    /// Tells of memory that has run out, on v1.
    oom_watch: Option<Arc<OomWatch>>,
}

impl Cgroup {
    pub(super) fn make(groups: Vec<Group>) -> Result<Self, CgroupError> {
        let mut cgroup =
            Self { groups: Vec::with_capacity(groups.len()), limits: None, swap_counted: true, oom_watch: None };
        for group in groups {
            if let Err(source) = std::fs::create_dir(&group.dir) {
                // The error to report is the first one; groups made a moment ago are empty.
                let _ = cgroup.remove();
                return Err(CgroupError::Create { path: group.dir, source });
            }
            cgroup.groups.push(group);
        }
        if let Err(error) = cgroup.set_constants() {
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// A group found at the start, to be killed and removed.
    pub(super) fn existing(group: Group) -> Self {
        Self { groups: vec![group], limits: None, swap_counted: true, oom_watch: None }
    }

    /// Descriptors, one per hierarchy, through which a process joins by writing `0`.
    ///
    /// They are opened for each call and not kept, so that they cost nothing while the instance lives. On v1 they are
    /// `tasks`, which moves the writing thread alone and takes no lock: 50 to 80 us for all three hierarchies. Writing
    /// to `cgroup.procs` instead waits for an RCU grace period after some quiet: 7,500 us, measured. The writer must
    /// have one thread. On v2 there is only `cgroup.procs`.
    pub fn join_fds(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |group: &Group| {
            let path = group.dir.join(match group.version {
                Version::V1 => "tasks",
                Version::V2 => "cgroup.procs",
            });
            let file = OpenOptions::new().write(true).open(&path);
            file.map(OwnedFd::from).map_err(|source| CgroupError::Write { path, value: "0".into(), source })
        };
        self.groups.iter().map(open).collect()
    }

    /// The directories, one per hierarchy in use.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.groups.iter().map(|group| group.dir.as_path())
    }

    /// Writes the limits that differ from those last written. A limit whose controller is missing is skipped.
    ///
    /// About 4 us per file (Linux 6.18): memory is two files on v1 and one on v2, the others one each.
    pub fn set_limits(&mut self, limits: Limits) -> Result<(), CgroupError> {
        let before = self.limits.take();
        if before.map(|before| before.tasks) != Some(limits.tasks) {
            self.write(Controller::Pids, "pids.max", "pids.max", &limits.tasks.to_string())?;
        }
        if before.map(|before| before.memory_bytes) != Some(limits.memory_bytes) {
            self.set_memory(before.map(|before| before.memory_bytes), limits.memory_bytes)?;
        }
        if before.map(|before| before.cpu_millis) != Some(limits.cpu_millis) {
            // The kernel takes no quota below 1,000 us, which is the smallest limit, 10 thousandths of a core.
            let quota_us = u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000;
            let v2 = format!("{quota_us} {CPU_PERIOD_US}");
            match self.group(Controller::Cpu).map(|group| group.version) {
                Some(Version::V1) => self.write(Controller::Cpu, "cpu.cfs_quota_us", "", &quota_us.to_string())?,
                _ => self.write(Controller::Cpu, "", "cpu.max", &v2)?,
            }
        }
        self.limits = Some(limits);
        Ok(())
    }

    /// What is to be listened to, on v1, so that an instance out of memory ends as a whole.
    pub fn oom_watch(&self) -> Option<&Arc<OomWatch>> {
        self.oom_watch.as_ref()
    }

    /// Whether its own memory has run out, and a process was killed for it. One that was killed because a group above, or
    /// the machine, has none left is not meant.
    pub fn ran_out_of_memory(&self) -> bool {
        let seen = self.oom_watch.as_ref().is_some_and(|watch| watch.seen());
        let was_killed = || matches!(self.oom_kills(), Ok(Some(kills)) if kills > 0);
        seen || (was_killed() && self.groups.iter().any(has_met_its_limit))
    }

    /// Its processes that the kernel killed for want of memory; `None` without the controller.
    pub fn oom_kills(&self) -> Result<Option<u64>, CgroupError> {
        self.group(Controller::Memory).map_or(Ok(None), oom::kills)
    }

    /// Whether any process is in one of the groups, the dead that nobody reaped yet excepted.
    pub fn populated(&self) -> Result<bool, CgroupError> {
        for group in &self.groups {
            let populated = match group.version {
                Version::V1 => !read(&group.dir.join("cgroup.procs"))?.is_empty(),
                Version::V2 => field(&read(&group.dir.join("cgroup.events"))?, "populated") != Some(0),
            };
            if populated {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends SIGKILL to every process in the groups. They are gone some time later, see [`Self::populated`].
    ///
    /// Version 2 does it in one step that no fork escapes. On v1 new tasks are forbidden first, then each process is
    /// killed through a descriptor that was opened while the group still listed it: never by a number, which may be a
    /// stranger's by then. An instance is better ended through the init of its PID namespace; this is for what is left.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        for group in &self.groups {
            match group.version {
                Version::V2 if group.dir.join("cgroup.kill").exists() => write(group.dir.join("cgroup.kill"), "1")?,
                _ => kill_each(group)?,
            }
        }
        Ok(())
    }

    /// Removes the groups. `Busy` while the kernel still counts a process in one: call again later. What is already
    /// gone is no error, so that a second call finishes what the first began.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.groups.iter().try_for_each(|group| remove_dir(&group.dir))
    }

    /// What never changes over the group's life.
    fn set_constants(&mut self) -> Result<(), CgroupError> {
        let Some(group) = self.group(Controller::Memory) else { return Ok(()) };
        let dir = group.dir.clone();
        match group.version {
            Version::V1 => {
                let watch = OomWatch::start(group, &self.groups);
                // A kernel that cannot tell still kills, one process at a time.
                self.oom_watch = watch.map(Arc::new).inspect_err(|error| log::debug!("{error}")).ok();
                self.swap_counted = dir.join("memory.memsw.limit_in_bytes").exists();
                // Swap that is not counted is at least avoided.
                if self.swap_counted {
                    Ok(())
                } else {
                    write(dir.join("memory.swappiness"), "0")
                }
            }
            Version::V2 => {
                // All processes of an instance die together: half an instance would only hang. Linux 4.19.
                write(dir.join("memory.oom.group"), "1")?;
                // The file is missing when the kernel has no swap, and then there is nothing to forbid.
                let swap = dir.join("memory.swap.max");
                if swap.exists() {
                    write(swap, "0")
                } else {
                    Ok(())
                }
            }
        }
    }

    /// On v1 the sum of memory and swap has a limit of its own, which may never be the smaller one: it goes up first
    /// and down last. A new group's limits are the largest numbers there are.
    fn set_memory(&self, before: Option<u64>, bytes: u64) -> Result<(), CgroupError> {
        let value = bytes.to_string();
        let memory = || self.write(Controller::Memory, "memory.limit_in_bytes", "memory.max", &value);
        let with_swap = || match self.group(Controller::Memory).map(|group| group.version) {
            Some(Version::V1) if self.swap_counted => {
                self.write(Controller::Memory, "memory.memsw.limit_in_bytes", "", &value)
            }
            _ => Ok(()),
        };
        if before.is_some_and(|before| before < bytes) {
            with_swap()?;
            memory()
        } else {
            memory()?;
            with_swap()
        }
    }

    fn group(&self, controller: Controller) -> Option<&Group> {
        self.groups.iter().find(|group| group.controllers.contains(&controller))
    }

    /// Writes to the file of this interface; nothing without the controller.
    fn write(&self, controller: Controller, v1: &str, v2: &str, value: &str) -> Result<(), CgroupError> {
        let Some(group) = self.group(controller) else { return Ok(()) };
        let name = match group.version {
            Version::V1 => v1,
            Version::V2 => v2,
        };
        write(group.dir.join(name), value)
    }
}

pub(super) fn kill_each(group: &Group) -> Result<(), CgroupError> {
    if group.controllers.contains(&Controller::Pids) {
        write(group.dir.join("pids.max"), "0")?;
    }
    let listed = || -> Result<Vec<u32>, CgroupError> {
        let pids = read(&group.dir.join("cgroup.procs"))?;
        // A process of another PID namespace is shown as 0, and 0 would mean ourselves.
        Ok(pids.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 1).collect())
    };
    let mut held = Vec::new();
    for pid in listed()? {
        match pidfd_open(pid) {
            Ok(process) => held.push((pid, process)),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(source) => return Err(CgroupError::Kill { pid, source }),
        }
    }
    // Listed after it was opened, the number belongs to a process of the group: to the one that is held, or, if that
    // has ended since, to one that the next round will find.
    let still = listed()?;
    for (pid, process) in held.into_iter().filter(|(pid, _)| still.contains(pid)) {
        pidfd_kill(&process).map_err(|source| CgroupError::Kill { pid, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files of a v2 group, for hosts whose v2 tree has no controllers.
    fn fake_v2(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let controllers = Controller::ALL.to_vec();
        let group = Group { version: Version::V2, controllers, dir: directory.path().to_owned() };
        (directory, Cgroup::existing(group))
    }

    #[test]
    fn v2_files_get_what_the_kernel_documents() {
        let names = ["memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max", "cgroup.kill"];
        let (directory, mut cgroup) = fake_v2(&names.map(|name| (name, "")));
        cgroup.set_constants().unwrap();
        cgroup.set_limits(Limits { memory_bytes: 268_435_456, cpu_millis: 1500, tasks: 64 }).unwrap();
        cgroup.kill_all().unwrap();
        let written = names.map(|name| std::fs::read_to_string(directory.path().join(name)).unwrap());
        assert_eq!(written, ["268435456", "0", "1", "64", "150000 100000", "1"]);
    }

    #[test]
    fn v2_kills_and_members_are_read() {
        let (_directory, cgroup) =
            fake_v2(&[("memory.events", "oom 2\noom_kill 1\n"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
        assert_eq!(cgroup.oom_kills().unwrap(), Some(1));
        assert!(cgroup.populated().unwrap());
    }

    #[test]
    fn only_limits_that_differ_are_written() {
        let (directory, mut cgroup) = fake_v2(&[("memory.max", ""), ("pids.max", ""), ("cpu.max", "")]);
        let limits = Limits { memory_bytes: 1 << 26, cpu_millis: 100, tasks: 8 };
        cgroup.set_limits(limits).unwrap();
        for name in ["pids.max", "cpu.max"] {
            std::fs::remove_file(directory.path().join(name)).unwrap();
        }
        cgroup.set_limits(Limits { memory_bytes: 1 << 27, ..limits }).unwrap();
        // After a failure nothing is taken to be known, and all is written again.
        let failed = cgroup.set_limits(Limits { tasks: 9, ..limits });
        assert!(matches!(failed, Err(CgroupError::Write { value, .. }) if value == "9"));
        assert!(cgroup.set_limits(limits).is_err());
    }

    #[test]
    fn without_a_controller_its_limit_is_skipped() {
        let mut cgroup = Cgroup::make(vec![]).unwrap();
        cgroup.set_limits(Limits { memory_bytes: 1 << 26, cpu_millis: 100, tasks: 8 }).unwrap();
        assert_eq!(cgroup.oom_kills().unwrap(), None);
        assert_eq!(cgroup.join_fds().unwrap().len(), 0);
        assert!(!cgroup.populated().unwrap());
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let events = "low 0\nhigh 2\nmax 17\noom 1\noom_kill 3\noom_group_kill 4\n";
        assert_eq!(field(events, "oom_kill"), Some(3));
        assert_eq!(field(events, "oom"), Some(1));
        assert_eq!(field(events, "populated"), None);
        assert_eq!(field("oom_kill many\n", "oom_kill"), None);
    }
}
