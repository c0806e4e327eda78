"""Adapters: what stands between the clauses and an implementation's own classes."""

from pd_testkit.targets.load import BUILT_IN, load, open_target

__all__ = ["BUILT_IN", "load", "open_target"]
