"""The proxy's log: one line per request or event, of JSON or of text.

Lines hold ids, addresses, times and counts; never a header field, a key or a part of a prompt.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, BinaryIO, Literal

import msgspec

Form = Literal["json", "text"]

FLUSH_BYTES = 64 * 1024
"""So much is gathered at most between two writes."""

_encode = msgspec.json.Encoder().encode


class Log:
    """Gathers lines, and writes them when it is flushed or full.

    ``stream``: unbuffered or not, it is flushed after each write. A stream that breaks (a closed
    pipe) ends the log, not the proxy.
    """

    def __init__(self, stream: BinaryIO, form: Form = "json") -> None:
        self._stream: BinaryIO | None = stream
        self._form = form
        self._lock = threading.Lock()
        """Registrations are logged by a thread of their own."""
        self._lines: list[bytes] = []
        self._size = 0

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Add a line; ``fields`` that are None are left out of a text line."""
        if self._stream is None:
            return
        now = time.time()
        if self._form == "json":
            line = _encode({"time": round(now, 3), "event": event, **fields}) + b"\n"
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(now))
            words = [f"{name}={value}" for name, value in fields.items() if value not in (None, "")]
            line = " ".join([clock, event, *words]).encode() + b"\n"
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
        if self._size > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._stream is None or not self._lines:
            return
        with self._lock:
            data = b"".join(self._lines)
            self._lines.clear()
            self._size = 0
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError:  # whoever read the log is gone
            self._stream = None


class LogHandler(logging.Handler):
    """Takes in what other modules log, without tracebacks."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = record.exc_info[0].__name__
        self._log.write("message", fields)
