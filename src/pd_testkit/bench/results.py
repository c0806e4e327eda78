"""What a measurement leaves: one file of JSON lines per run, which everything else reads.

The first line is a `Run`, the last one an `End`; between them come `Request`s and `Counted`s in the
order in which they became known. A file without an `End` is of a run that was killed: what is in
it counts. All times but `Run.began` are seconds since the run began, by one monotonic clock.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

SCHEMA = 1
"""Of what is written. Fields may be added under the same number, with defaults; whatever else
changes has a new one."""

FOLDER = Path("pd-results")
"""Where results go of which nobody says where they should."""


class Run(msgspec.Struct, tag="run", tag_field="type", frozen=True, kw_only=True):
    """What was measured, and where.

    Attributes:
        schema: `SCHEMA` of who wrote it.
        id: of this run, unlike any other's.
        command: ``bench``, ``multiturn``, ``compare`` or ``bandwidth``.
        began: Unix time.
        seed: of all that was random.
        configuration: the command's options by their names; no key of anybody's.
        environment: see `pd_testkit.bench.environment`.
        label: what its user calls it.
    """

    schema: int
    id: str
    command: str
    began: float
    seed: int
    configuration: dict[str, Any]
    environment: dict[str, Any]
    label: str = ""


class Request(
    msgspec.Struct,
    tag="request",
    tag_field="type",
    frozen=True,
    kw_only=True,
    omit_defaults=True,
):
    """One request, as its client saw it.

    Attributes:
        index: of the run's requests, in the order in which they were planned.
        due: when it should have been sent. In an open loop a generator that is late sends it after
            that, and its user has waited since.
        sent: when it was.
        ended: when the last byte of its answer was there, or it had failed.
        pieces: when each piece of a streamed answer's text came. A whole answer has none.
        prompt_tokens, output_tokens: as the server's usage tells. Where it does not, prompt_tokens
            is None, and each of the pieces counts as an output token.
        status: HTTP's; None where there was no answer.
        error: its kind, one of `pd_testkit.bench.client.ERRORS`; empty: the answer is whole, and
            ended as it should.
        detail: the error in words.
        finish_reason: the server's.
        request_id: that was sent as ``X-Request-Id``.
        wanted_prompt_tokens, max_tokens: that were asked for.
        warm_up: it is no part of what is measured.
        mode: of routing, where several are compared.
        conversation, turn: from 0, and from 1, where it is part of one.
    """

    index: int
    due: float
    sent: float
    ended: float
    pieces: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    status: int | None = None
    error: str = ""
    detail: str = ""
    finish_reason: str = ""
    request_id: str = ""
    wanted_prompt_tokens: int | None = None
    max_tokens: int | None = None
    warm_up: bool = False
    mode: str = ""
    conversation: int | None = None
    turn: int | None = None


class Counted(
    msgspec.Struct,
    tag="counted",
    tag_field="type",
    frozen=True,
    kw_only=True,
    omit_defaults=True,
):
    """What the engines counted between two moments.

    Attributes:
        prefill, decode: differences of all P's and all D's counters, by the names of
            `pd_testkit.bench.kv.movement.Counters`; what no engine tells is missing.
        mode, conversation, turn: whose; of all requests in between where it is empty or None.
    """

    began: float
    ended: float
    prefill: dict[str, float]
    decode: dict[str, float]
    mode: str = ""
    conversation: int | None = None
    turn: int | None = None


class End(msgspec.Struct, tag="end", tag_field="type", frozen=True, kw_only=True):
    """The run is over.

    Attributes:
        interrupted: before it was done.
        summary: what the command's table says; made of the other lines, and here for readers that
            do not want to calculate.
        warnings: why numbers may not be what they seem.
    """

    ended: float
    summary: dict[str, Any]
    warnings: tuple[str, ...] = ()
    interrupted: bool = False


Line = Run | Request | Counted | End


class NoResult(ValueError):
    """A file is none of ours, or of a schema that is not known."""


@dataclass(frozen=True)
class Result:
    """A file that was read.

    Attributes:
        end: None: the run was killed.
        path: where it is; None where it is no file yet.
    """

    run: Run
    requests: tuple[Request, ...]
    counted: tuple[Counted, ...]
    end: End | None
    path: Path | None = None

    @property
    def name(self) -> str:
        """What to call it in a legend."""
        return self.run.label or (self.path.stem if self.path else self.run.id)

    @property
    def measured(self) -> tuple[Request, ...]:
        """Without the warm-up."""
        return tuple(request for request in self.requests if not request.warm_up)


def begin(
    command: str,
    configuration: Mapping[str, Any],
    environment: Mapping[str, Any],
    seed: int,
    label: str = "",
) -> Run:
    """A run that begins now."""
    return Run(
        schema=SCHEMA,
        id=secrets.token_hex(6),
        command=command,
        began=time.time(),
        seed=seed,
        configuration=dict(configuration),
        environment=dict(environment),
        label=label,
    )


def default_path(run: Run) -> Path:
    """Of a run's file where nobody says: its command, the time and the id."""
    told = time.strftime("%Y%m%d-%H%M%S", time.localtime(run.began))
    return FOLDER / f"{run.command}-{told}-{run.id[:4]}.jsonl"


class Writer:
    """Writes a run's lines as they come: what is written stays, whatever happens next.

    Args:
        path: made, with its folders.
        goes_on: it is there already, and what follows is added.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, run: Run, *, goes_on: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._encode = msgspec.json.Encoder().encode
        self._file = path.open("r+b" if goes_on else "xb")
        if goes_on:
            _drop_torn_line(self._file)
        else:
            self.write(run)

    def write(self, line: Line) -> None:
        self._file.write(self._encode(line) + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _drop_torn_line(file: Any) -> None:
    """Leaves the file at its end, after its last whole line."""
    text = file.read()
    whole = text.rfind(b"\n") + 1
    file.seek(whole)
    file.truncate()


def read(path: Path) -> Result:
    """
    Raises:
        NoResult: it is none.
        OSError: it cannot be read.
    """
    lines = list(_lines(path))
    if not lines or not isinstance(run := lines[0], Run):
        raise NoResult(f"{path}: its first line is no run of pd-testkit")
    ends = [line for line in lines if isinstance(line, End)]
    return Result(
        run,
        tuple(line for line in lines if isinstance(line, Request)),
        tuple(line for line in lines if isinstance(line, Counted)),
        ends[-1] if ends else None,
        path,
    )


def _lines(path: Path) -> Iterator[Line]:
    decode = msgspec.json.Decoder(Line).decode
    whole = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(whole, 1):
        if number == 1:
            _known(path, line)
        try:
            yield decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise NoResult(f"{path}, line {number}: {problem}") from None


class _Head(msgspec.Struct):
    type: str
    schema: int


def _known(path: Path, line: bytes) -> None:
    try:
        head = msgspec.json.decode(line, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NoResult(f"{path}: no result of pd-testkit") from None
    if head.schema != SCHEMA:
        raise NoResult(f"{path}: schema {head.schema}; this pd-testkit reads schema {SCHEMA}")


def files(paths: Sequence[Path]) -> list[Path]:
    """The result files that are named, or lie in the folders that are named, by name.

    Raises:
        NoResult: a path is not there, or there are none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(path.rglob("*.jsonl"))
        elif path.is_file():
            found.append(path)
        else:
            raise NoResult(f"{path}: there is no such file or folder")
    if not found:
        raise NoResult(f"no result in {', '.join(map(os.fspath, paths))}")
    return found
