//! What a container is made of, and whether the engine made it so.
//!
//! Owns the form in which an engine is told of a sandbox, [`ContainerSpec::create_body`], and [`verify`], which reads it
//! back: engines pass over in silence what they do not know, and change what they cannot do. Pure.
//!
//! Sizes, limits and walls are those of process mode (`sandbox::plan`, `sandbox::tree`), as far as an engine can be told:
//!
//! - No init of the engine's: the shim is a process 1 that buries orphans. One of the engine's would keep the container's
//!   own output open, which a function could then write to past the server, at the cost of the engine.
//! - The container's own output is kept by the engine, bounded, and not thrown away: until the shim has its pipe, it is
//!   where a broken image says why. Afterwards nobody holds it.
//! - /sys is masked altogether, and of /proc what process mode masks; the engines' own lists are shorter.
//! - /dev/shm is a file system of the same kind as /tmp, since the engine's own has no limit on the number of files.
//! - The processor's limit is a quota per period and not "NanoCpus", of which Docker takes no more than the machine has.
//! - The user is a number of this container's own, in no group but its own.
//!
//! What an engine cannot be told: an instance has /dev/tty, /dev/ptmx and /dev/mqueue, which do no harm behind the filter
//! and the limits; nor a Landlock domain, nor locked securebits, which without capabilities mean nothing.

#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{json, Map, Value};

use super::api::system::EngineKind;
use crate::limits;
use crate::sandbox::plan::{Network, PROC_MASKED, PROC_READ_ONLY};

pub use verify::{is_in_group_of, verify, verify_process, Ignored};

/// Where a container sees the directory of its own, with the socket through which it gets its channel.
pub const RUN_DIRECTORY: &str = "/faas/run";
/// Where it sees the shim.
pub const SHIM_DIRECTORY: &str = "/faas/shim";
/// Where a resolver reads its name servers from.
const RESOLVER_FILE: &str = "/etc/resolv.conf";
/// What Podman's option of paths to mask begins with.
const MASK_OPTION: &str = "mask=";
/// Its host name.
pub const HOSTNAME: &str = "faas";

/// Variables beside those of the image, which cannot be taken away but are not looked at by a Python with `-I`.
const ENVIRONMENT: [&str; 2] = ["LANG=C.UTF-8", "HOME=/tmp"];
/// Length of a period of the processor quota, in microseconds, as in process mode.
const CPU_PERIOD_US: u64 = 100_000;
/// The broker connects this address to the host's name servers; with no network nothing is reached, and a lookup fails at
/// once. As in the tree of process mode.
const NAME_SERVER: &str = "127.0.0.53";
const RESOLVER_OPTIONS: [&str; 3] = ["use-vc", "timeout:2", "attempts:2"];

/// Limits as members of a request, of `HostConfig` and of an update: memory of all processes, tmpfs and socket buffers
/// included, in bytes, without any swap; processor time in thousandths of a core.
pub fn limit_members(memory_bytes: u64, cpu_millis: u32) -> Map<String, Value> {
    let members = [
        ("Memory", json!(memory_bytes)),
        // Memory and swap together: equal to the memory, there is no swap.
        ("MemorySwap", json!(memory_bytes)),
        ("CpuPeriod", json!(CPU_PERIOD_US)),
        ("CpuQuota", json!(u64::from(cpu_millis) * CPU_PERIOD_US / 1000)),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The same limits in the form of the runtimes below the engines, which Podman takes for an update.
pub fn limit_resources(memory_bytes: u64, cpu_millis: u32) -> Value {
    json!({
        "memory": { "limit": memory_bytes, "swap": memory_bytes },
        "cpu": { "quota": u64::from(cpu_millis) * CPU_PERIOD_US / 1000, "period": CPU_PERIOD_US },
    })
}

/// Mandatory access control, where the host has some and an operator wants another profile than the engine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityLabel {
    /// The name of an AppArmor profile that is loaded.
    AppArmor(String),
    /// The type of an SELinux label.
    SelinuxType(String),
}

impl SecurityLabel {
    /// As engines spell it, and the configuration.
    fn option(&self) -> String {
        match self {
            SecurityLabel::AppArmor(name) => format!("apparmor={name}"),
            SecurityLabel::SelinuxType(name) => format!("label=type:{name}"),
        }
    }

    /// What an engine's words have in them that are about such a one.
    fn kind(&self) -> &'static str {
        match self {
            SecurityLabel::AppArmor(_) => "apparmor",
            SecurityLabel::SelinuxType(_) => "label",
        }
    }
}

