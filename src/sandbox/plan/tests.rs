//! The order of the steps, which is where a sandbox leaks, and that nothing is required by a level that may not be.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::sandbox::host::IsolationLevel;
use crate::sandbox::runtime::Interpreter;
use crate::sandbox::tree::HostFile;

fn spec() -> InstanceSpec {
    InstanceSpec::strict(Privilege::Root, 200_007, vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f])
}

fn interpreter() -> Interpreter {
    Interpreter {
        executable: "/opt/python/bin/python3.12".into(),
        version: (3, 12, 1),
        directories: BTreeSet::from(["/opt/python/lib/python3.12".into()]),
        hidden: BTreeSet::from(["/opt/python/lib/python3.12/site-packages".into()]),
    }
}

fn zygote(privilege: Privilege) -> Plan {
    let host = BTreeMap::from([("/opt/python/lib/python3.12".into(), HostFile::Directory)]);
    let interpreter = interpreter();
    let staging = "/run/faas/root".into();
    zygote_plan(&ZygoteSpec {
        privilege,
        staging,
        interpreter: &interpreter,
        host: &host,
        shows_host: false,
        shim: &[("zygote.py", "pass")],
    })
}

/// Where in the plan the one step is for which `wanted` holds.
fn position(plan: &Plan, wanted: impl Fn(&Step) -> bool) -> usize {
    let found: Vec<usize> =
        plan.steps().iter().enumerate().filter(|(_, planned)| wanted(&planned.step)).map(|(at, _)| at).collect();
    assert_eq!(found.len(), 1, "{found:?} in\n{}", plan.describe().join("\n"));
    found[0]
}

fn assert_order(plan: &Plan, order: &[(&str, usize)]) {
    for pair in order.windows(2) {
        assert!(pair[0].1 < pair[1].1, "{} before {}\n{}", pair[0].0, pair[1].0, plan.describe().join("\n"));
    }
}

#[test]
fn the_inner_plan_gives_up_power_in_the_only_order_that_works() {
    let plan = instance_inner_plan(&spec());
    let at = |wanted: fn(&Step) -> bool| position(&plan, wanted);
    assert_order(
        &plan,
        &[
            ("/proc", at(|step| matches!(step, Step::MountProc { .. }))),
            ("no groups", at(|step| *step == Step::ClearGroups)),
            ("keep capabilities", at(|step| *step == Step::KeepCaps)),
            ("host user", at(|step| *step == Step::SetIds { uid: 200_007, gid: 200_007 })),
            ("user namespace", at(|step| *step == Step::Unshare(NEW_USER))),
            ("dumpable", at(|step| *step == Step::Dumpable(true))),
            ("setgroups denied", at(|step| matches!(step, Step::WriteProc { text, .. } if text == "deny"))),
            ("gid map", at(|step| matches!(step, Step::WriteProc { path, .. } if path.ends_with("gid_map")))),
            ("bounding set", at(|step| *step == Step::DropBounding { keep: 0 })),
            ("securebits", at(|step| *step == Step::LockSecurebits)),
            ("no capabilities", at(|step| *step == Step::SetCaps { keep: 0 })),
            ("not dumpable", at(|step| *step == Step::Dumpable(false))),
            ("no new privileges", at(|step| *step == Step::NoNewPrivs)),
            ("parent gone", at(|step| matches!(step, Step::AwaitExit { .. }))),
            ("death signal", at(|step| matches!(step, Step::DeathSignal(_)))),
            ("close", at(|step| *step == Step::CloseFrom(4))),
            ("landlock", at(|step| matches!(step, Step::Landlock { .. }))),
            ("seccomp", at(|step| matches!(step, Step::Seccomp(_)))),
        ],
    );
    assert!(matches!(plan.steps().last(), Some(Planned { step: Step::Seccomp(_), required: true, .. })));
}

#[test]
fn host_user_0_is_never_mapped_by_root() {
    let texts = |plan: &Plan| -> Vec<String> {
        let text = |planned: &Planned| match &planned.step {
            Step::WriteProc { text, .. } => Some(text.clone()),
            _ => None,
        };
        plan.steps().iter().filter_map(text).collect()
    };
    assert_eq!(texts(&instance_inner_plan(&spec())), ["deny", "1000 200007 1\n", "1000 200007 1\n"]);
    assert_eq!(texts(&zygote(Privilege::Root)), [""; 0]);
    assert_eq!(texts(&zygote(Privilege::Unprivileged { uid: 7, gid: 8 })), ["deny", "0 7 1\n", "0 8 1\n"]);
}

