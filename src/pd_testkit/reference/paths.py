"""ZMQ endpoints."""

from __future__ import annotations


def zmq_path(scheme: str, host: str, port: int | None = None) -> str:
    """``scheme://host:port``; an IPv6 host is put in brackets (RFC 3986, 3.2.2).

    Without a port ``host`` is taken as it is, for ``ipc`` and ``inproc``.
    """
    if port is None:
        return f"{scheme}://{host}"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{scheme}://{host}:{port}"
