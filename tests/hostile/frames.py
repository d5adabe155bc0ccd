# Put before the code of hostile functions: speaking on the channel in the shim's place.
import os, struct, threading, time

HELLO, LOADED, RESPONSE, ERROR, LOG, BODY = 16, 17, 18, 19, 20, 4


def frame(kind, flags=0, id=0, nonce=0, payload=b"", length=None):
    return struct.pack("<IBBHQQ", len(payload) if length is None else length, kind, flags, 0, id, nonce) + payload


def send(*frames):
    os.write(3, b"".join(frames))


def take():
    """Takes a datagram in the shim's place: id and nonce of the call that it begins."""
    return struct.unpack_from("<IBBHQQ", os.read(3, 65536))[4:6]


def head(status=200, headers=b"", body_len=0):
    return struct.pack("<HHIQ", status, 0, len(headers), body_len) + headers


def forever():
    while True:
        time.sleep(60)


def handle(request):
    return "answered"
