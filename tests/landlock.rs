//! Landlock as a wall of its own. What it forbids is forbidden by other layers too, so these are left out here, and once
//! Landlock as well, to see that it was what held.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use common::{is_root, skip, Server};
use faas::sandbox::host::LANDLOCK_VERSION_MIN;
use faas::sys::probe::landlock_abi;
use serde_json::json;

const CODE: &str = r##"
import errno, os, socket

def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def connect(family, address):
    with socket.socket(family) as client:
        client.connect(address)

def handle(request):
    asked = request.get_json()
    os.makedirs("/tmp/a/b", exist_ok=True)
    open("/tmp/a/file", "w").close()
    return {
        "tcp": attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", asked["port"]))),
        "abstract": attempt(lambda: connect(socket.AF_UNIX, "\0" + asked["name"])),
        "signal": attempt(lambda: os.kill(asked["pid"], 0)),
        "rename": attempt(lambda: os.rename("/tmp/a/file", "/tmp/a/b/file")),
        "own socket": attempt(lambda: own_socket()),
        "device": attempt(lambda: open("/dev/null", "w").close()),
        "program": attempt(lambda: program()),
    }

def own_socket():
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0own-%d" % os.getpid())
        server.listen()
        connect(socket.AF_UNIX, server.getsockname())

def program():
    with open("/tmp/program", "w") as file:
        file.write("#!/nonexistent\n")
    os.chmod("/tmp/program", 0o755)
    os.execv("/tmp/program", ["program"])
"##;

/// What the function meets on a server that runs without these layers, with `host` in sight.
fn met(without: &str, port: u16, name: &str) -> serde_json::Value {
    let server = Server::with(&format!("process_isolation_level: none\nsandbox_without: {without}\npool_size: 1"), "");
    server.run("tries", CODE, &json!({ "port": port, "name": name, "pid": server.pid() }).to_string())
}

#[test]
fn landlock_alone_keeps_a_function_from_the_hosts_sockets_and_processes() {
    let version = landlock_abi().unwrap_or(0);
    if !is_root() || version < LANDLOCK_VERSION_MIN {
        return skip("needs root and a kernel with Landlock");
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("faas-test-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let port = tcp.local_addr().unwrap().port();

    let bare = met("[network_namespace, pid_namespace, identity, user_namespace, capabilities, landlock]", port, &name);
    let reached = ["tcp", "abstract", "signal"].map(|what| bare[what].as_str().unwrap().to_owned());
    assert_eq!(reached, ["done"; 3], "without any wall the host is in reach: {bare}");

    let walled = met("[network_namespace, pid_namespace, identity, user_namespace, capabilities]", port, &name);
    if version >= 4 {
        assert_eq!(walled["tcp"], "EACCES", "{walled}");
    }
    if version >= 6 {
        assert_eq!((&walled["abstract"], &walled["signal"]), (&json!("EPERM"), &json!("EPERM")), "{walled}");
    }
    // And what a function may do it still can.
    for own in ["rename", "own socket", "device"] {
        assert_eq!(walled[own], "done", "{own}: {walled}");
    }
    assert_eq!(walled["program"], "EACCES");
}
