//! The filter, loaded in real interpreters: the standard library works under it, and what it forbids fails.
//!
//! The probe is `seccomp_probe.py`; it loads the filter through `ctypes` before it does anything else, and runs as
//! whoever runs the tests. As root most of what must fail would succeed without the filter.
// Helpers of tests may stop the test.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use faas::sandbox::seccomp::{instance_filter, Arch, Sockets};

/// Every Python from 3.8 on that this machine offers, the system's and pyenv's.
fn interpreters() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let managed = std::fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten();
    let candidates = managed.map(|entry| entry.path().join("bin/python3")).chain([PathBuf::from("/usr/bin/python3")]);
    let recent = |python: &PathBuf| {
        let check = ["-I", "-S", "-c", "import sys, ctypes; sys.exit(sys.version_info < (3, 8))"];
        Command::new(python).args(check).output().is_ok_and(|output| output.status.success())
    };
    candidates.filter(recent).collect()
}

fn probe(python: &Path, filter: &Path, what: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp_probe.py");
    let output = Command::new(python).args(["-I", "-S", script]).arg(filter).arg(what).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} in {}: {}\n{text}", python.display(), output.status);
    text
}

/// Runs the probe in every interpreter, or says why not; in CI a skip is a failure.
fn in_every_python(what: &str) {
    let pythons = interpreters();
    let Some(arch) = Arch::native().filter(|_| !pythons.is_empty()) else {
        println!("SKIP: no Python from 3.8 on with ctypes, or an architecture without a filter");
        assert!(std::env::var_os("FAAS_CI").is_none(), "CI skips nothing");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let filter = directory.path().join("filter");
    std::fs::write(&filter, instance_filter(arch, Sockets::Direct)).unwrap();
    for python in pythons {
        println!("{}: {}", python.display(), probe(&python, &filter, what).trim());
    }
}

#[test]
fn the_standard_library_works_under_the_filter() {
    in_every_python("work");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_is_forbidden_fails_with_the_promised_error() {
    in_every_python("refusals");
}

/// Measured: 75 us for this filter, 430 us for a chain of 300 comparisons. Only the order is asserted, as machines
/// differ.
#[cfg(target_arch = "x86_64")]
#[test]
fn loading_takes_less_time_than_a_linear_filter() {
    in_every_python("load-time");
}
