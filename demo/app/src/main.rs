//! Demo application: an HTTP client and server that know nothing of the mesh.

fn main() {}
