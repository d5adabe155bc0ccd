//! What was acknowledged is there after any end of the server, and what is damaged is refused by name.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::host::{cgroup_parents, cgroups_in, descendants, is_alive};
use common::{command, eventually, is_root, skip, Home, Server};
use faas::registry::function::ExecutionMode;
use faas::registry::image::ImageId;
use faas::registry::settings::FunctionSettings;
use faas::registry::store::{NewFunction, Store};
use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{json, Value};

/// Nothing here needs more of the sandbox than that it runs: blanks would only slow the starts.
const SMALL: &str = "pool_size: 1";

fn server() -> Option<Server> {
    if !is_root() {
        skip("process mode at level strict needs root");
        return None;
    }
    Some(Server::with(SMALL, ""))
}

/// The database of a server that has ended.
fn database(home: &Home) -> Connection {
    let files = std::fs::read_dir(home.state()).unwrap().flatten().map(|entry| entry.path());
    let mut databases = files.filter(|path| path.extension().is_some_and(|extension| extension == "db"));
    Connection::open(databases.next().expect("a database in the state directory")).unwrap()
}

fn database_path(home: &Home) -> std::path::PathBuf {
    database(home).path().unwrap().into()
}

/// Starts a server that must not start, and gives what it says.
fn refusal(home: &Home) -> String {
    refusal_of(command(home))
}

fn refusal_of(mut command: Command) -> String {
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let deadline = std::time::Instant::now() + common::patience();
    while child.try_wait().unwrap().is_none() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // One that serves is ended, and fails the test by its status.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("faas: ") && !said.contains("panicked"), "one clear message: {said}");
    said
}

/// What a client can see of a function, without what belongs to a run of the server.
fn resource(server: &Server, name: &str) -> Value {
    let mut resource = server.get(&format!("/functions/{name}")).json();
    resource.as_object_mut().unwrap().retain(|field, _| field != "instances" && field != "instance_details");
    resource
}

#[test]
fn everything_is_there_after_every_kind_of_end() {
    let Some(mut server) = server() else { return };
    let code = "import os\ndef handle(request):\n    print('life', request.get_text())\n    return os.environ['KEPT']";
    let config = json!({ "environment": { "KEPT": "kept" }, "memory": "96Mi", "timeout": 7, "min_instances": 1 });
    server.deploy("kept", code, config);
    let changed = json!({ "config": { "timeout": 8 } }).to_string();
    assert_eq!(server.call("PUT", "/functions/kept", &changed).status, 200);
    let before = resource(&server, "kept");
    assert_eq!((&before["version"], &before["config"]["environment"]["KEPT"]), (&json!(2), &json!("kept")));
    for (life, signal) in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        assert_eq!(server.post("/invoke/kept", &life.to_string()).text(), "\"kept\"");
        let logged = format!("life {life}");
        // The log is written behind the answer: what a kill -9 may cost is what was not read back before it.
        eventually("the entry in the log", || {
            server.get("/functions/kept/logs").text().contains(&logged).then_some(())
        });
        let (home, status) = server.end(signal);
        assert_eq!(status.code(), if signal == Signal::SIGKILL { None } else { Some(0) });
        server = Server::on(home);
        assert_eq!(resource(&server, "kept"), before, "after {signal}");
        assert_eq!(server.post("/invoke/kept", "again").text(), "\"kept\"", "after {signal}");
        let log = server.get("/functions/kept/logs").text();
        assert!((0..=life).all(|life| log.contains(&format!("life {life}"))), "after {signal}: {log}");
    }
    let (home, _) = server.end(Signal::SIGTERM);
    assert!(!home.log().contains("[ERROR"), "{}", home.log());
}

