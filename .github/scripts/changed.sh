#!/usr/bin/env bash
# changed.sh BASE: prints code=true if the change from BASE touches more than prose, else code=false.
# Where BASE is none (a new branch, a run by hand), all of it counts as changed.
set -euo pipefail
base=${1:-}
prose='^(LICENSE|NOTICE|CITATION\.cff|mkdocs\.yml|docs/pictures/.*|[^/]*\.md|docs/.*\.md)$'
if ! git cat-file -e "$base^{commit}" 2> /dev/null; then
  echo code=true
elif ! names=$(git diff --name-only --no-renames "$base...HEAD"); then # without a common ancestor
  echo code=true
# Not in a pipe: grep ends at its first hit, git dies of that, and pipefail takes it for no hit.
elif [ -n "$names" ] && grep -qvE "$prose" <<< "$names"; then
  echo code=true
else
  echo code=false
fi
