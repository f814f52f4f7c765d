//! The workload's own key, made in `kuma-dp` and kept in its memory only.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use crate::Error;

/// A key whose certificate a control plane is asked for.
pub struct WorkloadKey {
    key: KeyPair,
}

impl WorkloadKey {
    /// Makes a new ECDSA P-256 key.
    pub fn generate() -> Result<Self, Error> {
        Ok(Self {
            key: KeyPair::generate().map_err(Error::crypto("making the workload's key"))?,
        })
    }

    /// A signing request for it (PKCS#10, DER). It names nobody: the control plane decides whose key this is.
    pub fn csr_der(&self) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&self.key)
            .map_err(Error::crypto("making a certificate signing request"))?;
        Ok(request.der().to_vec())
    }

    /// The private key as PEM (PKCS#8), for Envoy's memory over the SDS socket and nowhere else.
    pub fn private_key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_text_shows_nothing_of_the_key() {
        assert_eq!(
            format!("{:?}", WorkloadKey::generate().unwrap()),
            "WorkloadKey { .. }"
        );
    }
}
