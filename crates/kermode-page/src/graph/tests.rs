use kermode_model::view::SliceEndpoint;
use kermode_model::{
    Action, CertificateAuthority, Mesh, Mtls, MtlsMode, ObjectKey, PermissionRule, Principal,
    TrafficPermission, TransparentProxying, tag,
};

use super::*;
use crate::dataplanes::tests::mk_dataplane;

/// Returns a view with the services `web`, `api` and `db` of the namespace `shop`, and a STRICT mesh.
fn mk_view() -> MeshView {
    let mut view = MeshView::default();
    for name in ["web", "api", "db"] {
        view.upsert_dataplane(Dataplane {
            address: [10, 0, 0, name.as_bytes()[0]].into(),
            ..mk_dataplane("shop", name)
        });
    }
    view.upsert_mesh(Mesh {
        mtls: Some(Mtls {
            backend: "ca-1".to_owned(),
            mode: MtlsMode::Strict,
            authority: CertificateAuthority::Builtin,
            certificate_lifetime: std::time::Duration::from_hours(24),
        }),
        ..Mesh::new("default")
    });
    view
}

fn rule(caller: Option<&str>, action: Action) -> PermissionRule {
    PermissionRule {
        from: Principal {
            service: caller.map(ServiceName::from),
            tags: Tags::new(),
        },
        action,
    }
}

/// Adds a permission of the service `api`, or of all services.
fn permit(view: &mut MeshView, name: &str, target: Option<&str>, rules: Vec<PermissionRule>) {
    let target = target.map(|service| (tag::SERVICE.into(), service.into()));
    let permission = TrafficPermission {
        target: target.into_iter().collect(),
        rules,
    };
    view.upsert_permission(
        &ObjectKey::new("kong-mesh-system", name),
        &"default".into(),
        permission,
    );
}

fn graph(view: &MeshView) -> Graph {
    Graph::from(GraphInput::new(view, &"default".into()))
}

/// Returns the edges as text.
fn edges(graph: &Graph) -> Vec<String> {
    let text = |edge: &Edge| {
        let action = edge.action.map_or("-".to_owned(), |action| format!("{action:?}"));
        format!("{}>{} {action} {}", edge.from, edge.to, edge.reachable)
    };
    graph.edges.iter().map(text).collect()
}

#[test]
fn edges_are_the_callers_that_permissions_name() {
    let mut view = mk_view();
    permit(&mut view, "all", None, vec![rule(None, Action::Allow)]);
    let rules = vec![
        rule(None, Action::Deny),
        rule(Some("web_shop_svc_80"), Action::Allow),
    ];
    permit(&mut view, "api", Some("api_shop_svc_80"), rules);
    let graph = graph(&view);
    assert_eq!(edges(&graph), ["web_shop_svc_80>api_shop_svc_80 Allow false"]);
    let others: Vec<_> = graph
        .services
        .iter()
        .map(|service| (service.name.as_str(), service.others))
        .collect();
    let expected = [
        ("api_shop_svc_80", Some(RuleAction::Deny)),
        ("db_shop_svc_80", Some(RuleAction::Allow)),
        ("web_shop_svc_80", Some(RuleAction::Allow)),
    ];
    assert_eq!(others, expected);
}

#[test]
fn last_rule_that_matches_the_caller_decides() {
    let mut view = mk_view();
    let rules = vec![
        rule(Some("web_shop_svc_80"), Action::Allow),
        rule(None, Action::Deny),
    ];
    permit(&mut view, "api", Some("api_shop_svc_80"), rules);
    assert_eq!(
        edges(&graph(&view)),
        ["web_shop_svc_80>api_shop_svc_80 Deny false"]
    );
}

#[test]
fn reachable_services_are_edges_with_their_permission() {
    let mut view = mk_view();
    view.upsert_dataplane(Dataplane {
        transparent_proxying: Some(TransparentProxying {
            redirect_port_inbound: 15006,
            redirect_port_inbound_v6: None,
            redirect_port_outbound: 15001,
            direct_access_services: Vec::new(),
            reachable_services: vec!["db_shop_svc_80".to_owned(), "*".to_owned()],
        }),
        ..mk_dataplane("shop", "web")
    });
    assert_eq!(edges(&graph(&view)), ["web_shop_svc_80>db_shop_svc_80 Deny true"]);
    view.upsert_mesh(Mesh::new("default"));
    let without_mtls = graph(&view);
    assert_eq!(without_mtls.mtls, MtlsState::Disabled);
    assert_eq!(
        edges(&without_mtls),
        ["web_shop_svc_80>db_shop_svc_80 Allow true"]
    );
}

#[test]
fn rule_with_tags_makes_the_edge_conditional() {
    let mut view = mk_view();
    let mut with_tags = rule(Some("web_shop_svc_80"), Action::Allow);
    with_tags.from.tags.insert("version".into(), "1".into());
    permit(&mut view, "api", Some("api_shop_svc_80"), vec![with_tags]);
    assert!(graph(&view).edges[0].conditional);
}

#[test]
fn rule_for_tags_of_any_service_does_not_apply_to_callers_without_them() {
    let mut view = mk_view();
    let mut with_tags = rule(None, Action::Allow);
    with_tags.from.tags.insert("version".into(), "2".into());
    permit(&mut view, "api", Some("api_shop_svc_80"), vec![with_tags.clone()]);
    let api = graph(&view).services.swap_remove(0);
    assert_eq!(
        (api.others, api.others_conditional),
        (Some(RuleAction::Deny), true)
    );
    let rules = vec![with_tags, rule(None, Action::Allow)];
    permit(&mut view, "api", Some("api_shop_svc_80"), rules);
    let api = graph(&view).services.swap_remove(0);
    assert_eq!(
        (api.others, api.others_conditional),
        (Some(RuleAction::Allow), false)
    );
}

#[test]
fn permissions_are_not_applicable_to_a_service_without_an_inbound() {
    let mut view = mk_view();
    let endpoint = SliceEndpoint {
        identity: None,
        ready: true,
    };
    let endpoints = [(([10, 0, 1, 1], 80).into(), endpoint)].into();
    view.set_slice_endpoints(&"default".into(), &"external_shop_svc_80".into(), endpoints);
    let graph = graph(&view);
    let external = graph
        .services
        .iter()
        .find(|service| service.name.as_str() == "external_shop_svc_80");
    assert_eq!(
        external.map(|service| (service.ready, service.others)),
        Some((1, None))
    );
}

#[test]
fn size_is_bounded() {
    let mut view = mk_view();
    let rules = (0..3_000).map(|number| rule(Some(&format!("caller-{number}")), Action::Allow));
    permit(&mut view, "api", Some("api_shop_svc_80"), rules.collect());
    let graph = graph(&view);
    assert_eq!(graph.edges.len(), MAX_EDGES);
    assert!(graph.truncated);
}
