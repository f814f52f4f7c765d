"""What goes wrong in a demo, in words for its reader."""


class DemoError(Exception):
    """Something did not work; the text says what, and what to look at."""
