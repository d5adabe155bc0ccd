//! The contract between the server and whatever runs functions.
//!
//! A backend makes **blanks** (sandboxed interpreters that wait for a function) and hands each to a worker as an
//! [`Instance`]. From then on the worker owns it and speaks the frames of `wire` over its channel; what only the
//! backend knows how to do (limits, killing, burying) it does through [`Custody`].
//!
//! Post-conditions that every backend keeps:
//! - A blank asked for is either delivered to its worker once, or reported as failed once.
//! - An instance shares nothing writable with any other: no file system, no process table, no network, no uid.
//! - After [`Custody::kill`] the process group of the instance is gone within a second, whatever it does.
//! - After [`Custody::bury`] nothing of the instance is left on the host: no process, no cgroup, no mount, no file.
//! - If the server dies, so do its instances: at once if it was root. In containers those of a server that was not end when
//!   their call does.

pub mod check;
pub mod docker;
pub mod process;
mod recipients;
pub mod runtimes;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::call::{ExitReason, Slot};
use crate::registry::function::FunctionConfig;

pub use recipients::Wish;

/// One sandboxed interpreter, from the moment it has a process until it is buried.
#[derive(Debug)]
pub struct Instance {
    /// Which place and tenant it is.
    pub slot: Slot,
    /// Process id as the host sees it; for people to read, never to signal.
    pub pid: u32,
    /// The server's end of the channel: `SOCK_SEQPACKET`, non-blocking.
    pub channel: OwnedFd,
    /// A duplicate of the instance's end, from which calls that it has not begun are taken back.
    pub instance_end: OwnedFd,
    /// The read end of the pipe that is the instance's descriptors 1 and 2; non-blocking.
    pub output: OwnedFd,
    /// What only the backend knows how to do.
    pub custody: Box<dyn Custody>,
}

/// How far [`Custody::set_limits`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// The limits are in force.
    InForce,
    /// Somebody else has been asked to set them, and tells the instance's worker what came of it
    /// ([`LimitsSet`](crate::call::WorkerJob::LimitsSet)), once. Until then nothing of the function may get there.
    Awaited,
}

/// What is known of an instance's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// How it came.
    Was(ExitReason),
    /// Nothing: it has not ended, or that cannot be told yet. It can in a moment.
    NotYet,
    /// Somebody else has been asked how it came, and tells the instance's worker when there is an answer
    /// ([`EndKnown`](crate::call::WorkerJob::EndKnown)), which is soon in any case.
    Awaited,
}

impl End {
    /// How it came, if that is known.
    pub fn reason(self) -> Option<ExitReason> {
        match self {
            End::Was(reason) => Some(reason),
            End::NotYet | End::Awaited => None,
        }
    }
}

/// The backend's hold on one instance.
pub trait Custody: Send + fmt::Debug {
    /// Sets memory and CPU limits for the function that moves in, or asks for it; does not wait. Called once, before its
    /// code is sent.
    ///
    /// # Errors
    /// When they are refused; the instance must then not be used.
    fn set_limits(&mut self, config: &FunctionConfig) -> io::Result<Limits>;

    /// A descriptor that becomes readable when the instance has ended.
    fn ended(&self) -> BorrowedFd<'_>;

    /// Ends the instance and everything it started. Idempotent; does not wait.
    fn kill(&self);

    /// How it ended, as far as that is known. Collects the process, so that no zombie is left; asked again, it says the
    /// same.
    fn end(&mut self) -> End;

    /// Hands the remains back. The instance must have ended.
    fn bury(self: Box<Self>);
}
