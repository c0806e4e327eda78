"""A small router of SGLang's kind, with faults: ``FAULT --port N --p URL PORT --d URL``."""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

parser = argparse.ArgumentParser()
parser.add_argument("fault")
parser.add_argument("--port", type=int)
parser.add_argument("--p", nargs=2)
parser.add_argument("--d")
args = parser.parse_args()
numbers = itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        room = 1 if args.fault == "one room" else next(numbers)
        host, port = "127.0.0.1", int(args.p[1]) + (args.fault == "wrong port")
        body |= {"bootstrap_host": host, "bootstrap_port": port, "bootstrap_room": room}
        first = threading.Thread(target=self.ask, args=(args.p[0], body))
        first.start()
        if args.fault == "other room":
            body = {**body, "bootstrap_room": room + 1000}
        status, answer = self.ask(args.d, body)
        first.join()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def ask(self, url: str, body: object) -> tuple[int, bytes]:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=2)
        try:
            connection.request("POST", self.path, json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 502, b"{}"
        finally:
            connection.close()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
