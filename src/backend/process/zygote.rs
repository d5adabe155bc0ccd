//! The supervisor's hold on one zygote: starting it, asking it for blanks, hearing that it has died.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Child;

use crate::sandbox::plan::CONTROL_FD;
use crate::sandbox::RUN_PLAN_COMMAND;
use crate::sys;
use crate::wire::{self, Direction, Kind, SpawnFailure, SpawnStage, WireError};

/// A running zygote. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Zygote {
    child: Child,
    control: OwnedFd,
    /// Blanks asked of it since it was started; it is replaced after a number of them.
    pub(super) forks: u32,
}

/// What a zygote said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It waits for work.
    Ready,
    /// A blank has a process; it greets its worker by itself once its sandbox is complete.
    Spawned { blank: u64, pid: u32 },
    /// A blank could not be made; blank 0 is the zygote itself.
    Failed { blank: u64, failure: SpawnFailure },
    /// It broke the protocol or has closed its socket.
    Gone { reason: String },
}

impl Zygote {
    /// Starts a zygote by letting this same binary apply `plan`, whose last step is to become the interpreter.
    ///
    /// # Errors
    /// When a socket, a pipe or the process cannot be made.
    pub(super) fn start(plan: &[u8]) -> io::Result<Zygote> {
        let (ours, theirs) = sys::io::seqpacket_pair()?;
        // What it complains about goes where the server's own words go.
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        let program = Path::new("/proc/self/exe");
        let command = [OsStr::new(RUN_PLAN_COMMAND)];
        let child = sys::process::spawn_with_plan(program, &command, plan, &theirs, CONTROL_FD, output)?;
        Ok(Zygote { child, control: ours, forks: 0 })
    }

    /// Asks for one blank. The descriptors are placed at 10, 11, … before `outer` runs.
    ///
    /// # Errors
    /// When the socket is full or closed.
    pub(super) fn spawn(&mut self, blank: u64, outer: &[u8], inner: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = wire::encode_spawn(blank, outer, inner).map_err(io::Error::other)?;
        sys::io::send_with_descriptors(&self.control, &[IoSlice::new(&message)], fds)?;
        self.forks += 1;
        Ok(())
    }

    /// The next piece of news, if there is any.
    pub(super) fn hear(&self, buffer: &mut [u8]) -> Option<News> {
        let heard = match sys::io::recv(&self.control, buffer) {
            // It died with a message unread. The kernel says so once, and before what it had said: blanks that it made
            // are alive, and must be heard of to be buried. After them comes the end of the stream.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => sys::io::recv(&self.control, buffer),
            heard => heard,
        };
        match heard {
            Ok((0, _)) => Some(News::Gone { reason: "it closed its socket".to_owned() }),
            Ok((_, true)) => Some(News::Gone { reason: "it sent too long a message".to_owned() }),
            Ok((length, false)) => Some(decode(&buffer[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(News::Gone { reason: error.to_string() }),
        }
    }

    /// Becomes readable when the zygote has something to say.
    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Its process id, for the log.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Zygote {
    /// Ends it. Instances that it made live on: they are the server's children.
    fn drop(&mut self) {
        let _ = self.child.kill();
        // The kill is immediate and the process is small, so this wait is short.
        let _ = self.child.wait();
    }
}

/// Tells the server, from the process that was to become a zygote, that a step of its plan failed. Also in words on
/// standard error, which is the server's.
pub fn report_refused_plan(step: u16, errno: i32) {
    let failure = SpawnFailure { stage: SpawnStage::Outer, step, errno };
    let message = wire::encode_spawn_failed(0, failure);
    // The server may be gone, and then nobody wants to know.
    let _ = nix::sys::socket::send(CONTROL_FD as i32, &message, nix::sys::socket::MsgFlags::MSG_NOSIGNAL);
}

fn decode(message: &[u8]) -> News {
    understand(message).unwrap_or_else(|error| News::Gone { reason: format!("it broke the protocol: {error}") })
}

fn understand(message: &[u8]) -> Result<News, WireError> {
    let mut frames = wire::decode_message(message, Direction::FromZygote)?;
    let frame = frames.next().ok_or(WireError::EmptyMessage)?;
    if frames.next().is_some() {
        return Err(WireError::TooManyFrames);
    }
    Ok(match frame.kind {
        Kind::Spawned => News::Spawned { blank: frame.id, pid: wire::decode_spawned(&frame)? },
        Kind::SpawnFailed => News::Failed { blank: frame.id, failure: wire::decode_spawn_failed(&frame)? },
        _ => {
            let info = wire::decode_zygote_ready(&frame)?;
            if info.free_threaded {
                return Ok(News::Gone { reason: "the interpreter is a free-threaded build".to_owned() });
            }
            News::Ready
        }
    })
}