#[test]
fn a_killed_server_leaves_no_process_at_once_and_no_cgroup_after_the_next_start() {
    let Some(server) = server() else { return };
    let code = "import os, signal\n\
        def handle(request):\n    if os.fork() == 0:\n        os.setsid()\n        signal.pause()\n    return 1";
    server.deploy("daemon", code, json!({}));
    assert_eq!(server.post("/invoke/daemon", "").status, 200);
    let groups = cgroup_parents(&server);
    let below = descendants(server.pid());
    assert!(below.len() >= 3, "the zygote, the instance, its daemon: {below:?}");
    let mounts = mounts_of(&server.home);
    let (home, _) = server.end(Signal::SIGKILL);
    eventually("the end of all its processes", || (!below.iter().any(|&pid| is_alive(pid))).then_some(()));
    assert_eq!(mounts_of(&home), mounts);
    let server = Server::on(home);
    assert_eq!(server.post("/invoke/daemon", "").status, 200);
    let (home, status) = server.end(Signal::SIGTERM);
    assert_eq!((status.code(), cgroups_in(&groups)), (Some(0), 0), "{}", home.log());
    assert!(!groups.iter().any(|group| group.exists()), "{groups:?}");
}

/// Mounts of this namespace below the server's directory.
fn mounts_of(home: &Home) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(home.path().to_str().unwrap())).count()
}

#[test]
fn a_function_whose_code_has_changed_on_the_disk_is_refused_by_name_and_the_others_are_served() {
    let Some(server) = server() else { return };
    for name in ["sound", "spoilt"] {
        server.deploy(name, "def handle(request):\n    return 'as deployed'", json!({}));
    }
    let (home, _) = server.end(Signal::SIGTERM);
    let changed = {
        let database = database(&home);
        let mut tables = database
            .prepare(
                "SELECT m.name, p.name FROM sqlite_master m, pragma_table_info(m.name) p \
             WHERE m.type = 'table' AND p.name = 'code'",
            )
            .unwrap();
        let table: String = tables.query_row([], |row| row.get(0)).unwrap();
        let name: String = database
            .query_row("SELECT name FROM pragma_table_info(?1) WHERE name IN ('name', 'function')", [&table], |row| {
                row.get(0)
            })
            .unwrap();
        let change =
            format!("UPDATE {table} SET code = replace(code, 'as deployed', 'as xeployed') WHERE {name} = 'spoilt'");
        database.execute(&change, []).unwrap()
    };
    assert_eq!(changed, 1);
    let server = Server::on(home);
    assert_eq!(server.post("/invoke/sound", "").text(), "\"as deployed\"");
    let refused = server.post("/invoke/spoilt", "");
    assert!(refused.status >= 400, "wrong code ran: {}", refused.text());
    server.home.await_line("it is named", |line| {
        line.contains("spoilt") && line.contains("ERROR") && line.contains("SHA-256")
    });
    // The way out is to delete it and to post it again, and the server says so.
    let anew = json!({ "name": "spoilt", "code": "def handle(request):\n    return 'anew'" }).to_string();
    let taken = server.post("/functions", &anew);
    assert_eq!(taken.status, 409);
    assert!(taken.text().contains("damaged") && taken.text().contains("DELETE"), "{}", taken.text());
    assert_eq!(server.call("DELETE", "/functions/spoilt", "").status, 204);
    assert_eq!(server.call("DELETE", "/functions/spoilt", "").status, 404);
    assert_eq!(server.post("/functions", &anew).status, 201);
    assert_eq!(server.post("/invoke/spoilt", "").text(), "\"anew\"");
}

#[test]
fn a_damaged_database_is_a_clear_refusal() {
    let Some(server) = server() else { return };
    server.deploy("kept", "def handle(request):\n    return 1", json!({}));
    let (home, _) = server.end(Signal::SIGTERM);
    let path = database_path(&home);
    // What is still in the write-ahead log would mend the file.
    database(&home).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let sound = std::fs::read(&path).unwrap();
    for (how, bytes) in [("cut", sound[..sound.len() / 2].to_vec()), ("no database", b"not a database".repeat(500))] {
        std::fs::write(&path, bytes).unwrap();
        let said = refusal(&home);
        assert!(said.contains(path.to_str().unwrap()), "{how}: {said}");
    }
    std::fs::write(&path, sound).unwrap();
    assert_eq!(Server::on(home).post("/invoke/kept", "").text(), "1", "a restored file is as good as ever");
}

#[test]
fn a_second_server_on_the_same_state_is_refused_and_the_first_goes_on() {
    let Some(server) = server() else { return };
    let said = refusal(&server.home);
    assert!(said.contains(&server.pid().to_string()), "it names the first: {said}");
    server.deploy("first", "def handle(request):\n    return 1", json!({}));
    assert_eq!(server.post("/invoke/first", "").text(), "1");
}

