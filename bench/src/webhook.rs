//! The injection webhook under reviews as an API server sends them.

pub mod load;
pub mod reviews;
