//! Interpreters by name, and the sandbox plans that go with them.
//!
//! A runtime's name is resolved once (which runs the candidate, so never on the front thread); from then on it is a
//! number that everybody can look up without waiting. The number stands for an interpreter with a network: each pair has
//! a pool of its own, all networks of an interpreter one zygote, since what differs is in the plans that come with each
//! blank. How it is made is `backend::runtimes`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::runtimes::{index_of, network_of, of_interpreter, with_network};
use crate::limits::SANDBOX_ETC_FILE_BYTES_MAX;
use crate::sandbox::description::Description;
use crate::sandbox::layer::{Layer, Layers};
use crate::sandbox::plan::{
    instance_inner_plan, instance_outer_plan, zygote_plan, InstanceSpec, Network, Plan, Privilege, ZygoteSpec,
};
use crate::sandbox::runtime::{self, Interpreter};
use crate::sandbox::seccomp::{self, Arch, Sockets};
use crate::scheduler::RuntimeId;
use crate::shim;

pub use crate::sandbox::runtime::RuntimeError;

/// What the sandboxes of this server are made with.
#[derive(Debug, Clone)]
pub struct SandboxSettings {
    /// As root or as a common user.
    pub privilege: Privilege,
    /// Layers that must not be missing.
    pub required: Layers,
    /// Layers that are left out, for experiments.
    pub without: Layers,
    /// Layers that this host does not give.
    pub missing: Layers,
    /// Host user id of slot 0; the others follow.
    pub uid_base: u32,
    /// Hierarchies that an instance joins.
    pub cgroup_fds: u32,
    /// An empty directory on which zygotes build their trees.
    pub staging: PathBuf,
    /// Networks that functions may have, to begin with: see [`Runtimes::allow`].
    pub allowed_networks: Vec<Network>,
    /// What this host lacks for outbound network, if anything.
    pub outbound_lacks: Option<String>,
}

#[cfg(test)]
impl SandboxSettings {
    /// For tests in which no sandbox is made.
    pub(crate) fn unused(allowed_networks: Vec<Network>) -> Self {
        SandboxSettings {
            privilege: Privilege::Root,
            required: Layers::NONE,
            without: Layers::NONE,
            missing: Layers::NONE,
            uid_base: 1_000_000,
            cgroup_fds: 0,
            staging: "/".into(),
            allowed_networks,
            outbound_lacks: None,
        }
    }
}

/// Why a function cannot have the network that it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkError {
    /// The operator does not allow it.
    NotAllowed {
        /// What was asked for.
        network: Network,
        /// What could have been.
        allowed: Vec<Network>,
    },
    /// This host cannot give outbound network.
    Unavailable {
        /// What is missing, and where it is found.
        lacks: String,
    },
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkError::NotAllowed { network, allowed } => {
                let allowed: Vec<&str> = allowed.iter().map(|network| network.as_str()).collect();
                let allowed = allowed.join(", ");
                write!(f, "{network} is not allowed on this server, which allows {allowed} (system.allowed_networks)")
            }
            NetworkError::Unavailable { lacks } => write!(f, "outbound is not available on this host: {lacks}"),
        }
    }
}

impl std::error::Error for NetworkError {}

/// Files of the host's /etc that a function in the host's network sees as they are: the rest of the tree's says nothing
/// of networks.
const HOST_ETC: [&str; 2] = ["resolv.conf", "hosts"];

