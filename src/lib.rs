//! faas: one binary that turns a Linux machine into a Lambda. Python functions are posted over HTTP and run in sandboxes.
//!
//! A call comes in through [`http`], a pure HTTP/1.1 state machine that [`front`], the one thread that owns all sockets,
//! feeds with bytes. [`auth`] says who calls. The [`scheduler`], pure as well, says where the call runs: in an idle
//! instance, in the pipe of a busy one, in a blank, or not yet. A [`worker`] thread sends it to the instance in the
//! frames of [`wire`] and brings back the answer; front and workers share nothing but what is in [`call`], over the
//! queues of [`doorbell`].
//!
//! Instances come from a [`backend`]. That of processes keeps a Python zygote for each interpreter, which forks blanks
//! that carry out a plan made by [`sandbox`], step by step, in [`sys`], the only module with `unsafe`. That of containers
//! ([`backend::docker`]) orders blanks from a container engine, over its Unix socket, and reads back what it was given.
//! The Python half of both is carried in the binary ([`shim`]).
//!
//! What may wait for a disk, a sandbox or an image is done by the threads of [`control`]: deploying functions into the
//! [`registry`], which is durable, and reading [`logs`], which functions write. [`metrics`] counts.
//!
//! [`server`] starts all that in its order, from the [`config`] that `main` read after [`cli`] had read the arguments.
//! Values from outside are read through [`values`], and every cap, timeout and size has its name in [`limits`].
//!
//! A server that runs can be replaced by another process without losing a request: [`takeover`] is what the two say to
//! each other, [`upgrade`] how the one starts the other.
//!
//! ARCHITECTURE.md has the way of a request in names, the processes, the frames, and the reasons.

pub mod auth;
pub mod backend;
pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod doorbell;
pub mod egress;
pub mod front;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod registry;
pub mod reload;
pub mod rfc3339;
pub mod sandbox;
pub mod scheduler;
pub mod server;
pub mod server_log;
pub mod shim;
pub mod sys;
pub mod system_check;
pub mod systemd;
pub mod takeover;
pub mod upgrade;
pub mod values;
mod vital;
pub mod watchdog;
pub mod wire;
pub mod worker;
