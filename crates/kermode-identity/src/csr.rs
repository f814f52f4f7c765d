//! Reads a signing request and keeps only its public key, after the request has proven to own it.

use std::borrow::Cow;

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

use crate::Error;

/// More than any request with an accepted key needs; bounds the work done for a stranger.
const MAX_LENGTH: usize = 8 * 1024;

/// The key of the request, known to belong to whoever made it.
pub(crate) fn verified_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    let unreadable = |reason: String| Error::RequestUnreadable { reason };
    if csr.len() > MAX_LENGTH {
        return Err(unreadable(format!("it is longer than {MAX_LENGTH} bytes")));
    }
    let der = der_of(csr)?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable("bytes follow its end".to_owned()));
    }
    let key = &request.certification_request_info.subject_pki;
    accept_algorithm(&key.algorithm)?;
    request.verify_signature().map_err(|_| Error::RequestSignature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|error| unreadable(error.to_string()))
}

fn der_of(csr: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    if !csr.starts_with(b"-----BEGIN") {
        return Ok(Cow::Borrowed(csr));
    }
    let der =
        CertificateSigningRequestDer::from_pem_slice(csr).map_err(|error| Error::RequestUnreadable {
            reason: error.to_string(),
        })?;
    Ok(Cow::Owned(der.as_ref().to_vec()))
}

fn accept_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Result<(), Error> {
    let curve = algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    let is_p256 = algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256);
    if is_p256 || algorithm.algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    let found = match curve {
        Some(curve) => format!("{} with {curve}", algorithm.algorithm),
        None => algorithm.algorithm.to_string(),
    };
    Err(Error::RequestKey { found })
}