/// How the profile of system calls reaches the engine. Each engine takes one of the two forms, and fails with the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompProfile {
    /// The text itself: Docker.
    Inline(Arc<str>),
    /// A file of the host with the text: Podman.
    File(PathBuf),
}

/// All that one container is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Who makes it.
    pub engine: EngineKind,
    /// From which files: an image's id.
    pub image: String,
    /// What it runs, in place of all that the image says: a program, and its arguments.
    pub command: Vec<String>,
    /// By what it is found again.
    pub labels: Vec<(String, String)>,
    /// Its user and group, as numbers of the host: no other container's.
    pub uid: u32,
    /// Memory of all its processes, in bytes. It changes when a function moves in, as the next one does.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u32,
    /// Which network it sees. `Outbound` is none for the engine: its connections are made by the server.
    pub network: Network,
    /// What it may call.
    pub seccomp: SeccompProfile,
    /// What else holds it; the engine's own profile, if nothing is said.
    pub label: Option<SecurityLabel>,
    /// Directory of the host that is shown at [`RUN_DIRECTORY`].
    pub run_directory: PathBuf,
    /// Directory of the host that is shown at [`SHIM_DIRECTORY`].
    pub shim_directory: PathBuf,
    /// File of the host that is shown in place of the container's own /etc/resolv.conf. Docker writes what `Dns` says;
    /// Podman leaves it empty where there is no network, and brokered connections need it.
    pub resolver: Option<PathBuf>,
}

impl ContainerSpec {
    /// What an engine says of a container that it could not start, with the setting that may be the cause.
    pub fn explain(&self, said: &str) -> String {
        let Some(label) = &self.label else { return said.to_owned() };
        match said.to_ascii_lowercase().contains(label.kind()) {
            true => format!("{said} (system.container_security_label is {}: is it loaded?)", label.option()),
            false => said.to_owned(),
        }
    }

    /// The body of the call that makes the container.
    pub fn create_body(&self) -> Value {
        let labels: BTreeMap<&str, &str> = self.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        json!({
            "Image": self.image,
            "Hostname": HOSTNAME,
            "Domainname": "",
            "User": self.user(),
            "AttachStdin": false,
            "AttachStdout": false,
            "AttachStderr": false,
            "OpenStdin": false,
            "Tty": false,
            "Env": ENVIRONMENT,
            "Entrypoint": self.command,
            "Cmd": [],
            "WorkingDir": "/",
            "Labels": labels,
            "StopSignal": "SIGKILL",
            "Healthcheck": { "Test": ["NONE"] },
            "HostConfig": self.host_config(),
        })
    }

    fn host_config(&self) -> Value {
        let mut config = json!({
            "PidsLimit": limits::INSTANCE_TASKS_MAX,
            "OomScoreAdj": limits::CONTAINER_OOM_SCORE_ADJ,
            "Ulimits": ulimits(),
            "ReadonlyRootfs": true,
            "Tmpfs": tmpfs(self.engine),
            "ShmSize": limits::SANDBOX_SHM_BYTES,
            "Mounts": self.binds().into_iter().map(|(source, target)| bind(source, target)).collect::<Vec<_>>(),
            "MaskedPaths": masked_paths(),
            "ReadonlyPaths": read_only_paths(),
            "Privileged": false,
            "CapAdd": [],
            "CapDrop": ["ALL"],
            "SecurityOpt": self.security_options(),
            "NetworkMode": self.network_mode(),
            "IpcMode": "private",
            "PidMode": "",
            "UTSMode": "",
            "CgroupnsMode": "private",
            "Init": false,
            "AutoRemove": false,
            "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
            "LogConfig": { "Type": "json-file", "Config": log_options() },
        });
        if let Value::Object(members) = &mut config {
            members.extend(limit_members(self.memory_bytes, self.cpu_millis));
            if self.network != Network::Host {
                members.insert("Dns".to_owned(), json!([NAME_SERVER]));
                members.insert("DnsOptions".to_owned(), json!(RESOLVER_OPTIONS));
            }
        }
        config
    }

    fn user(&self) -> String {
        format!("{0}:{0}", self.uid)
    }

