"""What a handler returned, made into a status, a header block and a body; or `BadAnswer`, which says what is wrong.

The serve loop handles `bytes`, and plain JSON values with `encode_json`, by itself; all other forms come through `render`.
"""

import json
import re
from json import encoder as _json_encoder

from request import Response
from wire import RESPONSE_HEADER_BYTES_MAX

JSON_TYPES = frozenset((dict, list, str, int, float, bool, type(None)))
JSON_HEADERS = b"content-type: application/json\r\n"
BYTES_HEADERS = b"content-type: application/octet-stream\r\n"
_TEXT_HEADERS = b"content-type: text/plain; charset=utf-8\r\n"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]").search
# Statuses whose answer has no body, whatever the handler returned with it (RFC 9110).
_BODILESS = frozenset((204, 205, 304))


class BadAnswer(Exception):
    """The handler's answer has no defined form. `kind` is the `type` of the `Error` frame."""

    kind = "bad_answer"


class AnswerTooLarge(BadAnswer):
    """The answer's body is over the limit."""

    kind = "too_large"


def _refuse(value):
    name = type(value).__name__
    if name == "generator":
        raise BadAnswer("a generator is not an answer; return a list or bytes")
    if name == "coroutine":
        value.close()
        raise BadAnswer("the handler returned a coroutine; declare it with `async def` or await what it calls")
    raise BadAnswer("an object of type %.200s is not an answer and has no place in JSON" % name)


def _make_encoder():
    """The C encoder of `json`, made once: `JSONEncoder.encode` makes a new one for every document."""
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_refuse)
    markers = {}
    try:
        chunks = _json_encoder.c_make_encoder(
            markers, _refuse, _json_encoder.encode_basestring, None, ":", ",", False, False, False
        )
        if "".join(chunks({"a": [1, "b"]}, 0)) != '{"a":[1,"b"]}':
            raise TypeError
    except TypeError:
        # No C encoder, or one of another shape than those of 3.8 to 3.13: the public way does the same, slower.
        return lambda value, _level: (plain.encode(value),), markers
    return chunks, markers


_chunks, _markers = _make_encoder()
_escaping = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=_refuse)


def encode_json(value, _chunks=_chunks, _join="".join):
    """The value as JSON in UTF-8. Raises `BadAnswer`, or what the value's own methods raise."""
    try:
        return _join(_chunks(value, 0)).encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8. As `\\udXXX` it survives, so this document is written in ASCII.
        return _escaping.encode(value).encode()
    except BadAnswer:
        _markers.clear()
        raise
    except RecursionError:
        # What was being visited when the encoder failed would look like a cycle to the next call.
        _markers.clear()
        raise BadAnswer("the answer is nested too deep for JSON") from None
    except (TypeError, ValueError, OverflowError) as error:
        _markers.clear()
        raise BadAnswer("the answer is not JSON: %.300s" % _words(error)) from None
    except BaseException:
        _markers.clear()
        raise


def _words(error):
    try:
        return str(error)
    except BaseException:
        return type(error).__name__


def render(answer):
    """`(status, header block, body)` of anything a handler may return."""
    status, headers, content_type, as_text = 200, None, None, False
    if isinstance(answer, Response):
        answer, status, headers, content_type = answer.body, answer.status, answer.headers, answer.content_type
        as_text = True
    elif isinstance(answer, tuple):
        if len(answer) == 2:
            answer, status = answer
        elif len(answer) == 3:
            answer, status, headers = answer
        else:
            raise BadAnswer("a tuple is (body, status) or (body, status, headers), not %d values" % len(answer))
    status = _check_status(status)
    block, declared_type = _header_block(headers, content_type)
    if status in _BODILESS:
        return status, block, b""
    if isinstance(answer, str) and (as_text or (declared_type is not None and "json" not in declared_type)):
        # A declared content type other than JSON means that the text itself is the body: HTML, CSV, …
        body, default = answer.encode("utf-8", "replace"), _TEXT_HEADERS
    elif isinstance(answer, (bytes, bytearray, memoryview)):
        body, default = bytes(answer), BYTES_HEADERS
    elif answer is None and as_text:
        body, default = b"", b""
    else:
        body, default = encode_json(answer), JSON_HEADERS
    return status, block if declared_type is not None else default + block, body


def _check_status(status):
    if not isinstance(status, int) or isinstance(status, bool):
        raise BadAnswer("the status is of type %.200s, not an int" % type(status).__name__)
    if not 200 <= status <= 599:
        raise BadAnswer("the status is %.40s, not within 200 to 599" % (int(status) if abs(status) < 1 << 64 else "huge"))
    return int(status)


def _header_block(headers, content_type):
    """The header lines and the declared content type in lower case, None when there is none."""
    lines = []
    declared_type = None
    if content_type is not None:
        declared_type = _add_header(lines, "content-type", content_type).lower()
    for name, value in _pairs(headers):
        if isinstance(name, str) and name.lower() == "content-type":
            if declared_type is not None:
                continue
            declared_type = _add_header(lines, name, value).lower()
        elif isinstance(value, (list, tuple)):
            for item in value:
                _add_header(lines, name, item)
        else:
            _add_header(lines, name, value)
    block = "".join(lines).encode("utf-8")
    if len(block) > RESPONSE_HEADER_BYTES_MAX - 64:
        raise BadAnswer("the headers take %d bytes, the limit is %d" % (len(block), RESPONSE_HEADER_BYTES_MAX - 64))
    return block, declared_type


def _pairs(headers):
    if headers is None:
        return ()
    items = getattr(headers, "items", None)
    try:
        return [(name, value) for name, value in (items() if items is not None else headers)]
    except (TypeError, ValueError):
        raise BadAnswer("the headers are neither a mapping nor pairs") from None


def _add_header(lines, name, value):
    if not isinstance(name, str) or not _TOKEN(name):
        raise BadAnswer("a header name is not a token: %.100s" % ascii(name)[:100])
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        raise BadAnswer("the value of header %.100s is of type %.100s, not str" % (name, type(value).__name__))
    value = value.strip(" \t")
    if _CONTROL(value):
        raise BadAnswer("the value of header %.100s holds a control character" % name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadAnswer("the value of header %.100s holds a lone surrogate" % name) from None
    lines.append("%s: %s\r\n" % (name, value))
    return value
