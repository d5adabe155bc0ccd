"""Writes the vectors beside it. It lays the bytes out by hand from the tables of ARCHITECTURE.md and uses neither of
the codecs that are held to them. Run it only to add a case: a changed line of an old case is a changed protocol."""

import json
import os
from struct import pack

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = {
    "Assign": 1, "Check": 2, "Request": 3, "Body": 4, "Stop": 5, "Hello": 16, "Loaded": 17, "Response": 18, "Error": 19,
    "Log": 20, "CheckResult": 21, "Spawn": 32, "Spawned": 33, "SpawnFailed": 34, "ZygoteReady": 35,
}
ID, NONCE = 0x0102030405060708, 0xFFEEDDCCBBAA9988


def runs(data):
    """Hexadecimal, with a long run of one byte at the end written as `HH*COUNT`."""
    stem = data.rstrip(data[-1:])
    count = len(data) - len(stem)
    if count < 64:
        return data.hex()
    return "%s %02x*%d" % (stem.hex(), data[-1], count)


def header(length, kind, flags=0, reserved=0, call_id=ID, nonce=NONCE):
    return pack("<I", length) + bytes([kind, flags]) + pack("<H", reserved) + pack("<Q", call_id) + pack("<Q", nonce)


def frame(name, payload=b"", end=False, call_id=ID, nonce=NONCE):
    meaning = {"kind": name, "end": end, "id": str(call_id), "nonce": str(nonce), "payload": runs(payload)}
    return header(len(payload), KINDS[name], int(end), 0, call_id, nonce) + payload, meaning


def request_head(method=b"POST", path=b"/a b", query=b"x=1&y=%20", request_id=b"req-1", headers=b"host: h\r\n", body=2,
                 reserved=0, skew=0):
    return (
        bytes([len(method), reserved]) + pack("<HHH", len(path), len(query), len(request_id))
        + pack("<I", len(headers) + skew) + pack("<Q", body) + method + path + query + request_id + headers
    )


def response_head(status=200, headers=b"content-type: application/json\r\n", body=2, reserved=0, skew=0):
    return pack("<HH", status, reserved) + pack("<I", len(headers) + skew) + pack("<Q", body) + headers


valid, invalid = [], []


def good(name, direction, *frames, **extra):
    data = b"".join(data for data, _ in frames)
    valid.append({"name": name, "direction": direction, "hex": runs(data), "frames": [m for _, m in frames], **extra})


def bad(name, direction, data, error):
    invalid.append({"name": name, "direction": direction, "hex": runs(data), "error": error})


TI, FI, TZ, FZ = "to_instance", "from_instance", "to_zygote", "from_zygote"

request_meaning = {
    "method": "POST", "path": "/a b", "query": "x=1&y=%20", "request_id": "req-1", "headers": "host: h\r\n", "body_len": 2,
}
good("a call with its body in one datagram", TI, frame("Request", request_head()), frame("Body", b"{}", True),
     request=request_meaning)
good("a call without a body", TI, frame("Request", request_head(b"GET", b"/", b"", b"r", b"", 0), True),
     request={"method": "GET", "path": "/", "query": "", "request_id": "r", "headers": "", "body_len": 0})
good("the first piece of a long body", TI, frame("Request", request_head(body=9)), frame("Body", b"12345"))
good("a later piece of a long body", TI, frame("Body", b"6789", True))
good("an empty last piece", TI, frame("Body", b"", True))
good("a function and its code", TI, frame("Assign", b'{"function":"f"}', call_id=0, nonce=0),
     frame("Body", b"def handle(request): ...\n", True, 0, 0))
good("a check", TI, frame("Check", b'{"module":"main","handler":"handle"}', call_id=0, nonce=0),
     frame("Body", b"", True, 0, 0))
good("stop", TI, frame("Stop", call_id=0, nonce=0))
good("the greatest id and nonce", TI, frame("Body", b"x", True, 2**64 - 1, 2**64 - 1))
good("hello", FI, frame("Hello", b'{"python":"3.11.7"}', call_id=0, nonce=0))
good("loaded", FI, frame("Loaded", call_id=0, nonce=0))
good("an answer in one datagram", FI, frame("Response", response_head()), frame("Body", b"{}", True),
     response={"status": 200, "headers": [["content-type", "application/json"]], "body_len": 2})
