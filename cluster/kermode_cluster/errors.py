"""The one exception the command line shows without a traceback."""


class ClusterError(Exception):
    """Something the user can act on: the text says what and how."""
