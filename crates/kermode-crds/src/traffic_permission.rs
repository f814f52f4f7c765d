//! The custom resource MeshTrafficPermission: access rights between services
//! (docs/reference/resources.md#meshtrafficpermission).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kermode_model as model;
use kube::core::{ObjectMeta, TypeMeta};
use serde::{Deserialize, Serialize};

use crate::annotation;
use crate::object::custom_resource;
use crate::validate::Problem;

/// A permission. The object is in the control plane's namespace, and its label `kuma.io/mesh` names the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshTrafficPermission {
    /// API version and kind.
    #[serde(flatten)]
    pub types: Option<TypeMeta>,
    /// Name, namespace and mesh label.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Target and rules.
    #[serde(default)]
    pub spec: MeshTrafficPermissionSpec,
    /// State, written through the status subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<MeshTrafficPermissionStatus>,
}

custom_resource!(
    MeshTrafficPermission,
    "meshtrafficpermissions",
    NamespaceResourceScope
);

/// State of a [`MeshTrafficPermission`], written by the leader.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshTrafficPermissionStatus {
    /// Conditions: `Accepted` says whether the rules are in effect, and `ResolvedRefs` whether the Mesh and the services
    /// exist that the permission names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Reference of a [`MeshTrafficPermission`] to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceReference<'a> {
    /// Index of the rule in `spec.from`; `None` for `spec.targetRef`.
    pub rule: Option<usize>,
    /// Value of `kuma.io/service`.
    pub name: &'a str,
}

impl MeshTrafficPermission {
    /// Returns the name of the permission's mesh.
    pub fn mesh(&self) -> &str {
        let labels = self.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(annotation::MESH))
            .map_or(model::DEFAULT_MESH, String::as_str)
    }

    /// Returns the references to services, that of `spec.targetRef` first. A service may be referenced several times.
    pub fn service_references(&self) -> impl Iterator<Item = ServiceReference<'_>> {
        let rules = self.spec.from.iter().enumerate();
        let rules = rules.map(|(index, from)| (Some(index), &from.target_ref));
        [(None, &self.spec.target_ref)]
            .into_iter()
            .chain(rules)
            .filter_map(|(rule, reference)| {
                let name = reference.name.as_deref()?;
                Some(ServiceReference { rule, name })
            })
    }
}

impl ServiceReference<'_> {
    /// Returns the path of the reference in the permission.
    pub fn field(&self) -> String {
        match self.rule {
            None => TARGET_FIELD.to_owned(),
            Some(index) => from_field(index),
        }
    }
}

/// Target and rules of a [`MeshTrafficPermission`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshTrafficPermissionSpec {
    /// Inbounds that the permission applies to.
    #[serde(default)]
    pub target_ref: TargetRef,
    /// Rules: groups of clients, and the action for each group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<FromSpec>,
}

/// Reference to a group of inbounds (the target of a permission) or of proxies (the clients of a rule).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetRef {
    /// `Mesh`, `MeshSubset`, `MeshService` or `MeshServiceSubset`.
    #[serde(default)]
    pub kind: String,
    /// Value of `kuma.io/service`; only for `MeshService` and `MeshServiceSubset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tags of the inbounds or proxies; only for `MeshSubset` and `MeshServiceSubset`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
}

/// A rule: a group of clients, and the action for this group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FromSpec {
    /// Clients that the rule applies to.
    #[serde(default)]
    pub target_ref: TargetRef,
    /// Action for these clients.
    #[serde(default)]
    pub default: PermissionConf,
}

/// Action of a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PermissionConf {
    /// `Allow`, `Deny` or `AllowWithShadowDeny`.
    #[serde(default)]
    pub action: String,
}

/// A permission that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPermission {
    /// The kind of a reference is not supported. Fields: path of the reference, kind.
    #[error("{0}.kind: {1:?} is not supported: use Mesh, MeshSubset, MeshService or MeshServiceSubset")]
    Kind(String, String),
    /// A reference to a service has no name. Fields: path of the reference, kind.
    #[error("{0}.name: must be set with kind {1}")]
    Name(String, String),
    /// The action is unknown. Fields: index of the rule, action.
    #[error("spec.from[{0}].default.action: {1:?} is unknown: use Allow, Deny or AllowWithShadowDeny")]
    Action(usize, String),
}

impl InvalidPermission {
    /// Splits the error into field and message.
    pub(crate) fn problem(&self) -> Problem {
        Problem::of(self)
    }
}

// === conversion to the model ===

impl TryFrom<&MeshTrafficPermission> for model::TrafficPermission {
    type Error = InvalidPermission;

