//! Checks of CA certificates: those by which the API server verifies the control plane, and those of the meshes.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kermode_explain::{ObservedCluster, Reference, list, name_of, text};
use kermode_identity::TrustBundle;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::catalogue::FindingKind;
use crate::nodes::unread;
use crate::report::{Check, Finding};

const CERTIFICATES: &str = "certificates";
/// Entry of a mesh's Secret with the certificate of its first CA.
const SECRET_ENTRY: &str = "/data/value";

/// CA certificates of one object.
struct Roots {
    /// Object that contains the certificates.
    object: String,
    /// Use of the certificates.
    owner: String,
    /// Certificates in PEM, encoded as Base64.
    encoded: String,
}

/// Returns the names of the Secrets with the certificates of the CAs that the meshes use. `secrets` are the names of all
/// Secrets in the namespace of the control plane. A mesh whose CA was rotated has no such Secret: the Secrets of its later
/// CAs contain keys.
pub fn certificate_secrets<'a>(meshes: impl Iterator<Item = &'a Value>, secrets: &[String]) -> Vec<String> {
    let secret_of = |mesh: &Value| {
        let (name, backend) = (name_of(mesh), text(mesh, "/spec/mtls/enabledBackend"));
        let rotations = format!("{name}.ca-builtin-rotation-{backend}.");
        let is_rotated = secrets.iter().any(|secret| secret.starts_with(&rotations));
        let secret = format!("{name}.ca-builtin-cert-{backend}");
        (!backend.is_empty() && !is_rotated && secrets.contains(&secret)).then_some(secret)
    };
    meshes.filter_map(secret_of).collect()
}

/// Checks the validity of the CA certificates at `now`.
pub(crate) fn certificates(cluster: &ObservedCluster, now: SystemTime) -> Check {
    let (mut findings, mut count, mut first_end) = (Vec::new(), 0, None);
    for roots in registered_roots(cluster).chain(mesh_roots(cluster)) {
        let validities = match roots.bundle() {
            Ok(bundle) => bundle.validities(),
            Err(error) => Err(error),
        };
        match validities {
            Ok(validities) => {
                for validity in validities {
                    count += 1;
                    first_end = first_end.into_iter().chain([validity.not_after]).min();
                    if !validity.contains(now) {
                        let (start, end) = (date(validity.not_before), date(validity.not_after));
                        let problem = format!("{} is valid from {start} to {end}", roots.owner);
                        findings.push(invalid(&roots, &problem));
                    } else if now > validity.renew_at() {
                        findings.push(expires(&roots, validity.not_after, now));
                    }
                }
            }
            Err(error) => findings.push(invalid(
                &roots,
                &format!("{} cannot be read: {error}", roots.owner),
            )),
        }
    }
    let unread = unread(cluster, "Secret").map(|reason| format!("; those of meshes were not read: {reason}"));
    let unread = unread.unwrap_or_default();
    if count == 0 && findings.is_empty() {
        return Check::left_out(CERTIFICATES, format!("no certificate of a CA was found{unread}"));
    }
    let end = first_end.map_or_else(|| "unknown".to_owned(), date);
    Check::new(
        CERTIFICATES,
        format!("{count} certificates of CAs, the first ends at {end}{unread}"),
        findings,
    )
}

/// Returns the roots in the registrations of the webhooks. All webhooks of a registration have the same ones.
fn registered_roots(cluster: &ObservedCluster) -> impl Iterator<Item = Roots> {
    let kinds = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
    let registrations = kinds.into_iter().flat_map(|kind| cluster.of_kind(kind));
    registrations.filter_map(|registration| {
        let mut bundles = list(registration, "/webhooks")
            .iter()
            .map(|webhook| text(webhook, "/clientConfig/caBundle"));
        let encoded = bundles.find(|bundle| !bundle.is_empty())?;
        Some(Roots {
            object: Reference::to(registration).to_string(),
            owner: "the CA of the control plane in caBundle".to_owned(),
            encoded: encoded.to_owned(),
        })
    })
}

/// Returns the certificates of the CAs of the meshes.
fn mesh_roots(cluster: &ObservedCluster) -> impl Iterator<Item = Roots> {
    cluster.of_kind("Secret").map(|secret| {
        let mesh = name_of(secret).split('.').next().unwrap_or_default();
        Roots {
            object: Reference::to(secret).to_string(),
            owner: format!("the CA of mesh {mesh}"),
            encoded: text(secret, SECRET_ENTRY).to_owned(),
        }
    })
}

// === impl Roots ===

impl Roots {
    fn bundle(&self) -> Result<TrustBundle, kermode_identity::Error> {
        let pem = STANDARD.decode(&self.encoded).unwrap_or_default();
        TrustBundle::from_pem(&String::from_utf8_lossy(&pem))
    }
}

fn invalid(roots: &Roots, problem: &str) -> Finding {
    Finding::new(
        FindingKind::CertificateInvalid,
        &roots.object,
        problem,
        "check the clocks; then read the log of the leading replica, and see docs/reference/certificates.md#rotation for the \
         rotation of a CA",
    )
}

fn expires(roots: &Roots, end: SystemTime, now: SystemTime) -> Finding {
    let days = end.duration_since(now).unwrap_or(Duration::ZERO).as_secs() / (24 * 60 * 60);
    Finding::new(
        FindingKind::CertificateExpires,
        &roots.object,
        format!(
            "{} ends at {}, in {days} days, and should have been replaced after four fifths of its lifetime",
            roots.owner,
            date(end)
        ),
        "check that a replica of the control plane is ready and leads, and read its log; the annotation kuma.io/rotate-ca starts \
         a rotation (docs/reference/certificates.md#rotation)",
    )
}

fn date(time: SystemTime) -> String {
    let text = OffsetDateTime::from(time).format(&Rfc3339);
    text.unwrap_or_else(|_| "an unknown time".to_owned())
}
