//! What the API tells of an instance's resources: the kernel's own figures. And that its limits are in force.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{json, Value};

use common::functions::sandboxed;
use common::host::cgroup_directories;
use common::{eventually, Server};

const MIB: u64 = 1 << 20;

/// Does what the body says: `["grow", bytes]`, `["shrink"]`, `["burn", seconds]`, `["threads", seconds]`.
const WORKER: &str = r#"
import threading
held = []

def grow(size):
    held.append(bytearray(size))

def shrink():
    held.clear()

def burn(seconds):
    # Not since the process began: a container's does so before it is in its group.
    end, before = time.monotonic() + seconds, time.process_time()
    while time.monotonic() < end:
        pass
    return time.process_time() - before

def threads(seconds):
    count = 0
    try:
        while True:
            threading.Thread(target=time.sleep, args=(seconds,), daemon=True).start()
            count += 1
    except RuntimeError:
        return count

def handle(request):
    name, *arguments = request.get_json()
    return globals()[name](*arguments)
"#;

/// The one instance of the function.
fn instance(server: &Server, name: &str) -> Value {
    let [instance] = &server.instances(name)[..] else { panic!("one instance") };
    instance.clone()
}

/// The file of this name in whichever of the instance's groups has it, the first name that is there.
fn file(instance: &Value, names: &[&str]) -> Option<String> {
    let directories: Vec<PathBuf> = cgroup_directories(u32::try_from(instance["pid"].as_u64().unwrap()).unwrap());
    let paths = names.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    paths.filter_map(|path| std::fs::read_to_string(path).ok()).next()
}

fn number(instance: &Value, names: &[&str]) -> Option<u64> {
    file(instance, names)?.trim().parse().ok()
}

/// The number behind this word in a file of several.
fn field(instance: &Value, name: &str, word: &str) -> Option<f64> {
    let text = file(instance, &[name])?;
    text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}

#[test]
fn the_figures_of_an_instance_are_those_in_the_kernels_files() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", WORKER, json!({"memory": "96Mi", "cpu_limit": "200m"}));
    server.answer("f", r#"["burn", 0.5]"#);
    // Idle, it uses nothing: what is read now and what was read a moment ago are the same.
    eventually("the figures and the files agree", || {
        let seen = instance(&server, "f");
        let close = |key: &str, other: Option<f64>| match (seen[key].as_f64(), other) {
            (Some(one), Some(other)) => (one - other).abs() <= 1e-3 * other.max(1.0),
            (None, None) => true,
            _ => false,
        };
        let whole = |key: &str, names: &[&str]| seen[key].as_u64() == number(&seen, names);
        let used = field(&seen, "cpu.stat", "usage_usec ").map(|us| us / 1e6);
        let used = used.or_else(|| number(&seen, &["cpuacct.usage"]).map(|ns| ns as f64 / 1e9));
        let throttled = field(&seen, "cpu.stat", "throttled_usec ").map(|us| us / 1e6);
        let throttled = throttled.or_else(|| field(&seen, "cpu.stat", "throttled_time ").map(|ns| ns / 1e9));
        assert!(used.is_some() && throttled.is_some(), "this test reads nothing: {seen}");
        let agree = whole("memory_bytes", &["memory.current", "memory.usage_in_bytes"])
            && whole("memory_peak_bytes", &["memory.peak", "memory.max_usage_in_bytes"])
            && whole("tasks", &["pids.current"])
            && close("cpu_seconds", used)
            && close("cpu_throttled_seconds", throttled);
        agree.then_some(())
    });
    let seen = instance(&server, "f");
    assert_eq!((&seen["memory_limit_bytes"], &seen["tasks_limit"]), (&json!(96 * MIB), &json!(64)), "{seen}");
    assert_eq!((&seen["tasks"], &seen["state"]), (&json!(1), &json!("idle")), "{seen}");
    assert_eq!(number(&seen, &["memory.max", "memory.limit_in_bytes"]), Some(96 * MIB));
    assert_eq!(number(&seen, &["pids.max"]), Some(64));
}

