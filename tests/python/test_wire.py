"""The codec against the shared vectors, which `src/wire/tests/vectors.rs` runs too, and against random bytes."""

import json
import os
import random
import unittest

from support import ROOT, wire

KIND_NAMES = {
    getattr(wire, name.upper()): "".join(word.capitalize() for word in name.split("_"))
    for name in (
        "assign check request body stop hello loaded response error log check_result spawn spawned spawn_failed "
        "zygote_ready"
    ).split()
}


def vectors(name):
    with open(os.path.join(ROOT, "tests", "wire_vectors", name)) as file:
        return json.load(file)


def unhex(text):
    data = b""
    for run in text.split(" "):
        byte, repeated, count = run.partition("*")
        data += bytes.fromhex(byte) * int(count) if repeated else bytes.fromhex(run)
    return data


class Vectors(unittest.TestCase):
    def test_valid_datagrams_decode_to_their_meaning_and_encode_to_their_bytes(self):
        for case in vectors("valid.json"):
            with self.subTest(case["name"]):
                datagram = unhex(case["hex"])
                frames = wire.decode_message(datagram, case["direction"])
                meaning = [
                    {"kind": KIND_NAMES[kind], "end": bool(flags), "id": str(call_id), "nonce": str(nonce),
                     "payload": bytes(payload)}
                    for kind, flags, call_id, nonce, payload in frames
                ]
                expected = [dict(item, payload=unhex(item["payload"])) for item in case["frames"]]
                self.assertEqual(meaning, expected)
                self.assertEqual(b"".join(wire.frame(*frame) for frame in frames), datagram)
                self.check_payload(case, frames[0][4])

    def check_payload(self, case, payload):
        if "request" in case:
            from request import Request

            head = wire.CALL.unpack_from(unhex(case["hex"]))
            wire.check_request_head(head[6:], len(payload))
            request = Request(unhex(case["hex"]), head)
            meaning = case["request"]
            self.assertEqual(request.method, meaning["method"])
            self.assertEqual(request.path, meaning["path"])
            self.assertEqual(request.query_string, meaning["query"])
            self.assertEqual(request.request_id, meaning["request_id"])
            self.assertEqual(request._part(4).decode(), meaning["headers"])
            self.assertEqual(len(request.body), meaning["body_len"])
        if "spawn" in case:
            expected = (unhex(case["spawn"]["outer"]), unhex(case["spawn"]["inner"]))
            self.assertEqual(wire.decode_spawn(payload), expected)
        if "spawn_failed" in case:
            expected = case["spawn_failed"]
            self.assertEqual(
                wire.SPAWN_FAILURE.unpack(payload), (expected["stage"], expected["step"], expected["errno"])
            )

    def test_invalid_datagrams_are_refused_for_their_reason(self):
        for case in vectors("invalid.json"):
            with self.subTest(case["name"]):
                with self.assertRaises(wire.WireError) as caught:
                    wire.decode_message(unhex(case["hex"]), case["direction"])
                self.assertEqual(caught.exception.reason, case["error"])

    def test_invalid_heads_are_refused_for_their_reason(self):
        # Response heads are only read by the server.
        for case in vectors("invalid_heads.json"):
            payload = unhex(case["payload"])
            with self.subTest(case["name"]):
                if case["kind"] == "Request":
                    with self.assertRaises(wire.WireError) as caught:
                        wire.check_request_head(wire.REQUEST_HEAD.unpack_from(payload), len(payload))
                    self.assertEqual(caught.exception.reason, case["error"])
                elif case["kind"] == "Spawn":
                    with self.assertRaises(wire.WireError) as caught:
                        wire.decode_spawn(payload)
                    self.assertEqual(caught.exception.reason, case["error"])


class RandomBytes(unittest.TestCase):
    def test_raise_nothing_but_wire_errors(self):
        generator = random.Random(20261123)
        for _ in range(3000):
            kind, flags = generator.choice(list(KIND_NAMES)), generator.choice((0, 0, 1, 2))
            payload = generator.getrandbits(8 * 30).to_bytes(30, "little")[:generator.randrange(31)]
            data = wire.frame(kind, flags, 1, 2, payload) + generator.choice((b"", b"\0", payload))
            for direction in ("to_instance", "from_instance", "to_zygote", "from_zygote"):
                try:
                    wire.decode_message(data, direction)
                except wire.WireError:
                    pass


if __name__ == "__main__":
    unittest.main()
