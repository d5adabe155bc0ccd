"""System calls that no function may make, by their numbers, and what an attacker would do with them.

What takes a capability is tried in a new user namespace too, in which the attacker would have all of them.
"""
import struct

PAGE_OF_ZEROS = ctypes.create_string_buffer(4096)
NAMESPACES = {"time": 0x80, "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
              "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
# On x86_64 and on aarch64; a call that an architecture lacks has no number there.
NUMBERS = {
    "setns": (308, 268), "unshare": (272, 97), "clone": (56, 220), "clone3": (435, 435), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "open_tree": (428, 428),
    "move_mount": (429, 429), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "personality": (135, 92), "modify_ldt": (154, None), "iopl": (172, None),
    "ioperm": (173, None), "vmsplice": (278, 75), "memfd_secret": (447, 447), "kexec_load": (246, 104),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "swapon": (167, 224),
    "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162),
    "fanotify_init": (300, 262), "seccomp": (317, 277), "setuid": (105, 146), "setgid": (106, 144),
    "setgroups": (116, 159), "setresuid": (117, 147), "setfsuid": (122, 151), "capset": (126, 91), "prctl": (157, 167),
    "prlimit64": (302, 261), "io_uring_setup": (425, 425), "io_setup": (206, 0), "ioctl": (16, 29),
}
COLUMN = 0 if os.uname().machine == "x86_64" else 1


def call(name, *arguments):
    return called(NUMBERS[name][COLUMN], *arguments)


def calls(*attempts):
    """Each attempt is a name, words in brackets if it is not the only one of this name, and the arguments."""
    known = [attempt for attempt in attempts if NUMBERS[attempt[0].split(" (")[0]][COLUMN] is not None]
    return {attempt[0]: tried(call, attempt[0].split(" (")[0], *attempt[1:]) for attempt in known}


def as_root_of_a_new_namespace(flags, action):
    """In a child that has made itself all-powerful in namespaces of its own, if it is let."""
    def child():
        user, group = os.getuid(), os.getgid()
        call("unshare", NAMESPACES["user"])
        for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % user), ("gid_map", "0 %d 1" % group)):
            # A process that is not dumpable may not write them; it has all capabilities even so.
            tried(lambda: open("/proc/self/" + name, "w").write(text))
        if flags:
            call("unshare", flags)
        action()
        return "done"
    return in_child(child)


def mounts_and_unmounts():
    return calls(
        ("mount", b"none", b"/tmp", b"tmpfs", 0, 0), ("mount (again)", b"none", b"/", 0, 0x20, 0),
        ("umount2", b"/proc", 2), ("pivot_root", b"/", b"/"), ("chroot", b"/tmp"), ("fsopen", b"tmpfs", 0),
        ("fsconfig", 0, 0, 0, 0, 0), ("fsmount", 0, 0, 0), ("fspick", -100, b"/", 0), ("open_tree", -100, b"/", 1),
        ("move_mount", -100, b"/", -100, b"/tmp", 0), ("mount_setattr", -100, b"/", 0, PAGE_OF_ZEROS, 32))


def mounts_in_a_namespace_of_its_own():
    mount = NAMESPACES["mount"]
    return {
        "tmpfs": as_root_of_a_new_namespace(mount, lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)),
        "bind": as_root_of_a_new_namespace(mount, lambda: call("mount", b"/", b"/tmp", 0, 0x1000, 0)),
    }


def mounts_a_cgroup():
    flags = NAMESPACES["mount"] | NAMESPACES["cgroup"]
    return {
        "plainly": tried(call, "mount", b"none", b"/tmp", b"cgroup2", 0, 0),
        "in namespaces of its own": as_root_of_a_new_namespace(
            flags, lambda: call("mount", b"none", b"/tmp", b"cgroup2", 0, 0)),
    }