#[test]
fn a_look_at_a_function_shows_its_instances_and_their_figures() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", WORKER, json!({"min_instances": 2, "memory": "64Mi"}));
    server.deploy("other", WORKER, json!({"min_instances": 1}));
    server.await_idle("f", 2);
    server.await_idle("other", 1);
    let details = |name: &str| server.get(&format!("/functions/{name}")).json()["instance_details"].clone();
    let shown = details("f");
    let shown = shown.as_array().unwrap();
    assert_eq!(shown.len(), 2, "{shown:?}");
    let listed = server.instances("f");
    let fields = |it: &Value| it.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for (one, other) in shown.iter().zip(&listed) {
        assert_eq!((&one["id"], &one["pid"], fields(one)), (&other["id"], &other["pid"], fields(other)));
        assert_eq!(one["memory_limit_bytes"], 64 * MIB, "{one}");
        assert!(one["cpu_seconds"].as_f64() > Some(0.0) && one["tasks"] == 1, "{one}");
    }
    assert_eq!(server.call("PUT", "/functions/f", r#"{"config": {"min_instances": 0}}"#).status, 200);
    eventually("none is left", || (details("f") == json!([])).then_some(()));
}

#[test]
fn a_tenth_of_a_core_is_a_tenth_of_a_core() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", WORKER, json!({"cpu_limit": "100m"}));
    server.answer("f", r#"["shrink"]"#);
    let before = instance(&server, "f");
    let started = Instant::now();
    server.answer("f", r#"["burn", 3]"#);
    let wall = started.elapsed().as_secs_f64();
    let after = instance(&server, "f");
    let grown = |key: &str| after[key].as_f64().unwrap() - before[key].as_f64().unwrap();
    // Each of some thirty periods of 100 ms gives 10 ms; the two that were not seen whole may give theirs, too. On a
    // busy machine it may get less than its due, which is no fault of the limit.
    let used = grown("cpu_seconds");
    assert!(used <= 0.1 * wall + 0.03, "used {used} s in {wall} s: {after}");
    assert!(used >= 0.01 * wall, "used {used} s in {wall} s: {after}");
    // Nobody needs to hold it back while others have the cores.
    let had_its_due = used >= 0.08 * wall;
    assert!(!had_its_due || grown("cpu_throttled_seconds") > 0.0, "it was held back in {wall} s: {after}");
}

#[test]
fn without_a_need_to_hold_it_back_an_instance_is_not_throttled() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", WORKER, json!({"cpu_limit": "2"}));
    let used = server.answer("f", r#"["burn", 0.5]"#).as_f64().unwrap();
    let seen = instance(&server, "f");
    assert_eq!(seen["cpu_throttled_seconds"], 0.0, "{seen}");
    assert!(seen["cpu_seconds"].as_f64().unwrap() >= used, "{used} s by its own clock: {seen}");
}

#[test]
fn memory_is_what_the_instance_holds_and_its_peak_what_it_held() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", WORKER, json!({"memory": "96Mi"}));
    server.answer("f", &format!(r#"["grow", {}]"#, 48 * MIB));
    let grown = instance(&server, "f");
    assert!(grown["memory_bytes"].as_u64() >= Some(48 * MIB), "{grown}");
    server.answer("f", r#"["shrink"]"#);
    eventually("the memory is given back", || {
        let seen = instance(&server, "f");
        assert!(seen["memory_peak_bytes"].is_null() || seen["memory_peak_bytes"].as_u64() >= Some(48 * MIB), "{seen}");
        (seen["memory_bytes"].as_u64() < Some(32 * MIB)).then_some(())
    });
    let seen = instance(&server, "f");
    // No swap beside it: v1 limits the sum, v2 the swap itself. Kernels without swap have neither file.
    let sum = number(&seen, &["memory.memsw.limit_in_bytes"]);
    let swap = number(&seen, &["memory.swap.max"]);
    assert!(sum.is_none_or(|sum| sum == 96 * MIB) && swap.is_none_or(|swap| swap == 0), "{sum:?} {swap:?}");
    let (status, code, _) = server.failure("f", &format!(r#"["grow", {}]"#, 120 * MIB));
    assert_eq!((status, code.as_str()), (502, "function_out_of_memory"));
}

#[test]
fn tasks_are_counted_and_end_at_their_limit() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("f", WORKER, json!({}));
    assert_eq!(server.answer("f", r#"["threads", 20]"#), 63, "the main thread is one of the 64");
    let seen = instance(&server, "f");
    assert_eq!((&seen["tasks"], &seen["tasks_limit"]), (&json!(64), &json!(64)), "{seen}");
}
