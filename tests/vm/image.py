"""The file system of the machine, as an archive that the kernel unpacks into memory: this system's Python and a few of
its programs, busybox, the server and its tests.

Everything keeps the path that it has here: tests are compiled with the paths of the server and of their own files. What
is needed is found by following links and asking `ldd`, so that no list of libraries has to be kept.
"""

import lzma
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
# Not busybox's: its `setpriv` changes no user, its shell prefers its own programs, and `install` not every one has.
PROGRAMS = ["/bin/sh", "/usr/bin/install", "/usr/bin/setpriv", "/usr/bin/unshare"]
APPLETS = ["cat", "chmod", "chroot", "insmod", "ip", "mkdir", "mount", "poweroff", "sleep", "true"]
# For container mode: Docker, Podman, and what loads the profiles of AppArmor.
ENGINES = ["dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-init"]
ENGINES += ["podman", "conmon", "crun", "apparmor_parser"]
ENGINE_FILES = ["/etc/apparmor", "/etc/apparmor.d", "/usr/share/apparmor-features", "/etc/containers", "/usr/share/containers"]
SEARCHED = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
# Of the kernel's modules, the one without which an engine copies its image for each container.
OVERLAY = "/lib/modules/{release}/kernel/fs/overlayfs/overlay.ko"
PYTHON = Path("/usr/bin/python3")
# Of the standard library, what no function of a test imports; its tests alone are as large as the rest.
LEFT_OUT = {"test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data", "config-"}
# Where they are there. The second is where OpenSSL looks for certificates.
FILES = ["/etc/ld.so.cache", "/usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"]
# What functions must not find; tests look for it, and what is not there cannot be found.
SECRETS = [
    "etc/shadow",
    "etc/passwd-",
    "root/.ssh/id",
    "home/user/file",
    "var/lib/file",
    "run/file",
    "usr/lib/python3/dist-packages/installed.py",
]
DIRECTORIES = ["dev", "proc", "sys", "tmp", "root", "old"]


class ImageError(Exception):
    """The archive cannot be made."""


class Containers:
    """What container mode takes in the machine: paths of programs, the archive of an image, a module's content."""

    def __init__(self, image, release):
        self.image = image
        found = {name: shutil.which(name, path=SEARCHED) for name in ENGINES}
        missing = [name for name, path in found.items() if path is None]
        if missing:
            raise ImageError(f"{', '.join(missing)} not installed")
        self.programs = list(found.values())
        module = Path(OVERLAY.format(release=release))
        packed = module.with_suffix(".ko.xz")
        try:
            self.module = lzma.decompress(packed.read_bytes()) if packed.exists() else module.read_bytes()
        except OSError as error:
            raise ImageError(f"the kernel's module of overlay file systems: {error}") from error


class Archive:
    """A cpio archive in the format `newc`. Adding a file adds its directories, and what its links lead to."""

    def __init__(self, file):
        self.file = file
        self.known = set()
        self.inode = 0

    def add(self, path):
        """A file of this system, a link with its target, or a directory with all it holds."""
        path = self._reach(Path(path))
        if path.is_dir():
            for entry in sorted(path.iterdir()):
                if not any(entry.name.startswith(name) for name in LEFT_OUT):
                    self.add(entry)

    def write(self, path, content, mode=0o644):
        """A file with this content."""
        self._reach(Path("/") / path, content, mode)

    def directory(self, path):
        self._entry(f"/{path}", stat.S_IFDIR | (0o1777 if path == "tmp" else 0o755))

    def link(self, path, target):
        self._reach(Path(path).parent)
        self._entry(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    def close(self):
        self._entry("TRAILER!!!", 0)

    def _reach(self, path, content=None, mode=None):
        """Adds each part of the path, follows links, and gives where it ends."""
        at = Path("/")
        for part in path.parts[1:]:
            at = at / part
            if at.is_symlink():
                self._entry(str(at), stat.S_IFLNK | 0o777, os.fsencode(os.readlink(at)))
                at = self._reach(Path(os.path.normpath(at.parent / os.readlink(at))))
            elif at == path and content is not None:
                self._entry(str(at), stat.S_IFREG | mode, content)
            elif at.is_file():
                status = at.stat()
                # With its time, by which Python knows whether the compiled form of a module is still the right one.
                self._entry(str(at), stat.S_IFREG | stat.S_IMODE(status.st_mode), at.read_bytes(), int(status.st_mtime))
            else:
                self._entry(str(at), stat.S_IFDIR | 0o755)
        return at

    def _entry(self, path, mode, content=b"", changed=0):
        if path in self.known:
            return
        self.known.add(path)
        self.inode += 1
        name = os.fsencode(path.lstrip("/")) + b"\0"
        # ino, mode, uid, gid, nlink, mtime, size, device of the file and device that it is, name, check.
        numbers = [self.inode, mode, 0, 0, 1, changed, len(content), 0, 0, 0, 0, len(name), 0]
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self.file.write(head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4))


def build(destination, root, binaries, plan, containers=None):
    """Writes the archive: the server and the tests in `binaries`, what they need to run, and the plan of the suite.
    Container mode takes the programs of an engine, an image and a module of the kernel: `Containers`."""
    with open(destination, "wb") as file:
        archive = Archive(file)
        for directory in DIRECTORIES:
            archive.directory(directory)
        archive.write("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
                                    b"nobody:x:65534:65534::/nowhere:/bin/sh\n")
        archive.write("etc/group", b"root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n")
        archive.write("etc/hosts", b"127.0.0.1 localhost\n")
        archive.write("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\n")
        for name in SECRETS:
            archive.write(name, b"secret\n")
        for path in filter(os.path.exists, FILES):
            archive.add(path)
        archive.add(BUSYBOX)
        for name in APPLETS:
            archive.link(f"/bin/{name}", str(BUSYBOX))
        library = Path(stdlib())
        programs = [*PROGRAMS, *(containers.programs if containers else [])]
        for program in [PYTHON, *programs, library]:
            archive.add(program)
        modules = sorted(library.glob("lib-dynload/*.so"))
        for shared in libraries([PYTHON.resolve(), *programs, *modules, *binaries]):
            archive.add(shared)
        if containers:
            for path in [*ENGINE_FILES, containers.image, containers.image.parent / "lock"]:
                archive.add(path)
            archive.write("overlay.ko", containers.module)
        for binary in binaries:
            archive.write(str(binary)[1:], stripped(binary), 0o755)
        for path in ["tests", ".ci"]:
            archive.add(root / path)
        archive.write("plan.json", plan)
        archive.write("init", (root / "tests/vm/init.sh").read_bytes(), 0o755)
        archive.close()


def stdlib():
    """The standard library of the system's Python, which need not be the one that runs this."""
    ask = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    return subprocess.run([PYTHON, "-I", "-c", ask], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def libraries(programs):
    """The shared libraries that these load, the loader among them."""
    found = set()
    output = subprocess.run(["ldd", *programs], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    for line in output.splitlines():
        words = line.split()
        if line.startswith("\t") and "/" in line:
            found.add(next(word for word in words if word.startswith("/")))
        elif "not found" in line:
            raise ImageError(f"a library is missing: {line.strip()}")
    return sorted(found)


def stripped(binary):
    """The program without what a debugger wants, which is most of it."""
    with tempfile.NamedTemporaryFile() as smaller:
        try:
            subprocess.run(["strip", "-o", smaller.name, binary], check=True)
        except FileNotFoundError:
            return binary.read_bytes()
        return Path(smaller.name).read_bytes()
