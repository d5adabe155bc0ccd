//! What this host offers the sandbox, and what that means for an isolation level.
//!
//! Owns the facts and their judgement; the layers themselves are built elsewhere. [`HostFacts::probe`] asks the
//! kernel; everything else here is pure, so that hosts we do not have can be tested as values.
//!
//! Namespaces are tried in a forked child, since the answer depends on the kernel's configuration, sysctls, security
//! modules and an outer sandbox at once. Forking a threaded program is not safe, so probing happens before the server
//! starts a thread; later the answer is [`Namespace::Unknown`], which counts as missing.

mod report;

pub use report::{Line, Report, Status};

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};

use super::cgroup::{Absence, CgroupRoot, Controller, Version};
use super::layer::{Layer, Layers};
use super::seccomp::Arch;
use crate::sys::probe::{has_mount_setattr, has_pidfd, in_child, landlock_abi, ChildOutcome};

/// `system.process_isolation_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IsolationLevel {
    /// Every layer, or no start.
    Strict,
    /// What the host cannot give is dropped, and named.
    Standard,
    /// No promise at all: for development.
    None,
}

impl fmt::Display for IsolationLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Standard => "standard",
            Self::None => "none",
        })
    }
}

/// Whether a kind of namespace can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// It was made, in a child.
    Available,
    /// The kernel refused with this error.
    Refused(Errno),
    /// It could not be tried.
    Unknown,
}

/// The kinds of namespaces, in the order of the report.
const NAMESPACES: [(Layer, CloneFlags); 7] = [
    (Layer::UserNamespace, CloneFlags::CLONE_NEWUSER),
    (Layer::MountNamespace, CloneFlags::CLONE_NEWNS),
    (Layer::PidNamespace, CloneFlags::CLONE_NEWPID),
    (Layer::NetworkNamespace, CloneFlags::CLONE_NEWNET),
    (Layer::IpcNamespace, CloneFlags::CLONE_NEWIPC),
    (Layer::UtsNamespace, CloneFlags::CLONE_NEWUTS),
    (Layer::CgroupNamespace, CloneFlags::CLONE_NEWCGROUP),
];

/// User ids that the host must give out: one per instance, above the range that people and services use.
const HOST_UIDS_MIN: u64 = 1 << 17;
/// Version 1 of Landlock refuses to rename from one directory to another, so it counts as missing.
pub const LANDLOCK_VERSION_MIN: u32 = 2;
/// Open files below which a server of the default size runs out.
const OPEN_FILES_GOOD: u64 = 16_384;

/// What our filters answer.
const FILTER_ACTIONS: [&str; 3] = ["kill_process", "errno", "allow"];
/// First kernel that can put a socket into a process that waits for an answer.
const OUTBOUND_KERNEL_MIN: (u32, u32) = (5, 9);
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Effective user id of the server.
    pub euid: u32,
    /// User ids that exist in the server's own user namespace.
    pub uids: u64,
    /// The kernel's release, `6.18.44`.
    pub kernel: String,
    /// Each kind of namespace.
    pub namespaces: Vec<(Layer, Namespace)>,
    /// Whether seccomp filters can kill and refuse, and we have one for this architecture.
    pub seccomp: bool,
    /// Whether a filter can ask a process what to answer.
    pub filters_ask: bool,
    /// Whether this process may look into those of the sandboxes.
    pub may_trace: bool,
    /// `pidfd_open`.
    pub pidfd: bool,
    /// `mount_setattr`.
    pub mount_setattr: bool,
    /// Landlock's version, if it is enabled.
    pub landlock_abi: Option<u32>,
    /// Hard limit of open files; `None` when it is unlimited.
    pub open_files_max: Option<u64>,
    /// Each controller, from [`CgroupRoot::controllers`].
    pub controllers: Vec<(Controller, Result<Version, Absence>)>,
    /// Sysctls that restrict unprivileged user namespaces here, `name = value`.
    pub restrictions: Vec<String>,
}

