"""Checks of the repository's files: citations have a target, functions are short, crates depend on lower layers."""
