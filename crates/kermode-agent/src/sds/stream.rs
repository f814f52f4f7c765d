//! State machine of one SDS stream (state-of-the-world xDS). No IO.

use kermode_model::MeshName;
use kermode_protocol::ads::Any;
use kermode_protocol::secrets::{
    self, CertificateValidationContext, DataSource, DiscoveryRequest, DiscoveryResponse, SECRET_TYPE, Secret,
    SecretKind, TlsCertificate,
};
use prost::Message as _;

/// Certificate, private key and trust bundle of a proxy (PEM).
pub struct SecretMaterial {
    /// Version; increases with every change.
    pub version: u64,
    /// Certificate chain, leaf first.
    pub chain: String,
    /// Private key.
    pub key: String,
    /// Root certificates of the mesh.
    pub roots: String,
}

/// Names of a mesh's secrets in Envoy's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    identity: String,
    authority: String,
}

/// Subscription and sent version of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    names: Names,
    subscribed: Vec<String>,
    sent: Option<u64>,
    nonce: u64,
}

// === impl Names ===

impl Names {
    pub(crate) fn of(mesh: &MeshName) -> Self {
        Self {
            identity: secrets::identity_secret(mesh),
            authority: secrets::authority_secret(mesh),
        }
    }

    fn secret(&self, name: &str, secrets: &SecretMaterial) -> Option<Secret> {
        let inline = |text: &str| {
            Some(DataSource {
                inline_bytes: text.as_bytes().to_vec(),
            })
        };
        let kind = if name == self.identity {
            SecretKind::TlsCertificate(TlsCertificate {
                certificate_chain: inline(&secrets.chain),
                private_key: inline(&secrets.key),
            })
        } else if name == self.authority {
            SecretKind::ValidationContext(CertificateValidationContext {
                trusted_ca: inline(&secrets.roots),
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

// === impl Stream ===

impl Stream {
    pub(crate) fn new(names: Names) -> Self {
        Self {
            names,
            subscribed: Vec::new(),
            sent: None,
            nonce: 0,
        }
    }

    /// Handles a subscription, an ACK or a NACK.
    pub(crate) fn on_request(
        &mut self,
        request: DiscoveryRequest,
        secrets: Option<&SecretMaterial>,
    ) -> Option<DiscoveryResponse> {
        if !request.response_nonce.is_empty() && request.response_nonce != self.nonce.to_string() {
            // The ACK or NACK of a superseded response.
            return None;
        }
        if let Some(error) = request.error_detail {
            // The same secret would be rejected again. The next renewal sends another one.
            tracing::error!(names = ?request.resource_names, error = error.message, "Envoy rejected a secret");
        }
        if request.resource_names != self.subscribed {
            for name in &request.resource_names {
                if *name != self.names.identity && *name != self.names.authority {
                    tracing::warn!(name, "Envoy subscribed to a secret of another mesh");
                }
            }
            self.subscribed = request.resource_names;
            self.sent = None;
        }
        self.response(secrets)
    }

    /// Handles a change of the secrets.
    pub(crate) fn on_secrets(&mut self, secrets: Option<&SecretMaterial>) -> Option<DiscoveryResponse> {
        self.response(secrets)
    }

    /// Returns whether Envoy subscribed to secrets that do not exist yet.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.subscribed.is_empty() && self.sent.is_none()
    }

    fn response(&mut self, secrets: Option<&SecretMaterial>) -> Option<DiscoveryResponse> {
        let material = secrets.filter(|secrets| self.sent != Some(secrets.version))?;
        let resources: Vec<_> = self
            .subscribed
            .iter()
            .filter_map(|name| self.names.secret(name, material))
            .collect();
        if resources.is_empty() {
            return None;
        }
        self.sent = Some(material.version);
        self.nonce += 1;
        let resource = |secret: Secret| Any {
            type_url: SECRET_TYPE.to_owned(),
            value: secret.encode_to_vec().into(),
        };
        Some(DiscoveryResponse {
            version_info: material.version.to_string(),
            resources: resources.into_iter().map(resource).collect(),
            type_url: SECRET_TYPE.to_owned(),
            nonce: self.nonce.to_string(),
        })
    }
}

#[cfg(test)]
mod tests;
