//! The image of a function that is deployed: that it is there, what it is, and that it may be used.
//!
//! Owns the order of these steps and what a client is told of each. Does not own images: whoever makes containers knows
//! them, and is asked through [`ImageSource`].

use std::fmt;

use crate::backend::process::check::CheckError;
use crate::backend::runtimes::of_image;
use crate::config::ImageScan;
use crate::http::problem::Problem;
use crate::registry::function::{ExecutionMode, FunctionConfig, Network};
use crate::registry::image::ImageId;
use crate::scheduler::RuntimeId;

use super::deploy::verdict;
use super::scan::{scan, ScanError};
use super::Shared;

/// Who knows images: the container backend.
pub trait ImageSource: Send + Sync {
    /// Sees to it that the image of this name is there, from where it has to be fetched if it is not, and says which one
    /// it is. Blocks for as long as that takes, within limits of its own.
    ///
    /// # Errors
    /// Why it is not there.
    fn prepare_image(&self, reference: &str) -> Result<ImageId, ImageError>;

    /// Has a function's code looked at by the interpreter of an image. Blocks likewise.
    ///
    /// # Errors
    /// What is wrong with it, or why it could not be looked at.
    fn look_at(&self, code: &str, config: &FunctionConfig, runtime: RuntimeId) -> Result<(), CheckError>;
}

/// Why an image cannot be had. The words may be read by whoever deploys functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageError {
    /// There is no such image, or this server may not have it.
    NotFound {
        /// What the engine or the registry said.
        message: String,
    },
    /// The engine does not do its work at present.
    Engine {
        /// In which way.
        message: String,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::NotFound { message } => f.write_str(message),
            ImageError::Engine { message } => write!(f, "the container engine: {message}"),
        }
    }
}

impl std::error::Error for ImageError {}

impl Shared {
    /// Refuses a function that needs containers where there are none.
    pub(super) fn permit_mode(&self, config: &FunctionConfig) -> Result<(), Problem> {
        match config.execution_mode {
            ExecutionMode::Process => Ok(()),
            ExecutionMode::Container => self.image_source().map(drop),
        }
    }

    /// What the image of a function with this configuration is that runs in containers, once it is there and was looked
    /// at; and the runtime in which code for it is looked at.
    fn image_of(&self, config: &FunctionConfig) -> Result<(ImageId, RuntimeId), Problem> {
        let source = self.image_source()?;
        let rules = self.settings();
        let reference = config.image.as_deref().unwrap_or(&rules.base_image);
        let id = source.prepare_image(reference).map_err(|error| not_there(reference, &error))?;
        if let Some(command) = &rules.image_scan {
            scan(command, &id, rules.image_scan_timeout).map_err(|error| refused(reference, command, &error))?;
        }
        // Last, so that no number is spent on an image that is not used.
        let learnt = self.runtimes.learn_image(&id, config);
        let index = learnt.map_err(|error| Problem::unavailable("too_many_images", error.to_string()))?;
        Ok((id, of_image(index, Network::None)))
    }

    /// The same, and that the code is fit for it: the interpreter is the image's, and knows best.
    pub(super) fn vet_in_image(&self, code: &str, config: &FunctionConfig) -> Result<ImageId, Problem> {
        let (id, runtime) = self.image_of(config)?;
        verdict(self.image_source()?.look_at(code, config, runtime))?;
        Ok(id)
    }

    fn image_source(&self) -> Result<&dyn ImageSource, Problem> {
        self.images.as_deref().ok_or_else(|| {
            let why = self.runtimes.containers_lack().unwrap_or("nobody makes containers");
            Problem::invalid("mode_unavailable", format!("config.execution_mode: {why}; use \"process\""))
        })
    }
}

fn not_there(reference: &str, error: &ImageError) -> Problem {
    let detail = format!("config.image: {reference} cannot be had: {error}");
    match error {
        ImageError::NotFound { .. } => Problem::invalid("image_unavailable", detail),
        ImageError::Engine { .. } => Problem::unavailable("engine_unavailable", detail),
    }
}

fn refused(reference: &str, command: &ImageScan, error: &ScanError) -> Problem {
    let program = command.program.display();
    match error {
        ScanError::Refused { status, output } => {
            // What a scanner says is for the operator: it may name what is in the image, and what is on this host.
            log::warn!("image {reference} is refused by {program} ({status}): {}", output.trim_end());
            let detail = format!(
                "config.image: {reference} is refused by this server's scan of images (system.image_scan); the server's \
                 log says why"
            );
            Problem::invalid("image_refused", detail)
        }
        error => {
            log::error!("image {reference} cannot be looked at by {program}: {error}");
            let detail = format!("config.image: {reference} could not be scanned; the server's log says why");
            Problem::unavailable("scan_failed", detail)
        }
    }
}

#[cfg(test)]
mod tests;
