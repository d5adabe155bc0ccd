use super::*;

/// A host that gives everything.
fn good() -> HostFacts {
    HostFacts {
        euid: 0,
        uids: 1 << 32,
        kernel: "6.18.44".into(),
        namespaces: NAMESPACES.map(|(what, _)| (what, Namespace::Available)).to_vec(),
        seccomp: true,
        filters_ask: true,
        may_trace: true,
        pidfd: true,
        mount_setattr: true,
        landlock_abi: Some(7),
        open_files_max: None,
        controllers: Controller::ALL.map(|controller| (controller, Ok(Version::V2))).to_vec(),
        restrictions: vec![],
    }
}

fn names(missing: &[Missing]) -> Vec<String> {
    missing.iter().map(|missing| missing.what.to_string()).collect()
}

#[test]
fn a_good_host_misses_nothing_and_every_line_is_ok() {
    let report = good().report(IsolationLevel::Strict);
    assert_eq!(good().missing_for(IsolationLevel::Strict), []);
    assert_eq!(report.worst(), Status::Ok, "{}", report.render());
    assert_eq!(report.lines.len(), 1 + 2 + 7 + 1 + 3 + 4);
}

#[test]
fn each_layer_that_is_taken_away_is_missed_by_its_name() {
    let without = |take: fn(&mut HostFacts)| {
        let mut facts = good();
        take(&mut facts);
        let missing = facts.missing_for(IsolationLevel::Strict);
        assert_eq!(facts.report(IsolationLevel::Strict).worst(), Status::Failed);
        assert!(missing.iter().all(|missing| !missing.mend.is_empty()));
        names(&missing).join(",")
    };
    assert_eq!(without(|facts| facts.euid = 1000), "identity");
    assert_eq!(without(|facts| facts.uids = 65536), "identity");
    assert_eq!(without(|facts| facts.namespaces[0].1 = Namespace::Refused(Errno::EPERM)), "user_namespace");
    assert_eq!(without(|facts| facts.namespaces[3].1 = Namespace::Unknown), "network_namespace");
    assert_eq!(without(|facts| facts.seccomp = false), "seccomp");
    assert_eq!(without(|facts| facts.pidfd = false), "pidfd");
    assert_eq!(without(|facts| facts.controllers[0].1 = Err(Absence::NotMounted)), "memory_limit");
}

#[test]
fn standard_is_degraded_where_strict_fails_and_only_the_essential_stops_it() {
    let mut facts = good();
    facts.euid = 1000;
    facts.controllers[2].1 = Err(Absence::NotPermitted("/sys/fs/cgroup/x".into()));
    assert_eq!(names(&facts.missing_for(IsolationLevel::Standard)), ["identity", "cpu_limit"]);
    assert!(facts.missing_for(IsolationLevel::Standard).iter().all(|missing| !missing.essential));
    assert_eq!(facts.report(IsolationLevel::Standard).worst(), Status::Degraded);
    assert_eq!(facts.missing_for(IsolationLevel::None), []);

    facts.pidfd = false;
    assert!(facts.missing_for(IsolationLevel::None)[0].essential);
    assert_eq!(facts.report(IsolationLevel::Standard).worst(), Status::Failed);
}

#[test]
fn what_instances_go_without_is_told_once_and_by_the_names_of_layers() {
    assert!(good().missing_layers().is_empty());
    let facts = HostFacts { euid: 1000, landlock_abi: Some(1), pidfd: false, ..good() };
    assert_eq!(facts.missing_layers().to_string(), "identity, landlock");
}

#[test]
fn standard_insists_on_the_namespaces_that_the_host_has() {
    let mut facts = good();
    facts.namespaces[5].1 = Namespace::Unknown;
    let required = facts.required_layers(IsolationLevel::Standard);
    assert!(required.contains(Layer::NetworkNamespace) && required.contains(Layer::IpcNamespace));
    assert!(!required.contains(Layer::UtsNamespace) && !required.contains(Layer::UserNamespace));
    assert!(!facts.required_layers(IsolationLevel::None).contains(Layer::NetworkNamespace));
    assert_eq!(facts.required_layers(IsolationLevel::Strict), Layers::of(Layer::ALL));
    facts.landlock_abi = None;
    assert_eq!(facts.required_layers(IsolationLevel::Strict), Layers::of(Layer::ALL).except(Layer::Landlock));
}

