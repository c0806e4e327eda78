"""Registrations that only who knows a shared secret can make.

A signed message is a msgpack map around the bytes of a registration or a goodbye::

    {type: "signed", time, nonce, signature, body}

``time`` is the sender's clock in milliseconds since 1970, ``nonce`` 16 random bytes, ``body`` the
message as it would be sent without a secret. ``signature`` is HMAC-SHA256 with the secret as its
key, over ``DOMAIN``, ``time`` as 8 bytes big-endian, ``nonce`` and ``body``, in this order.

A message is good once: as long as its time would still pass, its nonce is remembered. Bodies are
not encrypted.
"""

from __future__ import annotations

import hmac
from collections import deque
from typing import Annotated

import msgspec

from pd_testkit.proxy.registration import MAX_BYTES, BadRegistration

DOMAIN = b"pd-testkit registration 1\0"
"""What else is signed with the same secret cannot pass for a registration."""

NONCE_BYTES = 16
MIN_SECRET_BYTES = 16

_Time = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
_Mac = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class _Signed(msgspec.Struct, tag_field="type", tag="signed"):
    time: _Time
    nonce: _Nonce
    signature: _Mac
    body: bytes


_decoder = msgspec.msgpack.Decoder(_Signed)


def sign(body: bytes, secret: bytes, now: float, nonce: bytes) -> bytes:
    """The signed message around ``body``.

    Args:
        now: seconds since 1970.
        nonce: 16 bytes that were never used before.
    """
    time = int(now * 1000)
    return msgspec.msgpack.encode(_Signed(time, nonce, _mac(secret, time, nonce, body), body))


class Verifier:
    """Opens signed messages, each of them once.

    Args:
        secret: shared with the engines; at least 16 bytes.
        window_s: how far the sender's clock and this one may be apart, latency included.

    Raises:
        ValueError: the secret is too short.
    """

    def __init__(self, secret: bytes, window_s: float = 30.0) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"a secret has at least {MIN_SECRET_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self._window_ms = int(window_s * 1000)
        self._seen: set[bytes] = set()
        self._until: deque[tuple[int, bytes]] = deque()
        """When a nonce may be forgotten, in ms; in the order in which they came."""

    def open(self, raw: bytes, now: float) -> bytes:
        """The body of a signed message.

        Args:
            now: seconds since 1970.

        Raises:
            BadRegistration: it is not signed, not by this secret, too old, too new, or a replay.
        """
        if len(raw) > MAX_BYTES:
            raise BadRegistration(f"{len(raw)} bytes are more than the {MAX_BYTES} of a message")
        try:
            message = _decoder.decode(raw)
        except (ValueError, RecursionError) as error:
            raise BadRegistration(f"not signed: {error}") from None
        expected = _mac(self._secret, message.time, message.nonce, message.body)
        # Before all else, so that a stranger neither fills the memory nor learns our clock.
        if not hmac.compare_digest(expected, message.signature):
            raise BadRegistration("the signature is not by this proxy's secret")
        now_ms = int(now * 1000)
        apart = now_ms - message.time
        if abs(apart) > self._window_ms:
            raise BadRegistration(f"signed {apart / 1000:.1f} s ago by this proxy's clock")
        self._forget(now_ms)
        if message.nonce in self._seen:
            raise BadRegistration("a replay: this very message has come before")
        self._seen.add(message.nonce)
        # A time ahead of ours may be sent again for two windows.
        self._until.append((now_ms + 2 * self._window_ms, message.nonce))
        return message.body

    def _forget(self, now_ms: int) -> None:
        while self._until and self._until[0][0] < now_ms:
            self._seen.discard(self._until.popleft()[1])


def _mac(secret: bytes, time: int, nonce: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, DOMAIN + time.to_bytes(8, "big") + nonce + body, "sha256")
