"""What a request's two ways cost: over P, or straight to D.

Seconds until D has the prompt's KV, for a prompt of ``N`` tokens of which D has ``C`` cached and P
``K``; and those by which others' answers come later, as D decodes nothing while it prefills::

    over P:  (Qp + N - K) * p  +  (N - C) * t  +  h
    direct:  (Qd + N - C) * p / r  +  i * R * (N - C) * p / r

    Qp, Qd  prompt tokens that wait for P's, D's prefill, or are in it
    R       requests on D, those whose KV is still to come included: they decode soon
    p       seconds per token of P's prefill
    t       seconds per token of the transfer: bytes of KV per token / bytes per second
    h       seconds of the way over P on top (`Settings.hop_s`)
    r       D's prefill rate as a share of P's (`Settings.decode_prefill_ratio`)
    i       how much of the others' delay counts (`Settings.decode_interference`)

``p`` and ``t`` are measured, as the proxy sees them: P's answer took ``(Qp + N - K) * p + h``; D's
first byte took ``(N - C) * t``, its own waiting and its first step included. D's rate is not
measured but tied to P's: a D that once seemed slow would get no direct turn any more to show that
it is not. ``N`` is an estimate by the prompt's length; ``C`` and ``K`` are what D and P had of the
conversation's turns before, D its answers, too, where they were streamed. Both ways end in the same
decode, which is left out.

Each request goes the way that costs all of them the least, and not itself alone: if each took its
own quickest way, all that D does would be to prefill, and every answer there would crawl. So the
mode holds its own in mean latency from end to end. In mean time to first token it need not: there a
prefill on a busy D costs nothing, as it is the others who wait.
"""

from __future__ import annotations

from pd_testkit.proxy.settings import Settings

_PRIOR_TOKENS = 1000.0
_KEPT = 0.9


class Pace:
    """Seconds per token, over the samples of late: each counts 0.9 times as much as the next one,
    and as much as it has tokens.

    Args:
        seconds_per_token: before the first sample; weighs as much as one of 1000 tokens.
    """

    def __init__(self, seconds_per_token: float) -> None:
        self._tokens = _PRIOR_TOKENS
        self._seconds = _PRIOR_TOKENS * seconds_per_token

    @property
    def seconds_per_token(self) -> float:
        return self._seconds / self._tokens

    def observe(self, tokens: int, seconds: float) -> None:
        """So many tokens took so long."""
        self._tokens = self._tokens * _KEPT + tokens
        self._seconds = self._seconds * _KEPT + seconds


class CostModel:
    """The formula above, with what was measured so far."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefill = Pace(1 / settings.prefill_tokens_per_s)
        self._transfer = Pace(settings.kv_bytes_per_token / settings.transfer_bytes_per_s)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """P answered after ``seconds``, with so many tokens to compute when it was asked."""
        self._prefill.observe(tokens, max(0.0, seconds - self._settings.hop_s))

    def transferred(self, tokens: int, seconds: float) -> None:
        """D, which fetched the KV of so many tokens, began its answer."""
        if tokens:
            self._transfer.observe(tokens, seconds)

    @property
    def transfer_bytes_per_s(self) -> float:
        """As measured; inf where transfers took no time."""
        pace = self._transfer.seconds_per_token
        return self._settings.kv_bytes_per_token / pace if pace else float("inf")

    def over_prefill_s(self, new_to_p: int, new_to_d: int, queued: int) -> float:
        """Seconds by way of a P on which ``queued`` tokens wait."""
        return (
            (queued + new_to_p) * self._prefill.seconds_per_token
            + new_to_d * self._transfer.seconds_per_token
            + self._settings.hop_s
        )

    def direct_s(self, new_to_d: int, queued: int, requests: int) -> float:
        """Seconds on a D with so many requests, on which ``queued`` tokens wait."""
        pace = self._prefill.seconds_per_token / self._settings.decode_prefill_ratio
        return (queued + new_to_d * (1 + self._settings.decode_interference * requests)) * pace
