//! How the engine is, for the threads that do not talk to it: `/health`, `--check-system`, a function's deployment.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is known of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// There can be none.
    Disabled {
        /// Why, in words for people.
        reason: String,
    },
    /// It has been asked and has not answered yet.
    Unknown,
    /// It serves.
    Up {
        /// Its name and version, in its own words: `Docker 20.10.24`.
        name: String,
        /// The version of its interface that is spoken.
        api: String,
    },
    /// It does not.
    Down {
        /// Why, in words for people.
        reason: String,
    },
}

/// One writer, any readers.
#[derive(Debug)]
pub struct Health(Mutex<EngineState>);

impl Health {
    /// Nothing is known yet, or it is known that there is nothing.
    pub fn new(state: EngineState) -> Health {
        Health(Mutex::new(state))
    }

    /// As it was seen last.
    pub fn state(&self) -> EngineState {
        self.lock().clone()
    }

    pub(super) fn set(&self, state: EngineState) {
        *self.lock() = state;
    }

    fn lock(&self) -> MutexGuard<'_, EngineState> {
        // Replaced whole by one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
