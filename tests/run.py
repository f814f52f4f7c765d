"""Runs test suites and adds up their results: `python3 tests/run.py [SUITE ...]`. Without names, it runs all suites.

A suite is one command. Its output is printed, and the numbers of tests are read from its summary lines: those of
cargo's test runner, and `N passed, N failed`. If the command fails although no test failed, the suite counts as one
failed test. The failed tests are named at the end, and the last line of output is the sum over all suites.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CARGO = ["cargo", "--locked"] if os.environ.get("CI") else ["cargo"]

# The command of each suite, in the order of execution. Fast suites that find most problems come first.
SUITES = {
    "format": ["cargo", "fmt", "--all", "--check"],
    "lint": [*CARGO, "clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"],
    "deny": ["make", "--no-print-directory", "deny"],
    "unit": [*CARGO, "test", "--workspace", "--exclude", "kermode-e2e", "--no-fail-fast"],
    "tools": ["make", "--no-print-directory", "test-repository", "test-book", "test-cluster-unit", "test-demo"],
    "conformance": ["make", "--no-print-directory", "conformance-shared"],
    "api-server": ["make", "--no-print-directory", "test-api-server"],
    "cluster": ["make", "--no-print-directory", "test-cluster"],
    "e2e": ["make", "--no-print-directory", "test-e2e-run"],
}

# Summary lines of conformance, Python and e2e tests.
PLAIN_SUMMARY = re.compile(r"^(?:\S+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$")
# Summary lines of cargo's test runner.
CARGO_SUMMARY = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;")
# Lines that name a failed test or test program: those of cargo's test runner, of Python, and of e2e and conformance.
FAILURE = re.compile(r"^(?:test .* \.\.\. FAILED$|error: test failed, |(?:FAIL|ERROR): |FAILED )")
FAILURES_SHOWN = 50


# With a fixed seed, property tests have the same inputs in every run. `make fuzz-properties` uses random inputs.
PROPERTY_SEED = {"PROPTEST_RNG_SEED": "5678"}


class Count:
    """Numbers of tests that passed, failed and were skipped, and the lines that name the failed ones."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def read(self, line):
        """Adds the numbers of a line if it is a summary. Keeps the line if it names a failed test."""
        if FAILURE.match(line):
            self.failures.append(line)
        elif match := PLAIN_SUMMARY.match(line) or CARGO_SUMMARY.match(line):
            passed, failed, skipped = (int(number or 0) for number in match.groups())
            self.add(passed, failed, skipped)

    def add(self, passed, failed, skipped):
        """Increases the numbers."""
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def __str__(self):
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def run(name):
    """Runs a suite and returns the numbers of its tests. A suite that prints no summary counts as one test."""
    print(f"\n=== {name}: {' '.join(SUITES[name])}", flush=True)
    count = Count()
    with subprocess.Popen(
        SUITES[name], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env={**PROPERTY_SEED, **os.environ},
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            count.read(line.rstrip())
    if process.returncode != 0 and count.failed == 0:
        count.add(0, 1, 0)
    elif process.returncode == 0 and count.passed + count.failed + count.skipped == 0:
        count.add(1, 0, 0)
    return count


def main(names):
    """Runs the suites and returns the exit code."""
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        print(f"unknown suite {unknown[0]}: the suites are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    total, rows, failures = Count(), [], []
    for name in names or SUITES:
        start = time.monotonic()
        count = run(name)
        total.add(count.passed, count.failed, count.skipped)
        rows.append(f"{name:<12} {time.monotonic() - start:6.0f} s   {count}")
        failures += [f"{name}: {line}" for line in count.failures]
    print("\n=== suites")
    print("\n".join(rows + failures[:FAILURES_SHOWN]))
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
