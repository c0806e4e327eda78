"""What a model should score on a file of questions, and what it did.

The questions are as in gsm8k (https://github.com/openai/grade-school-math), an object per line:
``{"question": "...", "answer": "... #### 18"}``. The first `SHOTS` of the file are given with their
answers before each of the others. An answer is right if its last number is the reference's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import msgspec

SHOTS = 5
STOP = ("Question:", "</s>", "<|im_end|>")
MAX_TOKENS = 256
BAND = 0.05

KNOWN = {
    "Qwen/Qwen3-0.6B": 0.41,
    "Qwen/Qwen3.5-0.8B": 0.33,
    "deepseek-ai/DeepSeek-V2-Lite-Chat": 0.65,
    "deepseek-ai/deepseek-vl2-small": 0.59,
    "google/gemma-3-4b-it": 0.74,
    "ibm-granite/granite-4.0-h-tiny": 0.77,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8": 0.84,
}
"""Shares of gsm8k's test set that are answered right, five-shot, by vLLM's own accuracy test
(tests/v1/kv_connector/nixl_integration/test_accuracy.py), at `BAND`. Of no other file."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Band:
    """The share of right answers that is as expected, from 0 to 1."""

    expected: float
    width: float = BAND

    def __contains__(self, share: float) -> bool:
        """Too good is as wrong as too bad: the expectation is another model's, or file's."""
        return abs(share - self.expected) <= self.width + 1e-9

    def __str__(self) -> str:
        return f"{self.expected:.3f} ± {self.width:.3f}"


class Question(msgspec.Struct, frozen=True):
    """One line of the file."""

    question: str
    answer: str


def questions(file: Path) -> list[Question]:
    """What the file asks.

    Raises:
        ValueError: a line is no question, or there are none besides the examples; names the line.
    """
    found = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            asked = msgspec.json.decode(line, type=Question)
        except msgspec.DecodeError as problem:
            raise ValueError(f"{file}:{number}: {problem}") from None
        if last_number(asked.answer) is None:
            raise ValueError(f"{file}:{number}: the answer has no number")
        found.append(asked)
    if len(found) <= SHOTS:
        raise ValueError(f"{file}: {len(found)} questions; the first {SHOTS} are the examples")
    return found


def prompts(asked: Sequence[Question]) -> list[tuple[str, Decimal]]:
    """Each question with the examples before it, and the number that is right."""
    examples = "".join(
        f"Question: {each.question}\nAnswer: {each.answer}\n\n" for each in asked[:SHOTS]
    )
    pairs = []
    for each in asked[SHOTS:]:
        right = last_number(each.answer)
        assert right is not None, "questions() looks"
        pairs.append((f"{examples}Question: {each.question}\nAnswer:", right))
    return pairs


def last_number(text: str) -> Decimal | None:
    """Its last number, without the commas between thousands; None where it has none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None
