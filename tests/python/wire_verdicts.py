"""What the shim's codec says of datagrams: one in hexadecimal a line comes in, one line of verdicts goes out, one for
each direction. `tests/wire_twins.rs` compares them with those of `src/wire`."""

import sys

from support import wire

DIRECTIONS = ("to_instance", "from_instance", "to_zygote", "from_zygote")


def inside(kind, payload):
    """What is said of a payload that both sides decode."""
    try:
        if kind == wire.REQUEST:
            wire.check_request_head(wire.REQUEST_HEAD.unpack_from(payload), len(payload))
        elif kind == wire.SPAWN:
            outer, inner = wire.decode_spawn(payload)
            return "%d+%d" % (len(outer), len(inner))
        return ""
    except wire.WireError as error:
        return error.reason


def verdict(datagram, direction):
    try:
        frames = wire.decode_message(datagram, direction)
    except wire.WireError as error:
        return error.reason
    return " ".join(
        "%d/%d/%d/%d/%d/%s" % (kind, flags, call_id, nonce, len(payload), inside(kind, payload))
        for kind, flags, call_id, nonce, payload in frames
    )


for line in sys.stdin:
    datagram = bytes.fromhex(line)
    print("; ".join(verdict(datagram, direction) for direction in DIRECTIONS))
