"""Taking all there is: processes, memory, files, descriptors, processor time, output."""


def forks_for_ever():
    def fork():
        if os.fork() == 0:
            forever()
    return until_refused(fork, 100)


def forks_that_fork():
    """The bomb proper: every child goes on forking, three deep, which would be 256 processes."""
    reader, writer = os.pipe()

    def bomb(depth):
        for _ in range(4 if depth < 4 else 0):
            try:
                if os.fork() == 0:
                    os.write(writer, b".")
                    bomb(depth + 1)
                    forever()
            except OSError:
                pass
    bomb(0)
    forked = 0
    # Until the limit is reached, or nobody forks any more.
    while forked < 63 and select.select([reader], [], [], 2)[0]:
        forked += len(os.read(reader, 4096))
    return {"at its limit": forked == 63, "another": tried(_fork)}


def _fork():
    if os.fork() == 0:
        os._exit(0)


def starts_threads_for_ever():
    end = threading.Event()
    try:
        return until_refused(lambda: threading.Thread(target=end.wait, daemon=True).start(), 100)["error"]
    finally:
        end.set()


def allocates_ten_times_its_memory():
    return len(b"x" * (640 << 20))


def two_children_share_it_out():
    """Neither is over the limit, both together are."""
    children = []
    for _ in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            hoard = bytearray(b"x" * (48 << 20))
            forever()
            del hoard
    for _ in range(300):
        for child in children:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                # On cgroup v1 the kernel kills one process, and the server the rest.
                time.sleep(5)
                return "one was killed"
        time.sleep(0.02)
    return "both live"


def _fill(directory):
    pieces = [open("%s/%d" % (directory, number), "wb", 0) for number in range(2)]

    def write():
        write.count += 1
        if pieces[write.count % 2].write(bytes(1 << 20)) < 1 << 20:
            raise OSError(errno.ENOSPC, "")
    write.count = 0
    said = until_refused(write, 100)
    return {"written": 60 < said["count"] <= 64, "error": said["error"]}


def fills_tmp():
    return _fill("/tmp")


def fills_shm():
    return _fill("/dev/shm")


def writes_a_sparse_terabyte():
    with open("/tmp/sparse", "wb") as file:
        return each({"a terabyte": (file.truncate, 1 << 40), "at its end": (os.pwrite, file.fileno(), b"x", 1 << 40)})


def makes_a_million_files():
    def make():
        make.count += 1
        os.close(os.open("/tmp/%d" % make.count, os.O_CREAT | os.O_WRONLY))
    make.count = 0
    said = until_refused(make, 20_000)
    return {"made": 16_000 < said["count"] <= 16_384, "error": said["error"]}


def opens_files_until_refused():
    return until_refused(lambda: open("/dev/null"), 300)["error"]


def opens_sockets_until_refused():
    return until_refused(lambda: socket.socket(), 300)["error"]


def burns_cpu_on_many_threads():
    """Eight processes for two seconds, of which a tenth of one processor is its own."""
    started = time.monotonic()
    for _ in range(8):
        if os.fork() == 0:
            while time.monotonic() < started + 2:
                pass
            os._exit(0)
    for _ in range(8):
        os.wait()
    usage = os.times()
    used = usage.children_user + usage.children_system
    # A slice of 5 ms is taken from the quota before it is used, by each processor.
    return "within its quota" if used <= 0.1 * 1.3 * (time.monotonic() - started) + 0.05 else "%.2f s" % used


def prints_without_end():
    """A gibibyte, of which nobody can keep much."""
    text = "x" * (1 << 20)
    for _ in range(1024):
        print(text)
    os.write(1, b"y" * (8 << 20))
    return "printed"


def prints_one_long_line():
    sys.stdout.write("x" * (10 << 20))
    return "printed"


def returns_a_gibibyte():
    return b"x" * (1 << 30)


def returns_a_little_too_much():
    return b"x" * ((6 << 20) + 1)


def returns_an_endless_generator():
    def endless():
        while True:
            yield b"x"
    return endless()
