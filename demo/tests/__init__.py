"""Tests of the demo's pure parts; the rest is tested by `make demo` itself."""
