//! The table: every attack, what it must meet, and which layers hold it.
//!
//! A set of layers behind `held` is the least whose removal lets the attack get further (`matrix.rs` measures it). An
//! attack without one is held by what cannot be removed: the pid and mount namespaces, or the server itself.

use super::table::{case, Case, Meets, Row, Theme};
use Meets::{Fails, OneOf, Refused, Returns, Says};

const TOLD_OR_ENDED: Meets = OneOf(&[Says("\"spoken\""), Fails(502, "protocol_violation", ""), CRASHED]);
const CRASHED: Meets = Fails(502, "function_crashed", "");
const VIOLATION: Meets = Fails(502, "protocol_violation", "");
const TIMED_OUT: Meets = Fails(504, "function_timeout", "timeout");
const NO_ANSWER: Meets = Fails(502, "invalid_response", "");
/// Of what is not there, not theirs, or cannot be written.
const OUT_OF_REACH: &[&str] = &["ENOENT", "EACCES", "EPERM", "EROFS", "ENOTDIR", "ETXTBSY", "ESRCH"];

pub(crate) const THEMES: &[Theme] = &[
    Theme { name: "exhaust", title: "Taking all there is", code: include_str!("exhaust.py"), rows: EXHAUST },
    Theme {
        name: "ends",
        title: "Not ending, ending badly, answers that are none",
        code: include_str!("ends.py"),
        rows: ENDS,
    },
    Theme {
        name: "others",
        title: "Reaching other functions and the server",
        code: include_str!("others.py"),
        rows: OTHERS,
    },
    Theme { name: "host", title: "Reaching the host", code: include_str!("host.py"), rows: HOST },
    Theme {
        name: "kernel",
        title: "What the kernel offers to attackers",
        code: include_str!("kernel.py"),
        rows: KERNEL,
    },
];

