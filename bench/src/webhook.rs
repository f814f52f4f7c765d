//! The injection webhook under the AdmissionReviews of an API server.

pub mod load;
pub mod reviews;
