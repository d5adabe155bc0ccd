//! The end of a whole instance when it has used up its memory, on cgroup v1.
//!
//! Version 2 kills a group as one (`memory.oom.group`). Version 1 kills one process, and what is left of the instance
//! would go on without it: a function whose child is gone would wait for it, or try again and again. So its kernel is
//! asked to tell of it, and whoever hears that kills the rest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::instance::kill_each;
use super::{write, CgroupError, Group};

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

    /// Becomes readable when memory has run out, and once more when the group is removed.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// If memory has run out (or the group is being removed), kills what is in it. Otherwise it does nothing.
    ///
    /// # Errors
    /// When a process cannot be killed.
    pub fn respond(&self) -> Result<(), CgroupError> {
        if nix::unistd::read(&self.event, &mut [0; 8]).is_err() {
            // It was somebody else's event: of a group that was in the same place before.
            return Ok(());
        }
        for group in self.groups.iter().filter(|group| group.dir.exists()) {
            self.seen.store(true, Ordering::Relaxed);
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
    pub(super) fn seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }
}
