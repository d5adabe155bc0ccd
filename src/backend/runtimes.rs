//! From a function to the number of its runtime, whichever backend runs it.
//!
//! Owns which of the two tables is asked, interpreters or images, and why a function has no number. Does not own the
//! tables: that of the interpreters is the process backend's, that of the [`Images`] is shared with whoever makes
//! containers.
//!
//! Invariant: what the front asks for never waits. Whatever may (an interpreter must be run to be known) is done before,
//! by [`AllRuntimes::learn`].

mod images;
mod number;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::process::runtimes::{NetworkError, RuntimeError, Runtimes};
use crate::registry::function::{ExecutionMode, FunctionConfig, FunctionVersion};
use crate::registry::image::ImageId;
use crate::scheduler::RuntimeId;

pub use images::{Image, Images, TooManyImages};
pub use number::{index_of, network_of, of_image, of_interpreter, with_network};

/// How the default image is called where a name is for people.
const BASE_IMAGE: &str = "the base image";

/// See the module's documentation.
#[derive(Debug)]
pub struct AllRuntimes {
    process: Arc<Runtimes>,
    images: Arc<Images>,
    /// Why this server runs no containers, if it does not.
    containers_lack: Option<String>,
}

/// Why a function has no runtime, and cannot be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// It may not have its network here.
    Network(NetworkError),
    /// This host has not the interpreter.
    Interpreter {
        /// By its name.
        runtime: String,
    },
    /// This server runs no containers.
    Containers {
        /// Why, in words that anybody may read.
        reason: String,
    },
    /// It was deployed with an image that this server process has not been told of.
    Image {
        /// Which one, if one is known.
        id: Option<ImageId>,
    },
    /// What it needs came after it.
    Late,
}

impl Missing {
    /// The `code` of the problem that a call is answered with.
    pub fn code(&self) -> &'static str {
        match self {
            Missing::Network(_) => "network_unavailable",
            Missing::Interpreter { .. } | Missing::Late => "runtime_unavailable",
            Missing::Containers { .. } | Missing::Image { .. } => "no_instances",
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Network(error) => write!(f, "network {error}"),
            Missing::Interpreter { runtime } => write!(f, "there is no runtime {runtime} on this host"),
            Missing::Containers { reason } => write!(f, "it runs in containers, and {reason}"),
            Missing::Image { id: Some(id) } => {
                write!(f, "its image {} is not known to this server any more: deploy it again", id.short())
            }
            Missing::Image { id: None } => write!(f, "it was deployed without an image: deploy it again"),
            Missing::Late => write!(f, "its runtime was not there when it was deployed: deploy it again"),
        }
    }
}

impl std::error::Error for Missing {}

/// Why the runtime of a function could not be made known.
#[derive(Debug)]
pub enum LearnError {
    /// Its interpreter cannot be used.
    Interpreter(RuntimeError),
    /// Its image is one too many.
    Images(TooManyImages),
}

impl fmt::Display for LearnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LearnError::Interpreter(error) => error.fmt(f),
            LearnError::Images(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LearnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LearnError::Interpreter(error) => Some(error),
            LearnError::Images(error) => Some(error),
        }
    }
}

impl AllRuntimes {
    /// Both tables as one. With `containers_lack`, which says why in words that anybody may read, no function has a
    /// runtime that runs in containers.
    pub fn new(process: Arc<Runtimes>, images: Arc<Images>, containers_lack: Option<String>) -> Self {
        AllRuntimes { process, images, containers_lack }
    }

    /// The interpreters, and what sandboxes of processes are made with.
    pub fn process(&self) -> &Runtimes {
        &self.process
    }

    /// The images.
    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    /// Why this server runs no containers, if it does not.
    pub fn containers_lack(&self) -> Option<&str> {
        self.containers_lack.as_deref()
    }

    /// The number of a function's runtime, with its network, if it can be called.
    pub fn known_for(&self, function: &FunctionVersion) -> Option<RuntimeId> {
        self.find(function).ok()
    }

    /// The same, or why there is none.
    ///
    /// # Errors
    /// Why calls of the function cannot have an instance.
    pub fn find(&self, function: &FunctionVersion) -> Result<RuntimeId, Missing> {
        let config = &function.config;
        match config.execution_mode {
            ExecutionMode::Process => {
                self.process.permit(config.network).map_err(Missing::Network)?;
                let known = self.process.known(&config.runtime).map(|id| with_network(id, config.network));
                known.ok_or_else(|| Missing::Interpreter { runtime: config.runtime.clone() })
            }
            ExecutionMode::Container => {
                if let Some(reason) = &self.containers_lack {
                    return Err(Missing::Containers { reason: reason.clone() });
                }
                self.process.permit(config.network).map_err(Missing::Network)?;
                let index = function.image_id.as_ref().and_then(|id| self.images.index_of(id));
                let known = index.map(|index| of_image(index, config.network));
                known.ok_or_else(|| Missing::Image { id: function.image_id.clone() })
            }
        }
    }

    /// Makes the runtime of a function known, so that it is found without waiting. May run an interpreter: not for the
    /// front thread.
    ///
    /// # Errors
    /// Why it is not known; calls of the function are refused then.
    pub fn learn(&self, function: &FunctionVersion) -> Result<(), LearnError> {
        match (function.config.execution_mode, &function.image_id) {
            (ExecutionMode::Process, _) => {
                self.process.resolve(&function.config.runtime).map(drop).map_err(LearnError::Interpreter)
            }
            (ExecutionMode::Container, Some(id)) => {
                self.learn_image(id, &function.config).map(drop).map_err(LearnError::Images)
            }
            // There is nothing to learn, which `find` says.
            (ExecutionMode::Container, None) => Ok(()),
        }
    }

    /// Makes the image known that a function with this configuration is deployed with, and gives its number.
    ///
    /// # Errors
    /// When it is one too many.
    pub fn learn_image(&self, id: &ImageId, config: &FunctionConfig) -> Result<usize, TooManyImages> {
        self.images.add(id, config.image.as_deref().unwrap_or(BASE_IMAGE))
    }

    /// The same for all that are stored. What cannot be known is logged, each once: looking for an interpreter that is
    /// not there may start several.
    pub fn learn_all<'a>(&self, functions: impl IntoIterator<Item = &'a FunctionVersion>) {
        let mut interpreters = BTreeSet::new();
        for function in functions {
            let is_process = function.config.execution_mode == ExecutionMode::Process;
            if is_process && !interpreters.insert(function.config.runtime.as_str()) {
                continue;
            }
            match self.learn(function) {
                Ok(()) => {}
                Err(LearnError::Interpreter(error)) => {
                    log::error!("functions with runtime {} cannot be called: {error}", function.config.runtime);
                }
                Err(LearnError::Images(error)) => {
                    log::error!("function {} cannot be called: {error}", function.name);
                }
            }
        }
    }

    /// A name for people.
    pub fn name(&self, id: RuntimeId) -> String {
        if !id.is_container() {
            return self.process.name(id);
        }
        match self.images.get(index_of(id)) {
            Some(image) => format!("image {image}"),
            None => format!("image {}", index_of(id)),
        }
    }
}

#[cfg(test)]
mod tests;