fn host_etc(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(Path::new("/etc").join(name)).ok()?;
    file.take(SANDBOX_ETC_FILE_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The runtime that stands for all that share its zygote.
pub(super) fn zygote_of(id: RuntimeId) -> RuntimeId {
    with_network(id, Network::None)
}

fn sockets(network: Network) -> Sockets {
    match network {
        Network::Outbound => Sockets::Brokered,
        Network::None | Network::Host => Sockets::Direct,
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Runtimes {
    settings: SandboxSettings,
    /// The filter of every instance, compiled once, and that of instances with outbound network.
    filter: Vec<u8>,
    brokered_filter: Vec<u8>,
    /// Interpreters that the configuration names.
    configured: BTreeMap<String, PathBuf>,
    /// Networks that functions may have.
    allowed_networks: Mutex<Vec<Network>>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<String, RuntimeId>,
    /// By number. Two names may be one interpreter.
    interpreters: Vec<(String, Interpreter)>,
}

impl Runtimes {
    /// No runtime is resolved yet. `configured` maps names to interpreters, `python3` to the default one.
    pub fn new(settings: SandboxSettings, configured: BTreeMap<String, PathBuf>) -> Self {
        let compile = |sockets| Arch::native().map(|arch| seccomp::instance_filter(arch, sockets)).unwrap_or_default();
        let (filter, brokered_filter) = (compile(Sockets::Direct), compile(Sockets::Brokered));
        let allowed_networks = Mutex::new(settings.allowed_networks.clone());
        Runtimes { settings, filter, brokered_filter, configured, allowed_networks, table: Mutex::default() }
    }

    /// The number of the runtime with this name, without network. Runs the interpreter if the name is new: not for the
    /// front thread.
    ///
    /// # Errors
    /// When there is no such interpreter on this host, or it cannot be used.
    pub fn resolve(&self, name: &str) -> Result<RuntimeId, RuntimeError> {
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        // Not under the lock: the front looks numbers up meanwhile. Two threads may both ask; the answers are the same.
        let interpreter = runtime::find(name, &self.configured)?;
        let mut table = self.table();
        let found = table.interpreters.iter().position(|(_, known)| *known == interpreter);
        let index = found.unwrap_or_else(|| {
            table.interpreters.push((name.to_owned(), interpreter));
            table.interpreters.len() - 1
        });
        let id = of_interpreter(index, Network::None);
        table.by_name.insert(name.to_owned(), id);
        Ok(id)
    }

    /// The number of a runtime that has been resolved, without network.
    pub fn known(&self, name: &str) -> Option<RuntimeId> {
        self.table().by_name.get(name).copied()
    }

    /// Whether functions may have this network here.
    ///
    /// # Errors
    /// Why they may not.
    pub fn permit(&self, network: Network) -> Result<(), NetworkError> {
        let allowed = self.allowed();
        if !allowed.contains(&network) {
            return Err(NetworkError::NotAllowed { network, allowed: allowed.clone() });
        }
        drop(allowed);
        match &self.settings.outbound_lacks {
            Some(lacks) if network == Network::Outbound => Err(NetworkError::Unavailable { lacks: lacks.clone() }),
            _ => Ok(()),
        }
    }

    /// From now on functions may have these networks. Instances that are there already keep theirs.
    pub fn allow(&self, networks: Vec<Network>) {
        *self.allowed() = networks;
    }

    /// A name for people.
    pub fn name(&self, id: RuntimeId) -> String {
        match self.interpreter(id) {
            Some((name, interpreter)) => {
                let (major, minor, micro) = interpreter.version;
                format!("{name} ({major}.{minor}.{micro}, {})", interpreter.executable.display())
            }
            None => format!("runtime {}", id.0),
        }
    }

    /// The encoded plan of a zygote of this runtime.
    ///
    /// # Errors
    /// When the runtime does not exist.
    pub fn zygote_plan(&self, id: RuntimeId) -> io::Result<Vec<u8>> {
        let (_, interpreter) = self.interpreter(id).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.plan_of(&interpreter).encode())
    }

    fn plan_of(&self, interpreter: &Interpreter) -> Plan {
        zygote_plan(&ZygoteSpec {
            privilege: self.settings.privilege,
            staging: self.settings.staging.clone(),
            interpreter,
            host: &runtime::host_files(interpreter),
            shows_host: self.settings.without.contains(Layer::Tree),
            shim: shim::FILES,
        })
    }

    /// The encoded outer and inner plan of the instance in this slot, which is given an empty network namespace or, unless
    /// it is to be in the host's, makes one.
    pub fn instance_plans(&self, slot_index: u32, network: Network, is_given_one: bool) -> (Vec<u8>, Vec<u8>) {
        let mut spec = self.instance_spec(slot_index, network);
        spec.joins_network = is_given_one;
        (instance_outer_plan(&spec).encode(), instance_inner_plan(&spec).encode())
    }

    /// Whether instances are given empty network namespaces. Not where the zygote is in a user namespace, which has power
    /// only over namespaces that were made in it; and one that others may be left in is not used again.
    pub fn joins_network(&self) -> bool {
        let without = self.settings.without;
        let is_kept_apart = !without.contains(Layer::NetworkNamespace) && !without.contains(Layer::PidNamespace);
        self.settings.privilege == Privilege::Root && is_kept_apart
    }

    /// The same for an instance with this network.
    pub fn joins(&self, network: Network) -> bool {
        network != Network::Host && self.joins_network()
    }

    /// The layers that instances go without: those that this host does not give, and those that are left out.
    pub fn absent(&self) -> Layers {
        self.settings.without.iter().fold(self.settings.missing, Layers::with)
    }

    fn instance_spec(&self, slot_index: u32, network: Network) -> InstanceSpec {
        let host_uid = self.settings.uid_base.saturating_add(slot_index);
        let filter = match sockets(network) {
            Sockets::Brokered => &self.brokered_filter,
            Sockets::Direct => &self.filter,
        };
        let mut spec = InstanceSpec::strict(self.settings.privilege, host_uid, filter.clone());
        spec.network = network;
        if network == Network::Host {
            spec.etc = HOST_ETC.iter().filter_map(|name| Some((*name, host_etc(name)?))).collect();
        }
        spec.required = self.settings.required;
        spec.without = self.settings.without;
        spec.joins_network = self.joins(network);
        spec.cgroup_fds = self.settings.cgroup_fds;
        spec
    }

    /// The sandbox of this runtime's instances, for people. Looks at the host's files: not for the front thread.
    pub fn description(&self, id: RuntimeId) -> Option<Description> {
        let (_, interpreter) = self.interpreter(id)?;
        let spec = self.instance_spec(0, network_of(id));
        Some(Description {
            required: spec.required(),
            without: spec.left_out(),
            missing: self.settings.missing,
            zygote: self.plan_of(&interpreter),
            outer: instance_outer_plan(&spec),
            inner: instance_inner_plan(&spec),
            arch: Arch::native(),
            sockets: sockets(spec.network),
        })
    }

    /// An image is no interpreter, whatever its number.
    fn interpreter(&self, id: RuntimeId) -> Option<(String, Interpreter)> {
        let found = |table: &Table| table.interpreters.get(index_of(id)).cloned();
        found(&self.table()).filter(|_| !id.is_container())
    }

    fn allowed(&self) -> MutexGuard<'_, Vec<Network>> {
        // Replaced whole by one assignment.
        self.allowed_networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Both maps are changed by single inserts, so a thread that panicked left a whole table behind.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
