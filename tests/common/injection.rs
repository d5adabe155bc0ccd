//! System calls of a running server that fail on purpose: `strace` attached to some of its threads.
//!
//! The kernel runs everything as ever; strace only puts an error in the place of a call. It counts the calls of each
//! thread for itself, from the moment it attached.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::host::status;
use super::{eventually, skip, Home, Server};

/// Which system calls fail, and how. [`Fault::of`] is the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Names of system calls, with commas between them; each is counted for itself.
    pub calls: &'static str,
    /// The name of the error.
    pub errno: &'static str,
    /// The first call of a thread that fails, counted from 1.
    pub first: usize,
    /// Whether all that follow fail too.
    pub lasting: bool,
}

impl Fault {
    /// All calls fail.
    pub fn of(calls: &'static str, errno: &'static str) -> Fault {
        Fault { calls, errno, first: 1, lasting: true }
    }

    /// As strace wants it.
    fn expression(&self) -> String {
        let Fault { calls, errno, first, lasting } = self;
        format!("--inject={calls}:error={errno}:when={first}{}", if *lasting { "+" } else { "" })
    }
}

/// Faults that are under way, until this is dropped or ended.
pub struct Injection {
    strace: Child,
    trace: tempfile::NamedTempFile,
}

/// Whether strace is there and may attach; says so if not.
pub fn can_inject() -> bool {
    let is_there = Command::new("strace").arg("--version").stdout(Stdio::null()).status().is_ok_and(|it| it.success());
    if !is_there {
        skip("strace is not installed (.ci/install.sh installs it on Debian)");
    }
    is_there
}

impl Injection {
    /// Lets calls of these threads fail, from now on. Their children are left alone.
    pub fn into(threads: &[u32], faults: &[Fault]) -> Injection {
        assert!(!threads.is_empty(), "no threads");
        let trace = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("strace");
        command.args(["--quiet=all", "--signal=none", "--output"]).arg(trace.path()).args(expressions(faults));
        command.args(threads.iter().map(|thread| format!("--attach={thread}")));
        let strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let injection = Injection { strace, trace };
        eventually("strace holds every thread", || {
            let tracer = injection.strace.id().to_string();
            threads.iter().all(|&thread| status(thread).get("TracerPid") == Some(&tracer)).then_some(())
        });
        injection
    }

    /// Lets the calls succeed again, and says how many have failed.
    pub fn end(self) -> usize {
        failed_in(&self.trace())
    }

    /// Lets the calls succeed again, and gives all of them, one on a line.
    pub fn trace(mut self) -> String {
        self.detach();
        std::fs::read_to_string(self.trace.path()).unwrap()
    }

    fn detach(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGTERM);
            let _ = self.strace.wait();
        }
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        self.detach();
    }
}

/// How many of the calls that strace wrote down were made to fail.
fn failed_in(trace: &str) -> usize {
    trace.lines().filter(|line| line.ends_with("(INJECTED)")).count()
}

/// How many calls have failed in a server that [`faulty_start`] began on this directory.
pub fn failed_at_start(home: &Home) -> usize {
    failed_in(&std::fs::read_to_string(home.path().join("strace")).unwrap())
}

/// A command that starts a server on this directory and lets calls of its threads fail from the start.
///
/// The server is the child all the same, with its own pid: strace watches from behind.
pub fn faulty_start(home: &Home, faults: &[Fault]) -> Command {
    let mut command = Command::new("strace");
    command.args(["--daemonize", "--quiet=all", "--follow-forks", "--output"]).arg(home.path().join("strace"));
    command.args(expressions(faults)).arg(env!("CARGO_BIN_EXE_faas"));
    super::prepared(home, command)
}

/// The arguments that say which calls are watched, and which of them fail.
fn expressions(faults: &[Fault]) -> Vec<String> {
    let calls: Vec<_> = faults.iter().map(|fault| fault.calls).collect();
    let mut arguments = vec![format!("--trace={}", calls.join(","))];
    arguments.extend(faults.iter().map(Fault::expression));
    arguments
}

/// The threads of a server whose names begin so.
pub fn threads_of(server: &Server, names: &str) -> Vec<u32> {
    let pid = server.pid();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let ids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    ids.filter(|thread| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).unwrap_or_default();
        name.starts_with(names)
    })
    .collect()
}
