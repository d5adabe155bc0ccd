//! The filter is run by an interpreter of its own here, and its verdicts are compared with lists that were written
//! from the requirement and not from the policy.

mod outbound;

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];
const I386: u32 = 0x4000_0003;

/// `struct seccomp_data`, as far as the filter may look.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: u32,
    arch: u32,
    arguments: [u64; 6],
}

/// Runs a program as the kernel would, and counts its steps. Panics on what the kernel's checker would refuse.
fn run(program: &[Instruction], call: Call) -> (u32, usize) {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.arch,
        16..64 if offset % 8 == 0 => call.arguments[(offset as usize - 16) / 8] as u32,
        _ => panic!("reads offset {offset}"),
    };
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1.. {
        let Instruction { code, jump_true, jump_false, k } = program[at];
        at += 1;
        let mut choose = |holds| at += usize::from(if holds { jump_true } else { jump_false });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => choose(accumulator == k),
            0x35 => choose(accumulator >= k),
            0x06 => return (k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
    unreachable!()
}

fn answer(arch: Arch, name: &str, arguments: &[u64]) -> Verdict {
    answer_of(Sockets::Direct, arch, name, arguments)
}

fn answer_of(sockets: Sockets, arch: Arch, name: &str, arguments: &[u64]) -> Verdict {
    Filter::new(sockets, arch).answer(name, arguments)
}

/// A filter that is asked more than once.
pub(crate) struct Filter {
    arch: Arch,
    program: Vec<Instruction>,
    numbers: BTreeMap<&'static str, u32>,
}

impl Filter {
    pub(crate) fn new(sockets: Sockets, arch: Arch) -> Self {
        Filter { arch, program: program(arch, sockets), numbers: numbers(arch) }
    }

    pub(crate) fn answer(&self, name: &str, arguments: &[u64]) -> Verdict {
        let mut padded = [0; 6];
        padded[..arguments.len()].copy_from_slice(arguments);
        decode(run(&self.program, Call { number: self.numbers[name], arch: self.arch.audit(), arguments: padded }).0)
    }
}

fn decode(action: u32) -> Verdict {
    match action {
        0x7FFF_0000 => Verdict::Allow,
        0x8000_0000 => Verdict::KillProcess,
        0x7FC0_0000 => Verdict::Ask,
        0x0005_0000..0x0006_0000 => Verdict::Errno(action as u16),
        other => panic!("action {other:#x}"),
    }
}

fn numbers(arch: Arch) -> BTreeMap<&'static str, u32> {
    table::numbered(arch.table()).map(|(number, name)| (name, number)).collect()
}

/// What no function may ever do, from the requirement.
pub(crate) const FORBIDDEN: &str = "unshare setns userfaultfd bpf perf_event_open keyctl add_key request_key ptrace \
    process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp mount umount2 open_tree \
    open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr statmount listmount pivot_root chroot \
    name_to_handle_at open_by_handle_at kexec_load kexec_file_load init_module finit_module delete_module \
    create_module swapon swapoff acct quotactl quotactl_fd syslog clock_settime clock_adjtime settimeofday adjtimex \
    reboot personality modify_ldt iopl ioperm fanotify_init fanotify_mark vmsplice sethostname setdomainname seccomp \
    capset setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid vhangup uselib \
    lookup_dcookie nfsservctl memfd_secret migrate_pages move_pages mbind set_mempolicy sync syncfs \
    landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_set_self_attr mq_open ioprio_set \
    sched_setattr remap_file_pages _sysctl sysfs ustat";

