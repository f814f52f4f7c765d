//! Custom resources, labels and annotations of the kuma.io API.
