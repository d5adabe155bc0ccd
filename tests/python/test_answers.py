"""What a handler may answer, and what becomes of it."""

import json
import unittest

from support import InstanceTest


class Answers(InstanceTest):
    def test_json_values(self):
        for expression in ("{'a': [1, 2.5, None, True]}", "[]", "{}", "'text'", "''", "1", "-0.5", "None", "True",
                           "'caf\\u00e9 \\u2603'", "{1: 'x', None: 2}", "10**30", "{'a': (1, 2)}"):
            outcome = self.returning(expression)
            self.assertEqual(outcome.status, 200, expression)
            self.assertEqual(outcome.headers, [("content-type", "application/json")])
            self.assertEqual(outcome.json, json.loads(json.dumps(eval(expression))), expression)

    def test_json_is_compact_utf_8(self):
        self.assertEqual(self.returning("{'a': ['\\u2603', 1]}").body, '{"a":["\u2603",1]}'.encode())

    def test_a_lone_surrogate_is_escaped(self):
        self.assertEqual(self.returning("{'a': '\\ud800'}").body, b'{"a":"\\ud800"}')

    def test_subclasses_of_json_values(self):
        self.assertEqual(self.returning("__import__('collections').OrderedDict(a=1)").json, {"a": 1})
        self.assertEqual(self.returning("__import__('http').HTTPStatus.OK").json, 200)

    def test_bytes(self):
        for expression in ("b'\\x00\\xff'", "bytearray(b'\\x00\\xff')", "memoryview(b'\\x00\\xff')",
                           "memoryview(b'\\x00-\\xff-')[::2]"):
            outcome = self.returning(expression)
            self.assertEqual(outcome.body, b"\x00\xff")
            self.assertEqual(outcome.headers, [("content-type", "application/octet-stream")])
        self.assertEqual(self.returning("b''").body, b"")

    def test_tuples(self):
        outcome = self.returning("({'a': 1}, 201)")
        self.assertEqual((outcome.status, outcome.json), (201, {"a": 1}))
        outcome = self.returning("('x', 404, {'X-A': 'b', 'X-N': 3})")
        self.assertEqual((outcome.status, outcome.json), (404, "x"))
        self.assertEqual(outcome.headers, [("content-type", "application/json"), ("X-A", "b"), ("X-N", "3")])
        outcome = self.returning("('<p>', 200, {'Content-Type': 'text/html'})")
        self.assertEqual((outcome.body, outcome.headers), (b"<p>", [("Content-Type", "text/html")]))
        outcome = self.returning("('x', 200, {'content-type': 'application/vnd.a+json'})")
        self.assertEqual(outcome.json, "x")
        outcome = self.returning("('x', 200, [('Set-Cookie', 'a'), ('Set-Cookie', 'b')])")
        self.assertEqual(outcome.headers[1:], [("Set-Cookie", "a"), ("Set-Cookie", "b")])
        outcome = self.returning("('x', 200, {'Set-Cookie': ['a', 'b']})")
        self.assertEqual(outcome.headers[1:], [("Set-Cookie", "a"), ("Set-Cookie", "b")])

    def test_statuses_without_a_body(self):
        for status in (204, 205, 304):
            outcome = self.returning("(None, %d)" % status)
            self.assertEqual((outcome.status, outcome.body, outcome.headers), (status, b"", []))
        self.assertEqual(self.returning("({'dropped': 1}, 204)").body, b"")

    def test_responses(self):
        outcome = self.returning("Response('hi')")
        self.assertEqual((outcome.status, outcome.body), (200, b"hi"))
        self.assertEqual(outcome.headers, [("content-type", "text/plain; charset=utf-8")])
        outcome = self.returning("Response({'a': 1}, status=202, headers={'X': 'y'})")
        self.assertEqual((outcome.status, outcome.json), (202, {"a": 1}))
        self.assertEqual(outcome.headers, [("content-type", "application/json"), ("X", "y")])
        outcome = self.returning("Response(b'x', content_type='image/png', headers={'content-type': 'no'})")
        self.assertEqual(outcome.headers, [("content-type", "image/png")])
        outcome = self.returning("Response(status=500)")
        self.assertEqual((outcome.status, outcome.body, outcome.headers), (500, b"", []))

    def test_long_answers_come_whole_in_pieces(self):
        for size in (40960, 40961, 300000):
            self.assertEqual(self.returning("b'x' * %d" % size).body, b"x" * size)

    def test_answers_over_the_limit_are_refused(self):
        outcome = self.returning("b'x' * 1001", response_bytes_max=1000)
        self.assertEqual((outcome.error["phase"], outcome.error["type"]), ("answer", "too_large"))
        self.assertEqual(self.returning("'x' * 998", response_bytes_max=1000).json, "x" * 998)
        outcome = self.returning("'x' * 999", response_bytes_max=1000)
        self.assertEqual(outcome.error["type"], "too_large")

    def test_what_has_no_form_is_refused_with_words(self):
        cases = {
            "object()": "type object",
            "{1, 2}": "type set",
            "[object]": "type type",
            "float('nan')": "JSON",
            "[float('inf')]": "JSON",
            "{(1, 2): 3}": "keys must be",
            "(lambda a: a.append(a) or a)([])": "Circular",
            "__import__('functools').reduce(lambda a, _: [a], range(100000), 1)": "too deep",
            "(x for x in ())": "generator",
            "()": "tuple",
            "(1, 2, 3, 4)": "tuple",
            "('x', 'y')": "status",
            "('x', True)": "status",
            "('x', 199)": "200 to 599",
            "('x', 600)": "200 to 599",
            "('x', 10**5000)": "200 to 599",
            "('x', -1)": "200 to 599",
            "('x', 200, 7)": "headers",
            "('x', 200, 'abc')": "headers",
            "('x', 200, {'a\\r\\nb': 'c'})": "token",
            "('x', 200, {'': 'c'})": "token",
            "('x', 200, {7: 'c'})": "token",
            "('x', 200, {'a': 'b\\r\\nSet-Cookie: c'})": "control",
            "('x', 200, {'a': 'b\\x00'})": "control",
            "('x', 200, {'a': '\\ud800'})": "surrogate",
            "('x', 200, {'a': object()})": "type object",
            "('x', 200, {'a': 'b' * 17000})": "limit",
            "Response('x', status='200')": "status",
            "type('D', (dict,), {'items': lambda self: 1 // 0})(a=1), 200, type('D', (dict,), {'items': lambda s: 1 // 0})()":
                "ZeroDivisionError",
        }
        for expression, words in cases.items():
            outcome = self.returning(expression)
            self.assertIsNotNone(outcome.error, expression)
            self.assertEqual((outcome.error["phase"], outcome.error["type"]), ("answer", "bad_answer"), expression)
            self.assertIn(words, outcome.error["message"], expression)
            self.assertEqual(outcome.text(2), [outcome.error["message"]])

    def test_a_coroutine_from_a_plain_function_is_refused(self):
        instance = self.load("async def other():\n    pass\ndef handle(request):\n    return other()\n")
        outcome = instance.call()
        self.assertIn("coroutine", outcome.error["message"])
        self.assertEqual(outcome.text(1), [], "no warning about a coroutine that was never awaited")


if __name__ == "__main__":
    unittest.main()
