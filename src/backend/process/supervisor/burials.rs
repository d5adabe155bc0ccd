//! The end of instances as far as the supervisor has a part in it: cgroups that are removed, and memory that has run out.

use std::sync::Weak;

use crate::sandbox::cgroup::{Cgroup, CgroupError};

use super::Supervisor;

impl Supervisor {
    /// Removes a cgroup, or remembers it while its last process is leaving.
    pub(super) fn bury(&mut self, cgroup: Cgroup) {
        match cgroup.remove() {
            Ok(()) => {}
            Err(CgroupError::Busy { .. }) => {
                // A blank whose zygote died between forking it and reporting it is still in there.
                if let Err(error) = cgroup.kill_all() {
                    log::warn!("what is left in a cgroup cannot be killed: {error}");
                }
                self.graves.push(cgroup);
            }
            Err(error) => log::error!("a cgroup is left behind: {error}"),
        }
    }

    /// The instance in this slot has used up its memory, or its cgroup is being removed.
    pub(super) fn end_for_memory(&mut self, slot: usize) {
        match self.oom_watches.get(&slot).and_then(Weak::upgrade) {
            Some(watch) => {
                if let Err(error) = watch.respond() {
                    log::error!("an instance that is out of memory cannot be ended: {error}");
                }
            }
            None => drop(self.oom_watches.remove(&slot)),
        }
    }
}
