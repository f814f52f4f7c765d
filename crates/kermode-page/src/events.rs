//! Recent decisions of the injection webhook, and the certificates that the replica knows, as JSON. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use kermode_admission::{DecisionKind, RecentDecision};
use kermode_authorities::{CertificateSubject, KnownCertificate};
use serde::Serialize;

/// One decision of the injection webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Time, in seconds since the Unix epoch.
    pub time: u64,
    /// Namespace of the Pod.
    pub namespace: String,
    /// Name of the Pod, or the prefix of its generated name.
    pub pod: String,
    /// `injected`, `skipped` or `denied`.
    pub decision: &'static str,
    /// Reason, as in the metrics.
    pub reason: &'static str,
    /// Message of a denial; absent for other decisions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Owner and use.
    pub subject: String,
    /// Expiry, in seconds since the Unix epoch.
    pub not_after: u64,
}

impl From<RecentDecision> for Decision {
    fn from(recent: RecentDecision) -> Self {
        Self {
            time: to_unix(recent.time),
            namespace: recent.namespace,
            pod: recent.pod,
            decision: match recent.kind {
                DecisionKind::Injected => "injected",
                DecisionKind::Skipped => "skipped",
                DecisionKind::Denied => "denied",
            },
            reason: recent.reason,
            message: recent.message,
        }
    }
}

impl From<KnownCertificate> for Certificate {
    fn from(known: KnownCertificate) -> Self {
        let subject = match known.subject {
            CertificateSubject::MeshRoot {
                mesh,
                backend,
                generation,
            } => format!("CA {generation} of backend {backend} of mesh {mesh}"),
            CertificateSubject::ControlPlaneRoot { generation } => {
                format!("CA {generation} of the control plane")
            }
            CertificateSubject::Server => "webhooks and server for proxies of this replica".to_owned(),
        };
        Self {
            subject,
            not_after: to_unix(known.not_after),
        }
    }
}

/// Returns a time in seconds since the Unix epoch; 0 for an earlier time.
pub(crate) fn to_unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
