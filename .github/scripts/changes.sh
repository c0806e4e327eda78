#!/usr/bin/env bash
# changes.sh FOLDER RESULTS: prints as Markdown what the artifacts of targets.yml in FOLDER say otherwise
# than the record, and nothing where they say the same. RESULTS are the jobs', such as
# "success failure"; a job that failed and left nothing is told, too.
set -euo pipefail
folder=$1
results=$2
told=
section() { # section TITLE FILE
  printf '### %s\n\n~~~\n%s\n~~~\n\n' "$1" "$(head -c 20000 "$2")"
  told=yes
}

if [ -s "$folder/releases/differences.txt" ]; then
  section "Not as docs/conformance.json has it" "$folder/releases/differences.txt"
fi
for file in "$folder"/drift-*/*.txt; do
  if [ -e "$file" ] && ! grep -q ": as recorded$" "$file"; then
    section "Surface of $(basename "$file" .txt)" "$file"
  fi
done
if [ -z "$told" ] && [[ $results == *failure* ]]; then
  echo "A job failed before it could compare: see the last run of targets.yml."
fi
