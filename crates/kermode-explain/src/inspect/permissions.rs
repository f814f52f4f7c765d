//! MeshTrafficPermissions that apply to the inbounds of a Dataplane. The code of the control plane decides which apply, and
//! in which order.

use kermode_crds::{Dataplane, Mesh, MeshTrafficPermission};
use kermode_model::{Action, MtlsMode, ObjectKey, PermissionRule, PermissionSet, TrafficPermission, tag};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{InspectError, text};
use crate::explanation::{Line, lines_text};

/// Permissions of a Dataplane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Permissions {
    /// Mesh of the Dataplane.
    pub mesh: String,
    /// Whether the mesh has mTLS, without which permissions have no effect.
    pub mtls: MtlsState,
    /// Inbounds of the Dataplane.
    pub inbounds: Vec<InboundPermissions>,
    /// MeshTrafficPermissions of the mesh that are not valid, with the reason. The control plane keeps using their last
    /// valid version.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invalid: Vec<String>,
}

/// Mutual TLS of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MtlsState {
    /// Inbounds accept mTLS only.
    Strict,
    /// Inbounds also accept connections without mTLS, to which permissions do not apply.
    Permissive,
    /// Inbounds accept connections without mTLS only.
    Off,
    /// The Mesh does not exist or is not valid. The control plane keeps using its last valid version, if there is one.
    #[default]
    Unknown,
}

/// Permissions of one inbound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InboundPermissions {
    /// Port.
    pub port: u16,
    /// Service of the inbound.
    pub service: String,
    /// Permissions that select the inbound. The first rule of them that matches a caller decides; a caller without a
    /// matching rule is denied.
    pub permissions: Vec<AppliedPermission>,
}

/// A MeshTrafficPermission that selects an inbound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppliedPermission {
    /// Namespace and name of the MeshTrafficPermission.
    pub name: String,
    /// Rules, in descending precedence.
    pub rules: Vec<PermissionRuleReport>,
}

/// A rule of a MeshTrafficPermission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PermissionRuleReport {
    /// `Allow`, `Deny` or `AllowWithShadowDeny`.
    pub action: &'static str,
    /// Callers of the rule, such as `service web_shop_svc_80`.
    pub from: String,
}

impl MtlsState {
    fn of(mesh: Option<&Mesh>) -> Self {
        let mesh = mesh.map(kermode_model::Mesh::try_from);
        let Some(Ok(mesh)) = mesh else {
            return Self::Unknown;
        };
        match mesh.mtls.map(|mtls| mtls.mode) {
            None => Self::Off,
            Some(MtlsMode::Permissive) => Self::Permissive,
            Some(MtlsMode::Strict) => Self::Strict,
        }
    }
}

impl Permissions {
    /// Reports the permissions of a Dataplane. `mesh` is its Mesh, if it is known; `permissions` are the
    /// MeshTrafficPermissions in the namespace of the control plane.
    ///
    /// # Errors
    /// If an object cannot be decoded.
    pub fn new(dataplane: &Value, mesh: Option<&Value>, permissions: &[Value]) -> Result<Self, InspectError> {
        let dataplane: Dataplane = decode("Dataplane", dataplane)?;
        let mesh = mesh.map(|mesh| decode::<Mesh>("Mesh", mesh)).transpose()?;
        let (mut set, mut invalid) = (PermissionSet::new(), Vec::new());
        for permission in permissions {
            let permission: MeshTrafficPermission = decode("MeshTrafficPermission", permission)?;
            if permission.mesh() != dataplane.mesh {
                continue;
            }
            let metadata = &permission.metadata;
            let key = ObjectKey::new(
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.name.as_deref().unwrap_or_default(),
            );
            match TrafficPermission::try_from(&permission) {
                Ok(permission) => {
                    set.insert(key, permission);
                }
                Err(error) => invalid.push(format!("{key}: {error}")),
            }
        }
        let inbounds = dataplane
            .spec
            .networking
            .inbound
            .iter()
            .map(|inbound| InboundPermissions {
                port: inbound.port,
                service: inbound
                    .tags
                    .get(tag::SERVICE)
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                permissions: set
                    .permissions_for(&inbound.tags)
                    .rev()
                    .map(AppliedPermission::of)
                    .collect(),
            });
        Ok(Self {
            mesh: dataplane.mesh.clone(),
            mtls: MtlsState::of(mesh.as_ref()),
            inbounds: inbounds.collect(),
            invalid,
        })
    }

    /// Formats the permissions for people.
    pub fn to_text(&self) -> String {
        let mut lines = Vec::new();
        let mesh = &self.mesh;
        let state = match self.mtls {
            MtlsState::Strict => None,
            MtlsState::Permissive => Some(format!(
                "mTLS of Mesh {mesh} is PERMISSIVE: permissions do not apply to connections without mTLS"
            )),
            MtlsState::Off => Some(format!(
                "mTLS of Mesh {mesh} is off, so permissions have no effect: every client may call"
            )),
            MtlsState::Unknown => Some(format!(
                "Mesh {mesh} does not exist or is not valid, so it is not known whether permissions have an effect: run \
                 kubectl get mesh {mesh} -o yaml"
            )),
        };
        lines.extend(state.map(Line::new));
        if self.inbounds.is_empty() {
            lines.push(Line::new(
                "the Dataplane has no inbound, so permissions do not apply to it",
            ));
        }
        lines.extend(self.inbounds.iter().map(InboundPermissions::line));
        lines.extend(self.invalid.iter().map(|problem| {
            Line::new(format!(
                "MeshTrafficPermission {problem}; its last valid version applies"
            ))
        }));
        lines_text(&lines, 0)
    }
}

