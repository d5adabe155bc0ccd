//! Which system calls a function may make: the allow-list, and its compilation into a classic BPF program.
//!
//! Pure: it makes bytes, and the sandbox plan's last step loads them. The policy is the four tables below and is meant
//! to be read: what is allowed and what for, what is allowed with some arguments only, and what is answered as if the
//! kernel did not have it. Whatever else the kernel is known to offer is refused with `EPERM`; a number that no table
//! names, because it is newer than they are, gets `ENOSYS`, so that libraries take the older way.
//!
//! Invariants:
//! - The architecture is checked before anything else; a call of another one (i386, x32) kills the process, since its
//!   numbers mean other calls.
//! - Arguments are compared by their low 32 bits. Every argument looked at is an `int` or is cut to 32 bits by the
//!   kernel (`clone`'s flags by `lower_32_bits`), so high bits neither hide a refused value nor make one.
//! - Whether a call is allowed never depends on memory behind a pointer, which another thread could change.
//!
//! There are two filters: where `connect` is brokered (see `egress`), `brokered` replaces some of the policy.
//!
//! The filter is a binary search over ranges of numbers, not a chain of comparisons: at loading, the kernel (5.11 and
//! later) walks it once per number to learn which calls are always allowed, and those are never filtered again. It has
//! 182 instructions on x86_64 and 193 on aarch64, no path is longer than 24, and it loads in 75 us, where a chain of
//! 300 comparisons took 430 (Linux 6.18).

pub mod assemble;
mod brokered;
pub mod listing;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use assemble::{Assembler, Instruction, Label, Range, JUMP_EQUAL};
use brokered::BROKERED;

/// A processor architecture that the filter can be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// The architecture this server was compiled for, if the filter knows it.
    pub fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// `AUDIT_ARCH_*`: the ELF machine with the marks for 64 bits and little-endian.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::Aarch64 => 0xC000_00B7,
        }
    }

    const fn table(self) -> &'static [table::Block] {
        match self {
            Self::X86_64 => table::X86_64,
            Self::Aarch64 => table::AARCH64,
        }
    }
}

/// What the filter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The call is made.
    Allow,
    /// The call is not made and fails with this error number.
    Errno(u16),
    /// The call waits until whoever holds the filter's listener has answered in the kernel's place.
    Ask,
    /// The process is killed as by `SIGSYS`.
    KillProcess,
}

/// What sockets may do: the two filters that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// What the network namespace lets them do: `connect` is the kernel's to answer.
    Direct,
    /// `connect` is answered by a broker, which puts sockets of the host's network namespace in the place of the
    /// instance's own. `brokered` says what such a socket must not be used for.
    Brokered,
}

impl Verdict {
    const fn action(self) -> u32 {
        match self {
            Self::Allow => 0x7FFF_0000,
            Self::Errno(number) => 0x0005_0000 | number as u32,
            Self::Ask => 0x7FC0_0000,
            Self::KillProcess => 0x8000_0000,
        }
    }
}

// The errors of `asm-generic/errno.h`, which both architectures use. This module makes no call of libc.
const EPERM: Verdict = Verdict::Errno(1);
const ENOSYS: Verdict = Verdict::Errno(38);
const ENOPROTOOPT: Verdict = Verdict::Errno(92);
const EPROTONOSUPPORT: Verdict = Verdict::Errno(93);
const EOPNOTSUPP: Verdict = Verdict::Errno(95);
const EAFNOSUPPORT: Verdict = Verdict::Errno(97);

