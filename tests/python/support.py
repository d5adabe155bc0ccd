"""The server's side of the channels, for tests: a real zygote process, real blanks, real sockets; only the native
module that builds the sandbox is replaced by one that does what a plan leaves behind."""

import array
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SHIM = os.path.join(ROOT, "runtime-shim")
if SHIM not in sys.path:
    sys.path.insert(0, SHIM)

import wire  # noqa: E402

TIMEOUT_SECONDS = 20

# Handlers that zygotes' blanks and containers are asked about alike.
# What a child of the function is given.
CHILDS_VIEW = (
    "import subprocess, sys\ndef handle(r):\n"
    "    code = 'import os; print(sorted(os.environ), os.listdir(\"/proc/self/fd\"))'\n"
    "    return subprocess.run([sys.executable, '-I', '-S', '-c', code], stdout=-1, close_fds=False).stdout.decode()"
)
# Who has called the handler.
FRAMES = (
    "import sys\ndef handle(r):\n"
    "    frame, names = sys._getframe(), []\n"
    "    while frame:\n        names.append(frame.f_code.co_name)\n        frame = frame.f_back\n"
    "    return names\n"
)
FRAMES_SEEN = ["handle", "serve", "_run", "main", "<module>"]
# Part of a handler: a child that leaves a child of its own behind.
ORPHAN = (
    "    if r.path == '/orphan':\n"
    "        child = os.fork()\n"
    "        if child == 0:\n"
    "            if os.fork() == 0: time.sleep(0.05)\n"
    "            os._exit(0)\n"
    "        os.waitpid(child, 0)\n"
)

# Plans are words here. `inner` leaves what the real inner plan leaves: 1 and 2 the pipe, 3 the channel, no more.
FAKE_NATIVE = '''
import os

def apply(plan):
    for word in plan.decode().split():
        if word == "inner":
            os.dup2(10, 3)
            os.dup2(11, 1)
            os.dup2(11, 2)
            os.closerange(4, 256)
        elif word.startswith("fail"):
            raise OSError(1, "step %s: Unshare" % word[4:])
        elif word == "die":
            os.kill(os.getpid(), 9)
        elif word == "crash":
            raise RuntimeError("not an OSError")
'''


def shim_directory():
    """A directory with the shim's files and the fake of the native module."""
    directory = tempfile.mkdtemp(prefix="faas-shim-")
    for name in os.listdir(SHIM):
        if name.endswith(".py"):
            shutil.copy(os.path.join(SHIM, name), directory)
    with open(os.path.join(directory, "_faas.py"), "w") as file:
        file.write(FAKE_NATIVE)
    return directory


class Zygote:
    """A running zygote."""

    def __init__(self):
        self.directory = shim_directory()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(TIMEOUT_SECONDS)

        def take_control_fd():
            os.dup2(theirs.fileno(), 3)

        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", os.path.join(self.directory, "zygote.py")],
            preexec_fn=take_control_fd,
            pass_fds=(3, theirs.fileno()),
            # M's words when a test breaks it; a zygote's own words would be a failing test soon enough.
            stderr=subprocess.DEVNULL,
            env={"LANG": "C.UTF-8", "SECRET_OF_THE_SERVER": "canary"},
        )
        theirs.close()
        ((kind, _, _, _, payload),) = self.receive()
        assert kind == wire.ZYGOTE_READY, kind
        self.about = json.loads(bytes(payload))
        self.blank_id = 0

    def receive(self):
        return wire.decode_message(self.control.recv(wire.MESSAGE_BYTES_MAX), "from_zygote")

    def spawn(self, outer=b"outer", inner=b"inner", keep_duplicate=False):
        """Asks for a blank; `(kind, blank id, payload, Instance)`.

        The server keeps a duplicate of the instance's end of the channel. Most tests do not, since without one the end
        of the instance is the end of the channel.
        """
        self.blank_id += 1
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipe_read, pipe_write = os.pipe()
        plans = len(outer).to_bytes(4, "little") + len(inner).to_bytes(4, "little") + outer + inner
        message = wire.frame(wire.SPAWN, 0, self.blank_id, 0, plans)
        descriptors = array.array("i", [theirs.fileno(), pipe_write])
        self.control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        os.close(pipe_write)
        instance = Instance(channel, pipe_read)
        if keep_duplicate:
            instance.duplicate = theirs
        else:
            theirs.close()
        ((kind, _, blank_id, _, payload),) = self.receive()
        if kind == wire.SPAWNED:
            instance.pid = int.from_bytes(payload, "little")
        return kind, blank_id, bytes(payload), instance

    def instance(self, code, handler="handle", module="main", environment=None, **limits):
        """A blank that became this function and loaded it."""
        instance = self.blank()
        instance.assign(code, handler, module, environment, **limits)
        logs, frame = instance.receive_with_logs()
        assert frame[0] == wire.LOADED, frame
        instance.load_logs = logs
        return instance

    def blank(self):
        kind, _, payload, instance = self.spawn()
        assert kind == wire.SPAWNED, (kind, payload)
        hello = instance.receive()
        assert hello[0] == wire.HELLO, hello
        return instance

    def close(self):
        self.control.close()
        self.process.wait(TIMEOUT_SECONDS)
        shutil.rmtree(self.directory)


