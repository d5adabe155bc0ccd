//! Reading a container back: every wall and limit that was asked for, as the engine reports it, and as the kernel does.
//!
//! [`verify`] reads the engine's description. That says what the engine understood, and for most fields nothing more, so
//! [`verify_process`] asks the kernel about the container's first process.
//!
//! Invariant: whatever `create_body` asks for is looked at here, and a form that is not known is a difference. Where Docker
//! and Podman report the same thing in different forms, both are named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{json, Value};

use super::{limit_members, log_options, masked_paths, process_limits, read_only_paths, tmpfs};
use super::{ContainerSpec, SecurityLabel, ENVIRONMENT, HOSTNAME, MASK_OPTION, NAME_SERVER, RESOLVER_OPTIONS};
use crate::backend::docker::api::system::EngineKind;
use crate::backend::docker::api::{containers::Inspect, image_id, line};
use crate::limits;
use crate::sandbox::plan::Network;

/// Something that a container was to have and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The engine's name for it, or the kernel's.
    pub field: String,
    /// What it was to be.
    pub wanted: String,
    /// What it is.
    pub found: String,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ignored { field, wanted, found } = self;
        write!(f, "the container engine did not do what it was told: {field} is {found} and was to be {wanted}")?;
        remedy(field).map_or(Ok(()), |remedy| write!(f, " ({remedy})"))
    }
}

/// What an administrator can do about limits that an engine drops because it finds that its kernel cannot hold them.
fn remedy(field: &str) -> Option<&'static str> {
    match field {
        "HostConfig.Memory" => Some("the kernel's memory controller is off: boot with cgroup_enable=memory"),
        "HostConfig.MemorySwap" => Some(
            "the engine finds no limits of swap: on cgroup v1 boot with swapaccount=1, on v2 run the engine in a control \
             group below the top, as its service does",
        ),
        "HostConfig.CpuPeriod" | "HostConfig.CpuQuota" => {
            Some("the kernel has no bandwidth control for processors, CONFIG_CFS_BANDWIDTH")
        }
        "HostConfig.PidsLimit" => Some("the kernel's pids controller is off, or the engine was not given it"),
        _ => None,
    }
}

impl std::error::Error for Ignored {}

/// Capabilities that Podman's containers have by default: it reports not "ALL", but which of its own default are missing.
/// Those in every version's default; the kernel says the rest.
const PODMAN_CAPABILITIES: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETUID"];

/// Whether the engine made the container that was asked for.
///
/// # Errors
/// With the first thing that it did not do. Such a container must not be used.
pub fn verify(spec: &ContainerSpec, inspect: &Inspect) -> Result<(), Ignored> {
    let reading = Reading { spec, document: &inspect.document, is_podman: spec.engine == EngineKind::Podman };
    reading.program()?;
    reading.limits()?;
    reading.files()?;
    reading.privileges()?;
    reading.namespaces()?;
    reading.life()
}

/// What the kernel says of the container's first process, in the text of its /proc/PID/status, once the shim has called:
/// before, the engine's own runtime may still be at work in it.
///
/// # Errors
/// With the first wall that is missing.
pub fn verify_process(spec: &ContainerSpec, status: &str) -> Result<(), Ignored> {
    let lines: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(':')).collect();
    let found = |name: &str| {
        lines.get(name).map_or_else(String::new, |value| value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let same = |name: &str, wanted: &[&str]| match found(name) {
        found if wanted.contains(&&*found) => Ok(()),
        found => {
            Err(Ignored { field: format!("{name} of its process"), wanted: wanted.join(" or "), found: line(&found) })
        }
    };
    let uid = spec.uid.to_string();
    let four = [&*uid; 4].join(" ");
    same("Uid", &[&four])?;
    same("Gid", &[&four])?;
    // Engines add the group of the user itself.
    same("Groups", &["", &uid])?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        same(set, &["0000000000000000"])?;
    }
    // It is the first process of a namespace of its own, and not one of the engine's that stands beside it.
    let pids = found("NSpid");
    if !pids.contains(' ') || !pids.ends_with(" 1") {
        let (field, wanted) = ("NSpid of its process".to_owned(), "1 in a namespace of its own".to_owned());
        return Err(Ignored { field, wanted, found: line(&pids) });
    }
    same("NoNewPrivs", &["1"])?;
    // A filter.
    same("Seccomp", &["2"])
}