/// What CPython, its standard library and glibc 2.31 to 2.41 call in the course of ordinary work.
pub(crate) const NEEDED: &str =
    "read write openat close fstat newfstatat statx lseek mmap mprotect munmap brk rt_sigaction \
    rt_sigprocmask rt_sigreturn pread64 pwrite64 readv writev faccessat faccessat2 pipe2 pselect6 sched_yield mremap \
    madvise dup dup3 nanosleep getpid sendfile connect accept4 sendto recvfrom sendmsg recvmsg shutdown bind listen \
    getsockname getpeername setsockopt getsockopt execve exit wait4 kill uname fcntl flock fsync fdatasync \
    ftruncate getdents64 getcwd chdir renameat2 mkdirat unlinkat readlinkat linkat symlinkat fchmod fchmodat \
    fchmodat2 fchownat umask getrusage sysinfo times getuid getgid geteuid getegid getppid setsid setpgid getpgid \
    getsid getgroups sigaltstack gettid futex sched_getaffinity sched_setaffinity set_tid_address epoll_create1 \
    epoll_ctl epoll_pwait epoll_pwait2 clock_gettime clock_getres clock_nanosleep exit_group tgkill utimensat \
    waitid ppoll set_robust_list timerfd_create eventfd2 signalfd4 close_range pidfd_open \
    pidfd_send_signal getrandom memfd_create membarrier copy_file_range rseq futex_waitv getxattr listxattr \
    get_robust_list setitimer restart_syscall shmget semget msync mincore mlock timer_create splice";

/// Of the above, what only x86_64 has.
pub(crate) const NEEDED_X86_64: &str =
    "open stat lstat poll access pipe select dup2 alarm fork vfork rename mkdir rmdir unlink \
    symlink readlink chmod chown time getdents epoll_create epoll_wait eventfd utime utimes arch_prctl getpgrp";

#[test]
fn what_must_never_happen_is_refused_with_eperm() {
    for arch in ARCHES {
        let known = numbers(arch);
        for name in FORBIDDEN.split_ascii_whitespace().filter(|name| known.contains_key(name)) {
            assert_eq!(answer(arch, name, &[]), EPERM, "{name} on {arch:?}");
        }
    }
}

#[test]
fn what_python_needs_is_allowed() {
    for arch in ARCHES {
        for name in NEEDED.split_ascii_whitespace() {
            assert_eq!(answer(arch, name, &[]), Verdict::Allow, "{name} on {arch:?}");
        }
    }
    for name in NEEDED_X86_64.split_ascii_whitespace() {
        assert_eq!(answer(Arch::X86_64, name, &[]), Verdict::Allow, "{name}");
    }
}

#[test]
fn what_has_another_way_is_absent() {
    for arch in ARCHES {
        for name in ["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup", "io_submit"] {
            assert_eq!(answer(arch, name, &[]), ENOSYS, "{name} on {arch:?}");
        }
    }
}

#[test]
fn every_number_from_0_to_599_has_its_verdict() {
    let always: BTreeSet<&str> = ALLOWED.iter().flat_map(|(_, names)| names.split_ascii_whitespace()).collect();
    let absent: BTreeSet<&str> = ABSENT.iter().flat_map(|(_, names)| names.split_ascii_whitespace()).collect();
    // With all arguments zero: the signal 0 of clone and prlimit64's own pid pass, a type 0 of node as well, and an option
    // that is no flow label.
    let zero_arguments = |name| match name {
        "clone" | "prlimit64" | "mknod" | "mknodat" | "setsockopt" => Verdict::Allow,
        "socket" | "socketpair" => EAFNOSUPPORT,
        _ => EPERM,
    };
    for arch in ARCHES {
        let names: BTreeMap<u32, &str> = table::numbered(arch.table()).collect();
        let program = program(arch, Sockets::Direct);
        for number in 0..600 {
            let expected = match names.get(&number) {
                None => ENOSYS,
                Some(name) if always.contains(name) => Verdict::Allow,
                Some(name) if absent.contains(name) => ENOSYS,
                Some(name) => zero_arguments(*name),
            };
            let (action, _) = run(&program, Call { number, arch: arch.audit(), arguments: [0; 6] });
            assert_eq!(decode(action), expected, "{number} {:?} on {arch:?}", names.get(&number));
        }
    }
}

