//! What attacks meet in a container that is not what they meet in a sandbox of processes, and which have nothing to attack
//! there. What is not named here meets the same.

use super::table::{Case, Meets, Outcome};
use crate::common::mode::in_containers;
use Meets::{Refused, Says};

/// What is different in a container.
pub(crate) enum Differs {
    /// It meets this, in a call and as top-level code.
    Meets(Meets),
    /// There is no such thing to attack, for this reason.
    DoesNotApply(&'static str),
}
use Differs::{DoesNotApply, Meets as Is};
use Outcome::{Otherwise, Through};

/// By the names of the cases.
pub(crate) const DIFFERENT: &[(&str, Differs)] = &[
    (
        "clears_the_death_signal",
        DoesNotApply("the engine is its parent and not the server, whose end it learns in another way"),
    ),
    (
        "reads_its_own_memory_as_a_file",
        DoesNotApply("its process is dumpable there, and its user is no other's: it sees its own memory anyway"),
    ),
    // Its loopback works, and nobody listens on it.
    ("connects_to_the_host", Is(Refused(&["ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "ECONNREFUSED"]))),
    ("looks_at_the_names_of_the_host", Is(Says(r#"{"servers":["127.0.0.53"]}"#))),
    (
        "looks_at_its_devices",
        Is(Says(
            r#"["fd","full","mqueue","null","ptmx","pts","random","shm","stderr","stdin","stdout","tty","urandom","zero"]"#,
        )),
    ),
    ("is_a_user_of_its_own", Is(Says(r#"{"one":true,"of those for it":true}"#))),
    // What is masked there is empty.
    ("reads_of_the_kernel", Is(Refused(&["ENOENT", "ENODATA", "EPERM", "EACCES"]))),
    // What the profile cannot say the error of has its default's: ENOSYS, or EPERM by engines that know no other (20.10).
    ("types_into_a_terminal", Is(Refused(&["EPERM", "ENOENT", "ENOSYS"]))),
    ("makes_sockets_of_other_kinds", Is(Refused(&["EPERM", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ENOSYS"]))),
    ("changes_who_it_is", Is(Refused(&["EPERM", "ENOSYS"]))),
];

/// What is different for this case in the mode that functions run in.
pub(crate) fn difference(case: &Case) -> Option<&'static Differs> {
    let found = DIFFERENT.iter().find(|(name, _)| *name == case.name).filter(|_| in_containers());
    found.map(|(_, differs)| differs)
}

type Sets = &'static [&'static [&'static str]];

/// How an attack fares in containers that lack walls: the name of the case, and sets of walls, without any of which it fares
/// so. The sets are the least ones (`contained_matrix.rs` measures it).
pub(crate) const HELD: &[(&str, Outcome, Sets)] = &[
    ("forks_for_ever", Through, &[&["tasks_limit"]]),
    ("forks_that_fork", Through, &[&["tasks_limit"]]),
    ("starts_threads_for_ever", Through, &[&["tasks_limit"]]),
    ("allocates_ten_times_its_memory", Through, &[&["memory_limit"]]),
    ("two_children_share_it_out", Through, &[&["memory_limit"]]),
    ("fills_tmp", Through, &[&["tmpfs_limits"]]),
    ("fills_shm", Through, &[&["tmpfs_limits"]]),
    ("makes_a_million_files", Through, &[&["tmpfs_limits"]]),
    ("writes_a_sparse_terabyte", Through, &[&["rlimits"]]),
    ("opens_files_until_refused", Through, &[&["rlimits"]]),
    ("opens_sockets_until_refused", Through, &[&["rlimits"]]),
    ("burns_cpu_on_many_threads", Through, &[&["cpu_limit"]]),
    ("crashes_a_child", Through, &[&["rlimits"]]),
    ("connects_to_the_host", Through, &[&["network_namespace"]]),
    ("sends_a_datagram", Through, &[&["network_namespace"]]),
    ("connects_to_sockets_with_names", Through, &[&["network_namespace"]]),
    ("connects_to_docker", Through, &[&["tree"]]),
    ("looks_for_memory_and_queues_of_others", Through, &[&["ipc_namespace"]]),
    ("watches_what_others_open", Through, &[&["seccomp"]]),
    ("reads_files_of_the_host", Through, &[&["tree"]]),
    ("walks_out_by_links_and_dots", Through, &[&["tree"]]),
    ("writes_a_file_of_the_host", Otherwise, &[&["tree"]]),
    ("runs_a_program_with_setuid", Otherwise, &[&["tree"]]),
    ("writes_to_what_it_runs_on", Through, &[&["read_only_root"]]),
    ("breaks_out_of_its_root", Through, &[&["seccomp"]]),
    ("looks_where_its_cgroup_is", Through, &[&["cgroup_namespace"]]),
    ("makes_devices", Through, &[&["seccomp"]]),
    ("raises_its_limits", Through, &[&["rlimits"]]),
    ("reads_of_the_kernel", Through, &[&["masks"]]),
    ("looks_at_the_host_name", Through, &[&["uts_namespace"]]),
    ("mounts_in_a_namespace_of_its_own", Through, &[&["seccomp"]]),
    ("mounts_a_cgroup", Through, &[&["seccomp"]]),
    ("makes_namespaces", Through, &[&["seccomp"]]),
    ("makes_namespaces_with_clone3", Through, &[&["seccomp"]]),
    ("looks_into_a_child", Through, &[&["seccomp"]]),
    ("keeps_keys", Through, &[&["seccomp"]]),
    ("uses_dangerous_machinery", Through, &[&["seccomp"]]),
    ("uses_machinery_that_is_absent", Through, &[&["seccomp"]]),
    ("calls_as_another_architecture", Through, &[&["seccomp"]]),
    ("calls_with_the_bit_of_x32", Through, &[&["seccomp"]]),
    ("makes_sockets_of_other_kinds", Through, &[&["seccomp"]]),
    ("names_the_host", Through, &[&["seccomp"]]),
    ("changes_who_it_is", Through, &[&["seccomp"]]),
];
