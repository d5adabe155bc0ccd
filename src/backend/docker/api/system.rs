//! What the engine is, which version of the API is spoken with it, and what it can do.

use serde::Deserialize;

use super::{call, decode, expect, garbage, line, or_default, EngineError, Method, Request};
use crate::backend::docker::http::request::ApiVersion;

/// The oldest version with all that a container of ours is made of (1.40: Docker 19.03).
pub const API_OLDEST: ApiVersion = ApiVersion { major: 1, minor: 40 };
/// The newest version that these calls were written for.
pub const API_NEWEST: ApiVersion = ApiVersion { major: 1, minor: 51 };

const PING: &str = "GET /_ping";
const VERSION: &str = "GET /version";

/// Asks whether anybody is there.
pub fn ping() -> Request {
    Request { is_versioned: false, ..call(Method::Get, "/_ping".to_owned(), None) }
}

/// Whether an answer to [`ping`] is a yes.
///
/// # Errors
/// When it is none.
pub fn pinged(status: u16, body: &[u8]) -> Result<(), EngineError> {
    expect(PING, status, &[200], body)
}

/// Asks what the engine is. It has no version before its path, as it says which there are.
pub fn version() -> Request {
    Request { is_versioned: false, ..call(Method::Get, "/version".to_owned(), None) }
}

/// Who answers: they differ in a few forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Docker, or what speaks as it does.
    Docker,
    /// Podman's compatible socket.
    Podman,
}

/// What the engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Who it is.
    pub kind: EngineKind,
    /// The same with its own version, for people: `Docker 20.10.24`.
    pub name: String,
    /// The version of the API to speak with it.
    pub api: ApiVersion,
    /// The architecture of its machine, as Go calls it: `amd64`, `arm64`.
    pub architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionBody {
    api_version: String,
    #[serde(rename = "MinAPIVersion", default)]
    oldest: Option<String>,
    version: String,
    os: String,
    arch: String,
    #[serde(default, deserialize_with = "or_default")]
    components: Vec<Component>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}

/// Reads the answer to [`version`], and agrees on the API: the smaller of the engine's newest version and ours.
///
/// # Errors
/// [`EngineError::TooOld`] when the engine has only versions below [`API_OLDEST`], and `Unexpected` when it has only ones
/// above [`API_NEWEST`], or is none of Linux.
pub fn negotiated(status: u16, body: &[u8]) -> Result<Version, EngineError> {
    expect(VERSION, status, &[200], body)?;
    let body: VersionBody = decode(VERSION, body)?;
    let parse = |text: &str| {
        ApiVersion::parse(text).ok_or_else(|| garbage(VERSION, format!("{:?} is no version of an API", line(text))))
    };
    let newest = parse(&body.api_version)?;
    let oldest = body.oldest.as_deref().map(parse).transpose()?;
    let unexpected = |field: &str, found: String| EngineError::Unexpected {
        what: VERSION.to_owned(),
        field: field.to_owned(),
        found,
    };
    if newest < API_OLDEST {
        return Err(EngineError::TooOld { version: newest });
    }
    if let Some(oldest) = oldest.filter(|oldest| *oldest > API_NEWEST) {
        return Err(unexpected("MinAPIVersion", format!("{oldest}, which is newer than the {API_NEWEST} spoken here")));
    }
    if body.os != "linux" {
        return Err(unexpected("Os", line(&body.os)));
    }
    let is_podman = body.components.iter().any(|component| component.name == "Podman Engine");
    let kind = if is_podman { EngineKind::Podman } else { EngineKind::Docker };
    let name = line(&format!("{kind:?} {}", body.version));
    Ok(Version { kind, name, api: newest.min(API_NEWEST), architecture: line(&body.arch) })
}