def makes_namespaces():
    found = {"unshare " + name: in_child(lambda: call("unshare", flag) or "done") for name, flag in NAMESPACES.items()}
    for name, flag in NAMESPACES.items():
        found["clone " + name] = in_child(lambda: _cloned(call, "clone", flag | 17, 0, 0, 0, 0))
    return found


def _cloned(make, *arguments):
    if make(*arguments) == 0:
        os._exit(0)
    return "done"


def makes_namespaces_with_clone3():
    def clone3(flag):
        arguments = struct.pack("<8Q", flag, 0, 0, 0, 17, 0, 0, 0)
        return _cloned(call, "clone3", ctypes.create_string_buffer(arguments, 64), 64)
    return {name: in_child(lambda: clone3(flag)) for name, flag in NAMESPACES.items()}


def enters_namespaces():
    def enter(name, flag):
        descriptor = os.open("/proc/self/ns/" + name, os.O_RDONLY)
        call("setns", descriptor, flag)
        return "done"
    found = {name: in_child(lambda: enter(name, 0)) for name in ("mnt", "net", "user", "pid")}
    found["nothing"] = tried(call, "setns", 0, 0)
    return found


def looks_into_another_process():
    """By the number that it has outside: there is nothing by that number inside, but the filter answers first."""
    found = {}
    word = ctypes.create_string_buffer(8)
    vector = ctypes.create_string_buffer(struct.pack("<2Q", ctypes.addressof(word), 8), 16)
    for who in ("victim", "server"):
        pid = FACTS[who]["pid"]
        for attempt in (("ptrace", 16, pid, 0, 0), ("process_vm_readv", pid, vector, 1, vector, 1, 0),
                        ("process_vm_writev", pid, vector, 1, vector, 1, 0), ("kcmp", pid, pid, 0, 0, 0),
                        ("pidfd_getfd", 0, 3, 0),
                        ("process_madvise", 0, 0, 0, 0, 0), ("prlimit64", pid, 7, 0, PAGE_OF_ZEROS)):
            found["%s of the %s" % (attempt[0], who)] = tried(call, *attempt)
    return found


def looks_into_a_child():
    """One of its own, which it may do everything to but this: a tracer takes the filter apart."""
    child = os.fork()
    if child == 0:
        forever()
    word = ctypes.create_string_buffer(8)
    local = ctypes.create_string_buffer(struct.pack("<2Q", ctypes.addressof(word), 8), 16)
    descriptor = os.pidfd_open(child) if hasattr(os, "pidfd_open") else called(434, child, 0)
    try:
        return {
            "process_vm_readv": tried(call, "process_vm_readv", child, local, 1, local, 1, 0),
            "pidfd_getfd": tried(call, "pidfd_getfd", descriptor, 0, 0),
            "ptrace": tried(call, "ptrace", 16, child, 0, 0),
        }
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def keeps_keys():
    return calls(("add_key", b"user", b"faas", b"y", 1, -3), ("keyctl", 0, -3, 1), ("keyctl (join)", 1, 0),
                 ("request_key", b"user", b"faas", 0, 0))


def uses_dangerous_machinery():
    attributes = ctypes.create_string_buffer(struct.pack("<IIQ", 1, 64, 0), 128)
    # Counting of its own time, in user space only.
    struct.pack_into("<Q", attributes, 40, (1 << 5) | (1 << 6))
    instruction = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000), 8)
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 1, ctypes.addressof(instruction)), 16)
    return calls(("bpf", 0, PAGE_OF_ZEROS, 72), ("perf_event_open", attributes, 0, -1, -1, 0), ("userfaultfd", 1),
                 ("fanotify_init", 0, 0), ("seccomp", 1, 0, program), ("memfd_secret", 0),
                 ("vmsplice", 1, PAGE_OF_ZEROS, 0, 0),
                 ("name_to_handle_at", -100, b"/", PAGE_OF_ZEROS, PAGE_OF_ZEROS, 0),
                 ("open_by_handle_at", 0, PAGE_OF_ZEROS, 0), ("personality", 0xFFFFFFFF),
                 ("modify_ldt", 0, PAGE_OF_ZEROS, 16))


