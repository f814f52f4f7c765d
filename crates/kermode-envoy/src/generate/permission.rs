//! MeshTrafficPermission as Envoy's RBAC filter (docs/reference/resources.md#meshtrafficpermission).
//!
//! For an HTTP protocol, the filter responds to denied requests. For other protocols, the filter closes the connection.
//! Kuma closes the connection for all protocols; the client's sidecar then reports an unavailable server.
//!
//! In a list of rules, the last rule that matches a caller decides. Envoy's policy instead allows a caller if any of
//! its principals matches the caller. Therefore, each allowing rule becomes a principal that excludes the callers of
//! later denying rules. Without an allowing rule, there is no policy, and Envoy denies all callers.
//!
//! Shadow rules only count callers in Envoy's statistics. The principals of shadow rules are generated in the same way.
//! They match the callers for which a rule with `AllowWithShadowDeny` decides.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule as PermissionKind;
use envoy_types::pb::envoy::config::rbac::v3::principal::{Authenticated, Identifier, Set};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as EnvoyRules, rbac::Action as EnvoyAction,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use kermode_model::{Action, MeshName, PermissionRule, PermissionSet, Tags};

use crate::names;
use crate::proto::{exact, http_filter, network_filter};

/// Name of the only policy of a filter.
const POLICY: &str = "MeshTrafficPermission";

/// The access rules of a port, which are the same at each address of the Pod.
#[derive(Clone)]
pub(crate) struct AccessRules {
    enforced: EnvoyRules,
    shadow: Option<EnvoyRules>,
}

/// The access rules of a port. `tags_of_inbounds` are the tags of each inbound of the port. The rules allow every
/// caller that the permissions allow for any of these inbounds.
pub(crate) fn rules(mesh: &MeshName, tags_of_inbounds: &[&Tags], permissions: &PermissionSet) -> AccessRules {
    let principals_of_all_inbounds = |is_wanted: fn(Action) -> bool| {
        let mut all = Vec::new();
        for tags in tags_of_inbounds {
            for principal in principals(mesh, &permissions.rules_for(tags), is_wanted) {
                if !all.contains(&principal) {
                    all.push(principal);
                }
            }
        }
        all
    };
    let allowed = principals_of_all_inbounds(|action| action != Action::Deny);
    let shadow_denied = principals_of_all_inbounds(|action| action == Action::AllowWithShadowDeny);
    AccessRules {
        enforced: envoy_rules(EnvoyAction::Allow, allowed),
        shadow: (!shadow_denied.is_empty()).then(|| envoy_rules(EnvoyAction::Deny, shadow_denied)),
    }
}

// === impl AccessRules ===

impl AccessRules {
    /// Whether the rules allow every caller, and count none.
    pub(crate) fn allow_every_caller(&self) -> bool {
        let policies = self.enforced.policies.values();
        let mut principals = policies.flat_map(|policy| &policy.principals);
        self.shadow.is_none() && principals.any(|principal| *principal == any_caller())
    }

    /// The filter that closes connections of denied callers.
    pub(crate) fn network_filter(self, listener: &str) -> Filter {
        let rbac = NetworkRbac {
            rules: Some(self.enforced),
            shadow_rules: self.shadow,
            // Envoy puts no dot between the prefix and the name of a statistic.
            stat_prefix: format!("{}.", names::stat_name(listener)),
            ..Default::default()
        };
        network_filter("envoy.filters.network.rbac", &rbac)
    }

    /// The filter that responds to requests of denied callers with 403.
    pub(crate) fn http_filter(self) -> HttpFilter {
        let rbac = HttpRbac {
            rules: Some(self.enforced),
            shadow_rules: self.shadow,
            ..Default::default()
        };
        http_filter("envoy.filters.http.rbac", &rbac)
    }
}

/// Principals that match exactly the callers for which the deciding rule, the last rule that matches the caller, has an
/// action that `is_wanted` accepts.
fn principals(mesh: &MeshName, rules: &[&PermissionRule], is_wanted: fn(Action) -> bool) -> Vec<Principal> {
    let mut principals: Vec<Principal> = Vec::new();
    for (position, rule) in rules.iter().enumerate() {
        if !is_wanted(rule.action) {
            continue;
        }
        let mut excluded: Vec<_> = rules
            .iter()
            .skip(position + 1)
            .filter(|later| !is_wanted(later.action))
            .map(|later| callers_of(mesh, later))
            .collect();
        excluded.dedup();
        let callers = callers_of(mesh, rule);
        // A later rule may exclude all callers of this rule.
        if excluded.contains(&any_caller()) || excluded.contains(&callers) {
            continue;
        }
        let principal = except(callers, excluded);
        if !principals.contains(&principal) {
            principals.push(principal);
        }
    }
    principals
}

/// Matches the callers that a rule selects: their certificates contain the URIs of the rule's service and tags.
fn callers_of(mesh: &MeshName, rule: &PermissionRule) -> Principal {
    let service = rule
        .from
        .service
        .iter()
        .map(|service| names::spiffe_id(mesh, service));
    let tags = rule
        .from
        .tags
        .iter()
        .map(|(key, value)| names::tag_uri(key, value));
    let uris: Vec<_> = service.chain(tags).map(has_uri).collect();
    all_of(uris)
}

/// Matches callers whose certificate contains the URI.
fn has_uri(uri: String) -> Principal {
    principal(Identifier::Authenticated(Authenticated {
        principal_name: Some(exact(uri)),
    }))
}

/// Matches each caller that `callers` matches and no principal in `excluded` matches.
fn except(callers: Principal, excluded: Vec<Principal>) -> Principal {
    if excluded.is_empty() {
        return callers;
    }
    let not_excluded = excluded
        .into_iter()
        .map(|excluded| principal(Identifier::NotId(Box::new(excluded))));
    let callers = (callers != any_caller()).then_some(callers);
    all_of(callers.into_iter().chain(not_excluded).collect())
}

/// Matches each caller that all principals in `ids` match.
fn all_of(mut ids: Vec<Principal>) -> Principal {
    match ids.len() {
        0 => any_caller(),
        1 => ids.remove(0),
        _ => principal(Identifier::AndIds(Set { ids })),
    }
}

fn any_caller() -> Principal {
    principal(Identifier::Any(true))
}

fn principal(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

fn envoy_rules(action: EnvoyAction, principals: Vec<Principal>) -> EnvoyRules {
    let any_request = Permission {
        rule: Some(PermissionKind::Any(true)),
    };
    // At most one entry: the encoded order of several entries would not be deterministic.
    let mut policies = HashMap::new();
    if !principals.is_empty() {
        let policy = Policy {
            permissions: vec![any_request],
            principals,
            ..Default::default()
        };
        policies.insert(POLICY.to_owned(), policy);
    }
    EnvoyRules {
        action: action.into(),
        policies,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
