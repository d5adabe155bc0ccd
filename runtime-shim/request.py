"""What the handler is given and may give back: `Request`, its `Headers`, and `Response`.

A request is one `bytes` and the numbers in its head. Nothing is cut out or decoded before the handler asks for it,
since most handlers use two or three of the ten things that a request offers.
"""

import json
from collections.abc import Mapping

# Where the parts begin: behind the frame header and the fixed part of the request head (`wire.CALL`).
_PARTS_AT = 44
_HEADER_BYTES = 24

_loads = json.loads
_Decoder = json.JSONDecoder()
_scan_once = _Decoder.scan_once


class Headers(Mapping):
    """Header fields by name, whatever the case. A repeated field reads as one value joined by `, ` (RFC 9110)."""

    __slots__ = ("_lists",)

    def __init__(self, block):
        lists = {}
        # Latin-1 maps every byte to a character, so a header in any encoding can be read and re-encoded.
        for line in block.decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                lists.setdefault(name.lower(), []).append(value.strip(" \t"))
        self._lists = lists

    def __getitem__(self, name):
        values = self._lists[name.lower()]
        return values[0] if len(values) == 1 else ("; " if name.lower() == "cookie" else ", ").join(values)

    def __contains__(self, name):
        return isinstance(name, str) and name.lower() in self._lists

    def __iter__(self):
        return iter(self._lists)

    def __len__(self):
        return len(self._lists)

    def __repr__(self):
        return "Headers(%r)" % dict(self)

    def getlist(self, name):
        """All values of a repeated field, in their order; an empty list when there is none."""
        return list(self._lists.get(name.lower(), ()))


class Request:
    """One call. Every attribute is decoded when it is first asked for."""

    __module__ = "faas"
    __slots__ = ("_data", "_head", "_body", "_headers", "_query")

    def __init__(self, data, head, body=None):
        # `data` is the datagram that started the call, `head` its unpacked `wire.CALL`; `body` is given only when it
        # came in datagrams of its own.
        self._data = data
        self._head = head
        self._body = body

    def __repr__(self):
        return "<Request %s %s>" % (self.method, self.path)

    def _part(self, index):
        head = self._head
        lengths = (head[6], head[8], head[9], head[10], head[11])
        start = _PARTS_AT + sum(lengths[:index])
        return self._data[start:start + lengths[index]]

    @property
    def method(self):
        """The method: `GET`, `POST`, …"""
        return self._part(0).decode("latin-1")

    @property
    def path(self):
        """What follows `/invoke/NAME`, percent-decoded; `/` when nothing does."""
        return self._part(1).decode("utf-8", "replace")

    @property
    def query_string(self):
        """The query as it was sent, without `?`."""
        return self._part(2).decode("latin-1")

    @property
    def request_id(self):
        """The id that the answer carries as `X-Request-Id`, and the log."""
        return self._part(3).decode("latin-1")

    @property
    def headers(self):
        """The header fields, a case-insensitive mapping."""
        try:
            return self._headers
        except AttributeError:
            self._headers = Headers(self._part(4))
            return self._headers

    @property
    def body(self):
        """The body as `bytes`."""
        body = self._body
        if body is None:
            head = self._head
            body = self._body = self._data[2 * _HEADER_BYTES + head[0]:] if head[12] else b""
        return body

    @property
    def query_params(self):
        """The query's parameters as a dict; of a repeated name the last value. See `query_params_list`."""
        return {name: values[-1] for name, values in self._parsed_query().items()}

    def query_params_list(self, name):
        """All values of a query parameter, in their order; an empty list when there is none."""
        return list(self._parsed_query().get(name, ()))

    def _parsed_query(self):
        try:
            return self._query
        except AttributeError:
            query = {}
            for pair in self._part(2).split(b"&"):
                if pair:
                    name, _, value = pair.partition(b"=")
                    query.setdefault(_decode_query_part(name), []).append(_decode_query_part(value))
            self._query = query
            return query

    def get_json(self):
        """The body parsed as JSON; None when it is empty. Raises `json.JSONDecodeError` (a ValueError) when it is not
        JSON."""
        body = self.body
        if not body:
            return None
        # What `json.loads` does, without its detection of the encoding and its two regular expressions: they cost as
        # much as parsing a small document. Whatever is unusual is left to `json.loads`, which also raises the errors.
        try:
            text = str(body, "utf-8")
            value, end = _scan_once(text, 0)
            if end == len(text):
                return value
        except (StopIteration, UnicodeDecodeError):
            pass
        return _loads(body)

    def get_text(self):
        """The body as text: UTF-8, invalid sequences replaced."""
        return str(self.body, "utf-8", "replace")

    def get_header(self, name, default=None):
        """One header field, whatever the case of its name."""
        return self.headers.get(name, default)


def _decode_query_part(raw):
    raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        first, *rest = raw.split(b"%")
        pieces = [first]
        for item in rest:
            try:
                # `fromhex` skips white space, which is no hexadecimal digit here.
                if not item[:2].isalnum():
                    raise ValueError
                pieces.append(bytes.fromhex(item[:2].decode("ascii")) + item[2:])
            except ValueError:
                pieces.append(b"%" + item)
        raw = b"".join(pieces)
    return raw.decode("utf-8", "replace")


class Response:
    """An answer with everything said: `Response(body, status=200, headers=None, content_type=None)`.

    A `str` is sent as text (`text/plain; charset=utf-8` unless a content type is given), `bytes` as they are, None as
    an empty body, everything else as JSON. `headers` is a mapping or an iterable of pairs; a value that is a list is
    sent as several fields.
    """

    __module__ = "faas"
    __slots__ = ("body", "status", "headers", "content_type")

    def __init__(self, body=None, status=200, headers=None, content_type=None):
        self.body = body
        self.status = status
        self.headers = headers
        self.content_type = content_type

    def __repr__(self):
        return "<Response %r>" % (self.status,)