def uses_machinery_that_is_absent():
    return calls(("io_uring_setup", 1, PAGE_OF_ZEROS), ("io_setup", 1, ctypes.create_string_buffer(8)))


def changes_the_machine():
    return calls(
        ("iopl", 3), ("ioperm", 0, 1, 1), ("kexec_load", 0, 0, 0, 0), ("init_module", PAGE_OF_ZEROS, 0, b""),
        ("finit_module", 0, b"", 0), ("delete_module", b"x", 0), ("swapon", b"/tmp", 0), ("acct", 0),
        ("quotactl", 0, 0, 0, 0), ("syslog", 3, PAGE_OF_ZEROS, 100), ("settimeofday", PAGE_OF_ZEROS, 0),
        ("clock_settime", 0, PAGE_OF_ZEROS), ("reboot", 0xFEE1DEAD, 672274793, 0, 0))


def names_the_host():
    found = calls(("sethostname", b"spoilt", 6), ("setdomainname", b"spoilt", 6))
    found["in namespaces of its own"] = as_root_of_a_new_namespace(
        NAMESPACES["uts"], lambda: call("sethostname", b"spoilt", 6))
    return found


def changes_who_it_is():
    return calls(("setuid", 0), ("setgid", 0), ("setgroups", 0, 0), ("setresuid", 0, 0, 0),
                 ("capset", PAGE_OF_ZEROS, PAGE_OF_ZEROS), ("prctl (PDEATHSIG)", 1, 0, 0, 0, 0),
                 ("prctl (DUMPABLE)", 4, 1, 0, 0, 0), ("prctl (SECUREBITS)", 28, 0, 0, 0, 0),
                 ("prctl (AMBIENT)", 47, 2, 0, 0, 0), ("prctl (PTRACER)", 0x59616D61, -1, 0, 0, 0))


def types_into_a_terminal():
    """Also with bits set that the kernel cuts off; and into a terminal of its own, if it can have one."""
    found = calls(("ioctl", 0, 0x5412, b"x"), ("ioctl (high bits)", 0, 0x1_0000_5412, b"x"),
                  ("ioctl (TIOCLINUX)", 0, 0x541C, b"x"))

    def type_into_its_own():
        os.setsid()
        master, name = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY), ctypes.c_int()
        call("ioctl", master, 0x40045431, ctypes.byref(ctypes.c_int(0)))
        call("ioctl", master, 0x80045430, ctypes.byref(name))
        terminal = os.open("/dev/pts/%d" % name.value, os.O_RDWR)
        call("ioctl", terminal, 0x5412, b"x")
        return "done"
    found["its own terminal"] = in_child(type_into_its_own)
    return found


def makes_sockets_of_other_kinds():
    def make(family, kind, protocol=0):
        socket.socket(family, kind, protocol).close()
    return each({
        "raw": (make, socket.AF_INET, socket.SOCK_RAW, 1), "packet": (make, 17, socket.SOCK_RAW),
        "netlink": (make, 16, socket.SOCK_RAW), "vsock": (make, 40, socket.SOCK_STREAM),
        "alg": (make, 38, socket.SOCK_SEQPACKET), "ping": (make, socket.AF_INET, socket.SOCK_DGRAM, 1),
        "bluetooth": (make, 31, socket.SOCK_RAW), "sctp": (make, socket.AF_INET, socket.SOCK_STREAM, 132),
    })


def calls_as_another_architecture():
    """By `int 0x80`, which means i386 whatever the process is; written as machine code."""
    if os.uname().machine != "x86_64":
        os.kill(os.getpid(), signal.SIGKILL)
    import mmap
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # mov eax, 20 (getpid); int 0x80; ret
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def calls_with_the_bit_of_x32():
    return called(0x4000_0000 | 39)


def calls_what_no_kernel_has():
    return each({"a new number": (called, 4000)})
