//! What a control thread asks of the containers' thread before it deploys a function: that the image is here, and which
//! one it is.

use std::fmt;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::backend::process::check::{CheckError, Checker};
use crate::control::{self, ImageSource};
use crate::doorbell::Line;
use crate::limits::IMAGE_PULL_TIMEOUT;
use crate::registry::function::FunctionConfig;
use crate::registry::image::ImageId;
use crate::scheduler::RuntimeId;

use super::job::ContainerJob;

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// `sha256:` and 64 hexadecimal digits: what the name means now, whatever it means later.
    pub id: String,
    /// How it came, if it was not here before.
    pub pulled: Option<Pulled>,
}

/// How an image was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// From the question to the end.
    pub took: Duration,
    /// Its layers that were not here.
    pub layers: usize,
    /// What was transferred, as far as the engine told.
    pub bytes: u64,
}

/// Why there is no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageError {
    /// The engine is away, or gave no answer.
    NoEngine {
        /// In words.
        reason: String,
    },
    /// It is not here, and could not be had.
    Missing {
        /// As the function names it.
        reference: String,
        /// What the engine says.
        message: String,
    },
    /// It did not come in time.
    TimedOut {
        /// As the function names it.
        reference: String,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::NoEngine { reason } => write!(f, "the container engine cannot be asked: {reason}"),
            ImageError::Missing { reference, message } => {
                write!(f, "image {reference} is not here and could not be pulled: {message}")
            }
            ImageError::TimedOut { reference } => {
                write!(f, "image {reference} could not be pulled within {IMAGE_PULL_TIMEOUT:?}")
            }
        }
    }
}

impl std::error::Error for ImageError {}

/// The images of the engine that the containers' thread talks to.
pub struct ImagesOf {
    /// To that thread.
    pub containers: Line<ContainerJob>,
    /// Who looks at code, in containers too.
    pub checker: Checker,
}

impl ImageSource for ImagesOf {
    fn prepare_image(&self, reference: &str) -> Result<ImageId, control::ImageError> {
        let outcome = prepare(&self.containers, reference).and_then(|prepared| {
            let nameless = || ImageError::NoEngine { reason: format!("{} is no image's id", prepared.id) };
            ImageId::parse(&prepared.id).ok_or_else(nameless)
        });
        outcome.map_err(|error| match error {
            ImageError::Missing { message, .. } => control::ImageError::NotFound { message },
            error => control::ImageError::Engine { message: error.to_string() },
        })
    }

    fn look_at(&self, code: &str, config: &FunctionConfig, runtime: RuntimeId) -> Result<(), CheckError> {
        self.checker.check_with(runtime, code, config)
    }
}

/// Sees that the image is here. Blocks until it is.
fn prepare(containers: &Line<ContainerJob>, reference: &str) -> Result<Prepared, ImageError> {
    let (answer, outcome) = bounded(1);
    let job = ContainerJob::PrepareImage { reference: reference.to_owned(), answer };
    let stopping = || ImageError::NoEngine { reason: "the server is stopping".to_owned() };
    containers.send(job).map_err(|_| stopping())?;
    match outcome.recv_timeout(IMAGE_PULL_TIMEOUT) {
        Ok(outcome) => outcome,
        Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Err(stopping()),
        Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
            Err(ImageError::TimedOut { reference: reference.to_owned() })
        }
    }
}
