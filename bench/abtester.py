#!/usr/bin/env python3
"""Runs the ABTester of a tutorial in Markdown, as it is written there, on two URLs.

    bench/abtester.py TUTORIAL.md BASELINE_URL CANDIDATE_URL [SECONDS [CONCURRENCY [TIMES [HOST]]]]

With the same URL twice the truth is known: there is no difference. HOST is what `requests` sends as Host, for two meshes
that know the same service at different ports. Needs the Python package `requests`.
"""

import re
import sys

import requests


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    path, baseline, candidate = sys.argv[1:4]
    if len(sys.argv) > 7:
        # The tutorial's code stays as it is: this is a default of the library that it calls.
        defaults = requests.utils.default_headers()
        defaults["Host"] = sys.argv[7]
        requests.sessions.default_headers = defaults.copy
    seconds, concurrency, times = [int(n) for n in sys.argv[4:7]] + [30, 50, 1][len(sys.argv) - 4 :]
    with open(path, encoding="utf-8") as file:
        blocks = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    code = next((block for block in blocks if "class ABTester" in block), None)
    if code is None:
        sys.exit(f"{path} has no Python block with the class ABTester")
    names = {}
    exec(compile(code, path, "exec"), names)
    for _ in range(times):
        names["ABTester"](baseline, candidate, seconds, concurrency).compare_performance()


main()
