//! SIGUSR2: the server starts its own program again, with the same arguments and `--takeover`.
//!
//! Under a service manager a new process must come from the one that is managed, to be in its control group. The path is
//! that from which this process was started, so that a binary that was put there since is the one that runs.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use crate::cli::TAKEOVER;

/// How this process was started.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Launcher {
    /// Notes it, before the file may be replaced.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub fn capture() -> io::Result<Launcher> {
        let program = std::env::current_exe()?;
        let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument == TAKEOVER) {
            arguments.insert(0, TAKEOVER.into());
        }
        Ok(Launcher { program, arguments })
    }

    /// Starts a successor, on a thread that waits for it. What fails is logged and changes nothing.
    pub fn launch(&self) {
        let Launcher { program, arguments } = self.clone();
        log::info!("starting {} to take over", program.display());
        let run = move || {
            // Whatever watches over this process by its number means this one.
            let mut command = Command::new(&program);
            let ended = command.args(arguments).env_remove("WATCHDOG_PID").spawn().and_then(|mut child| child.wait());
            match ended {
                // One that serves outlives this process, or is stopped before it.
                Ok(status) if status.success() => {}
                Ok(status) => log::error!("{} did not take over: {status}", program.display()),
                Err(error) => log::error!("{} cannot be started to take over: {error}", program.display()),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("faas-upgrade".to_owned()).spawn(run) {
            log::error!("no thread can be had to start a successor: {error}");
        }
    }
}
