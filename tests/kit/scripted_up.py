"""``python scripted_up.py up ... --then 'COMMAND'`` in place of ``pd-testkit``, for sweeps.

What it does is the setting ``model``: passes, fails, breaks, hangs, meets=FIFO, met-by=FIFO. Writes
what the checks saw to where COMMAND's ``--json`` says.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    given = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    then = shlex.split(given["--then"])
    seen = Path(then[then.index("--json") + 1])
    does, _, fifo = given["--model"].partition("=")
    with seen.with_suffix(".ran").open("a") as ran:
        ran.write("once\n")
    if does == "breaks":
        print("prefill-0 did not start: port taken")
        return 2
    if does == "hangs":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            Path(fifo).write_text("up")
            signal.pause()
        finally:
            seen.with_suffix(".down").touch()
    if does == "meets":
        Path(fifo).read_text()
    if does == "met-by":
        Path(fifo).write_text("here")
    checks = [{"name": "health", "outcome": "kept", "got": ""}]
    if does == "fails":
        checks.append({"name": "tokens", "outcome": "failed", "got": "another token"})
    seen.write_text(json.dumps({"checks": checks}))
    return int(does == "fails")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
