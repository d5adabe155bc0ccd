"""Functions that take all they can get, one kind of resource each, again and again until their time is up."""

PRELUDE = "import os, signal, socket, threading, time\n\n\n"

ATTACKS = {
    "processor": """
def handle(request):
    for _ in range(8):
        if os.fork() == 0:
            while True:
                pass
    while True:
        pass
""",
    "memory": """
def handle(request):
    hoard = []
    while True:
        hoard.append(b"x" * (1 << 20))
""",
    "processes": """
def handle(request):
    while True:
        try:
            if os.fork() == 0:
                signal.pause()
        except OSError:
            os.kill(-1, signal.SIGKILL)
            while True:
                try:
                    os.waitpid(-1, 0)
                except ChildProcessError:
                    break
""",
    "threads": """
def handle(request):
    while True:
        end = threading.Event()
        try:
            while True:
                threading.Thread(target=end.wait, daemon=True).start()
        except RuntimeError:
            end.set()
            time.sleep(0.001)
""",
    "disk": """
def handle(request):
    block = b"x" * (1 << 20)
    while True:
        try:
            with open("/tmp/full", "wb", 0) as file:
                for _ in range(32):
                    file.write(block)
        except OSError:
            pass
""",
    "files": """
def handle(request):
    while True:
        names = []
        try:
            while True:
                names.append("/tmp/%d" % len(names))
                os.close(os.open(names[-1], os.O_CREAT | os.O_WRONLY))
        except OSError:
            names.pop()
        for name in names:
            os.unlink(name)
""",
    "descriptors": """
def handle(request):
    while True:
        held = []
        try:
            while True:
                held.append(socket.socketpair())
        except OSError:
            for left, right in held:
                left.close()
                right.close()
""",
    "output": """
def handle(request):
    line = b"x" * 65535 + b"\\n"
    while True:
        os.write(1, line)
        print("y" * 10000)
""",
    "crashes": """
def handle(request):
    os._exit(1)
""",
    "sandboxes": """
def handle(request):
    return "a fresh one for every call"
""",
}
