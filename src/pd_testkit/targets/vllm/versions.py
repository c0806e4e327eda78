"""Whether a vLLM has what the drivers speak to, told by the names in its files."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from pd_testkit.contract import Capabilities, TargetError
from pd_testkit.targets.vllm.connectors import Connector

READ = "0.33.0"
"""The release whose code was read for the known failures."""

Names = Mapping[str, tuple[str, ...]]
"""``Class.method`` of a module, and its first parameters."""

_V1 = "distributed.kv_transfer.kv_connector.v1"

_ALWAYS: Mapping[str, Names] = {
    f"{_V1}.base": {
        "KVConnectorBase_V1.get_num_new_matched_tokens": ("request", "num_computed_tokens"),
        "KVConnectorBase_V1.update_state_after_alloc": ("request", "blocks", "num_external_tokens"),
        "KVConnectorBase_V1.build_connector_meta": ("scheduler_output",),
        "KVConnectorBase_V1.request_finished": ("request", "block_ids"),
        "SupportsHMA.request_finished_all_groups": ("request", "block_ids"),
    },
    "distributed.kv_transfer.kv_connector.factory": {
        "KVConnectorFactory.create_connector": ("config", "role", "kv_cache_config"),
    },
    "distributed.kv_transfer.kv_connector.utils": {
        "KVOutputAggregator.__init__": ("expected_finished_count",),
        "KVOutputAggregator.aggregate": ("outputs",),
    },
    "v1.core.sched.scheduler": {
        "Scheduler.schedule": (),
        "Scheduler.update_from_output": ("scheduler_output", "model_runner_output"),
        "Scheduler.finish_requests": ("request_ids", "finished_status"),
    },
    "v1.request": {"Request.__init__": ("request_id", "prompt_token_ids", "sampling_params")},
}

_NIXL: Mapping[str, Names] = {
    f"{_V1}.nixl.metadata": {
        "NixlConnectorMetadata.add_new_req_to_recv": ("request_id", "local_block_ids"),
    },
    f"{_V1}.nixl.base_worker": {
        "NixlBaseConnectorWorker._apply_prefix_caching": (
            "decode_block_ids",
            "prefill_block_ids",
        ),
    },
}

_OF_CONNECTOR: Mapping[str, Mapping[str, Names]] = {
    "NixlConnector": _NIXL,
    "MultiConnector": _NIXL,
    "MooncakeConnector": {
        f"{_V1}.mooncake.mooncake_connector": {
            "MooncakeConnectorMetadata.add_new_req": ("request_id", "local_block_ids"),
        },
    },
    "MoRIIOConnector": {
        f"{_V1}.moriio.moriio_common": {
            "MoRIIOConnectorMetadata.add_new_req": ("request_id", "local_block_ids"),
        },
    },
}


def capabilities_of(package: Path, connector: Connector, release: str) -> Capabilities:
    """What the connector supports in the vLLM in that folder; nothing is imported.

    Raises:
        TargetError: it lacks something that the drivers speak to.
    """
    for module, names in {**_ALWAYS, **_OF_CONNECTOR.get(connector.kv_connector, {})}.items():
        there = _definitions(package.joinpath(*module.split(".")).with_suffix(".py"))
        for name, parameters in names.items():
            if there.get(name, ())[: len(parameters)] != parameters or name not in there:
                raise TargetError(
                    f"the target vllm does not know the vLLM {release} in {package}: "
                    f"vllm.{module} has no {name}({', '.join(parameters)}); {READ} has"
                )
    outputs = _definitions(package / "v1" / "outputs.py")
    return replace(
        connector.capabilities,
        failure_reporting="KVConnectorOutput.failed_recving" in outputs,
        failed_blocks=connector.capabilities.failed_blocks
        and "KVConnectorOutput.invalid_block_ids" in outputs,
    )


@cache
def _definitions(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Methods and fields of the classes in a file, with their parameters but ``self``."""
    found: dict[str, tuple[str, ...]] = {}
    if not path.is_file():
        return found
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                names = [each.arg for each in (*item.args.posonlyargs, *item.args.args)]
                own = names[1:] if names[:1] in (["self"], ["cls"]) else names
                found[f"{node.name}.{item.name}"] = tuple(own)
            elif isinstance(item, ast.AnnAssign):
                found[f"{node.name}.{ast.unparse(item.target)}"] = ()
    return found
