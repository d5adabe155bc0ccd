"""A blank's life: its sandbox is complete, it waits for a function, becomes it, and serves calls until it is stopped.

Owns the channel (descriptor 3) from `Hello` to the end of the process. Does not own the sandbox (`zygote.py`, or
`container.py` where the engine made it), the forms of requests and answers (`request.py`, `answer.py`), or what is printed (`logs.py`).

Invariants:
- One function for ever; one call at a time; one answer for each call, written only by `serve`.
- A datagram that was received is a call that was claimed: after a failed load nothing more is received.
- Nothing that a handler raises or returns ends the process, except when it asks for that (`os._exit`) or takes away
  the channel itself.

As pid 1 of its namespace the process does not get signals whose action is the default one: SIGINT and SIGTERM sent
from inside have no effect unless the function handles them, and `abort()` ends in SIGSEGV or SIGILL instead of SIGABRT.
"""

import _socket
import gc
import json
import os
import signal
import sys
import time

import children
import wire
from answer import BYTES_HEADERS, JSON_HEADERS, JSON_TYPES, AnswerTooLarge, BadAnswer, encode_json, render
from logs import NO_CALL, TRACEBACK, Logs
from request import Request, Response

# How the process ends, for the server's log.
EXIT_NOT_LAUNCHED = 118
EXIT_UNEXPECTED = 119
EXIT_SANDBOX_FAILED = 120
EXIT_LOAD_FAILED = 121
EXIT_CHANNEL_BROKEN = 122

_KIND_BYTES_MAX = 256
_MESSAGE_BYTES_MAX = 4096
_TRACEBACK_CHARS_MAX = 64 * 1024
_FUNCTION_DIRECTORY = "/function"
_SHIM_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
_SHIM_MODULES = (
    "answer", "check", "children", "container", "instance", "logs", "request", "wire", "zygote", "_faas",
)
_CO_COROUTINE = 0x80
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
}

_dumps, _loads = json.dumps, json.loads
# The class's true name, whatever its metaclass makes of the attribute.
_class_name = type.__dict__["__name__"].__get__


def main(channel_fd, is_given_orphans=True):
    """Runs the blank on this descriptor; never returns. `is_given_orphans` says whether the process is pid 1 of its
    namespace, to whom the kernel gives the orphans."""
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, channel_fd)
    # The sandbox placed it with dup2, which clears close-on-exec.
    os.set_inheritable(channel_fd, False)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logs = _prepare(channel, is_given_orphans)
    try:
        channel.send(_json_frame(wire.HELLO, 0, 0, 0, {"python": "%d.%d.%d" % sys.version_info[:3]}))
        kind, head, code = _receive_function(channel)
        if kind == wire.CHECK:
            _check(channel, head, code)
        else:
            _run(channel, logs, head, code)
    except (OSError, wire.WireError):
        os._exit(EXIT_CHANNEL_BROKEN)
    except BaseException:
        # Raised between two calls, by a signal handler of the function or for want of memory. What the loop was doing
        # is unknown, so the only sound answer is a fresh instance.
        try:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(EXIT_UNEXPECTED)
    os._exit(0)


def _prepare(channel, is_given_orphans):
    """Everything that does not depend on the function: a blank has time for it, a cold start has not."""
    logs = Logs(channel.send)
    logs.install()
    if is_given_orphans:
        children.watch()

    def forked():
        # A child must neither take calls nor answer them: without the channel it can do neither.
        channel.close()
        logs.forked()

    os.register_at_fork(after_in_child=forked)
    _leave_no_trace_of_the_shim()
    _set_environment({})
    gc.enable()
    # The frozen start-up heap is not traversed, so young collections are cheap but rarely of use to a short call.
    gc.set_threshold(5000, 10, 10)
    # What a cold start writes to first is still shared with the zygote; this has the kernel copy those pages now.
    exec(compile("def handle(request):\n    return {}\n", "<blank>", "exec", 0, True), {})
    encode_json({"a": [_loads(b'{"b": 1}')]})
    return logs


