//! Tests which resources get a new version when the mesh changes. The control plane sends only these resources to
//! Envoy.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::collections::BTreeSet;

use kermode_envoy::ResourceKind::{self, Cluster, Endpoints, Listener};
use support::input::Input;

/// Returns a mesh with a client Pod and a server Pod. The server Pod has an inbound of a service with a ClusterIP, and
/// an inbound of a headless service. `settings` are lines of YAML. `is_ready` is the readiness of both inbounds.
fn mk_input(settings: &str, is_ready: bool) -> Input {
    Input::parse(&format!(
        "{settings}
proxy: client-0.demo
services:
  web_demo_svc_80: {{ addresses: [\"10.96.0.1:80\"] }}
  db_demo_svc_5432: {{ headless: true }}
dataplanes:
  client-0.demo: {{ address: 10.244.0.1 }}
  web-0.demo:
    address: 10.244.0.2
    inbound:
      - {{ port: 8080, ready: {is_ready}, tags: {{ kuma.io/service: web_demo_svc_80, kuma.io/protocol: http }} }}
      - {{ port: 5432, ready: {is_ready}, tags: {{ kuma.io/service: db_demo_svc_5432 }} }}
"
    ))
}

/// Returns the kinds and names of the resources that are new or have a new version.
fn changed_resources(before: &Input, after: &Input) -> BTreeSet<(ResourceKind, String)> {
    let versions = |input: &Input| -> BTreeSet<_> {
        let resources = input.resources().into_iter();
        resources
            .map(|resource| (resource.kind, resource.name.to_string(), resource.version))
            .collect()
    };
    versions(after)
        .difference(&versions(before))
        .map(|(kind, name, _)| (*kind, name.clone()))
        .collect()
}

#[test]
fn change_of_readiness_changes_only_endpoints() {
    let changed = changed_resources(&mk_input("", true), &mk_input("", false));
    // The resources of a headless service do not depend on readiness.
    assert_eq!(
        changed,
        BTreeSet::from([(Endpoints, "web_demo_svc_80".to_owned())])
    );
}

#[test]
fn enabling_mtls_changes_clusters_and_their_endpoints_but_no_outbound_listener_of_a_service() {
    let changed = changed_resources(&mk_input("", true), &mk_input("mtls: STRICT", true));
    assert!(changed.contains(&(Cluster, "web_demo_svc_80".to_owned())));
    assert!(changed.contains(&(Endpoints, "web_demo_svc_80".to_owned())));
    assert!(changed.contains(&(Cluster, "db_demo_svc_5432-_10.244.0.2:5432_".to_owned())));
    let outbound_listener_of_a_service = changed
        .iter()
        .find(|(kind, name)| *kind == Listener && name.starts_with("outbound:10."));
    assert_eq!(outbound_listener_of_a_service, None);
}

#[test]
fn resources_of_an_unchanged_mesh_keep_their_versions() {
    assert_eq!(
        changed_resources(&mk_input("mtls: STRICT", true), &mk_input("mtls: STRICT", true)),
        BTreeSet::new()
    );
}
