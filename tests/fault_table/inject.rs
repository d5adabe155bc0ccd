//! System calls that fail in a process that runs, as long as a test wants them to: strace attaches to one thread and puts
//! an error in the place of what the kernel would have done.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::common::host::status;
use super::common::{eventually, skip, Server};

/// Whether there is an strace; says so if not.
pub(crate) fn can_inject() -> bool {
    let there = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !there {
        skip("system calls are made to fail by strace, which is not installed");
    }
    there
}

/// Calls that fail until this is dropped.
pub(crate) struct Injection(Child);

impl Injection {
    /// Lets these system calls (names with commas) of a thread fail with this error. Its children are left alone.
    pub(crate) fn into(thread: u32, calls: &str, error: &str) -> Injection {
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", "signal=none"]);
        command.args(["-e", &format!("inject={calls}:error={error}"), "-p", &thread.to_string()]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let injection = Injection(child);
        eventually("strace is attached", || {
            let tracer = status(thread).remove("TracerPid")?;
            (tracer == injection.0.id().to_string()).then_some(())
        });
        injection
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // It detaches, and what it was attached to goes on.
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// The thread of a server that has this name.
pub(crate) fn thread_of(server: &Server, name: &str) -> u32 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
    let named = |path: std::path::PathBuf| {
        let comm = std::fs::read_to_string(path.join("comm")).ok()?;
        (comm.trim() == name).then(|| path.file_name()?.to_str()?.parse().ok()).flatten()
    };
    threads.filter_map(|thread| named(thread.path())).next().unwrap_or_else(|| panic!("a thread {name}"))
}
