//! One server process takes the place of another, while both serve.
//!
//! Owns the conversation of the two over a Unix socket in the state directory: what is said (`message`), where
//! (`socket`), what the server that serves does about it (`incumbent`) and what its successor does (`successor`); and
//! the two sides of a state directory (`side`), by which the sandboxes of both are told apart. Does not own what is
//! handed over: the front moves connections, the control threads hold changes, the function logs close their files.
//!
//! ```text
//!  successor                               incumbent
//!  Hello  ──────────────────────────────>  is it the same user, is nobody else here?
//!         <──────────────────────────────  Offer, with the lock of the directory and the listener
//!  zygotes, blanks, min_instances          serves
//!  Freeze ──────────────────────────────>  lets changes under way come to their end, and the next ones wait
//!         <──────────────────────────────  Frozen
//!  reads what has changed since            serves
//!  Go     ──────────────────────────────>  writes its function logs out and leaves the files alone
//!         <──────────────────────────────  Yours, with a socket for what is still logged: no way back from here
//!  stores, listens, serves                 accepts no more, finishes what it has begun, sends each connection after it
//!         <──────────────────────────────  Connection, with its socket, as often as there is one
//! ```
//!
//! Invariants:
//! - At every moment one of the two may write to the state: the incumbent until it has sent `Yours`, and then the
//!   successor, which has not written before it has received that.
//! - Until `Yours` nothing of the incumbent is given up. Whatever ends the conversation before (the successor's death, a
//!   message that is none, a deadline) makes it go on as if nothing had been.
//! - The lock of the directory is the same open file in both, so that it is held without a gap, and as long as either
//!   of them lives.

pub mod incumbent;
pub mod message;
pub mod side;
pub mod socket;
pub mod successor;

use std::fmt;
use std::io;
use std::path::PathBuf;

pub use side::Side;
pub use successor::Predecessor;

/// Why a server could not take the place of another. The other goes on.
#[derive(Debug)]
pub enum TakeoverError {
    /// The other's socket cannot be used.
    Socket {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The other refused.
    Refused {
        /// Its process id, as it or the kernel told it.
        pid: u32,
        /// What it said.
        reason: String,
    },
    /// The other said what makes no sense at this point.
    Unexpected {
        /// Its process id.
        pid: u32,
        /// What was to come.
        awaited: &'static str,
        /// What came.
        source: message::MessageError,
    },
    /// The other said nothing in time.
    Silent {
        /// Its process id.
        pid: u32,
        /// What was to come.
        awaited: &'static str,
    },
    /// The other broke the conversation off and lives.
    BrokenOff {
        /// Its process id.
        pid: u32,
    },
    /// A server has the directory, and there is no way to ask it for its place.
    Deaf {
        /// Its process id, if it can be told.
        pid: Option<u32>,
    },
    /// The two differ in the form of what is stored.
    Schema {
        /// The other's.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Both sides of the directory are in use.
    SidesTaken {
        /// The process that should have ended, if it can be told.
        pid: Option<u32>,
    },
    /// The user ids of this server's sandboxes would be those of the other's.
    SameUsers {
        /// The first that the other uses.
        first: u32,
        /// How many follow.
        count: u32,
    },
    /// No sandbox could be made.
    NotReady {
        /// Why the last one could not.
        reason: String,
    },
    /// What is stored cannot be read.
    Store(crate::registry::store::StoreError),
    /// A signal asked this server to stop before it had begun.
    Stopped,
    /// A descriptor or a thread cannot be had.
    System {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for TakeoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot take over: ")?;
        match self {
            TakeoverError::Socket { path, source } => {
                write!(f, "the server that serves cannot be reached at {}: {source}", path.display())
            }
            TakeoverError::Refused { pid, reason } => write!(f, "process {pid}, which serves, refuses: {reason}"),
            TakeoverError::Unexpected { pid, awaited, source } => {
                write!(f, "process {pid}, which serves, does not send {awaited}: {source}")
            }
            TakeoverError::Silent { pid, awaited } => {
                write!(f, "process {pid}, which serves, does not send {awaited} in time")
            }
            TakeoverError::BrokenOff { pid } => {
                write!(f, "process {pid}, which serves, has broken the takeover off; its log says why")
            }
            TakeoverError::Deaf { pid } => {
                f.write_str("the server that has the state directory")?;
                if let Some(pid) = pid {
                    write!(f, ", process {pid},")?;
                }
                f.write_str(
                    " cannot be asked for its place: it is about to end, or of a version that knows no takeover; start \
                     this one when it has ended",
                )
            }
            TakeoverError::Schema { found, known } => write!(
                f,
                "the server that serves stores functions in form {found}, this one in form {known}: stop it, and start \
                 this one without --takeover"
            ),
            TakeoverError::SidesTaken { pid } => {
                f.write_str("the server before the one that serves")?;
                if let Some(pid) = pid {
                    write!(f, ", process {pid},")?;
                }
                f.write_str(" still finishes its calls: try again, or end it with SIGTERM")
            }
            TakeoverError::SameUsers { first, count } => write!(
                f,
                "sandboxes of the server that serves have the user ids from {first} on ({count} of them): \
                 system.sandbox_uid_base may be the same, or must be further away"
            ),
            TakeoverError::NotReady { reason } => write!(f, "no sandbox can be made: {reason}"),
            TakeoverError::Store(error) => error.fmt(f),
            TakeoverError::Stopped => f.write_str("a signal came first"),
            TakeoverError::System { action, source } => write!(f, "cannot {action}: {source}"),
        }
    }
}

impl std::error::Error for TakeoverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TakeoverError::Socket { source, .. } | TakeoverError::System { source, .. } => Some(source),
            TakeoverError::Unexpected { source, .. } => Some(source),
            TakeoverError::Store(source) => Some(source),
            _ => None,
        }
    }
}
