"""Options as attributes: ``socket.linger = 0`` is ``socket.set(zmq.LINGER, 0)``."""

from __future__ import annotations

from typing import Any

from pd_testkit.stubs.zmq.constants import SocketOption
from pd_testkit.stubs.zmq.error import ZMQError


class AttributeSetter:
    """For classes that list their plain attributes in ``_plain`` (or define them)."""

    _plain: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._plain or hasattr(type(self), name):
            object.__setattr__(self, name, value)
            return
        self._set_option(self._option(name), value)

    def __getattr__(self, name: str) -> Any:
        # Only what is not found otherwise comes here.
        if name.startswith("__"):
            raise AttributeError(name)
        option = self._option(name)
        try:
            return self._get_option(option)
        except KeyError:
            raise AttributeError(name) from None
        except ZMQError as error:
            raise AttributeError(f"{name}: {error}") from error

    def _option(self, name: str) -> SocketOption:
        try:
            return SocketOption[name.upper()]
        except KeyError:
            raise AttributeError(
                f"pd-testkit's zmq: {type(self).__name__} has no option {name.upper()!r}"
            ) from None

    def _set_option(self, option: SocketOption, value: Any) -> None:
        raise AttributeError(f"{option.name} cannot be set here")

    def _get_option(self, option: SocketOption) -> Any:
        raise AttributeError(f"{option.name} cannot be read here")