#[test]
fn another_architecture_kills_whatever_the_number() {
    for arch in ARCHES {
        let program = program(arch, Sockets::Direct);
        for number in 0..600 {
            let other = ARCHES.into_iter().find(|&other| other != arch).unwrap().audit();
            for foreign in [I386, 0, !arch.audit(), other] {
                let (action, _) = run(&program, Call { number, arch: foreign, arguments: [0; 6] });
                assert_eq!(decode(action), Verdict::KillProcess);
            }
        }
    }
    for number in [X32_BIT, X32_BIT + 1, X32_BIT | 520, u32::MAX] {
        let call = Call { number, arch: Arch::X86_64.audit(), arguments: [0; 6] };
        assert_eq!(decode(run(&program(Arch::X86_64, Sockets::Direct), call).0), Verdict::KillProcess, "{number:#x}");
    }
}

#[test]
fn clone_makes_threads_and_processes_but_no_namespace() {
    let pthread_create = 0x003d_0f00;
    let fork = 0x0120_0011;
    let posix_spawn = 0x4111;
    for arch in ARCHES {
        for flags in [pthread_create, fork, posix_spawn, 17] {
            assert_eq!(answer(arch, "clone", &[flags]), Verdict::Allow, "{flags:#x}");
        }
        for bit in [0x80, 0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            for others in [0, 17, pthread_create, fork, 0xFFFF_FFFF_0000_0000] {
                assert_eq!(answer(arch, "clone", &[others | bit]), EPERM, "{bit:#x}");
            }
        }
    }
}

#[test]
fn terminal_injection_is_refused_also_with_high_bits_set() {
    for arch in ARCHES {
        for request in [0x5412, 0x541C, 0x1_0000_5412, 0xFFFF_FFFF_0000_541C] {
            assert_eq!(answer(arch, "ioctl", &[0, request]), EPERM, "{request:#x}");
        }
        for request in [0x5401, 0x5421, 0x541B, 0x5451, 0x8933, 0xFFFF_FFFF_0000_5401] {
            assert_eq!(answer(arch, "ioctl", &[0, request]), Verdict::Allow, "{request:#x}");
        }
    }
}

#[test]
fn sockets_are_unix_or_internet_stream_or_datagram() {
    let (stream, datagram, raw, sequential, nonblock, cloexec) = (1, 2, 3, 5, 0x800, 0x80000);
    for arch in ARCHES {
        for call in ["socket", "socketpair"] {
            for domain in 0..50 {
                let expected = if [1, 2, 10].contains(&domain) { Verdict::Allow } else { EAFNOSUPPORT };
                assert_eq!(answer(arch, call, &[domain, stream | nonblock | cloexec]), expected, "domain {domain}");
            }
            for kind in 0..12 {
                let expected = if [stream, datagram].contains(&kind) { Verdict::Allow } else { EPERM };
                assert_eq!(answer(arch, call, &[2, kind, 0]), expected, "type {kind}");
            }
            assert_eq!(answer(arch, call, &[1, sequential | cloexec]), EPERM);
            assert_eq!(answer(arch, call, &[2, raw, 1]), EPERM);
            for (protocol, name) in [(1, "ICMP"), (132, "SCTP"), (136, "UDP-Lite"), (115, "L2TP"), (262, "MPTCP")] {
                assert_eq!(answer(arch, call, &[2, datagram, protocol]), EPROTONOSUPPORT, "{name}");
            }
            assert_eq!(answer(arch, call, &[10, stream, 6]), Verdict::Allow);
            assert_eq!(answer(arch, call, &[2, datagram, 17]), Verdict::Allow);
        }
    }
}

#[test]
fn flow_labels_which_outlive_their_socket_are_refused() {
    for arch in ARCHES {
        assert_eq!(answer(arch, "setsockopt", &[3, 41, 32]), ENOPROTOOPT);
        assert_eq!(
            answer(arch, "setsockopt", &[3, 1 << 32 | 41, 1 << 32 | 32]),
            ENOPROTOOPT,
            "the kernel takes an int"
        );
        for (level, option) in [(41, 26), (41, 31), (41, 33), (0, 32), (1, 32), (6, 32), (40, 32), (42, 32)] {
            assert_eq!(answer(arch, "setsockopt", &[3, level, option]), Verdict::Allow, "{level} {option}");
        }
    }
}

