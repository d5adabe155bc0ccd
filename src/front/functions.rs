//! The functions as the front serves them: current versions by name, and every version that still has work.

use std::collections::HashMap;
use std::sync::Arc;

use crate::call::VersionKey;
use crate::metrics::CallStats;
use crate::registry::function::FunctionVersion;
use crate::registry::snapshot::Registry;

/// A function that can be called.
pub(super) struct Live {
    pub(super) function: Arc<FunctionVersion>,
    /// What the scheduler calls the current version; `None` while its runtime is missing on this host.
    pub(super) key: Option<VersionKey>,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Functions {
    live: HashMap<String, Live>,
    /// The same functions in order, for listings.
    pub(super) registry: Registry,
    /// Every version that the scheduler knows.
    versions: HashMap<VersionKey, Arc<FunctionVersion>>,
    /// Counters by name; they outlive versions, and go with the function.
    stats: HashMap<String, CallStats>,
    pub(super) total: CallStats,
    next_key: u64,
}

impl Functions {
    pub(super) fn get(&self, name: &str) -> Option<&Live> {
        self.live.get(name)
    }

    /// All that can be called, in no order.
    pub(super) fn live(&self) -> impl Iterator<Item = &Live> {
        self.live.values()
    }

    pub(super) fn version(&self, key: VersionKey) -> Option<&Arc<FunctionVersion>> {
        self.versions.get(&key)
    }

    /// Makes `function` the current version. Returns its key and the key of the version before it.
    pub(super) fn put(
        &mut self,
        function: Arc<FunctionVersion>,
        runs: bool,
    ) -> (Option<VersionKey>, Option<VersionKey>) {
        let key = runs.then(|| {
            self.next_key += 1;
            VersionKey(self.next_key)
        });
        if let Some(key) = key {
            self.versions.insert(key, Arc::clone(&function));
        }
        self.registry.insert(Arc::clone(&function));
        let before = self.live.insert(function.name.clone(), Live { function, key });
        (key, before.and_then(|live| live.key))
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Live> {
        self.registry.remove(name);
        self.stats.remove(name);
        self.live.remove(name)
    }

    /// The scheduler has forgotten this version. Returns it when no other version of its function is left either.
    pub(super) fn drained(&mut self, key: VersionKey) -> Option<Arc<FunctionVersion>> {
        let function = self.versions.remove(&key)?;
        let others = self.versions.values().any(|other| other.name == function.name);
        (!others && !self.live.contains_key(&function.name)).then_some(function)
    }

    pub(super) fn stats(&self, name: &str) -> Option<&CallStats> {
        self.stats.get(name)
    }

    /// Applies a change to the counters of the function and of the whole.
    pub(super) fn count(&mut self, name: &str, change: impl Fn(&mut CallStats)) {
        change(&mut self.total);
        if let Some(stats) = self.stats.get_mut(name) {
            change(stats);
        } else if self.live.contains_key(name) {
            change(self.stats.entry(name.to_owned()).or_default());
        }
    }
}
