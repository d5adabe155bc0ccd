//! Images: looked at, pulled, listed, removed.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::Deserialize;
use serde_json::json;

use super::lines::Lines;
use super::{call, decode, expect, filters, garbage, image_id, line, or_default, percent_encoded};
use super::{EngineError, Method, ReplyKind, Request};
use crate::backend::docker::registry_auth::RegistryAuth;
use crate::limits;
use crate::registry::image::Reference;

const INSPECT: &str = "GET /images/NAME/json";
const PULL: &str = "POST /images/create";
const LIST: &str = "GET /images/json";
const REMOVE: &str = "DELETE /images/NAME";

/// A segment of a path: the engine takes the rest of it up to the verb for the name.
fn in_path(image: &Reference) -> String {
    let name: Vec<String> = image.name().split('/').map(percent_encoded).collect();
    format!("/images/{}{}{}", name.join("/"), image.separator(), image.version())
}

// ---- Inspect ----

/// Asks for an image.
pub fn inspect(image: &Reference) -> Request {
    call(Method::Get, format!("{}/json", in_path(image)), None)
}

/// What is to be known of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id, `sha256:` and 64 hex digits, which stands for exactly these files: containers are made from it and not from
    /// the name, which may move.
    pub id: String,
    /// `linux`.
    pub os: String,
    /// As Go calls it: `amd64`, `arm64`.
    pub architecture: String,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Directories for which every container would get a volume: a place to write on the host's disk, without a limit.
    pub volumes: Vec<String>,
}

/// Reads the answer to [`inspect`]; nothing when the engine does not have the image.
///
/// # Errors
/// When it is no image, or something else failed.
pub fn inspected(status: u16, body: &[u8]) -> Result<Option<Image>, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        id: String,
        os: String,
        architecture: String,
        #[serde(default)]
        size: u64,
        #[serde(default, deserialize_with = "or_default")]
        config: Config,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        #[serde(default, deserialize_with = "or_default")]
        volumes: BTreeMap<String, IgnoredAny>,
    }
    if status == 404 {
        return Ok(None);
    }
    expect(INSPECT, status, &[200], body)?;
    let body: Body = decode(INSPECT, body)?;
    Ok(Some(Image {
        id: id(INSPECT, &body.id)?,
        os: line(&body.os),
        architecture: line(&body.architecture),
        size_bytes: body.size,
        volumes: body.config.volumes.into_keys().map(|volume| line(&volume)).collect(),
    }))
}

// ---- Pull ----

/// Asks the engine to fetch an image from its registry, and to tell it this.
pub fn pull(image: &Reference, registry_auth: Option<RegistryAuth>) -> Request {
    let (name, tag) = (percent_encoded(image.name()), percent_encoded(image.version()));
    Request {
        registry_auth,
        reply: ReplyKind::Stream,
        timeout: limits::ENGINE_PULL_SILENCE_MAX,
        idle_timeout: Some(limits::ENGINE_PULL_SILENCE_MAX),
        ..call(Method::Post, format!("/images/create?fromImage={name}&tag={tag}"), None)
    }
}

/// How far a pull has come, from its stream. An error comes as a line of it, behind a status of 200.
#[derive(Debug)]
pub struct PullProgress {
    lines: Lines,
    layers: BTreeMap<String, Layer>,
    digest: Option<String>,
    failure: Option<String>,
}

/// One layer that is not here yet.
#[derive(Debug, Default)]
struct Layer {
    /// Bytes that have come.
    bytes: u64,
    /// Bytes that it has, when that is known.
    total: u64,
    is_complete: bool,
}

impl Layer {
    /// How much of it has come, from 0 to 1.
    fn part(&self) -> f64 {
        match (self.is_complete, self.total) {
            (true, _) => 1.0,
            (false, 0) => 0.0,
            (false, total) => (self.bytes as f64 / total as f64).min(1.0),
        }
    }
}

impl Default for PullProgress {
    fn default() -> Self {
        PullProgress { lines: Lines::new(PULL), layers: BTreeMap::new(), digest: None, failure: None }
    }
}

impl PullProgress {
    /// Hears what the engine says. What is no line of progress is a failure of the pull.
    pub fn push(&mut self, bytes: &[u8]) {
        let read = self.lines.push(bytes).and_then(|lines| lines.iter().try_for_each(|line| self.read(line)));
        if let Err(error) = read {
            self.failure.get_or_insert(error.to_string());
        }
    }

    /// Layers that came, or are to come, with this pull.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Bytes that came, as far as the engine told.
    pub fn bytes(&self) -> u64 {
        self.layers.values().fold(0, |sum: u64, layer| sum.saturating_add(layer.bytes))
    }

