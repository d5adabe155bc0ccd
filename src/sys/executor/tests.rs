//! What the executor does with plans that never come from `sandbox::plan`, and whether its tables are right. That good
//! plans do what they say is shown by `tests/sandbox_plan.rs`.

use proptest::prelude::*;

use super::{kernel::nr, run, step_name, step_named_in, Failure, Opcode, EBADMSG, MAGIC};

fn plan(count: u16, steps: &[u8]) -> Vec<u8> {
    let mut plan = MAGIC.to_vec();
    plan.extend(count.to_le_bytes());
    plan.extend([0, 0]);
    plan.extend(steps);
    plan
}

fn step(opcode: Opcode, required: u8, fields: &[u8]) -> Vec<u8> {
    let mut step = (opcode as u16).to_le_bytes().to_vec();
    step.extend([required, 0]);
    step.extend((fields.len() as u32).to_le_bytes());
    step.extend(fields);
    step
}

/// A write to a descriptor that is never open: fails with EBADF and changes nothing.
fn harmless(required: u8) -> Vec<u8> {
    step(Opcode::WriteFd, required, &[0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, b'x'])
}

const BROKEN: i32 = EBADMSG;

#[test]
fn system_call_numbers_are_those_of_this_architecture() {
    let pairs = [
        (nr::CAPSET, libc::SYS_capset),
        (nr::CHDIR, libc::SYS_chdir),
        (nr::CLOSE, libc::SYS_close),
        (nr::CLOSE_RANGE, libc::SYS_close_range),
        (nr::CONNECT, libc::SYS_connect),
        (nr::DUP3, libc::SYS_dup3),
        (nr::EXECVE, libc::SYS_execve),
        (nr::FCHMOD, libc::SYS_fchmod),
        (nr::FCNTL, libc::SYS_fcntl),
        (nr::GETPID, libc::SYS_getpid),
        (nr::LANDLOCK_ADD_RULE, libc::SYS_landlock_add_rule),
        (nr::LANDLOCK_CREATE_RULESET, libc::SYS_landlock_create_ruleset),
        (nr::LANDLOCK_RESTRICT_SELF, libc::SYS_landlock_restrict_self),
        (nr::MKDIRAT, libc::SYS_mkdirat),
        (nr::MOUNT, libc::SYS_mount),
        (nr::MOUNT_SETATTR, libc::SYS_mount_setattr),
        (nr::OPENAT, libc::SYS_openat),
        (nr::PIDFD_OPEN, libc::SYS_pidfd_open),
        (nr::PIVOT_ROOT, libc::SYS_pivot_root),
        (nr::PPOLL, libc::SYS_ppoll),
        (nr::PRCTL, libc::SYS_prctl),
        (nr::PRLIMIT64, libc::SYS_prlimit64),
        (nr::READ, libc::SYS_read),
        (nr::RT_SIGPROCMASK, libc::SYS_rt_sigprocmask),
        (nr::SECCOMP, libc::SYS_seccomp),
        (nr::SENDMSG, libc::SYS_sendmsg),
        (nr::SETGROUPS, libc::SYS_setgroups),
        (nr::SETHOSTNAME, libc::SYS_sethostname),
        (nr::SETNS, libc::SYS_setns),
        (nr::SETRESGID, libc::SYS_setresgid),
        (nr::SETRESUID, libc::SYS_setresuid),
        (nr::SETSID, libc::SYS_setsid),
        (nr::SOCKET, libc::SYS_socket),
        (nr::STATFS, libc::SYS_statfs),
        (nr::SYMLINKAT, libc::SYS_symlinkat),
        (nr::UMASK, libc::SYS_umask),
        (nr::UMOUNT2, libc::SYS_umount2),
        (nr::UNSHARE, libc::SYS_unshare),
        (nr::WRITE, libc::SYS_write),
    ];
    for (position, (ours, theirs)) in pairs.into_iter().enumerate() {
        assert_eq!(ours, theirs, "entry {position}");
    }
    let flags = [
        (super::kernel::O_CREAT, libc::O_CREAT),
        (super::kernel::O_EXCL, libc::O_EXCL),
        (super::kernel::O_CLOEXEC, libc::O_CLOEXEC),
        (super::kernel::O_PATH, libc::O_PATH),
        (super::kernel::O_DIRECTORY, libc::O_DIRECTORY),
        (super::kernel::O_NOFOLLOW, libc::O_NOFOLLOW),
    ];
    for (position, (ours, theirs)) in flags.into_iter().enumerate() {
        assert_eq!(ours, theirs as u32, "flag {position}");
    }
}

