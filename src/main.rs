//! The `faas` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(command) if command == faas::sandbox::RUN_PLAN_COMMAND => faas::sandbox::run_plan_main(),
        _ => ExitCode::FAILURE,
    }
}
