//! CA of a mesh (backend type `builtin`). Signs the certificates of the mesh's proxies.

use std::time::SystemTime;

use kermode_model::MeshName;
use rcgen::ExtendedKeyUsagePurpose;
use rustls_pki_types::CertificateDer;

use crate::issuer::{Issuer, Leaf, uri_name};
use crate::{Entitlement, Error, IssuedCertificate, SigningRequest, SpiffeId, Term, Validity};

/// CA of a mesh (`docs/reference/certificates.md#certificate-authorities`), with an ECDSA P-256 key.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer,
}

impl Authority {
    /// Generates a CA for the mesh, valid for ten years.
    pub fn generate(mesh: &MeshName, now: SystemTime) -> Result<Self, Error> {
        let id = uri_name("mesh name", SpiffeId::of_mesh(mesh).as_str())?;
        Ok(Self {
            issuer: Issuer::generate(mesh.as_str(), vec![id], now)?,
        })
    }

    /// Reads a CA from PEM: its certificate and its key (PKCS#8).
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        Ok(Self {
            issuer: Issuer::from_pem(certificate, key)?,
        })
    }

    /// Reads a signing request ([`SigningRequest::read`]) and issues a certificate for it ([`Authority::sign`]).
    pub fn sign_csr(
        &self,
        csr: &[u8],
        entitlement: &Entitlement,
        term: Term,
        now: SystemTime,
    ) -> Result<IssuedCertificate, Error> {
        self.sign(&SigningRequest::read(csr)?, entitlement, term, now)
    }

    /// Issues a certificate for the key of a signing request, with exactly the names of the entitlement.
    ///
    /// # Errors
    /// Fails if the request has a name that is not part of the entitlement, if the entitlement names no service, or if
    /// this CA is not valid at `now`.
    pub fn sign(
        &self,
        request: &SigningRequest,
        entitlement: &Entitlement,
        term: Term,
        now: SystemTime,
    ) -> Result<IssuedCertificate, Error> {
        request.check_names(entitlement)?;
        if !entitlement.names_a_service() {
            return Err(Error::NoService);
        }
        let names = entitlement
            .uris()
            .iter()
            .map(|uri| uri_name("service or tag", uri))
            .collect::<Result<_, _>>()?;
        let usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issuer.sign(&request.key, Leaf { names, usages, term }, now)
    }

    /// Returns the CA certificate, a root of the mesh's [`crate::TrustBundle`].
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.issuer.certificate()
    }

    /// Returns the validity of the CA certificate.
    pub fn validity(&self) -> Validity {
        self.issuer.validity()
    }

    /// Returns the CA certificate as PEM, for its Secret.
    pub fn certificate_pem(&self) -> String {
        self.issuer.certificate_pem()
    }

    /// Returns the CA key as PEM (PKCS#8). Write it to the CA's Secret only.
    pub fn key_pem(&self) -> String {
        self.issuer.key_pem()
    }
}

#[cfg(test)]
mod tests;