class Instance:
    """The server's end of one instance's channel."""

    def __init__(self, channel, pipe_read):
        self.channel = channel
        self.pipe_read = pipe_read
        self.duplicate = None
        self.pid = None
        self.pending = []
        self.next_id = 100
        channel.settimeout(TIMEOUT_SECONDS)

    def close(self):
        self.channel.close()
        if self.duplicate is not None:
            self.duplicate.close()
        if self.pipe_read is not None:
            os.close(self.pipe_read)
            self.pipe_read = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, *frames):
        self.channel.send(b"".join(frames))

    def assign(self, code, handler="handle", module="main", environment=None, log_bytes_max=262144,
               response_bytes_max=6 << 20):
        head = {
            "function": "hello-world", "version": 7, "module": module, "handler": handler,
            "environment": environment or {}, "instance": "i3-17",
            "log_bytes_max": log_bytes_max, "response_bytes_max": response_bytes_max,
        }
        self._send_code(wire.ASSIGN, head, code)

    def check(self, code, handler="handle"):
        self._send_code(wire.CHECK, {"module": "main", "handler": handler}, code)
        kind, _, _, _, payload = self.receive()
        assert kind == wire.CHECK_RESULT, kind
        return json.loads(payload)

    def _send_code(self, kind, head, code):
        data = json.dumps(head).encode()
        for at in range(0, len(data), wire.BODY_PIECE_BYTES_MAX):
            self.send(wire.frame(kind, 0, 0, 0, data[at:at + wire.BODY_PIECE_BYTES_MAX]))
        code = code.encode()
        for at in range(0, max(len(code), 1), wire.BODY_PIECE_BYTES_MAX):
            piece = code[at:at + wire.BODY_PIECE_BYTES_MAX]
            end = wire.END if at + len(piece) >= len(code) else 0
            self.send(wire.frame(wire.BODY, end, 0, 0, piece))

    def receive(self):
        """The next frame; None at the end of the channel."""
        if not self.pending:
            data = self.channel.recv(wire.MESSAGE_BYTES_MAX)
            if not data:
                return None
            frames = wire.decode_message(data, "from_instance")
            self.pending = [(kind, flags, a, b, bytes(payload)) for kind, flags, a, b, payload in frames]
        return self.pending.pop(0)

    def receive_with_logs(self):
        """The `(id, stream, text)` of log entries up to the next other frame, and that frame."""
        logs = []
        while True:
            frame = self.receive()
            if frame is None or frame[0] != wire.LOG:
                return logs, frame
            logs.append((frame[2], frame[4][0], frame[4][1:].decode()))

    def call_messages(self, body=b"", method=b"POST", path=b"/", query=b"", headers=b"", call_id=None):
        """`(id, nonce, datagrams)` of a call."""
        if call_id is None:
            self.next_id += 1
            call_id = self.next_id
        nonce = call_id * 0x9E3779B97F4A7C15 % (1 << 64)
        head = wire.REQUEST_HEAD.pack(len(method), 0, len(path), len(query), 6, len(headers), len(body))
        head += method + path + query + b"req-42" + headers
        datagram = wire.frame(wire.REQUEST, 0 if body else wire.END, call_id, nonce, head)
        datagrams = []
        for at in range(0, len(body), wire.BODY_PIECE_BYTES_MAX):
            piece = body[at:at + wire.BODY_PIECE_BYTES_MAX]
            end = wire.END if at + len(piece) == len(body) else 0
            datagrams.append(datagram + wire.frame(wire.BODY, end, call_id, nonce, piece))
            datagram = b""
        return call_id, nonce, datagrams or [datagram]

    def call(self, body=b"", **request):
        """Makes a call and waits for its outcome: an `Outcome`."""
        call_id, nonce, datagrams = self.call_messages(body, **request)
        for datagram in datagrams:
            self.channel.send(datagram)
        return self.outcome(call_id, nonce)

    def outcome(self, call_id, nonce):
        logs, frame = self.receive_with_logs()
        if frame is None:
            return Outcome(logs=logs)
        kind, flags, answered_id, answered_nonce, payload = frame
        assert (answered_id, answered_nonce) == (call_id, nonce), "an answer to another call"
        if kind == wire.ERROR:
            return Outcome(logs=logs, error=json.loads(payload))
        assert kind == wire.RESPONSE, kind
        status, reserved, headers_len, body_len = wire.RESPONSE_HEAD.unpack_from(payload)
        assert reserved == 0 and headers_len == len(payload) - wire.RESPONSE_HEAD.size
        body = b""
        while not flags & wire.END:
            kind, flags, answered_id, answered_nonce, piece = self.receive()
            assert kind == wire.BODY and (answered_id, answered_nonce) == (call_id, nonce)
            body += piece
        assert len(body) == body_len
        lines = payload[wire.RESPONSE_HEAD.size:].decode().split("\r\n")[:-1]
        return Outcome(logs=logs, status=status, headers=[tuple(line.split(": ", 1)) for line in lines], body=body)


class Outcome:
    """What became of a call: an answer, an error, or (`ended`) neither."""

    def __init__(self, logs, status=None, headers=(), body=b"", error=None):
        self.logs = logs
        self.status = status
        self.headers = list(headers)
        self.body = body
        self.error = error
        self.ended = status is None and error is None

    @property
    def json(self):
        assert self.status is not None, self.error
        return json.loads(self.body)

    def text(self, stream=0):
        return [text for _, from_stream, text in self.logs if from_stream == stream]


class ZygoteTest(unittest.TestCase):
    """Tests that share a zygote."""

    @classmethod
    def setUpClass(cls):
        cls.zygote = Zygote()

    @classmethod
    def tearDownClass(cls):
        cls.zygote.close()


class InstanceTest(ZygoteTest):
    def load(self, code, **options):
        instance = self.zygote.instance(code, **options)
        self.addCleanup(instance.close)
        return instance

    def returning(self, expression, **options):
        """What becomes of a call whose handler returns this expression; the next call must work."""
        code = "def handle(request):\n    if request.method == 'GET':\n        return 'alive'\n    return %s\n"
        instance = self.load(code % expression, **options)
        outcome = instance.call(b"body")
        self.assertEqual(instance.call(method=b"GET").json, "alive", expression)
        return outcome
