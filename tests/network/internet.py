"""The rest of the world, for functions that reach out: run in a network namespace of its own, on all its addresses.

Port 80 answers HTTP with the path (and /accepted with the addresses at which connections arrived), 7 echoes, 53 is a
name server over TCP that knows one name, 81 never takes a connection. Says "ready" when all of them listen.
"""

import http.server
import json
import socket
import socketserver
import struct
import sys
import threading

NAME, ADDRESS = "internet.test", "11.0.113.2"
ACCEPTED = []


class Dual:
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self):
        connection, peer = super().get_request()
        ACCEPTED.append(connection.getsockname()[0].replace("::ffff:", ""))
        return connection, peer


class Http(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(ACCEPTED if self.path == "/accepted" else {"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while True:
            data = self.request.recv(4096)
            if not data:
                return
            self.request.sendall(data)


class Names(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            query = self.rfile.read(struct.unpack(">H", head)[0])
            answer = self.answer(query)
            self.wfile.write(struct.pack(">H", len(answer)) + answer)

    def answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12:at + 5]
        kind = struct.unpack(">H", query[at + 1:at + 3])[0]
        known = ".".join(labels) == NAME
        records = b""
        if known and kind == 1:
            records = struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(ADDRESS)
        flags = 0x8180 if known else 0x8183
        return query[:2] + struct.pack(">HHHHH", flags, 1, 1 if records else 0, 0, 0) + question + records


def serve(server, port, handler):
    made = type("Server", (Dual, server), {})(("::", port), handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()


def deaf(port):
    """A queue that is full: the kernel drops what else asks to connect."""
    listener = socket.socket()
    listener.bind(("0.0.0.0", port))
    listener.listen(0)
    clients = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        clients.append(client)
    return listener, clients


def main():
    serve(http.server.ThreadingHTTPServer, 80, Http)
    serve(socketserver.ThreadingTCPServer, 7, Echo)
    serve(socketserver.ThreadingTCPServer, 53, Names)
    kept = deaf(81)
    print("ready", flush=True)
    sys.stdin.read()
    del kept


main()
