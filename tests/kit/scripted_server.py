"""A process for a stack of the tests: serves HTTP on the loopback, and misbehaves as it is told.

``python -I -S scripted_server.py PORT [WORD]...`` where a word is

- ``unready=N``: its first N answers are 503;
- ``stubborn``: SIGTERM does not end it;
- ``parent``: has a child of its own, whose pid it prints, and which SIGTERM does not end;
- ``dies``: ends with status 3 when it is asked for ``/die``, after it has said why.

``/names`` answers ``{"names": [...]}`` with what was asked for by ``/add/NAME``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

IGNORE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main(port: int, words: list[str]) -> None:
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "parent" in words:
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", IGNORE])
        print(f"child {child.pid}", flush=True)
    (unready,) = [int(w.partition("=")[2]) for w in words if w.startswith("unready=")] or [0]
    names: list[str] = []
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    print(f"serves as {os.environ.get('SCRIPTED_AS')}", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            asked = connection.recv(65536).split(b" ")
            path = asked[1].decode() if len(asked) > 1 else "/"
            if path == "/die":
                print("the script says that it dies now", flush=True)
                os._exit(3)
            if path.startswith("/add/"):
                names.append(path.removeprefix("/add/"))
            status = b"503 Not Yet" if unready else b"200 OK"
            unready = max(0, unready - 1)
            body = json.dumps({"names": names}).encode()
            head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            connection.sendall(head % (status, len(body)) + body)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
