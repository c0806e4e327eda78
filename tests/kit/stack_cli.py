"""``pd-testkit`` with a given plan in place of the one that its settings would make.

``python -m tests.kit.stack_cli PLAN.json up ...``
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from pd_testkit.cli import main
from pd_testkit.stack import command
from pd_testkit.stack.plan import Plan

if __name__ == "__main__":
    given = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    command.make_plan = lambda *_: given
    main(sys.argv[2:])
