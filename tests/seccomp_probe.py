"""Runs under the filter that tests/seccomp.rs hands over: first what must work, then what must not.

Usage: python -I -S seccomp_probe.py FILTER_FILE [work|refusals|load-time]. Prints one line per finding that is wrong,
and "checked N" at the end.
"""
import ctypes
import errno
import os
import struct
import sys
import time

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def load(filter_bytes):
    program = Program(len(filter_bytes) // 8, filter_bytes)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    started = time.perf_counter()
    result = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    elapsed = time.perf_counter() - started
    if result != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return elapsed


# ---- What must work ----


def threads():
    import queue
    import threading

    answers = queue.Queue()
    group = [threading.Thread(target=answers.put, args=(n,)) for n in range(8)]
    for thread in group:
        thread.start()
    for thread in group:
        thread.join(10)
    assert sorted(answers.get_nowait() for _ in group) == list(range(8))


def thread_pool():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))


def fork_and_wait():
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    assert os.waitpid(pid, 0)[1] >> 8 == 7


def subprocesses():
    import subprocess

    run = subprocess.run(["/bin/cat"], input=b"text", stdout=subprocess.PIPE, timeout=20, start_new_session=True)
    assert run.stdout == b"text" and run.returncode == 0
    assert subprocess.call([sys.executable, "-I", "-S", "-c", "print(1)"], stdout=subprocess.DEVNULL) == 0
    assert os.system("exit 3") >> 8 == 3


def asyncio_everything():
    import asyncio

    async def main():
        async def echo(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        writer.close()
        server.close()
        child = await asyncio.create_subprocess_exec("/bin/cat", stdin=-1, stdout=-1)
        out, _ = await child.communicate(b"piped")
        assert out == b"piped"
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, sum, [1, 2]) == 3

    asyncio.run(asyncio.wait_for(main(), 20))


def unix_sockets():
    import socket

    left, right = socket.socketpair()
    left.settimeout(5)
    right.sendall(b"x")
    assert left.recv(1) == b"x"
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        socket.socket(socket.AF_UNIX, kind).close()
        socket.socket(socket.AF_INET, kind).close()
    assert socket.getaddrinfo("localhost", 80, proto=socket.IPPROTO_TCP)


def memory_map():
    import mmap

    with mmap.mmap(-1, 1 << 20) as area:
        area[5] = 9
        area.resize(2 << 20)
        assert area[5] == 9
        if hasattr(area, "madvise"):
            area.madvise(mmap.MADV_DONTNEED)


def database():
    import sqlite3
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        connection = sqlite3.connect(os.path.join(directory, "db"))
        connection.execute("pragma journal_mode=wal")
        connection.execute("create table t(a)")
        connection.executemany("insert into t values(?)", [(n,) for n in range(100)])
        connection.commit()
        assert connection.execute("select sum(a) from t").fetchone() == (4950,)
        connection.close()


def tls():
    import ssl

    ssl.create_default_context()
    assert len(ssl.RAND_bytes(16)) == 16


def files():
    import glob
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "a")
        with open(path, "w") as handle:
            handle.write("text")
            handle.flush()
            os.fchmod(handle.fileno(), 0o600)
            os.fsync(handle.fileno())
            os.ftruncate(handle.fileno(), 2)
        shutil.copy2(path, path + "2")
        shutil.copytree(directory, os.path.join(directory, "tree"))
        os.symlink("a", path + "3")
        os.link(path, path + "4")
        os.rename(path, path + "5")
        os.utime(path + "5", (1, 1))
        os.mkfifo(path + "6")
        os.chmod(path + "5", 0o644)
        assert os.access(path + "5", os.R_OK) and os.stat(path + "5").st_size == 2
        assert len(glob.glob(directory + "/*")) == 6, glob.glob(directory + "/*")
        if hasattr(os, "memfd_create"):
            os.close(os.memfd_create("name"))


def multiprocessing_pool():
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]


def multiprocessing_shared():
    import multiprocessing
    from multiprocessing import shared_memory

    lock, value = multiprocessing.Lock(), multiprocessing.Value("i", 4)
    with lock:
        value.value += 1
    # The tracker of shared memory is a child process with its own pipe.
    block = shared_memory.SharedMemory(create=True, size=4096)
    block.buf[0] = value.value
    assert block.buf[0] == 5
    block.close()
    block.unlink()


def signals_and_timers():
    import select
    import signal

    hits = []
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.sigtimedwait([signal.SIGUSR1], 0.2)
    assert hits
    poll = select.epoll()
    reader, writer = os.pipe()
    poll.register(reader)
    os.write(writer, b"x")
    assert poll.poll(1)


def what_it_knows_of_itself():
    import getpass
    import platform
    import resource
    import random
    import uuid

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    assert os.sched_getaffinity(0) and os.cpu_count()
    os.getpriority(os.PRIO_PROCESS, 0), os.getloadavg(), os.uname(), os.times()
    platform.platform(), random.SystemRandom().random(), uuid.uuid4(), getpass, os.urandom(8)
    os.isatty(0), os.sysconf("SC_PAGE_SIZE")
    if hasattr(os, "pidfd_open"):
        os.close(os.pidfd_open(os.getpid()))


def many_allocations():
    rows = [bytearray(200_000) for _ in range(200)]
    del rows[::2]
    assert sum(map(len, rows)) == 20_000_000


WORK = [threads, thread_pool, fork_and_wait, subprocesses, asyncio_everything, unix_sockets, memory_map, database,
        tls, files, multiprocessing_pool, multiprocessing_shared, signals_and_timers, what_it_knows_of_itself,
        many_allocations]

# ---- What must not (numbers of x86_64) ----

