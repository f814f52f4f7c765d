//! The builtin CA of a mesh: the only signer of its workloads' certificates. Held by the control plane.

use std::time::{Duration, SystemTime};

use kermode_model::MeshName;
use rcgen::ExtendedKeyUsagePurpose;
use rustls_pki_types::CertificateDer;

use crate::issuer::{Issuer, Leaf, uri_name};
use crate::{Entitlement, Error, IssuedCertificate, SpiffeId, Validity, csr};

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

    /// Certifies the key of a signing request (PKCS#10, DER or PEM) for what the entitlement names.
    ///
    /// The request must be signed by its own key, ECDSA P-256 or Ed25519. Nothing else it says is honoured.
    pub fn sign_csr(
        &self,
        csr: &[u8],
        entitlement: &Entitlement,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, Error> {
        let key = csr::verified_key(csr)?;
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
            &key,
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