good("an answer without a body", FI, frame("Response", response_head(204, b"", 0), True),
     response={"status": 204, "headers": [], "body_len": 0})
good("answer headers that are dropped, and their neighbours", FI, frame("Response", response_head(599, (
    b"Connection: close\r\nKEEP-ALIVE: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nTE: x\r\nTrailer: x\r\n"
    b"Upgrade: x\r\nProxy-Authenticate: x\r\nX-Faas-Instance: x\r\nX-Request-Id: x\r\nDate: x\r\n"
    b"X-Faas: kept\r\nProxy: kept\r\nDated: kept\r\n"), 0), True),
    response={"status": 599, "headers": [["X-Faas", "kept"], ["Proxy", "kept"], ["Dated", "kept"]], "body_len": 0})
good("answer header values: empty, blanks around, tab within, UTF-8", FI, frame("Response", response_head(200, (
    "A:\r\nB:  x \t\r\nc: a\tb\r\nD!#$%&'*+-.^_`|~: Zo\u00eb: \u2603\r\n").encode(), 0), True),
    response={"status": 200, "headers": [["A", ""], ["B", "x"], ["c", "a\tb"], ["D!#$%&'*+-.^_`|~", "Zo\u00eb: \u2603"]],
              "body_len": 0})
good("an error", FI, frame("Error", b'{"phase":"call","type":"ValueError","message":"no"}', True),
     error={"phase": "call", "type": "ValueError", "message": "no"})
good("several log entries", FI, frame("Log", b"\x00one"), frame("Log", b"\x01two"), frame("Log", b"\x02"))
good("log entries of two calls, then an answer", FI, frame("Log", b"\x00x", call_id=0, nonce=0), frame("Log", b"\x00y"),
     frame("Response", response_head(200, b"", 0), True))
good("64 frames", FI, *[frame("Log", b"\x00x") for _ in range(64)])
good("check results", FI, frame("CheckResult", b'{"ok":true}', call_id=0, nonce=0), frame(
    "CheckResult", b'{"ok":false,"reason":"syntax","line":3,"column":7,"message":"m"}', call_id=0, nonce=0))
good("spawn", TZ, frame("Spawn", pack("<II", 5, 3) + b"outerinn", call_id=9, nonce=0),
     spawn={"outer": b"outer".hex(), "inner": b"inn".hex()})
good("spawn with empty plans", TZ, frame("Spawn", pack("<II", 0, 0), call_id=9, nonce=0),
     spawn={"outer": "", "inner": ""})
good("spawned", FZ, frame("Spawned", pack("<I", 4711), call_id=9, nonce=0), spawned=4711)
good("spawn failed", FZ, frame("SpawnFailed", b"\x01" + pack("<H", 513) + pack("<i", -1), call_id=9, nonce=0),
     spawn_failed={"stage": 1, "step": 513, "errno": -1})
good("zygote ready", FZ, frame("ZygoteReady", b'{"python":"3.11.7","free_threaded":false}', call_id=0, nonce=0))
good("the largest body piece", FI, frame("Body", b"z" * 40960, True))

