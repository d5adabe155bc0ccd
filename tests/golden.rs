//! The sandbox of a made-up host, written out: every step of the plans, every system call, every instruction of the
//! filters. A change of any of them is a change of `tests/golden/`, which is seen in review.
//!
//! `FAAS_GOLDEN=write cargo test --test golden` writes the files anew.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use faas::sandbox::description::Description;
use faas::sandbox::host::IsolationLevel;
use faas::sandbox::layer::Layers;
use faas::sandbox::plan::{
    instance_inner_plan, instance_outer_plan, zygote_plan, InstanceSpec, Network, Plan, Privilege, ZygoteSpec,
};
use faas::sandbox::runtime::Interpreter;
use faas::sandbox::seccomp::{instance_filter, Arch, Sockets};
use faas::sandbox::tree::HostFile;

/// A Debian with merged /usr and an interpreter of its own, root, three cgroup hierarchies.
fn description(privilege: Privilege, level: IsolationLevel, arch: Arch, network: Network) -> Description {
    let sockets = if network == Network::Outbound { Sockets::Brokered } else { Sockets::Direct };
    let mut spec = InstanceSpec::strict(privilege, 2_000_000_000, instance_filter(arch, sockets));
    spec.network = network;
    spec.required = Layers::required_at(level);
    spec.cgroup_fds = 3;
    spec.joins_network = privilege == Privilege::Root;
    let (outer, inner) = (instance_outer_plan(&spec), instance_inner_plan(&spec));
    Description {
        required: spec.required,
        without: spec.without,
        missing: Layers::NONE,
        zygote: zygote(privilege),
        outer,
        inner,
        arch: Some(arch),
        sockets,
    }
}

fn zygote(privilege: Privilege) -> Plan {
    let directories = BTreeSet::from([PathBuf::from("/usr/lib/python3.12")]);
    let interpreter = Interpreter {
        executable: "/usr/bin/python3.12".into(),
        version: (3, 12, 1),
        directories: directories.clone(),
        hidden: BTreeSet::from(["/usr/lib/python3.12/site-packages".into()]),
    };
    let there = ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/etc/ssl/certs", "/usr/share/zoneinfo"];
    let mut host: BTreeMap<PathBuf, HostFile> =
        there.iter().map(|path| (PathBuf::from(path), HostFile::Directory)).collect();
    host.extend(directories.into_iter().map(|path| (path, HostFile::Directory)));
    host.insert("/lib".into(), HostFile::Link("usr/lib".into()));
    host.insert("/lib64".into(), HostFile::Link("usr/lib64".into()));
    host.insert("/etc/ld.so.cache".into(), HostFile::File);
    let shim = [("zygote.py", "pass"), ("instance.py", "pass")];
    let staging = "/state/tree".into();
    let spec =
        ZygoteSpec { privilege, staging, interpreter: &interpreter, host: &host, shows_host: false, shim: &shim };
    zygote_plan(&spec)
}

fn compare(name: &str, description: &Description) {
    // The size of the native module is the compiler's affair.
    let known = |line: String| match line.split_once("_faas.so (") {
        Some((before, after)) => format!("{before}_faas.so (N{}", &after[after.find(" bytes").unwrap()..]),
        None => line,
    };
    let text: String = description.lines().into_iter().map(|line| known(line) + "\n").collect();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("FAAS_GOLDEN").is_some_and(|what| what == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = golden.lines().zip(text.lines()).position(|(golden, now)| golden != now);
    let at = differs.unwrap_or_else(|| golden.lines().count().min(text.lines().count()));
    assert!(
        golden == text,
        "the sandbox is no longer that of {}, from line {} on:\n  was {:?}\n  is  {:?}\nIf that is meant: FAAS_GOLDEN=write \
         cargo test --test golden, and look at the difference",
        path.display(),
        at + 1,
        golden.lines().nth(at),
        text.lines().nth(at),
    );
}

#[cfg(target_arch = "x86_64")] // the tree names the architecture's own directories
#[test]
fn the_sandbox_of_root_at_strict_is_what_was_reviewed() {
    let strict = description(Privilege::Root, IsolationLevel::Strict, Arch::X86_64, Network::None);
    compare("strict.txt", &strict);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_sandbox_with_outbound_network_is_what_was_reviewed() {
    let outbound = description(Privilege::Root, IsolationLevel::Strict, Arch::X86_64, Network::Outbound);
    compare("outbound.txt", &outbound);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_sandbox_of_a_common_user_at_standard_is_what_was_reviewed() {
    let user = Privilege::Unprivileged { uid: 1000, gid: 1000 };
    compare("standard-unprivileged.txt", &description(user, IsolationLevel::Standard, Arch::Aarch64, Network::None));
}
