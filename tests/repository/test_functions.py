import textwrap
import unittest

from repository import files, functions


def nested(depth):
    """Returns a function with this number of nested blocks."""
    lines = ["def nested(x):"]
    lines += [f"{'    ' * level}if x > {level}:" for level in range(1, depth + 1)]
    return "\n".join([*lines, f"{'    ' * (depth + 1)}return"])


class FunctionsTest(unittest.TestCase):
    def test_functions_of_this_repository_are_short_and_flat(self):
        self.assertEqual(functions.violations(files.tracked()), [])

    def test_long_function_is_found(self):
        long = "def long():\n" + "    pass\n" * 70
        self.assertEqual(functions.violations({"a.py": long}), ["a.py:1: long has 71 lines, more than 70"])
        self.assertEqual(functions.violations({"a.py": long.removesuffix("    pass\n")}), [])

    def test_deeply_nested_function_is_found(self):
        self.assertEqual(functions.violations({"a.py": nested(5)}), [])
        self.assertEqual(functions.violations({"a.py": nested(6)}), ["a.py:1: nested is nested 6 deep, more than 5"])

    def test_elif_adds_no_level(self):
        text = "def chain(x):\n    if x == 0:\n        pass\n"
        text += "".join(f"    elif x == {number}:\n        pass\n" for number in range(1, 9))
        self.assertEqual(functions.violations({"a.py": textwrap.dedent(text)}), [])