    fn network_mode(&self) -> &'static str {
        match self.network {
            Network::None | Network::Outbound => "none",
            Network::Host => "host",
        }
    }

    /// What of the host is shown where. All of it is read-only.
    fn binds(&self) -> Vec<(&Path, &'static str)> {
        let directories = [(&self.run_directory, RUN_DIRECTORY), (&self.shim_directory, SHIM_DIRECTORY)];
        let resolver = self.resolver.as_ref().map(|path| (path, RESOLVER_FILE));
        directories.into_iter().chain(resolver).map(|(source, target)| (source.as_path(), target)).collect()
    }

    fn security_options(&self) -> Vec<String> {
        let seccomp = match &self.seccomp {
            SeccompProfile::Inline(text) => format!("seccomp={text}"),
            SeccompProfile::File(path) => format!("seccomp={}", path.display()),
        };
        let label = self.label.as_ref().map(SecurityLabel::option);
        // Podman has its own way to be told; Docker takes a list, in `host_config`.
        let mask = (self.engine == EngineKind::Podman).then(|| format!("{MASK_OPTION}{}", masked_paths().join(":")));
        ["no-new-privileges".to_owned(), seccomp].into_iter().chain(label).chain(mask).collect()
    }
}

/// A bind mount: read-only, without the mounts below it, and no mount of either side reaches the other. The source must be
/// there, where the older form would make it.
fn bind(source: &Path, target: &str) -> Value {
    json!({
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": true,
        "BindOptions": { "Propagation": "rprivate", "NonRecursive": true },
    })
}

/// File systems in memory, with their options, as in process mode.
///
/// Podman takes no limit on the number of files, so that the memory's limit is the only one there. And in a container with
/// a read-only root it makes two more, without a limit of their own and for programs too, unless it is told otherwise.
fn tmpfs(engine: EngineKind) -> Map<String, Value> {
    let inodes = format!("nr_inodes={},", limits::SANDBOX_TMP_INODES);
    let (inodes, of_podman): (&str, &[&str]) = match engine {
        EngineKind::Docker => (&inodes, &[]),
        EngineKind::Podman => ("", &["/run", "/var/tmp"]),
    };
    let writable = |size_bytes: u64| json!(format!("rw,noexec,nosuid,nodev,size={size_bytes},{inodes}mode=1777"));
    let sizes = [("/tmp", limits::SANDBOX_TMP_BYTES), ("/dev/shm", limits::SANDBOX_SHM_BYTES)];
    let empty = of_podman.iter().map(|path| ((*path).to_owned(), json!("ro,noexec,nosuid,nodev,size=65536,mode=755")));
    sizes.into_iter().map(|(path, size)| (path.to_owned(), writable(size))).chain(empty).collect()
}

/// Limits of a process, by the engine's names, as in process mode. The soft one is the hard one.
///
/// `PidsLimit` is what holds the number of processes. This one, which Podman would else set to more than it may, counts
/// those of a user: without a user namespace in all containers, and servers side by side may give two the same user.
const fn process_limits() -> [(&'static str, u64); 9] {
    [
        ("nofile", limits::SANDBOX_OPEN_FILES),
        ("fsize", limits::SANDBOX_FILE_BYTES),
        ("stack", limits::SANDBOX_STACK_BYTES),
        ("core", 0),
        ("memlock", 0),
        ("msgqueue", 0),
        ("nice", 0),
        ("rtprio", 0),
        ("nproc", 16 * limits::INSTANCE_TASKS_MAX as u64),
    ]
}

fn ulimits() -> Vec<Value> {
    process_limits().iter().map(|(name, limit)| json!({ "Name": name, "Soft": limit, "Hard": limit })).collect()
}

/// What tells of the host: all of /sys, and the parts of /proc that process mode masks. Those that the host does not have
/// are passed over.
fn masked_paths() -> Vec<String> {
    let of_proc = PROC_MASKED.iter().map(|name| format!("/proc/{name}"));
    of_proc.chain(["/sys".to_owned()]).collect()
}

fn read_only_paths() -> Vec<String> {
    PROC_READ_ONLY.iter().map(|name| format!("/proc/{name}")).collect()
}

fn log_options() -> Value {
    json!({ "max-size": format!("{}k", limits::CONTAINER_LOG_BYTES_MAX / 1024), "max-file": "1" })
}