#[test]
fn cgroups_are_joined_before_any_namespace_is_made() {
    let plan = instance_outer_plan(&InstanceSpec { cgroup_fds: 2, ..spec() });
    let joins: Vec<&Step> = plan.steps().iter().map(|planned| &planned.step).skip(1).take(2).collect();
    let join = |fd| Step::WriteFd { fd, bytes: b"0".to_vec() };
    assert_eq!(joins, [&join(12), &join(13)]);
    let made: Vec<&Step> = plan.steps().iter().map(|planned| &planned.step).skip(3).collect();
    let kinds = [NEW_MOUNT, NEW_PID, NEW_IPC, NEW_UTS, NEW_CGROUP, NEW_NET];
    assert_eq!(made, kinds.map(Step::Unshare).iter().collect::<Vec<_>>());
}

#[test]
fn an_empty_network_namespace_that_is_at_hand_is_joined_and_none_is_made() {
    let plan = instance_outer_plan(&InstanceSpec { cgroup_fds: 3, joins_network: true, ..spec() });
    assert_eq!(position(&plan, |step| *step == Step::JoinNetwork { fd: 15 }), plan.steps().len() - 1);
    assert!(!plan.steps().iter().any(|planned| planned.step == Step::Unshare(NEW_NET)));
}

#[test]
fn a_layer_that_is_left_out_is_gone_and_nothing_else_is() {
    let steps = |without| -> Vec<String> {
        let spec = InstanceSpec { without, ..spec() };
        let plans = [instance_outer_plan(&spec), instance_inner_plan(&spec)];
        plans.iter().flat_map(Plan::steps).map(|planned| planned.step.to_string()).collect()
    };
    let whole = steps(Layers::NONE);
    let built = [Layer::Tree, Layer::MemoryLimit, Layer::TasksLimit, Layer::CpuLimit];
    for layer in Layer::ALL.iter().filter(|layer| !built.contains(layer)) {
        let left = steps(Layers::of(&[*layer]));
        let missing = whole.iter().filter(|step| !left.contains(step)).count();
        assert!(missing > 0, "{layer:?} is made of nothing");
        let added: Vec<_> = left.iter().filter(|step| !whole.contains(step)).collect();
        let instead = match layer {
            Layer::Proc => 1,
            Layer::TmpfsLimits | Layer::Identity => 2,
            _ => 0,
        };
        assert_eq!(added.len(), instead, "{layer:?}: {added:?}");
    }
}

#[test]
fn every_level_requires_what_keeps_instances_apart_and_strict_requires_all() {
    let plans = |required| {
        let spec = InstanceSpec { required, ..spec() };
        [instance_outer_plan(&spec), instance_inner_plan(&spec)]
    };
    let optional = |level| -> Layers {
        let steps = plans(Layers::required_at(level)).into_iter().flat_map(|plan| plan.0);
        steps.filter(|planned| !planned.required).filter_map(|planned| planned.layer).collect()
    };
    assert_eq!(optional(IsolationLevel::Strict), Layers::NONE);
    let may_fail = Layers::of(&[
        Layer::UserNamespace,
        Layer::NetworkNamespace,
        Layer::IpcNamespace,
        Layer::UtsNamespace,
        Layer::CgroupNamespace,
        Layer::Proc,
        Layer::Landlock,
    ]);
    assert_eq!(optional(IsolationLevel::Standard), may_fail);
    assert_eq!(optional(IsolationLevel::None), may_fail.with(Layer::Seccomp));
}

#[test]
fn the_hosts_proc_is_hidden_from_a_common_users_instance_even_when_it_gets_none_of_its_own() {
    let privilege = Privilege::Unprivileged { uid: 1, gid: 1 };
    let plan = instance_inner_plan(&InstanceSpec { privilege, required: Layers::NONE, ..spec() });
    let hidden = position(&plan, |step| *step == Step::Mask("/proc".into()));
    assert!(plan.steps()[hidden].required);
    assert_eq!(position(&plan, |step| matches!(step, Step::MountProc { .. })), hidden + 1);
}

