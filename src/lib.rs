//! faas: one binary that turns a Linux machine into a Lambda. ARCHITECTURE.md has the way of a request.

pub mod backend;
pub mod call;
pub mod config;
pub mod control;
pub mod front;
pub mod http;
pub mod limits;
pub mod registry;
pub mod sandbox;
pub mod scheduler;
pub mod shim;
pub mod sys;
pub mod wire;
pub mod worker;
