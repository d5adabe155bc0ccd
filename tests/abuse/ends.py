"""Not ending, ending badly, and answers that are none."""
import resource


def sleeps_past_its_timeout_ignoring_signals():
    for number in range(1, 65):
        tried(signal.signal, number, signal.SIG_IGN)
    forever()


def builds_an_enormous_number():
    return len(str(10 ** 10 ** 8))


def matches_for_ever():
    return re.match(r"(a+)+$", "a" * 64 + "b") is None


def exits():
    os._exit(3)


def crashes():
    ctypes.string_at(0)


def aborts():
    os.abort()


def crashes_a_child():
    """Whether its memory was written to a file: the kernel says so to the parent."""
    child = os.fork()
    if child == 0:
        # As pid 1 does not have it, the default action of the signal is the child's alone.
        os.chdir("/tmp")
        tried(resource.setrlimit, resource.RLIMIT_CORE, (1 << 20, 1 << 20))
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(0)
    status = os.waitpid(child, 0)[1]
    return {"signal": os.WTERMSIG(status), "core": os.WCOREDUMP(status)}


def closes_every_descriptor():
    os.closerange(0, 1024)


def recurses():
    return recurses()


def recurses_in_json():
    return json.loads("[" * 200_000)


def recurses_in_re():
    return re.compile("(" * 50_000 + ")" * 50_000)


def recurses_in_ast():
    return eval("-" * 100_000 + "1")


def never_ends_at_exit():
    import atexit
    atexit.register(forever)
    return "registered"


class _Undying:
    def __del__(self):
        forever()


def never_ends_when_it_is_deleted():
    _Undying()


def returns_what_never_ends_when_it_is_deleted():
    """The call has ended by then, so it is the next that waits for it."""
    return _Undying()


def leaves_a_thread_that_writes_into_later_replies():
    def write():
        while True:
            tried(os.write, 3, b"\xff" * 24)
    threading.Thread(target=write, daemon=True).start()
    return "answered"


def leaves_a_daemon():
    """Two forks, a session of its own, every signal ignored, the death signal cleared if that can be."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            libc.prctl(1, 0, 0, 0, 0)
            sleeps_past_its_timeout_ignoring_signals()
        os._exit(0)
    os.wait()
    return "left"


def stops_itself():
    os.kill(os.getpid(), signal.SIGSTOP)
    return "cannot be stopped"


def returns_an_object():
    return object()


def returns_not_a_number():
    return float("nan")


def returns_a_cycle():
    cycle = []
    cycle.append(cycle)
    return cycle


def returns_what_is_nested_too_deep():
    nest = []
    for _ in range(10_000):
        nest = [nest]
    return nest


def returns_bytes():
    return b"bytes"


def returns_none():
    return None


def returns_a_set():
    return {1}


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


def spoils_the_modules():
    json.dumps = json.loads = time.time = sys.stdout = sys.stderr = None
    for frame in sys._current_frames().values():
        while frame is not None:
            if frame.f_globals is not globals():
                for name in [name for name in frame.f_globals if not name.startswith("__")]:
                    frame.f_globals[name] = None
            frame = frame.f_back
    return "spoilt"


def speaks_garbage():
    os.write(3, os.urandom(4096))
    return "spoken"


def _frame(length, kind, payload=b"", identity=0, flags=1):
    return (length.to_bytes(4, "little") + bytes([kind, flags, 0, 0]) + identity.to_bytes(8, "little") + bytes(8)
            + payload)


def speaks_of_a_huge_payload():
    os.write(3, _frame(0x7FFF_FFFF, 18))
    return "spoken"


def speaks_half_a_header():
    os.write(3, bytes(11))
    return "spoken"


def speaks_behind_a_frame():
    os.write(3, _frame(1, 20, b"\0", flags=0) + b"extra")
    return "spoken"


def speaks_an_empty_message():
    socket.socket(fileno=os.dup(3)).send(b"")
    return "spoken"


def forges_an_answer():
    """A well-formed answer to a call that it never got."""
    os.write(3, _frame(16, 18, (200).to_bytes(2, "little") + bytes(14), identity=7))
    return "forged"


def takes_the_calls_of_later_for_itself():
    return len(os.read(3, 65536))
