//! Authentication of proxies and the gRPC service that issues certificates to them.
//!
//! [`Authentication`] proves by a service-account token which Pod calls; every server for proxies uses it.
//! [`CertificateIssuance`] signs workload certificates with the CA of the proxy's mesh and streams the mesh's roots.

mod authentication;
mod service;

pub use self::authentication::Authentication;
pub use self::service::{CertificateIssuance, Metrics};
