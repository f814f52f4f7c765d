"""Runs the unit tests of folders below the current one: `python3 tests/python.py FOLDER ...`.

The last line is `N passed, N failed`, which `tests/run.py` reads. A skipped test counts as failed.
"""

import sys
import unittest


def main(folders: list[str]) -> int:
    """Runs the tests and returns the exit code."""
    sys.path.insert(0, ".")
    suite = unittest.TestSuite(unittest.defaultTestLoader.discover(name, top_level_dir=".") for name in folders)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    not_passed = result.failures + result.errors + result.skipped
    # A failed setUpModule is an error, but not a test that ran.
    passed = max(0, result.testsRun - len({id(case) for case, _ in not_passed}))
    print(f"{passed} passed, {len(not_passed)} failed")
    return 0 if passed and not not_passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
