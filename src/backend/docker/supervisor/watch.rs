//! What of a container is waited for by this thread's own poll: its process, until it is a worker's, and its memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::backend::docker::api::system::EngineKind;
use crate::backend::docker::hardening;
use crate::sandbox::cgroup;
use crate::sys;

use super::Supervisor;

/// What a container has that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The socket that its process comes to.
    Listener,
    /// Its process.
    Process,
    /// Memory that runs out.
    Memory,
}

impl Source {
    const ALL: [Source; 3] = [Source::Listener, Source::Process, Source::Memory];

    pub(super) fn token(self, key: usize) -> Token {
        Token(Source::ALL.len() * key + self as usize)
    }

    /// Whose it is, and what.
    pub(super) fn of(token: Token) -> (usize, Source) {
        (token.0 / Source::ALL.len(), Source::ALL[token.0 % Source::ALL.len()])
    }
}

impl Supervisor {
    /// Watches the container's first process until it is a worker's, once the kernel has said that it is that.
    pub(super) fn watch(&mut self, key: usize, id: &str, pid: u32) -> io::Result<()> {
        let container = &mut self.containers[key];
        let process = sys::process::pidfd_open(pid)?;
        // From here on the number is this process's, or nothing is read by it.
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        if !hardening::is_in_group_of(&groups, id) {
            return Err(io::Error::other("it is not in the container's control group"));
        }
        // Before anything of a function is in it.
        self.heir.take(process.as_fd())?;
        let descriptor = process.as_raw_fd();
        self.desk.registry().register(&mut SourceFd(&descriptor), Source::Process.token(key), Interest::READABLE)?;
        container.process = Some(process);
        if container.spec.engine == EngineKind::Podman {
            // No event of its tells of that.
            self.watch_memory(key, pid, &groups);
        }
        Ok(())
    }

    /// Has the kernel end the container as one, or tell, when its memory runs out. Where the server may not, a part of
    /// it is killed as the kernel chooses.
    fn watch_memory(&mut self, key: usize, pid: u32, groups: &str) {
        let container = &mut self.containers[key];
        let watched = cgroup::end_as_one(pid, groups).map_err(io::Error::other).and_then(|watch| {
            if let Some(watch) = &watch {
                let event = watch.event().as_raw_fd();
                self.desk.registry().register(&mut SourceFd(&event), Source::Memory.token(key), Interest::READABLE)?;
            }
            container.memory = watch;
            Ok(())
        });
        if let Err(error) = watched {
            log::debug!("{}: nobody tells when its memory runs out: {error}", container.slot);
        }
    }

    /// The kernel says that memory has run out, in the container or above.
    pub(super) fn starve(&mut self, key: usize) {
        let Some(container) = self.containers.get_mut(key) else { return };
        let Some(watch) = &container.memory else { return };
        if let Err(error) = watch.respond() {
            log::warn!("{}: out of memory, and cannot be killed: {error}", container.slot);
        }
        container.is_starved |= watch.seen();
    }

    /// The process, if it was watched.
    pub(super) fn unwatch(&mut self, key: usize) -> Option<OwnedFd> {
        let process = self.containers.get_mut(key)?.process.take()?;
        let descriptor = process.as_raw_fd();
        let _ = self.desk.registry().deregister(&mut SourceFd(&descriptor));
        Some(process)
    }
}
