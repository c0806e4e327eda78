"""``pd-testkit kv-size``: bytes of a model's KV, calculated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pd_testkit.bench.kv import size as sizes
from pd_testkit.bench.kv.several import Several, SeveralCommand
from pd_testkit.bench.kv.size import ITEM_BYTES, KvShape, NoShape

KIB, MIB = 1 << 10, 1 << 20
_UNITS = "1 KiB = 1024 B, 1 MiB = 1024 KiB; 1 MB = 1000000 B"


@click.command("kv-size", cls=SeveralCommand)
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A model's config.json, as on the Hugging Face hub.",
)
@click.option("--layers", type=click.IntRange(min=1), help="Of a shape of your own.")
@click.option("--kv-heads", type=click.IntRange(min=1))
@click.option("--head-dim", type=click.IntRange(min=1))
@click.option("--latent-dim", type=click.IntRange(min=1), help="MLA's kv_lora_rank.")
@click.option("--rope-dim", type=click.IntRange(min=0), default=0, help="MLA's qk_rope_head_dim.")
@click.option(
    "--dtype", type=click.Choice([*ITEM_BYTES]), help="Of the KV cache.  [default: the model's]"
)
@click.option("--tokens", cls=Several, help="Prompts of so many tokens, too.")
@click.option(
    "--tp",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Tensor-parallel ranks; what one of them holds.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON in place of tables.")
def kv_size(
    names: tuple[str, ...],
    config: Path | None,
    layers: int | None,
    kv_heads: int | None,
    head_dim: int | None,
    latent_dim: int | None,
    rope_dim: int,
    dtype: str | None,
    tokens: tuple[int, ...],
    tp: int,
    as_json: bool,
) -> None:
    """How many bytes of KV a model makes of a token: what prefill has to send to decode.

    MODEL: a well-known one, such as Llama-3.1-8B; without any, and without a shape, all of them.

    Counted are K and V of all layers, or MLA's latent vector; not scales of quantised caches, and
    no padding to blocks. Layers with a sliding window count in full, as most connectors send them;
    what is within the window is told beside it.
    """
    try:
        shapes = _shapes(names, config)
        if layers is not None:
            heads = kv_heads or 0, head_dim or 0
            shapes.append(KvShape("--layers", layers, *heads, latent_dim or 0, rope_dim))
        elif kv_heads or head_dim or latent_dim:
            raise click.UsageError("a shape of your own needs --layers, too")
        shapes = [replace(shape, dtype=dtype or shape.dtype) for shape in shapes]
        if as_json:
            click.echo(json.dumps([_told(shape, tokens, tp) for shape in shapes], indent=1))
        elif shapes:
            click.echo("\n\n".join(_explained(shape, tokens, tp) for shape in shapes))
            click.echo(f"\n{_UNITS}")
        else:
            click.echo(_listed([replace(s, dtype=dtype or s.dtype) for s in sizes.models()]))
    except NoShape as problem:
        raise click.UsageError(str(problem)) from None


def _shapes(names: Sequence[str], config: Path | None) -> list[KvShape]:
    found = [sizes.find(name) for name in names]
    return found if config is None else [*found, sizes.read(config)]


def _told(shape: KvShape, tokens: Sequence[int], tp: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "model": shape.name,
        "dtype": shape.dtype,
        "tp": tp,
        "kv_bytes_per_token": shape.bytes_per_token(),
        "kv_bytes_per_token_per_rank": shape.bytes_per_token(tp=tp),
        "arithmetic": shape.arithmetic(),
        "prompts": [
            {
                "tokens": n,
                "bytes": shape.kv_bytes(n),
                "bytes_within_windows": shape.kv_bytes(n, windowed=True),
                "bytes_per_rank": shape.kv_bytes(n, tp=tp),
            }
            for n in tokens
        ],
    }
    if shape.window_layers:
        told |= {"window_layers": shape.window_layers, "window": shape.window}
    return told


def _explained(shape: KvShape, tokens: Sequence[int], tp: int) -> str:
    each = shape.bytes_per_token()
    lines = [
        f"{shape.name}, {shape.dtype}",
        f"  {shape.arithmetic()} = {each} B/token ({each / KIB:g} KiB)",
    ]
    if shape.window_layers:
        full = shape.layers - shape.window_layers
        later = full * shape.layer_bytes()
        lines.append(
            f"  {shape.window_layers} of {shape.layers} layers attend to the last {shape.window} "
            f"tokens: beyond them {later} B/token, if the engine leaves the others out"
        )
    if tp > 1:
        rank = shape.bytes_per_token(tp=tp)
        how = "the whole vector" if shape.mla else f"{max(1, shape.kv_heads // tp)} heads"
        lines.append(f"  each of {tp} ranks: {how}, {rank} B/token, {tp * rank} B/token in all")
    if shape.note:
        lines.append(f"  {shape.note}")
    return "\n".join([*lines, *_prompts(shape, tokens, tp)])


def _prompts(shape: KvShape, tokens: Sequence[int], tp: int) -> list[str]:
    rows = []
    for n in tokens:
        total = shape.kv_bytes(n)
        row = [f"{n}", f"{total}", f"{total / MIB:.2f}", f"{total / 1e6:.2f}"]
        if shape.window_layers:
            row.append(f"{shape.kv_bytes(n, windowed=True) / MIB:.2f}")
        if tp > 1:
            row.append(f"{shape.kv_bytes(n, tp=tp) / MIB:.2f}")
        rows.append(row)
    if not rows:
        return []
    head = ["tokens", "bytes", "MiB", "MB"]
    head += ["MiB in windows"] if shape.window_layers else []
    return _columns([head + (["MiB per rank"] if tp > 1 else []), *rows])


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _listed(shapes: Sequence[KvShape]) -> str:
    width = max(len(shape.name) for shape in shapes)
    head = f"{'model':{width}}  {'B/token':>9}  {'KiB':>6}"
    lines = [
        f"{shape.name:{width}}  {(each := shape.bytes_per_token()):>9}  {each / KIB:>6g}  "
        f"{shape.arithmetic()}"
        for shape in shapes
    ]
    return "\n".join([head, *lines])