#[test]
fn prctl_answers_questions_and_names_threads_and_no_more() {
    let (set_name, get_name, get_dumpable, set_vma) = (15, 16, 3, 0x5356_4D41);
    let refused = [1, 4, 8, 14, 22, 24, 26, 28, 29, 31, 32, 35, 36, 41, 47, 50, 53, 55, 59, 62, 65, 0x5961_6D61];
    for arch in ARCHES {
        for option in [set_name, get_name, get_dumpable, set_vma] {
            assert_eq!(answer(arch, "prctl", &[option]), Verdict::Allow, "{option}");
        }
        for option in refused {
            assert_eq!(answer(arch, "prctl", &[option]), EPERM, "{option}");
        }
    }
}

#[test]
fn limits_are_changed_on_oneself_only_and_nodes_are_no_devices() {
    let (fifo, regular, socket, character, block) = (0o010_600, 0o100_600, 0o140_600, 0o020_600, 0o060_600);
    for arch in ARCHES {
        assert_eq!(answer(arch, "prlimit64", &[0, 7]), Verdict::Allow);
        assert_eq!(answer(arch, "prlimit64", &[2, 7]), EPERM);
        for mode in [fifo, regular, socket, 0o600] {
            assert_eq!(answer(arch, "mknodat", &[0, 0, mode]), Verdict::Allow);
        }
        for mode in [character, block] {
            assert_eq!(answer(arch, "mknodat", &[0, 0, mode]), EPERM);
        }
    }
    assert_eq!(answer(Arch::X86_64, "mknod", &[0, fifo]), Verdict::Allow);
    assert_eq!(answer(Arch::X86_64, "mknod", &[0, block]), EPERM);
}

#[test]
fn the_program_is_short_and_so_is_every_path() {
    for (arch, sockets) in ARCHES.into_iter().flat_map(|arch| [(arch, Sockets::Direct), (arch, Sockets::Brokered)]) {
        let program = program(arch, sockets);
        let arguments = [0; 6];
        let longest = (0..600).map(|number| run(&program, Call { number, arch: arch.audit(), arguments }).1).max();
        println!("{arch:?}, {sockets:?}: {} instructions, longest path {longest:?}", program.len());
        assert!(program.len() <= 4096, "the kernel takes no more");
        assert!(program.len() <= 300, "{} instructions", program.len());
        assert!(longest <= Some(24), "{longest:?}");
        assert_eq!(instance_filter(arch, sockets).len(), program.len() * 8);
    }
}

