//! What stands between a function and the host. [`layer`] names the walls; [`plan`] says what is done, in which order; [`tree`] which files are
//! shown; [`runtime`] which Python runs; [`seccomp`] which system calls are let through; [`cgroup`] how much is to be
//! had; [`host`] which of all that this machine can give. `sys::executor` does it.

pub mod cgroup;
pub mod description;
pub mod host;
pub mod layer;
pub mod plan;
pub mod runtime;
pub mod seccomp;
pub mod tree;

use std::io::{self, Read};
use std::process::ExitCode;

use crate::sys::executor;

/// The hidden subcommand of the server's binary under which [`run_plan_main`] runs.
pub const RUN_PLAN_COMMAND: &str = "__run-plan";

/// The whole of `faas __run-plan`: reads an encoded plan from standard input to its end, and runs it. A plan ends with
/// `Exec`, so this returns only to say what failed: in words on standard error, and by step and errno to `report`.
///
/// The server starts this program for it, instead of forking, because between a fork and an exec a program with
/// threads may do next to nothing; this one has a single thread.
pub fn run_plan_main(report: impl FnOnce(u16, i32)) -> ExitCode {
    let mut plan = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut plan) {
        eprintln!("faas: cannot read the sandbox plan from standard input: {error}");
        return ExitCode::FAILURE;
    }
    match executor::run(&plan) {
        Ok(()) => eprintln!("faas: the sandbox plan ended without becoming another program"),
        Err(failure) => {
            let name = executor::step_name(&plan, failure.step);
            let error = io::Error::from_raw_os_error(failure.errno);
            eprintln!("faas: sandbox step {} ({name}) failed: {error}", failure.step);
            report(failure.step, failure.errno);
        }
    }
    ExitCode::FAILURE
}
