"""Requests as ATOM's sequences, and the plain configuration that its schedulers read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

from pd_testkit.contract import EngineSpec, Request, RequestId, Role
from pd_testkit.targets.atom.versions import Version
from pd_testkit.targets.atom.wire import params_of

_NO_TOKEN = -1
"""As the end-of-sequence token: the clauses' tokens never end a sequence."""


class Sequences:
    """The requests of one engine. ATOM numbers them; one process's numbers start anew.

    Args:
        numbers: shared by the DP ranks of one engine, whose requests one process numbers.
    """

    def __init__(
        self, version: Version, block_size: int, numbers: Iterator[int] | None = None
    ) -> None:
        self._version = version
        self._block_size = block_size
        # Not 0: ATOM's Sequence takes an id of 0 for none.
        self._numbers = count(1) if numbers is None else numbers
        self._by_request: dict[RequestId, Any] = {}
        self._requests: dict[int, RequestId] = {}

    def add(self, request: Request) -> Any:
        """A fresh sequence; a request id that is used again names the newest."""
        from atom import SamplingParams
        from atom.model_engine.sequence import Sequence

        sequence = Sequence(
            list(request.prompt),
            self._block_size,
            SamplingParams(max_tokens=request.max_tokens),
            id=next(self._numbers),
            kv_transfer_params=self._params(request),
        )
        self._by_request[request.request_id] = sequence
        self._requests[sequence.id] = request.request_id
        return sequence

    def __getitem__(self, request_id: RequestId) -> Any:
        return self._by_request[request_id]

    def request_id(self, number: int) -> RequestId:
        return self._requests[number]

    def request_id_or_text(self, number: Any) -> RequestId:
        """As `request_id`; what is no number of a request is given as its text."""
        return self._requests.get(number, str(number))

    def numbers(self, request_ids: Iterable[RequestId]) -> list[int]:
        """What ATOM knows the requests by; of a request that it never saw, an unused number."""
        numbers = []
        for request_id in request_ids:
            if request_id in self._by_request:
                numbers.append(self._by_request[request_id].id)
            else:
                numbers.append(next(self._numbers))
        return numbers

    def _params(self, request: Request) -> dict[str, Any] | None:
        if request.source is not None:
            return params_of(self._version, request.source)
        if request.remote_decode:
            return {"do_remote_decode": True, "do_remote_prefill": False}
        return None


def engine_config(spec: EngineSpec) -> Any:
    """What ATOM's schedulers and block manager read of its ``Config``, and no more."""
    return SimpleNamespace(
        kv_cache_block_size=spec.block_size,
        num_kvcache_blocks=spec.num_blocks,
        enable_prefix_caching=spec.prefix_caching,
        enable_chunked_prefill=spec.chunked_prefill,
        max_num_seqs=spec.max_running,
        max_num_batched_tokens=spec.max_batch_tokens,
        max_model_len=spec.block_size * spec.num_blocks,
        long_prefill_token_threshold=0,
        decode_context_parallel_size=1,
        bos_token_id=_NO_TOKEN,
        eos_token_id=_NO_TOKEN,
        stop_token_ids=[],
        scheduler_delay_factor=0.0,
        speculative_config=None,
        # As a pipeline's head: with one stage ATOM's model answers a step late, with more in the
        # step itself, as the contract's `complete` does.
        pipeline_parallel_size=2,
        tensor_parallel_size=spec.tp_size,
        parallel_config=SimpleNamespace(
            data_parallel_size=spec.dp_size, data_parallel_rank=spec.dp_rank
        ),
        kv_transfer_config={
            "kv_connector": "moriio",
            "kv_role": "kv_producer" if spec.role is Role.PRODUCER else "kv_consumer",
            "handshake_port": spec.handshake_port,
        },
    )
