//! Certificate signing requests: verification of the signature, the key and the requested names.
//!
//! A certificate's names come from the Dataplane. A request that contains any other name is rejected, so that an
//! attempt to obtain another identity becomes visible as an error.

use std::borrow::Cow;

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::{ParsedCriAttribute, X509CriAttribute};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

use crate::{Entitlement, Error};

/// Maximum size of a request, in bytes.
const MAX_REQUEST_SIZE: usize = 8 * 1024;
/// Scheme of the URI that binds a request to the proxy that made it: `kermode-proxy:<pod>.<namespace>`. Certificates do
/// not contain this URI.
pub(crate) const PROXY_SCHEME: &str = "kermode-proxy:";

/// Certificate signing request with a verified signature.
#[derive(Debug)]
pub struct SigningRequest {
    pub(crate) key: SubjectPublicKeyInfo,
    /// Requested names, and the name with [`PROXY_SCHEME`] that binds the request to its proxy.
    uris: Vec<String>,
}

impl SigningRequest {
    /// Reads a request (PKCS#10, DER or PEM) with an ECDSA P-256 or Ed25519 key.
    ///
    /// # Errors
    /// Fails if the request is malformed or too long, has another type of key or an invalid signature, or requests
    /// anything other than URI names.
    pub fn read(csr: &[u8]) -> Result<Self, Error> {
        let unreadable = |reason: String| Error::RequestUnreadable { reason };
        if csr.len() > MAX_REQUEST_SIZE {
            return Err(unreadable(format!("it is longer than {MAX_REQUEST_SIZE} bytes")));
        }
        let der = to_der(csr)?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("it is followed by other bytes".to_owned()));
        }
        let info = &request.certification_request_info;
        check_key_algorithm(&info.subject_pki.algorithm)?;
        request.verify_signature().map_err(|_| Error::RequestSignature)?;
        if info.subject.iter().next().is_some() {
            return Err(not_allowed("a subject"));
        }
        let mut uris = Vec::new();
        for attribute in info.attributes() {
            uris.extend(requested_uris(attribute)?);
        }
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw);
        Ok(Self {
            key: key.map_err(|error| unreadable(error.to_string()))?,
            uris,
        })
    }

    /// Checks that the request is bound to `proxy` (`<pod>.<namespace>`), so that no other proxy can use a copy of the
    /// request.
    ///
    /// # Errors
    /// Fails if the request is bound to another proxy, to several proxies, or to none.
    pub fn check_bound_to(&self, proxy: &str) -> Result<(), Error> {
        let mut bound_proxies = self.uris.iter().filter_map(|uri| uri.strip_prefix(PROXY_SCHEME));
        match (bound_proxies.next(), bound_proxies.next()) {
            (Some(name), None) if name == proxy => Ok(()),
            (None, _) => Err(Error::RequestUnbound),
            _ => Err(Error::RequestOfAnotherProxy),
        }
    }

    /// Checks that the requested names are part of the entitlement. The name with [`PROXY_SCHEME`] is not checked.
    pub(crate) fn check_names(&self, entitlement: &Entitlement) -> Result<(), Error> {
        let mut names = self.uris.iter().filter(|uri| !uri.starts_with(PROXY_SCHEME));
        if names.all(|uri| entitlement.uris().contains(uri)) {
            Ok(())
        } else {
            Err(not_allowed("a name that the proxy is not entitled to"))
        }
    }
}

fn not_allowed(what: &'static str) -> Error {
    Error::RequestNotAllowed { what }
}

/// Returns the URIs that an attribute of a request asks for.
fn requested_uris(attribute: &X509CriAttribute<'_>) -> Result<Vec<String>, Error> {
    let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
        return Err(not_allowed("an unknown attribute"));
    };
    let mut uris = Vec::new();
    for extension in &requested.extensions {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    let GeneralName::URI(uri) = name else {
                        return Err(not_allowed("a name that is not a URI"));
                    };
                    uris.push((*uri).to_owned());
                }
            }
            ParsedExtension::BasicConstraints(_) => {
                return Err(not_allowed("the basic constraints extension"));
            }
            _ => return Err(not_allowed("an extension other than subject alternative names")),
        }
    }
    Ok(uris)
}

/// Returns a request as DER. Decodes PEM, and returns all other bytes unchanged.
fn to_der(csr: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    if !csr.starts_with(b"-----BEGIN") {
        return Ok(Cow::Borrowed(csr));
    }
    let der =
        CertificateSigningRequestDer::from_pem_slice(csr).map_err(|error| Error::RequestUnreadable {
            reason: error.to_string(),
        })?;
    Ok(Cow::Owned(der.as_ref().to_vec()))
}

fn check_key_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Result<(), Error> {
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
