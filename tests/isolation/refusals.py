"""System calls that no function may make, by their numbers on x86_64: those that were not refused as they should."""
import ctypes
import errno
import os

PAGE = ctypes.create_string_buffer(4096)
NAMESPACES = {"time": 0x80, "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
              "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
REFUSED = [
    ("setns", 308, 0, 0), ("ptrace", 101, 0, 0, 0, 0), ("process_vm_readv", 310, 1, 0, 0, 0, 0, 0),
    ("process_vm_writev", 311, 1, 0, 0, 0, 0, 0), ("process_madvise", 440, 0, 0, 0, 0, 0),
    ("pidfd_getfd", 438, 0, 0, 0), ("kcmp", 312, 1, 1, 0, 0, 0),
    ("bpf", 321, 0, PAGE, 72), ("perf_event_open", 298, PAGE, 0, -1, -1, 0),
    ("userfaultfd", 323, 1), ("keyctl", 250, 0, -3, 0), ("add_key", 248, b"user", b"x", b"y", 1, -3),
    ("request_key", 249, b"user", b"x", 0, 0), ("mount", 165, b"none", b"/tmp", b"tmpfs", 0, 0),
    ("remount", 165, b"none", b"/", 0, 0x20, 0), ("umount", 166, b"/proc", 2), ("pivot_root", 155, b"/", b"/"),
    ("chroot", 161, b"/tmp"), ("fsopen", 430, b"tmpfs", 0), ("fsconfig", 431, 0, 0, 0, 0, 0), ("fsmount", 432, 0, 0, 0),
    ("fspick", 433, -100, b"/", 0), ("open_tree", 428, -100, b"/", 1),
    ("move_mount", 429, -100, b"/", -100, b"/tmp", 0), ("mount_setattr", 442, -100, b"/", 0, PAGE, 32),
    ("name_to_handle_at", 303, -100, b"/", PAGE, PAGE, 0),

    ("open_by_handle_at", 304, 0, PAGE, 0), ("personality", 135, 0xFFFFFFFF), ("modify_ldt", 154, 0, PAGE, 16),
    ("iopl", 172, 3), ("ioperm", 173, 0, 1, 1), ("vmsplice", 278, 1, PAGE, 1, 0), ("memfd_secret", 447, 0),
    ("kexec_load", 246, 0, 0, 0, 0), ("init_module", 175, PAGE, 0, b""), ("finit_module", 313, 0, b"", 0),
    ("delete_module", 176, b"x", 0), ("swapon", 167, b"/tmp", 0), ("acct", 163, 0), ("quotactl", 179, 0, 0, 0, 0),
    ("syslog", 103, 3, PAGE, 100), ("settimeofday", 164, PAGE, 0), ("clock_settime", 227, 0, PAGE),
    ("reboot", 169, 0xFEE1DEAD, 672274793, 0, 0), ("sethostname", 170, b"x", 1), ("setdomainname", 171, b"x", 1),
    ("fanotify_init", 300, 0, 0), ("seccomp", 317, 1, 0, PAGE), ("setuid", 105, 0), ("setgid", 106, 0),
    ("setgroups", 116, 0, 0), ("setresuid", 117, 0, 0, 0), ("setfsuid", 122, 0), ("capset", 126, PAGE, PAGE),
    ("prctl PDEATHSIG", 157, 1, 0, 0, 0, 0), ("prctl DUMPABLE", 157, 4, 1, 0, 0, 0),
    ("prctl SECUREBITS", 157, 28, 0, 0, 0, 0), ("prctl AMBIENT", 157, 47, 2, 0, 0, 0),
    ("prctl PTRACER", 157, 0x59616D61, -1, 0, 0, 0), ("prlimit of another", 302, 2, 7, 0, PAGE),
    ("a device", 133, b"/tmp/mem", 0o020666, 0x101), ("a whiteout", 133, b"/tmp/whiteout", 0o020666, 0),
    ("TIOCSTI", 16, 0, 0x5412, b"x"), ("TIOCSTI with high bits", 16, 0, 0x1_0000_5412, b"x"),
    ("TIOCLINUX", 16, 0, 0x541C, b"x"), ("a raw socket", 41, 2, 3, 1),
] + [("unshare " + name, 272, flag) for name, flag in NAMESPACES.items()] \
  + [("clone " + name, 56, flag | 17, 0, 0, 0, 0) for name, flag in NAMESPACES.items()]
ABSENT = [("clone3", 435, PAGE, 88), ("io_uring_setup", 425, 1, PAGE), ("io_setup", 206, 1, PAGE), ("new", 4000)]
NO_FAMILY = [("netlink", 41, 16, 3, 0), ("packet", 41, 17, 3, 0), ("vsock", 41, 40, 1, 0), ("alg", 41, 38, 5, 0)]


def handle(request):
    libc = ctypes.CDLL(None, use_errno=True)
    wrong = []
    for table, expected in ((REFUSED, errno.EPERM), (ABSENT, errno.ENOSYS), (NO_FAMILY, errno.EAFNOSUPPORT)):
        for name, number, *arguments in table:
            arguments = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
            ctypes.set_errno(0)
            result = libc.syscall(ctypes.c_long(number), *arguments)
            if result == 0 and name.startswith("clone "):
                os._exit(0)
            if result != -1 or ctypes.get_errno() != expected:
                wrong.append("%s: %d, %s" % (name, result, errno.errorcode.get(ctypes.get_errno())))
    return {"checked": len(REFUSED) + len(ABSENT) + len(NO_FAMILY), "wrong": wrong}
