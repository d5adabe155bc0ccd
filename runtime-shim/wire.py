"""The frame codec, twin of `src/wire`: both are held to `tests/wire_vectors/`. ARCHITECTURE.md has the format.

Owns the layout of datagrams, frames and heads. Does not own sockets, or what a frame means.

`decode_message` is the strict decoder. The serve loop in `instance.py` reads the common datagram with `CALL` alone and
falls back to the strict one for everything else.
"""

from struct import Struct

MESSAGE_BYTES_MAX = 64 * 1024
BODY_PIECE_BYTES_MAX = 40 * 1024
FRAMES_PER_MESSAGE_MAX = 64
LOG_ENTRY_BYTES_MAX = 16 * 1024
RESPONSE_HEADER_BYTES_MAX = 16 * 1024

ASSIGN, CHECK, REQUEST, BODY, STOP = 1, 2, 3, 4, 5
HELLO, LOADED, RESPONSE, ERROR, LOG, CHECK_RESULT = 16, 17, 18, 19, 20, 21
SPAWN, SPAWNED, SPAWN_FAILED, ZYGOTE_READY = 32, 33, 34, 35

END = 1

# payload_len, kind, flags, reserved, id, nonce
HEADER = Struct("<IBBHQQ")
HEADER_BYTES = HEADER.size
# method_len, reserved, path_len, query_len, request_id_len, headers_len, body_len
REQUEST_HEAD = Struct("<BBHHHIQ")
# status, reserved, headers_len, body_len
RESPONSE_HEAD = Struct("<HHIQ")
# A frame header and a request head in one: what a datagram that starts a call begins with.
CALL = Struct("<IBBHQQBBHHHIQ")
# A frame header and a response head in one.
ANSWER = Struct("<IBBHQQHHIQ")
# A frame header and the stream number of a log entry in one.
LOG_ENTRY = Struct("<IBBHQQB")
# stage, step, errno
SPAWN_FAILURE = Struct("<BHi")

_TO_INSTANCE, _FROM_INSTANCE, _TO_ZYGOTE, _FROM_ZYGOTE = "to_instance", "from_instance", "to_zygote", "from_zygote"
_WHOLE = MESSAGE_BYTES_MAX - HEADER_BYTES
_OPTIONAL, _REQUIRED, _FORBIDDEN = (0, END), (END,), (0,)

# kind: (directions, allowed flags, least payload, largest payload)
_RULES = {
    ASSIGN: ((_TO_INSTANCE,), _FORBIDDEN, 1, BODY_PIECE_BYTES_MAX),
    CHECK: ((_TO_INSTANCE,), _FORBIDDEN, 2, _WHOLE),
    REQUEST: ((_TO_INSTANCE,), _OPTIONAL, REQUEST_HEAD.size, _WHOLE),
    BODY: ((_TO_INSTANCE, _FROM_INSTANCE), _OPTIONAL, 0, BODY_PIECE_BYTES_MAX),
    STOP: ((_TO_INSTANCE,), _FORBIDDEN, 0, 0),
    HELLO: ((_FROM_INSTANCE,), _FORBIDDEN, 2, _WHOLE),
    LOADED: ((_FROM_INSTANCE,), _FORBIDDEN, 0, 0),
    RESPONSE: ((_FROM_INSTANCE,), _OPTIONAL, RESPONSE_HEAD.size, _WHOLE),
    ERROR: ((_FROM_INSTANCE,), _REQUIRED, 2, _WHOLE),
    LOG: ((_FROM_INSTANCE,), _FORBIDDEN, 1, LOG_ENTRY_BYTES_MAX + 1),
    CHECK_RESULT: ((_FROM_INSTANCE,), _FORBIDDEN, 2, _WHOLE),
    SPAWN: ((_TO_ZYGOTE,), _FORBIDDEN, 8, _WHOLE),
    SPAWNED: ((_FROM_ZYGOTE,), _FORBIDDEN, 4, 4),
    SPAWN_FAILED: ((_FROM_ZYGOTE,), _FORBIDDEN, SPAWN_FAILURE.size, SPAWN_FAILURE.size),
    ZYGOTE_READY: ((_FROM_ZYGOTE,), _FORBIDDEN, 2, _WHOLE),
}


class WireError(ValueError):
    """A datagram, frame or head that breaks the protocol. `reason` is the name of the variant in `src/wire/error.rs`."""

    def __init__(self, reason, detail=""):
        super().__init__("%s %s" % (reason, detail))
        self.reason = reason


def frame(kind, flags, call_id, nonce, payload):
    """One frame as bytes."""
    return HEADER.pack(len(payload), kind, flags, 0, call_id, nonce) + payload


def decode_message(datagram, direction):
    """Validates a whole datagram and returns its frames: `(kind, flags, id, nonce, payload)`, payloads as views."""
    size = len(datagram)
    if not size:
        raise WireError("EmptyMessage")
    if size > MESSAGE_BYTES_MAX:
        raise WireError("MessageTooLong", size)
    view = memoryview(datagram)
    frames = []
    at = 0
    while at < size:
        if size - at < HEADER_BYTES:
            raise WireError("TruncatedHeader", size - at)
        length, kind, flags, reserved, call_id, nonce = HEADER.unpack_from(view, at)
        at += HEADER_BYTES
        if length > size - at:
            raise WireError("TruncatedPayload", length)
        rule = _RULES.get(kind)
        if rule is None:
            raise WireError("UnknownKind", kind)
        directions, allowed_flags, least, largest = rule
        if direction not in directions:
            raise WireError("WrongDirection", kind)
        if flags not in allowed_flags:
            raise WireError("BadFlags", flags)
        if reserved:
            raise WireError("ReservedNotZero", kind)
        if not least <= length <= largest:
            raise WireError("BadPayloadLength", length)
        if frames and direction == _TO_INSTANCE:
            _, first_flags, first_id, first_nonce, _ = frames[0]
            # A datagram is what an instance claims: it must never claim two calls.
            if kind != BODY or first_flags & END or call_id != first_id or nonce != first_nonce:
                raise WireError("MixedMessage", kind)
        if len(frames) == FRAMES_PER_MESSAGE_MAX:
            raise WireError("TooManyFrames")
        frames.append((kind, flags, call_id, nonce, view[at:at + length]))
        at += length
    return frames


def check_request_head(head, payload_len):
    """Checks the unpacked `REQUEST_HEAD` of a payload of this length."""
    method_len, reserved, path_len, query_len, request_id_len, headers_len, _ = head
    if reserved:
        raise WireError("ReservedNotZero", reserved)
    if payload_len != REQUEST_HEAD.size + method_len + path_len + query_len + request_id_len + headers_len:
        raise WireError("BadHeadLength", payload_len)


def decode_spawn(payload):
    """The outer and the inner plan of a `Spawn`."""
    outer_len = int.from_bytes(payload[0:4], "little")
    inner_len = int.from_bytes(payload[4:8], "little")
    if len(payload) != 8 + outer_len + inner_len:
        raise WireError("BadHeadLength", len(payload))
    return bytes(payload[8:8 + outer_len]), bytes(payload[8 + outer_len:])
