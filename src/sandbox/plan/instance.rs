//! The two plans that turn a fork of the zygote into an instance.
//!
//! The *outer* plan runs in M, the zygote's child, which then forks the instance; the *inner* plan runs in the
//! instance, pid 1 of its new pid namespace. ARCHITECTURE.md has the picture; the order below is forced by the kernel
//! in several places, and each place says so.

use std::path::PathBuf;

use super::{
    landlock, BindKind, Plan, Privilege, Resource, Step, CAP_SETPCAP, CAP_SYS_ADMIN, NEW_CGROUP, NEW_IPC, NEW_MOUNT,
    NEW_NET, NEW_PID, NEW_USER, NEW_UTS,
};
use crate::limits;
use crate::sandbox::layer::{Layer, Layers};

/// Where the zygote places the instance's channel for the plans.
pub const CHANNEL_FD: u32 = 10;
/// Where the zygote places the write end of the output pipe.
pub const OUTPUT_FD: u32 = 11;
/// Where the zygote places the first of the files that join a cgroup.
pub const FIRST_CGROUP_FD: u32 = 12;
/// A pidfd of M. Below the numbers above, and closed with them.
const PARENT_PIDFD: u32 = 9;
/// The instance's channel as the instance knows it.
const INSTANCE_CHANNEL_FD: u32 = 3;
/// The socket to the broker, until the plan's last step closes it.
pub(super) const INSTANCE_EGRESS_FD: u32 = 4;

/// The user id, and group id, that an instance sees as its own.
pub(super) const INSTANCE_UID: u32 = 1000;
const SIGKILL: u32 = 9;

/// Parts of /proc that tell of the host; absent where `subset=pid` works.
pub(crate) const PROC_MASKED: [&str; 16] = [
    "acpi",
    "asound",
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "kmsg",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "scsi",
    "interrupts",
    "config.gz",
    "kpagecount",
    "kpageflags",
];
/// Parts of /proc that act on the host.
pub(crate) const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Which network an instance is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// A network namespace of its own, with nothing in it.
    None,
    /// The same; but a broker of the server connects for it (see `egress`).
    Outbound,
    /// The host's.
    Host,
}

