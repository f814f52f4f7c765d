//! The roots a mesh trusts: one, or several while its CA is being replaced.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::{Error, pem};

/// Root certificates, in the order they were added and without repeats.
///
/// A CA is replaced without dropped requests by trusting both roots first, then signing with the new one, then
/// forgetting the old one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
}

impl TrustBundle {
    /// A bundle of these roots.
    pub fn new(roots: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        let mut bundle = Self::default();
        for root in roots {
            bundle.add(root);
        }
        bundle
    }

    /// Every certificate of a PEM text. Text without any is an error, since it would trust nobody.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let bad = |reason: String| Error::Pem {
            what: "trust bundle",
            reason,
        };
        let roots = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad(error.to_string()))?;
        if roots.is_empty() {
            return Err(bad("it has no certificate".to_owned()));
        }
        Ok(Self::new(roots))
    }

    /// Adds a root unless it is there already.
    pub fn add(&mut self, root: CertificateDer<'static>) {
        if !self.roots.contains(&root) {
            self.roots.push(root);
        }
    }

    /// The roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Whether a root is in both: the two are of the same mesh, at different times.
    pub fn shares_a_root_with(&self, other: &Self) -> bool {
        self.roots.iter().any(|root| other.roots.contains(root))
    }

    /// Returns the roots in DER, in order.
    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.roots.iter().map(|root| root.to_vec()).collect()
    }

    /// The roots as PEM text.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(self.roots.iter().map(AsRef::as_ref))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_survives_pem_and_drops_repeats() {
        let mk_root = |byte: u8| CertificateDer::from(vec![byte; 90]);
        let bundle = TrustBundle::new([mk_root(1), mk_root(2), mk_root(1)]);
        assert_eq!(bundle.roots().len(), 2);
        assert_eq!(TrustBundle::from_pem(&bundle.to_pem()).unwrap(), bundle);
    }

    #[test]
    fn a_bundle_of_nothing_is_refused() {
        assert!(TrustBundle::from_pem("no certificate here").is_err());
    }
}
