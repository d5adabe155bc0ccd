//! The two sides of a state directory: while one server takes over from another both have sandboxes, and each has them
//! on a side of its own, with user ids and control groups that the other has not.
//!
//! Owns the two lock files, what is written in them, and what follows from a side's number. A server holds its side from
//! its start to its end: the kernel lets go of the `flock` however that end comes, so that a side that can be locked is
//! one whose server, and with it every sandbox, is gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::TakeoverError;
use crate::limits::SANDBOX_UIDS_PER_SIDE;

/// Between two looks at a side that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// A side, ours for as long as the value lives.
#[derive(Debug)]
pub struct Side {
    number: u32,
    first_uid: u32,
    state: PathBuf,
    _lock: Flock<File>,
}

/// What the server of the other side has said of itself.
struct Neighbour {
    pid: u32,
    first_uid: u32,
}

impl Side {
    /// Takes a side that is free, and waits for one until `patience` is over. `uid_base` is the configured first user id,
    /// `serving` the process that is taken over from. While it waits, `go_on` is asked again and again whether to, and
    /// told for which process, if that is known.
    ///
    /// # Errors
    /// When there is none in time, when its user ids would be those of the other side's sandboxes, or when it is not to
    /// go on.
    pub fn claim(
        state: &Path,
        uid_base: u32,
        patience: Duration,
        serving: Option<u32>,
        go_on: &mut dyn FnMut(Option<u32>) -> bool,
    ) -> Result<Side, TakeoverError> {
        let failed = |source| TakeoverError::System { action: "lock a side of the state directory", source };
        let deadline = Instant::now() + patience;
        loop {
            for number in [0, 1] {
                let Some(mut lock) = try_lock(state, number).map_err(failed)? else { continue };
                let first_uid = first_uid(uid_base, number);
                if let Some(other) = holder(state, 1 - number) {
                    if first_uid.abs_diff(other.first_uid) < SANDBOX_UIDS_PER_SIDE {
                        return Err(TakeoverError::SameUsers { first: other.first_uid, count: SANDBOX_UIDS_PER_SIDE });
                    }
                }
                // For the message and the comparison above; on a full disk both do without.
                let text = format!("{} {first_uid}\n", std::process::id());
                let _ = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(text.as_bytes()));
                return Ok(Side { number, first_uid, state: state.to_owned(), _lock: lock });
            }
            // Never the one that serves, which nobody should be told to end.
            let holders = [0, 1].into_iter().filter_map(|number| holder(state, number)).map(|holder| holder.pid);
            let pid = holders.filter(|&pid| Some(pid) != serving).min();
            if Instant::now() >= deadline {
                return Err(TakeoverError::SidesTaken { pid });
            }
            if !go_on(pid) {
                return Err(TakeoverError::Stopped);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The host user id of slot 0.
    pub fn first_uid(&self) -> u32 {
        self.first_uid
    }

    /// Which side it is: 0 or 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The name of this side's control groups, given that of the state directory.
    pub fn group_name(&self, state_id: &str) -> String {
        group_name(state_id, self.number)
    }

    /// The same of the other side.
    pub fn other_group_name(&self, state_id: &str) -> String {
        group_name(state_id, 1 - self.number)
    }

    /// The other side, if nobody has it: it cannot be taken while the value lives.
    ///
    /// # Errors
    /// Those of open(2) and flock(2).
    pub fn other_if_free(&self) -> io::Result<Option<FreeSide>> {
        Ok(try_lock(&self.state, 1 - self.number)?.map(|lock| FreeSide { _lock: lock }))
    }

    /// Waits until the server of the other side has ended.
    ///
    /// # Errors
    /// Those of open(2) and flock(2); `TimedOut`.
    pub fn await_other(&self, patience: Duration) -> io::Result<FreeSide> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(free) = self.other_if_free()? {
                return Ok(free);
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A side that nobody has.
#[derive(Debug)]
pub struct FreeSide {
    _lock: Flock<File>,
}

fn first_uid(uid_base: u32, number: u32) -> u32 {
    uid_base.saturating_add(number * SANDBOX_UIDS_PER_SIDE)
}

fn group_name(state_id: &str, number: u32) -> String {
    match number {
        0 => state_id.to_owned(),
        _ => format!("{state_id}-{number}"),
    }
}

fn path(state: &Path, number: u32) -> PathBuf {
    state.join(format!("side.{number}"))
}

fn open(state: &Path, number: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path(state, number))
}

fn try_lock(state: &Path, number: u32) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(open(state, number)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Who has a side, if anybody has and said so.
fn holder(state: &Path, number: u32) -> Option<Neighbour> {
    if try_lock(state, number).ok()?.is_some() {
        return None;
    }
    let mut text = String::new();
    File::open(path(state, number)).ok()?.take(64).read_to_string(&mut text).ok()?;
    let (pid, first_uid) = text.trim().split_once(' ')?;
    Some(Neighbour { pid: pid.parse().ok()?, first_uid: first_uid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = 2_000_000_000;

    fn claim(state: &Path, uid_base: u32) -> Result<Side, TakeoverError> {
        Side::claim(state, uid_base, Duration::ZERO, None, &mut |_| true)
    }

    #[test]
    fn two_servers_have_a_side_each_and_a_third_waits_for_one() {
        let state = &tempfile::tempdir().unwrap();
        let first = claim(state.path(), BASE).unwrap();
        let second = claim(state.path(), BASE).unwrap();
        assert_eq!((first.first_uid(), second.first_uid()), (BASE, BASE + SANDBOX_UIDS_PER_SIDE));
        assert_eq!((first.group_name("id"), second.group_name("id")), ("id".to_owned(), "id-1".to_owned()));
        assert_eq!((first.other_group_name("id"), second.other_group_name("id")), ("id-1".to_owned(), "id".to_owned()));
        let pid = std::process::id();
        assert!(matches!(claim(state.path(), BASE), Err(TakeoverError::SidesTaken { pid: Some(it) }) if it == pid));
        assert!(second.other_if_free().unwrap().is_none());
        std::thread::scope(|scope| {
            let patience = Duration::from_secs(60);
            let third = scope.spawn(move || Side::claim(state.path(), BASE, patience, None, &mut |_| true).unwrap());
            drop(first);
            assert_eq!(third.join().unwrap().first_uid(), BASE);
        });
    }

    #[test]
    fn a_side_that_is_looked_after_cannot_be_taken() {
        let state = tempfile::tempdir().unwrap();
        let first = claim(state.path(), BASE).unwrap();
        let free = first.other_if_free().unwrap().unwrap();
        assert!(matches!(claim(state.path(), BASE), Err(TakeoverError::SidesTaken { .. })));
        drop(free);
        assert!(claim(state.path(), BASE).is_ok());
    }

    #[test]
    fn users_of_two_servers_never_meet_whatever_each_has_configured() {
        let state = tempfile::tempdir().unwrap();
        let _first = claim(state.path(), BASE).unwrap();
        // The other side has its ids behind those of this one.
        let per_side = SANDBOX_UIDS_PER_SIDE;
        for (base, meets) in [
            (BASE, false),
            (BASE + 1, false),
            (BASE - 1, true),
            (BASE - per_side, true),
            (BASE - 2 * per_side + 1, true),
            (BASE - 2 * per_side, false),
        ] {
            let claimed = claim(state.path(), base);
            assert_eq!(matches!(claimed, Err(TakeoverError::SameUsers { first: BASE, .. })), meets, "{base}");
            assert_eq!(claimed.is_ok(), !meets, "{base}");
        }
        assert!(claim(state.path(), 100_000).is_ok());
    }
}
