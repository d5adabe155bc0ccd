use super::*;

/// A directory that looks like a v2 group below the top. Files written there keep the last write.
fn fake_v2(offered: &str, pids: &str) -> (tempfile::TempDir, Hierarchy) {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("own.service");
    std::fs::create_dir_all(own.join("faas-x")).unwrap();
    std::fs::create_dir_all(own.join(SUPERVISOR_LEAF)).unwrap();
    std::fs::write(own.join("cgroup.controllers"), offered).unwrap();
    std::fs::write(directory.path().join("cgroup.controllers"), offered).unwrap();
    std::fs::write(own.join("cgroup.procs"), pids).unwrap();
    std::fs::write(own.join("cgroup.events"), "populated 1\n").unwrap();
    let mount_point = directory.path().to_owned();
    let hierarchy = Hierarchy { version: Version::V2, controllers: vec![], mount_point, own, read_only: false };
    (directory, hierarchy)
}

fn prepare_v2(hierarchy: &Hierarchy) -> CgroupRoot {
    let controllers = Controller::ALL.map(|controller| (controller, Err(Absence::NotMounted))).to_vec();
    let mut root = CgroupRoot { groups: vec![], controllers };
    root.prepare_v2(hierarchy, "faas-x");
    root
}

#[test]
fn a_v2_group_of_our_own_is_split_and_we_move_to_its_leaf() {
    let (_directory, hierarchy) = fake_v2("cpuset cpu io memory pids\n", &format!("{}\n", std::process::id()));
    let root = prepare_v2(&hierarchy);
    assert_eq!(std::fs::read_to_string(hierarchy.own.join("supervisor/cgroup.procs")).unwrap(), "0");
    assert!(root.controllers().iter().all(|(_, state)| *state == Ok(Version::V2)), "{:?}", root.describe());
    assert_eq!(root.groups[0].dir, hierarchy.own.join("faas-x"));
    let enabled = std::fs::read_to_string(root.groups[0].dir.join("cgroup.subtree_control")).unwrap();
    assert_eq!(enabled, "+pids", "each is enabled by a write of its own, the last is seen here");
}

#[test]
fn a_second_start_in_the_leaf_uses_the_group_above() {
    let (_directory, mut hierarchy) = fake_v2("memory pids\n", "");
    let parent = hierarchy.own.clone();
    hierarchy.own = parent.join(SUPERVISOR_LEAF);
    let root = prepare_v2(&hierarchy);
    assert_eq!(root.groups[0].dir, parent.join("faas-x"));
    assert_eq!(root.controllers()[2], (Controller::Cpu, Err(Absence::NotMounted)), "nobody has it");
}

#[test]
fn a_controller_that_the_tree_has_and_the_group_has_not_is_not_delegated() {
    let (directory, mut hierarchy) = fake_v2("memory pids\n", "");
    std::fs::write(directory.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    let parent = hierarchy.own.clone();
    hierarchy.own = parent.join(SUPERVISOR_LEAF);
    let root = prepare_v2(&hierarchy);
    assert_eq!(root.controllers()[0], (Controller::Memory, Ok(Version::V2)));
    assert_eq!(root.controllers()[2], (Controller::Cpu, Err(Absence::NotDelegated(parent))));
    assert!(root.describe()[2].contains("Delegate="), "{:?}", root.describe());
}

#[test]
fn a_read_only_v2_tree_is_named_and_mended() {
    let (_directory, mut hierarchy) = fake_v2("cpu memory pids\n", "1\n2\n");
    hierarchy.read_only = true;
    let lines = prepare_v2(&hierarchy).describe();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.contains("missing") && line.contains("read-only")), "{lines:?}");
}

#[test]
fn a_v2_tree_without_controllers_changes_nothing() {
    let (_directory, hierarchy) = fake_v2("hugetlb\n", "1\n2\n");
    let root = prepare_v2(&hierarchy);
    assert!(root.groups.is_empty());
    assert!(root.controllers().iter().all(|(_, state)| *state == Err(Absence::NotMounted)));
}

#[test]
fn the_kernels_refusals_become_absences_with_a_mend() {
    let of = |number| Absence::of(Path::new("/g"), &io::Error::from_raw_os_error(number));
    assert_eq!(of(libc::EACCES), Absence::NotPermitted("/g".into()));
    assert_eq!(of(libc::EROFS), Absence::ReadOnly("/g".into()));
    assert_eq!(of(libc::EBUSY), Absence::Occupied("/g".into()));
    assert_eq!(of(libc::ENOSPC), Absence::Refused("/g".into(), libc::ENOSPC));
    assert!(of(libc::EBUSY).mend().contains("Delegate=yes"));
}
