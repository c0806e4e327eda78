#!/usr/bin/env bash
# take_down.sh: takes down what gpu.sh left on this machine, if it was killed: stacks, and containers that
# no stack knows any more. Any on this machine: it is for those that have no other work.
set -uo pipefail
bin=${BIN:-.venv/bin}

"$bin/pd-testkit" status --json |
  "$bin/python" -c 'import json, sys; [print(stack["name"]) for stack in json.load(sys.stdin)]' |
  xargs --no-run-if-empty --max-args 1 "$bin/pd-testkit" down --name
if command -v docker > /dev/null; then
  # They hold GPUs, and the network's addresses; src/pd_testkit/stack/docker.py calls them so.
  docker ps --all --quiet --filter name=^vllm_prefill_ --filter name=^vllm_decode_ |
    xargs --no-run-if-empty docker rm --force
  docker network rm vllm_pd_test_network 2> /dev/null
fi
exit 0
