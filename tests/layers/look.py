"""What an instance sees of itself and of the world: one JSON object."""
import ctypes
import errno
import os
import resource
import socket
import sys


def attempt(function, *arguments):
    """The name of the error it fails with; None when it does not."""
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except ValueError as error:
        return str(error)
    return None


def read(path):
    with open(path) as file:
        return file.read()


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(address)


def called(number, *arguments):
    """The name of the error with which a system call is refused; None when it is not."""
    ctypes.set_errno(0)
    refused = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) == -1
    return errno.errorcode.get(ctypes.get_errno()) if refused else None


libc = ctypes.CDLL(None, use_errno=True)


def write_everywhere():
    """Directories and files, but those of /proc and the two that are its own, that it can write."""
    written = []
    for directory, _, files in os.walk("/"):
        if directory.startswith(("/proc", "/tmp", "/dev")):
            continue
        if attempt(os.mkdir, directory + "/written") is None:
            written.append(directory)
        for name in files[:20]:
            path = os.path.join(directory, name)
            if not os.path.islink(path) and attempt(lambda: os.close(os.open(path, os.O_WRONLY))) is None:
                written.append(path)
    return written


def handle(request):
    asked = request.get_json()
    status = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines() if ":\t" in line)
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "status": {name: value.strip() for name, value in status.items()},
        "uid_map": read("/proc/self/uid_map").split(),
        "processes": [name for name in os.listdir("/proc") if name.isdigit()],
        "proc": sorted(name for name in os.listdir("/proc") if not name.isdigit()),
        "root": sorted(os.listdir("/")),
        "dev": sorted(os.listdir("/dev")),
        "etc": sorted(os.listdir("/etc")),
        "mounts": read("/proc/self/mounts").splitlines(),
        "cgroup": sorted({line.split(":", 2)[2] for line in read("/proc/self/cgroup").splitlines()}),
        "privilege": {"securebits": libc.prctl(27, 0, 0, 0, 0), "dumpable": libc.prctl(3, 0, 0, 0, 0),
                      "no_new_privs": libc.prctl(39, 0, 0, 0, 0)},
        "setgroups": read("/proc/self/setgroups").strip(),
        "calls": {"clone3": called(435, 0, 0), "io_uring_setup": called(425, 1, 0), "new": called(4000),
                  "fsopen": called(430, 0, 0), "pidfd_getfd": called(438, 0, 0, 0)},
        "descriptors": {fd: os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")
                        if os.path.exists("/proc/self/fd/" + fd) or int(fd) < 4},
        "environ": dict(os.environ),
        "hostname": socket.gethostname(),
        "connect": {
            "server": attempt(connect, socket.AF_INET, tuple(asked["server"])),
            "loopback": attempt(connect, socket.AF_INET, ("127.0.0.1", 22)),
            "loopback6": attempt(connect, socket.AF_INET6, ("::1", asked["server"][1])),
            "metadata": attempt(connect, socket.AF_INET, ("169.254.169.254", 80)),
            "docker": attempt(connect, socket.AF_UNIX, "/var/run/docker.sock"),
        },
        "limits": {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))
                   for name in ("NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE", "STACK", "NICE", "RTPRIO")},
        "hidden": {path: attempt(os.stat, path) for path in asked["hidden"]},
        "writable": write_everywhere(),
        "self_exe": attempt(lambda: os.close(os.open("/proc/self/exe", os.O_WRONLY))),
        "interpreter": attempt(lambda: os.close(os.open(sys.executable or "/proc/self/exe", os.O_WRONLY))),
        "core_pattern": attempt(lambda: open("/proc/sys/kernel/core_pattern", "w")),
        "own": [attempt(lambda: open(path, "w").close()) for path in ("/tmp/own", "/dev/shm/own")],
        "cwd": os.getcwd(),
        "session": os.getsid(0),
        "devices": {path: attempt(lambda: os.close(os.open(path, os.O_RDONLY)))
                    for path in ("/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/tty", "/dev/ptmx")},
    }