/// Calls that are allowed with every argument, and what they are for. A name that an architecture lacks is skipped.
///
/// Never here: `inotify_*`. The interpreter's files are the same inodes for every function, and a watch on a directory
/// of them tells by name what each neighbour opens, and when.
const ALLOWED: &[(&str, &str)] = &[
    (
        "reading and writing descriptors",
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3 \
         fcntl flock sendfile splice tee copy_file_range fsync fdatasync ftruncate truncate fallocate fadvise64 readahead \
         sync_file_range",
    ),
    (
        "files and directories",
        "open openat openat2 creat access faccessat faccessat2 stat fstat lstat newfstatat statx statfs fstatfs readlink \
         readlinkat getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 \
         link linkat symlink symlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime utimes \
         futimesat utimensat getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr \
         llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat",
    ),
    (
        "waiting for descriptors",
        "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd \
         eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime pipe pipe2",
    ),
    (
        "sockets, once made",
        "bind listen accept accept4 connect getsockname getpeername getsockopt shutdown sendto sendmsg sendmmsg \
         recvfrom recvmsg recvmmsg",
    ),
    (
        "memory",
        "brk mmap munmap mremap mprotect madvise msync mincore mlock mlock2 munlock mlockall munlockall memfd_create \
         mseal membarrier pkey_alloc pkey_free pkey_mprotect get_mempolicy map_shadow_stack",
    ),
    (
        "threads and their locks",
        "futex futex_waitv futex_wake futex_wait futex_requeue set_robust_list get_robust_list set_tid_address rseq \
         arch_prctl gettid sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam \
         sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval \
         sched_getattr getcpu getpriority setpriority ioprio_get",
    ),
    (
        "processes, all in the instance's own PID namespace",
        "fork vfork execve execveat exit exit_group wait4 waitid getpid getppid getpgid getpgrp setpgid getsid setsid \
         pidfd_open pidfd_send_signal kill tkill tgkill",
    ),
    (
        "signals and timers",
        "rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo rt_sigsuspend \
         rt_sigreturn sigaltstack pause alarm getitimer setitimer timer_create timer_settime timer_gettime \
         timer_getoverrun timer_delete restart_syscall",
    ),
    (
        "time and what the process may know of itself",
        "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep times getrusage getrlimit setrlimit \
         sysinfo uname getrandom getuid geteuid getgid getegid getresuid getresgid getgroups capget",
    ),
    (
        "System V memory, semaphores and queues: in an IPC namespace of the instance, charged to its memory limit",
        "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl",
    ),
];

/// Calls answered as a kernel would that does not have them: their callers know another way.
const ABSENT: &[(&str, &str)] = &[
    ("its flags are behind a pointer, which a filter cannot read; libc falls back to clone", "clone3"),
    (
        "input and output past the filter, and old asynchronous I/O",
        "io_uring_setup io_uring_enter io_uring_register io_setup io_destroy io_submit io_cancel io_getevents \
         io_pgetevents",
    ),
];

/// A call that is allowed while every check holds; the first that does not gives the answer.
struct Rule {
    names: &'static str,
    purpose: &'static str,
    checks: &'static [Check],
}

/// What must hold of a call's arguments.
#[derive(Debug)]
#[allow(missing_docs)] // of the fields: each variant's own line speaks of them
pub enum Check {
    /// `low 32 bits of argument & mask` is one of `values`.
    OneOf { argument: u32, mask: u32, values: &'static [u32], refusal: Verdict },
    /// The first argument named is one of these, and the second one of those that go with it: if so, the call is allowed,
    /// or it is refused, when it is what `lists_refused`.
    Pair { arguments: [u32; 2], values: &'static [(u32, &'static [u32])], lists_refused: bool, refusal: Verdict },
}

impl Check {
    const fn one_of(argument: u32, mask: u32, values: &'static [u32], refusal: Verdict) -> Self {
        Check::OneOf { argument, mask, values, refusal }
    }
}