    fn try_from(permission: &MeshTrafficPermission) -> Result<Self, InvalidPermission> {
        let target = referenced_proxies(TARGET_FIELD, &permission.spec.target_ref)?;
        let mut target_tags = target.tags;
        if let Some(service) = target.service {
            target_tags.insert(model::tag::SERVICE.into(), service.as_str().into());
        }
        let rules = permission
            .spec
            .from
            .iter()
            .enumerate()
            .map(|(index, from)| rule(index, from));
        Ok(Self {
            target: target_tags,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

/// Path of the field that selects the inbounds of a permission.
pub(crate) const TARGET_FIELD: &str = "spec.targetRef";

/// Path of the field that selects the clients of a rule.
fn from_field(index: usize) -> String {
    format!("spec.from[{index}].targetRef")
}

/// Converts a rule. `index` is the position of the rule in `spec.from`, for errors.
pub(crate) fn rule(index: usize, from: &FromSpec) -> Result<model::PermissionRule, InvalidPermission> {
    // The spellings in capitals are those of old versions of Kuma.
    let action = match from.default.action.as_str() {
        "Allow" | "ALLOW" => model::Action::Allow,
        "Deny" | "DENY" => model::Action::Deny,
        "AllowWithShadowDeny" | "ALLOW_WITH_SHADOW_DENY" => model::Action::AllowWithShadowDeny,
        other => return Err(InvalidPermission::Action(index, other.to_owned())),
    };
    let clients = referenced_proxies(&from_field(index), &from.target_ref)?;
    Ok(model::PermissionRule {
        from: clients,
        action,
    })
}

/// Converts a reference into the service and the tags that the reference selects. `field` is the path of the reference,
/// for errors.
pub(crate) fn referenced_proxies(
    field: &str,
    reference: &TargetRef,
) -> Result<model::Principal, InvalidPermission> {
    let service = || {
        let name = reference.name.as_deref().filter(|name| !name.is_empty());
        name.map(model::ServiceName::new)
            .ok_or_else(|| InvalidPermission::Name(field.to_owned(), reference.kind.clone()))
    };
    Ok(match reference.kind.as_str() {
        "Mesh" => model::Principal::default(),
        "MeshSubset" => model::Principal {
            service: None,
            tags: reference.tags.clone(),
        },
        "MeshService" => model::Principal {
            service: Some(service()?),
            tags: model::Tags::new(),
        },
        "MeshServiceSubset" => model::Principal {
            service: Some(service()?),
            tags: reference.tags.clone(),
        },
        other => return Err(InvalidPermission::Kind(field.to_owned(), other.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn convert(target: serde_json::Value, from: serde_json::Value) -> model::TrafficPermission {
        let object = json!({"metadata": {"name": "p"}, "spec": {"targetRef": target, "from": from}});
        let permission: MeshTrafficPermission = serde_json::from_value(object).expect("a permission");
        model::TrafficPermission::try_from(&permission).expect("a valid permission")
    }

    fn tags(tags: &[(&str, &str)]) -> model::Tags {
        tags.iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn target_of_each_kind_selects_inbounds_by_tags() {
        let from = json!([]);
        let target = |target| convert(target, from.clone()).target;
        assert_eq!(target(json!({"kind": "Mesh"})), tags(&[]));
        assert_eq!(
            target(json!({"kind": "MeshSubset", "tags": {"version": "1"}})),
            tags(&[("version", "1")])
        );
        assert_eq!(
            target(json!({"kind": "MeshService", "name": "web_ns_svc_80"})),
            tags(&[("kuma.io/service", "web_ns_svc_80")])
        );
        assert_eq!(
            target(json!({"kind": "MeshServiceSubset", "name": "web_ns_svc_80", "tags": {"version": "1"}})),
            tags(&[("kuma.io/service", "web_ns_svc_80"), ("version", "1")])
        );
    }

    #[test]
    fn clients_of_a_rule_become_a_principal_with_the_action() {
        let from = json!([
            {"targetRef": {"kind": "Mesh"}, "default": {"action": "Deny"}},
            {"targetRef": {"kind": "MeshSubset", "tags": {"team": "a"}}, "default": {"action": "AllowWithShadowDeny"}},
            {"targetRef": {"kind": "MeshService", "name": "web_ns_svc_80"}, "default": {"action": "ALLOW"}},
        ]);
        let rules = convert(json!({"kind": "Mesh"}), from).rules;
        let service = Some(model::ServiceName::new("web_ns_svc_80"));
        let found: Vec<_> = rules
            .into_iter()
            .map(|rule| (rule.from.service, rule.from.tags, rule.action))
            .collect();
        assert_eq!(
            found,
            [
                (None, tags(&[]), model::Action::Deny),
                (None, tags(&[("team", "a")]), model::Action::AllowWithShadowDeny),
                (service, tags(&[]), model::Action::Allow),
            ]
        );
    }
}
