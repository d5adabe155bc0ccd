//! Steps in words, for `--check-system` and the log.

use std::fmt;

use super::{landlock, BindKind, Step, NEW_CGROUP, NEW_IPC, NEW_MOUNT, NEW_NET, NEW_PID, NEW_USER, NEW_UTS};

const NAMESPACES: [(u32, &str); 7] = [
    (NEW_USER, "user"),
    (NEW_MOUNT, "mount"),
    (NEW_PID, "pid"),
    (NEW_NET, "net"),
    (NEW_IPC, "ipc"),
    (NEW_UTS, "uts"),
    (NEW_CGROUP, "cgroup"),
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Unshare(flags) => {
                let names = NAMESPACES.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name);
                write!(f, "new namespaces: {}", names.collect::<Vec<_>>().join(", "))
            }
            Step::JoinNetwork { fd } => write!(f, "join the empty network namespace behind descriptor {fd}"),
            Step::MakePrivate => f.write_str("stop mounts from spreading to and from the host"),
            Step::MountTmpfs { target, size_bytes, inodes, executable, .. } => {
                let noexec = if *executable { "" } else { ", noexec" };
                let target = target.display();
                write!(f, "empty file system at {target}: {size_bytes} bytes, {inodes} inodes, nosuid, nodev{noexec}")
            }
            Step::MkDir { path, mode } => write!(f, "directory {} (mode {mode:o})", path.display()),
            Step::Symlink { target, path } => write!(f, "link {} -> {}", path.display(), target.display()),
            Step::WriteFile { path, mode, bytes } => {
                write!(f, "file {} ({} bytes, mode {mode:o})", path.display(), bytes.len())
            }
            Step::Bind { source, target, kind } => {
                let kind = match kind {
                    BindKind::Plain => "read-only, nosuid, nodev",
                    BindKind::Recursive => "read-only, nosuid, nodev, with the mounts below it",
                    BindKind::Device => "device, nosuid, noexec",
                };
                write!(f, "show {} at {} ({kind})", source.display(), target.display())
            }
            Step::MountProc { target, whole: false } => write!(f, "own processes only at {}", target.display()),
            Step::MountProc { target, whole: true } => write!(f, "all of /proc at {}", target.display()),
            Step::Mask(path) => write!(f, "hide {}", path.display()),
            Step::ReadOnly { path, recursive } => {
                write!(f, "make {} read-only{}", path.display(), if *recursive { ", and all below it" } else { "" })
            }
            Step::PivotRoot(path) => write!(f, "make {} the root directory", path.display()),
            Step::DetachOldRoot => f.write_str("let go of the host's root directory"),
            Step::Hostname(name) => write!(f, "host name {name:?}"),
            Step::Rlimit { resource, soft, hard } => write!(f, "limit {resource:?} to {soft} (hard {hard})"),
            Step::ClearGroups => f.write_str("no supplementary groups"),
            Step::SetIds { uid, gid } => write!(f, "become user {uid}, group {gid}"),
            Step::KeepCaps => f.write_str("keep capabilities through the change of user"),
            Step::WriteProc { path, text } => write!(f, "write {text:?} to {}", path.display()),
            Step::Dumpable(true) => f.write_str("own /proc files belong to the user"),
            Step::Dumpable(false) => f.write_str("own /proc files belong to root, no core dump, no tracing"),
            Step::NoNewPrivs => f.write_str("no new privileges, for ever"),
            Step::DropBounding { keep: 0 } => f.write_str("empty the capability bounding set"),
            Step::DropBounding { keep } => write!(f, "reduce the capability bounding set to {keep:#x}"),
            Step::LockSecurebits => f.write_str("user id 0 means nothing, locked"),
            Step::SetCaps { keep: 0 } => f.write_str("drop all capabilities"),
            Step::SetCaps { keep } => write!(f, "capabilities exactly {keep:#x}"),
            Step::DeathSignal(signal) => write!(f, "signal {signal} when the parent ends"),
            Step::ResetSignalMask => f.write_str("block no signal"),
            Step::SetSid => f.write_str("session of its own"),
            Step::OpenOwnPidfd { fd } => write!(f, "descriptor {fd} is a pidfd of this process"),
            Step::AwaitExit { fd, timeout_ms } => {
                write!(f, "wait until the process behind descriptor {fd} has ended, {timeout_ms} ms at most")
            }
            Step::OpenAs { path, fd } => write!(f, "descriptor {fd} is {}", path.display()),
            Step::Connect { path, fd } => write!(f, "descriptor {fd} is connected to {}", path.display()),
            Step::Dup2 { from, to } => write!(f, "descriptor {to} is what {from} is"),
            Step::CloseFrom(first) => write!(f, "close descriptors from {first} on"),
            Step::WriteFd { fd, bytes } => write!(f, "write {:?} to descriptor {fd}", String::from_utf8_lossy(bytes)),
            Step::Chdir(path) => write!(f, "work in {}", path.display()),
            Step::Umask(mask) => write!(f, "umask {mask:03o}"),
            Step::Landlock { allowed, deny_tcp_connect } => {
                f.write_str("allow files only:")?;
                for (path, access) in allowed {
                    write!(f, " {} ({})", path.display(), landlock::describe(*access))?;
                }
                f.write_str("; abstract sockets and signals: its own")?;
                f.write_str(if *deny_tcp_connect { "; no TCP connection" } else { "" })
            }
            Step::Seccomp(filter) => write!(f, "allow-list of system calls ({} instructions)", filter.len() / 8),
            Step::SeccompNotify { filter, socket } => {
                let instructions = filter.len() / 8;
                write!(
                    f,
                    "allow-list of system calls ({instructions} instructions); descriptor {socket} takes its questions"
                )
            }
            Step::Exec { path, arguments, .. } => write!(f, "run {} as {arguments:?}", path.display()),
        }
    }
}