    /// Of the layers, those that have come.
    pub fn layers_complete(&self) -> usize {
        self.layers.values().filter(|layer| layer.is_complete).count()
    }

    /// How much of it has come, from 0 to 100: the mean of its layers.
    pub fn percent(&self) -> f64 {
        let parts: f64 = self.layers.values().map(Layer::part).sum();
        100.0 * parts / self.layers.len().max(1) as f64
    }

    /// What the name stands for at its registry, `sha256:` and 64 hex digits, once that is known.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Why it failed, in the engine's or the registry's words. At the end of the stream: none, if it went well. Whether
    /// the image is there is for [`inspect`] to say.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn read(&mut self, text: &[u8]) -> Result<(), EngineError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default, deserialize_with = "or_default")]
            status: String,
            #[serde(default, deserialize_with = "or_default")]
            id: String,
            #[serde(rename = "progressDetail", default, deserialize_with = "or_default")]
            progress: Amount,
            #[serde(default, deserialize_with = "or_default")]
            error: String,
            #[serde(rename = "errorDetail", default, deserialize_with = "or_default")]
            detail: Detail,
        }
        // Docker has sums that are below zero where a registry does not say how long a layer is.
        #[derive(Deserialize, Default)]
        struct Amount {
            #[serde(default)]
            current: Option<i64>,
            #[serde(default)]
            total: Option<i64>,
        }
        #[derive(Deserialize, Default)]
        struct Detail {
            #[serde(default, deserialize_with = "or_default")]
            message: String,
        }
        let bytes = |amount: Option<i64>| amount.and_then(|amount| u64::try_from(amount).ok()).unwrap_or(0);
        let body: Body = decode(PULL, text)?;
        if let Some(message) = [body.detail.message, body.error].into_iter().find(|message| !message.is_empty()) {
            self.failure.get_or_insert(line(&message));
        }
        if let Some(digest) = body.status.strip_prefix("Digest: ") {
            self.digest = image_id(digest);
        }
        let is_new = matches!(&*body.status, "Pulling fs layer" | "Waiting" | "Downloading");
        let is_complete = matches!(&*body.status, "Pull complete" | "Download complete");
        let is_known = self.layers.contains_key(&body.id);
        if body.id.is_empty() || !(is_known || (is_new && self.layers.len() < limits::IMAGE_LAYERS_MAX)) {
            return Ok(());
        }
        let layer = self.layers.entry(line(&body.id)).or_default();
        layer.is_complete |= is_complete;
        // While it is unpacked, the same is counted again.
        if body.status == "Downloading" {
            layer.bytes = layer.bytes.max(bytes(body.progress.current));
            layer.total = bytes(body.progress.total);
        }
        Ok(())
    }
}

impl std::fmt::Display for PullProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} layers, {:.1} MB", self.layers_complete(), self.layers.len(), self.bytes() as f64 / 1e6)
    }
}

// ---- List and remove ----

/// Asks for the images that have this name, whatever their tags.
pub fn list(image: &Reference) -> Request {
    let reference = json!({ "reference": [image.to_string()] });
    let reply = ReplyKind::Whole { bytes_max: limits::ENGINE_LIST_BYTES_MAX };
    Request { reply, ..call(Method::Get, format!("/images/json?{}", filters(&reference)), None) }
}

/// Ids and names of images.
///
/// # Errors
/// When it is no list.
pub fn listed(status: u16, body: &[u8]) -> Result<Vec<(String, Vec<String>)>, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        id: String,
        #[serde(default, deserialize_with = "or_default")]
        repo_tags: Vec<String>,
    }
    expect(LIST, status, &[200], body)?;
    let bodies: Vec<Body> = decode(LIST, body)?;
    let listed = |body: Body| Ok((id(LIST, &body.id)?, body.repo_tags.iter().map(|tag| line(tag)).collect()));
    bodies.into_iter().map(listed).collect()
}

/// Removes a name of an image, and the image if that was the last one. One that a container uses stays.
pub fn remove(image: &Reference) -> Request {
    call(Method::Delete, format!("{}?force=0&noprune=0", in_path(image)), None)
}

/// Whether it is gone; false when a container uses it.
///
/// # Errors
/// When something else keeps it.
pub fn removed(status: u16, body: &[u8]) -> Result<bool, EngineError> {
    match status {
        404 => Ok(true),
        409 => Ok(false),
        _ => expect(REMOVE, status, &[200], body).map(|()| true),
    }
}

fn id(what: &str, text: &str) -> Result<String, EngineError> {
    image_id(text).ok_or_else(|| garbage(what, format!("{:?} is no image's id", line(text))))
}
