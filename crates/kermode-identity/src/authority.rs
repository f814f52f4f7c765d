//! The builtin CA of a mesh: the only signer of its workloads' certificates. Held by the control plane.

use std::time::{Duration, SystemTime};

use kermode_model::MeshName;
use rcgen::ExtendedKeyUsagePurpose;
use rustls_pki_types::CertificateDer;

use crate::issuer::{Issuer, Leaf, uri_name};
use crate::{Entitlement, Error, IssuedCertificate, SigningRequest, SpiffeId, Validity};

/// A mesh's CA (BEHAVIOUR section 6.7, with ECDSA P-256 in place of RSA).
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer,
}

impl Authority {
    /// Makes a new CA for the mesh, valid for ten years.
    pub fn generate(mesh: &MeshName, now: SystemTime) -> Result<Self, Error> {
        let id = uri_name("mesh name", SpiffeId::of_mesh(mesh).as_str())?;
        Ok(Self {
            issuer: Issuer::generate(mesh.as_str(), vec![id], now)?,
        })
    }

    /// Reads a CA from PEM: its certificate, and its key as PKCS#8.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        Ok(Self {
            issuer: Issuer::from_pem(certificate, key)?,
        })
    }

    /// Reads a signing request and certifies its key: [`SigningRequest::read`] and [`Authority::sign`].
    pub fn sign_csr(
        &self,
        csr: &[u8],
        entitlement: &Entitlement,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, Error> {
        self.sign(&SigningRequest::read(csr)?, entitlement, lifetime, now)
    }

    /// Certifies the key of a signing request for what the entitlement names: all of it, and nothing else.
    ///
    /// # Errors
    /// When the request asks for other names, or the entitlement has none, or this CA is not valid.
    pub fn sign(
        &self,
        request: &SigningRequest,
        entitlement: &Entitlement,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, Error> {
        request.check_names(entitlement)?;
        if !entitlement.names_a_service() {
            return Err(Error::NoEntitlement);
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
        self.issuer.sign(
            &request.key,
            Leaf {
                names,
                usages,
                lifetime,
            },
            now,
        )
    }

    /// The CA certificate: a root for the mesh's [`crate::TrustBundle`].
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.issuer.certificate()
    }

    /// When the CA certificate is valid.
    pub fn validity(&self) -> Validity {
        self.issuer.validity()
    }

    /// The CA certificate as PEM, for its Secret.
    pub fn certificate_pem(&self) -> String {
        self.issuer.certificate_pem()
    }

    /// The CA key as PEM (PKCS#8), for its Secret and nowhere else.
    pub fn key_pem(&self) -> String {
        self.issuer.key_pem()
    }
}

#[cfg(test)]
mod tests;
