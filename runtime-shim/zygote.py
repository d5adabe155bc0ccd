"""The zygote: a small single-threaded process that forks blanks. Run as `python -I -S -B /faas/zygote.py`.

Descriptor 3 is its control socket. It holds no secret and runs no user code; what it has loaded, every instance shares
with it page by page. So it loads nothing that draws at random (`random`, `tempfile`, `uuid`, `ssl`, `numpy`): each
instance loads that for itself and seeds it from the kernel, and no two go on alike. The one seed they share is that of
`hash`, which Python draws once, when it starts.

For each `Spawn` it forks M, which applies the outer plan (that changes the process it runs in, and the zygote must
stay as it is), forks the instance, says `Spawned`, and exits. The zygote does not wait for that: it takes the next
`Spawn` while M works on another processor, and buries M when the kernel tells of its end. (By a pipe beside the
socket: a handler would not do, since Python runs it between two instructions, and a signal that comes after the last
of them and before the system call that waits is not heard until the next message.) That M is gone before the
instance sets its parent-death signal is seen to by the plans themselves (descriptor 9, a pidfd of M).

An instance closes the control socket before the first step of its inner plan, so that nothing half-made can speak for
the zygote. If that plan fails, it says so on its own channel: an `Error` of phase `sandbox`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import _socket
import fcntl
import gc
import json
import select
import signal
import struct

import _faas
import instance
import wire

_CONTROL_FD = 3
# Where descriptors that ride along with `Spawn` are placed, in their order; plans name these numbers.
_PLACED_FROM = 10
_DESCRIPTORS_MAX = 16
_STAGE_FORK, _STAGE_OUTER = 0, 1
# Neither is 1, with which Python ends after an exception that nobody caught.
_M_SPAWNED, _M_REPORTED = 0, 3


def main():
    """Serves the control socket. Returns only in an instance, with the number of its channel's descriptor."""
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _CONTROL_FD)
    os.set_inheritable(_CONTROL_FD, False)
    # A terminal's Ctrl-C is the server's to handle; it ends the zygote by closing the control socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Which blank each living M is to make.
    ms = {}
    # Ends are told of through a pipe: a signal that comes just before the wait for the next `Spawn` begins would
    # otherwise be heard only after it.
    ended, wake = os.pipe()
    os.set_blocking(ended, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    news = select.poll()
    news.register(_CONTROL_FD, select.POLLIN)
    news.register(ended, select.POLLIN)
    about = {"python": "%d.%d.%d" % sys.version_info[:3], "free_threaded": "t" in sys.abiflags}
    # A collection in a child would write to every object's header and so copy the pages that fork shares.
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(wire.frame(wire.ZYGOTE_READY, 0, 0, 0, json.dumps(about).encode("ascii")))
    ancillary_bytes = _socket.CMSG_SPACE(_DESCRIPTORS_MAX * 4)
    while True:
        ready = [descriptor for descriptor, _ in news.poll()]
        if ended in ready:
            os.read(ended, 512)
            _bury(control, ms)
        if _CONTROL_FD not in ready:
            continue
        data, ancillary, _, _ = control.recvmsg(wire.MESSAGE_BYTES_MAX, ancillary_bytes, _socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        ((kind, _, blank_id, _, payload),) = wire.decode_message(data, "to_zygote")
        outer_plan, inner_plan = wire.decode_spawn(payload)
        payload = None
        if _spawn(control, ms, blank_id, outer_plan, inner_plan, _descriptors(ancillary)):
            control.close()
            return _enter_sandbox(inner_plan)


def _descriptors(ancillary):
    descriptors = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors.extend(struct.unpack("%di" % (len(data) // 4), data[:len(data) // 4 * 4]))
    return descriptors


def _spawn(control, ms, blank_id, outer_plan, inner_plan, descriptors):
    """Sends M off to make one blank. True only in the blank itself."""
    try:
        m_pid = os.fork()
    except OSError as error:
        _close(descriptors)
        _report(control, blank_id, _STAGE_FORK, 0, error.errno)
        return False
    if m_pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _place(descriptors)
        _make_instance(control, blank_id, outer_plan)
        return True
    ms[m_pid] = blank_id
    _close(descriptors)
    return False


def _bury(control, ms):
    """Waits for every M that has ended, and speaks for those that could not."""
    while ms:
        try:
            m_pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if m_pid == 0:
            return
        blank_id = ms.pop(m_pid, None)
        said = os.WIFEXITED(status) and os.WEXITSTATUS(status) in (_M_SPAWNED, _M_REPORTED)
        if blank_id is not None and not said:
            # M was killed before it could say anything: out of memory, or a filter.
            _report(control, blank_id, _STAGE_FORK, 0, 10)  # ECHILD


def _place(descriptors):
    """Moves the received descriptors to 10, 11, … in their order."""
    floor = _PLACED_FROM + len(descriptors)
    # First all of them above the targets: a received descriptor may itself have the number of another's place.
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, floor) for descriptor in descriptors]
    _close(descriptors)
    for place, descriptor in enumerate(moved, _PLACED_FROM):
        os.dup2(descriptor, place, inheritable=False)
        os.close(descriptor)


def _make_instance(control, blank_id, outer_plan):
    """M's whole life. Returns only in the instance."""
    try:
        _faas.apply(outer_plan)
    except OSError as error:
        _report(control, blank_id, _STAGE_OUTER, _step(error), error.errno)
        os._exit(_M_REPORTED)
    try:
        pid = os.fork()
    except OSError as error:
        _report(control, blank_id, _STAGE_FORK, 0, error.errno)
        os._exit(_M_REPORTED)
    if pid == 0:
        return
    control.send(wire.frame(wire.SPAWNED, 0, blank_id, 0, pid.to_bytes(4, "little")))
    os._exit(_M_SPAWNED)


def _enter_sandbox(inner_plan):
    try:
        _faas.apply(inner_plan)
    except OSError as error:
        message = "%s: %s" % (error.strerror, os.strerror(error.errno or 0))
        frame = instance._error_frame("sandbox", 0, 0, type(error).__name__, message)
        # The plan moves the channel from 10 to 3 and closes all above; which of it was done is told by what is open.
        for descriptor in (_PLACED_FROM, _CONTROL_FD):
            try:
                os.write(descriptor, frame)
                break
            except OSError:
                continue
        os._exit(instance.EXIT_SANDBOX_FAILED)
    return _CONTROL_FD


def _step(error):
    """N of the message "step N: NAME" that the native module raises; 0 when it says something else."""
    words = str(error.strerror).split()
    number = words[1].rstrip(":") if len(words) > 1 else ""
    return int(number) if number.isdigit() and len(number) < 6 else 0


def _report(control, blank_id, stage, step, errno):
    payload = wire.SPAWN_FAILURE.pack(stage, step & 0xFFFF, errno or 0)
    control.send(wire.frame(wire.SPAWN_FAILED, 0, blank_id, 0, payload))


def _close(descriptors):
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    # Unwound to here, an instance has none of the zygote's frames beneath it but this one.
    instance.main(main())
