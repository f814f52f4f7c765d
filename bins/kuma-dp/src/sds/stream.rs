//! One subscription of Envoy to secrets: a state machine without IO (xDS, state of the world).

use kermode_model::MeshName;
use kermode_protocol::ads::Any;
use kermode_protocol::secrets::{
    self, CertificateValidationContext, DataSource, DiscoveryRequest, DiscoveryResponse, SECRET_TYPE, Secret,
    SecretKind, TlsCertificate,
};
use prost::Message as _;

/// The material of a proxy's identity, as PEM text.
pub(crate) struct Identity {
    /// Counts up with each certificate.
    pub(crate) version: u64,
    /// The certificate chain, leaf first.
    pub(crate) chain: String,
    /// The private key.
    pub(crate) key: String,
    /// The roots of the mesh.
    pub(crate) roots: String,
}

/// The names that Envoy's configuration has for the secrets of a mesh (BEHAVIOUR section 6.1).
#[derive(Clone, Debug)]
pub(crate) struct Names {
    identity: String,
    authority: String,
}

/// What was asked for on a stream, and what was sent.
#[derive(Debug)]
pub(crate) struct Stream {
    names: Names,
    wanted: Vec<String>,
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

    fn secret(&self, name: &str, identity: &Identity) -> Option<Secret> {
        let inline = |text: &str| {
            Some(DataSource {
                inline_bytes: text.as_bytes().to_vec(),
            })
        };
        let kind = if name == self.identity {
            SecretKind::TlsCertificate(TlsCertificate {
                certificate_chain: inline(&identity.chain),
                private_key: inline(&identity.key),
            })
        } else if name == self.authority {
            SecretKind::ValidationContext(CertificateValidationContext {
                trusted_ca: inline(&identity.roots),
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
            wanted: Vec::new(),
            sent: None,
            nonce: 0,
        }
    }

    /// Envoy asks for other secrets, or answers to the last response.
    pub(crate) fn on_request(
        &mut self,
        request: DiscoveryRequest,
        identity: Option<&Identity>,
    ) -> Option<DiscoveryResponse> {
        if !request.response_nonce.is_empty() && request.response_nonce != self.nonce.to_string() {
            // An answer to a response that has been followed by another one.
            return None;
        }
        if let Some(error) = request.error_detail {
            // Sending the same again would be refused again; the next rotation brings something new.
            tracing::error!(names = ?request.resource_names, error = error.message, "Envoy refused a secret");
        }
        if request.resource_names != self.wanted {
            for name in &request.resource_names {
                if *name != self.names.identity && *name != self.names.authority {
                    tracing::warn!(name, "Envoy asks for a secret that is not of its mesh");
                }
            }
            self.wanted = request.resource_names;
            self.sent = None;
        }
        self.response(identity)
    }

    /// There may be a new certificate.
    pub(crate) fn on_identity(&mut self, identity: Option<&Identity>) -> Option<DiscoveryResponse> {
        self.response(identity)
    }

    /// Whether secrets were asked for that cannot be given yet.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.wanted.is_empty() && self.sent.is_none()
    }

    fn response(&mut self, identity: Option<&Identity>) -> Option<DiscoveryResponse> {
        let identity = identity.filter(|identity| self.sent != Some(identity.version))?;
        let secrets: Vec<_> = self
            .wanted
            .iter()
            .filter_map(|name| self.names.secret(name, identity))
            .collect();
        if secrets.is_empty() {
            return None;
        }
        self.sent = Some(identity.version);
        self.nonce += 1;
        let resource = |secret: Secret| Any {
            type_url: SECRET_TYPE.to_owned(),
            value: secret.encode_to_vec().into(),
        };
        Some(DiscoveryResponse {
            version_info: identity.version.to_string(),
            resources: secrets.into_iter().map(resource).collect(),
            type_url: SECRET_TYPE.to_owned(),
            nonce: self.nonce.to_string(),
        })
    }
}

#[cfg(test)]
mod tests;
