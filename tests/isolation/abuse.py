"""Hostile functions: the path of a call names one. Each says how it fared, if it is left to."""
import errno
import gc
import os
import re
import signal
import socket
import sys
import threading


def handle(request):
    return globals()[request.path.strip("/")]()


def fine():
    return "fine"


def until_refused(action, most=100_000):
    """Repeats it until it is refused; how often it was done, and the error."""
    kept = []
    for count in range(most):
        try:
            kept.append(action())
        except OSError as error:
            del kept
            return {"count": count, "error": errno.errorcode[error.errno]}
        except RuntimeError as error:
            return {"count": count, "error": str(error)}
    return {"count": most, "error": None}


def forks_for_ever():
    def fork():
        if os.fork() == 0:
            while True:
                signal.pause()
    return until_refused(fork)


def forks_that_fork():
    """The bomb proper: every child goes on forking."""
    def bomb():
        for _ in range(3):
            try:
                if os.fork() == 0:
                    bomb()
                    signal.pause()
            except OSError:
                pass
    bomb()
    if os.getpid() != 1:
        signal.pause()
    return until_refused(os.fork)["error"]


def starts_threads_for_ever():
    end = threading.Event()
    try:
        return until_refused(lambda: threading.Thread(target=end.wait, daemon=True).start())
    finally:
        end.set()


def allocates_ten_times_its_memory():
    return len(b"x" * (640 << 20))


def two_children_share_it_out():
    for _ in range(2):
        if os.fork() == 0:
            hoard = bytearray(b"x" * (48 << 20))
            signal.pause()
            del hoard
    os.wait()
    # On cgroup v1 the kernel kills one process, and the server the rest.
    time.sleep(5)
    return "one was killed"


def fills_tmp():
    def write():
        with open("/tmp/full", "ab", 0) as file:
            if file.write(bytes(1 << 20)) < 1 << 20:
                raise OSError(errno.ENOSPC, "")
    with open("/tmp/first", "wb") as first:
        first.write(bytes(1 << 20))
    return until_refused(write)["error"]


def writes_a_sparse_terabyte():
    def write():
        with open("/tmp/sparse", "wb") as file:
            file.truncate(1 << 40)
    return until_refused(write)["error"]


def makes_a_million_files():
    def make():
        make.count += 1
        os.close(os.open("/tmp/%d" % make.count, os.O_CREAT | os.O_WRONLY))
    make.count = 0
    return until_refused(make, 1_000_000)


def opens_files_until_refused():
    return until_refused(lambda: open("/dev/null"))


def opens_sockets_until_refused():
    return until_refused(lambda: socket.socket())


def sleeps_past_its_timeout_ignoring_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        signal.pause()


def burns_all_processors():
    def burn():
        while True:
            pass
    for _ in range(8):
        if os.fork() == 0:
            burn()
    burn()


def exits():
    os._exit(3)


def crashes():
    import ctypes
    ctypes.string_at(0)


def aborts():
    os.abort()


def closes_every_descriptor():
    os.closerange(0, 1024)


def recurses():
    return recurses()


def recurses_in_c():
    return gc.__class__ and __import__("json").loads("[" * 200_000)


def builds_an_enormous_number():
    return len(str(10 ** 10 ** 8))


def matches_for_ever():
    return re.match(r"(a+)+$", "a" * 64 + "b") is None


def leaves_a_thread_that_writes_into_later_replies():
    def write():
        while True:
            try:
                os.write(3, b"\xff" * 24)
            except OSError:
                pass
    threading.Thread(target=write, daemon=True).start()
    return "answered"


def never_ends_at_exit():
    import atexit
    atexit.register(lambda: signal.pause() or never_ends_at_exit())
    return "registered"


def leaves_a_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                signal.pause()
        os._exit(0)
    os.wait()
    return "left"


def prints_without_end():
    for _ in range(64):
        print("x" * (1 << 20))
    os.write(1, b"y" * (8 << 20))
    return "printed"


