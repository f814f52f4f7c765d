"""Tests of the pure functions of the demo; `make demo` itself tests the rest."""
