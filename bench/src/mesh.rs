//! The mesh of benchmarks that run a real Envoy, with the identities of its proxies. Envoy gets its secrets from files or
//! from its bootstrap instead of requesting them from `kuma-dp`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use kermode_identity::{Authority, Entitlement, IssuedCertificate, Term, WorkloadKey};
use kermode_model::{
    CertificateAuthority, Dataplane, Inbound, Mesh, MeshName, Mtls, MtlsMode, ObjectKey, tag,
};
use kermode_protocol::secrets::{identity_secret_name, trust_bundle_secret_name};
use serde_json::{Value, json};

/// Name of the file with a certificate and its key.
pub(crate) const IDENTITY_FILE: &str = "identity.json";
/// Name of the file with the trust bundle.
pub(crate) const TRUST_FILE: &str = "trust.json";
/// Validity of a certificate: longer than any run.
const VALIDITY: Duration = Duration::from_hours(24);

/// Manifest of the mesh of all proxies, with mTLS in mode STRICT.
pub(crate) const STRICT_MANIFEST: &str = "\
apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata:
  name: default
spec:
  mtls:
    enabledBackend: ca-1
    backends:
    - name: ca-1
      type: builtin
      mode: STRICT
";

/// Name of the mesh of all proxies.
pub(crate) fn name() -> MeshName {
    "default".into()
}

/// The mesh of all proxies, with mTLS in mode STRICT.
pub(crate) fn strict() -> Mesh {
    let mut mesh = Mesh::new(name().as_str());
    mesh.mtls = Some(Mtls {
        backend: "ca-1".into(),
        mode: MtlsMode::Strict,
        authority: CertificateAuthority::Builtin,
        certificate_lifetime: VALIDITY,
    });
    mesh
}

/// Returns the Dataplane of a Pod with these inbounds.
pub(crate) fn dataplane(pod: &str, address: IpAddr, inbounds: Vec<Inbound>) -> Dataplane {
    Dataplane {
        key: ObjectKey::new("bench", pod),
        mesh: name(),
        address,
        additional_addresses: Vec::new(),
        inbounds,
        gateway: None,
        transparent_proxying: None,
        admin_port: None,
        probes: None,
        metrics: None,
    }
}

/// Returns a Dataplane whose only tag is its service.
pub(crate) fn dataplane_of_service(service: &str) -> Dataplane {
    let inbound = Inbound {
        port: 80,
        tags: [(tag::SERVICE.into(), service.into())].into_iter().collect(),
        ready: None,
    };
    dataplane(service, Ipv4Addr::LOCALHOST.into(), vec![inbound])
}

/// Writes the secrets of a proxy into a folder.
pub(crate) fn write_secrets(
    folder: &Path,
    authority: &Authority,
    dataplane: &Dataplane,
    now: SystemTime,
) -> Result<()> {
    let secrets = secrets(authority, dataplane, now)?;
    for (file, secret) in [IDENTITY_FILE, TRUST_FILE].into_iter().zip(secrets) {
        write_secret(&folder.join(file), secret)?;
    }
    Ok(())
}

/// Returns the secrets of a proxy: a new certificate with its key, and the trust bundle.
pub(crate) fn secrets(authority: &Authority, dataplane: &Dataplane, now: SystemTime) -> Result<[Value; 2]> {
    let (certificate, key) = issue(authority, dataplane, now)?;
    let identity = json!({
        "name": identity_secret_name(&name()),
        "tls_certificate": {
            "certificate_chain": { "inline_string": certificate.chain_pem() },
            "private_key": { "inline_string": key.private_key_pem() },
        },
    });
    let trust = json!({
        "name": trust_bundle_secret_name(&name()),
        "validation_context": { "trusted_ca": { "inline_string": authority.certificate_pem() } },
    });
    Ok([identity, trust])
}

/// Issues a certificate with the SPIFFE IDs and the tags of a proxy. Returns it with its key.
pub(crate) fn issue(
    authority: &Authority,
    dataplane: &Dataplane,
    now: SystemTime,
) -> Result<(IssuedCertificate, WorkloadKey)> {
    let key = WorkloadKey::generate()?;
    let entitlement = Entitlement::of(dataplane);
    let certificate = authority.sign_csr(&key.csr_der()?, &entitlement, Term::of(VALIDITY), now)?;
    Ok((certificate, key))
}

/// Writes a file from which Envoy reads a secret: a discovery response with this secret.
fn write_secret(path: &Path, mut secret: Value) -> Result<()> {
    secret["@type"] = json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
    let response = json!({ "resources": [secret] });
    std::fs::write(path, response.to_string()).with_context(|| format!("cannot write {}", path.display()))
}
