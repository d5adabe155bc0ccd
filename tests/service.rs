//! The unit file for systemd: that systemd understands it, that its times go with the server's, and that functions run
//! in all their layers with what it leaves the server of root's powers and of the file system.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::engine::Engine;
use common::{is_root, prepared, skip, Home, Server};
use faas::limits::{SHUTDOWN_GRACE_DEFAULT, WATCHDOG_TIMEOUT};
use nix::sys::signal::Signal;
use serde_json::json;

fn unit() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/faas.service")).unwrap()
}

/// The value of a key that is there once.
fn value(key: &str) -> String {
    let text = unit();
    let values: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect();
    assert_eq!(values.len(), 1, "{key}");
    values[0].to_owned()
}

fn seconds(key: &str) -> Duration {
    Duration::from_secs(value(key).trim_end_matches('s').parse().unwrap())
}

#[test]
fn systemd_understands_the_unit_file() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("systemd-analyze is not installed");
    }
    let home = Home::new();
    // It looks whether the program is there, which is not where it will be installed.
    let text = unit().replace("/usr/local/bin/faas", env!("CARGO_BIN_EXE_faas"));
    let path = home.path().join("faas.service");
    std::fs::write(&path, text).unwrap();
    let said = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    let complaints = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success() && complaints.is_empty(), "{complaints}");
}

#[test]
fn the_times_of_the_unit_file_leave_the_server_its_own() {
    assert!(seconds("TimeoutStopSec") >= SHUTDOWN_GRACE_DEFAULT + Duration::from_secs(10));
    assert!(seconds("WatchdogSec") >= 2 * WATCHDOG_TIMEOUT);
    assert_eq!(value("Type"), "notify");
    assert_eq!(value("ExecReload"), "/bin/kill -HUP $MAINPID");
}

/// A server with the powers and the view of the file system that the unit file leaves it: the service manager's part,
/// played by unshare(1), mount(8) and setpriv(1).
fn served_as_the_unit_says(home: Home) -> Server {
    assert_eq!((value("ProtectSystem"), value("ProtectHome")), ("full".to_owned(), "read-only".to_owned()));
    assert_eq!(value("NoNewPrivileges"), "yes");
    let capabilities = value("CapabilityBoundingSet").to_lowercase();
    let capabilities: Vec<String> = capabilities.split(' ').map(|name| name.replace("cap_", "+")).collect();
    let script = "for directory in /usr /boot /etc /home /root; do
            mount --bind $directory $directory && mount -o remount,bind,ro $directory || exit 1
        done
        umask 0077
        exec setpriv --no-new-privs --bounding-set \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, &format!("-all,{}", capabilities.join(","))]);
    command.arg(env!("CARGO_BIN_EXE_faas"));
    let command = prepared(&home, command);
    Server::launch(home, command)
}

#[test]
fn functions_run_in_all_their_layers_with_what_the_unit_file_leaves_the_server() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let home = Home::with(&format!("pool_size: 2\noutbound_allow: ['127.0.0.1:{port}']"), "");
    let server = served_as_the_unit_says(home);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_ne!(
        field("CapBnd:"),
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .unwrap()
            .trim()
    );

    let free = Server::with("pool_size: 1", "");
    let missing = |server: &Server| server.get("/health").json()["modes"]["process"]["missing"].clone();
    assert_eq!(missing(&server), missing(&free), "no layer is lost");

    let who = "import os\ndef handle(request):\n    print('seen')\n    return [os.getpid(), os.getuid()]";
    assert_eq!(server.run("who", who, ""), json!([1, 1000]));
    assert_eq!(server.logs("who")[0]["message"], "seen");
    let hungry = "def handle(request):\n    return len(b'x' * (1 << 28))";
    server.deploy("hungry", hungry, json!({ "memory": "64Mi" }));
    server.post("/invoke/hungry", "").refused(502, "function_out_of_memory");
    server.deploy("long", "def handle(request):\n    time.sleep(60)", json!({ "timeout": "4s" }));
    server.post("/invoke/long", "").refused(504, "function_timeout");
    let out = format!(
        "import socket\ndef handle(request):\n    socket.create_connection(('127.0.0.1', {port}), 10).close()\n    return 'connected'"
    );
    let body = json!({ "name": "out", "code": out, "config": { "network": "outbound" } }).to_string();
    let reply = server.post("/functions", &body);
    if reply.status == 201 {
        assert_eq!(server.post("/invoke/out", "").text(), "\"connected\"");
    } else {
        reply.refused(400, "network_unavailable");
    }
    let (home, status) = server.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{}", home.log());
    // Without a word about anything that it may not do, from the first sandbox to the listener's last filter.
    let told = home.log();
    assert!(!told.contains("[WARN ]") && !told.contains("[ERROR]"), "{told}");
}

#[test]
fn functions_run_in_containers_with_what_the_unit_file_leaves_the_server() {
    if !is_root() {
        return skip("containers are tried as root");
    }
    let engine = match Engine::shared() {
        Ok(engine) => engine,
        Err(why) => return skip(why),
    };
    let (socket, image) = (engine.socket().display(), engine.image());
    let system = format!("container_runtime: {socket}\nbase_image: {image}\ncontainer_pool_size: 1\npool_size: 1");
    let server = served_as_the_unit_says(Home::with(&system, ""));
    let who = "import os\ndef handle(request):\n    return os.getpid()";
    server.deploy("who", who, json!({ "execution_mode": "container" }));
    assert_eq!(server.post("/invoke/who", "").json(), json!(1));
}
