//! The host that runs the tests, probed for real.
//!
//! Without the test harness (`harness = false` in Cargo.toml): namespaces are tried in a fork, which needs a process
//! with one thread, and the harness runs every test in a thread of its own.
#![allow(clippy::unwrap_used)]

use faas::sandbox::cgroup::CgroupRoot;
use faas::sandbox::host::{HostFacts, IsolationLevel, Namespace};

fn main() {
    let cgroups = CgroupRoot::prepare(&format!("test-host-{}", std::process::id())).unwrap();
    let started = std::time::Instant::now();
    let facts = HostFacts::probe(&cgroups);
    let text = facts.report(IsolationLevel::Strict).render();
    println!("probed in {:?}\n{text}", started.elapsed());
    cgroups.remove().unwrap();

    assert!(facts.namespaces.iter().all(|(_, state)| *state != Namespace::Unknown), "each namespace was tried");
    let missing = facts.missing_for(IsolationLevel::Strict);
    assert!(missing.iter().all(|missing| text.contains(&missing.mend)), "what strict refuses is in the report");

    // From here on there is a second thread, and a probe must not fork.
    let second = std::thread::spawn(move || HostFacts::probe(&cgroups));
    let threaded = second.join().unwrap();
    assert!(threaded.namespaces.iter().all(|(_, state)| *state == Namespace::Unknown), "no fork among threads");
    println!("test result: ok");
}
