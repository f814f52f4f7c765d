//! State machine of one SDS stream (state-of-the-world xDS). No IO.

use kermode_model::MeshName;
use kermode_protocol::ads::Any;
use kermode_protocol::secrets::{
    self, CertificateValidationContext, DataSource, DiscoveryRequest, DiscoveryResponse, SECRET_TYPE, Secret,
    SecretKind, TlsCertificate,
};
use prost::Message as _;

/// Certificate, private key and trust bundle of a proxy, in PEM: the source of the secrets for Envoy.
pub struct SecretMaterial {
    /// Number that increases with every change.
    pub version: u64,
    /// Certificate chain, leaf first.
    pub chain: String,
    /// Private key.
    pub key: String,
    /// Root certificates of the mesh.
    pub roots: String,
}

/// Names by which Envoy's configuration refers to the secrets of a mesh.
#[derive(Clone, Debug)]
pub(crate) struct SdsSecretNames {
    /// Name of the secret with the certificate and its key.
    identity: String,
    /// Name of the secret with the trust bundle.
    trust_bundle: String,
}

/// State machine of one SDS stream of Envoy.
#[derive(Debug)]
pub(crate) struct SdsStream {
    names: SdsSecretNames,
    /// Names of the secrets that Envoy subscribed to.
    subscribed: Vec<String>,
    /// Version of the material in the last response to the current subscription; `None` before the first response.
    sent_version: Option<u64>,
    last_nonce: u64,
}

// === impl SdsSecretNames ===

impl SdsSecretNames {
    pub(crate) fn of(mesh: &MeshName) -> Self {
        Self {
            identity: secrets::identity_secret_name(mesh),
            trust_bundle: secrets::trust_bundle_secret_name(mesh),
        }
    }

    /// Returns the secret with this name, or `None` if the agent does not serve the name.
    fn secret(&self, name: &str, material: &SecretMaterial) -> Option<Secret> {
        let inline = |text: &str| {
            Some(DataSource {
                inline_bytes: text.as_bytes().to_vec(),
            })
        };
        let kind = if name == self.identity {
            SecretKind::TlsCertificate(TlsCertificate {
                certificate_chain: inline(&material.chain),
                private_key: inline(&material.key),
            })
        } else if name == self.trust_bundle {
            SecretKind::ValidationContext(CertificateValidationContext {
                trusted_ca: inline(&material.roots),
            })
        } else {
            return None;
        };
        Some(Secret {
            name: name.to_owned(),
            kind: Some(kind),
        })
    }
}

// === impl SdsStream ===

impl SdsStream {
    pub(crate) fn new(names: SdsSecretNames) -> Self {
        Self {
            names,
            subscribed: Vec::new(),
            sent_version: None,
            last_nonce: 0,
        }
    }

    /// Handles a subscription, an ACK or a NACK. Returns the response to send, if any.
    pub(crate) fn on_request(
        &mut self,
        request: DiscoveryRequest,
        material: Option<&SecretMaterial>,
    ) -> Option<DiscoveryResponse> {
        if !request.response_nonce.is_empty() && request.response_nonce != self.last_nonce.to_string() {
            // An ACK or NACK of an earlier response. The latest response is still in flight.
            return None;
        }
        if let Some(error) = request.error_detail {
            // The agent does not send the rejected version again, because Envoy would reject it again. The next renewal
            // creates a new version.
            tracing::error!(names = ?request.resource_names, error = error.message, "Envoy rejected a secret");
        }
        if request.resource_names != self.subscribed {
            for name in &request.resource_names {
                if *name != self.names.identity && *name != self.names.trust_bundle {
                    tracing::warn!(name, "Envoy subscribed to a secret that the agent does not serve");
                }
            }
            self.subscribed = request.resource_names;
            self.sent_version = None;
        }
        self.response(material)
    }

    /// Handles a change of the material. Returns the response to send, if any.
    pub(crate) fn on_material(&mut self, material: Option<&SecretMaterial>) -> Option<DiscoveryResponse> {
        self.response(material)
    }

    /// Returns whether Envoy has subscribed to secrets and has not got a response to the current subscription.
    pub(crate) fn envoy_waits_for_secrets(&self) -> bool {
        !self.subscribed.is_empty() && self.sent_version.is_none()
    }

    /// Returns a response with the subscribed secrets. Returns `None` if there is no material yet, if the agent serves
    /// none of the subscribed names, or if this version of the material was already sent.
    fn response(&mut self, material: Option<&SecretMaterial>) -> Option<DiscoveryResponse> {
        let material = material.filter(|material| self.sent_version != Some(material.version))?;
        let resources: Vec<_> = self
            .subscribed
            .iter()
            .filter_map(|name| self.names.secret(name, material))
            .collect();
        if resources.is_empty() {
            return None;
        }
        self.sent_version = Some(material.version);
        self.last_nonce += 1;
        let encode = |secret: Secret| Any {
            type_url: SECRET_TYPE.to_owned(),
            value: secret.encode_to_vec().into(),
        };
        Some(DiscoveryResponse {
            version_info: material.version.to_string(),
            resources: resources.into_iter().map(encode).collect(),
            type_url: SECRET_TYPE.to_owned(),
            nonce: self.last_nonce.to_string(),
        })
    }
}

#[cfg(test)]
mod tests;
