"""A real Kubernetes on this machine, built from package registries alone.

Flow: cli -> up (preflight, build, configuration, node, wait) / down / status.
The README beside this package says what runs and where it lives.
"""
