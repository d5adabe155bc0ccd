"""Buries the orphans that fall to a pid 1, without taking an exit status that the function's own code waits for. Not
watched where somebody else is pid 1, as in a container with an init: orphans are his then, and whatever is a child here
the function's code has started.

The kernel does not say whether a child of pid 1 was forked by it or reparented to it. `subprocess` reports status 0
for a child whose status somebody else took, so guessing wrong would be a silent lie. Therefore the few ways in which
Python starts a process note the new pid, and whatever is not noted is an orphan.

A function that never started a process pays one test of `started` per call; no SIGCHLD handler is needed, which would
interrupt system calls and be lost to the first `signal.signal` of user code. What an extension forks from C is noticed
from the first Python fork on.
"""

import os

import _posixsubprocess

# Whether the function started a process: only then can there be orphans.
started = False
_own = set()
_starting = []


def watch():
    """Notes from now on every process that this one starts."""
    for module, name in (
        (os, "fork"),
        (os, "forkpty"),
        (os, "posix_spawn"),
        (os, "posix_spawnp"),
        (_posixsubprocess, "fork_exec"),
    ):
        original = getattr(module, name, None)
        if original is not None:
            setattr(module, name, _noting(original))
    os.system = _noting(os.system)
    os.register_at_fork(after_in_child=_forget)


def _noting(original):
    def start(*args, **kwargs):
        global started
        started = True
        # While a start is under way its pid is not noted yet, and nobody may be buried.
        _starting.append(None)
        pid = None
        try:
            result = original(*args, **kwargs)
            # `forkpty` returns (pid, descriptor); `system` a status, which is harmless as a note.
            pid = result[0] if type(result) is tuple else result
            if pid:
                _own.add(pid)
            return result
        finally:
            # 0 is the child, where `_forget` emptied the list.
            if pid != 0 or _starting:
                _starting.pop()

    start.__name__ = original.__name__
    start.__qualname__ = original.__name__
    start.__doc__ = original.__doc__
    start.__module__ = original.__module__
    return start


def _forget():
    global started
    started = False
    _own.clear()
    _starting.clear()


def bury():
    """Reaps the orphans that have ended."""
    global started
    if _starting:
        return
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        started = False
        _own.clear()
        return
    except OSError:
        return
    if ended is None:
        return
    children = _children()
    if children is None:
        children = {ended.si_pid}
    else:
        # Own children that were waited for leave the notes: their pids may come back as an orphan's.
        _own.intersection_update(children)
    for pid in children - _own:
        try:
            os.waitpid(pid, os.WNOHANG)
        except OSError:
            pass


def _children():
    """All children of all threads (the kernel keeps them by thread); None when /proc does not tell."""
    children = set()
    try:
        for task in os.listdir("/proc/self/task"):
            descriptor = os.open("/proc/self/task/%s/children" % task, os.O_RDONLY | os.O_CLOEXEC)
            try:
                children.update(map(int, os.read(descriptor, 65536).split()))
            finally:
                os.close(descriptor)
    except (OSError, ValueError):
        return None
    return children
