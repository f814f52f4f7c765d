//! One Dataplane in depth: inbounds with their tags and permissions, and what the sidecar has acknowledged. Pure.

use kermode_model::view::MeshView;
use kermode_model::{Action, Dataplane, Inbound, Mesh, MtlsMode, ObjectKey, PermissionRule, Tags};
use kermode_protocol::debug::ConnectedProxy;
use serde::Serialize;

use crate::dataplanes::SyncState;

/// Maximum number of permission rules of an inbound. Bounds the size of the response.
const MAX_RULES: usize = 100;

/// One Dataplane.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail {
    /// Namespace and name of the Pod, `namespace/name`.
    pub name: String,
    /// Mesh of the proxy.
    pub mesh: String,
    /// mTLS of the mesh.
    pub mtls: MtlsState,
    /// IPs of the Pod.
    pub addresses: Vec<String>,
    /// Tags of the gateway; absent if the Pod is no gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Tags>,
    /// Services that the proxy is configured for; absent if it is configured for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reachable_services: Option<Vec<String>>,
    /// Inbounds of the Pod.
    pub inbounds: Vec<InboundDetail>,
    /// State of the configuration.
    pub state: SyncState,
    /// Expiry of the last certificate that this replica issued to the workload, in seconds since the Unix epoch; absent if
    /// it issued none since its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_not_after: Option<u64>,
    /// Versions and last rejection; absent if the proxy is not connected to this replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ConnectedProxy>,
}

/// One inbound.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboundDetail {
    /// Port of the container.
    pub port: u16,
    /// Whether the inbound may receive traffic.
    pub ready: bool,
    /// Application protocol.
    pub protocol: &'static str,
    /// Tags.
    pub tags: Tags,
    /// Rules that apply to the inbound, in ascending precedence: of several rules that match a caller, the last one
    /// decides.
    pub permissions: Vec<RuleDetail>,
    /// Number of further rules that `permissions` leaves out, because there are too many.
    pub omitted_permissions: usize,
}

/// One rule of a permission.
#[derive(Clone, Debug, Serialize)]
pub struct RuleDetail {
    /// Service of the callers; absent for any service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Tags that callers must have.
    pub tags: Tags,
    /// Action for these callers.
    pub action: RuleAction,
}

/// Action of a rule, in the spelling of MeshTrafficPermissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RuleAction {
    /// Callers are allowed.
    Allow,
    /// Callers are denied.
    Deny,
    /// Callers are allowed, and counted as denied.
    AllowWithShadowDeny,
}

/// mTLS of a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MtlsState {
    /// The Mesh does not exist.
    NoMesh,
    /// No mTLS: permissions do not apply.
    Disabled,
    /// Inbounds also accept plain text, to which permissions do not apply.
    Permissive,
    /// Inbounds accept only mTLS.
    Strict,
}

impl From<Option<&Mesh>> for MtlsState {
    fn from(mesh: Option<&Mesh>) -> Self {
        match mesh.map(|mesh| &mesh.mtls) {
            None => Self::NoMesh,
            Some(None) => Self::Disabled,
            Some(Some(mtls)) if mtls.mode == MtlsMode::Strict => Self::Strict,
            Some(Some(_)) => Self::Permissive,
        }
    }
}

impl From<Action> for RuleAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
            Action::AllowWithShadowDeny => Self::AllowWithShadowDeny,
        }
    }
}

impl Detail {
    /// Returns a Dataplane of the view, without the state of its proxy. `None` if the Dataplane does not exist.
    pub fn find(view: &MeshView, key: &ObjectKey) -> Option<Self> {
        let dataplane = view.dataplane(key)?;
        let Dataplane { mesh, gateway, .. } = &**dataplane;
        Some(Self {
            name: format!("{}/{}", key.namespace, key.name),
            mesh: mesh.to_string(),
            mtls: view.mesh(mesh).map(|mesh| &**mesh).into(),
            addresses: dataplane.addresses().map(|address| address.to_string()).collect(),
            gateway: gateway.as_ref().map(|gateway| gateway.tags.clone()),
            reachable_services: dataplane.reachable_services().map(<[String]>::to_vec),
            inbounds: dataplane
                .inbounds
                .iter()
                .filter(|inbound| !inbound.is_placeholder())
                .map(|inbound| inbound_detail(view, dataplane, inbound))
                .collect(),
            state: SyncState::NotConnected,
            certificate_not_after: None,
            proxy: None,
        })
    }
}

fn inbound_detail(view: &MeshView, dataplane: &Dataplane, inbound: &Inbound) -> InboundDetail {
    let rules = view.permissions(&dataplane.mesh).rules_for(&inbound.tags);
    // The last rules decide, so the first ones are left out.
    let omitted_permissions = rules.len().saturating_sub(MAX_RULES);
    InboundDetail {
        port: inbound.port,
        ready: inbound.is_ready(),
        protocol: inbound.protocol().as_str(),
        tags: inbound.tags.clone(),
        permissions: rules
            .into_iter()
            .skip(omitted_permissions)
            .map(rule_detail)
            .collect(),
        omitted_permissions,
    }
}

fn rule_detail(rule: &PermissionRule) -> RuleDetail {
    RuleDetail {
        service: rule.from.service.as_ref().map(ToString::to_string),
        tags: rule.from.tags.clone(),
        action: rule.action.into(),
    }
}
