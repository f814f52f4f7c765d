//! Mesh: what all proxies of a mesh have in common.

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
    /// Its name.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Its settings. Fields that Kermode does not know are kept by the API server and ignored here.
    #[serde(default)]
    pub spec: MeshSpec,
    /// What became of it. Written through its own subresource.
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
    /// Traffic that leaves the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networking: Option<MeshNetworking>,
}

/// Mutual TLS: the backends there are and the one in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MtlsSpec {
    /// Name of the backend in use; mTLS is off without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled_backend: Option<String>,
    /// The backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
}

/// One way of issuing certificates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// `builtin`.
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
    /// Their renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// Renewal of workload certificates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// Lifetime, a Go duration; `24h` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
}

/// Traffic that leaves the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshNetworking {
    /// Outbound traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<MeshOutbound>,
}

/// Outbound traffic of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshOutbound {
    /// Whether traffic to addresses outside the mesh is let through; `true` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<bool>,
}

/// What became of a [`Mesh`], in the words of the leading control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// What inbounds accept: `STRICT`, `PERMISSIVE` or `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<String>,
    /// How many Dataplanes belong to it.
    #[serde(default)]
    pub dataplanes: usize,
    /// How many values of `kuma.io/service` they have.
    #[serde(default)]
    pub services: usize,
    /// `Accepted`: whether the resource is in force as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What a name has to be.
pub(crate) const DNS_LABEL: &str = "must be a DNS label: at most 63 lower-case letters, digits and dashes, the first and the last \
                                    no dash";
/// The type of backend that there is.
pub(crate) const BUILTIN: &str = "builtin";

/// Why a Mesh resource cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMesh {
    /// The mesh's name cannot be a trust domain.
    #[error("metadata.name: {0:?} {DNS_LABEL}")]
    Name(String),
    /// The backend's name cannot be a part of a Secret's.
    #[error("spec.mtls.backends[{0}].name: {1:?} {DNS_LABEL}")]
    BackendName(usize, String),
    /// The enabled backend is not in the list.
    #[error("spec.mtls.enabledBackend: has to be set to one of the backends in the mesh, not {0:?}")]
    UnknownBackend(String),
    /// The backend's type is none of ours.
    #[error("spec.mtls.backends[{0}].type: {1:?} is not supported: use builtin")]
    UnknownType(usize, String),
    /// The mode is neither of the two.
    #[error("spec.mtls.backends[{0}].mode: {1:?} is unknown: use STRICT or PERMISSIVE")]
    UnknownMode(usize, String),
    /// The lifetime of certificates is not a usable duration.
    #[error("spec.mtls.backends[{0}].dpCert.rotation.expiration: {1}")]
    Expiration(usize, String),
}

impl InvalidMesh {
    /// The same, field and message apart.
    pub(crate) fn problem(&self) -> Problem {
        Problem::of(self)
    }
}

/// Lifetime of a workload certificate unless the mesh says otherwise.
const DEFAULT_CERTIFICATE_LIFETIME: Duration = Duration::from_hours(24);
/// Shorter lives leave no time to renew at 4/5 of them.
const MIN_CERTIFICATE_LIFETIME: Duration = Duration::from_mins(1);

// === wire to model ===

impl TryFrom<&Mesh> for model::Mesh {
    type Error = InvalidMesh;

    fn try_from(mesh: &Mesh) -> Result<Self, InvalidMesh> {
        let name = mesh.metadata.name.as_deref().unwrap_or_default();
        if !model::is_dns_label(name) {
            return Err(InvalidMesh::Name(name.to_owned()));
        }
        let outbound = mesh
            .spec
            .networking
            .as_ref()
            .and_then(|networking| networking.outbound.as_ref());
        Ok(Self {
            name: model::MeshName::new(name),
            mtls: mesh
                .spec
                .mtls
                .as_ref()
                .map(enabled_backend)
                .transpose()?
                .flatten(),
            outbound_passthrough: outbound.and_then(|outbound| outbound.passthrough).unwrap_or(true),
        })
    }
}

fn enabled_backend(mtls: &MtlsSpec) -> Result<Option<model::Mtls>, InvalidMesh> {
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
    backend_name(index, backend)?;
    Ok(Some(model::Mtls {
        backend: backend.name.clone(),
        mode: mode(index, backend)?,
        authority: model::CertificateAuthority::Builtin,
        certificate_lifetime: certificate_lifetime(index, backend)?,
    }))
}

/// The name is a part of the names of Secrets. What other types make of theirs is their business.
pub(crate) fn backend_name(index: usize, backend: &Backend) -> Result<(), InvalidMesh> {
    if backend.kind == BUILTIN && !model::is_dns_label(&backend.name) {
        return Err(InvalidMesh::BackendName(index, backend.name.clone()));
    }
    Ok(())
}

pub(crate) fn mode(index: usize, backend: &Backend) -> Result<model::MtlsMode, InvalidMesh> {
    match backend.mode.as_deref() {
        None | Some("" | "STRICT") => Ok(model::MtlsMode::Strict),
        Some("PERMISSIVE") => Ok(model::MtlsMode::Permissive),
        Some(other) => Err(InvalidMesh::UnknownMode(index, other.to_owned())),
    }
}

pub(crate) fn certificate_lifetime(index: usize, backend: &Backend) -> Result<Duration, InvalidMesh> {
    let rotation = backend
        .dp_cert
        .as_ref()
        .and_then(|certificate| certificate.rotation.as_ref());
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
    fn an_empty_mesh_has_no_mtls_and_lets_traffic_out() {
        assert_eq!(convert(json!({})), Ok(model::Mesh::new("default")));
    }

    #[test]
    fn the_enabled_backend_is_strict_for_a_day_by_default() {
        let backend = json!({"name": "ca-1", "type": "builtin"});
        let mesh =
            convert(json!({"mtls": {"enabledBackend": "ca-1", "backends": [backend]}})).expect("valid");
        let mtls = mesh.mtls.expect("enabled");
        assert_eq!(
            (mtls.mode, mtls.certificate_lifetime),
            (model::MtlsMode::Strict, Duration::from_hours(24))
        );
    }

    #[test]
    fn errors_name_the_field() {
        let backend = json!({"name": "ca-1", "type": "builtin", "mode": "LAX"});
        let error =
            convert(json!({"mtls": {"enabledBackend": "ca-1", "backends": [backend]}})).expect_err("a mode");
        assert_eq!(
            error.to_string(),
            "spec.mtls.backends[0].mode: \"LAX\" is unknown: use STRICT or PERMISSIVE"
        );
        let error = convert(json!({"mtls": {"enabledBackend": "ca-2"}})).expect_err("a backend");
        assert!(
            error.to_string().starts_with("spec.mtls.enabledBackend: "),
            "{error}"
        );
    }

    #[test]
    fn settings_of_later_features_are_ignored() {
        assert_eq!(
            convert(json!({"metrics": {"backends": []}})),
            Ok(model::Mesh::new("default"))
        );
    }
}