def _check(channel, head, code):
    # Imported here, since `ast` would cost every instance memory that only checks need.
    sys.path.insert(0, _SHIM_DIRECTORY)
    from check import check

    channel.send(_json_frame(wire.CHECK_RESULT, 0, 0, 0, check(code, head["module"], head["handler"])))
    channel.recv(wire.MESSAGE_BYTES_MAX)


def _run(channel, logs, head, code):
    logs.set_limit(head["log_bytes_max"])
    try:
        _set_environment(
            head["environment"],
            FAAS_FUNCTION=head["function"],
            FAAS_VERSION=str(head["version"]),
            FAAS_INSTANCE=head["instance"],
        )
        handler = _load(head["module"], head["handler"], code)
    except BaseException as error:
        logs.finish_lines()
        # The outermost frames are `_run` and `_load`.
        _log_traceback(logs, error, skip=2)
        channel.send(_error_frame("load", 0, 0, *describe(error)))
        # The calls that are already in the pipe stay there: the server takes them back and runs them elsewhere.
        os._exit(EXIT_LOAD_FAILED)
    logs.finish_lines()
    channel.send(wire.frame(wire.LOADED, 0, 0, 0, b""))
    if serve(channel, handler, logs, head["response_bytes_max"]):
        _stop(logs)


def _receive_function(channel):
    """Waits for `Assign` or `Check` and all of its code: `(kind, head, code)`."""
    kind = None
    head, code = [], []
    while True:
        data = channel.recv(wire.MESSAGE_BYTES_MAX)
        if not data:
            os._exit(0)
        for frame_kind, flags, _, _, payload in wire.decode_message(data, "to_instance"):
            if frame_kind == wire.STOP:
                os._exit(0)
            if frame_kind in (wire.ASSIGN, wire.CHECK) and kind in (None, frame_kind) and not code:
                # A long head comes in several frames.
                kind = frame_kind
                head.append(bytes(payload))
            elif frame_kind == wire.BODY and kind is not None:
                code.append(bytes(payload))
                if flags & wire.END:
                    text = b"".join(code).decode("utf-8")
                    # A byte order mark is no Python when the source is text already.
                    return kind, _loads(b"".join(head)), text[1:] if text[:1] == "\ufeff" else text
            else:
                raise wire.WireError("UnexpectedFrame", frame_kind)


def _leave_no_trace_of_the_shim():
    """Gives the shim's module names to the function: its own `request` or `logs` must not find ours."""
    global _kept
    _kept = [sys.modules.pop(name, None) for name in _SHIM_MODULES] + [sys.modules.get("__main__")]
    sys.modules["__main__"] = type(sys)("__main__")
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _SHIM_DIRECTORY]
    sys.argv = [""]


def _set_environment(environment, **own):
    """The function's environment on top of a minimal one; nothing of the server's, and `own` for sure."""
    wanted = dict(_ENVIRONMENT, **environment)
    wanted.update(own)
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if "TZ" in wanted:
        time.tzset()


class _Source:
    """The module's `__loader__`: through it tracebacks, `warnings` and `inspect` find the source lines."""

    def __init__(self, code):
        self._code = code

    def get_source(self, _name=None):
        return self._code


def _load(module_name, handler_name, code):
    """Runs the function's top-level code and returns what a call calls."""
    module = type(sys)(module_name)
    names = module.__dict__
    names.update(json=json, time=time, Response=Response)
    module.__file__ = "%s/%s.py" % (_FUNCTION_DIRECTORY, module_name)
    module.__loader__ = _Source(code)
    sys.modules[module_name] = module
    exec(compile(code, module.__file__, "exec", 0, True), names)
    handler = getattr(module, handler_name)
    if not callable(handler):
        raise TypeError("the handler `%s` is of type %s, not callable" % (handler_name, type(handler).__name__))
    code_object = getattr(handler, "__code__", None)
    if code_object is not None and code_object.co_flags & _CO_COROUTINE:
        return _synchronous(handler)
    return handler


