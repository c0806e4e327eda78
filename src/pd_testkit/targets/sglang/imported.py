"""Imports SGLang's transfer backends, before engines are forked. In a child only."""

from __future__ import annotations

import logging

from pd_testkit.targets.sglang import torchvision_stub

torchvision_stub.install()

from sglang.srt.disaggregation.common import conn  # noqa: E402

__all__ = ["conn"]

logging.getLogger().setLevel(logging.INFO)
