"""A small router of SGLang's kind, with faults: ``FAULT --port N --p URL PORT --d URL``."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

parser = argparse.ArgumentParser()
parser.add_argument("fault")
parser.add_argument("--port", type=int)
parser.add_argument("--p", nargs=2)
parser.add_argument("--d")
parser.add_argument("--retries", help="there are none")
args = parser.parse_args()
numbers = itertools.count(1)


def connected(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    timeout_s = 2 if args.fault == "other room" else 60
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    connection.connect()
    return connection


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        room = 1 if args.fault == "one room" else next(numbers)
        host, port = "127.0.0.1", int(args.p[1]) + (args.fault == "wrong port")
        body |= {"bootstrap_host": host, "bootstrap_port": port, "bootstrap_room": room}
        other = {"bootstrap_room": room + 1000} if args.fault == "other room" else {}
        p, d = connected(args.p[0]), connected(args.d)
        to_d = d.sock
        said: list[tuple[int, bytes]] = []
        decodes = threading.Thread(target=lambda: said.append(self.ask(d, body | other)))
        decodes.start()
        refused = self.ask(p, body)
        if refused[0] != 200 and args.fault == "leaves D":
            said.append(refused)
        else:
            if refused[0] != 200 and args.fault not in ("waits for D", "one room"):
                with contextlib.suppress(OSError):  # D may have answered, and hung up itself
                    to_d.shutdown(socket.SHUT_RDWR)
            decodes.join()
        status, answer = said[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def ask(self, engine: http.client.HTTPConnection, body: object) -> tuple[int, bytes]:
        try:
            engine.request("POST", self.path, json.dumps(body))
            answer = engine.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 502, b"{}"

    def log_message(self, *args: object) -> None:
        """Says nothing."""


ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