#[test]
fn a_state_directory_that_is_not_ours_is_refused() {
    if !is_root() {
        return skip("another user's directory takes root to make");
    }
    let (home, _) = Server::with(SMALL, "").end(Signal::SIGTERM);
    let state = home.state();
    std::os::unix::fs::chown(&state, Some(65534), None).unwrap();
    let said = refusal(&home);
    assert!(said.contains("65534") && said.contains(state.to_str().unwrap()), "{said}");
    std::os::unix::fs::chown(&state, Some(0), None).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    let said = refusal(&home);
    assert!(said.contains("0777"), "{said}");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    drop(Server::on(home));
}

#[test]
fn a_state_directory_that_cannot_be_written_is_refused() {
    if !is_root() {
        return skip("running as another user takes root");
    }
    let home = common::Home::new();
    let state = home.state();
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o500)).unwrap();
    let config = format!(
        "system:\n  function_storage_path: {}\n  api_gateway_port: 0\n  process_isolation_level: none\n",
        state.display()
    );
    std::fs::write(home.path().join("faas.yaml"), config).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    let said = refusal_of(common::as_nobody(&home));
    assert!(said.contains(state.to_str().unwrap()), "{said}");
    // A file in its place.
    std::fs::remove_dir(&state).unwrap();
    std::fs::write(&state, "").unwrap();
    let said = refusal(&home);
    assert!(said.contains("not a directory") && said.contains(state.to_str().unwrap()), "{said}");
}

#[test]
fn looking_at_the_system_leaves_a_state_directory_that_a_server_accepts() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let home = Home::new();
    let config = format!("system:\n  function_storage_path: {}\n  api_gateway_port: 0\n", home.state().display());
    std::fs::write(home.path().join("faas.yaml"), config).unwrap();
    // A common default for users with a group of their own: what they make may be written by the group.
    let script = format!(
        "umask 002 && exec {} {} --check-system",
        env!("CARGO_BIN_EXE_faas"),
        home.path().join("faas.yaml").display()
    );
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!Path::new(&home.state()).exists() || mode(&home.state()) == 0o700, "{:o}", mode(&home.state()));
    drop(Server::on(home));
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_stored_function_that_runs_in_containers_is_kept_and_told_of_where_there_are_none() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::with(&format!("{SMALL}\ncontainer_runtime: none"), "");
    server.deploy("plain", "def handle(request):\n    return 'plain'\n", json!({}));
    let (home, _) = server.end(Signal::SIGTERM);
    let fields = json!({ "execution_mode": "container", "image": "python:3.12-slim", "min_instances": 1 });
    let settings = FunctionSettings::from_json(fields.as_object().unwrap()).unwrap();
    let id = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let stored = NewFunction {
        name: "boxed".to_owned(),
        code: "def handle(request):\n    return 'boxed'\n".to_owned(),
        config: settings.resolve(ExecutionMode::Process).unwrap(),
        image_id: ImageId::parse(&id),
        now_ms: 1000,
    };
    Store::open(&home.state()).unwrap().create(stored).unwrap();
    let server = Server::on(home);
    let shown = server.get("/functions/boxed").json();
    assert_eq!((&shown["image_id"], &shown["config"]["image"]), (&json!(id), &json!("python:3.12-slim")));
    let detail = server.post("/invoke/boxed", "").refused(503, "no_instances");
    assert!(detail.contains("it runs in containers, and container mode is switched off on this server"), "{detail}");
    server.get("/functions/boxed/sandbox").refused(503, "no_instances");
    let update = json!({ "config": { "timeout": 5 } }).to_string();
    server.call("PUT", "/functions/boxed", &update).refused(400, "mode_unavailable");
    // Nobody else is touched, and it can be made one that runs here.
    assert_eq!(server.post("/invoke/plain", "").json(), "plain");
    let update = json!({ "config": { "execution_mode": "process", "image": "default" } }).to_string();
    let updated = server.call("PUT", "/functions/boxed", &update).json();
    assert_eq!((&updated["version"], updated.get("image_id")), (&json!(2), None));
    assert_eq!(server.post("/invoke/boxed", "").json(), "boxed");
}