#[test]
fn what_restricts_user_namespaces_is_named_in_the_mend() {
    let ubuntu = restrictions(|path| match path {
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns" => Ok("1\n".into()),
        "/proc/sys/user/max_user_namespaces" => Ok("31000\n".into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    });
    assert_eq!(ubuntu, ["kernel.apparmor_restrict_unprivileged_userns = 1"]);
    let mut facts = HostFacts { euid: 1000, restrictions: ubuntu, ..good() };
    facts.namespaces[1].1 = Namespace::Refused(Errno::EACCES);
    let text = facts.report(IsolationLevel::Standard).render();
    assert!(text.contains("apparmor_restrict_unprivileged_userns = 1"), "{text}");
}

#[test]
fn extras_degrade_and_never_fail() {
    let facts = HostFacts { mount_setattr: false, landlock_abi: None, open_files_max: Some(1024), ..good() };
    let report = facts.report(IsolationLevel::Strict);
    assert_eq!(report.worst(), Status::Degraded);
    assert_eq!(report.lines.iter().filter(|line| line.mend.is_some()).count(), 3);
}

#[test]
fn outbound_network_says_what_it_lacks() {
    let without = |take: fn(&mut HostFacts)| {
        let mut facts = good();
        take(&mut facts);
        let text = facts.report(IsolationLevel::Strict).render();
        let lacks = facts.outbound_lacks(Layers::NONE).unwrap_or_default();
        assert!(text.contains("outbound network") && text.contains(&lacks), "{text}");
        lacks
    };
    assert_eq!(without(|_| ()), "");
    assert_eq!(without(|facts| facts.kernel = "5.9.0".into()), "");
    assert_eq!(without(|facts| facts.kernel = "5.8.19-x".into()), "it takes Linux 5.9 or later, this is 5.8.19-x");
    assert_eq!(without(|facts| facts.kernel = "4.19".into()), "it takes Linux 5.9 or later, this is 4.19");
    assert!(without(|facts| facts.filters_ask = false).contains("5.9"));
    assert!(without(|facts| facts.may_trace = false).contains("CAP_SYS_PTRACE"));
    assert!(without(|facts| facts.namespaces[3].1 = Namespace::Unknown).contains("network namespace"));
    assert!(good().outbound_lacks(Layers::of(&[Layer::Seccomp])).is_some());
    assert!(good().outbound_lacks(Layers::of(&[Layer::NetworkNamespace])).is_some());
    assert_eq!(effective_capabilities("CapPrm:\t0\nCapEff:\t00000000a80c25fb\n") & CAP_SYS_PTRACE, CAP_SYS_PTRACE);
    assert_eq!(effective_capabilities("CapEff:\t00000000a80425fb\n") & CAP_SYS_PTRACE, 0);
}

#[test]
fn kernel_texts_are_read_as_they_are_and_nonsense_is_the_worst_case() {
    assert_eq!(mapped_ids("         0          0 4294967295\n"), 4_294_967_295);
    assert_eq!(mapped_ids("0 100000 65536\n65536 1000 1\n"), 65_537);
    assert_eq!(mapped_ids("x"), 0);
    let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024       524288       files\n";
    assert_eq!(open_files_max(limits), Some(524_288));
    assert_eq!(open_files_max("Max open files  1024  unlimited  files"), None);
    assert_eq!(open_files_max(""), Some(0));
    assert!(has_actions("kill_process kill_thread trap errno user_notif trace log allow\n", &FILTER_ACTIONS));
    assert!(!has_actions("kill_thread trap errno allow", &FILTER_ACTIONS), "before Linux 4.14");
    assert!(!has_actions("", &FILTER_ACTIONS));
}
