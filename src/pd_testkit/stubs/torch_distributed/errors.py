"""The errors of torch.distributed, with torch's own inheritance."""

from __future__ import annotations


class DistError(RuntimeError):
    """Base of the errors below."""


class DistBackendError(DistError):
    """A collective or a transfer cannot complete: a rank is missing, dead, or elsewhere."""


class DistNetworkError(DistError):
    """A store cannot be reached or its port is taken."""


class DistStoreError(DistError):
    """A key did not appear in time."""