const RULES: &[Rule] = &[
    Rule {
        names: "clone",
        purpose: "processes and threads, but no new namespace",
        // NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME lies in the byte of the exit
        // signal, where no valid signal sets it.
        checks: &[Check::one_of(0, 0x7E02_0080, &[0], EPERM)],
    },
    Rule {
        names: "socket socketpair",
        purpose: "UNIX, INET and INET6; stream and datagram; TCP and UDP (not ICMP, SCTP, UDP-Lite, MPTCP, L2TP, …)",
        checks: &[
            Check::one_of(0, !0, &[1, 2, 10], EAFNOSUPPORT),
            // Without SOCK_NONBLOCK and SOCK_CLOEXEC.
            Check::one_of(1, !0x0008_0800, &[1, 2], EPERM),
            Check::one_of(2, !0, &[0, 6, 17], EPROTONOSUPPORT),
        ],
    },
    Rule {
        names: "setsockopt",
        purpose: "no flow labels of IPv6: the network namespace keeps them for its next instance",
        checks: &[Check::Pair {
            arguments: [1, 2],
            values: &[(IPPROTO_IPV6, &[IPV6_FLOWLABEL_MGR])],
            lists_refused: true,
            refusal: ENOPROTOOPT,
        }],
    },
    Rule {
        names: "ioctl",
        purpose: "what files, pipes, sockets and the question `isatty` need; not TIOCSTI, not TIOCLINUX",
        checks: &[Check::one_of(1, !0, IOCTL_REQUESTS, EPERM)],
    },
    Rule {
        names: "prctl",
        purpose: "names, questions, and giving up privileges",
        checks: &[Check::one_of(0, !0, PRCTL_OPTIONS, EPERM)],
    },
    Rule { names: "prlimit64", purpose: "limits of the caller itself", checks: &[Check::one_of(0, !0, &[0], EPERM)] },
    Rule {
        names: "mknod",
        purpose: "files, FIFOs and sockets, but no device",
        checks: &[Check::one_of(1, FILE_TYPE_MASK, NODE_TYPES, EPERM)],
    },
    Rule {
        names: "mknodat",
        purpose: "files, FIFOs and sockets, but no device",
        checks: &[Check::one_of(2, FILE_TYPE_MASK, NODE_TYPES, EPERM)],
    },
];

const IPPROTO_IPV6: u32 = 41;
const IPV6_FLOWLABEL_MGR: u32 = 32;

/// `S_IFMT`.
const FILE_TYPE_MASK: u32 = 0o170_000;
/// No type (which means a regular file), `S_IFREG`, `S_IFIFO`, `S_IFSOCK`. `S_IFCHR` needs no privilege for the
/// device 0:0, an overlay's whiteout.
const NODE_TYPES: &[u32] = &[0, 0o100_000, 0o010_000, 0o140_000];

/// Those of files and pipes first, then the questions about network interfaces.
const IOCTL_REQUESTS: &[u32] = &[
    0x5401,      // TCGETS: isatty
    0x802C_542A, // TCGETS2: isatty of newer C libraries
    0x540F,      // TIOCGPGRP
    0x5411,      // TIOCOUTQ, SIOCOUTQ
    0x5413,      // TIOCGWINSZ: os.get_terminal_size
    0x541B,      // FIONREAD
    0x5421,      // FIONBIO: sockets with a timeout
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX: os.set_inheritable
    0x5452,      // FIOASYNC
    0x8905,      // SIOCATMARK
    0x4004_9409, // FICLONE: cp, shutil
    0x8910,      // SIOCGIFNAME: if_indextoname
    0x8912,      // SIOCGIFCONF
    0x8913,      // SIOCGIFFLAGS
    0x8915,      // SIOCGIFADDR
    0x891B,      // SIOCGIFNETMASK
    0x8921,      // SIOCGIFMTU
    0x8933,      // SIOCGIFINDEX: if_nametoindex
];
/// [`IOCTL_REQUESTS`] without the interfaces.
const IOCTL_REQUESTS_OF_FILES: &[u32] = IOCTL_REQUESTS.split_at(12).0;

/// Never here: `SET_PDEATHSIG` (an instance must die with the server), `SET_DUMPABLE`, `SET_MM`, `CAP_AMBIENT`,
/// `CAPBSET_DROP`, `SET_PTRACER`, `SET_SECUREBITS`. `SET_SECCOMP` and the call `seccomp` are refused as well: a filter
/// can only tighten, but it is a compiler and a notification channel inside the kernel that no function needs.
const PRCTL_OPTIONS: &[u32] = &[
    2,           // GET_PDEATHSIG
    3,           // GET_DUMPABLE
    7,           // GET_KEEPCAPS
    15,          // SET_NAME
    16,          // GET_NAME
    21,          // GET_SECCOMP
    23,          // CAPBSET_READ
    25,          // GET_TSC
    27,          // GET_SECUREBITS
    30,          // GET_TIMERSLACK
    37,          // GET_CHILD_SUBREAPER
    38,          // SET_NO_NEW_PRIVS: already set, and cannot be taken back
    39,          // GET_NO_NEW_PRIVS
    40,          // GET_TID_ADDRESS
    42,          // GET_THP_DISABLE
    52,          // GET_SPECULATION_CTRL
    56,          // GET_TAGGED_ADDR_CTRL: malloc on aarch64
    0x5356_4D41, // SET_VMA: malloc names its mappings
];

