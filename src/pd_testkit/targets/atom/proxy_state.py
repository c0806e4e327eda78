"""What ATOM's ``proxy.py`` keeps in its module: who registered, and whose turn it is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pd_testkit.contract import Instance, Role

PATH = "/v1/completions"
"""What a worker appends to its address when it registers."""


@contextmanager
def fresh(proxy: Any) -> Iterator[None]:
    """The module as in a new process; it is so again afterwards."""
    proxy.logger.addFilter(_without_frames)
    _forget(proxy)
    try:
        yield
    finally:
        _forget(proxy)
        proxy.logger.removeFilter(_without_frames)


def register(proxy: Any, instance: Instance) -> bool:
    """The message of a worker's ping, given on as ``_listen_for_register`` does."""
    producer = instance.role is Role.PRODUCER
    message = {
        "type": "register",
        "role": "P" if producer else "D",
        "index": str(instance.heartbeat),
        "request_address": instance.url + PATH,
        "handshake_port": instance.handshake_port,
        "dp_size": instance.dp_size,
        "tp_size": instance.tp_size,
        "transfer_mode": instance.transfer_mode,
    }
    with proxy._list_lock:
        known = proxy.prefill_instances if producer else proxy.decode_instances
        return bool(proxy._append_whole_dict_unique(known, message))


@contextmanager
def sessions_left_open() -> Iterator[None]:
    """The proxy leaves its client session open when D cannot be reached: this drops it unheard.

    It would be heard of at some later time otherwise, by whichever test runs then.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def _forget(proxy: Any) -> None:
    proxy.prefill_instances.clear()
    proxy.decode_instances.clear()
    proxy.request_nums = 0
    proxy.TRANSFER_TYPE = None


def _without_frames(record: logging.LogRecord) -> bool:
    """Keeps the text of a logged exception, and not its frames: they hold what ATOM left open."""
    if record.exc_info:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
        record.msg, record.args = record.getMessage(), None
    return True
