//! How the engine is, for the threads that do not talk to it: `/health`, `--check-system`, a function's deployment.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
        /// Why, in words for people, without paths.
        reason: String,
    },
}

/// An image that is on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Pull {
    /// Its name.
    pub image: String,
    /// Since when.
    pub began: Instant,
    /// Layers that are to come.
    pub layers: usize,
    /// Of these, those that are here.
    pub layers_complete: usize,
    /// Bytes that have come, as far as the engine told.
    pub bytes: u64,
    /// How much of it is here: each layer counts the same, since engines do not tell the size of one that has not begun.
    pub percent: f64,
}

/// One writer, any readers.
#[derive(Debug)]
pub struct Health {
    engine: Mutex<EngineState>,
    pulls: Mutex<Vec<Pull>>,
}

impl Health {
    /// Nothing is known yet, or it is known that there is nothing.
    pub fn new(state: EngineState) -> Health {
        Health { engine: Mutex::new(state), pulls: Mutex::default() }
    }

    /// As it was seen last.
    pub fn state(&self) -> EngineState {
        lock(&self.engine).clone()
    }

    /// The images that are pulled at present, the longest first.
    pub fn pulls(&self) -> Vec<Pull> {
        lock(&self.pulls).clone()
    }

    pub(super) fn set(&self, state: EngineState) {
        *lock(&self.engine) = state;
    }

    pub(super) fn set_pulls(&self, pulls: Vec<Pull>) {
        *lock(&self.pulls) = pulls;
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // Replaced whole by one assignment.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
