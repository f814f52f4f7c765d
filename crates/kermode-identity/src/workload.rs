//! The workload's own key, made in `kuma-dp` and kept in its memory only.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};

use crate::Error;
use crate::csr::PROXY_SCHEME;
use crate::issuer::uri_name;

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

    /// A signing request for it (PKCS#10, DER) that names nobody.
    pub fn csr_der(&self) -> Result<Vec<u8>, Error> {
        self.request(Vec::new())
    }

    /// A signing request for it (PKCS#10, DER), bound to the proxy `<pod>.<namespace>` that makes it, so that nobody
    /// else can use it. It asks for no names: the control plane knows them.
    pub fn csr_der_of(&self, proxy: &str) -> Result<Vec<u8>, Error> {
        self.request(vec![uri_name("proxy", &format!("{PROXY_SCHEME}{proxy}"))?])
    }

    fn request(&self, names: Vec<SanType>) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
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
