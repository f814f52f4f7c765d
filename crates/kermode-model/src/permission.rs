//! MeshTrafficPermission: the callers that an inbound allows, and the inbounds that a permission applies to.
//!
//! The mesh view holds one [`PermissionSet`] for each mesh. The set's rules for an inbound become Envoy's RBAC filter
//! in `kermode-envoy`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::{ObjectKey, ServiceName, Tags, tag};

/// One MeshTrafficPermission. Its `targetRef` is resolved to tags of inbounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficPermission {
    /// Tags that select inbounds: an inbound must have all of them. Empty tags select every inbound of the mesh.
    pub target: Tags,
    /// Rules in the order of the resource. For a caller that several rules match, the last one decides.
    pub rules: Vec<PermissionRule>,
}

/// Action for one group of callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionRule {
    /// The callers.
    pub from: Principal,
    /// Action for the connections of these callers.
    pub action: Action,
}

/// A group of callers, identified by the URIs in their certificates: one for the service, and one for each tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// The calling service; `None` for any service.
    pub service: Option<ServiceName>,
    /// Further tags. The certificate must contain the URIs of all these tags.
    pub tags: Tags,
}

/// Action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Allow the caller.
    Allow,
    /// Deny the caller.
    Deny,
    /// Allow the caller, but count the connection as one that `Deny` would close.
    AllowWithShadowDeny,
}

/// The permissions of one mesh, ordered by precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionSet(BTreeMap<Precedence, TrafficPermission>);

/// Position of a permission in its set; a later permission overrules an earlier one.
///
/// A permission whose target contains `kuma.io/service` overrules a permission whose target does not. If both
/// targets or neither contain it, the permission with more tags in its target overrules the other. With the same number
/// of tags, the permission whose name is first in the alphabet overrules the other, as in Kuma.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    /// Whether the target contains `kuma.io/service`.
    names_service: bool,
    /// Number of tags of the target.
    tag_count: usize,
    /// Reversed, so that the alphabetically first name comes last.
    key: Reverse<ObjectKey>,
}

// === impl TrafficPermission ===

impl TrafficPermission {
    /// Whether the permission applies to an inbound with these tags.
    pub fn selects(&self, inbound: &Tags) -> bool {
        self.target
            .iter()
            .all(|(key, value)| inbound.get(key) == Some(value))
    }
}

// === impl PermissionSet ===

impl PermissionSet {
    /// An empty set.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether there are no permissions.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the permission of the MeshTrafficPermission with the key.
    pub fn get(&self, key: &ObjectKey) -> Option<&TrafficPermission> {
        let mut permissions = self.0.iter();
        permissions
            .find(|(precedence, _)| precedence.key.0 == *key)
            .map(|(_, permission)| permission)
    }

    /// Adds or replaces the permission of a MeshTrafficPermission. Returns the replaced permission.
    pub fn insert(&mut self, key: ObjectKey, permission: TrafficPermission) -> Option<TrafficPermission> {
        let replaced = self.remove(&key);
        let precedence = Precedence {
            names_service: permission.target.contains_key(tag::SERVICE),
            tag_count: permission.target.len(),
            key: Reverse(key),
        };
        self.0.insert(precedence, permission);
        replaced
    }

    /// Removes and returns the permission of a MeshTrafficPermission.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<TrafficPermission> {
        let precedence = self.0.keys().find(|precedence| precedence.key.0 == *key)?.clone();
        self.0.remove(&precedence)
    }

    /// The rules that apply to an inbound with these tags, in ascending precedence: for a caller that several rules
    /// match, the last one decides.
    pub fn rules_for(&self, inbound: &Tags) -> Vec<&PermissionRule> {
        self.permissions_for(inbound)
            .flat_map(|(_, permission)| &permission.rules)
            .collect()
    }

    /// The permissions that apply to an inbound with these tags, in ascending precedence, with the keys of their
    /// MeshTrafficPermissions.
    pub fn permissions_for(
        &self,
        inbound: &Tags,
    ) -> impl DoubleEndedIterator<Item = (&ObjectKey, &TrafficPermission)> {
        self.0
            .iter()
            .filter(|(_, permission)| permission.selects(inbound))
            .map(|(precedence, permission)| (&precedence.key.0, permission))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(tags: &[(&str, &str)]) -> Tags {
        let pair = |(key, value): &(&str, &str)| ((*key).into(), (*value).into());
        tags.iter().map(pair).collect()
    }

    /// Returns a permission that allows the service `caller`.
    fn mk_permission(caller: &str, target: &[(&str, &str)]) -> TrafficPermission {
        TrafficPermission {
            target: tags(target),
            rules: vec![PermissionRule {
                from: Principal {
                    service: Some(caller.into()),
                    tags: Tags::new(),
                },
                action: Action::Allow,
            }],
        }
    }

    #[test]
    fn rules_are_ordered_by_specificity_and_then_by_descending_name() {
        let service = ("kuma.io/service", "web_ns_svc_80");
        let targets: [(&str, &[(&str, &str)]); 6] = [
            ("a-subset", &[("version", "1")]),
            ("b-service", &[service]),
            ("c-mesh", &[]),
            ("d-mesh", &[]),
            ("e-service-subset", &[service, ("version", "1")]),
            ("f-two-tags", &[("team", "x"), ("version", "1"), ("tier", "y")]),
        ];
        let mut set = PermissionSet::default();
        for (name, target) in targets {
            // The name is also the caller, so that the test can tell the rules apart.
            set.insert(ObjectKey::new("system", name), mk_permission(name, target));
        }
        let inbound = tags(&[service, ("version", "1"), ("team", "x"), ("tier", "y")]);
        let rules = set.rules_for(&inbound).into_iter();
        let callers: Vec<_> = rules
            .map(|rule| rule.from.service.as_ref().expect("a caller").as_str())
            .collect();
        let expected = [
            "d-mesh",
            "c-mesh",
            "a-subset",
            "f-two-tags",
            "b-service",
            "e-service-subset",
        ];
        assert_eq!(callers, expected);
    }

    #[test]
    fn permission_with_an_edited_target_replaces_the_old_permission() {
        let (mut set, key) = (PermissionSet::default(), ObjectKey::new("system", "a"));
        assert_eq!(set.insert(key.clone(), mk_permission("old", &[])), None);
        let edited = mk_permission("new", &[("version", "1")]);
        let old = mk_permission("old", &[]);
        assert_eq!(set.insert(key.clone(), edited.clone()), Some(old));
        assert_eq!(set.get(&key), Some(&edited));
        assert_eq!(set.rules_for(&Tags::new()), Vec::<&PermissionRule>::new());
        assert_eq!(set.remove(&key), Some(edited));
        assert!(set.is_empty());
    }

    #[test]
    fn permission_applies_to_inbounds_that_have_all_tags_of_its_target() {
        let inbound = tags(&[("kuma.io/service", "web"), ("version", "v1")]);
        let applies = |target: &[(&str, &str)]| mk_permission("any", target).selects(&inbound);
        assert!(applies(&[]));
        assert!(applies(&[("version", "v1")]));
        assert!(!applies(&[("version", "v2")]));
        assert!(!applies(&[("version", "v1"), ("team", "a")]));
    }
}