/// What the server needs of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Processes by descriptor: instances are watched and killed by them.
    Pidfd,
    /// What a layer is made of.
    Layer(Layer),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Need::Pidfd => "pidfd",
            Need::Layer(layer) => layer.name(),
        })
    }
}

/// Something that this host cannot give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What it is.
    pub what: Need,
    /// Why it is missing.
    pub detail: String,
    /// What the operator can do.
    pub mend: String,
    /// No level can do without it.
    pub essential: bool,
}

impl Missing {
    fn layer(layer: Layer, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: Need::Layer(layer), detail: detail.into(), mend: mend.into(), essential: false }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.detail, self.mend)
    }
}

impl HostFacts {
    /// Asks the kernel. Must run before the first thread is started; takes a few milliseconds.
    pub fn probe(cgroups: &CgroupRoot) -> Self {
        let euid = nix::unistd::geteuid();
        let actions = read("/proc/sys/kernel/seccomp/actions_avail");
        Self {
            euid: euid.as_raw(),
            uids: mapped_ids(&read("/proc/self/uid_map")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            namespaces: NAMESPACES.map(|(what, flag)| (what, try_namespace(flag, euid.is_root()))).to_vec(),
            seccomp: Arch::native().is_some() && has_actions(&actions, &FILTER_ACTIONS),
            filters_ask: has_actions(&actions, &["user_notif"]),
            // A common user has all power over the namespaces that are made below him.
            may_trace: !euid.is_root() || effective_capabilities(&read("/proc/self/status")) & CAP_SYS_PTRACE != 0,
            pidfd: has_pidfd(),
            mount_setattr: has_mount_setattr(),
            landlock_abi: landlock_abi(),
            open_files_max: open_files_max(&read("/proc/self/limits")),
            controllers: cgroups.controllers().to_vec(),
            restrictions: restrictions(|path| std::fs::read_to_string(path)),
        }
    }

    /// The layers that this host cannot give: `strict` refuses to start when there is one, `standard` starts without
    /// those that are not essential and names them, `none` asks only for the essential ones.
    pub fn missing_for(&self, level: IsolationLevel) -> Vec<Missing> {
        let mut missing = Vec::new();
        if !self.pidfd {
            let (detail, mend) = ("no pidfd_open".to_owned(), "use Linux 5.3 or later".to_owned());
            missing.push(Missing { what: Need::Pidfd, detail, mend, essential: true });
        }
        if level == IsolationLevel::None {
            return missing;
        }
        if !self.own_host_uids() {
            let detail = match self.euid {
                0 => format!("only {} user ids exist here", self.uids),
                euid => format!("the server runs as user {euid}"),
            };
            let mend = "run the server as root of the host; it gives every instance a user id of its own";
            missing.push(Missing::layer(Layer::Identity, detail, mend));
        }
        for (layer, state) in &self.namespaces {
            if let Some(detail) = refusal(*state) {
                missing.push(Missing::layer(*layer, detail, self.namespace_mend()));
            }
        }
        if !self.seccomp {
            let mend = "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64";
            missing.push(Missing::layer(Layer::Seccomp, "no filters on this kernel or architecture", mend));
        }
        for (controller, state) in &self.controllers {
            if let Err(absence) = state {
                missing.push(Missing::layer(controller.layer(), absence.to_string(), absence.mend()));
            }
        }
        missing
    }

    /// The table for `--check-system`: under `strict` a missing layer is a failure, otherwise it is less.
    pub fn report(&self, level: IsolationLevel) -> Report {
        let missing = self.missing_for(IsolationLevel::Strict);
        let mut report = Report::default();
        report.ok("kernel", self.kernel.as_str());
        let mut need = |what: Need, detail: String| match missing.iter().find(|missing| missing.what == what) {
            None => report.ok(what.to_string(), detail),
            Some(found) => {
                let fails = found.essential || level == IsolationLevel::Strict;
                let status = if fails { Status::Failed } else { Status::Degraded };
                report.bad(status, what.to_string(), found.detail.as_str(), found.mend.as_str());
            }
        };
        need(Need::Pidfd, "pidfd_open".into());
        need(Need::Layer(Layer::Identity), format!("running as root, {} user ids", self.uids));
        for (layer, _) in &self.namespaces {
            need(Need::Layer(*layer), "available".into());
        }
        need(Need::Layer(Layer::Seccomp), "filters".into());
        for (controller, state) in &self.controllers {
            let version = if *state == Ok(Version::V2) { "cgroup v2" } else { "cgroup v1" };
            need(Need::Layer(controller.layer()), version.into());
        }
        self.report_extras(&mut report);
        report
    }

    /// The layers that instances go without on this host, at the levels that allow it. Landlock is no condition of any.
    pub fn missing_layers(&self) -> Layers {
        let layer = |missing: Missing| match missing.what {
            Need::Layer(layer) => Some(layer),
            Need::Pidfd => None,
        };
        let missing = self.missing_for(IsolationLevel::Strict).into_iter().filter_map(layer).collect::<Layers>();
        if self.landlock() {
            missing
        } else {
            missing.with(Layer::Landlock)
        }
    }

    /// The layers without which no instance is made on this host: what the level insists on, and at `standard` also the
    /// namespaces that could be made at the start. One that is refused later, for want of memory perhaps, must not leave
    /// an instance in the host's. (The user namespace is tried only: in it no other one of them is made.)
    pub fn required_layers(&self, level: IsolationLevel) -> Layers {
        let required = Layers::required_at(level);
        match level {
            IsolationLevel::None => required,
            IsolationLevel::Standard => {
                let made = self.namespaces.iter().filter(|(_, state)| *state == Namespace::Available);
                let insisted = made.map(|(layer, _)| *layer).filter(|layer| *layer != Layer::UserNamespace);
                insisted.fold(required, Layers::with)
            }
            IsolationLevel::Strict if self.landlock() => required,
            IsolationLevel::Strict => required.except(Layer::Landlock),
        }
    }

    /// What this host lacks to give functions outbound network, when these layers are left out; nothing if it can.
    pub fn outbound_lacks(&self, without: Layers) -> Option<String> {
        let namespace = self.namespaces.contains(&(Layer::NetworkNamespace, Namespace::Available));
        if !self.seccomp || without.contains(Layer::Seccomp) {
            Some("it takes a seccomp filter".to_owned())
        } else if !namespace || without.contains(Layer::NetworkNamespace) {
            Some("it takes a network namespace".to_owned())
        } else if !self.filters_ask || version(&self.kernel) < OUTBOUND_KERNEL_MIN {
            Some(format!("it takes Linux 5.9 or later, this is {}", self.kernel))
        } else if !self.may_trace {
            Some("the server needs CAP_SYS_PTRACE to read the address that a function connects to".to_owned())
        } else {
            None
        }
    }

    /// What no level insists on.
    fn report_extras(&self, report: &mut Report) {
        match self.mount_setattr {
            true => report.ok("mount_setattr", "available"),
            false => report.bad(
                Status::Degraded,
                "mount_setattr",
                "not there: mounts are made read-only one by one",
                "use Linux 5.12 or later",
            ),
        }
        match self.landlock_abi {
            Some(version) if self.landlock() => report.ok(Layer::Landlock.name(), format!("version {version}")),
            _ => report.bad(
                Status::Degraded,
                Layer::Landlock.name(),
                "not enabled, or too old; the other layers stand without it",
                "add landlock to the kernel's lsm= parameter (Linux 5.19 or later)",
            ),
        }
        match self.open_files_max {
            Some(files) if files < OPEN_FILES_GOOD => report.bad(
                Status::Degraded,
                "open files",
                format!("at most {files}"),
                format!("raise the hard limit to {OPEN_FILES_GOOD} or more: ulimit -Hn, or LimitNOFILE= of systemd"),
            ),
            Some(files) => report.ok("open files", format!("at most {files}")),
            None => report.ok("open files", "unlimited"),
        }
        match self.outbound_lacks(Layers::NONE) {
            None => report.ok("outbound network", "available"),
            Some(lacks) => report.bad(
                Status::Degraded,
                "outbound network",
                lacks,
                "run the server as root of a host with Linux 5.9 or later; functions without network run all the same",
            ),
        }
    }

    fn landlock(&self) -> bool {
        self.landlock_abi.is_some_and(|version| version >= LANDLOCK_VERSION_MIN)
    }

    fn own_host_uids(&self) -> bool {
        self.euid == 0 && self.uids >= HOST_UIDS_MIN
    }

    fn namespace_mend(&self) -> String {
        match self.restrictions.as_slice() {
            [] if self.euid == 0 => {
                "give the container or service that runs the server CAP_SYS_ADMIN, or run it on the \
                 host itself"
                    .into()
            }
            [] => "run the server as root, or allow user namespaces in the kernel and any outer sandbox".into(),
            found => format!("run the server as root, or lift what restricts them: {}", found.join(", ")),
        }
    }
}

/// Makes a namespace of this kind in a child, the way the sandbox will: directly as root, inside a new user namespace
/// otherwise.
fn try_namespace(flag: CloneFlags, root: bool) -> Namespace {
    let outcome = in_child(|| {
        unshare(if root { flag } else { flag | CloneFlags::CLONE_NEWUSER })?;
        if flag != CloneFlags::CLONE_NEWNS {
            return Ok(());
        }
        // AppArmor on Ubuntu lets anybody make a user namespace but takes its privileges away. A mount tells.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
    });
    match outcome {
        ChildOutcome::Done => Namespace::Available,
        ChildOutcome::Failed(errno) => Namespace::Refused(errno),
        ChildOutcome::NotTried => Namespace::Unknown,
    }
}

fn refusal(state: Namespace) -> Option<String> {
    match state {
        Namespace::Available => None,
        Namespace::Refused(Errno::EINVAL) => Some("not in this kernel".into()),
        Namespace::Refused(Errno::ENOSPC) => Some("limited to none by /proc/sys/user".into()),
        Namespace::Refused(errno) => Some(format!("refused: {}", errno.desc())),
        Namespace::Unknown => Some("could not be tried".into()),
    }
}

/// Sysctls that keep unprivileged user namespaces away, where they are set so.
fn restrictions(read: impl Fn(&str) -> io::Result<String>) -> Vec<String> {
    let suspects = [
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ("user.max_user_namespaces", "0"),
    ];
    let set = |(name, bad): &(&str, &str)| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        read(&path).is_ok_and(|value| value.trim() == *bad)
    };
    suspects.iter().filter(|suspect| set(suspect)).map(|(name, bad)| format!("{name} = {bad}")).collect()
}

/// Whether the kernel's filters have every one of these actions.
fn has_actions(available: &str, needed: &[&str]) -> bool {
    needed.iter().all(|needed| available.split_ascii_whitespace().any(|name| name == *needed))
}

/// Major and minor number of a release such as `6.18.44-generic`; zeros when it is none.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|other: char| !other.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The set `CapEff` of a `status`.
fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// The sum of the third column of a `uid_map`.
fn mapped_ids(map: &str) -> u64 {
    map.lines().filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// The hard limit in the line `Max open files  1024  4096  files`; 0 when there is no such line.
fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_ascii_whitespace().nth(1)) {
        Some("unlimited") => None,
        other => Some(other.and_then(|number| number.parse().ok()).unwrap_or(0)),
    }
}

/// A file of /proc that may not be there, which then says nothing.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests;
