//! What a control thread asks of the containers' thread before it deploys a function: whether the image is here, that it
//! be fetched, and whether functions can run in it.

use std::fmt;
use std::path::PathBuf;

use crossbeam_channel::{bounded, Sender};

use crate::backend::check::{CheckError, Checker};
use crate::control::{self, ImageSource, Pulled};
use crate::doorbell::Line;
use crate::limits::{IMAGE_PULLS_MAX, IMAGE_PULL_TIMEOUT, IMAGE_VOLUMES_NAMED_MAX};
use crate::registry::function::FunctionConfig;
use crate::registry::image::{ImageId, Reference};
use crate::scheduler::RuntimeId;

use super::api::images::Image;
use super::job::ContainerJob;
use super::registry_auth::{self, RegistryAuth};

/// An image that was not here before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// What it is.
    pub image: Image,
    /// How it came.
    pub pulled: Pulled,
}

/// Why there is no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageError {
    /// The engine is away, or gave no answer.
    NoEngine {
        /// In words, for whoever deploys functions.
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
    /// As many others are pulled as may be at once.
    Busy,
    /// This server has given its place to another one.
    Succeeded,
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
            ImageError::Busy => write!(f, "{IMAGE_PULLS_MAX} images are pulled already"),
            ImageError::Succeeded => f.write_str("another server took over, and this one pulls no image any more"),
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
    /// `system.registry_auth`.
    pub registry_auth: Option<PathBuf>,
}

impl ImageSource for ImagesOf {
    fn find_image(&self, reference: &Reference) -> Result<Option<ImageId>, control::ImageError> {
        let job = |answer| ContainerJob::FindImage { reference: reference.clone(), answer };
        match self.ask(job)? {
            Some(image) => usable(&image).map(Some),
            None => Ok(None),
        }
    }

    fn pull_image(&self, reference: &Reference) -> Result<(ImageId, Pulled), control::ImageError> {
        let auth = self.auth_for(reference)?;
        let job = |answer| ContainerJob::PullImage { reference: reference.clone(), auth, answer };
        let PulledImage { image, pulled } = self.ask(job)?;
        Ok((usable(&image)?, pulled))
    }

    fn pull_no_more(&self) {
        // If the thread has ended, so have its pulls.
        let _ = self.containers.send(ContainerJob::StopPulls);
    }

    fn look_at(&self, code: &str, config: &FunctionConfig, runtime: RuntimeId) -> Result<(), CheckError> {
        self.checker.check_with(runtime, code, config)
    }
}

impl ImagesOf {
    /// An image that needs no password is not fetched either while the file is wrong: nobody would mend it.
    fn auth_for(&self, reference: &Reference) -> Result<Option<RegistryAuth>, control::ImageError> {
        let Some(file) = &self.registry_auth else { return Ok(None) };
        registry_auth::read(file, reference).map_err(|error| {
            log::error!("system.registry_auth, {}, is not used: {error}", file.display());
            let message =
                "what it is to tell registries (system.registry_auth) cannot be used; the server's log says why";
            control::ImageError::Engine { message: message.to_owned() }
        })
    }

    /// Blocks for as long as the thread gives the question, which it answers in any case while it is there.
    fn ask<T>(
        &self,
        job: impl FnOnce(Sender<Result<T, ImageError>>) -> ContainerJob,
    ) -> Result<T, control::ImageError> {
        let (answer, outcome) = bounded(1);
        let stopping = || control::ImageError::Engine { message: "the server is stopping".to_owned() };
        self.containers.send(job(answer)).map_err(|_| stopping())?;
        outcome.recv().map_err(|_| stopping())?.map_err(|error| match error {
            ImageError::Missing { message, .. } => control::ImageError::NotFound { message },
            error => control::ImageError::Engine { message: error.to_string() },
        })
    }
}

/// The id of an image, if containers can be made of it as functions need them.
fn usable(image: &Image) -> Result<ImageId, control::ImageError> {
    if let Some(message) = unsuitable(image, host_architecture()) {
        return Err(control::ImageError::Unsuitable { message });
    }
    let nameless = || control::ImageError::Engine { message: format!("{} is no image's id", image.id) };
    ImageId::parse(&image.id).ok_or_else(nameless)
}

/// What is seen of an image before it runs, and cannot work. `architecture` is this host's, as Go calls it; an image that
/// does not say is taken.
fn unsuitable(image: &Image, architecture: &str) -> Option<String> {
    let (os, arch) = (image.os.as_str(), image.architecture.as_str());
    if !os.is_empty() && os != "linux" {
        return Some(format!("the image is for {os}, and this host runs linux"));
    }
    // The filter of system calls knows one architecture, also where the kernel could run others.
    if !arch.is_empty() && arch != architecture {
        return Some(format!("the image is for {arch}, and this host is {architecture}"));
    }
    if image.volumes.is_empty() {
        return None;
    }
    let mut named = image.volumes.iter().take(IMAGE_VOLUMES_NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if image.volumes.len() > IMAGE_VOLUMES_NAMED_MAX {
        named.push_str(", …");
    }
    // Each container would have a place on the host's disk there, which has no limit.
    Some(format!(
        "the image has volumes ({named}), and a function may not write to the host's disk; build it without VOLUME"
    ))
}

/// This host's architecture, as images name theirs.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(os: &str, architecture: &str, volumes: &[&str]) -> Image {
        Image {
            id: format!("sha256:{}", "a".repeat(64)),
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            size_bytes: 1,
            volumes: volumes.iter().map(|&volume| volume.to_owned()).collect(),
        }
    }

    #[test]
    fn an_image_that_cannot_work_says_why_before_it_runs() {
        assert_eq!(unsuitable(&image("linux", "amd64", &[]), "amd64"), None);
        assert_eq!(unsuitable(&image("", "", &[]), "arm64"), None);
        let why = unsuitable(&image("windows", "amd64", &[]), "amd64").unwrap();
        assert_eq!(why, "the image is for windows, and this host runs linux");
        for foreign in ["arm64", "386"] {
            let why = unsuitable(&image("linux", foreign, &[]), "amd64").unwrap();
            assert_eq!(why, format!("the image is for {foreign}, and this host is amd64"));
        }
        let why = unsuitable(&image("linux", "amd64", &["/data", "/var/lib/x"]), "amd64").unwrap();
        assert!(why.starts_with("the image has volumes (/data, /var/lib/x), and"), "{why}");
        let many = ["/v"; IMAGE_VOLUMES_NAMED_MAX + 1];
        let why = unsuitable(&image("linux", "amd64", &many), "amd64").unwrap();
        assert_eq!((why.matches("/v").count(), why.matches(", …)").count()), (IMAGE_VOLUMES_NAMED_MAX, 1), "{why}");
    }

    #[test]
    fn the_host_s_own_architecture_is_that_of_an_image_made_here() {
        assert!(["amd64", "arm64"].contains(&host_architecture()), "the others are not built for");
    }
}
