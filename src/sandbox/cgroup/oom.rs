//! The end of a whole instance when it has used up its memory, on cgroup v1.
//!
//! Version 2 kills a group as one (`memory.oom.group`). Version 1 kills one process, and what is left of the instance
//! would go on without it: a function whose child is gone would wait for it, or try again and again. So its kernel is
//! asked to tell of it, and whoever hears that kills the rest.
//!
//! The kernel tells a group also when a group above it has run out, which is not the instance's doing: the machine's, a
//! container's around the server. So the message is believed only of a group that has met its own limit.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::discover::discover;
use super::instance::kill_each;
use super::{field, read, write, CgroupError, Controller, Group, Version};

/// What is told when a group of version 1 is out of memory. The kernel tells until this is dropped.
#[derive(Debug)]
pub struct OomWatch {
    event: OwnedFd,
    groups: Vec<Group>,
    seen: AtomicBool,
}

impl OomWatch {
    /// Watches the `memory` group; the processes of all `groups` are killed together.
    pub(super) fn start(memory: &Group, groups: &[Group]) -> Result<Self, CgroupError> {
        let path = memory.dir.join("memory.oom_control");
        let control = File::open(&path).map_err(|source| CgroupError::Read { path: path.clone(), source })?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags)
            .map_err(|source| CgroupError::Read { path, source: source.into() })?;
        let event = OwnedFd::from(event);
        // The kernel keeps what it needs of both, so that the second may be closed.
        let value = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        write(memory.dir.join("cgroup.event_control"), &value)?;
        Ok(OomWatch { event, groups: groups.to_vec(), seen: AtomicBool::new(false) })
    }

    /// Becomes readable when memory has run out here or above, and once more when the group is removed.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// If the group has used up its memory, or a process of it was killed for that of a group above, kills what is in
    /// it. Otherwise it does nothing.
    ///
    /// # Errors
    /// When a process cannot be killed.
    pub fn respond(&self) -> Result<(), CgroupError> {
        if nix::unistd::read(&self.event, &mut [0; 8]).is_err() {
            // It was somebody else's event: of a group that was in the same place before.
            return Ok(());
        }
        if self.groups.iter().any(has_met_its_limit) {
            self.seen.store(true, Ordering::Relaxed);
        } else if !self.groups.iter().any(|group| kills(group).is_ok_and(|kills| kills > Some(0))) {
            return Ok(());
        }
        for group in self.groups.iter().filter(|group| group.dir.exists()) {
            match kill_each(group) {
                // Removed since it was looked at.
                Err(CgroupError::Read { source, .. } | CgroupError::Write { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether memory has run out. The kernel's own counter does not tell when it found a process dying already.
    pub fn seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }
}

/// Has the processes of somebody else's group end together when its memory runs out: that which this process is in, by
/// the text of its /proc/PID/cgroup. On version 2 the kernel does it; on version 1 it tells, and whoever has the watch
/// [responds](OomWatch::respond). Nothing is done where no hierarchy here has the group: in a container of its own a server
/// may see no other groups than its own.
///
/// # Errors
/// When the group is not this user's to change, or not to be seen from here.
pub fn end_as_one(pid: u32, groups: &str) -> Result<Option<OomWatch>, CgroupError> {
    end_as_one_in(&read("/proc/self/mountinfo".as_ref())?, pid, groups)
}

fn end_as_one_in(mountinfo: &str, pid: u32, groups: &str) -> Result<Option<OomWatch>, CgroupError> {
    let memory = discover(mountinfo, groups).into_iter().find(|hierarchy| match hierarchy.version {
        Version::V1 => hierarchy.controllers.contains(&Controller::Memory),
        Version::V2 => hierarchy.own.join("memory.oom.group").exists(),
    });
    let Some(hierarchy) = memory else { return Ok(None) };
    // What `discover` takes for a group that is not to be seen from here is this server's own.
    let members = read(&hierarchy.own.join("cgroup.procs"))?;
    if !members.lines().any(|member| member.parse() == Ok(pid)) {
        return Ok(None);
    }
    let group = Group { version: hierarchy.version, controllers: vec![Controller::Memory], dir: hierarchy.own };
    match group.version {
        Version::V1 => OomWatch::start(&group, std::slice::from_ref(&group)).map(Some),
        Version::V2 => write(group.dir.join("memory.oom.group"), "1").map(|()| None),
    }
}

/// How far below its limit a group of version 1 may be when an allocation fails: processors charge some pages ahead, and
/// an allocation that is worth killing for is of 8 pages at most.
const LIMIT_SLACK_BYTES: u64 = 1 << 20;

/// Whether the group counts memory and has ever met its own limit: on version 2 in vain, on version 1 perhaps only until
/// caches were dropped. (There `failcnt` would say so, but Linux 6.18 does not count it.)
pub(super) fn has_met_its_limit(group: &Group) -> bool {
    if !group.controllers.contains(&Controller::Memory) {
        return false;
    }
    // A group that is gone says nothing; nor is swap counted everywhere.
    let text = |name: &str| read(&group.dir.join(name)).unwrap_or_default();
    let number = |name: String| text(&name).trim().parse::<u64>().ok();
    let met = |kind: &&str| {
        let (peak, limit) = (number(format!("{kind}.max_usage_in_bytes")), number(format!("{kind}.limit_in_bytes")));
        peak.zip(limit).is_some_and(|(peak, limit)| peak.saturating_add(LIMIT_SLACK_BYTES) >= limit)
    };
    match group.version {
        Version::V1 => ["memory", "memory.memsw"].iter().any(met),
        Version::V2 => field(&text("memory.events"), "oom") > Some(0),
    }
}

/// Processes of the group that the kernel has killed for want of memory, here or above; none without the controller.
pub(super) fn kills(group: &Group) -> Result<Option<u64>, CgroupError> {
    if !group.controllers.contains(&Controller::Memory) {
        return Ok(None);
    }
    let name = match group.version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    Ok(field(&read(&group.dir.join(name))?, "oom_kill"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_version_2_is_told_to_end_as_one_and_where_there_is_none_nothing_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let mounts = format!("29 22 0:25 / {} rw - cgroup2 cgroup2 rw\n", directory.path().display());
        let group = directory.path().join("machine.slice/libpod-1.scope/container");
        std::fs::create_dir_all(&group).unwrap();
        let groups = "0::/machine.slice/libpod-1.scope/container\n";
        assert!(end_as_one_in(&mounts, 71, groups).unwrap().is_none());
        assert!(!group.join("memory.oom.group").exists(), "there is no controller for memory");
        let told = || std::fs::read_to_string(group.join("memory.oom.group")).unwrap();
        std::fs::write(group.join("memory.oom.group"), "0").unwrap();
        std::fs::write(group.join("cgroup.procs"), "17\n710\n").unwrap();
        assert!(end_as_one_in(&mounts, 71, groups).unwrap().is_none());
        assert_eq!(told(), "0", "the process is in another group");
        std::fs::write(group.join("cgroup.procs"), "17\n71\n").unwrap();
        assert!(end_as_one_in(&mounts, 71, groups).unwrap().is_none());
        assert_eq!(told(), "1");
    }

    #[test]
    fn a_group_that_cannot_be_seen_from_here_is_not_taken_for_the_servers_own() {
        let directory = tempfile::tempdir().unwrap();
        let own = |name: &str| directory.path().join(name);
        std::fs::write(own("memory.oom.group"), "0").unwrap();
        std::fs::write(own("cgroup.procs"), "1\n").unwrap();
        let point = directory.path().display();
        let second = format!("29 22 0:25 / {point} rw - cgroup2 cgroup2 rw\n");
        assert!(end_as_one_in(&second, 71, "0::/../../machine.slice/libpod-1.scope\n").unwrap().is_none());
        assert_eq!(std::fs::read_to_string(own("memory.oom.group")).unwrap(), "0");
        let first = format!("29 22 0:25 /docker/9 {point} rw - cgroup cgroup rw,memory\n");
        assert!(end_as_one_in(&first, 71, "4:memory:/machine.slice/libpod-1.scope\n").unwrap().is_none());
    }
}
