"""``python scripted_kit.py up|bench ...`` in place of ``pd-testkit``, for ``sweep bench``.

``up`` plays a stack at one URL and runs what ``--then`` says; its model ``breaks`` does not come
up. It notes in the folder of its logs that it came up, went down, and which modes it had. ``bench``
writes a result; what it does is its ``--prompts``: passes, fails, or hangs=FIFO.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from pd_testkit.bench import results
from pd_testkit.bench.results import End, Request, Writer
from tests.kit.scripted_deployment import Deployment, serving


def up(given: dict[str, str]) -> int:
    logs = Path(given["--log-dir"])
    if given.get("--model") == "breaks":
        print("prefill-0 did not start: port taken", file=sys.stderr)
        return 2
    with serving(Deployment()) as deployment:
        print('{"url": "told to people"}', flush=True)
        environment = {"PD_ENDPOINT": deployment.url, "PD_MODEL": "a/b"}
        with (logs / "ups").open("a") as ups:
            ups.write(f"{given.get('--prefill')}\n")
        status = subprocess.run(
            shlex.split(given["--then"]), env={**os.environ, **environment}
        ).returncode
    (logs / "modes").write_text(" ".join(deployment.modes))
    return status


def bench(given: dict[str, str], tags: dict[str, str]) -> int:
    does, _, fifo = given["--prompts"].partition("=")
    output = Path(given["--output"])
    with output.with_suffix(".ran").open("a") as ran:
        ran.write(f"{os.environ['PD_ENDPOINT']}\n")
    configuration = {"concurrency": int(given["--concurrency"]), "tags": tags}
    about = {"served": {"model": os.environ["PD_MODEL"]}}
    run = results.begin("bench", configuration, about, int(given["--seed"]))
    with Writer(output, run) as writer:
        if does == "fails":
            print("no model")
            return 2
        if does == "hangs":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            try:
                Path(fifo).write_text("here")
                signal.pause()
            finally:
                if Path(fifo).is_fifo():
                    Path(fifo).write_text("told to end")
        answer = Request(index=0, due=0.0, sent=0.0, ended=2.0, pieces=(1.0, 2.0), output_tokens=4)
        writer.write(answer)
        writer.write(End(ended=2.0, summary=results_of(answer)))
    return 0


def results_of(answer: Request) -> dict[str, object]:
    return {"completed": 1, "seconds": answer.ended, "output_tokens": answer.output_tokens}


def main(command: str, words: list[str]) -> int:
    given = dict(zip(words[::2], words[1::2], strict=False))
    if command == "up":
        words.remove("--json")
        return up(dict(zip(words[::2], words[1::2], strict=True)))
    tags = [words[place + 1] for place, word in enumerate(words) if word == "--tag"]
    return bench(given, dict(tag.split("=", 1) for tag in tags))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
