//! Images: looked at, pulled, listed, removed.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::Deserialize;
use serde_json::json;

use super::lines::Lines;
use super::{call, decode, expect, filters, garbage, image_id, line, or_default, percent_encoded};
use super::{EngineError, Method, ReplyKind, Request};
use crate::limits;

const INSPECT: &str = "GET /images/NAME/json";
const PULL: &str = "POST /images/create";
const LIST: &str = "GET /images/json";
const REMOVE: &str = "DELETE /images/NAME";

/// What an image is called: `name`, `name:tag`, or `name@sha256:...`, the name with or without a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    name: String,
    /// A tag, or a digest. There always is one: a pull without would fetch every tag that there is.
    version: String,
}

impl ImageRef {
    /// Reads a reference; without a tag it is `latest`, as everywhere. Nothing is said about whether there is such an image.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digest = |digest: &str| image_id(digest).as_deref() == Some(digest);
        let (name, version) = match text.split_once('@') {
            // A tag beside a digest says nothing more.
            Some((name, digest)) => (split_tag(name).0, Some(digest).filter(|digest| is_digest(digest))?),
            None => {
                let (name, tag) = split_tag(text);
                (name, tag.unwrap_or("latest"))
            }
        };
        let is_name =
            !name.is_empty() && name.split('/').all(is_component) && text.len() <= limits::IMAGE_NAME_BYTES_MAX;
        let is_tag = version.contains(':') || (!version.is_empty() && version.bytes().all(is_word));
        (is_name && is_tag).then(|| ImageRef { name: name.to_owned(), version: version.to_owned() })
    }

    /// A segment of a path: the engine takes the rest of it up to the verb for the name.
    fn in_path(&self) -> String {
        let separator = if self.version.contains(':') { "@" } else { ":" };
        let name: Vec<String> = self.name.split('/').map(percent_encoded).collect();
        format!("/images/{}{separator}{}", name.join("/"), self.version)
    }
}

impl std::fmt::Display for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.version.contains(':') { '@' } else { ':' };
        write!(f, "{}{separator}{}", self.name, self.version)
    }
}

/// A colon before the last slash is that of a registry's port.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

/// A part of a name between slashes; of the first a port may be a part. None is `..`, which would lead elsewhere.
fn is_component(component: &str) -> bool {
    let first = component.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphanumeric())
        && component.bytes().all(|byte| is_word(byte) || byte == b':')
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(&byte)
}

// ---- Inspect ----

/// Asks for an image.
pub fn inspect(image: &ImageRef) -> Request {
    call(Method::Get, format!("{}/json", image.in_path()), None)
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

/// Asks the engine to fetch an image from its registry. Registries that want a password are asked without one.
pub fn pull(image: &ImageRef) -> Request {
    let (name, tag) = (percent_encoded(&image.name), percent_encoded(&image.version));
    Request {
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
    failure: Option<String>,
}

/// One layer that is not here yet.
#[derive(Debug, Default)]
struct Layer {
    /// Bytes that have come.
    bytes: u64,
    is_complete: bool,
}

impl Default for PullProgress {
    fn default() -> Self {
        PullProgress { lines: Lines::new(PULL), layers: BTreeMap::new(), failure: None }
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
        #[derive(Deserialize, Default)]
        struct Amount {
            #[serde(default)]
            current: Option<u64>,
        }
        #[derive(Deserialize, Default)]
        struct Detail {
            #[serde(default, deserialize_with = "or_default")]
            message: String,
        }
        let body: Body = decode(PULL, text)?;
        if let Some(message) = [body.detail.message, body.error].into_iter().find(|message| !message.is_empty()) {
            self.failure.get_or_insert(line(&message));
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
            layer.bytes = layer.bytes.max(body.progress.current.unwrap_or(0));
        }
        Ok(())
    }
}

impl std::fmt::Display for PullProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let complete = self.layers.values().filter(|layer| layer.is_complete).count();
        write!(f, "{complete} of {} layers, {:.1} MB", self.layers.len(), self.bytes() as f64 / 1e6)
    }
}

// ---- List and remove ----

/// Asks for the images that have this name, whatever their tags.
pub fn list(image: &ImageRef) -> Request {
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
pub fn remove(image: &ImageRef) -> Request {
    call(Method::Delete, format!("{}?force=0&noprune=0", image.in_path()), None)
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
