//! Who may call whom: MeshTrafficPermission in the form that Envoy's RBAC filter needs.

use crate::{ServiceName, Tags};

/// One MeshTrafficPermission, its target already resolved against the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficPermission {
    /// Inbounds it applies to: all whose tags include these. Empty: every inbound of the mesh.
    pub target: Tags,
    /// Rules in the order of the resource; a later rule for the same principal wins.
    pub rules: Vec<PermissionRule>,
}

/// What one group of callers may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionRule {
    /// The callers.
    pub from: Principal,
    /// Whether they may call.
    pub action: Action,
}

/// A group of callers, recognised by the URIs of their certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// The calling service; any when absent.
    pub service: Option<ServiceName>,
    /// Further tags that the certificate must carry, all of them.
    pub tags: Tags,
}

/// The verdict of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the call through.
    Allow,
    /// Refuse it.
    Deny,
    /// Let it through, and count it as one that a Deny would have refused.
    AllowWithShadowDeny,
}
