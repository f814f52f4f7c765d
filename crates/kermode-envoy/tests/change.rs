//! Resources whose versions change with a change of the mesh: the resources that Envoy is sent.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::collections::BTreeSet;

use kermode_envoy::ResourceKind::{self, Cluster, Endpoints, Listener};
use support::input::Input;

/// A client of a service with a `ClusterIP` and of a headless one.
fn mk_input(head: &str, ready: bool) -> Input {
    Input::parse(&format!(
        "{head}
proxy: client-0.demo
services:
  web_demo_svc_80: {{ addresses: [\"10.96.0.1:80\"] }}
  db_demo_svc_5432: {{ headless: true }}
dataplanes:
  client-0.demo: {{ address: 10.244.0.1 }}
  web-0.demo:
    address: 10.244.0.2
    inbound:
      - {{ port: 8080, ready: {ready}, tags: {{ kuma.io/service: web_demo_svc_80, kuma.io/protocol: http }} }}
      - {{ port: 5432, ready: {ready}, tags: {{ kuma.io/service: db_demo_svc_5432 }} }}
"
    ))
}

fn changed(before: &Input, after: &Input) -> BTreeSet<(ResourceKind, String)> {
    let versions = |input: &Input| -> BTreeSet<_> {
        let resources = input.resources().into_iter();
        resources
            .map(|resource| (resource.kind, resource.name.to_string(), resource.version))
            .collect()
    };
    let (before, after) = (versions(before), versions(after));
    after
        .difference(&before)
        .map(|(kind, name, _)| (*kind, name.clone()))
        .collect()
}

#[test]
fn change_of_readiness_changes_only_endpoints() {
    let changed = changed(&mk_input("", true), &mk_input("", false));
    assert_eq!(
        changed,
        BTreeSet::from([(Endpoints, "web_demo_svc_80".to_owned())])
    );
}

#[test]
fn mtls_changes_clusters_and_their_endpoints_but_no_outbound_listener() {
    let changed = changed(&mk_input("", true), &mk_input("mtls: STRICT", true));
    assert!(changed.contains(&(Cluster, "web_demo_svc_80".to_owned())));
    assert!(changed.contains(&(Endpoints, "web_demo_svc_80".to_owned())));
    assert!(changed.contains(&(Cluster, "db_demo_svc_5432-_10.244.0.2:5432_".to_owned())));
    let outbound =
        |(kind, name): &&(ResourceKind, String)| *kind == Listener && name.starts_with("outbound:10.");
    assert_eq!(changed.iter().find(outbound), None);
}

#[test]
fn equal_mesh_changes_nothing() {
    assert_eq!(
        changed(&mk_input("mtls: STRICT", true), &mk_input("mtls: STRICT", true)),
        BTreeSet::new()
    );
}
