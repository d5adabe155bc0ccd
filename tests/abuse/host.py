"""The host's files, devices and names, and power over it. Nothing is destroyed where a wall is missing: what could be
written is opened for writing at most, but for one file that is there for it (`FACTS["host"]["precious"]`)."""
import resource


def reads_files_of_the_host():
    paths = ["/etc/shadow", "/etc/machine-id", "/root/.ssh", "/home", "/var/log", "/run", "/usr/bin/env", "/bin/sh"]
    if FACTS["contained"]:
        # An image has such files of its own.
        paths = ["/etc/machine-id", FACTS["host"]["precious"]]
    found = {path: tried(os.stat, path) for path in paths}
    found.update((name, tried(os.stat, path)) for name, path in FACTS["hidden"].items())
    return found


def looks_at_the_names_of_the_host():
    """In files that are there, but are not the host's. An image has users of its own."""
    with open("/etc/passwd") as passwd, open("/etc/hosts") as hosts, open("/etc/resolv.conf") as resolv:
        servers = [line.split()[1] for line in resolv if line.startswith("nameserver")]
        if FACTS["contained"]:
            return {"servers": servers}
        return {"users": len(passwd.readlines()), "hosts": len(hosts.readlines()), "servers": servers}


def walks_out_by_links_and_dots():
    home = FACTS["home"]
    os.symlink(home + "/precious", "/tmp/link")
    os.symlink("../../../../../../../.." + home, "/tmp/dots")
    os.symlink("/proc/self/root" + home, "/tmp/root")
    return each({
        "link": (os.stat, "/tmp/link"),
        "link with dots": (os.stat, "/tmp/dots/precious"),
        "dots": (os.stat, "/tmp/../../../../.." + home + "/precious"),
        "link to the root": (os.stat, "/tmp/root/precious"),
        "root of pid 1": (os.stat, "/proc/1/root" + home + "/precious"),
        "working directory": (os.stat, "/proc/self/cwd/../../.." + home + "/precious"),
    })


def writes_a_file_of_the_host():
    def write():
        with open(FACTS["host"]["precious"], "a") as file:
            file.write("spoilt\n")
    return each({"precious": (write,)})


def writes_to_what_it_runs_on():
    libraries = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
    paths = sorted(libraries)[:4] + [os.__file__, "/faas/instance.py", "/faas/zygote.py", "/etc/passwd"]
    places = ["/", "/faas", "/etc", "/usr", "/dev"]
    if FACTS["contained"]:
        paths += ["/faas/shim/instance.py", "/faas/run/launch"]
        # Of an image, these are open to every user.
        places += ["/faas/shim", "/faas/run", "/var/tmp", "/run/lock"]
    found = {os.path.basename(path): tried(opened, path, os.O_WRONLY) for path in paths}
    found.update(("in " + path, tried(os.mkdir, path + "/written")) for path in places)
    return found


def writes_to_its_interpreter():
    """Directly, and by way of a descriptor that was opened before."""
    def reopened():
        descriptor = os.open("/proc/self/exe", os.O_RDONLY)
        try:
            opened("/proc/self/fd/%d" % descriptor, os.O_WRONLY)
        finally:
            os.close(descriptor)
    return each({
        "by its name": (opened, os.readlink("/proc/self/exe"), os.O_WRONLY),
        "exe": (opened, "/proc/self/exe", os.O_WRONLY),
        "reopened": (reopened,),
        "truncated": (os.truncate, "/proc/self/exe", 1 << 30),
        "another mode": (os.chmod, "/proc/self/exe", 0o755),
    })


def writes_to_the_kernel():
    names = ["sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/vm/overcommit_memory", "sysrq-trigger",
             "irq/default_smp_affinity", "self/oom_score_adj", "self/uid_map"]
    if FACTS["contained"]:
        # The files of its own process are its own there, and what may be written to them is another question.
        found = {name: tried(opened, "/proc/" + name, os.O_WRONLY) for name in names if not name.startswith("self/")}
        found["self/uid_map"] = tried(_written, "/proc/self/uid_map", b"0 %d 1" % os.getuid())
        return found
    return {name: tried(opened, "/proc/" + name, os.O_WRONLY) for name in names}


