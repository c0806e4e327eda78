"""Imports SGLang's transfer backends, before engines are forked. In a child only."""

from __future__ import annotations

import importlib
import logging
from contextlib import suppress

from pd_testkit.targets.sglang import torchvision_stub

torchvision_stub.install()

from sglang.srt.disaggregation.common import conn  # noqa: E402

__all__ = ["conn"]

# What completes an engine's arguments, which each engine would import. Another SGLang may have it
# elsewhere, and its engines do so.
for _name in ("pipeline", "resolution_hooks"):
    with suppress(ModuleNotFoundError):
        importlib.import_module(f"sglang.srt.arg_groups.{_name}")

logging.getLogger().setLevel(logging.INFO)
