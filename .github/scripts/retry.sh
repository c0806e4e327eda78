#!/usr/bin/env bash
# retry.sh TIMES COMMAND...: runs COMMAND, and again up to TIMES times while it exits with 75, which is
# EX_TEMPFAIL of sysexits.h: COMMAND says that the machine failed, and nothing of what it tests.
#
# Exits with the last status. Any other status is COMMAND's verdict and stands: a failure that goes away
# by itself is a finding. So is a time limit (124 and 137, of timeout): a transfer that hangs is what
# the tests look for.
set -uo pipefail
times=$1
shift
for ((attempt = 1; ; attempt++)); do
  status=0
  "$@" || status=$?
  if ((status != 75)); then
    exit "$status"
  fi
  echo "retry.sh: the machine failed, $attempt of $((times + 1)) times" >&2
  if ((attempt > times)); then
    exit "$status"
  fi
done
