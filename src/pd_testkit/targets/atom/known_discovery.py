"""What is known to be wrong with ATOM's proxy's registrations."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause
from pd_testkit.targets.atom.versions import DISAGGREGATION

_LISTEN = f"{DISAGGREGATION}.proxy:_listen_for_register"
_APPEND = f"{DISAGGREGATION}.proxy:_append_whole_dict_unique"

COMMON: tuple[Cause, ...] = ()

PR253: tuple[Cause, ...] = (
    (
        _APPEND,
        "appends a record that differs in anything but its index from those that are there",
        ("DSC-005",),
    ),
    (
        _APPEND,
        "appends the instance, and then raises for its transfer mode, which ends the thread",
        ("DSC-013",),
    ),
    (
        _LISTEN,
        "looks at no clock: nothing that was ever registered leaves the lists",
        ("DSC-008", "DSC-009"),
    ),
    (
        _LISTEN,
        "looks at type and role only, and keeps a record whatever else is in it",
        ("DSC-017", "DSC-018"),
    ),
    (
        _LISTEN,
        "takes the keys 'type' and 'role' for granted: a KeyError or a TypeError ends the thread",
        ("DSC-016", "DSC-019"),
    ),
    (
        _LISTEN,
        "catches nothing: what msgpack raises ends the thread",
        ("DSC-020", "DSC-021", "DSC-022", "DSC-024", "DSC-025"),
    ),
    (
        _LISTEN,
        "unpacks a message as two frames: any other number, as ZMQ reads out of an HTTP request "
        "too, ends the thread",
        ("DSC-023", "DSC-026"),
    ),
)

MORIIO: tuple[Cause, ...] = ()
