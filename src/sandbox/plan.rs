//! The sandbox as data: what is done to a process, in which order, before it runs code that is not ours.
//!
//! Owns: the vocabulary ([`Step`]), its encoding for the executor, its description for people, and the plans
//! (`zygote`, `instance`, `container`). Does not own what a step means to the kernel (`sys::executor`) nor which files the tree shows
//! (`tree`). Nothing here touches the system: the same input gives the same plan, with or without root.
//!
//! Invariant: a plan says everything; nobody adds steps to it after it was built.

mod container;
mod describe;
mod encode;
mod instance;
mod landlock;
mod zygote;

use std::path::{Path, PathBuf};

use super::layer::{Layer, Layers};

pub use container::{container_plan, LAUNCH_FD};
pub use instance::{
    instance_inner_plan, instance_outer_plan, InstanceSpec, Network, CHANNEL_FD, FIRST_CGROUP_FD, OUTPUT_FD,
};
pub(crate) use instance::{PROC_MASKED, PROC_READ_ONLY};
pub use zygote::{zygote_plan, ZygoteSpec, CONTROL_FD, SHIM_DIRECTORY};

/// A mount namespace.
pub const NEW_MOUNT: u32 = 0x0002_0000;
/// A cgroup namespace.
pub const NEW_CGROUP: u32 = 0x0200_0000;
/// A UTS namespace: host name.
pub const NEW_UTS: u32 = 0x0400_0000;
/// An IPC namespace.
pub const NEW_IPC: u32 = 0x0800_0000;
/// A user namespace.
pub const NEW_USER: u32 = 0x1000_0000;
/// A pid namespace, for the children of the process that asks.
pub const NEW_PID: u32 = 0x2000_0000;
/// A network namespace, with nothing but a loopback device that is down.
pub const NEW_NET: u32 = 0x4000_0000;

/// `CAP_SETGID`.
pub const CAP_SETGID: u64 = 1 << 6;
/// `CAP_SETUID`.
pub const CAP_SETUID: u64 = 1 << 7;
/// `CAP_SETPCAP`.
pub const CAP_SETPCAP: u64 = 1 << 8;
/// `CAP_SETFCAP`.
pub const CAP_SETFCAP: u64 = 1 << 31;
/// `CAP_SYS_ADMIN`.
pub const CAP_SYS_ADMIN: u64 = 1 << 21;

/// With which power the server runs, and so what a sandbox can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// As root, with a host user id for every instance.
    Root,
    /// As a common user: the zygote makes a user namespace first, in which this user is 0. Instances then share the
    /// server's host user id.
    Unprivileged {
        /// The server's effective user id.
        uid: u32,
        /// The server's effective group id.
        gid: u32,
    },
}

/// Kernel numbers of the limits that a plan sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // the names are those of setrlimit(2)
pub enum Resource {
    FileSize = 1,
    Stack = 3,
    Core = 4,
    Processes = 6,
    OpenFiles = 7,
    LockedMemory = 8,
    MessageQueues = 12,
    Nice = 13,
    RealtimePriority = 14,
}

/// What a bind mount is of. All are read-only and nosuid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindKind {
    /// A file or a directory, without the mounts below it; nodev.
    Plain,
    /// The same with the mounts below it. In a user namespace the kernel refuses to leave them out.
    Recursive,
    /// A device node; noexec.
    Device,
}

