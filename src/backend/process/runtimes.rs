//! Interpreters by name, and the sandbox plans that go with them.
//!
//! A runtime's name is resolved once (which runs the candidate, so never on the front thread); from then on it is a
//! number that everybody can look up without waiting.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sandbox::description::Description;
use crate::sandbox::layer::{Layer, Layers};
use crate::sandbox::plan::{
    instance_inner_plan, instance_outer_plan, zygote_plan, InstanceSpec, Plan, Privilege, ZygoteSpec,
};
use crate::sandbox::runtime::{self, Interpreter};
use crate::sandbox::seccomp::{self, Arch};
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
    /// Host user id of slot 0; the others follow.
    pub uid_base: u32,
    /// Hierarchies that an instance joins.
    pub cgroup_fds: u32,
    /// An empty directory on which zygotes build their trees.
    pub staging: PathBuf,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Runtimes {
    settings: SandboxSettings,
    /// The filter of every instance, compiled once.
    filter: Vec<u8>,
    /// Interpreters that the configuration names.
    configured: BTreeMap<String, PathBuf>,
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
        let filter = Arch::native().map(seccomp::instance_filter).unwrap_or_default();
        Runtimes { settings, filter, configured, table: Mutex::default() }
    }

    /// The number of the runtime with this name. Runs the interpreter if the name is new: not for the front thread.
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
        let id = RuntimeId(index as u32);
        table.by_name.insert(name.to_owned(), id);
        Ok(id)
    }

    /// The number of a runtime that has been resolved.
    pub fn known(&self, name: &str) -> Option<RuntimeId> {
        self.table().by_name.get(name).copied()
    }

    /// A name for people.
    pub fn name(&self, id: RuntimeId) -> String {
        match self.table().interpreters.get(id.0 as usize) {
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
        let interpreter = self.table().interpreters.get(id.0 as usize).map(|(_, interpreter)| interpreter.clone());
        let interpreter = interpreter.ok_or(io::ErrorKind::NotFound)?;
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

    /// The encoded outer and inner plan of the instance in this slot.
    pub fn instance_plans(&self, slot_index: u32) -> (Vec<u8>, Vec<u8>) {
        let spec = self.instance_spec(slot_index);
        (instance_outer_plan(&spec).encode(), instance_inner_plan(&spec).encode())
    }

    /// Whether an instance is given an empty network namespace, and need not make one: not where the zygote is in a user
    /// namespace, which has power only over namespaces that were made in it.
    pub fn joins_network(&self) -> bool {
        self.settings.privilege == Privilege::Root && !self.settings.without.contains(Layer::NetworkNamespace)
    }

    /// The layers that are left out.
    pub fn without(&self) -> Layers {
        self.settings.without
    }

    fn instance_spec(&self, slot_index: u32) -> InstanceSpec {
        let host_uid = self.settings.uid_base.saturating_add(slot_index);
        let mut spec = InstanceSpec::strict(self.settings.privilege, host_uid, self.filter.clone());
        spec.required = self.settings.required;
        spec.without = self.settings.without;
        spec.joins_network = self.joins_network();
        spec.cgroup_fds = self.settings.cgroup_fds;
        spec
    }

    /// The sandbox of this runtime's instances, for people. Looks at the host's files: not for the front thread.
    pub fn description(&self, id: RuntimeId) -> Option<Description> {
        let interpreter = self.table().interpreters.get(id.0 as usize).map(|(_, known)| known.clone())?;
        let spec = self.instance_spec(0);
        Some(Description {
            required: self.settings.required,
            without: self.settings.without,
            zygote: self.plan_of(&interpreter),
            outer: instance_outer_plan(&spec),
            inner: instance_inner_plan(&spec),
            arch: Arch::native(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Both maps are changed by single inserts, so a thread that panicked left a whole table behind.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