def _synchronous(handler):
    """Makes an `async def` handler callable. One event loop for the instance's life, so that what a call leaves in
    globals (connections, locks) still belongs to the loop of the next."""
    import asyncio

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    run = loop.run_until_complete
    return lambda request: run(handler(request))


def serve(channel, handler, logs, response_bytes_max):
    """Answers calls until `Stop` (True) or the end of the channel (False).

    This is the hottest loop of the project: a call of one datagram in and one out costs one `recv`, one `unpack`, two
    `pack` and one `send` besides the handler and JSON. Names are local, and nothing is cut out of the datagram.
    """
    recv, send = channel.recv, channel.send
    unpack_call, pack_header, pack_answer = wire.CALL.unpack_from, wire.HEADER.pack, wire.ANSWER.pack
    encode, json_types, make_request = encode_json, JSON_TYPES, Request
    json_block, bytes_block = JSON_HEADERS, BYTES_HEADERS
    request_kind, body_kind, response_kind, end, no_call = wire.REQUEST, wire.BODY, wire.RESPONSE, wire.END, NO_CALL
    call_bytes, header_bytes, message_bytes_max = wire.CALL.size, wire.HEADER_BYTES, wire.MESSAGE_BYTES_MAX
    head_bytes, piece_bytes_max = wire.RESPONSE_HEAD.size, wire.BODY_PIECE_BYTES_MAX
    while True:
        # Here, since the answer is on its way and nobody waits for this.
        if children.started:
            children.bury()
        data = recv(message_bytes_max)
        size = 0
        if len(data) >= call_bytes:
            head = unpack_call(data)
            body_len = head[12]
            size = header_bytes + head[0] + (header_bytes + body_len if body_len else 0)
        # Only a whole call in one datagram adds up to its size; everything else takes the strict way.
        if size == len(data) != 0 and head[1] == request_kind:
            request = make_request(data, head)
        else:
            request = _receive_call(recv, data)
            if type(request) is bool:
                return request
            head = request._head
        call_id, nonce = head[4], head[5]
        logs.call = head
        try:
            answer = handler(request)
        except BaseException as error:
            request = data = None
            _finish_call(logs)
            _log_traceback(logs, error, 1, head)
            send(_error_frame("call", call_id, nonce, *describe(error)))
            continue
        # An idle instance keeps neither the request nor the answer of its last call.
        request = data = None
        try:
            if type(answer) in json_types:
                status, block, body = 200, json_block, encode(answer)
            elif type(answer) is bytes:
                status, block, body = 200, bytes_block, answer
            else:
                status, block, body = render(answer)
            size = len(body)
            if size > response_bytes_max:
                raise AnswerTooLarge("the answer is %d bytes, the limit is %d" % (size, response_bytes_max))
        except BaseException as error:
            answer = body = None
            _finish_call(logs)
            _refuse_answer(logs, send, head, error)
            continue
        # From here on nothing that the function still prints is part of this call.
        if logs.dirty:
            logs.finish_lines()
        logs.call = no_call
        if 0 < size <= piece_bytes_max:
            block_len = len(block)
            send(
                pack_answer(head_bytes + block_len, response_kind, 0, 0, call_id, nonce, status, 0, block_len, size)
                + block
                + pack_header(size, body_kind, end, 0, call_id, nonce)
                + body
            )
        else:
            _send_in_pieces(send, call_id, nonce, status, block, body)
        answer = body = None


def _receive_call(recv, data):
    """The call that begins with this datagram, with the datagrams of its body; True for `Stop`, False for the end."""
    if not data:
        return False
    frames = wire.decode_message(data, "to_instance")
    kind, flags, call_id, nonce, payload = frames[0]
    if kind == wire.STOP:
        return True
    if kind != wire.REQUEST:
        raise wire.WireError("UnexpectedFrame", kind)
    head = wire.CALL.unpack_from(data)
    wire.check_request_head(head[6:], len(payload))
    pieces = [bytes(piece) for _, _, _, _, piece in frames[1:]]
    complete = bool(frames[-1][1] & wire.END)
    while not complete:
        more = recv(wire.MESSAGE_BYTES_MAX)
        if not more:
            return False
        for kind, flags, other_id, other_nonce, payload in wire.decode_message(more, "to_instance"):
            if kind != wire.BODY or (other_id, other_nonce) != (call_id, nonce) or complete:
                raise wire.WireError("UnexpectedFrame", kind)
            pieces.append(bytes(payload))
            complete = bool(flags & wire.END)
    body = b"".join(pieces)
    if len(body) != head[12]:
        raise wire.WireError("BodyLengthMismatch", len(body))
    return Request(data, head, body)


