#!/usr/bin/env python3
"""An engine of containers for tests, and the end of all that came of it.

    unshare --mount --propagation slave python3 tests/common/engine/keeper.py docker|podman

Makes a directory, says which, and keeps there whatever a `dockerd` or a `podman system service` of its own has: its
socket `engine.sock`, its data, its state, its log. Then it does what it is told, a line each, and answers each line with
`ok` or with what went wrong:

    start      starts the engine, which must not be there, and answers when the engine does
    stop       SIGSTOP: the engine is there and says nothing
    continue   SIGCONT
    kill       SIGKILL; its containers live on, as they do when an engine crashes

At the end of its input, which is the end of the process that tests, however that comes about, everything is ended and
removed. Nothing is ended but what descends from here: as the nearest subreaper this process inherits what the engine
leaves behind. Nothing is mounted or unmounted but in the mount namespace that it was started in. There the engine's data
is in memory (some disks take seconds for an image that goes), and what an engine would share with one of the host's is
hidden: a containerd, and the places of Podman and its runtime that no setting moves.
"""

import ctypes
import glob
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

START_S = 60
# A group of a process that has just died can be busy for a moment.
END_S = 20
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MNT_DETACH = 2
HYBRID = "/sys/fs/cgroup/unified"
DPKG_QUERY = "/usr/bin/dpkg-query"

libc = ctypes.CDLL(None, use_errno=True)


class Wrong(Exception):
    """What was told cannot be done."""