/// Whether the text of a process's /proc/PID/cgroup puts it into the group of the container with this id: that of its own
/// processes, by the name that Docker or Podman gives it, and in none of its neighbours' (Podman has a process of its own
/// beside each container, whose group may bear the id, too).
pub fn is_in_group_of(groups: &str, id: &str) -> bool {
    let is_name = |name: &str| {
        let name = name.strip_suffix(".scope").unwrap_or(name);
        let prefixes = ["", "docker-", "libpod-", "libpod-payload-"];
        prefixes.iter().any(|prefix| name.strip_prefix(prefix) == Some(id))
    };
    groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| {
        // Where systemd keeps the groups, crun makes one more for the container below the one with the name.
        is_name(path.strip_suffix("/container").unwrap_or(path).rsplit('/').next().unwrap_or_default())
    })
}

/// A description that is being read.
struct Reading<'a> {
    spec: &'a ContainerSpec,
    document: &'a Value,
    is_podman: bool,
}

impl Reading<'_> {
    fn program(&self) -> Result<(), Ignored> {
        let image = self.at("Image").as_str().and_then(image_id);
        self.holds("Image", image.as_ref() == Some(&self.spec.image), &*self.spec.image)?;
        let (program, arguments) = self.spec.command.split_first().unzip();
        self.same("Path", json!(program))?;
        self.same("Args", json!(arguments))?;
        self.same("Config.User", json!(self.spec.user()))?;
        self.same("Config.WorkingDir", json!("/"))?;
        self.same("Config.Hostname", json!(HOSTNAME))?;
        self.same("Config.Tty", json!(false))?;
        self.same("Config.OpenStdin", json!(false))?;
        self.nothing("Config.AttachStdin")?;
        self.contains("Config.Env", &ENVIRONMENT)?;
        // It would be run beside the instance. Podman adds how often.
        self.one_of("Config.Healthcheck.Test", &[json!(["NONE"]), Value::Null])?;
        let labels = self.at("Config.Labels");
        let has_all = self.spec.labels.iter().all(|(name, value)| labels[name.as_str()] == **value);
        self.holds("Config.Labels", has_all, format!("{:?}", self.spec.labels))
    }

    fn limits(&self) -> Result<(), Ignored> {
        for (name, limit) in limit_members(self.spec.memory_bytes, self.spec.cpu_millis) {
            self.same(&format!("HostConfig.{name}"), limit)?;
        }
        self.same("HostConfig.PidsLimit", json!(limits::INSTANCE_TASKS_MAX))?;
        self.same("HostConfig.OomScoreAdj", json!(limits::CONTAINER_OOM_SCORE_ADJ))?;
        self.nothing("HostConfig.OomKillDisable")?;
        self.ulimits()
    }

    fn ulimits(&self) -> Result<(), Ignored> {
        let name = |limit: &Value| {
            // `RLIMIT_NOFILE` is Podman's form.
            let name = limit["Name"].as_str().unwrap_or_default().to_ascii_lowercase();
            name.strip_prefix("rlimit_").map_or(name.clone(), str::to_owned)
        };
        let found: BTreeMap<String, [Option<u64>; 2]> = self
            .list("HostConfig.Ulimits")
            .iter()
            .map(|limit| (name(limit), [limit["Soft"].as_u64(), limit["Hard"].as_u64()]))
            .collect();
        let is_set = |(name, limit): &(&str, u64)| found.get(*name) == Some(&[Some(*limit); 2]);
        self.holds("HostConfig.Ulimits", process_limits().iter().all(is_set), format!("{:?}", process_limits()))
    }

    fn files(&self) -> Result<(), Ignored> {
        self.same("HostConfig.ReadonlyRootfs", json!(true))?;
        self.tmpfs()?;
        self.mounts()?;
        for devices in ["Devices", "DeviceRequests", "DeviceCgroupRules", "VolumesFrom"] {
            self.nothing(&format!("HostConfig.{devices}"))?;
        }
        // Podman is told in another way what to mask, has its own list of what is read-only, and reports neither.
        if !(self.is_podman && self.at("HostConfig.MaskedPaths").is_null()) {
            self.contains("HostConfig.MaskedPaths", &masked_paths())?;
            self.contains("HostConfig.ReadonlyPaths", &read_only_paths())?;
        }
        Ok(())
    }

    /// The file systems in memory, and the options of each, in any order and with those that Podman adds.
    fn tmpfs(&self) -> Result<(), Ignored> {
        let options = |text: &Value| -> BTreeSet<String> {
            let options = text.as_str().unwrap_or_default().split(',');
            options.filter(|option| !["rprivate", "private", "tmpcopyup"].contains(option)).map(str::to_owned).collect()
        };
        let wanted = tmpfs(self.spec.engine);
        let found = self.at("HostConfig.Tmpfs").as_object().cloned().unwrap_or_default();
        let is_so =
            |(path, text): (&String, &Value)| found.get(path).is_some_and(|found| options(found) == options(text));
        let holds = found.len() == wanted.len() && wanted.iter().all(is_so);
        self.holds("HostConfig.Tmpfs", holds, Value::Object(wanted.clone()).to_string())
    }

    /// Nothing of the host is to be seen but the two directories; a volume of the image's would be a disk without limits.
    fn mounts(&self) -> Result<(), Ignored> {
        let (binds, memory) = (self.spec.binds(), tmpfs(self.spec.engine));
        let is_ours = |mount: &&Value| {
            let (source, target) = (mount["Source"].as_str(), mount["Destination"].as_str());
            let is_bind = mount["Type"] == "bind" && mount["RW"] == false && mount["Propagation"] == "rprivate";
            is_bind && binds.iter().any(|(path, place)| path.to_str() == source && Some(*place) == target)
        };
        let is_memory = |mount: &&Value| {
            mount["Type"] == "tmpfs" && mount["Destination"].as_str().is_some_and(|path| memory.contains_key(path))
        };
        let mounts = self.list("Mounts");
        let targets: BTreeSet<_> = mounts.iter().filter(is_ours).map(|mount| mount["Destination"].as_str()).collect();
        let has_no_other = mounts.iter().all(|mount| is_ours(&mount) || is_memory(&mount));
        let holds = targets.len() == binds.len() && has_no_other;
        self.holds("Mounts", holds, format!("{binds:?}, read-only, and no other"))
    }

    fn privileges(&self) -> Result<(), Ignored> {
        self.same("HostConfig.Privileged", json!(false))?;
        self.nothing("HostConfig.CapAdd")?;
        self.nothing("HostConfig.GroupAdd")?;
        self.nothing("HostConfig.Sysctls")?;
        let short = |name| str::strip_prefix(name, "CAP_").unwrap_or(name);
        let dropped: Vec<&str> = self.list("HostConfig.CapDrop").iter().filter_map(Value::as_str).map(short).collect();
        let is_all = dropped.contains(&"ALL");
        let is_expanded = self.is_podman && PODMAN_CAPABILITIES.iter().all(|name| dropped.contains(name));
        self.holds("HostConfig.CapDrop", is_all || is_expanded, "ALL")?;
        self.security_options()
    }

    fn security_options(&self) -> Result<(), Ignored> {
        let normal = |option: &str| match option {
            "no-new-privileges:true" | "no-new-privileges=true" => "no-new-privileges".to_owned(),
            other => other.to_owned(),
        };
        let found: BTreeSet<String> =
            self.list("HostConfig.SecurityOpt").iter().filter_map(Value::as_str).map(normal).collect();
        // Podman does not report what it masks.
        let is_reported = |option: &String| !option.starts_with(MASK_OPTION);
        let wanted: BTreeSet<String> = self.spec.security_options().into_iter().filter(is_reported).collect();
        if found != wanted {
            // The profile is long: it is written out only where it is wrong.
            return self.holds("HostConfig.SecurityOpt", false, format!("{wanted:?}"));
        }
        match &self.spec.label {
            None => Ok(()),
            Some(SecurityLabel::AppArmor(name)) => self.same("AppArmorProfile", json!(name)),
            Some(SecurityLabel::SelinuxType(name)) => {
                let label = self.at("ProcessLabel").as_str().unwrap_or_default();
                self.holds("ProcessLabel", label.split(':').nth(2) == Some(name), format!("of type {name}"))
            }
        }
    }

    fn namespaces(&self) -> Result<(), Ignored> {
        self.same("HostConfig.NetworkMode", json!(self.spec.network_mode()))?;
        self.nothing("HostConfig.PortBindings")?;
        self.nothing("HostConfig.PublishAllPorts")?;
        self.nothing("HostConfig.Links")?;
        if self.spec.network != Network::Host {
            self.same("HostConfig.Dns", json!([NAME_SERVER]))?;
            self.same("HostConfig.DnsOptions", json!(RESOLVER_OPTIONS))?;
        }
        // Podman calls a namespace that others could be let into shareable; nobody is let in.
        let own = [json!("private"), json!("shareable")];
        self.one_of("HostConfig.IpcMode", if self.is_podman { &own[..] } else { &own[..1] })?;
        let none_named = [json!(""), json!("private")];
        self.one_of("HostConfig.PidMode", &none_named)?;
        self.one_of("HostConfig.UTSMode", &none_named)?;
        self.one_of("HostConfig.UsernsMode", &[json!(""), json!("private"), json!("auto")])?;
        // Before 1.41 there is no such field. Only paths of groups that cannot be reached are told without it, and /sys is
        // masked. Podman has another name for it.
        self.one_of("HostConfig.CgroupnsMode", &[json!("private"), json!(""), Value::Null])?;
        self.one_of("HostConfig.CgroupMode", &[json!("private"), json!(""), Value::Null])
    }

    fn life(&self) -> Result<(), Ignored> {
        self.nothing("HostConfig.Init")?;
        self.same("HostConfig.AutoRemove", json!(false))?;
        self.one_of("HostConfig.RestartPolicy.Name", &[json!("no"), json!("")])?;
        // 9 and KILL are Podman's forms.
        self.one_of("Config.StopSignal", &[json!("SIGKILL"), json!("KILL"), json!("9"), json!(9)])?;
        self.one_of("HostConfig.LogConfig.Type", &[json!("json-file"), json!("k8s-file")])?;
        match self.is_podman {
            // It reports the size elsewhere, or not at all.
            true => Ok(()),
            false => self.same("HostConfig.LogConfig.Config", log_options()),
        }
    }

    // ---- Comparing ----

    /// The value at a path of names; null, if it is not there.
    fn at(&self, path: &str) -> &Value {
        path.split('.').fold(self.document, |value, name| &value[name])
    }

    fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn same(&self, path: &str, wanted: Value) -> Result<(), Ignored> {
        self.holds(path, *self.at(path) == wanted, wanted.to_string())
    }

    fn one_of(&self, path: &str, wanted: &[Value]) -> Result<(), Ignored> {
        self.holds(path, wanted.contains(self.at(path)), wanted[0].to_string())
    }

    /// Empty in whichever way: not there, null, false, zero, or without content.
    fn nothing(&self, path: &str) -> Result<(), Ignored> {
        let is_nothing = match self.at(path) {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(members) => members.is_empty(),
        };
        self.holds(path, is_nothing, "nothing")
    }

    /// A list in which all these are, and perhaps others.
    fn contains(&self, path: &str, wanted: &[impl AsRef<str>]) -> Result<(), Ignored> {
        let found = self.list(path);
        let missing = wanted.iter().map(AsRef::as_ref).find(|wanted| !found.iter().any(|found| found == wanted));
        self.holds(path, missing.is_none(), format!("a list with {}", missing.unwrap_or_default()))
    }

    fn holds(&self, path: &str, holds: bool, wanted: impl Into<String>) -> Result<(), Ignored> {
        if holds {
            return Ok(());
        }
        let (wanted, found): (String, _) = (wanted.into(), self.at(path).to_string());
        Err(Ignored { field: path.to_owned(), wanted: line(&wanted), found: line(&found) })
    }
}