PAGE = ctypes.create_string_buffer(4096)
EPERM, ENOSYS, EAFNOSUPPORT = errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT
CLONE_FLAGS = {"newtime": 0x80, "newns": 0x20000, "newcgroup": 0x2000000, "newuts": 0x4000000, "newipc": 0x8000000,
               "newuser": 0x10000000, "newpid": 0x20000000, "newnet": 0x40000000}
REFUSALS = [
    ("unshare(0)", EPERM, 272, 0),
    ("unshare user", EPERM, 272, 0x10000000),
    ("setns", EPERM, 308, 0, 0),
    ("ptrace traceme", EPERM, 101, 0, 0, 0, 0),
    ("process_vm_readv", EPERM, 310, 1, 0, 0, 0, 0, 0),
    ("pidfd_getfd", EPERM, 438, 0, 0, 0),
    ("kcmp", EPERM, 312, 1, 1, 0, 0, 0),
    ("bpf", EPERM, 321, 0, PAGE, 72),
    ("perf_event_open", EPERM, 298, PAGE, 0, -1, -1, 0),
    ("keyctl", EPERM, 250, 0, -3, 0),
    ("add_key", EPERM, 248, b"user", b"x", b"y", 1, -3),
    ("userfaultfd", EPERM, 323, 1),
    ("io_uring_setup", ENOSYS, 425, 1, PAGE),
    ("clone3", ENOSYS, 435, PAGE, 88),
    ("mount", EPERM, 165, b"none", b"/tmp", b"tmpfs", 0, 0),
    ("fsopen", EPERM, 430, b"tmpfs", 0),
    ("mount_setattr", EPERM, 442, -100, b"/", 0, PAGE, 32),
    ("pivot_root", EPERM, 155, b"/", b"/"),
    ("chroot", EPERM, 161, b"/"),
    ("open_by_handle_at", EPERM, 304, 0, PAGE, 0),
    ("personality", EPERM, 135, 0xFFFFFFFF),
    ("modify_ldt", EPERM, 154, 0, PAGE, 16),
    ("memfd_secret", EPERM, 447, 0),
    ("vmsplice", EPERM, 278, 1, PAGE, 1, 0),
    ("seccomp", EPERM, 317, 2, 0, 0),
    ("setuid to itself", EPERM, 105, os.getuid()),
    ("sethostname", EPERM, 170, b"x", 1),
    ("sync", EPERM, 162),
    ("inotify_init1", EPERM, 294, 0),
    ("prctl set_pdeathsig", EPERM, 157, 1, 0, 0, 0, 0),
    ("prctl set_dumpable", EPERM, 157, 4, 1, 0, 0, 0),
    ("prctl cap_ambient", EPERM, 157, 47, 4, 0, 0, 0),
    ("prlimit64 of another", EPERM, 302, os.getppid(), 7, 0, PAGE),
    ("mknod of a device", EPERM, 133, b"/tmp/faas-null", 0o020666, 0x103),
    ("TIOCSTI", EPERM, 16, 0, 0x5412, b"x"),
    ("TIOCSTI with high bits", EPERM, 16, 0, 0x1_0000_5412, b"x"),
    ("AF_NETLINK", EAFNOSUPPORT, 41, 16, 3, 0),
    ("AF_PACKET", EAFNOSUPPORT, 41, 17, 3, 0),
    ("AF_VSOCK", EAFNOSUPPORT, 41, 40, 1, 0),
    ("AF_ALG", EAFNOSUPPORT, 41, 38, 5, 0),
    ("a raw socket", EPERM, 41, 2, 3, 1),
    ("a number of the future", ENOSYS, 999),
] + [("clone " + name, EPERM, 56, flag | 17, 0, 0, 0, 0) for name, flag in CLONE_FLAGS.items()]


def refusal(name, expected, number, *arguments):
    long_arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *long_arguments)
    if result == 0 and name.startswith("clone "):
        os._exit(0)
    if result != -1 or ctypes.get_errno() != expected:
        return "%s: result %d, errno %s" % (name, result, errno.errorcode.get(ctypes.get_errno()))


def linear(filter_bytes):
    """A filter of comparisons one after the other, as long as allow-lists usually are: 300 numbers."""
    kill_arch = [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
    body = [part for number in range(300) for part in ((0x15, 0, 1, number), (0x06, 0, 0, 0x7FFF0000))]
    return b"".join(struct.pack("=HBBI", *i) for i in kill_arch + body + [(0x06, 0, 0, 0x50001)])


def load_time_us(filter_bytes, rounds=60):
    """The median of loads, each in a fresh process."""
    times = []
    for _ in range(rounds):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, struct.pack("d", load(filter_bytes)))
            os._exit(0)
        times.append(struct.unpack("d", os.read(reader, 8))[0])
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    return sorted(times)[rounds // 2] * 1e6


def main():
    with open(sys.argv[1], "rb") as handle:
        filter_bytes = handle.read()
    what = sys.argv[2]
    if what == "load-time":
        ours, plain = load_time_us(filter_bytes), load_time_us(linear(filter_bytes))
        print("tree %.0f us, linear %.0f us" % (ours, plain))
        sys.exit(ours >= plain)
    load(filter_bytes)
    if what == "refusals":
        wrong = [line for line in (refusal(*case) for case in REFUSALS) if line]
    else:
        wrong = []
        for work in WORK:
            try:
                work()
            except ImportError as error:
                print("not in this Python:", error)
            except BaseException as error:
                wrong.append("%s: %s: %s" % (work.__name__, type(error).__name__, error))
    print("\n".join(wrong + ["checked %d" % len(REFUSALS if what == "refusals" else WORK)]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
