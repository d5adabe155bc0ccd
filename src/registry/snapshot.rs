//! The functions that the front serves, by name.
//!
//! Owned by the front thread alone, so it needs no lock, and a change between two events is as good as a swap of the
//! whole: no reader ever sees half of one. What is immutable is a [`FunctionVersion`]; who holds one keeps it whatever
//! happens to its function here.
//!
//! Invariant: both indexes hold the same versions, one per name.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use super::function::FunctionVersion;

/// The current version of every function.
///
/// Lookup is a hash, because every call makes one; a listing walks the sorted index. Putting one function in or out
/// touches only its own entries, however many there are.
#[derive(Debug, Default)]
pub struct Registry {
    by_hash: HashSet<ByName>,
    by_order: BTreeSet<ByName>,
}

impl Registry {
    /// The current version of `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<FunctionVersion>> {
        self.by_hash.get(name).map(|entry| &entry.0)
    }

    /// Makes `version` the current one of its function, and returns the one that was.
    pub fn insert(&mut self, version: Arc<FunctionVersion>) -> Option<Arc<FunctionVersion>> {
        // `insert` would keep the old element, because the names are equal: `replace` is what changes the version.
        self.by_order.replace(ByName(Arc::clone(&version)));
        self.by_hash.replace(ByName(version)).map(|entry| entry.0)
    }

    /// Takes `name` out, and returns its last version.
    pub fn remove(&mut self, name: &str) -> Option<Arc<FunctionVersion>> {
        self.by_order.remove(name);
        self.by_hash.take(name).map(|entry| entry.0)
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether there is no function at all.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Up to `limit` functions (at least one) whose names sort after `cursor`, and the cursor of the next page if there
    /// is one.
    ///
    /// The cursor is the last name of the page before. It need not exist any more, so who walks the pages while
    /// functions come and go sees every function that was there all the time exactly once.
    pub fn page(&self, cursor: Option<&str>, limit: usize) -> (Vec<Arc<FunctionVersion>>, Option<String>) {
        let after = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.by_order.range::<str, _>((after, Bound::Unbounded)).map(|entry| &entry.0);
        let page: Vec<_> = rest.by_ref().take(limit.max(1)).cloned().collect();
        let next = rest.next().and(page.last()).map(|last| last.name.clone());
        (page, next)
    }
}

impl FromIterator<FunctionVersion> for Registry {
    fn from_iter<I: IntoIterator<Item = FunctionVersion>>(versions: I) -> Self {
        let mut registry = Registry::default();
        for version in versions {
            registry.insert(Arc::new(version));
        }
        registry
    }
}

/// A version that is found by its name, so that no index keeps a second copy of the name that could differ.
#[derive(Debug)]
struct ByName(Arc<FunctionVersion>);

// `Borrow` promises that the borrowed form compares and hashes as the owner does: all four go by the name.
impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.as_str().hash(state);
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::version;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn names(page: &[Arc<FunctionVersion>]) -> Vec<&str> {
        page.iter().map(|version| version.name.as_str()).collect()
    }

    #[test]
    fn a_new_version_takes_the_place_of_the_old_everywhere() {
        let mut registry: Registry = [version("a", 1), version("b", 1)].into_iter().collect();
        let held = Arc::clone(registry.get("b").unwrap());
        assert_eq!(registry.insert(Arc::new(version("b", 2))).map(|old| old.version), Some(1));
        assert_eq!(registry.get("b").unwrap().version, 2);
        assert_eq!(registry.page(Some("a"), 9).0[0].version, 2);
        assert_eq!((registry.len(), held.version), (2, 1));
    }

    #[test]
    fn a_removed_function_is_gone_everywhere() {
        let mut registry: Registry = [version("a", 1)].into_iter().collect();
        assert!(registry.remove("a").is_some());
        assert!(registry.remove("a").is_none());
        assert!(registry.get("a").is_none() && registry.is_empty() && registry.page(None, 1).0.is_empty());
    }

    #[test]
    fn pages_are_sorted_and_a_cursor_may_have_been_deleted() {
        let mut registry: Registry = ["d", "a", "C", "b"].map(|name| version(name, 1)).into_iter().collect();
        let (page, next) = registry.page(None, 2);
        assert_eq!((names(&page), next.as_deref()), (vec!["C", "a"], Some("a")));
        registry.remove("a");
        let (page, next) = registry.page(next.as_deref(), 2);
        assert_eq!((names(&page), next), (vec!["b", "d"], None));
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(steps in prop::collection::vec(("[a-d]{1,2}", 0u64..4), 0..60), limit in 0usize..5) {
            let mut registry = Registry::default();
            let mut model = BTreeMap::new();
            for (name, number) in steps {
                let old = match number {
                    0 => (registry.remove(&name), model.remove(&name)),
                    _ => (registry.insert(Arc::new(version(&name, number))), model.insert(name, number)),
                };
                prop_assert_eq!(old.0.map(|version| version.version), old.1);
            }
            let (mut walked, mut cursor) = (Vec::new(), None);
            loop {
                let (page, next) = registry.page(cursor.as_deref(), limit);
                prop_assert!(page.len() <= limit.max(1) && (next.is_none() || !page.is_empty()));
                walked.extend(page);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            let walked: Vec<_> = walked.iter().map(|version| (version.name.clone(), version.version)).collect();
            prop_assert_eq!(registry.len(), model.len());
            prop_assert_eq!(walked, model.into_iter().collect::<Vec<_>>());
        }
    }
}
