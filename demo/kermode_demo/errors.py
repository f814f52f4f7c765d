"""The exception that the command line shows without a traceback."""


class DemoError(Exception):
    """An error of the demo: the text names the problem, and the remedy or details."""
