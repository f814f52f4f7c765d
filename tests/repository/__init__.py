"""Checks of the repository's own text: citations lead somewhere, functions stay short."""
