//! Interpreters by name, and the sandbox plans that go with them.
//!
//! A runtime's name is resolved once (which runs the candidate, so never on the front thread); from then on it is a
//! number that everybody can look up without waiting.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::INSTANCE_TASKS_MAX;
use crate::sandbox::plan::{
    instance_inner_plan, instance_outer_plan, zygote_plan, InstanceSpec, Plan, Privilege, Required, ZygoteSpec,
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
    pub required: Required,
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
        let filter = Arch::native().map(|arch| seccomp::instance_filter(arch, Sockets::Direct)).unwrap_or_default();
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
            shim: shim::FILES,
        })
    }

    /// The encoded outer and inner plan of the instance in this slot.
    pub fn instance_plans(&self, slot_index: u32) -> (Vec<u8>, Vec<u8>) {
        let spec = self.instance_spec(slot_index);
        (instance_outer_plan(&spec).encode(), instance_inner_plan(&spec).encode())
    }

    fn instance_spec(&self, slot_index: u32) -> InstanceSpec {
        let host_uid = self.settings.uid_base.saturating_add(slot_index);
        let mut spec = InstanceSpec::strict(self.settings.privilege, host_uid, self.filter.clone());
        spec.required = self.settings.required;
        spec.cgroup_fds = self.settings.cgroup_fds;
        spec
    }

    /// The plans as people read them, for `--check-system` and the log: zygote, outer and inner.
    pub fn describe(&self, id: RuntimeId) -> Vec<String> {
        let Some(interpreter) = self.table().interpreters.get(id.0 as usize).map(|(_, known)| known.clone()) else {
            return Vec::new();
        };
        let spec = self.instance_spec(0);
        let mut lines = vec!["zygote".to_owned()];
        lines.extend(self.plan_of(&interpreter).describe());
        lines.push("instance, before its process is made".to_owned());
        lines.extend(instance_outer_plan(&spec).describe());
        lines.push(format!("instance (at most {INSTANCE_TASKS_MAX} tasks)"));
        lines.extend(instance_inner_plan(&spec).describe());
        lines
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Both maps are changed by single inserts, so a thread that panicked left a whole table behind.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
