//! Containers: made, started, looked at, changed, ended, removed, and found again by their labels.
//!
//! Where a call wants an `id`, the container's name does as well.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{json, Value};

use super::system::EngineKind;
use super::{call, decode, expect, filters, garbage, is_container_id, line, or_default, percent_encoded};
use super::{EngineError, Method, ReplyKind, Request};
use crate::backend::docker::hardening::{limit_members, limit_resources, ContainerSpec};
use crate::limits;

/// The label, with the value `1`, of every container that a server of ours made.
pub const LABEL_MANAGED: &str = "faas.managed";
/// The label that says which server.
pub const LABEL_SERVER: &str = "faas.server";
/// The label that says on which side of a takeover that server is.
pub const LABEL_SIDE: &str = "faas.side";

const CREATE: &str = "POST /containers/create";
const START: &str = "POST /containers/ID/start";
const INSPECT: &str = "GET /containers/ID/json";
const UPDATE: &str = "POST /containers/ID/update";
/// What calls of Podman's own API begin with: the first version that changes limits. Later ones take it as well.
const LIBPOD: &str = "/v4.3.0/libpod";
const WAIT: &str = "POST /containers/ID/wait";
const KILL: &str = "POST /containers/ID/kill";
const REMOVE: &str = "DELETE /containers/ID";
const LIST: &str = "GET /containers/json";

fn of(id: &str, what: &str) -> String {
    format!("/containers/{}{what}", percent_encoded(id))
}

/// The labels of a container of this server, on this side of a takeover.
pub fn labels(server: &str, side: u32) -> Vec<(String, String)> {
    let labels = [(LABEL_MANAGED, "1".to_owned()), (LABEL_SERVER, server.to_owned()), (LABEL_SIDE, side.to_string())];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

// ---- Create and start ----

/// Asks for a container. It does not run yet.
pub fn create(name: &str, spec: &ContainerSpec) -> Request {
    let path = format!("/containers/create?name={}", percent_encoded(name));
    call(Method::Post, path, Some(&spec.create_body()))
}

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id: 64 hex digits.
    pub id: String,
    /// What the engine did otherwise than it was asked to, in its own words. Reading the container back says more.
    pub warnings: Vec<String>,
}

/// Reads the answer to [`create`].
///
/// # Errors
/// [`EngineError::Refused`] with status 404 when the engine does not have the image, 409 when the name is taken, and 400
/// when it does not take the settings.
pub fn created(status: u16, body: &[u8]) -> Result<Created, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        id: String,
        #[serde(default, deserialize_with = "or_default")]
        warnings: Vec<String>,
    }
    expect(CREATE, status, &[201], body)?;
    let body: Body = decode(CREATE, body)?;
    Ok(Created {
        id: checked_id(CREATE, body.id)?,
        warnings: body.warnings.iter().map(|warning| line(warning)).collect(),
    })
}

/// Asks a container to run.
pub fn start(id: &str) -> Request {
    call(Method::Post, of(id, "/start"), None)
}

/// Whether an answer to [`start`] says that the container runs, or did so before.
///
/// # Errors
/// When it does not, for instance because the image has no such program (400 or 500, with the runtime's message).
pub fn started(status: u16, body: &[u8]) -> Result<(), EngineError> {
    expect(START, status, &[204, 304], body)
}

// ---- Inspect ----

/// Asks for all there is to know of a container.
pub fn inspect(id: &str) -> Request {
    call(Method::Get, of(id, "/json"), None)
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Made, and not started. Podman calls it so, or `configured`, or `initialized`.
    Created,
    /// It runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It has ended, or is just ending.
    Ended,
}

/// What an engine says of a container.
#[derive(Debug, Clone)]
pub struct Inspect {
    /// Its id: 64 hex digits.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Whether it has a process.
    pub is_running: bool,
    /// The host's id of its first process, above 1, while it runs.
    pub pid: Option<u32>,
    /// With which status it ended: 128 and the signal, if it was one. Says nothing while it runs.
    pub exit_code: i32,
    /// Whether the kernel killed a process of it because its memory had run out.
    pub is_out_of_memory: bool,
    /// Why it could not be started, in the engine's words; empty in most cases.
    pub error: String,
    /// All of it, for [`verify`](crate::backend::docker::hardening::verify).
    pub document: Value,
}

