//! What a host withholds, and what goes wrong.
//!
//! The two are kept apart: an [`Absence`] is a fact about the host that an isolation level judges; a [`CgroupError`]
//! is an operation that failed on a host that seemed to allow it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a controller cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// No mounted hierarchy holds it.
    NotMounted,
    /// The tree has it, but this group was not given it.
    NotDelegated(PathBuf),
    /// Its hierarchy is mounted read-only.
    ReadOnly(PathBuf),
    /// This process may not write there.
    NotPermitted(PathBuf),
    /// Other processes are in the group that would have to be split.
    Occupied(PathBuf),
    /// The kernel refused with this error number.
    Refused(PathBuf, i32),
}

impl Absence {
    pub(super) fn of(path: &Path, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.raw_os_error().unwrap_or(libc::EIO) {
            libc::EACCES | libc::EPERM => Self::NotPermitted(path),
            libc::EROFS => Self::ReadOnly(path),
            libc::EBUSY => Self::Occupied(path),
            number => Self::Refused(path, number),
        }
    }

    /// What to do about it, for the operator.
    pub fn mend(&self) -> String {
        match self {
            Self::NotMounted => "enable the controller in the kernel (cgroup_enable=memory) and mount it".into(),
            Self::NotDelegated(_) => {
                "delegate it to the server's group (systemd: Delegate=yes; a user's services: Delegate=cpu memory pids \
                 in user@.service), or run as root"
                    .into()
            }
            Self::ReadOnly(path) => {
                format!("mount {} writable (in a container: --privileged, or a delegated cgroup mount)", path.display())
            }
            Self::NotPermitted(_) => {
                "run as root, or on cgroup v2 in a delegated group: systemd-run --user --scope -p Delegate=yes faas"
                    .into()
            }
            Self::Occupied(path) => format!(
                "give the server a group of its own (systemd: Delegate=yes; container: as its first process); {} holds \
                 other processes",
                path.display()
            ),
            Self::Refused(path, _) => format!("look at {} and the kernel's log", path.display()),
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMounted => write!(f, "no mounted hierarchy holds it"),
            Self::NotDelegated(path) => write!(f, "it is not enabled in {}", path.display()),
            Self::ReadOnly(path) => write!(f, "{} is read-only", path.display()),
            Self::NotPermitted(path) => write!(f, "no permission to write to {}", path.display()),
            Self::Occupied(path) => write!(f, "{} holds other processes", path.display()),
            Self::Refused(path, number) => {
                write!(f, "{}: {}", path.display(), io::Error::from_raw_os_error(*number))
            }
        }
    }
}

/// What can go wrong with control groups.
#[derive(Debug)]
pub enum CgroupError {
    /// A state id or a name is not made of 1 to 64 of `[A-Za-z0-9_-]`.
    InvalidName {
        /// The text.
        name: String,
    },
    /// A file could not be read.
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file could not be written.
    Write {
        /// Which file.
        path: PathBuf,
        /// What should have been written.
        value: String,
        /// The system's error.
        source: io::Error,
    },
    /// A group could not be made.
    Create {
        /// Its directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The group still holds processes, or the kernel has not yet let go of them: try again later.
    Busy {
        /// Its directory.
        path: PathBuf,
    },
    /// A group could not be removed.
    Remove {
        /// Its directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A process in the group could not be killed.
    Kill {
        /// Its process id.
        pid: u32,
        /// The system's error.
        source: io::Error,
    },
}

impl fmt::Display for CgroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName { name } => write!(f, "{name:?} is not a name for a control group"),
            Self::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::Write { path, value, source } => {
                write!(f, "cannot write {value:?} to {}: {source}", path.display())
            }
            Self::Create { path, source } => write!(f, "cannot make control group {}: {source}", path.display()),
            Self::Busy { path } => write!(f, "control group {} still holds processes", path.display()),
            Self::Remove { path, source } => {
                write!(f, "cannot remove control group {}: {source}", path.display())
            }
            Self::Kill { pid, source } => write!(f, "cannot kill process {pid}: {source}"),
        }
    }
}

impl std::error::Error for CgroupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Create { source, .. }
            | Self::Remove { source, .. }
            | Self::Kill { source, .. } => Some(source),
            Self::InvalidName { .. } | Self::Busy { .. } => None,
        }
    }
}
