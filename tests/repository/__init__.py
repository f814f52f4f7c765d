"""Checks of the repository's text: targets of citations exist, functions are short."""