impl Inspect {
    /// Whether it was killed, and nothing says that it was for want of memory: the engine may not know that yet.
    pub fn may_be_starved(&self) -> bool {
        self.exit_code == 137 && !self.is_running && !self.is_out_of_memory
    }

    /// The same container, of which is known that its memory had run out.
    pub fn starved(self) -> Inspect {
        Inspect { is_out_of_memory: true, ..self }
    }
}

/// Reads the answer to [`inspect`].
///
/// # Errors
/// When there is no such container, or it is not described.
pub fn inspected(status: u16, body: &[u8]) -> Result<Inspect, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        id: String,
        state: State,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct State {
        status: String,
        pid: i64,
        exit_code: i64,
        #[serde(rename = "OOMKilled", default)]
        is_out_of_memory: bool,
        #[serde(default, deserialize_with = "or_default")]
        error: String,
    }
    expect(INSPECT, status, &[200], body)?;
    let document: Value = decode(INSPECT, body)?;
    let Body { id: text, state } =
        Body::deserialize(&document).map_err(|error| garbage(INSPECT, line(&error.to_string())))?;
    let status = match state.status.as_str() {
        "created" | "configured" | "initialized" => Status::Created,
        "running" => Status::Running,
        "paused" => Status::Paused,
        "exited" | "dead" | "removing" | "restarting" | "stopped" | "stopping" => Status::Ended,
        other => return Err(garbage(INSPECT, format!("State.Status is {:?}", line(other)))),
    };
    let lives = matches!(status, Status::Running | Status::Paused);
    let pid = match u32::try_from(state.pid) {
        // The kernel's numbers are positive as an i32; 1 is the host's own first process, never a container's.
        Ok(pid) if lives && pid > 1 && i32::try_from(pid).is_ok() => Some(pid),
        Ok(_) if !lives => None,
        _ => return Err(garbage(INSPECT, format!("State.Pid is {} in state {:?}", state.pid, line(&state.status)))),
    };
    let exit_code = i32::try_from(state.exit_code)
        .map_err(|_| garbage(INSPECT, format!("State.ExitCode is {}", state.exit_code)))?;
    Ok(Inspect {
        id: checked_id(INSPECT, text)?,
        is_running: lives,
        status,
        pid,
        exit_code,
        is_out_of_memory: state.is_out_of_memory,
        error: line(&state.error),
        document,
    })
}

// ---- Update ----

/// Asks for other limits while it runs: memory in bytes, processor time in thousandths of a core.
///
/// Podman 4.3 has no such call on its compatible socket, and one in its own API, which later ones have as well.
pub fn update(engine: EngineKind, id: &str, memory_bytes: u64, cpu_millis: u32) -> Request {
    let path = of(id, "/update");
    match engine {
        EngineKind::Docker => call(Method::Post, path, Some(&Value::Object(limit_members(memory_bytes, cpu_millis)))),
        EngineKind::Podman => {
            let request =
                call(Method::Post, format!("{LIBPOD}{path}"), Some(&limit_resources(memory_bytes, cpu_millis)));
            Request { is_versioned: false, ..request }
        }
    }
}

/// Whether new limits hold.
///
/// # Errors
/// When the engine or the kernel refused them (memory below what is in use, for instance), the engine has no such call
/// (Podman before 4.3), or it warns that it did less than it was asked to.
pub fn updated(engine: EngineKind, status: u16, body: &[u8]) -> Result<(), EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        #[serde(default, deserialize_with = "or_default")]
        warnings: Vec<String>,
    }
    if engine == EngineKind::Podman {
        // It says which container it was.
        return expect(UPDATE, status, &[201], body);
    }
    expect(UPDATE, status, &[200], body)?;
    let body: Body = decode(UPDATE, body)?;
    match body.warnings.first() {
        None => Ok(()),
        Some(warning) => {
            let (what, field) = (UPDATE.to_owned(), "Warnings".to_owned());
            Err(EngineError::Unexpected { what, field, found: line(warning) })
        }
    }
}

// ---- The end ----

/// Waits, for at most so long, until it does not run. The engine answers the head at once and the rest at the end, so
/// this call holds a connection meanwhile.
pub fn wait(id: &str, timeout: Duration) -> Request {
    Request { timeout, ..call(Method::Post, of(id, "/wait?condition=not-running"), None) }
}