def _written(path, text):
    """At once, and not when a file object is closed, whose errors nobody hears."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def reads_of_the_kernel():
    paths = ["/proc/kallsyms", "/proc/kmsg", "/proc/kcore", "/proc/keys", "/proc/interrupts", "/proc/timer_list",
             "/proc/config.gz", "/proc/sys/kernel/hostname", "/sys", "/sys/kernel", "/dev/kmsg"]
    if FACTS["contained"]:
        # What is masked is there, and empty.
        return {path: tried(_read, path) for path in paths if not path.startswith("/proc/sys/")}
    return {path: tried(opened, path) for path in paths}


def _read(path):
    if os.path.isdir(path):
        found = os.listdir(path)
    else:
        with open(path, "rb", 0) as file:
            found = file.read(1)
    if not found:
        raise OSError(errno.ENODATA, "")


def walks_out_of_every_descriptor():
    """What its descriptors are; a directory among them would be a way out."""
    kinds = [os.readlink("/proc/self/fd/" + name).split(":")[0] for name in os.listdir("/proc/self/fd")
             if os.path.lexists("/proc/self/fd/" + name)]
    out = [fd for fd in range(256) if tried(os.stat, "/proc/self/fd/%d/.." % fd) == "done"]
    return {"kinds": sorted(kinds), "directories": out}


def breaks_out_of_its_root():
    def break_out():
        tried(called, {"x86_64": 272}.get(os.uname().machine, 97), 0x10000000)
        os.mkdir("/tmp/jail")
        os.chroot("/tmp/jail")
        return "done"
    return {"chroot": in_child(break_out)}


def opens_devices():
    names = ["mem", "kmem", "kmsg", "kvm", "fuse", "tty", "ptmx", "net/tun", "sda", "vda", "loop0", "loop-control"]
    if FACTS["contained"]:
        # A terminal that it has not, and one that it can make: `types_into_a_terminal` is about that.
        names = [name for name in names if name not in ("tty", "ptmx")]
    return {name: tried(opened, "/dev/" + name) for name in names}


def looks_at_its_devices():
    return sorted(os.listdir("/dev"))


def makes_devices():
    return each({
        "memory": (os.mknod, "/tmp/mem", 0o020666, os.makedev(1, 1)),
        "disk": (os.mknod, "/tmp/disk", 0o060666, os.makedev(8, 0)),
        "whiteout": (os.mknod, "/tmp/whiteout", 0o020666, 0),
    })


def becomes_another_user():
    return each({
        "setuid": (os.setuid, 0),
        "setgid": (os.setgid, 0),
        "setresuid": (os.setresuid, 0, 0, 0),
        "setgroups": (os.setgroups, [0]),
    })


def is_a_user_of_its_own():
    if FACTS["contained"]:
        # Without a user namespace, the number is the host's.
        ids = {*os.getresuid(), *os.getresgid(), *os.getgroups()}
        return {"one": len(ids) == 1, "of those for it": min(ids) - FACTS["uid_base"] in range(1000)}
    uid_map = open("/proc/self/uid_map").read().split()
    return {
        "ids": sorted({*os.getresuid(), *os.getresgid()}),
        "groups": os.getgroups(),
        "outside": int(uid_map[1]) - FACTS["uid_base"] in range(1000),
        "mapped": [uid_map[0], uid_map[2]],
        "setgroups": open("/proc/self/setgroups").read().strip(),
    }


def has_power():
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
    return {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def gains_privileges_by_exec():
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
    return {"no_new_privs": status["NoNewPrivs"].strip(), "filter": status["Seccomp"].strip()}


def runs_a_program_with_setuid():
    """The program writes its effective user."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        try:
            os.execv(FACTS["host"]["setuid"], ["id", "-u"])
        except OSError as error:
            os.write(writer, name_of(error.errno).encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reader, 100).decode().strip()
    return {"program": "done" if said == "0" else said}


def raises_its_limits():
    above = {"NOFILE": 1000, "FSIZE": 1 << 40, "STACK": 1 << 30, "MEMLOCK": 1 << 30, "MSGQUEUE": 1 << 20,
             "CORE": 1 << 30, "NPROC": 10_000, "RTPRIO": 10, "NICE": 40}
    return {name: tried(resource.setrlimit, getattr(resource, "RLIMIT_" + name), (limit, limit))
            for name, limit in above.items()}


def asks_for_more_than_its_share_of_the_processor():
    return each({
        "nice": (os.setpriority, os.PRIO_PROCESS, 0, -20),
        "real time": (os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
        "never killed for memory": (_written, "/proc/self/oom_score_adj", b"-1000"),
    })


def looks_at_the_host_name():
    return [os.uname().nodename, os.uname().domainname if hasattr(os.uname(), "domainname") else "(none)"]


def looks_where_its_cgroup_is():
    return sorted({line.split(":", 2)[2].strip() for line in open("/proc/self/cgroup")})


def moves_to_another_cgroup():
    attempts = {}
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"):
        for name in ("cgroup.procs", "tasks", "release_agent"):
            attempts[root + "/" + name] = tried(opened, root + "/" + name, os.O_WRONLY)
    return attempts
