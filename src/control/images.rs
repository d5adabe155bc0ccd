//! The image of a function that is deployed: that it is there, what it is, and that it may be used.
//!
//! Owns the order of these steps and what a client is told of each. Does not own images: whoever makes containers knows
//! them, and is asked through [`ImageSource`]. What takes long (a pull, a scan) is not done here: see `preparations`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Value};

use crate::backend::check::CheckError;
use crate::backend::runtimes::of_image;
use crate::config::ImageScan;
use crate::http::problem::Problem;
use crate::limits::IMAGE_SCAN_FAILURE_MAX_AGE;
use crate::registry::function::{ExecutionMode, FunctionConfig, Network};
use crate::registry::image::{ImageId, Reference};
use crate::scheduler::RuntimeId;

use super::deploy::{taken_over, verdict};
use super::preparations::{Fetched, Need, Ready, Unready};
use super::scan::ScanError;
use super::verdicts::Refusal;
use super::Shared;

/// Who knows images: the container backend.
pub trait ImageSource: Send + Sync {
    /// Which image this name means, if that is here. Blocks for as long as an engine may take for a small question.
    ///
    /// # Errors
    /// Why that cannot be said, or that it is one in which no function can run.
    fn find_image(&self, reference: &Reference) -> Result<Option<ImageId>, ImageError>;

    /// Fetches the image of this name from wherever it is. Blocks for as long as that takes, within limits of its own.
    ///
    /// # Errors
    /// Why it is not there, or that it is one in which no function can run.
    fn pull_image(&self, reference: &Reference) -> Result<(ImageId, Pulled), ImageError>;

    /// Gives up every pull that goes on, and fetches nothing from now on. Does not wait.
    fn pull_no_more(&self);

    /// Has a function's code looked at by the interpreter of an image. Blocks likewise.
    ///
    /// # Errors
    /// What is wrong with it, or why it could not be looked at.
    fn look_at(&self, code: &str, config: &FunctionConfig, runtime: RuntimeId) -> Result<(), CheckError>;
}

/// How an image came that was not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its name.
    pub image: String,
    /// What the name stands for at its registry, if that said so: `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
    /// From the question to the end.
    pub took: Duration,
    /// Its layers that were not here.
    pub layers: usize,
    /// Bytes that were transferred, as far as the engine told.
    pub bytes: u64,
}

impl Pulled {
    /// As the answer to a deployment has it.
    pub fn to_json(&self) -> Value {
        json!({
            "image": self.image,
            "digest": self.digest,
            "layers": self.layers,
            "bytes": self.bytes,
            "seconds": self.took.as_millis() as f64 / 1e3,
        })
    }
}

/// Why an image cannot be had. The words may be read by whoever deploys functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageError {
    /// There is no such image, or this server may not have it.
    NotFound {
        /// What the engine or the registry said.
        message: String,
    },
    /// It is there, and no function can run in it.
    Unsuitable {
        /// Why.
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
            ImageError::NotFound { message } | ImageError::Unsuitable { message } => f.write_str(message),
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
    fn image_of(&self, config: &FunctionConfig, fetched: Option<&Fetched>) -> Result<(Ready, RuntimeId), Unready> {
        let source = self.image_source()?;
        let rules = self.settings();
        let name = config.image.as_deref().unwrap_or(&rules.base_image);
        let Some(reference) = Reference::parse(name) else {
            let error = ImageError::NotFound { message: "that is no name of an image".to_owned() };
            return Err(not_there(name, &error).into());
        };
        let need = Need { reference, scan: rules.image_scan.clone() };
        let ready = match fetched.filter(|fetched| fetched.need == need) {
            Some(fetched) => fetched.outcome.clone()?,
            None => {
                let found = source.find_image(&need.reference).map_err(|error| not_there(name, &error))?;
                let Some(id) = found else { return Err(Unready::Needs(need)) };
                match self.known_verdict(&need, &id) {
                    Some(verdict) => verdict.map(|()| Ready { id, pulled: None })?,
                    None => return Err(Unready::Needs(need)),
                }
            }
        };
        // Last, so that no number is spent on an image that is not used.
        let learnt = self.runtimes.learn_image(&ready.id, config);
        let index = learnt.map_err(|error| Problem::unavailable("too_many_images", error.to_string()))?;
        Ok((ready, of_image(index, Network::None)))
    }

    /// The same, and that the code is fit for it: the interpreter is the image's, and knows best.
    pub(super) fn vet_in_image(
        &self,
        code: &str,
        config: &FunctionConfig,
        fetched: Option<&Fetched>,
    ) -> Result<Ready, Unready> {
        let (ready, runtime) = self.image_of(config, fetched)?;
        verdict(self.image_source()?.look_at(code, config, runtime))?;
        Ok(ready)
    }

    /// Gets an image and has it looked at, as far as that was not done before. Blocks for as long as that takes.
    pub(super) fn fetch(&self, need: &Need) -> Result<Ready, Problem> {
        let source = self.image_source()?;
        let name = need.reference.to_string();
        let failed = |error: ImageError| not_there(&name, &error);
        let (id, pulled) = match source.find_image(&need.reference).map_err(failed)? {
            Some(id) => (id, None),
            None if self.gate.is_closed() => return Err(taken_over()),
            None => {
                source.pull_image(&need.reference).map(|(id, pulled)| (id, Some(Arc::new(pulled)))).map_err(failed)?
            }
        };
        if let Some(command) = &need.scan {
            if self.gate.is_closed() {
                return Err(taken_over());
            }
            let rules = self.settings();
            let verdict = self.verdicts.scan(command, &id, rules.image_scan_timeout, rules.image_scan_max_age);
            verdict.map_err(|error| not_scanned(&name, command, &error))?.map_err(|it| refused(&name, command, &it))?;
        }
        Ok(Ready { id, pulled })
    }

    /// What is known of an image without a look at it; nothing, if it has to be looked at.
    fn known_verdict(&self, need: &Need, id: &ImageId) -> Option<Result<(), Problem>> {
        let Some(command) = &need.scan else { return Some(Ok(())) };
        let verdict = self.verdicts.known(command, id, self.settings().image_scan_max_age)?;
        Some(verdict.map_err(|refusal| refused(&need.reference.to_string(), command, &refusal)))
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
        ImageError::Unsuitable { message } => {
            Problem::invalid("image_unsuitable", format!("config.image: {reference} cannot be used: {message}"))
        }
        ImageError::Engine { .. } => Problem::unavailable("engine_unavailable", detail),
    }
}

/// Which program says so is the operator's business; what it says is for whoever has to mend the image.
fn refused(reference: &str, command: &ImageScan, refusal: &Refusal) -> Problem {
    let Refusal { status, report } = refusal;
    let program = command.program.display();
    log::warn!("image {reference} is refused by {program} ({status}): {}", report.trim_end());
    let detail = format!(
        "config.image: {reference} is refused by this server's scan of images (system.image_scan); \
         the end of what that says is in report"
    );
    Problem::invalid("image_refused", detail).with("report", report.as_str())
}

fn not_scanned(reference: &str, command: &ImageScan, error: &ScanError) -> Problem {
    log::error!("image {reference} cannot be looked at by {}: {error}", command.program.display());
    let detail = format!("config.image: {reference} could not be scanned; the server's log says why");
    Problem::unavailable("scan_failed", detail).retry_after(IMAGE_SCAN_FAILURE_MAX_AGE.as_secs())
}

#[cfg(test)]
mod tests;