/// The status with which it ended.
///
/// # Errors
/// When there is no such container, or it cannot be waited for.
pub fn waited(status: u16, body: &[u8]) -> Result<i32, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        status_code: i64,
        #[serde(default)]
        error: Option<Failure>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Failure {
        #[serde(default)]
        message: String,
    }
    expect(WAIT, status, &[200], body)?;
    let body: Body = decode(WAIT, body)?;
    match body.error.filter(|error| !error.message.is_empty()) {
        Some(error) => Err(EngineError::Refused { what: WAIT.to_owned(), status, message: line(&error.message) }),
        None => {
            i32::try_from(body.status_code).map_err(|_| garbage(WAIT, format!("StatusCode is {}", body.status_code)))
        }
    }
}

/// Sends SIGKILL to its first process, with which all others end.
pub fn kill(id: &str) -> Request {
    call(Method::Post, of(id, "/kill?signal=SIGKILL"), None)
}

/// Whether it does not run, or will not soon. One that is gone does not.
///
/// # Errors
/// When it may still run.
pub fn killed(status: u16, body: &[u8]) -> Result<(), EngineError> {
    #[derive(Deserialize)]
    struct Body {
        cause: String,
    }
    // 409: it does not run. Podman 4.3 says so with a cause, behind a 500.
    let is_not_running = |body: Body| body.cause == "container state improper";
    if status == 500 && serde_json::from_slice(body).is_ok_and(is_not_running) {
        return Ok(());
    }
    expect(KILL, status, &[200, 204, 404, 409], body)
}

/// Removes it with its anonymous volumes, whether it runs or not.
pub fn remove(id: &str) -> Request {
    call(Method::Delete, of(id, "?force=1&v=1"), None)
}

/// Whether it is gone, by this or before.
///
/// # Errors
/// When it may still be there, also when it is being removed already (409).
pub fn removed(status: u16, body: &[u8]) -> Result<(), EngineError> {
    // Podman answers 200 and a list.
    expect(REMOVE, status, &[200, 204, 404], body)
}

// ---- List ----

/// Asks for every container of this server, running or not, on both sides.
pub fn list(server: &str) -> Request {
    let labels = [format!("{LABEL_MANAGED}=1"), format!("{LABEL_SERVER}={server}")];
    let path = format!("/containers/json?all=1&{}", filters(&json!({ "label": labels })));
    let reply = ReplyKind::Whole { bytes_max: limits::ENGINE_LIST_BYTES_MAX };
    Request { reply, ..call(Method::Get, path, None) }
}

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id: 64 hex digits.
    pub id: String,
    /// What it was made as.
    pub name: String,
    /// Which side of a takeover made it.
    pub side: u32,
    /// Whether it runs.
    pub is_running: bool,
}

/// Reads the answer to [`list`]. Only containers that really have the labels of this server are in it, whatever the engine
/// made of the filter: what is done with them cannot be undone.
///
/// # Errors
/// When it is no list.
pub fn listed(server: &str, status: u16, body: &[u8]) -> Result<Vec<Listed>, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        id: String,
        #[serde(default, deserialize_with = "or_default")]
        names: Vec<String>,
        #[serde(default, deserialize_with = "or_default")]
        labels: BTreeMap<String, String>,
        #[serde(default, deserialize_with = "or_default")]
        state: String,
    }
    expect(LIST, status, &[200], body)?;
    let bodies: Vec<Body> = decode(LIST, body)?;
    let mut listed = Vec::new();
    for body in bodies {
        let label = |name: &str| body.labels.get(name).map(String::as_str);
        let is_ours = label(LABEL_MANAGED) == Some("1") && label(LABEL_SERVER) == Some(server);
        let Some(side) = label(LABEL_SIDE).filter(|_| is_ours).and_then(|side| side.parse().ok()) else { continue };
        // Docker writes a slash before a name.
        let name = body.names.first().map(|name| line(name.trim_start_matches('/'))).unwrap_or_default();
        listed.push(Listed { id: checked_id(LIST, body.id)?, name, side, is_running: body.state == "running" });
    }
    Ok(listed)
}

fn checked_id(what: &str, id: String) -> Result<String, EngineError> {
    match is_container_id(&id) {
        true => Ok(id),
        false => Err(garbage(what, format!("{:?} is no container's id", line(&id)))),
    }
}
