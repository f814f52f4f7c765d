//! CA and certificates of the control plane's servers. Proxies and the API server trust this CA.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::issuer::{Issuer, Leaf};
use crate::{Error, IssuedCertificate, Term, Validity};

/// CA of the control plane's server certificates.
#[derive(Debug)]
pub struct ServingAuthority {
    issuer: Issuer,
}

impl ServingAuthority {
    /// Generates a CA, valid for ten years.
    pub fn generate(now: SystemTime) -> Result<Self, Error> {
        Ok(Self {
            issuer: Issuer::generate("kuma-control-plane", Vec::new(), now)?,
        })
    }

    /// Reads a CA from PEM: its certificate and its key (PKCS#8).
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        Ok(Self {
            issuer: Issuer::from_pem(certificate, key)?,
        })
    }

    /// Generates a key and issues a server certificate for these DNS names and IP addresses.
    pub fn issue(
        &self,
        names: &[impl AsRef<str>],
        term: Term,
        now: SystemTime,
    ) -> Result<IssuedServingCertificate, Error> {
        let key = KeyPair::generate().map_err(Error::crypto("generating a serving key"))?;
        let names = names
            .iter()
            .map(|name| subject_alt_name(name.as_ref()))
            .collect::<Result<_, _>>()?;
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = self.issuer.sign(&key, Leaf { names, usages, term }, now)?;
        Ok(IssuedServingCertificate {
            certificate,
            key: key.serialize_der(),
        })
    }

    /// Returns the CA certificate, a root for proxies and the API server.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.issuer.certificate()
    }

    /// Returns the validity of the CA certificate.
    pub fn validity(&self) -> Validity {
        self.issuer.validity()
    }

    /// Returns the CA certificate as PEM, for `caBundle` fields and proxies.
    pub fn certificate_pem(&self) -> String {
        self.issuer.certificate_pem()
    }

    /// Returns the CA key as PEM (PKCS#8). Write it to the CA's Secret only.
    pub fn key_pem(&self) -> String {
        self.issuer.key_pem()
    }
}

/// Server certificate with its key.
pub struct IssuedServingCertificate {
    /// Certificate chain and validity.
    pub certificate: IssuedCertificate,
    /// Private key (PKCS#8, DER).
    key: Vec<u8>,
}

impl IssuedServingCertificate {
    /// Returns whether the renewal is due: 4/5 of the certificate's validity have passed.
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        now >= self.certificate.validity.renew_at()
    }

    /// Returns the private key (PKCS#8), for a TLS configuration.
    pub fn private_key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.key.clone().into()
    }
}

impl fmt::Debug for IssuedServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificate, key: _ } = self;
        f.debug_struct("IssuedServingCertificate")
            .field("validity", &certificate.validity)
            .finish_non_exhaustive()
    }
}

/// Returns the DNS name or IP address as a subject alternative name.
fn subject_alt_name(text: &str) -> Result<SanType, Error> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let not_allowed = || Error::NameNotAllowed {
        what: "host name",
        text: text.to_owned(),
    };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(not_allowed());
    }
    Ok(SanType::DnsName(text.try_into().map_err(|_| not_allowed())?))
}

#[cfg(test)]
mod tests;