impl InboundPermissions {
    fn line(&self) -> Line {
        let Self {
            port,
            service,
            permissions,
        } = self;
        let line = Line::new(format!(
            "inbound {port}, service {service}: the first rule that matches the caller decides"
        ));
        let rules = permissions.iter().flat_map(|permission| {
            permission.rules.iter().map(|rule| {
                Line::new(format!(
                    "{} {} (MeshTrafficPermission {})",
                    rule.action, rule.from, permission.name
                ))
            })
        });
        line.with(rules).with([Line::new("Deny every other caller")])
    }
}

impl AppliedPermission {
    fn of((key, permission): (&ObjectKey, &TrafficPermission)) -> Self {
        Self {
            name: key.to_string(),
            rules: permission
                .rules
                .iter()
                .rev()
                .map(PermissionRuleReport::of)
                .collect(),
        }
    }
}

impl PermissionRuleReport {
    fn of(rule: &PermissionRule) -> Self {
        let service = rule
            .from
            .service
            .iter()
            .map(|service| format!("service {service}"));
        let tags = rule.from.tags.iter().map(|(key, value)| format!("{key}={value}"));
        let callers: Vec<String> = service.chain(tags).collect();
        Self {
            action: match rule.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
                Action::AllowWithShadowDeny => "AllowWithShadowDeny",
            },
            from: if callers.is_empty() {
                "every caller of the mesh".to_owned()
            } else {
                callers.join(", ")
            },
        }
    }
}

fn decode<T: DeserializeOwned>(kind: &'static str, object: &Value) -> Result<T, InspectError> {
    serde_json::from_value(object.clone()).map_err(|source| InspectError::Object {
        kind,
        name: text(&object["metadata"], "name"),
        source,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn permission(name: &str, mesh: &str, target: Value, from: Value) -> Value {
        json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "MeshTrafficPermission",
            "metadata": {"name": name, "namespace": "system", "labels": {"kuma.io/mesh": mesh}},
            "spec": {"targetRef": target, "from": from},
        })
    }

    fn rule(target: Value, action: &str) -> Value {
        json!({"targetRef": target, "default": {"action": action}})
    }

    fn dataplane() -> Value {
        json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "Dataplane", "mesh": "default",
            "metadata": {"name": "web-0", "namespace": "shop"},
            "spec": {"networking": {"address": "10.0.0.1", "inbound": [
                {"port": 8080, "tags": {"kuma.io/service": "web_shop_svc_80"}},
            ]}},
        })
    }

    fn mesh(mode: &str) -> Value {
        json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"},
            "spec": {"mtls": {"enabledBackend": "ca", "backends": [{"name": "ca", "type": "builtin", "mode": mode}]}},
        })
    }

    #[test]
    fn rules_are_listed_in_the_order_in_which_the_control_plane_applies_them() {
        let permissions = [
            permission(
                "all",
                "default",
                json!({"kind": "Mesh"}),
                json!([rule(json!({"kind": "Mesh"}), "Allow")]),
            ),
            permission(
                "other-mesh",
                "second",
                json!({"kind": "Mesh"}),
                json!([rule(json!({"kind": "Mesh"}), "Allow")]),
            ),
            permission(
                "web",
                "default",
                json!({"kind": "MeshService", "name": "web_shop_svc_80"}),
                json!([
                    rule(json!({"kind": "Mesh"}), "Deny"),
                    rule(
                        json!({"kind": "MeshService", "name": "cart_shop_svc_80"}),
                        "Allow"
                    ),
                ]),
            ),
        ];
        let report = Permissions::new(&dataplane(), Some(&mesh("STRICT")), &permissions).expect("a report");
        let expected = "\
inbound 8080, service web_shop_svc_80: the first rule that matches the caller decides
  Allow service cart_shop_svc_80 (MeshTrafficPermission system/web)
  Deny every caller of the mesh (MeshTrafficPermission system/web)
  Allow every caller of the mesh (MeshTrafficPermission system/all)
  Deny every other caller
";
        assert_eq!(report.to_text(), expected);
    }

    #[test]
    fn modes_in_which_permissions_do_not_apply_are_named() {
        let report = Permissions::new(&dataplane(), Some(&mesh("PERMISSIVE")), &[]).expect("a report");
        assert!(report.to_text().starts_with("mTLS of Mesh default is PERMISSIVE"));
        let off = json!({"apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}, "spec": {}});
        let report = Permissions::new(&dataplane(), Some(&off), &[]).expect("a report");
        assert!(report.to_text().starts_with("mTLS of Mesh default is off"));
        let invalid = json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"},
            "spec": {"mtls": {"enabledBackend": "missing"}},
        });
        for mesh in [None, Some(&invalid)] {
            let report = Permissions::new(&dataplane(), mesh, &[]).expect("a report");
            assert!(
                report
                    .to_text()
                    .starts_with("Mesh default does not exist or is not valid")
            );
        }
    }
}
