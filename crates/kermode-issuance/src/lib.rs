//! Authentication of proxies and the gRPC service that issues certificates to them.
//!
//! [`Authentication`] identifies the Pod of the caller by its service-account token; every service for proxies uses it.
//! [`CertificateIssuance`] signs workload certificates with the CA of the proxy's mesh and streams the mesh's roots.

mod authentication;
mod service;

pub use self::authentication::Authentication;
pub use self::service::{CertificateIssuance, Metrics};