def _send_in_pieces(send, call_id, nonce, status, block, body):
    """An answer without a body, or with one that does not fit the datagram of its head."""
    size = len(body)
    payload = wire.RESPONSE_HEAD.pack(status, 0, len(block), size) + block
    message = wire.frame(wire.RESPONSE, 0 if size else wire.END, call_id, nonce, payload)
    view = memoryview(body)
    at = 0
    while at < size:
        piece = view[at:at + wire.BODY_PIECE_BYTES_MAX]
        at += len(piece)
        send(message + wire.frame(wire.BODY, wire.END if at == size else 0, call_id, nonce, piece))
        message = b""
    if message:
        send(message)


def _finish_call(logs):
    if logs.dirty:
        logs.finish_lines()
    logs.call = NO_CALL


def _refuse_answer(logs, send, head, error):
    """The handler returned, but what it returned is no answer, or could not be read without raising."""
    if isinstance(error, BadAnswer):
        kind, message = error.kind, _cut(str(error), _MESSAGE_BYTES_MAX)
    else:
        # A method of the answer itself raised: `items` of a dict's subclass, `__bytes__`.
        name, words = describe(error)
        kind, message = BadAnswer.kind, _cut("reading the answer raised %s: %s" % (name, words), _MESSAGE_BYTES_MAX)
    logs.call = head
    logs.emit(TRACEBACK, message)
    logs.call = NO_CALL
    send(_error_frame("answer", head[4], head[5], kind, message))


def _json_frame(kind, flags, call_id, nonce, value):
    return wire.frame(kind, flags, call_id, nonce, _dumps(value).encode("ascii"))


def _error_frame(phase, call_id, nonce, kind, message):
    return _json_frame(wire.ERROR, wire.END, call_id, nonce, {"phase": phase, "type": kind, "message": message})


def describe(error):
    """`(type, message)` of an exception, whatever its class does when it is asked."""
    kind = _cut(_class_name(type(error)), _KIND_BYTES_MAX)
    try:
        message = _cut(str(error), _MESSAGE_BYTES_MAX)
    except BaseException as second:
        message = "(its __str__ raised %s)" % _class_name(type(second))[:100]
    return kind, message


def _cut(text, bytes_max):
    """Plain text of at most so many bytes, without half characters and lone surrogates."""
    data = str.encode(text[:bytes_max], "utf-8", "backslashreplace")
    return data[:bytes_max].decode("utf-8", "ignore")


def _log_traceback(logs, error, skip, call=NO_CALL):
    """Writes the traceback to the log, without the `skip` outermost frames, which are the shim's."""
    try:
        # Imported at the first exception: it costs 5 ms and half a megabyte, which most instances never need.
        import traceback

        trace = error.__traceback__
        for _ in range(skip):
            trace = trace.tb_next if trace is not None else None
        text = "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:
        text = "%s: %s\n(the traceback could not be formatted)" % describe(error)
    if len(text) > _TRACEBACK_CHARS_MAX:
        text = text[:_TRACEBACK_CHARS_MAX // 2] + "\n[…]\n" + text[-_TRACEBACK_CHARS_MAX // 2:]
    logs.call = call
    logs.emit(TRACEBACK, text.rstrip("\n"))
    logs.call = NO_CALL


def _stop(logs):
    """`Stop`: what the function registered with `atexit` runs, threads are not waited for."""
    import atexit

    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        _log_traceback(logs, error, skip=1)
    logs.finish_lines()
    os._exit(0)
