"""The first program of a container, or its init's child: gets the instance's channel from the server and becomes a blank.
Run by the engine as `python3 -I -S -B /faas/shim/container.py`.

The server listens on a socket in a directory that is mounted at /faas/run. This connects, receives one message with
descriptors, places them as the zygote's inner plan does (0 /dev/null, 1 and 2 the output pipe, 3 the channel, nothing
else), and goes on as `instance.main`: from there on it is an instance like any other.

Namespaces, user, limits and the list of system calls are the engine's work, and done by now. With `network: outbound` so
is the filter whose questions the server answers: a program of the server's has loaded it (`src/sys/native/launcher.rs`).
Under that filter nobody connects to the server, so it has done that too, and the descriptor's number is the argument.

A container that gets no channel ends with a status of its own, and says why on standard error, which the engine keeps.
"""

import gc

# What is loaded from here on stays; on the way of a call for which no container was ready, collections cost 2 ms.
gc.disable()

import os
import sys

_LAUNCH = "/faas/run/launch"
_OLDEST = (3, 8)
_CHANNEL_FD = 3
# Above every place, so that moving one never overwrites another.
_FLOOR = 16
_DESCRIPTORS_MAX = 8


def _give_up(reason):
    # As `instance.EXIT_NOT_LAUNCHED`, which may be out of reach here.
    sys.stderr.write("faas: no function can run in this container: %s\n" % reason)
    sys.stderr.flush()
    os._exit(118)


if sys.version_info < _OLDEST:
    _give_up("its Python is %d.%d, and at least %d.%d is needed" % (sys.version_info[:2] + _OLDEST))
if "t" in getattr(sys, "abiflags", ""):
    _give_up("its Python is a free-threaded build")

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

try:
    import _socket
    import fcntl
    import site
    import struct

    import instance
    import wire
except ImportError as error:
    # Some distributions have a package with a part of the standard library.
    _give_up("its Python is not whole: %s" % error)


def main():
    """Everything up to the blank: the number of its channel's descriptor."""
    where = sys.argv[1] if len(sys.argv) > 1 else _LAUNCH
    try:
        server = _connection(where)
    except OSError as error:
        _give_up("it cannot connect to %s: %s" % (where, error))
    # What the image has installed is there for its functions; `-S` only kept it from being in the shim's way.
    site.main()
    # As in the zygote: a collection would go through all of this again and again, and find nothing.
    gc.collect()
    gc.freeze()
    try:
        channel, output = _receive(server)
        server.close()
        _place(channel, output)
    except (OSError, ValueError) as error:
        _give_up("its channel did not arrive: %s" % error)
    os.umask(0o077)
    try:
        os.chdir("/tmp")
    except OSError:
        os.chdir("/")
    return _CHANNEL_FD


def _connection(where):
    """The connection to the server: by its number, or to be made."""
    if where.isdigit():
        return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, int(where))
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    server.connect(where)
    return server


def _receive(server):
    """The descriptors that come with the server's one message."""
    ancillary_bytes = _socket.CMSG_SPACE(_DESCRIPTORS_MAX * 4)
    data, ancillary, flags, _ = server.recvmsg(wire.MESSAGE_BYTES_MAX, ancillary_bytes, _socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise ValueError("the server hung up")
    descriptors = []
    for level, kind, numbers in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors.extend(struct.unpack("%di" % (len(numbers) // 4), numbers[:len(numbers) // 4 * 4]))
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
        raise ValueError("the server's message was cut; perhaps too few descriptors may be open")
    if len(descriptors) != 2:
        raise ValueError("%d descriptors came with it" % len(descriptors))
    return descriptors


def _place(channel, output):
    """Puts the descriptors where an instance has them, and closes every other one, also what the engine left open."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    places = (null, output, output, channel)
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FLOOR) for descriptor in places]
    for place, descriptor in enumerate(moved):
        os.dup2(descriptor, place, inheritable=place < _CHANNEL_FD)
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= len(places):
            try:
                os.close(int(name))
            except OSError:
                # That of the listing itself.
                pass


if __name__ == "__main__":
    # With an init above it, orphans are given to that.
    instance.main(main(), is_given_orphans=os.getpid() == 1)
