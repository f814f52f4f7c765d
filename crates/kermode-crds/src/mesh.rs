//! The custom resource Mesh, which holds the settings that all proxies of a mesh share.

use std::time::Duration;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kermode_model as model;
use kube::core::{ObjectMeta, TypeMeta};
use serde::{Deserialize, Serialize};

use crate::object::custom_resource;
use crate::validate::Problem;

/// A mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mesh {
    /// API version and kind.
    #[serde(flatten)]
    pub types: Option<TypeMeta>,
    /// Name.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Settings. The API server keeps fields that Kermode does not know.
    #[serde(default)]
    pub spec: MeshSpec,
    /// State, written through the status subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<MeshStatus>,
}

custom_resource!(Mesh, "meshes", ClusterResourceScope);

/// Settings of a [`Mesh`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshSpec {
    /// Mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// Networking settings of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networking: Option<MeshNetworking>,
}

/// Mutual TLS: backends, and the backend in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MtlsSpec {
    /// Name of the backend in use. If absent, mutual TLS is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled_backend: Option<String>,
    /// The backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
}

/// A backend: one certificate authority.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Name.
    pub name: String,
    /// Type; Kermode supports `builtin`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `STRICT` (the default) or `PERMISSIVE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Workload certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dp_cert: Option<DpCert>,
}

/// Workload certificates of a [`Backend`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DpCert {
    /// Rotation of the certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// Rotation of workload certificates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// Lifetime of a certificate, in Go's notation; `24h` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
}

/// Networking settings of a [`Mesh`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshNetworking {
    /// Traffic to Pods of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<MeshInbound>,
    /// Traffic that leaves the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<MeshOutbound>,
}

/// Settings of traffic to Pods of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshInbound {
    /// Whether connections to ports of a Pod that have no inbound pass through; by default `false` with mTLS in mode
    /// `STRICT`, else `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<bool>,
}

/// Settings of traffic that leaves the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshOutbound {
    /// Whether traffic to addresses outside of the mesh passes through; `true` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<bool>,
}

/// State of a [`Mesh`], written by the leader.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// Mode of mutual TLS: `STRICT`, `PERMISSIVE` or `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<String>,
    /// Number of Dataplanes.
    #[serde(default)]
    pub dataplanes: usize,
    /// Number of services of the Dataplanes.
    #[serde(default)]
    pub services: usize,
    /// Conditions; `Accepted` says whether the settings are in effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Second part of the error message about a name that is not a DNS label. The first part is the field or the name.
pub(crate) const MUST_BE_DNS_LABEL: &str = "must be a DNS label: at most 63 lower-case letters, digits and dashes, \
                                            neither starting nor ending with a dash";
/// The only supported type of backends.
pub(crate) const BUILTIN: &str = "builtin";

/// Reason why a Mesh cannot be used. The `usize` of a variant is the index of the backend in `spec.mtls.backends`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMesh {
    /// The mesh's name cannot be a trust domain.
    #[error("metadata.name: {0:?} {MUST_BE_DNS_LABEL}")]
    Name(String),
    /// The backend's name cannot be part of the name of a Secret.
    #[error("spec.mtls.backends[{0}].name: {1:?} {MUST_BE_DNS_LABEL}")]
    BackendName(usize, String),
    /// The enabled backend is not in the list.
    #[error("spec.mtls.enabledBackend: has to be set to one of the backends in the mesh, not {0:?}")]
    UnknownBackend(String),
    /// The backend's type is not supported.
    #[error("spec.mtls.backends[{0}].type: {1:?} is not supported: use builtin")]
    UnknownType(usize, String),
    /// The mode is unknown.
    #[error("spec.mtls.backends[{0}].mode: {1:?} is unknown: use STRICT or PERMISSIVE")]
    UnknownMode(usize, String),
    /// The lifetime of certificates is not a duration, or too short.
    #[error("spec.mtls.backends[{0}].dpCert.rotation.expiration: {1}")]
    Expiration(usize, String),
}

impl InvalidMesh {
    /// Splits the error into field and message.
    pub(crate) fn problem(&self) -> Problem {
        Problem::of(self)
    }
}

/// Default lifetime of a workload certificate.
const DEFAULT_CERTIFICATE_LIFETIME: Duration = Duration::from_hours(24);
/// Minimum lifetime of a workload certificate. A sidecar renews its certificate at the latest after 4/5 of the
/// validity. The last fifth of a shorter lifetime would leave too little time to retry a failed renewal.
const MIN_CERTIFICATE_LIFETIME: Duration = Duration::from_mins(1);

// === conversion to the model ===

impl TryFrom<&Mesh> for model::Mesh {
    type Error = InvalidMesh;

    fn try_from(mesh: &Mesh) -> Result<Self, InvalidMesh> {
        let name = mesh.metadata.name.as_deref().unwrap_or_default();
        if !model::is_dns_label(name) {
            return Err(InvalidMesh::Name(name.to_owned()));
        }
        let networking = mesh.spec.networking.as_ref();
        let inbound = networking.and_then(|networking| networking.inbound.as_ref());
        let outbound = networking.and_then(|networking| networking.outbound.as_ref());
        Ok(Self {
            name: model::MeshName::new(name),
            mtls: mesh.spec.mtls.as_ref().map(convert_mtls).transpose()?.flatten(),
            outbound_passthrough: outbound.and_then(|outbound| outbound.passthrough).unwrap_or(true),
            inbound_passthrough: inbound.and_then(|inbound| inbound.passthrough),
        })
    }
}