#[test]
fn a_damaged_plan_runs_no_step() {
    let good = harmless(1);
    let mut wrong_magic = plan(1, &good);
    wrong_magic[3] = b'2';
    let cases: [(&str, Vec<u8>, u16); 8] = [
        ("nothing at all", Vec::new(), 0),
        ("another format", wrong_magic, 0),
        ("no steps", plan(0, &[]), 0),
        ("fewer steps than announced", plan(2, &good), 1),
        ("more bytes than announced", plan(1, &[good.clone(), vec![0]].concat()), 0),
        ("a step that is cut", plan(2, &[good.clone(), good[..good.len() - 1].to_vec()].concat()), 1),
        ("an unknown step", plan(2, &[good.clone(), vec![0xff; 8]].concat()), 1),
        ("neither required nor not", plan(2, &[good, harmless(2)].concat()), 1),
    ];
    for (what, bytes, step) in cases {
        // The first step would have failed with EBADF: had it run, that would be the answer.
        assert_eq!(run(&bytes), Err(Failure { step, errno: BROKEN }), "{what}");
    }
}

#[test]
fn a_damaged_step_is_not_excused_by_being_optional() {
    let text_without_end = [1, 0, 0, 0, b'/'];
    let text_with_two_ends = [3, 0, 0, 0, b'/', 0, 0];
    let something_after = [2, 0, 0, 0, b'/', 0, 9];
    for fields in [&[][..], &text_without_end, &text_with_two_ends, &something_after] {
        let bytes = plan(1, &step(Opcode::Chdir, 0, fields));
        assert_eq!(run(&bytes), Err(Failure { step: 0, errno: BROKEN }), "{fields:?}");
    }
    assert_eq!(run(&plan(1, &step(Opcode::Seccomp, 0, &[0, 0, 0, 0]))), Err(Failure { step: 0, errno: BROKEN }));
}

#[test]
fn an_optional_step_may_fail_and_a_required_one_ends_the_plan() {
    assert_eq!(run(&plan(1, &harmless(0))), Ok(()));
    let bytes = plan(3, &[harmless(0), harmless(1), harmless(1)].concat());
    assert_eq!(run(&bytes), Err(Failure { step: 1, errno: libc::EBADF }));
    assert_eq!(step_name(&bytes, 1), "join cgroup");
    assert_eq!(step_name(&bytes, 3), "damaged plan");
    let user_namespace = plan(1, &step(Opcode::Unshare, 1, &0x1000_0000_u32.to_le_bytes()));
    assert_eq!(step_name(&user_namespace, 0), "new user namespace");
}

#[test]
fn a_step_is_recognised_in_a_message_and_nothing_else_is() {
    assert_eq!(step_named_in("step 2: mount proc: Operation not permitted"), Some("mount proc"));
    assert_eq!(step_named_in("step 9: new user namespace: Operation not permitted"), Some("new user namespace"));
    assert_eq!(step_named_in("step 30: load seccomp filter: Invalid argument"), Some("load seccomp filter"));
    for other in ["", "step", "step 2: mount proc", "step x: mount proc: y", "step 2: /etc/shadow: y", "mount proc: y"]
    {
        assert_eq!(step_named_in(other), None, "{other}");
    }
}

#[test]
fn exec_takes_no_more_strings_than_it_has_room_for() {
    let mut fields = vec![2, 0, 0, 0, b'/', 0];
    fields.extend(1000u32.to_le_bytes());
    (0..1000).for_each(|_| fields.extend([1, 0, 0, 0, 0]));
    assert_eq!(run(&plan(1, &step(Opcode::Exec, 1, &fields))), Err(Failure { step: 0, errno: BROKEN }));
}

proptest! {
    /// Only framing and names are looked at: what random steps would do to this process is anyone's guess.
    #[test]
    fn random_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200), count in 0u16..5, at in 0u16..6) {
        step_name(&body, at);
        step_name(&plan(count, &body), at);
    }
}
