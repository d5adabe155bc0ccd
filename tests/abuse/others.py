"""Reaching other functions, other processes and the server. `FACTS["victim"]` is another function's instance."""
READ, WRITE = os.pipe()
PAGE = 4096
# The searcher's own, so that a search that finds nothing at all is no success.
OWN = "own-canary-" + str(len("x" * 1235))
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.sbrk.restype = ctypes.c_void_p
libc.sbrk.argtypes = [ctypes.c_ssize_t]


def searches_what_python_knows():
    """Every object that the collector tracks, and the names of every frame, also of the shim's."""
    canaries = [text[::-1] for text in FACTS["yranac"]]
    seen = [repr(thing) for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple)) and thing is not FACTS]
    for frame in sys._current_frames().values():
        while frame is not None:
            seen.append(repr(frame.f_globals) + repr(frame.f_locals))
            frame = frame.f_back
    # This function's own list is among them.
    return [text[:8] for text in canaries if any(text in piece and str(canaries) not in piece for piece in seen)]


def _page(address):
    """`write` to a pipe says of any address whether it is mapped, and gives what is there."""
    return os.read(READ, PAGE) if libc.write(WRITE, address, PAGE) == PAGE else None


def _around(address, mebibytes):
    """The mapped pages around an address, with gaps of up to this size."""
    for step in (1, -1):
        at, missed = address // PAGE * PAGE - (PAGE if step < 0 else 0), 0
        while missed < mebibytes * 256:
            content = _page(at)
            missed = missed + 1 if content is None else 0
            if content is not None:
                yield content
            at += step * PAGE


def searches_its_memory():
    """All of it, in native code's way. What is looked for is written backwards, so as not to find the search itself."""
    backward = [text.encode() for text in ["5321-yranac-nwo"] + FACTS["yranac"]]
    found, last = dict.fromkeys(backward, 0), b""
    for start in (libc.sbrk(0), id([]), ctypes.addressof(ctypes.c_char.in_dll(libc, "environ"))):
        for content in _around(start, 16):
            turned = (last[-64:] + content)[::-1]
            for text in backward:
                found[text] += turned.count(text)
            last = content
    counts = [found[text] for text in backward]
    return {"its own": counts[0] > 0, "of others": sum(counts[1:])}


def looks_for_the_servers_environment():
    block = json.dumps(dict(os.environ))
    return [name for name in ("FAAS_CANARY", "CARGO", "PWD", "SHELL", "OLDPWD", "LOGNAME") if '"%s"' % name in block]


def reads_other_processes():
    listed = [name for name in os.listdir("/proc") if name.isdigit() and name != str(os.getpid())]
    attempts = {"listed": "done" if listed else "ENOENT"}
    for who in ("server", "zygote", "victim"):
        for name in ("environ", "maps", "mem", "fd", "root/etc/shadow", "cwd/faas.yaml", "status"):
            path = "/proc/%d/%s" % (FACTS[who]["pid"], name)
            attempts[who + " " + name] = tried(opened, path)
    return attempts


def reads_its_own_memory_as_a_file():
    return each({
        "mem": (opened, "/proc/self/mem", os.O_RDWR),
        "environ": (opened, "/proc/self/environ"),
        "environ of pid 1": (opened, "/proc/1/environ"),
        "output": (opened, "/proc/self/fd/1", os.O_RDONLY),
    })


def kills_everybody():
    attempts = each({
        "all, politely": (os.kill, -1, signal.SIGTERM),
        "all": (os.kill, -1, signal.SIGKILL),
        "server": (os.kill, FACTS["server"]["pid"], signal.SIGKILL),
        "zygote": (os.kill, FACTS["zygote"]["pid"], signal.SIGKILL),
        "victim": (os.kill, FACTS["victim"]["pid"], signal.SIGKILL),
        "pidfd of the server": (called, 434, FACTS["server"]["pid"], 0),
        "pidfd of the victim": (called, 434, FACTS["victim"]["pid"], 0),
    })
    if FACTS["victim"]["uid"]:
        # Where both are root, that would be its own.
        user = ctypes.c_int(FACTS["victim"]["uid"]).value
        attempts["nice value of others"] = tried(os.setpriority, os.PRIO_USER, user, 19)
    if os.getppid() != 0:
        attempts["parent"] = tried(os.kill, os.getppid(), signal.SIGKILL)
    return attempts


def signals_its_process_group():
    """A group that it shared with its parent would have others in it."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(0, signal.SIGUSR1)
    return {"its own session": os.getsid(0) == os.getpid(), "its own group": os.getpgrp() == os.getpid()}


def has_a_child_adopted_outside():
    """A sibling in place of a child: its parent would be the server."""
    def clone():
        if called({"x86_64": 56}.get(os.uname().machine, 220), 0x8000 | 17, 0, 0, 0, 0) == 0:
            os._exit(0)
    return each({"sibling": (clone,)})


def clears_the_death_signal():
    value = ctypes.c_int()
    libc.prctl(2, ctypes.byref(value))
    return {"set": value.value, "cleared": tried(called, {"x86_64": 157}.get(os.uname().machine, 167), 1, 0, 0, 0, 0)}


def connects_to_the_host():
    def connect(family, address):
        with socket.socket(family) as client:
            client.settimeout(2)
            client.connect(address)
    return each({
        "metadata": (connect, socket.AF_INET, ("169.254.169.254", 80)),
        "server": (connect, socket.AF_INET, ("127.0.0.1", FACTS["server"]["port"])),
        "loopback of IPv6": (connect, socket.AF_INET6, ("::1", FACTS["host"]["port6"])),
        "address of the host": (connect, socket.AF_INET, (FACTS["host"]["address"], FACTS["host"]["port"])),
        "victim": (connect, socket.AF_INET, ("127.0.0.1", FACTS["victim"]["port"])),
    })


def sends_a_datagram():
    def send(address):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", address)
    attempts = {"to a port of the host": (send, (FACTS["host"]["address"], FACTS["host"]["port"]))}
    if not FACTS["contained"]:
        # A container has a loopback that works, and nobody else on it.
        attempts["to the loopback"] = (send, ("127.0.0.1", FACTS["host"]["port"]))
    return each(attempts)


def connects_to_sockets_with_names():
    def connect(name):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
    return each({
        "abstract, of the victim": (connect, "\0" + FACTS["victim"]["door"]),
        "abstract, of the host": (connect, "\0" + FACTS["host"]["door"]),
    })


def connects_to_docker():
    def connect(name):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
    paths = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", FACTS["host"]["socket"]]
    return {path.replace(FACTS["home"], "…"): tried(connect, path) for path in paths}


def looks_for_memory_and_queues_of_others():
    key = FACTS["victim"]["key"]

    def got(get, *arguments):
        if get(*arguments) < 0:
            raise OSError(ctypes.get_errno(), "")
    return each({
        "shared memory": (got, libc.shmget, key, 4096, 0),
        "semaphores": (got, libc.semget, key, 1, 0),
        "messages": (got, libc.msgget, key, 0),
        "POSIX messages": (called, {"x86_64": 240}.get(os.uname().machine, 180), b"faas", 0, 0, 0),
    })


def looks_for_files_of_others():
    return {"tmp": os.listdir("/tmp"), "shm": os.listdir("/dev/shm")}


def watches_what_others_open():
    return each({"inotify": (called, {"x86_64": 294}.get(os.uname().machine, 26), 0)})
