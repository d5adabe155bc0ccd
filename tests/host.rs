//! The host that runs the tests, probed for real.

use std::process::Command;

use faas::sandbox::cgroup::CgroupRoot;
use faas::sandbox::host::{HostFacts, IsolationLevel};

/// Namespaces are tried in a fork, which needs a process with one thread. The harness has several, unless it is told
/// to run one test at a time: hence a second process.
#[test]
fn the_probe_of_this_host_tries_every_namespace() {
    let arguments = ["--ignored", "--exact", "probe_in_a_process_of_its_own", "--nocapture", "--test-threads=1"];
    let output = Command::new(std::env::current_exe().unwrap()).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("user namespaces"), "{text}");
    assert!(!text.contains("could not be tried"), "{text}");
}

#[test]
#[ignore = "run by the test above"]
fn probe_in_a_process_of_its_own() {
    let cgroups = CgroupRoot::prepare(&format!("test-host-{}", std::process::id())).unwrap();
    let started = std::time::Instant::now();
    let facts = HostFacts::probe(&cgroups);
    println!("probed in {:?}\n{}", started.elapsed(), facts.report(IsolationLevel::Strict).render());
    for missing in facts.missing_for(IsolationLevel::Strict) {
        println!("strict refuses: {missing}");
    }
    cgroups.remove().unwrap();
}
