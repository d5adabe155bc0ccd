//! Processes that became the server's children and belong to nobody: a blank whose zygote died before it could report
//! it, and the process that was making it. The server has adopted them, so it has to wait for them, or they stay
//! zombies as long as it lives.
//!
//! They are told from instances by a list of those, and from everything else by their parent: what is adopted goes to
//! the server's main thread, which itself starts no process once the supervisor runs. Waiting for "any child" instead
//! would take the exit status of instances away from their workers.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::sys;

/// Strays end by themselves, as soon as they notice that their zygote is gone.
const WATCH: Duration = Duration::from_secs(5);
/// How often they are looked for in that time.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Processes that somebody waits for.
    living: HashSet<u32>,
    watch_until: Option<Instant>,
}

impl Strays {
    /// Somebody has this process in custody.
    pub(super) fn in_custody(&mut self, pid: u32) {
        self.living.insert(pid);
    }

    /// Nobody has any more. `is_reaped` says whether it has been waited for.
    pub(super) fn released(&mut self, pid: u32, is_reaped: bool) {
        self.living.remove(&pid);
        if !is_reaped {
            self.suspect();
        }
    }

    /// There may be strays from now on.
    pub(super) fn suspect(&mut self) {
        self.watch_until = Some(Instant::now() + WATCH);
    }

    /// When to look for them next.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        self.watch_until.map(|_| now + PAUSE)
    }

    /// Waits for those that have ended. Not while a zygote makes a blank: that may be a child already of which the
    /// news has not come.
    pub(super) fn look(&mut self, now: Instant) {
        if self.watch_until.is_none() {
            return;
        }
        for pid in sys::process::adopted_children() {
            if !self.living.contains(&pid) && sys::process::reap(pid) {
                log::debug!("process {pid}, which belonged to nobody, has ended");
            }
        }
        self.watch_until = self.watch_until.filter(|until| now < *until);
    }
}
