"""Runs the suites named on the command line and ends with `N passed, N failed`."""

import sys
import unittest


def main() -> int:
    """Discover, run, count."""
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.discover(f"tests/{name}", top_level_dir=".") for name in sys.argv[1:])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.skipped)
    # A failed setUpModule is an error that is no run test.
    passed = max(0, result.testsRun - len({id(case) for case, _ in result.failures + result.errors + result.skipped}))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
