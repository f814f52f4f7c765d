//! Trust bundle of a mesh: one root, or several roots during a rotation of the mesh's CA.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::{Error, Validity, pem};

/// Root certificates in insertion order, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
}

impl TrustBundle {
    /// Returns a bundle of these roots, without duplicates.
    pub fn new(roots: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        let mut bundle = Self::default();
        for root in roots {
            bundle.add(root);
        }
        bundle
    }

    /// Reads all certificates of a PEM text.
    ///
    /// # Errors
    /// Fails for malformed text and for text without a certificate.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let unusable = |reason: String| Error::Pem {
            what: "trust bundle",
            reason,
        };
        let roots = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(error.to_string()))?;
        if roots.is_empty() {
            return Err(unusable("it has no certificate".to_owned()));
        }
        Ok(Self::new(roots))
    }

    /// Adds a root unless the bundle contains it.
    pub fn add(&mut self, root: CertificateDer<'static>) {
        if !self.roots.contains(&root) {
            self.roots.push(root);
        }
    }

    /// Returns the roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Returns whether the bundle has no root.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Returns whether the bundles have a common root, as consecutive versions of the bundle of one mesh always do.
    pub fn shares_a_root_with(&self, other: &Self) -> bool {
        self.roots.iter().any(|root| other.roots.contains(root))
    }

    /// Returns the validity of each root, in order.
    ///
    /// # Errors
    /// If a root is no certificate.
    pub fn validities(&self) -> Result<Vec<Validity>, Error> {
        self.roots.iter().map(validity_of).collect()
    }

    /// Returns the roots in DER, in order.
    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.roots.iter().map(|root| root.to_vec()).collect()
    }

    /// Returns the roots as PEM text.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(self.roots.iter().map(AsRef::as_ref))
    }
}

fn validity_of(root: &CertificateDer<'_>) -> Result<Validity, Error> {
    let (_, parsed) = X509Certificate::from_der(root).map_err(|error| Error::Certificate {
        owner: "the trust bundle",
        reason: error.to_string(),
    })?;
    let validity = parsed.validity();
    Ok(Validity::from_unix(
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_roots_are_dropped_and_pem_preserves_the_bundle() {
        let mk_root = |byte: u8| CertificateDer::from(vec![byte; 90]);
        let bundle = TrustBundle::new([mk_root(1), mk_root(2), mk_root(1)]);
        assert_eq!(bundle.roots().len(), 2);
        assert_eq!(TrustBundle::from_pem(&bundle.to_pem()).unwrap(), bundle);
    }

    #[test]
    fn text_without_a_certificate_is_rejected() {
        assert!(TrustBundle::from_pem("no certificate here").is_err());
    }
}
