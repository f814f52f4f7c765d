"""The exception that the command line shows without a traceback."""


class ClusterError(Exception):
    """An error that the user can fix: the text names the problem and the remedy."""
