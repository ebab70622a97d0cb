#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints NAME<TAB>RESULT of each test in meson's testlog.json; --why NAME prints why one was skipped."""
import json
import sys


def entries(path):
    with open(path, encoding="utf-8", errors="replace") as log:
        return [json.loads(line) for line in log if line.strip()]


def why(name, path):
    for entry in entries(path):
        if entry["name"] == name:
            lines = (entry.get("stdout", "") + entry.get("stderr", "")).splitlines()
            reasons = [line for line in lines if "skip" in line.lower()]
            return reasons[-1].strip() if reasons else "the test gave no reason"
    return "not in the log"


if sys.argv[1] == "--why":
    print(why(sys.argv[2], sys.argv[3]))
else:
    for e in entries(sys.argv[1]):
        print(e["name"], e["result"], sep="\t")