#[test]
fn the_hosts_network_is_kept_only_for_those_who_ask() {
    let namespaces = |network| {
        let plan = instance_outer_plan(&InstanceSpec { network, ..spec() });
        let flags = |planned: &Planned| if let Step::Unshare(flags) = planned.step { flags } else { 0 };
        plan.steps().iter().map(flags).fold(0, |all, flags| all | flags)
    };
    assert_ne!(namespaces(Network::None) & NEW_NET, 0);
    assert_eq!(namespaces(Network::Host) & NEW_NET, 0);
}

#[test]
fn an_empty_filter_is_left_out_only_where_none_is_required() {
    let has_filter = |required| {
        let plan = instance_inner_plan(&InstanceSpec { seccomp: Vec::new(), required, ..spec() });
        plan.steps().iter().any(|planned| matches!(planned.step, Step::Seccomp(_)))
    };
    // Left in, it fails in the executor: a server that forgot its filter must not start functions.
    let level = |level| has_filter(Layers::required_at(level));
    assert!(level(IsolationLevel::Strict) && level(IsolationLevel::Standard));
    assert!(!level(IsolationLevel::None));
}

#[test]
fn the_zygote_leaves_the_host_behind_before_it_runs_python() {
    for privilege in [Privilege::Root, Privilege::Unprivileged { uid: 1, gid: 1 }] {
        let plan = zygote(privilege);
        let at = |wanted: fn(&Step) -> bool| position(&plan, wanted);
        assert_order(
            &plan,
            &[
                ("private mounts", at(|step| *step == Step::MakePrivate)),
                ("tree", at(|step| matches!(step, Step::MountTmpfs { .. }))),
                ("pivot", at(|step| *step == Step::PivotRoot("/run/faas/root".into()))),
                ("detach", at(|step| *step == Step::DetachOldRoot)),
                ("read-only", at(|step| *step == Step::ReadOnly { path: "/".into(), recursive: true })),
                ("capabilities", at(|step| matches!(step, Step::SetCaps { .. }))),
                ("close", at(|step| *step == Step::CloseFrom(4))),
                ("exec", at(|step| matches!(step, Step::Exec { .. }))),
            ],
        );
        assert!(matches!(plan.steps().last(), Some(Planned { step: Step::Exec { .. }, .. })));
        let binds = plan.steps().iter().filter_map(|planned| match &planned.step {
            Step::Bind { target, .. } => Some(target),
            _ => None,
        });
        binds.for_each(|target| assert!(target.starts_with("/run/faas/root"), "{}", target.display()));
    }
}

#[test]
fn the_zygotes_environment_says_nothing_of_the_server() {
    let plan = zygote(Privilege::Root);
    let Some(Planned { step: Step::Exec { path, arguments, environment }, .. }) = plan.steps().last() else {
        panic!("no exec");
    };
    assert_eq!(path, Path::new("/opt/python/bin/python3.12"));
    assert_eq!(arguments[1..], ["-I", "-S", "-B", "/faas/zygote.py"]);
    let names: Vec<&str> = environment.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["PATH", "LANG", "HOME"]);
}

#[test]
fn the_encoding_of_a_step_is_what_the_executor_documents() {
    let step = Step::Symlink { target: "a".into(), path: "/b".into() };
    let bytes = Plan::new([step]).encode();
    let expected = [
        b"fpl1".as_slice(),
        &[1, 0, 0, 0],          // one step
        &[5, 0, 1, 0],          // symlink, required
        &[13, 0, 0, 0],         // bytes of fields
        &[2, 0, 0, 0, b'a', 0], // a string with its end
        &[3, 0, 0, 0, b'/', b'b', 0],
    ];
    assert_eq!(bytes, expected.concat());
}

#[test]
fn a_nul_in_a_path_is_refused_and_not_cut_at() {
    let plan = Plan::new([Step::Chdir("/\0/etc".into())]);
    let failure = crate::sys::executor::run(&plan.encode()).unwrap_err();
    assert_eq!(failure.errno, crate::sys::executor::EBADMSG);
}

#[test]
fn a_description_numbers_the_steps_as_failures_do() {
    let lines = instance_outer_plan(&InstanceSpec { required: Layers::NONE, ..spec() }).describe();
    assert_eq!(lines[1], "  1  mount_namespace    new namespaces: mount (if the host can)");
}
