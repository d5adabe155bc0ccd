//! How functions run that do not say it themselves: in processes, or with `FAAS_TEST_MODE=container` in containers of an
//! engine of the tests' own. So tests of functions are run for either mode as they are: `make test-containers`.

use std::time::{Duration, Instant};

use super::engine::Engine;
use super::{is_root, skip, slowed, Server};

/// `system.container_pool_size`, when nothing is said of it.
const CONTAINERS_IN_STOCK: u64 = 2;

/// Whether functions run in containers that do not say how they run.
pub fn in_containers() -> bool {
    match std::env::var("FAAS_TEST_MODE").as_deref() {
        Err(_) | Ok("process") => false,
        Ok("container") => true,
        Ok(other) => panic!("FAAS_TEST_MODE={other}: process or container"),
    }
}

/// Whether functions can run here; says why if not. Call it before anything else: an engine of containers starts here.
pub fn can_run_functions() -> bool {
    if !is_root() {
        skip("process mode at level strict needs root");
        return false;
    }
    match in_containers().then(Engine::shared) {
        Some(Err(why)) => {
            skip(why);
            false
        }
        _ => true,
    }
}

/// Whether a test is about process mode alone and is run for container mode: it says so, and why, and is over. Use as
/// `if about_processes_alone("it counts zygotes") { return }`.
pub fn about_processes_alone(why: &str) -> bool {
    if in_containers() {
        eprintln!("DOES NOT APPLY to container mode: {why}");
    }
    in_containers()
}

/// For how long a server must be found unchanged for it to be at rest: longer than one thing takes that it does unasked,
/// such as making a blank. Not counted in looks, which take their time on a busy machine.
pub fn rest() -> Duration {
    Duration::from_millis(if in_containers() { 3000 } else { 500 })
}

/// Waits in container mode until there are as many containers in stock as there should be. A sandbox is made in less time
/// than any test gives a call; a container takes seconds on a busy machine, and a test that gives a call one second is
/// about something else. It is no failure when there are never so many: they may be in use.
pub fn await_stock(server: &Server) {
    if in_containers() {
        await_blanks(server, configured(server, "container_pool_size").unwrap_or(CONTAINERS_IN_STOCK));
    }
}

/// The same in either mode, for a test that takes the measure of a server at rest: while a sandbox is in the making,
/// nothing may change for longer than one looks. A server whose configuration does not say how many is left to that.
pub fn await_pool(server: &Server) {
    await_stock(server);
    if let (false, Some(size)) = (in_containers(), configured(server, "pool_size")) {
        await_blanks(server, size);
    }
}

fn configured(server: &Server, key: &str) -> Option<u64> {
    let configuration = std::fs::read_to_string(server.home.path().join("faas.yaml")).unwrap();
    configuration.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": ")?.parse().ok())
}

fn await_blanks(server: &Server, count: u64) {
    let deadline = Instant::now() + slowed(Duration::from_secs(10));
    let is_there = || server.get("/stats").json()["blanks"].as_u64() >= Some(count);
    while !is_there() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// These lines of a `system:` section for the mode. In container mode, what they say of the stock of sandboxes is said of
/// containers, and nothing else takes their slots. A test that names its engine has said what it wants.
pub fn system_section(system: &str) -> String {
    if !in_containers() || system.contains("container_runtime:") {
        return system.to_owned();
    }
    let mut lines: Vec<String> = Vec::new();
    for line in system.lines().map(str::trim_start) {
        if let Some(size) = line.strip_prefix("pool_size:") {
            lines.extend([format!("container_pool_size:{size}"), "pool_size: 0".to_owned()]);
        } else {
            lines.push(line.to_owned());
        }
    }
    let engine = Engine::shared().expect("tests ask can_run_functions first");
    lines.extend([
        "default_mode: container".to_owned(),
        format!("container_runtime: {}", engine.socket().display()),
        format!("base_image: {}", engine.image()),
    ]);
    lines.join("\n")
}