/// One thing that is done to the calling process. Paths are as it sees them at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // of the fields: each variant's own line speaks of them
pub enum Step {
    /// Leaves the namespaces named by the flags for new ones.
    Unshare(u32),
    /// Leaves the network namespace for the one behind a descriptor.
    JoinNetwork { fd: u32 },
    /// Ends the propagation of mounts to and from the host.
    MakePrivate,
    /// Mounts an empty file system in memory, nosuid and nodev.
    MountTmpfs { target: PathBuf, size_bytes: u64, inodes: u64, mode: u32, executable: bool },
    /// Makes a directory; one that is there is left alone.
    MkDir { path: PathBuf, mode: u32 },
    /// Makes a symbolic link.
    Symlink { target: PathBuf, path: PathBuf },
    /// Makes a new file.
    WriteFile { path: PathBuf, mode: u32, bytes: Vec<u8> },
    /// Shows `source` at `target`.
    Bind { source: PathBuf, target: PathBuf, kind: BindKind },
    /// Mounts the process information of the current pid namespace: other users' processes hidden, and of the rest of
    /// /proc nothing where the kernel can leave it out (since 5.8); or the `whole` of it.
    MountProc { target: PathBuf, whole: bool },
    /// Hides a file or a directory, if it is there.
    Mask(PathBuf),
    /// Makes a tree read-only and nosuid, if it is there; with the mounts below it when `recursive`.
    ReadOnly { path: PathBuf, recursive: bool },
    /// Makes a mount point the root directory.
    PivotRoot(PathBuf),
    /// Lets go of the root directory before that; nothing of the host is left but the binds.
    DetachOldRoot,
    /// Sets the host name.
    Hostname(String),
    /// Lowers a limit; one that is lower already stays.
    Rlimit { resource: Resource, soft: u64, hard: u64 },
    /// Empties the list of supplementary groups.
    ClearGroups,
    /// Sets all three group ids and all three user ids.
    SetIds { uid: u32, gid: u32 },
    /// Keeps the permitted capabilities through the next `SetIds`.
    KeepCaps,
    /// Writes to a file of /proc about the process itself.
    WriteProc { path: PathBuf, text: String },
    /// Sets whether the process's memory and /proc files belong to its user (true) or to root (false).
    Dumpable(bool),
    /// Forbids to gain privileges by exec, for ever.
    NoNewPrivs,
    /// Drops all but these from the capabilities that an exec could ever grant.
    DropBounding { keep: u64 },
    /// Makes user id 0 mean nothing, and keeps it so.
    LockSecurebits,
    /// Keeps exactly these capabilities, inherits none.
    SetCaps { keep: u64 },
    /// Sends this signal to the process when its parent ends.
    DeathSignal(u32),
    /// Blocks no signal.
    ResetSignalMask,
    /// Begins a session without a terminal.
    SetSid,
    /// Opens a pidfd of the process itself, for its children to wait on.
    OpenOwnPidfd { fd: u32 },
    /// Waits until the process behind a pidfd has ended.
    AwaitExit { fd: u32, timeout_ms: u32 },
    /// Opens a file for reading and writing under a descriptor number.
    OpenAs { path: PathBuf, fd: u32 },
    /// Connects to a Unix socket, as a stream, under a descriptor number.
    Connect { path: PathBuf, fd: u32 },
    /// Duplicates a descriptor to another number, to survive an exec.
    Dup2 { from: u32, to: u32 },
    /// Closes this descriptor and all above.
    CloseFrom(u32),
    /// Writes to a descriptor in one piece.
    WriteFd { fd: u32, bytes: Vec<u8> },
    /// Changes the working directory.
    Chdir(PathBuf),
    /// Sets the mask of permissions for new files.
    Umask(u32),
    /// Confines the process to these paths, each with what may be done below it, to no TCP connection at all when
    /// `deny_tcp_connect`, and to abstract sockets and processes of its own: as far as the kernel's Landlock goes.
    Landlock { allowed: Vec<(PathBuf, u64)>, deny_tcp_connect: bool },
    /// Loads a filter of system calls: the bytes of `struct sock_filter[]`.
    Seccomp(Vec<u8>),
    /// Loads such a filter, which asks: sends the listener for its questions through a socket, waits until that is
    /// confirmed, and closes both.
    SeccompNotify { filter: Vec<u8>, socket: u32 },
    /// Becomes another program.
    Exec { path: PathBuf, arguments: Vec<String>, environment: Vec<(String, String)> },
}

/// A step, what it is for, and whether the plan ends when the kernel refuses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What to do.
    pub step: Step,
    /// The layer that it is part of; none when the process could not run without it, sandbox or not.
    pub layer: Option<Layer>,
    /// Whether the plan ends when it fails. A step that is not required is tried all the same.
    pub required: bool,
}

/// Steps in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan(Vec<Planned>);

impl Plan {
    /// A plan of steps that are part of no layer.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let mut plan = Plan::default();
        plan.always(steps);
        plan
    }

    /// The steps.
    pub fn steps(&self) -> &[Planned] {
        &self.0
    }

    /// Adds steps that the process could not run without.
    pub fn always(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.0.extend(steps.into_iter().map(|step| Planned { step, layer: None, required: true }));
    }

    /// Adds steps that make up a layer, or a part of one.
    pub fn layer(&mut self, layer: Layer, steps: impl IntoIterator<Item = Step>) {
        self.0.extend(steps.into_iter().map(|step| Planned { step, layer: Some(layer), required: true }));
    }

    /// The plan for a level: steps of layers that are not `required` may fail, those of layers `without` are gone.
    #[must_use]
    pub fn for_level(mut self, required: Layers, without: Layers) -> Self {
        self.0.retain(|planned| planned.layer.is_none_or(|layer| !without.contains(layer)));
        for planned in &mut self.0 {
            planned.required = planned.layer.is_none_or(|layer| required.contains(layer));
        }
        self
    }

    /// One line for each step, numbered as in the executor's reports, with the name of its layer.
    pub fn describe(&self) -> Vec<String> {
        let line = |(number, planned): (usize, &Planned)| {
            let layer = planned.layer.map_or("", Layer::name);
            let mark = if planned.required { "" } else { " (if the host can)" };
            format!("{number:>3}  {layer:<17}  {}{mark}", planned.step)
        };
        self.0.iter().enumerate().map(line).collect()
    }
}

/// `path`, which is absolute, as it lies under `root`.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests;