const EXHAUST: &[Row] = &[
    Row {
        attack: "forks for ever; starts threads for ever",
        cases: &[
            case("forks_for_ever", Says(r#"{"count":63,"error":"EAGAIN"}"#)).held(&[&["tasks_limit", "rlimits"]]),
            case("forks_that_fork", Says(r#"{"at its limit":true,"another":"EAGAIN"}"#))
                .held(&[&["tasks_limit", "rlimits"]]),
            case("starts_threads_for_ever", Says(r#""can't start new thread""#)).held(&[&["tasks_limit", "rlimits"]]),
        ],
    },
    Row {
        attack: "allocates ten times its memory; two children that share it out",
        cases: &[
            case("allocates_ten_times_its_memory", Fails(502, "function_out_of_memory", "67108864"))
                .held(&[&["memory_limit"]]),
            case("two_children_share_it_out", Fails(502, "function_out_of_memory", "67108864"))
                .held(&[&["memory_limit"]]),
        ],
    },
    Row {
        attack: "fills /tmp; writes a sparse 1 TiB file; makes a million empty files",
        cases: &[
            case("fills_tmp", Says(r#"{"written":true,"error":"ENOSPC"}"#)).memory("256Mi").held(&[&["tmpfs_limits"]]),
            case("fills_shm", Says(r#"{"written":true,"error":"ENOSPC"}"#)).memory("256Mi").held(&[&["tmpfs_limits"]]),
            case("writes_a_sparse_terabyte", Refused(&["EFBIG"])).held(&[&["rlimits"]]),
            case("makes_a_million_files", Says(r#"{"made":true,"error":"ENOSPC"}"#))
                .memory("256Mi")
                .held(&[&["tmpfs_limits"]]),
        ],
    },
    Row {
        attack: "opens files and sockets until refused",
        cases: &[
            case("opens_files_until_refused", Says("\"EMFILE\"")).held(&[&["rlimits"]]),
            case("opens_sockets_until_refused", Says("\"EMFILE\"")).held(&[&["rlimits"]]),
        ],
    },
    Row {
        attack: "burns CPU on many threads",
        cases: &[case("burns_cpu_on_many_threads", Says("\"within its quota\""))
            .cpu_limit("100m")
            .held(&[&["cpu_limit"]])],
    },
    Row {
        attack: "prints 1 GiB; prints one 10 MB line",
        cases: &[
            case("prints_without_end", Says("\"printed\"")).logs("[log cut at ").timeout_ms(30_000),
            case("prints_one_long_line", Says("\"printed\"")).logs("[log cut at "),
        ],
    },
    Row {
        attack: "returns 1 GiB; an endless generator",
        cases: &[
            case("returns_a_gibibyte", Fails(502, "response_too_large", "6291456")).memory("1200Mi").timeout_ms(30_000),
            case("returns_a_little_too_much", Fails(502, "response_too_large", "6291456")),
            case("returns_an_endless_generator", Fails(502, "invalid_response", "generator")),
        ],
    },
];

const ENDS: &[Row] = &[
    Row {
        attack: "sleeps past its timeout ignoring SIGTERM",
        cases: &[case("sleeps_past_its_timeout_ignoring_signals", TIMED_OUT).timeout_ms(1500)],
    },
    Row {
        attack: "os._exit, segmentation fault, abort",
        cases: &[
            case("exits", Fails(502, "function_crashed", "status 3")),
            case("crashes", Fails(502, "function_crashed", "signal 11")),
            // As pid 1 it has no default action for SIGABRT; what the C library does next depends on the processor.
            case("aborts", Fails(502, "function_crashed", "signal ")),
            case("crashes_a_child", Says(r#"{"signal":11,"core":false}"#)).held(&[&["rlimits", "dumpable"]]),
        ],
    },
    Row { attack: "closes every descriptor and returns", cases: &[case("closes_every_descriptor", CRASHED)] },
    Row {
        attack: "recurses without end, in Python and in C (json, re, ast)",
        cases: &[
            case("recurses", Fails(500, "function_error", "RecursionError")),
            case("recurses_in_json", Fails(500, "function_error", "RecursionError")),
            case("recurses_in_re", OneOf(&[Fails(500, "function_error", ""), CRASHED])),
            case("recurses_in_ast", OneOf(&[Fails(500, "function_error", ""), CRASHED])),
        ],
    },
    Row {
        attack: "10**10**8; a catastrophic regular expression",
        cases: &[
            case("builds_an_enormous_number", TIMED_OUT).timeout_ms(1500),
            case("matches_for_ever", TIMED_OUT).timeout_ms(1500),
        ],
    },
    Row {
        attack: "leaves a thread running after it returned",
        cases: &[case(
            "leaves_a_thread_that_writes_into_later_replies",
            OneOf(&[Says("\"answered\""), Fails(502, "protocol_violation", "")]),
        )
        .drags_others_along()],
    },
    Row {
        attack: "atexit or __del__ that never ends",
        cases: &[
            case("never_ends_at_exit", Says("\"registered\"")),
            case("never_ends_when_it_is_deleted", TIMED_OUT).timeout_ms(1500),
            case("returns_what_never_ends_when_it_is_deleted", NO_ANSWER).timeout_ms(1500).drags_others_along(),
        ],
    },
    Row {
        attack: "double-forks a daemon in a new session",
        cases: &[
            case("leaves_a_daemon", Says("\"left\"")),
            case("stops_itself", Says("\"cannot be stopped\"")).held(&[&["pid_namespace"]]),
        ],
    },
    Row {
        attack: "returns object(), NaN, a cycle, 10,000 levels of nesting, bytes, None, a set",
        cases: &[
            case("returns_an_object", Fails(502, "invalid_response", "object")),
            case("returns_not_a_number", NO_ANSWER),
            case("returns_a_cycle", NO_ANSWER),
            case("returns_what_is_nested_too_deep", Fails(502, "invalid_response", "too deep")),
            case("returns_bytes", Returns("bytes")),
            case("returns_none", Says("null")),
            case("returns_a_set", Fails(502, "invalid_response", "set")),
        ],
    },
    Row {
        attack: "raises an exception whose __str__ raises or never ends",
        cases: &[
            case("raises_what_cannot_be_told", Fails(500, "function_error", "Untold")),
            case("raises_what_is_never_told", TIMED_OUT).timeout_ms(1500),
            case("raises_system_exit", Fails(500, "function_error", "SystemExit")),
        ],
    },
    Row {
        attack: "monkeypatches json, sys.stdout, the shim's globals",
        cases: &[case("spoils_the_modules", OneOf(&[Says("\"spoilt\""), CRASHED, NO_ANSWER, VIOLATION]))],
    },
    Row {
        attack: "writes garbage to its own channel: huge length, zero, partial, extra",
        cases: &[
            case("speaks_garbage", VIOLATION),
            case("speaks_of_a_huge_payload", VIOLATION),
            case("speaks_half_a_header", VIOLATION),
            case("speaks_behind_a_frame", VIOLATION),
            // It is taken for the end of the channel; what was said behind it still counts.
            case("speaks_an_empty_message", TOLD_OR_ENDED).drags_others_along(),
            case("forges_an_answer", OneOf(&[Says("\"forged\""), VIOLATION])).drags_others_along(),
            // At import it takes the call that its instance is started for.
            case("takes_the_calls_of_later_for_itself", TIMED_OUT).at_import(TIMED_OUT).timeout_ms(1500),
        ],
    },
];

const OTHERS: &[Row] = &[
    Row {
        attack: "searches gc.get_objects(), frames and its own memory for keys or others' code",
        cases: &[
            case("searches_what_python_knows", Says("[]")).timeout_ms(20_000),
            case("searches_its_memory", Says(r#"{"its own":true,"of others":0}"#)).timeout_ms(20_000),
            case("reads_its_own_memory_as_a_file", Refused(&["EACCES"]))
                .held(&[&["dumpable"], &["identity"]])
                .caught(&[&["pid_namespace"]]),
        ],
    },
    Row {
        attack: "reads /proc/1/environ, /proc/*/maps, mem, fd, root, cwd",
        cases: &[case("reads_other_processes", Refused(&["ENOENT"])).held(&[&["pid_namespace", "proc"]])],
    },
    Row {
        attack: "looks in os.environ for the server's environment",
        cases: &[case("looks_for_the_servers_environment", Says("[]"))],
    },
    Row {
        attack: "kill(-1), kills its parent",
        cases: &[
            case("kills_everybody", Refused(&["ESRCH"])).held(&[&["pid_namespace"]]),
            case("signals_its_process_group", Says(r#"{"its own session":true,"its own group":true}"#))
                .held(&[&["session"]]),
            case("has_a_child_adopted_outside", Refused(&["EINVAL"])).held(&[&["pid_namespace"]]),
            case("clears_the_death_signal", Says(r#"{"set":9,"cleared":"EPERM"}"#))
                .held(&[&["death_signal"], &["seccomp"]]),
        ],
    },
    Row {
        attack:
            "connects to 169.254.169.254, to the server on 127.0.0.1 and ::1, to the host's address, to docker.sock",
        cases: &[
            case("connects_to_the_host", Refused(&["ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EACCES"]))
                .held(&[&["network_namespace", "landlock"]]),
            case("sends_a_datagram", Refused(&["ENETUNREACH"])).held(&[&["network_namespace"]]),
            case("connects_to_docker", Refused(&["ENOENT"])).held(&[&["tree"]]),
        ],
    },
    Row {
        attack: "uses sockets, System V memory, queues and files of another instance",
        cases: &[
            case("connects_to_sockets_with_names", Refused(&["ECONNREFUSED", "EPERM"]))
                .held(&[&["network_namespace", "landlock"]]),
            case("looks_for_memory_and_queues_of_others", Refused(&["ENOENT", "EPERM"])).held(&[&["ipc_namespace"]]),
            case("looks_for_files_of_others", Says(r#"{"tmp":[],"shm":[]}"#))
                .at_import(Says(r#"{"tmp":["dependency.py"],"shm":[]}"#)),
            case("watches_what_others_open", Refused(&["EPERM"])).held(&[&["seccomp"]]),
        ],
    },
];

const HOST: &[Row] = &[
    Row {
        attack: "reads /etc/shadow, the configuration, the database, another function's code",
        cases: &[
            case("reads_files_of_the_host", Refused(&["ENOENT", "EACCES"])).held(&[&["tree"]]),
            case("looks_at_the_names_of_the_host", Says(r#"{"users":3,"hosts":2,"servers":["127.0.0.53"]}"#))
                .held(&[&["tree"]]),
        ],
    },
    Row {
        attack: "symlinks and ../ in /tmp towards host paths",
        cases: &[case("walks_out_by_links_and_dots", Refused(&["ENOENT", "EACCES"])).held(&[&["tree"]])],
    },
    Row {
        attack: "writes to the interpreter, the shim, its own code",
        cases: &[
            case("writes_to_what_it_runs_on", Refused(OUT_OF_REACH)),
            case("writes_a_file_of_the_host", Refused(&["ENOENT"])).caught(&[&["tree"]]),
        ],
    },
    Row {
        attack: "writes /proc/sys/*, core_pattern, sysrq-trigger",
        cases: &[case("writes_to_the_kernel", Refused(OUT_OF_REACH)).held(&[&["proc", "identity", "landlock"]])],
    },
    Row {
        attack: "writes to /proc/self/exe, directly or reopened (CVE-2019-5736)",
        cases: &[case("writes_to_its_interpreter", Refused(OUT_OF_REACH))],
    },
    Row {
        attack: "walks out of every open descriptor (CVE-2024-21626); chroot break-out",
        cases: &[
            case(
                "walks_out_of_every_descriptor",
                Says(r#"{"kinds":["/dev/null","pipe","pipe","socket"],"directories":[]}"#),
            )
            .held(&[&["descriptors"]]),
            case("breaks_out_of_its_root", Refused(&["EPERM"])).held(&[&["seccomp"]]),
        ],
    },
    Row {
        attack: "mounts a cgroup; release_agent; moves its own pid",
        cases: &[
            case("moves_to_another_cgroup", Refused(&["ENOENT"])),
            case("looks_where_its_cgroup_is", Says(r#"["/"]"#)).held(&[&["cgroup_namespace"]]),
        ],
    },
    Row {
        attack: "mknod; opens /dev/mem, /dev/kvm, /dev/fuse",
        cases: &[
            case("opens_devices", Refused(&["ENOENT"])),
            case("looks_at_its_devices", Says(r#"["full","null","random","shm","urandom","zero"]"#)),
            case("makes_devices", Refused(&["EPERM"])).held(&[&["seccomp", "landlock"]]).caught(&[&["seccomp"]]),
        ],
    },
    Row {
        attack: "setuid(0), setgroups, runs a setuid program",
        cases: &[
            case("becomes_another_user", Refused(&["EPERM"])).caught(&[&["seccomp"]]),
            case(
                "is_a_user_of_its_own",
                Says(r#"{"ids":[1000],"groups":[],"outside":true,"mapped":["1000","1"],"setgroups":"deny"}"#),
            )
            .held(&[&["identity"], &["user_namespace"]]),
            case("has_power", Says(r#"{"CapInh":0,"CapPrm":0,"CapEff":0,"CapBnd":0,"CapAmb":0}"#))
                .held(&[&["capabilities"]]),
            case("gains_privileges_by_exec", Says(r#"{"no_new_privs":"1","filter":"2"}"#)).held(&[&["seccomp"]]),
            case("runs_a_program_with_setuid", Refused(&["ENOENT"])).caught(&[&["tree"]]),
        ],
    },
    Row {
        attack: "raises its rlimits, nice -20, real-time scheduling, oom_score_adj -1000",
        cases: &[
            case("raises_its_limits", Refused(&["EPERM"])).held(&[&["rlimits"]]),
            case("asks_for_more_than_its_share_of_the_processor", Refused(&["EPERM", "EACCES"])),
        ],
    },
    Row {
        attack: "reads dmesg, kallsyms, /sys",
        cases: &[
            case("reads_of_the_kernel", Refused(&["ENOENT"])).held(&[&["proc"], &["tree"]]),
            case("looks_at_the_host_name", Says(r#"["faas","(none)"]"#)).held(&[&["uts_namespace"]]),
        ],
    },
];

const KERNEL: &[Row] = &[
    Row {
        attack: "mount, umount, fsopen, pivot_root, unmasking /proc",
        cases: &[
            case("mounts_and_unmounts", Refused(&["EPERM"])).caught(&[&["seccomp"]]),
            case("mounts_in_a_namespace_of_its_own", Refused(&["EPERM"])).held(&[&["seccomp", "landlock"]]),
            case("mounts_a_cgroup", Refused(&["EPERM"])).held(&[&["seccomp", "landlock"]]),
        ],
    },
    Row {
        attack: "unshare, clone and clone3 with each namespace flag; setns",
        cases: &[
            case("makes_namespaces", Refused(&["EPERM"])).held(&[&["seccomp"]]),
            case("makes_namespaces_with_clone3", Refused(&["ENOSYS"])).held(&[&["seccomp"]]),
            case("enters_namespaces", Refused(&["EPERM", "EACCES"])).caught(&[&["seccomp"]]),
        ],
    },
    Row {
        attack: "ptrace, process_vm_readv, pidfd_getfd of a sibling",
        cases: &[
            case("looks_into_another_process", Refused(&["EPERM"])).caught(&[&["seccomp"]]),
            case("looks_into_a_child", Refused(&["EPERM"])).held(&[&["seccomp", "dumpable"]]),
        ],
    },
    Row { attack: "keyctl, add_key", cases: &[case("keeps_keys", Refused(&["EPERM"])).held(&[&["seccomp"]])] },
    Row {
        attack: "bpf, perf_event_open, userfaultfd, io_uring_setup",
        cases: &[
            case("uses_dangerous_machinery", Refused(&["EPERM"])).held(&[&["seccomp"]]),
            case("uses_machinery_that_is_absent", Refused(&["ENOSYS"])).held(&[&["seccomp"]]),
            case("calls_what_no_kernel_has", Refused(&["ENOSYS"])),
            case("calls_as_another_architecture", Fails(502, "function_crashed", "signal ")).held(&[&["seccomp"]]),
            case("calls_with_the_bit_of_x32", Fails(502, "function_crashed", "signal 31")).held(&[&["seccomp"]]),
        ],
    },
    Row {
        attack: "TIOCSTI, also with high bits set",
        cases: &[case("types_into_a_terminal", Refused(&["EPERM", "ENOENT"])).caught(&[&["seccomp"]])],
    },
    Row {
        attack: "raw, packet, netlink, vsock and alg sockets",
        cases: &[case("makes_sockets_of_other_kinds", Refused(&["EPERM", "EAFNOSUPPORT", "EPROTONOSUPPORT"]))
            .held(&[&["seccomp"]])],
    },
    Row {
        attack: "sethostname, clock_settime, kexec, modules, swap, reboot",
        cases: &[
            case("changes_the_machine", Refused(&["EPERM"])).caught(&[&["seccomp"]]),
            case("names_the_host", Refused(&["EPERM"])).held(&[&["seccomp"]]),
        ],
    },
    Row {
        attack: "changes who it is and what it may",
        cases: &[case("changes_who_it_is", Refused(&["EPERM"])).held(&[&["seccomp"]])],
    },
];

/// The attack of a function whose server is killed: it goes on.
pub(crate) fn outliving() -> (&'static Theme, &'static Case) {
    let theme = THEMES.iter().find(|theme| theme.name == "ends");
    let case = theme.and_then(|theme| theme.rows.first()).and_then(|row| row.cases.first());
    theme.zip(case).expect("the first of its theme")
}
