"""A function that does with its network what it is asked to, and tells what came of it."""

import asyncio
import array
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import threading
import time
import urllib.request

MSG_FASTOPEN = 0x20000000


def attempt(action, *arguments):
    try:
        return action(*arguments)
    except socket.gaierror as error:
        return "gaierror %d" % error.errno
    except OSError as error:
        reason = getattr(error, "reason", error)
        return errno.errorcode.get(getattr(reason, "errno", None), repr(reason))


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def connect(host, port, timeout=None):
    with socket.socket(family_of(host)) as client:
        client.settimeout(timeout)
        client.connect((host, port))
        return client.getpeername()[0]


def fetch(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


async def echo(host, line):
    reader, writer = await asyncio.open_connection(host, 7)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    return answer.decode()


def fetch_async(host):
    return asyncio.run(echo(host, b"hello\n"))


def name(host):
    begun = time.monotonic()
    found = attempt(socket.gethostbyname, host)
    return [found, time.monotonic() - begun]


def sockets(host):
    """Everything but a plain connect."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unix = socket.socket(socket.AF_UNIX)
    tcp = socket.socket()
    deferred = attempt(tcp.setsockopt, socket.IPPROTO_TCP, 30, 1)
    left, right = socket.socketpair()
    left.sendall(b"x")
    names = array.array("B", b"\0" * 4096)
    request = struct.pack("iL", 4096, names.buffer_info()[0])
    return {
        "bind": attempt(tcp.bind, ("0.0.0.0", 0)),
        "listen": attempt(tcp.listen),
        "fast open, sendto": attempt(tcp.sendto, b"GET", MSG_FASTOPEN, (host, 80)),
        "fast open, sendmsg": attempt(tcp.sendmsg, [b"GET"], [], MSG_FASTOPEN, (host, 80)),
        "fast open, deferred": deferred,
        "source route": attempt(tcp.setsockopt, socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x83\x07\x04\x0a\x09\x09\x09\0"),
        "device": attempt(tcp.setsockopt, socket.SOL_SOCKET, 25, b"lo\0"),
        "linger": attempt(tcp.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 99)),
        "interfaces": attempt(fcntl.ioctl, tcp, 0x8912, request),
        "udp": attempt(udp.connect, (host, 53)),
        "udp, sent": attempt(udp.sendto, b"x", (host, 53)),
        "unix": attempt(unix.connect, "/tmp/nothing"),
        "abstract": attempt(unix.connect, "\0nothing"),
        "socketpair": right.recv(1).decode(),
        "no socket": attempt(connect_descriptor, 0, host),
        "no descriptor": attempt(connect_descriptor, 250, host),
    }


def connect_descriptor(descriptor, host):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    address = struct.pack("=H", socket.AF_INET) + struct.pack(">H", 80) + socket.inet_aton(host) + b"\0" * 8
    if libc.connect(descriptor, address, len(address)) != 0:
        raise OSError(ctypes.get_errno(), "connect")


def raw_connect(client, address):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.connect(client.fileno(), address, 16) == 0 else ctypes.get_errno()


def again(host, forbidden):
    """A socket that was connected, and what can be made of it then."""
    client = socket.create_connection((host, 7))
    connected = attempt(client.connect, (forbidden, 80))
    # AF_UNSPEC would disconnect it.
    unspecified = errno.errorcode.get(raw_connect(client, b"\0" * 16))
    client.sendall(b"still")
    echoed = client.recv(5).decode()
    # What is left when both sides have closed is a socket of the host's network without a connection.
    client.shutdown(socket.SHUT_RDWR)
    client.recv(1)
    time.sleep(0.2)
    after = attempt(client.connect, (forbidden, 80))
    fast = attempt(client.sendto, b"GET", MSG_FASTOPEN, (forbidden, 80))
    reconnected = attempt(client.connect, (host, 7))
    client.sendall(b"again")
    return {
        "connected": connected, "unspecified": unspecified, "still": echoed, "disconnected": after, "fast open": fast,
        "reconnected": reconnected, "again": client.recv(5).decode(), "listen": attempt(client.listen),
    }


def flip(allowed, forbidden, tries):
    """Changes the address while it is looked at. How often which address was connected to, by what it says itself."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    places = [socket.inet_aton(allowed), socket.inet_aton(forbidden)]
    address = (ctypes.c_char * 16)()
    head = struct.pack("=H", socket.AF_INET) + struct.pack(">H", 80)
    ctypes.memmove(address, head + places[0] + b"\0" * 8, 16)
    word = ctypes.cast(ctypes.byref(address, 4), ctypes.POINTER(ctypes.c_uint32))
    values = [struct.unpack("=I", place)[0] for place in places]
    done = threading.Event()

    def change():
        while not done.is_set():
            word[0] = values[1]
            word[0] = values[0]

    flipper = threading.Thread(target=change)
    flipper.start()
    peers, refused = {}, 0
    for _ in range(tries):
        with socket.socket() as client:
            if libc.connect(client.fileno(), address, 16) == 0:
                peer = client.getpeername()[0]
                peers[peer] = peers.get(peer, 0) + 1
            else:
                refused += 1
    done.set()
    flipper.join()
    return {"peers": peers, "refused": refused}


def many(host, count):
    """That many blocking connections at once, from as many threads."""
    results = []

    def one():
        results.append(attempt(connect, host, 7))

    threads = [threading.Thread(target=one) for _ in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return sorted(results)


def many_async(host, count):
    async def all_of_them():
        return await asyncio.gather(*(echo(host, b"x\n") for _ in range(count)))
    return asyncio.run(all_of_them())


def hang(host):
    """Waits for a connection that is never made, in a thread besides."""
    threading.Thread(target=attempt, args=(connect, host, 81), daemon=True).start()
    return attempt(connect, host, 81)


def storm(host, seconds):
    """Signals that interrupt calls, children that die in them, descriptors that are others by then: what came of it."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    ends = time.monotonic() + seconds
    outcomes = set()

    def swap():
        while time.monotonic() < ends:
            with socket.socket() as client:
                number = client.fileno()
                caller = threading.Thread(target=lambda: outcomes.add(attempt(connect_descriptor, number, host)))
                caller.start()
                os.dup2(0, number)
                caller.join()

    swappers = [threading.Thread(target=swap) for _ in range(4)]
    [swapper.start() for swapper in swappers]
    while time.monotonic() < ends:
        dying = os.fork()
        if dying == 0:
            attempt(connect, host, 81)
            os._exit(0)
        time.sleep(0.01)
        os.kill(dying, signal.SIGKILL)
        os.waitpid(dying, 0)
        outcomes.add(attempt(connect, host, 7))
    [swapper.join() for swapper in swappers]
    signal.setitimer(signal.ITIMER_REAL, 0)
    return sorted(map(str, outcomes))


def timed_out(host):
    begun = time.monotonic()
    outcome = attempt(connect, host, 81, 0.5)
    return [outcome, time.monotonic() - begun]


def child(host):
    """A child has the same broker."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, repr(attempt(connect, host, 7)).encode())
        os._exit(0)
    os.wait()
    return os.read(read, 100).decode()


def descriptors():
    """What is open, but for the one that looks."""
    found = []
    for descriptor in range(64):
        try:
            os.fstat(descriptor)
            found.append(descriptor)
        except OSError:
            pass
    return found


def latency(host, port, rounds):
    """Microseconds of a connection, half of them quicker."""
    times = []
    for _ in range(rounds):
        client = socket.socket()
        begun = time.perf_counter()
        client.connect((host, port))
        times.append(time.perf_counter() - begun)
        client.close()
    return sorted(times)[rounds // 2] * 1e6


def listen_and_call():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()):
            return "connected"


def read(path):
    with open(path) as file:
        return file.read()


def handle(request):
    asked = request.get_json()
    return {key: attempt(globals()[call[0]], *call[1:]) for key, call in asked.items()}
