//! Authentication of proxies and the gRPC service that issues certificates to them.
//!
//! [`TokenAuthenticator`] identifies the Pod of the caller by its service-account token. All gRPC services for proxies
//! use this authenticator. [`CertificateIssuance`] signs workload certificates with the CA of the proxy's mesh, and
//! streams the roots of the mesh.

mod authentication;
mod denial;
mod service;

pub use self::authentication::{AcceptedAudiences, TokenAuthenticator};
pub use self::service::{CertificateIssuance, Metrics};
