"""`make demo`: builds Kermode, installs it on a cluster, and shows a mesh.

Flow: cli -> target_cluster -> install (control plane) -> application -> report.
"""
