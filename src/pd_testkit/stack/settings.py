"""What a deployment is to be: one model of its flags, environment variables and TOML keys.

The variables' names are those of vLLM's scripts for P/D tests, of vllm-router's, and of testbeds
that were made of vLLM's P2P-NCCL example, so that what was written for them works here.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, StringConstraints

CONNECTORS = {
    "nixl": "NixlConnector",
    "p2p_nccl": "P2pNcclConnector",
    "moriio": "MoRIIOConnector",
    "mooncake": "MooncakeConnector",
    "lmcache": "LMCacheConnectorV1",
    "offloading": "OffloadingConnector",
    "multi": "MultiConnector",
}
"""By the names that ``--connector`` takes; what vLLM calls them is taken as well."""


@dataclass(frozen=True)
class Named:
    """A setting's place in the help, and the environment variables that set it.

    Attributes:
        allowed: which values are, where its type does not say it.
    """

    section: str
    variables: tuple[str, ...]
    allowed: str = ""


def _named(section: str, *variables: str, allowed: str = "") -> Named:
    return Named(section, variables, allowed)


def _connector(given: Any) -> Any:
    names = {name.lower(): short for short, name in CONNECTORS.items()}
    names["lmcacheconnector"] = "lmcache"
    return names.get(given.lower(), given) if isinstance(given, str) else given


def _indices(given: Any) -> Any:
    """``0,1`` and ``0`` and ``[0, 1]``."""
    if isinstance(given, str):
        return tuple(part.strip() for part in given.split(","))
    return (given,) if isinstance(given, int) else given


def _words(given: Any) -> Any:
    return tuple(shlex.split(given)) if isinstance(given, str) else given


def _one_model(given: Any) -> Any:
    if isinstance(given, str) and (not given.strip() or given.split() != [given] or "," in given):
        raise ValueError("one model")
    return given


def _one_address(given: Any) -> Any:
    if isinstance(given, str) and (given.split() != [given] or given in ("0.0.0.0", "::", "[::]")):  # noqa: S104
        raise ValueError("one address")
    return given


Count = Annotated[int, Ge(1), Le(64)]
Size = Annotated[int, Ge(1), Le(8)]
Block = Annotated[int, Ge(1), Le(4096)]
Port = Annotated[int, Ge(0), Le(65535)]
Share = Annotated[float, Gt(0), Le(1)]
Seconds = Annotated[float, Gt(0), Le(86400)]
Layout = Literal["HND", "NHD"]
Gpus = Annotated[tuple[Annotated[int, Ge(0)], ...], BeforeValidator(_indices)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]

_GPUS = "GPU indices such as 0 or 0,1"
_ARGUMENTS = "arguments as a shell parts them, or a list of strings"


Role = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Leg:
    """The engines of one role; see the fields of `Settings`."""

    role: Role
    count: int
    tp: int
    dp: int
    block_size: int
    kv_layout: str
    port: int
    side_port: int
    gpus: tuple[int, ...] | None
    gpu_memory_utilization: float
    wait: float
    args: tuple[str, ...]


class Settings(BaseModel):
    """See each field. A port that is 0 is any that is free."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    engine: Annotated[Literal["cpu", "vllm"], _named("Deployment", "PD_ENGINE")] = "cpu"
    """The kit's own engine, or vLLM's."""
    runner: Annotated[Literal["local", "docker", "ray"], _named("Deployment", "PD_RUNNER")] = (
        "local"
    )
    """Processes of this machine, containers, or a Ray cluster."""
    router: Annotated[
        Literal["pd-testkit", "vllm-router", "sglang-router"], _named("Deployment", "PD_ROUTER")
    ] = "pd-testkit"
    """What stands in front of the engines."""
    connector: Annotated[
        Literal["nixl", "p2p_nccl", "moriio", "mooncake", "lmcache", "offloading", "multi"],
        BeforeValidator(_connector),
        _named("Deployment", "PD_CONNECTOR", "KV_CONNECTOR"),
    ] = "nixl"
    """vLLM's connector, by this name or its own; of a cpu engine the protocol that it speaks."""
    model: Annotated[
        str,
        BeforeValidator(_one_model),
        _named("Deployment", "MODEL_NAMES", "MODEL", allowed="the name or the folder of one model"),
    ] = ""
    """What the engines serve. [default: tiny; of vllm engines meta-llama/Llama-3.2-1B-Instruct]"""
    served_model_name: Annotated[str, _named("Deployment", "SERVED_MODEL_NAME")] = ""
    """What clients call it. [default: as --model]"""

    prefill: Annotated[Count, _named("Engines", "NUM_PREFILL_INSTANCES")] = 1
    """Prefill engines."""
    decode: Annotated[Count, _named("Engines", "NUM_DECODE_INSTANCES")] = 1
    """Decode engines."""
    prefill_tp: Annotated[Size, _named("Engines", "PREFILLER_TP_SIZE")] = 1
    """Tensor-parallel ranks of a prefill engine."""
    decode_tp: Annotated[Size, _named("Engines", "DECODER_TP_SIZE")] = 1
    """Of a decode engine."""
    prefill_dp: Annotated[Size, _named("Engines", "PREFILLER_DP_SIZE")] = 1
    """Data-parallel ranks of a prefill engine."""
    decode_dp: Annotated[Size, _named("Engines", "DECODER_DP_SIZE")] = 1
    """Of a decode engine."""
    prefill_block_size: Annotated[Block | None, _named("Engines", "PREFILL_BLOCK_SIZE")] = None
    """Tokens of a KV block. [default: 16; of vllm engines 128]"""
    decode_block_size: Annotated[Block | None, _named("Engines", "DECODE_BLOCK_SIZE")] = None
    """The same of decode engines."""
    prefill_kv_layout: Annotated[Layout, _named("Engines", "PREFILLER_KV_LAYOUT")] = "HND"
    """Order of heads and tokens in a prefill engine's KV cache."""
    decode_kv_layout: Annotated[Layout, _named("Engines", "DECODER_KV_LAYOUT")] = "HND"
    """In a decode engine's."""
    transfer_mode: Annotated[Literal["read", "write"], _named("Engines", "PD_TRANSFER_MODE")] = (
        "read"
    )
    """D reads P's KV, or P writes it to D. Of cpu engines and moriio."""
    prefill_args: Annotated[Words, _named("Engines", "PREFILL_EXTRA_ARGS", allowed=_ARGUMENTS)] = ()
    """More arguments of each prefill engine's command."""
    decode_args: Annotated[Words, _named("Engines", "DECODE_EXTRA_ARGS", allowed=_ARGUMENTS)] = ()
    """Of each decode engine's."""
    router_args: Annotated[Words, _named("Engines", "ROUTER_EXTRA_ARGS", allowed=_ARGUMENTS)] = ()
    """Of the router's."""

    host: Annotated[
        str,
        BeforeValidator(_one_address),
        _named("Addresses", "SRV_IP", allowed="one address of this machine"),
    ] = "127.0.0.1"
    """Where all of them listen."""
    router_port: Annotated[Port, _named("Addresses", "ROUTER_PORT", "PROXY_HTTP_PORT")] = 10001
    """Where clients ask."""
    prefill_port: Annotated[Port, _named("Addresses", "PREFILL_BASE_PORT", "PROD_HTTP_PORT")] = 8100
    """HTTP of the first prefill engine; the others follow."""
    decode_port: Annotated[Port, _named("Addresses", "DECODE_BASE_PORT", "CONS_HTTP_PORT")] = 8200
    """HTTP of the first decode engine; the others follow."""
    prefill_side_port: Annotated[Port, _named("Addresses", "PROD_ZMQ_PORT")] = 14580
    """Where the first prefill engine's connector listens; its ranks and the others' follow."""
    decode_side_port: Annotated[Port, _named("Addresses", "CONS_ZMQ_PORT")] = 15580
    """The same of decode engines."""
    discovery_port: Annotated[Port, _named("Addresses", "PROXY_ZMQ_PORT")] = 30002
    """Where engines register that do so: those of p2p_nccl and moriio."""
    metrics_port: Annotated[Port, _named("Addresses", "ROUTER_METRICS_PORT")] = 29000
    """Prometheus, of vllm-router and sglang-router."""
    api_key: Annotated[SecretStr, _named("Addresses", "OPENAI_API_KEY", allowed="a key")] = (
        SecretStr("sk-noop")
    )
    """What clients send, and vllm-router sends to the engines. Rather by the environment: others
    see flags. [default: sk-noop]"""

    prefill_wait: Annotated[Seconds, _named("Times", "PROD_WAIT")] = 120.0
    """Seconds that a prefill engine may take to be ready."""
    decode_wait: Annotated[Seconds, _named("Times", "CONS_WAIT")] = 120.0
    """A decode engine."""
    router_wait: Annotated[Seconds, _named("Times", "ROUTER_WAIT")] = 60.0
    """The router, to know all of them."""

    transport: Annotated[
        Literal["shm", "zmq", "nixl", "mooncake"], _named("cpu engines", "PD_TRANSPORT")
    ] = "shm"
    """How KV moves between them."""
    kv_digest: Annotated[bool, _named("cpu engines", "PD_KV_DIGEST")] = False
    """D checks what it loads against P's digests."""
    dtype: Annotated[Literal["float64", "float32"], _named("cpu engines", "PD_DTYPE")] = "float64"
    """Of the arithmetic."""
    seed: Annotated[int, Ge(0), _named("cpu engines", "PD_SEED")] = 0
    """Of the weights."""

    gpu_memory_utilization: Annotated[Share, _named("vllm engines", "GPU_MEMORY_UTILIZATION")] = 0.6
    """Share of a GPU's memory."""
    prefill_gpu_memory_utilization: Annotated[Share | None, _named("vllm engines", "PROD_UTIL")] = (
        None
    )
    """Of a prefill engine. [default: as --gpu-memory-utilization]"""
    decode_gpu_memory_utilization: Annotated[Share | None, _named("vllm engines", "CONS_UTIL")] = (
        None
    )
    """Of a decode engine. [default: as --gpu-memory-utilization]"""
    prefill_gpus: Annotated[Gpus | None, _named("vllm engines", "PROD_GPU", allowed=_GPUS)] = None
    """Of all prefill engines, in order. [default: from 0]"""
    decode_gpus: Annotated[Gpus | None, _named("vllm engines", "CONS_GPU", allowed=_GPUS)] = None
    """Of all decode engines, in order. [default: those that follow]"""
    kv_buffer_device: Annotated[
        Literal["cuda", "cpu"], _named("vllm engines", "KV_BUFFER_DEVICE")
    ] = "cuda"
    """Where nixl's transfers begin and end."""
    flashinfer: Annotated[bool, _named("vllm engines", "TEST_FLASHINFER")] = False
    """FlashInfer's attention."""
    enforce_eager: Annotated[bool, _named("vllm engines", "PD_ENFORCE_EAGER")] = True
    """Neither torch.compile nor CUDA graphs: the testbeds' safe mode."""
    cache_dir: Annotated[str, _named("vllm engines", "CACHE_DIR", allowed="a folder")] = ""
    """Where models are downloaded to. [default: vLLM's]"""
    lmcache_url: Annotated[
        str, _named("vllm engines", "LMCACHE_REMOTE_URL", allowed="lm://HOST:PORT or the like")
    ] = ""
    """Of the store in which P and D meet; of lmcache."""
    offload_dir: Annotated[str, _named("vllm engines", "PD_OFFLOAD_DIR", allowed="a folder")] = ""
    """Folder in which P and D meet; of offloading."""
    offload_gib: Annotated[float, Gt(0), _named("vllm engines", "PD_OFFLOAD_GIB")] = 4.0
    """GiB of each engine's memory for KV; of offloading and multi."""

    docker_image: Annotated[str, _named("Docker", "VLLM_DOCKER_IMAGE")] = "vllm/vllm-openai:latest"
    """vLLM's."""
    docker_subnet: Annotated[
        str,
        StringConstraints(pattern=r"^\d{1,3}\.\d{1,3}\.\d{1,3}$"),
        _named("Docker", "PD_DOCKER_SUBNET", allowed="three numbers such as 172.31.240"),
    ] = "172.31.240"
    """First three numbers of the containers' addresses."""
    docker_shm_size: Annotated[str, _named("Docker", "PD_DOCKER_SHM_SIZE")] = "16g"
    """Shared memory of a container."""

    ray_address: Annotated[str, _named("Ray", "RAY_ADDRESS", allowed="HOST:PORT")] = ""
    """Of the cluster. [default: the one that this machine belongs to]"""
    ray_resource: Annotated[str, _named("Ray", "PD_RAY_RESOURCE", allowed="a resource's name")] = ""
    """A custom resource, of which each engine takes one, besides its GPUs and a CPU."""

    @property
    def model_id(self) -> str:
        """What the engines are told to serve."""
        default = "tiny" if self.engine == "cpu" else "meta-llama/Llama-3.2-1B-Instruct"
        return self.model or default

    @property
    def model_name(self) -> str:
        """What clients call it."""
        return self.served_model_name or self.model_id

    @property
    def registers(self) -> bool:
        """Engines tell the router that they are there; else the router is told of them."""
        return self.connector in ("p2p_nccl", "moriio")

    def leg(self, role: Role) -> Leg:
        """What is set for the engines of one role."""
        block_size = 16 if self.engine == "cpu" else 128
        if role == "prefill":
            return Leg(
                role=role,
                count=self.prefill,
                tp=self.prefill_tp,
                dp=self.prefill_dp,
                block_size=self.prefill_block_size or block_size,
                kv_layout=self.prefill_kv_layout,
                port=self.prefill_port,
                side_port=self.prefill_side_port,
                gpus=self.prefill_gpus,
                gpu_memory_utilization=self.prefill_gpu_memory_utilization
                or self.gpu_memory_utilization,
                wait=self.prefill_wait,
                args=self.prefill_args,
            )
        return Leg(
            role=role,
            count=self.decode,
            tp=self.decode_tp,
            dp=self.decode_dp,
            block_size=self.decode_block_size or block_size,
            kv_layout=self.decode_kv_layout,
            port=self.decode_port,
            side_port=self.decode_side_port,
            gpus=self.decode_gpus,
            gpu_memory_utilization=self.decode_gpu_memory_utilization
            or self.gpu_memory_utilization,
            wait=self.decode_wait,
            args=self.decode_args,
        )
