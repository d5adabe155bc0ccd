//! How the process in a container gets its channel: it comes to a socket in a directory that it has mounted, and is sent
//! one message with descriptors (`runtime-shim/container.py` is the other side). With outbound network it comes once more,
//! to hand over the listener of its filter (`sandbox::plan::container_plan`).
//!
//! Owns the directory, the socket and the message. Does not own the descriptors, or what they lead to.
//!
//! Invariants:
//! - One process is served, once. Then the socket has no name any more and is closed, and the function that moves in finds
//!   nobody.
//! - What comes for the broker is the server's own program: nothing of the image has run by then.
//! - Who comes is the container's user, by the kernel's word. Besides, nobody else reaches the socket: the directory lies
//!   in one that is the server's alone, and is mounted into one container; and as root the server gives it to that user.
//! - The directory goes with the value.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{
    bind, getsockopt, listen, socket, sockopt, AddressFamily, Backlog, SockFlag, SockType, UnixCredentials,
};

use super::files::{make_directory, LAUNCHER, PLAN};
use crate::sandbox::plan::{Network, LAUNCH_FD};
use crate::sys;

/// Where containers have the shim's files.
const SHIM: &str = "/faas/shim";
/// The socket's name in its directory, which containers have at `/faas/run`.
const NAME: &str = "launch";
/// What comes with the descriptors says nothing, but a datagram cannot be empty.
const MESSAGE: &[u8] = b"!";
/// Who is not the server's user may pass through and find the socket by its name.
const DIRECTORY_MODE: u32 = 0o711;

/// A directory with a listening socket, for one container.
#[derive(Debug)]
pub struct Rendezvous {
    directory: PathBuf,
    /// None when all has been handed over.
    listener: Option<OwnedFd>,
    user: Option<u32>,
    /// The message has been sent.
    has_channel: bool,
}

/// A container's process has come for all that it needs.
#[derive(Debug)]
pub struct Met {
    /// Where the listener of its filter comes from, for [`Egress::adopt`](crate::egress::Egress::adopt), if its network
    /// is outbound.
    pub handover: Option<OwnedFd>,
}

impl Rendezvous {
    /// Makes the directory `name` below `parent` (see [`files::prepare`](super::files::prepare)) and listens there. `user`
    /// is who the container's processes are on this host; none where the engine has a mapping of its own between users
    /// inside and outside.
    ///
    /// # Errors
    /// Those of the file system and of socket(2), bind(2), listen(2).
    pub fn prepare(parent: &Path, name: &str, user: Option<u32>) -> io::Result<Rendezvous> {
        let directory = parent.join(name);
        make_directory(&directory, DIRECTORY_MODE)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        // From here on the directory goes whatever fails.
        let mut rendezvous = Rendezvous { directory, listener: None, user, has_channel: false };
        let path = rendezvous.directory.join(NAME);
        bind(listener.as_raw_fd(), &sys::io::address_in(&File::open(&rendezvous.directory)?, NAME)?)?;
        let is_root = nix::unistd::geteuid().is_root();
        match user.filter(|_| is_root) {
            Some(_) => {
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
                std::os::unix::fs::chown(&path, user, None)?;
            }
            None => fs::set_permissions(&path, Permissions::from_mode(0o666))?,
        }
        listen(&listener, Backlog::new(2)?)?;
        rendezvous.listener = Some(listener);
        Ok(rendezvous)
    }

    /// The directory on the host: what the container is to have, read-only, at `/faas/run`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has the poll tell when somebody has come. That it is over with the socket needs nobody to say.
    ///
    /// # Errors
    /// Those of epoll_ctl(2), and `NotConnected` when all has been handed over.
    pub fn watch(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?.as_raw_fd();
        registry.register(&mut SourceFd(&listener), token, Interest::READABLE)
    }

    /// Sends the message to the process that has come, with these: its end of the channel, and the write end of its output
    /// pipe. `None` as long as it has not come for everything, and for ever when it has.
    ///
    /// # Errors
    /// `PermissionDenied` when it is somebody else, which the engine must then have let in; `BrokenPipe` or
    /// `ConnectionReset` when it is gone again; those of accept(2).
    pub fn meet(&mut self, network: Network, descriptors: &[BorrowedFd<'_>; 2]) -> io::Result<Option<Met>> {
        if self.listener.is_none() {
            return Ok(None);
        }
        if !self.has_channel {
            let Some(stream) = self.accept()? else { return Ok(None) };
            sys::io::send_with_descriptors(&stream, &[IoSlice::new(MESSAGE)], descriptors)?;
            self.has_channel = true;
        }
        let handover = match network {
            Network::None | Network::Host => None,
            Network::Outbound => match self.accept()? {
                None => return Ok(None),
                stream => stream,
            },
        };
        fs::remove_file(self.directory.join(NAME))?;
        self.listener = None;
        Ok(Some(Met { handover }))
    }

    fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let Some(listener) = &self.listener else { return Ok(None) };
        let Some(stream) = sys::io::accept(listener)? else { return Ok(None) };
        check(self.user, getsockopt(&stream, sockopt::PeerCredentials)?)?;
        Ok(Some(stream))
    }

    /// Hangs up and removes the directory.
    pub fn remove(self) {}
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            log::warn!("{} is left behind: {error}", self.directory.display());
        }
    }
}

/// What the engine is to run in a container with this network. With outbound network it begins with a program of the
/// server's, which loads the filter and becomes the image's interpreter.
pub fn command(network: Network) -> Vec<String> {
    let mut command = Vec::new();
    if network == Network::Outbound {
        command.extend([LAUNCHER, PLAN].map(|file| format!("{SHIM}/{file}")));
    }
    command.extend(["python3", "-I", "-S", "-B"].map(str::to_owned));
    command.push(format!("{SHIM}/container.py"));
    if network == Network::Outbound {
        command.push(LAUNCH_FD.to_string());
    }
    command
}

fn check(wanted: Option<u32>, peer: UnixCredentials) -> io::Result<()> {
    match wanted {
        Some(user) if user != peer.uid() => {
            let text = format!("the process in the container is uid {} and not uid {user}", peer.uid());
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
