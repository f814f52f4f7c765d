//! Certificates of a mesh for tests, as JSON files with Envoy secrets.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};

/// A CA for tests.
pub(crate) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "default");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Returns the content of a secret's file: a new certificate and key for these URIs.
    pub(crate) fn identity(&self, uris: &[&str]) -> Value {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        // Certificates of a mesh have no subject. By default, rcgen sets a subject.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().expect("ASCII")))
            .collect();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        secret_file(
            "identity_cert:secret:default",
            &json!({ "tls_certificate": {
                "certificate_chain": { "inline_string": certificate },
                "private_key": { "inline_string": key.serialize_pem() },
            }}),
        )
    }

    /// Returns the content of a secret's file: a trust bundle with the certificate of the CA.
    pub(crate) fn trust_bundle(&self) -> Value {
        secret_file(
            "mesh_ca:secret:default",
            &json!({ "validation_context": { "trusted_ca": { "inline_string": self.certificate } } }),
        )
    }
}

/// Returns the content of a file from which Envoy reads a secret: a discovery response with this secret.
fn secret_file(name: &str, content: &Value) -> Value {
    let mut secret = content.clone();
    secret["@type"] = json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
    secret["name"] = json!(name);
    json!({ "resources": [secret] })
}
