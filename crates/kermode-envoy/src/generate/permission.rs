//! MeshTrafficPermission as Envoy's RBAC filter (docs/reference/resources.md#meshtrafficpermission).
//!
//! In a list of rules, the last rule that matches the caller decides; in Envoy's policy, any match allows. Therefore
//! each rule becomes a principal that matches the rule's callers, except those that a later rule with a different action
//! matches. Without an allowing rule, the list of principals is empty, and Envoy denies all callers.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule as PermissionKind;
use envoy_types::pb::envoy::config::rbac::v3::principal::{Authenticated, Identifier, Set};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, rbac::Action as Verdict,
};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;
use kermode_model::{Action, MeshName, PermissionRule, PermissionSet, Tags};

use crate::names;
use crate::proto::{exact, network_filter};

const POLICY: &str = "MeshTrafficPermission";

/// The RBAC filter of a listener. If several inbounds share the listener, it allows every caller that is allowed for
/// any of them.
pub(crate) fn filter(
    mesh: &MeshName,
    listener: &str,
    inbounds: &[&Tags],
    permissions: &PermissionSet,
) -> Filter {
    let of_all_inbounds = |wanted: fn(Action) -> bool| {
        let mut all = Vec::new();
        for tags in inbounds {
            for principal in principals(mesh, &permissions.rules_for(tags), wanted) {
                if !all.contains(&principal) {
                    all.push(principal);
                }
            }
        }
        all
    };
    let allowed = of_all_inbounds(|action| action != Action::Deny);
    let shadow_denied = of_all_inbounds(|action| action == Action::AllowWithShadowDeny);
    let rbac = Rbac {
        rules: Some(envoy_rules(Verdict::Allow, allowed)),
        shadow_rules: (!shadow_denied.is_empty()).then(|| envoy_rules(Verdict::Deny, shadow_denied)),
        stat_prefix: format!("{}.", names::stat(listener)),
        ..Default::default()
    };
    network_filter("envoy.filters.network.rbac", &rbac)
}

/// Principals of the callers whose last matching rule has one of the wanted actions.
fn principals(mesh: &MeshName, rules: &[&PermissionRule], wanted: fn(Action) -> bool) -> Vec<Principal> {
    let mut found: Vec<Principal> = Vec::new();
    for (position, rule) in rules.iter().enumerate().filter(|(_, rule)| wanted(rule.action)) {
        let mut excluded: Vec<_> = rules
            .iter()
            .skip(position + 1)
            .filter(|later| !wanted(later.action))
            .map(|later| caller(mesh, later))
            .collect();
        excluded.dedup();
        let caller = caller(mesh, rule);
        if excluded.contains(&any()) || excluded.contains(&caller) {
            continue;
        }
        let principal = except(caller, excluded);
        if !found.contains(&principal) {
            found.push(principal);
        }
    }
    found
}

fn caller(mesh: &MeshName, rule: &PermissionRule) -> Principal {
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
    let uris: Vec<_> = service.chain(tags).map(certified).collect();
    all_of(uris)
}

fn certified(uri: String) -> Principal {
    of(Identifier::Authenticated(Authenticated {
        principal_name: Some(exact(uri)),
    }))
}

fn except(caller: Principal, excluded: Vec<Principal>) -> Principal {
    if excluded.is_empty() {
        return caller;
    }
    let nots = excluded
        .into_iter()
        .map(|other| of(Identifier::NotId(Box::new(other))));
    let caller = (caller != any()).then_some(caller);
    all_of(caller.into_iter().chain(nots).collect())
}

fn all_of(mut ids: Vec<Principal>) -> Principal {
    match ids.len() {
        0 => any(),
        1 => ids.remove(0),
        _ => of(Identifier::AndIds(Set { ids })),
    }
}

fn any() -> Principal {
    of(Identifier::Any(true))
}

fn of(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

fn envoy_rules(action: Verdict, principals: Vec<Principal>) -> Rules {
    let any = Permission {
        rule: Some(PermissionKind::Any(true)),
    };
    let policy = Policy {
        permissions: vec![any],
        principals,
        ..Default::default()
    };
    // Never more than one entry: with more, the encoded order would not be deterministic.
    let policies = HashMap::from([(POLICY.to_owned(), policy)]);
    let policies = policies
        .into_iter()
        .filter(|(_, policy)| !policy.principals.is_empty())
        .collect();
    Rules {
        action: action.into(),
        policies,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
