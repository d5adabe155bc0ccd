//! What happens to containers, as the engine tells it.

use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

use super::lines::Lines;
use super::system::EngineKind;
use super::{call, decode, filters, garbage, is_container_id, line, EngineError, Method, ReplyKind, Request};

const WHAT: &str = "GET /events";

/// Asks to be told of the ends of containers that have all these labels, for ever. Docker begins with the last that it
/// keeps of them, 256 of all its events: it begins to listen only after it has answered, and what befell between one
/// stream and the next would be told to nobody. So the same can be told twice. Podman reads all that it ever wrote down
/// when it is asked for the past, and is asked for what comes alone.
pub fn subscribe(engine: EngineKind, labels: &[(String, String)]) -> Request {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    // `died` is Podman's word for `die`, `remove` its word for `destroy`; Docker takes any.
    let events = ["start", "oom", "die", "died", "destroy", "remove"];
    let wanted = json!({ "type": ["container"], "label": labels, "event": events });
    let past = if engine == EngineKind::Docker { "&since=1" } else { "" };
    let path = format!("/events?{}{past}", filters(&wanted));
    Request { reply: ReplyKind::Stream, ..call(Method::Get, path, None) }
}

/// What befell a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// It runs.
    Started,
    /// A process of it was killed because its memory had run out.
    OutOfMemory,
    /// Its first process has ended, with this status if the engine says one.
    Died {
        /// 128 and the signal, if it was one.
        status: Option<i32>,
    },
    /// It is gone.
    Removed,
    /// Anything else, by the engine's name for it.
    Other(String),
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose: its id.
    pub container: String,
    /// What.
    pub happening: Happening,
    /// The container's labels, and what the engine adds to them.
    pub attributes: BTreeMap<String, String>,
}

/// Reads the stream of events.
#[derive(Debug)]
pub struct Events(Lines);

impl Default for Events {
    fn default() -> Self {
        Events(Lines::new(WHAT))
    }
}

impl Events {
    /// The events that are complete with these bytes. One that cannot be read says why, and costs no other.
    ///
    /// # Errors
    /// When something is too long for an event. The stream is then of no more use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Result<Event, EngineError>>, EngineError> {
        Ok(self.0.push(bytes)?.iter().map(|line| read(line)).collect())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    action: String,
    actor: Actor,
}

#[derive(Deserialize)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes", default, deserialize_with = "super::or_default")]
    attributes: BTreeMap<String, String>,
}

fn read(text: &[u8]) -> Result<Event, EngineError> {
    let Body { action, actor: Actor { id, attributes } } = decode(WHAT, text)?;
    if !is_container_id(&id) {
        return Err(garbage(WHAT, format!("{:?} is no container's id", line(&id))));
    }
    let happening = match action.as_str() {
        "start" => Happening::Started,
        "oom" => Happening::OutOfMemory,
        "die" | "died" => {
            let status = attributes.get("exitCode").or_else(|| attributes.get("containerExitCode"));
            Happening::Died { status: status.and_then(|status| status.parse().ok()) }
        }
        "destroy" | "remove" => Happening::Removed,
        other => Happening::Other(line(other)),
    };
    Ok(Event { container: id, happening, attributes })
}
