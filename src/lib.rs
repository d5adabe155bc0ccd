//! faas: one binary that turns a Linux machine into a Lambda. ARCHITECTURE.md has the way of a request.

pub mod auth;
pub mod backend;
pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod doorbell;
pub mod front;
pub mod http;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod registry;
pub mod rfc3339;
pub mod sandbox;
pub mod scheduler;
pub mod server;
pub mod server_log;
pub mod shim;
pub mod sys;
pub mod system_check;
pub mod values;
mod vital;
pub mod wire;
pub mod worker;