#[test]
fn every_name_of_the_policy_exists_and_stands_in_one_table() {
    let everywhere: BTreeSet<&str> = ARCHES.iter().flat_map(|&arch| numbers(arch).into_keys()).collect();
    let names = ALLOWED.iter().chain(ABSENT).map(|(_, names)| *names).chain(RULES.iter().map(|rule| rule.names));
    let mut seen = BTreeSet::new();
    for name in names.flat_map(str::split_ascii_whitespace) {
        assert!(everywhere.contains(name), "{name} is not a system call");
        assert!(seen.insert(name), "{name} stands twice");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_table_agrees_with_libc() {
    let numbers = numbers(Arch::X86_64);
    let sample = [
        ("read", libc::SYS_read),
        ("mmap", libc::SYS_mmap),
        ("ioctl", libc::SYS_ioctl),
        ("clone", libc::SYS_clone),
        ("ptrace", libc::SYS_ptrace),
        ("prctl", libc::SYS_prctl),
        ("mount", libc::SYS_mount),
        ("futex", libc::SYS_futex),
        ("keyctl", libc::SYS_keyctl),
        ("mknodat", libc::SYS_mknodat),
        ("unshare", libc::SYS_unshare),
        ("setns", libc::SYS_setns),
        ("seccomp", libc::SYS_seccomp),
        ("bpf", libc::SYS_bpf),
        ("statx", libc::SYS_statx),
        ("rseq", libc::SYS_rseq),
        ("clone3", libc::SYS_clone3),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("futex_waitv", libc::SYS_futex_waitv),
        ("fchmodat2", libc::SYS_fchmodat2),
        ("mseal", libc::SYS_mseal),
    ];
    for (name, number) in sample {
        assert_eq!(i64::from(numbers[name]), number, "{name}");
    }
}

#[test]
fn the_generic_table_has_the_published_numbers() {
    let numbers = numbers(Arch::Aarch64);
    let published = [
        ("ioctl", 29),
        ("mount", 40),
        ("openat", 56),
        ("futex", 98),
        ("unshare", 97),
        ("ptrace", 117),
        ("prctl", 167),
        ("socket", 198),
        ("clone", 220),
        ("execve", 221),
        ("mmap", 222),
        ("accept4", 242),
        ("wait4", 260),
        ("prlimit64", 261),
        ("name_to_handle_at", 264),
        ("open_by_handle_at", 265),
        ("seccomp", 277),
        ("bpf", 280),
        ("rseq", 293),
        ("pidfd_send_signal", 424),
        ("clone3", 435),
    ];
    for (name, number) in published {
        assert_eq!(numbers[name], number, "{name}");
    }
}

#[test]
fn the_description_names_every_group() {
    let text = describe(Arch::X86_64, Sockets::Direct).join("\n");
    for part in ["killed: ", "openat", "allowed in part, processes and threads", "clone3", "refused (EPERM): ", "bpf"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!describe(Arch::Aarch64, Sockets::Direct).join("\n").contains(" vfork "), "aarch64 has no vfork");
    assert!(!text.contains("instead"), "{text}");
    let brokered = describe(Arch::X86_64, Sockets::Brokered).join("\n");
    assert!(brokered.contains("instead of what is said above, the broker answers: connect"), "{brokered}");
}

proptest! {
    /// A tree over any ranges, however many and far apart, finds what a walk along them finds.
    #[test]
    fn the_tree_is_the_linear_search(
        starts in proptest::collection::btree_set(1u32.., 0..400),
        actions in proptest::collection::vec(0u32..600, 401),
        probes in proptest::collection::vec(any::<u32>(), 64),
    ) {
        let ranges: Vec<(u32, u32)> = std::iter::once(0).chain(starts).zip(actions).collect();
        let mut asm = Assembler::default();
        let labelled: Vec<_> =
            ranges.iter().map(|&(start, action)| Range { start, target: asm.ret(action) }).collect();
        let search = asm.search(&labelled);
        let entry = asm.load(OFFSET_NUMBER, u32::MAX, search);
        let program = asm.finish(entry);
        let edges = ranges.iter().flat_map(|&(start, _)| [start, start.wrapping_sub(1), start.saturating_add(1)]);
        for number in probes.into_iter().chain(edges) {
            let oracle = ranges.iter().rev().find(|&&(start, _)| start <= number).map(|&(_, action)| action);
            let (found, _) = run(&program, Call { number, arch: 0, arguments: [0; 6] });
            prop_assert_eq!(Some(found), oracle);
        }
    }

    /// Set membership, for sets with neighbours, zero and the largest value.
    #[test]
    fn one_of_is_membership(values in proptest::collection::vec(prop_oneof![0u32..20, Just(u32::MAX), any::<u32>()], 1..20),
                            probe in prop_oneof![0u32..22, any::<u32>()]) {
        let mut asm = Assembler::default();
        let (hit, miss) = (asm.ret(1), asm.ret(0));
        let search = asm.search(&one_of(&values, hit, miss));
        let entry = asm.load(OFFSET_NUMBER, u32::MAX, search);
        let program = asm.finish(entry);
        for number in values.iter().copied().chain([probe, 0, u32::MAX]) {
            let (found, _) = run(&program, Call { number, arch: 0, arguments: [0; 6] });
            prop_assert_eq!(found == 1, values.contains(&number));
        }
    }
}
