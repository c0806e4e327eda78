"""The engine's OpenAI server and its ``kv_transfer_params``."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class ServerSuite(Suite):
    """The engine's OpenAI server and its ``kv_transfer_params``."""

    unit = Unit.SERVER
