"""What every case begins with. A case is a function of a theme's file: it attacks, and says how it fared if it is left.

Most cases answer with an object from the name of an attempt to what came of it: the name of an error, or "done" when
nobody refused it. Where a limit is missing a case stops by itself a little above it.
"""
import ctypes
import errno
import gc
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time

# What the test tells of itself and of others: addresses, process ids, paths.
FACTS = json.loads(os.environ["FACTS"])
libc = ctypes.CDLL(None, use_errno=True)


def handle(request):
    return globals()[request.path.strip("/")]()


def fine():
    return "fine"


def name_of(number):
    return errno.errorcode.get(number, str(number))


def tried(action, *arguments):
    """The name of the error with which it is refused, or "done"."""
    try:
        action(*arguments)
    except OSError as error:
        return name_of(error.errno) if error.errno else str(error)
    except ValueError as error:
        # `setrlimit` makes an EPERM a ValueError.
        return "EPERM" if "maximum limit" in str(error) else str(error)
    return "done"


def each(attempts):
    return {name: tried(*attempt) for name, attempt in attempts.items()}


def opened(path, how=os.O_RDONLY):
    os.close(os.open(path, how | os.O_NONBLOCK))


def called(number, *arguments):
    """A system call by its number, as native code makes it; raises OSError."""
    arguments = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result


def until_refused(action, most):
    """Repeats it until it is refused, at most so often: how often it was done, and the error."""
    kept = []
    for count in range(most):
        try:
            kept.append(action())
        except (OSError, RuntimeError) as error:
            del kept
            return {"count": count, "error": name_of(error.errno) if isinstance(error, OSError) else str(error)}
    return {"count": most, "error": None}


def in_child(action, seconds=5):
    """What it returns in a forked child, or the name of its error: for what would spoil the instance itself."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = action()
        except OSError as error:
            said = name_of(error.errno)
        except BaseException as error:
            said = repr(error)
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    said = b""
    while select.select([reader], [], [], seconds)[0]:
        piece = os.read(reader, 65536)
        if not piece:
            break
        said += piece
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return json.loads(said) if said else "ended"


def forever():
    while True:
        time.sleep(60)