class Engine:
    """At most one engine at a time, on a directory."""

    # Directories of the host's that an engine of this kind would share with another one.
    HIDDEN = []

    def __init__(self, directory):
        self.directory = directory
        self.socket = self.path("engine.sock")
        self.pid = None

    def prepare(self):
        """What it needs before it is started for the first time."""
        for hidden in self.HIDDEN:
            mount_memory(hidden)
        mount_memory(self.path("data"))

    def command(self):
        """What is run, and the variables beside those that are there."""
        raise NotImplementedError

    def tops(self):
        """The groups of its containers, below the root of a hierarchy."""
        raise NotImplementedError

    def start(self):
        if self.pid is not None:
            raise Wrong("it runs already")
        for name in ("engine.sock", "pid"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        command, variables = self.command()
        with open(self.path("log"), "ab") as log:
            # The host's configuration is not this engine's. Only this process waits for it: see `bury`. Podman's helpers
            # write into the working directory.
            self.pid = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self.before,
            ).pid
        deadline = time.monotonic() + START_S
        while not self.answers():
            self.bury()
            if self.pid is None:
                raise Wrong("it does not start: " + self.last_words())
            if time.monotonic() > deadline:
                raise Wrong("it does not answer: " + self.last_words())
            time.sleep(0.05)

    def before(self):
        """In the new process, before it becomes the engine."""
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def signal(self, number):
        if self.pid is None:
            raise Wrong("it does not run")
        os.kill(self.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        while self.pid is not None:
            self.bury()
            time.sleep(0.01)

    def bury(self):
        """Waits for whatever has ended, of the engine and of what it has left to us."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                return
            if pid == self.pid:
                self.pid = None

    def answers(self):
        try:
            with socket.socket(socket.AF_UNIX) as stream:
                stream.settimeout(5)
                stream.connect(self.socket)
                stream.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in stream.recv(64)
        except OSError:
            return False

    def end(self):
        """Ends everything and removes it."""
        self.thaw()
        deadline = time.monotonic() + END_S
        while True:
            left = descendants(os.getpid())
            if not left or time.monotonic() > deadline:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
            self.bury()
        while self.remove_cgroups() and time.monotonic() < deadline:
            time.sleep(0.02)
        for point in mounts_below(self.directory):
            libc.umount2(os.fsencode(point), MNT_DETACH)
        shutil.rmtree(self.directory, ignore_errors=True)

    def thaw(self):
        """What is frozen does not die."""
        for group in self.cgroups():
            for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                try:
                    write(os.path.join(group, name), value)
                except OSError:
                    pass

    def cgroups(self):
        """The groups of this engine in all hierarchies, inner ones first."""
        tops = [found for top in self.tops() for at in ("", "*/") for found in glob.glob("/sys/fs/cgroup/" + at + top)]
        return [group for top in tops for group, _, _ in os.walk(top, topdown=False)]

    def remove_cgroups(self):
        """Whether any are left."""
        for group in self.cgroups():
            try:
                os.rmdir(group)
            except OSError:
                pass
        return self.cgroups()

    def last_words(self):
        with open(self.path("log"), errors="replace") as log:
            return " / ".join(log.read().splitlines()[-3:])

    def path(self, name):
        return os.path.join(self.directory, name)


class Docker(Engine):
    # It must be there in any case: the shims of every containerd have their sockets in it.
    HIDDEN = ["/run/containerd"]

    def __init__(self, directory):
        super().__init__(directory)
        self.cgroup = "test-engine-" + os.path.basename(directory).rpartition("-")[2]

    def prepare(self):
        super().prepare()
        write(self.path("daemon.json"), "{}")
        with open("/proc/self/cgroup") as groups:
            self.is_at_the_top = groups.read() == "0::/\n"
        if self.is_at_the_top:
            os.mkdir(self.own_group())

    def own_group(self):
        return "/sys/fs/cgroup/" + self.cgroup + "-own"

    def before(self):
        super().before()
        # As a service it has a group. In that of its own it looks for what the kernel can limit, and of version 2 the top
        # has nothing to look at.
        if self.is_at_the_top:
            write(self.own_group() + "/cgroup.procs", str(os.getpid()))

    def command(self):
        return [
            "dockerd",
            "--config-file=" + self.path("daemon.json"),
            "--host=unix://" + self.socket,
            "--data-root=" + self.path("data"),
            "--exec-root=" + self.path("exec"),
            "--pidfile=" + self.path("pid"),
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--cgroup-parent=/" + self.cgroup,
        ], {}

    def tops(self):
        return [self.cgroup, self.cgroup + "-own"]


class Podman(Engine):
    # Its locks, what the runtime remembers of containers, and what it does of networks.
    HIDDEN = ["/dev/shm", "/run/crun", "/run/runc", "/run/libpod", "/run/containers", "/run/netns", "/var/lib/cni"]

    def prepare(self):
        super().prepare()
        if os.path.isdir(HYBRID):
            # Debian's crun takes no v2 tree beside v1 that has a controller. In this it sees none.
            mount_memory(HYBRID)
        if os.path.exists(DPKG_QUERY):
            # Debian's Podman has it search all packages whenever its version is asked for: seconds, on a busy machine.
            subprocess.run(["mount", "--bind", "/dev/null", DPKG_QUERY], check=True)
        for name in ("run", "tmp", "home", "networks"):
            os.mkdir(self.path(name))
        write(self.path("storage.conf"), '[storage]\ndriver = "overlay"\nrunroot = "%s"\ngraphroot = "%s"\n'
              % (self.path("run"), self.path("data")))
        # What tests have images in.
        write(self.path("registries.conf"), '[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n')
        # Limits that root may give where it lacks a capability: Podman's own are above what is allowed there.
        write(self.path("containers.conf"), """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
""")

    def command(self):
        # What it starts itself later, to tidy up behind a container, has the same variables.
        return [
            "podman",
            "--root=" + self.path("data"),
            "--runroot=" + self.path("run"),
            "--tmpdir=" + self.path("tmp/libpod"),
            "--network-config-dir=" + self.path("networks"),
            "system",
            "service",
            "--time=0",
            "unix://" + self.socket,
        ], {
            "CONTAINERS_CONF": self.path("containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": self.path("registries.conf"),
            "CONTAINERS_STORAGE_CONF": self.path("storage.conf"),
            "HOME": self.path("home"),
            "TMPDIR": self.path("tmp"),
        }

    def tops(self):
        # All of Podman's engines have one group for their containers: of those there, this one's are what it remembers.
        places = glob.glob(self.path("data/overlay-containers/*"))
        ids = [os.path.basename(place) for place in places if os.path.isdir(place)]
        return ["libpod_parent/libpod-" + name for name in ids]


KINDS = {"docker": Docker, "podman": Podman}


def descendants(pid):
    """Every process below this one."""
    children = {}
    for entry in os.listdir("/proc"):
        try:
            with open("/proc/%s/stat" % int(entry)) as stat:
                parent = stat.read().rpartition(") ")[2].split()[1]
        except (ValueError, OSError):
            continue
        children.setdefault(int(parent), []).append(int(entry))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


def mounts_below(directory):
    """The mount points below a directory, the latest first."""
    with open("/proc/self/mountinfo") as mounts:
        points = [line.split()[4] for line in mounts]
    return [point for point in reversed(points) if point.startswith(directory + "/")]


def lines(engine):
    """The lines of standard input as they come; what has died meanwhile is buried."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write)
    text = b""
    while True:
        ready, _, _ = select.select([0, read], [], [])
        if read in ready:
            os.read(read, 4096)
            engine.bury()
        if 0 in ready:
            more = os.read(0, 4096)
            if not more:
                return
            *whole, text = (text + more).split(b"\n")
            yield from (line.decode() for line in whole)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def mount_memory(directory):
    os.makedirs(directory, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)


def obey(engine):
    deeds = {
        "start": engine.start,
        "stop": lambda: engine.signal(signal.SIGSTOP),
        "continue": lambda: engine.signal(signal.SIGCONT),
        "kill": engine.kill,
    }
    for line in lines(engine):
        try:
            deeds[line]()
            print("ok", flush=True)
        except Wrong as wrong:
            print(wrong, flush=True)


def main():
    if os.readlink("/proc/self/ns/mnt") == os.readlink("/proc/%s/ns/mnt" % os.getppid()):
        sys.exit("this needs a mount namespace of its own: see the top of the file")
    # A Ctrl-C is for the tests, and their end is the sign.
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    engine = KINDS[sys.argv[1]](tempfile.mkdtemp(prefix="faas-engine-"))
    try:
        engine.prepare()
        print(engine.directory, flush=True)
        obey(engine)
    finally:
        engine.end()


if __name__ == "__main__":
    main()
