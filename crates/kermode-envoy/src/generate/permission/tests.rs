//! Tests that rules and generated principals are equivalent, for all lists of up to three rules.

use super::*;
use kermode_model::{ObjectKey, Principal as Caller, ServiceName, TrafficPermission};

const ACTIONS: [Action; 3] = [Action::Allow, Action::Deny, Action::AllowWithShadowDeny];

fn mesh() -> MeshName {
    "default".into()
}

fn mk_caller(service: Option<&str>, tags: &[(&str, &str)]) -> Caller {
    let tags = tags
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    Caller {
        service: service.map(ServiceName::from),
        tags,
    }
}

fn every_rule() -> Vec<PermissionRule> {
    let callers = [
        mk_caller(None, &[]),
        mk_caller(Some("a"), &[]),
        mk_caller(Some("b"), &[]),
        mk_caller(None, &[("role", "x")]),
        mk_caller(Some("a"), &[("role", "x")]),
    ];
    let rules_from = |from: &Caller| {
        ACTIONS.map(|action| PermissionRule {
            from: from.clone(),
            action,
        })
    };
    callers.iter().flat_map(rules_from).collect()
}

/// Returns the URIs of each possible certificate: every combination of the URIs in the rules.
fn every_certificate() -> Vec<Vec<&'static str>> {
    let uris = ["spiffe://default/a", "spiffe://default/b", "kuma://role/x"];
    (0..8_u8)
        .map(|bits| {
            uris.iter()
                .enumerate()
                .filter(|(bit, _)| bits & (1 << bit) != 0)
                .map(|(_, uri)| *uri)
                .collect()
        })
        .collect()
}

/// Returns whether a principal matches a certificate with the URIs, according to Envoy's documentation.
fn matches(principal: &Principal, uris: &[&str]) -> bool {
    match principal.identifier.as_ref().expect("an identifier") {
        Identifier::Any(any) => *any,
        Identifier::AndIds(set) => set.ids.iter().all(|id| matches(id, uris)),
        Identifier::NotId(id) => !matches(id, uris),
        Identifier::Authenticated(authenticated) => uris
            .iter()
            .any(|uri| authenticated.principal_name == Some(exact(*uri))),
        other => panic!("unexpected identifier: {other:?}"),
    }
}

/// Returns the action of the last rule that matches a certificate with the URIs, as in Kuma's documentation.
fn verdict(rules: &[&PermissionRule], uris: &[&str]) -> Option<Action> {
    let matches_uris = |rule: &&&PermissionRule| {
        let service = rule
            .from
            .service
            .as_ref()
            .map(|service| format!("spiffe://default/{service}"));
        let tags = rule
            .from
            .tags
            .iter()
            .map(|(key, value)| format!("kuma://{key}/{value}"));
        service
            .into_iter()
            .chain(tags)
            .all(|uri| uris.contains(&uri.as_str()))
    };
    rules.iter().rev().find(matches_uris).map(|rule| rule.action)
}

/// Asserts that rules which need no filter allow every certificate without a shadow denial.
fn check_absence_of_a_filter(rules: &[&PermissionRule]) {
    let permission = TrafficPermission {
        target: Tags::new(),
        rules: rules.iter().map(|rule| (*rule).clone()).collect(),
    };
    let mut permissions = PermissionSet::default();
    permissions.insert(ObjectKey::new("system", "p"), permission);
    let access = super::rules(&mesh(), &[&Tags::new()], &permissions);
    let all_allowed = every_certificate()
        .iter()
        .all(|uris| verdict(rules, uris) == Some(Action::Allow));
    if access.allow_every_caller() {
        assert!(
            all_allowed,
            "no filter for rules that exclude a caller: {rules:#?}"
        );
    }
    // A list whose last rule allows all callers needs no filter.
    let is_for_all = |rule: &&PermissionRule| rule.from == Caller::default();
    if rules
        .last()
        .is_some_and(|rule| is_for_all(rule) && rule.action == Action::Allow)
    {
        assert!(access.allow_every_caller(), "a filter for {rules:#?}");
    }
}

/// Asserts for every certificate that the generated principals and the rules agree in two respects: whether the
/// certificate is allowed, and whether it is allowed with a shadow denial.
fn check_rules(rules: &[&PermissionRule]) {
    check_absence_of_a_filter(rules);
    for uris in every_certificate() {
        let is_matched = |is_wanted: fn(Action) -> bool| {
            principals(&mesh(), rules, is_wanted)
                .iter()
                .any(|principal| matches(principal, &uris))
        };
        let verdict = verdict(rules, &uris);
        assert_eq!(
            is_matched(|action| action != Action::Deny),
            verdict.is_some_and(|action| action != Action::Deny),
            "the filter and the rules disagree whether {uris:?} is allowed: {rules:#?}",
        );
        assert_eq!(
            is_matched(|action| action == Action::AllowWithShadowDeny),
            verdict == Some(Action::AllowWithShadowDeny),
            "the filter and the rules disagree whether {uris:?} is shadow-denied: {rules:#?}",
        );
    }
}

#[test]
fn last_matching_rule_decides_for_every_certificate() {
    let rules = every_rule();
    check_rules(&[]);
    for a in &rules {
        check_rules(&[a]);
        for b in &rules {
            check_rules(&[a, b]);
            for c in &rules {
                check_rules(&[a, b, c]);
            }
        }
    }
}
