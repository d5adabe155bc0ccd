"""The benchmark's handler for the peers, as WSGI and as ASGI, and the one line that starts bjoern.

The peers do less than faas: they check no key, isolate nothing, and start no process. That favours them, and is meant.
The answer is the same, byte for byte the work of `json`: the body parsed and serialised again.
"""

import json
import sys


def wsgi(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    answer = json.dumps({"message": "Hello, World!", "data": json.loads(body)}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    event = await receive()
    body = event["body"]
    while event.get("more_body"):
        event = await receive()
        body += event["body"]
    answer = json.dumps({"message": "Hello, World!", "data": json.loads(body)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    import bjoern

    bjoern.run(wsgi, "127.0.0.1", int(sys.argv[1]))
