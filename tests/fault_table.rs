//! The table of faults: each row is an accident that befalls a real server under load, what it may cost, and the figure
//! that was measured. `cargo test` runs all rows in a small size, in which what may be lost is as strict and times are
//! slackened for a debug build on a busy machine; `make test-faults` runs them in full against a release build and prints
//! the table.
//!
//! A row is a test in a file below `fault_table/`. `table.rs` says how a row is written down, `load.rs` makes the load and
//! accounts for every request, `scene.rs` has what several rows begin with. Rows take turns, since each measures the
//! machine.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

#[path = "fault_table/account.rs"]
mod account;
#[path = "fault_table/broken_file.rs"]
mod broken_file;
#[path = "fault_table/changes.rs"]
mod changes;
mod common;
#[path = "fault_table/contained.rs"]
mod contained;
#[path = "fault_table/containers.rs"]
mod containers;
#[path = "fault_table/damage.rs"]
mod damage;
#[path = "fault_table/disk.rs"]
mod disk;
#[path = "fault_table/disk_elsewhere.rs"]
mod disk_elsewhere;
#[allow(dead_code)] // rows use some of its manners
#[path = "containers/door.rs"]
mod door;
#[path = "fault_table/engine.rs"]
mod engine;
#[path = "fault_table/instances.rs"]
mod instances;
#[path = "fault_table/load.rs"]
mod load;
#[path = "fault_table/overload.rs"]
mod overload;
#[path = "fault_table/scarce.rs"]
mod scarce;
#[path = "fault_table/scene.rs"]
mod scene;
#[path = "fault_table/server.rs"]
mod server;
#[path = "fault_table/slow.rs"]
mod slow;
#[path = "fault_table/slow_clients.rs"]
mod slow_clients;
#[path = "fault_table/soak.rs"]
mod soak;
#[path = "fault_table/stopped.rs"]
mod stopped;
#[path = "fault_table/table.rs"]
mod table;
#[path = "fault_table/zygote.rs"]
mod zygote;
