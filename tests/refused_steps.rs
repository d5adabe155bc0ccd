//! A host that refuses a step of the sandbox later than at the start: the call's error, `/health` and the log name it.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::process::Command;

use common::functions::sandboxed;
use common::{eventually, prepared, Server};
use nix::sys::signal::Signal;
use serde_json::json;

/// Becomes the program behind its first two arguments, for which the kernel then refuses the system call of that number
/// with EPERM; with a second number only if its first argument has one of those bits.
const REFUSE: &str = "
import ctypes, os, struct, sys
call, bits, *command = sys.argv[1:]
LOAD, EQUAL, ANY, RETURN = 0x20, 0x15, 0x45, 0x06
check = [(LOAD, 0, 0, 16), (ANY, 0, 1, int(bits))] if int(bits) else []
program = [(LOAD, 0, 0, 0), (EQUAL, 0, 1 + len(check), int(call)), *check]
program += [(RETURN, 0, 0, 0x00050001), (RETURN, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *step) for step in program))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 2, ctypes.byref(Program(len(program), ctypes.addressof(code)))):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(command[0], command)
";

/// The same server again, on such a kernel.
fn refusing(server: Server, system_call: i64, bits: i32) -> Server {
    let (home, _) = server.end(Signal::SIGTERM);
    let mut command = Command::new("python3");
    let numbers = [system_call.to_string(), bits.to_string()];
    command.args(["-I", "-c", REFUSE]).args(numbers).arg(env!("CARGO_BIN_EXE_faas"));
    let command = prepared(&home, command);
    Server::launch(home, command)
}

fn is_named(system_call: i64, step: &str) {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", "def handle(request):\n    return 'well'", json!({}));
    let server = refusing(server, system_call, 0);

    let reply = server.invoke("f", "");
    assert_eq!((reply.status, reply.code().as_str()), (503, "no_instances"), "{}", reply.text());
    assert!(reply.detail().ends_with(&format!("a step of the sandbox, {step}")), "{}", reply.text());
    let health = eventually("it is known to be unwell", || {
        let reply = server.get("/health");
        (reply.status == 503).then(|| reply.json())
    });
    assert_eq!(health["modes"]["process"]["status"], "unavailable", "{health}");
    assert!(health["modes"]["process"]["detail"].as_str().unwrap().contains(step), "{health}");
    let ready = server.get("/readyz");
    assert_eq!((ready.status, &ready.json()["reasons"]), (503, &json!(["no_sandboxes"])));
    assert_eq!(server.get("/livez").status, 200);
    eventually("the log names it", || {
        let named = |line: &str| line.contains("[ERROR]") && line.contains(&format!("{step}: Operation not permitted"));
        server.home.log().lines().any(named).then_some(())
    });
}

#[test]
fn a_step_that_an_instance_is_refused_is_named() {
    is_named(libc::SYS_sethostname, "sethostname");
}

#[test]
fn a_step_that_is_refused_before_the_instance_is_made_is_named() {
    is_named(libc::SYS_setns, "join network namespace");
}

#[test]
fn a_step_that_the_zygote_is_refused_is_named() {
    is_named(libc::SYS_pivot_root, "pivot_root");
}

#[test]
fn without_network_namespaces_functions_run_at_standard_in_the_hosts() {
    let Some(server) = sandboxed("process_isolation_level: standard\n", "") else { return };
    server.deploy("f", "import os\ndef handle(request):\n    return os.readlink('/proc/self/ns/net')", json!({}));
    let of_the_host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(server.answer("f", ""), of_the_host.to_str().unwrap());
    let server = refusing(server, libc::SYS_unshare, libc::CLONE_NEWNET);
    assert_eq!(server.answer("f", ""), of_the_host.to_str().unwrap());
    let missing = server.get("/health").json()["modes"]["process"]["missing"].clone();
    assert!(missing.as_array().unwrap().contains(&json!("network_namespace")), "{missing}");
}

/// It could be made at the start. That it cannot now must not put a function into the host's.
#[test]
fn a_namespace_that_is_refused_later_is_not_done_without_at_standard() {
    let Some(server) = sandboxed("process_isolation_level: standard\n", "") else { return };
    server.deploy("f", "def handle(request):\n    return 'well'", json!({}));
    // Joining is not tried at the start.
    let server = refusing(server, libc::SYS_setns, 0);
    let reply = server.invoke("f", "");
    assert_eq!((reply.status, reply.code().as_str()), (503, "no_instances"), "{}", reply.text());
    assert!(reply.detail().ends_with("join network namespace"), "{}", reply.text());
}