bad("nothing", FI, b"", "EmptyMessage")
bad("one byte", FI, b"\0", "TruncatedHeader")
bad("a header without its last byte", FI, header(0, 17)[:-1], "TruncatedHeader")
bad("a second header cut off", FI, frame("Loaded")[0] + b"\0" * 23, "TruncatedHeader")
bad("a payload one byte short", FI, header(3, 4) + b"xx", "TruncatedPayload")
bad("a payload of 4 GiB", FI, header(2**32 - 1, 4) + b"xx", "TruncatedPayload")
bad("kind 0", FI, header(0, 0), "UnknownKind")
bad("kind 255", TI, header(0, 255), "UnknownKind")
bad("a request from an instance", FI, frame("Request", request_head(body=0), True)[0], "WrongDirection")
bad("an answer to an instance", TI, frame("Response", response_head(), True)[0], "WrongDirection")
bad("a body to a zygote", TZ, frame("Body", b"x")[0], "WrongDirection")
bad("spawned from an instance", FI, frame("Spawned", b"\0\0\0\0")[0], "WrongDirection")
bad("an undefined flag", FI, header(1, 4, 2) + b"x", "BadFlags")
bad("END on a log entry", FI, header(2, 20, 1) + b"\0x", "BadFlags")
bad("an error without END", FI, header(2, 19, 0) + b"{}", "BadFlags")
bad("END on hello", FI, header(2, 16, 1) + b"{}", "BadFlags")
bad("reserved bits", FI, header(1, 4, 0, 1) + b"x", "ReservedNotZero")
bad("loaded with a payload", FI, header(1, 17) + b"x", "BadPayloadLength")
bad("a log entry without a stream", FI, header(0, 20), "BadPayloadLength")
bad("a log entry that is too long", FI, header(16386, 20) + b"\0" * 16386, "BadPayloadLength")
bad("a body piece that is too long", FI, header(40961, 4) + b"\0" * 40961, "BadPayloadLength")
bad("spawned with five bytes", FZ, header(5, 33) + b"\0" * 5, "BadPayloadLength")
bad("a response head that is too short", FI, header(15, 18) + b"\0" * 15, "BadPayloadLength")
bad("a request head that is too short", TI, header(19, 3) + b"\0" * 19, "BadPayloadLength")
bad("65 frames", FI, frame("Log", b"\0x")[0] * 65, "TooManyFrames")
bad("two calls in one datagram", TI, frame("Request", request_head(body=0), True)[0] * 2, "MixedMessage")
bad("a body after END", TI, frame("Request", request_head(body=0), True)[0] + frame("Body", b"x", True)[0],
    "MixedMessage")
bad("a body of another call", TI, frame("Request", request_head())[0] + frame("Body", b"{}", True, ID + 1)[0],
    "MixedMessage")
bad("a body with another nonce", TI, frame("Request", request_head())[0] + frame("Body", b"{}", True, ID, 1)[0],
    "MixedMessage")
bad("more than 64 KiB", FI, header(65513, 4) + b"x" * 65513, "MessageTooLong")

heads = []


def bad_head(name, kind, payload, error):
    heads.append({"name": name, "kind": kind, "payload": payload.hex(), "error": error})


bad_head("a headers length one too great", "Request", request_head(skew=1), "BadHeadLength")
bad_head("a headers length of 4 GiB", "Request", request_head(headers=b"", skew=2**32 - 1), "BadHeadLength")
bad_head("bytes behind the headers", "Request", request_head() + b"x", "BadHeadLength")
bad_head("a reserved byte", "Request", request_head(reserved=1), "ReservedNotZero")
bad_head("a headers length one too great", "Response", response_head(skew=1), "BadHeadLength")
bad_head("a reserved field", "Response", response_head(reserved=1), "ReservedNotZero")
for status in (0, 100, 199, 600, 65535):
    bad_head("status %d" % status, "Response", response_head(status), "BadStatus")
for name, line in (
    ("no colon", b"abc\r\n"), ("no name", b": x\r\n"), ("a blank before the colon", b"a : x\r\n"),
    ("a blank in the name", b"a b: x\r\n"), ("a folded line", b"a: x\r\n y\r\n"), ("no line end", b"a: x"),
    ("a bare LF", b"a: x\n"), ("a bare CR", b"a: x\ry\r\n"), ("LF in the value", b"a: x\ny\r\n"), ("NUL", b"a: \0\r\n"),
    ("DEL", b"a: \x7f\r\n"), ("invalid UTF-8", b"a: \xff\r\n"), ("a C1 control", b"a: \xc2\x85\r\n"),
    ("an empty line", b"\r\n"), ("a name that is not ASCII", b"\xc3\xab: x\r\n"),
    ("a second header by way of the first", b"a: x\r\n\r\nHTTP/1.1 200 OK\r\n"),
):
    bad_head("header with " + name, "Response", response_head(headers=line), "BadHeaderLine")
bad_head("plans that are too short", "Spawn", pack("<II", 5, 3) + b"outerin", "BadHeadLength")
bad_head("plans that are too long", "Spawn", pack("<II", 5, 3) + b"outerinner", "BadHeadLength")
bad_head("a plan of 4 GiB", "Spawn", pack("<II", 2**32 - 1, 9) + b"outerinner", "BadHeadLength")


def write(name, cases):
    with open(os.path.join(HERE, name), "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


write("valid.json", valid)
write("invalid.json", invalid)
write("invalid_heads.json", heads)
