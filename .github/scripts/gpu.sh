#!/usr/bin/env bash
# gpu.sh PART REQUIRE: one part of the tests on this machine's GPUs: l3, accuracy or sweep.
#
# REQUIRE is what --pd-require gets, as gpus=2. BIN is a folder with pd-testkit and python (.venv/bin).
# LIMIT is how long the part may take on a machine that is ready (3h).
# accuracy and sweep bring up real vLLM in docker, set by the variables of `pd-testkit up`
# (docs/stack.md). Reports, and the logs of each container and of the router, are left in build/gpu.
#
# Exits with 75 where the machine is to blame (retry.sh), with 124 at the limit, else with the part's
# status.
set -euo pipefail
part=$1
require=$2
bin=${BIN:-.venv/bin}
out=build/gpu
mkdir -p "$out"

infrastructure() {
  local status=0
  "$@" || status=$?
  if ((status == 2)); then # it was called wrongly, which another try does not mend
    exit 2
  elif ((status)); then
    echo "gpu.sh: this machine is to blame: $*: exit status $status" >&2
    exit 75
  fi
}

# In place of this script, so that a signal that is meant for it comes to the kit, which takes its
# stacks down. At the limit it is SIGINT, of which pytest leaves its reports, and to the kit alone: a
# second one would end its patience. A sweep gives a stack 60 s to go down.
limited() {
  exec timeout --foreground --signal=INT --kill-after=180 "${LIMIT:-3h}" "$@"
}

"$bin/pd-testkit" doctor --json > "$out/doctor.json"
infrastructure "$bin/pd-testkit" doctor --require "$require"
if [ "$part" != l3 ]; then
  infrastructure timeout 60 docker info > "$out/docker.txt"
  infrastructure timeout 20m docker pull --quiet "${VLLM_DOCKER_IMAGE:-vllm/vllm-openai:latest}"
fi

case $part in
  l3)
    export PD_L3_REPORTS="$out/clauses"
    limited "$bin/python" -m pytest tests/gpu --pd-require "$require" --junitxml "$out/junit.xml"
    ;;
  accuracy)
    limited "$bin/pd-testkit" up --engine vllm --runner docker --log-dir "$out/logs" \
      --then "$bin/pd-testkit accuracy --oracle prefill --json $out/accuracy.json"
    ;;
  sweep)
    # A case waits for P and D as long as PROD_WAIT and CONS_WAIT say, 600 s at night, and then asks.
    limited "$bin/pd-testkit" sweep tp block-size --set engine=vllm --set runner=docker \
      --jobs 1 --limit 1500 --folder "$out/sweep" --json "$out/sweep.json"
    ;;
  *)
    echo "gpu.sh: no part '$part': l3, accuracy or sweep" >&2
    exit 2
    ;;
esac