impl Network {
    /// All, by the names that settings use.
    pub const NAMES: [(&'static str, Network); 3] =
        [("none", Network::None), ("outbound", Network::Outbound), ("host", Network::Host)];

    /// The name that settings use.
    pub fn as_str(self) -> &'static str {
        match self {
            Network::None => "none",
            Network::Outbound => "outbound",
            Network::Host => "host",
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that the plans of one instance depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// How the zygote was made.
    pub privilege: Privilege,
    /// The host user and group id of this instance; used when `privilege` is root.
    pub host_uid: u32,
    /// Which layers it must have; others are tried.
    pub required: Layers,
    /// Which layers are left out.
    pub without: Layers,
    /// How many files that join a cgroup lie at [`FIRST_CGROUP_FD`] and above.
    pub cgroup_fds: u32,
    /// Which network it sees.
    pub network: Network,
    /// Whether an empty network namespace lies behind the descriptor that follows those. Without one it is made.
    pub joins_network: bool,
    /// Files of /etc, by name, that it sees in place of those of the tree.
    pub etc: Vec<(&'static str, Vec<u8>)>,
    /// Its host name.
    pub hostname: String,
    /// Size of /tmp in bytes.
    pub tmp_bytes: u64,
    /// Size of /dev/shm in bytes.
    pub shm_bytes: u64,
    /// Files and directories that each of the two may hold.
    pub tmp_inodes: u64,
    /// Descriptors that a process may have open.
    pub open_files: u64,
    /// Largest file that it may write, in bytes.
    pub file_bytes: u64,
    /// Bytes of `struct sock_filter[]`; none when empty.
    pub seccomp: Vec<u8>,
}

impl InstanceSpec {
    /// An instance with every layer and the default limits.
    pub fn strict(privilege: Privilege, host_uid: u32, seccomp: Vec<u8>) -> Self {
        InstanceSpec {
            privilege,
            host_uid,
            required: Layers::of(Layer::ALL),
            without: Layers::NONE,
            cgroup_fds: 0,
            network: Network::None,
            joins_network: false,
            etc: Vec::new(),
            hostname: "faas".to_owned(),
            tmp_bytes: limits::SANDBOX_TMP_BYTES,
            shm_bytes: limits::SANDBOX_SHM_BYTES,
            tmp_inodes: limits::SANDBOX_TMP_INODES,
            open_files: limits::SANDBOX_OPEN_FILES,
            file_bytes: limits::SANDBOX_FILE_BYTES,
            seccomp,
        }
    }

    /// The layers without which this instance is not made. With a broker, the namespace and the filter are what makes
    /// sure that nothing leaves but through him, so no level goes without them.
    pub fn required(&self) -> Layers {
        match self.network {
            Network::Outbound => self.required.with(Layer::NetworkNamespace).with(Layer::Seccomp),
            Network::None | Network::Host => self.required,
        }
    }

    /// The layers that this instance does not have, whatever the host could give.
    pub fn left_out(&self) -> Layers {
        match self.network {
            Network::Host => self.without.with(Layer::NetworkNamespace),
            Network::None | Network::Outbound => self.without,
        }
    }

    /// Where the zygote places the socket to the broker: behind all others.
    fn egress_fd(&self) -> u32 {
        FIRST_CGROUP_FD + self.cgroup_fds + u32::from(self.joins_network)
    }
}

/// What M does before it forks the instance.
pub fn instance_outer_plan(spec: &InstanceSpec) -> Plan {
    let mut plan = Plan::default();
    plan.layer(Layer::DeathSignal, [Step::OpenOwnPidfd { fd: PARENT_PIDFD }]);
    // The cgroups come first, so that the cgroup namespace has them as its root. "0" means the writing process.
    plan.always(
        (0..spec.cgroup_fds).map(|number| Step::WriteFd { fd: FIRST_CGROUP_FD + number, bytes: b"0".to_vec() }),
    );
    // One by one, so that a host which refuses one still gives the others. Together they would be no cheaper.
    plan.layer(Layer::MountNamespace, [Step::Unshare(NEW_MOUNT)]);
    plan.layer(Layer::PidNamespace, [Step::Unshare(NEW_PID)]);
    plan.layer(Layer::IpcNamespace, [Step::Unshare(NEW_IPC)]);
    plan.layer(Layer::UtsNamespace, [Step::Unshare(NEW_UTS)]);
    plan.layer(Layer::CgroupNamespace, [Step::Unshare(NEW_CGROUP)]);
    if spec.network != Network::Host {
        let network = match spec.joins_network {
            true => Step::JoinNetwork { fd: FIRST_CGROUP_FD + spec.cgroup_fds },
            false => Step::Unshare(NEW_NET),
        };
        plan.layer(Layer::NetworkNamespace, [network]);
    }
    plan.for_level(spec.required(), spec.without)
}

/// What the instance does to itself before it runs code that is not ours.
///
/// A failure is reported on the instance's own channel: at [`CHANNEL_FD`] before the step that moves it, at 3 after. The
/// zygote's control socket was closed before the first step.
pub fn instance_inner_plan(spec: &InstanceSpec) -> Plan {
    let mut plan = Plan::default();
    plan.layer(Layer::Session, [Step::SetSid]);
    plan.layer(Layer::UtsNamespace, [Step::Hostname(spec.hostname.clone())]);
    mounts(spec, &mut plan);
    resource_limits(spec, &mut plan);
    plan.always([Step::Umask(0o077), Step::Chdir("/tmp".into())]);
    identity(spec, &mut plan);
    privileges(&mut plan);
    descriptors(spec, &mut plan);
    // These two are last, since they forbid most of what is above, and the filter also forbids Landlock's calls.
    plan.layer(Layer::Landlock, [landlock::restriction(spec.network != Network::Host)]);
    if !spec.seccomp.is_empty() || spec.required().contains(Layer::Seccomp) {
        let filter = spec.seccomp.clone();
        // A required filter that is empty fails in the executor.
        let step = match spec.network {
            Network::Outbound => Step::SeccompNotify { filter, socket: INSTANCE_EGRESS_FD },
            Network::None | Network::Host => Step::Seccomp(filter),
        };
        plan.layer(Layer::Seccomp, [step]);
    }
    plan.for_level(spec.required(), spec.without)
}

fn mounts(spec: &InstanceSpec, plan: &mut Plan) {
    if spec.privilege != Privilege::Root {
        // The zygote of a common user has the host's /proc there (see `zygote_plan`). It must not come to light when
        // the next step fails and the level goes without.
        plan.always([Step::Mask("/proc".into())]);
    }
    if spec.without.contains(Layer::Proc) {
        plan.always([Step::MountProc { target: "/proc".into(), whole: true }]);
    }
    let proc = |name: &&str| PathBuf::from("/proc").join(name);
    plan.layer(Layer::Proc, [Step::MountProc { target: "/proc".into(), whole: false }]);
    plan.layer(Layer::Proc, PROC_MASKED.iter().map(|name| Step::Mask(proc(name))));
    plan.layer(Layer::Proc, PROC_READ_ONLY.iter().map(|name| Step::ReadOnly { path: proc(name), recursive: false }));
    etc(spec, plan);
    let tmpfs = |target: &str, size_bytes, inodes| Step::MountTmpfs {
        target: target.into(),
        size_bytes,
        inodes,
        mode: 0o1777,
        executable: false,
    };
    if spec.without.contains(Layer::TmpfsLimits) {
        // For tmpfs 0 means no limit.
        plan.always([tmpfs("/tmp", 0, 0), tmpfs("/dev/shm", 0, 0)]);
    }
    let inodes = spec.tmp_inodes;
    plan.layer(Layer::TmpfsLimits, [tmpfs("/tmp", spec.tmp_bytes, inodes), tmpfs("/dev/shm", spec.shm_bytes, inodes)]);
}

/// Files of /etc that are this instance's own. They lie in a file system that disappears under the /tmp to come, and are
/// shown where the tree has theirs.
fn etc(spec: &InstanceSpec, plan: &mut Plan) {
    if spec.etc.is_empty() {
        return;
    }
    let size_bytes = limits::SANDBOX_ETC_BYTES;
    let target = PathBuf::from("/tmp");
    plan.always([Step::MountTmpfs { target, size_bytes, inodes: 16, mode: 0o755, executable: false }]);
    for (name, bytes) in &spec.etc {
        let path = PathBuf::from("/tmp").join(name);
        let target = PathBuf::from("/etc").join(name);
        plan.always([
            Step::WriteFile { path: path.clone(), mode: 0o444, bytes: bytes.clone() },
            Step::Bind { source: path, target, kind: BindKind::Plain },
        ]);
    }
}

fn resource_limits(spec: &InstanceSpec, plan: &mut Plan) {
    let limits = [
        (Resource::OpenFiles, spec.open_files),
        (Resource::FileSize, spec.file_bytes),
        (Resource::Stack, limits::SANDBOX_STACK_BYTES),
        (Resource::Core, 0),
        (Resource::LockedMemory, 0),
        (Resource::MessageQueues, 0),
        (Resource::Nice, 0),
        (Resource::RealtimePriority, 0),
    ];
    plan.layer(Layer::Rlimits, limits.map(|(resource, limit)| Step::Rlimit { resource, soft: limit, hard: limit }));
}

/// From root to a user of the instance's own, in a user namespace of its own.
fn identity(spec: &InstanceSpec, plan: &mut Plan) {
    let outside = match spec.privilege {
        Privilege::Root if spec.without.contains(Layer::Identity) => 0,
        Privilege::Root => {
            plan.layer(
                Layer::Identity,
                [
                    Step::ClearGroups,
                    // Some hosts let only the privileged make user namespaces, and without one the bounding set and
                    // the securebits still have to be set: so two capabilities are carried through the change of user.
                    // Made effective again by `SetCaps`, they end in `privileges` below, or when the namespace is
                    // entered.
                    Step::KeepCaps,
                    Step::SetIds { uid: spec.host_uid, gid: spec.host_uid },
                    Step::SetCaps { keep: CAP_SYS_ADMIN | CAP_SETPCAP },
                ],
            );
            spec.host_uid
        }
        Privilege::Unprivileged { .. } => 0,
    };
    // The namespace is made after the change of user, so that its owner, who has all power over it, is the instance
    // itself and not root; and a process may map its own id without privilege.
    plan.layer(Layer::UserNamespace, [Step::Unshare(NEW_USER)]);
    // After a change of user, the files of /proc/self belong to root until the process is dumpable again.
    plan.always([Step::Dumpable(true)]);
    let map = format!("{INSTANCE_UID} {outside} 1\n");
    let writes =
        [("/proc/self/setgroups", "deny".to_owned()), ("/proc/self/uid_map", map.clone()), ("/proc/self/gid_map", map)];
    plan.layer(Layer::UserNamespace, writes.map(|(path, text)| Step::WriteProc { path: path.into(), text }));
}

/// Entering a user namespace filled all capability sets and reset the securebits, so these come after it. The
/// bounding set and the securebits take CAP_SETPCAP, so the capabilities go last.
fn privileges(plan: &mut Plan) {
    // Counted by user id and user namespace (Linux 5.14), so it comes after the namespace is made. Behind the control
    // group's limit it never shows; without control groups it is all that stops a fork bomb.
    let tasks = u64::from(limits::INSTANCE_TASKS_MAX);
    plan.layer(Layer::Rlimits, [Step::Rlimit { resource: Resource::Processes, soft: tasks, hard: tasks }]);
    plan.layer(Layer::Capabilities, [Step::DropBounding { keep: 0 }, Step::LockSecurebits, Step::SetCaps { keep: 0 }]);
    plan.layer(Layer::Dumpable, [Step::Dumpable(false)]);
    plan.layer(Layer::NoNewPrivileges, [Step::NoNewPrivs]);
}

fn descriptors(spec: &InstanceSpec, plan: &mut Plan) {
    plan.layer(
        Layer::DeathSignal,
        [
            // The signal is sent when the process that was the parent at this moment ends, so M must be gone: its end
            // would kill the instance, not the server's. A change of credentials clears the signal, so it comes
            // after. A pipe would not do: M's descriptors are closed before its children get their new parent.
            Step::AwaitExit { fd: PARENT_PIDFD, timeout_ms: limits::SANDBOX_PARENT_EXIT_TIMEOUT_MS },
            Step::DeathSignal(SIGKILL),
        ],
    );
    plan.always([
        Step::ResetSignalMask,
        Step::OpenAs { path: "/dev/null".into(), fd: 0 },
        Step::Dup2 { from: OUTPUT_FD, to: 1 },
        Step::Dup2 { from: OUTPUT_FD, to: 2 },
        Step::Dup2 { from: CHANNEL_FD, to: INSTANCE_CHANNEL_FD },
    ]);
    let last = match spec.network {
        Network::Outbound => {
            plan.always([Step::Dup2 { from: spec.egress_fd(), to: INSTANCE_EGRESS_FD }]);
            INSTANCE_EGRESS_FD
        }
        Network::None | Network::Host => INSTANCE_CHANNEL_FD,
    };
    plan.layer(Layer::Descriptors, [Step::CloseFrom(last + 1)]);
}
