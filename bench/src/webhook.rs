//! Parts of `make bench-webhook`: AdmissionReviews as an API server sends them, and connections that send them.

pub mod load;
pub mod reviews;
