"""`make demo`: builds Kermode, installs it on a cluster, and shows a mesh.

Flow: cli -> place (target cluster) -> install (control plane) -> application -> report.
"""
