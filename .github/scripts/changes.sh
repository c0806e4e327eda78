#!/usr/bin/env bash
# changes.sh FOLDER RESULTS: prints as Markdown what the artifacts of targets.yml in FOLDER say otherwise
# than the record, and nothing where they say the same. RESULTS are the jobs', such as
# "releases=success surfaces=failure"; each that is no success is told, too: it failed, or ran into its
# time limit, or was left out, and what it did not compare may be otherwise.
set -euo pipefail
folder=$1
results=$2
section() { # section TITLE FILE
  printf '### %s\n\n~~~\n%s\n~~~\n\n' "$1" "$(head -c 20000 "$2")"
}

if [ -s "$folder/releases/differences.txt" ]; then
  section "Not as docs/conformance.json has it" "$folder/releases/differences.txt"
fi
for file in "$folder"/drift-*/*.txt; do
  if [ -e "$file" ] && ! grep -q ": as recorded$" "$file"; then
    section "Surface of $(basename "$file" .txt)" "$file"
  fi
done
for result in $results; do
  if [ "${result#*=}" != success ]; then
    echo "The job ${result/=/ ended with }, and may not have compared all: see the last run of targets.yml."
    echo
  fi
done
