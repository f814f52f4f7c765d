"""`make demo`: from a fresh machine to a mesh that can be looked at.

Flow: cli -> place (whose cluster) -> install (images, control plane) -> application -> report.
"""
