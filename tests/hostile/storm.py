# Put behind frames.py and a list DATAGRAMS: a whole life in the shim's place, said from one seed, the body of the
# first call. It knows how to answer rightly, which it does now and then, and how not to.
import random, select, socket

CHANNEL = socket.socket(fileno=os.dup(3))


def claim(data):
    """Id, nonce and body of a call, as far as its first datagram has them."""
    length, _, _, _, id, nonce = struct.unpack_from("<IBBHQQ", data)
    return id, nonce, data[48 + length:]


def addressed(rng, datagram, calls):
    """The same frames, most of them in the name of a call that was taken."""
    at, frames = 0, []
    while len(datagram) - at >= 24:
        length, kind, flags, _, id, nonce = struct.unpack_from("<IBBHQQ", datagram, at)
        if rng.random() < 0.9:
            id, nonce = rng.choice(calls)
        nonce ^= rng.random() < 0.03
        frames.append(frame(kind, flags, id, nonce, datagram[at + 24:at + 24 + length], length))
        at += 24 + length
    return frames or [datagram]


def mutated(rng, frames):
    frames = list(frames)
    for _ in range(rng.randrange(1, 4)):
        way = rng.randrange(8)
        if way == 0:
            frames.append(rng.choice(frames))
        elif way == 1:
            rng.shuffle(frames)
        elif way == 2:
            frames.insert(rng.randrange(len(frames) + 1), log(rng, 0))
        else:
            at = rng.randrange(len(frames))
            data = bytearray(frames[at])
            if way == 3 and data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            elif way == 4:
                del data[rng.randrange(len(data) + 1):]
            elif way == 5 and len(data) >= 4:
                data[:4] = struct.pack("<I", rng.choice((0, 1, 40960, 40961, len(data), 2**31, 2**32 - 1)))
            elif way == 6:
                data += rng.getrandbits(64).to_bytes(8, "little")
            elif data:
                data[rng.randrange(min(len(data), 24))] = rng.randrange(256)
            frames[at] = bytes(data)
    return frames


def log(rng, id):
    size = rng.choice((0, 1, 20, 1000, 16384))
    return frame(LOG, id=id, payload=bytes([rng.randrange(3)]) + b"l" * size)


def answer(rng, id, nonce, body):
    """A right answer, in one datagram or in several, with log entries in between."""
    pieces = [body[at:at + 40960] for at in range(0, len(body), 40960)] or [b""]
    first = frame(RESPONSE, 0, id, nonce, head(200, b"content-type: text/plain\r\n", len(body)))
    for number, piece in enumerate(pieces):
        first += frame(BODY, int(number == len(pieces) - 1), id, nonce, piece)
        if rng.random() < 0.3:
            first = log(rng, id) + first
        if number == len(pieces) - 1 or rng.random() < 0.5 or len(first) > 20000:
            os.write(3, first)
            first = b""


def drain(data):
    """Takes the rest of a call."""
    while not data[5] & 1:
        at, last = 0, data
        while at < len(data):
            length = struct.unpack_from("<I", data, at)[0]
            last = data[at:at + 24 + length]
            at += 24 + length
        if last[5] & 1:
            return
        data = os.read(3, 65536)
        if not data:
            os._exit(0)


def live():
    data = os.read(3, 65536)
    id, nonce, body = claim(data)
    rng = random.Random(int(body[:20]))
    wildness = rng.choice((0, 0.02, 0.1, 0.3, 1))
    calls = [(id, nonce)]
    if rng.random() < 0.95:
        send(frame(LOADED))
    if rng.random() < 0.95:
        drain(data)
    for _ in range(rng.randrange(1, 80)):
        deed = rng.random()
        if deed < wildness:
            os.write(3, b"".join(mutated(rng, addressed(rng, rng.choice(DATAGRAMS), calls)))[:65536])
        elif deed < wildness + 0.1:
            answer(rng, id, nonce, body[:20] * rng.choice((0, 1, 1, 1, 5000)))
            calls.append((id + 1, nonce))
            # The next, if it comes soon: lives that go on are worth more than those that end.
            if not select.select([3], [], [], 0.05)[0]:
                break
            data = os.read(3, 65536)
            if not data:
                break
            id, nonce, body = claim(data)
            calls.append((id, nonce))
            drain(data)
        elif deed < wildness + 0.12:
            os.write(rng.choice((1, 2)), b"raw " * rng.randrange(5000) + b"\n")
        elif deed < wildness + 0.125:
            CHANNEL.shutdown(rng.choice((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)))
        elif deed < wildness + 0.13:
            forever()
        elif deed < wildness + 0.14:
            # A call that is taken before its turn.
            if select.select([3], [], [], 0.01)[0]:
                calls.append(claim(os.read(3, 65536))[:2])
        else:
            os.write(3, b"".join(log(rng, rng.choice(calls)[0]) for _ in range(rng.randrange(1, 4))))
    os._exit(rng.choice((0, 7)))


live()
