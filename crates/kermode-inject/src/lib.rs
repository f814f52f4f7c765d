//! Sidecar injection: a Pod's JSON and settings to a JSON patch.
