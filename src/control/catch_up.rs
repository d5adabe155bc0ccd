//! What a server that takes over does with the store before it serves: it reads what has changed since it first looked,
//! and tells the front.

use std::collections::HashMap;
use std::sync::Arc;

use crate::registry::function::FunctionVersion;
use crate::registry::store::StoreError;

use super::{Done, Shared, State, Ticket};

impl Shared {
    /// Makes the functions those of the store, and tells the front of each that is new, another or gone. Says how many
    /// that were.
    ///
    /// # Errors
    /// When the store cannot be read; nothing is changed then.
    pub fn catch_up(&self) -> Result<usize, StoreError> {
        let mut state = self.lock();
        if state.store.is_as_read() {
            return Ok(0);
        }
        let loaded = state.store.load_beyond(&|name| state.functions.get(name).cloned())?;
        for refused in loaded.refused.iter().filter(|refused| state.functions.contains_key(&refused.name)) {
            log::error!("function {} is not served: {}", refused.name, refused.reason);
        }
        let stored = loaded.functions.into_iter().map(|function| (function.name.clone(), Arc::new(function)));
        let (functions, changes) = compare(&state.functions, stored.collect());
        state.functions = functions;
        let count = changes.len();
        for change in changes {
            self.announce(&state, change);
        }
        Ok(count)
    }

    /// Tells the front of a change that no client has asked for.
    fn announce(&self, held: &State, change: Done) {
        if let Done::Created(function) | Done::Updated(function) = &change {
            // The front looks its number up and must not wait for it.
            self.runtimes.learn_all([&**function]);
        }
        self.report(Ticket::NOBODY, held, Ok(change), None);
    }
}

type Functions = HashMap<String, Arc<FunctionVersion>>;

/// What is to be known from now on, and how it differs from what was. What is the same stays the same value: an update
/// under way compares by address.
fn compare(known: &Functions, mut stored: Functions) -> (Functions, Vec<Done>) {
    let mut changes = Vec::new();
    for (name, function) in &mut stored {
        match known.get(name) {
            None => changes.push(Done::Created(Arc::clone(function))),
            Some(same) if **same == **function => *function = Arc::clone(same),
            Some(_) => changes.push(Done::Updated(Arc::clone(function))),
        }
    }
    changes.extend(known.keys().filter(|name| !stored.contains_key(*name)).map(|name| Done::Deleted(name.clone())));
    (stored, changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::config;

    fn functions(list: &[(&str, u64, &str)]) -> Functions {
        let function = |(name, version, code): &(&str, u64, &str)| FunctionVersion {
            name: (*name).to_owned(),
            version: *version,
            code_sha256: String::new(),
            code: (*code).to_owned(),
            config: config(),
            image_id: None,
            created_at_ms: 1,
            updated_at_ms: 1,
        };
        list.iter().map(|it| (it.0.to_owned(), Arc::new(function(it)))).collect()
    }

    #[test]
    fn what_is_new_another_or_gone_is_told_and_what_is_the_same_stays_itself() {
        let known = functions(&[("same", 1, "a"), ("newer", 1, "a"), ("gone", 1, "a"), ("again", 1, "a")]);
        // One that was deleted and made again has the same number.
        let stored = functions(&[("same", 1, "a"), ("newer", 2, "a"), ("again", 1, "b"), ("new", 1, "a")]);
        let (after, changes) = compare(&known, stored);
        assert!(Arc::ptr_eq(&after["same"], &known["same"]));
        let mut told: Vec<String> = changes
            .iter()
            .map(|change| match change {
                Done::Created(function) => format!("created {}", function.name),
                Done::Updated(function) => format!("updated {}", function.name),
                Done::Deleted(name) => format!("deleted {name}"),
                other => panic!("{other:?}"),
            })
            .collect();
        told.sort();
        assert_eq!(told, ["created new", "deleted gone", "updated again", "updated newer"]);
        assert_eq!(after.len(), 4);
    }
}
