//! The container backend: functions in Docker or Podman containers, made through the engine's HTTP API on its Unix socket.
//!
//! [`supervisor`] is the thread that makes containers and removes them, for whoever sends it a [`job`]; `life` is one of
//! them until it is delivered, as a state machine; `custody` what its worker holds of it; [`launch`] how its process gets
//! its channel; [`files`] what of the host's is mounted into it; `heir` what ends it when the server has died.
//! [`images`] is what a deployment asks of that thread, [`registry_auth`] what a registry is told, [`health`] what others
//! may know of the engine, [`probe`] one question to an engine without that thread.
//!
//! [`api`] says what the engine is asked and reads what it answers; [`hardening`] says what a container is made of, and
//! whether the engine did so; [`profile`] is the list of its system calls, [`profiles`] the same in the form in which each
//! engine takes it. [`http`] is the protocol, pure; [`client`] speaks it over the socket, on somebody else's poll;
//! [`engine_error`] says what went wrong with an engine.

pub mod api;
pub mod client;
mod custody;
pub mod engine_error;
pub mod files;
pub mod hardening;
pub mod health;
mod heir;
pub mod http;
pub mod images;
pub mod job;
pub mod launch;
mod life;
pub mod probe;
pub mod profile;
pub mod profiles;
pub mod registry_auth;
pub mod supervisor;

pub use engine_error::EngineError;
pub use heir::{heir_main, HEIR_COMMAND};
