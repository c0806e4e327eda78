"""Drivers of an implementation that must have a process of its own.

`Child` is a Python process that holds drivers; a driver's calls go to it over a socket pair, with
a deadline, as plain data (`wire`). A child that hangs or dies is an error with its log's tail, and
the next driver gets a new one.
"""

from pd_testkit.targets.process.child import Child, ChildGone, RemoteError
from pd_testkit.targets.process.children import Children

__all__ = ["Child", "ChildGone", "Children", "RemoteError"]
