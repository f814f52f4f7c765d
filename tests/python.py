"""Runs the Python tests in folders of the current folder: `python3 tests/python.py FOLDER ...`.

The last line of output is `N passed, N failed`; `tests/run.py` reads it. A skipped test counts as failed.
"""

import sys
import unittest


def main(folders: list[str]) -> int:
    """Runs the tests and returns the exit code."""
    sys.path.insert(0, ".")
    suite = unittest.TestSuite(unittest.defaultTestLoader.discover(folder, top_level_dir=".") for folder in folders)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    not_passed = result.failures + result.errors + result.skipped
    # An error in setUpModule is in `errors`, but does not count in `testsRun`, so the difference may be negative.
    passed = max(0, result.testsRun - len({id(test) for test, _ in not_passed}))
    print(f"{passed} passed, {len(not_passed)} failed")
    return 0 if passed and not not_passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
