#!/usr/bin/env bash
# changelog.sh VERSION: prints that version's section of CHANGELOG.md, without its heading; fails where
# there is none, or nothing in it.
set -euo pipefail
version=$1
section=$(awk -v version="$version" '
  # As texts: awk would take 1.1 and 1.10 for one number.
  /^## / { inside = $2 "" == version ""; next }
  inside
' "${2:-CHANGELOG.md}")
if ! grep -q '[^[:space:]]' <<< "$section"; then
  echo "changelog.sh: CHANGELOG.md says nothing of $version" >&2
  exit 1
fi
printf '%s\n' "$section"
