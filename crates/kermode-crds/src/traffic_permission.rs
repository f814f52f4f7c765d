//! MeshTrafficPermission: who may call whom (BEHAVIOUR section 8).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kermode_model as model;
use kube::core::{ObjectMeta, TypeMeta};
use serde::{Deserialize, Serialize};

use crate::object::custom_resource;

/// A permission; lives in the control plane's namespace, its mesh in the label `kuma.io/mesh`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshTrafficPermission {
    /// API version and kind.
    #[serde(flatten)]
    pub types: Option<TypeMeta>,
    /// Name, namespace and mesh label.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Its target and rules.
    #[serde(default)]
    pub spec: MeshTrafficPermissionSpec,
}

custom_resource!(
    MeshTrafficPermission,
    "meshtrafficpermissions",
    NamespaceResourceScope
);

/// Target and rules of a [`MeshTrafficPermission`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshTrafficPermissionSpec {
    /// The inbounds it protects.
    #[serde(default)]
    pub target_ref: TargetRef,
    /// The callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<FromSpec>,
}

/// A group of proxies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetRef {
    /// `Mesh`, `MeshSubset`, `MeshService` or `MeshServiceSubset`.
    #[serde(default)]
    pub kind: String,
    /// The service, for the kinds that name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tags, for the subset kinds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
}

/// One group of callers and the verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FromSpec {
    /// The callers.
    #[serde(default)]
    pub target_ref: TargetRef,
    /// The verdict.
    #[serde(default)]
    pub default: PermissionConf,
}

/// The verdict of a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PermissionConf {
    /// `Allow`, `Deny` or `AllowWithShadowDeny`.
    #[serde(default)]
    pub action: String,
}

/// Why a permission cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPermission {
    /// The kind of a reference is unknown.
    #[error("{0}.kind: {1:?} is not supported: use Mesh, MeshSubset, MeshService or MeshServiceSubset")]
    Kind(String, String),
    /// A reference to a service names none.
    #[error("{0}.name: must be set with kind {1}")]
    Name(String, String),
    /// The action is unknown.
    #[error("spec.from[{0}].default.action: {1:?} is unknown: use Allow, Deny or AllowWithShadowDeny")]
    Action(usize, String),
}

// === wire to model ===

impl TryFrom<&MeshTrafficPermission> for model::TrafficPermission {
    type Error = InvalidPermission;

    fn try_from(permission: &MeshTrafficPermission) -> Result<Self, InvalidPermission> {
        let target = principal("spec.targetRef", &permission.spec.target_ref)?;
        let mut tags = target.tags;
        if let Some(service) = target.service {
            tags.insert(model::tag::SERVICE.into(), service.as_str().into());
        }
        let rules = permission
            .spec
            .from
            .iter()
            .enumerate()
            .map(|(index, from)| rule(index, from));
        Ok(Self {
            target: tags,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

fn rule(index: usize, from: &FromSpec) -> Result<model::PermissionRule, InvalidPermission> {
    let action = match from.default.action.as_str() {
        "Allow" | "ALLOW" => model::Action::Allow,
        "Deny" | "DENY" => model::Action::Deny,
        "AllowWithShadowDeny" | "ALLOW_WITH_SHADOW_DENY" => model::Action::AllowWithShadowDeny,
        other => return Err(InvalidPermission::Action(index, other.to_owned())),
    };
    let from = principal(&format!("spec.from[{index}].targetRef"), &from.target_ref)?;
    Ok(model::PermissionRule { from, action })
}

fn principal(field: &str, target: &TargetRef) -> Result<model::Principal, InvalidPermission> {
    let service = || {
        let name = target.name.as_deref().filter(|name| !name.is_empty());
        name.map(model::ServiceName::new)
            .ok_or_else(|| InvalidPermission::Name(field.to_owned(), target.kind.clone()))
    };
    Ok(match target.kind.as_str() {
        "Mesh" => model::Principal::default(),
        "MeshSubset" => model::Principal {
            service: None,
            tags: target.tags.clone(),
        },
        "MeshService" => model::Principal {
            service: Some(service()?),
            tags: model::Tags::new(),
        },
        "MeshServiceSubset" => model::Principal {
            service: Some(service()?),
            tags: target.tags.clone(),
        },
        other => return Err(InvalidPermission::Kind(field.to_owned(), other.to_owned())),
    })
}
