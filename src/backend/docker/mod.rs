//! The container backend: functions in Docker or Podman containers, made through the engine's HTTP API on its Unix socket.
//!
//! [`supervisor`] is the thread that makes containers and removes them; `life` is one of them as a state machine,
//! `custody` what its worker holds of it, `launch` how its process gets its channel. [`images`] is what a deployment asks
//! of that thread, [`health`] what others may know of the engine.
//!
//! [`api`] says what the engine is asked and reads what it answers; [`hardening`] and [`profile`] say what a container is
//! made of, and whether the engine did so. [`http`] is the protocol, pure; [`client`] speaks it over the socket, on
//! somebody else's poll; [`engine_error`] says what went wrong with an engine.

pub mod api;
pub mod client;
mod custody;
pub mod engine_error;
pub mod files;
pub mod hardening;
pub mod health;
pub mod http;
pub mod images;
pub mod job;
pub mod launch;
mod life;
pub mod probe;
pub mod profile;
pub mod profiles;
pub mod supervisor;

pub use engine_error::EngineError;
