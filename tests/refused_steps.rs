//! A host that refuses a step of the sandbox later than at the start: the call's error, `/health` and the log name it.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::process::Command;

use common::functions::sandboxed;
use common::{eventually, prepared, Server};
use nix::sys::signal::Signal;
use serde_json::json;

/// Becomes the program behind its arguments, for which the kernel then refuses this system call with EPERM; with a
/// second number, only when that is its first argument.
const REFUSE: &str = "
import ctypes, os, struct, sys
call, argument, *command = sys.argv[1:]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
REFUSED, ALLOWED = (RETURN, 0, 0, 0x00050001), (RETURN, 0, 0, 0x7FFF0000)
if argument == 'any':
    program = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, int(call)), REFUSED, ALLOWED]
else:
    program = [(LOAD, 0, 0, 0), (EQUAL, 0, 3, int(call)), (LOAD, 0, 0, 16), (EQUAL, 0, 1, int(argument)), REFUSED, ALLOWED]
code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *step) for step in program))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 2, ctypes.byref(Program(len(program), ctypes.addressof(code)))):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(command[0], command)
";

/// Every namespace of an instance but that of users, as one call asks for them at level `strict`.
const NAMESPACES: u32 = 0x2_0000 | 0x200_0000 | 0x400_0000 | 0x800_0000 | 0x2000_0000 | 0x4000_0000;

fn is_named(system_call: i64, argument: &str, step: &str) {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", "def handle(request):\n    return 'well'", json!({}));
    let (home, _) = server.end(Signal::SIGTERM);
    let mut command = Command::new("python3");
    command.args(["-I", "-c", REFUSE, &system_call.to_string(), argument, env!("CARGO_BIN_EXE_faas")]);
    let command = prepared(&home, command);
    let server = Server::launch(home, command);

    let reply = server.invoke("f", "");
    assert_eq!((reply.status, reply.code().as_str()), (503, "no_instances"), "{}", reply.text());
    assert!(reply.detail().ends_with(&format!("a step of the sandbox, {step}")), "{}", reply.text());
    let health = eventually("it is known to be unwell", || {
        let reply = server.get("/health");
        (reply.status == 503).then(|| reply.json())
    });
    assert_eq!(health["modes"]["process"]["status"], "unavailable", "{health}");
    assert!(health["modes"]["process"]["detail"].as_str().unwrap().contains(step), "{health}");
    eventually("the log names it", || {
        let named = |line: &str| line.contains("[ERROR]") && line.contains(&format!("{step}: Operation not permitted"));
        server.home.log().lines().any(named).then_some(())
    });
}

#[test]
fn a_step_that_an_instance_is_refused_is_named() {
    is_named(libc::SYS_sethostname, "any", "sethostname");
}

#[test]
fn a_step_that_is_refused_before_the_instance_is_made_is_named() {
    is_named(libc::SYS_unshare, &NAMESPACES.to_string(), "new namespaces");
}

#[test]
fn a_step_that_the_zygote_is_refused_is_named() {
    is_named(libc::SYS_pivot_root, "any", "pivot_root");
}