/// Converts the settings of the enabled backend. Returns `None` if mutual TLS is off.
fn convert_mtls(mtls: &MtlsSpec) -> Result<Option<model::Mtls>, InvalidMesh> {
    let Some(name) = mtls.enabled_backend.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let Some((index, backend)) = mtls
        .backends
        .iter()
        .enumerate()
        .find(|(_, backend)| backend.name == name)
    else {
        return Err(InvalidMesh::UnknownBackend(name.to_owned()));
    };
    if backend.kind != BUILTIN {
        return Err(InvalidMesh::UnknownType(index, backend.kind.clone()));
    }
    check_backend_name(index, backend)?;
    Ok(Some(model::Mtls {
        backend: backend.name.clone(),
        mode: mode(index, backend)?,
        authority: model::CertificateAuthority::Builtin,
        certificate_lifetime: certificate_lifetime(index, backend)?,
    }))
}

/// Checks the name of a backend. The name of a builtin backend is part of the names of Secrets, so it must be a DNS
/// label. Names of other backends are not restricted.
pub(crate) fn check_backend_name(index: usize, backend: &Backend) -> Result<(), InvalidMesh> {
    if backend.kind == BUILTIN && !model::is_dns_label(&backend.name) {
        return Err(InvalidMesh::BackendName(index, backend.name.clone()));
    }
    Ok(())
}

/// Returns the mode of a backend; `STRICT` by default. `index` is for errors.
pub(crate) fn mode(index: usize, backend: &Backend) -> Result<model::MtlsMode, InvalidMesh> {
    match backend.mode.as_deref() {
        None | Some("" | "STRICT") => Ok(model::MtlsMode::Strict),
        Some("PERMISSIVE") => Ok(model::MtlsMode::Permissive),
        Some(other) => Err(InvalidMesh::UnknownMode(index, other.to_owned())),
    }
}

/// Returns the lifetime of the workload certificates of a backend; 24 hours by default. `index` is for errors.
pub(crate) fn certificate_lifetime(index: usize, backend: &Backend) -> Result<Duration, InvalidMesh> {
    let rotation = backend
        .dp_cert
        .as_ref()
        .and_then(|dp_cert| dp_cert.rotation.as_ref());
    let Some(text) = rotation.and_then(|rotation| rotation.expiration.as_deref()) else {
        return Ok(DEFAULT_CERTIFICATE_LIFETIME);
    };
    let lifetime = kermode_model::duration::parse(text)
        .map_err(|error| InvalidMesh::Expiration(index, error.to_string()))?;
    if lifetime < MIN_CERTIFICATE_LIFETIME {
        return Err(InvalidMesh::Expiration(
            index,
            format!("{text} is too short: use at least 1m"),
        ));
    }
    Ok(lifetime)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn convert(spec: serde_json::Value) -> Result<model::Mesh, InvalidMesh> {
        let mesh: Mesh =
            serde_json::from_value(json!({"metadata": {"name": "default"}, "spec": spec})).expect("a Mesh");
        model::Mesh::try_from(&mesh)
    }

    #[test]
    fn empty_mesh_has_no_mtls_and_allows_passthrough() {
        assert_eq!(convert(json!({})), Ok(model::Mesh::new("default")));
    }

    #[test]
    fn enabled_backend_is_strict_and_issues_certificates_for_a_day_by_default() {
        let backend = json!({"name": "ca-1", "type": "builtin"});
        let mesh = convert(json!({"mtls": {"enabledBackend": "ca-1", "backends": [backend]}}))
            .expect("a valid Mesh");
        let mtls = mesh.mtls.expect("an enabled backend");
        assert_eq!(
            (mtls.mode, mtls.certificate_lifetime),
            (model::MtlsMode::Strict, Duration::from_hours(24))
        );
    }

    #[test]
    fn errors_name_the_field() {
        let backend = json!({"name": "ca-1", "type": "builtin", "mode": "LAX"});
        let error = convert(json!({"mtls": {"enabledBackend": "ca-1", "backends": [backend]}}))
            .expect_err("the mode is unknown");
        assert_eq!(
            error.to_string(),
            "spec.mtls.backends[0].mode: \"LAX\" is unknown: use STRICT or PERMISSIVE"
        );
        let error = convert(json!({"mtls": {"enabledBackend": "ca-2"}})).expect_err("the backend is unknown");
        assert!(
            error.to_string().starts_with("spec.mtls.enabledBackend: "),
            "{error}"
        );
    }

    #[test]
    fn inbound_passthrough_is_off_in_strict_mode_unless_the_mesh_turns_it_on() {
        let passes = |mode: Option<&str>, passthrough: Option<bool>| {
            let mtls = mode.map(|mode| {
                let backend = json!({"name": "ca-1", "type": "builtin", "mode": mode});
                json!({"enabledBackend": "ca-1", "backends": [backend]})
            });
            let inbound = json!({"passthrough": passthrough});
            let mesh = convert(json!({"mtls": mtls, "networking": {"inbound": inbound}}));
            mesh.expect("a valid Mesh").passes_through_inbound()
        };
        for (mode, default) in [
            (Some("STRICT"), false),
            (Some(""), false),
            (Some("PERMISSIVE"), true),
            (None, true),
        ] {
            assert_eq!(passes(mode, None), default, "{mode:?}");
            assert!(passes(mode, Some(true)), "{mode:?}");
            assert!(!passes(mode, Some(false)), "{mode:?}");
        }
    }

    #[test]
    fn unknown_settings_are_ignored() {
        assert_eq!(
            convert(json!({"metrics": {"backends": []}})),
            Ok(model::Mesh::new("default"))
        );
    }
}
