"""A zygote of a few lines for tests/sandbox_plan.rs: forks M, which forks an instance that tells what it sees."""
import array
import fcntl
import gc
import json
import os
import signal
import socket
import sys
import time

sys.path.insert(0, "/faas")
import _faas  # noqa: E402

control = socket.socket(fileno=3)


def attempt(action):
    try:
        return repr(action())
    except OSError as error:
        return error.errno
    except Exception as error:
        return type(error).__name__


def status():
    with open("/proc/self/status") as lines:
        return dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)


def read(path):
    with open(path) as file:
        return file.read()


def write(path):
    with open(path, "w") as file:
        file.write("x")


def files(path):
    found = []
    for directory, names, leaves in os.walk(path):
        found += [os.path.join(directory, name) for name in names + leaves]
    return found


def sparse(path, length):
    with open(path, "wb") as file:
        file.truncate(length)


def look():
    import ctypes
    import resource
    import socket as sockets

    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def call(name, *arguments):
        if getattr(libc, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)

    death_signal = ctypes.c_int(-1)
    libc.prctl(2, ctypes.byref(death_signal), 0, 0, 0)
    limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))
              for name in ("NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE", "STACK", "NICE", "RTPRIO")}
    descriptors = {fd: os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")
                   if os.path.exists("/proc/self/fd/" + fd) or int(fd) < 4}
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "uid": os.getresuid(),
        "gid": os.getresgid(),
        "groups": os.getgroups(),
        "status": status(),
        "proc": sorted(os.listdir("/proc")),
        "mounts": read("/proc/self/mounts").splitlines(),
        "uid_map": read("/proc/self/uid_map").split(),
        "setgroups": read("/proc/self/setgroups").strip(),
        "hostname": sockets.gethostname(),
        "interfaces": [name for _, name in sockets.if_nameindex()],
        "connect": attempt(lambda: sockets.create_connection(("127.0.0.1", 9), 1)),
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "root": sorted(os.listdir("/")),
        "etc": sorted(os.listdir("/etc")),
        "dev": sorted(os.listdir("/dev")),
        "beside": os.listdir(os.path.dirname(sys.executable)),
        "packages": [path for path in files("/usr/lib") if path.endswith("-packages") and os.listdir(path)],
        "descriptors": {fd: name for fd, name in descriptors.items() if "/proc" not in name},
        "limits": limits,
        "death_signal": death_signal.value,
        "securebits": libc.prctl(27, 0, 0, 0, 0),
        "dumpable": libc.prctl(3, 0, 0, 0, 0),
        "umask": os.umask(0o077),
        "writable": [path for path in ("/", "/usr", "/usr/lib", "/etc", "/etc/passwd", "/faas", "/faas/zygote.py",
                                       "/dev", "/proc/sys", os.path.dirname(os.__file__), sys.executable)
                     if isinstance(attempt(lambda: write(path if os.path.isfile(path) else path + "/x")), str)
                     or os.access(path, os.W_OK)],
        "unwritable": attempt(lambda: write("/usr/lib/x")),
        "tmp": attempt(lambda: write("/tmp/x")),
        "shm": attempt(lambda: write("/dev/shm/x")),
        "null": attempt(lambda: write("/dev/null")),
        "random": len(open("/dev/urandom", "rb").read(4)),
        "fill_tmp": attempt(lambda: open("/tmp/full", "wb").write(bytes(32 << 20))),
        "sparse": attempt(lambda: sparse("/tmp/sparse", 1 << 40)),
        "inodes": attempt(lambda: [os.mkdir("/tmp/%d" % n) for n in range(200)]),
        "setuid": attempt(lambda: os.setuid(0)),
        "setgroups_call": attempt(lambda: os.setgroups([0])),
        "chroot": attempt(lambda: os.chroot("/tmp")),
        "sethostname": attempt(lambda: call("sethostname", b"evil", 4)),
        "mount": attempt(lambda: call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None)),
        "umount": attempt(lambda: call("umount2", b"/proc", 2)),
        "remount": attempt(lambda: call("mount", None, b"/", None, 32 | 4096, None)),
        "raise_limit": attempt(lambda: call("setrlimit", 7, (ctypes.c_ulong * 2)(4096, 4096))),
        "own_memory": attempt(lambda: open("/proc/1/mem", "rb").close()),
        "core_pattern": attempt(lambda: write("/proc/sys/kernel/core_pattern")),
        "uname": attempt(lambda: os.uname()),
        "mkdir_called": attempt(lambda: os.link("/tmp/x", "/tmp/y")),
        "python": list(sys.version_info[:3]),
        "ssl": attempt(lambda: __import__("ssl").create_default_context().cert_store_stats()["x509_ca"] > 0),
        "zone": attempt(lambda: time.tzname),
        "hidden": files(os.path.dirname(os.__file__) + "/site-packages"),
    }


def apply(plans, times):
    for plan in plans:
        before = time.perf_counter_ns()
        _faas.apply(plan)
        times.append(time.perf_counter_ns() - before)


def instance(plans, times):
    channel = socket.socket(fileno=os.dup(10))
    try:
        apply(plans, times)
    except OSError as error:
        # The last steps have moved the channel to where it stays, and closed it here.
        try:
            os.fstat(channel.fileno())
        except OSError:
            channel.detach()
            channel = socket.socket(fileno=3)
        channel.send(json.dumps({"failed": [error.errno, error.strerror]}).encode())
        os._exit(1)
    done = time.perf_counter_ns()
    channel.detach()
    channel = socket.socket(fileno=3)
    sys.stdout.write("to the output pipe")
    sys.stdout.flush()
    channel.send(json.dumps({"times": times, "done": done}).encode())
    request = channel.recv(100)
    if request == b"look":
        channel.send(json.dumps(look()).encode())
        channel.recv(1)
    os._exit(7)


def middle(outer, inner, fds, begun):
    for position, fd in enumerate(fds):
        os.dup2(fd, 10 + position)
    times = [time.perf_counter_ns() - begun]
    apply(outer, times)
    before = time.perf_counter_ns()
    pid = os.fork()
    if pid == 0:
        times.append(time.perf_counter_ns() - before)
        instance(inner, times)
    control.send(json.dumps({"pid": pid, "begun": begun}).encode())
    os._exit(0)


# What an instance must not inherit from whoever started its zygote.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
try:
    os.setgroups([4242])
except OSError:
    pass  # a common user's zygote may not

gc.disable()
gc.freeze()
control.send(b'{"ready": true}')
while True:
    message, ancillary, _, _ = control.recvmsg(200000, socket.CMSG_SPACE(4 * 8))
    if not message:
        break
    begun = time.perf_counter_ns()
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    head, rest = message.split(b"\n", 1)
    plans = []
    for lengths in json.loads(head.decode()):
        plans.append([])
        for length in lengths:
            plans[-1].append(rest[:length])
            rest = rest[length:]
    child = os.fork()
    if child == 0:
        try:
            # The numbers from 9 on belong to the plans, so what came must be out of their way.
            middle(plans[0], plans[1], [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in fds], begun)
        except OSError as error:
            control.send(json.dumps({"failed": [error.errno, error.strerror]}).encode())
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    for fd in fds:
        os.close(fd)