/// x32 calls carry this bit in their number under x86_64's architecture word. -1 carries it too.
const X32_BIT: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data`. Both architectures are little-endian: an argument's low half comes first.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const fn offset_low(argument: u32) -> u32 {
    16 + 8 * argument
}

/// What the policy says of one call.
#[derive(Debug, Clone, Copy)]
pub enum Treatment {
    /// The same, whatever its arguments.
    Always(Verdict),
    /// It is allowed if every one of these holds; the first that does not gives the answer.
    Checked(&'static [Check]),
}

/// Encoded `struct sock_filter[]` that confines an instance: loaded last, after everything that it forbids was done.
pub fn instance_filter(arch: Arch, sockets: Sockets) -> Vec<u8> {
    program(arch, sockets).into_iter().flat_map(Instruction::to_bytes).collect()
}

/// The same program as instructions.
pub fn program(arch: Arch, sockets: Sockets) -> Vec<Instruction> {
    let mut asm = Assembler::default();
    let kill = asm.ret(Verdict::KillProcess.action());
    // Names that stand in one rule share its code.
    let rules: BTreeMap<*const Check, Label> =
        rules(sockets).into_iter().map(|checks| (checks.as_ptr(), compile_checks(&mut asm, checks))).collect();
    let ranges: Vec<Range> = ranges(arch, sockets)
        .into_iter()
        .map(|(start, treatment)| {
            let target = match treatment {
                Treatment::Always(verdict) => asm.ret(verdict.action()),
                Treatment::Checked(checks) => rules[&checks.as_ptr()],
            };
            Range { start, target }
        })
        .collect();
    let search = asm.search(&ranges);
    let number = asm.load(OFFSET_NUMBER, u32::MAX, search);
    let native = asm.branch(JUMP_EQUAL, arch.audit(), number, kill);
    let entry = asm.load(OFFSET_ARCH, u32::MAX, native);
    asm.finish(entry)
}

/// The policy in words, one line per group.
pub fn describe(arch: Arch, sockets: Sockets) -> Vec<String> {
    let known = policy(sockets);
    let present = |names: &str| -> String {
        let on_arch: Vec<_> = table::numbered(arch.table()).map(|(_, name)| name).collect();
        names.split_ascii_whitespace().filter(|name| on_arch.contains(name)).collect::<Vec<_>>().join(" ")
    };
    let refused: Vec<_> =
        table::numbered(arch.table()).map(|(_, name)| name).filter(|name| !known.contains_key(name)).collect();
    let mut lines = vec!["killed: any call of another architecture (i386, x32)".to_owned()];
    lines.extend(ALLOWED.iter().map(|(purpose, names)| format!("allowed, {purpose}: {}", present(names))));
    lines.extend(RULES.iter().filter_map(|rule| {
        let names = present(rule.names);
        (!names.is_empty()).then(|| format!("allowed in part, {}: {names}", rule.purpose))
    }));
    let brokered = if sockets == Sockets::Brokered { BROKERED } else { &[] };
    lines
        .extend(brokered.iter().map(|rule| format!("instead of what is said above, {}: {}", rule.purpose, rule.names)));
    lines.extend(ABSENT.iter().map(|(reason, names)| format!("absent (ENOSYS), {reason}: {}", present(names))));
    lines.push("absent (ENOSYS): whatever is newer than this list".to_owned());
    lines.push(format!("refused (EPERM): {}", refused.join(" ")));
    lines
}

/// The policy by name. A name stands in one table only (the tests hold that), but for those of [`BROKERED`].
fn policy(sockets: Sockets) -> BTreeMap<&'static str, Treatment> {
    let named = |names: &'static str, treatment| names.split_ascii_whitespace().map(move |name| (name, treatment));
    let allowed = ALLOWED.iter().flat_map(|(_, names)| named(names, Treatment::Always(Verdict::Allow)));
    let absent = ABSENT.iter().flat_map(|(_, names)| named(names, Treatment::Always(ENOSYS)));
    let ruled = RULES.iter().flat_map(|rule| named(rule.names, Treatment::Checked(rule.checks)));
    let mut policy: BTreeMap<_, _> = allowed.chain(absent).chain(ruled).collect();
    if sockets == Sockets::Brokered {
        policy.extend(BROKERED.iter().flat_map(|rule| named(rule.names, rule.treatment)));
    }
    policy
}

/// Every call that the architecture is known to have, in the order of the numbers: number, name, and what the policy says
/// of it. Whatever is not among them gets `ENOSYS`.
pub fn calls(arch: Arch, sockets: Sockets) -> impl Iterator<Item = (u32, &'static str, Treatment)> {
    let policy = policy(sockets);
    table::numbered(arch.table())
        .map(move |(number, name)| (number, name, policy.get(name).copied().unwrap_or(Treatment::Always(EPERM))))
}

/// The checks that the policy refers to, each once, in the order of the tables.
fn rules(sockets: Sockets) -> Vec<&'static [Check]> {
    let policy = policy(sockets);
    let brokered = BROKERED.iter().filter_map(|rule| match rule.treatment {
        Treatment::Checked(checks) => Some(checks),
        Treatment::Always(_) => None,
    });
    let is_used = |checks: &&'static [Check]| {
        policy.values().any(|used| matches!(used, Treatment::Checked(used) if std::ptr::eq(*used, *checks)))
    };
    RULES.iter().map(|rule| rule.checks).chain(brokered).filter(is_used).collect()
}

/// The policy by number: from each number to the next, this treatment. The first is zero, and neighbours differ.
fn ranges(arch: Arch, sockets: Sockets) -> Vec<(u32, Treatment)> {
    let mut ranges: Vec<(u32, Treatment)> = Vec::new();
    let mut add = |start, treatment| match (ranges.last(), treatment) {
        (Some((_, Treatment::Always(before))), Treatment::Always(now)) if *before == now => {}
        _ => ranges.push((start, treatment)),
    };
    let mut next = 0;
    for (number, _, treatment) in calls(arch, sockets) {
        if number > next {
            add(next, Treatment::Always(ENOSYS));
        }
        add(number, treatment);
        next = number + 1;
    }
    add(next, Treatment::Always(ENOSYS));
    if arch == Arch::X86_64 {
        add(X32_BIT, Treatment::Always(Verdict::KillProcess));
    }
    ranges
}

fn compile_checks(asm: &mut Assembler, checks: &[Check]) -> Label {
    let mut passed = asm.ret(Verdict::Allow.action());
    for check in checks.iter().rev() {
        passed = match check {
            Check::OneOf { argument, mask, values, refusal } => {
                let refused = asm.ret(refusal.action());
                compile_membership(asm, *argument, *mask, values, passed, refused)
            }
            Check::Pair { arguments: [first, second], values, lists_refused, refusal } => {
                let refused = asm.ret(refusal.action());
                let (hit, miss) = if *lists_refused { (refused, passed) } else { (passed, refused) };
                let mut ranges = vec![Range { start: 0, target: miss }];
                // The first values stand in rising order.
                for (value, seconds) in *values {
                    let target = compile_membership(asm, *second, u32::MAX, seconds, hit, miss);
                    ranges.retain(|range| range.start != *value);
                    ranges.push(Range { start: *value, target });
                    ranges.push(Range { start: value + 1, target: miss });
                }
                let search = asm.search(&ranges);
                asm.load(offset_low(*first), u32::MAX, search)
            }
        };
    }
    passed
}

fn compile_membership(asm: &mut Assembler, argument: u32, mask: u32, values: &[u32], hit: Label, miss: Label) -> Label {
    let search = asm.search(&one_of(values, hit, miss));
    asm.load(offset_low(argument), mask, search)
}

/// Ranges that lead the given values to `hit` and all others to `miss`.
fn one_of(values: &[u32], hit: Label, miss: Label) -> Vec<Range> {
    let mut values = values.to_vec();
    values.sort_unstable();
    let mut ranges = vec![Range { start: 0, target: miss }];
    for value in values {
        // The range before ends here; when it is empty, because values are neighbours or zero, it goes.
        if ranges.last().is_some_and(|last| last.start == value) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|last| last.target != hit) {
            ranges.push(Range { start: value, target: hit });
        }
        if let Some(after) = value.checked_add(1) {
            ranges.push(Range { start: after, target: miss });
        }
    }
    ranges
}
