#!/usr/bin/env bash
# one_issue.sh TITLE BODY_FILE: there is one open issue of that title, with that body, and no second.
#
# An issue that says the same already is left alone. An empty body is that nothing is to be said: the
# issue that is open is closed. Needs gh, and GH_TOKEN with `issues: write`.
set -euo pipefail
title=$1
body=$2
number=$(gh issue list --state open --limit 1000 --json number,title \
  --jq "[.[] | select(.title == \"$title\")][0].number // empty")

if [ ! -s "$body" ]; then
  if [ -n "$number" ]; then
    gh issue close "$number" --comment "All is as recorded again."
  fi
elif [ -z "$number" ]; then
  gh issue create --title "$title" --body-file "$body"
elif [ "$(gh issue view "$number" --json body --jq .body | tr -d '\r')" != "$(cat "$body")" ]; then
  gh issue edit "$number" --body-file "$body"
  gh issue comment "$number" --body "Something changed; the text above is new."
fi
