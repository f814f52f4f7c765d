"""A real Kubernetes on this machine, built from package registries alone.

Flow: cli -> up (preflight, build, configuration, node, wait) / down / status.
cluster/README.md describes the cluster and its files.
"""