def returns_too_much():
    return b"x" * (7 << 20)


def returns_an_object():
    return object()


def returns_a_cycle():
    cycle = []
    cycle.append(cycle)
    return cycle


def raises_what_cannot_be_told():
    class Untold(Exception):
        def __str__(self):
            raise self
    raise Untold()


def raises_what_is_never_told():
    class Never(Exception):
        def __str__(self):
            while True:
                pass
    raise Never()


def raises_system_exit():
    raise SystemExit(0)


def speaks_garbage():
    os.write(3, os.urandom(4096))
    return "spoken"


def speaks_of_a_huge_payload():
    os.write(3, b"\xff\xff\xff\x7f" + bytes([18, 1, 0, 0]) + bytes(16))
    return "spoken"


def speaks_an_empty_message():
    socket.socket(fileno=os.dup(3)).send(b"")
    return "spoken"


def forges_an_answer():
    """A well-formed answer to a call that it never got."""
    os.write(3, (16).to_bytes(4, "little") + bytes([18, 1, 0, 0]) + (7).to_bytes(8, "little") + bytes(8)
             + (200).to_bytes(2, "little") + bytes(6) + bytes(8))
    return "forged"


def takes_the_calls_of_later_for_itself():
    return len(os.read(3, 65536))


def kills_everybody():
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(-1, number)
        except ProcessLookupError:
            pass
    os.kill(os.getppid(), 0)
    return "nobody else was there"


def stops_itself():
    os.kill(os.getpid(), signal.SIGSTOP)
    return "cannot be stopped"


def spoils_the_modules():
    import json
    import time
    json.dumps = json.loads = time.time = sys.stdout = sys.stderr = None
    shim = sys.modules["__main__"]
    for name in list(vars(shim)):
        if not name.startswith("__"):
            setattr(shim, name, None)
    return "spoilt"


def searches_its_memory():
    """Every string that Python knows of, and all memory that can be read."""
    canary = b"canary-" + b"of-another"
    found = [kind for kind in gc.get_objects() if isinstance(kind, dict) and canary.decode() in map(str, kind.values())]
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps if " r" in line]
    try:
        memory = open("/proc/self/mem", "rb", 0)
    except OSError as error:
        return {"found": len(found), "memory": errno.errorcode[error.errno]}
    for start, end in ranges:
        try:
            memory.seek(int(start, 16))
            if canary in memory.read(int(end, 16) - int(start, 16)):
                found.append(start)
        except (OSError, OverflowError, ValueError):
            pass
    return {"found": len(found), "memory": "read"}


def walks_out():
    """By links, by dots and by descriptors."""
    os.symlink("/etc/shadow", "/tmp/shadow")
    os.symlink("../../../../../../etc/shadow", "/tmp/dots")
    paths = ["/tmp/shadow", "/tmp/dots", "/proc/self/root/etc/shadow", "/proc/1/root/etc/shadow"]
    paths += ["/proc/self/cwd/../etc/shadow"] + ["/proc/self/fd/%d/etc/shadow" % fd for fd in range(64)]
    out = [path for path in paths if os.path.exists(path)]
    return out


def raises_its_limits():
    import resource
    raised = []
    for name in ("NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE", "STACK", "NICE", "RTPRIO"):
        limit = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(limit)[1]
        try:
            resource.setrlimit(limit, (hard + 1, hard + 1))
            raised.append(name)
        except (OSError, ValueError):
            pass
    for attempt in (lambda: os.nice(-20), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
                    lambda: open("/proc/self/oom_score_adj", "w").write("-1000")):
        try:
            attempt()
            raised.append(repr(attempt))
        except OSError:
            pass
    return raised


def leaves_messages_behind():
    """A System V segment, which outlives processes but not the IPC namespace."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.shmget(0x66616173, 4096, 0)
    return {"seen": before != -1, "made": libc.shmget(0x66616173, 4096, 0o1600) != -1}
