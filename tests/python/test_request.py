"""What a handler sees of a request."""

import json
import unittest

from support import wire

from request import Request


def a_request(body=b"", method=b"POST", path=b"/", query=b"", headers=b""):
    payload = wire.REQUEST_HEAD.pack(len(method), 0, len(path), len(query), 6, len(headers), len(body))
    payload += method + path + query + b"req-42" + headers
    data = wire.frame(wire.REQUEST, 0 if body else wire.END, 1, 2, payload)
    if body:
        data += wire.frame(wire.BODY, wire.END, 1, 2, body)
    return Request(data, wire.CALL.unpack_from(data))


class Parts(unittest.TestCase):
    def test_every_part_is_cut_from_its_place(self):
        request = a_request(b"body", b"PUT", "/caf\u00e9/x".encode(), b"a=1", b"host: h\r\n")
        self.assertEqual(request.method, "PUT")
        self.assertEqual(request.path, "/caf\u00e9/x")
        self.assertEqual(request.query_string, "a=1")
        self.assertEqual(request.request_id, "req-42")
        self.assertEqual(dict(request.headers), {"host": "h"})
        self.assertEqual(request.body, b"body")
        self.assertEqual(request.get_text(), "body")
        self.assertEqual(a_request().body, b"")

    def test_a_path_that_is_not_utf_8_is_readable(self):
        self.assertEqual(a_request(path=b"/\xff").path, "/\ufffd")


class HeaderFields(unittest.TestCase):
    def test_are_found_whatever_the_case(self):
        request = a_request(headers=b"content-type: text/plain\r\nx-empty: \r\nx-colon: a:b\r\n")
        for name in ("content-type", "Content-Type", "CONTENT-TYPE"):
            self.assertEqual(request.headers[name], "text/plain")
            self.assertEqual(request.get_header(name), "text/plain")
            self.assertIn(name, request.headers)
        self.assertEqual(request.headers["x-empty"], "")
        self.assertEqual(request.headers["x-colon"], "a:b")
        self.assertEqual(len(request.headers), 3)

    def test_that_are_absent_have_a_default(self):
        request = a_request()
        self.assertIsNone(request.get_header("x"))
        self.assertEqual(request.get_header("x", "d"), "d")
        self.assertNotIn("x", request.headers)
        self.assertNotIn(7, request.headers)
        with self.assertRaises(KeyError):
            request.headers["x"]

    def test_that_are_repeated_are_joined_and_listed(self):
        headers = a_request(headers=b"a: 1\r\na: 2\r\ncookie: x=1\r\ncookie: y=2\r\n").headers
        self.assertEqual(headers["a"], "1, 2")
        self.assertEqual(headers.getlist("A"), ["1", "2"])
        self.assertEqual(headers["cookie"], "x=1; y=2")
        self.assertEqual(headers.getlist("b"), [])


class Query(unittest.TestCase):
    def test_is_decoded(self):
        cases = {
            b"": {},
            b"a=1&b=2": {"a": "1", "b": "2"},
            b"a": {"a": ""},
            b"a=&&b": {"a": "", "b": ""},
            b"a=b=c": {"a": "b=c"},
            b"a+b=c%20d%2B": {"a b": "c d+"},
            "n=caf%C3%A9".encode(): {"n": "caf\u00e9"},
            b"n=%FF": {"n": "\ufffd"},
            b"n=%&m=%4&o=%zz&p=% 4": {"n": "%", "m": "%4", "o": "%zz", "p": "% 4"},
            b"a=1&a=2": {"a": "2"},
        }
        for query, expected in cases.items():
            self.assertEqual(a_request(query=query).query_params, expected, query)

    def test_lists_repeated_names(self):
        request = a_request(query=b"a=1&a=2")
        self.assertEqual(request.query_params_list("a"), ["1", "2"])
        self.assertEqual(request.query_params_list("b"), [])


class JsonBody(unittest.TestCase):
    def test_is_what_json_loads_makes_of_it(self):
        for body in (b'{"a": [1, 2.5, null, true, "\\u00e9"]}', b" [1] ", b"1", b"NaN", b'"x"', b"\n{}\n",
                     '"caf\u00e9"'.encode(), '{"a":1}'.encode("utf-16"), b"\xef\xbb\xbf{}"):
            # repr, because NaN is unequal to itself.
            self.assertEqual(repr(a_request(body).get_json()), repr(json.loads(body)), body)

    def test_is_none_when_there_is_none(self):
        self.assertIsNone(a_request().get_json())

    def test_raises_a_value_error_when_it_is_something_else(self):
        for body in (b"{", b"{} x", b"'a'", b"\xff", b"[1,]", b" "):
            with self.assertRaises(ValueError, msg=body):
                a_request(body).get_json()

    def test_nested_too_deep_is_a_recursion_error(self):
        with self.assertRaises(RecursionError):
            a_request(b"[" * 20000).get_json()


if __name__ == "__main__":
    unittest.main()
