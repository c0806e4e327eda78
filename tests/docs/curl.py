"""As much of curl as pages use, for machines without: a request, and the answer's body."""

from __future__ import annotations

import argparse
import sys
import urllib.request


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="body")
    given = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in given.headers)
    body = None if given.body is None else given.body.encode()
    request = urllib.request.Request(given.url, body, headers, method=given.method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        sys.stdout.write(answer.read().decode())


if __name__ == "__main__":
    main()
