//! `execution_mode: container`, over the API and from the engine's side: what a function in a container is and is not
//! (`inside`), where its image comes from (`images`), how its container comes and goes (`life`), and what an engine that
//! fails costs (`engine`). What functions see in either mode is asserted by the tests of functions, which
//! `make test-containers` runs in this one.
//!
//! Everything here is on an engine of the tests' own. Those that break an engine have one for themselves, or a door
//! between it and the server (`door.rs`).
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;
#[path = "containers/door.rs"]
mod door;
#[path = "containers/engine.rs"]
mod engine;
#[path = "containers/images.rs"]
mod images;
#[path = "containers/inside.rs"]
mod inside;
#[path = "containers/life.rs"]
mod life;
#[path = "containers/registry.rs"]
mod registry;
#[path = "containers/scene.rs"]
mod scene;
