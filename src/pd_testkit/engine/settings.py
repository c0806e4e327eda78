"""How one engine behaves. All of it is fixed at the start."""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("both", "prefill", "decode")
TRANSPORTS = ("shm", "zmq", "nixl", "mooncake")
"""How KV moves between engines; see `pd_testkit.engine.transports`."""
LAYOUTS = ("NHD", "HND")
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Settings:
    """Sizes in tokens, blocks or bytes; times in seconds.

    Raises:
        ValueError: a value is none of the choices, or out of its range.
    """

    model: str = "tiny"
    """Of `shape.SHAPES`, or the folder of a Hugging Face causal LM."""
    served_model_name: str = ""
    """What clients call it; empty: as ``model``."""
    seed: int = 0
    """Of the weights."""
    dtype: str = "float64"
    device: str = "cpu"
    """As torch names it."""
    role: str = "both"
    """Of `ROLES`: a prefill engine hands KV off, a decode engine takes it; ``both`` does either."""

    tp_size: int = 1
    dp_size: int = 1
    block_size: int = 16
    num_blocks: int = 2048
    """Of each data-parallel rank."""
    layout: str = "NHD"
    prefix_caching: bool = True
    chunked_prefill: bool = True
    max_running: int = 64
    max_batch_tokens: int = 2048
    """Of one step."""

    transport: str = "shm"
    writes: bool = False
    """P writes into D's memory, in place of D reading P's."""
    kv_digest: bool = False
    """D asks P for digests of what it loaded, and takes nothing that differs."""
    recompute_failed: bool = False
    """A request whose KV could not be had is computed here; else it ends with an error."""
    hold_s: float = 120.0
    """For which P keeps blocks that no D comes for."""
    transfer_s: float = 30.0
    """For which a peer may be silent, and a transfer under way."""
    host: str = "127.0.0.1"
    side_channel_port: int = 0
    """Of DP rank 0's TP rank 0; the others follow. 0: any that are free."""

    def __post_init__(self) -> None:
        choices = {"role": ROLES, "transport": TRANSPORTS, "layout": LAYOUTS, "dtype": DTYPES}
        for name, of in choices.items():
            if getattr(self, name) not in of:
                raise ValueError(f"{name} {getattr(self, name)!r}; choose of {', '.join(of)}")
        for name in ("block_size", "num_blocks", "max_running", "max_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: it must be at least 1")
        for name in ("tp_size", "dp_size"):
            if not 1 <= getattr(self, name) <= 8:
                raise ValueError(f"{name} {getattr(self, name)}: it must lie in [1, 8]")
        for name in ("hold_s", "transfer_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: it must be above 0")

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.served_model_name or self.model
