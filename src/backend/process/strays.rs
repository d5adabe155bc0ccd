//! Processes that became the server's children and belong to nobody: a blank whose zygote died before it could report
//! it, and the process that was making it. The server has adopted them, so it has to wait for them, or they stay
//! zombies as long as it lives.
//!
//! They are told from instances by a list of those, and from everything else by their parent: what is adopted goes to
//! the server's main thread, which itself starts no process once the supervisor runs. Waiting for "any child" instead
//! would take the exit status of instances away from their workers.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use crate::sys;

/// Strays end by themselves, as soon as they notice that their zygote is gone.
const WATCH: Duration = Duration::from_secs(5);
/// How often they are looked for in that time.
const PAUSE: Duration = Duration::from_millis(20);
/// And later, when one is left, or when they could not be looked for: a host that is out of descriptors is what makes
/// strays, and it does not tell of them either.
const LATE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Processes that somebody waits for.
    living: HashSet<u32>,
    watch: Option<Watch>,
}

#[derive(Debug, Clone, Copy)]
struct Watch {
    closely_until: Instant,
    next: Instant,
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
        let now = Instant::now();
        self.watch = Some(Watch { closely_until: now + WATCH, next: now });
    }

    /// When to look for them next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.watch.map(|watch| watch.next)
    }

    /// Waits for those that have ended. Not while a zygote makes a blank: that may be a child already of which the
    /// news has not come.
    pub(super) fn look(&mut self, now: Instant) {
        self.look_among(now, sys::process::adopted_children(), sys::process::reap);
    }

    fn look_among(&mut self, now: Instant, children: io::Result<Vec<u32>>, reap: impl Fn(u32) -> bool) {
        let Some(watch) = &mut self.watch else { return };
        let mut is_any_left = children.is_err();
        for pid in children.unwrap_or_default() {
            if self.living.contains(&pid) {
                continue;
            }
            if reap(pid) {
                log::debug!("process {pid}, which belonged to nobody, has ended");
            } else {
                is_any_left = true;
            }
        }
        if now < watch.closely_until {
            watch.next = now + PAUSE;
        } else if is_any_left {
            watch.next = now + LATE_PAUSE;
        } else {
            self.watch = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspecting() -> (Strays, Instant) {
        let mut strays = Strays::default();
        strays.suspect();
        (strays, Instant::now() + WATCH)
    }

    #[test]
    fn a_watch_that_sees_nobody_ends() {
        let (mut strays, late) = suspecting();
        strays.in_custody(7);
        strays.look_among(late, Ok(vec![7]), |pid| panic!("{pid} is in custody"));
        assert_eq!(strays.next_look(), None);
    }

    #[test]
    fn a_watch_goes_on_while_one_lives_or_nobody_can_be_seen() {
        let (mut strays, late) = suspecting();
        strays.look_among(late, Err(io::ErrorKind::Other.into()), |_| true);
        assert_eq!(strays.next_look(), Some(late + LATE_PAUSE));
        strays.look_among(late, Ok(vec![7]), |_| false);
        assert_eq!(strays.next_look(), Some(late + LATE_PAUSE));
        strays.look_among(late, Ok(vec![7]), |pid| pid == 7);
        assert_eq!(strays.next_look(), None);
    }
}
